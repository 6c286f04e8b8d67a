//! Entry points for fuzzing. Each takes arbitrary octets, must return, and asserts what must hold for all input.

use std::path::Path;

use crate::config;
use crate::control::vici::Packet;
pub use crate::http::fuzzing::http;

/// The vici decoder: what decodes must encode, and decode again to the same. What has sections is loaded as connections.
pub fn vici(payload: &[u8]) {
    if let Ok(packet) = Packet::decode(payload) {
        let frame = packet.encode();
        // Input of a frame's size cannot encode to more: the format has one encoding.
        assert!(payload.len() > crate::control::vici::MAX_FRAME || frame.is_ok(), "{packet:?}");
        if let Ok(frame) = frame {
            assert_eq!(frame.get(4..), Some(payload), "{packet:?}");
        }
        if let Packet::Request { message, .. } = packet
            && let Ok(settings) = config::load_if_there(Path::new("/nonexistent"))
        {
            for (name, section) in message.sections() {
                let known = adit_ike::config::Configuration::default();
                // A refusal is as good as a connection.
                let _ = config::pushed::connection(name, section, &settings.gateway, known);
            }
        }
    }
}
