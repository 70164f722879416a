//! Our driver in a process of its own, against `netvsc-host` in another: `examples/l2fwd` with the very code that runs on
//! `uio_hv_generic`, the kernel played by the preloaded library of `tests/dpdk`.
//!
//! The host keeps frames under way in a closed loop and checks each that comes back. Needs a C compiler and make; without
//! them the tests say `SKIPPED` and why, and fail where the variable `CI` is set.
//!
//! The programs are built by cargo (`netvsc_tests::process`).

#![cfg(target_os = "linux")]

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

/// Longer frames than the limit go from the host's memory to the host's memory, but for their heads; others are copied.
#[test]
fn frames_that_are_held_are_forwarded_bit_by_bit() {
    let Some(_turn) = tools() else { return };
    for (size, wait) in [("64", "poll"), ("256", "interrupt"), ("257", "poll"), ("1514", "poll"), ("1500", "interrupt")]
    {
        let (client, _) = forward(&["--packet-size", size], &["--wait", wait, "--rx-copybreak", "256"]);
        let held = number(&client["adapters"][0], "rx_held");
        assert_eq!(held > 0, size.parse::<u64>().expect("a number") > 256, "{size} bytes: {client}");
    }
}

/// Who writes the interrupt masks, whom interrupt control reaches and whose subchannels may interrupt is different in each.
#[test]
fn every_kernel_forwards_on_one_queue_and_on_four() {
    let Some(_turn) = tools() else { return };
    let monitored = ["a", "b", "c", "d", "bd"].map(|kernel| (kernel, true));
    let unmonitored = ["b", "c", "d", "bd"].map(|kernel| (kernel, false));
    for (kernel, monitored) in monitored.into_iter().chain(unmonitored) {
        for queues in ["1", "4"] {
            if queues == "4" && !monitored && ["b", "bd"].contains(&kernel) {
                // They signal the host on the primary channel only, so there is one queue.
                continue;
            }
            let mut host = vec!["--kernel", kernel, "--queues", queues];
            host.extend((!monitored).then_some("--unmonitored"));
            for wait in ["interrupt", "poll"] {
                forward(&host, &["--queues", queues, "--wait", wait]);
            }
        }
    }
}

#[test]
fn queues_receive_and_send_side_by_side() {
    let Some(_turn) = tools() else { return };
    for (queues, size) in ["1", "2", "4"].into_iter().flat_map(|queues| ["64", "1500"].map(|size| (queues, size))) {
        let what = format!("{queues} queues, {size} bytes");
        let clients = ["--queues", queues, "--packet-size", size];
        forward(&["--queues", queues, "--packet-size", size], &clients);

        let host = Host::start(&["--port", "null", "--queues", queues]);
        let client = l2fwd(&host, &[&ENOUGH[..], &["--mode", "txonly"], &clients].concat());
        let device = host.finish();
        assert_clean(&device, &what);
        assert_eq!(client["clean"], true, "{what}: {client}");
        assert_eq!(used_queues(&client).to_string(), queues, "{what}: {client}");
        assert_eq!(client["packets"], device["rx_packets"], "{what}: every frame that was sent has come");
        assert_eq!(client["bytes"], device["rx_bytes"], "{what}");

        // One flow, which the host gives to one queue; the others have nothing to do.
        let host = Host::start(&["--port", &format!("generator:50000,{size}"), "--queues", queues]);
        let client = l2fwd(&host, &[&["--mode", "rxonly", "--seconds", "1"], &clients[..]].concat());
        let device = host.finish();
        assert_clean(&device, &what);
        assert_eq!(client["clean"], true, "{what}: {client}");
        // What came after the last look is thrown away when the adapter is closed.
        let (received, sent) = (number(&client, "packets"), number(&device, "tx_packets"));
        assert!(received > 0 && received <= sent, "{what}: {received} of {sent}");
    }
}

/// System calls are counted from outside, over two numbers of packets: what the start and the end of a run cost is the same.
#[test]
fn a_polling_client_makes_no_system_calls_for_packets() {
    let Some(_turn) = process::turn(&[&CLIENT_TOOLS[..], &["strace"]].concat()) else { return };
    for (mode, port) in [("io", &["--port", "loopback", "--credit", "64"][..]), ("txonly", &["--port", "null"])] {
        let run = |packets: &str| {
            let host = Host::start(port);
            let client = l2fwd(&host, &["--mode", mode, "--seconds", "60", "--strace", "--packets", packets]);
            assert_clean(&host.finish(), mode);
            assert_eq!(client["allocations"], 0, "{client}");
            (number(&client, "packets"), number(&client, "syscalls"))
        };
        let (few, many) = (run("20000"), run("400000"));
        let (packets, calls) = (many.0 - few.0, many.1.saturating_sub(few.1));
        println!("{mode}: {calls} system calls in {packets} packets: {few:?}, {many:?}");
        // A few go by time, more of them on a busy machine: the adapter's task has the lock, once in a while. One a burst
        // would be ten times as many as this.
        assert!(calls < packets / 1_000, "{mode}: {calls} system calls in {packets} packets: {few:?}, {many:?}");
    }
}

/// A run in which each queue has shown what it can.
const ENOUGH: [&str; 4] = ["--seconds", "60", "--packets", "5000"];

/// Has frames go round for a while, on every queue that is asked for; what client and host say in the end.
#[track_caller]
fn forward(host: &[&str], client: &[&str]) -> (Value, Value) {
    let what = format!("host {host:?}, client {client:?}");
    let queues = client.iter().skip_while(|argument| **argument != "--queues").nth(1).unwrap_or(&"1");
    let host = Host::start(&[&["--port", "loopback", "--credit", "64"], host].concat());
    let client = l2fwd(&host, &[&ENOUGH[..], &["--mode", "io"], client].concat());
    let device = host.finish();
    assert_clean(&device, &what);
    assert!(number(&device, "returned") > 0, "{what}: {device}");
    assert_accounted(&device, &what);
    assert_eq!(client["lost"], 0, "{what}: {client}");
    assert_eq!(client["clean"], true, "{what}: {client}");
    assert_eq!(client["packets"], device["returned"], "{what}: {device}");
    assert_eq!(used_queues(&client).to_string(), *queues, "{what}: {client}");
    (client, device)
}

/// Queues that have carried frames.
fn used_queues(client: &Value) -> usize {
    let queues = client["queue_packets"].as_array().expect("queues");
    queues.iter().filter(|packets| packets.as_u64() != Some(0)).count()
}

/// No frame was lost, changed or came twice, no rule was broken, everything was given back.
#[track_caller]
fn assert_clean(device: &Value, what: &str) {
    for field in ["lost", "corrupt", "reordered", "late", "foreign", "protocol_violations", "leaks"] {
        assert_eq!(device[field], 0, "{what}: {field}: {device}");
    }
}

/// Runs `l2fwd` on the host's device to its end; the last line it says.
#[track_caller]
fn l2fwd(host: &Host, arguments: &[&str]) -> Value {
    let mut command = host.client(process::example("l2fwd"));
    command.args(["--device", &host.device(), "--json"]).args(arguments);
    let output = process::output(command);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "l2fwd {arguments:?}: {}\n{complained}", output.status);
    last_line(&String::from_utf8_lossy(&output.stdout))
}

/// One test at a time, if there is what they need.
fn tools() -> Option<MutexGuard<'static, ()>> {
    process::turn(&CLIENT_TOOLS)
}
