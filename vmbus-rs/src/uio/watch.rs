//! Subchannels: how their coming and going is noticed.
//!
//! The kernel makes `channels/<relid>/`, opens the channel itself, and makes `ring` visible last. Nothing tells which
//! will come, or when; if the kernel's own opening fails, nothing ever does. So the directory is looked at, again and
//! again while somebody awaits subchannels, and ever less often when nobody does; inotify says when to look sooner, where it works (sysfs does not report what the kernel does in it, a file
//! system that a simulated host writes does).
//!
//! Source: Linux `drivers/uio/uio_hv_generic.c` (`hv_uio_new_channel`), DPDK `drivers/bus/vmbus/linux/vmbus_uio.c`
//! (`vmbus_uio_get_subchan`).

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::error::UioError;
use super::line::{End, Line};
use super::session::{INOTIFY, Session, lock};
use super::settings::Settings;
use super::sysfs::{ChannelDirectory, RingFile, SysfsDevice};
use crate::bus::{BusEvent, ChannelInfo};
use crate::memory::{HeapMemory, system_page_size};
use crate::protocol::RelId;

/// How long the effect of interrupt control is waited for. A kernel has none that is not immediate; who simulates one in
/// another process takes a moment.
const PROBE: Duration = Duration::from_millis(20);
/// The same for a channel that is of no use if there is no effect.
const PROBE_UNMONITORED: Duration = Duration::from_secs(1);
/// How often it is looked for.
const PROBE_STEP: Duration = Duration::from_millis(1);

/// What is known of a device's subchannels.
#[derive(Debug)]
pub(super) struct Watcher {
    device: SysfsDevice,
    rescan: Duration,
    idle_rescan: Duration,
    /// Between the last look and the next.
    pause: Duration,
    inotify: Option<Inotify>,
    /// Those that were there before the session, by the inode of their ring: an earlier session's, soon to be removed.
    stale: HashMap<RelId, u64>,
    /// Those that came, by the inode of their ring.
    known: HashMap<RelId, u64>,
    next_scan: Instant,
    probe: Option<Probe>,
}

/// Waits for the effect of interrupt control on subchannels.
#[derive(Debug)]
struct Probe {
    until: Instant,
    waiting: Vec<Arc<Line>>,
}

impl Watcher {
    /// Watches `device`, which was just opened.
    pub(super) fn new(device: SysfsDevice, settings: &Settings, session: &Session, now: Instant) -> Self {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)
            .ok()
            .filter(|inotify| session.epoll.add(inotify, EpollEvent::new(EpollFlags::EPOLLIN, INOTIFY)).is_ok());
        let channels = device.channels().unwrap_or_default();
        let stale = channels.into_iter().filter_map(|channel| Some((channel.relid, channel.ring?.inode))).collect();
        let watcher = Self {
            rescan: settings.rescan,
            idle_rescan: settings.idle_rescan,
            pause: Duration::ZERO,
            inotify,
            stale,
            known: HashMap::new(),
            next_scan: now,
            probe: None,
            device,
        };
        watcher.watch(&watcher.device.channels_directory());
        watcher
    }

    /// Something was reported: looks at once.
    pub(super) fn notified(&mut self, now: Instant) {
        if let Some(inotify) = &self.inotify {
            while inotify.read_events().is_ok_and(|events| !events.is_empty()) {}
        }
        self.hurry(now);
    }

    /// Somebody wants subchannels: looks at once, and often.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.pause = Duration::ZERO;
        self.next_scan = now;
    }

    /// Does what is due; how long nothing more is.
    pub(super) fn turn(&mut self, session: &Session, now: Instant) -> Duration {
        self.check_probe(session, now);
        // Whoever is told that some have not come is told so after a look.
        if self.next_scan <= now || is_overdue(session, now) {
            self.scan(session, now);
            self.pause = if self.is_eager(session) { self.rescan } else { self.longer_pause() };
            self.next_scan = now + self.pause;
        }
        let scan = self.next_scan.saturating_duration_since(now);
        let overdue = self.check_overdue(session, now);
        let probe = self.probe.as_ref().map(|_| PROBE_STEP);
        [Some(scan), overdue, probe].into_iter().flatten().min().unwrap_or(scan)
    }

    /// Whether subchannels are awaited.
    fn is_eager(&self, session: &Session) -> bool {
        let wanted = *lock(&session.wanted);
        wanted.is_some_and(|wanted| !wanted.overdue && session.subchannels() < wanted.count)
            || session.awaited.load(Ordering::Acquire) > 0
    }

    /// Those that nobody awaits may come all the same: the longer nothing does, the less often it is looked.
    fn longer_pause(&self) -> Duration {
        self.pause.saturating_mul(2).clamp(self.rescan, self.idle_rescan.max(self.rescan))
    }

    /// Notices when subchannels did not come in time; how long they have.
    fn check_overdue(&self, session: &Session, now: Instant) -> Option<Duration> {
        let arrived = session.subchannels();
        {
            let mut wanted = lock(&session.wanted);
            let wanted = wanted.as_mut().filter(|wanted| !wanted.overdue && arrived < wanted.count)?;
            if now < wanted.until {
                return Some(wanted.until - now);
            }
            wanted.overdue = true;
        }
        session.arrival.set();
        None
    }

    fn scan(&mut self, session: &Session, now: Instant) {
        // A directory that is not there yet, or not any more: then the device says so by its events.
        let Ok(channels) = self.device.channels() else { return };
        let inode = |relid| {
            channels
                .iter()
                .find(|channel| channel.relid == relid)
                .and_then(|channel| Some(channel.ring.as_ref()?.inode))
        };
        self.stale.retain(|&relid, known| inode(relid) == Some(*known));
        self.known.retain(|&relid, known| {
            let stays = inode(relid) == Some(*known);
            if !stays && session.remove(relid, End::Rescinded(relid)).is_some() {
                session.push(BusEvent::Rescinded(relid));
            }
            stays
        });
        lock(&session.refusals).retain(|(relid, _)| inode(*relid).is_some());
        for mut channel in channels {
            let seen = self.known.contains_key(&channel.relid) || self.stale.contains_key(&channel.relid);
            if seen || channel.relid == self.device.relid || channel.subchannel_index == Some(0) {
                continue;
            }
            if channel.ring.is_none() || channel.subchannel_index.is_none() {
                self.watch(&channel.path);
                // Once more: what came before it was watched is not reported.
                channel = ChannelDirectory::read(channel.relid, channel.path);
            }
            let (Some(index), Some(ring)) = (channel.subchannel_index, &channel.ring) else { continue };
            match self.map(&channel, index, ring) {
                Ok(line) => {
                    self.known.insert(channel.relid, ring.inode);
                    lock(&session.refusals).retain(|(relid, _)| *relid != channel.relid);
                    self.arrived(session, Arc::new(line), now);
                }
                // The kernel may not be ready: tried again, until whoever waits loses patience.
                Err(error) => refuse(session, channel.relid, error),
            }
        }
    }

    /// Watches a directory, if that is possible, and has not been done.
    fn watch(&self, directory: &Path) {
        let what = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_ONLYDIR;
        if let Some(inotify) = &self.inotify {
            let _ = inotify.add_watch(directory, what);
        }
    }

    fn map(&self, channel: &ChannelDirectory, index: u16, ring: &RingFile) -> Result<Line, UioError> {
        let bad = UioError::BadMap { name: "ring", size: ring.bytes };
        let len = usize::try_from(ring.bytes).map_err(|_| bad.clone())?;
        if len == 0 || !len.is_multiple_of(system_page_size()) {
            return Err(bad);
        }
        let file = File::options().read(true).write(true).open(&ring.path);
        let file = file.map_err(|error| UioError::Open { path: ring.path.clone(), error: error.into() })?;
        let rings = HeapMemory::map_shared(file.as_fd(), 0, len)
            .map_err(|error| UioError::Open { path: ring.path.clone(), error: error.into() })?;
        let mut info = ChannelInfo::new(channel.relid, self.device.class, self.device.instance, index);
        info.monitor = channel.monitor;
        Line::new(info, rings).ok_or(bad)
    }

    fn arrived(&mut self, session: &Session, line: Arc<Line>, now: Instant) {
        let masked = line.is_masked();
        // At once: some kernels start subchannels unmasked, and crash of their interrupt.
        line.silence();
        session.add(Arc::clone(&line));
        let unknown = {
            let mut traits = lock(&session.traits);
            // Rings of a subchannel are always new: their mask is the kernel's.
            traits.masks.get_or_insert(masked);
            traits.controls_subchannels.is_none()
        };
        if let Some(probe) = &mut self.probe {
            probe.waiting.push(line);
        } else if unknown && let Ok(done) = session.probe_control(&line) {
            // Where it reaches subchannels, it clears the mask that was just set.
            let patience = if line.info.monitor.is_some() { PROBE } else { PROBE_UNMONITORED };
            self.probe = Some(Probe { until: if done { now + patience } else { now }, waiting: vec![line] });
            self.check_probe(session, now);
        } else {
            decide(session, &line);
        }
    }

    fn check_probe(&mut self, session: &Session, now: Instant) {
        let Some(probe) = &self.probe else { return };
        let reached = probe.waiting.iter().any(|line| !line.is_masked());
        if !reached && now < probe.until {
            return;
        }
        lock(&session.traits).controls_subchannels = Some(reached);
        if let Some(probe) = self.probe.take() {
            for line in probe.waiting {
                line.silence();
                decide(session, &line);
            }
        }
    }
}

/// Whether subchannels should have come by now that were not there at the last look.
fn is_overdue(session: &Session, now: Instant) -> bool {
    let wanted = *lock(&session.wanted);
    wanted.is_some_and(|wanted| !wanted.overdue && wanted.until <= now && session.subchannels() < wanted.count)
}

/// Offers a subchannel, unless the host cannot be signalled on it.
fn decide(session: &Session, line: &Line) {
    let traits = *lock(&session.traits);
    if line.info.monitor.is_none() && traits.controls_subchannels == Some(false) {
        refuse(session, line.info.id, UioError::NotSignalled(line.info.id));
    } else if line.end().is_none() {
        session.offer(line);
    }
}

fn refuse(session: &Session, relid: RelId, error: UioError) {
    let mut refusals = lock(&session.refusals);
    refusals.retain(|(known, _)| *known != relid);
    refusals.push((relid, error));
}
