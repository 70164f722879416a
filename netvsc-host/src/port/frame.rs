//! One Ethernet frame on its way through the switch.

/// What travels with a frame besides its bytes: offload requests and results.
///
/// Empty today; frames are plain Ethernet frames without a frame check sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct FrameMeta {}

/// A borrowed Ethernet frame, from the destination address on, without frame check sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The frame's bytes.
    pub bytes: &'a [u8],
    /// What travels with them.
    pub meta: FrameMeta,
}

impl<'a> Frame<'a> {
    /// A plain frame: no offload is asked for.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, meta: FrameMeta {} }
    }
}

impl<'a> From<&'a [u8]> for Frame<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::new(bytes)
    }
}
