//! Settings of the generator.

use core::fmt;

use super::check::HEADER_END;

/// What a [`GeneratorPort`](super::GeneratorPort) sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeneratorConfig {
    pub(super) source: [u8; 6],
    pub(super) destination: [u8; 6],
    pub(super) ether_type: u16,
    pub(super) frame_bytes: usize,
    pub(super) packets_per_second: Option<u64>,
    pub(super) count: Option<u64>,
    pub(super) stream: u32,
    pub(super) receive_stream: u32,
}

impl GeneratorConfig {
    /// Frames of 60 bytes from `source` to `destination`, without end, as fast as they are polled for.
    pub fn new(source: [u8; 6], destination: [u8; 6]) -> Self {
        Self {
            source,
            destination,
            ether_type: 0x88b5,
            frame_bytes: 60,
            packets_per_second: None,
            count: None,
            stream: 0,
            receive_stream: 0,
        }
    }

    /// The Ethernet type. Default `0x88b5`, which IEEE 802 leaves to local experiments.
    #[must_use]
    pub fn ether_type(mut self, ether_type: u16) -> Self {
        self.ether_type = ether_type;
        self
    }

    /// Bytes of a frame, Ethernet header included, without frame check sequence. Default 60, least 34.
    #[must_use]
    pub fn frame_bytes(mut self, bytes: usize) -> Self {
        self.frame_bytes = bytes;
        self
    }

    /// The rate. Default: as fast as polled. Frames that could not be sent in time are sent as soon as possible.
    #[must_use]
    pub fn packets_per_second(mut self, rate: u64) -> Self {
        self.packets_per_second = Some(rate);
        self
    }

    /// How many frames to send. Default: no end. 0 makes the generator a receiver only.
    #[must_use]
    pub fn count(mut self, frames: u64) -> Self {
        self.count = Some(frames);
        self
    }

    /// The number of the stream, for sending and receiving. Default 0.
    #[must_use]
    pub fn stream(mut self, stream: u32) -> Self {
        (self.stream, self.receive_stream) = (stream, stream);
        self
    }

    /// The stream to check, if it is another than the one sent: two generators that send to each other.
    #[must_use]
    pub fn receive_stream(mut self, stream: u32) -> Self {
        self.receive_stream = stream;
        self
    }

    pub(super) fn check(&self) -> Result<(), InvalidGenerator> {
        if self.frame_bytes < HEADER_END {
            return Err(InvalidGenerator::FrameBytes { value: self.frame_bytes, least: HEADER_END });
        }
        if self.packets_per_second == Some(0) {
            return Err(InvalidGenerator::ZeroRate);
        }
        Ok(())
    }
}

/// Why a generator cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidGenerator {
    /// The frame has no room for the generator's header.
    FrameBytes {
        /// Bytes asked for.
        value: usize,
        /// Least bytes.
        least: usize,
    },
    /// The rate is 0; use a count of 0 for a generator that does not send.
    ZeroRate,
}

impl fmt::Display for InvalidGenerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FrameBytes { value, least } => {
                write!(f, "generator frame_bytes is {value}, less than {least}, its headers")
            }
            Self::ZeroRate => f.write_str("generator packets_per_second is 0"),
        }
    }
}

impl core::error::Error for InvalidGenerator {}
