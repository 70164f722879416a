//! What a virtual function's watch, handle and queues know of its interface together.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use netvsc::LinkState;

use super::netlink::Link;

/// Ethernet header, and a tag.
pub(super) const FRAMING: u32 = 18;

const UP: u8 = 0;
const DOWN: u8 = 1;
/// For ever.
const GONE: u8 = 2;

/// The state of an interface, as far as it is known. Each value stands for itself, so that no order is needed among them.
#[derive(Debug)]
pub(super) struct State {
    /// Held while the link is looked at and that is written down, or told: the watch and whoever opens the interface do so at the
    /// same time, and what was seen first must not be written last.
    turn: Mutex<()>,
    link: AtomicU8,
    /// Whether the adapter was told last that the link is up.
    told_up: AtomicBool,
    mtu: AtomicU32,
    promiscuous: AtomicBool,
}

impl State {
    pub(super) fn new(link: &Link) -> Self {
        let state = Self {
            turn: Mutex::new(()),
            link: AtomicU8::new(DOWN),
            told_up: AtomicBool::new(false),
            mtu: AtomicU32::new(0),
            promiscuous: AtomicBool::new(false),
        };
        state.update(link);
        state
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of what is older than now, the kernel tells the watch, which then updates it again.
    pub(super) fn update(&self, link: &Link) {
        let _turn = self.turn();
        self.write(link);
    }

    /// Looks, and updates it by that.
    pub(super) fn update_by<E>(&self, look: impl FnOnce() -> Result<Link, E>) -> Result<(), E> {
        let _turn = self.turn();
        self.write(&look()?);
        Ok(())
    }

    fn write(&self, link: &Link) {
        self.set_mtu(link.mtu);
        let link = if link.state == LinkState::Up { UP } else { DOWN };
        // A failure means that it is gone.
        let _ = self.link.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| (old != GONE).then_some(link));
    }

    pub(super) fn set_gone(&self) {
        self.link.store(GONE, Ordering::Relaxed);
    }

    pub(super) fn is_gone(&self) -> bool {
        self.link.load(Ordering::Relaxed) == GONE
    }

    #[inline]
    pub(super) fn is_up(&self) -> bool {
        self.link.load(Ordering::Relaxed) == UP
    }

    /// The link, for the adapter to know.
    pub(super) fn tell(&self) -> LinkState {
        let _turn = self.turn();
        self.told()
    }

    fn told(&self) -> LinkState {
        let up = self.is_up();
        self.told_up.store(up, Ordering::Relaxed);
        if up { LinkState::Up } else { LinkState::Down }
    }

    /// The link, if it is another than the adapter knows of.
    pub(super) fn news(&self) -> Option<LinkState> {
        let _turn = self.turn();
        (self.told_up.load(Ordering::Relaxed) != self.is_up()).then(|| self.told())
    }

    pub(super) fn set_mtu(&self, mtu: u32) {
        self.mtu.store(mtu, Ordering::Relaxed);
    }

    /// Its L3 MTU.
    pub(super) fn mtu(&self) -> u32 {
        self.mtu.load(Ordering::Relaxed)
    }

    /// Longest frame that may be sent.
    #[inline]
    pub(super) fn longest_frame(&self) -> usize {
        self.mtu.load(Ordering::Relaxed).saturating_add(FRAMING) as usize
    }

    pub(super) fn set_promiscuous(&self, promiscuous: bool) {
        self.promiscuous.store(promiscuous, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn is_promiscuous(&self) -> bool {
        self.promiscuous.load(Ordering::Relaxed)
    }
}
