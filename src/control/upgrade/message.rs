//! What the two processes of an upgrade tell each other: lines of JSON.
//!
//! Either may be the older program. A message that is not known is passed over, as are fields of one
//! that is; a field that is not there has its default. `version` is for people, so far.
//!
//! ```text
//!   the elder                              the heir
//!   Hello      secrets, generation   ───►  reads its configuration, opens what is new, checks
//!                                    ◄───  Serving     both accept now
//!   Counts     admin server stops    ───►
//!   Vrrp       lets go               ───►  takes the addresses over, serves the admin sockets
//!                                    ◄───  Ready       its escort leaves it to the service manager
//!   Retired    accepts no more       ───►              from here on there is no way back
//!   Growth     every second          ───►  adds it
//!   (end)      its last connection has ended
//! ```

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::admin::status::Previous;
use crate::control::failover::Legacy;
use crate::control::tally::Totals;
use crate::metrics::histograms::Series;

/// The version of these messages.
const VERSION: u32 = 1;

/// A line.
#[derive(Debug, Deserialize, Serialize)]
struct Line {
    #[serde(default)]
    version: u32,
    #[serde(flatten)]
    message: Message,
}

/// What is told.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub(in crate::control) enum Message {
    /// What the heir needs to begin with.
    Hello(Hello),
    /// The heir accepts connections.
    Serving(Serving),
    /// What the elder has counted so far.
    Counts(Counts),
    /// The elder sends no adverts any more.
    Vrrp(Handed),
    /// The heir has all.
    Ready,
    /// The elder is out of the way.
    Retired,
    /// Somebody wanted the elder to read its configuration again.
    Reload,
    /// What the elder has counted since.
    Growth(Growth),
    /// Something of a later version.
    #[serde(other)]
    Unknown,
}

/// See [`Message::Hello`].
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub(in crate::control) struct Hello {
    /// Version of the program.
    pub(in crate::control) program: String,
    /// What tickets are made with if gateways share no secret, in hexadecimal digits.
    pub(in crate::control) ticket_secret: Option<String>,
    /// Publications of a configuration so far.
    pub(in crate::control) generation: u64,
    /// The start that connections are named after, in seconds since 1970.
    pub(in crate::control) started: u64,
    /// The descriptor of the standard error that the heir is to have.
    pub(in crate::control) stderr: Option<i32>,
    /// Whether the file of the admin socket goes with the process that ends.
    pub(in crate::control) removes_admin_socket: bool,
    /// Whatever else is to survive, by who wants it to.
    pub(in crate::control) carry: Map<String, Value>,
}

/// See [`Message::Serving`].
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub(in crate::control) struct Serving {
    /// Version of the program.
    pub(in crate::control) program: String,
    /// The process that will serve.
    pub(in crate::control) pid: u32,
    /// Addresses that it accepts at with the elder's sockets.
    pub(in crate::control) listens: Vec<std::net::SocketAddr>,
    /// Whether the unix socket of the admin server is the elder's.
    pub(in crate::control) admin_socket: bool,
    /// VRRP instances that it will go on with, by what others know them by.
    pub(in crate::control) instances: Vec<String>,
}

/// See [`Message::Counts`].
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub(in crate::control) struct Counts {
    /// All of them.
    pub(in crate::control) totals: Totals,
    /// What histograms have measured.
    pub(in crate::control) histograms: Series,
}

/// See [`Message::Vrrp`].
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub(in crate::control) struct Handed {
    /// What the heir is to go on with; nothing if the elder took no part.
    pub(in crate::control) legacy: Option<Legacy>,
}

/// See [`Message::Growth`].
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub(in crate::control) struct Growth {
    /// By how much.
    pub(in crate::control) totals: Totals,
    /// The same of histograms.
    pub(in crate::control) histograms: Series,
    /// Connections that the elder still has.
    pub(in crate::control) connections: u32,
    /// Processes before it that still have some.
    pub(in crate::control) previous: Vec<Previous>,
}

impl Message {
    /// The line, with its end.
    ///
    /// Fails if it cannot be said in JSON, which would be a fault of this file.
    pub(in crate::control) fn encode(self) -> serde_json::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(&Line { version: VERSION, message: self })?;
        line.push(b'\n');
        Ok(line)
    }

    /// What a line says.
    ///
    /// Fails if it is no message at all.
    pub(in crate::control) fn decode(line: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice::<Line>(line).map(|line| line.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_out_as_they_went_in() {
        let hello = Hello {
            program: "1.2.3".to_owned(),
            ticket_secret: Some("00ff".to_owned()),
            generation: 7,
            ..Hello::default()
        };
        let growth = Growth { connections: 3, ..Growth::default() };
        for message in [
            Message::Hello(hello),
            Message::Serving(Serving { admin_socket: true, ..Serving::default() }),
            Message::Counts(Counts::default()),
            Message::Vrrp(Handed::default()),
            Message::Ready,
            Message::Retired,
            Message::Reload,
            Message::Growth(growth),
        ] {
            let line = message.clone().encode().unwrap();
            assert_eq!(line.iter().filter(|&&byte| byte == b'\n').count(), 1);
            assert_eq!(Message::decode(&line).unwrap(), message);
        }
    }

    /// A later version has fields, and messages, that this one does not know; an earlier one has
    /// not all that this one knows.
    #[test]
    fn either_end_may_be_of_another_version() {
        let later = br#"{"version":9,"say":"hello","generation":3,"colour":"red","carry":{"a":1}}"#;
        let Message::Hello(hello) = Message::decode(later).unwrap() else { panic!("hello") };
        assert_eq!((hello.generation, hello.ticket_secret), (3, None));
        assert_eq!(hello.carry["a"], 1);
        let unheard_of = br#"{"version":9,"say":"sing","song":["la","la"]}"#;
        assert_eq!(Message::decode(unheard_of).unwrap(), Message::Unknown);
        let earlier = br#"{"say":"growth"}"#;
        assert_eq!(Message::decode(earlier).unwrap(), Message::Growth(Growth::default()));
        let earlier = br#"{"say":"vrrp","legacy":{"routers":[{"vrid":7}]}}"#;
        let Message::Vrrp(Handed { legacy: Some(legacy) }) = Message::decode(earlier).unwrap()
        else {
            panic!("a legacy")
        };
        assert_eq!(legacy.routers.len(), 1);
        for nonsense in ["", "{}", "[]", "{\"say\":\"hello\",\"generation\":\"x\"}"] {
            assert!(Message::decode(nonsense.as_bytes()).is_err(), "{nonsense}");
        }
    }
}
