//! Entry points for fuzzing. Each takes arbitrary octets, must return, and asserts what must hold for all input.

use crate::control::vici::Packet;
pub use crate::http::fuzzing::http;

/// The vici decoder: what decodes must encode, and decode again to the same.
pub fn vici(payload: &[u8]) {
    if let Ok(packet) = Packet::decode(payload) {
        let frame = packet.encode();
        // Input of a frame's size cannot encode to more: the format has one encoding.
        assert!(payload.len() > crate::control::vici::MAX_FRAME || frame.is_ok(), "{packet:?}");
        if let Ok(frame) = frame {
            assert_eq!(frame.get(4..), Some(payload), "{packet:?}");
        }
    }
}
