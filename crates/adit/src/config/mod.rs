//! The configuration file: from text to what the machines need, and to diagnostics that point at the text.
//!
//! The language is that of strongSwan's `swanctl.conf` with a section `gateway` of our own; `docs/configuration.md`
//! describes it. [`load`] reads a file and everything it includes, and answers with a [`Configuration`] or with all
//! that is wrong. Nothing is ignored: a key that is unknown, or known but not done yet, is an error. This module
//! never applies anything.
//!
//! Text becomes a tree (`syntax`), inheritance is followed (`resolve`), every value is checked (`check`)
//! against one table (`schema`), and what passes becomes connections and secrets (`build`).

mod build;
mod check;
mod diagnostic;
#[doc(hidden)]
pub mod fuzzing;
mod hosts;
mod load;
mod manual;
pub mod pushed;
mod redact;
mod resolve;
mod schema;
mod shelf;
mod source;
mod syntax;
mod values;

#[cfg(test)]
mod tests;

pub use diagnostic::{Diagnostic, Diagnostics, MAX_ERRORS, Note, Severity};
pub use hosts::{Host, Hosts};
pub use load::{Configuration, GatewaySettings, Interfaces, Parts, Shunt, Treatments, load, load_if_there};
pub(crate) use load::{Disk, WILDCARDS, load_from, wildcards};
pub use manual::manual;
pub use redact::{Redacted, redacted};
pub(crate) use shelf::material;
pub use source::Place;
pub(crate) use syntax::Files;
pub use values::{BadControlUri, ControlUri};
