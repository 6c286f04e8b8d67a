//! Negotiations as vici messages: Adit's event `list-negotiation`, and the event `alert`, which has strongSwan's names.

use std::time::Instant;

use adit_ike::{Blame, Difference, IkeSaView, NegotiationRecord, Notice, NoticeKind, OutcomeCode, Stage};
use adit_wire::ikev2::Proposal;

use super::report::{ike_sa, ike_sa_name, kebab, seconds};
use super::vici::Message;

/// A failure that is remembered.
#[must_use]
pub fn negotiation(record: &NegotiationRecord, (count, first): (u64, Instant), now: Instant) -> Message {
    let mut message = Message::new();
    message.put_display("ago", seconds(now, record.at));
    message.put_display("first-ago", seconds(now, first)).put_display("count", count);
    message.put("code", record.code.name()).put("stage", record.stage.name());
    message.put("blame", kebab(&record.blame));
    put_names(&mut message, record);
    message.put_flag("initiator", record.initiator);
    message.put_display("local-host", record.local.ip());
    message.put_display("local-port", record.local.port());
    message.put_display("remote-host", record.remote.ip());
    message.put_display("remote-port", record.remote.port());
    for (side, id) in [("local", &record.local_id), ("remote", &record.remote_id)] {
        if let Some(id) = id {
            message.put_display(&format!("{side}-id"), id);
            message.put_display(&format!("{side}-id-type"), id.id_type());
        }
    }
    message.put_list("accepted-ids", &record.accepted_ids);
    message.put_list("our-proposals", &record.our_proposals);
    message.put_list("peer-proposals", &record.peer_proposals);
    if let Some(chosen) = &record.chosen {
        message.put_display("chosen", chosen);
    }
    message.put_list("our-local-ts", &record.our_selectors.0);
    message.put_list("our-remote-ts", &record.our_selectors.1);
    message.put_list("peer-local-ts", &record.peer_selectors.0);
    message.put_list("peer-remote-ts", &record.peer_selectors.1);
    if let Some(notify) = record.notify {
        message.put_display("notify", notify);
    }
    put_meaning(&mut message, record);
    message.put("message", &record.message);
    message
}

/// The event `alert` of a negotiation, unless it is nothing to be alarmed about.
#[must_use]
pub fn alert(record: &NegotiationRecord) -> Option<Message> {
    let mut message = Message::new();
    message.put("type", alert_type(record)?);
    message.put("code", record.code.name()).put("stage", record.stage.name());
    put_names(&mut message, record);
    message.put_display("local-host", record.local.ip()).put_display("local-port", record.local.port());
    message.put_display("remote-host", record.remote.ip()).put_display("remote-port", record.remote.port());
    let notation = |proposals: &[Proposal]| -> Vec<String> {
        proposals.iter().map(|p| adit_ike::proposal::Notation(p).to_string()).collect()
    };
    let texts = |selectors: &[_]| -> Vec<String> { selectors.iter().map(ToString::to_string).collect() };
    let (ours, theirs) = match record.code {
        OutcomeCode::TsUnacceptable | OutcomeCode::Narrowed => {
            let ((our_local, our_remote), (local, remote)) = (&record.our_selectors, &record.peer_selectors);
            ([texts(our_local), texts(our_remote)].concat(), [texts(local), texts(remote)].concat())
        }
        _ => (notation(&record.our_proposals), notation(&record.peer_proposals)),
    };
    message.put_list("ours", ours).put_list("theirs", theirs);
    put_meaning(&mut message, record);
    Some(message)
}

/// The event `alert` of something seen on the wire, with the IKE SA that it is about.
#[must_use]
pub fn notice(notice: &Notice, sa: Option<&IkeSaView>, now: Instant) -> Message {
    let mut message = Message::new();
    message.put(
        "type",
        match notice.kind {
            NoticeKind::MalformedHeader => "parse-error-header",
            NoticeKind::MalformedBody => "parse-error-body",
            NoticeKind::UnknownSpi => "invalid-ike-spi",
            NoticeKind::SentAgain => "retransmit-send",
            NoticeKind::ReceivedAgain => "retransmit-receive",
        },
    );
    if let Some(connection) = &notice.connection {
        message.put("connection", connection);
    }
    if let Some(exchange) = notice.exchange {
        message.put_display("exchange", exchange);
    }
    message.put_display("local-host", notice.local.ip()).put_display("local-port", notice.local.port());
    message.put_display("remote-host", notice.remote.ip()).put_display("remote-port", notice.remote.port());
    message.put("cause", &notice.message);
    if let Some(sa) = sa {
        put_ike_sa(&mut message, sa, now);
    }
    message
}

/// strongSwan's section of an alert that is about an IKE SA.
pub fn put_ike_sa(message: &mut Message, sa: &IkeSaView, now: Instant) {
    let mut sas = Message::new();
    sas.put_section(ike_sa_name(sa), ike_sa(sa, now));
    message.put_section("ike-sa", sas);
}

/// strongSwan's type where one fits, else our code.
fn alert_type(record: &NegotiationRecord) -> Option<&'static str> {
    let of_child = record.stage == Stage::ChildSa;
    Some(match record.code {
        OutcomeCode::Success | OutcomeCode::Cancelled => return None,
        OutcomeCode::Narrowed => "ts-narrowed",
        OutcomeCode::NoProposalChosen | OutcomeCode::InvalidKe if of_child => "proposal-mismatch-child",
        OutcomeCode::NoProposalChosen | OutcomeCode::InvalidKe => "proposal-mismatch-ike",
        OutcomeCode::TsUnacceptable => "ts-mismatch",
        OutcomeCode::IdentityMismatch
        | OutcomeCode::AuthenticationFailed
        | OutcomeCode::BadCertificate
        | OutcomeCode::IdentityNotInCertificate
        | OutcomeCode::SignatureInvalid => "peer-auth-failed",
        OutcomeCode::Untrusted => "cert-untrusted-root",
        OutcomeCode::Expired => "cert-expired",
        OutcomeCode::Revoked => "cert-revoked",
        OutcomeCode::RevocationUnknown => "cert-validation-failed",
        OutcomeCode::AuthMethodRefused | OutcomeCode::NoCertificate | OutcomeCode::NoPrivateKey
            if record.blame == Blame::OurConfiguration =>
        {
            "local-auth-failed"
        }
        OutcomeCode::AuthMethodRefused | OutcomeCode::NoCertificate | OutcomeCode::NoPrivateKey => {
            "peer-auth-failed"
        }
        OutcomeCode::NoSharedSecret if record.initiator => "local-auth-failed",
        OutcomeCode::NoSharedSecret => "peer-auth-failed",
        OutcomeCode::RefusedByPeer if record.stage == Stage::IkeAuth => "local-auth-failed",
        OutcomeCode::NotUnique => "unique-keep",
        OutcomeCode::InvalidSyntax | OutcomeCode::UnsupportedCriticalPayload => "parse-error-body",
        OutcomeCode::Timeout if !record.initiator && !of_child => "half-open-timeout",
        OutcomeCode::Timeout if record.stage == Stage::IkeSaInit => "peer-init-unreachable",
        OutcomeCode::Timeout => "retransmit-send-timeout",
        OutcomeCode::DataPlane => "install-child-sa-failed",
        OutcomeCode::UnknownPeer
        | OutcomeCode::OtherVersion
        | OutcomeCode::NotPostQuantum
        | OutcomeCode::RefusedByPeer => record.code.name(),
    })
}

fn put_names(message: &mut Message, record: &NegotiationRecord) {
    if let Some(connection) = &record.connection {
        message.put("connection", connection);
    }
    if let Some(child) = &record.child {
        message.put("child", child);
    }
}

/// What differs, why it failed, and what to do.
fn put_meaning(message: &mut Message, record: &NegotiationRecord) {
    if let Some(difference) = record.difference() {
        message.put("difference", Difference::name(&difference));
        message.put_display("difference-text", difference);
        message.put_flag("inferred", record.inferred);
    }
    message.put("cause", record.cause()).put("step", record.step());
}
