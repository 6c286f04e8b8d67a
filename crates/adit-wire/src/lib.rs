//! Bytes and meaning: IKEv2, ESP, UDP encapsulation, IP, UDP and ICMP.
//!
//! This crate owns every wire format Adit speaks. It never does I/O, never decrypts, never decides: what a
//! peer may say and what it means to an SA is for `adit-ike` and `adit-esp`.
//!
//! Decoders take hostile input. They never panic, never loop without consuming, never allocate from a length
//! that was not checked against the octets that are there, and keep numbers they do not know.

#![forbid(unsafe_code)]

use std::error::Error;
use std::fmt;

pub mod cursor;
pub mod esp;
pub mod icmp;
pub mod ikev2;
pub mod ip;
pub mod natt;
pub mod udp;

/// Why octets could not be decoded: which structure, which item of it, and what is wrong.
///
/// ```
/// let error = adit_wire::ikev2::Header::decode(&[0; 5]).unwrap_err();
/// assert_eq!(error.to_string(), "IKE header: 8 octets needed, 5 left");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeError {
    context: &'static str,
    item: Option<(&'static str, usize)>,
    reason: Reason,
}

impl DecodeError {
    pub(crate) const fn new(context: &'static str, reason: Reason) -> Self {
        Self { context, item: None, reason }
    }

    pub(crate) const fn invalid(context: &'static str, why: &'static str) -> Self {
        Self::new(context, Reason::Invalid(why))
    }

    /// Names the list item at fault; the innermost list wins.
    pub(crate) fn in_item(mut self, name: &'static str, number: usize) -> Self {
        self.item.get_or_insert((name, number));
        self
    }

    /// The structure at fault, such as `SA payload` or `IPv4 header`.
    #[must_use]
    pub fn context(&self) -> &'static str {
        self.context
    }

    /// The fault.
    #[must_use]
    pub fn reason(&self) -> Reason {
        self.reason
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.context)?;
        if let Some((name, number)) = self.item {
            write!(f, "{name} {number}: ")?;
        }
        self.reason.fmt(f)
    }
}

impl Error for DecodeError {}

/// What is wrong with octets that could not be decoded. All numbers are octets unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The structure ends before a field does.
    Truncated {
        /// What the field takes.
        needed: usize,
        /// What is left.
        left: usize,
    },
    /// A length field is smaller than the fixed part it counts.
    LengthBelow {
        /// The length field.
        length: usize,
        /// The least it can be.
        minimum: usize,
    },
    /// A length field points beyond the structure that holds it.
    LengthBeyond {
        /// The length field.
        length: usize,
        /// What is there.
        available: usize,
    },
    /// A length must have one value and has another.
    LengthMismatch {
        /// What it must be.
        expected: usize,
        /// What it is.
        found: usize,
    },
    /// Octets follow where the structure ends.
    Trailing(usize),
    /// More items than are ever legitimate.
    TooMany {
        /// The greatest number accepted.
        limit: usize,
    },
    /// A value is not allowed where it stands.
    Invalid(&'static str),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Truncated { needed, left } => write!(f, "{needed} octets needed, {left} left"),
            Self::LengthBelow { length, minimum } => write!(f, "length {length} below {minimum}"),
            Self::LengthBeyond { length, available } => {
                write!(f, "length {length} beyond the {available} available")
            }
            Self::LengthMismatch { expected, found } => write!(f, "length {found} must be {expected}"),
            Self::Trailing(octets) => write!(f, "{octets} octets follow its end"),
            Self::TooMany { limit } => write!(f, "more than {limit}"),
            Self::Invalid(why) => f.write_str(why),
        }
    }
}
