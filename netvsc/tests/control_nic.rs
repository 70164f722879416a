//! The whole device on a bus of this file's own: rings, memory, doorbells, and a host that runs on the same thread.

mod control_host;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use control_host::{React, answer, receive_answer};
use netvsc::{CloseReport, Config, Event, Instant, Nic};
use nvsp::{
    ChannelType, InitComplete, Message, RndisPacket, RndisPacketComplete, SendSendBufferComplete, Sender, Status,
};
use vmbus::bus::{BufferWish, Bus, BusEvent, ChannelInfo, Purpose, RelId, RingSizes};
use vmbus::gpadl::GpadlId;
use vmbus::guid::Guid;
use vmbus::mem::{Latch, MemChannel};
use vmbus::memory::{HeapMemory, SharedMemoryExt};
use vmbus::packet::{PacketType, TransactionId, TransferPages, TransferRange};
use vmbus::ring::{Consumer, MappedRing, Outgoing, Producer};

const CHANNEL: RelId = RelId(5);

/// The host's ends of the rings.
type Rings = (Consumer<MappedRing<HeapMemory>>, Producer<MappedRing<HeapMemory>>);

/// Bus and host in one.
#[derive(Default)]
struct TestBus {
    events: VecDeque<BusEvent>,
    channel: Option<MemChannel>,
    rings: Option<Rings>,
    receive: Option<HeapMemory>,
    send: Option<HeapMemory>,
    gpadls: u32,
    released: usize,
    closed: bool,
    acks: usize,
    seen: Vec<u32>,
}

impl TestBus {
    fn new() -> Self {
        let guid = Guid::default();
        let offer = BusEvent::Offered(ChannelInfo::new(CHANNEL, guid, guid, 0));
        Self { events: VecDeque::from([offer]), ..Self::default() }
    }

    /// Says something over RNDIS, in a range that ends with it.
    fn tell(&mut self, message: &[u8]) {
        self.receive.as_ref().unwrap().write(0, message).unwrap();
        let mut header = TransferPages::fixed_header(0xCAFE, 1).to_vec();
        header.extend(TransferRange { byte_count: message.len() as u32, byte_offset: 0 }.to_bytes());
        let payload: [u8; 40] = RndisPacket::without_section(ChannelType::CONTROL).to_array();
        let (_, producer) = self.rings.as_mut().unwrap();
        let transfer = Outgoing {
            packet_type: PacketType::TRANSFER_PAGES,
            header: &header,
            ..Outgoing::request(TransactionId(15), &payload)
        };
        producer.write(&transfer).unwrap();
        let _ = producer.publish().unwrap();
    }

    /// Takes one packet off the ring and answers it.
    fn answer_one(&mut self) -> bool {
        let Some((consumer, producer)) = self.rings.as_mut() else { return false };
        let mut body = vec![0; 8192];
        let Some(incoming) = consumer.take(&mut body).unwrap() else { return false };
        let (id, packet_type) = (incoming.descriptor.transaction_id, incoming.descriptor.packet_type);
        let payload = incoming.split(&body).1.to_vec();
        let _ = consumer.commit().unwrap();
        if packet_type == PacketType::COMPLETION {
            self.acks += 1;
            return true;
        }
        let message = Message::parse(&payload, Sender::Guest).unwrap();
        self.seen.push(message.message_type().0);
        let mut out = vec![0; 40];
        match message {
            Message::Init(_) => {
                let version = InitComplete::DEPRECATED_VERSION;
                InitComplete { version, max_mdl_chain_len: 34, status: Status::SUCCESS }.emit(&mut out).unwrap();
            }
            Message::SendReceiveBuffer(_) => out = receive_answer(Status::SUCCESS, 0, 1806, 100),
            Message::SendSendBuffer(_) => {
                SendSendBufferComplete { status: Status::SUCCESS, section_size: 6144 }.emit(&mut out).unwrap();
            }
            Message::RndisPacket(packet) => {
                RndisPacketComplete { status: Status::SUCCESS }.emit(&mut out).unwrap();
                producer.write(&Outgoing::completion(id, &out)).unwrap();
                let _ = producer.publish().unwrap();
                let section = packet.section.expect("this bus knows no addresses").get() as usize;
                let mut request = vec![0; packet.section_bytes as usize];
                self.send.as_ref().unwrap().read(section * 6144, &mut request).unwrap();
                if let Some(answer) = answer(&request, &React::Normal) {
                    self.tell(&answer);
                }
                return true;
            }
            // No answer follows.
            _ => return true,
        }
        producer.write(&Outgoing::completion(id, &out)).unwrap();
        let _ = producer.publish().unwrap();
        true
    }
}

impl vmbus::ErrorType for TestBus {
    type Error = Infallible;
}

impl Bus for TestBus {
    type Memory = HeapMemory;
    type Channel = MemChannel;

    fn allocate(&mut self, _: RelId, wish: BufferWish) -> Result<HeapMemory, Infallible> {
        self.gpadls += 1;
        let gpadl = GpadlId(self.gpadls);
        let memory = HeapMemory::zeroed(wish.bytes);
        Ok(match wish.purpose {
            // Nobody knows the address of its pages.
            Purpose::Direct => memory,
            purpose => {
                let memory = memory.with_gpadl(gpadl);
                self.events.push_back(BusEvent::GpadlCreated(gpadl));
                let slot = if purpose == Purpose::Receive { &mut self.receive } else { &mut self.send };
                *slot = Some(memory.clone());
                memory
            }
        })
    }

    fn release(&mut self, _: RelId, memory: HeapMemory) {
        self.released += 1;
        if let Some(gpadl) = vmbus::memory::SharedMemory::gpadl(&memory) {
            self.events.push_back(BusEvent::GpadlTornDown(gpadl));
        }
    }

    fn open(&mut self, channel: RelId, rings: RingSizes) -> Result<(), Infallible> {
        let outgoing = HeapMemory::zeroed(rings.outgoing_bytes);
        let incoming = HeapMemory::zeroed(rings.incoming_bytes);
        let consumer = Consumer::new(MappedRing::new(outgoing.clone(), 4096).unwrap());
        let producer = Producer::new(MappedRing::new(incoming.clone(), 4096).unwrap());
        self.rings = Some((consumer, producer));
        let info = ChannelInfo::new(channel, Guid::default(), Guid::default(), 0);
        self.channel = Some(MemChannel::new(info, outgoing, incoming, Latch::new(), Latch::new()));
        self.events.push_back(BusEvent::Opened(channel));
        Ok(())
    }

    fn take(&mut self, _: RelId) -> Option<MemChannel> {
        self.channel.take()
    }

    fn close(&mut self, _: RelId) {
        // The revokes stand in the ring; a host that closes without reading them is no worse off.
        while self.answer_one() {}
        self.closed = true;
        self.rings = None;
    }

    fn poll_event(&mut self, _: &mut Context<'_>) -> Poll<Result<BusEvent, Infallible>> {
        self.events.pop_front().map_or(Poll::Pending, |event| Poll::Ready(Ok(event)))
    }

    fn run_host(&mut self) -> bool {
        self.answer_one()
    }
}

/// Polls until nothing has happened for a while, with the queue taken as soon as there is one or never.
fn run(nic: &mut Nic<TestBus>, queue: &mut Option<netvsc::Queue<MemChannel>>, take: bool) -> Vec<Event> {
    let mut cx = Context::from_waker(Waker::noop());
    let mut events = Vec::new();
    for _ in 0..500 {
        nic.poll(Instant::ZERO, &mut cx, queue.as_mut()).unwrap();
        if take && queue.is_none() {
            *queue = nic.take_queue();
        }
        events.extend(std::iter::from_fn(|| nic.poll_event()));
    }
    events
}

#[test]
fn a_device_comes_up_and_is_closed_whoever_holds_its_queue() {
    for take in [false, true] {
        let mut nic = Nic::new(TestBus::new(), Config::default(), Instant::ZERO).unwrap();
        let mut queue = None;
        let events = run(&mut nic, &mut queue, take);
        assert!(matches!(events[..], [Event::Ready(_)]), "{events:?}");
        assert_eq!(queue.is_some(), take);
        let info = nic.info().unwrap();
        assert!(!info.direct && info.receive.count == 100 && info.send.unwrap().count == 170);
        assert_eq!(nic.bus_mut().released, 1, "memory whose addresses are not known is given back");

        let request = nic.query(Instant::ZERO, rndis::Oid::LINK_SPEED).unwrap();
        let events = run(&mut nic, &mut queue, take);
        assert_eq!(events, [Event::Answered { request, result: Ok(100_000_000u32.to_le_bytes().to_vec()) }]);
        assert!(nic.bus_mut().acks > 10, "every answer was acknowledged");

        nic.close(Instant::ZERO);
        let events = run(&mut nic, &mut queue, take);
        assert_eq!(events, [Event::Closed(CloseReport::default())]);
        assert!(nic.is_over() && nic.next_timeout().is_none());
        let bus = nic.bus_mut();
        assert!(bus.closed);
        assert_eq!(bus.released, 3);
        assert_eq!(bus.seen[bus.seen.len() - 3..], [107, 103, 106], "halt, and both buffers revoked");
    }
}

/// On a machine that had better things to do, or that stood still: its host was not silent.
#[test]
fn an_answer_that_came_in_time_counts_however_late_it_is_heard() {
    let mut nic = Nic::new(TestBus::new(), Config::default(), Instant::ZERO).unwrap();
    let (mut queue, mut now, mut events) = (None, Instant::ZERO, Vec::new());
    for _ in 0..100 {
        nic.poll(now, &mut Context::from_waker(Waker::noop()), queue.as_mut()).unwrap();
        queue = queue.or_else(|| nic.take_queue());
        events.extend(std::iter::from_fn(|| nic.poll_event()));
        while nic.bus_mut().answer_one() {}
        now += Duration::from_secs(3600);
    }
    assert!(matches!(events[..], [Event::Ready(_)]), "{events:?}");
    assert_eq!(nic.counters().timeouts, 0);
}

#[test]
fn a_rescind_ends_the_device() {
    let mut nic = Nic::new(TestBus::new(), Config::default(), Instant::ZERO).unwrap();
    let mut queue = None;
    run(&mut nic, &mut queue, true);
    nic.bus_mut().events.push_back(BusEvent::Rescinded(CHANNEL));
    let events = run(&mut nic, &mut queue, true);
    assert!(matches!(events[..], [Event::Gone(report)] if report.host_gone), "{events:?}");
    assert!(nic.bus_mut().closed && nic.bus_mut().released == 3);
}

#[test]
fn a_device_whose_queue_was_dropped_is_closed_all_the_same() {
    let mut nic = Nic::new(TestBus::new(), Config::default(), Instant::ZERO).unwrap();
    let mut queue = None;
    run(&mut nic, &mut queue, true);
    drop(queue);
    let mut now = Instant::ZERO;
    nic.close(now);
    let mut events = Vec::new();
    for _ in 0..20 {
        nic.poll(now, &mut Context::from_waker(Waker::noop()), None).unwrap();
        events.extend(std::iter::from_fn(|| nic.poll_event()));
        now = nic.next_timeout().unwrap_or(now);
    }
    assert!(matches!(events[..], [Event::Closed(_)]), "{events:?}");
    assert!(nic.bus_mut().closed && nic.bus_mut().released == 3);
}

#[test]
fn an_old_hosts_indication_keeps_its_buffer() {
    let mut nic = Nic::new(TestBus::new(), Config::default(), Instant::ZERO).unwrap();
    let mut queue = None;
    run(&mut nic, &mut queue, true);
    let speed = rndis::Status::LINK_SPEED_CHANGE;
    let indication = rndis::control::IndicateStatus { status: speed, buffer: &[1, 0, 0, 0], buffer_counted: false };
    let mut bytes = vec![0; 24];
    indication.emit(&mut bytes).unwrap();
    nic.bus_mut().tell(&bytes);
    assert_eq!(run(&mut nic, &mut queue, true), [Event::LinkSpeed(netvsc::LinkSpeed(1))]);
}
