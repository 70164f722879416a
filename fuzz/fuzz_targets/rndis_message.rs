//! RNDIS control messages and the values in them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use netvsc_hostile::parsers;

fuzz_target!(|bytes: &[u8]| parsers::rndis_message(bytes));
