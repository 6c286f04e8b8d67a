//! Orders of operators: whom they are about, and whom not.

use super::*;

fn configured(text: &str) -> crate::config::Configuration {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("swanctl.conf");
    std::fs::write(&file, text).unwrap();
    crate::config::load(&file).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn who_is_not_named_is_not_held() {
    let mut now = Instant::now();
    let (mut a, mut b) = pair(now, SECRET);
    talk(now, &mut a, &mut b);
    let number = a.daemon.gateway.ike_sas().next().unwrap().handle.0.to_string();
    // By the number of an IKE SA, and a name that belongs to something else.
    for other in [("child", "other"), ("ike", "other")] {
        let (_, refused) = answer(&mut a.command(now, "terminate", &[("ike-id", &number), other]));
        assert_eq!(refused.text("errmsg").as_deref(), Some("no matching SAs to terminate found"));
    }
    now += Duration::from_secs(60);
    b.command(now, "terminate", &[("ike", "gw")]);
    talk(now, &mut a, &mut b);
    assert_eq!(a.removed().len(), 1);
    now = a.daemon.reconciler.poll_timeout().expect("it is brought back");
    talk(now, &mut a, &mut b);
    assert_eq!((a.installs().len(), a.removed().len()), (2, 1));
}

#[test]
fn a_child_without_its_connection_is_that_of_the_first_in_the_file() {
    let mut now = Instant::now();
    let gw = text("1", "2", SECRET, "start_action = start");
    // Behind it in the file, and before it by the alphabet.
    let second = gw.replace("gw {", "a {").replace("192.0.2.2", "192.0.2.9").replace("= start", "= none");
    let mut a = Side::unconfigured(now);
    let second = second.split("secrets {").next().unwrap();
    a.configure(now, configured(&format!("{gw}\n{second}"))).unwrap();
    assert_eq!(a.daemon.connections.first().unwrap().name, "gw");
    let mut b = Side::new(now, "2", "1", SECRET, "");
    talk(now, &mut a, &mut b);
    a.command(now, "terminate", &[("child", "net")]);
    talk(now, &mut a, &mut b);
    a.command(now, "initiate", &[("child", "net")]);
    let gw = ChildName::new("gw", "net");
    let outlook = a.daemon.reconciler.outlook(&ChildName::new("a", "net"));
    assert_eq!(outlook, reconciler::Outlook::Held);
    talk(now, &mut a, &mut b);
    assert_eq!(a.daemon.reconciler.sas(&gw).len(), 1);
    now += Duration::from_secs(60);
    b.command(now, "terminate", &[("ike", "gw")]);
    talk(now, &mut a, &mut b);
    assert!(a.daemon.reconciler.wanted(&gw).next.is_some(), "it is wanted again, so it comes back");
}

/// Somebody applied what shuts him out: the way back does not rest on one attempt.
#[test]
fn the_configuration_before_comes_back_though_the_system_refuses_at_first() {
    let mut now = Instant::now();
    let mut a = Side::new(now, "1", "2", SECRET, "");
    let mut sent = Message::new();
    let mut files = Message::new();
    files.put_list("other.conf", [text("1", "3", SECRET, "")]);
    sent.put("file", "other.conf").put("confirm", "60").put_section("files", files);
    let mut applied = a.request(now, "apply", sent);
    let load = a.loads.blocking_recv().unwrap();
    a.daemon.load(now, load);
    assert!(answer(&mut applied).1.flag("success"));
    let peer = |side: &Side| side.daemon.connections.first().unwrap().remote_addrs.first().unwrap().single();
    assert_eq!(peer(&a), Some([192, 0, 2, 3].into()));
    a.deeds.world().refuse_policies = true;
    now += Duration::from_secs(60);
    a.turn(now);
    assert_eq!(peer(&a), Some([192, 0, 2, 3].into()));
    a.deeds.world().refuse_policies = false;
    now = a.daemon.poll_timeout().unwrap();
    a.turn(now);
    assert_eq!(peer(&a), Some([192, 0, 2, 2].into()));
    assert!(!answer(&mut a.command(now, "confirm", &[])).1.flag("success"), "nothing waits any more");
}
