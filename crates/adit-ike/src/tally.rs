//! How many messages of which exchange came and went, and how often keys were renewed: in all, and by connection.
//!
//! It owns the numbers and nothing else. A message counts once: repetitions of ours, and of the peer's, are not told here.

use std::collections::HashMap;

use adit_wire::ikev2::ExchangeType;

use crate::output::Event;

/// Messages of one exchange.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exchanged {
    /// Requests of the peer that were authentic, or began an IKE SA.
    pub requests_in: u64,
    /// Responses of the peer to ours.
    pub responses_in: u64,
    /// Requests of ours.
    pub requests_out: u64,
    /// Responses of ours.
    pub responses_out: u64,
}

/// What is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// IKE SAs that we rekeyed.
    pub ike_rekeys_by_us: u64,
    /// IKE SAs that the peer rekeyed.
    pub ike_rekeys_by_peer: u64,
    /// Child SAs that were rekeyed.
    pub child_rekeys: u64,
    /// Messages that could not be decoded; of no connection, since nobody knows of which.
    pub malformed: u64,
    /// Messages for IKE SAs that there are not; of no connection either.
    pub unknown_spi: u64,
    /// IKE_SA_INIT.
    pub ike_sa_init: Exchanged,
    /// IKE_AUTH.
    pub ike_auth: Exchanged,
    /// CREATE_CHILD_SA.
    pub create_child_sa: Exchanged,
    /// INFORMATIONAL.
    pub informational: Exchanged,
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub struct Tallies {
    all: Tally,
    by_connection: HashMap<String, Tally>,
}

/// Which way a message went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    In,
    Out,
}

impl Tallies {
    /// In all, those of no connection included.
    #[must_use]
    pub fn all(&self) -> &Tally {
        &self.all
    }

    /// Of the connections that have any, in no order.
    pub fn by_connection(&self) -> impl Iterator<Item = (&str, &Tally)> {
        self.by_connection.iter().map(|(name, tally)| (name.as_str(), tally))
    }

    /// Of one connection.
    #[must_use]
    pub fn of(&self, connection: &str) -> Option<&Tally> {
        self.by_connection.get(connection)
    }

    /// Begins anew for one connection, or in all. `false`: nothing is counted of this connection.
    pub fn reset(&mut self, connection: Option<&str>) -> bool {
        match connection {
            None => self.all = Tally::default(),
            Some(name) => return self.by_connection.remove(name).is_some(),
        }
        true
    }

    /// Begins anew for all connections.
    pub fn reset_connections(&mut self) {
        self.by_connection.clear();
    }

    /// Forgets connections that are gone.
    pub(crate) fn keep(&mut self, is_known: impl Fn(&str) -> bool) {
        self.by_connection.retain(|name, _| is_known(name));
    }

    pub(crate) fn message(&mut self, connection: &str, exchange: ExchangeType, way: Way, response: bool) {
        self.count(connection, |tally| {
            let counts = match exchange {
                ExchangeType::IKE_SA_INIT => &mut tally.ike_sa_init,
                ExchangeType::IKE_AUTH => &mut tally.ike_auth,
                ExchangeType::CREATE_CHILD_SA => &mut tally.create_child_sa,
                ExchangeType::INFORMATIONAL => &mut tally.informational,
                _ => return,
            };
            match (way, response) {
                (Way::In, false) => counts.requests_in += 1,
                (Way::In, true) => counts.responses_in += 1,
                (Way::Out, false) => counts.requests_out += 1,
                (Way::Out, true) => counts.responses_out += 1,
            }
        });
    }

    pub(crate) fn event(&mut self, event: &Event) {
        match event {
            Event::IkeRekeyed { new, .. } if new.initiator => {
                self.count(&new.connection, |tally| tally.ike_rekeys_by_us += 1);
            }
            Event::IkeRekeyed { new, .. } => {
                self.count(&new.connection, |tally| tally.ike_rekeys_by_peer += 1);
            }
            Event::ChildRekeyed { ike_sa, .. } => {
                self.count(&ike_sa.connection, |tally| tally.child_rekeys += 1);
            }
            _ => {}
        }
    }

    pub(crate) fn malformed(&mut self) {
        self.all.malformed += 1;
    }

    pub(crate) fn unknown_spi(&mut self) {
        self.all.unknown_spi += 1;
    }

    /// A peer that has not said who it is may be of no connection yet.
    fn count(&mut self, connection: &str, count: impl Fn(&mut Tally)) {
        count(&mut self.all);
        if connection.is_empty() {
            return;
        }
        match self.by_connection.get_mut(connection) {
            Some(tally) => count(tally),
            None => count(self.by_connection.entry(connection.to_owned()).or_default()),
        }
    }
}
