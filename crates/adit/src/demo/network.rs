//! The demonstration's network: four namespaces in a row. It owns their names, addresses and wires, and nothing
//! that runs in them.

use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;

use adit_net::netlink::{self, Route, RouteKind};
use adit_net::netns::Namespace;
use anyhow::Context as _;

/// The host behind the first gateway.
pub(super) const HOST_A: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 10);
/// The host behind the second gateway.
pub(super) const HOST_B: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 10);
/// The first gateway's outer address (RFC 5737: for documentation, nobody's).
pub(super) const GATEWAY_A: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The second gateway's outer address.
pub(super) const GATEWAY_B: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// Name of each gateway's outer interface.
pub(super) const OUTER: &str = "wan";

const INNER: &str = "lan";
const NAMES: [&str; 4] = ["adit-demo-host-a", "adit-demo-gw-a", "adit-demo-gw-b", "adit-demo-host-b"];

/// Host, gateway, gateway, host. All of it is gone when this is dropped.
pub(super) struct Network {
    pub(super) host_a: Namespace,
    pub(super) gateway_a: Namespace,
    pub(super) gateway_b: Namespace,
    pub(super) host_b: Namespace,
}

impl Network {
    /// Makes the namespaces and wires them. With `named`, `ip netns exec` finds them.
    pub(super) fn new(named: bool) -> anyhow::Result<Self> {
        let make = |name: &str| {
            if !named {
                return Namespace::unnamed();
            }
            // An interrupted demonstration may have left it.
            Namespace::delete(name)?;
            Namespace::named(name)
        };
        let [host_a, gateway_a, gateway_b, host_b] = NAMES;
        let network = Self {
            host_a: make(host_a)?,
            gateway_a: make(gateway_a)?,
            gateway_b: make(gateway_b)?,
            host_b: make(host_b)?,
        };
        network.wire().context("cannot wire the demonstration's network namespaces")?;
        Ok(network)
    }

    fn wire(&self) -> Result<(), adit_net::Error> {
        for namespace in [&self.host_a, &self.gateway_a, &self.gateway_b, &self.host_b] {
            namespace.loopback_up()?;
        }
        connect(&self.host_a, INNER, HOST_A, &self.gateway_a, INNER, Ipv4Addr::new(10, 1, 0, 1))?;
        connect(&self.gateway_a, OUTER, GATEWAY_A, &self.gateway_b, OUTER, GATEWAY_B)?;
        connect(&self.gateway_b, INNER, Ipv4Addr::new(10, 2, 0, 1), &self.host_b, INNER, HOST_B)?;
        default_route(&self.host_a, INNER, Ipv4Addr::new(10, 1, 0, 1))?;
        default_route(&self.host_b, INNER, Ipv4Addr::new(10, 2, 0, 1))?;
        // As on a real gateway: whatever no tunnel takes would leave towards the outside.
        default_route(&self.gateway_a, OUTER, GATEWAY_B)?;
        default_route(&self.gateway_b, OUTER, GATEWAY_A)?;
        self.gateway_a.set_forwarding()?;
        self.gateway_b.set_forwarding()
    }
}

/// Puts a wire between two namespaces and gives both ends an address with 24 bits of prefix.
fn connect(
    left: &Namespace,
    left_name: &str,
    left_address: Ipv4Addr,
    right: &Namespace,
    right_name: &str,
    right_address: Ipv4Addr,
) -> Result<(), adit_net::Error> {
    left.netlink()?.create_veth(left_name, right_name, Some(right.as_fd()))?;
    for (namespace, name, address) in [(left, left_name, left_address), (right, right_name, right_address)] {
        let mut netlink = namespace.netlink()?;
        let index = netlink.link(name)?.index;
        netlink.add_address(index, address.into(), 24)?;
        netlink.set_up(index)?;
    }
    Ok(())
}

fn default_route(namespace: &Namespace, interface: &str, gateway: Ipv4Addr) -> Result<(), adit_net::Error> {
    let mut netlink = namespace.netlink()?;
    let interface = netlink.link(interface)?.index;
    netlink.add_route(&Route {
        destination: (Ipv4Addr::UNSPECIFIED.into(), 0),
        table: netlink::TABLE_MAIN,
        kind: RouteKind::Unicast,
        interface: Some(interface),
        gateway: Some(gateway.into()),
        source: None,
        metric: 0,
        protocol: netlink::PROTOCOL_STATIC,
    })
}
