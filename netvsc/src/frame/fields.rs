//! Where the fields that this crate reads or writes stand in their headers, in bytes from the header's start.

/// Ethernet.
pub(crate) mod ethernet {
    pub(crate) const TYPE: usize = 12;
    /// Bytes of an 802.1Q or 802.1ad tag.
    pub(crate) const TAG_LEN: usize = 4;
    pub(crate) const TYPE_IPV4: u16 = 0x0800;
    pub(crate) const TYPE_IPV6: u16 = 0x86DD;
    /// 802.1Q, 802.1ad, and the number that QinQ had before 802.1ad.
    pub(crate) const TYPES_OF_TAGS: [u16; 3] = [0x8100, 0x88A8, 0x9100];
}

/// IPv4, RFC 791.
pub(crate) mod ipv4 {
    /// Bytes of a header without options.
    pub(crate) const LEN: usize = 20;
    pub(crate) const TOTAL_LEN: usize = 2;
    pub(crate) const ID: usize = 4;
    pub(crate) const FRAGMENT: usize = 6;
    pub(crate) const PROTOCOL: usize = 9;
    pub(crate) const CHECKSUM: usize = 10;
    pub(crate) const ADDRESSES: usize = 12;
    pub(crate) const ADDRESSES_LEN: usize = 8;
    /// "More fragments" and the offset, in the word at [`FRAGMENT`].
    pub(crate) const IS_FRAGMENT: u16 = 0x3FFF;
    /// "Do not fragment", in the same word.
    pub(crate) const DONT_FRAGMENT: u16 = 0x4000;
}

/// IPv6, RFC 8200.
pub(crate) mod ipv6 {
    /// Bytes of a header without extension headers.
    pub(crate) const LEN: usize = 40;
    pub(crate) const PAYLOAD_LEN: usize = 4;
    pub(crate) const NEXT: usize = 6;
    pub(crate) const ADDRESSES: usize = 8;
    pub(crate) const ADDRESSES_LEN: usize = 32;
    /// In a routing header.
    pub(crate) const SEGMENTS_LEFT: usize = 3;
    /// The option that names another source (RFC 6275).
    pub(crate) const OPTION_HOME_ADDRESS: u8 = 0xC9;
}

/// TCP, RFC 9293.
pub(crate) mod tcp {
    /// Bytes of a header without options.
    pub(crate) const LEN: usize = 20;
    pub(crate) const SEQUENCE: usize = 4;
    pub(crate) const ACKNOWLEDGMENT: usize = 8;
    /// The data offset, in its upper half.
    pub(crate) const DATA_OFFSET: usize = 12;
    pub(crate) const FLAGS: usize = 13;
    pub(crate) const WINDOW: usize = 14;
    pub(crate) const CHECKSUM: usize = 16;
    pub(crate) const FIN: u8 = 0x01;
    pub(crate) const SYN: u8 = 0x02;
    pub(crate) const RST: u8 = 0x04;
    pub(crate) const PSH: u8 = 0x08;
    pub(crate) const URG: u8 = 0x20;
    pub(crate) const CWR: u8 = 0x80;
}

/// UDP, RFC 768.
pub(crate) mod udp {
    pub(crate) const LEN: usize = 8;
    pub(crate) const LENGTH: usize = 4;
    pub(crate) const CHECKSUM: usize = 6;
}
