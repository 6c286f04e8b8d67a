//! Authentication by certificates: every kind of key in both roles, who is refused and why, and what goes over the wire.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use adit_cert::{Certificate, Requirements};
use adit_crypto::{KeyKind, SignatureScheme, Signer};
use adit_ike::config::{
    Configuration, Constraints, Lifetime, LocalAuth, PostQuantumKey, PpkPolicy, RemoteAuth, SendCert,
    Settings,
};
use adit_ike::identity::{Identity, IdentityPattern};
use adit_ike::{Blame, OutcomeCode, proposal};
use adit_wire::ikev2::{
    AuthMethod, Authentication, CertEncoding, Certificate as CertificatePayload, CertificateRequest,
    ExchangeType, HashId, IdType, Identification, Notify, NotifyType, Payload,
};

use crate::hand::Hand;
use crate::pair::{A, Fate, KEY, Pair, Side, ip, secret, sides};
use crate::pki::{Ca, Holder, Kind, address, by_certificate, certified, dns, email, equip, trust};

mod names;
mod stranger;

use stranger::*;

/// The AUTH payload of the IKE_AUTH request, and of its response.
fn auths(pair: &Pair) -> [Authentication; 2] {
    [false, true].map(|response| {
        let payloads = auth_message(pair, response);
        payloads
            .into_iter()
            .find_map(|p| if let Payload::Authentication(a) = p { Some(a) } else { None })
            .unwrap()
    })
}

/// What is inside IKE_AUTH, which is whole.
fn auth_message(pair: &Pair, response: bool) -> Vec<Payload> {
    pair.open(pair.sent.iter().find(|p| p.is(ExchangeType::IKE_AUTH, response)).unwrap())
}

fn certificates(payloads: &[Payload]) -> Vec<Vec<u8>> {
    payloads
        .iter()
        .filter_map(|p| if let Payload::Certificate(c) = p { Some(c.data.clone()) } else { None })
        .collect()
}

/// `a` dials `b`, which refuses it so; `a` hears nothing but AUTHENTICATION_FAILED.
fn assert_refused(sides: (Side, Side), code: OutcomeCode, words: &[&str]) {
    let mut pair = Pair::new(sides);
    pair.up();
    pair.settle();
    let failure = pair.b.failure();
    assert_eq!(failure.code, code, "{}", failure.message);
    for word in words {
        assert!(failure.message.contains(word), "{word:?} is not in {}", failure.message);
    }
    assert_eq!(pair.a.failure().code, OutcomeCode::RefusedByPeer);
    assert_eq!(pair.a.failure().notify, Some(NotifyType::AUTHENTICATION_FAILED));
    pair.run(Duration::from_secs(60));
    pair.assert_nothing();
}

/// `a` dials `b`, and refuses what `b` proves.
fn assert_refuses(sides: (Side, Side), code: OutcomeCode, words: &[&str]) {
    let mut pair = Pair::new(sides);
    pair.up();
    pair.settle();
    let failure = pair.a.failure();
    assert_eq!(failure.code, code, "{}", failure.message);
    for word in words {
        assert!(failure.message.contains(word), "{word:?} is not in {}", failure.message);
    }
    pair.run(Duration::from_secs(60));
    pair.assert_nothing();
}

/// Both ways round: the peer that is refused once dials and once answers.
fn assert_refused_in_both_roles(make: impl Fn() -> (Side, Side), code: OutcomeCode, words: &[&str]) {
    // `a` is the one that is refused.
    assert_refused(make(), code, words);
    let (mut a, mut b) = make();
    swap(&mut a, &mut b);
    assert_refuses((a, b), code, words);
}

/// Gives each side the other's part.
fn swap(a: &mut Side, b: &mut Side) {
    std::mem::swap(&mut a.keys, &mut b.keys);
    std::mem::swap(&mut a.trust, &mut b.trust);
    std::mem::swap(&mut a.secrets, &mut b.secrets);
    let (a, b) = (a.connection(), b.connection());
    std::mem::swap(&mut a.local_auth, &mut b.local_auth);
    std::mem::swap(&mut a.remote_auth, &mut b.remote_auth);
    std::mem::swap(&mut a.local_id, &mut b.local_id);
    std::mem::swap(&mut a.remote_id, &mut b.remote_id);
    std::mem::swap(&mut a.send_cert, &mut b.send_cert);
    std::mem::swap(&mut a.send_certreq, &mut b.send_certreq);
}

fn constraints(text: &str) -> Constraints {
    text.parse().unwrap()
}

fn set_local(side: &mut Side, text: &str) {
    match &mut side.connection().local_auth {
        LocalAuth::PublicKey { constraints: own, .. } => *own = constraints(text),
        LocalAuth::Psk => panic!("no certificate"),
    }
}

fn set_remote(side: &mut Side, text: &str) {
    match &mut side.connection().remote_auth {
        RemoteAuth::PublicKey { constraints: own, .. } => *own = constraints(text),
        RemoteAuth::Psk => panic!("no certificate"),
    }
}

fn requirements(side: &mut Side) -> &mut Requirements {
    match &mut side.connection().remote_auth {
        RemoteAuth::PublicKey { requirements, .. } => requirements,
        RemoteAuth::Psk => panic!("no certificate"),
    }
}

#[test]
fn every_kind_of_key_in_both_roles() {
    for kind in Kind::ALL {
        for kinds in [[kind, Kind::P256], [Kind::P256, kind]] {
            let pair = Pair::established(certified(kinds));
            for auth in auths(&pair) {
                assert_eq!(auth.method, AuthMethod::DIGITAL_SIGNATURE, "{kinds:?}");
            }
        }
    }
}

/// `local.auth` says how we sign, in the order written.
#[test]
fn signatures_as_configured() {
    for (kind, text, scheme) in [
        (Kind::Rsa2048, "pubkey", SignatureScheme::RsaPkcs1(HashId::SHA2_256)),
        (Kind::Rsa4096, "rsa-sha512", SignatureScheme::RsaPkcs1(HashId::SHA2_512)),
        (Kind::Rsa2048, "rsa/pss", SignatureScheme::RsaPss(HashId::SHA2_256)),
        (Kind::Rsa3072, "ike:rsa/pss-sha384-sha256", SignatureScheme::RsaPss(HashId::SHA2_384)),
        (Kind::P521, "ecdsa-sha256", SignatureScheme::Ecdsa(HashId::SHA2_256)),
        (Kind::Ed25519, "ed25519", SignatureScheme::Ed25519),
    ] {
        let (mut a, b) = certified([kind, Kind::P384]);
        set_local(&mut a, text);
        let pair = Pair::established((a, b));
        let [auth, _] = auths(&pair);
        let (length, rest) = auth.data.split_first().unwrap();
        let identifier = &rest[..usize::from(*length)];
        assert_eq!(SignatureScheme::from_algorithm_identifier(identifier), Some(scheme), "{text}");
    }
}

/// The octets that are signed are those of RFC 7296 2.15, as somebody else computes them.
#[test]
fn signatures_are_over_the_octets_of_the_rfc() {
    for kind in [Kind::Rsa2048, Kind::P256, Kind::P384, Kind::P521, Kind::Ed25519] {
        let mut stranger = Stranger::new(kind, &[hashes(&ALL_HASHES)]);
        let request = stranger.request();
        assert_eq!(stranger.accepted(&request).method, AuthMethod::DIGITAL_SIGNATURE);
    }
}

/// RFC 7427 4: nobody signs with a hash that the other has not announced; who announces none gets the methods of before.
#[test]
fn hashes_that_are_announced_are_used() {
    for (kind, announced, expected) in [
        (Kind::Rsa2048, &[HashId::SHA2_512][..], SignatureScheme::RsaPkcs1(HashId::SHA2_512)),
        (
            Kind::Rsa2048,
            &[HashId(77), HashId::SHA1, HashId::SHA2_384],
            SignatureScheme::RsaPkcs1(HashId::SHA2_384),
        ),
        (Kind::P521, &[HashId::SHA2_256], SignatureScheme::Ecdsa(HashId::SHA2_256)),
    ] {
        let mut stranger = Stranger::new(kind, &[hashes(announced)]);
        let request = stranger.request();
        let auth = stranger.accepted(&request);
        assert!(auth.data.starts_with(&digital_signature(expected, &[]).data), "{kind:?} {announced:?}");
    }
    // Nothing that it verifies is ours to make.
    for (kind, announced) in [
        (Kind::Ed25519, &[HashId::SHA2_256][..]),
        (Kind::Rsa2048, &[HashId::SHA1]),
        (Kind::P256, &[HashId::IDENTITY]),
        (Kind::P256, &[]),
    ] {
        let stranger = Stranger::new(kind, &[hashes(announced)]);
        let request = stranger.request();
        let code = OutcomeCode::AuthMethodRefused;
        stranger.refused(&request, code, NotifyType::AUTHENTICATION_FAILED);
    }
}

fn announces(payloads: &[Payload]) -> bool {
    payloads
        .iter()
        .any(|p| matches!(p, Payload::Notify(n) if n.notify_type == NotifyType::SIGNATURE_HASH_ALGORITHMS))
}

#[test]
fn methods_from_before_rfc_7427() {
    for (kind, method, scheme) in [
        (Kind::Rsa2048, AuthMethod::RSA_SIGNATURE, SignatureScheme::RsaPkcs1(HashId::SHA1)),
        (Kind::Rsa3072, AuthMethod::RSA_SIGNATURE, SignatureScheme::RsaPkcs1(HashId::SHA2_256)),
        (Kind::P256, AuthMethod::ECDSA_256, SignatureScheme::EcdsaFixed(HashId::SHA2_256)),
        (Kind::P384, AuthMethod::ECDSA_384, SignatureScheme::EcdsaFixed(HashId::SHA2_384)),
        (Kind::P521, AuthMethod::ECDSA_521, SignatureScheme::EcdsaFixed(HashId::SHA2_512)),
    ] {
        let mut stranger = Stranger::new(kind, &[]);
        assert!(!announces(&stranger.hand.init_response), "nobody asked");
        let data = stranger.holder.key.sign(scheme, &stranger.octets()).unwrap();
        let request = stranger.request_with(Authentication { method, data });
        assert_eq!(stranger.accepted(&request).method, method);
    }
    // Who knows RFC 7427 has no need of SHA-1, and does not get away with it.
    let stranger = Stranger::new(Kind::Rsa2048, &[hashes(&ALL_HASHES)]);
    let sha1 = SignatureScheme::RsaPkcs1(HashId::SHA1);
    let data = stranger.holder.key.sign(sha1, &stranger.octets()).unwrap();
    let request = stranger.request_with(Authentication { method: AuthMethod::RSA_SIGNATURE, data });
    stranger.refused(&request, OutcomeCode::SignatureInvalid, NotifyType::AUTHENTICATION_FAILED);
    // Ed25519 has no such method.
    let stranger = Stranger::new(Kind::Ed25519, &[]);
    let request = stranger.request();
    stranger.refused(&request, OutcomeCode::AuthMethodRefused, NotifyType::AUTHENTICATION_FAILED);
}

/// Signatures that are none (standards.md 3.3: 43 and 44): the verification itself is Wycheproof's matter.
#[test]
fn adversarial_43_44_class_10_signatures_that_are_wrong() {
    let failed = NotifyType::AUTHENTICATION_FAILED;
    let announced = [hashes(&ALL_HASHES)];
    for kind in [Kind::Rsa2048, Kind::P256, Kind::Ed25519] {
        let make = || Stranger::new(kind, &announced);
        // One bit of it, the end of it, something behind it, zeros.
        for change in [
            |s: &mut Vec<u8>| *s.last_mut().unwrap() ^= 1,
            |s: &mut Vec<u8>| s.truncate(s.len() - 1),
            |s: &mut Vec<u8>| s.push(0),
            |s: &mut Vec<u8>| s.fill(0),
        ] {
            let stranger = make();
            let mut signature = stranger.holder.key.sign(stranger.scheme, &stranger.octets()).unwrap();
            change(&mut signature);
            let request = stranger.request_with(digital_signature(stranger.scheme, &signature));
            stranger.refused(&request, OutcomeCode::SignatureInvalid, failed);
        }
        // Of other octets: another nonce, another identity.
        let stranger = make();
        let mut octets = stranger.octets();
        *octets.last_mut().unwrap() ^= 1;
        let signature = stranger.holder.key.sign(stranger.scheme, &octets).unwrap();
        let request = stranger.request_with(digital_signature(stranger.scheme, &signature));
        stranger.refused(&request, OutcomeCode::SignatureInvalid, failed);
        // None at all, by each method.
        let stranger = make();
        let request = stranger.request_with(digital_signature(stranger.scheme, &[]));
        stranger.refused(&request, OutcomeCode::InvalidSyntax, failed);
        for (method, data) in [
            (AuthMethod::RSA_SIGNATURE, vec![]),
            (AuthMethod::ECDSA_256, vec![]),
            (AuthMethod::DIGITAL_SIGNATURE, vec![]),
            (AuthMethod::DIGITAL_SIGNATURE, vec![0]),
            (AuthMethod::DIGITAL_SIGNATURE, vec![200, 0x30]),
        ] {
            let stranger = make();
            let code = if data == [0] { OutcomeCode::AuthMethodRefused } else { OutcomeCode::InvalidSyntax };
            let request = stranger.request_with(Authentication { method, data });
            stranger.refused(&request, code, failed);
        }
    }
    // r | s where DER belongs, and the other way round; a scheme of another kind of key.
    let stranger = Stranger::new(Kind::P256, &announced);
    let fixed =
        stranger.holder.key.sign(SignatureScheme::EcdsaFixed(HashId::SHA2_256), &stranger.octets()).unwrap();
    let request = stranger.request_with(digital_signature(stranger.scheme, &fixed));
    stranger.refused(&request, OutcomeCode::SignatureInvalid, failed);
    let stranger = Stranger::new(Kind::P256, &announced);
    let data = stranger.holder.key.sign(stranger.scheme, &stranger.octets()).unwrap();
    let request = stranger.request_with(Authentication { method: AuthMethod::ECDSA_256, data });
    stranger.refused(&request, OutcomeCode::SignatureInvalid, failed);
    let stranger = Stranger::new(Kind::P256, &announced);
    let request = stranger.request_with(digital_signature(SignatureScheme::Ed25519, &[1; 64]));
    stranger.refused(&request, OutcomeCode::AuthMethodRefused, failed);
}

/// No octet of the certificate or of the AUTH payload can be changed, and none is read beyond its end.
#[test]
fn every_octet_of_certificate_and_signature_counts() {
    let (ca, kind) = (Ca::root("Root", Kind::P256), Kind::P256);
    let holder = ca.host("a.example", kind);
    let make = || Stranger::of(&ca, holder.clone(), kind, &[hashes(&ALL_HASHES)]);
    let length = |payload: &Payload| match payload {
        Payload::Certificate(c) => c.data.len(),
        Payload::Authentication(auth) => auth.data.len(),
        _ => 0,
    };
    let changes: [fn(&mut Vec<u8>, usize); 3] =
        [|data, n| data[n] ^= 0x01, |data, n| data[n] ^= 0x80, |data, n| data.truncate(n)];
    let request = make().request();
    for (place, payload) in request.iter().enumerate() {
        for n in 0..length(payload) {
            let mut stranger = make();
            // The signature is made anew each time, so that only what is changed here is wrong.
            let mut request = stranger.request();
            let data = match &mut request[place] {
                Payload::Certificate(c) => &mut c.data,
                Payload::Authentication(auth) => &mut auth.data,
                _ => unreachable!(),
            };
            // A signature of ECDSA has not always the same length.
            if n >= data.len() {
                continue;
            }
            changes[n % changes.len()](data, n);
            let answer = stranger.hand.exchange(ExchangeType::IKE_AUTH, &request).expect("answered");
            let [Payload::Notify(said)] = &answer[..] else { panic!("octet {n} of payload {place}") };
            assert_eq!(said.notify_type, NotifyType::AUTHENTICATION_FAILED);
            assert!(stranger.hand.pair.b.installed.is_empty());
        }
    }
}

/// What Adit did not announce: SHA-1, PSS with defaults, DSA, no RFC 7427 at all (standards.md 3.3: 43 and 45).
#[test]
fn adversarial_43_45_algorithms_that_were_not_announced() {
    let code = OutcomeCode::AuthMethodRefused;
    for identifier in [
        "300d06092a864886f70d0101050500",
        "300d06092a864886f70d01010a3000",
        "300906072a8648ce380403",
        "300906072a8648ce3d0401",
        "300b06092a864886f70d01010b",
    ] {
        let stranger = Stranger::new(Kind::Rsa2048, &[hashes(&ALL_HASHES)]);
        let identifier = hex(identifier);
        let data = [&[identifier.len() as u8], &identifier[..], &[1; 256]].concat();
        let request = stranger.request_with(Authentication { method: AuthMethod::DIGITAL_SIGNATURE, data });
        stranger.refused(&request, code, NotifyType::AUTHENTICATION_FAILED);
    }
    let stranger = Stranger::new(Kind::Rsa2048, &[]);
    let request = stranger.request();
    stranger.refused(&request, code, NotifyType::AUTHENTICATION_FAILED);
    // Shared keys, NULL, and methods that nobody knows.
    for method in [AuthMethod::SHARED_KEY, AuthMethod::NULL, AuthMethod::DSS_SIGNATURE, AuthMethod(200)] {
        let stranger = Stranger::new(Kind::P256, &[hashes(&ALL_HASHES)]);
        let data = stranger.hand.auth(0, &Stranger::id().body());
        let request = stranger.request_with(Authentication { method, data });
        stranger.refused(&request, code, NotifyType::AUTHENTICATION_FAILED);
    }
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

/// RFC 7296 3.6: the first certificate is the one whose key signs; whatever else comes is no more than help.
#[test]
fn adversarial_47_certificates_beside_the_first() {
    let announced = [hashes(&ALL_HASHES)];
    let junk = |encoding| Payload::Certificate(CertificatePayload { encoding, data: vec![7; 40] });
    // Other encodings are passed over, and what cannot be read.
    let mut stranger = Stranger::new(Kind::P256, &announced);
    let mut request = stranger.request();
    for encoding in
        [CertEncoding::HASH_AND_URL_X509, CertEncoding::CRL, CertEncoding::RAW_PUBLIC_KEY, CertEncoding(0)]
    {
        request.insert(1, junk(encoding));
    }
    request.extend((0..50).map(|_| junk(CertEncoding::X509_SIGNATURE)));
    stranger.accepted(&request);
    // There is a limit to what a message holds.
    let stranger = Stranger::new(Kind::P256, &announced);
    let mut request = stranger.request();
    request.extend((0..100).map(|_| junk(CertEncoding::X509_SIGNATURE)));
    stranger.refused(&request, OutcomeCode::InvalidSyntax, NotifyType::INVALID_SYNTAX);
    // But the first has to be one.
    let failed = NotifyType::AUTHENTICATION_FAILED;
    for data in [vec![], vec![0x30], vec![0; 2000]] {
        let stranger = Stranger::new(Kind::P256, &announced);
        let mut request = stranger.request();
        request.insert(1, cert(&data));
        stranger.refused(&request, OutcomeCode::BadCertificate, failed);
    }
    // It is the first that has to verify, not any.
    let stranger = Stranger::new(Kind::P256, &announced);
    let other = Ca::root("Root", Kind::P256).host("a.example", Kind::P256);
    let mut request = stranger.request();
    request.insert(1, cert(other.certificate.der()));
    stranger.refused(&request, OutcomeCode::SignatureInvalid, failed);
    // None at all, and those that nobody fetches.
    let stranger = Stranger::new(Kind::P256, &announced);
    let mut request = stranger.request();
    request.remove(1);
    let message = stranger.refused(&request, OutcomeCode::NoCertificate, failed);
    assert!(message.contains("send_cert"), "{message}");
    let stranger = Stranger::new(Kind::P256, &announced);
    let mut request = stranger.request();
    request[1] = junk(CertEncoding::HASH_AND_URL_X509);
    stranger.refused(&request, OutcomeCode::NoCertificate, failed);
}

/// CERTREQ is a wish: what it holds never ends anything (RFC 7296 3.7).
#[test]
fn certificate_requests_of_garbage() {
    let announced = [hashes(&ALL_HASHES)];
    for authorities in [vec![], vec![1; 19], vec![1; 21], vec![1; 30_000]] {
        let mut stranger = Stranger::new(Kind::P256, &announced);
        let mut request = stranger.request();
        request[2] = request_of(&authorities);
        stranger.accepted(&request);
    }
    // One for something else is none: then no certificate is sent.
    let mut stranger = Stranger::new(Kind::P256, &announced);
    let mut request = stranger.request();
    let encoding = CertEncoding::HASH_AND_URL_X509;
    request[2] = Payload::CertificateRequest(CertificateRequest { encoding, authorities: vec![1; 20] });
    let answer = stranger.hand.exchange(ExchangeType::IKE_AUTH, &request).unwrap();
    assert!(certificates(&answer).is_empty());
    assert_eq!(stranger.hand.pair.b.installed.len(), 1);
}

/// Each payload of the request missing in turn, and each twice (standards.md 3.3: 20, 21 and 22).
#[test]
fn adversarial_20_21_22_requests_that_lack_something_or_have_it_twice() {
    let announced = [hashes(&ALL_HASHES)];
    let whole = Stranger::new(Kind::P256, &announced).request();
    for n in 0..whole.len() {
        let stranger = Stranger::new(Kind::P256, &announced);
        let mut request = stranger.request();
        let removed = request.remove(n);
        let (code, notify) = match removed {
            Payload::IdInitiator(_) => (OutcomeCode::InvalidSyntax, NotifyType::AUTHENTICATION_FAILED),
            Payload::Certificate(_) => (OutcomeCode::NoCertificate, NotifyType::AUTHENTICATION_FAILED),
            Payload::Authentication(_) => (OutcomeCode::AuthMethodRefused, NotifyType::AUTHENTICATION_FAILED),
            Payload::CertificateRequest(_) => continue,
            _ => (OutcomeCode::InvalidSyntax, NotifyType::INVALID_SYNTAX),
        };
        stranger.refused(&request, code, notify);
        if !matches!(removed, Payload::Certificate(_)) {
            let stranger = Stranger::new(Kind::P256, &announced);
            let mut request = stranger.request();
            request.insert(n, request[n].clone());
            stranger.refused(&request, OutcomeCode::InvalidSyntax, NotifyType::INVALID_SYNTAX);
        }
    }
}

/// A signature belongs to one IKE SA.
#[test]
fn a_request_replayed_into_another_ike_sa() {
    let (ca, kind) = (Ca::root("Root", Kind::P256), Kind::P256);
    let holder = ca.host("a.example", kind);
    let mut first = Stranger::of(&ca, holder.clone(), kind, &[hashes(&ALL_HASHES)]);
    let request = first.request();
    first.accepted(&request);
    // Nonces and keys of a hand are the same each time; a notify makes another IKE_SA_INIT of it.
    let other = Notify::new(NotifyType::REDIRECT_SUPPORTED, Vec::new());
    let second = Stranger::of(&ca, holder, kind, &[hashes(&ALL_HASHES), other]);
    let stale = request.iter().find(|p| matches!(p, Payload::Authentication(_))).unwrap().clone();
    let mut replayed = second.request();
    *replayed.iter_mut().find(|p| matches!(p, Payload::Authentication(_))).unwrap() = stale;
    second.refused(&replayed, OutcomeCode::SignatureInvalid, NotifyType::AUTHENTICATION_FAILED);
}

/// A certificate that nobody whom we trust has issued, or whose time it is not (standards.md 3.3: 47).
#[test]
fn adversarial_47_certificates_that_are_not_trusted() {
    let ca = Ca::root("Root", Kind::P256);
    let twin = Ca::root("Root", Kind::P256);
    let other = Ca::root("Other", Kind::P256);
    let with = |holder: Holder| {
        let ca = &ca;
        move || {
            let (mut a, mut b) = sides();
            equip(&mut a, &holder, &[ca]);
            equip(&mut b, &ca.host("b.example", Kind::P256), &[ca]);
            (a, b)
        }
    };
    let names = [dns("a.example")];
    assert_refused_in_both_roles(
        with(other.host("a.example", Kind::P256)),
        OutcomeCode::Untrusted,
        &["Other"],
    );
    assert_refused_in_both_roles(with(twin.host("a.example", Kind::P256)), OutcomeCode::Untrusted, &[]);
    let expired =
        ca.issue_with("x", &names, Kind::P256, |p| p.not_after = rcgen::date_time_ymd(2029, 12, 31));
    assert_refused_in_both_roles(with(expired), OutcomeCode::Expired, &["expired"]);
    let early = ca.issue_with("x", &names, Kind::P256, |p| p.not_before = rcgen::date_time_ymd(2030, 1, 2));
    assert_refused_in_both_roles(with(early), OutcomeCode::Expired, &["not valid before"]);
    // Without the date nothing is valid.
    let (a, b) = with(ca.host("a.example", Kind::P256))();
    let mut pair = Pair::new((a, b));
    pair.b.gateway.set_wall_clock(pair.now, std::time::SystemTime::UNIX_EPOCH);
    pair.up();
    pair.settle();
    assert_eq!(pair.b.failure().code, OutcomeCode::Expired);
}

/// Chains that need what the peer sends, and those that do not.
#[test]
fn intermediate_authorities() {
    let root = Ca::root("Root", Kind::P384);
    let (one, mid) = (root.intermediate("One", Kind::P256), root.intermediate("Mid", Kind::P256));
    let two = mid.intermediate("Two", Kind::P256);
    for (issuer, above) in [(&one, vec![&one]), (&two, vec![&two, &mid])] {
        let (mut a, mut b) = sides();
        equip(&mut a, &issuer.host("a.example", Kind::P256), &[&root]);
        equip(&mut b, &root.host("b.example", Kind::P256), &[&root]);
        for ca in &above {
            a.trust.add_intermediate(ca.certificate.clone());
        }
        let pair = Pair::established((a, b));
        let sent = certificates(&auth_message(&pair, false));
        // The end first, then upwards, without the root.
        let expected: Vec<&[u8]> = above.iter().map(|ca| ca.certificate.der()).collect();
        assert_eq!(sent[1..], expected);
        assert_eq!(certificates(&auth_message(&pair, true)).len(), 1);

        // The peer does not send them, and we have them.
        let (mut a, mut b) = sides();
        equip(&mut a, &issuer.host("a.example", Kind::P256), &[&root]);
        equip(&mut b, &root.host("b.example", Kind::P256), &[&root]);
        for ca in &above {
            b.trust.add_intermediate(ca.certificate.clone());
        }
        Pair::established((a, b));
        // Nobody has them.
        let (mut a, mut b) = sides();
        equip(&mut a, &issuer.host("a.example", Kind::P256), &[&root]);
        equip(&mut b, &root.host("b.example", Kind::P256), &[&root]);
        assert_refused((a, b), OutcomeCode::Untrusted, &[]);
    }
}

/// The certificate is chosen that the peer asks for.
#[test]
fn one_certificate_among_several() {
    let (red, blue) = (Ca::root("Red", Kind::P256), Ca::root("Blue", Kind::P256));
    let below = blue.intermediate("Below", Kind::P256);
    let holders = [red.host("a.example", Kind::P256), below.host("a.example", Kind::Ed25519)];
    for (trusted, expected) in [(&red, &holders[0]), (&blue, &holders[1])] {
        let (mut a, mut b) = sides();
        equip(&mut a, &holders[0], &[&red, &blue]);
        equip(&mut b, &trusted.host("b.example", Kind::P256), &[trusted]);
        a.keys = holders.iter().map(|h| Arc::clone(&h.key)).collect();
        a.trust.add_intermediate(below.certificate.clone());
        a.connection().local_auth = LocalAuth::PublicKey {
            certificates: holders.iter().map(|h| h.certificate.clone()).collect(),
            constraints: Constraints::default(),
        };
        let pair = Pair::established((a, b));
        assert_eq!(certificates(&auth_message(&pair, false))[0], expected.certificate.der());
    }
}

/// `send_cert` and `send_certreq`, and a peer whose certificate is known already.
#[test]
fn certificates_are_sent_as_configured() {
    for (send, asked, sent) in [
        (SendCert::IfAsked, true, true),
        (SendCert::IfAsked, false, false),
        (SendCert::Always, false, true),
        (SendCert::Never, true, false),
    ] {
        let (mut a, mut b) = certified([Kind::P256, Kind::P256]);
        a.connection().send_cert = send;
        b.connection().send_certreq = asked;
        let LocalAuth::PublicKey { certificates: own, .. } = a.connections[0].local_auth.clone() else {
            panic!()
        };
        if !sent {
            requirements(&mut b).pinned = own;
        }
        let pair = Pair::established((a, b));
        assert_eq!(!certificates(&auth_message(&pair, false)).is_empty(), sent, "{send:?} {asked}");
        let asks =
            |payloads: &[Payload]| payloads.iter().any(|p| matches!(p, Payload::CertificateRequest(_)));
        assert_eq!(asks(&adit_wire::ikev2::Message::decode(&pair.sent[1].datagram).unwrap().payloads), asked);
        assert!(asks(&auth_message(&pair, false)));
    }
}

#[test]
fn pinned_certificates() {
    let (a, mut b) = certified([Kind::P256, Kind::P256]);
    let LocalAuth::PublicKey { certificates, .. } = a.connections[0].local_auth.clone() else { panic!() };
    requirements(&mut b).pinned = certificates;
    b.trust = adit_cert::Store::default();
    Pair::established((a, b));
    let make = || {
        let (a, mut b) = certified([Kind::P256, Kind::P256]);
        requirements(&mut b).pinned =
            vec![Ca::root("Root", Kind::P256).host("a.example", Kind::P256).certificate];
        (a, b)
    };
    assert_refused(make(), OutcomeCode::Untrusted, &["remote.certs"]);
}

/// `remote.auth` says what is good enough.
#[test]
fn keys_and_signatures_that_are_not_good_enough() {
    for (kind, local, remote) in [
        (Kind::Rsa2048, "pubkey", "rsa-3072"),
        (Kind::Rsa2048, "pubkey", "rsa/pss"),
        (Kind::Rsa2048, "rsa-sha256", "rsa-sha384"),
        (Kind::P256, "pubkey", "ecdsa-384"),
        (Kind::P256, "pubkey", "rsa"),
        (Kind::P256, "pubkey", "ike:pubkey-sha512"),
        (Kind::Ed25519, "pubkey", "ecdsa"),
    ] {
        let (mut a, mut b) = certified([kind, Kind::P256]);
        set_local(&mut a, local);
        set_remote(&mut b, remote);
        let word = format!("remote.auth = {remote}");
        assert_refused((a, b), OutcomeCode::AuthMethodRefused, &[&word]);
    }
    // The authority's key counts as well, unless it is about IKE alone.
    for (remote, code) in [("rsa", Some(OutcomeCode::Untrusted)), ("ike:rsa", None)] {
        let (a, mut b) = certified([Kind::Rsa2048, Kind::P256]);
        set_remote(&mut b, remote);
        match code {
            Some(code) => assert_refused((a, b), code, &["Root"]),
            None => drop(Pair::established((a, b))),
        }
    }
    // An initiator that must not sign as its key can.
    let (mut a, b) = certified([Kind::P256, Kind::P256]);
    set_local(&mut a, "rsa");
    let mut pair = Pair::new((a, b));
    pair.up();
    pair.settle();
    assert_eq!(pair.a.failure().code, OutcomeCode::AuthMethodRefused);
}

/// RFC 7296 2.15: each side authenticates in its own way.
#[test]
fn one_side_by_a_key_and_the_other_by_a_certificate() {
    let ca = Ca::root("Root", Kind::P256);
    for initiator_has_certificate in [false, true] {
        let (mut a, mut b) = sides();
        let (with, without) = if initiator_has_certificate { (&mut a, &mut b) } else { (&mut b, &mut a) };
        let name = if initiator_has_certificate { "a.example" } else { "b.example" };
        let holder = ca.host(name, Kind::P256);
        with.keys = vec![Arc::clone(&holder.key)];
        with.connection().local_auth = holder.auth();
        without.trust = trust(&[&ca]);
        without.connection().remote_auth = by_certificate();
        let pair = Pair::established((a, b));
        let methods = auths(&pair).map(|auth| auth.method);
        let mut expected = [AuthMethod::SHARED_KEY, AuthMethod::DIGITAL_SIGNATURE];
        if initiator_has_certificate {
            expected.reverse();
        }
        assert_eq!(methods, expected);
    }
}

/// A side that proves itself otherwise than the other wants (standards.md 3.3: 45).
#[test]
fn adversarial_45_the_wrong_kind_of_proof() {
    let make = || {
        let (mut a, b) = certified([Kind::P256, Kind::P256]);
        a.connection().local_auth = LocalAuth::Psk;
        a.secrets = vec![secret(&["a.example", "b.example"], KEY)];
        (a, b)
    };
    assert_refused_in_both_roles(make, OutcomeCode::AuthMethodRefused, &["SHARED_KEY", "pubkey"]);
    let make = || {
        let (a, mut b) = certified([Kind::P256, Kind::P256]);
        b.connection().remote_auth = RemoteAuth::Psk;
        b.secrets = vec![secret(&["a.example", "b.example"], KEY)];
        (a, b)
    };
    assert_refused_in_both_roles(make, OutcomeCode::AuthMethodRefused, &["DIGITAL_SIGNATURE", "auth = psk"]);
}

/// Two connections that differ in nothing but what the peer has to prove: each peer gets its own.
#[test]
fn connections_are_told_apart_by_the_proof() {
    for by_key in [false, true] {
        let (mut a, mut b) = certified([Kind::P256, Kind::P256]);
        b.connection().remote_id = IdentityPattern::Any;
        let mut other = b.connections[0].clone();
        other.name = "by-key".to_owned();
        other.remote_auth = RemoteAuth::Psk;
        b.connections.push(other);
        b.secrets = vec![secret(&["a.example", "b.example"], KEY)];
        if by_key {
            a.connection().local_auth = LocalAuth::Psk;
            a.secrets = vec![secret(&["a.example", "b.example"], KEY)];
        }
        let pair = Pair::established((a, b));
        let used = pair.b.gateway.ike_sas().next().unwrap().connection;
        assert_eq!(used, if by_key { "by-key" } else { "to-a" });
    }
}

/// What is missing on our side is said before anything is sent.
#[test]
fn credentials_that_are_not_there() {
    for (code, strip) in [
        (OutcomeCode::NoPrivateKey, (|side: &mut Side| side.keys.clear()) as fn(&mut Side)),
        (OutcomeCode::NoCertificate, |side| {
            side.connection().local_auth =
                LocalAuth::PublicKey { certificates: Vec::new(), constraints: Constraints::default() };
        }),
    ] {
        let (mut a, b) = certified([Kind::P256, Kind::P256]);
        strip(&mut a);
        let mut pair = Pair::new((a, b));
        pair.up();
        pair.settle();
        let failure = pair.a.failure();
        assert_eq!((failure.code, failure.blame), (code, Blame::OurConfiguration), "{}", failure.message);
        assert_eq!(pair.trace(), ["IKE_SA_INIT -> 0", "IKE_SA_INIT <- 0"]);
        // A responder that lacks it refuses, and says why in its own record.
        let (a, mut b) = certified([Kind::P256, Kind::P256]);
        strip(&mut b);
        assert_refused((a, b), code, &[]);
    }
}

/// IKE_INTERMEDIATE, a post-quantum pre-shared key and reauthentication are as they are with pre-shared keys.
#[test]
fn signatures_cover_what_pre_shared_keys_cover() {
    let ppk = || PostQuantumKey {
        name: "ppk-1".to_owned(),
        ids: vec![b"alice".to_vec()],
        secret: Arc::new(adit_crypto::Secret::new(vec![7; 32])),
    };
    for (there, in_use) in [([true, true], true), ([true, false], false)] {
        let (mut a, mut b) = certified([Kind::Rsa2048, Kind::P384]);
        for side in [&mut a, &mut b] {
            side.connection().proposals =
                proposal::parse_ike("aes256gcm16-prfsha384-x25519-ke1_mlkem768").unwrap();
        }
        a.ppks = if there[0] { vec![ppk()] } else { Vec::new() };
        // A responder with another key only goes on without one.
        b.ppks =
            if there[1] { vec![ppk()] } else { vec![PostQuantumKey { ids: vec![b"bob".to_vec()], ..ppk() }] };
        a.connection().ppk = PpkPolicy { id: Some(b"alice".to_vec()), required: false };
        let pair = Pair::established((a, b));
        assert!(pair.trace().contains(&"IKE_INTERMEDIATE -> 1".to_owned()));
        for peer in [&pair.a, &pair.b] {
            assert_eq!(peer.gateway.ike_sas().next().unwrap().ppk, in_use);
        }
    }
}

/// Chains of three certificates with RSA-4096 go through IKE fragmentation both ways (RFC 7383).
#[test]
fn large_chains_go_in_fragments() {
    let root = Ca::root("Root", Kind::Rsa4096);
    let mid = root.intermediate("Mid", Kind::Rsa4096);
    let low = mid.intermediate("Low", Kind::Rsa4096);
    let (mut a, mut b) = sides();
    for (side, name) in [(&mut a, "a.example"), (&mut b, "b.example")] {
        equip(side, &low.host(name, Kind::Rsa4096), &[&root]);
        side.settings.fragment_size = Settings::default().fragment_size;
        side.trust.add_intermediate(mid.certificate.clone());
        side.trust.add_intermediate(low.certificate.clone());
    }
    let mut pair = Pair::new((a, b));
    // Each tenth datagram is lost.
    pair.link = Box::new(|n, _| if n % 10 == 9 { Fate::Lose } else { Fate::Deliver });
    let request = pair.up();
    pair.run(Duration::from_secs(30));
    assert_eq!(pair.a.done.get(&request), Some(&Ok(())), "{:?}", pair.b.events);
    pair.assert_children(1);
    for response in [false, true] {
        let mut packets = pair.sent.iter().filter(|p| p.is(ExchangeType::IKE_AUTH, response));
        assert!(packets.clone().count() > 3, "not in fragments");
        assert!(packets.all(|p| p.datagram.len() <= 1280));
    }
}

/// Whoever does not know whom it will meet takes whoever proves to be somebody.
#[test]
fn an_initiator_without_idr() {
    let (mut a, b) = certified([Kind::P256, Kind::P256]);
    a.connection().remote_id = IdentityPattern::Any;
    let pair = Pair::established((a, b));
    assert!(!auth_message(&pair, false).iter().any(|p| matches!(p, Payload::IdResponder(_))));
    let known = pair.a.gateway.ike_sas().next().unwrap().remote_id;
    assert_eq!(known, Some("b.example".parse().unwrap()));
}

/// A token, which counts what it is to sign.
#[derive(Debug)]
struct Token {
    holder: Holder,
    signed: Arc<AtomicUsize>,
    works: bool,
}

impl Signer for Token {
    fn public_key(&self) -> &[u8] {
        self.holder.key.public_key()
    }

    fn kind(&self) -> KeyKind {
        self.holder.key.kind()
    }

    fn can(&self, scheme: SignatureScheme) -> bool {
        self.holder.key.can(scheme)
    }

    fn sign(&self, scheme: SignatureScheme, message: &[u8]) -> Result<Vec<u8>, adit_crypto::Error> {
        self.signed.fetch_add(1, Ordering::Relaxed);
        if self.works { self.holder.key.sign(scheme, message) } else { Err(adit_crypto::Error::BadKey) }
    }
}

/// A token that fails when it is to sign.
#[test]
fn class_13_a_key_that_fails() {
    let ca = Ca::root("Root", Kind::P256);
    let make = |broken: [bool; 2]| {
        let (mut a, mut b) = sides();
        for (side, name, broken) in [(&mut a, "a.example", broken[0]), (&mut b, "b.example", broken[1])] {
            let holder = ca.host(name, Kind::P256);
            equip(side, &holder, &[&ca]);
            if broken {
                side.keys = vec![Arc::new(Token { holder, signed: Arc::default(), works: false })];
            }
        }
        (a, b)
    };
    let mut pair = Pair::new(make([true, false]));
    pair.up();
    pair.settle();
    assert_eq!(pair.a.failure().code, OutcomeCode::NoPrivateKey);
    assert_eq!(pair.trace(), ["IKE_SA_INIT -> 0", "IKE_SA_INIT <- 0"]);
    assert_refused(make([false, true]), OutcomeCode::NoPrivateKey, &["failed"]);
}

/// What a stranger is sent grows with what it sent, however many authorities there are.
#[test]
fn adversarial_40_requests_for_certificates_do_not_amplify() {
    let many: Vec<Ca> = (0..200).map(|n| Ca::root(&format!("Root {n}"), Kind::Ed25519)).collect();
    let (a, mut b) = certified([Kind::P256, Kind::P256]);
    b.trust = trust(&many.iter().collect::<Vec<_>>());
    let mut pair = Pair::new((a, b));
    pair.up();
    pair.settle();
    let [asked, told] = [0, 1].map(|n| pair.sent[n].datagram.len());
    assert!(told > asked && told <= 2 * asked + 48, "{told} for {asked}");
    // The initiator is not asked for its own authority, and sends its certificate all the same.
    assert_eq!(pair.b.failure().code, OutcomeCode::Untrusted);
}

/// Peers authenticate anew with what is valid then.
#[test]
fn reauthentication() {
    let (mut a, b) = certified([Kind::P256, Kind::Ed25519]);
    let minute = Duration::from_secs(60);
    a.connection().reauth = Lifetime { soft: minute, hard: 2 * minute, jitter: Duration::ZERO };
    let mut pair = Pair::established((a, b));
    pair.run(minute + Duration::from_secs(5));
    pair.assert_children(1);
    assert_eq!(pair.a.gateway.ike_sas().next().unwrap().handle.0, 2);
    // From then on the certificates are expired: the next one does not come to be.
    let late = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(200 * 365 * 86_400 * 50);
    pair.b.gateway.set_wall_clock(pair.now, late);
    pair.run(minute);
    assert_eq!(pair.b.failure().code, OutcomeCode::Expired);
}

/// A renewed certificate leaves what is up alone, and is used from then on.
#[test]
fn a_renewed_certificate() {
    let ca = Ca::root("Root", Kind::P256);
    let (old, new) = (ca.host("a.example", Kind::P256), ca.host("a.example", Kind::Ed25519));
    let make = |holder: &Holder| {
        let (mut a, mut b) = sides();
        equip(&mut a, holder, &[&ca]);
        equip(&mut b, &ca.host("b.example", Kind::P256), &[&ca]);
        let minute = Duration::from_secs(60);
        a.connection().reauth = Lifetime { soft: minute, hard: 2 * minute, jitter: Duration::ZERO };
        (a, b)
    };
    let mut pair = Pair::established(make(&old));
    let Side { connections, keys, trust, .. } = make(&new).0;
    pair.a.gateway.set_configuration(Configuration { connections, keys, trust, ..Configuration::default() });
    pair.settle();
    pair.assert_children(1);
    assert_eq!(pair.a.gateway.ike_sas().next().unwrap().handle.0, 1);
    pair.run(Duration::from_secs(65));
    assert_eq!(pair.a.gateway.ike_sas().next().unwrap().handle.0, 2, "{:?}", pair.a.events);
    let request = pair.sent.iter().rfind(|p| p.is(ExchangeType::IKE_AUTH, false)).unwrap();
    assert_eq!(certificates(&pair.open(request)), [new.certificate.der()]);
}

/// Whoever has not proved who it is learns neither our name nor our certificate, and has nothing signed by us.
#[test]
fn class_5_nobody_is_told_who_we_are_before_it_has_proved_itself() {
    let (ca, kind, signed) = (Ca::root("Root", Kind::P256), Kind::P256, Arc::new(AtomicUsize::new(0)));
    let own = ca.host("b.example", kind);
    for honest in [false, true] {
        let (_, mut b) = sides();
        equip(&mut b, &own, &[&ca]);
        b.keys = vec![Arc::new(Token { holder: own.clone(), signed: Arc::clone(&signed), works: true })];
        let hand = Hand::with(b, PROPOSAL, &[hashes(&ALL_HASHES)]).ok().expect("IKE_SA_INIT is accepted");
        let holder = ca.host("a.example", kind);
        let mut stranger = Stranger { hand, scheme: SignatureScheme::Ecdsa(HashId::SHA2_256), holder };
        let mut request = stranger.request();
        let Some(Payload::Authentication(auth)) =
            request.iter_mut().find(|p| matches!(p, Payload::Authentication(_)))
        else {
            panic!("no AUTH")
        };
        if !honest {
            *auth.data.last_mut().unwrap() ^= 1;
        }
        let answer = stranger.hand.exchange(ExchangeType::IKE_AUTH, &request).expect("answered");
        assert_eq!(answer.len() == 1, !honest);
        assert_eq!(signed.load(Ordering::Relaxed), usize::from(honest));
    }
}

/// A number that means something to us alone, or to somebody else, is no number of the wire.
#[test]
fn class_8_private_numbers_mean_nothing() {
    let private: Vec<HashId> = (1024..1100).chain([0, 6, 7, u16::MAX]).map(HashId).collect();
    let stranger = Stranger::new(Kind::P256, &[hashes(&private)]);
    let request = stranger.request();
    stranger.refused(&request, OutcomeCode::AuthMethodRefused, NotifyType::AUTHENTICATION_FAILED);
    for method in (0..=u8::MAX).map(AuthMethod) {
        let known = [
            AuthMethod::RSA_SIGNATURE,
            AuthMethod::ECDSA_256,
            AuthMethod::ECDSA_384,
            AuthMethod::ECDSA_521,
            AuthMethod::DIGITAL_SIGNATURE,
        ];
        if !known.contains(&method) {
            let stranger = Stranger::new(Kind::P256, &[hashes(&ALL_HASHES)]);
            let data = stranger.holder.key.sign(stranger.scheme, &stranger.octets()).unwrap();
            let request = stranger.request_with(Authentication { method, data });
            stranger.refused(&request, OutcomeCode::AuthMethodRefused, NotifyType::AUTHENTICATION_FAILED);
        }
    }
}
