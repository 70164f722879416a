//! Fetches test content over a [stack](crate::stack) and hashes it on the way.

use std::fmt;
use std::time::Duration;

use sha2::{Digest, Sha256};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp;
use smoltcp::wire::IpEndpoint;

use crate::blob::Hash;
use crate::http::{MAX_HEAD_BYTES, Request, Response, Status};
use crate::stack::{Application, Context, tcp_socket};

/// Bytes under way: round-trip time × bandwidth or more lets the transfer run at full speed.
const RECEIVE_BYTES: usize = 1 << 20;
/// How long nothing may arrive.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How often progress is reported.
const REPORT_INTERVAL: Duration = Duration::from_millis(200);

/// One `GET /blob?bytes=N`, from connecting to closing.
///
/// `P` is told about the progress, at most five times a second and once at the end.
#[derive(Debug)]
pub struct Fetch<P> {
    server: IpEndpoint,
    local_port: u16,
    bytes: u64,
    state: State,
    progress: P,
    reported: Duration,
    /// When something arrived last.
    active: Duration,
}

/// How far a transfer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the body that have arrived.
    pub received: u64,
    /// Bytes that were asked for.
    pub total: u64,
    /// Time since the first of them.
    pub elapsed: Duration,
}

impl Progress {
    /// Bytes of the body over time, in 10⁹ bits a second; 0 if no time has passed.
    pub fn gbits_per_s(&self) -> f64 {
        let seconds = self.elapsed.as_secs_f64();
        if seconds > 0.0 { self.received as f64 * 8.0 / seconds / 1e9 } else { 0.0 }
    }
}

/// A transfer that came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetched {
    /// How much and how long.
    pub progress: Progress,
    /// The hash of what arrived.
    pub computed: Hash,
    /// The hash that the server stated.
    pub stated: Hash,
}

impl Fetched {
    /// Whether what arrived is what the server says it sent.
    pub fn hash_ok(&self) -> bool {
        self.computed == self.stated
    }
}

/// Why a transfer did not come to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FetchError {
    /// The client's own address or port cannot be used.
    Connect(tcp::ConnectError),
    /// The server does not listen, closed early or reset the connection, after this many bytes of the body.
    Closed {
        /// Bytes received.
        received: u64,
    },
    /// Nothing arrived for a while, after this many bytes of the body.
    Stalled {
        /// Bytes received.
        received: u64,
    },
    /// The server refused.
    Refused(Status),
    /// The server's answer is not what was asked for.
    Answer(String),
    /// It was not waited for.
    Cancelled,
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => write!(f, "cannot connect: {error}"),
            Self::Closed { received } => write!(f, "connection closed after {received} bytes"),
            Self::Stalled { received } => {
                write!(f, "nothing arrived for {} s, after {received} bytes", STALL_TIMEOUT.as_secs())
            }
            Self::Refused(status) => write!(f, "the server answered {}", status.0),
            Self::Cancelled => f.write_str("cancelled"),
            Self::Answer(reason) => write!(f, "cannot understand the server's answer: {reason}"),
        }
    }
}

impl std::error::Error for FetchError {}

#[derive(Debug)]
enum State {
    Idle,
    Connecting { handle: SocketHandle },
    Asking { handle: SocketHandle, request: Vec<u8> },
    Head { handle: SocketHandle, input: Vec<u8> },
    Body { handle: SocketHandle, body: Body },
    Closing { handle: SocketHandle, outcome: Result<Fetched, FetchError>, since: Duration },
    Done(Result<Fetched, FetchError>),
}

#[derive(Debug)]
struct Body {
    stated: Hash,
    hasher: Sha256,
    received: u64,
    started: Duration,
}

impl<P: FnMut(&Progress)> Fetch<P> {
    /// Fetches `bytes` from `server`, from this port.
    pub fn new(server: IpEndpoint, local_port: u16, bytes: u64, progress: P) -> Self {
        let state = State::Idle;
        Self { server, local_port, bytes, state, progress, reported: Duration::ZERO, active: Duration::ZERO }
    }

    /// What came of it, once it [is done](Application::is_done).
    pub fn outcome(&self) -> Option<&Result<Fetched, FetchError>> {
        match &self.state {
            State::Done(outcome) => Some(outcome),
            _ => None,
        }
    }

    /// What came of it; [`FetchError::Cancelled`] before it is done.
    ///
    /// # Errors
    /// What kept the transfer from its end.
    pub fn into_outcome(self) -> Result<Fetched, FetchError> {
        match self.state {
            State::Done(outcome) => outcome,
            _ => Err(FetchError::Cancelled),
        }
    }

    fn step(&mut self, cx: &mut Context<'_>) -> Result<bool, FetchError> {
        let now = cx.now;
        match &mut self.state {
            State::Idle => {
                let handle = cx.sockets.add(tcp_socket(RECEIVE_BYTES, MAX_HEAD_BYTES));
                self.state = State::Connecting { handle };
                self.active = now;
                let socket = cx.sockets.get_mut::<tcp::Socket<'_>>(handle);
                socket.connect(cx.interface.context(), self.server, self.local_port).map_err(FetchError::Connect)?;
                Ok(true)
            }
            State::Connecting { handle } => {
                let socket = cx.sockets.get_mut::<tcp::Socket<'_>>(*handle);
                match socket.state() {
                    tcp::State::SynSent | tcp::State::SynReceived => Ok(false),
                    tcp::State::Closed => Err(FetchError::Closed { received: 0 }),
                    _ => {
                        let target = format!("/blob?bytes={}", self.bytes);
                        let request = Request::get(&target, &self.server.addr.to_string());
                        self.state = State::Asking { handle: *handle, request };
                        Ok(true)
                    }
                }
            }
            State::Asking { handle, request } => {
                let socket = cx.sockets.get_mut::<tcp::Socket<'_>>(*handle);
                let sent = socket.send_slice(request).map_err(|_| FetchError::Closed { received: 0 })?;
                request.drain(..sent);
                if request.is_empty() {
                    self.state = State::Head { handle: *handle, input: Vec::new() };
                }
                Ok(sent > 0)
            }
            State::Head { handle, input } => {
                let socket = cx.sockets.get_mut::<tcp::Socket<'_>>(*handle);
                match Response::parse(input).map_err(FetchError::Answer)? {
                    Some((response, used)) => {
                        let stated = check(&response, self.bytes)?;
                        let mut hasher = Sha256::new();
                        hasher.update(&input[used..]);
                        let received = (input.len() - used) as u64;
                        let body = Body { stated, hasher, received, started: now };
                        self.state = State::Body { handle: *handle, body };
                        Ok(true)
                    }
                    None => {
                        let room = MAX_HEAD_BYTES - input.len();
                        let received = socket.recv(|bytes| {
                            let len = bytes.len().min(room);
                            input.extend_from_slice(&bytes[..len]);
                            (len, len)
                        });
                        Ok(received.map_err(|_| FetchError::Closed { received: 0 })? > 0)
                    }
                }
            }
            State::Body { handle, body } => {
                let handle = *handle;
                let socket = cx.sockets.get_mut::<tcp::Socket<'_>>(handle);
                let left = self.bytes.saturating_sub(body.received);
                let received = if left == 0 {
                    0
                } else {
                    let received = socket.recv(|bytes| {
                        let len = (bytes.len() as u64).min(left) as usize;
                        body.hasher.update(&bytes[..len]);
                        (len, len)
                    });
                    received.map_err(|_| FetchError::Closed { received: body.received })?
                };
                body.received += received as u64;
                let elapsed = now.saturating_sub(body.started);
                let progress = Progress { received: body.received, total: self.bytes, elapsed };
                let is_whole = body.received >= self.bytes;
                if is_whole || now.saturating_sub(self.reported) >= REPORT_INTERVAL {
                    self.reported = now;
                    (self.progress)(&progress);
                }
                if is_whole {
                    let computed = body.hasher.clone().finalize().into();
                    let fetched = Fetched { progress, computed, stated: body.stated };
                    socket.close();
                    self.state = State::Closing { handle, outcome: Ok(fetched), since: now };
                }
                Ok(is_whole || received > 0)
            }
            // Both halves are closed properly, so that the server has no half-open connection; the outcome stands.
            State::Closing { handle, outcome, since } => {
                let socket = cx.sockets.get_mut::<tcp::Socket<'_>>(*handle);
                let is_closed = !socket.is_open() || socket.state() == tcp::State::TimeWait;
                if is_closed || now.saturating_sub(*since) >= CLOSE_TIMEOUT {
                    let outcome = outcome.clone();
                    self.state = State::Done(outcome);
                    return Ok(true);
                }
                Ok(false)
            }
            State::Done(_) => Ok(false),
        }
    }

    fn received(&self) -> u64 {
        match &self.state {
            State::Body { body, .. } => body.received,
            _ => 0,
        }
    }

    fn handle(&self) -> Option<SocketHandle> {
        match self.state {
            State::Connecting { handle }
            | State::Asking { handle, .. }
            | State::Head { handle, .. }
            | State::Body { handle, .. }
            | State::Closing { handle, .. } => Some(handle),
            State::Idle | State::Done(_) => None,
        }
    }
}

impl<P: FnMut(&Progress)> Application for Fetch<P> {
    fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        let mut busy = false;
        let error = loop {
            match self.step(cx) {
                Ok(true) => {
                    busy = true;
                    self.active = cx.now;
                }
                Ok(false) if self.is_done() => return busy,
                Ok(false) if cx.now.saturating_sub(self.active) >= STALL_TIMEOUT => {
                    break FetchError::Stalled { received: self.received() };
                }
                Ok(false) => return busy,
                Err(error) => break error,
            }
        };
        if let Some(handle) = self.handle() {
            cx.sockets.get_mut::<tcp::Socket<'_>>(handle).abort();
        }
        self.state = State::Done(Err(error));
        true
    }

    fn next_timeout(&self, now: Duration) -> Option<Duration> {
        match self.state {
            State::Done(_) => None,
            State::Closing { since, .. } => Some((since + CLOSE_TIMEOUT).saturating_sub(now)),
            _ => Some((self.active + STALL_TIMEOUT).saturating_sub(now)),
        }
    }

    fn is_done(&self) -> bool {
        matches!(self.state, State::Done(_))
    }
}

fn check(response: &Response, bytes: u64) -> Result<Hash, FetchError> {
    if response.status != Status::OK {
        return Err(FetchError::Refused(response.status));
    }
    if response.content_length != bytes {
        let reason = format!("{} bytes instead of {bytes}", response.content_length);
        return Err(FetchError::Answer(reason));
    }
    response.sha256.ok_or_else(|| FetchError::Answer("there is no X-Sha256".to_owned()))
}

const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
