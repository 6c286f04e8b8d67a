//! The wanted state: which children ought to be up, and when the next attempt to bring one up is due.
//!
//! It owns what the configuration and the operator want of every child and how patient it is with the peers. It never
//! brings anything up itself: it is told what happened and the time, and says which child to initiate now.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::time::{Duration, Instant};

use adit_crypto::Entropy;
use adit_ike::config::{Action, Child, Connection};
use adit_ike::{ChildHandle, DownReason, RequestId};

/// Longest wait between two attempts, before jitter.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What was up at least this long did not fail; what went down sooner counts as a failed attempt.
const SETTLED: Duration = Duration::from_secs(10);

/// At most so many attempts are young at a time: what a handshake costs at its begin must not come all at once.
const MOST_YOUNG: usize = 64;

/// How long an attempt is young. After that it only waits for a silent peer, and must not hold up the others.
const YOUNG: Duration = Duration::from_secs(5);

/// Keeps the wanted state.
pub(super) struct Reconciler {
    entropy: Box<dyn Entropy>,
    children: BTreeMap<ChildName, Entry>,
    /// When which child is due.
    due: BTreeSet<(Instant, ChildName)>,
    /// What is being brought up, by us or by an operator.
    requests: HashMap<RequestId, Vec<ChildName>>,
    /// Our own attempts that are young, the oldest first.
    young: VecDeque<(RequestId, Instant)>,
}

/// A child of a connection by their names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ChildName {
    pub(super) connection: String,
    pub(super) child: String,
}

impl ChildName {
    pub(super) fn new(connection: &str, child: &str) -> Self {
        Self { connection: connection.to_owned(), child: child.to_owned() }
    }
}

impl fmt::Display for ChildName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connection \"{}\", child \"{}\"", self.connection, self.child)
    }
}

#[derive(Debug)]
struct Entry {
    wish: Wish,
    /// What is wanted now: the wish, changed by what happened since.
    goal: Action,
    /// An operator took it down: nothing is wanted until an operator wants it up.
    held: bool,
    /// Its SAs, by whomever they were brought up.
    up: Vec<ChildHandle>,
    up_since: Instant,
    /// In a row.
    failures: u32,
    state: State,
}

/// What is wanted of a child, for whoever looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Ought it to be up now?
    pub(super) up: bool,
    /// When it is tried next.
    pub(super) next: Option<Instant>,
    /// Attempts that failed in a row.
    pub(super) failures: u32,
}

/// What the configuration says about a child.
#[derive(Debug, PartialEq)]
struct Wish {
    initial: Action,
    trap: bool,
    on_close: Action,
    on_dead_peer: Action,
    /// It goes when it has been idle for so long; zero means never.
    inactivity: Duration,
    tries: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It is up, or nothing is to be done about it.
    Idle,
    /// To be brought up by a packet, though not before.
    Trapped(Instant),
    /// To be brought up then.
    Waiting(Instant),
    /// Being brought up.
    Running(RequestId),
}

/// What happens to a child next, of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outlook {
    /// It is being brought up.
    UnderWay,
    /// It is brought up then.
    Attempt(Instant),
    /// A packet brings it up, though not before.
    Traffic(Instant),
    /// An operator took it down.
    Held,
    /// It failed as often as `keyingtries` allows.
    GivenUp,
    /// Nothing.
    Nothing,
}

impl Reconciler {
    /// Wants nothing.
    pub(super) fn new(entropy: Box<dyn Entropy>) -> Self {
        Self {
            entropy,
            children: BTreeMap::new(),
            due: BTreeSet::new(),
            requests: HashMap::new(),
            young: VecDeque::new(),
        }
    }

    /// Takes over a configuration. What is known about children that are `unchanged` stays as it is, attempts under
    /// way included; the others begin anew, and what is still up of them is nobody's.
    pub(super) fn configure(
        &mut self,
        now: Instant,
        connections: &[Connection],
        unchanged: impl Fn(&ChildName) -> bool,
    ) {
        let mut old = std::mem::take(&mut self.children);
        let mut rewished = Vec::new();
        for connection in connections {
            for child in &connection.children {
                let name = ChildName::new(&connection.name, &child.name);
                let wish = Wish::of(connection, child);
                let entry = match old.remove(&name) {
                    Some(entry) if unchanged(&name) && entry.wish == wish => entry,
                    // Other SAs are not wanted, but others at other times are.
                    Some(entry) if unchanged(&name) => {
                        rewished.push(name.clone());
                        Entry { goal: wish.initial, wish, held: false, ..entry }
                    }
                    _ => Entry {
                        goal: wish.initial,
                        wish,
                        held: false,
                        up: Vec::new(),
                        up_since: now,
                        failures: 0,
                        state: State::Idle,
                    },
                };
                self.children.insert(name, entry);
            }
        }
        let new = self.children.keys().filter(|name| !unchanged(name)).cloned();
        let names: Vec<ChildName> = new.chain(rewished).collect();
        self.due.retain(|(_, name)| self.children.contains_key(name) && unchanged(name));
        for children in self.requests.values_mut() {
            children.retain(|name| self.children.contains_key(name) && unchanged(name));
        }
        for name in names {
            let Some(entry) = self.children.get(&name) else { continue };
            let goal = entry.goal;
            if entry.up.is_empty() && !matches!(entry.state, State::Running(_)) {
                self.pursue(&name, goal, now);
            }
        }
    }

    /// Wants nothing any more.
    pub(super) fn stop(&mut self) {
        self.children.clear();
        self.due.clear();
    }

    /// When something is due next.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let (due, _) = self.due.first()?;
        match self.young.front() {
            Some((_, begun)) if self.young.len() >= MOST_YOUNG => Some((*due).max(*begun + YOUNG)),
            _ => Some(*due),
        }
    }

    /// A child to be brought up now. The caller begins or fails it before it asks again.
    pub(super) fn due(&mut self, now: Instant) -> Option<ChildName> {
        while self.young.pop_front_if(|(_, begun)| *begun + YOUNG <= now).is_some() {}
        let (due, name) = self.due.first()?;
        (*due <= now && self.young.len() < MOST_YOUNG).then(|| name.clone())
    }

    /// An attempt of ours is under way.
    pub(super) fn begun(&mut self, now: Instant, name: &ChildName, request: RequestId) {
        self.young.push_back((request, now));
        self.requests.insert(request, vec![name.clone()]);
        self.enter(name, State::Running(request));
    }

    /// An operator wants these up, and that is under way. What an earlier attempt is about to bring up stays with that.
    pub(super) fn ordered(&mut self, connection: Option<&str>, child: Option<&str>, request: RequestId) {
        let names = self.matching(connection, child);
        for name in &names {
            let Some(entry) = self.children.get_mut(name) else { continue };
            entry.held = false;
            if entry.goal == Action::None {
                entry.goal = entry.wish.initial;
            }
            if entry.up.is_empty() && !matches!(entry.state, State::Running(_)) {
                self.enter(name, State::Running(request));
            }
        }
        self.requests.insert(request, names);
    }

    /// An operator takes these down: they stay down until they are ordered up.
    pub(super) fn hold(&mut self, connection: Option<&str>, child: Option<&str>) {
        for name in self.matching(connection, child) {
            let Some(entry) = self.children.get_mut(&name) else { continue };
            (entry.held, entry.goal) = (true, Action::None);
            // What is being brought up is taken down as soon as it is up.
            if !matches!(entry.state, State::Running(_)) {
                self.enter(&name, State::Idle);
            }
        }
    }

    /// An attempt ended. For every child of it that is not up: when it is tried again, if it is.
    pub(super) fn done(
        &mut self,
        now: Instant,
        request: RequestId,
        success: bool,
    ) -> Vec<(ChildName, Option<Duration>)> {
        self.young.retain(|(young, _)| *young != request);
        let mut waits = Vec::new();
        for name in self.requests.remove(&request).unwrap_or_default() {
            let Some(entry) = self.children.get(&name) else { continue };
            if entry.state != State::Running(request) {
                continue;
            }
            if !entry.up.is_empty() || entry.held || (success && entry.goal == Action::None) {
                self.enter(&name, State::Idle);
            } else {
                let wait = self.failed(now, &name);
                waits.push((name, wait));
            }
        }
        waits
    }

    /// An attempt failed, or could not begin. Returns the time until the next, if there is one.
    pub(super) fn failed(&mut self, now: Instant, name: &ChildName) -> Option<Duration> {
        let wait = self.wait(name);
        let entry = self.children.get_mut(name)?;
        entry.failures += 1;
        if entry.wish.tries != 0 && entry.failures >= entry.wish.tries && entry.goal == Action::Start {
            entry.goal = if entry.wish.trap { Action::Trap } else { Action::None };
        }
        let goal = entry.goal;
        self.pursue(name, goal, now + wait);
        (goal == Action::Start).then_some(wait)
    }

    /// A child is up. `false` if an operator did not want that any more.
    pub(super) fn up(&mut self, now: Instant, name: &ChildName, handle: ChildHandle) -> bool {
        let Some(entry) = self.children.get_mut(name) else { return true };
        if entry.up.is_empty() {
            entry.up_since = now;
        }
        entry.up.push(handle);
        let running = matches!(entry.state, State::Running(_));
        let wanted = !(entry.held && running);
        if !running {
            self.enter(name, State::Idle);
        }
        wanted
    }

    /// After how long without traffic a child is to go; zero means never.
    pub(super) fn inactivity(&self, name: &ChildName) -> Duration {
        self.children.get(name).map_or(Duration::ZERO, |entry| entry.wish.inactivity)
    }

    /// The SAs of a child that are up.
    pub(super) fn sas(&self, name: &ChildName) -> &[ChildHandle] {
        self.children.get(name).map_or(&[], |entry| &entry.up)
    }

    /// A Child SA has taken the place of another.
    pub(super) fn rekeyed(&mut self, name: &ChildName, old: ChildHandle, new: ChildHandle) {
        let Some(entry) = self.children.get_mut(name) else { return };
        if let Some(handle) = entry.up.iter_mut().find(|handle| **handle == old) {
            *handle = new;
        }
    }

    /// A child is down. Returns the time until it is tried again, if that is due to happen by itself.
    pub(super) fn down(
        &mut self,
        now: Instant,
        name: &ChildName,
        handle: ChildHandle,
        reason: DownReason,
    ) -> Option<Duration> {
        let entry = self.children.get_mut(name)?;
        let known = entry.up.len();
        entry.up.retain(|up| *up != handle);
        if entry.up.len() == known || !entry.up.is_empty() || entry.state != State::Idle {
            return None;
        }
        let wish = &entry.wish;
        let by_trap = if wish.trap { Action::Trap } else { Action::None };
        entry.goal = match reason {
            _ if entry.held => Action::None,
            DownReason::DeletedByPeer => wish.on_close,
            DownReason::PeerDead => wish.on_dead_peer,
            // Nobody held it: it was idle for too long.
            DownReason::DeletedByUs if !wish.inactivity.is_zero() => Action::None,
            DownReason::DeletedByUs
            | DownReason::Failed
            | DownReason::DataPlane
            | DownReason::Expired
            | DownReason::Replaced
            | DownReason::Reauthenticated => wish.initial,
        };
        if entry.goal == Action::None && !entry.held {
            entry.goal = by_trap;
        }
        let goal = entry.goal;
        let settled =
            now.saturating_duration_since(entry.up_since) >= SETTLED || reason == DownReason::DeletedByUs;
        let wait = if settled {
            entry.failures = 0;
            self.moment()
        } else {
            let wait = self.wait(name);
            if let Some(entry) = self.children.get_mut(name) {
                entry.failures += 1;
            }
            wait
        };
        // The next packet need not wait for a peer that did nothing wrong.
        let patient = goal == Action::Start || !settled;
        self.pursue(name, goal, if patient { now + wait } else { now });
        (goal == Action::Start).then_some(wait)
    }

    /// There is a packet for a child that is down. Is it brought up, now or as soon as its peer may be asked again?
    pub(super) fn acquire(&mut self, now: Instant, name: &ChildName) -> bool {
        let Some(Entry { state: State::Trapped(earliest), .. }) = self.children.get(name) else {
            return false;
        };
        let at = now.max(*earliest);
        self.enter(name, State::Waiting(at));
        true
    }

    /// The network has changed: what failed may work now.
    pub(super) fn hurry(&mut self, now: Instant) {
        let failed = |name: &ChildName| self.children.get(name).is_some_and(|entry| entry.failures > 0);
        let names: Vec<ChildName> =
            self.due.iter().map(|(_, name)| name).filter(|name| failed(name)).cloned().collect();
        for name in names {
            let at = now + self.moment();
            if let Some(entry) = self.children.get_mut(&name) {
                entry.failures = entry.failures.min(1);
                if matches!(entry.state, State::Waiting(until) if until > at) {
                    self.enter(&name, State::Waiting(at));
                }
            }
        }
    }

    /// What is wanted of a child now, and what is done about it.
    pub(super) fn wanted(&self, name: &ChildName) -> Wanted {
        let Some(entry) = self.children.get(name) else { return Wanted::default() };
        let next = match entry.state {
            State::Waiting(at) if !entry.held => Some(at),
            _ => None,
        };
        let up = entry.goal == Action::Start && !entry.held;
        Wanted { up, next, failures: entry.failures }
    }

    /// Is it a child that is configured?
    pub(super) fn knows(&self, name: &ChildName) -> bool {
        self.children.contains_key(name)
    }

    /// Has a connection any such child?
    pub(super) fn knows_any(&self, connection: &str) -> bool {
        let first = self.children.range(ChildName::new(connection, "")..).next();
        first.is_some_and(|(name, _)| name.connection == connection)
    }

    /// What happens to a child next.
    pub(super) fn outlook(&self, name: &ChildName) -> Outlook {
        match self.children.get(name) {
            Some(Entry { state: State::Running(_), .. }) => Outlook::UnderWay,
            Some(Entry { held: true, .. }) => Outlook::Held,
            Some(Entry { state: State::Waiting(at), .. }) => Outlook::Attempt(*at),
            Some(Entry { state: State::Trapped(at), .. }) => Outlook::Traffic(*at),
            Some(Entry { failures, wish, .. }) if wish.tries != 0 && *failures >= wish.tries => {
                Outlook::GivenUp
            }
            _ => Outlook::Nothing,
        }
    }

    fn matching(&self, connection: Option<&str>, child: Option<&str>) -> Vec<ChildName> {
        let fits = |name: &&ChildName| {
            connection.is_none_or(|wanted| wanted == name.connection)
                && child.is_none_or(|wanted| wanted == name.child)
        };
        self.children.keys().filter(fits).cloned().collect()
    }

    /// Does what is wanted of a child from then on.
    fn pursue(&mut self, name: &ChildName, goal: Action, at: Instant) {
        let state = match goal {
            Action::None => State::Idle,
            Action::Trap => State::Trapped(at),
            Action::Start => State::Waiting(at),
        };
        self.enter(name, state);
    }

    /// The one place where a child changes its state.
    fn enter(&mut self, name: &ChildName, state: State) {
        let Some(entry) = self.children.get_mut(name) else { return };
        if let State::Waiting(until) = entry.state {
            self.due.remove(&(until, name.clone()));
        }
        if let State::Waiting(until) = state {
            self.due.insert((until, name.clone()));
        }
        entry.state = state;
    }

    /// 1 s, 2, 4, ... 60, each with a quarter of jitter, so that gateways that were cut off together do not come back
    /// together.
    fn wait(&mut self, name: &ChildName) -> Duration {
        let failures = self.children.get(name).map_or(0, |entry| entry.failures);
        let wait = Duration::from_secs(1 << failures.min(6)).min(LONGEST_WAIT);
        wait.mul_f64(0.75 + self.random() / 2.0)
    }

    /// Up to a second: what went down together does not come back together.
    fn moment(&mut self) -> Duration {
        Duration::from_secs(1).mul_f64(self.random())
    }

    /// From 0 to 1.
    fn random(&mut self) -> f64 {
        let mut octets = [0; 2];
        self.entropy.fill(&mut octets);
        f64::from(u16::from_be_bytes(octets)) / f64::from(u16::MAX)
    }
}

impl Wish {
    fn of(connection: &Connection, child: &Child) -> Self {
        Self {
            initial: match (child.start, child.trap) {
                (true, _) => Action::Start,
                (false, true) => Action::Trap,
                (false, false) => Action::None,
            },
            trap: child.trap,
            on_close: child.on_close,
            on_dead_peer: child.on_dead_peer,
            inactivity: child.inactivity,
            tries: connection.tries,
        }
    }
}

#[cfg(test)]
mod tests {
    use adit_wire::esp::Mode;

    use super::*;

    /// Entropy in the middle of its range: every wait is its nominal length.
    struct Half;

    impl Entropy for Half {
        fn fill(&mut self, out: &mut [u8]) {
            out.fill(0x80);
        }
    }

    const START: Child = wanting(true, false, Action::Start, Action::Start);
    const TRAP: Child = wanting(false, true, Action::Trap, Action::Trap);
    const NOTHING: Child = wanting(false, false, Action::None, Action::None);

    const fn wanting(start: bool, trap: bool, on_close: Action, on_dead_peer: Action) -> Child {
        Child {
            name: String::new(),
            proposals: Vec::new(),
            local_ts: Vec::new(),
            remote_ts: Vec::new(),
            mode: Mode::Tunnel,
            priority: 0,
            strict_mode: false,
            replay_window: 0,
            resources: None,
            limits: adit_ike::config::ChildLimits {
                time: adit_ike::config::Lifetime {
                    soft: Duration::ZERO,
                    hard: Duration::ZERO,
                    jitter: Duration::ZERO,
                },
                bytes: adit_ike::config::Volume { soft: 0, hard: 0, jitter: 0 },
                packets: adit_ike::config::Volume { soft: 0, hard: 0, jitter: 0 },
            },
            inactivity: Duration::ZERO,
            start,
            trap,
            on_close,
            on_dead_peer,
        }
    }

    fn connection(name: &str, children: Vec<Child>) -> Connection {
        Connection { name: name.into(), children, ..Connection::default() }
    }

    struct World {
        reconciler: Reconciler,
        now: Instant,
        last: u64,
    }

    impl World {
        fn new(connections: &[Connection]) -> Self {
            let now = Instant::now();
            let mut reconciler = Reconciler::new(Box::new(Half));
            reconciler.configure(now, connections, |_| false);
            Self { reconciler, now, last: 0 }
        }

        fn one(child: Child) -> (Self, ChildName) {
            let child = Child { name: "net".into(), ..child };
            (Self::new(&[connection("gw", vec![child])]), ChildName::new("gw", "net"))
        }

        fn pass(&mut self, time: Duration) {
            self.now += time;
        }

        /// Begins everything that is due now.
        fn begin(&mut self) -> Vec<(ChildName, RequestId)> {
            let mut begun = Vec::new();
            while let Some(name) = self.reconciler.due(self.now) {
                self.last += 1;
                let request = RequestId(self.last);
                self.reconciler.begun(self.now, &name, request);
                begun.push((name, request));
            }
            begun
        }

        /// Brings it up by the attempt that is due.
        fn come_up(&mut self) -> ChildHandle {
            let [(name, request)] = self.begin().try_into().unwrap();
            self.last += 1;
            let handle = ChildHandle(self.last);
            assert!(self.reconciler.up(self.now, &name, handle));
            assert!(self.reconciler.done(self.now, request, true).is_empty());
            handle
        }

        fn nothing_is_due(&mut self) {
            assert_eq!(self.reconciler.poll_timeout(), None);
            self.pass(Duration::from_secs(3600));
            assert!(self.begin().is_empty());
        }
    }

    #[test]
    fn attempts_back_off_until_one_succeeds() {
        let (mut world, name) = World::one(START);
        for nominal in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
            let [(_, request)] = world.begin().try_into().unwrap();
            assert_eq!(world.reconciler.poll_timeout(), None, "never two attempts at once");
            world.pass(Duration::from_secs(165));
            let waits = world.reconciler.done(world.now, request, false);
            let [(of, Some(wait))] = &waits[..] else { panic!("{waits:?}") };
            assert!((wait.as_secs_f64() / f64::from(nominal) - 1.0).abs() < 0.01, "{wait:?} for {nominal}");
            assert_eq!((of, world.reconciler.poll_timeout()), (&name, Some(world.now + *wait)));
            assert_eq!(world.reconciler.due(world.now), None);
            world.pass(*wait);
        }
        let handle = world.come_up();
        world.pass(SETTLED);
        // After it has been up, patience begins anew.
        let wait = world.reconciler.down(world.now, &name, handle, DownReason::PeerDead).unwrap();
        assert!(wait <= Duration::from_secs(1));
        world.pass(wait);
        let [(_, request)] = world.begin().try_into().unwrap();
        let waits = world.reconciler.done(world.now, request, false);
        assert!(waits[0].1.unwrap() < Duration::from_secs(2));
    }

    #[test]
    fn the_real_jitter_stays_within_a_quarter() {
        let mut reconciler = Reconciler::new(Box::new(adit_crypto::SystemEntropy));
        let child = Child { name: "net".into(), ..START };
        reconciler.configure(Instant::now(), &[connection("gw", vec![child])], |_| false);
        let name = ChildName::new("gw", "net");
        let waits: BTreeSet<Duration> = (0..100).map(|_| reconciler.wait(&name)).collect();
        assert!(waits.iter().all(|wait| (0.75..=1.25).contains(&wait.as_secs_f64())), "{waits:?}");
        assert!(waits.len() > 50);
    }

    #[test]
    fn what_follows_a_down_is_what_the_file_says() {
        use DownReason::{DataPlane, DeletedByPeer, DeletedByUs, Failed, PeerDead};
        #[derive(Debug, PartialEq)]
        enum Then {
            Nothing,
            Again,
            ByPacket,
        }
        let cases = [
            (START, DeletedByPeer, Then::Again),
            (START, PeerDead, Then::Again),
            (START, Failed, Then::Again),
            (START, DataPlane, Then::Again),
            (START, DeletedByUs, Then::Again),
            (Child { inactivity: Duration::from_secs(60), ..START }, DeletedByUs, Then::Nothing),
            (Child { inactivity: Duration::from_secs(60), ..TRAP }, DeletedByUs, Then::ByPacket),
            (wanting(true, false, Action::None, Action::Start), DeletedByPeer, Then::Nothing),
            (wanting(true, false, Action::None, Action::Start), PeerDead, Then::Again),
            (wanting(true, false, Action::Start, Action::Trap), PeerDead, Then::ByPacket),
            (wanting(true, true, Action::None, Action::None), DeletedByPeer, Then::ByPacket),
            (TRAP, DeletedByPeer, Then::ByPacket),
            (TRAP, DataPlane, Then::ByPacket),
            (NOTHING, DeletedByPeer, Then::Nothing),
            (NOTHING, PeerDead, Then::Nothing),
            (wanting(false, false, Action::Start, Action::None), DeletedByPeer, Then::Again),
            (wanting(false, false, Action::Start, Action::None), PeerDead, Then::Nothing),
        ];
        for (child, reason, expected) in cases {
            let about = format!("{child:?} {reason:?}");
            let (mut world, name) = World::one(child);
            let handle = ChildHandle(77);
            if let Some(own) = world.reconciler.due(world.now) {
                world.reconciler.begun(world.now, &own, RequestId(1));
            }
            world.reconciler.up(world.now, &name, handle);
            world.reconciler.done(world.now, RequestId(1), true);
            assert_eq!(world.reconciler.poll_timeout(), None, "{about}");
            world.pass(Duration::from_secs(60));
            world.reconciler.down(world.now, &name, handle, reason);
            let then = if world.reconciler.poll_timeout().is_some() {
                Then::Again
            } else if world.reconciler.acquire(world.now, &name) {
                assert_eq!(world.reconciler.due(world.now), Some(name));
                Then::ByPacket
            } else {
                Then::Nothing
            };
            assert_eq!(then, expected, "{about}");
        }
    }

    #[test]
    fn a_trap_is_sprung_once_and_is_a_trap_again() {
        let (mut world, name) = World::one(TRAP);
        assert!(world.begin().is_empty(), "not before there is a packet");
        assert!(world.reconciler.acquire(world.now, &name));
        assert!(!world.reconciler.acquire(world.now, &name), "one is enough");
        let handle = world.come_up();
        assert!(!world.reconciler.acquire(world.now, &name), "it is up");
        world.pass(SETTLED);
        world.reconciler.down(world.now, &name, handle, DownReason::DeletedByPeer);
        world.nothing_is_due();
        assert!(world.reconciler.acquire(world.now, &name));
        // A peer that does not answer is not dialled for every packet.
        for nominal in [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0] {
            let [(_, request)] = world.begin().try_into().unwrap();
            world.reconciler.done(world.now, request, false);
            world.pass(Duration::from_millis(100));
            assert!(world.begin().is_empty(), "without another packet it rests");
            assert!(world.reconciler.acquire(world.now, &name));
            let wait = world.reconciler.poll_timeout().unwrap() - world.now;
            assert!((wait.as_secs_f64() - nominal + 0.1).abs() < 0.01 * nominal, "{wait:?} for {nominal}");
            world.pass(wait);
        }
    }

    #[test]
    fn what_an_operator_takes_down_stays_down() {
        let down: [(Option<&str>, Option<&str>, bool); 5] = [
            (Some("gw"), None, true),
            (None, Some("net"), true),
            (Some("gw"), Some("net"), true),
            (Some("other"), Some("net"), false),
            (Some("gw"), Some("other"), false),
        ];
        for (connection, child, fits) in down {
            let (mut world, name) = World::one(START);
            let handle = world.come_up();
            world.reconciler.hold(connection, child);
            world.reconciler.down(world.now, &name, handle, DownReason::DeletedByUs);
            assert_eq!(world.reconciler.poll_timeout().is_none(), fits, "{connection:?} {child:?}");
        }
        // Neither the peer nor a packet changes that; an operator does.
        let (mut world, name) = World::one(START);
        world.reconciler.hold(Some("gw"), None);
        world.nothing_is_due();
        assert!(!world.reconciler.acquire(world.now, &name));
        assert!(world.reconciler.up(world.now, &name, ChildHandle(1)), "the peer may bring it up");
        world.reconciler.down(world.now, &name, ChildHandle(1), DownReason::DeletedByPeer);
        world.nothing_is_due();
        world.reconciler.ordered(Some("gw"), Some("net"), RequestId(100));
        assert_eq!(world.reconciler.poll_timeout(), None, "the operator's attempt is the only one");
        world.reconciler.done(world.now, RequestId(100), false);
        assert!(world.reconciler.poll_timeout().is_some(), "it is wanted again");
    }

    #[test]
    fn taken_down_while_it_is_brought_up() {
        let (mut world, name) = World::one(START);
        let [(_, request)] = world.begin().try_into().unwrap();
        world.reconciler.hold(None, Some("net"));
        assert!(!world.reconciler.up(world.now, &name, ChildHandle(1)), "nobody wants it any more");
        assert!(world.reconciler.done(world.now, request, true).is_empty());
        world.reconciler.down(world.now, &name, ChildHandle(1), DownReason::DeletedByUs);
        world.nothing_is_due();

        let (mut world, _) = World::one(START);
        let [(_, request)] = world.begin().try_into().unwrap();
        world.reconciler.hold(None, Some("net"));
        world.reconciler.done(world.now, request, false);
        world.nothing_is_due();
    }

    #[test]
    fn no_duplicates() {
        let (mut world, name) = World::one(START);
        // The peer was first.
        world.reconciler.up(world.now, &name, ChildHandle(1));
        assert!(world.begin().is_empty());
        // Both were: one of the two SAs going away is no reason to do anything, and neither is its rekeying.
        world.reconciler.up(world.now, &name, ChildHandle(2));
        world.reconciler.rekeyed(&name, ChildHandle(1), ChildHandle(3));
        assert_eq!(world.reconciler.down(world.now, &name, ChildHandle(1), DownReason::DeletedByPeer), None);
        assert_eq!(world.reconciler.down(world.now, &name, ChildHandle(2), DownReason::DeletedByPeer), None);
        world.nothing_is_due();
        assert!(world.reconciler.down(world.now, &name, ChildHandle(3), DownReason::DeletedByPeer).is_some());
        // An operator's attempt stands in for ours.
        world.reconciler.ordered(Some("gw"), None, RequestId(50));
        world.nothing_is_due();
        // What came up and went down while the attempt was under way is seen when that ends.
        world.reconciler.up(world.now, &name, ChildHandle(4));
        world.reconciler.down(world.now, &name, ChildHandle(4), DownReason::DataPlane);
        world.nothing_is_due();
        assert_eq!(world.reconciler.done(world.now, RequestId(50), true).len(), 1);
        assert!(world.reconciler.poll_timeout().is_some());
    }

    #[test]
    fn a_peer_that_always_deletes_is_not_pestered() {
        let (mut world, name) = World::one(START);
        for nominal in [1, 2, 4, 8, 16, 32, 60, 60] {
            let handle = world.come_up();
            let wait = world.reconciler.down(world.now, &name, handle, DownReason::DeletedByPeer).unwrap();
            assert!((wait.as_secs_f64() / f64::from(nominal) - 1.0).abs() < 0.01, "{wait:?} for {nominal}");
            world.pass(wait);
        }
    }

    #[test]
    fn tries_are_counted() {
        let child = Child { name: "net".into(), ..START };
        let mut world = World::new(&[Connection { tries: 2, ..connection("gw", vec![child]) }]);
        for last in [false, true] {
            let [(_, request)] = world.begin().try_into().unwrap();
            let waits = world.reconciler.done(world.now, request, false);
            assert_eq!(waits[0].1.is_none(), last);
            world.pass(Duration::from_secs(2));
        }
        world.nothing_is_due();
    }

    #[test]
    fn a_mass_failure_makes_no_storm() {
        let many =
            |index: usize| connection(&format!("gw{index}"), vec![Child { name: "net".into(), ..START }]);
        let connections: Vec<Connection> = (0..200).map(many).collect();
        let mut world = World::new(&connections);
        let first = world.begin();
        assert_eq!(first.len(), MOST_YOUNG);
        assert_eq!(world.reconciler.poll_timeout(), Some(world.now + YOUNG));
        // Whoever answers makes room; whoever is silent does so after a while.
        for (name, request) in first.iter().take(10) {
            world.reconciler.up(world.now, name, ChildHandle(request.0));
            world.reconciler.done(world.now, *request, true);
        }
        assert_eq!(world.begin().len(), 10);
        world.pass(YOUNG);
        assert_eq!(world.begin().len(), MOST_YOUNG);

        let mut reconciler = Reconciler::new(Box::new(adit_crypto::SystemEntropy));
        reconciler.configure(world.now, &connections, |_| false);
        for (index, connection) in (0..).zip(&connections) {
            reconciler.up(world.now, &ChildName::new(&connection.name, "net"), ChildHandle(index));
        }
        let later = world.now + SETTLED;
        let waits: BTreeSet<Duration> = (0..)
            .zip(&connections)
            .filter_map(|(index, connection)| {
                let name = ChildName::new(&connection.name, "net");
                reconciler.down(later, &name, ChildHandle(index), DownReason::PeerDead)
            })
            .collect();
        assert!(waits.len() > 150 && waits.iter().all(|wait| *wait <= Duration::from_secs(1)));
    }

    #[test]
    fn a_reload_touches_only_what_changed() {
        let child = |name: &str, child: Child| Child { name: name.into(), ..child };
        let before = [
            connection("a", vec![child("up", START), child("trying", START), child("down", START)]),
            connection("b", vec![child("old", START), child("gone", START)]),
        ];
        let mut world = World::new(&before);
        let name = ChildName::new;
        let mut requests: HashMap<ChildName, RequestId> = world.begin().into_iter().collect();
        let mut done = |world: &mut World, name: &ChildName, success| {
            world.reconciler.done(world.now, requests.remove(name).unwrap(), success)
        };
        for (index, name) in (1..).zip([name("a", "up"), name("b", "old")]) {
            world.reconciler.up(world.now, &name, ChildHandle(index));
            done(&mut world, &name, true);
        }
        world.reconciler.hold(Some("a"), Some("down"));
        done(&mut world, &name("a", "down"), false);

        let after = [
            connection("a", vec![child("up", START), child("trying", START), child("down", START)]),
            connection("b", vec![child("old", START), child("new", START)]),
        ];
        world.reconciler.configure(world.now, &after, |name| name.connection == "a");
        let begun: Vec<ChildName> = world.begin().into_iter().map(|(name, _)| name).collect();
        assert_eq!(begun, [name("b", "new"), name("b", "old")], "what changed begins anew, and nothing else");
        // What is reported of what is gone, or was brought up under the old configuration, changes nothing.
        assert_eq!(
            world.reconciler.down(world.now, &name("b", "old"), ChildHandle(2), DownReason::DeletedByUs),
            None
        );
        assert!(done(&mut world, &name("b", "gone"), false).is_empty());
        assert_eq!(world.reconciler.poll_timeout(), None);
        // The attempt in mid-handshake goes on and counts.
        assert_eq!(done(&mut world, &name("a", "trying"), false).len(), 1);
        // What stays as it is but is wanted otherwise is neither taken down nor brought up twice.
        let up = name("a", "up");
        let after = [connection("a", vec![child("up", TRAP), child("trying", TRAP), child("down", TRAP)])];
        world.reconciler.configure(world.now, &after, |_| true);
        assert_eq!(world.reconciler.poll_timeout(), None);
        assert!(!world.reconciler.acquire(world.now, &up));
        assert!(world.reconciler.acquire(world.now, &name("a", "down")), "a changed wish ends an operator's");
        world.pass(SETTLED);
        world.reconciler.down(world.now, &up, ChildHandle(1), DownReason::DeletedByPeer);
        assert!(world.reconciler.acquire(world.now, &up));
    }

    #[test]
    fn a_new_path_is_tried_soon() {
        let (mut world, _) = World::one(START);
        for _ in 0..7 {
            let [(_, request)] = world.begin().try_into().unwrap();
            world.reconciler.done(world.now, request, false);
            world.now = world.reconciler.poll_timeout().unwrap();
        }
        let [(_, request)] = world.begin().try_into().unwrap();
        world.reconciler.done(world.now, request, false);
        assert!(world.reconciler.poll_timeout().unwrap() > world.now + Duration::from_secs(59));
        world.reconciler.hurry(world.now);
        assert!(world.reconciler.poll_timeout().unwrap() <= world.now + Duration::from_secs(1));
        assert_eq!(world.reconciler.due.len(), 1);
    }
}
