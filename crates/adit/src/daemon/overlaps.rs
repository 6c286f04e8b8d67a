//! Networks that are in two places: packets for them find one way at most.
//!
//! It owns an index of the remote networks of all children, which is forgotten with each other configuration and made again
//! when somebody wants to know. It never changes where packets go.

use std::collections::HashMap;

use adit_ike::config::{Child, Connection, SelectorSpec};
use adit_wire::ikev2::TrafficSelector;

use super::Daemon;

/// Children with one remote network that are looked at: that many find each other anyway.
const MOST: usize = 256;

/// Which children have which remote network.
#[derive(Debug, Default)]
pub(super) struct Overlaps {
    /// Connections that are in it.
    connections: usize,
    /// The last child with a network.
    last: HashMap<TrafficSelector, usize>,
    children: Vec<Place>,
}

/// A child, by its place in the configuration.
#[derive(Debug)]
struct Place {
    connection: usize,
    child: usize,
    /// The one before it that has the same network.
    before: Option<usize>,
}

impl Overlaps {
    /// Takes in one more connection; `false` if all are in it.
    fn grow(&mut self, all: &[Connection]) -> bool {
        let connection = self.connections;
        let Some(new) = all.get(connection) else { return false };
        if connection == 0 {
            // To grow it later would move all at once.
            self.last.reserve(all.len());
            self.children.reserve(all.len());
        }
        self.connections += 1;
        for (child, of) in new.children.iter().enumerate() {
            for network in fixed(&of.remote_ts) {
                let before = self.last.insert(network, self.children.len());
                self.children.push(Place { connection, child, before });
            }
        }
        true
    }

    /// The children with a network, the last first.
    fn with(&self, network: &TrafficSelector) -> impl Iterator<Item = &Place> {
        let last = self.last.get(network).and_then(|at| self.children.get(*at));
        std::iter::successors(last, |place| self.children.get(place.before?)).take(MOST)
    }
}

impl Daemon {
    /// Takes one more connection into the index; `false` if all are in it.
    pub(super) fn learn_overlaps(&mut self) -> bool {
        self.overlaps.grow(&self.connections)
    }

    /// A network of a child that is in two places, and what to do about it. All connections must be in the index.
    pub(super) fn overlap(&self, connection: &Connection, child: &Child) -> Option<(String, String)> {
        let key = (connection.name.clone(), child.name.clone());
        if self.treatments.get(&key).is_some_and(|treatment| treatment.translation.is_some()) {
            return None;
        }
        let (local, remote) = (fixed(&child.local_ts), fixed(&child.remote_ts));
        let both =
            remote.iter().find(|r| local.iter().any(|l| l.covers(r) && l.is_any_port() && l.protocol == 0));
        if let Some(network) = both {
            return Some((
                format!("{network} is on both sides: packets for it stay here"),
                "give one side other addresses in the tunnel: `local_net` and `remote_net` translate them one to one"
                    .to_owned(),
            ));
        }
        if self.interfaces.contains_key(&connection.name) {
            return None;
        }
        for network in &remote {
            let meets = |place: &&Place| {
                self.sibling(place).is_some_and(|(other, sibling)| {
                    (&other.name, &sibling.name) != (&connection.name, &child.name)
                        && !self.interfaces.contains_key(&other.name)
                        && fixed(&sibling.local_ts)
                            .iter()
                            .any(|o| local.iter().any(|l| l.intersection(o).is_some()))
                })
            };
            let first = self.overlaps.with(network).filter(meets).min_by_key(|at| (at.connection, at.child));
            if let Some((other, sibling)) = first.and_then(|place| self.sibling(place)) {
                return Some((
                    format!("{network} is also behind {}/{}: packets for it go one way only", other.name, sibling.name),
                    "let one of the two be another network: `remote_net` translates it one to one, or give each \
                     connection an `interface`"
                        .to_owned(),
                ));
            }
        }
        None
    }

    fn sibling(&self, place: &Place) -> Option<(&Connection, &Child)> {
        let connection = self.connections.get(place.connection)?;
        Some((connection, connection.children.get(place.child)?))
    }
}

/// The configured selectors that are the same on every IKE SA.
fn fixed(specs: &[SelectorSpec]) -> Vec<TrafficSelector> {
    let fixed = specs.iter().filter_map(|spec| match spec {
        SelectorSpec::Fixed(selector) => Some(*selector),
        SelectorSpec::Dynamic { .. } => None,
    });
    fixed.collect()
}
