//! The entry point of the fuzz target `certificates`, also run by the ordinary tests over its corpus. Not part of the API.

use std::time::{Duration, UNIX_EPOCH};

use der::{Reader, SliceReader};

use crate::signed::Signed;
use crate::{Certificate, Crl, Name, Requirements, Revocation, Store, dn_eq, dn_from_text, dn_to_text};

/// DER elements one behind the other, each taken for a certificate and for a CRL, trusted and sent: nothing panics, names
/// read back from their text, and a path that is found is signed from one end to the other.
pub fn certificates(data: &[u8]) {
    const ELEMENTS: usize = 8;
    let mut certificates = Vec::new();
    let mut crls = Vec::new();
    if let Ok(mut reader) = SliceReader::new(data) {
        while let Ok(der) = reader.tlv_bytes() {
            certificates.extend(Certificate::from_der(der));
            crls.extend(Crl::from_der(der));
            if reader.is_finished() || certificates.len() + crls.len() >= ELEMENTS {
                break;
            }
        }
    }
    let _ = Certificate::from_der(data).map(|c| c.to_string());
    let _ = dn_from_text(&String::from_utf8_lossy(data));
    for certificate in &certificates {
        check_names(certificate);
    }
    let Some((end, others)) = certificates.split_first() else {
        return;
    };
    let mut store = Store::default();
    if let Some((authority, between)) = others.split_last() {
        let _ = store.add_authority(authority.clone());
        between.iter().for_each(|c| store.add_intermediate(c.clone()));
    }
    crls.into_iter().for_each(|crl| drop(store.add_crl(crl)));
    for revocation in [Revocation::Strict, Revocation::IfUri, Revocation::Relaxed] {
        let requirements = Requirements { revocation, ..Requirements::default() };
        // 2026-06-01.
        let now = UNIX_EPOCH + Duration::from_secs(1_780_272_000);
        match store.verify(end, others, &requirements, now) {
            Ok(path) => {
                for pair in path.certificates().windows(2) {
                    let [below, above] = pair else { continue };
                    let signed = Signed::from_der(below.der()).is_ok_and(|s| s.verifies(above.spki()));
                    assert!(signed && below.issuer() == above.subject(), "{below} below {above}");
                }
                assert!(path.certificates().len() > 1, "{end} is trusted by itself");
                assert!(revocation != Revocation::Strict || path.unchecked().is_empty(), "{end}");
            }
            Err(reason) => assert!(!reason.to_string().is_empty()),
        }
    }
}

fn check_names(certificate: &Certificate) {
    let subject = certificate.subject();
    let Ok(text) = dn_to_text(subject) else {
        return;
    };
    assert!(text.chars().all(|c| !c.is_control()), "{text:?}");
    if !text.is_empty() {
        match dn_from_text(&text) {
            Ok(der) => assert!(dn_eq(&der, subject), "{text}"),
            // An attribute without a value, or the same attribute twice: nobody writes these.
            Err(error) => assert!(text.contains('='), "{text}: {error}"),
        }
        assert!(certificate.names(&Name::Dn(subject)), "{text}");
    }
    for name in certificate.alt_names() {
        let _ = certificate.names(&name.as_name());
        assert!(!name.to_string().chars().any(char::is_control), "{name}");
    }
}
