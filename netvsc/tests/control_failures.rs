//! Silence, refusal, rescind and impossible values at every step: what is undone, in which order, and what is reported.

mod control_host;

use control_host::{BRING_UP, Fed, INITIALIZE_COMPLETE, RECEIVE_GPADL, React, Rig, receive_answer};
use netvsc::config::GpadlTeardown;
use netvsc::control::{Cause, CloseReport, Event, FewSections, Step, Violation};
use netvsc::{Config, LinkState};
use nvsp::{SendSendBufferComplete, Status};

/// Steps at which the host has something to say.
fn answered_steps() -> impl Iterator<Item = &'static str> {
    BRING_UP.into_iter().filter(|label| !label.starts_with("attach") && !label.starts_with("ndis"))
}

fn at(step: &'static str, react: React) -> impl FnMut(&str) -> React {
    move |label| if label == step { react.clone() } else { React::Normal }
}

/// What has to be undone if bring-up ends at `step`, in order.
fn undo(step: &str) -> Vec<&'static str> {
    let reached = |label| BRING_UP.iter().position(|s| *s == label) <= BRING_UP.iter().position(|s| *s == step);
    let mut undo = Vec::new();
    undo.extend(reached("initialize").then_some("halt"));
    undo.extend(reached("share receive").then_some("revoke receive"));
    undo.extend(reached("share send").then_some("revoke send"));
    undo.extend(reached("init 6.1").then_some("detach"));
    undo.push("close");
    undo.extend(reached("allocate Receive 16777216").then_some("release Receive"));
    undo.extend(reached("allocate Send 1044480").then_some("release Send"));
    undo.extend(reached("initialize").then_some("release Direct"));
    undo
}

#[test]
fn silence_at_any_step_fails_in_time_and_undoes_what_exists() {
    // The backend answers at once whether there is memory for direct sends.
    for step in answered_steps().filter(|step| !step.starts_with("allocate Direct")) {
        let mut rig = Rig::scripted(Config::default(), at(step, React::Silent));
        rig.settle();
        assert!(rig.control.info().is_none());
        assert_eq!(rig.control.poll_timeout().unwrap().since_epoch().as_secs(), 30, "{step}");
        let failed_in = rig.control.step();
        rig.run_to_end();
        let [.., Event::Failed { step: named, cause: Cause::TimedOut { .. }, report }] = &rig.events[..] else {
            panic!("{step}: {:?}", rig.events)
        };
        assert_eq!(*named, failed_in);
        assert!(report.is_clean(), "{step}: {report:?}");
        assert_eq!(rig.since(step)[1..], undo(step), "{step}");
        assert!(rig.now.since_epoch().as_secs() <= 30 + 4 * 10);
    }
}

#[test]
fn no_offer_fails_in_time_with_nothing_to_undo() {
    let mut rig = Rig::new(Config::default());
    rig.feed.clear();
    rig.run_to_end();
    assert!(matches!(rig.events[..], [Event::Failed { step: Step::WaitForOffer, .. }]));
    assert!(rig.labels.is_empty());
}

#[test]
fn refusal_of_what_is_needed_undoes_what_exists() {
    for (step, named) in [
        ("open", Step::Open),
        ("allocate Receive 16777216", Step::AllocateReceiveBuffer),
        ("share receive", Step::ShareReceiveBuffer),
        ("initialize", Step::Initialize),
        ("filter 0", Step::Set(rndis::Oid::PACKET_FILTER)),
        ("query PERMANENT_ADDRESS", Step::Query(rndis::Oid::PERMANENT_ADDRESS)),
        ("set TCP_OFFLOAD_PARAMETERS", Step::Set(rndis::Oid::TCP_OFFLOAD_PARAMETERS)),
        ("filter 13", Step::Set(rndis::Oid::PACKET_FILTER)),
    ] {
        let mut rig = Rig::scripted(Config::default(), at(step, React::Refuse));
        rig.settle();
        let Some(Event::Failed { step: at, cause, report }) = rig.events.last() else {
            panic!("{step}: {:?}", rig.events)
        };
        assert_eq!(*at, named);
        assert_eq!(cause.kind(), vmbus::ErrorKind::Refused, "{cause}");
        assert!(report.is_clean());
        let mut expected = undo(step);
        if step == "open" {
            expected.clear();
        }
        assert_eq!(rig.since(step)[1..], expected, "{step}");
        assert!(rig.control.is_over() && rig.control.poll_timeout().is_none());
    }
}

#[test]
fn rescind_at_any_step_ends_without_a_word_to_the_host() {
    for step in answered_steps() {
        let mut rig = Rig::scripted(Config::default(), at(step, React::Rescind));
        rig.settle();
        let Some(Event::Gone(report)) = rig.events.last() else { panic!("{step}: {:?}", rig.events) };
        assert!(report.host_gone);
        assert!(rig.control.is_over());
        let after = rig.since(step);
        assert!(!after[1..].iter().any(|label| label.contains("revoke") || label.contains("halt")), "{after:?}");
        assert!(after.contains(&"close"), "the offer is given back");
    }
    let mut rig = Rig::new(Config::default());
    rig.settle();
    rig.feed(Fed::Rescinded);
    assert_eq!(rig.since("detach"), ["detach", "close", "release Receive", "release Send", "release Direct"]);
    assert!(matches!(rig.events.last(), Some(Event::Gone(_))));
    // Whatever comes now, comes too late.
    rig.feed(Fed::Rescinded);
    rig.feed(Fed::GpadlTornDown(RECEIVE_GPADL));
    rig.control.close(rig.now);
    rig.settle();
    assert_eq!(rig.events.iter().filter(|event| matches!(event, Event::Gone(_) | Event::Closed(_))).count(), 1);
}

#[test]
fn a_device_that_is_up_is_closed_in_order() {
    let mut rig = Rig::new(Config::default());
    rig.settle();
    let up = rig.labels.len();
    rig.control.close(rig.now);
    rig.settle();
    assert_eq!(
        rig.labels[up..],
        [
            "pause",
            "filter 0",
            "halt",
            "revoke receive",
            "revoke send",
            "detach",
            "close",
            "release Receive",
            "release Send",
            "release Direct"
        ]
    );
    assert_eq!(rig.events.last(), Some(&Event::Closed(CloseReport::default())));
}

#[test]
fn older_hosts_have_the_gpadls_torn_down_before_the_close() {
    let mut rig = Rig::new(Config::default().gpadl_teardown(GpadlTeardown::BeforeClose));
    rig.settle();
    rig.control.close(rig.now);
    rig.settle();
    assert_eq!(
        rig.since("revoke send"),
        ["revoke send", "detach", "release Receive", "release Send", "close", "release Direct"]
    );
}

#[test]
fn what_the_host_does_not_give_back_is_reported() {
    let mut rig = Rig::scripted(Config::default(), at("release Send", React::Silent));
    rig.settle();
    rig.outstanding = (3, 2);
    rig.control.close(rig.now);
    rig.settle();
    assert!(rig.control.is_draining());
    rig.run_to_end();
    let Some(Event::Closed(report)) = rig.events.last() else { panic!("{:?}", rig.events) };
    assert_eq!((report.outstanding_sends, report.unreturned_sections, report.unreleased_buffers), (3, 2, 1));
    assert_eq!(rig.control.counters().timeouts, 2);
}

#[test]
fn a_host_that_takes_the_device_while_it_is_closed_ends_the_close() {
    for step in ["filter 0", "halt", "detach", "release Receive"] {
        let mut up = false;
        let mut rig = Rig::scripted(Config::default(), move |label| {
            up |= label == "filter 13";
            if up && label == step { React::Rescind } else { React::Normal }
        });
        rig.settle();
        rig.control.close(rig.now);
        rig.run_to_end();
        let Some(Event::Closed(report)) = rig.events.last() else { panic!("{step}: {:?}", rig.events) };
        assert!(report.host_gone, "{step}");
        assert_eq!(rig.labels.iter().filter(|label| *label == "close").count(), 1, "{step}");
        assert_eq!(rig.labels.iter().filter(|label| *label == "release Receive").count(), 1, "{step}");
    }
}

#[test]
fn silence_with_few_receive_sections_names_the_minimum() {
    let config = Config::default().receive_sections(10);
    let mut rig = Rig::scripted(config, at("filter 13", React::Silent));
    rig.run_to_end();
    let Some(Event::Failed { cause, .. }) = rig.events.last() else { panic!("{:?}", rig.events) };
    let few = FewSections { count: 11, minimum: 17 };
    assert_eq!(*cause, Cause::TimedOut { few_receive_sections: Some(few) });
    assert!(cause.to_string().contains("at least 17"), "{cause}");
}

#[test]
fn impossible_receive_buffers_are_refused() {
    let buffer = 16_777_216;
    for (answer, field) in [
        (receive_answer(Status::SUCCESS, 0, 0, 10), "receive section size"),
        (receive_answer(Status::SUCCESS, 0, 67, 10), "receive section size"),
        (receive_answer(Status::SUCCESS, 0, 1728, 0), "receive section count"),
        (receive_answer(Status::SUCCESS, 4096, 1728, 10), "section offset"),
        (receive_answer(Status::SUCCESS, 0, 1728, 9710), "receive sections' bytes"),
        (receive_answer(Status::SUCCESS, 0, 0x8000_0000, 2), "receive sections' bytes"),
        (receive_answer(Status::SUCCESS, 0, u32::MAX, u32::MAX), "receive sections' bytes"),
    ] {
        let mut rig = Rig::scripted(Config::default(), at("share receive", React::Raw(answer)));
        rig.settle();
        let Some(Event::Failed { cause: Cause::Violation(violation), .. }) = rig.events.last() else {
            panic!("{field}: {:?}", rig.events)
        };
        assert!(matches!(violation, Violation::BadValue { field: named, .. } if *named == field), "{violation}");
        assert!(!rig.labels.contains(&"attach receive".to_owned()));
    }
    // The largest that fits is taken.
    let answer = receive_answer(Status::SUCCESS, 0, buffer, 1);
    let mut rig = Rig::scripted(Config::default(), at("share receive", React::Raw(answer)));
    rig.settle();
    assert_eq!(rig.info().receive.section_bytes, buffer);
}

#[test]
fn answers_that_are_cut_off_or_something_else_are_refused() {
    for step in ["init 6.1", "share receive", "share send"] {
        for bytes in [vec![], vec![1, 2, 3], vec![0xFF; 40], vec![0; 40]] {
            let mut rig = Rig::scripted(Config::default(), at(step, React::Raw(bytes)));
            rig.settle();
            let failed = rig.events.last();
            assert!(matches!(failed, Some(Event::Failed { cause: Cause::Violation(_), .. })), "{step}: {failed:?}");
        }
    }
}

#[test]
fn impossible_send_sections_are_refused() {
    for section_size in [0, 67, 1_044_481, u32::MAX] {
        let mut answer = vec![0; 16];
        SendSendBufferComplete { status: Status::SUCCESS, section_size }.emit(&mut answer).unwrap();
        let mut rig = Rig::scripted(Config::default(), at("share send", React::Raw(answer)));
        rig.settle();
        let failed = rig.events.last();
        assert!(matches!(failed, Some(Event::Failed { cause: Cause::Violation(_), .. })), "{failed:?}");
    }
}

#[test]
fn impossible_limits_end_aggregation_and_not_the_session() {
    for (complete, single) in [
        (rndis::control::InitializeComplete { packet_alignment_log2: 13, ..INITIALIZE_COMPLETE }, true),
        (rndis::control::InitializeComplete { packet_alignment_log2: 40, ..INITIALIZE_COMPLETE }, true),
        (rndis::control::InitializeComplete { packet_alignment_log2: u32::MAX, ..INITIALIZE_COMPLETE }, true),
        (rndis::control::InitializeComplete { max_transfer_size: 0, ..INITIALIZE_COMPLETE }, true),
        (rndis::control::InitializeComplete { max_transfer_size: 1500, ..INITIALIZE_COMPLETE }, true),
        (rndis::control::InitializeComplete { max_packets_per_message: 0, ..INITIALIZE_COMPLETE }, false),
    ] {
        let mut bytes = vec![0; 52];
        rndis::control::InitializeComplete { request_id: rndis::RequestId(1), ..complete }.emit(&mut bytes).unwrap();
        let mut rig = Rig::scripted(Config::default(), at("initialize", React::Raw(bytes)));
        rig.settle();
        let limits = rig.info().limits;
        assert_eq!(limits.max_packets, 1);
        assert!(limits.max_bytes >= 1500 && limits.alignment <= 4096);
        assert_eq!(rig.events.iter().any(|event| matches!(event, Event::Violation(_))), single);
    }
}

#[test]
fn impossible_values_are_ignored_or_refused() {
    let u32_at = |step, value: u32| at(step, React::Raw(value.to_le_bytes().to_vec()));
    for mtu in [0, 67] {
        let mut rig = Rig::scripted(Config::default(), u32_at("query MAXIMUM_FRAME_SIZE", mtu));
        rig.settle();
        assert_eq!(rig.info().mtu, 1500);
        assert!(rig.events.iter().any(|event| matches!(event, Event::Violation(_))));
    }
    for status in [2, u32::MAX] {
        let mut rig = Rig::scripted(Config::default(), u32_at("query MEDIA_CONNECT_STATUS", status));
        rig.settle();
        assert_eq!(rig.info().link, LinkState::Down);
    }
    let mut rig = Rig::scripted(Config::default(), u32_at("query LINK_SPEED", 0));
    rig.settle();
    assert_eq!(rig.info().link_speed, None);
    let mut rig = Rig::scripted(Config::default(), at("query FRIENDLY_NAME", React::Raw(vec![0x41; 600])));
    rig.settle();
    assert_eq!(rig.info().friendly_name, None);
    for mac in [vec![], vec![0; 6], vec![0xFF; 6], vec![1, 2, 3, 4, 5]] {
        let mut rig = Rig::scripted(Config::default(), at("query PERMANENT_ADDRESS", React::Raw(mac)));
        rig.settle();
        let failed = rig.events.last();
        assert!(matches!(failed, Some(Event::Failed { cause: Cause::Violation(_), .. })), "{failed:?}");
    }
    for caps in [vec![], vec![0; 156], vec![0xA7, 3, 156, 0]] {
        let step = "query TCP_OFFLOAD_HARDWARE_CAPABILITIES";
        let mut rig = Rig::scripted(Config::default(), at(step, React::Raw(caps)));
        rig.settle();
        let failed = rig.events.last();
        assert!(matches!(failed, Some(Event::Failed { cause: Cause::Violation(_), .. })), "{failed:?}");
    }
}

#[test]
fn a_queue_that_broke_is_undone_without_using_it() {
    let mut rig = Rig::new(Config::default());
    rig.settle();
    let up = rig.labels.len();
    let error = netvsc::queue::QueueError::TooManyRanges { value: 2, limit: 1 };
    rig.control.handle(rig.now, netvsc::control::Input::QueueFailed(error));
    rig.settle();
    assert_eq!(rig.labels[up..], ["detach", "close", "release Receive", "release Send", "release Direct"]);
    let failed = rig.events.last();
    assert!(matches!(failed, Some(Event::Failed { step: Step::Run, cause: Cause::Queue(_), .. })), "{failed:?}");
}
