//! The load of requests and replies: on short connections, on kept ones, and for `idle`.
//!
//! A client sends a request, checks the reply to the last byte, and then does as [`Then`] says.

use std::io::{self, ErrorKind, Read, Write};

use crate::crowd;
use crate::measure::{Measured, Window};
use crate::site::Site;
use crate::tls::{Line, Tally};

/// A proxy that fails more connections than this is broken, and the run not worth its time.
const HOPELESS: u64 = 1000;

/// What a client does once it has its reply.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Closes, and opens the next connection.
    Reconnect,
    /// Sends the next request on the same connection.
    Repeat,
}

/// Clients that exchange messages through the proxy.
#[derive(Clone, Copy)]
pub struct Exchange {
    pub bytes: usize,
    pub clients: usize,
    pub then: Then,
    /// Connections that are open and silent meanwhile.
    pub beside: usize,
}

/// A connection and its current exchange.
pub struct Caller {
    line: Line,
    request: Box<[u8]>,
    reply: Box<[u8]>,
    sent: usize,
    received: usize,
}

impl Exchange {
    /// Runs until the window closes. Also returns how many connections failed.
    pub fn run(
        &self,
        site: &mut Site,
        warm_up: u64,
        exchanges: u64,
    ) -> io::Result<(Measured, u64)> {
        let (mut silent, lost) = crowd::gather(site, self.clients, self.beside, self.bytes)?;
        let mut failures = lost;
        let mut serial = 0;
        let mut callers = Vec::new();
        if self.then == Then::Repeat {
            let (gathered, lost) = crowd::gather(site, 0, self.clients, self.bytes)?;
            callers = gathered;
            failures += lost;
            for caller in &mut callers {
                serial += 1;
                caller.begin(serial);
                // The reply cannot be here yet; a failure comes again when it is awaited.
                let _ = caller.proceed();
            }
        } else {
            for client in 0..self.clients {
                serial += 1;
                callers.push(Caller::connect(site, client, self.bytes, serial)?);
            }
        }
        let mut window = Window::over(&site.pids()?, warm_up, exchanges)?;
        let mut tally = Tally::default();
        let mut ready = Vec::new();
        loop {
            site.turn(&mut ready)?;
            for &client in ready.iter().filter(|&&client| client < self.clients) {
                // On a kept connection the next request goes out at once, so go round again.
                loop {
                    let reply = callers[client].proceed();
                    if let Ok(false) = reply {
                        break;
                    }
                    tally.count(&callers[client].line);
                    serial += 1;
                    if reply.is_ok() && self.then == Then::Repeat {
                        callers[client].begin(serial);
                    } else {
                        callers[client].line.close();
                        callers[client] = Caller::connect(site, client, self.bytes, serial)?;
                    }
                    match reply {
                        Ok(_) => {
                            if let Some(measured) = window.advance(1)? {
                                site.judge(self.clients, &tally)?;
                                return Ok((measured, failures + crowd::gone(&mut silent)));
                            }
                        }
                        Err(error) if failures == HOPELESS => return Err(error),
                        Err(_) => failures += 1,
                    }
                    if self.then == Then::Reconnect {
                        break;
                    }
                }
            }
        }
    }
}

impl Caller {
    pub fn connect(site: &mut Site, client: usize, bytes: usize, serial: u64) -> io::Result<Self> {
        let mut caller = Self {
            line: site.dial(client)?,
            request: vec![0; bytes].into_boxed_slice(),
            reply: vec![0; bytes].into_boxed_slice(),
            sent: 0,
            received: 0,
        };
        caller.begin(serial);
        Ok(caller)
    }

    /// Makes the next request. No two are alike, so that no reply passes for another's.
    pub fn begin(&mut self, serial: u64) {
        for chunk in self.request.chunks_mut(8) {
            chunk.copy_from_slice(&serial.to_le_bytes()[..chunk.len()]);
        }
        self.sent = 0;
        self.received = 0;
    }

    /// Goes as far as the socket lets it; true when the reply is here and right.
    pub fn proceed(&mut self) -> io::Result<bool> {
        while self.sent < self.request.len() {
            match self.line.write(&self.request[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        while self.received < self.reply.len() {
            match self.line.read(&mut self.reply[self.received..]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.received += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        let right = self.request.iter().zip(&self.reply).all(|(sent, got)| *got == !*sent);
        if right { Ok(true) } else { Err(ErrorKind::InvalidData.into()) }
    }

    /// Whether its reply is here: no request is under way.
    pub fn is_idle(&self) -> bool {
        self.received == self.reply.len()
    }

    /// Whether the connection is open, with nothing to read.
    pub fn is_quiet(&mut self) -> bool {
        matches!(self.line.read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
    }
}
