//! What it means: names are unique, references lead somewhere, addresses do not clash.
//!
//! Takes what was typed and makes a [`Plan`] of it. The plan is whole even when something was
//! reported, on the way or before; it is only good when nothing was.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::address::{MAX_NAME, parse_name};
use super::findings::{Findings, Span, Spanned, quote};
use super::plan::{self, Address, Plan};
use super::protocol::Protocol;
use super::reader::Field;
use super::route::Route;
use super::schema::{Backend, File, Listener, Pool};
use super::suggest::nearest;
use super::vrrp::resolve as vrrp;

/// The default of `admin.http`.
const ADMIN_HTTP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8404);

/// Most pools that are compared with a mistyped name, to bound the work on a file of nothing else.
const MAX_CANDIDATES: usize = 200;

/// Turns what was typed into a plan.
pub(super) fn resolve(file: File, errors: &mut Findings) -> Plan {
    let mut names = Names::new("listener");
    let mut binds = Binds::new(&file.admin.http);
    let pools = Pools::new(&file.pools);

    // A gateway may do nothing but hold addresses.
    if is_empty(&file.listeners) && is_empty(&file.vrrp) {
        errors
            .section_missing(Span::default(), "no [[listener]]: nothing to do")
            .help("a [[listener]] needs a 'name' and a 'bind'");
    }

    let nodes = vrrp::nodes(file.nodes, errors);
    let instances = vrrp::instances(file.vrrp.or(Vec::new()), &nodes, &pools, errors);
    let mut listeners = Vec::new();
    for typed in file.listeners.or(Vec::new()) {
        listeners.push(listener(typed, &pools, &mut names, &mut binds, errors));
    }
    Plan {
        runtime: file.runtime,
        admin: plan::Admin {
            socket: file.admin.socket,
            http: file.admin.http.or(Some(ADMIN_HTTP)),
        },
        log: file.log,
        pair: file.pair,
        nodes: nodes.plan,
        listeners,
        pools: file.pools.or(Vec::new()).into_iter().map(|typed| pool(typed, errors)).collect(),
        vrrp: instances,
    }
}

/// Whether there is none of these, and none was meant to be.
fn is_empty<T>(sections: &Field<Vec<T>>) -> bool {
    match sections {
        Field::Absent => true,
        Field::Wrong => false,
        Field::Given(sections) => sections.value.is_empty(),
    }
}

/// The names of all pools. Their order is that of the plan.
pub(super) struct Pools {
    names: Vec<String>,
    index_of: HashMap<String, usize>,
    /// Whether the file says which there are.
    are_known: bool,
}

impl Pools {
    fn new(pools: &Field<Vec<Pool>>) -> Self {
        let names: Vec<String> = pools.as_given().map_or_else(Vec::new, |pools| {
            pools.value.iter().map(|pool| pool.name.value.clone()).collect()
        });
        let index_of = names.iter().enumerate().map(|(index, name)| (name.clone(), index));
        let index_of = index_of.collect();
        Self { names, index_of, are_known: !matches!(pools, Field::Wrong) }
    }

    /// The index of the pool that `key` names.
    pub(super) fn find(
        &self,
        key: &str,
        name: Option<&Spanned<String>>,
        errors: &mut Findings,
    ) -> Option<usize> {
        let name = name.filter(|_| self.are_known)?;
        let index = self.index_of.get(&name.value).copied();
        if index.is_none() {
            let shown = quote(&name.value);
            let candidates = self.names.iter().take(MAX_CANDIDATES).map(String::as_str);
            let help = match nearest(&name.value, candidates) {
                Some(near) => format!("did you mean {}?", quote(near)),
                None => "define it with [pool.NAME] and a [[pool.NAME.backend]]".to_owned(),
            };
            let message = format!("{key}: no pool is named {shown}");
            errors.section_missing(name.span, message).help(help);
        }
        index
    }
}

fn protocol(typed: Protocol, pools: &Pools, errors: &mut Findings) -> plan::Protocol {
    match typed {
        Protocol::Tcp => plan::Protocol::Tcp,
        Protocol::Tls(tls) => plan::Protocol::Tls(tls),
        Protocol::TlsPassthrough => plan::Protocol::TlsPassthrough,
        Protocol::Redirect { acme_dir, acme_pool } => {
            let pool = pools.find("acme_pool", acme_pool.as_ref(), errors);
            let directory = acme_dir.map(plan::Challenges::Directory);
            let challenges = directory.or_else(|| pool.map(plan::Challenges::Pool));
            plan::Protocol::Redirect(plan::Redirect { challenges })
        }
    }
}

/// `None` without a pool.
fn route(typed: Route, pools: &Pools, errors: &mut Findings) -> Option<plan::Route> {
    if typed.pool.is_absent() {
        errors
            .key_missing(typed.header, "this route has no 'pool'")
            .help("write pool = \"NAME\", the name of a [pool.NAME]");
    }
    let pool = pools.find("pool", typed.pool.as_given(), errors)?;
    let Route { sni, alpn, client, first_bytes, .. } = typed;
    Some(plan::Route { sni, alpn, client, first_bytes, pool })
}

fn listener(
    typed: Listener,
    pools: &Pools,
    names: &mut Names,
    binds: &mut Binds,
    errors: &mut Findings,
) -> plan::Listener {
    if typed.name.is_absent() {
        errors.key_missing(typed.header, "this listener has no 'name'");
    }
    if typed.bind.is_absent() {
        errors
            .key_missing(typed.header, "this listener has no 'bind'")
            .help("write bind = [\"0.0.0.0:443\", \"[::]:443\"]");
    }
    if let Some(name) = typed.name.as_given() {
        names.claim(&name.value, name.span, errors);
    }
    let bind = typed.bind.or(Vec::new());
    for address in &bind {
        binds.claim(address, errors);
    }
    plan::Listener {
        name: typed.name.or(String::new()),
        bind: bind.into_iter().map(|address| address.value).collect(),
        protocol: protocol(typed.protocol, pools, errors),
        routes: typed.routes.into_iter().filter_map(|typed| route(typed, pools, errors)).collect(),
        pool: pools.find("pool", typed.pool.as_given(), errors),
        max_connections: typed.max_connections,
        guard: typed.guard,
        client_timeout: typed.client_timeout,
        first_bytes_timeout: typed.first_bytes_timeout,
        idle_timeout: typed.idle_timeout,
        half_close_timeout: typed.half_close_timeout,
        user_timeout: typed.user_timeout,
    }
}

/// Backends in a pool: half of what it has slots for, so that a reload can replace them all.
const MOST_BACKENDS: usize = 32_768;

fn pool(typed: Pool, errors: &mut Findings) -> plan::Pool {
    if let Err(problem) = parse_name(&typed.name.value) {
        errors.problem(typed.name.span, "pool", problem);
    }
    if is_empty(&typed.backends) {
        let name = quote(&typed.name.value);
        errors
            .key_missing(typed.header, format!("pool {name} has no backends"))
            .help("add [[pool.NAME.backend]] with an 'address'");
    }
    let mut names = Names::new("backend");
    let backends = typed.backends.or(Vec::new());
    let most: usize = backends.iter().map(most_of).sum();
    if most > MOST_BACKENDS {
        let finding = errors.wrong(
            typed.header,
            format!("{most} backends in a pool are more than {MOST_BACKENDS}"),
        );
        if most > backends.len() {
            finding.note(format!(
                "each with addresses = \"all\" counts as the {} that may become of it",
                plan::MOST_ADDRESSES
            ));
        }
    }
    if let Some(source) = typed.source.as_given() {
        check_families(source, &backends, errors);
    }
    plan::Pool {
        name: typed.name.value,
        balance: typed.balance,
        connect_timeout: typed.connect_timeout,
        retries: typed.retries,
        queue_timeout: typed.queue_timeout,
        backup_overflow: typed.backup_overflow,
        slow_start: typed.slow_start,
        all_down: typed.all_down,
        on_down: typed.on_down,
        user_timeout: typed.user_timeout,
        source: typed.source.or(None),
        send_proxy: typed.send_proxy,
        tls: typed.tls,
        health: typed.health,
        passive: typed.passive,
        backends: backends
            .into_iter()
            .filter_map(|typed| backend(typed, &mut names, errors))
            .collect(),
    }
}

/// How many backends may become of one.
fn most_of(typed: &Backend) -> usize {
    match typed.addresses.as_given().map(|addresses| addresses.value) {
        Some(plan::Addresses::All) => plan::MOST_ADDRESSES,
        Some(plan::Addresses::One) | None => 1,
    }
}

/// A connection has one address family: its source and its destination share it.
fn check_families(source: &Spanned<Option<IpAddr>>, backends: &[Backend], errors: &mut Findings) {
    let Some(ip) = source.value else { return };
    for address in backends.iter().filter_map(|backend| backend.address.as_given()) {
        let Address::Socket(destination) = address.value else {
            continue;
        };
        if destination.is_ipv4() != ip.is_ipv4() {
            let message = format!("address: {destination} cannot be reached from source {ip}");
            errors.clash(address.span, message, source.span);
        }
    }
}

/// `None` without an address.
fn backend(typed: Backend, names: &mut Names, errors: &mut Findings) -> Option<plan::Backend> {
    if typed.address.is_absent() {
        errors
            .key_missing(typed.header, "this backend has no 'address'")
            .help("write address = \"10.0.0.1:80\"");
    }
    let name_is_absent = typed.name.is_absent();
    if let Some(name) = typed.name.as_given() {
        names.claim(&name.value, name.span, errors);
    }
    let address = typed.address.given()?;
    let name = typed.name.or_else(|| address.value.to_string());
    if name_is_absent {
        if name.len() > MAX_NAME {
            let message = format!("address: too long to be the name as well (at most {MAX_NAME})");
            errors.wrong(address.span, message).help("add a 'name'");
        } else {
            names.claim(&name, address.span, errors);
        }
    }
    if let Some(Spanned { value: plan::Addresses::All, span }) = typed.addresses.as_given()
        && let Address::Socket(socket) = address.value
    {
        errors
            .wrong(*span, format!("addresses: {socket} is an address already, not a name"))
            .help("write a host name in 'address', or leave 'addresses' out");
    }
    Some(plan::Backend {
        name,
        address: address.value,
        addresses: typed.addresses.or(plan::Addresses::One),
        weight: typed.weight,
        max_connections: typed.max_connections,
        health_port: typed.health_port,
        backup: typed.backup,
    })
}

/// Names that must be unique, and where each is written.
pub(super) struct Names {
    what: &'static str,
    taken: BTreeMap<String, Span>,
}

impl Names {
    pub(super) fn new(what: &'static str) -> Self {
        Self { what, taken: BTreeMap::new() }
    }

    pub(super) fn claim(&mut self, name: &str, span: Span, errors: &mut Findings) {
        if let Some(&first) = self.taken.get(name) {
            let message = format!("{} name {} is already used", self.what, quote(name));
            errors.clash(span, message, first).help("give each its own 'name'");
        } else {
            self.taken.insert(name.to_owned(), span);
        }
    }
}

/// Listening addresses. A wildcard overlaps every address of its family with the same port; the
/// families do not overlap, since IPv6 sockets are opened for IPv6 only.
struct Binds {
    exact: HashMap<SocketAddr, Owner>,
    /// By family and port: the wildcard, and the first address of any kind.
    wildcard: HashMap<(bool, u16), (SocketAddr, Owner)>,
    first: HashMap<(bool, u16), (SocketAddr, Owner)>,
}

/// Who holds an address.
#[derive(Clone, Copy)]
enum Owner {
    Listener(Span),
    Admin(Span),
    AdminByDefault,
}

impl Binds {
    fn new(admin_http: &Field<Option<SocketAddr>>) -> Self {
        let mut this =
            Self { exact: HashMap::new(), wildcard: HashMap::new(), first: HashMap::new() };
        match admin_http {
            Field::Absent => this.insert(ADMIN_HTTP, Owner::AdminByDefault),
            Field::Given(Spanned { value: Some(address), span }) => {
                this.insert(*address, Owner::Admin(*span));
            }
            Field::Given(_) | Field::Wrong => {}
        }
        this
    }

    fn claim(&mut self, claimed: &Spanned<SocketAddr>, errors: &mut Findings) {
        let Spanned { value: address, span } = *claimed;
        let Some((other, owner)) = self.overlapping(address) else {
            self.insert(address, Owner::Listener(span));
            return;
        };
        match owner {
            Owner::Listener(first) if other == address => {
                errors.clash(span, format!("bind: {address} is already bound"), first);
            }
            Owner::Listener(first) => {
                errors.clash(span, format!("bind: {address} overlaps {other}"), first);
            }
            Owner::Admin(first) => {
                errors.clash(span, format!("bind: {address} overlaps admin.http"), first);
            }
            Owner::AdminByDefault => {
                errors
                    .wrong(span, format!("bind: {address} overlaps admin.http"))
                    .note(format!("admin.http is {other} unless it is set"))
                    .help("set http in [admin] to another address, or to \"\" for none");
            }
        }
    }

    fn overlapping(&self, address: SocketAddr) -> Option<(SocketAddr, Owner)> {
        let family_and_port = (address.is_ipv4(), address.port());
        if let Some(owner) = self.exact.get(&address) {
            return Some((address, *owner));
        }
        if address.ip().is_unspecified() {
            return self.first.get(&family_and_port).copied();
        }
        self.wildcard.get(&family_and_port).copied()
    }

    fn insert(&mut self, address: SocketAddr, owner: Owner) {
        let family_and_port = (address.is_ipv4(), address.port());
        self.exact.insert(address, owner);
        if address.ip().is_unspecified() {
            self.wildcard.insert(family_and_port, (address, owner));
        }
        self.first.entry(family_and_port).or_insert((address, owner));
    }
}
