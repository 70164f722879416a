//! Versions, features, offers.

use super::*;

#[test]
fn versions_are_tried_from_newest_to_oldest() {
    let mut client = client(Config::default());
    let mut tried = Vec::new();
    while let [(connection, bytes)] = &sent(&mut client)[..] {
        let Ok(Message::InitiateContact(contact)) = Message::parse(bytes, Context::UNCONNECTED) else {
            panic!("not a contact")
        };
        let expected = if contact.version >= Version::V5_0 { 4 } else { 1 };
        assert_eq!(*connection, ConnectionId(expected));
        tried.push(contact.version);
        hear(&mut client, version_response(false, 0));
    }
    assert_eq!(tried, Version::ALL[1..9]);
    assert_eq!(events(&mut client), [Event::ConnectFailed(ConnectFailure::NoCommonVersion)]);
    client.connect(NOW).expect("may try again");
}

#[test]
fn unknown_contact_connection_falls_back_at_once() {
    let mut client = client(Config::default());
    for _ in 0..4 {
        assert_eq!(send_one(&mut client), ConnectionId::CONTACT);
        client.transmit_failed(NOW, HypercallStatus::INVALID_CONNECTION_ID);
    }
    let [(connection, bytes)] = &sent(&mut client)[..] else { panic!("one contact") };
    assert_eq!(*connection, ConnectionId::MESSAGE);
    let version = Message::parse(bytes, Context::UNCONNECTED);
    assert!(matches!(version, Ok(Message::InitiateContact(m)) if m.version == Version::V4_1));
}

#[test]
fn later_messages_use_the_returned_connection_id() {
    let mut client = client(Config::default());
    sent(&mut client);
    hear(&mut client, version_response(true, 77));
    let all = sent(&mut client);
    assert_eq!(all, [(ConnectionId(77), vec![3, 0, 0, 0, 0, 0, 0, 0])]);
    let old = Config::default().newest_version(Version::V4_0);
    let mut client = connected_with(old, Version::V4_0.0);
    client.unload(NOW).expect("connected");
    assert_eq!(sent(&mut client)[0].0, ConnectionId::MESSAGE);
}

#[test]
fn a_supported_version_that_failed_is_not_followed_by_an_older_one() {
    let mut client = client(Config::default());
    sent(&mut client);
    let state = ConnectionState::FAILED_LOW_RESOURCES;
    let Message::VersionResponse(response) = version_response(true, 0) else { unreachable!() };
    let response = VersionResponse { connection_state: state, ..response };
    hear(&mut client, Message::VersionResponse(response));
    let failure = ConnectFailure::Refused { version: Version::V5_3, state };
    assert_eq!(events(&mut client), [Event::ConnectFailed(failure)]);
    assert_eq!(sent(&mut client), []);
}

#[test]
fn only_features_that_are_implemented_can_be_asked_for() {
    let unsupported = FeatureFlags::PAUSE_RESUME;
    let config = Config::default().features(unsupported.union(FeatureFlags::CONFIDENTIAL_CHANNELS));
    assert_eq!(Client::new(config).err(), Some(ConfigError::Features { unsupported }));
    let config = Config::default().features(FeatureFlags::CLIENT_ID);
    assert_eq!(Client::new(config).err(), Some(ConfigError::ClientId));
    let config = Config::default().newest_version(Version::V2_4).oldest_version(Version::V3_0);
    assert!(matches!(Client::new(config).err(), Some(ConfigError::Versions { .. })));
    let pages = MonitorPages { parent_to_child: 0, child_to_parent: 4096 };
    let config = Config::default().monitor_pages(pages);
    assert_eq!(Client::new(config).err(), Some(ConfigError::OneMonitorPage { pages }));
}

#[test]
fn features_in_force_are_those_of_both_sides() {
    let asked = FeatureFlags::GUEST_SPECIFIED_SIGNAL_PARAMETERS.union(FeatureFlags::SERVER_SPECIFIED_MONITOR_PAGES);
    let config = Config::default().newest_version(Version::V6_0).features(asked);
    let mut client = client(config.client_id(Guid::NIC));
    assert_eq!(sent(&mut client)[0].1.len(), 56);
    let pages = MonitorPages { parent_to_child: 0, child_to_parent: 0x7f_e000 };
    hear(
        &mut client,
        Message::VersionResponse(VersionResponse {
            version_supported: true,
            connection_state: ConnectionState::SUCCESSFUL,
            selected: 5,
            supported_features: Some(asked.union(FeatureFlags::PAUSE_RESUME)),
            monitor_pages: Some(pages),
        }),
    );
    let connected = Event::Connected { version: Version::V6_0, features: asked, monitor_pages: Some(pages) };
    assert_eq!(events(&mut client), [connected]);
    // Signal parameters make OPENCHANNEL longer.
    hear(&mut client, Message::Offer(offer(14, 1, 0)));
    events(&mut client);
    let ring = lend(&mut client, 4);
    client.open_channel(NOW, OpenRequest::new(RELID, ring, 2)).expect("ready");
    let context = client.context().expect("connected");
    let all = sent(&mut client);
    let Ok(Message::OpenChannel(open)) = Message::parse(&all[0].1, context) else { panic!("not an open") };
    let signal = open.signal.expect("signal parameters");
    assert_eq!((signal.connection_id, signal.event_flag), (ConnectionId(0x200e), 14));
}

#[test]
fn offers_are_complete_only_when_the_host_says_so() {
    let mut client = connected();
    hear(&mut client, Message::Offer(offer(2, 1, 1)));
    hear(&mut client, Message::Offer(offer(1, 1, 0)));
    assert_eq!(client.offers().count(), 2);
    client.handle_timeout(LATER);
    hear(&mut client, Message::AllOffersDelivered);
    hear(&mut client, Message::AllOffersDelivered);
    hear(&mut client, Message::Offer(offer(3, 2, 0)));
    let expected = [
        Event::Offered(offer(2, 1, 1)),
        Event::Offered(offer(1, 1, 0)),
        Event::TimedOut(Exchange::Offers),
        Event::AllOffersDelivered,
        Event::Offered(offer(3, 2, 0)),
    ];
    assert_eq!(events(&mut client), expected);
    assert_eq!(client.counters().unexpected, 1);
}

#[test]
fn duplicate_and_impossible_offers_are_refused() {
    let mut client = offered();
    let refused = tell(&mut client, Message::Offer(offer(14, 2, 0)));
    assert_eq!(refused, Err(Violation::DuplicateRelId { relid: RELID }));
    let refused = tell(&mut client, Message::Offer(offer(15, 1, 0)));
    assert!(matches!(refused, Err(Violation::DuplicateChannel { existing: RELID, .. })));
    for relid in [0, 2048] {
        let refused = tell(&mut client, Message::Offer(offer(relid, 3, 0)));
        assert!(matches!(refused, Err(Violation::RelIdOutOfRange { .. })));
    }
    assert_eq!((events(&mut client), client.counters().violations), (vec![], 4));
}

#[test]
fn malformed_and_misdirected_messages_have_no_effect() {
    let mut client = connected();
    for bytes in [&[][..], &[2, 0, 0, 0, 0, 0, 0, 0, 14], &[0xff; 240], &[0; 241]] {
        let refused = client.handle_message(NOW, bytes);
        assert!(matches!(refused, Err(Violation::Malformed(_))));
    }
    let message = MessageType::UNLOAD;
    assert_eq!(tell(&mut client, Message::Unload), Err(Violation::WrongDirection { message }));
    assert_eq!((events(&mut client), sent(&mut client)), (vec![], vec![]));
}
