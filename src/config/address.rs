//! Addresses, host names and the names that people give to things.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::findings::{Problem, quote, shorten};
use super::plan::{Address, Network, SniPattern};
use crate::proto::name::{HostName, NotAName};

/// Longest name of a listener, pool or backend, in characters.
pub(super) const MAX_NAME: usize = 128;

/// Reads the name of a listener, pool or backend: 1 to [`MAX_NAME`] characters, none of them a
/// control character, white space or `/`, which separates a pool from its backend on the command
/// line and in the API.
pub(super) fn parse_name(text: &str) -> Result<String, Problem> {
    let unfit = |c: char| c == '/' || c.is_whitespace() || c.is_control();
    if text.is_empty() {
        return Err(Problem::new("a name must not be empty"));
    }
    if text.chars().nth(MAX_NAME).is_some() {
        return Err(Problem::new(format!("a name has at most {MAX_NAME} characters")));
    }
    if text.contains(unfit) {
        let message = format!("{} holds a '/', white space or a control character", quote(text));
        return Err(Problem::new(message));
    }
    Ok(text.to_owned())
}

/// Reads the address of a listening socket, `IP:PORT` or `[IPV6]:PORT`.
pub(super) fn parse_bind(text: &str) -> Result<SocketAddr, Problem> {
    let (host, port) = split(text, "\"0.0.0.0:443\" or \"[::]:443\"")?;
    match parse_host(host)? {
        Host::Ip(ip) => Ok(SocketAddr::new(ip, port)),
        Host::Name(_) => Err(Problem::new(format!("{} is not an IP address", quote(host)))
            .help("write an address of this machine, not a name")),
    }
}

/// Reads the address of a backend, `IP:PORT`, `[IPV6]:PORT` or `HOST:PORT`.
pub(super) fn parse_backend(text: &str) -> Result<Address, Problem> {
    let (host, port) = split(text, "\"10.0.0.1:80\" or \"host.example:80\"")?;
    match parse_host(host)? {
        Host::Ip(ip) if ip.is_unspecified() => {
            Err(Problem::new(format!("{} is no address to connect to", quote(host))))
        }
        Host::Ip(ip) => Ok(Address::Socket(SocketAddr::new(ip, port))),
        Host::Name(host) => Ok(Address::Name { host, port }),
    }
}

/// Reads an IP address to connect from.
pub(super) fn parse_source(text: &str) -> Result<IpAddr, Problem> {
    let ip: IpAddr = text.parse().map_err(|_| {
        Problem::new(format!("{} is not an IP address", quote(text)))
            .help("write an address without a port, as in \"10.0.0.1\"")
    })?;
    if ip.is_unspecified() {
        let problem = Problem::new(format!("{} is no address to connect from", quote(text)));
        return Err(problem.help("write \"\" to leave the choice to the system"));
    }
    usable(ip)
}

/// Reads the name of a server, as a client of TLS sends it: lower case, no trailing dot.
pub(super) fn parse_server_name(text: &str) -> Result<String, Problem> {
    if text.is_empty() {
        return Err(Problem::new("a name is missing"));
    }
    if text.parse::<IpAddr>().is_ok() {
        // RFC 6066, section 3.
        let message = format!("{} is an IP address, which TLS never sends as a name", quote(text));
        return Err(Problem::new(message));
    }
    parse_host_name(text)
}

/// Reads the names that a route is for: one, `*.` or `**.` and the name above them, or `*` for any.
pub(super) fn parse_sni_pattern(text: &str) -> Result<SniPattern, Problem> {
    if text == "*" {
        return Ok(SniPattern::Any);
    }
    let (parent, pattern): (_, fn(String) -> SniPattern) = match text.split_once('.') {
        Some(("*", parent)) => (parent, SniPattern::Wildcard),
        Some(("**", ancestor)) => (ancestor, SniPattern::Below),
        _ => (text, SniPattern::Exact),
    };
    if parent.contains('*') {
        let message = format!("{} has a '*' that is not its whole first label", quote(text));
        let help =
            "write \"*.example.com\", \"**.example.com\" for any depth, or \"*\" for any name";
        return Err(Problem::new(message).help(help));
    }
    parse_server_name(parent).map(pattern)
}

/// Reads a network, `10.0.0.0/8` or `2001:db8::/32`, or a single address.
pub(super) fn parse_network(text: &str) -> Result<Network, Problem> {
    let (ip, prefix) = match text.split_once('/') {
        Some((ip, prefix)) => (ip, Some(prefix)),
        None => (text, None),
    };
    let address: IpAddr = ip.parse().map_err(|_| {
        Problem::new(format!("{} is not an IP address or network", quote(text)))
            .help("write \"10.0.0.0/8\" or \"2001:db8::/32\"")
    })?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let prefix: u8 = match prefix {
        None => most,
        Some(digits) => {
            let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
            let number = digits.parse().ok().filter(|&number| is_number && number <= most);
            number.ok_or_else(|| {
                let shown = quote(digits);
                Problem::new(format!("{shown} is no length of a prefix (0 to {most})"))
            })?
        }
    };
    // Clients of IPv4 are met on sockets of IPv4.
    if let IpAddr::V6(v6) = address
        && let Some(v4) = v6.to_ipv4_mapped()
    {
        let problem = Problem::new(format!("{} is IPv4 in IPv6 notation", quote(text)));
        return Err(match prefix.checked_sub(96) {
            Some(prefix) => problem.help(format!("write \"{v4}/{prefix}\"")),
            None => problem,
        });
    }
    let network = Network { address: masked(address, prefix), prefix };
    if network.address != address {
        let message = format!("{} has bits beyond its prefix", quote(text));
        return Err(Problem::new(message).help(format!("write \"{network}\" or \"{address}\"")));
    }
    Ok(network)
}

/// The address with only its first `prefix` bits.
fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    let beyond = |width: u32| width - u32::from(prefix);
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(beyond(32)).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(beyond(128)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
        }
    }
}

enum Host {
    Ip(IpAddr),
    Name(String),
}

/// Splits `text` into host, without brackets but never without its meaning, and port. `example` is
/// what the help suggests.
fn split<'a>(text: &'a str, example: &str) -> Result<(&'a str, u16), Problem> {
    let help = format!("write {example}");
    if text.is_empty() {
        return Err(Problem::new("an address is missing").help(help));
    }
    let no_port = || Problem::new(format!("no port in {}", quote(text)));
    // More than one colon outside brackets can only be IPv6, and then nobody can tell the port.
    if !text.starts_with('[') && text.matches(':').count() > 1 {
        return Err(no_port().help("write an IPv6 address in brackets, as in \"[::1]:443\""));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if host.starts_with('[') == host.ends_with(']') => (host, port),
        _ => return Err(no_port().help(help)),
    };
    if port.is_empty() {
        return Err(no_port().help(help));
    }
    if host.is_empty() || host == "*" {
        return Err(Problem::new(format!("no host in {}", quote(text))).help(help));
    }
    Ok((host, parse_port(port)?))
}

fn parse_port(text: &str) -> Result<u16, Problem> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        let message = format!("port {} is not a number (1 to 65535)", quote(text));
        return Err(Problem::new(message));
    }
    match text.parse() {
        Ok(port) if port > 0 => Ok(port),
        _ => {
            let message = format!("port {} is out of range (1 to 65535)", shorten(text));
            Err(Problem::new(message))
        }
    }
}

fn parse_host(text: &str) -> Result<Host, Problem> {
    if let Some(inner) = text.strip_prefix('[') {
        let inner = inner.strip_suffix(']').unwrap_or(inner);
        let ip: Ipv6Addr = inner.parse().map_err(|_| {
            let problem = Problem::new(format!("{} is not an IPv6 address", quote(inner)));
            if inner.contains('%') {
                problem.help("zones (the part after '%') cannot be used")
            } else {
                problem
            }
        })?;
        return usable(IpAddr::V6(ip)).map(Host::Ip);
    }
    if let Ok(ip) = text.parse::<Ipv4Addr>() {
        return usable(IpAddr::V4(ip)).map(Host::Ip);
    }
    parse_host_name(text).map(Host::Name)
}

/// Refuses what is not the address of one machine.
pub(super) fn usable(ip: IpAddr) -> Result<IpAddr, Problem> {
    if ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
        return Err(Problem::new(format!("'{ip}' is not the address of one machine")));
    }
    // An IPv6 socket that is not for both families cannot use these.
    if let IpAddr::V6(v6) = ip
        && let Some(v4) = v6.to_ipv4_mapped()
    {
        return Err(Problem::new(format!("'{ip}' is an IPv4 address in IPv6 notation"))
            .help(format!("write {v4}")));
    }
    Ok(ip)
}

/// A host name, in lower case and without its trailing dot. The rules are those of [`HostName`], for
/// all names there are.
pub(super) fn parse_host_name(text: &str) -> Result<String, Problem> {
    let problem = |why: &str| Problem::new(format!("{} is not a host name: {why}", quote(text)));
    match HostName::read(text.as_bytes()) {
        Ok(name) => Ok(name.as_str().to_owned()),
        Err(NotAName::Character(at)) => {
            let found = text.get(at..).and_then(|rest| rest.chars().next());
            let found = found.map(String::from).unwrap_or_default();
            Err(problem(&format!("{} is not allowed in one", quote(&found))))
        }
        Err(NotAName::Numeric) => {
            Err(Problem::new(format!("{} is not an IP address", quote(text))))
        }
        Err(flaw) => Err(problem(&flaw.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binds() {
        for text in ["0.0.0.0:443", "10.0.0.1:1", "[::]:443", "[2001:db8::100]:65535"] {
            assert_eq!(parse_bind(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_bind() {
        for (text, message) in [
            ("", "an address is missing"),
            (":443", "no host in ':443'"),
            ("*:443", "no host in '*:443'"),
            ("10.0.0.1", "no port in '10.0.0.1'"),
            ("10.0.0.1:", "no port in '10.0.0.1:'"),
            ("443", "no port in '443'"),
            ("::1", "no port in '::1'"),
            ("::1:443", "no port in '::1:443'"),
            ("[::1]", "no port in '[::1]'"),
            ("[::1", "no port in '[::1'"),
            ("[::1]443", "no port in '[::1]443'"),
            ("10.0.0.1:70000", "port 70000 is out of range (1 to 65535)"),
            ("10.0.0.1:0", "port 0 is out of range (1 to 65535)"),
            ("10.0.0.1:+80", "port '+80' is not a number (1 to 65535)"),
            ("10.0.0.1:http", "port 'http' is not a number (1 to 65535)"),
            ("10.0.0.300:80", "'10.0.0.300' is not an IP address"),
            ("localhost:80", "'localhost' is not an IP address"),
            ("[10.0.0.1]:80", "'10.0.0.1' is not an IPv6 address"),
            ("[fe80::1%eth0]:80", "'fe80::1%eth0' is not an IPv6 address"),
            ("[::ffff:1.2.3.4]:80", "'::ffff:1.2.3.4' is an IPv4 address in IPv6 notation"),
            ("224.0.0.18:80", "'224.0.0.18' is not the address of one machine"),
        ] {
            assert_eq!(parse_bind(text).unwrap_err().message, message, "{text}");
        }
    }

    #[test]
    fn backends() {
        for (text, shown) in [
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("[::1]:80", "[::1]:80"),
            ("Web-1.Example.COM.:8080", "web-1.example.com:8080"),
            ("localhost:1", "localhost:1"),
            ("my_db:5432", "my_db:5432"),
            ("_a._B_:1", "_a._b_:1"),
            ("3com.com:1", "3com.com:1"),
            ("10.0.0.1.nip.io:1", "10.0.0.1.nip.io:1"),
        ] {
            assert_eq!(parse_backend(text).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn what_is_no_backend() {
        let long_label = format!("{}.example:80", "a".repeat(64));
        let long_name = format!("{}example:80", "a.".repeat(124));
        for (text, part) in [
            ("0.0.0.0:80", "is no address to connect to"),
            ("a..b:80", "a label is empty"),
            ("-a:80", "begins or ends with '-'"),
            ("a-.b:80", "begins or ends with '-'"),
            (".:80", "a label is empty"),
            ("http://web:80", "no port"),
            ("web 1:80", "' ' is not allowed"),
            ("1.2.3:80", "is not an IP address"),
            ("wéb:80", "'é' is not allowed"),
            (&long_label, "longer than 63"),
            (&long_name, "longer than 253"),
        ] {
            let message = parse_backend(text).unwrap_err().message;
            assert!(message.contains(part), "{text}: {message}");
        }
    }

    #[test]
    fn server_names() {
        assert_eq!(parse_server_name("WWW.Example.COM.").unwrap(), "www.example.com");
        for (text, message) in [
            ("", "a name is missing"),
            ("10.0.0.1", "'10.0.0.1' is an IP address, which TLS never sends as a name"),
            ("::1", "'::1' is an IP address, which TLS never sends as a name"),
            ("a:443", "'a:443' is not a host name: ':' is not allowed in one"),
            ("*.a", "'*.a' is not a host name: '*' is not allowed in one"),
        ] {
            assert_eq!(parse_server_name(text).unwrap_err().message, message, "{text}");
        }
    }

    #[test]
    fn sni_patterns() {
        for (text, shown) in [
            ("Example.COM.", "example.com"),
            ("*.Example.com", "*.example.com"),
            ("*.com", "*.com"),
            ("**.Example.com.", "**.example.com"),
            ("*", "*"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(parse_sni_pattern(text).unwrap().to_string(), shown);
        }
        let wildcard = SniPattern::Wildcard("a.b".to_owned());
        assert_eq!(parse_sni_pattern("*.A.b"), Ok(wildcard));
        assert_eq!(parse_sni_pattern("**.A.b"), Ok(SniPattern::Below("a.b".to_owned())));
        assert_eq!(parse_sni_pattern("*"), Ok(SniPattern::Any));
        for (text, message) in [
            ("", "a name is missing"),
            ("*.", "a name is missing"),
            ("**.", "a name is missing"),
            ("**", "'**' has a '*' that is not its whole first label"),
            ("***.b", "'***.b' has a '*' that is not its whole first label"),
            ("**.*.b", "'**.*.b' has a '*' that is not its whole first label"),
            (".a", "'.a' is not a host name: a label is empty"),
            ("*a.b", "'*a.b' has a '*' that is not its whole first label"),
            ("*.*.b", "'*.*.b' has a '*' that is not its whole first label"),
            ("a.*.b", "'a.*.b' has a '*' that is not its whole first label"),
            ("*.10.0.0.1", "'10.0.0.1' is an IP address, which TLS never sends as a name"),
        ] {
            assert_eq!(parse_sni_pattern(text).unwrap_err().message, message, "{text}");
        }
    }

    #[test]
    fn networks() {
        for (text, shown) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.1.2.3", "10.1.2.3/32"),
            ("10.1.2.3/32", "10.1.2.3/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("128.0.0.0/1", "128.0.0.0/1"),
            ("::/0", "::/0"),
            ("2001:DB8::/32", "2001:db8::/32"),
            ("::1", "::1/128"),
        ] {
            assert_eq!(parse_network(text).unwrap().to_string(), shown);
        }
        for (text, message, help) in [
            ("", "'' is not an IP address or network", Some("10.0.0.0/8")),
            ("10.0.0/8", "'10.0.0/8' is not an IP address or network", Some("10.0.0.0/8")),
            ("localhost", "'localhost' is not an IP address or network", Some("10.0.0.0/8")),
            ("10.0.0.0/33", "'33' is no length of a prefix (0 to 32)", None),
            ("10.0.0.0/", "'' is no length of a prefix (0 to 32)", None),
            ("10.0.0.0/+8", "'+8' is no length of a prefix (0 to 32)", None),
            ("10.0.0.0/8/8", "'8/8' is no length of a prefix (0 to 32)", None),
            ("::/129", "'129' is no length of a prefix (0 to 128)", None),
            ("10.0.0.1/8", "'10.0.0.1/8' has bits beyond its prefix", Some("\"10.0.0.0/8\"")),
            ("::1/127", "'::1/127' has bits beyond its prefix", Some("\"::/127\" or \"::1\"")),
            (
                "::ffff:10.0.0.0/104",
                "'::ffff:10.0.0.0/104' is IPv4 in IPv6 notation",
                Some("\"10.0.0.0/8\""),
            ),
            ("::ffff:0.0.0.0/90", "'::ffff:0.0.0.0/90' is IPv4 in IPv6 notation", None),
        ] {
            let problem = parse_network(text).unwrap_err();
            assert_eq!(problem.message, message, "{text}");
            assert_eq!(problem.help.is_some(), help.is_some(), "{text}");
            let shown = problem.help.unwrap_or_default();
            assert!(shown.contains(help.unwrap_or_default()), "{text}: {shown}");
        }
    }

    #[test]
    fn names() {
        let longest = "é".repeat(MAX_NAME);
        for name in ["a", "web-1", "10.0.0.1:80", "[::1]:80", &longest] {
            assert_eq!(parse_name(name).unwrap(), name);
        }
        let too_long = "a".repeat(MAX_NAME + 1);
        for name in ["", " ", "a b", "a/b", "a\nb", "a\u{7}", "a\u{a0}b", &too_long] {
            parse_name(name).unwrap_err();
        }
    }
}
