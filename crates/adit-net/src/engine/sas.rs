//! The SAs of a worker: which there are, which of them carries a packet, and how much each may still carry. It owns both
//! halves of every Child SA and all their state. It reads nothing and sends nothing: that is the worker's.
//!
//! The outbound half of an SA is standby until it is told, or shown by the peer, that the peer is ready for it; then
//! it is active; then it is retired, which ends it. The inbound half works from installation to removal.
//!
//! What a packet costs does not depend on how many SAs there are: inbound one lookup by SPI; outbound the policy's newest SA
//! if it fits, else one lookup for each length of prefix among the policy's SAs. An SA that carries nothing costs nothing.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::net::IpAddr;
use std::time::Instant;

use adit_wire::ikev2::TrafficSelector;
use adit_wire::ip;

use super::half::{Inbound, Outbound, Transport};
use super::spi_table::SpiTable;
use super::{Device, Policies};
use crate::backend::{ChildId, PolicyId};

/// The SAs of one worker.
#[derive(Default)]
pub(crate) struct Sas {
    inbound: SpiTable<Inbound>,
    /// In boxes, so that the table is small and its growth moves no key.
    outbound: Vec<Option<Box<Outbound>>>,
    /// Places of `outbound` that are empty.
    free: Vec<Place>,
    /// Places of halves that have ended while packets of theirs are still to be sent.
    ended: Vec<Place>,
    active: Map<PolicyId, Active>,
    parts: Map<ChildId, Parts>,
    /// How many have become active.
    activations: u64,
    woken_inbound: Woken<u32>,
    woken_outbound: Woken<Place>,
}

/// So many SAs keep what their keys are expanded to, which the caches hold; those installed while there are more only while they
/// are in use.
const AWAKE: usize = 4 << 10;

/// So many are always near: they fit the caches with their keys.
const NEAR: usize = 1 << 10;

/// Those of the others that have been used last, the first the longest ago: in each direction so many.
struct Woken<K>(VecDeque<K>);

const WOKEN: usize = 256;

impl<K> Default for Woken<K> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<K> Woken<K> {
    /// Adds one. Returns the one that is to rest from now on.
    fn push(&mut self, key: K) -> Option<K> {
        self.0.push_back(key);
        if self.0.len() > WOKEN { self.0.pop_front() } else { None }
    }
}

/// Where an outbound half is. It is valid until that half is retired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(u32);

impl Place {
    fn index(self) -> usize {
        self.0 as usize
    }
}

#[cfg(test)]
impl Place {
    pub(crate) fn at(index: usize) -> Self {
        Self(index as u32)
    }
}

/// By names that are ours: nobody outside chooses them, and they are numbered.
type Map<K, V> = HashMap<K, V, BuildHasherDefault<Numbered>>;

#[derive(Default)]
struct Numbered(u64);

impl Hasher for Numbered {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, octets: &[u8]) {
        octets.iter().for_each(|octet| self.write_u64((*octet).into()));
    }

    fn write_u64(&mut self, number: u64) {
        // Both ends of the product are looked at.
        let product = u128::from(self.0 ^ number) * 0x9e37_79b9_7f4a_7c15;
        self.0 = (product >> 64) as u64 ^ product as u64;
    }
}

/// The worker's own SAs are younger than all others.
const OWN: u64 = 1 << 63;

/// The active SAs of one policy.
struct Active {
    newest: Aged,
    /// Where there are several: these, and it.
    all: Option<Box<Several>>,
}

/// An SA, and how many have become active before it and with it.
#[derive(Clone, Copy)]
struct Aged {
    age: u64,
    place: Place,
}

#[derive(Default)]
struct Several {
    by_age: BTreeMap<u64, Place>,
    by_destination: Destinations,
}

impl Several {
    fn insert(&mut self, sa: Aged, outbound: &[Option<Box<Outbound>>]) {
        self.by_age.insert(sa.age, sa.place);
        if let Some(Some(half)) = outbound.get(sa.place.index()) {
            self.by_destination.insert(sa.age, half.destinations());
        }
    }
}

impl Active {
    fn add(&mut self, sa: Aged, outbound: &[Option<Box<Outbound>>]) {
        let all = self.all.get_or_insert_with(|| {
            let mut all = Box::<Several>::default();
            all.insert(self.newest, outbound);
            all
        });
        all.insert(sa, outbound);
        if sa.age > self.newest.age {
            self.newest = sa;
        }
    }

    /// `false`: it was the last.
    fn remove(&mut self, sa: Aged, outbound: &[Option<Box<Outbound>>]) -> bool {
        let Some(all) = &mut self.all else { return self.newest.age != sa.age };
        all.by_age.remove(&sa.age);
        if let Some(Some(half)) = outbound.get(sa.place.index()) {
            all.by_destination.remove(sa.age, half.destinations());
        }
        if let Some((age, place)) = all.by_age.last_key_value() {
            self.newest = Aged { age: *age, place: *place };
        }
        if all.by_age.len() == 1 {
            self.all = None;
        }
        true
    }
}

/// Where the parts of a Child SA are.
struct Parts {
    spi: u32,
    policy: PolicyId,
    /// Of the outbound half, until it is retired.
    outbound: Option<Place>,
    /// Is it this worker's own?
    own: bool,
    /// In [`Active`], while it is there.
    age: Option<u64>,
}

/// The halves of a Child SA that a worker has, ready to work: with several workers one may have one, and another the other.
pub(crate) struct NewChild {
    pub(crate) id: ChildId,
    pub(crate) policy: PolicyId,
    /// The SPI of the inbound half, here or elsewhere.
    pub(crate) spi: u32,
    /// Is the outbound half for its worker alone? It is then used before those for all.
    pub(crate) own: bool,
    pub(crate) active: bool,
    pub(crate) inbound: Option<Inbound>,
    pub(crate) outbound: Option<Outbound>,
}

impl Sas {
    /// Puts the halves in place, the outbound one on standby.
    pub(crate) fn install(&mut self, child: NewChild) {
        let NewChild { id, policy, spi, own, mut inbound, mut outbound, .. } = child;
        if self.parts.len() >= AWAKE {
            inbound.iter_mut().for_each(Inbound::rest);
            outbound.iter_mut().for_each(Outbound::rest);
        }
        let outbound = outbound.map(|outbound| {
            let place = self.free.pop().unwrap_or(Place(self.outbound.len() as u32));
            let outbound = Some(Box::new(outbound));
            match self.outbound.get_mut(place.index()) {
                Some(free) => *free = outbound,
                None => self.outbound.push(outbound),
            }
            place
        });
        self.parts.insert(id, Parts { spi, policy, outbound, own, age: None });
        // The peer may send as soon as it sees our first packet.
        if let Some(inbound) = inbound {
            self.inbound.insert(spi, inbound);
        }
    }

    /// Is the outbound half here?
    pub(crate) fn has_outbound(&self, id: ChildId) -> bool {
        self.parts.get(&id).is_some_and(|parts| parts.outbound.is_some())
    }

    /// Makes the outbound half active, if it is on standby. Returns the policy that it carries the packets of.
    pub(crate) fn switch(&mut self, id: ChildId) -> Option<PolicyId> {
        let parts = self.parts.get_mut(&id).filter(|parts| parts.age.is_none())?;
        let place = parts.outbound?;
        if let Some(inbound) = self.inbound.get_mut(parts.spi) {
            inbound.awaits_no_packet();
        }
        self.activations += 1;
        let age = if parts.own { self.activations | OWN } else { self.activations };
        parts.age = Some(age);
        let sa = Aged { age, place };
        match self.active.entry(parts.policy) {
            Entry::Occupied(mut active) => active.get_mut().add(sa, &self.outbound),
            Entry::Vacant(free) => drop(free.insert(Active { newest: sa, all: None })),
        }
        Some(parts.policy)
    }

    /// Ends an outbound half that can carry nothing more. What it has sealed is still to be sent: until
    /// [`bury`](Self::bury) its place is kept.
    pub(crate) fn end(&mut self, place: Place) {
        if let Some(id) = self.outbound(place).map(|outbound| outbound.id()) {
            self.retire(id);
        }
    }

    /// Lets go of the halves that have ended.
    pub(crate) fn bury(&mut self) {
        for place in self.ended.drain(..) {
            if let Some(outbound) = self.outbound.get_mut(place.index()) {
                *outbound = None;
            }
            self.free.push(place);
        }
    }

    /// Ends the outbound half, and takes it out of everything that leads to it. Its keys are wiped with all that has ended.
    pub(crate) fn retire(&mut self, id: ChildId) {
        let Some(Parts { spi, policy, outbound, age, .. }) = self.parts.get_mut(&id) else { return };
        if let Some(inbound) = self.inbound.get_mut(*spi) {
            inbound.awaits_no_packet();
        }
        let Some(place) = outbound.take() else { return };
        self.ended.push(place);
        let Some(age) = age.take() else { return };
        let Some(active) = self.active.get_mut(policy) else { return };
        if !active.remove(Aged { age, place }, &self.outbound) {
            self.active.remove(policy);
        }
    }

    pub(crate) fn remove(&mut self, id: ChildId) {
        self.retire(id);
        if let Some(parts) = self.parts.remove(&id) {
            self.inbound.remove(parts.spi);
        }
    }

    pub(crate) fn relocate(&mut self, id: ChildId, transport: Transport) {
        let Some(parts) = self.parts.get(&id) else { return };
        if let Some(inbound) = self.inbound.get_mut(parts.spi) {
            inbound.relocate(transport);
        }
        if let Some(outbound) = self.outbound_of(id) {
            outbound.relocate(transport);
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.parts.len()
    }

    /// Are there so many that their memory may be far away?
    pub(crate) fn are_many(&self) -> bool {
        self.parts.len() >= NEAR
    }

    /// Fetches an outbound half from memory.
    pub(crate) fn expect_outbound(&self, place: Place) {
        if let Some(Some(outbound)) = self.outbound.get(place.index()) {
            outbound.fetch();
            outbound.fetch_further();
        }
    }

    /// Fetches inbound halves from memory, where there are so many that they may be there.
    pub(crate) fn expect(&mut self, spis: impl Iterator<Item = u32> + Clone) {
        if !self.are_many() {
            return;
        }
        for spi in spis.clone() {
            if let Some(inbound) = self.inbound.get_mut(spi) {
                inbound.fetch();
            }
        }
        for spi in spis {
            if let Some(inbound) = self.inbound.get_mut(spi) {
                inbound.fetch_further();
            }
        }
    }

    /// An inbound half for a packet that has arrived.
    pub(crate) fn inbound(&mut self, spi: u32) -> Option<&mut Inbound> {
        if self.inbound.get_mut(spi)?.wake() {
            let first = self.woken_inbound.push(spi);
            if let Some(first) = first.and_then(|first| self.inbound.get_mut(first)) {
                first.rest();
            }
        }
        self.inbound.get_mut(spi)
    }

    /// An outbound half that has packets to carry.
    pub(crate) fn outbound(&mut self, place: Place) -> Option<&mut Outbound> {
        let outbound = &mut self.outbound;
        if outbound.get_mut(place.index())?.as_mut()?.wake() {
            let first = self.woken_outbound.push(place);
            if let Some(Some(first)) = first.and_then(|first| outbound.get_mut(first.index())) {
                first.rest();
            }
        }
        self.outbound.get_mut(place.index())?.as_deref_mut()
    }

    /// So many packets of an outbound half have left, with so many octets inside.
    pub(crate) fn sent(&self, place: Place, packets: usize, octets: usize, moment: u64) {
        if let Some(Some(outbound)) = self.outbound.get(place.index()) {
            outbound.sent(packets, octets, moment);
        }
    }

    /// The outbound half of a Child SA, on standby or active.
    pub(crate) fn outbound_of(&mut self, id: ChildId) -> Option<&mut Outbound> {
        let place = self.place_of(id)?;
        self.outbound(place)
    }

    /// The name and the SPI of an outbound half.
    pub(crate) fn who(&self, place: Place) -> Option<(&str, u32)> {
        self.outbound.get(place.index())?.as_deref().map(Outbound::who)
    }

    /// The same by its place.
    pub(crate) fn place_of(&self, id: ChildId) -> Option<Place> {
        self.parts.get(&id)?.outbound
    }

    /// The active SA that was the newest of its policy before this one.
    pub(crate) fn before(&self, id: ChildId) -> Option<Place> {
        let Parts { policy, age: Some(age), .. } = self.parts.get(&id)? else { return None };
        let (before, place) = self.active.get(policy)?.all.as_ref()?.by_age.range(..age).next_back()?;
        (before & OWN == age & OWN).then_some(*place)
    }

    /// When time alone moves a Child SA.
    pub(crate) fn deadline(&mut self, id: ChildId, spi: u32) -> Option<Instant> {
        let outbound = self.place_of(id).and_then(|place| self.outbound.get(place.index())?.as_deref());
        let outbound = outbound.and_then(Outbound::deadline);
        let inbound = self.inbound.get_mut(spi).and_then(|inbound| inbound.deadline());
        let deadlines = [outbound, inbound];
        deadlines.into_iter().flatten().min()
    }

    /// The SAs whose packets leave for an address.
    pub(crate) fn towards(&self, remote: IpAddr) -> Vec<ChildId> {
        let all = self.outbound.iter().flatten();
        all.filter(|one| one.transport().destination.ip() == remote).map(|one| one.id()).collect()
    }

    /// The way to the peer of an SA carries outer packets of up to `mtu` octets.
    pub(crate) fn learn_path(&mut self, id: ChildId, mtu: usize) {
        let Some(max_inner) = self.outbound_of(id).map(|outbound| outbound.learn_path(mtu)) else { return };
        let Some(parts) = self.parts.get(&id) else { return };
        if let Some(inbound) = self.inbound.get_mut(parts.spi) {
            inbound.learn_path(max_inner);
        }
    }

    /// The SA for a packet: of its policy, the one that became active last among those whose selectors it fits. An SA may
    /// be narrower than its policy, and what does not fit would be dropped by the peer. Policies that describe the packet
    /// equally well stand in for each other.
    pub(crate) fn select(&self, policies: &Policies, device: Device, flow: &ip::Flow) -> Option<Place> {
        policies.of(device, flow).find_map(|policy| self.newest(self.active.get(&policy)?, flow))
    }

    /// The newest SA of a policy that a packet fits.
    fn newest(&self, active: &Active, flow: &ip::Flow) -> Option<Place> {
        let fits = |place: &Place| match self.outbound.get(place.index()) {
            Some(Some(outbound)) => outbound.admits(flow),
            _ => false,
        };
        let newest = active.newest.place;
        if fits(&newest) {
            return Some(newest);
        }
        let Several { by_age, by_destination } = &**active.all.as_ref()?;
        let fits = |age| by_age.get(&age).is_some_and(fits);
        let age = by_destination.newest(flow.destination, fits)?;
        by_age.get(&age).copied()
    }
}

/// Which SAs may carry packets to an address: for each prefix that SAs have on the peer's side their ages, rising.
#[derive(Debug, Default)]
struct Destinations {
    prefixes: HashMap<Prefix, Vec<u64>>,
    /// How many prefixes there are of each family and length.
    lengths: BTreeMap<(bool, u8), usize>,
}

pub(super) type Prefix = (IpAddr, u8);

impl Destinations {
    /// `age` is none of the others.
    fn insert(&mut self, age: u64, prefixes: &[Prefix]) {
        for prefix in prefixes {
            let ages = self.prefixes.entry(*prefix).or_insert_with(|| {
                *self.lengths.entry((prefix.0.is_ipv6(), prefix.1)).or_default() += 1;
                Vec::new()
            });
            if let Err(place) = ages.binary_search(&age) {
                ages.insert(place, age);
            }
        }
    }

    fn remove(&mut self, age: u64, prefixes: &[Prefix]) {
        for prefix in prefixes {
            let Some(ages) = self.prefixes.get_mut(prefix) else { continue };
            if let Ok(place) = ages.binary_search(&age) {
                ages.remove(place);
            }
            if ages.is_empty() {
                self.prefixes.remove(prefix);
                let length = (prefix.0.is_ipv6(), prefix.1);
                if let Some(count) = self.lengths.get_mut(&length) {
                    *count -= 1;
                    if *count == 0 {
                        self.lengths.remove(&length);
                    }
                }
            }
        }
    }

    /// The greatest age that fits.
    fn newest(&self, destination: IpAddr, fits: impl Fn(u64) -> bool) -> Option<u64> {
        let v6 = destination.is_ipv6();
        let prefixes =
            self.lengths.range((v6, 0)..=(v6, 128)).map(|((_, len), _)| network(destination, *len));
        let ages = prefixes.filter_map(|prefix| self.prefixes.get(&prefix));
        ages.filter_map(|ages| ages.iter().rev().copied().find(|age| fits(*age))).max()
    }
}

/// The prefix of a length that an address lies in.
fn network(address: IpAddr, len: u8) -> Prefix {
    let network = match address {
        IpAddr::V4(v4) => {
            let host = u32::MAX.checked_shr(len.into()).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & !host).into())
        }
        IpAddr::V6(v6) => {
            let host = u128::MAX.checked_shr(len.into()).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & !host).into())
        }
    };
    (network, len)
}

/// The smallest prefix of each selector: one each, however odd a range the peer has negotiated.
pub(super) fn prefixes(selectors: &[TrafficSelector]) -> Vec<Prefix> {
    let smallest = |selector: &TrafficSelector| match (selector.start, selector.end) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            Some(network(first.into(), (first.to_bits() ^ last.to_bits()).leading_zeros() as u8))
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            Some(network(first.into(), (first.to_bits() ^ last.to_bits()).leading_zeros() as u8))
        }
        _ => None,
    };
    let mut prefixes: Vec<Prefix> = selectors.iter().filter_map(smallest).collect();
    prefixes.sort_unstable();
    prefixes.dedup();
    prefixes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_found_as_by_reading_the_whole_list() {
        let range = |first: [u8; 4], last: [u8; 4]| TrafficSelector {
            start: first.into(),
            end: last.into(),
            ..TrafficSelector::any_v4()
        };
        let mut all = vec![
            vec![TrafficSelector::any_v4()],
            vec![range([10, 2, 0, 0], [10, 2, 255, 255]), range([10, 3, 0, 0], [10, 3, 0, 255])],
            vec![TrafficSelector::any_v6(), range([10, 2, 0, 7], [10, 2, 0, 7])],
            vec![range([10, 2, 0, 5], [10, 2, 0, 9])],
            vec![TrafficSelector::subnet("fd00:2::".parse().unwrap(), 64)],
            vec![range([10, 2, 0, 7], [10, 2, 0, 7])],
            vec![range([0, 0, 0, 0], [255, 255, 255, 254])],
        ];
        let mut destinations = Destinations::default();
        for (age, selectors) in all.iter().enumerate() {
            destinations.insert(age as u64, &prefixes(selectors));
        }
        let addresses =
            ["10.2.0.7", "10.2.0.5", "10.2.9.9", "10.3.0.1", "10.3.1.1", "255.255.255.255", "0.0.0.0"]
                .into_iter()
                .chain(["fd00:2::1", "fd00:3::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]);
        let addresses: Vec<IpAddr> = addresses.map(|text| text.parse().unwrap()).collect();
        let mut found = 0;
        while !all.is_empty() {
            for address in &addresses {
                let fits = |selectors: &Vec<TrafficSelector>| {
                    selectors.iter().any(|ts| (ts.start..=ts.end).contains(address))
                };
                let expected = all.iter().rposition(fits).map(|age| age as u64);
                assert_eq!(
                    destinations.newest(*address, |age| fits(&all[age as usize])),
                    expected,
                    "{address}"
                );
                found += usize::from(expected.is_some());
            }
            let age = all.len() as u64 - 1;
            destinations.remove(age, &prefixes(&all.pop().unwrap()));
        }
        assert!(found > 20 && destinations.prefixes.is_empty() && destinations.lengths.is_empty());
    }
}
