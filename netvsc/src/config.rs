//! What the user may choose, its limits, and what is told about choices that could hurt.
//!
//! Limits are those of Linux `drivers/net/hyperv` (`hyperv_net.h`: `NETVSC_MIN_*`, `NETVSC_MAX_*`, `netvsc_drv.c`:
//! MTU range); memory estimates follow its default section sizes.

use core::fmt;
use core::time::Duration;

use nvsp::Version;
use rndis::value::PacketFilter;
use vmbus::bus::RingSizes;
use vmbus::memory::PAGE_SIZE;

use crate::control::{Cause, RequestError, Step};
use crate::offload::OffloadSettings;
use crate::queue::QueueSettings;

/// Sections of the receive buffer unless configured: 16 MiB of 1728 bytes each.
pub const DEFAULT_RECEIVE_SECTIONS: u32 = 9709;
/// Fewest sections of either buffer.
pub const MIN_SECTIONS: u32 = 10;
/// Most sections of the receive buffer: 31 MiB of 1728 bytes each. Up to NVSP 2 the limit is 9102 (15 MiB).
pub const MAX_RECEIVE_SECTIONS: u32 = (nvsp::MAX_RECEIVE_BUFFER / nvsp::DEFAULT_RECEIVE_SECTION_SIZE as usize) as u32;
/// Sections of the send buffer unless configured: 1 MiB of 6144 bytes each.
pub const DEFAULT_SEND_SECTIONS: u32 = 170;
/// Most sections of the send buffer: 15 MiB of 6144 bytes each.
pub const MAX_SEND_SECTIONS: u32 = (nvsp::MAX_SEND_BUFFER / nvsp::DEFAULT_SEND_SECTION_SIZE as usize) as u32;
/// Smallest MTU.
pub const MIN_MTU: u32 = 68;
/// Largest MTU, from NVSP 2 on; before it is 1500.
pub const MAX_MTU: u32 = 65521;
/// MTU unless configured, and the only one of NVSP 1 hosts.
pub const DEFAULT_MTU: u32 = 1500;
/// Most queues.
pub const MAX_QUEUES: u16 = 64;
/// Receive sections that some hosts keep for control messages; they serve no channel with fewer than these and one a queue
/// (OpenVMM `netvsp/src/rx_bufs.rs`).
pub const RESERVED_RECEIVE_SECTIONS: u32 = 16;
/// Bytes that are copied of each held frame unless configured.
pub const DEFAULT_RX_COPYBREAK: usize = 256;
/// Fewest bytes that are copied of each held frame: Ethernet with two tags, IPv6, TCP with all options, and a few.
pub const MIN_RX_COPYBREAK: usize = 128;
/// Smallest ring: the control page and one page of data.
const MIN_RING_BYTES: usize = 2 * PAGE_SIZE;
/// What OpenVMM's receive sections have more than the frame: room for the RNDIS header and bytes it never uses.
const RECEIVE_SECTION_OVERHEAD: u32 = 256 + 36;

/// When GPADLs are torn down, relative to the close of the channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum GpadlTeardown {
    /// After the close: VMBus 4.0 (Windows 10, Server 2016) and later.
    #[default]
    AfterClose,
    /// Each buffer's right after it was revoked: hosts with an older VMBus.
    ///
    /// Source: Linux `netvsc.c` (`netvsc_device_remove`), which asks the VMBus version.
    BeforeClose,
}

/// How the device shall be brought up.
///
/// Every setter names its default, range and cost. [`check`](Self::check) is called when the device is built.
///
/// ```
/// use netvsc::Config;
///
/// let config = Config::default().receive_sections(1024).mtu(9000);
/// assert!(config.check().is_ok());
/// assert!(Config::default().send_sections(9).check().is_err());
/// ```
///
/// # Receive copy-break and watermark
/// Received so ([`Queue::receive`](crate::Queue::receive)), every frame is copied out once, whatever its length: the host, which is
/// not trusted, may write to the receive buffer at any time, and has a section back as soon as its frame was copied, so that no
/// receiver, however slow, holds one. What may wait in the sections *before* that is bounded by their number
/// ([`receive_sections`](Self::receive_sections)), and there is nothing else to set.
///
/// Who passes frames on can do with less ([`Queue::receive_held`](crate::Queue::receive_held)): short frames are copied, of longer
/// ones only the head, and the rest is copied once, to where it is sent from. That takes no trust in the host either, as only
/// what was copied is looked at; see [`queue::held`](crate::queue::held). For that there are the settings that other drivers have:
/// [`rx_copybreak`](Self::rx_copybreak), and the [`rx_watermark`](Self::rx_watermark) that keeps a slow receiver from leaving the host
/// without sections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    pub(crate) receive_sections: u32,
    pub(crate) send_sections: u32,
    pub(crate) send_buffer: bool,
    pub(crate) mtu: u32,
    pub(crate) nvsp_max: Version,
    pub(crate) rings: RingSizes,
    pub(crate) packet_filter: PacketFilter,
    pub(crate) step_deadline: Duration,
    pub(crate) close_deadline: Duration,
    pub(crate) link_pace: Duration,
    pub(crate) isolated: bool,
    pub(crate) queues: u16,
    pub(crate) direct_bytes: usize,
    pub(crate) gpadl_teardown: GpadlTeardown,
    pub(crate) offloads: OffloadSettings,
    pub(crate) tx_copybreak: usize,
    pub(crate) rx_copybreak: usize,
    pub(crate) rx_watermark: Option<u32>,
    pub(crate) tags_in_band: bool,
    pub(crate) reinsert_tags: bool,
    pub(crate) check_verdicts: bool,
    /// Bytes of each section, where the host has said so before.
    pub(crate) receive_section_bytes: Option<u32>,
    pub(crate) send_section_bytes: Option<u32>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            receive_sections: DEFAULT_RECEIVE_SECTIONS,
            send_sections: DEFAULT_SEND_SECTIONS,
            send_buffer: true,
            mtu: DEFAULT_MTU,
            nvsp_max: Version::V6_1,
            rings: RingSizes::default(),
            packet_filter: PacketFilter::OPEN,
            step_deadline: Duration::from_secs(30),
            close_deadline: Duration::from_secs(10),
            link_pace: Duration::from_secs(2),
            isolated: false,
            queues: 1,
            direct_bytes: 1 << 20,
            gpadl_teardown: GpadlTeardown::AfterClose,
            offloads: OffloadSettings::forwarding(),
            tx_copybreak: usize::MAX,
            rx_copybreak: DEFAULT_RX_COPYBREAK,
            rx_watermark: None,
            tags_in_band: false,
            reinsert_tags: false,
            check_verdicts: false,
            receive_section_bytes: None,
            send_section_bytes: None,
        }
    }
}

impl Config {
    /// Sections of the receive buffer: how much may arrive before the host has to wait or drop. Default
    /// [9709](DEFAULT_RECEIVE_SECTIONS), from [10](MIN_SECTIONS); clamped to [18811](MAX_RECEIVE_SECTIONS), and to 9102 up
    /// to NVSP 2.
    ///
    /// Costs about 1728 bytes each, with a larger MTU about that and 300. The host divides the memory as it likes: what
    /// became of the wish is [`DeviceInfo::receive`](crate::DeviceInfo::receive). Where a backend's buffer is fixed and larger, no
    /// more of its sections than this wait for receivers
    /// ([`DeviceInfo::receive_limit`](crate::DeviceInfo::receive_limit)). Fewer than 16 and one a queue are too few
    /// for some hosts, see [`Warning::FewReceiveSections`].
    #[must_use]
    pub const fn receive_sections(mut self, count: u32) -> Self {
        self.receive_sections = count;
        self
    }

    /// Sections of the send buffer: how many aggregates may be on their way. Default [170](DEFAULT_SEND_SECTIONS), from
    /// [10](MIN_SECTIONS); clamped to [2560](MAX_SEND_SECTIONS).
    ///
    /// Costs 6144 bytes each.
    #[must_use]
    pub const fn send_sections(mut self, count: u32) -> Self {
        self.send_sections = count;
        self
    }

    /// Whether to give the host a send buffer at all. Default true. Without one every message is sent by GPA-direct
    /// packets, which needs memory whose guest physical addresses are known.
    #[must_use]
    pub const fn send_buffer(mut self, wanted: bool) -> Self {
        self.send_buffer = wanted;
        self
    }

    /// L3 MTU: the largest frame without its Ethernet header. Default 1500, 68 to 65521. The host may not grant it; what
    /// it says counts and stands in [`DeviceInfo::mtu`](crate::DeviceInfo::mtu). Hosts of NVSP 1 know 1500 only.
    #[must_use]
    pub const fn mtu(mut self, bytes: u32) -> Self {
        self.mtu = bytes;
        self
    }

    /// Newest NVSP version to offer. Default 6.1; one of [`Version::ALL`]. Older ones are offered in turn if the host
    /// refuses.
    #[must_use]
    pub const fn nvsp_max(mut self, version: Version) -> Self {
        self.nvsp_max = version;
        self
    }

    /// Sizes of the rings of each channel. Default 128 pages each way; multiples of 4096 bytes from 8192.
    #[must_use]
    pub const fn rings(mut self, sizes: RingSizes) -> Self {
        self.rings = sizes;
        self
    }

    /// Which frames the host shall deliver from the start on. Default [`PacketFilter::OPEN`]: directed, all multicast,
    /// broadcast. [`PacketFilter::CLOSED`]: none, until [`Nic::set_packet_filter`](crate::Nic::set_packet_filter).
    #[must_use]
    pub const fn packet_filter(mut self, filter: PacketFilter) -> Self {
        self.packet_filter = filter;
        self
    }

    /// How long the host may take for each step of the bring-up and for each request. Default 30 s, from 1 ms: hosts under
    /// load have been seen to answer after 15 s.
    #[must_use]
    pub const fn step_deadline(mut self, limit: Duration) -> Self {
        self.step_deadline = limit;
        self
    }

    /// How long each step of the teardown may take before it goes on without. Default 10 s, from 1 ms.
    #[must_use]
    pub const fn close_deadline(mut self, limit: Duration) -> Self {
        self.close_deadline = limit;
        self
    }

    /// Shortest time between two reports of the link's state: faster changes are reported as what came out of them.
    /// Default 2 s, as in Linux (`LINKCHANGE_INT`); zero reports each at once.
    #[must_use]
    pub const fn link_pace(mut self, interval: Duration) -> Self {
        self.link_pace = interval;
        self
    }

    /// Whether this is a confidential VM, whose host is not trusted. Default false. Then hosts older than NVSP 6.1 are
    /// refused and virtual functions are neither asked for nor accepted, as Linux does.
    #[must_use]
    pub const fn isolated(mut self, isolated: bool) -> Self {
        self.isolated = isolated;
        self
    }

    /// Queues wished for. Default 1, to [64](MAX_QUEUES). There are fewer where the host has fewer, and one where it has no
    /// scaling (below NVSP 5) or anything fails: [`DeviceInfo::queues`](crate::DeviceInfo::queues) is how many there are.
    ///
    /// Costs the [rings](Self::rings) and the [direct memory](Self::direct_bytes) once more each; the send sections are
    /// divided among the queues, the receive buffer is shared.
    #[must_use]
    pub const fn queues(mut self, count: u16) -> Self {
        self.queues = count;
        self
    }

    /// Bytes of memory for GPA-direct sends, of each queue. Default 1 MiB; zero for none. A bus that knows no guest physical addresses
    /// has none either, which is no error as long as there is a send buffer.
    #[must_use]
    pub const fn direct_bytes(mut self, bytes: usize) -> Self {
        self.direct_bytes = bytes;
        self
    }

    /// Which offloads the host shall be asked for. Default [`OffloadSettings::forwarding`]; what becomes of it is
    /// [`DeviceInfo::offloads`](crate::DeviceInfo::offloads). Costs nothing that is not used; what the host lacks is computed
    /// in software.
    #[must_use]
    pub const fn offloads(mut self, settings: OffloadSettings) -> Self {
        self.offloads = settings;
        self
    }

    /// Longest frame that is copied into a send section where there is [direct memory](Self::direct_bytes) as well; longer ones
    /// go from there, each in a packet of its own. Default: no limit, what fits into a section goes into one, with others.
    /// DPDK's is 512 bytes (`tx_copybreak`); the host reads longer frames from either at the same cost.
    #[must_use]
    pub const fn tx_copybreak(mut self, bytes: usize) -> Self {
        self.tx_copybreak = bytes;
        self
    }

    /// Longest frame that [`Queue::receive_held`](crate::Queue::receive_held) copies whole, and how many bytes it copies of longer ones,
    /// which stay in the receive buffer until they are let go. Default [256](DEFAULT_RX_COPYBREAK) as in DPDK (`rx_copybreak`), from
    /// [128](MIN_RX_COPYBREAK), so that all headers that are looked at are copied.
    #[must_use]
    pub const fn rx_copybreak(mut self, bytes: usize) -> Self {
        self.rx_copybreak = bytes;
        self
    }

    /// How many receive sections may be held at a time by frames of [`Queue::receive_held`](crate::Queue::receive_held), all queues
    /// together, each having an equal share. Beyond that, frames are copied whole. A frame that is held counts with all sections of its
    /// packet, since the host has them back at once: a share of fewer than a packet has ([up to 375](nvsp::MAX_TRANSFER_RANGES)) may
    /// hold nothing at all.
    ///
    /// Default: half of the [`receive_sections`](Self::receive_sections) there are. At most all of them but 16 and one a
    /// [queue](Self::queues), with which hosts are left to work; where the host makes fewer sections than were wished it is lowered
    /// to that. What became of it is [`DeviceInfo::rx_watermark`](crate::DeviceInfo::rx_watermark). Where a backend's buffer is fixed, as
    /// on `uio_hv_generic`, this is the limit on sections that the application holds.
    #[must_use]
    pub const fn rx_watermark(mut self, sections: u32) -> Self {
        self.rx_watermark = Some(sections);
        self
    }

    /// Whether an 802.1Q tag that a frame to be sent has in band stays there. Default false: it is moved beside the frame, as
    /// Linux and DPDK do, since hosts expect none in band and may take such a frame for too long.
    #[must_use]
    pub const fn tags_in_band(mut self, keep: bool) -> Self {
        self.tags_in_band = keep;
        self
    }

    /// Whether the 802.1Q tag of a received frame is put back into it. Default false: it comes beside the frame, in
    /// [`RxMeta::vlan`](crate::RxMeta::vlan). Costs moving 12 bytes of each tagged frame.
    #[must_use]
    pub const fn reinsert_tags(mut self, reinsert: bool) -> Self {
        self.reinsert_tags = reinsert;
        self
    }

    /// As [`reinsert_tags`](Self::reinsert_tags) was told.
    #[must_use]
    pub const fn tags_are_reinserted(&self) -> bool {
        self.reinsert_tags
    }

    /// Whether each verdict of the host on a checksum is compared with one computed here. Default false. Wrong ones are
    /// counted by protocol ([`ExtraStats`](crate::stats::ExtraStats), `rx_checksum_wrong_*`), and frames delivered with the
    /// right one. Costs a pass over each frame that has a verdict.
    #[must_use]
    pub const fn check_verdicts(mut self, check: bool) -> Self {
        self.check_verdicts = check;
        self
    }

    /// What queues have to know of it.
    pub(crate) fn queue_settings(&self) -> QueueSettings {
        QueueSettings {
            tx_copybreak: self.tx_copybreak,
            rx_copybreak: self.rx_copybreak,
            tags_in_band: self.tags_in_band,
            reinsert_tags: self.reinsert_tags,
            check_verdicts: self.check_verdicts,
            ..QueueSettings::default()
        }
    }

    /// When GPADLs are torn down. Default after the close.
    #[must_use]
    pub const fn gpadl_teardown(mut self, when: GpadlTeardown) -> Self {
        self.gpadl_teardown = when;
        self
    }

    /// Checks all values.
    ///
    /// # Errors
    /// [`ConfigError`] naming the field at fault, its value and the limit. Values above the limits of a *buffer* are no
    /// error: they are clamped and the effective value is reported.
    pub fn check(&self) -> Result<(), ConfigError> {
        let at_least = |field, value: u64, minimum: u64| {
            if value < minimum { Err(ConfigError::BelowMinimum { field, value, minimum }) } else { Ok(()) }
        };
        let at_most = |field, value: u64, limit: u64| {
            if value > limit { Err(ConfigError::AboveLimit { field, value, limit }) } else { Ok(()) }
        };
        at_least("receive_sections", self.receive_sections.into(), MIN_SECTIONS.into())?;
        if self.send_buffer {
            at_least("send_sections", self.send_sections.into(), MIN_SECTIONS.into())?;
        } else {
            at_least("direct_bytes", self.direct_bytes as u64, PAGE_SIZE as u64)?;
        }
        at_least("mtu", self.mtu.into(), MIN_MTU.into())?;
        at_most("mtu", self.mtu.into(), MAX_MTU.into())?;
        if !self.nvsp_max.is_released() {
            return Err(ConfigError::UnknownVersion { version: self.nvsp_max });
        }
        if self.isolated && self.nvsp_max < Version::V6_1 {
            return Err(ConfigError::IsolatedNeedsVersion { version: self.nvsp_max, minimum: Version::V6_1 });
        }
        for (field, bytes) in
            [("rings.outgoing_bytes", self.rings.outgoing_bytes), ("rings.incoming_bytes", self.rings.incoming_bytes)]
        {
            at_least(field, bytes as u64, MIN_RING_BYTES as u64)?;
            // The control protocol counts ring pages in 32 bits, and rings of more than 2 GiB help nobody.
            at_most(field, bytes as u64, i32::MAX as u64)?;
            if !bytes.is_multiple_of(PAGE_SIZE) {
                return Err(ConfigError::NotMultiple { field, value: bytes as u64, unit: PAGE_SIZE as u64 });
            }
        }
        let millis = |limit: Duration| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        at_least("step_deadline (ms)", millis(self.step_deadline), 1)?;
        at_least("close_deadline (ms)", millis(self.close_deadline), 1)?;
        at_least("queues", self.queues.into(), 1)?;
        at_most("queues", self.queues.into(), MAX_QUEUES.into())?;
        self.queue_settings().check()?;
        if let Some(sections) = self.rx_watermark {
            at_most("rx_watermark", sections.into(), self.most_rx_watermark(self.receive_sections).into())?;
        }
        Ok(())
    }

    /// Bytes of the receive buffer that `version` allows and the wish needs, whole pages.
    ///
    /// The host's section size is not known yet. Linux reckons with 1728 bytes whatever the MTU, which leaves few sections
    /// with jumbo frames; here a larger MTU makes room for OpenVMM's sections (frame and 292 bytes).
    pub(crate) fn receive_buffer_bytes(&self, version: Version) -> usize {
        let section = if let Some(known) = self.receive_section_bytes {
            known
        } else if self.mtu > DEFAULT_MTU {
            (self.mtu + nvsp::ETHERNET_HEADER_LEN + RECEIVE_SECTION_OVERHEAD).max(nvsp::DEFAULT_RECEIVE_SECTION_SIZE)
        } else {
            nvsp::DEFAULT_RECEIVE_SECTION_SIZE
        };
        buffer_bytes(self.receive_sections, section, version.max_receive_buffer())
    }

    /// Bytes of the send buffer, whole pages.
    pub(crate) fn send_buffer_bytes(&self) -> usize {
        let section = self.send_section_bytes.unwrap_or(nvsp::DEFAULT_SEND_SECTION_SIZE);
        buffer_bytes(self.send_sections, section, nvsp::MAX_SEND_BUFFER)
    }

    /// The watermark of a receive buffer of which so many sections are used.
    pub(crate) fn rx_watermark_of(&self, sections: u32) -> u32 {
        self.rx_watermark.unwrap_or(sections / 2).min(self.most_rx_watermark(sections))
    }

    /// The highest one.
    fn most_rx_watermark(&self, sections: u32) -> u32 {
        sections.saturating_sub(self.safe_receive_sections())
    }

    /// Receive sections below which some hosts fall silent.
    pub(crate) fn safe_receive_sections(&self) -> u32 {
        RESERVED_RECEIVE_SECTIONS + u32::from(self.queues)
    }
}

/// `count` sections in whole pages, `limit` bytes at most.
fn buffer_bytes(count: u32, section_bytes: u32, limit: usize) -> usize {
    // Below 2^64 + a page: cannot wrap; the limit brings it back into usize.
    let bytes = u64::from(count) * u64::from(section_bytes);
    usize::try_from(bytes).unwrap_or(usize::MAX).min(limit).next_multiple_of(PAGE_SIZE)
}

/// A value that [`Config`] cannot have. The caller is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// Too small.
    BelowMinimum {
        /// Which.
        field: &'static str,
        /// Value given.
        value: u64,
        /// Smallest value.
        minimum: u64,
    },
    /// Too large.
    AboveLimit {
        /// Which.
        field: &'static str,
        /// Value given.
        value: u64,
        /// Largest value.
        limit: u64,
    },
    /// Not a multiple of its unit.
    NotMultiple {
        /// Which.
        field: &'static str,
        /// Value given.
        value: u64,
        /// The unit.
        unit: u64,
    },
    /// Not a version of NVSP.
    UnknownVersion {
        /// Value given.
        version: Version,
    },
    /// A confidential VM needs a newer version than may be offered.
    IsolatedNeedsVersion {
        /// Value given.
        version: Version,
        /// Oldest version.
        minimum: Version,
    },
}

impl ConfigError {
    /// Name of the setter at fault.
    #[must_use]
    pub const fn field(&self) -> &'static str {
        match *self {
            Self::BelowMinimum { field, .. } | Self::AboveLimit { field, .. } | Self::NotMultiple { field, .. } => {
                field
            }
            Self::UnknownVersion { .. } | Self::IsolatedNeedsVersion { .. } => "nvsp_max",
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::BelowMinimum { field, value, minimum } => write!(f, "{field} is {value}, the minimum is {minimum}"),
            Self::AboveLimit { field, value, limit } => write!(f, "{field} is {value}, the limit is {limit}"),
            Self::NotMultiple { field, value, unit } => {
                write!(f, "{field} is {value}, not a multiple of {unit}")
            }
            Self::UnknownVersion { version } => {
                write!(f, "nvsp_max is {version}, which is no version of NVSP")
            }
            Self::IsolatedNeedsVersion { version, minimum } => {
                write!(f, "nvsp_max is {version}, but an isolated guest needs {minimum}")
            }
        }
    }
}

impl core::error::Error for ConfigError {}

/// Something that works but may not be what was wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// The host made fewer receive sections than some hosts need: those fall silent once data flows.
    FewReceiveSections {
        /// Sections there are.
        count: u32,
        /// 16 and one a queue.
        minimum: u32,
    },
    /// A buffer was wished larger than the version or the memory allows.
    Clamped {
        /// Setter's name.
        field: &'static str,
        /// What was wished.
        requested: u32,
        /// What there is.
        effective: u32,
    },
    /// The host gives a smaller MTU than was asked for.
    MtuLowered {
        /// What was asked for.
        requested: u32,
        /// What there is.
        effective: u32,
    },
    /// The host did not take the send buffer: every message goes by GPA-direct.
    NoSendBuffer {
        /// The host's word; `None` if there was no memory for one.
        status: Option<nvsp::Status>,
    },
    /// More queues were wished than the host or the buffers have.
    FewQueues {
        /// What was asked for.
        requested: u16,
        /// What there is.
        effective: u16,
    },
    /// Several queues were wished, and it failed: there is one.
    OneQueue {
        /// What was asked for.
        requested: u16,
        /// What was being done.
        step: Step,
        /// Why it failed.
        cause: Cause,
    },
    /// The host could not be told how to spread received frames: all may come to the primary channel, or some to a queue
    /// that is gone.
    NotSpread {
        /// Why.
        error: RequestError,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::FewReceiveSections { count, minimum } => {
                write!(f, "{count} receive sections: some hosts serve no channel with fewer than {minimum}")
            }
            Self::Clamped { field, requested, effective } => {
                write!(f, "{field}: {requested} wished, {effective} given")
            }
            Self::MtuLowered { requested, effective } => {
                write!(f, "the host gives an MTU of {effective}, not {requested}")
            }
            Self::NoSendBuffer { status: Some(status) } => {
                write!(f, "the host did not take the send buffer: {status}")
            }
            Self::NoSendBuffer { status: None } => f.write_str("there is no memory for a send buffer"),
            Self::FewQueues { requested, effective } => write!(f, "{requested} queues wished, {effective} given"),
            Self::OneQueue { requested, step, cause } => {
                write!(f, "{requested} queues wished, 1 given: failed to {step}: {cause}")
            }
            Self::NotSpread { error } => write!(f, "received frames are not spread over the queues: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString;

    use super::*;

    #[test]
    fn defaults_are_those_of_linux() {
        assert!(Config::default().check().is_ok());
        assert_eq!((MAX_RECEIVE_SECTIONS, MAX_SEND_SECTIONS), (18811, 2560));
        assert_eq!(nvsp::DEFAULT_RECEIVE_BUFFER as u32 / nvsp::DEFAULT_RECEIVE_SECTION_SIZE, DEFAULT_RECEIVE_SECTIONS);
        assert_eq!(nvsp::DEFAULT_SEND_BUFFER as u32 / nvsp::DEFAULT_SEND_SECTION_SIZE, DEFAULT_SEND_SECTIONS);
    }

    #[test]
    fn too_few_sections_are_refused_with_the_minimum() {
        let error = Config::default().receive_sections(9).check().unwrap_err();
        assert_eq!(error.to_string(), "receive_sections is 9, the minimum is 10");
        let error = Config::default().send_sections(0).check().unwrap_err();
        assert_eq!(error.to_string(), "send_sections is 0, the minimum is 10");
        assert!(Config::default().receive_sections(10).send_sections(10).check().is_ok());
    }

    #[test]
    fn each_limit_names_its_field() {
        let config = Config::default();
        for (config, field) in [
            (config.mtu(67), "mtu"),
            (config.mtu(65522), "mtu"),
            (config.nvsp_max(Version(7)), "nvsp_max"),
            (config.isolated(true).nvsp_max(Version::V6), "nvsp_max"),
            (config.queues(0), "queues"),
            (config.queues(65), "queues"),
            (config.step_deadline(Duration::ZERO), "step_deadline (ms)"),
            (config.close_deadline(Duration::ZERO), "close_deadline (ms)"),
            (config.rings(RingSizes { outgoing_bytes: 4096, incoming_bytes: 8192 }), "rings.outgoing_bytes"),
            (config.rings(RingSizes { outgoing_bytes: 8192, incoming_bytes: 8193 }), "rings.incoming_bytes"),
            (config.send_buffer(false).direct_bytes(0), "direct_bytes"),
            (config.rx_copybreak(127), "rx_copybreak"),
            (config.receive_sections(100).rx_watermark(84), "rx_watermark"),
            (config.receive_sections(100).queues(4).rx_watermark(81), "rx_watermark"),
        ] {
            assert_eq!(config.check().unwrap_err().field(), field);
        }
    }

    #[test]
    fn the_host_is_left_sections_to_work_with() {
        let config = Config::default();
        let error = config.receive_sections(100).rx_watermark(90).check().unwrap_err();
        assert_eq!(error, ConfigError::AboveLimit { field: "rx_watermark", value: 90, limit: 83 });
        assert!(config.receive_sections(100).rx_watermark(83).check().is_ok());
        assert!(config.rx_watermark(0).rx_copybreak(128).check().is_ok());
        let watermarks = [9709, 100, 20, 10].map(|sections| config.rx_watermark_of(sections));
        assert_eq!(watermarks, [4854, 50, 3, 0]);
        // The host made fewer than were wished.
        assert_eq!(config.rx_watermark(5000).rx_watermark_of(1017), 1000);
    }

    #[test]
    fn buffers_are_clamped_to_the_version() {
        let wish = Config::default().receive_sections(u32::MAX);
        assert_eq!(wish.receive_buffer_bytes(Version::V6_1), 31 << 20);
        assert_eq!(wish.receive_buffer_bytes(Version::V4), 31 << 20);
        assert_eq!(wish.receive_buffer_bytes(Version::V2), 15 << 20);
        assert_eq!(wish.receive_buffer_bytes(Version::V1) / 1728, 9102);
        assert_eq!(Config::default().receive_sections(10).receive_buffer_bytes(Version::V5), 5 * 4096);
        assert_eq!(Config::default().send_sections(u32::MAX).send_buffer_bytes() / 6144, 2560);
        assert_eq!(Config::default().send_buffer_bytes() / 6144, 170);
    }

    #[test]
    fn jumbo_frames_get_as_many_sections_as_wished() {
        let bytes = Config::default().receive_sections(64).mtu(9000).receive_buffer_bytes(Version::V6_1);
        // OpenVMM's section at this MTU.
        assert_eq!(bytes / 9306, 64);
    }
}
