//! Packets that wait for an SA: the first of a policy that asks for one when there is traffic. Bounded for each policy,
//! in all, and in time. It neither knows SAs nor sends.
//!
//! Nothing here costs anything while no packet waits. While some do, those that have waited too long are looked for once
//! a second, in time that grows with the number of policies with waiting packets: at most some 14,000 by the bound on
//! memory, and the policies that asked within the last second.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::backend::PolicyId;

/// For each policy.
const PACKETS: usize = 64;
const OCTETS: usize = 64 << 10;

/// For all together, with what a packet costs beside its octets.
const ALL_OCTETS: usize = 1 << 20;
const OVERHEAD: usize = 56;

/// A sender that waits longer has sent again.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two requests for one SA, and between two looks at the clock.
pub(crate) const INTERVAL: Duration = Duration::from_secs(1);

/// The packets that wait.
#[derive(Debug, Default)]
pub(crate) struct Held {
    queues: HashMap<PolicyId, Queue>,
    /// Of all packets, [`OVERHEAD`] included.
    octets: usize,
    swept: Option<Instant>,
}

/// The packets of one policy, and when an SA for them was asked for.
#[derive(Debug, Default)]
struct Queue {
    packets: VecDeque<(Instant, Vec<u8>)>,
    octets: usize,
    asked: Option<Instant>,
}

impl Held {
    /// Keeps a packet that came at `since`, behind the others of its policy. `false`: there is no room.
    pub(crate) fn keep(&mut self, policy: PolicyId, inner: &[u8], since: Instant) -> bool {
        let queue = self.queues.entry(policy).or_default();
        let fits = queue.packets.len() < PACKETS
            && queue.octets + inner.len() <= OCTETS
            && self.octets + inner.len() + OVERHEAD <= ALL_OCTETS;
        if fits {
            queue.octets += inner.len();
            self.octets += inner.len() + OVERHEAD;
            queue.packets.push_back((since, inner.to_vec()));
        }
        fits
    }

    /// Is it time to ask for an SA? Then it counts as asked for.
    pub(crate) fn asks(&mut self, policy: PolicyId, now: Instant) -> bool {
        let queue = self.queues.entry(policy).or_default();
        let due = queue.asked.is_none_or(|asked| now.duration_since(asked) >= INTERVAL);
        if due {
            queue.asked = Some(now);
        }
        due
    }

    /// Takes the packets of a policy out, the first one first, because there is an SA now. If it goes, another is asked for at
    /// once.
    pub(crate) fn take(&mut self, policy: PolicyId) -> VecDeque<(Instant, Vec<u8>)> {
        let Some(queue) = self.queues.get_mut(&policy) else { return VecDeque::new() };
        queue.asked = None;
        self.octets -= std::mem::take(&mut queue.octets) + OVERHEAD * queue.packets.len();
        std::mem::take(&mut queue.packets)
    }

    /// Is there anything to look after?
    pub(crate) fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    /// Gives up what has waited too long, and hands it to `each`.
    pub(crate) fn sweep(&mut self, now: Instant, mut each: impl FnMut(PolicyId, &[u8])) {
        if self.is_empty() || self.swept.is_some_and(|swept| now.duration_since(swept) < INTERVAL) {
            return;
        }
        self.swept = Some(now);
        let mut octets = 0;
        self.queues.retain(|policy, queue| {
            while let Some((_, packet)) =
                queue.packets.pop_front_if(|(since, _)| now.duration_since(*since) >= PATIENCE)
            {
                queue.octets -= packet.len();
                octets += packet.len() + OVERHEAD;
                each(*policy, &packet);
            }
            !queue.packets.is_empty() || queue.asked.is_some_and(|asked| now.duration_since(asked) < INTERVAL)
        });
        self.octets -= octets;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_packets_are_kept_in_order_and_within_bounds() {
        let (mut held, now) = (Held::default(), Instant::now());
        let kept = |held: &mut Held, policy: u64, len: usize| {
            (0..100_u8).filter(|first| held.keep(PolicyId(policy), &vec![*first; len], now)).count()
        };
        assert_eq!(kept(&mut held, 1, 100), 64);
        assert_eq!(kept(&mut held, 2, 1500), 43, "43 * 1500 <= 65536");
        assert_eq!(kept(&mut held, 3, 65_536), 1);
        let first: Vec<u8> = held.take(PolicyId(1)).iter().map(|(_, packet)| packet[0]).collect();
        assert!(first.into_iter().eq(0..64));
        assert!(held.take(PolicyId(1)).is_empty());
        // In all 2^20: each of these has 65535 + 56.
        for policy in [2, 3] {
            held.take(PolicyId(policy));
        }
        assert_eq!((10..100).map(|policy| kept(&mut held, policy, 65_535)).sum::<usize>(), 15);
        (10..100).for_each(|policy| drop(held.take(PolicyId(policy))));
        assert_eq!(held.octets, 0);
    }

    #[test]
    fn what_waits_too_long_is_given_up_and_forgotten() {
        let (mut held, start) = (Held::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        for second in [0, 1, 29] {
            assert!(held.keep(PolicyId(1), &[0; 40], at(second)));
        }
        assert!(
            held.asks(PolicyId(1), at(0)) && !held.asks(PolicyId(1), at(0)) && held.asks(PolicyId(1), at(1))
        );
        let sweep = |held: &mut Held, second| {
            let mut count = 0;
            held.sweep(at(second), |policy, packet| {
                assert_eq!((policy, packet.len()), (PolicyId(1), 40));
                count += 1;
            });
            count
        };
        assert_eq!([29, 30, 31, 59].map(|second| sweep(&mut held, second)), [0, 1, 1, 1]);
        assert!(held.is_empty() && held.octets == 0);
        // What came up may go at once: who finds it gone asks again.
        assert!(held.asks(PolicyId(1), at(60)) && !held.asks(PolicyId(1), at(60)));
        assert!(held.take(PolicyId(1)).is_empty() && held.asks(PolicyId(1), at(60)));
        assert_eq!(sweep(&mut held, 61), 0);
        // Who asks and has nothing that waits is forgotten as well.
        assert!(held.asks(PolicyId(2), at(61)));
        assert_eq!(sweep(&mut held, 62), 0);
        assert!(held.is_empty());
    }
}
