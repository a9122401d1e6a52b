//! What operators may order, and what they are answered.

use serde::{Deserialize, Deserializer, Serialize};
use tokio::sync::oneshot;

use super::status::NodeDrain;

/// Where the answer to an order goes.
pub type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// Something that changes the running gateway.
#[derive(Debug)]
pub enum Order {
    /// A backend is to be drained, disabled, enabled, or given another weight.
    Backend(BackendTarget, BackendChange, Reply<BackendChanged>),
    /// The node as a whole is to be drained, or to serve again.
    Node(bool, Reply<NodeChanged>),
    /// The floating addresses are to go to the peer.
    Handover(Handover, Reply<HandedOver>),
    /// The configuration is to be read again.
    Reload(Reply<Reloaded>),
    /// The binary that is on disk now is to take over.
    Upgrade(Reply<Upgraded>),
}

/// Why nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What kind of reason it is.
    pub kind: RefusalKind,
    /// The reason, ready to be shown; may have several lines.
    pub error: String,
    /// Each mistake by itself, where there may be several.
    pub errors: Vec<String>,
}

/// Kinds of reasons, each with its HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// The request makes no sense: 400.
    Invalid,
    /// There is no such thing: 404.
    Unknown,
    /// Not as things are: 409.
    Conflict,
    /// What it relies on (a configuration) is wrong: 422.
    Unprocessable,
    /// It cannot be kept on disk: 507.
    Storage,
    /// The gateway is stopping: 503.
    Stopping,
    /// Not over this way: 405.
    ReadOnly,
}

impl Refusal {
    /// For one reason.
    pub fn new(kind: RefusalKind, error: impl Into<String>) -> Self {
        Self { kind, error: error.into(), errors: Vec::new() }
    }
}

/// Which backend.
#[derive(Clone, Debug, Deserialize)]
pub struct BackendTarget {
    /// Name of its pool.
    pub pool: String,
    /// Its name.
    pub backend: String,
}

/// `POST /v1/pools/{pool}/backends/{backend}`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BackendChange {
    /// What it is to be; absent = as it is.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub state: Option<Wish>,
    /// Its weight from now on; `null` = that of the file again; absent = as it is.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub weight: Option<Option<u16>>,
    /// After this the connections that are left are cut, as a duration of the configuration
    /// (`"60s"`); absent = they are waited for without an end. Only with `draining` and `disabled`.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
}

/// Reads what is there: `null` is not the same as nothing.
fn given<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// What a backend is to be.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// In use, if it is well.
    Enabled,
    /// No new connections: it runs empty.
    Draining,
    /// Taken out: no new connections.
    Disabled,
}

impl Wish {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Draining => "draining",
            Self::Disabled => "disabled",
        }
    }
}

/// What an operator has set for a backend.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// What it is to be.
    pub state: Wish,
    /// Its weight.
    pub weight: u16,
}

/// A backend has been changed, or was so already.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct BackendChanged {
    /// Name of its pool.
    pub pool: String,
    /// Its name.
    pub backend: String,
    /// Before.
    pub before: Setting,
    /// Now.
    pub after: Setting,
    /// Whether the two differ.
    pub changed: bool,
    /// Connections that it has.
    pub connections: u32,
    /// When those that are left are cut, in seconds; `null` = never.
    pub timeout_seconds: Option<f64>,
    /// Whether it is kept over a restart.
    pub kept: bool,
    /// What else is to be known of it.
    pub notes: Vec<String>,
}

/// The node is drained, or serves again.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct NodeChanged {
    /// Who drains it, and since when; `null` = nobody.
    pub drain: Option<NodeDrain>,
    /// Whether that has changed.
    pub changed: bool,
    /// Whether it is kept over a restart.
    pub kept: bool,
    /// What else is to be known of it.
    pub notes: Vec<String>,
}

/// `POST /v1/handover`
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Handover {
    /// Ends an earlier one: this gateway may have the addresses again.
    pub back: bool,
    /// Goes on although nobody takes the addresses now: they stay until somebody does.
    pub force: bool,
}

/// What a handover came to.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct HandedOver {
    /// The instances whose addresses were here.
    pub instances: Vec<HandedOverInstance>,
    /// What else is to be known of it.
    pub notes: Vec<String>,
}

/// What became of one instance.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct HandedOverInstance {
    /// Name.
    pub name: String,
    /// Its state now.
    pub state: String,
    /// Who has the addresses now, as far as known.
    pub master: Option<String>,
    /// The addresses.
    pub addresses: Vec<String>,
}

/// Another process has taken over.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Upgraded {
    /// The one that serves from now on.
    pub pid: u32,
    /// The one that served until now, and drains.
    pub previous: u32,
}

/// The configuration has been read again.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Reloaded {
    /// Publications of a configuration since the start.
    pub generation: u64,
    /// What changed, in one line.
    pub summary: String,
}

/// A configuration to be compared with the running one: `POST /v1/diff`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Candidate {
    /// What to call it in errors.
    pub file: String,
    /// Its text.
    pub text: String,
}

/// What a reload would change.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Difference {
    /// In one line, as a reload would tell it.
    pub summary: String,
    /// Each by itself: `+ listener https`.
    pub changes: Vec<String>,
    /// Settings that only a restart takes over.
    pub restart: Vec<String>,
}
