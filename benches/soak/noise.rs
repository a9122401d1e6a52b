//! The bytes that checked clients and backends exchange: any that is lost, doubled, swapped or
//! another's is found out.

use std::io::{self, ErrorKind, Read, Write};
use std::sync::LazyLock;

use crate::chance::Chance;

/// Not a power of two: a stream that is shifted by a whole buffer does not match.
const PERIOD: usize = (1 << 20) + 7;

static TABLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut chance = Chance::new(0x10_c4_ea_7e);
    (0..PERIOD / 8 + 1).flat_map(|_| chance.next().to_le_bytes()).take(PERIOD).collect()
});

/// Writes `length` bytes of the stream that begins at `seed`.
pub fn write(to: &mut impl Write, seed: u64, length: usize) -> io::Result<()> {
    let mut written = 0;
    while written < length {
        let place = (seed as usize).wrapping_add(written) % PERIOD;
        let upto = PERIOD.min(place + length - written).min(place + (64 << 10));
        to.write_all(&TABLE[place..upto])?;
        written += upto - place;
    }
    to.flush()
}

/// Reads `length` bytes, which must be those of the stream that begins at `seed`.
///
/// Fails with [`ErrorKind::InvalidData`] if they are not.
pub fn check(from: &mut impl Read, seed: u64, length: usize) -> io::Result<()> {
    let mut buffer = vec![0; length.clamp(1, 64 << 10)];
    let mut seen = 0;
    while seen < length {
        let place = (seed as usize).wrapping_add(seen) % PERIOD;
        let wanted = buffer.len().min(PERIOD - place).min(length - seen);
        match from.read(&mut buffer[..wanted])? {
            0 => {
                let text = format!("ended after {seen} of {length} bytes");
                return Err(io::Error::new(ErrorKind::UnexpectedEof, text));
            }
            count if buffer[..count] == TABLE[place..place + count] => seen += count,
            _ => {
                let text = format!("a wrong byte after {seen} of {length}");
                return Err(io::Error::new(ErrorKind::InvalidData, text));
            }
        }
    }
    Ok(())
}
