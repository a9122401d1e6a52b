//! What a listener does that only sends HTTP clients to HTTPS, and answers ACME's challenges.
//!
//! One request is answered, and the connection closed. A challenge may also be a pool's to answer;
//! then the pool gets that request, written anew, and nothing else that the client sends.

mod webroot;

use std::future::poll_fn;
use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use crate::event_loop::{EventLoop, Watched};
use crate::pool::Pool;
use crate::proto::http_head::{self, Head, Parsed, Refusal};
use crate::relay::{Plain, Side, gather, take_leave};
pub use webroot::Webroot;

/// How long a client may take to take an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where ACME's challenges are answered.
#[derive(Debug)]
pub enum Challenges {
    /// By the files in a directory.
    Directory(Arc<Webroot>),
    /// By a pool.
    Pool(Arc<Pool>),
}

/// What became of a request.
#[derive(Debug)]
pub enum Outcome {
    /// So many bytes were read, and answered with so many.
    Answered(usize, usize),
    /// The same, but the client took too long to ask.
    TooSlow(usize, usize),
    /// It is this pool's to answer; what it is to be asked, and whether the client has sent FIN.
    Pool(Arc<Pool>, Vec<u8>, bool),
    /// The client is gone.
    Gone,
}

/// What is to be done about a request.
enum Decision {
    Reply(Reply),
    /// The file of this token is the answer.
    File(Arc<Webroot>, String, Method),
    /// It is this pool's; what it is to be asked, and whether the client has sent FIN.
    Pool(Arc<Pool>, Vec<u8>, bool),
    Nothing,
}

/// Reads a request, of which `buffer` was read already, and answers it. The head must be there by
/// `deadline`.
pub async fn serve(
    events: &EventLoop,
    client: &Watched<TcpStream>,
    mut buffer: Vec<u8>,
    challenges: Option<&Challenges>,
    deadline: std::time::Instant,
) -> Outcome {
    let mut reader = http_head::Reader::new();
    let reading = gather(client, &mut buffer, |bytes, ended| match reader.advance(bytes) {
        Parsed::Head(head) => Some(match challenges.filter(|_| http_head::is_challenge(&head)) {
            Some(challenges) => challenge(&head, challenges, ended),
            None => Decision::Reply(redirect(&head)),
        }),
        Parsed::Refused(refusal) => Some(Decision::Reply(refuse(refusal))),
        // It has nothing more to say, and has not said what it wants.
        Parsed::Incomplete => ended.then_some(Decision::Nothing),
    });
    let (reply, in_time) = match events.until(deadline, reading).await {
        Some(Ok(Decision::Reply(reply))) => (reply, true),
        Some(Ok(Decision::File(webroot, token, method))) => {
            (file(webroot.read(events, token).await, method), true)
        }
        Some(Ok(Decision::Pool(pool, asked, ended))) => return Outcome::Pool(pool, asked, ended),
        Some(Ok(Decision::Nothing) | Err(_)) => return Outcome::Gone,
        None => (Reply::plain(408, "Request Timeout"), false),
    };
    let read = buffer.len();
    let bytes = reply.bytes();
    let sent = events.until(events.now() + PATIENCE, send(client, &bytes)).await;
    let Some(Ok(())) = sent else {
        return Outcome::Gone;
    };
    let written = bytes.len();
    take_leave(events, client).await;
    match in_time {
        true => Outcome::Answered(read, written),
        false => Outcome::TooSlow(read, written),
    }
}

async fn send(client: &Watched<TcpStream>, bytes: &[u8]) -> io::Result<()> {
    let mut sent = 0;
    poll_fn(|_| {
        while sent < bytes.len() {
            match Plain(client).send(&bytes[sent..], false)? {
                0 if !client.is_writable() => return Poll::Pending,
                count => sent += count,
            }
        }
        Poll::Ready(Ok(()))
    })
    .await
}

/// Whether the body of an answer is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Method {
    /// It is not.
    Head,
    Other,
}

impl Method {
    fn of(head: &Head<'_>) -> Self {
        if head.method == "HEAD" { Self::Head } else { Self::Other }
    }
}

/// An answer.
struct Reply {
    status: u16,
    phrase: &'static str,
    /// A further line of the head, with its end.
    header: String,
    kind: &'static str,
    body: Vec<u8>,
    /// To a HEAD request: the body is described, and not sent.
    without_body: bool,
}

impl Reply {
    /// One whose body only says what it is.
    fn plain(status: u16, phrase: &'static str) -> Self {
        let body = format!("{status} {phrase}\n").into_bytes();
        let kind = "text/plain; charset=utf-8";
        Self { status, phrase, header: String::new(), kind, body, without_body: false }
    }

    fn to(self, method: Method) -> Self {
        Self { without_body: method == Method::Head, ..self }
    }

    fn bytes(&self) -> Vec<u8> {
        let Self { status, phrase, header, kind, body, without_body } = self;
        let length = body.len();
        let mut bytes = format!(
            "HTTP/1.1 {status} {phrase}\r\n{header}Content-Type: {kind}\r\n\
             Content-Length: {length}\r\nConnection: close\r\n\r\n"
        )
        .into_bytes();
        if !without_body {
            bytes.extend_from_slice(body);
        }
        bytes
    }
}

fn redirect(head: &Head<'_>) -> Reply {
    // HTTP/1.0 without a host: there is nowhere to send it.
    let Some(location) = http_head::location(head, 443) else {
        return refuse(Refusal::BadRequest);
    };
    let status = http_head::status_for(head.method);
    let phrase = if status == 301 { "Moved Permanently" } else { "Permanent Redirect" };
    let header = format!("Location: {location}\r\n");
    Reply { header, ..Reply::plain(status, phrase) }.to(Method::of(head))
}

fn refuse(refusal: Refusal) -> Reply {
    let phrase = match refusal {
        Refusal::BadRequest => "Bad Request",
        Refusal::UriTooLong => "URI Too Long",
        Refusal::HeadTooLarge => "Request Header Fields Too Large",
        Refusal::Version => "HTTP Version Not Supported",
    };
    Reply::plain(refusal.status(), phrase)
}

/// What is to be done about a request for a challenge. `ended`: the client has sent FIN.
fn challenge(head: &Head<'_>, challenges: &Challenges, ended: bool) -> Decision {
    let Some(token) = http_head::acme_token(head) else {
        // Who knows where the pool's server takes `..` to, or a method that is none of ACME's.
        return Decision::Reply(Reply::plain(404, "Not Found").to(Method::of(head)));
    };
    match challenges {
        Challenges::Pool(pool) => Decision::Pool(Arc::clone(pool), http_head::alone(head), ended),
        Challenges::Directory(webroot) => {
            Decision::File(Arc::clone(webroot), token.to_owned(), Method::of(head))
        }
    }
}

/// The answer that a file is.
fn file(read: Result<Option<Vec<u8>>, webroot::NotInTime>, method: Method) -> Reply {
    match read {
        Ok(Some(body)) => {
            let kind = "application/octet-stream";
            Reply { body, kind, ..Reply::plain(200, "OK") }.to(method)
        }
        Ok(None) => Reply::plain(404, "Not Found").to(method),
        Err(webroot::NotInTime) => Reply::plain(503, "Service Unavailable").to(method),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(request: &str) -> String {
        let mut reader = http_head::Reader::new();
        let Parsed::Head(head) = reader.advance(request.as_bytes()) else {
            panic!("no head: {request:?}");
        };
        String::from_utf8(redirect(&head).bytes()).unwrap()
    }

    #[test]
    fn clients_are_sent_to_the_same_place() {
        let get = answer("GET /a?b=c HTTP/1.1\r\nHost: Example.test:80\r\n\r\n");
        assert!(get.starts_with("HTTP/1.1 301 Moved Permanently\r\n"), "{get}");
        assert!(get.contains("\r\nLocation: https://example.test/a?b=c\r\n"), "{get}");
        assert!(get.ends_with("\r\n\r\n301 Moved Permanently\n"), "{get}");
        let post = answer("POST / HTTP/1.1\r\nHost: [2001:db8::1]\r\n\r\n");
        assert!(post.starts_with("HTTP/1.1 308 "), "{post}");
        assert!(post.contains("Location: https://[2001:db8::1]/\r\n"), "{post}");
        let head = answer("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(head.contains("Content-Length: 22\r\n") && head.ends_with("\r\n\r\n"), "{head}");
        let old = answer("GET / HTTP/1.0\r\n\r\n");
        assert!(old.starts_with("HTTP/1.1 400 "), "{old}");
    }

    #[test]
    fn a_file_that_is_not_read_in_time_is_no_file_that_is_not_there() {
        let bytes = |read, method| String::from_utf8(file(read, method).bytes()).unwrap();
        let other = Method::Other;
        assert!(bytes(Ok(Some(b"a.b".to_vec())), other).ends_with("\r\n\r\na.b"));
        assert!(bytes(Ok(Some(b"a.b".to_vec())), Method::Head).ends_with("\r\n\r\n"));
        assert!(bytes(Ok(None), other).starts_with("HTTP/1.1 404 "));
        assert!(bytes(Err(webroot::NotInTime), other).starts_with("HTTP/1.1 503 "));
    }
}
