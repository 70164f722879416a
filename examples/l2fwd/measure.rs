//! What is counted and measured.

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::AddAssign;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use netvsc::stats::{ExtraStats, VfStats};
use netvsc_host::port::TapStats;
use serde_json::{Value, json};

use crate::Options;

/// What one queue's thread counts.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counters {
    /// Frames received, or sent by `txonly`.
    pub(crate) packets: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Frames received that could not be sent on.
    pub(crate) lost: u64,
    /// Cycles of the time stamp counter in polls that moved packets.
    pub(crate) cycles: u64,
    /// Bursts that `txonly` sent.
    pub(crate) bursts: u32,
    /// Allocations of the thread while it worked.
    pub(crate) allocations: u64,
    /// Largest frame that was sent, in bytes.
    pub(crate) largest: usize,
    /// Frames that were sent and are larger than Ethernet's usual 1514 bytes.
    pub(crate) large: u64,
}

/// Largest frame at the usual MTU.
const USUAL_FRAME: usize = 1514;

impl Counters {
    /// A frame of `len` bytes was sent.
    #[inline]
    pub(crate) fn sent(&mut self, len: usize) {
        self.bytes += len as u64;
        self.largest = self.largest.max(len);
        self.large += u64::from(len > USUAL_FRAME);
    }

    /// A frame was received that cannot be sent.
    pub(crate) fn lost(&mut self) {
        self.packets += 1;
        self.lost += 1;
    }

    fn json(&self) -> Value {
        let Self { packets, bytes, lost, largest, large, .. } = self;
        json!({ "packets": packets, "bytes": bytes, "lost": lost, "largest": largest, "large": large })
    }

    /// A frame of `len` bytes was received and sent on.
    #[inline]
    pub(crate) fn forwarded(&mut self, len: usize) {
        self.packets += 1;
        self.sent(len);
    }
}

impl AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.lost += other.lost;
        self.cycles += other.cycles;
        self.bursts = self.bursts.wrapping_add(other.bursts);
        self.allocations += other.allocations;
        self.largest = self.largest.max(other.largest);
        self.large += other.large;
    }
}

/// Measures a run.
#[derive(Debug)]
pub(crate) struct Meter {
    cpu: CpuTime,
    progress: Vec<Arc<AtomicU64>>,
    start: Moment,
    end: Moment,
    idle: Idle,
}

/// A moment of the process.
#[derive(Debug, Clone, Copy)]
struct Moment {
    at: Instant,
    cpu: Duration,
    packets: u64,
}

/// Sum of the intervals in which no packet came.
#[derive(Debug, Clone, Copy, Default)]
struct Idle {
    time: Duration,
    cpu: Duration,
}

/// How often it is looked whether packets come.
const INTERVAL: Duration = Duration::from_secs(1);
/// The same where their number ends the run, as long as some come.
const SHORT_INTERVAL: Duration = Duration::from_millis(1);

impl Meter {
    /// Starts; `progress` has the packets of each queue.
    pub(crate) fn start(progress: Vec<Arc<AtomicU64>>) -> io::Result<Self> {
        let mut cpu = CpuTime::open()?;
        let start = Moment::now(&mut cpu, &progress);
        Ok(Self { cpu, progress, start, end: start, idle: Idle::default() })
    }

    /// Waits for `time`, for so many packets of each queue, or for Ctrl-C.
    pub(crate) async fn run(&mut self, time: Duration, packets: Option<u64>) {
        let mut interval = if packets.is_some() { SHORT_INTERVAL } else { INTERVAL };
        self.start = Moment::now(&mut self.cpu, &self.progress);
        let (start, mut before) = (self.start, self.start);
        let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
        loop {
            let rest = time.saturating_sub(before.at.duration_since(start.at));
            let fewest = self.progress.iter().map(|queue| queue.load(Ordering::Relaxed)).min();
            if rest.is_zero() || packets.is_some_and(|packets| fewest >= Some(packets)) {
                break;
            }
            let interrupted = tokio::select! {
                () = tokio::time::sleep(rest.min(interval)) => false,
                // Where interrupts cannot be heard of, time still ends.
                heard = &mut interrupt => heard.is_ok(),
            };
            let now = Moment::now(&mut self.cpu, &self.progress);
            if now.packets == before.packets {
                self.idle.time += now.at.duration_since(before.at);
                self.idle.cpu += now.cpu.saturating_sub(before.cpu);
                interval = (interval * 2).min(INTERVAL);
            } else if packets.is_some() {
                interval = SHORT_INTERVAL;
            }
            before = now;
            if interrupted {
                break;
            }
        }
        self.end = before;
    }

    /// What was found, together with what the queues' threads have counted.
    pub(crate) fn finish(self, directions: Vec<Counters>) -> Summary {
        let mut counters = Counters::default();
        for direction in &directions {
            counters += *direction;
        }
        let (start, end) = (self.start, self.end);
        let time = end.at.duration_since(start.at);
        Summary {
            counters,
            directions,
            queue_packets: self.progress.iter().map(|queue| queue.load(Ordering::Relaxed)).collect(),
            time,
            rate: (end.packets - start.packets) as f64 / time.as_secs_f64(),
            cpu: end.cpu.saturating_sub(start.cpu).as_secs_f64() / time.as_secs_f64(),
            idle_cpu: (!self.idle.time.is_zero()).then(|| self.idle.cpu.as_secs_f64() / self.idle.time.as_secs_f64()),
            clean: false,
            adapters: Vec::new(),
            vfs: Vec::new(),
            merged: 0,
            taps: Vec::new(),
        }
    }
}

impl Moment {
    fn now(cpu: &mut CpuTime, progress: &[Arc<AtomicU64>]) -> Self {
        let packets = progress.iter().map(|queue| queue.load(Ordering::Relaxed)).sum();
        Self { at: Instant::now(), cpu: cpu.read(), packets }
    }
}

/// CPU time of this process, all threads: `utime` and `stime` of proc_pid_stat(5).
#[derive(Debug)]
struct CpuTime {
    stat: File,
    last: Duration,
}

/// Of `utime` and `stime`, counted from the field after the program's name.
const UTIME: usize = 11;
/// `USER_HZ`, which is 100 on every architecture that has VMBus.
const TICK: Duration = Duration::from_millis(10);

impl CpuTime {
    fn open() -> io::Result<Self> {
        Ok(Self { stat: File::open("/proc/self/stat")?, last: Duration::ZERO })
    }

    fn read(&mut self) -> Duration {
        let mut buffer = [0; 1024];
        // A file of the kernel's: if it could be opened, it can be read.
        let read = self.stat.read_at(&mut buffer, 0).unwrap_or(0);
        let text = std::str::from_utf8(&buffer[..read]).unwrap_or_default();
        if let Some((_, fields)) = text.rsplit_once(')') {
            let ticks =
                fields.split_ascii_whitespace().skip(UTIME).take(2).filter_map(|field| field.parse::<u32>().ok());
            self.last = TICK * ticks.sum();
        }
        self.last
    }
}

/// What a run has shown.
#[derive(Debug)]
pub(crate) struct Summary {
    counters: Counters,
    /// The same, each direction by itself.
    directions: Vec<Counters>,
    /// Packets of each queue's thread.
    queue_packets: Vec<u64>,
    time: Duration,
    /// Packets a second.
    rate: f64,
    /// Processors that the whole process kept busy.
    cpu: f64,
    /// The same for the seconds in which no packet came, if there were any.
    idle_cpu: Option<f64>,
    /// The adapter was closed with everything given back.
    pub(crate) clean: bool,
    /// What each adapter's queues counted.
    pub(crate) adapters: Vec<Vec<ExtraStats>>,
    /// What went by each adapter's virtual functions.
    pub(crate) vfs: Vec<VfStats>,
    /// Segments that were merged into others here.
    pub(crate) merged: u64,
    /// What each TAP interface counted.
    pub(crate) taps: Vec<TapStats>,
}

impl Summary {
    fn cycles_per_packet(&self) -> Option<f64> {
        (self.counters.packets > 0).then(|| self.counters.cycles as f64 / self.counters.packets as f64)
    }

    /// For scripts.
    pub(crate) fn json(&self, options: &Options) -> Value {
        json!({
            "mode": format!("{:?}", options.mode).to_lowercase(),
            "wait": format!("{:?}", options.wait).to_lowercase(),
            "queues": options.queues,
            "seconds": self.time.as_secs_f64(),
            "mpps": self.rate / 1e6,
            "cycles_per_packet": self.cycles_per_packet(),
            "packets": self.counters.packets,
            "bytes": self.counters.bytes,
            "lost": self.counters.lost,
            "largest": self.counters.largest,
            "large": self.counters.large,
            "queue_packets": self.queue_packets,
            "directions": self.directions.iter().map(Counters::json).collect::<Vec<_>>(),
            "allocations": self.counters.allocations,
            "syscalls": null,
            "cpu": self.cpu,
            "idle_cpu": self.idle_cpu,
            "clean": self.clean,
            "merged": self.merged,
            "adapters": self.adapters.iter().map(|queues| adapter(queues)).collect::<Vec<_>>(),
            "vfs": self.vfs.iter().map(vf).collect::<Vec<_>>(),
            "taps": self.taps.iter().map(tap).collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counters { packets, lost, allocations, .. } = self.counters;
        write!(f, "{packets} packets, {:.3} Mpps", self.rate / 1e6)?;
        if let Some(cycles) = self.cycles_per_packet() {
            write!(f, ", {cycles:.0} cycles a packet")?;
        }
        write!(f, ", {lost} lost, {allocations} allocations, {:.1} % CPU", self.cpu * 100.0)
    }
}

/// What an adapter did about checksums, large frames and those that were held.
fn adapter(queues: &[ExtraStats]) -> Value {
    let sum = |of: fn(&ExtraStats) -> u64| queues.iter().map(of).sum::<u64>();
    json!({
        "tx_checksum_host": sum(|queue| queue.tx_checksum_host),
        "tx_checksum_software": sum(|queue| queue.tx_checksum_software),
        "tx_lso": sum(|queue| queue.tx_lso),
        "tx_cut": sum(|queue| queue.tx_cut),
        "tx_failed": sum(|queue| queue.tx_failed),
        "rx_coalesced": sum(|queue| queue.rx_coalesced),
        "rx_held": sum(|queue| queue.rx_held),
        "rx_copied_watermark": sum(|queue| queue.rx_copied_watermark),
        "bad_coalesced": sum(|queue| queue.bad_coalesced),
    })
}

/// What went by virtual functions.
fn vf(stats: &VfStats) -> Value {
    json!({
        "rx_packets": stats.vf_rx_packets,
        "tx_packets": stats.vf_tx_packets,
        "rx_dropped": stats.vf_rx_dropped,
        "tx_dropped": stats.vf_tx_dropped,
    })
}

/// How large the frames were that the kernel sent and got.
fn tap(stats: &TapStats) -> Value {
    json!({
        "read": stats.read,
        "read_large": stats.read_large,
        "read_full": stats.read_full,
        "written": stats.written,
        "written_large": stats.written_large,
        "write_full": stats.write_full,
        "write_failed": stats.write_failed,
    })
}
