//! Rate limits per address, for answers to strangers and for log lines about them (RFC 7296 2.21.4).
//!
//! Memory is bounded however many addresses come by: when the table is full of busy addresses, all others share
//! one allowance.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// An allowance per address, or whatever else there is many of: `burst` at once, then one every `interval`.
#[derive(Debug)]
pub(crate) struct RateLimit<K = IpAddr> {
    burst: u32,
    interval: Duration,
    /// When each address will have its whole allowance again.
    full_at: HashMap<K, Instant>,
    others_full_at: Option<Instant>,
}

impl<K: Copy + Eq + Hash> RateLimit<K> {
    /// Addresses remembered.
    const ADDRESSES: usize = 1024;

    pub(crate) fn new(burst: u32, interval: Duration) -> Self {
        Self { burst, interval, full_at: HashMap::new(), others_full_at: None }
    }

    /// Takes one from the allowance of `address` if there is one left.
    pub(crate) fn allow(&mut self, now: Instant, address: K) -> bool {
        if !self.full_at.contains_key(&address) && self.full_at.len() >= Self::ADDRESSES {
            self.full_at.retain(|_, full_at| *full_at > now);
        }
        let room = self.full_at.len() < Self::ADDRESSES || self.full_at.contains_key(&address);
        let slot = if room {
            self.full_at.entry(address).or_insert(now)
        } else {
            self.others_full_at.get_or_insert(now)
        };
        let full_at = (*slot).max(now);
        let allowed = full_at.duration_since(now) + self.interval <= self.interval * self.burst;
        if allowed {
            *slot = full_at + self.interval;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_one_per_interval() {
        let start = Instant::now();
        let mut limit = RateLimit::new(3, Duration::from_secs(1));
        let (a, b) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let allowed = |limit: &mut RateLimit, at: u64, who| {
            (0..10).filter(|_| limit.allow(start + Duration::from_secs(at), who)).count()
        };
        assert_eq!(allowed(&mut limit, 0, a), 3);
        assert_eq!(allowed(&mut limit, 0, b), 3, "addresses do not share");
        assert_eq!(allowed(&mut limit, 1, a), 1);
        assert_eq!(allowed(&mut limit, 60, a), 3, "never more than the burst");
    }

    #[test]
    fn memory_is_bounded_and_strangers_share() {
        let now = Instant::now();
        let mut limit = RateLimit::new(2, Duration::from_secs(1));
        let allowed = (0..100_000_u32).filter(|i| limit.allow(now, IpAddr::from(i.to_be_bytes()))).count();
        assert_eq!(limit.full_at.len(), RateLimit::<IpAddr>::ADDRESSES);
        assert_eq!(allowed, RateLimit::<IpAddr>::ADDRESSES + 2);
        assert!(limit.allow(now + Duration::from_secs(5), IpAddr::from([255, 0, 0, 1])), "it recovers");
    }
}
