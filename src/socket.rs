//! Sockets and what else is asked of the kernel on the way to one. The only file of the data
//! plane with `unsafe`.

#![allow(
    unsafe_code,
    reason = "accept4 with an address, an option without a wrapper, descriptors that were inherited; \
              each block has its proof"
)]

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{MsgFlags, setsockopt, sockopt};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};

/// The longest queue of accepted connections that is asked for; the kernel cuts it down to
/// `net.core.somaxconn`.
const BACKLOG: i32 = 65_535;

/// Probes begin after a minute of silence, and a peer that misses six in a row is given up.
fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(10))
        .with_retries(6)
}

/// Opens a listening socket for each worker on the same address (`SO_REUSEPORT`).
///
/// The address need not be on this host yet (`IP_FREEBIND`). Accepted sockets inherit
/// `TCP_NODELAY` and the keepalive settings. An IPv6 socket takes IPv6 only.
///
/// Fails with [`io::ErrorKind::AddrInUse`] also if another process listens there with
/// `SO_REUSEPORT`: connections would be shared out between the two.
pub fn listen(address: SocketAddr, workers: usize) -> io::Result<Vec<TcpListener>> {
    let probe = listening_socket(address)?;
    probe.bind(&address.into())?;
    drop(probe);
    // One thread binds in the order of the workers: a reuseport program, should one be attached,
    // addresses sockets by that order.
    (0..workers)
        .map(|_| {
            let socket = listening_socket(address)?;
            socket.set_reuse_port(true)?;
            socket.set_tcp_nodelay(true)?;
            socket.set_tcp_keepalive(&keepalive())?;
            socket.bind(&address.into())?;
            socket.listen(BACKLOG)?;
            Ok(socket.into())
        })
        .collect()
}

fn listening_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    match address {
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
        }
    }
    Ok(socket)
}

/// Makes a socket that somebody else has opened what [`listen`] opens, as far as that can be done
/// afterwards.
///
/// Fails if it is no socket that listens for streams.
pub fn adopt(socket: &impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(socket);
    if socket.r#type()? != Type::STREAM || !socket.is_listener()? {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a listening socket"));
    }
    socket.set_nonblocking(true)?;
    if socket.domain()? != Domain::UNIX {
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_keepalive(&keepalive())?;
    }
    Ok(())
}

/// Takes a descriptor that this process was started with, by its number. From now on it ends with
/// this process: what is started from here does not inherit it.
///
/// Fails with `EBADF` if there is none of this number, or if it was opened here: whatever this
/// program opens is close-on-exec, and only what is not has come through `exec`. So each can be
/// taken once.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    if number < 3 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: asking for its flags, and setting them, does nothing to a descriptor but that; a
    // number without one is an error.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    if flags & libc::FD_CLOEXEC != 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: as above.
    if unsafe { libc::fcntl(number, libc::F_SETFD, flags | libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and nobody in this process owns it: it came through `exec`, and was not
    // taken before, or it would be close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Takes the next connection: non-blocking, close-on-exec, with the address of the client.
///
/// Fails with [`io::ErrorKind::WouldBlock`] when there is none, and with whatever else
/// `accept4(2)` says.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<(TcpStream, SocketAddr)> {
    // SAFETY: `accept4` is given the storage and the length that socket2 provides, and writes at
    // most that length; on success it has initialised the address.
    let (fd, address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let fd = libc::accept4(
                listener.as_raw_fd(),
                storage.cast(),
                length,
                libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
            );
            if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(fd) }
        })?
    };
    // SAFETY: a descriptor that `accept4` has just returned is open, and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let address = address.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
    Ok((TcpStream::from(fd), address))
}

/// Whether the system lacks files or memory for now.
pub fn is_shortage(error: &io::Error) -> bool {
    // The last one is what epoll says of a user with too many sockets to watch.
    let shortages = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::ENOSPC];
    error.raw_os_error().is_some_and(|error| shortages.contains(&error))
}

/// Whether the system has no port left to connect from, to the address that was asked for.
pub fn is_port_shortage(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EADDRNOTAVAIL)
}

/// Begins to connect. The socket is writable when that has ended; `SO_ERROR` says how.
///
/// From `source`, the port is chosen only when the destination is known
/// (`IP_BIND_ADDRESS_NO_PORT`), so that ports are used up per destination and not in total.
///
/// `data_follows`: there is something to send as soon as it is connected. The last step of the
/// handshake then waits for it (200 ms at most), and both leave in one segment.
///
/// Fails with [`io::ErrorKind::ConnectionRefused`] also where the socket would meet itself: of an
/// address of this host whose port is one that the kernel gives out, and on which nobody listens, TCP
/// makes a connection from the port to itself (RFC 9293, section 3.5: simultaneous open).
pub fn connect(
    address: SocketAddr,
    source: Option<IpAddr>,
    data_follows: bool,
) -> io::Result<TcpStream> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    socket.set_tcp_nodelay(true)?;
    if data_follows {
        // On a socket that connects, this option defers the ACK of the SYN-ACK, and nothing else
        // (`tcp_rcv_synsent_state_process` in the kernel's net/ipv4/tcp_input.c). TCP_QUICKACK
        // would as well, but goes on to delay the ACKs of what the backend sends.
        defer_ack(&socket)?;
    }
    if let Some(source) = source {
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        socket.bind(&SocketAddr::new(source, 0).into()).map_err(|error| match error.kind() {
            // Not to be taken for a lack of ports.
            io::ErrorKind::AddrNotAvailable => {
                io::Error::new(error.kind(), format!("{source} is not an address of this host"))
            }
            _ => error,
        })?;
    }
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        Ok(()) | Err(_) => {}
    }
    // The own port is known as soon as connecting has begun.
    let own = socket.local_addr()?.as_socket();
    if own.is_some_and(|own| is_the_same(own, address)) {
        // An orderly end would keep the port from whoever is to listen there, for a minute.
        reset_on_close(&socket);
        return Err(io::Error::from_raw_os_error(libc::ECONNREFUSED));
    }
    Ok(socket.into())
}

/// Whether a socket with the address `own` that connects to `peer` connects to itself.
fn is_the_same(own: SocketAddr, peer: SocketAddr) -> bool {
    // What connects to no address in particular is taken to this host.
    let (own_ip, peer_ip) = (own.ip().to_canonical(), peer.ip().to_canonical());
    own.port() == peer.port() && (own_ip == peer_ip || peer_ip.is_unspecified())
}

fn defer_ack(socket: &Socket) -> io::Result<()> {
    let seconds: libc::c_int = 1;
    // SAFETY: the value is an int that outlives the call, and its size is told.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            size_of_val(&seconds) as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether a socket spreads what it sends over time, as BBR has it do
/// (`net.ipv4.tcp_congestion_control`).
pub fn is_paced(socket: &impl AsFd) -> bool {
    let control = nix::sys::socket::getsockopt(&socket.as_fd(), sockopt::TcpCongestion);
    // A socket that does not tell is taken for an ordinary one: it is only about speed.
    control.is_ok_and(|name| name.as_encoded_bytes().starts_with(b"bbr"))
}

/// The error that a socket has met, if any. It tells it once.
pub fn take_error(socket: &impl AsFd) -> io::Result<Option<io::Error>> {
    SockRef::from(socket).take_error()
}

/// Turns keepalive probes on.
pub fn keep_alive(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).set_tcp_keepalive(&keepalive())
}

/// Makes the coming close a reset: what is still to be sent is thrown away.
///
/// A socket that can no longer be told so is gone already, so there is no error.
pub fn reset_on_close(socket: &impl AsFd) {
    let told = SockRef::from(socket).set_linger(Some(Duration::ZERO));
    if let Err(error) = told {
        tracing::debug!(%error, "SO_LINGER");
    }
}

/// Raises the limit of open files to its hard limit and says what that is.
pub fn raise_open_files() -> io::Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

/// The processors that this thread may run on, ascending.
pub fn processors() -> io::Result<Vec<usize>> {
    let set = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0))?;
    Ok((0..nix::sched::CpuSet::count())
        .filter(|&processor| set.is_set(processor).unwrap_or(false))
        .collect())
}

/// Keeps the calling thread on one processor.
pub fn pin(processor: usize) -> io::Result<()> {
    let mut set = nix::sched::CpuSet::new();
    set.set(processor)?;
    Ok(nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set)?)
}

/// Bytes that were sent and that the other end has not acknowledged yet (tcp(7), `SIOCOUTQ`).
pub fn unsent(socket: &impl AsFd) -> io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the request writes one int, to a place that is one and outlives the call.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    match result {
        0 => Ok(u32::try_from(bytes).unwrap_or(0)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What the kernel knows of a peer that something was sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// For so long nothing has come that acknowledges anything, new or old.
    pub silence: Duration,
    /// Whether something is under way that the peer has not acknowledged.
    pub in_flight: bool,
    /// Probes of a closed window, or of a silent peer, that it has not answered.
    pub probes: u8,
    /// Bytes that the peer has room for; `None` before Linux 5.4.
    pub window: Option<u32>,
}

/// What has come back of what was sent (tcp(7), `TCP_INFO`).
pub fn acknowledged(socket: &impl AsFd) -> io::Result<Acknowledged> {
    // `struct tcp_info` of linux/tcp.h, in its words: it only ever grows.
    const STATE_TO_PROBES: usize = 0;
    const UNACKED: usize = 6;
    const LAST_ACK_RECV: usize = 14;
    const SND_WND: usize = 57;
    let mut words = [0u32; SND_WND + 1];
    let mut length = size_of_val(&words) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which is what there is room for, and says how
    // many these were; any bytes are a u32. Both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            words.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let [_state, _ca_state, _retransmits, probes] = words[STATE_TO_PROBES].to_ne_bytes();
    Ok(Acknowledged {
        silence: Duration::from_millis(words[LAST_ACK_RECV].into()),
        in_flight: words[UNACKED] > 0,
        probes,
        window: (length as usize == size_of_val(&words)).then(|| words[SND_WND]),
    })
}

/// Bytes that the other end may have read and not acknowledged yet: it delays acknowledgements of less
/// than two full segments (RFC 9293, section 3.8.6.3).
pub fn delayed(socket: &impl AsFd) -> u64 {
    // A socket that cannot tell is believed to delay none.
    SockRef::from(socket).tcp_mss().map_or(0, |segment| 2 * u64::from(segment))
}

/// Has a socket reset when it is closed, unless [`ResetOnDrop::disarm`] says that all went well.
#[derive(Debug)]
pub struct ResetOnDrop<'a, S: AsFd>(Option<&'a S>);

impl<'a, S: AsFd> ResetOnDrop<'a, S> {
    /// For `socket`, which is closed later than this is dropped.
    pub fn new(socket: &'a S) -> Self {
        Self(Some(socket))
    }

    /// The close is to be an orderly one.
    pub fn disarm(mut self) {
        self.0 = None;
    }
}

impl<S: AsFd> Drop for ResetOnDrop<'_, S> {
    fn drop(&mut self) {
        if let Some(socket) = self.0 {
            reset_on_close(socket);
        }
    }
}

/// Receives into `buffer` without waiting; 0 = end of stream.
pub fn receive(socket: &impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(nix::sys::socket::recv(socket.as_fd().as_raw_fd(), buffer, MsgFlags::empty())?)
}

/// Sends two things, one after the other, in one segment if they fit, without waiting.
pub fn send_both(socket: &impl AsFd, first: &[u8], then: &[u8]) -> io::Result<usize> {
    let parts = [IoSlice::new(first), IoSlice::new(then)];
    SockRef::from(socket).send_vectored_with_flags(&parts, libc::MSG_NOSIGNAL)
}

/// Reads what has come by now, and forgets it: a socket that is closed while there is something
/// unread is reset. What is beyond a bound, or comes later, is not read.
pub fn empty(socket: &impl AsFd) {
    let mut buffer = [0; 4096];
    for _ in 0..64 {
        // An error is an end as well.
        if !receive(socket, &mut buffer).is_ok_and(|received| received > 0) {
            return;
        }
    }
}

/// Sends without waiting. `more`: other bytes, or FIN, follow at once, and may share a segment.
pub fn send(socket: &impl AsFd, bytes: &[u8], more: bool) -> io::Result<usize> {
    let more = if more { libc::MSG_MORE } else { 0 };
    SockRef::from(socket).send_with_flags(bytes, libc::MSG_NOSIGNAL | more)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;

    #[test]
    fn a_second_process_s_listener_is_an_address_in_use() {
        let first = listen(([127, 0, 0, 1], 0).into(), 1).unwrap();
        let address = first[0].local_addr().unwrap();
        assert_eq!(listen(address, 1).unwrap_err().kind(), ErrorKind::AddrInUse);
        drop(first);
        assert_eq!(listen(address, 3).unwrap().len(), 3);
    }

    #[test]
    fn addresses_of_elsewhere_can_be_bound() {
        assert!(listen("192.0.2.77:0".parse().unwrap(), 1).is_ok());
        assert!(listen("[2001:db8::77]:0".parse().unwrap(), 1).is_ok());
    }

    #[test]
    fn a_peer_s_window_and_what_is_under_way_are_known() {
        let listener = listen(([127, 0, 0, 1], 0).into(), 1).unwrap().remove(0);
        let client = connect(listener.local_addr().unwrap(), None, false).unwrap();
        let open = acknowledged(&client).unwrap();
        assert!(open.window.is_some_and(|window| window > 0), "{open:?}");
        assert!(!open.in_flight && open.probes == 0 && open.silence < Duration::from_secs(60));
        // Nobody reads it: the window closes, and what is beyond it stays here.
        while send(&client, &[0; 65_536], false).is_ok() {}
        let closed = (0..1_000).find_map(|_| {
            std::thread::sleep(Duration::from_millis(10));
            // Where what was sent last did not fit any more, it is sent again and again.
            acknowledged(&client).ok().filter(|peer| peer.window.is_some_and(|w| w < 65_536))
        });
        assert!(closed.is_some() && unsent(&client).unwrap() > 0, "{:?}", acknowledged(&client));
    }

    #[test]
    fn a_socket_that_would_meet_itself_is_refused() {
        let addresses = ["127.0.0.1:40000", "[::1]:40000", "127.0.0.1:40001", "127.0.0.2:40000"];
        let [v4, v6, other_port, other_address] =
            addresses.map(|address| address.parse::<SocketAddr>().unwrap());
        assert!(is_the_same(v4, v4) && is_the_same(v6, v6));
        assert!(is_the_same(v4, "0.0.0.0:40000".parse().unwrap()));
        assert!(is_the_same("[::ffff:127.0.0.1]:40000".parse().unwrap(), v4));
        assert!(!is_the_same(v4, other_port) && !is_the_same(v4, other_address));
        assert!(!is_the_same(v6, v4));
    }

    #[test]
    fn a_source_that_is_not_here_is_no_lack_of_ports() {
        let source = Some("192.0.2.77".parse().unwrap());
        let error = connect(([127, 0, 0, 1], 9).into(), source, false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
        assert!(!is_port_shortage(&error) && !is_shortage(&error));
        assert_eq!(error.to_string(), "192.0.2.77 is not an address of this host");
        assert!(is_port_shortage(&io::Error::from_raw_os_error(libc::EADDRNOTAVAIL)));
    }

    #[test]
    fn accepted_sockets_inherit_the_options() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = listen(address.parse().unwrap(), 1).unwrap().remove(0);
            assert_eq!(accept(listener.as_fd()).unwrap_err().kind(), ErrorKind::WouldBlock);
            let client = connect(listener.local_addr().unwrap(), None, false).unwrap();
            let (accepted, from) = loop {
                match accept(listener.as_fd()) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                    accepted => break accepted.unwrap(),
                }
            };
            assert_eq!(from, client.local_addr().unwrap());
            assert!(accepted.nodelay().unwrap());
            assert_eq!(
                SockRef::from(&accepted).tcp_keepalive_time().unwrap(),
                Duration::from_secs(60)
            );
            assert_eq!(
                accept(listener.as_fd()).unwrap_err().kind(),
                ErrorKind::WouldBlock,
                "non-blocking"
            );
        }
    }
}
