//! The Vendor ID payload (RFC 7296 3.12).

use crate::cursor::Writer;

/// A token by which an implementation may recognise its own kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VendorId(pub Vec<u8>);

impl VendorId {
    pub(super) fn encode(&self, writer: &mut Writer) {
        writer.bytes(&self.0);
    }
}
