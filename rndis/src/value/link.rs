//! Link: speed and state.

use super::NdisHeader;
use crate::bytes::{Fields, put_u32, room};
use crate::error::{EmitError, ParseError};

/// Link speed in units of 100 bit/s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkSpeed(pub u32);

impl LinkSpeed {
    /// Bytes of the value.
    pub const LEN: usize = 4;

    /// Reads the value at the start of `bytes`: of a query answer, or of a
    /// [`LINK_SPEED_CHANGE`](crate::Status::LINK_SPEED_CHANGE) indication.
    ///
    /// # Errors
    ///
    /// [`ParseError::Truncated`] if there are fewer than 4 bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        Fields::new(bytes).u32("LinkSpeed", 0).map(Self)
    }

    /// Writes the value and says how many bytes it took.
    ///
    /// # Errors
    ///
    /// [`EmitError::BufferTooSmall`] if `out` has fewer than 4 bytes.
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, EmitError> {
        super::emit_u32_value(self.0, out)
    }

    /// Bits per second.
    #[must_use]
    pub const fn bits_per_second(self) -> u64 {
        self.0 as u64 * 100
    }
}

open_enum! {
    /// Whether the link is up, as the media connect status has it: 0 is **up**.
    pub struct MediaConnectStatus(u32) {
        /// The link is up.
        CONNECTED = 0,
        /// The link is down.
        DISCONNECTED = 1,
    }
}

impl MediaConnectStatus {
    /// Bytes of the value.
    pub const LEN: usize = 4;

    /// Reads the value at the start of `bytes`.
    ///
    /// # Errors
    ///
    /// [`ParseError::Truncated`] if there are fewer than 4 bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        Fields::new(bytes).u32("MediaConnectStatus", 0).map(Self)
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

/// Greatest speeds of the link, in bit/s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MaxLinkSpeed {
    /// Guest to network.
    pub transmit_bps: u64,
    /// Network to guest.
    pub receive_bps: u64,
}

impl MaxLinkSpeed {
    /// Bytes of the value.
    pub const LEN: usize = 16;

    /// Reads the value at the start of `bytes`.
    ///
    /// # Errors
    ///
    /// [`ParseError::Truncated`] if there are fewer than 16 bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let fields = Fields::new(bytes);
        Ok(Self { transmit_bps: fields.u64("XmitLinkSpeed", 0)?, receive_bps: fields.u64("RcvLinkSpeed", 8)? })
    }

    /// Writes the value and says how many bytes it took.
    ///
    /// # Errors
    ///
    /// [`EmitError::BufferTooSmall`] if `out` has fewer than 16 bytes.
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, EmitError> {
        let out = room(out, Self::LEN)?;
        out[..8].copy_from_slice(&self.transmit_bps.to_le_bytes());
        out[8..].copy_from_slice(&self.receive_bps.to_le_bytes());
        Ok(Self::LEN)
    }
}

open_enum! {
    /// Whether the link is up, as the link state has it: 1 is up.
    pub struct ConnectState(u32) {
        /// Not known.
        UNKNOWN = 0,
        /// The link is up.
        CONNECTED = 1,
        /// The link is down.
        DISCONNECTED = 2,
    }
}

/// Link state (`NDIS_LINK_STATE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LinkState {
    /// Whether the link is up.
    pub connect_state: ConnectState,
    /// Duplex: 0 unknown, 1 half, 2 full.
    pub duplex: u32,
    /// Guest to network, bit/s.
    pub transmit_bps: u64,
    /// Network to guest, bit/s.
    pub receive_bps: u64,
    /// Pause functions.
    pub pause: u32,
    /// Which of the others were negotiated.
    pub auto_negotiation: u32,
}

impl LinkState {
    /// Bytes of the value.
    pub const LEN: usize = 40;

    /// Reads the value at the start of `bytes`.
    ///
    /// # Errors
    ///
    /// [`ParseError`] naming the header field that is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let (_, fields) = NdisHeader::parse(bytes, NdisHeader::DEFAULT, Self::LEN)?;
        Ok(Self {
            connect_state: ConnectState(fields.u32("MediaConnectState", 4)?),
            duplex: fields.u32("MediaDuplexState", 8)?,
            transmit_bps: fields.u64("XmitLinkSpeed", 16)?,
            receive_bps: fields.u64("RcvLinkSpeed", 24)?,
            pause: fields.u32("PauseFunctions", 32)?,
            auto_negotiation: fields.u32("AutoNegotiationFlags", 36)?,
        })
    }

    /// Writes the value and says how many bytes it took.
    ///
    /// # Errors
    ///
    /// [`EmitError::BufferTooSmall`] if `out` has fewer than 40 bytes.
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, EmitError> {
        let out = room(out, Self::LEN)?;
        out.fill(0);
        let size = Self::LEN as u16;
        NdisHeader { object_type: NdisHeader::DEFAULT, revision: 1, size }.put(out);
        put_u32(out, 4, self.connect_state.0);
        put_u32(out, 8, self.duplex);
        out[16..24].copy_from_slice(&self.transmit_bps.to_le_bytes());
        out[24..32].copy_from_slice(&self.receive_bps.to_le_bytes());
        put_u32(out, 32, self.pause);
        put_u32(out, 36, self.auto_negotiation);
        Ok(Self::LEN)
    }
}
