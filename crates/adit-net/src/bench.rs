//! The engine of one worker without a kernel around it, for measurements: what is sealed is opened again at once, by the other
//! half of the same SA pair. It never looks at a clock, and nothing else uses it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use adit_crypto::{EspKeys, EspTransforms, Secret, encr_key_len};
use adit_esp::{Action, InboundSa, Mode, Policy, PolicyTable, ReplayWindow, SaParameters};
use adit_wire::ikev2::{EncrId, Spi, TrafficSelector};
use adit_wire::ip::{self, Ipv4Header, PROTOCOL_UDP};

use crate::Error;
use crate::backend::{ChildId, Limits, PolicyId, Treatment};
use crate::counters::{Clock, SaCounts, WorkerCounts};
use crate::engine::{
    Arrival, Device, Engine, Inbound, Known, NewChild, Offload, Outbound, Policies, Table, Transport,
    WorkerPlace,
};
use crate::sockets::Kind;

/// An engine with SA pairs, of which each has a policy of its own.
pub struct Loopback {
    engine: Engine,
    now: Instant,
    packet: Vec<u8>,
    known: Vec<Known>,
    /// What has "arrived", and where in it each packet lies.
    received: Vec<u8>,
    places: Vec<Range<usize>>,
}

/// AES-256-GCM with extended sequence numbers.
const TRANSFORMS: EspTransforms =
    EspTransforms { encr: EncrId::AES_GCM_16, key_bits: Some(256), integ: None, esn: true };

const DEVICE: Device = Device::SHARED;
const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const REMOTE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

impl Loopback {
    /// With so many policies, and packets of `len` octets, at least 28.
    #[must_use]
    pub fn new(policies: u32, len: usize) -> Self {
        let (now, place) = (Instant::now(), WorkerPlace { index: 0, workers: 1 });
        let mut engine = Engine::new(place, Arc::new(WorkerCounts::default()), Clock::new(now), true, true);
        let list: Vec<Policy> = (0..policies)
            .map(|number| Policy {
                priority: 0,
                action: Action::Protect,
                local_ts: vec![ours()],
                remote_ts: vec![theirs(number)],
            })
            .collect();
        let ids = (0..policies).map(|number| PolicyId(number.into())).collect();
        let tables = vec![Table { table: PolicyTable::new(&list), ids }];
        engine.follow(&Arc::new(Policies { tables, ..Policies::default() }));
        let header = Ipv4Header::new(LOCAL_HOST, theirs_address(0), PROTOCOL_UDP, 64, len - 20);
        let mut packet = header.encode().to_vec();
        packet.resize(len, 0);
        Self { engine, now, packet, known: Vec::new(), received: Vec::new(), places: Vec::new() }
    }

    /// Installs a pair for each of these policies.
    ///
    /// # Errors
    /// The cryptography fails, for want of memory.
    pub fn install(&mut self, policies: Range<u32>) -> Result<(), Error> {
        for number in policies {
            let transport =
                Transport { kind: Kind::NatT, source: LOCAL, destination: SocketAddr::new(REMOTE, 4500) };
            let (id, limits, treatment) = (ChildId(number.into()), Limits::default(), Treatment::default());
            let counts = Arc::new(SaCounts::default());
            let sa = InboundSa::new(parameters(number, theirs(number), ours()))?;
            let inbound = Inbound::new(
                id,
                sa,
                true,
                limits,
                transport,
                (&treatment, DEVICE, 1400),
                Arc::clone(&counts),
            );
            let outbound = parameters(number, ours(), theirs(number));
            let outbound = Outbound::new(id, outbound, limits, transport, (treatment, DEVICE, 1400), counts)?;
            let child = NewChild {
                id,
                policy: PolicyId(number.into()),
                spi: spi(number).0,
                own: false,
                active: true,
                inbound: Some(inbound),
                outbound: Some(outbound),
            };
            self.engine.install(child, Some(1500), self.now);
        }
        Ok(())
    }

    /// Seals a packet of each of these flows, which are a policy and a port, as a burst that another worker has read.
    pub fn seal(&mut self, flows: &[(u32, u16)]) {
        let Self { engine, packet, known, received, places, now } = self;
        known.clear();
        for (number, port) in flows {
            put(packet, 16, theirs_address(*number).octets());
            put(packet, 20, port.to_be_bytes());
            known.extend(ip::flow(packet).ok().map(Known::settled));
        }
        engine.expect_flows(known.iter().filter_map(|known| Some((DEVICE, known.flow()?))));
        for ((number, port), known) in flows.iter().zip(known) {
            put(packet, 16, theirs_address(*number).octets());
            put(packet, 20, port.to_be_bytes());
            engine.outbound(DEVICE, packet, &Offload::default(), Some(known), *now);
        }
        received.clear();
        places.clear();
        let trains = std::mem::take(&mut engine.trains);
        for train in trains.all() {
            let (start, octets) = (received.len(), trains.octets(train));
            received.extend_from_slice(octets);
            let starts = (0..octets.len()).step_by(train.segment);
            places.extend(starts.map(|at| start + at..start + octets.len().min(at + train.segment)));
            engine.sent(&trains, train, 0..train.len(), *now);
        }
        engine.trains = trains;
        engine.all_sent();
    }

    /// Opens what was sealed. Returns how many packets have come through.
    pub fn open(&mut self) -> usize {
        let Self { engine, received, places, now, .. } = self;
        let arrival = Arrival {
            kind: Kind::NatT,
            v6: false,
            local: Some(SocketAddr::new(LOCAL, 4500)),
            remote: Some(SocketAddr::new(REMOTE, 4500)),
            tos: 0,
            hop_limit: None,
        };
        let octets = &*received;
        engine.expect(places.iter().map(|place| octets.get(place.clone()).unwrap_or_default()));
        for place in places.drain(..) {
            engine.inbound(received, place, 0, &arrival, *now);
        }
        let through = engine.deliveries.all().len();
        engine.deliveries.clear();
        through
    }
}

const LOCAL_HOST: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);

fn ours() -> TrafficSelector {
    TrafficSelector::subnet([10, 1, 0, 0].into(), 16)
}

fn theirs(number: u32) -> TrafficSelector {
    TrafficSelector::subnet(theirs_address(number).into(), 32)
}

fn theirs_address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from_be_bytes([10, 128, 0, 0]) + number)
}

/// With a slot above its lane, as `adit-ike` makes them.
fn spi(number: u32) -> Spi {
    Spi(1 << 30 | number << 6)
}

fn parameters(number: u32, local: TrafficSelector, remote: TrafficSelector) -> SaParameters {
    let key = 0..encr_key_len(TRANSFORMS.encr, TRANSFORMS.key_bits).unwrap_or(0);
    SaParameters {
        spi: spi(number),
        mode: Mode::Tunnel,
        transforms: TRANSFORMS,
        keys: EspKeys {
            encr: Secret::new(key.map(|at| (number >> (8 * (at % 4))) as u8).collect()),
            integ: Secret::new(Vec::new()),
        },
        replay_window: ReplayWindow::DEFAULT_SIZE,
        local_ts: vec![local],
        remote_ts: vec![remote],
        original: None,
    }
}

fn put<const N: usize>(packet: &mut [u8], at: usize, octets: [u8; N]) {
    if let Some(place) = packet.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *place = octets;
    }
}
