//! Certificates and keys beside the file: what is found, and what is wrong with it.

use adit_ike::config::{LocalAuth, RemoteAuth};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::*;

/// What the tests have of an authority: in PEM, as files would hold it.
struct Made {
    root: String,
    between: String,
    own: String,
    key: String,
    other_key: String,
}

/// A root, an authority below it, and a certificate of that for `a.example`.
fn made() -> Made {
    let authority = |name: &str| {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params
    };
    let root = CertifiedIssuer::self_signed(authority("root"), KeyPair::generate().unwrap()).unwrap();
    let below = KeyPair::generate().unwrap();
    let between = CertifiedIssuer::signed_by(authority("between"), below, &root).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut own = CertificateParams::new(["a.example".to_owned()]).unwrap();
    own.distinguished_name.push(rcgen::DnType::CommonName, "gateway");
    let own = own.signed_by(&key, &between).unwrap();
    Made {
        root: root.pem(),
        between: between.pem(),
        own: own.pem(),
        key: key.serialize_pem(),
        other_key: KeyPair::generate().unwrap().serialize_pem(),
    }
}

/// A connection by certificates, with more lines for both sides.
fn by_certificate(local: &str, remote: &str) -> String {
    let text = connection("", "local_ts = 10.1.0.0/16\nremote_ts = 10.2.0.0/16", "");
    let text = if local.contains("id = ") { text.replace("id = a.example", "") } else { text };
    text.replace("local { auth = psk", &format!("local {{ auth = pubkey\n{local}\n"))
        .replace("remote { auth = psk", &format!("remote {{ auth = pubkey\n{remote}\n"))
}

#[test]
fn what_lies_beside_the_file_is_found() {
    let Made { root, between, own, key, .. } = made();
    // Those between ours and the authority, in one file with it.
    let chain = format!("{own}{between}");
    let text = by_certificate("certs = own.pem", "cert_policy = 1.2.3.4, 2.5.29.32.0\nrevocation = strict");
    let files = [
        ("a.conf", text.as_str()),
        ("x509/own.pem", &chain),
        ("x509ca/root.pem", &root),
        ("private/k.pem", &key),
    ];
    let Configuration { ike, files: read, warnings, .. } =
        load(&files).unwrap_or_else(|wrong| panic!("{wrong}"));
    assert_eq!(warnings.iter().map(ToString::to_string).collect::<Vec<_>>(), [""; 0]);
    // What is sent along with `adit diff`.
    assert_eq!(read.len(), 4, "{read:?}");
    assert_eq!((ike.keys.len(), ike.trust.authorities().count()), (1, 1));
    let LocalAuth::PublicKey { certificates, .. } = &ike.connections[0].local_auth else { panic!("psk") };
    let RemoteAuth::PublicKey { requirements, .. } = &ike.connections[0].remote_auth else { panic!("psk") };
    assert_eq!(certificates.len(), 1);
    assert!(ike.trust.issuers_of(&certificates[0]).next().is_some(), "the one between");
    assert_eq!(requirements.policies.len(), 2);
    assert_eq!(requirements.revocation, adit_cert::Revocation::Strict);
    // The same in the text itself, and found by its key and name alone.
    let inline =
        format!("certs = 0s{}", base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &own));
    for (local, place) in [(inline.as_str(), "elsewhere/own.pem"), ("", "x509/own.pem")] {
        let text = by_certificate(local, "");
        let files =
            [("a.conf", text.as_str()), (place, &own), ("x509ca/root.pem", &root), ("rsa/k.pem", &key)];
        let loaded = load(&files).unwrap_or_else(|wrong| panic!("{wrong}"));
        let auth = &loaded.ike.connections[0].local_auth;
        assert!(
            matches!(auth, LocalAuth::PublicKey { certificates: same, .. } if same == certificates),
            "{local}"
        );
    }
}

#[test]
fn what_is_wrong_with_certificates_is_told() {
    let Made { root, own, key, other_key, .. } = made();
    let wrong = |local: &str, remote: &str, more: &[(&str, &str)]| {
        let text = by_certificate(local, remote);
        let mut files =
            vec![("a.conf", text.as_str()), ("x509/own.pem", own.as_str()), ("x509ca/root.pem", &root)];
        files.extend_from_slice(more);
        errors_of(&files).join("; ")
    };
    let own_key = ("private/k.pem", key.as_str());
    for (local, remote, more, expected) in [
        ("certs = none.pem", "", vec![own_key], "connections.c.local.certs: x509/none.pem: no such file"),
        (
            "certs = own.pem",
            "",
            vec![("private/k.pem", other_key.as_str())],
            "there is no private key for \"CN=gateway\"",
        ),
        ("", "", vec![], "there is no certificate to authenticate by"),
        (
            "certs = own.pem\nid = b.other",
            "",
            vec![own_key],
            "\"CN=gateway\" does not say that it is b.other, so no peer would believe it; expected its subject, or one of its \
             names: a.example",
        ),
        (
            "certs = own.pem",
            "cacerts = bad.pem",
            vec![own_key, ("x509ca/bad.pem", "x")],
            "neither DER nor PEM",
        ),
        (
            "certs = own.pem",
            "certs = k.pem",
            vec![own_key, ("x509/k.pem", key.as_str())],
            "there is no certificate in it",
        ),
        (
            "certs = own.pem",
            "cert_policy = 9.1",
            vec![own_key],
            "expected an object identifier, like `2.5.29.32.0`",
        ),
        ("certs = 0sAAAA", "", vec![own_key], "neither DER nor PEM"),
    ] {
        let told = wrong(local, remote, &more);
        assert!(told.contains(expected), "{local}, {remote}: {told}");
    }
}

/// Short ones of Ed25519 and SEC 1 too.
#[test]
fn keys_in_der_are_found_whatever_their_length() {
    for algorithm in [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P521_SHA512] {
        let der = KeyPair::generate_for(algorithm).unwrap().serialize_der();
        assert_eq!(*crate::config::material(&der).unwrap(), der);
    }
    for wrong in [&b"0"[..], b"0x", b"0123", b""] {
        crate::config::material(wrong).unwrap_err();
    }
}

/// A key in the text would be shown where the text is.
#[test]
fn a_private_key_is_never_in_the_text() {
    let told = errors("secrets {\n  private-1 { file = 0s/////w==\n  }\n}\n").join("; ");
    assert!(told.contains("secrets.private-1.file: ") && told.contains("no such file"), "{told}");
}

/// Our own has to be renewed in time.
#[test]
fn a_certificate_that_expires_is_told_of() {
    let text = by_certificate("certs = own.pem", "ca_id = \"CN=root\"");
    for (days, expected) in [(-1, "has expired"), (3, "expires within a week"), (30, "")] {
        let key = KeyPair::generate().unwrap();
        let mut own = CertificateParams::new(["a.example".to_owned()]).unwrap();
        own.not_after = (std::time::SystemTime::now() + std::time::Duration::from_secs(40 * 86_400)).into();
        own.not_before = own.not_after - std::time::Duration::from_secs(400 * 86_400);
        let shift = std::time::Duration::from_secs(86_400 * u64::try_from(40 - days).unwrap());
        own.not_after -= shift;
        let (own, key) = (own.self_signed(&key).unwrap().pem(), key.serialize_pem());
        let files = [("a.conf", text.as_str()), ("x509/own.pem", &own), ("private/k.pem", &key)];
        let loaded = load(&files).unwrap_or_else(|wrong| panic!("{wrong}"));
        let told: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(
            told.iter().any(|line| line.contains("connections.c.local.certs: ")),
            !expected.is_empty(),
            "{told:?}"
        );
        assert!(told.join("; ").contains(expected), "{told:?}");
        let RemoteAuth::PublicKey { requirements, .. } = &loaded.ike.connections[0].remote_auth else {
            panic!("psk")
        };
        assert!(matches!(requirements.ca_id, Some(adit_cert::AltName::Dn(_))));
    }
}

#[test]
fn what_cannot_be_used_is_left_out_and_told() {
    let Made { root, own, key, .. } = made();
    let text = by_certificate("certs = own.pem", "");
    let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let files = [
        ("a.conf", text.as_str()),
        ("x509/own.pem", &own),
        ("private/k.pem", &key),
        ("private/locked.pem", &encrypted),
        ("x509ca/own.pem", &own),
        ("x509ca/garbage.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        ("x509crl/root.pem", &root),
    ];
    let loaded = load_from(Path::new("a.conf"), &Memory(&files), |path| path.ends_with("k.pem")).unwrap();
    let told: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    let told = told.join("; ");
    for expected in [
        "private/locked.pem: left out: an encrypted key",
        "x509ca/own.pem: left out: \"CN=gateway\" is not an authority",
        "x509ca/garbage.pem: left out: ",
        "no authority is trusted, so no peer would be believed",
        "private/k.pem: this file holds a private key and everybody may read it",
    ] {
        assert!(told.contains(expected), "{expected}: {told}");
    }
    assert_eq!(loaded.ike.keys.len(), 1);
}
