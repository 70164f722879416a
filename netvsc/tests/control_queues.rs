//! Several queues: subchannels in any order, everything that makes a device fall back to one, the way down, and scaling.

mod control_host;

use std::time::Duration;

use control_host::{BRING_UP, Fed, React, Rig};
use netvsc::control::{Cause, Input, NotAccepted, RequestError, Step};
use netvsc::rss::{RssError, RssKey};
use netvsc::{Config, DeviceInfo, Event, RssSettings, Warning};
use nvsp::{SendTable, SendTableLayout, Status, SubchannelComplete, Version};
use rndis::Oid;
use rndis::rss::{HashInfo, RssCapabilities, RssCapabilityFlags, RssParameters};

const SCALING: Step = Step::Set(Oid::RECEIVE_SCALE_PARAMETERS);

fn config(queues: u16) -> Config {
    Config::default().queues(queues)
}

fn up(queues: u16) -> Rig {
    let mut rig = Rig::new(config(queues));
    rig.settle();
    assert_eq!(rig.info().queues, queues);
    rig.events.clear();
    rig.labels.clear();
    rig
}

/// Key, types and table of the last message that sets scaling.
fn last_scaling(rig: &Rig) -> (Vec<u8>, HashInfo, Vec<u32>) {
    let sets = rig.rndis_sent.iter().rev().filter_map(|message| match rndis::Message::parse(message) {
        Ok(rndis::Message::Set(set)) if set.oid == Oid::RECEIVE_SCALE_PARAMETERS => {
            Some(RssParameters::parse(set.information).unwrap())
        }
        _ => None,
    });
    let parameters = sets.into_iter().find(|parameters| !parameters.is_disabled()).expect("scaling was set");
    (parameters.key.to_vec(), parameters.hash_info, parameters.table.iter().collect())
}

/// One queue, with all that belongs to it, and one warning.
fn assert_one_queue(rig: &Rig, context: &str) -> Warning {
    let info: &DeviceInfo = rig.info();
    assert_eq!((info.queues, info.scaling.as_ref(), info.send_table), (1, None, [0; 16]), "{context}");
    assert!(rig.open.is_empty(), "{context}: {:?} are open", rig.open);
    assert_eq!(rig.shares, [(0, 0, 170)], "{context}");
    assert_eq!(rig.labels.last().map(String::as_str), Some("filter 13"), "{context}");
    let about_queues = |event: &Event| match event {
        Event::Warning(warning @ (Warning::FewQueues { .. } | Warning::OneQueue { .. })) => Some(*warning),
        _ => None,
    };
    let warnings: Vec<_> = rig.events.iter().filter_map(about_queues).collect();
    let [warning] = warnings[..] else { panic!("{context}: {warnings:?}") };
    warning
}

#[test]
fn one_queue_asks_for_nothing_more() {
    let mut rig = Rig::new(config(1));
    rig.settle();
    assert_eq!(rig.labels, BRING_UP);
    assert!(rig.info().scaling.is_none());
}

#[test]
fn four_queues_are_open_and_scaled_over_before_frames_may_come() {
    let mut rig = Rig::new(config(4));
    rig.settle();
    let expected = [
        "query RECEIVE_SCALE_CAPABILITIES",
        "subchannels 3",
        "open 1",
        "open 2",
        "open 3",
        "attach 1",
        "attach 2",
        "attach 3",
        "scaling off",
        "scaling on",
        "filter 13",
    ];
    assert_eq!(rig.since(expected[0]), expected);
    let info = rig.info();
    assert_eq!(info.queues, 4);
    assert_eq!(info.send_table[..6], [0, 1, 2, 3, 0, 1]);
    assert!(matches!(&rig.events[..], [Event::Ready(ready)] if **ready == *info), "{:?}", rig.events);
    assert_eq!(rig.shares, [(0, 0, 42), (1, 42, 85), (2, 85, 127), (3, 127, 170)]);
    let (key, types, table) = last_scaling(&rig);
    assert_eq!((key.as_slice(), types), (&RssKey::MICROSOFT.0[..], HashInfo::LINUX));
    assert!(table.len() == 128 && table.iter().enumerate().all(|(at, queue)| *queue == at as u32 % 4));
    assert_eq!(rig.control.counters().violations, 0);
    assert_eq!(rig.control.poll_timeout(), None);
}

#[test]
fn offers_come_in_any_order_and_before_the_answer() {
    for before in 0..=7 {
        for offers in [
            |n| (1..=n).collect::<Vec<u16>>(),
            |n| (1..=n).rev().collect(),
            |n| (0..n).map(|at| at * 3 % 7 + 1).collect(),
        ] {
            let mut rig = Rig::new(config(8));
            (rig.offers, rig.offers_before_answer) = (offers, before);
            rig.settle();
            assert_eq!(rig.info().queues, 8, "{:?}", rig.events);
            assert_eq!(rig.open.len(), 7);
            rig.shares.sort_unstable();
            assert!(rig.shares.windows(2).all(|pair| pair[0].2 == pair[1].1), "{:?}", rig.shares);
        }
    }
}

#[test]
fn fewer_are_granted_than_asked_for() {
    let mut rig = Rig::new(config(8));
    rig.most_subchannels = 2;
    rig.settle();
    assert_eq!(rig.info().queues, 3);
    assert!(rig.events.contains(&Event::Warning(Warning::FewQueues { requested: 8, effective: 3 })));
    rig.shares.sort_unstable();
    assert_eq!(rig.shares, [(0, 0, 56), (1, 56, 113), (2, 113, 170)]);
    assert!(last_scaling(&rig).2.iter().all(|queue| *queue < 3));
}

#[test]
fn limits_of_the_host_come_before_the_request() {
    let capabilities = |flags, queues, entries| {
        let value = RssCapabilities {
            revision: 2,
            flags: RssCapabilityFlags(flags),
            interrupt_messages: 1,
            receive_queues: queues,
            indirection_entries: Some(entries),
        };
        let mut bytes = vec![0; 18];
        value.emit(&mut bytes).unwrap();
        bytes
    };
    for (value, effective) in [
        (capabilities(0x301, 0, 128), 1),
        (capabilities(0x301, 1, 128), 1),
        (capabilities(0x301, 5, 128), 5),
        (capabilities(0x301, 64, 3), 3),
        (capabilities(0x301, u32::MAX, 0), 6),
        (capabilities(0x300, 8, 128), 1),
        (capabilities(0x001, 8, 128), 1),
        (capabilities(0x101, 8, 128), 6),
        (vec![1, 2, 3], 1),
    ] {
        let answer = value.clone();
        let mut rig = Rig::scripted(config(6), move |label| {
            if label == "query RECEIVE_SCALE_CAPABILITIES" { React::Raw(answer.clone()) } else { React::Normal }
        });
        rig.settle();
        assert_eq!(rig.info().queues, effective, "{value:?}");
        let warned = rig.events.contains(&Event::Warning(Warning::FewQueues { requested: 6, effective }));
        assert_eq!(warned, effective < 6);
        if effective == 1 {
            assert_one_queue(&rig, "capabilities");
            assert!(!rig.labels.iter().any(|label| label.starts_with("subchannels")));
        }
        if value.get(5) == Some(&1) {
            assert_eq!(last_scaling(&rig).1.0, 0x301, "IPv4 only");
        }
    }
}

#[test]
fn hosts_without_scaling_have_one_queue() {
    for newest in [Version::V1, Version::V2, Version::V4] {
        let mut rig = Rig::new(config(4));
        rig.newest = newest;
        rig.settle();
        assert_eq!(assert_one_queue(&rig, "old"), Warning::FewQueues { requested: 4, effective: 1 });
        assert!(!rig.labels.iter().any(|label| label == "grow send"), "known before the send buffer");
    }
}

#[test]
fn a_queue_without_sections_or_pages_is_not_asked_for() {
    let mut rig = Rig::new(config(8).send_sections(10).direct_bytes(0));
    rig.settle();
    assert_eq!(rig.info().queues, 5);
    assert!(rig.shares.iter().all(|(_, start, end)| end - start == 2), "{:?}", rig.shares);
    // With pages it may have none.
    let mut rig = Rig::new(config(8).send_sections(10));
    rig.settle();
    assert_eq!(rig.info().queues, 8);
}

#[test]
fn whatever_fails_leaves_one_queue() {
    let answer = |status, count| {
        let mut out = vec![0; 40];
        SubchannelComplete { status, count }.emit(&mut out).unwrap();
        React::Raw(out)
    };
    let cases: [(&str, React, Step); 11] = [
        ("subchannels 3", React::Refuse, Step::OpenSubchannels),
        ("subchannels 3", React::Silent, Step::OpenSubchannels),
        ("subchannels 3", answer(Status::SUCCESS, 4), Step::OpenSubchannels),
        ("subchannels 3", answer(Status::SUCCESS, u32::MAX), Step::OpenSubchannels),
        ("subchannels 3", answer(Status::FAIL, 3), Step::OpenSubchannels),
        ("subchannels 3", React::Raw(vec![0; 3]), Step::OpenSubchannels),
        ("open 2", React::Refuse, Step::OpenSubchannels),
        ("open 3", React::Silent, Step::OpenSubchannels),
        ("scaling off", React::Refuse, SCALING),
        ("scaling on", React::Refuse, SCALING),
        ("scaling on", React::Silent, SCALING),
    ];
    for (at, react, named) in cases {
        let context = format!("{at} {react:?}");
        let silent = react == React::Silent;
        let mut rig = Rig::scripted(config(4), move |label| if label == at { react.clone() } else { React::Normal });
        rig.settle();
        if silent {
            assert!(rig.control.info().is_none());
            assert_eq!(rig.control.poll_timeout().unwrap().since_epoch(), Duration::from_secs(30));
            rig.time_out();
        }
        let warning = assert_one_queue(&rig, &context);
        let Warning::OneQueue { requested: 4, step, cause } = warning else { panic!("{context}: {warning:?}") };
        assert_eq!(step, named, "{context}");
        assert_eq!(matches!(cause, Cause::TimedOut { .. }), silent, "{context}: {cause}");
        // And it is closed as any other.
        rig.control.close(rig.now);
        rig.run_to_end();
        assert!(matches!(rig.events.last(), Some(Event::Closed(report)) if report.is_clean()), "{context}");
    }
}

#[test]
fn no_subchannel_is_granted() {
    let mut rig = Rig::new(config(4));
    rig.most_subchannels = 0;
    rig.settle();
    assert_eq!(assert_one_queue(&rig, "none"), Warning::FewQueues { requested: 4, effective: 1 });
}

#[test]
fn offers_that_do_not_come_are_not_waited_for_without_end() {
    let mut rig = Rig::new(config(4));
    rig.offers = |_| vec![2];
    rig.settle();
    assert!(rig.control.info().is_none() && rig.control.step() == Step::OpenSubchannels);
    rig.time_out();
    assert!(matches!(
        assert_one_queue(&rig, "offers"),
        Warning::OneQueue { step: Step::OpenSubchannels, cause: Cause::TimedOut { .. }, .. }
    ));
    // One that comes late is left alone.
    rig.labels.clear();
    rig.feed(Fed::SubchannelOffered(1));
    assert!(rig.labels.is_empty() && rig.control.counters().ignored_messages == 1);
}

#[test]
fn offers_that_cannot_be_are_not_followed() {
    let mut rig = Rig::new(config(4));
    rig.offers = |_| vec![0, 64, 9, 1, 1, 2, u16::MAX, 3];
    rig.settle();
    assert_eq!(rig.info().queues, 4);
    assert_eq!(rig.control.counters().violations, 5);
    assert!(rig.open.iter().eq(&[1, 2, 3]));
}

#[test]
fn subchannels_are_closed_before_the_primary_channel() {
    let mut rig = up(4);
    rig.control.close(rig.now);
    rig.run_to_end();
    let expected = [
        "pause",
        "filter 0",
        "halt",
        "revoke receive",
        "revoke send",
        "detach",
        "close 3",
        "close 2",
        "close 1",
        "close",
        "release Receive",
        "release Send",
        "release Direct",
    ];
    assert_eq!(rig.labels, expected);
    assert!(matches!(rig.events[..], [Event::Closed(report)] if report.is_clean()));
}

#[test]
fn a_close_at_any_moment_closes_what_is_open() {
    for at in ["subchannels 3", "open 1", "open 3", "attach 2", "scaling off", "scaling on"] {
        let mut rig = Rig::scripted(config(4), move |label| if label == at { React::Silent } else { React::Normal });
        rig.settle();
        rig.control.close(rig.now);
        rig.run_to_end();
        assert!(rig.open.is_empty() && rig.labels.iter().filter(|label| *label == "close").count() == 1, "{at}");
        assert!(matches!(rig.events.last(), Some(Event::Closed(_))), "{at}: {:?}", rig.events);
    }
}

#[test]
fn the_whole_device_is_rescinded_while_it_grows() {
    for at in ["subchannels 3", "open 2", "attach 3", "scaling on"] {
        let mut rig = Rig::scripted(config(4), move |label| if label == at { React::Rescind } else { React::Normal });
        rig.run_to_end();
        assert!(matches!(rig.events.last(), Some(Event::Gone(_))), "{at}: {:?}", rig.events);
        assert!(rig.open.is_empty(), "{at}");
    }
}

#[test]
fn a_subchannel_that_is_rescinded_during_bring_up() {
    // While others are waited for: one queue.
    let mut rig = Rig::new(config(4));
    rig.offers = |_| vec![1, 2];
    rig.settle();
    rig.feed(Fed::SubchannelRescinded(2));
    assert!(matches!(
        assert_one_queue(&rig, "rescind"),
        Warning::OneQueue { cause: Cause::SubchannelRescinded { queue: 2 }, .. }
    ));
    // After that the others stay. Before the table is set:
    let mut rig = Rig::scripted(config(4), |label| if label == "attach 1" { React::Refuse } else { React::Normal });
    rig.settle();
    assert_eq!((rig.info().queues, rig.info().send_table[1]), (3, 2));
    assert!(rig.events.contains(&Event::Warning(Warning::FewQueues { requested: 4, effective: 3 })));
    assert!(last_scaling(&rig).2.iter().all(|queue| [0, 2, 3].contains(queue)));
    assert_eq!(rig.labels.last().unwrap(), "filter 13");
    // After it was set:
    let mut rig = Rig::scripted(config(4), |label| if label == "filter 13" { React::Silent } else { React::Normal });
    rig.settle();
    rig.feed(Fed::SubchannelRescinded(2));
    assert_eq!(rig.labels.last().unwrap(), "close 2");
    let filter = rig.rndis_sent.last().unwrap().clone();
    let answer = control_host::answer(&filter, &React::Normal).unwrap();
    rig.feed(Fed::Rndis(answer));
    assert_eq!(rig.info().queues, 3);
    assert!(last_scaling(&rig).2.iter().all(|queue| [0, 1, 3].contains(queue)));
}

#[test]
fn a_subchannel_that_is_rescinded_leaves_the_others() {
    let mut rig = up(4);
    rig.feed(Fed::SubchannelRescinded(2));
    assert_eq!(rig.labels, ["close 2", "scaling off", "scaling on"]);
    assert_eq!(rig.events[0], Event::QueueGone { queue: 2 });
    assert!(matches!(rig.events[1], Event::SendTable(table) if table.iter().all(|queue| [0, 1, 3].contains(queue))));
    assert_eq!(rig.events[2..], [Event::TableRebuilt]);
    assert_eq!((rig.info().queues, rig.info().send_table[2]), (3, 3));
    let table = last_scaling(&rig).2;
    assert!(table.iter().all(|queue| [0, 1, 3].contains(queue)));
    assert!(table.iter().enumerate().all(|(at, queue)| at % 4 == 2 || *queue == at as u32 % 4), "others stay");
    // Again: nothing new.
    rig.feed(Fed::SubchannelRescinded(2));
    assert_eq!((rig.labels.len(), rig.events.len()), (3, 3));
    rig.feed(Fed::SubchannelRescinded(1));
    rig.feed(Fed::SubchannelRescinded(3));
    assert_eq!(rig.info().queues, 1);
    assert!(last_scaling(&rig).2.iter().all(|queue| *queue == 0));
    rig.control.close(rig.now);
    rig.run_to_end();
    assert!(matches!(rig.events.last(), Some(Event::Closed(report)) if report.is_clean()));
}

#[test]
fn a_queue_that_goes_while_the_table_is_changed_waits_for_that() {
    // With the change's first request on its way, or its second, or neither sent yet.
    for silent in [1, 2, 0] {
        let mut asked = 0;
        let mut up_now = false;
        let mut rig = Rig::scripted(config(4), move |label| {
            let asks = up_now && label.starts_with("scaling");
            asked += u32::from(asks);
            up_now |= label == "filter 13";
            if asks && asked == silent { React::Silent } else { React::Normal }
        });
        rig.settle();
        rig.events.clear();
        rig.labels.clear();
        let wish = settings(&rig, &[3, 2, 1, 0]);
        let request = rig.control.set_rss(rig.now, wish).unwrap();
        if silent == 0 {
            rig.control.handle(rig.now, Input::SubchannelRescinded { queue: 2 });
            rig.settle();
        } else {
            rig.settle();
            rig.feed(Fed::SubchannelRescinded(2));
            assert!(!rig.events.iter().any(|event| matches!(event, Event::Answered { .. })), "{silent}");
            let sent = rig.rndis_sent.last().unwrap().clone();
            let answer = control_host::answer(&sent, &React::Normal).unwrap();
            rig.feed(Fed::Rndis(answer));
        }
        let told: Vec<_> =
            rig.events.iter().filter(|event| matches!(event, Event::Answered { .. } | Event::TableRebuilt)).collect();
        assert_eq!(told, [&Event::Answered { request, result: Ok(Vec::new()) }, &Event::TableRebuilt], "{silent}");
        let scaling: Vec<_> = rig.labels.iter().filter(|label| label.starts_with("scaling")).collect();
        assert_eq!(scaling, ["scaling off", "scaling on", "scaling off", "scaling on"], "{silent}");
        let (key, _, table) = last_scaling(&rig);
        // The user's, but for the queue that is gone.
        assert_eq!(key, RssKey::MLX5.0.to_vec());
        assert!(table.len() == 4 && !table.contains(&2) && (table[0], table[2], table[3]) == (3, 1, 0), "{table:?}");
        assert!(rig.info().scaling.as_ref().unwrap().table.iter().map(|queue| u32::from(*queue)).eq(table));
    }
}

#[test]
fn a_table_that_the_host_does_not_take_is_warned_of_once() {
    let mut up_now = false;
    let mut rig = Rig::scripted(config(4), move |label| {
        up_now |= label == "filter 13";
        if up_now && label.starts_with("scaling") { React::Refuse } else { React::Normal }
    });
    rig.settle();
    rig.events.clear();
    rig.labels.clear();
    rig.feed(Fed::SubchannelRescinded(1));
    assert_eq!(rig.labels, ["close 1", "scaling off"]);
    let warned = rig.events.iter().filter(|e| matches!(e, Event::Warning(Warning::NotSpread { .. }))).count();
    assert_eq!(warned, 1, "{:?}", rig.events);
}

#[test]
fn a_hosts_send_table_names_queues_that_live() {
    let mut rig = up(4);
    let mut bytes = vec![0; 104];
    let table = SendTable { entries: core::array::from_fn(|at| 15 - at as u32) };
    let len = table.emit(SendTableLayout::COMPACT, &mut bytes).unwrap();
    bytes.truncate(len);
    rig.feed(Fed::Nvsp(bytes));
    let expected = [3, 2, 1, 0, 3, 2, 1, 0, 3, 2, 1, 0, 3, 2, 1, 0];
    assert_eq!(rig.events, [Event::SendTable(expected)]);
    assert_eq!(rig.info().send_table, expected);
}

fn settings(rig: &Rig, table: &[u16]) -> RssSettings {
    RssSettings { key: RssKey::MLX5, table: table.to_vec(), ..rig.info().scaling.clone().unwrap() }
}

#[test]
fn scaling_is_changed_at_run_time() {
    let mut rig = up(4);
    let wish = settings(&rig, &[3, 3, 1, 0]);
    let request = rig.control.set_rss(rig.now, wish.clone()).unwrap();
    assert_eq!(rig.control.set_rss(rig.now, wish.clone()), Err(NotAccepted::TooMany { limit: 1 }));
    rig.settle();
    assert_eq!(rig.labels, ["scaling off", "scaling on"]);
    assert_eq!(rig.events, [Event::Answered { request, result: Ok(Vec::new()) }]);
    assert_eq!(rig.info().scaling.as_ref(), Some(&wish));
    assert_eq!(last_scaling(&rig), (RssKey::MLX5.0.to_vec(), HashInfo::LINUX, vec![3, 3, 1, 0]));
}

#[test]
fn settings_that_cannot_be_are_not_sent() {
    let mut rig = up(2);
    let wish = settings(&rig, &[0, 2]);
    let refused = rig.control.set_rss(rig.now, wish);
    assert_eq!(refused, Err(NotAccepted::Rss(RssError::NoSuchQueue { entry: 1, queue: 2 })));
    let wish = RssSettings { hash_types: HashInfo(0x4001), ..settings(&rig, &[0, 1]) };
    assert!(matches!(rig.control.set_rss(rig.now, wish), Err(NotAccepted::Rss(RssError::HashTypes { .. }))));
    let wish = RssSettings { table: vec![0; 129], ..settings(&rig, &[]) };
    let refused = rig.control.set_rss(rig.now, wish.clone());
    assert_eq!(refused, Err(NotAccepted::Rss(RssError::TableLength { entries: 129, limit: 128 })));
    assert!(rig.labels.is_empty());
    let mut single = Rig::new(config(1));
    single.settle();
    assert_eq!(single.control.set_rss(single.now, wish), Err(NotAccepted::Rss(RssError::OneQueue)));
}

#[test]
fn refused_settings_leave_the_old_ones_in_force() {
    let mut sets = 0;
    let mut rig = Rig::scripted(config(4), move |label| {
        sets += usize::from(label == "scaling on");
        // The bring-up's is the first.
        if label == "scaling on" && sets == 2 { React::Refuse } else { React::Normal }
    });
    rig.settle();
    rig.events.clear();
    let before = rig.info().scaling.clone();
    let wish = settings(&rig, &[1]);
    let request = rig.control.set_rss(rig.now, wish).unwrap();
    rig.settle();
    let [Event::Answered { request: answered, result: Err(RequestError::Refused { .. }) }] = rig.events[..] else {
        panic!("{:?}", rig.events)
    };
    assert_eq!((answered, &rig.info().scaling), (request, &before));
    assert_eq!(last_scaling(&rig).0, RssKey::MICROSOFT.0);
}

#[test]
fn a_change_that_is_on_its_way_ends_with_the_device() {
    let mut rig = Rig::new(config(2));
    rig.settle();
    let wish = settings(&rig, &[1]);
    let request = rig.control.set_rss(rig.now, wish).unwrap();
    rig.events.clear();
    rig.control.close(rig.now);
    rig.run_to_end();
    assert_eq!(rig.events[0], Event::Answered { request, result: Err(RequestError::Closed) });
    assert!(matches!(rig.events[1], Event::Closed(_)));
}
