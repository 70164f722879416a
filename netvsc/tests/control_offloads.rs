//! Offloads as the control machine negotiates them: at bring-up, at run time, refused, and limited by what the host says.

mod control_host;
mod offers;

use control_host::{Fed, React, Rig, answer};
use netvsc::Config;
use netvsc::control::{Event, NotAccepted, RequestError};
use netvsc::offload::{Checksums, OffloadSettings, Offloads};
use nvsp::Version;
use offers::everything;
use rndis::control::IndicateStatus;
use rndis::offload::{ChecksumV4Flags, LsoTaskV2, Offload, OffloadParameters};
use rndis::{Oid, Status};

const CAPABILITIES: &str = "query TCP_OFFLOAD_HARDWARE_CAPABILITIES";
const PARAMETERS: &str = "set TCP_OFFLOAD_PARAMETERS";

fn bytes(offload: &Offload) -> Vec<u8> {
    let mut bytes = vec![0; offload.buffer_len()];
    offload.emit(&mut bytes).unwrap();
    bytes
}

/// A host that offers `offload`, and does `react` at the `nth` set of the parameters (from 0).
fn rig(config: Config, offload: &Offload, nth: usize, react: React) -> Rig {
    let offer = bytes(offload);
    let mut sets = 0;
    let mut rig = Rig::scripted(config, move |label| match label {
        CAPABILITIES => React::Raw(offer.clone()),
        PARAMETERS => {
            sets += 1;
            if sets == nth + 1 { react.clone() } else { React::Normal }
        }
        _ => React::Normal,
    });
    rig.settle();
    rig
}

/// The parameters that were last set.
fn last_set(rig: &Rig) -> OffloadParameters {
    let sets = rig.rndis_sent.iter().rev().filter_map(|message| match rndis::Message::parse(message).ok()? {
        rndis::Message::Set(set) if set.oid == Oid::TCP_OFFLOAD_PARAMETERS => {
            Some(OffloadParameters::parse(set.information).unwrap())
        }
        _ => None,
    });
    sets.into_iter().next().expect("they were set")
}

fn current(offload: &Offload) -> Fed {
    let mut message = vec![0; 256];
    let value = bytes(offload);
    let len = IndicateStatus::new(Status::TASK_OFFLOAD_CURRENT_CONFIG, &value).emit(&mut message).unwrap();
    message.truncate(len);
    Fed::Rndis(message)
}

#[test]
fn what_is_wished_is_asked_for_and_what_is_granted_is_told() {
    for (settings, rsc) in [(OffloadSettings::forwarding(), 1), (OffloadSettings::endpoint(), 2)] {
        let rig = rig(Config::default().offloads(settings), &everything(), 9, React::Normal);
        let info = rig.info();
        assert_eq!(info.offloads, Offloads::agreed(Version::V6_1, &everything(), &settings));
        assert_eq!((info.offload_settings, info.offloads.rsc_v4), (settings, rsc == 2));
        let set = last_set(&rig);
        assert_eq!((set.rsc_v4.0, set.tcp_v4_checksum.0, set.udp_v6_checksum.0, set.lso_v2_v6.0), (rsc, 4, 4, 2));
    }
}

#[test]
fn a_host_that_offers_nothing_is_asked_for_nothing() {
    for revision in [1, 2, 3] {
        let rig = rig(Config::default(), &Offload::empty(revision), 9, React::Normal);
        assert_eq!(rig.info().offloads, Offloads::NONE);
        let set = last_set(&rig);
        assert_eq!((set.tcp_v4_checksum.0, set.udp_v4_checksum.0, set.lso_v2_v4.0), (0, 0, 0), "left as they are");
        assert_eq!(set.ipv4_checksum.0, 1);
    }
}

#[test]
fn switches_at_run_time_and_what_holds_meanwhile() {
    let mut rig = rig(Config::default(), &everything(), 1, React::Silent);
    let before = rig.info().offloads;
    let mut wished = OffloadSettings::endpoint();
    wished.tx_checksum.udp_v4 = false;
    wished.lso_v6 = false;
    let request = rig.control.set_offloads(rig.now, wished).unwrap();
    assert_eq!(rig.control.set_offloads(rig.now, wished), Err(NotAccepted::TooMany { limit: 1 }));
    rig.settle();
    let meanwhile = rig.info().offloads;
    assert!(before.tx_checksum.udp_v4 && !meanwhile.tx_checksum.udp_v4 && meanwhile.lso_v6.is_none());
    assert!(!meanwhile.rsc_v4 && meanwhile.lso_v4.is_some(), "what both grant");
    // What is in force comes before the answer.
    let mut limited = everything();
    limited.checksum_v4_tx.flags = ChecksumV4Flags(0x115);
    limited.lso_v2_v6 = LsoTaskV2::default();
    rig.feed(current(&limited));
    assert_eq!(rig.info().offloads, meanwhile);
    let set = rig.rndis_sent.last().unwrap().clone();
    rig.feed(Fed::Rndis(answer(&set, &React::Normal).unwrap()));
    let after = rig.info().offloads;
    assert_eq!((rig.info().offload_settings, after), (wished, Offloads::agreed(Version::V6_1, &everything(), &wished)));
    assert!(rig.events.contains(&Event::Answered { request, result: Ok(Vec::new()) }));
    assert!(rig.control.set_offloads(rig.now, OffloadSettings::off()).is_ok());
    rig.settle();
    assert_eq!(rig.info().offloads, Offloads::NONE);
    assert_eq!(last_set(&rig).tcp_v6_checksum.0, 1);
}

#[test]
fn after_a_refusal_all_is_as_before() {
    let refused: fn(&RequestError) -> bool = |error| matches!(error, RequestError::Refused { .. });
    let late: fn(&RequestError) -> bool = |error| matches!(error, RequestError::TimedOut { .. });
    for (react, expected) in [(React::Refuse, refused), (React::Silent, late)] {
        let mut rig = rig(Config::default(), &everything(), 1, react);
        let before = (rig.info().offload_settings, rig.info().offloads);
        let request = rig.control.set_offloads(rig.now, OffloadSettings::off()).unwrap();
        rig.settle();
        if let Some(due) = rig.control.poll_timeout() {
            rig.now = due;
            rig.control.handle_timeout(due);
            rig.settle();
        }
        let answered = rig.events.iter().find_map(|event| match event {
            Event::Answered { request: of, result: Err(error) } if *of == request => Some(error),
            _ => None,
        });
        assert!(answered.is_some_and(expected), "{:?}", rig.events);
        assert_eq!((rig.info().offload_settings, rig.info().offloads), before);
        assert_eq!(last_set(&rig).tcp_v4_checksum.0, 4, "the old ones were set again");
    }
}

#[test]
fn the_host_may_take_offloads_back_and_give_them_again() {
    let mut rig = rig(Config::default(), &everything(), 9, React::Normal);
    let granted = rig.info().offloads;
    rig.feed(current(&Offload::empty(3)));
    assert_eq!((rig.info().offloads.tx_checksum, rig.info().offloads.lso_v4), (Checksums::NONE, None));
    assert_eq!(rig.info().offloads.rx_checksum, granted.rx_checksum, "a verdict stands for itself");
    rig.feed(current(&everything()));
    assert_eq!(rig.info().offloads, granted);
    assert_eq!(rig.events.iter().filter(|event| matches!(event, Event::OffloadChanged(_))).count(), 2);
}

#[test]
fn who_waits_for_a_change_is_told_of_the_close() {
    let mut rig = rig(Config::default(), &everything(), 1, React::Silent);
    assert!(rig.control.info().is_some());
    let request = rig.control.set_offloads(rig.now, OffloadSettings::off()).unwrap();
    rig.control.close(rig.now);
    rig.run_to_end();
    assert!(
        rig.events
            .iter()
            .any(|event| matches!(event, Event::Answered { request: of, result: Err(_) } if *of == request))
    );
    assert_eq!(rig.control.set_offloads(rig.now, OffloadSettings::off()), Err(NotAccepted::NotReady));
}
