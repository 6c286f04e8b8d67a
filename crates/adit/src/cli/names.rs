//! What a NAME on the command line means: a connection, a child, or CONNECTION/CHILD.

use std::fmt;

use crate::control::client::{Client, ClientError};
use crate::control::vici::Message;

/// The names a daemon knows.
#[derive(Debug, Default)]
pub(super) struct Names(Vec<(String, Vec<String>)>);

/// What was named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// All of a connection.
    Connection(String),
    /// One child.
    Child {
        /// Its connection.
        connection: String,
        /// Its name.
        child: String,
    },
}

impl Named {
    /// As the daemon's commands take it.
    pub(super) fn arguments(&self) -> Message {
        let mut arguments = Message::new();
        match self {
            Self::Connection(connection) => arguments.put("ike", connection),
            Self::Child { connection, child } => arguments.put("child", child).put("ike", connection),
        };
        arguments
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connection(connection) => f.write_str(connection),
            Self::Child { connection, child } => write!(f, "{connection}/{child}"),
        }
    }
}

/// Why a name means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NameError {
    #[error("no connection or child is named `{name}`; the daemon has {known}")]
    Unknown { name: String, known: String },
    #[error("several connections have a child `{name}`: say which one, as in {examples}")]
    Ambiguous { name: String, examples: String },
}

impl Names {
    /// Asks for what is configured.
    pub(super) fn configured(client: &mut Client) -> Result<Self, ClientError> {
        let mut names = Self::default();
        client.streamed("list-conns", Message::new(), "list-conn", |event| {
            for (connection, section) in event.sections() {
                let children = section.section("children").into_iter().flat_map(Message::sections);
                names.add(connection, children.map(|(child, _)| child.to_owned()));
            }
        })?;
        Ok(names)
    }

    /// Asks for what is up, too: an SA can outlive its configuration.
    pub(super) fn add_established(&mut self, client: &mut Client) -> Result<(), ClientError> {
        client.streamed("list-sas", Message::new(), "list-sa", |event| {
            for (connection, section) in event.sections() {
                let children = section.section("child-sas").into_iter().flat_map(Message::sections);
                let children = children.filter_map(|(_, child)| Some(child.text("name")?.into_owned()));
                self.add(connection, children);
            }
        })?;
        Ok(())
    }

    fn add(&mut self, connection: &str, children: impl Iterator<Item = String>) {
        if !self.0.iter().any(|(name, _)| name == connection) {
            self.0.push((connection.to_owned(), Vec::new()));
        }
        if let Some((_, known)) = self.0.iter_mut().find(|(name, _)| name == connection) {
            for child in children {
                if !known.contains(&child) {
                    known.push(child);
                }
            }
        }
    }

    /// Finds what `name` means. A connection comes before a child of the same name.
    pub(super) fn find(&self, name: &str) -> Result<Named, NameError> {
        if self.0.iter().any(|(connection, _)| connection == name) {
            return Ok(Named::Connection(name.to_owned()));
        }
        let pairs = || {
            self.0
                .iter()
                .flat_map(|(connection, children)| children.iter().map(move |child| (connection, child)))
        };
        let named = |(connection, child): (&String, &String)| Named::Child {
            connection: connection.clone(),
            child: child.clone(),
        };
        let whole = |(connection, child): &(&String, &String)| {
            name.strip_prefix(connection.as_str()).and_then(|rest| rest.strip_prefix('/')) == Some(child)
        };
        if let Some(pair) = pairs().find(whole) {
            return Ok(named(pair));
        }
        let mut children = pairs().filter(|(_, child)| *child == name);
        match (children.next(), children.next()) {
            (Some(pair), None) => Ok(named(pair)),
            (Some(first), Some(second)) => Err(NameError::Ambiguous {
                name: name.to_owned(),
                examples: format!("`{}` or `{}`", named(first), named(second)),
            }),
            (None, _) => Err(NameError::Unknown { name: name.to_owned(), known: self.known() }),
        }
    }

    fn known(&self) -> String {
        const SHOWN: usize = 8;
        let names: Vec<String> = self
            .0
            .iter()
            .flat_map(|(connection, children)| {
                children.iter().map(move |child| format!("`{connection}/{child}`"))
            })
            .collect();
        match names.get(..SHOWN) {
            _ if names.is_empty() => "none".to_owned(),
            Some(shown) if names.len() > SHOWN => {
                format!("{} and {} more", shown.join(", "), names.len() - SHOWN)
            }
            _ => names.join(", "),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn child(connection: &str, child: &str) -> Named {
        Named::Child { connection: connection.into(), child: child.into() }
    }

    #[test]
    fn names_are_found() {
        let mut names = Names::default();
        let add = |names: &mut Names, connection: &str, children: &[&str]| {
            names.add(connection, children.iter().map(ToString::to_string));
        };
        assert!(names.find("gw").is_err());
        add(&mut names, "gw", &["net", "lab", "gw"]);
        add(&mut names, "site", &["net", "b/c"]);
        add(&mut names, "site/b", &["d"]);
        assert_eq!(names.find("gw"), Ok(Named::Connection("gw".into())));
        assert_eq!(names.find("gw/gw"), Ok(child("gw", "gw")));
        assert_eq!(names.find("lab"), Ok(child("gw", "lab")));
        assert_eq!(names.find("site/net"), Ok(child("site", "net")));
        assert_eq!(names.find("site/b/c"), Ok(child("site", "b/c")));
        assert_eq!(names.find("site/b/d"), Ok(child("site/b", "d")));
        let error = names.find("net").unwrap_err().to_string();
        assert!(error.contains("`gw/net` or `site/net`"), "{error}");
        for wrong in ["", "/", "gw/", "/net", "gw/other", "GW"] {
            assert!(matches!(names.find(wrong), Err(NameError::Unknown { .. })), "{wrong}");
        }
        add(&mut names, "gw", &["new", "net"]);
        assert_eq!(names.find("new"), Ok(child("gw", "new")));
        let many: Vec<String> = (0..20).map(|n| format!("c{n}")).collect();
        names.add("many", many.into_iter());
        assert!(names.find("x").unwrap_err().to_string().ends_with("and 19 more"));
    }
}
