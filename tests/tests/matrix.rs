//! Every profile × every NVSP version × section counts from the least to the most: the adapter comes up with the values
//! that it reports, frames cross whole and in order both ways, and nothing is left at the end.

use netvsc_async::Nic;
use netvsc_host::{Host, Profile};
use netvsc_tests::frames::SIZES;
use netvsc_tests::rig;
use nvsp::Version;

const SEND_SECTIONS: [u32; 3] = [10, 170, 2560];
const RECEIVE_SECTIONS: [u32; 3] = [10, 64, 18811];
/// Receive sections up to NVSP 2: 15 MiB of 1728 bytes.
const OLD_MOST: u32 = 9102;
/// With frames of this MTU one does not fit a send section (6144 bytes).
const JUMBO: u32 = 9000;
const JUMBO_SIZES: [usize; 8] = [22, 60, 1514, 4096, 6100, 6144, 9013, 9014];

#[derive(Debug, Clone, Copy)]
struct Case {
    profile: Profile,
    version: Version,
    send: u32,
    receive: u32,
}

impl Case {
    /// What the host and the adapter agree on.
    fn agreed(self) -> Version {
        self.version.min(self.profile.settings().nvsp_max)
    }

    fn adapter(self) -> netvsc_async::NicBuilder {
        Nic::builder()
            .tune(|config| config.nvsp_max(self.version))
            .send_sections(self.send)
            .receive_sections(self.receive)
    }

    async fn run(self) {
        self.ethernet().await;
        if self.agreed() > Version::V1 {
            self.jumbo().await;
        }
    }

    async fn ethernet(self) {
        let mut pair = rig::up(Host::builder().profile(self.profile), self.adapter()).await;
        let info = pair.nic.info();
        assert_eq!(info.nvsp_version, self.agreed(), "{self:?}");
        let most = if self.agreed() <= Version::V2 { OLD_MOST } else { u32::MAX };
        // Whole pages may hold a section more than was wished for.
        let (wished, count) = (self.receive.min(most), info.receive.count);
        assert_eq!(info.receive.requested, self.receive, "{self:?}");
        assert!((wished..=wished + 2).contains(&count) && count <= most, "{self:?}: {:?}", info.receive);
        let send = info.send.unwrap_or_else(|| panic!("{self:?}: no send buffer"));
        assert_eq!((send.requested, send.section_bytes), (self.send, 6144), "{self:?}");
        assert!((self.send..=self.send + 1).contains(&send.count), "{self:?}: {send:?}");
        rig::exchange(&mut pair, &SIZES, 64).await;
        let (stats, report) = (rig::stats(&pair), rig::report(&pair));
        assert_eq!(report.nvsp_version, Some(self.agreed()), "{self:?}");
        assert_eq!([stats.rx.packets, report.counters.rx_frames], [64; 2], "{self:?}");
        assert_eq!(report.counters.tx_frames, 64, "{self:?}");
        assert_eq!([stats.extra.tx_dropped, stats.extra.rx_dropped, report.counters.rx_dropped], [0; 3], "{self:?}");
        rig::close(pair).await;
    }

    /// As above, with frames that are longer than a send section.
    async fn jumbo(self) {
        let mut pair = rig::up(Host::builder().profile(self.profile), self.adapter().mtu(JUMBO)).await;
        let info = pair.nic.info();
        assert_eq!(info.mtu, JUMBO, "{self:?}");
        assert!(info.receive.count >= self.receive.min(64), "{self:?}: {:?}", info.receive);
        rig::exchange(&mut pair, &JUMBO_SIZES, 24).await;
        let (stats, report) = (rig::stats(&pair), rig::report(&pair));
        assert!(stats.extra.tx_direct >= 6, "{self:?}: long frames go from pages: {stats:?}");
        assert_eq!((stats.rx.packets, report.counters.tx_frames), (24, 24), "{self:?}");
        rig::close(pair).await;
    }
}

fn run(profile: Profile) {
    for version in Version::ALL {
        for send in SEND_SECTIONS {
            for receive in RECEIVE_SECTIONS {
                let case = Case { profile, version, send, receive };
                rig::paused(case.run());
            }
        }
    }
}

#[test]
fn server_2012_r2_serves_every_version_and_section_count() {
    run(Profile::Ws2012R2);
}

#[test]
fn server_2016_serves_every_version_and_section_count() {
    run(Profile::Ws2016);
}

#[test]
fn server_2019_serves_every_version_and_section_count() {
    run(Profile::Ws2019);
}

#[test]
fn server_2022_serves_every_version_and_section_count() {
    run(Profile::Ws2022);
}

/// The other way round: the adapter offers all it has, and the host accepts up to `max`.
#[test]
fn the_adapter_falls_back_to_what_the_host_has() {
    for max in Version::ALL {
        rig::paused(async {
            let mut pair = rig::up(Host::builder().nvsp_max(max), Nic::builder()).await;
            assert_eq!(pair.nic.info().nvsp_version, max);
            rig::exchange(&mut pair, &SIZES, 32).await;
            rig::close(pair).await;
        });
    }
}

#[test]
fn clamped_wishes_are_told() {
    rig::paused(async {
        let wishes = Nic::builder().tune(|config| config.nvsp_max(Version::V2));
        let wishes = wishes.receive_sections(1_000_000).send_sections(1_000_000);
        let pair = rig::up(Host::builder(), wishes).await;
        let info = pair.nic.info();
        assert_eq!((info.receive.requested, info.receive.count), (1_000_000, OLD_MOST));
        let send = info.send.expect("a send buffer");
        assert_eq!((send.requested, send.count), (1_000_000, 2560));
        rig::close(pair).await;
    });
}
