//! Connections and secrets that clients load over vici, beside those of a file.

use super::*;

fn section(entries: &[(&str, &str)]) -> Message {
    let mut message = Message::new();
    for (key, value) in entries {
        message.put(key, value);
    }
    message
}

/// The same as the connection of [`configuration`], as `swanctl` would send it.
fn conn(name: &str, own: &str, peer: &str, child: &[(&str, &str)]) -> Message {
    let mut own_section = section(&[("dpd_delay", "10s")]);
    own_section.put_list("local_addrs", [format!("192.0.2.{own}")]);
    own_section.put_list("remote_addrs", [format!("192.0.2.{peer}")]);
    for (side, number) in [("local", own), ("remote", peer)] {
        let id = format!("gw{number}.example");
        own_section.put_section(side, section(&[("auth", "psk"), ("id", id.as_str())]));
    }
    let mut net = section(child);
    net.put_list("local_ts", [format!("10.{own}.0.0/16")]);
    net.put_list("remote_ts", [format!("10.{peer}.0.0/16")]);
    let (mut children, mut message) = (Message::new(), Message::new());
    children.put_section("net", net);
    own_section.put_section("children", children);
    message.put_section(name, own_section);
    message
}

fn shared(id: &str, data: &str) -> Message {
    let mut message = section(&[("id", id), ("type", "IKE"), ("data", data)]);
    message.put_list("owners", ["gw1.example", "gw2.example"]);
    message
}

fn done(captured: &mut Captured) -> Result<(), String> {
    let (_, answer) = answer(captured);
    match answer.text("success").as_deref() {
        Some("yes") => Ok(()),
        _ => Err(answer.text("errmsg").unwrap().into_owned()),
    }
}

/// A daemon that was started without a file.
fn bare(now: Instant) -> Side {
    let mut side = Side::unconfigured(now);
    let nothing = crate::config::load_if_there(Path::new("/nonexistent/swanctl.conf")).unwrap();
    side.configure(now, nothing).unwrap();
    side
}

fn listed(side: &mut Side, now: Instant, command: &str, key: &str) -> Vec<String> {
    let (_, answer) = answer(&mut side.command(now, command, &[]));
    answer.list(key).map(Into::into).collect()
}

/// Keys and authorities come and go by what they are called.
#[test]
fn keys_and_authorities_are_loaded_and_unloaded() {
    let now = Instant::now();
    let mut a = bare(now);
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new([]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).unwrap().pem();
    let plain =
        rcgen::CertificateParams::new(["a.example".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
    let load = |cacert: &str| {
        let mut message = Message::new();
        message.put_section("ours", section(&[("cacert", cacert)]));
        message
    };
    assert_eq!(
        done(&mut a.command(now, "load-key", &[("type", "any"), ("data", &key.serialize_pem())])),
        Ok(())
    );
    let ids = listed(&mut a, now, "get-keys", "keys");
    assert_eq!(ids.len(), 1);
    assert!(
        done(&mut a.request(now, "load-authority", load(&plain))).unwrap_err().contains("not an authority")
    );
    assert_eq!(done(&mut a.request(now, "load-authority", load(&authority))), Ok(()));
    assert_eq!(listed(&mut a, now, "get-authorities", "authorities"), ["ours"]);
    // Credentials are cleared, authorities stay; each goes once.
    assert_eq!(done(&mut a.command(now, "clear-creds", &[])), Ok(()));
    assert_eq!(listed(&mut a, now, "get-keys", "keys"), [""; 0]);
    assert!(done(&mut a.command(now, "unload-key", &[("id", &ids[0])])).is_err());
    assert_eq!(done(&mut a.command(now, "unload-authority", &[("name", "ours")])), Ok(()));
    assert!(done(&mut a.command(now, "unload-authority", &[("name", "ours")])).is_err());
    for (command, wrong) in [("load-key", "x"), ("load-key", plain.as_str()), ("load-cert", "x")] {
        let arguments = [("type", "X509"), ("flag", "NONE"), ("data", wrong)];
        assert!(done(&mut a.command(now, command, &arguments)).is_err(), "{command}");
    }
}

#[test]
fn a_tunnel_is_loaded_used_and_unloaded() {
    let now = Instant::now();
    let (mut a, mut b) = (bare(now), Side::new(now, "2", "1", SECRET, ""));
    assert_eq!(done(&mut a.request(now, "load-shared", shared("psk", "Hello world"))), Ok(()));
    let start = [("start_action", "start")];
    assert_eq!(done(&mut a.request(now, "load-conn", conn("gw", "1", "2", &start))), Ok(()));
    assert_eq!(listed(&mut a, now, "get-conns", "conns"), ["gw"]);
    assert_eq!(listed(&mut a, now, "get-shared", "keys"), ["psk"]);
    talk(now, &mut a, &mut b);
    assert_eq!(a.installs().len(), 1, "its start action runs");

    // The same again changes nothing, and neither do credentials that go and come back.
    assert_eq!(done(&mut a.command(now, "clear-creds", &[])), Ok(()));
    assert!(listed(&mut a, now, "get-shared", "keys").is_empty());
    for _ in 0..2 {
        assert_eq!(done(&mut a.request(now, "load-shared", shared("psk", "Hello world"))), Ok(()));
        assert_eq!(done(&mut a.request(now, "load-conn", conn("gw", "1", "2", &start))), Ok(()));
    }
    talk(now, &mut a, &mut b);
    assert_eq!((a.installs().len(), a.removed().len()), (1, 0));

    // What is different is made anew, and only that.
    let other = [("start_action", "start"), ("replay_window", "64")];
    assert_eq!(done(&mut a.request(now, "load-conn", conn("gw", "1", "2", &other))), Ok(()));
    talk(now, &mut a, &mut b);
    assert_eq!((a.removed().len(), a.daemon.gateway.ike_sas().count()), (1, 1));

    assert_eq!(done(&mut a.command(now, "unload-conn", &[("name", "gw")])), Ok(()));
    talk(now, &mut a, &mut b);
    assert_eq!((a.daemon.gateway.ike_sas().count(), a.daemon.policies.all().len()), (0, 0));
    assert!(listed(&mut a, now, "get-conns", "conns").is_empty());
    assert!(done(&mut a.command(now, "unload-conn", &[("name", "gw")])).unwrap_err().contains("not found"));
    assert_eq!(done(&mut a.command(now, "unload-shared", &[("id", "psk")])), Ok(()));
    assert!(done(&mut a.command(now, "unload-shared", &[("id", "psk")])).is_err());
}

#[test]
fn names_of_the_file_are_the_files() {
    let now = Instant::now();
    let mut a = Side::new(now, "1", "2", SECRET, "");
    // Word for word the same: nothing to do, and still the file's.
    assert_eq!(done(&mut a.request(now, "load-conn", conn("gw", "1", "2", &[]))), Ok(()));
    assert!(listed(&mut a, now, "get-conns", "conns").is_empty(), "swanctl must not unload it");
    for refused in [
        a.request(now, "load-conn", conn("gw", "1", "3", &[])),
        a.command(now, "unload-conn", &[("name", "gw")]),
    ] {
        let why = done(&mut { refused }).unwrap_err();
        assert!(why.contains("belongs to /nonexistent/swanctl.conf"), "{why}");
    }
    // What is loaded beside it survives a reload; what the file comes to have is the file's.
    assert_eq!(done(&mut a.request(now, "load-conn", conn("extra", "1", "3", &[]))), Ok(()));
    a.daemon.loaded(now, Ok(configuration("1", "2", SECRET, "replay_window = 32")));
    assert_eq!(listed(&mut a, now, "get-conns", "conns"), ["extra"]);
    let (both, _) = answer(&mut a.command(now, "list-conns", &[]));
    let names: Vec<&str> = both.iter().map(|event| event.sections().next().unwrap().0).collect();
    assert_eq!(names, ["gw", "extra"]);
    let renamed = text("1", "3", SECRET, "").replace("gw {", "extra {");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("swanctl.conf");
    std::fs::write(&file, renamed).unwrap();
    let answer = a.daemon.loaded(now, crate::config::load(&file));
    assert!(answer.flag("success"), "{answer:?}");
    assert!(listed(&mut a, now, "get-conns", "conns").is_empty());
    assert_eq!(a.daemon.connections.len(), 1);
}

/// The way back from a file that nobody confirms leads to what clients had loaded as well.
#[test]
fn what_a_file_has_taken_comes_back_with_the_file_before() {
    let now = Instant::now();
    let wait = Duration::from_secs(60);
    let mut a = Side::new(now, "1", "2", SECRET, "");
    assert_eq!(done(&mut a.request(now, "load-conn", conn("extra", "1", "3", &[]))), Ok(()));
    assert_eq!(done(&mut a.request(now, "load-conn", conn("other", "1", "4", &[]))), Ok(()));
    assert_eq!(done(&mut a.command(now, "install", &[("child", "net"), ("ike", "extra")])), Ok(()));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("swanctl.conf");
    let renamed = text("1", "3", SECRET, "replay_window = 64").replace("gw {", "extra {");
    std::fs::write(&file, renamed).unwrap();
    let states = |a: &Side| {
        let children = a.daemon.connections.iter().flat_map(|connection| &connection.children);
        let names = a.daemon.connections.iter().map(|connection| connection.name.clone());
        (names.collect::<Vec<_>>(), children.map(|child| child.trap).collect::<Vec<_>>())
    };
    let before = states(&a);
    assert_eq!(before, (vec!["gw".into(), "extra".into(), "other".into()], vec![false, true, false]));
    for confirmed in [false, true] {
        let answer = a.daemon.put_in_place(now, crate::config::load(&file), Some(wait));
        assert!(answer.flag("success"), "{answer:?}");
        assert_eq!(listed(&mut a, now, "get-conns", "conns"), ["other"]);
        // What a client gives up meanwhile is not brought back.
        if confirmed {
            assert_eq!(done(&mut a.command(now, "unload-conn", &[("name", "other")])), Ok(()));
            assert_eq!(done(&mut a.command(now, "confirm", &[])), Ok(()));
        }
        a.daemon.roll_back(now + wait);
        if !confirmed {
            assert_eq!(listed(&mut a, now, "get-conns", "conns"), ["extra", "other"]);
            let (mut names, traps) = states(&a);
            names.sort();
            assert_eq!(names, ["extra", "gw", "other"]);
            assert_eq!(traps.iter().filter(|trap| **trap).count(), 1);
        }
    }
    assert_eq!(states(&a).0, ["extra"]);
}

#[test]
fn what_is_refused_changes_nothing() {
    let now = Instant::now();
    let mut a = bare(now);
    assert_eq!(done(&mut a.request(now, "load-conn", conn("gw", "1", "2", &[]))), Ok(()));
    for (key, value, why) in [
        ("modee", "tunnel", "unknown option: modee, config discarded"),
        ("mode", "beet", "invalid value for: mode, config discarded"),
        ("replay_window", "many", "invalid value for: replay_window, config discarded"),
    ] {
        let refused = done(&mut a.request(now, "load-conn", conn("gw", "1", "2", &[(key, value)])));
        assert!(refused.unwrap_err().starts_with(why));
    }
    a.deeds.world().refuse_policies = true;
    for name in ["gw", "other"] {
        let refused = done(&mut a.request(now, "load-conn", conn(name, "1", "3", &[])));
        assert!(refused.unwrap_err().contains("the system refuses"));
    }
    assert!(done(&mut a.command(now, "unload-conn", &[("name", "gw")])).is_err());
    assert_eq!(listed(&mut a, now, "get-conns", "conns"), ["gw"]);
    assert_eq!(a.daemon.connections[0].remote_addrs[0].single(), Some([192, 0, 2, 2].into()));
    let mut two = conn("one", "1", "2", &[]);
    two.put_section("two", Message::new());
    for wrong in [Message::new(), two] {
        assert!(done(&mut a.request(now, "load-conn", wrong)).is_err());
    }
}

#[test]
fn secrets_of_kinds_that_nothing_uses_are_refused() {
    let now = Instant::now();
    let mut a = bare(now);
    for (kind, why) in
        [("EAP", "not done yet"), ("xauth", "not done yet"), ("none", "invalid shared key type")]
    {
        let refused = done(&mut a.command(now, "load-shared", &[("type", kind), ("data", "x")]));
        assert!(refused.unwrap_err().contains(why));
    }
    assert!(done(&mut a.command(now, "load-shared", &[("type", "ike")])).is_err());
    let mut bad_owner = section(&[("type", "ppk"), ("data", "x")]);
    bad_owner.put_list("owners", ["%any"]);
    assert!(done(&mut a.request(now, "load-shared", bad_owner)).is_err(), "a name of its own, not anybody's");
    for certificate in ["load-cert", "load-key", "load-token", "load-authority", "load-pool", "redirect"] {
        assert!(done(&mut a.command(now, certificate, &[])).is_err(), "{certificate}");
    }
    assert_eq!(a.daemon.gateway.ppks().len(), 0);
    assert_eq!(done(&mut a.command(now, "load-shared", &[("type", "ppk"), ("data", "x")])), Ok(()));
    assert_eq!(a.daemon.gateway.ppks().len(), 1);
}

/// A client that loads and loads fills nothing.
#[test]
fn what_is_kept_is_bounded() {
    let now = Instant::now();
    let mut a = bare(now);
    let large = "x".repeat(60_000);
    let mut loaded = 0;
    let why = loop {
        let (id, data) = (loaded.to_string(), large.as_str());
        match done(&mut a.command(
            now,
            "load-shared",
            &[("type", "ike"), ("id", id.as_str()), ("data", data)],
        )) {
            Ok(()) => loaded += 1,
            Err(why) => break why,
        }
        assert!(loaded < 1000, "no end");
    };
    assert!(why.contains("16 MiB"), "{why}");
    assert_eq!(loaded, (16 << 20) / 60_000);
    assert!(done(&mut a.request(now, "load-conn", conn("gw", "1", "2", &[]))).is_ok(), "a little fits still");
    let other = "y".repeat(60_000);
    let renewed = [("type", "ike"), ("id", "0"), ("data", other.as_str())];
    assert_eq!(done(&mut a.command(now, "load-shared", &renewed)), Ok(()), "in the place of the one before");
}

/// What is loaded can be listed: `swanctl` unloads what it does not find in its files.
#[test]
fn names_of_what_is_loaded_fit_into_a_message() {
    let now = Instant::now();
    let mut a = bare(now);
    let load = |a: &mut Side, letter: &str| {
        let id = letter.repeat(65_000);
        done(&mut a.command(now, "load-shared", &[("type", "ike"), ("id", id.as_str()), ("data", letter)]))
    };
    let letters = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let loaded = letters.iter().filter(|letter| load(&mut a, letter).is_ok()).count();
    assert_eq!(loaded, crate::control::vici::MAX_FRAME / 65_000);
    let refused = load(&mut a, "i").unwrap_err();
    assert!(refused.contains("shorter names"), "{refused}");
    let listed = listed(&mut a, now, "get-shared", "keys");
    assert_eq!(listed.len(), loaded);
    assert_eq!(done(&mut a.command(now, "unload-shared", &[("id", listed[0].as_str())])), Ok(()));
    assert_eq!(load(&mut a, "i"), Ok(()));
}

#[test]
fn a_child_waits_for_packets_when_it_is_told_to() {
    let now = Instant::now();
    let mut a = bare(now);
    assert_eq!(done(&mut a.request(now, "load-conn", conn("gw", "1", "2", &[]))), Ok(()));
    let traps = |side: &Side| side.daemon.policies.all().iter().filter(|policy| policy.trap).count();
    assert_eq!(traps(&a), 0);
    assert!(done(&mut a.command(now, "uninstall", &[("child", "net")])).is_err(), "it does not wait");
    for _ in 0..2 {
        assert_eq!(done(&mut a.command(now, "install", &[("child", "net"), ("ike", "gw")])), Ok(()));
        assert_eq!(traps(&a), 1);
    }
    let name = ChildName::new("gw", "net");
    assert!(a.daemon.reconciler.acquire(now, &name), "a packet brings it up");
    // Another connection changes nothing about that.
    assert_eq!(done(&mut a.request(now, "load-conn", conn("other", "1", "3", &[]))), Ok(()));
    assert_eq!(traps(&a), 1);
    assert_eq!(done(&mut a.command(now, "uninstall", &[("child", "net")])), Ok(()));
    assert_eq!(traps(&a), 0);
    for arguments in [&[("child", "none")][..], &[("child", "net"), ("ike", "none")], &[("ike", "gw")]] {
        assert!(done(&mut a.command(now, "install", arguments)).is_err());
    }
}

#[test]
fn counters_have_strongswans_names_and_count() {
    let now = Instant::now();
    let (mut a, mut b) = pair(now, SECRET);
    talk(now, &mut a, &mut b);
    let (_, all) = answer(&mut a.command(now, "get-counters", &[]));
    let counters = all.section("counters").unwrap().section("").unwrap();
    assert_eq!(counters.entries().count(), 21);
    let nonzero: Vec<(&str, u64)> = counters
        .entries()
        .map(|(key, _)| (key, counters.number(key).unwrap()))
        .filter(|(_, count)| *count > 0)
        .collect();
    let expected = ["ike-init-in-resp", "ike-init-out-req", "ike-auth-in-resp", "ike-auth-out-req"];
    assert_eq!(nonzero, expected.map(|key| (key, 1)));
    let (_, one) = answer(&mut a.command(now, "get-counters", &[("name", "gw")]));
    let (_, each) = answer(&mut a.command(now, "get-counters", &[("all", "yes")]));
    assert_eq!(one, each);
    assert_eq!(one.section("counters").unwrap().section("gw"), Some(counters));
    assert_eq!(done(&mut a.command(now, "reset-counters", &[("name", "gw")])), Ok(()));
    assert!(done(&mut a.command(now, "get-counters", &[("name", "gw")])).is_err());
    assert_eq!(done(&mut a.command(now, "reset-counters", &[])), Ok(()));
    let (_, all) = answer(&mut a.command(now, "get-counters", &[]));
    assert_eq!(all.section("counters").unwrap().section("").unwrap().number("ike-auth-out-req"), Some(0));
}

#[test]
fn an_sa_is_taken_down_without_its_peer() {
    let now = Instant::now();
    let (mut a, mut b) = pair(now, SECRET);
    talk(now, &mut a, &mut b);
    let mut ended = a.command(now, "terminate", &[("ike", "gw"), ("force", "yes")]);
    a.turn(now);
    let (_, ended) = answer(&mut ended);
    assert!(ended.flag("success") && ended.number("terminated") == Some(1), "{ended:?}");
    assert_eq!((a.daemon.gateway.ike_sas().count(), a.removed().len()), (0, 1));
}

#[test]
fn algorithms_are_those_that_are_built_in() {
    let now = Instant::now();
    let (_, built_in) = answer(&mut bare(now).command(now, "get-algorithms", &[]));
    for (kind, has, has_not) in [
        ("encryption", "AES_CBC", "3DES_CBC"),
        ("aead", "AES_GCM_16", "AES_GCM_8"),
        ("integrity", "HMAC_SHA2_256_128", "HMAC_MD5_96"),
        ("prf", "PRF_HMAC_SHA2_384", "PRF_HMAC_MD5"),
        ("ke", "ML_KEM_768", "MODP_768"),
    ] {
        let section = built_in.section(kind).unwrap();
        assert!(section.text(has).is_some() && section.text(has_not).is_none(), "{kind}: {section:?}");
    }
}

/// Connections number 3 and on, each for a network of its own.
fn numbered(number: usize) -> Message {
    let name = format!("gw{number}");
    let message = conn(&name, "1", "2", &[]);
    let connection = message.section(&name).unwrap();
    let (mut net, mut children) = (Message::new(), Message::new());
    net.put_list("local_ts", ["10.1.0.0/16"]);
    net.put_list("remote_ts", [format!("10.3.{}.{}/32", number / 256, number % 256)]);
    children.put_section("net", net);
    let mut other = Message::new();
    for (key, value) in connection.entries().filter(|(key, _)| *key != "children") {
        other.push(key, value.clone());
    }
    other.put_section("children", children);
    let mut message = Message::new();
    message.put_section(&name, other);
    message
}

/// What costs time by all that is there is not done for each that is loaded, and nobody notices but by the time.
#[test]
fn many_that_are_loaded_in_a_row_are_put_in_force_together() {
    let now = Instant::now();
    let mut a = bare(now);
    let times =
        |side: &Side| side.deeds.all().iter().filter(|deed| matches!(deed, Deed::Policies(_))).count();
    let (many, before) = (300, times(&a));
    for number in 0..many {
        assert_eq!(done(&mut a.request(now, "load-conn", numbered(number))), Ok(()));
        let id = number.to_string();
        assert_eq!(done(&mut a.request(now, "load-shared", shared(&id, &id))), Ok(()));
    }
    assert!(times(&a) - before < 80, "{} times", times(&a) - before);
    assert_eq!(listed(&mut a, now, "get-conns", "conns").len(), many);
    assert!(a.daemon.connections.len() < many);

    // It is in force for whoever asks for it, and soon for whoever does not.
    let (all, _) = answer(&mut a.command(now, "list-conns", &[]));
    assert_eq!((all.len(), a.daemon.connections.len(), a.daemon.policies.all().len()), (many, many, many));
    assert_eq!(done(&mut a.request(now, "load-conn", numbered(many))), Ok(()));
    assert_eq!(done(&mut a.command(now, "unload-conn", &[("name", "gw7")])), Ok(()));
    assert_eq!(a.daemon.connections.len(), many);
    let due = a.daemon.poll_timeout().unwrap();
    assert!(due < Instant::now() + Duration::from_secs(60), "soon");
    a.turn(due);
    let names: Vec<&str> = a.daemon.connections.iter().map(|connection| connection.name.as_str()).collect();
    assert_eq!((names.len(), names.contains(&"gw7"), names.last()), (many, false, Some(&"gw300")));

    // What the system refuses then is as it was before, in its place.
    let before = listed(&mut a, now, "get-conns", "conns");
    assert_eq!(done(&mut a.request(now, "load-conn", numbered(many + 1))), Ok(()));
    assert_eq!(done(&mut a.command(now, "unload-conn", &[("name", "gw8")])), Ok(()));
    a.deeds.world().refuse_policies = true;
    let (all, _) = answer(&mut a.command(now, "list-conns", &[]));
    assert_eq!(all.len(), many);
    assert_eq!(listed(&mut a, now, "get-conns", "conns"), before);
    a.deeds.world().refuse_policies = false;
    let later = Instant::now() + Duration::from_secs(60);
    assert_eq!(done(&mut a.command(later, "unload-conn", &[("name", "gw8")])), Ok(()));
    assert_eq!(a.daemon.connections.len(), many - 1, "at once, where nothing was put in force just now");
}

/// One connection that the system refuses keeps none of those away that were loaded with it; who loaded it learned that it was
/// taken over, so whoever listens is told now.
#[test]
fn one_that_is_refused_takes_nobody_with_it() {
    let now = Instant::now();
    let mut a = bare(now);
    let mut listener = Captured::listener(&a.daemon.hub);
    let (first, many) = (100, 200);
    for number in 0..many {
        if number == first {
            // From now on nothing is put in force before somebody asks.
            answer(&mut a.command(now, "list-conns", &[]));
            a.deeds.world().refuse_policy = Some("gw157/net".to_owned());
            listener.packets();
        }
        assert_eq!(done(&mut a.request(now, "load-conn", numbered(number))), Ok(()));
    }
    assert_eq!(done(&mut a.command(now, "unload-conn", &[("name", "gw9")])), Ok(()));
    let (told, _) = answer(&mut a.command(now, "list-conns", &[]));
    let expected: Vec<String> =
        (0..many).filter(|number| ![9, 157].contains(number)).map(|number| format!("gw{number}")).collect();
    let names: Vec<&str> = told.iter().map(|event| event.sections().next().unwrap().0).collect();
    assert_eq!(names, expected);
    assert_eq!(listed(&mut a, now, "get-conns", "conns"), expected);
    let alerts: Vec<Message> = listener.packets().into_iter().filter_map(alert).collect();
    let of: Vec<_> = alerts.iter().map(|alert| alert.text("connection").unwrap().into_owned()).collect();
    assert_eq!(of, ["gw157"]);
    assert_eq!(alerts[0].text("type").as_deref(), Some("install-child-policy-failed"));
}

fn alert(packet: Packet) -> Option<Message> {
    match packet {
        Packet::Event { name, message } if name == "alert" => Some(message),
        _ => None,
    }
}
