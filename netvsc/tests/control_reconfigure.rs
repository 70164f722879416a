//! Changes of a device that is up: what is undone and done again, what a host can do to it at each step, and that the device
//! is either as wished, or as it was, or over, but nothing else.

mod control_host;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use control_host::{Fed, React, Rig};
use netvsc::config::ConfigError;
use netvsc::control::{Cause, Event, Input, Limits, NotAccepted, Parameters, ReconfigureError, Step};
use netvsc::queue::HeldReceives;
use netvsc::rss::RssError;
use netvsc::{Config, PacketFilter, RssSettings, vf};

/// A script that can be changed while the rig runs: what to do at the n-th time of a label.
#[derive(Clone, Default)]
struct Orders(Rc<RefCell<Vec<(String, React)>>>);

impl Orders {
    /// At the next time of `label`.
    fn next(&self, label: &str, react: React) {
        self.0.borrow_mut().push((label.to_owned(), react));
    }

    fn at(&self, label: &str) -> React {
        let mut orders = self.0.borrow_mut();
        match orders.iter().position(|(wanted, _)| label.starts_with(wanted.as_str())) {
            Some(at) => orders.remove(at).1,
            None => React::Normal,
        }
    }
}

fn up(config: Config) -> (Rig, Orders) {
    let orders = Orders::default();
    let script = orders.clone();
    let mut rig = Rig::scripted(config, move |label| script.at(label));
    rig.settle();
    assert!(rig.events.iter().any(|event| matches!(event, Event::Ready(_))), "{:?}", rig.events);
    rig.events.clear();
    rig.labels.clear();
    (rig, orders)
}

fn change(rig: &mut Rig, parameters: Parameters) {
    rig.control.reconfigure(rig.now, parameters).expect("possible");
    rig.settle();
}

/// What came of the only change.
fn result(rig: &Rig) -> Result<(), ReconfigureError> {
    let results: Vec<_> = rig
        .events
        .iter()
        .filter_map(|event| if let Event::Reconfigured { result, .. } = event { Some(*result) } else { None })
        .collect();
    assert_eq!(results.len(), 1, "{:?}", rig.events);
    results[0]
}

#[test]
fn everything_is_undone_in_order_and_done_again() {
    let (mut rig, _) = up(Config::default().queues(2));
    change(&mut rig, Parameters::default().receive_sections(2000).send_sections(64));
    assert_eq!(result(&rig), Ok(()));
    let down = [
        "pause",
        "filter 0",
        "halt",
        "revoke receive",
        "revoke send",
        "detach",
        "close 1",
        "close",
        "release Receive",
        "release Send",
        "release Direct",
        "open",
    ];
    assert_eq!(rig.labels[..down.len()], down);
    assert_eq!(rig.labels.last().unwrap(), "resume");
    assert_eq!(rig.labels[rig.labels.len() - 2], "filter 13");
    let info = rig.info();
    assert_eq!((info.receive.requested, info.send.unwrap().count, info.queues), (2000, 64, 2));
    assert!(info.receive.count >= 2000 && info.receive.count < 2003);
    assert!(matches!(rig.events[0], Event::Detached(report) if report.is_clean()), "{:?}", rig.events);
    assert!(matches!(rig.events[1], Event::Attached(_)));
    assert!(matches!(rig.events.last(), Some(Event::Reconfigured { .. })));
    assert_eq!((rig.control.counters().reconfigurations, rig.control.counters().violations), (1, 0));
}

#[test]
fn what_is_so_already_costs_nothing() {
    let (mut rig, _) = up(Config::default().queues(4).mtu(9000));
    let info = rig.info().clone();
    for same in [
        Parameters::default(),
        Parameters::default().mtu(9000).queues(4),
        Parameters::default().receive_sections(info.receive.count),
        Parameters::default().receive_sections(info.receive.requested).send_sections(170),
    ] {
        rig.events.clear();
        change(&mut rig, same);
        assert_eq!(result(&rig), Ok(()));
        assert!(rig.labels.is_empty(), "{:?}", rig.labels);
    }
}

#[test]
fn counts_are_clamped_and_the_rest_is_refused() {
    let (mut rig, _) = up(Config::default());
    let limits = Limits::of(rig.info());
    assert_eq!((limits.receive_sections, limits.send_sections, limits.queues, limits.mtu), (18811, 2560, 8, 65521));
    for (parameters, field) in [
        (Parameters::default().queues(0), "queues"),
        (Parameters::default().queues(9), "queues"),
        (Parameters::default().mtu(67), "mtu"),
        (Parameters::default().mtu(65522), "mtu"),
    ] {
        let refused = rig.control.reconfigure(rig.now, parameters);
        assert!(matches!(refused, Err(NotAccepted::Config(error)) if error.field() == field), "{refused:?}");
    }
    change(&mut rig, Parameters::default().receive_sections(0).send_sections(u32::MAX));
    assert_eq!(result(&rig), Ok(()));
    let info = rig.info();
    assert_eq!((info.receive.requested, info.send.unwrap().count), (10, 2560));
}

#[test]
fn hosts_below_nvsp_5_have_one_queue_and_below_2_one_mtu() {
    let (mut rig, _) = up(Config::default().nvsp_max(nvsp::Version::V1));
    let limits = Limits::of(rig.info());
    assert_eq!((limits.receive_sections, limits.queues, limits.mtu), (9102, 1, 1500));
    let refused = rig.control.reconfigure(rig.now, Parameters::default().mtu(1501));
    let limit = ConfigError::AboveLimit { field: "mtu", value: 1501, limit: 1500 };
    assert_eq!(refused, Err(NotAccepted::Config(limit)));
    change(&mut rig, Parameters::default().mtu(1280));
    assert_eq!((result(&rig), rig.info().mtu), (Ok(()), 1280));
}

#[test]
fn one_change_at_a_time_and_no_requests_meanwhile() {
    let (mut rig, _) = up(Config::default());
    rig.control.reconfigure(rig.now, Parameters::default().mtu(9000)).expect("possible");
    assert_eq!(rig.control.reconfigure(rig.now, Parameters::default().mtu(1400)), Err(NotAccepted::Busy));
    assert_eq!(rig.control.set_packet_filter(rig.now, PacketFilter::CLOSED), Err(NotAccepted::Busy));
    rig.settle();
    assert_eq!((result(&rig), rig.info().mtu), (Ok(()), 9000));
}

#[test]
fn the_users_filter_and_scaling_come_back() {
    let (mut rig, _) = up(Config::default().queues(4));
    let filter = PacketFilter(0x20);
    rig.control.set_packet_filter(rig.now, filter).expect("accepted");
    let mut settings: RssSettings = rig.info().scaling.clone().unwrap();
    settings.table.fill(2);
    settings.key.0[0] ^= 0xFF;
    rig.control.set_rss(rig.now, settings.clone()).expect("accepted");
    rig.settle();
    change(&mut rig, Parameters::default().mtu(4000));
    assert_eq!(result(&rig), Ok(()));
    assert_eq!((rig.info().packet_filter, rig.info().scaling.as_ref()), (filter, Some(&settings)));
    assert!(rig.labels.contains(&"filter 32".to_owned()));

    // The table that the user chose needs queue 2.
    let refused = rig.control.reconfigure(rig.now, Parameters::default().queues(2));
    assert_eq!(refused, Err(NotAccepted::Rss(RssError::NoSuchQueue { entry: 0, queue: 2 })));
    rig.events.clear();
    change(&mut rig, Parameters::default().queues(3));
    assert_eq!((result(&rig), rig.info().queues), (Ok(()), 3));
    assert_eq!(rig.info().scaling.as_ref(), Some(&settings));
}

#[test]
fn a_table_that_nobody_chose_is_made_for_the_new_queues() {
    let (mut rig, _) = up(Config::default().queues(4));
    change(&mut rig, Parameters::default().queues(2));
    assert_eq!(rig.info().scaling.as_ref().unwrap().table[..4], [0, 1, 0, 1]);
    change(&mut rig, Parameters::default().queues(8));
    assert_eq!(rig.info().scaling.as_ref().unwrap().table[..9], [0, 1, 2, 3, 4, 5, 6, 7, 0]);
    change(&mut rig, Parameters::default().queues(1));
    assert_eq!((rig.info().queues, rig.info().scaling.as_ref()), (1, None));
}

#[test]
fn a_host_that_gives_less_mtu_is_followed() {
    let (mut rig, _) = up(Config::default());
    // This host says 9000 at most.
    change(&mut rig, Parameters::default().mtu(20_000));
    assert_eq!((result(&rig), rig.info().mtu), (Ok(()), 9000));
    assert!(rig.events.iter().any(|event| matches!(event, Event::Warning(_))));
}

/// Every step of the attach at which a host can refuse.
const STEPS: [(&str, Step); 12] = [
    ("open", Step::Open),
    ("allocate Receive", Step::AllocateReceiveBuffer),
    ("share receive", Step::ShareReceiveBuffer),
    ("initialize", Step::Initialize),
    ("query PERMANENT_ADDRESS", Step::Query(rndis::Oid::PERMANENT_ADDRESS)),
    ("query TCP_OFFLOAD", Step::Query(rndis::Oid::TCP_OFFLOAD_HARDWARE_CAPABILITIES)),
    ("set TCP_OFFLOAD", Step::Set(rndis::Oid::TCP_OFFLOAD_PARAMETERS)),
    ("subchannels", Step::OpenSubchannels),
    ("open 1", Step::OpenSubchannels),
    ("attach 1", Step::OpenSubchannels),
    ("scaling on", Step::Set(rndis::Oid::RECEIVE_SCALE_PARAMETERS)),
    ("filter 13", Step::Set(rndis::Oid::PACKET_FILTER)),
];

#[test]
fn whatever_the_host_refuses_the_device_is_as_it_was() {
    for silent in [false, true] {
        for (label, step) in STEPS {
            if silent && label == "attach 1" {
                // That is the guest's own.
                continue;
            }
            let (mut rig, orders) = up(Config::default().queues(2));
            orders.next(label, if silent { React::Silent } else { React::Refuse });
            rig.control.reconfigure(rig.now, Parameters::default().mtu(9000).receive_sections(500)).expect("possible");
            rig.settle();
            while rig.control.is_reconfiguring() {
                assert!(rig.time_out(), "{label}: {:?}", rig.labels);
            }
            let error = result(&rig).expect_err(label);
            assert!(
                matches!(error, ReconfigureError::Restored { step: at, .. } if at == step),
                "{label}: {error:?}, {:?}",
                rig.labels
            );
            assert!(error.is_restored());
            let info = rig.info();
            assert_eq!((info.mtu, info.receive.requested, info.queues), (1500, 9709, 2), "{label}");
            assert_eq!(info.packet_filter, PacketFilter::OPEN);
            assert_eq!(rig.labels.last().unwrap(), "resume");
            assert!(!rig.events.iter().any(|event| matches!(event, Event::Failed { .. })));
            assert_eq!(rig.control.counters().failed_reconfigurations, 1);

            // And it can be changed the next time.
            rig.events.clear();
            change(&mut rig, Parameters::default().mtu(4000));
            assert_eq!((result(&rig), rig.info().mtu), (Ok(()), 4000), "{label}");
        }
    }
}

#[test]
fn a_host_that_refuses_twice_ends_the_device() {
    for (label, first) in STEPS {
        // Fewer queues are no reason to end a device that comes up as it was.
        if first == Step::OpenSubchannels || label.starts_with("scaling") {
            continue;
        }
        let (mut rig, orders) = up(Config::default().queues(2));
        orders.next(label, React::Refuse);
        orders.next(label, React::Refuse);
        change(&mut rig, Parameters::default().mtu(9000));
        rig.run_to_end();
        let error = result(&rig).expect_err(label);
        assert!(matches!(error, ReconfigureError::Failed { step, .. } if step == first), "{label}: {error:?}");
        assert!(!error.is_restored());
        assert!(matches!(rig.events.last(), Some(Event::Failed { step, .. }) if *step == first), "{:?}", rig.events);
        assert!(rig.control.is_over());
    }
}

#[test]
fn a_device_that_comes_back_with_fewer_queues_is_better_than_none() {
    let (mut rig, orders) = up(Config::default().queues(4));
    orders.next("subchannels", React::Refuse);
    orders.next("subchannels", React::Refuse);
    change(&mut rig, Parameters::default().mtu(9000));
    assert!(matches!(result(&rig), Err(ReconfigureError::Restored { step: Step::OpenSubchannels, .. })));
    assert_eq!((rig.info().mtu, rig.info().queues, rig.info().scaling.as_ref()), (1500, 1, None));
}

#[test]
fn more_queues_than_the_host_gives_after_all_are_not_had() {
    let (mut rig, _) = up(Config::default().queues(2));
    rig.most_subchannels = 2;
    change(&mut rig, Parameters::default().queues(4));
    let cause = Cause::FewQueues { requested: 4, effective: 3 };
    assert_eq!(result(&rig), Err(ReconfigureError::Restored { step: Step::OpenSubchannels, cause }));
    assert_eq!(rig.info().queues, 2);
}

#[test]
fn a_filter_that_cannot_be_set_leaves_all_as_it_is() {
    let (mut rig, orders) = up(Config::default());
    orders.next("filter 0", React::Refuse);
    change(&mut rig, Parameters::default().mtu(9000));
    assert!(matches!(result(&rig), Err(ReconfigureError::NotDetached { cause: Cause::RefusedRequest { .. } })));
    assert_eq!(rig.labels, ["pause", "filter 0", "resume", "filter 13"]);
    assert_eq!((rig.info().mtu, rig.info().packet_filter), (1500, PacketFilter::OPEN));
}

#[test]
fn sends_that_are_never_completed_leave_all_as_it_is() {
    let (mut rig, _) = up(Config::default().close_deadline(Duration::from_secs(3)));
    rig.outstanding = (1, 0);
    change(&mut rig, Parameters::default().mtu(9000));
    assert!(rig.control.is_draining());
    let held = HeldReceives::default();
    rig.control.handle(rig.now, Input::Outstanding { sends: 1, receives: 0, held });
    assert!(rig.time_out());
    let cause = Cause::NotCompleted { sends: 1, receives: 0 };
    assert_eq!(result(&rig), Err(ReconfigureError::NotDetached { cause }));
    assert_eq!(rig.labels, ["pause", "filter 0", "resume", "filter 13"]);
    assert!(!rig.control.is_draining());
    rig.outstanding = (0, 0);
    rig.events.clear();
    change(&mut rig, Parameters::default().mtu(9000));
    assert_eq!((result(&rig), rig.info().mtu), (Ok(()), 9000));
}

#[test]
fn received_frames_that_are_held_too_long_leave_all_as_it_is() {
    let (mut rig, _) = up(Config::default());
    rig.outstanding = (0, 2);
    change(&mut rig, Parameters::default().mtu(9000));
    let held = HeldReceives { packets: 2, sections: 40 };
    let outstanding = |sends, receives| Input::Outstanding { sends, receives, held };
    // The host is waited for as long as it may take; the application, once there is nothing else, for a second.
    for (sends, receives) in [(1, 2), (0, 3)] {
        rig.control.handle(rig.now, outstanding(sends, receives));
        assert_eq!(rig.control.poll_timeout(), Some(rig.now + Duration::from_secs(10)));
    }
    let since = rig.now;
    for _ in 0..3 {
        rig.control.handle(rig.now, outstanding(0, 2));
        assert_eq!(rig.control.poll_timeout(), Some(since + Duration::from_secs(1)));
        rig.now += Duration::from_millis(100);
    }
    assert!(rig.time_out());
    let cause = Cause::Held(held);
    assert_eq!(result(&rig), Err(ReconfigureError::NotDetached { cause }));
    assert_eq!(cause.to_string(), "frames of 2 receive packets (40 sections) are held");
    assert_eq!(rig.labels, ["pause", "filter 0", "resume", "filter 13"]);
    // Let go of in time, they are no hindrance.
    rig.events.clear();
    change(&mut rig, Parameters::default().mtu(9000));
    rig.control.handle(rig.now, outstanding(0, 2));
    rig.outstanding = (0, 0);
    rig.settle();
    assert_eq!((result(&rig), rig.info().mtu), (Ok(()), 9000));
}

/// `Outstanding` in which the application holds two packets, and the host has so many others.
fn with_two_held(of_host: usize) -> Input<'static> {
    let held = HeldReceives { packets: 2, sections: 40 };
    Input::Outstanding { sends: 0, receives: held.packets + of_host, held }
}

#[test]
fn the_host_is_waited_for_as_before_once_it_is_the_hindrance_again() {
    let (mut rig, _) = up(Config::default());
    rig.outstanding = (0, 2);
    change(&mut rig, Parameters::default().mtu(9000));
    let started = rig.now;
    let all = started + Duration::from_secs(10);
    rig.control.handle(rig.now, with_two_held(0));
    assert_eq!(rig.control.poll_timeout(), Some(rig.now + Duration::from_secs(1)));
    // A packet that was on its way comes after all.
    rig.now += Duration::from_millis(900);
    rig.control.handle(rig.now, with_two_held(1));
    assert_eq!(rig.control.poll_timeout(), Some(all));
    rig.pass(Duration::from_secs(3));
    assert!(rig.control.is_draining(), "{:?}", rig.labels);
    // The application has its second once it is the only one again, but never longer than all of it may take.
    rig.control.handle(rig.now, with_two_held(0));
    assert_eq!(rig.control.poll_timeout(), Some(rig.now + Duration::from_secs(1)));
    rig.control.handle(rig.now, with_two_held(1));
    rig.now = started + Duration::from_millis(9700);
    rig.control.handle(rig.now, with_two_held(0));
    assert_eq!(rig.control.poll_timeout(), Some(all));
    // The host ends as the last hindrance: that is what is said.
    rig.control.handle(rig.now, with_two_held(1));
    assert!(rig.time_out());
    assert_eq!(rig.now, all);
    let cause = Cause::NotCompleted { sends: 0, receives: 1 };
    assert_eq!(result(&rig), Err(ReconfigureError::NotDetached { cause }));
    assert_eq!(rig.control.counters().timeouts, 1);
}

#[test]
fn a_limit_of_one_change_does_not_reach_into_the_next() {
    let (mut rig, _) = up(Config::default());
    rig.outstanding = (0, 2);
    change(&mut rig, Parameters::default().mtu(9000));
    rig.control.handle(rig.now, with_two_held(0));
    // Let go of in time: nothing of the limit is left, neither on the way down nor when it is up.
    rig.outstanding = (0, 0);
    rig.settle();
    assert_eq!((result(&rig), rig.info().mtu), (Ok(()), 9000));
    rig.pass(Duration::from_secs(60));
    assert_eq!((rig.control.poll_timeout(), rig.control.counters().timeouts), (None, 0));
    rig.outstanding = (0, 2);
    rig.events.clear();
    change(&mut rig, Parameters::default().mtu(4000));
    let since = rig.now;
    rig.control.handle(rig.now, with_two_held(1));
    assert_eq!(rig.control.poll_timeout(), Some(since + Duration::from_secs(10)));
    rig.now += Duration::from_secs(2);
    rig.control.handle(rig.now, with_two_held(0));
    assert_eq!(rig.control.poll_timeout(), Some(rig.now + Duration::from_secs(1)));
    assert!(rig.time_out());
    assert!(matches!(result(&rig), Err(ReconfigureError::NotDetached { cause: Cause::Held(_) })), "{:?}", rig.events);
    assert_eq!(rig.control.poll_timeout(), None);
    // Closed meanwhile, all of it may take as long as a close does.
    rig.events.clear();
    change(&mut rig, Parameters::default().mtu(4000));
    rig.control.handle(rig.now, with_two_held(0));
    rig.control.close(rig.now);
    rig.settle();
    rig.control.handle(rig.now, with_two_held(1));
    assert_eq!(rig.control.poll_timeout(), Some(rig.now + Duration::from_secs(10)));
    rig.control.handle(rig.now, with_two_held(0));
    assert_eq!(rig.control.poll_timeout(), Some(rig.now + Duration::from_secs(1)));
    let since = rig.now;
    rig.run_to_end();
    assert_eq!(rig.now, since + Duration::from_secs(1));
    assert!(
        matches!(rig.events.last(), Some(Event::Closed(report)) if report.unreturned_sections == 2),
        "{:?}",
        rig.events
    );
}

#[test]
fn a_virtual_function_is_waited_for_as_long_as_ever_after_held_frames() {
    let (mut rig, _) = up(Config::default());
    rig.control.use_vf(rig.now, vf::Settings::default());
    rig.control.handle_vf(rig.now, vf::Input::Associated { serial: 1 });
    rig.control.handle_vf(rig.now, vf::Input::Arrived { serial: Some(1) });
    rig.settle();
    rig.outstanding = (0, 2);
    change(&mut rig, Parameters::default().mtu(9000));
    rig.control.handle(rig.now, with_two_held(0));
    // They are let go of, but the function is not closed yet.
    rig.outstanding = (0, 0);
    let held = HeldReceives::default();
    rig.control.handle(rig.now, Input::Outstanding { sends: 0, receives: 0, held });
    rig.now += Duration::from_secs(2);
    rig.control.handle_timeout(rig.now);
    assert!(rig.control.is_draining(), "{:?}", rig.labels);
    rig.control.handle_vf(rig.now, vf::Input::NotPrepared);
    rig.settle();
    assert_eq!((result(&rig), rig.info().mtu), (Ok(()), 9000));
}

#[test]
fn a_rescind_while_frames_are_held_has_the_queues_let_go_of_them_in_their_own_time() {
    let (mut rig, orders) = up(Config::default());
    rig.outstanding = (0, 2);
    rig.control.close(rig.now);
    rig.settle();
    rig.control.handle(rig.now, with_two_held(0));
    assert_eq!(rig.control.poll_timeout(), Some(rig.now + Duration::from_secs(1)));
    orders.next("detach", React::Silent);
    rig.feed(Fed::Rescinded);
    assert_eq!(rig.labels.last().unwrap(), "detach");
    assert_eq!(rig.control.poll_timeout(), Some(rig.now + Duration::from_secs(10)));
    rig.pass(Duration::from_secs(2));
    assert_eq!((rig.labels.last().unwrap().as_str(), rig.control.is_over()), ("detach", false));
    rig.run_to_end();
    assert!(matches!(rig.events.last(), Some(Event::Closed(report)) if report.host_gone), "{:?}", rig.events);
}

#[test]
fn a_filter_that_cannot_be_restored_either_takes_another_session() {
    for after in [None, Some("open")] {
        let (mut rig, orders) = up(Config::default());
        for label in ["filter 0", "filter 13", "halt"].into_iter().chain(after) {
            orders.next(label, React::Silent);
        }
        change(&mut rig, Parameters::default().mtu(9000));
        while rig.control.is_reconfiguring() {
            assert!(rig.time_out(), "{:?}", rig.labels);
        }
        let step = Step::Set(rndis::Oid::PACKET_FILTER);
        match after {
            None => {
                assert!(matches!(result(&rig), Err(ReconfigureError::Restored { step: at, .. }) if at == step));
                assert_eq!((rig.info().mtu, rig.info().packet_filter), (1500, PacketFilter::OPEN));
                assert_eq!(rig.labels.last().unwrap(), "resume");
            }
            Some(_) => {
                assert!(matches!(result(&rig), Err(ReconfigureError::Failed { step: at, .. }) if at == step));
                rig.run_to_end();
                assert!(matches!(rig.events.last(), Some(Event::Failed { .. })));
            }
        }
    }
}

/// All labels of a change that succeeds.
fn steps_of_a_change() -> Vec<String> {
    let (mut rig, _) = up(Config::default().queues(2));
    change(&mut rig, Parameters::default().mtu(9000));
    rig.labels
}

#[test]
fn a_rescind_at_any_step_is_the_end() {
    for (at, label) in steps_of_a_change().iter().enumerate() {
        if label == "resume" {
            // It is over by then.
            continue;
        }
        let nth = steps_of_a_change()[..at].iter().filter(|earlier| *earlier == label).count();
        let (mut rig, orders) = up(Config::default().queues(2));
        for _ in 0..nth {
            orders.next(label, React::Normal);
        }
        orders.next(label, React::Rescind);
        change(&mut rig, Parameters::default().mtu(9000));
        rig.run_to_end();
        assert_eq!(result(&rig), Err(ReconfigureError::Gone), "at {label}");
        assert!(matches!(rig.events.last(), Some(Event::Gone(_))), "at {label}: {:?}", rig.events);
        assert!(rig.open.is_empty(), "at {label}");
    }
}

#[test]
fn a_close_at_any_step_is_the_end_and_leaves_nothing() {
    // How many actions were done when it comes.
    let all = steps_of_a_change().len();
    for at in 0..all {
        let (mut rig, _) = up(Config::default().queues(2));
        rig.control.reconfigure(rig.now, Parameters::default().mtu(9000)).expect("possible");
        rig.settle_until(|rig| rig.labels.len() > at);
        if !rig.control.is_reconfiguring() {
            continue;
        }
        rig.control.close(rig.now);
        rig.run_to_end();
        assert_eq!(result(&rig), Err(ReconfigureError::Closed), "after {at}: {:?}", rig.labels);
        assert!(
            matches!(rig.events.last(), Some(Event::Closed(report)) if report.is_clean()),
            "after {at}: {:?}",
            rig.events
        );
        assert!(rig.open.is_empty());
    }
}

#[test]
fn the_link_is_told_once_if_it_changed_meanwhile() {
    let (mut rig, orders) = up(Config::default());
    orders.next("query MEDIA_CONNECT_STATUS", React::Raw(1u32.to_le_bytes().to_vec()));
    change(&mut rig, Parameters::default().mtu(9000));
    assert_eq!(rig.events.iter().filter(|event| matches!(event, Event::LinkDown)).count(), 1, "{:?}", rig.events);
    rig.pass(Duration::from_secs(10));
    rig.events.clear();
    change(&mut rig, Parameters::default().mtu(1500));
    assert_eq!(rig.events.iter().filter(|event| matches!(event, Event::LinkUp)).count(), 1, "{:?}", rig.events);
    rig.pass(Duration::from_secs(10));
    rig.events.clear();
    change(&mut rig, Parameters::default().mtu(9000));
    assert!(!rig.events.iter().any(|event| matches!(event, Event::LinkUp | Event::LinkDown | Event::NetworkChanged)));
}
