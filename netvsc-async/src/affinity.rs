//! A runtime of one thread, bound to a CPU: where a queue's tasks can live.

use std::io;
use std::thread::JoinHandle;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// A thread with a runtime of its own, bound to a CPU.
///
/// Give its [`handle`](Self::handle) to [`NicBuilder::queue_runtime`](crate::NicBuilder::queue_runtime) and spawn the
/// task that uses the queue there, too: nothing of the queue then leaves that CPU. Dropping it ends the tasks.
#[derive(Debug)]
pub struct PinnedRuntime {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl PinnedRuntime {
    /// Starts a thread on CPU number `cpu`, as the operating system counts.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] if there is no such CPU, or this process may not use it; whatever starting a
    /// thread or a runtime yields.
    pub fn new(cpu: usize) -> io::Result<Self> {
        let cores = core_affinity::get_core_ids().unwrap_or_default();
        let core = cores.iter().copied().find(|core| core.id == cpu).ok_or_else(|| {
            let usable: Vec<_> = cores.iter().map(|core| core.id).collect();
            io::Error::new(io::ErrorKind::InvalidInput, format!("CPU {cpu} cannot be used, of CPUs {usable:?}"))
        })?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new().name(format!("netvsc-cpu{cpu}")).spawn(move || {
            if !core_affinity::set_for_current(core) {
                tracing::warn!(cpu, "could not bind the thread to its CPU");
            }
            // Ends on a message and on a dropped sender alike.
            let _ = runtime.block_on(stopped);
        })?;
        Ok(Self { handle, stop: Some(stop), thread: Some(thread) })
    }

    /// Where to spawn.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for PinnedRuntime {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // A panic in there was reported by its own task.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_tasks_on_its_cpu_and_ends() {
        let cpu = core_affinity::get_core_ids().unwrap()[0].id;
        let runtime = PinnedRuntime::new(cpu).unwrap();
        let name = runtime.handle().spawn(async { std::thread::current().name().map(str::to_owned) });
        assert_eq!(tokio_test::block_on(name).unwrap().unwrap(), format!("netvsc-cpu{cpu}"));
    }

    #[test]
    fn names_the_cpus_there_are() {
        let error = PinnedRuntime::new(100_000).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(error.to_string().contains("100000"), "{error}");
    }
}
