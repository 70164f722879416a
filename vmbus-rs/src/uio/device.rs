//! A NIC that is bound to `uio_hv_generic`, and how it is opened.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::bus::UioBus;
use super::error::UioError;
use super::line::Line;
use super::reactor::Reactor;
use super::select::Selector;
use super::session::{Parts, Session};
use super::settings::{KernelTraits, Settings};
use super::sysfs::{MapUse, SysfsDevice, UioNode};
use super::watch::Watcher;
use crate::bus::ChannelInfo;
use crate::gpadl::GpadlId;
use crate::guid::Guid;
use crate::memory::{HeapMemory, PAGE_SIZE, SharedMemoryExt};
use crate::monitor::MonitorId;

/// A NIC that is bound to `uio_hv_generic`: opens it, as often as that takes.
#[derive(Debug, Clone)]
pub struct UioDevice {
    instance: Guid,
    settings: Settings,
}

impl UioDevice {
    /// The device that `selector` means, if it is bound.
    ///
    /// # Errors
    /// [`UioError::Select`], which lists what there is and why it was not taken.
    pub fn find(selector: &Selector, settings: Settings) -> Result<Self, UioError> {
        let device = settings.sysfs.find_bound(selector)?;
        Ok(Self { instance: device.instance, settings })
    }

    /// Its instance: the name by which it comes back after the host took it away.
    pub fn instance(&self) -> Guid {
        self.instance
    }

    /// What sysfs says of it now.
    ///
    /// # Errors
    /// [`UioError::Select`], if it is not there (any more), or not bound.
    pub fn describe(&self) -> Result<SysfsDevice, UioError> {
        Ok(self.settings.sysfs.find_bound(&Selector::Instance(self.instance))?)
    }

    /// Opens it, and with it its primary channel, for one session of the device's driver. A thread waits for its events.
    ///
    /// Sysfs is read anew: the same device may have come back under other numbers.
    ///
    /// # Errors
    /// [`UioError`]: it is not there, not ours to open, in use, or not as it should be.
    pub fn open(&self) -> Result<UioBus, UioError> {
        let (mut bus, reactor) = self.open_with_reactor()?;
        let name = format!("vmbus-{}", bus.name());
        let thread = std::thread::Builder::new().name(name).spawn(|| reactor.run_blocking());
        bus.attach_thread(thread.map_err(|error| UioError::System(error.into()))?);
        Ok(bus)
    }

    /// As [`open`](Self::open), but the caller turns the reactor.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with_reactor(&self) -> Result<(UioBus, Reactor), UioError> {
        let device = self.describe()?;
        let node = device.uio.clone().ok_or(UioError::NoMap { name: RINGS })?;
        let file = self.settings.opener.open(node.number)?;
        let map = |found: Option<(usize, u64)>, name: &'static str, least: usize| {
            let (index, size) = found.ok_or(UioError::NoMap { name })?;
            let len = usize::try_from(size).ok().filter(|&len| len >= least && len.is_multiple_of(PAGE_SIZE));
            let len = len.ok_or(UioError::BadMap { name, size })?;
            file.map(index, len).map_err(|error| UioError::Map { index, error: error.into() })
        };

        let rings = find(&node, |usage| *usage == MapUse::Rings);
        let primary = map(rings, RINGS, PAGE_SIZE)?;
        let interrupt_page = map(find(&node, |usage| *usage == MapUse::InterruptPage), "int_page", PAGE_SIZE)?;
        let monitor_page = map(find(&node, |usage| *usage == MapUse::MonitorPage), "monitor_page", PAGE_SIZE)?;
        let buffer = |name, gpadl: fn(&MapUse) -> Option<GpadlId>| {
            let found = find(&node, |usage| gpadl(usage).is_some());
            let Some((index, _)) = found else { return Ok(None) };
            let memory = map(found, name, PAGE_SIZE)?;
            Ok::<_, UioError>(gpadl(&node.maps[index].usage).map(|gpadl| memory.with_gpadl(gpadl)))
        };
        let receive = buffer("recv", |usage| match usage {
            MapUse::Receive(gpadl) => Some(*gpadl),
            _ => None,
        })?;
        let send = buffer("send", |usage| match usage {
            MapUse::Send(gpadl) => Some(*gpadl),
            _ => None,
        })?;

        let mut info = ChannelInfo::new(device.relid, device.class, device.instance, 0);
        info.monitor = device.monitor;
        let size = rings.map_or(0, |(_, size)| size);
        let line = Line::new(info, primary).ok_or(UioError::BadMap { name: RINGS, size })?;
        line.check_fresh()?;
        let traits = self.settings.kernel.map_or(
            KernelTraits {
                // One that is set may be left from an earlier session.
                masks: (!line.is_masked()).then_some(false),
                signals: info.monitor.is_none().then_some(true),
                controls_subchannels: None,
            },
            KernelTraits::of,
        );
        line.silence();
        if let (Some(monitor), Some(latency)) = (info.monitor, self.settings.latency) {
            set_latency(&monitor_page, monitor, latency)?;
        }

        let buffers = [receive.clone(), send.clone()];
        let parts = Parts { device: file, interrupt_page, monitor_page, receive, send, traits };
        let session = Arc::new(Session::new(parts)?);
        let line = Arc::new(line);
        session.add(Arc::clone(&line));
        session.offer(&line);
        let watcher = Watcher::new(device, &self.settings, &session, Instant::now());
        let reactor = Reactor::new(Arc::clone(&session), watcher);
        Ok((UioBus::new(self.clone(), node.number, session, info.id, buffers), reactor))
    }

    /// Waits until the device is there and bound, as it is again some time after the host took it away and gave it back.
    ///
    /// # Errors
    /// What was in the way when `longest` had passed.
    pub fn wait_until_bound(&self, longest: Duration) -> Result<SysfsDevice, UioError> {
        let start = Instant::now();
        loop {
            let error = match self.describe() {
                Ok(device) => return Ok(device),
                Err(error) => error,
            };
            let Some(left) = longest.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) else {
                return Err(error);
            };
            std::thread::sleep(self.settings.rescan.min(left));
        }
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }
}

/// Index and size of a map.
fn find(node: &UioNode, is: impl Fn(&MapUse) -> bool) -> Option<(usize, u64)> {
    node.map(is).map(|(index, map)| (index, map.size))
}

/// Tells the hypervisor how soon to look at a monitor.
pub(super) fn set_latency(page: &HeapMemory, monitor: MonitorId, latency: Duration) -> Result<(), UioError> {
    let hundred_ns = u16::try_from(latency.as_nanos() / 100).unwrap_or(u16::MAX);
    // Two bytes of its own: no neighbour's are written.
    Ok(page.write(monitor.latency_offset(), &hundred_ns.to_le_bytes())?)
}

const RINGS: &str = "txrx_rings";
