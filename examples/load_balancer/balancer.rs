//! What is done with a frame.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use netvsc::frame::Headers;
use netvsc::rss::{RssKey, Toeplitz};
use netvsc_async::HashLevel;
use tokio::sync::watch;

use crate::table::{BackendIndex, Table};
use crate::wire::{self, Mac, Neighbour};

/// How a balancer is set up.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// The adapter's address.
    pub(crate) mac: Mac,
    /// The balancer's own addresses.
    pub(crate) own: Vec<IpAddr>,
    /// Addresses whose flows are spread.
    pub(crate) services: Vec<IpAddr>,
    /// Machines that flows go to.
    pub(crate) backends: Vec<IpAddr>,
    /// What tells a flow.
    pub(crate) level: HashLevel,
    /// Decides which backend each flow goes to.
    pub(crate) seed: u64,
}

/// What becomes of a frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It was changed so that it goes to a backend.
    Forward(BackendIndex),
    /// It was changed into its answer.
    Answered,
    /// Something else is the answer.
    Answer(Vec<u8>),
    /// A neighbour says where it is.
    Learned(IpAddr, Mac),
    /// Nothing.
    Drop(Reason),
}

/// Why a frame goes nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It is none of ours, as much of what is broadcast.
    NotOurs,
    /// It is for a service, but nothing that could be spread.
    NotAFlow,
    /// There is no backend for it.
    NoBackend,
}

/// Backends that live, and which flows they get: one table a version of IP.
#[derive(Debug)]
pub(crate) struct Backends {
    v4: Table,
    v6: Table,
    /// Where each is, by index.
    macs: Vec<Option<Mac>>,
}

impl Backends {
    fn new(config: &Config, macs: Vec<Option<Mac>>) -> Self {
        let living = |of: fn(&IpAddr) -> bool| -> Vec<_> {
            let all = (0..).map(BackendIndex).zip(&config.backends).zip(&macs);
            all.filter_map(|((index, address), mac)| (mac.is_some() && of(address)).then_some((index, *address)))
                .collect()
        };
        let table = |of| Table::new(config.seed, &living(of));
        Self { v4: table(IpAddr::is_ipv4), v6: table(IpAddr::is_ipv6), macs }
    }

    /// How many live.
    pub(crate) fn living(&self) -> usize {
        self.macs.iter().flatten().count()
    }

    fn find(&self, hash: u32, v6: bool) -> Option<(BackendIndex, Mac)> {
        let index = if v6 { &self.v6 } else { &self.v4 }.backend(hash)?;
        let mac = (*self.macs.get(usize::from(index.0))?)?;
        Some((index, mac))
    }
}

/// Decides about frames. Shared by all queues, none of which ever waits for another: the tables are replaced, not changed.
#[derive(Debug)]
pub(crate) struct Balancer {
    config: Config,
    toeplitz: Toeplitz,
    backends: watch::Sender<Arc<Backends>>,
}

impl Balancer {
    /// A balancer, of whose backends none is known to live yet.
    ///
    /// # Errors
    /// If the addresses do not go together.
    pub(crate) fn new(config: Config) -> anyhow::Result<Self> {
        for address in config.services.iter().chain(&config.backends) {
            let has = config.own.iter().any(|own| own.is_ipv4() == address.is_ipv4());
            anyhow::ensure!(has, "{address} needs an address of the balancer's own of the same version of IP");
        }
        anyhow::ensure!(config.backends.len() <= usize::from(u16::MAX), "{} backends", config.backends.len());
        let none = Backends::new(&config, vec![None; config.backends.len()]);
        Ok(Self { config, toeplitz: Toeplitz::new(&RssKey::MLX5), backends: watch::Sender::new(Arc::new(none)) })
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// The backends, and their changes: for each queue's task.
    pub(crate) fn backends(&self) -> watch::Receiver<Arc<Backends>> {
        self.backends.subscribe()
    }

    /// From now on these backends live, by index.
    pub(crate) fn set_living(&self, macs: Vec<Option<Mac>>) {
        self.backends.send_replace(Arc::new(Backends::new(&self.config, macs)));
    }

    /// Decides about a frame, and changes it accordingly.
    #[inline]
    pub(crate) fn decide(&self, frame: &mut [u8], backends: &Backends) -> Verdict {
        let Some(headers) = Headers::parse(frame) else { return self.decide_neighbour(frame) };
        let addresses = headers.addresses(frame);
        let (v6, destination) = match *addresses {
            [_, _, _, _, a, b, c, d] => (false, IpAddr::from(Ipv4Addr::new(a, b, c, d))),
            _ => match addresses.last_chunk::<16>() {
                Some(destination) => (true, IpAddr::from(Ipv6Addr::from(*destination))),
                None => return Verdict::Drop(Reason::NotOurs),
            },
        };
        if !self.config.services.contains(&destination) {
            return self.decide_own(frame, &headers, destination);
        }
        let hash = match headers.ports(frame) {
            Some(ports) => self.hash(addresses, Some(*ports)),
            None if headers.is_fragment() => self.hash(addresses, None),
            None => {
                let protocol = headers.protocol().0;
                let message = frame.get(headers.transport()..).unwrap_or_default();
                match wire::quoted(protocol, message) {
                    Some((addresses, ports)) => self.hash(&addresses, ports),
                    None => return self.decide_own(frame, &headers, destination),
                }
            }
        };
        match backends.find(hash, v6) {
            Some((index, mac)) => {
                frame[..6].copy_from_slice(&mac);
                frame[6..12].copy_from_slice(&self.config.mac);
                Verdict::Forward(index)
            }
            None => Verdict::Drop(Reason::NoBackend),
        }
    }

    /// The hash of a flow towards a service.
    #[inline]
    fn hash(&self, addresses: &[u8], ports: Option<[u8; 4]>) -> u32 {
        let mut input = [0; 36];
        let len = addresses.len().min(32);
        input[..len].copy_from_slice(&addresses[..len]);
        let ports = ports.filter(|_| self.config.level == HashLevel::L4);
        let end = match ports {
            Some(ports) => {
                input[len..len + 4].copy_from_slice(&ports);
                len + 4
            }
            None => len,
        };
        // Toeplitz is linear; after a multiplication its high bits depend on all.
        let hash = self.toeplitz.hash(&input[..end]);
        (hash ^ hash >> 15).wrapping_mul(0x85EB_CA6B)
    }

    /// IP that is not spread: pings, neighbour discovery.
    fn decide_own(&self, frame: &mut [u8], headers: &Headers, destination: IpAddr) -> Verdict {
        let (protocol, network, transport) = (headers.protocol().0, headers.network(), headers.transport());
        let service = self.config.services.contains(&destination);
        if (service || self.config.own.contains(&destination)) && wire::answer_ping(frame, protocol, network, transport)
        {
            return Verdict::Answered;
        }
        match self.decide_neighbour(frame) {
            Verdict::Drop(_) if service => Verdict::Drop(Reason::NotAFlow),
            verdict => verdict,
        }
    }

    fn decide_neighbour(&self, frame: &[u8]) -> Verdict {
        let ours = |address| self.config.own.contains(&address) || self.config.services.contains(&address);
        let answer = match Neighbour::parse(frame) {
            Some(Neighbour::Asks { target, source, mac }) if ours(target) => {
                wire::answer(self.config.mac, target, mac, source)
            }
            Some(Neighbour::Tells { address, mac }) if self.config.backends.contains(&address) => {
                return Verdict::Learned(address, mac);
            }
            _ => None,
        };
        answer.map_or(Verdict::Drop(Reason::NotOurs), Verdict::Answer)
    }
}
