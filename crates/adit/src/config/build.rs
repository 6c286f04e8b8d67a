//! From checked values to what the machines take, and the checks that need more than one value.

use std::time::Duration;

use adit_ike::config::{AddressSpec, Child, Connection, SelectorSpec, SharedSecret};
use adit_ike::identity::{Identity, IdentityPattern};
use adit_wire::ikev2::{EsnId, Proposal, TransformType};

use super::check::Checked;
use super::diagnostic::{Diagnostics, Problem};
use super::load::GatewaySettings;
use super::source::{Sources, Span};
use super::values::{ControlUri, Value};

/// Builds one configuration.
pub(super) struct Builder<'d> {
    sources: &'d Sources,
    diagnostics: &'d mut Diagnostics,
}

impl<'d> Builder<'d> {
    pub(super) fn new(sources: &'d Sources, diagnostics: &'d mut Diagnostics) -> Self {
        Self { sources, diagnostics }
    }

    /// What is missing or wrong is reported and filled with defaults; the result is used only if nothing was.
    pub(super) fn build(
        &mut self,
        mut root: Checked,
    ) -> (GatewaySettings, Vec<Connection>, Vec<SharedSecret>) {
        let gateway = root.take_sections("gateway").into_iter().next();
        let gateway = self.gateway(gateway.unwrap_or_else(Checked::empty_gateway));
        let mut secrets = Vec::new();
        for mut section in root.take_sections("secrets") {
            for section in section.take_sections("ike*") {
                secrets.extend(self.secret(section));
            }
        }
        let mut connections = Vec::new();
        for mut section in root.take_sections("connections") {
            for section in section.take_sections("*") {
                connections.push(self.connection(section, &gateway, &secrets));
            }
        }
        (gateway, connections, secrets)
    }

    fn error(&mut self, problem: Problem) {
        self.diagnostics.error(self.sources, problem);
    }

    fn gateway(&mut self, mut section: Checked) -> GatewaySettings {
        let ports = (section.span_of("ike_port"), section.span_of("nat_t_port"));
        let table = section.span_of("routing_table");
        let half_open = section.span_of("half_open_timeout");
        let settings = GatewaySettings {
            control: match section.one("control") {
                Some(Value::Control(control)) => control,
                _ => ControlUri::default(),
            },
            tun: section.text("tun"),
            mtu: section.small("mtu"),
            routing_table: section.number("routing_table"),
            rule_priority: section.number("rule_priority"),
            mark: section.number("mark"),
            key_log: match section.one("key_log") {
                Some(Value::Path(path)) => Some(path),
                _ => None,
            },
            cookie_threshold: usize::try_from(section.number("cookie_threshold")).unwrap_or(usize::MAX),
            half_open_timeout: section.time("half_open_timeout"),
            ike_port: section.small("ike_port").unwrap_or(500),
            nat_t_port: section.small("nat_t_port").unwrap_or(4500),
            workers: section.small("workers").map(usize::from),
            log: section.word("log"),
        };
        if settings.ike_port == settings.nat_t_port
            && let Some(span) = ports.1.or(ports.0)
        {
            let problem = Problem::new(span, "gateway.nat_t_port", "the same port as `ike_port`");
            self.error(problem.expected("two different ports").note("the other one", ports.0));
        }
        if let (253..=255, Some(span)) = (settings.routing_table, table) {
            let problem = Problem::new(span, "gateway.routing_table", "this table belongs to the system");
            self.error(problem.expected("any other number than 253, 254 and 255"));
        }
        if let (true, Some(span)) = (settings.half_open_timeout.is_zero(), half_open) {
            let problem = Problem::new(span, "gateway.half_open_timeout", "no peer can answer in no time");
            self.error(problem.expected("at least `1s`"));
        }
        settings
    }

    fn secret(&mut self, mut section: Checked) -> Option<SharedSecret> {
        let Some(Value::Secret(secret)) = section.one("secret") else {
            if section.span_of("secret").is_none() && !self.reported(&section) {
                let problem = Problem::new(section.span, section.path.clone(), "there is no `secret`");
                self.error(problem.expected("`secret = ...` in this section"));
            }
            return None;
        };
        let owners = section.take("id*").into_iter().filter_map(|(value, _)| match value {
            Value::Pattern(pattern) => Some(pattern),
            _ => None,
        });
        Some(SharedSecret { name: section.name.clone(), owners: owners.collect(), secret })
    }

    /// Is something inside this section reported already, so that it seems to lack what is merely wrong?
    fn reported(&self, section: &Checked) -> bool {
        let inside = format!("{}.", section.path);
        self.diagnostics.errors.iter().any(|error| error.key.starts_with(&inside))
    }

    fn connection(
        &mut self,
        mut section: Checked,
        gateway: &GatewaySettings,
        secrets: &[SharedSecret],
    ) -> Connection {
        let path = section.path.clone();
        let span = section.span;
        let (local_span, remote_span) = (section.span_of("local_addrs"), section.span_of("remote_addrs"));
        let local_port_span = section.span_of("local_port");
        let local_port =
            section.small("local_port").filter(|_| local_port_span.is_some()).unwrap_or(gateway.ike_port);
        if let Some(span) = local_port_span
            && ![gateway.ike_port, gateway.nat_t_port].contains(&local_port)
        {
            let problem =
                Problem::new(span, format!("{path}.local_port"), "the gateway does not listen on this port");
            self.error(problem.expected(format!("`{}` or `{}`", gateway.ike_port, gateway.nat_t_port)));
        }
        let local = self.round(&mut section, "local*", "local");
        let remote = self.round(&mut section, "remote*", "remote");
        let (auth, local_id) = match local {
            Some(Round { auth, id: Some(Value::Identity(identity)) }) => (auth, Some(identity)),
            Some(Round { auth, .. }) => (auth, None),
            None => (None, None),
        };
        let remote_id = match remote.and_then(|round| round.id) {
            Some(Value::Pattern(pattern)) => pattern,
            _ => IdentityPattern::Any,
        };
        let local_addrs = section.addresses("local_addrs");
        let remote_addrs = section.addresses("remote_addrs");
        let families = families(&remote_addrs);
        if !overlap(families, self::families(&local_addrs)) {
            let at = local_span.or(remote_span).unwrap_or(span);
            let problem = Problem::new(
                at,
                format!("{path}.local_addrs"),
                "no address family in common with the peer's",
            );
            self.error(
                problem.expected("addresses of one family on both sides").note("the peer's", remote_span),
            );
        }
        let secrets_are_known = !self.diagnostics.errors.iter().any(|error| error.key.starts_with("secrets"));
        if let Some(auth) = auth
            && secrets_are_known
            && !has_secret(secrets, local_id.as_ref(), &local_addrs, &remote_id)
        {
            let problem = Problem::new(auth, format!("{path}.local.auth"), "no secret fits this connection");
            let problem =
                problem.expected("a section `secrets.ike...` that names the peer, or only us, or nobody");
            self.diagnostics.warning(self.sources, problem);
        }
        // A misspelt `remote_addrs` is reported already.
        let can_dial = (remote_span.is_none() && self.reported(&section))
            || remote_addrs.iter().any(|address| address.single().is_some());
        let mut children = Vec::new();
        for mut group in section.take_sections("children") {
            for child in group.take_sections("*") {
                let start_span = child.span_of("start_action");
                // Two places, because of several findings at one only the first is told.
                let places = (
                    child.span_of("local_ts").or(local_span).unwrap_or(child.span),
                    child.span_of("remote_ts").or(remote_span).unwrap_or(span),
                );
                let child = self.child(child);
                let own = format!("{path}.children.{}", child.name);
                // What is missing because it is misspelt is reported already.
                if self.diagnostics.errors.is_empty() {
                    self.unresolved(
                        &child,
                        &own,
                        places,
                        (&local_addrs, local_span),
                        (&remote_addrs, remote_span),
                    );
                }
                if child.start && !can_dial {
                    let at = start_span.unwrap_or(span);
                    let message = "the child cannot be started: the connection has no single address to dial";
                    let problem =
                        Problem::new(at, format!("{path}.children.{}.start_action", child.name), message);
                    self.error(match remote_span {
                        Some(_) => {
                            problem.expected("an address in `remote_addrs`").note("remote_addrs", remote_span)
                        }
                        None => problem.expected("`remote_addrs = <address>` in the connection"),
                    });
                }
                children.push(child);
            }
        }
        Connection {
            local_addrs,
            remote_addrs,
            local_port,
            remote_port: section.small("remote_port").unwrap_or(500),
            proposals: section.proposals("proposals"),
            local_id,
            remote_id,
            encap: section.flag("encap"),
            dpd_delay: section.time("dpd_delay"),
            mobike: false,
            children,
            name: section.name,
            ..Connection::default()
        }
    }

    /// Points out `dynamic` where the configuration does not tell the address.
    fn unresolved(
        &mut self,
        child: &Child,
        path: &str,
        places: (Span, Span),
        (local_addrs, local_span): (&[AddressSpec], Option<Span>),
        (remote_addrs, remote_span): (&[AddressSpec], Option<Span>),
    ) {
        let is_single = |address: &AddressSpec| address.single().is_some();
        if has_dynamic(&child.local_ts) && local_addrs.is_empty() {
            let message = "as `local_addrs` does not tell our address, `dynamic` is every address: \
                           whatever goes to `remote_ts` from anywhere is held back";
            let problem = Problem::new(places.0, format!("{path}.local_ts"), message)
                .expected("our address in `local_addrs`, or a network in `local_ts`")
                .note("local_addrs", local_span);
            self.diagnostics.warning(self.sources, problem);
        }
        if has_dynamic(&child.remote_ts) && (remote_addrs.is_empty() || !remote_addrs.iter().all(is_single)) {
            let message = "as `remote_addrs` does not tell the peer's address, traffic to `dynamic` is not protected \
                           before the first SA with that peer";
            let problem = Problem::new(places.1, format!("{path}.remote_ts"), message)
                .expected("the peer's address in `remote_addrs`, or a network in `remote_ts`")
                .note("remote_addrs", remote_span);
            self.diagnostics.warning(self.sources, problem);
        }
    }

    /// The one authentication round of a side.
    fn round(&mut self, section: &mut Checked, kind: &str, side: &str) -> Option<Round> {
        let mut rounds = section.take_sections(kind).into_iter();
        let Some(mut round) = rounds.next() else {
            if !self.reported(section) {
                let problem =
                    Problem::new(section.span, section.path.clone(), format!("there is no section `{side}`"));
                self.error(problem.expected(format!("`{side} {{ auth = psk }}` in this section")));
            }
            return None;
        };
        for other in rounds {
            let problem =
                Problem::new(other.span, other.path, "several authentication rounds are not done yet");
            self.error(
                problem.expected(format!("one `{side}` section")).note("the first round", Some(round.span)),
            );
        }
        let auth = round.span_of("auth");
        if auth.is_none() && !self.reported(&round) {
            let problem = Problem::new(round.span, round.path.clone(), "there is no `auth`")
                .expected("`auth = psk` in this section")
                .note("strongSwan takes its absence for `auth = pubkey`, which is not done yet", None);
            self.error(problem);
        }
        Some(Round { auth, id: round.one("id") })
    }

    fn child(&mut self, mut section: Checked) -> Child {
        let path = section.path.clone();
        let window_span = section.span_of("replay_window");
        let proposals_span = section.span_of("esp_proposals");
        let (local_span, remote_span) = (section.span_of("local_ts"), section.span_of("remote_ts"));
        let child = Child {
            proposals: section.proposals("esp_proposals"),
            local_ts: section.selectors("local_ts"),
            remote_ts: section.selectors("remote_ts"),
            replay_window: section.number("replay_window"),
            start: section.word("start_action") == "start",
            name: section.name.clone(),
            ..Child::default()
        };
        if let (0, Some(span)) = (child.replay_window, window_span)
            && child.proposals.iter().any(offers_esn)
        {
            // RFC 4303 3.3.3: the receiver tracks extended sequence numbers with the window.
            let problem = Problem::new(
                span,
                format!("{path}.replay_window"),
                "extended sequence numbers need a replay window",
            );
            let problem = problem.expected("a window, or `esp_proposals` with `noesn`");
            self.error(match proposals_span {
                Some(_) => problem.note("`esn` is offered here", proposals_span),
                None => problem.note("the default `esp_proposals` offer `esn`", None),
            });
        }
        let family = |selectors: &[SelectorSpec]| {
            let is_v4 = |selector: &SelectorSpec| match selector {
                SelectorSpec::Fixed(selector) => Some(selector.start.is_ipv4()),
                SelectorSpec::Dynamic { .. } => None,
            };
            let v4 = selectors.iter().any(|selector| is_v4(selector) != Some(false));
            (v4, selectors.iter().any(|selector| is_v4(selector) != Some(true)))
        };
        if let Some(span) = remote_span.or(local_span)
            && !child.local_ts.is_empty()
            && !child.remote_ts.is_empty()
            && !overlap(family(&child.local_ts), family(&child.remote_ts))
        {
            let message = "no address family in common with the other side: nothing could pass";
            let problem = Problem::new(span, format!("{path}.remote_ts"), message);
            self.error(
                problem.expected("selectors of one family on both sides").note("local_ts", local_span),
            );
        }
        child
    }
}

/// The parts of an authentication round that matter.
struct Round {
    auth: Option<Span>,
    id: Option<Value>,
}

/// IPv4, IPv6.
fn families(addresses: &[AddressSpec]) -> (bool, bool) {
    let v4 = addresses.is_empty() || addresses.iter().any(|address| address.first.is_ipv4());
    (v4, addresses.is_empty() || addresses.iter().any(|address| address.first.is_ipv6()))
}

fn overlap(a: (bool, bool), b: (bool, bool)) -> bool {
    (a.0 && b.0) || (a.1 && b.1)
}

fn has_dynamic(selectors: &[SelectorSpec]) -> bool {
    selectors.iter().any(|selector| matches!(selector, SelectorSpec::Dynamic { .. }))
}

fn offers_esn(proposal: &Proposal) -> bool {
    let esn = |transform: &adit_wire::ikev2::Transform| {
        transform.transform_type == TransformType::ESN && transform.id == EsnId::ESN.0
    };
    proposal.transforms.iter().any(esn)
}

/// Could any secret be the one of a connection? Says no only when it is certain.
fn has_secret(
    secrets: &[SharedSecret],
    local_id: Option<&Identity>,
    local_addrs: &[AddressSpec],
    remote_id: &IdentityPattern,
) -> bool {
    let local = local_id.cloned().or_else(|| match local_addrs {
        [address] => address.single().map(Identity::address),
        _ => None,
    });
    let (Some(local), Some(remote)) = (local, remote_id.exact()) else { return !secrets.is_empty() };
    secrets.iter().any(|secret| secret.is_between(&local, remote))
}

/// Values by type. The table says which key holds which; a test loads every key.
impl Checked {
    fn number(&mut self, key: &str) -> u32 {
        match self.one(key) {
            Some(Value::Integer(number)) => u32::try_from(number).unwrap_or(u32::MAX),
            _ => 0,
        }
    }

    fn small(&mut self, key: &str) -> Option<u16> {
        match self.one(key) {
            Some(Value::Integer(number)) => u16::try_from(number).ok(),
            _ => None,
        }
    }

    fn time(&mut self, key: &str) -> Duration {
        match self.one(key) {
            Some(Value::Time(time)) => time,
            _ => Duration::ZERO,
        }
    }

    fn flag(&mut self, key: &str) -> bool {
        matches!(self.one(key), Some(Value::Bool(true)))
    }

    fn word(&mut self, key: &str) -> &'static str {
        match self.one(key) {
            Some(Value::Word(word)) => word,
            _ => "",
        }
    }

    fn text(&mut self, key: &str) -> String {
        match self.one(key) {
            Some(Value::Text(text)) => text,
            _ => String::new(),
        }
    }

    fn addresses(&mut self, key: &str) -> Vec<AddressSpec> {
        match self.one(key) {
            Some(Value::Addresses(addresses)) => addresses,
            _ => Vec::new(),
        }
    }

    fn proposals(&mut self, key: &str) -> Vec<Proposal> {
        match self.one(key) {
            Some(Value::Proposals(proposals)) => proposals,
            _ => Vec::new(),
        }
    }

    fn selectors(&mut self, key: &str) -> Vec<SelectorSpec> {
        match self.one(key) {
            Some(Value::Selectors(selectors)) => selectors,
            _ => Vec::new(),
        }
    }
}
