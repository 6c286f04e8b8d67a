//! The harness: two gateways, the link between them, and what a data plane would have been told.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use adit_cert::Store;
use adit_crypto::testing::SeededEntropy;
use adit_crypto::{Protection, Secret, Signer};
use adit_ike::config::{
    AddressSpec, Child, Configuration, Connection, PostQuantumKey, SelectorSpec, Settings, SharedSecret,
};
use adit_ike::{
    ChildHandle, DownReason, Event, Gateway, IkeKeyLog, InstallChild, NegotiationRecord, Notice, OutcomeCode,
    Output, PathProbe, RequestId, Target, TerminateTarget, Transmit, proposal,
};
use adit_wire::ikev2::{
    ExchangeType, Header, Message, Notify, NotifyType, Payload, PayloadType, SkLayout, TrafficSelector,
};

pub(crate) const A: &str = "192.0.2.1";
pub(crate) const B: &str = "192.0.2.2";
pub(crate) const KEY: &[u8] = b"a long shared secret of both gateways";

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn at(text: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip(text), port)
}

pub(crate) fn net(text: &str) -> TrafficSelector {
    let (address, length) = text.split_once('/').unwrap();
    TrafficSelector::subnet(address.parse().unwrap(), length.parse().unwrap())
}

pub(crate) fn child(name: &str, local: &str, remote: &str) -> Child {
    Child {
        name: name.to_owned(),
        proposals: proposal::parse_esp("aes256gcm16-noesn").unwrap(),
        local_ts: local.split(',').map(|s| SelectorSpec::Fixed(net(s))).collect(),
        remote_ts: remote.split(',').map(|s| SelectorSpec::Fixed(net(s))).collect(),
        ..Child::default()
    }
}

pub(crate) fn connection(
    name: &str,
    local: &str,
    remote: &str,
    ids: (&str, &str),
    children: Vec<Child>,
) -> Connection {
    let spec = |a: &str| AddressSpec { first: ip(a), last: ip(a) };
    Connection {
        name: name.to_owned(),
        local_addrs: vec![spec(local)],
        remote_addrs: vec![spec(remote)],
        proposals: proposal::parse_ike("aes256gcm16-prfsha384-x25519").unwrap(),
        local_id: Some(ids.0.parse().unwrap()),
        remote_id: ids.1.parse().unwrap(),
        mobike: false,
        children,
        ..Connection::default()
    }
}

pub(crate) fn secret(owners: &[&str], key: &[u8]) -> SharedSecret {
    SharedSecret {
        name: "ike-1".to_owned(),
        owners: owners.iter().map(|o| o.parse().unwrap()).collect(),
        secret: Arc::new(Secret::new(key.to_vec())),
    }
}

/// When tests take place: 2030-01-01.
fn date() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_893_456_000)
}

/// Configuration of one side, to be changed by a test.
pub(crate) struct Side {
    pub(crate) connections: Vec<Connection>,
    pub(crate) secrets: Vec<SharedSecret>,
    pub(crate) ppks: Vec<PostQuantumKey>,
    pub(crate) keys: Vec<Arc<dyn Signer>>,
    pub(crate) trust: Store,
    pub(crate) settings: Settings,
}

impl Side {
    pub(crate) fn connection(&mut self) -> &mut Connection {
        &mut self.connections[0]
    }
}

fn settings() -> Settings {
    Settings { key_log: true, ..Settings::default() }
}

/// The sides of an ordinary site-to-site tunnel: `a` with 10.1.0.0/16, `b` with 10.2.0.0/16.
pub(crate) fn sides() -> (Side, Side) {
    let a = connection(
        "to-b",
        A,
        B,
        ("a.example", "b.example"),
        vec![child("net", "10.1.0.0/16", "10.2.0.0/16")],
    );
    let b = connection(
        "to-a",
        B,
        A,
        ("b.example", "a.example"),
        vec![child("net", "10.2.0.0/16", "10.1.0.0/16")],
    );
    let side = |c| Side {
        connections: vec![c],
        secrets: vec![secret(&["a.example", "b.example"], KEY)],
        ppks: Vec::new(),
        keys: Vec::new(),
        trust: Store::default(),
        settings: settings(),
    };
    (side(a), side(b))
}

/// One datagram on the link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) datagram: Vec<u8>,
}

impl Packet {
    pub(crate) fn header(&self) -> Header {
        Header::decode(&self.datagram).unwrap()
    }

    pub(crate) fn is(&self, exchange: ExchangeType, response: bool) -> bool {
        let header = self.header();
        header.exchange == exchange && header.flags.response == response
    }

    /// Notifies outside of any Encrypted payload.
    pub(crate) fn clear_notifies(&self) -> Vec<NotifyType> {
        notifies(&Message::decode(&self.datagram).unwrap().payloads)
    }
}

pub(crate) fn notifies(payloads: &[Payload]) -> Vec<NotifyType> {
    payloads
        .iter()
        .filter_map(|p| if let Payload::Notify(n) = p { Some(n.notify_type) } else { None })
        .collect()
}

/// One gateway and everything it said.
pub(crate) struct Peer {
    pub(crate) gateway: Gateway,
    pub(crate) installed: BTreeMap<ChildHandle, InstallChild>,
    /// Children that send nothing any more and still take what is on its way.
    pub(crate) retired: BTreeMap<ChildHandle, InstallChild>,
    /// Children that were retired or removed.
    pub(crate) removed: usize,
    pub(crate) events: Vec<String>,
    pub(crate) down: Vec<DownReason>,
    pub(crate) records: Vec<NegotiationRecord>,
    pub(crate) done: BTreeMap<RequestId, Result<(), String>>,
    pub(crate) probes: Vec<PathProbe>,
    pub(crate) notices: Vec<Notice>,
    pub(crate) keys: Vec<IkeKeyLog>,
    pub(crate) keepalives: Vec<(SocketAddr, SocketAddr)>,
    /// The data plane refuses children with this reason.
    pub(crate) broken_data_plane: Option<String>,
    requests: u64,
}

impl Peer {
    fn new(side: Side, seed: u64, now: Instant) -> Self {
        let mut gateway = Gateway::new(side.settings, Box::new(SeededEntropy::new(seed)), now);
        gateway.set_configuration(Configuration {
            connections: side.connections,
            secrets: side.secrets,
            ppks: side.ppks,
            keys: side.keys,
            trust: side.trust,
        });
        gateway.set_wall_clock(now, date());
        Self {
            gateway,
            installed: BTreeMap::new(),
            retired: BTreeMap::new(),
            removed: 0,
            events: Vec::new(),
            down: Vec::new(),
            records: Vec::new(),
            done: BTreeMap::new(),
            probes: Vec::new(),
            notices: Vec::new(),
            keys: Vec::new(),
            keepalives: Vec::new(),
            broken_data_plane: None,
            requests: 0,
        }
    }

    /// Drains the outputs as a daemon does; returns what is to be sent.
    fn drain(&mut self, now: Instant) -> Vec<Transmit> {
        let mut transmits = Vec::new();
        while let Some(output) = self.gateway.poll_output() {
            match output {
                Output::Transmit(transmit) => transmits.push(transmit),
                Output::NatKeepalive { local, remote } => self.keepalives.push((local, remote)),
                Output::InstallChild(install) => {
                    if let Some(reason) = self.broken_data_plane.clone() {
                        self.gateway.child_failed(now, install.handle, &reason);
                    } else {
                        assert!(self.installed.insert(install.handle, *install).is_none());
                    }
                }
                Output::SwitchChild(handle) => {
                    self.installed.get_mut(&handle).expect("installed").active = true;
                }
                Output::RetireChild(handle) => {
                    let child = self.installed.remove(&handle);
                    assert!(child.is_some() || self.broken_data_plane.is_some(), "retired twice");
                    self.removed += usize::from(child.is_some());
                    self.retired.extend(child.map(|child| (handle, child)));
                }
                Output::MoveChild { handle, local, remote, encap } => {
                    let child = self.installed.get_mut(&handle).or_else(|| self.retired.get_mut(&handle));
                    let child = child.expect("only what is installed can be moved");
                    assert_ne!(
                        (child.local, child.remote, child.encap),
                        (local, remote, encap),
                        "to no purpose"
                    );
                    (child.local, child.remote, child.encap) = (local, remote, encap);
                }
                Output::RemoveChild(handle) => {
                    let installed = self.installed.remove(&handle).is_some();
                    self.removed += usize::from(installed);
                    let retired = self.retired.remove(&handle).is_some();
                    assert!(installed || retired || self.broken_data_plane.is_some());
                }
                Output::PathProbed(probe) => self.probes.push(probe),
                Output::Event(event) => self.event(event),
                Output::Record(record) => self.records.push(*record),
                Output::KeyLog(keys) => self.keys.push(keys),
            }
        }
        transmits
    }

    fn event(&mut self, event: Event) {
        let line = match event {
            Event::IkeUp(sa) => format!("ike-up {}", sa.connection),
            Event::IkeDown(sa, reason) => {
                self.down.push(reason);
                format!("ike-down {} {reason:?}", sa.connection)
            }
            Event::ChildUp(_, child) => format!("child-up {}", child.name),
            Event::ChildDown(_, child, reason) => format!("child-down {} {reason:?}", child.name),
            Event::IkeRekeyed { old, new } => format!("ike-rekeyed {} {}", old.handle.0, new.handle.0),
            Event::ChildRekeyed { old, new, .. } => {
                format!("child-rekeyed {} {} {}", old.name, old.handle.0, new.handle.0)
            }
            Event::IkeMoved { sa, local, remote } => {
                assert_ne!((sa.local, sa.remote), (local, remote));
                format!("ike-moved {} {}", sa.local, sa.remote)
            }
            Event::RequestDone { request, result } => {
                assert!(self.done.insert(request, result.clone()).is_none(), "done twice");
                format!("done {result:?}")
            }
            Event::Progress { message, .. } => format!("progress {message}"),
            Event::Notice(notice) => {
                self.notices.push(*notice);
                return;
            }
        };
        self.events.push(line);
    }

    pub(crate) fn next_request(&mut self) -> RequestId {
        self.requests += 1;
        RequestId(self.requests)
    }

    /// Codes of all records.
    pub(crate) fn codes(&self) -> Vec<OutcomeCode> {
        self.records.iter().map(|r| r.code).collect()
    }

    /// The record that says what failed.
    pub(crate) fn failure(&self) -> &NegotiationRecord {
        self.records
            .iter()
            .find(|r| !r.is_success())
            .unwrap_or_else(|| panic!("nothing failed: {:?}", self.events))
    }
}

/// What the link does with a datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Deliver,
    Lose,
    Repeat,
    Replace(Vec<Packet>),
}

type Link = Box<dyn FnMut(usize, &Packet) -> Fate>;

pub(crate) struct Pair {
    pub(crate) now: Instant,
    pub(crate) a: Peer,
    pub(crate) b: Peer,
    /// Decides by running number and content.
    pub(crate) link: Link,
    /// Everything that was sent, in order, before the link touched it.
    pub(crate) sent: Vec<Packet>,
    /// The addresses at which each takes what arrives.
    pub(crate) homes_a: Vec<IpAddr>,
    pub(crate) homes_b: Vec<IpAddr>,
    on_the_way: VecDeque<(Instant, Packet)>,
}

pub(crate) const DELAY: Duration = Duration::from_millis(10);

impl Pair {
    pub(crate) fn new(sides: (Side, Side)) -> Self {
        Self::seeded(sides, 1)
    }

    pub(crate) fn seeded((a, b): (Side, Side), seed: u64) -> Self {
        let now = Instant::now();
        Self {
            now,
            a: Peer::new(a, seed * 2, now),
            b: Peer::new(b, seed * 2 + 1, now),
            link: Box::new(|_, _| Fate::Deliver),
            sent: Vec::new(),
            homes_a: vec![ip(A), ip("2001:db8::1")],
            homes_b: vec![ip(B), ip("2001:db8::2")],
            on_the_way: VecDeque::new(),
        }
    }

    /// The gateway that has an address; none takes what is for nobody.
    fn peer_at(&mut self, address: IpAddr) -> Option<&mut Peer> {
        if self.homes_a.contains(&address) {
            Some(&mut self.a)
        } else if self.homes_b.contains(&address) {
            Some(&mut self.b)
        } else {
            None
        }
    }

    /// Takes what both want to send and lets the link decide.
    pub(crate) fn collect(&mut self) {
        let now = self.now;
        let mut transmits = self.a.drain(now);
        transmits.extend(self.b.drain(now));
        for Transmit { local, remote, datagram } in transmits {
            let packet = Packet { source: local, destination: remote, datagram };
            let fate = (self.link)(self.sent.len(), &packet);
            self.sent.push(packet.clone());
            let arrive = match fate {
                Fate::Deliver => vec![packet],
                Fate::Lose => Vec::new(),
                Fate::Repeat => vec![packet.clone(), packet],
                Fate::Replace(packets) => packets,
            };
            self.on_the_way.extend(arrive.into_iter().map(|p| (now + DELAY, p)));
        }
    }

    /// Hands one datagram in, now.
    pub(crate) fn deliver(&mut self, packet: &Packet) {
        let now = self.now;
        if let Some(peer) = self.peer_at(packet.destination.ip()) {
            peer.gateway.handle_datagram(now, packet.destination, packet.source, &packet.datagram);
        }
        self.collect();
    }

    /// Goes on until nothing is on the way; time passes only as the link needs it.
    pub(crate) fn settle(&mut self) {
        self.collect();
        while let Some((at, packet)) = self.on_the_way.pop_front() {
            self.now = self.now.max(at);
            self.deliver(&packet);
        }
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..100_000 {
            self.collect();
            let arrival = self.on_the_way.front().map(|(at, _)| *at);
            let timer =
                [self.a.gateway.poll_timeout(), self.b.gateway.poll_timeout()].into_iter().flatten().min();
            let next = [arrival, timer].into_iter().flatten().min();
            match next.filter(|at| *at <= end) {
                None => {
                    self.now = end;
                    return;
                }
                Some(at) => self.now = self.now.max(at),
            }
            if arrival.is_some_and(|at| at <= self.now) {
                let (_, packet) = self.on_the_way.pop_front().unwrap();
                self.deliver(&packet);
            } else {
                self.a.gateway.handle_timeout(self.now);
                self.b.gateway.handle_timeout(self.now);
            }
        }
        panic!("time does not pass: a timer that is due stays due");
    }

    /// `adit up CONNECTION` on `a`.
    pub(crate) fn up(&mut self) -> RequestId {
        self.up_connection("to-b")
    }

    pub(crate) fn up_connection(&mut self, name: &str) -> RequestId {
        let request = self.a.next_request();
        let target = Target { connection: Some(name.to_owned()), ..Target::default() };
        self.a.gateway.initiate(self.now, &target, request).unwrap();
        request
    }

    pub(crate) fn up_child(&mut self, name: &str) -> RequestId {
        let request = self.a.next_request();
        let target = Target { child: Some(name.to_owned()), ..Target::default() };
        self.a.gateway.initiate(self.now, &target, request).unwrap();
        request
    }

    pub(crate) fn down(&mut self, target: &TerminateTarget) -> RequestId {
        let request = self.a.next_request();
        self.a.gateway.terminate(self.now, target, request).unwrap();
        request
    }

    /// Both up and settled.
    pub(crate) fn established(sides: (Side, Side)) -> Self {
        let mut pair = Self::new(sides);
        let request = pair.up();
        pair.settle();
        assert_eq!(pair.a.done.get(&request), Some(&Ok(())), "{:?} {:?}", pair.a.events, pair.b.events);
        pair.assert_children(1);
        pair
    }

    /// Both data planes hold `count` children that fit each other: SPIs, keys, selectors.
    pub(crate) fn assert_children(&self, count: usize) {
        assert_eq!((self.a.installed.len(), self.b.installed.len()), (count, count), "{:?}", self.a.events);
        for a in self.a.installed.values() {
            let b = self.b.installed.values().find(|b| b.inbound_spi == a.outbound_spi).unwrap();
            assert_eq!(a.inbound_spi, b.outbound_spi);
            assert_eq!(a.transforms, b.transforms);
            assert!(a.outbound_keys.encr.ct_eq(b.inbound_keys.encr.expose()));
            assert!(a.outbound_keys.integ.ct_eq(b.inbound_keys.integ.expose()));
            assert!(a.inbound_keys.encr.ct_eq(b.outbound_keys.encr.expose()));
            assert!(a.inbound_keys.integ.ct_eq(b.outbound_keys.integ.expose()));
            assert!(!a.inbound_keys.encr.ct_eq(a.outbound_keys.encr.expose()), "two directions, two keys");
            assert_eq!(a.local_ts, b.remote_ts);
            assert_eq!(a.remote_ts, b.local_ts);
            assert_eq!(a.encap.map(|(ours, theirs)| (theirs, ours)), b.encap);
        }
    }

    /// So many children on each side, wherever they are.
    pub(crate) fn assert_installed(&self, count: usize) {
        assert_eq!((self.a.installed.len(), self.b.installed.len()), (count, count), "{:?}", self.a.events);
    }

    pub(crate) fn assert_nothing(&self) {
        self.assert_children(0);
        assert_eq!(self.a.gateway.ike_sas().count(), 0, "{:?}", self.a.events);
        assert_eq!(self.b.gateway.ike_sas().count(), 0, "{:?}", self.b.events);
    }

    /// Exchange, direction and Message ID of everything sent.
    pub(crate) fn trace(&self) -> Vec<String> {
        self.sent
            .iter()
            .map(|p| {
                let h = p.header();
                let arrow = if h.flags.response { "<-" } else { "->" };
                format!("{} {arrow} {}", h.exchange, h.message_id)
            })
            .collect()
    }

    /// The key log of the IKE SA that a message belongs to.
    pub(crate) fn keys(&self, packet: &Packet) -> &IkeKeyLog {
        let header = packet.header();
        self.a
            .keys
            .iter()
            .chain(&self.b.keys)
            .find(|k| k.initiator_spi == header.initiator_spi && k.responder_spi == header.responder_spi)
            .unwrap()
    }

    /// What is inside the message of this number.
    pub(crate) fn open_with(&self, keys: &IkeKeyLog, number: usize) -> Vec<Payload> {
        open(keys, &self.sent[number])
    }

    /// What is inside an Encrypted payload, read with the key log as an observer would.
    pub(crate) fn open(&self, packet: &Packet) -> Vec<Payload> {
        open(self.keys(packet), packet)
    }
}

pub(crate) fn protection(keys: &IkeKeyLog, from_initiator: bool) -> Protection {
    let t = &keys.transforms;
    let (encr, integ) = if from_initiator { (&keys.sk_ei, &keys.sk_ai) } else { (&keys.sk_er, &keys.sk_ar) };
    Protection::new(t.encr, t.key_bits, t.integ, encr, integ).unwrap()
}

pub(crate) fn open(keys: &IkeKeyLog, packet: &Packet) -> Vec<Payload> {
    try_open(keys, packet).expect("sealed with these keys")
}

/// What is inside, if these are the keys.
pub(crate) fn try_open(keys: &IkeKeyLog, packet: &Packet) -> Option<Vec<Payload>> {
    let message = Message::decode(&packet.datagram).ok()?;
    let encrypted = message.encrypted?;
    let protection = protection(keys, message.header.flags.initiator);
    let (associated, body) = packet.datagram.split_at(encrypted.associated_data_len);
    let (iv, rest) = body.split_at_checked(protection.iv_len())?;
    let (text, icv) = rest.split_at_checked(rest.len().checked_sub(protection.icv_len())?)?;
    let mut text = text.to_vec();
    protection.open(iv, associated, &[], &mut text, icv).ok()?;
    let padding = usize::from(*text.last()?) + 1;
    Message::decode_inner(encrypted.first_inner, text.get(..text.len().checked_sub(padding)?)?).ok()
}

/// Seals any payloads with the keys of an IKE SA, as a peer that has them could. `iv` must be one the real peer has
/// not used and will not.
pub(crate) fn seal(keys: &IkeKeyLog, header: &Header, payloads: &[Payload], iv: u64) -> Vec<u8> {
    let protection = protection(keys, header.flags.initiator);
    let layout = SkLayout {
        iv_len: protection.iv_len(),
        block_len: protection.block_len(),
        icv_len: protection.icv_len(),
    };
    let draft = Message::encode_encrypted(header, payloads, layout);
    let mut datagram = draft.datagram;
    let (associated, rest) = datagram.split_at_mut(draft.iv.start);
    let (iv_octets, rest) = rest.split_at_mut(draft.iv.len());
    let (text, icv) = rest.split_at_mut(draft.plaintext.len());
    protection.next_iv(iv, iv_octets);
    protection.seal(iv_octets, associated, &[], text, icv).unwrap();
    datagram
}

/// A header of the IKE SA of `keys`.
pub(crate) fn header(
    keys: &IkeKeyLog,
    exchange: ExchangeType,
    initiator: bool,
    response: bool,
    id: u32,
) -> Header {
    Header {
        initiator_spi: keys.initiator_spi,
        responder_spi: keys.responder_spi,
        next_payload: PayloadType::NONE,
        version: adit_wire::ikev2::Version::IKEV2,
        exchange,
        flags: adit_wire::ikev2::Flags { initiator, version: false, response },
        message_id: id,
        length: 0,
    }
}

pub(crate) fn notify(notify_type: NotifyType) -> Payload {
    Payload::Notify(Notify::new(notify_type, Vec::new()))
}
