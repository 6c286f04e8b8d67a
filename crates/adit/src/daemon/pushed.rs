//! What clients push over vici: connections and secrets, beside those of the file.
//!
//! It owns them and their bounds. A name belongs to whom it belonged first, and to the file in doubt: what the file has is
//! never replaced or unloaded over vici, and a reload of the file leaves alone what was pushed. Nothing of it outlives the
//! daemon.
//!
//! Putting a configuration in force costs time by all that is in it. So where there is much, and something was put in force
//! just now, what is loaded next is only kept at first, and all of it is put in force together a little later, or as soon as
//! somebody asks for what may rest on it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_crypto::Secret;
use adit_ike::config::{Configuration, PostQuantumKey, SharedSecret};

use super::Daemon;
use super::credentials::Material;
use super::reconciler::ChildName;
use crate::config::{self, Parts};
use crate::control::vici::{MAX_FRAME, Message, Value};

/// Most connections that are kept.
const MOST_CONNECTIONS: usize = 10_000;

/// Most secrets that are kept.
const MOST_SECRETS: usize = 20_000;

/// Most octets of messages that are kept, as many as all files of a configuration may have.
const MOST_OCTETS: usize = 16 << 20;

/// Most octets of the names of all connections, and of all secrets, as a list: `get-conns` and `get-shared` tell all of them in
/// one message.
const MOST_NAMES: usize = MAX_FRAME - 1024;

/// With so many connections or secrets, or fewer, everything is put in force at once.
const FEW: usize = 64;

/// With more, that takes no more than this part of the loop's time.
const PART: u32 = 5;

/// How often parts of what the system refuses are tried again: enough to find one connection among ten thousand.
const MOST_ATTEMPTS: usize = 32;

/// What is kept.
#[derive(Debug, Default)]
pub(super) struct Pushed {
    connections: Kept<Parts>,
    secrets: Kept<SecretKind>,
    pub(super) material: Material,
    /// Children that wait for packets, or do not, whatever is configured.
    pub(super) traps: BTreeMap<ChildName, bool>,
    /// What the file and clients have said of secrets, for whoever looks whether there is a fitting one; made anew when it is
    /// asked for.
    known: Option<Configuration>,
    postponed: Postponed,
    /// What the file took over when it was put in force last.
    taken: Vec<Before>,
}

/// Things in the order they came, found by their names.
#[derive(Debug)]
struct Kept<T> {
    all: BTreeMap<u64, Item<T>>,
    by_name: HashMap<String, u64>,
    last: u64,
    octets: usize,
    /// Octets of the names, as a list.
    listed: usize,
}

#[derive(Debug)]
struct Item<T> {
    name: Option<String>,
    what: T,
    /// About how much a client has sent for it.
    octets: usize,
}

impl<T> Item<T> {
    /// Octets of the name in a list of a message.
    fn listed(&self) -> usize {
        self.name.as_ref().map_or(0, |name| name.len() + 3)
    }
}

/// What is kept and not in force yet.
#[derive(Debug, Default)]
struct Postponed {
    /// How connections were before, the latest last.
    before: Vec<Before>,
    /// There are other secrets.
    secrets: bool,
    due: Option<Instant>,
    /// Not before this is anything put in force again.
    next: Option<Instant>,
}

/// A connection before a client changed it: its place, and what it was, if it was there.
#[derive(Debug)]
pub(super) struct Before {
    name: String,
    place: u64,
    connection: Option<Item<Parts>>,
    traps: Vec<(ChildName, bool)>,
}

/// A connection as a client wants it: its place, and what it is, if it is to be there.
#[derive(Debug)]
struct After {
    name: String,
    place: u64,
    connection: Option<Item<Parts>>,
}

/// Connections that are as they were before, because the system refuses what clients want of them.
#[derive(Debug, Default)]
pub(super) struct Refused(Vec<(Vec<String>, String)>);

impl Refused {
    /// Why this one is as it was before, if it is.
    fn why(&self, name: &str) -> Option<&str> {
        let (_, why) = self.0.iter().find(|(names, _)| names.iter().any(|one| one == name))?;
        Some(why)
    }
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self { all: BTreeMap::new(), by_name: HashMap::new(), last: 0, octets: 0, listed: 0 }
    }
}

impl<T> Kept<T> {
    fn len(&self) -> usize {
        self.all.len()
    }

    fn get(&self, name: &str) -> Option<&Item<T>> {
        self.all.get(self.by_name.get(name)?)
    }

    fn iter(&self) -> impl Iterator<Item = &T> {
        self.all.values().map(|item| &item.what)
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.all.values().filter_map(|item| item.name.as_deref())
    }

    /// In the place of the one of this name, or behind all others. Returns the place, and what was there.
    fn put(&mut self, new: Item<T>) -> (u64, Option<Item<T>>) {
        let known = new.name.as_ref().and_then(|name| self.by_name.get(name)).copied();
        let place = known.unwrap_or(self.last + 1);
        (place, self.put_at(place, new))
    }

    fn put_at(&mut self, place: u64, new: Item<T>) -> Option<Item<T>> {
        self.last = self.last.max(place);
        self.octets += new.octets;
        self.listed += new.listed();
        if let Some(name) = &new.name {
            self.by_name.insert(name.clone(), place);
        }
        let old = self.all.insert(place, new)?;
        self.octets -= old.octets;
        self.listed -= old.listed();
        Some(old)
    }

    fn remove(&mut self, name: &str) -> Option<(u64, Item<T>)> {
        let place = self.by_name.remove(name)?;
        let old = self.all.remove(&place)?;
        self.octets -= old.octets;
        self.listed -= old.listed();
        Some((place, old))
    }

    /// Is there room for something of another name, `most` of them at the most?
    fn room_for(&self, name: &str, most: usize, what: &str) -> Result<(), String> {
        if self.len() >= most {
            return Err(format!("{most} {what} are loaded, and that is the most"));
        }
        if self.listed + name.len() + 3 > MOST_NAMES {
            return Err(format!(
                "the names of the {} {what} that are loaded would no longer fit into the message that lists them: take \
                 shorter names",
                self.len()
            ));
        }
        Ok(())
    }
}

#[derive(Debug)]
enum SecretKind {
    Ike(SharedSecret),
    Ppk(PostQuantumKey),
}

impl SecretKind {
    fn add_to(&self, configuration: &mut Configuration) {
        match self {
            Self::Ike(secret) => configuration.secrets.push(secret.clone()),
            Self::Ppk(key) => configuration.ppks.push(key.clone()),
        }
    }

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
        self.connections.len() == 0
    }

    /// When what is kept is put in force, if it is not yet.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.postponed.due
    }

    /// The names of the connections, in the order they came.
    pub(super) fn connection_names(&self) -> impl Iterator<Item = &str> {
        self.connections.names()
    }

    /// What secrets can be unloaded by.
    pub(super) fn secret_ids(&self) -> impl Iterator<Item = &str> {
        self.secrets.names()
    }

    /// The connections whose names a file has as well.
    pub(super) fn names_in(&self, file: &Parts) -> Vec<String> {
        let theirs = names(file);
        self.connection_names().filter(|name| theirs.contains(name)).map(str::to_owned).collect()
    }

    /// All that is pushed, behind what the file says, but for some connections.
    pub(super) fn beside(&self, mut all: Parts, without: &[String]) -> Parts {
        let without: HashSet<&str> = without.iter().map(String::as_str).collect();
        for Item { name, what, .. } in self.connections.all.values() {
            if name.as_deref().is_none_or(|name| !without.contains(name)) {
                add(&mut all, what);
            }
        }
        self.add_credentials(&mut all.ike);
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

    pub(super) fn add_credentials(&self, configuration: &mut Configuration) {
        self.secrets.iter().for_each(|secret| secret.add_to(configuration));
        self.material.add_to(configuration);
    }

    /// The file is another one.
    pub(super) fn file_changed(&mut self) {
        self.known = None;
    }

    /// Everything that is kept is in force, which has taken so long.
    fn in_force(&mut self, took: Duration) {
        let next = Instant::now().checked_add(took * (PART - 1));
        self.postponed = Postponed { next, ..Postponed::default() };
    }

    /// These connections are the file's from now on.
    pub(super) fn give_to_the_file(&mut self, names: &[String]) {
        self.taken = names.iter().filter_map(|name| self.take_connection(name)).collect();
    }

    /// What the file took over last, for [`Self::bring_back`].
    pub(super) fn taken(&mut self) -> Vec<Before> {
        std::mem::take(&mut self.taken)
    }

    /// Connections are the clients' again.
    pub(super) fn bring_back(&mut self, taken: Vec<Before>) {
        for Before { place, connection, traps, .. } in taken {
            if let Some(connection) = connection {
                self.connections.put_at(place, connection);
            }
            self.traps.extend(traps);
        }
    }

    /// Forgets a connection. Returns what it was.
    fn take_connection(&mut self, name: &str) -> Option<Before> {
        let (place, connection) = self.connections.remove(name)?;
        let first = ChildName::new(name, "");
        let traps = self.traps.range(first..).take_while(|(child, _)| child.connection == name);
        let traps: Vec<(ChildName, bool)> = traps.map(|(child, trap)| (child.clone(), *trap)).collect();
        for (child, _) in &traps {
            self.traps.remove(child);
        }
        Some(Before { name: name.to_owned(), place, connection: Some(connection), traps })
    }

    /// Takes back what is not in force, and says what that was, in the order in which it came.
    fn take_back(&mut self) -> Vec<After> {
        let mut undone: Vec<After> = Vec::new();
        let mut known = HashSet::new();
        for Before { name, place, connection, traps } in self.postponed.before.drain(..).rev() {
            let after = match connection {
                Some(connection) => self.connections.put_at(place, connection),
                None => self.connections.remove(&name).map(|(_, after)| after),
            };
            self.traps.extend(traps);
            // Only the last of what was loaded of one name counts.
            if known.insert(name.clone()) {
                undone.push(After { name, place, connection: after });
            }
        }
        undone.reverse();
        undone
    }

    /// The way back from [`Self::take_back`].
    fn put_again(&mut self, undone: Vec<After>) {
        for After { name, place, connection } in undone {
            let before = match connection {
                Some(after) => {
                    let connection = self.connections.put_at(place, after);
                    Some(Before { name, place, connection, traps: Vec::new() })
                }
                None => self.take_connection(&name),
            };
            self.postponed.before.extend(before);
        }
    }

    fn octets(&self) -> usize {
        self.connections.octets + self.secrets.octets
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
        let known = match self.pushed.known.take() {
            Some(known) => known,
            None => {
                let mut known = self.file.ike.credentials();
                self.pushed.add_credentials(&mut known);
                known
            }
        };
        let read = config::pushed::connection(name, section, gateway, &known);
        self.pushed.known = Some(known);
        let config::pushed::Pushed { parts, warnings } = read?;
        if self.is_of_the_file(name) {
            if is_like(&of(&self.file, name), &parts) {
                return Ok(());
            }
            return Err(format!(
                "connection \"{name}\" belongs to {}, which says something else: change it there and reload it",
                self.loader.file().display()
            ));
        }
        let old = self.pushed.connections.get(name);
        if old.is_some_and(|old| is_like(&old.what, &parts)) {
            return Ok(());
        }
        let octets = octets(section);
        if old.is_none() {
            self.pushed.connections.room_for(name, MOST_CONNECTIONS, "connections")?;
        }
        if self.pushed.octets() - old.map_or(0, |old| old.octets) + octets > MOST_OCTETS {
            return Err(TOO_MUCH.to_owned());
        }
        for warning in warnings {
            tracing::info!("{warning}");
        }
        // What connections share an interface they have to agree about.
        let alone = !parts.interfaces.is_empty() || old.is_some_and(|old| !old.what.interfaces.is_empty());
        if alone {
            self.catch_up(now);
        }
        let new = Item { name: Some(name.to_owned()), what: parts, octets };
        let (place, connection) = self.pushed.connections.put(new);
        let before = Before { name: name.to_owned(), place, connection, traps: Vec::new() };
        self.pushed.postponed.before.push(before);
        let refused = if alone { self.catch_up(now) } else { self.soon(now) };
        match refused.why(name) {
            Some(why) => Err(format!("connection \"{name}\" is not loaded: {why}")),
            None => Ok(()),
        }
    }

    /// Gives a connection up that was pushed.
    pub(super) fn unload_connection(&mut self, now: Instant, name: &str) -> Result<(), String> {
        let Some(before) = self.pushed.take_connection(name) else {
            if self.is_of_the_file(name) {
                return Err(format!(
                    "connection \"{name}\" belongs to {}: take it out there and reload it",
                    self.loader.file().display()
                ));
            }
            return Err(format!("unload: connection '{name}' not found for unloading"));
        };
        self.pushed.postponed.before.push(before);
        match self.soon(now).why(name) {
            Some(why) => Err(format!("connection \"{name}\" stays: {why}")),
            None => Ok(()),
        }
    }

    /// Is the name taken by the file?
    fn is_of_the_file(&self, name: &str) -> bool {
        self.file.ike.connections.iter().any(|connection| connection.name == name)
            || self.file.shunts.iter().any(|shunt| shunt.connection == name)
    }

    /// Puts in force what clients have loaded, now, or together with what they are about to load.
    fn soon(&mut self, now: Instant) -> Refused {
        let many = self.connections.len().max(self.pushed.connections.len()).max(self.pushed.secrets.len());
        let postponed = &mut self.pushed.postponed;
        if let Some(next) = postponed.next
            && many > FEW
            && now < next
        {
            postponed.due = Some(next);
            return Refused::default();
        }
        self.catch_up(now)
    }

    /// Puts in force what clients have loaded and what is not yet. What the system refuses is taken back, and whoever listens
    /// is told: who loaded it may have gone.
    pub(super) fn catch_up(&mut self, now: Instant) -> Refused {
        let Postponed { before, secrets, .. } = &self.pushed.postponed;
        let (connections, secrets) = (!before.is_empty(), *secrets);
        let begun = Instant::now();
        let mut refused = Refused::default();
        if connections {
            let mut attempts = MOST_ATTEMPTS;
            self.try_pushed(now, &mut attempts, &mut refused);
        }
        // Those that have changed connections have them already.
        if secrets && (!connections || !refused.0.is_empty()) {
            self.renew_secrets();
        }
        if connections || secrets {
            self.pushed.in_force(begun.elapsed());
        }
        for (names, why) in &refused.0 {
            tracing::error!("as clients had them before, because {why}: {}", names.join(", "));
            for name in names {
                self.alert("install-child-policy-failed", why, Some(name));
            }
        }
        refused
    }

    /// Puts in force what is not yet. What is refused is tried in halves, and in halves of those: what is at fault is taken
    /// back, and nothing else if it is not too much.
    fn try_pushed(&mut self, now: Instant, attempts: &mut usize, refused: &mut Refused) {
        *attempts = attempts.saturating_sub(1);
        let all = self.pushed.beside(self.file.clone(), &[]);
        let done = config::pushed::compare_interfaces(&all).and_then(|()| {
            self.put_in_force(now, all).map_err(|error| format!("the system refuses its policies: {error}"))
        });
        match done {
            Ok(changes) => {
                tracing::info!("loaded: {changes}");
                self.pushed.postponed.before.clear();
            }
            Err(why) => {
                let mut undone = self.pushed.take_back();
                if undone.len() < 2 || *attempts == 0 {
                    refused.0.push((undone.into_iter().map(|after| after.name).collect(), why));
                    return;
                }
                let rest = undone.split_off(undone.len() / 2);
                for half in [undone, rest] {
                    self.pushed.put_again(half);
                    self.try_pushed(now, attempts, refused);
                }
            }
        }
    }

    /// What is kept is put in force when its time has come.
    pub(super) fn catch_up_in_time(&mut self, now: Instant) {
        if self.pushed.postponed.due.is_some_and(|due| due <= now) {
            self.catch_up(now);
        }
    }

    /// Takes a secret over, in the place of the one with the same id.
    pub(super) fn load_shared(
        &mut self,
        now: Instant,
        id: Option<&str>,
        kind: &str,
        data: &[u8],
        owners: &[String],
    ) -> Result<(), String> {
        if data.is_empty() {
            return Err("a shared secret without `data`".to_owned());
        }
        let name = id.unwrap_or("(no id)").to_owned();
        let name_len = name.len();
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
        let old = id.and_then(|id| self.pushed.secrets.get(id));
        let mut nameless = self.pushed.secrets.all.values().filter(|item| item.name.is_none());
        if old.is_some_and(|old| old.what.is_like(&kind))
            || (id.is_none() && nameless.any(|item| item.what.is_like(&kind)))
        {
            return Ok(());
        }
        // The name is kept twice, and an owner without a name is one, too.
        let owners: usize = owners.iter().map(|owner| owner.len() + 32).sum();
        let octets = data.len() + 2 * name_len + owners;
        if old.is_none() {
            self.pushed.secrets.room_for(id.unwrap_or_default(), MOST_SECRETS, "secrets")?;
        }
        if self.pushed.octets() - old.map_or(0, |old| old.octets) + octets > MOST_OCTETS {
            return Err(TOO_MUCH.to_owned());
        }
        match (&mut self.pushed.known, old) {
            (Some(known), None) => kind.add_to(known),
            (known, _) => *known = None,
        }
        self.pushed.secrets.put(Item { name: id.map(str::to_owned), what: kind, octets });
        self.secrets_changed(now);
        Ok(())
    }

    /// Gives a secret up that was pushed. Was there one?
    pub(super) fn unload_shared(&mut self, now: Instant, id: &str) -> bool {
        if self.pushed.secrets.remove(id).is_none() {
            return false;
        }
        self.credentials_changed(now);
        true
    }

    /// Gives all secrets up that were pushed.
    pub(super) fn clear_secrets(&mut self, now: Instant) {
        self.pushed.secrets = Kept::default();
        self.clear_material();
        self.credentials_changed(now);
    }

    /// What there is to authenticate with is not the same any more.
    pub(super) fn credentials_changed(&mut self, now: Instant) {
        self.pushed.known = None;
        self.secrets_changed(now);
    }

    fn secrets_changed(&mut self, now: Instant) {
        self.pushed.postponed.secrets = true;
        self.soon(now);
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
