//! The whole adapter on the Linux backend: sysfs files, a device file and shared memory, as a host in another thread
//! exports them for other processes. What a preloaded library does for programs, a [`DeviceFile`] does here.
#![cfg(target_os = "linux")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use futures::FutureExt;
use netvsc_async::{Event, Nic, OpenError, Queue, ReopenError, ReopenPolicy};
use netvsc_host::export::{DeviceReport, Export, ExportOptions, Kernel};
use netvsc_host::port::MemoryPort;
use netvsc_host::{Host, NicOptions};
use netvsc_tests::frames::{FAR, SIZES, Sequence};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use vmbus::memory::HeapMemory;
use vmbus::uio::{
    DeviceFile, DirectPages, OpenDevice, Selector, Settings, SysfsRoot, UioBus, UioChannel, UioDevice, UioError,
};
use vmbus::{Error as _, ErrorKind};

/// A host that exports one NIC below a directory of its own.
struct World {
    root: PathBuf,
    host: Host,
    far: MemoryPort,
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<Vec<DeviceReport>>>,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl World {
    fn new(kernel: Kernel, monitored: bool) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // On a tmpfs: the rings of subchannels are files there.
        Self::at(format!("/dev/shm/uio-nic-{}-{number}", std::process::id()).into(), kernel, monitored)
    }

    fn at(root: PathBuf, kernel: Kernel, monitored: bool) -> Self {
        let host = Host::builder().build();
        let far = host.memory_pair();
        let (stop, stopped) = UnixStream::pair().unwrap();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (exported, directory) = (host.clone(), root.clone());
        let thread = std::thread::spawn(move || {
            let mut export = Export::new(ExportOptions::new(directory).kernel(kernel).monitored(monitored)).unwrap();
            export.add(&exported, NicOptions::new().queues(4), None).unwrap();
            ready.send(()).unwrap();
            export.run(stopped.as_fd(), Duration::from_secs(1), |_, _| ()).unwrap();
            export.finish()
        });
        is_ready.recv().unwrap();
        Self { root, host, far, stop: Some(stop), thread: Some(thread) }
    }

    fn settings(&self) -> Settings {
        Settings::default()
            .sysfs(SysfsRoot::new(self.root.join("sys")))
            .opener(Sockets(self.root.join("dev")))
            // Nobody announces this process's memory to the host.
            .direct(DirectPages::Off)
    }

    fn device(&self) -> UioDevice {
        UioDevice::find(&Selector::Only, self.settings()).unwrap()
    }

    fn end(mut self) -> DeviceReport {
        self.stop = None;
        self.thread.take().unwrap().join().unwrap().remove(0)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

/// Opens devices by connecting to their sockets.
#[derive(Debug)]
struct Sockets(PathBuf);

impl OpenDevice for Sockets {
    fn open(&self, number: u32) -> Result<Box<dyn DeviceFile>, UioError> {
        let path = self.0.join(format!("uio{number}.sock"));
        match connect(&path) {
            Ok(device) => Ok(Box::new(device)),
            Err(error) => Err(UioError::Open { path, error: error.into() }),
        }
    }
}

/// The device's socket, and the files behind its maps.
#[derive(Debug)]
struct Socket {
    socket: OwnedFd,
    maps: Vec<OwnedFd>,
}

fn connect(path: &std::path::Path) -> io::Result<Socket> {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    let mut setup = [0; 48];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(5))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut into = [io::IoSliceMut::new(&mut setup)];
    let received = rustix::net::recvmsg(&socket, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    assert_eq!(received.bytes, 48);
    assert_eq!(&setup[..4], b"VMBS");
    let maps = control.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => files.collect::<Vec<_>>(),
        _ => Vec::new(),
    });
    let maps: Vec<_> = maps.collect();
    assert_eq!(maps.len(), 5);
    rustix::io::ioctl_fionbio(&socket, true)?;
    Ok(Socket { socket, maps })
}

impl DeviceFile for Socket {
    fn read_count(&self, into: &mut [u8; 4]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.socket, into)?)
    }

    fn control(&self, value: i32) -> io::Result<()> {
        rustix::io::write(&self.socket, &value.to_le_bytes())?;
        Ok(())
    }

    fn map(&self, index: usize, len: usize) -> io::Result<HeapMemory> {
        HeapMemory::map_shared(self.maps[index].as_fd(), 0, len)
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let patient = async { tokio::time::timeout(Duration::from_secs(60), test).await.expect("in time") };
    runtime.block_on(patient)
}

/// The adapter and its queue.
async fn open(bus: UioBus) -> (Nic<UioBus>, Queue<UioChannel>) {
    let (nic, mut queues) = Nic::builder().open_on(bus).await.unwrap();
    (nic, queues.remove(0))
}

/// Frames both ways, one after the other: each needs its own signals.
async fn ping(far: &MemoryPort, nic: &Nic<UioBus>, queue: &mut Queue<UioChannel>, frames: u64) {
    let (mut ours, mut theirs) = (Sequence::new(nic.info().mac.0, &SIZES), Sequence::new(FAR, &SIZES));
    let (mut expect_ours, mut expect_theirs) = (ours.clone(), theirs.clone());
    for _ in 0..frames {
        queue.tx.send(&ours.make()).await.unwrap();
        queue.tx.flush().unwrap();
        expect_ours.check(&far.recv().await.unwrap());
        far.send(&theirs.make()).unwrap();
        let burst = queue.rx.recv_burst().await.unwrap().expect("open");
        assert_eq!(burst.len(), 1);
        expect_theirs.check(burst.get(0).unwrap().bytes);
    }
}

#[test]
fn an_adapter_comes_up_passes_frames_and_closes_on_every_kernel() {
    let worlds = Kernel::ALL.map(|kernel| (kernel, true)).into_iter().chain([
        (Kernel::B, false),
        (Kernel::C, false),
        (Kernel::D, false),
        (Kernel::BD, false),
    ]);
    for (kernel, monitored) in worlds {
        let world = World::new(kernel, monitored);
        run(async {
            for _ in 0..2 {
                let (nic, mut queue) = open(world.device().open().unwrap()).await;
                ping(&world.far, &nic, &mut queue, 100).await;
                let report = nic.close().await.unwrap();
                assert_eq!((report.outstanding_sends, report.unreturned_sections), (0, 0));
            }
        });
        assert!(world.host.violations().is_empty(), "kernel {kernel}: {:?}", world.host.violations());
        let report = world.end();
        assert_eq!(
            (report.sessions, report.protocol_violations, report.leaks, report.held_at_close),
            (2, 0, 0, 0),
            "kernel {kernel}, monitored: {monitored}"
        );
    }
}

/// Kernels that die of a subchannel's interrupt are among them: the host counts that as a violation.
#[test]
fn all_queues_pass_frames_on_every_kernel() {
    for kernel in Kernel::ALL {
        let world = World::new(kernel, true);
        run(async {
            let bus = world.device().open().unwrap();
            let (nic, mut queues) = Nic::builder().queues(4).open_on(bus).await.unwrap();
            let mut said = nic.events();
            let mut why = || std::iter::from_fn(|| said.next().now_or_never().flatten()).collect::<Vec<_>>();
            assert!(queues.len() == 4, "kernel {kernel}: {} queues, {:?}", queues.len(), why());
            let mut ours = Sequence::new(nic.info().mac.0, &SIZES);
            let mut expect = ours.clone();
            for _ in 0..25 {
                for queue in &mut queues {
                    queue.tx.send(&ours.make()).await.unwrap();
                    queue.tx.flush().unwrap();
                    expect.check(&world.far.recv().await.unwrap());
                }
            }
            // Completions came on each channel, by interrupt or by timer.
            for queue in &mut queues {
                queue.tx.drained().await.unwrap();
            }
            nic.close().await.unwrap();
        });
        assert!(world.host.violations().is_empty(), "kernel {kernel}: {:?}", world.host.violations());
        let report = world.end();
        assert_eq!((report.protocol_violations, report.leaks), (0, 0), "kernel {kernel}");
    }
}

/// The device file is closed and opened again by one and the same bus.
#[test]
fn an_adapter_is_changed_while_its_queue_stays() {
    let world = World::new(Kernel::D, true);
    run(async {
        let (nic, mut queue) = open(world.device().open().unwrap()).await;
        ping(&world.far, &nic, &mut queue, 10).await;
        let before = nic.info();
        let came = nic.set_ring(netvsc_async::RingParams { receive_sections: 64, send_sections: 32 }).await.unwrap();
        // The receive buffer is the kernel's, whatever is wished.
        assert_eq!((came.receive_sections, came.send_sections), (before.receive.count, 32));
        ping(&world.far, &nic, &mut queue, 10).await;
        assert_eq!(nic.set_mtu(4000).await, Ok(4000));
        ping(&world.far, &nic, &mut queue, 10).await;
        let report = nic.close().await.unwrap();
        assert_eq!((report.outstanding_sends, report.unreturned_sections), (0, 0));
    });
    assert!(world.host.violations().is_empty(), "{:?}", world.host.violations());
    let report = world.end();
    assert_eq!((report.sessions, report.protocol_violations, report.leaks), (3, 0, 0));
}

#[test]
fn a_host_that_ends_ends_the_adapter_and_the_next_one_serves_it() {
    let world = World::new(Kernel::D, true);
    run(async {
        let (nic, mut queue) = open(world.device().open().unwrap()).await;
        ping(&world.far, &nic, &mut queue, 10).await;
        let mut events = nic.events();
        assert_eq!(world.end().protocol_violations, 0);
        // The receiver hears it, not just the adapter.
        let ended = queue.rx.recv_burst().await.map(|burst| burst.is_some());
        assert!(!matches!(ended, Ok(true)), "{ended:?}");
        while let Some(event) = events.next().await {
            if let Event::Gone(report) = event {
                assert!(report.host_gone);
                return;
            }
        }
        panic!("nothing said that the host is gone");
    });
}

/// Quick, for a test; long in the end, since the machine may be busy.
const REOPEN: ReopenPolicy =
    ReopenPolicy::new().pauses(Duration::from_millis(5), Duration::from_millis(20)).patience(Duration::from_secs(60));

#[test]
fn an_adapter_that_comes_back_is_opened_again() {
    let mut world = World::new(Kernel::D, true);
    run(async {
        let mut adapter = Nic::builder().uio(world.settings()).reopening(REOPEN);
        assert_eq!((adapter.opened(), adapter.instance()), (0, None));
        let (mut nic, mut queues) = adapter.open().await.unwrap();
        let instance = adapter.instance();
        assert_eq!(instance, Some(world.device().instance()));
        for opened in 1..3 {
            ping(&world.far, &nic, &mut queues[0], 10).await;
            assert_eq!((adapter.opened(), adapter.instance()), (opened, instance));
            let root = world.root.clone();
            assert_eq!(world.end().protocol_violations, 0);
            let error = queues[0].rx.recv_burst().await.map(|burst| burst.is_some()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Gone, "{error}");
            drop(queues);
            let _ = nic.close().await;
            // It looks in vain for a while.
            let host = async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                World::at(root, Kernel::A, true)
            };
            let (again, new) = tokio::join!(adapter.open(), host);
            world = new;
            (nic, queues) = again.unwrap();
        }
        ping(&world.far, &nic, &mut queues[0], 10).await;
        nic.close().await.unwrap();
        assert_eq!(world.end().protocol_violations, 0);
    });
}

#[test]
fn an_adapter_that_stays_away_is_given_up() {
    let world = World::new(Kernel::D, true);
    run(async {
        let settings = world.settings();
        let patience = Duration::from_millis(50);
        let mut adapter = Nic::builder().uio(settings.clone()).reopening(REOPEN.patience(patience));
        let mut once = Nic::builder().uio(settings.clone()).reopening(REOPEN.times(0));
        for adapter in [&mut adapter, &mut once] {
            let (nic, queues) = adapter.open().await.unwrap();
            drop(queues);
            nic.close().await.unwrap();
        }
        let instance = adapter.instance().unwrap();
        assert_eq!(once.open().await.unwrap_err(), ReopenError::Exhausted { times: 0 });
        world.end();
        match adapter.open().await.unwrap_err() {
            error @ ReopenError::Absent { .. } if error.kind() == ErrorKind::Gone => {
                let ReopenError::Absent { instance: missing, waited, last } = error else { unreachable!() };
                assert!(missing == instance && waited >= patience, "{missing}, {waited:?}");
                assert!(matches!(last, OpenError::System { kind: ErrorKind::System, .. }), "{last}");
            }
            other => panic!("{other:?}"),
        }
        // One that was never there is not waited for, and what cannot be never will.
        let mut never = Nic::builder().uio(settings).reopening(REOPEN);
        assert!(matches!(never.open().await, Err(ReopenError::Open(OpenError::System { .. }))));
    });
}
