//! The virtual switch: learns where addresses are, forwards frames between [ports](crate::port), counts.
//!
//! It is a plain learning bridge (IEEE 802.1D without spanning tree) with the rules of a hypervisor's switch on top: a
//! NIC port has an address that is never learned away from it, may send from that address only, and gets the frames
//! that its [packet filter](PacketFilter) selects. Nothing is ever sent back to the port that it came from.
//!
//! The switch has no thread and no clock. [`Switch::poll`] takes frames out of every port and forwards them;
//! [`Switch::forward`] does so for a frame that the caller holds. Neither allocates.

mod counters;
mod ethernet;
mod filter;
mod options;
mod table;

use core::task::Waker;
use core::time::Duration;

pub use counters::{EgressDrops, IngressDrops, PortCounters};
pub use options::{AddPortError, PortId, PortOptions, SwitchConfig};
pub use rndis::value::{MacAddress, PacketFilter};

use crate::offload::headers::{TAG, tag_bytes};
use crate::offload::{self, Scratch};
use crate::port::{Frame, FrameMeta, Port, PortOffloads};
use ethernet::is_station;
use options::Role;
use table::{Learned, MacTable};

/// A learning switch over ports of the type `P`.
///
/// ```
/// use core::time::Duration;
/// use netvsc_host::port::{Port, memory_pair};
/// use netvsc_host::switch::{PortOptions, Switch};
///
/// let mut switch = Switch::<Box<dyn Port>>::default();
/// let (inside, left) = memory_pair(16);
/// switch.add_port(Box::new(inside), PortOptions::trunk())?;
/// let (inside, right) = memory_pair(16);
/// switch.add_port(Box::new(inside), PortOptions::trunk())?;
///
/// left.send(b"\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x01\x08\x06hello")?;
/// switch.poll(Duration::ZERO, 64);
/// assert!(right.try_recv()?.ends_with(b"hello"));
/// # Ok::<(), Box<dyn core::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Switch<P: Port = Box<dyn Port>> {
    config: SwitchConfig,
    slots: Vec<Slot<P>>,
    table: MacTable,
    /// Addresses of the NIC ports, sorted. They are never learned, aged or evicted.
    owned: Vec<(MacAddress, PortId)>,
    /// Slot that the next [`poll`](Self::poll) begins with, so that no port is always served first.
    next: usize,
    /// For frames that a port gets in another form.
    scratch: Scratch,
}

impl<P: Port> Switch<P> {
    /// A switch without ports.
    pub fn new(config: SwitchConfig) -> Self {
        let table = MacTable::new(config.table_entries, config.ageing);
        Self { config, slots: Vec::new(), table, owned: Vec::new(), next: 0, scratch: Scratch::default() }
    }

    /// Plugs a port in.
    ///
    /// # Errors
    ///
    /// [`AddPortError`] if there are [`max_ports`](SwitchConfig::max_ports) already, or if the port's own address is not
    /// a station's or belongs to another port.
    pub fn add_port(&mut self, port: P, options: PortOptions) -> Result<PortId, AddPortError> {
        if let Role::Nic { mac } = options.role {
            self.check_free(mac)?;
        }
        let free = self.slots.iter().position(|slot| !slot.in_use);
        let index = free.unwrap_or(self.slots.len());
        if index >= self.config.max_ports {
            return Err(AddPortError::TooManyPorts { limit: self.config.max_ports });
        }
        if free.is_none() {
            self.slots.push(Slot::empty());
        }
        let slot = &mut self.slots[index];
        // `max_ports` is at most 65 536, see `SwitchConfig::max_ports`.
        let id = PortId { index: index as u16, generation: slot.generation };
        *slot = Slot { port: Some(port), in_use: true, dirty: false, options, ..Slot::empty() };
        slot.generation = id.generation;
        if let Role::Nic { mac } = options.role {
            self.own(mac, id);
        }
        Ok(id)
    }

    /// Pulls a port out and gives it back. Its addresses are forgotten and its id never becomes valid again.
    pub fn remove_port(&mut self, id: PortId) -> Option<P> {
        let slot = self.slot_mut(id)?;
        let port = slot.port.take();
        *slot = Slot { generation: slot.generation.wrapping_add(1), ..Slot::empty() };
        self.owned.retain(|&(_, owner)| owner != id);
        self.table.forget_port(id);
        port
    }

    /// The port itself.
    pub fn port(&self, id: PortId) -> Option<&P> {
        self.slot(id)?.port.as_ref()
    }

    /// The port itself, to change.
    pub fn port_mut(&mut self, id: PortId) -> Option<&mut P> {
        self.slot_mut(id)?.port.as_mut()
    }

    /// All ports that are plugged in.
    pub fn ports(&self) -> impl Iterator<Item = (PortId, &P)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| Some((slot.id(index), slot.port.as_ref()?)))
    }

    /// What was counted at a port.
    pub fn counters(&self, id: PortId) -> Option<PortCounters> {
        self.slot(id).map(|slot| slot.counters)
    }

    /// Sets the packet filter of a port; false if there is no such port. 0 stops delivery.
    pub fn set_filter(&mut self, id: PortId, filter: PacketFilter) -> bool {
        self.slot_mut(id).map(|slot| slot.options.filter = filter).is_some()
    }

    /// Changes the address of a NIC port.
    ///
    /// # Errors
    ///
    /// [`AddPortError`] if there is no such NIC port, or if the address is not a station's or belongs to another port.
    pub fn set_mac(&mut self, id: PortId, mac: MacAddress) -> Result<(), AddPortError> {
        let known = self.owner_of(mac);
        let Some(Slot { options: PortOptions { role: Role::Nic { mac: own }, .. }, .. }) = self.slot_mut(id) else {
            return Err(AddPortError::NotANicPort);
        };
        if *own == mac {
            return Ok(());
        }
        if let Some(owner) = known {
            return Err(AddPortError::AddressInUse { mac, owner });
        }
        if !is_station(mac) {
            return Err(AddPortError::NotAStationAddress { mac });
        }
        *own = mac;
        self.owned.retain(|&(_, owner)| owner != id);
        self.own(mac, id);
        Ok(())
    }

    /// Where frames to `mac` go at `now`, if the switch knows.
    pub fn lookup(&self, now: Duration, mac: MacAddress) -> Option<PortId> {
        self.owner_of(mac).or_else(|| self.table.lookup(now, mac))
    }

    /// Addresses learned and not yet forgotten at `now`.
    pub fn learned(&self, now: Duration) -> usize {
        self.table.len(now)
    }

    /// Takes at most `budget` frames out of each port, forwards them, and flushes the ports that got some.
    ///
    /// A port that used up its budget may have more: call again while [`Polled::more`] is set.
    pub fn poll(&mut self, now: Duration, budget: usize) -> Polled {
        let mut polled = Polled::default();
        let ports = self.slots.len();
        for step in 0..ports {
            let index = (self.next + step) % ports;
            // The polled port is out of the switch meanwhile: its frames can be delivered to all others, never to it.
            let Some(mut port) = self.slots[index].port.take() else {
                continue;
            };
            let id = self.slots[index].id(index);
            let taken = port.poll(now, budget, &mut |frame| {
                self.forward_from(now, id, frame);
            });
            self.slots[index].port = Some(port);
            polled.frames += taken;
            polled.more |= taken >= budget && budget > 0;
        }
        self.next = if ports == 0 { 0 } else { (self.next + 1) % ports };
        self.flush();
        polled
    }

    /// Forwards a frame that came from the port `from`; returns how many ports took it.
    ///
    /// Call [`flush`](Self::flush) after the last frame of a batch. An id that is not valid is ignored.
    pub fn forward(&mut self, now: Duration, from: PortId, frame: Frame<'_>) -> usize {
        if self.slot(from).is_some() { self.forward_from(now, from, frame) } else { 0 }
    }

    /// Flushes every port that got frames since the last flush.
    pub fn flush(&mut self) {
        for slot in &mut self.slots {
            if core::mem::take(&mut slot.dirty)
                && let Some(port) = &mut slot.port
            {
                port.flush();
            }
        }
    }

    /// Registers `waker` with every port.
    pub fn register_waker(&mut self, waker: &Waker) {
        for slot in &mut self.slots {
            if let Some(port) = &mut slot.port {
                port.register_waker(waker);
            }
        }
    }

    /// The shortest time after which a port wants to be polled.
    pub fn next_timeout(&self, now: Duration) -> Option<Duration> {
        self.slots.iter().filter_map(|slot| slot.port.as_ref()?.next_timeout(now)).min()
    }

    fn forward_from(&mut self, now: Duration, from: PortId, frame: Frame<'_>) -> usize {
        let admitted = if self.config.cable { self.pass(from, frame) } else { self.admit(now, from, frame) };
        let Some(destination) = admitted else {
            return 0;
        };
        if self.config.cable {
            return self.flood(from, destination, frame);
        }
        if destination.is_multicast() {
            return self.flood(from, destination, frame);
        }
        match self.lookup(now, destination) {
            Some(to) if to == from => {
                self.slots[usize::from(from.index)].counters.in_drops.own_segment += 1;
                0
            }
            Some(to) => usize::from(self.slots[usize::from(to.index)].deliver(destination, frame, &mut self.scratch)),
            None => {
                self.slots[usize::from(from.index)].counters.flooded += 1;
                self.flood(from, destination, frame)
            }
        }
    }

    /// Checks a frame, learns its source and returns its destination; counts it as taken or refused.
    fn admit(&mut self, now: Duration, from: PortId, frame: Frame<'_>) -> Option<MacAddress> {
        let len = frame.bytes.len();
        let slot = &mut self.slots[usize::from(from.index)];
        let drops = &mut slot.counters.in_drops;
        let Some((destination, source)) =
            ethernet::addresses(frame.bytes).filter(|_| len >= self.config.min_frame_bytes)
        else {
            drops.runt += 1;
            return None;
        };
        // The limit has room for one tag; a second one does not count either.
        if frame.wire_bytes() > self.config.max_frame_bytes + tag_bytes(frame.bytes).saturating_sub(TAG) {
            drops.oversize += 1;
            return None;
        }
        if !is_station(source) {
            drops.bad_source += 1;
            return None;
        }
        let mut learn = slot.options.learning;
        match slot.options.role {
            Role::Nic { mac } if mac == source => learn = false,
            Role::Nic { .. } if !slot.options.spoofing => {
                drops.spoofed += 1;
                return None;
            }
            _ => {
                // The address of a NIC port, seen elsewhere: never learned, and refused unless this port may spoof.
                if find(&self.owned, source).is_some() {
                    if !slot.options.spoofing {
                        drops.spoofed += 1;
                        return None;
                    }
                    learn = false;
                }
            }
        }
        slot.counters.in_frames += 1;
        slot.counters.in_bytes += len as u64;
        if learn && self.table.learn(now, source, from) == Learned::Moved {
            slot.counters.moves += 1;
        }
        Some(destination)
    }

    /// Counts a frame in a cable and returns its destination.
    fn pass(&mut self, from: PortId, frame: Frame<'_>) -> Option<MacAddress> {
        let counters = &mut self.slots[usize::from(from.index)].counters;
        let Some((destination, _)) = ethernet::addresses(frame.bytes) else {
            counters.in_drops.runt += 1;
            return None;
        };
        counters.in_frames += 1;
        counters.in_bytes += frame.bytes.len() as u64;
        Some(destination)
    }

    fn flood(&mut self, from: PortId, destination: MacAddress, frame: Frame<'_>) -> usize {
        let scratch = &mut self.scratch;
        let others = self.slots.iter_mut().enumerate().filter(|(index, _)| *index != usize::from(from.index));
        others.filter_map(|(_, slot)| slot.in_use.then(|| usize::from(slot.deliver(destination, frame, scratch)))).sum()
    }

    fn check_free(&self, mac: MacAddress) -> Result<(), AddPortError> {
        if !is_station(mac) {
            return Err(AddPortError::NotAStationAddress { mac });
        }
        match self.owner_of(mac) {
            Some(owner) => Err(AddPortError::AddressInUse { mac, owner }),
            None => Ok(()),
        }
    }

    fn own(&mut self, mac: MacAddress, id: PortId) {
        let place = self.owned.partition_point(|&(known, _)| known < mac);
        self.owned.insert(place, (mac, id));
        self.table.forget_mac(mac);
    }

    fn owner_of(&self, mac: MacAddress) -> Option<PortId> {
        find(&self.owned, mac)
    }

    fn slot(&self, id: PortId) -> Option<&Slot<P>> {
        self.slots.get(usize::from(id.index)).filter(|slot| slot.is(id))
    }

    fn slot_mut(&mut self, id: PortId) -> Option<&mut Slot<P>> {
        self.slots.get_mut(usize::from(id.index)).filter(|slot| slot.is(id))
    }
}

impl<P: Port> Default for Switch<P> {
    fn default() -> Self {
        Self::new(SwitchConfig::default())
    }
}

/// What one [`Switch::poll`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Polled {
    /// Frames taken out of ports.
    pub frames: usize,
    /// Whether a port used up its budget, so that more frames may wait.
    pub more: bool,
}

/// A place for one port.
#[derive(Debug)]
struct Slot<P> {
    /// `None` while the port is being polled, and in a free slot.
    port: Option<P>,
    in_use: bool,
    /// Whether the port got frames that are not flushed yet.
    dirty: bool,
    /// Counts the ports that were here, so that an old id does not name a new port.
    generation: u16,
    options: PortOptions,
    counters: PortCounters,
}

impl<P: Port> Slot<P> {
    fn empty() -> Self {
        let counters = PortCounters::default();
        Self { port: None, in_use: false, dirty: false, generation: 0, options: PortOptions::trunk(), counters }
    }

    fn id(&self, index: usize) -> PortId {
        PortId { index: index as u16, generation: self.generation }
    }

    fn is(&self, id: PortId) -> bool {
        self.in_use && self.generation == id.generation
    }

    /// Gives a frame to the port if its filter selects it, in a form that the port takes; true if it was taken.
    fn deliver(&mut self, destination: MacAddress, frame: Frame<'_>, scratch: &mut Scratch) -> bool {
        let Some(port) = &mut self.port else {
            return false;
        };
        if let Role::Nic { mac } = self.options.role
            && !filter::accepts(port.filter().unwrap_or(self.options.filter), mac, destination)
        {
            self.counters.out_drops.filtered += 1;
            return false;
        }
        let plain = frame.meta == FrameMeta::PLAIN;
        let can = if plain { PortOffloads::NONE } else { port.offloads() };
        let counters = &mut self.counters;
        let mut taken = false;
        let mut give = |frame: Frame<'_>| {
            if port.deliver(frame) {
                counters.out_frames += 1;
                counters.out_bytes += frame.bytes.len() as u64;
                taken = true;
            } else {
                counters.out_drops.refused += 1;
            }
        };
        if plain {
            give(frame);
        } else {
            offload::plain(frame, can, scratch, &mut give);
        }
        self.dirty |= taken;
        taken
    }
}

fn find(owned: &[(MacAddress, PortId)], mac: MacAddress) -> Option<PortId> {
    let place = owned.binary_search_by_key(&mac, |&(known, _)| known).ok()?;
    Some(owned[place].1)
}
