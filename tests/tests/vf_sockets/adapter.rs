//! The function in use by an adapter, which has its rings on a simulated host.

use netvsc::meta::Path;
use netvsc::stats::{NicStats, Totals};
use netvsc_async::vf::sockets::{Method, PacketSettings, SocketVf, XdpSettings};
use netvsc_async::{Event, Nic, Queue};
use netvsc_host::vf::GuestVf;
use netvsc_host::{Host, HostThread, NicId, NicOptions};
use vmbus::mem::{MemBus, MemChannel};

use crate::wire::{FAR, MAC, METHODS, SERIAL, Wire, backend, data, peer_socket};

const NIC: NicId = NicId(0);

/// An adapter whose traffic goes by the function.
struct Rig {
    nic: Nic<MemBus>,
    queues: Vec<Queue<MemChannel>>,
    _host: HostThread,
    /// What the host takes for the function. Nothing goes by it.
    _function: GuestVf,
}

impl Rig {
    async fn new(backend: SocketVf) -> Self {
        let host = Host::builder().build();
        let bus = MemBus::new(host.add_nic(NicOptions::new().mac(MAC.0)));
        let function = host.plug_vf(NIC, SERIAL, 16).unwrap();
        let thread = host.spawn_thread();
        let (nic, queues) = Nic::builder().vf(backend).open_on(bus).await.unwrap();
        let mut events = nic.events();
        host.associate_vf(NIC, SERIAL);
        let in_use = |event: &Event| matches!(event, Event::DatapathSwitched { to: Path::VirtualFunction, .. });
        while !in_use(&events.next().await.unwrap()) {}
        Self { nic, queues, _host: thread, _function: function }
    }

    fn totals(&self) -> Totals {
        NicStats::new(&self.nic.queue_stats(), self.nic.vf_stats()).totals()
    }
}

#[test]
fn what_the_rings_had_no_room_for_is_counted_and_nothing_else_is_missing() {
    let _lock = privileged!();
    for method in METHODS {
        let wire = Wire::new(1);
        wire.hush();
        let socket = peer_socket(&wire);
        wire.run(|| async {
            let mut packet = PacketSettings::default();
            packet.receive_slots = 1;
            let mut xdp = XdpSettings::default();
            xdp.frames = 64;
            // As many as fit into one block of 1 MiB; as many as there are chunks.
            let room = if method == Method::AfPacket { (1 << 20) / packet.receive_slot_bytes as u64 } else { 64 };
            let mut rig = Rig::new(backend(method).packet(packet).xdp(xdp)).await;
            wire.settle(FAR);
            let mut sent = 0;
            for _ in 0..3 {
                // Nobody receives. Not all at once, as a veth has 256 places of its own.
                for _ in 0..3 {
                    for _ in 0..100 {
                        socket.send(&data(200, 1)).unwrap();
                    }
                    sent += 100;
                    // The rest is in the rings.
                    while rig.totals().rx_packets + rig.totals().rx_missed + room < sent {
                        tokio::task::yield_now().await;
                    }
                }
                let mut received = 0;
                while received < room {
                    received += rig.queues[0].rx.recv_burst().await.unwrap().unwrap().len() as u64;
                }
                let totals = rig.totals();
                assert_eq!(
                    (totals.rx_packets + totals.rx_missed, received, totals.rx_dropped),
                    (sent, room, 0),
                    "{method:?}: {totals:?}"
                );
            }
            let stats = rig.nic.vf_stats();
            assert_eq!(stats.vf_rx_missed, 3 * (300 - room));
            // The cause: what the queue's driver says of it.
            let counters = rig.nic.vf_queue_counters();
            assert_eq!(counters.len(), 1);
            let counted = |wanted: &str| counters[0].iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value);
            assert_eq!(counted("rx_missed"), Some(stats.vf_rx_missed), "{counters:?}");
            if method == Method::AfXdp {
                assert_eq!(counted("rx_fill_ring_empty"), Some(stats.vf_rx_missed), "{counters:?}");
            }
        });
    }
}
