//! Which Windows the host is: what differs between releases, and every knob of host behaviour.
//!
//! Versions, message sizes and batching follow Linux `drivers/net/hyperv` and OpenVMM `netvsp`; which Windows speaks which
//! is inferred from driver comments and release dates (no Windows was measured).

use std::str::FromStr;
use std::time::Duration;

use vmbus::protocol::Version as VmbusVersion;

use crate::violation::Strictness;

/// A Windows release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Profile {
    /// Windows Server 2012 R2: VMBus 3.0, NVSP 5, TCP offloads only.
    Ws2012R2,
    /// Windows Server 2016: VMBus 4.0, NVSP 5; UDP checksums.
    Ws2016,
    /// Windows Server 2019: VMBus 5.2, NVSP 6.1.
    #[default]
    Ws2019,
    /// Windows Server 2022 and Azure: VMBus 5.3, NVSP 6.1.
    Ws2022,
}

impl Profile {
    /// Every profile, oldest first.
    pub const ALL: [Self; 4] = [Self::Ws2012R2, Self::Ws2016, Self::Ws2019, Self::Ws2022];

    /// Its name on command lines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ws2012R2 => "ws2012r2",
            Self::Ws2016 => "ws2016",
            Self::Ws2019 => "ws2019",
            Self::Ws2022 => "ws2022",
        }
    }

    /// How this release behaves.
    #[must_use]
    pub fn settings(self) -> Settings {
        let mut settings = Settings::common();
        match self {
            Self::Ws2012R2 => {
                settings.vmbus_max = VmbusVersion::V3_0;
                settings.nvsp_max = nvsp::Version::V5;
                settings.offloads = Offloads::WS2012R2;
            }
            Self::Ws2016 => {
                settings.vmbus_max = VmbusVersion::V4_0;
                settings.nvsp_max = nvsp::Version::V5;
                settings.tcp_verdict_for_udp = true;
            }
            Self::Ws2019 => {
                settings.vmbus_max = VmbusVersion::V5_2;
                settings.nvsp_max = nvsp::Version::V6_1;
            }
            Self::Ws2022 => {
                settings.vmbus_max = VmbusVersion::V5_3;
                settings.nvsp_max = nvsp::Version::V6_1;
                settings.counts_status_buffer = true;
            }
        }
        settings
    }
}

impl std::fmt::Display for Profile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// Text that names no profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParseProfileError;

impl std::fmt::Display for ParseProfileError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("not a profile: ws2012r2, ws2016, ws2019 or ws2022")
    }
}

impl std::error::Error for ParseProfileError {}

impl FromStr for Profile {
    type Err = ParseProfileError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|profile| profile.name() == text).ok_or(ParseProfileError)
    }
}

/// How the host divides the receive buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum SubAllocation {
    /// 1728 bytes for frames of 1514, as Windows: the largest frame, 214 bytes of headers, rounded up to 64.
    #[default]
    Windows,
    /// The largest frame + 256 + 36 bytes, as OpenVMM: offsets are 2-byte aligned, the last 36 bytes never used, and
    /// every frame starts 256 bytes into its range, which spans the whole sub-allocation.
    OpenVmm,
    /// This many bytes, clamped to what a frame needs.
    Bytes(u32),
}

/// What a host does whose receive buffer has fewer sub-allocations than the reserved ones + queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum TooFewSections {
    /// Serves with fewer reserved ones, from 10 sub-allocations on (Windows, inferred).
    #[default]
    Serve,
    /// Accepts the buffer and falls silent when the data path starts (OpenVMM).
    Silent,
}

/// Which comes first: the completion of a control request's packet, or its RNDIS answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum AnswerOrder {
    /// The completion (OpenVMM).
    #[default]
    CompletionFirst,
    /// The RNDIS answer.
    AnswerFirst,
}

/// Which offloads the host says it can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Offloads {
    /// IPv4 header checksum, on transmit.
    pub ipv4_header: bool,
    /// TCP checksum, on transmit, IPv4 and IPv6.
    pub tcp: bool,
    /// UDP checksum, on transmit, IPv4 and IPv6.
    pub udp: bool,
    /// Checksums on receive, of IPv4 headers and TCP: the host says whether they are right.
    pub receive: bool,
    /// UDP checksums on receive.
    pub receive_udp: bool,
    /// Largest segmentation (LSO v2, IPv4 and IPv6) in bytes; 0 for none. Goes with [`tcp`](Self::tcp) only.
    pub lso_max_bytes: u32,
    /// Receive segment coalescing (NVSP 6.1).
    pub rsc: bool,
}

impl Offloads {
    /// None at all: what a host says whose switch computes nothing.
    pub const NONE: Self = Self {
        ipv4_header: false,
        tcp: false,
        udp: false,
        receive: false,
        receive_udp: false,
        lso_max_bytes: 0,
        rsc: false,
    };
    /// Checksums only, both ways.
    pub const CHECKSUMS: Self =
        Self { ipv4_header: true, tcp: true, udp: true, receive: true, receive_udp: true, ..Self::NONE };
    /// What Windows Server 2016 and later offer (LSO size as OpenVMM states it; RSC counts with NVSP 6.1 only).
    pub const ALL: Self = Self { lso_max_bytes: Self::LSO_MAX_BYTES, rsc: true, ..Self::CHECKSUMS };
    /// What Windows Server 2012 R2 offers: nothing of UDP.
    pub const WS2012R2: Self = Self { udp: false, receive_udp: false, ..Self::ALL };
    /// Largest segmentation that hosts offer, by OpenVMM `netvsp`.
    pub const LSO_MAX_BYTES: u32 = 0xF53C;

    /// With or without checksums on transmit. Turned on, those of UDP stay as they are: that is the release's choice.
    #[must_use]
    pub const fn with_tx_checksum(self, on: bool) -> Self {
        Self { ipv4_header: on, tcp: on, udp: self.udp && on, ..self }
    }

    /// With or without segmentation on transmit.
    #[must_use]
    pub const fn with_lso(self, on: bool) -> Self {
        Self { lso_max_bytes: if on { Self::LSO_MAX_BYTES } else { 0 }, ..self }
    }

    /// With or without coalescing on receive.
    #[must_use]
    pub const fn with_rsc(self, on: bool) -> Self {
        Self { rsc: on, ..self }
    }
}

/// In which layout offloads are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum OffloadLayout {
    /// The host's own: revision 3, 156 bytes, whatever was asked for.
    #[default]
    Newest,
    /// That of the NDIS version agreed on: revision 2, 144 bytes below 6.30, where there is no offload of UDP either.
    Negotiated,
}

/// What becomes of the IPv4 header's checksum in coalesced frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum RscIpHeader {
    /// It is zero, and the guest is told that its value is invalid.
    #[default]
    Invalid,
    /// It is right.
    Right,
}

/// What becomes of VLAN tags between guest and switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum VlanTags {
    /// The guest gets them beside the frame; it may send them beside the frame or in it.
    #[default]
    PerPacketInfo,
    /// The guest gets them in the frame, as from hosts that do not look.
    InFrame,
    /// Tagged frames do not pass, as at a port in access mode.
    Refused,
}

/// Every knob of the host's behaviour that no protocol fixes. Start from [`Profile::settings`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settings {
    /// Highest VMBus version; lower ones down to 1.1 are accepted, too.
    pub vmbus_max: VmbusVersion,
    /// Highest NVSP version; lower ones are accepted, too.
    pub nvsp_max: nvsp::Version,
    /// Status in the answer to an NVSP version that is not accepted: 0 (OpenVMM), others seen are 2 and 3.
    pub nvsp_refusal: nvsp::Status,
    /// Bytes of NVSP messages below version 6.1. A SUBCHANNEL answer is never shorter than 40: DPDK refuses it.
    pub legacy_message_len: usize,
    /// How the receive buffer is divided.
    pub sub_allocation: SubAllocation,
    /// Sub-allocations that are kept for control messages.
    pub control_sub_allocations: u32,
    /// When there are fewer sub-allocations than those + queues.
    pub too_few_sections: TooFewSections,
    /// Bytes of a send section.
    pub send_section_bytes: u32,
    /// Most RNDIS messages in one packet, as told to the guest.
    pub max_packets_per_message: u32,
    /// Most bytes in one packet, as told to the guest.
    pub max_transfer_bytes: u32,
    /// Alignment of messages in a packet, log2, as told to the guest.
    pub alignment_log2: u32,
    /// Most frames in one transfer-page packet.
    pub max_ranges: usize,
    /// Whether a range spans its whole sub-allocation, or only its message.
    pub whole_ranges: bool,
    /// Frames that wait when no sub-allocation or no ring space is free; more are dropped.
    pub rx_backlog: usize,
    /// Sends that the host takes before it has completed earlier ones.
    pub tx_quota: u32,
    /// Offloads offered.
    pub offloads: Offloads,
    /// In which layout they are told.
    pub offload_layout: OffloadLayout,
    /// Whether parameters that ask for an offload which is not offered are taken, and that part ignored (OpenVMM), or
    /// refused.
    pub masks_offload_parameters: bool,
    /// Whether large frames and unfinished checksums go through the switch as they are, to be finished by the port that
    /// sends them on, or not at all by one that takes them; else the NIC finishes them at once.
    pub carry_offloads: bool,
    /// Whether a good UDP checksum is reported as a good TCP checksum, as FreeBSD's driver notes of some hosts of 2016.
    pub tcp_verdict_for_udp: bool,
    /// Whether frames carry their hash (value and type) while receive-side scaling is on.
    pub rx_hash: bool,
    /// What becomes of the IPv4 header's checksum in coalesced frames.
    pub rsc_ip_header: RscIpHeader,
    /// Most segments of a coalesced frame, which are ranges of one packet. Default 375, as of other packets; Linux takes
    /// 562. Less if [`max_ranges`](Self::max_ranges) is, or a ring holds no such packet.
    pub rsc_max_segments: usize,
    /// What becomes of VLAN tags.
    pub vlan: VlanTags,
    /// Entries of the RSS table.
    pub rss_entries: u16,
    /// Whether the ports of UDP can be hashed, besides those of TCP.
    pub rss_udp: bool,
    /// Which comes first of a control request's completion and answer.
    pub answer_order: AnswerOrder,
    /// Whether the primary channel falls silent once the guest took a buffer back, as OpenVMM's does, so that a second
    /// revoke is never read.
    pub silent_after_revoke: bool,
    /// Whether a query of the media connect status says what the link is, or always "connected", as OpenVMM.
    pub media_status_follows_link: bool,
    /// Whether the length of a status indication counts its buffer: only hosts from about Server 2022 on do (inferred
    /// from Linux `rndis_filter.c`).
    pub counts_status_buffer: bool,
    /// How long "up" waits after "down" when the link is set up while it is up.
    pub link_flap: Duration,
    /// What is done about violations.
    pub strictness: Strictness,
}

impl Settings {
    fn common() -> Self {
        Self {
            vmbus_max: VmbusVersion::V5_2,
            nvsp_max: nvsp::Version::V6_1,
            nvsp_refusal: nvsp::Status::NONE,
            legacy_message_len: nvsp::LEGACY_MESSAGE_LEN,
            sub_allocation: SubAllocation::Windows,
            control_sub_allocations: 16,
            too_few_sections: TooFewSections::Serve,
            send_section_bytes: nvsp::DEFAULT_SEND_SECTION_SIZE,
            max_packets_per_message: 8,
            max_transfer_bytes: 0xEFFF_FFFF,
            alignment_log2: 3,
            max_ranges: nvsp::MAX_TRANSFER_RANGES,
            whole_ranges: false,
            rx_backlog: 1024,
            tx_quota: 1024,
            offloads: Offloads::ALL,
            offload_layout: OffloadLayout::Newest,
            masks_offload_parameters: false,
            carry_offloads: true,
            tcp_verdict_for_udp: false,
            rx_hash: true,
            rsc_ip_header: RscIpHeader::Invalid,
            rsc_max_segments: nvsp::MAX_TRANSFER_RANGES,
            vlan: VlanTags::PerPacketInfo,
            rss_entries: 128,
            rss_udp: false,
            answer_order: AnswerOrder::CompletionFirst,
            silent_after_revoke: false,
            media_status_follows_link: true,
            counts_status_buffer: false,
            link_flap: Duration::from_secs(5),
            strictness: Strictness::Report,
        }
    }

    /// These settings, in all that is visible to a guest, as OpenVMM's netvsp behaves.
    #[must_use]
    pub fn openvmm(mut self) -> Self {
        self.sub_allocation = SubAllocation::OpenVmm;
        self.whole_ranges = true;
        self.too_few_sections = TooFewSections::Silent;
        self.silent_after_revoke = true;
        self.media_status_follows_link = false;
        self.counts_status_buffer = true;
        self.masks_offload_parameters = true;
        self.offloads.rsc = false;
        self.rx_hash = false;
        self
    }
}

impl Default for Settings {
    fn default() -> Self {
        Profile::default().settings()
    }
}

impl From<Profile> for Settings {
    fn from(profile: Profile) -> Self {
        profile.settings()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for profile in Profile::ALL {
            assert_eq!(profile.to_string().parse(), Ok(profile));
        }
        assert_eq!("ws2008".parse::<Profile>(), Err(ParseProfileError));
    }

    #[test]
    fn the_oldest_release_has_no_udp_checksums() {
        let udp = Profile::ALL.map(|profile| profile.settings().offloads.udp);
        assert_eq!(udp, [false, true, true, true]);
    }

    #[test]
    fn releases_speak_the_versions_of_their_time() {
        let versions = Profile::ALL.map(|p| (p.settings().vmbus_max, p.settings().nvsp_max));
        assert_eq!(
            versions,
            [
                (VmbusVersion::V3_0, nvsp::Version::V5),
                (VmbusVersion::V4_0, nvsp::Version::V5),
                (VmbusVersion::V5_2, nvsp::Version::V6_1),
                (VmbusVersion::V5_3, nvsp::Version::V6_1),
            ]
        );
    }
}
