//! `REMOTE_NDIS_KEEPALIVE_MSG` and `_CMPLT`.

use super::fixed::message;
use crate::message::RequestId;
use crate::status::Status;

message! {
    /// Asks whether the other side still answers (`REMOTE_NDIS_KEEPALIVE_MSG`).
    KeepAlive = KEEPALIVE, 12 bytes {
        /// Id that the answer repeats.
        8 => request_id: RequestId = "RequestID",
    }
}

message! {
    /// Answers [`KeepAlive`] (`REMOTE_NDIS_KEEPALIVE_CMPLT`).
    KeepAliveComplete = KEEPALIVE_COMPLETE, 16 bytes {
        /// Id of the request.
        8 => request_id: RequestId = "RequestID",
        /// Outcome.
        12 => status: Status = "Status",
    }
}
