//! Checksums of IPv4, TCP and UDP in software: where the host computes none, and to look over the shoulder of one that does.
//!
//! [`Sum`] is the ones' complement sum, [`fill`] computes what a [`TxChecksum`] asks for, [`verify`] finds the verdicts that a
//! host would give, [`replace`] follows a change of some bytes. Fragments are never touched: their checksum covers bytes that
//! are elsewhere. Nor are IPv6 packets on the way of a routing header.
//!
//! Sources: RFC 1071, RFC 1624; RFC 768 and RFC 8200 section 8.1 for the zero of UDP.

mod sum;

use core::fmt;

pub use sum::Sum;

use crate::frame::fields::{ipv4, tcp, udp};
use crate::frame::{Headers, put_word};
use crate::meta::{IpVersion, RxChecksum, Transport, TxChecksum, Verdict};

/// Why a checksum cannot be computed. The frame is as it was, but for an IPv4 header checksum that could be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Uncomputable {
    /// The frame is no IP, or not of the version that was asked for.
    Ip {
        /// What was asked for.
        asked: IpVersion,
    },
    /// The frame is not of the protocol that was asked for, or its ports are not there.
    Transport {
        /// What was asked for.
        asked: Transport,
        /// What the IP header says.
        protocol: u8,
    },
    /// It is a fragment.
    Fragment,
    /// Lengths in the headers are zero or do not fit the frame.
    Length,
    /// The checksum covers addresses that do not stand in the IP header: a routing header, or a home address.
    Addresses,
}

impl fmt::Display for Uncomputable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip { asked } => write!(f, "checksum of IP {asked:?} asked for, the frame is none"),
            Self::Transport { asked, protocol } => {
                write!(f, "checksum of {asked:?} asked for, the frame is of protocol {protocol}")
            }
            Self::Fragment => f.write_str("checksum of a fragment asked for"),
            Self::Length => f.write_str("lengths in the headers do not fit the frame"),
            Self::Addresses => f.write_str("the checksum covers addresses that are not in the IP header"),
        }
    }
}

impl core::error::Error for Uncomputable {}

/// The request for all checksums of a frame that can be computed; `None` if there are none.
#[inline]
#[must_use]
pub fn request(frame: &[u8], headers: &Headers) -> Option<TxChecksum> {
    let transport = segment(frame, headers).ok().and(headers.transport_protocol());
    let ip_header = headers.ip() == IpVersion::V4;
    (transport.is_some() || ip_header).then(|| TxChecksum {
        ip: headers.ip(),
        ip_header,
        transport,
        transport_offset: headers.transport() as u16,
    })
}

/// Computes the checksums that `request` asks for and writes them into the frame.
///
/// What stands in the fields does not matter: neither a pseudo header's sum needs to be there, nor zero.
///
/// # Errors
/// [`Uncomputable`].
#[inline]
pub fn fill(frame: &mut [u8], request: TxChecksum) -> Result<(), Uncomputable> {
    let headers = Headers::parse(frame).ok_or(Uncomputable::Ip { asked: request.ip })?;
    fill_parsed(frame, &headers, request)
}

/// As [`fill`], for whoever has the frame's headers already.
///
/// # Errors
/// [`Uncomputable`].
#[inline]
pub fn fill_parsed(frame: &mut [u8], headers: &Headers, request: TxChecksum) -> Result<(), Uncomputable> {
    if headers.ip() != request.ip {
        return Err(Uncomputable::Ip { asked: request.ip });
    }
    if request.ip_header && !fill_ipv4(frame, headers) {
        return Err(Uncomputable::Ip { asked: IpVersion::V4 });
    }
    let Some(asked) = request.transport else { return Ok(()) };
    if headers.is_fragment() {
        return Err(Uncomputable::Fragment);
    }
    if headers.transport_protocol() != Some(asked) {
        return Err(Uncomputable::Transport { asked, protocol: headers.protocol().0 });
    }
    let segment = segment(frame, headers)?;
    put_word(frame, segment.field, 0);
    let sum = pseudo_header(frame, headers, segment.len) + segment.sum(frame);
    put_word(frame, segment.field, transport_checksum(asked, sum));
    Ok(())
}

/// Computes the IPv4 header checksum; whether there is an IPv4 header.
#[inline]
pub fn fill_ipv4(frame: &mut [u8], headers: &Headers) -> bool {
    let header = match headers.ip() {
        IpVersion::V4 => frame.get_mut(headers.network()..headers.transport()),
        IpVersion::V6 => None,
    };
    let Some(header) = header else { return false };
    put_word(header, ipv4::CHECKSUM, 0);
    put_word(header, ipv4::CHECKSUM, Sum::of(header).checksum());
    true
}

/// Computes the IPv4 header checksum of a frame anew, whose sum the host left stale; whether there was one.
///
/// Source: Linux `drivers/net/hyperv/netvsc_drv.c` (`netvsc_comp_ipcsum`).
#[cold]
pub(crate) fn mend_ipv4(frame: &mut [u8]) -> bool {
    Headers::parse(frame).is_some_and(|headers| fill_ipv4(frame, &headers))
}

/// Writes the pseudo header's sum, not complemented, where the transport checksum belongs, as the host wants it that is to
/// compute the rest. With `len` zero for a frame that it shall segment.
///
/// # Errors
/// [`Uncomputable`].
pub fn seed(frame: &mut [u8], headers: &Headers, len: Option<usize>) -> Result<(), Uncomputable> {
    let Some(asked) = headers.transport_protocol() else {
        return Err(Uncomputable::Transport { asked: Transport::Tcp, protocol: headers.protocol().0 });
    };
    if !headers.has_own_addresses() {
        return Err(Uncomputable::Addresses);
    }
    let field = headers.transport() + checksum_offset(asked);
    if headers.is_cut() || field + 2 > headers.end() {
        return Err(Uncomputable::Length);
    }
    let len = match len {
        Some(len) => len,
        None => segment(frame, headers)?.len,
    };
    put_word(frame, field, pseudo_header(frame, headers, len).value());
    Ok(())
}

/// Verifies what can be verified. A UDP checksum of zero, which means that there is none, is [`Verdict::Unknown`]; so is the
/// transport's if the IPv4 header is wrong.
#[inline]
#[must_use]
pub fn verify(frame: &[u8]) -> RxChecksum {
    Headers::parse(frame).map_or_else(RxChecksum::default, |headers| verify_parsed(frame, &headers))
}

/// As [`verify`], for whoever has the frame's headers already.
#[inline]
#[must_use]
pub fn verify_parsed(frame: &[u8], headers: &Headers) -> RxChecksum {
    let ip = verify_ipv4(frame, headers);
    let transport = if ip == Verdict::Bad { Verdict::Unknown } else { verify_transport(frame, headers) };
    RxChecksum { ip, transport, ..RxChecksum::default() }
}

/// Verifies the IPv4 header checksum.
#[inline(always)]
#[must_use]
pub fn verify_ipv4(frame: &[u8], headers: &Headers) -> Verdict {
    match (headers.ip(), frame.get(headers.network()..headers.transport())) {
        (IpVersion::V4, Some(header)) => verdict(Sum::of(header)),
        _ => Verdict::Unknown,
    }
}

/// Verifies the checksum of TCP or UDP alone.
#[inline]
#[must_use]
pub fn verify_transport(frame: &[u8], headers: &Headers) -> Verdict {
    let Ok(segment) = segment(frame, headers) else { return Verdict::Unknown };
    let has_none = headers.transport_protocol() == Some(Transport::Udp)
        && frame.get(segment.field..segment.field + 2).is_none_or(|field| field == [0, 0]);
    if has_none {
        return Verdict::Unknown;
    }
    verdict(pseudo_header(frame, headers, segment.len) + segment.sum(frame))
}

/// The checksum after a part of what it covers was replaced (RFC 1624): `old` and `new` are the part's sums, the part
/// starting at an even offset.
#[inline]
#[must_use]
pub fn replace(checksum: u16, old: Sum, new: Sum) -> u16 {
    (Sum::of_word(!checksum).without(old) + new).checksum()
}

/// The sum of the pseudo header of a segment of `len` bytes.
#[inline]
#[must_use]
pub fn pseudo_header(frame: &[u8], headers: &Headers, len: usize) -> Sum {
    // The length of IPv6's has 32 bits, of which no more than 17 are ever used; the protocol's other bytes are zero.
    Sum::of(headers.addresses(frame)) + Sum::of_double_word(len as u32) + Sum::of_word(u16::from(headers.protocol().0))
}

/// What goes into the checksum field for `sum`. UDP has no zero, as that means none.
#[inline]
pub(crate) const fn transport_checksum(transport: Transport, sum: Sum) -> u16 {
    match (transport, sum.checksum()) {
        (Transport::Udp, 0) => 0xFFFF,
        (_, checksum) => checksum,
    }
}

/// Offset of the checksum in the transport header.
#[inline]
pub(crate) const fn checksum_offset(transport: Transport) -> usize {
    match transport {
        Transport::Tcp => tcp::CHECKSUM,
        Transport::Udp => udp::CHECKSUM,
    }
}

/// What a transport checksum covers.
#[derive(Debug, Clone, Copy)]
struct Segment {
    start: usize,
    len: usize,
    /// Offset of the checksum.
    field: usize,
}

impl Segment {
    #[inline]
    fn sum(&self, frame: &[u8]) -> Sum {
        Sum::of(frame.get(self.start..self.start + self.len).unwrap_or_default())
    }
}

/// Finds it, if it can be summed.
#[inline]
fn segment(frame: &[u8], headers: &Headers) -> Result<Segment, Uncomputable> {
    if !headers.has_own_addresses() {
        return Err(Uncomputable::Addresses);
    }
    let start = headers.transport();
    let (Some(transport), true, Some(room)) =
        (headers.transport_protocol(), headers.has_length(), headers.end().checked_sub(start))
    else {
        return Err(Uncomputable::Length);
    };
    let len = match transport {
        Transport::Tcp if room >= tcp::LEN => room,
        Transport::Udp => match crate::frame::word(frame, start + udp::LENGTH).map(usize::from) {
            // It may be less than what the IP packet has: what follows is not covered.
            Some(len) if len >= udp::LEN && len <= room => len,
            _ => return Err(Uncomputable::Length),
        },
        Transport::Tcp => return Err(Uncomputable::Length),
    };
    if headers.end() > frame.len() {
        return Err(Uncomputable::Length);
    }
    Ok(Segment { start, len, field: start + checksum_offset(transport) })
}

#[inline]
const fn verdict(sum: Sum) -> Verdict {
    if sum.is_right() { Verdict::Good } else { Verdict::Bad }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_sum_is_computed_anew() {
        let mut frame = [0; 14 + 20];
        frame[12..14].copy_from_slice(&[0x08, 0x00]);
        frame[14..].copy_from_slice(&[
            0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xDE, 0xAD, 0xC0, 0xA8, 0x00, 0x01, 0xC0, 0xA8,
            0x00, 0xC7,
        ]);
        assert!(mend_ipv4(&mut frame));
        assert_eq!(frame[24..26], [0xB8, 0x61]);
    }

    #[test]
    fn what_is_not_ipv4_is_left_alone() {
        for len in 0..34 {
            let mut frame = [0x45; 34];
            frame[12..14].copy_from_slice(&[0x08, 0x00]);
            let before = frame;
            assert!(!mend_ipv4(&mut frame[..len]), "{len}");
            assert_eq!(frame, before);
        }
        let mut frame = [0x45; 60];
        assert!(!mend_ipv4(&mut frame), "another EtherType");
        frame[12..14].copy_from_slice(&[0x08, 0x00]);
        frame[14] = 0x44;
        assert!(!mend_ipv4(&mut frame), "a header of 16 bytes");
    }
}
