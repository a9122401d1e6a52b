//! The load of bulk data: backends send as fast as they can, the client throws it away.

use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;

use socket2::SockRef;

use crate::measure::{Measured, Window};
use crate::poller::Interest;
use crate::site::Site;
use crate::tls::{Client, Pipe};

/// What one `recv` discards at most. A megabyte would be cheaper for the client, but there are then
/// two stable states, of which each run picks one: either little is queued, and the proxy moves
/// 64 KB at a time, or all queues are full, and each `recv` makes room for a megabyte, which the
/// proxy moves at once, at half the cost.
const SWALLOW: usize = 1 << 17;

/// Runs until the window, counted in bytes, closes.
pub fn run(site: &mut Site, connections: usize, warm_up: u64, bytes: u64) -> io::Result<Measured> {
    if let Some(tls) = site.client().cloned() {
        return run_tls(site, &tls, connections, warm_up, bytes);
    }
    let mut window = Window::over(&site.pids()?, warm_up, bytes)?;
    let mut sockets = Vec::new();
    for client in 0..connections {
        sockets.push(site.connect(client, Interest::Readable)?);
    }
    // With MSG_TRUNC, TCP drops the data and writes nothing here.
    let mut untouched = vec![MaybeUninit::uninit(); SWALLOW];
    let mut ready = Vec::new();
    loop {
        site.turn(&mut ready)?;
        for &client in &ready {
            let socket = SockRef::from(&sockets[client]);
            match socket.recv_with_flags(&mut untouched, libc::MSG_TRUNC) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    if let Some(measured) = window.advance(count as u64)? {
                        return Ok(measured);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// The same with TLS, where the client has to decrypt.
fn run_tls(
    site: &mut Site,
    tls: &Client,
    connections: usize,
    warm_up: u64,
    bytes: u64,
) -> io::Result<Measured> {
    let mut window = Window::over(&site.pids()?, warm_up, bytes)?;
    let mut pipes = Vec::new();
    let mut ready = Vec::new();
    for client in 0..connections {
        let socket = site.connect(client, Interest::Readable)?;
        pipes.push(Pipe::new(socket, tls)?);
        while !pipes[client].shake_hands()? {
            site.turn(&mut ready)?;
        }
    }
    let mut buffer = vec![0; SWALLOW];
    loop {
        site.turn(&mut ready)?;
        for &client in &ready {
            let count = pipes[client].swallow(&mut buffer)?;
            if let Some(measured) = window.advance(count as u64)? {
                return Ok(measured);
            }
        }
    }
}
