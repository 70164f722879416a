//! Messages that are right, to start from: the vectors of the wire crates, and what real hosts said in recorded sessions.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Longest message that is kept: what a section of the receive buffer holds.
const MAX_BYTES: usize = 1728;

/// Messages by kind, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Corpus {
    /// RNDIS messages, frames among them.
    pub rndis: Vec<Vec<u8>>,
    /// NVSP messages of both sides.
    pub nvsp: Vec<Vec<u8>>,
    /// Messages of the control plane.
    pub vmbus: Vec<Vec<u8>>,
    /// Packets of hosts: type, header, payload.
    pub packets: Vec<Packet>,
}

/// A packet of a host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Packet {
    /// Type.
    pub packet_type: u16,
    /// Between descriptor and payload.
    pub header: Vec<u8>,
    /// Payload.
    pub payload: Vec<u8>,
}

impl Corpus {
    /// All that the repository has.
    ///
    /// # Panics
    /// If a file is not what it should be.
    #[must_use]
    pub fn load() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut rndis = BTreeSet::new();
        let mut nvsp = BTreeSet::new();
        let mut vmbus = BTreeSet::new();
        let mut packets = BTreeSet::new();
        for file in json_files(&root.join("rndis/tests/vectors")) {
            each_vector(&file, &["hex", "ranges_hex"], &mut rndis);
        }
        for file in json_files(&root.join("nvsp/tests/vectors")) {
            each_vector(&file, &["hex"], &mut nvsp);
        }
        each_vector(&root.join("vmbus-rs/tests/vectors/channel_messages.json"), &["hex"], &mut vmbus);
        each_vector(&root.join("vmbus-rs/tests/vectors/gpadl_multi_message.json"), &["hex"], &mut vmbus);
        for folder in ["netvsp-host", "dpdk-guest"] {
            for file in json_files(&root.join("tests/data/captures").join(folder)) {
                each_packet(&file, &mut packets, &mut rndis);
            }
        }
        nvsp.extend(packets.iter().map(|packet: &Packet| packet.payload.clone()));
        let list = |set: BTreeSet<Vec<u8>>| set.into_iter().filter(|bytes| bytes.len() <= MAX_BYTES).collect();
        let corpus =
            Self { rndis: list(rndis), nvsp: list(nvsp), vmbus: list(vmbus), packets: packets.into_iter().collect() };
        let counts = [corpus.rndis.len(), corpus.nvsp.len(), corpus.vmbus.len(), corpus.packets.len()];
        assert!(counts.iter().all(|&count| count >= 20), "messages to start from: {counts:?}");
        corpus
    }
}

fn json_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.expect("readable").path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    files
}

fn read(file: &Path) -> Value {
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// All values under one of `keys`, wherever they are.
fn each_vector(file: &Path, keys: &[&str], found: &mut BTreeSet<Vec<u8>>) {
    fn walk(value: &Value, keys: &[&str], found: &mut BTreeSet<Vec<u8>>) {
        match value {
            Value::Array(values) => values.iter().for_each(|value| walk(value, keys, found)),
            Value::Object(fields) => {
                for (key, value) in fields {
                    if keys.contains(&key.as_str()) {
                        found.extend(value.as_str().and_then(unhex));
                        found.extend(value.as_array().into_iter().flatten().filter_map(|hex| unhex(hex.as_str()?)));
                    }
                    walk(value, keys, found);
                }
            }
            _ => {}
        }
    }
    walk(&read(file), keys, found);
}

/// What a host sent: packets, and the messages in the receive buffer that they hand over.
fn each_packet(file: &Path, packets: &mut BTreeSet<Packet>, rndis: &mut BTreeSet<Vec<u8>>) {
    let session = read(file);
    for event in session["events"].as_array().into_iter().flatten() {
        if event["ev"] != "packet" || event["dir"] != "h2g" {
            continue;
        }
        let bytes = |field: &str| event[field].as_str().and_then(unhex).unwrap_or_default();
        packets.insert(Packet {
            packet_type: event["type"].as_u64().and_then(|value| u16::try_from(value).ok()).expect("a type"),
            header: bytes("ext"),
            payload: bytes("payload"),
        });
        let ranges = event["xfer"]["ranges"].as_array().into_iter().flatten();
        rndis.extend(ranges.filter_map(|range| unhex(range["data"].as_str()?)));
    }
}

fn unhex(hex: &str) -> Option<Vec<u8>> {
    if !hex.len().is_multiple_of(2) {
        return None;
    }
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok()).collect()
}
