//! What runs a host: inline, a thread, a task; and what it says at the end.

mod common;

use std::time::Duration;

use common::{Guest, Session};
use netvsc_host::{Host, NicId, NicOptions, Profile, Strictness, ViolationKind};
use vmbus::protocol::{ConnectionId, ContactTarget, Context, InitiateContact, Message, MonitorPages, Version, VpIndex};

fn contact() -> ([u8; 40], ConnectionId) {
    let contact = InitiateContact {
        version: Version::V4_0,
        target_message_vp: VpIndex(0),
        target: ContactTarget::InterruptPage(0),
        monitor_pages: MonitorPages::default(),
        client_id: None,
    };
    let mut bytes = [0; 40];
    assert_eq!(Message::InitiateContact(contact).emit(&mut bytes), Ok(40));
    (bytes, ConnectionId::MESSAGE)
}

fn is_accepted(posted: &vmbus::mem::PostedMessage) -> bool {
    let message = Message::parse(&posted.bytes, Context::new(Version::V4_0));
    matches!(message, Ok(Message::VersionResponse(response)) if response.version_supported)
}

#[test]
fn nothing_happens_between_steps() {
    let host = Host::builder().profile(Profile::Ws2016).build();
    let guest = host.add_nic(NicOptions::new());
    let (bytes, id) = contact();
    guest.post_message(id, &bytes).unwrap();
    assert!(guest.take_message().is_none());
    assert!(host.step(Duration::ZERO).did_work);
    assert!(is_accepted(&guest.take_message().unwrap()));
    let idle = host.step(Duration::ZERO);
    assert!(!idle.did_work && idle.next_timeout.is_none(), "{idle:?}");
}

#[test]
fn the_guest_runs_an_inline_host() {
    let host = Host::builder().profile(Profile::Ws2016).build();
    host.run_inline();
    let guest = host.add_nic(NicOptions::new());
    let (bytes, id) = contact();
    guest.post_message(id, &bytes).unwrap();
    assert!(guest.run_host());
    assert!(is_accepted(&guest.take_message().unwrap()));
    drop(host);
    assert!(guest.host_is_gone(), "a guest does not keep its host alive");
}

#[test]
fn a_thread_wakes_for_a_message_and_ends_with_its_handle() {
    let host = Host::builder().profile(Profile::Ws2016).build();
    let guest = host.add_nic(NicOptions::new());
    let thread = host.spawn_thread();
    let (bytes, id) = contact();
    guest.post_message(id, &bytes).unwrap();
    futures::executor::block_on(std::future::poll_fn(|cx| guest.latch().poll(cx)));
    assert!(is_accepted(&guest.take_message().unwrap()));
    drop(thread);
}

#[test]
fn a_rescinded_nic_is_released_once() {
    let session = Session::read("netvsp-host", "v5");
    let guest = Guest::new(&session, Profile::Ws2019.settings());
    let host = guest.host.clone();
    host.rescind(NicId(0));
    assert_eq!(host.report().leaks.channels, 1, "rescinded, not released");
    let mut guest = guest;
    guest.release();
    assert_eq!(host.report().leaks.channels, 0);
    guest.release();
    let rules: Vec<_> = host.violations().iter().map(|violation| violation.kind).collect();
    assert_eq!(rules, [ViolationKind::UnknownChannel], "released twice");
}

#[test]
fn what_the_guest_keeps_is_told() {
    let session = Session::read("netvsp-host", "v5");
    let mut guest = Guest::new(&session, Profile::Ws2019.settings());
    assert!(guest.create(1, None, 18));
    assert!(guest.open(1, 9));
    assert!(!guest.create(1, None, 1), "an id is used once");
    let leaks = guest.host.report().leaks;
    assert_eq!((leaks.gpadls, leaks.channels), (1, 1));
    // Arena, rings, and the block of the refused list.
    assert_eq!(leaks.memory_blocks, 3);
    let report = guest.host.report();
    assert!(!report.is_clean());
    assert_eq!(report.violations[0].kind, ViolationKind::BadGpadl);
    assert!(!report.violations[0].bytes.is_empty(), "the offending bytes are kept");
}

#[test]
#[should_panic(expected = "protocol violation")]
fn a_strict_host_panics_at_the_first_violation() {
    let session = Session::read("netvsp-host", "v5");
    let mut settings = Profile::Ws2019.settings();
    settings.strictness = Strictness::Panic;
    let mut guest = Guest::new(&session, settings);
    guest.create(0, None, 1);
}

#[test]
fn a_broken_channel_is_rescinded_if_so_wished() {
    let session = Session::read("netvsp-host", "init-bad-gpadl");
    let mut settings = Profile::Ws2019.settings();
    settings.strictness = Strictness::Rescind;
    let mut guest = Guest::new(&session, settings);
    for event in session.events() {
        match event["ev"].as_str() {
            Some("gpadl_create") => drop(guest.create(1, None, event["pages"].as_u64().unwrap())),
            Some("open") => drop(guest.open(1, event["downstream_page"].as_u64().unwrap() as u32)),
            Some("packet") if event["dir"] == "g2h" => {
                guest.write(event, 1);
                guest.run();
            }
            _ => {}
        }
    }
    assert!(guest.is_rescinded());
}

#[cfg(feature = "tokio")]
mod tokio_task {
    use super::*;

    #[test]
    fn a_task_runs_the_host_and_ends_with_it() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let host = Host::builder().profile(Profile::Ws2016).build();
            let guest = host.add_nic(NicOptions::new());
            let task = host.spawn();
            let (bytes, id) = contact();
            guest.post_message(id, &bytes).unwrap();
            std::future::poll_fn(|cx| guest.latch().poll(cx)).await;
            assert!(is_accepted(&guest.take_message().unwrap()));
            drop(host);
            task.await.unwrap();
            assert!(guest.host_is_gone());
        });
    }
}
