//! The appliance: what comes in by one adapter leaves by the other. It knows nothing of virtual functions: that is the point.

use netvsc_async::{Error, RxBurst, RxHalf, TxHalf, TxMeta};
use vmbus::bus::Channel;

/// Bursts without a pause, before other tasks get their turn.
const BURSTS: u32 = 64;

/// Passes on every frame until the adapter it comes from is closed. `mtu` is that of the adapter that sends.
///
/// # Errors
/// What ended one of the queues.
pub(crate) async fn forward<C: Channel>(mut rx: RxHalf<C>, mut tx: TxHalf<C>, mtu: u32) -> Result<(), Error> {
    let mut bursts = 0_u32;
    while let Some(burst) = rx.recv_burst().await? {
        let mut next = 0;
        while let Some(waits_for) = send_some(&burst, &mut next, &mut tx, mtu)? {
            tx.ready(waits_for).await?;
        }
        bursts = bursts.wrapping_add(1);
        if bursts.is_multiple_of(BURSTS) {
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

/// Sends frames of a burst from `next` on, as far as there is room; the length of the one that there is none for.
fn send_some<C: Channel>(
    burst: &RxBurst<'_>,
    next: &mut usize,
    tx: &mut TxHalf<C>,
    mtu: u32,
) -> Result<Option<usize>, Error> {
    let mut batch = tx.batch();
    while let Some(frame) = burst.get(*next) {
        match batch.push(frame.bytes, &TxMeta::passing_on(frame.bytes, &frame.meta, mtu)) {
            // It can never be sent: too long for the other adapter.
            Ok(()) | Err(Error::Send(_)) => *next += 1,
            Err(Error::Full) => return Ok(Some(frame.bytes.len())),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}
