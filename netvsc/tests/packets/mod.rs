//! Frames described by their fields, and built from them in the plainest way: the twin of what the crate does in place.

#![allow(dead_code, reason = "each test uses its part")]

use proptest::prelude::*;

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const URG: u8 = 0x20;
pub(crate) const ECE: u8 = 0x40;
pub(crate) const CWR: u8 = 0x80;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ip {
    V4 {
        tos: u8,
        id: u16,
        flags: u16,
        ttl: u8,
        source: [u8; 4],
        destination: [u8; 4],
        options: Vec<u8>,
    },
    /// Extensions: their kinds and bytes behind the first two, 6 of them or 8 more each.
    V6 {
        class: u8,
        label: u32,
        hop_limit: u8,
        source: [u8; 16],
        destination: [u8; 16],
        extensions: Vec<(u8, Vec<u8>)>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp { sequence: u32, acknowledgment: u32, flags: u8, window: u16, urgent: u16, options: Vec<u8> },
    Udp { with_checksum: bool },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Description {
    pub(crate) destination: [u8; 6],
    pub(crate) source: [u8; 6],
    /// Types and control information, outermost first.
    pub(crate) tags: Vec<(u16, u16)>,
    pub(crate) ip: Ip,
    pub(crate) ports: (u16, u16),
    pub(crate) transport: Transport,
    pub(crate) payload: Vec<u8>,
}

pub(crate) const DONT_FRAGMENT: u16 = 0x4000;

pub(crate) fn ipv4() -> Ip {
    Ip::V4 {
        tos: 0,
        id: 100,
        flags: DONT_FRAGMENT,
        ttl: 64,
        source: [198, 51, 100, 1],
        destination: [203, 0, 113, 2],
        options: Vec::new(),
    }
}

pub(crate) fn ipv6() -> Ip {
    let mut source = [0; 16];
    source[..4].copy_from_slice(&[0x20, 0x01, 0x0D, 0xB8]);
    let mut destination = source;
    (source[15], destination[15]) = (1, 2);
    Ip::V6 { class: 0, label: 0x12345, hop_limit: 64, source, destination, extensions: Vec::new() }
}

pub(crate) fn tcp(sequence: u32, flags: u8) -> Transport {
    Transport::Tcp { sequence, acknowledgment: 7, flags, window: 500, urgent: 0, options: Vec::new() }
}

impl Description {
    pub(crate) fn new(ip: Ip, transport: Transport, payload: Vec<u8>) -> Self {
        Self {
            destination: [2, 0, 0, 0, 0, 1],
            source: [2, 0, 0, 0, 0, 2],
            tags: Vec::new(),
            ip,
            ports: (40_000, 443),
            transport,
            payload,
        }
    }

    fn protocol(&self) -> u8 {
        match self.transport {
            Transport::Tcp { .. } => 6,
            Transport::Udp { .. } => 17,
        }
    }

    /// The frame, with right lengths and checksums, without padding.
    pub(crate) fn build(&self) -> Vec<u8> {
        let segment = self.segment();
        let mut frame = [self.destination, self.source].concat();
        for (kind, control) in &self.tags {
            frame.extend(kind.to_be_bytes());
            frame.extend(control.to_be_bytes());
        }
        match &self.ip {
            Ip::V4 { tos, id, flags, ttl, source, destination, options } => {
                frame.extend([0x08, 0x00]);
                let header_len = 20 + options.len();
                let total = u16::try_from(header_len + segment.len()).unwrap_or(0);
                let mut header = vec![0x40 | (header_len / 4) as u8, *tos];
                header.extend(total.to_be_bytes());
                header.extend(id.to_be_bytes());
                header.extend(flags.to_be_bytes());
                header.extend([*ttl, self.protocol(), 0, 0]);
                header.extend(source);
                header.extend(destination);
                header.extend(options);
                let sum = checksum(&header);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
                frame.extend(header);
            }
            Ip::V6 { class, label, hop_limit, source, destination, extensions } => {
                frame.extend([0x86, 0xDD]);
                let more: usize = extensions.iter().map(|(_, bytes)| bytes.len() + 2).sum();
                let len = u16::try_from(more + segment.len()).unwrap_or(0);
                frame.extend((0x6000_0000 | u32::from(*class) << 20 | label).to_be_bytes());
                frame.extend(len.to_be_bytes());
                frame.extend([extensions.first().map_or(self.protocol(), |(kind, _)| *kind), *hop_limit]);
                frame.extend(source);
                frame.extend(destination);
                for (at, (_, bytes)) in extensions.iter().enumerate() {
                    let next = extensions.get(at + 1).map_or(self.protocol(), |(kind, _)| *kind);
                    frame.extend([next, ((bytes.len() + 2) / 8 - 1) as u8]);
                    frame.extend(bytes);
                }
            }
        }
        frame.extend(segment);
        frame
    }

    fn segment(&self) -> Vec<u8> {
        let mut segment = Vec::new();
        segment.extend(self.ports.0.to_be_bytes());
        segment.extend(self.ports.1.to_be_bytes());
        let field = match &self.transport {
            Transport::Tcp { sequence, acknowledgment, flags, window, urgent, options } => {
                segment.extend(sequence.to_be_bytes());
                segment.extend(acknowledgment.to_be_bytes());
                segment.extend([((20 + options.len()) * 4) as u8, *flags]);
                segment.extend(window.to_be_bytes());
                segment.extend([0, 0]);
                segment.extend(urgent.to_be_bytes());
                segment.extend(options);
                16
            }
            Transport::Udp { .. } => {
                segment.extend(u16::try_from(8 + self.payload.len()).unwrap_or(0).to_be_bytes());
                segment.extend([0, 0]);
                6
            }
        };
        segment.extend(&self.payload);
        let mut covered = match &self.ip {
            Ip::V4 { source, destination, .. } => [*source, *destination].concat(),
            Ip::V6 { source, destination, .. } => [*source, *destination].concat(),
        };
        covered.extend((segment.len() as u32).to_be_bytes());
        covered.extend([0, 0, 0, self.protocol()]);
        covered.extend(&segment);
        let sum = match (&self.transport, checksum(&covered)) {
            (Transport::Udp { with_checksum: false }, _) => 0,
            (Transport::Udp { .. }, 0) => 0xFFFF,
            (_, sum) => sum,
        };
        segment[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        segment
    }

    /// What the description is cut into.
    pub(crate) fn cut(&self, size: usize, fixed_id: bool) -> Vec<Self> {
        let chunks: Vec<&[u8]> = match &self.payload[..] {
            [] => vec![&[]],
            payload => payload.chunks(size).collect(),
        };
        let last = chunks.len() - 1;
        let cut = chunks.iter().enumerate().map(|(at, chunk)| {
            let mut segment = self.clone();
            segment.payload = chunk.to_vec();
            match &mut segment.ip {
                Ip::V4 { id, .. } if !fixed_id => *id = id.wrapping_add(at as u16),
                _ => {}
            }
            match &mut segment.transport {
                Transport::Tcp { sequence, flags, .. } => {
                    *sequence = sequence.wrapping_add((at * size) as u32);
                    if at != last {
                        *flags &= !(FIN | PSH);
                    }
                    if at != 0 {
                        *flags &= !CWR;
                    }
                }
                Transport::Udp { with_checksum } => *with_checksum = true,
            }
            segment
        });
        cut.collect()
    }
}

/// RFC 1071, word by word.
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for word in bytes.chunks(2) {
        sum += u32::from(word[0]) << 8 | word.get(1).copied().map_or(0, u32::from);
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    !(sum as u16)
}

/// Options of whole words.
fn words(most: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<[u8; 4]>(), 0..=most).prop_map(|words| words.concat())
}

pub(crate) fn any_ip() -> impl Strategy<Value = Ip> {
    let v4 = (any::<(u8, u16, bool, u8)>(), any::<[u8; 4]>(), any::<[u8; 4]>(), words(10)).prop_map(
        |((tos, id, df, ttl), source, destination, options)| Ip::V4 {
            tos,
            id,
            flags: if df { DONT_FRAGMENT } else { 0 },
            ttl,
            source,
            destination,
            options,
        },
    );
    // Padding only, or a routing header without segments left.
    let extension = prop_oneof![
        Just((0u8, vec![1, 4, 0, 0, 0, 0])),
        Just((60, vec![1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])),
        Just((43, vec![4, 0, 0, 0, 0, 0])),
    ];
    let v6 = (any::<(u8, u32, u8)>(), any::<[u8; 16]>(), any::<[u8; 16]>(), prop::collection::vec(extension, 0..3))
        .prop_map(|((class, label, hop_limit), source, destination, extensions)| Ip::V6 {
            class,
            label: label & 0xF_FFFF,
            hop_limit,
            source,
            destination,
            extensions,
        });
    prop_oneof![v4, v6]
}

pub(crate) fn any_transport() -> impl Strategy<Value = Transport> {
    prop_oneof![
        (any::<(u32, u32, u8, u16, u16)>(), words(10)).prop_map(
            |((sequence, acknowledgment, flags, window, urgent), options)| Transport::Tcp {
                sequence,
                acknowledgment,
                flags,
                window,
                urgent,
                options,
            }
        ),
        any::<bool>().prop_map(|with_checksum| Transport::Udp { with_checksum }),
    ]
}

pub(crate) fn any_description(most_payload: usize) -> impl Strategy<Value = Description> {
    let tags = prop::collection::vec((prop_oneof![Just(0x8100u16), Just(0x88A8)], any::<u16>()), 0..=2);
    (
        any::<([u8; 6], [u8; 6], (u16, u16))>(),
        tags,
        any_ip(),
        any_transport(),
        (0..=most_payload, any::<u8>(), any::<u8>()),
    )
        .prop_map(|((destination, source, ports), tags, ip, transport, (len, start, step))| Description {
            destination,
            source,
            tags,
            ip,
            ports,
            transport,
            payload: payload(len, start, step),
        })
}

pub(crate) fn payload(len: usize, start: u8, step: u8) -> Vec<u8> {
    (0..len).map(|at| start.wrapping_add((at as u8).wrapping_mul(step | 1)) ^ (at >> 8) as u8).collect()
}
