//! An appliance that sends every frame back to where it came from.

use futures::{Sink, Stream, StreamExt, TryStreamExt, future};
use netvsc_async::{Error, Packet};

/// Reflects `packets` into `sink` until the adapter is closed. Frames too short to have addresses are dropped.
///
/// # Errors
/// When the queue fails.
pub async fn reflect(
    packets: impl Stream<Item = Result<Packet, Error>>,
    sink: impl Sink<Packet, Error = Error>,
) -> Result<(), Error> {
    packets
        .try_filter_map(|mut packet| {
            let addresses = packet.bytes_mut().first_chunk_mut::<12>();
            let reflected = addresses.map(|addresses| addresses.rotate_left(6)).map(|()| packet);
            future::ready(Ok(reflected))
        })
        .forward(sink)
        .await
}
