//! Connect, put, fetch, message: the calls of the command line and of other programs.
//!
//! A [`Client`] is a node whose one application carries calls between the tasks of a program and the workers. Its futures need no
//! particular runtime: tokio or any other executor polls them. Handles are cheap to clone, and any number of tasks may use them at
//! once; bytes that one task does not take hold up no other request.
//!
//! ```
//! # mod loopback { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/loopback/mod.rs")); }
//! use stoq::client::{Client, Prepared};
//!
//! # let there = loopback::Gateway::start();
//! # let ((certificate, key), gateway_id, address) = (there.client_files(), there.id, there.address());
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! let client = Client::builder().identity_files(certificate, key).trust_node(gateway_id).start()?;
//! let gateway = client.connect(address).await?;
//! let payload = Prepared::bytes("hello");
//! gateway.put(&payload).await?; // It is checked and durable there.
//! let back = gateway.fetch(payload.token).await?.bytes(1 << 20).await?; // Every byte is checked.
//! assert_eq!(back, "hello");
//! # Ok::<_, stoq::client::ClientError>(())
//! # })?;
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```
//!
//! An address is a [`std::net::SocketAddr`] or a text such as `"gateway.example.org:4433"`. A fetched payload is a reader ([`FetchReader`]), or
//! arrives piece by piece, with offsets and proofs ([`Peer::pieces`]). Each call has a form with options:
//!
//! ```
//! # mod loopback { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/loopback/mod.rs")); }
//! # let there = loopback::Gateway::start();
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! use stoq::client::{FetchOptions, Kept, Prepared, PutOptions};
//! use stoq::token::Ranges;
//! use tokio::io::AsyncReadExt;
//!
//! # let client = there.client_builder().start()?;
//! # let gateway = client.connect(there.address()).await?;
//! let payload = Prepared::bytes(vec![7; 100_000]);
//! let an_hour = PutOptions { lease_s: 3600, ..PutOptions::default() };
//! let kept = gateway.put_with(&payload, an_hour, |sent| println!("{sent} bytes sent")).await?;
//! assert_eq!(kept, Kept::Now);
//!
//! // Ranges are whole groups of 16 KiB.
//! let end = FetchOptions { ranges: Ranges::covering(90_000..100_000)?, ..FetchOptions::default() };
//! let mut last = String::new();
//! gateway.fetch_with(payload.token, end).await?.read_to_string(&mut last).await?;
//! assert_eq!(last.len(), 100_000 - 5 * 16_384);
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```
//!
//! Messages go to the gateway's application queues, and its applications' messages come back:
//!
//! ```
//! # mod loopback { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/loopback/mod.rs")); }
//! # let there = loopback::Gateway::start();
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! # let client = there.client_builder().start()?;
//! # let gateway = client.connect(there.address()).await?;
//! # const ECHO: u64 = 1;
//! gateway.send_message(ECHO, "is the queue open?".into()).await?;
//! let answer = gateway.message().await?;
//! assert_eq!((answer.queue, &answer.payload[..]), (ECHO, &b"is the queue open?"[..]));
//! # Ok::<_, stoq::client::ClientError>(())
//! # })?;
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```
//!
//! # Dropping
//!
//! A future that is dropped ends its work: a connection in the making is given up, a request is canceled at the peer. A dropped
//! [`FetchReader`], [`Pieces`] or [`Gathering`] ends in the same way. Dropping the last [`Peer`] of a connection closes it. Dropping the last
//! [`Client`] and the last `Peer` stops the workers, which takes up to 300 ms on the dropping thread; [`Client::stop`] stops them at once.
//!
//! Errors are [`ClientError`]: each variant is a reason that a program can tell apart, and its text says what to do.

mod builder;
mod call;
mod dial;
mod dispatch;
mod error;
mod fetch;
mod gathering;
mod inbox;
mod input;
mod leases;
mod payload;
mod peer;
mod prepare;
mod read;
mod rotation;
mod tasks;
mod threads;

#[cfg(test)]
mod tests;

pub use builder::ClientBuilder;
pub use error::{ClientError, DialFailure, InputError};
pub use fetch::{Description, Piece, PieceOptions, Pieces};
pub use gathering::{GatherOptions, Gathered, Gathering, HolderAdder, HolderOptions};
pub use input::{Input, was_closed};
pub use payload::{Prepared, PutSource};
pub use peer::{AskOptions, Kept, Message, Peer, PutOptions};
pub use prepare::{PrepareOptions, Sharding};
pub use read::{FetchOptions, FetchReader};

pub use crate::gather::{HolderReport, HolderState, Want};
pub use crate::hop::{Route, RouteError};
pub use crate::queue::CloseReason;

use crate::application::Placement;
use crate::datagram::{Network, NetworkInfo, NetworkKind};
use crate::limits::BAD_SETS_LEN_MAX;
use crate::names::{AddressError, GatewayAddress, ResolveError};
use crate::node::{ApplicationHost, Hosted, Node, NodeConfig};
use crate::queue::Waker;
use crate::token::SetToken;
use crate::worker::WorkerStatus;
use call::{Call, ConnectionUp, Dial, DialError};
use dispatch::Dispatch;
use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// The queue on which gateways take PUTs unless [`ClientBuilder::put_queue`] or [`PutOptions::queue`] names another.
pub const PUT_QUEUE: u64 = 0;

/// How to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectOptions {
    /// The longest time that the connection may take to come up.
    pub timeout: Duration,
    /// Returns at once if an earlier connection of this client to the same peer left a session. The first requests then go with the
    /// first flight of packets, which an observer may replay. Needs [`ClientBuilder::early_data`], and a peer that accepts early data.
    ///
    /// A peer accepts small FETCHes and LOCATEs in early data. A request that it refuses as too early has had no effect; the client
    /// sends it once more. Messages are not sent again: send them after the first answer. [`Peer::node`] is not known on such a
    /// connection; nothing can be routed through it.
    pub early: bool,
    /// The worker that the connection belongs to; `None`: the next one in turn.
    pub worker: Option<usize>,
}

impl Default for ConnectOptions {
    /// Ten seconds, no early data, the next worker.
    fn default() -> Self {
        Self { timeout: Duration::from_secs(10), early: false, worker: None }
    }
}

/// Where to connect to: a [`SocketAddr`], a [`GatewayAddress`], or the text of either, such as `"gateway.example.org:4433"`.
#[derive(Clone, Debug)]
pub struct ConnectTarget(Result<GatewayAddress, AddressError>);

impl From<GatewayAddress> for ConnectTarget {
    fn from(address: GatewayAddress) -> Self {
        Self(Ok(address))
    }
}

impl From<&GatewayAddress> for ConnectTarget {
    fn from(address: &GatewayAddress) -> Self {
        Self(Ok(address.clone()))
    }
}

impl From<SocketAddr> for ConnectTarget {
    fn from(address: SocketAddr) -> Self {
        Self(Ok(address.into()))
    }
}

impl From<&str> for ConnectTarget {
    fn from(text: &str) -> Self {
        Self(text.parse())
    }
}

impl From<String> for ConnectTarget {
    fn from(text: String) -> Self {
        Self(text.parse())
    }
}

/// A client. Clones are handles of the same client; it stops when the last of them and the last [`Peer`] are dropped.
#[derive(Clone, Debug)]
pub struct Client(Arc<Shared>);

/// The part that all clones of a [`Client`] share.
struct Shared {
    node: Mutex<Option<Node>>,
    network: NetworkInfo,
    statuses: Vec<Arc<WorkerStatus>>,
    workers: Vec<(mpsc::UnboundedSender<Call>, Waker)>,
    connects: AtomicUsize,
    requests: AtomicU64,
    /// The queue of PUTs that name no queue.
    put_queue: u64,
    /// The last sets whose shards did not give their payload.
    bad_sets: Mutex<VecDeque<SetToken>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("network", &self.network).finish_non_exhaustive()
    }
}

impl Shared {
    /// Gives a call to a worker's side. If that side has ended, the call is dropped, and with it the channels that the caller waits on.
    fn call(&self, worker: usize, call: Call) {
        if let Some((calls, waker)) = self.workers.get(worker)
            && calls.send(call).is_ok()
        {
            waker.wake();
        }
    }

    fn wake(&self, worker: usize) {
        if let Some((_, waker)) = self.workers.get(worker) {
            waker.wake();
        }
    }

    /// Gives each worker's side a call.
    fn call_all(&self, make: impl Fn(usize) -> Call) {
        (0..self.workers.len()).for_each(|worker| self.call(worker, make(worker)));
    }

    fn wake_all(&self) {
        self.workers.iter().for_each(|(_, waker)| waker.wake());
    }

    /// Starts a thread that asks the system's resolver, which may block for long, and gives the answer to the worker's side.
    fn resolve(&self, worker: usize, dial: u64, to: GatewayAddress) -> std::io::Result<()> {
        let Some((calls, waker)) = self.workers.get(worker).cloned() else { return Ok(()) };
        std::thread::Builder::new().name("stoq-names".into()).spawn(move || {
            let found = to.resolve();
            if calls.send(Call::Resolved { dial, found }).is_ok() {
                waker.wake();
            }
        })?;
        Ok(())
    }

    /// Remembers a set whose shards did not give its payload.
    fn mark_bad(&self, set: SetToken) {
        let mut bad = self.bad_sets.lock().unwrap_or_else(PoisonError::into_inner);
        if bad.len() == BAD_SETS_LEN_MAX {
            bad.pop_front();
        }
        bad.push_back(set);
    }

    fn is_bad(&self, set: &SetToken) -> bool {
        self.bad_sets.lock().unwrap_or_else(PoisonError::into_inner).contains(set)
    }

    fn next_request(&self) -> u64 {
        self.requests.fetch_add(1, Ordering::Relaxed)
    }
}

impl Client {
    /// The settings of a client, to be started.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// Starts one worker for each of `networks`. An empty list is an error.
    fn on<N>(networks: Vec<N>, config: &NodeConfig, put_queue: u64) -> Result<Self, ClientError>
    where
        N: Network + Send + 'static,
    {
        let network = networks.first().map(Network::info).ok_or_else(|| {
            std::io::Error::new(std::io::ErrorKind::InvalidInput, "a client needs at least one network")
        })?;
        let (calls, mut receivers): (Vec<_>, Vec<_>) = networks
            .iter()
            .map(|_| mpsc::unbounded_channel())
            .map(|(send, receive)| (send, Some(receive)))
            .unzip();
        let make = move |worker: usize| -> Box<dyn crate::application::Application> {
            let calls = receivers.get_mut(worker).and_then(Option::take);
            Box::new(Dispatch::new(calls.unwrap_or_else(|| mpsc::unbounded_channel().1)))
        };
        let host = ApplicationHost::Node(Placement::Worker, Box::new(make));
        let hosted = Hosted::new("client", Vec::new(), host);
        let node = Node::start(networks, config, vec![hosted])?;
        Ok(Self(Arc::new(Shared {
            network,
            statuses: node.statuses().to_vec(),
            workers: calls.into_iter().zip(node.wakers().iter().cloned()).collect(),
            node: Mutex::new(Some(node)),
            connects: AtomicUsize::new(0),
            requests: AtomicU64::new(0),
            put_queue,
            bad_sets: Mutex::default(),
        })))
    }

    /// The network that this client is on.
    pub fn network(&self) -> &NetworkInfo {
        &self.0.network
    }

    /// The status of each worker, its counters among it.
    pub fn statuses(&self) -> &[Arc<WorkerStatus>] {
        &self.0.statuses
    }

    /// Connects within ten seconds: to an address, or to a name, whose addresses of both families are raced (RFC 8305). Connections take
    /// the workers in turn.
    ///
    /// A name is looked up by the system's resolver, on a thread of its own. The resolver's answer decides on no trust:
    /// [`crate::tls::Trust`] does.
    ///
    /// # Errors
    /// Those of [`Client::connect_with`].
    pub async fn connect(&self, to: impl Into<ConnectTarget>) -> Result<Peer, ClientError> {
        self.connect_with(to, ConnectOptions::default()).await
    }

    /// Connects with options. A future that is dropped gives the connection up, also if it has come up already.
    ///
    /// # Errors
    /// [`ClientError::Connect`] with the reason at each address that was tried, [`ClientError::Timeout`], [`ClientError::Stopped`];
    /// [`ClientError::Address`], [`ClientError::Resolve`] and [`ClientError::Unresolved`] if there is no address to try;
    /// [`ClientError::Start`] if no thread can be started for the resolver.
    /// A gateway that refuses the client's certificate may end the connection later, with [`ClientError::Lost`]: see
    /// [`CloseReason::Tls`].
    pub async fn connect_with(
        &self,
        to: impl Into<ConnectTarget>,
        options: ConnectOptions,
    ) -> Result<Peer, ClientError> {
        let to = to.into().0?;
        if to.has_zone() && self.0.network.kind != NetworkKind::KernelUdp {
            return Err(ResolveError::Zone(to).into());
        }
        let ConnectOptions { timeout, early, worker } = options;
        let next = || self.0.connects.fetch_add(1, Ordering::Relaxed);
        let worker = worker.unwrap_or_else(next) % self.0.workers.len();
        let now = Instant::now();
        // A timeout past the clock's range sets no bound.
        let deadline = now.checked_add(timeout).unwrap_or(now + Duration::from_secs(u32::MAX.into()));
        let (reply, answer) = oneshot::channel();
        let (id, remotes) = (self.0.next_request(), to.literal().map(|remote| [remote].into()));
        let named = remotes.is_none();
        self.0.call(worker, Call::Connect(Dial { id, remotes, early, deadline, reply }));
        let mut dialing = Dialing { shared: &self.0, answer };
        if named {
            self.0.resolve(worker, id, to.clone())?;
        }
        let remote = to.to_string();
        match (&mut dialing.answer).await {
            Ok(Ok(up)) => Ok(Peer::new(self.0.clone(), up)),
            Ok(Err(DialError::Timeout)) => Err(ClientError::Timeout { remote, limit: timeout }),
            Ok(Err(DialError::Unresolved)) => Err(ClientError::Unresolved { remote, limit: timeout }),
            Ok(Err(DialError::Resolve(error))) => Err(error.into()),
            Ok(Err(DialError::Failed(failures))) => Err(ClientError::Connect { remote, failures }),
            Err(_) => Err(ClientError::Stopped),
        }
    }

    /// Closes every connection and ends every thread of all clones: calls in flight, and those made later, end with
    /// [`ClientError::Stopped`] or [`ClientError::Lost`]. Blocks for up to 300 ms, until the peers have been told.
    pub fn stop(&self) {
        let node = self.0.node.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(node) = node {
            node.stop();
        }
    }
}

/// A call of [`Client::connect_with`] in progress. If it is dropped before its end, its connection is closed.
struct Dialing<'a> {
    shared: &'a Shared,
    answer: oneshot::Receiver<Result<ConnectionUp, DialError>>,
}

impl Drop for Dialing<'_> {
    fn drop(&mut self) {
        self.answer.close();
        if let Ok(Ok(ConnectionUp { connection, .. })) = self.answer.try_recv() {
            self.shared.call(connection.worker.into(), Call::Disconnect { connection });
        }
    }
}
