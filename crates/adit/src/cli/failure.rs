//! How a command ends that has nothing to show but why: in words for people, as one object for programs.
//!
//! It knows no command.

use std::io;
use std::path::Path;

use serde::Serialize;

use super::names::NameError;
use super::text::{SCHEMA, color, json, tell};
use super::{Exit, complain, count, explain};
use crate::config::{Diagnostic, Diagnostics, Severity};
use crate::control::client::ClientError;
use crate::control::vici::Message;

/// Why a command has not done what it was asked for.
#[derive(Debug)]
pub(super) struct Failure {
    exit: Exit,
    reason: String,
    /// What is wrong with a configuration, if that is the reason.
    diagnostics: Diagnostics,
}

/// The JSON form.
#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    success: bool,
    message: &'a str,
    errors: &'a [Diagnostic],
    warnings: &'a [Diagnostic],
}

impl Failure {
    /// It was tried and failed.
    pub(super) fn down(reason: impl ToString) -> Self {
        Self { exit: Exit::Down, reason: reason.to_string(), diagnostics: Diagnostics::default() }
    }

    /// Whoever called has made a mistake.
    pub(super) fn mistake(reason: impl ToString) -> Self {
        Self { exit: Exit::Usage, ..Self::down(reason) }
    }

    /// A configuration that cannot be used.
    pub(super) fn configuration(file: &Path, diagnostics: Diagnostics) -> Self {
        let errors = (diagnostics.errors.len() + diagnostics.more) as u64;
        let reason = format!("{} in {}", count(errors, "error", "errors"), file.display());
        Self { diagnostics, ..Self::mistake(reason) }
    }

    /// What a daemon has refused, if it has; a mistake if it names errors.
    pub(super) fn unless_done(answer: &Message) -> Result<(), Self> {
        if answer.flag("success") {
            return Ok(());
        }
        let reason = answer.text("errmsg").unwrap_or_default();
        let errors: Vec<_> =
            answer.list("errors").map(|error| Diagnostic::told(Severity::Error, &error)).collect();
        let failure = if errors.is_empty() { Self::down(reason) } else { Self::mistake(reason) };
        let diagnostics = Diagnostics { errors, warnings: warnings(answer), more: 0 };
        Err(Self { diagnostics, ..failure })
    }

    /// Says it, and how the program ends.
    pub(super) fn tell(&self, as_json: bool) -> Exit {
        let Diagnostics { errors, warnings, .. } = &self.diagnostics;
        if as_json {
            let message = &self.reason;
            tell(&json(&Document { schema: SCHEMA, success: false, message, errors, warnings }));
        } else {
            if !(errors.is_empty() && warnings.is_empty()) {
                explain(&self.diagnostics.render(color(&io::stderr())));
            }
            complain(&self.reason);
        }
        self.exit
    }
}

/// The warnings in a daemon's answer.
pub(super) fn warnings(answer: &Message) -> Vec<Diagnostic> {
    answer.list("warnings").map(|warning| Diagnostic::told(Severity::Warning, &warning)).collect()
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::down(error)
    }
}

impl From<NameError> for Failure {
    fn from(error: NameError) -> Self {
        Self::mistake(error)
    }
}
