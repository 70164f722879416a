//! Byte counts as people write them: `1500`, `64KiB`, `256MiB`, `1GiB`.

use std::fmt;

/// Reads a byte count with an optional binary suffix (`KiB`, `MiB`, `GiB`, any case; `B` or nothing for bytes).
///
/// # Errors
/// Text that is not a number, an unknown suffix, more bytes than 64 bits hold.
pub fn parse(text: &str) -> Result<u64, ParseSizeError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, suffix) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| ParseSizeError::Number)?;
    let shift = match suffix.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "kib" => 10,
        "mib" => 20,
        "gib" => 30,
        _ => return Err(ParseSizeError::Suffix),
    };
    number.checked_mul(1 << shift).ok_or(ParseSizeError::Number)
}

/// Writes a byte count with the largest suffix that leaves at least 1, to one decimal.
pub fn display(bytes: u64) -> impl fmt::Display {
    struct Size(u64);
    impl fmt::Display for Size {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let Self(bytes) = *self;
            for (suffix, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
                let unit = 1u64 << shift;
                if bytes >= unit {
                    let tenths = (u128::from(bytes) * 10) >> shift;
                    return if bytes.is_multiple_of(unit) {
                        write!(f, "{} {suffix}", bytes >> shift)
                    } else {
                        write!(f, "{}.{} {suffix}", tenths / 10, tenths % 10)
                    };
                }
            }
            write!(f, "{bytes} B")
        }
    }
    Size(bytes)
}

/// Text that is no byte count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseSizeError {
    /// It does not start with a number, or the number does not fit in 64 bits.
    Number,
    /// It ends with an unknown suffix.
    Suffix,
}

impl fmt::Display for ParseSizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Number => "not a number of bytes below 2^64",
            Self::Suffix => "unknown suffix: KiB, MiB or GiB, or none for bytes",
        })
    }
}

impl std::error::Error for ParseSizeError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        assert_eq!(parse("0"), Ok(0));
        assert_eq!(parse("268435456"), Ok(256 << 20));
        assert_eq!(parse("64KiB"), Ok(64 << 10));
        assert_eq!(parse("256 mib"), Ok(256 << 20));
        assert_eq!(parse("1GiB"), Ok(1 << 30));
        assert_eq!(parse("MiB"), Err(ParseSizeError::Number));
        assert_eq!(parse("-1"), Err(ParseSizeError::Number));
        assert_eq!(parse("1MB"), Err(ParseSizeError::Suffix), "decimal or binary is anybody's guess");
        assert_eq!(parse("18446744073709551615GiB"), Err(ParseSizeError::Number));
    }

    #[test]
    fn writes_one_decimal() {
        assert_eq!(display(1023).to_string(), "1023 B");
        assert_eq!(display(256 << 20).to_string(), "256 MiB");
        assert_eq!(display((1 << 20) + (1 << 19)).to_string(), "1.5 MiB");
        assert_eq!(display(u64::MAX).to_string(), "17179869183.9 GiB");
    }
}
