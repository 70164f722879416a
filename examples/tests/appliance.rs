//! The appliance as scripts run it: its JSON line and its exit status. That the checks can fail is shown with faults.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

/// `cargo test` builds examples beside tests: `target/<profile>/examples` and `target/<profile>/deps`.
fn appliance() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(|deps| deps.parent()).unwrap();
    let path = profile.join("examples").join(format!("appliance{}", std::env::consts::EXE_SUFFIX));
    assert!(path.exists(), "not built: run cargo build --examples, or all tests of the package");
    path
}

/// The JSON object and whether the exit status was 0.
fn run(arguments: &[&str]) -> (Value, bool) {
    let output = Command::new(appliance()).args(["--json", "--bytes", "8MiB"]).args(arguments).output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    let last = stdout.lines().last().unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    (serde_json::from_str(last).unwrap_or_else(|_| panic!("{stdout}")), output.status.success())
}

fn number(outcome: &Value, name: &str) -> u64 {
    outcome[name].as_u64().unwrap_or_else(|| panic!("{name} in {outcome}"))
}

#[test]
fn all_goes_well() {
    let (outcome, ok) = run(&[]);
    assert!(ok && outcome["hash_ok"] == true, "{outcome}");
    assert_eq!(number(&outcome, "bytes"), 8 << 20);
    assert!(number(&outcome, "tx_packets") > (8 << 20) / 1500);
    assert!(number(&outcome, "rx_packets") > 0);
    assert!(outcome["gbits_per_s"].as_f64().unwrap() > 0.0);
    for name in ["tx_dropped", "rx_dropped", "protocol_violations", "leaks"] {
        assert_eq!(number(&outcome, name), 0, "{name}");
    }
}

#[test]
fn options_reach_the_adapter() {
    let (outcome, ok) =
        run(&["--profile", "ws2016", "--nvsp-max", "2", "--send-sections", "10", "--receive-sections", "18811"]);
    assert!(ok, "{outcome}");
    assert_eq!((&outcome["profile"], &outcome["nvsp_version"]), (&"ws2016".into(), &"2".into()));
    assert_eq!(number(&outcome, "send_sections"), 10);
    assert_eq!(number(&outcome, "receive_sections"), 9102, "what NVSP 2 allows");
}

#[test]
fn corruption_is_noticed() {
    let (outcome, ok) = run(&["--fault", "corrupt"]);
    assert!(!ok && outcome["hash_ok"] == false, "{outcome}");
    assert_eq!(number(&outcome, "bytes"), 8 << 20);
}

#[test]
fn drops_are_noticed() {
    let (outcome, ok) = run(&["--fault", "drop"]);
    assert!(!ok && number(&outcome, "rx_dropped") > 0, "{outcome}");
    assert_eq!(outcome["hash_ok"], true, "TCP makes up for them");
}

#[test]
fn leaks_are_noticed() {
    let (outcome, ok) = run(&["--fault", "leak"]);
    assert!(!ok && number(&outcome, "leaks") > 0, "{outcome}");
}

#[test]
fn violations_are_noticed() {
    for seed in ["1", "2", "3"] {
        let (outcome, ok) = run(&["--fault", "violate", "--seed", seed]);
        assert!(!ok && number(&outcome, "protocol_violations") > 0, "seed {seed}: {outcome}");
    }
}

#[test]
fn bad_options_are_refused() {
    for arguments in [["--address", "192.0.2.0/24"], ["--bytes", "1MB"], ["--profile", "ws2008"], ["--nvsp-max", "3"]] {
        let output = Command::new(appliance()).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
}
