//! Receive segment coalescing: TCP segments of one flow become one large frame.
//!
//! Only what a sender cut from one stream is put together, and so that cutting it again gives the same segments: headers
//! alike but for lengths, checksums, PSH, and IPv4 identifications that count up; sequence without gaps; all of the
//! first one's size but the last, which may be shorter. Nothing waits longer than a batch.
//!
//! Source: [MS-NDIS] "Rules for coalescing TCP/IP segments", of which this does the plain cases; compare Linux
//! `net/ipv4/tcp_offload.c`.

use std::collections::VecDeque;

use rndis::ppi::IpVersion;

use super::headers::{Headers, TCP};

/// Flows that are followed at a time.
const MAX_FLOWS: usize = 16;
/// Largest IP packet.
const MAX_PACKET: usize = 0xFFFF;
const ACK: u8 = 0x10;
const PSH: u8 = 0x08;
const ECE: u8 = 0x40;

/// Segments put together.
#[derive(Debug)]
pub(crate) struct Coalesced {
    /// The frame: the first segment's headers, with lengths of the whole; checksums are the first segment's.
    pub(crate) bytes: Vec<u8>,
    pub(crate) headers: Headers,
    /// Bytes of payload of each segment but the last.
    pub(crate) size: u16,
    /// How many they are; one is a frame as it came.
    pub(crate) segments: usize,
    payload_at: usize,
    next_sequence: u32,
    last_id: u16,
}

/// Flows whose segments are being put together.
#[derive(Debug, Default)]
pub(crate) struct Coalescer {
    open: Vec<Coalesced>,
    ready: VecDeque<Coalesced>,
    spare: Vec<Vec<u8>>,
}

impl Coalescer {
    /// Offers a frame with good checksums; true if it was taken. Frames of its flow that have to go first become
    /// [ready](Self::pop_ready), whether it was taken or not.
    pub(crate) fn offer(&mut self, frame: &[u8], headers: &Headers, max_segments: usize) -> bool {
        let place = self.open.iter().position(|held| held.is_same_flow(frame, headers));
        let Some(segment) = Segment::of(frame, headers) else {
            self.close(place);
            return false;
        };
        if let Some(place) = place {
            let held = &mut self.open[place];
            if held.append(frame, headers, &segment, max_segments) {
                if segment.is_last || segment.payload < usize::from(held.size) || held.segments >= max_segments {
                    self.close(Some(place));
                }
                return true;
            }
            self.close(Some(place));
        }
        if self.open.len() >= MAX_FLOWS {
            // The oldest.
            self.close(Some(0));
        }
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.clear();
        bytes.extend_from_slice(&frame[..headers.end]);
        self.open.push(Coalesced {
            bytes,
            headers: *headers,
            size: segment.payload as u16,
            segments: 1,
            payload_at: segment.payload_at,
            next_sequence: segment.sequence.wrapping_add(segment.payload as u32),
            last_id: segment.id,
        });
        if segment.is_last {
            self.close(Some(self.open.len() - 1));
        }
        true
    }

    /// Makes all ready.
    pub(crate) fn flush(&mut self) {
        self.ready.extend(self.open.drain(..));
    }

    /// The next one to be delivered.
    pub(crate) fn pop_ready(&mut self) -> Option<Coalesced> {
        self.ready.pop_front()
    }

    /// Takes the memory of one back that was delivered.
    pub(crate) fn recycle(&mut self, coalesced: Coalesced) {
        if self.spare.len() < MAX_FLOWS {
            self.spare.push(coalesced.bytes);
        }
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        self.open.clear();
        self.ready.clear();
    }

    /// Frames that wait.
    pub(crate) fn len(&self) -> usize {
        self.open.len() + self.ready.len()
    }

    fn close(&mut self, place: Option<usize>) {
        if let Some(place) = place {
            self.ready.push_back(self.open.remove(place));
        }
    }
}

/// A segment that may be put together with others.
struct Segment {
    payload_at: usize,
    payload: usize,
    sequence: u32,
    /// IPv4 identification.
    id: u16,
    /// It says that its data should be handed on.
    is_last: bool,
}

impl Segment {
    fn of(frame: &[u8], headers: &Headers) -> Option<Self> {
        let plain = match headers.version {
            // No options, and no extension headers.
            IpVersion::V4 => headers.transport == headers.network + 20,
            IpVersion::V6 => headers.transport == headers.network + 40,
        };
        if headers.protocol != TCP || headers.fragment || headers.cut_off || !plain {
            return None;
        }
        let payload_at = headers.payload(frame)?;
        let payload = headers.end.checked_sub(payload_at).filter(|&bytes| bytes > 0)?;
        let tcp = frame.get(headers.transport..)?.first_chunk::<20>()?;
        if tcp[13] & !(PSH | ECE) != ACK {
            return None;
        }
        let packet = &frame[headers.network..];
        Some(Self {
            payload_at,
            payload,
            sequence: u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]),
            id: u16::from_be_bytes([packet[4], packet[5]]),
            is_last: tcp[13] & PSH != 0,
        })
    }
}

impl Coalesced {
    /// Addresses, ports, and tags.
    fn is_same_flow(&self, frame: &[u8], headers: &Headers) -> bool {
        headers.protocol == TCP
            && self.headers.network == headers.network
            && self.headers.version == headers.version
            && self.bytes[..self.headers.network] == frame[..headers.network]
            && self.headers.addresses(&self.bytes) == headers.addresses(frame)
            && ports(&self.bytes, &self.headers) == ports(frame, headers)
            && !headers.fragment
    }

    fn append(&mut self, frame: &[u8], headers: &Headers, segment: &Segment, max_segments: usize) -> bool {
        let (held, new) =
            (&self.bytes[self.headers.network..self.payload_at], &frame[headers.network..segment.payload_at]);
        let fits = segment.sequence == self.next_sequence
            && segment.payload <= usize::from(self.size)
            && self.segments < max_segments
            && self.bytes.len() - self.headers.network + segment.payload <= MAX_PACKET;
        if !fits || !is_alike(held, new, headers) || !self.id_goes_on(segment, headers, new) {
            return false;
        }
        self.bytes.extend_from_slice(&frame[segment.payload_at..headers.end]);
        self.segments += 1;
        self.next_sequence = segment.sequence.wrapping_add(segment.payload as u32);
        self.last_id = segment.id;
        let network = self.headers.network;
        let end = self.bytes.len();
        // At most 65535, as checked.
        let len = match headers.version {
            IpVersion::V4 => (network + 2, (end - network) as u16),
            IpVersion::V6 => (network + 4, (end - network - 40) as u16),
        };
        self.bytes[len.0..len.0 + 2].copy_from_slice(&len.1.to_be_bytes());
        if segment.is_last {
            self.bytes[self.headers.transport + 13] |= PSH;
        }
        self.headers.end = end;
        true
    }

    /// Identifications count up, or mean nothing: the packet may not be fragmented, and they are all the same.
    fn id_goes_on(&self, segment: &Segment, headers: &Headers, packet: &[u8]) -> bool {
        headers.version == IpVersion::V6
            || segment.id == self.last_id.wrapping_add(1)
            || (segment.id == self.last_id && packet[6] & 0x40 != 0)
    }
}

/// Source and destination port.
fn ports<'a>(frame: &'a [u8], headers: &Headers) -> Option<&'a [u8]> {
    frame.get(headers.transport..headers.transport + 4)
}

/// Whether IP and TCP header are alike in all that must be: not lengths, identification, checksums, sequence and PSH.
fn is_alike(held: &[u8], new: &[u8], headers: &Headers) -> bool {
    let ip = headers.transport - headers.network;
    if held.len() != new.len() {
        return false;
    }
    let network = match headers.version {
        IpVersion::V4 => held[..2] == new[..2] && held[6..10] == new[6..10] && held[12..20] == new[12..20],
        IpVersion::V6 => held[..4] == new[..4] && held[6..40] == new[6..40],
    };
    let (held, new) = (&held[ip..], &new[ip..]);
    network
        && held[..4] == new[..4]
        && held[8..13] == new[8..13]
        && held[13] | PSH == new[13] | PSH
        // Window; urgent pointer and options.
        && held[14..16] == new[14..16]
        && held[18..] == new[18..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offload::{Scratch, segment};

    /// A large frame of TCP over IPv4, and its segments.
    fn stream(payload: usize, size: usize, flags: u8) -> (Vec<u8>, Vec<Vec<u8>>) {
        let mut frame = vec![0; 54 + payload];
        frame[..14].copy_from_slice(b"\x02ddddd\x02sssss\x08\x00");
        frame[14] = 0x45;
        frame[20] = 0x40;
        frame[22] = 64;
        frame[23] = TCP;
        frame[26..34].copy_from_slice(&[203, 0, 113, 1, 203, 0, 113, 2]);
        frame[34..38].copy_from_slice(&[1, 2, 3, 4]);
        frame[38..42].copy_from_slice(&0xFFFF_F000_u32.to_be_bytes());
        frame[46..48].copy_from_slice(&[0x50, flags]);
        for (at, byte) in frame[54..].iter_mut().enumerate() {
            *byte = (at * 7 % 251) as u8;
        }
        let headers = Headers::parse_large(&frame).unwrap();
        let mut segments = Vec::new();
        segment::segments(&frame, &headers, size, &mut Scratch::default(), &mut |frame| {
            segments.push(frame.bytes.to_vec())
        });
        (frame, segments)
    }

    fn offer(coalescer: &mut Coalescer, frame: &[u8]) -> bool {
        coalescer.offer(frame, &Headers::parse(frame).unwrap(), 562)
    }

    #[test]
    fn what_was_cut_is_put_together_and_cut_again() {
        let (_, segments) = stream(10_000, 1448, ACK | PSH);
        let mut coalescer = Coalescer::default();
        assert!(segments.iter().all(|segment| offer(&mut coalescer, segment)));
        let whole = coalescer.pop_ready().expect("PSH ends it");
        assert_eq!((whole.segments, whole.size, whole.bytes.len()), (7, 1448, 10_054));
        let mut again = Vec::new();
        segment::segments(&whole.bytes, &whole.headers, whole.size.into(), &mut Scratch::default(), &mut |frame| {
            again.push(frame.bytes.to_vec());
        });
        assert_eq!(again, segments);
        assert_eq!(coalescer.len(), 0);
    }

    #[test]
    fn what_does_not_belong_together_stays_apart() {
        let (_, segments) = stream(4344, 1448, ACK);
        let change = |at: usize, to: u8| {
            let mut second = segments[1].clone();
            second[at] = to;
            second
        };
        let mut others = vec![
            ("a gap", segments[2].clone()),
            ("congestion experienced", change(15, 3)),
            ("hop limit", change(22, 63)),
            ("identification", change(19, 9)),
            ("acknowledgment", change(45, 9)),
            ("window", change(49, 9)),
            ("SYN", change(47, ACK | 2)),
            ("FIN", change(47, ACK | 1)),
            ("CWR", change(47, ACK | 0x80)),
            ("ECE", change(47, ACK | ECE)),
            ("fragment", change(20, 0x60)),
            ("port", change(35, 9)),
        ];
        let mut tagged = segments[1].clone();
        tagged.splice(12..12, [0x81, 0, 0, 5]);
        others.push(("a tag", tagged));
        let mut bare = segments[1][..54].to_vec();
        bare[17] = 40;
        bare[16] = 0;
        others.push(("no data", bare));
        for (what, second) in others {
            let mut coalescer = Coalescer::default();
            assert!(offer(&mut coalescer, &segments[0]));
            let taken = offer(&mut coalescer, &second);
            coalescer.flush();
            let frames: Vec<_> = std::iter::from_fn(|| coalescer.pop_ready()).collect();
            assert_eq!(frames.len(), 1 + usize::from(taken), "{what}");
            assert!(frames.iter().all(|frame| frame.segments == 1), "{what}");
            assert_eq!(frames[0].bytes, segments[0], "{what}: order");
        }
    }

    #[test]
    fn a_short_segment_and_the_limit_end_a_frame() {
        let (_, segments) = stream(1448 * 5 + 1, 1448, ACK);
        let mut coalescer = Coalescer::default();
        for segment in &segments {
            assert!(coalescer.offer(segment, &Headers::parse(segment).unwrap(), 3));
        }
        let made: Vec<_> = std::iter::from_fn(|| coalescer.pop_ready()).map(|frame| frame.segments).collect();
        assert_eq!(made, [3, 3]);
    }
}
