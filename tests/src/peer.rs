//! What every gateway under test can do, whoever made it: one configuration, one set of verbs, one view of its SAs.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};

use crate::lab::{Family, Side};
use crate::process::eventually;

/// The name of the connection in every configuration.
pub const CONNECTION: &str = "gw";
/// The name of the child in every configuration.
pub const CHILD: &str = "net";
/// The pre-shared key unless a test chooses another.
pub const SECRET: &str = "lab-secret-0123456789-not-for-use";

/// One connection with one child, written as `swanctl.conf` for either implementation.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Our outer address.
    pub local_addrs: String,
    /// The peer's, or `%any`.
    pub remote_addrs: String,
    /// Our identity.
    pub local_id: String,
    /// The peer's identity.
    pub remote_id: String,
    /// How we authenticate, as lines of the `local` section.
    pub local_auth: String,
    /// How the peer does.
    pub remote_auth: String,
    /// Whose secret it is; the peer's identity unless a test is about that.
    pub secret_id: String,
    /// The pre-shared key.
    pub secret: String,
    /// IKE proposals.
    pub proposals: String,
    /// ESP proposals.
    pub esp_proposals: String,
    /// Our networks.
    pub local_ts: String,
    /// The peer's networks.
    pub remote_ts: String,
    /// Force UDP encapsulation.
    pub encap: bool,
    /// More lines for the connection.
    pub extra: String,
    /// More lines for the child.
    pub child_extra: String,
    /// More children, as sections.
    pub more_children: String,
    /// More sections beside `connections` and `secrets`.
    pub more: String,
}

impl Connection {
    /// The gateway of `side`, protecting both families of both private networks.
    pub fn new(side: Side, outer: Family, proposals: &str, esp_proposals: &str) -> Self {
        Self {
            local_addrs: side.outer(outer).to_owned(),
            remote_addrs: side.other().outer(outer).to_owned(),
            local_id: side.id().to_owned(),
            remote_id: side.other().id().to_owned(),
            local_auth: "auth = psk".to_owned(),
            remote_auth: "auth = psk".to_owned(),
            secret_id: side.other().id().to_owned(),
            secret: SECRET.to_owned(),
            proposals: proposals.to_owned(),
            esp_proposals: esp_proposals.to_owned(),
            local_ts: side.networks(),
            remote_ts: side.other().networks(),
            encap: false,
            extra: String::new(),
            child_extra: String::new(),
            more_children: String::new(),
            more: String::new(),
        }
    }

    /// The `connections` and `secrets` sections.
    pub fn render(&self) -> String {
        let encap = if self.encap { "encap = yes" } else { "" };
        format!(
            "connections {{
  {CONNECTION} {{
    version = 2
    local_addrs = {}
    remote_addrs = {}
    proposals = {}
    {encap}
    {}
    local {{
      {}
      id = {}
    }}
    remote {{
      {}
      id = {}
    }}
    children {{
      {CHILD} {{
        local_ts = {}
        remote_ts = {}
        esp_proposals = {}
        {}
      }}
      {}
    }}
  }}
}}
secrets {{
  ike-1 {{
    id-a = {}
    id-b = {}
    secret = \"{}\"
  }}
}}
{}",
            self.local_addrs,
            self.remote_addrs,
            self.proposals,
            self.extra,
            self.local_auth,
            self.local_id,
            self.remote_auth,
            self.remote_id,
            self.local_ts,
            self.remote_ts,
            self.esp_proposals,
            self.child_extra,
            self.more_children,
            self.local_id,
            self.secret_id,
            self.secret,
            self.more,
        )
    }
}

/// An IKE SA as its gateway reports it (vici's `list-sas`).
#[derive(Clone, Debug)]
pub struct IkeSa {
    /// The connection's name.
    pub connection: String,
    /// `ESTABLISHED` and so on.
    pub state: String,
    /// Every other value, by its vici name.
    pub values: BTreeMap<String, String>,
    /// Its Child SAs.
    pub children: Vec<ChildSa>,
}

/// A Child SA as its gateway reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildSa {
    /// The child's name.
    pub name: String,
    /// `INSTALLED` and so on.
    pub state: String,
    /// Every other value, by its vici name.
    pub values: BTreeMap<String, String>,
}

impl ChildSa {
    /// A value by its vici name, such as `spi-in`.
    pub fn value(&self, name: &str) -> Result<&str> {
        self.values.get(name).map(String::as_str).with_context(|| format!("no {name} in {:?}", self.values))
    }

    /// A counter by its vici name, such as `packets-in`.
    pub fn counter(&self, name: &str) -> Result<u64> {
        self.value(name)?.parse().with_context(|| format!("{name} is not a number"))
    }

    /// Is ESP carried in UDP?
    pub fn encap(&self) -> bool {
        self.values.get("encap").is_some_and(|value| value == "yes")
    }
}

/// What is to be rekeyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rekey {
    /// The Child SA.
    Child,
    /// The IKE SA.
    Ike,
}

impl Rekey {
    /// `swanctl`'s words for it.
    pub fn arguments(self) -> [&'static str; 3] {
        match self {
            Self::Child => ["--rekey", "--child", CHILD],
            Self::Ike => ["--rekey", "--ike", CONNECTION],
        }
    }
}

/// A gateway under test.
pub trait Peer {
    /// Which side it is the gateway of.
    fn side(&self) -> Side;
    /// Brings the child up and waits for the answer; the error holds what the gateway said.
    fn initiate(&self) -> Result<String>;
    /// Takes the child down, leaving the IKE SA.
    fn terminate_child(&self) -> Result<String>;
    /// Takes the IKE SA down with all that is in it.
    fn terminate(&self) -> Result<String>;
    /// Has keys replaced; returns when that is under way.
    fn rekey(&self, what: Rekey) -> Result<()>;
    /// All its IKE SAs.
    fn sas(&self) -> Result<Vec<IkeSa>>;
    /// Its log so far.
    fn log(&self) -> String;

    /// All its IKE SAs with all that vici tells of them.
    fn facts(&self) -> Result<Vec<IkeSa>> {
        self.sas()
    }

    /// The one IKE SA with its one child, if there is no other one, being replaced or deleted.
    fn only(&self) -> Result<Option<(IkeSa, ChildSa)>> {
        let mut sas = self.facts()?;
        let (Some(sa), true) = (sas.pop(), sas.is_empty()) else { return Ok(None) };
        let mut installed = sa.children.iter().filter(|child| child.state == "INSTALLED");
        let (Some(child), None) = (installed.next().cloned(), installed.next()) else { return Ok(None) };
        Ok((sa.state == "ESTABLISHED").then_some((sa, child)))
    }

    /// The one Child SA that is installed, if it is exactly one.
    fn child(&self) -> Result<Option<ChildSa>> {
        let mut installed: Vec<ChildSa> = self
            .sas()?
            .into_iter()
            .filter(|sa| sa.state == "ESTABLISHED")
            .flat_map(|sa| sa.children)
            .filter(|child| child.state == "INSTALLED")
            .collect();
        Ok(if installed.len() == 1 { installed.pop() } else { None })
    }

    /// Waits until exactly one Child SA is installed.
    fn wait_for_child(&self) -> Result<ChildSa> {
        eventually(
            &format!("an installed Child SA at side {:?}", self.side()),
            Duration::from_secs(15),
            || self.child(),
        )
    }

    /// Waits until no SA is left.
    fn wait_for_nothing(&self) -> Result<()> {
        eventually(&format!("side {:?} to have no SA left", self.side()), Duration::from_secs(15), || {
            Ok(self.sas()?.is_empty().then_some(()))
        })
    }

    /// How many lines of its log contain all `parts`.
    fn count_log(&self, parts: &[&str]) -> usize {
        self.log().lines().filter(|line| parts.iter().all(|part| line.contains(part))).count()
    }

    /// Waits for a line of its log that contains all `parts`, and returns it.
    fn wait_for_log(&self, parts: &[&str]) -> Result<String> {
        eventually(
            &format!("a log line of side {:?} with {parts:?}", self.side()),
            Duration::from_secs(15),
            || {
                Ok(self
                    .log()
                    .lines()
                    .find(|line| parts.iter().all(|part| line.contains(part)))
                    .map(str::to_owned))
            },
        )
    }
}

/// Has one gateway replace keys and waits until both have the new ones only, and the same. Everything that is
/// asked of either goes over its control socket, so it works over a bad link too.
pub fn rekey_and_wait(by: &dyn Peer, other: &dyn Peer, what: Rekey, limit: Duration) -> Result<()> {
    let look = || -> Result<Option<[String; 2]>> {
        let (Some(ours), Some(theirs)) = (by.only()?, other.only()?) else { return Ok(None) };
        let spis = |sa: &(IkeSa, ChildSa), inbound: &str, outbound: &str| -> Result<[String; 2]> {
            let value =
                |name: &str| sa.0.values.get(name).cloned().with_context(|| format!("{name}: {sa:?}"));
            Ok([
                format!("{} {}", value("initiator-spi")?, value("responder-spi")?),
                format!("{} {}", sa.1.value(inbound)?, sa.1.value(outbound)?),
            ])
        };
        let (one, two) = (spis(&ours, "spi-in", "spi-out")?, spis(&theirs, "spi-out", "spi-in")?);
        Ok((one == two).then_some(one))
    };
    let before = eventually("the same SAs at both sides", limit, look)?;
    by.rekey(what)?;
    eventually(&format!("{what:?} rekeyed by side {}", by.side()), limit, || {
        let Some(now) = look()? else { return Ok(None) };
        let changed = [now.first() != before.first(), now.last() != before.last()];
        Ok((changed == [what == Rekey::Ike, what == Rekey::Child]).then_some(()))
    })
    .with_context(|| format!("{:?}\n{:?}", by.facts(), other.facts()))
}

/// Waits until what one gateway counts as sent is what the other counts as received, both ways, and returns the
/// two numbers (first to second, second to first).
pub fn equal_counters(one: &dyn Peer, two: &dyn Peer) -> Result<(u64, u64)> {
    let mut last = String::new();
    let outcome = eventually("equal packet counters", Duration::from_secs(10), || {
        let (Some(first), Some(second)) = (one.child()?, two.child()?) else { bail!("an SA is gone") };
        ensure!(
            first.value("spi-in")? == second.value("spi-out")?
                && first.value("spi-out")? == second.value("spi-in")?,
            "the gateways speak of different SAs: {first:?} {second:?}"
        );
        let sent = (first.counter("packets-out")?, second.counter("packets-out")?);
        let received = (second.counter("packets-in")?, first.counter("packets-in")?);
        last = format!("sent {sent:?}, received {received:?}");
        Ok((sent == received).then_some(sent))
    });
    outcome.context(last)
}

/// Reads IKE SAs from JSON in the shape of vici's `list-sa` events: `{connection: {.., "child-sas": {..}}}`, or a
/// list of those.
pub fn sas_from_json(value: &Value) -> Result<Vec<IkeSa>> {
    let mut found = Vec::new();
    let events: Vec<&Map<String, Value>> = match value {
        Value::Array(events) => events.iter().filter_map(Value::as_object).collect(),
        Value::Object(event) => vec![event],
        other => bail!("neither an object nor a list: {other}"),
    };
    for (connection, sa) in events.into_iter().flatten() {
        let sa = sa.as_object().with_context(|| format!("{connection} is not an object"))?;
        let mut children = Vec::new();
        if let Some(Value::Object(sections)) = sa.get("child-sas") {
            for child in sections.values().filter_map(Value::as_object) {
                let mut values = scalars(child);
                let name = values.remove("name").context("a child without a name")?;
                let state = values.remove("state").context("a child without a state")?;
                children.push(ChildSa { name, state, values });
            }
        }
        let mut values = scalars(sa);
        let state = values.remove("state").context("an IKE SA without a state")?;
        found.push(IkeSa { connection: connection.clone(), state, values, children });
    }
    Ok(found)
}

fn scalars(section: &Map<String, Value>) -> BTreeMap<String, String> {
    section
        .iter()
        .filter_map(|(name, value)| {
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                Value::Bool(true) => "yes".to_owned(),
                Value::Array(items) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
                _ => return None,
            };
            Some((name.clone(), text))
        })
        .collect()
}

/// Reads the output of `swanctl --raw`, such as `list-sa event {gw {uniqueid=1 child-sas {..}}}`, one value for
/// each event.
pub fn raw_events(text: &str) -> Result<Vec<Value>> {
    let mut events = Vec::new();
    for line in text.lines() {
        if let Some((head, rest)) = line.split_once(" event ") {
            ensure!(!head.contains('{'), "not an event: {line}");
            let mut rest = rest.trim().strip_prefix('{').with_context(|| format!("no section: {line}"))?;
            events.push(Value::Object(raw_section(&mut rest)?));
        }
    }
    Ok(events)
}

fn raw_section(rest: &mut &str) -> Result<Map<String, Value>> {
    let mut section = Map::new();
    loop {
        *rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix('}') {
            *rest = after;
            return Ok(section);
        }
        let end = rest.find(['=', '{']).with_context(|| format!("neither value nor section: {rest}"))?;
        let (name, after) = rest.split_at(end);
        let name = name.trim().to_owned();
        if let Some(after) = after.strip_prefix('{') {
            *rest = after;
            section.insert(name, Value::Object(raw_section(rest)?));
        } else if let Some((list, after)) = after.strip_prefix("=[").and_then(|after| after.split_once(']')) {
            *rest = after;
            section.insert(name, Value::Array(list.split_whitespace().map(Value::from).collect()));
        } else {
            let after = after.strip_prefix('=').unwrap_or(after);
            let end = after.find([' ', '}']).with_context(|| format!("endless value: {after}"))?;
            let (value, after) = after.split_at(end);
            *rest = after;
            section.insert(name, Value::from(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_output_of_swanctl_is_understood() {
        // As Debian's swanctl 5.9.8 prints it, shortened.
        let text = "list-sa event {gw {uniqueid=1 state=ESTABLISHED encr-alg=AES_GCM_16 child-sas {net-1 {name=net \
                    state=INSTALLED spi-in=c1 packets-in=7 local-ts=[10.1.0.0/24 fd00:1::/64]}}}}\nlist-sas reply {}\n";
        let events = raw_events(text).unwrap();
        let sas = sas_from_json(&Value::Array(events)).unwrap();
        assert_eq!(sas.len(), 1);
        let sa = sas.first().unwrap();
        assert_eq!((sa.connection.as_str(), sa.state.as_str()), ("gw", "ESTABLISHED"));
        let child = sa.children.first().unwrap();
        assert_eq!(child.counter("packets-in").unwrap(), 7);
        assert_eq!(child.value("local-ts").unwrap(), "10.1.0.0/24 fd00:1::/64");
    }

    #[test]
    fn broken_raw_output_is_refused() {
        assert!(raw_events("list-sa event {gw {uniqueid=1").is_err());
        assert!(raw_events("list-sa event gw").is_err());
    }
}
