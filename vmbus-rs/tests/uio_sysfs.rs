//! Discovery in sysfs: what is read, what is selected, and why the rest is not.
#![cfg(all(feature = "uio", target_os = "linux"))]

mod uio_fake;

use std::fs::{self, File};
use std::io::Write;

use nix::sys::stat::Mode;
use serde_json::Value;
use uio_fake::{GUID, NIC, SCSI, Tree};
use vmbus::gpadl::GpadlId;
use vmbus::guid::Guid;
use vmbus::monitor::MonitorId;
use vmbus::protocol::RelId;
use vmbus::uio::{MapUse, Refusal, Selector, Settings, SysfsError, UioDevice, UioError};

/// The tree of the fixture.
fn fixture() -> Tree {
    let tree = Tree::default();
    let text = include_str!("vectors/uio_sysfs_fixture.json");
    let fixture: Value = serde_json::from_str(text).unwrap();
    for vector in fixture["vectors"].as_array().unwrap() {
        let path = tree.0.join(vector["path"].as_str().unwrap().trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match vector["content"].as_str() {
            Some(content) => fs::write(path, content).unwrap(),
            None => {
                fs::File::create(path).unwrap().set_len(vector["st_size"].as_u64().unwrap()).unwrap();
            }
        }
    }
    tree
}

#[test]
fn reads_the_fixture() {
    let tree = fixture();
    let device = tree.root().find(&Selector::Only).unwrap();
    assert_eq!(device.instance, GUID.parse().unwrap());
    assert_eq!((device.class, device.relid, device.monitor), (Guid::NIC, RelId(14), MonitorId::new(5)));
    let node = device.uio.as_ref().unwrap();
    assert_eq!(node.number, 0);
    let maps: Vec<_> = node.maps.iter().map(|map| (map.usage.clone(), map.size, map.offset)).collect();
    assert_eq!(
        maps,
        [
            (MapUse::Rings, 0x40_0000, 0),
            (MapUse::InterruptPage, 0x1000, 0),
            (MapUse::MonitorPage, 0x1000, 0),
            (MapUse::Receive(GpadlId(925_200)), 0x1f0_0000, 0),
            (MapUse::Send(GpadlId(925_201)), 0x100_0000, 0),
        ]
    );
    assert_eq!(node.maps[0].addr, Some(0x1_0480_0000));
    let channels = device.channels().unwrap();
    let summary: Vec<_> = channels
        .iter()
        .map(|c| (c.relid.0, c.subchannel_index, c.monitor, c.ring.as_ref().map(|ring| ring.bytes)))
        .collect();
    assert_eq!(
        summary,
        [(14, Some(0), MonitorId::new(5), Some(0x40_0000)), (21, Some(1), MonitorId::new(6), Some(0x40_0000))]
    );
}

#[test]
fn monitors_are_optional_and_may_be_nonsense() {
    let tree = Tree::default();
    tree.add(GUID, NIC, 3);
    let monitor = || tree.root().find(&Selector::Only).unwrap().monitor;
    assert_eq!(monitor(), None);
    for (text, value) in [("127", MonitorId::new(127)), ("128", None), ("255", None), ("4000", None)] {
        tree.write(GUID, "monitor_id", text);
        assert_eq!(monitor(), value, "{text}");
    }
}

#[test]
fn maps_end_at_the_first_that_is_missing() {
    let tree = Tree::default();
    tree.add(GUID, NIC, 3);
    tree.uio(GUID, 7, &[("txrx_rings", 0x8000), ("int_page", 0x1000), ("monitor_page", 0x1000)]);
    tree.write(GUID, "uio/uio7/maps/map4/name", "send:1");
    tree.write(GUID, "uio/uio7/maps/map4/size", "4096");
    let node = tree.root().find(&Selector::Uio(7)).unwrap().uio.unwrap();
    assert_eq!(node.maps.len(), 3);
    // Minimal, padded, and not hexadecimal at all.
    for (text, size) in [("0x1000", 4096), ("0x0000000000001000", 4096), ("4096", 4096), ("010000", 4096)] {
        tree.write(GUID, "uio/uio7/maps/map1/size", text);
        assert_eq!(tree.root().find(&Selector::Uio(7)).unwrap().uio.unwrap().maps[1].size, size, "{text}");
    }
    tree.write(GUID, "uio/uio7/maps/map1/size", "big");
    let error = tree.root().find(&Selector::Uio(7)).unwrap_err();
    assert!(
        matches!(&error.candidates[0].refusal, Refusal::Unreadable(SysfsError::Malformed { text, .. }) if text == "big"),
        "{error}"
    );
}

#[test]
fn channels_that_are_not_numbers_are_not_channels() {
    let tree = fixture();
    for name in ["power", "-1", "+22", "0x15", "99999999999999999999"] {
        fs::create_dir(tree.device(GUID).join("channels").join(name)).unwrap();
    }
    fs::create_dir(tree.device(GUID).join("channels/22")).unwrap();
    let channels = tree.root().find(&Selector::Only).unwrap().channels().unwrap();
    assert_eq!(channels.iter().map(|channel| channel.relid.0).collect::<Vec<_>>(), [14, 21, 22]);
    assert_eq!((channels[2].subchannel_index, channels[2].ring.clone()), (None, None), "not complete yet");
}

const OTHER: &str = "11111111-2222-3333-4444-555555555555";
const THIRD: &str = "aaaaaaaa-2222-3333-4444-555555555555";

/// One NIC with the kernel's driver, one bound to uio, one disk, one that cannot be read.
fn mixed() -> Tree {
    let tree = fixture();
    tree.bind(GUID, "uio_hv_generic");
    tree.add(OTHER, NIC, 20);
    tree.bind(OTHER, "hv_netvsc");
    tree.write(OTHER, "net/eth1/address", "00:15:5d:0a:0b:0c");
    tree.add(THIRD, SCSI, 21);
    tree.bind(THIRD, "hv_storvsc");
    tree.write("broken", "class_id", "{who knows}");
    tree
}

#[test]
fn selects_by_instance_interface_mac_and_number() {
    let tree = mixed();
    for (text, instance) in [
        (GUID, GUID),
        (OTHER, OTHER),
        ("{11111111-2222-3333-4444-555555555555}", OTHER),
        ("eth1", OTHER),
        ("00:15:5D:0A:0B:0C", OTHER),
        ("uio0", GUID),
        ("/dev/uio0", GUID),
    ] {
        let selector: Selector = text.parse().unwrap();
        assert_eq!(tree.root().find(&selector).unwrap().instance, instance.parse().unwrap(), "{text}");
    }
    assert_eq!(tree.root().nics().unwrap().len(), 2);
}

#[test]
fn a_wrong_selector_says_what_there_is_and_why_not() {
    let tree = mixed();
    let refusals = |selector: &str, bound: bool| {
        let selector: Selector = selector.parse().unwrap();
        let root = tree.root();
        let error = if bound { root.find_bound(&selector) } else { root.find(&selector) }.unwrap_err();
        let text = error.to_string();
        let of = |guid: &str| {
            let instance = guid.parse().ok();
            error.candidates.iter().find(|candidate| candidate.instance == instance).map(|c| c.refusal.clone())
        };
        (of(GUID), of(OTHER), of(THIRD), of(""), text)
    };

    let (uio, kernel, disk, broken, text) = refusals("eth9", false);
    assert_eq!(uio, Some(Refusal::NoInterface { driver: Some("uio_hv_generic".into()) }));
    assert_eq!(kernel, Some(Refusal::Other));
    assert_eq!(disk, Some(Refusal::NotNic { class: Guid::SCSI }));
    assert!(matches!(broken, Some(Refusal::Unreadable(_))));
    for part in ["interface eth9", GUID, "(eth1)", "select it by instance", "is not a nic", "device_id"] {
        assert!(text.contains(part), "{part:?} in {text:?}");
    }

    let (_, kernel, ..) = refusals("eth1", true);
    assert_eq!(kernel, Some(Refusal::BoundTo { driver: "hv_netvsc".into() }), "found, but not to be used");
    let (_, _, disk, ..) = refusals(THIRD, false);
    assert_eq!(disk, Some(Refusal::NotNic { class: Guid::SCSI }), "even by name");

    fs::remove_file(tree.device(OTHER).join("driver")).unwrap();
    assert_eq!(refusals(OTHER, true).1, Some(Refusal::Unbound));
    tree.bind(OTHER, "uio_hv_generic");
    assert_eq!(refusals(OTHER, true).1, Some(Refusal::NoUioNode));
    tree.uio(OTHER, 1, &[("txrx_rings", 0x8000)]);
    let error = tree.root().find_bound(&Selector::Only).unwrap_err();
    let ambiguous = error.candidates.iter().filter(|candidate| candidate.refusal == Refusal::Ambiguous);
    assert_eq!(ambiguous.count(), 2);
}

#[test]
fn no_bus_is_said_so() {
    let settings = Settings::default().sysfs(vmbus::uio::SysfsRoot::new("/nonexistent"));
    let Err(UioError::Select(error)) = UioDevice::find(&Selector::Only, settings) else { panic!("there is none") };
    assert!(error.unlisted.is_some());
    assert!(error.to_string().contains("/nonexistent/bus/vmbus/devices"), "{error}");
}

/// The ring comes last. Whoever looks for it last may find it and not what came before, such as the monitor.
#[test]
fn the_ring_of_a_channel_is_looked_for_first() {
    let tree = fixture();
    let device = tree.root().find(&Selector::Only).unwrap();
    tree.write(GUID, "channels/77/cpu", "0");
    let channel = tree.device(GUID).join("channels/77");
    nix::unistd::mkfifo(&channel.join("subchannel_id"), Mode::S_IRWXU).unwrap();
    let reading = std::thread::spawn(move || device.channels().unwrap());
    // Waits for who reads it, who waits for what it says.
    let mut index = File::options().write(true).open(channel.join("subchannel_id")).unwrap();
    File::create(channel.join("ring")).unwrap();
    index.write_all(b"1\n").unwrap();
    drop(index);
    let channels = reading.join().unwrap();
    let channel = channels.iter().find(|channel| channel.relid == RelId(77)).unwrap();
    assert_eq!((channel.subchannel_index, &channel.ring), (Some(1), &None));
}
