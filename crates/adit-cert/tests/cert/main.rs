//! Certificates made by rcgen and by OpenSSL, read and judged by this crate, with OpenSSL as second opinion.

#[path = "openssl.rs"]
mod openssl;
mod reading;
