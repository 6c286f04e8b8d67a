//! Counters with a single writer: the worker adds, anyone reads, nobody waits.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::backend::ChildCounters;

/// A count that one thread changes and any thread reads.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    /// Adds. Only ever called by the one thread that owns the count, so no read-modify-write is needed.
    pub(crate) fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Something that is found out, and told once.
#[derive(Debug, Default)]
pub(crate) struct Once(AtomicBool);

impl Once {
    pub(crate) fn is_first(&self) -> bool {
        // The halves of an SA may be with two workers. It is rare enough to be dear.
        !self.0.load(Ordering::Relaxed) && !self.0.swap(true, Ordering::Relaxed)
    }
}

/// Why a packet was dropped outside any one SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DropCause {
    /// For the TUN device: as many as it holds were waiting for a worker already. The kernel counts them.
    NotRead,
    /// Outer packets: as many as a socket's buffer holds were waiting for a worker already. The kernel counts them.
    NotReceived,
    /// From the TUN device: not an IP packet.
    Malformed,
    /// From the TUN device: its sender has no address yet, and no router forwards such packets.
    NoSource,
    /// From the TUN device: no policy covers it, or one that lets it bypass.
    NoPolicy,
    /// From the TUN device: a policy discards it.
    Discarded,
    /// From the TUN device: a policy covers it, and no SA of that policy does, or none did in time.
    NoSa,
    /// From the TUN device: a fragment, or with IPv4 options or IPv6 extension headers, which transport mode does not carry.
    NotPlain,
    /// From the TUN device: too big for the way to the peer; the sender was told, rates permitting.
    TooBig,
    /// The hard limit of its SA is reached.
    Limit,
    /// Another worker was to seal it, and does not keep up.
    Overload,
    /// The kernel would not send the outer packet.
    Send,
    /// An outer packet that is neither ESP nor IKE, or was cut short.
    OuterMalformed,
    /// ESP with an SPI that no SA has.
    UnknownSpi,
    /// ESP that its SA refused; the SA's own counters say why.
    Refused,
    /// The kernel would not take the inner packet.
    Deliver,
    /// From the TUN device: too much waits for IP-TFS payloads already.
    QueueFull,
    /// IP-TFS payloads that have not arrived, or too late.
    PayloadLost,
}

impl DropCause {
    /// Every cause.
    pub const ALL: [Self; 18] = [
        Self::NotRead,
        Self::NotReceived,
        Self::Malformed,
        Self::NoSource,
        Self::NoPolicy,
        Self::Discarded,
        Self::NoSa,
        Self::NotPlain,
        Self::TooBig,
        Self::Limit,
        Self::Overload,
        Self::Send,
        Self::OuterMalformed,
        Self::UnknownSpi,
        Self::Refused,
        Self::Deliver,
        Self::QueueFull,
        Self::PayloadLost,
    ];

    /// A stable name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotRead => "not-read",
            Self::NotReceived => "not-received",
            Self::Malformed => "malformed",
            Self::NoSource => "no-source",
            Self::NoPolicy => "no-policy",
            Self::Discarded => "discarded",
            Self::NoSa => "no-sa",
            Self::NotPlain => "not-plain",
            Self::TooBig => "too-big",
            Self::Limit => "limit",
            Self::Overload => "overload",
            Self::Send => "send",
            Self::OuterMalformed => "outer-malformed",
            Self::UnknownSpi => "unknown-spi",
            Self::Refused => "refused",
            Self::Deliver => "deliver",
            Self::QueueFull => "queue-full",
            Self::PayloadLost => "payload-lost",
        }
    }
}

/// What the data plane has done outside any one SA.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Dropped packets by cause.
    pub drops: Vec<(DropCause, u64)>,
    /// IKE messages received.
    pub ike_received: u64,
    /// NAT keepalives received.
    pub keepalives_received: u64,
    /// ESP packets received by AF_XDP.
    pub frames_received: u64,
    /// ESP packets sent by AF_XDP.
    pub frames_sent: u64,
    /// Packets that arrived in the clear though a policy protects them, since the packet filter rules were last put up.
    pub fenced_in: u64,
    /// Packets that would have left in the clear though a policy protects them, since the packet filter rules were last put up.
    pub fenced_out: u64,
}

/// The counts of one worker.
#[derive(Debug, Default)]
pub(crate) struct WorkerCounts {
    drops: [Count; DropCause::ALL.len()],
    pub(crate) ike_received: Count,
    pub(crate) keepalives_received: Count,
    /// Super-packets that the TUN device did not take as such.
    pub(crate) unjoined: Count,
    /// ESP packets of AF_XDP.
    pub(crate) frames_received: Count,
    pub(crate) frames_sent: Count,
}

impl WorkerCounts {
    pub(crate) fn dropped(&self, cause: DropCause, packets: usize) {
        if let Some(count) = self.drops.get(cause as usize) {
            count.add(packets as u64);
        }
    }

    pub(crate) fn drops_for(&self, cause: DropCause) -> u64 {
        self.drops.get(cause as usize).map_or(0, Count::read)
    }
}

/// The counts of one Child SA.
#[derive(Debug, Default)]
pub(crate) struct SaCounts {
    /// The SA's name for people.
    pub(crate) name: Box<str>,
    pub(crate) packets_in: Count,
    pub(crate) bytes_in: Count,
    pub(crate) packets_out: Count,
    pub(crate) bytes_out: Count,
    /// [`Clock`] times; 0 is never.
    pub(crate) heard: Count,
    pub(crate) last_in: Count,
    pub(crate) last_out: Count,
    pub(crate) soon: Once,
    pub(crate) reached: Once,
    /// Elsewhere, as long as there are any.
    drops: OnceLock<Box<[Count; adit_esp::Drop::ALL.len()]>>,
}

impl SaCounts {
    pub(crate) fn of(name: String) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    pub(crate) fn dropped(&self, cause: adit_esp::Drop) {
        if let Some(count) = self.drops.get_or_init(Box::default).get(cause as usize) {
            count.add(1);
        }
    }

    fn drops_for(&self, cause: adit_esp::Drop) -> u64 {
        self.drops.get().and_then(|drops| drops.get(cause as usize)).map_or(0, Count::read)
    }

    pub(crate) fn read(&self, clock: Clock) -> ChildCounters {
        ChildCounters {
            packets_in: self.packets_in.read(),
            bytes_in: self.bytes_in.read(),
            packets_out: self.packets_out.read(),
            bytes_out: self.bytes_out.read(),
            heard: clock.instant(self.heard.read()),
            last_in: clock.instant(self.last_in.read()),
            last_out: clock.instant(self.last_out.read()),
            drops: adit_esp::Drop::ALL.into_iter().map(|cause| (cause, self.drops_for(cause))).collect(),
        }
    }
}

/// Turns moments into numbers that fit a count: milliseconds since the data plane began, from 1 on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn new(start: Instant) -> Self {
        Self { start }
    }

    pub(crate) fn number(self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.start).as_millis();
        u64::try_from(elapsed).unwrap_or(u64::MAX - 1) + 1
    }

    fn instant(self, number: u64) -> Option<Instant> {
        self.start.checked_add(Duration::from_millis(number.checked_sub(1)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_survive_and_never_is_none() {
        let start = Instant::now();
        let clock = Clock::new(start);
        assert_eq!(clock.instant(0), None);
        for millis in [0, 1, 86_400_000] {
            let moment = start + Duration::from_millis(millis);
            assert_eq!(clock.instant(clock.number(moment)), Some(moment));
        }
    }

    #[test]
    fn causes_have_places_and_names_of_their_own() {
        let counts = WorkerCounts::default();
        for (times, cause) in DropCause::ALL.into_iter().enumerate() {
            counts.dropped(cause, times);
        }
        assert!(
            DropCause::ALL
                .into_iter()
                .map(|cause| counts.drops_for(cause))
                .eq(0..DropCause::ALL.len() as u64)
        );
        let names: std::collections::HashSet<_> = DropCause::ALL.iter().map(|cause| cause.as_str()).collect();
        assert_eq!(names.len(), DropCause::ALL.len());
    }
}
