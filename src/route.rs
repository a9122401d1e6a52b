//! Which pool a client gets, by what its ClientHello asks for and where it comes from.
//!
//! Pure. The first route whose every condition is met wins; a condition that names nothing is
//! always met.

use std::collections::HashSet;
use std::net::IpAddr;

/// What is known of a client when it is routed.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The name that it asks for (SNI), in lower case and without a trailing dot.
    pub server_name: Option<&'a str>,
    /// The application protocols that it offers (ALPN).
    pub protocols: &'a [&'a [u8]],
    /// Its address.
    pub client: IpAddr,
}

/// Routes, in the order in which they are tried.
#[derive(Debug)]
pub struct Routes<T>(Box<[Route<T>]>);

impl<T> Routes<T> {
    /// These, in this order.
    pub fn new(routes: impl IntoIterator<Item = Route<T>>) -> Self {
        Self(routes.into_iter().collect())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Where the first route leads that matches.
    pub fn find(&self, asked: &Asked<'_>) -> Option<&T> {
        self.first(asked).map(|(_, target)| target)
    }

    /// The first route that matches: its index, and where it leads.
    pub fn first(&self, asked: &Asked<'_>) -> Option<(usize, &T)> {
        let mut routes = self.0.iter().enumerate();
        routes.find(|(_, route)| route.matches(asked)).map(|(index, route)| (index, &route.target))
    }
}

/// One route.
#[derive(Debug)]
pub struct Route<T> {
    /// Names.
    names: HashSet<Box<str>>,
    /// Names that stand for any with one label more.
    parents: HashSet<Box<str>>,
    protocols: Box<[Box<[u8]>]>,
    networks: Box<[Network]>,
    target: T,
}

impl<T> Route<T> {
    /// A route to `target` for every client.
    pub fn to(target: T) -> Self {
        Self {
            names: HashSet::new(),
            parents: HashSet::new(),
            protocols: Box::default(),
            networks: Box::default(),
            target,
        }
    }

    /// Only for those who ask for this name. Further names widen it.
    pub fn name(&mut self, name: &str) {
        self.names.insert(name.into());
    }

    /// Only for those who ask for a name with one label before this one (RFC 9525, section 6.3).
    /// Further names widen it.
    pub fn below(&mut self, parent: &str) {
        self.parents.insert(parent.into());
    }

    /// Only for those who offer one of these protocols, if there are any.
    pub fn protocols<'a>(&mut self, protocols: impl IntoIterator<Item = &'a [u8]>) {
        self.protocols = protocols.into_iter().map(Into::into).collect();
    }

    /// Only for those who come from one of these networks, if there are any.
    pub fn networks(&mut self, networks: impl IntoIterator<Item = Network>) {
        self.networks = networks.into_iter().collect();
    }

    fn matches(&self, asked: &Asked<'_>) -> bool {
        self.matches_name(asked.server_name)
            && (self.protocols.is_empty()
                || asked
                    .protocols
                    .iter()
                    .any(|offer| self.protocols.iter().any(|p| **p == **offer)))
            && (self.networks.is_empty()
                || self.networks.iter().any(|network| network.contains(asked.client)))
    }

    fn matches_name(&self, name: Option<&str>) -> bool {
        if self.names.is_empty() && self.parents.is_empty() {
            return true;
        }
        let Some(name) = name else {
            return false;
        };
        let below =
            |(label, parent): (&str, &str)| !label.is_empty() && self.parents.contains(parent);
        self.names.contains(name) || name.split_once('.').is_some_and(below)
    }
}

/// Addresses that have their first bits in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// One of them.
    pub address: IpAddr,
    /// How many bits, up to 32 or 128.
    pub prefix: u8,
}

impl Network {
    /// Whether an address is one of them. IPv4 in IPv6 notation counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let differing = network.to_bits() ^ address.to_bits();
                differing.leading_zeros() >= u32::from(self.prefix)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let differing = network.to_bits() ^ address.to_bits();
                differing.leading_zeros() >= u32::from(self.prefix)
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked<'a>(name: Option<&'a str>, protocols: &'a [&'a [u8]], client: &str) -> Asked<'a> {
        Asked { server_name: name, protocols, client: client.parse().unwrap() }
    }

    fn network(text: &str) -> Network {
        let (address, prefix) = text.split_once('/').unwrap();
        Network { address: address.parse().unwrap(), prefix: prefix.parse().unwrap() }
    }

    fn named(names: &[&str], parents: &[&str], target: u8) -> Route<u8> {
        let mut route = Route::to(target);
        names.iter().for_each(|name| route.name(name));
        parents.iter().for_each(|parent| route.below(parent));
        route
    }

    #[test]
    fn the_first_that_matches_wins() {
        let mut h2 = Route::to(3);
        h2.protocols([b"h2".as_slice()]);
        let mut near = named(&["a.test"], &[], 1);
        near.networks([network("10.0.0.0/8"), network("fd00::/8")]);
        let routes = Routes::new([near, named(&["a.test"], &["wild.test"], 2), h2]);
        let find = |name, protocols: &[&[u8]], client| {
            routes.find(&asked(name, protocols, client)).copied()
        };
        assert_eq!(find(Some("a.test"), &[], "10.255.0.1"), Some(1));
        assert_eq!(find(Some("a.test"), &[], "::ffff:10.1.1.1"), Some(1));
        assert_eq!(find(Some("a.test"), &[], "fdff::1"), Some(1));
        assert_eq!(find(Some("a.test"), &[], "11.0.0.1"), Some(2));
        assert_eq!(find(Some("x.wild.test"), &[], "11.0.0.1"), Some(2));
        assert_eq!(find(Some("wild.test"), &[], "11.0.0.1"), None);
        assert_eq!(find(Some("x.y.wild.test"), &[], "11.0.0.1"), None);
        assert_eq!(find(Some(".wild.test"), &[], "11.0.0.1"), None);
        assert_eq!(find(None, &[b"http/1.1", b"h2"], "11.0.0.1"), Some(3));
        assert_eq!(find(None, &[], "10.0.0.1"), None);
    }

    #[test]
    fn networks() {
        assert!(network("0.0.0.0/0").contains("255.1.2.3".parse().unwrap()));
        assert!(!network("0.0.0.0/0").contains("::1".parse().unwrap()));
        assert!(network("::/0").contains("2001:db8::1".parse().unwrap()));
        let one = network("192.0.2.7/32");
        assert!(one.contains("192.0.2.7".parse().unwrap()));
        assert!(!one.contains("192.0.2.6".parse().unwrap()));
        assert!(!network("2001:db8::/33").contains("2001:db8:8000::".parse().unwrap()));
    }
}
