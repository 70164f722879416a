//! One's complement sums (RFC 1071), and what is made of them.

use rndis::ppi::IpVersion;

use super::headers::{Headers, UDP};

/// Where an IPv4 header has its checksum.
const IPV4_CHECKSUM: usize = 10;
/// Where UDP has its checksum: the only one that may not be sent as zero.
const UDP_CHECKSUM: usize = 6;

/// Adds `bytes`, as words in network order, to a sum. Only its last part may have an odd length.
pub(crate) fn add(sum: u64, bytes: &[u8]) -> u64 {
    // The sum is the same in either byte order, once it is swapped back (RFC 1071, section 2): so the machine's own
    // order will do, and four bytes at a time, which compilers make vectors of.
    let (words, rest) = bytes.as_chunks::<4>();
    let native = words.iter().fold(0_u64, |sum, &word| sum + u64::from(u32::from_ne_bytes(word)));
    let swapped = u16::from_be_bytes(fold(native).to_ne_bytes());
    let (pairs, odd) = rest.as_chunks::<2>();
    let tail = pairs.iter().fold(0, |sum, &pair| sum + u64::from(u16::from_be_bytes(pair)));
    sum + u64::from(swapped) + tail + odd.first().map_or(0, |&byte| u64::from(byte) << 8)
}

/// The sum in 16 bits.
pub(crate) fn fold(mut sum: u64) -> u16 {
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    sum as u16
}

/// The sum of the pseudo header of a transport packet of `len` bytes.
pub(crate) fn pseudo_header(frame: &[u8], headers: &Headers, len: usize) -> u64 {
    // A frame is shorter than 4 GiB.
    add(u64::from(headers.protocol) + len as u64, headers.addresses(frame))
}

/// Fills in the checksum of an IPv4 header.
pub(crate) fn fill_ip_header(frame: &mut [u8], headers: &Headers) {
    if headers.version != IpVersion::V4 {
        return;
    }
    let Some(header) = frame.get_mut(headers.network..headers.transport) else { return };
    let Some(field) = header.get_mut(IPV4_CHECKSUM..IPV4_CHECKSUM + 2) else { return };
    field.fill(0);
    let sum = !fold(add(0, header));
    header[IPV4_CHECKSUM..IPV4_CHECKSUM + 2].copy_from_slice(&sum.to_be_bytes());
}

/// Whether the checksum of an IPv4 header is right; there is none in IPv6.
pub(crate) fn ip_header_is_right(frame: &[u8], headers: &Headers) -> bool {
    headers.version == IpVersion::V6
        || frame.get(headers.network..headers.transport).is_some_and(|header| fold(add(0, header)) == 0xFFFF)
}

/// Writes the sum of the pseudo header where the transport's checksum belongs, for whoever [completes](complete) it.
pub(crate) fn seed(frame: &mut [u8], headers: &Headers) {
    let sum = fold(pseudo_header(frame, headers, headers.end - headers.transport));
    put(frame, headers, sum);
}

/// The transport's checksum field; `None` if it is not in the frame.
pub(crate) fn field(frame: &[u8], headers: &Headers) -> Option<u16> {
    let at = headers.transport + headers.checksum_offset()?;
    frame.get(at..)?.first_chunk().map(|&bytes| u16::from_be_bytes(bytes))
}

/// Fills in the transport's checksum from nothing.
pub(crate) fn fill_transport(frame: &mut [u8], headers: &Headers) {
    put(frame, headers, 0);
    let Some(transport) = frame.get(headers.transport..headers.end) else { return };
    let sum = add(pseudo_header(frame, headers, transport.len()), transport);
    put(frame, headers, finished(!fold(sum), headers.protocol == UDP));
}

/// Whether the transport's checksum is right.
pub(crate) fn transport_is_right(frame: &[u8], headers: &Headers) -> bool {
    frame
        .get(headers.transport..headers.end)
        .is_some_and(|transport| fold(add(pseudo_header(frame, headers, transport.len()), transport)) == 0xFFFF)
}

/// Completes a checksum whose field, `offset` behind `start`, holds the sum of the pseudo header.
pub(crate) fn complete(frame: &mut [u8], start: usize, offset: usize) {
    let end = Headers::parse(frame).map_or(frame.len(), |headers| headers.end);
    let Some(covered) = frame.get_mut(start..end) else { return };
    let sum = finished(!fold(add(0, covered)), offset == UDP_CHECKSUM);
    if let Some(field) = covered.get_mut(offset..offset + 2) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
}

/// A UDP checksum of zero means none, so that it is sent as its twin (RFC 768).
fn finished(sum: u16, udp: bool) -> u16 {
    if udp && sum == 0 { 0xFFFF } else { sum }
}

fn put(frame: &mut [u8], headers: &Headers, sum: u16) {
    if let Some(offset) = headers.checksum_offset()
        && let Some(field) = frame.get_mut(headers.transport + offset..headers.transport + offset + 2)
    {
        field.copy_from_slice(&sum.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The plainest way: two bytes at a time.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0_u64;
        for pair in bytes.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
        fold(sum)
    }

    #[test]
    fn all_lengths_sum_up_as_two_bytes_at_a_time() {
        let bytes: Vec<u8> = (0..3000_u32).map(|n| (n * 7 + n / 251) as u8).collect();
        for len in (0..200).chain([1499, 1500, 2999, 3000]) {
            assert_eq!(fold(add(0, &bytes[..len])), naive(&bytes[..len]), "{len} bytes");
        }
        assert_eq!(fold(add(0, &[0xFF; 64])), 0xFFFF);
    }
}
