//! `list-policies`.

use std::cell::Cell;
use std::time::Instant;

use adit_esp::Action;
use adit_wire::esp::Mode;

use super::super::reconciler::ChildName;
use super::{Daemon, name};
use crate::control::report;
use crate::control::server::Reply;
use crate::control::vici::Message;

/// As strongSwan does, but for one thing: what is protected is listed whether it waits for packets or not.
pub(super) fn list_policies(daemon: &mut Daemon, now: Instant, arguments: &Message, reply: Reply) {
    let (ike, child) = (name(arguments, "ike"), name(arguments, "child"));
    let [trap, pass, drop] = ["trap", "pass", "drop"].map(|kind| arguments.flag(kind));
    let at = Cell::new(0);
    // Numbers and no copies: a client that does not read keeps its list for long.
    daemon.list(now, reply, daemon.policies.numbers(), move |daemon, reply, number, _| {
        let Some((name, policy)) = daemon.policies.child(*number) else { return };
        let wanted = match policy.action {
            Action::Protect => trap,
            Action::Bypass => pass,
            Action::Discard => drop,
        };
        if wanted
            && ike.as_ref().is_none_or(|ike| *ike == name.connection)
            && child.as_ref().is_none_or(|child| *child == name.child)
        {
            let mut message = Message::new();
            let section = report::policy(&name.connection, &name.child, policy, mode(daemon, name, &at));
            message.put_section(&format!("{}/{}", name.connection, name.child), section);
            reply.event("list-policy", message);
        }
    });
}

/// The mode of a child. Policies have about the order of the configuration: the connection is where the last one was, or
/// behind it.
fn mode(daemon: &Daemon, name: &ChildName, last: &Cell<usize>) -> Option<Mode> {
    let all = &daemon.connections;
    let is_it = |at: &usize| all.get(*at).is_some_and(|connection| connection.name == name.connection);
    let near = (last.get()..=last.get() + 1).find(is_it);
    let at = near.or_else(|| (0..all.len()).find(is_it))?;
    last.set(at);
    all.get(at)?.children.iter().find(|child| child.name == name.child).map(|child| child.mode)
}
