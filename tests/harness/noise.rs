//! Bytes that look random, so that lost, doubled, swapped and misrouted ones are all found out.

use std::io::{self, Read, Write};

/// Not a power of two: a stream that is shifted by a whole buffer does not match.
const PERIOD: usize = (1 << 20) + 7;

/// An endless stream of bytes that its seed determines.
pub struct Noise(Vec<u8>);

impl Noise {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Self {
        // SplitMix64.
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        };
        let mut bytes: Vec<u8> = Vec::with_capacity(PERIOD + 8);
        while bytes.len() < PERIOD {
            bytes.extend(next().to_le_bytes());
        }
        bytes.truncate(PERIOD);
        Self(bytes)
    }

    /// Writes the first `length` bytes of the stream.
    pub fn write(&self, to: &mut impl Write, length: usize) -> io::Result<()> {
        let mut written = 0;
        while written < length {
            let from = written % PERIOD;
            let upto = PERIOD.min(from + length - written).min(from + (64 << 10));
            to.write_all(&self.0[from..upto])?;
            written += upto - from;
        }
        Ok(())
    }

    /// Reads to the end and says how many bytes there were.
    ///
    /// # Panics
    ///
    /// If they are not the first ones of the stream.
    pub fn read_to_end(&self, from: &mut impl Read) -> io::Result<usize> {
        self.read(from, usize::MAX)
    }

    /// Reads to the end, but `length` bytes at most, and says how many bytes there were.
    ///
    /// # Panics
    ///
    /// If they are not the first ones of the stream.
    pub fn read(&self, from: &mut impl Read, length: usize) -> io::Result<usize> {
        let mut buffer = vec![0; 64 << 10];
        let mut seen = 0;
        while seen < length {
            let place = seen % PERIOD;
            let wanted = buffer.len().min(PERIOD - place).min(length - seen);
            let received = from.read(&mut buffer[..wanted])?;
            if received == 0 {
                break;
            }
            // Not assert_eq: nobody wants to see the bytes.
            let same = buffer[..received] == self.0[place..place + received];
            assert!(same, "a wrong byte within {received} bytes after the first {seen}");
            seen += received;
        }
        Ok(seen)
    }

    /// How many bytes these are.
    ///
    /// # Panics
    ///
    /// If they are not those of the stream that follow the first `seen`.
    pub fn check(&self, seen: usize, bytes: &[u8]) -> usize {
        for (place, byte) in (seen..).zip(bytes) {
            assert!(*byte == self.0[place % PERIOD], "byte {place} is wrong");
        }
        bytes.len()
    }
}
