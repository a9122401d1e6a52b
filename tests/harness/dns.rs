//! A DNS server that knows one IPv4 address, which it gives for every name, unless it is not itself.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// What it says when it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// This address, for two seconds.
    Knows(Ipv4Addr),
    /// SERVFAIL: it cannot find out.
    Fails,
    /// NXDOMAIN: there is no such name.
    Denies,
    /// Nothing.
    Silent,
    /// Bytes that are no message.
    Raves,
}

/// The server; it listens until it is killed or dropped.
pub struct Dns {
    mood: Arc<Mutex<Mood>>,
    asked: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Dns {
    /// How long an answer is good for.
    pub const TTL: Duration = Duration::from_secs(2);

    /// Starts it in the namespace of the caller.
    pub fn start(address: SocketAddr, answer: Ipv4Addr) -> Self {
        let socket = UdpSocket::bind(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let mood = Arc::new(Mutex::new(Mood::Knows(answer)));
        let (asked, stop) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let thread = thread::spawn({
            let (mood, asked, stop) = (Arc::clone(&mood), Arc::clone(&asked), Arc::clone(&stop));
            move || {
                let mut query = [0; 512];
                while !stop.load(Ordering::SeqCst) {
                    let Ok((length, from)) = socket.recv_from(&mut query) else { continue };
                    let mood = *mood.lock().unwrap();
                    asked.fetch_add(1, Ordering::SeqCst);
                    if let Some(response) = respond(&query[..length], mood) {
                        socket.send_to(&response, from).unwrap();
                    }
                }
            }
        });
        Self { mood, asked, stop, thread: Some(thread) }
    }

    /// It knows another address now.
    pub fn change(&self, answer: Ipv4Addr) {
        self.set(Mood::Knows(answer));
    }

    /// It is in another mood now.
    pub fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// Questions so far.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// From now on the port is closed.
    pub fn kill(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.kill();
    }
}

/// RFC 1035, section 4: the question comes back, with one record if it is about IPv4 addresses.
fn respond(query: &[u8], mood: Mood) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    const TYPE_A: [u8; 2] = [0, 1];
    let (code, address) = match mood {
        Mood::Knows(address) => (0, Some(address)),
        Mood::Fails => (2, None),
        Mood::Denies => (3, None),
        Mood::Silent => return None,
        Mood::Raves => return Some(query.iter().rev().map(|byte| !byte).collect()),
    };
    let mut end = HEADER;
    while *query.get(end)? != 0 {
        end += 1 + usize::from(query[end]);
    }
    // The root label, the type, the class.
    let question = query.get(HEADER..end + 5)?;
    let address = address.filter(|_| query[end + 1..end + 3] == TYPE_A);

    let mut response = query[..2].to_vec();
    // A response, recursion desired and available.
    response.extend([0x81, 0x80 | code]);
    for count in [1, u16::from(address.is_some()), 0, 0] {
        response.extend(count.to_be_bytes());
    }
    response.extend(question);
    if let Some(address) = address {
        // A pointer to the name of the question, type A, class IN.
        response.extend([0xc0, HEADER as u8, 0, 1, 0, 1]);
        response.extend((Dns::TTL.as_secs() as u32).to_be_bytes());
        response.extend(4u16.to_be_bytes());
        response.extend(address.octets());
    }
    Some(response)
}
