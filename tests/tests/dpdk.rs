//! DPDK as referee: its unmodified `net_netvsc`, driven by testpmd, against `netvsc-host` as a process.
//!
//! Nobody here wrote that driver, and it shares no code with this project's. Every frame that it sends or forwards is
//! checked by the host. Needs testpmd (Debian: `dpdk dpdk-dev`), a C compiler and make; without them the tests say
//! `SKIPPED` and why, and fail where the variable `CI` is set. `tests/dpdk/README.md` describes the machinery.
//!
//! The host program is built by cargo when the first test needs it (`netvsc_tests::process`).

#![cfg(target_os = "linux")]

use std::sync::MutexGuard;

use netvsc_tests::process::{self, Host, Testpmd, assert_accounted, number};
use serde_json::Value;

/// Sends that testpmd has under way on a queue at most (`--txd`), and frames in each of them (the host's limit).
const SEND_DESCRIPTORS: u64 = 512;
const AGGREGATE: u64 = 8;
/// Frames after which a run has shown what it can.
const ENOUGH: u64 = 20_000;

#[test]
fn handshake() {
    let Some(_turn) = referee() else { return };
    for profile in ["ws2012r2", "ws2016", "ws2019", "ws2022"] {
        let mut host = Host::start(&["--port", "loopback", "--credit", "64", "--profile", profile]);
        let testpmd = Testpmd::start(&host, &["--forward-mode=io"]);
        host.wait_until("returned", 1);
        testpmd.stop();
        let device = host.finish();
        assert_clean(&device, profile);
        let version = if profile < "ws2019" { "5" } else { "6.1" };
        assert_eq!(device["nvsp_version"], version, "{profile}");
    }
}

#[test]
fn old_nvsp_versions() {
    let Some(_turn) = referee() else { return };
    for version in ["2", "4", "5", "6"] {
        let mut host = Host::start(&["--port", "loopback", "--credit", "64", "--nvsp-max", version]);
        let testpmd = Testpmd::start(&host, &["--forward-mode=io"]);
        host.wait_until("returned", 1000);
        testpmd.stop();
        assert_clean(&host.finish(), version);
    }
}

#[test]
fn forwards_every_frame() {
    let Some(_turn) = referee() else { return };
    for (queues, size) in shapes() {
        let what = format!("io, {queues} queues, {size} bytes");
        let mut host =
            Host::start(&["--port", "loopback", "--credit", "256", "--queues", queues, "--packet-size", size]);
        let testpmd = Testpmd::start(&host, &["--forward-mode=io", &rxq(queues), &txq(queues)]);
        host.wait_until("returned", ENOUGH);
        let output = testpmd.stop();
        for queue in 0..queues.parse::<u32>().unwrap() {
            let name = format!("RX Port= 0/Queue= {queue} ");
            assert!(output.contains(&name) || queues == "1", "{what}: nothing came on queue {queue}\n{output}");
        }
        let device = host.finish();
        assert_clean(&device, &what);
        assert_eq!(number(&device, "lost"), 0, "{what}: {device}");
        assert!(number(&device, "in_flight_at_close") <= 256, "{what}: {device}");
        assert_accounted(&device, &what);
    }
}

#[test]
fn receives() {
    let Some(_turn) = referee() else { return };
    for (queues, size) in shapes() {
        let what = format!("rxonly, {queues} queues, {size} bytes");
        let port = format!("generator:20000,{size}");
        let mut host = Host::start(&["--port", &port, "--queues", queues]);
        let testpmd = Testpmd::start(&host, &["--forward-mode=rxonly", "--rxd=4096", &rxq(queues), &txq(queues)]);
        host.wait_until("tx_packets", ENOUGH);
        let output = testpmd.stop();
        let device = host.finish();
        assert_clean(&device, &what);
        let (sent, received) = (number(&device, "tx_packets"), statistic(&output, "RX-packets"));
        assert!(received > 0 && received <= sent, "{what}: {received} of {sent} received\n{output}");
        assert_eq!(number(&device, "rx_packets"), 0, "{what}");
    }
}

#[test]
fn sends() {
    let Some(_turn) = referee() else { return };
    for (queues, size) in shapes() {
        let what = format!("txonly, {queues} queues, {size} bytes");
        let mut host = Host::start(&["--port", "null", "--queues", queues]);
        let size = format!("--txpkts={size}");
        let testpmd = Testpmd::start(&host, &["--forward-mode=txonly", &size, &rxq(queues), &txq(queues)]);
        host.wait_until("rx_packets", ENOUGH);
        let output = testpmd.stop();
        let device = host.finish();
        assert_clean(&device, &what);
        // testpmd's statistics are its driver's, which counts a frame when its completion is read (`hn_nvs_send_completed`),
        // not when it is sent. So all that it counts has come; what is more was under way when it stopped reading. Frames
        // that were refused for want of descriptors are in neither count.
        let (sent, come) = (statistic(&output, "TX-packets"), number(&device, "rx_packets"));
        let under_way = queues.parse::<u64>().unwrap() * SEND_DESCRIPTORS * AGGREGATE;
        assert!((sent..=sent + under_way).contains(&come), "{what}: {come} of {sent} have come\n{device}\n{output}");
    }
}

#[test]
fn checksums_are_completed() {
    let Some(_turn) = referee() else { return };
    for traffic in ["udp", "tcp"] {
        let credit = ["--port", "loopback", "--credit", "64", "--packet-size", "300"];
        let mut host = Host::start(&[&credit[..], &["--checksum-offload", "--traffic", traffic]].concat());
        // IPv4, UDP and TCP checksums in hardware: RTE_ETH_TX_OFFLOAD_*_CKSUM.
        let testpmd = Testpmd::start(&host, &["--forward-mode=csum", "--tx-offloads=0xe"]);
        host.wait_until("returned", ENOUGH);
        testpmd.stop();
        let device = host.finish();
        assert_clean(&device, traffic);
        assert_eq!(number(&device, "lost"), 0, "{traffic}: {device}");
        // Each one that came back had its checksums left out: the host compares the completed frame with what it sent.
        let (computed, returned) = (number(&device, "tx_checksums"), number(&device, "returned"));
        assert!(computed >= returned && returned >= ENOUGH, "{traffic}: {device}");
    }
}

#[test]
fn killed_at_any_moment() {
    let Some(_turn) = referee() else { return };
    const TIMES: u64 = 20;
    let mut host = Host::start(&["--port", "loopback", "--credit", "256", "--queues", "2"]);
    let mut returned = 0;
    for time in 1..=TIMES {
        let testpmd = Testpmd::start(&host, &["--forward-mode=io", "--rxq=2", "--txq=2"]);
        if time % 4 == 0 {
            // In the middle of its start.
            host.wait_until("sessions", time);
        } else {
            host.wait_until("returned", returned + 1000);
        }
        testpmd.kill();
        host.wait_for_line("no client");
        returned = host.last("returned");
        assert!(host.folders("channels").len() <= 1, "subchannels are gone: {:?}", host.folders("channels"));
    }
    let device = host.finish();
    assert_eq!(number(&device, "sessions"), TIMES, "{device}");
    assert_clean(&device, "killed");
    assert_eq!(number(&device, "lost"), 0, "{device}");
}

#[test]
fn two_devices_at_once() {
    let Some(_turn) = referee() else { return };
    let mut host = Host::start(&["--devices", "2", "--port", "loopback", "--credit", "64"]);
    // DPDK takes every NIC that it finds.
    let testpmd = Testpmd::start(&host, &["--forward-mode=io", "--port-topology=loop"]);
    host.wait_until("returned", 1000);
    testpmd.stop();
    let devices = host.finish_all();
    assert_eq!(devices.len(), 2);
    for device in &devices {
        assert_clean(device, "two devices");
        assert!(number(device, "returned") > 0, "{device}");
        assert_eq!(number(device, "lost"), 0, "{device}");
    }
}

/// Queues and frame sizes that are tried.
fn shapes() -> impl Iterator<Item = (&'static str, &'static str)> {
    ["1", "2", "4"].into_iter().flat_map(|queues| ["64", "1500"].map(|size| (queues, size)))
}

fn rxq(queues: &str) -> String {
    format!("--rxq={queues}")
}

fn txq(queues: &str) -> String {
    format!("--txq={queues}")
}

/// No frame was changed or came twice, no rule was broken, everything was given back.
#[track_caller]
fn assert_clean(device: &Value, what: &str) {
    for field in ["corrupt", "reordered", "late", "foreign", "protocol_violations", "leaks"] {
        assert_eq!(number(device, field), 0, "{what}: {field}: {device}");
    }
}

/// A number of testpmd's final statistics, of all ports.
#[track_caller]
fn statistic(output: &str, name: &str) -> u64 {
    let end = output.rsplit("Accumulated forward statistics").next().unwrap_or_default();
    let value = end.split(name).nth(1).and_then(|rest| rest.trim_start_matches(':').split_whitespace().next());
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in\n{output}"))
}

/// One test at a time, if there is a referee at all.
fn referee() -> Option<MutexGuard<'static, ()>> {
    process::turn(&["dpdk-testpmd", "cc", "make"])
}
