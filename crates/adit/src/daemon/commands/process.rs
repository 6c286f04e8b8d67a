//! Commands about the process itself: what it is, what it has done, reading its configuration again.

use std::time::Instant;

use adit_ike::IkeSaState;

use super::Daemon;
use crate::control::report;
use crate::control::server::Reply;
use crate::control::vici::Message;

pub(super) fn version(_: &mut Daemon, _: Instant, _: &Message, reply: Reply) {
    let system = rustix::system::uname();
    let mut answer = Message::new();
    answer.put("daemon", "adit").put("version", env!("CARGO_PKG_VERSION"));
    answer.put("sysname", system.sysname().to_bytes());
    answer.put("release", system.release().to_bytes());
    answer.put("machine", system.machine().to_bytes());
    reply.respond(answer);
}

pub(super) fn stats(daemon: &mut Daemon, now: Instant, _: &Message, reply: Reply) {
    daemon.tell_stats(now, reply);
}

/// In the shape `swanctl --stats` prints, whose workers and queues Adit does not have; then Adit's own counters.
pub(in super::super) fn answer_stats(daemon: &Daemon, now: Instant, reply: Reply) {
    let none = |classes: &[&str]| {
        let mut section = Message::new();
        for class in classes {
            section.put(class, "0");
        }
        section
    };
    let classes = ["critical", "high", "medium", "low"];
    let mut workers = none(&["total", "idle"]);
    workers.put_section("active", none(&classes));
    let (mut total, mut half_open) = (0_u64, 0_u64);
    for sa in daemon.gateway.ike_sas() {
        total += 1;
        half_open += u64::from(sa.state == IkeSaState::Connecting && !sa.initiator);
    }
    let mut ike_sas = Message::new();
    ike_sas.put_display("total", total).put_display("half-open", half_open);

    let mut answer = Message::new();
    answer.put_section(
        "uptime",
        report::uptime(now.saturating_duration_since(daemon.started), daemon.started_at),
    );
    answer.put_section("workers", workers);
    answer.put_section("queues", none(&classes));
    answer.put("scheduled", "0");
    answer.put_section("ikesas", ike_sas);
    answer.put_list::<&str>("plugins", []);

    let clients = daemon.hub.counters();
    let mut control = Message::new();
    control.put_display("connected", clients.connected).put_display("accepted", clients.accepted);
    control.put_display("refused", clients.refused).put_display("stuck", clients.stuck);
    answer.put_section("control", control);
    let plane = &daemon.counts.last;
    let mut data_plane = Message::new();
    data_plane.put_display("ike-received", plane.ike_received);
    let overflow = daemon.inbox.0.dropped.load(std::sync::atomic::Ordering::Relaxed);
    data_plane.put_display("ike-overflow", overflow);
    data_plane.put_display("keepalives-received", plane.keepalives_received);
    data_plane.put_display("fenced-in", plane.fenced_in).put_display("fenced-out", plane.fenced_out);
    let mut drops = Message::new();
    for (cause, count) in &plane.drops {
        drops.put_display(cause.as_str(), count);
    }
    data_plane.put_section("drops", drops);
    answer.put_section("data-plane", data_plane);
    reply.respond(answer);
}

/// Adit's own, and what `swanctl --reload-settings` asks for: reads the configuration again.
pub(super) fn reload(daemon: &mut Daemon, _: Instant, _: &Message, reply: Reply) {
    daemon.loader.read(Some(reply));
}
