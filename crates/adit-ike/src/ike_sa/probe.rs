//! How large a datagram gets to the peer: a liveness check (RFC 7296 2.4) that is padded to a size.
//!
//! The padding is a status notification that no peer knows, so each ignores it (RFC 7296 3.10.1), and its answer is small: what
//! is learnt is about our direction alone. The request goes out in one datagram first, and where that is not answered, as
//! fragments (RFC 7383 2.5.1), which fit any path. An answer to the first form says that the size passes, one that comes only
//! after another that it does not, and none what it always says: the peer is away, and nothing is learnt about the path.
//!
//! There are peers that hold a fragment of an INFORMATIONAL request for something else and never answer it: strongSwan where it
//! is built with mediation, as Debian's is. Lest they be taken for dead, the last form has no padding and no fragments. There are
//! others that answer only the form again that they have received first: so the last two take turns.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use adit_crypto::Error;
use adit_wire::ikev2::{ExchangeType, Header, Message, Notify, NotifyType, Payload};

use super::established::{Established, Exchange, Task};
use super::secured::Secured;
use super::window::{Another, Outstanding};
use super::{Core, State};
use crate::output::{Output, PathProbe, Probed};
use crate::shared::Shared;

/// Of the status types for private use (RFC 7296 3.10.1, 40960 to 65535).
const PADDING: NotifyType = NotifyType(44_455);

/// How often a probe goes out whole.
const WHOLE: u32 = 3;

/// How often in pieces after that.
const PIECES: u32 = 2;

/// Octets of the IKE messages that a fragment of a probe has, at the most: with all headers less than 576, which every path
/// carries (RFC 791 3.1).
const PIECE: usize = 500;

/// Generic header, protocol, SPI size and type of a notification without data.
const EMPTY_NOTIFY: usize = 4 + 4;

/// A datagram of this size to be sent, soon repeated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe {
    pub(super) size: u16,
    pub(super) pace: Duration,
}

/// The same while it is outstanding.
pub(super) struct Sent {
    size: u16,
    path: (SocketAddr, SocketAddr),
    at: Instant,
    padded: bool,
}

impl Probe {
    /// Seals the message in all its forms, of which there are more than one only if it is padded.
    ///
    /// RFC 7296 2.1 wants a request repeated bit for bit. The last form is none of the same, but to a peer that has received
    /// any of them it is: it knows the Message ID, and answers with what it has answered.
    pub(super) fn seal(
        self,
        core: &Core,
        cx: &Shared,
        secured: &mut Secured,
        header: &Header,
    ) -> Result<(Vec<Vec<u8>>, Vec<Another>), Error> {
        let marker = if core.local.port() == cx.settings.nat_t_port { 4 } else { 0 };
        let outer = if core.remote.is_ipv4() { 20 } else { 40 } + 8 + marker;
        let room = usize::from(self.size).saturating_sub(outer);
        let least = Message::encode_encrypted(header, &[], secured.layout()).datagram.len();
        let Some(padding) = room.checked_sub(least + EMPTY_NOTIFY).filter(|_| secured.largest.is_some())
        else {
            return Ok((vec![secured.seal_whole(header, &[])?], Vec::new()));
        };
        let payload = |len| [Payload::Notify(Notify::new(PADDING, vec![0; len]))];
        // Whole cipher blocks may be more than there is room for.
        let len = |len| Message::encode_encrypted(header, &payload(len), secured.layout()).datagram.len();
        let padding = padding.saturating_sub(len(padding).saturating_sub(room));
        let whole = secured.seal_whole(header, &payload(padding))?;
        let pieces = secured.seal_pieces(header, &payload(padding), PIECE)?;
        let pieces = Another { after: WHOLE, pace: self.pace, datagrams: pieces };
        let small = vec![secured.seal_whole(header, &[])?];
        let small = Another { after: WHOLE + PIECES, pace: self.pace, datagrams: small };
        Ok((vec![whole], vec![small, pieces]))
    }

    /// It is on its way.
    fn sent(self, core: &Core, now: Instant, padded: bool) -> Sent {
        Sent { size: self.size, path: (core.local, core.remote), at: now, padded }
    }

    /// It will not be.
    pub(super) fn abandon(self, core: &Core, cx: &mut Shared) {
        self.sent(core, cx.now, false).tell(core, cx, Probed::Abandoned);
    }
}

impl Sent {
    /// It is answered, or never will be.
    fn tell(self, core: &Core, cx: &mut Shared, result: Probed) {
        let (local, remote) = self.path;
        let (ike_sa, size) = (core.handle, self.size);
        cx.outputs.push_back(Output::PathProbed(PathProbe { ike_sa, local, remote, size, result }));
    }

    /// The answer to a request that was sent so often, perhaps in its first form only.
    pub(super) fn answered(self, core: &Core, cx: &mut Shared, (times, first_form): (u32, bool)) {
        let result = match self.padded && !first_form {
            // On the way there the address changed: of which path it says something is not known.
            _ if self.path != (core.local, core.remote) => Probed::Abandoned,
            true => Probed::Blocked,
            false => Probed::Passed((times == 1).then(|| cx.now.saturating_duration_since(self.at))),
        };
        self.tell(core, cx, result);
    }

    pub(super) fn abandon(self, core: &Core, cx: &mut Shared) {
        self.tell(core, cx, Probed::Abandoned);
    }
}

impl Established {
    /// Do both sides take fragments, without which nothing large may be sent that could be lost?
    pub(super) fn may_pad(&self) -> bool {
        self.ike.secured.largest.is_some()
    }

    /// Sends a probe when it is its turn.
    pub(super) fn probe(mut self: Box<Self>, core: &mut Core, cx: &mut Shared, probe: Probe) -> State {
        self.queue.push_back(Task::Probe(probe));
        self.pump(core, cx)
    }

    /// Its request, sent.
    pub(super) fn begin_probe(
        &mut self,
        core: &mut Core,
        cx: &mut Shared,
        probe: Probe,
    ) -> Result<(), &'static str> {
        let sealed = self.ike.next_request().ok_or("Message IDs are used up").and_then(|id| {
            let header = self.ike.header(ExchangeType::INFORMATIONAL, false, id);
            let sealed = probe.seal(core, cx, &mut self.ike.secured, &header);
            Ok((id, sealed.map_err(|_| "a request cannot be encrypted")?))
        });
        match sealed {
            Ok((id, (datagrams, others))) => {
                let sent = probe.sent(core, cx.now, !others.is_empty());
                let outstanding = Outstanding::send(core, cx, id, datagrams, core.schedule()).with(others);
                self.ike.sent(outstanding, Exchange::Probe(sent));
                Ok(())
            }
            Err(failure) => {
                probe.abandon(core, cx);
                Err(failure)
            }
        }
    }
}
