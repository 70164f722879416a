//! The control plane: its parser on odd inputs, the guest's state machine on even ones.
#![no_main]

use libfuzzer_sys::fuzz_target;
use netvsc_hostile::{Bytes, client, parsers};

fuzz_target!(|bytes: &[u8]| {
    match bytes {
        [part, rest @ ..] if part % 2 == 1 => parsers::vmbus_message(rest),
        [_, rest @ ..] => client::run(&mut Bytes::new(rest)),
        [] => {}
    }
});
