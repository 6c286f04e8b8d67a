//! Set-ups that are broken on purpose, each in one place: what is spoilt, who begins, and what `adit explain` must say.

use crate::lab::{Family, Node, Side};
use crate::peer::Connection;

/// The IKE proposal of both sides where nothing else is said.
pub const IKE: &str = "aes128gcm16-prfsha256-ecp256";

/// The ESP proposal of both sides where nothing else is said.
pub const ESP: &str = "aes128gcm16";

/// Who begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begins {
    /// Adit: it learns what the peer answers.
    Adit,
    /// The peer: Adit sees what it has.
    Peer,
    /// The peer, which is refused, and then Adit, which infers.
    Both,
    /// Nobody: it is about why nothing happens.
    Nobody,
}

/// One broken set-up.
pub struct Broken {
    /// Its name, which is that of Adit's connection as well.
    pub name: &'static str,
    /// What is wrong, for the manual.
    pub what: &'static str,
    /// Who begins.
    pub begins: Begins,
    /// Makes the two configurations disagree.
    pub spoil: fn(ours: &mut Connection, theirs: &mut Connection),
    /// Breaks the network between and behind the gateways, and puts it right again for what comes next.
    pub obstacle: [&'static [Order]; 2],
    /// Who tells.
    pub told: Told,
    /// The code that Adit must give.
    pub code: &'static str,
    /// What its first line must name: the true cause.
    pub cause: &'static [&'static str],
    /// What its step must name.
    pub step: &'static [&'static str],
    /// Does what the step says.
    pub mend: Mend,
    /// Who sends and gets an answer once it is mended.
    pub carries: Carries,
}

/// A command in a namespace, as it would be typed there.
pub type Order = (Node, &'static str);

/// Who tells what is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// `adit explain`, of what does not come up.
    Explain,
    /// The same, of what is up, while the host of a side sends.
    ExplainTraffic(Side),
    /// `adit test` with these arguments.
    Test(&'static [&'static str]),
}

/// What is done about it.
#[derive(Clone, Copy)]
pub enum Mend {
    /// Another configuration, of Adit's side or the peer's.
    Configure(fn(ours: &mut Connection, theirs: &mut Connection)),
    /// It is brought up.
    Up,
    /// Something on the way or behind a gateway.
    Orders(&'static [Order]),
}

/// What passes once it is mended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    /// A ping to this address.
    Ping(&'static str),
    /// A ping of as many octets as the hosts believe in.
    LargePing,
    /// A TCP connection to this port, that is refused there.
    Tcp(u16),
}

impl Broken {
    /// Both configurations as they are broken.
    pub fn connections(&self) -> (Connection, Connection) {
        let (mut ours, mut theirs) = both();
        (self.spoil)(&mut ours, &mut theirs);
        (ours, theirs)
    }
}

/// What another configuration has that was not so before.
pub fn changes(before: &Connection, after: &Connection) -> Vec<String> {
    let keys = |connection: &Connection| -> Vec<String> {
        let Connection { local_addrs, remote_addrs, local_id, remote_id, secret_id, secret, .. } = connection;
        let Connection { proposals, esp_proposals, local_ts, remote_ts, .. } = connection;
        let mut keys = vec![
            format!("local_addrs = {local_addrs}"),
            format!("remote_addrs = {remote_addrs}"),
            format!("proposals = {proposals}"),
            format!("local.id = {local_id}"),
            format!("remote.id = {remote_id}"),
            format!("esp_proposals = {esp_proposals}"),
            format!("local_ts = {local_ts}"),
            format!("remote_ts = {remote_ts}"),
            format!("secrets.ike-1.id-b = {secret_id}"),
            format!("secrets.ike-1.secret = \"{secret}\""),
            format!("encap = {}", if connection.encap { "yes" } else { "no" }),
        ];
        let more = [&connection.extra, &connection.child_extra].into_iter().flat_map(|text| text.lines());
        keys.extend(more.map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()));
        keys
    };
    let old = keys(before);
    keys(after).into_iter().filter(|key| !old.contains(key)).collect()
}

fn both() -> (Connection, Connection) {
    let side = |side: Side| Connection {
        local_ts: side.network(Family::V4).to_owned(),
        remote_ts: side.other().network(Family::V4).to_owned(),
        ..Connection::new(side, Family::V4, IKE, ESP)
    };
    let (mut ours, theirs) = (side(Side::A), side(Side::B));
    ours.extra = "retransmit_wait = 200ms\n retransmit_give_up = 2s".to_owned();
    (ours, theirs)
}

/// What leaves the network of side A has the router's address.
const NAT: &str =
    "nft 'table ip nat { chain c { type nat hook postrouting priority srcnat; oifname b0 masquerade; }; }'";

const FILTER_4500: &str =
    "nft 'table inet evil { chain c { type filter hook forward priority 0; udp dport 4500 drop; }; }'";

/// What a set-up has unless it says something else.
pub const PLAIN: Broken = Broken {
    name: "",
    what: "",
    begins: Begins::Adit,
    spoil: |_, _| {},
    obstacle: [&[], &[]],
    told: Told::Explain,
    code: "",
    cause: &[],
    step: &[],
    mend: Mend::Up,
    carries: Carries::Ping("10.2.0.10"),
};

/// All of them.
pub const BROKEN: &[Broken] = &[
    Broken {
        name: "key",
        what: "another pre-shared key",
        begins: Begins::Peer,
        spoil: |_, theirs| theirs.secret = "another secret".to_owned(),
        code: "authentication-failed",
        cause: &["the pre-shared keys of a.lab.example (ID_FQDN) and b.lab.example (ID_FQDN) differ"],
        step: &["`secrets.ike-1`", "equal"],
        mend: Mend::Configure(|ours, theirs| ours.secret.clone_from(&theirs.secret)),
        ..PLAIN
    },
    Broken {
        name: "key-refused",
        what: "another pre-shared key",
        begins: Begins::Adit,
        spoil: |_, theirs| theirs.secret = "another secret".to_owned(),
        code: "refused-by-peer",
        cause: &["refused our authentication as a.lab.example", "the key or an identity differs"],
        step: &["`secrets.ike-1`", "must be a.lab.example", "must be b.lab.example"],
        mend: Mend::Configure(|ours, theirs| ours.secret.clone_from(&theirs.secret)),
        ..PLAIN
    },
    Broken {
        name: "key-missing",
        what: "no pre-shared key for the peer",
        begins: Begins::Adit,
        spoil: |ours, _| ours.secret_id = "somebody.lab.example".to_owned(),
        code: "no-shared-secret",
        cause: &["no pre-shared key here for a.lab.example (ID_FQDN) and b.lab.example (ID_FQDN)"],
        step: &["id = b.lab.example"],
        mend: Mend::Configure(|ours, _| ours.secret_id = "b.lab.example".to_owned()),
        ..PLAIN
    },
    Broken {
        name: "ike-encryption",
        what: "IKE: another cipher (ENCR)",
        begins: Begins::Peer,
        spoil: |_, theirs| theirs.proposals = "aes128-sha256-ecp256".to_owned(),
        code: "no-proposal-chosen",
        cause: &["no common IKE proposal", "encryption (here aes128gcm16, peer aes128)"],
        step: &[
            "on the peer add aes128gcm16-prfsha256-ecp256",
            "here add aes128-sha256-prfsha256-ecp256 to `proposals`",
        ],
        mend: Mend::Configure(|ours, _| ours.proposals += ", aes128-sha256-prfsha256-ecp256"),
        ..PLAIN
    },
    Broken {
        name: "ike-key-length",
        what: "IKE: another key length (ENCR)",
        begins: Begins::Peer,
        spoil: |_, theirs| theirs.proposals = "aes256gcm16-prfsha256-ecp256".to_owned(),
        code: "no-proposal-chosen",
        cause: &["encryption (here aes128gcm16, peer aes256gcm16)"],
        step: &["here add aes256gcm16-prfsha256-ecp256 to `proposals`"],
        mend: Mend::Configure(|ours, _| ours.proposals += ", aes256gcm16-prfsha256-ecp256"),
        ..PLAIN
    },
    Broken {
        name: "ike-prf",
        what: "IKE: another PRF",
        begins: Begins::Peer,
        spoil: |_, theirs| theirs.proposals = "aes128gcm16-prfsha384-ecp256".to_owned(),
        code: "no-proposal-chosen",
        cause: &["PRF (here prfsha256, peer prfsha384)"],
        step: &["here add aes128gcm16-prfsha384-ecp256 to `proposals`"],
        mend: Mend::Configure(|ours, _| ours.proposals += ", aes128gcm16-prfsha384-ecp256"),
        ..PLAIN
    },
    Broken {
        name: "ike-integrity",
        what: "IKE: another integrity algorithm (INTEG)",
        begins: Begins::Peer,
        spoil: |ours, theirs| {
            ours.proposals = "aes128-sha256-prfsha256-ecp256".to_owned();
            theirs.proposals = "aes128-sha384-prfsha256-ecp256".to_owned();
        },
        code: "no-proposal-chosen",
        cause: &["integrity (here sha256, peer sha384)"],
        step: &["here add aes128-sha384-prfsha256-ecp256 to `proposals`"],
        mend: Mend::Configure(|ours, _| ours.proposals += ", aes128-sha384-prfsha256-ecp256"),
        ..PLAIN
    },
    Broken {
        name: "ike-key-exchange",
        what: "IKE: another key exchange method (KE)",
        begins: Begins::Peer,
        spoil: |_, theirs| theirs.proposals = "aes128gcm16-prfsha256-ecp384".to_owned(),
        code: "no-proposal-chosen",
        cause: &["key exchange (here ecp256, peer ecp384)"],
        step: &["here add aes128gcm16-prfsha256-ecp384 to `proposals`"],
        mend: Mend::Configure(|ours, _| ours.proposals += ", aes128gcm16-prfsha256-ecp384"),
        ..PLAIN
    },
    Broken {
        name: "ike-refused",
        what: "IKE: nothing in common",
        begins: Begins::Adit,
        spoil: |_, theirs| theirs.proposals = "aes256-sha384-modp3072".to_owned(),
        code: "no-proposal-chosen",
        cause: &["the peer 203.0.113.2 refused our IKE proposals (NO_PROPOSAL_CHOSEN)"],
        step: &["on the peer add aes128gcm16-prfsha256-ecp256 to its IKE proposals"],
        mend: Mend::Configure(|_, theirs| theirs.proposals += ", aes128gcm16-prfsha256-ecp256"),
        ..PLAIN
    },
    Broken {
        name: "ike-inferred",
        what: "IKE: another key exchange method, known from the peer's own attempt",
        begins: Begins::Both,
        spoil: |_, theirs| theirs.proposals = "aes128gcm16-prfsha256-ecp384".to_owned(),
        code: "no-proposal-chosen",
        cause: &["key exchange (here ecp256, peer ecp384)"],
        step: &["here add aes128gcm16-prfsha256-ecp384 to `proposals`"],
        mend: Mend::Configure(|ours, _| ours.proposals += ", aes128gcm16-prfsha256-ecp384"),
        ..PLAIN
    },
    Broken {
        name: "esp-encryption",
        what: "ESP: another cipher (ENCR)",
        begins: Begins::Peer,
        spoil: |_, theirs| theirs.esp_proposals = "aes128-sha256".to_owned(),
        code: "no-proposal-chosen",
        cause: &["no common ESP proposal", "encryption (here aes128gcm16, peer aes128)"],
        step: &["here add aes128-sha256 to `esp_proposals`"],
        mend: Mend::Configure(|ours, _| ours.esp_proposals += ", aes128-sha256"),
        ..PLAIN
    },
    Broken {
        name: "esp-key-length",
        what: "ESP: another key length (ENCR)",
        begins: Begins::Peer,
        spoil: |_, theirs| theirs.esp_proposals = "aes256gcm16".to_owned(),
        code: "no-proposal-chosen",
        cause: &["encryption (here aes128gcm16, peer aes256gcm16)"],
        step: &["here add aes256gcm16 to `esp_proposals`"],
        mend: Mend::Configure(|ours, _| ours.esp_proposals += ", aes256gcm16"),
        ..PLAIN
    },
    Broken {
        name: "esp-integrity",
        what: "ESP: another integrity algorithm (INTEG)",
        begins: Begins::Peer,
        spoil: |ours, theirs| {
            ours.esp_proposals = "aes128-sha256".to_owned();
            theirs.esp_proposals = "aes128-sha512".to_owned();
        },
        code: "no-proposal-chosen",
        cause: &["integrity (here sha256, peer sha512)"],
        step: &["here add aes128-sha512 to `esp_proposals`"],
        mend: Mend::Configure(|ours, _| ours.esp_proposals += ", aes128-sha512"),
        ..PLAIN
    },
    Broken {
        name: "esp-sequence-numbers",
        what: "ESP: extended sequence numbers on one side only (ESN)",
        begins: Begins::Peer,
        spoil: |_, theirs| theirs.esp_proposals = "aes128gcm16-esn".to_owned(),
        code: "no-proposal-chosen",
        cause: &["extended sequence numbers (here noesn, peer esn)"],
        step: &[
            "on the peer add aes128gcm16 to its ESP proposals",
            "here add aes128gcm16-esn to `esp_proposals`",
        ],
        mend: Mend::Configure(|_, theirs| theirs.esp_proposals += ", aes128gcm16"),
        ..PLAIN
    },
    Broken {
        name: "esp-refused",
        what: "ESP: nothing in common",
        begins: Begins::Adit,
        spoil: |_, theirs| theirs.esp_proposals = "aes256-sha512".to_owned(),
        code: "no-proposal-chosen",
        cause: &["the peer 203.0.113.2 refused our ESP proposals (NO_PROPOSAL_CHOSEN)"],
        step: &["on the peer add aes128gcm16 to its ESP proposals"],
        mend: Mend::Configure(|_, theirs| theirs.esp_proposals += ", aes128gcm16"),
        ..PLAIN
    },
    Broken {
        name: "network-here",
        what: "the peer expects another network of ours",
        begins: Begins::Peer,
        spoil: |_, theirs| theirs.remote_ts = "10.77.0.0/24".to_owned(),
        code: "ts-unacceptable",
        cause: &["local addresses (here 10.1.0.0/24, peer 10.77.0.0/24)"],
        step: &["on the peer set `remote_ts = 10.1.0.0/24`"],
        mend: Mend::Configure(|_, theirs| theirs.remote_ts = "10.1.0.0/24".to_owned()),
        ..PLAIN
    },
    Broken {
        name: "network-there",
        what: "we expect another network of the peer",
        begins: Begins::Peer,
        spoil: |ours, _| ours.remote_ts = "10.78.0.0/24".to_owned(),
        code: "ts-unacceptable",
        cause: &["remote addresses (here 10.78.0.0/24, peer 10.2.0.0/24)"],
        step: &["here `remote_ts = 10.2.0.0/24`"],
        mend: Mend::Configure(|ours, _| ours.remote_ts = "10.2.0.0/24".to_owned()),
        ..PLAIN
    },
    Broken {
        name: "network-refused",
        what: "the peer expects another network of ours",
        begins: Begins::Adit,
        spoil: |_, theirs| theirs.remote_ts = "10.77.0.0/24".to_owned(),
        code: "ts-unacceptable",
        cause: &["refused our traffic selectors (TS_UNACCEPTABLE)"],
        step: &["`local_ts = 10.2.0.0/24` and `remote_ts = 10.1.0.0/24`"],
        mend: Mend::Configure(|_, theirs| theirs.remote_ts = "10.1.0.0/24".to_owned()),
        ..PLAIN
    },
    Broken {
        name: "protocol",
        what: "TCP on one side, UDP on the other",
        begins: Begins::Peer,
        spoil: |ours, theirs| {
            ours.remote_ts = "10.2.0.0/24[udp]".to_owned();
            theirs.local_ts = "10.2.0.0/24[6]".to_owned();
        },
        code: "ts-unacceptable",
        cause: &["remote protocol (here 10.2.0.0/24[udp], peer 10.2.0.0/24[tcp])"],
        step: &["here `remote_ts = 10.2.0.0/24[tcp]`"],
        mend: Mend::Configure(|ours, _| ours.remote_ts = "10.2.0.0/24[tcp]".to_owned()),
        carries: Carries::Tcp(80),
        ..PLAIN
    },
    Broken {
        name: "port",
        what: "another port",
        begins: Begins::Peer,
        spoil: |ours, theirs| {
            ours.remote_ts = "10.2.0.0/24[tcp/443]".to_owned();
            theirs.local_ts = "10.2.0.0/24[6/80]".to_owned();
        },
        code: "ts-unacceptable",
        cause: &["remote ports"],
        step: &["here `remote_ts = 10.2.0.0/24[tcp/80]`"],
        mend: Mend::Configure(|ours, _| ours.remote_ts = "10.2.0.0/24[tcp/80]".to_owned()),
        carries: Carries::Tcp(80),
        ..PLAIN
    },
    Broken {
        name: "narrowed",
        what: "the peer allows less than we want",
        begins: Begins::Adit,
        spoil: |_, theirs| theirs.local_ts = "10.2.0.0/25".to_owned(),
        code: "narrowed",
        cause: &["up, but", "less than is configured here", "10.2.0.0/25"],
        step: &["on the peer set `local_ts = 10.2.0.0/24`"],
        mend: Mend::Configure(|_, theirs| theirs.local_ts = "10.2.0.0/24".to_owned()),
        ..PLAIN
    },
    Broken {
        name: "peer-identity",
        what: "the peer has another identity",
        begins: Begins::Peer,
        spoil: |_, theirs| theirs.local_id = "mallory.lab.example".to_owned(),
        code: "identity-mismatch",
        cause: &["says it is mallory.lab.example (ID_FQDN); we accept b.lab.example (ID_FQDN)"],
        step: &["local side to b.lab.example", "here `remote.id = mallory.lab.example`"],
        mend: Mend::Configure(|_, theirs| theirs.local_id = "b.lab.example".to_owned()),
        ..PLAIN
    },
    Broken {
        name: "peer-identity-type",
        what: "the peer's identity has another type",
        begins: Begins::Peer,
        spoil: |_, theirs| theirs.local_id = "keyid:b.lab.example".to_owned(),
        code: "identity-mismatch",
        cause: &["keyid:b.lab.example (ID_KEY_ID), an identity of another type", "b.lab.example (ID_FQDN)"],
        step: &["here `remote.id = keyid:b.lab.example`"],
        mend: Mend::Configure(|_, theirs| theirs.local_id = "b.lab.example".to_owned()),
        ..PLAIN
    },
    Broken {
        name: "own-identity",
        what: "the peer asks for another identity of ours",
        begins: Begins::Peer,
        spoil: |_, theirs| {
            theirs.remote_id = "nobody.lab.example".to_owned();
            theirs.secret_id = "nobody.lab.example".to_owned();
        },
        code: "identity-mismatch",
        cause: &["wants to talk to nobody.lab.example (ID_FQDN); we are a.lab.example (ID_FQDN)"],
        step: &["remote side to a.lab.example", "here `local.id = nobody.lab.example`"],
        mend: Mend::Configure(|_, theirs| {
            theirs.remote_id = "a.lab.example".to_owned();
            theirs.secret_id = "a.lab.example".to_owned();
        }),
        ..PLAIN
    },
    Broken {
        name: "own-identity-refused",
        what: "the peer does not accept our identity",
        begins: Begins::Adit,
        spoil: |ours, _| ours.local_id = "mallory.lab.example".to_owned(),
        code: "refused-by-peer",
        cause: &["refused our authentication as mallory.lab.example", "the key or an identity differs"],
        step: &["which must be mallory.lab.example"],
        mend: Mend::Configure(|ours, _| ours.local_id = "a.lab.example".to_owned()),
        ..PLAIN
    },
    Broken {
        name: "silence",
        what: "the peer does not answer: a wrong address, or a firewall",
        begins: Begins::Adit,
        spoil: |ours, _| ours.remote_addrs = "203.0.113.77".to_owned(),
        code: "timeout",
        cause: &["no answer from 203.0.113.77 UDP port 500 to IKE_SA_INIT"],
        step: &["203.0.113.77 is the peer's address", "500 and 4500"],
        mend: Mend::Configure(|ours, _| ours.remote_addrs = "203.0.113.2".to_owned()),
        ..PLAIN
    },
    Broken {
        name: "host-name",
        what: "a host name that does not resolve",
        begins: Begins::Nobody,
        spoil: |ours, _| ours.remote_addrs = "nowhere.invalid".to_owned(),
        code: "name-unresolved",
        cause: &["the peer's host name nowhere.invalid does not resolve"],
        step: &["`remote_addrs`"],
        mend: Mend::Configure(|ours, _| ours.remote_addrs = "203.0.113.2".to_owned()),
        ..PLAIN
    },
    Broken {
        name: "not-started",
        what: "nothing starts it",
        begins: Begins::Nobody,
        spoil: |_, _| {},
        code: "not-started",
        cause: &["nothing starts it here (start_action = none)"],
        step: &["`adit up not-started/net`"],
        mend: Mend::Up,
        ..PLAIN
    },
    Broken {
        name: "trap",
        what: "no traffic yet",
        begins: Begins::Nobody,
        spoil: |ours, _| ours.child_extra = "start_action = trap".to_owned(),
        code: "waits-for-traffic",
        cause: &["comes up with the first packet"],
        step: &["`adit up`"],
        mend: Mend::Up,
        ..PLAIN
    },
    Broken {
        name: "overlap",
        what: "the same network on both sides",
        begins: Begins::Adit,
        spoil: |ours, theirs| {
            for side in [ours, theirs] {
                side.local_ts = "10.2.0.0/24".to_owned();
                side.remote_ts = "10.2.0.0/24".to_owned();
            }
        },
        code: "overlap",
        cause: &["up, but 10.2.0.0/24 is on both sides"],
        step: &["`local_net` and `remote_net`"],
        obstacle: [
            &[
                (Node::HostA, "ip addr add 10.2.0.11/24 dev lan0"),
                (Node::GatewayA, "ip addr add 10.2.0.1/24 dev lan0"),
                (Node::HostA, "ip route add 10.9.2.0/24 via 10.2.0.1"),
            ],
            &[
                (Node::HostA, "ip addr del 10.2.0.11/24 dev lan0"),
                (Node::GatewayA, "ip addr del 10.2.0.1/24 dev lan0"),
            ],
        ],
        mend: Mend::Configure(|ours, theirs| {
            ours.local_ts = "10.9.1.0/24".to_owned();
            ours.child_extra = "local_net = 10.2.0.0/24\n remote_net = 10.9.2.0/24".to_owned();
            theirs.remote_ts = "10.9.1.0/24".to_owned();
        }),
        carries: Carries::Ping("10.9.2.10"),
        ..PLAIN
    },
    Broken {
        name: "forward-secrecy",
        what: "another key exchange method for the child (PFS), found by its first rekeying",
        begins: Begins::Peer,
        spoil: |ours, theirs| {
            ours.esp_proposals = "aes128gcm16-ecp256".to_owned();
            theirs.esp_proposals = "aes128gcm16-ecp384".to_owned();
        },
        code: "no-proposal-chosen",
        cause: &["up, but no common ESP proposal", "key exchange (here ecp256, peer ecp384)"],
        step: &["here add aes128gcm16-ecp384 to `esp_proposals`"],
        mend: Mend::Configure(|ours, _| ours.esp_proposals += ", aes128gcm16-ecp384"),
        ..PLAIN
    },
    Broken {
        name: "commission",
        what: "the same, found at once by a commissioning run",
        spoil: |ours, theirs| {
            ours.esp_proposals = "aes128gcm16-ecp256".to_owned();
            theirs.esp_proposals = "aes128gcm16-ecp384".to_owned();
        },
        told: Told::Test(&["--commission", "--yes"]),
        code: "no-proposal-chosen",
        cause: &["net gets new keys", "NO_PROPOSAL_CHOSEN"],
        step: &["`esp_proposals`"],
        mend: Mend::Configure(|_, theirs| theirs.esp_proposals += ", aes128gcm16-ecp256"),
        ..PLAIN
    },
    Broken {
        name: "esp-filtered",
        what: "a firewall on the way lets IKE pass and not ESP",
        obstacle: [
            &[(
                Node::Net,
                "nft 'table inet evil { chain c { type filter hook forward priority 0; ip protocol esp drop; }; }'",
            )],
            &[(Node::Net, "nft delete table inet evil")],
        ],
        told: Told::ExplainTraffic(Side::A),
        code: "esp-filtered",
        cause: &["IKE answers", "no ESP packet (IP protocol 50) has ever arrived"],
        step: &["`encap = yes`"],
        mend: Mend::Configure(|ours, _| ours.encap = true),
        ..PLAIN
    },
    Broken {
        name: "no-way-back",
        what: "the hosts behind the peer have no route to ours",
        spoil: |ours, _| ours.encap = true,
        obstacle: [&[(Node::HostB, "ip route add blackhole 10.1.0.0/24")], &[]],
        told: Told::ExplainTraffic(Side::A),
        code: "nothing-returns",
        cause: &["packets left, and none has come back"],
        step: &["look at the peer's side: its hosts' route to our networks"],
        mend: Mend::Orders(&[(Node::HostB, "ip route del blackhole 10.1.0.0/24")]),
        ..PLAIN
    },
    Broken {
        name: "no-way-in",
        what: "the hosts behind this gateway have no route to the peer's",
        obstacle: [&[(Node::HostA, "ip route add blackhole 10.2.0.0/24")], &[]],
        told: Told::ExplainTraffic(Side::B),
        code: "nothing-enters",
        cause: &["packets arrive from the peer, and none from our side enters the tunnel"],
        step: &["look at the hosts behind this gateway: their route"],
        mend: Mend::Orders(&[(Node::HostA, "ip route del blackhole 10.2.0.0/24")]),
        ..PLAIN
    },
    Broken {
        name: "no-forwarding",
        what: "this gateway does not forward",
        obstacle: [&[(Node::GatewayA, "sysctl -w net.ipv4.ip_forward=0")], &[]],
        told: Told::ExplainTraffic(Side::A),
        code: "nothing-enters",
        cause: &["this machine does not forward IPv4"],
        step: &["net.ipv4.ip_forward=1"],
        mend: Mend::Orders(&[(Node::GatewayA, "sysctl -w net.ipv4.ip_forward=1")]),
        ..PLAIN
    },
    Broken {
        name: "black-hole",
        what: "large packets are swallowed on the way",
        // Probes take their time.
        spoil: |ours, _| ours.extra.clear(),
        obstacle: [
            &[(
                Node::Net,
                "nft 'table inet evil { chain c { type filter hook forward priority 0; iifname a0 meta length > 1300 drop; }; }'",
            )],
            &[(Node::Net, "nft delete table inet evil")],
        ],
        told: Told::Test(&[]),
        code: "path-mtu",
        cause: &["packets of 1500 octets", "do not get through", "1300 do"],
        step: &["`probe_path = yes`"],
        mend: Mend::Configure(|ours, _| ours.extra += "\n probe_path = yes"),
        carries: Carries::LargePing,
        ..PLAIN
    },
    Broken {
        name: "nat-filtered",
        what: "a NAT in front of this gateway, and UDP 4500 filtered",
        spoil: |_, theirs| theirs.remote_addrs = "%any".to_owned(),
        obstacle: [&[(Node::Net, NAT), (Node::Net, FILTER_4500)], &[(Node::Net, "nft delete table ip nat")]],
        code: "timeout",
        cause: &["no answer from 203.0.113.2 UDP port 4500 to IKE_AUTH, with a NAT in front of this gateway"],
        step: &["with a NAT on the way all that follows uses UDP port 4500, ESP too: let it through"],
        mend: Mend::Orders(&[(Node::Net, "nft delete table inet evil")]),
        ..PLAIN
    },
    Broken {
        name: "nat-unexpected",
        what: "a NAT in front of this gateway, whose address the peer does not know",
        obstacle: [&[(Node::Net, NAT)], &[(Node::Net, "nft delete table ip nat")]],
        code: "no-proposal-chosen",
        cause: &["the peer 203.0.113.2 refused our IKE proposals (NO_PROPOSAL_CHOSEN)"],
        step: &[
            "that it has a connection for our address 198.51.100.2 (or the one that a NAT on the way gives us)",
        ],
        mend: Mend::Configure(|_, theirs| theirs.remote_addrs = "%any".to_owned()),
        ..PLAIN
    },
    Broken {
        name: "port-4500",
        what: "UDP 4500 is filtered",
        begins: Begins::Peer,
        obstacle: [&[(Node::Net, FILTER_4500)], &[]],
        code: "timeout",
        cause: &["the peer 203.0.113.2 began to connect and did not go on: no IKE_AUTH from it"],
        step: &["let UDP port 4500 through in both directions"],
        mend: Mend::Orders(&[(Node::Net, "nft delete table inet evil")]),
        ..PLAIN
    },
];
