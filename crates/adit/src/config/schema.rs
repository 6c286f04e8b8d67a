//! Every section and key there is: its kind of value, its default, and whether Adit does it.
//!
//! This is the one table of the configuration language. Checking, suggestions and the manual
//! (`docs/configuration.md`) all come from it.

use super::diagnostic::{distance, nearest};
use super::values::{Kind, done, not_yet};

/// What may stand in one kind of section.
#[derive(Debug)]
pub(super) struct Schema {
    /// In dot notation, with `<...>` for free names.
    pub(super) path: &'static str,
    pub(super) keys: &'static [Key],
    pub(super) sections: &'static [Subsection],
}

/// One key.
#[derive(Debug)]
pub(super) struct Key {
    /// A `*` at the end stands for any suffix; `<number>` for any number.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// What Adit does without the key, as it would be written; empty if nothing.
    pub(super) default: &'static str,
    pub(super) status: Status,
    /// For the manual.
    pub(super) help: &'static str,
}

/// Does Adit do what a key asks for?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// Yes, every value the kind allows.
    Done,
    /// Not yet: only the default (or a choice that is done), which asks for what happens anyway.
    Only,
    /// Not yet: no value.
    NotYet,
    /// Only the default: what else it could ask for is done in another way, which is this.
    Instead(&'static str),
}

/// One kind of subsection.
#[derive(Debug)]
pub(super) struct Subsection {
    /// A `*` at the end stands for any suffix, alone for any name.
    pub(super) name: &'static str,
    pub(super) done: bool,
    pub(super) schema: &'static Schema,
}

impl Schema {
    pub(super) fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| matches(key.name, name))
    }

    pub(super) fn section(&self, name: &str) -> Option<&'static Subsection> {
        self.sections.iter().find(|section| matches(section.name, name))
    }

    /// Names to suggest: those of keys and of subsections, without the ones a user is free to choose.
    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> {
        let sections = self.sections.iter().map(|section| section.name);
        self.keys.iter().map(|key| key.name).chain(sections).map(stem).filter(|name| !name.is_empty())
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None if pattern == "<number>" => name.parse::<u16>().is_ok(),
        None => pattern == name,
    }
}

/// A name without its `*`; empty for `<number>`.
pub(super) fn stem(pattern: &'static str) -> &'static str {
    if pattern.starts_with('<') { "" } else { pattern.strip_suffix('*').unwrap_or(pattern) }
}

/// Is this the name of a key or section whose value is no secret?
pub(super) fn is_public_name(name: &str) -> bool {
    fn known(schema: &Schema, name: &str) -> bool {
        schema.names().any(|known| known == name) || schema.sections.iter().any(|s| known(s.schema, name))
    }
    name == "include" || (known(&ROOT, name) && !may_be_secret(name))
}

/// Is this probably such a name, misspelt?
pub(super) fn resembles_public_name(name: &str) -> bool {
    fn near(schema: &Schema, name: &str) -> bool {
        nearest(name, schema.names().filter(|known| !may_be_secret(known))).is_some()
            || schema.sections.iter().any(|section| near(section.schema, name))
    }
    near(&ROOT, name)
}

/// Is this, in `secrets`, a key whose value is no secret?
pub(super) fn is_public_in_secrets(key: &str) -> bool {
    matches!(key, "file" | "handle" | "slot" | "module") || key.starts_with("id")
}

/// Could this be the name of a secret, perhaps misspelt?
pub(super) fn may_be_secret(key: &str) -> bool {
    let key = key.to_lowercase();
    let near = |name: &str, allowed: usize| key.len() <= 16 && distance(&key, name) <= allowed;
    near("secret", 2)
        || near("pin", 0)
        || near("psk", 0)
        || ["secret", "passw", "passphrase"].iter().any(|word| key.contains(word))
}

const fn key(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Key {
    Key { name, kind, default, status: Status::Done, help }
}

const fn only(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Key {
    Key { name, kind, default, status: Status::Only, help }
}

const fn later(name: &'static str, kind: Kind, help: &'static str) -> Key {
    Key { name, kind, default: "", status: Status::NotYet, help }
}

const fn instead(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    help: &'static str,
    instead: &'static str,
) -> Key {
    Key { name, kind, default, status: Status::Instead(instead), help }
}

const fn section(name: &'static str, schema: &'static Schema) -> Subsection {
    Subsection { name, done: true, schema }
}

const fn section_later(name: &'static str, schema: &'static Schema) -> Subsection {
    Subsection { name, done: false, schema }
}

const NUMBER: Kind = Kind::Integer(0, u32::MAX as u64);
const COUNT: Kind = Kind::Integer(0, u64::MAX);
const PORT: Kind = Kind::Integer(1, 65_535);

pub(super) static ROOT: Schema = Schema {
    path: "",
    keys: &[],
    sections: &[
        section("gateway", &GATEWAY),
        section("connections", &CONNECTIONS),
        section("secrets", &SECRETS),
        section("pools", &POOLS),
        section("authorities", &AUTHORITIES),
    ],
};

pub(super) static GATEWAY: Schema = Schema {
    path: "gateway",
    keys: &[
        key(
            "control",
            Kind::Control,
            "unix:///run/adit/adit.vici",
            "where `adit up`, `adit status` and vici clients reach the daemon; TCP only on a loopback address",
        ),
        key(
            "http",
            Kind::Http,
            "off",
            "where metrics, health and the status page are served (docs/monitoring.md): `127.0.0.1:9511`, `[::1]:9511` or `unix:///run/adit/http`",
        ),
        key(
            "http_any",
            Kind::Bool,
            "no",
            "`http` may be an address that other machines reach: whoever does sees the names, peers and counters of all tunnels",
        ),
        key("tun", Kind::Interface, "adit0", "the TUN interface that takes the traffic to protect"),
        key("mtu", Kind::Integer(576, 65_535), "", "its MTU; without it, what fits through the tunnels"),
        key(
            "routing_table",
            Kind::Integer(1, u32::MAX as u64),
            "220",
            "the routing table for routes into the tunnels",
        ),
        key(
            "rule_priority",
            Kind::Integer(1, 32_761),
            "220",
            "the priority of the rule that looks that table up",
        ),
        key(
            "mark",
            Kind::Integer(1, u32::MAX as u64),
            "220",
            "the mark on packets the gateway itself sends, so that they bypass the tunnels",
        ),
        key("ike_port", PORT, "500", "UDP port of IKE"),
        key("nat_t_port", PORT, "4500", "UDP port of IKE and ESP behind NATs (RFC 3948)"),
        key(
            "cookie_threshold",
            Kind::Integer(0, 1_000_000),
            "30",
            "half-open IKE SAs above which peers must return a cookie (RFC 7296 2.6)",
        ),
        key(
            "half_open_limit",
            Kind::Integer(64, 10_000_000),
            "10000",
            "half-open IKE SAs; beyond it a peer that returned a cookie takes the place of the oldest of the address with the most. One address gets a tenth of it",
        ),
        key("half_open_timeout", Kind::Time, "30s", "how long a peer may leave an IKE SA half-open"),
        key("nat_keepalive", Kind::Time, "20s", "interval of NAT keepalives (RFC 3948); 0 sends none"),
        key(
            "fragment_size",
            Kind::Integer(576, 65_535),
            "1280",
            "largest IP packet of a fragmented IKE message (RFC 7383)",
        ),
        key(
            "xdp",
            Kind::Bool,
            "no",
            "send and receive ESP without UDP by AF_XDP where the interface can do it: faster, but past packet filter and traffic shaping",
        ),
        key(
            "workers",
            Kind::Integer(1, 64),
            "",
            "packet workers; half as many as there are processors unless given, and one with `xdp`. What is sent by a policy and what arrives on an SA is the work of one; `per_cpu_sas` spreads it",
        ),
        key(
            "spin",
            Kind::Integer(0, 10_000),
            "50",
            "microseconds that a worker looks for packets after the last one before it sleeps: shorter ways for some processor time while packets come; 0 saves it",
        ),
        key(
            "offload",
            Kind::Bool,
            "yes",
            "let the kernel join and cut packets of a flow, as far as it can; `no` moves every packet alone",
        ),
        key(
            "log",
            Kind::Choice(&[done("error"), done("warn"), done("info"), done("debug"), done("trace")]),
            "info",
            "the least severe events to log",
        ),
        key(
            "key_log",
            Kind::Path,
            "",
            "a directory to write every key to in the clear, as Wireshark's tables: for debugging only",
        ),
    ],
    sections: &[],
};

static CONNECTIONS: Schema =
    Schema { path: "connections", keys: &[], sections: &[section("*", &CONNECTION)] };

pub(super) static CONNECTION: Schema = Schema {
    path: "connections.<conn>",
    keys: &[
        key(
            "version",
            Kind::Choice(&[done("2"), done("0"), not_yet("1")]),
            "2",
            "IKE version; 0 means 2 until Adit speaks IKEv1",
        ),
        key("local_addrs", Kind::Addresses, "%any", "our addresses; the first single one is dialled from"),
        key("remote_addrs", Kind::Addresses, "%any", "the peer's addresses; the first single one is dialled"),
        key("local_port", PORT, "500", "our port; `gateway.ike_port` or `gateway.nat_t_port`"),
        key("remote_port", PORT, "500", "the peer's port"),
        key("proposals", Kind::IkeProposals, "default", "algorithms of the IKE SA, most wanted first"),
        key("encap", Kind::Bool, "no", "force UDP encapsulation of ESP by pretending a NAT"),
        key(
            "dpd_delay",
            Kind::Time,
            "0s",
            "idle time after which the peer's liveness is checked; 0 means never",
        ),
        key(
            "unique",
            Kind::Choice(&[done("no"), done("never"), done("keep"), done("replace")]),
            "no",
            "other IKE SAs of the same peer when one comes up: `no` lets them go if the peer says that it has none \
             (`INITIAL_CONTACT`), `never` ignores and never says that, `keep` refuses the new one, `replace` lets \
             them go",
        ),
        key("mobike", Kind::Bool, "yes", "move with addresses without new keys (RFC 4555)"),
        key(
            "fragmentation",
            Kind::Choice(&[done("yes"), done("accept"), done("no"), done("force")]),
            "yes",
            "fragments of IKE messages (RFC 7383): `accept` sends none; `force` means `yes`, as in IKEv2 the peer has \
             to agree",
        ),
        key(
            "childless",
            Kind::Choice(&[done("allow"), done("prefer"), done("force"), done("never")]),
            "allow",
            "IKE SAs that begin without a child (RFC 6023): `allow` when the peer begins so, `prefer` and `force` \
             also ours, `force` no others",
        ),
        key(
            "probe_path",
            Kind::Bool,
            "no",
            "Adit's own: find out every ten minutes by padded liveness checks how large packets get through to the peer, and send no \
             larger ones; both sides must take IKE fragments",
        ),
        key(
            "keyingtries",
            NUMBER,
            "0",
            "attempts in a row to bring up what is down before it stays down; 0 never gives up",
        ),
        key(
            "rekey_time",
            Kind::Time,
            "",
            "age at which the IKE SA gets new keys; `4h`, or never if there is a `reauth_time`; 0 means never",
        ),
        key("reauth_time", Kind::Time, "0s", "age at which both sides authenticate anew; 0 means never"),
        key(
            "over_time",
            Kind::Time,
            "",
            "how long after either it ends if that did not come about; a tenth of the longer one",
        ),
        key("rand_time", Kind::Time, "", "the most by which both come early; `over_time`, at most half"),
        key(
            "retransmit_wait",
            Kind::Time,
            "500ms",
            "wait before a request is repeated, and twice as long each time after",
        ),
        key("retransmit_longest_wait", Kind::Time, "30s", "longest such wait"),
        key("retransmit_give_up", Kind::Time, "165s", "when a peer that does not answer is taken for dead"),
        key(
            "ppk_id",
            Kind::Identity,
            "",
            "which of `secrets.ppk*` to propose (RFC 8784); as responder, any will do",
        ),
        key("ppk_required", Kind::Bool, "no", "never go on without a post-quantum preshared key"),
        key(
            "post_quantum",
            Kind::Choice(&[done("optional"), done("required")]),
            "optional",
            "`required` refuses a peer with which neither ML-KEM nor a post-quantum preshared key is agreed",
        ),
        key(
            "send_cert",
            Kind::Choice(&[done("ifasked"), done("always"), done("never")]),
            "ifasked",
            "when to send our certificate",
        ),
        key(
            "interface",
            Kind::Interface,
            "",
            "an interface for this connection alone: its children protect what is routed to it, and nothing else. It stays \
             while it is configured, whether the connection is up or not",
        ),
        key("interface_addrs", Kind::Networks, "", "its addresses"),
        key("interface_mtu", Kind::Integer(576, 65_535), "", "its MTU; without it, that of `gateway.tun`"),
        key(
            "interface_routes",
            Kind::Networks,
            "",
            "networks that are routed to it while it is configured; what a routing daemon or anybody else routes to it counts \
             as much",
        ),
        key(
            "send_certreq",
            Kind::Bool,
            "yes",
            "tell peers that authenticate by certificates whom we trust, which asks for one",
        ),
        only(
            "ocsp",
            Kind::Choice(&[done("never"), not_yet("reply"), not_yet("request"), not_yet("both")]),
            "never",
            "RFC 4806",
        ),
        only("dscp", Kind::Text, "000000", "DSCP of IKE packets"),
        only("dpd_timeout", Kind::Time, "0s", "IKEv1 only"),
        only("aggressive", Kind::Bool, "no", "IKEv1 only"),
        only("pull", Kind::Bool, "yes", "IKEv1 only"),
        later("vips", Kind::Addresses, "virtual addresses to request"),
        later("pools", Kind::Text, "pools to give addresses from"),
        instead("if_id_in", NUMBER, "0", "XFRM interface", INTERFACE),
        instead("if_id_out", NUMBER, "0", "XFRM interface", INTERFACE),
        only("mediation", Kind::Bool, "no", "IKEv2 mediation"),
        later("mediated_by", Kind::Text, "IKEv2 mediation"),
        later("mediation_peer", Kind::Identity, "IKEv2 mediation"),
    ],
    sections: &[section("local*", &LOCAL), section("remote*", &REMOTE), section("children", &CHILDREN)],
};

pub(super) static LOCAL: Schema = Schema {
    path: "connections.<conn>.local<suffix>",
    keys: &[
        key("auth", Kind::Auth, "pubkey", "how we authenticate"),
        key(
            "id",
            Kind::Identity,
            "",
            "who we are; without it, the subject of our first certificate, or our address",
        ),
        key("round", NUMBER, "0", "order of the authentication rounds; there is one"),
        key(
            "certs",
            Kind::Material,
            "",
            "our certificates, in the directory `x509`: one that the peer asks for is taken, or the first; without any, \
             one there that names `id`",
        ),
        later("pubkeys", Kind::Text, "raw public keys"),
        later("eap_id", Kind::Identity, "EAP identity"),
        later("aaa_id", Kind::Identity, "identity of the EAP server"),
        later("xauth_id", Kind::Identity, "IKEv1 XAuth"),
    ],
    sections: &[section("cert*", &CERT)],
};

pub(super) static REMOTE: Schema = Schema {
    path: "connections.<conn>.remote<suffix>",
    keys: &[
        key("auth", Kind::Auth, "pubkey", "how the peer authenticates"),
        key("id", Kind::IdentityPattern, "%any", "whom we accept"),
        key("round", NUMBER, "0", "order of the authentication rounds; there is one"),
        key(
            "revocation",
            Kind::Choice(&[done("relaxed"), done("strict"), done("ifuri")]),
            "relaxed",
            "what a CRL has to say about the peer's certificate (only those in `x509crl` are looked into; none is fetched): \
             `strict`: that it is valid; `ifuri`: the same if the certificate says where its CRL is; `relaxed`: not that \
             it is revoked",
        ),
        key(
            "certs",
            Kind::Material,
            "",
            "the peer's certificates, in the directory `x509`: no others are accepted",
        ),
        key(
            "cacerts",
            Kind::Material,
            "",
            "authorities, in the directory `x509ca`: no others are accepted; without any, all that are there",
        ),
        key("ca_id", Kind::Identity, "", "an authority above the peer's certificate has to be this one"),
        later("pubkeys", Kind::Text, "raw public keys"),
        later("eap_id", Kind::Identity, "EAP identity"),
        later("groups", Kind::Text, "group membership"),
        key(
            "cert_policy",
            Kind::Oids,
            "",
            "certificate policies, one of which the peer's certificate and those above it must have",
        ),
    ],
    sections: &[section("cert*", &CERT), section("cacert*", &CERT)],
};

static CERT: Schema = Schema {
    path: "cert<suffix>",
    keys: &[
        key(
            "file",
            Kind::Material,
            "",
            "a certificate: an absolute path, or one in the directory of the configuration",
        ),
        later("handle", Kind::Text, "key ID on a token"),
        later("slot", Kind::Text, "slot of the token"),
        later("module", Kind::Text, "PKCS#11 module"),
    ],
    sections: &[],
};

static CHILDREN: Schema =
    Schema { path: "connections.<conn>.children", keys: &[], sections: &[section("*", &CHILD)] };

/// What XFRM interfaces and marks are for elsewhere.
const INTERFACE: &str = "`interface = <name>` in the connection: an interface of its own, which Adit makes";

const NO_MARK: &str = "0/0x00000000";

pub(super) static CHILD: Schema = Schema {
    path: "connections.<conn>.children.<child>",
    keys: &[
        key("esp_proposals", Kind::EspProposals, "default", "algorithms of the Child SA, most wanted first"),
        key("local_ts", Kind::Selectors, "dynamic", "our side of the traffic to protect"),
        key("remote_ts", Kind::Selectors, "dynamic", "the peer's side"),
        key(
            "mode",
            Kind::Choice(&[
                done("tunnel"),
                done("transport"),
                not_yet("transport_proxy"),
                not_yet("beet"),
                done("iptfs"),
                done("pass"),
                done("drop"),
            ]),
            "tunnel",
            "`tunnel`: whole packets are protected, whoever sent them; `iptfs`: the same, several and parts of them in packets whose size and time say nothing about them (RFC 9347); `transport`: what two hosts send each other, without its headers; `pass`: what fits the selectors travels in the clear, in both directions; `drop`: it does not travel. Children that pass or drop need no peer",
        ),
        key(
            "start_action",
            Kind::Choice(&[
                done("none"),
                done("start"),
                done("trap"),
                done("trap|start"),
                done("start|trap"),
            ]),
            "none",
            "`start` brings the child up and keeps it up, `trap` brings it up when there is a packet for it",
        ),
        key(
            "close_action",
            Kind::Choice(&[done("none"), done("trap"), done("start")]),
            "",
            "what to do when the peer closes the child; without it, what `start_action` says",
        ),
        key(
            "dpd_action",
            Kind::Choice(&[done("clear"), done("trap"), done("restart"), done("none"), done("start")]),
            "",
            "what to do when the peer is dead; `none` is `clear`, `start` is `restart`; without it, what \
             `start_action` says",
        ),
        key(
            "rekey_time",
            Kind::Time,
            "",
            "age at which to rekey; `1h`, or a tenth before `life_time`; 0 means never",
        ),
        key("life_time", Kind::Time, "", "age at which it ends; a tenth after `rekey_time`; 0 means never"),
        key(
            "rand_time",
            Kind::Time,
            "",
            "the most by which rekeying comes early; from `rekey_time` to `life_time`, at most half of `rekey_time`",
        ),
        key(
            "rekey_bytes",
            Kind::Bytes,
            "",
            "octets after which to rekey; a tenth before `life_bytes`, or never",
        ),
        key(
            "life_bytes",
            Kind::Bytes,
            "",
            "octets after which it ends; a tenth after `rekey_bytes`, or never",
        ),
        key("rand_bytes", Kind::Bytes, "", "as `rand_time`"),
        key(
            "rekey_packets",
            COUNT,
            "",
            "packets after which to rekey; a tenth before `life_packets`, or never",
        ),
        key(
            "life_packets",
            COUNT,
            "",
            "packets after which it ends; a tenth after `rekey_packets`, or never",
        ),
        key("rand_packets", COUNT, "", "as `rand_time`"),
        key("inactivity", Kind::Time, "0s", "close the child after this long without traffic; 0 means never"),
        key(
            "replay_window",
            Kind::Integer(0, 65_536),
            "1024",
            "packets that may arrive late (RFC 4303 3.4.3); 0 switches replay protection off",
        ),
        later("ah_proposals", Kind::Text, "AH"),
        later("updown", Kind::Text, "script"),
        only("hostaccess", Kind::Bool, "no", "for the script"),
        only("policies", Kind::Bool, "yes", "install policies"),
        only("policies_fwd_out", Kind::Bool, "no", "install forward policies"),
        only("ipcomp", Kind::Bool, "no", "compression"),
        only("reqid", NUMBER, "0", "fixed reqid"),
        key(
            "priority",
            NUMBER,
            "0",
            "of several children that a packet fits, the one with the smallest number decides; 0 comes after all others, the \
             most specific selectors first",
        ),
        instead("interface", Kind::Interface, "", "restrict policies to an interface", INTERFACE),
        instead(
            "mark_in",
            Kind::Mark,
            NO_MARK,
            "mark of inbound policies",
            "no such key: what an SA delivers comes from the interface of its connection, whatever mark its ESP had",
        ),
        key(
            "mark_out",
            Kind::Mark,
            NO_MARK,
            "what has this mark, and goes to `remote_ts`, is routed to the connection's `interface`; one mark for each interface",
        ),
        only("mark_in_sa", Kind::Bool, "no", "mark on the inbound SA too"),
        key(
            "set_mark_in",
            Kind::Mark,
            NO_MARK,
            "what comes from the connection's `interface` gets this mark; one for each interface",
        ),
        instead(
            "set_mark_out",
            Kind::Mark,
            NO_MARK,
            "mark to set outbound",
            "no such key: all that the gateway itself sends has the mark `gateway.mark`; an `ip rule` for the peer's address \
             leads its ESP elsewhere",
        ),
        instead("if_id_in", NUMBER, "0", "XFRM interface", INTERFACE),
        instead("if_id_out", NUMBER, "0", "XFRM interface", INTERFACE),
        later("label", Kind::Text, "security label"),
        only(
            "label_mode",
            Kind::Choice(&[done("system"), not_yet("simple"), not_yet("selinux")]),
            "system",
            "use of the label",
        ),
        key(
            "tfc_padding",
            Kind::NumberOr(0, 65_535, &["mtu"]),
            "0",
            "inner packets look as if they had at least so many octets, `mtu`: as many as the path carries; unless the \
             peer refuses such padding",
        ),
        key(
            "dummies",
            Kind::Time,
            "0s",
            "an SA that has sent nothing for so long, or at random for half of it or more, sends a packet that means nothing, \
             as long as others look by `tfc_padding`, else of any length; 0 means none",
        ),
        key(
            "mss",
            Kind::NumberOr(88, 65_495, &["auto", "no"]),
            "auto",
            "largest TCP segment that connections through the tunnel may agree on, in either direction; `auto`: what fits \
             the path, `no`: any",
        ),
        key(
            "iptfs_rate",
            Kind::Integer(0, 1_000_000),
            "0",
            "packets per second that leave, all of one size, whatever there is to send; 0: they leave when there is \
             something to send, and hide nothing but the sizes of what is inside",
        ),
        key(
            "iptfs_packet_size",
            Kind::NumberOr(256, 65_535, &["mtu"]),
            "mtu",
            "octets of the packets that leave with their outer header, at the most what the path takes; `mtu`: that",
        ),
        key(
            "iptfs_init_delay",
            Kind::Time,
            "0s",
            "without a rate: how long a packet waits for others to travel with",
        ),
        key(
            "iptfs_max_queue_size",
            Kind::NumberOr(65_536, 1 << 30, &["auto"]),
            "auto",
            "octets that may wait to be sent; `auto`: what leaves in a quarter of a second, from 32 KiB to 1 MiB; 1 MiB \
             without a rate",
        ),
        key(
            "iptfs_reorder_window",
            Kind::Integer(0, 64),
            "3",
            "packets that arrive early wait for so many others",
        ),
        key("iptfs_drop_time", Kind::Time, "1s", "and for so long"),
        key(
            "iptfs_fallback",
            Kind::Bool,
            "no",
            "be content with tunnel mode where the peer does not agree to IP-TFS; `no`: then there is no SA",
        ),
        key(
            "local_net",
            Kind::Selectors,
            "",
            "the networks that `local_ts` stands for on our side, if they are others: one of equal length for each, \
             addresses are translated one to one",
        ),
        key(
            "remote_net",
            Kind::Selectors,
            "",
            "the networks as which our side sees those of `remote_ts`, if they are others: one of equal length for each",
        ),
        key(
            "per_cpu_sas",
            Kind::Choice(&[done("no"), done("yes"), not_yet("encap")]),
            "no",
            "`yes`: beside the first, one more SA for each packet worker, if the peer takes part (RFC 9611): the traffic of one child \
             becomes the work of all workers. The peer gets up to twice as many as there are workers, at least 16",
        ),
        only(
            "hw_offload",
            Kind::Choice(&[
                done("no"),
                not_yet("yes"),
                not_yet("crypto"),
                not_yet("packet"),
                not_yet("auto"),
            ]),
            "no",
            "offload to network cards",
        ),
        only("sha256_96", Kind::Bool, "no", "truncation of broken peers"),
        key(
            "copy_df",
            Kind::Bool,
            "yes",
            "outer packets have DF if those inside do; `no`: none has, and routers may divide them",
        ),
        key("copy_ecn", Kind::Bool, "yes", "tell congestion on the way to those who cause it (RFC 6040)"),
        key(
            "copy_dscp",
            Kind::Choice(&[done("out"), done("in"), done("yes"), done("no")]),
            "out",
            "`out`: outer packets have the DSCP of those inside; `in`: those inside get that of the outer ones that bring them; `yes`: both",
        ),
        only("icmp", Kind::Bool, "no", "forward ICMP errors from outside the selectors"),
    ],
    sections: &[],
};

static SECRETS: Schema = Schema {
    path: "secrets",
    keys: &[],
    sections: &[
        section("ike*", &SECRET_IKE),
        section("ppk*", &SECRET_PPK),
        section_later("eap*", &SECRET_OWNED),
        section_later("xauth*", &SECRET_OWNED),
        section_later("ntlm*", &SECRET_OWNED),
        section("private*", &SECRET_FILE),
        section("rsa*", &SECRET_FILE),
        section("ecdsa*", &SECRET_FILE),
        section("pkcs8*", &SECRET_FILE),
        section_later("pkcs12*", &SECRET_FILE),
        section_later("token*", &SECRET_TOKEN),
    ],
};

pub(super) static SECRET_IKE: Schema = Schema {
    path: "secrets.ike<suffix>",
    keys: &[
        key("secret", Kind::Secret, "", "the pre-shared key; must be given"),
        key(
            "id*",
            Kind::IdentityPattern,
            "",
            "whose it is: `id`, or several like `id-a` and `id-b`; without any, everybody's",
        ),
    ],
    sections: &[],
};

pub(super) static SECRET_PPK: Schema = Schema {
    path: "secrets.ppk<suffix>",
    keys: &[
        key("secret", Kind::Secret, "", "the post-quantum preshared key (RFC 8784); must be given"),
        key("id*", Kind::Identity, "", "its PPK_IDs, as in `ppk_id`; without any, it goes by every one"),
    ],
    sections: &[],
};

static SECRET_OWNED: Schema = Schema {
    path: "secrets.{eap,xauth,ntlm}<suffix>",
    keys: &[later("secret", Kind::Secret, "password or key"), later("id*", Kind::IdentityPattern, "owners")],
    sections: &[],
};

static SECRET_FILE: Schema = Schema {
    path: "secrets.{private,rsa,ecdsa,pkcs8,pkcs12}<suffix>",
    keys: &[
        key(
            "file",
            Kind::Text,
            "",
            "a private key in the directory of the section's name; those there need no section, unless one is encrypted: that is not done yet",
        ),
        later("secret", Kind::Secret, "its passphrase"),
    ],
    sections: &[],
};

static SECRET_TOKEN: Schema = Schema {
    path: "secrets.token<suffix>",
    keys: &[
        later("handle", Kind::Text, "key ID"),
        later("slot", Kind::Text, "slot"),
        later("module", Kind::Text, "PKCS#11 module"),
        later("pin", Kind::Secret, "its PIN"),
    ],
    sections: &[],
};

static POOLS: Schema = Schema { path: "pools", keys: &[], sections: &[section_later("*", &POOL)] };

static POOL: Schema = Schema {
    path: "pools.<name>",
    keys: &[
        later("addrs", Kind::Text, "addresses to give out"),
        later("dns", Kind::Text, "attribute"),
        later("nbns", Kind::Text, "attribute"),
        later("dhcp", Kind::Text, "attribute"),
        later("netmask", Kind::Text, "attribute"),
        later("server", Kind::Text, "attribute"),
        later("subnet", Kind::Text, "attribute"),
        later("p_cscf", Kind::Text, "attribute"),
        later("split_include", Kind::Text, "attribute"),
        later("split_exclude", Kind::Text, "attribute"),
        later("<number>", Kind::Text, "attribute by its number"),
    ],
    sections: &[],
};

static AUTHORITIES: Schema = Schema { path: "authorities", keys: &[], sections: &[section("*", &AUTHORITY)] };

static AUTHORITY: Schema = Schema {
    path: "authorities.<name>",
    keys: &[
        key("cacert", Kind::Material, "", "an authority that is trusted, in the directory `x509ca`"),
        key(
            "file",
            Kind::Material,
            "",
            "the same: an absolute path, or one in the directory of the configuration",
        ),
        later("handle", Kind::Text, "key ID on a token"),
        later("slot", Kind::Text, "slot of the token"),
        later("module", Kind::Text, "PKCS#11 module"),
        later("crl_uris", Kind::Text, "CRL"),
        later("ocsp_uris", Kind::Text, "OCSP"),
        later("cert_uri_base", Kind::Text, "hash-and-URL"),
    ],
    sections: &[],
};

/// Every schema below (and with) `root`, each once, in the order of the table.
#[cfg(test)]
pub(super) fn all() -> Vec<&'static Schema> {
    fn walk(schema: &'static Schema, into: &mut Vec<&'static Schema>) {
        if !into.iter().any(|known| std::ptr::eq(*known, schema)) {
            into.push(schema);
            schema.sections.iter().for_each(|section| walk(section.schema, into));
        }
    }
    let mut schemas = Vec::new();
    walk(&ROOT, &mut schemas);
    schemas
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::source::Span;
    use crate::config::syntax::Text;

    #[test]
    fn every_default_is_a_value_of_its_key() {
        for schema in all() {
            for key in schema.keys.iter().filter(|key| !key.default.is_empty()) {
                let text = Text::constant(key.default, Span { file: 0, start: 0, end: 0 });
                key.kind.read(&text).unwrap_or_else(|wrong| panic!("{}: {}", key.name, wrong.message));
            }
        }
    }

    #[test]
    fn a_key_that_takes_one_value_only_can_compare_it() {
        for schema in all() {
            for key in schema.keys.iter().filter(|key| key.status == Status::Only) {
                let read = || {
                    let text = Text::constant(key.default, Span { file: 0, start: 0, end: 0 });
                    key.kind.read(&text).unwrap()
                };
                assert!(read().same(&read()), "{} {}", schema.path, key.name);
            }
        }
    }

    #[test]
    fn misspelt_secrets_are_secrets() {
        for name in ["secret", "Secret", "secert", "secrte", "sceret", "secret2", "password", "pin", "psk"] {
            assert!(may_be_secret(name), "{name}");
        }
        for name in ["version", "send_cert", "encap", "id", "slot", "mode"] {
            assert!(!may_be_secret(name), "{name}");
        }
    }
}
