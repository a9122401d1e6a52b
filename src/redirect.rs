//! What a listener does that only sends HTTP clients to HTTPS, and answers ACME's challenges.
//!
//! One request is answered, and the connection closed. A challenge may also be a pool's to answer;
//! then the connection goes there, with what was read of it.

use std::fs::File;
use std::future::poll_fn;
use std::io::{self, Read};
use std::net::TcpStream;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use crate::event_loop::{EventLoop, Watched};
use crate::pool::Pool;
use crate::proto::http_head::{self, Head, Parsed, Refusal};
use crate::relay::{Plain, Side, gather, take_leave};

/// A key authorization has some 90 bytes (RFC 8555, 8.1).
const LONGEST_ANSWER: u64 = 4096;

/// How long a client may take to take an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where ACME's challenges are answered.
#[derive(Debug)]
pub enum Challenges {
    /// By the files in a directory.
    Directory(PathBuf),
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
    /// It is this pool's to answer; what was read, and whether nothing follows.
    Pool(Arc<Pool>, Vec<u8>, bool),
    /// The client is gone.
    Gone,
}

/// What is to be done about a request.
enum Decision {
    Reply(Reply),
    /// It is this pool's; whether nothing follows.
    Pool(Arc<Pool>, bool),
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
            Some(Challenges::Pool(pool)) if http_head::acme_token(&head).is_some() => {
                Decision::Pool(Arc::clone(pool), ended)
            }
            // Who knows where the pool's server takes `..` to, or a method that is none of ACME's.
            Some(Challenges::Pool(_)) => Decision::Reply(Reply::plain(404, "Not Found").to(&head)),
            Some(Challenges::Directory(directory)) => Decision::Reply(challenge(&head, directory)),
            None => Decision::Reply(redirect(&head)),
        }),
        Parsed::Refused(refusal) => Some(Decision::Reply(refuse(refusal))),
        // It has nothing more to say, and has not said what it wants.
        Parsed::Incomplete => ended.then_some(Decision::Nothing),
    });
    let (reply, in_time) = match events.until(deadline, reading).await {
        Some(Ok(Decision::Reply(reply))) => (reply, true),
        Some(Ok(Decision::Pool(pool, ended))) => return Outcome::Pool(pool, buffer, ended),
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

    fn to(self, head: &Head<'_>) -> Self {
        Self { without_body: head.method == "HEAD", ..self }
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
    Reply { header, ..Reply::plain(status, phrase) }.to(head)
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

fn challenge(head: &Head<'_>, directory: &Path) -> Reply {
    // A token is base64url: no dot, no slash, no way to another directory.
    let answer = http_head::acme_token(head).and_then(|token| {
        let here = read(directory, token);
        here.or_else(|_| read(&directory_within(directory)?, token)).ok()
    });
    match answer {
        Some(body) => {
            let kind = "application/octet-stream";
            Reply { body, kind, ..Reply::plain(200, "OK") }.to(head)
        }
        None => Reply::plain(404, "Not Found").to(head),
    }
}

/// Where Certbot puts challenges when `directory` is its webroot; not if a link leads out of it.
fn directory_within(directory: &Path) -> io::Result<PathBuf> {
    let root = directory.canonicalize()?;
    let within = root.join(".well-known/acme-challenge").canonicalize()?;
    if within.starts_with(&root) { Ok(within) } else { Err(io::ErrorKind::NotFound.into()) }
}

/// Reads a small ordinary file; a symbolic link is none, nor is a pipe, which would be waited for.
fn read(directory: &Path, token: &str) -> io::Result<Vec<u8>> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = File::options().read(true).custom_flags(flags).open(directory.join(token))?;
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut bytes = Vec::new();
    file.take(LONGEST_ANSWER + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 {
        0..=LONGEST_ANSWER => Ok(bytes),
        _ => Err(io::ErrorKind::FileTooLarge.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(request: &str, directory: Option<&Path>) -> String {
        let mut reader = http_head::Reader::new();
        let Parsed::Head(head) = reader.advance(request.as_bytes()) else {
            panic!("no head: {request:?}");
        };
        let reply = match directory {
            Some(directory) if http_head::is_challenge(&head) => challenge(&head, directory),
            _ => redirect(&head),
        };
        String::from_utf8(reply.bytes()).unwrap()
    }

    #[test]
    fn clients_are_sent_to_the_same_place() {
        let get = answer("GET /a?b=c HTTP/1.1\r\nHost: Example.test:80\r\n\r\n", None);
        assert!(get.starts_with("HTTP/1.1 301 Moved Permanently\r\n"), "{get}");
        assert!(get.contains("\r\nLocation: https://example.test/a?b=c\r\n"), "{get}");
        assert!(get.ends_with("\r\n\r\n301 Moved Permanently\n"), "{get}");
        let post = answer("POST / HTTP/1.1\r\nHost: [2001:db8::1]\r\n\r\n", None);
        assert!(post.starts_with("HTTP/1.1 308 "), "{post}");
        assert!(post.contains("Location: https://[2001:db8::1]/\r\n"), "{post}");
        let head = answer("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", None);
        assert!(head.contains("Content-Length: 22\r\n") && head.ends_with("\r\n\r\n"), "{head}");
        let old = answer("GET / HTTP/1.0\r\n\r\n", None);
        assert!(old.starts_with("HTTP/1.1 400 "), "{old}");
    }

    #[test]
    fn challenges_are_small_files_of_the_directory_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("challenges");
        std::fs::create_dir(&directory).unwrap();
        std::fs::write(root.path().join("secret"), "secret").unwrap();
        std::fs::write(directory.join("token-1_A"), "token.thumb").unwrap();
        std::fs::write(directory.join("large"), vec![b'x'; 5000]).unwrap();
        std::os::unix::fs::symlink(root.path().join("secret"), directory.join("link")).unwrap();
        std::fs::create_dir(directory.join("folder")).unwrap();
        let ask = |token: &str| {
            let path = format!("/.well-known/acme-challenge/{token}");
            answer(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"), Some(&directory))
        };
        assert!(ask("token-1_A").ends_with("\r\n\r\ntoken.thumb"));
        let certbot = directory.join(".well-known/acme-challenge");
        std::fs::create_dir_all(&certbot).unwrap();
        std::fs::write(certbot.join("webroot"), "webroot.thumb").unwrap();
        assert!(ask("webroot").ends_with("\r\n\r\nwebroot.thumb"));
        std::fs::remove_dir_all(&certbot).unwrap();
        std::os::unix::fs::symlink(root.path(), &certbot).unwrap();
        assert!(ask("secret").starts_with("HTTP/1.1 404 "));
        for other in
            ["none", "large", "link", "folder", "../secret", "%2e%2e/secret", ".", "", "a/b"]
        {
            let answer = ask(other);
            assert!(answer.starts_with("HTTP/1.1 404 "), "{other}: {answer}");
        }
    }
}
