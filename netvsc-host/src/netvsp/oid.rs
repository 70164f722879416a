//! Object identifiers: what can be queried and set, and which values are refused.
//!
//! Values and statuses are those recorded from OpenVMM (`netvsp/src/lib.rs`, `rndisprot.rs`); capabilities follow the
//! host's profile.

use rndis::offload::{
    ChecksumSetting, ChecksumTask, ChecksumV4Flags, ChecksumV6Flags, Encapsulation, LsoTaskV2, LsoV6Options, Offload,
    OffloadEncapsulation, OffloadParameters, TaskSetting,
};
use rndis::rss::{RssCapabilities, RssCapabilityFlags, RssFlags, RssParameters};
use rndis::value::{
    ConfigParameter, ConfigType, ConnectState, FriendlyName, LinkState, MacAddress, MaxLinkSpeed, MediaConnectStatus,
    PacketFilter, SupportedList, emit_u32_value,
};
use rndis::{EmitError, Oid, Status};

use super::Nic;
use super::requests::Granted;
use super::rss::Rss;
use crate::profile::{OffloadLayout, Offloads};

/// Bytes of the longest value: the friendly name, zero-padded.
pub(super) const MAX_VALUE_BYTES: usize = FriendlyName::MAX_LEN;

/// What OpenVMM lists, in its order.
const SUPPORTED: [Oid; 37] = [
    Oid::SUPPORTED_LIST,
    Oid::HARDWARE_STATUS,
    Oid::MEDIA_SUPPORTED,
    Oid::MEDIA_IN_USE,
    Oid::MAXIMUM_LOOKAHEAD,
    Oid::CURRENT_LOOKAHEAD,
    Oid::MAXIMUM_FRAME_SIZE,
    Oid::MAXIMUM_TOTAL_SIZE,
    Oid::TRANSMIT_BLOCK_SIZE,
    Oid::RECEIVE_BLOCK_SIZE,
    Oid::LINK_SPEED,
    Oid::TRANSMIT_BUFFER_SPACE,
    Oid::RECEIVE_BUFFER_SPACE,
    Oid::VENDOR_ID,
    Oid::VENDOR_DESCRIPTION,
    Oid::VENDOR_DRIVER_VERSION,
    Oid::DRIVER_VERSION,
    Oid::PACKET_FILTER,
    Oid::MAXIMUM_SEND_PACKETS,
    Oid::MEDIA_CONNECT_STATUS,
    Oid::MAC_OPTIONS,
    Oid::CONFIG_PARAMETER,
    Oid::LINK_STATE,
    Oid::MAX_LINK_SPEED,
    Oid::FRIENDLY_NAME,
    Oid::BYTES_RECEIVED,
    Oid::BYTES_SENT,
    Oid::RECEIVE_SCALE_CAPABILITIES,
    Oid::RECEIVE_SCALE_PARAMETERS,
    Oid::PERMANENT_ADDRESS,
    Oid::CURRENT_ADDRESS,
    Oid::MAXIMUM_LIST_SIZE,
    Oid::OFFLOAD_ENCAPSULATION,
    Oid::TCP_OFFLOAD_CURRENT_CONFIG,
    Oid::TCP_OFFLOAD_PARAMETERS,
    Oid::TCP_OFFLOAD_HARDWARE_CAPABILITIES,
    Oid::MACHINE_NAME,
];

const VENDOR: &[u8] = b"Microsoft Corporation";
const VENDOR_ID: u32 = 0x155D;
const DRIVER_VERSION: u16 = 0x0100;
const BUFFER_SPACE: u32 = 256 << 10;
/// Copies lookahead, serialised receives, no loopback, full duplex, 802.1p and VLAN.
const MAC_OPTIONS: u32 = 0x24D;

/// Why a value was not set.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) status: Status,
    /// What the guest did wrong, if it did. An unknown OID is a question, not a wrong.
    pub(super) violation: Option<String>,
}

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        Self { status, violation: None }
    }
}

fn invalid(text: impl ToString) -> Refused {
    Refused { status: Status::INVALID_DATA, violation: Some(text.to_string()) }
}

impl Nic {
    /// Writes the value of an OID and gives its length.
    pub(super) fn query_oid(&self, oid: Oid, out: &mut [u8; MAX_VALUE_BYTES]) -> Result<usize, Status> {
        let mtu = self.session.frame_mtu;
        let settings = &self.config.settings;
        let speed = self.link.speed_bps;
        let out = &mut out[..];
        let written: Result<usize, EmitError> = match oid {
            Oid::SUPPORTED_LIST => SupportedList::emit(&SUPPORTED, out),
            Oid::HARDWARE_STATUS | Oid::MEDIA_SUPPORTED | Oid::MEDIA_IN_USE | Oid::MAXIMUM_LIST_SIZE => {
                emit_u32_value(0, out)
            }
            Oid::MAXIMUM_LOOKAHEAD | Oid::CURRENT_LOOKAHEAD | Oid::MAXIMUM_TOTAL_SIZE => emit_u32_value(mtu, out),
            Oid::TRANSMIT_BLOCK_SIZE | Oid::RECEIVE_BLOCK_SIZE => emit_u32_value(mtu, out),
            Oid::MAXIMUM_FRAME_SIZE => emit_u32_value(mtu - nvsp::ETHERNET_HEADER_LEN, out),
            Oid::LINK_SPEED => self.link.speed().emit(out),
            Oid::TRANSMIT_BUFFER_SPACE | Oid::RECEIVE_BUFFER_SPACE => emit_u32_value(BUFFER_SPACE, out),
            Oid::VENDOR_ID => emit_u32_value(VENDOR_ID, out),
            Oid::VENDOR_DESCRIPTION => Ok(copy(VENDOR, out)),
            Oid::VENDOR_DRIVER_VERSION | Oid::DRIVER_VERSION => Ok(copy(&DRIVER_VERSION.to_le_bytes(), out)),
            Oid::PACKET_FILTER => PacketFilter(self.session.filter).emit(out),
            Oid::MAXIMUM_SEND_PACKETS => emit_u32_value(u32::MAX, out),
            Oid::MAC_OPTIONS => emit_u32_value(MAC_OPTIONS, out),
            Oid::MEDIA_CONNECT_STATUS => {
                let connected = self.link.up || !settings.media_status_follows_link;
                if connected { MediaConnectStatus::CONNECTED } else { MediaConnectStatus::DISCONNECTED }.emit(out)
            }
            Oid::LINK_STATE => {
                let up = if self.link.up { ConnectState::CONNECTED } else { ConnectState::DISCONNECTED };
                let state = LinkState {
                    connect_state: up,
                    duplex: 0,
                    transmit_bps: speed,
                    receive_bps: speed,
                    pause: 0,
                    auto_negotiation: 0,
                };
                state.emit(out)
            }
            Oid::MAX_LINK_SPEED => MaxLinkSpeed { transmit_bps: speed, receive_bps: speed }.emit(out),
            // Always all 512 bytes, zeros behind the name.
            Oid::FRIENDLY_NAME => FriendlyName::emit(&self.config.friendly_name, out).map(|_| FriendlyName::MAX_LEN),
            Oid::BYTES_RECEIVED => Ok(copy(&self.counters.rx_bytes.to_le_bytes(), out)),
            Oid::BYTES_SENT => Ok(copy(&self.counters.tx_bytes.to_le_bytes(), out)),
            Oid::PERMANENT_ADDRESS | Oid::CURRENT_ADDRESS => MacAddress(self.config.mac).emit(out),
            Oid::TCP_OFFLOAD_HARDWARE_CAPABILITIES => self.laid_out(self.offered()).emit(out),
            Oid::TCP_OFFLOAD_CURRENT_CONFIG => self.laid_out(self.session.offload).emit(out),
            Oid::RECEIVE_SCALE_CAPABILITIES => {
                let mut flags =
                    RssCapabilityFlags::TOEPLITZ | RssCapabilityFlags::TCP_IPV4 | RssCapabilityFlags::TCP_IPV6;
                if settings.rss_udp {
                    flags = flags | RssCapabilityFlags::UDP_IPV4 | RssCapabilityFlags::UDP_IPV6;
                }
                let capabilities = RssCapabilities {
                    revision: 2,
                    flags,
                    interrupt_messages: 1,
                    receive_queues: u32::from(self.config.queues),
                    indirection_entries: Some(settings.rss_entries),
                };
                capabilities.emit(out)
            }
            _ => return Err(Status::NOT_SUPPORTED),
        };
        written.map_err(|error| {
            tracing::error!(target: "netvsc_host", %error, %oid, "value not written");
            Status::FAILURE
        })
    }

    /// Sets the value of an OID.
    pub(super) fn set_oid(&mut self, oid: Oid, value: &[u8]) -> Result<(), Refused> {
        match oid {
            Oid::PACKET_FILTER => {
                let too_short =
                    |error: rndis::ParseError| Refused { status: Status::FAILURE, violation: Some(error.to_string()) };
                self.session.filter = PacketFilter::parse(value).map_err(too_short)?.0;
                if self.session.filter == 0 {
                    self.stop_receive();
                }
                Ok(())
            }
            Oid::TCP_OFFLOAD_PARAMETERS => self.set_offload(value),
            Oid::OFFLOAD_ENCAPSULATION => set_encapsulation(value),
            Oid::RECEIVE_SCALE_PARAMETERS => self.set_rss(value),
            Oid::CONFIG_PARAMETER => set_config(value),
            // Informational.
            Oid::NETWORK_LAYER_ADDRESSES | Oid::MACHINE_NAME | Oid::LINK_PARAMETERS | Oid::CURRENT_LOOKAHEAD => Ok(()),
            _ => Err(Status::NOT_SUPPORTED.into()),
        }
    }

    /// Puts in force what this session's guest is offered.
    pub(super) fn offer(&mut self) {
        let all = self.offered();
        self.session.granted = Granted::new(&all);
        self.session.offload = at_first(all);
    }

    /// What this session's guest is offered.
    fn offered(&self) -> Offload {
        let settings = &self.config.settings;
        let mut offloads = settings.offloads;
        offloads.rsc &= self.session.version.is_some_and(|version| version >= nvsp::Version::V6_1);
        let udp = settings.offload_layout == OffloadLayout::Newest || !self.is_before_ndis_6_30();
        offloads.udp &= udp;
        offloads.receive_udp &= udp;
        offered(&offloads)
    }

    /// In the layout that the guest gets.
    pub(super) fn laid_out(&self, offload: Offload) -> Offload {
        match self.config.settings.offload_layout {
            OffloadLayout::Negotiated if self.is_before_ndis_6_30() => {
                let Offload { revision, size, .. } = Offload::empty(2);
                Offload { revision, size, ..offload }
            }
            _ => offload,
        }
    }

    fn is_before_ndis_6_30(&self) -> bool {
        self.session.ndis_version.is_some_and(|version| version < (6, 30))
    }

    fn set_offload(&mut self, value: &[u8]) -> Result<(), Refused> {
        let wanted = OffloadParameters::parse(value).map_err(invalid)?;
        if wanted.lso_v1 == TaskSetting::ON {
            return Err(Status::NOT_SUPPORTED.into());
        }
        let all = self.offered();
        check_parameters(&wanted, &all, self.config.settings.masks_offload_parameters)?;
        self.session.granted.set(&wanted, &all);
        let now = &mut self.session.offload;
        checksum(wanted.ipv4_checksum, ChecksumV4Flags::IP_HEADER | ChecksumV4Flags::IP_OPTIONS, &all, now);
        checksum(wanted.tcp_v4_checksum, ChecksumV4Flags::TCP | ChecksumV4Flags::TCP_OPTIONS, &all, now);
        checksum(wanted.udp_v4_checksum, ChecksumV4Flags::UDP, &all, now);
        checksum_v6(wanted.tcp_v6_checksum, ChecksumV6Flags::TCP | ChecksumV6Flags::TCP_OPTIONS, &all, now);
        checksum_v6(wanted.udp_v6_checksum, ChecksumV6Flags::UDP, &all, now);
        segmentation(wanted.lso_v2_v4, all.lso_v2_v4, &mut now.lso_v2_v4);
        segmentation(wanted.lso_v2_v6, all.lso_v2_v6, &mut now.lso_v2_v6);
        coalescing(wanted.rsc_v4, all.rsc_v4, &mut now.rsc_v4);
        coalescing(wanted.rsc_v6, all.rsc_v6, &mut now.rsc_v6);
        Ok(())
    }

    fn set_rss(&mut self, value: &[u8]) -> Result<(), Refused> {
        let queues = u32::from(self.config.queues);
        // A header alone means hash function 0, which is "off".
        if value.len() <= 8 {
            self.session.rss = None;
            return Ok(());
        }
        let parameters = RssParameters::parse(value).map_err(invalid)?;
        if parameters.is_disabled() || parameters.flags.contains(RssFlags::DISABLE) {
            self.session.rss = None;
            return Ok(());
        }
        parameters.check(queues).map_err(invalid)?;
        let table: Vec<u32> = parameters.table.iter().collect();
        self.session.rss = Some(Rss::new(parameters.hash_info, parameters.key, table));
        Ok(())
    }
}

fn copy(from: &[u8], out: &mut [u8]) -> usize {
    out[..from.len()].copy_from_slice(from);
    from.len()
}

/// The offloads of a profile, as the guest is told: revision 3 whatever it asked for.
pub(super) fn offered(offloads: &Offloads) -> Offload {
    let flag_v4 = |on: bool, flag: ChecksumV4Flags| if on { flag } else { ChecksumV4Flags::EMPTY };
    let flag_v6 = |on: bool, flag: ChecksumV6Flags| if on { flag } else { ChecksumV6Flags::EMPTY };
    let v4 = |ip, tcp, udp| ChecksumTask {
        encapsulation: Encapsulation::IEEE_802_3,
        flags: flag_v4(ip, ChecksumV4Flags::IP_HEADER | ChecksumV4Flags::IP_OPTIONS)
            | flag_v4(tcp, ChecksumV4Flags::TCP | ChecksumV4Flags::TCP_OPTIONS)
            | flag_v4(udp, ChecksumV4Flags::UDP),
    };
    let v6 = |tcp, udp| ChecksumTask {
        encapsulation: Encapsulation::IEEE_802_3,
        flags: flag_v6(tcp, ChecksumV6Flags::TCP | ChecksumV6Flags::TCP_OPTIONS | ChecksumV6Flags::EXTENSION_HEADERS)
            | flag_v6(udp, ChecksumV6Flags::UDP),
    };
    // Whoever segments computes checksums.
    let lso_max_bytes = if offloads.tcp { offloads.lso_max_bytes } else { 0 };
    let lso = match lso_max_bytes {
        0 => LsoTaskV2::default(),
        max_size => LsoTaskV2 { encapsulation: Encapsulation::IEEE_802_3, max_size, min_segments: 2 },
    };
    let receive = offloads.receive;
    Offload {
        checksum_v4_tx: v4(offloads.ipv4_header, offloads.tcp, offloads.udp),
        checksum_v4_rx: v4(receive, receive, offloads.receive_udp),
        checksum_v6_tx: v6(offloads.tcp, offloads.udp),
        checksum_v6_rx: v6(receive, offloads.receive_udp),
        lso_v2_v4: lso,
        lso_v2_v6: lso,
        lso_v2_v6_options: if lso_max_bytes == 0 {
            LsoV6Options::EMPTY
        } else {
            LsoV6Options::EXTENSION_HEADERS | LsoV6Options::TCP_OPTIONS
        },
        rsc_v4: u8::from(offloads.rsc),
        rsc_v6: u8::from(offloads.rsc),
        ..Offload::empty(3)
    }
}

/// What is in force until a guest says what it wants: all but coalescing, which only guests want that know of it.
pub(super) fn at_first(offered: Offload) -> Offload {
    Offload { rsc_v4: 0, rsc_v6: 0, ..offered }
}

/// Whether parameters have values that exist, and ask for what is offered only.
fn check_parameters(wanted: &OffloadParameters, all: &Offload, masked: bool) -> Result<(), Refused> {
    let (v4, v6) = (all.checksum_v4_tx.flags, all.checksum_v6_tx.flags);
    let checksums = [
        ("IPv4Checksum", wanted.ipv4_checksum, v4.contains(ChecksumV4Flags::IP_HEADER)),
        ("TCPIPv4Checksum", wanted.tcp_v4_checksum, v4.contains(ChecksumV4Flags::TCP)),
        ("UDPIPv4Checksum", wanted.udp_v4_checksum, v4.contains(ChecksumV4Flags::UDP)),
        ("TCPIPv6Checksum", wanted.tcp_v6_checksum, v6.contains(ChecksumV6Flags::TCP)),
        ("UDPIPv6Checksum", wanted.udp_v6_checksum, v6.contains(ChecksumV6Flags::UDP)),
    ];
    for (field, value, offered) in checksums {
        if value.0 > ChecksumSetting::TX_RX.0 {
            return Err(invalid(format!("{field}: {}, more than {}", value.0, ChecksumSetting::TX_RX.0)));
        }
        if value.0 > ChecksumSetting::OFF.0 && !offered && !masked {
            return Err(Status::NOT_SUPPORTED.into());
        }
    }
    let tasks = [
        ("LsoV2IPv4", wanted.lso_v2_v4, all.lso_v2_v4.max_size != 0),
        ("LsoV2IPv6", wanted.lso_v2_v6, all.lso_v2_v6.max_size != 0),
        ("RscIPv4", wanted.rsc_v4, all.rsc_v4 != 0),
        ("RscIPv6", wanted.rsc_v6, all.rsc_v6 != 0),
    ];
    for (field, value, offered) in tasks {
        if value.0 > TaskSetting::ON.0 {
            return Err(invalid(format!("{field}: {}, more than {}", value.0, TaskSetting::ON.0)));
        }
        if value == TaskSetting::ON && !offered && !masked {
            return Err(Status::NOT_SUPPORTED.into());
        }
    }
    Ok(())
}

/// Switches bits of the IPv4 checksum task, as far as they are offered.
fn checksum(setting: ChecksumSetting, bits: ChecksumV4Flags, all: &Offload, now: &mut Offload) {
    let Some((tx, rx)) = directions(setting) else { return };
    now.checksum_v4_tx.flags =
        ChecksumV4Flags(switch(tx, bits.0, all.checksum_v4_tx.flags.0, now.checksum_v4_tx.flags.0));
    now.checksum_v4_rx.flags =
        ChecksumV4Flags(switch(rx, bits.0, all.checksum_v4_rx.flags.0, now.checksum_v4_rx.flags.0));
}

/// Switches bits of the IPv6 checksum task, as far as they are offered.
fn checksum_v6(setting: ChecksumSetting, bits: ChecksumV6Flags, all: &Offload, now: &mut Offload) {
    let Some((tx, rx)) = directions(setting) else { return };
    now.checksum_v6_tx.flags =
        ChecksumV6Flags(switch(tx, bits.0, all.checksum_v6_tx.flags.0, now.checksum_v6_tx.flags.0));
    now.checksum_v6_rx.flags =
        ChecksumV6Flags(switch(rx, bits.0, all.checksum_v6_rx.flags.0, now.checksum_v6_rx.flags.0));
}

fn switch(on: bool, bits: u32, offered: u32, now: u32) -> u32 {
    if on { now | (bits & offered) } else { now & !bits }
}

/// Transmit, receive; `None` is no change, as are values that mean nothing.
fn directions(setting: ChecksumSetting) -> Option<(bool, bool)> {
    match setting {
        ChecksumSetting::OFF => Some((false, false)),
        ChecksumSetting::TX => Some((true, false)),
        ChecksumSetting::RX => Some((false, true)),
        ChecksumSetting::TX_RX => Some((true, true)),
        _ => None,
    }
}

fn segmentation(setting: TaskSetting, all: LsoTaskV2, now: &mut LsoTaskV2) {
    match setting {
        TaskSetting::ON => *now = all,
        TaskSetting::OFF => *now = LsoTaskV2::default(),
        _ => {}
    }
}

fn coalescing(setting: TaskSetting, all: u8, now: &mut u8) {
    match setting {
        TaskSetting::ON => *now = all,
        TaskSetting::OFF => *now = 0,
        _ => {}
    }
}

fn set_encapsulation(value: &[u8]) -> Result<(), Refused> {
    let wanted = OffloadEncapsulation::parse(value).map_err(invalid)?;
    let ethernet = |enabled: u32, encapsulation: u32, header: u32| {
        enabled != 1 || (encapsulation == Encapsulation::IEEE_802_3.0 && header == nvsp::ETHERNET_HEADER_LEN)
    };
    let good = ethernet(wanted.ipv4_enabled, wanted.ipv4_encapsulation, wanted.ipv4_header_size)
        && ethernet(wanted.ipv6_enabled, wanted.ipv6_encapsulation, wanted.ipv6_header_size);
    if good { Ok(()) } else { Err(Status::NOT_SUPPORTED.into()) }
}

/// Keywords have no effect here, but must be well-formed: OpenVMM wants a decimal digit first in every string.
fn set_config(value: &[u8]) -> Result<(), Refused> {
    let parameter = ConfigParameter::parse(value).map_err(invalid)?;
    if parameter.value_type == ConfigType::STRING {
        let text = parameter.text().map_err(invalid)?;
        if !text.chars().next().is_some_and(|first| first.is_ascii_digit()) {
            return Err(Status::INVALID_DATA.into());
        }
    }
    Ok(())
}
