//! What hosts offer to do for a guest; also for the unit tests of `offload`.

use rndis::offload::{ChecksumTask, ChecksumV4Flags, ChecksumV6Flags, Encapsulation, LsoTaskV2, LsoV6Options, Offload};

/// What Windows Server 2016 and Azure offer.
pub(crate) fn everything() -> Offload {
    let lso = LsoTaskV2 { encapsulation: Encapsulation::IEEE_802_3, max_size: 0xF53C, min_segments: 2 };
    let v4 = ChecksumTask { encapsulation: Encapsulation::IEEE_802_3, flags: ChecksumV4Flags(0x155) };
    let v6 = ChecksumTask { encapsulation: Encapsulation::IEEE_802_3, flags: ChecksumV6Flags(0x55) };
    Offload {
        checksum_v4_tx: v4,
        checksum_v4_rx: v4,
        checksum_v6_tx: v6,
        checksum_v6_rx: v6,
        lso_v2_v4: lso,
        lso_v2_v6: lso,
        lso_v2_v6_options: LsoV6Options(5),
        rsc_v4: 1,
        rsc_v6: 1,
        ..Offload::empty(3)
    }
}
