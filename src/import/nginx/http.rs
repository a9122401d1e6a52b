//! `http { server { … } }`, as far as it can be done without seeing requests: redirects to HTTPS,
//! and servers that hand all they get to one upstream.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::super::ledger::{Id, Ledger};
use super::super::model::Model;
use super::super::tree::Node;
use super::hosts::listener;
use super::listen::{self, Listen};
use super::scope::Scope;
use super::upstream::{Scheme, Upstreams};

/// Adds what an `http` block says.
pub(super) fn http(node: &Node, outer: &Scope<'_>, model: &mut Model, ledger: &mut Ledger) {
    ledger.structure(node.id);
    let scope = outer.within(node);
    servers(node.children(), &scope, model, ledger);
}

/// What a server does with a request for `/`.
#[derive(Clone, Debug)]
pub(super) enum Service {
    Relay { pool: String },
    Redirect { acme_dir: Option<String>, acme_pool: Option<String> },
}

/// A server, and what it amounts to.
pub(super) struct Server<'a> {
    pub(super) node: &'a Node,
    pub(super) scope: Scope<'a>,
    pub(super) listens: Vec<Listen>,
    pub(super) names: Vec<String>,
    pub(super) service: Option<Service>,
    /// What keeps clients out, and cannot be carried over.
    pub(super) guards: Vec<Id>,
}

/// Who shares an address: a server, and which of its `listen` it is.
type Members = Vec<(usize, usize)>;

/// Adds what the servers of a block say.
pub(super) fn servers(block: &[Node], scope: &Scope<'_>, model: &mut Model, ledger: &mut Ledger) {
    let mut upstreams = Upstreams::of(block, ledger);
    let nodes: Vec<&Node> = block.iter().filter(|node| node.name() == "server").collect();
    let mut servers = Vec::new();
    for node in nodes {
        servers.push(server(node, scope, &mut upstreams, model, ledger));
    }
    // Servers are told apart by name only where they share an address.
    let mut by_address: BTreeMap<SocketAddr, Members> = BTreeMap::new();
    for (index, server) in servers.iter().enumerate() {
        for (which, listen) in server.listens.iter().enumerate() {
            for address in &listen.addresses {
                by_address.entry(*address).or_default().push((index, which));
            }
        }
    }
    let mut groups: Vec<(Members, Vec<SocketAddr>)> = Vec::new();
    for (address, members) in by_address {
        let alike = |group: &&mut (Members, Vec<SocketAddr>)| {
            let describe = |members: &[(usize, usize)]| -> Vec<(usize, bool, bool)> {
                let of = |&(server, which): &(usize, usize)| {
                    let listen = &servers[server].listens[which];
                    (server, listen.is_tls, listen.proxy_protocol)
                };
                members.iter().map(of).collect()
            };
            describe(&group.0) == describe(&members)
        };
        match groups.iter_mut().find(alike) {
            Some(group) => group.1.push(address),
            None => groups.push((members, vec![address])),
        }
    }
    for (mut members, addresses) in groups {
        // The default server is the first, unless another says that it is.
        if let Some(default) =
            members.iter().position(|&(server, which)| servers[server].listens[which].is_default)
        {
            let default = members.remove(default);
            members.insert(0, default);
        }
        listener(&servers, &members, &addresses, model, ledger);
    }
    for server in &servers {
        let why = "lockgate relays TCP and does not see requests: only what is handed to one \
                   upstream as a whole can be carried over";
        if !ledger.is_carried(server.node.id) {
            server.node.forsake(why, ledger);
        }
    }
    upstreams.rest(Some(80), scope, model, ledger);
}

fn server<'a>(
    node: &'a Node,
    outer: &Scope<'a>,
    upstreams: &mut Upstreams<'a>,
    model: &mut Model,
    ledger: &mut Ledger,
) -> Server<'a> {
    ledger.structure(node.id);
    let scope = outer.within(node);
    let mut listens: Vec<Listen> = node
        .children()
        .iter()
        .filter(|child| child.name() == "listen")
        .filter_map(|child| listen::listen(child, ledger))
        .collect();
    if node.child("listen").is_none() {
        let every: SocketAddr = ([0, 0, 0, 0], 80).into();
        listens.push(Listen { id: node.id, addresses: vec![every], ..Listen::default() });
    }
    let mut names = Vec::new();
    for child in node.children().iter().filter(|child| child.name() == "server_name") {
        names.extend(child.rest().iter().cloned());
        ledger.carried(child.id);
    }
    let service = service(node, &scope, upstreams, model, ledger);
    let mut guards = Vec::new();
    find_guards(node, true, &mut guards, ledger);
    Server { node, scope, listens, names, service, guards }
}

fn is_root(location: &Node) -> bool {
    matches!(location.rest(), [path] if path == "/")
        || matches!(location.rest(), [how, path] if (how == "^~" || how == "=") && path == "/")
}

fn service<'a>(
    server: &'a Node,
    scope: &Scope<'a>,
    upstreams: &mut Upstreams<'a>,
    model: &mut Model,
    ledger: &mut Ledger,
) -> Option<Service> {
    let locations: Vec<&Node> =
        server.children().iter().filter(|child| child.name() == "location").collect();
    let root = locations.iter().find(|location| is_root(location)).copied();
    let blocks = [Some(server), root];
    let redirect = blocks.into_iter().flatten().find_map(|block| redirect(block, ledger));
    if let Some(id) = redirect {
        ledger.carried(id);
        let mut challenges = (None, None);
        for location in &locations {
            if location.rest().last().is_some_and(|path| path.starts_with("/.well-known")) {
                challenges = challenge(location, scope, upstreams, model, ledger);
            }
        }
        if let Some(root) = root {
            ledger.carried(root.id);
        }
        return Some(Service::Redirect { acme_dir: challenges.0, acme_pool: challenges.1 });
    }
    let root = root?;
    let scope = scope.within(root);
    let pass = root.child("proxy_pass").or_else(|| root.child("grpc_pass"))?;
    let mut target = pass.word(1);
    if target.starts_with('$') {
        target = scope.constant(target, ledger)?;
    }
    let (scheme, rest) = target.split_once("://")?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (is_tls, port) = match scheme {
        "https" | "grpcs" => (true, 443),
        _ => (false, 80),
    };
    let pool = upstreams.pool(
        host,
        pass.id,
        Scheme { is_tls, port: Some(port) },
        &scope,
        model,
        ledger,
    )?;
    if !path.is_empty() {
        ledger.lost(pass.id, format!("/{path}: paths are left as the client sends them"));
    }
    ledger.changed(
        pass.id,
        "connections are relayed, not requests: headers (Host, X-Forwarded-For) are left as the \
         client sends them",
    );
    ledger.carried(root.id);
    Some(Service::Relay { pool })
}

/// `return 301 https://…` and its like, perhaps in an `if` as Certbot writes it.
fn redirect(block: &Node, ledger: &mut Ledger) -> Option<Id> {
    for child in block.children() {
        let target = match (child.name(), child.word(1), child.rest()) {
            ("return", "301" | "302" | "307" | "308", _) => child.word(2),
            ("return", target, [_]) => target,
            ("rewrite", _, [_, target, ..]) => target,
            ("if", ..) => {
                if let Some(id) = redirect(child, ledger) {
                    ledger.carried(child.id);
                    return Some(id);
                }
                continue;
            }
            _ => continue,
        };
        let Some(rest) = target.strip_prefix("https://") else { continue };
        if rest.starts_with("$host") || rest.starts_with("$http_host") {
            ledger.carried(child.id);
        } else {
            ledger.changed(child.id, "clients are sent to https:// of the name they asked for");
        }
        return Some(child.id);
    }
    None
}

/// What answers the challenges of ACME: a directory or a pool.
fn challenge<'a>(
    location: &'a Node,
    scope: &Scope<'a>,
    upstreams: &mut Upstreams<'a>,
    model: &mut Model,
    ledger: &mut Ledger,
) -> (Option<String>, Option<String>) {
    let scope = scope.within(location);
    if let Some(pass) = location.child("proxy_pass") {
        let host = pass.word(1).trim_start_matches("http://");
        let host = host.split('/').next().unwrap_or(host);
        ledger.carried(location.id);
        ledger.carried(pass.id);
        return (
            None,
            upstreams.pool(
                host,
                pass.id,
                Scheme { is_tls: false, port: Some(80) },
                &scope,
                model,
                ledger,
            ),
        );
    }
    let below = ".well-known/acme-challenge";
    let directory = if let Some(alias) = location.child("alias") {
        ledger.carried(alias.id);
        Some(alias.word(1).trim_end_matches('/').to_owned())
    } else {
        let root = scope.path("root", ledger);
        root.map(|root| format!("{}/{below}", root.trim_end_matches('/')))
    };
    if directory.is_some() {
        ledger.carried(location.id);
    }
    (directory, None)
}

/// What refuses requests, other than by the address of the client alone.
fn find_guards(node: &Node, is_outermost: bool, guards: &mut Vec<Id>, ledger: &mut Ledger) {
    for child in node.children() {
        let is_guard = match (child.name(), child.word(1)) {
            ("auth_basic" | "auth_jwt" | "auth_request", value) => value != "off",
            ("deny" | "allow", _) => !is_outermost,
            ("return", "401" | "403" | "410" | "444") => true,
            ("internal" | "secure_link" | "satisfy" | "limit_except" | "valid_referers", _) => true,
            _ => false,
        };
        if is_guard {
            ledger.closed(child.id, "lockgate does not see requests, and refuses none");
            guards.push(child.id);
        }
        if matches!(child.name(), "location" | "if") {
            find_guards(child, false, guards, ledger);
        }
    }
}
