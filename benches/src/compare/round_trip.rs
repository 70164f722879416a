//! How long a cache line takes to the other processor and back: which two of the machine's processors these are today.

use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::Context;
use core_affinity::CoreId;

use super::report::median;

/// Times there and back, the median of which counts: who is interrupted now and then does not change it.
const SAMPLES: u64 = 50;
/// Turns in each.
const TURNS: u64 = 2000;

/// Where the two ends run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Processors {
    /// The other end.
    pub host: usize,
    /// What is measured.
    pub client: usize,
}

impl FromStr for Processors {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let both = text.split_once(',').and_then(|(host, client)| Some((host.parse().ok()?, client.parse().ok()?)));
        match both {
            Some((host, client)) if host != client => Ok(Self { host, client }),
            _ => Err("two different numbers are needed: HOST,CLIENT".into()),
        }
    }
}

/// A cache line of its own.
#[repr(align(128))]
struct Line(AtomicU64);

/// The processor of this number.
///
/// # Errors
/// If this process may not run there.
pub fn core(id: usize) -> anyhow::Result<CoreId> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    cores.into_iter().find(|core| core.id == id).with_context(|| format!("processor {id} cannot be used"))
}

/// Nanoseconds.
///
/// # Errors
/// If one of the processors cannot be used.
pub fn measure(processors: Processors) -> anyhow::Result<f64> {
    let (first, second) = (core(processors.host)?, core(processors.client)?);
    let ball = Line(AtomicU64::new(0));
    // Threads of their own: this one is not to be bound to a processor.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            core_affinity::set_for_current(second);
            for turn in 0..SAMPLES * TURNS {
                wait(&ball, 2 * turn + 1);
                ball.0.store(2 * turn + 2, Ordering::Release);
            }
        });
        let server = scope.spawn(|| {
            core_affinity::set_for_current(first);
            let samples = (0..SAMPLES).map(|sample| {
                let start = Instant::now();
                for turn in sample * TURNS..(sample + 1) * TURNS {
                    ball.0.store(2 * turn + 1, Ordering::Release);
                    wait(&ball, 2 * turn + 2);
                }
                start.elapsed().as_secs_f64() * 1e9 / TURNS as f64
            });
            median(samples)
        });
        server.join().map_err(|_| anyhow::anyhow!("the measuring thread panicked"))
    })
}

fn wait(ball: &Line, value: u64) {
    while ball.0.load(Ordering::Acquire) != value {
        std::hint::spin_loop();
    }
}
