//! The login session that must not be cut off.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::str::FromStr;

/// An SSH session's two ends, from this machine's view.
///
/// The library reads no environment: programs say which session they run in.
///
/// ```
/// use netvsc_async::bind::Session;
///
/// let session: Session = "203.0.113.9 50022 10.0.0.4 22".parse().unwrap(); // the text of SSH_CONNECTION
/// assert_eq!(session.local.to_string(), "10.0.0.4");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The address on this machine.
    pub local: IpAddr,
    /// The address it was opened from.
    pub peer: IpAddr,
    /// The interface, where a link-local address names it (`fe80::1%eth0`).
    pub interface: Option<String>,
}

impl Session {
    /// The session that a process, or the nearest of its ancestors, was started in.
    ///
    /// `sudo` drops `SSH_CONNECTION` from the environment, but its own process still shows it. `proc` is where procfs
    /// is; whatever cannot be read there ends the search.
    pub fn of_process(proc: &Path, pid: u32) -> Option<Self> {
        let mut pid = pid;
        // Deeper than any process tree that a person types a command in; ends the walk whatever the files say.
        for _ in 0..64 {
            if pid == 0 {
                return None;
            }
            let process = proc.join(pid.to_string());
            let environment = fs::read(process.join("environ")).ok()?;
            let found = environment.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(b"SSH_CONNECTION="));
            if let Some(session) = found.and_then(|text| std::str::from_utf8(text).ok()?.parse().ok()) {
                return Some(session);
            }
            let status = fs::read_to_string(process.join("status")).ok()?;
            pid = status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()?;
        }
        None
    }
}

/// The text of `SSH_CONNECTION`: peer's address and port, own address and port.
///
/// Source: OpenSSH `ssh(1)`, ENVIRONMENT.
impl FromStr for Session {
    type Err = ParseSessionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut words = text.split_whitespace();
        let (Some(peer), Some(_), Some(local), Some(_), None) =
            (words.next(), words.next(), words.next(), words.next(), words.next())
        else {
            return Err(ParseSessionError::Words { found: text.split_whitespace().count(), expected: 4 });
        };
        let (local, interface) = match local.split_once('%') {
            Some((address, interface)) => (address, Some(interface.to_owned())),
            None => (local, None),
        };
        let peer = peer.split_once('%').map_or(peer, |(address, _)| address);
        Ok(Self { local: address("local", local)?, peer: address("peer", peer)?, interface })
    }
}

/// An address; IPv4 that a dual-stack socket shows as IPv6 becomes IPv4 again.
fn address(field: &'static str, text: &str) -> Result<IpAddr, ParseSessionError> {
    let address: IpAddr = text.parse().map_err(|_| ParseSessionError::Address { field, value: text.to_owned() })?;
    Ok(address.to_canonical())
}

/// Why text is not an `SSH_CONNECTION`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseSessionError {
    /// Not four words.
    Words {
        /// Words found.
        found: usize,
        /// Words expected.
        expected: usize,
    },
    /// A word is not an IP address.
    Address {
        /// Which.
        field: &'static str,
        /// What stood there.
        value: String,
    },
}

impl std::fmt::Display for ParseSessionError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Words { found, expected } => write!(f, "session has {found} words, expected {expected}"),
            Self::Address { field, value } => write!(f, "session's {field} address {value:?} is not an IP address"),
        }
    }
}

impl std::error::Error for ParseSessionError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_ipv4_is_ipv4() {
        let session: Session = "::ffff:192.0.2.1 50000 ::ffff:10.0.0.4 22".parse().unwrap();
        assert_eq!(session.local, "10.0.0.4".parse::<IpAddr>().unwrap());
        assert_eq!(session.peer, "192.0.2.1".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn zone_names_the_interface() {
        let session: Session = "fe80::2%eth0 50000 fe80::1%eth0 22".parse().unwrap();
        assert_eq!(session.interface.as_deref(), Some("eth0"));
    }

    #[test]
    fn bad_text_is_named() {
        assert_eq!("10.0.0.1 1 10.0.0.2".parse::<Session>(), Err(ParseSessionError::Words { found: 3, expected: 4 }));
        assert_eq!(
            "10.0.0.1 1 nowhere 2".parse::<Session>(),
            Err(ParseSessionError::Address { field: "local", value: "nowhere".into() })
        );
    }
}
