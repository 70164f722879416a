//! What the host granted, and how it is asked for.

use nvsp::Version;
use rndis::offload::{
    ChecksumSetting, ChecksumV4Flags, ChecksumV6Flags, Encapsulation, LsoTaskV2, LsoV6Options, Offload,
    OffloadParameters, TaskSetting,
};
use rndis::ppi::IpVersion;

use super::settings::{Checksums, OffloadSettings};

/// Longest frame that large send is used for: that of the largest IP packet. Linux' limit (`GSO_LEGACY_MAX_SIZE`) is the same.
const LONGEST_LSO: u32 = 65536;
/// Below this a limit of large send makes no sense: it would not hold one frame of the smallest usual MTU.
const SHORTEST_LSO: u32 = 1514;

/// What large send may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LsoLimits {
    /// Longest frame, headers included.
    pub max_bytes: u32,
    /// Fewest segments.
    pub min_segments: u32,
}

/// What the host granted: wished, offered, and in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub struct Offloads {
    /// Checksums that the host computes.
    pub tx_checksum: Checksums,
    /// Checksums whose verdicts are listened to. A host need not give one for each frame.
    pub rx_checksum: Checksums,
    /// Large send over IPv4.
    pub lso_v4: Option<LsoLimits>,
    /// Large send over IPv6.
    pub lso_v6: Option<LsoLimits>,
    /// Receive segment coalescing over IPv4.
    pub rsc_v4: bool,
    /// Receive segment coalescing over IPv6.
    pub rsc_v6: bool,
}

impl Offloads {
    /// Nothing is granted.
    pub const NONE: Self = Self {
        tx_checksum: Checksums::NONE,
        rx_checksum: Checksums::NONE,
        lso_v4: None,
        lso_v6: None,
        rsc_v4: false,
        rsc_v6: false,
    };

    /// What becomes of `wished` at a host of `version` that can do what `offered` says.
    #[must_use]
    pub fn agreed(version: Version, offered: &Offload, wished: &OffloadSettings) -> Self {
        let (tx, rx) = (tx_offered(version, offered), rx_offered(version, offered));
        let tx_checksum = tx.and(wished.tx_checksum);
        let rsc = version.has_rsc() && offered.rsc_v4 != 0 && offered.rsc_v6 != 0;
        let lso_v6_options = offered.lso_v2_v6_options.contains(LsoV6Options::TCP_OPTIONS);
        Self {
            tx_checksum,
            rx_checksum: either(tx, rx).and(wished.rx_checksum),
            // It implies checksums, so that a host is not asked for it that is not to be asked for those.
            lso_v4: lso(&offered.lso_v2_v4).filter(|_| wished.lso_v4 && tx_checksum.tcp_v4),
            lso_v6: lso(&offered.lso_v2_v6).filter(|_| wished.lso_v6 && tx_checksum.tcp_v6 && lso_v6_options),
            rsc_v4: rsc && wished.rsc_v4,
            rsc_v6: rsc && wished.rsc_v6,
        }
    }

    /// What is left of it if only `current` is in force, as the host indicated. Verdicts are not concerned: each stands
    /// for itself.
    #[must_use]
    pub fn limited_to(self, version: Version, current: &Offload) -> Self {
        Self {
            tx_checksum: self.tx_checksum.and(tx_offered(version, current)),
            lso_v4: shorter(self.lso_v4, lso(&current.lso_v2_v4)),
            lso_v6: shorter(self.lso_v6, lso(&current.lso_v2_v6)),
            ..self
        }
    }

    /// What is in both: while one takes the place of the other.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            tx_checksum: self.tx_checksum.and(other.tx_checksum),
            rx_checksum: self.rx_checksum.and(other.rx_checksum),
            lso_v4: shorter(self.lso_v4, other.lso_v4),
            lso_v6: shorter(self.lso_v6, other.lso_v6),
            rsc_v4: self.rsc_v4 && other.rsc_v4,
            rsc_v6: self.rsc_v6 && other.rsc_v6,
        }
    }

    /// Longest frame of any large send; 0 if there is none.
    pub(crate) fn longest_lso(&self) -> usize {
        [self.lso_v4, self.lso_v6].into_iter().flatten().map(|limits| limits.max_bytes as usize).max().unwrap_or(0)
    }

    /// Large send over `ip`.
    #[must_use]
    #[inline]
    pub const fn lso(&self, ip: IpVersion) -> Option<LsoLimits> {
        match ip {
            IpVersion::V4 => self.lso_v4,
            IpVersion::V6 => self.lso_v6,
        }
    }
}

fn either(one: Checksums, other: Checksums) -> Checksums {
    Checksums {
        ipv4_header: one.ipv4_header || other.ipv4_header,
        tcp_v4: one.tcp_v4 || other.tcp_v4,
        udp_v4: one.udp_v4 || other.udp_v4,
        tcp_v6: one.tcp_v6 || other.tcp_v6,
        udp_v6: one.udp_v6 || other.udp_v6,
    }
}

/// Checksums that the host can compute. TCP without TCP options is of no use: connections negotiate time stamps. IPv6
/// extension headers are never left to a host, so it need not be able to skip them.
fn tx_offered(version: Version, offered: &Offload) -> Checksums {
    let (v4, v6) = (offered.checksum_v4_tx.flags, offered.checksum_v6_tx.flags);
    Checksums {
        ipv4_header: v4.contains(ChecksumV4Flags::IP_HEADER),
        tcp_v4: v4.contains(ChecksumV4Flags::TCP | ChecksumV4Flags::TCP_OPTIONS),
        udp_v4: v4.contains(ChecksumV4Flags::UDP) && has_udp(version),
        tcp_v6: v6.contains(ChecksumV6Flags::TCP | ChecksumV6Flags::TCP_OPTIONS),
        udp_v6: v6.contains(ChecksumV6Flags::UDP) && has_udp(version),
    }
}

fn rx_offered(version: Version, offered: &Offload) -> Checksums {
    let (v4, v6) = (offered.checksum_v4_rx.flags, offered.checksum_v6_rx.flags);
    Checksums {
        ipv4_header: v4.contains(ChecksumV4Flags::IP_HEADER),
        tcp_v4: v4.contains(ChecksumV4Flags::TCP),
        udp_v4: v4.contains(ChecksumV4Flags::UDP) && has_udp(version),
        tcp_v6: v6.contains(ChecksumV6Flags::TCP),
        udp_v6: v6.contains(ChecksumV6Flags::UDP) && has_udp(version),
    }
}

/// NDIS 6.1 has no UDP checksums.
fn has_udp(version: Version) -> bool {
    version >= Version::V5
}

/// Large send, if what is said of it makes sense.
fn lso(task: &LsoTaskV2) -> Option<LsoLimits> {
    let usable = task.encapsulation.contains(Encapsulation::IEEE_802_3) && task.max_size >= SHORTEST_LSO;
    usable.then(|| LsoLimits { max_bytes: task.max_size.min(LONGEST_LSO), min_segments: task.min_segments.max(1) })
}

fn shorter(one: Option<LsoLimits>, other: Option<LsoLimits>) -> Option<LsoLimits> {
    let (one, other) = (one?, other?);
    Some(LsoLimits {
        max_bytes: one.max_bytes.min(other.max_bytes),
        min_segments: one.min_segments.max(other.min_segments),
    })
}

/// The value that asks the host for `agreed`. A protocol that it cannot do is left as it is, as Linux does.
///
/// Up to NVSP 4 the value has 22 bytes and says nothing about UDP.
pub(crate) fn parameters(version: Version, offered: &Offload, agreed: &Offloads) -> OffloadParameters {
    let can = either(tx_offered(version, offered), rx_offered(version, offered));
    let (tx, rx) = (agreed.tx_checksum, agreed.rx_checksum);
    let checksum = |can: bool, tx: bool, rx: bool| match (can, tx, rx) {
        (false, ..) => ChecksumSetting::NO_CHANGE,
        (true, false, false) => ChecksumSetting::OFF,
        (true, true, false) => ChecksumSetting::TX,
        (true, false, true) => ChecksumSetting::RX,
        (true, true, true) => ChecksumSetting::TX_RX,
    };
    let task = |can: bool, on: bool| match (can, on) {
        (false, _) => TaskSetting::NO_CHANGE,
        (true, false) => TaskSetting::OFF,
        (true, true) => TaskSetting::ON,
    };
    // Of IPv4 headers Linux asks for nothing, in so many words, whatever the host can do.
    let ipv4_header = match checksum(can.ipv4_header, tx.ipv4_header, rx.ipv4_header) {
        ChecksumSetting::NO_CHANGE => ChecksumSetting::OFF,
        setting => setting,
    };
    let rsc = version.has_rsc();
    OffloadParameters {
        ipv4_checksum: ipv4_header,
        tcp_v4_checksum: checksum(can.tcp_v4, tx.tcp_v4, rx.tcp_v4),
        udp_v4_checksum: checksum(can.udp_v4, tx.udp_v4, rx.udp_v4),
        tcp_v6_checksum: checksum(can.tcp_v6, tx.tcp_v6, rx.tcp_v6),
        udp_v6_checksum: checksum(can.udp_v6, tx.udp_v6, rx.udp_v6),
        lso_v2_v4: task(lso(&offered.lso_v2_v4).is_some(), agreed.lso_v4.is_some()),
        lso_v2_v6: task(lso(&offered.lso_v2_v6).is_some(), agreed.lso_v6.is_some()),
        // Switched off in so many words: a host may have it on from the session before.
        rsc_v4: task(rsc, agreed.rsc_v4),
        rsc_v6: task(rsc, agreed.rsc_v6),
        ..OffloadParameters::no_change(if version >= Version::V5 { 3 } else { 2 })
    }
}

#[cfg(test)]
mod tests {
    use super::super::offers::everything;
    use super::*;

    #[test]
    fn what_is_wished_and_offered_is_granted() {
        let granted = Offloads::agreed(Version::V6_1, &everything(), &OffloadSettings::endpoint());
        let lso = Some(LsoLimits { max_bytes: 0xF53C, min_segments: 2 });
        let expected = Offloads {
            tx_checksum: Checksums::TRANSPORT,
            rx_checksum: Checksums::ALL,
            lso_v4: lso,
            lso_v6: lso,
            rsc_v4: true,
            rsc_v6: true,
        };
        assert_eq!(granted, expected);
        let set = parameters(Version::V6_1, &everything(), &granted);
        let mut bytes = [0; 28];
        set.emit(&mut bytes).unwrap();
        let expected = [0x80, 3, 28, 0, 3, 4, 4, 4, 4, 0, 0, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0];
        assert_eq!(bytes, expected);
        let forwarding = Offloads::agreed(Version::V6_1, &everything(), &OffloadSettings::forwarding());
        assert_eq!(forwarding, Offloads { rsc_v4: false, rsc_v6: false, ..granted });
        assert_eq!(parameters(Version::V6_1, &everything(), &forwarding).rsc_v4, TaskSetting::OFF);
        assert_eq!(Offloads::agreed(Version::V6_1, &everything(), &OffloadSettings::off()), Offloads::NONE);
        assert_eq!(Offloads::agreed(Version::V6_1, &Offload::empty(1), &OffloadSettings::endpoint()), Offloads::NONE);
    }

    #[test]
    fn udp_needs_ndis_6_30_and_coalescing_nvsp_6_1() {
        for version in Version::ALL {
            let granted = Offloads::agreed(version, &everything(), &OffloadSettings::endpoint());
            let set = parameters(version, &everything(), &granted);
            let udp = version >= Version::V5;
            assert_eq!((granted.tx_checksum.udp_v4, granted.rx_checksum.udp_v6), (udp, udp), "{version}");
            assert_eq!(set.udp_v4_checksum, if udp { ChecksumSetting::TX_RX } else { ChecksumSetting::NO_CHANGE });
            assert_eq!((set.revision, set.size), if udp { (3, 28) } else { (2, 22) });
            assert_eq!(granted.rsc_v4, version == Version::V6_1);
            assert!(granted.tx_checksum.tcp_v4 && granted.lso_v6.is_some());
        }
    }

    #[test]
    fn half_an_offer_is_none() {
        let granted = |change: fn(&mut Offload)| {
            let mut offered = everything();
            change(&mut offered);
            Offloads::agreed(Version::V6_1, &offered, &OffloadSettings::endpoint())
        };
        let no_options = granted(|offered| offered.checksum_v4_tx.flags = ChecksumV4Flags::TCP);
        assert!(!no_options.tx_checksum.tcp_v4 && no_options.lso_v4.is_none(), "large send implies checksums");
        assert!(granted(|offered| offered.lso_v2_v4.max_size = 100).lso_v4.is_none());
        assert!(granted(|offered| offered.lso_v2_v4.encapsulation = Encapsulation::NULL).lso_v4.is_none());
        assert!(granted(|offered| offered.lso_v2_v6_options = LsoV6Options::EMPTY).lso_v6.is_none());
        assert!(!granted(|offered| offered.rsc_v6 = 0).rsc_v4, "both or none, as Linux");
        let huge = granted(|offered| {
            offered.lso_v2_v4.max_size = u32::MAX;
            offered.lso_v2_v4.min_segments = 0;
        });
        assert_eq!(huge.lso_v4, Some(LsoLimits { max_bytes: 65536, min_segments: 1 }));
    }

    #[test]
    fn what_the_host_says_is_in_force_limits_sending() {
        let granted = Offloads::agreed(Version::V6_1, &everything(), &OffloadSettings::endpoint());
        assert_eq!(granted.limited_to(Version::V6_1, &everything()), granted);
        let mut current = everything();
        current.checksum_v6_tx.flags = ChecksumV6Flags::EMPTY;
        current.lso_v2_v4.max_size = 30_000;
        current.lso_v2_v6 = LsoTaskV2::default();
        let limited = granted.limited_to(Version::V6_1, &current);
        assert!(!limited.tx_checksum.tcp_v6 && limited.tx_checksum.tcp_v4 && limited.rx_checksum.tcp_v6);
        assert_eq!((limited.lso_v4.unwrap().max_bytes, limited.lso_v6), (30_000, None));
    }
}
