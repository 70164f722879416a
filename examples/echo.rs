//! Sends every frame back where it came from: the shortest whole appliance.
//!
//! `cargo run --example echo` runs it on a simulated host, with a few frames from the other side of its switch.

use futures::{StreamExt, TryStreamExt};
use netvsc_async::{Error, Nic, Packet};
use netvsc_host::{Host, NicOptions};
use vmbus::mem::MemBus;

/// Exchanges the two MAC addresses that an Ethernet frame starts with.
fn swap_macs(mut packet: Packet) -> Packet {
    if let Some(addresses) = packet.bytes_mut().first_chunk_mut::<12>() {
        addresses.rotate_left(6);
    }
    packet
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let host = Host::builder().build();
    let far = host.memory_pair();
    let bus = MemBus::new(host.add_nic(NicOptions::new()));
    let _running = host.spawn();

    let (nic, mut queues) = Nic::builder().open_on(bus).await?;
    let mac = nic.info().mac;
    println!("{mac} is up");
    let (rx, tx) = queues.remove(0).into_split();
    let echo = tokio::spawn(rx.map_ok(swap_macs).forward(tx));

    for number in 0..3u8 {
        far.send(&[&mac.0[..], &[2, 0, 0, 0, 0, 1], &[0x88, 0xB5], &[number; 46]].concat())?;
        let frame = far.recv().await.ok_or("the switch is gone")?;
        println!("frame {number} came back, to {:02x?} from {:02x?}", &frame[..6], &frame[6..12]);
    }
    nic.close().await?;
    match echo.await? {
        // The end of the adapter is that of the echo.
        Ok(()) | Err(Error::Closed) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
