//! Which backend a flow goes to: rendezvous hashing, looked up in a table.
//!
//! A flow's hash picks one of 65,536 buckets, and each bucket belongs to the living backend that has the highest score for it.
//! So a backend's end moves its own buckets only, and they spread over all others; its return moves just those back. Unlike a
//! hash modulo the number of backends, which moves nearly all.
//!
//! Source: D. Thaler, C. Ravishankar, "Using Name-Based Mappings to Increase Hit Rates" (1998).

use std::net::IpAddr;

/// Buckets: so many that shares are equal to within a few per cent even for dozens of backends.
const BUCKETS: usize = 1 << 16;

/// The index of a backend, in the order of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct BackendIndex(pub(crate) u16);

/// The backend of each bucket.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    /// Empty if no backend lives.
    buckets: Box<[BackendIndex]>,
}

impl Table {
    /// A table of the `living`, of which each has its address for a name. Takes a few milliseconds a dozen.
    pub(crate) fn new(seed: u64, living: &[(BackendIndex, IpAddr)]) -> Self {
        let names: Vec<(u64, BackendIndex)> =
            living.iter().map(|(index, address)| (name(seed, *address), *index)).collect();
        let owner = |bucket| names.iter().max_by_key(|(name, _)| mix(name ^ mix(bucket))).map(|(_, index)| *index);
        Self { buckets: (0..BUCKETS as u64).map_while(owner).collect() }
    }

    /// The backend of a flow; `None` if there is none at all.
    #[inline]
    pub(crate) fn backend(&self, hash: u32) -> Option<BackendIndex> {
        // The high bits: the low ones of the same hash may already have chosen the queue.
        self.buckets.get(hash as usize >> 16).copied()
    }
}

/// A number for an address.
fn name(seed: u64, address: IpAddr) -> u64 {
    let number = match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    };
    mix(mix(seed ^ (number >> 64) as u64) ^ number as u64)
}

/// The finalizer of splitmix64: every bit of the input changes half of the bits of the output.
pub(crate) fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let number = (number ^ number >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let number = (number ^ number >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ number >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backends(count: u16) -> Vec<(BackendIndex, IpAddr)> {
        (0..count).map(|index| (BackendIndex(index), IpAddr::from([198, 51, 100, index as u8]))).collect()
    }

    fn shares(table: &Table, count: u16) -> Vec<usize> {
        let mut shares = vec![0; usize::from(count)];
        table.buckets.iter().for_each(|index| shares[usize::from(index.0)] += 1);
        shares
    }

    #[test]
    fn shares_are_equal() {
        for count in [1, 2, 3, 7, 16, 50] {
            let even = BUCKETS / usize::from(count);
            for share in shares(&Table::new(1, &backends(count)), count) {
                assert!(share.abs_diff(even) * 100 <= even * 12, "{share} of {even} with {count} backends");
            }
        }
    }

    #[test]
    fn a_backend_that_goes_takes_no_flow_of_the_others_with_it() {
        let all = backends(8);
        let before = Table::new(1, &all);
        let without: Vec<_> = all.iter().copied().filter(|(index, _)| index.0 != 3).collect();
        let after = Table::new(1, &without);
        for (old, new) in before.buckets.iter().zip(&after.buckets) {
            assert!(old == new || (old.0 == 3 && new.0 != 3));
        }
        // What it had goes to all others alike.
        let gained: Vec<_> =
            shares(&after, 8).iter().zip(shares(&before, 8)).map(|(a, b)| a.saturating_sub(b)).collect();
        assert!(gained.iter().enumerate().all(|(index, gained)| index == 3 || *gained > 800), "{gained:?}");
    }

    #[test]
    fn the_order_of_the_list_does_not_matter() {
        let all = backends(5);
        let reversed: Vec<_> = all.iter().rev().copied().collect();
        assert_eq!(Table::new(9, &all).buckets, Table::new(9, &reversed).buckets);
        assert_ne!(Table::new(9, &all).buckets, Table::new(10, &all).buckets);
    }

    #[test]
    fn nobody_lives() {
        assert_eq!(Table::new(1, &[]).backend(0xFFFF_FFFF), None);
    }
}
