//! A simulated Hyper-V host as a process: its NICs as `uio_hv_generic` devices for unmodified clients.
#![forbid(unsafe_code)]

mod vf;

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use netvsc_host::export::{
    ClosedLoopConfig, ClosedLoopHandle, ClosedLoopPort, DeviceReport, Export, ExportOptions, Kernel, Traffic,
};
use netvsc_host::port::{
    GeneratorConfig, GeneratorPort, LoopbackPort, PcapPort, Port, SinkCounters, SinkPort, TapConfig, TapPort,
};
use netvsc_host::profile::VlanTags;
use netvsc_host::switch::{PortOptions, SwitchConfig};
use netvsc_host::vf::{ServicingThread, VethVfs};
use netvsc_host::{Host, NicId, NicOptions, Profile};
use serde_json::json;
use vf::VfChoice;

type Failure = Box<dyn std::error::Error>;

/// A simulated Hyper-V host whose NICs other processes use as if the Linux driver uio_hv_generic had them.
///
/// Below DIR it writes what sysfs has of a VMBus device, and a socket for each device file. A client runs with a preloaded
/// library that turns /sys/bus/vmbus and /dev/uioN into these (vmbus_uio_shim.so in tests/dpdk of this project):
///
///     netvsc-host --root /dev/shm/host --port loopback --credit 256 &
///     VMBUS_SHIM_ROOT=/dev/shm/host LD_PRELOAD=vmbus_uio_shim.so CLIENT
///
/// Neither Hyper-V nor root privilege is needed (but for --port tap). Clients come and go, and may be killed at any
/// moment. SIGINT or SIGTERM ends the host.
#[derive(Debug, Parser)]
#[command(version, verbatim_doc_comment, max_term_width = 100)]
struct Arguments {
    /// Directory to export the devices in: on a tmpfs, with a short name
    #[arg(long, value_name = "DIR")]
    root: PathBuf,

    /// How many devices. With --port tap all are on one switch with the interface, otherwise each has a port of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    devices: u16,

    /// Most queues of a device: its primary channel and the subchannels that a client may ask for
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    queues: u16,

    /// Windows release to behave as: ws2012r2, ws2016, ws2019 or ws2022
    #[arg(long, value_name = "NAME", default_value_t = Profile::default())]
    profile: Profile,

    /// Highest NVSP version to accept: 1, 2, 4, 5, 6 or 6.1 [default: the profile's]
    #[arg(long, value_name = "VERSION", value_parser = nvsp_version)]
    nvsp_max: Option<nvsp::Version>,

    /// Offer checksums on transmit: the host computes what a client asks for. Without, there is no segmentation either
    /// [default: the profile's: on, of UDP from ws2016 on]
    #[arg(long, value_name = "on|off", value_parser = switch, action = clap::ArgAction::Set)]
    tx_checksum: Option<bool>,

    /// The same as --tx-checksum on
    #[arg(long, conflicts_with = "tx_checksum")]
    checksum_offload: bool,

    /// Offer segmentation on transmit (LSO) [default: on]
    #[arg(long, value_name = "on|off", value_parser = switch, action = clap::ArgAction::Set)]
    lso: Option<bool>,

    /// Offer coalescing on receive (RSC), with NVSP 6.1 [default: on]
    #[arg(long, value_name = "on|off", value_parser = switch, action = clap::ArgAction::Set)]
    rsc: Option<bool>,

    /// VLAN tags to a client: beside the frame, in the frame, or off: tagged frames do not pass either way
    #[arg(long, value_name = "beside|in-frame|off", value_parser = vlan_tags, default_value = "beside")]
    vlan: VlanTags,

    /// Where frames go: loopback, null, tap:NAME[,OPTION...], generator:RATE_PPS,SIZE or pcap:FILE
    ///
    /// loopback sends every frame back with its addresses swapped; with --credit the host sends frames, and checks what
    /// the client forwards. null counts frames. tap:NAME is a new interface of this machine; its options are queues=N,
    /// mtu=N, vnet_hdr (the kernel's large frames and unfinished checksums come as they are, and go to it as they are)
    /// and, with that, large=off (frames go to it as on a wire). generator sends numbered frames at a rate. pcap plays a
    /// capture file, once for each device.
    #[arg(long, value_name = "PORT", verbatim_doc_comment)]
    port: PortChoice,

    /// A virtual function of each device, and what happens to it: veth:NAME[,OPTION...]. Needs CAP_NET_ADMIN and CAP_NET_RAW
    ///
    /// A veth pair is made as a VF: the interface NAME has the device's MAC address and is the client's, NAMEh is the
    /// host's. With several devices their numbers follow NAME. Options: scenes=A+B... what happens, by chance: orderly,
    /// surprise, refusal, silence, ignorance, double-offer, mid-switch, migration, withdrawal [default: none, it comes and
    /// stays]; cycles=N how many [10]; seed=N [1]; serial=N of the first [1]; in milliseconds, N or N-M: period, how long it
    /// is in use before the next [50-200], grace, how long the interface stays after it was revoked [0-500], away, how long
    /// it is away [0-100], unwilling, how long the host refuses or is silent [0-500]; netns=NAME where the client's end
    /// goes; mtu=N [1500]. The host is to be ended by a signal that it hears of, or the last pair stays.
    #[arg(long, value_name = "VF", verbatim_doc_comment)]
    vf: Option<VfChoice>,

    /// With --port loopback: keep N frames under way in a closed loop, and check each that comes back
    #[arg(long, value_name = "N")]
    credit: Option<usize>,

    /// With --credit: bytes of a frame, without frame check sequence
    #[arg(long, value_name = "BYTES", default_value_t = 64)]
    packet_size: usize,

    /// With --credit: how many flows, which a host spreads over the queues [default: 8 for each queue]
    #[arg(long, value_name = "N")]
    flows: Option<usize>,

    /// With --credit: frames of ethernet, udp or tcp
    #[arg(long, value_name = "KIND", default_value = "udp", value_parser = traffic)]
    traffic: Traffic,

    /// Kernel whose uio_hv_generic is played: a (to about Linux 6.9), b (6.10), c (6.16), d (6.18) or bd
    ///
    /// They differ in who writes the interrupt mask of a ring, and in what a write to the device file unmasks and signals.
    #[arg(long, value_name = "KERNEL", default_value_t = Kernel::default())]
    kernel: Kernel,

    /// Channels without monitors: clients signal by write, not by a bit in shared memory
    #[arg(long)]
    unmonitored: bool,

    /// Run on this processor only
    #[arg(long, value_name = "N")]
    cpu: Option<usize>,

    /// The last line is one JSON object, with what became of each device
    #[arg(long)]
    json: bool,

    /// No line of statistics each second
    #[arg(long)]
    quiet: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum PortChoice {
    Loopback,
    Null,
    Tap(Tap),
    Generator { rate: u64, size: usize },
    Pcap(PathBuf),
}

/// A TAP interface, and its options.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Tap {
    name: String,
    queues: u16,
    mtu: Option<u16>,
    vnet_hdr: bool,
    large_writes: bool,
}

impl Tap {
    fn config(&self) -> TapConfig {
        let config = TapConfig::new().name(self.name.as_str()).queues(self.queues).vnet_hdr(self.vnet_hdr);
        let config = config.large_writes(self.large_writes);
        self.mtu.map_or(config.clone(), |mtu| config.mtu(mtu))
    }
}

impl FromStr for Tap {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let name = parts.next().filter(|name| !name.is_empty()).ok_or("tap:NAME is needed")?;
        let mut tap = Self { name: name.into(), queues: 1, mtu: None, vnet_hdr: false, large_writes: true };
        for option in parts {
            let (key, value) = option.split_once('=').unwrap_or((option, "on"));
            let number = || value.parse().map_err(|_| format!("tap: {option}: a number is needed"));
            match key {
                "queues" => tap.queues = number()?,
                "mtu" => tap.mtu = Some(number()?),
                "vnet_hdr" => tap.vnet_hdr = switch(value).map_err(|error| format!("tap: {option}: {error}"))?,
                "large" => tap.large_writes = switch(value).map_err(|error| format!("tap: {option}: {error}"))?,
                _ => return Err(format!("tap: {option} is none of queues=N, mtu=N, vnet_hdr and large=on|off")),
            }
        }
        if !(1..=64).contains(&tap.queues) {
            return Err(format!("tap: queues={} is not within 1 and 64", tap.queues));
        }
        Ok(tap)
    }
}

impl FromStr for PortChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        match (kind, rest) {
            ("loopback", "") => Ok(Self::Loopback),
            ("null", "") => Ok(Self::Null),
            ("tap", tap) => tap.parse().map(Self::Tap),
            ("pcap", file) if !file.is_empty() => Ok(Self::Pcap(file.into())),
            ("generator", numbers) => {
                let wrong = || format!("generator:{numbers}: generator:RATE_PPS,SIZE is needed, two numbers");
                let (rate, size) = numbers.split_once(',').ok_or_else(wrong)?;
                let rate = rate.parse().map_err(|_| wrong())?;
                Ok(Self::Generator { rate, size: size.parse().map_err(|_| wrong())? })
            }
            _ => Err("none of loopback, null, tap:NAME, generator:RATE_PPS,SIZE and pcap:FILE".into()),
        }
    }
}

fn nvsp_version(text: &str) -> Result<nvsp::Version, String> {
    match text {
        "1" | "1.0" => Ok(nvsp::Version::V1),
        "2" | "2.0" => Ok(nvsp::Version::V2),
        "4" | "4.0" => Ok(nvsp::Version::V4),
        "5" | "5.0" => Ok(nvsp::Version::V5),
        "6" | "6.0" => Ok(nvsp::Version::V6),
        "6.1" => Ok(nvsp::Version::V6_1),
        _ => Err("none of 1, 2, 4, 5, 6 and 6.1".into()),
    }
}

fn switch(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("neither on nor off".into()),
    }
}

fn vlan_tags(text: &str) -> Result<VlanTags, String> {
    match text {
        "beside" => Ok(VlanTags::PerPacketInfo),
        "in-frame" => Ok(VlanTags::InFrame),
        "off" => Ok(VlanTags::Refused),
        _ => Err("none of beside, in-frame and off".into()),
    }
}

fn traffic(text: &str) -> Result<Traffic, String> {
    match text {
        "ethernet" => Ok(Traffic::Ethernet),
        "udp" => Ok(Traffic::Udp),
        "tcp" => Ok(Traffic::Tcp),
        _ => Err("none of ethernet, udp and tcp".into()),
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = error.to_string();
            let mut source = error.source();
            while let Some(error) = source {
                text += &format!(": {error}");
                source = error.source();
            }
            eprintln!("netvsc-host: {text}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    if arguments.credit.is_some() && arguments.port != PortChoice::Loopback {
        return Err("--credit is for --port loopback".into());
    }
    if let Some(vf) = &arguments.vf {
        vf.check(arguments.devices)?;
    }
    if let Some(cpu) = arguments.cpu {
        let mut set = rustix::thread::CpuSet::new();
        if cpu >= rustix::thread::CpuSet::MAX_CPU {
            return Err(format!("--cpu {cpu}: there is no such processor").into());
        }
        set.set(cpu);
        rustix::thread::sched_setaffinity(None, &set).map_err(|error| format!("--cpu {cpu}: {error}"))?;
    }
    // One byte for each signal.
    let (stop, signalled) = UnixStream::pair()?;
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::low_level::pipe::register(signal, signalled.try_clone()?)?;
    }
    let options = ExportOptions::new(&arguments.root).kernel(arguments.kernel).monitored(!arguments.unmonitored);
    let mut export = Export::new(options)?;
    let (sinks, mut servicings) = plug(arguments, &mut export)?;
    let reports = export.reports();
    for report in &reports {
        eprintln!("device {} below {}", report.instance, arguments.root.display());
    }
    let mut before = (Duration::ZERO, reports);
    let mut failed: Option<Failure> = None;
    export.run(stop.as_fd(), Duration::from_secs(1), |export, now| {
        let reports = export.reports();
        if !arguments.quiet {
            let seconds = now.saturating_sub(before.0).as_secs_f64();
            for (number, (report, old)) in reports.iter().zip(&before.1).enumerate() {
                eprintln!("{number}: {}", progress(report, old, seconds));
            }
        }
        before = (now, reports);
        let failure = ended(&mut servicings).err();
        if failure.is_some() && failed.is_none() {
            failed = failure;
            // As if it were signalled.
            let _ = (&signalled).write_all(&[0]);
        }
    })?;
    for servicing in servicings.into_iter().flatten() {
        servicing.stop()?;
    }
    let reports = export.finish();
    if arguments.json {
        let corrupt = |number| sinks.get(number).map_or(0, |sink: &Arc<SinkCounters>| sink.corrupt());
        let devices: Vec<_> =
            reports.iter().enumerate().map(|(number, report)| summary(report, corrupt(number))).collect();
        println!("{}", json!({ "devices": devices }));
    }
    failed.map_or(Ok(()), Err)
}

/// Looks for scripts that have failed. One that is over keeps its device.
fn ended(servicings: &mut [Option<ServicingThread<VethVfs>>]) -> Result<(), Failure> {
    for servicing in servicings {
        if let Some(over) = servicing.take_if(|servicing| servicing.has_failed()) {
            over.join()?;
        }
    }
    Ok(())
}

/// What was plugged in: counters of sinks, and what plays with virtual functions.
type Plugged = (Vec<Arc<SinkCounters>>, Vec<Option<ServicingThread<VethVfs>>>);

/// Makes hosts, ports and devices.
fn plug(arguments: &Arguments, export: &mut Export) -> Result<Plugged, Failure> {
    let (mut sinks, mut servicings) = (Vec::new(), Vec::new());
    let mut service = |host: &Host, nic: NicId, mac: [u8; 6], number: u16| {
        if let Some(vf) = &arguments.vf {
            servicings.push(Some(vf.play((host, nic), mac, (number, arguments.devices))));
        }
    };
    let shared = match &arguments.port {
        PortChoice::Tap(tap) => {
            let host = host(arguments, false);
            let tap = TapPort::open(tap.config())?;
            host.try_add_port(tap, PortOptions::trunk())?;
            Some(host)
        }
        _ => None,
    };
    for number in 0..arguments.devices {
        let [high, low] = number.to_be_bytes();
        let mac = [0x00, 0x15, 0x5d, 0x01, high, low];
        let nic = NicOptions::new().mac(mac).queues(arguments.queues);
        match &shared {
            Some(host) => {
                export.add(host, nic, None)?;
                service(host, NicId(number.into()), mac, number);
            }
            None => {
                let host = host(arguments, true);
                if arguments.port == PortChoice::Null {
                    let sink = SinkPort::new();
                    sinks.push(sink.counters());
                    host.try_add_port(sink, PortOptions::trunk())?;
                    export.add(&host, nic, None)?;
                } else {
                    let (port, closed_loop) = port(arguments, mac)?;
                    host.try_add_port(port, PortOptions::trunk())?;
                    export.add(&host, nic, closed_loop)?;
                }
                service(&host, NicId(0), mac, number);
            }
        }
    }
    Ok((sinks, servicings))
}

fn host(arguments: &Arguments, cable: bool) -> Host {
    let mut builder = Host::builder().profile(arguments.profile).switch(SwitchConfig::default().cable(cable));
    builder = builder.vlan(arguments.vlan);
    if let Some(version) = arguments.nvsp_max {
        builder = builder.nvsp_max(version);
    }
    if let Some(on) = arguments.tx_checksum.or(arguments.checksum_offload.then_some(true)) {
        builder = builder.tx_checksum(on);
    }
    if let Some(on) = arguments.lso {
        builder = builder.lso(on);
    }
    if let Some(on) = arguments.rsc {
        builder = builder.rsc(on);
    }
    builder.build()
}

/// What is at the other end of a device's cable.
fn port(arguments: &Arguments, mac: [u8; 6]) -> Result<(Box<dyn Port>, Option<ClosedLoopHandle>), Failure> {
    let source = [0x02, 0, 0, 0, 0, 0x01];
    Ok(match &arguments.port {
        PortChoice::Loopback => match arguments.credit {
            None => (Box::new(LoopbackPort::new()), None),
            Some(credit) => {
                let config = ClosedLoopConfig {
                    destination: mac,
                    source,
                    credit,
                    frame_bytes: arguments.packet_size,
                    flows: arguments.flows.unwrap_or(8 * usize::from(arguments.queues)).min(250),
                    traffic: arguments.traffic,
                };
                let (port, handle) = ClosedLoopPort::new(config)?;
                (Box::new(port), Some(handle))
            }
        },
        PortChoice::Generator { rate, size } => {
            let config = GeneratorConfig::new(source, mac).packets_per_second(*rate).frame_bytes(*size);
            (Box::new(GeneratorPort::new(config)?.0), None)
        }
        PortChoice::Pcap(file) => (Box::new(PcapPort::open(file)?), None),
        PortChoice::Null | PortChoice::Tap(_) => (Box::new(SinkPort::new()), None),
    })
}

fn progress(report: &DeviceReport, old: &DeviceReport, seconds: f64) -> String {
    let rate = |now: u64, before: u64| (now - before) as f64 / seconds.max(1e-9) / 1e6;
    let (now, before) = (report.nic.counters, old.nic.counters);
    let client = if report.client { "client" } else { "no client" };
    let mut line = format!(
        "{client}, sessions {}, rx_packets {} ({:.3} Mpps), tx_packets {} ({:.3} Mpps), violations {}",
        report.sessions,
        now.tx_frames,
        rate(now.tx_frames, before.tx_frames),
        now.rx_frames,
        rate(now.rx_frames, before.rx_frames),
        report.protocol_violations,
    );
    if let Some(seen) = &report.closed_loop {
        let (returned, lost) = (seen.returned, seen.lost);
        line += &format!(", returned {returned}, lost {lost}, corrupt {}, reordered {}", seen.corrupt, seen.reordered);
    }
    line
}

/// "Receive" and "transmit" are the host's words here: from and to the client.
fn summary(report: &DeviceReport, corrupt: u64) -> serde_json::Value {
    let seen = report.closed_loop.unwrap_or_default();
    let counters = report.nic.counters;
    json!({
        "device": report.instance,
        "sessions": report.sessions,
        "nvsp_version": report.nic.nvsp_version.map(|version| version.to_string()),
        "rx_packets": counters.tx_frames,
        "rx_bytes": counters.tx_bytes,
        "tx_packets": counters.rx_frames,
        "tx_bytes": counters.rx_bytes,
        "tx_dropped": counters.rx_dropped + counters.rx_filtered,
        "returned": seen.returned,
        "lost": seen.lost,
        "flushed_before_start": seen.flushed_before_start,
        "in_flight_at_close": seen.in_flight_at_close,
        "corrupt": seen.corrupt + corrupt,
        "reordered": seen.reordered,
        "late": seen.late,
        "foreign": seen.foreign,
        "tx_checksums": counters.tx_checksums,
        "checksums_completed": counters.tx_checksums,
        "lso_frames": counters.lso_frames,
        "lso_segments": counters.lso_segments,
        "rsc_frames": counters.rsc_frames,
        "rsc_segments": counters.rsc_segments,
        "vf_rx_packets": counters.vf_tx_frames,
        "vf_tx_packets": counters.vf_rx_frames,
        "vf_messages": counters.vf_messages,
        "vf_lost": counters.vf_lost,
        "rx_vlan": counters.tx_vlan,
        "tx_vlan": counters.rx_vlan,
        "events": report.events,
        "protocol_violations": report.protocol_violations,
        "leaks": report.leaks,
        "held_at_close": report.held_at_close,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_the_command_line() {
        let tap = |text: &str| match text.parse() {
            Ok(PortChoice::Tap(tap)) => Some((tap.name, tap.queues, tap.mtu, tap.vnet_hdr, tap.large_writes)),
            _ => None,
        };
        assert_eq!(tap("tap:t0"), Some(("t0".into(), 1, None, false, true)));
        assert_eq!(tap("tap:t0,queues=4,vnet_hdr"), Some(("t0".into(), 4, None, true, true)));
        assert_eq!(tap("tap:t0,mtu=9000,vnet_hdr=on,large=off"), Some(("t0".into(), 1, Some(9000), true, false)));
        for wrong in ["tap:", "tap:t0,queues=0", "tap:t0,queues=x", "tap:t0,gro", "tap:t0,vnet_hdr=maybe", "tap:,mtu=1"]
        {
            assert_eq!(tap(wrong), None, "{wrong}");
        }
    }
}
