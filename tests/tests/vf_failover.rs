//! A virtual function that comes and goes under real traffic: `examples/vf_failover`, in a process of its own.
//!
//! In network namespaces the kernel's TCP goes through the appliance while its host revokes and returns a veth, which the
//! driver uses by packet sockets or by XDP: not a byte is changed, TCP (iperf3's as well) sends nothing again, and of a numbered
//! flow nothing is lost, late or there twice. Where the device vanishes in memory, no more is lost than was reported. What is in memory needs no root.
//!
//! How long switches take, and the longest gap, is printed and not judged: that is the machine's.
#![cfg(target_os = "linux")]

use std::process::Command;
use std::time::Duration;

use netvsc_tests::process::{self, last_line, number};
use netvsc_tests::real;
use serde_json::Value;

/// Runs the example; its last line.
#[track_caller]
fn run(arguments: &[&str]) -> Value {
    let mut command = Command::new(real::example("vf_failover"));
    command.args(arguments).arg("--json");
    // A hundred cycles on a busy machine.
    let output = process::output_within(command, Duration::from_secs(900));
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(said.trim_end().ends_with('}'), "{arguments:?}: {}\n{said}\n{complained}", output.status);
    let outcome = last_line(&said);
    println!("{arguments:?}: {outcome}");
    assert_eq!(outcome["hash_ok"], true, "{outcome}\n{said}");
    assert_eq!((number(&outcome, "duplicated"), number(&outcome, "reordered")), (0, 0), "{outcome}\n{said}");
    assert_eq!(outcome["clean"], true, "{outcome}\n{said}");
    assert!(number(&outcome, "tcp_bytes") > 0 && number(&outcome, "sent") > 1000, "{outcome}");
    assert!(output.status.success(), "{outcome}\n{said}\n{complained}");
    outcome
}

/// Frames of every kind are counted at the ends, and on both sides of the virtual functions.
#[track_caller]
fn assert_all_is_accounted_for(outcome: &Value, cycles: u64) {
    assert_eq!(number(outcome, "cycles"), cycles, "{outcome}");
    assert_eq!(number(outcome, "events_missed"), 0, "{outcome}");
    assert_eq!(number(outcome, "lost"), number(outcome, "lost_reported"), "{outcome}");
    assert_eq!(number(outcome, "lost_by_guest"), number(outcome, "lost_by_guest_reported"), "{outcome}");
    let both = number(outcome, "lost_by_guest_reported") + number(outcome, "lost_by_host_reported");
    assert_eq!(number(outcome, "lost"), both, "{outcome}");
}

#[track_caller]
fn assert_nothing_lost(outcome: &Value, cycles: u64) {
    assert_eq!(number(outcome, "cycles"), cycles, "{outcome}");
    // Back once each cycle; of a way there that is revoked at once nothing is told.
    assert!(number(outcome, "switches") > cycles, "{outcome}");
    assert_eq!((number(outcome, "lost"), number(outcome, "lost_reported")), (0, 0), "{outcome}");
}

#[test]
fn in_memory_nothing_is_lost_over_orderly_cycles() {
    assert_nothing_lost(&run(&["--backend", "memory", "--cycles", "20", "--seed", "11"]), 20);
}

#[test]
fn in_memory_a_device_that_vanishes_loses_what_is_reported() {
    let outcome = run(&["--backend", "memory", "--surprise", "--cycles", "20", "--seed", "12"]);
    assert_all_is_accounted_for(&outcome, 20);
}

#[test]
fn the_kernels_tcp_notices_nothing_of_a_hundred_orderly_cycles() {
    let Some(_lock) = real::privileged_or_skip(&["ip", "iperf3", "nstat", "ss"]) else { return };
    let outcome = run(&["--backend", "af_packet", "--cycles", "100", "--seed", "13", "--iperf3"]);
    assert_nothing_lost(&outcome, 100);
    assert!(number(&outcome, "iperf3_bytes") > 1 << 20, "{outcome}");
    // By the kernels' own count, of both streams. iperf3's has first packets of connections in it, which a busy machine may answer
    // later than they wait.
    assert_eq!(number(&outcome, "tcp_retransmissions"), 0, "{outcome}");
}

#[test]
fn by_af_xdp_nothing_is_lost_over_orderly_cycles() {
    let Some(_lock) = real::privileged_or_skip(&["ip", "nstat"]) else { return };
    assert_nothing_lost(&run(&["--backend", "af_xdp", "--cycles", "20", "--seed", "15"]), 20);
}

#[test]
fn by_af_xdp_what_is_reported_of_a_veth_that_vanishes_is_lost() {
    let Some(_lock) = real::privileged_or_skip(&["ip", "nstat"]) else { return };
    let outcome = run(&["--backend", "af_xdp", "--surprise", "--cycles", "20", "--seed", "16"]);
    assert_all_is_accounted_for(&outcome, 20);
}

#[test]
fn of_a_veth_that_vanishes_twenty_times_what_is_reported_is_lost_and_nothing_comes_twice_or_late() {
    let Some(_lock) = real::privileged_or_skip(&["ip", "nstat"]) else { return };
    let outcome = run(&["--backend", "af_packet", "--surprise", "--cycles", "20", "--seed", "14"]);
    assert_all_is_accounted_for(&outcome, 20);
}
