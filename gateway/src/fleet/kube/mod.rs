//! Kubernetes as a fleet's directory: what drives a [`KubeMember`] over the API of the cluster.
//!
//! One connection has the questions, one after another, and each watch has another one. All end with the session of the member. The token is read
//! for each call and the certificates of the cluster for each connection, since both are replaced while the gateway runs.

mod client;
mod exchange;
mod files;
mod leases;
mod member;
mod object;
mod operation;

pub use client::{KubeClient, KubeFault};
pub use exchange::{KubeAnswer, KubeCall, KubeEvent, KubeMethod, KubeRequest};
pub use files::KubeSettings;
pub use member::KubeMember;
pub use object::{KUBE_GROUP, KubeCollection, KubeNames};

use super::directory::{DirectoryDriver, DirectoryEnd, FleetWatcher, drive};
use super::exchange::MemberSettings;
use super::http::HttpConnection;
use super::member::FleetMember;
use super::table::FleetTable;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

/// Has a gateway follow its directory in Kubernetes until `end`, from a table of an earlier process and its directory, if there is one.
pub(super) async fn follow(
    settings: KubeSettings,
    member: MemberSettings,
    saved: Option<(u64, Arc<FleetTable>)>,
    watcher: impl FleetWatcher,
    end: Arc<DirectoryEnd>,
) {
    let (tell, events) = unbounded_channel();
    let member = KubeMember::new(Instant::now(), settings.names.clone(), member, saved);
    let driver = KubeDriver { settings: Arc::new(settings), member, tell, session: None };
    drive(driver, events, watcher, &end).await;
}

struct KubeDriver {
    settings: Arc<KubeSettings>,
    member: KubeMember,
    tell: UnboundedSender<(u64, KubeEvent)>,
    session: Option<KubeSession>,
}

/// The connections of one session.
struct KubeSession {
    number: u64,
    questions: UnboundedSender<KubeCall>,
    asker: Task,
    watches: BTreeMap<KubeCollection, Task>,
}

/// A task that ends with its owner.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl DirectoryDriver for KubeDriver {
    type Event = KubeEvent;

    fn member(&mut self) -> &mut FleetMember {
        self.member.fleet()
    }

    fn handle(&mut self, now: Instant, session: u64, event: KubeEvent) {
        self.member.handle(now, session, event);
    }

    fn ask(&mut self) {
        while let Some(request) = self.member.poll(Instant::now(), unix_us()) {
            match request {
                KubeRequest::Connect { session } => self.connect(session),
                KubeRequest::Ask(call) => {
                    if let Some(session) = &self.session {
                        let _ = session.questions.send(call);
                    }
                }
                KubeRequest::Watch { collection, watch, call } => self.watch(collection, watch, call),
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

impl KubeDriver {
    fn connect(&mut self, number: u64) {
        // The former connections end first.
        self.session = None;
        let (questions, mut asked) = unbounded_channel();
        let mut asker = KubeAsker::new(self.settings.clone());
        let tell = self.tell.clone();
        let task = tokio::spawn(async move {
            while let Some(call) = asked.recv().await {
                let event = match asker.ask(&call).await {
                    Ok(answer) => KubeEvent::Answered(answer),
                    Err(why) => KubeEvent::Lost(why),
                };
                let _ = tell.send((number, event));
            }
        });
        self.session = Some(KubeSession { number, questions, asker: Task(task), watches: BTreeMap::new() });
    }

    fn watch(&mut self, collection: KubeCollection, watch: u64, call: KubeCall) {
        let Some(session) = &mut self.session else { return };
        debug_assert!(!session.asker.0.is_finished(), "it ends with the session");
        let (tell, number) = (self.tell.clone(), session.number);
        let mut asker = KubeAsker::new(self.settings.clone());
        let task = tokio::spawn(async move {
            let told = |event| tell.send((number, event)).is_ok();
            if let Err(why) = asker.watch(watch, &call, told).await {
                let _ = tell.send((number, KubeEvent::Lost(why)));
            }
        });
        session.watches.insert(collection, Task(task));
    }
}

/// Asks the API over one connection.
struct KubeAsker {
    settings: Arc<KubeSettings>,
    connection: Option<HttpConnection>,
}

impl KubeAsker {
    fn new(settings: Arc<KubeSettings>) -> Self {
        Self { settings, connection: None }
    }

    async fn connected(&mut self) -> Result<&mut HttpConnection, String> {
        // A server ends a connection that was quiet, or asks to by GOAWAY's counterpart of HTTP/1.1.
        let connection = match self.connection.take().filter(HttpConnection::is_open) {
            Some(connection) => connection,
            None => self.settings.endpoint()?.connect().await?,
        };
        Ok(self.connection.insert(connection))
    }

    async fn ask(&mut self, call: &KubeCall) -> Result<KubeAnswer, String> {
        let request = self.settings.request(call)?;
        let answer = self.connected().await?.begin(request).await?;
        let (status, retry_after_s) = (answer.status, answer.retry_after_s);
        Ok(KubeAnswer { status, retry_after_s, body: answer.whole().await? })
    }

    async fn watch(
        &mut self,
        watch: u64,
        call: &KubeCall,
        tell: impl Fn(KubeEvent) -> bool,
    ) -> Result<(), String> {
        let request = self.settings.request(call)?;
        let answer = self.connected().await?.begin(request).await?;
        let (status, retry_after_s) = (answer.status, answer.retry_after_s);
        if status != 200 {
            let answer = KubeAnswer { status, retry_after_s, body: answer.whole().await? };
            tell(KubeEvent::Refused(watch, answer));
            return Ok(());
        }
        if tell(KubeEvent::Watching(watch))
            && !answer.lines(|line| tell(KubeEvent::Told(watch, line.to_vec()))).await?
        {
            tell(KubeEvent::Ended(watch));
        }
        Ok(())
    }
}

/// Microseconds since 1970.
fn unix_us() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
