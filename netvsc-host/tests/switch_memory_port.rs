//! The user's end of a memory pair: bounded, closed cleanly, and usable from any executor.

use core::future::Future;
use core::pin::pin;
use core::task::{Context, Poll, Waker};
use core::time::Duration;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;
use std::thread;

use netvsc_host::port::{Frame, MemoryPort, Port, SendError, TryRecvError, memory_pair};

#[derive(Default)]
struct Count(AtomicUsize);

impl Count {
    fn wakes(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn counter() -> (Arc<Count>, Waker) {
    let count = Arc::new(Count::default());
    (Arc::clone(&count), Waker::from(count))
}

fn take_all(port: &mut impl Port) -> usize {
    port.poll(Duration::ZERO, usize::MAX, &mut |_| ())
}

#[test]
fn a_full_port_refuses_until_the_host_has_polled() {
    let (mut inside, outside) = memory_pair(2);
    outside.send(b"1").unwrap();
    outside.send(b"2").unwrap();
    assert_eq!(outside.send(b"3"), Err(SendError::Full { capacity: 2 }));
    assert_eq!(take_all(&mut inside), 2);
    assert_eq!(outside.send(b"3"), Ok(()));
}

#[test]
fn frames_keep_their_order() {
    let (mut inside, outside) = memory_pair(8);
    for number in 0..5 {
        assert!(inside.deliver(Frame::new(&[number])));
    }
    let received: Vec<u8> = core::iter::from_fn(|| outside.try_recv().ok()).map(|frame| frame[0]).collect();
    assert_eq!(received, [0, 1, 2, 3, 4]);
    assert_eq!(outside.try_recv().unwrap_err(), TryRecvError::Empty);
}

#[test]
fn the_host_is_woken_by_the_first_frame_and_stays_registered() {
    let (mut inside, outside) = memory_pair(8);
    let (count, waker) = counter();
    inside.register_waker(&waker);
    outside.send(b"1").unwrap();
    outside.send(b"2").unwrap();
    assert_eq!(count.wakes(), 1, "the second frame finds a host that is awake");
    take_all(&mut inside);
    outside.send(b"3").unwrap();
    assert_eq!(count.wakes(), 2);
}

#[test]
fn registering_late_loses_no_wake() {
    let (mut inside, outside) = memory_pair(8);
    outside.send(b"1").unwrap();
    let (count, waker) = counter();
    inside.register_waker(&waker);
    assert_eq!(count.wakes(), 1);
}

#[test]
fn every_waiting_receiver_hears_of_a_frame() {
    let (mut inside, outside) = memory_pair(8);
    let (first, first_waker) = counter();
    let (second, second_waker) = counter();
    for waker in [&first_waker, &first_waker, &second_waker] {
        assert!(outside.poll_recv(&mut Context::from_waker(waker)).is_pending());
    }
    assert!(inside.deliver(Frame::new(b"frame")));
    assert_eq!((first.wakes(), second.wakes()), (1, 1));
}

#[test]
fn a_sender_waits_for_room() {
    let (mut inside, outside) = memory_pair(1);
    outside.send(b"first").unwrap();
    let (count, waker) = counter();
    let mut cx = Context::from_waker(&waker);
    let mut sending = pin!(outside.send_when_ready(b"second"));
    assert!(sending.as_mut().poll(&mut cx).is_pending());
    assert_eq!(take_all(&mut inside), 1);
    assert_eq!(count.wakes(), 1);
    assert_eq!(sending.as_mut().poll(&mut cx), Poll::Ready(Ok(())));
    assert_eq!(take_all(&mut inside), 1);
}

#[test]
fn closing_ends_both_ends_after_the_last_frame() {
    let (mut inside, outside) = memory_pair(8);
    assert!(inside.deliver(Frame::new(b"last")));
    let (count, waker) = counter();
    assert!(outside.poll_recv(&mut Context::from_waker(&waker)).is_ready());
    assert!(outside.poll_recv(&mut Context::from_waker(&waker)).is_pending());
    assert!(inside.deliver(Frame::new(b"very last")));
    drop(inside);
    assert_eq!(count.wakes(), 1);
    assert_eq!(block_on(outside.recv()).as_deref(), Some(&b"very last"[..]));
    assert!(block_on(outside.recv()).is_none());
    assert_eq!(outside.try_recv().unwrap_err(), TryRecvError::Closed);
    assert_eq!(outside.send(b"more"), Err(SendError::Closed));

    let (mut inside, outside) = memory_pair(8);
    drop(outside);
    assert!(!inside.deliver(Frame::new(b"to nobody")));
}

#[test]
fn a_thread_echoes_what_another_sends() {
    const FRAMES: u32 = 10_000;
    let (mut inside, outside) = memory_pair(16);
    let host = thread::spawn(move || {
        let host = thread::current();
        let waker = Waker::from(Arc::new(Unpark(host)));
        let mut left = FRAMES;
        let mut back = Vec::new();
        while left > 0 {
            inside.register_waker(&waker);
            let taken = inside.poll(Duration::ZERO, 8, &mut |frame| back.push(frame.bytes.to_vec()));
            for frame in back.drain(..) {
                while !inside.deliver(Frame::new(&frame)) {
                    thread::yield_now();
                }
                left -= 1;
            }
            if taken == 0 {
                thread::park();
            }
        }
        inside
    });
    let received = block_on(async {
        let send = async {
            for number in 0..FRAMES {
                outside.send_when_ready(&number.to_be_bytes()).await.unwrap();
            }
        };
        let receive = async {
            let mut received = Vec::new();
            while received.len() < FRAMES as usize {
                let frame = outside.recv().await.unwrap();
                received.push(u32::from_be_bytes(frame.as_ref().try_into().unwrap()));
            }
            received
        };
        futures::future::join(send, receive).await.1
    });
    assert!(received.into_iter().eq(0..FRAMES));
    drop(host.join().unwrap());
}

/// Runs a future on this thread, which sleeps while there is nothing to do.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        thread::park();
    }
}

struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[test]
fn the_users_end_goes_to_any_thread() {
    fn check<T: Send + Sync + Unpin + 'static>() {}
    check::<MemoryPort>();
    check::<netvsc_host::port::ReceivedFrame>();
}
