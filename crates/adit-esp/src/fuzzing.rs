//! The entry points of the fuzz targets `esp_open` and `iptfs`, also run by the ordinary tests over their corpora. Not part
//! of the API.

use std::time::{Duration, Instant};

use std::net::IpAddr;

use adit_crypto::{
    EspKeys, EspTransforms, Secret, encr_key_len, integ_key_len, supports_encr, supports_integ,
};
use adit_wire::ikev2::{EncrId, IntegId, Spi, TrafficSelector};

use crate::iptfs::{Receiver, Sender};
use crate::packet::PacketProtection;
use crate::transport::OuterHeader;
use crate::{Drop, InboundSa, Mode, Opened, SaParameters};

/// Every suite of the house, by name.
pub const SUITES: &[(&str, EspTransforms)] = &[
    ("AES_GCM_16-128", aead(EncrId::AES_GCM_16, Some(128))),
    ("AES_GCM_16-192", aead(EncrId::AES_GCM_16, Some(192))),
    ("AES_GCM_16-256", aead(EncrId::AES_GCM_16, Some(256))),
    ("CHACHA20_POLY1305", aead(EncrId::CHACHA20_POLY1305, None)),
    ("AES_CBC-128/HMAC_SHA2_256_128", cbc(128, IntegId::HMAC_SHA2_256_128)),
    ("AES_CBC-192/HMAC_SHA2_384_192", cbc(192, IntegId::HMAC_SHA2_384_192)),
    ("AES_CBC-256/HMAC_SHA2_512_256", cbc(256, IntegId::HMAC_SHA2_512_256)),
    ("AES_CBC-128/HMAC_SHA1_96", cbc(128, IntegId::HMAC_SHA1_96)),
    ("NULL/HMAC_SHA2_256_128", with_integ(EncrId::NULL, None, IntegId::HMAC_SHA2_256_128)),
];

const fn aead(encr: EncrId, key_bits: Option<u16>) -> EspTransforms {
    EspTransforms { encr, key_bits, integ: None, esn: false }
}

const fn cbc(key_bits: u16, integ: IntegId) -> EspTransforms {
    with_integ(EncrId::AES_CBC, Some(key_bits), integ)
}

const fn with_integ(encr: EncrId, key_bits: Option<u16>, integ: IntegId) -> EspTransforms {
    EspTransforms { encr, key_bits, integ: Some(integ), esn: false }
}

/// Those of [`SUITES`] that this build of adit-crypto has.
pub fn suites() -> impl Iterator<Item = (&'static str, EspTransforms)> {
    let built_in =
        |t: &EspTransforms| supports_encr(t.encr, t.key_bits) && t.integ.is_none_or(supports_integ);
    SUITES.iter().copied().filter(move |(_, transforms)| built_in(transforms))
}

/// An SA with fixed keys that carries between `10.1.0.0/16`, `fd01::/64` (ours) and `10.2.0.0/16`, `fd02::/64` (the peer's).
#[must_use]
pub fn parameters(transforms: EspTransforms) -> SaParameters {
    let key = |len: Option<usize>| Secret::new((1..).take(len.unwrap_or(0)).collect());
    let networks = |n: u16| {
        let v6 = [0xfd00 | n, 0, 0, 0, 0, 0, 0, 0];
        vec![TrafficSelector::subnet([10, n as u8, 0, 0].into(), 16), TrafficSelector::subnet(v6.into(), 64)]
    };
    SaParameters {
        spi: Spi(0xc0ff_ee01),
        mode: Mode::Tunnel,
        transforms,
        keys: EspKeys {
            encr: key(encr_key_len(transforms.encr, transforms.key_bits)),
            integ: key(transforms.integ.and_then(integ_key_len)),
        },
        replay_window: 64,
        local_ts: networks(1),
        remote_ts: networks(2),
        original: None,
    }
}

/// Opens what `data` describes, and checks what must hold whatever it is.
///
/// `suite | flags | sequence 8 | rest`. By bit 0 of the flags the sequence numbers have 64 bits; by bit 1 the rest is sealed
/// with the right key first, as payload, padding and trailer together, so that what comes after the ICV check is met too;
/// by bits 2 and 3 the outer header has an ECN mark; by bit 4 it is transport mode, by bits 5 and 6 over IPv6 and through a NAT;
/// by bit 7 it is IP-TFS.
///
/// # Panics
/// If the machine does something that it must never do.
pub fn open_any(data: &[u8]) {
    let Some(([suite, flags, sequence @ ..], rest)) = data.split_first_chunk::<10>() else { return };
    let Some((_, suite)) = suites().nth(usize::from(*suite) % suites().count()) else { return };
    let transforms = EspTransforms { esn: flags & 1 != 0, ..suite };
    let sequence = match u64::from_be_bytes(*sequence) {
        sequence if transforms.esn => sequence.max(1),
        sequence => (sequence & u64::from(u32::MAX)).max(1),
    };
    let transport = flags & 16 != 0;
    let addresses = |net: u8, host: u8| -> IpAddr {
        if flags & 32 == 0 {
            [10, net, 0, host].into()
        } else {
            [0xfd00 | u16::from(net), 0, 0, 0, 0, 0, 0, host.into()].into()
        }
    };
    let ends = (addresses(2, 7), addresses(1, 9));
    let parameters = || SaParameters {
        mode: match (transport, flags & 128 != 0) {
            (true, _) => Mode::Transport,
            (false, true) => Mode::Iptfs { fragments: true },
            (false, false) => Mode::Tunnel,
        },
        original: (flags & 64 != 0).then(|| (addresses(9, 1), ends.1)),
        ..parameters(transforms)
    };
    let (Ok(protection), Ok(mut sa)) =
        (PacketProtection::new(&parameters()), InboundSa::resume(parameters(), sequence - 1))
    else {
        return;
    };

    let mut packet = rest.to_vec();
    let sealed = flags & 2 != 0;
    if sealed {
        match protection.seal_plaintext(Spi(0xc0ff_ee01), sequence, rest) {
            Some(genuine) => packet = genuine,
            None => return,
        }
    }
    let again = packet.clone();

    let outer = OuterHeader { addresses: Some(ends), traffic_class: flags >> 2 & 3, hop_limit: 9 };
    let opened = match sa.open_from(&mut packet, &outer) {
        Ok(Opened::Packet(inner)) => Ok(Some((Mode::Tunnel, inner.to_vec()))),
        Ok(Opened::Payload(header, payload)) => {
            Ok(Some((Mode::Transport, [header.as_bytes(), payload].concat())))
        }
        Ok(Opened::Aggfrag { sequence: number, payload }) => {
            assert_eq!(number, sequence);
            let mut receiver = Receiver::new(0, Duration::ZERO, sequence);
            receiver.receive(sequence, payload, Instant::now(), &mut |inner| {
                if sa.admit(inner).is_ok() {
                    let flow = adit_wire::ip::flow(inner);
                    assert!(flow.is_ok_and(|flow| sa.selectors().admit_inbound(&flow)));
                }
            });
            Ok(None)
        }
        Ok(Opened::Dummy) => Ok(None),
        Err(cause) => Err(cause),
    };
    match opened {
        Ok(Some((mode, inner))) => {
            assert_eq!(mode == Mode::Transport, transport);
            assert!(sa.window().top() >= sequence);
            let flow = adit_wire::ip::flow(&inner);
            assert!(
                flow.is_ok_and(|flow| flow.total_len == inner.len() && sa.selectors().admit_inbound(&flow))
            );
        }
        Err(Drop::Malformed | Drop::Replayed | Drop::TooOld | Drop::Authentication) => {
            assert!(!sealed, "a genuine packet was not recognised");
            assert_eq!(sa.window().top(), sequence - 1, "a forgery moved the window");
            return;
        }
        Ok(None) | Err(_) => {}
    }
    // It was genuine, so its sequence number is used up, whatever was inside.
    let mut packet = again;
    assert!(matches!(sa.open(&mut packet), Err(Drop::Replayed)));
}

/// Gives an IP-TFS receiver the payloads that `data` describes, and checks what must hold whatever they are: memory is bounded,
/// what comes out has the length it says and is no more than what went in, and a good payload afterwards is understood.
///
/// `window | payloads`, each of them `step | length 2 | octets`: the sequence number moves by the signed step. A length with
/// its highest bit set is of so many more octets 0xff behind those that are there, and with 0x4000 in it the drop time is over.
///
/// # Panics
/// If the machine does something that it must never do.
pub fn iptfs_any(data: &[u8]) {
    const DROP_TIME: Duration = Duration::from_millis(1);
    let Some((window, mut data)) = data.split_first() else { return };
    let window = u16::from(*window) % (Receiver::MAX_WINDOW + 1);
    let mut now = Instant::now();
    let mut receiver = Receiver::new(window, DROP_TIME, 1000);
    let (mut sequence, mut highest) = (999_u64, 999);
    let (mut given, mut taken) = (0, 0);
    let mut check = |packet: &mut [u8]| {
        let says = match packet {
            [first, _, high, low, ..] if *first >> 4 == 4 => usize::from(u16::from_be_bytes([*high, *low])),
            [first, _, _, _, high, low, ..] if *first >> 4 == 6 => {
                40 + usize::from(u16::from_be_bytes([*high, *low]))
            }
            _ => 0,
        };
        assert_eq!(says, packet.len());
        assert!(says >= 20);
        taken += says;
    };
    while let Some(([step, high, low], rest)) = data.split_first_chunk() {
        let len = u16::from_be_bytes([*high, *low]);
        let (octets, rest) = rest.split_at(usize::from(len & 0x3fff).min(rest.len()));
        data = rest;
        let mut payload = octets.to_vec();
        if len & 0x8000 != 0 {
            payload.resize(octets.len() + usize::from(len & 0x3fff), 0xff);
        }
        given += payload.len();
        sequence = sequence.wrapping_add_signed(i64::from(*step as i8)).max(1);
        highest = highest.max(sequence);
        receiver.receive(sequence, &mut payload, now, &mut check);
        if len & 0x4000 != 0 {
            now += DROP_TIME;
            receiver.expire(now, &mut check);
        }
        assert!(receiver.memory() <= (usize::from(window) + 4) << 16);
    }
    while let Some(deadline) = receiver.deadline() {
        receiver.expire(deadline, &mut check);
    }
    assert!(taken <= given, "octets out of nothing");

    let packet = {
        let mut packet = vec![0x45; 60];
        packet.splice(..4, [0x45, 0, 0, 60]);
        packet
    };
    let mut sender = Sender::new(60, true);
    assert_eq!(sender.push(&packet), Ok(()));
    let mut out = Vec::new();
    // Nothing is waited for any more, so the next number is the one after the highest.
    for sequence in highest + 1..=highest + 2 {
        let mut payload = [0; 40];
        sender.fill(&mut payload);
        receiver.receive(sequence, &mut payload, now, &mut |packet| out.extend_from_slice(packet));
    }
    assert_eq!(out, packet, "it did not find its way back");
}
