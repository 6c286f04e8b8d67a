//! The collision tables of the standards: rows C1 to C14 between Child SAs (5.4), K1 to K8 between IKE SAs (5.6),
//! several key exchanges (5.5), re-authentication (5.7). C5 has no two ends that agree: it is among the adversarial
//! tests.

use std::time::Duration;

use adit_ike::proposal;

use super::{Command, Nonces, Scenario, quick_sides, run};
use crate::pair::{Side, child};

use Command::{Down, DownChild, ExpireChild, Reauthenticate, RekeyChild, RekeyIke, Up, UpChild};

const NET: Command = RekeyChild("net");

/// What can be chosen of the four nonces, and who loses then (standards 5.4a): per end the first octet as initiator
/// and as responder.
const LOWEST: [([Nonces; 2], usize); 4] = [
    ([(0x00, 0xff), (0xff, 0xff)], 0),
    ([(0xff, 0xff), (0x00, 0xff)], 1),
    ([(0xff, 0xff), (0xff, 0x00)], 0),
    ([(0xff, 0x00), (0xff, 0xff)], 1),
];

fn two_children() -> (Side, Side) {
    let (mut a, mut b) = quick_sides();
    a.connection().children.push(child("more", "10.11.0.0/16", "10.12.0.0/16"));
    b.connection().children.push(child("more", "10.12.0.0/16", "10.11.0.0/16"));
    (a, b)
}

fn with_esp(a: &str, b: &str) -> (Side, Side) {
    let mut sides = quick_sides();
    for (side, proposals) in [(&mut sides.0, a), (&mut sides.1, b)] {
        side.connection().children[0].proposals = proposal::parse_esp(proposals).unwrap();
    }
    sides
}

fn forward_secrecy() -> (Side, Side) {
    with_esp("aes256gcm16-x25519", "aes256gcm16-x25519")
}

/// Each side tries first what the other does not have.
fn other_methods() -> (Side, Side) {
    with_esp("aes256gcm16-x25519-ecp256", "aes256gcm16-ecp384-ecp256")
}

/// Two key exchanges for each IKE SA and each successor of a child (RFC 9370).
fn several_methods() -> (Side, Side) {
    let mut sides = with_esp("aes256gcm16-x25519-ke1_ecp256", "aes256gcm16-x25519-ke1_ecp256");
    for side in [&mut sides.0, &mut sides.1] {
        side.connection().proposals = proposal::parse_ike("aes256gcm16-prfsha384-x25519-ke1_ecp256").unwrap();
    }
    sides
}

/// The responder does with one key exchange, the initiator proposes two.
fn mixed_methods() -> (Side, Side) {
    with_esp("aes256gcm16-x25519-ke1_ecp256", "aes256gcm16-x25519-ke1_ecp256-ke1_none")
}

/// Four requests may be outstanding (RFC 7296 2.3).
fn window() -> (Side, Side) {
    let mut sides = two_children();
    for side in [&mut sides.0, &mut sides.1] {
        side.settings.window = 4;
    }
    sides
}

/// The ESP packets need longer than the IKE messages.
fn far(scenario: Scenario) -> Scenario {
    Scenario { esp_latency: Duration::from_millis(40), name: format!("{} far", scenario.name), ..scenario }
}

#[test]
fn child_rekeying_without_collision() {
    run(vec![
        Scenario::new("rekey", &[NET], &[]),
        Scenario::new("rekey by the responder", &[], &[NET]),
        far(Scenario::new("rekey", &[NET], &[])),
        Scenario { sides: forward_secrecy, ..Scenario::new("rekey with PFS", &[NET], &[]) },
        Scenario { sides: other_methods, ..Scenario::new("rekey with INVALID_KE", &[NET], &[]) },
        Scenario::new("rekey three times", &[NET, NET, NET], &[]),
        Scenario { sides: two_children, ..Scenario::new("rekey two", &[NET], &[RekeyChild("more")]) }
            .children(2),
    ]);
}

/// C1, and with the messages that come late or not at all C7 and C8.
#[test]
fn c1_c7_c8_both_rekey_the_child() {
    let both = |name| Scenario::new(name, &[NET], &[NET]);
    run(vec![
        both("C1"),
        far(both("C1")),
        Scenario { sides: forward_secrecy, ..both("C1 with PFS") },
        Scenario { faults: 1, ..Scenario::new("C1 again and again", &[NET, NET], &[NET, NET]) },
    ]);
}

#[test]
fn c1_the_lowest_nonce_loses() {
    let scenario = |(n, (nonces, loses)): (usize, ([Nonces; 2], usize))| Scenario {
        nonces: Some(nonces),
        loses: Some(loses),
        faults: 1,
        ..Scenario::new(format!("C1 nonces {n}"), &[NET], &[NET])
    };
    run(LOWEST.into_iter().enumerate().map(scenario).collect());
}

#[test]
fn c2_c3_one_rekeys_the_child_that_the_other_deletes() {
    let down = DownChild("net");
    run(vec![
        Scenario::new("C2", &[down], &[NET]).lossy(None, 0),
        Scenario::new("C3", &[NET], &[down]).lossy(None, 0),
        Scenario { faults: 1, ..Scenario::new("C3 again", &[NET], &[NET, down]).lossy(None, 0) },
    ]);
}

#[test]
fn c4_both_delete_the_child() {
    let down = DownChild("net");
    run(vec![
        Scenario::new("C4", &[down], &[down]).lossy(None, 0),
        Scenario { sides: two_children, ..Scenario::new("C4 of two", &[down], &[down]).lossy(1, 1) },
    ]);
}

#[test]
fn c6_one_creates_the_other_deletes() {
    let (up, down) = (UpChild("more"), DownChild("more"));
    let scenario = |name: &str, a: &[Command], b: &[Command]| Scenario {
        sides: two_children,
        before: Some(UpChild("net")),
        ..Scenario::new(name, a, b)
    };
    run(vec![
        scenario("C6", &[up], &[down]).children(None),
        scenario("C6 by the responder", &[down], &[up]).children(None),
        scenario("C6 again", &[up, down, up], &[down]).children(None),
    ]);
}

#[test]
fn c12_the_ike_sa_goes_while_something_else_happens() {
    let scenario = |name: &str, a: &[Command], b: &[Command]| Scenario {
        sides: two_children,
        ..Scenario::new(name, a, b).lossy(0, 0)
    };
    run(vec![
        scenario("C12 rekey", &[NET], &[Down]),
        scenario("C12 delete", &[DownChild("net")], &[Down]),
        scenario("C12 delete both", &[DownChild("net"), Down], &[DownChild("net"), Down]),
    ]);
}

#[test]
fn c13_both_rekey_and_change_the_method() {
    run(vec![Scenario { sides: other_methods, ..Scenario::new("C13", &[NET], &[NET]) }]);
}

/// Both sides bring the same child up at once: two of them are legal.
#[test]
fn c14_both_create_the_child() {
    let more = UpChild("more");
    run(vec![
        Scenario {
            sides: two_children,
            before: Some(UpChild("net")),
            ..Scenario::new("C14", &[more], &[more])
        }
        .children(None),
    ]);
}

/// Requests that overtake each other, as they can in a larger window.
#[test]
fn requests_in_a_larger_window() {
    let (down, more) = (DownChild("net"), RekeyChild("more"));
    let scenario = |name: &str, a: &[Command], b: &[Command]| Scenario {
        sides: window,
        ..Scenario::new(format!("window {name}"), a, b)
    };
    run(vec![
        scenario("rekey two", &[NET, more], &[]).children(2),
        scenario("C1", &[NET, more], &[NET]).children(2),
        scenario("C1 again", &[NET, NET], &[NET]).children(2),
        scenario("C2 C3", &[NET, down], &[NET]).lossy(None, 1),
        scenario("C12", &[NET, more], &[more, Down]).lossy(0, 0),
    ]);
}

#[test]
fn a_child_that_expires_while_it_is_rekeyed() {
    let expire = ExpireChild("net");
    run(vec![
        Scenario::new("expiry", &[NET], &[expire]).lossy(None, None),
        Scenario::new("expiry of what we rekey", &[NET, expire], &[]).lossy(None, None),
        Scenario {
            faults: 1,
            ..Scenario::new("expiry of both", &[NET, expire], &[expire]).lossy(None, None)
        },
    ]);
}

#[test]
fn ike_rekeying_without_collision() {
    run(vec![
        Scenario::new("IKE rekey", &[RekeyIke], &[]),
        Scenario::new("IKE rekey by the responder", &[], &[RekeyIke]),
        Scenario::new("IKE rekey and back", &[RekeyIke, NET], &[]),
        Scenario {
            faults: 1,
            ..Scenario::new("IKE rekey three times", &[RekeyIke, RekeyIke, RekeyIke], &[])
        },
    ]);
}

/// K1, and with messages that come late or not at all K5 and K6.
#[test]
fn k1_k5_k6_both_rekey_the_ike_sa() {
    run(vec![
        Scenario::new("K1", &[RekeyIke], &[RekeyIke]),
        far(Scenario::new("K1", &[RekeyIke], &[RekeyIke])),
        Scenario { faults: 1, ..Scenario::new("K5", &[RekeyIke, RekeyIke], &[RekeyIke]) },
        Scenario { faults: 1, ..Scenario::new("K1 and children", &[RekeyIke, NET], &[RekeyIke, NET]) },
    ]);
}

#[test]
fn k1_the_lowest_nonce_loses() {
    let scenario = |(n, (nonces, loses)): (usize, ([Nonces; 2], usize))| Scenario {
        nonces: Some(nonces),
        loses: Some(loses),
        faults: 1,
        ..Scenario::new(format!("K1 nonces {n}"), &[RekeyIke], &[RekeyIke])
    };
    run(LOWEST.into_iter().enumerate().map(scenario).collect());
}

#[test]
fn k2_k3_k4_one_rekeys_the_ike_sa_that_the_other_deletes() {
    run(vec![
        Scenario::new("K2", &[Down], &[RekeyIke]).lossy(0, 0),
        Scenario::new("K3", &[RekeyIke], &[Down]).lossy(0, 0),
        Scenario { faults: 1, ..Scenario::new("K3 of both", &[RekeyIke, Down], &[RekeyIke]).lossy(0, 0) },
        Scenario::new("K4", &[Down], &[Down]).lossy(0, 0),
    ]);
}

#[test]
fn c9_c10_one_rekeys_a_child_the_other_the_ike_sa() {
    let more = |name, a: &[Command], b: &[Command]| Scenario {
        sides: two_children,
        before: Some(UpChild("net")),
        ..Scenario::new(name, a, b)
    };
    run(vec![
        Scenario::new("C9", &[NET], &[RekeyIke]),
        Scenario::new("C10", &[RekeyIke], &[NET]),
        far(Scenario::new("C9", &[NET], &[RekeyIke])),
        more("C9 create", &[UpChild("more")], &[RekeyIke]).children(2),
        more("C10 create", &[RekeyIke], &[UpChild("more")]).children(2),
        Scenario { faults: 1, ..Scenario::new("C9 and both", &[NET, RekeyIke], &[RekeyIke, NET]) },
    ]);
}

#[test]
fn c11_one_deletes_a_child_the_other_rekeys_the_ike_sa() {
    let down = DownChild("net");
    let scenario = |name, a: &[Command], b: &[Command]| Scenario {
        sides: two_children,
        ..Scenario::new(name, a, b).lossy(1, 1)
    };
    run(vec![
        scenario("C11", &[RekeyIke], &[down]),
        scenario("C11 by the responder", &[down], &[RekeyIke]),
        Scenario { faults: 1, ..scenario("C11 of both", &[RekeyIke, down], &[down, RekeyIke]) },
    ]);
}

/// Standards 5.5: the SA does not exist until the last IKE_FOLLOWUP_KE.
#[test]
fn several_key_exchanges() {
    let with = |sides, name: &str, a: &[Command], b: &[Command]| Scenario {
        sides,
        faults: 1,
        ..Scenario::new(format!("5.5 {name}"), a, b)
    };
    let (down, s, m) = (DownChild("net"), several_methods as fn() -> _, mixed_methods as fn() -> _);
    run(vec![
        with(s, "child", &[NET], &[]),
        with(s, "IKE", &[RekeyIke], &[]),
        with(s, "C1", &[NET], &[NET]),
        with(m, "C1 mixed", &[NET], &[NET]),
        with(s, "C2", &[down], &[NET]).lossy(None, 0),
        with(s, "C3", &[NET], &[down]).lossy(None, 0),
        with(s, "C9", &[NET], &[RekeyIke]),
        with(s, "C12", &[NET], &[Down]).lossy(0, 0),
        with(s, "K1", &[RekeyIke], &[RekeyIke]),
        with(s, "K3", &[RekeyIke], &[Down]).lossy(0, 0),
    ]);
}

#[test]
fn several_key_exchanges_the_lowest_nonce_loses() {
    let scenario = |ike: bool| {
        move |(n, (nonces, loses)): (usize, ([Nonces; 2], usize))| {
            let command = if ike { RekeyIke } else { NET };
            let name = format!("5.5 {} nonces {n}", if ike { "K1" } else { "C1" });
            let scenario = Scenario::new(name, &[command], &[command]);
            Scenario {
                nonces: Some(nonces),
                loses: Some(loses),
                faults: 0,
                sides: several_methods,
                ..scenario
            }
        }
    };
    let all = [scenario(false), scenario(true)];
    run(all.iter().flat_map(|one| LOWEST.into_iter().enumerate().map(one)).collect());
}

/// Standards 5.7, and K8 where the old IKE SA is rekeyed or used meanwhile.
#[test]
fn k8_reauthentication() {
    let anew = Reauthenticate;
    let scenario = |name, a: &[Command], b: &[Command]| Scenario { faults: 1, ..Scenario::new(name, a, b) };
    run(vec![
        scenario("5.7", &[anew], &[]),
        far(scenario("5.7", &[anew], &[])),
        scenario("K8 child", &[anew], &[NET]),
        scenario("K8 IKE SA", &[anew], &[RekeyIke]),
        scenario("K8 and the end", &[anew], &[Down]).lossy(None, None),
    ]);
}

#[test]
fn k7_both_begin_at_once() {
    let scenario = |name| Scenario { before: None, ..Scenario::new(name, &[Up], &[Up]).lossy(None, None) };
    run(vec![scenario("K7"), far(scenario("K7"))]);
}
