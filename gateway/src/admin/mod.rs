//! The admin endpoint: metrics, health and status over HTTP, for scrapers, probes and people. It runs on a thread of its own and reads
//! the workers' statuses. Workers never wait for it. It changes nothing but by `POST /store/remove`, and begins a pass
//! of the scrub by `POST /store/scrub`.

pub mod client;
mod fleet;
pub mod health;
mod hosts;
mod json;
mod listener;
mod metrics;
mod places;
mod recent;
mod screen;
mod source;
mod status;
pub mod store;
mod store_metrics;
pub mod text;
mod token;
pub mod top;

pub use listener::Access;
pub use source::{AdminParts, AdminSource, Facts};

use crate::config::AdminConfig;
use crate::faults::started;
use anyhow::Context;
use axum::Router;
use axum::extract::{RawQuery, Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ORIGIN, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state, map_response};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use listener::{AdminRefusal, Current};
use serde_json::Value;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;
use stoq::seed::Store;
use store::{StoreQuery, StoreQueryError};
use tokio::sync::oneshot;

/// The time between two samples of the workers' progress.
const TICK: Duration = Duration::from_secs(1);
/// Samples of the workers' progress between two write probes of the store.
const TICKS_A_PROBE: u32 = 5;
/// How long `/debug/connections` waits for the workers.
const INSPECTION_WAIT: Duration = Duration::from_secs(2);
/// How long the end waits for a running write probe.
const END_WAIT: Duration = Duration::from_secs(1);

/// A running endpoint. Dropping it ends it.
pub struct Admin {
    local: SocketAddr,
    source: Arc<AdminSource>,
    access: Current,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// The state of the HTTP handlers.
#[derive(Clone)]
struct Served {
    source: Arc<AdminSource>,
    access: Current,
}

impl Admin {
    /// Listens, and serves the data of `source`.
    ///
    /// # Errors
    /// The address cannot be bound, or a certificate, key or token cannot be read.
    pub fn start(config: &AdminConfig, source: AdminSource) -> anyhow::Result<Self> {
        let access = Access::read(config)?;
        let listener = bind(config)?;
        let local = listener.set_nonblocking(true).and_then(|()| listener.local_addr());
        let local = local.context("admin.listen: the socket cannot be used")?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .max_blocking_threads(1)
            .build()
            .context("admin: the runtime cannot be started")?;
        let source = Arc::new(source);
        source.probe();
        source.tick();
        let (tls, token) = (access.encrypts(), access.asks());
        let access = Arc::new(RwLock::new(access));
        let served = Served { source: source.clone(), access: access.clone() };
        let (end, ended) = oneshot::channel::<()>();
        let serve = async move {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tokio::spawn(watch(served.source.clone()));
            tokio::select! {
                () = listener::serve(listener, served.access.clone(), router(served)) => {}
                _ = ended => {}
            }
            Ok(())
        };
        let thread = std::thread::Builder::new().name("stoq-admin".into()).spawn(move || {
            if let Err(error) = runtime.block_on(serve) as std::io::Result<()> {
                tracing::error!(%error, "the admin endpoint ended");
            }
            runtime.shutdown_timeout(END_WAIT);
        });
        let thread = started("serves the admin endpoint", thread)?;
        tracing::info!(listen = %local, tls, token, "admin endpoint up");
        Ok(Self { local, source, access, end: Some(end), thread: Some(thread) })
    }

    /// The address on which it listens.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Every reason why the gateway is not ready, as `/readyz` gives them; none while it is ready.
    pub fn readiness(&self) -> impl Fn() -> Vec<String> + Send + 'static {
        let source = self.source.clone();
        move || source.not_ready()
    }

    /// Replaces the facts of configuration and certificates.
    pub fn set_facts(&self, facts: Facts) {
        self.source.set_facts(facts);
    }

    /// Replaces certificate, key and token; open connections stay.
    pub fn set_access(&self, access: Access) {
        *self.access.write().unwrap_or_else(PoisonError::into_inner) = access;
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the admin endpoint panicked");
        }
    }
}

/// Whether the endpoint could be started as configured.
///
/// # Errors
/// Those of [`Admin::start`].
pub fn check(config: &AdminConfig) -> anyhow::Result<()> {
    Access::read(config)?;
    bind(config).map(drop)
}

fn bind(config: &AdminConfig) -> anyhow::Result<TcpListener> {
    TcpListener::bind(config.listen).map_err(|error| {
        let text = format!(
            "admin.listen: cannot listen on {} ({error}); is another program on this port?",
            config.listen
        );
        std::io::Error::new(error.kind(), text).into()
    })
}

async fn watch(source: Arc<AdminSource>) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for count in 0_u32.. {
        tick.tick().await;
        source.tick();
        if count.is_multiple_of(TICKS_A_PROBE) && source.has_store() {
            let source = source.clone();
            // One probe at a time. While the disk hangs, the result of the last probe expires.
            drop(tokio::task::spawn_blocking(move || source.probe()));
        }
    }
}

fn router(served: Served) -> Router {
    let guarded = Router::new()
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .route("/recent", get(recent))
        .route("/debug/connections", get(connections))
        .route("/store/list", get(store_list))
        .route("/store/stat", get(store_stat))
        .route("/store/usage", get(store_usage))
        .route("/store/remove", post(store_remove))
        .route("/store/scrub", post(scrub))
        .route_layer(from_fn_with_state(served.clone(), guard));
    Router::new()
        .route("/", get(page))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .merge(guarded)
        .layer(map_response(plain_headers))
        .with_state(served)
}

/// Forbids caches and content sniffing.
async fn plain_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Requires the token, or without one a known Host. Health and the page itself, which has no figures, are not guarded.
async fn guard(State(served): State<Served>, request: Request, next: Next) -> Response {
    let admitted = served.access.read().unwrap_or_else(PoisonError::into_inner).admits(request.headers());
    match admitted {
        Ok(()) => next.run(request).await,
        Err(AdminRefusal::Token) => {
            let text = "a bearer token is needed\n";
            (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, "Bearer")], text).into_response()
        }
        Err(AdminRefusal::Host) => {
            let text = "an endpoint without a token answers to addresses, to localhost and to the names of admin.hosts\n";
            (StatusCode::MISDIRECTED_REQUEST, text).into_response()
        }
    }
}

async fn page() -> impl IntoResponse {
    const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                          base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    ([(CONTENT_SECURITY_POLICY, POLICY)], Html(include_str!("page.html")))
}

async fn livez(State(served): State<Served>) -> Response {
    let stuck = served.source.stuck().map(|worker| format!("worker {worker} makes no turns"));
    health(&stuck.collect::<Vec<_>>(), &[])
}

async fn readyz(State(served): State<Served>) -> Response {
    health(&served.source.not_ready(), &served.source.short())
}

/// Says what is wrong. A gateway that is only short of something is well: it serves on, and its absence would help an attacker.
fn health(wrong: &[String], short: &[String]) -> Response {
    if wrong.is_empty() {
        let lines = short.iter().fold("ok\n".to_owned(), |lines, line| lines + line + "\n");
        lines.into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, wrong.join("\n") + "\n").into_response()
    }
}

async fn metrics(State(served): State<Served>) -> impl IntoResponse {
    ([(CONTENT_TYPE, text::CONTENT_TYPE)], metrics::render(&served.source))
}

async fn status(State(served): State<Served>) -> Response {
    json(&status::Status::of(&served.source))
}

/// Has the store read as a whole. A page of another origin cannot ask for it: browsers name the origin of each POST.
async fn scrub(State(served): State<Served>, headers: HeaderMap) -> Response {
    if headers.contains_key(ORIGIN) {
        return (StatusCode::FORBIDDEN, "no web page may ask for this\n").into_response();
    }
    match &served.source.store {
        Some(store) => {
            store.scrub_now();
            json(&store.scrub_state())
        }
        None => (StatusCode::NOT_FOUND, "this gateway has no store\n").into_response(),
    }
}

async fn recent(State(served): State<Served>) -> Response {
    json(&served.source.recent.view())
}

async fn connections(State(served): State<Served>) -> Response {
    let asked: Vec<_> = served.source.statuses.iter().map(|status| status.inspection.ask()).collect();
    let mut workers = Vec::new();
    for answer in asked {
        // A worker that does not answer in time is shown as null.
        workers.push(tokio::time::timeout(INSPECTION_WAIT, answer).await.ok().and_then(Result::ok));
    }
    json(&workers)
}

/// Runs `look` on the thread that may block on the disk.
async fn of_store(
    served: Served,
    query: Option<String>,
    look: impl FnOnce(&AdminSource, &Store, &StoreQuery) -> Result<Value, StoreQueryError> + Send + 'static,
) -> Response {
    let source = served.source;
    let Some(store) = source.store.clone() else {
        return (StatusCode::NOT_FOUND, "this gateway keeps no payloads\n").into_response();
    };
    let query = StoreQuery::parse(&query.unwrap_or_default());
    let (status, error) = match tokio::task::spawn_blocking(move || look(&source, &store, &query)).await {
        Ok(Ok(value)) => return json(&value),
        Ok(Err(error @ StoreQueryError::Store(_))) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
        Ok(Err(error)) => (StatusCode::BAD_REQUEST, error.to_string()),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    };
    (status, error + "\n").into_response()
}

async fn store_list(State(served): State<Served>, RawQuery(query): RawQuery) -> Response {
    of_store(served, query, |_, kept, query| store::list(kept, query)).await
}

async fn store_stat(State(served): State<Served>, RawQuery(query): RawQuery) -> Response {
    of_store(served, query, |_, kept, query| store::stat(kept, query)).await
}

async fn store_usage(State(served): State<Served>, RawQuery(query): RawQuery) -> Response {
    of_store(served, query, |_, kept, query| store::usage(kept, query)).await
}

/// Removes what an operator names. A page of another site can have a browser send this, and every user of the machine can: without a token
/// nothing is removed.
async fn store_remove(State(served): State<Served>, RawQuery(query): RawQuery) -> Response {
    if !served.access.read().unwrap_or_else(PoisonError::into_inner).asks() {
        let text = "an endpoint without a token removes nothing; give [admin] a token_file\n";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    of_store(served, query, |source, kept, query| {
        let (value, gone) = store::remove(kept, query)?;
        for token in &gone {
            source.forget(token);
            tracing::info!(%token, "removed by the operator");
        }
        Ok(value)
    })
    .await
}

fn json(value: &impl serde::Serialize) -> Response {
    match json::inert(value) {
        Ok(text) => ([(CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
