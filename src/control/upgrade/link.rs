//! The connection by which two processes of an upgrade talk. Neither ever waits for the other.

use std::io;
use std::os::unix::net::UnixStream;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::sync::{mpsc, oneshot};

use super::message::Message;
use super::{News, Whom};

/// A longer line is no message. A counter of a backend takes a hundred bytes.
const LONGEST: u64 = 256 << 20;

/// Messages on their way.
const WAITING: usize = 64;

/// This process's end.
#[derive(Debug)]
pub(in crate::control) struct Link(mpsc::Sender<Outgoing>);

#[derive(Debug)]
enum Outgoing {
    Line(Vec<u8>),
    Flush(oneshot::Sender<()>),
}

impl Link {
    /// Begins to talk. What `whom` says comes with `news`, and a last time when it is gone.
    ///
    /// Fails if the connection cannot be waited for.
    pub(in crate::control) fn open(
        stream: UnixStream,
        whom: Whom,
        news: mpsc::UnboundedSender<News>,
    ) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let (reading, mut writing) = tokio::net::UnixStream::from_std(stream)?.into_split();
        tokio::spawn(async move {
            let mut reading = BufReader::new(reading);
            let mut line = Vec::new();
            loop {
                line.clear();
                match (&mut reading).take(LONGEST).read_until(b'\n', &mut line).await {
                    Ok(1..) if line.ends_with(b"\n") => {}
                    Ok(_) | Err(_) => break,
                }
                let said = match Message::decode(&line) {
                    Ok(message) => News::Said(whom, Box::new(message)),
                    Err(error) => {
                        tracing::warn!(%error, ?whom, "not a message of an upgrade");
                        continue;
                    }
                };
                if news.send(said).is_err() {
                    return;
                }
            }
            // If nobody listens any more, nobody misses it.
            let _ = news.send(News::Gone(whom));
        });
        let (sender, mut outgoing) = mpsc::channel(WAITING);
        tokio::spawn(async move {
            while let Some(next) = outgoing.recv().await {
                match next {
                    // The other end is gone: the reading half says so.
                    Outgoing::Line(line) => drop(writing.write_all(&line).await),
                    Outgoing::Flush(done) => drop(done.send(())),
                }
            }
        });
        Ok(Self(sender))
    }

    /// Says something, if the other end takes it. Says whether it does.
    pub(in crate::control) fn say(&self, message: Message) -> bool {
        match message.encode() {
            Ok(line) => self.0.try_send(Outgoing::Line(line)).is_ok(),
            Err(error) => {
                tracing::error!(%error, "a message of an upgrade cannot be said");
                false
            }
        }
    }

    /// Whether the other end takes another message at once.
    pub(in crate::control) fn has_room(&self) -> bool {
        self.0.capacity() > WAITING / 2
    }

    /// Waits until all that was said is on its way.
    pub(in crate::control) async fn flush(&self) {
        let (done, is_done) = oneshot::channel();
        if self.0.send(Outgoing::Flush(done)).await.is_ok() {
            // An error is an end as well.
            let _ = is_done.await;
        }
    }
}
