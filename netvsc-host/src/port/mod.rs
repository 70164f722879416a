//! Ports of the virtual switch: what a frame enters and leaves by.
//!
//! [`Port`] is the whole contract between the [`Switch`](crate::switch::Switch) and what is plugged into it. The switch
//! calls [`deliver`](Port::deliver) for each frame towards the port, [`flush`](Port::flush) once after a batch of them,
//! and [`poll`](Port::poll) for frames from it. All calls come from one thread at a time.
//!
//! | port | far end |
//! |---|---|
//! | [`MemorySwitchPort`] | a [`MemoryPort`] in the same process: a test, an appliance, a TCP/IP stack |
//! | [`LoopbackPort`] | nothing: every frame comes back |
//! | [`NullPort`] | nothing: every frame is swallowed |
//! | [`SinkPort`] | nothing: every frame is counted, and checked as far as it tells what it is |
//! | [`GeneratorPort`] | a paced source of numbered frames, which also checks what comes back |
//! | `PcapPort` (feature `pcap`) | a capture file that is played |
//! | `TapPort` (feature `tap`) | a Linux TAP interface |
//! | `PacketPort` (feature `veth`) | any interface of this machine, by a packet socket |
//!
//! # For those who implement a port
//!
//! A port gets plain frames. One that can do more says so by [`offloads`](Port::offloads): then large frames and
//! unfinished checksums come as they are, and it looks at [`Frame::meta`]. Frames from a port may have either.
//!
//! A port that gets frames from elsewhere keeps the waker given to [`register_waker`](Port::register_waker) and wakes it
//! when there is something to poll for. The host's thread sleeps until then.

mod buffers;
mod frame;
mod generator;
mod loopback;
mod memory;
mod null;
#[cfg(all(feature = "veth", target_os = "linux"))]
mod packet;
#[cfg(feature = "pcap")]
mod pcap;
mod sink;
#[cfg(all(feature = "tap", target_os = "linux"))]
mod tap;

use core::task::Waker;
use core::time::Duration;

use crate::switch::PacketFilter;

pub use frame::{Checksum, Frame, FrameMeta, PortOffloads};
pub use generator::{GeneratorConfig, GeneratorHandle, GeneratorPort, GeneratorStats, InvalidGenerator};
pub use loopback::LoopbackPort;
pub use memory::{MemoryPort, MemorySwitchPort, ReceivedFrame, SendError, TryRecvError, memory_pair};
pub use null::NullPort;
#[cfg(all(feature = "veth", target_os = "linux"))]
pub use packet::{PacketConfig, PacketHandle, PacketPort, PacketPortError, PacketStats, PacketStep};
#[cfg(feature = "pcap")]
pub use pcap::{PcapPort, PcapPortError};
pub use sink::{SinkCounters, SinkPort};
#[cfg(all(feature = "tap", target_os = "linux"))]
pub use tap::{TapConfig, TapError, TapHandle, TapPort, TapStats, TapStep};

/// The switch's view of one port.
pub trait Port: Send {
    /// Takes a frame from the switch; false means that it was dropped, which the switch counts.
    ///
    /// The bytes are the switch's: a port that keeps the frame copies it.
    fn deliver(&mut self, frame: Frame<'_>) -> bool;

    /// What the port does itself, *now*, with large frames and unfinished checksums. The switch does what it does not:
    /// to most ports it gives plain frames.
    fn offloads(&self) -> PortOffloads {
        PortOffloads::NONE
    }

    /// Says that a batch of [`deliver`](Self::deliver) calls is over: publish and signal now, once.
    fn flush(&mut self) {}

    /// The packet filter that the port's user has set *now*, where the port knows; else what
    /// [`Switch::set_filter`](crate::switch::Switch::set_filter) was told last. Only ports of NICs are filtered.
    fn filter(&self) -> Option<PacketFilter> {
        None
    }

    /// Gives at most `budget` frames to `out` and returns how many they were.
    ///
    /// `now` is the host's clock, counted from its start. A return value equal to `budget` means that there may be
    /// more, and that the caller must come back without waiting for a waker.
    fn poll(&mut self, now: Duration, budget: usize, out: &mut dyn FnMut(Frame<'_>)) -> usize;

    /// Keeps a clone of `waker`, in place of an earlier one, and wakes it whenever `poll` has something new to give.
    ///
    /// The waker stays registered after it was woken. If frames already wait, it is woken at once, so that registering
    /// after the last `poll` loses nothing. Ports that never have news from outside ignore it.
    fn register_waker(&mut self, waker: &Waker) {
        let _ = waker;
    }

    /// How long after `now` the port wants to be polled again although nothing wakes it; zero is "at once".
    fn next_timeout(&self, now: Duration) -> Option<Duration> {
        let _ = now;
        None
    }

    /// Whether nothing will ever come by it any more, and all that came was given: what is at the far end is gone.
    fn is_over(&self) -> bool {
        false
    }
}

impl<P: Port + ?Sized> Port for Box<P> {
    fn deliver(&mut self, frame: Frame<'_>) -> bool {
        (**self).deliver(frame)
    }

    fn offloads(&self) -> PortOffloads {
        (**self).offloads()
    }

    fn flush(&mut self) {
        (**self).flush();
    }

    fn filter(&self) -> Option<PacketFilter> {
        (**self).filter()
    }

    fn poll(&mut self, now: Duration, budget: usize, out: &mut dyn FnMut(Frame<'_>)) -> usize {
        (**self).poll(now, budget, out)
    }

    fn register_waker(&mut self, waker: &Waker) {
        (**self).register_waker(waker);
    }

    fn next_timeout(&self, now: Duration) -> Option<Duration> {
        (**self).next_timeout(now)
    }

    fn is_over(&self) -> bool {
        (**self).is_over()
    }
}
