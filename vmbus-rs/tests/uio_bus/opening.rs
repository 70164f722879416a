//! What a device has when it is opened: rings, buffers, pages; and why it may not be opened.

use crate::*;

/// Whatever a kernel left in the words that it does not reset.
#[test]
fn opens_with_the_kernels_rings_and_defined_masks() {
    let kernel = Kernel::new(KernelVariant::A, Some(5));
    let mut bus = open(&kernel);
    assert_eq!(bus.name(), "uio0");
    let rings = kernel.map(0);
    let parts = primary(&mut bus);
    assert_eq!((parts.outgoing.len(), parts.incoming.len()), (RING, RING));
    assert_eq!(parts.ring_header_bytes, vmbus::memory::system_page_size());
    assert_eq!(get(&rings, RING + 8), 1, "host→guest interrupts masked");
    assert_eq!(get(&rings, 12), 0, "no room wanted");
    parts.outgoing.write(parts.ring_header_bytes, b"out").unwrap();
    parts.incoming.write(parts.ring_header_bytes, b"in!").unwrap();
    let mut both = [0; 3];
    for (ring, text) in [(0, b"out"), (RING, b"in!")] {
        rings.read(ring + parts.ring_header_bytes, &mut both).unwrap();
        assert_eq!(&both, text);
    }
    assert!(parts.interrupt.can_unmask());
    assert_eq!(bus.open(ID, RingSizes::default()), Err(UioError::AlreadyOpen(ID)));
    assert_eq!(bus.open(RelId(99), RingSizes::default()), Err(UioError::UnknownChannel(RelId(99))));
    assert!(bus.take(ID).is_none(), "once");
}

#[test]
fn gives_the_buffers_that_the_kernel_made_zeroed() {
    let kernel = Kernel::new(KernelVariant::D, Some(5));
    kernel.map(3).write(77, b"somebody's").unwrap();
    let mut bus = open(&kernel);
    primary(&mut bus);
    for (purpose, gpadl, index, len) in
        [(Purpose::Receive, GpadlId(925_200), 3, 1 << 20), (Purpose::Send, GpadlId(925_201), 4, 1 << 19)]
    {
        let memory = bus.allocate(ID, wish(purpose)).unwrap();
        assert_eq!(next(&mut bus), BusEvent::GpadlCreated(gpadl), "at once");
        assert_eq!((memory.gpadl(), memory.len()), (Some(gpadl), len), "what there is, not what was wished for");
        assert_eq!(get(&memory, 77), 0);
        memory.write(5, b"shared").unwrap();
        let mut bytes = [0; 6];
        kernel.map(index).read(5, &mut bytes).unwrap();
        assert_eq!(&bytes, b"shared");
        assert_eq!(bus.allocate(ID, wish(purpose)).unwrap_err(), UioError::BufferTaken(purpose));
        bus.release(ID, memory);
        assert_eq!(next(&mut bus), BusEvent::GpadlTornDown(gpadl));
    }
    assert_eq!(bus.allocate(ID, BufferWish { purpose: Purpose::Direct, bytes: 0 }).unwrap_err(), UioError::Empty);
}

#[test]
fn a_device_without_buffers_has_none() {
    let kernel = Kernel::with_maps(KernelVariant::B, None, maps()[..3].to_vec());
    let mut bus = open(&kernel);
    primary(&mut bus);
    let error = bus.allocate(ID, wish(Purpose::Receive)).unwrap_err();
    assert_eq!((error.kind(), &error), (ErrorKind::Refused, &UioError::NoBuffer(Purpose::Receive)));
}

#[test]
fn maps_that_cannot_be_are_refused_by_name() {
    let maps = |change: fn(&mut Vec<(String, usize)>)| {
        let mut maps = maps();
        change(&mut maps);
        let kernel = Kernel::with_maps(KernelVariant::D, Some(5), maps);
        let error = find(kernel.settings()).open().unwrap_err();
        assert_eq!(kernel.sessions(), (1, 1), "closed again");
        error
    };
    assert_eq!(maps(|maps| maps.truncate(2)), UioError::NoMap { name: "monitor_page" });
    assert_eq!(maps(|maps| maps[1].1 = 2048), UioError::BadMap { name: "int_page", size: 2048 });
    assert_eq!(maps(|maps| maps[4].1 += 1), UioError::BadMap { name: "send", size: (1 << 19) + 1 });
}

#[test]
fn direct_memory_or_a_reason() {
    let kernel = Kernel::new(KernelVariant::D, Some(5));
    let mut bus = find(kernel.settings().direct(DirectPages::Off)).open().unwrap();
    let error = bus.allocate(ID, wish(Purpose::Direct)).unwrap_err();
    assert_eq!((error.kind(), error), (ErrorKind::Refused, UioError::NoDirectMemory(DirectRefusal::Off)));
    let mut bus = find(kernel.settings().direct(DirectPages::Movable)).open().unwrap();
    match bus.allocate(ID, wish(Purpose::Direct)) {
        Ok(memory) => assert!(memory.len() >= 123_456 && memory.gpa(memory.len() - 1).is_some()),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Refused, "{error}"),
    }
}

#[test]
fn rings_that_somebody_else_uses_are_not_touched() {
    /// Opens it without making the rings new, as the second opening of a device does.
    #[derive(Debug)]
    struct Second(Arc<Kernel>);
    #[derive(Debug)]
    struct SecondFile(Arc<Kernel>, std::os::unix::net::UnixStream);
    impl vmbus::uio::OpenDevice for Second {
        fn open(&self, _: u32) -> Result<Box<dyn vmbus::uio::DeviceFile>, UioError> {
            let (stream, _) = std::os::unix::net::UnixStream::pair().unwrap();
            Ok(Box::new(SecondFile(Arc::clone(&self.0), stream)))
        }
    }
    impl vmbus::uio::DeviceFile for SecondFile {
        fn read_count(&self, _: &mut [u8; 4]) -> std::io::Result<usize> {
            unreachable!()
        }
        fn control(&self, _: i32) -> std::io::Result<()> {
            unreachable!()
        }
        fn map(&self, index: usize, _: usize) -> std::io::Result<vmbus::memory::HeapMemory> {
            Ok(self.0.map(index))
        }
        fn descriptor(&self) -> std::os::fd::BorrowedFd<'_> {
            self.1.as_fd()
        }
    }

    let kernel = Kernel::new(KernelVariant::D, Some(5));
    let mut bus = open(&kernel);
    primary(&mut bus);
    set(&kernel.map(0), 0, 320);
    set(&kernel.map(0), RING + 8, 0);
    let error = find(kernel.settings().opener(Second(Arc::clone(&kernel)))).open().unwrap_err();
    assert_eq!(error, UioError::RingsInUse { write_index: 320, read_index: 0 });
    assert_eq!(get(&kernel.map(0), RING + 8), 0, "as it was");
}

#[test]
fn a_file_that_cannot_be_opened_is_named() {
    let kernel = Kernel::new(KernelVariant::D, Some(5));
    let settings = kernel.settings().opener(vmbus::uio::DevRoot::new("/nonexistent"));
    let error = find(settings).open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::System);
    assert!(error.to_string().starts_with("cannot open /nonexistent/uio0: No such file"), "{error}");
}

#[test]
fn a_file_that_another_program_has_open_is_refused() {
    let kernel = Kernel::new(KernelVariant::D, Some(5));
    let other = File::create(kernel.tree.0.join("uio0")).unwrap();
    other.lock().unwrap();
    let settings = kernel.settings().opener(vmbus::uio::DevRoot::new(&kernel.tree.0));
    assert!(matches!(find(settings).open(), Err(UioError::InUse { path }) if path.ends_with("uio0")));
}

#[test]
fn a_device_that_comes_back_is_waited_for() {
    let kernel = Kernel::new(KernelVariant::D, Some(5));
    let device = find(kernel.settings());
    let (here, away) = (kernel.tree.device(GUID), kernel.tree.0.join("away"));
    fs::rename(&here, &away).unwrap();
    assert!(matches!(device.open(), Err(UioError::Select(_))));
    assert!(matches!(device.wait_until_bound(Duration::ZERO), Err(UioError::Select(_))));
    let back = std::thread::spawn(move || fs::rename(away, here));
    device.wait_until_bound(AGES).unwrap();
    back.join().unwrap().unwrap();
    drop(device.open().unwrap());
}
