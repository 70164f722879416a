//! Queues of a device dealt out among those of an adapter: nobody waits for ever, and what is lost is told.

mod vf_rings;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use netvsc::meta::RxMeta;
use netvsc::queue::{Burst, FrameSink};
use netvsc::rss::{RssKey, RssSettings};
use netvsc::vf::{Lock, Mux, OneThread, RxRules, Share, Surroundings, VfQueue, VfSendError};
use rndis::rss::HashInfo;
use vf_rings::Rings;

/// A queue that receives what it is given.
#[derive(Clone, Default)]
struct Fake(Rc<RefCell<VecDeque<Vec<u8>>>>);

impl Fake {
    fn put(&self, frame: Vec<u8>) {
        self.0.borrow_mut().push_back(frame);
    }
}

impl VfQueue for Fake {
    fn send(&mut self, _: &[u8]) -> Result<(), VfSendError> {
        Err(VfSendError::NotReady)
    }

    fn room(&mut self) -> usize {
        0
    }

    fn flush(&mut self) {}

    fn outstanding(&mut self) -> usize {
        0
    }

    fn has_received(&mut self) -> bool {
        !self.0.borrow().is_empty()
    }

    fn receive<S: FrameSink>(&mut self, sink: &mut S, max: usize) -> usize {
        let mut queue = self.0.borrow_mut();
        let mut got = 0;
        while got < max
            && let Some(frame) = queue.front()
            && let Some(room) = sink.buffer(frame.len())
        {
            room.copy_from_slice(frame);
            sink.commit(frame.len(), RxMeta::default());
            queue.pop_front();
            got += 1;
        }
        got
    }

    fn receive_capacity(&self) -> usize {
        16
    }
}

/// A frame for the adapter's first queue: it is no IP.
fn for_first(mark: u8) -> Vec<u8> {
    let mut frame = vec![mark; 60];
    frame[12..14].copy_from_slice(&[0x88, 0xB5]);
    frame
}

/// A frame for the adapter's second queue: TCP.
fn for_second() -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend([8, 0, 0x45, 0, 0, 40, 0, 1, 0, 0, 64, 6, 0, 0, 198, 51, 100, 1, 198, 51, 100, 2]);
    frame.extend([0x0A, 0xEA, 0x06, 0xE6, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0, 0, 0, 0, 0, 0, 0]);
    frame
}

/// All flows are for the second of the adapter's queues.
fn rules() -> Arc<RxRules> {
    let hash_types = HashInfo::TOEPLITZ | HashInfo::IPV4 | HashInfo::TCP_IPV4;
    let scaling = RssSettings { key: RssKey::default(), hash_types, table: vec![1] };
    Arc::new(RxRules::new(false, Some(&scaling)))
}

fn deal(queues: &[Fake], adapter: &[u16]) -> Vec<Share<Fake, OneThread>> {
    Share::deal(OneThread, queues.to_vec(), adapter, rules())
}

/// The marks of what it receives.
fn receive<S: Surroundings>(share: &mut Share<Fake, S>, max: usize) -> Vec<u8> {
    let mut burst = Burst::new(64, 8192);
    assert_eq!(share.receive(&mut burst, max), burst.len());
    burst.frames().map(|frame| frame.bytes[0]).collect()
}

#[test]
fn what_is_for_one_who_has_gone_is_told_by_who_stays() {
    let queues = [Fake::default(), Fake::default()];
    let mut shares = deal(&queues, &[0, 1]);
    let second = shares.pop().expect("two");
    let first = &mut shares[0];
    queues[0].put(for_second());
    assert_eq!(receive(first, 8), []);
    assert_eq!(first.take_received_lost(), 0, "it is in the mailbox");
    drop(second);
    assert_eq!(first.take_received_lost(), 1, "which is no more");
    queues[0].put(for_second());
    queues[1].put(for_second());
    first.collect();
    assert_eq!(first.take_received_lost(), 2, "came too late");
    assert_eq!(first.take_received_lost(), 0, "is told once");
}

#[test]
fn a_queue_that_takes_all_the_room_leaves_the_others_their_turn() {
    let queues = [Fake::default(), Fake::default()];
    let mut shares = deal(&queues, &[0]);
    queues[1].put(for_first(1));
    let mut got = Vec::new();
    for _ in 0..4 {
        (0..4).for_each(|_| queues[0].put(for_first(0)));
        got.extend(receive(&mut shares[0], 4));
    }
    assert_eq!(got.iter().filter(|mark| **mark == 1).count(), 1, "{got:?}");
}

#[test]
fn who_is_never_idle_gets_what_came_by_the_queue_of_one_who_does_not_come() {
    let queues = [Fake::default(), Fake::default()];
    let mut shares = deal(&queues, &[0, 1]);
    queues[1].put(for_first(1));
    let mut got = Vec::new();
    for _ in 0..200 {
        queues[0].put(for_first(0));
        got.extend(receive(&mut shares[0], 4));
    }
    assert_eq!(got.iter().filter(|mark| **mark == 1).count(), 1, "{}", got.len());
}

#[test]
fn a_mailbox_that_nobody_empties_holds_what_the_device_does_and_no_more() {
    const CAPACITY: usize = 2 * 16;
    let queues = [Fake::default(), Fake::default()];
    let mut shares = deal(&queues, &[0, 1]);
    for _ in 0..CAPACITY + 5 {
        queues[0].put(for_second());
        assert_eq!(receive(&mut shares[0], 8), []);
    }
    assert_eq!(shares[0].take_received_lost(), 0, "who they are for tells of them");
    assert_eq!((shares[1].take_steered(), shares[1].take_received_lost()), (CAPACITY as u64, 5));
    assert_eq!(receive(&mut shares[1], 64).len(), CAPACITY);
    queues[0].put(for_second());
    shares[1].collect();
    assert_eq!(receive(&mut shares[1], 64).len(), 1, "there is room again");
}

/// A frame of a flow is behind those that were taken out of the same queue before, also if it would fit where they do not.
#[test]
fn what_is_in_the_mailbox_has_to_go_before_anything_is_taken_out_of_a_queue() {
    let queues = [Fake::default(), Fake::default()];
    let mut shares = deal(&queues, &[0, 1]);
    let mut long = for_first(1);
    long.resize(1000, 1);
    queues[0].put(long);
    shares[1].collect();
    queues[0].put(for_first(2));
    let mut burst = Burst::new(8, 2048);
    burst.buffer(1500).expect("it is empty");
    burst.commit(1500, RxMeta::default());
    assert_eq!(shares[0].receive(&mut burst, 8), 0, "there is room for the second frame alone");
    assert_eq!(receive(&mut shares[0], 8), [1, 2]);
}

/// So many locks are taken before this is done.
type Meanwhile = (usize, Box<dyn FnOnce()>);

thread_local! {
    /// What others do before a lock is taken.
    static MEANWHILE: RefCell<Option<Meanwhile>> = const { RefCell::new(None) };
    /// Locks that are held.
    static HELD: Cell<usize> = const { Cell::new(0) };
}

/// A lock that others may have had until it is taken.
struct Contended<T>(RefCell<T>);

impl<T> Lock<T> for Contended<T> {
    fn new(value: T) -> Self {
        Self(RefCell::new(value))
    }

    fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        if HELD.get() == 0 {
            let due = MEANWHILE.with_borrow_mut(|meanwhile| {
                if let Some((locks, _)) = meanwhile.as_mut()
                    && let Some(left) = locks.checked_sub(1)
                {
                    *locks = left;
                    return None;
                }
                meanwhile.take()
            });
            if let Some((_, work)) = due {
                work();
            }
        }
        HELD.set(HELD.get() + 1);
        let result = work(&mut self.0.borrow_mut());
        HELD.set(HELD.get() - 1);
        result
    }
}

#[derive(Clone, Copy)]
struct Threads;

impl Surroundings for Threads {
    type Lock<T> = Contended<T>;

    fn call(&self, _: usize) {}
}

/// Whatever others take out of its queue, and whenever: what came first is received first.
#[test]
fn frames_of_a_queue_keep_their_order_whoever_takes_them_out_of_it() {
    let mut moments = 0;
    for locks in 0.. {
        let queues = [Fake::default(), Fake::default()];
        let mut shares = Share::deal(Threads, queues.to_vec(), &[0, 1], rules());
        let mut other = shares.pop().expect("two");
        queues[0].put(for_first(1));
        queues[0].put(for_first(2));
        let queue = queues[0].clone();
        let meanwhile = move || {
            other.collect();
            queue.put(for_first(3));
            queue.put(for_second());
        };
        MEANWHILE.set(Some((locks, Box::new(meanwhile))));
        let mut got = receive(&mut shares[0], 8);
        if MEANWHILE.take().is_some() {
            break;
        }
        moments += 1;
        got.extend(receive(&mut shares[0], 8));
        assert_eq!(got, [1, 2, 3], "before lock {locks}");
    }
    assert!(moments >= 2, "{moments}");
}

/// A queue of the adapter with its part of the VF.
fn lane(share: Share<Fake, OneThread>) -> Mux<Share<Fake, OneThread>> {
    let mut mux = Mux::new();
    mux.attach(share);
    mux
}

/// Lets go of the device; frames that are told of as lost.
fn detach(lanes: &mut [Mux<Share<Fake, OneThread>>]) -> u64 {
    let told = lanes.iter_mut().map(|mux| {
        assert_eq!(mux.detach(), 0);
        mux.take_received_lost()
    });
    told.sum()
}

/// As counted.
fn dropped(lanes: &[Mux<Share<Fake, OneThread>>]) -> u64 {
    lanes.iter().map(|mux| mux.stats().vf_rx_dropped).sum()
}

/// Its owner has not looked yet, and the host has taken the traffic back since.
#[test]
fn what_lies_in_the_queue_of_another_comes_before_what_came_by_the_rings_after_it() {
    let queues = [Fake::default(), Fake::default()];
    let mut lanes: Vec<_> = deal(&queues, &[0, 1]).into_iter().map(lane).collect();
    lanes.iter_mut().for_each(|lane| lane.receive_from_both(0));
    let mut rings = Rings::default();
    queues[1].put(for_first(1));
    rings.ring.push_back(Some(for_first(2)));
    let mut burst = Burst::new(8, 2048);
    assert_eq!(lanes[0].receive(&mut rings, &mut burst, 8), Ok(2));
    assert_eq!(burst.frames().map(|frame| frame.bytes[0]).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn what_a_device_held_that_was_not_received_from_is_counted_once() {
    let queues = [Fake::default(), Fake::default(), Fake::default()];
    let mut lanes: Vec<_> = deal(&queues, &[0, 1]).into_iter().map(lane).collect();
    queues[0].put(for_first(1));
    queues[0].put(for_second());
    queues[1].put(for_first(1));
    queues[1].put(for_second());
    queues[2].put(for_second());
    lanes[1].vf_mut().expect("attached").collect();
    queues[2].put(for_first(2));
    assert_eq!(detach(&mut lanes[..1]), 3);
    queues[0].put(for_first(3));
    assert_eq!(detach(&mut lanes), 4, "of the first one's as well");
    assert_eq!(dropped(&lanes), 7);
}

/// The first queue was to receive it, and has let go of the device; or both have stopped receiving by it.
#[test]
fn what_comes_too_late_is_counted_once() {
    for stops in [false, true] {
        let queues = [Fake::default(), Fake::default()];
        let mut lanes: Vec<_> = deal(&queues, &[0, 1]).into_iter().map(lane).collect();
        lanes.iter_mut().for_each(|lane| lane.receive_from_both(0));
        queues[0].put(for_first(1));
        queues[1].put(for_second());
        if stops {
            lanes.iter_mut().for_each(Mux::receive_from_rings);
        } else {
            assert_eq!(detach(&mut lanes[..1]), 0);
        }
        queues[0].put(for_first(2));
        queues[1].put(for_first(3));
        assert_eq!((detach(&mut lanes), dropped(&lanes)), (2, 2), "stops: {stops}");
        let mut burst = Burst::new(8, 2048);
        let kept: usize = lanes.iter_mut().map(|lane| lane.receive_kept(&mut burst, 8)).sum();
        assert_eq!((kept, burst.len()), (2, 2), "what came in time is received");
    }
}
