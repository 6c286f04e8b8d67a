//! Reading the configuration again, and what is different between the one in force and a new one.
//!
//! It owns the comparison and never applies anything: what an SA rests on decides whether it is touched.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::path::{Path, PathBuf};

use adit_crypto::Secret;
use adit_ike::config::{Configuration, Connection, LocalAuth, PostQuantumKey, RemoteAuth, SharedSecret};
use adit_ike::{Gateway, IkeSaView};
use adit_net::Treatment;
use tokio::sync::mpsc::UnboundedSender;

use super::apply::{Job, Load, Sent};
use super::reconciler::ChildName;
use crate::config::{self, Diagnostics, Hosts, Interfaces, Shunt, Treatments};
use crate::control::server::Reply;
use crate::control::vici::Message;

/// The difference, in the order of the files.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// Connections and children that are new.
    pub(super) added: Vec<String>,
    /// Connections and children that are still there and are not the same.
    pub(super) changed: Vec<String>,
    /// Connections and children that are gone.
    pub(super) removed: Vec<String>,
    /// Connections whose IKE SAs rest on what is gone.
    pub(super) connections: Vec<String>,
    /// Children whose SAs do, while their IKE SAs do not.
    pub(super) children: Vec<ChildName>,
    /// Children whose SAs rest on the same as before.
    pub(super) kept: HashSet<ChildName>,
}

impl Changes {
    /// Compares connections and the names of their hosts.
    pub(super) fn between(
        (old, old_hosts): (&[Connection], &HashMap<String, Hosts>),
        (new, new_hosts): (&[Connection], &HashMap<String, Hosts>),
    ) -> Self {
        let mut changes = Self::default();
        let known: HashSet<&str> = old.iter().map(|connection| connection.name.as_str()).collect();
        let by_name: HashMap<&str, &Connection> =
            new.iter().map(|connection| (connection.name.as_str(), connection)).collect();
        for old in old {
            let Some(new) = by_name.get(old.name.as_str()) else {
                changes.removed.push(old.name.clone());
                changes.connections.push(old.name.clone());
                continue;
            };
            let same_hosts = old_hosts.get(&old.name) == new_hosts.get(&new.name);
            if same_hosts && old == *new {
                let names = old.children.iter().map(|child| ChildName::new(&old.name, &child.name));
                changes.kept.extend(names);
            } else if !same_hosts || !old.is_like(new) {
                changes.changed.push(old.name.clone());
                changes.connections.push(old.name.clone());
            } else {
                if without_children(old) != without_children(new) {
                    changes.changed.push(old.name.clone());
                }
                changes.compare_children(old, new);
            }
        }
        let added = new.iter().filter(|connection| !known.contains(connection.name.as_str()));
        changes.added.extend(added.map(|connection| connection.name.clone()));
        changes
    }

    /// Compares the children that need no SA.
    pub(super) fn compare_shunts(&mut self, old: &[Shunt], new: &[Shunt]) {
        let name = |shunt: &Shunt| short(&ChildName::new(&shunt.connection, &shunt.name));
        let by_name = |shunts: &[Shunt]| -> HashMap<String, Shunt> {
            shunts.iter().map(|shunt| (name(shunt), shunt.clone())).collect()
        };
        let (old_by_name, new_by_name) = (by_name(old), by_name(new));
        for shunt in old {
            match new_by_name.get(&name(shunt)) {
                None => self.removed.push(name(shunt)),
                Some(other) if other != shunt => self.changed.push(name(shunt)),
                Some(_) => {}
            }
        }
        let added = new.iter().map(name).filter(|name| !old_by_name.contains_key(name));
        self.added.extend(added);
    }

    /// Compares what happens to the packets of children that stay. SAs with other addresses on our side are ended; all else
    /// comes with the next ones.
    pub(super) fn compare_treatments(&mut self, old: &Treatments, new: &Treatments) {
        if old == new {
            return;
        }
        let mut names: Vec<ChildName> = self.kept.iter().cloned().collect();
        names.sort();
        for name in names {
            let key = (name.connection.clone(), name.child.clone());
            let (old, new) = (old.get(&key), new.get(&key));
            if old == new {
                continue;
            }
            if !self.changed.contains(&short(&name)) {
                self.changed.push(short(&name));
            }
            let translation = |all: Option<&Treatment>| all.and_then(|all| all.translation.clone());
            if translation(old) != translation(new) {
                self.kept.remove(&name);
                self.children.push(name);
            }
        }
    }

    /// Compares the interfaces of connections whose children stay. SAs of another interface are ended; all else needs none.
    pub(super) fn compare_interfaces(&mut self, old: &Interfaces, new: &Interfaces) {
        if old == new {
            return;
        }
        let mut names: Vec<ChildName> = self.kept.iter().cloned().collect();
        names.sort();
        for name in names {
            let (old, new) = (old.get(&name.connection), new.get(&name.connection));
            if old != new && !self.changed.contains(&name.connection) {
                self.changed.push(name.connection.clone());
            }
            if old.map(|spec| &spec.name) != new.map(|spec| &spec.name) {
                self.kept.remove(&name);
                self.children.push(name);
            }
        }
    }

    fn compare_children(&mut self, old: &Connection, new: &Connection) {
        for child in &old.children {
            let name = ChildName::new(&old.name, &child.name);
            match new.children.iter().find(|other| other.name == child.name) {
                None => {
                    self.removed.push(short(&name));
                    self.children.push(name);
                }
                Some(other) if !other.is_like(child) => {
                    self.changed.push(short(&name));
                    self.children.push(name);
                }
                Some(other) => {
                    if other != child {
                        self.changed.push(short(&name));
                    }
                    self.kept.insert(name);
                }
            }
        }
        for child in &new.children {
            if !old.children.iter().any(|other| other.name == child.name) {
                self.added.push(short(&ChildName::new(&old.name, &child.name)));
            }
        }
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 10;
        let mut separator = "";
        for (what, names) in [("added", &self.added), ("changed", &self.changed), ("removed", &self.removed)]
        {
            if names.is_empty() {
                continue;
            }
            let shown: Vec<&str> = names.iter().take(SHOWN).map(String::as_str).collect();
            let more = if names.len() > SHOWN { ", ..." } else { "" };
            write!(f, "{separator}{} {what} ({}{more})", names.len(), shown.join(", "))?;
            separator = ", ";
        }
        if separator.is_empty() { f.write_str("nothing has changed") } else { Ok(()) }
    }
}

fn short(ChildName { connection, child }: &ChildName) -> String {
    format!("{connection}/{child}")
}

fn without_children(connection: &Connection) -> Connection {
    Connection { children: Vec::new(), ..connection.clone() }
}

/// The secrets of a configuration, made to be searched: there may be as many as there are IKE SAs.
pub(super) struct Secrets<'a> {
    new: &'a Configuration,
    /// By a hash that nobody outside can compute; what is found by it is compared in constant time.
    by_hash: HashMap<u64, Vec<&'a Secret>>,
    hashing: RandomState,
}

impl<'a> Secrets<'a> {
    pub(super) fn of(new: &'a Configuration) -> Self {
        let hashing = RandomState::new();
        let mut by_hash: HashMap<u64, Vec<&Secret>> = HashMap::new();
        for SharedSecret { secret, .. } in &new.secrets {
            by_hash.entry(hashing.hash_one(secret.expose())).or_default().push(secret);
        }
        Self { new, by_hash, hashing }
    }

    fn has(&self, old: &Secret) -> bool {
        let alike = self.by_hash.get(&self.hashing.hash_one(old.expose()));
        alike.is_some_and(|alike| alike.iter().any(|new| new.ct_eq(old.expose())))
    }
}

/// Does an IKE SA rest on a secret that the new configuration does not have?
pub(super) fn has_lost_its_secret(
    gateway: &Gateway,
    sa: &IkeSaView,
    connection: Option<&Connection>,
    secrets: &Secrets<'_>,
) -> bool {
    let has_ppk = |old: &PostQuantumKey| {
        secrets.new.ppks.iter().any(|new| new.ids == old.ids && new.secret.ct_eq(old.secret.expose()))
    };
    // Which one a peer chose is known only if the connection leaves it no choice.
    let id = connection.and_then(|connection| connection.ppk.id.as_ref());
    let may_be_used = |ppk: &&PostQuantumKey| id.is_none_or(|id| ppk.ids.is_empty() || ppk.ids.contains(id));
    let (Some(local), Some(remote)) = (&sa.local_id, &sa.remote_id) else { return false };
    let shared = |c: &Connection| c.local_auth == LocalAuth::Psk || c.remote_auth == RemoteAuth::Psk;
    let secret = gateway.secret_between(local, remote).filter(|_| connection.is_none_or(shared));
    secret.is_some_and(|old| !secrets.has(&old.secret))
        || (sa.ppk && !gateway.ppks().iter().filter(may_be_used).all(has_ppk))
}

/// Reads the configuration again, beside the event loop.
pub(super) struct Loader {
    file: PathBuf,
    /// It need not be there.
    optional: bool,
    loaded: UnboundedSender<Load>,
    /// Who waits for what is being read; `None` if nothing is.
    reading: Option<Vec<Reply>>,
    /// Who came while that was under way: the file may have changed since it was read.
    waiting: Vec<Option<Reply>>,
}

/// What was read.
pub(super) type Loaded = Result<config::Configuration, Diagnostics>;

impl Loader {
    /// What is read is sent to `loaded`.
    pub(super) fn new(file: PathBuf, optional: bool, loaded: UnboundedSender<Load>) -> Self {
        Self { file, optional, loaded, reading: None, waiting: Vec::new() }
    }

    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// Reads the file, now or when that is no longer under way.
    pub(super) fn read(&mut self, reply: Option<Reply>) {
        self.waiting.push(reply);
        if self.reading.is_none() {
            self.begin();
        }
    }

    /// What was read has been dealt with: tells everybody who waits for it.
    pub(super) fn done(&mut self, answer: &Message) {
        for reply in self.reading.take().unwrap_or_default() {
            reply.respond(answer.clone());
        }
        if !self.waiting.is_empty() {
            self.begin();
        }
    }

    /// Reads the file, or what a client has sent in its place, for one client.
    pub(super) fn read_for(&self, sent: Option<Sent>, job: Job) {
        let (file, loaded) = (self.file.clone(), self.loaded.clone());
        let load = if self.optional { config::load_if_there } else { config::load };
        let read = move || {
            let result = sent.map_or_else(|| load(&file), |sent| sent.load());
            // Nobody takes it once the daemon is stopping.
            drop(loaded.send(Load { loaded: result, job: Some(job) }));
        };
        if let Err(error) = std::thread::Builder::new().name("configuration".into()).spawn(read) {
            tracing::error!("a configuration cannot be read: {error}");
        }
    }

    fn begin(&mut self) {
        let (file, loaded) = (self.file.clone(), self.loaded.clone());
        let replies = std::mem::take(&mut self.waiting).into_iter().flatten().collect();
        // Nobody takes it once the daemon is stopping.
        let load = if self.optional { config::load_if_there } else { config::load };
        let read = move || drop(loaded.send(Load { loaded: load(&file), job: None }));
        match std::thread::Builder::new().name("configuration".into()).spawn(read) {
            Ok(_) => self.reading = Some(replies),
            Err(error) => {
                tracing::error!("the configuration cannot be read again: {error}");
                replies.into_iter().for_each(|reply: Reply| reply.failure(&error));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use adit_ike::config::{Action, Child};

    use super::*;

    fn child(name: &str) -> Child {
        Child { name: name.into(), ..Child::default() }
    }

    fn connection(name: &str, children: &[Child]) -> Connection {
        Connection { name: name.into(), children: children.to_vec(), ..Connection::default() }
    }

    #[test]
    fn only_what_an_sa_rests_on_touches_it() {
        let old = [
            connection("same", &[child("a"), child("b")]),
            connection("other", &[child("a")]),
            connection("gone", &[child("a")]),
            connection("inner", &[child("same"), child("other"), child("gone"), child("wish")]),
            connection("patience", &[child("a")]),
        ];
        let new = [
            connection("new", &[child("a")]),
            connection(
                "inner",
                &[
                    child("new"),
                    Child { replay_window: 64, ..child("other") },
                    child("same"),
                    Child {
                        start: true,
                        inactivity: Duration::from_secs(1),
                        on_close: Action::Start,
                        ..child("wish")
                    },
                ],
            ),
            Connection {
                tries: 3,
                dpd_delay: Duration::from_secs(1),
                ..connection("patience", &[child("a")])
            },
            Connection { encap: true, ..connection("other", &[child("a")]) },
            connection("same", &[child("a"), child("b")]),
        ];
        let none = HashMap::new();
        let changes = Changes::between((&old, &none), (&new, &none));
        assert_eq!(changes.added, ["inner/new", "new"]);
        assert_eq!(changes.changed, ["other", "inner/other", "inner/wish", "patience"]);
        assert_eq!(changes.removed, ["gone", "inner/gone"]);
        assert_eq!(changes.connections, ["other", "gone"]);
        assert_eq!(changes.children, [ChildName::new("inner", "other"), ChildName::new("inner", "gone")]);
        let kept = [("same", "a"), ("same", "b"), ("inner", "same"), ("inner", "wish"), ("patience", "a")];
        assert_eq!(changes.kept, kept.map(|(connection, child)| ChildName::new(connection, child)).into());
        let unchanged = Changes::between((&old, &none), (&old, &none));
        assert_eq!(Changes { kept: HashSet::new(), ..unchanged }, Changes::default());
        let hosts = HashMap::from([("same".to_owned(), Hosts::default())]);
        assert_eq!(Changes::between((&old, &none), (&old, &hosts)).changed, ["same"]);
    }
}
