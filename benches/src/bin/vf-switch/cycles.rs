//! The adapter and its host, and a virtual function that comes and goes.

use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use netvsc::meta::Path;
use netvsc_async::vf::{Settings, VfBackend};
use netvsc_async::{Event, Events, Nic};
use netvsc_host::vf::VfDevices;
use netvsc_host::{Host, NicId, NicOptions};
use vmbus::mem::MemBus;

use crate::flow::{Flow, Passed, Record};

/// The adapter's address, and so the function's.
pub(crate) const MAC: [u8; 6] = [0x00, 0x15, 0x5D, 2, 0, 0x0B];
const NIC: NicId = NicId(0);
/// How long things stay as they are, and how long silences are looked for.
const STAY: Duration = Duration::from_millis(20);
/// After so long something hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between looks.
const LOOK: Duration = Duration::from_millis(1);

/// One change of path.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Change {
    /// From the host's word to the first frame by the new path: received.
    pub(crate) received: Duration,
    /// The same: sent.
    pub(crate) sent: Duration,
    /// From the adapter's decision to the first frame that could be sent.
    pub(crate) told: Duration,
    /// The longest time without a frame: received, sent.
    pub(crate) silence: [Duration; 2],
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) to_vf: Vec<Change>,
    pub(crate) back: Vec<Change>,
    /// Longest times without a frame, where nothing changed.
    pub(crate) idle: Vec<[Duration; 2]>,
    /// Changes for which the old path was not empty in time.
    pub(crate) not_drained: u32,
    /// Received, and sent.
    pub(crate) frames: [usize; 2],
}

/// When the host said what, and what the adapter told of it.
#[derive(Debug)]
struct Word {
    at: Instant,
    to: Path,
    told: Duration,
}

/// Runs it.
pub(crate) async fn run<D>(cycles: u32, backend: impl VfBackend, mut devices: D) -> anyhow::Result<Outcome>
where
    D: VfDevices<Error: Display> + Send,
{
    let host = Host::builder().build();
    let far = host.memory_pair();
    let bus = MemBus::new(host.add_nic(NicOptions::new().mac(MAC)));
    let thread = host.spawn_thread();
    // A function that comes and goes all the time is what is wanted here, not something to be kept away from.
    let mut settings = Settings::default();
    settings.flaps_free = u32::MAX;
    let builder = Nic::builder().vf(backend).vf_settings(settings);
    let (nic, mut queues) = builder.open_on(bus).await.context("open an adapter")?;
    let nic = Arc::new(nic);
    let mut events = nic.events();
    let flow = Flow::start(&nic, queues.remove(0), far);
    tokio::time::sleep(STAY).await;
    let (mut words, mut calm, mut not_drained) = (Vec::new(), Vec::new(), 0);
    let failed = |error: D::Error| anyhow::anyhow!("{error}");
    for serial in 1..=cycles {
        devices.plug(&host, NIC, serial).map_err(failed)?;
        let at = Instant::now();
        host.associate_vf(NIC, serial);
        let (told, drained) = switched(&mut events, Path::VirtualFunction).await?;
        words.push(Word { at, to: Path::VirtualFunction, told });
        not_drained += u32::from(!drained);
        settle(&host, true).await?;
        tokio::time::sleep(2 * STAY).await;
        calm.push(Instant::now());
        tokio::time::sleep(STAY).await;
        let at = Instant::now();
        host.revoke_vf(NIC);
        let (told, drained) = switched(&mut events, Path::Synthetic).await?;
        words.push(Word { at, to: Path::Synthetic, told });
        not_drained += u32::from(!drained);
        settle(&host, false).await?;
        tokio::time::sleep(STAY).await;
        devices.unplug(&host, NIC, false).map_err(failed)?;
        tokio::time::sleep(STAY).await;
    }
    let record = tokio::task::spawn_blocking(|| flow.finish()).await??;
    let nic = Arc::into_inner(nic).context("nobody else has the adapter")?;
    ensure!(nic.close().await?.is_clean(), "not everything was given back");
    drop(thread);
    Ok(evaluate(&record, &words, &calm, not_drained))
}

/// Waits until the application's frames go by `to`: how long the adapter says that it took, and whether order was kept.
async fn switched(events: &mut Events, to: Path) -> anyhow::Result<(Duration, bool)> {
    let wait = async {
        loop {
            match events.next().await.context("the adapter is gone")? {
                Event::DatapathSwitched { to: told, drained, took } if told == to => return Ok((took, drained)),
                Event::VfUnavailable(why) => anyhow::bail!("{why}"),
                _ => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.with_context(|| format!("no switch to {to:?}"))?
}

/// Waits until the host's traffic is, or is not, on the function.
async fn settle(host: &Host, on_vf: bool) -> anyhow::Result<()> {
    let since = Instant::now();
    while host.vf_in_use(NIC) != on_vf {
        ensure!(since.elapsed() < PATIENCE, "the host does not follow");
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

fn evaluate(record: &Record, words: &[Word], calm: &[Instant], not_drained: u32) -> Outcome {
    let Record { received, sent, arrived } = record;
    let silences = |at| [silence(received, at), silence(arrived, at)];
    let changes = |to: Path| {
        let of = move |word: &Word| Change {
            received: first(received, word),
            sent: first(sent, word),
            told: word.told,
            silence: silences(word.at),
        };
        words.iter().filter(|word| word.to == to).map(of).collect()
    };
    Outcome {
        to_vf: changes(Path::VirtualFunction),
        back: changes(Path::Synthetic),
        idle: calm.iter().map(|at| silences(*at)).collect(),
        not_drained,
        frames: [received.len(), sent.len()],
    }
}

/// Time from the word to the first frame by the path that it leads to.
fn first(passed: &[Passed], word: &Word) -> Duration {
    let from = passed.partition_point(|frame| frame.at < word.at);
    let by_vf = word.to == Path::VirtualFunction;
    passed[from..].iter().find(|frame| frame.by_vf == by_vf).map_or(Duration::MAX, |frame| frame.at - word.at)
}

/// The longest time without a frame that begins or ends within [`STAY`] from `at` on.
fn silence(passed: &[Passed], at: Instant) -> Duration {
    let from = passed.partition_point(|frame| frame.at < at).saturating_sub(1);
    let pairs = passed[from..].windows(2).take_while(|pair| pair[0].at < at + STAY);
    pairs.map(|pair| pair[1].at - pair[0].at).max().unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_from_the_word_on_and_silences_reach_across_it() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let passed = [(0, false), (4, false), (11, false), (12, true), (13, false), (60, true)];
        let passed = passed.map(|(ms, by_vf)| Passed { at: at(ms), by_vf });
        let word = |to| Word { at: at(5), to, told: Duration::ZERO };
        assert_eq!(first(&passed, &word(Path::VirtualFunction)), Duration::from_millis(7));
        assert_eq!(first(&passed, &word(Path::Synthetic)), Duration::from_millis(6));
        assert_eq!(silence(&passed, at(5)), Duration::from_millis(47));
        assert_eq!(silence(&passed[..5], at(5)), Duration::from_millis(7));
    }
}
