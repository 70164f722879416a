//! The bring-up with a host that behaves: every version, what is asked in which order, and what comes out.

mod control_host;

use control_host::{BRING_UP, MAC, React, Rig};
use netvsc::control::{Cause, Event, Step};
use netvsc::{Config, LinkState, MacAddress, PacketFilter, Sections, Warning};
use nvsp::Version;

#[test]
fn the_newest_version_asks_for_everything_in_order() {
    let mut rig = Rig::new(Config::default());
    rig.settle();
    assert_eq!(rig.labels, BRING_UP);
    let info = rig.info();
    assert_eq!(info.nvsp_version, Version::V6_1);
    assert_eq!(info.mac, MacAddress(MAC));
    assert_eq!(info.mtu, 1500);
    assert_eq!(info.friendly_name.as_deref(), Some("uplink"));
    assert_eq!(info.receive, Sections { requested: 9709, count: 9709, section_bytes: 1728 });
    assert_eq!(info.send, Some(Sections { requested: 170, count: 170, section_bytes: 6144 }));
    assert!(info.direct && info.link == LinkState::Up);
    assert_eq!(info.link_speed.unwrap().bits_per_second(), 10_000_000_000);
    assert_eq!(info.rss.unwrap().receive_queues, 8);
    assert_eq!((info.limits.max_packets, info.limits.alignment), (8, 8));
    assert!(matches!(&rig.events[..], [Event::Ready(ready)] if **ready == *info), "{:?}", rig.events);
    assert_eq!(rig.control.poll_timeout(), None);
}

#[test]
fn every_version_comes_up_by_fallback_on_the_same_channel() {
    for (index, newest) in Version::ALL.into_iter().enumerate() {
        let mut rig = Rig::new(Config::default());
        rig.newest = newest;
        rig.settle();
        assert_eq!(rig.info().nvsp_version, newest);
        let has = |label: &str| rig.labels.iter().any(|seen| seen == label);
        assert_eq!(rig.labels.iter().filter(|label| label.starts_with("init ")).count(), index + 1);
        assert_eq!(rig.labels.iter().filter(|label| *label == "open").count(), 1);
        assert_eq!(has("ndis config"), newest >= Version::V2);
        assert_eq!(has("ndis version 6.1"), newest < Version::V5);
        assert_eq!(has("ndis version 6.30"), newest >= Version::V5);
        assert_eq!(has("query RECEIVE_SCALE_CAPABILITIES"), newest >= Version::V5);
        assert_eq!(rig.info().receive.count, 9709.min(if newest <= Version::V2 { 9102 } else { 9709 }));
    }
}

#[test]
fn answers_and_completions_may_come_in_either_order() {
    let mut rig = Rig::new(Config::default());
    rig.answer_first = true;
    rig.settle();
    assert_eq!(rig.labels, BRING_UP);
    assert_eq!(rig.control.counters(), &netvsc::control::Counters::default());
}

#[test]
fn a_host_without_any_version_is_refused() {
    let mut rig = Rig::new(Config::default());
    rig.newest = Version(0);
    rig.settle();
    let failed = rig.events.pop();
    assert!(
        matches!(failed, Some(Event::Failed { step: Step::Negotiate, cause: Cause::NoVersion { status }, .. })
            if status == nvsp::Status::NONE),
        "{failed:?}"
    );
    assert_eq!(rig.since("init 1"), ["init 1", "detach", "close"]);
}

#[test]
fn an_isolated_guest_does_not_fall_back() {
    let mut rig = Rig::new(Config::default().isolated(true));
    rig.newest = Version::V6;
    rig.settle();
    let failed = rig.events.pop();
    assert!(matches!(failed, Some(Event::Failed { cause: Cause::TooOld { .. }, .. })), "{failed:?}");
    assert!(!rig.labels.contains(&"init 6".to_owned()));
}

#[test]
fn sections_are_what_was_wished_within_the_limits() {
    for (wish, version, sections, clamped) in [
        (10, Version::V6_1, 11, false),
        (64, Version::V6_1, 64, false),
        (18811, Version::V6_1, 18811, false),
        (18812, Version::V6_1, 18811, true),
        (u32::MAX, Version::V6_1, 18811, true),
        (18811, Version::V2, 9102, true),
        (9102, Version::V1, 9102, false),
    ] {
        let mut rig = Rig::new(Config::default().receive_sections(wish));
        rig.newest = version;
        rig.settle();
        assert_eq!(rig.info().receive.requested, wish);
        assert_eq!(rig.info().receive.count, sections, "{wish} at {version}");
        let warned = rig.events.iter().any(|event| {
            matches!(event, Event::Warning(Warning::Clamped { field: "receive_sections", effective, .. }) if *effective == sections)
        });
        assert_eq!(warned, clamped, "{wish} at {version}");
    }
    for (wish, sections) in [(10, 10), (170, 170), (2560, 2560), (2561, 2560), (u32::MAX, 2560)] {
        let mut rig = Rig::new(Config::default().send_sections(wish));
        rig.settle();
        assert_eq!(rig.info().send.unwrap(), Sections { requested: wish, count: sections, section_bytes: 6144 });
    }
}

#[test]
fn few_receive_sections_warn() {
    let mut rig = Rig::new(Config::default().receive_sections(10));
    rig.settle();
    assert!(rig.events.contains(&Event::Warning(Warning::FewReceiveSections { count: 11, minimum: 17 })));
    let mut rig = Rig::new(Config::default().receive_sections(17));
    rig.settle();
    assert!(!rig.events.iter().any(|event| matches!(event, Event::Warning(_))), "{:?}", rig.events);
}

#[test]
fn the_host_has_the_last_word_on_the_mtu() {
    for (config, host, mtu, warned) in
        [(9000, 9000, 9000, false), (9000, 8986, 8986, true), (1500, 9000, 1500, false), (1500, 68, 68, true)]
    {
        let mut rig = Rig::scripted(Config::default().mtu(config), move |label| match label {
            "query MAXIMUM_FRAME_SIZE" => React::Raw(u32::to_le_bytes(host).to_vec()),
            _ => React::Normal,
        });
        rig.settle();
        assert_eq!(rig.info().mtu, mtu);
        let warning = Event::Warning(Warning::MtuLowered { requested: config, effective: mtu });
        assert_eq!(rig.events.contains(&warning), warned);
    }
    let mut old = Rig::new(Config::default().mtu(9000).nvsp_max(Version::V1));
    old.settle();
    assert_eq!(old.info().mtu, 1500, "version 1 has no way to ask for more");
}

#[test]
fn a_refused_send_buffer_is_done_without_where_pages_are_known() {
    for step in ["share send", "allocate Send 1044480"] {
        let script = move |label: &str| if label == step { React::Refuse } else { React::Normal };
        let mut rig = Rig::scripted(Config::default(), script);
        rig.settle();
        assert_eq!(rig.info().send, None);
        assert!(rig.labels.contains(&"release Send".to_owned()));
        assert!(rig.events.iter().any(|event| matches!(event, Event::Warning(Warning::NoSendBuffer { .. }))));
        // It was let go of already: the teardown does not wait for it, nor revoke it.
        rig.control.close(rig.now);
        rig.settle();
        assert!(matches!(rig.events.last(), Some(Event::Closed(report)) if report.is_clean()), "{:?}", rig.events);
        assert!(!rig.labels.contains(&"revoke send".to_owned()));

        let mut rig = Rig::scripted(Config::default(), script);
        rig.direct = false;
        rig.settle();
        let failed = rig.events.last();
        assert!(matches!(failed, Some(Event::Failed { cause: Cause::NoWayToSend { .. }, .. })), "{failed:?}");
    }
}

#[test]
fn no_memory_for_the_send_buffer_is_done_without_too() {
    let mut rig = Rig::scripted(Config::default(), |label| match label {
        "allocate Send 1044480" => React::Raw(Vec::new()),
        _ => React::Normal,
    });
    rig.settle();
    assert_eq!(rig.info().send, None);
    assert!(!rig.labels.contains(&"release Send".to_owned()));
}

#[test]
fn without_a_send_buffer_none_is_shared() {
    let mut rig = Rig::new(Config::default().send_buffer(false));
    rig.settle();
    assert!(rig.info().send.is_none() && rig.info().direct);
    assert!(!rig.labels.iter().any(|label| label.contains("end send") || label.contains("Send")));
}

#[test]
fn pages_without_addresses_are_no_obstacle_where_there_is_a_send_buffer() {
    let mut rig = Rig::new(Config::default());
    rig.direct = false;
    rig.settle();
    assert!(rig.info().send.is_some() && !rig.info().direct);
}

#[test]
fn a_closed_filter_stays_closed() {
    let mut rig = Rig::new(Config::default().packet_filter(PacketFilter::CLOSED));
    rig.settle();
    assert_eq!(rig.info().packet_filter, PacketFilter::CLOSED);
    assert_eq!(rig.labels.last().unwrap(), "query RECEIVE_SCALE_CAPABILITIES");
}

#[test]
fn optional_values_may_be_refused() {
    for step in BRING_UP.into_iter().filter(|label| label.starts_with("query ")) {
        let mut rig =
            Rig::scripted(Config::default(), move |label| if label == step { React::Refuse } else { React::Normal });
        rig.settle();
        let required = matches!(step, "query PERMANENT_ADDRESS" | "query TCP_OFFLOAD_HARDWARE_CAPABILITIES");
        assert_eq!(rig.control.info().is_none(), required, "{step}");
    }
}
