//! IKEv2 messages (RFC 7296 section 3, RFC 7383 fragments).
//!
//! Owns the octets of messages and payloads. Never decrypts, never judges: a message that decodes may still be
//! nonsense to the SA it names.

mod auth;
mod cert;
mod cp;
mod delete;
mod eap;
mod encrypted;
mod header;
mod id;
mod ke;
mod message;
mod nonce;
mod notify;
mod numbers;
mod sa;
mod ts;
mod unknown;
mod vendor_id;

pub use auth::Authentication;
pub use cert::{Certificate, CertificateRequest};
pub use cp::{Configuration, ConfigurationAttribute};
pub use delete::Delete;
pub use eap::Eap;
pub use encrypted::{Encrypted, Fragment, SkDraft, SkLayout};
pub use header::{Flags, Header, IkeSpi, Spi, Version};
pub use id::Identification;
pub use ke::KeyExchange;
pub use message::{Message, Payload};
pub use nonce::Nonce;
pub use notify::Notify;
pub use numbers::{
    AuthMethod, CertEncoding, CfgAttributeType, CfgType, EncrId, EsnId, ExchangeType, HashId, IdType,
    IntegId, KeId, NotifyType, PayloadType, PrfId, ProtocolId, TransformType, TsType,
};
pub use sa::{Proposal, SecurityAssociation, Transform};
pub use ts::{TrafficSelector, TrafficSelectors, UnknownSelector};
pub use unknown::UnknownPayload;
pub use vendor_id::VendorId;
