//! The black-box laboratory: Adit's program in network namespaces against real peers and independent observers.
//!
//! Owns what the tests in `tests/tests` share: namespaces ([`lab`]), processes ([`process`]), gateways under test
//! ([`peer`], [`strongswan`], [`adit`], [`guest`]), traffic ([`traffic`]), certificates ([`pki`]), broken set-ups ([`broken`]), captures ([`capture`]), the HTTP service
//! ([`web`]), a machine with systemd ([`machine`]), the manual ([`manual`]). It never links Adit's crates: everything is seen from outside, through the program, the wire, and other people's tools.
#![forbid(unsafe_code)]

pub mod adit;
pub mod broken;
pub mod capture;
pub mod guest;
pub mod lab;
pub mod machine;
pub mod manual;
pub mod peer;
pub mod pki;
pub mod process;
pub mod scapy;
pub mod strongswan;
pub mod traffic;
pub mod web;
