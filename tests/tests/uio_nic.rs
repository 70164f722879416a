//! The whole adapter on the Linux backend: sysfs files, a device file and shared memory, as a host in another thread
//! exports them for other processes. What a preloaded library does for programs, a [`DeviceFile`](vmbus::uio::DeviceFile)
//! does here.
#![cfg(target_os = "linux")]

use std::time::Duration;

use futures::FutureExt;
use netvsc_async::{Event, Nic, OpenError, ReopenError, ReopenPolicy};
use netvsc_host::export::Kernel;
use netvsc_tests::frames::{SIZES, Sequence};
use netvsc_tests::uio_world::{World, open, ping, run};
use vmbus::{Error as _, ErrorKind};

#[test]
fn an_adapter_comes_up_passes_frames_and_closes_on_every_kernel() {
    let worlds = Kernel::ALL.map(|kernel| (kernel, true)).into_iter().chain([
        (Kernel::B, false),
        (Kernel::C, false),
        (Kernel::D, false),
        (Kernel::BD, false),
    ]);
    for (kernel, monitored) in worlds {
        let world = World::new(kernel, monitored);
        run(async {
            for _ in 0..2 {
                let (nic, mut queue) = open(world.device().open().unwrap()).await;
                ping(&world.far, &nic, &mut queue, 100).await;
                let report = nic.close().await.unwrap();
                assert_eq!((report.outstanding_sends, report.unreturned_sections), (0, 0));
            }
        });
        assert!(world.host.violations().is_empty(), "kernel {kernel}: {:?}", world.host.violations());
        let report = world.end();
        assert_eq!(
            (report.sessions, report.protocol_violations, report.leaks, report.held_at_close),
            (2, 0, 0, 0),
            "kernel {kernel}, monitored: {monitored}"
        );
    }
}

/// Kernels that die of a subchannel's interrupt are among them: the host counts that as a violation.
#[test]
fn all_queues_pass_frames_on_every_kernel() {
    for kernel in Kernel::ALL {
        let world = World::new(kernel, true);
        run(async {
            let bus = world.device().open().unwrap();
            let (nic, mut queues) = Nic::builder().queues(4).open_on(bus).await.unwrap();
            let mut said = nic.events();
            let mut why = || std::iter::from_fn(|| said.next().now_or_never().flatten()).collect::<Vec<_>>();
            assert!(queues.len() == 4, "kernel {kernel}: {} queues, {:?}", queues.len(), why());
            let mut ours = Sequence::new(nic.info().mac.0, &SIZES);
            let mut expect = ours.clone();
            for _ in 0..25 {
                for queue in &mut queues {
                    queue.tx.send(&ours.make()).await.unwrap();
                    queue.tx.flush().unwrap();
                    expect.check(&world.far.recv().await.unwrap());
                }
            }
            // Completions came on each channel, by interrupt or by timer.
            for queue in &mut queues {
                queue.tx.drained().await.unwrap();
            }
            nic.close().await.unwrap();
        });
        assert!(world.host.violations().is_empty(), "kernel {kernel}: {:?}", world.host.violations());
        let report = world.end();
        assert_eq!((report.protocol_violations, report.leaks), (0, 0), "kernel {kernel}");
    }
}

#[test]
fn a_host_that_ends_ends_the_adapter_and_the_next_one_serves_it() {
    let world = World::new(Kernel::D, true);
    run(async {
        let (nic, mut queue) = open(world.device().open().unwrap()).await;
        ping(&world.far, &nic, &mut queue, 10).await;
        let mut events = nic.events();
        assert_eq!(world.end().protocol_violations, 0);
        // The receiver hears it, not just the adapter.
        let ended = queue.rx.recv_burst().await.map(|burst| burst.is_some());
        assert!(!matches!(ended, Ok(true)), "{ended:?}");
        while let Some(event) = events.next().await {
            if let Event::Gone(report) = event {
                assert!(report.host_gone);
                return;
            }
        }
        panic!("nothing said that the host is gone");
    });
}

/// Quick, for a test; long in the end, since the machine may be busy.
const REOPEN: ReopenPolicy =
    ReopenPolicy::new().pauses(Duration::from_millis(5), Duration::from_millis(20)).patience(Duration::from_secs(60));

#[test]
fn an_adapter_that_comes_back_is_opened_again() {
    let mut world = World::new(Kernel::D, true);
    run(async {
        let mut adapter = Nic::builder().uio(world.settings()).reopening(REOPEN);
        assert_eq!((adapter.opened(), adapter.instance()), (0, None));
        let (mut nic, mut queues) = adapter.open().await.unwrap();
        let instance = adapter.instance();
        assert_eq!(instance, Some(world.device().instance()));
        for opened in 1..3 {
            ping(&world.far, &nic, &mut queues[0], 10).await;
            assert_eq!((adapter.opened(), adapter.instance()), (opened, instance));
            let root = world.root().to_owned();
            assert_eq!(world.end().protocol_violations, 0);
            let error = queues[0].rx.recv_burst().await.map(|burst| burst.is_some()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Gone, "{error}");
            drop(queues);
            let _ = nic.close().await;
            // It looks in vain for a while.
            let host = async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                World::at(root, Kernel::A, true)
            };
            let (again, new) = tokio::join!(adapter.open(), host);
            world = new;
            (nic, queues) = again.unwrap();
        }
        ping(&world.far, &nic, &mut queues[0], 10).await;
        nic.close().await.unwrap();
        assert_eq!(world.end().protocol_violations, 0);
    });
}

#[test]
fn an_adapter_that_stays_away_is_given_up() {
    let world = World::new(Kernel::D, true);
    run(async {
        let settings = world.settings();
        let patience = Duration::from_millis(50);
        let mut adapter = Nic::builder().uio(settings.clone()).reopening(REOPEN.patience(patience));
        let mut once = Nic::builder().uio(settings.clone()).reopening(REOPEN.times(0));
        for adapter in [&mut adapter, &mut once] {
            let (nic, queues) = adapter.open().await.unwrap();
            drop(queues);
            nic.close().await.unwrap();
        }
        let instance = adapter.instance().unwrap();
        assert_eq!(once.open().await.unwrap_err(), ReopenError::Exhausted { times: 0 });
        world.end();
        match adapter.open().await.unwrap_err() {
            error @ ReopenError::Absent { .. } if error.kind() == ErrorKind::Gone => {
                let ReopenError::Absent { instance: missing, waited, last } = error else { unreachable!() };
                assert!(missing == instance && waited >= patience, "{missing}, {waited:?}");
                assert!(matches!(last, OpenError::System { kind: ErrorKind::System, .. }), "{last}");
            }
            other => panic!("{other:?}"),
        }
        // One that was never there is not waited for, and what cannot be never will.
        let mut never = Nic::builder().uio(settings).reopening(REOPEN);
        assert!(matches!(never.open().await, Err(ReopenError::Open(OpenError::System { .. }))));
    });
}
