//! A whole NIC on a host that answers rightly, wrongly, or not at all.
//!
//! [`Session`] owns both: the driver ([`netvsc::Nic`] and its queue) and the other side of its bus, rings and buffers. A
//! [`Step`] is one thing that host or guest does; after each the driver has its turn. Steps come from a fuzzer's bytes
//! ([`run`]) or from a seed ([`crate::seeded`]).
//!
//! | file | has |
//! |---|---|
//! | `bus` | the bus: memory, events, rings, all reachable from the other side |
//! | `host` | what a right answer would be |
//! | `session` | carrying out steps, and what must hold after each |
//! | `step` | what there is to do, and how bytes become that |

mod bus;
mod host;
mod session;
mod step;

pub use bus::{HostileBus, Ring};
pub use session::{Session, Settings};
pub(crate) use step::forged;
pub use step::{Edit, Id, Step};

use crate::Bytes;

/// A session driven by a fuzzer's bytes.
pub fn run(input: &mut Bytes<'_>) {
    let Some(settings) = Settings::decode(input) else { return };
    let mut session = Session::new(settings);
    while let Some(step) = Step::decode(input) {
        session.step(&step);
        if session.is_over() {
            return;
        }
    }
    session.finish();
}
