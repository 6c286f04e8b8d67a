#![forbid(unsafe_code)]
//! The `adit` program as a library: what the daemon and the command line are made of.

pub mod config;
pub mod control;
#[doc(hidden)]
pub mod fuzzing;
