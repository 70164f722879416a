//! The control machine.
mod event;
mod failure;

pub use event::{CloseReport, Event, RequestHandle};
pub use failure::{Cause, FewSections, RequestError, Step, Violation};
