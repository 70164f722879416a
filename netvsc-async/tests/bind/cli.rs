//! The command, as scripts run it. The tree's files take writes but no kernel acts on them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::tree::{DISK, MAC, NIC, NIC_CLASS, Tree, UPLINK};

fn netvsc(tree: &Tree, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_netvsc"));
    command.args(arguments.iter().take_while(|argument| **argument != "--"));
    command.arg("--sysfs").arg(tree.sys()).arg("--proc").arg(tree.proc());
    command.args(arguments.iter().skip_while(|argument| **argument != "--"));
    command.env_remove("SSH_CONNECTION");
    command
}

fn run(tree: &Tree, arguments: &[&str]) -> Output {
    netvsc(tree, arguments).output().unwrap()
}

/// Standard output, of a command that succeeds.
fn text(tree: &Tree, arguments: &[&str]) -> String {
    let output = run(tree, arguments);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// Standard error, of a command that ends with `code`.
fn refused(tree: &Tree, arguments: &[&str], code: i32) -> String {
    let output = run(tree, arguments);
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// Puts a device with another driver, as the kernel would.
fn hand_over(tree: &Tree, driver: &str) {
    fs::remove_file(tree.sys().join("devices/vmbus").join(NIC).join("driver")).unwrap();
    tree.link(&format!("sys/devices/vmbus/{NIC}/driver"), &format!("sys/bus/vmbus/drivers/{driver}"));
    tree.file(&format!("sys/devices/vmbus/{NIC}/uio/uio0/name"), "uio_hv_generic\n");
}

#[test]
fn list_shows_adapters_and_what_they_carry() {
    let tree = Tree::new(true);
    let listed = text(&tree, &["list"]);
    let rows: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows.len(), 3, "{listed}");
    assert_eq!(rows[1], [UPLINK, "eth0", "00:0d:3a:f0:00:01", "hv_netvsc", "-", "-", "-", "default", "route"]);
    assert_eq!(rows[2], [NIC, "eth1", MAC, "hv_netvsc", "-", "-", "enP1s2", "-"]);
    assert!(text(&tree, &["list", "--all"]).contains("SCSI controller"));
}

#[test]
fn list_json_has_every_field() {
    let tree = Tree::new(true);
    let mut command = netvsc(&tree, &["list", "--json"]);
    let output = command.env("SSH_CONNECTION", "10.0.1.9 50022 10.0.1.4 22").output().unwrap();
    let devices = json(&output);
    assert_eq!(devices.as_array().unwrap().len(), 2);
    let device = &devices[1];
    assert_eq!(device["instance"], NIC);
    assert_eq!(device["class"], NIC_CLASS);
    assert_eq!(device["mac"], MAC);
    assert_eq!(device["driver"], "hv_netvsc");
    assert_eq!(device["driver_override"], Value::Null);
    assert_eq!(device["driver_override_supported"], true);
    assert_eq!(device["uio"], Value::Null);
    assert_eq!(device["interfaces"][0]["name"], "eth1");
    assert_eq!(device["virtual_functions"][0]["name"], "enP1s2");
    assert_eq!((&device["default_route"], &device["login_session"]), (&false.into(), &true.into()));
}

#[test]
fn status_by_mac_is_the_synthetic_adapter() {
    let tree = Tree::new(true);
    let status = text(&tree, &["status", MAC]);
    assert!(status.contains(NIC) && status.contains("with the kernel"), "{status}");
    hand_over(&tree, "uio_hv_generic");
    for name in ["uio0", "/dev/uio0", &format!("/sys/bus/vmbus/devices/{NIC}/")] {
        assert!(text(&tree, &["status", name]).contains("bound to user space"), "{name}");
    }
}

#[test]
fn wrong_name_lists_candidates_with_reasons() {
    let tree = Tree::new(true);
    let told = refused(&tree, &["status", "enP1s2"], 3);
    assert!(told.contains("is the virtual function, not the synthetic adapter; that is eth1"), "{told}");
    let output = run(&tree, &["bind", DISK, "--json"]);
    assert_eq!(output.status.code(), Some(3));
    let failure = json(&output);
    assert_eq!(failure["exit_code"], 3);
    let candidates = failure["candidates"].as_array().unwrap();
    let disk = candidates.iter().find(|candidate| candidate["instance"] == DISK).unwrap();
    assert!(disk["reason"].as_str().unwrap().contains("is not a nic"), "{disk}");
}

#[test]
fn dry_run_prints_the_writes_and_makes_none() {
    for (driver_override, expected) in [
        (
            true,
            [
                format!("printf 'uio_hv_generic' > SYS/devices/{NIC}/driver_override"),
                format!("printf '{NIC}' > SYS/drivers/hv_netvsc/unbind"),
                format!("printf '{NIC}' > SYS/drivers_probe"),
            ],
        ),
        (
            false,
            [
                format!("printf '{NIC_CLASS}' > SYS/drivers/uio_hv_generic/new_id   # EEXIST is fine"),
                format!("printf '{NIC}' > SYS/drivers/hv_netvsc/unbind"),
                format!("printf '{NIC}' > SYS/drivers/uio_hv_generic/bind"),
            ],
        ),
    ] {
        let tree = Tree::new(driver_override);
        let before = tree.snapshot();
        let printed = text(&tree, &["bind", "eth1", "--dry-run"]);
        assert_eq!(tree.snapshot(), before);
        let bus = tree.sys().join("bus/vmbus").display().to_string();
        let writes: Vec<String> =
            printed.lines().filter(|line| !line.starts_with('#')).map(|line| line.replace(&bus, "SYS")).collect();
        assert_eq!(writes, expected);
        assert!(printed.contains("virtual function enP1s2 stays"), "{printed}");
        let plan = json(&run(&tree, &["bind", "eth1", "--dry-run", "--json"]));
        assert_eq!((&plan["dry_run"], plan["writes"].as_array().unwrap().len()), (&true.into(), 3));
    }
}

#[test]
fn dry_run_of_unbind_clears_the_override_by_a_line_end() {
    let tree = Tree::new(true);
    hand_over(&tree, "uio_hv_generic");
    tree.file(&format!("sys/devices/vmbus/{NIC}/driver_override"), "uio_hv_generic\n");
    let before = tree.snapshot();
    let printed = text(&tree, &["unbind", NIC, "--dry-run"]);
    assert_eq!(tree.snapshot(), before);
    let first = printed.lines().nth(1).unwrap();
    assert!(first.starts_with("printf '\\n' > ") && first.ends_with("/driver_override"), "{printed}");
    assert!(printed.lines().last().unwrap().ends_with("drivers/hv_netvsc/bind"), "{printed}");
}

#[test]
fn default_route_and_session_are_refused_unless_forced() {
    let tree = Tree::new(true);
    let before = tree.snapshot();
    let told = refused(&tree, &["bind", "eth0"], 4);
    assert!(told.contains("default route") && told.contains("--force"), "{told}");
    assert_eq!(tree.snapshot(), before);
    let session = "203.0.113.9 50022 10.0.1.4 22";
    let output = netvsc(&tree, &["bind", "eth1", "--dry-run"]).env("SSH_CONNECTION", session).output().unwrap();
    assert_eq!(output.status.code(), Some(4));
    assert!(text(&tree, &["bind", "eth0", "--force", "--dry-run"]).contains("drivers_probe"));
}

#[test]
fn missing_module_says_how_to_load_it() {
    let tree = Tree::new(true);
    fs::remove_dir_all(tree.sys().join("bus/vmbus/drivers/uio_hv_generic")).unwrap();
    assert!(refused(&tree, &["bind", "eth1"], 5).contains("modprobe uio_hv_generic"));
}

#[test]
fn files_that_are_no_kernel_are_noticed() {
    let tree = Tree::new(true);
    let told = refused(&tree, &["bind", "eth1"], 1);
    assert!(told.contains("was to go to uio_hv_generic but hv_netvsc has it"), "{told}");
    // Written, and then cleared again.
    let probed = fs::read_to_string(tree.sys().join("bus/vmbus/drivers_probe")).unwrap();
    assert_eq!(probed, NIC);
    let left = fs::read_to_string(tree.sys().join("devices/vmbus").join(NIC).join("driver_override")).unwrap();
    assert_eq!(left.trim_end_matches('\n'), "");
}

#[test]
fn machine_without_vmbus_is_told() {
    let tree = Tree::new(true);
    fs::remove_dir_all(tree.sys().join("bus")).unwrap();
    assert!(refused(&tree, &["list"], 1).contains("bus/vmbus/devices"));
}

#[test]
fn usage_errors_end_with_two_and_help_lists_exit_codes() {
    let tree = Tree::new(true);
    refused(&tree, &["bind"], 2);
    assert!(text(&tree, &["--help"]).contains("Exit codes:"));
}

/// A shell script that hands the device to `hv_netvsc`, as the kernel would.
fn back(tree: &Tree) -> String {
    let driver = tree.sys().join("devices/vmbus").join(NIC).join("driver");
    let target = tree.sys().join("bus/vmbus/drivers/hv_netvsc");
    format!("ln -sfn {} {}", target.display(), driver.display())
}

#[test]
fn run_tells_the_command_its_device_and_ends_with_its_code() {
    let tree = Tree::new(true);
    hand_over(&tree, "uio_hv_generic");
    let script = format!("echo $NETVSC_DEVICE $NETVSC_UIO; {}; exit 7", back(&tree));
    let output = run(&tree, &["run", NIC, "--", "sh", "-c", &script]);
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{NIC} /dev/uio0\n"));
}

#[test]
fn run_gives_back_after_a_command_that_was_killed() {
    let tree = Tree::new(true);
    hand_over(&tree, "uio_hv_generic");
    let told = refused(&tree, &["run", NIC, "--", "sh", "-c", "kill -9 $$"], 1);
    // It tried: the files took the writes, but no kernel acted on them.
    assert!(told.contains("was to go to hv_netvsc"), "{told}");
    let output = run(&tree, &["run", NIC, "--", "sh", "-c", &format!("{}; kill -9 $$", back(&tree))]);
    assert_eq!(output.status.code(), Some(128 + 9));
}

#[test]
fn run_passes_signals_on() {
    let tree = Tree::new(true);
    hand_over(&tree, "uio_hv_generic");
    let script = format!("trap '{}; exit 9' TERM; echo ready; while :; do sleep 1 >&- & wait; done", back(&tree));
    let mut child = netvsc(&tree, &["run", NIC, "--", "sh", "-c", &script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(9));
}
