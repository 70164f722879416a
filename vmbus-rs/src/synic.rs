//! How control messages and signals travel: SynIC message slots, event flags, and the inputs of two hypercalls.
//!
//! Layouts and positions only. Whoever owns a real SynIC page consumes a slot in this order: copy it to private memory,
//! handle the copy, change the type from the old value to zero by compare-exchange, full barrier, and write EOM if more
//! messages are pending. Clearing without comparing can drop a message, and EOM before clearing loses the queue.
//!
//! Sources: the Hypervisor Top Level Functional Specification, chapters on inter-partition communication; Linux
//! `drivers/hv/hyperv_vmbus.h`, `hv.c`, `vmbus_drv.c`; OpenVMM `hv1/hvdef`.

use core::fmt;

use crate::monitor::PageBit;
use crate::protocol::{ConnectionId, MAX_MESSAGE};

/// Bytes of a message slot, and of the input of HvCallPostMessage.
pub const SLOT_LEN: usize = 256;

/// Interrupt source that VMBus uses.
pub const VMBUS_SINT: u8 = 2;

/// Number of interrupt sources.
pub const SINT_COUNT: u8 = 16;

/// Message type word of a VMBus message, in slots and hypercall inputs.
pub const MESSAGE_TYPE_VMBUS: u32 = 1;

/// Message type word of a timer expiration.
pub const MESSAGE_TYPE_TIMER: u32 = 0x8000_0010;

/// Register to write (any value) once a slot was freed and more messages are pending.
pub const MSR_EOM: u32 = 0x4000_0084;

/// Call code of HvCallPostMessage.
pub const HVCALL_POST_MESSAGE: u16 = 0x5c;

/// Call code of HvCallSignalEvent.
pub const HVCALL_SIGNAL_EVENT: u16 = 0x5d;

/// Event flags of one interrupt source.
pub const EVENT_FLAGS: u32 = 2048;

/// Offset of an interrupt source's slot in the message page, and of its flags in the event page: both are 256 bytes
/// each. `None` if there is no such source.
pub fn sint_offset(sint: u8) -> Option<usize> {
    (sint < SINT_COUNT).then(|| usize::from(sint) * SLOT_LEN)
}

/// Where an event flag stands in the event page; `None` if there is no such source or flag.
///
/// By default a channel's flag has the number of the channel. Flag 0 announces the interrupt page of old hosts.
pub fn event_flag(sint: u8, flag: u32) -> Option<PageBit> {
    let base = sint_offset(sint)?;
    let word_offset = base + usize::try_from(flag / 32).ok()? * 4;
    (flag < EVENT_FLAGS).then_some(PageBit { word_offset, mask: 1 << (flag % 32) })
}

/// A message from the host, in a private copy of its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot<'a> {
    /// [`MESSAGE_TYPE_VMBUS`], a timer, or another type of the hypervisor's.
    pub message_type: u32,
    /// More messages wait for this slot to be freed.
    pub more_pending: bool,
    /// Sender's port, or another id by type.
    pub id: u64,
    /// The message.
    pub payload: &'a [u8],
}

impl<'a> Slot<'a> {
    /// Reads a slot; `Ok(None)` if it is free.
    ///
    /// # Errors
    /// [`SlotError::PayloadTooLong`] if the slot claims more than [`MAX_MESSAGE`] bytes. It has to be freed all the same.
    pub fn parse(slot: &'a [u8; SLOT_LEN]) -> Result<Option<Self>, SlotError> {
        let [t0, t1, t2, t3, payload_size, flags, _, _, rest @ ..] = slot;
        let message_type = u32::from_le_bytes([*t0, *t1, *t2, *t3]);
        if message_type == 0 {
            return Ok(None);
        }
        let too_long = SlotError::PayloadTooLong { payload_size: *payload_size, limit: MAX_MESSAGE };
        let (id, payload) = rest.split_first_chunk().ok_or(too_long)?;
        Ok(Some(Self {
            message_type,
            more_pending: flags & FLAG_MORE_PENDING != 0,
            id: u64::from_le_bytes(*id),
            payload: payload.get(..usize::from(*payload_size)).ok_or(too_long)?,
        }))
    }

    /// The slot's bytes, unused ones zero.
    ///
    /// # Errors
    /// [`SlotError::PostTooLong`].
    pub fn to_bytes(&self) -> Result<[u8; SLOT_LEN], SlotError> {
        let payload_size = payload_size(self.payload)?;
        let mut slot = [0; SLOT_LEN];
        let flags = if self.more_pending { FLAG_MORE_PENDING } else { 0 };
        fill(&mut slot, &self.message_type.to_le_bytes(), 0);
        fill(&mut slot, &[payload_size, flags], 4);
        fill(&mut slot, &self.id.to_le_bytes(), 8);
        fill(&mut slot, self.payload, PAYLOAD_OFFSET);
        Ok(slot)
    }
}

/// Input of HvCallPostMessage: a message to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PostMessage<'a> {
    /// Where it goes.
    pub connection_id: ConnectionId,
    /// [`MESSAGE_TYPE_VMBUS`].
    pub message_type: u32,
    /// The message.
    pub payload: &'a [u8],
}

impl<'a> PostMessage<'a> {
    /// Reads an input.
    ///
    /// # Errors
    /// [`SlotError::PostTooLong`] if it claims more than [`MAX_MESSAGE`] bytes.
    pub fn parse(input: &'a [u8; SLOT_LEN]) -> Result<Self, SlotError> {
        let [c0, c1, c2, c3, _, _, _, _, t0, t1, t2, t3, s0, s1, s2, s3, payload @ ..] = input;
        let payload_size = u32::from_le_bytes([*s0, *s1, *s2, *s3]);
        Ok(Self {
            connection_id: ConnectionId(u32::from_le_bytes([*c0, *c1, *c2, *c3])),
            message_type: u32::from_le_bytes([*t0, *t1, *t2, *t3]),
            payload: usize::try_from(payload_size)
                .ok()
                .and_then(|len| payload.get(..len))
                .ok_or(SlotError::PostTooLong { payload_size, limit: MAX_MESSAGE })?,
        })
    }

    /// The input's bytes, unused ones zero so that no guest memory leaks into them.
    ///
    /// # Errors
    /// [`SlotError::PostTooLong`].
    pub fn to_bytes(&self) -> Result<[u8; SLOT_LEN], SlotError> {
        let payload_size = u32::from(payload_size(self.payload)?);
        let mut input = [0; SLOT_LEN];
        fill(&mut input, &self.connection_id.0.to_le_bytes(), 0);
        fill(&mut input, &self.message_type.to_le_bytes(), 8);
        fill(&mut input, &payload_size.to_le_bytes(), 12);
        fill(&mut input, self.payload, PAYLOAD_OFFSET);
        Ok(input)
    }
}

/// Input of HvCallSignalEvent, which travels in one register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignalEvent {
    /// Where the event goes.
    pub connection_id: ConnectionId,
    /// Which flag of it; 0 unless the monitor parameter says otherwise.
    pub flag_number: u16,
}

impl SignalEvent {
    /// The register.
    pub const fn to_u64(self) -> u64 {
        self.connection_id.0 as u64 | (self.flag_number as u64) << 32
    }

    /// From the register; its upper 16 bits are reserved and ignored.
    pub const fn from_u64(input: u64) -> Self {
        Self { connection_id: ConnectionId((input & 0xffff_ffff) as u32), flag_number: (input >> 32 & 0xffff) as u16 }
    }
}

/// Result of a hypercall.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HypercallStatus(pub u16);

impl HypercallStatus {
    /// Done.
    pub const SUCCESS: Self = Self(0);
    /// The hypervisor lacks memory; later it may have some.
    pub const INSUFFICIENT_MEMORY: Self = Self(0x0b);
    /// Nobody listens on the connection id: for INITIATE_CONTACT on [`ConnectionId::CONTACT`], the host is older.
    pub const INVALID_CONNECTION_ID: Self = Self(0x12);
    /// The host did not yet take earlier messages.
    pub const INSUFFICIENT_BUFFERS: Self = Self(0x13);

    /// Whether the same call may succeed later. Not for INITIATE_CONTACT and an invalid connection id.
    pub fn is_transient(self) -> bool {
        matches!(self, Self::INSUFFICIENT_MEMORY | Self::INVALID_CONNECTION_ID | Self::INSUFFICIENT_BUFFERS)
    }
}

impl fmt::Display for HypercallStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A length that a slot or a hypercall input cannot have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SlotError {
    /// `payload_size` of a slot exceeds the payload.
    PayloadTooLong {
        /// The size found, at most 255.
        payload_size: u8,
        /// Largest size.
        limit: usize,
    },
    /// `payload_size` of a hypercall input, or the message to write, exceeds the payload.
    PostTooLong {
        /// The size found.
        payload_size: u32,
        /// Largest size.
        limit: usize,
    },
}

impl fmt::Display for SlotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (size, limit) = match *self {
            Self::PayloadTooLong { payload_size, limit } => (u32::from(payload_size), limit),
            Self::PostTooLong { payload_size, limit } => (payload_size, limit),
        };
        write!(f, "payload_size is {size}, limit {limit}")
    }
}

impl core::error::Error for SlotError {}

/// Where the payload of a slot and of a hypercall input starts.
const PAYLOAD_OFFSET: usize = 16;

/// More messages wait.
const FLAG_MORE_PENDING: u8 = 0x1;

/// The length of a payload to write.
fn payload_size(payload: &[u8]) -> Result<u8, SlotError> {
    let limit = MAX_MESSAGE;
    let too_long = SlotError::PostTooLong { payload_size: u32::try_from(payload.len()).unwrap_or(u32::MAX), limit };
    match u8::try_from(payload.len()) {
        Ok(size) if payload.len() <= limit => Ok(size),
        _ => Err(too_long),
    }
}

/// Copies `bytes` to `offset`; the callers' offsets and the checked payload length fit the slot.
fn fill(slot: &mut [u8; SLOT_LEN], bytes: &[u8], offset: usize) {
    for (to, from) in slot.iter_mut().skip(offset).zip(bytes) {
        *to = *from;
    }
}
