//! The port that swallows every frame.

use core::time::Duration;

use super::{Frame, Port};

/// Accepts every frame, keeps none, sends none.
#[derive(Clone, Copy, Debug, Default)]
pub struct NullPort;

impl Port for NullPort {
    fn deliver(&mut self, _frame: Frame<'_>) -> bool {
        true
    }

    fn poll(&mut self, _now: Duration, _budget: usize, _out: &mut dyn FnMut(Frame<'_>)) -> usize {
        0
    }
}
