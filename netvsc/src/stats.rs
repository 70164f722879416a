//! Counters, under the names that `ethtool -S` shows for Linux' hv_netvsc.
//!
//! Each queue counts for itself, without sharing; [`NicStats`] is the sum. The names that Linux has come first, in its order, so
//! that scripts made for it work; our own follow apart ([`NicStats::extra`]). Linux' counters per CPU are left out: what
//! CPU a queue runs on is not known here.
//!
//! Source: Linux `drivers/net/hyperv/netvsc_drv.c` (`netvsc_stats`, `vf_stats`, `netvsc_get_strings`).

use core::fmt;

/// Defines a set of counters with their names.
macro_rules! counters {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$field_meta:meta])* $field:ident,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        #[non_exhaustive]
        pub struct $name {
            $($(#[$field_meta])* pub $field: u64,)*
        }

        impl $name {
            /// Names and values, in order.
            pub fn iter(&self) -> impl ExactSizeIterator<Item = (&'static str, u64)> + use<> {
                [$((stringify!($field), self.$field),)*].into_iter()
            }
        }

        impl core::ops::AddAssign for $name {
            fn add_assign(&mut self, other: Self) {
                $(self.$field = self.$field.wrapping_add(other.$field);)*
            }
        }
    };
}

counters! {
    /// Linux' counters of the whole device.
    pub struct GlobalStats {
        /// Frames that had to be made contiguous before they were sent. Always 0: frames are contiguous here.
        tx_scattered,
        /// Frames that could not be sent for want of memory. Always 0: memory is reserved beforehand.
        tx_no_memory,
        /// Frames refused because the ring was full although nothing was outstanding.
        tx_no_space,
        /// Frames refused because they were too long.
        tx_too_big,
        /// Frames refused because the ring was full.
        tx_busy,
        /// Times that no send section was free.
        tx_send_full,
        /// Times that an acknowledgment had to wait because the ring was full.
        rx_comp_busy,
        /// Frames dropped because they were longer than the sink can take.
        rx_no_memory,
        /// Times that sending had to wait for room.
        stop_queue,
        /// Times that sending went on.
        wake_queue,
        /// In-band 802.1Q tags that could not be moved out of the frame.
        vlan_error,
    }
}

counters! {
    /// What went through the SR-IOV virtual function, as the synthetic device counts it.
    pub struct VfStats {
        /// Frames received.
        vf_rx_packets,
        /// Their bytes.
        vf_rx_bytes,
        /// Frames sent.
        vf_tx_packets,
        /// Their bytes.
        vf_tx_bytes,
        /// Frames not sent.
        vf_tx_dropped,
        /// Frames received and not passed on, as they were too long or made no sense, or known to be lost in a function that vanished.
        /// Linux does not count them.
        vf_rx_dropped,
        /// Frames received by a queue of the function that is not the one of the adapter's queue that they are for: copied once
        /// more. Linux has nothing like it.
        vf_rx_steered,
        /// Frames that the function's queues had no room for, as those before them were not received in time. Linux counts them
        /// with the function (`rx_missed_errors`, and what its driver has).
        vf_rx_missed,
    }
}

/// Of [`VfStats`], those that Linux has.
const VF_STATS_OF_LINUX: usize = 5;

counters! {
    /// Frames of one queue, sent.
    pub struct TxStats {
        /// Frames whose sending the host completed.
        packets,
        /// Their bytes.
        bytes,
        /// Frames sent by XDP.
        xdp_xmit,
    }
}

counters! {
    /// Frames of one queue, received.
    pub struct RxStats {
        /// Frames.
        packets,
        /// Their bytes.
        bytes,
        /// Frames dropped by XDP.
        xdp_drop,
        /// Frames redirected by XDP.
        xdp_redirect,
        /// Frames sent back by XDP.
        xdp_tx,
    }
}

counters! {
    /// Our own counters.
    pub struct ExtraStats {
        /// Frames received that went to several: multicast and broadcast.
        rx_multicast,
        /// Frames that the host delivered and that were not passed on.
        rx_dropped,
        /// Frames that were accepted, and that the host failed or that were outstanding when the channel went.
        tx_dropped,
        /// Batches of several frames in one send section.
        tx_aggregates,
        /// Frames sent from pages rather than from a send section.
        tx_direct,
        /// Frames whose TCP or UDP checksum was left to the host.
        tx_checksum_host,
        /// Frames whose TCP or UDP checksum was computed here.
        tx_checksum_software,
        /// Frames, or pieces of frames that are longer than it takes, that were left to the host to be cut into segments; each
        /// is one packet.
        tx_lso,
        /// Frames that were cut here: into segments, or into pieces for the host.
        tx_cut,
        /// Segments that were cut here; each is a packet.
        tx_cut_segments,
        /// Sends that the host completed with a failure.
        tx_failed,
        /// Completions of ids that were not outstanding (stale, foreign, or for a second time).
        stale_completions,
        /// Packets of the host that made no sense; not acknowledged.
        bad_packets,
        /// Ranges that lay outside of the receive buffer, or were too long or too short.
        bad_ranges,
        /// RNDIS messages that made no sense.
        bad_messages,
        /// Coalesced frames that were not whole.
        bad_coalesced,
        /// Coalesced frames delivered.
        rx_coalesced,
        /// Frames whose rest was [held](crate::queue::held) rather than copied.
        rx_held,
        /// Frames that were copied whole since as many receive sections were held as may be.
        rx_copied_watermark,
        /// Frames that were merged after they had been received ([`gro`](crate::gro)). Counted by who merges, not by the queue.
        gro_merged,
        /// Frames that those became.
        gro_aggregates,
        /// Verdicts of the host on checksums that were compared with computed ones.
        rx_checksum_checked,
        /// Of these, wrong ones on IPv4 headers.
        rx_checksum_wrong_ip,
        /// Wrong ones on TCP.
        rx_checksum_wrong_tcp,
        /// Wrong ones on UDP.
        rx_checksum_wrong_udp,
        /// Receive packets acknowledged.
        acks,
        /// Acknowledgments that had to wait for room in the ring.
        acks_delayed,
        /// Control messages of the host that were dropped because too many waited, or came on a subchannel.
        control_dropped,
        /// Doorbells rung.
        doorbells,
        /// Times that the queue asked for an interrupt before it slept.
        arms,
    }
}

/// Counters of one queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct QueueStats {
    /// What Linux counts for the device.
    pub global: GlobalStats,
    /// Frames sent.
    pub tx: TxStats,
    /// Frames received.
    pub rx: RxStats,
    /// Our own.
    pub extra: ExtraStats,
}

/// Counters of a NIC.
#[derive(Debug, Clone, Copy)]
pub struct NicStats<'a> {
    queues: &'a [QueueStats],
    vf: VfStats,
}

impl<'a> NicStats<'a> {
    /// The counters of a NIC with these queues, in the order of their numbers.
    pub fn new(queues: &'a [QueueStats], vf: VfStats) -> Self {
        Self { queues, vf }
    }

    /// What `ethtool -S` shows: names and values, in Linux' order.
    pub fn iter(&self) -> impl Iterator<Item = (StatName, u64)> + use<'a> {
        let global = self.sum(|queue| queue.global);
        let queues = self.queues.iter().enumerate().flat_map(|(number, queue)| {
            let tx = queue.tx.iter().map(move |(name, value)| (StatName::TxQueue { number, name }, value));
            let rx = queue.rx.iter().map(move |(name, value)| (StatName::RxQueue { number, name }, value));
            tx.chain(rx)
        });
        global
            .iter()
            .chain(self.vf.iter().take(VF_STATS_OF_LINUX))
            .map(|(name, value)| (StatName::Device(name), value))
            .chain(queues)
    }

    /// Our own counters, summed.
    pub fn extra(&self) -> ExtraStats {
        self.sum(|queue| queue.extra)
    }

    /// What `ip -s link` shows: synthetic and virtual function together.
    pub fn totals(&self) -> Totals {
        let (tx, rx, extra) = (self.sum(|q| q.tx), self.sum(|q| q.rx), self.extra());
        Totals {
            rx_packets: rx.packets.wrapping_add(self.vf.vf_rx_packets),
            rx_bytes: rx.bytes.wrapping_add(self.vf.vf_rx_bytes),
            rx_dropped: extra.rx_dropped.wrapping_add(self.vf.vf_rx_dropped),
            rx_missed: self.vf.vf_rx_missed,
            multicast: extra.rx_multicast,
            tx_packets: tx.packets.wrapping_add(self.vf.vf_tx_packets),
            tx_bytes: tx.bytes.wrapping_add(self.vf.vf_tx_bytes),
            tx_dropped: extra.tx_dropped.wrapping_add(self.vf.vf_tx_dropped),
        }
    }

    fn sum<T: core::ops::AddAssign + Default>(&self, part: impl Fn(&QueueStats) -> T) -> T {
        let mut sum = T::default();
        for queue in self.queues {
            sum += part(queue);
        }
        sum
    }
}

/// A device's totals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Totals {
    /// Frames received.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Frames received and not passed on.
    pub rx_dropped: u64,
    /// Frames for which there was no room, as those before them were not received in time. Of the virtual function alone: the
    /// host does not tell what it dropped.
    pub rx_missed: u64,
    /// Multicast and broadcast frames received.
    pub multicast: u64,
    /// Frames sent.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Frames accepted and not sent.
    pub tx_dropped: u64,
}

/// Name of a counter, as `ethtool -S` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StatName {
    /// Of the whole device.
    Device(&'static str),
    /// Of a queue's sending side.
    TxQueue {
        /// The queue.
        number: usize,
        /// What is counted.
        name: &'static str,
    },
    /// Of a queue's receiving side.
    RxQueue {
        /// The queue.
        number: usize,
        /// What is counted.
        name: &'static str,
    },
}

impl fmt::Display for StatName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(name) => f.write_str(name),
            Self::TxQueue { number, name } => write!(f, "tx_queue_{number}_{name}"),
            Self::RxQueue { number, name } => write!(f, "rx_queue_{number}_{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec::Vec;

    #[test]
    fn names_and_order_are_those_of_linux() {
        let mut queues = [QueueStats::default(); 2];
        queues[0].global.tx_busy = 2;
        queues[1].global.tx_busy = 3;
        queues[1].rx.bytes = 7;
        let stats = NicStats::new(&queues, VfStats { vf_tx_bytes: 11, ..VfStats::default() });
        let shown: Vec<_> = stats.iter().map(|(name, value)| (name.to_string(), value)).collect();
        let names: Vec<_> = shown.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "tx_scattered",
                "tx_no_memory",
                "tx_no_space",
                "tx_too_big",
                "tx_busy",
                "tx_send_full",
                "rx_comp_busy",
                "rx_no_memory",
                "stop_queue",
                "wake_queue",
                "vlan_error",
                "vf_rx_packets",
                "vf_rx_bytes",
                "vf_tx_packets",
                "vf_tx_bytes",
                "vf_tx_dropped",
                "tx_queue_0_packets",
                "tx_queue_0_bytes",
                "tx_queue_0_xdp_xmit",
                "rx_queue_0_packets",
                "rx_queue_0_bytes",
                "rx_queue_0_xdp_drop",
                "rx_queue_0_xdp_redirect",
                "rx_queue_0_xdp_tx",
                "tx_queue_1_packets",
                "tx_queue_1_bytes",
                "tx_queue_1_xdp_xmit",
                "rx_queue_1_packets",
                "rx_queue_1_bytes",
                "rx_queue_1_xdp_drop",
                "rx_queue_1_xdp_redirect",
                "rx_queue_1_xdp_tx",
            ]
        );
        let value = |wanted: &str| shown.iter().find(|(name, _)| name == wanted).unwrap().1;
        assert_eq!(["tx_busy", "rx_queue_1_bytes", "rx_queue_0_bytes", "vf_tx_bytes"].map(value), [5, 7, 0, 11]);
    }

    #[test]
    fn totals_have_both_paths() {
        let mut queues = [QueueStats::default(); 2];
        queues[0].tx.packets = 1;
        queues[1].tx.packets = 2;
        queues[1].extra.tx_dropped = 4;
        let vf =
            VfStats { vf_tx_packets: 8, vf_tx_dropped: 16, vf_rx_dropped: 32, vf_rx_missed: 64, ..VfStats::default() };
        let totals = NicStats::new(&queues, vf).totals();
        assert_eq!((totals.tx_packets, totals.tx_dropped, totals.rx_dropped, totals.rx_missed), (11, 20, 32, 64));
    }
}
