//! Set-ups that are broken on purpose, each in one place: what is spoilt, who begins, and what `adit explain` must say.

use crate::lab::{Family, Side};
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
    /// The code that Adit must give.
    pub code: &'static str,
    /// What its first line must name: the true cause.
    pub cause: &'static [&'static str],
    /// What its step must name.
    pub step: &'static [&'static str],
    /// Does what the step says, on Adit's side or the peer's.
    pub mend: Option<fn(ours: &mut Connection, theirs: &mut Connection)>,
}

impl Broken {
    /// Both configurations as they are broken.
    pub fn connections(&self) -> (Connection, Connection) {
        let (mut ours, mut theirs) = both();
        (self.spoil)(&mut ours, &mut theirs);
        (ours, theirs)
    }
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
        mend: Some(|ours, theirs| ours.secret.clone_from(&theirs.secret)),
    },
    Broken {
        name: "key-refused",
        what: "another pre-shared key",
        begins: Begins::Adit,
        spoil: |_, theirs| theirs.secret = "another secret".to_owned(),
        code: "refused-by-peer",
        cause: &["refused our authentication as a.lab.example", "the key or an identity differs"],
        step: &["`secrets.ike-1`", "must be a.lab.example", "must be b.lab.example"],
        mend: Some(|ours, theirs| ours.secret.clone_from(&theirs.secret)),
    },
    Broken {
        name: "key-missing",
        what: "no pre-shared key for the peer",
        begins: Begins::Adit,
        spoil: |ours, _| ours.secret_id = "somebody.lab.example".to_owned(),
        code: "no-shared-secret",
        cause: &["no pre-shared key here for a.lab.example (ID_FQDN) and b.lab.example (ID_FQDN)"],
        step: &["id = b.lab.example"],
        mend: Some(|ours, _| ours.secret_id = "b.lab.example".to_owned()),
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
        mend: Some(|ours, _| ours.proposals += ", aes128-sha256-prfsha256-ecp256"),
    },
    Broken {
        name: "ike-key-length",
        what: "IKE: another key length (ENCR)",
        begins: Begins::Peer,
        spoil: |_, theirs| theirs.proposals = "aes256gcm16-prfsha256-ecp256".to_owned(),
        code: "no-proposal-chosen",
        cause: &["encryption (here aes128gcm16, peer aes256gcm16)"],
        step: &["here add aes256gcm16-prfsha256-ecp256 to `proposals`"],
        mend: Some(|ours, _| ours.proposals += ", aes256gcm16-prfsha256-ecp256"),
    },
    Broken {
        name: "ike-prf",
        what: "IKE: another PRF",
        begins: Begins::Peer,
        spoil: |_, theirs| theirs.proposals = "aes128gcm16-prfsha384-ecp256".to_owned(),
        code: "no-proposal-chosen",
        cause: &["PRF (here prfsha256, peer prfsha384)"],
        step: &["here add aes128gcm16-prfsha384-ecp256 to `proposals`"],
        mend: Some(|ours, _| ours.proposals += ", aes128gcm16-prfsha384-ecp256"),
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
        mend: Some(|ours, _| ours.proposals += ", aes128-sha384-prfsha256-ecp256"),
    },
    Broken {
        name: "ike-key-exchange",
        what: "IKE: another key exchange method (KE)",
        begins: Begins::Peer,
        spoil: |_, theirs| theirs.proposals = "aes128gcm16-prfsha256-ecp384".to_owned(),
        code: "no-proposal-chosen",
        cause: &["key exchange (here ecp256, peer ecp384)"],
        step: &["here add aes128gcm16-prfsha256-ecp384 to `proposals`"],
        mend: Some(|ours, _| ours.proposals += ", aes128gcm16-prfsha256-ecp384"),
    },
    Broken {
        name: "ike-refused",
        what: "IKE: nothing in common",
        begins: Begins::Adit,
        spoil: |_, theirs| theirs.proposals = "aes256-sha384-modp3072".to_owned(),
        code: "no-proposal-chosen",
        cause: &["the peer 203.0.113.2 refused our IKE proposals (NO_PROPOSAL_CHOSEN)"],
        step: &["on the peer add aes128gcm16-prfsha256-ecp256 to its IKE proposals"],
        mend: Some(|_, theirs| theirs.proposals += ", aes128gcm16-prfsha256-ecp256"),
    },
    Broken {
        name: "ike-inferred",
        what: "IKE: another key exchange method, known from the peer's own attempt",
        begins: Begins::Both,
        spoil: |_, theirs| theirs.proposals = "aes128gcm16-prfsha256-ecp384".to_owned(),
        code: "no-proposal-chosen",
        cause: &["key exchange (here ecp256, peer ecp384)"],
        step: &["here add aes128gcm16-prfsha256-ecp384 to `proposals`"],
        mend: None,
    },
    Broken {
        name: "esp-encryption",
        what: "ESP: another cipher (ENCR)",
        begins: Begins::Peer,
        spoil: |_, theirs| theirs.esp_proposals = "aes128-sha256".to_owned(),
        code: "no-proposal-chosen",
        cause: &["no common ESP proposal", "encryption (here aes128gcm16, peer aes128)"],
        step: &["here add aes128-sha256 to `esp_proposals`"],
        mend: Some(|ours, _| ours.esp_proposals += ", aes128-sha256"),
    },
    Broken {
        name: "esp-key-length",
        what: "ESP: another key length (ENCR)",
        begins: Begins::Peer,
        spoil: |_, theirs| theirs.esp_proposals = "aes256gcm16".to_owned(),
        code: "no-proposal-chosen",
        cause: &["encryption (here aes128gcm16, peer aes256gcm16)"],
        step: &["here add aes256gcm16 to `esp_proposals`"],
        mend: Some(|ours, _| ours.esp_proposals += ", aes256gcm16"),
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
        mend: Some(|ours, _| ours.esp_proposals += ", aes128-sha512"),
    },
    Broken {
        name: "esp-sequence-numbers",
        what: "ESP: extended sequence numbers on one side only (ESN)",
        begins: Begins::Peer,
        spoil: |_, theirs| theirs.esp_proposals = "aes128gcm16-esn".to_owned(),
        code: "no-proposal-chosen",
        cause: &["extended sequence numbers (here noesn, peer esn)"],
        step: &["here add aes128gcm16-esn to `esp_proposals`"],
        mend: None,
    },
    Broken {
        name: "esp-refused",
        what: "ESP: nothing in common",
        begins: Begins::Adit,
        spoil: |_, theirs| theirs.esp_proposals = "aes256-sha512".to_owned(),
        code: "no-proposal-chosen",
        cause: &["the peer 203.0.113.2 refused our ESP proposals (NO_PROPOSAL_CHOSEN)"],
        step: &["on the peer add aes128gcm16 to its ESP proposals"],
        mend: Some(|_, theirs| theirs.esp_proposals += ", aes128gcm16"),
    },
    Broken {
        name: "network-here",
        what: "the peer expects another network of ours",
        begins: Begins::Peer,
        spoil: |_, theirs| theirs.remote_ts = "10.77.0.0/24".to_owned(),
        code: "ts-unacceptable",
        cause: &["local addresses (here 10.1.0.0/24, peer 10.77.0.0/24)"],
        step: &["on the peer set `remote_ts = 10.1.0.0/24`"],
        mend: Some(|_, theirs| theirs.remote_ts = "10.1.0.0/24".to_owned()),
    },
    Broken {
        name: "network-there",
        what: "we expect another network of the peer",
        begins: Begins::Peer,
        spoil: |ours, _| ours.remote_ts = "10.78.0.0/24".to_owned(),
        code: "ts-unacceptable",
        cause: &["remote addresses (here 10.78.0.0/24, peer 10.2.0.0/24)"],
        step: &["here `remote_ts = 10.2.0.0/24`"],
        mend: Some(|ours, _| ours.remote_ts = "10.2.0.0/24".to_owned()),
    },
    Broken {
        name: "network-refused",
        what: "the peer expects another network of ours",
        begins: Begins::Adit,
        spoil: |_, theirs| theirs.remote_ts = "10.77.0.0/24".to_owned(),
        code: "ts-unacceptable",
        cause: &["refused our traffic selectors (TS_UNACCEPTABLE)"],
        step: &["`local_ts = 10.2.0.0/24` and `remote_ts = 10.1.0.0/24`"],
        mend: Some(|_, theirs| theirs.remote_ts = "10.1.0.0/24".to_owned()),
    },
    Broken {
        name: "protocol",
        what: "TCP on one side, UDP on the other",
        begins: Begins::Peer,
        spoil: |ours, theirs| {
            ours.remote_ts = "10.2.0.0/24[udp]".to_owned();
            theirs.local_ts = "10.2.0.0/24[tcp]".to_owned();
        },
        code: "ts-unacceptable",
        cause: &["remote protocol (here 10.2.0.0/24[udp], peer 10.2.0.0/24[tcp])"],
        step: &["here `remote_ts = 10.2.0.0/24[tcp]`"],
        mend: Some(|ours, _| ours.remote_ts = "10.2.0.0/24[tcp]".to_owned()),
    },
    Broken {
        name: "port",
        what: "another port",
        begins: Begins::Peer,
        spoil: |ours, theirs| {
            ours.remote_ts = "10.2.0.0/24[tcp/443]".to_owned();
            theirs.local_ts = "10.2.0.0/24[tcp/80]".to_owned();
        },
        code: "ts-unacceptable",
        cause: &["remote ports"],
        step: &["here `remote_ts = 10.2.0.0/24[tcp/80]`"],
        mend: Some(|ours, _| ours.remote_ts = "10.2.0.0/24[tcp/80]".to_owned()),
    },
    Broken {
        name: "narrowed",
        what: "the peer allows less than we want",
        begins: Begins::Adit,
        spoil: |_, theirs| theirs.local_ts = "10.2.0.0/25".to_owned(),
        code: "narrowed",
        cause: &["up, but", "less than is configured here", "10.2.0.0/25"],
        step: &["on the peer set `local_ts = 10.2.0.0/24`"],
        mend: Some(|_, theirs| theirs.local_ts = "10.2.0.0/24".to_owned()),
    },
    Broken {
        name: "peer-identity",
        what: "the peer has another identity",
        begins: Begins::Peer,
        spoil: |_, theirs| theirs.local_id = "mallory.lab.example".to_owned(),
        code: "identity-mismatch",
        cause: &["says it is mallory.lab.example (ID_FQDN); we accept b.lab.example (ID_FQDN)"],
        step: &["local side to b.lab.example", "here `remote.id = mallory.lab.example`"],
        mend: Some(|_, theirs| theirs.local_id = "b.lab.example".to_owned()),
    },
    Broken {
        name: "peer-identity-type",
        what: "the peer's identity has another type",
        begins: Begins::Peer,
        spoil: |_, theirs| theirs.local_id = "keyid:b.lab.example".to_owned(),
        code: "identity-mismatch",
        cause: &["keyid:b.lab.example (ID_KEY_ID), an identity of another type", "b.lab.example (ID_FQDN)"],
        step: &["here `remote.id = keyid:b.lab.example`"],
        mend: Some(|_, theirs| theirs.local_id = "b.lab.example".to_owned()),
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
        mend: Some(|_, theirs| {
            theirs.remote_id = "a.lab.example".to_owned();
            theirs.secret_id = "a.lab.example".to_owned();
        }),
    },
    Broken {
        name: "own-identity-refused",
        what: "the peer does not accept our identity",
        begins: Begins::Adit,
        spoil: |ours, _| ours.local_id = "mallory.lab.example".to_owned(),
        code: "refused-by-peer",
        cause: &["refused our authentication as mallory.lab.example", "the key or an identity differs"],
        step: &["which must be mallory.lab.example"],
        mend: Some(|ours, _| ours.local_id = "a.lab.example".to_owned()),
    },
    Broken {
        name: "silence",
        what: "the peer does not answer: a wrong address, or a firewall",
        begins: Begins::Adit,
        spoil: |ours, _| ours.remote_addrs = "203.0.113.77".to_owned(),
        code: "timeout",
        cause: &["no answer from 203.0.113.77 UDP port 500 to IKE_SA_INIT"],
        step: &["203.0.113.77 is the peer's address", "500 and 4500"],
        mend: Some(|ours, _| ours.remote_addrs = "203.0.113.2".to_owned()),
    },
    Broken {
        name: "host-name",
        what: "a host name that does not resolve",
        begins: Begins::Nobody,
        spoil: |ours, _| ours.remote_addrs = "nowhere.invalid".to_owned(),
        code: "name-unresolved",
        cause: &["the peer's host name nowhere.invalid does not resolve"],
        step: &["`remote_addrs`"],
        mend: Some(|ours, _| ours.remote_addrs = "203.0.113.2".to_owned()),
    },
    Broken {
        name: "not-started",
        what: "nothing starts it",
        begins: Begins::Nobody,
        spoil: |_, _| {},
        code: "not-started",
        cause: &["nothing starts it here (start_action = none)"],
        step: &["`adit up not-started/net`"],
        mend: Some(|_, _| {}),
    },
    Broken {
        name: "trap",
        what: "no traffic yet",
        begins: Begins::Nobody,
        spoil: |ours, _| ours.child_extra = "start_action = trap".to_owned(),
        code: "waits-for-traffic",
        cause: &["comes up with the first packet"],
        step: &["`adit up`"],
        mend: Some(|_, _| {}),
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
        mend: None,
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
        mend: Some(|ours, _| ours.esp_proposals += ", aes128gcm16-ecp384"),
    },
];
