//! Packet filter: which frames the guest receives.
//!
//! Source: Linux `include/linux/rndis.h`. (`drivers/net/hyperv/hyperv_net.h` has other numbers for the last four; no
//! one uses them.)

use crate::error::{EmitError, ParseError};

bit_set! {
    /// Which frames the guest receives; 0 stops reception.
    pub struct PacketFilter(u32) {
        /// Frames to the adapter's own address.
        DIRECTED = 0x0001,
        /// Frames to the addresses of the multicast list.
        MULTICAST = 0x0002,
        /// All multicast frames.
        ALL_MULTICAST = 0x0004,
        /// Broadcast frames.
        BROADCAST = 0x0008,
        /// Token ring source routing frames.
        SOURCE_ROUTING = 0x0010,
        /// All frames.
        PROMISCUOUS = 0x0020,
        /// FDDI station management frames.
        SMT = 0x0040,
        /// All frames sent by this machine.
        ALL_LOCAL = 0x0080,
        /// Frames to the current group address.
        GROUP = 0x1000,
        /// All functional address frames.
        ALL_FUNCTIONAL = 0x2000,
        /// Functional address frames.
        FUNCTIONAL = 0x4000,
        /// Token ring MAC frames.
        MAC_FRAME = 0x8000,
    }
}

impl PacketFilter {
    /// Bytes of the value.
    pub const LEN: usize = 4;
    /// A closed adapter. DPDK and FreeBSD set it after INITIALIZE too: some hosts keep the filter of the session before.
    pub const CLOSED: Self = Self::EMPTY;
    /// An open adapter with multicast: directed, all multicast, broadcast.
    pub const OPEN: Self = Self(0x0D);

    /// Reads the value at the start of `bytes`.
    ///
    /// # Errors
    ///
    /// [`ParseError::Truncated`] if there are fewer than 4 bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        super::u32_value(bytes).map(Self)
    }

    /// Writes the value and says how many bytes it took.
    ///
    /// # Errors
    ///
    /// [`EmitError::BufferTooSmall`] if `out` has fewer than 4 bytes.
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, EmitError> {
        super::emit_u32_value(self.0, out)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString;

    use super::*;

    #[test]
    fn filters_print_their_bits() {
        assert_eq!(PacketFilter::OPEN.to_string(), "DIRECTED | ALL_MULTICAST | BROADCAST");
        assert_eq!(PacketFilter(0x100).to_string(), "0x100");
        assert_eq!(PacketFilter::CLOSED.to_string(), "0x0");
    }
}
