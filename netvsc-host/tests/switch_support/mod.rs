//! A switch whose ports are memory pairs, and frames to send through it.

use core::time::Duration;

use netvsc_host::port::{MemoryPort, Port, memory_pair};
use netvsc_host::switch::{MacAddr, PortCounters, PortId, PortOptions, Switch, SwitchConfig};

/// The station with this number.
pub fn mac(number: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, number])
}

/// A frame of 60 bytes.
pub fn frame(to: MacAddr, from: MacAddr) -> Vec<u8> {
    let mut frame = [&to.0[..], &from.0, &[0x88, 0xb5]].concat();
    frame.resize(60, 0);
    frame
}

/// A switch and the far ends of its ports.
#[derive(Default)]
pub struct Net {
    pub switch: Switch<Box<dyn Port>>,
    pub ids: Vec<PortId>,
    pub far: Vec<MemoryPort>,
    pub now: Duration,
}

impl Net {
    pub fn with_config(config: SwitchConfig) -> Self {
        Self { switch: Switch::new(config), ..Self::default() }
    }

    pub fn trunks(ports: usize) -> Self {
        let mut net = Self::default();
        for _ in 0..ports {
            net.add(PortOptions::trunk());
        }
        net
    }

    pub fn add(&mut self, options: PortOptions) {
        self.add_with_capacity(options, 64);
    }

    pub fn add_with_capacity(&mut self, options: PortOptions, capacity: usize) {
        let (inside, far) = memory_pair(capacity);
        self.ids.push(self.switch.add_port(Box::new(inside), options).expect("room for a port"));
        self.far.push(far);
    }

    /// Sends one frame from a port's far end and says which far ends received it, unchanged.
    pub fn send(&mut self, from: usize, frame: Vec<u8>) -> Vec<usize> {
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
    pub fn settle(&mut self) {
        while self.switch.poll(self.now, 64).frames > 0 {}
    }

    pub fn counters(&self, port: usize) -> PortCounters {
        self.switch.counters(self.ids[port]).expect("a port")
    }
}
