//! The virtual function as the adapter's task sees it: does what [`netvsc::vf::Machine`] wants, and tells it what happened.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use netvsc::info::MacAddress;
use netvsc::meta::Path;
use netvsc::rss::RssSettings;
use netvsc::vf::{Action, Input, RxRules, Task};
use netvsc::{DeviceInfo, LinkState, PacketFilter};
use tokio::task::JoinSet;
use vmbus::bus::Channel;

use super::backend::{Adapter, OpenedVf, VfBackend, VfEvent, VfHandle, VfWatch, VfWish};
use super::group::VfGroup;
use crate::queue::{Shared, VfLane};

/// See the [module](self).
pub(crate) struct VfSide {
    backend: Arc<dyn VfBackend>,
    /// From when on the adapter is up.
    watch: Option<Box<dyn VfWatch>>,
    opening: Option<BoxFuture<'static, io::Result<OpenedVf>>>,
    /// What was heard of the link since the opening began.
    link: Option<LinkState>,
    device: Option<Arc<dyn VfHandle>>,
    /// Looks after the device's queues.
    warden: JoinSet<()>,
    /// The old path is waited for.
    settling: bool,
    /// What was changed about the device for an adapter that was not changed after all is put back.
    putting_back: Vec<BoxFuture<'static, io::Result<()>>>,
    /// What the device was told.
    mtu: u32,
    promiscuous: bool,
    /// Tags of received frames stay in them.
    tags_stay: bool,
    /// What the device's frames are made to look like.
    rules: Arc<RxRules>,
    /// Received frames that were lost with devices, of which the machine has not been told.
    received_lost: u64,
}

impl VfSide {
    pub(crate) fn new(backend: Arc<dyn VfBackend>, tags_stay: bool) -> Self {
        Self {
            backend,
            watch: None,
            opening: None,
            link: None,
            device: None,
            warden: JoinSet::new(),
            settling: false,
            putting_back: Vec::new(),
            mtu: 0,
            promiscuous: false,
            tags_stay,
            rules: Arc::new(RxRules::new(tags_stay, None)),
            received_lost: 0,
        }
    }

    /// The adapter is up.
    ///
    /// # Errors
    /// The backend's: there is no VF then.
    pub(crate) fn begin(&mut self, mac: MacAddress, association: Option<u32>) -> io::Result<()> {
        let mut watch = self.backend.watch(&Adapter::new(mac))?;
        if let Some(serial) = association {
            watch.find(serial);
        }
        self.watch = Some(watch);
        Ok(())
    }

    /// The device that is open.
    pub(crate) fn device(&self) -> Option<&Arc<dyn VfHandle>> {
        self.device.as_ref()
    }

    /// What happened, one thing at a time.
    pub(crate) fn poll<C: Channel>(
        &mut self,
        cx: &mut Context<'_>,
        lanes: &[Arc<Shared<C>>],
        info: Option<&DeviceInfo>,
    ) -> Option<Input> {
        self.putting_back.retain_mut(|future| match future.as_mut().poll(cx) {
            Poll::Pending => true,
            Poll::Ready(Ok(())) => false,
            Poll::Ready(Err(error)) => {
                tracing::warn!(%error, "a setting of the virtual function could not be put back");
                false
            }
        });
        if self.received_lost > 0 {
            return Some(Input::ReceivedLost { frames: std::mem::take(&mut self.received_lost) });
        }
        while let Some(watch) = &mut self.watch
            && let Poll::Ready(event) = watch.poll_event(cx)
        {
            match event {
                VfEvent::Arrived { serial } => return Some(Input::Arrived { serial }),
                VfEvent::Gone => {
                    self.opening = None;
                    let lost = self.give_up(lanes);
                    return Some(Input::Gone { lost });
                }
                VfEvent::Link(link) if self.opening.is_some() => self.link = Some(link),
                VfEvent::Link(link) if self.device.is_some() => return Some(Input::Link(link)),
                VfEvent::Link(_) => {}
            }
        }
        if let Some(opening) = &mut self.opening
            && let Poll::Ready(result) = Pin::new(opening).poll(cx)
        {
            self.opening = None;
            return Some(match result {
                Ok(opened) => self.opened(opened, lanes, info),
                Err(error) => {
                    tracing::warn!(%error, "the virtual function cannot be opened");
                    Input::NotPrepared
                }
            });
        }
        self.settled(lanes)
    }

    /// Does what the machine wants; what has come of it, if that is known at once.
    pub(crate) fn act<C: Channel>(
        &mut self,
        task: Task,
        lanes: &[Arc<Shared<C>>],
        info: Option<&DeviceInfo>,
    ) -> Option<Input> {
        match task.action {
            Action::Find { serial } => {
                if let Some(watch) = &mut self.watch {
                    watch.find(serial);
                }
            }
            Action::Prepare => {
                let (Some(watch), Some(info)) = (&mut self.watch, info) else { return Some(Input::NotPrepared) };
                self.link = None;
                self.mtu = info.mtu;
                self.promiscuous = is_promiscuous(info.packet_filter);
                self.opening = Some(watch.open(VfWish::new(info.queues, info.mtu, self.promiscuous)));
            }
            Action::Release => {
                let lost = self.give_up(lanes);
                return (lost > 0).then_some(Input::Released { lost });
            }
            Action::Send(path) => {
                self.settling = true;
                with_each(lanes, |shared, vf| {
                    vf.send_by(path);
                    shared.wake_all();
                });
            }
            Action::StopWaiting => {
                self.settling = false;
                with_each(lanes, |shared, vf| {
                    vf.stop_waiting();
                    shared.wake_all();
                });
            }
            Action::Receive(path) => {
                for shared in lanes {
                    let mut core = shared.lock();
                    let core = &mut *core;
                    let Some(vf) = &mut core.vf else { continue };
                    if path == Path::VirtualFunction && shared.ended().is_some() {
                        // The rings may be the host's no more, and nobody receives but what is left.
                        continue;
                    }
                    if path == Path::VirtualFunction {
                        let position = (shared.index == 0).then_some(task.position);
                        // Whoever uses the queue is told of its failure.
                        let _ = shared.check(vf.receive_from_both(&mut core.queue, position));
                    } else {
                        vf.receive_from_rings();
                    }
                    shared.after_pump(core);
                    shared.wake_all();
                }
            }
            action => tracing::error!(?action, "nobody does that"),
        }
        None
    }

    /// Asks the device for the MTU that the adapter is to have; `None` if there is nothing to ask.
    pub(crate) fn set_mtu(&mut self, mtu: u32) -> Option<BoxFuture<'static, io::Result<()>>> {
        let device = self.device.as_ref()?;
        (std::mem::replace(&mut self.mtu, mtu) != mtu).then(|| device.set_mtu(mtu))
    }

    /// Asks the device for the frames that the adapter is to receive; `None` if there is nothing to ask.
    pub(crate) fn set_promiscuous(&mut self, filter: PacketFilter) -> Option<BoxFuture<'static, io::Result<()>>> {
        let (device, promiscuous) = (self.device.as_ref()?, is_promiscuous(filter));
        (std::mem::replace(&mut self.promiscuous, promiscuous) != promiscuous)
            .then(|| device.set_promiscuous(promiscuous))
    }

    /// Gives the device the adapter's settings, if it was told others.
    pub(crate) fn put_back(&mut self, info: &DeviceInfo) {
        let asked = [self.set_mtu(info.mtu), self.set_promiscuous(info.packet_filter)];
        self.putting_back.extend(asked.into_iter().flatten());
    }

    /// Received frames are spread in another way.
    pub(crate) fn scaling_changed<C: Channel>(&mut self, lanes: &[Arc<Shared<C>>], scaling: Option<&RssSettings>) {
        if self.device.is_some() && !self.rules.is_for(scaling) {
            self.rules = Arc::new(RxRules::new(self.tags_stay, scaling));
            with_each(lanes, |_, vf| vf.set_rules(&self.rules));
        }
    }

    /// Lets go of the device; how many frames it had not sent.
    pub(crate) fn give_up<C: Channel>(&mut self, lanes: &[Arc<Shared<C>>]) -> u64 {
        self.opening = None;
        let (mut lost, mut received) = (0, 0);
        with_each(lanes, |shared, vf| {
            lost += vf.detach();
            received += vf.take_received_lost();
            shared.wake_all();
        });
        self.received_lost += received;
        self.warden = JoinSet::new();
        if let Some(device) = self.device.take() {
            device.close();
        }
        lost
    }

    /// As [`give_up`](Self::give_up), for who must not wait and tells nobody: a queue whose lock is held has its part of the device
    /// for as long as it lives.
    pub(crate) fn give_up_at_once<C: Channel>(&mut self, lanes: &[Arc<Shared<C>>]) {
        self.opening = None;
        for shared in lanes {
            if let Some(mut core) = shared.try_lock()
                && let Some(vf) = &mut core.vf
            {
                vf.detach();
            }
        }
        self.warden = JoinSet::new();
        if let Some(device) = self.device.take() {
            device.close();
        }
    }

    fn opened<C: Channel>(&mut self, opened: OpenedVf, lanes: &[Arc<Shared<C>>], info: Option<&DeviceInfo>) -> Input {
        let OpenedVf { device, queues, link } = opened;
        if queues.is_empty() || lanes.is_empty() {
            device.close();
            return Input::NotPrepared;
        }
        tracing::info!(device = device.name(), queues = queues.len(), "the virtual function is open");
        self.device = Some(device);
        self.scaling_changed(lanes, info.and_then(|info| info.scaling.as_ref()));
        if let Some(info) = info {
            // The adapter may have been set otherwise while the device was being opened.
            self.put_back(info);
        }
        let live: Vec<_> = lanes.iter().filter(|shared| shared.ended().is_none()).cloned().collect();
        let indices: Vec<u16> = live.iter().map(|shared| shared.index).collect();
        let (groups, warden) = VfGroup::deal(queues, &indices, Arc::clone(&self.rules));
        self.warden.spawn(warden.run());
        let mut groups = groups.into_iter();
        with_each(&live, |shared, vf| {
            if let Some(group) = groups.next() {
                vf.attach(group);
                // It may wait for the rings alone.
                shared.wake_all();
            }
        });
        Input::Prepared { link: self.link.take().unwrap_or(link) }
    }

    /// Looks whether the old path is empty on all queues.
    fn settled<C: Channel>(&mut self, lanes: &[Arc<Shared<C>>]) -> Option<Input> {
        if !self.settling {
            return None;
        }
        let mut settling = false;
        for shared in lanes {
            let mut core = shared.lock();
            let core = &mut *core;
            let Some(vf) = &mut core.vf else { continue };
            // A queue that has ended has nothing to wait for.
            if shared.ended().is_none() && shared.check(vf.settle(&mut core.queue)).unwrap_or(false) {
                settling = true;
            } else {
                shared.wake_all();
            }
        }
        self.settling = settling;
        (!settling).then_some(Input::SendDrained)
    }
}

fn is_promiscuous(filter: PacketFilter) -> bool {
    filter.0 & PacketFilter::PROMISCUOUS.0 != 0
}

/// Calls `work` for each queue that has a part for the VF, under its lock.
fn with_each<C: Channel>(lanes: &[Arc<Shared<C>>], mut work: impl FnMut(&Shared<C>, &mut VfLane)) {
    for shared in lanes {
        if let Some(vf) = &mut shared.lock().vf {
            work(shared, vf);
        }
    }
}
