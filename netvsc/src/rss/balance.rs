//! How evenly the queues are loaded, and a table that loads them more evenly.
//!
//! A table that names the queues in turn is fair to many small flows. A few large ones may still meet on one queue; then some
//! entries have to change place. Which ones cannot be told from counters per queue, so [`EntryLoads`] counts per entry: what people
//! otherwise try out by hand with `ethtool -X … weight`.
//!
//! ```
//! use netvsc::rss::{EntryLoads, RssSettings};
//! # use netvsc::rss::RssKey;
//! # let settings = RssSettings { key: RssKey::MICROSOFT, hash_types: rndis::rss::HashInfo::LINUX, table: vec![0, 1, 0, 1] };
//! let mut loads = EntryLoads::new(settings.table.len());
//! loads.count(0, 900); // In the receive loop: the hash of each frame's metadata, and its bytes, or 1.
//! loads.count(2, 800);
//! loads.count(1, 100);
//! assert_eq!(loads.skew(&settings.table, &[0, 1]).unwrap().busiest, 0);
//! let (better, moved) = settings.rebalanced(&loads, &[0, 1]);
//! assert_eq!((better.table, moved), (vec![0, 1, 1, 1], 1)); // For `Nic::set_rss`.
//! ```

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use super::RssSettings;

/// What arrived by each entry of the indirection table: frames or bytes, as the user counts.
///
/// Each queue has one of its own, so that nothing is shared; they are [merged](Self::merge) where the table is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryLoads {
    loads: Box<[u64]>,
}

impl EntryLoads {
    /// No load yet, for a table of `entries` entries.
    #[must_use]
    pub fn new(entries: usize) -> Self {
        Self { loads: vec![0; entries].into_boxed_slice() }
    }

    /// Counts `load` for the entry that `hash` falls on.
    #[inline]
    pub fn count(&mut self, hash: u32, load: u64) {
        // Tables are a power of two long on every host seen; others are possible.
        let entries = self.loads.len();
        let at = if entries.is_power_of_two() { hash as usize & (entries - 1) } else { hash as usize % entries.max(1) };
        if let Some(entry) = self.loads.get_mut(at) {
            *entry = entry.saturating_add(load);
        }
    }

    /// Adds what another queue counted. Entries that only one of the two has are left out.
    pub fn merge(&mut self, other: &Self) {
        for (load, more) in self.loads.iter_mut().zip(&other.loads) {
            *load = load.saturating_add(*more);
        }
    }

    /// Halves everything, so that what was long ago counts less.
    pub fn age(&mut self) {
        for load in &mut self.loads {
            *load /= 2;
        }
    }

    /// How unevenly `table` spreads this load over `queues`; `None` if there is no load or no queue.
    #[must_use]
    pub fn skew(&self, table: &[u16], queues: &[u16]) -> Option<Skew> {
        Skew::of(queues.iter().copied().zip(self.by_queue(table, queues)))
    }

    /// Load of each of `queues`. What goes to others does not count.
    fn by_queue(&self, table: &[u16], queues: &[u16]) -> Vec<u64> {
        let mut sums = vec![0u64; queues.len()];
        for (queue, load) in table.iter().zip(&self.loads) {
            if let Some(at) = queues.iter().position(|other| other == queue) {
                sums[at] = sums[at].saturating_add(*load);
            }
        }
        sums
    }
}

/// How unevenly queues are loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Skew {
    /// The queue with the most.
    pub busiest: u16,
    /// Its load in percent of an equal share: 100 if all have the same, 100 times the number of queues if it has all.
    pub percent: u32,
}

impl Skew {
    /// From the loads of queues, by number: for instance how far their counters of received frames went in a second.
    #[must_use]
    pub fn of(loads: impl IntoIterator<Item = (u16, u64)>) -> Option<Self> {
        let (mut queues, mut sum, mut most) = (0u128, 0u128, (0, 0));
        for (queue, load) in loads {
            queues += 1;
            sum += u128::from(load);
            if load > most.1 {
                most = (queue, load);
            }
        }
        let percent = (u128::from(most.1) * queues * 100).checked_div(sum)?;
        Some(Self { busiest: most.0, percent: u32::try_from(percent).unwrap_or(u32::MAX) })
    }
}

impl RssSettings {
    /// The settings with as few entries moved as make `loads` more even over `queues`, and how many those are.
    ///
    /// An entry moves from the busiest queue to the idlest if the busier of the two then has less than before; of those that
    /// do, the one that brings them closest. An entry that is a queue's whole load never moves: one large flow can
    /// not be spread. Entries without load stay where they are.
    ///
    /// The frames of a flow that moves may overtake each other: some wait on its old queue while others arrive on the new
    /// one. So do it seldom, and not for a few percent ([`EntryLoads::skew`]).
    #[must_use]
    pub fn rebalanced(&self, loads: &EntryLoads, queues: &[u16]) -> (Self, usize) {
        let mut settings = self.clone();
        let mut sums = loads.by_queue(&settings.table, queues);
        // Each move brings two queues closer, so it ends; it ends soon, as few entries need to move twice.
        for _ in 0..2 * settings.table.len() {
            let Some(most) = sums.iter().copied().max() else { break };
            let Some((idlest, least)) = (0..).zip(&sums).min_by_key(|(_, sum)| **sum).map(|(at, sum)| (at, *sum))
            else {
                break;
            };
            let gap = most - least;
            let candidates = settings.table.iter().zip(&loads.loads).enumerate();
            // Of queues that are as busy as each other, one may have entries that can move, and the other none.
            let busiest = |queue: &u16| (0..).zip(queues).find(|&(at, other)| other == queue && sums[at] == most);
            let best = candidates
                .filter(|(_, (_, load))| (1..gap).contains(*load))
                .filter_map(|(entry, (queue, load))| busiest(queue).map(|(at, _)| (entry, at, *load)))
                .min_by_key(|(_, _, load)| (2 * u128::from(*load)).abs_diff(u128::from(gap)));
            let Some((entry, busiest, load)) = best else { break };
            settings.table[entry] = queues[idlest];
            sums[busiest] -= load;
            sums[idlest] += load;
        }
        let moved = settings.table.iter().zip(&self.table).filter(|(new, old)| new != old).count();
        (settings, moved)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rndis::rss::HashInfo;

    use super::*;
    use crate::rss::RssKey;

    fn settings(table: Vec<u16>) -> RssSettings {
        RssSettings { key: RssKey::default(), hash_types: HashInfo::LINUX, table }
    }

    fn loads(loads: &[u64]) -> EntryLoads {
        EntryLoads { loads: loads.into() }
    }

    #[test]
    fn a_hash_counts_for_its_entry_whatever_the_length() {
        for (entries, hash, at) in [(128, 0x1234_5678u32, 0x78), (100, 1234, 34), (1, 77, 0)] {
            let mut loads = EntryLoads::new(entries);
            loads.count(hash, 5);
            assert_eq!(loads.loads.iter().position(|load| *load == 5), Some(at));
        }
        let mut none = EntryLoads::new(0);
        none.count(7, 1);
        assert_eq!(none.skew(&[], &[0]), None);
    }

    #[test]
    fn one_large_flow_stays_and_the_others_make_room() {
        let before = settings(vec![0, 1, 0, 1, 0, 1]);
        let load = loads(&[1000, 10, 30, 10, 20, 10]);
        assert_eq!(load.skew(&before.table, &[0, 1]), Some(Skew { busiest: 0, percent: 194 }));
        let (after, moved) = before.rebalanced(&load, &[0, 1]);
        assert_eq!((after.table, moved), (vec![0, 1, 1, 1, 1, 1], 2));
    }

    #[test]
    fn of_two_queues_that_are_the_busiest_the_one_that_can_gives() {
        let before = settings(vec![0, 3, 6, 3]);
        let load = loads(&[1000, 1050, 1100, 50]);
        assert_eq!(before.rebalanced(&load, &[0, 3, 6]).0.table, [0, 3, 6, 0]);
    }

    #[test]
    fn what_is_even_or_idle_stays() {
        let before = settings(vec![0, 1, 2, 3]);
        for even in [[0; 4], [7; 4]] {
            assert_eq!(before.rebalanced(&loads(&even), &[0, 1, 2, 3]), (before.clone(), 0));
        }
        assert_eq!(before.rebalanced(&loads(&[9, 1, 1, 1]), &[]), (before.clone(), 0));
        assert_eq!(loads(&[0; 4]).skew(&before.table, &[0, 1]), None);
    }

    #[test]
    fn what_queues_counted_adds_up_and_fades() {
        let mut sum = loads(&[1, u64::MAX]);
        sum.merge(&loads(&[2, 1]));
        assert_eq!(sum, loads(&[3, u64::MAX]));
        sum.age();
        assert_eq!(sum, loads(&[1, u64::MAX / 2]));
    }

    proptest! {
        /// Only queues that there are get entries, no queue gets busier than the busiest was, and doing it again moves nothing.
        #[test]
        fn moving_entries_never_makes_it_worse(
            load in prop::collection::vec(prop_oneof![0u64..100, 0u64..1_000_000, Just(u64::MAX / 512)], 1..=256),
            queues in 1u16..=64,
        ) {
            let queues: Vec<u16> = (0..queues).map(|queue| queue * 3).collect();
            let before = settings(queues.iter().copied().cycle().take(load.len()).collect());
            let load = loads(&load);
            let (after, moved) = before.rebalanced(&load, &queues);
            prop_assert!(after.table.iter().all(|queue| queues.contains(queue)));
            let percent = |table| load.skew(table, &queues).map_or(0, |skew| skew.percent);
            prop_assert!(percent(&after.table) <= percent(&before.table));
            prop_assert_eq!(moved == 0, after == before);
            let sums = load.by_queue(&after.table, &queues);
            let most = *sums.iter().max().unwrap();
            // An entry that could still move without making its new queue the busiest would have moved.
            let least = *sums.iter().min().unwrap();
            for (queue, load) in after.table.iter().zip(&load.loads) {
                let at = queues.iter().position(|other| other == queue).unwrap();
                prop_assert!(sums[at] < most || *load == 0 || least + load >= most);
            }
        }
    }
}
