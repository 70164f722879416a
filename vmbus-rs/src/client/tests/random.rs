//! Any sequence of calls and messages.

use super::*;

/// One step of a host, or of the user.
#[derive(Clone, Debug)]
enum Step {
    Bytes(Vec<u8>),
    Offer(u32, u8, u16),
    Rescind(u32),
    Created(u32, u32, bool),
    Torndown(u32),
    OpenResult(u32, bool),
    Modified(u32),
    Version(bool),
    UnloadResponse,
    Lend(u32, u32),
    Open(u32, u32),
    Close(u32),
    TearDown(u32),
    Modify(u32),
    Unload,
    Connect,
    Send,
    FailToSend(u16),
    Take,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let relid = 1_u32..6;
    let gpadl = 0_u32..6;
    prop_oneof![
        (1_u8..30, proptest::collection::vec(any::<u8>(), 0..240)).prop_map(|(kind, mut bytes)| {
            bytes.splice(0..0, [kind, 0, 0, 0]);
            Step::Bytes(bytes)
        }),
        (0_u32..8, 0_u8..3, 0_u16..3).prop_map(|(r, i, s)| Step::Offer(r, i, s)),
        relid.clone().prop_map(Step::Rescind),
        (relid.clone(), gpadl.clone(), any::<bool>()).prop_map(|(r, g, ok)| Step::Created(r, g, ok)),
        gpadl.clone().prop_map(Step::Torndown),
        (relid.clone(), any::<bool>()).prop_map(|(r, ok)| Step::OpenResult(r, ok)),
        relid.clone().prop_map(Step::Modified),
        any::<bool>().prop_map(Step::Version),
        Just(Step::UnloadResponse),
        (relid.clone(), 1_u32..60).prop_map(|(r, pages)| Step::Lend(r, pages)),
        (relid.clone(), gpadl.clone()).prop_map(|(r, g)| Step::Open(r, g)),
        relid.clone().prop_map(Step::Close),
        gpadl.prop_map(Step::TearDown),
        relid.prop_map(Step::Modify),
        Just(Step::Unload),
        Just(Step::Connect),
        Just(Step::Send),
        prop_oneof![Just(0x12), Just(0x13), Just(5)].prop_map(Step::FailToSend),
        Just(Step::Take),
        (0_u64..20_000).prop_map(Step::Wait),
    ]
}

fn gpadl_id(index: u32) -> GpadlId {
    GpadlId(GpadlId::FIRST.0 + index)
}

fn status(ok: bool) -> Status {
    if ok { Status::SUCCESS } else { Status::FAILURE }
}

/// Violations and refused requests are expected here; that they are values and no panics is what is tested.
fn take_step(client: &mut Client, now: &mut Duration, step: Step) {
    let (at, relid) = (*now, RelId);
    let heard = match step {
        Step::Bytes(bytes) => client.handle_message(at, &bytes),
        Step::Offer(r, instance, sub) => tell(client, Message::Offer(offer(r, instance, sub))),
        Step::Rescind(r) => tell(client, Message::Rescind(Rescind { relid: relid(r) })),
        Step::Created(r, g, ok) => tell(client, created(relid(r), gpadl_id(g), status(ok))),
        Step::Torndown(g) => tell(client, Message::GpadlTorndown(GpadlTorndown { gpadl: gpadl_id(g) })),
        Step::OpenResult(r, ok) => {
            tell(client, Message::OpenResult(OpenResult { relid: relid(r), open_id: OpenId(r), status: status(ok) }))
        }
        Step::Modified(r) => tell(
            client,
            Message::ModifyChannelResponse(ModifyChannelResponse { relid: relid(r), status: Status::SUCCESS }),
        ),
        Step::Version(ok) => tell(client, version_response(ok, 9)),
        Step::UnloadResponse => tell(client, Message::UnloadResponse),
        request => {
            let asked = match request {
                Step::Lend(r, count) => client.create_gpadl(at, relid(r), pages(count)).map(|_| ()),
                Step::Open(r, g) => client.open_channel(at, OpenRequest::new(relid(r), gpadl_id(g), 1)),
                Step::Close(r) => client.close_channel(relid(r)),
                Step::TearDown(g) => client.teardown_gpadl(at, gpadl_id(g)),
                Step::Modify(r) => client.modify_channel(at, relid(r), VpIndex(1)),
                Step::Unload => client.unload(at),
                Step::Connect => client.connect(at),
                Step::FailToSend(code) => {
                    client.transmit_failed(at, HypercallStatus(code));
                    Ok(())
                }
                Step::Wait(micros) => {
                    *now += Duration::from_micros(micros);
                    client.handle_timeout(*now);
                    Ok(())
                }
                _ => Ok(()),
            };
            if let Err(error) = asked {
                assert!(!alloc::format!("{error}").is_empty());
            }
            Ok(())
        }
    };
    if let Err(violation) = heard {
        assert!(!alloc::format!("{violation}").is_empty());
    }
}

proptest! {
    // A case is up to 200 steps.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_sequence_panics_and_each_rescind_releases_at_most_once(
        steps in proptest::collection::vec(step(), 0..200),
    ) {
        let mut client = connected();
        let mut now = NOW;
        let mut offers = [0_u32; 8];
        let mut released = [0_u32; 8];
        for step in steps {
            if matches!(step, Step::Take) {
                while let Some(event) = client.poll_event() {
                    if let Event::Offered(offer) = event && offer.relid.0 < 8 {
                        offers[offer.relid.0 as usize] += 1;
                    }
                    if matches!(event, Event::Unloaded) {
                        (offers, released) = ([0; 8], [0; 8]);
                    }
                }
            } else if matches!(step, Step::Send) {
                let mut buf = [0; MAX_MESSAGE];
                if client.poll_transmit(&mut buf).is_some() && buf[0] == 13 && buf[8] < 8 {
                    released[usize::from(buf[8])] += 1;
                }
            } else if !matches!(step, Step::FailToSend(_)) {
                // A release that failed to be posted is rightly repeated; failures have the test below.
                take_step(&mut client, &mut now, step);
            }
            for (released, offers) in released.iter().zip(&offers) {
                prop_assert!(released <= offers);
            }
        }
    }

    #[test]
    fn no_sequence_with_failing_posts_panics(
        steps in proptest::collection::vec(step(), 0..200),
    ) {
        let mut client = connected();
        let mut now = NOW;
        let mut buf = [0; MAX_MESSAGE];
        for step in steps {
            match step {
                Step::Take => drop(events(&mut client)),
                Step::Send => {
                    client.poll_transmit(&mut buf);
                }
                step => take_step(&mut client, &mut now, step),
            }
        }
    }
}

#[test]
fn a_host_that_offers_and_rescinds_forever_fills_bounded_memory() {
    let mut client = connected();
    for round in 0..3_u32 {
        for relid in 0..3000 {
            let instance = Guid::new(relid, round as u16, 0, 0);
            let offer = Offer { instance_id: instance, ..offer(relid, 0, 0) };
            let accepted = tell(&mut client, Message::Offer(offer));
            assert_eq!(accepted.is_ok(), round == 0 && (1..=2047).contains(&relid));
        }
        assert_eq!(client.offers().count(), if round == 0 { 2047 } else { 0 });
        for relid in 1..=2047 {
            hear(&mut client, Message::Rescind(Rescind { relid: RelId(relid) }));
        }
    }
    // The user was away all the time: one offer and one rescind for each number.
    assert_eq!(client.events.len(), 2 * 2047);
    events(&mut client);
    assert_eq!(types(&mut client).len(), 2047);
    let State::Connected(connection) = &client.state else { panic!("connected") };
    assert!(connection.channels.is_empty());
}
