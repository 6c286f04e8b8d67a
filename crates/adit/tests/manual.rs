//! The examples of the README and the manual: each block of code says what it is, and so which test looks at it.
//!
//! Configurations and what can be compared without a network are looked at here. Commands are run, and what they print is
//! compared, in the laboratory (`tests/`).

#![cfg(test)]

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;

use adit_lab::manual::{Block, block, blocks, shows};

/// What a block can be, and the test that looks at blocks of that kind. Whatever else there is has no test.
const KINDS: [(&str, &str); 6] = [
    ("conf", "here, and two in tests/newcomer.rs"),
    ("ipsec.conf", "here, and in tests/newcomer.rs"),
    ("sh", "tests/newcomer.rs: each line is run, or is in its list of what is not, with the reason"),
    ("ini", "tests/newcomer.rs: a part of the unit"),
    ("yaml", "tests/monitoring.rs: Prometheus' own configuration"),
    ("text", "TEXTS"),
];

/// What something prints, and the test that compares it.
const TEXTS: [(&str, &str); 5] = [
    ("network", "tests/demo.rs"),
    ("unknown-key", "here"),
    ("ike-encryption", "tests/explain.rs"),
    ("esp-filtered", "tests/health.rs"),
    ("commission", "tests/health.rs"),
];

#[test]
fn every_example_has_its_test() {
    let blocks = blocks().unwrap();
    for Block { page, kind, name, body } in &blocks {
        let known = KINDS.iter().any(|(known, _)| known == kind)
            && (kind != "text" || TEXTS.iter().any(|(known, _)| known == name));
        assert!(known, "{page}: no test looks at ```{kind} {name}\n{body}");
    }
    // What is looked at once is there once.
    for (name, _) in TEXTS {
        block("text", name).unwrap();
    }
    for kind in ["ini", "yaml", "ipsec.conf"] {
        block(kind, "").unwrap();
    }
}

#[test]
fn configurations_of_the_manual_have_no_mistakes() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("swanctl.conf");
    let mut checked = 0;
    for Block { page, body, .. } in blocks().unwrap().iter().filter(|block| block.kind == "conf") {
        std::fs::write(&file, body).unwrap();
        if body.contains("certs = hq.pem") {
            certificates(directory.path());
        }
        // As the manual says, because of its secrets.
        std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        let told: Vec<String> = match adit::config::load(&file) {
            Err(errors) => panic!("{page}:\n{body}\n{}", errors.render(false)),
            Ok(configuration) => configuration.warnings.iter().map(|warning| warning.render(false)).collect(),
        };
        // Secrets may be on another page.
        assert!(told.iter().all(|warning| warning.contains("no secret fits")), "{page}:\n{body}\n{told:?}");
        checked += 1;
    }
    assert!(checked >= 9, "{checked}");
}

/// What an example with certificates has beside it.
fn certificates(directory: &std::path::Path) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new([]).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority =
        rcgen::CertifiedIssuer::self_signed(authority, rcgen::KeyPair::generate().unwrap()).unwrap();
    let own = rcgen::CertificateParams::new(["hq.example.com".to_owned()]).unwrap();
    let own = own.signed_by(&key, &authority).unwrap();
    for (file, pem) in [
        ("x509/hq.pem", own.pem()),
        ("x509ca/ca.pem", authority.pem()),
        ("private/hq.key", key.serialize_pem()),
    ] {
        let path = directory.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, pem).unwrap();
        std::fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    }
}

#[test]
fn a_mistake_is_told_as_the_manual_shows() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("swanctl.conf");
    std::fs::write(&file, "gateway {\n  mut = 1400\n}\n").unwrap();
    let told = adit::config::load(&file).expect_err("a mistake").render(false);
    shows("unknown-key", &told.replace(file.to_str().unwrap(), "/etc/adit/swanctl.conf")).unwrap();
}

#[test]
fn the_example_of_migrating_becomes_what_the_manual_says() {
    let blocks = blocks().unwrap();
    let at = blocks.iter().position(|block| block.kind == "ipsec.conf").expect("an ipsec.conf");
    let (Some(from), Some(to)) = (blocks.get(at), blocks.get(at + 1)) else { panic!("two blocks") };
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ipsec.conf");
    std::fs::write(&file, &from.body).unwrap();
    let imported = adit::import::import(&file, None, None, &|_| false).unwrap();
    assert_eq!(imported.connections, to.body);
    assert!(imported.reports.is_empty(), "{:?}", imported.reports);
}
