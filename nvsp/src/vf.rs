//! Virtual functions: association and the switch of the data path (types 128 to 130, version 4 and
//! later).
//!
//! Source: Linux `drivers/net/hyperv/netvsc.c` (`netvsc_send_vf`, `netvsc_switch_datapath`).

use crate::field::{Bool32, message, wire_newtype};

message! {
    /// Host gives a virtual function to the guest or takes it away.
    ///
    /// It may repeat; the removal repeats the serial number of the association.
    VfAssociation = VF_ASSOCIATION, 12 bytes {
        /// Whether a virtual function is assigned (any value but zero on the wire).
        4 => allocated: bool as Bool32,
        /// Serial number, by which the guest finds the PCI function.
        8 => serial_number: u32,
    }
}

/// The path that carries the traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DataPath(pub u32);

wire_newtype!(DataPath(u32));

impl DataPath {
    /// VMBus.
    pub const SYNTHETIC: Self = Self(0);
    /// The virtual function.
    pub const VF: Self = Self(1);
}

message! {
    /// The sender wants traffic to move to the named path.
    ///
    /// The answer is an empty completion, without an NVSP message.
    SwitchDataPath = SWITCH_DATA_PATH, 8 bytes {
        /// The path to use from now on.
        4 => active_path: DataPath,
    }
}

message! {
    /// Deprecated; receivers ignore it.
    UplinkConnectState = UPLINK_CONNECT_STATE, 4 bytes {}
}
