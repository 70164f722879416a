//! Giving back on drop, on panic and on signals.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use netvsc_async::bind::Binder;

use super::binding::{binder, eth1, selector};
use super::kernel::FakeKernel;
use super::tree::NIC;

#[test]
fn drop_gives_back() {
    for driver_override in [true, false] {
        let kernel = FakeKernel::new(driver_override);
        let before = kernel.tree.snapshot();
        let guard = binder(&kernel).hold(&eth1()).unwrap();
        assert_eq!((guard.instance().to_string().as_str(), guard.uio()), (NIC, "uio0"));
        assert_eq!(kernel.tree.driver(NIC).as_deref(), Some("uio_hv_generic"));
        drop(guard);
        assert_eq!(kernel.tree.snapshot(), before);
    }
}

#[test]
fn panic_gives_back() {
    let kernel = FakeKernel::new(true);
    let before = kernel.tree.snapshot();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let _guard = binder(&kernel).hold(&eth1()).unwrap();
        assert_eq!(kernel.tree.driver(NIC).as_deref(), Some("hv_netvsc"), "the panic that this test is about");
    }));
    assert!(outcome.is_err());
    assert_eq!(kernel.tree.snapshot(), before);
}

#[test]
fn release_tells_a_failure_and_does_not_try_again() {
    let kernel = FakeKernel::new(true);
    let guard = binder(&kernel).hold(&eth1()).unwrap();
    kernel.refuse(3);
    assert!(guard.release().is_err());
    assert_eq!(kernel.writes().len(), 4);
    assert_eq!(kernel.tree.driver(NIC).as_deref(), Some("uio_hv_generic"));
}

#[test]
fn kept_device_stays_bound() {
    let kernel = FakeKernel::new(true);
    let bound = binder(&kernel).hold(&eth1()).unwrap().keep();
    assert_eq!(bound.uio, "uio0");
    assert_eq!(kernel.tree.driver(NIC).as_deref(), Some("uio_hv_generic"));
}

#[test]
fn device_bound_by_an_earlier_run_goes_back_too() {
    let kernel = FakeKernel::new(true);
    binder(&kernel).bind(&eth1()).unwrap();
    drop(binder(&kernel).hold(&selector(NIC)).unwrap());
    assert_eq!(kernel.tree.driver(NIC).as_deref(), Some("hv_netvsc"));
}

#[test]
fn signal_guard_gives_back_when_released() {
    let kernel = Arc::new(FakeKernel::new(true));
    let binder = Binder::with_kernel(Arc::clone(&kernel)).sysfs(kernel.tree.sys()).procfs(kernel.tree.proc());
    let guard = binder.hold(&eth1()).unwrap().restore_on_signals(|| unreachable!("no signal came")).unwrap();
    assert_eq!((guard.instance().to_string().as_str(), guard.uio()), (NIC, "uio0"));
    guard.release().unwrap();
    assert_eq!(kernel.tree.driver(NIC).as_deref(), Some("hv_netvsc"));
}

/// What the parent sends the signal to: this test binary again, as a program that holds an adapter.
const CHILD: &str = "NETVSC_TEST_HOLDS_ADAPTER";

#[test]
fn signals_close_then_give_back_then_end_the_process() {
    if std::env::var_os(CHILD).is_some() {
        return hold_until_killed();
    }
    for (name, number) in [("TERM", 15), ("INT", 2)] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "guard::signals_close_then_give_back_then_end_the_process", "--nocapture"])
            .env(CHILD, "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let root = lines.find_map(|line| line.split_once("holding ").map(|(_, root)| PathBuf::from(root))).unwrap();
        let kill = Command::new("kill").args([format!("-{name}"), child.id().to_string()]).status().unwrap();
        assert!(kill.success());
        assert_eq!(child.wait().unwrap().signal(), Some(number));
        assert_eq!(lines.next().as_deref(), Some("closing while uio_hv_generic has it"));
        let driver = std::fs::read_link(root.join("sys/devices/vmbus").join(NIC).join("driver")).unwrap();
        assert_eq!(driver.file_name().unwrap(), "hv_netvsc");
        // The child was killed before it could clean up.
        std::fs::remove_dir_all(root).unwrap();
    }
}

fn hold_until_killed() {
    let kernel = Arc::new(FakeKernel::new(true));
    let binder = Binder::with_kernel(Arc::clone(&kernel)).sysfs(kernel.tree.sys()).procfs(kernel.tree.proc());
    let seen = Arc::clone(&kernel);
    let close = move || {
        println!("closing while {} has it", seen.tree.driver(NIC).unwrap());
        std::io::stdout().flush().unwrap();
    };
    let _guard = binder.hold(&eth1()).unwrap().restore_on_signals(close).unwrap();
    println!("holding {}", kernel.tree.sys().parent().unwrap().display());
    loop {
        std::thread::park();
    }
}
