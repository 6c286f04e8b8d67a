//! Paths and requirements: tests 43 and 47 of the adversarial list, and the classes of errors that touch certificates.

use adit_cert::{
    AltName, Certificate, Oid, Rejected, Requirements, Revocation, Store, dn_from_text, purpose,
};
use rcgen::{
    BasicConstraints, CidrSubnet, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, KeyUsagePurpose, NameConstraints, SanType, date_time_ymd,
};

use crate::openssl::OpenSsl;
use crate::pki::{Ca, now, params, plain, store};

fn names(path: &adit_cert::Path) -> Vec<String> {
    path.certificates().iter().map(ToString::to_string).collect()
}

#[test]
fn paths_lead_over_what_the_peer_sends_and_what_we_know() {
    let root = Ca::root("root");
    let (one, other) = (root.sub("one"), Ca::root("other"));
    let two = one.sub("two");
    let end = two.leaf("moon");
    let sent = [two.certificate(), one.certificate()];
    let mut store = store(&[&other, &root]);
    let path = plain(&store, &end, &sent).unwrap();
    assert_eq!(names(&path), ["O=Adit, CN=moon", "O=Adit, CN=two", "O=Adit, CN=one", "O=Adit, CN=root"]);
    assert!(
        plain(&store, &end, &[sent[1].clone(), other.certificate(), sent[0].clone()]).is_ok(),
        "order means nothing"
    );
    assert_eq!(
        plain(&store, &end, &[one.certificate()]).unwrap_err(),
        Rejected::UnknownIssuer { certificate: end.clone() }
    );
    store.add_intermediate(two.certificate());
    assert!(plain(&store, &end, &[one.certificate()]).is_ok());
    let issuers = |c: &Certificate| store.issuers_of(c).map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(issuers(&end), ["O=Adit, CN=two"]);
    assert_eq!(issuers(&one.certificate()), ["O=Adit, CN=root"]);
    assert!(plain(&store, &root.leaf("sun"), &[]).is_ok());
    assert!(plain(&Store::default(), &end, &sent).is_err(), "nobody is trusted");
}

/// The same chains, one good and one with a flaw, are shown to OpenSSL: it has to agree.
#[test]
fn every_kind_of_signature_is_accepted_that_openssl_makes() {
    let openssl = OpenSsl::new();
    let good = [
        ("rsa:2048", "-sha256"),
        ("rsa:3072", "-sha384 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest"),
        ("rsa:4096", "-sha512"),
        ("ec -pkeyopt ec_paramgen_curve:P-256", "-sha256"),
        ("ec -pkeyopt ec_paramgen_curve:P-384", "-sha384"),
        ("ec -pkeyopt ec_paramgen_curve:P-521", "-sha512"),
        ("ed25519", ""),
    ];
    // Test 43: SHA-1, short keys.
    let bad = [
        ("rsa:2048", "-sha1"),
        ("rsa:1024", "-sha256"),
        ("ec -pkeyopt ec_paramgen_curve:secp224r1", "-sha256"),
    ];
    for (key, how) in good.into_iter().chain(bad) {
        openssl.run(&format!("req -x509 -newkey {key} -nodes -keyout ca.key -out ca.pem -subj /CN=ca {how}"));
        openssl.run("req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout k.pem -out r.pem -subj /CN=moon");
        openssl.write("ext", "subjectAltName=DNS:moon\n");
        openssl.run(&format!(
            "x509 -req -in r.pem -CA ca.pem -CAkey ca.key -set_serial 7 -extfile ext -out c.pem {how}"
        ));
        openssl.run("verify -CAfile ca.pem c.pem");
        openssl.run("x509 -in c.pem -outform DER -out c.der");
        openssl.run("x509 -in ca.pem -outform DER -out ca.der");
        let mut store = Store::default();
        store.add_authority(Certificate::from_der(&openssl.read("ca.der")).unwrap()).unwrap();
        let end = Certificate::from_der(&openssl.read("c.der")).unwrap();
        let verdict = store.verify(&end, &[], &Requirements::default(), std::time::SystemTime::now());
        if bad.contains(&(key, how)) {
            assert!(
                matches!(verdict, Err(Rejected::Algorithm { .. } | Rejected::Signature { .. })),
                "{key} {how}: {verdict:?}"
            );
        } else {
            assert!(verdict.is_ok(), "{key} {how}: {verdict:?}");
        }
    }
}

#[test]
fn a_root_of_version_1_can_be_trusted_but_no_peer_can_have_one() {
    let openssl = OpenSsl::new();
    openssl.run("req -new -newkey rsa:2048 -nodes -keyout ca.key -out r.pem -subj /O=Old/CN=Root");
    openssl.run("x509 -req -in r.pem -signkey ca.key -out ca.pem");
    openssl.run("req -new -newkey rsa:2048 -nodes -keyout k.pem -out r.pem -subj /CN=moon");
    openssl.write("ext", "subjectAltName=DNS:moon\n");
    openssl.run(
        "x509 -req -in r.pem -CA ca.pem -CAkey ca.key -set_serial 7 -extfile ext -outform DER -out 3.der",
    );
    openssl.run("x509 -req -in r.pem -CA ca.pem -CAkey ca.key -set_serial 8 -outform DER -out 1.der");
    openssl.run("x509 -in ca.pem -outform DER -out ca.der");
    let read = |name| Certificate::from_der(&openssl.read(name)).unwrap();
    let mut store = Store::default();
    store.add_authority(read("ca.der")).unwrap();
    let verify =
        |end: &Certificate| store.verify(end, &[], &Requirements::default(), std::time::SystemTime::now());
    assert!(verify(&read("3.der")).is_ok());
    assert_eq!(verify(&read("1.der")).unwrap_err(), Rejected::Version { certificate: read("1.der") });
    assert!(
        Store::default().add_authority(read("1.der")).is_err(),
        "issued by another, and says nothing of CA"
    );
}

#[test]
fn only_a_pinned_certificate_needs_no_authority() {
    let root = Ca::root("root");
    let own =
        Certificate::from_der(params("own").self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der())
            .unwrap();
    let store = store(&[&root]);
    assert_eq!(plain(&store, &own, &[]).unwrap_err(), Rejected::SelfSigned { certificate: own.clone() });
    assert_eq!(
        plain(&store, &root.certificate(), &[]).unwrap_err(),
        Rejected::KeyUsage { certificate: root.certificate() },
        "an authority's key usage is to sign certificates"
    );
    let signs = Ca::root_with("signs", |p| p.key_usages.clear());
    assert_eq!(
        plain(&self::store(&[&signs]), &signs.certificate(), &[]).unwrap_err(),
        Rejected::Authority { certificate: signs.certificate() }
    );
    let pinned = |c: &Certificate| Requirements { pinned: vec![c.clone()], ..Requirements::default() };
    assert_eq!(
        store.verify(&own, &[], &pinned(&own), now()).unwrap().certificates(),
        std::slice::from_ref(&own)
    );
    let later = own.not_after() + std::time::Duration::from_secs(1);
    assert_eq!(
        store.verify(&own, &[], &pinned(&own), later).unwrap_err(),
        Rejected::Expired { certificate: own.clone() }
    );
    let end = root.leaf("moon");
    assert_eq!(
        store.verify(&end, &[], &pinned(&own), now()).unwrap_err(),
        Rejected::NotPinned { certificate: end.clone() }
    );
    let both = Requirements { authorities: vec![root.certificate()], ..pinned(&own) };
    assert!(store.verify(&own, &[], &both, now()).is_err(), "an authority was asked for as well");
    assert!(
        store
            .verify(&end, &[], &Requirements { authorities: vec![root.certificate()], ..pinned(&end) }, now())
            .is_ok()
    );
}

/// Test 47: a name proves nothing.
#[test]
fn another_authority_of_the_same_name_is_another() {
    let (root, forged) = (Ca::root("root"), Ca::root("root"));
    let end = forged.leaf("moon");
    let verdict = plain(&store(&[&root]), &end, &[forged.certificate()]);
    assert_eq!(verdict.unwrap_err(), Rejected::Signature { certificate: end });
}

#[test]
fn dates_count_for_everyone_in_the_path() {
    let root = Ca::root("root");
    let old = |p: &mut rcgen::CertificateParams| p.not_after = date_time_ymd(2026, 5, 1);
    let young = |p: &mut rcgen::CertificateParams| p.not_before = date_time_ymd(2026, 7, 1);
    let end = root.leaf_with("moon", old);
    let verdict = plain(&store(&[&root]), &end, &[]).unwrap_err();
    assert_eq!(verdict, Rejected::Expired { certificate: end });
    assert_eq!(
        verdict.to_string(),
        "\"O=Adit, CN=moon\" expired on 2026-05-01T00:00:00Z; it has to be renewed"
    );
    let end = root.leaf_with("moon", young);
    assert_eq!(plain(&store(&[&root]), &end, &[]).unwrap_err(), Rejected::NotYetValid { certificate: end });
    let sub = root.sub_with("sub", old);
    let verdict = plain(&store(&[&root]), &sub.leaf("moon"), &[sub.certificate()]);
    assert_eq!(verdict.unwrap_err(), Rejected::Expired { certificate: sub.certificate() });
    let root = Ca::root_with("root", old);
    assert_eq!(
        plain(&store(&[&root]), &root.leaf("moon"), &[]).unwrap_err(),
        Rejected::Expired { certificate: root.certificate() },
        "a trusted authority too"
    );
    let root = Ca::root_with("root", young);
    assert!(matches!(plain(&store(&[&root]), &root.leaf("moon"), &[]), Err(Rejected::NotYetValid { .. })));
}

#[test]
fn only_authorities_issue() {
    let root = Ca::root("root");
    let none = root.sub_with("none", |p| {
        p.is_ca = IsCa::ExplicitNoCa;
        p.key_usages.clear();
    });
    let verdict = plain(&store(&[&root]), &none.leaf("moon"), &[none.certificate()]);
    assert!(matches!(verdict, Err(Rejected::IssuerNoAuthority { .. })), "{verdict:?}");
    assert!(Store::default().add_authority(none.certificate()).is_err());
    // webpki takes basic constraints for enough.
    let only_crls = |p: &mut rcgen::CertificateParams| p.key_usages = vec![KeyUsagePurpose::CrlSign];
    let sub = root.sub_with("sub", only_crls);
    let verdict = plain(&store(&[&root]), &sub.leaf("moon"), &[sub.certificate()]);
    assert_eq!(verdict.unwrap_err(), Rejected::IssuerKeyUsage { certificate: sub.certificate() });
    let root = Ca::root_with("root", only_crls);
    let verdict = plain(&store(&[&root]), &root.leaf("moon"), &[]);
    assert_eq!(verdict.unwrap_err(), Rejected::IssuerKeyUsage { certificate: root.certificate() });
}

#[test]
fn path_lengths_count_also_in_a_trusted_authority() {
    let limit =
        |n| move |p: &mut rcgen::CertificateParams| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(n));
    let root = Ca::root_with("root", limit(0));
    let sub = root.sub("sub");
    assert!(plain(&store(&[&root]), &root.leaf("moon"), &[]).is_ok());
    let verdict = plain(&store(&[&root]), &sub.leaf("moon"), &[sub.certificate()]);
    assert_eq!(verdict.unwrap_err(), Rejected::PathLength { certificate: root.certificate() });
    let root = Ca::root("root");
    let one = root.sub_with("one", limit(0));
    let two = one.sub("two");
    assert!(plain(&store(&[&root]), &one.leaf("moon"), &[one.certificate()]).is_ok());
    let verdict = plain(&store(&[&root]), &two.leaf("moon"), &[one.certificate(), two.certificate()]);
    assert!(matches!(verdict, Err(Rejected::PathLength { .. })), "{verdict:?}");
}

fn dn(organization: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, organization);
    name
}

fn constraints(
    permitted: Vec<GeneralSubtree>,
    excluded: Vec<GeneralSubtree>,
) -> impl Fn(&mut rcgen::CertificateParams) {
    move |p| {
        p.name_constraints = Some(NameConstraints {
            permitted_subtrees: permitted.clone(),
            excluded_subtrees: excluded.clone(),
        });
    }
}

/// Class 7 and test 47. CVE-2026-35331 was a comparison with excluded names that minded case and the type of strings.
#[test]
fn class_7_name_constraints_fail_closed() {
    use GeneralSubtree as T;
    let ip = |a, b| T::IpAddress(CidrSubnet::V4(a, b));
    let san =
        |name: SanType| move |p: &mut rcgen::CertificateParams| p.subject_alt_names = vec![name.clone()];
    let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
    let mail = |name: &str| SanType::Rfc822Name(name.try_into().unwrap());
    let address = |text: &str| SanType::IpAddress(text.parse().unwrap());
    let cases = [
        // permitted, excluded, name, may the trusted authority have issued it
        (vec![T::DnsName("example.org".into())], vec![], dns("moon.Example.ORG"), true),
        (vec![T::DnsName("example.org".into())], vec![], dns("moon.example.net"), false),
        (vec![T::DnsName("example.org".into())], vec![], dns("notexample.org"), false),
        (vec![T::DnsName("example.org".into())], vec![], mail("a@example.net"), true),
        (vec![], vec![T::DnsName("example.org".into())], dns("MOON.EXAMPLE.ORG"), false),
        (vec![], vec![T::DnsName("example.org".into())], dns("example.net"), true),
        (vec![T::Rfc822Name("example.org".into())], vec![], mail("joe@example.org"), true),
        (vec![T::Rfc822Name("example.org".into())], vec![], mail("joe@sub.example.org"), false),
        (vec![T::Rfc822Name(".example.org".into())], vec![], mail("joe@sub.example.org"), true),
        (vec![], vec![T::Rfc822Name("joe@example.org".into())], mail("JOE@Example.org"), false),
        (vec![ip([10, 1, 0, 0], [255, 255, 0, 0])], vec![], address("10.1.2.3"), true),
        (vec![ip([10, 1, 0, 0], [255, 255, 0, 0])], vec![], address("10.2.2.3"), false),
        (vec![ip([10, 1, 0, 0], [255, 255, 0, 0])], vec![], address("2001:db8::1"), false),
        (vec![], vec![ip([10, 1, 0, 0], [255, 255, 0, 0])], address("10.1.2.3"), false),
        (vec![T::DirectoryName(dn("adit"))], vec![], dns("a"), true),
        (vec![T::DirectoryName(dn("other"))], vec![], dns("a"), false),
        (vec![], vec![T::DirectoryName(dn("aDIT"))], dns("a"), false),
        (vec![], vec![T::DirectoryName(dn("\u{c4}dit"))], dns("a"), true),
        (
            vec![T::DnsName("example.org".into())],
            vec![],
            SanType::URI("https://evil".try_into().unwrap()),
            true,
        ),
    ];
    for (permitted, excluded, name, allowed) in cases {
        let root = Ca::root_with("root", constraints(permitted.clone(), excluded.clone()));
        let verdict = plain(&store(&[&root]), &root.leaf_with("moon", san(name.clone())), &[]);
        assert_eq!(verdict.is_ok(), allowed, "{permitted:?} {excluded:?} {name:?}: {verdict:?}");
        assert!(allowed || matches!(verdict, Err(Rejected::NameConstraints { .. })), "{verdict:?}");
        // Below an authority in between.
        let sub = root.sub("sub");
        let verdict =
            plain(&store(&[&root]), &sub.leaf_with("moon", san(name.clone())), &[sub.certificate()]);
        assert_eq!(verdict.is_ok(), allowed, "below: {permitted:?} {excluded:?} {name:?}: {verdict:?}");
        // In an authority in between, webpki decides; it never allows what must not be.
        let free = Ca::root("free");
        let sub = free.sub_with("sub", constraints(permitted.clone(), excluded.clone()));
        let verdict =
            plain(&store(&[&free]), &sub.leaf_with("moon", san(name.clone())), &[sub.certificate()]);
        assert!(allowed || verdict.is_err(), "between: {permitted:?} {excluded:?} {name:?}: {verdict:?}");
    }
}

#[test]
fn constraints_in_the_middle_of_a_path_are_checked_by_webpki() {
    let root = Ca::root("root");
    let sub = root.sub_with("sub", constraints(vec![GeneralSubtree::DnsName("example.org".into())], vec![]));
    let verify = |end: &Certificate| plain(&store(&[&root]), end, &[sub.certificate()]);
    assert!(verify(&sub.leaf("moon")).is_ok());
    let other =
        sub.leaf_with("moon", |p| p.subject_alt_names = vec![SanType::DnsName("a.net".try_into().unwrap())]);
    assert_eq!(
        verify(&other).unwrap_err(),
        Rejected::NameConstraints { certificate: other.clone(), authority: None }
    );
}

#[test]
fn an_unknown_critical_extension_is_refused() {
    let root = Ca::root("root");
    let odd = |critical| {
        move |p: &mut rcgen::CertificateParams| {
            let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
            extension.set_criticality(critical);
            p.custom_extensions.push(extension);
        }
    };
    assert!(plain(&store(&[&root]), &root.leaf_with("moon", odd(false)), &[]).is_ok());
    let end = root.leaf_with("moon", odd(true));
    assert_eq!(
        plain(&store(&[&root]), &end, &[]).unwrap_err(),
        Rejected::CriticalExtension { certificate: end }
    );
    let sub = root.sub_with("sub", odd(true));
    assert!(plain(&store(&[&root]), &sub.leaf("moon"), &[sub.certificate()]).is_err());
}

/// RFC 4945 5.1.3.2 and 5.1.3.12.
#[test]
fn keys_are_used_for_what_they_are_for() {
    let root = Ca::root("root");
    let store = store(&[&root]);
    let usage = |u: KeyUsagePurpose| move |p: &mut rcgen::CertificateParams| p.key_usages = vec![u];
    assert!(plain(&store, &root.leaf_with("moon", usage(KeyUsagePurpose::DigitalSignature)), &[]).is_ok());
    assert!(plain(&store, &root.leaf_with("moon", usage(KeyUsagePurpose::ContentCommitment)), &[]).is_ok());
    let end = root.leaf_with("moon", usage(KeyUsagePurpose::KeyEncipherment));
    assert_eq!(plain(&store, &end, &[]).unwrap_err(), Rejected::KeyUsage { certificate: end });

    let with = |u: Vec<ExtendedKeyUsagePurpose>| root.leaf_with("moon", |p| p.extended_key_usages = u);
    let accepts = |purposes: &[Oid], end: &Certificate| {
        let required = Requirements { purposes: purposes.to_vec(), ..Requirements::default() };
        store.verify(end, &[], &required, now()).is_ok()
    };
    let ike = ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 17]);
    let client = with(vec![ExtendedKeyUsagePurpose::ClientAuth]);
    assert!(accepts(&[], &client), "as strongSwan: any");
    assert!(accepts(&[purpose::IPSEC_IKE, purpose::CLIENT_AUTH], &client));
    assert!(!accepts(&[purpose::IPSEC_IKE, purpose::SERVER_AUTH], &client));
    assert!(accepts(&[purpose::SERVER_AUTH], &with(vec![])), "no extension, no limit");
    assert!(accepts(&[purpose::SERVER_AUTH], &with(vec![ExtendedKeyUsagePurpose::Any])));
    assert!(accepts(&[purpose::IPSEC_IKE], &with(vec![ExtendedKeyUsagePurpose::CodeSigning, ike])));
    assert!(!accepts(&[purpose::IPSEC_IKE], &with(vec![ExtendedKeyUsagePurpose::CodeSigning])));
}

#[test]
fn a_policy_must_be_in_every_certificate_below_the_trusted_one() {
    // certificatePolicies with 1.2.3.4.
    let policy = |p: &mut rcgen::CertificateParams| {
        let value = vec![0x30, 7, 0x30, 5, 6, 3, 0x2a, 3, 4];
        p.custom_extensions.push(CustomExtension::from_oid_content(&[2, 5, 29, 32], value));
    };
    let root = Ca::root("root");
    let (with, without) = (root.sub_with("with", policy), root.sub("without"));
    let store = store(&[&root]);
    let sent = [with.certificate(), without.certificate()];
    let verify = |end: &Certificate, policies: &[&str]| {
        let policies = policies.iter().map(|p| Oid::new(p).unwrap()).collect();
        store.verify(end, &sent, &Requirements { policies, ..Requirements::default() }, now())
    };
    assert!(verify(&with.leaf_with("moon", policy), &["1.2.3.5", "1.2.3.4"]).is_ok());
    let end = with.leaf("moon");
    assert_eq!(verify(&end, &["1.2.3.4"]).unwrap_err(), Rejected::Policy { certificate: end.clone() });
    let verdict = verify(&without.leaf_with("moon", policy), &["1.2.3.4"]);
    assert_eq!(verdict.unwrap_err(), Rejected::Policy { certificate: without.certificate() });
    assert!(verify(&with.leaf_with("moon", policy), &["1.2.3"]).is_err(), "no part of a policy");
    assert!(verify(&end, &[]).is_ok());
}

#[test]
fn a_connection_can_ask_for_an_authority() {
    let (root, other) = (Ca::root("root"), Ca::root("other"));
    let (sales, research) = (root.sub("sales"), root.sub("research"));
    let end = sales.leaf("moon");
    let sent = [sales.certificate(), research.certificate()];
    let store = store(&[&root, &other]);
    let ask = |ca: &Ca| Requirements { authorities: vec![ca.certificate()], ..Requirements::default() };
    for ca in [&root, &sales] {
        assert!(store.verify(&end, &sent, &ask(ca), now()).is_ok(), "{}", ca.certificate());
    }
    for ca in [&other, &research] {
        let verdict = store.verify(&end, &sent, &ask(ca), now());
        assert_eq!(verdict.unwrap_err(), Rejected::OtherAuthority { certificate: end.clone() });
    }
    // Where the one in between is trusted itself, the root can still be asked for.
    let mut both = self::store(&[&root]);
    both.add_authority(sales.certificate()).unwrap();
    assert!(both.verify(&end, &[], &ask(&root), now()).is_ok());
    // Known to the connection only.
    assert!(Store::default().verify(&end, &[], &ask(&sales), now()).is_ok());
    let id = |text: &str| Requirements {
        ca_id: Some(AltName::Dn(dn_from_text(text).unwrap().into())),
        ..Requirements::default()
    };
    assert!(store.verify(&end, &sent, &id("O=Adit, CN=sales"), now()).is_ok());
    assert!(store.verify(&end, &sent, &id("O=Adit, CN=research"), now()).is_err());
    assert!(
        store.verify(&end, &sent, &id("O=Adit, CN=moon"), now()).is_err(),
        "of an authority, not of the peer"
    );
}

/// Class 12 and test 47: what a peer sends costs it more than us.
#[test]
fn class_12_many_certificates_and_loops_cost_little() {
    let root = Ca::root("root");
    let store = store(&[&root]);
    // Two that have issued each other, and a hundred of one name, none of them signed by anybody trusted.
    let (a, b) = (Ca::root("a"), Ca::root("b"));
    let mut sent = vec![a.sub("b").certificate(), b.sub("a").certificate(), a.certificate(), b.certificate()];
    sent.extend((0..100).map(|_| Ca::root("a").sub("a").certificate()));
    let end = a.leaf("moon");
    assert_eq!(plain(&store, &end, &sent).unwrap_err(), Rejected::UnknownIssuer { certificate: end.clone() });
    // A good one beyond the limit of what is looked at is not seen; before it, it is.
    let sub = root.sub("sub");
    let end = sub.leaf("moon");
    sent.push(sub.certificate());
    assert!(plain(&store, &end, &sent).is_err());
    sent.swap(0, 104);
    assert!(plain(&store, &end, &sent).is_ok());
    // The trusted one's name, a hundred times: signatures are what costs.
    let forged: Vec<_> = (0..100).map(|_| Ca::root("root").sub("sub").certificate()).collect();
    assert!(plain(&store, &end, &forged).is_err());
    // One certificate a hundred times is one.
    assert!(plain(&store, &end, &vec![sub.certificate(); 100]).is_ok());
}

/// Class 13: an octet changed anywhere in what is signed, or in the signature, is never a success.
#[test]
fn class_13_no_error_is_taken_for_success() {
    let root = Ca::root("root");
    let store = store(&[&root]);
    let end = root.leaf("moon");
    for at in 0..end.der().len() {
        let mut der = end.der().to_vec();
        der[at] ^= 1;
        if let Ok(changed) = Certificate::from_der(&der) {
            assert!(plain(&store, &changed, &[]).is_err(), "octet {at}");
        }
    }
}

/// Class 9: no signature at all, and keys that are none.
#[test]
fn class_9_degenerate_signatures_and_keys() {
    let root = Ca::root("root");
    let store = store(&[&root]);
    let end = root.leaf("moon");
    // The signature is the last element: a BIT STRING. Empty, of one zero, or (r, s) = (0, 0) as ECDSA writes it.
    let signed = end.der();
    let body = u16::from_be_bytes([signed[6], signed[7]]);
    let tbs_and_algorithm = &signed[4..4 + 4 + usize::from(body) + 12];
    for signature in [&[][..], &[0], &[0x30, 6, 2, 1, 0, 2, 1, 0], &[0x30, 0]] {
        let bits = [&[3, u8::try_from(signature.len() + 1).unwrap(), 0], signature].concat();
        let length = u16::try_from(tbs_and_algorithm.len() + bits.len()).unwrap().to_be_bytes();
        let der = [&[0x30, 0x82, length[0], length[1]], tbs_and_algorithm, &bits].concat();
        let changed = Certificate::from_der(&der).unwrap();
        assert_eq!(changed.subject(), end.subject());
        assert!(matches!(plain(&store, &changed, &[]), Err(Rejected::Signature { .. })), "{signature:?}");
    }
}

#[test]
fn strict_without_any_list_refuses_and_says_whom_to_ask() {
    let root = Ca::root("root");
    let end = root.leaf("moon");
    let strict = Requirements { revocation: Revocation::Strict, ..Requirements::default() };
    let verdict = store(&[&root]).verify(&end, &[], &strict, now()).unwrap_err();
    assert_eq!(
        verdict.to_string(),
        "it is not known whether \"O=Adit, CN=moon\" has been revoked; provide a fresh CRL of \"O=Adit, CN=root\""
    );
}
