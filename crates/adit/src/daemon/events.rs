//! What the gateway reports: told to the log, to vici clients, to the reconciler and to whoever waits for it.
//!
//! It owns the wording and decides nothing.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use adit_ike::{ChildSaView, DownReason, Event, IkeSaView, NegotiationRecord, RequestId, Stage};

use super::reconciler::ChildName;
use super::{Daemon, Pending};
use crate::control::negotiation;
use crate::control::report::{self, ChildFacts};
use crate::control::vici::Message;

impl Daemon {
    /// A negotiation ended; the gateway has logged it.
    pub(super) fn negotiated(&mut self, now: Instant, record: NegotiationRecord) {
        if let Some(mut alert) = negotiation::alert(&self.negotiations.informed(&record)) {
            self.hub.publish("alert", || {
                let handles = record.connection.iter().flat_map(|name| self.gateway.handles_of(name));
                let mut sas = handles.filter_map(|handle| self.gateway.ike_sa(handle));
                if let Some(sa) = sas.find(|sa| sa.remote.ip() == record.remote.ip()) {
                    negotiation::put_ike_sa(&mut alert, &sa, now);
                }
                alert
            });
        }
        self.observer.record(&record);
        self.negotiations.add(now, record);
    }

    /// Tells of something that is no outcome of a negotiation.
    pub(super) fn alert(&self, alert: &str, cause: &str, connection: Option<&str>) {
        self.hub.publish("alert", || {
            let mut message = Message::new();
            message.put("type", alert);
            if let Some(connection) = connection {
                message.put("connection", connection);
            }
            message.put("cause", cause);
            message
        });
    }

    pub(super) fn event(&mut self, now: Instant, event: Event) {
        self.observer.event(now, &event);
        match event {
            // That they are up is in the log already, from the gateway's record.
            Event::IkeUp(sa) => self.hub.publish("ike-updown", || ike_updown(&sa, true, now)),
            Event::IkeDown(sa, reason) => {
                tracing::info!(
                    "connection \"{}\": IKE SA [{}] down: {}",
                    sa.connection,
                    sa.handle.0,
                    reason_text(reason)
                );
                self.path_is_gone(sa.handle);
                self.verdicts.forget(sa.handle);
                self.hub.publish("ike-updown", || ike_updown(&sa, false, now));
                let alert = match reason {
                    DownReason::PeerDead => "retransmit-send-timeout",
                    DownReason::Expired => "ike-sa-expired",
                    DownReason::Replaced => "unique-replace",
                    _ => return,
                };
                self.hub.publish("alert", || {
                    let mut message = Message::new();
                    message.put("type", alert).put("connection", &sa.connection);
                    message.put("cause", reason_text(reason));
                    negotiation::put_ike_sa(&mut message, &sa, now);
                    message
                });
            }
            Event::ChildUp(sa, child) => {
                let name = ChildName::new(&sa.connection, &child.name);
                if !self.reconciler.up(now, &name, child.handle) {
                    self.end_child(now, child.handle);
                }
                self.idle.up(now, child.handle, self.reconciler.inactivity(&name));
                self.path_is_new(now, &sa.connection, sa.handle, sa.remote.ip());
                let facts = self.child_facts(child.handle);
                self.hub.publish("child-updown", || child_updown(&sa, &child, &facts, true, now));
            }
            Event::ChildDown(sa, child, reason) => {
                let name = ChildName::new(&sa.connection, &child.name);
                let wait = self.reconciler.down(now, &name, child.handle, reason);
                self.idle.gone(child.handle);
                if !self.reconciler.knows(&name) {
                    self.verdicts.forget_child(sa.handle, &name);
                }
                tracing::info!(
                    "{name}: Child SA down, {} in {} out: {}{}",
                    child.inbound_spi,
                    child.outbound_spi,
                    reason_text(reason),
                    Again(wait)
                );
                let facts = self.child_facts(child.handle);
                self.hub.publish("child-updown", || child_updown(&sa, &child, &facts, false, now));
            }
            Event::IkeRekeyed { old, new } => {
                self.negotiations.succeeded(&new.connection, Stage::IkeRekey, None);
                self.verdicts.forget(old.handle);
                tracing::info!(
                    "connection \"{}\": IKE SA [{}] rekeyed, {}_i {}_r replaces {}_i {}_r",
                    new.connection,
                    new.handle.0,
                    new.initiator_spi,
                    new.responder_spi,
                    old.initiator_spi,
                    old.responder_spi
                );
                self.hub.publish("ike-rekey", || {
                    let both = old_and_new(report::ike_sa(&old, now), report::ike_sa(&new, now));
                    let mut message = Message::new();
                    message.put_section(report::ike_sa_name(&new), both);
                    message
                });
            }
            Event::ChildRekeyed { ike_sa, old, new } => {
                let name = ChildName::new(&ike_sa.connection, &new.name);
                self.reconciler.rekeyed(&name, old.handle, new.handle);
                self.idle.rekeyed(old.handle, new.handle);
                self.negotiations.succeeded(&name.connection, Stage::ChildSa, Some(&new.name));
                tracing::info!(
                    "{name}: Child SA rekeyed, {} in {} out replace {} in {} out",
                    new.inbound_spi,
                    new.outbound_spi,
                    old.inbound_spi,
                    old.outbound_spi
                );
                let (was, is) = (self.child_facts(old.handle), self.child_facts(new.handle));
                self.hub.publish("child-rekey", || {
                    let (was, is) = (report::child_sa(&old, &was, now), report::child_sa(&new, &is, now));
                    let mut children = Message::new();
                    children.put_section(&new.name, old_and_new(was, is));
                    let mut message = Message::new();
                    put_children(&mut message, &ike_sa, children, now);
                    message
                });
            }
            Event::IkeMoved { sa, local, remote } => {
                tracing::info!(
                    "connection \"{}\": IKE SA [{}] is between {} and {} now",
                    sa.connection,
                    sa.handle.0,
                    sa.local,
                    sa.remote
                );
                self.hub.publish("ike-update", || ike_update(&sa, local, remote, now));
            }
            Event::Progress { request, message } => {
                if let Some(pending) = self.pending.get(&request)
                    && pending.log_level >= 1
                {
                    let mut line = Message::new();
                    line.put("group", "IKE").put("level", "1").put("msg", message);
                    pending.reply.event("control-log", line);
                }
            }
            Event::Notice(notice) => self.hub.publish("alert", || {
                let sa = notice.ike_sa.and_then(|handle| self.gateway.ike_sa(handle));
                negotiation::notice(&notice, sa.as_ref(), now)
            }),
            Event::RequestDone { request, result } => self.request_done(now, request, result),
        }
    }

    pub(super) fn request_done(&mut self, now: Instant, request: RequestId, result: Result<(), String>) {
        self.test_request_done(now, request, &result);
        for (name, wait) in self.reconciler.done(now, request, result.is_ok()) {
            // Why is in the log already, from the gateway's record.
            if wait.is_some() {
                tracing::info!("{name} is not up{}", Again(wait));
            }
        }
        let Some(Pending { reply, matches, terminates, .. }) = self.pending.remove(&request) else { return };
        let mut answer = Message::new();
        answer.put("success", if result.is_ok() { "yes" } else { "no" });
        if let Some(matches) = matches {
            answer.put_display("matches", matches);
            if terminates {
                answer.put_display("terminated", if result.is_ok() { matches } else { 0 });
            }
        }
        if let Err(why) = result {
            answer.put("errmsg", why);
        }
        reply.respond(answer);
    }
}

/// When something is tried again, if it is, at the end of a line.
pub(super) struct Again(pub(super) Option<Duration>);

impl fmt::Display for Again {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |wait| write!(f, "; next attempt in {wait:.1?}"))
    }
}

fn reason_text(reason: DownReason) -> &'static str {
    match reason {
        DownReason::DeletedByPeer => "the peer deleted it",
        DownReason::DeletedByUs => "deleted",
        DownReason::PeerDead => "the peer no longer answers",
        DownReason::Failed => "the negotiation failed",
        DownReason::DataPlane => "the data plane cannot go on with it",
        DownReason::Expired => "its hard limit is reached",
        DownReason::Replaced => "a new one with the same peer takes its place",
        DownReason::Reauthenticated => "the peers have authenticated anew",
    }
}

fn ike_updown(sa: &IkeSaView, up: bool, now: Instant) -> Message {
    let mut message = Message::new();
    message.put_flag("up", up);
    message.put_section(report::ike_sa_name(sa), report::ike_sa(sa, now));
    message
}

/// Where it is now, and the IKE SA as it was.
fn ike_update(sa: &IkeSaView, local: SocketAddr, remote: SocketAddr, now: Instant) -> Message {
    let mut message = Message::new();
    message.put_display("local-host", sa.local.ip()).put_display("local-port", sa.local.port());
    message.put_display("remote-host", sa.remote.ip()).put_display("remote-port", sa.remote.port());
    let was = IkeSaView { local, remote, ..sa.clone() };
    message.put_section(report::ike_sa_name(sa), report::ike_sa(&was, now));
    message
}

fn child_updown(sa: &IkeSaView, child: &ChildSaView, facts: &ChildFacts, up: bool, now: Instant) -> Message {
    let mut children = Message::new();
    children.put_section(&report::child_sa_name(child), report::child_sa(child, facts, now));
    let mut message = Message::new();
    message.put_flag("up", up);
    put_children(&mut message, sa, children, now);
    message
}

/// An IKE SA with what is told of its children.
fn put_children(message: &mut Message, sa: &IkeSaView, children: Message, now: Instant) {
    let mut ike = report::ike_sa(sa, now);
    ike.put_section("child-sas", children);
    message.put_section(report::ike_sa_name(sa), ike);
}

fn old_and_new(old: Message, new: Message) -> Message {
    let mut both = Message::new();
    both.put_section("old", old).put_section("new", new);
    both
}
