//! Both roles of a ring against another side that writes anything anywhere.

use vmbus::memory::{HeapMemory, PAGE_SIZE, SharedMemory, SharedMemoryExt};
use vmbus::packet::TransactionId;
use vmbus::ring::{Consumer, MappedRing, Outgoing, Producer, RingMemory};

use crate::Bytes;

/// Bytes of the data area.
const DATA_BYTES: usize = PAGE_SIZE;

/// Packets that are taken or written between two strokes of the other side: more than the ring can hold.
const MAX_PACKETS: usize = DATA_BYTES / 16;

fn fresh() -> (HeapMemory, MappedRing<HeapMemory>) {
    let memory = HeapMemory::zeroed(PAGE_SIZE + DATA_BYTES);
    let ring = MappedRing::new(memory.clone(), PAGE_SIZE).expect("a ring of one page");
    (memory, ring)
}

/// The other side writes a word of the control page, or a run of bytes into the data area.
fn strike(memory: &HeapMemory, input: &mut Bytes<'_>) -> Option<()> {
    let choice = input.u8()?;
    let word = |offset: usize, value: u32| {
        if let Ok(word) = memory.word32(offset) {
            word.store(value, core::sync::atomic::Ordering::SeqCst);
        }
    };
    match choice % 6 {
        // Indices that can be, mostly: others are refused at once.
        0 => word(0, u32::from(input.u16()?) % (DATA_BYTES as u32 / 8 + 2) * 8),
        1 => word(4, u32::from(input.u16()?) % (DATA_BYTES as u32 / 8 + 2) * 8),
        2 => word([0, 4, 8, 12, 64][usize::from(input.u8()? % 5)], input.u32()?),
        3 => word([8, 12, 64][usize::from(input.u8()? % 3)], u32::from(input.u8()?)),
        _ => {
            let at = PAGE_SIZE + usize::from(input.u16()?) % DATA_BYTES;
            let bytes = input.run()?;
            let room = memory.len() - at;
            memory.write(at, &bytes[..bytes.len().min(room)]).expect("inside");
        }
    }
    Some(())
}

/// A consumer whose producer is hostile. It starts where the memory says, with any bytes in the ring.
pub fn consumer(input: &mut Bytes<'_>) {
    let (memory, ring) = fresh();
    let resumed = input.u8().is_some_and(|choice| choice % 2 == 1);
    if resumed {
        let _ = strike(&memory, input);
    }
    let mut consumer = if resumed {
        let Ok(consumer) = Consumer::resume(ring) else { return };
        consumer
    } else {
        Consumer::new(ring)
    };
    let mut body = vec![0; 2048];
    while strike(&memory, input).is_some() {
        for _ in 0..MAX_PACKETS {
            match consumer.take(&mut body) {
                Ok(Some(incoming)) => {
                    let (header, payload) = incoming.split(&body);
                    assert_eq!(header.len() + payload.len(), incoming.body_len());
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
        assert!(consumer.uncommitted_bytes() < DATA_BYTES as u32);
        if consumer.commit().is_err() || consumer.unmask().is_err() {
            return;
        }
        assert_eq!(consumer.uncommitted_bytes(), 0);
    }
}

/// A producer whose consumer is hostile.
pub fn producer(input: &mut Bytes<'_>) {
    let (memory, ring) = fresh();
    let mut producer = Producer::new(ring);
    let payload = [0xA5; 3000];
    let mut id = 0;
    while strike(&memory, input).is_some() {
        let Some(choice) = input.u8() else { return };
        let len = usize::from(choice) * 11;
        for _ in 0..choice % 8 {
            id += 1;
            match producer.write(&Outgoing::request(TransactionId(id), &payload[..len])) {
                Ok(()) | Err(vmbus::ring::WriteError::Full { .. }) => {}
                Err(vmbus::ring::WriteError::Corrupt(_)) => return,
                Err(error) => panic!("{error}"),
            }
        }
        match producer.publish() {
            Ok(_) => {}
            Err(_) => return,
        }
        match producer.free_bytes() {
            Ok(free) => assert!(free < DATA_BYTES as u32),
            Err(_) => return,
        }
        if choice % 3 == 0 && producer.wait_for_space(u32::from(choice) * 32).is_err() {
            return;
        }
        assert_eq!(producer.ring().data_bytes(), DATA_BYTES as u32);
    }
}
