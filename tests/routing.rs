//! Clients that are sent where what they say first leads: TLS by its ClientHello, HTTP to HTTPS.

mod challenges;
mod choosing;
mod first_bytes;
mod hellos;
mod passing;
mod redirecting;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::mpsc;

use crate::harness::{PATIENCE, Server};

/// A listener of this protocol, with further lines.
fn listener(bind: SocketAddr, protocol: &str, lines: &str) -> String {
    let known = format!("name = \"web\"\nbind = [\"{bind}\"]\nprotocol = \"{protocol}\"");
    format!("[[listener]]\n{known}\n{lines}\n")
}

/// A route with these conditions, which belongs to the listener before it.
fn route(conditions: &str, pool: &str) -> String {
    format!("[[listener.route]]\n{conditions}\npool = \"{pool}\"\n")
}

/// A pool with the name of its only server.
fn pool_of(server: &Server) -> String {
    let (name, address) = (server.name(), server.address());
    format!("[[pool.{name}.backend]]\nname = \"{name}\"\naddress = \"{address}\"\n")
}

/// A server that hears a client out, keeps what it has heard, and then says its name.
struct Keeper {
    server: Server,
    kept: mpsc::Receiver<Vec<u8>>,
}

impl Keeper {
    fn new(name: &str) -> Self {
        let (keep, kept) = mpsc::channel();
        let line = format!("{name}\n");
        let server = Server::with(name, move |mut stream| {
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard)?;
            // Who does not ask does not mind.
            let _ = keep.send(heard);
            stream.write_all(line.as_bytes())
        });
        Self { server, kept }
    }

    /// What the next client has said to it, which has closed in order.
    #[track_caller]
    fn heard(&self) -> Vec<u8> {
        self.kept.recv_timeout(PATIENCE).expect("it has heard a client out")
    }
}
