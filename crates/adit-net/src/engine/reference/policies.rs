//! Selectors and policies in the model: which packets they are about, and the order in which policies decide (RFC 4301 4.4.1).

use std::net::IpAddr;

use adit_esp::Action;
use adit_wire::ikev2::TrafficSelector;

use super::packet::{self, Parsed};
use crate::backend::{PolicyId, PolicySpec};

/// One end of a packet for selectors: address, protocol, port.
pub(super) type End = (IpAddr, u8, Port);

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Port {
    Is(u16),
    Hidden,
    /// There is none at this end (RFC 4301 4.4.1.3).
    Nowhere,
}

pub(super) fn ends(flow: &Parsed) -> [End; 2] {
    let port = |port: Option<u16>| port.map_or(Port::Hidden, Port::Is);
    let (source, mut destination) = (port(flow.ports.0), port(flow.ports.1));
    if packet::has_types(flow.protocol) && source != Port::Hidden {
        destination = Port::Nowhere;
    }
    [(flow.source, flow.protocol, source), (flow.destination, flow.protocol, destination)]
}

/// RFC 7296 3.13.1.
pub(super) fn admits(ts: &TrafficSelector, (address, protocol, port): &End) -> bool {
    let any_port = (ts.start_port, ts.end_port) == (0, u16::MAX);
    ts.start.is_ipv4() == address.is_ipv4()
        && (ts.start..=ts.end).contains(address)
        && (ts.protocol == 0 || ts.protocol == *protocol)
        && match port {
            Port::Nowhere => true,
            // RFC 4301 7.3: what hides its port is not admitted where ports matter.
            Port::Hidden => any_port,
            Port::Is(port) => any_port || (ts.start_port..=ts.end_port).contains(port),
        }
}

/// An entry of the security policy database.
pub(super) struct Line {
    pub(super) rank: Rank,
    pub(super) policy: PolicyId,
    pub(super) action: Action,
    local: TrafficSelector,
    remote: TrafficSelector,
}

/// With a priority first, by that; then the closest description: bits of addresses, protocols, bits of ports.
pub(super) type Rank = (bool, u32, [i64; 3]);

impl Line {
    pub(super) fn fits(&self, flow: &Parsed) -> bool {
        let [source, destination] = ends(flow);
        admits(&self.local, &source) && admits(&self.remote, &destination)
    }
}

/// The list that is read from its beginning (RFC 4301 4.4.1), in the order that the documents of `PolicySpec` promise.
pub(super) fn lines(policies: &[&PolicySpec]) -> Vec<Line> {
    let mut all = Vec::new();
    for spec in policies {
        for remote in &spec.remote_ts {
            for local in spec.local_ts.iter().filter(|local| local.start.is_ipv4() == remote.start.is_ipv4())
            {
                let close = |count: &dyn Fn(&TrafficSelector) -> i64| -(count(local) + count(remote));
                let rank: Rank = (
                    spec.priority == 0,
                    spec.priority,
                    [close(&address_bits), close(&|ts| i64::from(ts.protocol != 0)), close(&port_bits)],
                );
                let mut add = |implied: bool, action, local: TrafficSelector, remote: TrafficSelector| {
                    all.push((!implied, Line { rank, policy: spec.id, action, local, remote }));
                };
                add(false, spec.action, *local, *remote);
                match spec.action {
                    // It passes both ways.
                    Action::Bypass => add(false, spec.action, *remote, *local),
                    Action::Discard => {}
                    // Between networks of ours, if the peer's side has one of them within.
                    Action::Protect => {
                        let within = |inner: &&TrafficSelector| {
                            inner.start.is_ipv4() == remote.start.is_ipv4()
                                && remote.start <= inner.start
                                && inner.end <= remote.end
                                && (remote.start, remote.end) != (inner.start, inner.end)
                        };
                        for inner in spec.local_ts.iter().filter(within) {
                            let any = |ts: &TrafficSelector, protocol| TrafficSelector {
                                protocol,
                                start_port: 0,
                                end_port: u16::MAX,
                                ..*ts
                            };
                            let own = any(local, local.protocol);
                            add(true, Action::Bypass, own, any(inner, remote.protocol));
                        }
                    }
                }
            }
        }
    }
    all.sort_by_key(|(second, line)| (line.rank, *second));
    all.into_iter().map(|(_, line)| line).collect()
}

/// Bits of an address that are fixed.
fn address_bits(ts: &TrafficSelector) -> i64 {
    let (width, span) = match (ts.start, ts.end) {
        (IpAddr::V4(start), IpAddr::V4(end)) => (32, u128::from(end.to_bits() - start.to_bits())),
        (IpAddr::V6(start), IpAddr::V6(end)) => (128, end.to_bits() - start.to_bits()),
        _ => unreachable!("one family"),
    };
    width - i64::from(u128::BITS - span.leading_zeros())
}

/// Bits of a port that are fixed, and one for looking at it.
fn port_bits(ts: &TrafficSelector) -> i64 {
    if (ts.start_port, ts.end_port) == (0, u16::MAX) {
        return 0;
    }
    1 + i64::from(ts.end_port.saturating_sub(ts.start_port).leading_zeros())
}
