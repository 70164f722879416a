//! What the story does not tell.

use std::time::Duration;

use netvsc::control::{Cause, Step};
use netvsc::{Config, Event, Instant};
use nvsp::Version;

use super::{config, exchange, frame, story};
use crate::host::Options;
use crate::machine::Machine;
use crate::trace::Trace;

/// Echoes `count` frames of all sizes, in windows that the host's mirror holds; the trace's summary.
fn echo(count: u32) -> anyhow::Result<(u64, u64)> {
    let trace = Trace::new(false);
    let mut machine = Machine::new(config(), Options::default(), trace.clone())?;
    machine.bring_up()?;
    let frames: Vec<_> = (0..count).map(|number| frame(number, 60 + (number as usize * 37) % 8940)).collect();
    for window in frames.chunks(100) {
        exchange(&mut machine, window)?;
    }
    let stats = machine.queue()?.stats();
    assert_eq!((stats.tx.packets, stats.rx.packets), (count.into(), count.into()));
    assert!(stats.extra.tx_direct > 0 && stats.extra.tx_aggregates > 0, "both ways of sending were used");
    machine.close()?;
    assert!(machine.now() < Instant::new(Duration::from_secs(1)), "no deadline was waited for");
    Ok(trace.summary())
}

#[test]
fn ten_thousand_frames_come_back_as_they_were() {
    echo(10_000).unwrap();
}

#[test]
fn two_runs_are_the_same_to_the_last_line() {
    let run = || {
        let trace = Trace::new(false);
        story(&trace).unwrap();
        trace.summary()
    };
    assert_eq!(run(), run());
    assert_eq!(echo(1000).unwrap(), echo(1000).unwrap());
    assert_ne!(echo(1000).unwrap(), echo(1001).unwrap(), "another run has another hash");
}

#[test]
fn a_host_that_refuses_versions_gets_an_older_one() {
    for newest in Version::ALL {
        // Jumbo frames came with version 2.
        let options = Options { newest, ..Options::default() };
        let mut machine = Machine::new(config().mtu(1500), options, Trace::new(false)).unwrap();
        assert_eq!(machine.bring_up().unwrap().nvsp_version, newest);
        exchange(&mut machine, &[frame(1, 60), frame(2, 1514)]).unwrap();
        machine.close().unwrap();
    }
}

#[test]
fn a_host_without_any_version_is_a_failure_that_says_so() {
    let options = Options { newest: Version(1), ..Options::default() };
    let mut machine = Machine::new(config(), options, Trace::new(false)).unwrap();
    let end = machine.run_to_the_end().unwrap();
    let Event::Failed { step: Step::Negotiate, cause: Cause::NoVersion { .. }, report } = end else {
        panic!("{end:?}")
    };
    assert!(report.is_clean(), "{report:?}");
    machine.check_nothing_is_left().unwrap();
    assert!(machine.now() < Instant::new(Duration::from_secs(1)), "a refusal is not waited for");
}

#[test]
fn a_host_that_falls_silent_is_given_up_at_the_deadline() {
    let deadline = Duration::from_secs(30);
    // Packet 1 is the offer of a version; those after it give the buffers, initialize, and ask one thing after the other.
    for (answered, step) in [(0, Step::Negotiate), (3, Step::ShareReceiveBuffer), (5, Step::Initialize)] {
        let options = Options { silent_after: Some(answered), ..Options::default() };
        let config: Config = config().step_deadline(deadline);
        let mut machine = Machine::new(config, options, Trace::new(false)).unwrap();
        let end = machine.run_to_the_end().unwrap();
        let Event::Failed { step: failed, cause: Cause::TimedOut { .. }, report } = end else { panic!("{end:?}") };
        assert_eq!(failed, step, "after {answered} packets");
        assert_eq!(report.unreleased_buffers, 0, "the control plane still answers");
        assert!(machine.now() > Instant::new(deadline));
        machine.check_nothing_is_left().unwrap();
    }
}

#[test]
fn memory_that_is_not_there_is_a_failure_that_names_it() {
    // 16 MiB of receive buffer in 8 MiB of memory.
    let mut machine = Machine::new(Config::default(), Options::default(), Trace::new(false)).unwrap();
    let end = machine.run_to_the_end().unwrap();
    let Event::Failed { step: Step::AllocateReceiveBuffer, cause: Cause::NoMemory { bytes }, .. } = end else {
        panic!("{end:?}")
    };
    assert!(bytes > 8 << 20);
    machine.check_nothing_is_left().unwrap();
}
