//! What is wrong with a bad configuration, and where; and that no secret ever shows.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::{connection, errors, errors_of, good, load};

#[track_caller]
fn is_wrong(text: &str, expected: &str) {
    assert_eq!(errors(text), [expected]);
}

#[test]
fn unknown_names_are_errors_with_the_nearest_known_one() {
    is_wrong(
        "gateway {\n  mut = 1400\n}\n",
        "a.conf:2:3: gateway.mut: unknown key; expected a key of `gateway`; did you mean `mtu`?",
    );
    is_wrong(
        &connection("remote_adrs = 192.0.2.9", "", ""),
        "a.conf:8:5: connections.c.remote_adrs: unknown key; expected a key of `connections.<conn>`; did you mean `remote_addrs`?",
    );
    is_wrong(
        &connection("", "locla_ts = 10.0.0.0/8", ""),
        "a.conf:10:7: connections.c.children.n.locla_ts: unknown key; expected a key of `connections.<conn>.children.<child>`; did you mean `local_ts`?",
    );
    is_wrong(
        &connection("childern { }", "", ""),
        "a.conf:8:5: connections.c.childern: unknown section; expected a key of `connections.<conn>`; did you mean `children`?",
    );
    is_wrong(
        "conections {\n  a { encap = yes\n  }\n}\n",
        "a.conf:2:3: conections.a: nothing reads this section; expected a section that Adit knows, or one that another inherits from; \
         is `conections` meant to be `connections`?",
    );
    is_wrong(
        "secrts {\n}\n",
        "a.conf:1:1: secrts: nothing reads this section; expected a section that Adit knows, or one that another inherits from; \
         did you mean `secrets`?",
    );
    is_wrong(
        "mtu = 1400\n",
        "a.conf:1:1: mtu: unknown key; expected `gateway`, `connections`, `secrets`, `pools`, `authorities` in `the file`",
    );
}

#[test]
fn keys_and_sections_are_not_confused() {
    is_wrong(
        "gateway = 1\n",
        "a.conf:1:1: gateway: this is a section, not a key; expected `gateway { ... }`",
    );
    is_wrong(
        "gateway { mtu { } }\n",
        "a.conf:1:11: gateway.mtu: this is a key, not a section; expected `mtu = ...`",
    );
    is_wrong(
        &connection("local_addrs { }", "", ""),
        "a.conf:8:5: connections.c.local_addrs: this is a key, not a section; expected `local_addrs = ...`",
    );
}

#[test]
fn bad_values_are_errors_at_the_value() {
    for (line, expected) in [
        ("encap = maybe", "8:13: connections.c.encap: bad value `maybe`; expected `yes` or `no`"),
        (
            "dpd_delay = 5 weeks",
            "8:17: connections.c.dpd_delay: bad value `5 weeks`; expected a time: a whole number of seconds, or with `ms`, `s`, `m`, `h` or `d`",
        ),
        (
            "dpd_delay = -1",
            "8:17: connections.c.dpd_delay: bad value `-1`; expected a time: a whole number of seconds, or with `ms`, `s`, `m`, `h` or `d`",
        ),
        (
            "dpd_delay = 99999999999999999999d",
            "8:17: connections.c.dpd_delay: bad value `99999999999999999999d`; expected a time: a whole number of seconds, or with `ms`, `s`, `m`, `h` or `d`",
        ),
        (
            "remote_port = 65536",
            "8:19: connections.c.remote_port: bad value `65536`; expected a whole number from 1 to 65535",
        ),
        (
            "local_port = 4501",
            "8:18: connections.c.local_port: the gateway does not listen on this port; expected `500` or `4500`",
        ),
        ("version = 3", "8:15: connections.c.version: bad value `3`; expected `2` or `0`; did you mean `2`?"),
        (
            "local_addrs = 192.0.2.1, 192.0.2.300",
            "8:30: connections.c.local_addrs: bad value `192.0.2.300`; expected an IP address, prefix (`192.0.2.0/24`), range (`192.0.2.1-192.0.2.9`), host name or `%any`",
        ),
        (
            "local_addrs = 192.0.2.0/33",
            "8:19: connections.c.local_addrs: bad value `192.0.2.0/33`; expected an IP address, prefix (`192.0.2.0/24`), range (`192.0.2.1-192.0.2.9`), host name or `%any`",
        ),
        (
            "local_addrs = 192.0.2.9-192.0.2.1",
            "8:19: connections.c.local_addrs: bad value `192.0.2.9-192.0.2.1`; expected an IP address, prefix (`192.0.2.0/24`), range (`192.0.2.1-192.0.2.9`), host name or `%any`",
        ),
        (
            "local_addrs = 192.0.2.1,,192.0.2.2",
            "8:19: connections.c.local_addrs: an item of the list is empty; expected an IP address, prefix (`192.0.2.0/24`), range (`192.0.2.1-192.0.2.9`), host name or `%any`",
        ),
        (
            "local_addrs = 2001:db8::1, fe80::1",
            "8:32: connections.c.local_addrs: `fe80::1` is link-local, and those addresses cannot be reached without an interface; expected an address that is routed, like a global or a unique local one",
        ),
        (
            "remote_addrs = fe80::/10",
            "8:20: connections.c.remote_addrs: `fe80::/10` is link-local, and those addresses cannot be reached without an interface; expected an address that is routed, like a global or a unique local one",
        ),
        (
            "local_addrs = any",
            "8:19: connections.c.local_addrs: bad value `any`; expected an IP address, prefix (`192.0.2.0/24`), range (`192.0.2.1-192.0.2.9`), host name or `%any`; did you mean `%any`?",
        ),
        (
            "local_addrs = -gw.example.com",
            "8:19: connections.c.local_addrs: bad value `-gw.example.com`; expected an IP address, prefix (`192.0.2.0/24`), range (`192.0.2.1-192.0.2.9`), host name or `%any`",
        ),
        (
            "unique = replcae",
            "8:14: connections.c.unique: bad value `replcae`; expected `no` or `never` or `keep` or `replace`; did you mean `replace`?",
        ),
    ] {
        is_wrong(&connection(line, "", ""), &format!("a.conf:{expected}"));
    }
}

#[test]
fn bad_selectors_are_errors_at_the_part_that_is_bad() {
    const SELECTOR: &str = "expected a prefix, address, range or `dynamic`, with `[protocol/port]` behind it if that is meant (`10.1.0.0/16[tcp/443]`)";
    const PORT: &str = "expected a port by name or number, a range `first-last`, `opaque` or `any`";
    for (value, column, expected) in [
        ("10.0.0.0/8, 10.0.0/8", 30, format!("bad value `10.0.0/8`; {SELECTOR}")),
        ("dynamik", 18, format!("bad value `dynamik`; {SELECTOR}; did you mean `dynamic`?")),
        ("10.0.0.0/8[tcp", 18, format!("`[` without a `]` at the end; {SELECTOR}")),
        (
            "10.0.0.0/8[tpc/80]",
            29,
            "bad value `tpc`; expected an IP protocol by name or number, or `any`; did you mean `tcp`?"
                .to_owned(),
        ),
        (
            "10.0.0.0/8[256]",
            29,
            "bad value `256`; expected an IP protocol by name or number, or `any`".to_owned(),
        ),
        ("10.0.0.0/8[tcp/htpp]", 33, format!("bad value `htpp`; {PORT}; did you mean `http`?")),
        ("10.0.0.0/8[tcp/90-80]", 33, format!("bad value `90-80`; {PORT}")),
        (
            "10.0.0.0/8[any/80]",
            29,
            "this protocol has no ports; expected a protocol with ports, like `tcp`".to_owned(),
        ),
    ] {
        let text = connection("", &format!("local_ts = {value}"), "");
        is_wrong(&text, &format!("a.conf:10:{column}: connections.c.children.n.local_ts: {expected}"));
    }
}

#[test]
fn a_proposal_that_cannot_be_done_is_an_error_at_its_keyword() {
    let found = errors(&connection("", "esp_proposals = default, aes256gcm17", ""));
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("a.conf:10:32: connections.c.children.n.esp_proposals: "), "{found:?}");
    assert!(
        found[0].contains("aes256gcm17") && found[0].ends_with("did you mean `aes256gcm16`?"),
        "{found:?}"
    );
}

#[test]
fn identities_are_checked() {
    let found = errors(&connection("", "", "").replace("id = a.example", "id = *.example"));
    assert_eq!(found.len(), 1);
    assert!(
        found[0].starts_with("a.conf:5:12: connections.c.local.id: bad value `*.example`: "),
        "{found:?}"
    );
}

#[test]
fn interfaces_that_make_no_sense_are_errors() {
    let everything = "local_ts = 0.0.0.0/0\n remote_ts = 0.0.0.0/0";
    for (line, child, expected) in [
        (
            "interface = much-too-long-name",
            everything,
            "8:17: connections.c.interface: bad value `much-too-long-name`; expected the name of an interface: at most 15 characters, no `/`, `:`, `%` or blank, none of Linux's own",
        ),
        (
            "interface = all",
            everything,
            "8:17: connections.c.interface: bad value `all`; expected the name of an interface: at most 15 characters, no `/`, `:`, `%` or blank, none of Linux's own",
        ),
        (
            "interface = adit0",
            everything,
            "8:17: connections.c.interface: this interface takes the traffic of connections without one of their own; expected another name than `gateway.tun`",
        ),
        (
            "interface_addrs = 10.0.0.1/24",
            everything,
            "8:23: connections.c.interface_addrs: this connection has no interface; expected `interface = <name>` beside it",
        ),
        (
            "interface_adrs = 10.0.0.1/24",
            everything,
            "8:5: connections.c.interface_adrs: unknown key; expected a key of `connections.<conn>`; did you mean `interface_addrs`?",
        ),
        (
            "interface = vpn0\ninterface_addrs = 10.0.0.1",
            everything,
            "9:19: connections.c.interface_addrs: bad value `10.0.0.1`; expected an address with the length of its prefix, like `10.2.0.1/16` or `fd00:2::1/64`; did you mean `10.0.0.1/32`?",
        ),
        (
            "interface = vpn0\ninterface_routes = 10.0.0.1/24",
            everything,
            "9:20: connections.c.interface_routes: `10.0.0.1/24` is an address in a network, not a network; expected `10.0.0.0/24`",
        ),
        (
            "interface = vpn0\ninterface_addrs = fd00::1/64\ninterface_mtu = 1279",
            everything,
            "10:17: connections.c.interface_mtu: too small for IPv6; expected at least `1280`, or no IPv6 on this interface",
        ),
        (
            "interface = vpn0",
            "mode = transport\n local_ts = 10.0.0.1\n remote_ts = 10.0.0.2",
            "10:14: connections.c.children.n.mode: what two hosts send each other in transport mode takes no interface; expected `tunnel` or `iptfs`, or no `interface`; interface (a.conf:8:17)",
        ),
        (
            "interface = vpn0",
            "mode = pass\n start_action = trap\n local_ts = 10.0.0.1\n remote_ts = 10.0.0.2",
            "10:14: connections.c.children.n.mode: what is routed to an interface is protected by its connection, or dropped; expected this child in a connection without `interface`; interface (a.conf:8:17)",
        ),
        (
            "",
            "mark_out = 7\n local_ts = 10.0.0.0/8",
            "10:18: connections.c.children.n.mark_out: marks are told apart by routes to an interface, and this connection has none; expected `interface = <name>` in the connection",
        ),
        (
            "interface = vpn0",
            "mark_out = 0xdc/0xff\n local_ts = 10.0.0.0/8\n remote_ts = 10.0.0.0/8",
            "10:18: connections.c.children: packets of the gateway itself have such a mark (`gateway.mark`, 220); expected a mark that they do not have",
        ),
        (
            "interface = vpn0",
            "set_mark_in = 220\n local_ts = 10.0.0.0/8\n remote_ts = 10.0.0.0/8",
            "10:21: connections.c.children: packets of the gateway itself have such a mark (`gateway.mark`, 220); expected a mark that they do not have",
        ),
        (
            "interface = vpn0",
            "set_mark_out = 7\n local_ts = 10.0.0.0/8\n remote_ts = 10.0.0.0/8",
            "10:22: connections.c.children.n.set_mark_out: `7` is not done yet; expected no such key: all that the gateway itself sends has the mark `gateway.mark`; an `ip rule` for the peer's address leads its ESP elsewhere",
        ),
        (
            "interface = vpn0",
            "mark_in = 7\n local_ts = 10.0.0.0/8\n remote_ts = 10.0.0.0/8",
            "10:17: connections.c.children.n.mark_in: `7` is not done yet; expected no such key: what an SA delivers comes from the interface of its connection, whatever mark its ESP had",
        ),
        (
            "if_id_out = 7",
            everything,
            "8:17: connections.c.if_id_out: `7` is not done yet; expected `interface = <name>` in the connection: an interface of its own, which Adit makes",
        ),
        (
            "",
            "interface = eth0",
            "10:19: connections.c.children.n.interface: `eth0` is not done yet; expected `interface = <name>` in the connection: an interface of its own, which Adit makes",
        ),
    ] {
        is_wrong(&connection(line, child, ""), &format!("a.conf:{expected}"));
    }
}

#[test]
fn an_interface_is_shared_only_where_it_is_clear_whose_a_packet_is() {
    let second = |lines: &str, remote: &str| {
        format!(
            "connections {{
  d {{
    remote_addrs = 192.0.2.3
    local {{ auth = psk
      id = a.example }}
    remote {{ auth = psk
      id = d.example }}
    {lines}
    children {{ n {{
      local_ts = 0.0.0.0/0
      remote_ts = {remote}
    }} }}
  }}
}}"
        )
    };
    let both = |first: &str, lines: &str, remote: &str| {
        let child = "local_ts = 0.0.0.0/0\n remote_ts = 10.2.0.0/16";
        connection(first, child, &second(lines, remote))
    };
    let routes = "interface_routes = 10.2.0.0/16";
    assert_eq!(
        errors(&both("interface = vpn0", "interface = vpn0", "0.0.0.0/0")),
        [
            "a.conf:24:17: connections.d.interface: the connection `c` has the same interface, and selectors that overlap; expected an interface of its own, or selectors that do not overlap; the other one (a.conf:8:17)"
        ]
    );
    assert_eq!(
        errors(&both(
            &format!("interface = vpn0\n{routes}"),
            &format!("interface = vpn1\n{routes}"),
            "0.0.0.0/0"
        )),
        [
            "a.conf:26:20: connections.d.interface_routes: `10.2.0.0/16` is routed to another interface already; expected one interface for each route; the other one (a.conf:9:20)"
        ]
    );
    assert_eq!(
        errors(&both(
            "interface = vpn0\ninterface_mtu = 1300",
            "interface = vpn0\ninterface_mtu = 1400",
            "10.3.0.0/16"
        )),
        [
            "a.conf:25:17: connections.d.interface: two connections give this interface different MTUs; expected one `interface_mtu`; the other one (a.conf:8:17)"
        ]
    );
    let shared = good(&both(
        &format!("interface = vpn0\n{routes}"),
        &format!("interface = vpn0\n{routes}"),
        "10.3.0.0/16",
    ));
    assert!(shared.interfaces.len() == 2 && shared.warnings.is_empty(), "{:?}", shared.warnings);
}

#[test]
fn what_is_not_done_yet_is_an_error_that_says_so() {
    for (line, child, expected) in [
        ("version = 1", "", "8:15: connections.c.version: `1` is not done yet; expected `2` or `0`"),
        ("vips = 0.0.0.0", "", "8:5: connections.c.vips: not done yet; expected no such key"),
        (
            "",
            "mode = beet",
            "10:14: connections.c.children.n.mode: `beet` is not done yet; expected `tunnel` or `transport` or `iptfs` or `pass` or `drop`",
        ),
        (
            "",
            "mark_in = %unique",
            "10:17: connections.c.children.n.mark_in: `%unique` is not done yet; expected a mark: `value` or `value/mask`",
        ),
        (
            "",
            "updown = /bin/true",
            "10:7: connections.c.children.n.updown: not done yet; expected no such key",
        ),
    ] {
        is_wrong(&connection(line, child, ""), &format!("a.conf:{expected}"));
    }
    is_wrong(
        &connection("", "", "").replace("remote { auth = psk", "remote { auth = eap-mschapv2"),
        "a.conf:6:21: connections.c.remote.auth: `eap-mschapv2` is not done yet; expected `psk` or `pubkey`",
    );
    is_wrong(
        "secrets {\n  eap-joe { secret = hunter2\n  }\n}\n",
        "a.conf:2:3: secrets.eap-joe: sections of this kind are not done yet; expected `ike*` or `ppk*` or `private*` or `rsa*` or `ecdsa*` or `pkcs8*`",
    );
    is_wrong(
        "pools {\n  p { addrs = 10.0.0.0/24\n  }\n}\n",
        "a.conf:2:3: pools.p: sections of this kind are not done yet; expected nothing here",
    );
}

#[test]
fn what_is_missing_is_an_error_at_the_section() {
    is_wrong(
        "connections {\n  c { remote { auth = psk\n  } }\n}\n",
        "a.conf:2:3: connections.c: there is no section `local`; expected `local { auth = psk }` in this section",
    );
    is_wrong(
        "connections {\n  c { local { id = a.example\n  }\n  remote { auth = psk\n  } }\n}\nsecrets { ike { secret = x\n } }",
        "a.conf:2:7: connections.c.local.certs: there is no certificate to authenticate by; expected `certs = <file in \
         x509>` with its key in `private`; or `auth = psk`, if that is meant",
    );
    is_wrong(
        "secrets {\n  ike-1 { id = a\n  }\n}\n",
        "a.conf:2:3: secrets.ike-1: there is no `secret`; expected `secret = ...` in this section",
    );
    is_wrong(
        &connection("local-2 { auth = psk\n}", "", ""),
        "a.conf:8:5: connections.c.local-2: several authentication rounds are not done yet; expected one `local` section; the first round (a.conf:4:5)",
    );
}

#[test]
fn values_that_contradict_each_other_are_errors() {
    is_wrong(
        &connection("", "start_action = start", "").replace("192.0.2.2", "192.0.2.0/24"),
        "a.conf:10:22: connections.c.children.n.start_action: the child cannot be started: the connection has no single address to dial; \
         expected an address in `remote_addrs`; remote_addrs (a.conf:3:20)",
    );
    is_wrong(
        &connection("", "start_action = start", "").replace("remote_addrs = 192.0.2.2", ""),
        "a.conf:10:22: connections.c.children.n.start_action: the child cannot be started: the connection has no single address to dial; \
         expected `remote_addrs = <address>` in the connection",
    );
    is_wrong(
        &connection("", "local_ts = 10.0.0.0/8\n remote_ts = 2001:db8::/32", ""),
        "a.conf:11:14: connections.c.children.n.remote_ts: no address family in common with the other side: nothing could pass; \
         expected selectors of one family on both sides; local_ts (a.conf:10:18)",
    );
    is_wrong(
        &connection("local_addrs = 2001:db8::1", "", ""),
        "a.conf:8:19: connections.c.local_addrs: no address family in common with the peer's; \
         expected addresses of one family on both sides; the peer's (a.conf:3:20)",
    );
    is_wrong(
        &connection("", "esp_proposals = aes256gcm16-esn\n replay_window = 0", ""),
        "a.conf:11:18: connections.c.children.n.replay_window: extended sequence numbers need a replay window; \
         expected a window, or `esp_proposals` with `noesn`; `esn` is offered here (a.conf:10:23)",
    );
    assert_eq!(
        good(&connection("", "esp_proposals = aes256gcm16-noesn\n replay_window = 0", "")).ike.connections[0]
            .children[0]
            .replay_window,
        0
    );
    is_wrong(
        "gateway {\n  ike_port = 4500\n}\n",
        "a.conf:2:14: gateway.nat_t_port: the same port as `ike_port`; expected two different ports; the other one (a.conf:2:14)",
    );
    is_wrong(
        "gateway {\n  routing_table = 254\n}\n",
        "a.conf:2:19: gateway.routing_table: this table belongs to the system; expected any other number than 253, 254 and 255",
    );
}

#[test]
fn limits_that_contradict_each_other_are_errors() {
    for (line, child, expected) in [
        (
            "over_time = 0",
            "",
            "8:17: connections.c.over_time: the IKE SA would end when its renewal begins; expected time for the renewal",
        ),
        (
            "rand_time = 4h",
            "",
            "8:17: connections.c.rand_time: the IKE SA might be renewed as soon as it is up; expected less than `rekey_time` and `reauth_time`",
        ),
        (
            "rekey_time = 1h\n reauth_time = 2h\n rand_time = 1h",
            "",
            "10:14: connections.c.rand_time: the IKE SA might be renewed as soon as it is up; \
             expected less than `rekey_time` and `reauth_time`",
        ),
        (
            "",
            "rekey_time = 2h\n life_time = 2h",
            "11:14: connections.c.children.n.life_time: the Child SA would end before it is rekeyed; \
             expected more than `rekey_time`",
        ),
        (
            "",
            "rekey_bytes = 2k\n life_bytes = 1k",
            "11:15: connections.c.children.n.life_bytes: the Child SA would end before it is rekeyed; \
             expected more than `rekey_bytes`",
        ),
        (
            "",
            "rand_time = 1h",
            "10:19: connections.c.children.n.rand_time: the Child SA might be rekeyed as soon as it is up; expected less than `rekey_time`",
        ),
        (
            "retransmit_wait = 0",
            "",
            "8:23: connections.c.retransmit_wait: too short; expected at least `10ms`",
        ),
        (
            "retransmit_longest_wait = 400ms",
            "",
            "8:31: connections.c.retransmit_longest_wait: too short; expected at least `retransmit_wait`",
        ),
        (
            "post_quantum = required\n proposals = aes256gcm16-prfsha384-x25519",
            "",
            "8:20: connections.c.post_quantum: nothing here is safe from a quantum computer, so every peer would be refused; \
             expected ML-KEM in `proposals`, like `x25519-ke1_mlkem768`, or a section `secrets.ppk...`",
        ),
        (
            "ppk_required = yes",
            "start_action = trap",
            "10:22: connections.c.children.n.start_action: the child cannot be started: `ppk_required` needs to know which key to propose; \
             expected `ppk_id = ...` in the connection; ppk_required (a.conf:8:20)",
        ),
    ] {
        is_wrong(&connection(line, child, ""), &format!("a.conf:{expected}"));
    }
    let keys: Vec<String> = good(&connection("local_addrs = 192.0.2.1\n ppk_id = a", "", ""))
        .warnings
        .iter()
        .map(|warning| format!("{}: {}", warning.key, warning.message))
        .collect();
    assert_eq!(keys, ["connections.c.ppk_id: no post-quantum preshared key fits"]);
}

#[test]
fn the_control_socket_is_a_path_or_on_loopback() {
    for bad in
        ["/run/adit.vici", "unix://run/x", "tcp://192.0.2.1:4502", "tcp://127.0.0.1", "http://127.0.0.1:80"]
    {
        is_wrong(
            &format!("gateway {{\n  control = {bad}\n}}\n"),
            &format!(
                "a.conf:2:13: gateway.control: bad value `{bad}`; expected `unix:///absolute/path` or `tcp://address:port` with a loopback address"
            ),
        );
    }
}

#[test]
fn an_error_in_an_inherited_or_included_value_is_where_it_was_written_and_told_once() {
    let files = [
        (
            "a.conf",
            "connections {\n a : base { }\n b : base { }\n}\nsecrets { ike { secret = x\n} }\ninclude d/*\n",
        ),
        (
            "d/base.conf",
            "base {\n  encap = perhaps\n  local { auth = psk\n }\n  remote { auth = psk\n }\n}\n",
        ),
    ];
    assert_eq!(
        errors_of(&files),
        ["d/base.conf:2:11: connections.a.encap: bad value `perhaps`; expected `yes` or `no`"]
    );
}

#[test]
fn one_mistake_is_told_once() {
    let text = connection("", "start_action = start", "").replace("remote_addrs", "remote_adrs");
    assert_eq!(errors(&text).len(), 1, "{:?}", errors(&text));
    let text = connection("", "", "").replace("secret =", "sceret =");
    let diagnostics = load(&[("a.conf", &text)]).unwrap_err();
    assert_eq!((diagnostics.errors.len(), diagnostics.warnings.len()), (1, 0), "{diagnostics}");
}

#[test]
fn all_errors_are_told_up_to_a_limit() {
    let lines: String = (0..60).map(|n| format!("k{n}xxxxx = 1\n")).collect();
    let diagnostics = load(&[("a.conf", &format!("gateway {{\n{lines}}}\n"))]).unwrap_err();
    assert_eq!(diagnostics.errors.len(), 50);
    let two = errors("gateway {\n  mtu = x\n  mark = y\n}\n");
    assert_eq!(two.len(), 2);
}

#[test]
fn warnings_leave_the_configuration_usable() {
    let text = connection("local_addrs = 192.0.2.1", "", "")
        .replace("secret = hunter2", "id = c.example\n secret = hunter2");
    let configuration = good(&text);
    let warnings: Vec<String> = configuration.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        ["a.conf:4:20: connections.c.local.auth: no secret fits this connection; \
          expected a section `secrets.ike...` that names the peer, or only us, or nobody"]
    );
    let twice = connection("local_addrs = 192.0.2.1", "", "")
        .replace("remote {", "local { encap = no }\n remote {")
        .replace("encap = no", "");
    let configuration = good(&twice);
    assert!(configuration.warnings[0].to_string().starts_with(
        "a.conf:6:5: connections.c.local: section `local` is opened a second time in this file; both are merged; first opened here (a.conf:4:5)"
    ));
}

#[test]
fn a_file_with_secrets_that_everybody_may_read_is_pointed_out() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.conf");
    std::fs::write(&path, connection("local_addrs = 192.0.2.1", "", "")).unwrap();
    let warnings = |mode| {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        crate::config::load(&path).unwrap().warnings
    };
    assert!(warnings(0o600).is_empty());
    let [warning] = <[_; 1]>::try_from(warnings(0o644)).unwrap();
    assert_eq!(warning.message, "this file holds a secret and everybody may read it");
    let place = warning.place.as_ref().unwrap();
    assert_eq!((place.line, place.column), (14, 28));
    assert!(!warning.render(false).contains("hunter2"));
}

#[test]
fn an_excerpt_shows_the_line_the_place_and_the_advice() {
    let diagnostics = load(&[("a.conf", "gateway {\n  mut = 1400\n}\n")]).unwrap_err();
    assert_eq!(
        diagnostics.render(false),
        "error: gateway.mut: unknown key
 --> a.conf:2:3
  |
2 |   mut = 1400
  |   ^^^ expected a key of `gateway`
  |
  = help: did you mean `mtu`?

"
    );
    let json: serde_json::Value = serde_json::to_value(&diagnostics).unwrap();
    let error = &json["errors"][0];
    assert_eq!(error["file"], "a.conf");
    assert_eq!((&error["line"], &error["column"], &error["nearest"]), (&2.into(), &3.into(), &"mtu".into()));
}

#[test]
fn bad_secrets_are_errors_that_do_not_show_them() {
    for (secret, expected) in [
        ("0x0g", "bad hexadecimal; expected an even number of hexadecimal digits behind `0x`"),
        ("0xabc", "bad hexadecimal; expected an even number of hexadecimal digits behind `0x`"),
        ("0s!!!!", "bad base64; expected base64 behind `0s`"),
        ("\"\"", "the secret is empty; expected text, hexadecimal behind `0x`, or base64 behind `0s`"),
    ] {
        let text = format!("secrets {{\n  ike {{\n    secret = {secret}\n  }}\n}}\n");
        is_wrong(&text, &format!("a.conf:3:14: secrets.ike.secret: {expected}"));
        let shown = load(&[("a.conf", &text)]).unwrap_err().render(false);
        assert!(shown.contains("    secret = ***\n") && !shown.contains(secret), "{shown}");
    }
}

/// A configuration with a secret in every way they are written.
const SECRETIVE: &str = "connections {
  c : base {
    remote_addrs = 192.0.2.2
    children { n { start_action = start } }
  }
}
secrets {
  ike-1 {
    id-a = a.example
    secret = HUNTERTWO
  }
  ike-2 { secret = \"HUNTERTWO\" }
  ike-3 : base-secret { id = b.example }
  ike-4 {
    secret = 0sAHUNTERTWOAA # HUNTERTWO
    id = c.example
  }
}
base-secret { secret = HUNTERTWO
}
base {
  local { auth = psk }
  remote { auth = psk }
}
";

fn shows_nothing(text: &str) {
    let (plain, lines, json) = match load(&[("a.conf", text)]) {
        Ok(configuration) => {
            let warnings = configuration.warnings;
            let rendered: String = warnings.iter().map(|warning| warning.render(false)).collect();
            let lines: String = warnings.iter().map(ToString::to_string).collect();
            (rendered, lines, serde_json::to_string(&warnings).unwrap())
        }
        Err(diagnostics) => {
            (diagnostics.render(false), diagnostics.to_string(), serde_json::to_string(&diagnostics).unwrap())
        }
    };
    for shown in [&plain, &lines, &json] {
        assert!(!shown.contains("HUNTERTWO"), "{text}\n{shown}");
    }
}

/// Every slip of the finger: a character left out, doubled, or replaced by one that means something.
#[test]
fn no_slip_of_the_finger_shows_a_secret() {
    assert!(errors(SECRETIVE).is_empty());
    let secrets: Vec<usize> = SECRETIVE.match_indices("HUNTERTWO").map(|(at, _)| at).collect();
    for (at, character) in SECRETIVE.char_indices() {
        if secrets.iter().any(|secret| (*secret..secret + 9).contains(&at)) {
            continue;
        }
        let (before, after) = (&SECRETIVE[..at], &SECRETIVE[at + 1..]);
        shows_nothing(&format!("{before}{after}"));
        for other in ["\"", "}", "{", "#", "=", ":", ".", ",", " ", "\n", "\\", "x"] {
            shows_nothing(&format!("{before}{other}{after}"));
            shows_nothing(&format!("{before}{other}{character}{after}"));
        }
    }
}

/// A section that opens where a secret should stand is named after it.
#[test]
fn a_secret_that_became_a_section_stays_hidden() {
    shows_nothing("secrets { ike-4 { secret = x\n 0sAHUNTERTWO {\n nonsense\n } } }\n");
}

proptest! {
    // The same slips every time, so that a change is judged and not luck; PROPTEST_RNG_SEED tries others.
    #![proptest_config(ProptestConfig {
        cases: 2_000,
        failure_persistence: None,
        rng_seed: std::env::var("PROPTEST_RNG_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(RngSeed::Fixed(2)),
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_two_slips_show_a_secret(slips in proptest::collection::vec((0..10_000usize, 0..13usize), 2..4)) {
        let mut text = SECRETIVE.to_owned();
        for (at, what) in slips {
            let secrets: Vec<usize> = text.match_indices("HUNTERTWO").map(|(at, _)| at).collect();
            let at = at % text.len();
            if secrets.iter().any(|secret| (*secret..secret + 9).contains(&at)) {
                continue;
            }
            let with = ["", "\"", "}", "{", "#", "=", ":", ".", ",", " ", "\n", "\\", "x"][what];
            text.replace_range(at..at + 1, with);
        }
        shows_nothing(&text);
    }
}

#[test]
fn a_child_that_passes_or_drops_has_to_be_one_that_can() {
    for (child, expected) in [
        (
            "mode = pass\nlocal_ts = 10.0.0.0/8\nremote_ts = 10.0.0.0/8",
            "a.conf:2:8: connections.c.children.n.start_action: this child would never be in force: nothing brings it \
             up; expected `start_action = trap`, as in strongSwan",
        ),
        (
            "mode = drop\nstart_action = start",
            "a.conf:3:16: connections.c.children.n.start_action: this child would never be in force: nothing brings it \
             up; expected `start_action = trap`, as in strongSwan",
        ),
        (
            "mode = pass\nstart_action = trap\nlocal_ts = 10.0.0.0/8[icmp/8]",
            "a.conf:4:12: connections.c.children.n.local_ts: routes cannot tell these packets from others of their \
             protocol; expected the whole protocol, or ports of TCP, UDP, DCCP or SCTP",
        ),
        (
            "mode = drop\nstart_action = trap\nlocal_ts = 10.0.0.0/8\nremote_ts = fd00::/8",
            "a.conf:5:13: connections.c.children.n.remote_ts: no address family in common with the other side: nothing \
             could pass; expected selectors of one family on both sides; local_ts (a.conf:4:12)",
        ),
    ] {
        let text = format!("connections {{ c {{ children {{ n {{\n{child}\n}} }} }} }}");
        is_wrong(&text, expected);
    }
}

#[test]
fn networks_that_do_not_stand_for_each_other_are_errors() {
    const EXPECTED: &str =
        "expected one prefix for each in the same order, of the same length, without protocol and port";
    for (ts, net) in [
        ("10.1.1.0/24", "192.168.1.0/25"),
        ("10.1.1.0/24", "192.168.1.0/24, 192.168.2.0/24"),
        ("10.1.1.0/24, 10.1.2.0/24", "192.168.1.0/24"),
        ("10.1.1.0/24", "fd00::/24"),
        ("10.1.1.0/24[tcp]", "192.168.1.0/24"),
        ("10.1.1.0/24", "192.168.1.0/24[tcp/80]"),
        ("10.1.1.0-10.1.1.9", "192.168.1.0-192.168.1.9"),
        ("dynamic", "192.168.1.0/24"),
    ] {
        let text = connection("", &format!("local_ts = {ts}\n      local_net = {net}"), "");
        is_wrong(
            &text,
            &format!(
                "a.conf:11:19: connections.c.children.n.local_net: these networks and those of `local_ts` do not stand \
                 for each other; {EXPECTED}; local_ts"
            ),
        );
    }
    is_wrong(
        &connection("", "tfc_padding = much", ""),
        "a.conf:10:21: connections.c.children.n.tfc_padding: bad value `much`; expected a whole number from 0 to 65535, or `mtu`",
    );
    is_wrong(
        &connection("", "dummies = 10s\n      mode = iptfs", ""),
        "a.conf:10:17: connections.c.children.n.dummies: IP-TFS has no dummies: payloads leave without anything in them; expected \
         `iptfs_rate`, or another mode",
    );
}
