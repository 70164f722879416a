//! The kernel's TCP and UDP, over both versions of IP and both ways at a time, between two network namespaces *through* the
//! forwarder (`examples/l2fwd`): two adapters of two simulated hosts, a TAP interface each, under every combination of
//! offloads.
//!
//! ```text
//!  namespace ── TAP ── host ── NIC ── l2fwd ── NIC ── host ── TAP ── namespace
//! ```
//!
//! In every cell of the matrix content arrives as it was sent (SHA-256), no counter of wrong checksums moves in either
//! kernel, iperf3 agrees as a second generator, frames are as large as the cell says, and nothing is left or complained of
//! when the forwarder ends.
//!
//! Runs a cover of all pairs of settings with 16 MiB a transfer (4 MiB if this test itself was not built in release mode, in
//! which hashing is slow); with the variable `FULL` set, all cells with 256 MiB. `MIB` sets how much a transfer is, and
//! `CELLS` which cells are run, for instance `12..24`. What it prints is a table in Markdown. Needs root; without it says
//! `SKIPPED`, and fails where the variable `CI` is set. `tests/offload_matrix.md` has the table of the last full run.
//!
//! The forwarder is built by cargo, in release mode; `NETVSC_L2FWD_BIN` names another.
#![cfg(target_os = "linux")]

use std::fmt;
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use netvsc_tests::netns::{LinkCounters, Netns};
use netvsc_tests::transfer::{Protocol, Transfer};
use netvsc_tests::{process, real};
use serde_json::Value;

/// After so long something hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// Largest frame at the usual MTU.
const USUAL_FRAME: u64 = 1514;
/// Names of the TAP interfaces.
const TAPS: [&str; 2] = ["nvmtxl", "nvmtxr"];
/// Addresses of the namespaces: documentation's (RFC 5737, RFC 3849).
const ADDRESSES: [[&str; 2]; 2] = [["198.51.100.1", "198.51.100.2"], ["2001:db8:51::1", "2001:db8:51::2"]];

/// What is asked of the host about checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Checksum {
    On,
    Off,
    /// A host of 2012 R2, which has TCP's only.
    Ws2012R2,
}

/// What the forwarder merges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gro {
    Off,
    Tcp,
    /// TCP, and UDP datagrams of one size: they are cut in software again, as hosts cut TCP only.
    All,
}

/// One combination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cell {
    checksum: Checksum,
    lso: bool,
    rsc: bool,
    gro: Gro,
    queues: u16,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = |on: bool| if on { "on" } else { "off" };
        let checksum = match self.checksum {
            Checksum::On => "on",
            Checksum::Off => "off",
            Checksum::Ws2012R2 => "2012 R2",
        };
        let gro = match self.gro {
            Gro::Off => "off",
            Gro::Tcp => "TCP",
            Gro::All => "TCP, UDP",
        };
        let [lso, rsc] = [self.lso, self.rsc].map(on);
        write!(f, "{checksum:7} | {lso:3} | {rsc:3} | {gro:8} | {}", self.queues)
    }
}

impl Cell {
    /// How many values each setting has.
    const SIZES: [usize; 5] = [3, 2, 2, 3, 2];

    fn new(values: [usize; 5]) -> Self {
        let [checksum, lso, rsc, gro, queues] = values;
        Self {
            checksum: [Checksum::On, Checksum::Off, Checksum::Ws2012R2][checksum],
            lso: lso == 1,
            rsc: rsc == 1,
            gro: [Gro::Off, Gro::Tcp, Gro::All][gro],
            queues: [1, 4][queues],
        }
    }

    /// Hosts merge segments, and this one tells of it.
    fn merges(&self) -> bool {
        self.rsc && self.checksum != Checksum::Ws2012R2
    }

    /// Frames longer than the MTU pass the forwarder.
    fn large(&self) -> bool {
        self.merges() || self.gro != Gro::Off
    }

    /// The host cuts large frames: whoever does so computes their checksums as well.
    fn cuts(&self) -> bool {
        self.lso && self.checksum != Checksum::Off
    }

    fn arguments(&self) -> Vec<String> {
        let on = |on: bool| if on { "on" } else { "off" };
        let profile = if self.checksum == Checksum::Ws2012R2 { "ws2012r2" } else { "ws2022" };
        let (queues, checksum) = (self.queues.to_string(), on(self.checksum != Checksum::Off));
        let arguments = ["--tap", TAPS[0], "--tap", TAPS[1], "--queues", &queues, "--profile", profile];
        let [lso, rsc] = [self.lso, self.rsc].map(on);
        let [gro, udp] = [self.gro != Gro::Off, self.gro == Gro::All].map(on);
        // As if the forwarder had changed frames: then checksums have to be computed.
        let sums = ["--checksums", "compute", "--tx-checksum", checksum];
        let large = ["--lso", lso, "--rsc", rsc, "--gro", gro, "--gro-udp", udp];
        let running = ["--wait", "interrupt", "--seconds", "0", "--json"];
        [&arguments[..], &sums, &large, &running].concat().into_iter().map(String::from).collect()
    }
}

/// All combinations of so many values.
fn all(sizes: &[usize]) -> Vec<Vec<usize>> {
    sizes.iter().fold(vec![vec![]], |rows, size| {
        rows.iter().flat_map(|row| (0..*size).map(move |value| [&row[..], &[value]].concat())).collect()
    })
}

/// Pairs of values of two settings in a row: setting, value, setting, value.
fn pairs(row: &[usize]) -> impl Iterator<Item = [usize; 4]> + '_ {
    (0..row.len()).flat_map(move |b| (0..b).map(move |a| [a, row[a], b, row[b]]))
}

/// Few rows that have every pair of values: greedily, each time the row that has most new ones.
fn cover(sizes: &[usize]) -> Vec<Vec<usize>> {
    let rows = all(sizes);
    let mut open: std::collections::BTreeSet<[usize; 4]> = rows.iter().flat_map(|row| pairs(row)).collect();
    let mut cover = Vec::new();
    while !open.is_empty() {
        let new = |row: &Vec<usize>| pairs(row).filter(|pair| open.contains(pair)).count();
        // The first of the best, so that it is the same every time.
        let best = rows.iter().rev().max_by_key(|row| new(row)).expect("there are rows").clone();
        open.retain(|open| pairs(&best).all(|pair| pair != *open));
        cover.push(best);
    }
    cover
}

/// The forwarder, running.
struct Forwarder {
    child: Child,
}

impl Forwarder {
    fn start(machine: &Netns, program: &PathBuf, cell: &Cell) -> Self {
        let mut command = Command::new(program);
        command.args(cell.arguments()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = machine.enter(|| command.spawn()).expect("starts");
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let forwarder = Self { child };
        // It says so of each adapter. An interface that is moved before would not get all of its queues.
        let mut said = stderr.lines().map_while(Result::ok);
        let up = said.by_ref().filter(|line| line.contains(" is up")).take(TAPS.len()).count();
        assert_eq!(up, TAPS.len(), "the forwarder ended early");
        std::thread::spawn(move || said.for_each(|line| eprintln!("l2fwd: {line}")));
        forwarder
    }

    /// Interrupts it as Ctrl-C does; its last line.
    fn finish(mut self) -> Value {
        let done = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
        assert!(done.is_ok_and(|status| status.success()), "kill");
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait().expect("our child").is_none() {
            assert!(Instant::now() < deadline, "still running after an interrupt");
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut said = String::new();
        let mut stdout = self.child.stdout.take().expect("piped");
        std::io::Read::read_to_string(&mut stdout, &mut said).expect("text");
        let status = self.child.wait().expect("our child");
        assert!(status.success(), "{status}: {said}");
        serde_json::from_str(said.lines().last().expect("a last line")).expect("one JSON object")
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What was moved in a cell.
struct Moved {
    bytes: u64,
    time: Duration,
    repeated: u64,
}

/// Content in both directions at a time, each protocol over each version of IP.
fn transfers(ends: &[Netns; 2], bytes: usize) -> Moved {
    let start = Instant::now();
    let (mut moved, mut repeated) = (0, 0);
    for (version, addresses) in ADDRESSES.iter().enumerate() {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            std::thread::scope(|scope| {
                let ways = [0, 1].map(|from| {
                    let to = 1 - from;
                    let address: IpAddr = addresses[to].parse().expect("an address");
                    let seed = (version * 4 + from) as u64;
                    let transfer = Transfer { from: &ends[from], to: &ends[to], address, protocol, bytes, seed };
                    scope.spawn(move || {
                        transfer.run().unwrap_or_else(|error| panic!("{protocol:?} to {address}: {error}"))
                    })
                });
                for way in ways {
                    let arrived = way.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                    repeated += arrived.repeated;
                    moved += bytes as u64;
                }
            });
        }
    }
    Moved { bytes: moved, time: start.elapsed(), repeated }
}

/// The second generator: `kind` chooses protocol and version of IP.
fn iperf3(ends: &[Netns; 2], kind: usize, bytes: usize) {
    let address = ADDRESSES[kind / 2 % 2][1];
    let server = ends[1].start("iperf3", &["-s", "-1", "-B", address]).expect("starts");
    let deadline = Instant::now() + PATIENCE;
    while !ends[1].run("ss", &["-Hltn", "sport = :5201"]).expect("ss").contains("5201") {
        assert!(Instant::now() < deadline, "iperf3 does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    let udp = kind % 2 == 1;
    // It has no flow control with UDP: little, and slow.
    let bytes = if udp { bytes.min(4 << 20) } else { bytes }.to_string();
    let mut arguments = vec!["-c", address, "-n", &bytes, "--json"];
    if udp {
        arguments.extend(["-u", "-b", "50M", "-l", "1400"]);
    }
    let said = ends[0].run("iperf3", &arguments).expect("iperf3");
    let report: Value = serde_json::from_str(&said).expect("json");
    let end = &report["end"];
    assert!(report["error"].is_null(), "{said}");
    if udp {
        // How much is lost depends on how busy the machine is.
        let [sent, lost] = ["packets", "lost_packets"].map(|name| end["sum"][name].as_u64().expect("a number"));
        assert!(lost < sent, "all of iperf3's {sent} datagrams were lost");
    } else {
        // It ends by what it has sent; some of that is still on its way.
        assert!(end["sum_received"]["bytes"].as_u64().is_some_and(|received| received > 0), "{said}");
    }
    server.finish().expect("iperf3's server");
}

/// One cell from beginning to end.
fn run(cell: &Cell, number: usize, program: &PathBuf, bytes: usize) -> String {
    let [machine, left, right] = [(); 3].map(|()| Netns::new().expect("root makes namespaces"));
    let ends = [left, right];
    let forwarder = Forwarder::start(&machine, program, cell);
    for (at, (netns, tap)) in ends.iter().zip(TAPS).enumerate() {
        machine.enter(|| netns.adopt(tap)).expect("the interface moves");
        netns.ip(&format!("addr add {}/24 dev {tap}", ADDRESSES[0][at])).expect("an address");
        netns.ip(&format!("addr add {}/64 dev {tap} nodad", ADDRESSES[1][at])).expect("an address");
        netns.ip(&format!("link set {tap} up")).expect("up");
    }
    reachable(&ends);
    let errors = || ends.each_ref().map(|end| end.checksum_errors().expect("nstat"));
    let counters = || [0, 1].map(|at| ends[at].link_counters(TAPS[at]).expect("counters"));
    let (errors_before, counters_before) = (errors(), counters());
    let moved = transfers(&ends, bytes);
    // Another kind for neighbours, and for those that differ by a setting of two or of four values.
    iperf3(&ends, number + number / 4, bytes);
    assert_eq!(errors(), errors_before, "{cell}: the kernel found wrong checksums");
    let seen = [0, 1].map(|at| counters()[at].since(counters_before[at]));
    let summary = forwarder.finish();
    assert_eq!(summary["clean"], true, "{cell}: {summary}");
    assert_eq!(summary["queues"], cell.queues);
    let sizes = check(cell, &seen, &summary);
    let rate = moved.bytes as f64 * 8e-6 / moved.time.as_secs_f64();
    format!("| {cell} | {rate:.0} | {} | {sizes} |", moved.repeated)
}

/// The forwarder's adapters come up a moment after its interfaces.
fn reachable(ends: &[Netns; 2]) {
    let deadline = Instant::now() + PATIENCE;
    for addresses in ADDRESSES {
        while ends[0].run("ping", &["-c", "1", "-W", "1", addresses[1]]).is_err() {
            assert!(Instant::now() < deadline, "{} cannot be reached through the forwarder", addresses[1]);
        }
    }
}

/// Who computed what, and how large frames were, is what the cell says.
fn check(cell: &Cell, seen: &[LinkCounters; 2], summary: &Value) -> String {
    let each = |list: &str, name: &str| {
        [0, 1].map(|at| summary[list][at][name].as_u64().unwrap_or_else(|| panic!("no {name} in {summary}")))
    };
    let all = |values: [u64; 2], wanted: bool, what: &str| {
        assert!(values.iter().all(|value| (*value > 0) == wanted), "{cell}: {what} {values:?}, expected: {wanted}");
    };
    // Frames are read as the kernel sent them, some large: hosts cut those, or tell the guest of them.
    all(each("taps", "read_large"), true, "large frames from the kernel");
    all(each("adapters", "rx_coalesced"), cell.merges(), "merged frames received");
    let merged = summary["merged"].as_u64().expect("a number");
    // Where the host merges there may be nothing left to do.
    if !(cell.gro == Gro::Tcp && cell.merges()) {
        assert_eq!(merged > 0, cell.gro != Gro::Off, "{cell}: {merged} segments merged here");
    }
    let largest = each("directions", "largest");
    assert!(
        largest.iter().all(|largest| (*largest > USUAL_FRAME) == cell.large()),
        "{cell}: {largest:?} bytes passed on"
    );
    // What is large is cut by the host, or before.
    all(each("adapters", "tx_lso"), cell.large() && cell.cuts(), "frames left to the host to be cut");
    all(each("taps", "written_large"), cell.large() && cell.cuts(), "large frames to the kernel");
    // No host cuts datagrams.
    if cell.gro == Gro::All {
        all(each("adapters", "tx_cut"), true, "datagrams cut in software");
    }
    if !cell.cuts() {
        all(each("adapters", "tx_cut"), cell.large(), "frames cut in software");
        let mean = seen.map(|seen| seen.rx_bytes / seen.rx_packets.max(1));
        assert!(mean.iter().all(|mean| *mean <= USUAL_FRAME), "{cell}: {mean:?} bytes a packet at the ends");
    }
    // Each protocol by who can.
    all(each("adapters", "tx_checksum_host"), cell.checksum != Checksum::Off, "checksums left to the host");
    all(each("adapters", "tx_checksum_software"), cell.checksum != Checksum::On, "checksums computed in software");
    for what in ["bad_coalesced", "tx_failed"] {
        all(each("adapters", what), false, what);
    }
    let [to_host, here] = ["tx_lso", "tx_cut"].map(|name| each("adapters", name));
    let pair = |[left, right]: [u64; 2]| format!("{left} / {right}");
    format!("{} | {} | {}", pair(largest), pair(to_host), pair(here))
}

#[test]
fn content_arrives_under_all_offloads() {
    let Some(_lock) = real::privileged_or_skip(&["ip", "iperf3", "nstat", "ping", "ss"]) else { return };
    let program = process::example("l2fwd");
    let full = std::env::var_os("FULL").is_some();
    let (rows, mib) = if full {
        (all(&Cell::SIZES), 256)
    } else {
        (cover(&Cell::SIZES), if cfg!(debug_assertions) { 4 } else { 16 })
    };
    let mib = std::env::var("MIB").map_or(mib, |mib| mib.parse().expect("MIB is a number"));
    let range = std::env::var("CELLS").map_or(0..rows.len(), |range| cells(&range).expect("CELLS is like 12..24"));
    let bytes = mib << 20;
    let start = Instant::now();
    println!(
        "| cell | checksum | LSO | RSC | GRO | queues | Mbit/s | datagrams repeated | largest | cut by the host | cut here |"
    );
    println!("|{}", "---|".repeat(11));
    for (number, row) in rows.iter().enumerate().filter(|(number, _)| range.contains(number)) {
        let cell = Cell::new(row[..].try_into().expect("as many as there are settings"));
        println!("| {number} {}", run(&cell, number, &program, bytes));
    }
    println!("\n{range:?} of {} cells with {mib} MiB a transfer in {:?}", rows.len(), start.elapsed());
}

/// A range as Rust writes it.
fn cells(text: &str) -> Option<Range<usize>> {
    let (start, end) = text.split_once("..")?;
    Some(start.parse().ok()?..end.parse().ok()?)
}

#[test]
fn the_cover_has_every_pair() {
    let cover = cover(&Cell::SIZES);
    for pair in all(&Cell::SIZES).iter().flat_map(|row| pairs(row)) {
        assert!(cover.iter().any(|row| pairs(row).any(|has| has == pair)), "{pair:?}");
    }
    assert!(cover.len() <= 9, "{} cells", cover.len());
}
