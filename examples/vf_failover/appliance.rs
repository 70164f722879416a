//! Two simulated hosts, an adapter of each, and the forwarder between them. The second adapter has the virtual function.

use anyhow::Context;
use netvsc::PacketFilter;
use netvsc_async::{Nic, NicBuilder};
use netvsc_host::port::Port;
use netvsc_host::switch::SwitchConfig;
use netvsc_host::{Host, HostThread, NicId, NicOptions};
use tokio::task::JoinHandle;
use vmbus::mem::MemBus;

use crate::forward::forward;
use crate::picture::{Gone, Traffic};
use crate::told::Told;

/// MAC addresses of the adapters; the second one's is the virtual function's, too.
const MACS: [[u8; 6]; 2] = [[0x00, 0x15, 0x5D, 1, 0, 0x0A], VF_MAC];
/// The address of the adapter that has the virtual function.
pub(crate) const VF_MAC: [u8; 6] = [0x00, 0x15, 0x5D, 1, 0, 0x0B];

/// The appliance at work.
pub(crate) struct Appliance {
    hosts: [Host; 2],
    threads: Vec<HostThread>,
    nics: [Nic<MemBus>; 2],
    forwarders: Vec<JoinHandle<Result<(), netvsc_async::Error>>>,
    reader: JoinHandle<()>,
}

/// Frames that one side of virtual functions has counted and the other has not: those that are under way, and in the end those
/// that were lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Inside {
    /// Sent by the driver, and not received by the host.
    pub(crate) from_guest: u64,
    /// The opposite: the driver cannot know of them.
    pub(crate) to_guest: u64,
}

impl Appliance {
    /// Opens the adapters and begins to forward between the far ends of their hosts' cables. `with_vf` is what makes the
    /// second adapter use virtual functions.
    pub(crate) async fn start<P: Port + 'static>(
        far_ends: [P; 2],
        with_vf: impl FnOnce(NicBuilder) -> NicBuilder,
        told: &Told,
    ) -> anyhow::Result<Self> {
        let hosts = [(); 2].map(|()| Host::builder().switch(SwitchConfig::default().cable(true)).build());
        let mut buses = Vec::new();
        let mut threads = Vec::new();
        for ((host, far_end), mac) in hosts.iter().zip(far_ends).zip(MACS) {
            host.add_port(far_end);
            buses.push(MemBus::new(host.add_nic(NicOptions::new().mac(mac).mac_spoofing(true))));
            threads.push(host.spawn_thread());
        }
        let [near, far] = <[MemBus; 2]>::try_from(buses).map_err(|_| anyhow::anyhow!("two adapters"))?;
        let open = |builder: NicBuilder, bus| async move {
            let (nic, mut queues) = builder.open_on(bus).await.context("open an adapter")?;
            nic.set_packet_filter(PacketFilter::PROMISCUOUS).await.context("receive frames for others")?;
            anyhow::Ok((nic, queues.remove(0)))
        };
        let (near, near_queue) = open(Nic::builder(), near).await?;
        let (far, far_queue) = open(with_vf(Nic::builder()), far).await?;
        let reader = tokio::spawn(told.clone().read(far.events()));
        let mtu = |nic: &Nic<MemBus>| nic.info().mtu;
        let forwarders = vec![
            tokio::spawn(forward(near_queue.rx, far_queue.tx, mtu(&far))),
            tokio::spawn(forward(far_queue.rx, near_queue.tx, mtu(&near))),
        ];
        Ok(Self { hosts, threads, nics: [near, far], forwarders, reader })
    }

    /// The host whose adapter has the virtual function.
    pub(crate) fn host(&self) -> &Host {
        &self.hosts[1]
    }

    /// What went by either path of the second adapter.
    pub(crate) fn traffic(&self) -> Traffic {
        let nic = &self.nics[1];
        let rings = nic.queue_stats();
        let rings = |of: fn(&netvsc::stats::QueueStats) -> u64| rings.iter().map(of).sum();
        let vf = nic.vf_stats();
        Traffic {
            synthetic: Gone {
                packets: rings(|queue| queue.rx.packets + queue.tx.packets),
                bytes: rings(|queue| queue.rx.bytes + queue.tx.bytes),
            },
            vf: Gone { packets: vf.vf_rx_packets + vf.vf_tx_packets, bytes: vf.vf_rx_bytes + vf.vf_tx_bytes },
        }
    }

    /// What went into virtual functions and did not come out.
    pub(crate) fn inside(&self) -> Inside {
        let vf = self.nics[1].vf_stats();
        let host = self.host().nic_report(NicId(0)).map(|report| report.counters).unwrap_or_default();
        Inside {
            from_guest: vf.vf_tx_packets.saturating_sub(host.vf_tx_frames),
            to_guest: (host.vf_rx_frames + host.vf_rx_dropped).saturating_sub(vf.vf_rx_packets),
        }
    }

    /// Closes everything; what is wrong with it, if anything.
    pub(crate) async fn close(self) -> anyhow::Result<Vec<String>> {
        let mut wrong = Vec::new();
        for nic in self.nics {
            let report = nic.close().await?;
            if !report.is_clean() {
                wrong.push(format!("{report:?}"));
            }
        }
        for forwarder in self.forwarders {
            match forwarder.await? {
                // The other adapter was closed first.
                Ok(()) | Err(netvsc_async::Error::Closed) => {}
                Err(error) => wrong.push(format!("forwarder: {error}")),
            }
        }
        self.reader.await?;
        // Serves what is left before it ends.
        drop(self.threads);
        for host in self.hosts {
            let report = host.report();
            if !report.is_clean() {
                wrong.push(report.to_string());
            }
        }
        Ok(wrong)
    }
}
