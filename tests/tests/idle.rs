//! Adapters that have nothing to do, in a process of their own: they sleep, and the first frame wakes them.
//!
//! The host sends two frames a second, each to a client that has fallen asleep by then. If one did not wake it the host
//! would not interrupt again, since the ring is not empty, and no other would arrive either. What the sleep costs is printed,
//! not judged: machines that run tests are busy.

#![cfg(target_os = "linux")]

use netvsc_tests::process::{self, CLIENT_TOOLS, Host, last_line, number};

const FRAMES: u64 = 4;

#[test]
fn each_frame_wakes_an_adapter_that_sleeps() {
    let Some(_turn) = process::turn(&CLIENT_TOOLS) else { return };
    let cases: [(&str, &[&str]); 5] = [
        ("interrupt", &["--kernel", "a"]),
        ("interrupt", &["--kernel", "d"]),
        ("interrupt", &["--kernel", "c", "--unmonitored"]),
        ("adaptive", &["--kernel", "d"]),
        ("adaptive", &["--kernel", "bd"]),
    ];
    for (wait, kernel) in cases {
        let what = format!("{wait}, {kernel:?}");
        let host = Host::start(&[&["--port", "generator:2,64"], kernel].concat());
        let mut command = host.client(process::example("l2fwd"));
        command.args(["--device", &host.device(), "--json", "--mode", "rxonly", "--wait", wait]);
        command.args(["--seconds", "60", "--packets", &FRAMES.to_string()]);
        let output = process::output(command);
        let complained = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{what}: {}\n{complained}", output.status);
        let client = last_line(&String::from_utf8_lossy(&output.stdout));
        assert!(number(&client, "packets") >= FRAMES, "{what}: {client}");
        let device = host.finish();
        assert_eq!((number(&device, "leaks"), number(&device, "lost")), (0, 0), "{what}: {device}");
        println!("{what}: {} of a processor between frames", client["idle_cpu"]);
    }
}
