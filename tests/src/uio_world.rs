//! A simulated host whose network adapter is on the Linux backend: sysfs files, a device file and shared memory, as the host
//! exports them for other processes, used from this process. What a preloaded library does for programs, a [`DeviceFile`]
//! does here.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use netvsc_async::{Nic, Queue};
use netvsc_host::export::{DeviceReport, Export, ExportOptions, Kernel};
use netvsc_host::port::MemoryPort;
use netvsc_host::{Host, NicOptions};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use vmbus::memory::HeapMemory;
use vmbus::uio::{
    DeviceFile, DirectPages, OpenDevice, Selector, Settings, SysfsRoot, UioBus, UioChannel, UioDevice, UioError,
};

use crate::frames::{FAR, SIZES, Sequence};

/// Queues that the host has.
pub const QUEUES: u16 = 4;

/// A host that exports one NIC below a directory of its own.
#[derive(Debug)]
pub struct World {
    root: PathBuf,
    /// The host.
    pub host: Host,
    /// The far end of its switch.
    pub far: MemoryPort,
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<Vec<DeviceReport>>>,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl World {
    /// One as a kernel of this kind shows it; `monitored` if channels may be signalled by monitor page.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn new(kernel: Kernel, monitored: bool) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // On a tmpfs: the rings of subchannels are files there.
        Self::at(format!("/dev/shm/uio-nic-{}-{number}", std::process::id()).into(), kernel, monitored)
    }

    /// The same in a given directory.
    ///
    /// # Panics
    /// As [`new`](Self::new).
    #[must_use]
    pub fn at(root: PathBuf, kernel: Kernel, monitored: bool) -> Self {
        let host = Host::builder().build();
        let far = host.memory_pair();
        let (stop, stopped) = UnixStream::pair().unwrap();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (exported, directory) = (host.clone(), root.clone());
        let thread = std::thread::spawn(move || {
            let mut export = Export::new(ExportOptions::new(directory).kernel(kernel).monitored(monitored)).unwrap();
            export.add(&exported, NicOptions::new().queues(QUEUES), None).unwrap();
            ready.send(()).unwrap();
            export.run(stopped.as_fd(), Duration::from_secs(1), |_, _| ()).unwrap();
            export.finish()
        });
        is_ready.recv().unwrap();
        Self { root, host, far, stop: Some(stop), thread: Some(thread) }
    }

    /// Its directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// How its device is found and opened.
    #[must_use]
    pub fn settings(&self) -> Settings {
        Settings::default()
            .sysfs(SysfsRoot::new(self.root.join("sys")))
            .opener(Sockets(self.root.join("dev")))
            // Nobody announces this process's memory to the host.
            .direct(DirectPages::Off)
    }

    /// Its device.
    ///
    /// # Panics
    /// If it is gone.
    #[must_use]
    pub fn device(&self) -> UioDevice {
        UioDevice::find(&Selector::Only, self.settings()).unwrap()
    }

    /// Ends the host; what it says of its device.
    ///
    /// # Panics
    /// If the host did.
    pub fn end(mut self) -> DeviceReport {
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

fn connect(path: &Path) -> io::Result<Socket> {
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

/// Runs `test`.
///
/// # Panics
/// If it waits for something that does not come.
pub fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let patient = async { tokio::time::timeout(Duration::from_secs(60), test).await.expect("in time") };
    runtime.block_on(patient)
}

/// The adapter and its queue.
///
/// # Panics
/// If it does not come up.
pub async fn open(bus: UioBus) -> (Nic<UioBus>, Queue<UioChannel>) {
    let (nic, mut queues) = Nic::builder().open_on(bus).await.unwrap();
    (nic, queues.remove(0))
}

/// Frames both ways, one after the other: each needs its own signals.
///
/// # Panics
/// If one is lost or changed.
pub async fn ping(far: &MemoryPort, nic: &Nic<UioBus>, queue: &mut Queue<UioChannel>, frames: u64) {
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
