//! The hosts that a connection string names.

use std::path::PathBuf;

use tokio_postgres::config::Host;

use crate::config::socket_folder;
use crate::error::{Code, Error, Result};

const DEFAULT_PORT: u16 = 5432;

/// One host of the connection string with its port.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// The name that TLS verifies and errors print.
    pub(crate) name: String,
    pub(crate) address: Address,
    pub(crate) port: u16,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// A host name or an IP address.
    Tcp(String),
    /// The socket's directory.
    Unix(PathBuf),
}

impl Endpoint {
    pub(crate) fn describe(&self) -> String {
        format!("{}:{}", self.name, self.port)
    }
}

/// Pairs hosts, addresses and ports as libpq does: one port serves all hosts, or each has its own.
pub(crate) fn all(pg: &tokio_postgres::Config) -> Result<Vec<Endpoint>> {
    let (hosts, addresses, ports) = (pg.get_hosts(), pg.get_hostaddrs(), pg.get_ports());
    let count = hosts.len().max(addresses.len());
    let refuse = |message: &str| Err(Error::fatal(Code::Config, message));
    if count == 0 {
        return refuse("the database URL names no host");
    }
    if !hosts.is_empty() && !addresses.is_empty() && hosts.len() != addresses.len() {
        return refuse("the database URL names a different number of hosts and host addresses");
    }
    if ports.len() > 1 && ports.len() != count {
        return refuse("the database URL names a different number of hosts and ports");
    }
    let endpoint = |i: usize| {
        let (host, address) = (hosts.get(i), addresses.get(i).map(ToString::to_string));
        let name = match host {
            Some(Host::Tcp(name)) => name.clone(),
            Some(Host::Unix(folder)) => folder.display().to_string(),
            None => address.clone().unwrap_or_default(),
        };
        let address = match (address, host) {
            (Some(address), _) => Address::Tcp(address),
            (None, host) => match host.and_then(socket_folder) {
                Some(folder) => Address::Unix(folder),
                None => Address::Tcp(name.clone()),
            },
        };
        let port = ports
            .get(i)
            .or(ports.first())
            .copied()
            .unwrap_or(DEFAULT_PORT);
        Endpoint {
            name,
            address,
            port,
        }
    };
    Ok((0..count).map(endpoint).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn described(url: &str) -> Result<Vec<String>, String> {
        let found = all(&url.parse().unwrap()).map_err(|e| e.message().to_owned())?;
        Ok(found.iter().map(Endpoint::describe).collect())
    }

    #[test]
    fn hosts_and_ports_pair_up_as_libpq_pairs_them() {
        assert_eq!(
            described("host=a,b,c port=1,2,3").unwrap(),
            ["a:1", "b:2", "c:3"]
        );
        assert_eq!(
            described("host=a,/run/pg port=7").unwrap(),
            ["a:7", "/run/pg:7"]
        );
        assert_eq!(
            described("postgresql://u@a,b:6/d").unwrap(),
            ["a:5432", "b:6"]
        );
        assert_eq!(described("hostaddr=127.0.0.1").unwrap(), ["127.0.0.1:5432"]);
        assert!(
            described("host=a,b,c port=1,2")
                .unwrap_err()
                .contains("ports")
        );
        assert!(described("user=u").unwrap_err().contains("no host"));
    }

    #[test]
    fn a_name_that_begins_with_an_at_sign_is_an_abstract_socket() {
        let found = all(&"host=@outbox port=7".parse().unwrap()).unwrap();
        let expected = Endpoint {
            name: "@outbox".into(),
            address: Address::Unix("\0outbox".into()),
            port: 7,
        };
        assert_eq!(found, [expected]);
    }

    #[test]
    fn an_address_beside_a_name_is_where_to_connect_and_the_name_what_tls_checks() {
        let pg = "host=db.example hostaddr=127.0.0.1".parse().unwrap();
        let expected = Endpoint {
            name: "db.example".into(),
            address: Address::Tcp("127.0.0.1".into()),
            port: DEFAULT_PORT,
        };
        assert_eq!(all(&pg).unwrap(), [expected]);
    }
}
