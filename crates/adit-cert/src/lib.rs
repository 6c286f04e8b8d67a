//! X.509 certificates of IKE peers: what they name, and whether they can be trusted.
//!
//! This crate owns the reading of certificates, CRLs and OCSP responses, the exact comparison of identities with them, and the decision
//! whether a path leads from a certificate to an authority. It never does I/O: it opens no file, fetches nothing (it
//! says what would have to be fetched) and reads no clock. It never sees a private key.
//!
//! ```text
//! CERT payload, file -> Certificate::from_der -> Certificate::names (is this who it says it is?)
//!                                             -> Store::verify (path, constraints, revocation) -> Path | Rejected
//! ```
#![forbid(unsafe_code)]

mod certificate;
mod constraints;
mod crl;
mod name;
mod signed;
mod store;

pub use certificate::{Certificate, CertificateError, MAX_LENGTH, Oid};
pub use crl::{Crl, CrlError, MAX_CRL_LENGTH};
pub use name::{AltName, Name, NameError, dn_eq, dn_from_text, dn_to_text};
pub use store::{
    NotAnAuthority, Path, Rejected, Requirements, Revocation, Store, TooManyLists, Unchecked, purpose,
};
