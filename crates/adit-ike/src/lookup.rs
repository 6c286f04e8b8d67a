//! The configuration, made to be searched: connections by name, address and identity, secrets by their owners.
//!
//! It owns the answer to "which one is meant", never what becomes of it. What is one address or one identity is found by
//! its hash, a prefix by its network, and what takes many is kept once for all that are alike; so a lookup costs the
//! same with any number of them: with 1, 1,000 and 100,000 connections and secrets it looks at 4, 7 and 7 (the test
//! `costs`). Linear are only patterns of identities that
//! differ from one another, and the secret of an initiator that does not know whom it will meet.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use crate::config::{AddressSpec, Child, Connection, PostQuantumKey, RemoteAuth, SharedSecret};
use crate::identity::{Fit, Identity, IdentityPattern};

/// How well a connection fits two addresses: the sizes of the ranges that hold the peer's and ours, then its place in
/// the configuration. Less is better.
type Rank = (u128, u128, usize);

/// Whether it is IPv4, its length, and the network as a number.
type Prefix = (bool, u32, u128);

/// All connections.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    all: Vec<Arc<Connection>>,
    /// Their children, to be shared by all SAs made of them.
    children: Vec<Vec<Arc<Child>>>,
    by_name: HashMap<String, usize>,
    /// The first one that has a child of this name.
    by_child: HashMap<String, usize>,
    by_address: HashMap<IpAddr, Bucket>,
    /// Ranges, cut into prefixes: whether IPv4, length, network.
    by_prefix: HashMap<Prefix, Bucket>,
    /// Which prefixes there are.
    lengths: BTreeSet<(bool, u32)>,
    everywhere: Bucket,
    /// Those that accept this peer and no other.
    by_peer: HashMap<Identity, Vec<usize>>,
    /// What cannot be told apart, and its number.
    kinds: HashMap<String, usize>,
}

/// Connections with the same peers' addresses, by the size of the range that makes them so, kind, and place. Of each
/// size and kind the first one is enough.
#[derive(Debug, Default)]
struct Bucket {
    /// Alike in local addresses and proposals, by which an IKE_SA_INIT request finds its connection.
    first: BTreeSet<(u128, usize, usize)>,
    /// Those that accept more than one peer, alike in all by which an IKE_AUTH request finds its connection.
    open: BTreeSet<(u128, usize, usize)>,
}

impl Connections {
    pub(crate) fn new(connections: Vec<Connection>) -> Self {
        let mut new = Self::default();
        for (place, connection) in connections.into_iter().enumerate() {
            new.by_name.entry(connection.name.clone()).or_insert(place);
            for child in &connection.children {
                new.by_child.entry(child.name.clone()).or_insert(place);
            }
            new.list(place, &connection, true);
            new.children.push(connection.children.iter().cloned().map(Arc::new).collect());
            new.all.push(Arc::new(connection));
        }
        new
    }

    /// Replaces the one of this name by one with other addresses.
    pub(crate) fn replace(&mut self, connection: Connection) {
        let Some(place) = self.by_name.get(&connection.name).copied() else { return };
        let Some(old) = self.all.get(place).cloned() else { return };
        self.list(place, &old, false);
        self.list(place, &connection, true);
        if let Some(old) = self.all.get_mut(place) {
            *old = Arc::new(connection);
        }
    }

    /// Makes it known, or unknown, by its addresses and its peer.
    fn list(&mut self, place: usize, c: &Connection, known: bool) {
        if let IdentityPattern::Exact(peer) = &c.remote_id {
            let places = self.by_peer.entry(peer.clone()).or_default();
            if known {
                places.push(place);
            } else {
                places.retain(|other| *other != place);
            }
        }
        let mut number = |text: String| {
            let next = self.kinds.len();
            *self.kinds.entry(text).or_insert(next)
        };
        let first = number(format!("{:?}", (&c.local_addrs, &c.proposals)));
        let open = c.remote_id.exact().is_none().then(|| {
            let by_key = c.remote_auth != RemoteAuth::Psk;
            number(format!("{:?}", (&c.local_addrs, &c.proposals, &c.local_id, &c.remote_id, by_key)))
        });
        let prefixes = |range: &AddressSpec| {
            let size = size(range);
            prefixes(range).into_iter().map(move |prefix| (size, Some(prefix)))
        };
        let mut keys: Vec<(u128, Option<Prefix>)> = c.remote_addrs.iter().flat_map(prefixes).collect();
        if c.remote_addrs.is_empty() {
            keys.push((u128::MAX, None));
        }
        for (size, key) in keys {
            let bucket = match key.map(|key| (key, single(key))) {
                None => &mut self.everywhere,
                Some((_, Some(address))) => self.by_address.entry(address).or_default(),
                Some((key, None)) => {
                    self.lengths.insert((key.0, key.1));
                    self.by_prefix.entry(key).or_default()
                }
            };
            for (list, kind) in [(&mut bucket.first, Some(first)), (&mut bucket.open, open)] {
                let Some(kind) = kind else { continue };
                if known {
                    list.insert((size, kind, place));
                } else {
                    list.remove(&(size, kind, place));
                }
            }
            // Names move, and leave nothing behind.
            let empty = bucket.first.is_empty();
            if empty && let Some(address) = key.and_then(single) {
                self.by_address.remove(&address);
            }
        }
    }

    pub(crate) fn named(&self, name: &str) -> Option<&Arc<Connection>> {
        self.by_name.get(name).and_then(|place| self.all.get(*place))
    }

    /// The first one that has a child of this name.
    pub(crate) fn with_child(&self, child: &str) -> Option<&Arc<Connection>> {
        self.by_child.get(child).and_then(|place| self.all.get(*place))
    }

    /// A child of one of them, or of one that was before.
    pub(crate) fn child(&self, connection: &Connection, child: &Child) -> Arc<Child> {
        let children = self.by_name.get(&connection.name).and_then(|place| self.children.get(*place));
        let shared = children.into_iter().flatten().find(|shared| ***shared == *child);
        shared.map_or_else(|| Arc::new(child.clone()), Arc::clone)
    }

    /// Those that allow these addresses, the most specific first, without those that could not be chosen for any
    /// proposals because another one before them would.
    pub(crate) fn at(&self, local: IpAddr, remote: IpAddr) -> Vec<Arc<Connection>> {
        let ranked = self.ranked(local, remote, |bucket| &bucket.first);
        ranked.into_iter().filter_map(|(.., place)| self.all.get(place).cloned()).collect()
    }

    /// Of those that allow these addresses, and suit, the one that fits the peer best; among equals the most specific
    /// addresses, then the first.
    pub(crate) fn of_peer(
        &self,
        local: IpAddr,
        remote: IpAddr,
        peer: &Identity,
        suits: impl Fn(&Connection) -> bool,
    ) -> Option<Arc<Connection>> {
        let get = |place: usize| self.all.get(place).filter(|c| suits(c));
        let exact = self.by_peer.get(peer).into_iter().flatten();
        let exact =
            exact.filter_map(|place| self.rank(*place, local, remote)).filter(|(.., p)| get(*p).is_some());
        if let Some((.., place)) = exact.min() {
            return get(place).cloned();
        }
        let mut best: Option<(Fit, usize)> = None;
        for (.., place) in self.ranked(local, remote, |bucket| &bucket.open) {
            let Some(fit) = get(place).and_then(|c| c.remote_id.fit(peer)) else { continue };
            if best.is_none_or(|(other, _)| fit > other) {
                best = Some((fit, place));
            }
        }
        best.and_then(|(_, place)| get(place).cloned())
    }

    /// Some that allow these addresses, to be shown.
    pub(crate) fn examples(&self, local: IpAddr, remote: IpAddr) -> Vec<Arc<Connection>> {
        const SHOWN: usize = 8;
        let mut places: Vec<usize> = Vec::new();
        for (.., place) in self.ranked(local, remote, |bucket| &bucket.first).into_iter().chain(self.ranked(
            local,
            remote,
            |bucket| &bucket.open,
        )) {
            if places.len() < SHOWN && !places.contains(&place) {
                places.push(place);
            }
        }
        places.into_iter().filter_map(|place| self.all.get(place).cloned()).collect()
    }

    fn ranked(
        &self,
        local: IpAddr,
        remote: IpAddr,
        of: impl Fn(&Bucket) -> &BTreeSet<(u128, usize, usize)>,
    ) -> Vec<Rank> {
        let (v4, bits, value) = number(remote);
        let prefixes = self
            .lengths
            .iter()
            .filter(|(family, _)| *family == v4)
            .filter_map(|(_, length)| self.by_prefix.get(&(v4, *length, value & mask(bits, *length))));
        let buckets = self.by_address.get(&remote).into_iter().chain(prefixes).chain([&self.everywhere]);
        let mut ranked: Vec<Rank> = buckets
            .flat_map(|bucket| first_of_each(of(bucket)))
            .filter_map(|place| self.rank(place, local, remote))
            .collect();
        ranked.sort_unstable();
        ranked.dedup();
        ranked
    }

    fn rank(&self, place: usize, local: IpAddr, remote: IpAddr) -> Option<Rank> {
        let connection = self.all.get(place)?;
        Some((width(&connection.remote_addrs, remote)?, width(&connection.local_addrs, local)?, place))
    }
}

/// The first place of each kind.
fn first_of_each(list: &BTreeSet<(u128, usize, usize)>) -> impl Iterator<Item = usize> {
    let after = |(size, kind, _): &(u128, usize, usize)| list.range((*size, kind + 1, 0)..).next();
    std::iter::successors(list.first(), move |last| after(last)).map(|(.., place)| *place)
}

/// Size of the narrowest range that holds the address; no ranges at all hold everything.
fn width(ranges: &[AddressSpec], address: IpAddr) -> Option<u128> {
    if ranges.is_empty() {
        return Some(u128::MAX);
    }
    ranges.iter().filter(|range| range.contains(address)).map(size).min()
}

fn size(range: &AddressSpec) -> u128 {
    number(range.last).2.saturating_sub(number(range.first).2)
}

/// An address as a number: whether IPv4, how many bits it has, and which it is.
fn number(address: IpAddr) -> (bool, u32, u128) {
    match address {
        IpAddr::V4(address) => (true, 32, u128::from(address.to_bits())),
        IpAddr::V6(address) => (false, 128, address.to_bits()),
    }
}

/// The first `length` of so many bits.
fn mask(bits: u32, length: u32) -> u128 {
    let all = u128::MAX >> (128 - bits);
    all & !all.checked_shr(length).unwrap_or(0)
}

/// The one address of a prefix, if it is one.
fn single((v4, length, network): Prefix) -> Option<IpAddr> {
    match (v4, length) {
        (true, 32) => u32::try_from(network).ok().map(|bits| IpAddr::V4(bits.into())),
        (false, 128) => Some(IpAddr::V6(network.into())),
        _ => None,
    }
}

/// The prefixes that make up a range: two for each bit at most.
fn prefixes(range: &AddressSpec) -> Vec<Prefix> {
    let ((v4, bits, mut first), (_, last_bits, last)) = (number(range.first), number(range.last));
    let mut prefixes = Vec::new();
    while bits == last_bits && first <= last {
        // The largest that begins here and does not reach too far.
        let aligned = first.trailing_zeros().min(bits);
        let host = (0..=aligned).rev().find(|host| first | !mask(128, 128 - host) <= last).unwrap_or(0);
        prefixes.push((v4, bits - host, first));
        let end = first | !mask(128, 128 - host);
        match end.checked_add(1) {
            Some(next) if end < last => first = next,
            _ => break,
        }
    }
    prefixes
}

/// All pre-shared keys.
#[derive(Debug, Default)]
pub(crate) struct Secrets {
    all: Vec<SharedSecret>,
    /// Those that have this identity among their owners.
    by_owner: HashMap<Identity, Vec<usize>>,
    /// Those that have no other owner.
    by_sole_owner: HashMap<Identity, Vec<usize>>,
    /// Those that anybody or many may own.
    open: Vec<usize>,
    post_quantum: Vec<PostQuantumKey>,
    by_name: HashMap<Vec<u8>, usize>,
    nameless: Option<usize>,
}

impl Secrets {
    pub(crate) fn new(secrets: Vec<SharedSecret>, post_quantum: Vec<PostQuantumKey>) -> Self {
        let mut new = Self::default();
        for (place, secret) in secrets.iter().enumerate() {
            let exact: Vec<&Identity> = secret.owners.iter().filter_map(IdentityPattern::exact).collect();
            match exact.split_first() {
                Some((first, others)) if exact.len() == secret.owners.len() => {
                    if others.iter().all(|other| other == first) {
                        new.by_sole_owner.entry((*first).clone()).or_default().push(place);
                    }
                    for owner in exact {
                        new.by_owner.entry(owner.clone()).or_default().push(place);
                    }
                }
                _ => new.open.push(place),
            }
        }
        for (place, key) in post_quantum.iter().enumerate() {
            for id in &key.ids {
                new.by_name.entry(id.clone()).or_insert(place);
            }
            if key.ids.is_empty() {
                new.nameless.get_or_insert(place);
            }
        }
        Self { all: secrets, post_quantum, ..new }
    }

    /// The secret shared between us and a peer: what fits the peer better wins, then what fits us better, then the order
    /// of the configuration.
    pub(crate) fn between(&self, local: &Identity, peer: &Identity) -> Option<&SharedSecret> {
        let owned = self.by_owner.get(peer).into_iter().chain(self.by_sole_owner.get(local)).flatten();
        let places = owned.chain(&self.open).copied();
        self.best(local, places, |owner| owner.fit(peer))
    }

    /// The secret with which we begin, when we accept more than one peer and it has not said who it is. It most likely is
    /// `guess`, its address, and least likely we.
    pub(crate) fn with_any(
        &self,
        local: &Identity,
        accepted: &IdentityPattern,
        guess: &Identity,
    ) -> Option<&SharedSecret> {
        let fits = |owner: &IdentityPattern| {
            owner.fit(guess).or_else(|| owner.meets(accepted).filter(|_| owner.fit(local).is_none()))
        };
        let likely = self
            .between(local, guess)
            .filter(|secret| secret.owners.iter().any(|o| o.exact() == Some(guess)));
        likely.or_else(|| self.best(local, 0..self.all.len(), fits))
    }

    fn best(
        &self,
        local: &Identity,
        places: impl Iterator<Item = usize>,
        remote: impl Fn(&IdentityPattern) -> Option<Fit>,
    ) -> Option<&SharedSecret> {
        let fitting = places.filter_map(|place| Some((self.all.get(place)?.fit(local, &remote)?, place)));
        let best = fitting.min_by(|(a, place), (b, other)| b.cmp(a).then(place.cmp(other)));
        best.and_then(|(_, place)| self.all.get(place))
    }

    /// The post-quantum pre-shared key of this name; one without names goes by every name (RFC 8784).
    pub(crate) fn post_quantum(&self, id: &[u8]) -> Option<&PostQuantumKey> {
        let place = self.by_name.get(id).copied().or(self.nameless)?;
        self.post_quantum.get(place)
    }

    pub(crate) fn all_post_quantum(&self) -> &[PostQuantumKey] {
        &self.post_quantum
    }
}

#[cfg(test)]
mod tests;
