//! A device that is up: requests, late and unasked-for answers, and what the host says by itself.

mod control_host;

use std::time::Duration;

use control_host::{BRING_UP, Fed, React, Rig, answer};
use netvsc::control::{Event, NotAccepted, RequestError, Violation};
use netvsc::{Config, LinkState, PacketFilter, VirtualFunction};
use nvsp::{DataPath, SendTable, SendTableLayout, SwitchDataPath, VfAssociation};
use rndis::control::IndicateStatus;
use rndis::{Oid, Status};

fn up(script: impl FnMut(&str) -> React + 'static) -> Rig {
    let mut rig = Rig::scripted(Config::default(), script);
    rig.settle();
    rig.info();
    rig.events.clear();
    rig
}

fn indication(status: Status, buffer: &[u8]) -> Fed {
    let mut bytes = vec![0; 256];
    let len = IndicateStatus::new(status, buffer).emit(&mut bytes).unwrap();
    bytes.truncate(len);
    Fed::Rndis(bytes)
}

fn nvsp(message: nvsp::Message<'_>) -> Fed {
    let mut bytes = vec![0; 40];
    message.emit_padded(&mut bytes, 40).unwrap();
    Fed::Nvsp(bytes)
}

#[test]
fn requests_are_answered_in_order_one_at_a_time() {
    let mut rig =
        up(|label| if label == "query SUPPORTED_LIST" { React::Raw(vec![1, 2, 3, 4]) } else { React::Normal });
    let filter = rig.control.set_packet_filter(rig.now, PacketFilter::PROMISCUOUS).unwrap();
    let list = rig.control.query(rig.now, Oid::SUPPORTED_LIST).unwrap();
    assert!(rig.control.poll_action().is_some_and(|action| control_host::label(&action) == "filter 32"));
    assert!(rig.control.poll_action().is_none(), "the second waits for the first");
    let message = rndis::control::SetComplete { request_id: rndis::RequestId(12), status: Status::SUCCESS };
    let mut bytes = vec![0; 16];
    message.emit(&mut bytes).unwrap();
    rig.feed(Fed::Rndis(bytes));
    assert_eq!(
        rig.events,
        [
            Event::Answered { request: filter, result: Ok(vec![]) },
            Event::Answered { request: list, result: Ok(vec![1, 2, 3, 4]) }
        ]
    );
    assert_eq!(rig.info().packet_filter, PacketFilter::PROMISCUOUS);
}

#[test]
fn a_refused_request_leaves_the_device_as_it_was() {
    let mut rig = up(|label| if label == "filter 32" { React::Refuse } else { React::Normal });
    let request = rig.control.set_packet_filter(rig.now, PacketFilter::PROMISCUOUS).unwrap();
    rig.settle();
    let result = Err(RequestError::Refused { status: Status::NOT_SUPPORTED });
    assert_eq!(rig.events, [Event::Answered { request, result }]);
    assert_eq!(rig.info().packet_filter, PacketFilter::OPEN);
}

#[test]
fn a_late_answer_is_dropped_and_the_next_request_goes_on() {
    let mut rig = up(|label| if label == "query HARDWARE_STATUS" { React::Silent } else { React::Normal });
    let silent = rig.control.query(rig.now, Oid::HARDWARE_STATUS).unwrap();
    rig.settle();
    let question = rig.rndis_sent.last().unwrap().clone();
    let next = rig.control.query(rig.now, Oid::LINK_SPEED).unwrap();
    rig.settle();
    rig.pass(Duration::from_secs(29));
    assert!(rig.events.is_empty());
    rig.pass(Duration::from_secs(1));
    assert!(
        matches!(rig.events[0], Event::Answered { request, result: Err(RequestError::TimedOut { .. }) } if request == silent)
    );
    assert!(matches!(rig.events[1], Event::Answered { request, result: Ok(_) } if request == next));
    let late = answer(&question, &React::Raw(vec![0; 4])).unwrap();
    rig.feed(Fed::Rndis(late.clone()));
    rig.feed(Fed::Rndis(late));
    assert_eq!((rig.events.len(), rig.control.counters().late_answers), (2, 2));
}

#[test]
fn an_answer_within_15_seconds_is_in_time() {
    let mut rig = up(|label| if label == "query HARDWARE_STATUS" { React::Silent } else { React::Normal });
    let request = rig.control.query(rig.now, Oid::HARDWARE_STATUS).unwrap();
    rig.settle();
    rig.pass(Duration::from_secs(15));
    let bytes = answer(rig.rndis_sent.last().unwrap(), &React::Raw(vec![7, 0, 0, 0])).unwrap();
    rig.feed(Fed::Rndis(bytes));
    assert_eq!(rig.events, [Event::Answered { request, result: Ok(vec![7, 0, 0, 0]) }]);
}

#[test]
fn answers_that_fit_no_request_are_dropped() {
    let mut rig = up(|label| if label == "query HARDWARE_STATUS" { React::Silent } else { React::Normal });
    rig.control.query(rig.now, Oid::HARDWARE_STATUS).unwrap();
    rig.settle();
    let question = rig.rndis_sent.last().unwrap().clone();
    // The right id, another type.
    let id = rndis::RequestId(u32::from_le_bytes(question[8..12].try_into().unwrap()));
    let mut set = vec![0; 16];
    rndis::control::SetComplete { request_id: id, status: Status::SUCCESS }.emit(&mut set).unwrap();
    rig.feed(Fed::Rndis(set.clone()));
    // Ids that were never given.
    for id in [0u32, id.0 + 1, u32::MAX] {
        set[8..12].copy_from_slice(&id.to_le_bytes());
        rig.feed(Fed::Rndis(set.clone()));
    }
    assert_eq!((rig.events.len(), rig.control.counters().unsolicited_answers), (0, 4));
    rig.feed(Fed::Rndis(answer(&question, &React::Raw(vec![])).unwrap()));
    assert_eq!(rig.events.len(), 1, "the request itself is still answered");
}

#[test]
fn who_gives_up_hears_nothing_and_the_id_stays_reserved() {
    let mut rig = up(|label| if label == "query HARDWARE_STATUS" { React::Silent } else { React::Normal });
    let given_up = rig.control.query(rig.now, Oid::HARDWARE_STATUS).unwrap();
    let never_sent = rig.control.query(rig.now, Oid::VENDOR_ID).unwrap();
    let next = rig.control.query(rig.now, Oid::LINK_SPEED).unwrap();
    rig.control.abandon(given_up);
    rig.control.abandon(never_sent);
    rig.settle();
    assert!(rig.events.is_empty(), "the answer is still waited for");
    let bytes = answer(rig.rndis_sent.last().unwrap(), &React::Raw(vec![])).unwrap();
    rig.feed(Fed::Rndis(bytes));
    assert!(matches!(&rig.events[..], [Event::Answered { request, .. }] if *request == next), "{:?}", rig.events);
    assert!(!rig.labels.contains(&"query VENDOR_ID".to_owned()));
}

#[test]
fn a_message_that_the_host_does_not_take_is_not_waited_for() {
    let mut rig = up(|label| if label == "query HARDWARE_STATUS" { React::Silent } else { React::Normal });
    let request = rig.control.query(rig.now, Oid::HARDWARE_STATUS).unwrap();
    let Some(netvsc::control::Action::SendRndis { token, .. }) = rig.control.poll_action() else { panic!() };
    let mut bytes = vec![0; 8];
    nvsp::RndisPacketComplete { status: nvsp::Status::FAIL }.emit(&mut bytes).unwrap();
    rig.feed(Fed::Completed(token, bytes));
    let result = Err(RequestError::NotTaken { status: nvsp::Status::FAIL });
    assert_eq!(rig.events, [Event::Answered { request, result }]);
}

#[test]
fn requests_are_limited_and_end_with_the_device() {
    let mut early = Rig::new(Config::default());
    assert_eq!(early.control.query(early.now, Oid::LINK_SPEED), Err(NotAccepted::NotReady));
    let mut rig = up(|label| if label == "query HARDWARE_STATUS" { React::Silent } else { React::Normal });
    let taken = (0..1000).map_while(|_| rig.control.query(rig.now, Oid::HARDWARE_STATUS).ok()).count();
    assert!(taken < 100);
    rig.control.close(rig.now);
    rig.settle();
    let closed = |event: &&Event| matches!(event, Event::Answered { result: Err(RequestError::Closed), .. });
    assert_eq!(rig.events.iter().filter(closed).count(), taken);
    assert_eq!(rig.control.query(rig.now, Oid::LINK_SPEED), Err(NotAccepted::NotReady));
}

#[test]
fn the_link_is_told_with_pauses_and_the_query_is_not_believed() {
    let mut rig = up(|_| React::Normal);
    rig.feed(indication(Status::MEDIA_DISCONNECT, &[]));
    assert_eq!((rig.events.as_slice(), rig.info().link), ([Event::LinkDown].as_slice(), LinkState::Down));
    // The host says "connected" even while the link is down.
    rig.control.query(rig.now, Oid::MEDIA_CONNECT_STATUS).unwrap();
    rig.settle();
    assert_eq!(rig.info().link, LinkState::Down);
    rig.feed(indication(Status::MEDIA_CONNECT, &[]));
    rig.feed(indication(Status::MEDIA_CONNECT, &[]));
    assert_eq!(rig.info().link, LinkState::Down, "too soon");
    assert!(rig.time_out());
    assert_eq!(rig.events.last(), Some(&Event::LinkUp));
    assert_eq!(rig.info().link, LinkState::Up);
    assert_eq!(rig.control.poll_timeout(), None);
    rig.events.clear();
    // "Up" while up: down, and up five seconds later.
    rig.pass(Duration::from_secs(60));
    rig.feed(indication(Status::MEDIA_DISCONNECT, &[]));
    rig.pass(Duration::from_secs(5));
    rig.feed(indication(Status::MEDIA_CONNECT, &[]));
    assert_eq!(rig.events, [Event::LinkDown, Event::LinkUp]);
}

#[test]
fn speed_network_and_offload_changes_are_told_however_the_length_is_counted() {
    let mut rig = up(|_| React::Normal);
    rig.feed(indication(Status::LINK_SPEED_CHANGE, &250_000_000u32.to_le_bytes()));
    assert_eq!(rig.info().link_speed.unwrap().bits_per_second(), 25_000_000_000);
    let mut old = vec![0; 24];
    IndicateStatus { status: Status::LINK_SPEED_CHANGE, buffer: &[1, 0, 0, 0], buffer_counted: false }
        .emit(&mut old)
        .unwrap();
    rig.feed(Fed::Rndis(old));
    assert_eq!(rig.info().link_speed.unwrap().0, 1);
    rig.feed(indication(Status::NETWORK_CHANGE, &[2, 0, 0, 0]));
    let mut offload = vec![0; 156];
    rndis::offload::Offload::empty(3).emit(&mut offload).unwrap();
    rig.feed(indication(Status::TASK_OFFLOAD_CURRENT_CONFIG, &offload));
    assert!(matches!(
        rig.events[..],
        [Event::LinkSpeed(_), Event::LinkSpeed(_), Event::NetworkChanged, Event::OffloadChanged(_)]
    ));
    rig.feed(indication(Status::LINK_SPEED_CHANGE, &[]));
    rig.feed(indication(Status::LINK_SPEED_CHANGE, &[0; 4]));
    rig.feed(indication(Status::TASK_OFFLOAD_CURRENT_CONFIG, &[0; 10]));
    rig.feed(indication(Status(0x4001_FFFF), &[]));
    assert_eq!((rig.control.counters().violations, rig.control.counters().ignored_messages), (3, 1));
}

#[test]
fn virtual_functions_come_and_go_in_any_state() {
    let seen = VirtualFunction { serial_number: 7 };
    for at in BRING_UP.into_iter().skip(4).filter(|label| !label.starts_with("attach")) {
        let mut rig = Rig::new(Config::default());
        // Up to the step …
        while rig.labels.last().map(String::as_str) != Some(at) {
            let before = rig.labels.len();
            if let Some(fed) = rig.feed.pop_front() {
                rig.control.handle(rig.now, fed.input());
            }
            rig.actions();
            assert!(rig.labels.len() > before || !rig.feed.is_empty(), "{at} is never reached");
        }
        // … and the notice in the middle of it.
        rig.control.handle(rig.now, nvsp(VfAssociation { allocated: true, serial_number: 7 }.into()).input());
        rig.control.handle(rig.now, indication(Status::MEDIA_DISCONNECT, &[]).input());
        rig.settle();
        assert_eq!((rig.info().virtual_function, rig.info().link), (Some(seen), LinkState::Down), "{at}");
    }
    let mut rig = up(|_| React::Normal);
    let here = VfAssociation { allocated: true, serial_number: 7 };
    rig.feed(nvsp(here.into()));
    rig.feed(nvsp(here.into()));
    rig.feed(nvsp(SwitchDataPath { active_path: DataPath::SYNTHETIC }.into()));
    rig.feed(nvsp(VfAssociation { allocated: false, ..here }.into()));
    assert_eq!(
        rig.events,
        [Event::VfAssociated(seen), Event::DataPathSwitched(DataPath::SYNTHETIC), Event::VfRemoved(seen)]
    );
    let mut isolated = Rig::new(Config::default().isolated(true));
    isolated.settle();
    isolated.feed(nvsp(here.into()));
    assert_eq!(isolated.info().virtual_function, None);
    assert_eq!(isolated.control.counters().ignored_messages, 1);
}

#[test]
fn the_send_table_is_clamped_to_the_queues_there_are() {
    let mut rig = up(|_| React::Normal);
    let mut bytes = vec![0; 128];
    let table = SendTable { entries: [u32::MAX; 16] };
    let len = table.emit(SendTableLayout::COMPACT, &mut bytes).unwrap();
    rig.feed(Fed::Nvsp(bytes[..len].to_vec()));
    assert_eq!(rig.events, [Event::SendTable([0; 16])]);
    rig.feed(Fed::Nvsp(bytes[..len - 1].to_vec()));
    assert!(matches!(rig.events.last(), Some(Event::Violation(Violation::Nvsp(_)))));
}

#[test]
fn notices_that_nobody_fetches_do_not_pile_up() {
    let mut rig = up(|_| React::Normal);
    for _ in 0..10_000 {
        rig.control.handle(rig.now, Fed::Nvsp(vec![0xEE; 40]).input());
        rig.control.handle(rig.now, Fed::Rndis(vec![0xEE; 40]).input());
    }
    assert!(rig.control.counters().dropped_events > 19_000);
    rig.control.close(rig.now);
    rig.settle();
    assert!(rig.events.len() <= netvsc::control::MAX_EVENTS + 1);
    assert!(matches!(rig.events.last(), Some(Event::Closed(_))), "the end is never lost");
}
