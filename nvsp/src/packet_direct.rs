//! Packet Direct (types 135 and 136, version 6.1): queues that the guest drives without VMBus.
//!
//! Linux, DPDK and FreeBSD do not use it; a host may refuse everything. The layouts are packed.
//! Request and answer share one type; who sent it tells which it is, and the operation tells the
//! rest of the layout. The message names are `PdConfiguration…`, `PdOpenProvider…` and so on;
//! [`PdRequest`] and [`PdComplete`] unite them.
//!
//! Source: OpenVMM `vm/devices/net/netvsp/src/protocol.rs`.

use crate::{
    EmitError, MessageType, NdisStatus, ParseError,
    field::{self, Wire, message, wire_newtype},
    message_type,
    records::Records,
};

/// What a Packet Direct message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PdOperation(pub u32);

wire_newtype!(PdOperation(u32));

impl PdOperation {
    /// Read the configuration.
    pub const CONFIGURATION: Self = Self(1);
    /// Turn Packet Direct on or off.
    pub const SWITCH_DATAPATH: Self = Self(2);
    /// Open a provider.
    pub const OPEN_PROVIDER: Self = Self(3);
    /// Close a provider.
    pub const CLOSE_PROVIDER: Self = Self(4);
    /// Create a queue.
    pub const CREATE_QUEUE: Self = Self(5);
    /// Flush a queue.
    pub const FLUSH_QUEUE: Self = Self(6);
    /// Free a queue.
    pub const FREE_QUEUE: Self = Self(7);
    /// Allocate a buffer that guest and host share.
    pub const ALLOCATE_COMMON_BUFFER: Self = Self(8);
    /// Free such a buffer.
    pub const FREE_COMMON_BUFFER: Self = Self(9);
}

/// A set of processors in one group (`GROUP_AFFINITY` of Windows).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct GroupAffinity {
    /// One bit a processor.
    pub mask: u64,
    /// The group.
    pub group: u16,
}

impl Wire for GroupAffinity {
    type Value = Self;
    /// Six reserved bytes follow the group.
    const SIZE: usize = 16;

    fn read(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..Self::SIZE)?;
        Some(Self { mask: u64::read(bytes)?, group: u16::read(bytes.get(8..)?)? })
    }

    fn write(value: Self, out: &mut [u8]) {
        out.fill(0);
        field::put::<u64>(out, 0, value.mask);
        field::put::<u16>(out, 8, value.group);
    }
}

message! {
    /// Asks for the configuration and names the guest's memory-mapped range.
    PdConfigurationRequest = PD_API, 22 bytes,
    fixed 4 => operation: PdOperation = PdOperation::CONFIGURATION;
    {
        /// Physical address of the range.
        8 => mmio_physical_address: u64,
        /// Bytes in the range.
        16 => mmio_length: u32,
        /// Queues wanted.
        20 => queue_count: u16,
    }
}

message! {
    /// Asks to turn Packet Direct on or off.
    PdSwitchDatapathRequest = PD_API, 10 bytes,
    fixed 4 => operation: PdOperation = PdOperation::SWITCH_DATAPATH;
    {
        /// Whether the host's path is Packet Direct.
        8 => host_is_packet_direct: bool,
        /// Whether the guest has Packet Direct enabled.
        9 => guest_is_enabled: bool,
    }
}

message! {
    /// Asks to open a provider.
    PdOpenProviderRequest = PD_API, 16 bytes,
    fixed 4 => operation: PdOperation = PdOperation::OPEN_PROVIDER;
    {
        /// The provider.
        8 => provider_id: u32,
        /// Flags; none are defined.
        12 => flags: u32,
    }
}

message! {
    /// Asks to close a provider.
    PdCloseProviderRequest = PD_API, 12 bytes,
    fixed 4 => operation: PdOperation = PdOperation::CLOSE_PROVIDER;
    {
        /// The provider.
        8 => provider_id: u32,
    }
}

message! {
    /// Asks for a queue.
    PdCreateQueueRequest = PD_API, 38 bytes,
    fixed 4 => operation: PdOperation = PdOperation::CREATE_QUEUE;
    {
        /// The provider.
        8 => provider_id: u32,
        /// The queue.
        12 => queue_id: u16,
        /// Entries in the queue.
        14 => queue_size: u16,
        /// Whether it receives.
        16 => is_receive_queue: bool,
        /// Whether it takes part in receive side scaling.
        17 => is_rss_queue: bool,
        /// Bytes received at most in one buffer.
        18 => receive_data_length: u32,
        /// Processors that serve it.
        22 => affinity: GroupAffinity,
    }
}

message! {
    /// Asks to flush a queue.
    PdFlushQueueRequest = PD_API, 14 bytes,
    fixed 4 => operation: PdOperation = PdOperation::FLUSH_QUEUE;
    {
        /// The provider.
        8 => provider_id: u32,
        /// The queue.
        12 => queue_id: u16,
    }
}

message! {
    /// Asks to free a queue.
    PdFreeQueueRequest = PD_API, 14 bytes,
    fixed 4 => operation: PdOperation = PdOperation::FREE_QUEUE;
    {
        /// The provider.
        8 => provider_id: u32,
        /// The queue.
        12 => queue_id: u16,
    }
}

message! {
    /// Asks for a common buffer.
    PdAllocateCommonBufferRequest = PD_API, 18 bytes,
    fixed 4 => operation: PdOperation = PdOperation::ALLOCATE_COMMON_BUFFER;
    {
        /// Bytes wanted.
        8 => length: u32,
        /// NUMA node wanted.
        12 => preferred_node: u32,
        /// Name of the region.
        16 => region_id: u16,
    }
}

message! {
    /// Asks to free a common buffer.
    PdFreeCommonBufferRequest = PD_API, 27 bytes,
    fixed 4 => operation: PdOperation = PdOperation::FREE_COMMON_BUFFER;
    {
        /// Bytes in the buffer.
        8 => length: u32,
        /// Its physical address.
        12 => physical_address: u64,
        /// Its NUMA node.
        20 => preferred_node: u32,
        /// Name of the region.
        24 => region_id: u16,
        /// How it is cached.
        26 => cache_type: u8,
    }
}

message! {
    /// Answers [`PdConfigurationRequest`].
    PdConfigurationComplete = PD_API, 17 bytes,
    fixed 4 => operation: PdOperation = PdOperation::CONFIGURATION;
    {
        /// Outcome.
        8 => status: NdisStatus,
        /// Queues there are.
        12 => queue_count: u16,
        /// How many of them may take part in receive side scaling.
        14 => receive_rss_queue_count: u8,
        /// Whether the host supports Packet Direct.
        15 => is_supported: bool,
        /// Whether the host has it enabled.
        16 => is_enabled: bool,
    }
}

message! {
    /// Answers [`PdOpenProviderRequest`].
    PdOpenProviderComplete = PD_API, 16 bytes,
    fixed 4 => operation: PdOperation = PdOperation::OPEN_PROVIDER;
    {
        /// Outcome.
        8 => status: NdisStatus,
        /// The provider.
        12 => provider_id: u32,
    }
}

message! {
    /// Answers [`PdCreateQueueRequest`]: with its 40 bytes the longest fixed message there is.
    PdCreateQueueComplete = PD_API, 40 bytes,
    fixed 4 => operation: PdOperation = PdOperation::CREATE_QUEUE;
    {
        /// Outcome.
        8 => status: NdisStatus,
        /// The provider.
        12 => provider_id: u32,
        /// The queue.
        16 => queue_id: u16,
        /// Entries in the queue.
        18 => queue_size: u16,
        /// Bytes received at most in one buffer.
        20 => receive_data_length: u32,
        /// Processors that serve it.
        24 => affinity: GroupAffinity,
    }
}

message! {
    /// Answers [`PdAllocateCommonBufferRequest`].
    PdAllocateCommonBufferComplete = PD_API, 31 bytes,
    fixed 4 => operation: PdOperation = PdOperation::ALLOCATE_COMMON_BUFFER;
    {
        /// Outcome.
        8 => status: NdisStatus,
        /// Its physical address.
        12 => physical_address: u64,
        /// Bytes in the buffer.
        20 => length: u32,
        /// Its NUMA node.
        24 => preferred_node: u32,
        /// Name of the region.
        28 => region_id: u16,
        /// How it is cached.
        30 => cache_type: u8,
    }
}

message! {
    /// The part that all answers have, and the whole answer to the operations without one of their
    /// own.
    PdStatusComplete = PD_API, 12 bytes {
        /// The request's operation.
        4 => operation: PdOperation,
        /// Outcome.
        8 => status: NdisStatus,
    }
}

/// Unites the messages of one direction.
macro_rules! united {
    (
        $(#[$meta:meta])* $name:ident, other $(#[$other_meta:meta])* $other:ident;
        $($operation:ident => $variant:ident($ty:ident),)*
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $(#[doc = concat!("[`PdOperation::", stringify!($operation), "`].")] $variant($ty),)*
            $(#[$other_meta])*
            Other($other),
        }

        impl $name {
            /// The type this message carries in its first four bytes.
            pub const MESSAGE_TYPE: MessageType = MessageType::PD_API;

            /// Reads the message from the front of `bytes`; more bytes than needed are fine.
            ///
            /// # Errors
            /// [`ParseError::Truncated`] naming the first field that is missing,
            /// [`ParseError::Unexpected`] if `bytes` hold another message.
            pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
                message_type::expect(bytes, Self::MESSAGE_TYPE)?;
                match field::read::<PdOperation>(bytes, Self::MESSAGE_TYPE.label(), 4, "operation")? {
                    $(PdOperation::$operation => $ty::parse(bytes).map(Self::$variant),)*
                    _ => $other::parse(bytes).map(Self::Other),
                }
            }

            /// Bytes that [`emit`](Self::emit) writes.
            #[must_use]
            pub const fn buffer_len(&self) -> usize {
                match self {
                    $(Self::$variant(message) => message.buffer_len(),)*
                    Self::Other(message) => message.buffer_len(),
                }
            }

            /// Writes the message without padding to the front of `out` and returns the bytes
            /// written.
            ///
            /// # Errors
            /// [`EmitError::BufferTooSmall`]; `out` is then unchanged.
            pub fn emit(&self, out: &mut [u8]) -> Result<usize, EmitError> {
                match self {
                    $(Self::$variant(message) => message.emit(out),)*
                    Self::Other(message) => message.emit(out),
                }
            }
        }
    };
}

message! {
    /// A request whose operation is unknown; what follows the operation is not kept.
    PdUnknownRequest = PD_API, 8 bytes {
        /// The operation.
        4 => operation: PdOperation,
    }
}

united! {
    /// A Packet Direct request, guest to host.
    PdRequest, other
    /// An operation that this crate does not know.
    PdUnknownRequest;
    CONFIGURATION => Configuration(PdConfigurationRequest),
    SWITCH_DATAPATH => SwitchDatapath(PdSwitchDatapathRequest),
    OPEN_PROVIDER => OpenProvider(PdOpenProviderRequest),
    CLOSE_PROVIDER => CloseProvider(PdCloseProviderRequest),
    CREATE_QUEUE => CreateQueue(PdCreateQueueRequest),
    FLUSH_QUEUE => FlushQueue(PdFlushQueueRequest),
    FREE_QUEUE => FreeQueue(PdFreeQueueRequest),
    ALLOCATE_COMMON_BUFFER => AllocateCommonBuffer(PdAllocateCommonBufferRequest),
    FREE_COMMON_BUFFER => FreeCommonBuffer(PdFreeCommonBufferRequest),
}

united! {
    /// A Packet Direct answer, host to guest.
    PdComplete, other
    /// Operations whose answer is a status only, and those that this crate does not know.
    PdStatusComplete;
    CONFIGURATION => Configuration(PdConfigurationComplete),
    OPEN_PROVIDER => OpenProvider(PdOpenProviderComplete),
    CREATE_QUEUE => CreateQueue(PdCreateQueueComplete),
    ALLOCATE_COMMON_BUFFER => AllocateCommonBuffer(PdAllocateCommonBufferComplete),
}

/// Bits of [`PdPostBatch::flags`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PdBatchFlags(pub u16);

wire_newtype!(PdBatchFlags(u16));

impl PdBatchFlags {
    /// From the guest to the host.
    pub const GUEST_TO_HOST: Self = Self(1 << 0);
    /// Receive buffers, not buffers to transmit.
    pub const IS_RECEIVE: Self = Self(1 << 1);

    /// Whether all bits of `other` are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// One buffer of a [`PdPostBatch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PdBuffer {
    /// Bytes from the region's start.
    pub region_offset: u32,
    /// The region.
    pub region_id: u16,
    /// Bit 0: the frame goes on in the next buffer.
    pub flags: u16,
}

impl PdBuffer {
    /// Bit of [`flags`](Self::flags): the frame goes on in the next buffer.
    pub const IS_PARTIAL: u16 = 1 << 0;
}

impl Wire for PdBuffer {
    type Value = Self;
    const SIZE: usize = 8;

    fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            region_offset: u32::read(bytes)?,
            region_id: u16::read(bytes.get(4..)?)?,
            flags: u16::read(bytes.get(6..)?)?,
        })
    }

    fn write(value: Self, out: &mut [u8]) {
        field::put::<u32>(out, 0, value.region_offset);
        field::put::<u16>(out, 4, value.region_id);
        field::put::<u16>(out, 6, value.flags);
    }
}

/// Buffers handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PdPostBatch<'a> {
    /// What the buffers are for.
    pub flags: PdBatchFlags,
    /// The buffers.
    pub buffers: Records<'a, PdBuffer>,
}

impl<'a> PdPostBatch<'a> {
    /// The type this message carries in its first four bytes.
    pub const MESSAGE_TYPE: MessageType = MessageType::PD_POST_BATCH;
    /// Bytes a receiver needs if there are no buffers; each buffer adds 8.
    pub const MIN_LEN: usize = 8;

    /// Reads the message from the front of `bytes`; more bytes than needed are fine.
    ///
    /// # Errors
    /// [`ParseError::Truncated`] naming the first field that is missing, `buffers` if the message
    /// is too short for the buffers it announces; [`ParseError::Unexpected`] if `bytes` hold
    /// another message.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let message = Self::MESSAGE_TYPE.label();
        message_type::expect(bytes, Self::MESSAGE_TYPE)?;
        let count = field::read::<u16>(bytes, message, 4, "count")?;
        let flags = field::read::<PdBatchFlags>(bytes, message, 6, "flags")?;
        let buffers = Records::parse(bytes, message, "buffers", Self::MIN_LEN, count.into())?;
        Ok(Self { flags, buffers })
    }

    /// Bytes that [`emit`](Self::emit) writes.
    #[must_use]
    pub fn buffer_len(&self) -> usize {
        Self::MIN_LEN + self.buffers.byte_len()
    }

    /// Writes the message without padding to the front of `out` and returns the bytes written.
    ///
    /// # Errors
    /// [`EmitError::BufferTooSmall`] or [`EmitError::TooManyRecords`]; `out` is then unchanged.
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, EmitError> {
        let count = self.buffers.count("count", u16::MAX.into())?;
        let out = field::front_slice(out, self.buffer_len())?;
        field::put::<MessageType>(out, 0, Self::MESSAGE_TYPE);
        // Does not cut: checked against the limit above.
        field::put::<u16>(out, 4, count as u16);
        field::put::<PdBatchFlags>(out, 6, self.flags);
        self.buffers.write(&mut out[Self::MIN_LEN..]);
        Ok(out.len())
    }
}
