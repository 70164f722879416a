//! A whole NIC on a host that does what the input says.
#![no_main]

use libfuzzer_sys::fuzz_target;
use netvsc_hostile::{Bytes, nic};

fuzz_target!(|bytes: &[u8]| nic::run(&mut Bytes::new(bytes)));
