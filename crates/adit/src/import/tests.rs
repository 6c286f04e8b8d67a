//! Files in the shape that those programs' manuals describe, line by line.

use std::collections::HashMap;

use super::*;

/// Files by name.
struct Made(HashMap<&'static str, &'static str>);

impl Files for Made {
    fn expand(&self, pattern: &Path) -> Result<Vec<PathBuf>, String> {
        let start = pattern.to_str().unwrap_or_default().trim_end_matches("*.conf").to_owned();
        let mut found: Vec<PathBuf> =
            self.0.keys().filter(|name| name.starts_with(&start)).map(PathBuf::from).collect();
        found.sort();
        Ok(found)
    }

    fn read(&self, path: &Path, _: usize) -> Result<Zeroizing<Vec<u8>>, String> {
        let content = self.0.get(path.to_str().unwrap_or_default()).ok_or("no such file")?;
        Ok(Zeroizing::new(content.as_bytes().to_vec()))
    }
}

fn translate(files: &[(&'static str, &'static str)]) -> Imported {
    translate_as(files, None, &|_| false)
}

fn translate_as(
    files: &[(&'static str, &'static str)],
    dialect: Option<Dialect>,
    is_ours: &dyn Fn(IpAddr) -> bool,
) -> Imported {
    let made = Made(files.iter().copied().collect());
    let secrets = Path::new("ipsec.secrets");
    let secrets = made.0.contains_key("ipsec.secrets").then_some(secrets);
    let imported = import_from(Path::new("ipsec.conf"), secrets, dialect, is_ours, &made).unwrap();
    let text = format!("{}{}", imported.connections, *imported.secrets);
    assert_eq!(check(&text).map_err(|errors| errors.render(false)), Ok(()), "{text}");
    imported
}

fn lines(imported: &Imported) -> Vec<(usize, &str)> {
    imported.reports.iter().map(|report| (report.line, report.why.as_str())).collect()
}

/// Two sites that share most, as in strongSwan's manual of ipsec.conf.
#[test]
fn strongswan_sites() {
    let imported = translate(&[
        (
            "ipsec.conf",
            "\
# ipsec.conf
config setup
\tuniqueids=no
\tcharondebug=\"ike 2, knl 1\"

conn %default
\tikelifetime=60m
\tkeylife=20m
\trekeymargin=3m
\tkeyingtries=%forever
\tkeyexchange=ikev2
\tauthby=secret

conn base
\tleft=192.0.2.1
\tleftid=@hq.example.com
\tleftfirewall=yes
\tright=branch.example.org   # resolved
\tike=aes256-sha256-modp2048!
\tesp=aes256gcm16-ecp256
\tdpdaction=restart
\tdpddelay=10s

conn office
\talso=base
\tleftsubnet=10.1.0.0/16,10.9.0.0/24
\trightsubnet=10.2.0.0/16
\tauto=start

conn telephones
\talso=base
\tleftsubnet=10.1.7.0/24
\trightsubnet=10.2.7.0/24
\tleftprotoport=17/5060
\tkeylife=10m
\tauto=route
",
        ),
        ("ipsec.secrets", "# secrets\n@hq.example.com branch.example.org : PSK \"it's a \\ secret\"\n"),
    ]);
    assert_eq!(
        imported.connections,
        "\
# ipsec.conf:4: charondebug=\"ike 2, knl 1\": what is logged says `log` in the section `gateway`
connections {
    office {
        # ipsec.conf:17: leftfirewall=yes: scripts are not run; `adit events --follow --json` tells of tunnels, and the packet filter is yours
        version = 2
        local_addrs = 192.0.2.1
        remote_addrs = branch.example.org
        unique = no
        proposals = aes256-sha256-modp2048
        rekey_time = 3420
        over_time = 180
        rand_time = 180
        dpd_delay = 10s
        keyingtries = 0
        local {
            auth = psk
            id = @hq.example.com
        }
        remote {
            auth = psk
            id = branch.example.org
        }
        children {
            office {
                local_ts = 10.1.0.0/16, 10.9.0.0/24
                remote_ts = 10.2.0.0/16
                esp_proposals = aes256gcm16-ecp256, default
                life_time = 1200
                rekey_time = 1020
                rand_time = 180
                dpd_action = restart
                start_action = start
            }
            telephones {
                local_ts = 10.1.7.0/24[udp/5060]
                remote_ts = 10.2.7.0/24
                esp_proposals = aes256gcm16-ecp256, default
                life_time = 600
                rekey_time = 420
                rand_time = 180
                dpd_action = restart
                start_action = trap
            }
        }
    }
}
"
    );
    // `it's a \ secret`: a backslash means something else there.
    let hexadecimal: String = b"it's a \\ secret".iter().map(|octet| format!("{octet:02x}")).collect();
    assert_eq!(
        *imported.secrets,
        format!(
            "secrets {{\n    ike-1 {{\n        id-1 = @hq.example.com\n        id-2 = branch.example.org\n        secret = 0x{hexadecimal}\n    }}\n}}\n"
        )
    );
    assert_eq!(imported.counts, [1, 2, 1]);
    assert_eq!(imported.reports.iter().map(|report| report.line).collect::<Vec<_>>(), [4, 17]);
}

/// A file as Libreswan's manual of ipsec.conf has it.
#[test]
fn libreswan_subnets() {
    let imported = translate(&[
        (
            "ipsec.conf",
            "\
config setup
    protostack=netkey
    virtual_private=%v4:10.0.0.0/8

conn mysubnets
    left=192.0.2.1
    leftid=\"@west\"
    leftsubnets={10.1.0.0/16 10.2.0.0/16}
    right=198.51.100.7
    rightsubnets={10.8.0.0/16,10.9.0.0/16}
    authby=secret
    ikev2=insist
    ike=aes_gcm256-sha2;dh19
    phase2alg=aes256-sha2_512
    salifetime=1h
    dpddelay=5
    retransmit-interval=500
    encapsulation=auto
    narrowing=yes
    ipsec-interface=yes
    auto=ondemand
",
        ),
        ("ipsec.secrets", "@west 198.51.100.7 : PSK 0x0123456789abcdef\ninclude /nowhere/*.conf\n"),
    ]);
    for line in [
        "proposals = aes256gcm16-prfsha256-ecp256",
        "esp_proposals = aes256-sha512-ecp256",
        "retransmit_wait = 500ms",
        "dpd_delay = 5",
        "start_action = trap",
        "mysubnets-1x2 {",
        "secret = 0x0123456789abcdef",
    ] {
        let text = format!("{}{}", imported.connections, *imported.secrets);
        assert!(text.lines().any(|own| own.trim() == line), "{line}\n{text}");
    }
    assert_eq!(imported.counts, [1, 4, 1]);
    let child = imported.connections.split("mysubnets-2x1 {").nth(1).unwrap();
    assert!(child.trim_start().starts_with("local_ts = 10.2.0.0/16\n"), "{child}");
    assert!(child.contains("remote_ts = 10.8.0.0/16\n"), "{child}");
    assert_eq!(imported.reports.iter().map(|report| report.line).collect::<Vec<_>>(), [3, 20]);
}

#[test]
fn our_side_is_found() {
    let file = |text| [("ipsec.conf", text)];
    let swapped = "conn c\n left=192.0.2.1\n leftsubnet=10.1.0.0/16\n right=192.0.2.2\n rightid=@me\n authby=secret\n auto=add\n";
    let by = |imported: &Imported| imported.connections.contains("local_addrs = 192.0.2.1\n");
    assert!(by(&translate(&file(swapped))));
    let ours = |address: IpAddr| address.to_string() == "192.0.2.2";
    let imported = translate_as(&file(swapped), None, &ours);
    assert!(
        !by(&imported) && imported.connections.contains("remote_ts = 10.1.0.0/16"),
        "{}",
        imported.connections
    );
    let local = imported.connections.split("remote {").next().unwrap();
    assert!(local.contains("id = @me"), "{local}");
    let dynamic = "conn c\n left=192.0.2.1\n right=%defaultroute\n authby=secret\n auto=add\n";
    assert!(translate(&file(dynamic)).connections.contains("remote_addrs = 192.0.2.1\n"));
}

#[test]
fn what_cannot_be_taken_over_is_told_line_by_line() {
    let imported = translate(&[
        (
            "ipsec.conf",
            "\
conn certificates
    left=192.0.2.1
    leftcert=hq.pem
    right=%any
    auto=add
conn old
    keyexchange=ikev1
    authby=psk
    auto=start
conn template
    authby=secret
    right=192.0.2.9
conn idle
    also=template
    also=missing
conn works
    also=template
    rightsubnet=10.0.0.0/8 }
    leftsubnet=not/anetwork
    rightsourceip=10.3.0.0/24
    mark=42
    nonsense=1
    keyingtries=many
    auto=add
ca authority
    cacert=ca.pem
what is this
include conf/*.conf
",
        ),
        (
            "conf/more.conf",
            "conn shunt\n type=passthrough\n leftsubnet=10.1.0.0/16\n rightsubnet=10.1.0.0/16\n auto=route\n  stray\n",
        ),
        (
            "ipsec.secrets",
            ": RSA key.pem \"opensesame\"\n%any : PSK \"everybody's\"\nuser : XAUTH \"opensesame\"\nopensesame\n: EAP opensesame\nx : PSK opensesame too\n",
        ),
    ]);
    let told = lines(&imported);
    for (line, why) in [
        (1, "authentication by certificates or raw keys is not done yet, and there is no `authby`"),
        (6, "IKEv1 is not done yet"),
        (13, "not loaded there either: `auto` is `ignore`"),
        (15, "there is no such section"),
        (20, "virtual addresses and pools are not done yet"),
        (21, "write `interface = NAME` into the connection: an interface of its own, which Adit makes"),
        (22, "not understood"),
        (25, "certificates are not done yet"),
        (26, "in a section that is not taken over"),
        (27, "not understood"),
    ] {
        assert!(told.contains(&(line, why)), "{line} {why}\n{told:#?}");
    }
    for line in [18, 19, 23] {
        assert!(told.iter().any(|(other, _)| *other == line), "{line}\n{told:#?}");
    }
    for report in &imported.reports {
        assert!(!report.to_string().contains("sesame"), "{report}");
        let at = format!("{}:{}:", report.file.display(), report.line);
        let is_secret = report.file.ends_with("ipsec.secrets");
        let stands =
            imported.connections.lines().any(|line| line.trim().starts_with("# ") && line.contains(&at));
        assert!(is_secret || stands, "{report}\n{}", imported.connections);
    }
    assert!(imported.connections.contains("shunt {") && imported.connections.contains("mode = pass"));
    assert_eq!(*imported.secrets, "secrets {\n    ike-1 {\n        secret = \"everybody's\"\n    }\n}\n");
    assert_eq!(imported.counts, [2, 2, 1]);
}

#[test]
fn hostile_values_stay_values() {
    let imported = translate(&[(
        "ipsec.conf",
        "conn a.b{}\n left=%any\n right=192.0.2.1\n rightid=\"x } secrets { ike { secret = y\"\n authby=secret\n keyingtries=1 } children { z { mode = drop\n auto=add\nconn a.b{}-\n authby=secret\n auto=add\n",
    )]);
    assert!(!imported.connections.contains("mode = drop\n"), "{}", imported.connections);
    assert!(imported.connections.contains("    a-b--- {") || imported.connections.contains("    a-b-- {"));
    assert_eq!(imported.counts, [2, 2, 0]);
}

/// A secret that cannot be takes no other with it, and no value is more than a value.
#[test]
fn one_bad_secret_goes_alone() {
    let imported = translate(&[
        ("ipsec.conf", "conn a\n right=192.0.2.1\n authby=secret\n auto=add\n"),
        (
            "ipsec.secrets",
            "@one : PSK \"first\"\n@two : PSK 0xnothex\n@three : PSK 0x00}}connections{z{children{y{mode=drop}}}}secrets{ike-9{secret=0x00\n\
             @four @five : PSK 0sSGVsbG8=\n@six : PSK \"last\"\n",
        ),
    ]);
    assert_eq!(
        *imported.secrets,
        "secrets {
    ike-1 {
        id-1 = @one
        secret = \"first\"
    }
    ike-2 {
        id-1 = @four
        id-2 = @five
        secret = \"0sSGVsbG8=\"
    }
    ike-3 {
        id-1 = @six
        secret = \"last\"
    }
}
"
    );
    let told: Vec<usize> = imported.reports.iter().map(|report| report.line).collect();
    assert_eq!((told, imported.counts), (vec![2, 3], [1, 1, 3]));
}

/// What would let in, or let pass, more than there is left out whole.
#[test]
fn nothing_becomes_weaker() {
    let imported = translate(&[(
        "ipsec.conf",
        "conn two\n right=192.0.2.1\n authby=secret\n rightauth2=xauth\n auto=add\n\
         conn clear\n type=passthrough\n leftsubnet=10.1.0.0/16\n rightsubnet=vhost:%no\n auto=route\n",
    )]);
    assert_eq!(imported.counts, [0, 0, 0], "{}", imported.connections);
    assert_eq!(imported.reports.iter().map(|report| report.line).collect::<Vec<_>>(), [1, 6]);
    let hosts = "conn hosts\n type=passthrough\n left=192.0.2.1\n right=192.0.2.2\n rightprotoport=tcp/22\n auto=ondemand\n";
    let imported = translate(&[("ipsec.conf", hosts)]);
    for line in ["mode = pass", "local_ts = 192.0.2.1", "remote_ts = 192.0.2.2[tcp/22]"] {
        assert!(imported.connections.lines().any(|own| own.trim() == line), "{}", imported.connections);
    }
}

#[test]
fn lists_that_multiply_are_bounded() {
    let subnets: Vec<String> = (0..4000).map(|n| format!("10.{}.{}.0/24", n / 256, n % 256)).collect();
    let subnets = subnets.join(",");
    let conn = |name: &str, more: &str| {
        format!("conn {name}\n right=192.0.2.1\n authby=secret\n auto=add\n{more}\n")
    };
    let long = conn("long", &format!(" leftsubnets={{{subnets}}}\n rightsubnets={{{subnets}}}"));
    let short = conn("short", " leftsubnets=10.0.0.0/8,11.0.0.0/8\n rightsubnets=12.0.0.0/8");
    let imported = translate(&[("ipsec.conf", Box::leak(format!("{long}{short}").into_boxed_str()))]);
    assert_eq!(imported.counts, [1, 2, 0]);
    assert_eq!(lines(&imported), [(1, "4000 times 4000 subnets are too many with all the rest")]);
}

#[test]
fn includes_that_go_round_and_sections_that_take_from_each_other_end() {
    let imported = translate(&[(
        "ipsec.conf",
        "conn a\n also=b\n authby=secret\n right=192.0.2.1\n auto=add\nconn b\n also=a\n left=192.0.2.2\ninclude ipsec.conf\n",
    )]);
    assert_eq!(imported.counts[0], 1, "{}", imported.connections);
    assert!(lines(&imported).contains(&(9, "ipsec.conf: it includes itself")), "{:?}", lines(&imported));
    fuzzing::import(b"include x\ninclude y\0include ipsec.secrets\n");
}
