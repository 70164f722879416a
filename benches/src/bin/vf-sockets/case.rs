//! What is compared, a row each.

use std::fmt;

use clap::ValueEnum;
use netvsc_async::vf::sockets;
use netvsc_benches::compare::Mode;

/// How the interface's frames are got at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Method {
    #[value(name = "af_packet")]
    AfPacket,
    #[value(name = "af_xdp")]
    AfXdp,
}

impl Method {
    /// As options and DPDK's drivers have it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::AfPacket => "af_packet",
            Self::AfXdp => "af_xdp",
        }
    }
}

impl From<Method> for sockets::Method {
    fn from(method: Method) -> Self {
        match method {
            Method::AfPacket => Self::AfPacket,
            Method::AfXdp => Self::AfXdp,
        }
    }
}

/// What of this project's does it. DPDK's is always testpmd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Layer {
    /// The queue of the virtual function, polled.
    Queue,
    /// The adapter that has the function in use, polled.
    Nic,
    /// The same adapter as it comes, which waits when there is nothing to do.
    Waiting,
}

impl Layer {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Nic => "nic",
            Self::Waiting => "waiting",
        }
    }
}

/// A row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) method: Method,
    pub(crate) mode: Mode,
    /// Bytes of a frame.
    pub(crate) size: u16,
    pub(crate) layer: Layer,
}

/// The rows, in order.
pub(crate) fn cases() -> impl Iterator<Item = Case> {
    let all = [Method::AfPacket, Method::AfXdp].into_iter().flat_map(|method| {
        [Layer::Queue, Layer::Nic, Layer::Waiting].into_iter().flat_map(move |layer| {
            [Mode::Rxonly, Mode::Txonly, Mode::Io]
                .into_iter()
                .flat_map(move |mode| [64, 1500].map(|size| Case { method, mode, size, layer }))
        })
    });
    // Who sends as fast as it can has nothing to wait for.
    all.filter(|case| case.layer != Layer::Waiting || case.mode != Mode::Txonly)
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, mode, size, layer } = self;
        write!(f, "{} {} {size} B", method.name(), mode.name())?;
        f.write_str(match layer {
            Layer::Queue => ", queue",
            Layer::Nic => ", adapter",
            Layer::Waiting => ", adapter that waits",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_names_of_their_own() {
        let mut names: Vec<String> = cases().map(|case| case.to_string()).collect();
        assert_eq!((names.len(), &*names[0]), (32, "af_packet rxonly 64 B, queue"));
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 32);
    }
}
