//! Owned packets, and the pool that their buffers come from.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use crossbeam_queue::ArrayQueue;
use netvsc::checksum;
use netvsc::frame::Headers;
use netvsc::meta::{RxMeta, Segmentation, TxMeta, Vlan};
use netvsc::queue::FrameSink;

use crate::queue::LARGEST_FRAME;

/// Most large buffers that are kept.
const LARGE_BUFFERS: usize = 32;

/// Buffers that are used again before the others of a pool: two batches. So many stay in a processor's second cache, where all of a
/// pool would not.
const WARM_BUFFERS: usize = 128;

/// What a [`PacketQueue`] takes out ahead of a large pool, which has so many buffers more: a batch.
const RESERVE: usize = 64;

/// Buffers of one size, used again and again. Shared by a queue and the packets that are out.
///
/// After a larger MTU was set there are others, as many and so large that frames of that fit. Those of before are let go where they
/// are found: in the pool when the others are made, and as they come back.
#[derive(Debug)]
struct PoolInner {
    /// Those that came back last.
    warm: ArrayQueue<Box<[u8]>>,
    /// The others, if there are more than [`WARM_BUFFERS`].
    rest: Option<ArrayQueue<Box<[u8]>>>,
    /// Buffers of [`LARGEST_FRAME`] bytes, for merged frames: allocated when one is needed, then used again.
    large: ArrayQueue<Box<[u8]>>,
    buffer_bytes: AtomicUsize,
    /// Bytes of a frame since the adapter was changed; 0 before.
    frame_bytes: Arc<AtomicUsize>,
    /// How many buffers there are when nobody holds any.
    packets: usize,
    /// Buffers beyond those that may be held.
    reserve: usize,
    allocated: AtomicU64,
}

/// A pool of packet buffers.
#[derive(Debug, Clone)]
pub(crate) struct PacketPool(Arc<PoolInner>);

impl PoolInner {
    /// A buffer of at least `len` bytes, if one is there.
    #[inline]
    fn pop(&self, len: usize) -> Option<Box<[u8]>> {
        if len <= self.buffer_bytes() {
            loop {
                let buffer = self.warm.pop().or_else(|| self.rest.as_ref()?.pop())?;
                // One of before can be among them while another thread makes the others.
                if len <= buffer.len() {
                    return Some(buffer);
                }
            }
        }
        // No frame is longer than the largest, unless an application makes one: then that buffer is lost to the pool.
        self.large.pop().filter(|buffer| buffer.len() >= len)
    }

    /// Takes a buffer back, if it is one of the pool's and there is a place for it.
    #[inline]
    fn push(&self, buffer: Box<[u8]>) {
        // A full pool means that this one was allocated beyond it: let it go.
        let _ = match buffer.len() {
            len if len == self.buffer_bytes() => match (self.warm.push(buffer), &self.rest) {
                (Err(buffer), Some(rest)) => rest.push(buffer),
                (pushed, _) => pushed,
            },
            LARGEST_FRAME => self.large.push(buffer),
            _ => Ok(()),
        };
    }

    #[inline]
    fn buffer_bytes(&self) -> usize {
        self.buffer_bytes.load(Ordering::Relaxed)
    }

    /// Whether a larger MTU was set, for which there are no buffers yet.
    #[inline]
    fn is_outgrown(&self) -> bool {
        self.frame_bytes.load(Ordering::Relaxed) > self.buffer_bytes()
    }

    /// Makes buffers for the larger MTU, all of them, unless another thread does.
    #[cold]
    fn grow(&self) {
        let bytes = self.frame_bytes.load(Ordering::Relaxed);
        if self.buffer_bytes.fetch_max(bytes, Ordering::Relaxed) >= bytes {
            return;
        }
        while self.warm.pop().is_some() {}
        while self.rest.as_ref().is_some_and(|rest| rest.pop().is_some()) {}
        self.fill(bytes);
    }

    fn fill(&self, bytes: usize) {
        for _ in 0..self.packets {
            self.push(vec![0; bytes].into_boxed_slice());
        }
    }
}

impl PacketPool {
    /// Buffers of `buffer_bytes`, all allocated here and now: so many that `packets` can be held. Once `frame_bytes` says more,
    /// they become so large.
    pub(crate) fn new(packets: usize, buffer_bytes: usize, frame_bytes: Arc<AtomicUsize>) -> Self {
        let reserve = RESERVE.min(packets / 8);
        let packets = packets.saturating_add(reserve);
        let warm = packets.clamp(1, WARM_BUFFERS);
        let inner = PoolInner {
            warm: ArrayQueue::new(warm),
            rest: packets.checked_sub(warm).filter(|rest| *rest > 0).map(ArrayQueue::new),
            large: ArrayQueue::new(LARGE_BUFFERS),
            buffer_bytes: AtomicUsize::new(buffer_bytes),
            frame_bytes,
            packets,
            reserve,
            allocated: AtomicU64::new(0),
        };
        inner.fill(buffer_bytes);
        Self(Arc::new(inner))
    }

    #[inline]
    fn take(&self, len: usize) -> Box<[u8]> {
        match self.0.pop(len) {
            Some(buffer) => buffer,
            None => self.allocate(len),
        }
    }

    #[cold]
    fn allocate(&self, len: usize) -> Box<[u8]> {
        if self.0.is_outgrown() {
            self.0.grow();
            if let Some(buffer) = self.0.pop(len) {
                return buffer;
            }
        }
        self.0.allocated.fetch_add(1, Ordering::Relaxed);
        let buffer_bytes = self.0.buffer_bytes();
        let bytes = if len <= buffer_bytes { buffer_bytes } else { len.max(LARGEST_FRAME) };
        vec![0; bytes].into_boxed_slice()
    }

    /// Buffers that had to be allocated because the pool was empty or a frame larger than its buffers.
    pub(crate) fn allocated(&self) -> u64 {
        self.0.allocated.load(Ordering::Relaxed)
    }

    /// A packet of `len` bytes, whatever they are.
    pub(crate) fn blank(&self, len: usize) -> Packet {
        self.wrap(self.take(len), len)
    }

    #[inline]
    fn wrap(&self, buffer: Box<[u8]>, len: usize) -> Packet {
        Packet { buffer, len, rx: RxMeta::default(), tx: TxMeta::default(), pool: Some(self.clone()) }
    }

    /// A packet with a copy of `bytes`.
    pub(crate) fn packet(&self, bytes: &[u8]) -> Packet {
        let mut packet = self.blank(bytes.len());
        packet.bytes_mut().copy_from_slice(bytes);
        packet
    }
}

/// An Ethernet frame that its holder owns, without FCS.
///
/// Its buffer comes from its queue's pool and goes back there when the packet is dropped, on whatever thread: no
/// allocation a packet while no more packets are held than the pool has buffers ([`NicBuilder::pool_packets`]). It pins
/// nothing of the host's: a slow holder starves nobody.
///
/// [`NicBuilder::pool_packets`]: crate::NicBuilder::pool_packets
pub struct Packet {
    buffer: Box<[u8]>,
    len: usize,
    rx: RxMeta,
    tx: TxMeta,
    pool: Option<PacketPool>,
}

impl Packet {
    /// The same packet with what came with it.
    pub(crate) fn with_meta(mut self, meta: RxMeta) -> Self {
        self.rx = meta;
        self.tx = passed_on(self.bytes(), &meta);
        self
    }

    /// The frame, from the destination address on.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[..self.len]
    }

    /// The frame, to be changed in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[..self.len]
    }

    /// Shortens the frame to `len` bytes; nothing if it is not longer.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// What came with it: checksum verdict, VLAN tag, hash, path. The default for a packet that was not received.
    pub fn meta(&self) -> &RxMeta {
        &self.rx
    }

    /// What to ask for when it is sent. A received packet keeps its VLAN tag, and one that was merged becomes segments again
    /// ([`TxMeta::passing_on`]), so that forwarding changes nothing.
    pub fn tx_meta_mut(&mut self) -> &mut TxMeta {
        &mut self.tx
    }

    /// Asks for all checksums to be computed when it is sent, by the host or in software; what stands in their fields does not
    /// matter. Whether there are any: not in what is no IP. To be called when the headers are complete.
    pub fn request_checksums(&mut self) -> bool {
        let headers = Headers::parse(self.bytes());
        self.tx.checksum = headers.and_then(|headers| checksum::request(self.bytes(), &headers));
        self.tx.checksum.is_some()
    }

    /// Asks for it to be cut when it is sent, into segments of `mss` bytes behind the TCP or UDP header, checksums included.
    /// Whether it can be: not what is neither TCP nor UDP, and no fragment. To be called when the headers are complete.
    pub fn request_segmentation(&mut self, mss: u32) -> bool {
        let headers = Headers::parse(self.bytes()).filter(|headers| headers.transport_protocol().is_some());
        self.tx.segmentation = headers.map(|headers| Segmentation {
            ip: headers.ip(),
            mss,
            transport_offset: headers.transport() as u16,
            fixed_id: false,
        });
        self.tx.segmentation.is_some()
    }

    /// The 802.1Q tag that it gets when it is sent, beside the frame; `None` for none.
    pub fn set_vlan(&mut self, vlan: Option<Vlan>) {
        self.tx.vlan = vlan;
    }

    /// What to ask for when it is sent.
    #[inline]
    pub fn tx_meta(&self) -> &TxMeta {
        &self.tx
    }

    /// The frame as [`Bytes`], without a copy: the buffer goes back to the pool with the last clone. Allocates a little.
    pub fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Packet {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

impl std::ops::Deref for Packet {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes()
    }
}

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packet").field("len", &self.len).field("rx", &self.rx).finish_non_exhaustive()
    }
}

impl From<Vec<u8>> for Packet {
    /// A packet to be sent, outside any pool.
    fn from(frame: Vec<u8>) -> Self {
        let buffer = frame.into_boxed_slice();
        Self { len: buffer.len(), buffer, rx: RxMeta::default(), tx: TxMeta::default(), pool: None }
    }
}

impl From<&[u8]> for Packet {
    /// A packet to be sent: a copy, outside any pool.
    fn from(frame: &[u8]) -> Self {
        frame.to_vec().into()
    }
}

impl Drop for Packet {
    #[inline]
    fn drop(&mut self) {
        if let Some(pool) = &self.pool {
            pool.0.push(std::mem::take(&mut self.buffer));
        }
    }
}

/// What it takes to send a received packet on. Queues say how long the segments of a merged one were: no MTU is needed.
fn passed_on(frame: &[u8], meta: &RxMeta) -> TxMeta {
    TxMeta::passing_on(frame, meta, 0)
}

/// Receives into packets.
///
/// Taking a buffer out of the pool takes atomic operations, at which the processor ends everything else first: between two frames
/// it could not look at the one while it waits for the other. So buffers are taken out ahead, if the pool is large.
#[derive(Debug)]
pub(crate) struct PacketQueue {
    pool: PacketPool,
    packets: VecDeque<Packet>,
    /// Blank packets. The last one is next, and may be one that was made for a frame for which the others are too small.
    ahead: Vec<Packet>,
    /// How many are taken out ahead.
    most_ahead: usize,
}

impl PacketQueue {
    pub(crate) fn new(pool: PacketPool, capacity: usize) -> Self {
        let most_ahead = capacity.min(pool.0.reserve);
        let ahead = Vec::with_capacity(most_ahead + 1);
        Self { pool, packets: VecDeque::with_capacity(capacity), ahead, most_ahead }
    }

    /// Takes buffers out of the pool, as long as there are any: to be called before frames are received.
    #[inline]
    pub(crate) fn prepare(&mut self) {
        if self.pool.0.is_outgrown() {
            // Here, where no lock is held.
            self.pool.0.grow();
            self.ahead.clear();
        }
        while self.ahead.len() < self.most_ahead
            && let Some(buffer) = self.pool.0.pop(0)
        {
            self.ahead.push(self.pool.wrap(buffer, 0));
        }
    }

    #[inline]
    pub(crate) fn pop(&mut self) -> Option<Packet> {
        self.packets.pop_front()
    }

    pub(crate) fn push(&mut self, packet: Packet) {
        self.packets.push_back(packet);
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.packets.len()
    }
}

impl FrameSink for PacketQueue {
    #[inline]
    fn buffer(&mut self, len: usize) -> Option<&mut [u8]> {
        // A buffer that was asked for and not committed serves the next frame.
        if self.ahead.last().is_none_or(|blank| blank.buffer.len() < len) {
            if self.ahead.len() > self.most_ahead {
                self.ahead.pop();
            }
            let blank = self.pool.blank(len);
            // Those that were taken out before a larger MTU was set would only be in the way from now on.
            self.ahead.retain(|ahead| ahead.buffer.len() >= self.pool.0.buffer_bytes());
            self.ahead.push(blank);
        }
        let blank = self.ahead.last_mut()?;
        blank.len = len;
        Some(blank.bytes_mut())
    }

    #[inline]
    fn commit(&mut self, len: usize, meta: RxMeta) {
        if let Some(mut packet) = self.ahead.pop() {
            packet.truncate(len);
            self.packets.push_back(packet.with_meta(meta));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool_of(packets: usize, buffer_bytes: usize) -> PacketPool {
        PacketPool::new(packets, buffer_bytes, Arc::default())
    }

    fn receive(queue: &mut PacketQueue, frame: &[u8]) {
        queue.buffer(frame.len()).unwrap().copy_from_slice(frame);
        queue.commit(frame.len(), RxMeta::default());
    }

    #[test]
    fn buffers_go_round() {
        let pool = pool_of(2, 64);
        let mut queue = PacketQueue::new(pool.clone(), 4);
        for round in 0..10u8 {
            receive(&mut queue, &[round; 60]);
            receive(&mut queue, &[round; 20]);
            let (a, b) = (queue.pop().unwrap(), queue.pop().unwrap());
            assert_eq!((a.bytes(), b.bytes()), (&[round; 60][..], &[round; 20][..]));
        }
        assert_eq!(pool.allocated(), 0);
        let held: Vec<_> = (0..3).map(|_| pool.packet(b"frame")).collect();
        assert_eq!(pool.allocated(), 1, "one more than the pool has");
        drop(held);
        assert_eq!(pool.0.warm.len(), 2, "and no more are kept");
    }

    #[test]
    fn what_came_back_last_is_used_first() {
        let pool = pool_of(2 * WARM_BUFFERS, 64);
        let place = |packet: &Packet| packet.bytes().as_ptr();
        let all: Vec<_> = (0..2 * WARM_BUFFERS).map(|_| pool.packet(b"frame")).collect();
        assert_eq!(pool.allocated(), 0);
        let first: Vec<_> = all[..WARM_BUFFERS].iter().map(place).collect();
        drop(all);
        for _ in 0..3 {
            let again: Vec<_> = (0..WARM_BUFFERS).map(|_| pool.packet(b"frame")).collect();
            assert_eq!(again.iter().map(place).collect::<Vec<_>>(), first);
        }
    }

    #[test]
    fn what_is_taken_out_ahead_is_beyond_what_may_be_held() {
        const HELD: usize = 1024;
        let pool = pool_of(HELD, 64);
        let mut queue = PacketQueue::new(pool.clone(), 64);
        for _ in 0..3 {
            let mut held = Vec::new();
            while held.len() < HELD {
                queue.prepare();
                receive(&mut queue, &[1; 60]);
                held.extend(queue.pop());
            }
            assert_eq!(queue.ahead.len(), RESERVE - 1);
            assert_eq!(pool.allocated(), 0);
        }
    }

    #[test]
    fn frames_of_all_lengths_go_into_what_was_given_last() {
        let pool = pool_of(16, 64);
        let mut queue = PacketQueue::new(pool.clone(), 16);
        for _ in 0..3 {
            queue.prepare();
            assert_eq!(queue.ahead.len(), 2);
            for len in [60, 9000, 64, 20] {
                queue.buffer(len + 1000).unwrap().fill(2);
                queue.buffer(len).unwrap().fill(1);
                let given = queue.buffer(len).unwrap();
                assert_eq!((given.len(), given.iter().all(|byte| *byte == 1)), (len, true), "asked for again");
                queue.commit(len - 1, RxMeta::default());
                assert_eq!(queue.pop().unwrap().bytes(), vec![1; len - 1]);
            }
            assert!(queue.ahead.len() <= 2);
        }
    }

    #[test]
    fn a_large_frame_does_not_enter_the_pool() {
        let pool = pool_of(1, 64);
        let mut queue = PacketQueue::new(pool.clone(), 1);
        receive(&mut queue, &[1; 9000]);
        let large = queue.pop().unwrap();
        assert_eq!(large.len(), 9000);
        drop(large);
        assert_eq!((pool.allocated(), pool.0.warm.len()), (1, 1));
    }

    /// Buffers that are in the pool, by size.
    fn sizes(pool: &PacketPool) -> Vec<(usize, usize)> {
        let all: Vec<_> = std::iter::from_fn(|| pool.0.pop(0)).collect();
        let mut sizes = std::collections::BTreeMap::new();
        all.iter().for_each(|buffer| *sizes.entry(buffer.len()).or_insert(0) += 1);
        all.into_iter().for_each(|buffer| pool.0.push(buffer));
        sizes.into_iter().collect()
    }

    #[test]
    fn a_larger_mtu_brings_larger_buffers_and_no_misses() {
        // With and without buffers that are taken out ahead, and prepared for it or surprised by it.
        for (packets, prepared) in [(4, true), (4, false), (256, true), (256, false)] {
            let frame_bytes = Arc::new(AtomicUsize::new(0));
            let pool = PacketPool::new(packets, 64, Arc::clone(&frame_bytes));
            let mut queue = PacketQueue::new(pool.clone(), 16);
            let all = pool.0.packets;
            queue.prepare();
            receive(&mut queue, &[1; 60]);
            let old = queue.pop().unwrap();
            frame_bytes.store(9024, Ordering::Relaxed);
            let mut held = Vec::new();
            for round in 0..3 {
                if prepared {
                    queue.prepare();
                }
                for len in [9018, 60, 9018] {
                    receive(&mut queue, &vec![round; len]);
                    held.extend(queue.pop());
                    assert_eq!(held.last().unwrap().bytes(), vec![round; len]);
                }
                held.drain(..held.len().saturating_sub(packets - 3));
            }
            assert_eq!(pool.allocated(), 0, "{packets} {prepared}");
            drop((old, held, queue));
            assert_eq!(sizes(&pool), [(9024, all)], "those of before are gone");
            // A smaller one changes nothing.
            frame_bytes.store(64, Ordering::Relaxed);
            drop(pool.packet(&[0; 9000]));
            assert_eq!((pool.allocated(), sizes(&pool)), (0, vec![(9024, all)]));
        }
    }

    #[test]
    fn a_buffer_of_before_that_came_back_late_is_not_given_out_for_a_longer_frame() {
        let frame_bytes = Arc::new(AtomicUsize::new(128));
        let pool = PacketPool::new(2, 64, frame_bytes);
        pool.0.grow();
        // As by a thread that had looked at the size before.
        drop(pool.0.warm.pop());
        pool.0.warm.push(vec![0; 64].into_boxed_slice()).unwrap();
        let packets = [pool.packet(&[1; 100]), pool.packet(&[2; 100])];
        assert_eq!(packets.map(|packet| packet.buffer.len()), [128, 128]);
        assert_eq!(pool.allocated(), 1);
    }

    #[test]
    fn a_merged_packet_is_cut_when_it_goes_on() {
        let mut frame = vec![0; 54 + 3000];
        frame[12..15].copy_from_slice(&[0x08, 0x00, 0x45]);
        frame[16..18].copy_from_slice(&3040u16.to_be_bytes());
        (frame[23], frame[46]) = (6, 0x50);
        let coalesced = netvsc::meta::Coalesced { fragments: 3, segment_size: 1000, fixed_id: false };
        let meta = RxMeta { coalesced: Some(coalesced), vlan: Some(Vlan::new(7, 0, false)), ..RxMeta::default() };
        let mut queue = PacketQueue::new(pool_of(1, 64), 1);
        queue.buffer(frame.len()).unwrap().copy_from_slice(&frame);
        queue.commit(frame.len(), meta);
        let mut packet = queue.pop().unwrap();
        assert_eq!((packet.tx_meta().segmentation.unwrap().mss, packet.tx_meta().vlan), (1000, meta.vlan));
        assert!(packet.request_segmentation(500) && packet.request_checksums());
        assert_eq!(packet.tx_meta().segmentation.unwrap().mss, 500);
        packet.set_vlan(None);
        packet.bytes_mut()[12] = 0x88;
        assert!(!packet.request_segmentation(500) && !packet.request_checksums());
        assert_eq!(*packet.tx_meta(), TxMeta::default());
    }

    #[test]
    fn bytes_give_the_buffer_back_with_the_last_clone() {
        let pool = pool_of(1, 64);
        let bytes = pool.packet(b"frame").into_bytes();
        let clone = bytes.clone();
        drop(bytes);
        assert_eq!(pool.0.warm.len(), 0);
        assert_eq!(&clone[..], b"frame");
        drop(clone);
        assert_eq!(pool.0.warm.len(), 1);
    }
}
