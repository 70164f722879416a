//! How long a row is measured: short, so that all of them together take about two minutes.

use std::time::Duration;

use criterion::Criterion;

/// Half a second to warm up, one to measure.
pub(crate) fn short() -> Criterion {
    Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args()
}
