//! A veth pair between two network namespaces: what is measured has one end, the far end is this program's.

use std::time::{Duration, Instant};
use std::{fs, io};

use anyhow::{Context, ensure};
use netvsc::LinkState;
use netvsc::info::MacAddress;
use netvsc::vf::VfQueue;
use netvsc_async::vf::sockets::SocketVf;
use netvsc_async::vf::{Adapter, BoxVf, OpenedVf, VfBackend, VfEvent, VfWatch, VfWish};
use netvsc_tests::netns::Netns;

use crate::case::Method;

/// An end of the pair.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End {
    pub(crate) name: &'static str,
    pub(crate) mac: MacAddress,
}

/// What is measured.
pub(crate) const NEAR: End = End { name: "vfbnear", mac: MacAddress([0x00, 0x0D, 0x3A, 0x5B, 0, 1]) };
/// The other end.
pub(crate) const FAR: End = End { name: "vfbfar", mac: MacAddress([0x00, 0x0D, 0x3A, 0x5B, 0, 2]) };
/// The number that an interface has as virtual function.
pub(crate) const SERIAL: u32 = 1;
/// The link's.
pub(crate) const MTU: u32 = 1500;
/// After so long something hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// The pair. Goes with this value.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) near: Netns,
    pub(crate) far: Netns,
}

impl Wire {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let make = || -> anyhow::Result<Netns> {
            let netns = Netns::new().context("make a network namespace, which root may")?;
            netns.enter(|| match fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1") {
                // A kernel that has no IPv6 has no such file.
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).context("turn IPv6 off"),
                _ => Ok(()),
            })?;
            Ok(netns)
        };
        let wire = Self { near: make()?, far: make()? };
        let (near, far) = (NEAR.name, FAR.name);
        let addresses = [NEAR.mac, FAR.mac];
        wire.near.ip(&format!(
            "link add {near} address {} type veth peer name {far} address {}",
            addresses[0], addresses[1]
        ))?;
        wire.near.enter(|| wire.far.adopt(far))?;
        for (netns, end) in [(&wire.near, NEAR), (&wire.far, FAR)] {
            netns.ip(&format!("link set {} arp off up", end.name))?;
        }
        for (netns, end) in [(&wire.near, NEAR), (&wire.far, FAR)] {
            let since = Instant::now();
            while !netns.ip(&format!("-o link show {}", end.name))?.contains("state UP") {
                ensure!(since.elapsed() < PATIENCE, "{} does not come up", end.name);
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        Ok(wire)
    }

    /// Frames that have arrived at the far end.
    pub(crate) fn arrived(&self) -> anyhow::Result<u64> {
        Ok(self.far.link_counters(FAR.name)?.rx_packets)
    }
}

/// Virtual functions of this machine's: `end` is one.
pub(crate) fn backend(end: End, method: Method) -> SocketVf {
    SocketVf::new().serial_of(end.name, SERIAL).method(method.into())
}

/// An open end, and what has to live as long.
pub(crate) struct Opened {
    pub(crate) queue: BoxVf,
    _watch: Box<dyn VfWatch>,
    _vf: OpenedVf,
}

impl Opened {
    /// Opens an end, with frames for others.
    pub(crate) async fn open(end: End, method: Method) -> anyhow::Result<Self> {
        let mut watch = backend(end, method).watch(&Adapter::new(end.mac))?;
        let opened = async {
            while !matches!(next(&mut watch).await, VfEvent::Arrived { .. }) {}
            let mut vf = watch.open(VfWish::new(1, MTU, true)).await?;
            while vf.link == LinkState::Down {
                if let VfEvent::Link(link) = next(&mut watch).await {
                    vf.link = link;
                }
            }
            anyhow::Ok(vf)
        };
        let mut vf = tokio::time::timeout(PATIENCE, opened).await.context("the interface does not come up")??;
        let mut queue = vf.queues.remove(0);
        ensure!(queue.room() > 0, "nothing can be sent by {}", end.name);
        Ok(Self { queue, _watch: watch, _vf: vf })
    }
}

async fn next(watch: &mut Box<dyn VfWatch>) -> VfEvent {
    std::future::poll_fn(|cx| watch.poll_event(cx)).await
}
