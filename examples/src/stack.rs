//! A network interface with its sockets, driven in bounded turns; time is passed in.

use std::time::Duration;

use smoltcp::iface::{Config, Interface, PollIngressSingleResult, PollResult, SocketSet};
use smoltcp::phy::Device;
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr};

/// Most groups of frames taken in a turn.
const INGRESS_BUDGET: usize = 64;
/// Frames taken before the application is asked again: as many connections can arrive at once without being refused
/// as there are sockets that listen.
pub(crate) const INGRESS_GROUP: usize = 4;
/// Most frames a turn sends for each socket.
const EGRESS_BUDGET: usize = 256;

/// What a stack does with its sockets.
pub trait Application {
    /// Looks at the sockets and goes on; `true` if it did anything.
    fn poll(&mut self, cx: &mut Context<'_>) -> bool;

    /// How long it can go without being polled while nothing arrives; `None`: for ever.
    fn next_timeout(&self, now: Duration) -> Option<Duration> {
        let _ = now;
        None
    }

    /// Whether it has come to its end.
    fn is_done(&self) -> bool {
        false
    }
}

/// What an application works with.
#[expect(missing_debug_implementations, reason = "smoltcp's types have none")]
pub struct Context<'a> {
    /// All sockets of the stack.
    pub sockets: &'a mut SocketSet<'static>,
    /// The interface, which connecting sockets ask for.
    pub interface: &'a mut Interface,
    /// The time since the caller's epoch.
    pub now: Duration,
}

/// What came of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// Something was done: more may be possible at once.
    pub busy: bool,
    /// How long to wait at most before the next turn while no frame arrives; `None`: for ever.
    pub next: Option<Duration>,
}

/// An interface over a device, and its sockets.
#[expect(missing_debug_implementations, reason = "smoltcp's types have none")]
pub struct Stack<D> {
    device: D,
    interface: Interface,
    sockets: SocketSet<'static>,
}

impl<D: Device> Stack<D> {
    /// An interface with these addresses (at most two). `seed` decides sequence numbers and the like.
    ///
    /// # Panics
    /// If `mac` is not a unicast address or there are more addresses than smoltcp is built for.
    pub fn new(mut device: D, mac: [u8; 6], addresses: &[IpCidr], seed: u64, now: Duration) -> Self {
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(mac)));
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut device, instant(now));
        interface.update_ip_addrs(|list| {
            for address in addresses {
                list.push(*address).expect("no more addresses than smoltcp is built for");
            }
        });
        Self { device, interface, sockets: SocketSet::new(Vec::new()) }
    }

    /// Takes the frames that have arrived, lets the application go on, sends what there is to send: a bounded amount
    /// of each, so that a flood of frames starves neither the application nor other tasks.
    pub fn turn(&mut self, now: Duration, app: &mut impl Application) -> Turn {
        let timestamp = instant(now);
        let Self { device, interface, sockets } = self;
        let mut busy = false;
        interface.poll_maintenance(timestamp);
        for _ in 0..INGRESS_BUDGET {
            let taken = (0..INGRESS_GROUP)
                .take_while(|_| {
                    interface.poll_ingress_single(timestamp, device, sockets) != PollIngressSingleResult::None
                })
                .count();
            busy |= app.poll(&mut Context { sockets, interface, now }) | (taken > 0);
            if taken < INGRESS_GROUP {
                break;
            }
        }
        for _ in 0..EGRESS_BUDGET {
            match interface.poll_egress(timestamp, device, sockets) {
                PollResult::None => break,
                PollResult::SocketStateChanged => busy = true,
            }
        }
        let delay = interface.poll_delay(timestamp, sockets).map(Duration::from);
        let next = [delay, app.next_timeout(now)].into_iter().flatten().min();
        Turn { busy, next }
    }

    /// The device below.
    pub fn device_mut(&mut self) -> &mut D {
        &mut self.device
    }

    /// Ends the stack, connections and all.
    pub fn into_device(self) -> D {
        self.device
    }
}

/// The link-local IPv6 address that belongs to a MAC address (RFC 4291, appendix A).
pub fn link_local(mac: [u8; 6]) -> IpCidr {
    let [a, b, c, d, e, f] = mac;
    let id = [a ^ 2, b, c, 0xFF, 0xFE, d, e, f];
    let [g, h, i, j] = [0, 2, 4, 6].map(|at| u16::from_be_bytes([id[at], id[at + 1]]));
    IpCidr::new(smoltcp::wire::Ipv6Address::new(0xFE80, 0, 0, 0, g, h, i, j).into(), 64)
}

/// A TCP socket with buffers of these sizes. The operating system hands out the memory as it is first used.
pub(crate) fn tcp_socket(receive_bytes: usize, send_bytes: usize) -> tcp::Socket<'static> {
    let buffer = |bytes| tcp::SocketBuffer::new(vec![0; bytes]);
    let mut socket = tcp::Socket::new(buffer(receive_bytes), buffer(send_bytes));
    // Whole responses are queued at once: waiting for more only delays their ends.
    socket.set_nagle_enabled(false);
    socket
}

fn instant(now: Duration) -> Instant {
    // 292 000 years.
    Instant::from_micros(now.as_micros() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_local_address_of_a_mac() {
        assert_eq!(link_local([0x00, 0x15, 0x5D, 0x01, 0x02, 0x03]).to_string(), "fe80::215:5dff:fe01:203/64");
    }
}
