//! The smoltcp device when the queue has no room: nothing is left lying, and nothing spins.
#![cfg(all(feature = "host", feature = "smoltcp"))]

use std::time::Duration;

use netvsc_async::smoltcp::NetvscDevice;
use netvsc_async::testing::{self, Pair};
use netvsc_async::{Nic, NicBuilder};
use netvsc_host::Host;
use smoltcp::phy::{Device, RxToken, TxToken};
use smoltcp::time::Instant;
use vmbus::mem::MemChannel;

/// Room for some forty frames of full size.
fn little_room() -> NicBuilder {
    Nic::builder().tune(|config| config.send_sections(10).direct_bytes(0))
}

/// Sends frames of full size as the stack does, as long as the device takes them, at most `limit`.
fn transmit(device: &mut NetvscDevice<MemChannel>, mac: [u8; 6], limit: usize) -> usize {
    for sent in 0..limit {
        let Some(token) = device.transmit(Instant::ZERO) else { return sent };
        token.consume(1500, |frame| {
            frame[..6].fill(0xFF);
            frame[6..12].copy_from_slice(&mac);
        });
    }
    limit
}

#[tokio::test(start_paused = true)]
async fn what_a_flush_left_lying_goes_while_the_stack_waits() {
    const FRAMES: usize = 60;
    let Pair { host: _host, far, nic, queue } = testing::pair_with(Host::builder(), little_room()).await.unwrap();
    let mut device = NetvscDevice::new(queue, nic.info().mtu);
    assert_eq!(transmit(&mut device, nic.info().mac.0, FRAMES), FRAMES);
    device.flush().unwrap();
    let all = async {
        for _ in 0..FRAMES {
            far.recv().await.unwrap();
        }
    };
    tokio::select! {
        result = device.ready(None) => panic!("nothing was received: {result:?}"),
        arrived = tokio::time::timeout(Duration::from_secs(10), all) => arrived.expect("all frames"),
    }
    assert_eq!(device.dropped(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_cannot_be_answered_yet_does_not_make_the_stack_spin() {
    let Pair { host: _host, far, nic, queue } = testing::pair_with(Host::builder(), little_room()).await.unwrap();
    let mac = nic.info().mac.0;
    let mut device = NetvscDevice::new(queue, nic.info().mtu);
    let mut frame = [0xFF; 60];
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    far.send(&frame).unwrap();
    device.ready(None).await.unwrap();
    // Full: what the stack sends next has no room, and the frame that came no answer.
    assert!(transmit(&mut device, mac, 10_000) < 10_000);
    assert!(device.receive(Instant::ZERO).is_none());
    let mut turns = 0;
    let received = loop {
        device.ready(None).await.unwrap();
        if let Some((token, _)) = device.receive(Instant::ZERO) {
            break token.consume(<[u8]>::to_vec);
        }
        device.flush().unwrap();
        turns += 1;
        assert!(turns < 100, "ready, and nothing can be done");
    };
    assert_eq!(received, frame);
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_cannot_be_sent_is_dropped_and_the_device_goes_on() {
    let Pair { host: _host, far, nic, queue } = testing::pair_with(Host::builder(), little_room()).await.unwrap();
    let mut device = NetvscDevice::new(queue, nic.info().mtu);
    device.transmit(Instant::ZERO).unwrap().consume(4, |frame| frame.fill(0));
    assert_eq!(transmit(&mut device, nic.info().mac.0, 1), 1);
    device.flush().unwrap();
    assert_eq!(far.recv().await.unwrap().len(), 1500);
    assert_eq!(device.dropped(), 1);
}

/// A segment of TCP over IPv4 with this much payload, all of one flow.
fn segment(to: [u8; 6], sequence: u32, payload: usize, flags: u8) -> Vec<u8> {
    let mut frame = [&to[..], &[2, 0, 0, 0, 0, 1], &[0x08, 0x00, 0x45]].concat();
    frame.resize(54, 0);
    frame.resize(54 + payload, sequence as u8);
    frame[16..18].copy_from_slice(&(40 + payload as u16).to_be_bytes());
    frame[18..20].copy_from_slice(&((sequence / 1000) as u16).to_be_bytes());
    (frame[20], frame[22], frame[23]) = (0x40, 64, 6);
    frame[26..34].copy_from_slice(&[198, 51, 100, 1, 198, 51, 100, 2]);
    frame[34..38].copy_from_slice(&[0x9C, 0x40, 0x01, 0xBB]);
    frame[38..42].copy_from_slice(&sequence.to_be_bytes());
    frame[42..54].copy_from_slice(&[0, 0, 0, 0, 0x50, flags, 0xFF, 0xFF, 0, 0, 0, 0]);
    let headers = netvsc::frame::Headers::parse(&frame).unwrap();
    let request = netvsc::checksum::request(&frame, &headers).unwrap();
    netvsc::checksum::fill(&mut frame, request).unwrap();
    frame
}

#[tokio::test(start_paused = true)]
async fn merged_frames_have_checksums_that_the_stack_finds_right() {
    let host = Host::builder().tune(|settings| settings.offloads = netvsc_host::profile::Offloads::ALL);
    let nic = Nic::builder().offloads(netvsc_async::OffloadSettings::endpoint());
    let Pair { host: _host, far, nic, queue } = testing::pair_with(host, nic).await.unwrap();
    let mut device = NetvscDevice::new(queue, nic.info().mtu);
    for at in 0..8 {
        far.send(&segment(nic.info().mac.0, at * 1000, 1000, if at == 7 { 0x18 } else { 0x10 })).unwrap();
    }
    let (mut payload, mut longest) = (0, 0);
    while payload < 8000 {
        device.ready(None).await.unwrap();
        while let Some((token, _)) = device.receive(Instant::ZERO) {
            let len = token.consume(|frame| {
                let verdict = netvsc::checksum::verify(frame);
                assert_eq!(verdict.transport, netvsc::meta::Verdict::Good, "{} bytes", frame.len());
                assert_eq!(verdict.ip, netvsc::meta::Verdict::Good);
                frame.len()
            });
            payload += len - 54;
            longest = longest.max(len);
        }
    }
    assert!(longest > 1514, "some were merged");
}
