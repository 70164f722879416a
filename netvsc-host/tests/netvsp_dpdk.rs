//! What DPDK's netvsc driver really sent, session by session: this host must accept all of it, the odd ones too.
//!
//! The recorded host was the simplest that DPDK works with, so its answers are no measure; but everything that asked for
//! a completion must get one, and say success.

mod common;

use common::{Guest, Session, hex, word};
use netvsc_host::{Profile, ViolationKind};

/// Rings, receive buffer and send buffer as `uio_hv_generic` has them: the rings' GPADL is not recorded.
const RINGS: u64 = 999;

/// Plays a session; the rules that its guest broke.
fn play(name: &str) -> Vec<ViolationKind> {
    let session = Session::read("dpdk-guest", name);
    let mut settings = Profile::Ws2019.settings();
    let accepted = session.host()["nvsp_accepted"].as_array().expect("versions");
    let newest = accepted.iter().filter_map(serde_json::Value::as_u64).max().unwrap_or(0);
    settings.nvsp_max = nvsp::Version(newest as u32);
    settings.nvsp_refusal = nvsp::Status(session.host()["nvsp_refusal_status"].as_u64().unwrap_or(0) as u32);
    let limit = |key: &str| session.host()[key].as_u64().expect("a limit") as u32;
    settings.max_packets_per_message = limit("max_packets_per_message");
    settings.max_transfer_bytes = limit("max_transfer_size");
    settings.alignment_log2 = limit("alignment_log2");
    let mut guest = Guest::new(&session, settings);
    let buffer = |which: &str, key: &str| session.guest()[which][key].as_u64().expect("a buffer");
    for which in ["recv_buffer", "send_buffer"] {
        assert!(guest.create(buffer(which, "gpadl"), None, buffer(which, "bytes") / 4096));
    }
    let mut sent = 0;
    let mut completed = 0;
    for event in session.events() {
        let at = format!("{name}, event {}", event["n"]);
        // Of a few sessions the primary channel is looked at alone.
        if event["ch"].as_u64().is_some_and(|channel| channel != 0) {
            continue;
        }
        match event["ev"].as_str().expect("ev") {
            "open" => {
                let downstream = event["downstream_page"].as_u64().expect("a page");
                assert!(guest.create(RINGS, None, downstream * 2));
                assert!(guest.open(RINGS, downstream as u32), "{at}");
            }
            "client_disconnected" if guest.channel.is_some() => {
                guest.close();
                guest.teardown(RINGS);
            }
            // What comes back goes by this host's own ids, below.
            "packet" if event["dir"] == "g2h" && event["type"] != 11 => {
                sent += u64::from(event["flags"] == 1);
                guest.write(event, event["tid"].as_u64().expect("an id"));
                guest.run();
                guest.read();
                while let Some(taken) = guest.inbox.pop_front() {
                    if taken.is_completion() {
                        completed += 1;
                        let kind = word(&taken.payload, 0);
                        let status = word(&taken.payload, if kind == 2 { 12 } else { 4 });
                        let refused = kind == 2 && status == guest_refusal(&session);
                        assert!(status == 1 || refused, "{at}: {}: {:x?}", event["note"], taken.payload);
                    } else if !taken.ranges.is_empty() {
                        guest.write(&acknowledgement(), taken.id);
                        guest.run();
                        guest.read();
                    }
                }
                assert_eq!(completed, sent, "{at}: {}: {:02x?}", event["note"], hex(&event["payload"]));
            }
            _ => {}
        }
    }
    guest.teardown(buffer("recv_buffer", "gpadl"));
    guest.teardown(buffer("send_buffer", "gpadl"));
    let report = guest.finish().report();
    assert!(!report.nics[0].silent, "{name}: {report}");
    assert!(report.leaks.is_none(), "{name}: {report}");
    report.violations.iter().map(|violation| violation.kind).collect()
}

fn guest_refusal(session: &Session) -> u32 {
    session.host()["nvsp_refusal_status"].as_u64().unwrap_or(0) as u32
}

/// As DPDK completes what it received: 40 bytes.
fn acknowledgement() -> serde_json::Value {
    let payload = format!("6c00000001000000{}", "00".repeat(32));
    serde_json::json!({ "type": 11, "flags": 0, "ext": "", "payload": payload })
}

#[test]
fn every_session_is_accepted() {
    for name in [
        "nvsp61-txonly-64",
        "nvsp61-txonly-1500",
        "nvsp61-txonly-64-gpa",
        "nvsp61-txonly-1500-sections",
        "nvsp61-txonly-segments",
        "nvsp61-txonly-aggregate-3-align-64",
        "nvsp61-txonly-aggregate-1024-bytes",
        "nvsp61-txonly-aggregate-1",
        "nvsp61-io",
        "nvsp61-io-extmbuf",
        "nvsp60-io",
        "nvsp5-io",
        "nvsp4-io",
        "nvsp2-io",
        "nvsp1-io",
        "nvsp-none",
        "csum-sw",
        "csum-hw",
        "csum-hw-ip-only",
        "tso-500",
        "tso-100",
        "vlan-insert",
        "vlan-inband",
        "rx-ppi",
        "rx-ppi-vlan-strip",
        "control",
        "host-notices",
        "refused-permanent-address",
        "refused-receive-buffer",
        "refused-send-buffer",
        "refused-rss-capabilities",
        "killed",
    ] {
        assert_eq!(play(name), [], "{name}");
    }
}

#[test]
fn frames_beyond_the_mtu_are_completed_and_recorded() {
    let rules = play("nvsp61-txonly-long-frames");
    assert!(!rules.is_empty() && rules.iter().all(|&rule| rule == ViolationKind::BadFrame), "{rules:?}");
}
