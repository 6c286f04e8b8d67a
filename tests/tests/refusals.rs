//! Tunnels that must not come up, in both roles against strongSwan: the right notify on the wire, nothing installed,
//! and one line in Adit's log that says what to change.

use adit_lab::adit::Adit;
use adit_lab::lab::{Family, Lab, Side, Topology, with_lab};
use adit_lab::peer::{Connection, Peer};
use adit_lab::process::eventually;
use adit_lab::strongswan::StrongSwan;
use anyhow::{Result, ensure};
use std::time::Duration;

const IKE: &str = "aes128gcm16-prfsha256-ecp256";
const ESP: &str = "aes128gcm16";

/// One disagreement, from both sides.
struct Refusal {
    name: &'static str,
    /// Makes the two configurations disagree.
    spoil: fn(ours: &mut Connection, theirs: &mut Connection, adit_initiates: bool),
    /// How strongSwan's log abbreviates the notify.
    notify: &'static str,
    /// What Adit's line must name when Adit initiates, and when it responds.
    initiator_line: &'static [&'static str],
    responder_line: &'static [&'static str],
}

#[test]
fn wrong_key() -> Result<()> {
    refused(&Refusal {
        name: "wrong-key",
        spoil: |_, theirs, _| theirs.secret = "another secret".to_owned(),
        notify: "N(AUTH_FAILED)",
        initiator_line: &["AUTHENTICATION_FAILED", "pre-shared key", "b.lab.example"],
        responder_line: &["AUTHENTICATION_FAILED", "pre-shared key", "b.lab.example"],
    })
}

#[test]
fn no_common_ike_proposal() -> Result<()> {
    refused(&Refusal {
        name: "ike-proposal",
        spoil: |_, theirs, _| theirs.proposals = "aes256-sha384-modp3072".to_owned(),
        notify: "N(NO_PROP)",
        initiator_line: &["NO_PROPOSAL_CHOSEN", "`proposals`", IKE],
        responder_line: &["NO_PROPOSAL_CHOSEN", "`proposals`", IKE, "aes256-sha384-prfsha384-modp3072"],
    })
}

#[test]
fn no_common_esp_proposal() -> Result<()> {
    refused(&Refusal {
        name: "esp-proposal",
        spoil: |_, theirs, _| theirs.esp_proposals = "aes256-sha512".to_owned(),
        notify: "N(NO_PROP)",
        initiator_line: &["NO_PROPOSAL_CHOSEN", "esp_proposals", ESP],
        responder_line: &["NO_PROPOSAL_CHOSEN", "esp_proposals", ESP, "aes256-sha512"],
    })
}

#[test]
fn selectors_that_do_not_fit() -> Result<()> {
    refused(&Refusal {
        name: "selectors",
        spoil: |_, theirs, _| {
            theirs.local_ts = "10.77.0.0/24".to_owned();
            theirs.remote_ts = "10.78.0.0/24".to_owned();
        },
        notify: "N(TS_UNACCEPT)",
        initiator_line: &["TS_UNACCEPTABLE", "remote_ts", "10.2.0.0/24"],
        responder_line: &["TS_UNACCEPTABLE", "remote_ts", "10.2.0.0/24", "10.77.0.0/24"],
    })
}

#[test]
fn unknown_peer() -> Result<()> {
    refused(&Refusal {
        name: "unknown-peer",
        // Whoever responds expects its peer somewhere else.
        spoil: |ours, theirs, adit_initiates| {
            let responder = if adit_initiates { theirs } else { ours };
            responder.remote_addrs = "192.0.2.77".to_owned();
        },
        notify: "N(NO_PROP)",
        initiator_line: &["NO_PROPOSAL_CHOSEN", "203.0.113.2"],
        responder_line: &["NO_PROPOSAL_CHOSEN", "remote_addrs", "203.0.113.2"],
    })
}

#[test]
fn wrong_identity_of_the_initiator() -> Result<()> {
    refused(&Refusal {
        name: "initiator-id",
        spoil: |ours, theirs, adit_initiates| {
            let initiator = if adit_initiates { ours } else { theirs };
            initiator.local_id = "mallory.lab.example".to_owned();
        },
        notify: "N(AUTH_FAILED)",
        initiator_line: &["AUTHENTICATION_FAILED", "mallory.lab.example"],
        responder_line: &["AUTHENTICATION_FAILED", "mallory.lab.example", "b.lab.example"],
    })
}

#[test]
fn wrong_identity_of_the_responder() -> Result<()> {
    refused(&Refusal {
        name: "responder-id",
        // The initiator asks for no identity that the responder has, and trusts none that it gets.
        spoil: |ours, theirs, adit_initiates| {
            let initiator = if adit_initiates { ours } else { theirs };
            initiator.remote_id = "nobody.lab.example".to_owned();
            // The identity is wrong, not the key: without one for it the initiator would not even ask.
            initiator.secret_id = initiator.remote_id.clone();
        },
        notify: "N(AUTH_FAILED)",
        initiator_line: &["AUTHENTICATION_FAILED", "nobody.lab.example"],
        responder_line: &["AUTHENTICATION_FAILED", "nobody.lab.example", "a.lab.example"],
    })
}

fn refused(refusal: &Refusal) -> Result<()> {
    for adit_initiates in [true, false] {
        let name = format!("{}-{}", refusal.name, if adit_initiates { "i" } else { "r" });
        with_lab(&name, Topology::default(), |lab| refused_once(lab, refusal, adit_initiates))?;
    }
    Ok(())
}

fn refused_once(lab: &Lab, refusal: &Refusal, adit_initiates: bool) -> Result<()> {
    let mut ours = Connection::new(Side::A, Family::V4, IKE, ESP);
    let mut theirs = Connection::new(Side::B, Family::V4, IKE, ESP);
    (refusal.spoil)(&mut ours, &mut theirs, adit_initiates);
    let adit = Adit::start(lab, Side::A, &ours)?;
    let strongswan = StrongSwan::start(lab, Side::B, &theirs)?;
    let before = lab.run(Side::A.gateway(), "ip", &["route", "show", "table", "all"])?;

    let answer = if adit_initiates { adit.initiate() } else { strongswan.initiate() };
    ensure!(answer.is_err(), "the tunnel came up: {answer:?}");
    let notify = strongswan.wait_for_log(&[refusal.notify])?;
    ensure!(notify.contains("parsed") || notify.contains("generating"), "{notify}");

    let needed = if adit_initiates { refusal.initiator_line } else { refusal.responder_line };
    let line = adit.wait_for_log(needed)?;
    let same: Vec<String> = adit
        .log()
        .lines()
        .filter(|line| needed.iter().all(|part| line.contains(part)))
        .map(str::to_owned)
        .collect();
    ensure!(same.len() == 1, "one event, one line: {same:#?}");
    if adit_initiates {
        // Whoever typed the command learns the same.
        let told = format!("{:#}", answer.err().map(|error| error.to_string()).unwrap_or_default());
        ensure!(
            needed.iter().take(1).all(|part| told.contains(part)),
            "`adit up` said {told:?}, the log {line:?}"
        );
    }
    for peer in [&adit as &dyn Peer, &strongswan] {
        eventually("no Child SA anywhere", Duration::from_secs(5), || {
            Ok(peer.sas()?.iter().all(|sa| sa.children.is_empty()).then_some(()))
        })?;
    }
    let after = lab.run(Side::A.gateway(), "ip", &["route", "show", "table", "all"])?;
    ensure!(before == after, "routes changed:\n{before}\n{after}");
    ensure!(!lab.reaches(Side::A, Family::V4)?, "the hosts reach each other");
    Ok(())
}
