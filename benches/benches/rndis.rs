//! What it costs to read and to write the RNDIS message of one frame.
//!
//! `cargo bench -p netvsc-benches --bench rndis`

mod config;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use netvsc_benches::frames::frame;
use rndis::packet::{PacketEncoder, PacketHeader, PacketMsg, TxHeader, TxOffload};
use rndis::ppi::{HashInfo, IpVersion, PacketInfo, PpiWord, RxChecksum, Transport, TxChecksum, Vlan};

fn parse(c: &mut Criterion) {
    let mut group = c.benchmark_group("rndis/parse");
    let checksum = PpiWord::from(RxChecksum::TCP_SUCCEEDED | RxChecksum::IP_SUCCEEDED);
    let elements = [checksum, Vlan::new(7, 0, false).into(), PpiWord::hash_value(9), HashInfo(0x101).into()];
    for (name, ppis) in [("no elements", &elements[..0]), ("checksum", &elements[..1]), ("four elements", &elements)] {
        let encoder = PacketEncoder { ppis, ..PacketEncoder::default() };
        let mut message = vec![0; 2000];
        let len = encoder.emit(&frame(64), &mut message).expect("room");
        message.truncate(len);
        group.bench_function(name, |b| {
            b.iter(|| {
                let message = black_box(&message[..]);
                let header = PacketHeader::parse(message, message.len() as u32).expect("good");
                let info = PacketInfo::parse(&message[header.ppi_range()]).expect("good");
                (header, info)
            });
        });
        if ppis.len() == 1 {
            group.bench_function("checksum, as a message", |b| {
                b.iter(|| PacketMsg::parse(black_box(&message)).map(|message| message.data().len()));
            });
        }
    }
}

fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("rndis/encode");
    let checksum = TxChecksum::transport(IpVersion::V4, Transport::Tcp, 34).expect("in range");
    let plain = TxHeader::default();
    let full =
        TxHeader { hash_value: Some(9), vlan: Some(Vlan::new(7, 0, false)), offload: TxOffload::Checksum(checksum) };
    for (name, header) in [("no elements", plain), ("three elements", full)] {
        let mut out = [0; TxHeader::MAX_LEN];
        group.bench_function(name, |b| b.iter(|| black_box(&header).emit(black_box(64), 0, black_box(&mut out))));
    }
}

criterion_group! {
    name = benches;
    config = config::short();
    targets = parse, encode
}
criterion_main!(benches);
