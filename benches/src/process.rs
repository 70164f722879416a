//! Programs that run while others are measured: what they say, and their end.

use std::io::Read;
use std::process::{Child, ChildStdout, Command};
use std::sync::mpsc::{self, Receiver};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

/// Reads in the background, lest the pipe fill up.
pub fn read(mut from: ChildStdout) -> Receiver<String> {
    let (sender, text) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if from.read_to_end(&mut bytes).is_ok() {
            // Nobody reads it if something else failed.
            let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
        }
    });
    text
}

/// Packets, and cycles for each, of one JSON object in the last line.
///
/// # Errors
/// If it does not say.
pub fn ours_says(output: &str) -> anyhow::Result<(f64, f64)> {
    let report: Value = serde_json::from_str(output.lines().last().unwrap_or_default())?;
    let number = |field: &str| report[field].as_f64().with_context(|| format!("no {field}: {report}"));
    Ok((number("packets")?, number("cycles_per_packet")?))
}

/// The same of testpmd's final statistics: "CPU cycles/packet=12.3 (total cycles=… / total io packets=45) at …".
///
/// # Errors
/// If it does not say.
pub fn testpmd_says(output: &str) -> anyhow::Result<(f64, f64)> {
    let Some((_, end)) = output.rsplit_once("CPU cycles/packet=") else {
        bail!("testpmd says nothing of cycles:\n{output}");
    };
    let number = |text: &str| text.split([' ', ')']).next().and_then(|number| number.parse::<f64>().ok());
    let packets = end.split("packets=").nth(1).and_then(number);
    packets.zip(number(end)).with_context(|| format!("not understood: {end}"))
}

/// Sends SIGINT.
///
/// # Errors
/// If there is no such process any more.
pub fn interrupt(child: &Child) -> anyhow::Result<()> {
    let done = Command::new("kill").args(["-INT", &child.id().to_string()]).status().context("run kill")?;
    ensure!(done.success(), "kill: {done}");
    Ok(())
}
