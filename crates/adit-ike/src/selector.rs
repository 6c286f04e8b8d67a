//! Traffic selectors: what a child's configuration means on a given IKE SA, and narrowing (RFC 7296 2.9).

use std::fmt;
use std::net::IpAddr;

use adit_wire::ikev2::TrafficSelector;

use crate::config::SelectorSpec;

/// The selectors of one side, with `dynamic` standing for `address`.
pub(crate) fn resolve(specs: &[SelectorSpec], address: IpAddr) -> Vec<TrafficSelector> {
    specs
        .iter()
        .map(|spec| match *spec {
            SelectorSpec::Fixed(selector) => selector,
            SelectorSpec::Dynamic { protocol, start_port, end_port } => {
                TrafficSelector { protocol, start_port, end_port, start: address, end: address }
            }
        })
        .collect()
}

/// Both sides of a Child SA's traffic, from our point of view.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selectors {
    pub(crate) local: Vec<TrafficSelector>,
    pub(crate) remote: Vec<TrafficSelector>,
}

impl Selectors {
    /// What `self` allows of `offered`; `None` is TS_UNACCEPTABLE.
    ///
    /// All pairs are intersected, so that whatever the policy allows of the peer's first selectors (the packet that
    /// triggered it) is part of the result (RFC 7296 2.9). Selectors of a family that the other side does not have
    /// could never match a packet and are left out.
    pub(crate) fn narrow(&self, offered: &Self) -> Option<Self> {
        let mut local = intersect(&self.local, &offered.local);
        let mut remote = intersect(&self.remote, &offered.remote);
        let families = |side: &[TrafficSelector]| {
            (side.iter().any(|s| s.start.is_ipv4()), side.iter().any(|s| s.start.is_ipv6()))
        };
        let (l, r) = (families(&local), families(&remote));
        let both = (l.0 && r.0, l.1 && r.1);
        let usable = |s: &TrafficSelector| if s.start.is_ipv4() { both.0 } else { both.1 };
        local.retain(usable);
        remote.retain(usable);
        (!local.is_empty() && !remote.is_empty()).then_some(Self { local, remote })
    }

    /// How many sides have nothing in common.
    pub(crate) fn apart(&self, other: &Self) -> usize {
        let apart = |own: &[_], others: &[_]| usize::from(intersect(own, others).is_empty());
        apart(&self.local, &other.local) + apart(&self.remote, &other.remote)
    }

    /// The first of each side: the packet that it is asked for (RFC 7296 2.9).
    pub(crate) fn first(&self) -> Self {
        let side = |own: &[TrafficSelector]| own.first().copied().into_iter().collect();
        Self { local: side(&self.local), remote: side(&self.remote) }
    }

    /// The two addresses, if either side has but one (RFC 7296 2.23.1).
    pub(crate) fn hosts(&self) -> Option<(IpAddr, IpAddr)> {
        let one = |side: &[TrafficSelector]| {
            let address = side.first()?.start;
            side.iter().all(|s| s.start == address && s.end == address).then_some(address)
        };
        Some((one(&self.local)?, one(&self.remote)?))
    }

    /// The same protocols and ports between two hosts.
    pub(crate) fn between(&self, local: IpAddr, remote: IpAddr) -> Self {
        let side = |own: &[TrafficSelector], address| {
            own.iter().map(|s| TrafficSelector { start: address, end: address, ..*s }).collect()
        };
        Self { local: side(&self.local, local), remote: side(&self.remote, remote) }
    }

    /// Is everything in `other` allowed by one of ours?
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let side = |own: &[TrafficSelector], others: &[TrafficSelector]| {
            others.iter().all(|o| own.iter().any(|s| s.covers(o)))
        };
        side(&self.local, &other.local) && side(&self.remote, &other.remote)
    }
}

impl fmt::Display for Selectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} === {}", List(&self.local), List(&self.remote))
    }
}

/// Shows selectors separated by commas.
pub(crate) struct List<'a>(pub(crate) &'a [TrafficSelector]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 16;
        if self.0.is_empty() {
            return f.write_str("nothing");
        }
        for (i, selector) in self.0.iter().take(SHOWN).enumerate() {
            write!(f, "{}{selector}", if i == 0 { "" } else { "," })?;
        }
        if self.0.len() > SHOWN {
            write!(f, ",... ({} more)", self.0.len() - SHOWN)?;
        }
        Ok(())
    }
}

/// Intersections of all pairs, without what another one covers, at most as many as a payload holds.
fn intersect(own: &[TrafficSelector], offered: &[TrafficSelector]) -> Vec<TrafficSelector> {
    const MOST: usize = 255;
    let mut result: Vec<TrafficSelector> = Vec::new();
    for common in offered.iter().flat_map(|o| own.iter().filter_map(|s| s.intersection(o))) {
        if result.iter().any(|r| r.covers(&common)) {
            continue;
        }
        result.retain(|r| !common.covers(r));
        if result.len() < MOST {
            result.push(common);
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> TrafficSelector {
        let (address, length) = text.split_once('/').unwrap();
        TrafficSelector::subnet(address.parse().unwrap(), length.parse().unwrap())
    }

    fn selectors(local: &[&str], remote: &[&str]) -> Selectors {
        Selectors {
            local: local.iter().map(|s| net(s)).collect(),
            remote: remote.iter().map(|s| net(s)).collect(),
        }
    }

    #[test]
    fn narrowing_is_intersection() {
        let own = selectors(&["10.1.0.0/16"], &["10.2.0.0/16", "10.3.0.0/16"]);
        assert_eq!(own.narrow(&own), Some(own.clone()));
        let wide = selectors(&["0.0.0.0/0"], &["0.0.0.0/0"]);
        assert_eq!(own.narrow(&wide), Some(own.clone()));
        assert_eq!(wide.narrow(&own), Some(own.clone()));
        let narrow = selectors(&["10.1.5.0/24"], &["10.3.0.0/24"]);
        assert_eq!(own.narrow(&narrow), Some(narrow));
        let elsewhere = selectors(&["10.9.0.0/16"], &["10.2.0.0/16"]);
        assert_eq!(own.narrow(&elsewhere), None);
    }

    /// RFC 7296 2.9: the packet's own selectors come first and the wide ones cover them.
    #[test]
    fn the_first_selector_is_covered() {
        let own = selectors(&["198.51.100.0/26"], &["192.0.2.0/24"]);
        let offered =
            selectors(&["198.51.100.43/32", "198.51.100.0/24"], &["192.0.2.123/32", "192.0.2.0/24"]);
        let narrowed = own.narrow(&offered).unwrap();
        assert_eq!(narrowed, own);
        assert!(narrowed.covers(&selectors(&["198.51.100.43/32"], &["192.0.2.123/32"])));
    }

    #[test]
    fn families_that_cannot_meet_are_left_out() {
        let own = selectors(&["10.1.0.0/16", "fd01::/64"], &["10.2.0.0/16", "fd02::/64"]);
        let offered = selectors(&["10.1.0.0/16", "fd01::/64"], &["10.2.0.0/16"]);
        assert_eq!(own.narrow(&offered), Some(selectors(&["10.1.0.0/16"], &["10.2.0.0/16"])));
        let crossed = selectors(&["10.1.0.0/16"], &["fd02::/64"]);
        assert_eq!(own.narrow(&crossed), None);
    }

    #[test]
    fn dynamic_is_the_address_of_the_ike_sa() {
        let specs = [
            SelectorSpec::Dynamic { protocol: 6, start_port: 22, end_port: 22 },
            SelectorSpec::Fixed(net("10.1.0.0/16")),
        ];
        let shown: Vec<String> =
            resolve(&specs, "192.0.2.1".parse().unwrap()).iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["192.0.2.1/32[tcp/22]", "10.1.0.0/16"]);
    }

    #[test]
    fn many_selectors_stay_few() {
        let many: Vec<TrafficSelector> =
            (0..=255_u8).map(|i| TrafficSelector::subnet(IpAddr::from([10, i, 0, 0]), 16)).collect();
        let offered = Selectors { local: many.clone(), remote: many };
        let any = selectors(&["0.0.0.0/0", "10.0.0.0/8"], &["10.0.0.0/8"]);
        let narrowed = any.narrow(&offered).unwrap();
        assert!(narrowed.local.len() <= 255 && narrowed.remote.len() <= 255);
    }
}
