//! Holes in the path, and what a test of a tunnel tells, on a virtual clock.

use super::*;

/// As [`talk`], on a way that swallows IPv4 packets of more than `largest` octets, and for as long as it takes.
fn talk_through_a_hole(now: &mut Instant, a: &mut Side, b: &mut Side, largest: usize, time: Duration) {
    let end = *now + time;
    while exchange(now, a, b, largest, end) {}
    *now = end;
}

/// One turn of both, and the time until the next if they have nothing to say. `false`: there is none before the end.
fn exchange(now: &mut Instant, a: &mut Side, b: &mut Side, largest: usize, end: Instant) -> bool {
    a.turn(*now);
    b.turn(*now);
    let (from_a, from_b) = (a.sent(), b.sent());
    let quiet = from_a.is_empty() && from_b.is_empty();
    for (to, from) in [(&*b, from_a), (&*a, from_b)] {
        for (local, remote, datagram) in from {
            let marker = if local.port() == 4500 { 4 } else { 0 };
            if datagram.len() + 20 + 8 + marker <= largest {
                let event = NetEvent::Ike { local: remote, remote: local, datagram };
                to.daemon.inbox.deliver(event, &to.queue);
            }
        }
    }
    if quiet {
        let next = [a.daemon.poll_timeout(), b.daemon.poll_timeout()].into_iter().flatten().min();
        let Some(next) = next.filter(|next| *next <= end) else { return false };
        *now = next.max(*now);
    }
    true
}

fn limits(side: &Side) -> Vec<Option<u16>> {
    let deeds = side.deeds.all();
    let limits = deeds.iter().filter_map(|deed| match deed {
        Deed::LimitPath(remote, limit) => {
            assert_eq!(remote.to_string(), "192.0.2.2");
            Some(*limit)
        }
        _ => None,
    });
    limits.collect()
}

fn configured(own: &str, peer: &str, probes: bool) -> crate::config::Configuration {
    let text = text(own, peer, SECRET, if own == "1" { "start_action = start" } else { "" });
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("swanctl.conf");
    let probing = if probes { "probe_path = yes" } else { "" };
    std::fs::write(&file, text.replace("dpd_delay = 10s", probing)).unwrap();
    crate::config::load(&file).unwrap_or_else(|error| panic!("{error}"))
}

/// Of which the first begins, and probes the path.
fn probing_pair(now: Instant) -> (Side, Side) {
    let (mut a, mut b) = (Side::unconfigured(now), Side::unconfigured(now));
    a.configure(now, configured("1", "2", true)).unwrap();
    b.configure(now, configured("2", "1", false)).unwrap();
    (a, b)
}

#[test]
fn a_hole_in_the_path_is_heeded_for_as_long_as_it_is_there() {
    let mut now = Instant::now();
    let (mut a, mut b) = probing_pair(now);
    let minute = Duration::from_secs(60);
    talk_through_a_hole(&mut now, &mut a, &mut b, 1300, minute);
    assert_eq!(limits(&a), [Some(1300)]);
    assert_eq!(limits(&b), [], "who does not ask for it probes nothing");
    // Ten minutes later it is looked at again: nothing has changed.
    talk_through_a_hole(&mut now, &mut a, &mut b, 1300, 11 * minute);
    assert_eq!(limits(&a), [Some(1300)]);
    let health = a.daemon.health(now, "gw");
    assert!(matches!(&health[..], [one] if one.path_limit == Some(1300)), "{health:?}");
    talk_through_a_hole(&mut now, &mut a, &mut b, 1500, 11 * minute);
    assert_eq!(limits(&a), [Some(1300), None]);
    talk_through_a_hole(&mut now, &mut a, &mut b, 1200, 11 * minute);
    assert_eq!(limits(&a), [Some(1300), None, Some(1200)]);
    // Nobody wants it any more.
    a.configure(now, configured("1", "2", false)).unwrap();
    talk_through_a_hole(&mut now, &mut a, &mut b, 1200, minute);
    assert_eq!(limits(&a), [Some(1300), None, Some(1200), None]);
    assert_eq!(a.installed_ids().len(), 1, "the SA is what it was");
}

#[test]
fn a_test_tells_each_step() {
    let mut now = Instant::now();
    let (mut a, mut b) = pair(now, SECRET);
    talk(now, &mut a, &mut b);
    let mut captured = a.command(now, "test", &[("ike", "gw"), ("commission", "yes")]);
    talk_through_a_hole(&mut now, &mut a, &mut b, 1400, Duration::from_secs(60));
    let (steps, answer) = answer(&mut captured);
    let told: Vec<_> = steps
        .iter()
        .map(|step| ["step", "result", "code"].map(|key| step.text(key).unwrap_or_default().into_owned()))
        .collect();
    let told: Vec<[&str; 3]> = told.iter().map(|step| step.each_ref().map(String::as_str)).collect();
    assert_eq!(
        told,
        [
            ["liveness", "pass", "ok"],
            ["path", "fail", "path-mtu"],
            // The data plane of this test says that three packets have arrived, and none has left.
            ["traffic", "fail", "nothing-enters"],
            ["rekey-child", "pass", "ok"],
            ["rekey-ike", "pass", "ok"],
            ["liveness", "pass", "ok"],
            ["delete", "pass", "ok"],
            ["establish", "pass", "ok"],
        ]
    );
    assert!(steps[1].text("message").unwrap().contains("1400"), "{:?}", steps[1]);
    assert_eq!(answer.text("passed").as_deref(), Some("no"));
    // What is not there cannot be tried.
    for arguments in
        [&[("ike", "none")][..], &[("ike", "gw"), ("child", "none")], &[], &[("ike", "gw"), ("ping", "x")]]
    {
        let mut captured = a.command(now, "test", arguments);
        assert_eq!(self::answer(&mut captured).1.text("success").as_deref(), Some("no"), "{arguments:?}");
    }
    assert!(limits(&a).is_empty(), "a test finds out and changes nothing");
}

/// Another way is looked at soon, and so is one that a search could learn nothing about.
#[test]
fn a_way_that_changes_is_looked_at_again() {
    let mut now = Instant::now();
    let (mut a, mut b) = probing_pair(now);
    let minute = Duration::from_secs(60);
    talk_through_a_hole(&mut now, &mut a, &mut b, 1300, minute);
    assert_eq!(limits(&a), [Some(1300)]);
    let sa = a.daemon.gateway.ike_sas().next().unwrap();
    let child = sa.children.first().unwrap().handle;
    // From another address of ours.
    a.daemon.path_has_moved(now, child, sa.remote.ip());
    talk_through_a_hole(&mut now, &mut a, &mut b, 1200, Duration::from_millis(500));
    let (ike_sa, local, remote) = (sa.handle, sa.local, sa.remote);
    let result = adit_ike::Probed::Abandoned;
    a.daemon.path_probed(now, adit_ike::PathProbe { ike_sa, local, remote, size: 1500, result });
    talk_through_a_hole(&mut now, &mut a, &mut b, 1200, minute);
    assert_eq!(limits(&a), [Some(1300), Some(1200)]);
}

/// Of two that ask on one IKE SA, each gets its own answers.
#[test]
fn a_test_during_a_search_changes_nothing_about_what_is_found() {
    let mut now = Instant::now();
    let (mut a, mut b) = probing_pair(now);
    // The first large probe is on its way.
    talk_through_a_hole(&mut now, &mut a, &mut b, 1300, Duration::from_millis(500));
    assert_eq!((a.installs().len(), limits(&a)), (1, Vec::new()));
    let mut captured = a.command(now, "test", &[("ike", "gw")]);
    talk_through_a_hole(&mut now, &mut a, &mut b, 1300, Duration::from_secs(60));
    assert_eq!(limits(&a), [Some(1300)]);
    let (steps, _) = answer(&mut captured);
    let path = steps.iter().find(|step| step.text("step").as_deref() == Some("path")).unwrap();
    assert!(path.text("message").unwrap().contains("packets of 1300 octets get through"), "{path:?}");
}

/// Who stops looking leaves no tunnel behind that is down.
#[test]
fn what_a_test_took_down_comes_up_again_though_nobody_looks() {
    let mut now = Instant::now();
    let mut a = Side::new(now, "1", "2", SECRET, "");
    let mut b = Side::new(now, "2", "1", SECRET, "");
    a.command(now, "initiate", &[("ike", "gw"), ("child", "net")]);
    talk(now, &mut a, &mut b);
    let name = ChildName::new("gw", "net");
    assert_eq!(a.daemon.reconciler.sas(&name).len(), 1);
    let mut captured = a.command(now, "test", &[("ike", "gw"), ("commission", "yes")]);
    let end = now + Duration::from_secs(60);
    let mut told = 0;
    // Up to the second look whether the peer lives; then the child goes.
    while told < 6 {
        assert!(exchange(&mut now, &mut a, &mut b, 1500, end), "{told} steps");
        told += captured.packets().len();
    }
    drop(captured);
    talk_through_a_hole(&mut now, &mut a, &mut b, 1500, Duration::from_secs(60));
    assert_eq!(a.removed().len(), 2, "it was rekeyed, and taken down");
    assert_eq!(a.daemon.reconciler.sas(&name).len(), 1);
}
