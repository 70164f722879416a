//! What the client sends: pieces of its memory, and interrupt control.
//!
//! A piece is announced before any ring entry that refers to it, but by another way than the ring. So when the host meets
//! an address that it does not know, it looks here first ([`Inbox::drain`] as the memory's `missing`).

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{SealFlags, fcntl_add_seals, fcntl_get_seals, fstatfs};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags};
use vmbus::mem::GuestMemory;
use vmbus::memory::HeapMemory;

use super::memory::KERNEL_GPA;
use super::wire::Piece;

/// Most pieces of one client: each is a mapping of this process.
const MAX_PIECES: u32 = 16_384;
/// Most messages that are handled at a time.
const MESSAGES_AT_A_TIME: usize = 1024;

/// The client's end of a connection, shared with the memory that asks for missing pieces.
#[derive(Debug, Clone, Default)]
pub(super) struct Inbox(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    socket: Option<Arc<OwnedFd>>,
    pieces: u32,
    news: News,
}

/// What came.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Interrupt control: the values written.
    pub(super) control: Vec<i32>,
    /// The client has closed the device, or died.
    pub(super) closed: bool,
    /// What was wrong with messages.
    pub(super) wrong: Vec<String>,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn open(&self, socket: Arc<OwnedFd>) {
        *self.lock() = Inner { socket: Some(socket), ..Inner::default() };
    }

    pub(super) fn close(&self) {
        *self.lock() = Inner::default();
    }

    /// Reads what there is and puts pieces into `memory`; whether there were any.
    pub(super) fn drain(&self, memory: &GuestMemory) -> bool {
        let mut inner = self.lock();
        let Some(socket) = inner.socket.clone() else { return false };
        let mut any = false;
        for _ in 0..MESSAGES_AT_A_TIME {
            match receive(&socket) {
                Received::Nothing => return any,
                Received::End => {
                    inner.news.closed = true;
                    inner.socket = None;
                    return any;
                }
                Received::Control(value) => inner.news.control.push(value),
                Received::Piece(piece, file) => match inner.map(piece, &file, memory) {
                    Ok(()) => any = true,
                    Err(text) => inner.news.wrong.push(text),
                },
                Received::Wrong(text) => inner.news.wrong.push(text),
            }
        }
        any
    }

    pub(super) fn take_news(&self) -> News {
        std::mem::take(&mut self.lock().news)
    }
}

impl Inner {
    fn map(&mut self, piece: Piece, file: &File, memory: &GuestMemory) -> Result<(), String> {
        let Piece { gpa, bytes, offset } = piece;
        let text = |what: &dyn std::fmt::Display| format!("guest memory {gpa:#x}, {bytes} bytes: {what}");
        if self.pieces >= MAX_PIECES {
            return Err(text(&format_args!("more than {MAX_PIECES} pieces")));
        }
        if bytes == 0 || gpa.checked_add(bytes).is_none_or(|end| end > KERNEL_GPA) {
            return Err(text(&"no addresses of a process"));
        }
        hold(file).map_err(|error| text(&format_args!("in a file that may be shortened: {error}")))?;
        // Beyond the end of a file there is nothing to be mapped, but a signal at the first access.
        let length = file.metadata().map_err(|error| text(&error))?.len();
        if offset.checked_add(bytes).is_none_or(|end| end > length) {
            return Err(text(&format_args!("at offset {offset} of a file of {length} bytes")));
        }
        let len = usize::try_from(bytes).map_err(|error| text(&error))?;
        let mapped = HeapMemory::map_shared(file.as_fd(), offset, len).map_err(|error| text(&error))?;
        memory.insert(gpa, mapped).map_err(|error| text(&error))?;
        self.pieces += 1;
        Ok(())
    }
}

/// Has a file keep its length, so that its client cannot take pages away under this process's mapping, which would end it
/// by a signal: it is sealed against that, or is refused.
///
/// Files of a hugetlbfs have no seals. Whoever uses one can end this process.
fn hold(file: &File) -> io::Result<()> {
    if fcntl_get_seals(file)?.contains(SealFlags::SHRINK) {
        return Ok(());
    }
    match fcntl_add_seals(file, SealFlags::SHRINK) {
        Err(_) if fstatfs(file)?.f_type == HUGETLBFS => Ok(()),
        result => Ok(result?),
    }
}

/// `HUGETLBFS_MAGIC` of Linux' `include/uapi/linux/magic.h`.
const HUGETLBFS: rustix::fs::FsWord = 0x9584_58f6;

enum Received {
    Nothing,
    End,
    Control(i32),
    Piece(Piece, File),
    Wrong(String),
}

fn receive(socket: &OwnedFd) -> Received {
    let mut bytes = [0; Piece::LEN + 8];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = match rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
        Ok(message) => message.bytes,
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Received::Nothing,
        // Reset: it died with messages unread.
        Err(_) => return Received::End,
    };
    let mut files = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten();
    match (&bytes[..received], files.next()) {
        ([], _) => Received::End,
        (&[a, b, c, d], None) => Received::Control(i32::from_le_bytes([a, b, c, d])),
        (message, Some(file)) => match message.first_chunk().filter(|_| received == Piece::LEN).map(Piece::parse) {
            Some(Some(piece)) => Received::Piece(piece, file.into()),
            _ => Received::Wrong(format!("message of {received} bytes is no piece of memory")),
        },
        _ => Received::Wrong(format!("message of {received} bytes without a descriptor")),
    }
}

/// Sends an event count. What does not fit is not needed: the client has some to read already.
pub(super) fn send_event(socket: &OwnedFd, count: i32) {
    let _ = rustix::net::send(socket, &count.to_le_bytes(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
}
