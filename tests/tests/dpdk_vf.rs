//! DPDK as referee of virtual functions: its unmodified `net_netvsc` moves testpmd's traffic to a VF and back.
//!
//! The VF is a veth pair, which testpmd has as a `net_af_packet`; its console attaches it, as somebody plugs a device in. What
//! `net_netvsc` needs of a VF's driver and that one lacks is in `tests/dpdk/testpmd_vf.c`. Needs root, and what `dpdk.rs` needs.
#![cfg(target_os = "linux")]

use std::fs::File;
use std::io::{PipeWriter, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::MutexGuard;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use netvsc_host::export::{
    ClosedLoopConfig, ClosedLoopHandle, ClosedLoopPort, DeviceReport, Export, ExportOptions, Traffic,
};
use netvsc_host::switch::{PortOptions, SwitchConfig};
use netvsc_host::vf::{VethConfig, VethVfs, VfDevices};
use netvsc_host::{Host, NicCounters, NicId, NicOptions, ViolationKind};
use netvsc_tests::netns::Netns;
use netvsc_tests::process::{Client, PATIENCE};
use netvsc_tests::{process, real};

const NIC: NicId = NicId(0);
const MAC: [u8; 6] = [0x00, 0x15, 0x5D, 1, 0, 7];
const VF: &str = "dpdkvf";
/// VFs that come and go.
const ROUNDS: u64 = 2;
/// Frames that are under way at a time.
const CREDIT: u64 = 64;
/// Frames after which a path has shown that it works.
const ENOUGH: u64 = 2_000;

#[test]
fn traffic_moves_to_a_vf_and_back_and_to_the_next_one() {
    play(1, Ending::Orderly);
}

#[test]
fn several_queues_move_to_a_vf_and_back_and_to_the_next_one() {
    play(4, Ending::Orderly);
}

/// The guest's end of the pair vanishes while testpmd sends and receives by it.
#[test]
fn traffic_goes_on_by_the_rings_when_a_vf_vanishes_and_by_the_next_one() {
    play(4, Ending::Surprise);
}

/// How a VF goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// It is revoked, and its device is removed then.
    Orderly,
    /// Its device vanishes.
    Surprise,
}

/// VFs come and go under testpmd's traffic.
fn play(queues: u16, ending: Ending) {
    let Some(_turn) = referee() else { return };
    let netns = Netns::new().expect("root makes namespaces");
    netns.enter(|| {
        let mut vfs = VethVfs::new(VethConfig::new(VF, MAC));
        let host = Exported::start(queues);
        let mut testpmd = Console::start(&host.root, queues, true);
        host.wait_for("frames by the rings", |now| now.rx_frames >= ENOUGH && now.tx_frames >= ENOUGH);
        for serial in 1..=ROUNDS as u32 {
            vfs.plug(&host.host, NIC, serial).expect("a pair is made");
            testpmd.attach(serial);
            let unused = host.counters();
            assert!(!host.host.vf_in_use(NIC), "nobody told testpmd what that port is");

            let said = testpmd.client.said();
            host.host.associate_vf(NIC, serial);
            testpmd.client.wait_for_line(said, &format!("VF serial {serial} add to port 0"));
            testpmd.client.wait_for_line(said, "set datapath VF");
            host.wait_for("frames by the vf, both ways", |now| {
                now.vf_rx_frames >= unused.vf_rx_frames + ENOUGH && now.vf_tx_frames >= unused.vf_tx_frames + ENOUGH
            });
            assert!(host.host.vf_in_use(NIC));
            // The kernel's interface counts what testpmd sends by it.
            let sent = netns.link_counters(VF).expect("the guest's end").tx_packets;
            assert!(sent >= ENOUGH, "{sent}");
            // testpmd has statistics of a VF only while there is one.
            assert!(testpmd.xstat("vf_tx_good_packets") > 0);

            let said = testpmd.client.said();
            if ending == Ending::Orderly {
                host.host.revoke_vf(NIC);
            } else {
                vfs.unplug(&host.host, NIC, true).expect("the pair is removed");
            }
            testpmd.client.wait_for_line(said, &format!("VF serial {serial} remove from port 0"));
            testpmd.client.wait_for_line(said, "set datapath Synthetic");
            assert!(!host.host.vf_in_use(NIC));
            let revoked = host.counters();
            host.wait_for("frames by the rings again", |now| {
                now.rx_frames >= revoked.rx_frames + ENOUGH && now.tx_frames >= revoked.tx_frames + ENOUGH
            });

            let left = host.counters();
            if ending == Ending::Orderly {
                vfs.unplug(&host.host, NIC, false).expect("the pair is removed");
            }
            testpmd.client.wait_for_line(said, "Start to remove port 1");
            testpmd.wait_for_removal();
            host.wait_for("frames by the rings without a vf", |now| now.rx_frames >= left.rx_frames + ENOUGH);
            let now = host.counters();
            assert_eq!(now.vf_rx_frames, left.vf_rx_frames, "nothing goes to a vf that is not there: {now:?}");
            assert!(now.vf_tx_frames <= left.vf_tx_frames + CREDIT, "what it was sent before may still come: {now:?}");
        }
        let output = testpmd.quit();
        let device = host.finish();

        let (counters, seen) = (device.nic.counters, device.closed_loop.expect("a closed loop"));
        // Of its own port testpmd counts what went by the rings: the VF's numbers go with the VF.
        // It counts a frame when its completion is read; no more are under way than there are in the loop.
        let (sent, come) = (statistic(&output, "TX-packets"), counters.tx_frames);
        assert!((sent..=sent + CREDIT).contains(&come), "{come} of {sent} have come\n{device:?}\n{output}");
        // Whole, and each by one way or the other; late is what came after it was given up.
        assert_eq!(seen.returned + seen.late, counters.tx_frames + counters.vf_tx_frames, "{device:?}");
        assert_eq!((seen.corrupt, seen.foreign), (0, 0), "{device:?}");
        // net_netvsc does not look at a VF any more once the traffic is taken back: what waits in there stays there.
        let left_in_vfs = seen.lost.saturating_sub(seen.late);
        assert!(left_in_vfs <= ROUNDS * CREDIT, "{device:?}");
        println!(
            "{queues} queues, {ending:?}: {left_in_vfs} frames left in {ROUNDS} vfs, {} reordered",
            seen.reordered
        );
        assert_eq!((counters.vf_lost, device.leaks), (0, 0), "{device:?}");
    });
}

/// As testpmd is without help: its driver learns of the VF, and cannot configure a device that would not tell of its removal.
#[test]
fn traffic_stays_on_the_rings_if_the_driver_cannot_use_the_vf() {
    let Some(_turn) = referee() else { return };
    let netns = Netns::new().expect("root makes namespaces");
    netns.enter(|| {
        let mut vfs = VethVfs::new(VethConfig::new(VF, MAC));
        let host = Exported::start(1);
        let mut testpmd = Console::start(&host.root, 1, false);
        host.wait_for("frames by the rings", |now| now.rx_frames >= ENOUGH && now.tx_frames >= ENOUGH);
        vfs.plug(&host.host, NIC, 1).expect("a pair is made");
        testpmd.attach(1);

        let said = testpmd.client.said();
        host.host.associate_vf(NIC, 1);
        for line in ["found matching VF port 1", "net_af_packet does not support rmv", "VF configuration failed: -22"] {
            testpmd.client.wait_for_line(said, line);
        }
        let refused = host.counters();
        host.wait_for("frames by the rings still", |now| now.tx_frames >= refused.tx_frames + ENOUGH);
        assert!(!host.host.vf_in_use(NIC));

        let said = testpmd.client.said();
        host.host.revoke_vf(NIC);
        testpmd.client.wait_for_line(said, "VF path not active");
        vfs.unplug(&host.host, NIC, false).expect("the pair is removed");
        let gone = host.counters();
        host.wait_for("frames by the rings without a vf", |now| now.tx_frames >= gone.tx_frames + ENOUGH);
        testpmd.quit();
        let device = host.finish();
        let (counters, seen) = (device.nic.counters, device.closed_loop.expect("a closed loop"));
        assert_eq!((counters.vf_rx_frames, counters.vf_tx_frames), (0, 0), "{device:?}");
        assert_eq!((device.protocol_violations, seen.corrupt, seen.foreign), (0, 0, 0), "{device:?}");
        assert_eq!(seen.lost.saturating_sub(seen.late), 0, "{device:?}");
    });
}

/// One test at a time, if there is a referee at all, and somebody who may make interfaces.
fn referee() -> Option<(MutexGuard<'static, ()>, File)> {
    let turn = process::turn(&["dpdk-testpmd", "cc", "make", "stdbuf"])?;
    Some((turn, real::privileged_or_skip(&["ip"])?))
}

/// A host of this process's, with one NIC that a closed loop sends to.
struct Exported {
    root: PathBuf,
    host: Host,
    seen: ClosedLoopHandle,
    stop: UnixStream,
    thread: Option<JoinHandle<DeviceReport>>,
}

impl Exported {
    fn start(queues: u16) -> Self {
        // Short, and on a tmpfs: a socket's address goes with it.
        let root = PathBuf::from(format!("/dev/shm/nvv-{}", std::process::id()));
        let host = Host::builder().switch(SwitchConfig::default().cable(true)).build();
        let config = ClosedLoopConfig {
            destination: MAC,
            source: [0x02, 0, 0, 0, 0, 1],
            credit: CREDIT as usize,
            frame_bytes: 200,
            flows: 8,
            traffic: Traffic::Udp,
        };
        let (port, seen) = ClosedLoopPort::new(config).expect("it fits");
        host.try_add_port(port, PortOptions::trunk()).expect("room for a port");
        let (stop, stopped) = UnixStream::pair().expect("a pair of sockets");
        let (its_host, its_seen, options) = (host.clone(), seen.clone(), ExportOptions::new(&root));
        let thread = std::thread::spawn(move || {
            let mut export = Export::new(options).expect("a folder");
            export.add(&its_host, NicOptions::new().mac(MAC).queues(queues), Some(its_seen)).expect("a device");
            export.run(stopped.as_fd(), Duration::from_secs(1), |_, _| ()).expect("it runs");
            export.finish().remove(0)
        });
        Self { root, host, seen, stop, thread: Some(thread) }
    }

    fn counters(&self) -> NicCounters {
        self.host.nic_report(NIC).expect("a nic").counters
    }

    #[track_caller]
    fn wait_for(&self, what: &str, enough: impl Fn(&NicCounters) -> bool) {
        let start = Instant::now();
        // There is no NIC before the device is exported.
        while !self.host.nic_report(NIC).is_some_and(|nic| enough(&nic.counters)) {
            let running = self.thread.as_ref().is_some_and(|thread| !thread.is_finished());
            assert!(running, "the host ended");
            assert!(
                start.elapsed() < PATIENCE,
                "waited for {what} in vain: {:?}\n{:?}",
                self.seen.stats(),
                self.host.report()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops it; what became of its device. net_netvsc sends by the VF as soon as it has asked for it, and does not wait for
    /// the host to say that it may: this and nothing else is overlooked.
    fn finish(mut self) -> DeviceReport {
        let report = self.host.report();
        let others: Vec<_> =
            report.violations.iter().filter(|one| one.kind != ViolationKind::UnexpectedVfFrame).collect();
        assert!(others.is_empty(), "{others:?}");
        self.stop.write_all(&[0]).expect("somebody listens");
        self.thread.take().expect("it runs").join().expect("it ends")
    }
}

impl Drop for Exported {
    fn drop(&mut self) {
        // Ended already, unless a test fails.
        let _ = self.stop.write_all(&[0]);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

/// testpmd and its console.
struct Console {
    client: Client,
    input: PipeWriter,
    queues: u16,
}

impl Console {
    /// `removal`: whether the VF's driver can tell that its device is gone.
    fn start(root: &Path, queues: u16, removal: bool) -> Self {
        let (output, input) = std::io::pipe().expect("a pipe");
        std::fs::create_dir_all(root).expect("a folder");
        // Its driver's messages are on standard error; what it answers itself is to come at once, too.
        let mut command = Command::new("sh");
        command.args(["-c", r#"exec stdbuf -oL "$0" "$@" 2>&1"#]);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("dpdk/run-testpmd")).arg(root);
        command.args(["--log-level=pmd.net.netvsc.driver:debug", "--"]);
        command.args(["-i", "--auto-start", "--forward-mode=io", "--total-num-mbufs=16384"]);
        // With receive side scaling the VF would have to report hashes, too (RTE_ETH_RX_OFFLOAD_RSS_HASH), and net_af_packet does
        // not. The host spreads over the queues all the same.
        command.args([format!("--rxq={queues}"), format!("--txq={queues}"), "--disable-rss".into()]);
        command.env("TESTPMD_VF", if removal { "1" } else { "" }).stdin(output);
        Self { client: Client::start(command), input, queues }
    }

    fn say(&mut self, line: &str) {
        writeln!(self.input, "{line}").expect("testpmd reads");
    }

    /// Attaches the VF's interface, to the end.
    fn attach(&mut self, serial: u32) {
        let said = self.client.said();
        self.say(&format!("port attach net_af_packet{serial},iface={VF},qpairs={}", self.queues));
        self.client.wait_for_line(said, "Port 1 is attached");
        self.wait_until_idle();
    }

    /// Waits until what it was told is done: it takes one command at a time.
    fn wait_until_idle(&mut self) {
        let said = self.client.said();
        self.say("show port summary 0");
        self.client.wait_for_line(said, "00:15:5D:01:00:07");
    }

    /// Waits until there is no second port: the driver removes it on a thread of its own.
    fn wait_for_removal(&mut self) {
        let start = Instant::now();
        loop {
            let said = self.client.said();
            self.say("show port summary 0");
            if self.client.wait_for_line(said, "Number of available ports").ends_with(": 1") {
                return self.wait_until_idle();
            }
            assert!(start.elapsed() < PATIENCE, "port 1 stays");
        }
    }

    /// One of the extended statistics of the NIC.
    #[track_caller]
    fn xstat(&mut self, name: &str) -> u64 {
        let said = self.client.said();
        self.say("show port xstats 0");
        let line = self.client.wait_for_line(said, &format!("{name}:"));
        line.rsplit(' ').next().and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{line}"))
    }

    /// Stops it as a user does; all that it said.
    fn quit(mut self) -> String {
        self.say("stop");
        self.say("quit");
        let (status, output) = self.client.wait();
        let output = output.join("\n");
        assert!(status.success(), "testpmd: {status}\n{output}");
        output
    }
}

/// A number of testpmd's final statistics.
#[track_caller]
fn statistic(output: &str, name: &str) -> u64 {
    let end = output.rsplit("Accumulated forward statistics").next().unwrap_or_default();
    let value = end.split(name).nth(1).and_then(|rest| rest.trim_start_matches(':').split_whitespace().next());
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in\n{output}"))
}
