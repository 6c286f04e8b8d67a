//! What a good configuration means.

use adit_esp::Mss;
use adit_esp::translate::{Renumbering, Translation};
use adit_esp::tunnel::{DontFragment, Dscp, OuterPolicy, Tfc};
use adit_net::{InterfaceSpec, Treatment};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use adit_ike::config::{
    Action, AddressSpec, ChildLimits, Childless, Fragmentation, Lifetime, PpkPolicy, Resources,
    Retransmission, SelectorSpec, Unique, Volume,
};
use adit_ike::identity::{Identity, IdentityPattern};
use adit_ike::proposal::{parse_esp, parse_ike};
use adit_wire::ikev2::TrafficSelector;

use super::{connection, good};
use crate::config::ControlUri;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn range(first: &str, last: &str) -> AddressSpec {
    AddressSpec { first: ip(first), last: ip(last) }
}

fn selector(protocol: u8, ports: (u16, u16), start: &str, end: &str) -> SelectorSpec {
    let (start_port, end_port) = ports;
    SelectorSpec::Fixed(TrafficSelector { protocol, start_port, end_port, start: ip(start), end: ip(end) })
}

#[test]
fn an_empty_file_is_a_gateway_with_defaults() {
    let configuration = good("");
    let gateway = configuration.gateway;
    assert_eq!(gateway.control, ControlUri::Unix("/run/adit/adit.vici".into()));
    assert_eq!((gateway.tun.as_str(), gateway.mtu, gateway.log), ("adit0", None, "info"));
    assert_eq!((gateway.routing_table, gateway.rule_priority, gateway.mark), (220, 220, 220));
    assert_eq!((gateway.ike_port, gateway.nat_t_port), (500, 4500));
    assert_eq!((gateway.cookie_threshold, gateway.half_open_timeout), (30, Duration::from_secs(30)));
    assert_eq!((gateway.half_open_limit, gateway.nat_keepalive), (10_000, Duration::from_secs(20)));
    assert_eq!(gateway.fragment_size, 1280);
    assert_eq!((gateway.spin, gateway.offload), (Duration::from_micros(50), true));
    assert_eq!((gateway.key_log, gateway.xdp), (None, false));
    assert!((1..=16).contains(&gateway.workers));
    assert!(configuration.ike.connections.is_empty() && configuration.ike.secrets.is_empty());
}

#[test]
fn every_key_of_the_gateway_is_heard() {
    let gateway = good(
        "gateway {
            control = tcp://127.0.0.1:4502
            tun = vpn7
            mtu = 1400
            routing_table = 0x100
            rule_priority = 100
            mark = 0xad
            ike_port = 1500
            nat_t_port = 14500
            cookie_threshold = 0
            half_open_limit = 500
            half_open_timeout = 2m
            nat_keepalive = 0
            fragment_size = 576
            workers = 4
            spin = 0
            offload = no
            xdp = yes
            log = debug
            key_log = /run/adit/keys
        }",
    )
    .gateway;
    assert_eq!(gateway.control, ControlUri::Tcp("127.0.0.1:4502".parse().unwrap()));
    assert_eq!((gateway.tun.as_str(), gateway.mtu, gateway.log), ("vpn7", Some(1400), "debug"));
    assert_eq!((gateway.routing_table, gateway.rule_priority, gateway.mark), (256, 100, 173));
    assert_eq!((gateway.ike_port, gateway.nat_t_port), (1500, 14500));
    assert_eq!((gateway.cookie_threshold, gateway.half_open_timeout), (0, Duration::from_secs(120)));
    assert_eq!((gateway.half_open_limit, gateway.nat_keepalive), (500, Duration::ZERO));
    assert_eq!((gateway.fragment_size, gateway.xdp), (576, true));
    assert_eq!((gateway.key_log, gateway.workers), (Some(PathBuf::from("/run/adit/keys")), 4));
    assert_eq!((gateway.spin, gateway.offload), (Duration::ZERO, false));
}

/// RFC 9611: one for each worker, and room for twice as many.
#[test]
fn children_may_have_an_sa_for_each_worker() {
    for (settings, expected) in [
        ("workers = 4", Some(Resources { own: 4, most: 16 })),
        ("workers = 20", Some(Resources { own: 20, most: 40 })),
        ("xdp = yes", Some(Resources { own: 1, most: 16 })),
    ] {
        let text = format!(
            "gateway {{ {settings} }} connections {{ c {{ local {{ auth = psk }} remote {{ auth = psk }} children {{
                n {{ per_cpu_sas = yes }} m {{ per_cpu_sas = no }} }} }} }} secrets {{ ike {{ secret = x }} }}"
        );
        let configuration = good(&text);
        let children = &configuration.ike.connections[0].children;
        assert_eq!((children[0].resources, children[1].resources), (expected, None));
    }
}

#[test]
fn every_key_of_a_connection_is_heard() {
    let configuration = good(
        "connections {
            c {
                version = 0
                local_addrs = 192.0.2.1, 2001:db8::1
                remote_addrs = 198.51.100.7, 203.0.113.0/28, 192.0.2.5-192.0.2.9
                local_port = 4500
                remote_port = 4500
                proposals = aes128gcm16-prfsha256-ecp256, default
                encap = enabled
                dpd_delay = 5m
                unique = replace
                mobike = no
                fragmentation = accept
                childless = force
                keyingtries = 3
                rekey_time = 2h
                reauth_time = 1d
                over_time = 10m
                rand_time = 5m
                retransmit_wait = 250ms
                retransmit_longest_wait = 4s
                retransmit_give_up = 1m
                ppk_id = ppk@example.com
                ppk_required = yes
                post_quantum = required
                send_cert = ifasked
                local-1 {
                    auth = psk
                    round = 1
                    id = \"keyid:#0a0b\"
                }
                remote-1 {
                    auth = PSK
                    round = 0x1
                    id = *.example.com
                }
                children {
                    n {
                        esp_proposals = aes256gcm16-x25519-esn
                        local_ts = 10.1.2.3/16, dynamic[udp/53]
                        remote_ts = 10.2.0.1, 10.3.0.1-10.3.0.9[tcp/1000-2000], 10.4.0.0/24[icmp/2048], 10.5.0.0/16[sctp/opaque], 10.6.0.0/16[gre]
                        mode = tunnel
                        start_action = trap|start
                        close_action = trap
                        dpd_action = clear
                        rekey_time = 30m
                        life_time = 40m
                        rand_time = 5m
                        rekey_bytes = 1g
                        life_bytes = 0x50000000
                        rand_bytes = 1m
                        rekey_packets = 1000000
                        life_packets = 2000000
                        rand_packets = 0
                        inactivity = 90
                        replay_window = 4096
                    }
                    m {
                    }
                }
            }
        }
        secrets {
            ike-1 {
                id-a = a.example.com
                id2 = 192.0.2.7
                secret = 0x00fF10
            }
            ike {
                secret = 0sAP8Q
            }
            ikes {
                secret = \"two words \"
            }
            ppk-1 {
                id = ppk@example.com
                id-2 = 192.0.2.7
                secret = 0x0102
            }
            ppk {
                secret = other
            }
        }",
    );
    let [c] = configuration.ike.connections.as_slice() else { panic!() };
    assert_eq!(c.name, "c");
    assert_eq!(c.local_addrs, [range("192.0.2.1", "192.0.2.1"), range("2001:db8::1", "2001:db8::1")]);
    assert_eq!(
        c.remote_addrs,
        [
            range("198.51.100.7", "198.51.100.7"),
            range("203.0.113.0", "203.0.113.15"),
            range("192.0.2.5", "192.0.2.9")
        ]
    );
    assert_eq!((c.local_port, c.remote_port, c.encap), (4500, 4500, true));
    assert_eq!(c.proposals, parse_ike("aes128gcm16-prfsha256-ecp256, default").unwrap());
    assert_eq!(c.dpd_delay, Duration::from_secs(300));
    let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
    assert_eq!((c.unique, c.mobike, c.tries), (Unique::Replace, false, 3));
    assert_eq!((c.fragmentation, c.childless), (Fragmentation::Accept, Childless::Force));
    assert_eq!(c.rekey, Lifetime { soft: minutes(120), hard: minutes(130), jitter: minutes(5) });
    assert_eq!(c.reauth, Lifetime { soft: minutes(1440), hard: minutes(1450), jitter: minutes(5) });
    let (first, most, give_up) = (Duration::from_millis(250), Duration::from_secs(4), minutes(1));
    assert_eq!(c.retransmission, Retransmission { first, most, give_up });
    assert_eq!(c.ppk, PpkPolicy { id: Some(b"ppk@example.com".to_vec()), required: true });
    assert!(c.require_post_quantum);
    assert_eq!(c.local_id, Some(Identity::key_id(&[0x0a, 0x0b])));
    assert_eq!(c.remote_id, "*.example.com".parse::<IdentityPattern>().unwrap());
    let [n, m] = c.children.as_slice() else { panic!() };
    assert_eq!(n.proposals, parse_esp("aes256gcm16-x25519-esn").unwrap());
    assert_eq!(
        n.local_ts,
        [
            selector(0, (0, 65535), "10.1.0.0", "10.1.255.255"),
            SelectorSpec::Dynamic { protocol: 17, start_port: 53, end_port: 53 }
        ]
    );
    assert_eq!(
        n.remote_ts,
        [
            selector(0, (0, 65535), "10.2.0.1", "10.2.0.1"),
            selector(6, (1000, 2000), "10.3.0.1", "10.3.0.9"),
            selector(1, (2048, 2048), "10.4.0.0", "10.4.0.255"),
            selector(132, (65535, 0), "10.5.0.0", "10.5.255.255"),
            selector(47, (0, 65535), "10.6.0.0", "10.6.255.255"),
        ]
    );
    assert_eq!((n.name.as_str(), n.start, n.trap, n.replay_window), ("n", true, true, 4096));
    assert_eq!(
        (n.on_close, n.on_dead_peer, n.inactivity),
        (Action::Trap, Action::None, Duration::from_secs(90))
    );
    assert_eq!(
        n.limits,
        ChildLimits {
            time: Lifetime { soft: minutes(30), hard: minutes(40), jitter: minutes(5) },
            bytes: Volume { soft: 1 << 30, hard: 0x5000_0000, jitter: 1 << 20 },
            packets: Volume { soft: 1_000_000, hard: 2_000_000, jitter: 0 },
        }
    );
    let dynamic = [SelectorSpec::Dynamic { protocol: 0, start_port: 0, end_port: 65535 }];
    assert_eq!((&m.local_ts[..], &m.remote_ts[..]), (&dynamic[..], &dynamic[..]));
    assert_eq!((m.name.as_str(), m.start, m.replay_window), ("m", false, 1024));
    assert_eq!(m.proposals, parse_esp("default").unwrap());
    let [one, two, three] = configuration.ike.secrets.as_slice() else { panic!() };
    assert_eq!(
        one.owners,
        ["a.example.com".parse().unwrap(), "192.0.2.7".parse::<IdentityPattern>().unwrap()]
    );
    assert_eq!((one.name.as_str(), one.secret.expose()), ("ike-1", &[0x00, 0xff, 0x10][..]));
    assert_eq!((two.owners.len(), two.secret.expose()), (0, &[0x00, 0xff, 0x10][..]));
    assert_eq!(three.secret.expose(), b"two words ");
    let [one, two] = configuration.ike.ppks.as_slice() else { panic!() };
    assert_eq!((one.name.as_str(), one.secret.expose()), ("ppk-1", &[1, 2][..]));
    assert_eq!(one.ids, [b"ppk@example.com".to_vec(), vec![192, 0, 2, 7]]);
    assert_eq!((two.ids.len(), two.secret.expose()), (0, &b"other"[..]));
}

#[test]
fn what_is_left_out_has_its_default() {
    let configuration = good(
        "connections { c { local { auth = psk\n } remote { auth = psk\n } } }\nsecrets { ike { secret = x\n } }",
    );
    let c = &configuration.ike.connections[0];
    assert!(c.local_addrs.is_empty() && c.remote_addrs.is_empty() && c.children.is_empty());
    assert_eq!((c.local_port, c.remote_port, c.encap), (500, 500, false));
    assert_eq!((c.dpd_delay, &c.local_id, &c.remote_id), (Duration::ZERO, &None, &IdentityPattern::Any));
    assert_eq!(c.proposals, parse_ike("default").unwrap());
    assert_eq!((c.unique, c.mobike, c.tries), (Unique::No, true, 0));
    assert_eq!((c.fragmentation, c.childless), (Fragmentation::Yes, Childless::Allow));
    assert_eq!(c.retransmission, Retransmission::default());
    assert_eq!((&c.ppk, c.require_post_quantum), (&PpkPolicy::default(), false));
    assert!(configuration.warnings.is_empty());
}

/// What follows is what the documentation of `swanctl.conf` says, save that jitter never takes more than half.
#[test]
fn limits_follow_from_each_other() {
    let seconds = |soft, hard, jitter| Lifetime {
        soft: Duration::from_secs(soft),
        hard: Duration::from_secs(hard),
        jitter: Duration::from_secs(jitter),
    };
    for (lines, rekey, reauth) in [
        ("", seconds(14_400, 15_840, 1440), Lifetime::default()),
        ("rekey_time = 0", Lifetime::default(), Lifetime::default()),
        ("rekey_time = 1h", seconds(3600, 3960, 360), Lifetime::default()),
        ("reauth_time = 10h", Lifetime::default(), seconds(36_000, 39_600, 3600)),
        ("rekey_time = 1h\n reauth_time = 10h", seconds(3600, 7200, 1800), seconds(36_000, 39_600, 3600)),
        ("over_time = 1m", seconds(14_400, 14_460, 60), Lifetime::default()),
        ("over_time = 4h", seconds(14_400, 28_800, 7200), Lifetime::default()),
        ("rand_time = 3h", seconds(14_400, 15_840, 10_800), Lifetime::default()),
        ("rand_time = 0", seconds(14_400, 15_840, 0), Lifetime::default()),
    ] {
        let c = &good(&connection(lines, "", "")).ike.connections[0];
        assert_eq!((c.rekey, c.reauth), (rekey, reauth), "{lines}");
    }
    for (lines, time) in [
        ("", seconds(3600, 3960, 360)),
        ("rekey_time = 10m", seconds(600, 660, 60)),
        ("life_time = 10m", seconds(540, 600, 60)),
        ("rekey_time = 10m\n life_time = 1h", seconds(600, 3600, 300)),
        ("rekey_time = 0", Lifetime::default()),
        ("life_time = 0", Lifetime::default()),
        ("rekey_time = 1h\n life_time = 0", seconds(3600, 0, 0)),
        ("rekey_time = 0\n life_time = 1h", seconds(0, 3600, 0)),
        ("rand_time = 59m", seconds(3600, 3960, 3540)),
    ] {
        let child = &good(&connection("", lines, "")).ike.connections[0].children[0];
        assert_eq!(child.limits.time, time, "{lines}");
        assert_eq!((child.limits.bytes, child.limits.packets), (Volume::default(), Volume::default()));
    }
    for (lines, (soft, hard, jitter)) in [
        ("rekey_bytes = 1000", (1000, 1100, 100)),
        ("life_bytes = 1000", (900, 1000, 100)),
        ("rekey_bytes = 1", (1, 2, 0)),
        ("rekey_bytes = 1000\n rand_bytes = 7", (1000, 1100, 7)),
    ] {
        let child = &good(&connection("", lines, "")).ike.connections[0].children[0];
        assert_eq!(child.limits.bytes, Volume { soft, hard, jitter }, "{lines}");
    }
}

#[test]
fn what_ought_to_be_up_comes_back_unless_the_file_says_otherwise() {
    use Action::{None, Start, Trap};
    for (lines, expected) in [
        ("", (false, false, None, None)),
        ("start_action = start", (true, false, Start, Start)),
        ("start_action = trap", (false, true, Trap, Trap)),
        ("start_action = start|trap", (true, true, Start, Start)),
        ("start_action = start\n close_action = none", (true, false, None, Start)),
        ("start_action = start\n dpd_action = clear", (true, false, Start, None)),
        ("dpd_action = restart", (false, false, None, Start)),
        ("close_action = trap\n dpd_action = trap", (false, false, Trap, Trap)),
    ] {
        let child = &good(&connection("", lines, "")).ike.connections[0].children[0];
        assert_eq!((child.start, child.trap, child.on_close, child.on_dead_peer), expected, "{lines}");
    }
}

#[test]
fn the_local_port_follows_the_gateway() {
    let configuration = good(&connection("", "", "gateway { ike_port = 1500\n }"));
    assert_eq!(configuration.ike.connections[0].local_port, 1500);
}

#[test]
fn anybody_is_nobody_in_particular() {
    for anybody in ["%any", "0.0.0.0, ::", "%any4, %any6", "0.0.0.0/0, ::/0"] {
        let text = connection("", "", "").replace("192.0.2.2", anybody);
        assert!(good(&text).ike.connections[0].remote_addrs.is_empty(), "{anybody}");
    }
    let text = connection("", "", "").replace("192.0.2.2", "192.0.2.2, %any");
    assert_eq!(good(&text).ike.connections[0].remote_addrs[0].single(), Some(ip("192.0.2.2")));
    let text = connection("", "", "").replace("192.0.2.2", "%any6");
    assert_eq!(good(&text).ike.connections[0].remote_addrs.len(), 1);
}

#[test]
fn host_names_are_left_to_be_resolved() {
    let text = connection("local_addrs = 192.0.2.1", "start_action = start", "")
        .replace("192.0.2.2", "198.51.100.1, Gw.Example.COM, vpn_2");
    let configuration = good(&text);
    let c = &configuration.ike.connections[0];
    assert_eq!((c.local_addrs.len(), c.remote_addrs.len()), (1, 0));
    let hosts = &configuration.hosts["c"];
    assert_eq!(hosts.names().collect::<Vec<_>>(), ["gw.example.com", "vpn_2"]);
    let written: Vec<String> = hosts.remote.iter().map(ToString::to_string).collect();
    assert_eq!(written, ["198.51.100.1", "gw.example.com", "vpn_2"]);
    assert!(good(&connection("local_addrs = 192.0.2.1", "", "")).hosts.is_empty());
}

#[test]
fn what_asks_for_nothing_else_than_what_happens_is_accepted() {
    let lines = "local_addrs = 192.0.2.1
        dscp = 000000
        vips =
        pools = \"\"
        pull = yes";
    let child = "mark_in = 0/0
        ipcomp = no
        copy_df = yes
        copy_dscp = out
        hw_offload = no
        policies = 1
        updown =";
    assert!(good(&connection(lines, child, "")).warnings.is_empty());
}

#[test]
fn inherited_settings_mean_the_same() {
    let configuration = good(
        "connections {
            a : base { remote_addrs = 192.0.2.2
                children { n : child { remote_ts = 10.2.0.0/16
                } } }
            b : connections.a { remote_addrs = 192.0.2.3
            }
        }
        secrets { ike { secret = x
        } }
        base { encap = yes
            local { auth = psk
            }
            remote { auth = psk
            } }
        child { local_ts = 10.1.0.0/16
            replay_window = 64
        }",
    );
    let [a, b] = configuration.ike.connections.as_slice() else { panic!() };
    assert!(a.encap && b.encap);
    assert_eq!(a.remote_addrs[0].single(), Some(ip("192.0.2.2")));
    assert_eq!(b.remote_addrs[0].single(), Some(ip("192.0.2.3")));
    assert_eq!(b.children[0].name, "n");
    assert_eq!(b.children[0].replay_window, 64);
    assert_eq!(b.children[0].remote_ts, [selector(0, (0, 65535), "10.2.0.0", "10.2.255.255")]);
}

#[test]
fn an_unknown_address_behind_dynamic_is_pointed_out() {
    let warned = |local: &str, remote: &str, child: &str| {
        let text = format!(
            "connections {{ c {{ local_addrs = {local}
               remote_addrs = {remote}
               local {{ auth = psk
               }}
               remote {{ auth = psk
               }}
               children {{ n {{ {child}
               }} }} }} }}
             secrets {{ ike {{ secret = x
             }} }}"
        );
        let warnings = good(&text).warnings;
        warnings.iter().map(|warning| warning.key.clone()).collect::<Vec<_>>()
    };
    let (local, remote) = ("connections.c.children.n.local_ts", "connections.c.children.n.remote_ts");
    assert_eq!(warned("%any", "%any", ""), [local, remote]);
    assert_eq!(warned("%any", "192.0.2.2", ""), [local]);
    assert_eq!(warned("192.0.2.1", "192.0.2.0/24", ""), [remote]);
    assert_eq!(warned("%any", "%any", "local_ts = 10.1.0.0/16\nremote_ts = 10.2.0.0/16, dynamic"), [remote]);
    assert!(warned("192.0.2.1, 192.0.2.9", "192.0.2.2, 192.0.2.3", "").is_empty());
    assert!(warned("%any", "%any", "local_ts = 10.1.0.0/16\nremote_ts = 10.2.0.0/16").is_empty());
}

#[test]
fn children_that_pass_or_drop_need_no_peer() {
    let children = "children {
        open { mode = pass
          start_action = trap
          local_ts = 10.1.0.0/16
          remote_ts = 10.1.0.0/16, fd00::/8
          priority = 7 }
        shut { mode = drop
          start_action = trap
          local_ts = dynamic[udp/53] } }";
    let configuration = good(&format!("connections {{ lan {{ {children} }} }}"));
    assert!(configuration.ike.connections.is_empty() && configuration.warnings.is_empty());
    let [open, shut] = &configuration.shunts[..] else { panic!("{:?}", configuration.shunts) };
    assert_eq!((open.connection.as_str(), open.name.as_str()), ("lan", "open"));
    assert_eq!((open.action, open.priority), (adit_esp::Action::Bypass, 7));
    let net = |text, prefix| TrafficSelector::subnet(ip(text), prefix);
    assert_eq!(open.local_ts, [net("10.1.0.0", 16)]);
    assert_eq!(open.remote_ts, [net("10.1.0.0", 16), net("fd00::", 8)]);
    // Without an SA `dynamic` is anybody.
    let dns = |any| TrafficSelector { protocol: 17, start_port: 53, end_port: 53, ..any };
    let all = [TrafficSelector::any_v4(), TrafficSelector::any_v6()];
    assert_eq!((shut.action, shut.priority), (adit_esp::Action::Discard, 0));
    assert_eq!(shut.local_ts, all.map(dns));
    assert_eq!(shut.remote_ts, all);
    // Beside others, what is left is a connection.
    let mixed = children.replace("open {", "net { remote_ts = 10.9.0.0/16\npriority = 9 }\nopen {");
    let configuration = good(&format!(
        "connections {{ c {{ remote_addrs = 192.0.2.9\nlocal {{ auth = psk }}\nremote {{ auth = psk }}\n{mixed} }} }}"
    ));
    let connection = &configuration.ike.connections[0];
    let names: Vec<_> =
        connection.children.iter().map(|child| (child.name.as_str(), child.priority)).collect();
    assert_eq!((names, configuration.shunts.len()), (vec![("net", 9)], 2));
}

#[test]
fn transport_mode_is_for_hosts() {
    let keys = |child: &str| {
        let lines = "local_addrs = 192.0.2.1\n remote_addrs = 192.0.2.2";
        let warnings = good(&connection(lines, &format!("mode = {child}"), "")).warnings;
        warnings.iter().map(|warning| warning.key.clone()).collect::<Vec<_>>()
    };
    let networks = "local_ts = 10.1.0.0/16\n remote_ts = 10.2.0.0/16";
    let children = "connections.c.children.n";
    assert_eq!(
        keys(&format!("transport\n {networks}")),
        [format!("{children}.local_ts"), format!("{children}.remote_ts")]
    );
    assert!(keys(&format!("tunnel\n {networks}")).is_empty());
    assert!(keys("transport\n local_ts = dynamic\n remote_ts = 192.0.2.2/32[tcp/80-90]").is_empty());
    assert!(keys("transport").is_empty());
}

#[test]
fn a_connection_has_the_interface_that_it_asks_for() {
    let everything = "local_ts = 0.0.0.0/0, ::/0\n remote_ts = 0.0.0.0/0, ::/0";
    let lines = "interface = vpn0
        interface_addrs = 169.254.10.2/30, fd00:ff::2/64
        interface_mtu = 1400
        interface_routes = 10.2.0.0/16, ::/0";
    let configuration = good(&connection(lines, everything, ""));
    let expected = InterfaceSpec {
        name: "vpn0".into(),
        owner: "c".into(),
        mtu: Some(1400),
        addresses: vec![(ip("169.254.10.2"), 30), (ip("fd00:ff::2"), 64)],
        routes: vec![(ip("10.2.0.0"), 16), (ip("::"), 0)],
        ..InterfaceSpec::default()
    };
    assert_eq!(configuration.interfaces, [("c".to_owned(), expected)].into());
    assert!(configuration.warnings.is_empty(), "{:?}", configuration.warnings);

    let spec = good(&connection("interface = vpn0", everything, "")).interfaces.remove("c").unwrap();
    let plain = InterfaceSpec { name: "vpn0".into(), owner: "c".into(), ..InterfaceSpec::default() };
    assert_eq!(spec, plain);
    assert!(good(&connection("", everything, "")).interfaces.is_empty());

    let marked = "local_ts = 0.0.0.0/0
        remote_ts = 10.2.0.0/15
        mark_out = 0x17/0xff
        set_mark_in = 42";
    let spec = good(&connection("interface = vpn0", marked, "")).interfaces.remove("c").unwrap();
    assert_eq!(spec.marked, Some(((0x17, 0xff), vec![(ip("10.2.0.0"), 15)])));
    assert_eq!(spec.marks, Some((42, u32::MAX)));

    let warnings = |lines: &str, child: &str| {
        let warnings = good(&connection(lines, child, "")).warnings;
        warnings.iter().map(|warning| warning.message.clone()).collect::<Vec<_>>()
    };
    assert_eq!(
        warnings("interface = vpn0", "remote_ts = 10.2.0.0/16"),
        ["only what goes from or to the gateways themselves may pass the interface"]
    );
    assert_eq!(
        warnings("interface = vpn0\n interface_routes = 192.0.2.0/24", everything),
        ["the way to the peer 192.0.2.2 itself would lead into the tunnel by `192.0.2.0/24`"]
    );
}

#[test]
fn packets_are_treated_as_asked_for() {
    let treatment = |child: &str| {
        let key = ("c".to_owned(), "n".to_owned());
        good(&connection("local_addrs = 192.0.2.1", child, "")).treatments.remove(&key).unwrap_or_default()
    };
    let of = |outer: OuterPolicy| Treatment { outer, ..Treatment::default() };
    let default = OuterPolicy::default();
    assert_eq!(treatment("mss = auto\n tfc_padding = 0\n copy_df = yes"), Treatment::default());
    assert_eq!(treatment("copy_ecn = no"), of(OuterPolicy { copy_ecn: false, ..default }));
    assert_eq!(treatment("copy_df = no"), of(OuterPolicy { df: DontFragment::Clear, ..default }));
    let none = OuterPolicy { dscp: Dscp::Set(0), ..default };
    assert_eq!(treatment("copy_dscp = no"), of(none));
    assert_eq!(treatment("copy_dscp = in"), Treatment { dscp_inwards: true, ..of(none) });
    assert_eq!(treatment("copy_dscp = yes"), Treatment { dscp_inwards: true, ..Treatment::default() });
    assert_eq!(treatment("tfc_padding = mtu").tfc, Tfc::Path);
    assert_eq!(treatment("tfc_padding = 1000").tfc, Tfc::AtLeast(1000));
    assert_eq!(treatment("dummies = 10s").dummies, Some(Duration::from_secs(10)));
    assert_eq!(treatment("mss = 1300").mss, Mss::At(1300));
    assert_eq!(treatment("mss = no").mss, Mss::Untouched);

    let pair = |inside: &str, outside: &str, len| Renumbering::new(ip(inside), ip(outside), len).unwrap();
    let nets = "local_ts = 10.1.1.0/24, 10.9.0.0/16, fd00:a::/64
        local_net = 192.168.1.0/24, 10.9.0.0/16, fd00:1::/64
        remote_ts = 192.168.1.0/24, fd00:1::/64
        remote_net = 10.2.1.0/24, fd00:b::/64";
    let expected = Translation {
        local: vec![
            pair("192.168.1.0", "10.1.1.0", 24),
            pair("10.9.0.0", "10.9.0.0", 16),
            pair("fd00:1::", "fd00:a::", 64),
        ],
        remote: vec![pair("10.2.1.0", "192.168.1.0", 24), pair("fd00:b::", "fd00:1::", 64)],
    };
    assert_eq!(treatment(nets).translation.as_deref(), Some(&expected));
}
