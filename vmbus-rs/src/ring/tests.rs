//! Lessons of other drivers, by name. Those that need two threads are in `tests/loom.rs`.

use std::cell::Cell;
use std::vec;

use super::*;
use crate::memory::HeapMemory;
use crate::packet::TransactionId;

type Ring = MappedRing<HeapMemory>;

fn ring(data_bytes: usize) -> Ring {
    Ring::new(HeapMemory::zeroed(CONTROL_BYTES + data_bytes), CONTROL_BYTES).unwrap()
}

/// Both roles on a ring whose indices stand at `index`.
fn pair_at(data_bytes: usize, index: u32) -> (Ring, Producer<Ring>, Consumer<Ring>) {
    let ring = ring(data_bytes);
    ring.store(Word::WriteIndex, index);
    ring.store(Word::ReadIndex, index);
    (ring.clone(), Producer::resume(ring.clone()).unwrap(), Consumer::resume(ring).unwrap())
}

/// A packet that takes `ring_bytes`.
fn packet(ring_bytes: usize) -> Outgoing<'static> {
    static PAYLOAD: [u8; 8192] = [0x5A; 8192];
    Outgoing::notice(TransactionId(1), &PAYLOAD[..ring_bytes - 24])
}

fn send(producer: &mut Producer<Ring>, ring_bytes: usize) -> Signal {
    producer.write(&packet(ring_bytes)).unwrap();
    producer.publish().unwrap()
}

fn take(consumer: &mut Consumer<Ring>) -> u32 {
    let mut body = [0; 8192];
    consumer.take(&mut body).unwrap().expect("a packet").descriptor.packet_bytes + 8
}

#[test]
fn every_position_round_the_end_of_a_ring_that_is_no_power_of_two() {
    const SIZE: usize = 0x1F_F000;
    for back in (8..=96).step_by(8) {
        let (ring, mut producer, mut consumer) = pair_at(SIZE, (SIZE - back) as u32);
        let header = [[1u8; 8], [2; 8]].concat();
        let payload: vec::Vec<u8> = (1..=29).collect();
        let sent = Outgoing { header: &header, ..Outgoing::request(TransactionId(0x0102_0304_0506_0708), &payload) };
        producer.write(&sent).unwrap();
        assert_eq!(ring.load(Word::WriteIndex), (SIZE - back) as u32);
        let _ = producer.publish().unwrap();
        assert_eq!(ring.load(Word::WriteIndex) as usize, (SIZE - back + 72) % SIZE, "{back} bytes before the end");
        let mut body = [0xEE; 64];
        let got = consumer.take(&mut body).unwrap().unwrap();
        assert_eq!(got.descriptor.transaction_id, sent.transaction_id, "{back} bytes before the end");
        assert_eq!(got.split(&body).0, header);
        assert_eq!(got.split(&body).1[..29], payload[..]);
        assert_eq!(got.split(&body).1[29..], [0; 3], "padding");
        let _ = consumer.commit().unwrap();
        assert_eq!(ring.load(Word::ReadIndex), ring.load(Word::WriteIndex));
    }
}

#[test]
fn pieces_and_whole_packets_are_the_same_bytes() {
    for (header, payload) in [(0, 0), (0, 1), (8, 7), (16, 8), (24, 30), (0, 64)] {
        let [whole, pieces] = [ring(4096), ring(4096)];
        let (header, payload) = (vec![1; header], vec![2; payload]);
        whole.write_packet(64, [3, 4], &header, &payload);
        write_pieces(&pieces, 64, [3, 4], &header, &payload);
        let read = |ring: &Ring| {
            let mut all = vec![0; 4096];
            ring.read(0, &mut all);
            all
        };
        assert_eq!(read(&whole), read(&pieces));
    }
}

#[test]
fn padding_does_not_leak_what_was_in_the_ring() {
    let (ring, mut producer, _) = pair_at(4096, 0);
    ring.write(0, &[0xEE; 64]);
    producer.write(&Outgoing::notice(TransactionId(0), &[1])).unwrap();
    let mut bytes = [0; 32];
    ring.read(0, &mut bytes);
    assert_eq!(bytes[16..], [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn a_ring_is_never_filled_to_the_last_slot() {
    let (_, mut producer, mut consumer) = pair_at(4096, 0);
    assert_eq!(producer.max_packet_bytes(), 4080);
    let _ = send(&mut producer, 4064);
    assert_eq!(producer.free_bytes(), Ok(24));
    assert_eq!(producer.write(&packet(32)), Err(WriteError::Full { needed: 32, free: 24 }));
    let _ = send(&mut producer, 24);
    assert_eq!(producer.free_bytes(), Ok(0));
    assert_eq!((take(&mut consumer), take(&mut consumer)), (4064, 24));
    assert!(!consumer.has_data().unwrap());
}

#[test]
fn a_header_that_is_no_multiple_of_8_is_refused() {
    let (_, mut producer, _) = pair_at(4096, 0);
    let bad = Outgoing { header: &[0; 9], ..packet(24) };
    assert_eq!(producer.write(&bad), Err(WriteError::BadHeader { len: 9 }));
    assert!(!producer.has_unpublished());
}

#[test]
fn only_the_write_into_an_empty_ring_signals() {
    let (_, mut producer, mut consumer) = pair_at(4096, 0);
    assert_eq!(consumer.unmask(), Ok(false));
    assert_eq!(producer.publish(), Ok(Signal::NotNeeded), "nothing was written");
    assert_eq!(send(&mut producer, 32), Signal::Needed);
    assert_eq!(send(&mut producer, 32), Signal::NotNeeded);
    take(&mut consumer);
    assert_eq!(send(&mut producer, 32), Signal::NotNeeded, "taken but not committed");
    let _ = consumer.commit().unwrap();
    assert_eq!(send(&mut producer, 32), Signal::NotNeeded, "committed but not emptied");
}

#[test]
fn a_batch_signals_once_by_the_index_before_it() {
    let (_, mut producer, mut consumer) = pair_at(4096, 0);
    assert_eq!(consumer.unmask(), Ok(false));
    producer.write(&packet(32)).unwrap();
    producer.write(&packet(32)).unwrap();
    assert_eq!(producer.publish(), Ok(Signal::Needed));
    assert_eq!(producer.publish(), Ok(Signal::NotNeeded));
}

#[test]
fn one_packet_per_wakeup_is_not_slept_over() {
    let (_, mut producer, mut consumer) = pair_at(4096, 0);
    let _ = send(&mut producer, 32);
    let _ = send(&mut producer, 32);
    take(&mut consumer);
    let _ = consumer.commit().unwrap();
    assert_eq!(consumer.unmask(), Ok(true), "one is left");
    assert!(consumer.is_masked());
}

#[test]
fn unmasking_overrides_a_mask_that_somebody_else_set() {
    let (ring, _, mut consumer) = pair_at(4096, 0);
    assert_eq!(consumer.unmask(), Ok(false));
    ring.store(Word::InterruptMask, 1);
    assert_eq!(consumer.unmask(), Ok(false));
    assert_eq!(ring.load(Word::InterruptMask), 0);
}

#[test]
fn a_space_signal_is_given_on_the_crossing_only_and_equal_is_not_enough() {
    let (ring, mut producer, mut consumer) = pair_at(4096, 0);
    for _ in 0..127 {
        let _ = send(&mut producer, 32);
    }
    assert_eq!(producer.wait_for_space(96), Ok(false));
    let commit = |consumer: &mut Consumer<Ring>| {
        take(consumer);
        consumer.commit().unwrap()
    };
    // 32 bytes are free.
    assert_eq!(commit(&mut consumer), Signal::NotNeeded);
    assert_eq!(commit(&mut consumer), Signal::NotNeeded, "96 free: one slot stays empty");
    assert_eq!(commit(&mut consumer), Signal::Needed);
    assert_eq!(commit(&mut consumer), Signal::NotNeeded, "no second time");
    producer.stop_waiting();
    assert_eq!(ring.load(Word::PendingSendSize), 0, "later crossings do not interrupt");
}

#[test]
fn freed_bytes_are_counted_since_the_last_commit() {
    let (_, mut producer, mut consumer) = pair_at(4096, 0);
    for _ in 0..127 {
        let _ = send(&mut producer, 32);
    }
    assert_eq!(producer.wait_for_space(64), Ok(false));
    for _ in 0..5 {
        take(&mut consumer);
    }
    assert_eq!(consumer.commit(), Ok(Signal::Needed));
}

#[test]
fn a_pending_size_of_all_but_one_byte_waits_for_the_empty_ring() {
    let (ring, mut producer, mut consumer) = pair_at(4096, 0);
    let _ = send(&mut producer, 32);
    let _ = send(&mut producer, 32);
    ring.store(Word::PendingSendSize, 4095);
    take(&mut consumer);
    assert_eq!(consumer.commit(), Ok(Signal::NotNeeded));
    take(&mut consumer);
    assert_eq!(consumer.commit(), Ok(Signal::Needed));
}

#[test]
fn without_the_feature_bit_space_is_never_signalled_and_the_mask_plays_no_role() {
    for (feature, mask, signal) in
        [(0, 0, Signal::NotNeeded), (1, 0, Signal::Needed), (1, 1, Signal::Needed), (6, 0, Signal::NotNeeded)]
    {
        let (ring, mut producer, mut consumer) = pair_at(4096, 0);
        let _ = send(&mut producer, 4000);
        assert_eq!(producer.wait_for_space(1000), Ok(false));
        ring.store(Word::FeatureBits, feature);
        ring.store(Word::InterruptMask, mask);
        take(&mut consumer);
        assert_eq!(consumer.commit(), Ok(signal), "features {feature} mask {mask}");
    }
}

#[test]
fn waiting_looks_once_more_and_takes_the_question_back() {
    let (ring, mut producer, mut consumer) = pair_at(4096, 0);
    let _ = send(&mut producer, 4000);
    assert!(producer.write(&packet(128)).is_err());
    take(&mut consumer);
    let _ = consumer.commit().unwrap();
    assert_eq!(producer.wait_for_space(128), Ok(true));
    assert_eq!(ring.load(Word::PendingSendSize), 0);
    assert!(!producer.is_waiting());
}

#[test]
fn a_producer_that_filled_the_freed_room_before_we_looked_is_no_error() {
    /// A ring whose producer writes as soon as the read index moves.
    #[derive(Debug)]
    struct Eager(Ring);
    impl RingMemory for Eager {
        fn data_bytes(&self) -> u32 {
            self.0.data_bytes()
        }
        fn load(&self, word: Word) -> u32 {
            self.0.load(word)
        }
        fn store(&self, word: Word, value: u32) {
            self.0.store(word, value);
            if word == Word::ReadIndex {
                self.0.store(Word::WriteIndex, 2000);
                self.0.store(Word::PendingSendSize, 3000);
            }
        }
        fn fence(&self) {}
        fn read(&self, offset: u32, into: &mut [u8]) {
            self.0.read(offset, into);
        }
        fn write(&self, offset: u32, from: &[u8]) {
            self.0.write(offset, from);
        }
    }
    let (ring, mut producer, _) = pair_at(4096, 0);
    let _ = send(&mut producer, 4000);
    let mut consumer = Consumer::resume(Eager(ring)).unwrap();
    assert!(consumer.take(&mut [0; 4096]).unwrap().is_some());
    assert_eq!(consumer.commit(), Ok(Signal::NotNeeded));
}

#[test]
fn a_descriptor_is_read_once_and_what_was_checked_is_used() {
    /// A ring whose descriptor grows when it is read a second time.
    #[derive(Debug)]
    struct Changing(Ring, Cell<u32>);
    impl RingMemory for Changing {
        fn data_bytes(&self) -> u32 {
            self.0.data_bytes()
        }
        fn load(&self, word: Word) -> u32 {
            self.0.load(word)
        }
        fn store(&self, word: Word, value: u32) {
            self.0.store(word, value);
        }
        fn fence(&self) {}
        fn read(&self, offset: u32, into: &mut [u8]) {
            if offset == 0 {
                self.1.set(self.1.get() + 1);
            }
            self.0.read(offset, into);
            self.0.write(0, &[0xFF; 8]);
        }
        fn write(&self, offset: u32, from: &[u8]) {
            self.0.write(offset, from);
        }
    }
    let (ring, mut producer, _) = pair_at(4096, 0);
    let _ = send(&mut producer, 32);
    let mut consumer = Consumer::resume(Changing(ring, Cell::new(0))).unwrap();
    let mut body = [0xEE; 16];
    let packet = consumer.take(&mut body).unwrap().unwrap();
    assert_eq!((packet.body_len(), packet.header_len()), (8, 0));
    assert_eq!(body, [0x5A, 0x5A, 0x5A, 0x5A, 0x5A, 0x5A, 0x5A, 0x5A, 0xEE, 0xEE, 0xEE, 0xEE, 0xEE, 0xEE, 0xEE, 0xEE]);
    assert_eq!(consumer.ring().1.get(), 1);
}

#[test]
fn a_packet_longer_than_the_buffer_is_not_taken() {
    let (_, mut producer, mut consumer) = pair_at(4096, 0);
    let _ = send(&mut producer, 48);
    let error = PacketError::TooLong { value: 24, limit: 23 };
    assert_eq!(consumer.take(&mut [0; 23]), Err(RingError::BadPacket { error, offset: 0 }));
    assert_eq!(consumer.uncommitted_bytes(), 0);
    assert!(consumer.take(&mut [0; 24]).unwrap().is_some());
}

#[test]
fn indices_that_go_back_are_refused() {
    let (ring, mut producer, mut consumer) = pair_at(4096, 0);
    let _ = send(&mut producer, 64);
    let _ = send(&mut producer, 64);
    take(&mut consumer);
    take(&mut consumer);
    ring.store(Word::WriteIndex, 64);
    let error = RingError::BadMove { word: Word::WriteIndex, value: 64, limit: 0 };
    assert_eq!(consumer.has_data(), Err(error));
    ring.store(Word::WriteIndex, 128);
    let _ = consumer.commit().unwrap();
    assert_eq!(producer.free_bytes(), Ok(4088));
    ring.store(Word::ReadIndex, 64);
    let error = RingError::BadMove { word: Word::ReadIndex, value: 64, limit: 128 };
    assert_eq!(producer.free_bytes(), Err(error));
    ring.store(Word::ReadIndex, 136);
    assert!(producer.free_bytes().is_err(), "past what was published");
}

#[test]
fn leftovers_of_an_earlier_user_are_overwritten() {
    let ring = ring(4096);
    ring.store(Word::PendingSendSize, 777);
    ring.store(Word::FeatureBits, 0);
    let _producer = Producer::new(ring.clone());
    assert_eq!((ring.load(Word::PendingSendSize), ring.load(Word::FeatureBits)), (0, 1));
    ring.store(Word::InterruptMask, 0xDEAD);
    let mut consumer = Consumer::new(ring.clone());
    assert_eq!(ring.load(Word::InterruptMask), 1, "masked until the first look");
    assert_eq!(consumer.unmask(), Ok(false));
    assert_eq!(ring.load(Word::InterruptMask), 0);
}

#[test]
fn what_is_discarded_was_never_there() {
    let (ring, mut producer, mut consumer) = pair_at(4096, 4000);
    producer.write(&packet(128)).unwrap();
    producer.discard();
    assert_eq!(producer.publish(), Ok(Signal::NotNeeded));
    assert_eq!(ring.load(Word::WriteIndex), 4000);
    assert_eq!(consumer.take(&mut []), Ok(None));
}

#[test]
fn memory_that_is_no_ring_is_refused() {
    for (bytes, header) in [(4096, 4096), (8192, 2048), (8192, 8192), (8192, 16384), (16384, 4096 + 8)] {
        assert_eq!(
            Ring::new(HeapMemory::zeroed(bytes), header).map(drop),
            Err(BadRing { bytes, header_bytes: header })
        );
    }
    // A guest page of 64 KiB holds the header; the host sees its first 4 KiB only.
    let ring = Ring::new(HeapMemory::zeroed(65536 + 4096), 65536).unwrap();
    assert_eq!(ring.data_bytes(), 4096);
}
