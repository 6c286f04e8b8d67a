//! The mode of a Child SA: tunnel mode, unless one side asks for another by a notify and the other agrees by the same (RFC 7296
//! 1.3.1, RFC 9347 5.1). Rekeying asks anew.

use adit_wire::esp::Mode;
use adit_wire::ikev2::{Notify, NotifyType, Payload};

use super::Contents;

/// RFC 9347 5.1, flag D: no parts of packets, please.
const DONT_FRAGMENT: u8 = 0x01;

/// The notify that asks for a mode, or agrees to it.
pub(super) fn notify(mode: Mode) -> Option<Payload> {
    let notify = match mode {
        Mode::Tunnel => return None,
        Mode::Transport => Notify::new(NotifyType::USE_TRANSPORT_MODE, Vec::new()),
        Mode::Iptfs { fragments } => {
            Notify::new(NotifyType::USE_AGGFRAG, vec![if fragments { 0 } else { DONT_FRAGMENT }])
        }
    };
    Some(Payload::Notify(notify))
}

/// Is it the mode that a message asks for?
pub(super) fn is_asked_for(mode: Mode, c: &Contents<'_>) -> bool {
    let (transport, aggfrag) = (c.has(NotifyType::USE_TRANSPORT_MODE), c.has(NotifyType::USE_AGGFRAG));
    match mode {
        Mode::Tunnel => !transport && !aggfrag,
        Mode::Transport => transport,
        Mode::Iptfs { .. } => aggfrag,
    }
}

/// What becomes of our wish, with what the peer says.
pub(super) fn agreed(wish: Mode, c: &Contents<'_>) -> Mode {
    match wish {
        Mode::Tunnel => Mode::Tunnel,
        Mode::Transport if c.has(NotifyType::USE_TRANSPORT_MODE) => Mode::Transport,
        Mode::Transport => Mode::Tunnel,
        Mode::Iptfs { .. } => match c.notify(NotifyType::USE_AGGFRAG).map(|notify| notify.data.as_slice()) {
            // RFC 9347 5.1: what asks for more than we know is not agreed to, and congestion reports (flag C) are more.
            Some([flags]) if flags & !DONT_FRAGMENT == 0 => {
                Mode::Iptfs { fragments: flags & DONT_FRAGMENT == 0 }
            }
            // Libreswan leaves the flags out.
            Some([]) => Mode::Iptfs { fragments: true },
            _ => Mode::Tunnel,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 9347 5.1: of the flags octet 0x01 is D and 0x02 is C; the other six are to be zero.
    #[test]
    fn only_what_is_understood_is_agreed_to() {
        let wish = Mode::Iptfs { fragments: true };
        for (data, fragments) in [
            (&[0][..], Some(true)),
            (&[1], Some(false)),
            (&[], Some(true)),
            (&[2], None),
            (&[3], None),
            (&[4], None),
            (&[0x81], None),
            (&[0, 0], None),
        ] {
            let payloads = [Payload::Notify(Notify::new(NotifyType::USE_AGGFRAG, data.to_vec()))];
            let contents = Contents::read(&payloads).unwrap();
            let expected = fragments.map_or(Mode::Tunnel, |fragments| Mode::Iptfs { fragments });
            assert_eq!(agreed(wish, &contents), expected, "{data:?}");
            assert_eq!(agreed(Mode::Tunnel, &contents), Mode::Tunnel, "nobody wanted it");
        }
        assert_eq!(agreed(wish, &Contents::default()), Mode::Tunnel);
    }
}
