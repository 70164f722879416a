//! IPv4 addresses with their prefix, as people write them: `192.0.2.1/24`.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use smoltcp::wire::{IpCidr, Ipv4Cidr};

/// A host's address and the length of its network's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostAddress {
    address: Ipv4Addr,
    prefix: u8,
}

impl HostAddress {
    /// The address.
    pub fn address(self) -> Ipv4Addr {
        self.address
    }

    /// Bits of the prefix, 1 to 31.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The first other host address of the network.
    #[must_use]
    pub fn first_other(self) -> Self {
        let first = Self { address: hosts(self.address, self.prefix).0.into(), ..self };
        let second = Self { address: (u32::from(first.address) + 1).into(), ..self };
        if first == self { second } else { first }
    }
}

impl From<HostAddress> for IpCidr {
    fn from(host: HostAddress) -> Self {
        Self::Ipv4(Ipv4Cidr::new(host.address, host.prefix))
    }
}

impl FromStr for HostAddress {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, ParseAddressError> {
        let (address, prefix) = text.split_once('/').ok_or(ParseAddressError::Form)?;
        let address: Ipv4Addr = address.parse().map_err(|_| ParseAddressError::Form)?;
        let prefix = prefix.parse().map_err(|_| ParseAddressError::Form)?;
        if !(1..=31).contains(&prefix) {
            return Err(ParseAddressError::Prefix { prefix });
        }
        let (first, last) = hosts(address, prefix);
        if !(first..=last).contains(&address.into()) || address.is_multicast() || address.is_unspecified() {
            return Err(ParseAddressError::NoHost { address });
        }
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for HostAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// The first and the last address that a host may have. Both of a /31 (RFC 3021), else neither the network's own nor
/// the broadcast address.
fn hosts(address: Ipv4Addr, prefix: u8) -> (u32, u32) {
    let low_bits = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
    let (network, broadcast) = (u32::from(address) & !low_bits, u32::from(address) | low_bits);
    if prefix == 31 { (network, broadcast) } else { (network + 1, broadcast - 1) }
}

/// Text that is no address of a host in a network with room for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseAddressError {
    /// It is not an IPv4 address, a slash and a number.
    Form,
    /// The number is no length of a prefix that leaves room for two hosts.
    Prefix {
        /// The number.
        prefix: u8,
    },
    /// The address is not that of a host.
    NoHost {
        /// The address.
        address: Ipv4Addr,
    },
}

impl fmt::Display for ParseAddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Form => f.write_str("not an IPv4 address and a prefix length, as in 192.0.2.1/24"),
            Self::Prefix { prefix } => write!(f, "prefix length {prefix} is not from 1 to 31"),
            Self::NoHost { address } => write!(f, "{address} is not the address of a host of that network"),
        }
    }
}

impl std::error::Error for ParseAddressError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn other(text: &str) -> String {
        text.parse::<HostAddress>().unwrap().first_other().to_string()
    }

    #[test]
    fn the_machine_gets_the_first_other_address() {
        assert_eq!(other("192.0.2.1/24"), "192.0.2.2/24");
        assert_eq!(other("192.0.2.2/24"), "192.0.2.1/24");
        assert_eq!(other("192.0.2.200/25"), "192.0.2.129/25");
        assert_eq!(other("192.0.2.4/31"), "192.0.2.5/31");
        assert_eq!(other("192.0.2.5/31"), "192.0.2.4/31");
    }

    #[test]
    fn refuses_what_is_no_host() {
        let error = |text: &str| text.parse::<HostAddress>().unwrap_err();
        assert_eq!(error("192.0.2.1"), ParseAddressError::Form);
        assert_eq!(error("192.0.2.1/x"), ParseAddressError::Form);
        assert_eq!(error("192.0.2.1/32"), ParseAddressError::Prefix { prefix: 32 });
        assert_eq!(error("192.0.2.1/0"), ParseAddressError::Prefix { prefix: 0 });
        let no_host = |address: [u8; 4]| ParseAddressError::NoHost { address: address.into() };
        assert_eq!(error("192.0.2.0/24"), no_host([192, 0, 2, 0]));
        assert_eq!(error("192.0.2.255/24"), no_host([192, 0, 2, 255]));
        assert_eq!(error("224.0.0.1/24"), no_host([224, 0, 0, 1]));
    }
}
