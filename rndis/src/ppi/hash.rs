//! What a flow hash covers: used by the hash-info element, and by the RSS OIDs to say what to hash.

bit_set! {
    /// Hash function (low byte) and what it covers.
    pub struct HashInfo(u32) {
        /// Function: Toeplitz.
        TOEPLITZ = 0x0_0001,
        /// IPv4 addresses.
        IPV4 = 0x0_0100,
        /// IPv4 addresses and TCP ports.
        TCP_IPV4 = 0x0_0200,
        /// IPv6 addresses.
        IPV6 = 0x0_0400,
        /// IPv6 addresses of extension headers.
        IPV6_EX = 0x0_0800,
        /// IPv6 addresses and TCP ports.
        TCP_IPV6 = 0x0_1000,
        /// IPv6 addresses of extension headers, and TCP ports.
        TCP_IPV6_EX = 0x0_2000,
        /// IPv4 addresses and UDP ports.
        UDP_IPV4 = 0x0_4000,
        /// IPv6 addresses and UDP ports.
        UDP_IPV6 = 0x0_8000,
        /// IPv6 addresses of extension headers, and UDP ports.
        UDP_IPV6_EX = 0x1_0000,
    }
}

impl HashInfo {
    /// What Linux asks for: Toeplitz over IPv4, TCP/IPv4, IPv6 and TCP/IPv6; UDP is hashed by its addresses.
    pub const LINUX: Self = Self(0x1701);

    /// The hash function, 0 for none and 1 for Toeplitz.
    #[must_use]
    #[inline]
    pub const fn function(self) -> u8 {
        (self.0 & 0xFF) as u8
    }

    /// The bits for what is covered, without the function.
    #[must_use]
    #[inline]
    pub const fn types(self) -> Self {
        Self(self.0 & !0xFF)
    }
}
