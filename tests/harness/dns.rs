//! A DNS server that gives the same addresses for every name, unless it is not itself.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// What it says when it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// This address, for two seconds.
    Knows(Ipv4Addr),
    /// The addresses that it was told of last by [`Dns::list`].
    Lists,
    /// The same for IPv4; SERVFAIL for IPv6.
    ListsHalf,
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
    list: Arc<Mutex<Vec<IpAddr>>>,
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
        let list = Arc::<Mutex<Vec<IpAddr>>>::default();
        let thread = thread::spawn({
            let list = Arc::clone(&list);
            let (mood, asked, stop) = (Arc::clone(&mood), Arc::clone(&asked), Arc::clone(&stop));
            move || {
                let mut query = [0; 512];
                while !stop.load(Ordering::SeqCst) {
                    let Ok((length, from)) = socket.recv_from(&mut query) else { continue };
                    let mood = *mood.lock().unwrap();
                    let list = list.lock().unwrap().clone();
                    asked.fetch_add(1, Ordering::SeqCst);
                    if let Some(response) = respond(&query[..length], mood, &list) {
                        socket.send_to(&response, from).unwrap();
                    }
                }
            }
        });
        Self { mood, list, asked, stop, thread: Some(thread) }
    }

    /// It knows another address now.
    pub fn change(&self, answer: Ipv4Addr) {
        self.set(Mood::Knows(answer));
    }

    /// It knows these addresses now, of either family.
    pub fn list(&self, addresses: &[IpAddr]) {
        *self.list.lock().unwrap() = addresses.to_vec();
        self.set(Mood::Lists);
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

/// RFC 1035, section 4, and RFC 3596: the question comes back, with a record for each address of the
/// family that it is about.
fn respond(query: &[u8], mood: Mood, list: &[IpAddr]) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    const TYPE_A: [u8; 2] = [0, 1];
    const TYPE_AAAA: [u8; 2] = [0, 28];
    let mut end = HEADER;
    while *query.get(end)? != 0 {
        end += 1 + usize::from(query[end]);
    }
    // The root label, the type, the class.
    let question = query.get(HEADER..end + 5)?;
    let kind = &query[end + 1..end + 3];
    let (code, addresses) = match mood {
        Mood::Knows(address) => (0, vec![address.into()]),
        Mood::Lists => (0, list.to_vec()),
        Mood::ListsHalf if kind == TYPE_AAAA => (2, vec![]),
        Mood::ListsHalf => (0, list.to_vec()),
        Mood::Fails => (2, vec![]),
        Mood::Denies => (3, vec![]),
        Mood::Silent => return None,
        Mood::Raves => return Some(query.iter().rev().map(|byte| !byte).collect()),
    };
    let is_asked = |ip: &&IpAddr| kind == if ip.is_ipv4() { TYPE_A } else { TYPE_AAAA };
    let addresses: Vec<_> = addresses.iter().filter(is_asked).collect();

    let mut response = query[..2].to_vec();
    // A response, recursion desired and available.
    response.extend([0x81, 0x80 | code]);
    for count in [1, addresses.len() as u16, 0, 0] {
        response.extend(count.to_be_bytes());
    }
    response.extend(question);
    for address in addresses {
        // A pointer to the name of the question, the type, class IN.
        response.extend([0xc0, HEADER as u8]);
        response.extend(kind);
        response.extend([0, 1]);
        response.extend((Dns::TTL.as_secs() as u32).to_be_bytes());
        let bytes = match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        response.extend((bytes.len() as u16).to_be_bytes());
        response.extend(bytes);
    }
    Some(response)
}
