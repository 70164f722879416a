//! How long a cache line takes to the other processor and back.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::Context;

const TIMES: u64 = 100_000;

/// A cache line of its own.
#[repr(align(128))]
struct Line(AtomicU64);

/// Nanoseconds, on average, between the first two processors.
pub(crate) fn measure() -> anyhow::Result<f64> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let (&first, &second) = cores.first().zip(cores.get(1)).context("two processors are needed")?;
    let ball = Line(AtomicU64::new(0));
    // Threads of their own: this one is not to be bound to a processor.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            core_affinity::set_for_current(second);
            for turn in 0..TIMES {
                wait(&ball, 2 * turn + 1);
                ball.0.store(2 * turn + 2, Ordering::Release);
            }
        });
        let server = scope.spawn(|| {
            core_affinity::set_for_current(first);
            let start = Instant::now();
            for turn in 0..TIMES {
                ball.0.store(2 * turn + 1, Ordering::Release);
                wait(&ball, 2 * turn + 2);
            }
            start.elapsed().as_secs_f64() * 1e9 / TIMES as f64
        });
        server.join().map_err(|_| anyhow::anyhow!("the measuring thread panicked"))
    })
}

fn wait(ball: &Line, value: u64) {
    while ball.0.load(Ordering::Acquire) != value {
        std::hint::spin_loop();
    }
}
