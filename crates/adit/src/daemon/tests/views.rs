//! Whoever looks at a daemon, by whichever way, is told the same.

use serde_json::Value;

use super::*;

/// As `text`, with a second child that the other side has not, or that nothing starts.
fn two_children(own: &str, peer: &str, net: &str, lab: &str) -> String {
    let lab = format!(
        "children {{ lab {{ local_ts = 10.1{own}.0.0/16\n remote_ts = 10.1{peer}.0.0/16\n {lab} }}\n"
    );
    text(own, peer, SECRET, net).replace("children {", &lab)
}

impl Side {
    /// The snapshot as a program gets it.
    fn shown(&mut self, now: Instant) -> Value {
        serde_json::to_value(self.daemon.look(now)).unwrap()
    }
}

#[test]
fn a_failure_stays_until_its_own_child_succeeds() {
    let now = Instant::now();
    let mut a = Side::new(now, "1", "2", SECRET, "");
    let mut b = Side::new(now, "2", "1", SECRET, "");
    reload(&mut a, now, &two_children("1", "2", "", ""));
    a.command(now, "initiate", &[("ike", "gw"), ("child", "lab")]);
    talk(now, &mut a, &mut b);
    a.command(now, "initiate", &[("ike", "gw"), ("child", "net")]);
    talk(now, &mut a, &mut b);

    let shown = a.shown(now);
    let connection = &shown["connections"][0];
    let children = connection["children"].as_array().unwrap();
    let child = |name: &str| children.iter().find(|child| child["name"] == name).unwrap();
    assert_eq!((&child("net")["up"], &child("lab")["up"]), (&Value::from(true), &Value::from(false)));
    assert_eq!(child("lab")["reason"], "ts-unacceptable");
    let (explained, _) = answer(&mut a.command(now, "explain", &[("ike", "gw"), ("child", "lab")]));
    for (ours, theirs) in [("code", "code"), ("message", "cause"), ("step", "step")] {
        let told = explained[0].text(theirs).unwrap();
        assert_eq!(connection["last_failure"][ours].as_str(), Some(&*told), "{ours}: {shown}");
    }

    // Once the peer has it as well, all is well.
    reload(&mut b, now, &two_children("2", "1", "", ""));
    a.command(now, "initiate", &[("ike", "gw"), ("child", "lab")]);
    talk(now, &mut a, &mut b);
    assert!(a.shown(now)["connections"][0]["last_failure"].is_null());
}
