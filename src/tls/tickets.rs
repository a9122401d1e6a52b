//! Session tickets that both gateways of a pair understand (RFC 5077, RFC 8446 section 4.6.1).
//!
//! A ticket is a session, sealed and kept by the client. Keys are not exchanged: both gateways
//! derive them from a secret they share, from what the ticket is good for (the listener and its
//! policy), and from the hour. So a client resumes on whichever gateway it meets, also after a
//! takeover, but never on another listener, and a key is used for an hour and forgotten with its
//! last ticket.
//!
//! ```text
//! ticket = name of the key (16 bytes) ‖ nonce (12) ‖ AES-256-GCM(session) ‖ tag (16)
//! name ‖ key = HKDF-SHA256(secret, "lockgate ticket 1" ‖ length ‖ listener ‖ policy ‖ hour)
//! ```

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::{hkdf, rand};
use rustls::server::ProducesTickets;
use zeroize::Zeroizing;

use super::clock::Clock;

/// Hours for which a ticket is good, besides the one it was made in.
pub(super) const LIFETIME_HOURS: u64 = 12;
/// The same where clients show certificates: one that was revoked or has expired is not asked for
/// again when a session is resumed.
pub(super) const LIFETIME_HOURS_WITH_CLIENT_CERTIFICATES: u64 = 1;

const NAME_LEN: usize = 16;
const KEY_LEN: usize = 32;
const TAG_LEN: usize = 16;
/// A session with the longest chain of client certificates that rustls takes still fits.
const MAX_TICKET_LEN: usize = 65_535;

const MIN_SECRET_LEN: usize = 32;
const MAX_SECRET_LEN: usize = 4096;

/// What ticket keys are derived from. Whoever has it can read all resumed sessions.
#[derive(Clone)]
pub struct Secret(Arc<hkdf::Prk>);

/// Why something is no secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("{0}")]
    Unreadable(#[from] io::Error),
    /// Less than 32 bytes, or more than 4096.
    #[error("{0} bytes, where 32 to 4096 random ones are needed")]
    Length(usize),
    /// Bytes that nobody drew at random.
    #[error("these bytes are not random")]
    NotRandom,
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    NoRandomness,
}

impl Secret {
    /// The secret in a file, which is the same on both gateways.
    pub fn read(file: &Path) -> Result<Self, SecretError> {
        // With room for all of it, so that it is not left behind in memory that was outgrown.
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_SECRET_LEN + 2));
        // Bounded, as the file may be /dev/urandom.
        // Nor is a FIFO waited for.
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(file)?;
        file.take(MAX_SECRET_LEN as u64 + 1).read_to_end(&mut bytes)?;
        Self::from_bytes(&bytes)
    }

    /// A secret of 32 to 4096 random bytes, in any notation.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SecretError> {
        if !(MIN_SECRET_LEN..=MAX_SECRET_LEN).contains(&bytes.len()) {
            return Err(SecretError::Length(bytes.len()));
        }
        // Of 32 random hexadecimal digits, less than 6 are different once in 10^13 times.
        let mut seen = [false; 256];
        bytes.iter().for_each(|byte| seen[usize::from(*byte)] = true);
        if seen.iter().filter(|seen| **seen).count() < 6 {
            return Err(SecretError::NotRandom);
        }
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"lockgate pair secret");
        Ok(Self(Arc::new(salt.extract(bytes))))
    }

    /// Random bytes for a secret that gateways do not share.
    pub fn draw() -> Result<[u8; MIN_SECRET_LEN], SecretError> {
        let mut bytes = [0; MIN_SECRET_LEN];
        rand::fill(&mut bytes).map_err(|Unspecified| SecretError::NoRandomness)?;
        Ok(bytes)
    }

    /// A secret of nobody else.
    pub fn random() -> Result<Self, SecretError> {
        Self::from_bytes(&*Zeroizing::new(Self::draw()?))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Makes and reads the tickets of one listener under one policy.
pub(super) struct Tickets {
    secret: Secret,
    /// What the tickets are good for, without ambiguity.
    context: Vec<u8>,
    lifetime_hours: u64,
    clock: Clock,
    /// The keys of now; replaced by whichever thread first notices that the hour is another.
    window: ArcSwap<Window>,
}

/// The keys of an hour, of those whose tickets are still good, and of the hour to come: the other
/// gateway's clock may be fast.
struct Window {
    hour: u64,
    /// From the youngest hour to the oldest.
    keys: Vec<Arc<Key>>,
}

struct Key {
    hour: u64,
    name: [u8; NAME_LEN],
    aead: RandomizedNonceKey,
}

impl Tickets {
    /// Tickets for `listener` that are good only where `policy` is the same, for
    /// `lifetime_hours`.
    pub(super) fn new(
        secret: Secret,
        listener: &str,
        policy: &[u8],
        lifetime_hours: u64,
        clock: Clock,
    ) -> Result<Self, Unspecified> {
        let mut context = (listener.len() as u64).to_be_bytes().to_vec();
        context.extend(listener.as_bytes());
        context.extend(policy);
        let hour = hour(&clock);
        let window =
            Window::new(hour, lifetime_hours, &[], |hour| derive(&secret, &context, hour))?;
        Ok(Self { context, lifetime_hours, clock, window: ArcSwap::from_pointee(window), secret })
    }

    /// The keys of now.
    ///
    /// No lock: threads that notice a new hour at once all derive its key, which is the same.
    fn window(&self) -> Option<Guard<Arc<Window>>> {
        let window = self.window.load();
        let hour = hour(&self.clock);
        if window.hour == hour {
            return Some(window);
        }
        let next = Window::new(hour, self.lifetime_hours, &window.keys, |hour| {
            derive(&self.secret, &self.context, hour)
        });
        let next = Arc::new(next.ok()?);
        self.window.store(Arc::clone(&next));
        Some(Guard::from_inner(next))
    }
}

impl Window {
    fn new(
        hour: u64,
        lifetime_hours: u64,
        old: &[Arc<Key>],
        derive: impl Fn(u64) -> Result<Key, Unspecified>,
    ) -> Result<Self, Unspecified> {
        let hours = hour.saturating_sub(lifetime_hours)..=hour.saturating_add(1);
        let keys = hours.rev().map(|hour| match old.iter().find(|key| key.hour == hour) {
            Some(key) => Ok(Arc::clone(key)),
            None => derive(hour).map(Arc::new),
        });
        Ok(Self { hour, keys: keys.collect::<Result<_, _>>()? })
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    /// What clients are told, in seconds.
    fn lifetime(&self) -> u32 {
        u32::try_from(self.lifetime_hours * 3600).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, session: &[u8]) -> Option<Vec<u8>> {
        let window = self.window()?;
        let key = window.keys.iter().find(|key| key.hour == window.hour)?;
        let mut sealed = Vec::with_capacity(session.len() + TAG_LEN);
        sealed.extend_from_slice(session);
        // 2^32 nonces drawn at random are too many for one key (NIST SP 800-38D, section 8.3);
        // an hour of fifty thousand handshakes a second draws 2^28.
        let nonce = key.aead.seal_in_place_append_tag(Aad::from(&key.name), &mut sealed).ok()?;
        let mut ticket = Vec::with_capacity(NAME_LEN + NONCE_LEN + sealed.len());
        ticket.extend_from_slice(&key.name);
        ticket.extend_from_slice(nonce.as_ref());
        ticket.append(&mut sealed);
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        if ticket.len() > MAX_TICKET_LEN {
            return None;
        }
        let (name, rest) = ticket.split_first_chunk::<NAME_LEN>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let window = self.window()?;
        let key = window.keys.iter().find(|key| key.name == *name)?;
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let session = key.aead.open_in_place(nonce, Aad::from(name), &mut sealed).ok()?.len();
        sealed.truncate(session);
        Some(sealed)
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").field("lifetime_hours", &self.lifetime_hours).finish()
    }
}

fn hour(clock: &Clock) -> u64 {
    clock.since_1970().as_secs() / 3600
}

fn derive(secret: &Secret, context: &[u8], hour: u64) -> Result<Key, Unspecified> {
    struct Length;

    impl hkdf::KeyType for Length {
        fn len(&self) -> usize {
            NAME_LEN + KEY_LEN
        }
    }

    let hour_bytes = hour.to_be_bytes();
    let info: [&[u8]; 3] = [b"lockgate ticket 1", context, &hour_bytes];
    let mut bytes = Zeroizing::new([0; NAME_LEN + KEY_LEN]);
    secret.0.expand(&info, Length)?.fill(&mut *bytes)?;
    let (name, key) = bytes.split_first_chunk::<NAME_LEN>().ok_or(Unspecified)?;
    Ok(Key { hour, name: *name, aead: RandomizedNonceKey::new(&AES_256_GCM, key)? })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::*;

    const NOON: u64 = 1_800_000 * 3600;

    fn secret(byte: u8) -> Secret {
        let bytes: Vec<_> = (0..32).map(|index| index ^ byte).collect();
        Secret::from_bytes(&bytes).unwrap()
    }

    /// Tickets, and the seconds since 1970 that their clock shows.
    fn tickets(secret: Secret, listener: &str, policy: &[u8]) -> (Tickets, Arc<AtomicU64>) {
        let seconds = Arc::new(AtomicU64::new(NOON));
        let shown = Arc::clone(&seconds);
        let clock =
            Clock::new(move || UNIX_EPOCH + Duration::from_secs(shown.load(Ordering::Relaxed)));
        (Tickets::new(secret, listener, policy, LIFETIME_HOURS, clock).unwrap(), seconds)
    }

    #[test]
    fn gateways_with_the_same_secret_read_each_others_tickets() {
        let (one, _) = tickets(secret(1), "https", b"policy");
        let (other, _) = tickets(secret(1), "https", b"policy");
        let ticket = one.encrypt(b"session").unwrap();
        assert_eq!(ticket.len(), NAME_LEN + NONCE_LEN + 7 + TAG_LEN);
        assert_eq!(other.decrypt(&ticket).unwrap(), b"session");
        assert_eq!(one.decrypt(&other.encrypt(b"").unwrap()).unwrap(), b"");
    }

    #[test]
    fn another_secret_listener_or_policy_reads_nothing() {
        let (ours, _) = tickets(secret(1), "https", b"policy");
        let ticket = ours.encrypt(b"session").unwrap();
        for (secret, listener, policy) in [
            (secret(2), "https", "policy"),
            (secret(1), "admin", "policy"),
            (secret(1), "https", "other"),
            // The border between listener and policy is a part of what is hashed.
            (secret(1), "httpsp", "olicy"),
        ] {
            let (theirs, _) = tickets(secret, listener, policy.as_bytes());
            assert_eq!(theirs.decrypt(&ticket), None, "{listener} {policy}");
        }
        assert!(ours.decrypt(&ticket).is_some());
    }

    #[test]
    fn tickets_are_good_for_their_lifetime_and_not_much_longer() {
        let (tickets, seconds) = tickets(secret(1), "https", b"");
        seconds.store(NOON + 3599, Ordering::Relaxed);
        let ticket = tickets.encrypt(b"session").unwrap();
        for (at, good) in [(0, true), (LIFETIME_HOURS * 3600, true), (13 * 3600, false)] {
            seconds.store(NOON + 3599 + at, Ordering::Relaxed);
            assert_eq!(tickets.decrypt(&ticket).is_some(), good, "after {at} seconds");
        }
        assert_eq!(tickets.lifetime(), 12 * 3600);
    }

    #[test]
    fn clocks_may_differ_by_minutes_and_go_backwards() {
        let (fast, fast_clock) = tickets(secret(1), "https", b"");
        let (slow, slow_clock) = tickets(secret(1), "https", b"");
        slow_clock.store(NOON - 300, Ordering::Relaxed);
        let ticket = fast.encrypt(b"session").unwrap();
        assert!(slow.decrypt(&ticket).is_some(), "made in the hour to come");
        assert!(fast.decrypt(&slow.encrypt(b"session").unwrap()).is_some());

        // More than an hour ahead is no skew any more, and costs a handshake in full.
        slow_clock.store(NOON - 2 * 3600, Ordering::Relaxed);
        assert!(slow.decrypt(&ticket).is_none());

        fast_clock.store(NOON - 24 * 3600, Ordering::Relaxed);
        let earlier = fast.encrypt(b"session").unwrap();
        assert!(fast.decrypt(&earlier).is_some());
        assert!(fast.decrypt(&ticket).is_none());
        fast_clock.store(NOON, Ordering::Relaxed);
        assert!(fast.decrypt(&ticket).is_some(), "the same keys again");
        fast_clock.store(0, Ordering::Relaxed);
        assert!(fast.encrypt(b"session").is_some());
    }

    #[test]
    fn the_same_session_is_never_the_same_ticket() {
        let (tickets, _) = tickets(secret(1), "https", b"");
        assert_ne!(tickets.encrypt(b"session"), tickets.encrypt(b"session"));
    }

    #[test]
    fn threads_see_one_window() {
        let (tickets, seconds) = tickets(secret(1), "https", b"");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let ticket = tickets.encrypt(b"session").unwrap();
                        assert_eq!(tickets.decrypt(&ticket).unwrap(), b"session");
                    }
                });
            }
            for hour in 0..10 {
                seconds.store(NOON + hour * 3600, Ordering::Relaxed);
                std::thread::yield_now();
            }
        });
    }

    #[test]
    fn secrets_are_long_and_random() {
        assert!(matches!(Secret::from_bytes(&[1; 31]), Err(SecretError::Length(31))));
        assert!(matches!(Secret::from_bytes(&[0; 32]), Err(SecretError::NotRandom)));
        assert!(matches!(Secret::read("/nowhere".as_ref()), Err(SecretError::Unreadable(_))));
        assert!(matches!(Secret::read("/dev/urandom".as_ref()), Err(SecretError::Length(4097))));
        let (one, _) = tickets(Secret::random().unwrap(), "https", b"");
        let (other, _) = tickets(Secret::random().unwrap(), "https", b"");
        assert!(other.decrypt(&one.encrypt(b"session").unwrap()).is_none());
    }

    proptest! {
        #[test]
        fn garbage_is_refused(garbage in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (tickets, _) = tickets(secret(1), "https", b"");
            prop_assert_eq!(tickets.decrypt(&garbage), None);
        }

        #[test]
        fn a_changed_bit_or_a_lost_byte_is_refused(
            session in proptest::collection::vec(any::<u8>(), 0..100),
            at in any::<proptest::sample::Index>(),
            bit in 0..8u8,
        ) {
            let (tickets, _) = tickets(secret(1), "https", b"");
            let mut ticket = tickets.encrypt(&session).unwrap();
            let at = at.index(ticket.len());
            prop_assert_eq!(tickets.decrypt(&ticket[..at]), None);
            ticket[at] ^= 1 << bit;
            prop_assert_eq!(tickets.decrypt(&ticket), None);
        }
    }
}
