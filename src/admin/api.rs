//! The calls of the admin API: what is asked for, of whom, and in which words it is answered.
//!
//! `docs/openapi.yaml` describes the same for others, and is tested against this. Every error is JSON:
//! `{"error": "...", "errors": ["...", ...]}`, the second only where there may be several.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::explanation::{Explanation, Question};
use super::order::{
    BackendChange, BackendChanged, BackendTarget, Candidate, Difference, HandedOver, Handover,
    NodeChanged, Order, Refusal, RefusalKind, Reloaded, Reply, Upgraded,
};
use super::server::{Caller, Who};
use super::status::Backend;
use super::{Ask, stream};
use crate::config;

/// Largest body of most requests, in bytes.
const BODY: usize = 64 << 10;

/// Largest body with a configuration in it, which JSON may make longer.
const CONFIGURATION: usize = 2 * config::MAX_FILE_SIZE as usize;

/// A body has to be here within this.
const BODY_TIME: Duration = Duration::from_secs(10);

/// All calls.
pub(super) fn router(asks: mpsc::Sender<Ask>) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/v1/status", get(status))
        .route("/v1/events", get(stream::events))
        .route("/v1/explain", get(explain))
        .route("/v1/reload", post(reload))
        .route("/v1/diff", post(diff))
        .route("/v1/drain", post(drain).delete(undrain))
        .route("/v1/handover", post(handover))
        .route("/v1/upgrade", post(upgrade))
        .route("/v1/pools/{pool}/backends/{backend}", get(backend).post(change_backend))
        .merge(super::dashboard::router())
        .fallback(nothing)
        .method_not_allowed_fallback(not_allowed)
        .with_state(asks)
        .layer(middleware::from_fn(admit))
}

pub(super) type Asks = State<mpsc::Sender<Ask>>;

/// Lets in who may ask, for what they may ask.
async fn admit(Extension(caller): Extension<Caller>, request: Request, next: Next) -> Response {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    match caller {
        Caller::Local(who) if !who.is_permitted() => {
            let own = nix::unistd::geteuid();
            let error = format!(
                "uid {} may not ask: only root and the user that the gateway runs as (uid {own})",
                who.uid
            );
            refuse(StatusCode::FORBIDDEN, error)
        }
        Caller::Remote if !reads => read_only(),
        Caller::Local(_) | Caller::Remote => next.run(request).await,
    }
}

const READ_ONLY: &str = "admin.http is for reading only: changes go over the unix socket";

fn read_only() -> Response {
    let mut response = refuse(StatusCode::METHOD_NOT_ALLOWED, READ_ONLY);
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    response
}

fn refuse(status: StatusCode, error: impl Into<String>) -> Response {
    answer(status, error.into(), Vec::new())
}

fn answer(status: StatusCode, error: String, errors: Vec<String>) -> Response {
    #[derive(Serialize)]
    struct Words {
        error: String,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        errors: Vec<String>,
    }
    (status, Json(Words { error, errors })).into_response()
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match self.kind {
            RefusalKind::Invalid => StatusCode::BAD_REQUEST,
            RefusalKind::Unknown => StatusCode::NOT_FOUND,
            RefusalKind::Conflict => StatusCode::CONFLICT,
            RefusalKind::Unprocessable => StatusCode::UNPROCESSABLE_ENTITY,
            RefusalKind::Storage => StatusCode::INSUFFICIENT_STORAGE,
            RefusalKind::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            RefusalKind::ReadOnly => return read_only(),
        };
        answer(status, self.error, self.errors)
    }
}

async fn nothing() -> Response {
    refuse(StatusCode::NOT_FOUND, "there is nothing here")
}

async fn not_allowed(method: Method) -> Response {
    refuse(StatusCode::METHOD_NOT_ALLOWED, format!("{method} means nothing here"))
}

/// Asks the control loop.
pub(super) async fn ask<T>(
    State(asks): &Asks,
    question: impl FnOnce(oneshot::Sender<T>) -> Ask,
) -> Result<T, Refusal> {
    let (sender, answer) = oneshot::channel();
    let gone = || Refusal::new(RefusalKind::Stopping, "the gateway is stopping");
    asks.send(question(sender)).await.map_err(|_| gone())?;
    answer.await.map_err(|_| gone())
}

/// The same for what may be refused.
async fn demand<T>(
    asks: &Asks,
    question: impl FnOnce(Reply<T>) -> Ask,
) -> Result<Json<T>, Refusal> {
    ask(asks, question).await?.map(Json)
}

/// Who is asking for a change.
fn operator(Extension(caller): Extension<Caller>) -> Result<Who, Refusal> {
    match caller {
        Caller::Local(who) => Ok(who),
        // Not reached: `admit` has turned it away.
        Caller::Remote => Err(Refusal::new(RefusalKind::ReadOnly, READ_ONLY)),
    }
}

/// Reads a body of JSON; none at all is as good as `{}`.
async fn read<T: DeserializeOwned>(body: Body, most: usize) -> Result<T, Response> {
    let bytes = match timeout(BODY_TIME, to_bytes(body, most)).await {
        Ok(Ok(bytes)) => bytes,
        // Too large, or broken off; then nobody reads this.
        Ok(Err(error)) => {
            let error = format!("the body is of no use: {error} (at most {most} bytes)");
            return Err(refuse(StatusCode::PAYLOAD_TOO_LARGE, error));
        }
        Err(_elapsed) => {
            let error = format!("the body was not here within {BODY_TIME:?}");
            return Err(refuse(StatusCode::REQUEST_TIMEOUT, error));
        }
    };
    let text = if bytes.trim_ascii().is_empty() { b"{}" } else { bytes.trim_ascii() };
    let wrong = |error: String| {
        refuse(StatusCode::BAD_REQUEST, format!("the body is not what it should be: {error}"))
    };
    let value: Value = serde_json::from_slice(text).map_err(|error| wrong(error.to_string()))?;
    // A list of its values in their order would do for a struct as well.
    if !value.is_object() {
        return Err(wrong("it is no object".to_owned()));
    }
    serde_json::from_value(value).map_err(|error| wrong(error.to_string()))
}

fn path_of(target: Result<Path<BackendTarget>, PathRejection>) -> Result<BackendTarget, Refusal> {
    let wrong = |error: PathRejection| Refusal::new(RefusalKind::Invalid, error.body_text());
    target.map(|Path(target)| target).map_err(wrong)
}

async fn healthz(asks: Asks) -> Result<Response, Refusal> {
    Ok(verdict(&ask(&asks, Ask::Health).await?))
}

async fn readyz(asks: Asks) -> Result<Response, Refusal> {
    Ok(verdict(&ask(&asks, Ask::Readiness).await?))
}

fn verdict(reasons: &[String]) -> Response {
    if reasons.is_empty() {
        (StatusCode::OK, "ok\n").into_response()
    } else {
        let reasons: String = reasons.iter().map(|reason| format!("{reason}\n")).collect();
        (StatusCode::SERVICE_UNAVAILABLE, reasons).into_response()
    }
}

async fn metrics(asks: Asks) -> Result<Response, Refusal> {
    let text = ask(&asks, Ask::Metrics).await?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text.into_body()).into_response())
}

async fn status(asks: Asks) -> Result<Response, Refusal> {
    let text = ask(&asks, Ask::Status).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], text.into_body()).into_response())
}

async fn backend(
    asks: Asks,
    target: Result<Path<BackendTarget>, PathRejection>,
) -> Result<Json<Backend>, Refusal> {
    let target = path_of(target)?;
    demand(&asks, |reply| Ask::Backend(target, reply)).await
}

async fn explain(
    asks: Asks,
    question: Result<Query<Question>, QueryRejection>,
) -> Result<Json<Explanation>, Refusal> {
    let wrong = |error: QueryRejection| Refusal::new(RefusalKind::Invalid, error.body_text());
    let Query(question) = question.map_err(wrong)?;
    demand(&asks, |reply| Ask::Explain(question, reply)).await
}

async fn change_backend(
    asks: Asks,
    caller: Extension<Caller>,
    target: Result<Path<BackendTarget>, PathRejection>,
    body: Body,
) -> Result<Json<BackendChanged>, Response> {
    let who = operator(caller).map_err(IntoResponse::into_response)?;
    let target = path_of(target).map_err(IntoResponse::into_response)?;
    let change: BackendChange = read(body, BODY).await?;
    let order = |reply| Ask::Order(who, Order::Backend(target, change, reply));
    demand(&asks, order).await.map_err(IntoResponse::into_response)
}

async fn drain(
    asks: Asks,
    caller: Extension<Caller>,
    body: Body,
) -> Result<Json<NodeChanged>, Response> {
    let who = operator(caller).map_err(IntoResponse::into_response)?;
    read::<Nothing>(body, BODY).await?;
    let order = |reply| Ask::Order(who, Order::Node(true, reply));
    demand(&asks, order).await.map_err(IntoResponse::into_response)
}

async fn undrain(asks: Asks, caller: Extension<Caller>) -> Result<Json<NodeChanged>, Response> {
    let who = operator(caller).map_err(IntoResponse::into_response)?;
    let order = |reply| Ask::Order(who, Order::Node(false, reply));
    demand(&asks, order).await.map_err(IntoResponse::into_response)
}

async fn handover(
    asks: Asks,
    caller: Extension<Caller>,
    body: Body,
) -> Result<Json<HandedOver>, Response> {
    let who = operator(caller).map_err(IntoResponse::into_response)?;
    let wanted: Handover = read(body, BODY).await?;
    let order = |reply| Ask::Order(who, Order::Handover(wanted, reply));
    demand(&asks, order).await.map_err(IntoResponse::into_response)
}

async fn upgrade(
    asks: Asks,
    caller: Extension<Caller>,
    body: Body,
) -> Result<Json<Upgraded>, Response> {
    let who = operator(caller).map_err(IntoResponse::into_response)?;
    read::<Nothing>(body, BODY).await?;
    let order = |reply| Ask::Order(who, Order::Upgrade(reply));
    demand(&asks, order).await.map_err(IntoResponse::into_response)
}

async fn reload(
    asks: Asks,
    caller: Extension<Caller>,
    body: Body,
) -> Result<Json<Reloaded>, Response> {
    let who = operator(caller).map_err(IntoResponse::into_response)?;
    read::<Nothing>(body, BODY).await?;
    let order = |reply| Ask::Order(who, Order::Reload(reply));
    demand(&asks, order).await.map_err(IntoResponse::into_response)
}

async fn diff(
    asks: Asks,
    caller: Extension<Caller>,
    body: Body,
) -> Result<Json<Difference>, Response> {
    operator(caller).map_err(IntoResponse::into_response)?;
    let candidate: Candidate = read(body, CONFIGURATION).await?;
    let question = |reply| Ask::Compare(candidate, reply);
    demand(&asks, question).await.map_err(IntoResponse::into_response)
}

/// A body that says nothing.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}
