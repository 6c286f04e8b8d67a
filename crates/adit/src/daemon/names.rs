//! The addresses behind host names: which name is looked up when, and what was found.
//!
//! It owns patience and memory and never looks anything up itself. What was known stays known while a name cannot be
//! resolved.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;

/// What was found so recently is not asked for again before an attempt.
const FRESH: Duration = Duration::from_secs(5);

/// How often a name is looked up without a reason.
const INTERVAL: Duration = Duration::from_secs(60);

/// At most so many at a time.
const MOST_ASKED: usize = 16;

/// At most so many addresses of one name are kept.
const MOST_ADDRESSES: usize = 16;

/// A failure is told the first time, and then once in so many.
const TOLD_EVERY: u32 = 30;

/// How long one look-up may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Whoever looks names up.
pub(super) trait Resolver {
    /// Looks a name up without making anybody wait, and sends what it finds to `answers`.
    fn ask(&mut self, name: &str, answers: &UnboundedSender<Answer>);
}

/// What was found of a name.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) name: String,
    /// `Err` says why there is nothing.
    pub(super) addresses: Result<Vec<IpAddr>, String>,
}

/// All names.
#[derive(Debug, Default)]
pub(super) struct Names {
    names: HashMap<String, Name>,
    due: BTreeSet<(Instant, String)>,
    asked: usize,
}

#[derive(Debug)]
struct Name {
    addresses: Vec<IpAddr>,
    /// When it is looked up next; `None` while it is.
    next: Option<Instant>,
    /// When it was looked up last.
    answered: Option<Instant>,
    /// In a row.
    failures: u32,
    /// Why the last look-up found nothing.
    why: Option<String>,
}

impl Names {
    /// Knows these names from now on, and what it knows about them already.
    pub(super) fn configure<'a>(&mut self, now: Instant, names: impl IntoIterator<Item = &'a str>) {
        let mut old = std::mem::take(&mut self.names);
        self.due.clear();
        for name in names {
            let known = old.remove(name).or_else(|| self.names.remove(name));
            let known = known.unwrap_or(Name {
                addresses: Vec::new(),
                next: Some(now),
                answered: None,
                failures: 0,
                why: None,
            });
            if let Some(next) = known.next {
                self.due.insert((next, name.to_owned()));
            }
            self.names.insert(name.to_owned(), known);
        }
    }

    /// What is known of a name.
    pub(super) fn addresses(&self, name: &str) -> &[IpAddr] {
        self.names.get(name).map_or(&[], |name| &name.addresses)
    }

    /// Why the last look-up of a name found nothing.
    pub(super) fn failure(&self, name: &str) -> Option<&str> {
        self.names.get(name)?.why.as_deref()
    }

    /// Somebody needs a name now. Is it being looked up, so that it is worth waiting?
    pub(super) fn need(&mut self, now: Instant, name: &str) -> bool {
        let Some(known) = self.names.get_mut(name) else { return false };
        let Some(next) = known.next else { return true };
        if known.answered.is_some_and(|answered| now.saturating_duration_since(answered) < FRESH) {
            return false;
        }
        self.due.remove(&(next, name.to_owned()));
        known.next = Some(now);
        self.due.insert((now, name.to_owned()));
        true
    }

    /// Will there be an answer soon?
    pub(super) fn is_awaited(&self, now: Instant, name: &str) -> bool {
        self.names.get(name).is_some_and(|name| name.next.is_none_or(|next| next <= now))
    }

    /// When something is due next.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let (next, _) = self.due.first()?;
        (self.asked < MOST_ASKED).then_some(*next)
    }

    /// A name to be looked up now.
    pub(super) fn due(&mut self, now: Instant) -> Option<String> {
        if self.asked >= MOST_ASKED || self.due.first()?.0 > now {
            return None;
        }
        let (_, name) = self.due.pop_first()?;
        self.names.get_mut(&name)?.next = None;
        self.asked += 1;
        Some(name)
    }

    /// A name was looked up. Are its addresses others than before?
    pub(super) fn answered(&mut self, now: Instant, Answer { name, addresses }: Answer) -> bool {
        self.asked = self.asked.saturating_sub(1);
        let Some(known) = self.names.get_mut(&name) else { return false };
        if known.next.is_none() {
            known.next = Some(now + INTERVAL);
            self.due.insert((now + INTERVAL, name.clone()));
        }
        known.answered = Some(now);
        let found = addresses.map(usable).and_then(|found| match found.is_empty() {
            true => Err("it has no usable address".to_owned()),
            false => Ok(found),
        });
        match found {
            Err(why) => {
                if known.failures.is_multiple_of(TOLD_EVERY) {
                    let old = if known.addresses.is_empty() { "" } else { "; what it was stays in use" };
                    tracing::warn!("host name {name:?} cannot be resolved: {why}{old}");
                }
                known.failures += 1;
                known.why = Some(why);
                false
            }
            Ok(found) => {
                (known.failures, known.why) = (0, None);
                // Servers like to turn the list around.
                let set = |list: &[IpAddr]| list.iter().copied().collect::<BTreeSet<_>>();
                if set(&found) == set(&known.addresses) {
                    return false;
                }
                tracing::info!("host name {name:?} is {}", shown(&found));
                known.addresses = found;
                true
            }
        }
    }
}

/// What an IKE SA can be made with, each once.
fn usable(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let mut kept = Vec::new();
    for address in addresses {
        let odd = address.is_unspecified()
            || address.is_multicast()
            || matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
        if !odd && !kept.contains(&address) && kept.len() < MOST_ADDRESSES {
            kept.push(address);
        }
    }
    kept
}

fn shown(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The system's resolver, on threads of its own.
pub(super) struct SystemResolver;

impl Resolver for SystemResolver {
    fn ask(&mut self, name: &str, answers: &UnboundedSender<Answer>) {
        let (name, answers) = (name.to_owned(), answers.clone());
        tokio::spawn(async move {
            let found = tokio::net::lookup_host((name.clone(), 0));
            let addresses = match tokio::time::timeout(TIMEOUT, found).await {
                Ok(Ok(addresses)) => Ok(addresses.map(|address| address.ip()).collect()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(format!("no answer within {} s", TIMEOUT.as_secs())),
            };
            // Nobody takes it once the daemon is stopping.
            let _ = answers.send(Answer { name, addresses });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(name: &str, addresses: &[&str]) -> Answer {
        let addresses = match addresses {
            [] => Err("no such host".to_owned()),
            found => Ok(found.iter().map(|text| text.parse().unwrap()).collect()),
        };
        Answer { name: name.into(), addresses }
    }

    fn names(now: Instant, list: &[&str]) -> Names {
        let mut names = Names::default();
        names.configure(now, list.iter().copied());
        names
    }

    fn known(names: &Names, name: &str) -> String {
        shown(names.addresses(name))
    }

    #[test]
    fn looked_up_at_once_and_then_every_minute() {
        let start = Instant::now();
        let mut names = names(start, &["gw", "gw"]);
        assert_eq!(names.due(start).as_deref(), Some("gw"));
        assert_eq!((names.due(start), names.poll_timeout()), (None, None), "once at a time");
        assert!(names.answered(start, answer("gw", &["192.0.2.1", "192.0.2.2"])));
        assert_eq!(names.poll_timeout(), Some(start + INTERVAL));
        assert_eq!(names.due(start + INTERVAL).as_deref(), Some("gw"));
        assert!(!names.answered(start + INTERVAL, answer("gw", &["192.0.2.2", "192.0.2.1"])), "the same");
        assert_eq!(known(&names, "gw"), "192.0.2.1, 192.0.2.2");
        // What cannot be resolved any more stays what it was, and what moved is where it moved to.
        names.due(start + INTERVAL * 2).unwrap();
        assert!(!names.answered(start + INTERVAL * 2, answer("gw", &[])));
        assert_eq!(known(&names, "gw"), "192.0.2.1, 192.0.2.2");
        names.due(start + INTERVAL * 3).unwrap();
        assert!(names.answered(start + INTERVAL * 3, answer("gw", &["0.0.0.0", "fe80::1", "2001:db8::1"])));
        assert_eq!(known(&names, "gw"), "2001:db8::1");
    }

    #[test]
    fn an_attempt_asks_first_but_not_all_the_time() {
        let start = Instant::now();
        let mut names = names(start, &["gw"]);
        assert!(names.need(start, "gw") && names.is_awaited(start, "gw"));
        names.due(start).unwrap();
        assert!(names.need(start, "gw"), "it is being looked up");
        names.answered(start, answer("gw", &["192.0.2.1"]));
        assert!(!names.need(start + Duration::from_secs(4), "gw"), "fresh enough");
        assert!(!names.is_awaited(start + Duration::from_secs(4), "gw"));
        let later = start + FRESH;
        assert!(names.need(later, "gw"));
        assert_eq!(names.due(later).as_deref(), Some("gw"));
        assert_eq!(names.due.len(), 0);
        // Also what fails is asked for only that often.
        names.answered(later, answer("gw", &[]));
        assert!(!names.need(later, "gw") && !names.need(later, "other"));
    }

    #[test]
    fn many_names_are_asked_for_a_few_at_a_time() {
        let now = Instant::now();
        let list: Vec<String> = (0..100).map(|index| format!("gw{index}")).collect();
        let mut names = Names::default();
        names.configure(now, list.iter().map(String::as_str));
        let asked: Vec<String> = std::iter::from_fn(|| names.due(now)).collect();
        assert_eq!((asked.len(), names.poll_timeout()), (MOST_ASKED, None));
        // A reload keeps what is being asked for, and forgets what is not named any more.
        names.configure(now, list.iter().take(50).map(String::as_str).chain(["new"]));
        assert!(names.due(now).is_none());
        for name in &asked {
            names.answered(now, answer(name, &["192.0.2.1"]));
        }
        assert_eq!(std::iter::from_fn(|| names.due(now)).count(), MOST_ASKED);
    }
}
