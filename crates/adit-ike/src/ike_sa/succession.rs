//! What an IKE SA knows of the one that takes its place: when the peers authenticate anew (RFC 7296 2.8.3, RFC 4478),
//! and when it is one too many. Which one that is, only the gateway knows.

use std::time::{Duration, Instant};

use adit_wire::ikev2::{Notify, NotifyType, Payload};
use tracing::info;

use super::closing::CLOSING_PATIENCE;
use super::create_child::lowest;
use super::established::Established;
use super::{Contents, Core};
use crate::output::{DownReason, IkeSaHandle, Output};
use crate::shared::{Effect, Shared};

/// A peer that wants re-authentication at once, again and again, does not get it more often.
const LEAST_AGE: Duration = Duration::from_secs(5);

/// By how much re-authentication comes before the peer's limit: a tenth of it, at most this, and at random up to twice
/// that.
const MOST_EARLY: Duration = Duration::from_secs(300);

/// A responder uses a child that it has on another IKE SA already when the peer does, at the latest then.
pub(crate) const SWITCH: Duration = Duration::from_secs(10);

/// An IKE SA and those before and after it.
#[derive(Debug)]
pub(crate) struct Succession {
    /// When the peers authenticated each other.
    pub(crate) authenticated: Option<Instant>,
    /// When a new one is dialled to take its place.
    pub(crate) reauth_at: Option<Instant>,
    /// When it ends if the peers have not authenticated anew.
    pub(crate) ends_at: Option<Instant>,
    /// It goes then, if another one with the same peer is there.
    pub(crate) redundant_at: Option<Instant>,
    /// Its children are used from then on.
    pub(crate) switch_at: Option<Instant>,
    /// The one that it was dialled to take the place of.
    pub(crate) replaces: Option<IkeSaHandle>,
    /// The one that is dialled to take its place.
    pub(crate) successor: Option<IkeSaHandle>,
    /// All that the one before it has was asked for once more.
    pub(crate) complete: bool,
    /// Those that failed, in a row.
    pub(crate) failures: u32,
    /// The lower nonce of its first exchange, which decides where both sides dial at once.
    pub(crate) lowest_nonce: Box<[u8]>,
    /// Why it goes if we delete it.
    pub(crate) reason: DownReason,
}

impl Default for Succession {
    fn default() -> Self {
        Self {
            authenticated: None,
            reauth_at: None,
            ends_at: None,
            redundant_at: None,
            switch_at: None,
            replaces: None,
            successor: None,
            complete: false,
            failures: 0,
            lowest_nonce: Box::default(),
            reason: DownReason::DeletedByUs,
        }
    }
}

impl Succession {
    pub(super) fn deadline(&self) -> Option<Instant> {
        [self.reauth_at, self.ends_at, self.redundant_at, self.switch_at].into_iter().flatten().min()
    }
}

impl Core {
    /// The peers have authenticated each other, in an exchange with these nonces.
    pub(super) fn authenticated(&mut self, cx: &mut Shared, nonces: (&[u8], &[u8])) {
        let lifetime = self.connection.reauth;
        let (soft, hard) = cx.lifetime(lifetime);
        let s = &mut self.succession;
        s.authenticated = Some(cx.now);
        s.lowest_nonce = lowest(nonces.0, nonces.1).into();
        // RFC 4478 2: it is the initiator that authenticates anew; a responder says so and waits.
        s.reauth_at = soft.filter(|_| self.dialled);
        s.ends_at = hard.or_else(|| soft.filter(|_| !self.dialled).map(|_| cx.now + lifetime.soft));
    }

    /// AUTH_LIFETIME in an IKE_AUTH response of ours (RFC 4478 2).
    pub(super) fn auth_lifetime(&self) -> Option<Payload> {
        let lifetime = self.connection.reauth.soft;
        let seconds = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX).to_be_bytes().to_vec();
        (!lifetime.is_zero()).then(|| Payload::Notify(Notify::new(NotifyType::AUTH_LIFETIME, seconds)))
    }

    /// The responder may say how long it takes us for whom it authenticated (RFC 4478 2); its last word counts. Our own
    /// limits stay.
    pub(super) fn heed_auth_lifetime(&mut self, cx: &mut Shared, c: &Contents<'_>) {
        let seconds = c.notify(NotifyType::AUTH_LIFETIME).filter(|_| self.dialled);
        let seconds = seconds.and_then(|n| <[u8; 4]>::try_from(n.data.as_slice()).ok());
        let Some(lifetime) = seconds.map(|s| Duration::from_secs(u32::from_be_bytes(s).into())) else {
            return;
        };
        let margin = (lifetime / 10).min(MOST_EARLY);
        let early = margin + margin.mul_f64(cx.fraction());
        let at = (cx.now + (lifetime - early)).max(self.begun + LEAST_AGE);
        let s = &mut self.succession;
        s.reauth_at = Some(s.reauth_at.map_or(at, |own| own.min(at)));
        // Zero: at once, with a reasonable time for it.
        if !lifetime.is_zero() {
            let end = cx.now + lifetime;
            s.ends_at = Some(s.ends_at.map_or(end, |own| own.min(end)));
        }
    }

    /// The peer will not let a child, or the IKE SA, live on here: a new IKE SA may be in time, if there is any limit to be in time for.
    pub(super) fn replace_before(&mut self, cx: &mut Shared, limit: Option<Instant>) {
        let Some(limit) = limit.filter(|_| self.dialled && self.succession.successor.is_none()) else {
            return;
        };
        let at = cx.now + limit.saturating_duration_since(cx.now).mul_f64(cx.fraction() / 2.0);
        let s = &mut self.succession;
        s.reauth_at = Some(s.reauth_at.map_or(at, |planned| planned.min(at)));
    }
}

impl Established {
    /// Does what is due about those before and after it.
    pub(super) fn succession_timeout(&mut self, core: &mut Core, cx: &mut Shared) {
        let now = cx.now;
        let due = |at: &mut Instant| *at <= now;
        let s = &mut core.succession;
        if s.reauth_at.take_if(due).is_some() {
            cx.effects.push(Effect::Reauthenticate(core.handle));
        }
        if s.redundant_at.take_if(due).is_some() {
            cx.effects.push(Effect::Redundant(core.handle));
        }
        if s.switch_at.take_if(due).is_some() {
            for child in self.children.iter().filter(|c| cx.waiting.remove(&c.handle)) {
                cx.outputs.push_back(Output::SwitchChild(child.handle));
            }
        }
        if s.ends_at.take_if(due).is_some() {
            // RFC 4478 2: whoever does not authenticate anew is put out.
            let superseded = cx.is_superseded(core.handle);
            s.reason = if superseded { DownReason::Reauthenticated } else { DownReason::Expired };
            if !superseded {
                info!(
                    "connection \"{}\": the peers have not authenticated anew in time",
                    core.connection.name
                );
            }
            self.closing.get_or_insert(now + CLOSING_PATIENCE);
        }
    }
}
