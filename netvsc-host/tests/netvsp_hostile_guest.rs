//! A guest that sends anything: the host must neither panic, nor hang, nor grow, and still work for the next guest.

mod common;

use common::{Guest, Session, hex};
use netvsc_host::{Profile, violation::MAX_VIOLATIONS};
use proptest::prelude::*;
use serde_json::{Value, json};
use vmbus::protocol::ConnectionId;

fn encoded(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A recorded session with bytes of its packets changed, swapped or repeated.
fn mutated(events: &[Value], changes: &[(usize, usize, u8)]) -> Vec<Value> {
    let mut events = events.to_vec();
    let packets: Vec<usize> =
        (0..events.len()).filter(|&n| events[n]["ev"] == "packet" && events[n]["dir"] == "g2h").collect();
    for &(which, place, value) in changes {
        let event = &mut events[packets[which % packets.len()]];
        let field = ["payload", "ext", "gpa", "section"][place % 4];
        let target = if place % 4 < 2 { &mut event[field] } else { &mut event[field]["data"] };
        let mut bytes = hex(target);
        if bytes.is_empty() {
            event["type"] = json!([3, 6, 7, 9, 11][place / 4 % 5]);
            continue;
        }
        let at = place / 4 % bytes.len().min(64);
        bytes[at] = value;
        *target = json!(encoded(&bytes));
    }
    events
}

fn play(guest: &mut Guest, events: &[Value]) {
    for event in events {
        match event["ev"].as_str() {
            Some("gpadl_create") => {
                let number = |key: &str| event[key].as_u64().expect("a number");
                guest.create(number("handle"), Some(number("first_pfn")), number("pages"));
            }
            Some("open") => drop(guest.open(1, event["downstream_page"].as_u64().expect("a page") as u32)),
            Some("packet") if event["dir"] == "g2h" && !guest.host_is_silent() => {
                guest.write(event, event["tid"].as_u64().expect("an id"));
                guest.run();
                guest.drain();
            }
            Some("close") if guest.channel.is_some() => guest.close(),
            Some("gpadl_teardown") => guest.teardown(event["handle"].as_u64().expect("a handle")),
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_packets_harm_nobody(
        changes in prop::collection::vec((any::<usize>(), any::<usize>(), any::<u8>()), 1..12),
        session in prop::sample::select(vec!["v5", "v61", "batch", "rndis-errors", "init-no-send-buffer"]),
    ) {
        let session = Session::read("netvsp-host", session);
        let mut guest = Guest::new(&session, Profile::Ws2022.settings());
        play(&mut guest, &mutated(session.events(), &changes));
        let report = guest.finish().report();
        prop_assert!(report.violations.len() <= MAX_VIOLATIONS);
        prop_assert_eq!(report.leaks.gpadls, 0, "close and teardown work whatever happened");
    }

    #[test]
    fn any_message_of_the_control_plane_harms_nobody(
        messages in prop::collection::vec(
            (0u32..32, prop::collection::vec(any::<u8>(), 0..232), prop::sample::select(vec![1u32, 4, 0x11])),
            1..64,
        ),
    ) {
        let session = Session::read("netvsp-host", "v5");
        let mut guest = Guest::new(&session, Profile::Ws2022.settings());
        for (kind, body, connection) in messages {
            let mut bytes = kind.to_le_bytes().to_vec();
            bytes.extend_from_slice(&[0; 4]);
            // Small numbers name things that exist.
            bytes.extend(body.iter().enumerate().map(|(at, &byte)| if at % 4 == 0 { byte % 4 } else { byte & (byte >> 4) & 1 }));
            guest.post_raw(ConnectionId(connection), &bytes);
        }
        let report = guest.finish().report();
        prop_assert!(report.violations.len() <= MAX_VIOLATIONS);
    }
}
