//! What every networked tool shares: options, configuration, a running client.

use crate::output::Usage;
use anyhow::Context;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use stoq::client::{Client, Peer};
use stoq::config::{ClientConfig, IdentityConfig, LogConfig, TrustConfig, load_client};
use stoq::gateway::network::{Opened, Running};
use stoq::gateway::{logging, tls};
use stoq::node::{Hosted, Node, NodeConfig};
use stoq::tls::{CipherSuite, NodeId};

/// Options of the tools that talk to a gateway.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Configuration file (TOML); without one, kernel UDP sockets and the options below.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The gateway's address, such as 192.0.2.1:4433.
    #[arg(long, short = 'g', value_name = "ADDR:PORT")]
    gateway: Option<SocketAddr>,
    /// Trust gateways whose certificate these authorities issued (PEM).
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Trust the gateway with this node ID; may be given several times.
    #[arg(long = "node-id", value_name = "ID")]
    node_ids: Vec<NodeId>,
    /// The client's own certificate (PEM), for gateways that ask for one.
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// The key of --cert (PEM, PKCS#8).
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Seconds to wait for the connection.
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    timeout: f64,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub(crate) json: bool,
    /// No progress bars.
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// A client's node, not yet started.
pub(crate) struct Session {
    pub(crate) remote: SocketAddr,
    pub(crate) timeout: Duration,
    pub(crate) interrupt: Arc<AtomicBool>,
    pub(crate) cipher: CipherSuite,
    pub(crate) workers: usize,
    node: NodeConfig,
    network: Opened,
}

impl Options {
    /// Reads the configuration, opens the network and the identity.
    pub(crate) fn open(&self) -> anyhow::Result<Session> {
        let config = self.config()?;
        logging::start(&config.log)?;
        let remote = self.gateway.or(config.gateway).ok_or_else(|| {
            Usage(
                "no gateway: give --gateway ADDR:PORT, or `gateway = \"…\"` in the configuration file".into(),
            )
        })?;
        let client = tls::client(&config.tls, config.identity.as_ref(), &config.trust)?;
        let interrupt = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            // The second one ends the process at once.
            signal_hook::flag::register_conditional_shutdown(signal, 130, interrupt.clone())?;
            signal_hook::flag::register(signal, interrupt.clone())?;
        }
        let network = Opened::open(&config.network, config.workers.count.into())?;
        let node = NodeConfig {
            client: Some(client),
            quic: config.quic.clone(),
            idle: config.workers.idle,
            cores: config.workers.cores.clone(),
            thread_setup: network.thread_setup(),
            ..NodeConfig::default()
        };
        let timeout = Duration::try_from_secs_f64(self.timeout)
            .map_err(|_| Usage("--timeout takes seconds, such as 10".into()))?;
        let (cipher, workers) = (config.tls.cipher, config.workers.count.into());
        Ok(Session { remote, timeout, interrupt, cipher, workers, node, network })
    }

    fn config(&self) -> anyhow::Result<ClientConfig> {
        let mut config = match &self.config {
            Some(file) => load_client(file)?,
            None => ClientConfig {
                gateway: None,
                workers: Default::default(),
                network: Default::default(),
                identity: None,
                trust: TrustConfig::default(),
                tls: Default::default(),
                quic: Default::default(),
                log: LogConfig { level: "warn".into() },
            },
        };
        if let (Some(certificate), Some(key)) = (&self.cert, &self.key) {
            config.identity = Some(IdentityConfig { certificate: certificate.clone(), key: key.clone() });
        }
        if self.ca.is_some() || !self.node_ids.is_empty() {
            config.trust.ca.clone_from(&self.ca);
            config.trust.node_ids.clone_from(&self.node_ids);
        }
        if config.trust.ca.is_none() && config.trust.node_ids.is_empty() {
            let text = "no gateway is trusted: give --ca FILE, or --node-id ID as `stoq identity show` prints it there";
            return Err(Usage(text.into()).into());
        }
        Ok(config)
    }
}

impl Session {
    /// Starts the client and connects.
    pub(crate) fn connect(self) -> anyhow::Result<(Running<Client>, Peer)> {
        let mut client = self.network.start_client(&self.node, self.interrupt)?;
        let peer = client.connect(self.remote, self.timeout)?;
        Ok((client, peer))
    }

    /// Starts a node whose applications do the work.
    pub(crate) fn start(self, hosted: Vec<Hosted>) -> anyhow::Result<Running<Node>> {
        self.network.start_node(&self.node, hosted).context("cannot start the client")
    }
}
