//! Globally unique identifiers: device classes and device instances.
//!
//! The wire form mixes byte orders: the first three fields are little-endian, the last eight bytes stand as they are
//! printed. Source: Linux `include/linux/uuid.h` (`guid_t`), and the device classes of `include/linux/hyperv.h`.

use core::fmt;
use core::str::FromStr;

/// A GUID, held in its 16-byte wire form.
///
/// ```
/// use vmbus::guid::Guid;
///
/// let class: Guid = "f8615163-df3e-46c5-913f-f2d2f965ed0e".parse()?;
/// assert_eq!(class, Guid::NIC);
/// assert_eq!(class.to_bytes()[..4], [0x63, 0x51, 0x61, 0xf8]);
/// # Ok::<(), vmbus::guid::ParseGuidError>(())
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Guid([u8; 16]);

impl Guid {
    /// Bytes of a GUID on the wire.
    pub const LEN: usize = 16;

    /// All zero: "none".
    pub const ZERO: Self = Self([0; 16]);
    /// Synthetic network adapter.
    pub const NIC: Self = Self::new(0xf861_5163, 0xdf3e, 0x46c5, 0x913f_f2d2_f965_ed0e);
    /// Synthetic IDE disk.
    pub const IDE: Self = Self::new(0x3241_2632, 0x86cb, 0x44a2, 0x9b5c_50d1_4173_54f5);
    /// Synthetic SCSI controller.
    pub const SCSI: Self = Self::new(0xba61_63d9, 0x04a1, 0x4d29, 0xb605_72e2_ffb1_dc7f);
    /// Synthetic Fibre Channel adapter.
    pub const FIBRE_CHANNEL: Self = Self::new(0x2f9b_cc4a, 0x0069, 0x4af3, 0xb76b_6fd0_be52_8cda);
    /// PCI pass-through: the bus a virtual function arrives on.
    pub const VPCI: Self = Self::new(0x44c4_f61d, 0x4444, 0x4400, 0x9d52_802e_27ed_e19f);
    /// Shutdown requests.
    pub const SHUTDOWN: Self = Self::new(0x0e0b_6031, 0x5213, 0x4934, 0x818b_38d9_0ced_39db);
    /// Time synchronisation.
    pub const TIME_SYNC: Self = Self::new(0x9527_e630, 0xd0ae, 0x497b, 0xadce_e80a_b017_5caf);
    /// Heartbeat.
    pub const HEARTBEAT: Self = Self::new(0x5716_4f39, 0x9115, 0x4e78, 0xab55_382f_3bd5_422d);
    /// Key-value pair exchange.
    pub const KVP: Self = Self::new(0xa9a0_f4e7, 0x5a45, 0x4d96, 0xb827_8a84_1e8c_03e6);
    /// Volume shadow copy.
    pub const VSS: Self = Self::new(0x35fa_2e29, 0xea23, 0x4236, 0x96ae_3a6e_bacb_a440);
    /// File copy.
    pub const FILE_COPY: Self = Self::new(0x34d1_4be3, 0xdee4, 0x41c8, 0x9ae7_6b17_4977_c192);
    /// Dynamic memory (the balloon).
    pub const DYNAMIC_MEMORY: Self = Self::new(0x5250_74dc, 0x8985, 0x46e2, 0x8057_a307_dc18_a502);
    /// Network Direct RDMA.
    pub const RDMA: Self = Self::new(0x8c2e_af3d, 0x32a7, 0x4b09, 0xab99_bd1f_1c86_b501);

    /// A GUID from its printed fields; `tail` holds the last two groups as one big-endian number.
    pub const fn new(data1: u32, data2: u16, data3: u16, tail: u64) -> Self {
        let a = data1.to_le_bytes();
        let b = data2.to_le_bytes();
        let c = data3.to_le_bytes();
        let d = tail.to_be_bytes();
        Self([a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]])
    }

    /// A GUID from its wire form.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The wire form.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0
    }

    /// Whether every byte is zero.
    pub fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }
}

/// Position in the wire form of each printed byte, left to right.
const PRINTED: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];

/// Lower case, hyphenated, without braces; `{:#}` adds the braces that sysfs prints.
impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0_u8; 36];
        let mut out = text.iter_mut();
        for (index, &position) in PRINTED.iter().enumerate() {
            let hyphen = matches!(index, 4 | 6 | 8 | 10).then_some(b'-');
            let [high, low] = hex_pair(self.0[position]);
            for (digit, slot) in hyphen.into_iter().chain([high, low]).zip(&mut out) {
                *slot = digit;
            }
        }
        let text = core::str::from_utf8(&text).map_err(|_| fmt::Error)?;
        if f.alternate() { write!(f, "{{{text}}}") } else { f.pad(text) }
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guid({self})")
    }
}

/// Hyphenated text, with or without braces, in either case.
impl FromStr for Guid {
    type Err = ParseGuidError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bare = match text.strip_prefix('{') {
            Some(rest) => rest.strip_suffix('}').ok_or(ParseGuidError::UnbalancedBraces)?,
            None => text,
        };
        let bytes = bare.as_bytes();
        if bytes.len() != 36 {
            return Err(ParseGuidError::BadLength { len: bytes.len(), expected: 36 });
        }
        let mut guid = [0; 16];
        let mut nibbles = 0;
        for (position, &byte) in bytes.iter().enumerate() {
            let bad = ParseGuidError::BadCharacter { position, byte };
            if matches!(position, 8 | 13 | 18 | 23) {
                if byte != b'-' {
                    return Err(bad);
                }
                continue;
            }
            let digit = char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
            let digit = digit.ok_or(bad)?;
            // 36 bytes less four hyphens are 32 nibbles, so `nibbles / 2` stays below 16.
            let target = &mut guid[PRINTED[nibbles / 2]];
            *target = *target << 4 | digit;
            nibbles += 1;
        }
        Ok(Self(guid))
    }
}

/// Why text is not a GUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseGuidError {
    /// The text without braces has the wrong length.
    BadLength {
        /// Bytes found.
        len: usize,
        /// Bytes of a printed GUID.
        expected: usize,
    },
    /// A byte is neither the hexadecimal digit nor the hyphen that belongs there.
    BadCharacter {
        /// Position in the text without braces.
        position: usize,
        /// The byte found.
        byte: u8,
    },
    /// An opening brace without a closing one.
    UnbalancedBraces,
}

impl fmt::Display for ParseGuidError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadLength { len, expected } => {
                write!(f, "guid text has {len} bytes, expected {expected}")
            }
            Self::BadCharacter { position, byte } => {
                write!(f, "guid text has byte {byte:#04x} at position {position}")
            }
            Self::UnbalancedBraces => f.write_str("guid text opens a brace and does not close it"),
        }
    }
}

impl core::error::Error for ParseGuidError {}

/// The two lower-case hexadecimal digits of a byte.
fn hex_pair(byte: u8) -> [u8; 2] {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 0xf)]]
}
