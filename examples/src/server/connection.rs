//! One connection of the server.
//!
//! ```text
//!            SYN              request             hash known
//! Listening ─────► Reading ───────────► Hashing ─────────────► Sending ───► Reading (keep-alive)
//!     ▲               │   └───────── text or refusal ──────────►  │
//!     │               │ client closed                             │ last response
//!     └── Ending ◄────┴───────────────────────────────────────────┘
//! ```

use std::time::Duration;

use serde_json::Value;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp;

use super::{Answer, IDLE_TIMEOUT, Shared};
use crate::blob::{Content, Hash, Hashing};
use crate::http::{MAX_HEAD_BYTES, Refusal, Request, Response, Status};

/// Bytes hashed in a poll: some 25 µs, in which all others wait.
const HASH_BUDGET: u64 = 32 << 10;
/// How long a client may take to close its half after everything was sent to it.
const LINGER: Duration = Duration::from_secs(2);
/// How long a closed connection is remembered. Only the loss of the last acknowledgement needs it, and then a reset
/// does as well: the client has got everything.
const TIME_WAIT: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Connection {
    handle: SocketHandle,
    port: u16,
    state: State,
    /// What was received and not yet used: less than a head.
    input: Vec<u8>,
    /// Bytes queued in TCP at the last poll: a client that reads makes it smaller.
    queued: usize,
    /// When something happened last.
    active: Duration,
}

#[derive(Debug)]
enum State {
    Listening,
    Reading,
    Hashing { hashing: Hashing, head_only: bool, keep_alive: bool },
    Sending { head: Vec<u8>, body: Body, sent: u64, keep_alive: bool },
    Ending,
}

#[derive(Debug)]
enum Body {
    Text(Vec<u8>),
    Blob { content: Content, bytes: u64 },
}

impl Connection {
    pub(super) fn new(handle: SocketHandle, port: u16) -> Self {
        let state = State::Listening;
        Self { handle, port, state, input: Vec::new(), queued: 0, active: Duration::ZERO }
    }

    pub(super) fn handle(&self) -> SocketHandle {
        self.handle
    }

    pub(super) fn next_timeout(&self, now: Duration) -> Option<Duration> {
        match self.state {
            State::Listening => None,
            State::Hashing { .. } => Some(Duration::ZERO),
            // The shortest one, whichever it is.
            State::Ending => Some(TIME_WAIT),
            State::Reading | State::Sending { .. } => Some((self.active + IDLE_TIMEOUT).saturating_sub(now)),
        }
    }

    /// Goes as far as it can; `true` if that was anywhere.
    pub(super) fn poll<S: FnMut() -> Value>(
        &mut self,
        socket: &mut tcp::Socket<'_>,
        now: Duration,
        shared: &mut Shared<S>,
    ) -> bool {
        let mut busy = false;
        while self.step(socket, shared) {
            busy = true;
            // Hashing has a budget for each poll.
            if matches!(self.state, State::Hashing { .. }) {
                break;
            }
        }
        if busy || socket.send_queue() != self.queued {
            self.active = now;
            self.queued = socket.send_queue();
        }
        let limit = match (&self.state, socket.state()) {
            (State::Listening, _) => return busy,
            (State::Ending, tcp::State::TimeWait) => TIME_WAIT,
            (State::Ending, _) if self.queued == 0 => LINGER,
            _ => IDLE_TIMEOUT,
        };
        if now.saturating_sub(self.active) >= limit {
            if limit == IDLE_TIMEOUT {
                shared.counters.timeouts += 1;
            }
            // The reset is sent after this poll; the next one listens again.
            self.forget(socket);
        }
        busy
    }

    fn step<S: FnMut() -> Value>(&mut self, socket: &mut tcp::Socket<'_>, shared: &mut Shared<S>) -> bool {
        match &mut self.state {
            State::Listening => match socket.state() {
                // The port is not 0 and the socket is closed: this cannot fail.
                tcp::State::Closed => socket.listen(self.port).is_ok(),
                tcp::State::Listen | tcp::State::SynReceived => false,
                _ => {
                    shared.counters.connections += 1;
                    self.state = State::Reading;
                    true
                }
            },
            _ if socket.state() == tcp::State::Closed => {
                self.end();
                true
            }
            State::Reading => self.read(socket, shared),
            State::Hashing { hashing, head_only, keep_alive } => {
                if let Some(hash) = hashing.step(HASH_BUDGET) {
                    let bytes = hashing.bytes();
                    let (head_only, keep_alive) = (*head_only, *keep_alive);
                    shared.remember(bytes, hash);
                    self.send_blob(shared.content, bytes, hash, head_only, keep_alive);
                }
                true
            }
            State::Sending { head, body, sent, keep_alive } => {
                let keep_alive = *keep_alive;
                let Ok(more) = send(socket, head, body, sent, &mut shared.counters.body_bytes) else {
                    // Reset by the client, or so it will be: the socket is closed in a moment.
                    self.state = State::Ending;
                    return true;
                };
                match more {
                    More::Later => false,
                    More::Sent => true,
                    More::Nothing if keep_alive => {
                        self.state = State::Reading;
                        true
                    }
                    More::Nothing => {
                        socket.close();
                        self.state = State::Ending;
                        true
                    }
                }
            }
            // What still arrives is thrown away, so that the client is never stuck with sending.
            State::Ending => socket.recv(|bytes| (bytes.len(), bytes.len())).is_ok_and(|len| len > 0),
        }
    }

    fn read<S: FnMut() -> Value>(&mut self, socket: &mut tcp::Socket<'_>, shared: &mut Shared<S>) -> bool {
        match Request::parse(&self.input) {
            Ok(Some((request, used))) => {
                self.input.drain(..used);
                self.answer(&request, shared);
                return true;
            }
            Ok(None) => {}
            Err(refusal) => {
                self.refuse(&refusal, false, shared);
                return true;
            }
        }
        // The parser accepts or refuses heads of MAX_HEAD_BYTES: there is room.
        let room = MAX_HEAD_BYTES - self.input.len();
        let received = socket.recv(|bytes| {
            let len = bytes.len().min(room);
            self.input.extend_from_slice(&bytes[..len]);
            (len, len)
        });
        match received {
            Ok(0) => false,
            Ok(_) => true,
            // The client closed its half, in the middle of a request or not.
            Err(_) => {
                socket.close();
                self.state = State::Ending;
                true
            }
        }
    }

    fn answer<S: FnMut() -> Value>(&mut self, request: &Request, shared: &mut Shared<S>) {
        let &Request { head_only, keep_alive, .. } = request;
        match shared.answer(request) {
            Ok(Answer::Text { content_type, body }) => {
                shared.counters.answered += 1;
                self.send_text(Status::OK, content_type, body, head_only, keep_alive);
            }
            Ok(Answer::Blob { bytes }) => {
                shared.counters.answered += 1;
                match shared.known_hashes.get(&bytes) {
                    Some(hash) => self.send_blob(shared.content, bytes, *hash, head_only, keep_alive),
                    None => {
                        let hashing = Hashing::new(shared.content, bytes);
                        self.state = State::Hashing { hashing, head_only, keep_alive };
                    }
                }
            }
            // The request was understood: what follows it is, too.
            Err(refusal) if keep_alive => {
                shared.counters.refused += 1;
                let body = format!("{}\n", refusal.reason).into_bytes();
                self.send_text(refusal.status, PLAIN, body, head_only, true);
            }
            Err(refusal) => self.refuse(&refusal, head_only, shared),
        }
    }

    fn refuse<S>(&mut self, refusal: &Refusal, head_only: bool, shared: &mut Shared<S>) {
        shared.counters.refused += 1;
        let body = format!("{}\n", refusal.reason).into_bytes();
        self.send_text(refusal.status, PLAIN, body, head_only, false);
    }

    fn send_text(
        &mut self,
        status: Status,
        content_type: &'static str,
        body: Vec<u8>,
        head_only: bool,
        keep_alive: bool,
    ) {
        let content_length = body.len() as u64;
        let head = Response { status, content_type, content_length, sha256: None, keep_alive }.encode();
        let body = Body::Text(if head_only { Vec::new() } else { body });
        self.state = State::Sending { head, body, sent: 0, keep_alive };
    }

    fn send_blob(&mut self, content: Content, bytes: u64, hash: Hash, head_only: bool, keep_alive: bool) {
        let content_type = "application/octet-stream";
        let response =
            Response { status: Status::OK, content_type, content_length: bytes, sha256: Some(hash), keep_alive };
        let body = Body::Blob { content, bytes: if head_only { 0 } else { bytes } };
        self.state = State::Sending { head: response.encode(), body, sent: 0, keep_alive };
    }

    /// Gives the connection up, to take another one at the next poll.
    pub(super) fn forget(&mut self, socket: &mut tcp::Socket<'_>) {
        socket.abort();
        self.end();
    }

    fn end(&mut self) {
        self.state = State::Listening;
        self.input = Vec::new();
        self.queued = 0;
    }
}

enum More {
    /// Bytes were queued, perhaps not all.
    Sent,
    /// There is no room.
    Later,
    /// All is queued.
    Nothing,
}

/// Queues what there is room for, the body made in place.
fn send(
    socket: &mut tcp::Socket<'_>,
    head: &mut Vec<u8>,
    body: &Body,
    sent: &mut u64,
    body_bytes: &mut u64,
) -> Result<More, tcp::SendError> {
    let len = match body {
        Body::Text(text) => text.len() as u64,
        Body::Blob { bytes, .. } => *bytes,
    };
    if head.is_empty() && *sent == len {
        return Ok(More::Nothing);
    }
    let queued = if head.is_empty() {
        let queued = socket.send(|room| {
            let take = (len - *sent).min(room.len() as u64) as usize;
            match body {
                Body::Text(text) => room[..take].copy_from_slice(&text[*sent as usize..][..take]),
                Body::Blob { content, .. } => content.fill(*sent, &mut room[..take]),
            }
            (take, take)
        })?;
        *sent += queued as u64;
        *body_bytes += queued as u64;
        queued
    } else {
        let queued = socket.send_slice(head)?;
        head.drain(..queued);
        queued
    };
    Ok(if queued == 0 { More::Later } else { More::Sent })
}

const PLAIN: &str = "text/plain; charset=utf-8";
