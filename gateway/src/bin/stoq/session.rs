//! The networked tools' common part: options, configuration, a running client.

use crate::output::{Interrupted, Usage};
use crate::route::Gateways;
use anyhow::{Context, anyhow};
use std::future::poll_fn;
use std::num::NonZero;
use std::path::PathBuf;
use std::pin::pin;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::Poll;
use std::time::Duration;
use stoq::client::{Client, ClientBuilder, ClientError, ConnectOptions, Peer};
use stoq::names::{GatewayAddress, ResolveError};
use stoq::network::{NetworkConfig, OpenNetwork, Running, RunningClient};
use stoq::node::{Hosted, Node, NodeConfig};
use stoq::quic::congestion::Congestion;
use stoq::quic::transport::{QuicConfig, QuicError};
use stoq::tls::{CipherSuite, NodeId};
use stoq_gateway::config::{ClientConfig, IdentityConfig, LogConfig, TrustConfig, load_client};
use stoq_gateway::faults::started;
use stoq_gateway::probe::Remotes;
use stoq_gateway::{interrupt, logging, tls};
use tokio::sync::watch;

/// Options of the tools that connect to a gateway.
#[derive(clap::Args)]
pub(crate) struct ClientOptions {
    /// Configuration file (TOML); without one, kernel UDP sockets and the options below.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The gateway's address, such as 192.0.2.1:4433, or its name, such as gateway.example.org; without a port, 4433.
    #[arg(long, short = 'g', value_name = "HOST[:PORT]")]
    gateway: Option<GatewayAddress>,
    /// Trust gateways whose certificate these authorities issued (PEM).
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Trust the gateway with this node ID; may be given several times.
    #[arg(long = "node-id", value_name = "ID")]
    node_ids: Vec<NodeId>,
    /// The client's own certificate (PEM), for gateways that require one.
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// The key of --cert (PEM, PKCS#8).
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// How fast to send: "model", "cubic", "newreno", or "reserved", which sends at --rate.
    #[arg(long, value_name = "NAME")]
    congestion_control: Option<Congestion>,
    /// The most to send, bits a second; 0 for no bound.
    #[arg(long, value_name = "BITS")]
    rate: Option<u64>,
    /// How long the gateway may be silent: until the connection is up, until its SETTINGS, and while a request waits for it and no byte
    /// moves either way [default: 10 for the connection, 60 after that].
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<f64>,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub(crate) json: bool,
    /// No progress bars.
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// The number of connections to a gateway that share one transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectionCount {
    /// This number, over the workers that the configuration has.
    Count(u8),
    /// One for each worker. On kernel sockets there is a worker for each core, up to [`AUTO_WORKERS_MAX`], unless the configuration has
    /// several workers or names their cores.
    Auto,
}

/// The most connections to one gateway.
const CONNECTIONS_MAX: u8 = 64;
/// The most workers that a client has without a configuration that says so: the other cores are the machine's.
const AUTO_WORKERS_MAX: usize = 4;

impl FromStr for ConnectionCount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(count @ 1..=CONNECTIONS_MAX) => Ok(Self::Count(count)),
            _ if text == "auto" => Ok(Self::Auto),
            _ => Err(format!("give a number from 1 to {CONNECTIONS_MAX}, or \"auto\"")),
        }
    }
}

impl ConnectionCount {
    /// The number for this configuration, whose workers it may raise.
    fn spread(self, config: &mut ClientConfig) -> usize {
        match self {
            Self::Count(count) => count.into(),
            Self::Auto => {
                let workers = &mut config.workers;
                let is_kernel = matches!(config.network, NetworkConfig::KernelUdp(_));
                if is_kernel && workers.count == 1 && workers.cores.is_empty() {
                    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
                    workers.count = cores.min(AUTO_WORKERS_MAX) as u16;
                }
                workers.count.into()
            }
        }
    }
}

/// A client's node, not yet started.
pub(crate) struct ClientSetup {
    remote: Option<GatewayAddress>,
    pub(crate) timeout: Duration,
    pub(crate) interrupt: Interrupt,
    pub(crate) gateways: Gateways,
    pub(crate) cipher: CipherSuite,
    pub(crate) workers: usize,
    pub(crate) quic: QuicConfig,
    settings: ClientBuilder,
    network: OpenNetwork,
}

/// A client that runs.
pub(crate) struct Online {
    pub(crate) client: RunningClient,
    pub(crate) gateways: Gateways,
    pub(crate) cipher: CipherSuite,
    pub(crate) workers: usize,
    remote: Option<GatewayAddress>,
    timeout: Duration,
    interrupt: Interrupt,
}

/// SIGINT or SIGTERM, for code that polls and for code that waits.
#[derive(Clone)]
pub(crate) struct Interrupt {
    pub(crate) flag: Arc<AtomicBool>,
    came: watch::Receiver<bool>,
}

impl Interrupt {
    /// From here on the first signal is noted, and the second one ends the process at once.
    fn listen() -> anyhow::Result<Self> {
        let (tell, came) = watch::channel(false);
        let flag = interrupt::listen(move || {
            tell.send_replace(true);
        })?;
        Ok(Self { flag, came })
    }

    /// Runs `work` to its end, or to the first signal.
    async fn or<T>(&self, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        let mut came = self.came.clone();
        let mut work = pin!(work);
        let mut signal = pin!(came.wait_for(|came| *came));
        poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending => match signal.as_mut().poll(cx) {
                Poll::Ready(Ok(_)) => Poll::Ready(Err(Interrupted.into())),
                // Without a signal thread there are no signals.
                Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
            },
        })
        .await
    }
}

impl ClientOptions {
    /// Reads the configuration, opens the network and the identity.
    pub(crate) fn open(&self) -> anyhow::Result<ClientSetup> {
        let config = self.config()?;
        self.gateway.as_ref().or(config.connect.as_ref()).ok_or_else(Usage::no_gateway)?;
        self.open_with(config)
    }

    /// Whether nothing but the result is wanted.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet || self.json
    }

    /// Like [`Self::open`], for a tool that may work without a connected gateway.
    pub(crate) fn open_anywhere(&self) -> anyhow::Result<ClientSetup> {
        self.open_with(self.config()?)
    }

    /// Like [`Self::open`], for a transfer over this many connections; returns their number. With `named` gateways no other one is needed.
    pub(crate) fn open_for(
        &self,
        connections: ConnectionCount,
        named: &[String],
    ) -> anyhow::Result<(ClientSetup, usize)> {
        let mut config = self.config()?;
        if named.is_empty() {
            self.gateway.as_ref().or(config.connect.as_ref()).ok_or_else(Usage::no_gateway)?;
        }
        let connections = connections.spread(&mut config);
        Ok((self.open_with(config)?, connections))
    }

    fn open_with(&self, config: ClientConfig) -> anyhow::Result<ClientSetup> {
        logging::start(&config.log)?;
        let given = self.timeout.map(Duration::try_from_secs_f64).transpose();
        let given = given.map_err(|_| Usage("--timeout takes seconds, such as 10".into()))?;
        let settings = tls::client_builder(&config, tls::key_log_file()?)?;
        let settings = match given {
            Some(timeout) => settings.silence_timeout(timeout),
            None => settings,
        };
        let timeout = given.unwrap_or(ConnectOptions::default().timeout);
        let interrupt = Interrupt::listen()?;
        let network = OpenNetwork::open_client(&config.network, config.workers.count.into())?;
        let (cipher, workers) = (config.tls.cipher, config.workers.count.into());
        let (remote, gateways) = (self.gateway.clone().or(config.connect), Gateways(config.gateway));
        let quic = config.quic;
        Ok(ClientSetup { remote, timeout, interrupt, gateways, cipher, workers, quic, settings, network })
    }

    fn config(&self) -> anyhow::Result<ClientConfig> {
        let mut config = match &self.config {
            Some(file) => load_client(file)?,
            None => ClientConfig {
                connect: None,
                gateway: Vec::new(),
                workers: Default::default(),
                network: Default::default(),
                identity: None,
                trust: TrustConfig::default(),
                tls: Default::default(),
                quic: Default::default(),
                log: LogConfig { level: "warn".into(), ..LogConfig::default() },
            },
        };
        if let (Some(certificate), Some(key)) = (&self.cert, &self.key) {
            config.identity = Some(IdentityConfig { certificate: certificate.clone(), key: key.clone() });
        }
        if let Some(congestion) = self.congestion_control {
            config.quic.congestion_control = congestion;
        }
        if let Some(rate) = self.rate {
            config.quic.rate_bits_per_s = rate;
        }
        if self.ca.is_some() || !self.node_ids.is_empty() {
            config.trust.ca.clone_from(&self.ca);
            config.trust.node_ids.clone_from(&self.node_ids);
        }
        if config.quic.check() == Err(QuicError::NoRate) {
            return Err(Usage(
                "--congestion-control reserved needs the rate that is reserved: give --rate BITS, such as 1000000000 for 1 Gbit/s".into(),
            ).into());
        }
        if config.trust.ca.is_none() && config.trust.node_ids.is_empty() {
            return Err(Usage(
                "no gateway is trusted: give --ca FILE, or --node-id ID as `stoq identity show` prints it there".into(),
            ).into());
        }
        Ok(config)
    }
}

impl ClientSetup {
    /// The gateway to connect to.
    pub(crate) fn gateway(&self) -> anyhow::Result<GatewayAddress> {
        Ok(self.remote.clone().ok_or_else(Usage::no_gateway)?)
    }

    /// The addresses of the gateway, in the order of trying.
    pub(crate) fn remotes(&self) -> anyhow::Result<Remotes> {
        let gateway = self.gateway()?;
        if let Some(address) = gateway.literal() {
            return Ok(address.into());
        }
        if gateway.has_zone() && !self.network.is_kernel() {
            return Err(ResolveError::Zone(gateway).into());
        }
        // On a thread of its own: the system's resolver may block for longer than --timeout.
        let (tell, told) = std::sync::mpsc::channel();
        let asked = gateway.clone();
        let thread = std::thread::Builder::new().name("stoq-names".into());
        started("asks the resolver", thread.spawn(move || tell.send(asked.resolve())))?;
        let (remote, limit) = (gateway.to_string(), self.timeout);
        let found = told.recv_timeout(limit).map_err(|_| ClientError::Unresolved { remote, limit })??;
        Ok(Remotes::new(&gateway, found))
    }

    /// Starts the client.
    pub(crate) fn start(self) -> anyhow::Result<Online> {
        let Self { remote, timeout, interrupt, gateways, cipher, workers, settings, network, .. } = self;
        let client = network.start_client(settings)?;
        Ok(Online { client, gateways, cipher, workers, remote, timeout, interrupt })
    }

    /// Starts a node whose applications do the work.
    pub(crate) fn start_node(self, hosted: Vec<Hosted>) -> anyhow::Result<Running<Node>> {
        let node = NodeConfig { thread_setup: self.network.thread_setup(), ..self.settings.node_config()? };
        self.network.start_node(&node, hosted).context("cannot start the client")
    }
}

/// The client that connects.
#[derive(Clone)]
pub(crate) struct Dialer {
    client: Client,
    remote: Option<GatewayAddress>,
    timeout: Duration,
}

impl Dialer {
    /// Connects.
    pub(crate) async fn connect(&self, remote: &GatewayAddress) -> Result<Peer, ClientError> {
        let options = ConnectOptions { timeout: self.timeout, ..ConnectOptions::default() };
        self.client.connect_with(remote, options).await
    }

    /// Connects to the first of these addresses at which this node answers; any node, if none is given.
    pub(crate) async fn connect_any(
        &self,
        addresses: &[GatewayAddress],
        node: Option<NodeId>,
    ) -> anyhow::Result<Peer> {
        let mut last = None;
        for address in addresses {
            match self.connect(address).await {
                Ok(peer) if node.is_none() || peer.node() == node => return Ok(peer),
                Ok(peer) => {
                    let found =
                        peer.node().map_or("a node without a certificate".into(), |id| id.to_string());
                    last = Some(anyhow!("{address} is {found}; correct its [[gateway]] section"));
                }
                Err(error) => last = Some(error.into()),
            }
        }
        Err(last.unwrap_or_else(|| anyhow!("no address is known; give its [[gateway]] section one")))
    }

    /// Connects to the gateway.
    pub(crate) async fn connect_gateway(&self) -> anyhow::Result<Peer> {
        let remote = self.remote.as_ref().ok_or_else(Usage::no_gateway)?;
        Ok(self.connect(remote).await?)
    }
}

impl Online {
    /// The client that connects, for tasks of their own.
    pub(crate) fn dialer(&self) -> Dialer {
        Dialer { client: self.client.clone(), remote: self.remote.clone(), timeout: self.timeout }
    }

    /// Connects.
    pub(crate) async fn connect(&self, remote: &GatewayAddress) -> Result<Peer, ClientError> {
        self.dialer().connect(remote).await
    }

    /// Connects to the gateway.
    pub(crate) async fn connect_gateway(&self) -> anyhow::Result<Peer> {
        self.dialer().connect_gateway().await
    }

    /// Runs `work` on this thread until it ends or a signal arrives.
    pub(crate) fn block_on<T>(&self, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .context("the tool's runtime cannot be started")?;
        runtime.block_on(self.interrupt.or(work))
    }

    /// Connects to the gateway and runs `work` with it.
    pub(crate) fn run<T>(&self, work: impl AsyncFnOnce(&Peer) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let remote = self.remote.as_ref().ok_or_else(Usage::no_gateway)?;
        self.block_on(async { work(&self.connect(remote).await?).await })
    }
}
