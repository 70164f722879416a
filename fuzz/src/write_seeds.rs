//! Writes the seed corpora, a few KiB for each target, from the vectors and the recorded sessions:
//! `cargo run --bin write-seeds` in this folder.

use std::fs;
use std::path::Path;

use netvsc_hostile::corpus::Corpus;

/// Seeds for each target, at most.
const SEEDS: usize = 24;

/// Longest seed.
const MAX_BYTES: usize = 512;

fn main() -> std::io::Result<()> {
    let corpus = Corpus::load();
    let short = |messages: &[Vec<u8>]| {
        let messages: Vec<_> = messages.iter().filter(|message| message.len() <= MAX_BYTES).cloned().collect();
        spread(&messages)
    };
    let (rndis, nvsp, vmbus) = (short(&corpus.rndis), short(&corpus.nvsp), short(&corpus.vmbus));
    let frames: Vec<_> = corpus.rndis.iter().filter(|message| message.first() == Some(&1)).cloned().collect();
    let control: Vec<_> = rndis.iter().filter(|message| message.first() != Some(&1)).cloned().collect();
    write("rndis_message", &control)?;
    write("rndis_packet", &short(&frames))?;
    write("nvsp_message", &nvsp)?;

    // Role, then strokes: an index, data, an index again.
    let packets: Vec<_> = corpus.packets.iter().filter(|packet| packet.payload.len() <= 64).collect();
    let rings = spread(&packets).into_iter().enumerate().map(|(at, packet)| {
        let mut data = vec![packet.packet_type as u8, 0, (2 + packet.header.len() / 8) as u8, 0];
        data.extend([(2 + (packet.header.len() + packet.payload.len()) / 8) as u8, 0, 1, 0, at as u8]);
        data.resize(16, 0);
        data.extend(packet.header.iter().chain(&packet.payload));
        let units = data.len().div_ceil(8) as u8 + 1;
        let mut seed = vec![at as u8, 0, 4, 0, 0, data.len() as u8];
        seed.extend(data);
        seed.extend([0, units, 0, 1, units, 0, 3, 1, at as u8]);
        seed
    });
    write("ring", &rings.collect::<Vec<_>>())?;

    // The parser's part; and a session: a version is agreed on, channels come and go, the user asks for things.
    let mut protocol: Vec<_> = vmbus.iter().map(|message| [&[1], message.as_slice()].concat()).collect();
    for part in vmbus.chunks(8) {
        let mut session = vec![0, 0];
        for (at, message) in part.iter().enumerate() {
            session.extend([1, message.len() as u8]);
            session.extend(message);
            session.extend([0, at as u8, 0]);
        }
        protocol.push(session);
    }
    write("vmbus_protocol", &protocol)?;

    // Settings; then right answers, messages, frames of both directions.
    let mut sessions = Vec::new();
    for (at, message) in rndis.iter().enumerate() {
        // Step 7: a message in the receive buffer; 17: frames are sent; 2: all is answered.
        let mut session = vec![at as u8 * 4, 7];
        session.extend(run(message));
        session.extend([17, 60, 0, 3, 0, 2]);
        if let Some(packet) = packets.get(at) {
            // Step 5: a packet.
            session.extend([5, u8::from(packet.packet_type == 11), 1, at as u8]);
            session.extend(run(&packet.header));
            session.extend(run(&packet.payload));
        }
        session.extend([18, 130, 2, 18, 255, 2]);
        sessions.push(session);
    }
    write("nic", &sessions)
}

/// Some of all, evenly.
fn spread<T: Clone>(all: &[T]) -> Vec<T> {
    let step = all.len().div_ceil(SEEDS).max(1);
    all.iter().step_by(step).cloned().collect()
}

/// Bytes with their length in front.
fn run(bytes: &[u8]) -> Vec<u8> {
    let mut run = match u8::try_from(bytes.len()) {
        Ok(len) if len < 0xFF => vec![len],
        _ => [&[0xFF][..], &(bytes.len() as u16).to_le_bytes()].concat(),
    };
    run.extend(bytes);
    run
}

fn write(target: &str, seeds: &[Vec<u8>]) -> std::io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&folder)?;
    for (at, seed) in seeds.iter().enumerate() {
        fs::write(folder.join(format!("seed-{at:02}")), seed)?;
    }
    println!("{target}: {} seeds, {} bytes", seeds.len(), seeds.iter().map(Vec::len).sum::<usize>());
    Ok(())
}
