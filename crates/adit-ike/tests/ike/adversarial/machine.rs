//! Tests 20 to 29: the state machine. Test 19 is `exploration`, test 30 is `sim`.

use std::time::Duration;

use adit_wire::ikev2::{Delete, Eap, ExchangeType, NotifyType, Payload, PayloadType, ProtocolId};

use super::{Insider, auth_request};
use crate::pair::{A, B, Fate, Packet, Pair, at, header, notifies, notify, seal, sides};

/// EAP where none is configured (CVE-2026-77206), with AUTH and without.
#[test]
fn adversarial_20_eap_that_nobody_asked_for() {
    let eap = |body: &[u8]| super::unknown(PayloadType::EAP.0, false, body.to_vec());
    let success = [3, 1, 0, 4];
    let identity = [2, 1, 0, 8, 1, b'a', b'b', b'c'];
    for body in [&success[..], &identity] {
        // Without AUTH it is a wish for EAP.
        let (pair, answer) = auth_request(|payloads| {
            payloads.retain(|p| p.payload_type() != PayloadType::AUTH);
            payloads.push(eap(body));
        });
        assert_eq!(notifies(&answer), [NotifyType::AUTHENTICATION_FAILED]);
        assert!(pair.b.installed.is_empty() && pair.b.gateway.ike_sas().count() == 0);
        // Beside a wrong AUTH it makes it no better.
        let (pair, answer) = auth_request(|payloads| {
            for p in payloads.iter_mut() {
                if let Payload::Authentication(auth) = p {
                    auth.data[0] ^= 1;
                }
            }
            payloads.push(eap(body));
        });
        assert_eq!(notifies(&answer), [NotifyType::AUTHENTICATION_FAILED]);
        assert!(pair.b.installed.is_empty());
    }
    // An answer with EAP instead of AUTH authenticates nobody.
    let mut pair = Pair::new(sides());
    let request = pair.up();
    pair.link = Box::new(|i, _| if i == 3 { Fate::Lose } else { Fate::Deliver });
    pair.settle();
    let mut payloads = pair.open(&pair.sent[3]);
    payloads.retain(|p| p.payload_type() != PayloadType::AUTH);
    payloads.push(Payload::Eap(Eap { code: 3, identifier: 1, data: Vec::new() }));
    let keys = pair.b.keys.pop().unwrap();
    let h = header(&keys, ExchangeType::IKE_AUTH, false, true, 1);
    let datagram = seal(&keys, &h, &payloads, 1 << 40);
    pair.deliver(&Packet { source: at(B, 500), destination: at(A, 500), datagram });
    assert!(pair.a.done[&request].is_err());
    assert!(pair.a.installed.is_empty());
}

/// Message IDs beyond the window, wrapped, and used up; below it only the same octets count.
#[test]
fn adversarial_24_message_ids() {
    let mut pair = Pair::established(sides());
    let keys = pair.a.keys.pop().unwrap();
    let before = pair.sent.len();
    let delete = [Payload::Delete(Delete { protocol: ProtocolId::IKE, spis: Vec::new() })];
    for (n, id) in [0, 1, 3, 4, 2 + (1 << 31), u32::MAX - 1, u32::MAX].into_iter().enumerate() {
        for exchange in [ExchangeType::INFORMATIONAL, ExchangeType::CREATE_CHILD_SA, ExchangeType::IKE_AUTH] {
            let h = header(&keys, exchange, true, false, id);
            let datagram = seal(&keys, &h, &delete, (1 << 40) + n as u64);
            pair.deliver(&Packet { source: at(A, 500), destination: at(B, 500), datagram });
        }
    }
    assert_eq!(pair.sent.len(), before);
    pair.assert_children(1);
}

#[test]
fn adversarial_25_responses_to_nothing() {
    let mut pair = Pair::established(sides());
    let keys = pair.a.keys.pop().unwrap();
    let before = pair.sent.len();
    let delete = [Payload::Delete(Delete { protocol: ProtocolId::IKE, spis: Vec::new() })];
    for id in [0, 1, 2, 3] {
        for initiator in [true, false] {
            for exchange in
                [ExchangeType::INFORMATIONAL, ExchangeType::CREATE_CHILD_SA, ExchangeType::IKE_AUTH]
            {
                let h = header(&keys, exchange, initiator, true, id);
                let datagram = seal(&keys, &h, &delete, (1 << 40) + u64::from(id));
                // Each to both: one of them is told by somebody of its own role.
                pair.deliver(&Packet {
                    source: at(A, 500),
                    destination: at(B, 500),
                    datagram: datagram.clone(),
                });
                pair.deliver(&Packet { source: at(B, 500), destination: at(A, 500), datagram });
            }
        }
    }
    assert_eq!(pair.sent.len(), before, "no reply");
    pair.assert_children(1);
}

/// Extensions that nobody announced, in responses.
#[test]
fn adversarial_26_unsolicited_notifies_in_responses() {
    let uninvited = [
        NotifyType::IKEV2_FRAGMENTATION_SUPPORTED,
        NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED,
        NotifyType::IPCOMP_SUPPORTED,
        NotifyType::MOBIKE_SUPPORTED,
        NotifyType::USE_TRANSPORT_MODE,
        NotifyType(16_447),
        NotifyType::USE_PPK,
        NotifyType::PPK_IDENTITY,
        NotifyType::SET_WINDOW_SIZE,
        NotifyType::CHILDLESS_IKEV2_SUPPORTED,
    ];
    for notify_type in uninvited {
        // In IKE_AUTH: as if it were not there. What is in IKE_SA_INIT is authenticated by AUTH.
        let (mut a, mut b) = sides();
        for side in [&mut a, &mut b] {
            side.connection().fragmentation = adit_ike::config::Fragmentation::No;
        }
        let mut pair = Pair::new((a, b));
        let request = pair.up();
        pair.link = Box::new(|i, _| if i == 3 { Fate::Lose } else { Fate::Deliver });
        pair.settle();
        let mut payloads = pair.open(&pair.sent[3]);
        payloads.push(notify(notify_type));
        let keys = pair.b.keys.pop().unwrap();
        let h = header(&keys, ExchangeType::IKE_AUTH, false, true, 1);
        let datagram = seal(&keys, &h, &payloads, 1 << 40);
        pair.deliver(&Packet { source: at(B, 500), destination: at(A, 500), datagram });
        assert_eq!(pair.a.done[&request], Ok(()), "{notify_type}");
        pair.assert_children(1);
        let view = pair.a.gateway.ike_sas().next().unwrap();
        assert!(!view.mobike && !view.ppk, "{notify_type}");
    }
}

/// What says without proof that the IKE SA or a Child SA is lost causes a question, twice a minute at most, and
/// changes nothing. (ICMP never reaches this machine: the sockets ignore it.)
#[test]
fn adversarial_28_unprotected_errors() {
    for notify_type in [NotifyType::INVALID_IKE_SPI, NotifyType::INVALID_SPI, NotifyType::INVALID_MESSAGE_ID]
    {
        let mut pair = Pair::established(sides());
        let keys = pair.a.keys.pop().unwrap();
        let before = pair.sent.len();
        for n in 0..1000 {
            for (to_responder, source, destination) in [(true, A, B), (false, B, A)] {
                for response in [true, false] {
                    let h = header(&keys, ExchangeType::INFORMATIONAL, to_responder, response, n % 5);
                    let datagram = adit_wire::ikev2::Message::encode(&h, &[notify(notify_type)]);
                    pair.deliver(&Packet {
                        source: at(source, 500),
                        destination: at(destination, 500),
                        datagram,
                    });
                }
            }
        }
        assert!(pair.sent.len() - before <= 2, "{notify_type}: {}", pair.sent.len() - before);
        pair.settle();
        pair.run(Duration::from_secs(200));
        pair.assert_children(1);
        assert!(pair.a.down.is_empty() && pair.b.down.is_empty());
    }
}

/// INITIAL_CONTACT outside of the first IKE_AUTH means nothing. That it concerns nobody but exactly the same two
/// identities is `initial_contact_leaves_others_alone`.
#[test]
fn adversarial_29_initial_contact_later() {
    let mut insider = Insider::new();
    // A second IKE SA between the same two, which the first would wish away.
    insider.pair.b.gateway.set_configuration(adit_ike::config::Configuration::default());
    for exchange in [ExchangeType::INFORMATIONAL, ExchangeType::CREATE_CHILD_SA] {
        let mut payloads =
            if exchange == ExchangeType::INFORMATIONAL { Vec::new() } else { insider.child_request() };
        payloads.push(notify(NotifyType::INITIAL_CONTACT));
        insider.ask(exchange, &payloads);
        assert!(insider.pair.b.down.is_empty());
    }
    assert_eq!(insider.pair.b.gateway.ike_sas().count(), 1);
    assert_eq!(insider.pair.b.installed.len(), 2, "the child it asked for and no change beside it");
}

/// With `unique = never` two devices of one user both stay, whatever they say.
#[test]
fn adversarial_29_two_devices_of_one_user() {
    let never = |mut side: crate::pair::Side| {
        side.connection().unique = adit_ike::config::Unique::Never;
        side
    };
    let (a, b) = sides();
    let mut b = never(b);
    b.connection().remote_addrs = Vec::new();
    let mut pair = Pair::established((a, b));
    let (second, unused) = sides();
    let mut again = Pair::seeded((second, unused), 77);
    std::mem::swap(&mut again.b, &mut pair.b);
    again.now = pair.now + Duration::from_secs(1);
    again.up();
    again.settle();
    let says = |p: &Packet, pair: &Pair| notifies(&pair.open(p)).contains(&NotifyType::INITIAL_CONTACT);
    assert!(says(&again.sent[2], &again), "it claims to be the only one");
    assert_eq!(again.b.gateway.ike_sas().count(), 2);
    assert!(again.b.down.is_empty());
}
