//! What a record means: the first thing in which the two sides differ, the cause in one sentence, and the next step to
//! take.
//!
//! It owns the words and reads nothing but the record; what a negotiation does is decided elsewhere.

use std::fmt;
use std::net::IpAddr;

use adit_wire::ikev2::{IdType, NotifyType, Proposal, ProtocolId, TrafficSelector, Transform, TransformType};

use crate::identity::{Identity, IdentityPattern};
use crate::output::{Blame, NegotiationRecord, OutcomeCode, Stage};
use crate::proposal::{Notation, mismatches, simplest, transform_names};
use crate::selector::{List, Selectors};

/// The first thing in which the two sides differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// In the two proposals that are nearest to each other, there is no common transform of this type.
    Transform {
        /// Which type.
        transform_type: TransformType,
        /// For IKE or for ESP.
        protocol: ProtocolId,
        /// The number of our proposal.
        our_proposal: u8,
        /// The number of the peer's proposal.
        peer_proposal: u8,
        /// What we have of this type.
        ours: Vec<Transform>,
        /// What the peer has of this type.
        theirs: Vec<Transform>,
    },
    /// The selectors of one side have nothing in common, or less than we want.
    Selectors {
        /// Is it our side of the tunnel?
        local: bool,
        /// What of them.
        part: SelectorPart,
        /// Ours of this side.
        ours: Vec<TrafficSelector>,
        /// The peer's of this side.
        theirs: Vec<TrafficSelector>,
    },
    /// An identity is not the one that is wanted.
    Identity {
        /// Is it ours, which the peer asked for?
        local: bool,
        /// Is it of another type, or has it another value?
        by_type: bool,
        /// The one that the peer named.
        named: Identity,
        /// Those that the configuration has.
        configured: Vec<IdentityPattern>,
    },
    /// The pre-shared keys.
    Key,
}

/// What of the selectors of one side does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SelectorPart {
    /// No address is in both.
    Addresses,
    /// The addresses are, no protocol is.
    Protocol,
    /// Both are, no port is.
    Ports,
    /// There is something in common, but less than we want.
    Extent,
}

impl Difference {
    /// As programs name it: `encryption`, `remote-addresses`, `peer-identity-type`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Transform { transform_type, .. } => match *transform_type {
                TransformType::ENCR => "encryption",
                TransformType::PRF => "prf",
                TransformType::INTEG => "integrity",
                TransformType::KE => "key-exchange",
                TransformType::ESN => "sequence-numbers",
                slot if slot.is_additional_ke() => "additional-key-exchange",
                _ => "unknown-transform",
            },
            Self::Selectors { local, part, .. } => match (local, part) {
                (true, SelectorPart::Addresses) => "local-addresses",
                (true, SelectorPart::Protocol) => "local-protocol",
                (true, SelectorPart::Ports) => "local-ports",
                (true, SelectorPart::Extent) => "local-extent",
                (false, SelectorPart::Addresses) => "remote-addresses",
                (false, SelectorPart::Protocol) => "remote-protocol",
                (false, SelectorPart::Ports) => "remote-ports",
                (false, SelectorPart::Extent) => "remote-extent",
            },
            Self::Identity { local, by_type, .. } => match (local, by_type) {
                (true, true) => "own-identity-type",
                (true, false) => "own-identity",
                (false, true) => "peer-identity-type",
                (false, false) => "peer-identity",
            },
            Self::Key => "pre-shared-key",
        }
    }

    /// Of proposals that have nothing in common: the first transform type of the two that are nearest to each other.
    #[must_use]
    pub fn of_proposals(ours: &[Proposal], theirs: &[Proposal]) -> Option<Self> {
        let (own, other, differing) = nearest(ours, theirs)?;
        let transform_type = *differing.first()?;
        let of_type = |proposal: &Proposal| {
            let transforms = proposal.transforms.iter().filter(|t| t.transform_type == transform_type);
            transforms.cloned().collect()
        };
        Some(Self::Transform {
            transform_type,
            protocol: other.protocol,
            our_proposal: own.number,
            peer_proposal: other.number,
            ours: of_type(own),
            theirs: of_type(other),
        })
    }

    /// Of selectors, each the local side and the remote side from our point of view.
    fn of_selectors(ours: &Selectors, theirs: &Selectors) -> Option<Self> {
        let sides = [(true, &ours.local, &theirs.local), (false, &ours.remote, &theirs.remote)];
        let apart = sides.into_iter().find_map(|(local, ours, theirs)| {
            let part = apart(ours, theirs)?;
            Some(Self::Selectors { local, part, ours: ours.clone(), theirs: theirs.clone() })
        });
        // Narrowed: of both sides something is left.
        apart.or_else(|| {
            let (local, ours, theirs) = sides.into_iter().find(|(_, ours, theirs)| {
                let covered = |some: &TrafficSelector| theirs.iter().any(|other| other.covers(some));
                !ours.iter().all(covered)
            })?;
            let (ours, theirs) = (ours.clone(), theirs.clone());
            Some(Self::Selectors { local, part: SelectorPart::Extent, ours, theirs })
        })
    }

    fn of_identity(local: bool, named: &Identity, configured: &[IdentityPattern]) -> Self {
        let type_of = |pattern: &IdentityPattern| match pattern {
            IdentityPattern::Any => None,
            IdentityPattern::Exact(identity) => Some(identity.id_type()),
            IdentityPattern::Suffix(id_type, _) => Some(*id_type),
            IdentityPattern::Addresses(IpAddr::V4(_), _) => Some(IdType::IPV4_ADDR),
            IdentityPattern::Addresses(IpAddr::V6(_), _) => Some(IdType::IPV6_ADDR),
        };
        let types: Vec<IdType> = configured.iter().filter_map(type_of).collect();
        Self::Identity {
            local,
            by_type: !types.is_empty() && !types.contains(&named.id_type()),
            named: named.clone(),
            configured: configured.to_vec(),
        }
    }
}

/// What differs, in words.
impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transform { transform_type, ours, theirs, .. } => {
                let what = match *transform_type {
                    TransformType::ENCR => "encryption",
                    TransformType::PRF => "PRF",
                    TransformType::INTEG => "integrity",
                    TransformType::KE => "key exchange",
                    TransformType::ESN => "extended sequence numbers",
                    slot if slot.is_additional_ke() => "additional key exchange",
                    other => return write!(f, "a transform of the unknown type {}", other.0),
                };
                write!(f, "{what} (here {}, peer {})", transform_names(ours), transform_names(theirs))
            }
            Self::Selectors { local, part, ours, theirs } => {
                let side = if *local { "local" } else { "remote" };
                let what = match part {
                    SelectorPart::Addresses => "addresses",
                    SelectorPart::Protocol => "protocol",
                    SelectorPart::Ports => "ports",
                    SelectorPart::Extent => "extent",
                };
                write!(f, "{side} {what} (here {}, peer {})", List(ours), List(theirs))
            }
            Self::Identity { local, by_type, named, configured } => {
                let whose = if *local { "our identity" } else { "the peer's identity" };
                let kind = if *by_type { "type of " } else { "" };
                let verb = if *local { "asks for" } else { "says" };
                write!(f, "{kind}{whose} (here {}, peer {verb} {})", Patterns(configured), Typed(named))
            }
            Self::Key => f.write_str("pre-shared key"),
        }
    }
}

/// Our proposal and the peer's that differ least, and in what.
fn nearest<'a>(
    ours: &'a [Proposal],
    theirs: &'a [Proposal],
) -> Option<(&'a Proposal, &'a Proposal, Vec<TransformType>)> {
    let same_protocol = |(own, other): &(&Proposal, &Proposal)| own.protocol == other.protocol;
    ours.iter()
        .flat_map(|own| theirs.iter().map(move |other| (own, other)))
        .filter(same_protocol)
        .map(|(own, other)| (own, other, mismatches(own, other)))
        .min_by_key(|(.., differing)| differing.len())
}

/// Why the selectors of one side have nothing in common; `None` if they have something.
fn apart(ours: &[TrafficSelector], theirs: &[TrafficSelector]) -> Option<SelectorPart> {
    let pairs = || ours.iter().flat_map(|own| theirs.iter().map(move |other| (own, other)));
    if pairs().any(|(own, other)| own.intersection(other).is_some()) {
        return None;
    }
    let addresses = |(own, other): &(&TrafficSelector, &TrafficSelector)| {
        own.start.is_ipv4() == other.start.is_ipv4() && own.start <= other.end && other.start <= own.end
    };
    let protocol = |(own, other): &(&TrafficSelector, &TrafficSelector)| {
        own.protocol == 0 || other.protocol == 0 || own.protocol == other.protocol
    };
    Some(match pairs().find(addresses) {
        None => SelectorPart::Addresses,
        Some(_) if pairs().filter(addresses).any(|pair| protocol(&pair)) => SelectorPart::Ports,
        Some(_) => SelectorPart::Protocol,
    })
}

/// An identity with its type.
struct Typed<'a>(&'a Identity);

impl fmt::Display for Typed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.0, self.0.id_type())
    }
}

/// Identities of a configuration, some of them.
struct Patterns<'a>(&'a [IdentityPattern]);

impl fmt::Display for Patterns<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 4;
        for (i, pattern) in self.0.iter().take(SHOWN).enumerate() {
            f.write_str(if i == 0 { "" } else { " or " })?;
            match pattern {
                IdentityPattern::Exact(identity) => write!(f, "{}", Typed(identity))?,
                other => write!(f, "{other}")?,
            }
        }
        match self.0.len() {
            0 => f.write_str("none"),
            all if all > SHOWN => write!(f, " or {} more", all - SHOWN),
            _ => Ok(()),
        }
    }
}

impl NegotiationRecord {
    /// The first thing in which the two sides differ, as far as both are known.
    #[must_use]
    pub fn difference(&self) -> Option<Difference> {
        let [ours, theirs] = [&self.our_selectors, &self.peer_selectors]
            .map(|(local, remote)| Selectors { local: local.clone(), remote: remote.clone() });
        match self.code {
            OutcomeCode::NoProposalChosen | OutcomeCode::InvalidKe => {
                Difference::of_proposals(&self.our_proposals, &self.peer_proposals)
            }
            OutcomeCode::TsUnacceptable | OutcomeCode::Narrowed => {
                let known = !(theirs.local.is_empty() || theirs.remote.is_empty());
                known.then(|| Difference::of_selectors(&ours, &theirs)).flatten()
            }
            OutcomeCode::IdentityMismatch => {
                let own: Vec<IdentityPattern> =
                    self.own_ids.iter().cloned().map(IdentityPattern::Exact).collect();
                match (&self.asked_id, &self.remote_id) {
                    (Some(asked), _) if !self.own_ids.contains(asked) => {
                        Some(Difference::of_identity(true, asked, &own))
                    }
                    (_, Some(named)) if !self.accepted_ids.is_empty() => {
                        Some(Difference::of_identity(false, named, &self.accepted_ids))
                    }
                    _ => None,
                }
            }
            OutcomeCode::AuthenticationFailed if self.secret.is_some() => Some(Difference::Key),
            _ => None,
        }
    }

    /// The same with what `other`, an attempt of the same peer with us as responder, tells of what the peer has. `None`
    /// if that tells nothing about this failure.
    #[must_use]
    pub fn informed_by(&self, other: &Self) -> Option<Self> {
        if !self.initiator || other.initiator || self.remote.ip() != other.remote.ip() {
            return None;
        }
        let mut informed = Self { inferred: true, ..self.clone() };
        match self.code {
            OutcomeCode::NoProposalChosen | OutcomeCode::InvalidKe
                if (self.stage == Stage::ChildSa) == (other.stage == Stage::ChildSa) =>
            {
                informed.peer_proposals.clone_from(&other.peer_proposals);
            }
            OutcomeCode::TsUnacceptable if other.stage == Stage::ChildSa => {
                informed.peer_selectors.clone_from(&other.peer_selectors);
            }
            OutcomeCode::RefusedByPeer
                if self.stage == Stage::IkeAuth
                    && matches!(
                        other.code,
                        OutcomeCode::IdentityMismatch | OutcomeCode::AuthenticationFailed
                    ) =>
            {
                informed.code = other.code;
                informed.remote_id.clone_from(&other.remote_id);
                informed.asked_id.clone_from(&other.asked_id);
                informed.own_ids.clone_from(&other.own_ids);
                informed.accepted_ids.clone_from(&other.accepted_ids);
                informed.secret = other.secret.clone().or(informed.secret);
            }
            _ => return None,
        }
        informed.difference().is_some().then_some(informed)
    }

    /// What the negotiation was about: `IKE` or `ESP`.
    fn subject(&self) -> &'static str {
        if self.stage == Stage::ChildSa { "ESP" } else { "IKE" }
    }

    /// Why it ended so, in one sentence without a full stop.
    #[must_use]
    pub fn cause(&self) -> String {
        let peer = self.remote.ip();
        let difference = self.difference();
        let differs = difference.as_ref().map(|difference| format!(": they differ in the {difference}"));
        let differs = differs.unwrap_or_default();
        let notify = self.notify.map(|notify| format!(" ({notify})")).unwrap_or_default();
        match self.code {
            OutcomeCode::Success => format!("agreed with {peer}"),
            OutcomeCode::Narrowed => {
                let differs = difference.map(|difference| format!(": {difference}")).unwrap_or_default();
                format!("the peer {peer} agrees to less than is configured here{differs}")
            }
            OutcomeCode::NoProposalChosen if !differs.is_empty() => {
                format!("no common {} proposal with {peer}{differs}", self.subject())
            }
            // Where nothing differs, something else than the algorithms was refused, and the sentence tells it.
            OutcomeCode::NoProposalChosen if !self.initiator => self.told(),
            OutcomeCode::NoProposalChosen => {
                format!("the peer {peer} refused our {} proposals{notify}", self.subject())
            }
            OutcomeCode::InvalidKe => {
                format!("no common key exchange method with {peer} for {}{differs}{notify}", self.subject())
            }
            OutcomeCode::TsUnacceptable if differs.is_empty() => {
                format!("the peer {peer} refused our traffic selectors{notify}")
            }
            OutcomeCode::TsUnacceptable => format!("no common traffic selectors with {peer}{differs}"),
            OutcomeCode::UnknownPeer => format!(
                "no connection is for a peer at {peer} (remote_addrs) at our address {} (local_addrs)",
                self.local.ip()
            ),
            OutcomeCode::IdentityMismatch => match &difference {
                Some(Difference::Identity { local: true, by_type, named, configured }) => {
                    let kind = if *by_type { ", an identity of another type" } else { "" };
                    format!(
                        "the peer {peer} wants to talk to {}{kind}; we are {}",
                        Typed(named),
                        Patterns(configured)
                    )
                }
                Some(Difference::Identity { by_type, named, configured, .. }) => {
                    let kind = if *by_type { ", an identity of another type" } else { "" };
                    format!(
                        "the peer {peer} says it is {}{kind}; we accept {}",
                        Typed(named),
                        Patterns(configured)
                    )
                }
                _ => self.told(),
            },
            OutcomeCode::NoSharedSecret => {
                format!("no pre-shared key here for {} and {}", self.local_name(), self.peer_name())
            }
            OutcomeCode::AuthenticationFailed if self.secret.is_some() => {
                format!("the pre-shared keys of {} and {} differ", self.local_name(), self.peer_name())
            }
            OutcomeCode::RefusedByPeer if self.refused_authentication() => format!(
                "the peer {peer} refused our authentication as {} (AUTHENTICATION_FAILED): the key or an identity \
                 differs",
                self.local_name()
            ),
            OutcomeCode::Timeout if !self.initiator => {
                format!(
                    "the peer {peer} began to connect and did not go on: no {} from it{}",
                    self.stage.exchange(),
                    self.translated()
                )
            }
            OutcomeCode::Timeout => {
                let (port, times) = (self.remote.port(), self.sent);
                let times = if times == 0 { String::new() } else { format!(", sent {times} times") };
                let translated = self.translated();
                format!(
                    "no answer from {peer} UDP port {port} to {}{translated}{times}",
                    self.stage.exchange()
                )
            }
            OutcomeCode::OtherVersion => {
                format!("the peer {peer} speaks IKEv1, and only IKEv2 is spoken here")
            }
            OutcomeCode::NotPostQuantum
            | OutcomeCode::NotUnique
            | OutcomeCode::AuthenticationFailed
            | OutcomeCode::AuthMethodRefused
            | OutcomeCode::NoCertificate
            | OutcomeCode::NoPrivateKey
            | OutcomeCode::BadCertificate
            | OutcomeCode::IdentityNotInCertificate
            | OutcomeCode::SignatureInvalid
            | OutcomeCode::Untrusted
            | OutcomeCode::Expired
            | OutcomeCode::Revoked
            | OutcomeCode::RevocationUnknown
            | OutcomeCode::RefusedByPeer
            | OutcomeCode::InvalidSyntax
            | OutcomeCode::UnsupportedCriticalPayload
            | OutcomeCode::DataPlane
            | OutcomeCode::Cancelled => self.told(),
        }
    }

    /// The sentence of the log without the names that it begins with.
    fn told(&self) -> String {
        let peer = format!("peer {}", crate::record::shown_peer(self.remote));
        let rest = self.message.split_once(&format!("{peer}: ")).map_or(&*self.message, |(_, rest)| rest);
        format!("{peer}: {rest}")
    }

    /// What a NAT has to do with it.
    fn translated(&self) -> &'static str {
        match (self.nat_local, self.nat_remote) {
            (false, false) => "",
            (true, false) => ", with a NAT in front of this gateway",
            (false, true) => ", with a NAT in front of the peer",
            (true, true) => ", with a NAT in front of both sides",
        }
    }

    fn refused_authentication(&self) -> bool {
        self.stage == Stage::IkeAuth && self.notify == Some(NotifyType::AUTHENTICATION_FAILED)
    }

    fn local_name(&self) -> String {
        self.local_id.as_ref().map_or_else(|| self.local.ip().to_string(), |id| Typed(id).to_string())
    }

    /// Who it says it is, or whom we want.
    fn peer_name(&self) -> String {
        match (&self.remote_id, self.accepted_ids.first()) {
            (Some(id), _) | (None, Some(IdentityPattern::Exact(id))) => Typed(id).to_string(),
            _ => self.remote.ip().to_string(),
        }
    }

    /// The next step to take.
    #[must_use]
    pub fn step(&self) -> String {
        let remote = self.remote.ip();
        match self.code {
            OutcomeCode::Success => "nothing is to be done".to_owned(),
            OutcomeCode::NoProposalChosen | OutcomeCode::InvalidKe => self.step_of_proposals(),
            OutcomeCode::TsUnacceptable | OutcomeCode::Narrowed => self.step_of_selectors(),
            OutcomeCode::UnknownPeer => format!(
                "if it is welcome, add {remote} to `remote_addrs` of its connection here (and {} to `local_addrs`), \
                 or `remote_addrs = %any` where peers may be anywhere",
                self.local.ip()
            ),
            OutcomeCode::IdentityMismatch => match self.difference() {
                Some(Difference::Identity { local: true, named, configured, .. }) => format!(
                    "on the peer set the identity of its remote side to {}, or here `local.id = {named}`",
                    one(&configured)
                ),
                Some(Difference::Identity { named, configured, .. }) => format!(
                    "on the peer set the identity of its local side to {}, or here `remote.id = {named}`",
                    one(&configured)
                ),
                _ => "give the two sides different identities (`local.id`)".to_owned(),
            },
            OutcomeCode::NoSharedSecret => {
                let peer = match (&self.remote_id, self.accepted_ids.first()) {
                    (Some(id), _) | (None, Some(IdentityPattern::Exact(id))) => id.to_string(),
                    _ => remote.to_string(),
                };
                format!("add here `secrets {{ ike-NAME {{ id = {peer}  secret = ... }} }}` with the key that the peer has")
            }
            OutcomeCode::AuthenticationFailed if self.secret.is_some() => format!(
                "make the key in `{}` here and the peer's key for {} and {} equal, to the last character",
                self.secret_name(),
                self.peer_name(),
                self.local_name()
            ),
            OutcomeCode::AuthenticationFailed => {
                "it is a defect of ours: report it with the log of that moment".to_owned()
            }
            OutcomeCode::AuthMethodRefused => {
                "let `local.auth` of one side and `remote.auth` of the other fit each other, or use another key".to_owned()
            }
            OutcomeCode::NoCertificate if self.blame == Blame::OurConfiguration => {
                "name our certificate in `local.certs` here".to_owned()
            }
            OutcomeCode::NoCertificate => {
                "set `send_cert = always` on the peer, or name its certificate in `remote.certs` here".to_owned()
            }
            OutcomeCode::NoPrivateKey => {
                "put the private key that belongs to our certificate where private keys are read".to_owned()
            }
            OutcomeCode::BadCertificate | OutcomeCode::Revoked => "give the peer another certificate".to_owned(),
            OutcomeCode::IdentityNotInCertificate => format!(
                "on the peer set the identity of its local side to a name that its certificate has, or issue one that \
                 names {} as a subject alternative name",
                self.peer_name()
            ),
            OutcomeCode::SignatureInvalid => {
                "see that the peer's private key is the one of its certificate".to_owned()
            }
            OutcomeCode::Untrusted => {
                "trust the peer's authority here, or correct the certificate that is named".to_owned()
            }
            OutcomeCode::Expired => "renew the certificate; if it is current, correct the clock here".to_owned(),
            OutcomeCode::RevocationUnknown => {
                "provide a fresh CRL of the authority that is named, or set `revocation = relaxed`".to_owned()
            }
            OutcomeCode::RefusedByPeer if self.refused_authentication() && self.secret.is_none() => format!(
                "compare on the peer: its key with `secrets` here, or whether it trusts the authority of our certificate; \
                 the identity it expects of us, which must be {}; its own identity, which must be {}. Its log says which \
                 it is; so does this gateway when the peer dials",
                self.local_name(),
                one(&self.accepted_ids)
            ),
            OutcomeCode::RefusedByPeer if self.refused_authentication() => format!(
                "compare on the peer: its key with `{}` here; the identity it expects of us, which must be {}; its \
                 own identity, which must be {}. Its log says which it is; so does this gateway when the peer dials",
                self.secret_name(),
                self.local_name(),
                one(&self.accepted_ids)
            ),
            OutcomeCode::RefusedByPeer => "look into the peer's log at this moment: it says why".to_owned(),
            OutcomeCode::NotPostQuantum => "let both sides have an ML-KEM key exchange in their IKE proposals \
                 (`ke1_mlkem768`) or the same post-quantum preshared key, or do not require it here \
                 (`require_post_quantum`, `ppk_required`)"
                .to_owned(),
            OutcomeCode::NotUnique => {
                "end the other IKE SA (`adit down`), or set `unique = replace` on this connection".to_owned()
            }
            OutcomeCode::InvalidSyntax | OutcomeCode::UnsupportedCriticalPayload => {
                "it is a defect of the peer or a change on the way: update the peer, and report it with a capture \
                 (`adit capture`)"
                    .to_owned()
            }
            OutcomeCode::OtherVersion => {
                "on the peer set `version = 2` (`keyexchange=ikev2`), or the like; IKEv1 is obsolete (RFC 9395)".to_owned()
            }
            OutcomeCode::Timeout if !self.initiator => {
                "let UDP port 4500 through in both directions: after the first message most peers use it, and all that are \
                 behind a NAT. If it is open, see the peer's log: our answer may not reach it, or it may not accept it"
                    .to_owned()
            }
            OutcomeCode::Timeout if self.stage == Stage::IkeSaInit => format!(
                "check that {remote} is the peer's address, that it runs and listens, and that firewalls on both \
                 sides and between let UDP ports 500 and 4500 through"
            ),
            OutcomeCode::Timeout if self.nat_local || self.nat_remote => format!(
                "the peer answered on UDP port 500, and with a NAT on the way all that follows uses UDP port {}, ESP too: let \
                 it through in both directions; and check that datagrams of more than 1,280 octets arrive \
                 (`fragmentation = yes`)",
                self.remote.port()
            ),
            OutcomeCode::Timeout => format!(
                "the peer answered before: check that UDP port {} is open both ways and that datagrams of more than \
                 1,280 octets arrive (`fragmentation = yes`)",
                self.remote.port()
            ),
            OutcomeCode::DataPlane => {
                "the system refused the SA: the log line before this tells which limit or setting".to_owned()
            }
            OutcomeCode::Cancelled => "it was ended here: bring it up again (`adit up`)".to_owned(),
        }
    }

    fn secret_name(&self) -> String {
        self.secret.as_ref().map_or_else(|| "secrets".to_owned(), |name| format!("secrets.{name}"))
    }

    fn step_of_proposals(&self) -> String {
        let key = if self.stage == Stage::ChildSa { "esp_proposals" } else { "proposals" };
        let subject = self.subject();
        if let Some((own, other, differing)) = nearest(&self.our_proposals, &self.peer_proposals)
            && !differing.is_empty()
            && let Some(there) = simplest(own, other)
        {
            let there = format!("on the peer add {} to its {subject} proposals", Notation(&there));
            return match simplest(other, own) {
                Some(here) => format!("{there}, or here add {} to `{key}`", Notation(&here)),
                None => format!("{there}; what it offers is not supported here"),
            };
        }
        if !self.initiator {
            return "set the same on both sides".to_owned();
        }
        let first = self.our_proposals.first();
        match first.and_then(|own| simplest(own, own)) {
            Some(there) if self.stage == Stage::IkeSaInit => format!(
                "on the peer add {} to its IKE proposals, and see that it has a connection for our address {} (or the one \
                 that a NAT on the way gives us); what it has itself is shown here once it dials",
                Notation(&there),
                self.local.ip()
            ),
            Some(there) => format!(
                "on the peer add {} to its {subject} proposals, or here one of its own to `{key}`; what it has is shown \
                 here once it dials",
                Notation(&there)
            ),
            None => format!("make `{key}` overlap on one side"),
        }
    }

    fn step_of_selectors(&self) -> String {
        let narrowed = self.code == OutcomeCode::Narrowed;
        let lead = if narrowed { "if all of it is needed: " } else { "" };
        match self.difference() {
            Some(Difference::Selectors { local: true, ours, theirs, .. }) => format!(
                "{lead}on the peer set `remote_ts = {}`, or here `local_ts = {}`",
                List(&ours),
                List(&theirs)
            ),
            Some(Difference::Selectors { ours, theirs, .. }) => format!(
                "{lead}on the peer set `local_ts = {}`, or here `remote_ts = {}`",
                List(&ours),
                List(&theirs)
            ),
            _ if narrowed => "the peer wants more than we allow, and gets what is configured here".to_owned(),
            _ => format!(
                "on the peer set `local_ts = {}` and `remote_ts = {}` (its side first), or change these here to what \
                 it has",
                List(&self.our_selectors.1),
                List(&self.our_selectors.0)
            ),
        }
    }
}

fn one(configured: &[IdentityPattern]) -> String {
    configured.first().map_or_else(|| "what is expected here".to_owned(), ToString::to_string)
}

impl Stage {
    /// As programs name it, and people who know the protocol.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::IkeSaInit => "IKE_SA_INIT",
            Self::IkeIntermediate => "IKE_INTERMEDIATE",
            Self::IkeAuth => "IKE_AUTH",
            Self::ChildSa => "CHILD_SA",
            Self::IkeRekey => "IKE_REKEY",
        }
    }

    /// The exchange that it happens in.
    const fn exchange(self) -> &'static str {
        match self {
            Self::ChildSa | Self::IkeRekey => "CREATE_CHILD_SA",
            other => other.name(),
        }
    }
}
