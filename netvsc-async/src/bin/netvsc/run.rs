//! An adapter bound for as long as a command runs.
//!
//! Binding from another process is the one way that survives a command which is killed or aborts: its descriptors and
//! mappings are gone when the adapter goes back.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, ExitStatus};

use netvsc_async::bind::{Binder, Selector};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::Failure;

/// Binds, runs, gives back; the command's exit code.
pub(crate) fn run(binder: Binder, selector: &Selector, command: &[OsString]) -> Result<ExitCode, Failure> {
    let [program, arguments @ ..] = command else { return Ok(ExitCode::SUCCESS) };
    let failed = |error| Failure::Command { command: program.to_string_lossy().into_owned(), error };
    // Before anything is bound: what arrives from now on waits for the command, instead of killing us in the middle.
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(failed)?;
    let handle = signals.handle();
    let guard = binder.hold(selector)?;
    let mut child = Command::new(program)
        .args(arguments)
        .env("NETVSC_DEVICE", guard.instance().to_string())
        .env("NETVSC_UIO", format!("/dev/{}", guard.uio()))
        .spawn()
        .map_err(failed)?;
    // Process ids fit: the kernel's limit is 2^22.
    let pid = i32::try_from(child.id()).map(Pid::from_raw);
    std::thread::spawn(move || {
        for signal in signals.forever() {
            if let (Ok(pid), Ok(signal)) = (pid, Signal::try_from(signal)) {
                // Gone already: then there is nothing to pass on.
                let _ = kill(pid, signal);
            }
        }
    });
    let status = child.wait().map_err(failed)?;
    handle.close();
    guard.release()?;
    Ok(code(status))
}

/// As shells count.
fn code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
