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
//!
//! What it costs, with certificates of 320 octets and P-256, unoptimised, on a busy machine (`cargo run -p adit-cert --example cost`):
//!
//! | certificates | memory each | read one | compare a name | verify a path with one authority between |
//! |---|---|---|---|---|
//! | 1 | | 11 us | 1.2 us | 120 us |
//! | 1,000 | 716 octets | 4.2 us | 0.04 us | 83 us |
//! | 100,000 | 712 octets | 6.4 us | 0.08 us | 130 us |
//!
//! A path costs what its signatures cost, however many certificates, authorities and lists are known: all are found by name.
//!
//! What others got wrong with certificates has tests that begin with `class_` and the number of the class: lengths and loops (1, 2), asking
//! whom nobody has vouched for (6), names that only look alike (7), degenerate keys and signatures (9, 13), and floods of
//! certificates (12).
//!
//! Known limits, each of which refuses and never accepts: webpki understands name constraints for domain names and addresses
//! only in authorities between the peer and the trusted one (in the trusted one, names of directories and mail are
//! understood as well), no critical certificatePolicies, and no RSA key that is marked for PSS only.
#![forbid(unsafe_code)]

mod certificate;
mod constraints;
mod crl;
#[doc(hidden)]
pub mod fuzzing;
mod name;
mod signed;
mod store;

pub use certificate::{Certificate, CertificateError, MAX_LENGTH, Oid};
pub use crl::{Crl, CrlError, MAX_CRL_LENGTH};
pub use name::{AltName, Name, NameError, dn_eq, dn_from_text, dn_to_text};
pub use store::{
    NotAnAuthority, Path, Rejected, Requirements, Revocation, Store, TooManyLists, Unchecked, purpose,
};
