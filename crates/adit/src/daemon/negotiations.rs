//! What is remembered of negotiations that failed or gave less than was wanted.
//!
//! It owns the memory: what is about the same is one entry with a count, and what anybody can cause at will pushes out
//! nothing else. It never decides what is done about a failure.
//!
//! A record takes about 1.5 KiB, at most 24 KiB. Of each connection at most six are kept and of all of them 16,384, so with
//! 1 tunnel 9 KiB, with 1,000 tunnels that all fail in every way 9 MiB, and with 100,000 of them 24 MiB; of peers that no
//! connection is for, 256 records, 384 KiB.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Instant;

use adit_ike::{Difference, NegotiationRecord, OutcomeCode, Stage};

/// Of each connection, of peers that we dialled or that have proved who they are.
const OF_KNOWN: usize = 4;

/// Of each connection, of others.
const OF_OTHERS: usize = 2;

/// Of all connections.
const OF_ALL: usize = 16_384;

/// Of all peers without a connection.
const OF_STRANGERS: usize = 256;

/// Most selectors of a list that are kept.
const SELECTORS: usize = 32;

/// All that is remembered.
#[derive(Debug, Default)]
pub(super) struct Negotiations {
    of_connections: HashMap<String, Vec<Entry>>,
    /// Which connection's entry is the oldest.
    by_age: BTreeMap<u64, String>,
    of_strangers: Vec<Entry>,
    last: u64,
}

/// One way in which a negotiation ended, however often it did.
#[derive(Debug)]
pub(super) struct Entry {
    /// The last of them.
    pub(super) record: NegotiationRecord,
    pub(super) count: u64,
    pub(super) first: Instant,
    /// Has the same succeeded since?
    pub(super) resolved: bool,
    order: u64,
}

/// Which entry it is, until it is counted again.
#[derive(Debug)]
pub(super) struct Key {
    connection: Option<String>,
    order: u64,
}

impl Entry {
    pub(super) fn key(&self) -> Key {
        Key { connection: self.record.connection.clone(), order: self.order }
    }

    fn is_same(&self, other: &NegotiationRecord) -> bool {
        let differs = |record: &NegotiationRecord| record.difference().as_ref().map(Difference::name);
        let one = &self.record;
        let stranger = one.connection.is_none();
        (one.known, one.code, one.stage, one.initiator)
            == (other.known, other.code, other.stage, other.initiator)
            && one.child == other.child
            && (!stranger || one.remote.ip() == other.remote.ip())
            && differs(one) == differs(other)
    }

    /// Does it still stand between what is wanted and what there is? What was ended here stands in nobody's way.
    fn is_open(&self) -> bool {
        !self.resolved && self.record.code != OutcomeCode::Cancelled
    }

    /// Did nothing come of it? What is narrowed is up.
    pub(super) fn is_failure(&self) -> bool {
        self.record.code != OutcomeCode::Narrowed
    }
}

impl Negotiations {
    /// A negotiation ended.
    pub(super) fn add(&mut self, now: Instant, mut record: NegotiationRecord) {
        if record.is_success()
            && let Some(connection) = &record.connection
        {
            self.succeeded(connection, record.stage, record.child.as_deref());
            // So is what failed before it said who it is.
            for stranger in self.of_strangers.iter_mut() {
                stranger.resolved |= stranger.record.remote.ip() == record.remote.ip();
            }
        }
        if record.code == OutcomeCode::Success {
            return;
        }
        let (ours, peers) = (&mut record.our_selectors, &mut record.peer_selectors);
        for list in [&mut ours.0, &mut ours.1, &mut peers.0, &mut peers.1] {
            list.truncate(SELECTORS);
        }
        self.last += 1;
        let order = self.last;
        let new = Entry { record, count: 1, first: now, resolved: false, order };
        let Some(connection) = new.record.connection.clone() else {
            remember(&mut self.of_strangers, new, OF_STRANGERS);
            return;
        };
        let entries = self.of_connections.entry(connection.clone()).or_default();
        let (limit, known) = if new.record.known { (OF_KNOWN, true) } else { (OF_OTHERS, false) };
        // Each kind pushes out its own.
        let (mut alike, others): (Vec<Entry>, Vec<Entry>) =
            entries.drain(..).partition(|entry| entry.record.known == known);
        for gone in remember(&mut alike, new, limit) {
            self.by_age.remove(&gone);
        }
        entries.extend(others);
        entries.extend(alike);
        entries.sort_by_key(|entry| entry.order);
        self.by_age.insert(order, connection);
        while self.by_age.len() > OF_ALL {
            let Some((order, connection)) = self.by_age.pop_first() else { break };
            let Some(entries) = self.of_connections.get_mut(&connection) else { continue };
            entries.retain(|entry| entry.order != order);
            if entries.is_empty() {
                self.of_connections.remove(&connection);
            }
        }
    }

    /// A connection has come so far: what failed before is overcome.
    pub(super) fn succeeded(&mut self, connection: &str, stage: Stage, child: Option<&str>) {
        for Entry { record, resolved, .. } in self.of_connections.get_mut(connection).into_iter().flatten() {
            *resolved |= match stage {
                Stage::ChildSa => {
                    record.stage == Stage::ChildSa && record.child.as_deref().is_none_or(|c| Some(c) == child)
                }
                Stage::IkeRekey => record.stage == Stage::IkeRekey,
                Stage::IkeSaInit | Stage::IkeIntermediate | Stage::IkeAuth => record.stage != Stage::ChildSa,
            };
        }
    }

    /// All, the oldest first.
    pub(super) fn all(&self) -> Vec<&Entry> {
        let mut all: Vec<&Entry> = self.of_connections.values().flatten().chain(&self.of_strangers).collect();
        all.sort_by_key(|entry| entry.order);
        all
    }

    /// One of them, if it is still there.
    pub(super) fn entry(&self, key: &Key) -> Option<&Entry> {
        let among = match &key.connection {
            Some(connection) => self.of_connections.get(connection)?,
            None => &self.of_strangers,
        };
        among.iter().find(|entry| entry.order == key.order)
    }

    /// Those of a connection, the newest first.
    pub(super) fn of<'a>(&'a self, connection: &str) -> impl Iterator<Item = &'a Entry> + use<'a> {
        self.of_connections.get(connection).into_iter().flatten().rev()
    }

    /// What stands in the way of a connection, the newest first.
    pub(super) fn open<'a>(&'a self, connection: &str) -> impl Iterator<Item = &'a Entry> + use<'a> {
        self.of(connection).filter(|entry| entry.is_open())
    }

    /// What stands in the way of a child, the newest first. What is about no child is about all.
    pub(super) fn open_of_child<'a>(
        &'a self,
        connection: &str,
        child: &'a str,
    ) -> impl Iterator<Item = &'a Entry> + use<'a> {
        self.open(connection)
            .filter(move |entry| entry.record.child.as_deref().is_none_or(|name| name == child))
    }

    /// Those with a peer at an address, the newest first.
    pub(super) fn from(&self, address: IpAddr) -> Vec<&Entry> {
        let mut found = self.all();
        found.retain(|entry| entry.record.remote.ip() == address);
        found.reverse();
        found
    }

    /// The last one of a peer at an address that did not come so far as to say who it is.
    pub(super) fn of_stranger(&self, address: IpAddr) -> Option<&Entry> {
        self.of_strangers.iter().rfind(|entry| entry.record.remote.ip() == address)
    }

    /// The record with what the same peer has shown of itself elsewhere.
    pub(super) fn informed(&self, record: &NegotiationRecord) -> NegotiationRecord {
        let of_connection = record.connection.as_deref().into_iter().flat_map(|name| self.of(name));
        let others = of_connection.chain(self.of_strangers.iter().rev());
        others.filter_map(|other| record.informed_by(&other.record)).next().unwrap_or_else(|| record.clone())
    }
}

/// Adds one more, or counts it; returns what was pushed out, by its order.
fn remember(entries: &mut Vec<Entry>, new: Entry, limit: usize) -> Vec<u64> {
    let mut gone = Vec::new();
    if let Some(at) = entries.iter().position(|entry| entry.is_same(&new.record)) {
        let old = entries.remove(at);
        gone.push(old.order);
        // What was overcome and comes again is something new.
        let (count, first) = if old.resolved { (0, new.first) } else { (old.count, old.first) };
        entries.push(Entry { count: count + 1, first, ..new });
        return gone;
    }
    while entries.len() >= limit {
        gone.push(entries.remove(0).order);
    }
    entries.push(new);
    gone
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use adit_ike::Blame;

    use super::*;

    fn record(connection: Option<&str>, remote: [u8; 4], code: OutcomeCode) -> NegotiationRecord {
        NegotiationRecord {
            at: Instant::now(),
            code,
            stage: Stage::IkeSaInit,
            blame: Blame::PeerIncompatible,
            connection: connection.map(str::to_owned),
            child: None,
            initiator: false,
            local: "192.0.2.1:500".parse().unwrap(),
            remote: (remote, 500).into(),
            nat_local: false,
            nat_remote: false,
            local_id: None,
            remote_id: None,
            known: false,
            asked_id: None,
            own_ids: Vec::new(),
            accepted_ids: Vec::new(),
            secret: None,
            sent: 0,
            inferred: false,
            our_proposals: Vec::new(),
            peer_proposals: Vec::new(),
            chosen: None,
            our_selectors: (Vec::new(), Vec::new()),
            peer_selectors: (Vec::new(), Vec::new()),
            notify: None,
            message: String::new(),
        }
    }

    #[test]
    fn what_is_the_same_is_counted() {
        let mut all = Negotiations::default();
        let begin = Instant::now();
        for second in 0..5 {
            all.add(
                begin + Duration::from_secs(second),
                record(Some("gw"), [192, 0, 2, 2], OutcomeCode::Timeout),
            );
        }
        all.add(begin, record(Some("gw"), [192, 0, 2, 2], OutcomeCode::NoProposalChosen));
        all.add(
            begin,
            NegotiationRecord {
                child: Some("net".into()),
                ..record(Some("gw"), [192, 0, 2, 2], OutcomeCode::Timeout)
            },
        );
        let shown: Vec<(OutcomeCode, u64)> =
            all.of("gw").map(|entry| (entry.record.code, entry.count)).collect();
        // The room for what anybody can cause is two.
        assert_eq!(shown, [(OutcomeCode::Timeout, 1), (OutcomeCode::NoProposalChosen, 1)]);
        all.add(begin, record(None, [192, 0, 2, 9], OutcomeCode::UnknownPeer));
        all.add(begin, record(None, [192, 0, 2, 8], OutcomeCode::UnknownPeer));
        all.add(begin + Duration::from_secs(9), record(None, [192, 0, 2, 9], OutcomeCode::UnknownPeer));
        let from = all.from([192, 0, 2, 9].into());
        assert_eq!((from.len(), from[0].count, from[0].first), (1, 2, begin));
    }

    #[test]
    fn a_crowd_pushes_out_nothing_but_its_own() {
        let mut all = Negotiations::default();
        let now = Instant::now();
        let known = NegotiationRecord {
            known: true,
            initiator: true,
            ..record(Some("gw"), [192, 0, 2, 2], OutcomeCode::Timeout)
        };
        all.add(now, known);
        for n in 0..100_000_u32 {
            all.add(now, record(None, n.to_be_bytes(), OutcomeCode::UnknownPeer));
            let codes = OutcomeCode::ALL;
            let code = codes[2 + n as usize % (codes.len() - 2)];
            all.add(now, record(Some("gw"), n.to_be_bytes(), code));
        }
        assert_eq!(all.of_strangers.len(), OF_STRANGERS);
        assert_eq!(all.of("gw").count(), 1 + OF_OTHERS);
        assert!(all.of("gw").any(|entry| entry.record.known));
        assert_eq!(all.by_age.len(), 1 + OF_OTHERS);
    }

    #[test]
    fn however_many_connections_there_are() {
        let mut all = Negotiations::default();
        let now = Instant::now();
        for n in 0..40_000 {
            all.add(now, record(Some(&format!("gw{n}")), [192, 0, 2, 2], OutcomeCode::Timeout));
        }
        assert_eq!((all.by_age.len(), all.of_connections.len(), all.all().len()), (OF_ALL, OF_ALL, OF_ALL));
        assert!(all.of("gw39999").next().is_some() && all.of("gw0").next().is_none(), "the newest stay");
    }

    #[test]
    fn success_overcomes_what_failed_before() {
        let mut all = Negotiations::default();
        let now = Instant::now();
        let gw = |code, stage, child: Option<&str>| NegotiationRecord {
            stage,
            child: child.map(str::to_owned),
            known: true,
            ..record(Some("gw"), [192, 0, 2, 2], code)
        };
        all.add(now, gw(OutcomeCode::Timeout, Stage::IkeSaInit, None));
        all.add(now, gw(OutcomeCode::TsUnacceptable, Stage::ChildSa, Some("a")));
        all.add(now, gw(OutcomeCode::TsUnacceptable, Stage::ChildSa, Some("b")));
        all.add(now, gw(OutcomeCode::Success, Stage::IkeAuth, None));
        let open = |all: &Negotiations| all.of("gw").filter(|entry| !entry.resolved).count();
        assert_eq!(open(&all), 2);
        all.add(now, gw(OutcomeCode::Success, Stage::ChildSa, Some("a")));
        assert_eq!(open(&all), 1);
        // It comes again: as new.
        all.add(now, gw(OutcomeCode::Timeout, Stage::IkeSaInit, None));
        let newest = all.of("gw").next().unwrap();
        assert!(!newest.resolved && newest.count == 1);
    }
}
