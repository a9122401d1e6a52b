//! What a client says first, read far enough to decide where it goes.
//!
//! Parsers of bytes that anybody on the Internet may send: a pure function of what has arrived. A
//! reader is shown the buffer after every read, and remembers how far it has come, so the work is
//! proportional to the bytes, however small the pieces are in which they arrive. The verdict
//! depends on the bytes alone, never on where they were cut, and falls at the first byte that
//! settles it: nobody waits for the timeout of a client that speaks another protocol.
//!
//! The caller owns the buffer, the timeout and the answer; nothing here touches a socket or a
//! clock, and nothing panics. `fuzz/` holds it to that.

pub mod client_hello;
pub mod first_bytes;
pub mod http_head;
pub mod name;
pub mod proxy_protocol;

#[cfg(test)]
mod tests;
