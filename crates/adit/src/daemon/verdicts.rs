//! Up, and does it carry traffic? What the counters of a child say about each direction, in a code, a sentence and a step
//! to take.
//!
//! It owns the judgement and the few samples that it needs; it reads no counter, no clock and no file. A child that
//! carries what only one side sends, and nobody answers, looks as one whose answers are lost.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use adit_esp::Drop;
use adit_ike::IkeSaHandle;
use adit_net::ChildCounters;

use super::reconciler::ChildName;

/// An answer that is on its way is not missing.
const ANSWER: Duration = Duration::from_secs(2);

/// What was counted longer ago says nothing about now.
const MEMORY: Duration = Duration::from_secs(120);

/// Without any packet for so long a child is idle.
const IDLE: Duration = Duration::from_secs(60);

/// One direction has gone on for so long without the other: something is missing.
const ONE_SIDED: Duration = Duration::from_secs(10);

/// So few packets may go without an answer, or be refused.
const FEW: u64 = 3;

/// Who looks within so short a time of each other is told the same.
const SAME: Duration = Duration::from_millis(250);

/// Samples kept for each child.
const SAMPLES: usize = 6;

/// The samples of all children that are up.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    /// By the IKE SA: with another one everything begins anew.
    children: HashMap<IkeSaHandle, HashMap<ChildName, Watch>>,
}

/// What is known of one child so far.
#[derive(Debug, Default)]
struct Watch {
    /// The oldest first.
    samples: VecDeque<Sample>,
    /// Has an authentic packet ever arrived on an SA of its?
    heard: bool,
    /// Who looks at the same time at the same sees the same.
    last: Option<(Sample, Verdict)>,
}

/// What the SAs of a child have carried together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) at: Instant,
    counts: Counts,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    packets_in: u64,
    packets_out: u64,
    unauthentic: u64,
    replayed: u64,
    misplaced: u64,
    heard: Option<Instant>,
    last_in: Option<Instant>,
    last_out: Option<Instant>,
}

/// What else matters for a verdict.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// When the oldest of its SAs was installed.
    pub(super) installed: Instant,
    /// Does ESP travel in UDP?
    pub(super) encap: bool,
    /// Has anything authentic arrived on any SA of its IKE SA?
    pub(super) heard: bool,
    /// The IP version, 4 or 6, of hosts behind us for whom this machine does not forward.
    pub(super) forwards_not: Option<u8>,
    /// What the kernel believes of the way to the peer and how much passes, if that is less and nothing heeds it.
    pub(super) hole: Option<(u16, u16)>,
}

/// Whether a child carries traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    Flowing,
    Idle,
    NothingEnters,
    NothingReturns,
    EspFiltered,
    FailsAuthentication,
    FailsReplay,
    FailsSelector,
    PathMtu,
}

impl Code {
    /// A stable name.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Flowing => "flowing",
            Self::Idle => "idle",
            Self::NothingEnters => "nothing-enters",
            Self::NothingReturns => "nothing-returns",
            Self::EspFiltered => "esp-filtered",
            Self::FailsAuthentication => "fails-authentication",
            Self::FailsReplay => "fails-replay",
            Self::FailsSelector => "fails-selector",
            Self::PathMtu => "path-mtu",
        }
    }

    /// Is something wrong?
    pub(super) fn is_failing(self) -> bool {
        self.direction().is_some()
    }

    /// What is wrong is with what comes `in` from the peer, or goes `out` to it.
    pub(super) fn direction(self) -> Option<&'static str> {
        match self {
            Self::Flowing | Self::Idle => None,
            Self::NothingEnters | Self::PathMtu => Some("out"),
            Self::NothingReturns
            | Self::EspFiltered
            | Self::FailsAuthentication
            | Self::FailsReplay
            | Self::FailsSelector => Some("in"),
        }
    }
}

/// A judgement for an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) code: Code,
    /// What is seen.
    pub(super) message: String,
    /// What to do about it; empty if nothing is wrong.
    pub(super) step: String,
}

impl Verdict {
    pub(super) fn new(code: Code, message: impl Into<String>, step: impl Into<String>) -> Self {
        Self { code, message: message.into(), step: step.into() }
    }
}

impl Sample {
    /// Adds up what the SAs of a child have carried.
    pub(super) fn of<'c>(at: Instant, sas: impl IntoIterator<Item = &'c ChildCounters>) -> Self {
        let mut counts = Counts::default();
        for sa in sas {
            counts.packets_in += sa.packets_in;
            counts.packets_out += sa.packets_out;
            for (cause, count) in &sa.drops {
                match cause {
                    Drop::Authentication => counts.unauthentic += count,
                    Drop::Replayed | Drop::TooOld => counts.replayed += count,
                    Drop::Selector => counts.misplaced += count,
                    _ => {}
                }
            }
            counts.heard = counts.heard.max(sa.heard);
            counts.last_in = counts.last_in.max(sa.last_in);
            counts.last_out = counts.last_out.max(sa.last_out);
        }
        Self { at, counts }
    }

    pub(super) fn has_heard(&self) -> bool {
        self.counts.heard.is_some()
    }

    fn is_behind(&self, other: &Self) -> bool {
        self.counts.packets_in < other.counts.packets_in || self.counts.packets_out < other.counts.packets_out
    }
}

impl Verdicts {
    /// An IKE SA is gone.
    pub(super) fn forget(&mut self, ike_sa: IkeSaHandle) {
        self.children.remove(&ike_sa);
    }

    /// A child is gone for good.
    pub(super) fn forget_child(&mut self, ike_sa: IkeSaHandle, name: &ChildName) {
        if let Some(children) = self.children.get_mut(&ike_sa) {
            children.remove(name);
        }
    }

    /// Has an authentic packet arrived on this child, now or earlier?
    pub(super) fn has_heard(&self, ike_sa: IkeSaHandle, name: &ChildName) -> bool {
        self.children.get(&ike_sa).and_then(|all| all.get(name)).is_some_and(|watch| watch.heard)
    }

    /// Judges a child by a new sample and those before it.
    pub(super) fn look(
        &mut self,
        (ike_sa, name): (IkeSaHandle, &ChildName),
        sample: Sample,
        facts: &Facts,
    ) -> Verdict {
        let watch = self.children.entry(ike_sa).or_default().entry(name.clone()).or_default();
        watch.heard |= sample.has_heard();
        if let Some((last, verdict)) = &watch.last
            && sample.counts == last.counts
            && sample.at.saturating_duration_since(last.at) < SAME
        {
            return verdict.clone();
        }
        // With new keys it counts from zero.
        if watch.samples.back().is_some_and(|last| sample.is_behind(last)) {
            watch.samples.clear();
        }
        watch.samples.retain(|old| sample.at.saturating_duration_since(old.at) <= MEMORY);
        // Where it began is known without a look.
        if watch.samples.is_empty() && sample.at.saturating_duration_since(facts.installed) <= MEMORY {
            watch.samples.push_back(Sample { at: facts.installed, counts: Counts::default() });
        }
        let verdict = judge(&sample, watch.samples.make_contiguous(), facts);
        let last = watch.samples.back().map(|last| last.at);
        if last.is_none_or(|last| sample.at.saturating_duration_since(last) >= ANSWER) {
            if watch.samples.len() >= SAMPLES {
                watch.samples.pop_front();
            }
            watch.samples.push_back(sample);
        }
        watch.last = Some((sample, verdict.clone()));
        verdict
    }
}

/// Judges a child by what its SAs have carried, now and before (the oldest first).
pub(super) fn judge(now: &Sample, before: &[Sample], facts: &Facts) -> Verdict {
    let counts = &now.counts;
    let age = |at: Instant| now.at.saturating_duration_since(at);
    let start = before.first().map_or_else(Counts::default, |sample| sample.counts);
    let (got, sent) = (counts.packets_in - start.packets_in, counts.packets_out - start.packets_out);

    // What arrives and is refused says most.
    let refused = [
        (Code::FailsAuthentication, counts.unauthentic.saturating_sub(start.unauthentic)),
        (Code::FailsSelector, counts.misplaced.saturating_sub(start.misplaced)),
        (Code::FailsReplay, counts.replayed.saturating_sub(start.replayed)),
    ];
    if let Some((code, count)) = refused.into_iter().max_by_key(|(_, count)| *count)
        && count >= FEW
        && count >= got
    {
        return refusal(code, count);
    }

    // What had its answer coming: all that was counted a while ago. At the first look that is its whole life, or else when each
    // direction was used last.
    let first = before.len() <= 1;
    let settled = before.iter().skip(1).rev().find(|sample| age(sample.at) >= ANSWER);
    let (settled_got, settled_sent) = match settled.map(|sample| sample.counts) {
        Some(then) => (then.packets_in - start.packets_in, then.packets_out - start.packets_out),
        None if start == Counts::default() && age(facts.installed) >= ANSWER => (got, sent),
        None => (0, 0),
    };
    let lags = |this: Option<Instant>, that: Option<Instant>| match (this, that) {
        (Some(this), Some(that)) => {
            first && age(that) < IDLE && that.saturating_duration_since(this) >= ONE_SIDED
        }
        _ => false,
    };
    if got == 0 && settled_sent >= FEW || lags(counts.last_in, counts.last_out) && sent >= FEW {
        return unanswered(counts, facts, now.at);
    }
    let last = counts.last_in.max(counts.last_out);
    if counts.packets_out == 0
        && let Some(version) = facts.forwards_not
    {
        return Verdict::new(
            Code::NothingEnters,
            format!("this machine does not forward IPv{version}: no packet from behind it enters the tunnel"),
            if version == 4 {
                "switch forwarding on: sysctl -w net.ipv4.ip_forward=1"
            } else {
                "switch forwarding on: sysctl -w net.ipv6.conf.all.forwarding=1"
            },
        );
    }
    if sent == 0 && settled_got >= FEW || lags(counts.last_out, counts.last_in) && got >= FEW {
        return Verdict::new(
            Code::NothingEnters,
            "packets arrive from the peer, and none from our side enters the tunnel",
            "look at the hosts behind this gateway: their route to the peer's networks must lead here, and a firewall on \
             the way must let their answers pass",
        );
    }
    if let Some((believed, passes)) = facts.hole {
        return hole(believed, passes);
    }
    match last {
        Some(last) if age(last) < IDLE && counts.packets_in > 0 && counts.packets_out > 0 => {
            Verdict::new(Code::Flowing, "packets leave, and packets arrive", "")
        }
        Some(last) => {
            Verdict::new(Code::Idle, format!("the last packet was {} s ago", age(last).as_secs()), "")
        }
        None => Verdict::new(Code::Idle, "it has carried no packet yet", ""),
    }
}

fn unanswered(counts: &Counts, facts: &Facts, now: Instant) -> Verdict {
    let sent = counts.packets_out;
    if let Some(last) = counts.last_in {
        let ago = now.saturating_duration_since(last).as_secs();
        return Verdict::new(
            Code::NothingReturns,
            format!("packets leave, and for {ago} s nothing has come back"),
            "look at the peer's side: its hosts' route to our networks, its firewall, and whether its own SAs are the same",
        );
    }
    silent(facts.heard, facts.encap, sent)
}

/// So many packets left, and nothing has arrived for them, or ever if nothing was `heard` on the IKE SA.
pub(super) fn silent(heard: bool, encap: bool, sent: u64) -> Verdict {
    if !heard && !encap {
        return Verdict::new(
            Code::EspFiltered,
            format!(
                "IKE answers, {sent} packets left, and no ESP packet (IP protocol 50) has ever arrived: something on the \
                 way drops them"
            ),
            "set `encap = yes` on this connection, which puts ESP into UDP, or let IP protocol 50 through on the way, both \
             directions; if nothing returns then either, look at the routes behind the peer",
        );
    }
    Verdict::new(
        Code::NothingReturns,
        format!("{sent} packets left, and none has come back"),
        "look at the peer's side: its hosts' route to our networks must lead to its gateway, and no firewall or address \
         translation there may take these packets",
    )
}

fn refusal(code: Code, count: u64) -> Verdict {
    let (message, step) = match code {
        Code::FailsAuthentication => (
            format!("{count} packets arrived whose integrity check fails"),
            "compare the ESP algorithms that both sides believe in (an old peer may cut HMAC-SHA2 short), and whether \
             something on the way changes packets; `rekey` makes new keys",
        ),
        Code::FailsReplay => (
            format!("{count} packets arrived that were replays, or too late for the replay window"),
            "enlarge `replay_window` of the child if the way reorders packets, look for a device that repeats them, and \
             whether two peers use one SA",
        ),
        _ => (
            format!("{count} packets arrived whose addresses, protocol or ports the child is not for"),
            "compare `local_ts` and `remote_ts` with what the peer sends: it may have other networks in mind, or translate \
             addresses",
        ),
    };
    Verdict::new(code, message, step)
}

/// More than `passes` octets do not get through, and nobody says so.
pub(super) fn hole(believed: u16, passes: u16) -> Verdict {
    Verdict::new(
        Code::PathMtu,
        format!(
            "packets of {believed} octets, as the system believes in, do not get through to the peer and nobody says so; \
             {passes} do"
        ),
        "set `probe_path = yes` on this connection, or the MTU of the interface towards the peer to what passes",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Child {
        start: Instant,
        now: Instant,
        verdicts: Verdicts,
        counters: ChildCounters,
        facts: Facts,
    }

    impl Child {
        fn new() -> Self {
            let start = Instant::now();
            let facts =
                Facts { installed: start, encap: false, heard: false, forwards_not: None, hole: None };
            let counters = ChildCounters::default();
            Self { start, now: start, verdicts: Verdicts::default(), counters, facts }
        }

        fn pass(&mut self, seconds: u64) -> &mut Self {
            self.now += Duration::from_secs(seconds);
            self
        }

        fn send(&mut self, packets: u64) -> &mut Self {
            self.counters.packets_out += packets;
            self.counters.last_out = Some(self.now);
            self
        }

        fn receive(&mut self, packets: u64) -> &mut Self {
            self.counters.packets_in += packets;
            self.counters.last_in = Some(self.now);
            self.counters.heard = Some(self.now);
            self
        }

        fn refuse(&mut self, cause: Drop, packets: u64) -> &mut Self {
            match self.counters.drops.iter_mut().find(|(known, _)| *known == cause) {
                Some((_, count)) => *count += packets,
                None => self.counters.drops.push((cause, packets)),
            }
            self
        }

        fn verdict(&mut self) -> Verdict {
            let (ike_sa, name) = (IkeSaHandle(1), ChildName::new("gw", "net"));
            let sample = Sample::of(self.now, [&self.counters]);
            self.facts.heard = sample.has_heard() || self.verdicts.has_heard(ike_sa, &name);
            self.verdicts.look((ike_sa, &name), sample, &self.facts)
        }

        fn code(&mut self) -> Code {
            let verdict = self.verdict();
            assert_eq!(verdict.code.is_failing(), !verdict.step.is_empty(), "{verdict:?}");
            verdict.code
        }
    }

    #[test]
    fn healthy_and_idle() {
        let mut child = Child::new();
        assert_eq!(child.code(), Code::Idle);
        assert_eq!(child.pass(5).send(10).receive(10).code(), Code::Flowing);
        assert_eq!(child.pass(5).send(10).receive(3).code(), Code::Flowing);
        // The last word is mostly ours, and then there is silence.
        assert_eq!(child.pass(30).code(), Code::Flowing);
        assert_eq!(child.pass(40).code(), Code::Idle);
        assert_eq!(child.pass(4000).code(), Code::Idle);
        // Back from idleness, the answer not yet there.
        let mut child = Child::new();
        child.send(10).receive(10).code();
        for _ in 0..10 {
            child.pass(20).code();
        }
        assert_eq!(child.send(40).code(), Code::Flowing);
        assert_eq!(child.pass(1).receive(40).code(), Code::Flowing);
    }

    #[test]
    fn nothing_ever_arrives() {
        let mut child = Child::new();
        child.pass(1).send(10);
        assert!(!child.code().is_failing(), "the answer may be on its way");
        assert_eq!(child.pass(4).send(4).code(), Code::EspFiltered);
        assert_eq!(child.code(), Code::EspFiltered, "the same at once, and again");
        assert_eq!(child.pass(1).code(), Code::EspFiltered);
        child.facts.encap = true;
        assert_eq!(child.pass(4).send(4).code(), Code::NothingReturns);
        // Two packets without an answer are no proof.
        let mut child = Child::new();
        assert_eq!(child.send(2).pass(20).code(), Code::Idle);
        // Another child of the same IKE SA hears something: protocol 50 is not the trouble.
        let mut child = Child::new();
        child.pass(10).send(10);
        let facts = Facts { heard: true, ..child.facts.clone() };
        assert_eq!(judge(&Sample::of(child.now, [&child.counters]), &[], &facts).code, Code::NothingReturns);
    }

    #[test]
    fn nothing_arrives_any_more() {
        let mut child = Child::new();
        assert_eq!(child.send(100).receive(100).pass(3).code(), Code::Flowing);
        for _ in 0..40 {
            child.pass(3).send(3).code();
        }
        assert_eq!(child.code(), Code::NothingReturns);
        // It has new keys, and the trouble goes on: what was heard is not forgotten.
        child.counters = ChildCounters::default();
        child.facts.installed = child.now;
        child.pass(1).send(2).code();
        child.pass(5).send(3).code();
        child.pass(5).send(3);
        assert_eq!(child.code(), Code::NothingReturns);
        assert_eq!(child.receive(5).code(), Code::Flowing);
        // At the first look by how long ago it was heard.
        let mut child = Child::new();
        child.send(10).receive(10).pass(300).send(10);
        assert_eq!(child.code(), Code::NothingReturns);
    }

    #[test]
    fn nothing_enters() {
        let mut child = Child::new();
        child.pass(10).receive(5);
        assert_eq!(child.code(), Code::NothingEnters);
        assert_eq!(child.send(5).code(), Code::Flowing);
        let mut child = Child::new();
        child.facts.forwards_not = Some(4);
        let verdict = child.verdict();
        assert_eq!(verdict.code, Code::NothingEnters);
        assert!(verdict.step.contains("net.ipv4.ip_forward"), "{verdict:?}");
        // The gateway itself talks: forwarding is not needed for that.
        assert_eq!(child.pass(1).send(1).receive(1).code(), Code::Flowing);
    }

    #[test]
    fn what_arrives_is_refused() {
        for (cause, code) in [
            (Drop::Authentication, Code::FailsAuthentication),
            (Drop::Replayed, Code::FailsReplay),
            (Drop::TooOld, Code::FailsReplay),
            (Drop::Selector, Code::FailsSelector),
        ] {
            let mut child = Child::new();
            assert_eq!(child.pass(5).send(9).receive(9).refuse(cause, 2).code(), Code::Flowing);
            assert_eq!(child.pass(5).send(9).refuse(cause, 9).code(), code);
            // One bad packet in a hundred is none of it.
            let mut child = Child::new();
            assert_eq!(child.pass(5).send(100).receive(100).refuse(cause, 9).code(), Code::Flowing);
        }
        // What says nothing about the tunnel.
        let mut child = Child::new();
        assert_eq!(child.pass(5).send(9).receive(1).refuse(Drop::Congestion, 9).code(), Code::Flowing);
    }

    #[test]
    fn a_hole_in_the_path() {
        let mut child = Child::new();
        child.facts.hole = Some((1500, 1300));
        let verdict = child.pass(5).send(9).receive(9).verdict();
        assert_eq!(verdict.code, Code::PathMtu);
        assert!(verdict.message.contains("1500") && verdict.message.contains("1300"), "{verdict:?}");
    }

    #[test]
    fn what_is_down_is_forgotten() {
        let mut child = Child::new();
        child.send(10).receive(10).code();
        let name = ChildName::new("gw", "net");
        assert!(child.start <= child.now && child.verdicts.has_heard(IkeSaHandle(1), &name));
        // A new IKE SA proves the way of ESP for itself.
        assert!(!child.verdicts.has_heard(IkeSaHandle(2), &name));
        child.verdicts.forget_child(IkeSaHandle(1), &name);
        assert!(!child.verdicts.has_heard(IkeSaHandle(1), &name));
        child.send(10).receive(10).code();
        child.verdicts.forget(IkeSaHandle(1));
        assert!(child.verdicts.children.is_empty());
    }
}
