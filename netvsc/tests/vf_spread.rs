//! Queues of a device dealt out among those of an adapter: nobody waits for ever, and what is lost is told.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use netvsc::meta::RxMeta;
use netvsc::queue::{Burst, FrameSink};
use netvsc::rss::{RssKey, RssSettings};
use netvsc::vf::{OneThread, RxRules, Share, VfQueue, VfSendError};
use rndis::rss::HashInfo;

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
fn deal(queues: &[Fake], adapter: &[u16]) -> Vec<Share<Fake, OneThread>> {
    let hash_types = HashInfo::TOEPLITZ | HashInfo::IPV4 | HashInfo::TCP_IPV4;
    let scaling = RssSettings { key: RssKey::default(), hash_types, table: vec![1] };
    Share::deal(OneThread, queues.to_vec(), adapter, Arc::new(RxRules::new(false, Some(&scaling))))
}

/// The marks of what it receives.
fn receive(share: &mut Share<Fake, OneThread>, max: usize) -> Vec<u8> {
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
