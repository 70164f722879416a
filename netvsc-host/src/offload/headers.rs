//! Where the headers of a frame are.

use rndis::ppi::IpVersion;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
/// Ethernet header: two addresses and the type.
pub(crate) const ETHERNET: usize = 14;
/// Bytes of an 802.1Q tag.
pub(crate) const TAG: usize = 4;
/// Where the type, or the first tag, stands.
pub(crate) const TYPE_AT: usize = 12;

const IPV4_MIN: usize = 20;
const IPV6: usize = 40;
const TCP_MIN: usize = 20;
const UDP_HEADER: usize = 8;
/// More tags than this are not looked behind.
const MAX_TAGS: usize = 2;
/// More extension headers than this are not looked behind.
const MAX_EXTENSIONS: usize = 8;

/// Headers of an IP packet in an Ethernet frame; all places count from the frame's first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Headers {
    /// Where the IP header is: behind Ethernet header and tags.
    pub(crate) network: usize,
    pub(crate) version: IpVersion,
    /// Where the transport header is, or would be.
    pub(crate) transport: usize,
    /// The transport; that of the whole datagram, for a fragment.
    pub(crate) protocol: u8,
    /// The packet is a part of a datagram, or its transport header is not in sight.
    pub(crate) fragment: bool,
    /// Where the packet ends: what follows is padding.
    pub(crate) end: usize,
    /// The packet says that it is longer than the frame.
    pub(crate) cut_off: bool,
}

impl Headers {
    /// Finds the headers of a frame; `None` if it holds no IP packet, or not its header.
    pub(crate) fn parse(frame: &[u8]) -> Option<Self> {
        let (network, kind) = behind_tags(frame)?;
        let packet = frame.get(network..)?;
        match kind {
            0x0800 => Self::parse_v4(frame, network, packet),
            0x86DD => Self::parse_v6(frame, network, packet),
            _ => None,
        }
    }

    /// As [`parse`](Self::parse), for a frame to be cut, whose IP length may not be right yet: it ends with the frame.
    /// `None` too unless TCP's or UDP's whole header is there.
    pub(crate) fn parse_large(frame: &[u8]) -> Option<Self> {
        let headers = Self { end: frame.len(), cut_off: false, ..Self::parse(frame)? };
        (!headers.fragment && headers.payload(frame)? <= frame.len()).then_some(headers)
    }

    fn parse_v4(frame: &[u8], network: usize, packet: &[u8]) -> Option<Self> {
        let fixed = packet.first_chunk::<IPV4_MIN>()?;
        let header = usize::from(fixed[0] & 0xF) * 4;
        if fixed[0] >> 4 != 4 || header < IPV4_MIN || header > packet.len() {
            return None;
        }
        let stated = network + usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
        let transport = network + header;
        Some(Self {
            network,
            version: IpVersion::V4,
            transport,
            protocol: fixed[9],
            // More fragments, or not the first.
            fragment: u16::from_be_bytes([fixed[6], fixed[7]]) & 0x3FFF != 0,
            end: stated.clamp(transport, frame.len()),
            cut_off: stated > frame.len() || stated < transport,
        })
    }

    fn parse_v6(frame: &[u8], network: usize, packet: &[u8]) -> Option<Self> {
        let fixed = packet.first_chunk::<IPV6>()?;
        if fixed[0] >> 4 != 6 {
            return None;
        }
        let stated = network + IPV6 + usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
        let mut headers = Self {
            network,
            version: IpVersion::V6,
            transport: network + IPV6,
            protocol: fixed[6],
            fragment: false,
            end: stated.min(frame.len()),
            cut_off: stated > frame.len(),
        };
        headers.follow_extensions(frame);
        Some(headers)
    }

    /// RFC 8200, section 4. What cannot be followed hides the transport.
    fn follow_extensions(&mut self, frame: &[u8]) {
        const HOP_BY_HOP: u8 = 0;
        const ROUTING: u8 = 43;
        const FRAGMENT: u8 = 44;
        const DESTINATION: u8 = 60;
        for _ in 0..MAX_EXTENSIONS {
            if !matches!(self.protocol, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION) {
                return;
            }
            let Some(&[next, len, a, b]) = frame.get(self.transport..).and_then(|rest| rest.first_chunk::<4>()) else {
                break;
            };
            let bytes = match self.protocol {
                // The flags and the offset are both zero in a packet that is whole.
                FRAGMENT if u16::from_be_bytes([a, b]) & 0xFFF9 == 0 => 8,
                FRAGMENT => {
                    self.protocol = next;
                    break;
                }
                // Segments left: the destination in the pseudo header is another one.
                ROUTING if b != 0 => break,
                _ => (usize::from(len) + 1) * 8,
            };
            self.protocol = next;
            self.transport += bytes;
            if self.transport > frame.len() {
                break;
            }
        }
        self.fragment = true;
    }

    /// Where the transport's payload begins; `None` if its header is not whole, or it is neither TCP nor UDP.
    pub(crate) fn payload(&self, frame: &[u8]) -> Option<usize> {
        let header = match self.protocol {
            TCP => {
                let header = usize::from(frame.get(self.transport + 12)? >> 4) * 4;
                (header >= TCP_MIN).then_some(header)?
            }
            UDP => UDP_HEADER,
            _ => return None,
        };
        let payload = self.transport + header;
        (payload <= frame.len()).then_some(payload)
    }

    /// Where TCP's or UDP's checksum is, counted from the transport header.
    pub(crate) fn checksum_offset(&self) -> Option<usize> {
        match self.protocol {
            TCP => Some(16),
            UDP => Some(6),
            _ => None,
        }
    }

    /// The addresses, as they enter the pseudo header.
    pub(crate) fn addresses<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        let range = match self.version {
            IpVersion::V4 => self.network + 12..self.network + 20,
            IpVersion::V6 => self.network + 8..self.network + 40,
        };
        // Inside: the IP header was seen whole.
        frame.get(range).unwrap_or(&[])
    }
}

/// Where the network header is, and of which type.
fn behind_tags(frame: &[u8]) -> Option<(usize, u16)> {
    let mut at = TYPE_AT;
    for _ in 0..=MAX_TAGS {
        let kind = u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]);
        if !is_tag(kind) {
            return Some((at + 2, kind));
        }
        at += TAG;
    }
    None
}

/// Whether an Ethernet type announces a tag: 802.1Q, or 802.1ad.
fn is_tag(kind: u16) -> bool {
    matches!(kind, 0x8100 | 0x88A8)
}

/// How many bytes of tags a frame has, up to two tags.
pub(crate) fn tag_bytes(frame: &[u8]) -> usize {
    let mut bytes = 0;
    while bytes < MAX_TAGS * TAG
        && let Some(&[high, low]) = frame.get(TYPE_AT + bytes..).and_then(|rest| rest.first_chunk::<2>())
        && is_tag(u16::from_be_bytes([high, low]))
    {
        bytes += TAG;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(protocol: u8, fragment: u16) -> Vec<u8> {
        let mut frame = vec![0; 60];
        frame[12..16].copy_from_slice(&[8, 0, 0x45, 0]);
        frame[16..18].copy_from_slice(&40_u16.to_be_bytes());
        frame[20..22].copy_from_slice(&fragment.to_be_bytes());
        frame[23] = protocol;
        frame[46] = 0x50;
        frame
    }

    #[test]
    fn padding_is_not_of_the_packet() {
        let headers = Headers::parse(&v4(TCP, 0x4000)).unwrap();
        assert_eq!((headers.network, headers.transport, headers.end), (14, 34, 54));
        assert!(!headers.fragment && !headers.cut_off);
        assert_eq!(headers.payload(&v4(TCP, 0)), Some(54));
    }

    #[test]
    fn fragments_have_no_transport() {
        assert!(Headers::parse(&v4(UDP, 0x2000)).unwrap().fragment);
        assert!(Headers::parse(&v4(UDP, 0x0001)).unwrap().fragment);
    }

    #[test]
    fn tags_are_looked_behind() {
        let mut frame = v4(TCP, 0);
        frame.splice(12..12, [0x88, 0xA8, 0, 5, 0x81, 0, 0, 7]);
        assert_eq!(Headers::parse(&frame).unwrap().transport, 42);
        assert_eq!(tag_bytes(&frame), 8);
        frame.splice(12..12, [0x81, 0, 0, 1]);
        assert_eq!(Headers::parse(&frame), None);
    }

    #[test]
    fn extension_headers_are_followed_as_far_as_they_can_be() {
        let mut frame = vec![0; 14 + 40 + 8 + 8 + 20];
        frame[12..15].copy_from_slice(&[0x86, 0xDD, 0x60]);
        frame[18..20].copy_from_slice(&36_u16.to_be_bytes());
        frame[20] = 0;
        frame[54] = 44;
        frame[62] = TCP;
        let headers = Headers::parse(&frame).unwrap();
        assert_eq!((headers.transport, headers.protocol, headers.fragment), (70, TCP, false), "an atomic fragment");
        frame[65] = 1;
        assert!(Headers::parse(&frame).unwrap().fragment);
        frame[54] = 43;
        frame[65] = 0;
        frame[62] = 0;
        frame[54] = 0;
        for at in (54..90).step_by(8) {
            frame[at] = 0;
        }
        assert!(Headers::parse(&frame).unwrap().fragment, "they lead out of the frame");
    }

    #[test]
    fn no_frame_is_read_beyond_its_end() {
        let mut frame = v4(TCP, 0);
        for first in [0x45, 0x4F, 0x60, 0x00] {
            frame[14] = first;
            for len in 0..frame.len() {
                if let Some(headers) = Headers::parse(&frame[..len]) {
                    assert!(headers.end <= len);
                    let _ = headers.payload(&frame[..len]);
                }
                let _ = Headers::parse_large(&frame[..len]);
            }
        }
    }
}
