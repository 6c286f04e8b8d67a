//! What is read from certificates.

use std::time::UNIX_EPOCH;

use adit_cert::{AltName, Certificate, CertificateError, Name, dn_eq, dn_from_text, dn_to_text};
use proptest::prelude::*;
use rcgen::{CertificateParams, CustomExtension, DnType, IsCa, KeyPair, SanType};

use crate::openssl::OpenSsl;

fn moon() -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CountryName, "CH");
    params.distinguished_name.push(DnType::OrganizationName, "strongSwan");
    params.distinguished_name.push(DnType::CommonName, "moon.strongswan.org");
    params.subject_alt_names = vec![
        SanType::DnsName("moon.strongswan.org".try_into().unwrap()),
        SanType::Rfc822Name("moon@strongswan.org".try_into().unwrap()),
        SanType::IpAddress("192.0.2.1".parse().unwrap()),
        SanType::IpAddress("2001:db8::1".parse().unwrap()),
        SanType::DnsName("*.wild.example".try_into().unwrap()),
    ];
    params
}

fn signed(params: &CertificateParams) -> Certificate {
    let key = KeyPair::generate().unwrap();
    Certificate::from_der(params.self_signed(&key).unwrap().der()).unwrap()
}

#[test]
fn a_certificate_says_what_openssl_says() {
    let openssl = OpenSsl::new();
    let mut params = moon();
    params.not_before = rcgen::date_time_ymd(2026, 1, 2);
    params.not_after = rcgen::date_time_ymd(2055, 3, 4);
    params.serial_number = Some(rcgen::SerialNumber::from_slice(&[0x80, 0x01, 0x02]));
    let certificate = signed(&params);
    openssl.write("c.der", certificate.der());
    let says =
        |what: &str| openssl.run(&format!("x509 -inform DER -in c.der -noout {what}")).trim().to_owned();
    assert_eq!(
        format!("subject={}", certificate.subject_text().replace('=', " = ")),
        says("-subject -nameopt oneline")
    );
    let serial: String =
        certificate.serial().iter().skip_while(|b| **b == 0).map(|b| format!("{b:02X}")).collect();
    assert_eq!(format!("serial={serial}"), says("-serial"));
    let seconds = |time: std::time::SystemTime| time.duration_since(UNIX_EPOCH).unwrap().as_secs();
    // date -u -d '2026-01-02' +%s, and 2055-03-04, which is a GeneralizedTime.
    assert_eq!(seconds(certificate.not_before()), 1_767_312_000);
    assert_eq!(seconds(certificate.not_after()), 2_687_731_200);
    openssl.run("x509 -inform DER -in c.der -noout -pubkey -out key.pem");
    openssl.run("pkey -pubin -in key.pem -outform DER -out key.der");
    assert_eq!(certificate.spki(), openssl.read("key.der"));
    let hash: String = certificate.key_hash().iter().map(|b| format!("{b:02x}")).collect();
    assert!(openssl.run("dgst -sha1 key.der").trim().ends_with(&hash), "RFC 7296 3.7");
    assert!(certificate.is_self_issued() && !certificate.is_ca() && !certificate.is_version_1());
    assert_eq!(format!("{certificate:?}"), "Certificate(C=CH, O=strongSwan, CN=moon.strongswan.org)");
}

#[test]
fn openssl_and_we_write_the_same_names() {
    let openssl = OpenSsl::new();
    let names = [
        ("/C=CH/O=strongSwan/CN=moon", "C=CH, O=strongSwan, CN=moon"),
        ("/DC=org/DC=example/OU=a+CN=b", "DC=org, DC=example, CN=b + OU=a"),
        ("/CN=M\u{fc}ller/emailAddress=m@example.org", "CN=M\u{fc}ller, E=m@example.org"),
        (
            "/ST=Bern/L=Thun/SN=M/GN=Joe/serialNumber=7/UID=joe",
            "ST=Bern, L=Thun, SN=M, G=Joe, serialNumber=7, UID=joe",
        ),
    ];
    for (subject, text) in names {
        openssl.run(&format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -utf8 -multivalue-rdn -keyout k.pem -outform DER \
             -out c.der -subj {subject}"
        ));
        let certificate = Certificate::from_der(&openssl.read("c.der")).unwrap();
        assert_eq!(dn_to_text(certificate.subject()).unwrap(), text);
        assert!(dn_eq(&dn_from_text(text).unwrap(), certificate.subject()), "{text}");
        assert!(dn_eq(&dn_from_text(subject).unwrap(), certificate.subject()), "{subject}");
        assert!(
            certificate.names(&Name::Dn(
                &dn_from_text(&text.to_uppercase().replace("=M\u{dc}", "=M\u{fc}")).unwrap()
            ))
        );
    }
}

/// Test 46 of the adversarial list.
#[test]
fn an_identity_is_an_alternative_name_or_the_whole_subject_and_nothing_else() {
    let certificate = signed(&moon());
    let dn = |text: &str| certificate.names(&Name::Dn(&dn_from_text(text).unwrap()));
    assert!(
        dn("C=CH, O=strongSwan, CN=moon.strongswan.org") && dn("C=ch, O=STRONGSWAN, CN=Moon.strongswan.org")
    );
    for other in [
        "CN=moon.strongswan.org",
        "C=CH, O=strongSwan",
        "C=CH, O=strongSwan, CN=*",
        "O=strongSwan, C=CH, CN=moon.strongswan.org",
    ] {
        assert!(!dn(other), "{other}");
    }
    assert!(
        certificate.names(&Name::Dns("moon.strongswan.org"))
            && certificate.names(&Name::Dns("MOON.strongswan.org"))
    );
    for other in [
        "moon.strongswan.org.",
        "strongswan.org",
        "m\u{43e}on.strongswan.org",
        "moon.strongswan.org\0",
        "a.wild.example",
        "*.wild.example",
        "moon@strongswan.org",
        "192.0.2.1",
        "",
    ] {
        assert!(!certificate.names(&Name::Dns(other)), "{other}");
    }
    assert!(certificate.names(&Name::Email("moon@strongswan.org")));
    assert!(
        !certificate.names(&Name::Email("sun@strongswan.org"))
            && !certificate.names(&Name::Email("strongswan.org"))
    );
    assert!(
        certificate.names(&Name::Ip("192.0.2.1".parse().unwrap()))
            && certificate.names(&Name::Ip("2001:db8::1".parse().unwrap()))
    );
    assert!(
        !certificate.names(&Name::Ip("192.0.2.2".parse().unwrap()))
            && !certificate.names(&Name::Ip("::ffff:192.0.2.1".parse().unwrap()))
    );
}

#[test]
fn a_common_name_is_no_identity() {
    let mut params = moon();
    params.subject_alt_names.clear();
    assert!(!signed(&params).names(&Name::Dns("moon.strongswan.org")));
}

#[test]
fn class_7_a_nul_in_an_alternative_name_ends_nothing() {
    let mut params = moon();
    params.subject_alt_names.clear();
    // SubjectAltName with dNSName "moon\0.evil" and dNSName "moon evil".
    let san = [&[0x30, 22, 0x82, 10][..], b"moon\0.evil", &[0x82, 8], b"moon evi"].concat();
    params.custom_extensions.push(CustomExtension::from_oid_content(&[2, 5, 29, 17], san));
    let certificate = signed(&params);
    assert_eq!(certificate.alt_names(), &[] as &[AltName]);
    for name in ["moon", "moon\0.evil", "moon evi"] {
        assert!(!certificate.names(&Name::Dns(name)));
    }
}

#[test]
fn an_empty_subject_is_nobody_and_is_shown_by_another_name() {
    let mut params = moon();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let certificate = signed(&params);
    assert!(!certificate.names(&Name::Dn(certificate.subject())));
    assert_eq!(certificate.to_string(), "moon.strongswan.org");
}

#[test]
fn a_root_of_version_1_is_read() {
    let openssl = OpenSsl::new();
    openssl.run("req -new -newkey rsa:2048 -nodes -keyout k.pem -out r.pem -subj /O=Old/CN=Root");
    // Without extensions `x509 -req` makes version 1.
    openssl.run("x509 -req -in r.pem -signkey k.pem -outform DER -out c.der -days 10");
    let certificate = Certificate::from_der(&openssl.read("c.der")).unwrap();
    assert!(certificate.is_version_1() && !certificate.is_ca() && certificate.may_sign());
    assert_eq!(certificate.subject_text(), "O=Old, CN=Root");
}

#[test]
fn what_is_no_certificate_is_refused() {
    let good = signed(&moon());
    let der = good.der();
    for end in 0..der.len() {
        assert!(Certificate::from_der(&der[..end]).is_err(), "{end}");
    }
    assert!(Certificate::from_der(&[der, &[0]].concat()).is_err(), "trailing octet");
    assert_eq!(Certificate::from_der(&vec![0x30; 65_536]), Err(CertificateError::TooLong { length: 65_536 }));
    // Test 47: a serial number of 16 kB.
    let mut params = moon();
    params.serial_number = Some(rcgen::SerialNumber::from_slice(&[1; 16_384]));
    let key = KeyPair::generate().unwrap();
    assert!(matches!(
        Certificate::from_der(params.self_signed(&key).unwrap().der()),
        Err(CertificateError::Der { .. })
    ));
    // An extension twice: two opinions on who is an authority.
    let mut params = moon();
    params.is_ca = IsCa::ExplicitNoCa;
    params
        .custom_extensions
        .push(CustomExtension::from_oid_content(&[2, 5, 29, 19], vec![0x30, 3, 1, 1, 0xff]));
    let twice = params.self_signed(&key).map(|c| Certificate::from_der(c.der()));
    assert!(matches!(twice, Ok(Err(CertificateError::Extension { .. }))), "{twice:?}");
}

proptest! {
    /// Class 1 and 2: no length and no octet at any place of a certificate leads anywhere but to a result.
    #[test]
    fn classes_1_and_2_no_certificate_does_harm(at in 0usize..400, octet: u8, cut in 0usize..400) {
        let mut der = signed(&moon()).der().to_vec();
        let at = at % der.len();
        der[at] = octet;
        if let Ok(certificate) = Certificate::from_der(&der) {
            prop_assert!(certificate.to_string().len() < 1_000);
        }
        let cut = cut % der.len();
        der.drain(cut..(cut + 7).min(der.len()));
        let _ = Certificate::from_der(&der);
    }
}
