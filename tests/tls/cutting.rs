//! Streams of TLS that are cut: anybody on the way can send a FIN or a reset, but none of them
//! a close_notify. What is cut is never passed on as an end in order: FIN alone goes on as FIN alone,
//! which the other end of TLS can tell from the end.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::ops::DerefMut;
use std::sync::mpsc;

use rustls::version::{TLS12, TLS13};
use rustls::{ConnectionCommon, SideData, StreamOwned, SupportedProtocolVersion};

use super::{NAME, Site};
use crate::harness::behind::{ServedStream, close_notify};
use crate::harness::tls::{TlsStream, shake_hands};
use crate::harness::{Ending, Noise, PATIENCE, ending, reset};

const LENGTH: usize = 100_000;
const VERSIONS: [&[&SupportedProtocolVersion]; 2] = [&[&TLS12], &[&TLS13]];

/// How a stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// Not at all: with close_notify.
    InOrder,
    /// FIN alone.
    Fin,
    /// FIN within a record.
    WithinRecord,
    /// RST.
    Reset,
}

const CUTS: [Cut; 3] = [Cut::Fin, Cut::WithinRecord, Cut::Reset];

/// Writes a record, but for its last byte.
fn write_part<C, S>(stream: &mut StreamOwned<C, TcpStream>) -> io::Result<()>
where
    C: DerefMut<Target = ConnectionCommon<S>>,
    S: SideData,
{
    stream.conn.writer().write_all(b"what is not all there")?;
    let mut wire = Vec::new();
    stream.conn.write_tls(&mut wire)?;
    stream.sock.write_all(&wire[..wire.len() - 1])
}

/// Sends an answer, ends it so, and waits until the gateway has closed the connection.
fn answer(mut stream: ServedStream, cut: Cut) -> io::Result<()> {
    Noise::new(1).write(&mut stream, LENGTH)?;
    match cut {
        Cut::InOrder => close_notify(&mut stream)?,
        Cut::Fin => {}
        Cut::WithinRecord => write_part(&mut stream)?,
        Cut::Reset => {
            reset(stream.into_parts().1);
            return Ok(());
        }
    }
    stream.sock.shutdown(Shutdown::Write)?;
    ending(&mut stream.sock);
    Ok(())
}

/// Reads what there is of a stream, and how it ended: `None` is in order.
fn read_all(stream: &mut impl Read) -> (usize, Option<ErrorKind>) {
    let (noise, mut seen) = (Noise::new(1), 0);
    let mut buffer = vec![0; 1 << 14];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return (seen, None),
            Ok(bytes) => seen += noise.check(seen, &buffer[..bytes]),
            Err(error) => return (seen, Some(error.kind())),
        }
    }
}

/// Whether the other end sees by this that a stream was cut so.
fn is_cut(error: ErrorKind, cut: Cut) -> bool {
    error == ErrorKind::UnexpectedEof || (cut != Cut::Fin && error == ErrorKind::ConnectionReset)
}

/// A request, and what comes of it.
#[track_caller]
fn asks(site: &Site, versions: &[&'static SupportedProtocolVersion], finishes: bool, cut: Cut) {
    let config = site.authority.client_of(versions, None);
    let mut client = shake_hands(&config, NAME, site.address).unwrap();
    client.write_all(b"question").unwrap();
    if finishes {
        close_notify(&mut client).unwrap();
    }
    let (seen, error) = read_all(&mut client);
    let name = client.sock.local_addr().unwrap();
    let what = format!("{cut:?}, {versions:?}, the client has finished: {finishes}");
    if cut == Cut::InOrder {
        close_notify(&mut client).unwrap();
        assert_eq!((seen, error), (LENGTH, None), "{what}");
    } else {
        let error = error.unwrap_or_else(|| panic!("{what}: an end in order after {seen} bytes"));
        assert!(is_cut(error, cut), "{what}: {error}");
        // What a reset leaves behind in the sockets between is anybody's guess.
        assert!(cut == Cut::Reset || seen == LENGTH, "{what}: {seen} bytes");
    }
    drop(client);
    let record = site.gateway.record_of(name);
    let in_order = matches!(cut, Cut::InOrder | Cut::Fin);
    assert_eq!(
        record["reason"],
        if in_order { "closed" } else { "backend_reset" },
        "{what}: {record}"
    );
    if in_order {
        assert_eq!(record["tls_close_notify"], cut == Cut::InOrder, "{what}: {record}");
        assert_eq!(record["bytes_out"], LENGTH, "{what}: {record}");
    }
}

#[test]
fn an_answer_is_cut() {
    for versions in VERSIONS {
        for cut in CUTS.into_iter().chain([Cut::InOrder]) {
            let (site, _server) = Site::before_one(versions, move |mut stream| {
                stream.read_exact(&mut [0; 8])?;
                answer(stream, cut)
            });
            asks(&site, versions, false, cut);
        }
    }
}

#[test]
fn an_answer_is_cut_for_a_client_that_has_finished() {
    for versions in VERSIONS {
        for cut in CUTS.into_iter().chain([Cut::InOrder]) {
            let (site, _server) = Site::before_one(versions, move |mut stream| {
                // It answers once it has heard the client out, as was said in order.
                let mut question = String::new();
                stream.read_to_string(&mut question)?;
                answer(stream, cut)
            });
            asks(&site, versions, true, cut);
        }
    }
}

/// Sends a request, and ends it so. Returns how the client saw the connection end.
fn send(mut client: TlsStream, cut: Cut) -> Option<Ending> {
    Noise::new(1).write(&mut client, LENGTH).unwrap();
    match cut {
        Cut::InOrder => close_notify(&mut client).unwrap(),
        Cut::Fin => {}
        Cut::WithinRecord => write_part(&mut client).unwrap(),
        Cut::Reset => {
            reset(client.into_parts().1);
            return None;
        }
    }
    client.sock.shutdown(Shutdown::Write).unwrap();
    Some(ending(&mut client.sock))
}

/// Has clients send requests and cut them; `told` says what the server has heard.
#[track_caller]
fn cuts(
    site: &Site,
    versions: &[&'static SupportedProtocolVersion],
    heard: &mpsc::Receiver<(usize, Option<ErrorKind>)>,
    server_finishes: bool,
) {
    for cut in CUTS.into_iter().chain([Cut::InOrder]) {
        let what = format!("{cut:?}, {versions:?}, the server has finished: {server_finishes}");
        let config = site.authority.client_of(versions, None);
        let mut client = shake_hands(&config, NAME, site.address).unwrap();
        if server_finishes {
            assert_eq!(client.read(&mut [0]).unwrap(), 0, "the server's end is in order");
        }
        let name = client.sock.local_addr().unwrap();
        let ended = send(client, cut);
        let (seen, error) = heard.recv_timeout(PATIENCE).unwrap();
        let record = site.gateway.record_of(name);
        if cut == Cut::InOrder {
            assert_eq!((seen, error, ended), (LENGTH, None, Some(Ending::Fin)), "{what}");
            assert_eq!(record["reason"], "closed", "{what}: {record}");
            assert_eq!(record["tls_close_notify"], true, "{what}: {record}");
            continue;
        }
        let error = error.unwrap_or_else(|| panic!("{what}: an end in order after {seen} bytes"));
        assert!(is_cut(error, cut), "{what}: {error}");
        assert!(cut == Cut::Reset || seen == LENGTH, "{what}: {seen} bytes");
        if cut == Cut::Fin {
            assert_eq!(
                (record["reason"].as_str(), ended),
                (Some("closed"), Some(Ending::Fin)),
                "{what}"
            );
            assert_eq!(record["tls_close_notify"], false, "{what}: {record}");
        } else {
            assert_eq!(record["reason"], "client_reset", "{what}: {record}");
        }
    }
}

#[test]
fn a_request_is_cut() {
    for versions in VERSIONS {
        let (tell, heard) = mpsc::channel();
        let (site, _server) = Site::before_one(versions, move |mut stream| {
            let all = read_all(&mut stream);
            if all.1.is_none() {
                close_notify(&mut stream)?;
            }
            tell.send(all).map_err(io::Error::other)
        });
        cuts(&site, versions, &heard, false);
    }
}

#[test]
fn a_request_is_cut_before_a_server_that_has_finished() {
    for versions in VERSIONS {
        let (tell, heard) = mpsc::channel();
        let (site, _server) = Site::before_one(versions, move |mut stream| {
            while stream.conn.is_handshaking() {
                stream.conn.complete_io(&mut stream.sock)?;
            }
            close_notify(&mut stream)?;
            tell.send(read_all(&mut stream)).map_err(io::Error::other)
        });
        cuts(&site, versions, &heard, true);
    }
}

#[test]
fn who_was_told_of_the_end_and_leaves_without_a_word_has_cut_nothing() {
    // Many clients answer a close_notify by closing the socket.
    let (site, _server) = Site::before_one(&[&TLS13], |mut stream| {
        stream.read_exact(&mut [0; 8])?;
        stream.write_all(b"all there is")?;
        close_notify(&mut stream)?;
        ending(&mut stream.sock);
        Ok(())
    });
    let mut client = shake_hands(&site.client, NAME, site.address).unwrap();
    client.write_all(b"question").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "all there is");
    let name = client.sock.local_addr().unwrap();
    client.sock.shutdown(Shutdown::Write).unwrap();
    assert_eq!(ending(&mut client.sock), Ending::Fin);
    assert_eq!(site.gateway.record_of(name)["reason"], "closed");
}
