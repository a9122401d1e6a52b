//! Which `[node.*]` of the configuration this host is.

use std::net::IpAddr;

use crate::config::plan::Node;

/// The environment variable that names the node, unless the command line does.
pub const VARIABLE: &str = "LOCKGATE_NODE";

/// What a host knows about itself.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// What [`VARIABLE`] says.
    variable: Option<String>,
    /// Its name.
    name: Option<String>,
    /// Addresses of all its interfaces.
    addresses: Vec<IpAddr>,
}

/// Why there is no telling which node this is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// It was named, wrongly.
    #[error("{by} names the node '{name}', {}", match nodes.as_slice() {
        [] => "but the configuration has no [node.*]".to_owned(),
        nodes => format!("which is none of {}", nodes.join(", ")),
    })]
    Named {
        /// Where.
        by: &'static str,
        /// The name.
        name: String,
        /// Those that there are.
        nodes: Vec<String>,
    },
    /// Nothing says so.
    #[error(
        "this host{} is none of the nodes {}: it has the name and the address of none of them; \
         say which it is with --node or {VARIABLE}",
        host.as_ref().map(|name| format!(" ({name})")).unwrap_or_default(),
        nodes.join(", ")
    )]
    Nobody {
        /// Its name.
        host: Option<String>,
        /// Those that there are.
        nodes: Vec<String>,
    },
}

impl Host {
    /// This host. What it cannot find out about itself it does not know.
    pub fn this() -> Self {
        let addresses = nix::ifaddrs::getifaddrs().into_iter().flatten().filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        });
        Self {
            variable: std::env::var(VARIABLE).ok(),
            name: nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()),
            addresses: addresses.collect(),
        }
    }

    /// Whether an address is one of its own.
    pub fn has(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address)
    }

    /// Which of `nodes` this host is: the one that was `named` on the command line, else by the
    /// environment, else the one of its name, else the one of an address of its own. `None` if
    /// there are no nodes.
    pub fn choose<'a>(
        &self,
        nodes: &'a [Node],
        named: Option<&str>,
    ) -> Result<Option<&'a Node>, Unknown> {
        let names = || nodes.iter().map(|node| node.name.clone()).collect();
        let find = |name: &str| nodes.iter().find(|node| node.name == name);
        let named_by = |by, name: &str| {
            let unknown = || Unknown::Named { by, name: name.to_owned(), nodes: names() };
            find(name).map(Some).ok_or_else(unknown)
        };
        if let Some(name) = named {
            return named_by("--node", name);
        }
        // A variable may be set for the sake of other files.
        if nodes.is_empty() {
            return Ok(None);
        }
        if let Some(name) = self.variable.as_deref().filter(|name| !name.is_empty()) {
            return named_by(VARIABLE, name);
        }
        let of_name = self.name.as_deref().and_then(|name| {
            let label = name.split('.').next().unwrap_or(name);
            find(name).or_else(|| find(label))
        });
        let of_address = || {
            let has = |node: &&Node| node.address.is_some_and(|own| self.has(own));
            nodes.iter().find(has)
        };
        match of_name.or_else(of_address) {
            Some(node) => Ok(Some(node)),
            None => Err(Unknown::Nobody { host: self.name.clone(), nodes: names() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn nodes() -> Vec<Node> {
        let text = "[node.gw1]\naddress = '10.0.1.10'\n[node.gw2]\naddress = '10.0.1.11'\n\
                    [[vrrp]]\ninterface = 'eth0'\nvrid = 1\naddresses = '10.0.1.100/24'\n";
        config::parse("t.toml", text).unwrap().nodes
    }

    fn host(variable: &str, name: &str, addresses: &[&str]) -> Host {
        Host {
            variable: Some(variable.to_owned()),
            name: Some(name.to_owned()),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn the_first_that_says_so_is_believed() {
        let nodes = nodes();
        let chosen = |host: Host, named| {
            host.choose(&nodes, named).map(|node| node.map(|node| node.name.clone()))
        };
        let all = || host("gw2", "gw1", &["10.0.1.10"]);
        let some = |name: &str| Ok(Some(name.to_owned()));
        assert_eq!(chosen(all(), Some("gw1")), some("gw1"));
        assert_eq!(chosen(all(), None), some("gw2"));
        assert_eq!(chosen(host("", "gw1", &["10.0.1.11"]), None), some("gw1"));
        assert_eq!(chosen(host("", "gw2.example.com", &["10.0.1.10"]), None), some("gw2"));
        let others = &["127.0.0.1", "10.0.1.11", "fe80::1"];
        assert_eq!(chosen(host("", "lb", others), None), some("gw2"));
        assert_eq!(host("gw9", "gw9", &[]).choose(&[], None), Ok(None));
    }

    #[test]
    fn who_is_none_of_them_is_told_which_there_are() {
        let nodes = nodes();
        let told =
            |host: Host, nodes: &[Node], named| host.choose(nodes, named).unwrap_err().to_string();
        assert_eq!(
            told(host("", "gw1", &[]), &nodes, Some("gw3")),
            "--node names the node 'gw3', which is none of gw1, gw2"
        );
        assert_eq!(
            told(host("gw3", "gw1", &[]), &nodes, None),
            "LOCKGATE_NODE names the node 'gw3', which is none of gw1, gw2"
        );
        assert_eq!(
            told(host("", "gw1", &[]), &[], Some("gw1")),
            "--node names the node 'gw1', but the configuration has no [node.*]"
        );
        let nobody = told(host("", "lb", &["10.0.1.100"]), &nodes, None);
        assert!(nobody.starts_with("this host (lb) is none of the nodes gw1, gw2: "), "{nobody}");
    }
}
