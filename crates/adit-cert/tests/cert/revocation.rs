//! CRLs: good, revoked, stale, foreign, partial, under each policy.

use adit_cert::{Certificate, Crl, CrlError, Rejected, Requirements, Revocation, Store};
use rcgen::{CrlDistributionPoint, KeyUsagePurpose};

use crate::openssl::OpenSsl;
use crate::pki::{Ca, now, store};

const POLICIES: [Revocation; 3] = [Revocation::Strict, Revocation::IfUri, Revocation::Relaxed];
const URL: &str = "http://crl.example.org/ca.crl";

/// What each policy says: is the path accepted?
fn verdicts(store: &Store, end: &Certificate, sent: &[Certificate]) -> [Result<(), Rejected>; 3] {
    POLICIES.map(|revocation| {
        store.verify(end, sent, &Requirements { revocation, ..Requirements::default() }, now()).map(drop)
    })
}

fn accepted(store: &Store, end: &Certificate, sent: &[Certificate]) -> [bool; 3] {
    verdicts(store, end, sent).map(|v| v.is_ok())
}

fn with_url(ca: &Ca, name: &str) -> Certificate {
    ca.leaf_with(name, |p| p.crl_distribution_points = vec![CrlDistributionPoint { uris: vec![URL.into()] }])
}

#[test]
fn each_policy_with_each_state() {
    let ca = Ca::root("root");
    let (end, named, gone) = (ca.leaf("moon"), with_url(&ca, "sun"), ca.leaf("gone"));
    let mut store = store(&[&ca]);
    assert_eq!(accepted(&store, &end, &[]), [false, true, true]);
    assert_eq!(accepted(&store, &named, &[]), [false, false, true]);
    let Err(Rejected::StatusUnknown { unknown }) = &verdicts(&store, &named, &[])[1] else {
        panic!("the status is not known");
    };
    assert_eq!((&unknown.certificate, &unknown.issuer), (&named, &ca.certificate()));
    assert_eq!(unknown.crl_urls().collect::<Vec<_>>(), [URL]);
    store.add_crl(ca.crl(&[&gone])).unwrap();
    assert_eq!(accepted(&store, &end, &[]), [true; 3]);
    assert_eq!(accepted(&store, &named, &[]), [true; 3]);
    for verdict in verdicts(&store, &gone, &[]) {
        assert_eq!(verdict.unwrap_err(), Rejected::Revoked { certificate: gone.clone() });
    }
    let path = store.verify(&end, &[], &Requirements::default(), now()).unwrap();
    assert!(path.unchecked().is_empty());
}

#[test]
fn a_stale_list_still_tells_what_was_revoked() {
    let ca = Ca::root("root");
    let (end, gone) = (ca.leaf("moon"), ca.leaf("gone"));
    for months in [(2, 3), (7, 8)] {
        let mut store = store(&[&ca]);
        store.add_crl(Crl::from_der(&ca.crl_der(&[&gone], None, months)).unwrap()).unwrap();
        assert_eq!(accepted(&store, &end, &[]), [false, true, true], "{months:?}");
        assert_eq!(accepted(&store, &gone, &[]), [false; 3], "{months:?}");
    }
}

#[test]
fn everyone_below_the_trusted_authority_must_be_known() {
    let root = Ca::root("root");
    let sub = root.sub("sub");
    let (end, sent) = (sub.leaf("moon"), [sub.certificate()]);
    let mut store = store(&[&root]);
    store.add_crl(sub.crl(&[])).unwrap();
    let Err(Rejected::StatusUnknown { unknown }) = &verdicts(&store, &end, &sent)[0] else {
        panic!("nothing is known of the authority in between");
    };
    assert_eq!(unknown.certificate, sub.certificate());
    let mut good = store.clone();
    good.add_crl(root.crl(&[])).unwrap();
    assert_eq!(accepted(&good, &end, &sent), [true; 3]);
    store.add_crl(root.crl(&[&sub.certificate()])).unwrap();
    assert_eq!(verdicts(&store, &end, &sent)[2], Err(Rejected::Revoked { certificate: sub.certificate() }));
}

#[test]
fn a_list_counts_only_with_the_signature_of_the_issuer() {
    let (ca, forged) = (Ca::root("root"), Ca::root("root"));
    let end = ca.leaf("moon");
    let mut store = store(&[&ca]);
    // One that would revoke, one that would clear: neither is the issuer's word.
    store.add_crl(forged.crl(&[&end])).unwrap();
    store.add_crl(forged.crl(&[])).unwrap();
    assert_eq!(accepted(&store, &end, &[]), [false, true, true]);
    store.add_crl(ca.crl(&[])).unwrap();
    assert_eq!(accepted(&store, &end, &[]), [true; 3], "beside the forged ones");
    // An issuer whose key may not sign lists.
    let mute = Ca::root_with("mute", |p| p.key_usages = vec![KeyUsagePurpose::KeyCertSign]);
    let end = mute.leaf("moon");
    let openly = Ca::root_with("mute", |_| {});
    let mut store = self::store(&[&mute]);
    store.add_crl(openly.crl(&[&end])).unwrap();
    assert_eq!(accepted(&store, &end, &[]), [false, true, true]);
}

/// A forged list, later than the true one, must not displace it; a true one that is later must.
#[test]
fn a_later_list_takes_the_place_of_an_earlier_of_the_same_issuer_only() {
    let (ca, forged) = (Ca::root("root"), Ca::root("root"));
    let end = ca.leaf("moon");
    let list = |ca: &Ca, revoked: &[&Certificate], months| {
        Crl::from_der(&ca.crl_der(revoked, None, months)).unwrap()
    };
    let mut store = store(&[&ca]);
    store.add_crl(list(&ca, &[&end], (4, 7))).unwrap();
    store.add_crl(list(&forged, &[], (5, 8))).unwrap();
    assert_eq!(accepted(&store, &end, &[]), [false; 3]);
    assert_eq!(store.crls().count(), 2);
    store.add_crl(list(&ca, &[], (5, 7))).unwrap();
    assert_eq!(accepted(&store, &end, &[]), [true; 3], "taken from the list, as a hold is");
    store.add_crl(list(&ca, &[&end], (4, 8))).unwrap();
    assert_eq!(
        (store.crls().count(), accepted(&store, &end, &[])),
        (2, [true; 3]),
        "an earlier one changes nothing"
    );
    let one_more = (0..70).map(|_| store.add_crl(Ca::root("root").crl(&[]))).find_map(Result::err);
    assert!(one_more.is_some(), "forged lists do not pile up");
}

#[test]
fn a_list_for_a_place_is_about_those_who_name_it() {
    let ca = Ca::root("root");
    let (named, other) = (with_url(&ca, "moon"), ca.leaf("sun"));
    let mut store = store(&[&ca]);
    store.add_crl(Crl::from_der(&ca.crl_der(&[], Some(URL), (5, 7))).unwrap()).unwrap();
    assert_eq!(accepted(&store, &named, &[]), [true; 3]);
    assert_eq!(accepted(&store, &other, &[]), [false, true, true]);
}

#[test]
fn a_pinned_certificate_that_is_known_to_be_revoked_is_refused() {
    let ca = Ca::root("root");
    let end = ca.leaf("moon");
    let mut store = store(&[&ca]);
    let pinned = Requirements { pinned: vec![end.clone()], ..Requirements::default() };
    assert!(store.verify(&end, &[], &pinned, now()).is_ok());
    store.add_crl(ca.crl(&[&end])).unwrap();
    assert_eq!(store.verify(&end, &[], &pinned, now()).unwrap_err(), Rejected::Revoked { certificate: end });
}

/// Class 6: nobody is asked about a certificate that no trusted authority has issued, whatever it asks for.
#[test]
fn class_6_only_a_verified_path_says_whom_to_ask() {
    let (ca, evil) = (Ca::root("root"), Ca::root("root"));
    let store = store(&[&ca]);
    for end in [with_url(&evil, "moon"), with_url(&Ca::root("nobody"), "moon")] {
        for verdict in verdicts(&store, &end, &[evil.certificate()]) {
            assert!(
                matches!(verdict, Err(Rejected::Signature { .. } | Rejected::UnknownIssuer { .. })),
                "{verdict:?}"
            );
        }
    }
    let sub = evil.sub_with("sub", |p| {
        p.crl_distribution_points = vec![CrlDistributionPoint { uris: vec!["http://127.0.0.1/".into()] }];
    });
    let verdict = &verdicts(&store, &sub.leaf("moon"), &[sub.certificate()])[0];
    assert!(matches!(verdict, Err(Rejected::Signature { .. })), "{verdict:?}");
}

/// OpenSSL as the authority: serial numbers with a leading zero octet, a long list, and its own verdict.
#[test]
fn openssl_issues_and_revokes() {
    let openssl = OpenSsl::new();
    openssl.write(
        "ca.cnf",
        "[ca]\ndefault_ca=d\n[d]\ndatabase=index\nserial=serial\nnew_certs_dir=.\ndefault_md=sha256\ndefault_days=30\ndefault_crl_days=7\n\
         crlnumber=crlnumber\npolicy=p\nunique_subject=no\n[p]\ncommonName=supplied\n[v3]\nsubjectAltName=DNS:moon\n[crlx]\nauthorityKeyIdentifier=keyid\n",
    );
    openssl.write("index", "");
    openssl.write("serial", "F00000000000000001\n");
    openssl.write("crlnumber", "01\n");
    openssl.run("req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=ca");
    openssl.run(
        "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout k.pem -out r.pem -subj /CN=moon",
    );
    for name in ["good", "gone"] {
        openssl.run(&format!(
            "ca -batch -config ca.cnf -cert ca.pem -keyfile ca.key -in r.pem -extensions v3 -out {name}.pem"
        ));
        openssl.run(&format!("x509 -in {name}.pem -outform DER -out {name}.der"));
    }
    openssl.run("ca -config ca.cnf -cert ca.pem -keyfile ca.key -revoke gone.pem");
    openssl.run("ca -config ca.cnf -cert ca.pem -keyfile ca.key -gencrl -crlexts crlx -out crl.pem");
    openssl.run("crl -in crl.pem -outform DER -out crl.der");
    openssl.run("x509 -in ca.pem -outform DER -out ca.der");
    openssl.run("verify -crl_check -CAfile ca.pem -CRLfile crl.pem good.pem");
    assert!(!openssl.try_run("verify -crl_check -CAfile ca.pem -CRLfile crl.pem gone.pem").0);
    let read = |name| Certificate::from_der(&openssl.read(name)).unwrap();
    let mut store = Store::default();
    store.add_authority(read("ca.der")).unwrap();
    store.add_crl(Crl::from_der(&openssl.read("crl.der")).unwrap()).unwrap();
    let strict = Requirements { revocation: Revocation::Strict, ..Requirements::default() };
    let verify = |end: &Certificate| store.verify(end, &[], &strict, std::time::SystemTime::now());
    assert!(verify(&read("good.der")).is_ok());
    assert_eq!(verify(&read("gone.der")).unwrap_err(), Rejected::Revoked { certificate: read("gone.der") });
}

#[test]
fn what_is_no_list_is_refused() {
    let ca = Ca::root("root");
    let der = ca.crl_der(&[&ca.leaf("gone")], Some(URL), (5, 7));
    for end in 0..der.len() {
        assert!(matches!(Crl::from_der(&der[..end]), Err(CrlError::Der { .. })), "{end}");
    }
    // indirectCRL is [4] in the issuing distribution point: [0] in front of it gives way.
    let at = der.windows(URL.len()).position(|w| w == URL.as_bytes()).unwrap();
    let start = at - 6;
    assert_eq!(der[start], 0xa0, "distributionPoint");
    // indirectCRL and onlyContainsAttributeCerts.
    let with = |tag| {
        let mut changed = der.clone();
        // The flag takes three octets, which the place gives.
        let cut = u8::try_from(URL.len() - 3).unwrap();
        let place = &URL.as_bytes()[..URL.len() - 3];
        let point = [&[0xa0, cut + 4, 0xa0, cut + 2, 0x86, cut], place, &[tag, 1, 0xff]].concat();
        changed[start..at + URL.len()].copy_from_slice(&point);
        Crl::from_der(&changed).map(drop)
    };
    assert_eq!(with(0x84), Err(CrlError::Indirect));
    assert!(matches!(with(0x85), Err(CrlError::Der { .. })));
}
