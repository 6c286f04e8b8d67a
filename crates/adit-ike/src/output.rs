//! What the machine wants done, in the order it must be done, and what it reports.
//!
//! Outputs are facts and orders; nothing here has behaviour. Whoever drives a [`crate::Gateway`] drains
//! [`crate::Gateway::poll_output`] after every input.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use adit_crypto::{EspKeys, EspTransforms, IkeTransforms};
use adit_wire::esp::Mode;
use adit_wire::ikev2::{ExchangeType, IkeSpi, KeId, NotifyType, Proposal, Spi, TrafficSelector};

use crate::identity::{Identity, IdentityPattern};

/// Identifies one Child SA pair for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChildHandle(pub u64);

/// Identifies one IKE SA for the life of the process (`uniqueid` of vici).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IkeSaHandle(pub u64);

/// Chosen by the caller of `initiate` or `terminate`, returned with [`Event::RequestDone`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// One order or report.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "they are drained one at a time, not kept")]
pub enum Output {
    /// Send this datagram. The non-ESP marker is added by whoever sends from the NAT traversal port.
    Transmit(Transmit),
    /// Send one NAT keepalive octet (RFC 3948 2.3) between these addresses.
    NatKeepalive {
        /// Our address and port.
        local: SocketAddr,
        /// The peer's address and port.
        remote: SocketAddr,
    },
    /// Put both halves of a Child SA into the data plane. Inbound before outbound.
    InstallChild(Box<InstallChild>),
    /// Send on the outbound half of this Child SA from now on: it is the one of its policy. For one that is already,
    /// or that carries traffic already because the peer does, this changes nothing.
    SwitchChild(ChildHandle),
    /// Send nothing more on the outbound half of this Child SA, and never again; the inbound half still takes what is
    /// on its way until [`Output::RemoveChild`].
    RetireChild(ChildHandle),
    /// Take both halves of a Child SA out of the data plane.
    RemoveChild(ChildHandle),
    /// The peer, or we, have another address: send there, from there. Sequence numbers and keys stay.
    MoveChild {
        /// Which.
        handle: ChildHandle,
        /// Our outer address.
        local: IpAddr,
        /// The peer's outer address.
        remote: IpAddr,
        /// As in [`InstallChild::encap`].
        encap: Option<(u16, u16)>,
    },
    /// A probe of the way to a peer has ended ([`crate::Gateway::probe`]).
    PathProbed(PathProbe),
    /// Something an operator or a program waiting for it wants to know.
    Event(Event),
    /// A negotiation ended: what each side offered and why it ended so.
    Record(Box<NegotiationRecord>),
    /// Keys in the clear, only with [`crate::config::Settings::key_log`].
    KeyLog(IkeKeyLog),
}

/// A datagram to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Our address and port.
    pub local: SocketAddr,
    /// The peer's address and port.
    pub remote: SocketAddr,
    /// The IKE message.
    pub datagram: Vec<u8>,
}

/// What became of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathProbe {
    /// Whose it was.
    pub ike_sa: IkeSaHandle,
    /// Our address and port.
    pub local: SocketAddr,
    /// The peer's address and port.
    pub remote: SocketAddr,
    /// As it was asked for.
    pub size: u16,
    /// What is known now.
    pub result: Probed,
}

/// What a probe has found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probed {
    /// The peer has answered, after this time if the first datagram was enough.
    Passed(Option<Duration>),
    /// The peer has answered only when the same came in small pieces. Mere loss can look like this, though not often.
    Blocked,
    /// Nothing: the IKE SA is gone, its addresses have changed, or the peer does not answer at all.
    Abandoned,
}

/// A negotiated Child SA with its keys.
#[derive(Debug)]
pub struct InstallChild {
    /// Name for later orders.
    pub handle: ChildHandle,
    /// The IKE SA it belongs to.
    pub ike_sa: IkeSaHandle,
    /// Name of the connection.
    pub connection: String,
    /// Name of the child.
    pub child: String,
    /// The SPI we chose: what arrives for us carries it.
    pub inbound_spi: Spi,
    /// The SPI the peer chose.
    pub outbound_spi: Spi,
    /// What its packets carry.
    pub mode: Mode,
    /// Algorithms of both directions.
    pub transforms: EspTransforms,
    /// Keys of what arrives.
    pub inbound_keys: EspKeys,
    /// Keys of what we send.
    pub outbound_keys: EspKeys,
    /// Anti-replay window in packets.
    pub replay_window: u32,
    /// Negotiated selectors of our side.
    pub local_ts: Vec<TrafficSelector>,
    /// Negotiated selectors of the peer's side.
    pub remote_ts: Vec<TrafficSelector>,
    /// May inner packets be padded against traffic analysis (RFC 4303 2.7)? The peer can refuse that.
    pub tfc_padding: bool,
    /// In transport mode, where a NAT changes addresses: the peer's and ours in the peer's eyes, by which it makes the
    /// checksums of what it sends (RFC 3948 3.1.2).
    pub original: Option<(IpAddr, IpAddr)>,
    /// Our outer address.
    pub local: IpAddr,
    /// The peer's outer address.
    pub remote: IpAddr,
    /// UDP ports (ours, the peer's) if ESP is encapsulated in UDP (RFC 3948), `None` for IP protocol 50.
    pub encap: Option<(u16, u16)>,
    /// The resource of ours that alone is to send on it, if it is its own (RFC 9611). Without one it is for all that have none.
    pub resource: Option<u16>,
    /// Is the outbound half used from now on? If not, it is once [`Output::SwitchChild`] says so, or the first authentic
    /// packet arrives on the inbound half: then the peer can take what we send (RFC 7296 2.8).
    pub active: bool,
    /// What it may carry.
    pub limits: UsageLimits,
}

/// How much a Child SA may carry, the larger of both directions. `None`: as much as its sequence numbers and cipher
/// allow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsageLimits {
    /// Octets of inner packets after which [`crate::Gateway::child_expiring`] is to be called.
    pub soft_bytes: Option<u64>,
    /// Octets of inner packets after which nothing more is sent and [`crate::Gateway::child_expired`] is to be called.
    pub hard_bytes: Option<u64>,
    /// The same in packets.
    pub soft_packets: Option<u64>,
    /// The same in packets.
    pub hard_packets: Option<u64>,
}

/// A change that is visible from outside.
#[derive(Debug)]
pub enum Event {
    /// An IKE SA is established.
    IkeUp(IkeSaView),
    /// An IKE SA is gone.
    IkeDown(IkeSaView, DownReason),
    /// A Child SA is installed.
    ChildUp(IkeSaView, ChildSaView),
    /// A Child SA is gone.
    ChildDown(IkeSaView, ChildSaView, DownReason),
    /// An IKE SA has taken the place of another, with its Child SAs (RFC 7296 2.8). No up or down is told.
    IkeRekeyed {
        /// The one that is replaced.
        old: IkeSaView,
        /// The one that replaces it.
        new: IkeSaView,
    },
    /// A Child SA has taken the place of another (RFC 7296 2.8). No up or down is told.
    ChildRekeyed {
        /// Its IKE SA.
        ike_sa: IkeSaView,
        /// The one that is replaced.
        old: ChildSaView,
        /// The one that replaces it.
        new: ChildSaView,
    },
    /// An established IKE SA has other addresses or ports, ours or the peer's (RFC 4555, RFC 7296 2.23).
    IkeMoved {
        /// As it is now.
        sa: IkeSaView,
        /// What `sa.local` was.
        local: SocketAddr,
        /// What `sa.remote` was.
        remote: SocketAddr,
    },
    /// No outcome of a negotiation, and perhaps a sign of trouble.
    Notice(Box<Notice>),
    /// An `initiate` or `terminate` ended.
    RequestDone {
        /// The caller's number.
        request: RequestId,
        /// `Err` holds one sentence for the operator.
        result: Result<(), String>,
    },
    /// Progress of an `initiate` or `terminate`, one line for a person (vici `control-log`).
    Progress {
        /// The caller's number.
        request: RequestId,
        /// The line.
        message: String,
    },
}

/// Something seen on the wire. Of one address so many are told, and no more.
#[derive(Clone, Debug)]
pub struct Notice {
    /// What.
    pub kind: NoticeKind,
    /// The IKE SA it is about.
    pub ike_sa: Option<IkeSaHandle>,
    /// Its connection, once it is known.
    pub connection: Option<String>,
    /// Our address and port.
    pub local: SocketAddr,
    /// The peer's address and port.
    pub remote: SocketAddr,
    /// The exchange, where there is a header that names one.
    pub exchange: Option<ExchangeType>,
    /// What it is in words.
    pub message: String,
}

/// What is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoticeKind {
    /// A datagram without an IKE header.
    MalformedHeader,
    /// A message that cannot be decoded behind its header.
    MalformedBody,
    /// A message for an IKE SA that there is not.
    UnknownSpi,
    /// A request of ours is not answered and sent again.
    SentAgain,
    /// A request of the peer has come again: our answer may not have reached it.
    ReceivedAgain,
}

/// Why an SA went down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DownReason {
    /// The peer deleted it.
    DeletedByPeer,
    /// We were told to.
    DeletedByUs,
    /// The peer no longer answers.
    PeerDead,
    /// A negotiation failed.
    Failed,
    /// The data plane refused it or could not go on with it.
    DataPlane,
    /// It reached its hard limit.
    Expired,
    /// An IKE SA that the peer made anew takes its place (INITIAL_CONTACT, `unique`).
    Replaced,
    /// The peers have authenticated anew.
    Reauthenticated,
}

/// A snapshot of one IKE SA.
#[derive(Clone, Debug)]
pub struct IkeSaView {
    /// Its number.
    pub handle: IkeSaHandle,
    /// Name of the connection; empty while a responder does not know it.
    pub connection: String,
    /// Its state.
    pub state: IkeSaState,
    /// Are we the original initiator?
    pub initiator: bool,
    /// SPI of the original initiator.
    pub initiator_spi: IkeSpi,
    /// SPI of the original responder.
    pub responder_spi: IkeSpi,
    /// Our address and port.
    pub local: SocketAddr,
    /// The peer's address and port.
    pub remote: SocketAddr,
    /// Our identity once known.
    pub local_id: Option<Identity>,
    /// The peer's identity once authenticated.
    pub remote_id: Option<Identity>,
    /// Are we behind a NAT?
    pub nat_local: bool,
    /// Is the peer behind a NAT?
    pub nat_remote: bool,
    /// Did we fake NAT detection (`encap`)?
    pub nat_fake: bool,
    /// Negotiated algorithms.
    pub transforms: Option<IkeTransforms>,
    /// Additional key exchanges (RFC 9370), in their order.
    pub additional_kes: Vec<KeId>,
    /// Was a post-quantum pre-shared key mixed in (RFC 8784)?
    pub ppk: bool,
    /// Do both sides support MOBIKE (RFC 4555)?
    pub mobike: bool,
    /// When it was established.
    pub established: Option<Instant>,
    /// When it will be rekeyed.
    pub rekey_at: Option<Instant>,
    /// When the peers will authenticate anew.
    pub reauth_at: Option<Instant>,
    /// When it ends if neither happens.
    pub expires_at: Option<Instant>,
    /// Its Child SAs.
    pub children: Vec<ChildSaView>,
}

/// State of an IKE SA in vici's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IkeSaState {
    /// Handshake under way.
    Connecting,
    /// Authenticated.
    Established,
    /// Its successor is negotiated.
    Rekeying,
    /// Its successor has taken its place, and it waits for its end.
    Rekeyed,
    /// Being deleted.
    Deleting,
}

impl fmt::Display for IkeSaState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connecting => "CONNECTING",
            Self::Established => "ESTABLISHED",
            Self::Rekeying => "REKEYING",
            Self::Rekeyed => "REKEYED",
            Self::Deleting => "DELETING",
        })
    }
}

/// A snapshot of one Child SA.
#[derive(Clone, Debug)]
pub struct ChildSaView {
    /// Its number.
    pub handle: ChildHandle,
    /// Name of the child.
    pub name: String,
    /// Its state.
    pub state: ChildSaState,
    /// SPI of what arrives.
    pub inbound_spi: Spi,
    /// SPI of what we send.
    pub outbound_spi: Spi,
    /// What its packets carry.
    pub mode: Mode,
    /// Algorithms.
    pub transforms: EspTransforms,
    /// Key exchange method of its own (PFS), if any.
    pub ke: Option<KeId>,
    /// Additional key exchanges of its own (RFC 9370), in their order.
    pub additional_kes: Vec<KeId>,
    /// The resource of ours whose own it is (RFC 9611).
    pub resource: Option<u16>,
    /// ESP in UDP?
    pub encap: bool,
    /// Negotiated selectors of our side.
    pub local_ts: Vec<TrafficSelector>,
    /// Negotiated selectors of the peer's side.
    pub remote_ts: Vec<TrafficSelector>,
    /// When it was installed.
    pub installed: Instant,
    /// When it will be rekeyed.
    pub rekey_at: Option<Instant>,
    /// When it ends if it is not.
    pub expires_at: Option<Instant>,
}

/// State of a Child SA in vici's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildSaState {
    /// In use, or ready for it.
    Installed,
    /// In use while its successor is negotiated.
    Rekeying,
    /// It has a successor and waits for its end.
    Rekeyed,
    /// Being deleted.
    Deleting,
}

impl fmt::Display for ChildSaState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Installed => "INSTALLED",
            Self::Rekeying => "REKEYING",
            Self::Rekeyed => "REKEYED",
            Self::Deleting => "DELETING",
        })
    }
}

/// Where a negotiation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// IKE_SA_INIT.
    IkeSaInit,
    /// IKE_INTERMEDIATE, the additional key exchanges.
    IkeIntermediate,
    /// IKE_AUTH, the peer's or our authentication.
    IkeAuth,
    /// A Child SA, in IKE_AUTH or CREATE_CHILD_SA.
    ChildSa,
    /// The rekeying of an IKE SA.
    IkeRekey,
}

/// Who has to act (design rule 4: errors assign blame).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// Nobody: it succeeded.
    Nobody,
    /// The peer sent what cannot be parsed.
    PeerMalformed,
    /// The peer broke the protocol.
    PeerMisbehaved,
    /// Both are right but do not fit.
    PeerIncompatible,
    /// Our configuration lacks something.
    OurConfiguration,
    /// The path or the peer is silent.
    Network,
    /// A defect of Adit.
    OurBug,
}

/// How a negotiation ended, as a stable code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutcomeCode {
    /// All that was asked for is up.
    Success,
    /// Up, with narrower selectors than configured.
    Narrowed,
    /// No common IKE or ESP proposal.
    NoProposalChosen,
    /// Selectors do not intersect.
    TsUnacceptable,
    /// No connection for the peer's address.
    UnknownPeer,
    /// The peer's identity fits no connection.
    IdentityMismatch,
    /// No secret for these identities.
    NoSharedSecret,
    /// Neither ML-KEM nor a post-quantum pre-shared key is agreed, and the configuration wants one.
    NotPostQuantum,
    /// The peer has an IKE SA already, which `unique` keeps.
    NotUnique,
    /// The peer's AUTH payload does not verify: the keys differ.
    AuthenticationFailed,
    /// One side authenticates by a method, signature algorithm or key that the other does not accept or cannot.
    AuthMethodRefused,
    /// There is no certificate: the peer sent none, or we have none.
    NoCertificate,
    /// We have no private key for our certificate, or it failed.
    NoPrivateKey,
    /// The peer's certificate cannot be read, or has a key that must not be used.
    BadCertificate,
    /// The peer's certificate does not have the identity that the peer claims.
    IdentityNotInCertificate,
    /// The peer's signature does not verify with the key of its certificate.
    SignatureInvalid,
    /// No valid path leads from the peer's certificate to an authority that we trust.
    Untrusted,
    /// A certificate of the peer's path is expired, or not valid yet.
    Expired,
    /// A certificate of the peer's path is revoked.
    Revoked,
    /// Whether a certificate of the peer's path is revoked cannot be told, and has to be.
    RevocationUnknown,
    /// The peer refused our AUTH payload or identity.
    RefusedByPeer,
    /// No common key exchange method even after INVALID_KE_PAYLOAD.
    InvalidKe,
    /// The peer's message was malformed.
    InvalidSyntax,
    /// A payload we do not know was marked critical.
    UnsupportedCriticalPayload,
    /// The peer speaks another version of IKE.
    OtherVersion,
    /// No answer.
    Timeout,
    /// The data plane refused the SA.
    DataPlane,
    /// Ended from outside before it was done.
    Cancelled,
}

impl OutcomeCode {
    /// All of them.
    pub const ALL: [Self; 28] = [
        Self::Success,
        Self::Narrowed,
        Self::NoProposalChosen,
        Self::TsUnacceptable,
        Self::UnknownPeer,
        Self::IdentityMismatch,
        Self::NoSharedSecret,
        Self::NotPostQuantum,
        Self::NotUnique,
        Self::AuthenticationFailed,
        Self::AuthMethodRefused,
        Self::NoCertificate,
        Self::NoPrivateKey,
        Self::BadCertificate,
        Self::IdentityNotInCertificate,
        Self::SignatureInvalid,
        Self::Untrusted,
        Self::Expired,
        Self::Revoked,
        Self::RevocationUnknown,
        Self::RefusedByPeer,
        Self::InvalidKe,
        Self::InvalidSyntax,
        Self::UnsupportedCriticalPayload,
        Self::OtherVersion,
        Self::Timeout,
        Self::DataPlane,
        Self::Cancelled,
    ];

    /// As programs and the manual name it. That never changes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Narrowed => "narrowed",
            Self::NoProposalChosen => "no-proposal-chosen",
            Self::TsUnacceptable => "ts-unacceptable",
            Self::UnknownPeer => "unknown-peer",
            Self::IdentityMismatch => "identity-mismatch",
            Self::NoSharedSecret => "no-shared-secret",
            Self::NotPostQuantum => "not-post-quantum",
            Self::NotUnique => "not-unique",
            Self::AuthenticationFailed => "authentication-failed",
            Self::AuthMethodRefused => "auth-method-refused",
            Self::NoCertificate => "no-certificate",
            Self::NoPrivateKey => "no-private-key",
            Self::BadCertificate => "bad-certificate",
            Self::IdentityNotInCertificate => "identity-not-in-certificate",
            Self::SignatureInvalid => "signature-invalid",
            Self::Untrusted => "untrusted",
            Self::Expired => "certificate-expired",
            Self::Revoked => "certificate-revoked",
            Self::RevocationUnknown => "revocation-unknown",
            Self::RefusedByPeer => "refused-by-peer",
            Self::InvalidKe => "invalid-ke",
            Self::InvalidSyntax => "invalid-syntax",
            Self::UnsupportedCriticalPayload => "unsupported-critical-payload",
            Self::OtherVersion => "other-version",
            Self::Timeout => "timeout",
            Self::DataPlane => "data-plane",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What each side offered and why the negotiation ended as it did.
#[derive(Clone, Debug)]
pub struct NegotiationRecord {
    /// When it ended.
    pub at: Instant,
    /// How.
    pub code: OutcomeCode,
    /// Where.
    pub stage: Stage,
    /// Who has to act.
    pub blame: Blame,
    /// The connection, if one was found.
    pub connection: Option<String>,
    /// The child, if it is about one.
    pub child: Option<String>,
    /// Were we the initiator of the exchange?
    pub initiator: bool,
    /// Our address.
    pub local: SocketAddr,
    /// The peer's address.
    pub remote: SocketAddr,
    /// Has a NAT been found in front of us?
    pub nat_local: bool,
    /// And in front of the peer?
    pub nat_remote: bool,
    /// Our identity, if it came so far.
    pub local_id: Option<Identity>,
    /// The identity the peer claimed, if it came so far.
    pub remote_id: Option<Identity>,
    /// Has this peer proved who it is, or did we dial it? Anybody else can cause such records at will.
    pub known: bool,
    /// The identity of ours that the peer asked for.
    pub asked_id: Option<Identity>,
    /// Our identities on the connections that come into question.
    pub own_ids: Vec<Identity>,
    /// The peers that these connections accept.
    pub accepted_ids: Vec<IdentityPattern>,
    /// The section of the secret that was tried.
    pub secret: Option<String>,
    /// How often our last request was sent in vain.
    pub sent: u32,
    /// The peer did not say what it has: that is taken from what it asked us for itself.
    pub inferred: bool,
    /// Our proposals.
    pub our_proposals: Vec<Proposal>,
    /// The peer's proposals, as far as it showed them.
    pub peer_proposals: Vec<Proposal>,
    /// What was chosen.
    pub chosen: Option<Proposal>,
    /// Our selectors: local side, remote side.
    pub our_selectors: (Vec<TrafficSelector>, Vec<TrafficSelector>),
    /// The peer's selectors, from our point of view: local side, remote side.
    pub peer_selectors: (Vec<TrafficSelector>, Vec<TrafficSelector>),
    /// The notify that went over the wire, if one did.
    pub notify: Option<NotifyType>,
    /// One sentence for the operator: what happened and what to change on which side.
    pub message: String,
}

/// Keys of one IKE SA for a key log.
pub struct IkeKeyLog {
    /// SPI of the original initiator.
    pub initiator_spi: IkeSpi,
    /// SPI of the original responder.
    pub responder_spi: IkeSpi,
    /// Algorithms.
    pub transforms: IkeTransforms,
    /// SK_ei with salt.
    pub sk_ei: Vec<u8>,
    /// SK_er with salt.
    pub sk_er: Vec<u8>,
    /// SK_ai, empty with AEAD.
    pub sk_ai: Vec<u8>,
    /// SK_ar, empty with AEAD.
    pub sk_ar: Vec<u8>,
}

impl fmt::Debug for IkeKeyLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IkeKeyLog({}_i {}_r)", self.initiator_spi, self.responder_spi)
    }
}
