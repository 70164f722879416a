//! One thing that host or guest does.

use vmbus::bus::BusEvent;
use vmbus::gpadl::GpadlId;
use vmbus::packet::TransferRange;
use vmbus::protocol::RelId;

use super::Ring;
use crate::Bytes;

/// Which transaction id a packet has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Id {
    /// That of the guest's n-th last packet for which it wants a completion.
    Recent(u8),
    /// Any.
    Any(u64),
}

/// Changes to a message that was right.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edit {
    /// Bytes to write over, by offset modulo the message's length.
    pub bytes: Vec<(u16, u8)>,
    /// Length to cut to.
    pub cut: Option<u16>,
}

impl Edit {
    /// Makes the changes.
    pub fn apply(&self, message: &mut Vec<u8>) {
        if let Some(cut) = self.cut {
            message.truncate(cut.into());
        }
        let len = message.len().max(1);
        for &(at, value) in &self.bytes {
            if let Some(byte) = message.get_mut(usize::from(at) % len) {
                *byte = value;
            }
        }
    }
}

/// One thing that host or guest does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The host takes the guest's next packet and answers it; what it answers is changed.
    Answer(Edit),
    /// The host answers all that waits, rightly.
    AnswerAll,
    /// The host takes the guest's next packet and says nothing.
    Ignore,
    /// A packet of any type.
    Packet {
        /// Type.
        packet_type: u16,
        /// Whether a completion is wanted.
        wants_completion: bool,
        /// Transaction id.
        id: Id,
        /// Between descriptor and payload; filled up to a multiple of 8 bytes.
        header: Vec<u8>,
        /// Payload.
        payload: Vec<u8>,
    },
    /// An RNDIS message in the next section of the receive buffer, and a transfer packet for it.
    Rndis(Vec<u8>),
    /// RNDIS messages in the receive buffer, and a transfer packet with any ranges.
    Transfer {
        /// Which buffer.
        set_id: u16,
        /// Transaction id.
        id: u64,
        /// The ranges.
        ranges: Vec<TransferRange>,
    },
    /// Bytes of the receive buffer change.
    Scribble {
        /// Where, modulo its length.
        at: u32,
        /// What.
        bytes: Vec<u8>,
    },
    /// A word of a control page changes.
    Word {
        /// Which ring.
        ring: Ring,
        /// Which word of the page, modulo their number.
        at: u16,
        /// What.
        value: u32,
    },
    /// Bytes of a ring's data area change.
    RingBytes {
        /// Which ring.
        ring: Ring,
        /// Where, modulo its length.
        at: u32,
        /// What.
        bytes: Vec<u8>,
    },
    /// The bus has something to tell that is not true.
    Event(BusEvent),
    /// The bus keeps to itself what is true, from now on; or tells it again.
    HoldEvents(bool),
    /// Time passes.
    Pass {
        /// Milliseconds.
        millis: u32,
    },
    /// The guest sends frames.
    Send {
        /// Bytes of each.
        len: u16,
        /// How many.
        count: u8,
        /// Which metadata they have.
        meta: u8,
    },
    /// The guest prepares to sleep.
    Arm,
    /// The guest asks the host for something.
    Ask(u8),
    /// The guest closes the device.
    Close,
}

impl Step {
    /// Whether the host says something by it.
    #[must_use]
    pub fn is_of_host(&self) -> bool {
        !matches!(self, Self::Send { .. } | Self::Arm | Self::Ask(_) | Self::Close | Self::Pass { .. })
    }

    /// The bytes that it carries.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        match self {
            Self::Packet { payload, .. } => payload,
            Self::Rndis(bytes) | Self::Scribble { bytes, .. } | Self::RingBytes { bytes, .. } => bytes,
            _ => &[],
        }
    }

    /// The next step that the bytes stand for, `None` at their end.
    pub(super) fn decode(input: &mut Bytes<'_>) -> Option<Self> {
        Some(match input.u8()? % 20 {
            0 | 1 => Self::Answer(edit(input)?),
            2 | 3 => Self::AnswerAll,
            4 => Self::Ignore,
            5 | 6 => Self::Packet {
                packet_type: match input.u8()? {
                    // In-band and completions are what has a meaning; but any type may come.
                    choice @ 0..=119 => [6, 11][usize::from(choice % 2)],
                    choice @ 120..=199 => u16::from(choice % 16),
                    _ => input.u16()?,
                },
                wants_completion: input.u8()? % 2 == 1,
                id: id(input)?,
                header: input.run()?.to_vec(),
                payload: input.run()?.to_vec(),
            },
            7..=9 => Self::Rndis(input.run()?.to_vec()),
            10 => Self::Transfer {
                set_id: if input.u8()? < 200 { 0xCAFE } else { input.u16()? },
                id: input.u64()?,
                ranges: (0..input.u8()? % 32)
                    .map_while(|_| Some(TransferRange { byte_count: input.u32()?, byte_offset: input.u32()? }))
                    .collect(),
            },
            11 => Self::Scribble { at: input.u32()?, bytes: input.run()?.to_vec() },
            12 => Self::Word { ring: ring(input)?, at: input.u8()?.into(), value: input.u32()? },
            13 => Self::RingBytes { ring: ring(input)?, at: input.u16()?.into(), bytes: input.run()?.to_vec() },
            14 => Self::Event(event(input)?),
            15 => Self::HoldEvents(input.u8()? % 2 == 1),
            16 => Self::Pass { millis: input.u16()?.into() },
            17 => Self::Send { len: input.u16()?, count: input.u8()?, meta: input.u8()? },
            18 => match input.u8()? {
                choice @ 0..=119 => Self::Ask(choice),
                120..=250 => Self::Arm,
                _ => Self::Close,
            },
            _ => Self::Answer(Edit::default()),
        })
    }
}

fn ring(input: &mut Bytes<'_>) -> Option<Ring> {
    Some(if input.u8()? % 2 == 0 { Ring::ToGuest } else { Ring::ToHost })
}

fn id(input: &mut Bytes<'_>) -> Option<Id> {
    Some(match input.u8()? {
        recent @ 0..=199 => Id::Recent(recent % 16),
        _ => Id::Any(input.u64()?),
    })
}

fn edit(input: &mut Bytes<'_>) -> Option<Edit> {
    let choice = input.u8()?;
    let bytes = (0..choice % 8).map_while(|_| Some((input.u16()?, input.u8()?))).collect();
    let cut = if choice >= 200 { Some(input.u16()?) } else { None };
    Some(Edit { bytes, cut })
}

/// An event that the bus made up.
fn event(input: &mut Bytes<'_>) -> Option<BusEvent> {
    let choice = input.u8()?;
    let number = input.u8()?;
    Some(forged(choice, number))
}

/// The event that two numbers stand for; it is about the device's channel or memory more often than not.
pub(crate) fn forged(choice: u8, number: u8) -> BusEvent {
    let channel = RelId(u32::from(number % 4));
    let gpadl = GpadlId(u32::from(number % 8));
    match choice % 8 {
        0 => BusEvent::Opened(channel),
        1 => BusEvent::OpenFailed { channel, status: choice.into() },
        2 => BusEvent::GpadlCreated(gpadl),
        3 => BusEvent::GpadlFailed { gpadl, status: choice.into() },
        4 => BusEvent::GpadlTornDown(gpadl),
        5 if choice > 200 => BusEvent::Rescinded(channel),
        6 if choice > 240 => BusEvent::Gone,
        _ => BusEvent::Offered(super::bus::offer(channel, u16::from(number % 3))),
    }
}
