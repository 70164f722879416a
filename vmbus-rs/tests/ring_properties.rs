//! Rings against a queue, against each other's rules, and against arbitrary bytes.

use std::collections::VecDeque;

use proptest::collection::vec;
use proptest::prelude::*;
use vmbus::memory::{HeapMemory, SharedMemoryExt};
use vmbus::packet::{PacketType, TransactionId};
use vmbus::ring::{CONTROL_BYTES, Consumer, MappedRing, Outgoing, Producer, RingMemory, Signal, Word, WriteError};

type Ring = MappedRing<HeapMemory>;

fn ring(data_bytes: usize) -> Ring {
    Ring::new(HeapMemory::zeroed(CONTROL_BYTES + data_bytes), CONTROL_BYTES).expect("good size")
}

/// What a packet is made of: whether its completion is wanted, header words, payload.
type Parts = (bool, Vec<u64>, Vec<u8>);

#[derive(Debug, Clone)]
enum Step {
    Write(Parts),
    Publish,
    Discard,
    /// Takes up to so many packets.
    Take(usize),
    Commit,
    Unmask,
    WaitForSpace(u32),
    StopWaiting,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (any::<bool>(), vec(any::<u64>(), 0..4), vec(any::<u8>(), 0..900)).prop_map(Step::Write),
        4 => Just(Step::Publish),
        1 => Just(Step::Discard),
        5 => (1usize..5).prop_map(Step::Take),
        4 => Just(Step::Commit),
        2 => Just(Step::Unmask),
        1 => (1u32..5000).prop_map(Step::WaitForSpace),
        1 => Just(Step::StopWaiting),
    ]
}

/// What the host sees of a ring with these indices.
fn raw_free(size: u32, write: u32, read: u32) -> u32 {
    if write >= read { size - (write - read) } else { read - write }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// What comes out is what went in, in order; room and signals are those of a model that keeps it all in queues.
    #[test]
    fn a_ring_is_a_queue(pages in 1usize..4, steps in vec(step(), 1..120)) {
        let size = pages as u32 * 4096;
        let ring = ring(size as usize);
        let mut producer = Producer::new(ring.clone());
        let mut consumer = Consumer::new(ring.clone());
        let mut written: VecDeque<(TransactionId, Parts)> = VecDeque::new();
        let mut published: VecDeque<(TransactionId, Parts)> = VecDeque::new();
        let (mut unpublished_bytes, mut unread_bytes, mut uncommitted_bytes, mut wanted) = (0u32, 0u32, 0u32, 0u32);
        let mut id = 0;
        let mut body = vec![0; 4096];
        for step in steps {
            let free = size - unpublished_bytes - unread_bytes - uncommitted_bytes;
            match step {
                Step::Write((completion_requested, words, payload)) => {
                    id += 1;
                    let header: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
                    let packet = Outgoing {
                        packet_type: PacketType::IN_BAND,
                        completion_requested,
                        transaction_id: TransactionId(id),
                        header: &header,
                        payload: &payload,
                    };
                    let needed = packet.ring_bytes() as u32;
                    match producer.write(&packet) {
                        Ok(()) => {
                            prop_assert!(needed < free);
                            written.push_back((TransactionId(id), (completion_requested, words, payload)));
                            unpublished_bytes += needed;
                        }
                        Err(error) => {
                            prop_assert_eq!(error, WriteError::Full { needed, free: free - 8 });
                            prop_assert!(needed >= free);
                        }
                    }
                }
                Step::Publish => {
                    let was_empty = unread_bytes == 0 && uncommitted_bytes == 0;
                    let signal = producer.publish().expect("sound ring");
                    prop_assert_eq!(signal.is_needed(), was_empty && unpublished_bytes > 0 && !consumer.is_masked());
                    published.append(&mut written);
                    unread_bytes += unpublished_bytes;
                    unpublished_bytes = 0;
                }
                Step::Discard => {
                    producer.discard();
                    written.clear();
                    unpublished_bytes = 0;
                }
                Step::Take(most) => {
                    for _ in 0..most {
                        let Some(packet) = consumer.take(&mut body).expect("sound ring") else {
                            prop_assert!(published.is_empty());
                            break;
                        };
                        let (id, (completion_requested, words, payload)) = published.pop_front().expect("a packet");
                        let (header, padded) = packet.split(&body);
                        prop_assert_eq!(packet.descriptor.transaction_id, id);
                        prop_assert_eq!(packet.descriptor.wants_completion(), completion_requested);
                        prop_assert_eq!(header, words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>());
                        prop_assert_eq!(&padded[..payload.len()], &payload[..]);
                        prop_assert!(padded[payload.len()..].iter().all(|&byte| byte == 0) && padded.len() % 8 == 0);
                        let bytes = packet.descriptor.packet_bytes + 8;
                        unread_bytes -= bytes;
                        uncommitted_bytes += bytes;
                    }
                }
                Step::Commit => {
                    prop_assert_eq!(consumer.uncommitted_bytes(), uncommitted_bytes);
                    let before = size - unread_bytes - uncommitted_bytes;
                    let after = size - unread_bytes;
                    let signal = consumer.commit().expect("sound ring");
                    let crossed = uncommitted_bytes > 0 && wanted != 0 && before <= wanted && after > wanted;
                    prop_assert_eq!(signal.is_needed(), crossed);
                    uncommitted_bytes = 0;
                }
                Step::Unmask if uncommitted_bytes == 0 => {
                    let more = consumer.unmask().expect("sound ring");
                    prop_assert_eq!(more, unread_bytes > 0, "no packet is slept over");
                    prop_assert_eq!(consumer.is_masked(), more);
                }
                Step::WaitForSpace(bytes) if unpublished_bytes == 0 => {
                    let room = producer.wait_for_space(bytes).expect("sound ring");
                    let rounded = bytes.next_multiple_of(8).min(size - 8);
                    prop_assert_eq!(room, free > rounded);
                    prop_assert_eq!(producer.is_waiting(), !room);
                    wanted = if room { 0 } else { rounded };
                }
                Step::StopWaiting => {
                    producer.stop_waiting();
                    wanted = 0;
                }
                Step::Unmask | Step::WaitForSpace(_) => {}
            }
            prop_assert_eq!(ring.load(Word::PendingSendSize), wanted);
        }
    }

    /// Linux's rule ("was not more than it waits for, is now") and OpenVMM's (usable bytes, the waited-for size rounded
    /// down) agree for every pending size, and the consumer follows them.
    #[test]
    fn both_forms_of_the_space_rule_agree(
        pages in 1u32..4, read in any::<u32>(), used in any::<u32>(), freed in any::<u32>(), pending in 0u32..20_000,
    ) {
        let size = pages * 4096;
        let read = read % (size / 8) * 8;
        let used = 24 + used % ((size - 24) / 8) * 8;
        let freed = 24 + freed % ((used - 24) / 8 + 1) * 8;
        let write = (read + used) % size;
        let ring = ring(size as usize);
        ring.store(Word::WriteIndex, write);
        ring.store(Word::ReadIndex, read);
        ring.store(Word::FeatureBits, 1);
        ring.store(Word::PendingSendSize, pending);
        ring.write(read, &(6 | 2 << 16 | u64::from((freed - 8) / 8) << 32).to_le_bytes());
        let mut consumer = Consumer::resume(ring).expect("good indices");
        prop_assert!(consumer.take(&mut vec![0; size as usize]).expect("good packet").is_some());
        let signal = consumer.commit().expect("sound ring").is_needed();

        let after = raw_free(size, write, (read + freed) % size);
        let before = after - freed;
        let linux = pending != 0 && before <= pending && after > pending;
        let p8 = pending & !7;
        let openvmm = p8 != 0 && before - 8 < p8 && after - 8 >= p8;
        prop_assert_eq!(signal, linux);
        // Below 8 OpenVMM's rounding leaves nothing to wait for; no packet is that small.
        if pending >= 8 {
            prop_assert_eq!(linux, openvmm);
        }
    }

    /// Whatever the other side writes, and whenever: an error or nothing, in bounded work, with the caller's memory
    /// behind the packet untouched.
    #[test]
    fn a_hostile_producer_gets_an_error(
        words in vec(prop_oneof![any::<u32>(), (0u32..1024).prop_map(|n| n * 8)], 5),
        moves in vec((0u32..1030).prop_map(|n| n * 8), 0..20),
        // Descriptors that often pass the checks.
        descriptors in vec((0u16..16, 0u16..8, 0u16..40, 0u16..3), 512),
        noise in vec((0usize..8192, any::<u8>()), 0..64),
        room in 0usize..600,
    ) {
        let memory = HeapMemory::zeroed(CONTROL_BYTES + 8192);
        let ring = Ring::new(memory.clone(), CONTROL_BYTES).expect("good size");
        for (i, (packet_type, header, len, flags)) in descriptors.iter().enumerate() {
            let word = [*packet_type, *header, *len, *flags].map(u16::to_le_bytes).concat();
            ring.write(i as u32 * 16, &word);
        }
        for (at, byte) in noise {
            memory.write(CONTROL_BYTES + at, &[byte]).expect("inside");
        }
        let mut fresh = Consumer::new(ring.clone());
        let control =
            [Word::WriteIndex, Word::ReadIndex, Word::InterruptMask, Word::PendingSendSize, Word::FeatureBits];
        for (word, value) in control.iter().zip(&words) {
            ring.store(*word, *value);
        }
        let resumed = Consumer::resume(ring.clone()).ok();
        let mut body = vec![0xEE; room + 8];
        drain(&mut fresh, &ring, &moves, &mut body, room)?;
        if let Some(mut consumer) = resumed {
            drain(&mut consumer, &ring, &moves, &mut body, room)?;
        }
    }

    /// The same from the consumer's side.
    #[test]
    fn a_hostile_consumer_gets_an_error(
        moves in vec(prop_oneof![any::<u32>(), (0u32..520).prop_map(|n| n * 8)], 1..60),
        masks in vec(any::<u32>(), 60),
        lengths in vec(0usize..1500, 60),
    ) {
        let ring = ring(4096);
        let mut producer = Producer::new(ring.clone());
        let payload = [7; 1500];
        for ((read, mask), len) in moves.into_iter().zip(masks).zip(lengths) {
            ring.store(Word::ReadIndex, read);
            ring.store(Word::InterruptMask, mask);
            let request = Outgoing::request(TransactionId(1), &payload[..len]);
            let written = producer.write(&request);
            prop_assert!(!matches!(written, Err(WriteError::TooLong { .. })), "{:?}", written);
            prop_assert!(producer.free_bytes().map_or(true, |free| free <= 4088));
            // A signal is only given when the ring was empty as far as the consumer says.
            if let Ok(Signal::Needed) = producer.publish() {
                prop_assert_eq!(mask, 0);
            }
            let room = producer.wait_for_space(len as u32);
            prop_assert_eq!(producer.is_waiting(), room != Ok(true));
            producer.stop_waiting();
        }
    }
}

fn drain(
    consumer: &mut Consumer<Ring>,
    ring: &Ring,
    moves: &[u32],
    body: &mut [u8],
    room: usize,
) -> Result<(), TestCaseError> {
    for write in moves {
        // A packet takes 24 bytes at least: more than these in a ring would be a loop without end.
        for turn in 0.. {
            prop_assert!(turn <= 8192 / 24, "takes packets without end");
            match consumer.take(&mut body[..room]) {
                Ok(Some(packet)) => {
                    prop_assert!(packet.body_len() <= room);
                    let (header, payload) = packet.split(body);
                    prop_assert_eq!(header.len() + payload.len(), packet.body_len());
                }
                Ok(None) | Err(_) => break,
            }
        }
        prop_assert_eq!(&body[room..], [0xEE; 8].as_slice());
        prop_assert!(consumer.uncommitted_bytes() < 8192);
        let _ = consumer.commit();
        prop_assert_eq!(consumer.uncommitted_bytes(), 0);
        let _ = consumer.unmask();
        ring.store(Word::WriteIndex, *write);
    }
    Ok(())
}
