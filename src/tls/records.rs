//! A TLS connection as a function of bytes: what came off the wire goes in, what is to go out onto
//! it comes out. Between two calls it holds no bytes but those of a record that is not whole yet.

use std::ops::Deref;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, UnbufferedStatus, WriteTraffic,
};
use rustls::{CommonState, Error};

/// Longest content of a record (RFC 8446, section 5.1).
const CONTENT: usize = 1 << 14;

/// Bytes that a record takes beyond its content, at most: its header, its type, and the nonce and
/// tag of any suite.
const OVERHEAD: usize = 64;

/// Bytes that `plain` bytes take on the wire, at most, with a change of keys before them.
pub(super) const fn sealed(plain: usize) -> usize {
    plain + (plain.div_ceil(CONTENT) + 1) * OVERHEAD
}

/// One end of a connection, as rustls has it.
pub(super) trait Records {
    /// What only a server's end has, or a client's.
    type Data;

    /// What is to be done next.
    fn process<'c, 'i>(&'c mut self, wire: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;

    /// What has been agreed on.
    fn common(&self) -> &CommonState;
}

impl Records for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, wire: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(wire)
    }

    fn common(&self) -> &CommonState {
        self.deref()
    }
}

impl Records for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, wire: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(wire)
    }

    fn common(&self) -> &CommonState {
        self.deref()
    }
}

/// A connection, and what stands between it and the wire.
pub(super) struct Stream<C> {
    connection: Box<C>,
    /// The beginning of a record, or of a message in several.
    partial: Vec<u8>,
    /// What the protocol itself has to say, to go out before anything else.
    outgoing: Vec<u8>,
    /// The peer has announced its end.
    ended: bool,
}

/// What a step came to.
enum Step {
    /// There may be more to do.
    Done,
    /// Bytes are waited for, of the peer or of our own.
    Idle,
}

impl<C: Records> Stream<C> {
    /// A connection before its first message.
    pub(super) fn new(connection: C) -> Self {
        Self {
            connection: Box::new(connection),
            partial: Vec::new(),
            outgoing: Vec::new(),
            ended: false,
        }
    }

    /// What has been agreed on.
    pub(super) fn common(&self) -> &CommonState {
        self.connection.common()
    }

    /// Bytes that the next ones are the continuation of.
    pub(super) fn partial(&self) -> &[u8] {
        &self.partial
    }

    /// Whether the peer has announced that nothing follows, and nothing does.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// What is to go out first. Who takes it sends it.
    pub(super) fn outgoing(&mut self) -> &mut Vec<u8> {
        &mut self.outgoing
    }

    /// Takes what came off the wire, after [`Stream::partial`] in the same buffer, and hands on
    /// what was in it.
    ///
    /// Fails if the peer breaks the rules, or refuses. What was handed on before is good, and the
    /// alert is in [`Stream::outgoing`].
    pub(super) fn receive(
        &mut self,
        wire: &mut [u8],
        mut deliver: impl FnMut(&[u8]),
    ) -> Result<(), Error> {
        let mut used = 0;
        let outcome = loop {
            let (discard, step) = self.step(&mut wire[used..], &mut deliver);
            used += discard;
            match step {
                Ok(Step::Done) => {}
                Ok(Step::Idle) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        let rest = &mut wire[used..];
        if outcome.is_err() {
            // It has its alert ready, and gives it before it looks at the wire again, where it
            // would stumble once more.
            while self.common().wants_write()
                && matches!(self.step(rest, &mut deliver), (_, Ok(Step::Done)))
            {}
        }
        if rest.is_empty() {
            // A silent connection holds nothing.
            self.partial = Vec::new();
        } else {
            self.partial.clear();
            self.partial.extend_from_slice(rest);
        }
        outcome
    }

    fn step(
        &mut self,
        wire: &mut [u8],
        deliver: &mut impl FnMut(&[u8]),
    ) -> (usize, Result<Step, Error>) {
        let UnbufferedStatus { mut discard, state } = self.connection.process(wire);
        let step = match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
                match traffic.next_record() {
                    Some(Ok(record)) => {
                        discard += record.discard;
                        deliver(record.payload);
                    }
                    Some(Err(error)) => break Err(error),
                    None => break Ok(Step::Done),
                }
            },
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                encode(&mut self.outgoing, |to| data.encode(to)).map(|()| Step::Done)
            }
            // All that is sent goes out in order.
            Ok(ConnectionState::TransmitTlsData(data)) => {
                data.done();
                Ok(Step::Done)
            }
            Ok(ConnectionState::PeerClosed) => {
                self.ended = true;
                Ok(Step::Done)
            }
            // There is none: it is not offered.
            Ok(ConnectionState::ReadEarlyData(_)) => Err(Error::General("early data".into())),
            Ok(_) => Ok(Step::Idle),
            Err(error) => Err(error),
        };
        (discard, step)
    }

    /// Seals `plain` into `wire`, which has room for [`sealed`] bytes. How many it became.
    ///
    /// Fails if the keys have been used up. Not to be called while anything is outgoing, or a
    /// handshake under way.
    pub(super) fn seal(&mut self, plain: &[u8], wire: &mut [u8]) -> Result<usize, Error> {
        self.write(|mut traffic| traffic.encrypt(plain, wire))
    }

    /// Announces that nothing follows, after all that was sealed. In how many bytes.
    ///
    /// Fails as [`Stream::seal`] does.
    pub(super) fn close(&mut self) -> Result<usize, Error> {
        let mut alert = [0; OVERHEAD];
        let written = self.write(|mut traffic| traffic.queue_close_notify(&mut alert))?;
        self.outgoing.extend_from_slice(&alert[..written]);
        Ok(written)
    }

    fn write(
        &mut self,
        write: impl FnOnce(WriteTraffic<'_, C::Data>) -> Result<usize, EncryptError>,
    ) -> Result<usize, Error> {
        // It refers to bytes of a message in several parts.
        match self.connection.process(&mut self.partial).state {
            Ok(ConnectionState::WriteTraffic(traffic)) => {
                write(traffic).map_err(|error| Error::General(error.to_string()))
            }
            Ok(state) => Err(Error::General(format!("cannot send: {state:?}"))),
            Err(error) => Err(error),
        }
    }
}

/// Appends a message to what is outgoing.
fn encode(
    outgoing: &mut Vec<u8>,
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<(), Error> {
    let before = outgoing.len();
    // It says how long it is when there is no room.
    if let Err(EncodeError::InsufficientSize(room)) = encode(&mut []) {
        outgoing.resize(before + room.required_size, 0);
        let encoded = encode(&mut outgoing[before..]);
        encoded.map_err(|error| Error::General(error.to_string()))?;
    }
    Ok(())
}
