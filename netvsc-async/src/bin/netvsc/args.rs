//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

const AFTER: &str = "\
DEVICE is the device instance (a GUID, works at any time), or while the kernel's driver has the adapter its interface
name or MAC address, or once it is bound its node (uio0). Paths that end in one of these are fine.
The virtual function of a NIC with accelerated networking has the same MAC address but cannot be bound: the synthetic
adapter is meant.

Exit codes:
  0  done, or nothing to do
  1  the system refused; everything is as it was
  2  wrong usage
  3  no such adapter, or several; the candidates are listed with why each was refused
  4  the adapter carries the default route or this login session; --force overrides
  5  the driver is not loaded
  6  failed halfway and could not be undone; repair with: netvsc unbind DEVICE

Examples:
  netvsc list
  netvsc bind eth1 --dry-run
  netvsc run eth1 -- sh -c './appliance --device $NETVSC_DEVICE'
  netvsc unbind ed963694-e847-4b2a-85af-bc9cfc11d6f3";

/// Bind network adapters of Hyper-V and Azure to uio_hv_generic, so that programs can drive them, and give them back to
/// the kernel (hv_netvsc).
#[derive(Debug, Parser)]
#[command(name = "netvsc", version, after_help = AFTER)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// Where sysfs is mounted.
    #[arg(long, global = true, value_name = "DIR", default_value = "/sys")]
    pub(crate) sysfs: PathBuf,

    /// Where procfs is mounted; the routes are read there.
    #[arg(long, global = true, value_name = "DIR", default_value = "/proc")]
    pub(crate) proc: PathBuf,

    /// Print JSON for scripts: one value on one line, errors included.
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the network adapters: instance, interface, MAC address, driver, virtual functions, what they carry.
    List {
        /// Every device of the VMBus, not only network adapters.
        #[arg(long)]
        all: bool,
    },
    /// Show one adapter.
    Status {
        /// Which adapter (see below).
        #[arg(value_name = "DEVICE")]
        device: String,
    },
    /// Bind an adapter to uio_hv_generic, and leave it so.
    ///
    /// Uses driver_override where the kernel has it (4.18 and later), else new_id. Undoes what fails halfway. The
    /// interface vanishes with its addresses and routes.
    Bind {
        /// Which adapter (see netvsc --help).
        #[arg(value_name = "DEVICE")]
        device: String,
        /// Print what would be written, as shell commands, and write nothing.
        #[arg(long)]
        dry_run: bool,
        /// Bind it even if it carries the default route or this login session.
        #[arg(long)]
        force: bool,
    },
    /// Give an adapter back to hv_netvsc, also one that a crash left without a driver.
    ///
    /// End the program that drives it first. Addresses and routes do not come back by themselves.
    Unbind {
        /// Which adapter (see netvsc --help).
        #[arg(value_name = "DEVICE")]
        device: String,
        /// Print what would be written, as shell commands, and write nothing.
        #[arg(long)]
        dry_run: bool,
        /// For symmetry with bind; nothing is refused here.
        #[arg(long, hide = true)]
        force: bool,
    },
    /// Bind an adapter, run a command, and give the adapter back when the command ends, however it does.
    ///
    /// The command finds the instance in NETVSC_DEVICE and the node's path in NETVSC_UIO. SIGTERM and SIGINT are passed
    /// on to it. Ends with the command's exit code, 128 and the signal's number if one killed it.
    Run {
        /// Which adapter (see netvsc --help).
        #[arg(value_name = "DEVICE")]
        device: String,
        /// Bind it even if it carries the default route or this login session.
        #[arg(long)]
        force: bool,
        /// The command and its arguments.
        #[arg(last = true, required = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
}
