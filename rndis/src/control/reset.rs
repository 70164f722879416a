//! `REMOTE_NDIS_RESET_MSG` and `_CMPLT`. OpenVMM does not implement them and treats the request as an error.

use super::fixed::message;
use crate::status::Status;

message! {
    /// Resets the device (`REMOTE_NDIS_RESET_MSG`); carries no request id.
    #[derive(Default)]
    Reset = RESET, 12 bytes {
        /// Reserved, 0.
        8 => reserved: u32 = "Reserved",
    }
}

message! {
    /// Answers [`Reset`] (`REMOTE_NDIS_RESET_CMPLT`); the only answer without a request id.
    ResetComplete = RESET_COMPLETE, 16 bytes {
        /// Outcome.
        8 => status: Status = "Status",
        /// Not 0 if the guest has to set its filter and multicast list again.
        12 => addressing_reset: u32 = "AddressingReset",
    }
}
