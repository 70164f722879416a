//! What a host says of the checksums of a frame that it gives to its guest.

use rndis::ppi::RxChecksum;

use super::headers::{Headers, TCP, UDP};
use super::sum;
use crate::port::Checksum;

/// Checks a frame. `known` is what is known of its transport's checksum already.
///
/// Nothing is said of what is not there (no IP, a UDP checksum of zero), or cannot be computed (a fragment, a packet that
/// is cut off).
pub(crate) fn of(frame: &[u8], headers: Option<&Headers>, known: Checksum) -> RxChecksum {
    let Some(headers) = headers else { return RxChecksum::EMPTY };
    let mut verdict = RxChecksum::EMPTY;
    if headers.version == rndis::ppi::IpVersion::V4 {
        if !sum::ip_header_is_right(frame, headers) {
            // Nothing in it can be believed, the addresses of the pseudo header neither.
            return RxChecksum::IP_FAILED;
        }
        verdict |= RxChecksum::IP_SUCCEEDED;
    }
    if headers.fragment || headers.cut_off {
        return verdict;
    }
    let (good, bad) = match headers.protocol {
        TCP => (RxChecksum::TCP_SUCCEEDED, RxChecksum::TCP_FAILED),
        UDP => (RxChecksum::UDP_SUCCEEDED, RxChecksum::UDP_FAILED),
        _ => return verdict,
    };
    if headers.payload(frame).is_none_or(|payload| payload > headers.end) {
        return verdict;
    }
    if headers.protocol == UDP && known == Checksum::Unknown && sum::field(frame, headers) == Some(0) {
        return verdict;
    }
    let right = known != Checksum::Unknown || sum::transport_is_right(frame, headers);
    verdict | if right { good } else { bad }
}
