//! The two ends of a measured handshake: an initiator that lives for one tunnel, and a gateway that keeps many.
//!
//! Every tunnel has an identity and a network of its own. Nothing here measures.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_crypto::{Secret, SystemEntropy};
use adit_ike::config::{
    AddressSpec, Child, Childless, Configuration, Connection, Lifetime, SelectorSpec, Settings, SharedSecret,
};
use adit_ike::identity::{Identity, IdentityPattern};
use adit_ike::{Gateway, proposal};
use adit_lab::lab::{Family, Side};
use adit_lab::peer::SECRET;
use adit_wire::ikev2::TrafficSelector;
use anyhow::Result;

/// X25519, and the pre-shared key.
pub(crate) const CLASSICAL: &str = "aes256gcm16-prfsha384-x25519";
/// The same with ML-KEM-768 (RFC 9370).
pub(crate) const HYBRID: &str = "aes256gcm16-prfsha384-x25519-ke1_mlkem768";
pub(crate) const ESP: &str = "aes256gcm16";
/// The responder's side of every tunnel (its own, or strongSwan installs no policy), and where the initiators' are.
pub(crate) const NETWORKS: (&str, &str) = ("10.2.0.0/24", "172.16.0.0/12");
pub(crate) const NAT_T_PORT: u16 = 4500;

/// Where the gateway that keeps many tunnels is.
pub(crate) fn center() -> Result<IpAddr> {
    Ok(Side::B.outer(Family::V4).parse()?)
}

/// A network that only this tunnel has; in the `machine` benchmark also the address of its peer.
pub(crate) fn own_address(number: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(0xac10_0000 | u32::try_from(number).unwrap_or(u32::MAX) & 0x000f_ffff)
}

/// The identity of the peer of this tunnel.
pub(crate) fn own_identity(number: usize) -> Identity {
    Identity::fqdn(&format!("c{number}.bench.example"))
}

/// Nobody is asked for cookies: the flood is meant.
pub(crate) fn gateway(now: Instant) -> Gateway {
    let settings =
        Settings { cookie_threshold: usize::MAX, half_open_limit: usize::MAX, ..Settings::default() };
    Gateway::new(settings, Box::new(SystemEntropy), now)
}

/// The peer of one tunnel, at `address`. Without `child` it wants an IKE SA only (RFC 6023).
pub(crate) fn peer(number: usize, address: IpAddr, suite: &str, child: bool) -> Result<Connection> {
    let local = SelectorSpec::Fixed(TrafficSelector::subnet(own_address(number).into(), 32));
    Ok(Connection {
        local_addrs: vec![single(address)],
        remote_addrs: vec![single(center()?)],
        local_id: Some(own_identity(number)),
        remote_id: IdentityPattern::Exact(Identity::fqdn(Side::B.id())),
        childless: if child { Childless::Allow } else { Childless::Force },
        children: if child { vec![self::child(local, network(NETWORKS.0)?)?] } else { Vec::new() },
        ..common(suite)?
    })
}

/// The gateway's end of the tunnel with one peer, or with all of them.
pub(crate) fn center_connection(
    name: String,
    addresses: Vec<AddressSpec>,
    identity: IdentityPattern,
    suite: &str,
) -> Result<Connection> {
    let every = Duration::from_secs(4 * 3600);
    Ok(Connection {
        name,
        local_addrs: vec![single(center()?)],
        remote_addrs: addresses,
        local_id: Some(Identity::fqdn(Side::B.id())),
        remote_id: identity,
        rekey: Lifetime { soft: every, hard: every + every / 10, jitter: every / 10 },
        children: vec![child(network(NETWORKS.0)?, network(NETWORKS.1)?)?],
        ..common(suite)?
    })
}

/// The secret of these two, or of everybody.
pub(crate) fn secret(owners: Vec<IdentityPattern>) -> SharedSecret {
    SharedSecret { name: String::new(), owners, secret: Arc::new(Secret::new(SECRET.as_bytes().to_vec())) }
}

pub(crate) fn configuration(connections: Vec<Connection>, secrets: Vec<SharedSecret>) -> Configuration {
    Configuration { connections, secrets, ..Configuration::default() }
}

pub(crate) fn single(address: IpAddr) -> AddressSpec {
    AddressSpec { first: address, last: address }
}

fn common(suite: &str) -> Result<Connection> {
    Ok(Connection {
        name: "gw".to_owned(),
        local_port: NAT_T_PORT,
        remote_port: NAT_T_PORT,
        proposals: proposal::parse_ike(suite)?,
        mobike: false,
        ..Connection::default()
    })
}

fn child(local: SelectorSpec, remote: SelectorSpec) -> Result<Child> {
    Ok(Child {
        name: "net".to_owned(),
        proposals: proposal::parse_esp(ESP)?,
        local_ts: vec![local],
        remote_ts: vec![remote],
        ..Child::default()
    })
}

fn network(text: &str) -> Result<SelectorSpec> {
    let (address, length) = text.split_once('/').unwrap_or((text, "32"));
    Ok(SelectorSpec::Fixed(TrafficSelector::subnet(address.parse()?, length.parse()?)))
}
