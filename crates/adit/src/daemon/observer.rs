//! What the daemon remembers for whoever looks at it.
//!
//! It owns what no machine keeps: what a child carried in SAs that are gone, what ended the last one, what happened to a
//! connection lately. It decides nothing; what is shown is put together in `look`.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::time::{Duration, Instant, SystemTime};

use adit_ike::{ChildHandle, ChildSaView, DownReason, Event, IkeSaView, NegotiationRecord};
use adit_net::ChildCounters;

use super::reconciler::ChildName;
use crate::control::report::{ChildFacts, kebab};
use crate::snapshot::{Child, Count, Event as Happening, EventKind, Moment, Traffic};

/// Events kept of one connection; fewer where there are many.
const MOST_EVENTS: usize = 32;

/// Events kept of all connections together, but for [`LEAST_EVENTS`] of each.
const MOST_EVENTS_IN_ALL: usize = 65_536;

/// Events kept of one connection however many there are.
const LEAST_EVENTS: usize = 4;

/// Characters of an event that are kept.
const MOST_DETAIL: usize = 400;

/// Remembers.
pub(super) struct Observer {
    clock: Clock,
    /// The names of the Child SAs that are or were up, while they are in the data plane.
    names: HashMap<ChildHandle, ChildName>,
    children: BTreeMap<ChildName, Past>,
    connections: BTreeMap<String, Lately>,
    /// How far it has been looked for what is gone, if anything may be.
    forgetting: Option<Forgetting>,
}

/// What has been looked at last.
#[derive(Debug, Default)]
struct Forgetting {
    child: Option<ChildName>,
    connection: Option<String>,
}

/// What a child has behind it.
#[derive(Debug, Default)]
struct Past {
    /// Carried by SAs that are gone.
    traffic: Traffic,
    /// Dropped by SAs that are gone.
    drops: Vec<Count>,
    rekeys: u64,
    ups: u64,
    /// The SAs that are in the data plane.
    sas: usize,
    /// The SAs that are up.
    up: usize,
    since: Option<Instant>,
    /// What ended the last SA, if none is up.
    ended: Option<DownReason>,
}

/// What happened to a connection lately.
#[derive(Debug, Default)]
struct Lately {
    events: VecDeque<(Instant, Happening)>,
}

/// The clock on the wall, read once, so that a moment has the same name in every snapshot; read again when it was set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    at: Instant,
    wall: SystemTime,
}

impl Clock {
    pub(super) fn moment(self, instant: Instant) -> Moment {
        let wall = match instant.checked_duration_since(self.at) {
            Some(later) => self.wall.checked_add(later),
            None => self.wall.checked_sub(self.at.saturating_duration_since(instant)),
        };
        wall.unwrap_or(self.wall).into()
    }

    fn check(&mut self, now: Instant) {
        let (wall, counted) = (SystemTime::now(), self.wall + now.saturating_duration_since(self.at));
        let off = wall.duration_since(counted).unwrap_or_else(|behind| behind.duration());
        if off > Duration::from_secs(1) {
            *self = Self { at: now, wall };
        }
    }
}

impl Observer {
    pub(super) fn new(now: Instant, wall: SystemTime) -> Self {
        Self {
            clock: Clock { at: now, wall },
            names: HashMap::new(),
            children: BTreeMap::new(),
            connections: BTreeMap::new(),
            forgetting: None,
        }
    }

    /// The configuration is another one: what is gone may be forgotten.
    pub(super) fn configured(&mut self) {
        self.forgetting = Some(Forgetting::default());
    }

    /// Looks at one more of what is remembered, and forgets it if it is neither configured nor there; `false` if nothing is
    /// left to look at.
    pub(super) fn forget_on(
        &mut self,
        is_child: impl Fn(&ChildName) -> bool,
        is_connection: impl Fn(&str) -> bool,
    ) -> bool {
        let Some(Forgetting { child, connection }) = &mut self.forgetting else { return false };
        let from = child.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        if let Some((name, past)) = self.children.range::<ChildName, _>((from, Bound::Unbounded)).next() {
            let name = name.clone();
            if past.sas == 0 && !is_child(&name) {
                self.children.remove(&name);
            }
            *child = Some(name);
            return true;
        }
        let from = connection.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        if let Some((name, _)) = self.connections.range::<str, _>((from, Bound::Unbounded)).next() {
            let name = name.clone();
            if !is_connection(&name) {
                self.connections.remove(&name);
            }
            *connection = Some(name);
            return true;
        }
        self.forgetting = None;
        false
    }

    /// What ended the last SA of a child that is down, and when.
    pub(super) fn went_down(&self, name: &ChildName) -> Option<(Instant, DownReason)> {
        let past = self.children.get(name)?;
        past.since.zip(past.ended)
    }

    /// Since when a child is up, in whichever SAs.
    pub(super) fn up_since(&self, name: &ChildName) -> Option<Instant> {
        self.children.get(name).filter(|past| past.up > 0)?.since
    }

    /// Adds what is remembered of a child.
    pub(super) fn put_past(&self, connection: &str, child: &mut Child) {
        let Some(past) = self.children.get(&ChildName::new(connection, &child.name)) else { return };
        child.traffic.add(&past.traffic);
        add_drops(&mut child.drops, &past.drops);
        (child.rekeys, child.ups) = (past.rekeys, past.ups);
        child.since = past.since.map(|at| self.clock.moment(at));
    }

    /// What happened to a connection lately, the oldest first.
    pub(super) fn happenings(&self, connection: &str) -> Vec<Happening> {
        let lately = self.connections.get(connection).into_iter().flat_map(|lately| &lately.events);
        lately.map(|(at, event)| Happening { at: self.clock.moment(*at), ..event.clone() }).collect()
    }

    /// The clock on the wall, as it is now.
    pub(super) fn clock(&mut self, now: Instant) -> Clock {
        self.clock.check(now);
        self.clock
    }

    /// What the gateway reports.
    pub(super) fn event(&mut self, now: Instant, event: &Event) {
        match event {
            Event::ChildUp(sa, child) => {
                let name = ChildName::new(&sa.connection, &child.name);
                let past = self.child(&name);
                past.up += 1;
                past.ups += u64::from(past.up == 1);
                if past.up == 1 {
                    past.since = Some(now);
                }
                past.ended = None;
                self.is_there(child.handle, name);
                self.happened(now, sa, Some(child), EventKind::Up, None, peer(sa));
            }
            Event::ChildDown(sa, child, reason) => {
                let past = self.child(&ChildName::new(&sa.connection, &child.name));
                past.up = past.up.saturating_sub(1);
                if past.up == 0 {
                    past.since = Some(now);
                    past.ended = Some(*reason);
                }
                self.happened(now, sa, Some(child), EventKind::Down, Some(kebab(reason)), peer(sa));
            }
            Event::ChildRekeyed { ike_sa, new, .. } => {
                let name = ChildName::new(&ike_sa.connection, &new.name);
                self.child(&name).rekeys += 1;
                self.is_there(new.handle, name);
                let spis = format!("{} in, {} out", new.inbound_spi, new.outbound_spi);
                self.happened(now, ike_sa, Some(new), EventKind::Rekeyed, None, spis);
            }
            Event::IkeUp(sa) => self.happened(now, sa, None, EventKind::Up, None, peer(sa)),
            Event::IkeDown(sa, reason) => {
                self.happened(now, sa, None, EventKind::Down, Some(kebab(reason)), peer(sa));
            }
            Event::IkeRekeyed { new, .. } => {
                let spis = format!("{}_i {}_r", new.initiator_spi, new.responder_spi);
                self.happened(now, new, None, EventKind::Rekeyed, None, spis);
            }
            Event::IkeMoved { .. }
            | Event::Notice(_)
            | Event::Progress { .. }
            | Event::RequestDone { .. } => {}
        }
    }

    /// A negotiation ended.
    pub(super) fn record(&mut self, record: &NegotiationRecord) {
        let Some(connection) = record.connection.as_ref().filter(|_| !record.is_success()) else { return };
        let happening = Happening {
            kind: EventKind::Failed,
            child: record.child.clone(),
            code: Some(record.code.name().to_owned()),
            times: 1,
            detail: record.message.chars().take(MOST_DETAIL).collect(),
            ..Happening::default()
        };
        self.tell(record.at, connection, happening);
    }

    /// A Child SA has other addresses.
    pub(super) fn moved(&mut self, now: Instant, handle: ChildHandle, ways: std::fmt::Arguments<'_>) {
        let Some(name) = self.names.get(&handle).cloned() else { return };
        let child = Some(name.child);
        let happening = Happening {
            kind: EventKind::Moved,
            child,
            times: 1,
            detail: ways.to_string(),
            ..Happening::default()
        };
        self.tell(now, &name.connection, happening);
    }

    /// A Child SA has left the data plane.
    pub(super) fn removed(&mut self, handle: ChildHandle, facts: &ChildFacts) {
        let Some(name) = self.names.remove(&handle) else { return };
        let past = self.child(&name);
        past.sas = past.sas.saturating_sub(1);
        past.traffic.add(&traffic(&facts.counters));
        add_drops(&mut past.drops, &drops(&facts.counters));
    }

    fn is_there(&mut self, handle: ChildHandle, name: ChildName) {
        self.child(&name).sas += 1;
        if let Some(before) = self.names.insert(handle, name) {
            let past = self.child(&before);
            past.sas = past.sas.saturating_sub(1);
        }
    }

    fn child(&mut self, name: &ChildName) -> &mut Past {
        self.children.entry(name.clone()).or_default()
    }

    fn happened(
        &mut self,
        now: Instant,
        sa: &IkeSaView,
        child: Option<&ChildSaView>,
        kind: EventKind,
        code: Option<String>,
        detail: String,
    ) {
        let child = child.map(|child| child.name.clone());
        self.tell(
            now,
            &sa.connection,
            Happening { at: Moment::default(), kind, child, code, times: 1, detail },
        );
    }

    fn tell(&mut self, now: Instant, connection: &str, happening: Happening) {
        let most = (MOST_EVENTS_IN_ALL / self.connections.len().max(1)).clamp(LEAST_EVENTS, MOST_EVENTS);
        let lately = self.connections.entry(connection.to_owned()).or_default();
        if let Some((at, last)) = lately.events.back_mut()
            && happening.kind == EventKind::Failed
            && (last.kind, &last.child, &last.code) == (EventKind::Failed, &happening.child, &happening.code)
        {
            (*at, last.times, last.detail) = (now, last.times + 1, happening.detail);
            return;
        }
        while lately.events.len() >= most {
            lately.events.pop_front();
        }
        lately.events.push_back((now, happening));
    }
}

pub(super) fn traffic(counters: &ChildCounters) -> Traffic {
    Traffic {
        packets_in: counters.packets_in,
        bytes_in: counters.bytes_in,
        packets_out: counters.packets_out,
        bytes_out: counters.bytes_out,
    }
}

pub(super) fn drops(counters: &ChildCounters) -> Vec<Count> {
    let occurred = counters.drops.iter().filter(|(_, count)| *count > 0);
    occurred.map(|(cause, count)| Count { cause: cause.as_str(), count: *count }).collect()
}

pub(super) fn add_drops(into: &mut Vec<Count>, more: &[Count]) {
    for Count { cause, count } in more {
        match into.iter_mut().find(|known| known.cause == *cause) {
            Some(known) => known.count += count,
            None => into.push(Count { cause, count: *count }),
        }
    }
}

fn peer(sa: &IkeSaView) -> String {
    let id = sa.remote_id.as_ref().map_or_else(|| "%any".to_owned(), ToString::to_string);
    format!("{id} at {}", sa.remote)
}
