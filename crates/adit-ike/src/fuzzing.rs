//! The entry point of the fuzz target `ike_gateway`, also run by the ordinary tests over its corpus. Not part of the API.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use adit_cert::{Certificate, Requirements};
use adit_crypto::testing::SeededEntropy;
use adit_crypto::{IkeKeys, PrivateKey, Secret};
use adit_wire::ikev2::{
    ExchangeType, Flags, Header, IkeSpi, Message, Payload, PayloadType, TrafficSelector, UnknownPayload,
    Version,
};

use crate::config::{
    AddressSpec, Child, Configuration, Connection, Constraints, LocalAuth, RemoteAuth, Retransmission,
    SelectorSpec, Settings, SharedSecret,
};
use crate::identity::{Identity, IdentityPattern};
use crate::ike_sa::Secured;
use crate::output::{Event, IkeKeyLog, Output, RequestId, Transmit};
use crate::{Gateway, Target, proposal};

const INITIATOR: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const RESPONDER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

/// How many messages of the handshake have arrived when the strange ones come; with four it is complete.
const STAGES: u8 = 5;

/// With this bit in the first octet the two authenticate by certificates, else by a pre-shared key.
const BY_CERTIFICATE: u8 = 0x80;

/// Lets two gateways come as far as the first octet of `data` says, then hands them what the rest says.
///
/// The rest is a sequence of `control | what`. By bit 0 of the control octet it goes to the initiator, else to the
/// responder; by bit 1 it is a message sealed with the keys of the IKE SA (`exchange | message ID | number of
/// payloads`, then per payload `type | length 2 | body`), else a raw datagram (`length 2 | octets`) whose SPIs by bit 2
/// are those of the IKE SA; bit 3 is the response flag of a sealed message, bit 5 cuts it into fragments; by bit 4 a
/// second passes before.
///
/// # Panics
/// If a gateway does something that it must never do.
pub fn talk(data: &[u8]) {
    let Some((stage, rest)) = data.split_first() else { return };
    let mut scene = Scene::at_stage((stage & !BY_CERTIFICATE) % STAGES, stage & BY_CERTIFICATE != 0);
    let mut rest = Cursor(rest);
    // No input needs more to go through every state there is.
    for _ in 0..32 {
        if scene.strange_message(&mut rest).is_none() {
            break;
        }
    }
    scene.end();
}

/// What is not read yet.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn block(&mut self) -> Option<&'a [u8]> {
        let length = u16::from_be_bytes([self.u8()?, self.u8()?]);
        self.take(usize::from(length).min(self.0.len()))
    }
}

struct Side {
    gateway: Gateway,
    address: SocketAddr,
    installed: usize,
    authenticated: bool,
}

impl Side {
    fn new(
        own: IpAddr,
        peer: IpAddr,
        names: [&str; 2],
        seed: u64,
        now: Instant,
        by_certificate: bool,
    ) -> Self {
        let settings = Settings { key_log: true, ..Settings::default() };
        let mut gateway = Gateway::new(settings, Box::new(SeededEntropy::new(seed)), now);
        let (connection, secret) = configuration(own, peer, names);
        let mut configuration = Configuration {
            connections: vec![connection],
            secrets: vec![secret],
            ..Configuration::default()
        };
        if by_certificate {
            certify(&mut configuration, own);
        }
        gateway.set_configuration(configuration);
        // 2030-01-01, when these certificates are valid.
        gateway.set_wall_clock(now, SystemTime::UNIX_EPOCH + Duration::from_secs(1_893_456_000));
        Self { gateway, address: SocketAddr::new(own, 500), installed: 0, authenticated: false }
    }

    /// Drains the outputs; what they are is checked by count, and who was told that it is up.
    fn drain(&mut self, keys: &mut Option<IkeKeyLog>) -> Vec<Transmit> {
        let mut transmits = Vec::new();
        for count in 0.. {
            let Some(output) = self.gateway.poll_output() else { break };
            assert!(count < 4096, "one input, no end of outputs");
            match output {
                Output::Transmit(transmit) => transmits.push(transmit),
                Output::InstallChild(_) => self.installed += 1,
                Output::Event(Event::IkeUp(_)) => self.authenticated = true,
                Output::KeyLog(log) => {
                    keys.get_or_insert(log);
                }
                _ => {}
            }
        }
        transmits
    }
}

fn configuration(own: IpAddr, peer: IpAddr, [name, other]: [&str; 2]) -> (Connection, SharedSecret) {
    let one = |address| vec![AddressSpec { first: address, last: address }];
    let network =
        |n| vec![SelectorSpec::Fixed(TrafficSelector::subnet(IpAddr::V4(Ipv4Addr::new(10, n, 0, 0)), 16))];
    let side = |address: IpAddr| if address == INITIATOR { 1 } else { 2 };
    let child = Child {
        name: "net".to_owned(),
        proposals: proposal::parse_esp("aes128gcm16").unwrap_or_default(),
        local_ts: network(side(own)),
        remote_ts: network(side(peer)),
        replay_window: 64,
        ..Child::default()
    };
    let connection = Connection {
        name: "peer".to_owned(),
        local_addrs: one(own),
        remote_addrs: one(peer),
        proposals: proposal::parse_ike("aes128gcm16-prfsha256-x25519-ecp256").unwrap_or_default(),
        local_id: Some(Identity::fqdn(name)),
        remote_id: IdentityPattern::Exact(Identity::fqdn(other)),
        dpd_delay: Duration::from_secs(30),
        retransmission: Retransmission { give_up: Duration::from_secs(10), ..Retransmission::default() },
        children: vec![child],
        ..Connection::default()
    };
    let key = Secret::new(b"known to nobody who makes inputs".to_vec());
    (connection, SharedSecret { name: "ike".to_owned(), owners: Vec::new(), secret: Arc::new(key) })
}

/// Lets this side authenticate by the certificate that is made for it, and trust the authority of both. That the keys are
/// known to whoever reads them here does no harm: no input signs with them.
fn certify(configuration: &mut Configuration, own: IpAddr) {
    let (certificate, key) = if own == INITIATOR {
        (&include_bytes!("fuzzing/i.cert.der")[..], &include_bytes!("fuzzing/i.key.der")[..])
    } else {
        (&include_bytes!("fuzzing/r.cert.der")[..], &include_bytes!("fuzzing/r.key.der")[..])
    };
    let root = Certificate::from_der(include_bytes!("fuzzing/root.cert.der"));
    let trusted = root.ok().and_then(|root| configuration.trust.add_authority(root).ok());
    let own = Certificate::from_der(certificate).ok().zip(PrivateKey::from_der(key).ok());
    let (Some((certificate, key)), Some(())) = (own, trusted) else {
        unreachable!("these files are part of the program")
    };
    configuration.keys = vec![Arc::new(key)];
    for connection in &mut configuration.connections {
        let constraints = Constraints::default();
        connection.local_auth = LocalAuth::PublicKey {
            certificates: vec![certificate.clone()],
            constraints: constraints.clone(),
        };
        connection.remote_auth = RemoteAuth::PublicKey { requirements: Requirements::default(), constraints };
    }
}

struct Scene {
    now: Instant,
    initiator: Side,
    responder: Side,
    keys: Option<IkeKeyLog>,
    spi_i: IkeSpi,
    complete: bool,
}

impl Scene {
    fn at_stage(stage: u8, by_certificate: bool) -> Self {
        let now = Instant::now();
        let mut scene = Self {
            now,
            initiator: Side::new(INITIATOR, RESPONDER, ["i", "r"], 1, now, by_certificate),
            responder: Side::new(RESPONDER, INITIATOR, ["r", "i"], 2, now, by_certificate),
            keys: None,
            spi_i: IkeSpi::ZERO,
            complete: stage >= 4,
        };
        let target = Target { connection: Some("peer".to_owned()), ..Target::default() };
        let started = scene.initiator.gateway.initiate(now, &target, RequestId(1));
        assert_eq!(started, Ok(()));
        for step in 0..=stage {
            let (from, to) = if step.is_multiple_of(2) {
                (&mut scene.initiator, &mut scene.responder)
            } else {
                (&mut scene.responder, &mut scene.initiator)
            };
            for transmit in from.drain(&mut scene.keys) {
                if let Ok(header) = Header::decode(&transmit.datagram) {
                    scene.spi_i = header.initiator_spi;
                }
                if step < stage {
                    to.gateway.handle_datagram(now, transmit.remote, transmit.local, &transmit.datagram);
                }
            }
        }
        scene.drain();
        assert_eq!(scene.initiator.installed, usize::from(scene.complete));
        scene
    }

    fn drain(&mut self) {
        self.initiator.drain(&mut self.keys);
        self.responder.drain(&mut self.keys);
    }

    /// One strange message; `None` when there are no more.
    fn strange_message(&mut self, rest: &mut Cursor<'_>) -> Option<()> {
        let control = rest.u8()?;
        let to_initiator = control & 1 != 0;
        let datagrams = if control & 2 != 0 {
            let largest = (control & 32 != 0).then_some(0);
            self.sealed_message(rest, to_initiator, control & 8 != 0, largest)?
        } else {
            vec![self.raw_message(rest, control & 4 != 0)?]
        };
        if control & 16 != 0 {
            self.pass(Duration::from_secs(1));
        }
        let before = self.responder.installed;
        let (to, from) = if to_initiator {
            (&mut self.initiator, &self.responder)
        } else {
            (&mut self.responder, &self.initiator)
        };
        for datagram in datagrams {
            to.gateway.handle_datagram(self.now, to.address, from.address, &datagram);
        }
        self.drain();
        // Whoever made the input does not know the pre-shared key, and signs with none of the keys.
        if !self.initiator.authenticated {
            assert_eq!(self.initiator.installed, 0);
        }
        assert!(self.initiator.authenticated == self.complete, "authenticated by a stranger");
        assert!(self.responder.installed <= before + 1);
        Some(())
    }

    fn raw_message(&self, rest: &mut Cursor<'_>, with_spis: bool) -> Option<Vec<u8>> {
        let mut datagram = rest.block()?.to_vec();
        let spi_r = self.keys.as_ref().map_or(IkeSpi::ZERO, |k| k.responder_spi);
        if with_spis && let Some((spis, _)) = datagram.split_first_chunk_mut::<16>() {
            *spis = ((u128::from(self.spi_i.0) << 64) | u128::from(spi_r.0)).to_be_bytes();
        }
        Some(datagram)
    }

    /// A message as only a holder of the keys can make it.
    fn sealed_message(
        &self,
        rest: &mut Cursor<'_>,
        to_initiator: bool,
        response: bool,
        largest: Option<usize>,
    ) -> Option<Vec<Vec<u8>>> {
        let (exchange, message_id, count) = (ExchangeType(rest.u8()?), rest.u8()?, rest.u8()?);
        let mut payloads = Vec::new();
        for _ in 0..count % 16 {
            let (payload_type, body) = (PayloadType(rest.u8()?), rest.block()?.to_vec());
            payloads.push(Payload::Unknown(UnknownPayload { payload_type, critical: false, body }));
        }
        let log = self.keys.as_ref();
        let header = Header {
            initiator_spi: self.spi_i,
            responder_spi: log.map_or(IkeSpi::ZERO, |k| k.responder_spi),
            next_payload: PayloadType::NONE,
            version: Version::IKEV2,
            exchange,
            flags: Flags { initiator: !to_initiator, version: false, response },
            message_id: message_id.into(),
            length: 0,
        };
        let Some(log) = log else { return Some(vec![Message::encode(&header, &payloads)]) };
        let secret = |octets: &[u8]| Secret::new(octets.to_vec());
        let keys = IkeKeys {
            sk_d: secret(&[]),
            sk_ai: secret(&log.sk_ai),
            sk_ar: secret(&log.sk_ar),
            sk_ei: secret(&log.sk_ei),
            sk_er: secret(&log.sk_er),
            sk_pi: secret(&[]),
            sk_pr: secret(&[]),
        };
        let mut secured = Secured::new(log.transforms, keys, !to_initiator).ok()?;
        secured.largest = largest;
        secured.seal(&header, &payloads).ok()
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.initiator.gateway.handle_timeout(self.now);
        self.responder.gateway.handle_timeout(self.now);
        self.drain();
    }

    /// Nobody answers any more: everything comes to an end, and time passes while it does.
    fn end(mut self) {
        self.initiator.gateway.shutdown(self.now);
        self.responder.gateway.shutdown(self.now);
        self.drain();
        for _ in 0..1000 {
            let due =
                [&self.initiator, &self.responder].into_iter().filter_map(|s| s.gateway.poll_timeout()).min();
            let Some(due) = due else { break };
            let wait = due.saturating_duration_since(self.now);
            self.pass(wait);
        }
        for side in [&self.initiator, &self.responder] {
            assert_eq!(side.gateway.poll_timeout(), None, "a timer without end");
            assert_eq!(side.gateway.ike_sas().count(), 0, "an IKE SA without end");
        }
    }
}
