//! Our driver in a process of its own, against `netvsc-host` in another: `examples/l2fwd` with the very code that runs on
//! `uio_hv_generic`, the kernel played by the preloaded library of `tests/dpdk`.
//!
//! The host keeps frames under way in a closed loop and checks each that comes back. Needs a C compiler and make; without
//! them the tests say `SKIPPED` and why, and fail where the variable `CI` is set.
//!
//! The programs are built by cargo (`netvsc_tests::process`).

#![cfg(target_os = "linux")]

use std::process::Stdio;
use std::sync::MutexGuard;

use netvsc_tests::process::{self, CLIENT_TOOLS, Host, assert_accounted, last_line, number};
use serde_json::Value;

#[test]
fn a_polling_client_forwards_every_frame_without_allocating() {
    let Some(_turn) = tools() else { return };
    for size in ["64", "1500"] {
        let (client, _) = forward(&["--packet-size", size], &["--wait", "poll"]);
        assert_eq!(client["allocations"], 0, "{size} bytes: {client}");
    }
}

#[test]
fn a_sleeping_client_forwards_every_frame() {
    let Some(_turn) = tools() else { return };
    for wait in ["interrupt", "adaptive"] {
        forward(&[], &["--wait", wait]);
    }
}

#[test]
fn queues_forward_side_by_side() {
    let Some(_turn) = tools() else { return };
    for wait in ["poll", "interrupt"] {
        let queues = ["--queues", "2"];
        let (client, _) = forward(&queues, &[&queues[..], &["--wait", wait]].concat());
        assert_eq!(client["queues"], 2, "{client}");
    }
}

/// Has frames go round for a while; what client and host say in the end.
#[track_caller]
fn forward(host: &[&str], client: &[&str]) -> (Value, Value) {
    let what = format!("host {host:?}, client {client:?}");
    let host = Host::start(&[&["--port", "loopback", "--credit", "64"], host].concat());
    let client = l2fwd(&host, &[&["--mode", "io", "--seconds", "1"], client].concat());
    let device = host.finish();
    for field in ["lost", "corrupt", "reordered", "late", "foreign", "protocol_violations", "leaks"] {
        assert_eq!(device[field], 0, "{what}: {field}: {device}");
    }
    assert!(number(&device, "returned") > 0, "{what}: {device}");
    assert_accounted(&device, &what);
    assert_eq!(client["lost"], 0, "{what}: {client}");
    assert_eq!(client["clean"], true, "{what}: {client}");
    assert_eq!(client["packets"], device["returned"], "{what}: {device}");
    (client, device)
}

/// Runs `l2fwd` on the host's device to its end; the last line it says.
#[track_caller]
fn l2fwd(host: &Host, arguments: &[&str]) -> Value {
    let mut command = host.client(process::example("l2fwd"));
    command.args(["--device", &host.device(), "--json"]).args(arguments);
    let output = command.stderr(Stdio::inherit()).output().expect("l2fwd starts");
    assert!(output.status.success(), "l2fwd {arguments:?}: {}", output.status);
    last_line(&String::from_utf8_lossy(&output.stdout))
}

/// One test at a time, if there is what they need.
fn tools() -> Option<MutexGuard<'static, ()>> {
    process::turn(&CLIENT_TOOLS)
}
