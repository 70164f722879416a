//! Virtual functions as veth pairs: what the simulated host does with the kernel's interfaces. Needs root.
#![cfg(target_os = "linux")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use netvsc_host::port::{Frame, PacketConfig, PacketPort, Port};
use netvsc_host::vf::{VethConfig, VethVfs, VfDevices};
use netvsc_host::{Host, NicId, NicOptions, ViolationKind};
use netvsc_tests::netns::Netns;
use netvsc_tests::real;

const NIC: NicId = NicId(0);
const MAC: [u8; 6] = [0x00, 0x15, 0x5D, 9, 8, 7];
/// After so long something hangs.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn frames_cross_a_veth_and_those_that_left_before_it_was_removed_arrive() {
    let Some(_lock) = real::privileged_or_skip(&["ip"]) else { return };
    let netns = Netns::new().expect("root makes namespaces");
    netns.enter(|| {
        let host = Host::builder().build();
        let far = host.memory_pair();
        let _thread = host.spawn_thread();
        // Nobody drives this adapter: what comes by its VF is delivered all the same, and noticed.
        let guest = host.add_nic(NicOptions::new().mac(MAC));
        let mut vfs = VethVfs::new(VethConfig::new("vfvh0", MAC));
        for round in 0..3_u8 {
            vfs.plug(&host, NIC, 7).expect("a pair is made");
            let shown = netns.ip("-o link show vfvh0").expect("the guest's end");
            assert!(shown.contains("00:15:5d:09:08:07") && shown.contains("NOARP"), "{shown}");
            netns.ip("link set vfvh0 up").expect("the guest sets it up");
            let mut end = PacketPort::open(PacketConfig::new("vfvh0")).expect("the guest's end can be opened");
            let port = vfs.port().expect("plugged").clone();

            // By way of the kernel: the guest's end first, so that nothing of another round is taken for this one's.
            for number in 0..20 {
                assert!(end.deliver(Frame::new(&frame(round, number))));
            }
            wait_for("the frames at the host's end", || port.stats().read == 20);
            for number in 20..40 {
                assert!(end.deliver(Frame::new(&frame(round, number))));
            }
            vfs.unplug(&host, NIC, round == 1).expect("the pair is removed");
            for end in ["vfvh0", "vfvh0h"] {
                assert!(netns.ip(&format!("link show {end}")).is_err(), "{end} is gone");
            }
            // They were waited for.
            assert_eq!(port.stats().read, 40, "{:?}", port.stats());
            assert!(!end.deliver(Frame::new(&frame(round, 99))), "nothing is taken any more");
            let mut arrived = Vec::new();
            wait_for("the frames at the far end", || {
                while let Ok(frame) = far.try_recv() {
                    arrived.push(frame.to_vec());
                }
                arrived.len() >= 40
            });
            assert_eq!(arrived, (0..40).map(|number| frame(round, number)).collect::<Vec<_>>(), "round {round}");
            wait_for("the end of the port", || port.stats().over);
            // The kernel said nothing by itself, or it would have been counted.
            assert_eq!(port.stats().read, 40, "{:?}", port.stats());
        }
        let report = host.report();
        assert!(
            report.violations.iter().all(|violation| violation.kind == ViolationKind::UnexpectedVfFrame),
            "{report}"
        );
        drop(guest);
    });
}

#[test]
fn a_port_reads_its_own_interface_and_not_what_the_kernel_sends() {
    let Some(_lock) = real::privileged_or_skip(&["ip"]) else { return };
    let netns = Netns::new().expect("root makes namespaces");
    netns.enter(|| {
        for pair in ["vfpa", "vfpb"] {
            netns.ip(&format!("link add {pair}0 type veth peer name {pair}1")).expect("a pair");
            for end in 0..2 {
                std::fs::write(format!("/proc/sys/net/ipv6/conf/{pair}{end}/disable_ipv6"), "1").expect("no IPv6");
                netns.ip(&format!("link set {pair}{end} arp off up")).expect("it can be set up");
            }
        }
        // The end that was up first sends once the kernel has noticed that there is another; until then it throws away.
        let settle = |end: &str| {
            wait_for("a link", || netns.ip(&format!("-j link show {end}")).unwrap().contains(r#""operstate":"UP""#));
        };
        settle("vfpa0");
        settle("vfpb0");
        let open = |name: &str| PacketPort::open(PacketConfig::new(name)).expect("there is one");
        let [mut a0, mut a1, mut b0, mut b1] = ["vfpa0", "vfpa1", "vfpb0", "vfpb1"].map(open);
        assert!(b0.deliver(Frame::new(&frame(1, 1))));
        let mut got = Vec::new();
        let mut read =
            |port: &mut PacketPort, budget| port.poll(Duration::ZERO, budget, &mut |frame| got.push(frame.bytes.len()));
        wait_for("a frame by the other pair", || read(&mut b1, 9) == 1);
        assert!(a0.deliver(Frame::new(&[0xFF; 1514])) && a0.deliver(Frame::new(&[0xFF; 61])));
        wait_for("a frame", || read(&mut a1, 1) == 1);
        wait_for("another one", || read(&mut a1, 1) == 1);
        netns.ip("link set vfpa0 mtu 2000").expect("a larger MTU");
        netns.ip("link set vfpa1 mtu 2000").expect("a larger MTU");
        assert!(a0.deliver(Frame::new(&[0xFF; 1519])));
        wait_for("a long frame", || {
            assert_eq!(read(&mut a1, 9), 0);
            a1.handle().stats().read_too_long == 1
        });
        assert_eq!(got[1..], [1514, 61]);
        // Who sends does not hear itself; nor does anyone the other pair.
        for port in [&mut a0, &mut b0] {
            assert_eq!(port.poll(Duration::ZERO, 9, &mut |frame| panic!("{frame:?}")), 0);
        }
        assert_eq!(b1.poll(Duration::ZERO, 9, &mut |frame| panic!("{frame:?}")), 0);

        // Down is not gone.
        netns.ip("link set vfpa1 down").expect("down");
        netns.ip("link set vfpa1 up").expect("up");
        settle("vfpa0");
        assert!(a0.deliver(Frame::new(&frame(1, 2))));
        wait_for("a frame after that", || a1.poll(Duration::ZERO, 9, &mut |_| {}) == 1);
        assert!(!a1.handle().stats().over);

        // Who sleeps is woken.
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        for number in 3..9 {
            a1.register_waker(&waker);
            assert!(a0.deliver(Frame::new(&frame(1, number))));
            wait_for("a wake-up", || woken.0.swap(false, Ordering::Relaxed));
            wait_for("a frame", || a1.poll(Duration::ZERO, 9, &mut |_| {}) == 1);
        }
        let missing = PacketPort::open(PacketConfig::new("vfpa9")).unwrap_err();
        assert!(missing.to_string().contains("cannot find") && !missing.is_missing_privilege(), "{missing}");
    });
}

/// A broadcast of the guest's.
fn frame(round: u8, number: u8) -> Vec<u8> {
    let mut frame = vec![0xFF; 6];
    frame.extend_from_slice(&MAC);
    frame.extend_from_slice(&[0x88, 0xB5, round, number]);
    frame.resize(60 + usize::from(number), round);
    frame
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[track_caller]
fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "waited for {what} in vain");
        std::thread::sleep(Duration::from_millis(1));
    }
}
