//! What differs between kernels with `uio_hv_generic`, as a client sees it: who writes the interrupt mask, what interrupt
//! control unmasks and signals, and what an interrupt of a subchannel does.
//!
//! The client here speaks raw bytes on raw rings, so that it shares nothing with the driver.

#![cfg(all(feature = "export", target_os = "linux"))]

use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use netvsc_host::export::{DeviceReport, Export, ExportError, ExportOptions, Kernel};
use netvsc_host::port::NullPort;
use netvsc_host::{Host, NicOptions};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use vmbus::memory::{HeapMemory, SharedMemoryExt};
use vmbus::packet::{PacketType, TransactionId};
use vmbus::ring::{Consumer, MappedRing, Outgoing, Producer, RingMemory, Word};

/// How long anything is waited for; a busy machine takes long.
const PATIENCE: Duration = Duration::from_secs(60);
const RING: usize = 2 << 20;
/// What nobody but the test writes to a mask.
const UNTOUCHED: u32 = 2;

#[test]
fn masks_are_whose_the_table_says() {
    for kernel in Kernel::ALL {
        let exported = Exported::start(ExportOptions::new(root()).kernel(kernel));
        let mut client = exported.client();
        let masks = matches!(kernel, Kernel::A | Kernel::B | Kernel::C);
        assert_eq!(client.mask(), u32::from(masks), "kernel {kernel}: after open");
        client.set_mask(0);
        client.init();
        assert_eq!(client.event(), Some(1), "kernel {kernel}");
        assert_eq!(client.mask(), u32::from(masks), "kernel {kernel}: after an interrupt");
        client.control(0);
        client.wait("masked", |client| client.mask() == 1);
        // The answer is unread: cleared, there is an interrupt at once.
        client.control(1);
        assert_eq!(client.event(), Some(2), "kernel {kernel}: unmasked, with data");
        assert_eq!(client.mask(), 0, "kernel {kernel}: after interrupt control");
        drop(client);
        exported.finish();
    }
}

#[test]
fn interrupt_control_reaches_subchannels_of_some_kernels() {
    for kernel in Kernel::ALL {
        let exported = Exported::start(ExportOptions::new(root()).kernel(kernel));
        let mut client = exported.client();
        let sub = client.open_subchannel();
        let masks = matches!(kernel, Kernel::A | Kernel::B | Kernel::C);
        assert_eq!(sub.load(Word::InterruptMask), u32::from(masks), "kernel {kernel}: new subchannel");
        sub.store(Word::InterruptMask, UNTOUCHED);
        client.control(1);
        client.wait("unmasked", |client| client.mask() == 0);
        let reached = matches!(kernel, Kernel::C | Kernel::D);
        if reached {
            client.wait("the subchannel unmasked, too", |_| sub.load(Word::InterruptMask) == 0);
        }
        // The primary channel is the first: once it has seen this, all have seen what came before.
        client.control(0);
        client.wait("masked", |client| client.mask() == 1);
        if reached {
            client.wait("the subchannel masked, too", |_| sub.load(Word::InterruptMask) == 1);
        } else {
            assert_eq!(sub.load(Word::InterruptMask), UNTOUCHED, "kernel {kernel}");
        }
        drop(client);
        exported.finish();
    }
}

#[test]
fn an_interrupt_of_a_subchannel_is_the_end_of_some_kernels() {
    for kernel in Kernel::ALL {
        let exported = Exported::start(ExportOptions::new(root()).kernel(kernel));
        let mut client = exported.client();
        client.open_subchannel();
        while client.event_now().is_some() {}
        client.set_subchannel_mask(0);
        client.send_on_subchannel();
        let survives = matches!(kernel, Kernel::C | Kernel::D);
        assert_eq!(client.event().is_some(), survives, "kernel {kernel}");
        drop(client);
        let report = exported.stop();
        assert_eq!(report.protocol_violations, u64::from(!survives), "kernel {kernel}");
        assert_eq!(report.leaks, 0, "kernel {kernel}");
    }
}

#[test]
fn without_monitors_a_write_signals() {
    let refused = Export::new(ExportOptions::new(root()).kernel(Kernel::A).monitored(false));
    assert!(matches!(refused, Err(ExportError::Unmonitored)));
    for kernel in [Kernel::B, Kernel::C, Kernel::D, Kernel::BD] {
        let exported = Exported::start(ExportOptions::new(root()).kernel(kernel).monitored(false));
        let mut client = exported.client();
        assert!(!exported.device().join("monitor_id").exists(), "kernel {kernel}");
        assert!(!exported.device().join(format!("channels/{}/monitor_id", exported.relid())).exists());
        // Silence, so that the host sleeps; then only the write can wake it.
        std::thread::sleep(Duration::from_millis(20));
        client.set_mask(0);
        client.init();
        client.control(1);
        assert!(client.event().is_some(), "kernel {kernel}");
        drop(client);
        exported.finish();
    }
}

#[test]
fn clients_come_and_go() {
    let exported = Exported::start(ExportOptions::new(root()));
    for session in 1..=5 {
        let mut client = exported.client();
        assert_eq!((client.outgoing.ring().load(Word::WriteIndex), client.mask()), (0, 1), "fresh rings");
        if session % 2 == 1 {
            client.open_subchannel();
        } else {
            client.init();
        }
        drop(client);
    }
    let report = exported.stop();
    assert_eq!((report.sessions, report.protocol_violations, report.leaks), (5, 0, 0));
}

/// Whoever shortens a file under the host's mapping ends it by a signal.
#[test]
fn guest_memory_can_not_be_cut_off_under_the_host() {
    let exported = Exported::start(ExportOptions::new(root()));
    let mut client = exported.client();
    let memory = |flags| {
        let file: File = rustix::fs::memfd_create("guest", flags).unwrap().into();
        file.set_len(8192).unwrap();
        file
    };
    let good = memory(rustix::fs::MemfdFlags::ALLOW_SEALING);
    client.announce(0x10_0000, &good);
    let is_sealed = |file: &File| rustix::fs::fcntl_get_seals(file).unwrap().contains(rustix::fs::SealFlags::SHRINK);
    client.wait("the host's seal", |_| is_sealed(&good));
    good.set_len(4096).expect_err("the host maps it");
    good.set_len(16_384).expect("it may grow");
    // One that is sealed already is as good, and seals can be sealed.
    let sealed = memory(rustix::fs::MemfdFlags::ALLOW_SEALING);
    let seals = rustix::fs::SealFlags::SHRINK | rustix::fs::SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&sealed, seals).unwrap();
    client.announce(0x20_0000, &sealed);
    // These cannot be sealed: a memfd that was made so, and an ordinary file.
    client.announce(0x30_0000, &memory(rustix::fs::MemfdFlags::empty()));
    let path = exported.root.join("file");
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    file.set_len(8192).unwrap();
    client.announce(0x40_0000, &file);
    // The host takes them in order: once the last one is sealed, it has seen those before. A host that is stopped
    // reads nothing more.
    let last = memory(rustix::fs::MemfdFlags::ALLOW_SEALING);
    client.announce(0x50_0000, &last);
    client.wait("the last seal", |_| is_sealed(&last));
    drop(client);
    let report = exported.stop();
    assert_eq!((report.protocol_violations, report.leaks), (2, 0), "{report:?}");
}

/// An export that runs, with one device.
struct Exported {
    root: PathBuf,
    stop: UnixStream,
    thread: Option<JoinHandle<Vec<DeviceReport>>>,
}

impl Exported {
    fn start(options: ExportOptions) -> Self {
        let host = Host::builder().build();
        host.add_port(NullPort);
        let root = options.root().to_path_buf();
        let mut export = Export::new(options).unwrap();
        export.add(&host, NicOptions::new().queues(2), None).unwrap();
        let (stop, stopped) = UnixStream::pair().unwrap();
        let thread = std::thread::spawn(move || {
            export.run(stopped.as_fd(), Duration::from_secs(1), |_, _| {}).unwrap();
            export.finish()
        });
        Self { root, stop, thread: Some(thread) }
    }

    fn device(&self) -> PathBuf {
        let mut devices = std::fs::read_dir(self.root.join("sys/bus/vmbus/devices")).unwrap();
        devices.next().unwrap().unwrap().path()
    }

    fn relid(&self) -> u32 {
        value(&self.device().join("id")).parse().unwrap()
    }

    fn client(&self) -> Client {
        Client::connect(self)
    }

    fn stop(mut self) -> DeviceReport {
        std::io::Write::write_all(&mut self.stop, b"x").unwrap();
        let reports = self.thread.take().unwrap().join().unwrap();
        std::fs::remove_dir_all(&self.root).unwrap();
        reports.into_iter().next().unwrap()
    }

    fn finish(self) {
        let report = self.stop();
        assert_eq!((report.protocol_violations, report.leaks), (0, 0), "{:?}", report.nic);
    }
}

fn root() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("nvk-{}-{number}", std::process::id()))
}

/// A value, whose line feed must be there.
fn value(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    text.strip_suffix('\n').unwrap().into()
}

struct Client {
    socket: OwnedFd,
    device: PathBuf,
    monitor: HeapMemory,
    send_buffer: HeapMemory,
    outgoing: Producer<MappedRing<HeapMemory>>,
    incoming: Option<Consumer<MappedRing<HeapMemory>>>,
    mask: MappedRing<HeapMemory>,
    subchannel: Option<(Producer<MappedRing<HeapMemory>>, MappedRing<HeapMemory>)>,
}

impl Client {
    fn connect(exported: &Exported) -> Self {
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::empty(), None).unwrap();
        let address = SocketAddrUnix::new(exported.root.join("dev/uio0.sock")).unwrap();
        rustix::net::connect(&socket, &address).unwrap();
        let mut bytes = [0; 64];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(5))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let message =
            rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::empty())
                .unwrap();
        assert_eq!((message.bytes, &bytes[..8]), (48, &b"VMBS\x01\0\x05\0"[..]));
        let sizes: Vec<usize> =
            bytes[8..48].as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word) as usize).collect();
        let files: Vec<File> = control
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(files) => Some(files),
                _ => None,
            })
            .flatten()
            .map(File::from)
            .collect();
        assert_eq!((files.len(), sizes[0]), (5, 2 * RING));
        let map = |index: usize| HeapMemory::map_shared(files[index].as_fd(), 0, sizes[index]).unwrap();
        let (outgoing, incoming) = rings(&map(0));
        Self {
            socket,
            device: exported.device(),
            monitor: map(2),
            send_buffer: map(4),
            outgoing: Producer::new(outgoing),
            // It masks when it is made, which is the kernel's business here.
            incoming: None,
            mask: incoming,
            subchannel: None,
        }
    }

    fn mask(&self) -> u32 {
        self.mask.load(Word::InterruptMask)
    }

    fn set_mask(&self, mask: u32) {
        self.mask.store(Word::InterruptMask, mask);
        self.mask.fence();
    }

    fn set_subchannel_mask(&self, mask: u32) {
        let (_, incoming) = self.subchannel.as_ref().unwrap();
        incoming.store(Word::InterruptMask, mask);
        incoming.fence();
    }

    fn control(&self, value: i32) {
        rustix::net::send(&self.socket, &value.to_le_bytes(), SendFlags::NOSIGNAL).unwrap();
    }

    /// Says that the first 8192 bytes of `file` are guest memory.
    fn announce(&self, gpa: u64, file: &File) {
        let mut message = [0; 32];
        message[..4].copy_from_slice(b"VMBR");
        message[8..16].copy_from_slice(&gpa.to_le_bytes());
        message[16..24].copy_from_slice(&8192_u64.to_le_bytes());
        let files = [file.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&files));
        rustix::net::sendmsg(&self.socket, &[IoSlice::new(&message)], &mut control, SendFlags::NOSIGNAL).unwrap();
    }

    /// The next event count; `None` if the device is gone.
    fn event(&mut self) -> Option<i32> {
        let mut fds = [rustix::event::PollFd::new(&self.socket, rustix::event::PollFlags::IN)];
        let patience = rustix::event::Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
        assert_eq!(rustix::event::poll(&mut fds, Some(&patience)).unwrap(), 1, "no event");
        self.event_now()
    }

    fn event_now(&mut self) -> Option<i32> {
        let mut count = [0; 4];
        match rustix::net::recv(&self.socket, &mut count, RecvFlags::DONTWAIT) {
            Ok((4, _)) => Some(i32::from_le_bytes(count)),
            Ok((0, _)) | Err(rustix::io::Errno::AGAIN) => None,
            other => panic!("{other:?}"),
        }
    }

    fn wait(&mut self, what: &str, done: impl Fn(&mut Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(start.elapsed() < PATIENCE, "waited for {what} in vain");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn send(&mut self, message_type: u32, words: &[u32]) {
        let payload = nvsp(message_type, words);
        self.outgoing.write(&Outgoing::request(TransactionId(7), &payload)).unwrap();
        let _ = self.outgoing.publish().unwrap();
        self.signal(&self.device.join("monitor_id"));
    }

    fn signal(&self, monitor: &Path) {
        if monitor.exists() {
            let id: usize = value(monitor).parse().unwrap();
            self.monitor.set_bits(8 + 8 * (id / 32), 1 << (id % 32)).unwrap();
        }
    }

    /// NVSP version 6.1.
    fn init(&mut self) {
        self.send(1, &[0x6_0001, 0x6_0001]);
    }

    fn answer(&mut self) {
        let mut body = vec![0; 4096];
        let start = Instant::now();
        let incoming = self.incoming.get_or_insert_with(|| Consumer::new(self.mask.clone()));
        while incoming.take(&mut body).unwrap().is_none() {
            assert!(start.elapsed() < PATIENCE, "no answer");
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = incoming.commit().unwrap();
    }

    /// The number behind the colon of a map's name.
    fn gpadl(&self, map: u32) -> u32 {
        let name = value(&self.device.join(format!("uio/uio0/maps/map{map}/name")));
        name.split_once(':').unwrap().1.parse().unwrap()
    }

    /// The handshake, and one subchannel; its host→guest ring.
    fn open_subchannel(&mut self) -> MappedRing<HeapMemory> {
        self.init();
        self.send(125, &[1514, 0, 0, 0]);
        self.send(100, &[6, 30]);
        self.send(101, &[self.gpadl(3), 0xcafe]);
        self.send(104, &[self.gpadl(4), 0xface]);
        (0..5).for_each(|_| self.answer());
        // RNDIS INITIALIZE in section 0: its completion, and its answer.
        let initialize: Vec<u8> = [2_u32, 24, 1, 1, 0, 0x4000].iter().flat_map(|word| word.to_le_bytes()).collect();
        self.send_buffer.write(0, &initialize).unwrap();
        self.send(107, &[1, 0, 24]);
        (0..2).for_each(|_| self.answer());
        self.send(133, &[1, 1]);
        self.answer();
        let channels = self.device.join("channels");
        let found = || {
            let entries = std::fs::read_dir(&channels).unwrap().filter_map(Result::ok).map(|entry| entry.path());
            entries.filter(|path| path.join("ring").exists()).find(|path| value(&path.join("subchannel_id")) == "1")
        };
        self.wait("a subchannel", |_| found().is_some());
        let file = File::options().read(true).write(true).open(found().unwrap().join("ring")).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 2 * RING as u64);
        let (outgoing, incoming) = rings(&HeapMemory::map_shared(file.as_fd(), 0, 2 * RING).unwrap());
        self.subchannel = Some((Producer::new(outgoing), incoming.clone()));
        incoming
    }

    /// A frame, which the host completes on the channel that it came by.
    fn send_on_subchannel(&mut self) {
        let mut message: Vec<u8> = [1_u32, 44 + 60, 36, 60].iter().flat_map(|word| word.to_le_bytes()).collect();
        message.resize(44 + 60, 0);
        message[44..56].copy_from_slice(&[2, 0, 0, 0, 0, 9, 0x00, 0x15, 0x5d, 0, 0, 0]);
        self.send_buffer.write(6144, &message).unwrap();
        let payload = nvsp(107, &[0, 1, message.len() as u32]);
        let (outgoing, _) = self.subchannel.as_mut().unwrap();
        let packet = Outgoing { packet_type: PacketType::IN_BAND, ..Outgoing::request(TransactionId(9), &payload) };
        outgoing.write(&packet).unwrap();
        let _ = outgoing.publish().unwrap();
        // Any monitor of the machine's wakes the host.
        self.signal(&self.device.join("monitor_id"));
    }
}

/// Guest→host, host→guest.
fn rings(memory: &HeapMemory) -> (MappedRing<HeapMemory>, MappedRing<HeapMemory>) {
    let half = |at| MappedRing::new(memory.slice(at, RING).unwrap(), 4096).unwrap();
    (half(0), half(RING))
}

fn nvsp(message_type: u32, words: &[u32]) -> [u8; 40] {
    let mut payload = [0; 40];
    payload[..4].copy_from_slice(&message_type.to_le_bytes());
    for (place, word) in payload[4..].chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    payload
}
