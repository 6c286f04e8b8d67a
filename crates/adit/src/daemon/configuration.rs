//! What is in force: what the file says, and what clients push beside it.
//!
//! It owns putting a configuration in force. What is different is found in `reload`, what clients push is kept in `pushed`.

use std::collections::HashMap;
use std::time::Instant;

use adit_ike::config::{Configuration, Connection};
use adit_ike::{IkeSaView, TerminateTarget};

use super::overlaps::Overlaps;
use super::reconciler::ChildName;
use super::reload::{self, Changes, Loaded};
use super::{Daemon, RunError, interfaces, policies};
use crate::config::{self, Hosts, Parts};
use crate::control::vici::Message;

/// Most names of a kind that the answer to a reload lists.
pub(super) const MOST_LISTED: usize = 1000;

impl Daemon {
    /// Puts what the file says in force, beside what clients have pushed.
    pub(super) fn configure(&mut self, now: Instant, file: Parts) -> Result<Changes, Refused> {
        self.catch_up(now);
        let taken = self.pushed.names_in(&file);
        let all = self.pushed.beside(file.clone(), &taken);
        if !self.pushed.is_empty() {
            config::pushed::compare_interfaces(&all).map_err(Refused::Disagreement)?;
        }
        let changes = self.put_in_force(now, all)?;
        for name in &taken {
            tracing::warn!("connection \"{name}\", which a client had loaded, is the file's from now on");
        }
        self.pushed.give_to_the_file(&taken);
        self.file = file;
        self.pushed.file_changed();
        Ok(changes)
    }

    /// Puts a configuration in force and says what is different. Only what changed is touched: what is new is protected
    /// first, what is gone last. A system that refuses the new policies leaves everything as it is.
    pub(super) fn put_in_force(&mut self, now: Instant, parts: Parts) -> Result<Changes, adit_net::Error> {
        let mut changes = self.changes(&parts);
        let Parts { ike: configuration, hosts, shunts, treatments, interfaces } = parts;
        let before = self.policies.clone();
        self.policies.configure(
            &policies::inside(&configuration.connections, &treatments),
            &shunts,
            &interfaces,
        );
        let both = interfaces::both(&self.interfaces, &interfaces);
        let going = self.interfaces != interfaces;
        let made = self.backend.set_interfaces(both);
        if let Err(error) = made.and_then(|()| self.backend.set_policies(self.policies.all())) {
            self.policies = before;
            if !self.configured {
                // What a killed predecessor left to keep protected traffic in is not ours to lift.
                return Err(error);
            }
            if let Err(error) = self.backend.set_interfaces(interfaces::all(&self.interfaces)) {
                tracing::warn!("interfaces of a refused configuration stay: {error}");
            }
            if let Err(error) = self.backend.set_policies(self.policies.all()) {
                tracing::warn!("the policies of a refused configuration stay in force: {error}");
            }
            return Err(error);
        }
        self.configured = true;
        let lost = self.lost(&configuration);
        self.names.configure(now, hosts.values().flat_map(Hosts::names));
        self.hosts = hosts;
        self.shunts = shunts;
        self.treatments = treatments;
        self.interfaces = interfaces;
        self.connections.clone_from(&configuration.connections);
        self.tell_the_gateway(configuration);
        let ends = changes
            .connections
            .iter()
            .map(|name| TerminateTarget { connection: Some(name.clone()), ..TerminateTarget::default() });
        let ends =
            ends.chain(changes.children.iter().map(|ChildName { connection, child }| TerminateTarget {
                connection: Some(connection.clone()),
                child: Some(child.clone()),
                ..TerminateTarget::default()
            }));
        let ends = ends.chain(
            lost.iter().map(|sa| TerminateTarget { ike_sa: Some(sa.handle), ..TerminateTarget::default() }),
        );
        for target in ends.collect::<Vec<_>>() {
            let request = self.request_id();
            // There need not be any SA of it.
            let _ = self.gateway.terminate(now, &target, request);
        }
        self.reconciler.configure(now, &self.connections, |name| changes.kept.contains(name));
        self.observer.configured();
        self.looks.configured();
        self.overlaps = Overlaps::default();
        self.configure_paths(now);
        if self.policies.forget_obsolete()
            && let Err(error) = self.backend.set_policies(self.policies.all())
        {
            tracing::warn!("policies that are gone stay in force: {error}");
        }
        if going && let Err(error) = self.backend.set_interfaces(interfaces::all(&self.interfaces)) {
            tracing::warn!("interfaces that are gone stay: {error}");
        }
        for sa in lost {
            if !changes.changed.contains(&sa.connection) {
                changes.changed.push(sa.connection);
            }
        }
        Ok(changes)
    }

    /// What is different in another configuration.
    pub(super) fn changes(&self, new: &Parts) -> Changes {
        let mut changes =
            Changes::between((&self.connections, &self.hosts), (&new.ike.connections, &new.hosts));
        changes.compare_shunts(&self.shunts, &new.shunts);
        changes.compare_treatments(&self.treatments, &new.treatments);
        changes.compare_interfaces(&self.interfaces, &new.interfaces);
        changes
    }

    /// IKE SAs that rest on a secret which another configuration does not have.
    pub(super) fn lost(&self, new: &Configuration) -> Vec<IkeSaView> {
        let by_name: HashMap<&str, &Connection> =
            self.connections.iter().map(|connection| (connection.name.as_str(), connection)).collect();
        let secrets = reload::Secrets::of(new);
        let is_lost = |sa: &IkeSaView| {
            let connection = by_name.get(sa.connection.as_str()).copied();
            reload::has_lost_its_secret(&self.gateway, sa, connection, &secrets)
        };
        self.gateway.ike_sas().filter(is_lost).collect()
    }

    /// Secrets that clients push are there for what begins from now on; what is up does not rest on them any more.
    pub(super) fn renew_secrets(&mut self) {
        let mut configuration = self.file.ike.credentials();
        self.pushed.add_credentials(&mut configuration);
        if configuration.ppks.is_empty() == self.gateway.ppks().is_empty() {
            self.gateway.set_credentials(configuration.keys, configuration.trust);
            return self.gateway.set_secrets(configuration.secrets, configuration.ppks);
        }
        // What connections offer rests on whether there are any.
        configuration.connections.clone_from(&self.connections);
        self.tell_the_gateway(configuration);
    }

    fn tell_the_gateway(&mut self, mut configuration: Configuration) {
        for connection in &mut configuration.connections {
            if let Some(hosts) = self.hosts.get(&connection.name) {
                *connection = hosts.resolve(connection, |name| self.names.addresses(name));
            }
        }
        self.gateway.set_configuration(configuration);
    }

    /// The configuration was read again.
    pub(super) fn loaded(&mut self, now: Instant, loaded: Loaded) -> Message {
        let mut answer = Message::new();
        let failed = |answer: &mut Message, why: String, errors: Vec<String>| {
            tracing::error!("{why}");
            answer.put("success", "no").put("errmsg", why).put_list("errors", errors);
        };
        let mut loaded = match loaded {
            Ok(loaded) => loaded,
            Err(diagnostics) => {
                let errors: Vec<String> = diagnostics.to_string().lines().map(str::to_owned).collect();
                errors.iter().for_each(|error| tracing::error!("{error}"));
                failed(&mut answer, "the configuration is not reloaded: it has errors".to_owned(), errors);
                return answer;
            }
        };
        let mut warnings: Vec<String> =
            std::mem::take(&mut loaded.warnings).iter().map(ToString::to_string).collect();
        if self.section.as_ref().is_some_and(|section| *section != loaded.gateway) {
            warnings
                .push("the section `gateway` has changed: that takes effect at the next start".to_owned());
        }
        warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        match self.configure(now, loaded.into()) {
            Ok(changes) => {
                tracing::info!("configuration reloaded: {changes}");
                answer.put("success", "yes").put_display("summary", &changes);
                for (key, names) in
                    [("added", changes.added), ("changed", changes.changed), ("removed", changes.removed)]
                {
                    answer.put_list(key, names.into_iter().take(MOST_LISTED));
                }
                answer.put_list("warnings", warnings);
            }
            Err(error) => {
                failed(&mut answer, format!("the configuration is not reloaded: {error}"), Vec::new());
            }
        }
        answer
    }
}

impl From<Refused> for RunError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::System(error) => Self::Network(error),
            Refused::Disagreement(why) => Self::Configuration(why),
        }
    }
}

/// Why what the file says is not put in force.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    /// The system does not do it.
    #[error("the system refuses its policies: {0}")]
    System(#[from] adit_net::Error),
    /// It contradicts what clients have pushed.
    #[error("it does not go with what clients have loaded: {0}")]
    Disagreement(String),
}
