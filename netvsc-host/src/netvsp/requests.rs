//! What a guest asks of the host with a frame: checksums and segmentation. Whether it may, and getting it done.
//!
//! A request that cannot be is refused with its packet, as recorded from OpenVMM, and so is one for what was not offered,
//! or was turned off. What is only odd is recorded, and done as far as it makes sense: the headers are found in the frame,
//! not by the offset in the request (DPDK's still counts a VLAN tag that its driver has taken out), and the field of a
//! checksum is not relied on (it ought to be the sum of the pseudo header; DPDK leaves the old checksum there).
//!
//! Source: [MS-NDIS] `NDIS_TCP_IP_CHECKSUM_NET_BUFFER_LIST_INFO`, `NDIS_TCP_LARGE_SEND_OFFLOAD_NET_BUFFER_LIST_INFO`;
//! OpenVMM `netvsp/src/lib.rs`.

use core::num::NonZeroU16;

use rndis::offload::{ChecksumSetting, ChecksumV4Flags, ChecksumV6Flags, Offload, OffloadParameters, TaskSetting};
use rndis::ppi::{IpVersion, Lso, LsoVersion, PacketInfo, TxChecksum};

use crate::offload::headers::{ETHERNET, Headers, TAG, TCP, UDP};
use crate::offload::{segment, sum};
use crate::port::{Checksum, FrameMeta};
use crate::violation::ViolationKind;

/// What a guest may ask for with a frame.
///
/// All that was offered, until the guest turns it off. A guest that turns on the receive direction alone may go on
/// asking: DPDK does so when it means both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Granted {
    ip_header: bool,
    tcp_v4: bool,
    tcp_v6: bool,
    udp_v4: bool,
    udp_v6: bool,
    /// Most bytes of a large frame; 0: none.
    lso_v4: u32,
    lso_v6: u32,
}

impl Granted {
    pub(super) fn new(offered: &Offload) -> Self {
        let (v4, v6) = (offered.checksum_v4_tx.flags, offered.checksum_v6_tx.flags);
        Self {
            ip_header: v4.contains(ChecksumV4Flags::IP_HEADER),
            tcp_v4: v4.contains(ChecksumV4Flags::TCP),
            tcp_v6: v6.contains(ChecksumV6Flags::TCP),
            udp_v4: v4.contains(ChecksumV4Flags::UDP),
            udp_v6: v6.contains(ChecksumV6Flags::UDP),
            lso_v4: offered.lso_v2_v4.max_size,
            lso_v6: offered.lso_v2_v6.max_size,
        }
    }

    /// The guest has set its parameters.
    pub(super) fn set(&mut self, wanted: &OffloadParameters, offered: &Offload) {
        let all = Self::new(offered);
        let checksum = |setting, all: bool, now: &mut bool| match setting {
            ChecksumSetting::NO_CHANGE => {}
            ChecksumSetting::OFF => *now = false,
            _ => *now = all,
        };
        checksum(wanted.ipv4_checksum, all.ip_header, &mut self.ip_header);
        checksum(wanted.tcp_v4_checksum, all.tcp_v4, &mut self.tcp_v4);
        checksum(wanted.tcp_v6_checksum, all.tcp_v6, &mut self.tcp_v6);
        checksum(wanted.udp_v4_checksum, all.udp_v4, &mut self.udp_v4);
        checksum(wanted.udp_v6_checksum, all.udp_v6, &mut self.udp_v6);
        let segmentation = |setting, all: u32, now: &mut u32| match setting {
            TaskSetting::ON => *now = all,
            TaskSetting::OFF => *now = 0,
            _ => {}
        };
        segmentation(wanted.lso_v2_v4, all.lso_v4, &mut self.lso_v4);
        segmentation(wanted.lso_v2_v6, all.lso_v6, &mut self.lso_v6);
    }

    fn transport(&self, version: IpVersion, protocol: u8) -> bool {
        match (version, protocol) {
            (IpVersion::V4, TCP) => self.tcp_v4,
            (IpVersion::V6, TCP) => self.tcp_v6,
            (IpVersion::V4, _) => self.udp_v4,
            (IpVersion::V6, _) => self.udp_v6,
        }
    }

    fn segmentation(&self, version: IpVersion) -> usize {
        let bytes = if version == IpVersion::V4 { self.lso_v4 } else { self.lso_v6 };
        bytes as usize
    }
}

/// What is to be done with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Work {
    headers: Option<Headers>,
    ip_header: bool,
    transport: bool,
    /// Cut it into frames of so many bytes of payload.
    segment: Option<NonZeroU16>,
    /// How many frames that makes.
    pub(super) segments: usize,
}

impl Work {
    /// Whether there is anything.
    pub(super) fn is_some(&self) -> bool {
        self.ip_header || self.transport || self.segment.is_some()
    }

    /// Whether it is segmentation.
    pub(super) fn is_segmentation(&self) -> bool {
        self.segment.is_some()
    }

    /// Bytes of the longest frame that `frame` is on a wire.
    pub(super) fn wire_bytes(&self, frame: &[u8]) -> usize {
        let payload = self
            .segment
            .zip(self.headers)
            .and_then(|(size, headers)| headers.payload(frame).map(|payload| payload + usize::from(size.get())));
        payload.map_or(frame.len(), |longest| longest.min(frame.len()))
    }

    /// Brings the frame into the form in which it travels between ports, and says what is left to be done.
    pub(super) fn prepare(&self, frame: &mut [u8]) -> FrameMeta {
        let Some(headers) = &self.headers else { return FrameMeta::PLAIN };
        if self.segment.is_some() {
            // A header checksum of zero ends here.
            segment::prepare(frame, headers);
        } else {
            if self.ip_header {
                sum::fill_ip_header(frame, headers);
            }
            if !self.transport {
                return FrameMeta::PLAIN;
            }
            sum::seed(frame, headers);
        }
        // A frame has less than 64 KiB of headers: they were found in it, behind at most 1 KiB of others.
        let offset = headers.checksum_offset().unwrap_or(0);
        let checksum = Checksum::Partial { start: headers.transport as u16, offset: offset as u16 };
        FrameMeta { checksum, segment: self.segment.filter(|_| self.segments > 1), ..FrameMeta::PLAIN }
    }

    /// For a fault: completes the checksum, and not well.
    pub(super) fn complete_wrongly(&self, frame: &mut [u8]) {
        let Some(headers) = &self.headers else { return };
        let _ = self.prepare(frame);
        sum::fill_transport(frame, headers);
        let field = headers.transport + headers.checksum_offset().unwrap_or(0);
        if let Some(byte) = frame.get_mut(field) {
            *byte ^= 0x55;
        }
    }
}

/// Why a packet is refused.
pub(super) type Refusal = (ViolationKind, String);

/// What is odd about a request.
pub(super) type Oddity = String;

/// Looks at what is asked for with a frame.
pub(super) fn check(frame: &[u8], info: &PacketInfo, granted: &Granted) -> Result<(Work, Option<Oddity>), Refusal> {
    if let Some(lso) = info.lso {
        return check_segmentation(frame, lso, granted);
    }
    match info.tx_checksum() {
        Some(request) => check_checksum(frame, request, info.vlan.is_some(), granted),
        None => Ok((Work::default(), None)),
    }
}

fn malformed(text: impl Into<String>) -> Refusal {
    (ViolationKind::BadRndisPacket, text.into())
}

fn not_granted(text: impl Into<String>) -> Refusal {
    (ViolationKind::BadOffload, text.into())
}

fn check_segmentation(frame: &[u8], lso: Lso, granted: &Granted) -> Result<(Work, Option<Oddity>), Refusal> {
    let offset = usize::from(lso.header_offset());
    if offset >= frame.len() {
        return Err(malformed(format!("segmentation: TCP header at {offset} of a frame of {}", frame.len())));
    }
    if lso.version() != LsoVersion::V2 {
        return Err(not_granted("segmentation of version 1, which no host offers"));
    }
    let version = lso.ip_version();
    let most = granted.segmentation(version);
    if most == 0 {
        return Err(not_granted(format!("segmentation over {version:?}, which was not offered, or turned off")));
    }
    let Some(headers) = Headers::parse_large(frame).filter(|headers| headers.protocol == TCP) else {
        return Err(malformed("segmentation of what is no whole TCP packet"));
    };
    if headers.version != version {
        return Err(malformed(format!("segmentation over {version:?} of a packet of {:?}", headers.version)));
    }
    // As large a segment as a frame can hold is as large as any.
    let Some(size) = NonZeroU16::new(u16::try_from(lso.mss()).unwrap_or(u16::MAX)) else {
        return Err(malformed("segmentation: MSS of 0"));
    };
    // The header was seen whole.
    let payload_at = headers.payload(frame).unwrap_or(frame.len());
    let payload = frame.len() - payload_at;
    if payload > most {
        return Err(not_granted(format!("segmentation of {payload} bytes, more than {most}")));
    }
    // The least number of segments that hosts state, 2, is not asked for: a frame of one goes as it is, as on Windows.
    let segments = segment::count(payload, usize::from(size.get()));
    let odd = odd_offset(&headers, offset, true).or_else(|| odd_field(frame, &headers, true));
    Ok((Work { headers: Some(headers), segment: Some(size), segments, ..Work::default() }, odd))
}

fn check_checksum(
    frame: &[u8],
    request: TxChecksum,
    tagged: bool,
    granted: &Granted,
) -> Result<(Work, Option<Oddity>), Refusal> {
    let version = if request.is_ipv6() { IpVersion::V6 } else { IpVersion::V4 };
    // Of both, TCP is believed.
    let protocol = if request.tcp() { TCP } else { UDP };
    let transport = request.tcp() || request.udp();
    let offset = usize::from(request.header_offset());
    if transport {
        // 0 is "as short as can be".
        let least = ETHERNET + if version == IpVersion::V6 { 40 } else { 20 };
        if offset != 0 && (offset < least || offset >= frame.len()) {
            let text = format!("checksum: transport header at {offset}, not within {least} and {}", frame.len());
            return Err(malformed(text));
        }
        if !granted.transport(version, protocol) {
            let name = if protocol == TCP { "TCP" } else { "UDP" };
            return Err(not_granted(format!("{name} checksum over {version:?}, which was not offered, or turned off")));
        }
    }
    let ip_header = request.ip_header() && version == IpVersion::V4;
    if ip_header && !granted.ip_header {
        return Err(not_granted("IPv4 header checksum, which was not offered, or turned off"));
    }
    let Some(headers) = Headers::parse(frame).filter(|headers| headers.version == version) else {
        return Ok((Work::default(), Some(format!("checksum of what is no packet of {version:?}"))));
    };
    let work = Work { headers: Some(headers), ip_header, segments: 1, ..Work::default() };
    if !transport {
        return Ok((work, None));
    }
    if headers.protocol != protocol || headers.fragment || headers.cut_off {
        let text = format!("checksum of protocol {protocol} of a fragment, or of protocol {}", headers.protocol);
        return Ok((work, Some(text)));
    }
    if headers.payload(frame).is_none_or(|payload| payload > headers.end) {
        return Ok((work, Some("checksum of a packet that ends within its transport header".into())));
    }
    let odd = odd_offset(&headers, offset, tagged).or_else(|| odd_field(frame, &headers, false));
    Ok((Work { transport: true, ..work }, odd))
}

/// Whether the offset in a request is not that of the header.
fn odd_offset(headers: &Headers, offset: usize, tagged: bool) -> Option<Oddity> {
    let found = headers.transport;
    let good = offset == 0 || offset == found || (tagged && offset == found + TAG);
    (!good).then(|| format!("transport header at {offset}, but it is at {found}"))
}

/// Whether the field of the checksum holds nothing that guests put there: the pseudo header's sum (for segmentation
/// without a length), zero, or a checksum that is right already.
fn odd_field(frame: &[u8], headers: &Headers, segmentation: bool) -> Option<Oddity> {
    let field = sum::field(frame, headers)?;
    let seed = |len| sum::fold(sum::pseudo_header(frame, headers, len));
    let whole = headers.end - headers.transport;
    // DPDK leaves what was there before, also where it asks for segmentation.
    let good = field == 0
        || field == seed(whole)
        || (segmentation && field == seed(0))
        || sum::transport_is_right(frame, headers);
    (!good)
        .then(|| format!("checksum field {field:#06x} is neither 0 nor the pseudo header's sum {:#06x}", seed(whole)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netvsp::oid::offered;
    use crate::offload::Scratch;
    use crate::offload::{plain, verdict};
    use crate::port::{Frame, PortOffloads};
    use crate::profile::{Offloads, Profile};
    use proptest::prelude::*;
    use rndis::ppi::{RxChecksum, Transport};

    /// A UDP datagram with good checksums.
    const GOOD: [u8; 46] = [
        2, 0, 0, 0, 0, 0x99, 0, 0x15, 0x5d, 1, 2, 3, 8, 0, 0x45, 0, 0, 32, 0, 0, 0x40, 0, 0x40, 0x11, 0xb6, 0xc9, 192,
        0, 2, 2, 192, 0, 2, 1, 0x30, 0x39, 0, 9, 0, 12, 0x47, 0x8A, 1, 2, 3, 4,
    ];

    fn all() -> Granted {
        Granted::new(&offered(&Offloads::ALL))
    }

    fn info(request: TxChecksum) -> PacketInfo {
        PacketInfo { checksum: Some(request.0), ..PacketInfo::default() }
    }

    #[test]
    fn a_frame_without_checksums_gets_them() {
        let mut frame = GOOD;
        frame[24..26].fill(0);
        frame[40..42].fill(0);
        let request = TxChecksum::transport(IpVersion::V4, Transport::Udp, 34).unwrap().with_ip_header();
        let (work, odd) = check(&frame, &info(request), &all()).unwrap();
        assert_eq!(odd, None);
        let meta = work.prepare(&mut frame);
        assert_ne!(frame, GOOD, "it is not finished before a port wants it to be");
        let mut seen = Vec::new();
        plain(Frame::with_meta(&frame, meta), PortOffloads::NONE, &mut Scratch::default(), &mut |frame| {
            seen.push(frame.bytes.to_vec());
        });
        let headers = Headers::parse(&seen[0]);
        let verdict = verdict::of(&seen[0], headers.as_ref(), Checksum::Unknown);
        assert_eq!(verdict, RxChecksum::IP_SUCCEEDED | RxChecksum::UDP_SUCCEEDED);
    }

    #[test]
    fn what_was_not_offered_is_refused() {
        let old = Granted::new(&offered(&Profile::Ws2012R2.settings().offloads));
        let udp = TxChecksum::transport(IpVersion::V4, Transport::Udp, 34).unwrap();
        assert_eq!(check(&GOOD, &info(udp), &old).unwrap_err().0, ViolationKind::BadOffload);
        assert!(check(&GOOD, &info(udp), &all()).is_ok());
        let mut off = all();
        let parameters = OffloadParameters { udp_v4_checksum: ChecksumSetting::OFF, ..OffloadParameters::no_change(3) };
        off.set(&parameters, &offered(&Offloads::ALL));
        assert_eq!(check(&GOOD, &info(udp), &off).unwrap_err().0, ViolationKind::BadOffload);
        let on = OffloadParameters { udp_v4_checksum: ChecksumSetting::RX, ..parameters };
        off.set(&on, &offered(&Offloads::ALL));
        assert!(check(&GOOD, &info(udp), &off).is_ok(), "as DPDK says it");
    }

    #[test]
    fn a_field_that_is_nothing_is_odd_and_mended() {
        let request = info(TxChecksum::transport(IpVersion::V4, Transport::Udp, 34).unwrap());
        let mut frame = GOOD;
        frame[40] ^= 0x11;
        assert!(check(&frame, &request, &all()).unwrap().1.is_some());
        assert_eq!(check(&GOOD, &request, &all()).unwrap().1, None, "the right checksum");
        let tcp = info(TxChecksum::transport(IpVersion::V4, Transport::Tcp, 34).unwrap());
        let (work, odd) = check(&GOOD, &tcp, &all()).unwrap();
        assert!(odd.is_some() && !work.transport, "UDP is not made TCP");
    }

    #[test]
    fn no_frame_is_read_beyond_its_end() {
        for len in 0..GOOD.len() {
            for offset in [0, 14, 34, 45, 1023] {
                for version in [0x45, 0x60, 0x4F, 0x00] {
                    let mut frame = GOOD[..len].to_vec();
                    if let Some(byte) = frame.get_mut(14) {
                        *byte = version;
                    }
                    for bits in [0x1D, 0x19, 0x0A, 0x06] {
                        if let Ok((work, _)) = check(&frame, &info(TxChecksum(bits | offset << 16)), &all()) {
                            let _ = work.prepare(&mut frame);
                        }
                    }
                    for bits in [0x4000_0001, 0xC000_0005] {
                        let info = PacketInfo { lso: Some(Lso(bits | offset << 20)), ..PacketInfo::default() };
                        if let Ok((work, _)) = check(&frame, &info, &all()) {
                            let _ = work.prepare(&mut frame);
                        }
                    }
                    assert_eq!(frame.len(), len);
                }
            }
        }
    }

    /// A frame that is nearly one of TCP or UDP, over either version of IP.
    fn nearly_a_frame() -> impl Strategy<Value = Vec<u8>> {
        let wild = prop::collection::vec((0..60_usize, any::<u8>()), 0..4);
        (any::<bool>(), any::<bool>(), 0..3000_usize, 0..70_usize, wild).prop_map(|(six, tcp, payload, cut, wild)| {
            let mut frame = vec![0x5A; if six { 54 } else { 34 } + 20 + payload];
            let protocol = if tcp { 6 } else { 17 };
            let len = (frame.len() - 14) as u16;
            if six {
                frame[12..15].copy_from_slice(&[0x86, 0xDD, 0x60]);
                frame[18..20].copy_from_slice(&(len - 40).to_be_bytes());
                frame[20] = protocol;
            } else {
                frame[12..15].copy_from_slice(&[8, 0, 0x45]);
                frame[16..18].copy_from_slice(&len.to_be_bytes());
                frame[20..22].fill(0);
                frame[23] = protocol;
            }
            let transport = if six { 54 } else { 34 };
            frame[transport + 12] = 0x50;
            for (at, byte) in wild {
                // The shortest have 54 bytes.
                if let Some(slot) = frame.get_mut(at) {
                    *slot = byte;
                }
            }
            frame.truncate(frame.len() - cut.min(frame.len() - 14));
            frame
        })
    }

    proptest! {
        #[test]
        fn whatever_is_asked_for_no_byte_is_lost(
            frame in nearly_a_frame(),
            word in any::<u32>(),
            usual in any::<bool>(),
            large in any::<bool>(),
        ) {
            let mut frame = frame;
            let whole = frame.clone();
            // Half of the requests have the offset that fits most frames.
            let offset = if frame[12] == 8 { 34 } else { 54 };
            let info = match (large, usual) {
                (true, false) => PacketInfo { lso: Some(Lso(word)), ..PacketInfo::default() },
                (true, true) => {
                    let six = u32::from(frame[12] == 0x86) << 31;
                    let lso = word & 0x7FF | 1 | offset << 20 | 1 << 30 | six;
                    PacketInfo { lso: Some(Lso(lso)), ..PacketInfo::default() }
                }
                (false, false) => info(TxChecksum(word)),
                (false, true) => info(TxChecksum(word & 0x1F | offset << 16)),
            };
            let Ok((work, _)) = check(&frame, &info, &all()) else { return Ok(()) };
            let meta = work.prepare(&mut frame);
            let headers = Headers::parse_large(&whole).and_then(|headers| headers.payload(&whole));
            let mut payload = Vec::new();
            let mut frames = 0;
            plain(Frame::with_meta(&frame, meta), PortOffloads::NONE, &mut Scratch::default(), &mut |frame| {
                frames += 1;
                payload.extend_from_slice(&frame.bytes[headers.unwrap_or(0).min(frame.bytes.len())..]);
                if large {
                    let headers = Headers::parse(frame.bytes).expect("a packet");
                    assert!(sum::ip_header_is_right(frame.bytes, &headers));
                    assert!(sum::transport_is_right(frame.bytes, &headers));
                }
            });
            if work.is_segmentation() {
                prop_assert_eq!(frames, work.segments);
            }
            // Checksums lie within the headers.
            if let Some(headers) = headers.filter(|_| work.is_some()) {
                prop_assert!(payload == whole[headers..]);
            }
        }
    }
}
