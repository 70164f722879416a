//! Rings and packets against the test vectors, both ways. Every vector is used: unknown names and keys fail.

use serde_json::Value;
use vmbus::gpadl::{GpaRangeError, GpaRanges, write_range};
use vmbus::memory::{HeapMemory, SharedMemoryExt};
use vmbus::packet::{
    PacketError, PacketType, TransactionId, TransferPages, TransferRange, gpa_direct_fixed_header, gpa_direct_ranges,
};
use vmbus::ring::{
    CONTROL_BYTES, Consumer, MappedRing, Outgoing, Producer, RingError, RingMemory, Signal, Word, WriteError,
};

type Ring = MappedRing<HeapMemory>;

fn file(name: &str, keys: &[&str]) -> Value {
    let path = format!("{}/tests/vectors/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).expect("vector file");
    let file: Value = serde_json::from_str(&text).expect("vectors are JSON");
    for key in file.as_object().expect("an object").keys() {
        assert!(["file", "about"].contains(&key.as_str()) || keys.contains(&key.as_str()), "unused {key}");
    }
    file
}

fn list<'a>(file: &'a Value, key: &str) -> &'a [Value] {
    let list = file[key].as_array().expect("list of vectors");
    assert!(!list.is_empty(), "no vectors in {key}");
    list
}

fn name(vector: &Value) -> &str {
    vector["name"].as_str().expect("name")
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn word(value: &Value) -> u32 {
    number(value).try_into().expect("32 bits")
}

/// Hex text, or `XX x N`: the byte N times.
fn bytes(value: &Value) -> Vec<u8> {
    let text = value.as_str().expect("hex text");
    let hex = |text: &str| u8::from_str_radix(text, 16).expect("hex byte");
    match text.split_once(" x ") {
        Some((byte, count)) => vec![hex(byte); count.parse().expect("count")],
        None => (0..text.len()).step_by(2).map(|at| hex(&text[at..at + 2])).collect(),
    }
}

/// A ring whose indices stand at `write` and `read`; the consumer's mask is clear.
fn ring(size: u32, write: u32, read: u32) -> Ring {
    let ring = Ring::new(HeapMemory::zeroed(CONTROL_BYTES + size as usize), CONTROL_BYTES).expect("good size");
    ring.store(Word::WriteIndex, write);
    ring.store(Word::ReadIndex, read);
    ring
}

/// Data bytes, round the end if need be.
fn data(ring: &Ring, at: u32, len: usize) -> Vec<u8> {
    let mut all = vec![0; ring.data_bytes() as usize];
    ring.read(0, &mut all);
    all.iter().cycle().skip(at as usize).take(len).copied().collect()
}

fn put(ring: &Ring, at: u32, bytes: &[u8]) {
    for (i, byte) in bytes.iter().enumerate() {
        ring.write((at + i as u32) % ring.data_bytes(), &[*byte]);
    }
}

#[test]
fn control_pages() {
    let file = file("ring_header", &["offsets", "vectors"]);
    let words = [
        ("write_index", Word::WriteIndex),
        ("read_index", Word::ReadIndex),
        ("interrupt_mask", Word::InterruptMask),
        ("pending_send_sz", Word::PendingSendSize),
        ("feature_bits", Word::FeatureBits),
    ];
    const INTERRUPT_COUNT: usize = 4088;
    for (key, offset) in file["offsets"].as_object().expect("offsets") {
        match key.as_str() {
            "guest_to_host_interrupt_count" => assert_eq!(number(offset), INTERRUPT_COUNT as u64),
            "data" => assert_eq!(number(offset), CONTROL_BYTES as u64),
            "reserved1" | "reserved2" => {}
            _ => {
                let (_, word) = words.iter().find(|(name, _)| name == key).expect("a known word");
                assert_eq!(number(offset), word.offset() as u64, "{key}");
            }
        }
    }
    for vector in list(&file, "vectors") {
        let fields = vector["fields"].as_object().expect("fields");
        let mut page = bytes(&vector["first_68_bytes_hex"]);
        assert_eq!(page.len(), 68);
        assert_eq!(vector["bytes_68_to_4087"], "all zero");
        page.resize(INTERRUPT_COUNT, 0);
        page.extend(bytes(&vector["last_8_bytes_at_4088_hex"]));
        assert_eq!(page.len(), word(&vector["size"]) as usize);

        // Words to bytes.
        let memory = HeapMemory::zeroed(2 * CONTROL_BYTES);
        let ring = Ring::new(memory.clone(), CONTROL_BYTES).expect("good size");
        for (key, value) in fields {
            if key == "guest_to_host_interrupt_count" {
                memory.write(INTERRUPT_COUNT, &number(value).to_le_bytes()).expect("in the page");
            } else {
                ring.store(words.iter().find(|(name, _)| name == key).expect("a known word").1, word(value));
            }
        }
        let mut written = vec![0xEE; CONTROL_BYTES];
        memory.read(0, &mut written).expect("in the page");
        assert_eq!(written, page, "{}", name(vector));

        // Bytes to words.
        let memory = HeapMemory::zeroed(2 * CONTROL_BYTES);
        memory.write(0, &page).expect("in the page");
        let ring = Ring::new(memory, CONTROL_BYTES).expect("good size");
        for (key, place) in words {
            assert_eq!(ring.load(place), word(&fields[key]), "{} {key}", name(vector));
        }
    }
}

/// The header after the descriptor, built by the crate from the vector's fields.
fn header(fields: &Value) -> Vec<u8> {
    let count = || word(&fields["range_count"]);
    match word(&fields["type"]) {
        7 => {
            let set_id = word(&fields["transfer_page_set_id"]) as u16;
            let mut header = TransferPages::fixed_header(set_id, count()).to_vec();
            if let Some(garbage) = fields["reserved16"].as_u64() {
                header[2..4].copy_from_slice(&(garbage as u16).to_le_bytes());
            }
            for range in list(fields, "ranges") {
                let byte_count = word(&range["byte_count"]);
                let byte_offset = word(&range["byte_offset"]);
                header.extend(TransferRange { byte_count, byte_offset }.to_bytes());
            }
            header
        }
        9 => {
            let mut header = gpa_direct_fixed_header(count()).to_vec();
            for range in list(fields, "ranges") {
                let mut buf = [0; 256];
                let pfns = list(range, "pfns").iter().map(number);
                let len = write_range(&mut buf, word(&range["byte_count"]), word(&range["byte_offset"]), pfns);
                header.extend(&buf[..len.expect("a good range")]);
            }
            header
        }
        _ => Vec::new(),
    }
}

#[test]
fn packets_are_written_as_in_the_vectors() {
    for vector in list(&file("packets", &["vectors"]), "vectors") {
        let fields = &vector["fields"];
        let start = word(&fields["start_offset_in_ring"]);
        let header = header(fields);
        let payload = bytes(&fields["payload_hex"]);
        assert_eq!(payload.len() as u64, number(&fields["payload_len_unpadded"]));
        let packet = Outgoing {
            packet_type: PacketType(word(&fields["type"]) as u16),
            completion_requested: word(&fields["flags"]) == 1,
            transaction_id: TransactionId(number(&fields["transaction_id"])),
            header: &header,
            payload: &payload,
        };
        let wire = bytes(&vector["hex_with_trailer"]);
        assert_eq!(packet.ring_bytes() as u64, number(&vector["total_ring_bytes"]), "{}", name(vector));
        assert_eq!(packet.ring_bytes(), wire.len(), "{}", name(vector));
        assert_eq!(wire.len() as u64, number(&vector["size_without_trailer"]) + 8, "{}", name(vector));

        let ring = ring(4096, start, start);
        ring.write(start, &vec![0xEE; wire.len() + 8]);
        let mut producer = Producer::resume(ring.clone()).expect("good indices");
        producer.write(&packet).expect("fits");
        assert_eq!(producer.publish(), Ok(Signal::Needed));
        let written = data(&ring, start, wire.len() + 8);
        assert_eq!(written[..wire.len()], wire, "{}", name(vector));
        assert_eq!(written[wire.len()..], [0xEE; 8], "wrote behind {}", name(vector));
    }
}

#[test]
fn packets_are_read_as_in_the_vectors() {
    for vector in list(&file("packets", &["vectors"]), "vectors") {
        let fields = &vector["fields"];
        let start = word(&fields["start_offset_in_ring"]);
        let wire = bytes(&vector["hex_with_trailer"]);
        let ring = ring(4096, start + wire.len() as u32, start);
        put(&ring, start, &wire);
        let mut consumer = Consumer::resume(ring).expect("good indices");
        let mut body = [0xEE; 256];
        let packet = consumer.take(&mut body).expect("a good packet").expect("a packet");
        assert_eq!(packet.ring_offset, start);
        let descriptor = packet.descriptor;
        assert_eq!(u32::from(descriptor.packet_type.0), word(&fields["type"]), "{}", name(vector));
        assert_eq!(descriptor.header_bytes, word(&fields["offset8"]) * 8);
        assert_eq!(descriptor.packet_bytes, word(&fields["len8"]) * 8);
        assert_eq!(u32::from(descriptor.flags), word(&fields["flags"]));
        assert_eq!(descriptor.wants_completion(), descriptor.flags == 1);
        assert_eq!(descriptor.transaction_id, TransactionId(number(&fields["transaction_id"])));
        let (header, payload) = packet.split(&body);
        assert_eq!(body[packet.body_len()..], vec![0xEE; 256 - packet.body_len()], "wrote behind the body");
        let mut padded = bytes(&fields["payload_hex"]);
        padded.resize(padded.len().next_multiple_of(8), 0);
        assert_eq!(payload, padded, "{}", name(vector));

        match descriptor.packet_type {
            PacketType::TRANSFER_PAGES => {
                let pages = TransferPages::parse(header).expect("a good header");
                assert_eq!(u32::from(pages.set_id), word(&fields["transfer_page_set_id"]));
                assert_eq!(pages.len(), word(&fields["range_count"]) as usize);
                let expected: Vec<_> = list(fields, "ranges")
                    .iter()
                    .map(|r| TransferRange { byte_count: word(&r["byte_count"]), byte_offset: word(&r["byte_offset"]) })
                    .collect();
                assert_eq!(pages.ranges().collect::<Vec<_>>(), expected, "{}", name(vector));
            }
            PacketType::GPA_DIRECT => {
                let (count, ranges) = gpa_direct_ranges(header).expect("a good header");
                assert_eq!(count, word(&fields["range_count"]));
                let ranges = GpaRanges::parse(ranges, count).expect("good ranges");
                let expected = list(fields, "ranges");
                assert_eq!(ranges.iter().count(), expected.len());
                for (range, expected) in ranges.iter().zip(expected) {
                    assert_eq!(range.byte_count(), word(&expected["byte_count"]));
                    assert_eq!(range.byte_offset(), word(&expected["byte_offset"]));
                    let pfns: Vec<_> = list(expected, "pfns").iter().map(number).collect();
                    assert_eq!(range.pfns().collect::<Vec<_>>(), pfns, "{}", name(vector));
                }
            }
            _ => assert!(header.is_empty()),
        }
        assert_eq!(consumer.take(&mut body), Ok(None), "one packet");
    }
}

#[test]
fn malformed_indices_are_refused() {
    for vector in list(&file("packets_malformed", &["index_cases", "vectors"]), "index_cases") {
        let size = word(&vector["ring_data_size"]);
        let (write, read) = (word(&vector["write_index"]), word(&vector["read_index"]));
        let bad = |word, value| RingError::BadIndex { word, value, limit: size };
        let fresh = ring(size, 0, 0);
        let mut producer = Producer::new(fresh.clone());
        let mut consumer = Consumer::new(fresh.clone());
        fresh.store(Word::WriteIndex, write);
        fresh.store(Word::ReadIndex, read);
        match name(vector) {
            "write_index_unaligned" | "write_index_eq_size" => {
                let bad = bad(Word::WriteIndex, write);
                assert_eq!(consumer.take(&mut []), Err(bad));
                assert_eq!(consumer.has_data(), Err(bad));
                assert_eq!(consumer.unmask(), Err(bad));
                assert_eq!(Producer::resume(fresh).map(drop), Err(bad));
            }
            "read_index_huge" => {
                let bad = bad(Word::ReadIndex, read);
                assert_eq!(producer.free_bytes(), Err(bad));
                assert_eq!(producer.wait_for_space(8), Err(bad));
                assert_eq!(Consumer::resume(fresh).map(drop), Err(bad));
            }
            other => panic!("unused vector {other}"),
        }
    }
}

#[test]
fn malformed_packets_are_refused() {
    for vector in list(&file("packets_malformed", &["index_cases", "vectors"]), "vectors") {
        let ring = ring(word(&vector["ring_data_size"]), word(&vector["avail_bytes"]), 0);
        put(&ring, 0, &bytes(&vector["descriptor_hex"]));
        let mut consumer = Consumer::resume(ring).expect("good indices");
        let mut body = [0; 64];
        let taken = consumer.take(&mut body);
        let name = name(vector);
        let bad = |error| Err(RingError::BadPacket { error, offset: 0 });
        match name {
            "offset8_below_2" => {
                assert_eq!(taken, bad(PacketError::BadHeaderLength { value: 8, min: 16, max: 32 }));
            }
            "len8_below_offset8" => {
                assert_eq!(taken, bad(PacketError::BadHeaderLength { value: 32, min: 16, max: 24 }));
            }
            "len_exceeds_avail" => assert_eq!(taken, bad(PacketError::BadLength { value: 80, limit: 72 })),
            "avail_below_16" => assert_eq!(taken, Err(RingError::BadFill { value: 8, limit: 24 })),
            "unknown_flags" => assert_eq!(taken, bad(PacketError::BadFlags { value: 2 })),
            "unknown_type" => assert_eq!(taken, bad(PacketError::UnknownType { value: 0x20 })),
            "gpa_direct_short_header" | "xfer_pages_short_header" => {
                assert_eq!(taken, bad(PacketError::BadHeaderLength { value: 16, min: 24, max: 24 }));
            }
            "len_equals_avail_minus_8_ok" => assert_eq!(taken.map(|p| p.map(|p| p.body_len())), Ok(Some(48))),
            _ => {
                let packet = taken.expect("a good descriptor").expect("a packet");
                let (header, _) = packet.split(&body);
                if name == "xfer_pages_count_overruns_header" {
                    let error = TransferPages::parse(header).expect_err(name);
                    assert_eq!(error, PacketError::BadRangeCount { value: 0x2000_0001, limit: 1 });
                    continue;
                }
                let parsed = gpa_direct_ranges(header);
                if name == "gpa_direct_zero_ranges" {
                    assert_eq!(parsed, Err(PacketError::BadRangeCount { value: 0, limit: 0 }));
                    continue;
                }
                let (count, ranges) = parsed.expect("a good count");
                let error = GpaRanges::parse(ranges, count).expect_err(name);
                let expected = match name {
                    "gpa_range_offset_ge_4096" => matches!(error, GpaRangeError::BadOffset { byte_offset: 4096, .. }),
                    "gpa_range_zero_len" => matches!(error, GpaRangeError::Empty { range: 0 }),
                    "gpa_range_len_overflow" | "gpa_range_too_few_pfns" => {
                        matches!(error, GpaRangeError::Truncated { range: 0, .. })
                    }
                    other => panic!("unused vector {other}"),
                };
                assert!(expected, "{name}: {error:?}");
            }
        }
    }
}

const ARITHMETIC: [&str; 3] = ["writes", "reader_signal", "vectors"];

#[test]
fn free_and_used_bytes() {
    for vector in list(&file("ring_arithmetic", &ARITHMETIC), "vectors") {
        let fields = &vector["fields"];
        let size = word(&fields["data_size"]);
        let ring = ring(size, word(&fields["write_index"]), word(&fields["read_index"]));
        let free = Producer::resume(ring.clone()).expect("good indices").free_bytes().expect("good indices");
        assert_eq!(free, word(&vector["usable_free"]), "{}", name(vector));
        assert_eq!(free + 8, word(&vector["raw_free"]), "{}", name(vector));
        assert_eq!(size - free - 8, word(&vector["bytes_to_read"]), "{}", name(vector));
        let mut consumer = Consumer::resume(ring).expect("good indices");
        assert_eq!(consumer.has_data(), Ok(word(&vector["bytes_to_read"]) != 0), "{}", name(vector));
    }
}

#[test]
fn writes_and_the_signal_to_the_consumer() {
    for vector in list(&file("ring_arithmetic", &ARITHMETIC), "writes") {
        let fields = &vector["fields"];
        let (size, write) = (word(&fields["data_size"]), word(&fields["write_index"]));
        let ring = ring(size, write, word(&fields["read_index"]));
        ring.store(Word::InterruptMask, word(&fields["consumer_interrupt_mask"]));
        let mut producer = Producer::resume(ring.clone()).expect("good indices");
        let free = producer.free_bytes().expect("good indices");
        assert_eq!(free + 8, word(&vector["raw_free"]), "{}", name(vector));
        let payload = bytes(&fields["payload_hex"]);
        let packet = Outgoing::notice(TransactionId(0), &payload);
        let total = word(&vector["total_bytes"]);
        assert_eq!(packet.ring_bytes(), total as usize, "{}", name(vector));
        let written = producer.write(&packet);
        match name(vector) {
            // Fits by Linux's rule; OpenVMM refuses a packet that leaves one slot only, and so does this producer.
            "exact_fill_rejected" | "largest_packet_that_fits" => {
                assert_eq!(written, Err(WriteError::TooLong { needed: total as usize, limit: size as usize - 16 }));
                continue;
            }
            _ if vector["fits"] == false => {
                assert_eq!(written, Err(WriteError::Full { needed: total, free }), "{}", name(vector));
                continue;
            }
            _ => assert_eq!(written, Ok(()), "{}", name(vector)),
        }
        assert_eq!(ring.load(Word::WriteIndex), write, "not before it is published");
        let signal = producer.publish().expect("good indices");
        assert_eq!(signal.is_needed(), vector["signal_host"] == true, "{}", name(vector));
        assert_eq!(ring.load(Word::WriteIndex), word(&vector["new_write_index"]), "{}", name(vector));
        let mut wire = bytes(&vector["bytes_at_write_index_hex"]);
        wire.extend(bytes(&vector["bytes_at_0_hex"]));
        assert_eq!(data(&ring, write, wire.len()), wire, "{}", name(vector));
        // And back.
        let mut consumer = Consumer::resume(ring).expect("good indices");
        if word(&vector["raw_free"]) == size {
            let mut body = vec![0; payload.len()];
            assert!(matches!(consumer.take(&mut body), Ok(Some(_))), "{}", name(vector));
            assert_eq!(body, payload, "{}", name(vector));
        }
    }
}

/// OpenVMM's form of the space-signal rule (`vmbus_ring`, `commit_read`).
fn openvmm_rule(free_before: u32, free: u32, pending: u32) -> bool {
    let pending = pending & !7;
    pending != 0 && free_before - 8 < pending && free - 8 >= pending
}

#[test]
fn the_signal_to_a_blocked_producer() {
    for vector in list(&file("ring_arithmetic", &ARITHMETIC), "reader_signal") {
        let fields = &vector["fields"];
        let (old, new) = (word(&fields["old_read_index"]), word(&fields["new_read_index"]));
        let freed = word(&vector["bytes_read"]);
        let ring = ring(word(&fields["data_size"]), word(&fields["write_index"]), old);
        ring.store(Word::FeatureBits, word(&fields["feature_bit"]));
        ring.store(Word::PendingSendSize, word(&fields["pending_send_sz"]));
        // One packet of exactly these bytes.
        let first = 6 | 2 << 16 | u64::from((freed - 8) / 8) << 32;
        put(&ring, old, &first.to_le_bytes());
        let mut consumer = Consumer::resume(ring.clone()).expect("good indices");
        assert!(consumer.take(&mut vec![0; freed as usize]).expect("good packet").is_some());
        assert_eq!(consumer.uncommitted_bytes(), freed, "{}", name(vector));
        let signal = consumer.commit().expect("good indices");
        assert_eq!(ring.load(Word::ReadIndex), new, "{}", name(vector));
        assert_eq!(signal.is_needed(), vector["signal_linux_rule"] == true, "{}", name(vector));
        let (before, after) = (word(&vector["raw_free_before"]), word(&vector["raw_free_after"]));
        assert_eq!(after - before, freed, "{}", name(vector));
        let openvmm = openvmm_rule(before, after, word(&fields["pending_send_sz"]));
        assert_eq!(openvmm, vector["signal_openvmm_rule"] == true, "{}", name(vector));
    }
}
