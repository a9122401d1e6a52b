//! A crowd that means no good, beside the clients whose latency is measured.
//!
//! So many connections that say a `ClientHello` at a byte a second, each in a segment of its own,
//! and so many a second that are reset as soon as they are there. When the proxy throws one out,
//! the next takes its place.

use std::io::{self, ErrorKind, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::poller::Interest;
use crate::site::Site;

/// Connections that drip.
pub const DRIPPING: usize = 2000;

/// Connections a second that are reset.
pub const RESETS: f64 = 500.0;

/// A record of 512 bytes, which is a `ClientHello` as far as anybody has time to see.
const BEGINNING: [u8; 11] = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];

/// The crowd.
pub struct Crowd {
    /// What their events are called, which nobody waits for.
    token: usize,
    began: Instant,
    dripping: Vec<Option<(TcpStream, usize)>>,
    drips: usize,
    resets: usize,
}

impl Crowd {
    /// Opens all that drip.
    pub fn gather(site: &mut Site, token: usize) -> io::Result<Self> {
        let open = |_| Ok(Some((site.connect(token, Interest::Edges)?, 0)));
        let dripping = (0..DRIPPING).map(open).collect::<io::Result<_>>()?;
        Ok(Self { token, began: Instant::now(), dripping, drips: 0, resets: 0 })
    }

    /// Does what is due by now.
    pub fn go_on(&mut self, site: &mut Site) -> io::Result<()> {
        let passed = self.began.elapsed().as_secs_f64();
        while (self.drips as f64) < passed * DRIPPING as f64 {
            let place = self.drips % DRIPPING;
            self.drips += 1;
            let Some((socket, said)) = &mut self.dripping[place] else {
                self.dripping[place] = Some((site.connect(self.token, Interest::Edges)?, 0));
                continue;
            };
            let byte = BEGINNING.get(*said).copied().unwrap_or_default();
            *said += 1;
            match socket.write(&[byte]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // It was thrown out.
                Err(_) => self.dripping[place] = None,
            }
        }
        while (self.resets as f64) < passed * RESETS {
            self.resets += 1;
            let socket = site.connect(self.token, Interest::Edges)?;
            SockRef::from(&socket).set_linger(Some(Duration::ZERO))?;
        }
        Ok(())
    }
}
