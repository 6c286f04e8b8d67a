#![forbid(unsafe_code)]
//! The `adit` program as a library: what the daemon and the command line are made of.

pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod demo;
#[doc(hidden)]
pub mod fuzzing;
pub mod http;
pub mod import;
pub mod key_log;
pub mod pcapng;
pub mod snapshot;
mod wrap;
