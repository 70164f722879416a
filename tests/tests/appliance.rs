//! The appliance reached by the kernel's own TCP/IP stack: TAP interface, `curl`, `ping`. Needs root; in a network
//! namespace of its own, so that it meets nothing of the machine's. Without root: `examples/tests/appliance.rs`.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use netvsc_tests::real::{self, Namespace};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Of 198.18.0.0/15, which RFC 2544 sets aside for tests.
const ADDRESS: &str = "198.18.5.1";
const BLOB_BYTES: usize = 64 << 20;
/// After so long something hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// The running program; ended with this value at the latest.
struct Appliance {
    child: Child,
    lines: Option<JoinHandle<Vec<String>>>,
}

impl Appliance {
    fn start(namespace: &Namespace) -> Self {
        let mut command = namespace.command(real::example("appliance"));
        command.args(["--json", "--tap", "nvtap0", "--address", &format!("{ADDRESS}/24")]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("starts");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let lines = std::thread::spawn(move || stdout.lines().map_while(Result::ok).collect());
        Self { child, lines: Some(lines) }
    }

    /// Interrupts it as Ctrl-C does; its exit status and what it printed.
    fn interrupt(mut self) -> (std::process::ExitStatus, Vec<String>) {
        let id = self.child.id().to_string();
        assert!(Command::new("sh").args(["-c", &format!("kill -INT {id}")]).status().expect("sh").success());
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("our child") {
                break status;
            }
            assert!(Instant::now() < deadline, "still running after an interrupt");
            std::thread::sleep(Duration::from_millis(20));
        };
        (status, self.lines.take().expect("once").join().expect("reads"))
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The body, and the headers in lower case.
fn curl(namespace: &Namespace, path: &str) -> Option<(Vec<u8>, String)> {
    let url = format!("http://{ADDRESS}{path}");
    let seconds = PATIENCE.as_secs().to_string();
    let mut command = namespace.command("curl");
    let output =
        command.args(["-sS", "--fail", "--max-time", &seconds, "-D", "/dev/stderr", &url]).output().expect("curl");
    let headers = String::from_utf8_lossy(&output.stderr).to_lowercase();
    output.status.success().then_some((output.stdout, headers))
}

fn header<'a>(headers: &'a str, name: &str) -> &'a str {
    let line = headers.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {headers}")).trim()
}

#[test]
fn the_kernel_fetches_a_file_byte_exact_and_pings_without_loss() {
    let Some(_lock) = real::privileged_or_skip(&["ip", "curl", "ping"]) else { return };
    let namespace = match Namespace::new() {
        Ok(namespace) => namespace,
        Err(why) => return real::skip(&why),
    };
    let appliance = Appliance::start(&namespace);
    let deadline = Instant::now() + PATIENCE;
    let page = loop {
        if let Some((page, _)) = curl(&namespace, "/") {
            break page;
        }
        assert!(Instant::now() < deadline, "the appliance does not answer");
        std::thread::sleep(Duration::from_millis(100));
    };
    assert!(String::from_utf8_lossy(&page).to_lowercase().contains("<html"), "a page");

    let (stats, _) = curl(&namespace, "/stats.json").expect("the statistics");
    let before: Value = serde_json::from_slice(&stats).expect("json");
    assert!(before.is_object(), "{before}");

    let (blob, headers) = curl(&namespace, &format!("/blob?bytes={BLOB_BYTES}")).expect("the file");
    assert_eq!(blob.len(), BLOB_BYTES);
    let hash: String = Sha256::digest(&blob).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(header(&headers, "x-sha256"), hash);

    let (stats, _) = curl(&namespace, "/stats.json").expect("the statistics");
    let after: Value = serde_json::from_slice(&stats).expect("json");
    assert_ne!(before, after, "the counters count");

    let ping = namespace.command("ping").args(["-q", "-i", "0.01", "-c", "1000", ADDRESS]).output().expect("ping");
    let said = String::from_utf8_lossy(&ping.stdout).into_owned();
    assert!(ping.status.success() && said.contains("1000 received") && said.contains(" 0% packet loss"), "{said}");

    let (status, lines) = appliance.interrupt();
    assert!(status.success(), "{status}: {lines:?}");
    let outcome: Value = serde_json::from_str(lines.last().expect("a last line")).expect("one JSON object");
    for name in ["tx_dropped", "rx_dropped", "protocol_violations", "leaks"] {
        assert_eq!(outcome[name], 0, "{name} in {outcome}");
    }
    assert!(outcome["bytes"].as_u64().is_some_and(|bytes| bytes >= BLOB_BYTES as u64), "{outcome}");
    assert!(outcome["tx_packets"].as_u64().is_some_and(|packets| packets > BLOB_BYTES as u64 / 1500), "{outcome}");
}
