//! Bring-up and requests against hosts that talk out of turn, answer late or never, or refuse: every failure names its
//! step, and everything that existed by then is undone.

use std::collections::HashSet;
use std::time::Duration;

use netvsc::control::{Cause, RequestError as CoreError, Step};
use netvsc_async::{Nic, NicBuilder, OpenError, RequestError};
use netvsc_host::fault::{Fault, When};
use netvsc_host::{Host, Profile};
use netvsc_tests::frames::SIZES;
use netvsc_tests::rig::{self, paused};
use rndis::Oid;
use tokio::time::Instant;

/// Requests of a whole bring-up; no host is asked more.
const REQUESTS: u64 = 16;

/// The steps of the bring-up that are RNDIS requests and whose failure ends it, in order.
const NEEDED: [Step; 6] = [
    Step::Initialize,
    Step::Set(Oid::PACKET_FILTER),
    Step::Query(Oid::PERMANENT_ADDRESS),
    Step::Query(Oid::TCP_OFFLOAD_HARDWARE_CAPABILITIES),
    Step::Set(Oid::TCP_OFFLOAD_PARAMETERS),
    Step::Set(Oid::PACKET_FILTER),
];

/// An adapter with little memory, since hundreds are brought up here.
fn adapter() -> NicBuilder {
    Nic::builder().receive_sections(64).send_sections(16)
}

/// Brings up with `fault` at the n-th answer, for every n; what failed.
fn failures(fault: Fault, profile: Profile) -> Vec<(Step, Cause)> {
    let mut failures = Vec::new();
    for spared in 0..REQUESTS {
        paused(async {
            let faults = [(fault, When::After { spared })];
            let (host, pair) = rig::try_up(Host::builder().profile(profile), &faults, adapter()).await;
            match pair {
                Ok(mut pair) => {
                    rig::exchange(&mut pair, &SIZES, 20).await;
                    rig::close(pair).await;
                }
                Err(OpenError::Failed { step, cause }) => {
                    failures.push((step, cause));
                    rig::all_undone(&host).await;
                }
                Err(other) => panic!("{fault} after {spared}: {other:?}"),
            }
        });
    }
    failures
}

fn steps(failures: &[(Step, Cause)]) -> Vec<Step> {
    failures.iter().map(|(step, _)| *step).collect()
}

#[test]
fn a_refusal_of_a_needed_request_fails_it_by_name_and_others_are_tolerated() {
    for profile in Profile::ALL {
        let failures = failures(Fault::AnswerFailed, profile);
        assert_eq!(steps(&failures), NEEDED, "{profile}");
        for (step, cause) in failures {
            let refused = Cause::RefusedRequest { status: rndis::Status::FAILURE };
            assert_eq!(cause, refused, "{profile}: {step}");
        }
    }
}

#[test]
fn a_request_that_is_never_answered_fails_by_name_whichever_it_is() {
    for profile in Profile::ALL {
        let failures = failures(Fault::AnswerNever, profile);
        // All of them: a host that does not answer may have gone for good.
        assert!(failures.len() > NEEDED.len(), "{profile}: {failures:?}");
        let seen: HashSet<Step> = failures.iter().map(|(step, _)| *step).collect();
        assert!(NEEDED.iter().all(|step| seen.contains(step)), "{profile}: {seen:?}");
        for (step, cause) in failures {
            assert_eq!(cause, Cause::TimedOut { few_receive_sections: None }, "{profile}: {step}");
        }
    }
}

#[test]
fn an_answer_that_is_cut_short_never_passes_for_a_whole_one() {
    for (step, cause) in failures(Fault::AnswerShort, Profile::Ws2019) {
        // Unreadable is a violation; without even an id it is no answer at all.
        assert!(matches!(cause, Cause::Violation(_) | Cause::TimedOut { .. }), "{step}: {cause:?}");
    }
}

#[test]
fn answers_that_are_late_doubled_foreign_or_interrupted_are_waited_for() {
    for fault in
        [Fault::AnswerLate, Fault::AnswerDuplicate, Fault::AnswerForeignId, Fault::AnswerFirst, Fault::Unsolicited]
    {
        for profile in Profile::ALL {
            assert_eq!(failures(fault, profile), [], "{fault} with {profile}");
            paused(async {
                let start = Instant::now();
                let faults = [(fault, When::Always)];
                let mut pair = rig::up_with(Host::builder().profile(profile), &faults, adapter()).await;
                assert!(rig::strikes(&pair.host, fault) >= 9);
                if fault == Fault::AnswerLate {
                    assert!(start.elapsed() >= Duration::from_secs(9 * 15), "{:?}", start.elapsed());
                }
                rig::exchange(&mut pair, &SIZES, 20).await;
                for _ in 0..3 {
                    pair.nic.query(Oid::LINK_SPEED).await.unwrap();
                }
                rig::close(pair).await;
            });
        }
    }
}

/// The host reads no more from some point on: before the version, between the buffers, in the middle of RNDIS.
#[test]
fn a_host_that_falls_silent_at_any_point_is_left_in_time_and_in_order() {
    let mut seen = HashSet::new();
    let mut ups = 0;
    for spared in 0..80 {
        paused(async {
            let start = Instant::now();
            let silent = [(Fault::QueueSilent, When::After { spared })];
            let (host, pair) = rig::try_up(Host::builder(), &silent, adapter()).await;
            let error = match pair {
                Ok(pair) => {
                    ups += 1;
                    // Silent later, or never as far as the bring-up goes: it closes in time.
                    let _ = pair.nic.close().await.unwrap();
                    return;
                }
                Err(error) => error,
            };
            let OpenError::Failed { step, cause } = error else { panic!("after {spared}: {error:?}") };
            assert!(matches!(cause, Cause::TimedOut { .. }), "after {spared}: {cause:?}");
            assert!(start.elapsed() < Duration::from_secs(120), "after {spared}: {:?}", start.elapsed());
            seen.insert(step);
            tokio::time::sleep(Duration::from_secs(1)).await;
            let report = host.report();
            assert_eq!(report.violations, [], "after {spared} at {step}");
            let leaks = report.leaks;
            assert_eq!((leaks.gpadls, leaks.channels, leaks.memory_blocks), (0, 0, 0), "after {spared} at {step}");
        });
    }
    for step in [Step::Negotiate, Step::ShareReceiveBuffer, Step::ShareSendBuffer, Step::Initialize] {
        assert!(seen.contains(&step), "the host never fell silent at {step}: {seen:?}");
    }
    assert!(seen.len() >= 8 && ups > 0, "{seen:?}, {ups} came up");
}

/// No faults, but a host that accepts no version at all.
#[test]
fn a_host_without_any_version_is_refused_by_name() {
    paused(async {
        let host =
            Host::builder().nvsp_max(nvsp::Version(0)).tune(|settings| settings.nvsp_refusal = nvsp::Status::FAIL);
        let (host, pair) = rig::try_up(host, &[], adapter()).await;
        let failed =
            OpenError::Failed { step: Step::Negotiate, cause: Cause::NoVersion { status: nvsp::Status::FAIL } };
        assert_eq!(pair.unwrap_err(), failed);
        rig::all_undone(&host).await;
    });
    // An isolated guest is choosier.
    paused(async {
        let nic = adapter().tune(|config| config.isolated(true));
        let (host, pair) = rig::try_up(Host::builder().nvsp_max(nvsp::Version::V6), &[], nic).await;
        let error = pair.unwrap_err();
        assert!(matches!(error, OpenError::Failed { step: Step::Negotiate, .. }), "{error:?}");
        rig::all_undone(&host).await;
    });
}

/// A receive section of 100 kB: the host can make no ten of them out of ten Linux-sized ones.
#[test]
fn a_refused_receive_buffer_is_named_with_the_hosts_word() {
    paused(async {
        let host = Host::builder()
            .tune(|settings| settings.sub_allocation = netvsc_host::profile::SubAllocation::Bytes(100_000));
        let (host, pair) = rig::try_up(host, &[], Nic::builder().receive_sections(10)).await;
        let cause = Cause::Refused { status: nvsp::Status::FAIL };
        assert_eq!(pair.unwrap_err(), OpenError::Failed { step: Step::ShareReceiveBuffer, cause });
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(host.report().leaks.is_none(), "{}", host.report());
    });
}

#[test]
fn requests_of_a_running_adapter_fail_alone() {
    paused(async {
        let nic = adapter().tune(|config| config.step_deadline(Duration::from_secs(5)));
        let mut pair = rig::up(Host::builder(), nic).await;
        for (fault, expected) in [
            (Fault::AnswerFailed, CoreError::Refused { status: rndis::Status::FAILURE }),
            (Fault::AnswerNever, CoreError::TimedOut { few_receive_sections: None }),
        ] {
            rig::inject(&pair, fault, When::Once);
            let error = pair.nic.query(Oid::LINK_SPEED).await.unwrap_err();
            assert_eq!(error, RequestError::Request(expected), "{fault}");
            assert_eq!(pair.nic.query(Oid::LINK_SPEED).await.unwrap(), 100_000_000_u32.to_le_bytes(), "the next one");
            rig::exchange(&mut pair, &SIZES, 20).await;
        }
        let unsupported = RequestError::Request(CoreError::Refused { status: rndis::Status::NOT_SUPPORTED });
        assert_eq!(pair.nic.query(Oid(0x7777_7777)).await.unwrap_err(), unsupported);
        // Asked for and given up: the answer goes nowhere, and the next request gets its own.
        for turns in (0..10).cycle().take(100) {
            let mut query = std::pin::pin!(pair.nic.query(Oid::LINK_SPEED));
            let _ = futures::poll!(&mut query);
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
        }
        let mac = pair.nic.info().mac.0.to_vec();
        assert_eq!(pair.nic.query(Oid::PERMANENT_ADDRESS).await.unwrap(), mac);
        rig::close(pair).await;
    });
}

#[test]
fn a_rescind_in_the_middle_of_the_bring_up_leaves_nothing() {
    for spared in 0..40 {
        paused(async {
            let rescind = [(Fault::Rescind, When::After { spared })];
            let (host, pair) = rig::try_up(Host::builder(), &rescind, adapter()).await;
            if let Ok(pair) = pair {
                let _ = pair.nic.close().await;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            let report = host.report();
            // What was on its way in the rings is lost with them.
            let leaks = report.leaks;
            let left = (report.violations.len(), leaks.gpadls, leaks.channels, leaks.memory_blocks);
            assert_eq!(left, (0, 0, 0, 0), "after {spared}: {report}");
        });
    }
}
