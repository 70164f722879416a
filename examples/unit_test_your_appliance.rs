//! How to unit-test an appliance: against a simulated host, without root, in paused time.
//!
//! `cargo test --example unit_test_your_appliance` runs the tests below; `cargo run` just says so. The appliance is a
//! firewall that reflects IPv4 and ARP to where it came from, and answers nobody for a second after anything else.

use std::time::Duration;

use netvsc_async::{Error, Queue};
use vmbus::bus::Channel;

/// How long the firewall sulks.
const PENALTY: Duration = Duration::from_secs(1);

/// The appliance under test. It is generic over the channel, so that it runs on a simulated host and on a real one.
async fn firewall<C: Channel>(mut queue: Queue<C>) -> Result<(), Error> {
    while let Some(mut burst) = queue.rx.recv_burst().await? {
        let mut offended = false;
        for frame in burst.iter_mut() {
            if is_welcome(frame.bytes) {
                swap_macs(frame.bytes);
                queue.tx.send(frame.bytes).await?;
            } else {
                offended = true;
            }
        }
        queue.tx.flush()?;
        if offended {
            tokio::time::sleep(PENALTY).await;
        }
    }
    Ok(())
}

/// What needs no network needs no simulated one either.
fn is_welcome(frame: &[u8]) -> bool {
    matches!(frame.get(12..14), Some([0x08, 0x00] | [0x08, 0x06]))
}

/// A virtual switch drops what does not come from the adapter's own address.
fn swap_macs(frame: &mut [u8]) {
    if let Some(addresses) = frame.first_chunk_mut::<12>() {
        addresses.rotate_left(6);
    }
}

fn main() {
    println!("This example is its tests: cargo test --example unit_test_your_appliance");
    let _ = firewall::<vmbus::mem::MemChannel>;
}

#[cfg(test)]
mod tests {
    use netvsc_async::testing::{self, Pair};
    use tokio::time::Instant;

    use super::*;

    const FAR: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn frame(to: [u8; 6], from: [u8; 6], ether_type: [u8; 2], payload: u8) -> Vec<u8> {
        [&to[..], &from, &ether_type, &[payload; 46]].concat()
    }

    const IPV4: [u8; 2] = [0x08, 0x00];
    const IPV6: [u8; 2] = [0x86, 0xDD];

    #[test]
    fn short_frames_are_not_welcome() {
        assert!(is_welcome(&frame(FAR, FAR, IPV4, 0)));
        assert!(!is_welcome(&frame(FAR, FAR, IPV4, 0)[..13]));
    }

    #[tokio::test(start_paused = true)]
    async fn only_welcome_frames_come_back() {
        let Pair { host, far, nic, queue } = testing::pair().await.unwrap();
        let mac = nic.info().mac.0;
        let appliance = tokio::spawn(firewall(queue));
        for (ether_type, payload) in [(IPV4, 1), (IPV6, 2), (IPV4, 3)] {
            far.send(&frame(mac, FAR, ether_type, payload)).unwrap();
        }
        assert_eq!(*far.recv().await.unwrap(), frame(FAR, mac, IPV4, 1));
        assert_eq!(*far.recv().await.unwrap(), frame(FAR, mac, IPV4, 3));

        // The end of the adapter is the end of the appliance, and the host has nothing to complain of.
        assert!(nic.close().await.unwrap().is_clean());
        appliance.await.unwrap().unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
        host.assert_clean();
    }

    #[tokio::test(start_paused = true)]
    async fn an_unwelcome_frame_costs_a_second_of_the_virtual_clock() {
        let Pair { host, far, nic, queue } = testing::pair().await.unwrap();
        let mac = nic.info().mac.0;
        let appliance = tokio::spawn(firewall(queue));
        let started = Instant::now();
        far.send(&frame(mac, FAR, IPV6, 1)).unwrap();
        // Not in the same burst.
        tokio::time::sleep(PENALTY / 2).await;
        far.send(&frame(mac, FAR, IPV4, 2)).unwrap();
        assert_eq!(*far.recv().await.unwrap(), frame(FAR, mac, IPV4, 2));
        assert!(started.elapsed() >= PENALTY, "{:?}", started.elapsed());
        nic.close().await.unwrap();
        appliance.await.unwrap().unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
        host.assert_clean();
    }
}
