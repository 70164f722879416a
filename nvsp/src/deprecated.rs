//! Version 2 messages about further receive buffers (types 120 to 122). No known guest or host uses
//! them.
//!
//! Source: Linux `drivers/net/hyperv/hyperv_net.h` (`nvsp_2_*`).

use crate::{GpadlHandle, Status, field::message};

message! {
    /// Asks for a receive buffer.
    AllocateReceiveBuffer = ALLOCATE_RECEIVE_BUFFER, 12 bytes {
        /// Matches the answer to the request.
        4 => allocation_id: u32,
        /// Bytes wanted.
        8 => byte_count: u32,
    }
}

message! {
    /// Answers [`AllocateReceiveBuffer`].
    AllocateReceiveBufferComplete = ALLOCATE_RECEIVE_BUFFER_COMPLETE, 24 bytes {
        /// Outcome.
        4 => status: Status,
        /// From the request.
        8 => allocation_id: u32,
        /// The memory.
        12 => gpadl: GpadlHandle,
        /// The buffer's name from now on.
        16 => receive_buffer_id: u64,
    }
}

message! {
    /// Gives a receive buffer back.
    FreeReceiveBuffer = FREE_RECEIVE_BUFFER, 12 bytes {
        /// The buffer's name.
        4 => receive_buffer_id: u64,
    }
}
