//! Opening an interface, and its settings.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fs, io};

use futures::FutureExt;
use futures::future::{self, BoxFuture};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::error::MtuTooLarge;
use super::netlink::{Link, Links};
use super::queue::{Elsewhere, drop_elsewhere};
use super::state::{Ending, State};
use super::syscalls::{PacketOption, bind_packet, set_packet_option};
use super::{Config, Method, SocketError, packet, xdp};
use crate::vf::backend::{BoxVf, OpenedVf, VfHandle, VfWish};

/// `PACKET_MR_PROMISC`.
const PROMISCUOUS: u32 = 1;
/// `PACKET_MR_ALLMULTI`.
const ALL_MULTICAST: u32 = 2;

/// Opens an interface. Rings are large, so that happens on a thread that may wait.
pub(super) async fn open(config: Arc<Config>, index: u32, state: Arc<State>, wish: VfWish) -> io::Result<OpenedVf> {
    let opened = tokio::task::spawn_blocking(move || {
        let mut device = Device::open(index, state, wish)?;
        // What was changed about the interface is put back if it cannot be used.
        let queues = queues(&config, &mut device, wish).inspect_err(|_| device.close())?;
        let link = device.state.tell();
        Ok(OpenedVf { device: Arc::new(device), queues, link })
    });
    // It was not cancelled, so it has panicked: as a bug of ours would.
    opened.await.map_err(io::Error::other)?
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
    /// `None` once it is closed.
    open: Mutex<Option<Open>>,
}

/// What was changed about the interface; dropped, it is put back. The kernel makes whoever does that wait.
#[derive(Debug)]
struct Open {
    links: Links,
    /// A socket that receives nothing: what it asked for in the interface's name ends with it.
    filters: OwnedFd,
    index: u32,
    /// What it was before.
    mtu: u32,
    state: Arc<State>,
    /// From [`VfHandle::close`] on. The last one to be dropped.
    ending: Option<Ending>,
}

impl Drop for Open {
    fn drop(&mut self) {
        let Self { links, index, mtu, .. } = self;
        if self.state.is_gone() || !matches!(links.by_index(*index), Ok(Some(link)) if link.mtu != *mtu) {
            return;
        }
        if let Err(error) = links.set_mtu(*index, *mtu) {
            tracing::warn!(interface = *index, error = &error as &dyn std::error::Error, "MTU not put back");
        }
    }
}

impl Device {
    fn open(index: u32, state: Arc<State>, wish: VfWish) -> Result<Self, SocketError> {
        // What was changed about it before is put back first.
        state.wait_for_ends();
        let mut links = Links::open()?;
        let link = present(&mut links, index)?;
        silence(&link.name);
        // Where it may be changed only while it is down, it has to be done first.
        if link.mtu != wish.mtu {
            links.set_mtu(index, wish.mtu)?;
        }
        if !link.up {
            links.set_up(index, true)?;
        }
        let filters = socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None)
            .map_err(SocketError::when("open an AF_PACKET socket"))?;
        bind_packet(filters.as_fd(), index, 0).map_err(SocketError::when("bind an AF_PACKET socket"))?;
        membership(&filters, PacketOption::AddMembership, index, ALL_MULTICAST)
            .map_err(SocketError::when("receive multicasts"))?;
        state.update_by(|| present(&mut links, index))?;
        // Whoever opened it before and did not close it has taken its filters along.
        state.set_promiscuous(false);
        let open = Open { links, filters, index, mtu: link.mtu, state: Arc::clone(&state), ending: None };
        let device = Self { name: link.name, index, state, largest_mtu: u32::MAX, open: Mutex::new(Some(open)) };
        device.set_promiscuous_now(wish.promiscuous)?;
        Ok(device)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_mtu_now(&self, mtu: u32) -> Result<(), SocketError> {
        MtuTooLarge::check(mtu, self.largest_mtu)?;
        let mut open = self.lock();
        let Open { links, .. } = open.as_mut().ok_or_else(closed)?;
        links.set_mtu(self.index, mtu)?;
        self.state.set_mtu(mtu);
        Ok(())
    }

    fn set_promiscuous_now(&self, promiscuous: bool) -> Result<(), SocketError> {
        let open = self.lock();
        let Open { filters, .. } = open.as_ref().ok_or_else(closed)?;
        if promiscuous != self.state.is_promiscuous() {
            let option = if promiscuous { PacketOption::AddMembership } else { PacketOption::DropMembership };
            membership(filters, option, self.index, PROMISCUOUS)
                .map_err(SocketError::when("change what the virtual function receives"))?;
            self.state.set_promiscuous(promiscuous);
        }
        Ok(())
    }
}

impl VfHandle for Device {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn set_mtu(&self, mtu: u32) -> BoxFuture<'static, io::Result<()>> {
        future::ready(self.set_mtu_now(mtu).map_err(io::Error::from)).boxed()
    }

    fn set_promiscuous(&self, promiscuous: bool) -> BoxFuture<'static, io::Result<()>> {
        future::ready(self.set_promiscuous_now(promiscuous).map_err(io::Error::from)).boxed()
    }

    fn close(&self) {
        let Some(mut open) = self.lock().take() else { return };
        self.state.set_promiscuous(false);
        open.ending = Some(self.state.ends());
        drop_elsewhere(open);
    }
}

fn present(links: &mut Links, index: u32) -> Result<Link, SocketError> {
    let gone = || SocketError::new("use the network interface", io::Error::from_raw_os_error(libc::ENODEV));
    links.by_index(index)?.ok_or_else(gone)
}

fn closed() -> SocketError {
    SocketError::new("set a virtual function that is closed", io::ErrorKind::NotConnected)
}

/// `packet_mreq`: index, kind, length of the address, address.
fn membership(socket: &OwnedFd, option: PacketOption, index: u32, kind: u32) -> io::Result<()> {
    // Two halves, of which the second is zero, as they lie in memory.
    let [first, second] = (kind as u16).to_ne_bytes();
    set_packet_option(socket.as_fd(), option, &[index, u32::from_ne_bytes([first, second, 0, 0]), 0, 0])
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
