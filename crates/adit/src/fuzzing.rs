//! Entry points for fuzzing. Each takes arbitrary octets, must return, and asserts what must hold for all input.

use crate::control::vici::{MAX_FRAME, Message, Packet};
use crate::daemon;
pub use crate::http::fuzzing::http;

/// The name under which an input makes several requests, its sections.
const SEVERAL: &str = "several";

/// A packet of the control protocol: what decodes must encode, and decode again to the same. Requests are made of a daemon that
/// has a tunnel, before and after a few that ask for all there is.
pub fn vici(payload: &[u8]) {
    let Ok(packet) = Packet::decode(payload) else { return };
    let frame = packet.encode();
    // Input of a frame's size cannot encode to more: the format has one encoding.
    assert!(payload.len() > MAX_FRAME || frame.is_ok(), "{packet:?}");
    if let Ok(frame) = frame {
        assert_eq!(frame.get(4..), Some(payload), "{packet:?}");
    }
    let Packet::Request { name, message } = packet else { return };
    let mut requests = if name == SEVERAL {
        message.sections().map(|(name, section)| (name.to_owned(), section.clone())).collect()
    } else {
        vec![(name, message)]
    };
    let looks = [
        "list-sas",
        "list-conns",
        "list-policies",
        "list-negotiations",
        "get-shared",
        "get-conns",
        "health",
        "stats",
    ];
    requests.extend(looks.map(|name| (name.to_owned(), Message::new())));
    daemon::fuzzing::ask(requests);
}
