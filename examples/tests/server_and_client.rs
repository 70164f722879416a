//! The server and its clients over a wire in memory, in virtual time: no clock, no thread, the same every time.

use std::time::Duration;

use netvsc_examples::blob::{self, Content, Hashing};
use netvsc_examples::client::{Fetch, FetchError, Progress};
use netvsc_examples::server::{Server, Settings};
use netvsc_examples::stack::{Application, Context, Stack, link_local};
use netvsc_examples::wire::{self, End};
use serde_json::{Value, json};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp;
use smoltcp::wire::{IpAddress, IpCidr, IpEndpoint, Ipv6Address};

const SERVER_MAC: [u8; 6] = [0x00, 0x15, 0x5D, 0, 0, 1];
const CLIENT_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 2];
const SEED: u64 = 42;

fn server_address() -> IpEndpoint {
    IpEndpoint::new(IpAddress::v4(10, 0, 0, 1), 80)
}

fn statistics() -> Value {
    json!({ "nic": { "rx_packets": 4711 } })
}

type App = Server<fn() -> Value>;

/// Two stacks on a wire.
struct Network {
    server: (Stack<End>, App),
    client: Stack<End>,
    now: Duration,
    next_port: u16,
}

impl Network {
    fn new(settings: wire::Settings) -> Self {
        let (server, client) = wire::pair(settings);
        let stack = |end, mac, last| {
            let addresses = [IpCidr::new(IpAddress::v4(10, 0, 0, last), 24), link_local(mac)];
            Stack::new(end, mac, &addresses, SEED, Duration::ZERO)
        };
        let app = Server::new(Settings::new(Content::new(SEED)), statistics as fn() -> Value);
        let server = (stack(server, SERVER_MAC, 1), app);
        Self { server, client: stack(client, CLIENT_MAC, 2), now: Duration::ZERO, next_port: 40_000 }
    }

    /// Runs until the application on the client's side is done.
    fn run(&mut self, app: &mut impl Application) {
        let deadline = self.now + Duration::from_secs(1000);
        while !app.is_done() {
            let (stack, server) = &mut self.server;
            let turns = [stack.turn(self.now, server), self.client.turn(self.now, app)];
            if turns.iter().any(|turn| turn.busy) {
                continue;
            }
            let timers = turns.iter().filter_map(|turn| turn.next).map(|next| self.now + next);
            let ends = [stack.device_mut(), self.client.device_mut()];
            let arrivals = ends.into_iter().filter_map(|end| end.next_arrival());
            let next = timers.filter(|at| *at > self.now).chain(arrivals).min().expect("somebody waits for something");
            self.now = next.max(self.now + Duration::from_micros(1));
            assert!(self.now < deadline, "never comes to its end");
        }
    }

    fn fetch(&mut self, bytes: u64) -> Result<netvsc_examples::client::Fetched, FetchError> {
        let mut fetch = Fetch::new(server_address(), 50_000, bytes, |_: &Progress| {});
        self.run(&mut fetch);
        fetch.outcome().unwrap().clone()
    }

    /// Sends bytes over a new connection; what came back until the server closed it.
    fn exchange(&mut self, bytes: &[u8]) -> String {
        self.exchange_all(&[bytes]).remove(0)
    }

    fn exchange_all(&mut self, requests: &[&[u8]]) -> Vec<String> {
        let mut exchange = |bytes: &&[u8]| {
            self.next_port += 1;
            Exchange::new(server_address(), self.next_port, bytes)
        };
        let mut all = All(requests.iter().map(&mut exchange).collect());
        self.run(&mut all);
        all.0.into_iter().map(|exchange| String::from_utf8_lossy(&exchange.received).into_owned()).collect()
    }
}

/// Sends bytes, and collects what comes back.
struct Exchange {
    server: IpEndpoint,
    local_port: u16,
    handle: Option<SocketHandle>,
    unsent: Vec<u8>,
    received: Vec<u8>,
    done: bool,
}

impl Exchange {
    fn new(server: IpEndpoint, local_port: u16, bytes: &[u8]) -> Self {
        Self { server, local_port, handle: None, unsent: bytes.to_vec(), received: Vec::new(), done: false }
    }
}

impl Application for Exchange {
    fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        let handle = *self.handle.get_or_insert_with(|| {
            let buffer = || tcp::SocketBuffer::new(vec![0; 4096]);
            let mut socket = tcp::Socket::new(buffer(), buffer());
            socket.connect(cx.interface.context(), self.server, self.local_port).unwrap();
            cx.sockets.add(socket)
        });
        let socket = cx.sockets.get_mut::<tcp::Socket<'_>>(handle);
        let mut busy = false;
        if socket.may_send() && !self.unsent.is_empty() {
            let sent = socket.send_slice(&self.unsent).unwrap();
            self.unsent.drain(..sent);
            busy |= sent > 0;
        }
        if socket.can_recv() {
            busy |= socket.recv(|bytes| (bytes.len(), self.received.extend_from_slice(bytes))).is_ok();
        }
        match socket.state() {
            tcp::State::CloseWait if socket.recv_queue() == 0 => {
                socket.close();
                busy = true;
            }
            tcp::State::Closed | tcp::State::TimeWait => self.done = true,
            _ => {}
        }
        busy
    }

    fn is_done(&self) -> bool {
        self.done
    }
}

/// Several exchanges at a time.
struct All(Vec<Exchange>);

impl Application for All {
    fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        self.0.iter_mut().fold(false, |busy, exchange| exchange.poll(cx) | busy)
    }

    fn is_done(&self) -> bool {
        self.0.iter().all(Application::is_done)
    }
}

fn get(target: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").into_bytes()
}

fn status(response: &str) -> u16 {
    response.strip_prefix("HTTP/1.1 ").unwrap_or_else(|| panic!("{response:?}"))[..3].parse().unwrap()
}

#[test]
fn a_blob_arrives_byte_exact() {
    let mut network = Network::new(wire::Settings::default());
    for bytes in [0, 1, 1459, 1460, 1461, 3_000_001] {
        let fetched = network.fetch(bytes).unwrap();
        let expected = Hashing::new(Content::new(SEED), bytes).step(bytes).unwrap();
        assert_eq!((fetched.computed, fetched.stated), (expected, expected), "{bytes} bytes");
        assert_eq!(fetched.progress.received, bytes);
    }
    assert_eq!(network.server.1.counters().body_bytes, 3_000_001 + 1459 + 1460 + 1461 + 1);
}

#[test]
fn lost_frames_cost_time_but_no_bytes() {
    let mut network = Network::new(wire::Settings { lose_one_in: 97, ..wire::Settings::default() });
    assert!(network.fetch(1_000_000).unwrap().hash_ok());
}

#[test]
fn corruption_that_tcp_does_not_see_is_seen_by_the_hash() {
    let mut network = Network::new(wire::Settings { corrupt_one_in: 50, ..wire::Settings::default() });
    let fetched = network.fetch(1_000_000).unwrap();
    assert_eq!(fetched.progress.received, 1_000_000);
    assert!(!fetched.hash_ok());
}

#[test]
fn a_refused_fetch_names_the_status() {
    let mut network = Network::new(wire::Settings::default());
    let outcome = network.fetch(netvsc_examples::server::MAX_BLOB_BYTES + 1);
    assert_eq!(outcome, Err(FetchError::Refused(netvsc_examples::http::Status::BAD_REQUEST)));
}

#[test]
fn nobody_listens() {
    let mut network = Network::new(wire::Settings::default());
    let mut fetch = Fetch::new(IpEndpoint::new(IpAddress::v4(10, 0, 0, 1), 81), 50_000, 1, |_: &Progress| {});
    network.run(&mut fetch);
    assert_eq!(*fetch.outcome().unwrap(), Err(FetchError::Closed { received: 0 }));
}

#[test]
fn progress_is_reported_up_to_the_end() {
    let mut network = Network::new(wire::Settings { delay: Duration::from_millis(100), ..wire::Settings::default() });
    let mut reports = Vec::new();
    let mut fetch = Fetch::new(server_address(), 50_000, 1_000_000, |progress: &Progress| reports.push(*progress));
    network.run(&mut fetch);
    drop(fetch);
    assert!(reports.len() > 2, "{reports:?}");
    assert!(reports.is_sorted_by_key(|progress| progress.received));
    assert_eq!(reports.last().unwrap().received, 1_000_000);
}

#[test]
fn the_page_and_the_json_show_the_numbers() {
    let mut network = Network::new(wire::Settings::default());
    let page = network.exchange(&get("/"));
    assert_eq!(status(&page), 200);
    assert!(page.contains("text/html") && page.contains("rx_packets") && page.contains("4711"), "{page}");
    let stats = network.exchange(&get("/stats.json"));
    let body: Value = serde_json::from_str(stats.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(body["nic"]["rx_packets"], 4711);
    assert_eq!(body["server"]["connections"], 2);
}

#[test]
fn one_connection_answers_many_requests() {
    let mut network = Network::new(wire::Settings::default());
    let requests = [
        &b"GET /blob?bytes=3 HTTP/1.1\r\nHost: a\r\n\r\nHEAD /blob?bytes=3 HTTP/1.1\r\nHost: a\r\n\r\n"[..],
        b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n",
        &get("/blob?bytes=3"),
    ];
    let responses = network.exchange(&requests.concat());
    let hash = blob::hex(&Hashing::new(Content::new(SEED), 3).step(3).unwrap());
    assert_eq!(responses.matches(&format!("X-Sha256: {hash}")).count(), 3, "{responses}");
    assert_eq!(responses.matches("Content-Length: 3\r\n").count(), 3);
    assert_eq!(responses.matches("HTTP/1.1 404").count(), 1);
    assert_eq!(network.server.1.counters().connections, 1);
    assert_eq!((network.server.1.counters().answered, network.server.1.counters().refused), (3, 1));
}

#[test]
fn bad_requests_are_refused_with_a_reason() {
    let mut network = Network::new(wire::Settings::default());
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(100_000));
    let cases: [(&[u8], u16, &str); 7] = [
        (b"hello\r\n\r\n", 400, "request line"),
        (b"\x16\x03\x01\x02\x00", 400, "not text"),
        (&get("/blob"), 400, "bytes=N"),
        (&get("/blob?bytes=-1"), 400, "bytes=N"),
        (&get("/etc/passwd"), 404, "/stats.json"),
        (b"DELETE / HTTP/1.1\r\nHost: a\r\n\r\n", 405, "Allow: GET, HEAD"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\n", 413, "body"),
    ];
    for (request, expected, reason) in cases {
        let response = network.exchange(request);
        assert_eq!(status(&response), expected, "{response}");
        assert!(response.contains(reason), "{response}");
    }
    // The client goes on sending long after the answer: it still gets it.
    let response = network.exchange(long.as_bytes());
    assert_eq!(status(&response), 413, "{response}");
}

#[test]
fn more_clients_than_spare_sockets_are_all_served() {
    let mut network = Network::new(wire::Settings::default());
    let request = get("/blob?bytes=0");
    let responses = network.exchange_all(&[&request[..]; 40]);
    assert!(responses.iter().all(|response| status(response) == 200));
    // And again, although there are not as many sockets: they are used anew.
    let responses = network.exchange_all(&[&request[..]; 40]);
    assert!(responses.iter().all(|response| status(response) == 200));
}

#[test]
fn a_silent_client_is_dropped_and_others_do_not_wait_for_it() {
    let mut network = Network::new(wire::Settings::default());
    let started = network.now;
    let request = get("/");
    let mut slow = Exchange::new(server_address(), 40_100, b"GET / HT");
    let mut pair = Both { slow: &mut slow, fast: Exchange::new(server_address(), 40_101, &request), fast_done: None };
    network.run(&mut pair);
    let fast_done = pair.fast_done.unwrap() - started;
    assert!(fast_done < Duration::from_secs(1), "{fast_done:?}");
    assert_eq!(slow.received, b"");
    assert_eq!(network.server.1.counters().timeouts, 1);
}

/// Done when the slow one is; notes when the fast one was.
struct Both<'a> {
    slow: &'a mut Exchange,
    fast: Exchange,
    fast_done: Option<Duration>,
}

impl Application for Both<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        let busy = self.slow.poll(cx) | self.fast.poll(cx);
        if self.fast.is_done() && self.fast_done.is_none() {
            self.fast_done = Some(cx.now);
        }
        busy
    }

    fn is_done(&self) -> bool {
        self.slow.is_done()
    }
}

#[test]
fn ipv6_works_too() {
    let mut network = Network::new(wire::Settings::default());
    let address = Ipv6Address::new(0xFE80, 0, 0, 0, 0x215, 0x5DFF, 0xFE00, 1);
    let mut fetch = Fetch::new(IpEndpoint::new(address.into(), 80), 50_000, 10_000, |_: &Progress| {});
    network.run(&mut fetch);
    assert!(fetch.outcome().unwrap().as_ref().unwrap().hash_ok());
}
