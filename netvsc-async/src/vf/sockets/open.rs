//! Opening an interface.

use std::sync::Arc;
use std::{fs, io};

use futures::FutureExt;
use futures::future::{self, BoxFuture};

use super::error::MtuTooLarge;
use super::netlink::Links;
use super::queue::Elsewhere;
use super::settings::{Changes, Settings, present, wait_for_ends};
use super::state::State;
use super::{Config, Method, SocketError, packet, xdp};
use crate::vf::backend::{BoxVf, OpenedVf, VfHandle, VfWish};

/// Opens an interface. Rings are large, so that happens on a thread that may wait.
pub(super) async fn open(config: Arc<Config>, index: u32, state: Arc<State>, wish: VfWish) -> io::Result<OpenedVf> {
    let opened = tokio::task::spawn_blocking(move || {
        // What was changed about it before is put back first. Until it is open, or closed again because nobody wants it any more,
        // nobody else opens it.
        let opening = wait_for_ends(index);
        let mut device = Device::open(index, state, wish)?;
        let queues = queues(&config, &mut device, wish)?;
        let link = device.state.tell();
        Ok::<_, io::Error>((OpenedVf { device: Arc::new(device), queues, link }, opening))
    });
    // It was not cancelled, so it has panicked: as a bug of ours would.
    let (opened, _opening) = opened.await.map_err(io::Error::other)??;
    Ok(opened)
}

/// Opens its queues.
fn queues(config: &Config, device: &mut Device, wish: VfWish) -> Result<Vec<BoxVf>, SocketError> {
    let by_packet = || {
        let queues = packet::open(device.index, &device.state, usize::from(wish.queues), &config.packet)?;
        Ok(queues.into_iter().map(|queue| BoxVf::new(Elsewhere::new(queue))).collect())
    };
    let by_xdp = || {
        let link = present(&mut Links::open()?, device.index)?;
        let queues = xdp::open(&link, &device.state, &config.xdp)?;
        Ok(queues.into_iter().map(|queue| BoxVf::new(Elsewhere::new(queue))).collect())
    };
    let (queues, largest_mtu) = match config.method {
        Method::AfPacket => (by_packet()?, u32::MAX),
        Method::AfXdp => (by_xdp()?, xdp::LARGEST_MTU),
        Method::Best => match by_xdp() {
            Ok(queues) => (queues, xdp::LARGEST_MTU),
            Err(error) => {
                let error: SocketError = error;
                tracing::info!(interface = %device.name, error = &error as &dyn std::error::Error, "by AF_PACKET");
                (by_packet()?, u32::MAX)
            }
        },
    };
    device.largest_mtu = largest_mtu;
    Ok(queues)
}

/// An interface that is open.
#[derive(Debug)]
struct Device {
    name: String,
    index: u32,
    state: Arc<State>,
    /// Its queues receive nothing longer.
    largest_mtu: u32,
    settings: Arc<Settings>,
}

impl Device {
    fn open(index: u32, state: Arc<State>, wish: VfWish) -> Result<Self, SocketError> {
        let mut links = Links::open()?;
        let link = present(&mut links, index)?;
        silence(&link.name);
        // From here on what was changed is put back if anything fails.
        let mut changes = Changes::begin(links, &link, Arc::clone(&state))?;
        // Where it may be changed only while it is down, it has to be done first.
        if link.mtu != wish.mtu {
            changes.set_mtu(wish.mtu)?;
        }
        if !link.up {
            changes.set_up()?;
        }
        changes.receive_multicasts()?;
        changes.look()?;
        changes.set_promiscuous(wish.promiscuous)?;
        Ok(Self { name: link.name, index, state, largest_mtu: u32::MAX, settings: Settings::new(changes) })
    }
}

/// Nobody may have wanted it any more when it was open.
impl Drop for Device {
    fn drop(&mut self) {
        self.close();
    }
}

impl VfHandle for Device {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn set_mtu(&self, mtu: u32) -> BoxFuture<'static, io::Result<()>> {
        match MtuTooLarge::check(mtu, self.largest_mtu) {
            Ok(()) => self.settings.ask(mtu, State::mtu, Changes::set_mtu),
            Err(error) => future::ready(Err(error.into())).boxed(),
        }
    }

    fn set_promiscuous(&self, promiscuous: bool) -> BoxFuture<'static, io::Result<()>> {
        self.settings.ask(promiscuous, State::is_promiscuous, Changes::set_promiscuous)
    }

    fn close(&self) {
        self.settings.close();
    }
}

/// Has the kernel's own network stack neither speak nor forward on an interface. Without addresses it has nothing to say but
/// what IPv6 does by itself. Where it cannot be told so (no such protocol, a read-only `/proc`), the traffic goes on all the same.
fn silence(name: &str) {
    for (family, key, value) in [("ipv6", "disable_ipv6", "1"), ("ipv4", "forwarding", "0")] {
        let setting = format!("/proc/sys/net/{family}/conf/{name}/{key}");
        if let Err(error) = fs::write(&setting, value) {
            tracing::debug!(setting, %error, "not set");
        }
    }
}
