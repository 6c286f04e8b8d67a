//! Certificates against strongSwan, in both roles: every kind of key, chains, and what must not be believed.

use std::path::PathBuf;
use std::time::Duration;

use adit_lab::adit::Adit;
use adit_lab::lab::{Family, Lab, Side, Topology, with_lab};
use adit_lab::peer::{Connection, Peer, Rekey};
use adit_lab::pki::{Certified, Key, Pki, Wanted, install, put};
use adit_lab::process::eventually;
use adit_lab::strongswan::{Options, Release, StrongSwan};
use anyhow::{Context, Result, ensure};

const IKE: &str = "aes256gcm16-prfsha384-x25519";
const ESP: &str = "aes256gcm16";

/// Certificates of both gateways, where they look for them.
struct Certificates {
    pki: Pki,
    root: Certified,
    ours: Certified,
    theirs: Certified,
}

impl Certificates {
    fn new(lab: &Lab, key: Key) -> Result<Self> {
        let pki = Pki::new(lab.dir().join("pki"))?;
        let root = pki.issue(key, &Wanted::authority("root"), None)?;
        let ours = pki.issue(key, &Wanted::gateway("ours", "DNS:a.lab.example"), Some(&root))?;
        let theirs = pki.issue(key, &Wanted::gateway("theirs", "DNS:b.lab.example"), Some(&root))?;
        let certificates = Self { pki, root, ours, theirs };
        install(lab.dir(), &certificates.ours, &[&certificates.root], &[])?;
        install(&strongswan_dir(lab), &certificates.theirs, &[&certificates.root], &[])?;
        Ok(certificates)
    }
}

fn strongswan_dir(lab: &Lab) -> PathBuf {
    lab.dir().join(format!("strongswan-{}", Side::B))
}

/// The connection of one side, with certificates both ways.
fn connection(side: Side) -> Connection {
    let own = if side == Side::A { "ours.pem" } else { "theirs.pem" };
    Connection {
        local_auth: format!("auth = pubkey\n      certs = {own}"),
        remote_auth: "auth = pubkey".to_owned(),
        ..Connection::new(side, Family::V4, IKE, ESP)
    }
}

#[test]
fn rsa_2048() -> Result<()> {
    both_roles("cert-rsa2", Key::Rsa(2048))
}

#[test]
fn rsa_3072() -> Result<()> {
    both_roles("cert-rsa3", Key::Rsa(3072))
}

#[test]
fn rsa_4096() -> Result<()> {
    both_roles("cert-rsa4", Key::Rsa(4096))
}

#[test]
fn ecdsa_p256() -> Result<()> {
    both_roles("cert-p256", Key::Ecdsa("P-256"))
}

#[test]
fn ecdsa_p384() -> Result<()> {
    both_roles("cert-p384", Key::Ecdsa("P-384"))
}

#[test]
fn ecdsa_p521() -> Result<()> {
    both_roles("cert-p521", Key::Ecdsa("P-521"))
}

#[test]
fn ed25519() -> Result<()> {
    both_roles("cert-ed", Key::Ed25519)
}

fn both_roles(name: &str, key: Key) -> Result<()> {
    with_lab(name, Topology::default(), |lab| {
        let _certificates = Certificates::new(lab, key)?;
        let adit = Adit::start(lab, Side::A, &connection(Side::A))?;
        let strongswan = StrongSwan::start(lab, Side::B, &connection(Side::B))?;
        adit.initiate()?;
        lab.ping(Side::A, Family::V4, 2)?;
        adit.rekey(Rekey::Ike)?;
        lab.ping(Side::B, Family::V6, 2)?;
        adit.terminate()?;
        strongswan.wait_for_nothing()?;
        adit.wait_for_nothing()?;

        strongswan.initiate()?;
        adit.wait_for_child()?;
        lab.ping(Side::B, Family::V4, 2)?;
        strongswan.terminate()?;
        adit.wait_for_nothing()
    })
}

/// Root, two authorities below it, gateway: both send what is between them, in fragments, since it is long.
#[test]
fn chains_with_two_intermediates_travel_in_fragments() -> Result<()> {
    with_lab("cert-chain", Topology::default(), |lab| {
        let pki = Pki::new(lab.dir().join("pki"))?;
        let key = Key::Rsa(4096);
        let root = pki.issue(key, &Wanted::authority("root"), None)?;
        let first = pki.issue(key, &Wanted::authority("first"), Some(&root))?;
        let second = pki.issue(key, &Wanted::authority("second"), Some(&first))?;
        let ours = pki.issue(key, &Wanted::gateway("ours", "DNS:a.lab.example"), Some(&second))?;
        let theirs = pki.issue(key, &Wanted::gateway("theirs", "DNS:b.lab.example"), Some(&first))?;
        install(lab.dir(), &ours, &[&root], &[&first, &second])?;
        install(&strongswan_dir(lab), &theirs, &[&root], &[])?;
        // strongSwan sends those between that it has among its authorities.
        put(&first.certificate, &strongswan_dir(lab).join("x509ca"))?;
        let adit = Adit::start(lab, Side::A, &connection(Side::A))?;
        let newest = Options::of(Release::Newest);
        let strongswan = StrongSwan::start_with(lab, Side::B, &connection(Side::B), &newest)?;
        adit.initiate()?;
        lab.ping(Side::A, Family::V4, 2)?;
        strongswan.wait_for_log(&["reassembled fragmented IKE message"])?;
        strongswan.wait_for_log(&["splitting IKE message"])?;
        adit.terminate()?;
        adit.wait_for_nothing()?;
        strongswan.initiate()?;
        adit.wait_for_child()?;
        lab.ping(Side::B, Family::V4, 2)
    })
}

/// Debian's `swanctl` gives a daemon without a file certificates, keys and connections, and takes them away.
#[test]
fn swanctl_loads_lists_and_unloads_them() -> Result<()> {
    with_lab("cert-vici", Topology::default(), |lab| {
        let certificates = Certificates::new(lab, Key::Rsa(2048))?;
        std::fs::write(lab.dir().join("swanctl.conf"), connection(Side::A).render())?;
        let adit = Adit::start_bare(lab, Side::A)?;
        let strongswan = StrongSwan::start(lab, Side::B, &connection(Side::B))?;
        let first = adit.swanctl(&["--load-all", "--noprompt"])?;
        for line in ["loaded certificate", "loaded private key", "loaded connection 'gw'"] {
            ensure!(first.contains(line), "no {line}: {first}");
        }
        adit.initiate()?;
        lab.ping(Side::A, Family::V4, 2)?;
        // Again, with everything there already: nothing is disturbed.
        adit.swanctl(&["--load-all", "--noprompt"])?;
        strongswan.wait_for_child()?;
        lab.ping(Side::A, Family::V4, 2)?;
        // Both daemons have three certificates of one authority; who has which key differs.
        let (ours, theirs) = (adit.swanctl(&["--list-certs"])?, strongswan.swanctl(&["--list-certs"])?);
        for (list, own) in [(&ours, "CN=ours"), (&theirs, "CN=theirs")] {
            let of = |subject: &str| {
                let at = list.find(&format!("subject:  \"C=CH, O=Lab, {subject}\""));
                at.and_then(|at| list.get(at..))
                    .unwrap_or_default()
                    .split("subject:")
                    .nth(1)
                    .unwrap_or_default()
            };
            ensure!(of("CN=root").contains("issuer:   \"C=CH, O=Lab, CN=root\""), "{list}");
            ensure!(of(own).contains("has private key"), "{list}");
            ensure!(!of("CN=root").contains("has private key"), "{list}");
        }
        // Without its key the connection cannot be loaded again.
        std::fs::remove_file(lab.dir().join("private/ours.key"))?;
        let refused = adit.swanctl(&["--load-all", "--noprompt", "--clear"]);
        ensure!(format!("{refused:?}").contains("there is no private key for"), "{refused:?}");
        drop(certificates);
        Ok(())
    })
}

/// What is not to be believed is not, and `explain` says why.
#[test]
fn what_cannot_be_trusted_is_named() -> Result<()> {
    with_lab("cert-wrong", Topology::default(), |lab| {
        let certificates = Certificates::new(lab, Key::Ecdsa("P-256"))?;
        let Certificates { pki, root, theirs, .. } = &certificates;
        let stranger = pki.issue(Key::Ecdsa("P-256"), &Wanted::authority("stranger"), None)?;
        let wrong = [
            ("untrusted", Wanted::gateway("unknown", "DNS:b.lab.example"), &stranger),
            (
                "certificate-expired",
                Wanted {
                    validity: Some(("20200101000000Z", "20210101000000Z")),
                    ..Wanted::gateway("expired", "DNS:b.lab.example")
                },
                root,
            ),
        ];
        let adit = Adit::start(lab, Side::A, &connection(Side::A))?;
        let strongswan = StrongSwan::start(lab, Side::B, &connection(Side::B))?;
        adit.initiate()?;
        adit.terminate()?;
        for (code, wanted, issuer) in wrong {
            let made = pki.issue(Key::Ecdsa("P-256"), &wanted, Some(issuer)).context(code)?;
            put(&made.certificate, &strongswan_dir(lab).join("x509"))?;
            put(&made.key, &strongswan_dir(lab).join("private"))?;
            let changed =
                connection(Side::B).local_auth.replace("theirs.pem", &format!("{}.pem", wanted.name));
            strongswan.reload(&Connection { local_auth: changed, ..connection(Side::B) })?;
            ensure!(adit.initiate().is_err(), "{code}: it is up");
            explained(&adit, code)?;
            // It is refused as initiator too.
            ensure!(strongswan.initiate().is_err(), "{code}: it is up");
            explained(&adit, code)?;
        }
        // Revoked: what the list beside the configuration says counts.
        strongswan.reload(&connection(Side::B))?;
        put(&pki.revoke(theirs, root)?, &lab.dir().join("x509crl"))?;
        adit_lab::process::run(adit.command().arg("reload"))?;
        ensure!(adit.initiate().is_err(), "it is up though it is revoked");
        explained(&adit, "certificate-revoked")
    })
}

fn explained(adit: &Adit, code: &str) -> Result<()> {
    eventually(&format!("the explanation {code}"), Duration::from_secs(10), || {
        let told = adit_lab::process::run_unchecked(adit.command().args(["explain", "net", "--json"]))?;
        Ok(String::from_utf8_lossy(&told.stdout).contains(code).then_some(()))
    })
}
