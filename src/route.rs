//! Which pool a client gets, by what it says first, what its ClientHello asks for and where it comes
//! from.
//!
//! Pure. The first route whose every condition is met wins; a condition that names nothing is
//! always met.

use std::collections::HashSet;
use std::net::IpAddr;

use crate::proto::first_bytes::FirstBytes;

/// What is known of a client when it is routed.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The name that it asks for (SNI), in lower case and without a trailing dot.
    pub server_name: Option<&'a str>,
    /// The application protocols that it offers (ALPN).
    pub protocols: &'a [&'a [u8]],
    /// Its address.
    pub client: IpAddr,
    /// What it said first; `None` = nobody has looked, because no route asks for it.
    pub first_bytes: Option<FirstBytes>,
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

    /// Whether any of them asks for what a client says first.
    pub fn ask_for_first_bytes(&self) -> bool {
        self.0.iter().any(|route| route.first_bytes.is_some())
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
    /// Names that stand for all below them.
    ancestors: HashSet<Box<str>>,
    /// Any name will do.
    any_name: bool,
    /// What a client may say first, by its discriminant; `None` = anything.
    first_bytes: Option<[bool; FirstBytes::ALL.len()]>,
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
            ancestors: HashSet::new(),
            any_name: false,
            first_bytes: None,
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

    /// Only for those who ask for a name with any number of labels before this one, one at least.
    /// Further names widen it.
    pub fn far_below(&mut self, ancestor: &str) {
        self.ancestors.insert(ancestor.into());
    }

    /// Only for those who ask for a name, whichever it is.
    pub fn any_name(&mut self) {
        self.any_name = true;
    }

    /// Only for those who say one of these first, if there are any.
    pub fn first_bytes(&mut self, kinds: impl IntoIterator<Item = FirstBytes>) {
        for kind in kinds {
            self.first_bytes.get_or_insert_default()[kind as usize] = true;
        }
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
        self.matches_first_bytes(asked.first_bytes)
            && self.matches_name(asked.server_name)
            && (self.protocols.is_empty()
                || asked
                    .protocols
                    .iter()
                    .any(|offer| self.protocols.iter().any(|p| **p == **offer)))
            && (self.networks.is_empty()
                || self.networks.iter().any(|network| network.contains(asked.client)))
    }

    fn matches_name(&self, name: Option<&str>) -> bool {
        let asks_for_none = self.names.is_empty()
            && self.parents.is_empty()
            && self.ancestors.is_empty()
            && !self.any_name;
        if asks_for_none {
            return true;
        }
        let Some(name) = name else {
            return false;
        };
        let below =
            |(label, parent): (&str, &str)| !label.is_empty() && self.parents.contains(parent);
        self.any_name
            || self.names.contains(name)
            || name.split_once('.').is_some_and(below)
            || self.is_far_below(name)
    }

    fn is_far_below(&self, name: &str) -> bool {
        if self.ancestors.is_empty() {
            return false;
        }
        let mut rest = name;
        while let Some((label, ancestor)) = rest.split_once('.') {
            if label.is_empty() {
                return false;
            }
            if self.ancestors.contains(ancestor) {
                return true;
            }
            rest = ancestor;
        }
        false
    }

    fn matches_first_bytes(&self, said: Option<FirstBytes>) -> bool {
        match (&self.first_bytes, said) {
            (None, _) => true,
            (Some(kinds), Some(said)) => kinds[said as usize],
            (Some(_), None) => false,
        }
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
        let client = client.parse().unwrap();
        Asked { server_name: name, protocols, client, first_bytes: None }
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
    fn names_at_any_depth() {
        let mut deep = Route::to(1);
        deep.far_below("a.test");
        let mut any = Route::to(2);
        any.any_name();
        let routes = Routes::new([named(&["exact.test"], &["wild.test"], 0), deep, any]);
        let find = |name| routes.find(&asked(name, &[], "10.0.0.1")).copied();
        for (name, target) in [
            ("exact.test", 0),
            ("x.wild.test", 0),
            ("x.y.wild.test", 2),
            ("x.a.test", 1),
            ("x.y.z.a.test", 1),
            ("a.test", 2),
            ("xa.test", 2),
            ("x.a.test.other", 2),
            ("test", 2),
            (".a.test", 2),
        ] {
            assert_eq!(find(Some(name)), Some(target), "{name}");
        }
        assert_eq!(find(None), None);
    }

    #[test]
    fn what_a_client_says_first() {
        let mut ssh = Route::to(1);
        ssh.first_bytes([FirstBytes::Ssh, FirstBytes::Nothing]);
        let mut near = Route::to(2);
        near.first_bytes([FirstBytes::Http]);
        near.networks([network("10.0.0.0/8")]);
        let mut by_name = named(&["a.test"], &[], 3);
        by_name.first_bytes([FirstBytes::Tls]);
        let routes = Routes::new([ssh, near, by_name]);
        assert!(routes.ask_for_first_bytes());
        assert!(!Routes::new([Route::to(0)]).ask_for_first_bytes());
        let find = |first_bytes, name, client| {
            let asked = Asked { first_bytes, ..asked(name, &[], client) };
            routes.find(&asked).copied()
        };
        for kind in FirstBytes::ALL {
            let expected = match kind {
                FirstBytes::Ssh | FirstBytes::Nothing => Some(1),
                FirstBytes::Http => Some(2),
                _ => None,
            };
            assert_eq!(find(Some(kind), None, "10.0.0.1"), expected, "{kind:?}");
        }
        assert_eq!(find(Some(FirstBytes::Http), None, "11.0.0.1"), None);
        assert_eq!(find(Some(FirstBytes::Tls), Some("a.test"), "11.0.0.1"), Some(3));
        assert_eq!(find(None, Some("a.test"), "10.0.0.1"), None);
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
