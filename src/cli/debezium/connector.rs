//! A connector's options by their names in Kafka Connect, whatever product runs the connector.
//!
//! Debezium Server puts prefixes before the same names. An option is taken out when it is read, so
//! that what is left at the end was read by nothing.

use std::collections::BTreeMap;

use crate::cli::debezium::properties::{self, Unreadable};

/// One option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given {
    /// Its name in the file.
    pub(super) name: String,
    pub(super) value: String,
}

/// What has no transformation, and whose prefix is left out.
const SOURCE: &str = "debezium.source.";

/// The prefixes of Debezium Server of which only the first word is left out.
const SERVERS: [&str; 4] = ["transforms", "predicates", "sink", "format"];

/// See the module's head.
#[derive(Debug)]
pub(super) struct Connector {
    pub(super) name: Option<String>,
    /// It is run by Debezium Server, and else by Kafka Connect.
    pub(super) is_server: bool,
    options: BTreeMap<String, Given>,
}

impl Connector {
    /// Reads a file.
    pub(super) fn read(text: &str) -> Result<Connector, Unreadable> {
        let read = properties::read(text)?;
        let is_server = read
            .pairs
            .iter()
            .any(|(name, _)| name.starts_with("debezium."));
        let options = read.pairs.into_iter().map(|(name, value)| {
            let known = known_name(&name).to_owned();
            let value = value.trim().to_owned();
            (known, Given { name, value })
        });
        let mut connector = Connector {
            name: None,
            is_server,
            options: options.collect(),
        };
        let own_name = connector.value("name");
        connector.name = read.name.or(own_name);
        Ok(connector)
    }

    /// Takes out an option. An empty one is as good as none.
    pub(super) fn take(&mut self, name: &str) -> Option<Given> {
        let given = self.options.remove(name)?;
        (!given.value.is_empty()).then_some(given)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.options.contains_key(name)
    }

    /// Takes out the value of an option.
    pub(super) fn value(&mut self, name: &str) -> Option<String> {
        self.take(name).map(|given| given.value)
    }

    /// Takes out the options with this prefix, by the rest of their names.
    pub(super) fn below(&mut self, prefix: &str) -> BTreeMap<String, Given> {
        let all = std::mem::take(&mut self.options);
        let (below, others): (BTreeMap<_, _>, BTreeMap<_, _>) = all
            .into_iter()
            .partition(|(name, _)| name.starts_with(prefix));
        self.options = others;
        let below = below.into_iter();
        below
            .map(|(name, given)| (name[prefix.len()..].to_owned(), given))
            .collect()
    }

    /// The options that were not taken out, by their names in Kafka Connect.
    pub(super) fn rest(self) -> impl Iterator<Item = (String, Given)> {
        self.options.into_iter()
    }
}

/// The name that Kafka Connect has for an option of Debezium Server.
fn known_name(name: &str) -> &str {
    if let Some(name) = name.strip_prefix(SOURCE) {
        return name;
    }
    let Some(rest) = name.strip_prefix("debezium.") else {
        return name;
    };
    let is_servers = |prefix: &&str| {
        let after = rest.strip_prefix(*prefix);
        after.is_some_and(|after| after.is_empty() || after.starts_with('.'))
    };
    match SERVERS.iter().any(is_servers) {
        true => rest,
        false => name,
    }
}
