//! Values of OIDs, to read from query answers and to write into sets.
//!
//! Plain numbers are read with [`u32_value`]; a value shorter than its type is an error, a longer one is read from its
//! start. (Linux accepts a shorter answer and keeps what its variable held before.) Receive-side scaling is in
//! [`rss`](crate::rss), offloads are in [`offload`](crate::offload).

mod address;
mod config;
mod filter;
mod link;
mod list;
mod ndis;
mod text;

pub use address::{MacAddress, MulticastList};
pub use config::{ConfigParameter, ConfigString, ConfigType, network_address};
pub use filter::PacketFilter;
pub use link::{ConnectState, LinkSpeed, LinkState, MaxLinkSpeed, MediaConnectStatus};
pub use list::SupportedList;
pub use ndis::NdisHeader;
pub use text::{FriendlyName, Utf16};

use crate::bytes::{Fields, put_u32, room};
use crate::error::{EmitError, ParseError};

/// Reads a value that is a plain number, such as the largest frame size.
///
/// # Errors
///
/// [`ParseError::Truncated`] if there are fewer than 4 bytes.
pub fn u32_value(bytes: &[u8]) -> Result<u32, ParseError> {
    Fields::new(bytes).u32("InformationBuffer", 0)
}

/// Writes a value that is a plain number, and says how many bytes it took.
///
/// # Errors
///
/// [`EmitError::BufferTooSmall`] if `out` has fewer than 4 bytes.
pub fn emit_u32_value(value: u32, out: &mut [u8]) -> Result<usize, EmitError> {
    put_u32(room(out, 4)?, 0, value);
    Ok(4)
}

/// Reads a value that is a half-word: the driver version.
///
/// # Errors
///
/// [`ParseError::Truncated`] if there are fewer than 2 bytes.
pub fn u16_value(bytes: &[u8]) -> Result<u16, ParseError> {
    Fields::new(bytes).u16("InformationBuffer", 0)
}

/// Reads a counter, which hosts send as 4 or 8 bytes: bytes received or sent.
///
/// # Errors
///
/// [`ParseError::Truncated`] if there are fewer than 4 bytes.
pub fn counter_value(bytes: &[u8]) -> Result<u64, ParseError> {
    let fields = Fields::new(bytes);
    fields.u64("InformationBuffer", 0).or_else(|_| fields.u32("InformationBuffer", 0).map(u64::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_must_be_whole() {
        assert_eq!(u32_value(&[0xDC, 5, 0, 0]), Ok(1500));
        assert!(u32_value(&[0xDC, 5, 0]).is_err());
        assert_eq!(u16_value(&[0, 1]), Ok(0x0100));
        assert_eq!(counter_value(&[1, 0, 0, 0]), Ok(1));
        assert_eq!(counter_value(&[1, 0, 0, 0, 1, 0, 0, 0]), Ok(0x1_0000_0001));
        assert!(counter_value(&[1, 0, 0]).is_err());
    }
}
