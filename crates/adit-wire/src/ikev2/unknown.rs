//! Payloads whose type nobody here knows (RFC 7296 2.5, 3.2).

use super::PayloadType;
use crate::cursor::Writer;

/// A payload kept as it came.
///
/// If it is critical the whole message must be refused with UNSUPPORTED_CRITICAL_PAYLOAD, otherwise it must be
/// ignored. The critical bit of known payloads means nothing and is not kept (RFC 7296 2.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownPayload {
    /// Its type.
    pub payload_type: PayloadType,
    /// The critical bit.
    pub critical: bool,
    /// What follows the generic header.
    pub body: Vec<u8>,
}

impl UnknownPayload {
    pub(super) fn encode(&self, writer: &mut Writer) {
        writer.bytes(&self.body);
    }
}
