//! Etcd as a fleet's directory: what drives a [`FleetMember`] over etcd's JSON gateway.
//!
//! One connection has the questions, one after another, and another one the watch. Both end with the session of the member.

mod client;
mod files;
mod order_wire;
mod wire;

pub use client::{EtcdClient, EtcdFault, EtcdSight};

use super::directory::{DirectoryDriver, DirectoryEnd, FleetWatcher, drive};
use super::exchange::{FleetEvent, FleetRequest, MemberSettings};
use super::http::{HttpConnection, HttpEndpoint};
use super::member::FleetMember;
use super::table::FleetTable;
use hyper::Request;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use serde_json::json;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle as Task;

/// How to reach etcd.
#[derive(Clone)]
pub struct EtcdSettings {
    /// The endpoints: each whether it has TLS, its host and its port.
    pub endpoints: Vec<(bool, String, u16)>,
    /// TLS, where an endpoint has it.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// The user of etcd and its password.
    pub user: Option<(String, String)>,
    /// The prefix of the fleet's keys, which ends in `/`.
    pub prefix: String,
}

/// Without the password.
impl std::fmt::Debug for EtcdSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdSettings").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}

impl EtcdSettings {
    /// The endpoint at this place in the configuration.
    fn endpoint(&self, at: usize) -> HttpEndpoint {
        let (has_tls, host, port) = self.endpoints[at].clone();
        let authority =
            if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let tls = self.tls.clone().filter(|_| has_tls);
        HttpEndpoint { authority, host, tls }
    }
}

/// Has a gateway follow its directory in etcd until `end`, from a table of an earlier process and its cluster, if there is one.
pub(super) async fn follow(
    settings: EtcdSettings,
    member: MemberSettings,
    saved: Option<(u64, Arc<FleetTable>)>,
    watcher: impl FleetWatcher,
    end: Arc<DirectoryEnd>,
) {
    let (tell, events) = unbounded_channel();
    let own_key = member.own_key.clone();
    let member = FleetMember::new(Instant::now(), member, saved);
    let driver = EtcdDriver { settings: Arc::new(settings), own_key, member, tell, session: None };
    drive(driver, events, watcher, &end).await;
}

struct EtcdDriver {
    settings: Arc<EtcdSettings>,
    own_key: Arc<str>,
    member: FleetMember,
    tell: UnboundedSender<(u64, FleetEvent)>,
    session: Option<EtcdSession>,
}

/// The connections of one session.
struct EtcdSession {
    number: u64,
    endpoint: HttpEndpoint,
    questions: UnboundedSender<FleetRequest>,
    tasks: Vec<Task<()>>,
}

impl Drop for EtcdSession {
    fn drop(&mut self) {
        self.tasks.iter().for_each(Task::abort);
    }
}

impl DirectoryDriver for EtcdDriver {
    type Event = FleetEvent;

    fn member(&mut self) -> &mut FleetMember {
        &mut self.member
    }

    fn handle(&mut self, now: Instant, session: u64, event: FleetEvent) {
        self.member.handle(now, session, event);
    }

    fn ask(&mut self) {
        while let Some(request) = self.member.poll(Instant::now()) {
            match request {
                FleetRequest::Connect { session, endpoint } => self.connect(session, endpoint),
                request => self.ask_for(request),
            }
        }
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        self.member.poll_timeout()
    }

    fn adopt(&mut self, now: Instant) {
        self.member.adopt(now);
    }
}

impl EtcdDriver {
    fn connect(&mut self, number: u64, endpoint: usize) {
        let endpoint = self.settings.endpoint(endpoint);
        let (questions, asked) = unbounded_channel();
        let asker = EtcdAsker {
            settings: self.settings.clone(),
            own_key: self.own_key.clone(),
            endpoint: endpoint.clone(),
            connection: None,
            token: None,
        };
        let (tell, failed) = (self.tell.clone(), self.tell.clone());
        let task = tokio::spawn(async move {
            if let Err(why) = asker.run(asked, |event| drop(tell.send((number, event)))).await {
                let _ = failed.send((number, FleetEvent::Lost(why)));
            }
        });
        self.session = Some(EtcdSession { number, endpoint, questions, tasks: vec![task] });
    }

    fn ask_for(&mut self, request: FleetRequest) {
        let Some(session) = &mut self.session else { return };
        if !matches!(request, FleetRequest::WatchFrom(_)) {
            let _ = session.questions.send(request);
            return;
        }
        let (tell, number, settings) = (self.tell.clone(), session.number, self.settings.clone());
        let (endpoint, own_key) = (session.endpoint.clone(), self.own_key.clone());
        session.tasks.push(tokio::spawn(async move {
            let mut asker = EtcdAsker { settings, own_key, endpoint, connection: None, token: None };
            if let Err(why) = asker.watch(&request, |event| tell.send((number, event)).is_ok()).await {
                let _ = tell.send((number, FleetEvent::Lost(why)));
            }
        }));
    }
}

/// Asks one endpoint, over one connection.
struct EtcdAsker {
    settings: Arc<EtcdSettings>,
    own_key: Arc<str>,
    endpoint: HttpEndpoint,
    connection: Option<HttpConnection>,
    token: Option<String>,
}

impl EtcdAsker {
    async fn run(
        mut self,
        mut asked: UnboundedReceiver<FleetRequest>,
        tell: impl Fn(FleetEvent),
    ) -> Result<(), String> {
        while let Some(request) = asked.recv().await {
            let (path, body) = wire::request(&request, &self.settings.prefix, &self.own_key);
            let mut event = FleetEvent::Lost("the user's token is not taken".into());
            // A token that is over is renewed once.
            for _ in 0..2 {
                let (status, answer) = self.question(path, &body).await?;
                match wire::answer(&request, status, &answer, &self.settings.prefix) {
                    wire::Said::Event(said) => {
                        event = said;
                        break;
                    }
                    wire::Said::Stale => self.token = None,
                }
            }
            tell(event);
        }
        Ok(())
    }

    async fn watch(
        &mut self,
        request: &FleetRequest,
        tell: impl Fn(FleetEvent) -> bool,
    ) -> Result<(), String> {
        self.authenticate().await?;
        let (path, body) = wire::request(request, &self.settings.prefix, &self.own_key);
        let mut connection = self.connection.take().expect("it is connected");
        let prefix = &self.settings.prefix;
        let answer = connection.begin(post(path, &body, self.token.as_deref())?).await?;
        let is_unheard = answer.lines(|line| tell(wire::watched(line, prefix))).await?;
        if is_unheard { Ok(()) } else { Err("the watch has ended".into()) }
    }

    /// Asks one question.
    async fn question(&mut self, path: &str, body: &serde_json::Value) -> Result<(u16, Vec<u8>), String> {
        self.authenticate().await?;
        let token = self.token.as_deref();
        self.connection.as_mut().expect("it is connected").ask(post(path, body, token)?).await
    }

    /// Connects and, where there is a user, has its token.
    async fn authenticate(&mut self) -> Result<(), String> {
        if self.connection.is_none() {
            self.connection = Some(self.endpoint.connect().await?);
        }
        if let (Some((name, password)), None) = (&self.settings.user, &self.token) {
            let body = json!({ "name": name, "password": password });
            let connection = self.connection.as_mut().expect("it is connected");
            let (status, answer) = connection.ask(post("/v3/auth/authenticate", &body, None)?).await?;
            self.token = Some(wire::token(status, &answer)?);
        }
        Ok(())
    }
}

/// A question to etcd's gateway.
fn post(path: &str, body: &serde_json::Value, token: Option<&str>) -> Result<Request<String>, String> {
    let mut request = Request::post(path)
        .header(CONTENT_TYPE, "application/json")
        .header("Grpc-Metadata-hasleader", "true")
        .body(body.to_string())
        .map_err(|error| error.to_string())?;
    if let Some(token) = token {
        let token = HeaderValue::from_str(token).map_err(|error| error.to_string())?;
        request.headers_mut().insert(AUTHORIZATION, token);
    }
    Ok(request)
}
