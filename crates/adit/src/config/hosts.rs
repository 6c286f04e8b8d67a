//! Addresses that are written as host names.
//!
//! It owns what is written, and turns it into addresses once somebody knows them; it never asks anybody.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use adit_ike::config::{AddressSpec, Connection};
use adit_wire::ikev2::TrafficSelector;

/// One item of `local_addrs` or `remote_addrs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// Addresses as they are.
    Addresses(AddressSpec),
    /// A host name.
    Name(String),
}

/// `local_addrs` and `remote_addrs` of a connection, of which at least one holds a host name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts {
    /// Ours.
    pub local: Vec<Host>,
    /// The peer's.
    pub remote: Vec<Host>,
}

impl Hosts {
    /// Every name, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.local.iter().chain(&self.remote).filter_map(|host| match host {
            Host::Name(name) => Some(name.as_str()),
            Host::Addresses(_) => None,
        })
    }

    /// The connection with the addresses behind its names. A side of which nothing is known fits nobody.
    #[must_use]
    pub fn resolve<'a>(
        &self,
        connection: &Connection,
        known: impl Fn(&str) -> &'a [IpAddr] + Copy,
    ) -> Connection {
        Connection {
            local_addrs: resolve(&self.local, known),
            remote_addrs: resolve(&self.remote, known),
            ..connection.clone()
        }
    }
}

fn resolve<'a>(hosts: &[Host], known: impl Fn(&str) -> &'a [IpAddr]) -> Vec<AddressSpec> {
    let mut specs = Vec::new();
    for host in hosts {
        match host {
            Host::Addresses(spec) => specs.push(*spec),
            Host::Name(name) => {
                specs
                    .extend(known(name).iter().map(|&address| AddressSpec { first: address, last: address }));
            }
        }
    }
    if specs.is_empty() && !hosts.is_empty() {
        // It ends before it begins. No address at all would be everybody's.
        specs.push(AddressSpec { first: Ipv4Addr::BROADCAST.into(), last: Ipv4Addr::UNSPECIFIED.into() });
    }
    specs
}

/// As it is written in the file.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Addresses(spec) => match spec.single() {
                Some(single) => single.fmt(f),
                None => {
                    let any = match spec.first {
                        IpAddr::V4(_) => TrafficSelector::any_v4(),
                        IpAddr::V6(_) => TrafficSelector::any_v6(),
                    };
                    // A selector of any protocol prints a prefix where the range is one.
                    TrafficSelector { start: spec.first, end: spec.last, ..any }.fmt(f)
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_for_its_addresses_in_its_place() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let single = |text: &str| AddressSpec { first: address(text), last: address(text) };
        let hosts = Hosts {
            local: Vec::new(),
            remote: vec![
                Host::Name("a".into()),
                Host::Addresses(single("192.0.2.9")),
                Host::Name("b".into()),
            ],
        };
        let known = [address("192.0.2.1"), address("2001:db8::1")];
        let resolved = hosts.resolve(&Connection::default(), |name| if name == "a" { &known } else { &[] });
        assert!(resolved.local_addrs.is_empty(), "anything, as it is written");
        assert_eq!(resolved.remote_addrs, [single("192.0.2.1"), single("2001:db8::1"), single("192.0.2.9")]);
        // Of what is not known, nothing fits.
        let hosts = Hosts { local: vec![Host::Name("b".into())], remote: vec![Host::Name("b".into())] };
        let resolved = hosts.resolve(&Connection::default(), |_| &[]);
        for specs in [resolved.local_addrs, resolved.remote_addrs] {
            assert!(!specs.is_empty() && specs.iter().all(|spec| spec.single().is_none()));
            for any in ["0.0.0.0", "192.0.2.1", "255.255.255.255", "::", "2001:db8::1"] {
                assert!(!specs.iter().any(|spec| spec.contains(address(any))), "{any}");
            }
        }
    }

    #[test]
    fn shown_as_written() {
        let spec = |first: &str, last: &str| {
            Host::Addresses(AddressSpec { first: first.parse().unwrap(), last: last.parse().unwrap() })
        };
        assert_eq!(spec("192.0.2.1", "192.0.2.1").to_string(), "192.0.2.1");
        assert_eq!(spec("10.0.0.0", "10.0.255.255").to_string(), "10.0.0.0/16");
        assert_eq!(spec("10.0.0.1", "10.0.0.9").to_string(), "10.0.0.1..10.0.0.9");
        assert_eq!(Host::Name("gw.example".into()).to_string(), "gw.example");
    }
}
