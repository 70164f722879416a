//! Who sent what to whom, and what of it came: numbered frames of flows.
//!
//! A frame that comes for the second time, or behind a later one of its flow, is a failure at once. What is missing can be
//! asked for at any time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A station's address.
pub(crate) type Mac = [u8; 6];

/// Numbered frames of one station to one other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Flow {
    from: Mac,
    to: Mac,
    number: u8,
}

#[derive(Debug, Clone, Copy, Default)]
struct Account {
    sent: u64,
    arrived: u64,
    /// The lowest number that may come next.
    next: u64,
    /// Missing, and known to be.
    forgiven: u64,
}

/// Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger(Arc<Mutex<BTreeMap<Flow, Account>>>);

/// All frames have one of these lengths, by their number.
fn length(number: u64) -> usize {
    60 + (number % 50) as usize
}

impl Ledger {
    fn accounts(&self) -> MutexGuard<'_, BTreeMap<Flow, Account>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next frame of a flow. It counts once it was [`sent`](Self::sent).
    pub(crate) fn frame(&self, from: Mac, to: Mac, flow: u8) -> Vec<u8> {
        let number = self.accounts().get(&Flow { from, to, number: flow }).map_or(0, |account| account.sent);
        let mut frame = vec![number as u8; length(number)];
        frame[..6].copy_from_slice(&to);
        frame[6..12].copy_from_slice(&from);
        frame[12..14].copy_from_slice(&[0x88, 0xB5]);
        frame[14] = flow;
        frame[16..24].copy_from_slice(&number.to_le_bytes());
        frame
    }

    /// That frame was accepted.
    pub(crate) fn sent(&self, from: Mac, to: Mac, flow: u8) {
        self.accounts().entry(Flow { from, to, number: flow }).or_default().sent += 1;
    }

    /// A frame came to the station `at`.
    #[track_caller]
    pub(crate) fn came(&self, at: Mac, frame: &[u8]) {
        let mac = |range: &[u8]| Mac::try_from(range).expect("six bytes");
        let (to, from) = (mac(&frame[..6]), mac(&frame[6..12]));
        assert_eq!(to, at, "a frame for somebody else");
        let number = u64::from_le_bytes(frame[16..24].try_into().expect("eight bytes"));
        let flow = Flow { from, to, number: frame[14] };
        let mut accounts = self.accounts();
        let account = accounts.entry(flow).or_default();
        assert_eq!(frame.len(), length(number), "{flow:?}");
        assert!(number >= account.next, "{flow:?}: frame {number} came, {} is next", account.next);
        account.next = number + 1;
        account.arrived += 1;
    }

    /// Frames from these stations to those that are missing, and not forgiven.
    fn missing(&self, of: impl Fn(&Flow) -> bool) -> u64 {
        let accounts = self.accounts();
        let accounts = accounts.iter().filter(|(flow, _)| of(flow));
        accounts.map(|(_, account)| account.sent.saturating_sub(account.arrived + account.forgiven)).sum()
    }

    pub(crate) fn missing_of(&self, from: Mac) -> u64 {
        self.missing(|flow| flow.from == from)
    }

    pub(crate) fn missing_at(&self, to: Mac) -> u64 {
        self.missing(|flow| flow.to == to)
    }

    pub(crate) fn arrived_of(&self, from: Mac) -> u64 {
        self.accounts().iter().filter(|(flow, _)| flow.from == from).map(|(_, account)| account.arrived).sum()
    }

    pub(crate) fn arrived_at(&self, to: Mac) -> u64 {
        self.accounts().iter().filter(|(flow, _)| flow.to == to).map(|(_, account)| account.arrived).sum()
    }

    /// What is missing of this station or at it is known to be lost; how much that is of what it sent.
    pub(crate) fn forgive(&self, station: Mac) -> u64 {
        let lost = self.missing_of(station);
        for (flow, account) in &mut *self.accounts() {
            if flow.from == station || flow.to == station {
                account.forgiven = account.sent.saturating_sub(account.arrived);
            }
        }
        lost
    }
}
