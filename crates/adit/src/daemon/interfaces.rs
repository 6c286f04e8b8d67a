//! The interfaces that the configuration asks for, as the data plane makes them. It owns the adding up of what several
//! connections say about one interface, and putting back what someone deletes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use adit_net::InterfaceSpec;

use super::Daemon;
use crate::config::Interfaces;

/// Between two attempts to put an interface back: someone else may have its name meanwhile.
const AGAIN: Duration = Duration::from_secs(10);

impl Daemon {
    /// Someone has deleted an interface.
    pub(super) fn restore_interfaces(&mut self, now: Instant) {
        let again = self.interfaces_due.take().is_some();
        match self.backend.set_interfaces(all(&self.interfaces)) {
            Ok(()) => tracing::warn!("someone deleted an interface of ours: it is there again"),
            Err(error) => {
                self.interfaces_due = now.checked_add(AGAIN);
                if !again {
                    tracing::error!(
                        "someone deleted an interface of ours, which is tried again every {AGAIN:?}: {error}"
                    );
                }
            }
        }
    }
}

/// All that a configuration asks for, each once.
pub(super) fn all(interfaces: &Interfaces) -> Vec<InterfaceSpec> {
    let mut by_name: BTreeMap<&str, InterfaceSpec> = BTreeMap::new();
    for spec in interfaces.values() {
        by_name.entry(&spec.name).and_modify(|first| add(first, spec)).or_insert_with(|| spec.clone());
    }
    by_name.into_values().collect()
}

/// What a new configuration asks for, and what an old one did beside it: nothing of before is gone until all of the new
/// stands. What belongs to another interface now is taken from the old one at once.
pub(super) fn both(old: &Interfaces, new: &Interfaces) -> Vec<InterfaceSpec> {
    let mut both = all(new);
    let mut going: Vec<InterfaceSpec> =
        all(old).into_iter().filter(|spec| !both.iter().any(|new| new.name == spec.name)).collect();
    for spec in &mut going {
        spec.routes.retain(|route| !both.iter().any(|new| new.routes.contains(route)));
        spec.addresses.retain(|address| !both.iter().any(|new| new.addresses.contains(address)));
    }
    both.append(&mut going);
    both
}

fn add(first: &mut InterfaceSpec, more: &InterfaceSpec) {
    first.owner = format!("{}, {}", first.owner, more.owner);
    first.mtu = first.mtu.or(more.mtu);
    first.marks = first.marks.or(more.marks);
    match (&mut first.marked, &more.marked) {
        (Some((_, first)), Some((_, more))) => {
            first.extend(more.iter().filter(|one| !first.contains(one)).copied().collect::<Vec<_>>())
        }
        (first @ None, more) => first.clone_from(more),
        (Some(_), None) => {}
    }
    for address in &more.addresses {
        if !first.addresses.contains(address) {
            first.addresses.push(*address);
        }
    }
    for route in &more.routes {
        if !first.routes.contains(route) {
            first.routes.push(*route);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, owner: &str, routes: &[(&str, u8)]) -> (String, InterfaceSpec) {
        let routes = routes.iter().map(|(address, len)| (address.parse().unwrap(), *len)).collect();
        (
            owner.into(),
            InterfaceSpec { name: name.into(), owner: owner.into(), routes, ..InterfaceSpec::default() },
        )
    }

    #[test]
    fn what_several_connections_say_adds_up() {
        let shared = Interfaces::from([
            spec("vpn0", "a", &[("10.2.0.0", 16)]),
            spec("vpn0", "b", &[("10.2.0.0", 16), ("10.3.0.0", 16)]),
            spec("vpn1", "c", &[]),
        ]);
        let (_, expected) = spec("vpn0", "a, b", &[("10.2.0.0", 16), ("10.3.0.0", 16)]);
        assert_eq!(all(&shared), [expected, spec("vpn1", "c", &[]).1]);
    }

    #[test]
    fn an_old_interface_stays_for_a_while_without_what_is_given_to_another() {
        let old = Interfaces::from([
            spec("vpn0", "a", &[("10.2.0.0", 16), ("10.3.0.0", 16)]),
            spec("vpn1", "b", &[("10.4.0.0", 16)]),
        ]);
        let new = Interfaces::from([spec("vpn1", "b", &[("10.2.0.0", 16)])]);
        let expected = [spec("vpn1", "b", &[("10.2.0.0", 16)]).1, spec("vpn0", "a", &[("10.3.0.0", 16)]).1];
        assert_eq!(both(&old, &new), expected);
    }
}
