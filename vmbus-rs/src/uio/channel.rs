//! A channel of a device on `uio_hv_generic`: its doorbell and its interrupt.

use std::sync::Arc;
use std::task::{Context, Poll};

use super::error::UioError;
use super::line::Line;
use super::session::{Session, lock};
use crate::bus::{Channel, ChannelInfo, ChannelParts, Doorbell, Interrupt, PartsOf};
use crate::error::ErrorType;
use crate::memory::{HeapMemory, OutOfBounds, SharedMemoryExt, system_page_size};
use crate::monitor::{PageBit, interrupt_page_send};

/// An open channel.
#[derive(Debug)]
pub struct UioChannel {
    parts: PartsOf<Self>,
}

impl UioChannel {
    pub(super) fn new(session: &Arc<Session>, line: &Arc<Line>) -> Result<Self, OutOfBounds> {
        let info = line.info;
        let (outgoing, incoming) = line.rings()?;
        let doorbell = match info.monitor {
            Some(monitor) => Bell::Monitor { page: session.monitor_page.clone(), bit: monitor.pending() },
            None => Bell::Control { session: Arc::clone(session), bit: interrupt_page_send(info.id) },
        };
        let can_unmask = info.is_primary() || lock(&session.traits).may_unmask_subchannels();
        Ok(Self {
            parts: ChannelParts {
                info,
                outgoing,
                incoming,
                ring_header_bytes: system_page_size(),
                doorbell: UioDoorbell { line: Arc::clone(line), bell: doorbell },
                interrupt: UioInterrupt { line: Arc::clone(line), can_unmask },
            },
        })
    }
}

impl ErrorType for UioChannel {
    type Error = UioError;
}

impl Channel for UioChannel {
    type Memory = HeapMemory;
    type Doorbell = UioDoorbell;
    type Interrupt = UioInterrupt;

    fn info(&self) -> &ChannelInfo {
        &self.parts.info
    }

    fn into_parts(self) -> PartsOf<Self> {
        self.parts
    }
}

/// Signals the host: one locked instruction on a monitored channel, a system call on another.
#[derive(Debug, Clone)]
pub struct UioDoorbell {
    line: Arc<Line>,
    bell: Bell,
}

#[derive(Debug, Clone)]
enum Bell {
    Monitor { page: HeapMemory, bit: PageBit },
    Control { session: Arc<Session>, bit: Option<PageBit> },
}

impl ErrorType for UioDoorbell {
    type Error = UioError;
}

impl Doorbell for UioDoorbell {
    #[inline]
    fn signal(&self) -> Result<(), UioError> {
        if let Some(end) = self.line.end() {
            return Err(end.into());
        }
        match &self.bell {
            // All devices of the machine set bits there: only ever by a locked OR.
            Bell::Monitor { page, bit } => Ok(page.set_bits(bit.word_offset, bit.mask)?),
            Bell::Control { session, bit } => {
                if let Some(bit) = bit {
                    session.interrupt_page.set_bits(bit.word_offset, bit.mask)?;
                }
                session.control()
            }
        }
    }
}

/// Waits for the host: one of those that share the device's only event descriptor.
#[derive(Debug)]
pub struct UioInterrupt {
    line: Arc<Line>,
    can_unmask: bool,
}

impl ErrorType for UioInterrupt {
    type Error = UioError;
}

impl Interrupt for UioInterrupt {
    fn poll_latched(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UioError>> {
        let latched = self.line.latch.poll(cx);
        // After the registration: an end that comes later wakes.
        match self.line.end() {
            Some(end) => Poll::Ready(Err(end.into())),
            None => latched.map(Ok),
        }
    }

    fn can_unmask(&self) -> bool {
        self.can_unmask
    }
}
