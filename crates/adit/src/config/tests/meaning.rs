//! What a good configuration means.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use adit_ike::config::{AddressSpec, SelectorSpec};
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
    assert_eq!((gateway.key_log, gateway.workers), (None, None));
    assert!(configuration.connections.is_empty() && configuration.secrets.is_empty());
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
            half_open_timeout = 2m
            workers = 4
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
    assert_eq!((gateway.key_log, gateway.workers), (Some(PathBuf::from("/run/adit/keys")), Some(4)));
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
                unique = no
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
                        start_action = start
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
        }",
    );
    let [c] = configuration.connections.as_slice() else { panic!() };
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
    assert_eq!((n.name.as_str(), n.start, n.replay_window), ("n", true, 4096));
    let dynamic = [SelectorSpec::Dynamic { protocol: 0, start_port: 0, end_port: 65535 }];
    assert_eq!((&m.local_ts[..], &m.remote_ts[..]), (&dynamic[..], &dynamic[..]));
    assert_eq!((m.name.as_str(), m.start, m.replay_window), ("m", false, 1024));
    assert_eq!(m.proposals, parse_esp("default").unwrap());
    let [one, two, three] = configuration.secrets.as_slice() else { panic!() };
    assert_eq!(
        one.owners,
        ["a.example.com".parse().unwrap(), "192.0.2.7".parse::<IdentityPattern>().unwrap()]
    );
    assert_eq!((one.name.as_str(), one.secret.expose()), ("ike-1", &[0x00, 0xff, 0x10][..]));
    assert_eq!((two.owners.len(), two.secret.expose()), (0, &[0x00, 0xff, 0x10][..]));
    assert_eq!(three.secret.expose(), b"two words ");
}

#[test]
fn what_is_left_out_has_its_default() {
    let configuration = good(
        "connections { c { local { auth = psk\n } remote { auth = psk\n } } }\nsecrets { ike { secret = x\n } }",
    );
    let c = &configuration.connections[0];
    assert!(c.local_addrs.is_empty() && c.remote_addrs.is_empty() && c.children.is_empty());
    assert_eq!((c.local_port, c.remote_port, c.encap), (500, 500, false));
    assert_eq!((c.dpd_delay, &c.local_id, &c.remote_id), (Duration::ZERO, &None, &IdentityPattern::Any));
    assert_eq!(c.proposals, parse_ike("default").unwrap());
    assert!(configuration.warnings.is_empty());
}

#[test]
fn the_local_port_follows_the_gateway() {
    let configuration = good(&connection("", "", "gateway { ike_port = 1500\n }"));
    assert_eq!(configuration.connections[0].local_port, 1500);
}

#[test]
fn anybody_is_nobody_in_particular() {
    for anybody in ["%any", "0.0.0.0, ::", "%any4, %any6", "0.0.0.0/0, ::/0"] {
        let text = connection("", "", "").replace("192.0.2.2", anybody);
        assert!(good(&text).connections[0].remote_addrs.is_empty(), "{anybody}");
    }
    let text = connection("", "", "").replace("192.0.2.2", "192.0.2.2, %any");
    assert_eq!(good(&text).connections[0].remote_addrs[0].single(), Some(ip("192.0.2.2")));
    let text = connection("", "", "").replace("192.0.2.2", "%any6");
    assert_eq!(good(&text).connections[0].remote_addrs.len(), 1);
}

#[test]
fn what_asks_for_nothing_else_than_what_happens_is_accepted() {
    let lines = "local_addrs = 192.0.2.1
        mobike = no
        fragmentation = no
        rekey_time = 0
        reauth_time = 0s
        over_time = 0m
        dscp = 000000
        keyingtries = 1
        childless = never
        vips =
        pools = \"\"
        pull = yes";
    let child = "rekey_time = 0h
        life_bytes = 0k
        mark_in = 0/0
        ipcomp = no
        copy_df = yes
        copy_dscp = out
        dpd_action = clear
        close_action = none
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
    let [a, b] = configuration.connections.as_slice() else { panic!() };
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
