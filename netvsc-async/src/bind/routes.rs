//! Which interfaces the default route and the login session need.
//!
//! Read from `/proc/net/route`, `/proc/net/ipv6_route` and `/proc/net/if_inet6`. Source: Linux `net/ipv4/fib_trie.c`
//! (`fib_route_seq_show`), `net/ipv6/route.c` (`rt6_info_route`), `net/ipv6/addrconf.c` (`if6_seq_show`), and the flags
//! of `include/uapi/linux/route.h`.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use super::{BindError, Session, sysfs};

/// The route is usable.
const RTF_UP: u32 = 0x1;
/// The route goes through a gateway.
const RTF_GATEWAY: u32 = 0x2;
/// The route refuses.
const RTF_REJECT: u32 = 0x200;

/// The interfaces that must stay, with whatever they stand on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Needed {
    /// Interfaces of a default route.
    pub(super) default_route: BTreeSet<String>,
    /// Interfaces of the login session.
    pub(super) session: BTreeSet<String>,
}

impl Needed {
    /// Reads the tables. Fails if procfs shows no network at all: then nothing is known to be safe.
    pub(super) fn read(roots: &sysfs::Roots, session: Option<&Session>) -> Result<Self, BindError> {
        let net = roots.proc.join("net");
        if let Err(error) = fs::metadata(&net) {
            return Err(BindError::read(&net, error));
        }
        let routes = Route::read_all(&net)?;
        let default = routes.iter().filter(|route| route.prefix == 0).map(|route| route.interface.clone());
        let mut needed = Self { default_route: default.collect(), session: BTreeSet::new() };
        if let Some(session) = session {
            needed.session.extend(session.interface.clone());
            needed.session.extend(addressed(&net, session.local)?);
            needed.session.extend(nearest(routes.iter().filter(|route| route.connected), session.local));
            needed.session.extend(nearest(routes.iter(), session.peer));
        }
        let class = roots.interfaces();
        needed.default_route = with_lower(&class, needed.default_route)?;
        needed.session = with_lower(&class, needed.session)?;
        Ok(needed)
    }
}

/// A usable route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Route {
    destination: IpAddr,
    /// Leading bits of the destination that count.
    prefix: u32,
    /// Whether the destination is on the interface's own link.
    connected: bool,
    interface: String,
}

impl Route {
    fn read_all(net: &Path) -> Result<Vec<Self>, BindError> {
        let ipv4 = table(&net.join("route"))?;
        let ipv6 = table(&net.join("ipv6_route"))?;
        let ipv4 = ipv4.lines().filter_map(Self::ipv4);
        Ok(ipv4.chain(ipv6.lines().filter_map(Self::ipv6)).filter(|route| route.interface != "lo").collect())
    }

    /// `Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT`; addresses are network-order words
    /// printed as numbers of the machine. The heading is no route, since its words are no numbers.
    fn ipv4(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |index: usize| words.get(index).and_then(|word| u32::from_str_radix(word, 16).ok());
        let (destination, flags, mask) = (number(1)?, number(3)?, number(7)?);
        usable(flags).then(|| Self {
            destination: IpAddr::V4(Ipv4Addr::from(destination.to_ne_bytes())),
            prefix: mask.count_ones(),
            connected: flags & RTF_GATEWAY == 0,
            interface: words[0].to_owned(),
        })
    }

    /// `destination length source length gateway metric references use flags interface`, all in hexadecimal.
    fn ipv6(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let destination = u128::from_str_radix(words.first()?, 16).ok()?;
        let prefix = u32::from_str_radix(words.get(1)?, 16).ok()?;
        let flags = u32::from_str_radix(words.get(8)?, 16).ok()?;
        let interface = (*words.get(9)?).to_owned();
        usable(flags).then(|| Self {
            destination: IpAddr::V6(Ipv6Addr::from_bits(destination)),
            prefix,
            connected: flags & RTF_GATEWAY == 0,
            interface,
        })
    }

    fn covers(&self, address: IpAddr) -> bool {
        match (self.destination, address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                (a.to_bits() ^ b.to_bits()).checked_shr(32_u32.saturating_sub(self.prefix)).unwrap_or(0) == 0
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                (a.to_bits() ^ b.to_bits()).checked_shr(128_u32.saturating_sub(self.prefix)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

fn usable(flags: u32) -> bool {
    flags & RTF_UP != 0 && flags & RTF_REJECT == 0
}

/// The interfaces of the most exact routes to an address: all of them, since a metric may change at any time.
fn nearest<'a>(routes: impl Iterator<Item = &'a Route>, address: IpAddr) -> BTreeSet<String> {
    let covering: Vec<&Route> = routes.filter(|route| route.covers(address)).collect();
    let longest = covering.iter().map(|route| route.prefix).max();
    let nearest = covering.iter().filter(|route| Some(route.prefix) == longest);
    nearest.map(|route| route.interface.clone()).collect()
}

/// The interfaces that own an IPv6 address. Procfs does not say whose an IPv4 address is: there its connected route
/// does.
fn addressed(net: &Path, address: IpAddr) -> Result<BTreeSet<String>, BindError> {
    let IpAddr::V6(address) = address else { return Ok(BTreeSet::new()) };
    let text = table(&net.join("if_inet6"))?;
    let owners = text.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let own = u128::from_str_radix(words.first()?, 16).ok()?;
        (own == address.to_bits()).then(|| words.last().map(|name| (*name).to_owned()))?
    });
    Ok(owners.collect())
}

/// A table's text; empty where the kernel has no such protocol.
fn table(path: &Path) -> Result<String, BindError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(BindError::read(path, error)),
    }
}

/// Adds what the interfaces stand on: a bridge's ports, a VLAN's parent, a bond's members.
fn with_lower(class: &Path, names: BTreeSet<String>) -> Result<BTreeSet<String>, BindError> {
    let mut found = BTreeSet::new();
    let mut open: Vec<String> = names.into_iter().collect();
    while let Some(name) = open.pop() {
        let below = sysfs::names(&class.join(&name))?;
        open.extend(
            below
                .iter()
                .filter_map(|entry| entry.strip_prefix("lower_"))
                .map(str::to_owned)
                .filter(|lower| !found.contains(lower)),
        );
        found.insert(name);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipv4(octets: [u8; 4]) -> String {
        format!("{:08X}", u32::from_ne_bytes(octets))
    }

    #[test]
    fn ipv4_words_are_in_network_order() {
        let line =
            format!("eth0\t{}\t00000000\t0001\t0\t0\t0\t{}\t0\t0\t0", ipv4([10, 0, 1, 0]), ipv4([255, 255, 255, 0]));
        let route = Route::ipv4(&line).unwrap();
        assert_eq!(route.destination, IpAddr::V4(Ipv4Addr::new(10, 0, 1, 0)));
        assert_eq!(route.prefix, 24);
        assert!(route.connected);
        assert!(route.covers("10.0.1.77".parse().unwrap()));
        assert!(!route.covers("10.0.2.77".parse().unwrap()));
        assert!(!route.covers("::1".parse().unwrap()));
    }

    #[test]
    fn heading_and_short_lines_are_no_routes() {
        assert_eq!(
            Route::ipv4("Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT"),
            None
        );
        assert_eq!(Route::ipv4("eth0 00000000"), None);
        assert_eq!(Route::ipv6(""), None);
    }

    #[test]
    fn reject_route_is_no_default_route() {
        let zero = "0".repeat(32);
        let line = format!("{zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200       lo");
        assert_eq!(Route::ipv6(&line), None);
        // As `ip -6 route add unreachable default` makes it, on whatever interface.
        let line = format!("{zero} 00 {zero} 00 {zero} 00000400 00000001 00000000 00000201     eth0");
        assert_eq!(Route::ipv6(&line), None);
        let line = format!(
            "{zero} 00 {zero} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00450003     eth0"
        );
        let route = Route::ipv6(&line).unwrap();
        assert_eq!((route.prefix, route.connected, route.interface.as_str()), (0, false, "eth0"));
        assert!(route.covers("2001:db8::1".parse().unwrap()));
    }

    #[test]
    fn nearest_takes_the_longest_prefix_and_all_of_it() {
        let route = |prefix, interface: &str| Route {
            destination: "10.0.0.0".parse().unwrap(),
            prefix,
            connected: true,
            interface: interface.into(),
        };
        let routes = [route(0, "eth0"), route(24, "eth1"), route(24, "eth2"), route(32, "eth3")];
        let found = nearest(routes.iter(), "10.0.0.9".parse().unwrap());
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["eth1", "eth2"]);
    }

    #[test]
    fn prefix_longer_than_the_address_does_not_panic() {
        let zero = "0".repeat(32);
        let line = format!("{zero} ff {zero} 00 {zero} 0 0 0 00000001 eth0");
        assert!(Route::ipv6(&line).unwrap().covers("::".parse().unwrap()));
    }
}
