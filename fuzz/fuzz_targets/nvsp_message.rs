//! NVSP messages of both sides.
#![no_main]

use libfuzzer_sys::fuzz_target;
use netvsc_hostile::parsers;

fuzz_target!(|bytes: &[u8]| parsers::nvsp_message(bytes));
