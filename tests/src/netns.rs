//! Network namespaces: machines of their own for real traffic, which go when the last value that names them goes.
//!
//! A namespace here has no name in the file system. It lives as long as somebody holds it: this value, a thread or a
//! program in it, an interface's owner. So nothing is left after a panic, and nothing after `kill -9`.
//!
//! Threads enter a namespace one by one (`setns(2)`), and everything that they open or start is in it: sockets, TAP
//! interfaces, programs. [`Netns::enter`] does so for a closure.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};
use serde_json::Value;

/// After so long something hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A network namespace. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Netns {
    /// Keeps it alive, and is the way in.
    handle: Arc<File>,
}

impl Netns {
    /// A new one, with its loopback interface up. Without duplicate address detection, so that IPv6 addresses work at once.
    ///
    /// # Errors
    /// If this system, or this user, may not make one.
    pub fn new() -> io::Result<Self> {
        // A thread for it: there is no way back for a thread that has left its namespace but through a file like this one.
        let handle = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            // A kernel that has no IPv6 has no such files.
            if has_ipv6() {
                for at in ["all", "default"] {
                    std::fs::write(format!("/proc/sys/net/ipv6/conf/{at}/accept_dad"), "0")?;
                    std::fs::write(format!("/proc/sys/net/ipv6/conf/{at}/accept_ra"), "0")?;
                }
            }
            File::open("/proc/thread-self/ns/net")
        });
        let handle = handle.join().map_err(|_| io::Error::other("the thread panicked"))??;
        let netns = Self { handle: Arc::new(handle) };
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// Runs `work` in the namespace: what it opens and starts is there, and stays there. A panic in `work` goes on here.
    ///
    /// # Panics
    /// If the namespace cannot be entered, which needs the rights by which it was made.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.move_in();
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// As [`enter`](Self::enter), on a thread that goes on.
    pub fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let netns = self.clone();
        std::thread::spawn(move || {
            netns.move_in();
            work()
        })
    }

    fn move_in(&self) {
        setns(&*self.handle, CloneFlags::CLONE_NEWNET).expect("whoever made the namespace may enter it");
    }

    /// Runs a program to its end.
    ///
    /// # Errors
    /// If it could not be started or failed; the error has what it said.
    pub fn run(&self, program: &str, arguments: &[&str]) -> io::Result<String> {
        let output = self.enter(|| Command::new(program).args(arguments).stdin(Stdio::null()).output())?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let told = String::from_utf8_lossy(&output.stdout);
            return Err(io::Error::other(format!("{program} {}: {said}{told}", arguments.join(" "))));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Starts a program, which is ended with the value that comes back at the latest.
    ///
    /// # Errors
    /// If it could not be started.
    pub fn start(&self, program: &str, arguments: &[&str]) -> io::Result<Program> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.enter(|| command.spawn()).map(Program)
    }

    /// `ip(8)`, its arguments separated by spaces.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn ip(&self, arguments: &str) -> io::Result<String> {
        self.run("ip", &arguments.split_whitespace().collect::<Vec<_>>())
    }

    /// Takes `interface` over from the namespace of the calling thread. What was set on it (addresses, up) is lost.
    ///
    /// # Errors
    /// If there is no such interface, or it cannot be moved.
    pub fn adopt(&self, interface: &str) -> io::Result<()> {
        // ip(8) takes a path for a namespace, too.
        let to = format!("/proc/{}/fd/{}", std::process::id(), self.handle.as_raw_fd());
        let output = Command::new("ip").args(["link", "set", "dev", interface, "netns", &to]).output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(io::Error::other(format!("move {interface}: {}", String::from_utf8_lossy(&output.stderr))))
    }

    /// What an interface has counted.
    ///
    /// # Errors
    /// If there is none of this name.
    pub fn link_counters(&self, interface: &str) -> io::Result<LinkCounters> {
        let text = self.run("ip", &["-j", "-s", "link", "show", "dev", interface])?;
        let value: Value = serde_json::from_str(&text)?;
        let counters = &value[0]["stats64"];
        let read = |way: &str, name: &str| {
            counters[way][name].as_u64().ok_or_else(|| io::Error::other(format!("no {way} {name} in {text}")))
        };
        Ok(LinkCounters {
            rx_packets: read("rx", "packets")?,
            rx_bytes: read("rx", "bytes")?,
            tx_packets: read("tx", "packets")?,
            tx_bytes: read("tx", "bytes")?,
            tx_dropped: read("tx", "dropped")?,
        })
    }

    /// The kernel's counters of packets whose checksum was wrong: IP, ICMP, TCP and UDP, both versions of IP.
    ///
    /// # Errors
    /// If `nstat(8)` does not tell them.
    pub fn checksum_errors(&self) -> io::Result<BTreeMap<String, u64>> {
        let text = self.run("nstat", &["--ignore", "--noupdate", "--zeros", "--json"])?;
        let value: Value = serde_json::from_str(&text)?;
        let counters = value["kernel"].as_object().ok_or_else(|| io::Error::other(format!("nstat said {text}")))?;
        let errors: BTreeMap<String, u64> = counters
            .iter()
            .filter(|(name, _)| name.ends_with("CsumErrors"))
            .filter_map(|(name, value)| Some((name.clone(), value.as_u64()?)))
            .collect();
        // Were a counter renamed, it would be missed here: not by a test that finds nothing moving.
        for name in ["TcpInCsumErrors", "UdpInCsumErrors", "Udp6InCsumErrors", "IpExtInCsumErrors"] {
            if !errors.contains_key(name) && (has_ipv6() || !name.contains('6')) {
                return Err(io::Error::other(format!("nstat does not tell {name}: {text}")));
            }
        }
        Ok(errors)
    }
}

/// Whether the kernel has IPv6.
fn has_ipv6() -> bool {
    std::path::Path::new("/proc/sys/net/ipv6").exists()
}

/// What the kernel counted at an interface; seen from the namespace, so `rx` is what came in from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkCounters {
    /// Packets received; a large one that was handed over whole counts once.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Packets sent; a large one that is cut outside counts once.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Packets that were not taken.
    pub tx_dropped: u64,
}

impl LinkCounters {
    /// What was counted since `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            rx_packets: self.rx_packets - before.rx_packets,
            rx_bytes: self.rx_bytes - before.rx_bytes,
            tx_packets: self.tx_packets - before.tx_packets,
            tx_bytes: self.tx_bytes - before.tx_bytes,
            tx_dropped: self.tx_dropped - before.tx_dropped,
        }
    }
}

/// A program that runs; ended with this value.
#[derive(Debug)]
pub struct Program(Child);

impl Program {
    /// Waits for its end.
    ///
    /// # Errors
    /// If it failed, or does not end; the error has what it said.
    pub fn finish(mut self) -> io::Result<String> {
        let deadline = Instant::now() + PATIENCE;
        while self.0.try_wait()?.is_none() {
            if Instant::now() > deadline {
                return Err(io::Error::other("the program does not end"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut said = String::new();
        for pipe in [self.0.stdout.take().map(Pipe::Out), self.0.stderr.take().map(Pipe::Err)].into_iter().flatten() {
            pipe.read(&mut said)?;
        }
        let status = self.0.wait()?;
        if status.success() { Ok(said) } else { Err(io::Error::other(format!("{status}: {said}"))) }
    }
}

enum Pipe {
    Out(std::process::ChildStdout),
    Err(std::process::ChildStderr),
}

impl Pipe {
    fn read(self, into: &mut String) -> io::Result<usize> {
        match self {
            Self::Out(mut pipe) => io::Read::read_to_string(&mut pipe, into),
            Self::Err(mut pipe) => io::Read::read_to_string(&mut pipe, into),
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::real;

    #[test]
    fn namespaces_are_apart_and_can_be_joined() {
        let Some(_lock) = real::privileged_or_skip(&["ip", "nstat"]) else { return };
        let [a, b] = [(); 2].map(|()| Netns::new().expect("root makes namespaces"));
        let listener = a.enter(|| TcpListener::bind("127.0.0.1:0")).expect("lo is up");
        let address = listener.local_addr().unwrap();
        assert!(b.enter(|| TcpStream::connect_timeout(&address, PATIENCE)).is_err(), "another machine");
        assert!(a.enter(|| TcpStream::connect_timeout(&address, PATIENCE)).is_ok());

        a.ip("link add fwdv0 type veth peer name fwdv1").unwrap();
        a.enter(|| b.adopt("fwdv1")).unwrap();
        for (netns, interface, host) in [(&a, "fwdv0", 1), (&b, "fwdv1", 2)] {
            netns.ip(&format!("addr add 198.51.100.{host}/24 dev {interface}")).unwrap();
            netns.ip(&format!("link set {interface} up")).unwrap();
        }
        let before = b.link_counters("fwdv1").unwrap();
        a.run("ping", &["-c", "3", "-i", "0.01", "198.51.100.2"]).unwrap();
        assert!(b.link_counters("fwdv1").unwrap().since(before).rx_packets >= 3);
        assert!(b.checksum_errors().unwrap().values().all(|errors| *errors == 0));
        assert!(a.ip("link show fwdv1").is_err(), "it is in the other one");
        assert!(!std::path::Path::new("/sys/class/net/fwdv0").exists(), "nor was it ever here");
    }
}
