//! One exported device: what the kernel does between its client and the host.
//!
//! ```text
//!            connect              end of file
//!   Closed ───────────▶ Open ───────────────────▶ Closed
//! ```
//!
//! The receive and the send buffer and their GPADLs live as long as the device, as the kernel makes them when it binds
//! the driver; rings live from open to close, and are new each time. A client may vanish at any moment: its channels are
//! closed, its memory is let go of, and the next one is accepted.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    sockopt,
};
use vmbus::bus::{BufferWish, Bus, BusEvent, ChannelInfo, Purpose, RelId, RingSizes};
use vmbus::guid::Guid;
use vmbus::mem::{Latch, MemBus};
use vmbus::memory::{HeapMemory, SharedMemory, SharedMemoryExt};
use vmbus::ring::Word;

use super::closed_loop::ClosedLoopHandle;
use super::inbox::{Inbox, News, send_event};
use super::kernel::Kernel;
use super::memory::{KERNEL_GPA, Maker, Shared};
use super::monitor::Pages;
use super::sysfs::{Map, Tree};
use super::wire::{MAPS, Setup};
use super::{ExportError, ExportOptions};
use crate::host::{Host, NicId, NicOptions};
use crate::report::{Leaks, NicReport};

/// What `uio_hv_generic` has: each ring with its header page, the receive buffer, the send buffer.
const RING_BYTES: usize = 2 << 20;
const RECEIVE_BYTES: usize = 31 << 20;
const SEND_BYTES: usize = 16 << 20;
/// GPADLs and blocks of guest memory that live as long as the device: the two buffers.
const OWN_BUFFERS: u64 = 2;
/// Rounds of bus and host after which an answer that did not come will not come.
const MAX_ROUNDS: usize = 10_000;
/// Rounds without an event after which none will come: the host answers in its next step.
const QUIET_ROUNDS: usize = 4;
/// How often the other end of the cable is told what the guest does.
const TELL_INTERVAL: Duration = Duration::from_millis(1);
/// Room for events that the client does not read: a few. More would only wake it for nothing later.
const EVENT_BYTES: usize = 1;

/// What became of a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceReport {
    /// The device's instance: its folder below `devices`.
    pub instance: String,
    /// Clients so far, the one that is connected included.
    pub sessions: u64,
    /// Whether there is one now.
    pub client: bool,
    /// What the host counted.
    pub nic: NicReport,
    /// What clients did wrong: on the rings, on the socket, and what would have crashed a kernel.
    pub protocol_violations: u64,
    /// What the host held after a client was gone, its memory and its GPADLs for example.
    pub leaks: u64,
    /// Receive sections and sends that clients held when they went: lost with their channels, and no leak.
    pub held_at_close: u64,
    /// Interrupts given to clients.
    pub events: u64,
    /// What the closed loop saw, if there is one.
    pub closed_loop: Option<super::ClosedLoopStats>,
}

/// An open channel.
#[derive(Debug)]
struct OpenChannel {
    info: ChannelInfo,
    /// Guest→host.
    outgoing: HeapMemory,
    /// Host→guest.
    incoming: HeapMemory,
    interrupt: Latch,
}

impl OpenChannel {
    fn mask(&self, masked: bool) {
        if let Ok(word) = self.incoming.word32(Word::InterruptMask.offset()) {
            // A full fence, as the kernel's.
            word.swap(u32::from(masked).to_le(), std::sync::atomic::Ordering::SeqCst);
        }
    }

    /// Whether there is something to be read by the guest.
    fn has_data(&self) -> bool {
        index(&self.incoming, Word::WriteIndex) != index(&self.incoming, Word::ReadIndex)
    }

    /// How far the host has read, and whether there is more.
    fn unread(&self) -> Option<u32> {
        let read = index(&self.outgoing, Word::ReadIndex);
        (read != index(&self.outgoing, Word::WriteIndex)).then_some(read)
    }
}

fn index(ring: &HeapMemory, word: Word) -> u32 {
    // The control page is inside of every ring.
    ring.word32(word.offset()).map_or(0, |word| word.load(std::sync::atomic::Ordering::SeqCst))
}

#[derive(Debug)]
struct Client {
    socket: Arc<OwnedFd>,
    events: i32,
}

#[derive(Debug)]
pub(super) struct Device {
    instance: Guid,
    number: usize,
    host: Host,
    nic: NicId,
    kernel: Kernel,
    first_monitor: Option<usize>,
    pages: Arc<Pages>,
    bus: HostedBus,
    primary: ChannelInfo,
    maker: Maker,
    receive: Shared,
    send: Shared,
    tree: Tree,
    listener: OwnedFd,
    inbox: Inbox,
    client: Option<Client>,
    channels: Vec<OpenChannel>,
    closed_loop: Option<ClosedLoopHandle>,
    told: Duration,
    /// The host took the device back.
    gone: bool,
    /// The host's account when the client came.
    before: Leaks,
    sessions: u64,
    events: u64,
    violations: u64,
    leaks: u64,
    held_at_close: u64,
}

impl Device {
    pub(super) fn new(
        number: usize,
        host: &Host,
        nic_options: NicOptions,
        options: &ExportOptions,
        pages: &Arc<Pages>,
        closed_loop: Option<ClosedLoopHandle>,
        start: Instant,
    ) -> Result<Self, ExportError> {
        let queues = usize::from(nic_options.queue_count());
        let first_monitor = if options.monitored { Some(pages.give_monitors(queues)?) } else { None };
        let nic = NicId(host.report().nics.len() as u32);
        let port = host.try_add_nic(nic_options).map_err(ExportError::Switch)?;
        let (maker, inbox) = (Maker::default(), Inbox::default());
        let (source, pieces) = (maker.clone(), inbox.clone());
        port.memory().set_source(KERNEL_GPA, move |bytes| source.make(bytes));
        port.memory().set_missing(move |memory, _| pieces.drain(memory));
        let mut bus = HostedBus::new(MemBus::new(port), host.clone(), start);
        let offered = bus.wait_for(|event| match event {
            BusEvent::Offered(info) => Some(info),
            _ => None,
        });
        let primary = offered.ok_or(ExportError::Host { step: "offer its device" })?;
        let mut lend = |purpose, bytes| {
            let made = maker.made(None, || bus.bus.allocate(primary.id, BufferWish { purpose, bytes }).map(drop));
            let made = made.map_err(|_| ExportError::Host { step: "take memory" })?;
            let mut shared = made.map_err(ExportError::system("make shared memory"))?;
            let event = bus.wait_for(|event| match event {
                BusEvent::GpadlCreated(gpadl) => Some(gpadl),
                _ => None,
            });
            let gpadl = event.ok_or(ExportError::Host { step: "take a GPADL" })?;
            shared.memory = shared.memory.with_gpadl(gpadl);
            Ok::<_, ExportError>(shared)
        };
        let receive = lend(Purpose::Receive, RECEIVE_BYTES)?;
        let send = lend(Purpose::Send, SEND_BYTES)?;
        // No GUID of any real device; its last part counts.
        let instance = Guid::new(0x6e65_7476, 0x7363, 0x4000, 0x8000_0000_0000_0000 | number as u64);
        let tree = Tree::new(&options.root, number, instance)?;
        let files = Files { tree: &tree, number, instance, relid: primary.id, first_monitor };
        files.write(pages, &receive, &send)?;
        // Last: who sees the socket finds the files complete.
        let listener = listen(&tree)?;
        let mut device = Self {
            instance,
            number,
            host: host.clone(),
            nic,
            kernel: options.kernel,
            first_monitor,
            pages: Arc::clone(pages),
            bus,
            primary,
            maker,
            receive,
            send,
            listener,
            tree,
            inbox,
            client: None,
            channels: Vec::new(),
            closed_loop,
            told: Duration::ZERO,
            gone: false,
            before: Leaks::default(),
            sessions: 0,
            events: 0,
            violations: 0,
            leaks: 0,
            held_at_close: 0,
        };
        device.before = device.leaks_now();
        Ok(device)
    }

    pub(super) fn has_client(&self) -> bool {
        self.client.is_some()
    }

    /// What can be read when there is something to do.
    pub(super) fn waits_for(&self) -> BorrowedFd<'_> {
        match &self.client {
            Some(client) => client.socket.as_fd(),
            None => self.listener.as_fd(),
        }
    }

    /// Sockets and the bus; whether there was anything.
    pub(super) fn service(&mut self, now: Duration) -> bool {
        let mut worked = self.client.is_none() && self.accept();
        if self.client.is_some() {
            self.inbox.drain(self.bus.bus.port().memory());
            let News { control, closed, wrong } = self.inbox.take_news();
            for text in wrong {
                self.violation(&text);
            }
            worked |= closed || !control.is_empty();
            for value in control {
                self.control(value != 0);
            }
            if closed {
                self.close();
            }
        }
        worked |= self.serve_bus();
        if now >= self.told + TELL_INTERVAL {
            self.told = now;
            self.tell_closed_loop();
        }
        worked
    }

    fn violation(&mut self, text: &str) {
        self.violations += 1;
        tracing::warn!(target: "netvsc_host", device = self.number, text, "protocol violation");
    }

    /// A client opens the device.
    fn accept(&mut self) -> bool {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let Ok(socket) = rustix::net::accept_with(&self.listener, flags) else { return false };
        if self.gone {
            // Closed at once: the client learns that there is nothing here.
            return true;
        }
        self.sessions += 1;
        self.before = self.leaks_now();
        self.client = Some(Client { socket: Arc::new(socket), events: 0 });
        if let Err(error) = self.open() {
            tracing::warn!(target: "netvsc_host", device = self.number, %error, "device not opened");
            self.close();
        }
        true
    }

    /// Opens the primary channel and gives the client its maps.
    fn open(&mut self) -> Result<(), ExportError> {
        let Some(client) = &self.client else { return Ok(()) };
        let socket = Arc::clone(&client.socket);
        let rings = self.open_channel(self.primary, None)?;
        self.tree.set_open(true).map_err(ExportError::system("write the device's files"))?;
        let maps = [&rings, &self.pages.interrupt, &self.pages.monitor, &self.receive, &self.send];
        let setup = Setup { sizes: maps.map(Shared::bytes) }.to_bytes();
        let files = maps.map(|map| map.file.as_fd());
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAPS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&files));
        rustix::net::sendmsg(&socket, &[IoSlice::new(&setup)], &mut control, SendFlags::NOSIGNAL)
            .map_err(|error| ExportError::system("send the device's maps")(error.into()))?;
        if let Err(error) = sockopt::set_socket_send_buffer_size(&socket, EVENT_BYTES) {
            tracing::debug!(target: "netvsc_host", %error, "events are not bounded");
        }
        self.inbox.open(socket);
        Ok(())
    }

    /// Opens a channel of the host, with rings in `path` or in a memfd.
    fn open_channel(&mut self, info: ChannelInfo, path: Option<std::path::PathBuf>) -> Result<Shared, ExportError> {
        let sizes = RingSizes { outgoing_bytes: RING_BYTES, incoming_bytes: RING_BYTES };
        let bus = &mut self.bus;
        let made = self.maker.made(path, || bus.bus.open(info.id, sizes));
        let made = made.map_err(|_| ExportError::Host { step: "open its channel" })?;
        let shared = made.map_err(ExportError::system("make rings"))?;
        let opened = bus.wait_for(|event| match event {
            BusEvent::Opened(id) if id == info.id => Some(true),
            BusEvent::OpenFailed { channel, .. } if channel == info.id => Some(false),
            _ => None,
        });
        if opened != Some(true) {
            return Err(ExportError::Host { step: "open its channel" });
        }
        let failed = || ExportError::Host { step: "open a channel of this size" };
        let half = |at| shared.memory.slice(at, RING_BYTES).map_err(|_| failed());
        let (outgoing, incoming) = (half(0)?, half(RING_BYTES)?);
        let interrupt = bus.bus.port().interrupt(info.id);
        let channel = OpenChannel { info, outgoing, incoming, interrupt };
        channel.mask(self.kernel.masks());
        // The host interrupts a new channel once, whatever it finds. To a kernel that has only just opened it that is no
        // news, and a client need not be woken for nothing.
        self.bus.step_host();
        channel.interrupt.take();
        self.channels.push(channel);
        Ok(shared)
    }

    fn serve_bus(&mut self) -> bool {
        let mut worked = false;
        while let Some(event) = self.bus.next() {
            worked = true;
            match event {
                BusEvent::Offered(info) if !info.is_primary() => self.offer(info),
                BusEvent::Rescinded(id) if id == self.primary.id => self.vanish(),
                BusEvent::Rescinded(id) => self.drop_subchannel(id),
                BusEvent::Gone => self.vanish(),
                _ => {}
            }
        }
        worked
    }

    /// A subchannel was offered: the kernel opens it, and then shows it.
    fn offer(&mut self, info: ChannelInfo) {
        if self.client.is_none() {
            return;
        }
        let relid = info.id.0;
        let (fresh, ready) = (self.tree.ring(relid, false), self.tree.ring(relid, true));
        let monitor = self.first_monitor.map(|first| first + usize::from(info.subchannel_index));
        let shown = self
            .tree
            .write_channel(relid, info.subchannel_index, monitor)
            .map_err(ExportError::system("write a channel's files"))
            .and_then(|()| self.open_channel(info, Some(fresh.clone())))
            .and_then(|_| std::fs::rename(fresh, ready).map_err(ExportError::system("show a ring")));
        if let Err(error) = shown {
            // As in the kernel: it does not appear, and the client waits in vain.
            tracing::warn!(target: "netvsc_host", device = self.number, %error, "subchannel not opened");
        }
    }

    fn drop_subchannel(&mut self, id: RelId) {
        self.channels.retain(|channel| channel.info.id != id);
        self.bus.bus.close(id);
        if let Err(error) = self.tree.remove_channel(id.0) {
            tracing::warn!(target: "netvsc_host", device = self.number, %error, "channel not removed");
        }
    }

    /// The host took the device back.
    fn vanish(&mut self) {
        if !std::mem::replace(&mut self.gone, true) {
            self.close();
        }
    }

    /// The client is gone: everything that was its goes.
    fn close(&mut self) {
        if self.client.take().is_none() {
            return;
        }
        self.drain();
        self.inbox.close();
        if let Some(closed_loop) = &self.closed_loop {
            closed_loop.session_ended();
        }
        // Subchannels first: the primary one takes them with it.
        let mut channels = std::mem::take(&mut self.channels);
        channels.sort_by_key(|channel| std::cmp::Reverse(channel.info.subchannel_index));
        for channel in channels {
            if !channel.info.is_primary() {
                self.drop_subchannel(channel.info.id);
            } else {
                self.bus.bus.close(channel.info.id);
            }
        }
        self.bus.bus.port().memory().free_below(KERNEL_GPA);
        self.bus.settle();
        if let Err(error) = self.tree.set_open(false) {
            tracing::warn!(target: "netvsc_host", device = self.number, %error, "state not written");
        }
        let (before, after) = (self.before, self.leaks_now());
        let held = |leaks: Leaks| leaks.sections + leaks.sends;
        self.held_at_close += held(after).saturating_sub(held(before));
        let own = |leaks: Leaks| leaks.gpadls + leaks.channels + leaks.memory_blocks;
        self.leaks += own(after).saturating_sub(2 * OWN_BUFFERS);
    }

    /// Has the host take what the client had sent before it went, as far as it can without anybody to read its answers.
    fn drain(&self) {
        let unread = || self.channels.iter().map(OpenChannel::unread).collect::<Vec<_>>();
        let mut before = unread();
        for _ in 0..MAX_ROUNDS {
            self.bus.step_host();
            let now = unread();
            if now == before || now.iter().all(Option::is_none) {
                return;
            }
            before = now;
        }
    }

    fn leaks_now(&self) -> Leaks {
        self.host.nic_report(self.nic).map(|report| report.leaks).unwrap_or_default()
    }

    fn tell_closed_loop(&self) {
        if let Some(closed_loop) = &self.closed_loop
            && let Some(report) = self.host.nic_report(self.nic)
        {
            let held = report.leaks.sections.saturating_sub(self.before.sections);
            closed_loop.tell(self.client.is_some() && report.packet_filter != 0, held + report.rx_waiting);
        }
    }

    /// Interrupt control, by `write`.
    fn control(&mut self, unmask: bool) {
        let mut data = false;
        for channel in &self.channels {
            if channel.info.is_primary() || self.kernel.writes_to_all() {
                channel.mask(!unmask);
                data |= unmask && channel.has_data();
            }
        }
        if unmask && self.first_monitor.is_none() && self.kernel.write_signals() {
            self.bus.bus.port().doorbell().set();
        }
        if data {
            self.event();
        }
    }

    /// Gives the client the interrupts that the host raised.
    pub(super) fn interrupt(&mut self) {
        let mut event = false;
        let mut died = None;
        for channel in &self.channels {
            if !channel.interrupt.take() {
                continue;
            }
            if !channel.info.is_primary() && self.kernel.dies_of_subchannels() {
                died = Some(channel.info.id);
                continue;
            }
            if self.kernel.masks() {
                channel.mask(true);
            }
            event = true;
        }
        if event {
            self.event();
        }
        if let Some(id) = died {
            let text = format!("interrupt of subchannel {id}: kernel {} would have crashed", self.kernel);
            self.violation(&text);
            self.close();
        }
    }

    fn event(&mut self) {
        if let Some(client) = &mut self.client {
            client.events = client.events.wrapping_add(1);
            send_event(&client.socket, client.events);
            self.events += 1;
        }
    }

    pub(super) fn report(&self) -> DeviceReport {
        let (kept, not_kept) = self.host.nic_violations(self.nic);
        DeviceReport {
            instance: self.instance.to_string(),
            sessions: self.sessions,
            client: self.client.is_some(),
            nic: self.host.nic_report(self.nic).unwrap_or_default(),
            protocol_violations: self.violations + kept + not_kept,
            leaks: self.leaks,
            held_at_close: self.held_at_close,
            events: self.events,
            closed_loop: self.closed_loop.as_ref().map(ClosedLoopHandle::stats),
        }
    }

    /// Ends the session, for good.
    pub(super) fn finish(&mut self) {
        self.gone = true;
        self.close();
    }
}

/// A bus, and the host behind it, which has to run for anything to happen.
#[derive(Debug)]
struct HostedBus {
    bus: MemBus,
    host: Host,
    /// Where the host's clock begins.
    start: Instant,
    /// Events that came while another was waited for.
    waiting: VecDeque<BusEvent>,
}

impl HostedBus {
    fn new(bus: MemBus, host: Host, start: Instant) -> Self {
        Self { bus, host, start, waiting: VecDeque::new() }
    }

    fn step_host(&self) {
        self.host.step(self.start.elapsed());
    }

    fn poll(&mut self) -> Option<BusEvent> {
        match self.bus.poll_event(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(event)) => Some(event),
            Poll::Ready(Err(_)) | Poll::Pending => None,
        }
    }

    fn next(&mut self) -> Option<BusEvent> {
        self.waiting.pop_front().or_else(|| self.poll())
    }

    /// Runs bus and host until `wanted` finds its event; others wait for [`next`](Self::next).
    fn wait_for<T>(&mut self, mut wanted: impl FnMut(BusEvent) -> Option<T>) -> Option<T> {
        for _ in 0..MAX_ROUNDS {
            while let Some(event) = self.poll() {
                if let Some(found) = wanted(event) {
                    return Some(found);
                }
                self.waiting.push_back(event);
            }
            self.step_host();
        }
        None
    }

    /// Runs bus and host until they have nothing more to say to each other; rescinded channels are given back.
    fn settle(&mut self) {
        let mut quiet = 0;
        for _ in 0..MAX_ROUNDS {
            quiet += 1;
            while let Some(event) = self.next() {
                quiet = 0;
                if let BusEvent::Rescinded(id) = event {
                    self.bus.close(id);
                }
            }
            if quiet == QUIET_ROUNDS {
                return;
            }
            self.step_host();
        }
    }
}

/// A device's files, as they are written.
struct Files<'a> {
    tree: &'a Tree,
    number: usize,
    instance: Guid,
    relid: RelId,
    first_monitor: Option<usize>,
}

impl Files<'_> {
    fn write(&self, pages: &Pages, receive: &Shared, send: &Shared) -> Result<(), ExportError> {
        let named = |name: &str, shared: &Shared| {
            let gpadl = shared.memory.gpadl().map_or(0, |gpadl| gpadl.0);
            format!("{name}:{gpadl}")
        };
        let maps: [Map<'_>; MAPS] = [
            Map { name: "txrx_rings", bytes: 2 * RING_BYTES as u64 },
            Map { name: "int_page", bytes: pages.interrupt.bytes() },
            Map { name: "monitor_page", bytes: pages.monitor.bytes() },
            Map { name: &named("recv", receive), bytes: receive.bytes() },
            Map { name: &named("send", send), bytes: send.bytes() },
        ];
        let relid = self.relid.0;
        self.tree
            .write(self.number, self.instance, relid, self.first_monitor, &maps)
            .and_then(|()| self.tree.write_channel(relid, 0, self.first_monitor))
            // Never mapped, but DPDK wants it to be there.
            .and_then(|()| std::fs::write(self.tree.ring(relid, true), []))
            .map_err(ExportError::system("write the device's files"))
    }
}

fn listen(tree: &Tree) -> Result<OwnedFd, ExportError> {
    let path = tree.socket();
    let failed = |error: rustix::io::Errno| ExportError::at("listen at", path)(error.into());
    let address = SocketAddrUnix::new(path).map_err(failed)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).map_err(failed)?;
    rustix::net::bind(&socket, &address).map_err(failed)?;
    rustix::net::listen(&socket, 16).map_err(failed)?;
    Ok(socket)
}
