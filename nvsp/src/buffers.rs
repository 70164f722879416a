//! The receive buffer and the send buffer (types 101 to 106).
//!
//! The guest shares each buffer as one GPADL. The host divides the receive buffer into
//! sub-allocations and says so in [`SendReceiveBufferComplete`]; of the send buffer it only names
//! the section size.
//!
//! Source: Linux `drivers/net/hyperv/netvsc.c` (`netvsc_init_buf`); the checks a guest owes to
//! these answers are the driver's, not this crate's.

use crate::{
    EmitError, MessageType, ParseError, Status,
    field::{self, Wire, message, wire_newtype},
    message_type,
    records::Records,
};

/// Handle of a GPADL (guest physical address descriptor list): memory shared with the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GpadlHandle(pub u32);

wire_newtype!(GpadlHandle(u32));

/// The guest's name for a shared buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BufferId(pub u16);

wire_newtype!(BufferId(u16));

impl BufferId {
    /// The receive buffer, of every known guest. It is also the set id of the transfer pages.
    pub const RECEIVE: Self = Self(0xCAFE);
    /// The send buffer of DPDK and FreeBSD.
    pub const SEND: Self = Self(0xFACE);
    /// The send buffer of Linux.
    pub const SEND_LINUX: Self = Self(0);
}

message! {
    /// Guest gives the receive buffer.
    SendReceiveBuffer = SEND_RECEIVE_BUFFER, 12 bytes {
        /// The memory.
        4 => gpadl: GpadlHandle,
        /// The guest's name for it.
        8 => id: BufferId,
    }
}

message! {
    /// Guest takes the receive buffer back; no answer follows.
    RevokeReceiveBuffer = REVOKE_RECEIVE_BUFFER, 6 bytes {
        /// The buffer's name.
        4 => id: BufferId,
    }
}

message! {
    /// Guest gives the send buffer.
    SendSendBuffer = SEND_SEND_BUFFER, 12 bytes {
        /// The memory.
        4 => gpadl: GpadlHandle,
        /// The guest's name for it.
        8 => id: BufferId,
    }
}

message! {
    /// Host answers [`SendSendBuffer`].
    SendSendBufferComplete = SEND_SEND_BUFFER_COMPLETE, 12 bytes {
        /// Whether the host takes the buffer.
        4 => status: Status,
        /// Bytes in one section of the send buffer; 6144 from Windows and OpenVMM.
        8 => section_size: u32,
    }
}

message! {
    /// Guest takes the send buffer back; no answer follows.
    RevokeSendBuffer = REVOKE_SEND_BUFFER, 6 bytes {
        /// The buffer's name.
        4 => id: BufferId,
    }
}

/// One section of the receive buffer: a run of sub-allocations of equal size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReceiveSection {
    /// Bytes from the buffer's start.
    pub offset: u32,
    /// Bytes in one sub-allocation.
    pub sub_allocation_size: u32,
    /// Number of sub-allocations.
    pub sub_allocation_count: u32,
    /// End of the section in bytes from the buffer's start.
    pub end_offset: u32,
}

impl Wire for ReceiveSection {
    type Value = Self;
    const SIZE: usize = 16;

    fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            offset: u32::read(bytes)?,
            sub_allocation_size: u32::read(bytes.get(4..)?)?,
            sub_allocation_count: u32::read(bytes.get(8..)?)?,
            end_offset: u32::read(bytes.get(12..)?)?,
        })
    }

    fn write(value: Self, out: &mut [u8]) {
        field::put::<u32>(out, 0, value.offset);
        field::put::<u32>(out, 4, value.sub_allocation_size);
        field::put::<u32>(out, 8, value.sub_allocation_count);
        field::put::<u32>(out, 12, value.end_offset);
    }
}

/// Host answers [`SendReceiveBuffer`] and tells how it divided the buffer.
///
/// Hosts name one section; guests refuse any other number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendReceiveBufferComplete<'a> {
    /// Whether the host takes the buffer.
    pub status: Status,
    /// The sections.
    pub sections: Records<'a, ReceiveSection>,
}

impl<'a> SendReceiveBufferComplete<'a> {
    /// The type this message carries in its first four bytes.
    pub const MESSAGE_TYPE: MessageType = MessageType::SEND_RECEIVE_BUFFER_COMPLETE;
    /// Bytes a receiver needs if there are no sections; each section adds 16.
    pub const MIN_LEN: usize = 12;

    /// Reads the message from the front of `bytes`; more bytes than needed are fine.
    ///
    /// # Errors
    /// [`ParseError::Truncated`] naming the first field that is missing, `sections` if the message
    /// is too short for the sections it announces; [`ParseError::Unexpected`] if `bytes` hold
    /// another message.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let message = Self::MESSAGE_TYPE.label();
        message_type::expect(bytes, Self::MESSAGE_TYPE)?;
        let status = field::read::<Status>(bytes, message, 4, "status")?;
        let count = field::read::<u32>(bytes, message, 8, "section_count")?;
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let sections = Records::parse(bytes, message, "sections", Self::MIN_LEN, count)?;
        Ok(Self { status, sections })
    }

    /// Bytes that [`emit`](Self::emit) writes.
    #[must_use]
    pub fn buffer_len(&self) -> usize {
        Self::MIN_LEN + self.sections.byte_len()
    }

    /// Writes the message without padding to the front of `out` and returns the bytes written.
    ///
    /// # Errors
    /// [`EmitError::BufferTooSmall`] or [`EmitError::TooManyRecords`]; `out` is then unchanged.
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, EmitError> {
        let limit = usize::try_from(u32::MAX).unwrap_or(usize::MAX);
        let count = self.sections.count("section_count", limit)?;
        let out = field::front_slice(out, self.buffer_len())?;
        field::put::<MessageType>(out, 0, Self::MESSAGE_TYPE);
        field::put::<Status>(out, 4, self.status);
        // Does not cut: checked against the limit above.
        field::put::<u32>(out, 8, count as u32);
        self.sections.write(&mut out[Self::MIN_LEN..]);
        Ok(out.len())
    }

    /// Writes the message and zeros up to `padded_len` bytes in all (never less than
    /// [`buffer_len`](Self::buffer_len)), and returns the bytes written.
    ///
    /// # Errors
    /// As [`emit`](Self::emit).
    pub fn emit_padded(&self, out: &mut [u8], padded_len: usize) -> Result<usize, EmitError> {
        field::pad(out, self.buffer_len(), padded_len, |out| self.emit(out))
    }
}
