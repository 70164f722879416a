//! A switch whose ports are memory pairs, and frames to send through it.

use core::time::Duration;

use netvsc_host::port::{MemoryPort, Port, memory_pair};
use netvsc_host::switch::{MacAddress, PortCounters, PortId, PortOptions, Switch, SwitchConfig};

/// The station with this number.
pub(crate) fn mac(number: u8) -> MacAddress {
    MacAddress([2, 0, 0, 0, 0, number])
}

/// A frame of 60 bytes.
pub(crate) fn frame(to: MacAddress, from: MacAddress) -> Vec<u8> {
    let mut frame = [&to.0[..], &from.0, &[0x88, 0xb5]].concat();
    frame.resize(60, 0);
    frame
}

/// A switch and the far ends of its ports.
#[derive(Default)]
pub(crate) struct Net {
    pub(crate) switch: Switch<Box<dyn Port>>,
    pub(crate) ids: Vec<PortId>,
    pub(crate) far: Vec<MemoryPort>,
    pub(crate) now: Duration,
}

impl Net {
    pub(crate) fn with_config(config: SwitchConfig) -> Self {
        Self { switch: Switch::new(config), ..Self::default() }
    }

    pub(crate) fn trunks(ports: usize) -> Self {
        let mut net = Self::default();
        for _ in 0..ports {
            net.add(PortOptions::trunk());
        }
        net
    }

    pub(crate) fn add(&mut self, options: PortOptions) {
        self.add_with_capacity(options, 64);
    }

    pub(crate) fn add_with_capacity(&mut self, options: PortOptions, capacity: usize) {
        let (inside, far) = memory_pair(capacity);
        self.ids.push(self.switch.add_port(Box::new(inside), options).expect("room for a port"));
        self.far.push(far);
    }

    /// Sends one frame from a port's far end and says which far ends received it, unchanged.
    pub(crate) fn send(&mut self, from: usize, frame: Vec<u8>) -> Vec<usize> {
        self.far[from].send(&frame).expect("room for a frame");
        self.settle();
        let mut receivers = Vec::new();
        for (index, far) in self.far.iter().enumerate() {
            while let Ok(received) = far.try_recv() {
                assert_eq!(*received, *frame);
                receivers.push(index);
            }
        }
        receivers
    }

    /// Polls until no frame moves any more.
    pub(crate) fn settle(&mut self) {
        while self.switch.poll(self.now, 64).frames > 0 {}
    }

    pub(crate) fn counters(&self, port: usize) -> PortCounters {
        self.switch.counters(self.ids[port]).expect("a port")
    }
}
