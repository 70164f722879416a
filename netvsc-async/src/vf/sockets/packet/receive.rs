//! Receiving: slots of the ring to frames.

use netvsc::meta::{RxChecksum, RxMeta, Verdict, Vlan};
use netvsc::queue::FrameSink;
use netvsc::segment::Segments;

use super::ring::{HEADER, IDLE, Slots};
use super::unfinished::{Unfinished, VIRTIO_HEADER, complete};

/// `TP_STATUS_USER`: the slot is ours.
const OURS: u32 = 1;
/// `TP_STATUS_VLAN_VALID`: a tag was taken out of the frame.
const TAGGED: u32 = 1 << 4;
/// `TP_STATUS_VLAN_TPID_VALID`: its protocol is known.
const TPID_KNOWN: u32 = 1 << 6;
/// `PACKET_OTHERHOST`: the frame is not addressed to the interface.
const OTHER_HOST: u8 = 3;
/// `PACKET_OUTGOING`: the kernel sends it. A group of sockets gets those although each of them does not want them.
const OUTGOING: u8 = 4;
/// Where a slot has that: `sll_pkttype` of the address behind its header.
const PACKET_TYPE: usize = HEADER + 10;
/// 802.1Q.
const TPID: u16 = 0x8100;
/// Bytes of the MAC addresses.
const ADDRESSES: usize = 12;
/// Bytes of a tag.
const TAG: usize = 4;

/// Most frames that one slot may become: a large segment of 64 KiB in pieces of some 500 bytes. There is no limit to that, so
/// more may come; it is only counted on when the rings are emptied.
const FRAMES_OF_A_SLOT: usize = 128;

/// A frame that has been taken out of its slot, and is given in pieces.
#[derive(Debug, Clone, Copy)]
struct Cutting {
    len: usize,
    size: usize,
    /// The segment that is next.
    next: usize,
    vlan: Option<Vlan>,
}

/// The receive ring.
#[derive(Debug)]
pub(super) struct Receiver {
    slots: Slots,
    next: usize,
    /// The frame that is cut.
    large: Box<[u8]>,
    cutting: Option<Cutting>,
    dropped: u64,
}

impl Receiver {
    pub(super) fn new(slots: Slots) -> Self {
        let large = vec![0; slots.slot_bytes()].into();
        Self { slots, next: 0, large, cutting: None, dropped: 0 }
    }

    /// Frames that were dropped here.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Most frames that the ring holds.
    pub(super) fn capacity(&self) -> usize {
        self.slots.len() * FRAMES_OF_A_SLOT
    }

    /// Whether there is something to be received.
    #[inline]
    pub(super) fn is_ready(&self) -> bool {
        self.cutting.is_some() || self.slots.status(self.next) & OURS != 0
    }

    /// Throws away what is in the ring now.
    pub(super) fn discard(&mut self) {
        self.cutting = None;
        for _ in 0..self.slots.len() {
            if self.slots.status(self.next) & OURS == 0 {
                break;
            }
            self.give_back();
        }
    }

    /// Copies at most `max` frames into `sink`.
    ///
    /// Frames for others come only if `promiscuous`: hardware filters them, virtual interfaces do not.
    pub(super) fn receive<S: FrameSink>(&mut self, sink: &mut S, max: usize, promiscuous: bool) -> usize {
        let mut got = 0;
        // Each slot once: those that are passed over cost time, too, and the kernel may fill them as fast as they are given back.
        let mut slots = self.slots.len();
        while got < max {
            if let Some(cutting) = self.cutting {
                let (frames, rest) = cut(&self.large, cutting, sink, max - got, &mut self.dropped);
                self.cutting = rest;
                got += frames;
                if rest.is_some() {
                    break;
                }
                continue;
            }
            let status = self.slots.status(self.next);
            if status & OURS == 0 || slots == 0 {
                break;
            }
            slots -= 1;
            self.slots.prefetch(self.slots.after(self.next));
            match self.slots.byte(self.next, PACKET_TYPE) {
                Some(OTHER_HOST) if promiscuous => {}
                Some(OTHER_HOST | OUTGOING) => {
                    self.give_back();
                    continue;
                }
                _ => {}
            }
            match self.take(status, sink) {
                Taken::Frame => got += 1,
                Taken::Elsewhere => {}
                Taken::Dropped => self.dropped += 1,
                Taken::NoRoom => break,
            }
            self.give_back();
        }
        got
    }

    #[inline]
    fn give_back(&mut self) {
        self.slots.set_status(self.next, IDLE);
        self.next = self.slots.after(self.next);
    }

    /// The next slot's frame.
    #[inline]
    fn take<S: FrameSink>(&mut self, status: u32, sink: &mut S) -> Taken {
        let header = self.slots.header(self.next);
        let mut virtio = [0; VIRTIO_HEADER];
        let Some(before) = header.offset.checked_sub(VIRTIO_HEADER) else { return Taken::Dropped };
        if header.present != header.len || !self.slots.read(self.next, before, &mut virtio) {
            return Taken::Dropped;
        }
        let mut vlan = None;
        let mut outer = None;
        if status & TAGGED != 0 {
            match status & TPID_KNOWN {
                0 => vlan = Some(Vlan::from_tci(header.tci)),
                _ if header.tpid == TPID => vlan = Some(Vlan::from_tci(header.tci)),
                // A service tag has no place beside the frame.
                _ => outer = Some([header.tpid.to_be_bytes(), header.tci.to_be_bytes()]),
            }
        }
        let unfinished = Unfinished::from_header(virtio);
        if let Unfinished::Segments { size } = unfinished {
            return self.keep(header.offset, header.len, outer, size, vlan);
        }
        let len = header.len + if outer.is_some() { TAG } else { 0 };
        if len > sink.max_frame() {
            return Taken::Dropped;
        }
        let Some(frame) = sink.buffer(len) else { return Taken::NoRoom };
        if !copy(&self.slots, self.next, header.offset, outer, frame) {
            return Taken::Dropped;
        }
        let shift = len - header.len;
        let transport = match unfinished {
            Unfinished::Checksum { start, offset } if complete(frame, start + shift, offset) => Verdict::Good,
            Unfinished::Nothing { verified: true } => Verdict::Good,
            Unfinished::Nothing { verified: false } => Verdict::Unknown,
            _ => return Taken::Dropped,
        };
        let checksum = RxChecksum { transport, ..RxChecksum::default() };
        sink.commit(len, RxMeta { checksum, vlan, ..RxMeta::default() });
        Taken::Frame
    }

    /// Takes a frame out of its slot in order to cut it.
    fn keep(
        &mut self,
        offset: usize,
        len: usize,
        outer: Option<[[u8; 2]; 2]>,
        size: usize,
        vlan: Option<Vlan>,
    ) -> Taken {
        let len = len + if outer.is_some() { TAG } else { 0 };
        let Some(frame) = self.large.get_mut(..len) else { return Taken::Dropped };
        if !copy(&self.slots, self.next, offset, outer, frame) {
            return Taken::Dropped;
        }
        self.cutting = Some(Cutting { len, size, next: 0, vlan });
        Taken::Elsewhere
    }
}

/// What became of a slot.
enum Taken {
    Frame,
    /// Its frame is to be cut.
    Elsewhere,
    /// Its frame is no use.
    Dropped,
    /// The sink is full.
    NoRoom,
}

/// Copies a frame out of a slot, and puts a tag into it.
#[inline]
fn copy(slots: &Slots, slot: usize, offset: usize, tag: Option<[[u8; 2]; 2]>, frame: &mut [u8]) -> bool {
    let Some(tag) = tag else { return slots.read(slot, offset, frame) };
    let Some((addresses, rest)) = frame.split_at_mut_checked(ADDRESSES) else { return false };
    let Some((place, rest)) = rest.split_at_mut_checked(TAG) else { return false };
    place.copy_from_slice(tag.as_flattened());
    slots.read(slot, offset, addresses) && slots.read(slot, offset + ADDRESSES, rest)
}

/// Gives segments of a frame; how many, and what is left of it.
fn cut<S: FrameSink>(
    large: &[u8],
    cutting: Cutting,
    sink: &mut S,
    max: usize,
    dropped: &mut u64,
) -> (usize, Option<Cutting>) {
    let frame = large.get(..cutting.len).unwrap_or_default();
    let Ok(segments) = Segments::new(frame, cutting.size) else {
        *dropped += 1;
        return (0, None);
    };
    let mut segments = segments.starting_at(cutting.next);
    let good = RxChecksum { transport: Verdict::Good, ..RxChecksum::default() };
    let meta = RxMeta { checksum: good, vlan: cutting.vlan, ..RxMeta::default() };
    let mut next = cutting.next;
    let mut given = 0;
    while let Some(len) = segments.next_len() {
        if len > sink.max_frame() {
            // The others are no shorter, but for the last.
            *dropped += segments.remaining() as u64;
            return (given, None);
        }
        if given == max {
            return (given, Some(Cutting { next, ..cutting }));
        }
        let Some(room) = sink.buffer(len) else { return (given, Some(Cutting { next, ..cutting })) };
        let Ok(Some(len)) = segments.next_into(room) else { return (given, None) };
        sink.commit(len, meta);
        next += 1;
        given += 1;
    }
    (given, None)
}
