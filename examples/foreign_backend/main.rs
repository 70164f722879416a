//! A backend that has nothing to do with this project's own: how to run the driver on your VMM, unikernel or test bed.
//!
//! The driver (`netvsc`) reaches its host through the traits of [`vmbus::bus`] only. This program implements them over one
//! flat block of memory, with a host of its own, and runs both on one thread: no operating system, no runtime, no clock.
//!
//! | file | has | in your project |
//! |---|---|---|
//! | `ram` | memory that the host sees, too | your guest memory |
//! | `line` | doorbell and interrupt | `eventfd`s, hypercalls, interrupt handlers |
//! | `backend` | [`vmbus::bus::Bus`] and [`vmbus::bus::Channel`] on these | what you write |
//! | `machine` | the loop that drives the NIC | your executor or idle loop |
//! | `host/` | a host: control plane, NVSP, RNDIS | there already, or a real one |
//! | `trace` | what happened, printed and hashed | |
//!
//! `cargo run --example foreign_backend` tells the story below, and fails if anything in it is not as it should be.

#![forbid(unsafe_code)]

mod backend;
mod host;
mod line;
mod machine;
mod ram;
#[cfg(test)]
mod tests;
mod trace;

use std::time::Duration;

use anyhow::ensure;
use netvsc::{Config, Instant};
use vmbus::bus::RingSizes;

use crate::host::Options;
use crate::machine::Machine;
use crate::trace::Trace;

fn main() -> anyhow::Result<()> {
    let trace = Trace::new(true);
    story(&trace)?;
    let (lines, hash) = trace.summary();
    println!("{lines} lines, the same in each run: hash {hash:016x}");
    Ok(())
}

/// Small buffers and rings, so that all fits into a few megabytes; frames may be large.
fn config() -> Config {
    let rings = RingSizes { outgoing_bytes: 16 << 10, incoming_bytes: 16 << 10 };
    Config::default().receive_sections(128).send_sections(16).direct_bytes(64 << 10).mtu(9000).rings(rings)
}

/// Brings a NIC up, passes frames both ways, closes it.
fn story(trace: &Trace) -> anyhow::Result<()> {
    let mut machine = Machine::new(config(), Options::default(), trace.clone())?;
    let info = machine.bring_up()?;
    ensure!(info.mac == host::GUEST_MAC && info.direct, "not what the host has: {info:?}");

    trace.say("guest", "--- 20 small frames: the host takes 8 in one section");
    let small: Vec<_> = (0..20).map(|number| frame(number, 60)).collect();
    exchange(&mut machine, &small)?;
    ensure!(machine.queue()?.stats().extra.tx_aggregates == 3, "20 frames in 3 sections of at most 8");

    trace.say("guest", "--- a frame of 1500 bytes, in a section of its own");
    exchange(&mut machine, &[frame(20, 1500)])?;
    ensure!(machine.queue()?.stats().extra.tx_direct == 0, "a section was large enough");

    trace.say("guest", "--- a frame that no section holds: its pages are listed in the packet");
    exchange(&mut machine, &[frame(21, 9000)])?;
    ensure!(machine.queue()?.stats().extra.tx_direct == 1, "sent from pages");

    trace.say("guest", "--- 5 frames that the host sends by itself");
    let theirs: Vec<_> = (0..5).map(|number| frame(number, 200)).collect();
    theirs.iter().for_each(|frame| machine.inject(frame));
    ensure!(machine.receive(theirs.len())? == theirs, "frames are not those that the host sent");

    trace.say("guest", "--- close");
    machine.close()?;
    ensure!(machine.now() < Instant::new(Duration::from_secs(1)), "something was waited for");
    Ok(())
}

/// Sends frames and compares what the host's mirror sends back.
fn exchange(machine: &mut Machine, frames: &[Vec<u8>]) -> anyhow::Result<()> {
    for frame in frames {
        machine.send(frame)?;
    }
    machine.flush()?;
    for (number, (sent, got)) in frames.iter().zip(machine.receive(frames.len())?).enumerate() {
        ensure!(got == mirrored(sent), "frame {number} of {} bytes came back changed", sent.len());
    }
    Ok(())
}

/// An Ethernet frame of `len` bytes that no other number has.
fn frame(number: u32, len: usize) -> Vec<u8> {
    let mut frame = vec![0; len];
    let head = [&[0x02, 0, 0, 0, 0, 0xFE][..], &host::GUEST_MAC.0, &[0x88, 0xB5], &number.to_le_bytes()].concat();
    for (at, byte) in frame.iter_mut().enumerate() {
        // A pattern that neither repeats within a page nor lines up with anything.
        *byte = head.get(at).copied().unwrap_or((number as usize ^ (at * 7) ^ (at >> 8)) as u8);
    }
    frame
}

/// The frame as the host's mirror returns it.
fn mirrored(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[..12].rotate_left(6);
    frame
}
