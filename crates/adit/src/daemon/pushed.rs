//! What clients push over vici: connections and secrets, beside those of the file.
//!
//! It owns them and their bounds. A name belongs to whom it belonged first, and to the file in doubt: what the file has is
//! never replaced or unloaded over vici, and a reload of the file leaves alone what was pushed. Nothing of it outlives the
//! daemon.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use adit_crypto::Secret;
use adit_ike::config::{Configuration, PostQuantumKey, SharedSecret};

use super::Daemon;
use super::reconciler::ChildName;
use crate::config::{self, Parts};
use crate::control::vici::{Message, Value};

/// Most connections that are kept.
const MOST_CONNECTIONS: usize = 10_000;

/// Most secrets that are kept.
const MOST_SECRETS: usize = 20_000;

/// Most octets of messages that are kept, as many as all files of a configuration may have.
const MOST_OCTETS: usize = 16 << 20;

/// What is kept.
#[derive(Debug, Default)]
pub(super) struct Pushed {
    connections: Vec<PushedConnection>,
    secrets: Vec<PushedSecret>,
    /// Children that wait for packets, or do not, whatever is configured.
    pub(super) traps: BTreeMap<ChildName, bool>,
}

#[derive(Debug)]
struct PushedConnection {
    name: String,
    parts: Parts,
    octets: usize,
}

#[derive(Debug)]
struct PushedSecret {
    /// What it is replaced and unloaded by.
    id: Option<String>,
    kind: SecretKind,
    octets: usize,
}

#[derive(Debug)]
enum SecretKind {
    Ike(SharedSecret),
    Ppk(PostQuantumKey),
}

impl SecretKind {
    fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Ike(one), Self::Ike(other)) => {
                one.owners == other.owners && one.secret.ct_eq(other.secret.expose())
            }
            (Self::Ppk(one), Self::Ppk(other)) => {
                one.ids == other.ids && one.secret.ct_eq(other.secret.expose())
            }
            _ => false,
        }
    }
}

impl Pushed {
    pub(super) fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// The names of the connections, in the order they came.
    pub(super) fn connection_names(&self) -> impl Iterator<Item = &str> {
        self.connections.iter().map(|connection| connection.name.as_str())
    }

    /// What secrets can be unloaded by.
    pub(super) fn secret_ids(&self) -> impl Iterator<Item = &str> {
        self.secrets.iter().filter_map(|secret| secret.id.as_deref())
    }

    /// The connections whose names a file has as well.
    pub(super) fn names_in(&self, file: &Parts) -> Vec<String> {
        let theirs = names(file);
        self.connection_names().filter(|name| theirs.contains(name)).map(str::to_owned).collect()
    }

    /// All that is pushed, behind what the file says, but for some connections.
    pub(super) fn beside(&self, mut all: Parts, without: &[String]) -> Parts {
        for PushedConnection { parts, .. } in
            self.connections.iter().filter(|connection| !without.contains(&connection.name))
        {
            add(&mut all, parts);
        }
        self.add_secrets(&mut all.ike);
        if !self.traps.is_empty() {
            for connection in &mut all.ike.connections {
                for child in &mut connection.children {
                    let name = ChildName::new(&connection.name, &child.name);
                    child.trap = self.traps.get(&name).copied().unwrap_or(child.trap);
                }
            }
        }
        all
    }

    pub(super) fn add_secrets(&self, configuration: &mut Configuration) {
        for PushedSecret { kind, .. } in &self.secrets {
            match kind {
                SecretKind::Ike(secret) => configuration.secrets.push(secret.clone()),
                SecretKind::Ppk(key) => configuration.ppks.push(key.clone()),
            }
        }
    }

    /// Forgets a connection. Was there one?
    pub(super) fn remove_connection(&mut self, name: &str) -> bool {
        let before = self.connections.len();
        self.connections.retain(|connection| connection.name != name);
        self.traps.retain(|child, _| child.connection != name);
        self.connections.len() != before
    }

    fn octets(&self) -> usize {
        let connections = self.connections.iter().map(|connection| connection.octets);
        connections.chain(self.secrets.iter().map(|secret| secret.octets)).sum()
    }
}

impl Daemon {
    /// Takes a connection over, or refuses it and says why.
    pub(super) fn load_connection(
        &mut self,
        now: Instant,
        name: &str,
        section: &Message,
    ) -> Result<(), String> {
        let Some(gateway) = &self.section else { return Err("the daemon is not configured yet".to_owned()) };
        let mut known = Configuration { connections: Vec::new(), ..self.file.ike.clone() };
        self.pushed.add_secrets(&mut known);
        let config::pushed::Pushed { parts, warnings } =
            config::pushed::connection(name, section, gateway, known)?;
        if names(&self.file).contains(name) {
            if is_like(&of(&self.file, name), &parts) {
                return Ok(());
            }
            return Err(format!(
                "connection \"{name}\" belongs to {}, which says something else: change it there and reload it",
                self.loader.file().display()
            ));
        }
        let known = self.pushed.connections.iter().position(|connection| connection.name == name);
        let old = known.and_then(|at| self.pushed.connections.get(at));
        if old.is_some_and(|old| is_like(&old.parts, &parts)) {
            return Ok(());
        }
        let octets = octets(section);
        if old.is_none() && self.pushed.connections.len() >= MOST_CONNECTIONS {
            return Err(format!("{MOST_CONNECTIONS} connections are loaded, and that is the most"));
        }
        if self.pushed.octets() - old.map_or(0, |old| old.octets) + octets > MOST_OCTETS {
            return Err(TOO_MUCH.to_owned());
        }
        for warning in warnings {
            tracing::info!("{warning}");
        }
        let new = PushedConnection { name: name.to_owned(), parts, octets };
        let replaced = match known.and_then(|at| self.pushed.connections.get_mut(at)) {
            Some(old) => Some(std::mem::replace(old, new)),
            None => {
                self.pushed.connections.push(new);
                None
            }
        };
        let all = self.pushed.beside(self.file.clone(), &[]);
        let done = config::pushed::compare_interfaces(&all).and_then(|()| {
            self.put_in_force(now, all).map_err(|error| format!("the system refuses its policies: {error}"))
        });
        match done {
            Ok(changes) => {
                tracing::info!("connection \"{name}\" loaded: {changes}");
                Ok(())
            }
            Err(why) => {
                match (known.and_then(|at| self.pushed.connections.get_mut(at)), replaced) {
                    (Some(new), Some(old)) => *new = old,
                    _ => drop(self.pushed.remove_connection(name)),
                }
                Err(format!("connection \"{name}\" is not loaded: {why}"))
            }
        }
    }

    /// Gives a connection up that was pushed.
    pub(super) fn unload_connection(&mut self, now: Instant, name: &str) -> Result<(), String> {
        if !self.pushed.connection_names().any(|known| known == name) {
            if names(&self.file).contains(name) {
                return Err(format!(
                    "connection \"{name}\" belongs to {}: take it out there and reload it",
                    self.loader.file().display()
                ));
            }
            return Err(format!("unload: connection '{name}' not found for unloading"));
        }
        let without = [name.to_owned()];
        let changes = self
            .put_in_force(now, self.pushed.beside(self.file.clone(), &without))
            .map_err(|error| format!("connection \"{name}\" stays: the system refuses it: {error}"))?;
        self.pushed.remove_connection(name);
        tracing::info!("connection \"{name}\" unloaded: {changes}");
        Ok(())
    }

    /// Takes a secret over, in the place of the one with the same id.
    pub(super) fn load_shared(
        &mut self,
        id: Option<&str>,
        kind: &str,
        data: &[u8],
        owners: &[String],
    ) -> Result<(), String> {
        if data.is_empty() {
            return Err("a shared secret without `data`".to_owned());
        }
        let name = id.unwrap_or("(no id)").to_owned();
        let secret = Arc::new(Secret::new(data.to_vec()));
        let wrong = |owner: &String| format!("invalid owner `{}`", owner.escape_debug());
        let kind = match kind.to_ascii_lowercase().as_str() {
            "ike" => {
                let owners = owners.iter().map(|owner| owner.parse().map_err(|_| wrong(owner)));
                SecretKind::Ike(SharedSecret { name, owners: owners.collect::<Result<_, _>>()?, secret })
            }
            "ppk" => {
                let ids = owners.iter().map(|owner| {
                    let id = owner.parse::<adit_ike::identity::Identity>().map_err(|_| wrong(owner))?;
                    Ok::<_, String>(id.data().to_vec())
                });
                SecretKind::Ppk(PostQuantumKey { name, ids: ids.collect::<Result<_, _>>()?, secret })
            }
            "eap" | "xauth" | "ntlm" => {
                return Err(format!("secrets of type {kind} are not done yet: nothing would use this one"));
            }
            _ => return Err(format!("invalid shared key type: {kind}")),
        };
        let same = |known: &PushedSecret| match id {
            Some(id) => known.id.as_deref() == Some(id),
            None => known.id.is_none() && known.kind.is_like(&kind),
        };
        let known = self.pushed.secrets.iter().position(same);
        if known.and_then(|at| self.pushed.secrets.get(at)).is_some_and(|old| old.kind.is_like(&kind)) {
            return Ok(());
        }
        let octets = data.len() + owners.iter().map(String::len).sum::<usize>();
        if known.is_none() && self.pushed.secrets.len() >= MOST_SECRETS {
            return Err(format!("{MOST_SECRETS} secrets are loaded, and that is the most"));
        }
        if self.pushed.octets() + octets > MOST_OCTETS {
            return Err(TOO_MUCH.to_owned());
        }
        let new = PushedSecret { id: id.map(str::to_owned), kind, octets };
        match known.and_then(|at| self.pushed.secrets.get_mut(at)) {
            Some(old) => *old = new,
            None => self.pushed.secrets.push(new),
        }
        self.renew_secrets();
        Ok(())
    }

    /// Gives a secret up that was pushed. Was there one?
    pub(super) fn unload_shared(&mut self, id: &str) -> bool {
        let before = self.pushed.secrets.len();
        self.pushed.secrets.retain(|secret| secret.id.as_deref() != Some(id));
        if self.pushed.secrets.len() == before {
            return false;
        }
        self.renew_secrets();
        true
    }

    /// Gives all secrets up that were pushed.
    pub(super) fn clear_secrets(&mut self) {
        self.pushed.secrets.clear();
        self.renew_secrets();
    }
}

const TOO_MUCH: &str = "what is loaded would be more than 16 MiB together";

/// The connections of a part, those without SAs included.
fn names(parts: &Parts) -> HashSet<&str> {
    let own = parts.ike.connections.iter().map(|connection| connection.name.as_str());
    own.chain(parts.shunts.iter().map(|shunt| shunt.connection.as_str())).collect()
}

/// What is said of one connection.
fn of(parts: &Parts, name: &str) -> Parts {
    let mut one = Parts::default();
    one.ike.connections.extend(parts.ike.connections.iter().filter(|it| it.name == name).cloned());
    one.hosts.extend(parts.hosts.get_key_value(name).map(|(name, hosts)| (name.clone(), hosts.clone())));
    one.shunts.extend(parts.shunts.iter().filter(|shunt| shunt.connection == name).cloned());
    let treatments = parts.treatments.iter().filter(|((connection, _), _)| connection == name);
    one.treatments.extend(treatments.map(|(child, treatment)| (child.clone(), treatment.clone())));
    one.interfaces
        .extend(parts.interfaces.get_key_value(name).map(|(name, spec)| (name.clone(), spec.clone())));
    one
}

/// Do they say the same, apart from secrets?
fn is_like(one: &Parts, other: &Parts) -> bool {
    one.ike.connections == other.ike.connections
        && one.hosts == other.hosts
        && one.shunts == other.shunts
        && one.treatments == other.treatments
        && one.interfaces == other.interfaces
}

fn add(all: &mut Parts, more: &Parts) {
    all.ike.connections.extend_from_slice(&more.ike.connections);
    all.hosts.extend(more.hosts.iter().map(|(name, hosts)| (name.clone(), hosts.clone())));
    all.shunts.extend_from_slice(&more.shunts);
    all.treatments
        .extend(more.treatments.iter().map(|(child, treatment)| (child.clone(), treatment.clone())));
    all.interfaces.extend(more.interfaces.iter().map(|(name, spec)| (name.clone(), spec.clone())));
}

/// About how much a message takes.
fn octets(message: &Message) -> usize {
    let value = |value: &Value| match value {
        Value::Bytes(octets) => octets.len(),
        Value::List(items) => items.iter().map(|item| item.len() + 8).sum(),
        Value::Section(section) => octets(section),
    };
    message.entries().map(|(name, entry)| name.len() + value(entry) + 16).sum()
}
