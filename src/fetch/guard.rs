//! Which addresses may be connected to: address classes, and a resolver that returns no forbidden address.
//!
//! It handles addresses, not URLs (`response.rs` does), and makes no connection.
//!
//! Invariant: an address is allowed only if it *and every IPv4 address embedded in it* is either public or
//! lies in an allowed network. A resolved name yields exactly the addresses that were checked, so the result
//! cannot change between the check and the connection.
//!
//! # Why
//! - IPv6 is denied by default: there is no public unicast outside 2000::/3, so unassigned space is refused
//!   without being listed. The names in the table are for messages.
//! - Embedded addresses count *too*: an operator behind NAT64 allows `64:ff9b::/96` to reach IPv4 at all, and
//!   that must not allow `64:ff9b::169.254.169.254`.
//! - IPv4-mapped addresses are a class like any other, even though the kernel treats them as the IPv4
//!   address: no archive is published that way.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::Semaphore;

/// Concurrent name lookups. Each occupies a thread of the runtime's blocking pool for as long as the system's
/// resolver takes (10 s and more if a name server does not respond), and the whole process shares that pool.
const MAX_LOOKUPS: usize = 32;

/// Addresses tried per name: more would split the connect timeout into slices too short to succeed.
const MAX_ADDRESSES: usize = 16;

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(a: u16, b: u16, c: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), prefix)
}

/// Special-purpose IPv4 networks. Source: the IANA special-purpose registry (RFC 6890 and its updates), RFC
/// 5771 (multicast), and the one cloud platform whose host service has a public-looking address.
const SPECIAL_V4: [(Ipv4Net, &str); 20] = [
    (v4(0, 0, 0, 0, 8), "this-network"),
    (v4(10, 0, 0, 0, 8), "private"),
    (v4(100, 64, 0, 0, 10), "carrier-grade NAT"),
    (v4(127, 0, 0, 0, 8), "loopback"),
    (v4(169, 254, 0, 0, 16), "link-local (metadata services)"),
    (v4(172, 16, 0, 0, 12), "private"),
    (v4(192, 0, 0, 0, 24), "protocol assignment"),
    (v4(192, 0, 2, 0, 24), "documentation"),
    (v4(192, 31, 196, 0, 24), "AS112"),
    (v4(192, 52, 193, 0, 24), "AMT relay"),
    (v4(192, 88, 99, 0, 24), "6to4 relay"),
    (v4(192, 168, 0, 0, 16), "private"),
    (v4(192, 175, 48, 0, 24), "AS112"),
    (v4(198, 18, 0, 0, 15), "benchmarking"),
    (v4(198, 51, 100, 0, 24), "documentation"),
    (v4(203, 0, 113, 0, 24), "documentation"),
    (v4(224, 0, 0, 0, 4), "multicast"),
    (v4(255, 255, 255, 255, 32), "broadcast"),
    (v4(240, 0, 0, 0, 4), "reserved"),
    (v4(168, 63, 129, 16, 32), "cloud host service"),
];

/// IPv6 networks that are not public unicast, or only look like it. Source: as above; RFC 4291, 4193, 3879,
/// 6052, 8215, 9637. More specific networks come first, because the first match gives the name.
const SPECIAL_V6: [(Ipv6Net, &str); 20] = [
    (Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 128), "unspecified"),
    (Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128), "loopback"),
    (Ipv6Net::new_assert(Ipv4Addr::UNSPECIFIED.to_ipv6_mapped(), 96), "IPv4-mapped"),
    (v6(0, 0, 0, 96), "IPv4-compatible"),
    (v6(0x64, 0xff9b, 0, 96), "NAT64"),
    (v6(0x64, 0xff9b, 1, 48), "local NAT64"),
    (v6(0x100, 0, 0, 64), "discard-only"),
    (v6(0x2001, 0, 0, 32), "Teredo"),
    (v6(0x2001, 2, 0, 48), "benchmarking"),
    (v6(0x2001, 0, 0, 23), "protocol assignment"),
    (v6(0x2001, 0xdb8, 0, 32), "documentation"),
    (v6(0x2002, 0, 0, 16), "6to4"),
    (v6(0x2620, 0x4f, 0x8000, 48), "AS112"),
    (v6(0x3ffe, 0, 0, 16), "6bone"),
    (v6(0x3fff, 0, 0, 20), "documentation"),
    (v6(0x5f00, 0, 0, 16), "segment routing"),
    (v6(0xfc00, 0, 0, 7), "unique local"),
    (v6(0xfe80, 0, 0, 10), "link-local"),
    (v6(0xfec0, 0, 0, 10), "site-local"),
    (v6(0xff00, 0, 0, 8), "multicast"),
];

/// All public unicast space that IANA has allocated so far (RFC 4291).
const GLOBAL_V6: Ipv6Net = v6(0x2000, 0, 0, 3);

/// Why an address may not be connected to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{address} is a {class} address and in no network of fetch.allow_networks")]
pub struct ForbiddenAddress {
    /// The address itself, or the IPv4 address embedded in it.
    pub address: IpAddr,
    /// Class of the address, e.g. `loopback`.
    pub class: &'static str,
}

/// Checks addresses against the special-purpose networks and those an operator allows.
#[derive(Debug, Clone)]
pub struct AddressGuard {
    allowed: Arc<[IpNet]>,
}

impl AddressGuard {
    /// A guard that allows public addresses and these networks.
    pub fn new(allowed: &[IpNet]) -> Self {
        Self { allowed: allowed.into() }
    }

    /// Checks one address, and every IPv4 address embedded in it.
    ///
    /// # Errors
    /// The first of them that is special and not in an allowed network.
    pub fn check(&self, address: IpAddr) -> Result<(), ForbiddenAddress> {
        std::iter::once(address).chain(embedded_ipv4(address)).try_for_each(|address| {
            match special_class(address) {
                Some(class) if !self.is_allowed(address) => Err(ForbiddenAddress { address, class }),
                Some(_) | None => Ok(()),
            }
        })
    }

    fn is_allowed(&self, address: IpAddr) -> bool {
        self.allowed.iter().any(|network| network.contains(&address))
    }
}

/// The class of a special address; `None` for a public one.
fn special_class(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(v4) => SPECIAL_V4.iter().find(|(network, _)| network.contains(&v4)).map(|(_, name)| *name),
        IpAddr::V6(v6) => {
            let special = SPECIAL_V6.iter().find(|(network, _)| network.contains(&v6)).map(|(_, name)| *name);
            special.or_else(|| (!GLOBAL_V6.contains(&v6)).then_some("not globally routed"))
        }
    }
}

/// The IPv4 addresses that a translator or a tunnel would extract from an IPv6 address: mapped and compatible
/// (RFC 4291), translated (RFC 2765), NAT64 (RFC 6052, 8215), 6to4 (RFC 3056), Teredo's server and client
/// (RFC 4380), ISATAP (RFC 5214).
fn embedded_ipv4(address: IpAddr) -> impl Iterator<Item = IpAddr> {
    let pair = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Some(IpAddr::from([a, b, c, d]))
    };
    let found = match address {
        IpAddr::V4(_) => [None, None],
        IpAddr::V6(v6) => match v6.segments() {
            _ if v6.is_unspecified() || v6.is_loopback() => [None, None],
            [0, 0, 0, 0, 0, 0 | 0xffff, high, low] => [pair(high, low), None],
            [0, 0, 0, 0, 0xffff, 0, high, low] => [pair(high, low), None],
            [0x64, 0xff9b, 0 | 1, .., high, low] => [pair(high, low), None],
            [0x2002, high, low, ..] => [pair(high, low), None],
            [0x2001, 0, high, low, _, _, hidden_high, hidden_low] => {
                [pair(high, low), pair(!hidden_high, !hidden_low)]
            }
            [_, _, _, _, 0 | 0x200, 0x5efe, high, low] => [pair(high, low), None],
            _ => [None, None],
        },
    };
    found.into_iter().flatten()
}

/// The system's resolver, with a limit on concurrent lookups.
pub struct SystemResolver {
    lookups: Arc<Semaphore>,
}

impl Default for SystemResolver {
    fn default() -> Self {
        Self { lookups: Arc::new(Semaphore::new(MAX_LOOKUPS)) }
    }
}

impl Resolve for SystemResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let lookups = Arc::clone(&self.lookups);
        Box::pin(async move {
            // The permit moves to the thread: a caller that gives up must not free it while the thread still
            // runs.
            let permit = lookups.acquire_owned().await?;
            let found = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                (name.as_str(), 0).to_socket_addrs()
            });
            let addresses: Addrs = Box::new(found.await??);
            Ok(addresses)
        })
    }
}

/// A resolver that returns only addresses its guard allows.
pub(super) struct GuardedResolver {
    pub(super) inner: Arc<dyn Resolve>,
    pub(super) guard: AddressGuard,
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.guard.clone();
        let answer = self.inner.resolve(name);
        Box::pin(async move {
            let mut refused = None;
            let mut passed: Vec<SocketAddr> = Vec::new();
            for address in answer.await? {
                match guard.check(address.ip()) {
                    Ok(()) => passed.push(address),
                    Err(forbidden) => refused = refused.or(Some(forbidden)),
                }
                if passed.len() == MAX_ADDRESSES {
                    break;
                }
            }
            match refused {
                Some(forbidden) if passed.is_empty() => Err(forbidden.into()),
                None if passed.is_empty() => Err("the name has no address".into()),
                Some(_) | None => {
                    let addresses: Addrs = Box::new(passed.into_iter());
                    Ok(addresses)
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn guard(networks: &[&str]) -> AddressGuard {
        let networks: Vec<IpNet> = networks.iter().map(|network| network.parse().unwrap()).collect();
        AddressGuard::new(&networks)
    }

    #[test]
    fn every_special_class_is_refused_from_its_first_to_its_last_address() {
        for (first, last, name) in [
            ("0.0.0.0", "0.255.255.255", "this-network"),
            ("10.0.0.0", "10.255.255.255", "private"),
            ("100.64.0.0", "100.127.255.255", "carrier-grade NAT"),
            ("127.0.0.0", "127.255.255.255", "loopback"),
            ("169.254.0.0", "169.254.255.255", "link-local (metadata services)"),
            ("172.16.0.0", "172.31.255.255", "private"),
            ("192.0.0.0", "192.0.0.255", "protocol assignment"),
            ("192.0.2.0", "192.0.2.255", "documentation"),
            ("192.31.196.0", "192.31.196.255", "AS112"),
            ("192.52.193.0", "192.52.193.255", "AMT relay"),
            ("192.88.99.0", "192.88.99.255", "6to4 relay"),
            ("192.168.0.0", "192.168.255.255", "private"),
            ("192.175.48.0", "192.175.48.255", "AS112"),
            ("198.18.0.0", "198.19.255.255", "benchmarking"),
            ("198.51.100.0", "198.51.100.255", "documentation"),
            ("203.0.113.0", "203.0.113.255", "documentation"),
            ("224.0.0.0", "239.255.255.255", "multicast"),
            ("240.0.0.0", "255.255.255.254", "reserved"),
            ("255.255.255.255", "255.255.255.255", "broadcast"),
            ("168.63.129.16", "168.63.129.16", "cloud host service"),
            ("::", "::", "unspecified"),
            ("::1", "::1", "loopback"),
            ("::2", "::ffff:ffff", "IPv4-compatible"),
            ("::ffff:0.0.0.0", "::ffff:255.255.255.255", "IPv4-mapped"),
            ("::ffff:0:0:0", "::ffff:0:ffff:ffff", "not globally routed"),
            ("64:ff9b::", "64:ff9b::ffff:ffff", "NAT64"),
            ("64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff", "local NAT64"),
            ("100::", "100::ffff:ffff:ffff:ffff", "discard-only"),
            ("2001::", "2001:0:ffff:ffff:ffff:ffff:ffff:ffff", "Teredo"),
            ("2001:2::", "2001:2:0:ffff:ffff:ffff:ffff:ffff", "benchmarking"),
            ("2001:10::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", "protocol assignment"),
            ("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "documentation"),
            ("2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "6to4"),
            ("2620:4f:8000::", "2620:4f:8000:ffff:ffff:ffff:ffff:ffff", "AS112"),
            ("3ffe::", "3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "6bone"),
            ("3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff", "documentation"),
            ("4000::", "5eff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "not globally routed"),
            ("5f00::", "5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "segment routing"),
            ("fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "unique local"),
            ("fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "link-local"),
            ("fec0::", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "site-local"),
            ("ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "multicast"),
        ] {
            for address in [first, last] {
                let refused = guard(&[]).check(ip(address)).unwrap_err();
                assert_eq!((refused.address, refused.class), (ip(address), name), "{address}");
            }
        }
    }

    #[test]
    fn the_neighbours_of_the_special_classes_are_public() {
        for address in [
            "1.0.0.0",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.0.3.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "207.241.224.2",
            "223.255.255.255",
            "168.63.129.15",
            "2001:200::",
            "2001:db7:ffff::",
            "2001:db9::",
            "2003::1",
            "2606:4700::1111",
            "3ffd::1",
        ] {
            assert_eq!(guard(&[]).check(ip(address)), Ok(()), "{address}");
        }
    }

    #[test]
    fn a_listed_network_lets_through_itself_and_nothing_else() {
        let demo = guard(&["127.0.0.0/8"]);
        assert_eq!(demo.check(ip("127.9.9.9")), Ok(()));
        for address in ["10.0.0.1", "::1", "::ffff:127.0.0.1", "64:ff9b::127.0.0.1", "169.254.169.254"] {
            assert!(demo.check(ip(address)).is_err(), "{address}");
        }
    }

    #[test]
    fn what_an_address_carries_must_be_let_through_too() {
        let translators =
            ["64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::ffff:0:0/96", "::/96"];
        for (address, passes) in [
            ("64:ff9b::8.8.8.8", true),
            ("64:ff9b::169.254.169.254", false),
            ("64:ff9b:1:2:3:4:10.0.0.1", false),
            ("2002:808:808::1", true),
            ("2002:a00:1::1", false),
            ("::ffff:8.8.8.8", true),
            ("::ffff:192.168.0.1", false),
            ("::8.8.8.8", true),
            ("::127.0.0.1", false),
            // Teredo hides its client by inverting every bit: here 8.8.8.8, then 127.0.0.1; then the server
            // is private.
            ("2001:0:808:808:0:0:f7f7:f7f7", true),
            ("2001:0:808:808:0:0:80ff:fffe", false),
            ("2001:0:a00:1:0:0:f7f7:f7f7", false),
            // ISATAP can be used within any public prefix.
            ("2606:4700::5efe:8.8.8.8", true),
            ("2606:4700::5efe:10.0.0.1", false),
            ("2606:4700::200:5efe:10.0.0.1", false),
        ] {
            assert_eq!(guard(&translators).check(ip(address)).is_ok(), passes, "{address}");
        }
        assert_eq!(guard(&["64:ff9b::/96", "10.0.0.0/8"]).check(ip("64:ff9b::10.0.0.1")), Ok(()));
    }
}
