//! What the engine does across its parts: limits, headers, and the SAs of workers.

use adit_crypto::{EspKeys, EspTransforms, Secret};
use adit_esp::SaParameters;
use adit_esp::translate::{Renumbering, Translation};
use adit_esp::tunnel::Tfc;
use adit_wire::ikev2::{EncrId, TrafficSelector};

use super::*;
use crate::backend::{Iptfs, Limits, Treatment};

const AWAY: PolicyId = PolicyId(12);
const HOME: PolicyId = PolicyId(7);

fn engine(index: usize, workers: usize) -> Engine {
    let clock = Clock::new(Instant::now());
    let place = WorkerPlace { index, workers };
    let mut engine = Engine::new(place, Arc::default(), clock, false, false);
    let everything = vec![TrafficSelector::any_v4()];
    let policy = adit_esp::Policy {
        priority: 0,
        action: Action::Protect,
        local_ts: everything.clone(),
        remote_ts: everything,
    };
    let table = |id| Table { table: PolicyTable::new(std::slice::from_ref(&policy)), ids: vec![id] };
    let tables = vec![Table::default(), table(HOME), table(AWAY)];
    engine.follow(&Arc::new(Policies { tables, spread: HashSet::from([HOME]), ..Policies::default() }));
    engine
}

/// The outbound half of an SA.
fn outbound(engine: &mut Engine, id: u64, own: bool, now: Instant) {
    outbound_of(engine, (Device(1), HOME), id, own, now);
}

fn outbound_of(engine: &mut Engine, place: (Device, PolicyId), id: u64, own: bool, now: Instant) {
    let limits = Limits::default();
    outbound_in(engine, place, (id, own), (adit_esp::Mode::Tunnel, limits), now);
}

fn outbound_in(
    engine: &mut Engine,
    place: (Device, PolicyId),
    (id, own): (u64, bool),
    (mode, limits): (adit_esp::Mode, Limits),
    now: Instant,
) {
    let iptfs = Iptfs { init_delay: Duration::from_secs(1), ..Default::default() };
    let (child, _) = child(place, (id, own), (mode, limits), Treatment { iptfs, ..Default::default() });
    engine.install(child, Some(1500), now);
}

fn child(
    (device, policy): (Device, PolicyId),
    (id, own): (u64, bool),
    (mode, limits): (adit_esp::Mode, Limits),
    treatment: Treatment,
) -> (NewChild, Arc<SaCounts>) {
    let transforms = EspTransforms { encr: EncrId::AES_GCM_16, key_bits: Some(128), integ: None, esn: false };
    let keys = EspKeys { encr: Secret::new(vec![1; 20]), integ: Secret::new(Vec::new()) };
    let parameters = SaParameters {
        spi: Spi(0x1000 + id as u32),
        mode,
        transforms,
        keys,
        replay_window: 64,
        local_ts: vec![TrafficSelector::any_v4()],
        remote_ts: vec![TrafficSelector::any_v4()],
        original: None,
    };
    let address = "192.0.2.1".parse().unwrap();
    let transport =
        Transport { kind: Kind::NatT, source: address, destination: SocketAddr::new(address, 4500) };
    let (treatment, counts) = ((treatment, device, 1500), Arc::default());
    let half = Outbound::new(ChildId(id), parameters, limits, transport, treatment, Arc::clone(&counts));
    let child = NewChild {
        id: ChildId(id),
        policy,
        spi: 0x2000 + id as u32,
        own,
        active: true,
        inbound: None,
        outbound: Some(half.unwrap()),
    };
    (child, counts)
}

/// A packet of UDP.
fn packet(port: u16) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 1, 0, 1, 10, 2, 0, 1];
    packet.extend([&port.to_be_bytes()[..], &[0, 7, 0, 8, 0, 0]].concat());
    packet
}

/// Which workers a packet goes to that the worker `first` has read, and which SA seals it there.
fn way(engines: &mut [Engine], first: usize, port: u16, now: Instant) -> (Vec<usize>, Option<ChildId>) {
    let mut packet = packet(port);
    let (mut way, mut known) = (vec![first], None);
    loop {
        let engine = &mut engines[*way.last().unwrap()];
        match engine.whose(Device(1), &packet, known.as_ref(), now) {
            Whose::Theirs(to, found) => {
                way.push(to);
                known = Some(found);
                assert!(way.len() < 8 + engines.len(), "for ever: {way:?}");
            }
            Whose::Ours => {
                engine.outbound(Device(1), &mut packet, &Offload::default(), known.as_ref(), now);
                let place = engine.trains.all().first().map(|train| train.sa());
                let sealed = place.and_then(|place| engine.sas.outbound(place)).map(|sa| sa.id());
                engine.all_sent();
                return (way, sealed);
            }
        }
    }
}

/// Two devices for which everything is selected: where a packet was read decides, and nothing else.
#[test]
fn a_packet_takes_the_sa_of_its_device_or_none() {
    let now = Instant::now();
    let mut engine = engine(0, 1);
    outbound_of(&mut engine, (Device(1), HOME), 100, false, now);
    outbound_of(&mut engine, (Device(2), AWAY), 200, false, now);
    let packet = [0x45, 0, 0, 20, 0, 0, 0, 0, 64, 59, 0, 0, 10, 1, 0, 1, 10, 2, 0, 1];
    for (device, expected) in
        [(1, Some(100)), (2, Some(200)), (1, Some(100)), (0, None), (3, None), (2, Some(200))]
    {
        let mut packet = packet;
        engine.outbound(Device(device), &mut packet, &Offload::default(), None, now);
        let place = engine.trains.all().first().map(|train| train.sa());
        let sealed = place.and_then(|place| engine.sas.outbound(place)).map(|sa| sa.id());
        assert_eq!(sealed, expected.map(ChildId), "device {device}");
        engine.all_sent();
    }
    assert_eq!(engine.report.counts.drops_for(DropCause::NoPolicy), 2);
}

/// RFC 9611: a worker uses its own SA, else the one for all, which is at home; and if there is none for all, any other.
#[test]
fn workers_use_their_own_sas_and_those_without_one_the_one_for_all() {
    let now = Instant::now();
    for workers in [2, 3, 5, 64] {
        let home = steering::worker_of_policy(Device(1), HOME, workers);
        let mut engines: Vec<Engine> = (0..workers).map(|index| engine(index, workers)).collect();
        outbound(&mut engines[home], 100, false, now);
        let with_own = [0, workers - 1];
        for own in with_own {
            outbound(&mut engines[own], own as u64, true, now);
        }
        // A successor of the one for all is younger, and changes nothing for those with their own.
        outbound(&mut engines[home], 101, false, now);
        for port in 1..20 {
            for first in 0..workers {
                let at = if with_own.contains(&first) { first } else { home };
                let expected = if with_own.contains(&at) { at as u64 } else { 101 };
                let way = way(&mut engines, first, port, now);
                assert_eq!((way.0.last(), way.1), (Some(&at), Some(ChildId(expected))), "{way:?}");
                assert!(way.0.len() <= 2, "{way:?}");
            }
        }
        // An own one goes: its worker does as those without.
        engines[0].retire(ChildId(0), now);
        let (at, sealed) = way(&mut engines, 0, 1, now);
        let with_own = home == workers - 1;
        let expected = if with_own { workers as u64 - 1 } else { 101 };
        assert_eq!((at.last(), sealed), (Some(&home), Some(ChildId(expected))));
        // The ones for all go: whichever there is serves.
        engines[home].retire(ChildId(100), now);
        engines[home].retire(ChildId(101), now);
        for first in 0..workers {
            assert_eq!(way(&mut engines, first, 1, now).1, Some(ChildId(workers as u64 - 1)));
        }
        // None is left: the packet ends somewhere.
        engines[workers - 1].retire(ChildId(workers as u64 - 1), now);
    }
    let mut engines: Vec<Engine> = (0..4).map(|index| engine(index, 4)).collect();
    for first in 0..4 {
        assert_eq!(way(&mut engines, first, 1, now).1, None);
    }
}

/// Whoever reads, hands over and seals, on whichever SAs there are: no IV comes twice on one SA. SAs come to places that others had,
/// and end by their limits.
#[test]
fn adversarial_61_several_workers_use_no_iv_twice() {
    const WORKERS: usize = 4;
    let now = Instant::now();
    let mut engines: Vec<Engine> = (0..WORKERS).map(|index| engine(index, WORKERS)).collect();
    let home = steering::worker_of_policy(Device(1), HOME, WORKERS);
    let mut ivs = HashSet::new();
    let mut sealed = 0;
    for generation in 0..40 {
        let limits = Limits { hard_packets: Some(100 + generation), ..Limits::default() };
        for own in (0..WORKERS).filter(|own| (generation >> own) & 1 == 0) {
            let id = 1000 * generation + own as u64;
            let tunnel = (adit_esp::Mode::Tunnel, limits);
            outbound_in(&mut engines[own], AT, (id, true), tunnel, now);
        }
        outbound(&mut engines[home], 1000 * generation + 100, false, now);
        for number in 0..600_u16 {
            let first = usize::from(number * 7 % 11) % WORKERS;
            let (mut at, mut known, mut packet) = (first, None, packet(number % 23));
            while let Whose::Theirs(to, found) = engines[at].whose(Device(1), &packet, known.as_ref(), now) {
                (at, known) = (to, Some(found));
            }
            let engine = &mut engines[at];
            engine.outbound(Device(1), &mut packet, &Offload::default(), known.as_ref(), now);
            for train in engine.trains.all() {
                for esp in engine.trains.octets(train).chunks(train.segment) {
                    // The SPI, which stands for the key, and the IV behind the sequence number.
                    assert!(ivs.insert((esp[..4].to_vec(), esp[8..16].to_vec())), "{esp:02x?}");
                    sealed += 1;
                }
            }
            engine.all_sent();
        }
        for engine in &mut engines {
            (0..=100).for_each(|id| engine.remove(ChildId(1000 * generation + id), now));
        }
    }
    // The packet that meets the limit of a worker's own SA does not look for one elsewhere.
    let lost: u64 = engines.iter().map(|engine| engine.report.counts.drops_for(DropCause::NoSa)).sum();
    assert_eq!((sealed + lost, lost < 100), (40 * 600, true), "{lost}");
}

const AT: (Device, PolicyId) = (Device(1), HOME);
const IPTFS: adit_esp::Mode = adit_esp::Mode::Iptfs { fragments: true };

/// What waits for its IP-TFS payload when its SA ends, however that ends, goes to whichever worker has another SA for it, once
/// and in order; without one it is counted.
#[test]
fn what_waits_for_a_payload_outlives_its_sa() {
    let now = Instant::now();
    let home = steering::worker_of_policy(Device(1), HOME, 3);
    let own = (home + 1) % 3;
    let limits = Limits { hard_packets: Some(5), ..Default::default() };
    for end in 0..3 {
        let mut engine = engine(own, 3);
        outbound_in(&mut engine, AT, (1, true), (IPTFS, limits), now);
        for port in 1..=3 {
            engine.outbound(Device(1), &mut packet(port), &Offload::default(), None, now);
        }
        assert!(engine.report.astray.is_empty() && engine.trains.all().is_empty());
        match end {
            0 => engine.retire(ChildId(1), now),
            1 => engine.remove(ChildId(1), now),
            _ => (4..=8).for_each(|port| {
                engine.outbound(Device(1), &mut packet(port), &Offload::default(), None, now);
                // The fifth payload is the last: each takes a packet.
                engine.on_time(now + Duration::from_secs(2));
            }),
        }
        let astray: Vec<(usize, Vec<u8>)> =
            engine.report.astray.drain(..).map(|(to, _, packet, _)| (to, packet)).collect();
        if end < 2 {
            assert_eq!(astray, [1, 2, 3].map(|port| (home, packet(port))), "{end}");
        } else {
            assert!(engine.sas.place_of(ChildId(1)).is_none(), "the limit");
        }
        engine.all_sent();
        assert_eq!(engine.deadline(), None);
    }
    // At home: nobody else has one, which is found out by asking.
    for workers in [1, 3] {
        let mut engine = engine(steering::worker_of_policy(Device(1), HOME, workers), workers);
        outbound_in(&mut engine, AT, (1, false), (IPTFS, limits), now);
        (1..=3)
            .for_each(|port| engine.outbound(Device(1), &mut packet(port), &Offload::default(), None, now));
        engine.retire(ChildId(1), now);
        let counted = engine.report.counts.drops_for(DropCause::NoSa);
        assert_eq!((engine.report.astray.len() as u64, counted), if workers == 1 { (0, 3) } else { (3, 0) });
    }
    // A limit that is reached while packets wait: they leave on the next SA, before what came last.
    let mut engine = engine(0, 1);
    outbound(&mut engine, 2, false, now);
    let limits = Limits { hard_packets: Some(1), ..Default::default() };
    outbound_in(&mut engine, AT, (1, false), (IPTFS, limits), now);
    engine.outbound(Device(1), &mut packet(1), &Offload::default(), None, now);
    engine.on_time(now + Duration::from_secs(1));
    assert_eq!(engine.trains.all().len(), 1);
    for port in 2..=4 {
        engine.outbound(Device(1), &mut packet(port), &Offload::default(), None, now);
    }
    let sealed: usize = engine.trains.all().iter().map(Train::len).sum();
    assert_eq!((sealed, engine.report.counts.drops_for(DropCause::NoSa)), (4, 0));
}

/// The packets of our side keep the addresses that they have inside until they leave: translated, another policy would fit them.
#[test]
fn what_waits_for_a_payload_looks_for_another_sa_untranslated() {
    let now = Instant::now();
    let pair = |inside: [u8; 4], outside: [u8; 4]| Renumbering::new(inside.into(), outside.into(), 16);
    let translation = Translation {
        local: pair([10, 1, 0, 0], [10, 2, 0, 0]).into_iter().collect(),
        remote: pair([10, 2, 0, 0], [10, 1, 0, 0]).into_iter().collect(),
    };
    let iptfs = Iptfs { init_delay: Duration::from_secs(1), ..Default::default() };
    let treatment = Treatment { translation: Some(Arc::new(translation)), iptfs, ..Default::default() };
    let home = steering::worker_of_policy(Device(1), HOME, 3);
    let mut engine = engine((home + 1) % 3, 3);
    engine.install(child(AT, (1, true), (IPTFS, Limits::default()), treatment).0, Some(1500), now);
    (1..=3).for_each(|port| engine.outbound(Device(1), &mut packet(port), &Offload::default(), None, now));
    engine.retire(ChildId(1), now);
    let astray: Vec<Vec<u8>> = engine.report.astray.drain(..).map(|(_, _, packet, _)| packet).collect();
    assert_eq!(astray, [1, 2, 3].map(packet));
}

/// The way to the peer may not be known when an SA comes up, for want of a route. What is to be sent then leaves all the same, in
/// payloads that any path takes.
#[test]
fn payloads_leave_before_the_path_is_known() {
    let now = Instant::now();
    let mut engine = engine(0, 1);
    let treatment = Treatment { iptfs: Iptfs::default(), ..Default::default() };
    engine.install(child(AT, (1, false), (IPTFS, Limits::default()), treatment).0, None, now);
    let mut large = packet(1);
    large.resize(1400, 0);
    large[2..4].copy_from_slice(&1400_u16.to_be_bytes());
    engine.outbound(Device(1), &mut large, &Offload::default(), None, now);
    engine.on_time(now);
    let sealed: Vec<usize> = engine.trains.all().iter().map(Train::len).collect();
    // 552 octets of an IPv4 path are 484 of a payload: 552 - 20 - 8 - 8 - 8 - 16, in words of 4, less the trailer's 2, and the
    // header's 4. Two such and 432.
    assert_eq!((sealed.iter().sum::<usize>(), engine.deadline()), (3, None));
}

/// However many there are and whatever has moved them: the times are those of the SAs themselves.
#[test]
fn the_first_of_many_is_known_without_asking_all() {
    let start = Instant::now();
    let mut engine = engine(0, 1);
    let mut state = 1_u64;
    let mut random = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let (mut ids, mut next, mut acted) = (Vec::new(), 0, 0);
    for step in 0..3000 {
        let now = start + Duration::from_millis(50 * step);
        match random(6) {
            0 if ids.len() < 40 => {
                next += 1;
                outbound_in(&mut engine, AT, (next, false), (IPTFS, Limits::default()), now);
                ids.push(next);
            }
            1 if !ids.is_empty() => {
                let id = ChildId(ids.swap_remove(random(ids.len() as u64) as usize));
                if random(2) == 0 { engine.retire(id, now) } else { engine.remove(id, now) }
            }
            2 => engine.on_time(now),
            _ => (0..random(80))
                .for_each(|_| engine.outbound(Device(1), &mut packet(7), &Offload::default(), None, now)),
        }
        let all = ids.iter().filter_map(|id| engine.sas.deadline(ChildId(*id), 0x2000 + *id as u32));
        let first = all.collect::<Vec<_>>().into_iter().min();
        assert_eq!(engine.deadline(), first, "step {step}");
        if first.is_some_and(|first| first <= now) {
            engine.on_time(now);
            acted += 1;
            assert!(engine.deadline().is_none_or(|deadline| deadline > now));
        }
        engine.all_sent();
    }
    assert!(acted > 100, "{acted}");
}

/// RFC 4291 2.5.2: what has no sender's address is not forwarded, and so neither sealed nor worth an SA.
#[test]
fn what_nobody_has_sent_asks_for_nothing() {
    let now = Instant::now();
    let report = |version: u8| match version {
        4 => [&[0x45, 0, 0, 20, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0], &[224, 0, 0, 22][..]].concat(),
        _ => [&[0x60, 0, 0, 0, 0, 0, 58, 1][..], &[0; 16], &[0xff; 16]].concat(),
    };
    for workers in [1, 4] {
        let home = steering::worker_of_policy(Device(1), HOME, workers);
        let mut engine = engine(home, workers);
        let everything = vec![TrafficSelector::any_v4(), TrafficSelector::any_v6()];
        let (local_ts, remote_ts) = (everything.clone(), everything);
        let policy = adit_esp::Policy { priority: 0, action: Action::Protect, local_ts, remote_ts };
        let table = Table { table: PolicyTable::new(std::slice::from_ref(&policy)), ids: vec![HOME] };
        let (tables, traps) = (vec![Table::default(), table], HashSet::from([HOME]));
        engine.follow(&Arc::new(Policies { tables, traps, ..Policies::default() }));
        for with_sa in [false, true] {
            for version in [4, 6] {
                engine.outbound(Device(1), &mut report(version), &Offload::default(), None, now);
            }
            assert!(engine.report.events.is_empty() && engine.trains.all().is_empty());
            assert!(!engine.has_waiting() && engine.deliveries.all().is_empty());
            if !with_sa {
                outbound(&mut engine, 1, false, now);
            }
        }
        assert_eq!(engine.report.counts.drops_for(DropCause::NoSource), 4);
        // From somebody it does.
        engine.retire(ChildId(1), now);
        engine.outbound(Device(1), &mut packet(7), &Offload::default(), None, now);
        assert_eq!(engine.report.events, [NetEvent::Acquire { policy: HOME }]);
    }
}

/// RFC 4301 6: who sends into the interface of a connection what is not for it is told, now and then; on the device of all
/// policies nobody is.
#[test]
fn what_an_interface_does_not_select_is_prohibited() {
    let start = Instant::now();
    let mut engine = engine(0, 1);
    let told = |engine: &mut Engine, device, packet: &[u8], now| -> Vec<Vec<u8>> {
        engine.outbound(Device(device), &mut packet.to_vec(), &Offload::default(), None, now);
        let deliveries = &engine.deliveries;
        let all = deliveries.all().iter().inspect(|one| assert_eq!(one.device(), Device(device)));
        let all = all.flat_map(|one| deliveries.packets(one, &[])).map(<[u8]>::to_vec).collect();
        engine.deliveries.clear();
        all
    };
    // Nothing is selected on device 3.
    let inner = packet(7);
    let [message] = &told(&mut engine, 3, &inner, start)[..] else { panic!("one") };
    assert_eq!((&message[12..16], &message[16..20]), (&inner[16..20], &inner[12..16]));
    assert_eq!((message[9], &message[20..22], &message[28..]), (1, &[3, 13][..], &inner[..]));
    assert!(told(&mut engine, 0, &inner, start).is_empty());
    let mut later_fragment = inner.clone();
    later_fragment[7] = 1;
    let mut to_many = inner.clone();
    to_many[16] = 224;
    let mut error = inner.clone();
    (error[9], error[20]) = (1, 3);
    for about in [later_fragment, to_many, error] {
        assert!(told(&mut engine, 3, &about, start).is_empty());
    }
    // Twenty in a second for one sender.
    let all: usize = (0..100).map(|_| told(&mut engine, 3, &inner, start).len()).sum();
    assert!((15..20).contains(&all), "{all}");
    assert_eq!(told(&mut engine, 3, &inner, start + Duration::from_secs(1)).len(), 1);
    assert_eq!(engine.report.counts.drops_for(DropCause::NoPolicy), 106);
}

/// RFC 4303 2.6: an SA with dummies is never silent for longer than it says, and sends none while it has something to send. They
/// use up its numbers and what it may carry, are no traffic, and cannot be told by their times, nor by their lengths.
#[test]
fn dummies_fill_the_silence() {
    const INTERVAL: Duration = Duration::from_secs(8);
    let start = Instant::now();
    let limits = Limits { hard_packets: Some(300), ..Default::default() };
    for (tfc, mode, lens) in [
        // 20 of IPv4, 8 of UDP, 8 of ESP, 8 of IV and 16 of ICV around what is a multiple of 4 with its two last octets.
        (Tfc::Off, adit_esp::Mode::Tunnel, 24..=1440),
        (Tfc::AtLeast(1000), adit_esp::Mode::Tunnel, 1004..=1440),
        (Tfc::Path, adit_esp::Mode::Tunnel, 1440..=1440),
        (Tfc::Path, adit_esp::Mode::Transport, 24..=1420),
    ] {
        let mut engine = engine(0, 1);
        let treatment = Treatment { tfc, dummies: Some(INTERVAL), ..Default::default() };
        let (child, counts) = child(AT, (1, false), (mode, limits), treatment);
        engine.install(child, Some(1500), start);
        let (mut now, mut silent, mut dummies, mut seen, mut waits) =
            (start, start, 0, HashSet::new(), HashSet::new());
        // What comes back is when an SA has asked for time, at which nothing may be due after all.
        while let Some(deadline) = engine.deadline() {
            assert!(deadline > now && deadline <= silent + INTERVAL, "{tfc:?}");
            engine.on_time(deadline - Duration::from_millis(1));
            assert!(engine.trains.all().is_empty(), "too early");
            now = deadline;
            engine.on_time(now);
            for train in engine.trains.all() {
                assert!(now - silent >= INTERVAL / 2, "{tfc:?}");
                assert_eq!((train.len(), train.tos, train.dont_fragment), (1, 0, true));
                // Without SPI, sequence number, IV and ICV.
                let len = engine.trains.octets(train).len() - 8 - 8 - 16;
                assert!(
                    lens.contains(&len)
                        && engine.trains.by_sa(train, 0..1).all(|(_, _, inside)| inside == (0, 0)),
                    "{tfc:?} {len}"
                );
                seen.insert(len);
                waits.insert(now - silent);
                (silent, dummies) = (now, dummies + 1);
            }
            engine.all_sent();
            // Traffic for a while: no dummy.
            if dummies == 100 {
                for _ in 0..100 {
                    now += INTERVAL / 2 - Duration::from_millis(1);
                    engine.on_time(now);
                    assert!(engine.trains.all().is_empty());
                    engine.outbound(Device(1), &mut packet(7), &Offload::default(), None, now);
                    let trains = std::mem::take(&mut engine.trains);
                    engine.sent(&trains, &trains.all()[0], 0..1, now);
                    engine.trains = trains;
                    engine.all_sent();
                }
                (silent, dummies) = (now, dummies + 1);
                assert_eq!(counts.last_out.read(), engine.report.clock.number(now), "by no dummy");
            }
        }
        // It has ended: 100 packets, and 200 dummies.
        assert_eq!((dummies, counts.packets_out.read()), (201, 100), "{tfc:?}");
        assert_eq!(engine.report.events, [NetEvent::LimitReached { id: ChildId(1) }]);
        assert!(waits.len() > 150, "{waits:?}");
        assert!(if lens.start() == lens.end() { seen.len() == 1 } else { seen.len() > 60 }, "{seen:?}");
    }
    let mut engine = engine(0, 1);
    outbound(&mut engine, 2, false, start);
    assert_eq!(engine.deadline(), None, "who sends none asks for no time");
}

#[test]
fn the_limit_holds_for_a_second() {
    let mut limiter = Limiter::new(100);
    let start = Instant::now();
    let allowed = |limiter: &mut Limiter, at: Instant| (0..1000).filter(|_| limiter.allow(at)).count();
    assert_eq!(allowed(&mut limiter, start), 100);
    assert_eq!(allowed(&mut limiter, start + Duration::from_millis(999)), 0);
    assert_eq!(allowed(&mut limiter, start + Duration::from_secs(1)), 100);
}

#[test]
fn who_sends_much_does_not_use_up_what_is_for_others() {
    let (mut senders, now) = (Senders::new(), Instant::now());
    let sender = |number: u32| IpAddr::from((0x0a01_0000 + number).to_be_bytes());
    let told =
        |senders: &mut Senders, number| (0..1000).filter(|_| senders.allow(sender(number), now)).count();
    assert_eq!(told(&mut senders, 0), 20);
    // Of fifty others, few share a place with the first: all of them would have a chance of 1 in 10^120.
    let others: usize = (1..=50).map(|number| told(&mut senders, number)).sum();
    assert!(others > 0 && others <= 980, "{others}");
    // In all no more than a thousand.
    let many: usize = (51..5000).map(|number| told(&mut senders, number)).sum();
    assert_eq!(20 + others + many, 1000);
}

#[test]
fn raw_ipv4_packets_lose_their_header_whatever_its_length() {
    let mut packet = vec![0; 30];
    packet[0] = 0x45;
    packet[20] = 7;
    assert_eq!(without_ip_header(false, &mut packet).unwrap()[0], 7);
    packet[0] = 0x46;
    assert_eq!(without_ip_header(false, &mut packet).unwrap().len(), 6);
    packet[0] = 0x4f;
    assert!(without_ip_header(false, &mut packet).is_none());
    assert!(without_ip_header(false, &mut []).is_none());
    assert_eq!(without_ip_header(true, &mut [1, 2, 3]).unwrap(), [1, 2, 3]);
}

/// The kernel joins datagrams whatever their SPIs, and chooses a worker by the first one's.
#[test]
fn datagrams_of_a_train_that_are_for_other_workers_are_left_to_them() {
    let mut engine = engine(1, 3);
    let arrival = Arrival { kind: Kind::NatT, v6: false, local: None, remote: None, tos: 0, hop_limit: None };
    let datagram = |spi: u32| [&spi.to_be_bytes()[..], &[0; 28]].concat();
    // Lanes 1, 2, 4 and 3, and a keepalive, which has none.
    let mut train = [0x101, 0x102, 0x104, 0x143].map(datagram).concat();
    train.push(0xff);
    let all = 0..train.len();
    engine.inbound(&mut train, all, 32, &arrival, Instant::now());
    assert_eq!(engine.report.elsewhere, [(2, 32..64), (0, 96..128), (0, 128..129)]);
    assert_eq!(engine.report.counts.drops_for(DropCause::UnknownSpi), 2);
}
