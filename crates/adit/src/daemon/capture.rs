//! The command `capture`: streams copies of packets, as the data plane sees them, to one client.
//!
//! It has a thread of its own, so that neither the event loop nor a packet ever waits for whoever looks. The capture ends when
//! the client goes, when it has as many packets as it asked for, or with the data plane.

use std::thread;
use std::time::{Duration, Instant, SystemTime};

use adit_net::{Layer, TapFilter, TapPacket, TapReader};

use super::Daemon;
use super::commands::name;
use crate::control::server::Reply;
use crate::control::vici::{Message, Value};
use crate::pcapng::Blocks;

/// How often to look whether the client is still there.
const PATIENCE: Duration = Duration::from_millis(200);

/// Octets after which blocks are sent, and octets of one item of a vici list.
const ENOUGH: usize = 128 << 10;
const ITEM: usize = 32 << 10;

/// The keys of what is counted: inner and outer packets that have been shown, then those that were left out.
pub(crate) const COUNTS: [&str; 4] = ["inner", "outer", "inner-lost", "outer-lost"];

/// The longest IP packet but for jumbograms.
const WHOLE: usize = 65_535;

pub(super) fn capture(daemon: &mut Daemon, _: Instant, arguments: &Message, reply: Reply) {
    if !reply.is_private() {
        return reply.failure(
            "what is inside the tunnel is shown on a Unix socket only, not to every user of this machine",
        );
    }
    let number = |key: &str| match arguments.text(key) {
        None => Ok(None),
        Some(text) => text.parse::<u64>().map(Some),
    };
    let (Ok(count), Ok(snaplen)) = (number("count"), number("snaplen")) else {
        return reply.failure("`count` or `snaplen` is no number");
    };
    let wanted = match (name(arguments, "ike"), name(arguments, "child")) {
        (None, Some(_)) => return reply.failure("missing: the `ike` of this `child`"),
        (ike, None) => ike,
        (Some(ike), Some(child)) => Some(format!("{ike}/{child}")),
    };
    let layer = name(arguments, "layer");
    let (inner, outer) = match layer.as_deref() {
        None => (true, true),
        Some("inner") => (true, false),
        Some("outer") => (false, true),
        Some(_) => return reply.failure("`layer` is neither `inner` nor `outer`"),
    };
    let snaplen =
        snaplen.map_or(WHOLE, |octets| usize::try_from(octets).map_or(WHOLE, |octets| octets.min(WHOLE)));
    let filter = TapFilter { inner, outer, name: wanted, snaplen };
    let reader = match daemon.backend.tap(&filter) {
        Ok(reader) => reader,
        Err(error) => return reply.failure(error),
    };
    let whose = filter.name.as_deref().unwrap_or("all connections").to_owned();
    tracing::info!("capture: packets of {whose} are shown to a client of the control socket");
    let mut show = Show {
        blocks: Blocks::default(),
        shown: [0; 2],
        lost: [0; 2],
        most: count.unwrap_or(u64::MAX),
        reply,
    };
    show.blocks.begin(snaplen);
    let spawned = thread::Builder::new().name("adit-capture".into()).spawn(move || {
        show.run(reader);
        tracing::info!("capture: packets of {whose} are shown no longer");
    });
    if let Err(error) = spawned {
        tracing::warn!("capture: no thread: {error}");
    }
}

/// A capture under way.
struct Show {
    /// What is to be sent next.
    blocks: Blocks,
    /// How many inner and outer packets have been shown, and how many were left out, as last told.
    shown: [u64; 2],
    lost: [u64; 2],
    most: u64,
    reply: Reply,
}

impl Show {
    fn run(mut self, mut reader: TapReader) {
        // Also what comes before the first packet is sent: so the client sees that it has begun.
        while self.send() && !self.is_enough() {
            let mut goes_on = true;
            if reader.read(PATIENCE, |packet| goes_on = goes_on && self.packet(packet)).is_err() {
                return self.reply.failure("the data plane has stopped");
            }
            if !goes_on || self.reply.is_closed() {
                return;
            }
            if self.lost != reader.lost() {
                self.lost = reader.lost();
                self.statistics();
            }
        }
        self.statistics();
        if self.send() {
            self.reply.success();
        }
    }

    fn is_enough(&self) -> bool {
        self.shown.iter().sum::<u64>() >= self.most
    }

    /// `false`: the client has gone.
    fn packet(&mut self, packet: &TapPacket<'_>) -> bool {
        if self.is_enough() {
            return true;
        }
        let [inner, outer] = &mut self.shown;
        *match packet.layer {
            Layer::Inner => inner,
            Layer::Outer => outer,
        } += 1;
        self.blocks.packet(packet);
        self.blocks.len() < ENOUGH || self.send()
    }

    fn statistics(&mut self) {
        self.blocks.statistics(SystemTime::now(), self.shown, self.lost);
    }

    /// Sends whole blocks. `false`: the client has gone.
    fn send(&mut self) -> bool {
        if self.blocks.is_empty() {
            return true;
        }
        let items = self.blocks.take().chunks(ITEM).map(<[u8]>::to_vec).collect();
        let mut message = Message::new();
        message.push("pcapng", Value::List(items));
        for (key, number) in COUNTS.into_iter().zip(self.shown.iter().chain(&self.lost)) {
            message.put_display(key, number);
        }
        self.reply.stream("capture", message)
    }
}
