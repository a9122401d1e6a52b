//! A server of the demo: a process of its own, so that it can be killed for real.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::thread;

use axum::Router;
use tokio::net::TcpListener;

use super::super::{Error, print, runtime};

/// Answers every request with `name`. Says on standard output which port it listens on, and ends
/// when its standard input does: with the demo, however that ends.
pub fn serve(name: &str, port: u16, address: IpAddr) -> Result<(), Error> {
    thread::spawn(|| {
        // Only its end matters.
        let _ = io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    let served = runtime()?.block_on(async {
        let listener = TcpListener::bind(SocketAddr::from((address, port))).await?;
        let port = listener.local_addr()?.port();
        if print(&format!("{port}\n")).is_err() {
            return Ok(());
        }
        let name = name.to_owned();
        axum::serve(listener, Router::new().fallback(|| async move { name })).await
    });
    served.map_err(|error| Error::of_system("the server of the demo", &error))
}
