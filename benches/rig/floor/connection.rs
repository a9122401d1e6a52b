//! One relayed connection of the floor, from its two sockets' events to its end.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::sys::socket::{MsgFlags, Shutdown, recv, send, shutdown};
use nix::unistd::pipe2;
use socket2::{Protocol, SockAddr, SockRef, Socket, Type};

/// Bytes that one read takes, and from which on a flow counts as bulk.
const BUFFER: usize = 16 << 10;

/// Bytes that a pipe takes, and so a turn of a flow, if there is one flow in bulk or several.
const WIDE: usize = 1 << 20;
const NARROW: usize = 128 << 10;

/// Pipes of each size that are kept for the next flow that wants one.
const SPARE_PIPES: usize = 64;

/// The index of an end in [`Connection::ends`].
const CLIENT: usize = 0;
const BACKEND: usize = 1;

/// What connections have in common.
pub struct Tools {
    buffer: Box<[u8]>,
    pipes: Pipes,
}

#[derive(Default)]
struct Pipes {
    narrow: Vec<Pipe>,
    wide: Vec<Pipe>,
    /// Whether there is a single flow in bulk.
    for_one: bool,
}

pub struct Connection {
    pub ends: [End; 2],
    /// By the end that they come from.
    flows: [Flow; 2],
    /// It used up its turn, and is noted for the next.
    pub is_unfinished: bool,
}

pub struct End {
    pub socket: OwnedFd,
    /// There may be something to read.
    readable: bool,
    /// The peer has sent its FIN, so reads go on until they find it.
    hung_up: bool,
    /// Nothing can be sent until epoll says otherwise.
    full: bool,
    /// How `TCP_NODELAY` is.
    delay: Delay,
}

/// Whether Nagle's algorithm may hold back a segment.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Delay {
    Off,
    /// It would, but nothing was sent yet, and the first segment never waits.
    Fresh,
    On,
}

#[derive(Default)]
struct Flow {
    held: Held,
    /// The last read was a large one.
    bulk: bool,
    /// Its end was read and passed on.
    ended: bool,
}

/// What was read and could not be sent yet.
#[derive(Default)]
enum Held {
    #[default]
    Nothing,
    Bytes(Vec<u8>),
    /// With so many bytes in it.
    Pipe(Pipe, usize),
}

struct Pipe {
    source: OwnedFd,
    sink: OwnedFd,
    size: usize,
}

impl Tools {
    pub fn new() -> Self {
        Self { buffer: vec![0; BUFFER].into_boxed_slice(), pipes: Pipes::default() }
    }

    /// Chooses pipes for so many flows in bulk.
    pub fn prepare(&mut self, flows: usize) {
        self.pipes.for_one = flows < 2;
    }
}

impl Connection {
    /// Connects to the backend and, if the client was quick, sends on its first bytes.
    pub fn open(client: OwnedFd, backend: &SockAddr, tools: &mut Tools) -> io::Result<Self> {
        let first = recv(client.as_raw_fd(), &mut tools.buffer, MsgFlags::MSG_DONTWAIT);
        let kind = Type::STREAM.nonblocking().cloexec();
        let socket = Socket::new_raw(backend.domain(), kind, Some(Protocol::TCP))?;
        if matches!(first, Ok(1..)) {
            // The handshake's last ACK waits for them.
            socket.set_tcp_quickack(false)?;
        }
        let refused = match socket.connect(backend) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Some(error),
            _ => None,
        };
        let mut connection = Self {
            ends: [End::new(client, Delay::Off), End::new(socket.into(), Delay::Fresh)],
            flows: Default::default(),
            is_unfinished: false,
        };
        let outcome = match (refused, first) {
            (Some(error), _) => Err(error),
            (None, Ok(count @ 1..)) => {
                connection.ends[CLIENT].readable = count == BUFFER;
                let flow = &mut connection.flows[CLIENT];
                flow.bulk = count == BUFFER;
                let bytes = &tools.buffer[..count];
                flow.send(bytes, &mut connection.ends[BACKEND], MsgFlags::empty())
                    .map_err(io::Error::from)
            }
            // An error comes again when epoll has told of it.
            (None, _) => Ok(()),
        };
        if let Err(error) = outcome {
            connection.reset();
            return Err(error);
        }
        Ok(connection)
    }

    /// Does what an event asks for; true if there is more than fits into a turn.
    pub fn react(&mut self, side: usize, events: u32, tools: &mut Tools) -> nix::Result<bool> {
        let has = |event: libc::c_int| events & event.cast_unsigned() != 0;
        let end = &mut self.ends[side];
        if has(libc::EPOLLERR) {
            return Err(Errno::ECONNRESET);
        }
        end.readable |= has(libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLHUP);
        end.hung_up |= has(libc::EPOLLRDHUP | libc::EPOLLHUP);
        let room = has(libc::EPOLLOUT) && mem::take(&mut end.full);
        if self.is_unfinished {
            // Its turn comes in this round anyway.
            return Ok(false);
        }
        let mut unfinished = false;
        if end.readable {
            unfinished |= self.pump(side, tools)?;
        }
        if room {
            unfinished |= self.pump(1 - side, tools)?;
        }
        Ok(unfinished)
    }

    /// Goes on where a turn was over.
    pub fn resume(&mut self, tools: &mut Tools) -> nix::Result<bool> {
        self.is_unfinished = false;
        Ok(self.pump(CLIENT, tools)? | self.pump(BACKEND, tools)?)
    }

    /// Moves what one end sends to the other; true if there is more than fits into a turn.
    fn pump(&mut self, from: usize, tools: &mut Tools) -> nix::Result<bool> {
        let [client, backend] = &mut self.ends;
        let (source, sink) = if from == CLIENT { (client, backend) } else { (backend, client) };
        let mut had_turn = false;
        loop {
            let flow = &mut self.flows[from];
            if !flow.flush(sink, &mut tools.pipes)? || flow.ended || !source.readable {
                return Ok(false);
            }
            if had_turn {
                return Ok(true);
            }
            let read = if flow.bulk {
                flow.fill_pipe(source, &mut tools.pipes)
            } else {
                recv(source.socket.as_raw_fd(), &mut tools.buffer, MsgFlags::MSG_DONTWAIT)
            };
            match read {
                Ok(0) => {
                    flow.ended = true;
                    if !self.flows[1 - from].ended {
                        shutdown(sink.socket.as_raw_fd(), Shutdown::Write)?;
                    }
                    return Ok(false);
                }
                Ok(count) if flow.bulk => {
                    flow.bulk = count >= BUFFER;
                    had_turn = true;
                }
                Ok(count) => {
                    flow.bulk = count == BUFFER;
                    source.readable = count == BUFFER || source.hung_up;
                    let flags = if source.hung_up { libc::MSG_MORE } else { 0 };
                    let flags = MsgFlags::from_bits_retain(flags);
                    flow.send(&tools.buffer[..count], sink, flags)?;
                }
                Err(Errno::EAGAIN) => {
                    source.readable = false;
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether both peers have sent, and been sent, their FIN.
    pub fn has_ended(&self) -> bool {
        self.flows.iter().all(|flow| flow.ended)
    }

    /// Lets both peers notice that this was no regular end.
    pub fn reset(&self) {
        for end in &self.ends {
            // Where it fails, the peer gets a FIN.
            let _ = SockRef::from(&end.socket).set_linger(Some(Duration::ZERO));
        }
    }
}

impl End {
    fn new(socket: OwnedFd, delay: Delay) -> Self {
        Self { socket, readable: false, hung_up: false, full: false, delay }
    }

    /// To be called before each send.
    fn prepare_to_send(&mut self) -> nix::Result<()> {
        match self.delay {
            Delay::Off => {}
            Delay::Fresh => self.delay = Delay::On,
            Delay::On => {
                let socket = SockRef::from(&self.socket);
                socket.set_tcp_nodelay(true).map_err(|_| Errno::last())?;
                self.delay = Delay::Off;
            }
        }
        Ok(())
    }
}

impl Flow {
    /// Sends, and holds what the sink does not take.
    fn send(&mut self, bytes: &[u8], sink: &mut End, flags: MsgFlags) -> nix::Result<()> {
        sink.prepare_to_send()?;
        let flags = flags | MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let sent = match send(sink.socket.as_raw_fd(), bytes, flags) {
            Err(Errno::EAGAIN) => 0,
            other => other?,
        };
        if sent < bytes.len() {
            sink.full = true;
            self.held = Held::Bytes(bytes[sent..].to_vec());
        }
        Ok(())
    }

    /// Sends what is held; true if nothing is any more.
    fn flush(&mut self, sink: &mut End, pipes: &mut Pipes) -> nix::Result<bool> {
        if matches!(self.held, Held::Nothing) {
            return Ok(true);
        }
        if sink.full {
            return Ok(false);
        }
        match mem::take(&mut self.held) {
            Held::Nothing => {}
            Held::Bytes(bytes) => self.send(&bytes, sink, MsgFlags::empty())?,
            Held::Pipe(pipe, mut count) => {
                sink.prepare_to_send()?;
                while count > 0 {
                    let flags = SpliceFFlags::SPLICE_F_NONBLOCK;
                    match splice(&pipe.source, None, &sink.socket, None, count, flags) {
                        Err(Errno::EAGAIN) => {
                            sink.full = true;
                            self.held = Held::Pipe(pipe, count);
                            return Ok(false);
                        }
                        other => count -= other?,
                    }
                }
                pipes.put(pipe);
            }
        }
        Ok(!sink.full)
    }

    /// Reads as much as a pipe takes. It is empty before, so `EAGAIN` is about the source.
    fn fill_pipe(&mut self, source: &End, pipes: &mut Pipes) -> nix::Result<usize> {
        let pipe = pipes.take()?;
        let flags = SpliceFFlags::SPLICE_F_NONBLOCK;
        let outcome = splice(&source.socket, None, &pipe.sink, None, pipe.size, flags);
        match outcome {
            Ok(count @ 1..) => self.held = Held::Pipe(pipe, count),
            _ => pipes.put(pipe),
        }
        outcome
    }
}

impl Pipes {
    fn take(&mut self) -> nix::Result<Pipe> {
        let (spare, size) =
            if self.for_one { (&mut self.wide, WIDE) } else { (&mut self.narrow, NARROW) };
        spare.pop().map_or_else(|| Pipe::new(size), Ok)
    }

    fn put(&mut self, pipe: Pipe) {
        let spare = if pipe.size == WIDE { &mut self.wide } else { &mut self.narrow };
        if spare.len() < SPARE_PIPES {
            spare.push(pipe);
        }
    }
}

impl Pipe {
    fn new(size: usize) -> nix::Result<Self> {
        let (source, sink) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let bytes = i32::try_from(size).map_err(|_| Errno::EINVAL)?;
        fcntl(&sink, FcntlArg::F_SETPIPE_SZ(bytes))?;
        Ok(Self { source, sink, size })
    }
}
