//! Wrong names, and adapters that the machine needs.

use std::fs;

use netvsc_async::bind::{BindError, NotFound, Session};

use super::binding::{binder, eth1, selector};
use super::kernel::FakeKernel;
use super::tree::{DISK, MAC, NIC, NIC_CLASS, UPLINK};

fn not_found(kernel: &FakeKernel, text: &str) -> NotFound {
    match binder(kernel).find(&selector(text)) {
        Err(BindError::NotFound(not_found)) => not_found,
        other => panic!("{other:?}"),
    }
}

fn needed(kernel: &FakeKernel, name: &str, session: Option<&str>) -> Option<(bool, bool)> {
    let session = session.map(|text| text.parse::<Session>().unwrap());
    match binder(kernel).session(session).bind(&selector(name)) {
        Ok(_) => None,
        Err(BindError::Needed { carries, .. }) => {
            assert_eq!(kernel.writes(), []);
            Some((carries.default_route, carries.login_session))
        }
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn every_way_to_name_an_adapter() {
    let kernel = FakeKernel::new(true);
    for text in [NIC, &format!("{{{NIC}}}"), &NIC.to_uppercase(), "eth1", MAC] {
        let device = binder(&kernel).find(&selector(text)).unwrap();
        assert_eq!(device.bus_id(), NIC, "{text}");
    }
}

#[test]
fn name_on_the_bus_of_old_kernels_is_written_as_it_is() {
    let kernel = FakeKernel::new(false);
    let devices = kernel.tree.sys().join("bus/vmbus/devices");
    fs::rename(devices.join(NIC), devices.join("vmbus_7")).unwrap();
    let plan = binder(&kernel).plan_bind(&selector(NIC)).unwrap();
    assert_eq!(plan.writes[1].data, "vmbus_7");
}

#[test]
fn virtual_function_is_refused_and_names_its_adapter() {
    let kernel = FakeKernel::new(true);
    let not_found = not_found(&kernel, "enP1s2");
    let function = not_found.interfaces.iter().find(|interface| interface.name == "enP1s2").unwrap();
    assert_eq!(function.virtual_function_of.unwrap().to_string(), NIC);
    assert_eq!(function.adapter.as_deref(), Some("eth1"));
}

#[test]
fn every_candidate_says_why() {
    let kernel = FakeKernel::new(true);
    let told = not_found(&kernel, "eth7").to_string();
    let lines: Vec<&str> = told.lines().skip(1).map(str::trim_start).collect();
    let expected = [
        format!("eth0 {UPLINK}: another nic"),
        format!("- {DISK}: class ba6163d9-04a1-4d29-b605-72e2ffb1dc7f is not a nic"),
        format!("eth1 {NIC}: another nic"),
        format!("br0 {MAC}: is no device of the vmbus"),
        format!("enP1s2 {MAC}: is the virtual function, not the synthetic adapter; that is eth1 ({NIC})"),
    ];
    assert_eq!(lines, expected);
}

#[test]
fn bound_adapter_has_no_name_any_more_and_says_so() {
    let kernel = FakeKernel::new(true);
    binder(&kernel).bind(&eth1()).unwrap();
    let told = not_found(&kernel, "eth1").to_string();
    assert!(told.contains(&format!("- {NIC}: bound to uio_hv_generic, so without an interface")), "{told}");
}

#[test]
fn two_adapters_with_one_mac_are_ambiguous() {
    let kernel = FakeKernel::new(true);
    let other = "4444dddd-0000-4b2a-85af-bc9cfc11d6f3";
    kernel.tree.device(other, NIC_CLASS, Some("hv_netvsc"), true);
    kernel.tree.interface(other, "eth2", MAC);
    let told = not_found(&kernel, MAC).to_string();
    assert_eq!(told.matches("one of several").count(), 2, "{told}");
}

#[test]
fn machine_without_the_bus_is_told() {
    let kernel = FakeKernel::new(true);
    let error = binder(&kernel).sysfs(kernel.tree.sys().join("class")).devices().unwrap_err();
    assert!(matches!(error, BindError::Sysfs(_)), "{error:?}");
}

#[test]
fn default_route_is_refused_unless_forced() {
    let kernel = FakeKernel::new(true);
    assert_eq!(needed(&kernel, "eth0", None), Some((true, false)));
    assert!(binder(&kernel).force(true).bind(&selector("eth0")).unwrap().device.is_bound());
}

#[test]
fn ipv6_default_route_counts() {
    let kernel = FakeKernel::new(true);
    let zero = "0".repeat(32);
    kernel.tree.file(
        "proc/net/ipv6_route",
        &format!(
            "{zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200       lo\n\
             {zero} 00 {zero} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00450003     eth1\n"
        ),
    );
    assert_eq!(needed(&kernel, "eth1", None), Some((true, false)));
}

#[test]
fn default_route_through_a_bridge_or_vlan_counts() {
    let kernel = FakeKernel::new(true);
    kernel.tree.file("sys/devices/virtual/net/vlan7/address", "00:0d:3a:f0:01:02\n");
    kernel.tree.link("sys/class/net/vlan7", "sys/devices/virtual/net/vlan7");
    kernel.tree.link("sys/devices/virtual/net/vlan7/lower_br0", "sys/devices/virtual/net/br0");
    kernel.tree.link("sys/devices/virtual/net/br0/lower_eth1", "sys/class/net/eth1");
    kernel.tree.routes(&[("vlan7", [0; 4], 0, 3)]);
    assert_eq!(needed(&kernel, "eth1", None), Some((true, false)));
}

#[test]
fn session_is_found_by_its_own_address_and_by_its_way_back() {
    let kernel = FakeKernel::new(true);
    // Its own address is in eth1's network, the way back is the default route.
    assert_eq!(needed(&kernel, "eth1", Some("203.0.113.9 50022 10.0.1.4 22")), Some((false, true)));
    // The way back leads through eth1's network, whatever its own address.
    assert_eq!(needed(&kernel, "eth1", Some("10.0.1.9 50022 192.0.2.1 22")), Some((false, true)));
    // Both through eth0.
    assert_eq!(needed(&kernel, "eth0", Some("203.0.113.9 50022 10.0.0.4 22")), Some((true, true)));
    assert_eq!(needed(&kernel, "eth1", Some("203.0.113.9 50022 10.0.0.4 22")), None);
}

#[test]
fn session_through_a_bridge_counts() {
    let kernel = FakeKernel::new(true);
    kernel.tree.link("sys/devices/virtual/net/br0/lower_eth1", "sys/class/net/eth1");
    kernel.tree.routes(&[("eth0", [0; 4], 0, 3), ("br0", [10, 0, 1, 0], 24, 1)]);
    assert_eq!(needed(&kernel, "eth1", Some("203.0.113.9 50022 10.0.1.4 22")), Some((false, true)));
}

#[test]
fn session_of_a_link_local_address_names_its_interface() {
    let kernel = FakeKernel::new(true);
    assert_eq!(needed(&kernel, "eth1", Some("fe80::9 50022 fe80::4%eth1 22")), Some((false, true)));
}

#[test]
fn ipv6_session_is_found_by_its_owner() {
    let kernel = FakeKernel::new(true);
    kernel.tree.file("proc/net/if_inet6", "20010db8000000000000000000000004 03 40 00 80     eth1\n");
    assert_eq!(needed(&kernel, "eth1", Some("2001:db8:1::9 50022 2001:db8::4 22")), Some((false, true)));
}

#[test]
fn without_procfs_nothing_is_safe() {
    let kernel = FakeKernel::new(true);
    let error = binder(&kernel).procfs(kernel.tree.sys()).bind(&eth1()).unwrap_err();
    assert!(matches!(error, BindError::Read { .. }), "{error:?}");
    assert_eq!(kernel.writes(), []);
}

#[test]
fn session_of_an_ancestor_is_found_behind_sudo() {
    let kernel = FakeKernel::new(true);
    kernel.tree.file("proc/30/environ", "HOME=/root\0");
    kernel.tree.file("proc/30/status", "Name:\tnetvsc\nPPid:\t20\n");
    kernel.tree.file("proc/20/environ", "A=b\0SSH_CONNECTION=203.0.113.9 50022 10.0.1.4 22\0C=d\0");
    kernel.tree.file("proc/20/status", "Name:\tsudo\nPPid:\t1\n");
    let session = Session::of_process(&kernel.tree.proc(), 30).unwrap();
    assert_eq!(session.local.to_string(), "10.0.1.4");
    assert_eq!(Session::of_process(&kernel.tree.proc(), 1), None);
    // Its own parent: the walk ends all the same.
    kernel.tree.file("proc/40/environ", "");
    kernel.tree.file("proc/40/status", "PPid:\t40\n");
    assert_eq!(Session::of_process(&kernel.tree.proc(), 40), None);
}
