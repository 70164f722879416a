//! An adapter and a simulated host in one line: for unit tests of appliances.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(async {
//! let mut pair = netvsc_async::testing::pair().await?;
//! let mut frame = [0; 60]; // a broadcast from somebody on the network
//! frame[..6].fill(0xFF);
//! frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
//! pair.far.send(&frame)?;
//! let burst = pair.queue.rx.recv_burst().await?.expect("open");
//! assert_eq!(burst.get(0).unwrap().bytes, frame);
//! pair.close().await?; // and nothing was lost, leaked or violated
//! # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
//! ```

use std::time::Duration;

use netvsc_host::port::MemoryPort;
use netvsc_host::{Host, HostBuilder, NicOptions};
use vmbus::mem::{MemBus, MemChannel};

use crate::{CloseReport, Nic, NicBuilder, OpenError, Queue};

/// Between two looks whether the host has got everything back.
const LOOK: Duration = Duration::from_millis(1);
/// After so many it will not.
const MOST_LOOKS: usize = 10_000;

/// An open adapter on a simulated host, and the far end of the network.
#[derive(Debug)]
pub struct Pair {
    /// The simulated host, as a task of the current runtime.
    pub host: Host,
    /// The other port of the host's switch: what the adapter sends arrives here, and the other way round.
    pub far: MemoryPort,
    /// The adapter.
    pub nic: Nic<MemBus>,
    /// Its queue.
    pub queue: Queue<MemChannel>,
}

/// A [`Pair`] with default settings.
///
/// # Errors
/// [`OpenError`].
///
/// # Cancel safety
/// When the future is dropped, the adapter is closed in the background, and the host ends with it.
pub async fn pair() -> Result<Pair, OpenError> {
    pair_with(Host::builder(), Nic::builder()).await
}

/// A [`Pair`] with settings.
///
/// # Errors
/// [`OpenError`].
///
/// # Cancel safety
/// As [`pair`].
pub async fn pair_with(host: HostBuilder, nic: NicBuilder) -> Result<Pair, OpenError> {
    let host = host.build();
    let far = host.memory_pair();
    let bus = MemBus::new(host.add_nic(NicOptions::new()));
    host.spawn();
    let (nic, mut queues) = nic.open_on(bus).await?;
    let queue = queues.remove(0);
    Ok(Pair { host, far, nic, queue })
}

impl Pair {
    /// Closes the adapter and asserts that the host has nothing to complain of.
    ///
    /// # Errors
    /// [`CloseError`](crate::CloseError).
    ///
    /// # Cancel safety
    /// The adapter is closed all the same when the future is dropped; nothing is asserted then.
    ///
    /// # Panics
    /// With the host's report, if the guest broke the protocol or did not give everything back.
    pub async fn close(self) -> Result<CloseReport, crate::CloseError> {
        let Self { host, far: _far, nic, queue } = self;
        let report = nic.close().await?;
        drop(queue);
        settle(&host).await;
        host.assert_clean();
        Ok(report)
    }
}

/// The host learns of the guest's end at its next step, and memory is given back when the adapter's task lets go of it: in real
/// time that is when each has its turn, on a busy machine late.
async fn settle(host: &Host) {
    for _ in 0..MOST_LOOKS {
        tokio::time::sleep(LOOK).await;
        let report = host.report();
        // A violation does not go away.
        if report.leaks.is_none() || !report.violations.is_empty() {
            return;
        }
    }
}
