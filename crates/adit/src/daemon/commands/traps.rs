//! `install` and `uninstall`: children that wait for packets, or do not, whatever their `start_action` says.

use std::time::Instant;

use super::{Daemon, name};
use crate::control::server::Reply;
use crate::control::vici::Message;

pub(super) fn install(daemon: &mut Daemon, now: Instant, arguments: &Message, reply: Reply) {
    answer(reply, daemon.trap(now, arguments, true));
}

pub(super) fn uninstall(daemon: &mut Daemon, now: Instant, arguments: &Message, reply: Reply) {
    answer(reply, daemon.trap(now, arguments, false));
}

fn answer(reply: Reply, done: Result<(), String>) {
    match done {
        Ok(()) => reply.success(),
        Err(why) => reply.failure(why),
    }
}

impl Daemon {
    fn trap(&mut self, now: Instant, arguments: &Message, trap: bool) -> Result<(), String> {
        let (ike, child) = (name(arguments, "ike"), name(arguments, "child"));
        let Some(child) = child else { return Err("missing configuration name: `child`".to_owned()) };
        let fits = |connection: &str| ike.as_ref().is_none_or(|ike| ike == connection);
        let shunts = || self.shunts.iter().any(|shunt| fits(&shunt.connection) && shunt.name == child);
        let connections = self.connections.iter().filter(|connection| fits(&connection.name));
        let found = connections.filter_map(|connection| {
            let child = connection.children.iter().find(|other| other.name == child)?;
            Some((connection, child))
        });
        let Some((connection, found)) = found.into_iter().next() else {
            if !shunts() {
                return Err(format!("CHILD_SA config '{child}' not found"));
            }
            // It is in force already, and stays as long as it is configured.
            let why = format!("\"{child}\" passes or drops packets as long as it is configured: unload it");
            return if trap { Ok(()) } else { Err(why) };
        };
        if found.trap == trap {
            return if trap { Ok(()) } else { Err(format!("CHILD_SA config '{child}' is not installed")) };
        }
        let dials = connection.remote_addrs.iter().any(|spec| spec.single().is_some())
            || self.hosts.get(&connection.name).is_some_and(|hosts| hosts.names().next().is_some());
        if trap && !dials {
            return Err(format!("\"{}\" has no single address to dial", connection.name));
        }
        let name = super::ChildName::new(&connection.name, &child);
        let before = self.pushed.traps.insert(name.clone(), trap);
        let all = self.pushed.beside(self.file.clone(), &[]);
        match self.put_in_force(now, all) {
            Ok(_) => Ok(()),
            Err(error) => {
                match before {
                    Some(before) => self.pushed.traps.insert(name, before),
                    None => self.pushed.traps.remove(&name),
                };
                Err(format!("the system refuses it: {error}"))
            }
        }
    }
}
