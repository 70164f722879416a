//! An HTTP server on a [stack](crate::stack): a page of live statistics, the same as JSON, and test content.
//!
//! | target | answer |
//! |---|---|
//! | `/` | an HTML page that keeps itself up to date |
//! | `/stats.json` | the same numbers |
//! | `/blob?bytes=N` | `N` bytes of [`Content`], their SHA-256 in `X-Sha256` |
//!
//! Every connection is a state machine that goes as far as it can in a [poll](Application::poll): a client that sends
//! or reads slowly keeps nobody waiting but itself, one that does neither is dropped after [`IDLE_TIMEOUT`].

mod connection;
mod page;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use smoltcp::socket::tcp;

use crate::blob::{Content, Hash};
use crate::http::{Refusal, Request, Status};
use crate::stack::{Application, Context, INGRESS_GROUP, tcp_socket};
use connection::Connection;

/// How long a client may do nothing.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest blob: a terabyte, which is an hour of hashing.
pub const MAX_BLOB_BYTES: u64 = 1 << 40;

/// Requests are short.
const RECEIVE_BYTES: usize = 16 << 10;
/// Sockets that wait for a connection. More are added as they are used.
const SPARE_SOCKETS: usize = INGRESS_GROUP;
/// Hashes that are remembered.
const MAX_KNOWN_HASHES: usize = 64;

/// What a server is like.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// TCP port.
    pub port: u16,
    /// Most connections at a time.
    pub max_connections: usize,
    /// Bytes under way on each connection: round-trip time × bandwidth or more lets it run at full speed.
    pub send_bytes: usize,
    /// What `/blob` serves.
    pub content: Content,
}

impl Settings {
    /// Port 80, 64 connections, 1 MiB each.
    pub fn new(content: Content) -> Self {
        Self { port: 80, max_connections: 64, send_bytes: 1 << 20, content }
    }
}

/// What a server has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    /// Connections accepted.
    pub connections: u64,
    /// Requests answered as asked.
    pub answered: u64,
    /// Requests answered with an error.
    pub refused: u64,
    /// Connections dropped because the client did nothing.
    pub timeouts: u64,
    /// Bytes of response bodies handed to TCP.
    pub body_bytes: u64,
}

/// The server.
///
/// `S` yields the numbers to show: an object of objects, one for each table of the page.
#[derive(Debug)]
pub struct Server<S> {
    settings: Settings,
    connections: Vec<Connection>,
    shared: Shared<S>,
}

/// What connections ask the server for.
#[derive(Debug)]
struct Shared<S> {
    content: Content,
    known_hashes: BTreeMap<u64, Hash>,
    counters: Counters,
    statistics: S,
}

/// What is sent after a response's head.
#[derive(Debug)]
enum Answer {
    /// A body that is there.
    Text { content_type: &'static str, body: Vec<u8> },
    /// The first bytes of the content.
    Blob { bytes: u64 },
}

impl<S: FnMut() -> Value> Server<S> {
    /// A server that shows what `statistics` yields.
    pub fn new(settings: Settings, statistics: S) -> Self {
        let counters = Counters::default();
        let shared = Shared { content: settings.content, known_hashes: BTreeMap::new(), counters, statistics };
        Self { settings, connections: Vec::new(), shared }
    }

    /// What it has done.
    pub fn counters(&self) -> Counters {
        self.shared.counters
    }

    /// The next burst of connections finds as many sockets as this one did.
    fn keep_listening(&mut self, cx: &mut Context<'_>) {
        let is_spare = |connection: &&Connection| cx.sockets.get::<tcp::Socket<'_>>(connection.handle()).is_listening();
        let spare = self.connections.iter().filter(is_spare).count();
        for _ in spare..SPARE_SOCKETS {
            if self.connections.len() < self.settings.max_connections {
                let handle = cx.sockets.add(tcp_socket(RECEIVE_BYTES, self.settings.send_bytes));
                let mut connection = Connection::new(handle, self.settings.port);
                connection.poll(cx.sockets.get_mut(handle), cx.now, &mut self.shared);
                self.connections.push(connection);
                continue;
            }
            let is_over = |connection: &&mut Connection| {
                cx.sockets.get::<tcp::Socket<'_>>(connection.handle()).state() == tcp::State::TimeWait
            };
            let Some(connection) = self.connections.iter_mut().find(is_over) else { break };
            let socket = cx.sockets.get_mut::<tcp::Socket<'_>>(connection.handle());
            connection.forget(socket);
            connection.poll(socket, cx.now, &mut self.shared);
        }
    }
}

impl<S: FnMut() -> Value> Application for Server<S> {
    fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        let mut busy = false;
        for connection in &mut self.connections {
            let socket = cx.sockets.get_mut::<tcp::Socket<'_>>(connection.handle());
            busy |= connection.poll(socket, cx.now, &mut self.shared);
        }
        self.keep_listening(cx);
        busy
    }

    fn next_timeout(&self, now: Duration) -> Option<Duration> {
        self.connections.iter().filter_map(|connection| connection.next_timeout(now)).min()
    }
}

impl<S: FnMut() -> Value> Shared<S> {
    fn answer(&mut self, request: &Request) -> Result<Answer, Refusal> {
        match request.path.as_str() {
            "/" => Ok(Answer::Text {
                content_type: "text/html; charset=utf-8",
                body: page::render(&self.numbers()).into_bytes(),
            }),
            "/stats.json" => Ok(Answer::Text {
                content_type: "application/json",
                body: format!("{:#}\n", self.numbers()).into_bytes(),
            }),
            "/blob" => {
                let bytes = request.parameter("bytes").and_then(|text| text.parse().ok());
                match bytes {
                    Some(bytes) if bytes <= MAX_BLOB_BYTES => Ok(Answer::Blob { bytes }),
                    _ => {
                        let reason = format!("/blob needs bytes=N with N from 0 to {MAX_BLOB_BYTES}");
                        Err(Refusal::new(Status::BAD_REQUEST, reason))
                    }
                }
            }
            _ => Err(Refusal::new(Status::NOT_FOUND, "there are /, /stats.json and /blob?bytes=N")),
        }
    }

    fn numbers(&mut self) -> Value {
        let mut numbers = (self.statistics)();
        if let (Value::Object(tables), Ok(counters)) = (&mut numbers, serde_json::to_value(self.counters)) {
            tables.insert("server".to_owned(), counters);
        }
        numbers
    }

    fn remember(&mut self, bytes: u64, hash: Hash) {
        if self.known_hashes.len() >= MAX_KNOWN_HASHES {
            // The shortest one is the cheapest to compute again.
            self.known_hashes.pop_first();
        }
        self.known_hashes.insert(bytes, hash);
    }
}
