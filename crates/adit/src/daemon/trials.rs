//! The command `test`: tries what a tunnel is for, step by step, and says of each what came of it.
//!
//! It owns the order of the steps and the words about them. What it learns comes from the gateway, from the search of the path,
//! from counters and from an echo through the tunnel; it decides nothing for anybody else.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use adit_ike::{
    ChildSaState, CommandError, IkeSaHandle, IkeSaState, IkeSaView, PathProbe, Probed, RequestId,
    TerminateTarget,
};

use super::Daemon;
use super::echo::Echoes;
use super::health::{ChildHealth, own_addresses};
use super::paths::Found;
use super::reconciler::ChildName;
use super::verdicts::{self, Code, Verdict};
use crate::control::server::Reply;
use crate::control::vici::Message;

/// Trials at a time.
const MOST: usize = 16;

/// A step that takes longer has failed; a search takes many probes.
const PATIENCE: Duration = Duration::from_secs(15);
const SEARCH_PATIENCE: Duration = Duration::from_secs(60);

/// For how long traffic is looked at.
const TRAFFIC: Duration = Duration::from_millis(2500);

/// The trials under way.
#[derive(Default)]
pub(super) struct Trials(Vec<Trial>);

/// What somebody wants to know of a connection.
struct Trial {
    reply: Reply,
    connection: String,
    ike_sa: IkeSaHandle,
    /// Where its peer is.
    remote: IpAddr,
    /// Where to send echoes, if not to where the peer's gateway is likely to be.
    to: Option<IpAddr>,
    steps: VecDeque<Step>,
    /// The step under way.
    step: Step,
    awaited: Awaited,
    begun: Instant,
    until: Instant,
    failed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Liveness,
    Path,
    Traffic(String),
    RekeyChild(String),
    RekeyIke,
    Delete(String),
    Establish(String),
}

enum Awaited {
    Nothing,
    Probe,
    Path,
    Request(RequestId),
    Echoes(Option<Echoes>),
}

/// What came of a step.
struct Outcome {
    finding: Finding,
    code: String,
    message: String,
    next: String,
}

/// It is as it ought to be, it could not be found out, or it is not.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Finding {
    Pass,
    Note,
    Fail,
}

impl Outcome {
    fn new(finding: Finding, code: &str, message: impl Into<String>, next: &str) -> Self {
        Self { finding, code: code.to_owned(), message: message.into(), next: next.to_owned() }
    }

    fn pass(message: impl Into<String>) -> Self {
        Self::new(Finding::Pass, "ok", message, "")
    }

    fn of(finding: Finding, verdict: Verdict) -> Self {
        let Verdict { code, message, step } = verdict;
        Self { finding, code: code.as_str().to_owned(), message, next: step }
    }
}

impl Step {
    fn name(&self) -> &'static str {
        match self {
            Self::Liveness => "liveness",
            Self::Path => "path",
            Self::Traffic(_) => "traffic",
            Self::RekeyChild(_) => "rekey-child",
            Self::RekeyIke => "rekey-ike",
            Self::Delete(_) => "delete",
            Self::Establish(_) => "establish",
        }
    }

    fn child(&self) -> Option<&str> {
        match self {
            Self::Traffic(child) | Self::RekeyChild(child) | Self::Delete(child) | Self::Establish(child) => {
                Some(child)
            }
            _ => None,
        }
    }
}

impl Trial {
    /// Tells what came of the step under way.
    fn tell(&mut self, now: Instant, outcome: Outcome) {
        let mut message = Message::new();
        message.put("step", self.step.name()).put("ike", &self.connection);
        if let Some(child) = self.step.child() {
            message.put("child", child);
        }
        message.put(
            "result",
            match outcome.finding {
                Finding::Pass => "pass",
                Finding::Note => "note",
                Finding::Fail => "fail",
            },
        );
        message.put("code", &outcome.code).put("message", &outcome.message);
        if !outcome.next.is_empty() {
            message.put("next", &outcome.next);
        }
        message.put_display("ms", now.saturating_duration_since(self.begun).as_millis());
        self.reply.event("test", message);
        self.awaited = Awaited::Nothing;
        if outcome.finding == Finding::Fail {
            self.failed = true;
            // What does not come up again must not be taken down, and who does not answer will not answer more.
            match &self.step {
                Step::Liveness => self.steps.clear(),
                Step::RekeyChild(child) => {
                    let spared =
                        |step: &Step| matches!(step, Step::Delete(c) | Step::Establish(c) if c == child);
                    self.steps.retain(|step| !spared(step));
                }
                Step::RekeyIke | Step::Delete(_) => {
                    self.steps.retain(|step| !matches!(step, Step::Delete(_) | Step::Establish(_)));
                }
                _ => {}
            }
        }
    }
}

impl Trials {
    /// When something is due next.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let due = |trial: &Trial| match &trial.awaited {
            Awaited::Echoes(Some(echoes)) => trial.until.min(echoes.due()),
            _ => trial.until,
        };
        self.0.iter().map(due).min()
    }

    fn take(&mut self, which: impl Fn(&Trial) -> bool) -> Option<Trial> {
        let place = self.0.iter().position(which)?;
        Some(self.0.swap_remove(place))
    }
}

/// `test`: an event for each step, and at the end whether all passed.
pub(super) fn test(daemon: &mut Daemon, now: Instant, arguments: &Message, reply: Reply) {
    let Some(connection) = arguments.text("ike").map(|name| name.into_owned()) else {
        return reply.failure("missing: `ike`");
    };
    let wanted = arguments.text("child").map(|name| name.into_owned());
    let Ok(to) = arguments.text("ping").map(|text| text.parse::<IpAddr>()).transpose() else {
        return reply.failure("`ping` is no address");
    };
    if daemon.trials.0.len() >= MOST {
        return reply.failure("too many tests are under way");
    }
    let is_up = |sa: &IkeSaView| {
        sa.connection == connection && matches!(sa.state, IkeSaState::Established | IkeSaState::Rekeying)
    };
    let Some(sa) = daemon.gateway.ike_sas().filter(is_up).last() else {
        return reply.failure(format_args!("connection \"{connection}\" is not up: `adit explain` says why"));
    };
    let mut children: Vec<String> = sa
        .children
        .iter()
        .filter(|child| matches!(child.state, ChildSaState::Installed | ChildSaState::Rekeying))
        .map(|child| child.name.clone())
        .filter(|name| wanted.as_ref().is_none_or(|wanted| wanted == name))
        .collect();
    children.sort();
    children.dedup();
    if children.is_empty() {
        let name = wanted.map_or_else(|| "no child".to_owned(), |name| format!("child \"{name}\""));
        return reply
            .failure(format_args!("connection \"{connection}\": {name} is up: `adit explain` says why"));
    }
    let mut steps = VecDeque::from([Step::Liveness, Step::Path]);
    steps.extend(children.iter().cloned().map(Step::Traffic));
    if arguments.flag("commission") {
        steps.extend(children.iter().cloned().map(Step::RekeyChild));
        steps.extend([Step::RekeyIke, Step::Liveness]);
        for child in children {
            steps.extend([Step::Delete(child.clone()), Step::Establish(child)]);
        }
    }
    let trial = Trial {
        reply,
        connection,
        ike_sa: sa.handle,
        remote: sa.remote.ip(),
        to,
        steps,
        step: Step::Liveness,
        awaited: Awaited::Nothing,
        begun: now,
        until: now,
        failed: false,
    };
    daemon.go_on_trying(now, trial);
}

impl Daemon {
    /// Begins the next step, and those after it as long as they end at once.
    fn go_on_trying(&mut self, now: Instant, mut trial: Trial) {
        loop {
            // Nobody looks any more, or there is nothing more to see. What was taken down comes up again all the same.
            let goes_on = |step: &Step| !trial.reply.is_closed() || matches!(step, Step::Establish(_));
            let next = trial.steps.pop_front().filter(goes_on);
            let Some(step) = next else {
                let mut answer = Message::new();
                answer.put("success", "yes").put("passed", if trial.failed { "no" } else { "yes" });
                return trial.reply.respond(answer);
            };
            trial.step = step;
            (trial.begun, trial.until) = (now, now + PATIENCE);
            match self.begin_step(now, &mut trial) {
                Ok(()) => return self.trials.0.push(trial),
                Err(outcome) => trial.tell(now, outcome),
            }
        }
    }

    /// Begins a step, or says what came of it already.
    fn begin_step(&mut self, now: Instant, trial: &mut Trial) -> Result<(), Outcome> {
        let target = |child: Option<&str>| TerminateTarget {
            connection: Some(trial.connection.clone()),
            child: child.map(str::to_owned),
            ike_sa: Some(trial.ike_sa),
            child_handle: None,
        };
        let failed = |error: CommandError| {
            Outcome::new(Finding::Fail, "failed", error.to_string(), "`adit status` says what is up now")
        };
        trial.awaited = match &trial.step {
            Step::Liveness => {
                let pace = Duration::from_secs(1);
                self.gateway.probe(now, trial.ike_sa, 0, pace).map_err(failed)?;
                Awaited::Probe
            }
            Step::Path => {
                trial.until = now + SEARCH_PATIENCE;
                self.search_path(now, trial.ike_sa, trial.remote)
                    .map_err(|why| Outcome::new(Finding::Note, "not-probed", why, ""))?;
                Awaited::Path
            }
            Step::Traffic(child) => {
                trial.until = now + TRAFFIC;
                // What there was before is what the end is compared with.
                let _ = self.health(now, &trial.connection);
                Awaited::Echoes(self.echoes(now, trial.ike_sa, child, trial.to)?)
            }
            Step::RekeyChild(child) => {
                let request = self.request_id();
                self.gateway.rekey(now, &target(Some(child)), request).map_err(failed)?;
                Awaited::Request(request)
            }
            Step::RekeyIke => {
                let request = self.request_id();
                self.gateway.rekey(now, &target(None), request).map_err(failed)?;
                Awaited::Request(request)
            }
            Step::Delete(child) => {
                let request = self.request_id();
                self.gateway.terminate(now, &target(Some(child)), request).map_err(failed)?;
                Awaited::Request(request)
            }
            Step::Establish(child) => {
                let (connection, child) = (Some(trial.connection.as_str()), Some(child.as_str()));
                let request = self.request_id();
                self.initiate(now, connection, child, request).map_err(failed)?;
                self.reconciler.ordered(connection, child, request);
                Awaited::Request(request)
            }
        };
        Ok(())
    }

    /// Echoes from an address of ours that the child is for, to one of the peer's side.
    fn echoes(
        &self,
        now: Instant,
        ike_sa: IkeSaHandle,
        child: &str,
        to: Option<IpAddr>,
    ) -> Result<Option<Echoes>, Outcome> {
        let sa = self.gateway.ike_sas().find(|sa| sa.handle == ike_sa);
        let sas = sa.into_iter().flat_map(|sa| sa.children).filter(|one| one.name == child);
        let (mut local, mut remote) = (Vec::new(), Vec::new());
        for one in sas {
            // Behind a translation our side's addresses are not those that were negotiated.
            let policy = self.installed.get(&one.handle).and_then(|id| self.policies.of_id(*id));
            let (ours, theirs) = policy.unwrap_or((one.local_ts, one.remote_ts));
            local.extend(ours);
            remote.extend(theirs);
        }
        let within = |selectors: &[adit_wire::ikev2::TrafficSelector], address: IpAddr| {
            selectors.iter().any(|selector| {
                selector.start.is_ipv4() == address.is_ipv4()
                    && (selector.start..=selector.end).contains(&address)
                    && [0, 1, 58].contains(&selector.protocol)
            })
        };
        if let Some(to) = to.filter(|to| !within(&remote, *to)) {
            return Err(Outcome::new(
                Finding::Note,
                "not-asked",
                format!("{to} is not on the peer's side of this child"),
                "",
            ));
        }
        let own: Vec<IpAddr> = own_addresses().into_iter().filter(|own| within(&local, *own)).collect();
        // In a network of the peer's the first address is its gateway's, mostly.
        let likely = || {
            remote.iter().filter(|selector| within(&remote, selector.start)).find_map(|selector| {
                let address =
                    if selector.start == selector.end { selector.start } else { first_host(selector.start)? };
                own.iter().any(|own| own.is_ipv4() == address.is_ipv4()).then_some(address)
            })
        };
        let Some(target) = to.or_else(likely) else { return Ok(None) };
        let Some(from) = own.iter().find(|own| own.is_ipv4() == target.is_ipv4()) else { return Ok(None) };
        match Echoes::new(now, *from, target) {
            Ok(echoes) => Ok(Some(echoes)),
            Err(error) => {
                tracing::debug!(%error, %from, %target, "no echo");
                Ok(None)
            }
        }
    }

    /// Does what time alone demands of trials.
    pub(super) fn try_on(&mut self, now: Instant) {
        for trial in &mut self.trials.0 {
            if let Awaited::Echoes(Some(echoes)) = &mut trial.awaited {
                echoes.go_on(now);
                if echoes.is_done() {
                    trial.until = now;
                }
            }
        }
        // What is being taken down is awaited even if nobody looks any more.
        let is_left = |trial: &Trial| trial.reply.is_closed() && !matches!(trial.step, Step::Delete(_));
        while let Some(mut trial) = self.trials.take(|trial| trial.until <= now || is_left(trial)) {
            let outcome = match std::mem::replace(&mut trial.awaited, Awaited::Nothing) {
                Awaited::Echoes(echoes) => self.traffic_seen(now, &trial, echoes),
                Awaited::Probe => Outcome::new(
                    Finding::Fail,
                    "timeout",
                    "the peer does not answer on the IKE SA",
                    "look whether the peer runs and UDP ports 500 and 4500 reach it; `dpd_delay` finds this out by itself",
                ),
                _ => Outcome::new(
                    Finding::Fail,
                    "timeout",
                    format!("not done after {} s", now.saturating_duration_since(trial.begun).as_secs()),
                    "look whether the peer answers: `adit test` without --commission",
                ),
            };
            trial.tell(now, outcome);
            self.go_on_trying(now, trial);
        }
    }

    /// What echoes and counters say together.
    fn traffic_seen(&mut self, now: Instant, trial: &Trial, echoes: Option<Echoes>) -> Outcome {
        let name = ChildName::new(&trial.connection, trial.step.child().unwrap_or_default());
        let found = self.health(now, &trial.connection).into_iter().find(|other| other.name == name);
        let Some(ChildHealth { verdict, heard, encap, .. }) = found else {
            return Outcome::new(
                Finding::Fail,
                "down",
                "the child went down meanwhile",
                "`adit explain` says why",
            );
        };
        // The path has had a step of its own.
        let fails = verdict.code.is_failing() && verdict.code != Code::PathMtu;
        let Some(echoes) = echoes else {
            return match verdict.code {
                Code::Idle => Outcome::new(
                    Finding::Note,
                    "idle",
                    format!(
                        "{}, and this gateway has no address of its own in the child's networks to ask from",
                        verdict.message
                    ),
                    "test while hosts talk",
                ),
                _ if fails => Outcome::of(Finding::Fail, verdict),
                Code::PathMtu => Outcome::of(Finding::Note, verdict),
                _ => Outcome::of(Finding::Pass, verdict),
            };
        };
        if let Some((times, sent, best)) = echoes.answered() {
            if fails {
                return Outcome::of(Finding::Fail, verdict);
            }
            let milliseconds = best.as_secs_f64() * 1000.0;
            return Outcome::pass(format!(
                "{} answers through the tunnel, {times} of {sent}, after {milliseconds:.1} ms",
                echoes.target()
            ));
        }
        let target = echoes.target();
        if fails {
            return Outcome::of(Finding::Fail, verdict);
        }
        let mut silent = verdicts::silent(heard, encap, echoes.sent());
        silent.message = format!("{target} does not answer through the tunnel: {}", silent.message);
        // Who was heard before answers in general; whether there is such a host only the operator knows.
        let unsure = heard && trial.to.is_none();
        if unsure {
            silent.step = "name an address that does answer: --ping ADDRESS".to_owned();
        }
        Outcome::of(if unsure { Finding::Note } else { Finding::Fail }, silent)
    }

    /// A probe that belongs to no search has ended.
    pub(super) fn test_answered(&mut self, now: Instant, probe: PathProbe) {
        let ours = |trial: &Trial| matches!(trial.awaited, Awaited::Probe) && trial.ike_sa == probe.ike_sa;
        while let Some(mut trial) = self.trials.take(ours) {
            let outcome = match probe.result {
                Probed::Abandoned => Outcome::new(
                    Finding::Fail,
                    "down",
                    "the IKE SA went down meanwhile",
                    "`adit explain` says why",
                ),
                Probed::Passed(Some(time)) => {
                    Outcome::pass(format!("the peer answers after {:.1} ms", time.as_secs_f64() * 1000.0))
                }
                Probed::Passed(None) | Probed::Blocked => {
                    Outcome::pass("the peer answers, not to the first request")
                }
            };
            trial.tell(now, outcome);
            self.go_on_trying(now, trial);
        }
    }

    /// A search has ended.
    pub(super) fn test_found_path(&mut self, now: Instant, found: &Found) {
        let ours = |trial: &Trial| matches!(trial.awaited, Awaited::Path) && trial.ike_sa == found.ike_sa;
        while let Some(mut trial) = self.trials.take(ours) {
            let heeded = self.paths.hole(now, found.ike_sa).is_none();
            let outcome = match found.sizes {
                None => Outcome::new(Finding::Note, "not-probed", "the path could not be probed", ""),
                Some((believed, passes, _)) if passes >= believed => {
                    Outcome::pass(format!("packets of {believed} octets get through, as the system believes"))
                }
                Some((believed, passes, _)) if heeded => Outcome::pass(format!(
                    "packets of {passes} octets get through, not the {believed} that the system believes in; none larger \
                     is sent (`probe_path`)"
                )),
                Some((believed, passes, _)) => Outcome::of(Finding::Fail, verdicts::hole(believed, passes)),
            };
            trial.tell(now, outcome);
            self.go_on_trying(now, trial);
        }
    }

    /// A request has ended.
    pub(super) fn test_request_done(
        &mut self,
        now: Instant,
        request: RequestId,
        result: &Result<(), String>,
    ) {
        let ours = |trial: &Trial| matches!(trial.awaited, Awaited::Request(ours) if ours == request);
        let Some(mut trial) = self.trials.take(ours) else { return };
        let outcome = match result {
            Ok(()) => Outcome::pass(match &trial.step {
                Step::RekeyChild(_) => "the Child SA has new keys",
                Step::RekeyIke => "the IKE SA has new keys",
                Step::Delete(_) => "the peer has confirmed the end",
                _ => "it is up again",
            }),
            Err(why) => {
                let mut records = self.negotiations.of(&trial.connection).map(|entry| &entry.record);
                let told = records.find(|record| !record.is_success() && record.at >= trial.begun);
                let next = match &trial.step {
                    Step::RekeyChild(_) => {
                        "compare the key exchange methods in `esp_proposals` on both sides: the first SA of a child needs none, \
                         every later one does"
                    }
                    _ => "`adit explain` says more",
                };
                Outcome {
                    finding: Finding::Fail,
                    code: told.map_or("failed", |record| record.code.name()).to_owned(),
                    message: told.map_or(why, |record| &record.message).clone(),
                    next: next.to_owned(),
                }
            }
        };
        trial.tell(now, outcome);
        self.go_on_trying(now, trial);
    }
}

/// The address after the first of a network.
fn first_host(network: IpAddr) -> Option<IpAddr> {
    match network {
        IpAddr::V4(network) => {
            Some(network.to_bits().checked_add(1)?).map(|bits| std::net::Ipv4Addr::from(bits).into())
        }
        IpAddr::V6(network) => {
            Some(network.to_bits().checked_add(1)?).map(|bits| std::net::Ipv6Addr::from(bits).into())
        }
    }
}
