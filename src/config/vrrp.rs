//! `[node.NAME]` and `[[vrrp]]`: what was typed. What it means together is settled in `resolve`.

pub(super) mod resolve;

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU8;
use std::path::PathBuf;
use std::time::Duration;

use super::address::{parse_name, usable};
use super::findings::{Problem, Span, Spanned, quote};
use super::plan::vrrp::{Checksum, Floating, Peer, Version};
use super::reader::{Field, Section};
use super::schema::{optional, parse_file};
use super::vocabulary as known;

/// Most peers, interfaces and pools that one instance may name.
const MOST: usize = 64;

/// `[node.NAME]`
#[derive(Debug)]
pub(in crate::config) struct Node {
    header: Span,
    name: Spanned<String>,
    address: Field<Option<IpAddr>>,
    priority: NonZeroU8,
}

/// `[[vrrp]]`
#[derive(Debug)]
pub(in crate::config) struct Vrrp {
    header: Span,
    name: Field<String>,
    interface: Field<String>,
    vrid: Field<u8>,
    version: Field<Version>,
    addresses: Field<Vec<Spanned<Floating>>>,
    priority: Field<u8>,
    advert_interval: Field<Duration>,
    preempt: Field<bool>,
    preempt_delay: Duration,
    unicast_peers: Field<Vec<Spanned<Peer>>>,
    source: Field<Option<IpAddr>>,
    checksum: Field<Checksum>,
    virtual_mac: bool,
    garp_repeat: u8,
    garp_refresh: Duration,
    track_interfaces: Vec<String>,
    track_pools: Vec<TrackedPool>,
    sync_group: Option<String>,
    notify: Option<PathBuf>,
}

/// An element of `track_pools`.
#[derive(Debug)]
struct TrackedPool {
    span: Span,
    pool: Field<String>,
    weight: Field<i16>,
}

/// Reads `[node.NAME]`.
pub(super) fn node(name: Spanned<String>, mut section: Section<'_, '_>) -> Node {
    const DEFAULT: NonZeroU8 = NonZeroU8::new(100).unwrap();
    Node {
        header: section.span,
        name,
        address: section.parsed("address", optional(parse_address)),
        priority: section
            .number("priority", 1..=254)
            .value()
            .and_then(NonZeroU8::new)
            .unwrap_or(DEFAULT),
    }
}

/// Reads `[[vrrp]]`.
pub(super) fn vrrp(mut section: Section<'_, '_>) -> Vrrp {
    let checksums = [
        ("auto", Checksum::Auto),
        ("rfc9568", Checksum::Rfc9568),
        ("pseudo_header", Checksum::PseudoHeader),
    ];
    let track_pools = section.sections("track_pools", &known::TRACKED_POOL, tracked_pool);
    if let Some(pools) = track_pools.as_given().filter(|pools| pools.value.len() > MOST) {
        let message = format!("track_pools: {} are more than {MOST}", pools.value.len());
        section.errors.wrong(pools.span, message);
    }
    Vrrp {
        header: section.span,
        name: section.parsed("name", parse_name),
        interface: section.parsed("interface", parse_interface),
        vrid: section.number("vrid", 1..=255),
        version: match section.number("version", 2..=3) {
            Field::Absent => Field::Absent,
            Field::Wrong => Field::Wrong,
            Field::Given(Spanned { value, span }) => {
                let value = if value == 2 { Version::V2 } else { Version::V3 };
                Field::Given(Spanned { value, span })
            }
        },
        addresses: section
            .one_or_more("addresses", |value| parse_floating(super::value::text(value)?)),
        priority: section.number("priority", 0..=255),
        advert_interval: section.duration("advert_interval"),
        preempt: section.flag("preempt"),
        preempt_delay: section.duration_or_zero("preempt_delay").or(Duration::ZERO),
        unicast_peers: section.each_once("unicast_peers", MOST, parse_peer),
        source: section.parsed("source", optional(parse_address)),
        checksum: section.choice("checksum", &checksums),
        virtual_mac: section.flag("virtual_mac").or(false),
        garp_repeat: section.number("garp_repeat", 1..=100).or(5),
        garp_refresh: section.duration_or_zero("garp_refresh").or(Duration::from_mins(1)),
        track_interfaces: section
            .distinct("track_interfaces", MOST, parse_interface)
            .or(Vec::new()),
        track_pools: track_pools.or(Vec::new()),
        sync_group: section.parsed("sync_group", optional(parse_name)).or(None),
        notify: section.parsed("notify", optional(parse_program)).or(None),
    }
}

fn tracked_pool(mut section: Section<'_, '_>) -> TrackedPool {
    TrackedPool {
        span: section.span,
        pool: section.parsed("pool", |name| Ok(name.to_owned())),
        weight: section.number("weight", -254..=-1),
    }
}

/// Reads the address of one machine on a network.
fn parse_address(text: &str) -> Result<IpAddr, Problem> {
    let address: IpAddr = text.parse().map_err(|_| {
        let problem = Problem::new(format!("{} is not an IP address", quote(text)));
        match text.split_once('/') {
            Some((address, _)) if address.parse::<IpAddr>().is_ok() => {
                problem.help(format!("write \"{address}\", without the length of its prefix"))
            }
            _ => problem.help("write an address without a port, as in \"10.0.1.10\""),
        }
    })?;
    if address.is_unspecified() || address.is_loopback() {
        let message = format!("{} is not an address that another gateway can reach", quote(text));
        return Err(Problem::new(message));
    }
    usable(address)
}

/// Reads an address that floats, with the length of its network's prefix.
pub(super) fn parse_floating(text: &str) -> Result<Floating, Problem> {
    let Some((address, digits)) = text.split_once('/') else {
        let address = parse_address(text)?;
        let example = if address.is_ipv4() { 24 } else { 64 };
        return Err(Problem::new(format!("no prefix length in {}", quote(text))).help(format!(
            "write \"{address}/{example}\", as the interface's own addresses have it"
        )));
    };
    let address = parse_address(address)?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    let prefix = digits.parse().ok().filter(|number| is_number && (1..=most).contains(number));
    let prefix = prefix.ok_or_else(|| {
        let shown = quote(digits);
        Problem::new(format!("{shown} is no length of a prefix (1 to {most})"))
    })?;
    // On a network of two or one (RFC 3021), every address is one of a machine.
    if let IpAddr::V4(v4) = address
        && prefix <= 30
    {
        let beyond: u32 = u32::MAX >> prefix;
        let host = v4.to_bits() & beyond;
        if host == 0 || host == beyond {
            let what = if host == 0 { "names the network itself" } else { "is its broadcast" };
            let first = Ipv4Addr::from_bits(v4.to_bits() & !beyond | 1);
            return Err(Problem::new(format!("{} {what}", quote(text)))
                .help(format!("write an address of one machine, as in \"{first}/{prefix}\"")));
        }
    }
    Ok(Floating { address, prefix })
}

fn parse_peer(text: &str) -> Result<Peer, Problem> {
    match text {
        "node" => Ok(Peer::Nodes),
        text if text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && !text.bytes().any(|byte| byte.is_ascii_digit()) =>
        {
            Err(Problem::new(format!("{} is not an IP address", quote(text)))
                .help("write \"node\" for the addresses of all other [node.NAME]"))
        }
        text => parse_address(text).map(Peer::Address),
    }
}

/// Reads the name of a network interface, as the kernel takes it (`dev_valid_name` in its
/// net/core/dev.c).
fn parse_interface(text: &str) -> Result<String, Problem> {
    // IFNAMSIZ, less the NUL at its end.
    const MAX_BYTES: usize = 15;
    let unfit = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if text.is_empty() {
        return Err(Problem::new("the name of an interface is missing")
            .help("`ip link` lists those of this host"));
    }
    if text.len() > MAX_BYTES {
        let message = format!(
            "{} is longer than an interface's name can be ({MAX_BYTES} bytes)",
            quote(text)
        );
        return Err(Problem::new(message));
    }
    if text == "." || text == ".." || text.contains(unfit) {
        return Err(Problem::new(format!("{} is no name of an interface", quote(text))));
    }
    Ok(text.to_owned())
}

/// Reads the path of a program. It is not looked for in `PATH`.
fn parse_program(text: &str) -> Result<PathBuf, Problem> {
    if !text.starts_with('/') {
        return Err(Problem::new(format!("{} is not the whole path of a program", quote(text)))
            .help("write a path that begins with '/'; arguments are given by lockgate"));
    }
    parse_file(text)
}
