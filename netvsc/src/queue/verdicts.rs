//! The host's verdicts on checksums: which are listened to, and whether they are right.
//!
//! Hosts have been wrong about them (FreeBSD has a switch for each protocol, `hw.hn.trust_hosttcp` and the like). Whoever
//! suspects that has every verdict compared with one that is computed here
//! ([`QueueSettings::check_verdicts`](super::QueueSettings::check_verdicts)).

use crate::checksum;
use crate::frame::Headers;
use crate::meta::{IpVersion, RxChecksum, RxMeta, Transport, Verdict};
use crate::offload::Checksums;
use crate::stats::QueueStats;

/// What a checksum belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Checked {
    /// The IPv4 header.
    Ipv4Header,
    /// TCP or UDP.
    Transport {
        /// Over which version of IP.
        ip: IpVersion,
        /// Which.
        transport: Transport,
    },
}

/// The host said one thing about a checksum, and computing it another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disagreement {
    /// Which checksum.
    pub checked: Checked,
    /// The host's verdict, [`Good`](Verdict::Good) or [`Bad`](Verdict::Bad); the frame was delivered with the other one.
    pub host: Verdict,
    /// Bytes of the frame.
    pub frame_len: usize,
}

/// What is done with the host's verdicts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Verdicts {
    /// Which are listened to.
    trusted: Checksums,
    /// All are compared.
    pub(super) check: bool,
    /// The last that was wrong.
    pub(super) disagreement: Option<Disagreement>,
}

impl Verdicts {
    pub(super) fn new(check: bool) -> Self {
        Self { trusted: Checksums::ALL, check, disagreement: None }
    }

    pub(super) fn trust(&mut self, trusted: Checksums) {
        self.trusted = trusted;
    }

    /// Whether there is nothing to do: all are listened to, none is compared.
    pub(super) fn is_idle(&self) -> bool {
        !self.check && self.trusted == Checksums::ALL
    }

    /// Does it, to the metadata of a frame.
    pub(super) fn apply(&mut self, frame: &[u8], meta: &mut RxMeta, stats: &mut QueueStats) {
        if meta.checksum == RxChecksum::default() {
            return;
        }
        let headers = Headers::parse(frame);
        let transport = headers.and_then(|headers| Some((headers.ip(), headers.transport_protocol()?)));
        if !self.trusted.ipv4_header {
            meta.checksum.ip = Verdict::Unknown;
        }
        // Which protocol it was about is the frame's to say: hosts have labelled UDP as TCP.
        if transport.is_none_or(|(ip, transport)| !self.trusted.has(ip, transport)) {
            meta.checksum.transport = Verdict::Unknown;
        }
        let (Some(headers), true) = (headers, self.check) else { return };
        let computed = checksum::verify_parsed(frame, &headers);
        let mut compare = |host: &mut Verdict, own: Verdict, checked| {
            if *host == Verdict::Unknown || own == Verdict::Unknown {
                return;
            }
            stats.extra.rx_checksum_checked += 1;
            if *host != own {
                let counter = match checked {
                    Checked::Ipv4Header => &mut stats.extra.rx_checksum_wrong_ip,
                    Checked::Transport { transport: Transport::Tcp, .. } => &mut stats.extra.rx_checksum_wrong_tcp,
                    Checked::Transport { transport: Transport::Udp, .. } => &mut stats.extra.rx_checksum_wrong_udp,
                };
                *counter += 1;
                self.disagreement = Some(Disagreement { checked, host: *host, frame_len: frame.len() });
                *host = own;
            }
        };
        compare(&mut meta.checksum.ip, computed.ip, Checked::Ipv4Header);
        // In a merged frame the sum is wrong on purpose.
        if let (Some((ip, transport)), false) = (transport, meta.checksum.transport_stale) {
            compare(&mut meta.checksum.transport, computed.transport, Checked::Transport { ip, transport });
        }
    }
}
