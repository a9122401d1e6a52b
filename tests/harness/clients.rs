//! Clients of a gateway. Whatever they wait for, they wait no longer than [`PATIENCE`].

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use super::PATIENCE;

/// How a connection ended, seen from the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// In order: FIN.
    Fin,
    /// RST.
    Reset,
}

/// Connects.
pub fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Connects from an address of this host.
pub fn connect_from(source: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    socket.connect_timeout(&to.into(), PATIENCE)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Reads the line with which a [`super::Server::named`] greets, and no byte more.
pub fn greeting(stream: &mut TcpStream) -> io::Result<String> {
    let mut line = String::new();
    let mut byte = [0];
    loop {
        stream.read_exact(&mut byte)?;
        match byte[0] {
            b'\n' => return Ok(line),
            byte => line.push(char::from(byte)),
        }
    }
}

/// Connects and learns who serves the connection, which stays open.
pub fn held(to: SocketAddr) -> io::Result<(TcpStream, String)> {
    let mut stream = connect(to)?;
    let name = greeting(&mut stream)?;
    Ok((stream, name))
}

/// Connects, learns who serves the connection, and closes it in order.
pub fn visit(to: SocketAddr) -> io::Result<String> {
    finish_visit(connect(to)?)
}

/// The same from an address of this host.
pub fn visit_from(source: IpAddr, to: SocketAddr) -> io::Result<String> {
    finish_visit(connect_from(source, to)?)
}

fn finish_visit(mut stream: TcpStream) -> io::Result<String> {
    let name = greeting(&mut stream)?;
    stream.shutdown(Shutdown::Write)?;
    match stream.read(&mut [0])? {
        0 => Ok(name),
        _ => Err(io::Error::other("bytes after the greeting")),
    }
}

/// Reads to the end, whatever comes, and says what the end was.
///
/// # Panics
///
/// If there is no end.
pub fn ending(stream: &mut TcpStream) -> Ending {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ending::Fin,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ending::Reset,
            Err(error) => panic!("neither FIN nor RST: {error}"),
        }
    }
}

/// How a connection ends on which the client says nothing.
///
/// A reset may come so soon that connecting itself fails of it.
pub fn ending_at(to: SocketAddr) -> Ending {
    match connect(to) {
        Ok(mut stream) => ending(&mut stream),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ending::Reset,
        Err(error) => panic!("cannot connect: {error}"),
    }
}

/// Whether nobody takes connections there.
pub fn refused(to: SocketAddr) -> bool {
    connect(to).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

/// Whether nothing comes for a moment. A short one: this tells a gateway that keeps a connection
/// waiting from one that serves it at once, and can only err on the side of silence.
pub fn stays_silent(stream: &TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let peeked = stream.peek(&mut [0]);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    peeked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

/// Closes with RST.
pub fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Sends one HTTP request; returns the status and the body of the answer.
pub fn fetch(mut stream: impl Read + Write, method: &str, path: &str) -> io::Result<(u16, String)> {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let malformed = || io::Error::other(format!("not an HTTP answer: {answer:?}"));
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(malformed)?;
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    Ok((status.ok_or_else(malformed)?, body.to_owned()))
}
