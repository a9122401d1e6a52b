//! The way in: the PROXY header, where one is due, then the lists and the limits of the listener.

use std::future::poll_fn;
use std::net::{SocketAddr, TcpStream};
use std::pin::pin;

use super::Session;
use crate::event_loop::{Interest, Watched};
use crate::guard::Guard;
use crate::limit::table::Lease;
use crate::limit::{Action, Limited};
use crate::proto::proxy_protocol::{self, Ends, Parsed};
use crate::relay::gather;
use crate::snapshot::Listener;
use crate::socket;
use crate::stats::Reason;

/// How a connection came in.
#[derive(Debug, Default)]
pub(super) struct Entry {
    /// The client's socket, after a PROXY header, until somebody serves it.
    pub(super) client: Option<Watched<TcpStream>>,
    /// What came after the header.
    pub(super) first: Vec<u8>,
    /// Whom the client has connected to, if the header says so.
    pub(super) server: Option<SocketAddr>,
    /// Its place among the connections of its source, where these are limited.
    pub(super) share: Option<Lease>,
}

/// Why there is no header.
enum Refused {
    Bad(proxy_protocol::Reason),
    /// The client has said all it had to say.
    Cut,
}

impl Session {
    /// Lets the client in, or says why not. A client that is not let in has not been listened to,
    /// but for its PROXY header.
    pub(super) async fn enter(&mut self, listener: &Listener, guard: &Guard) -> Result<(), Reason> {
        if guard.awaits_header(self.client.ip()) {
            // Boxed: all others would carry the room for it.
            Box::pin(self.hear_header(listener)).await?;
        }
        if !guard.admits(self.client.ip()) {
            return Err(Reason::Denied);
        }
        let Some(limiter) = &guard.limiter else {
            return Ok(());
        };
        let (client, now) = (self.client.ip(), self.local.events.now());
        let limited = match limiter.enter(client, now) {
            Ok(share) => {
                self.hold(share);
                return Ok(());
            }
            Err(limited) => limited,
        };
        listener.meters.stats.of(self.local.index).limited.of(limited as usize).add(1);
        match limiter.rules.action {
            Action::Reset => Err(Reason::Limited),
            Action::Drop => {
                self.close_in_order();
                Err(Reason::Limited)
            }
            Action::Log => {
                self.hold(limiter.enter_regardless(client, now));
                self.tell_of(limited);
                Ok(())
            }
        }
    }

    /// Holds a place for as long as the connection lasts.
    fn hold(&mut self, share: Option<Lease>) {
        if share.is_some() {
            self.entry.get_or_insert_default().share = share;
        }
    }

    /// Reads a PROXY header, and believes it.
    async fn hear_header(&mut self, listener: &Listener) -> Result<(), Reason> {
        let socket = self.socket.take().ok_or(Reason::ClientReset)?;
        let client = self.local.events.hold(socket);
        let mut first = Vec::new();
        let heard = {
            let reading =
                gather(&client, &mut first, |bytes, ended| match proxy_protocol::parse(bytes) {
                    Parsed::Header(header, length) => Some(Ok((header, length))),
                    Parsed::Invalid(reason) => Some(Err(Refused::Bad(reason))),
                    Parsed::Incomplete => ended.then_some(Err(Refused::Cut)),
                });
            let mut reading = pin!(reading);
            let mut is_watched = false;
            let reading = poll_fn(|context| {
                let polled = reading.as_mut().poll(context);
                // Only now: what has come by then is no event any more.
                if polled.is_pending() && !std::mem::replace(&mut is_watched, true) {
                    client.watch(Interest::Read)?;
                }
                polled
            });
            let heard = self.local.events.until(self.at + listener.client_timeout, reading).await;
            match heard {
                Some(Ok(Ok(header))) if !is_watched => {
                    client.watch(Interest::Read).map(|()| Ok(header)).map_err(Some)
                }
                Some(heard) => heard.map_err(Some),
                None => Err(None),
            }
        };
        let mut entry = Entry { client: Some(client), first, ..Entry::default() };
        let result = match heard {
            Ok(Ok((header, length))) => {
                entry.first.drain(..length);
                if let Some(Ends { client, server }) = header.ends {
                    (self.client, entry.server) = (client, Some(server));
                }
                Ok(())
            }
            Ok(Err(refused)) => {
                self.tell_of_header(&refused);
                Err(Reason::BadProxyHeader)
            }
            Err(Some(_gone)) => Err(Reason::ClientReset),
            Err(None) => Err(Reason::ClientTimeout),
        };
        self.entry = Some(Box::new(entry));
        result
    }

    /// Ends the connection without a reset, whatever the client has sent by now.
    fn close_in_order(&mut self) {
        let heard = self.entry.as_mut().and_then(|entry| entry.client.take());
        match (self.socket.take(), &heard) {
            (Some(socket), _) => socket::empty(&socket),
            (None, Some(client)) => socket::empty(client),
            (None, None) => {}
        }
    }

    fn tell_of_header(&self, refused: &Refused) {
        let Some(withheld) = self.local.complaints.take(self.local.events.now()) else {
            return;
        };
        let detail = match refused {
            Refused::Bad(reason) => reason.to_string(),
            Refused::Cut => "the connection ended before the PROXY header did".to_owned(),
        };
        tracing::info!(
            listener = &*self.listener.name,
            client = %self.client,
            detail,
            withheld = (withheld > 0).then_some(withheld),
            "refused: a PROXY header is due"
        );
    }

    fn tell_of(&self, limited: Limited) {
        let Some(withheld) = self.local.complaints.take(self.local.events.now()) else {
            return;
        };
        tracing::info!(
            listener = &*self.listener.name,
            client = %self.client,
            limit = limited.name(),
            withheld = (withheld > 0).then_some(withheld),
            "beyond a limit, served all the same"
        );
    }
}
