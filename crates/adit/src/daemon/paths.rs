//! How large packets get through to the peers: the search for black holes (RFC 8899), and the limits that are in force.
//!
//! The gateway sends probes, and each says of one size whether it passes. This decides which size is next and when to look
//! again; what is found becomes a limit of the data plane where the configuration asks for it (`probe_path`), and else only a
//! finding. Two probes in a row have to fail before a size is given up: loss alone lowers nothing.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use adit_ike::{ChildHandle, CommandError, IkeSaHandle, PathProbe, Probed};

use super::Daemon;

/// How long a finding is believed: the way may have become wider, or narrower (RFC 8899 5.1.1, PMTU_RAISE_TIMER).
const LIFETIME: Duration = Duration::from_secs(600);

/// Once the peer is there, or somewhere else, what is asked first is not how large packets may be.
const SETTLE: Duration = Duration::from_millis(200);

/// When to look again if nothing was learnt, as on a way that changed meanwhile.
const AGAIN: Duration = Duration::from_secs(10);

/// Between two sendings of a probe: several round trips, but not too short and not too long.
const PACE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(1));

/// What is tried, as far as it is less than what the kernel believes: what tunnels and access lines leave of larger packets.
const SIZES: [u16; 22] = [
    576, 800, 1000, 1200, 1280, 1300, 1320, 1340, 1360, 1380, 1400, 1420, 1440, 1460, 1472, 1480, 1492, 1500,
    2000, 4000, 8000, 9000,
];

/// The least that every path carries: IPv4 (RFC 791 3.1, in practice) and IPv6 (RFC 8200 5).
const FLOORS: (u16, u16) = (576, 1280);

/// The search for the largest packet that passes on one path.
#[derive(Clone, Debug)]
pub(super) struct Search {
    /// Candidates, rising; the last is what the kernel believes.
    sizes: Vec<u16>,
    /// Candidates below this place are known to pass, or are as small as can be.
    passes: usize,
    /// From this place on they do not.
    blocked: usize,
    /// What is asked for now has failed once.
    doubted: bool,
    pace: Option<Duration>,
    round_trip: Option<Duration>,
}

/// What a search has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Send a probe of this size.
    Probe(u16, Duration),
    /// So much passes.
    Done(u16),
}

impl Search {
    /// A search below what the kernel believes.
    pub(super) fn new(believed: usize, v6: bool) -> Self {
        let floor = if v6 { FLOORS.1 } else { FLOORS.0 };
        let most = SIZES.last().copied().unwrap_or(floor);
        let believed = u16::try_from(believed).unwrap_or(most).clamp(floor, most);
        let mut sizes: Vec<u16> = SIZES.into_iter().filter(|size| (floor..believed).contains(size)).collect();
        sizes.push(believed);
        let blocked = sizes.len();
        Self { sizes, passes: 0, blocked, doubted: false, pace: None, round_trip: None }
    }

    /// What the kernel believes, as far as it is tried.
    pub(super) fn believed(&self) -> u16 {
        self.sizes.last().copied().unwrap_or_default()
    }

    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    /// What to do now. First of all comes a small probe, for the round trip; then what the kernel believes; then the middle.
    pub(super) fn step(&self) -> Step {
        let Some(pace) = self.pace else { return Step::Probe(0, PACE.1) };
        match self.place() {
            Some(place) => Step::Probe(self.sizes.get(place).copied().unwrap_or_default(), pace),
            // The floor is what is left if nothing was seen to pass.
            None => Step::Done(self.sizes.get(self.passes.saturating_sub(1)).copied().unwrap_or_default()),
        }
    }

    fn place(&self) -> Option<usize> {
        let last = self.sizes.len() - 1;
        match (self.passes, self.blocked) {
            (passes, blocked) if passes >= blocked => None,
            (_, blocked) if blocked > last => Some(last),
            (passes, blocked) => Some(passes + (blocked - passes) / 2),
        }
    }

    /// A probe has ended. `false`: nothing can be learnt.
    pub(super) fn learn(&mut self, result: Probed) -> bool {
        if self.pace.is_none() {
            if let Probed::Passed(round_trip) = result {
                self.round_trip = round_trip;
                self.pace = Some(round_trip.map_or(PACE.1, |time| (time * 4).clamp(PACE.0, PACE.1)));
            }
            return self.pace.is_some();
        }
        let Some(place) = self.place() else { return true };
        match result {
            Probed::Passed(_) => {
                self.passes = place + 1;
                self.doubted = false;
            }
            Probed::Blocked if !self.doubted => self.doubted = true,
            Probed::Blocked => {
                self.blocked = place;
                self.doubted = false;
            }
            Probed::Abandoned => return false,
        }
        true
    }
}

/// The paths of IKE SAs.
#[derive(Debug, Default)]
pub(super) struct Paths {
    /// The connections whose paths are probed.
    wanted: HashSet<String>,
    watched: HashMap<IkeSaHandle, Watch>,
    due: BTreeSet<(Instant, IkeSaHandle)>,
    /// Searches under way.
    searches: HashMap<IkeSaHandle, Search>,
    limits: HashMap<IpAddr, u16>,
    /// What was found where nothing heeds it, and when: what the kernel believes, and what passes.
    holes: HashMap<IkeSaHandle, (Instant, (u16, u16))>,
}

#[derive(Clone, Copy, Debug)]
struct Watch {
    remote: IpAddr,
    due: Instant,
}

/// A search has ended.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) ike_sa: IkeSaHandle,
    /// What the kernel believes, what passes, and how long there and back takes; `None` if nothing was learnt.
    pub(super) sizes: Option<(u16, u16, Option<Duration>)>,
}

impl Paths {
    /// When something is due next.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    fn watch(&mut self, ike_sa: IkeSaHandle, watch: Watch) {
        self.forget(ike_sa);
        self.watched.insert(ike_sa, watch);
        self.due.insert((watch.due, ike_sa));
    }

    fn forget(&mut self, ike_sa: IkeSaHandle) -> Option<Watch> {
        let watch = self.watched.remove(&ike_sa)?;
        self.due.remove(&(watch.due, ike_sa));
        Some(watch)
    }

    /// The limit that is in force towards a peer.
    pub(super) fn limit(&self, remote: IpAddr) -> Option<u16> {
        self.limits.get(&remote).copied()
    }

    /// What was found about the path of an IKE SA of late, and nothing heeds.
    pub(super) fn hole(&self, now: Instant, ike_sa: IkeSaHandle) -> Option<(u16, u16)> {
        let (at, hole) = self.holes.get(&ike_sa)?;
        (now.saturating_duration_since(*at) < LIFETIME).then_some(*hole)
    }
}

impl Daemon {
    /// Which connections' paths are probed; the others are left to the kernel.
    pub(super) fn configure_paths(&mut self, now: Instant) {
        let wanted = self.connections.iter().filter(|connection| connection.probe_path);
        self.paths.wanted = wanted.map(|connection| connection.name.clone()).collect();
        if self.paths.wanted.is_empty() && self.paths.watched.is_empty() {
            return;
        }
        let mut before = std::mem::take(&mut self.paths.watched);
        self.paths.due.clear();
        for sa in self.gateway.ike_sas() {
            if self.paths.wanted.contains(&sa.connection) && !sa.children.is_empty() {
                let due = before.remove(&sa.handle).map_or(now + SETTLE, |watch| watch.due);
                self.paths.watch(sa.handle, Watch { remote: sa.remote.ip(), due });
            }
        }
        before.into_values().for_each(|watch| self.lift_limit(watch.remote));
    }

    /// A child is up: the path of its IKE SA is looked at soon, if that is wanted.
    pub(super) fn path_is_new(
        &mut self,
        now: Instant,
        connection: &str,
        ike_sa: IkeSaHandle,
        remote: IpAddr,
    ) {
        if self.paths.wanted.contains(connection) && !self.paths.watched.contains_key(&ike_sa) {
            self.paths.watch(ike_sa, Watch { remote, due: now + SETTLE });
        }
    }

    /// A child has another way to its peer.
    pub(super) fn path_has_moved(&mut self, now: Instant, child: ChildHandle, remote: IpAddr) {
        let Some(ike_sa) = self.gateway.ike_sa_of(child) else { return };
        if let Some(before) = self.paths.forget(ike_sa) {
            // From another address of ours it is another way as well.
            self.paths.watch(ike_sa, Watch { remote, due: now + SETTLE });
            self.lift_limit(before.remote);
        }
    }

    /// An IKE SA is gone.
    pub(super) fn path_is_gone(&mut self, ike_sa: IkeSaHandle) {
        self.paths.searches.remove(&ike_sa);
        self.paths.holes.remove(&ike_sa);
        if let Some(watch) = self.paths.forget(ike_sa) {
            self.lift_limit(watch.remote);
        }
    }

    /// Lifts a limit that no IKE SA stands for any more.
    fn lift_limit(&mut self, remote: IpAddr) {
        let Paths { watched, limits, .. } = &mut self.paths;
        if limits.contains_key(&remote) && !watched.values().any(|watch| watch.remote == remote) {
            limits.remove(&remote);
            self.backend.set_path_limit(remote, None);
        }
    }

    /// Looks at the paths that are due.
    pub(super) fn look_at_paths(&mut self, now: Instant) {
        while let Some((due, ike_sa)) = self.paths.due.first().copied()
            && due <= now
        {
            let Some(watch) = self.paths.forget(ike_sa) else { return };
            self.paths.watch(ike_sa, Watch { due: now + LIFETIME, ..watch });
            if let Err(error) = self.search_path(now, ike_sa, watch.remote) {
                tracing::debug!(ike_sa = ike_sa.0, %error, "the path is not probed");
            }
        }
    }

    /// Begins to search what passes on the path of an IKE SA, unless that is under way.
    pub(super) fn search_path(
        &mut self,
        now: Instant,
        ike_sa: IkeSaHandle,
        remote: IpAddr,
    ) -> Result<(), String> {
        if self.paths.searches.contains_key(&ike_sa) {
            return Ok(());
        }
        let believed = self.wire.path_mtu(remote).map_err(|error| format!("no way to {remote}: {error}"))?;
        let search = Search::new(believed, remote.is_ipv6());
        self.go_on_searching(now, ike_sa, search).map_err(|error| error.to_string())
    }

    fn go_on_searching(
        &mut self,
        now: Instant,
        ike_sa: IkeSaHandle,
        search: Search,
    ) -> Result<(), CommandError> {
        match search.step() {
            Step::Probe(size, pace) => {
                // Whether large probes can be sent is known before the first small one.
                let probe = if size == 0 { self.gateway.may_probe(ike_sa) } else { Ok(()) };
                probe.and_then(|()| self.gateway.probe(now, ike_sa, size, pace))?;
                self.paths.searches.insert(ike_sa, search);
            }
            Step::Done(passes) => {
                let sizes = (search.believed(), passes, search.round_trip());
                self.path_found(now, Found { ike_sa, sizes: Some(sizes) });
            }
        }
        Ok(())
    }

    /// A probe has ended.
    pub(super) fn path_probed(&mut self, now: Instant, probe: PathProbe) {
        let PathProbe { ike_sa, size, result, .. } = probe;
        tracing::debug!(ike_sa = ike_sa.0, size, ?result, "path probed");
        // A test asks on the same IKE SA whether the peer lives: what a search has not asked for teaches it nothing.
        let asked = |search: &&mut Search| matches!(search.step(), Step::Probe(asked, _) if asked == size);
        let Some(mut search) = self.paths.searches.get_mut(&ike_sa).filter(asked).cloned() else {
            return self.test_answered(now, probe);
        };
        self.paths.searches.remove(&ike_sa);
        let goes_on = search.learn(result) && self.go_on_searching(now, ike_sa, search).is_ok();
        if !goes_on {
            self.path_found(now, Found { ike_sa, sizes: None });
        }
    }

    fn path_found(&mut self, now: Instant, found: Found) {
        let ike_sa = found.ike_sa;
        if found.sizes.is_none()
            && let Some(watch) = self.paths.watched.get(&ike_sa).copied()
        {
            self.paths.watch(ike_sa, Watch { due: watch.due.min(now + AGAIN), ..watch });
        }
        if let Some((believed, passes, _)) = found.sizes {
            let hole = (passes < believed).then_some((believed, passes));
            match self.paths.watched.get(&ike_sa).copied() {
                Some(Watch { remote, .. }) => {
                    let limit = hole.map(|(_, passes)| passes);
                    if limit != self.paths.limit(remote) {
                        match limit {
                            Some(limit) => {
                                tracing::info!(
                                    "packets of more than {limit} octets do not reach {remote}, and nobody says so: none is \
                                     sent any more"
                                );
                                self.paths.limits.insert(remote, limit);
                            }
                            None => {
                                tracing::info!("packets of {believed} octets reach {remote} again");
                                self.paths.limits.remove(&remote);
                            }
                        }
                        self.backend.set_path_limit(remote, limit);
                    }
                    self.paths.holes.remove(&ike_sa);
                }
                None => match hole {
                    Some(hole) => drop(self.paths.holes.insert(ike_sa, (now, hole))),
                    None => drop(self.paths.holes.remove(&ike_sa)),
                },
            }
        }
        self.test_found_path(now, &found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches on a path that carries `largest` octets; returns what it found, and the probes it took.
    fn search(believed: usize, v6: bool, largest: u16) -> (u16, Vec<u16>) {
        let mut search = Search::new(believed, v6);
        let mut probes = Vec::new();
        loop {
            match search.step() {
                Step::Done(size) => return (size, probes),
                Step::Probe(size, _) => {
                    assert!(probes.len() < 20, "{probes:?}");
                    probes.push(size);
                    let round_trip = Duration::from_millis(10);
                    let result =
                        if size <= largest { Probed::Passed(Some(round_trip)) } else { Probed::Blocked };
                    assert!(search.learn(result));
                }
            }
        }
    }

    #[test]
    fn a_healthy_path_takes_two_probes() {
        assert_eq!(search(1500, false, 1500), (1500, vec![0, 1500]));
        assert_eq!(search(1280, true, 1500), (1280, vec![0, 1280]));
        assert_eq!(
            search(65_535, false, 9000),
            (9000, vec![0, 9000]),
            "loopback: IKE messages are not that large"
        );
        assert_eq!(search(68, false, 1500).0, 576);
    }

    #[test]
    fn a_hole_is_found_to_the_candidate_below() {
        for (largest, found) in [
            (1499, 1492),
            (1492, 1492),
            (1399, 1380),
            (1300, 1300),
            (1299, 1280),
            (600, 576),
            (576, 576),
            (100, 576),
        ] {
            let (size, probes) = search(1500, false, largest);
            assert_eq!(size, found, "{largest}: {probes:?}");
            // What does not pass is asked twice, in a row.
            for size in probes.iter().filter(|size| **size > largest) {
                assert_eq!(probes.iter().filter(|other| *other == size).count(), 2, "{size}: {probes:?}");
            }
        }
        assert_eq!(search(1500, true, 1100).0, 1280, "no IPv6 path carries less");
        assert_eq!(search(9000, false, 1500).0, 1500);
    }

    #[test]
    fn one_loss_lowers_nothing() {
        let mut search = Search::new(1500, false);
        assert!(search.learn(Probed::Passed(None)));
        assert_eq!(
            search.step(),
            Step::Probe(1500, PACE.1),
            "a slow start: nothing is known of the round trip"
        );
        assert!(search.learn(Probed::Blocked));
        assert_eq!(search.step(), Step::Probe(1500, PACE.1));
        assert!(search.learn(Probed::Passed(None)));
        assert_eq!(search.step(), Step::Done(1500));
    }

    #[test]
    fn a_peer_that_is_gone_teaches_nothing() {
        let mut search = Search::new(1500, false);
        assert!(!search.clone().learn(Probed::Abandoned));
        assert!(search.learn(Probed::Passed(Some(Duration::from_millis(1)))));
        assert!(!search.learn(Probed::Abandoned));
        assert_eq!(search.round_trip(), Some(Duration::from_millis(1)));
        assert_eq!(search.believed(), 1500);
    }
}
