//! Whom a certificate names, and whom not.

use super::*;

/// Whose certificate it is: exactly, by type (standards.md 3.3: 46).
#[test]
fn identities_that_a_certificate_has() {
    let v4 = ip(A);
    for (id, alternative) in [
        ("a.example", vec![dns("a.example")]),
        ("A.Example", vec![dns("a.example")]),
        ("a.example", vec![email("x@a.example"), address(v4), dns("a.example")]),
        ("joe@a.example", vec![email("joe@a.example")]),
        (A, vec![address(v4)]),
        ("2001:db8::1", vec![address(ip("2001:db8::1"))]),
    ] {
        Pair::established(identified(id.parse().unwrap(), "whatever", &alternative));
    }
    // The whole subject.
    let (mut a, b) = identified(Identity::key_id(b"later"), "router", &[]);
    a.connection().local_id = Some(subject_of(&a));
    let mut b = b;
    b.connection().remote_id = IdentityPattern::Exact(subject_of(&a));
    Pair::established((a, b));
}

fn subject_of(side: &Side) -> Identity {
    let LocalAuth::PublicKey { certificates, .. } = &side.connections[0].local_auth else {
        panic!("no certificate")
    };
    let dn = Identification::new(IdType::DER_ASN1_DN, certificates[0].subject().to_vec());
    Identity::from_wire(&dn).unwrap()
}

/// `a` is `id`, and has a certificate for `CN=cn` with these alternative names.
fn identified(id: Identity, cn: &str, alternative: &[rcgen::SanType]) -> (Side, Side) {
    let ca = Ca::root("Root", Kind::P256);
    let (mut a, mut b) = sides();
    equip(&mut a, &ca.issue(cn, alternative, Kind::P256), &[&ca]);
    equip(&mut b, &ca.host("b.example", Kind::P256), &[&ca]);
    a.connection().local_id = Some(id.clone());
    b.connection().remote_id = IdentityPattern::Exact(id);
    (a, b)
}

#[test]
fn adversarial_46_50_identities_that_a_certificate_does_not_have() {
    for (id, cn, alternative) in [
        // The common name says so, and nothing else.
        ("a.example", "a.example", vec![]),
        ("a.example", "a.example", vec![dns("b.example")]),
        // A part of it, and it a part.
        ("a.example", "x", vec![dns("xa.example")]),
        ("a.example", "x", vec![dns("a.example.com")]),
        ("a.example", "x", vec![dns("example")]),
        ("a.example", "x", vec![dns("*.example")]),
        // The right text of the wrong type.
        ("a.example", "x", vec![email("joe@a.example")]),
        ("joe@a.example", "x", vec![email("jim@a.example")]),
        ("joe@a.example", "x", vec![dns("a.example")]),
        (A, "x", vec![dns(A)]),
        (A, "x", vec![address(ip("192.0.2.11"))]),
        ("keyid:a.example", "a.example", vec![dns("a.example")]),
    ] {
        let words = ["does not say so", "local.id"];
        let make = || identified(id.parse().unwrap(), cn, &alternative);
        assert_refused(make(), OutcomeCode::IdentityNotInCertificate, &words);
    }
    // As seen by an initiator, who is presented another server's certificate (standards.md 3.3: 50).
    let ca = Ca::root("Root", Kind::P256);
    let (mut a, mut b) = sides();
    equip(&mut a, &ca.host("a.example", Kind::P256), &[&ca]);
    equip(&mut b, &ca.host("c.example", Kind::P256), &[&ca]);
    assert_refuses((a, b), OutcomeCode::IdentityNotInCertificate, &["c.example"]);
}

/// Identities that are no names, with a signature that is right, where anybody is accepted (standards.md 3.3: 14).
#[test]
fn adversarial_14_identities_that_no_certificate_can_have() {
    let rdn = hex("3112301006035504030c09612e6578616d706c65");
    let dn = |n: usize| {
        let body = rdn.repeat(n);
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&[0x30, 0x82], &length[..], &body].concat()
    };
    for (id_type, data) in [
        (IdType::DER_ASN1_DN, dn(2_000)),
        (IdType::DER_ASN1_DN, dn(20)),
        (IdType::DER_ASN1_DN, vec![0x30, 0]),
        (IdType::DER_ASN1_DN, vec![0x30, 0x84, 0xff, 0xff, 0xff, 0xff]),
        (IdType::DER_ASN1_GN, rdn.clone()),
        (IdType::FQDN, b"a.example\0".to_vec()),
        (IdType::FQDN, b"a.example.".to_vec()),
        (IdType::FQDN, b"\xff\xfe".to_vec()),
        (IdType::FQDN, vec![b'a'; 30_000]),
        (IdType::RFC822_ADDR, b"@a.example".to_vec()),
        (IdType::NULL, vec![0]),
        (IdType(250), b"a.example".to_vec()),
    ] {
        let (ca, kind) = (Ca::root("Root", Kind::P256), Kind::P256);
        let (_, mut b) = sides();
        equip(&mut b, &ca.host("b.example", kind), &[&ca]);
        b.connection().remote_id = IdentityPattern::Any;
        let hand = Hand::with(b, PROPOSAL, &[hashes(&ALL_HASHES)]).ok().expect("IKE_SA_INIT is accepted");
        let holder = ca.host("a.example", kind);
        let stranger = Stranger { hand, scheme: SignatureScheme::Ecdsa(HashId::SHA2_256), holder };
        let id = Identification::new(id_type, data);
        let signature =
            stranger.holder.key.sign(stranger.scheme, &stranger.hand.octets(0, &id.body())).unwrap();
        let mut request = stranger.request_with(digital_signature(stranger.scheme, &signature));
        request[0] = Payload::IdInitiator(id);
        let failed = NotifyType::AUTHENTICATION_FAILED;
        let message = stranger.refused(&request, OutcomeCode::IdentityNotInCertificate, failed);
        assert!(
            message.len() < 2_000 && message.bytes().all(|b| b.is_ascii_graphic() || b == b' '),
            "{message}"
        );
    }
}

/// A wildcard in `remote.id` widens whom we accept, not what a certificate means.
#[test]
fn anybody_of_a_domain_by_its_own_certificate() {
    let (a, mut b) = certified([Kind::P256, Kind::P256]);
    b.connection().remote_id = "*.example".parse().unwrap();
    Pair::established((a, b));
    let (a, mut b) = identified("a.example".parse().unwrap(), "x", &[dns("c.example")]);
    b.connection().remote_id = IdentityPattern::Any;
    assert_refused((a, b), OutcomeCode::IdentityNotInCertificate, &[]);
}

/// Somebody else's certificate with one's own key, in both roles.
#[test]
fn another_ones_certificate() {
    let ca = Ca::root("Root", Kind::P256);
    let (victim, thief) = (ca.host("a.example", Kind::P256), ca.host("mallory.example", Kind::P256));
    let make = || {
        let (mut a, mut b) = sides();
        // Its own key, under the public key of the certificate that it presents.
        let stolen = Holder {
            certificate: victim.certificate.clone(),
            key: Arc::new(Impostor(victim.clone(), thief.clone())),
        };
        equip(&mut a, &stolen, &[&ca]);
        equip(&mut b, &ca.host("b.example", Kind::P256), &[&ca]);
        (a, b)
    };
    assert_refused_in_both_roles(make, OutcomeCode::SignatureInvalid, &["does not verify"]);
}

/// Says that it is the one, and signs with the key of the other.
#[derive(Debug)]
struct Impostor(Holder, Holder);

impl Signer for Impostor {
    fn public_key(&self) -> &[u8] {
        self.0.key.public_key()
    }

    fn kind(&self) -> KeyKind {
        self.0.key.kind()
    }

    fn can(&self, scheme: SignatureScheme) -> bool {
        self.1.key.can(scheme)
    }

    fn sign(&self, scheme: SignatureScheme, message: &[u8]) -> Result<Vec<u8>, adit_crypto::Error> {
        self.1.key.sign(scheme, message)
    }
}
