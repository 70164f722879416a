//! A frame through a queue, there and back.

use netvsc::meta::TxMeta;
use netvsc::queue::{Burst, Queue, QueueSettings, ReceiveBuffer, SendBuffer};
use nvsp::{BufferId, ChannelType, RndisPacket};
use vmbus::memory::{HeapMemory, PAGE_SIZE, SharedMemoryExt};
use vmbus::packet::{PacketType, TransactionId, TransferPages, TransferRange};
use vmbus::ring::{Consumer, MappedRing, Outgoing, Producer};

use crate::bus::Rings;

const SECTION_BYTES: u32 = 2048;

/// The guest sends a frame by a section; the host hands the same message back; the guest receives the frame.
pub fn there_and_back() -> Option<()> {
    let rings = Rings::new();
    let mut host_in = Consumer::new(MappedRing::new(rings.outgoing.clone(), PAGE_SIZE).ok()?);
    let mut host_out = Producer::new(MappedRing::new(rings.incoming.clone(), PAGE_SIZE).ok()?);
    let (receive, send) = (HeapMemory::zeroed(4 * PAGE_SIZE), HeapMemory::zeroed(4 * PAGE_SIZE));
    let mut queue = Queue::new(rings.into_channel(), QueueSettings::default()).ok()?;
    let set_id = BufferId::RECEIVE.0;
    queue
        .attach_receive(ReceiveBuffer { memory: receive.clone(), set_id, section_bytes: SECTION_BYTES, sections: 8 })
        .ok()?;
    queue.attach_send(SendBuffer { memory: send.clone(), section_bytes: SECTION_BYTES, sections: 0..8 }).ok()?;

    let frame: [u8; 200] = core::array::from_fn(|at| at as u8);
    queue.send(&frame, &TxMeta::default()).ok()?;
    queue.flush().ok()?;

    let mut body = [0; 256];
    let incoming = host_in.take(&mut body).ok()??;
    let sent = RndisPacket::parse(incoming.split(&body).1).ok()?;
    let mut message = [0; SECTION_BYTES as usize];
    let message = message.get_mut(..sent.section_bytes as usize)?;
    send.read((sent.section?.get() * SECTION_BYTES) as usize, message).ok()?;
    receive.write(SECTION_BYTES as usize, message).ok()?;
    let range = TransferRange { byte_count: sent.section_bytes, byte_offset: SECTION_BYTES };
    let mut header = [0; 16];
    header[..8].copy_from_slice(&TransferPages::fixed_header(set_id, 1));
    header[8..].copy_from_slice(&range.to_bytes());
    let handed = Outgoing {
        packet_type: PacketType::TRANSFER_PAGES,
        completion_requested: true,
        transaction_id: TransactionId(7),
        header: &header,
        payload: &RndisPacket::without_section(ChannelType::DATA).to_array::<40>(),
    };
    host_out.write(&handed).ok()?;
    // Guest and host take turns: nobody sleeps, nobody has to be signalled.
    let _ = host_out.publish().ok()?;

    let mut burst = Burst::new(4, 8192);
    let frames = queue.receive(&mut burst, 4).ok()?;
    (frames == 1 && burst.get(0)?.bytes == frame && queue.owed_acks() == 0).then_some(())
}
