//! Published and computed vectors of receive side scaling: hashes, classification of frames, table lookup.

mod packets;

use std::path::PathBuf;

use netvsc::rss::{RssKey, Toeplitz};
use netvsc::steering::{Flow, HashLevels, HashProtocol};
use netvsc::{HashLevel, TxSteering};
use rndis::rss::HashInfo;
use serde_json::Value;

use packets::{ACK, Description, Ip, Transport, ipv4, ipv6, payload, tcp};

fn vectors(name: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/toeplitz").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn hex(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap().as_bytes();
    text.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn hash(value: &Value) -> u32 {
    u32::from_str_radix(value.as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
}

fn key(value: &Value) -> RssKey {
    RssKey(hex(value).try_into().unwrap())
}

/// The definition, bit by bit.
fn naive(key: &RssKey, input: &[u8]) -> u32 {
    let bit = |bytes: &[u8], at: usize| bytes[at / 8] >> (7 - at % 8) & 1 == 1;
    let window = |at: usize| (0..32).fold(0, |word: u32, next| word << 1 | u32::from(bit(&key.0, at + next)));
    (0..input.len() * 8).filter(|at| bit(input, *at)).fold(0, |hash, at| hash ^ window(at))
}

#[test]
fn hashes_of_the_verification_suite_and_of_the_other_key() {
    let vectors = vectors("hash.json");
    let mut published = 0;
    let mut seen = 0;
    for vector in vectors["vectors"].as_array().unwrap() {
        let Some(key) = vector.get("key").map(key) else { continue };
        let toeplitz = Toeplitz::new(&key);
        for (input, expected) in [("input_l3_hex", "hash_l3"), ("input_l4_hex", "hash_l4")] {
            let (Some(input), Some(expected)) = (vector.get(input), vector["expect"].get(expected)) else { continue };
            let input = hex(input);
            assert_eq!(toeplitz.hash(&input), hash(expected), "{}", vector["name"]);
            assert_eq!(naive(&key, &input), hash(expected), "{}", vector["name"]);
            seen += 1;
            published += usize::from(vector["published"] == true);
        }
    }
    assert!(seen >= 32 && published >= 16, "{seen}, {published} of them published");
}

#[test]
fn frames_are_classified_as_hosts_do() {
    let vectors = vectors("frames.json");
    let toeplitz = Toeplitz::new(&key(&vectors["key"]));
    for vector in vectors["vectors"].as_array().unwrap() {
        let name = vector["name"].as_str().unwrap();
        let frame = hex(&vector["frame_hex"]);
        let types = if name.ends_with("udp_hash_on") {
            HashInfo::LINUX | HashInfo::UDP_IPV4 | HashInfo::UDP_IPV6
        } else {
            HashInfo::LINUX
        };
        let flow = Flow::of(&frame);
        let hashed = flow.as_ref().and_then(|flow| flow.input_of_host(types));
        let expected = &vector["expect"];
        if expected["hash"].is_null() {
            assert!(hashed.is_none(), "{name}");
            continue;
        }
        let (hash_type, input) = hashed.unwrap_or_else(|| panic!("{name} is not hashed"));
        assert_eq!(input, hex(&expected["input_hex"]), "{name}");
        assert_eq!(toeplitz.hash(input), hash(&expected["hash"]), "{name}");
        let text = expected["type"].as_str().unwrap();
        assert!(text.contains(&format!("{:#x}", hash_type.0)), "{name}: {hash_type:?} is not {text}");
    }
}

#[test]
fn the_table_is_looked_up_by_the_low_bits() {
    for vector in vectors("indirection.json")["vectors"].as_array().unwrap() {
        let table = vector["table"].as_array().unwrap();
        for row in vector["expect"].as_array().unwrap() {
            let index = hash(&row["hash_l4"]) as usize % table.len();
            assert_eq!(Some(index as u64), row["index"].as_u64());
            assert_eq!(table[index], row["queue"]);
        }
    }
}

#[test]
fn no_cut_frame_makes_it_panic() {
    for vector in vectors("frames.json")["vectors"].as_array().unwrap() {
        let frame = hex(&vector["frame_hex"]);
        for len in 0..frame.len() {
            let _ = Flow::of(&frame[..len]).map(|flow| flow.input(HashLevels::default()).len());
        }
    }
}

#[test]
fn fragments_go_by_their_addresses_at_every_level() {
    let all = vectors("frames.json");
    let frame = |name: &str| {
        let vector = all["vectors"].as_array().unwrap().iter().find(|vector| vector["name"] == name).unwrap();
        hex(&vector["frame_hex"])
    };
    let buckets = core::array::from_fn(|bucket| bucket as u16);
    let mut steering = TxSteering::new(&RssKey::MICROSOFT, buckets);
    let (first, later) = (frame("udp4_first_fragment"), frame("udp4_later_fragment"));
    let whole = frame("udp4_l4_when_udp_hash_on");
    assert_eq!(steering.queue_for(&first), 0xE);
    assert_eq!(steering.queue_for(&first), steering.queue_for(&later));
    assert_eq!(steering.queue_for(&whole), 1);
    steering.set_levels(steering.levels().with(HashProtocol::Udp4, HashLevel::L3));
    assert_eq!(steering.queue_for(&whole), steering.queue_for(&first));
    assert_eq!(steering.queue_for(&frame("arp")), 0);
}

/// Addresses and ports, as they stand in the frame.
fn addresses_and_ports(description: &Description) -> (Vec<u8>, Vec<u8>) {
    let addresses = match &description.ip {
        Ip::V4 { source, destination, .. } => [*source, *destination].concat(),
        Ip::V6 { source, destination, .. } => [*source, *destination].concat(),
    };
    (addresses, [description.ports.0.to_be_bytes(), description.ports.1.to_be_bytes()].concat())
}

#[test]
fn each_protocol_is_hashed_at_its_own_level_and_fragments_by_addresses() {
    let udp = || Transport::Udp { with_checksum: true };
    let kinds = [
        (HashProtocol::Tcp4, ipv4(), tcp(1, ACK), HashInfo::TCP_IPV4, HashInfo::IPV4),
        (HashProtocol::Tcp6, ipv6(), tcp(1, ACK), HashInfo::TCP_IPV6, HashInfo::IPV6),
        (HashProtocol::Udp4, ipv4(), udp(), HashInfo::UDP_IPV4, HashInfo::IPV4),
        (HashProtocol::Udp6, ipv6(), udp(), HashInfo::UDP_IPV6, HashInfo::IPV6),
    ];
    for (protocol, ip, transport, with_ports, without) in kinds {
        let mut description = Description::new(ip, transport, payload(100, 1, 1));
        let (addresses, ports) = addresses_and_ports(&description);
        let whole = [&addresses[..], &ports].concat();
        for tags in [vec![], vec![(0x8100, 7)], vec![(0x88A8, 8), (0x8100, 7)]] {
            description.tags = tags;
            let flow = Flow::of(&description.build()).unwrap();
            assert_eq!(flow.protocol(), Some(protocol));
            // All combinations: the others' levels do not matter. Bits that mean nothing change nothing.
            for bits in 0..=u8::MAX {
                let levels = HashLevels::from_bits(bits);
                assert_eq!(levels, HashLevels::from_bits(bits & 0xF));
                let expected = if levels.get(protocol) == HashLevel::L4 { &whole } else { &addresses };
                assert_eq!(flow.input(levels), expected, "{protocol} at {levels:?}");
            }
            // A host hashes ports if it was told to for this very protocol, else addresses if it was told to.
            let all = HashInfo::LINUX | HashInfo::UDP_IPV4 | HashInfo::UDP_IPV6;
            assert_eq!(flow.input_of_host(all), Some((with_ports, &whole[..])));
            assert_eq!(flow.input_of_host(HashInfo(all.0 & !with_ports.0)), Some((without, &addresses[..])));
            assert_eq!(flow.input_of_host(HashInfo(all.0 & !with_ports.0 & !without.0)), None);
        }
        // The first fragment has ports, and is hashed as the others are, which have none.
        for (offset8, more) in [(0, true), (100, true), (100, false)] {
            let mut fragment = description.clone();
            match &mut fragment.ip {
                Ip::V4 { flags, .. } => *flags = offset8 | u16::from(more) << 13,
                Ip::V6 { extensions, .. } => {
                    let [high, low] = (offset8 << 3 | u16::from(more)).to_be_bytes();
                    extensions.push((44, vec![high, low, 0, 0, 0, 1]));
                }
            }
            let flow = Flow::of(&fragment.build()).unwrap();
            assert_eq!(flow.protocol(), None, "{protocol}, fragment at {offset8}");
            assert_eq!(flow.input(HashLevels::default()), addresses);
        }
    }
}
