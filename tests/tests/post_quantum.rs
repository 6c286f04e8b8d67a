//! Post-quantum keys against strongSwan: ML-KEM beside X25519 with the newest one (RFC 9242, 9370), post-quantum
//! preshared keys with both (RFC 8784).

use adit_lab::adit::Adit;
use adit_lab::lab::{FAMILIES, Family, Lab, SIDES, Side, Topology, with_lab};
use adit_lab::peer::{Connection, Peer, Rekey, rekey_and_wait};
use adit_lab::strongswan::{Options, Release, StrongSwan};
use anyhow::{Context, Result, ensure};
use std::time::Duration;

const X25519: &str = "aes256gcm16-prfsha384-x25519";
const ESP: &str = "aes256gcm16";

#[test]
fn ml_kem_768_adit_initiates() -> Result<()> {
    ml_kem("mlkem768-i", "mlkem768", Side::A)
}

#[test]
fn ml_kem_768_strongswan_initiates() -> Result<()> {
    ml_kem("mlkem768-r", "mlkem768", Side::B)
}

#[test]
fn ml_kem_512_adit_initiates() -> Result<()> {
    ml_kem("mlkem512-i", "mlkem512", Side::A)
}

#[test]
fn ml_kem_1024_strongswan_initiates() -> Result<()> {
    // 1568 octets of key: its IKE_INTERMEDIATE goes in fragments.
    ml_kem("mlkem1024-r", "mlkem1024", Side::B)
}

#[test]
fn several_additional_key_exchanges_are_done_in_their_order() -> Result<()> {
    for initiator in SIDES {
        let name = format!("several-{initiator}");
        with_lab(&name, Topology::default(), |lab| {
            let suite = format!("{X25519}-ke1_mlkem512-ke2_ecp256-ke3_mlkem1024");
            let (adit, strongswan) = pair(lab, &suite, "aes128gcm16-ecp256-ke1_mlkem1024-ke2_mlkem512")?;
            let [first, second] = in_order(&adit, &strongswan, initiator);
            first.initiate()?;
            second.wait_for_child()?;
            lab.ping(Side::A, Family::V4, 2)?;
            rekey_both(lab, &adit, &strongswan)
        })?;
    }
    Ok(())
}

/// The tunnel comes up with the method, and the child and the IKE SA are rekeyed with it, from either side.
fn ml_kem(name: &str, method: &str, initiator: Side) -> Result<()> {
    with_lab(name, Topology::default(), |lab| {
        let ike = format!("{X25519}-ke1_{method}");
        let esp = format!("{ESP}-x25519-ke1_{method}");
        let (adit, strongswan) = pair(lab, &ike, &esp)?;
        let [first, second] = in_order(&adit, &strongswan, initiator);
        first.initiate()?;
        second.wait_for_child()?;
        for family in FAMILIES {
            SIDES.into_iter().try_for_each(|side| lab.ping(side, family, 2))?;
        }
        let used = strongswan.sas()?.first().and_then(|sa| sa.values.get("ake1").cloned());
        ensure!(
            used.is_some_and(|used| format!("ke1_{}", used.replace('_', "").to_lowercase()).contains(method))
        );
        rekey_both(lab, &adit, &strongswan)
    })
}

fn pair(lab: &Lab, ike: &str, esp: &str) -> Result<(Adit, StrongSwan)> {
    let adit = Adit::start(lab, Side::A, &Connection::new(Side::A, Family::V4, ike, esp))?;
    let theirs = Connection::new(Side::B, Family::V4, ike, esp);
    Ok((adit, StrongSwan::start_with(lab, Side::B, &theirs, &Options::of(Release::Newest))?))
}

fn in_order<'a>(adit: &'a Adit, strongswan: &'a StrongSwan, initiator: Side) -> [&'a dyn Peer; 2] {
    if initiator == Side::A { [adit, strongswan] } else { [strongswan, adit] }
}

/// Child and IKE SA are replaced, once by either side; after each the hosts still reach each other.
fn rekey_both(lab: &Lab, adit: &Adit, strongswan: &StrongSwan) -> Result<()> {
    for [by, other] in [[adit as &dyn Peer, strongswan], [strongswan, adit]] {
        for what in [Rekey::Child, Rekey::Ike] {
            rekey_and_wait(by, other, what, Duration::from_secs(15))?;
            // Whatever was made anew was made with the additional key exchanges.
            for peer in [by, other] {
                let (sa, child) = peer.only()?.context("one SA")?;
                ensure!(sa.values.contains_key("ake1"), "{sa:?}");
                ensure!(child.values.contains_key("ake1"), "{child:?}");
            }
            lab.ping(Side::A, Family::V4, 2)?;
            lab.ping(Side::B, Family::V6, 2)?;
        }
    }
    Ok(())
}

#[test]
fn a_post_quantum_preshared_key_is_used_by_both() -> Result<()> {
    for release in [Release::Debian, Release::Newest] {
        for initiator in SIDES {
            with_lab("ppk", Topology::default(), |lab| {
                let (adit, strongswan) = ppk(lab, release, [PPK, PPK], "ppk_required = yes")?;
                let [first, second] = in_order(&adit, &strongswan, initiator);
                first.initiate()?;
                for peer in [first, second] {
                    peer.wait_for_child()?;
                }
                for sas in [adit.facts()?, strongswan.sas()?] {
                    let used = sas.iter().all(|sa| sa.values.get("ppk").is_some_and(|ppk| ppk == "yes"));
                    ensure!(used, "{sas:?}");
                }
                strongswan.wait_for_log(&["using PPK for PPK_ID"])?;
                SIDES.into_iter().try_for_each(|side| lab.ping(side, Family::V4, 2))
            })
            .with_context(|| format!("{release:?}, side {initiator} initiates"))?;
        }
    }
    Ok(())
}

#[test]
fn a_post_quantum_preshared_key_that_differs_is_fatal() -> Result<()> {
    for initiator in SIDES {
        with_lab("ppk-differs", Topology::default(), |lab| {
            let (adit, strongswan) =
                ppk(lab, Release::Newest, [PPK, "another-key-another-key-another!"], "ppk_required = yes")?;
            let [first, _] = in_order(&adit, &strongswan, initiator);
            ensure!(first.initiate().is_err(), "the tunnel came up");
            strongswan.wait_for_log(&["N(AUTH_FAILED)"])?;
            ensure!(adit.child()?.is_none() && strongswan.child()?.is_none());
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_peer_without_preshared_keys_is_taken_where_they_are_optional_only() -> Result<()> {
    for initiator in SIDES {
        for required in [false, true] {
            with_lab("ppk-optional", Topology::default(), |lab| {
                let policy = if required { "ppk_required = yes" } else { "ppk_required = no" };
                let adit = Adit::start(lab, Side::A, &with_ppk(Side::A, PPK, policy))?;
                let theirs = Connection::new(Side::B, Family::V4, X25519, ESP);
                let strongswan = StrongSwan::start(lab, Side::B, &theirs)?;
                let [first, second] = in_order(&adit, &strongswan, initiator);
                let answer = first.initiate();
                if required {
                    ensure!(answer.is_err() && adit.child()?.is_none(), "the tunnel came up: {answer:?}");
                    return Ok(());
                }
                answer?;
                second.wait_for_child()?;
                let sas = adit.facts()?;
                ensure!(sas.iter().all(|sa| !sa.values.contains_key("ppk")), "{sas:?}");
                lab.ping(Side::A, Family::V4, 2)
            })
            .with_context(|| format!("side {initiator} initiates, required: {required}"))?;
        }
    }
    Ok(())
}

#[test]
fn a_connection_that_requires_post_quantum_keys_refuses_a_peer_without() -> Result<()> {
    for initiator in SIDES {
        with_lab("pq-required", Topology::default(), |lab| {
            let both = format!("{X25519}-ke1_mlkem768,{X25519}");
            let mut ours = Connection::new(Side::A, Family::V4, &both, ESP);
            ours.extra = "post_quantum = required".to_owned();
            let adit = Adit::start(lab, Side::A, &ours)?;
            let theirs = Connection::new(Side::B, Family::V4, X25519, ESP);
            let strongswan = StrongSwan::start(lab, Side::B, &theirs)?;
            let [first, _] = in_order(&adit, &strongswan, initiator);
            ensure!(first.initiate().is_err(), "the tunnel came up without post-quantum keys");
            adit.wait_for_log(&["NO_PROPOSAL_CHOSEN", "ke1_mlkem768"])?;
            ensure!(adit.child()?.is_none() && strongswan.child()?.is_none());
            Ok(())
        })?;
    }
    Ok(())
}

const PPK: &str = "a-post-quantum-preshared-key-42!";

/// Both with a key for `ppk.lab.example`.
fn ppk(lab: &Lab, release: Release, keys: [&str; 2], policy: &str) -> Result<(Adit, StrongSwan)> {
    let [our_key, their_key] = keys;
    let adit = Adit::start(lab, Side::A, &with_ppk(Side::A, our_key, policy))?;
    let theirs = with_ppk(Side::B, their_key, policy);
    Ok((adit, StrongSwan::start_with(lab, Side::B, &theirs, &Options::of(release))?))
}

fn with_ppk(side: Side, key: &str, policy: &str) -> Connection {
    Connection {
        extra: format!("ppk_id = ppk.lab.example\n {policy}"),
        more: format!("secrets {{\n ppk-1 {{\n id = ppk.lab.example\n secret = \"{key}\"\n }}\n}}\n"),
        ..Connection::new(side, Family::V4, X25519, ESP)
    }
}
