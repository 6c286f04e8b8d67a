//! The gateway: all IKE SAs. It finds the one a datagram is for, keeps strangers from costing much, and turns an
//! operator's commands into exchanges.
//!
//! What happens inside an IKE SA is the business of `ike_sa`.

mod commands;
mod succession;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use adit_cert::Store;
use adit_crypto::{Entropy, Signer, hash_sha1};
use adit_wire::ikev2::{ExchangeType, Header, IkeSpi, Message, Notify, NotifyType, Payload, Version};
use tracing::{debug, debug_span, trace};

use crate::config::{Configuration, Connection, PostQuantumKey, Settings, SharedSecret};
use crate::cookie::CookieJar;
use crate::identity::Identity;
use crate::ike_sa::{Contents, IkeSa, Incoming, InitRequest, Refused};
use crate::lookup::{Connections, Secrets};
use crate::nat::Nat;
use crate::output::{
    Blame, ChildHandle, DownReason, Event, IkeSaHandle, IkeSaView, Notice, NoticeKind, OutcomeCode, Output,
    Stage,
};
use crate::proposal::post_quantum;
use crate::record::{Facts, Outcome};
use crate::shared::{Counters, Effect, Kept, Shared};
use crate::statistics::Statistics;
use crate::tally::{Tallies, Way};

pub use commands::{CommandError, Target, TerminateTarget};

/// All IKE SAs of one gateway.
pub struct Gateway {
    shared: Shared,
    ike_sas: HashMap<IkeSaHandle, IkeSa>,
    /// Those that are dialled or established, by connection.
    by_connection: HashMap<String, BTreeSet<IkeSaHandle>>,
    /// Attempts of ours that nobody has answered yet, by whom they are addressed to.
    unanswered: BTreeSet<(IpAddr, IkeSaHandle)>,
    /// Responder: first requests by their hash, so that a repeated one makes no second IKE SA. The whole message
    /// counts and not its SPI, which two initiators behind one NAT may have in common (RFC 7296 2.1).
    first_requests: HashMap<[u8; 20], IkeSaHandle>,
    /// The last first requests that were refused, by their hash: an initiator repeats them, which is no news.
    refused: VecDeque<[u8; 20]>,
    timers: BTreeSet<(Instant, IkeSaHandle)>,
    cookies: CookieJar,
    /// A second, and how many first requests without a fitting cookie came in it. One that is refused costs as much
    /// as one that leaves a half-open IKE SA.
    lately: (Instant, usize),
    shutting_down: bool,
}

impl Gateway {
    /// Refused first requests remembered.
    const REFUSED: usize = 256;
    /// Octets of a first request, which a half-open IKE SA keeps: several times what the longest lists of proposals
    /// and the largest public values need.
    const MOST_FIRST_OCTETS: usize = 8192;

    /// A gateway without connections.
    #[must_use]
    pub fn new(settings: Settings, mut entropy: Box<dyn Entropy>, now: Instant) -> Self {
        let cookies = CookieJar::new(now, &mut *entropy);
        Self {
            shared: Shared::new(settings, entropy, now),
            ike_sas: HashMap::new(),
            by_connection: HashMap::new(),
            unanswered: BTreeSet::new(),
            first_requests: HashMap::new(),
            refused: VecDeque::new(),
            timers: BTreeSet::new(),
            cookies,
            lately: (now, 0),
            shutting_down: false,
        }
    }

    /// Replaces connections and secrets. IKE SAs keep the connection they were made with, unless there is one of the same
    /// name that is alike ([`Connection::is_like`]): then that is theirs from now on.
    pub fn set_configuration(&mut self, configuration: Configuration) {
        let Configuration { connections, secrets, ppks, keys, trust } = configuration;
        self.shared.credentials.serve(&connections);
        self.shared.credentials.replace(keys, trust);
        let usable = |mut connection: Connection| {
            // What cannot be agreed on is not offered. Without anything left, the peer's answer is what is refused.
            let usable = post_quantum(&connection.proposals);
            if connection.require_post_quantum && ppks.is_empty() && !usable.is_empty() {
                connection.proposals = usable;
            }
            connection
        };
        self.shared.connections = Connections::new(connections.into_iter().map(usable).collect());
        self.shared.secrets = Secrets::new(secrets, ppks);
        let known = &self.shared.connections;
        self.shared.tallies.keep(|name| known.named(name).is_some());
        let mut adoptions: Vec<(IkeSaHandle, Arc<Connection>)> = Vec::new();
        for (name, handles) in &self.by_connection {
            let Some(new) = self.shared.connections.named(name) else { continue };
            // Those of one connection mostly have it from the same configuration.
            let mut last: Option<(&Arc<Connection>, bool)> = None;
            for (handle, sa) in handles.iter().filter_map(|h| Some((h, self.ike_sas.get(h)?))) {
                let old = &sa.core.connection;
                let same = match last {
                    Some((known, same)) if Arc::ptr_eq(known, old) => same,
                    _ => old.is_like(new),
                };
                last = Some((old, same));
                adoptions.extend(same.then(|| (*handle, Arc::clone(new))));
            }
        }
        for (handle, connection) in adoptions {
            self.with(handle, |sa, cx| sa.adopt(cx, connection));
        }
    }

    /// Replaces the secrets. What is up does not rest on them any more. Whether there are post-quantum ones at all decides what
    /// connections offer: who gives up the last, or has the first, has to [set the configuration](Self::set_configuration).
    pub fn set_secrets(&mut self, secrets: Vec<SharedSecret>, ppks: Vec<PostQuantumKey>) {
        self.shared.secrets = Secrets::new(secrets, ppks);
    }

    /// Replaces private keys, authorities, intermediates and CRLs. What is up does not rest on them any more.
    pub fn set_credentials(&mut self, keys: Vec<Arc<dyn Signer>>, trust: Store) {
        self.shared.credentials.replace(keys, trust);
    }

    /// Tells the date, by which certificates are valid or not. The machine counts on from there; whoever is not told it
    /// trusts none.
    pub fn set_wall_clock(&mut self, now: Instant, date: SystemTime) {
        self.shared.credentials.set_wall_clock(now, date);
    }

    /// Replaces the connection of this name. IKE SAs keep the one they were made with.
    pub fn replace_connection(&mut self, connection: Connection) {
        self.shared.connections.replace(connection);
    }

    /// The secret with which we and a peer authenticate.
    #[must_use]
    pub fn secret_between(&self, local: &Identity, remote: &Identity) -> Option<&SharedSecret> {
        self.shared.secrets.between(local, remote)
    }

    /// The post-quantum pre-shared keys.
    #[must_use]
    pub fn ppks(&self) -> &[PostQuantumKey] {
        self.shared.secrets.all_post_quantum()
    }

    /// Takes one datagram, without non-ESP marker. `local` is where it arrived, `remote` where it came from.
    pub fn handle_datagram(&mut self, now: Instant, local: SocketAddr, remote: SocketAddr, datagram: &[u8]) {
        self.shared.now = now;
        self.shared.counters.received += 1;
        let changed = self.dispatch(local, remote, datagram);
        if !changed {
            self.shared.counters.ignored += 1;
        }
        self.apply_effects();
    }

    /// Finds out whom a datagram is for; `false` if it is for nobody.
    fn dispatch(&mut self, local: SocketAddr, remote: SocketAddr, datagram: &[u8]) -> bool {
        let Ok(header) = Header::decode(datagram) else {
            trace!(%remote, octets = datagram.len(), "no IKE header");
            let message = format!("{} octets without an IKE header", datagram.len());
            self.stray(NoticeKind::MalformedHeader, (local, remote), None, message);
            return false;
        };
        if header.version.major != Version::IKEV2.major {
            return self.other_version(local, remote, datagram, &header);
        }
        let first = header.exchange == ExchangeType::IKE_SA_INIT && !header.flags.response;
        if first && datagram.len() > Self::MOST_FIRST_OCTETS {
            debug!(%remote, octets = datagram.len(), "oversized IKE_SA_INIT request dropped");
            return false;
        }
        let message = match Message::decode(datagram) {
            Ok(message) => message,
            Err(error) => {
                // Nothing is known about who sent it: RFC 7296 2.21.1 and 3.10.1 leave no answer.
                self.shared.tallies.malformed();
                debug!(%remote, exchange = %header.exchange, %error, "malformed message");
                let message = format!("a message cannot be decoded: {error}");
                self.stray(NoticeKind::MalformedBody, (local, remote), Some(header.exchange), message);
                return false;
            }
        };
        let incoming = Incoming { local, remote, datagram, message: &message };
        if first {
            return self.first_request(&incoming);
        }
        let (ours, theirs) = if header.flags.initiator {
            (header.responder_spi, header.initiator_spi)
        } else {
            (header.initiator_spi, header.responder_spi)
        };
        let owner = self
            .shared
            .owner_of(ours)
            .filter(|handle| self.ike_sas.get(handle).is_some_and(|sa| sa.accepts(ours, theirs, &header)));
        let Some(handle) = owner else { return self.unknown_spi(&incoming) };
        if message.encrypted.is_none() && header.exchange != ExchangeType::IKE_SA_INIT {
            return self.unprotected(handle, &incoming);
        }
        let span = debug_span!("ike_sa", spi = %ours, %remote);
        let _entered = span.enter();
        debug!(exchange = %header.exchange, response = header.flags.response, id = header.message_id, "received");
        self.with(handle, |sa, cx| sa.handle_message(cx, &incoming));
        true
    }

    /// RFC 7296 2.5: a higher major version is told which one we speak; a lower one is IKEv1, which knows no answer
    /// to that.
    fn other_version(
        &mut self,
        local: SocketAddr,
        remote: SocketAddr,
        datagram: &[u8],
        header: &Header,
    ) -> bool {
        let complete = usize::try_from(header.length).is_ok_and(|length| length == datagram.len());
        let notify = Payload::Notify(Notify::new(NotifyType::INVALID_MAJOR_VERSION, Vec::new()));
        let reply = Message::encode(&InitRequest::stateless_header(header), &[notify]);
        let answer = header.version.major > Version::IKEV2.major
            && !header.flags.response
            && complete
            && reply.len() <= datagram.len();
        if answer && self.shared.may_answer(remote.ip()) {
            self.shared.transmit(local, remote, reply);
        }
        debug!(%remote, version = %header.version, "not IKEv2");
        // RFC 2408 5.4: the first message of a Main Mode or Aggressive Mode.
        let begins = header.version.major == 1
            && matches!(header.exchange.0, 2 | 4)
            && header.responder_spi == IkeSpi::ZERO;
        if begins {
            let outcome = Outcome::new(
                OutcomeCode::OtherVersion,
                Stage::IkeSaInit,
                Blame::PeerIncompatible,
                "it speaks IKEv1, and only IKEv2 is spoken here: set `version = 2` on the peer",
            );
            let record = outcome.into_record(Facts {
                at: self.shared.now,
                connection: None,
                initiator: false,
                local,
                remote,
                nat: Nat::default(),
                local_id: None,
                remote_id: None,
                known: false,
            });
            self.shared.record(record, None);
        }
        false
    }

    /// A request that wants a new IKE SA. Cheap checks first (RFC 7296 2.6).
    fn first_request(&mut self, m: &Incoming<'_>) -> bool {
        let header = m.message.header;
        let proper = header.flags.initiator
            && header.message_id == 0
            && header.initiator_spi != IkeSpi::ZERO
            && header.responder_spi == IkeSpi::ZERO
            && m.message.encrypted.is_none();
        // Our own request come back would make us talk to ourselves.
        let reflected = self
            .shared
            .owner_of(header.initiator_spi)
            .and_then(|handle| self.ike_sas.get(&handle))
            .is_some_and(|sa| sa.core.initiator && sa.core.spi_i == header.initiator_spi);
        if !proper || reflected || self.shutting_down {
            debug!(remote = %m.remote, proper, reflected, "IKE_SA_INIT request dropped");
            return false;
        }
        let hash = request_hash(m.remote, m.datagram);
        if let Some(handle) = self.first_requests.get(&hash).copied() {
            return self.repeat_init_response(handle, m);
        }
        let contents = match Contents::read(&m.message.payloads) {
            Ok(contents) => contents,
            Err(refused) => {
                if self.shared.may_answer(m.remote.ip()) {
                    let request =
                        InitRequest { incoming: *m, contents: Contents::default(), repeated: false };
                    request.answer(&mut self.shared, refused.notify());
                }
                debug!(remote = %m.remote, ?refused, "IKE_SA_INIT request refused");
                return matches!(refused, Refused::Critical(_));
            }
        };
        let repeated = self.refused.contains(&hash);
        let request = InitRequest { incoming: *m, contents, repeated };
        if !self.may_cost(&request) {
            return false;
        }
        let responded = request.respond(&mut self.shared);
        let of = responded.as_ref().map_or("", |sa| sa.core.connection.name.as_str());
        self.shared.tallies.message(of, ExchangeType::IKE_SA_INIT, Way::In, false);
        let Some(mut sa) = responded else {
            if !repeated {
                self.refused.truncate(Self::REFUSED - 1);
                self.refused.push_front(hash);
            }
            return true;
        };
        sa.core.first_request = Some(hash);
        self.first_requests.insert(hash, sa.core.handle);
        self.insert(sa);
        true
    }

    fn repeat_init_response(&mut self, handle: IkeSaHandle, m: &Incoming<'_>) -> bool {
        let response = self.ike_sas.get(&handle).and_then(IkeSa::init_response).map(<[u8]>::to_vec);
        let Some(response) = response else { return false };
        self.shared.counters.repeated_requests += 1;
        if let Some(sa) = self.ike_sas.get(&handle) {
            let message = "the peer repeats a request that we have answered: our answer may not reach it";
            self.shared.notice(m.remote.ip(), || {
                sa.core.notice(NoticeKind::ReceivedAgain, ExchangeType::IKE_SA_INIT, message.to_owned())
            });
        }
        self.shared.transmit(m.local, m.remote, response);
        true
    }

    /// May this stranger make us compute? With many half-open IKE SAs or first requests only if it brings our cookie
    /// back. With very many half-open ones it takes the place of one of those who have more of them.
    fn may_cost(&mut self, request: &InitRequest<'_>) -> bool {
        let cx = &mut self.shared;
        if cx.half_open.is_full(cx.settings.half_open_limit, request.incoming.remote.ip()) {
            cx.counters.half_open_refused += 1;
            return false;
        }
        if cx.now >= self.lately.0 + Duration::from_secs(1) {
            self.lately = (cx.now, 0);
        }
        let threshold = cx.settings.cookie_threshold;
        if cx.half_open.total() < threshold && self.lately.1 < threshold {
            self.lately.1 += 1;
            let full = cx.half_open.total() >= cx.settings.half_open_limit;
            cx.counters.half_open_refused += u64::from(full);
            return !full;
        }
        let Some(nonce) = request.contents.nonce else { return false };
        let (remote, spi) = (request.incoming.remote, request.incoming.message.header.initiator_spi);
        // RFC 7296 2.6: the cookie is the first payload.
        let cookie = match request.incoming.message.payloads.first() {
            Some(Payload::Notify(n)) if n.notify_type == NotifyType::COOKIE => Some(&n.data),
            _ => None,
        };
        if let Some(cookie) = cookie
            && self.cookies.check(cx.now, &mut *cx.entropy, cookie, &nonce.0, remote, spi)
        {
            let full = cx.half_open.total() >= cx.settings.half_open_limit;
            let in_the_way = cx.half_open.in_the_way(remote.ip()).filter(|_| full);
            cx.counters.half_open_refused += u64::from(full);
            if let Some(handle) = in_the_way {
                self.with(handle, |sa, cx| sa.delete(cx, Vec::new()));
            }
            return !full || in_the_way.is_some();
        }
        if let Some(cookie) = self.cookies.make(cx.now, &mut *cx.entropy, &nonce.0, remote, spi) {
            cx.counters.cookies_demanded += 1;
            request.answer(cx, Notify::new(NotifyType::COOKIE, cookie));
        }
        false
    }

    /// A message for an IKE SA we do not have: perhaps the peer does not know that we restarted (RFC 7296 1.5,
    /// 2.21.4). Only requests that an existing IKE SA could send are worth an answer.
    fn unknown_spi(&mut self, m: &Incoming<'_>) -> bool {
        self.shared.tallies.unknown_spi();
        let header = m.message.header;
        let plausible = !header.flags.response
            && header.initiator_spi != IkeSpi::ZERO
            && header.responder_spi != IkeSpi::ZERO
            && m.message.encrypted.is_some();
        let notify = Payload::Notify(Notify::new(NotifyType::INVALID_IKE_SPI, Vec::new()));
        let reply = Message::encode(&InitRequest::stateless_header(&header), &[notify]);
        if plausible && reply.len() <= m.datagram.len() && self.shared.may_answer(m.remote.ip()) {
            self.shared.transmit(m.local, m.remote, reply);
        }
        debug!(remote = %m.remote, exchange = %header.exchange, "no such IKE SA");
        let message = "a message for an IKE SA that there is not (any more)".to_owned();
        self.stray(NoticeKind::UnknownSpi, (m.local, m.remote), Some(header.exchange), message);
        false
    }

    /// Tells of a message that is for no IKE SA.
    fn stray(
        &mut self,
        kind: NoticeKind,
        (local, remote): (SocketAddr, SocketAddr),
        exchange: Option<ExchangeType>,
        message: String,
    ) {
        let notice = || Notice { kind, ike_sa: None, connection: None, local, remote, exchange, message };
        self.shared.notice(remote.ip(), notice);
    }

    /// A message in the clear on an IKE SA that has keys changes nothing (RFC 7296 2.21.4). If it says that the peer
    /// has lost the IKE SA, the peer is asked, in a message that only it can answer.
    fn unprotected(&mut self, handle: IkeSaHandle, m: &Incoming<'_>) -> bool {
        let says_lost = m
            .message
            .payloads
            .iter()
            .any(|p| matches!(p, Payload::Notify(n) if n.notify_type == NotifyType::INVALID_IKE_SPI));
        if says_lost && m.message.header.flags.response {
            self.with(handle, |sa, cx| sa.suspect(cx));
        }
        debug!(remote = %m.remote, says_lost, "message without protection ignored");
        false
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.shared.now = now;
        self.shared.finish_draining();
        let due: Vec<IkeSaHandle> =
            self.timers.iter().take_while(|(at, _)| *at <= now).map(|(_, handle)| *handle).collect();
        for handle in due {
            self.with(handle, |sa, cx| sa.handle_timeout(cx));
        }
        self.apply_effects();
    }

    /// Authenticated ESP arrived on a child at `last_inbound`: its peer lives (RFC 7296 2.4).
    pub fn child_activity(&mut self, now: Instant, child: ChildHandle, last_inbound: Instant) {
        self.shared.now = now;
        if let Some(handle) = self.ike_sa_of(child) {
            self.with(handle, |sa, cx| sa.child_active(cx, child, last_inbound.min(now)));
        }
    }

    /// A Child SA has carried its soft limit ([`crate::UsageLimits`]), or most of its sequence numbers are used: it is
    /// rekeyed.
    pub fn child_expiring(&mut self, now: Instant, child: ChildHandle) {
        self.shared.now = now;
        if let Some(handle) = self.ike_sa_of(child) {
            self.with(handle, |sa, cx| sa.child_expiring(cx, child));
            self.apply_effects();
        }
    }

    /// A Child SA has carried its hard limit, or all of its sequence numbers are used: it is deleted.
    pub fn child_expired(&mut self, now: Instant, child: ChildHandle) {
        self.shared.now = now;
        if let Some(handle) = self.ike_sa_of(child) {
            self.with(handle, |sa, cx| sa.child_expired(cx, child));
            self.apply_effects();
        }
    }

    /// The newest authentic ESP packet of a child came from `remote` to `local` (port 0: IP protocol 50), which is not
    /// where its IKE SA says the peer, or we, are (RFC 7296 2.23).
    pub fn child_moved(&mut self, now: Instant, child: ChildHandle, local: SocketAddr, remote: SocketAddr) {
        self.shared.now = now;
        let owner = self.shared.child_owners.get(&child).copied();
        let Some(handle) = owner else { return };
        debug!(handle = handle.0, child = child.0, %local, %remote, "ESP comes from elsewhere");
        self.with(handle, |sa, cx| sa.esp_moved(cx, remote));
        self.apply_effects();
    }

    /// The address from which the peer of this IKE SA is reached now, or `None` if it is not: after a change of
    /// addresses, links or routes, for every IKE SA (RFC 4555 3.5).
    pub fn path_changed(&mut self, now: Instant, ike_sa: IkeSaHandle, local: Option<IpAddr>) {
        self.shared.now = now;
        self.with(ike_sa, |sa, cx| sa.path_changed(cx, local));
        self.apply_effects();
    }

    /// The data plane could not install a child or cannot go on with it: it is deleted on both sides.
    pub fn child_failed(&mut self, now: Instant, child: ChildHandle, reason: &str) {
        self.shared.now = now;
        let Some(handle) = self.ike_sa_of(child) else { return };
        self.unclaim(handle, child, reason);
        self.with(handle, |sa, cx| {
            let name = sa.children().iter().find(|c| c.handle == child).map(|c| c.config.name.clone());
            let message = format!("the data plane gave the Child SA up: {reason}");
            let mut outcome = Outcome::new(OutcomeCode::DataPlane, Stage::ChildSa, Blame::OurBug, message);
            outcome.child = name;
            sa.core.record(cx, outcome);
            sa.delete_children(cx, &[child], Vec::new(), DownReason::DataPlane);
        });
        self.apply_effects();
    }

    /// Whoever waits for the child must not hear that it is up.
    fn unclaim(&mut self, handle: IkeSaHandle, child: ChildHandle, reason: &str) {
        let Some(sa) = self.ike_sas.get(&handle) else { return };
        let Some(child) = sa.children().iter().find(|c| c.handle == child) else { return };
        let failure = format!("child \"{}\": the data plane refused it: {reason}", child.config.name);
        for output in &mut self.shared.outputs {
            if let Output::Event(Event::RequestDone { request, result }) = output
                && child.requests.contains(request)
            {
                *result = Err(failure.clone());
            }
        }
    }

    /// The IKE SA that a Child SA belongs to.
    #[must_use]
    pub fn ike_sa_of(&self, child: ChildHandle) -> Option<IkeSaHandle> {
        self.shared.child_owners.get(&child).copied()
    }

    /// Deletes every IKE SA and takes no new ones. Done when [`Self::ike_sas`] is empty.
    pub fn shutdown(&mut self, now: Instant) {
        self.shared.now = now;
        self.shutting_down = true;
        let mut all: Vec<IkeSaHandle> =
            self.ike_sas.values().filter(|sa| !sa.is_gone()).map(|sa| sa.core.handle).collect();
        all.sort_unstable();
        for handle in all {
            self.with(handle, |sa, cx| sa.delete(cx, Vec::new()));
        }
        self.apply_effects();
    }

    /// When [`Self::handle_timeout`] must be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.timers.first().map(|(at, _)| *at), self.shared.drained_at()].into_iter().flatten().min()
    }

    /// The next thing to do, in the order it must be done.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.shared.outputs.pop_front()
    }

    /// Snapshots of all IKE SAs, by number.
    pub fn ike_sas(&self) -> impl Iterator<Item = IkeSaView> {
        let mut views: Vec<IkeSaView> =
            self.ike_sas.values().filter(|sa| !sa.is_gone()).map(IkeSa::view).collect();
        views.sort_by_key(|view| view.handle);
        views.into_iter()
    }

    /// The numbers of all IKE SAs, in order: for whoever looks at them one by one.
    #[must_use]
    pub fn handles(&self) -> Vec<IkeSaHandle> {
        let mut handles: Vec<IkeSaHandle> = self.ike_sas.keys().copied().collect();
        handles.sort_unstable();
        handles
    }

    /// A snapshot of one IKE SA.
    #[must_use]
    pub fn ike_sa(&self, handle: IkeSaHandle) -> Option<IkeSaView> {
        self.ike_sas.get(&handle).filter(|sa| !sa.is_gone()).map(IkeSa::view)
    }

    /// The numbers of the IKE SAs of a connection, in order; those that a peer has begun and not authenticated are of none.
    #[must_use]
    pub fn handles_of(&self, connection: &str) -> Vec<IkeSaHandle> {
        self.by_connection.get(connection).into_iter().flatten().copied().collect()
    }

    /// The names of the connections that have IKE SAs, in no order.
    pub fn connections_with_sas(&self) -> impl ExactSizeIterator<Item = &str> {
        self.by_connection.keys().map(String::as_str)
    }

    /// IKE SAs that a peer has begun and not authenticated.
    #[must_use]
    pub fn half_open(&self) -> usize {
        self.shared.half_open.total()
    }

    /// How much is kept, for tests that look for what is left over.
    #[doc(hidden)]
    #[must_use]
    pub fn kept(&self) -> Kept {
        Kept {
            ike_sas: self.ike_sas.len(),
            first_requests: self.first_requests.len(),
            unanswered: self.unanswered.len(),
            ..self.shared.kept()
        }
    }

    /// Messages and rekeyings, in all and by connection.
    #[must_use]
    pub fn tallies(&self) -> &Tallies {
        &self.shared.tallies
    }

    /// The same, to begin anew.
    pub fn tallies_mut(&mut self) -> &mut Tallies {
        &mut self.shared.tallies
    }

    /// Counts since the start.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.shared.counters
    }

    /// What the negotiations since the start come to.
    #[must_use]
    pub fn statistics(&self) -> &Statistics {
        &self.shared.statistics
    }

    fn insert(&mut self, sa: IkeSa) {
        let handle = sa.core.handle;
        self.timers.extend(sa.deadline().map(|at| (at, handle)));
        self.unanswered.extend(sa.unanswered_by().map(|remote| (remote, handle)));
        if sa.is_named() {
            self.by_connection.entry(sa.core.connection.name.clone()).or_default().insert(handle);
        }
        self.ike_sas.insert(handle, sa);
    }

    /// Lets one IKE SA do something, and keeps the tables true.
    fn with(&mut self, handle: IkeSaHandle, f: impl FnOnce(&mut IkeSa, &mut Shared)) {
        let Some(sa) = self.ike_sas.get_mut(&handle) else { return };
        let (before, remote, connection) = (sa.deadline(), sa.core.remote, Arc::clone(&sa.core.connection));
        let (local, was_up) = (sa.core.local, sa.core.established.is_some());
        let (named, unanswered) = (sa.is_named(), sa.unanswered_by());
        f(sa, &mut self.shared);
        let after = sa.deadline();
        if before != after {
            if let Some(at) = before {
                self.timers.remove(&(at, handle));
            }
            self.timers.extend(after.map(|at| (at, handle)));
        }
        if unanswered != sa.unanswered_by() {
            if let Some(remote) = unanswered {
                self.unanswered.remove(&(remote, handle));
            }
            self.unanswered.extend(sa.unanswered_by().map(|remote| (remote, handle)));
        }
        if named != sa.is_named() || named && sa.core.connection.name != connection.name {
            let list = self.by_connection.entry(connection.name.clone()).or_default();
            list.remove(&handle);
            if list.is_empty() {
                self.by_connection.remove(&connection.name);
            }
            if sa.is_named() {
                let name = sa.core.connection.name.clone();
                self.by_connection.entry(name).or_default().insert(handle);
            }
        }
        if sa.core.remote != remote || !Arc::ptr_eq(&sa.core.connection, &connection) {
            self.shared.update_peer(&sa.core);
        }
        if was_up && !sa.is_gone() && (sa.core.local, sa.core.remote) != (local, remote) {
            self.shared.event(Event::IkeMoved { sa: sa.view(), local, remote });
        }
        if sa.core.succession.replaces.is_some() && sa.is_settled() {
            self.shared.effects.push(Effect::Settled(handle));
        }
        if sa.is_gone() {
            let (replaces, successor) =
                (sa.core.succession.replaces.take(), sa.core.succession.successor.take());
            if sa.is_closed() {
                if let Some(hash) = sa.core.first_request {
                    self.first_requests.remove(&hash);
                }
                for spi in &sa.core.spis {
                    self.shared.release_ike_spi(*spi);
                }
                self.ike_sas.remove(&handle);
            }
            self.unlink(handle, replaces, successor);
        }
    }
}

/// Whose first request it is, and which.
fn request_hash(remote: SocketAddr, datagram: &[u8]) -> [u8; 20] {
    let address = match remote.ip() {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    };
    hash_sha1(&[&address, &remote.port().to_be_bytes(), datagram])
}
