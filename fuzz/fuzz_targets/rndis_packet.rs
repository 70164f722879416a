//! The bytes of a range of the receive buffer, or of a send section.
#![no_main]

use libfuzzer_sys::fuzz_target;
use netvsc_hostile::parsers;

fuzz_target!(|bytes: &[u8]| parsers::rndis_packet(bytes));
