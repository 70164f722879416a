//! Messages that lend guest memory to the host and take it back.
//!
//! The range data they carry is the subject of [`crate::gpadl`]. Source: Linux `drivers/hv/channel.c`; OpenVMM
//! `vmbus_core/src/protocol.rs`.

use super::codec::{Reader, Writer, fixed_layout};
use super::{ParseError, RelId, Status};
use crate::gpadl::GpadlId;

/// GPADL_HEADER (type 8, guest to host): the start of a range list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpadlHeader<'a> {
    /// The channel the memory belongs to.
    pub relid: RelId,
    /// The guest's name for the memory.
    pub gpadl: GpadlId,
    /// Bytes of all range data, those of the bodies that follow included.
    pub range_buflen: u16,
    /// Ranges in the list.
    pub range_count: u16,
    /// The first range data; on the host's side possibly followed by bytes that mean nothing.
    pub data: &'a [u8],
}

impl<'a> GpadlHeader<'a> {
    /// Bytes of the body before `data`, the header not counted.
    pub(crate) const BODY_LEN: usize = 12;

    pub(crate) fn read(reader: &mut Reader<'a>) -> Result<Self, ParseError> {
        Ok(Self {
            relid: reader.take("relid")?,
            gpadl: reader.take("gpadl")?,
            range_buflen: reader.take("range_buflen")?,
            range_count: reader.take("range_count")?,
            data: reader.rest(),
        })
    }

    pub(crate) fn write(&self, writer: &mut Writer<'_>) {
        writer.put(self.relid);
        writer.put(self.gpadl);
        writer.put(self.range_buflen);
        writer.put(self.range_count);
        writer.bytes(self.data);
    }
}

/// GPADL_BODY (type 9, guest to host): more range data. It names no channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpadlBody<'a> {
    /// Zero from Linux and OpenVMM, and not looked at by the host.
    pub message_number: u32,
    /// The list being continued.
    pub gpadl: GpadlId,
    /// Range data; on the host's side possibly followed by bytes that mean nothing.
    pub data: &'a [u8],
}

impl<'a> GpadlBody<'a> {
    /// Bytes of the body before `data`, the header not counted.
    pub(crate) const BODY_LEN: usize = 8;

    pub(crate) fn read(reader: &mut Reader<'a>) -> Result<Self, ParseError> {
        Ok(Self { message_number: reader.take("message_number")?, gpadl: reader.take("gpadl")?, data: reader.rest() })
    }

    pub(crate) fn write(&self, writer: &mut Writer<'_>) {
        writer.put(self.message_number);
        writer.put(self.gpadl);
        writer.bytes(self.data);
    }
}

fixed_layout! {
    /// GPADL_CREATED (type 10, host to guest).
    pub struct GpadlCreated {
        /// The channel.
        pub relid: RelId,
        /// The memory.
        pub gpadl: GpadlId,
        /// Zero if the host has it.
        pub status: Status,
    }
}

fixed_layout! {
    /// GPADL_TEARDOWN (type 11, guest to host): asks for the memory back.
    pub struct GpadlTeardown {
        /// The channel.
        pub relid: RelId,
        /// The memory.
        pub gpadl: GpadlId,
    }
}

fixed_layout! {
    /// GPADL_TORNDOWN (type 12, host to guest): the host does not touch the memory any more.
    pub struct GpadlTorndown {
        /// The memory. No channel is named, so the id has to be unique on the connection.
        pub gpadl: GpadlId,
    }
}
