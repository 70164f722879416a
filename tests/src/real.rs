//! What tests on real traffic need: privileges, programs, a network of their own, and each other's absence.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Why a test on real traffic cannot run here, or the lock that keeps others like it away while it does.
///
/// # Errors
/// What is missing.
pub fn privileged(programs: &[&str]) -> Result<File, String> {
    let status = std::fs::read_to_string("/proc/self/status").map_err(|_| String::from("this is not Linux"))?;
    let effective =
        status.lines().find(|line| line.starts_with("Uid:")).and_then(|line| line.split_whitespace().nth(2));
    if effective != Some("0") {
        return Err("needs root".into());
    }
    if !Path::new("/dev/net/tun").exists() {
        return Err("needs /dev/net/tun".into());
    }
    for program in programs {
        if Command::new(program).arg("-V").output().is_err() {
            return Err(format!("needs the program {program}"));
        }
    }
    let lock =
        File::create(std::env::temp_dir().join("netvsc-real-traffic.lock")).map_err(|error| error.to_string())?;
    lock.lock().map_err(|error| error.to_string())?;
    Ok(lock)
}

/// The lock of [`privileged`], or nothing, and the test is skipped.
///
/// # Panics
/// As [`skip`].
#[must_use]
pub fn privileged_or_skip(programs: &[&str]) -> Option<File> {
    privileged(programs).map_err(|why| skip(&why)).ok()
}

/// Tells that a test is skipped.
///
/// # Panics
/// With `CI` set in the environment: there everything runs.
pub fn skip(why: &str) {
    println!("SKIPPED: {why}");
    assert!(std::env::var_os("CI").is_none(), "skipped in CI: {why}");
}

/// Builds an example of this workspace as this test was built, and says where it is.
///
/// # Panics
/// If it does not build.
#[must_use]
pub fn example(name: &str) -> PathBuf {
    // target/<profile>/deps/<test>
    let test = std::env::current_exe().expect("the test's own path");
    let profile = test.ancestors().nth(2).expect("a profile's folder");
    let target = profile.parent().expect("a target folder");
    let mut cargo = Command::new(env!("CARGO"));
    // The whole workspace, so that what `cargo test --workspace` has built fits.
    cargo.args(["build", "--quiet", "--workspace", "--example", name, "--target-dir"]).arg(target);
    cargo.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    if profile.file_name().is_some_and(|name| name == "release") {
        cargo.arg("--release");
    }
    assert!(cargo.status().expect("cargo runs").success(), "example {name} does not build");
    profile.join("examples").join(name)
}

/// A network namespace, which goes with this value.
#[derive(Debug)]
pub struct Namespace(String);

impl Namespace {
    /// A new one.
    ///
    /// # Errors
    /// If this system does not make one.
    pub fn new() -> Result<Self, String> {
        let name = format!("netvsc-test-{}", std::process::id());
        let output = Command::new("ip").args(["netns", "add", &name]).output().map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(format!("needs network namespaces: {}", String::from_utf8_lossy(&output.stderr)));
        }
        Ok(Self(name))
    }

    /// A program in it.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0]).arg(program);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Nothing can be done about one that stays.
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}
