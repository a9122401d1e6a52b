//! What `GET /v1/explain` is asked and answers, and `lockgate explain` prints.

use serde::{Deserialize, Serialize};

/// Which connection.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// Name of the listener.
    pub listener: String,
    /// Address of the client; 192.0.2.1 if it does not matter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// The name that it asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// The application protocols that it offers, separated by commas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpn: Option<String>,
    /// What it says first, as in `first_bytes` of a route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_bytes: Option<String>,
}

/// Where a connection would go at this moment.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Explanation {
    /// Name of the listener.
    pub listener: String,
    /// Its protocol.
    pub protocol: String,
    /// The client that was assumed.
    pub client: String,
    /// The name that it asks for, in the form in which names are compared.
    pub sni: Option<String>,
    /// The protocols that it offers.
    pub alpn: Vec<String>,
    /// What it says first: the one that was asked about, or `tls` for one that asks for a name or
    /// offers protocols; `null` = nothing was said of it, and no route that asks for it matches.
    #[serde(default)]
    pub first_bytes: Option<String>,
    /// The rule that decides, in words.
    pub rule: String,
    /// The number of the route in the file, from 1; `null` = none matched, or none was asked.
    pub route: Option<usize>,
    /// The pool; `null` = the connection gets none.
    pub pool: Option<String>,
    /// How the pool chooses.
    pub balance: Option<String>,
    /// What becomes of it: `connect`, `queue`, `refuse`, `redirect`, or `unknown` without a running
    /// gateway.
    pub outcome: String,
    /// The backend that it gets.
    pub backend: Option<String>,
    /// Why.
    pub why: String,
    /// All backends of the pool, in the order of the file.
    pub candidates: Vec<Candidate>,
    /// What else is to be known of it.
    pub notes: Vec<String>,
    /// Told by the running gateway; else from the file alone.
    pub live: bool,
}

/// A backend that could have been chosen.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Candidate {
    /// Name.
    pub name: String,
    /// Its state.
    pub state: String,
    /// Whether it is the one.
    pub picked: bool,
    /// Why, or why not.
    pub reason: String,
}
