//! A device that is not there: a sysfs tree in a temporary directory, and what stands in for the kernel's driver.
#![allow(dead_code, unreachable_pub, reason = "a module of several test programs, each of which uses its part")]

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use vmbus::memory::{HeapMemory, SharedMemoryExt};
use vmbus::uio::{DeviceFile, KernelVariant, OpenDevice, Settings, SysfsRoot, UioError};

pub const GUID: &str = "ed963694-e847-4b2a-85af-bc9cfc11d6f3";
pub const NIC: &str = "f8615163-df3e-46c5-913f-f2d2f965ed0e";
pub const SCSI: &str = "ba6163d9-04a1-4d29-b605-72e2ffb1dc7f";
/// Bytes of each ring.
pub const RING: usize = 64 * 1024;
pub const PRIMARY: u32 = 14;
pub const EIO: i32 = 5;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A temporary directory with a sysfs tree; removed at its end.
#[derive(Debug)]
pub struct Tree(pub PathBuf);

impl Default for Tree {
    fn default() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("vmbus-uio-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(path.join("sys/bus/vmbus/devices")).unwrap();
        Self(path)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Tree {
    pub fn root(&self) -> SysfsRoot {
        SysfsRoot::new(self.0.join("sys"))
    }

    pub fn device(&self, guid: &str) -> PathBuf {
        self.0.join("sys/bus/vmbus/devices").join(guid)
    }

    /// A file below a device, with a line feed at its end.
    pub fn write(&self, guid: &str, path: &str, text: &str) {
        let path = self.device(guid).join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{text}\n")).unwrap();
    }

    /// The files that every device has.
    pub fn add(&self, guid: &str, class: &str, relid: u32) {
        self.write(guid, "class_id", &format!("{{{class}}}"));
        self.write(guid, "device_id", &format!("{{{guid}}}"));
        self.write(guid, "id", &relid.to_string());
    }

    pub fn bind(&self, guid: &str, driver: &str) {
        let driver = self.0.join("sys/bus/vmbus/drivers").join(driver);
        fs::create_dir_all(&driver).unwrap();
        let link = self.device(guid).join("driver");
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(driver, link).unwrap();
    }

    pub fn uio(&self, guid: &str, number: u32, maps: &[(&str, usize)]) {
        self.bind(guid, "uio_hv_generic");
        for (index, (name, size)) in maps.iter().enumerate() {
            self.write(guid, &format!("uio/uio{number}/maps/map{index}/name"), name);
            self.write(guid, &format!("uio/uio{number}/maps/map{index}/size"), &format!("{size:#x}"));
        }
    }
}

/// The kernel's driver, and the host behind it.
#[derive(Debug)]
pub struct Kernel {
    pub tree: Tree,
    pub variant: KernelVariant,
    maps: Vec<(String, usize)>,
    files: Vec<File>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The host's end of the event descriptor.
    peer: Option<UnixStream>,
    opened: usize,
    closed: usize,
    reads: usize,
    controls: Vec<i32>,
    error: Option<i32>,
    /// Host's mappings of subchannels' rings.
    subchannels: Vec<HeapMemory>,
}

/// What a kernel has at least.
pub fn maps() -> Vec<(String, usize)> {
    [
        ("txrx_rings", 2 * RING),
        ("int_page", 4096),
        ("monitor_page", 4096),
        ("recv:925200", 1 << 20),
        ("send:925201", 1 << 19),
    ]
    .map(|(name, size)| (name.to_owned(), size))
    .into()
}

impl Kernel {
    pub fn new(variant: KernelVariant, monitor: Option<u8>) -> Arc<Self> {
        Self::with_maps(variant, monitor, maps())
    }

    pub fn with_maps(variant: KernelVariant, monitor: Option<u8>, maps: Vec<(String, usize)>) -> Arc<Self> {
        let tree = Tree::default();
        tree.add(GUID, NIC, PRIMARY);
        if let Some(monitor) = monitor {
            tree.write(GUID, "monitor_id", &monitor.to_string());
        }
        let named: Vec<_> = maps.iter().map(|(name, size)| (name.as_str(), *size)).collect();
        tree.uio(GUID, 0, &named);
        tree.write(GUID, &format!("channels/{PRIMARY}/subchannel_id"), "0");
        tree.write(GUID, &format!("channels/{PRIMARY}/ring"), "");
        let files = maps.iter().map(|(_, size)| memory_file(&tree.0, *size)).collect();
        Arc::new(Self { tree, variant, maps, files, state: Mutex::default() })
    }

    /// Settings under which only this device is seen.
    pub fn settings(self: &Arc<Self>) -> Settings {
        Settings::default().sysfs(self.tree.root()).opener(Opener(Arc::clone(self)))
    }

    /// The host's view of a map.
    pub fn map(&self, index: usize) -> HeapMemory {
        HeapMemory::map_shared(self.files[index].as_fd(), 0, self.maps[index].1).unwrap()
    }

    fn state<T>(&self, with: impl FnOnce(&mut State) -> T) -> T {
        with(&mut self.state.lock().unwrap())
    }

    /// The device counts an event, and its descriptor is ready.
    pub fn raise(&self) {
        self.state(|state| state.peer.as_ref().unwrap().write_all(&1_i32.to_ne_bytes()).unwrap());
    }

    /// The descriptor is ready with part of a count.
    pub fn raise_bytes(&self, bytes: &[u8]) {
        self.state(|state| state.peer.as_ref().unwrap().write_all(bytes).unwrap());
    }

    /// Every read of the count fails from now on, and the descriptor is ready.
    pub fn fail(&self, error: i32) {
        self.state(|state| state.error = Some(error));
        self.raise();
    }

    /// Who simulates the device ends.
    pub fn hang_up(&self) {
        self.state(|state| state.peer = None);
    }

    /// How often the device was opened and closed.
    pub fn sessions(&self) -> (usize, usize) {
        self.state(|state| (state.opened, state.closed))
    }

    pub fn reads(&self) -> usize {
        self.state(|state| state.reads)
    }

    /// Values of interrupt control so far.
    pub fn controls(&self) -> Vec<i32> {
        self.state(|state| state.controls.clone())
    }

    fn masks(&self) -> bool {
        matches!(self.variant, KernelVariant::A | KernelVariant::B | KernelVariant::C)
    }

    /// A subchannel, all but its ring: as it is for a moment.
    pub fn prepare_subchannel(&self, relid: u32, index: u16, monitor: Option<u8>) {
        self.tree.write(GUID, &format!("channels/{relid}/subchannel_id"), &index.to_string());
        if let Some(monitor) = monitor {
            self.tree.write(GUID, &format!("channels/{relid}/monitor_id"), &monitor.to_string());
        }
    }

    /// The ring of a subchannel, complete, by renaming. The host's view of it.
    pub fn complete_subchannel(&self, relid: u32) -> HeapMemory {
        let directory = self.tree.device(GUID).join(format!("channels/{relid}"));
        let path = self.tree.0.join(format!("ring-{relid}-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        file.set_len(2 * RING as u64).unwrap();
        let memory = HeapMemory::map_shared(file.as_fd(), 0, 2 * RING).unwrap();
        set(&memory, RING + 8, u32::from(self.masks()));
        self.state(|state| state.subchannels.push(memory.clone()));
        fs::rename(path, directory.join("ring")).unwrap();
        memory
    }

    pub fn add_subchannel(&self, relid: u32, index: u16, monitor: Option<u8>) -> HeapMemory {
        self.prepare_subchannel(relid, index, monitor);
        self.complete_subchannel(relid)
    }

    pub fn remove_subchannel(&self, relid: u32) {
        let directory = self.tree.device(GUID).join(format!("channels/{relid}"));
        // As in sysfs, whose inode numbers do not come again so soon.
        let kept = self.tree.0.join(format!("removed-{}", fs::metadata(directory.join("ring")).unwrap().ino()));
        fs::hard_link(directory.join("ring"), kept).unwrap();
        fs::remove_dir_all(directory).unwrap();
    }
}

/// Opens the device of a [`Kernel`].
#[derive(Debug)]
struct Opener(Arc<Kernel>);

impl OpenDevice for Opener {
    fn open(&self, number: u32) -> Result<Box<dyn DeviceFile>, UioError> {
        assert_eq!(number, 0);
        let kernel = &self.0;
        let rings = kernel.map(0);
        for ring in [0, RING] {
            rings.zero(ring, 4096).unwrap();
            set(&rings, ring + 64, 1);
        }
        set(&rings, RING + 8, u32::from(kernel.masks()));
        let (stream, peer) = UnixStream::pair().unwrap();
        stream.set_nonblocking(true).unwrap();
        kernel.state(|state| {
            state.opened += 1;
            state.peer = Some(peer);
            state.error = None;
            state.subchannels.clear();
        });
        Ok(Box::new(OpenFile { stream, kernel: Arc::clone(kernel) }))
    }
}

#[derive(Debug)]
struct OpenFile {
    stream: UnixStream,
    kernel: Arc<Kernel>,
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        self.kernel.state(|state| state.closed += 1);
    }
}

impl DeviceFile for OpenFile {
    fn read_count(&self, into: &mut [u8; 4]) -> io::Result<usize> {
        let error = self.kernel.state(|state| {
            state.reads += 1;
            state.error
        });
        match error {
            Some(error) => Err(io::Error::from_raw_os_error(error)),
            None => (&self.stream).read(into),
        }
    }

    fn control(&self, value: i32) -> io::Result<()> {
        use KernelVariant::{C, D};
        let mask = u32::from(value == 0);
        set(&self.kernel.map(0), RING + 8, mask);
        self.kernel.state(|state| {
            state.controls.push(value);
            if matches!(self.kernel.variant, C | D) {
                state.subchannels.iter().for_each(|rings| set(rings, RING + 8, mask));
            }
        });
        Ok(())
    }

    fn map(&self, index: usize, len: usize) -> io::Result<HeapMemory> {
        let (_, size) = self.kernel.maps[index];
        if len > size {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        HeapMemory::map_shared(self.kernel.files[index].as_fd(), 0, len)
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

pub fn set(memory: &HeapMemory, offset: usize, value: u32) {
    memory.write(offset, &value.to_le_bytes()).unwrap();
}

pub fn get(memory: &HeapMemory, offset: usize) -> u32 {
    let mut bytes = [0; 4];
    memory.read(offset, &mut bytes).unwrap();
    u32::from_le_bytes(bytes)
}

fn memory_file(directory: &Path, size: usize) -> File {
    let path = directory.join(format!("map-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    file.set_len(size as u64).unwrap();
    fs::remove_file(path).unwrap();
    file
}
