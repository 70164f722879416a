//! Binding, giving back, and undoing what failed.

use std::fs;

use netvsc_async::bind::{BindError, Binder, Device, DriverOverride, Selector, Way};

use super::kernel::{EIO, FakeKernel};
use super::tree::{MAC, NIC, NIC_CLASS, UPLINK};

pub(crate) fn binder(kernel: &FakeKernel) -> Binder<&FakeKernel> {
    Binder::with_kernel(kernel).sysfs(kernel.tree.sys()).procfs(kernel.tree.proc())
}

pub(crate) fn selector(text: &str) -> Selector {
    text.parse().unwrap()
}

pub(crate) fn eth1() -> Selector {
    selector("eth1")
}

fn nic() -> Selector {
    selector(NIC)
}

fn read(kernel: &FakeKernel) -> Device {
    binder(kernel).find(&nic()).unwrap()
}

/// Paths below `bus/vmbus`, and data.
fn written(kernel: &FakeKernel) -> Vec<(String, String)> {
    let writes = kernel.writes().into_iter();
    writes.map(|(path, data)| (path.strip_prefix("bus/vmbus/").unwrap().to_owned(), data)).collect()
}

fn pairs<const N: usize>(expected: [(&str, &str); N]) -> Vec<(String, String)> {
    expected.map(|(path, data)| (path.to_owned(), data.to_owned())).to_vec()
}

#[test]
fn device_is_read_whole() {
    let kernel = FakeKernel::new(true);
    let device = read(&kernel);
    assert_eq!(device.bus_id(), NIC);
    assert_eq!(device.sysfs.class.to_string(), NIC_CLASS);
    assert_eq!(device.driver(), Some("hv_netvsc"));
    assert_eq!(device.driver_override, DriverOverride::Unset);
    assert_eq!(device.mac().unwrap().to_string(), MAC);
    assert_eq!(device.interface(), Some("eth1"));
    // The bridge has the same address but no hardware.
    let functions: Vec<_> = device.virtual_functions.iter().map(|f| (f.name.as_str(), f.master.as_deref())).collect();
    assert_eq!(functions, [("enP1s2", Some("eth1"))]);
    assert!(!device.carries.any());
    assert!(!device.is_bound());
}

#[test]
fn all_devices_are_listed_with_their_class() {
    let kernel = FakeKernel::new(true);
    let devices = binder(&kernel).devices().unwrap();
    assert_eq!(devices.len(), 3);
    assert_eq!(devices.iter().filter(|device| device.sysfs.is_nic()).count(), 2);
}

#[test]
fn binds_by_driver_override() {
    let kernel = FakeKernel::new(true);
    let bound = binder(&kernel).bind(&eth1()).unwrap();
    assert_eq!(bound.plan.way, Way::DriverOverride);
    assert_eq!(bound.uio, "uio0");
    assert!(bound.device.is_bound());
    assert_eq!(bound.device.driver_override, DriverOverride::Driver("uio_hv_generic".into()));
    let expected = [
        (&*format!("devices/{NIC}/driver_override"), "uio_hv_generic"),
        ("drivers/hv_netvsc/unbind", NIC),
        ("drivers_probe", NIC),
    ];
    assert_eq!(written(&kernel), pairs(expected));
    assert_eq!(kernel.tree.driver(UPLINK).as_deref(), Some("hv_netvsc"));
}

#[test]
fn binds_by_new_id_where_there_is_no_override() {
    let kernel = FakeKernel::new(false);
    let bound = binder(&kernel).bind(&eth1()).unwrap();
    assert_eq!(bound.plan.way, Way::NewId);
    assert!(bound.device.is_bound());
    let expected = [
        ("drivers/uio_hv_generic/new_id", NIC_CLASS),
        ("drivers/hv_netvsc/unbind", NIC),
        ("drivers/uio_hv_generic/bind", NIC),
    ];
    assert_eq!(written(&kernel), pairs(expected));
}

#[test]
fn known_id_is_no_failure() {
    let kernel = FakeKernel::new(false);
    kernel.knows_class();
    assert!(binder(&kernel).bind(&eth1()).unwrap().device.is_bound());
}

#[test]
fn orphan_is_bound_and_given_back() {
    for (driver_override, id_known) in [(true, false), (false, false), (false, true)] {
        let kernel = FakeKernel::new(driver_override);
        kernel.orphan(NIC);
        if id_known {
            kernel.knows_class();
        }
        assert!(binder(&kernel).bind(&nic()).unwrap().device.is_bound(), "{driver_override} {id_known}");
        binder(&kernel).unbind(&nic()).unwrap();
        assert_eq!(kernel.tree.driver(NIC).as_deref(), Some("hv_netvsc"));

        kernel.orphan(NIC);
        binder(&kernel).unbind(&nic()).unwrap();
        assert_eq!(kernel.tree.driver(NIC).as_deref(), Some("hv_netvsc"));
    }
}

#[test]
fn crash_after_the_override_is_repaired() {
    let kernel = FakeKernel::new(true);
    kernel.orphan(NIC);
    kernel.tree.file(&format!("sys/devices/vmbus/{NIC}/driver_override"), "uio_hv_generic\n");
    let device = binder(&kernel).unbind(&nic()).unwrap();
    assert_eq!(device.driver(), Some("hv_netvsc"));
    assert_eq!(device.driver_override, DriverOverride::Unset);
}

#[test]
fn bound_twice_writes_once() {
    let kernel = FakeKernel::new(true);
    binder(&kernel).bind(&eth1()).unwrap();
    let writes = kernel.writes().len();
    let again = binder(&kernel).bind(&selector("/dev/uio0")).unwrap();
    assert!(again.plan.is_done());
    assert_eq!(kernel.writes().len(), writes);
}

#[test]
fn gives_back_and_leaves_no_trace() {
    for driver_override in [true, false] {
        let kernel = FakeKernel::new(driver_override);
        let before = kernel.tree.snapshot();
        binder(&kernel).bind(&eth1()).unwrap();
        assert_ne!(kernel.tree.snapshot(), before);
        let device = binder(&kernel).unbind(&nic()).unwrap();
        assert_eq!(device.interface(), Some("eth1"));
        assert_eq!(kernel.tree.snapshot(), before);
        assert_eq!(kernel.ids(), 0);
    }
}

#[test]
fn unbind_of_an_unbound_adapter_writes_nothing() {
    let kernel = FakeKernel::new(true);
    binder(&kernel).unbind(&eth1()).unwrap();
    assert_eq!(kernel.writes(), []);
}

#[test]
fn adapter_bound_by_id_on_a_kernel_with_override_comes_back() {
    let kernel = FakeKernel::new(true);
    kernel.orphan(NIC);
    netvsc_async::bind::Kernel::write(
        &kernel,
        &kernel.tree.sys().join("bus/vmbus/drivers/uio_hv_generic/new_id"),
        NIC_CLASS,
    )
    .unwrap();
    assert_eq!(kernel.tree.driver(NIC).as_deref(), Some("uio_hv_generic"));
    binder(&kernel).unbind(&nic()).unwrap();
    assert_eq!(kernel.tree.driver(NIC).as_deref(), Some("hv_netvsc"));
    assert_eq!(kernel.ids(), 0);
}

#[test]
fn each_refused_write_is_undone() {
    for driver_override in [true, false] {
        for number in 0..3 {
            let kernel = FakeKernel::new(driver_override);
            let before = kernel.tree.snapshot();
            kernel.refuse(number);
            let error = binder(&kernel).bind(&eth1()).unwrap_err();
            let BindError::Write { error, .. } = error else { panic!("{error:?}") };
            assert_eq!(error.raw_os_error(), Some(EIO));
            assert_eq!(kernel.tree.snapshot(), before, "override {driver_override}, write {number}");
            assert_eq!(kernel.ids(), 0, "override {driver_override}, write {number}");
        }
    }
}

#[test]
fn each_refused_write_of_giving_back_is_undone() {
    for driver_override in [true, false] {
        for number in 3..6 {
            let kernel = FakeKernel::new(driver_override);
            binder(&kernel).bind(&eth1()).unwrap();
            let before = (kernel.tree.snapshot(), kernel.ids());
            kernel.refuse(number);
            let error = binder(&kernel).unbind(&nic()).unwrap_err();
            assert!(matches!(error, BindError::Write { .. }), "{error:?}");
            let after = (kernel.tree.snapshot(), kernel.ids());
            assert_eq!(after, before, "override {driver_override}, write {number}");
        }
    }
}

#[test]
fn driver_that_does_not_take_the_device_is_noticed_and_undone() {
    let kernel = FakeKernel::new(true);
    let before = kernel.tree.snapshot();
    kernel.let_probe_fail();
    let error = binder(&kernel).bind(&eth1()).unwrap_err();
    assert!(matches!(&error, BindError::NotTaken { found: None, .. }), "{error:?}");
    assert_eq!(kernel.tree.snapshot(), before);
}

#[test]
fn missing_node_is_noticed_and_undone() {
    for driver_override in [true, false] {
        let kernel = FakeKernel::new(driver_override);
        let before = kernel.tree.snapshot();
        kernel.make_no_node();
        let error = binder(&kernel).bind(&eth1()).unwrap_err();
        assert!(matches!(error, BindError::NoNode { .. }), "{error:?}");
        assert_eq!(kernel.tree.snapshot(), before);
    }
}

#[test]
fn failed_undo_is_told() {
    let kernel = FakeKernel::new(true);
    kernel.refuse(2); // the probe
    kernel.refuse(3); // clearing the override again
    let error = binder(&kernel).bind(&eth1()).unwrap_err();
    let BindError::NotUndone { cause, undo } = error else { panic!("{error:?}") };
    assert!(matches!(*cause, BindError::Write { .. }), "{cause:?}");
    assert!(matches!(*undo, BindError::Write { .. }), "{undo:?}");
    // And can be repaired later.
    binder(&kernel).unbind(&nic()).unwrap();
    assert_eq!(kernel.tree.driver(NIC).as_deref(), Some("hv_netvsc"));
}

#[test]
fn one_write_that_cannot_be_undone_keeps_no_other_from_it() {
    let kernel = FakeKernel::new(false);
    kernel.refuse(2); // taking the device
    kernel.refuse(3); // forgetting the id again
    let error = binder(&kernel).bind(&eth1()).unwrap_err();
    assert!(matches!(error, BindError::NotUndone { .. }), "{error:?}");
    assert_eq!((kernel.tree.driver(NIC).as_deref(), kernel.ids()), (Some("hv_netvsc"), 1));
}

#[test]
fn new_id_names_the_orphans_it_takes_and_undo_returns_them() {
    let kernel = FakeKernel::new(false);
    let orphan = "3333cccc-0000-4b2a-85af-bc9cfc11d6f3";
    kernel.tree.device(orphan, NIC_CLASS, None, false);
    let before = kernel.tree.snapshot();
    let plan = binder(&kernel).plan_bind(&eth1()).unwrap();
    assert_eq!(plan.also_taken.iter().map(ToString::to_string).collect::<Vec<_>>(), [orphan]);
    kernel.refuse(2);
    binder(&kernel).bind(&eth1()).unwrap_err();
    assert_eq!(kernel.tree.snapshot(), before);
}

#[test]
fn plan_writes_nothing_and_is_what_is_written() {
    for driver_override in [true, false] {
        let kernel = FakeKernel::new(driver_override);
        let before = kernel.tree.snapshot();
        let plan = binder(&kernel).plan_bind(&eth1()).unwrap();
        assert_eq!(kernel.tree.snapshot(), before);
        assert_eq!(kernel.writes(), []);
        let bound = binder(&kernel).bind(&eth1()).unwrap();
        assert_eq!(bound.plan, plan);
        let back = binder(&kernel).plan_unbind(&nic()).unwrap();
        binder(&kernel).unbind(&nic()).unwrap();
        let planned = plan.writes.iter().chain(&back.writes);
        let planned: Vec<_> = planned
            .map(|write| (write.path.strip_prefix(kernel.tree.sys()).unwrap().to_str().unwrap(), write.data.as_str()))
            .map(|(path, data)| (path.to_owned(), data.to_owned()))
            .collect();
        assert_eq!(kernel.writes(), planned);
    }
}

#[test]
fn missing_driver_is_told_before_anything_is_written() {
    let kernel = FakeKernel::new(true);
    fs::remove_dir_all(kernel.tree.sys().join("bus/vmbus/drivers/uio_hv_generic")).unwrap();
    let error = binder(&kernel).bind(&eth1()).unwrap_err();
    assert!(matches!(error, BindError::DriverMissing { driver: "uio_hv_generic" }), "{error:?}");
    assert!(error.to_string().contains("modprobe uio_hv_generic"));
    assert_eq!(kernel.writes(), []);
}

#[test]
fn override_of_somebody_else_comes_back_on_failure() {
    let kernel = FakeKernel::new(true);
    kernel.tree.file(&format!("sys/devices/vmbus/{NIC}/driver_override"), "hv_netvsc\n");
    let before = kernel.tree.snapshot();
    kernel.refuse(1);
    binder(&kernel).bind(&eth1()).unwrap_err();
    assert_eq!(kernel.tree.snapshot(), before);
}
