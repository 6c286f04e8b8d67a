//! Two daemons without an operating system: a wire made of a list, data planes that write down their orders, and
//! time that passes when a test says so.

mod hostile;
mod orders;
mod paths;
mod pushed;
mod secrets;
mod turns;
mod views;

use adit_net::Stats;

use super::deeds::{Datagram, Deed, Deeds};
use super::reload::Changes;
use super::*;
use crate::control::server::Captured;
use crate::control::vici::{Message, Packet};

struct Side {
    daemon: Daemon,
    deeds: Deeds,
    inbox: mpsc::UnboundedReceiver<NetEvent>,
    queue: mpsc::UnboundedSender<NetEvent>,
    loads: mpsc::UnboundedReceiver<Load>,
    answered: mpsc::UnboundedReceiver<Answer>,
    counted: mpsc::UnboundedReceiver<Stats>,
}

fn text(own: &str, peer: &str, secret: &str, child: &str) -> String {
    format!(
        "connections {{ gw {{
           local_addrs = 192.0.2.{own}
           remote_addrs = 192.0.2.{peer}
           dpd_delay = 10s
           local {{ auth = psk
             id = gw{own}.example }}
           remote {{ auth = psk
             id = gw{peer}.example }}
           children {{ net {{
             local_ts = 10.{own}.0.0/16
             remote_ts = 10.{peer}.0.0/16
             {child} }} }}
         }} }}
         secrets {{ ike-1 {{ secret = {secret} }} }}"
    )
}

fn configuration(own: &str, peer: &str, secret: &str, child: &str) -> crate::config::Configuration {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("swanctl.conf");
    std::fs::write(&file, text(own, peer, secret, child)).unwrap();
    crate::config::load(&file).unwrap_or_else(|error| panic!("{error}"))
}

impl Side {
    fn new(now: Instant, own: &str, peer: &str, secret: &str, child: &str) -> Self {
        let mut side = Self::unconfigured(now);
        side.configure(now, configuration(own, peer, secret, child)).unwrap();
        side
    }

    fn unconfigured(now: Instant) -> Self {
        // How long the way is drained is the gateway's business, and proved there.
        let settings = Settings { drain: Duration::ZERO, ..Settings::default() };
        let gateway = Gateway::new(settings, Box::new(SystemEntropy), now);
        let deeds = Deeds::default();
        let (queue, inbox) = mpsc::unbounded_channel();
        let (loaded, loads) = mpsc::unbounded_channel();
        let (answers, answered) = mpsc::unbounded_channel();
        let (counts, counted) = mpsc::unbounded_channel();
        let outside = Outside {
            backend: Box::new(deeds.clone()),
            wire: Box::new(deeds.clone()),
            loader: Loader::new(PathBuf::from("/nonexistent/swanctl.conf"), false, loaded),
            resolver: Box::new(deeds.clone()),
            answers,
            counts,
        };
        let daemon = Daemon::new(gateway, outside, Hub::default(), Inbox::default(), None);
        Self { daemon, deeds, inbox, queue, loads, answered, counted }
    }

    fn configure(
        &mut self,
        now: Instant,
        configuration: crate::config::Configuration,
    ) -> Result<Changes, configuration::Refused> {
        self.daemon.section = Some(configuration.gateway.clone());
        self.daemon.configure(now, configuration.into())
    }

    /// One turn of the event loop.
    fn turn(&mut self, now: Instant) {
        while let Ok(event) = self.inbox.try_recv() {
            self.daemon.net_event(now, event);
            self.daemon.drain(now);
        }
        self.daemon.handle_timeout(now);
        self.daemon.drain(now);
    }

    /// Datagrams since the last call.
    fn sent(&self) -> Vec<Datagram> {
        self.deeds.sent()
    }

    fn command(&mut self, now: Instant, command: &str, arguments: &[(&str, &str)]) -> Captured {
        let mut message = Message::new();
        for (key, value) in arguments {
            message.put(key, value);
        }
        self.request(now, command, message)
    }

    fn request(&mut self, now: Instant, command: &str, message: Message) -> Captured {
        let (reply, captured) = Captured::reply();
        let slow = self.deeds.world().slow_kernel.is_some();
        self.daemon.command(now, Request { command: command.into(), arguments: message, reply });
        if !slow {
            self.count(now);
        }
        // Those whose clients read, as these do.
        for _ in 0..1000 {
            captured.has_read();
            self.daemon.list_on(now);
        }
        captured
    }

    /// Lets the kernel say what it has counted, if it is asked.
    fn count(&mut self, now: Instant) {
        if self.daemon.counts.due.is_some() {
            let stats = self.counted.blocking_recv().unwrap();
            self.daemon.counted(now, stats);
        }
    }

    fn installs(&self) -> Vec<(u64, u32, u32)> {
        let deeds = self.deeds.all();
        let installs = deeds.iter().filter_map(|deed| match deed {
            Deed::Install { id, inbound, outbound } => Some((*id, *inbound, *outbound)),
            _ => None,
        });
        installs.collect()
    }

    fn removed(&self) -> Vec<u64> {
        let deeds = self.deeds.all();
        let removes = deeds.iter().filter_map(|deed| match deed {
            Deed::Remove(id) => Some(*id),
            _ => None,
        });
        removes.collect()
    }

    fn installed_ids(&self) -> Vec<u64> {
        self.installs().into_iter().map(|(id, ..)| id).collect()
    }
}

/// Lets both talk until nobody has anything to say.
fn talk(now: Instant, a: &mut Side, b: &mut Side) {
    for _ in 0..100 {
        a.turn(now);
        b.turn(now);
        let (from_a, from_b) = (a.sent(), b.sent());
        if from_a.is_empty() && from_b.is_empty() {
            return;
        }
        for (to, from) in [(&*b, from_a), (&*a, from_b)] {
            for (local, remote, datagram) in from {
                let event = NetEvent::Ike { local: remote, remote: local, datagram };
                to.daemon.inbox.deliver(event, &to.queue);
            }
        }
    }
    panic!("they never stop talking");
}

/// The answer, and the events before it.
fn answer(captured: &mut Captured) -> (Vec<Message>, Message) {
    let mut packets = captured.packets();
    let Some(Packet::Response(answer)) = packets.pop() else { panic!("no answer") };
    let events = packets.into_iter().map(|packet| match packet {
        Packet::Event { message, .. } => message,
        other => panic!("{other:?}"),
    });
    (events.collect(), answer)
}

fn pair(now: Instant, secret_of_b: &str) -> (Side, Side) {
    let a = Side::new(now, "1", "2", "0sSGVsbG8gd29ybGQ=", "start_action = start");
    (a, Side::new(now, "2", "1", secret_of_b, ""))
}

const SECRET: &str = "0sSGVsbG8gd29ybGQ=";

#[test]
fn a_child_is_started_and_installed_on_both_sides() {
    let now = Instant::now();
    let (mut a, mut b) = pair(now, SECRET);
    talk(now, &mut a, &mut b);
    let (of_a, of_b) = (a.installs(), b.installs());
    let ([(_, a_in, a_out)], [(_, b_in, b_out)]) = (&of_a[..], &of_b[..]) else {
        panic!("{of_a:?} {of_b:?}")
    };
    assert_eq!((a_in, a_out), (b_out, b_in));
    for side in [&a, &b] {
        let deeds = side.deeds.all();
        assert!(
            matches!(&deeds[0], Deed::Policies(names) if names == &["gw/net"]),
            "protected before anything"
        );
    }
    let deeds = b.deeds.all();
    assert!(
        matches!(deeds[..], [.., Deed::Install { .. }, Deed::Send { .. }]),
        "the responder installs before its answer lets the peer send"
    );
    assert_eq!(a.daemon.reconciler.poll_timeout(), None, "nothing is left to start");

    let (events, _) = answer(&mut a.command(now, "list-sas", &[]));
    let sa = events[0].section("gw").unwrap();
    assert_eq!(sa.text("state").as_deref(), Some("ESTABLISHED"));
    assert_eq!(sa.text("remote-id").as_deref(), Some("gw2.example"));
    let (_, child) = sa.section("child-sas").unwrap().sections().next().unwrap();
    assert_eq!(child.text("state").as_deref(), Some("INSTALLED"));
    assert_eq!((child.text("reqid").as_deref(), child.text("bytes-in").as_deref()), (Some("1"), Some("252")));
    let ikes = answer(&mut a.command(now, "stats", &[])).1;
    assert_eq!(ikes.section("ikesas").unwrap().text("total").as_deref(), Some("1"));
    for (arguments, expected) in [
        (&[("ike", "gw")][..], 1),
        (&[("ike", "other")], 0),
        (&[("child", "net")], 1),
        (&[("child", "other")], 0),
        (&[("ike-id", "999")], 0),
    ] {
        let (events, _) = answer(&mut a.command(now, "list-sas", arguments));
        assert_eq!(events.len(), expected, "{arguments:?}");
    }
}

#[test]
fn an_operator_takes_it_down_and_up_again() {
    let now = Instant::now();
    let (mut a, mut b) = pair(now, SECRET);
    talk(now, &mut a, &mut b);
    let mut down = a.command(now, "terminate", &[("ike", "gw")]);
    talk(now, &mut a, &mut b);
    let (_, down) = answer(&mut down);
    assert_eq!(down.text("success").as_deref(), Some("yes"), "{down:?}");
    assert_eq!(down.text("matches").as_deref(), Some("1"));
    assert_eq!((a.removed(), b.removed()), (a.installed_ids(), b.installed_ids()));
    assert_eq!((a.removed().len(), b.removed().len()), (1, 1));
    let (_, again) = answer(&mut a.command(now, "terminate", &[("ike", "gw")]));
    assert_eq!(again.text("errmsg").as_deref(), Some("no matching SAs to terminate found"));

    // The other side, too, can bring it up.
    let mut up = b.command(now, "initiate", &[("child", "net"), ("ike", "gw")]);
    talk(now, &mut a, &mut b);
    let (_, up) = answer(&mut up);
    assert_eq!(up.text("success").as_deref(), Some("yes"), "{up:?}");
    assert_eq!((a.installs().len(), b.installs().len()), (2, 2));
}

#[test]
fn what_the_peer_takes_down_is_brought_back_and_what_an_operator_takes_down_is_not() {
    let mut now = Instant::now();
    let (mut a, mut b) = pair(now, SECRET);
    talk(now, &mut a, &mut b);
    now += Duration::from_secs(60);
    b.command(now, "terminate", &[("ike", "gw")]);
    talk(now, &mut a, &mut b);
    assert_eq!((a.installs().len(), a.removed().len()), (1, 1));
    now = a.daemon.reconciler.poll_timeout().unwrap();
    talk(now, &mut a, &mut b);
    assert_eq!((a.installs().len(), a.removed().len()), (2, 1));
    // By the number of the IKE SA or of the child, too.
    let number = a.daemon.gateway.ike_sas().next().unwrap().handle.0.to_string();
    a.command(now, "terminate", &[("ike-id", &number)]);
    talk(now, &mut a, &mut b);
    assert_eq!((a.installs().len(), a.removed().len()), (2, 2));
    assert_eq!(a.daemon.reconciler.poll_timeout(), None);
}

#[test]
fn a_trap_is_sprung_by_a_packet() {
    let now = Instant::now();
    let mut a = Side::new(now, "1", "2", SECRET, "start_action = trap");
    let mut b = Side::new(now, "2", "1", SECRET, "");
    talk(now, &mut a, &mut b);
    assert!(a.sent().is_empty(), "nothing is brought up before there is a packet");
    for policy in [PolicyId(99), PolicyId(1), PolicyId(1)] {
        a.daemon.net_event(now, NetEvent::Acquire { policy });
    }
    talk(now, &mut a, &mut b);
    assert_eq!((a.installs().len(), b.installs().len()), (1, 1));
}

#[test]
fn taken_down_during_the_handshake_it_does_not_come_up() {
    let now = Instant::now();
    let (mut a, mut b) = pair(now, SECRET);
    a.turn(now);
    let (_, answer) = answer(&mut a.command(now, "terminate", &[("child", "net"), ("ike", "gw")]));
    assert_eq!(answer.text("matches").as_deref(), Some("0"));
    talk(now, &mut a, &mut b);
    assert_eq!((a.removed(), b.removed()), (a.installed_ids(), b.installed_ids()));
    assert_eq!(a.daemon.reconciler.poll_timeout(), None);
}

/// `text` as the file that is read again.
fn reload(side: &mut Side, now: Instant, text: &str) -> Message {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("swanctl.conf");
    std::fs::write(&file, text).unwrap();
    side.daemon.loaded(now, crate::config::load(&file))
}

#[test]
fn a_reload_touches_only_what_changed() {
    let mut now = Instant::now();
    let (mut a, mut b) = pair(now, SECRET);
    talk(now, &mut a, &mut b);
    now += Duration::from_secs(60);
    let text = |child: &str, more: &str, secret: &str| {
        let (connection, rest) = text("1", "2", secret, child)
            .split_once("children {")
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .unwrap();
        format!("{connection}children {{ {more}{rest}")
    };
    const START: &str = "start_action = start";
    let list =
        |answer: &Message, key: &str| answer.list(key).map(|name| name.into_owned()).collect::<Vec<_>>();

    let nothing = reload(&mut a, now, &text(START, "", SECRET));
    assert_eq!(nothing.text("summary").as_deref(), Some("nothing has changed"), "{nothing:?}");
    let added = reload(
        &mut a,
        now,
        &text(START, "more { local_ts = 10.1.0.0/16\n remote_ts = 10.9.0.0/16 }\n", SECRET),
    );
    assert_eq!(list(&added, "added"), ["gw/more"]);
    assert!(matches!(a.deeds.all().last(), Some(Deed::Policies(names)) if names.len() == 2));
    talk(now, &mut a, &mut b);
    assert_eq!((a.installs().len(), a.removed().len()), (1, 0), "what is up stays");
    // With errors nothing changes, and all of them are told.
    let before = a.deeds.all().len();
    let bad = reload(&mut a, now, &text("replay_window = x\n mode = y", "", SECRET));
    assert_eq!((bad.text("success").as_deref(), list(&bad, "errors").len()), (Some("no"), 2), "{bad:?}");
    talk(now, &mut a, &mut b);
    assert_eq!(a.deeds.all().len(), before);
    // A child that is not the same goes and comes again, with the IKE SA it has.
    let ike_sa = a.daemon.gateway.ike_sas().next().unwrap().handle;
    let changed = reload(&mut a, now, &text("start_action = start\n replay_window = 64", "", SECRET));
    assert_eq!(
        (list(&changed, "changed"), list(&changed, "removed")),
        (vec!["gw/net".into()], vec!["gw/more".into()])
    );
    talk(now, &mut a, &mut b);
    assert_eq!((a.installs().len(), a.removed().len()), (2, 1));
    assert_eq!(a.daemon.gateway.ike_sas().map(|sa| sa.handle).collect::<Vec<_>>(), [ike_sa]);
    // A secret that is no longer there ends what rests on it, and there is no other now.
    let other = reload(&mut a, now, &text("start_action = start\n replay_window = 64", "", "another"));
    assert_eq!(list(&other, "changed"), ["gw"]);
    talk(now, &mut a, &mut b);
    assert_eq!((a.installs().len(), a.removed().len()), (2, 2));
    assert!(a.daemon.reconciler.poll_timeout().is_some(), "it is tried again");
    // All of it gone.
    let gone = reload(&mut a, now, "");
    assert_eq!(list(&gone, "removed"), ["gw"]);
    assert!(matches!(a.deeds.all().last(), Some(Deed::Policies(names)) if names.is_empty()));
    assert_eq!(a.daemon.reconciler.poll_timeout(), None);
}

#[test]
fn a_reload_in_mid_handshake_lets_it_end() {
    let now = Instant::now();
    let (mut a, mut b) = pair(now, SECRET);
    a.turn(now);
    reload(&mut a, now, &text("1", "2", SECRET, "start_action = start"));
    talk(now, &mut a, &mut b);
    assert_eq!((a.installs().len(), b.installs().len()), (1, 1));
    assert_eq!(a.daemon.gateway.ike_sas().count(), 1);
    // If the connection has changed meanwhile, it begins again instead.
    let (mut a, mut b) = pair(now, SECRET);
    a.turn(now);
    reload(
        &mut a,
        now,
        &text("1", "2", SECRET, "start_action = start").replace("dpd_delay = 10s", "childless = never"),
    );
    talk(now, &mut a, &mut b);
    assert_eq!((a.installs().len(), a.removed().len()), (1, 0));
    assert_eq!(a.daemon.gateway.ike_sas().count(), 1);
}

#[test]
fn an_interface_comes_before_its_policies_and_goes_after_them() {
    let now = Instant::now();
    let (mut a, mut b) = pair(now, SECRET);
    talk(now, &mut a, &mut b);
    let with = |lines: &str| {
        let text = text("1", "2", SECRET, "start_action = start");
        text.replace("dpd_delay = 10s", &format!("dpd_delay = 10s\n{lines}"))
    };
    let mut seen = a.deeds.all().len();
    let mut next = |a: &Side| {
        let all = a.deeds.all();
        let new = all[std::mem::replace(&mut seen, all.len())..].iter();
        let told = new.filter_map(|deed| match deed {
            Deed::Interfaces(names) => Some(format!("interfaces {}", names.join(" "))),
            Deed::Policies(names) => Some(format!("policies {}", names.len())),
            _ => None,
        });
        told.collect::<Vec<_>>()
    };
    // The SA of another interface is another SA; what is on its way keeps its policy until it is gone.
    reload(&mut a, now, &with("interface = vpn0"));
    assert_eq!(next(&a), ["interfaces vpn0", "policies 2", "policies 1", "interfaces vpn0"]);
    talk(now, &mut a, &mut b);
    assert_eq!((a.installs().len(), a.removed().len()), (2, 1));
    assert_eq!(a.daemon.policies.all()[0].interface.as_deref(), Some("vpn0"));
    // What else is said about it touches no SA.
    let changed = reload(&mut a, now, &with("interface = vpn0\n interface_addrs = 10.0.0.1/32"));
    assert_eq!(changed.list("changed").collect::<Vec<_>>(), ["gw"]);
    talk(now, &mut a, &mut b);
    assert_eq!((a.installs().len(), a.removed().len()), (2, 1));
    next(&a);
    // The old one is there until the new one is.
    reload(&mut a, now, &with("interface = vpn1"));
    assert_eq!(next(&a), ["interfaces vpn1 vpn0", "policies 2", "policies 1", "interfaces vpn1"]);
    // Someone deletes it.
    a.daemon.net_event(now, NetEvent::InterfaceLost);
    assert_eq!(next(&a), ["interfaces vpn1"]);
    // Someone else takes its name, for a while.
    a.deeds.world().refuse_interfaces = true;
    a.daemon.net_event(now, NetEvent::InterfaceLost);
    let mut later = now;
    for _ in 0..3 {
        later = a.daemon.interfaces_due.unwrap();
        assert!(a.daemon.poll_timeout().unwrap() <= later);
        a.daemon.handle_timeout(later);
    }
    assert!(next(&a).is_empty() && later > now);
    a.deeds.world().refuse_interfaces = false;
    later = a.daemon.interfaces_due.unwrap();
    a.daemon.handle_timeout(later);
    assert_eq!((next(&a), a.daemon.interfaces_due), (vec!["interfaces vpn1".to_owned()], None));
    // A system that refuses keeps what there was.
    a.deeds.world().refuse_policies = true;
    reload(&mut a, now, &with("interface = vpn2"));
    assert_eq!(next(&a), ["interfaces vpn2 vpn1", "interfaces vpn1"]);
}

#[test]
fn policies_that_the_system_refuses_leave_everything_as_it_was() {
    let now = Instant::now();
    let (mut a, mut b) = pair(now, SECRET);
    talk(now, &mut a, &mut b);
    a.deeds.world().refuse_policies = true;
    let refused = reload(&mut a, now, "");
    assert_eq!(refused.text("success").as_deref(), Some("no"));
    talk(now, &mut a, &mut b);
    assert_eq!((a.removed().len(), a.daemon.connections.len(), a.daemon.policies.all().len()), (0, 1, 1));
}

/// What a killed predecessor protected may go on when there is something to protect it by, not before.
#[test]
fn a_first_configuration_that_is_refused_lifts_nothing() {
    let now = Instant::now();
    let mut a = Side::unconfigured(now);
    a.deeds.world().refuse_policies = true;
    assert!(a.configure(now, configuration("1", "2", SECRET, "")).is_err());
    assert!(a.deeds.all().is_empty(), "{:?}", a.deeds.all());
}

#[test]
fn an_idle_child_goes_and_stays_away() {
    let start = Instant::now();
    let mut a = Side::new(start, "1", "2", SECRET, "start_action = start\n inactivity = 60s");
    let mut b = Side::new(start, "2", "1", SECRET, "");
    talk(start, &mut a, &mut b);
    let at = |seconds| start + Duration::from_secs(seconds);
    for side in [&a, &b] {
        side.deeds.world().last_in = Some(at(30));
    }
    for (seconds, removed) in [(60, 0), (89, 0), (90, 1), (500, 1)] {
        talk(at(seconds), &mut a, &mut b);
        assert_eq!((a.installs().len(), a.removed().len()), (1, removed), "after {seconds} s");
    }
}

#[test]
fn rekeying_on_demand_is_told_and_the_new_one_is_the_child() {
    let now = Instant::now();
    let (mut a, mut b) = pair(now, SECRET);
    talk(now, &mut a, &mut b);
    let mut listener = Captured::listener(&a.daemon.hub);
    let (_, at_once) = answer(&mut a.command(now, "rekey", &[("child", "net")]));
    assert!(at_once.flag("success") && at_once.text("matches").as_deref() == Some("1"), "{at_once:?}");
    talk(now, &mut a, &mut b);
    let rekeyed = listener.packets().into_iter().find_map(|packet| match packet {
        Packet::Event { name, message } if name == "child-rekey" => Some(message),
        _ => None,
    });
    let rekeyed = rekeyed.unwrap();
    let child = rekeyed.section("gw").unwrap().section("child-sas").unwrap().section("net").unwrap();
    let spi = |which: &str| child.section(which).unwrap().text("spi-in").unwrap().into_owned();
    let installs: Vec<String> = a.installs().iter().map(|(_, inbound, _)| format!("{inbound:08x}")).collect();
    assert_eq!([spi("old"), spi("new")], installs[..]);
    // Nothing is missing, so nothing is brought up; and an operator can still take it down.
    assert_eq!(a.daemon.reconciler.poll_timeout(), None);
    let mut waits = a.command(now, "rekey", &[("ike", "gw"), ("child", "net"), ("timeout", "0")]);
    talk(now, &mut a, &mut b);
    assert!(answer(&mut waits).1.flag("success"));
    assert_eq!(a.installs().len(), 3);
    // Authenticated anew, there is another IKE SA and another child, and nothing is brought up twice.
    let handle = |side: &Side| side.daemon.gateway.ike_sas().map(|sa| sa.handle).max();
    let before = handle(&a);
    let mut again = a.command(now, "rekey", &[("ike", "gw"), ("reauth", "yes"), ("timeout", "0")]);
    for second in 0..30 {
        talk(now + Duration::from_secs(second), &mut a, &mut b);
    }
    assert!(answer(&mut again).1.flag("success"));
    assert!(handle(&a) > before && a.daemon.gateway.ike_sas().count() == 1);
    assert_eq!((a.installs().len(), a.daemon.reconciler.poll_timeout()), (4, None));
    let now = now + Duration::from_secs(30);
    a.command(now, "terminate", &[("child", "net")]);
    talk(now, &mut a, &mut b);
    assert_eq!(a.daemon.reconciler.poll_timeout(), None);
    for (arguments, expected) in
        [(&[("child", "net")][..], "no matching SAs to rekey found"), (&[], "missing")]
    {
        let (_, refusal) = answer(&mut a.command(now, "rekey", arguments));
        assert_eq!(refusal.text("success").as_deref(), Some("no"));
        assert!(refusal.text("errmsg").unwrap().contains(expected), "{refusal:?}");
    }
}

impl Side {
    /// What the resolver was asked for since the beginning.
    fn asked(&self) -> Vec<String> {
        let deeds = self.deeds.all();
        let asked = deeds.iter().filter_map(|deed| match deed {
            Deed::Ask(name) => Some(name.clone()),
            _ => None,
        });
        asked.collect()
    }

    fn resolved(&mut self, now: Instant, name: &str, addresses: &[&str]) {
        let found = addresses.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
        let addresses = if found.is_empty() { Err("no such host".to_owned()) } else { Ok(found) };
        self.daemon.answered(now, Answer { name: name.into(), addresses });
    }
}

#[test]
fn a_peer_with_a_name_is_dialled_where_it_is_now() {
    let mut now = Instant::now();
    let named = text("1", "2", SECRET, "start_action = start").replace("= 192.0.2.2", "= Peer.Example");
    let mut a = Side::new(now, "1", "2", SECRET, "");
    let mut b = Side::new(now, "2", "1", SECRET, "");
    reload(&mut a, now, &named);
    talk(now, &mut a, &mut b);
    assert_eq!(a.asked(), ["peer.example"]);
    assert!(a.sent().is_empty(), "nobody knows where it is");
    // An operator who is in a hurry waits as well, and hears why it fails.
    let mut up = a.command(now, "initiate", &[("child", "net")]);
    a.resolved(now, "peer.example", &[]);
    a.turn(now);
    let (_, refusal) = answer(&mut up);
    assert_eq!(refusal.text("success").as_deref(), Some("no"), "{refusal:?}");
    // The next attempt asks again, and finds it at an address where nobody answers.
    now = a.daemon.reconciler.poll_timeout().unwrap().max(now + Duration::from_secs(5));
    a.turn(now);
    assert_eq!(a.asked().len(), 2);
    a.resolved(now, "peer.example", &["192.0.2.77"]);
    a.turn(now);
    assert!(a.sent().iter().all(|(_, to, _)| to.ip().to_string() == "192.0.2.77"));
    // It has moved when the attempt is given up.
    let (mut answered, moved) = (2, now + Duration::from_secs(100));
    while a.installs().is_empty() && now < moved + Duration::from_secs(300) {
        now = a.daemon.poll_timeout().unwrap();
        a.turn(now);
        while answered < a.asked().len() {
            answered += 1;
            a.resolved(now, "peer.example", &[if now < moved { "192.0.2.77" } else { "192.0.2.2" }]);
        }
        let lost = a.sent().into_iter().filter(|(_, to, _)| to.ip().to_string() != "192.0.2.77");
        if lost.count() > 0 {
            // Those went to the peer that is there; it answers the repetition.
            now = a.daemon.poll_timeout().unwrap();
            talk(now, &mut a, &mut b);
        }
    }
    assert_eq!((a.installs().len(), b.installs().len()), (1, 1), "{:?}", a.asked());
}

#[test]
fn ups_and_downs_are_told() {
    let now = Instant::now();
    let (mut a, mut b) = pair(now, SECRET);
    let mut listener = Captured::listener(&a.daemon.hub);
    let mut told = || {
        let events = listener.packets().into_iter().map(|packet| match packet {
            Packet::Event { name, message } => (name, message),
            other => panic!("{other:?}"),
        });
        events.collect::<Vec<_>>()
    };
    talk(now, &mut a, &mut b);
    let up = told();
    assert_eq!(up.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["ike-updown", "child-updown"]);
    assert!(up.iter().all(|(_, message)| message.flag("up") && message.section("gw").is_some()));
    a.command(now, "terminate", &[("ike", "gw")]);
    talk(now, &mut a, &mut b);
    let down = told();
    assert_eq!(down.len(), 2);
    assert!(down.iter().all(|(_, message)| message.value("up").is_none()));
    let (_, message) = down.iter().find(|(name, _)| name == "child-updown").unwrap();
    let (_, child) = message.section("gw").unwrap().section("child-sas").unwrap().sections().next().unwrap();
    // What it carried is told though the data plane has forgotten it.
    assert_eq!((child.text("reqid").as_deref(), child.text("bytes-in").as_deref()), (Some("1"), Some("252")));
}

#[test]
fn wrong_commands_are_refused_with_a_reason() {
    let now = Instant::now();
    let mut a = Side::new(now, "1", "2", SECRET, "");
    for (command, arguments) in [
        ("initiate", &[][..]),
        ("initiate", &[("child", "other")]),
        ("initiate", &[("child", "net"), ("timeout", "soon")]),
        ("terminate", &[]),
        ("terminate", &[("ike", "gw"), ("force", "yes")]),
        ("terminate", &[("ike-id", "x")]),
        ("terminate", &[("ike", "gw")]),
        ("list-sas", &[("child-id", "-1")]),
    ] {
        let (_, refusal) = answer(&mut a.command(now, command, arguments));
        assert_eq!(refusal.text("success").as_deref(), Some("no"), "{command} {arguments:?}");
        assert!(!refusal.text("errmsg").unwrap().is_empty(), "{command} {arguments:?}");
    }
    assert_eq!(a.command(now, "brew-coffee", &[]).packets(), [Packet::CommandUnknown]);
}

#[test]
fn a_command_is_answered_in_the_time_its_client_gave() {
    let now = Instant::now();
    let mut a = Side::new(now, "1", "2", SECRET, "");
    let (_, at_once) = answer(&mut a.command(now, "initiate", &[("child", "net"), ("timeout", "-1")]));
    assert!(at_once.flag("success"));
    let mut up = a.command(now, "initiate", &[("child", "net"), ("timeout", "1500")]);
    a.turn(now);
    a.turn(now + Duration::from_millis(1499));
    assert!(!up.packets().iter().any(|packet| matches!(packet, Packet::Response(_))));
    assert!(a.daemon.poll_timeout().is_some_and(|timeout| timeout <= now + Duration::from_millis(1500)));
    a.turn(now + Duration::from_millis(1500));
    assert_eq!(answer(&mut up).1.text("success").as_deref(), Some("no"));
}

#[test]
fn a_wrong_secret_installs_nothing_and_is_tried_again_later() {
    let mut now = Instant::now();
    let (mut a, mut b) = pair(now, "another");
    talk(now, &mut a, &mut b);
    assert!(a.installs().is_empty() && b.installs().is_empty());
    let (events, _) = answer(&mut a.command(now, "list-negotiations", &[("ike", "gw")]));
    let failure = events.last().unwrap();
    assert_ne!(failure.text("code").as_deref(), Some("success"));
    assert!(!failure.text("message").unwrap().is_empty());
    let next = a.daemon.reconciler.poll_timeout().unwrap();
    assert!(next > now && next <= now + Duration::from_millis(1250));
    let before = a.deeds.all().len();
    now = next;
    a.turn(now);
    assert!(a.deeds.all().len() > before, "it is tried again");
}

#[test]
fn what_the_data_plane_refuses_is_taken_back() {
    let now = Instant::now();
    for (at_a, at_b) in [(true, false), (false, true)] {
        let (mut a, mut b) = pair(now, SECRET);
        a.deeds.world().refuse_installs = at_a;
        b.deeds.world().refuse_installs = at_b;
        talk(now, &mut a, &mut b);
        for side in [&mut a, &mut b] {
            assert_eq!(side.installed_ids(), side.removed(), "nothing stays");
            let (events, _) = answer(&mut side.command(now, "list-sas", &[]));
            let children = events.iter().flat_map(Message::sections).map(|(_, sa)| sa.section("child-sas"));
            assert!(children.flatten().all(Message::is_empty));
        }
    }
}

#[test]
fn a_stopping_daemon_deletes_its_sas() {
    let now = Instant::now();
    let (mut a, mut b) = pair(now, SECRET);
    talk(now, &mut a, &mut b);
    a.daemon.stop(now, None);
    talk(now, &mut a, &mut b);
    assert!(a.daemon.gateway.ike_sas().next().is_none() && b.daemon.gateway.ike_sas().next().is_none());
    assert_eq!((a.removed(), b.removed()), (a.installed_ids(), b.installed_ids()));
    assert_eq!((a.removed().len(), b.removed().len()), (1, 1));
    let (_, refusal) = answer(&mut a.command(now, "initiate", &[("child", "net")]));
    assert_eq!(refusal.text("success").as_deref(), Some("no"));
    let Side { daemon, deeds, .. } = a;
    daemon.end(Ok(())).unwrap();
    assert!(matches!(deeds.all().last(), Some(Deed::Shutdown)));
}

#[test]
fn a_failed_data_plane_ends_the_daemon_at_once() {
    let now = Instant::now();
    let (mut a, mut b) = pair(now, SECRET);
    talk(now, &mut a, &mut b);
    a.daemon.net_event(now, NetEvent::Failed { reason: "the TUN device is gone".into() });
    a.turn(now);
    assert!(!a.sent().is_empty(), "the peers are told");
    let stopping = a.daemon.stopping.as_ref().unwrap();
    assert_eq!((stopping.deadline, stopping.failure.as_deref()), (now, Some("the TUN device is gone")));
}

#[test]
fn only_an_orderly_end_lifts_the_protection() {
    let now = Instant::now();
    for failure in [
        RunError::DataPlane("the TUN device is gone".into()),
        RunError::Network(adit_net::Error::Stopped),
        RunError::Runtime(io::Error::other("no descriptors")),
    ] {
        let Side { daemon, deeds, .. } = Side::new(now, "1", "2", SECRET, "");
        assert!(daemon.end(Err(failure)).is_err());
        assert!(!deeds.all().iter().any(|deed| matches!(deed, Deed::Shutdown)));
    }
}

#[test]
fn a_signal_before_the_loop_is_an_order_to_stop() {
    let directory = tempfile::tempdir().unwrap();
    let uri = format!("unix://{}/socket", directory.path().display()).parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ended = runtime.block_on(async {
        let signals = Signals::register().unwrap();
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM).unwrap();
        let Side { mut daemon, inbox, loads, answered, counted, .. } =
            Side::new(Instant::now(), "1", "2", SECRET, "");
        let server = Listener::claim(&uri).unwrap().serve(&daemon.hub).unwrap();
        daemon.serve(server, inbox, loads, answered, counted, signals).await
    });
    ended.unwrap();
}

/// Packets that arrive prove that the peer lives; without them it is asked (RFC 7296 2.4).
#[test]
fn traffic_spares_liveness_checks() {
    let start = Instant::now();
    let (mut a, mut b) = pair(start, SECRET);
    talk(start, &mut a, &mut b);
    let mut asked = |traffic: bool, from: Instant| {
        let mut sent = 0;
        for second in 1..=30 {
            let now = from + Duration::from_secs(second);
            for side in [&a, &b] {
                side.deeds.world().last_in = traffic.then_some(now);
            }
            let before = a.deeds.all().len() + b.deeds.all().len();
            talk(now, &mut a, &mut b);
            sent += a.deeds.all().len() + b.deeds.all().len() - before;
        }
        sent
    };
    assert_eq!(asked(true, start), 0);
    assert!(asked(false, start + Duration::from_secs(30)) > 0);
}

#[test]
fn a_flood_is_dropped_and_counted() {
    let inbox = Inbox::default();
    let (queue, mut received) = mpsc::unbounded_channel();
    let address: SocketAddr = "192.0.2.1:500".parse().unwrap();
    let ike = || NetEvent::Ike { local: address, remote: address, datagram: vec![0; 65_000] };
    for _ in 0..1000 {
        inbox.deliver(ike(), &queue);
    }
    inbox.deliver(NetEvent::LimitReached { id: ChildId(1) }, &queue);
    let mut events = Vec::new();
    while let Ok(event) = received.try_recv() {
        inbox.taken(&event);
        events.push(event);
    }
    assert!((events.len() - 1) * 65_000 <= INBOX_OCTETS);
    assert_eq!(events.last(), Some(&NetEvent::LimitReached { id: ChildId(1) }), "orders are never dropped");
    let dropped = inbox.0.dropped.load(Ordering::Relaxed);
    assert_eq!(usize::try_from(dropped).unwrap() + events.len(), 1001);
    assert_eq!(inbox.0.queued.load(Ordering::Relaxed), 0);
    inbox.deliver(ike(), &queue);
    assert!(received.try_recv().is_ok(), "afterwards there is room again");
}
