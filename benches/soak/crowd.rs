//! Clients that misbehave, in crowds. What becomes of them is their own affair; the checked clients
//! must not notice.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use crate::backend::REQUEST;
use crate::chance::Chance;
use crate::harness::tls::begin;
use crate::harness::{hello, reset};
use crate::noise;
use crate::site::{self, REDIRECT};

/// All listeners.
pub const ALL: [&str; 5] = ["plain", "tls", "sealed", "passed", REDIRECT];

/// What a crowd does.
#[derive(Clone, Copy)]
pub enum Misdeed {
    /// Connects, and says nothing.
    Idles,
    /// Says what is due a byte at a time.
    Drips,
    /// Resets, in whatever phase.
    Resets,
    /// Asks for a lot, and does not read it.
    Deaf,
    /// Says what nobody understands.
    Babbles,
    /// Connects and closes at once.
    Knocks,
}

/// A crowd of so many does it to these listeners, for so long where that matters.
pub fn come(
    misdeed: Misdeed,
    count: usize,
    to: &[&'static str],
    length: Duration,
    chance: &mut Chance,
) {
    let mut clients = Vec::with_capacity(count);
    for _ in 0..count {
        let listener = chance.one_of(to);
        // The backlog may be full, or the ports in use: the next, then.
        let Ok(stream) = TcpStream::connect_timeout(&site::address(listener), length) else {
            continue;
        };
        let patience = Some(Duration::from_secs(1));
        if stream.set_read_timeout(patience).is_err() || stream.set_write_timeout(patience).is_err()
        {
            continue;
        }
        let said = first_words(listener, chance);
        match misdeed {
            Misdeed::Knocks => {}
            Misdeed::Idles | Misdeed::Drips | Misdeed::Deaf => clients.push((stream, said)),
            Misdeed::Resets => {
                let part = chance.within(0, said.len() + 1);
                let _ = (&stream).write_all(&said[..part]);
                if chance.within(0, 2) == 0 {
                    thread::sleep(chance.millis(0, 3));
                }
                reset(stream);
            }
            Misdeed::Babbles => {
                let _ = noise::write(&mut &stream, chance.next(), chance.within(0, 5_000));
            }
        }
    }
    match misdeed {
        Misdeed::Idles => thread::sleep(length),
        Misdeed::Drips => drip(&clients, length),
        Misdeed::Deaf => {
            clients.iter().for_each(|(stream, said)| ask_for_more(stream, said));
            thread::sleep(length);
        }
        Misdeed::Resets | Misdeed::Babbles | Misdeed::Knocks => {}
    }
    for (number, (stream, _)) in clients.into_iter().enumerate() {
        if number % 2 == 0 {
            reset(stream);
        }
    }
}

/// What a client of this listener says first.
fn first_words(listener: &str, chance: &mut Chance) -> Vec<u8> {
    match listener {
        "plain" => {
            let mut request = vec![0; REQUEST];
            // A lot, back.
            request[4..8].copy_from_slice(&(64u32 << 20).to_le_bytes());
            request
        }
        REDIRECT => b"GET /some/path HTTP/1.1\r\nHost: soak.example\r\nX: y\r\n\r\n".to_vec(),
        _ => {
            let config = crate::harness::tls::credulous(rustls::ALL_VERSIONS, &[]);
            match chance.within(0, 2) {
                0 => hello::asking(&config, site::NAME, &[]),
                _ => {
                    let mut said = Vec::new();
                    // Into memory: it does not fail.
                    let _ = begin(&config, site::NAME).write_tls(&mut said);
                    hello::rewrapped(&said, 64)
                }
            }
        }
    }
}

fn drip(clients: &[(TcpStream, Vec<u8>)], length: Duration) {
    const PAUSE: Duration = Duration::from_millis(50);
    for step in 0..(length.as_millis() / PAUSE.as_millis()) as usize {
        for (stream, said) in clients {
            if let Some(byte) = said.get(step) {
                // Who was thrown out drips no more.
                let _ = (&mut &*stream).write_all(&[*byte]);
            }
        }
        thread::sleep(PAUSE);
    }
}

/// A client of the plain listener gets an endless answer, of which it reads the greeting. Of the
/// others the hello is sent, and the answer to it is not read.
fn ask_for_more(mut stream: &TcpStream, said: &[u8]) {
    let _ = stream.write_all(said);
    if stream.peer_addr().is_ok_and(|peer: SocketAddr| peer == site::address("plain")) {
        let _ = stream.read(&mut [0; 3]);
    }
}
