//! System calls of the queues' threads while they work, counted from outside: the program runs itself under strace(1).
//!
//! Each of these threads calls `sched_yield` when it starts to work and when it has ended, and never in between: what
//! strace has seen between the two is what the work has cost. strace stops a thread at each system call, so that rates
//! mean little; a thread that makes none runs as ever.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, ensure};
use serde_json::Value;

/// A mark for whoever counts: the work of this thread begins here, or ends.
pub(crate) fn mark() {
    std::thread::yield_now();
}

/// Runs this program again under strace, without `option`; its status, and its report with the system calls filled in.
pub(crate) fn run_again(option: &str) -> anyhow::Result<(ExitStatus, Value)> {
    let folder = Folder::new()?;
    let program = std::env::current_exe().context("find this program")?;
    let mut command = Command::new("strace");
    // A file for each thread: with all in one, calls of several threads would be torn apart.
    command.args(["-ff", "-qq", "-e", "signal=none", "-o"]).arg(folder.0.join("thread"));
    command.arg("--").arg(program).args(std::env::args_os().skip(1).filter(|argument| argument != option));
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("start strace")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or_default();
    let mut report: Value =
        serde_json::from_str(last).with_context(|| format!("no report ({}): {text}", output.status))?;
    report["syscalls"] = folder.count()?.into();
    Ok((output.status, report))
}

/// Where strace writes; removed with this value.
struct Folder(PathBuf);

impl Folder {
    fn new() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("l2fwd-strace-{}", std::process::id()));
        std::fs::create_dir(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(Self(path))
    }

    fn count(&self) -> anyhow::Result<u64> {
        let threads = std::fs::read_dir(&self.0).context("list what strace wrote")?;
        let mut counts = Vec::new();
        for thread in threads {
            counts.extend(count_between_marks(&thread?.path())?);
        }
        ensure!(!counts.is_empty(), "strace has seen no thread at work");
        Ok(counts.iter().sum())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Nothing can be done about one that stays.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// System calls between the first mark and the last, in what strace wrote of one thread; `None` if it has not worked.
fn count_between_marks(path: &Path) -> anyhow::Result<Option<u64>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    // Others are the end of a thread, or of a call that ended with it.
    let calls = text.lines().filter(|line| line.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_'));
    let is_mark = |line: &str| line.starts_with("sched_yield(");
    let (mut marks, mut count, mut at_mark) = (0, 0, 0);
    for line in calls {
        if is_mark(line) {
            marks += 1;
            at_mark = count;
        } else if marks > 0 {
            count += 1;
        }
    }
    Ok((marks >= 2).then_some(at_mark))
}
