//! Certificates made by rcgen and by OpenSSL, read and judged by this crate, with OpenSSL as second opinion.
#![expect(clippy::panic, clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod corpus;
mod openssl;
mod pki;
mod reading;
mod revocation;
mod trust;
