//! `l2fwd` between two adapters of one machine: with the very code that runs on `uio_hv_generic`, in a process of its own,
//! against `netvsc-host` in another; the kernel is played by the preloaded library of `tests/dpdk`.
//!
//! What the kernel's TCP/IP says of it is in `offload_matrix`.
#![cfg(target_os = "linux")]

use std::ffi::OsString;
use std::process::Command;
use std::time::{Duration, Instant};

use netvsc_tests::process::{self, CLIENT_TOOLS, Host, last_line, number};
use serde_json::Value;

#[test]
fn frames_of_each_adapter_leave_by_the_other_on_every_queue() {
    let Some(_turn) = process::turn(&CLIENT_TOOLS) else { return };
    for (queues, wait, size, copybreak) in [
        ("1", "interrupt", "64", "off"),
        ("4", "interrupt", "1514", "off"),
        ("2", "poll", "512", "off"),
        ("1", "interrupt", "1514", "256"),
    ] {
        let what = format!("{queues} queues, {wait}, {size} bytes, --rx-copybreak {copybreak}");
        let port = format!("generator:20000,{size}");
        let host = Host::start(&["--devices", "2", "--port", &port, "--queues", queues]);
        let devices = devices(&host);
        let mut client = host.client(process::example("l2fwd"));
        for device in &devices {
            client.arg("--device").arg(device);
        }
        client.args(["--queues", queues, "--wait", wait, "--rx-copybreak", copybreak]);
        // What is generated is one flow, so that of several queues one alone has its share: then the time ends it.
        let seconds = if queues == "1" { "20" } else { "4" };
        client.args(["--packets", "20000", "--seconds", seconds, "--json"]);
        let output = process::output(client);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{what}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        let client = last_line(&said);
        let devices = host.finish_all();
        assert_eq!(client["clean"], true, "{what}: {client}");
        // Who polls cannot wait for room: the host may be slower.
        assert!(wait == "poll" || client["lost"] == 0, "{what}: {client}");
        let held: Vec<u64> = [0, 1].iter().map(|at| number(&client["adapters"][at], "rx_held")).collect();
        assert!(held.iter().all(|held| (*held > 0) == (copybreak != "off")), "{what}: {client}");
        let directions = client["directions"].as_array().expect("two directions");
        assert!(directions.len() == 2 && directions.iter().all(|way| number(way, "packets") > 500), "{what}: {client}");
        // Both at a time: which direction is whose the process does not say.
        let mut passed_on: Vec<u64> =
            directions.iter().map(|way| number(way, "packets") - number(way, "lost")).collect();
        let mut arrived: Vec<u64> = devices.iter().map(|device| number(device, "rx_packets")).collect();
        passed_on.sort_unstable();
        arrived.sort_unstable();
        assert_eq!(passed_on, arrived, "{what}: {client} {devices:?}");
        assert!(devices.iter().all(|device: &Value| number(device, "leaks") == 0), "{what}: {devices:?}");
    }
}

#[test]
fn what_cannot_be_is_refused_before_any_adapter_is_looked_for() {
    let Some(_turn) = process::turn(&[]) else { return };
    for (arguments, words) in [
        (&["--rx-copybreak", "127"][..], &["'127'", "'--rx-copybreak <N|off>'", "rx_copybreak", "128"][..]),
        (&["--rx-copybreak", "some"], &["'some'", "'--rx-copybreak <N|off>'", "a number of bytes is needed, or off"]),
        (&["--rx-copybreak", "256", "--mode", "rxonly"], &["--rx-copybreak", "--mode io"]),
        (&["--rx-copybreak", "256", "--checksums", "compute"], &["--rx-copybreak", "--checksums keep"]),
        (&["--device", "none"], &["from one adapter to another", "Usage: l2fwd"]),
        (&["--device", "other", "--device", "third"], &["once or twice"]),
    ] {
        let mut l2fwd = Command::new(process::example("l2fwd"));
        let output = l2fwd.args(["--device", "none"]).args(arguments).output().expect("l2fwd starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(words.iter().all(|word| said.contains(word)), "{arguments:?}: {said}");
    }
}

/// The instances of both devices, once there are two.
fn devices(host: &Host) -> Vec<OsString> {
    let names = |folder: &str| -> Vec<OsString> {
        let entries = std::fs::read_dir(host.root().join(folder)).expect("a folder");
        entries.map(|entry| entry.expect("an entry").file_name()).collect()
    };
    let start = Instant::now();
    // The socket of a device comes last.
    while names("dev").iter().filter(|name| name.to_string_lossy().ends_with(".sock")).count() < 2 {
        assert!(start.elapsed() < process::PATIENCE, "the second device does not come");
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut devices = names("sys/bus/vmbus/devices");
    devices.sort();
    assert_eq!(devices.len(), 2);
    devices
}
