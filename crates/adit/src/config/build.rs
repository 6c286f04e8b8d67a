//! From checked values to what the machines take, and the checks that need more than one value.

mod certificates;
mod interfaces;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_cert::Certificate;
use adit_crypto::Secret;
use adit_esp as esp;
use adit_esp::Mss;
use adit_esp::translate::{Renumbering, Translation};
use adit_esp::tunnel::{DontFragment, Dscp, OuterPolicy, Tfc};
use adit_ike::config::{
    Action, AddressSpec, Child, ChildLimits, Childless, Configuration, Connection, Fragmentation, Lifetime,
    PostQuantumKey, PpkPolicy, RemoteAuth, Resources, Retransmission, SelectorSpec, SendCert, SharedSecret,
    Unique, Volume,
};
use adit_ike::identity::{Identity, IdentityPattern};
use adit_net::{Iptfs, Treatment};
use adit_wire::esp::Mode;
use adit_wire::ikev2::{EsnId, KeId, Proposal, TrafficSelector, TransformType};

use self::interfaces::Mention;
use super::check::Checked;
use super::diagnostic::{Diagnostics, Problem};
use super::hosts::{Host, Hosts};
use super::load::{GatewaySettings, Interfaces, Shunt, Treatments};
use super::shelf::Shelf;
use super::source::{Sources, Span};
use super::values::{Auth, ControlUri, Value};

/// Builds one configuration.
pub(super) struct Builder<'d> {
    sources: &'d Sources,
    diagnostics: &'d mut Diagnostics,
    pub(super) treatments: Treatments,
    pub(super) interfaces: Interfaces,
    mentions: Vec<Mention>,
    pub(super) shelf: Shelf<'d>,
    /// Certificates beside the configuration that may be ours.
    own: Vec<Certificate>,
    /// Certificates that lead from those that are named to authorities.
    between: Vec<Certificate>,
}

impl<'d> Builder<'d> {
    pub(super) fn new(sources: &'d Sources, diagnostics: &'d mut Diagnostics, shelf: Shelf<'d>) -> Self {
        Self {
            sources,
            diagnostics,
            treatments: Treatments::new(),
            interfaces: Interfaces::new(),
            mentions: Vec::new(),
            shelf,
            own: Vec::new(),
            between: Vec::new(),
        }
    }

    /// What is missing or wrong is reported and filled with defaults; the result is used only if nothing was.
    pub(super) fn build(
        &mut self,
        mut root: Checked,
    ) -> (GatewaySettings, Configuration, HashMap<String, Hosts>, Vec<Shunt>) {
        let gateway = root.take_sections("gateway").into_iter().next();
        let gateway = self.gateway(gateway.unwrap_or_else(Checked::empty_gateway));
        let (configuration, hosts, shunts) = self.parts(root, &gateway, &Configuration::default());
        (gateway, configuration, hosts, shunts)
    }

    /// Everything but the section `gateway`. Connections may rest on secrets that are `known` already.
    pub(super) fn parts(
        &mut self,
        mut root: Checked,
        gateway: &GatewaySettings,
        known: &Configuration,
    ) -> (Configuration, HashMap<String, Hosts>, Vec<Shunt>) {
        let mut configuration = Configuration::default();
        let (mut named, mut shunts) = (HashMap::new(), Vec::new());
        let mut secrets = root.take_sections("secrets").into_iter().next();
        if let Some(section) = &mut secrets {
            for section in section.take_sections("ike*") {
                configuration.secrets.extend(self.secret(section));
            }
            for section in section.take_sections("ppk*") {
                configuration.ppks.extend(self.ppk(section));
            }
        }
        let authorities =
            root.take_sections("authorities").into_iter().flat_map(|mut all| all.take_sections("*"));
        let authorities: Vec<Checked> = authorities.collect();
        self.credentials(secrets.as_mut(), authorities, &mut configuration);
        for mut section in root.take_sections("connections") {
            for mut section in section.take_sections("*") {
                let (own, children) = self.split(&mut section);
                let only_shunts = children.is_empty() && !own.is_empty();
                shunts.extend(own);
                if only_shunts {
                    // Nobody is talked to, so nobody has to be named.
                    continue;
                }
                self.interface(&mut section, &children, gateway);
                let (connection, hosts) =
                    self.connection(section, children, gateway, [known, &configuration]);
                if hosts.names().next().is_some() {
                    named.insert(connection.name.clone(), hosts);
                }
                configuration.connections.push(connection);
            }
        }
        for certificate in self.between.drain(..) {
            configuration.trust.add_intermediate(certificate);
        }
        self.compare_interfaces(&configuration.connections);
        (configuration, named, shunts)
    }

    /// The children of a connection: those that need no SA, and the others.
    fn split(&mut self, connection: &mut Checked) -> (Vec<Shunt>, Vec<Checked>) {
        let (mut shunts, mut others) = (Vec::new(), Vec::new());
        for child in
            connection.take_sections("children").into_iter().flat_map(|mut all| all.take_sections("*"))
        {
            if let Some("pass" | "drop") = child.word_of("mode") {
                self.no_shunt_beside_an_interface(connection, &child);
            }
            match child.word_of("mode") {
                Some("pass") => shunts.push(self.shunt(connection.name.clone(), child, esp::Action::Bypass)),
                Some("drop") => shunts.push(self.shunt(connection.name.clone(), child, esp::Action::Discard)),
                _ => others.push(child),
            }
        }
        (shunts, others)
    }

    fn shunt(&mut self, connection: String, mut section: Checked, action: esp::Action) -> Shunt {
        let path = section.path.clone();
        let start_span = section.span_of("start_action").or_else(|| section.span_of("mode"));
        if section.word("start_action") != "trap" {
            let message = "this child would never be in force: nothing brings it up";
            let problem =
                Problem::new(start_span.unwrap_or(section.span), format!("{path}.start_action"), message);
            self.error(problem.expected("`start_action = trap`, as in strongSwan"));
        }
        let (local_span, remote_span) = (section.span_of("local_ts"), section.span_of("remote_ts"));
        let (local_ts, remote_ts) = (section.selectors("local_ts"), section.selectors("remote_ts"));
        self.share_a_family((&local_ts, local_span), (&remote_ts, remote_span), &path);
        let [local_ts, remote_ts] = [local_ts, remote_ts].map(|specs| any_for_dynamic(&specs));
        let cannot_be_told = |selector: &TrafficSelector| {
            !selector.is_any_port() && !matches!(selector.protocol, 6 | 17 | 33 | 132 | 136)
        };
        for (key, span, selectors) in
            [("local_ts", local_span, &local_ts), ("remote_ts", remote_span, &remote_ts)]
        {
            if action == esp::Action::Bypass && selectors.iter().any(cannot_be_told) {
                let message = "routes cannot tell these packets from others of their protocol";
                let problem = Problem::new(span.unwrap_or(section.span), format!("{path}.{key}"), message);
                self.error(problem.expected("the whole protocol, or ports of TCP, UDP, DCCP or SCTP"));
            }
        }
        Shunt {
            connection,
            action,
            local_ts,
            remote_ts,
            priority: section.number("priority"),
            name: section.name,
        }
    }

    fn error(&mut self, problem: Problem) {
        self.diagnostics.error(self.sources, problem);
    }

    fn gateway(&mut self, mut section: Checked) -> GatewaySettings {
        let ports = (section.span_of("ike_port"), section.span_of("nat_t_port"));
        let table = section.span_of("routing_table");
        let half_open = section.span_of("half_open_timeout");
        let xdp = section.flag("xdp");
        let (http, http_any) = (section.span_of("http"), section.flag("http_any"));
        let settings = GatewaySettings {
            control: match section.one("control") {
                Some(Value::Control(control)) => control,
                _ => ControlUri::default(),
            },
            http: match section.one("http") {
                Some(Value::Http(address)) => address,
                _ => None,
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
            half_open_limit: usize::try_from(section.number("half_open_limit")).unwrap_or(usize::MAX),
            half_open_timeout: section.time("half_open_timeout"),
            nat_keepalive: section.time("nat_keepalive"),
            fragment_size: section.small("fragment_size").unwrap_or(1280),
            ike_port: section.small("ike_port").unwrap_or(500),
            nat_t_port: section.small("nat_t_port").unwrap_or(4500),
            workers: match (section.small("workers"), xdp) {
                (Some(workers), _) => workers.into(),
                (None, true) => 1,
                (None, false) => usual_workers(),
            },
            xdp,
            spin: Duration::from_micros(section.number("spin").into()),
            offload: section.flag("offload"),
            log: section.word("log"),
        };
        if settings.ike_port == settings.nat_t_port
            && let Some(span) = ports.1.or(ports.0)
        {
            let problem = Problem::new(span, "gateway.nat_t_port", "the same port as `ike_port`");
            self.error(problem.expected("two different ports").note("the other one", ports.0));
        }
        if let (Some(address), Some(span), false) = (&settings.http, http, http_any)
            && !address.is_local()
        {
            let message = "other machines reach this address, and nobody is asked for a password there";
            let problem = Problem::new(span, "gateway.http", message);
            self.error(
                problem.expected("a loopback address or a Unix socket; or `http_any = yes` if that is meant"),
            );
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
        let secret = self.octets(&mut section)?;
        let owners = section.take("id*").into_iter().filter_map(|(value, _)| match value {
            Value::Pattern(pattern) => Some(pattern),
            _ => None,
        });
        Some(SharedSecret { owners: owners.collect(), name: section.name, secret: Arc::new(secret) })
    }

    fn ppk(&mut self, mut section: Checked) -> Option<PostQuantumKey> {
        let secret = self.octets(&mut section)?;
        let ids = section.take("id*").into_iter().filter_map(|(value, _)| ppk_id(value));
        Some(PostQuantumKey { ids: ids.collect(), name: section.name, secret: Arc::new(secret) })
    }

    /// The octets of a secret, without which the section is none.
    fn octets(&mut self, section: &mut Checked) -> Option<Secret> {
        if let Some(Value::Secret(secret)) = section.one("secret") {
            return Some(secret);
        }
        if section.span_of("secret").is_none() && !self.reported(section) {
            let problem = Problem::new(section.span, section.path.clone(), "there is no `secret`");
            self.error(problem.expected("`secret = ...` in this section"));
        }
        None
    }

    /// Is something inside this section reported already, so that it seems to lack what is merely wrong?
    fn reported(&self, section: &Checked) -> bool {
        let inside = format!("{}.", section.path);
        self.diagnostics.errors.iter().any(|error| error.key.starts_with(&inside))
    }

    fn connection(
        &mut self,
        mut section: Checked,
        child_sections: Vec<Checked>,
        gateway: &GatewaySettings,
        secrets: [&Configuration; 2],
    ) -> (Connection, Hosts) {
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
        let remote_id = match remote.as_ref().and_then(|round| round.id.as_ref()) {
            Some(Value::Pattern(pattern)) => pattern.clone(),
            _ => IdentityPattern::Any,
        };
        // Where it is said that somebody authenticates by a pre-shared key.
        let psk = [&local, &remote].into_iter().flatten().find(|round| matches!(round.auth, Auth::Psk));
        let psk = psk.map(|round| round.span);
        let (local_auth, local_id) =
            local.map_or_else(Default::default, |round| self.local_auth(round, secrets));
        let remote_auth = remote.map_or_else(RemoteAuth::default, |round| self.remote_auth(round, secrets));
        let hosts =
            Hosts { local: section.addresses("local_addrs"), remote: section.addresses("remote_addrs") };
        let (local_addrs, remote_addrs) = (written(&hosts.local), written(&hosts.remote));
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
        if let Some(auth) = psk
            && secrets_are_known
            && !secrets
                .iter()
                .any(|some| has_secret(&some.secrets, local_id.as_ref(), &local_addrs, &remote_id))
        {
            let problem = Problem::new(auth, format!("{path}.local.auth"), "no secret fits this connection");
            let problem =
                problem.expected("a section `secrets.ike...` that names the peer, or only us, or nobody");
            self.diagnostics.warning(self.sources, problem);
        }
        let proposals = section.proposals("proposals");
        let ppk_span = section.span_of("ppk_id").or_else(|| section.span_of("ppk_required"));
        let ppk =
            PpkPolicy { id: section.one("ppk_id").and_then(ppk_id), required: section.flag("ppk_required") };
        if let Some(span) = ppk_span
            && secrets_are_known
            && (ppk.id.is_some() || ppk.required)
            && !secrets.iter().flat_map(|some| &some.ppks).any(|key| {
                key.ids.is_empty() || ppk.id.as_ref().is_none_or(|wanted| key.ids.contains(wanted))
            })
        {
            let problem = Problem::new(span, format!("{path}.ppk_id"), "no post-quantum preshared key fits");
            let problem = problem.expected("a section `secrets.ppk...` with this `id`, or without any");
            self.diagnostics.warning(self.sources, problem);
        }
        let post_quantum_span = section.span_of("post_quantum");
        let require_post_quantum = section.word("post_quantum") == "required";
        if let (true, Some(span)) = (require_post_quantum && secrets_are_known, post_quantum_span)
            && secrets.iter().all(|some| some.ppks.is_empty())
            && !proposals.iter().any(is_post_quantum)
        {
            let message = "nothing here is safe from a quantum computer, so every peer would be refused";
            let problem = Problem::new(span, format!("{path}.post_quantum"), message);
            self.error(problem.expected(
                "ML-KEM in `proposals`, like `x25519-ke1_mlkem768`, or a section `secrets.ppk...`",
            ));
        }
        let (rekey, reauth) = self.ike_lifetimes(&mut section);
        let retransmission = self.retransmission(&mut section);
        // A misspelt `remote_addrs` is reported already.
        let can_dial = (remote_span.is_none() && self.reported(&section))
            || hosts.remote.iter().any(|host| matches!(host, Host::Name(_)))
            || remote_addrs.iter().any(|address| address.single().is_some());
        let mut children = Vec::new();
        for child in child_sections {
            let start_span = ["start_action", "close_action", "dpd_action"]
                .into_iter()
                .find_map(|key| child.span_of(key).map(|span| (key, span)));
            // Two places, because of several findings at one only the first is told.
            let places = (
                child.span_of("local_ts").or(local_span).unwrap_or(child.span),
                child.span_of("remote_ts").or(remote_span).unwrap_or(span),
            );
            let child = self.child(&section.name, child, gateway.workers);
            let own = format!("{path}.children.{}", child.name);
            // What is missing because it is misspelt is reported already.
            if self.diagnostics.errors.is_empty() && !self.interfaces.contains_key(&section.name) {
                self.unresolved(
                    &child,
                    &own,
                    places,
                    (&local_addrs, local_span),
                    (&remote_addrs, remote_span),
                );
            }
            let initiates = child.start
                || child.trap
                || child.on_close != Action::None
                || child.on_dead_peer != Action::None;
            if initiates && !can_dial {
                let (key, at) = start_span.unwrap_or(("start_action", span));
                let message = "the child cannot be started: the connection has no single address to dial";
                let problem = Problem::new(at, format!("{own}.{key}"), message);
                self.error(match remote_span {
                    Some(_) => {
                        problem.expected("an address in `remote_addrs`").note("remote_addrs", remote_span)
                    }
                    None => problem.expected("`remote_addrs = <address>` in the connection"),
                });
            }
            if initiates && ppk.required && ppk.id.is_none() {
                let (key, at) = start_span.unwrap_or(("start_action", span));
                let message =
                    "the child cannot be started: `ppk_required` needs to know which key to propose";
                let problem = Problem::new(at, format!("{own}.{key}"), message);
                self.error(
                    problem.expected("`ppk_id = ...` in the connection").note("ppk_required", ppk_span),
                );
            }
            children.push(child);
        }
        let connection = Connection {
            local_addrs,
            remote_addrs,
            local_port,
            remote_port: section.small("remote_port").unwrap_or(500),
            proposals,
            local_id,
            remote_id,
            local_auth,
            remote_auth,
            send_cert: match section.word("send_cert") {
                "always" => SendCert::Always,
                "never" => SendCert::Never,
                _ => SendCert::IfAsked,
            },
            send_certreq: section.flag("send_certreq"),
            encap: section.flag("encap"),
            dpd_delay: section.time("dpd_delay"),
            retransmission,
            fragmentation: match section.word("fragmentation") {
                "no" => Fragmentation::No,
                "accept" => Fragmentation::Accept,
                _ => Fragmentation::Yes,
            },
            childless: match section.word("childless") {
                "prefer" => Childless::Prefer,
                "force" => Childless::Force,
                "never" => Childless::Never,
                _ => Childless::Allow,
            },
            mobike: section.flag("mobike"),
            unique: match section.word("unique") {
                "never" => Unique::Never,
                "keep" => Unique::Keep,
                "replace" => Unique::Replace,
                _ => Unique::No,
            },
            rekey,
            reauth,
            ppk,
            require_post_quantum,
            tries: section.number("keyingtries"),
            probe_path: section.flag("probe_path"),
            children,
            name: section.name,
        };
        (connection, hosts)
    }

    /// `rekey_time` and `reauth_time` with what follows from them.
    fn ike_lifetimes(&mut self, section: &mut Checked) -> (Lifetime, Lifetime) {
        let (over_span, rand_span) = (section.span_of("over_time"), section.span_of("rand_time"));
        let reauth = section.time("reauth_time");
        let by_default = if reauth.is_zero() { Duration::from_secs(4 * 3600) } else { Duration::ZERO };
        let rekey = section.given_time("rekey_time").unwrap_or(by_default);
        let longest = rekey.max(reauth);
        let over = section.given_time("over_time").unwrap_or(longest / 10);
        let rand = section.given_time("rand_time");
        if let (Some(span), true, false) = (over_span, over.is_zero(), longest.is_zero()) {
            let message = "the IKE SA would end when its renewal begins";
            let problem = Problem::new(span, format!("{}.over_time", section.path), message);
            self.error(problem.expected("time for the renewal"));
        }
        let soonest = [rekey, reauth].into_iter().filter(|time| !time.is_zero()).min();
        if let (Some(span), Some(rand), Some(soonest)) = (rand_span, rand, soonest)
            && rand >= soonest
        {
            let message = "the IKE SA might be renewed as soon as it is up";
            let problem = Problem::new(span, format!("{}.rand_time", section.path), message);
            self.error(problem.expected("less than `rekey_time` and `reauth_time`"));
        }
        let lifetime = |soft: Duration| match soft.is_zero() {
            true => Lifetime::default(),
            false => Lifetime { soft, hard: soft + over, jitter: rand.unwrap_or_else(|| over.min(soft / 2)) },
        };
        (lifetime(rekey), lifetime(reauth))
    }

    fn retransmission(&mut self, section: &mut Checked) -> Retransmission {
        let keys = ["retransmit_wait", "retransmit_longest_wait", "retransmit_give_up"];
        let spans = keys.map(|key| section.span_of(key));
        let [first, most, give_up] = keys.map(|key| section.time(key));
        let least = [Duration::from_millis(10), first, first];
        for ((key, span), (value, least)) in
            keys.into_iter().zip(spans).zip([first, most, give_up].into_iter().zip(least))
        {
            if value < least {
                let at = span.or_else(|| spans.into_iter().flatten().next()).unwrap_or(section.span);
                let problem = Problem::new(at, format!("{}.{key}", section.path), "too short");
                self.error(match key {
                    "retransmit_wait" => problem.expected("at least `10ms`"),
                    _ => problem.expected("at least `retransmit_wait`"),
                });
            }
        }
        Retransmission { first, most, give_up }
    }

    /// `rekey_<unit>`, `life_<unit>` and `rand_<unit>` of a child, with what follows from them. A time is in
    /// nanoseconds.
    fn limits(&mut self, section: &mut Checked, unit: &str, by_default: u64) -> Volume {
        let keys = ["rekey", "life", "rand"].map(|part| format!("{part}_{unit}"));
        let [soft_span, hard_span, jitter_span] = keys.each_ref().map(|key| section.span_of(key));
        let [soft, hard, jitter] = keys.each_ref().map(|key| section.amount(key));
        let soft = soft.unwrap_or_else(|| hard.map_or(by_default, |hard| hard - hard.div_ceil(10)));
        let hard = hard.unwrap_or_else(|| soft.saturating_add(soft.div_ceil(10)));
        let [soft_key, hard_key, jitter_key] = keys;
        if let Some(span) = hard_span.or(soft_span)
            && (1..=soft).contains(&hard)
        {
            let message = "the Child SA would end before it is rekeyed";
            let problem = Problem::new(span, format!("{}.{hard_key}", section.path), message);
            self.error(problem.expected(format!("more than `{soft_key}`")));
        }
        if let (Some(span), Some(jitter)) = (jitter_span, jitter)
            && (1..=jitter).contains(&soft)
        {
            let message = "the Child SA might be rekeyed as soon as it is up";
            let problem = Problem::new(span, format!("{}.{jitter_key}", section.path), message);
            self.error(problem.expected(format!("less than `{soft_key}`")));
        }
        let jitter = jitter.unwrap_or_else(|| hard.saturating_sub(soft).min(soft / 2));
        Volume { soft, hard, jitter }
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

    fn child(&mut self, connection: &str, mut section: Checked, workers: usize) -> Child {
        let path = section.path.clone();
        let window_span = section.span_of("replay_window");
        let proposals_span = section.span_of("esp_proposals");
        let (local_span, remote_span) = (section.span_of("local_ts"), section.span_of("remote_ts"));
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let time = self.limits(&mut section, "time", nanoseconds(Duration::from_secs(3600)));
        let limits = ChildLimits {
            time: Lifetime {
                soft: Duration::from_nanos(time.soft),
                hard: Duration::from_nanos(time.hard),
                jitter: Duration::from_nanos(time.jitter),
            },
            bytes: self.limits(&mut section, "bytes", 0),
            packets: self.limits(&mut section, "packets", 0),
        };
        let start_action = section.word("start_action");
        let (start, trap) = (start_action.contains("start"), start_action.contains("trap"));
        // What ought to be up is brought back, unless the file says otherwise.
        let wanted = if start {
            Action::Start
        } else if trap {
            Action::Trap
        } else {
            Action::None
        };
        let action = |word: &str| match word {
            "" => wanted,
            "trap" => Action::Trap,
            "start" | "restart" => Action::Start,
            _ => Action::None,
        };
        let mode = match section.word("mode") {
            "transport" => Mode::Transport,
            "iptfs" => Mode::Iptfs { fragments: true },
            _ => Mode::Tunnel,
        };
        let is_iptfs = matches!(mode, Mode::Iptfs { .. });
        let child = Child {
            proposals: section.proposals("esp_proposals"),
            local_ts: section.selectors("local_ts"),
            remote_ts: section.selectors("remote_ts"),
            mode,
            priority: section.number("priority"),
            strict_mode: is_iptfs && !section.flag("iptfs_fallback"),
            replay_window: section.number("replay_window"),
            resources: (section.word("per_cpu_sas") == "yes").then(|| resources(workers)),
            limits,
            inactivity: section.time("inactivity"),
            start,
            trap,
            on_close: action(section.word("close_action")),
            on_dead_peer: action(section.word("dpd_action")),
            name: section.name.clone(),
        };
        let treatment = self.treatment(&mut section, &child);
        if treatment != Treatment::default() {
            self.treatments.insert((connection.to_owned(), child.name.clone()), treatment);
        }
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
        self.share_a_family((&child.local_ts, local_span), (&child.remote_ts, remote_span), &path);
        if child.mode == Mode::Transport {
            self.only_of_hosts(&child.local_ts, local_span, format!("{path}.local_ts"));
            self.only_of_hosts(&child.remote_ts, remote_span, format!("{path}.remote_ts"));
        }
        child
    }

    /// Points out networks where only two hosts can talk (RFC 4301 4.1).
    fn only_of_hosts(&mut self, selectors: &[SelectorSpec], span: Option<Span>, key: String) {
        let is_network = |selector: &SelectorSpec| match selector {
            SelectorSpec::Fixed(selector) => selector.start != selector.end,
            SelectorSpec::Dynamic { .. } => false,
        };
        if let Some(span) = span
            && selectors.iter().any(is_network)
        {
            let message =
                "transport mode protects what the two gateways send each other: of a network, no other host";
            let problem = Problem::new(span, key, message);
            self.diagnostics
                .warning(self.sources, problem.expected("`dynamic`, or `mode = tunnel` for networks"));
        }
    }

    /// Points out selectors of which no two are of one address family.
    fn share_a_family(
        &mut self,
        (local_ts, local_span): (&[SelectorSpec], Option<Span>),
        (remote_ts, remote_span): (&[SelectorSpec], Option<Span>),
        path: &str,
    ) {
        let family = |selectors: &[SelectorSpec]| {
            let is_v4 = |selector: &SelectorSpec| match selector {
                SelectorSpec::Fixed(selector) => Some(selector.start.is_ipv4()),
                SelectorSpec::Dynamic { .. } => None,
            };
            let v4 = selectors.iter().any(|selector| is_v4(selector) != Some(false));
            (v4, selectors.iter().any(|selector| is_v4(selector) != Some(true)))
        };
        if let Some(span) = remote_span.or(local_span)
            && !local_ts.is_empty()
            && !remote_ts.is_empty()
            && !overlap(family(local_ts), family(remote_ts))
        {
            let message = "no address family in common with the other side: nothing could pass";
            let problem = Problem::new(span, format!("{path}.remote_ts"), message);
            self.error(
                problem.expected("selectors of one family on both sides").note("local_ts", local_span),
            );
        }
    }
}

/// What the data plane does to packets.
impl Builder<'_> {
    fn treatment(&mut self, section: &mut Checked, child: &Child) -> Treatment {
        let copies = section.word("copy_dscp");
        let dscp_inwards = matches!(copies, "in" | "yes");
        let outer = OuterPolicy {
            dscp: if matches!(copies, "out" | "yes") { Dscp::Copy } else { Dscp::Set(0) },
            copy_ecn: section.flag("copy_ecn"),
            df: if section.flag("copy_df") { DontFragment::Copy } else { DontFragment::Clear },
        };
        let tfc = match section.one("tfc_padding") {
            Some(Value::Word(_)) => Tfc::Path,
            Some(Value::Integer(len @ 1..)) => Tfc::AtLeast(u16::try_from(len).unwrap_or(u16::MAX)),
            _ => Tfc::Off,
        };
        let mss = match section.one("mss") {
            Some(Value::Word("no")) => Mss::Untouched,
            Some(Value::Integer(mss)) => Mss::At(u16::try_from(mss).unwrap_or(u16::MAX)),
            _ => Mss::Path,
        };
        let translation = Translation {
            local: self.renumberings(section, "local", &child.local_ts),
            remote: self.renumberings(section, "remote", &child.remote_ts),
        };
        let translation = Some(translation).filter(|all| *all != Translation::default()).map(Arc::new);
        let iptfs = self.iptfs(section, child.mode);
        let at = section.span_of("dummies").unwrap_or(section.span);
        let dummies = Some(section.time("dummies")).filter(|interval| !interval.is_zero());
        if let (Some(_), Mode::Iptfs { .. }) = (dummies, child.mode) {
            let message = "IP-TFS has no dummies: payloads leave without anything in them";
            let problem = Problem::new(at, format!("{}.dummies", section.path), message);
            self.error(problem.expected("`iptfs_rate`, or another mode"));
        }
        Treatment { outer, dscp_inwards, tfc, dummies, mss, translation, iptfs }
    }

    fn iptfs(&mut self, section: &mut Checked, mode: Mode) -> Iptfs {
        let keys = ["iptfs_rate", "iptfs_packet_size", "iptfs_max_queue_size"];
        if mode != (Mode::Iptfs { fragments: true })
            && let Some((key, span)) = keys.into_iter().find_map(|key| Some((key, section.span_of(key)?)))
        {
            // Who asks for a rate believes that traffic is hidden.
            let problem =
                Problem::new(span, format!("{}.{key}", section.path), "this child is not in IP-TFS mode");
            self.error(problem.expected("`mode = iptfs` beside it"));
        }
        let size = match section.one("iptfs_packet_size") {
            Some(Value::Integer(size)) => u16::try_from(size).unwrap_or(u16::MAX),
            _ => 0,
        };
        let rate: u32 = section.number("iptfs_rate");
        let queue = match section.one("iptfs_max_queue_size") {
            Some(Value::Integer(queue)) => usize::try_from(queue).unwrap_or(usize::MAX),
            // What leaves in a quarter of a second: longer waiting helps nobody.
            _ if rate > 0 => {
                let quarter = rate as usize * usize::from(if size == 0 { 1400 } else { size }) / 4;
                quarter.clamp(32 << 10, 1 << 20)
            }
            _ => 1 << 20,
        };
        Iptfs {
            packet_size: size,
            interval: (rate > 0).then(|| Duration::from_secs(1) / rate),
            init_delay: section.time("iptfs_init_delay"),
            queue,
            reorder_window: u16::try_from(section.number("iptfs_reorder_window")).unwrap_or(u16::MAX),
            drop_time: section.time("iptfs_drop_time"),
        }
    }

    /// The networks of one side that have other addresses here than those that are negotiated.
    fn renumberings(
        &mut self,
        section: &mut Checked,
        side: &str,
        negotiated: &[SelectorSpec],
    ) -> Vec<Renumbering> {
        let key = format!("{side}_net");
        let (span, inside) = (section.span_of(&key), section.selectors(&key));
        if inside.is_empty() {
            return Vec::new();
        }
        let pair = |(inside, outside): (&SelectorSpec, &SelectorSpec)| {
            let ((inside, len), (outside, other)) = (prefix(inside)?, prefix(outside)?);
            (len == other).then(|| Renumbering::new(inside, outside, len)).flatten()
        };
        let pairs: Option<Vec<Renumbering>> = inside.iter().zip(negotiated).map(pair).collect();
        match pairs {
            Some(pairs) if inside.len() == negotiated.len() => pairs,
            _ => {
                let at = span.unwrap_or(section.span);
                let message = format!("these networks and those of `{side}_ts` do not stand for each other");
                let problem = Problem::new(at, format!("{}.{key}", section.path), message);
                let expected =
                    "one prefix for each in the same order, of the same length, without protocol and port";
                self.error(
                    problem
                        .expected(expected)
                        .note(format!("{side}_ts"), section.span_of(&format!("{side}_ts"))),
                );
                Vec::new()
            }
        }
    }
}

/// One packet worker for every two processors: the kernel's half of the work needs the other.
fn usual_workers() -> usize {
    std::thread::available_parallelism().map_or(1, |processors| (processors.get() / 2).clamp(1, 16))
}

/// RFC 9611 5: a peer that asks at the same time is to have room for as many.
fn resources(workers: usize) -> Resources {
    let own = u16::try_from(workers).unwrap_or(u16::MAX);
    Resources { own, most: own.saturating_mul(2).max(16) }
}

/// A selector that is a whole prefix and nothing else.
fn prefix(selector: &SelectorSpec) -> Option<(IpAddr, u8)> {
    let SelectorSpec::Fixed(selector) = selector else { return None };
    let len = match (selector.start, selector.end) {
        (IpAddr::V4(first), IpAddr::V4(last)) => (first.to_bits() ^ last.to_bits()).leading_zeros(),
        (IpAddr::V6(first), IpAddr::V6(last)) => (first.to_bits() ^ last.to_bits()).leading_zeros(),
        _ => return None,
    };
    let len = u8::try_from(len).ok()?;
    (*selector == TrafficSelector::subnet(selector.start, len)).then_some((selector.start, len))
}

/// The parts of an authentication round that matter.
/// The addresses of a list, which tells none if they depend on names.
fn written(hosts: &[Host]) -> Vec<AddressSpec> {
    let address = |host: &Host| match host {
        Host::Addresses(spec) => Some(*spec),
        Host::Name(_) => None,
    };
    hosts.iter().map(address).collect::<Option<_>>().unwrap_or_default()
}

/// IPv4, IPv6.
fn families(addresses: &[AddressSpec]) -> (bool, bool) {
    let v4 = addresses.is_empty() || addresses.iter().any(|address| address.first.is_ipv4());
    (v4, addresses.is_empty() || addresses.iter().any(|address| address.first.is_ipv6()))
}

fn overlap(a: (bool, bool), b: (bool, bool)) -> bool {
    (a.0 && b.0) || (a.1 && b.1)
}

/// Selectors of traffic that no SA tells more about.
fn any_for_dynamic(specs: &[SelectorSpec]) -> Vec<TrafficSelector> {
    let any = [TrafficSelector::any_v4(), TrafficSelector::any_v6()];
    let selectors = specs.iter().flat_map(|spec| match *spec {
        SelectorSpec::Fixed(selector) => vec![selector],
        SelectorSpec::Dynamic { protocol, start_port, end_port } => {
            any.iter().map(|any| TrafficSelector { protocol, start_port, end_port, ..*any }).collect()
        }
    });
    selectors.collect()
}

fn has_dynamic(selectors: &[SelectorSpec]) -> bool {
    selectors.iter().any(|selector| matches!(selector, SelectorSpec::Dynamic { .. }))
}

/// A PPK_ID as it is sent (RFC 8784 5.1).
fn ppk_id(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::Identity(identity) => Some(identity.data().to_vec()),
        _ => None,
    }
}

fn is_post_quantum(proposal: &Proposal) -> bool {
    let methods = [KeId::ML_KEM_512, KeId::ML_KEM_768, KeId::ML_KEM_1024];
    let is_one = |transform: &adit_wire::ikev2::Transform| {
        (transform.transform_type == TransformType::KE
            || (TransformType::ADDKE1..=TransformType::ADDKE7).contains(&transform.transform_type))
            && methods.contains(&KeId(transform.id))
    };
    proposal.transforms.iter().any(is_one)
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
        self.given_time(key).unwrap_or_default()
    }

    fn given_time(&mut self, key: &str) -> Option<Duration> {
        self.amount(key).map(Duration::from_nanos)
    }

    /// A number, or a time in nanoseconds.
    fn amount(&mut self, key: &str) -> Option<u64> {
        match self.one(key) {
            Some(Value::Integer(number)) => Some(number),
            Some(Value::Time(time)) => u64::try_from(time.as_nanos()).ok(),
            _ => None,
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

    fn addresses(&mut self, key: &str) -> Vec<Host> {
        match self.one(key) {
            Some(Value::Addresses(addresses)) => addresses,
            _ => Vec::new(),
        }
    }

    fn networks(&mut self, key: &str) -> Vec<(IpAddr, u8)> {
        match self.one(key) {
            Some(Value::Networks(networks)) => networks,
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
