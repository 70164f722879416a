//! Sending: frames to slots of the ring, and the kernel's attention to them.

use std::os::fd::BorrowedFd;

use netvsc::vf::VfSendError;
use rustix::io::Errno;
use rustix::net::{SendFlags, send};

use super::ring::{HEADER, IDLE, Slots};
use super::unfinished::{VIRTIO_HEADER, header_to_send};

/// `TP_STATUS_SEND_REQUEST`: to be sent, and not yet looked at.
const REQUESTED: u32 = 1;

/// Bytes of a slot before the frame: the kernel looks for what is sent right behind the slot's header (`tp_hdrlen` less a
/// `sockaddr_ll`).
pub(super) const BEFORE_FRAME: usize = HEADER + VIRTIO_HEADER;

/// What the kernel said when it was told to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// It has taken all.
    All,
    /// It has not taken all: there is no room behind it.
    Congested,
    /// The interface is down.
    Down,
    /// The interface is not there any longer.
    Gone,
}

/// The send ring.
///
/// ```text
///  oldest ───────► unsent ───────► next ───────► (oldest)
///    the kernel has it  waits for it   free
/// ```
#[derive(Debug)]
pub(super) struct Transmitter {
    slots: Slots,
    /// The slot that is filled next.
    next: usize,
    /// The first of those that the kernel may not have given back.
    oldest: usize,
    /// How many those are.
    taken: usize,
    /// Of those, how many the kernel has not been told of, or has not taken. They are the last ones.
    unsent: usize,
    withdrawn: u64,
    /// Of those, how many were told of by [`take_lost`](Self::take_lost).
    told: u64,
}

impl Transmitter {
    pub(super) fn new(slots: Slots) -> Self {
        Self { slots, next: 0, oldest: 0, taken: 0, unsent: 0, withdrawn: 0, told: 0 }
    }

    /// Longest frame that a slot holds.
    pub(super) fn longest(&self) -> usize {
        (self.slots.slot_bytes() - BEFORE_FRAME).min(usize::from(u16::MAX))
    }

    /// Frames that were taken and never handed to the interface.
    pub(super) fn withdrawn(&self) -> u64 {
        self.withdrawn
    }

    /// Those of them that this has not told of before.
    pub(super) fn take_lost(&mut self) -> u64 {
        self.withdrawn - std::mem::replace(&mut self.told, self.withdrawn)
    }

    /// Whether the kernel has to be told of frames.
    #[inline]
    pub(super) fn has_unsent(&self) -> bool {
        self.unsent > 0
    }

    /// Free slots.
    #[inline]
    pub(super) fn room(&mut self) -> usize {
        self.reclaim();
        self.slots.len() - self.taken
    }

    /// Frames that the interface has not sent.
    #[inline]
    pub(super) fn outstanding(&mut self) -> usize {
        self.reclaim();
        self.taken
    }

    /// Puts a frame into a slot.
    #[inline]
    pub(super) fn put(&mut self, frame: &[u8]) -> Result<(), VfSendError> {
        if self.taken == self.slots.len() && self.room() == 0 {
            return Err(VfSendError::Full);
        }
        let limit = self.longest();
        let too_long = VfSendError::TooLong { len: frame.len(), limit };
        let len = u16::try_from(frame.len()).ok().filter(|_| frame.len() <= limit).ok_or(too_long)?;
        if !self.slots.write(self.next, HEADER, &header_to_send(len))
            || !self.slots.write(self.next, BEFORE_FRAME, frame)
        {
            return Err(too_long);
        }
        self.slots.set_len(self.next, u32::from(len) + VIRTIO_HEADER as u32);
        self.slots.set_status(self.next, REQUESTED);
        self.next = self.slots.after(self.next);
        self.taken += 1;
        self.unsent += 1;
        Ok(())
    }

    /// Has the kernel send what is in the ring.
    pub(super) fn tell(&mut self, socket: BorrowedFd<'_>) -> Told {
        // That an interface was down is told once, even if it is up again.
        let mut old = true;
        let told = loop {
            match send(socket, &[], SendFlags::DONTWAIT) {
                Ok(_) => break Told::All,
                Err(Errno::INTR) => {}
                Err(Errno::NETDOWN) if std::mem::take(&mut old) => {}
                Err(Errno::NETDOWN) => break Told::Down,
                Err(Errno::NXIO | Errno::NODEV) => break Told::Gone,
                Err(_) => break Told::Congested,
            }
        };
        self.count_unsent();
        if self.unsent == 0 {
            Told::All
        } else if told == Told::All {
            Told::Congested
        } else {
            told
        }
    }

    /// Takes back what the kernel has not taken: it is not sent, now or later.
    pub(super) fn withdraw(&mut self) {
        self.count_unsent();
        for _ in 0..self.unsent {
            self.next = self.next.checked_sub(1).unwrap_or(self.slots.len() - 1);
            self.slots.set_status(self.next, IDLE);
        }
        self.taken -= self.unsent;
        self.withdrawn += self.unsent as u64;
        self.unsent = 0;
    }

    /// The kernel takes slots in order, so those that it has not taken are the last ones.
    fn count_unsent(&mut self) {
        while self.unsent > 0 {
            // No more than there are slots, so that this does not wrap.
            let first = self.next + self.slots.len() - self.unsent;
            if self.slots.status(first % self.slots.len()) == REQUESTED {
                break;
            }
            self.unsent -= 1;
        }
    }

    /// Slots that have been given back. Frames may be completed in any order; those behind one that is not count as not.
    #[inline]
    fn reclaim(&mut self) {
        while self.taken > self.unsent && self.slots.status(self.oldest) == IDLE {
            self.oldest = self.slots.after(self.oldest);
            self.taken -= 1;
        }
    }
}
