//! The table of learned addresses: fixed memory, no allocation, bounded work per frame.
//!
//! Sets of [`WAYS`] entries, chosen by a hash of the address. A full set gives up its entry that was silent longest, so
//! a sender of made-up addresses can make the switch flood but not grow. An entry older than the ageing time is treated
//! as absent; nobody needs to sweep.

use core::time::Duration;

use rndis::value::MacAddress;

use super::PortId;

/// Entries that share a hash.
const WAYS: usize = 8;

#[derive(Clone, Copy, Debug)]
struct Entry {
    mac: MacAddress,
    port: PortId,
    seen: Duration,
}

/// Learned addresses.
#[derive(Debug)]
pub(super) struct MacTable {
    sets: Box<[[Option<Entry>; WAYS]]>,
    ageing: Duration,
}

/// What learning an address did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Learned {
    /// Known at this port.
    Refreshed,
    /// New, or forgotten meanwhile.
    New,
    /// Known at another port, which it has left.
    Moved,
    /// New, in the place of another that was not yet old.
    Evicted,
}

impl MacTable {
    /// A table for at least `entries` addresses.
    pub(super) fn new(entries: usize, ageing: Duration) -> Self {
        let sets = entries.div_ceil(WAYS).max(1).next_power_of_two();
        Self { sets: vec![[None; WAYS]; sets].into_boxed_slice(), ageing }
    }

    /// Notes that `mac` was seen at `port`.
    pub(super) fn learn(&mut self, now: Duration, mac: MacAddress, port: PortId) -> Learned {
        let ageing = self.ageing;
        let fresh = Entry { mac, port, seen: now };
        let set = self.set_mut(mac);
        if let Some(entry) = set.iter_mut().flatten().find(|entry| entry.mac == mac) {
            let outcome = if is_old(entry, now, ageing) {
                Learned::New
            } else if entry.port == port {
                Learned::Refreshed
            } else {
                Learned::Moved
            };
            *entry = fresh;
            return outcome;
        }
        // `None` sorts before every entry, so free places are taken first.
        let Some(place) = set.iter_mut().min_by_key(|place| place.map(|entry| entry.seen)) else {
            return Learned::New;
        };
        let evicts = place.is_some_and(|entry| !is_old(&entry, now, ageing));
        *place = Some(fresh);
        if evicts { Learned::Evicted } else { Learned::New }
    }

    /// Where `mac` was seen last, unless that is too long ago.
    pub(super) fn lookup(&self, now: Duration, mac: MacAddress) -> Option<PortId> {
        let set = &self.sets[self.index(mac)];
        let entry = set.iter().flatten().find(|entry| entry.mac == mac)?;
        (!is_old(entry, now, self.ageing)).then_some(entry.port)
    }

    /// Forgets everything learned at `port`.
    pub(super) fn forget_port(&mut self, port: PortId) {
        self.forget(|entry| entry.port == port);
    }

    /// Forgets one address.
    pub(super) fn forget_mac(&mut self, mac: MacAddress) {
        self.forget(|entry| entry.mac == mac);
    }

    /// Addresses known at `now`.
    pub(super) fn len(&self, now: Duration) -> usize {
        self.sets.iter().flatten().flatten().filter(|entry| !is_old(entry, now, self.ageing)).count()
    }

    fn forget(&mut self, mut which: impl FnMut(&Entry) -> bool) {
        for place in self.sets.iter_mut().flatten() {
            if place.as_ref().is_some_and(&mut which) {
                *place = None;
            }
        }
    }

    fn set_mut(&mut self, mac: MacAddress) -> &mut [Option<Entry>; WAYS] {
        let index = self.index(mac);
        &mut self.sets[index]
    }

    /// Multiplicative hash: the upper bits of a product depend on all bits of the address. Always below `sets.len()`.
    fn index(&self, mac: MacAddress) -> usize {
        let [a, b, c, d, e, f] = mac.0;
        let hash = u64::from_be_bytes([0, 0, a, b, c, d, e, f]).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (hash >> 32) as usize & (self.sets.len() - 1)
    }
}

fn is_old(entry: &Entry, now: Duration, ageing: Duration) -> bool {
    now.saturating_sub(entry.seen) > ageing
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGEING: Duration = Duration::from_secs(300);
    const ONE: PortId = PortId { index: 0, generation: 1 };
    const TWO: PortId = PortId { index: 1, generation: 1 };

    fn mac(number: u32) -> MacAddress {
        let [a, b, c, d] = number.to_be_bytes();
        MacAddress([2, 0, a, b, c, d])
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn an_address_is_found_until_it_is_too_old() {
        let mut table = MacTable::new(64, AGEING);
        assert_eq!(table.learn(at(0), mac(1), ONE), Learned::New);
        assert_eq!(table.lookup(at(300), mac(1)), Some(ONE));
        assert_eq!(table.lookup(at(301), mac(1)), None);
        assert_eq!(table.learn(at(301), mac(1), ONE), Learned::New);
    }

    #[test]
    fn traffic_keeps_an_address_young_and_moves_it() {
        let mut table = MacTable::new(64, AGEING);
        table.learn(at(0), mac(1), ONE);
        assert_eq!(table.learn(at(200), mac(1), ONE), Learned::Refreshed);
        assert_eq!(table.lookup(at(500), mac(1)), Some(ONE));
        assert_eq!(table.learn(at(400), mac(1), TWO), Learned::Moved);
        assert_eq!((table.lookup(at(400), mac(1)), table.len(at(400))), (Some(TWO), 1));
    }

    #[test]
    fn a_flood_of_addresses_does_not_grow_the_table() {
        let mut table = MacTable::new(64, AGEING);
        for number in 0..10_000 {
            table.learn(at(u64::from(number) / 100), mac(number), ONE);
        }
        assert_eq!(table.len(at(100)), 64);
        assert_eq!(table.lookup(at(100), mac(9_999)), Some(ONE));
    }

    #[test]
    fn the_silent_entry_of_a_set_goes_first() {
        let mut table = MacTable::new(WAYS, AGEING);
        for number in 0..8 {
            table.learn(at(u64::from(number)), mac(number), ONE);
        }
        table.learn(at(8), mac(0), ONE);
        assert_eq!(table.learn(at(9), mac(100), TWO), Learned::Evicted);
        assert_eq!(table.lookup(at(9), mac(1)), None);
        assert_eq!(table.lookup(at(9), mac(0)), Some(ONE));
    }

    #[test]
    fn a_port_that_leaves_takes_its_addresses_along() {
        let mut table = MacTable::new(64, AGEING);
        table.learn(at(0), mac(1), ONE);
        table.learn(at(0), mac(2), TWO);
        table.forget_port(ONE);
        assert_eq!((table.lookup(at(0), mac(1)), table.lookup(at(0), mac(2))), (None, Some(TWO)));
        table.forget_mac(mac(2));
        assert_eq!(table.len(at(0)), 0);
    }
}
