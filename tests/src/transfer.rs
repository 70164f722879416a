//! Content that is sent over the kernel's sockets and hashed at both ends.
//!
//! Generators of this process, in the network namespaces of [`netns`](crate::netns): TCP streams in writes of all sizes, and UDP
//! datagrams of all sizes with the numbers, acknowledgments and repetitions that make a stream of them.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use sha2::{Digest, Sha256};

use crate::netns::Netns;

/// After so long something hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// After so long without an acknowledgment a window of datagrams is sent again.
const REPEAT: Duration = Duration::from_millis(200);
/// Datagrams on the way.
const WINDOW: u32 = 32;
/// Largest datagram whose packet is not cut: Ethernet's 1500 bytes without the headers of IPv6 and UDP.
const WHOLE: usize = 1500 - 40 - 8;
/// Bytes in front of a datagram's content.
const HEADER: usize = 8;

/// The protocol of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// A TCP connection.
    Tcp,
    /// UDP datagrams, some larger than a packet.
    Udp,
}

/// A transfer from one namespace to an address of the other.
#[derive(Debug, Clone)]
pub struct Transfer<'a> {
    /// Where it comes from.
    pub from: &'a Netns,
    /// Where it goes.
    pub to: &'a Netns,
    /// An address of `to`.
    pub address: IpAddr,
    /// How it goes.
    pub protocol: Protocol,
    /// How much.
    pub bytes: usize,
    /// Decides the content and all sizes.
    pub seed: u64,
}

/// What went well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrived {
    /// SHA-256 of the content, of which both ends have the same.
    pub hash: [u8; 32],
    /// Datagrams that had to be sent again.
    pub repeated: u64,
}

impl Transfer<'_> {
    /// Carries it out.
    ///
    /// # Errors
    /// What failed, or that the content changed on its way.
    pub fn run(&self) -> io::Result<Arrived> {
        match self.protocol {
            Protocol::Tcp => self.tcp(),
            Protocol::Udp => self.udp(),
        }
    }

    fn tcp(&self) -> io::Result<Arrived> {
        let listener = self.to.enter(|| TcpListener::bind((self.address, 0)))?;
        let address = listener.local_addr()?;
        let (sent, received) = std::thread::scope(|scope| {
            let receiver = scope.spawn(|| tcp_receive(&listener));
            let sent = self.from.enter(|| tcp_send(address, self.bytes, self.seed));
            if sent.is_err() {
                // Or the receiver waits for a connection for ever.
                let _ = self.to.enter(|| TcpStream::connect(address));
            }
            (sent, receiver.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        verdict(sent?, received?, 0)
    }

    fn udp(&self) -> io::Result<Arrived> {
        let socket = self.to.enter(|| UdpSocket::bind((self.address, 0)))?;
        let address = socket.local_addr()?;
        std::thread::scope(|scope| {
            let receiver = scope.spawn(|| udp_receive(&socket));
            let sent = self.from.enter(|| udp_send(address, self.bytes, self.seed));
            let received = receiver.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let (sent, repeated) = sent?;
            verdict(sent, received?, repeated)
        })
    }
}

fn verdict(sent: [u8; 32], received: [u8; 32], repeated: u64) -> io::Result<Arrived> {
    if sent == received {
        return Ok(Arrived { hash: sent, repeated });
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "the content is not what was sent"))
}

fn tcp_send(address: SocketAddr, bytes: usize, seed: u64) -> io::Result<[u8; 32]> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut rng = SmallRng::seed_from_u64(seed);
    let (mut hash, mut left) = (Sha256::new(), bytes);
    let mut content = vec![0; 256 << 10];
    while left > 0 {
        // Odd ones, small ones, large ones.
        let len = match rng.random_range(0..16) {
            0 => rng.random_range(1..1500),
            1..4 => rng.random_range(1500..20_000),
            _ => rng.random_range(20_000..content.len()),
        };
        let chunk = &mut content[..len.min(left)];
        rng.fill_bytes(chunk);
        hash.update(&*chunk);
        stream.write_all(chunk)?;
        left -= chunk.len();
    }
    stream.shutdown(Shutdown::Write)?;
    // The other end has everything once it closes.
    if uninterrupted(|| stream.read(&mut [0]))? != 0 {
        return Err(io::Error::other("an answer nobody asked for"));
    }
    Ok(hash.finalize().into())
}

fn tcp_receive(listener: &TcpListener) -> io::Result<[u8; 32]> {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match uninterrupted(|| stream.read(&mut buffer))? {
            0 => return Ok(hash.finalize().into()),
            read => hash.update(&buffer[..read]),
        }
    }
}

/// Calls until no signal comes in between: where a socket has a timeout, a process that was stopped and goes on finds its
/// call interrupted (signal(7)).
///
/// # Errors
/// Those of the call.
pub fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// The datagrams of a transfer: how the content is cut, and what each is.
struct Datagrams {
    seed: u64,
    /// Where each begins; the last is the end.
    starts: Vec<usize>,
}

impl Datagrams {
    fn new(bytes: usize, seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let (mut starts, mut at) = (vec![0], 0);
        while at < bytes {
            let len = match rng.random_range(0..64) {
                // A packet that is cut into several, now and then.
                0 => rng.random_range(WHOLE..9000),
                1..12 => rng.random_range(1..WHOLE - HEADER),
                _ => WHOLE - HEADER,
            };
            at = (at + len).min(bytes);
            starts.push(at);
        }
        Self { seed, starts }
    }

    fn count(&self) -> u32 {
        // Some thousands a megabyte.
        (self.starts.len() - 1) as u32
    }

    /// Writes datagram `number` into `buffer`.
    fn write(&self, number: u32, buffer: &mut Vec<u8>) {
        let at = number as usize;
        buffer.clear();
        buffer.extend(number.to_be_bytes());
        buffer.extend(self.count().to_be_bytes());
        buffer.resize(HEADER + self.starts[at + 1] - self.starts[at], 0);
        SmallRng::seed_from_u64(self.seed ^ u64::from(number) << 20).fill_bytes(&mut buffer[HEADER..]);
    }
}

fn udp_send(address: SocketAddr, bytes: usize, seed: u64) -> io::Result<([u8; 32], u64)> {
    let socket = UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(REPEAT))?;
    let datagrams = Datagrams::new(bytes, seed);
    let mut hash = Sha256::new();
    let mut buffer = Vec::new();
    let (mut acknowledged, mut next, mut hashed, mut repeated) = (0, 0, 0, 0);
    let mut progress = Instant::now();
    while acknowledged < datagrams.count() {
        while next < datagrams.count() && next < acknowledged + WINDOW {
            datagrams.write(next, &mut buffer);
            if next == hashed {
                hash.update(&buffer[HEADER..]);
                hashed += 1;
            } else {
                repeated += 1;
            }
            socket.send(&buffer)?;
            next += 1;
        }
        let mut answer = [0; 4];
        match uninterrupted(|| socket.recv(&mut answer)) {
            Ok(_) => {
                let has = u32::from_be_bytes(answer);
                if has > acknowledged {
                    acknowledged = has;
                    progress = Instant::now();
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                if progress.elapsed() > PATIENCE {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, format!("no progress behind {acknowledged}")));
                }
                next = acknowledged;
            }
            Err(error) => return Err(error),
        }
    }
    Ok((hash.finalize().into(), repeated))
}

fn udp_receive(socket: &UdpSocket) -> io::Result<[u8; 32]> {
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    let mut expected = 0;
    // Fragments may be hashed to another queue than whole datagrams, and overtake them.
    let mut early: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    loop {
        let (len, from) = match uninterrupted(|| socket.recv_from(&mut buffer)) {
            Ok(received) => received,
            Err(error) => return Err(io::Error::new(error.kind(), format!("behind datagram {expected}: {error}"))),
        };
        let (Some(number), Some(count)) = (number_at(&buffer[..len], 0), number_at(&buffer[..len], 4)) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a datagram of {len} bytes")));
        };
        let repeated = number < expected;
        if (expected..expected.saturating_add(WINDOW)).contains(&number) {
            early.entry(number).or_insert_with(|| buffer[HEADER..len].to_vec());
        }
        while let Some(content) = early.remove(&expected) {
            hash.update(&content);
            expected += 1;
        }
        // Now and then, and whoever repeats is told at once: the answer was lost.
        if repeated || expected.is_multiple_of(WINDOW / 4) || !early.is_empty() || expected == count {
            socket.send_to(&expected.to_be_bytes(), from)?;
        }
        if expected == count {
            // If this answer is lost the sender asks again.
            linger(socket, count)?;
            return Ok(hash.finalize().into());
        }
    }
}

/// Answers whoever repeats, until nobody does.
fn linger(socket: &UdpSocket, count: u32) -> io::Result<()> {
    socket.set_read_timeout(Some(REPEAT * 2))?;
    let mut buffer = [0; 64];
    while let Ok((_, from)) = uninterrupted(|| socket.recv_from(&mut buffer)) {
        socket.send_to(&count.to_be_bytes(), from)?;
    }
    Ok(())
}

fn number_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::real;

    #[test]
    fn content_arrives_over_lo() {
        let Some(_lock) = real::privileged_or_skip(&["ip"]) else { return };
        let netns = Netns::new().expect("root makes namespaces");
        for address in ["127.0.0.1", "::1"] {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let address = address.parse().unwrap();
                let transfer = Transfer { from: &netns, to: &netns, address, protocol, bytes: 1_000_001, seed: 7 };
                transfer.run().unwrap_or_else(|error| panic!("{protocol:?} to {address}: {error}"));
            }
        }
    }

    #[test]
    fn a_call_that_is_interrupted_is_made_again() {
        let mut results = [Err(io::ErrorKind::Interrupted.into()), Ok(7)].into_iter();
        assert_eq!(uninterrupted(|| results.next().expect("no more calls")).expect("the second"), 7);
        let refused = uninterrupted(|| Err::<(), _>(io::ErrorKind::TimedOut.into())).expect_err("at once");
        assert_eq!(refused.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn changed_content_is_noticed() {
        assert!(verdict([1; 32], [2; 32], 0).is_err());
    }
}
