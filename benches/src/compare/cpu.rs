//! What a process takes of the processors.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;

/// Processors that a process with all its threads keeps busy, over `time`.
///
/// # Errors
/// If there is no such process.
pub fn share(process: u32, time: Duration) -> anyhow::Result<f64> {
    let (before, start) = (taken(process)?, Instant::now());
    std::thread::sleep(time);
    let (after, end) = (taken(process)?, Instant::now());
    Ok(after.saturating_sub(before).as_secs_f64() / (end - start).as_secs_f64())
}

/// Time on processors so far of the threads that there are: the first number of `/proc/PID/task/TID/schedstat`, in
/// nanoseconds (Linux `Documentation/scheduler/sched-stats.rst`).
///
/// # Errors
/// If there is no such process.
pub fn taken(process: u32) -> anyhow::Result<Duration> {
    let tasks = Path::new("/proc").join(process.to_string()).join("task");
    let mut sum = Duration::ZERO;
    for task in fs::read_dir(&tasks).with_context(|| format!("read {}", tasks.display()))? {
        let file = task?.path().join("schedstat");
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let first = text.split_ascii_whitespace().next().and_then(|number| number.parse().ok());
        sum += first.map(Duration::from_nanos).with_context(|| format!("{}: {text}", file.display()))?;
    }
    Ok(sum)
}
