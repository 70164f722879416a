//! `netvsc`: bind network adapters of Hyper-V to `uio_hv_generic`, give them back, and see what is what.
//!
//! A thin shell around [`netvsc_async::bind`]; `args.rs` is what people type, `text.rs` and `json.rs` what they see.
#![forbid(unsafe_code)]

mod args;
mod json;
mod run;
mod text;

use std::convert::Infallible;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use netvsc_async::bind::{BindError, Binder, Selector, Session};

use args::{Args, Command};

fn main() -> ExitCode {
    let args = Args::parse();
    match act(&args) {
        Ok((output, code)) => {
            // Whoever reads may have seen enough.
            let _ = std::io::stdout().write_all(output.as_bytes());
            code
        }
        Err(failure) => {
            if args.json {
                let _ = writeln!(std::io::stdout(), "{}", json::failure(&failure));
            }
            let _ = writeln!(std::io::stderr(), "netvsc: {}", text::failure(&failure));
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Does what was asked for; what to print, and how to end.
fn act(args: &Args) -> Result<(String, ExitCode), Failure> {
    let binder = Binder::new().sysfs(&args.sysfs).procfs(&args.proc).session(session(&args.proc));
    let output = match &args.command {
        Command::List { all } => {
            let mut devices = binder.devices()?;
            devices.retain(|device| *all || device.sysfs.is_nic());
            if args.json { json::list(&devices) } else { text::list(&devices, *all) }
        }
        Command::Status { device } => {
            let device = binder.find(&selector(device))?;
            if args.json { json::line(&json::device(&device)) } else { text::status(&device) }
        }
        Command::Bind { device, dry_run, force } => {
            let binder = binder.force(*force);
            let selector = selector(device);
            if *dry_run {
                let plan = binder.plan_bind(&selector)?;
                if args.json { json::plan(&plan, None) } else { text::plan(&plan) }
            } else {
                let bound = binder.bind(&selector)?;
                if args.json { json::plan(&bound.plan, Some(&bound.device)) } else { text::bound(&bound) }
            }
        }
        Command::Unbind { device, dry_run, force: _ } => {
            let selector = selector(device);
            let plan = binder.plan_unbind(&selector)?;
            if *dry_run {
                if args.json { json::plan(&plan, None) } else { text::plan(&plan) }
            } else {
                let device = binder.unbind(&selector)?;
                if args.json { json::plan(&plan, Some(&device)) } else { text::unbound(&plan, &device) }
            }
        }
        Command::Run { device, force, command } => {
            let code = run::run(binder.force(*force), &selector(device), command)?;
            return Ok((String::new(), code));
        }
    };
    Ok((output, ExitCode::SUCCESS))
}

/// The adapter that is meant; of a path, the last part counts.
fn selector(text: &str) -> Selector {
    let text = text.trim_end_matches('/');
    let name = text.rsplit('/').next().unwrap_or(text);
    name.parse().unwrap_or_else(|never: Infallible| match never {})
}

/// The login session: of this environment, else, since `sudo` cleans that, of the process that called us.
fn session(proc: &Path) -> Option<Session> {
    let own = std::env::var("SSH_CONNECTION").ok().and_then(|text| text.parse().ok());
    own.or_else(|| Session::of_process(proc, std::process::id()))
}

/// Why nothing came of it.
#[derive(Debug)]
enum Failure {
    /// Binding failed.
    Bind(BindError),
    /// The command of `run` could not be started.
    Command { command: String, error: std::io::Error },
}

impl Failure {
    /// The exit codes that `--help` lists.
    fn exit_code(&self) -> u8 {
        match self {
            Self::Command { .. } => 1,
            Self::Bind(BindError::NotFound(_)) => 3,
            Self::Bind(BindError::Needed { .. }) => 4,
            Self::Bind(BindError::DriverMissing { .. }) => 5,
            Self::Bind(BindError::NotUndone { .. }) => 6,
            Self::Bind(_) => 1,
        }
    }
}

impl From<BindError> for Failure {
    fn from(error: BindError) -> Self {
        Self::Bind(error)
    }
}
