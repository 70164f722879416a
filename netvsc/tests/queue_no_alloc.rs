//! The data path does not allocate: counted by the allocator itself.

mod queue_host;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use netvsc::meta::TxMeta;
use netvsc::queue::Burst;
use nvsp::{ChannelType, RndisPacket, RndisPacketComplete, Status};
use vmbus::packet::{PacketType, TransactionId, TransferPages};
use vmbus::ring::Outgoing;

use queue_host::{SET_ID, Setup, frame, pair};

/// The system's allocator, counting for the thread that asks.
struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: passes everything on to the system's allocator unchanged; counting neither allocates nor unwinds.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's contract is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is the same.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations() -> u64 {
    COUNT.with(Cell::get)
}

#[test]
fn the_counter_counts() {
    let before = allocations();
    drop(std::hint::black_box(vec![0u8; 100]));
    assert_eq!(allocations(), before + 1);
}

#[test]
fn frames_allocate_nothing() {
    let (mut queue, mut host) = pair(Setup { direct_pages: 16, ring_bytes: 16384, ..Setup::default() });
    let mut burst = Burst::new(64, 256 * 1024);
    let received = frame(1, 1000);
    let ranges: Vec<_> = (0..32).map(|section| host.put_frame(section, &received).to_bytes()).collect();
    let mut header = TransferPages::fixed_header(SET_ID, ranges.len() as u32).to_vec();
    header.extend(ranges.concat());
    let transfer: [u8; 40] = RndisPacket::without_section(ChannelType::DATA).to_array();
    let completion: [u8; 8] = RndisPacketComplete { status: Status::SUCCESS }.to_array();
    let (small, large) = (frame(2, 100), frame(3, 9000));
    let mut body = vec![0; 8192];
    let mut ids = Vec::with_capacity(64);
    let (mut sent, mut got) = (0, 0);

    let before = allocations();
    for turn in 0..1000u64 {
        for _ in 0..20 {
            queue.send(&small, &TxMeta::default()).unwrap();
        }
        queue.send(&large, &TxMeta::default()).unwrap();
        sent += 21;
        queue.flush().unwrap();
        // The host, without this file's helpers, which allocate.
        while let Some(incoming) = host.consumer.take(&mut body).unwrap() {
            if incoming.descriptor.packet_type != PacketType::COMPLETION {
                ids.push(incoming.descriptor.transaction_id);
            }
        }
        let _ = host.consumer.commit().unwrap();
        for id in ids.drain(..) {
            host.producer.write(&Outgoing::completion(id, &completion)).unwrap();
        }
        let id = TransactionId(turn + 1);
        let packet =
            Outgoing { packet_type: PacketType::TRANSFER_PAGES, header: &header, ..Outgoing::request(id, &transfer) };
        host.producer.write(&packet).unwrap();
        let _ = host.producer.publish().unwrap();
        got += queue.receive(&mut burst, 64).unwrap();
        assert!(burst.frames().all(|frame| frame.bytes == received));
        burst.clear();
        assert!(queue.pump().unwrap().completions < 64);
        queue.arm().unwrap();
        queue.mask();
    }
    let allocated = allocations() - before;
    assert_eq!(allocated, 0, "{sent} frames sent and {got} received");
    assert_eq!((queue.stats().tx.packets, queue.stats().rx.packets), (sent, got as u64));
    assert_eq!((sent, got), (21_000, 32_000));
}
