//! A ring whose other side writes anything anywhere: the consumer's role on odd inputs, the producer's on even ones.
#![no_main]

use libfuzzer_sys::fuzz_target;
use netvsc_hostile::{Bytes, ring};

fuzz_target!(|bytes: &[u8]| {
    let mut input = Bytes::new(bytes);
    match input.u8() {
        Some(role) if role % 2 == 1 => ring::consumer(&mut input),
        Some(_) => ring::producer(&mut input),
        None => {}
    }
});
