//! `conn` sections as connections and children, key by key.
//!
//! One function knows every key that means something here. A setting that the configuration language refuses is reported in
//! its words.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::rc::Rc;

use super::grammar::{Conn, Line, Parsed, Setting, unquote};
use super::{Dialect, Report, check, comment, proposals, quote};

/// strongSwan's time from the wish for a new SA to the end of the old one.
const MARGIN: u64 = 540;

/// Octets of all children together: lists of subnets multiply.
const MOST_OCTETS: usize = 16 * 1024 * 1024;

/// Why certificates keep a connection out.
const CERTIFICATES: &str = "authentication by certificates or raw keys is not done yet";
const EAP: &str = "EAP is not done yet";
const IKEV1: &str = "IKEv1 is not done yet";
const ADDRESSES: &str = "virtual addresses and pools are not done yet";
const SCRIPT: &str =
    "scripts are not run; `adit events --follow --json` tells of tunnels, and the packet filter is yours";
const INTERFACE: &str =
    "write `interface = NAME` into the connection: an interface of its own, which Adit makes";

/// Keys that are about a peer.
const ABOUT_PEERS: [&str; 26] = [
    "left",
    "right",
    "leftid",
    "rightid",
    "leftauth",
    "rightauth",
    "authby",
    "keyexchange",
    "ikev2",
    "ike",
    "esp",
    "phase2alg",
    "ikelifetime",
    "lifetime",
    "keylife",
    "salifetime",
    "margintime",
    "rekeymargin",
    "rekeyfuzz",
    "rekey",
    "reauth",
    "keyingtries",
    "dpdaction",
    "dpddelay",
    "dpdtimeout",
    "mobike",
];

/// All connections.
#[derive(Debug, Default)]
pub(super) struct Connections {
    connections: Vec<Connection>,
    /// What is left out and belongs to none of them.
    comments: Vec<String>,
}

/// Settings in order.
type Settings = Vec<(&'static str, String)>;

#[derive(Debug, Default)]
struct Connection {
    name: String,
    line: Option<Line>,
    comments: Vec<String>,
    /// Needs it a peer?
    peer: bool,
    ike: Settings,
    local: Settings,
    remote: Settings,
    children: Vec<(String, Settings)>,
}

impl Connections {
    pub(super) fn counts(&self) -> [usize; 2] {
        [self.connections.len(), self.connections.iter().map(|connection| connection.children.len()).sum()]
    }

    pub(super) fn render(&self) -> String {
        self.render_with_lines().0
    }

    /// The text, and the line after the last of each connection.
    fn render_with_lines(&self) -> (String, Vec<usize>) {
        let mut text = String::new();
        for line in &self.comments {
            text.push_str(&format!("# {line}\n"));
        }
        text.push_str("connections {\n");
        let mut ends = Vec::new();
        for connection in &self.connections {
            connection.render(&mut text);
            ends.push(text.lines().count() + 1);
        }
        text.push_str("}\n");
        (text, ends)
    }

    /// Leaves the connection out that has this line of the text.
    pub(super) fn remove_at(&mut self, line: usize, why: &str, reports: &mut Vec<Report>) -> bool {
        let (_, ends) = self.render_with_lines();
        // A line behind all of them is that of a secret; no line, and the last one is tried.
        let Some(at) = ends.iter().position(|end| line < *end) else { return false };
        let removed = self.connections.remove(at);
        self.comments.push(format!("connection {} is left out: {}", removed.name, comment(why)));
        self.comments.extend(removed.comments);
        reports.extend(removed.line.map(|line| line.report(why)));
        true
    }
}

impl Connection {
    fn render(&self, text: &mut String) {
        let mut put = |indent: usize, line: &str| {
            text.push_str(&" ".repeat(indent));
            text.push_str(line);
            text.push('\n');
        };
        put(4, &format!("{} {{", self.name));
        for line in &self.comments {
            put(8, &format!("# {line}"));
        }
        for (key, value) in &self.ike {
            put(8, &format!("{key} = {value}"));
        }
        for (name, side) in [("local", &self.local), ("remote", &self.remote)] {
            if !side.is_empty() {
                put(8, &format!("{name} {{"));
                side.iter().for_each(|(key, value)| put(12, &format!("{key} = {value}")));
                put(8, "}");
            }
        }
        put(8, "children {");
        for (name, child) in &self.children {
            put(12, &format!("{name} {{"));
            child.iter().for_each(|(key, value)| put(16, &format!("{key} = {value}")));
            put(12, "}");
        }
        put(8, "}");
        put(4, "}");
    }
}

/// Where a setting belongs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Ike,
    Local,
    Remote,
    Child,
}

pub(super) struct Translator<'a> {
    dialect: Dialect,
    is_ours: &'a dyn Fn(IpAddr) -> bool,
    reports: &'a mut Vec<Report>,
    /// What the language has said about a setting.
    taken: HashMap<(u8, &'static str, String), Option<String>>,
    /// Octets that there is room for.
    room: usize,
}

/// A connection that is being translated: what of it has not been looked at, and what it has become.
struct Work {
    left: BTreeMap<Rc<str>, Setting>,
    /// The side that is ours: `left` or `right`.
    ours: &'static str,
    theirs: &'static str,
    result: Connection,
    child: Settings,
}

impl<'a> Translator<'a> {
    pub(super) fn new(
        dialect: Dialect,
        is_ours: &'a dyn Fn(IpAddr) -> bool,
        reports: &'a mut Vec<Report>,
    ) -> Self {
        Self { dialect, is_ours, reports, taken: HashMap::new(), room: MOST_OCTETS }
    }

    pub(super) fn translate(mut self, parsed: &Parsed) -> Connections {
        let mut all = Connections::default();
        all.comments.extend(self.reports.iter().map(Report::to_string));
        let unique = self.setup(&parsed.setup, &mut all);
        let known = self.reports.len();
        let conns = parsed.connections(self.reports);
        all.comments.extend(self.reports.iter().skip(known).map(Report::to_string));
        let mut names = HashSet::new();
        let mut told = BTreeSet::new();
        for conn in conns {
            let lines: Vec<Line> = conn.settings.values().map(|setting| setting.line.clone()).collect();
            let (name, line) = (section_name(conn.name, &mut names), conn.line.clone());
            match self.connection(conn, name.clone(), unique) {
                Ok(connection) => merge(&mut all.connections, connection),
                Err(why) => {
                    let report = line.report(&why);
                    all.comments.push(comment(&format!("{report}")));
                    self.reports.push(report);
                    for line in lines {
                        // What several take from one place is told once.
                        if told.insert((line.file.as_ref().clone(), line.number)) {
                            all.comments.push(comment(&format!(
                                "{}:{}: {}",
                                line.file.display(),
                                line.number,
                                line.text.trim()
                            )));
                        }
                    }
                }
            }
        }
        all
    }

    /// `config setup`; answers what `unique` is to be.
    fn setup(&mut self, settings: &[Setting], all: &mut Connections) -> &'static str {
        let mut unique = "replace";
        for setting in settings {
            match (&*setting.key, &*setting.value) {
                ("uniqueids", "yes" | "replace") => unique = "replace",
                ("uniqueids", "no") => unique = "no",
                ("uniqueids", "never") => unique = "never",
                ("uniqueids", "keep") => unique = "keep",
                // What is about those programs and not about tunnels.
                (
                    "protostack" | "charonstart" | "plutostart" | "nat-traversal" | "nhelpers" | "dumpdir"
                    | "cachecrls",
                    _,
                )
                | ("interfaces", "%defaultroute")
                | ("strictcrlpolicy" | "oe" | "ikev1-policy", "no" | "off" | "drop") => {}
                ("virtual-private", _) => self.note(&mut all.comments, setting, ADDRESSES),
                (key, _) if key.contains("log") || key.contains("debug") => {
                    self.note(
                        &mut all.comments,
                        setting,
                        "what is logged says `log` in the section `gateway`",
                    );
                }
                _ => self.note(&mut all.comments, setting, "not understood"),
            }
        }
        unique
    }

    fn note(&mut self, comments: &mut Vec<String>, setting: &Setting, why: &str) {
        let report = setting.line.report(why);
        comments.push(comment(&report.to_string()));
        self.reports.push(report);
    }

    /// The connection, or why it cannot be.
    fn connection(
        &mut self,
        conn: Conn<'_>,
        name: String,
        unique: &'static str,
    ) -> Result<Connection, String> {
        let mut work = Work {
            ours: "left",
            theirs: "right",
            left: conn.settings,
            result: Connection { name: name.clone(), line: Some(conn.line.clone()), ..Connection::default() },
            child: Settings::new(),
        };
        if conn.name != name {
            work.result.comments.push(comment(&format!("was called {}", conn.name)));
        }
        let auto = work.take("auto");
        let action = match auto.as_ref().map(|auto| &*auto.value) {
            None | Some("ignore") => return Err("not loaded there either: `auto` is `ignore`".to_owned()),
            Some("add") => "none",
            Some("route" | "ondemand") => "trap",
            Some("start" | "up") => "start",
            Some(_) => {
                if let Some(auto) = &auto {
                    self.note(&mut work.result.comments, auto, "not understood; it is not started by itself");
                }
                "none"
            }
        };
        self.find_our_side(&mut work);
        let shunt = self.mode(&mut work)?;
        work.result.peer = !shunt;
        if shunt {
            self.hosts_alone(&mut work);
            // What is about a peer says nothing about what travels in the clear or not at all.
            for key in ABOUT_PEERS {
                work.take(key);
            }
            if action != "none" {
                work.child.push(("start_action", "trap".to_owned()));
            }
        } else {
            self.version(&mut work)?;
            self.authentication(&mut work)?;
            self.addresses(&mut work);
            self.identities(&mut work);
            work.result.ike.push(("unique", unique.to_owned()));
            self.algorithms(&mut work);
            self.lifetimes(&mut work);
            self.liveness(&mut work);
            if action != "none" {
                work.child.push(("start_action", action.to_owned()));
            }
            self.others(&mut work);
        }
        self.selectors(&mut work, &name)?;
        for setting in std::mem::take(&mut work.left).into_values() {
            let why = reason(&setting.key);
            self.note(&mut work.result.comments, &setting, why);
        }
        Ok(work.result)
    }

    /// The program finds out by the machine's addresses which side it is on, and takes `left` if that does not help.
    fn find_our_side(&self, work: &mut Work) {
        let has = |side: &str, what: &str| work.left.get(side).is_some_and(|setting| &*setting.value == what);
        let ours = |side: &str| {
            let address = work.left.get(side).and_then(|setting| setting.value.parse().ok());
            address.is_some_and(self.is_ours)
        };
        let defaultroute = has("right", "%defaultroute") && !has("left", "%defaultroute");
        if defaultroute || (ours("right") && !ours("left")) {
            (work.ours, work.theirs) = ("right", "left");
        }
    }

    /// Is it about traffic that needs no peer?
    fn mode(&mut self, work: &mut Work) -> Result<bool, String> {
        let Some(setting) = work.take("type") else { return Ok(false) };
        match &*setting.value {
            "tunnel" => Ok(false),
            "transport" => {
                self.put(work, Place::Child, "mode", "transport".into(), &setting);
                Ok(false)
            }
            "passthrough" | "pass" => {
                work.child.push(("mode", "pass".into()));
                Ok(true)
            }
            "drop" => {
                work.child.push(("mode", "drop".into()));
                Ok(true)
            }
            other => Err(format!("`type={other}` is not done yet")),
        }
    }

    /// Without networks, a side of Libreswan's is its host alone; of strongSwan's it is everybody, as here.
    fn hosts_alone(&self, work: &mut Work) {
        for side in ["left", "right"] {
            let has_networks =
                ["", "s", "within"].iter().any(|end| work.left.contains_key(&*format!("{side}subnet{end}")));
            if self.dialect == Dialect::Libreswan
                && !has_networks
                && let Some(host) =
                    work.left.get(side).filter(|host| !host.value.starts_with("%any")).cloned()
            {
                work.left.insert(format!("{side}subnet").into(), host);
            }
        }
    }

    fn version(&mut self, work: &mut Work) -> Result<(), String> {
        let exchange = work.take("keyexchange").map(|setting| setting.value.to_lowercase());
        let ikev2 = work.take("ikev2").map(|setting| setting.value.to_lowercase());
        let old = exchange.as_deref() == Some("ikev1") || matches!(ikev2.as_deref(), Some("no" | "never"));
        if old || work.take("aggressive").is_some_and(|setting| &*setting.value == "yes") {
            return Err(IKEV1.to_owned());
        }
        if work.take("ah").is_some() || work.take("phase2").is_some_and(|setting| &*setting.value == "ah") {
            return Err("AH is not done".to_owned());
        }
        work.result.ike.push(("version", "2".to_owned()));
        Ok(())
    }

    fn authentication(&mut self, work: &mut Work) -> Result<(), String> {
        let both = work.take("authby");
        for (place, side) in [(Place::Local, work.ours), (Place::Remote, work.theirs)] {
            // A peer that proves only one of two things is not who was let in there.
            if work.take(&format!("{side}auth2")).is_some() {
                return Err(EAP.to_owned());
            }
            let own = work.take(&format!("{side}auth"));
            let method = own
                .as_ref()
                .or(both.as_ref())
                .map_or_else(|| "pubkey".to_owned(), |s| s.value.to_lowercase());
            let is_psk = method.split(['|', ',']).any(|word| matches!(word.trim(), "psk" | "secret"));
            if is_psk {
                work.settings(place).push(("auth", "psk".to_owned()));
            } else if method.contains("eap") {
                return Err(EAP.to_owned());
            } else if method.contains("xauth") {
                return Err(IKEV1.to_owned());
            } else if own.is_none() && both.is_none() {
                return Err(format!("{CERTIFICATES}, and there is no `authby`"));
            } else {
                return Err(CERTIFICATES.to_owned());
            }
        }
        Ok(())
    }

    fn addresses(&mut self, work: &mut Work) {
        for (key, port_key, side) in
            [("local_addrs", "local_port", work.ours), ("remote_addrs", "remote_port", work.theirs)]
        {
            let any = work.take(&format!("{side}allowany")).is_some_and(|setting| &*setting.value == "yes");
            if let Some(setting) = work.take(side) {
                let value = &*setting.value;
                // A name with a `%` is one that others may have as well.
                let (name, or_any) = match value.strip_prefix('%') {
                    Some("defaultroute" | "any" | "any4" | "any6" | "opportunistic") | None => (value, any),
                    Some("group" | "opportunisticgroup") => (value, any),
                    Some(name) => (name, true),
                };
                if name != "%defaultroute" && (name != "%any" || key == "remote_addrs") {
                    let value = if or_any { format!("{name}, %any") } else { name.to_owned() };
                    self.put(work, Place::Ike, key, value, &setting);
                }
            }
            if let Some(setting) = work.take(&format!("{side}ikeport")) {
                self.put(work, Place::Ike, port_key, setting.value.to_string(), &setting);
            }
        }
    }

    /// Who says nothing else is called as its address.
    fn identities(&mut self, work: &mut Work) {
        let single = |value: &String| {
            let range = value.split('-').all(|end| end.parse::<IpAddr>().is_ok()) && value.contains('-');
            !range && !value.contains([',', '%', '/', '"'])
        };
        for (place, side, addrs) in
            [(Place::Local, work.ours, "local_addrs"), (Place::Remote, work.theirs, "remote_addrs")]
        {
            match work.take(&format!("{side}id")) {
                Some(setting) if &*setting.value == "%any" && place == Place::Remote => {}
                Some(setting) => {
                    self.put(work, place, "id", setting.value.to_string(), &setting);
                }
                None => {
                    let address =
                        work.result.ike.iter().find(|(key, _)| *key == addrs).map(|(_, value)| value.clone());
                    if let Some(address) = address.filter(single) {
                        work.settings(place).push(("id", address));
                    }
                }
            }
        }
    }

    fn algorithms(&mut self, work: &mut Work) {
        let mut exchanges = Vec::new();
        if let Some(setting) = work.take("ike") {
            let value = proposals::translate(&setting.value, self.dialect, true);
            exchanges = proposals::key_exchanges(&value).into_iter().map(str::to_owned).collect();
            self.put(work, Place::Ike, "proposals", value, &setting);
        }
        let pfs = work.take("pfs").is_none_or(|setting| &*setting.value != "no");
        let esn = work.take("esn");
        let esp = ["esp", "phase2alg"].into_iter().filter_map(|key| work.take(key)).next_back();
        let Some(setting) = esp else {
            if let Some(esn) = esn.filter(|esn| &*esn.value != "no") {
                self.note(&mut work.result.comments, &esn, "write `-esn` behind each of `esp_proposals`");
            }
            return;
        };
        let mut value = proposals::translate(&setting.value, self.dialect, false);
        let each = |value: &str, end: &str| {
            let all: Vec<String> = value.split(", ").map(|one| format!("{one}-{end}")).collect();
            all.join(", ")
        };
        // Libreswan takes the key exchange of the IKE SA for that of its children.
        if self.dialect == Dialect::Libreswan
            && pfs
            && proposals::key_exchanges(&value).is_empty()
            && !exchanges.is_empty()
        {
            value = each(&value, &exchanges.join("-"));
        }
        if let Some(esn) = esn {
            match &*esn.value {
                "yes" => value = each(&value, "esn"),
                "either" | "both" => value = each(&value, "esn-noesn"),
                _ => {}
            }
        }
        self.put(work, Place::Child, "esp_proposals", value, &setting);
    }

    /// There: an age, a margin before it, and how much of that is left to chance. Here: the margin taken off, and what is
    /// left to chance as a time.
    fn lifetimes(&mut self, work: &mut Work) {
        let margin = work.first(&["margintime", "rekeymargin"]);
        let fuzz = work.take("rekeyfuzz");
        let margin_time = margin.as_ref().and_then(|setting| seconds(&setting.value)).unwrap_or(MARGIN);
        let percent: u64 = fuzz
            .as_ref()
            .and_then(|setting| setting.value.trim_end_matches('%').parse().ok())
            .unwrap_or(100)
            .min(1000);
        let rekey = work.take("rekey");
        let never = rekey.as_ref().is_some_and(|setting| &*setting.value == "no");
        let reauth = work.take("reauth").is_some_and(|setting| &*setting.value == "yes");
        let soft_of = |life: u64| if life > margin_time { life - margin_time } else { life - life / 10 };
        let chance = |soft: u64, life: u64| {
            (margin_time.min(life - soft).saturating_mul(percent) / 100).min(soft / 2).to_string()
        };
        if let Some(setting) = work.take("ikelifetime") {
            match seconds(&setting.value).filter(|life| *life > 1) {
                Some(life) if !never => {
                    let soft = soft_of(life);
                    let key = if reauth { "reauth_time" } else { "rekey_time" };
                    let ok = self.put(work, Place::Ike, key, soft.to_string(), &setting);
                    if ok {
                        work.result.ike.push(("over_time", (life - soft).to_string()));
                        work.result.ike.push(("rand_time", chance(soft, life)));
                    }
                }
                Some(_) => {}
                None => self.note(&mut work.result.comments, &setting, "not understood: no time"),
            }
        }
        if never {
            work.result.ike.push(("rekey_time", "0".into()));
            work.child.push(("rekey_time", "0".into()));
        }
        if let Some(setting) = work.first(&["lifetime", "keylife", "salifetime"]) {
            match seconds(&setting.value).filter(|life| *life > 1) {
                Some(life) => {
                    let ok = self.put(work, Place::Child, "life_time", life.to_string(), &setting);
                    if ok && !never {
                        let soft = soft_of(life);
                        work.child.push(("rekey_time", soft.to_string()));
                        work.child.push(("rand_time", chance(soft, life)));
                    }
                }
                None => self.note(&mut work.result.comments, &setting, "not understood: no time"),
            }
        }
        for (life_key, margin_key, life_name, rekey_name) in [
            ("lifebytes", "marginbytes", "life_bytes", "rekey_bytes"),
            ("lifepackets", "marginpackets", "life_packets", "rekey_packets"),
        ] {
            let (life, margin) = (work.take(life_key), work.take(margin_key));
            let Some(life) = life else { continue };
            let number = life.value.parse::<u64>().ok().filter(|number| *number > 1);
            let Some(number) = number else {
                self.note(&mut work.result.comments, &life, "not understood: no number");
                continue;
            };
            if self.put(work, Place::Child, life_name, number.to_string(), &life) && !never {
                let margin = margin.as_ref().and_then(|setting| setting.value.parse::<u64>().ok());
                if let Some(soft) =
                    margin.and_then(|margin| number.checked_sub(margin)).filter(|soft| *soft > 0)
                {
                    work.child.push((rekey_name, soft.to_string()));
                }
            }
        }
    }

    fn liveness(&mut self, work: &mut Work) {
        let (action, delay) = (work.take("dpdaction"), work.take("dpddelay"));
        // Only IKEv1 has a time of its own for it.
        work.take("dpdtimeout");
        let word = action.as_ref().map(|setting| &*setting.value);
        if let Some("clear" | "hold" | "restart" | "restart-by-peer") = word {
            let word = match word {
                Some("clear") => "clear",
                Some("hold") => "trap",
                _ => "restart",
            };
            work.child.push(("dpd_action", word.to_owned()));
        } else if let Some(action) = action.as_ref().filter(|action| &*action.value != "none") {
            self.note(&mut work.result.comments, action, "not understood");
        }
        let on = action.as_ref().is_some_and(|action| &*action.value != "none")
            || (action.is_none() && self.dialect == Dialect::Libreswan && delay.is_some());
        match (on, delay) {
            (true, Some(delay)) => {
                self.put(work, Place::Ike, "dpd_delay", delay.value.to_string(), &delay);
            }
            (true, None) => work.result.ike.push(("dpd_delay", "30s".to_owned())),
            // It does nothing there either.
            (false, _) => {}
        }
        if let Some(setting) = work.take("closeaction") {
            let action = match &*setting.value {
                "none" | "clear" => Some("none"),
                "hold" | "trap" => Some("trap"),
                "restart" | "start" => Some("start"),
                _ => None,
            };
            match action {
                Some(action) => work.child.push(("close_action", action.to_owned())),
                None => self.note(&mut work.result.comments, &setting, "not understood"),
            }
        }
    }

    /// Keys that mean the same under another name.
    fn others(&mut self, work: &mut Work) {
        for (from, place, to) in [
            ("mobike", Place::Ike, "mobike"),
            ("fragmentation", Place::Ike, "fragmentation"),
            ("forceencaps", Place::Ike, "encap"),
            ("ikedscp", Place::Ike, "dscp"),
            ("retransmit-interval", Place::Ike, "retransmit_wait"),
            ("retransmit-timeout", Place::Ike, "retransmit_give_up"),
            ("inactivity", Place::Child, "inactivity"),
            ("replay-window", Place::Child, "replay_window"),
            ("compress", Place::Child, "ipcomp"),
            ("installpolicy", Place::Child, "policies"),
            ("reqid", Place::Child, "reqid"),
        ] {
            if let Some(setting) = work.take(from) {
                let value = match (from, &*setting.value) {
                    // Libreswan counts in milliseconds.
                    ("retransmit-interval", number) if number.bytes().all(|octet| octet.is_ascii_digit()) => {
                        format!("{number}ms")
                    }
                    (_, value) => value.to_owned(),
                };
                self.put(work, place, to, value, &setting);
            }
        }
        if let Some(setting) = work.take("encapsulation") {
            match &*setting.value {
                "yes" => work.result.ike.push(("encap", "yes".to_owned())),
                "auto" => {}
                _ => self.note(
                    &mut work.result.comments,
                    &setting,
                    "whether there is a NAT decides; it cannot be forbidden",
                ),
            }
        }
        if let Some(setting) = work.take("keyingtries") {
            let value = if &*setting.value == "%forever" { "0".into() } else { setting.value.to_string() };
            self.put(work, Place::Ike, "keyingtries", value, &setting);
        }
        if let Some(setting) = work.take("tfc") {
            let value = if &*setting.value == "%mtu" { "mtu".into() } else { setting.value.to_string() };
            self.put(work, Place::Child, "tfc_padding", value, &setting);
        }
        // What asks for nothing, or for what happens anyway.
        for (key, values) in [
            ("leftfirewall", &["no"][..]),
            ("rightfirewall", &["no"]),
            ("lefthostaccess", &["no"]),
            ("righthostaccess", &["no"]),
            ("sha2-truncbug", &["no"]),
            ("narrowing", &["yes"]),
            ("modeconfig", &["pull", "push"]),
            ("overlapip", &["no"]),
            ("nic-offload", &["no"]),
            ("phase2", &["esp"]),
            ("hostaddrfamily", &["ipv4", "ipv6"]),
            ("clientaddrfamily", &["ipv4", "ipv6"]),
            ("connaddrfamily", &["ipv4", "ipv6"]),
            ("leftsendcert", &["never", "no"]),
            ("rightsendcert", &["never", "no"]),
        ] {
            if work.left.get(key).is_some_and(|setting| values.contains(&&*setting.value)) {
                work.take(key);
            }
        }
    }

    /// Traffic, and the children that carry it.
    fn selectors(&mut self, work: &mut Work, name: &str) -> Result<(), String> {
        let mut sides = Vec::new();
        for (key, side) in [("local_ts", work.ours), ("remote_ts", work.theirs)] {
            let protocol = work.take(&format!("{side}protoport"));
            let networks = work.first(&[&format!("{side}subnet"), &format!("{side}subnetwithin")]);
            let several = work.take(&format!("{side}subnets"));
            let suffix = protocol.as_ref().and_then(|setting| protocol_of(&setting.value));
            if let (Some(setting), None) = (&protocol, &suffix) {
                self.note(&mut work.result.comments, setting, "not understood");
            }
            let suffix = suffix.unwrap_or_default();
            let with_suffix = |network: &str| {
                if network.contains('[') { network.to_owned() } else { format!("{network}{suffix}") }
            };
            let mut alternatives = Vec::new();
            for (setting, one) in several.iter().map(|s| (s, false)).chain(networks.iter().map(|s| (s, true)))
            {
                let items: Vec<String> = unquote(&setting.value)
                    .split(|c: char| c == ',' || c.is_whitespace())
                    .filter(|item| !item.is_empty())
                    .map(with_suffix)
                    .collect();
                // strongSwan: one SA for all of them. Libreswan's list of subnets: one for each.
                let values = if one { vec![items.join(", ")] } else { items };
                for value in values {
                    let value = quote(&value);
                    if let Err(why) = self.accepts(Place::Child, key, &value) {
                        // Without it more would pass in the clear.
                        if !work.result.peer {
                            return Err(format!("`{}`: {why}", setting.key));
                        }
                        self.note(&mut work.result.comments, setting, &why);
                    } else {
                        alternatives.push(Some(value));
                    }
                }
            }
            if alternatives.is_empty() {
                alternatives.push((!suffix.is_empty()).then(|| format!("dynamic{suffix}")));
            }
            sides.push((key, alternatives));
        }
        let [(local_key, locals), (remote_key, remotes)] = sides.as_slice() else { return Ok(()) };
        let longest = |all: &[Option<String>]| all.iter().flatten().map(String::len).max().unwrap_or(0);
        let settings: usize = work.child.iter().map(|(key, value)| key.len() + value.len() + 20).sum();
        let each = name.len() + settings + longest(locals) + longest(remotes) + 100;
        let size = locals.len().saturating_mul(remotes.len()).saturating_mul(each);
        self.room = self.room.checked_sub(size).ok_or_else(|| {
            format!("{} times {} subnets are too many with all the rest", locals.len(), remotes.len())
        })?;
        let single = locals.len() == 1 && remotes.len() == 1;
        for (local_number, local) in (1..).zip(locals) {
            for (remote_number, remote) in (1..).zip(remotes) {
                let mut child = Settings::new();
                child.extend(local.clone().map(|value| (*local_key, value)));
                child.extend(remote.clone().map(|value| (*remote_key, value)));
                child.extend(work.child.iter().cloned());
                let name =
                    if single { name.to_owned() } else { format!("{name}-{local_number}x{remote_number}") };
                work.result.children.push((name, child));
            }
        }
        Ok(())
    }

    /// Adds a setting if the language takes it, or reports what it says. `true`: it does.
    fn put(
        &mut self,
        work: &mut Work,
        place: Place,
        key: &'static str,
        value: String,
        from: &Setting,
    ) -> bool {
        // Whatever stands in the file: it stays one value.
        let value = quote(&value);
        match self.accepts(place, key, &value) {
            Ok(()) => {
                work.settings(place).push((key, value));
                true
            }
            Err(why) => {
                self.note(&mut work.result.comments, from, &why);
                false
            }
        }
    }

    /// Asks the language by a configuration that has nothing else that could be wrong.
    fn accepts(&mut self, place: Place, key: &'static str, value: &str) -> Result<(), String> {
        let cached = (place as u8, key, value.to_owned());
        let answer = self.taken.entry(cached).or_insert_with(|| {
            let at = |this: Place| if this == place { format!("{key} = {value}\n") } else { String::new() };
            let text = format!(
                "connections {{\n x {{\n{}local {{\n auth = psk\n{}}}\nremote {{\n auth = psk\n{}}}\nchildren {{\n y {{\n{}}}\n}}\n}}\n}}\n",
                at(Place::Ike),
                at(Place::Local),
                at(Place::Remote),
                at(Place::Child)
            );
            let error = check(&text).err()?.errors.into_iter().next();
            Some(error.map_or_else(String::new, |error| match error.expected {
                Some(expected) => format!("{}; expected {expected}", error.message),
                None => error.message,
            }))
        });
        answer.clone().map_or(Ok(()), Err)
    }
}

impl Work {
    fn take(&mut self, key: &str) -> Option<Setting> {
        self.left.remove(key)
    }

    /// The first of several names of one thing; the others count no more.
    fn first(&mut self, keys: &[&str]) -> Option<Setting> {
        keys.iter().filter_map(|key| self.left.remove(*key)).next()
    }

    fn settings(&mut self, place: Place) -> &mut Settings {
        match place {
            Place::Ike => &mut self.result.ike,
            Place::Local => &mut self.result.local,
            Place::Remote => &mut self.result.remote,
            Place::Child => &mut self.child,
        }
    }
}

/// Connections that say the same about their peer are one IKE SA there, so they are one connection here.
fn merge(all: &mut Vec<Connection>, new: Connection) {
    let same = |old: &&mut Connection| {
        old.peer && new.peer && old.ike == new.ike && old.local == new.local && old.remote == new.remote
    };
    match all.iter_mut().find(same) {
        Some(old) => {
            for comment in new.comments {
                if !old.comments.contains(&comment) {
                    old.comments.push(comment);
                }
            }
            old.children.extend(new.children);
        }
        None => all.push(new),
    }
}

/// A name that a section can have and no other has.
fn section_name(name: &str, names: &mut HashSet<String>) -> String {
    let allowed = |c: char| c.is_ascii_graphic() && !".,:{}=\"#".contains(c);
    let mut clean: String = name.chars().take(200).map(|c| if allowed(c) { c } else { '-' }).collect();
    if clean.is_empty() || clean == "include" {
        clean.push('-');
    }
    while !names.insert(clean.clone()) {
        clean.push('-');
    }
    clean
}

/// Seconds of a time as these programs write it.
fn seconds(value: &str) -> Option<u64> {
    let digits = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
    let (number, unit) = value.split_at_checked(digits)?;
    let factor = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 604_800,
        _ => return None,
    };
    number.parse::<u32>().ok().map(|number| u64::from(number) * factor)
}

/// `6/80` as `[tcp/80]`.
fn protocol_of(value: &str) -> Option<String> {
    let (protocol, port) =
        value.split_once('/').map_or((value, None), |(protocol, port)| (protocol, Some(port)));
    let protocol = match protocol {
        "%any" | "0" => return port.is_none_or(|port| port == "%any").then(String::new),
        "6" => "tcp",
        "17" => "udp",
        "1" => "icmp",
        "58" => "icmpv6",
        "132" => "sctp",
        other => other,
    };
    Some(match port {
        None | Some("%any" | "0" | "") => format!("[{protocol}]"),
        Some("%opaque") => format!("[{protocol}/opaque]"),
        Some(port) => format!("[{protocol}/{port}]"),
    })
}

/// Why a key that is left over is left over.
fn reason(key: &str) -> &'static str {
    let side = key.strip_prefix("left").or_else(|| key.strip_prefix("right"));
    match side.unwrap_or(key) {
        "cert" | "cert2" | "ca" | "ca2" | "sendcert" | "sigkey" | "rsasigkey" | "rsasigkey2" | "ecdsakey"
        | "ckaid" | "certpolicy" | "groups" | "groups2" | "pubkey" | "ecdsasigkey" => CERTIFICATES,
        "sourceip" | "dns" | "addresspool" | "modecfgdns" | "modecfgdomains" | "modecfgclient"
        | "modecfgserver" | "cat" => ADDRESSES,
        "updown" | "firewall" | "hostaccess" => SCRIPT,
        "id2" | "eap-identity" | "aaa-identity" | "eap_identity" => EAP,
        "xauth" | "xauth-identity" | "xauthclient" | "xauthserver" | "xauthusername" | "xauthby"
        | "modeconfig" => IKEV1,
        "mark" | "mark-in" | "mark-out" | "if-id-in" | "if-id-out" | "vti-interface" | "vti-routing"
        | "vti-shared" | "ipsec-interface" | "interface-ip" | "vti" => INTERFACE,
        "nexthop" => "the routing table decides",
        "mediation" | "mediated-by" | "me-peerid" | "sha2-truncbug" | "nic-offload" | "labeled-ipsec"
        | "sec-label" | "policy-label" => "not done yet",
        "ppk" => "write `ppk_id` and `ppk_required`, and the key as `secrets.ppk*`",
        "mtu" => "`mtu` in the section `gateway`, or `interface_mtu` in the connection",
        "priority" => "here the smallest number decides; write `priority` into the child",
        "compress" => "compression is not done",
        _ => "not understood",
    }
}
