//! The guest's control plane, fed with any messages while its user asks for this and that.

use core::time::Duration;

use vmbus::client::{Client, Config, Event, OpenRequest};
use vmbus::gpadl::{GpadlId, RangeList};
use vmbus::protocol::{FeatureFlags, MAX_MESSAGE, RelId, Version, VpIndex};
use vmbus::synic::HypercallStatus;

use crate::Bytes;

/// Channels offered at the same time that are possible at all.
const MAX_CHANNELS: usize = 2047;

/// A client, the time it is told, and what it learned.
#[derive(Debug)]
pub struct Session {
    client: Client,
    now: Duration,
    channels: Vec<RelId>,
    memory: Vec<GpadlId>,
}

impl Default for Session {
    fn default() -> Self {
        Self::new(Config::default())
    }
}

impl Session {
    /// A client that asks for a connection.
    ///
    /// # Panics
    /// If `config` contradicts itself.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let mut client = Client::new(config).expect("consistent settings");
        client.connect(Duration::ZERO).expect("not connected yet");
        let mut session = Self { client, now: Duration::ZERO, channels: Vec::new(), memory: Vec::new() };
        session.settle();
        session
    }

    /// One message of the host.
    pub fn message(&mut self, bytes: &[u8]) {
        let before = self.client.counters();
        if self.client.handle_message(self.now, bytes).is_err() {
            assert_eq!(self.client.counters().violations, before.violations + 1);
        }
        self.settle();
    }

    /// What the user does; each number is something else.
    pub fn ask(&mut self, what: u8, which: u8) {
        let channel = self.channels.get(usize::from(which) % self.channels.len().max(1)).copied().unwrap_or(RelId(1));
        let memory = self.memory.get(usize::from(which) % self.memory.len().max(1)).copied().unwrap_or(GpadlId::FIRST);
        // A refusal is an answer, too.
        match what % 8 {
            0 => {
                let pages = usize::from(which) % 40 + 1;
                let ranges = RangeList::for_buffer(pages * 4096, |offset| Some(0x10_0000 + offset as u64));
                if let Ok(gpadl) = self.client.create_gpadl(self.now, channel, ranges.expect("few pages")) {
                    self.memory.push(gpadl);
                }
            }
            1 => drop(self.client.open_channel(self.now, OpenRequest::new(channel, memory, 1))),
            2 => drop(self.client.close_channel(channel)),
            3 => drop(self.client.teardown_gpadl(self.now, memory)),
            4 => drop(self.client.modify_channel(self.now, channel, VpIndex(which.into()))),
            5 => {
                self.now += Duration::from_secs(which.into());
                self.client.handle_timeout(self.now);
            }
            6 => drop(self.client.unload(self.now)),
            _ => drop(self.client.connect(self.now)),
        }
        self.settle();
    }

    /// Posts what there is to post (a part of it in vain) and takes all events.
    fn settle(&mut self) {
        let mut message = [0; MAX_MESSAGE];
        // An unload and a GPADL of many pages take a handful of messages each; nothing takes thousands.
        for round in 0.. {
            assert!(round < 4096, "the client never stops talking");
            let Some(_) = self.client.poll_transmit(&mut message) else { break };
            if round == 13 {
                self.client.transmit_failed(self.now, HypercallStatus::INSUFFICIENT_MEMORY);
            }
        }
        while let Some(event) = self.client.poll_event() {
            match event {
                Event::Offered(offer) => self.channels.push(offer.relid),
                Event::Rescinded { relid, .. } => self.channels.retain(|known| *known != relid),
                Event::GpadlTornDown { gpadl, .. } | Event::GpadlFailed { gpadl, .. } => {
                    self.memory.retain(|known| *known != gpadl);
                }
                Event::ConnectFailed(_) | Event::Unloaded => {
                    self.channels.clear();
                    self.memory.clear();
                }
                _ => {}
            }
        }
        assert!(self.client.offers().count() <= MAX_CHANNELS);
        let _ = self.client.poll_timeout();
    }
}

/// A session driven by a fuzzer's bytes: messages and requests in turn.
pub fn run(input: &mut Bytes<'_>) {
    let Some(choice) = input.u8() else { return };
    let mut config = Config::default();
    if choice % 2 == 1 {
        config = config.newest_version(Version::V6_0).features(FeatureFlags::GUEST_SPECIFIED_SIGNAL_PARAMETERS);
    }
    let mut session = Session::new(config);
    while let Some(choice) = input.u8() {
        if choice % 4 == 0 {
            let (Some(what), Some(which)) = (input.u8(), input.u8()) else { return };
            session.ask(what, which);
        } else {
            let Some(message) = input.run() else { return };
            session.message(message);
        }
    }
}
