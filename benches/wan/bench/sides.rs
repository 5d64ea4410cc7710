//! The nodes of a run: two for each flow, on one link.

use super::applications::{self, Meter, QUEUE};
use super::content::Content;
use super::path::{Path, Transfer};
use anyhow::Context;
use serde_json::{Map, Value};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use stoq::application::Application;
use stoq::datagram::NetworkKind;
use stoq::datagram::user_space::{InterfaceConfig, UserSpace};
use stoq::nic::simulated::{SimulatedLink, SimulatedNic};
use stoq::node::NodeConfig;
use stoq::quic::transport::QuicConfig;
use stoq::session::QueueRoutes;
use stoq::tls::{
    ClientAuth, ClientTls, FalconAlgorithm, Identity, ServerTls, Trust, client_config, server_config,
};
use stoq::wire::Mac;
use stoq::worker::{Idle, NodeShared, Worker};

const UDP_PORT: u16 = 4433;
/// Turns of a worker at one instant, after which the clock goes on all the same.
const TURNS_MAX: u32 = 256;

/// The keys of `[quic]` that differ from the defaults.
pub(crate) type QuicKeys = Map<String, Value>;

/// One node: a worker on a station of its own.
pub(super) struct Side {
    pub(super) worker: Worker<UserSpace<SimulatedNic>>,
    pub(super) mac: Mac,
    /// When it has something to do though nothing arrives.
    pub(super) due: Option<Instant>,
}

impl Side {
    /// Turns until nothing moves.
    pub(super) fn turn(&mut self, now: Instant) {
        let worked = (0..TURNS_MAX).all(|_| self.worker.turn(now));
        self.due = if worked { Some(now) } else { self.worker.poll_timeout() };
    }
}

/// Two nodes and what goes between them.
pub(super) struct Pair {
    pub(super) client: Side,
    pub(super) server: Side,
    pub(super) meter: Arc<Meter>,
    pub(super) start: Duration,
    client_sends: bool,
}

impl Pair {
    /// The flow of this number.
    pub(super) fn new(
        link: &SimulatedLink,
        path: &Path,
        number: usize,
        transfer: Transfer,
        keys: &QuicKeys,
        content: Option<&Content>,
    ) -> anyhow::Result<Self> {
        let flow = &path.flows[number];
        let quic = quic(path, keys, flow.controller.as_deref())?;
        let identity = |name| Identity::generate(FalconAlgorithm::FalconPadded512, name, &[], 1);
        let (server, client) = (identity("server")?.identity, identity("client")?.identity);
        let trust = Trust::pinned([server.node_id(), client.node_id()])?;
        let stations = [2 * number + 1, 2 * number + 2].map(|station| station as u8);
        let meter = Arc::<Meter>::default();

        let tls = ServerTls::new(server, ClientAuth::Required(trust.clone()));
        let config =
            NodeConfig { server: Some(server_config(&tls)?), quic: quic.clone(), ..NodeConfig::default() };
        let routes = QueueRoutes {
            queues: [(QUEUE, 0)].into_iter().collect(),
            store: Some(0),
            ..QueueRoutes::default()
        };
        let application = applications::server(transfer, content, &meter);
        let server = side(link, stations[0], path.mtu, &config, routes, application)?;

        let tls = ClientTls { identity: Some(client), ..ClientTls::new(trust) };
        let config = NodeConfig { client: Some(client_config(&tls)?), quic, ..NodeConfig::default() };
        let application = applications::client(transfer, content, address(stations[0]), &meter);
        let client = side(link, stations[1], path.mtu, &config, QueueRoutes::default(), application)?;
        let (start, client_sends) = (Duration::from_secs_f64(flow.start_s), transfer.client_sends());
        Ok(Self { client, server, meter, start, client_sends })
    }

    /// The node that has the bytes.
    pub(super) fn sender(&self) -> &Side {
        if self.client_sends { &self.client } else { &self.server }
    }

    /// The node that gets them.
    pub(super) fn receiver(&self) -> &Side {
        if self.client_sends { &self.server } else { &self.client }
    }

    pub(super) fn sides(&mut self) -> [&mut Side; 2] {
        [&mut self.client, &mut self.server]
    }
}

/// The configuration of a flow's two nodes. Unknown keys and values are refused as in a configuration file.
pub(super) fn quic(path: &Path, keys: &QuicKeys, controller: Option<&str>) -> anyhow::Result<QuicConfig> {
    let mut keys = keys.clone();
    if let Some(mtu) = path.initial_udp_payload_bytes {
        keys.insert("initial_udp_payload_bytes".into(), mtu.into());
    }
    if let Some(name) = controller {
        keys.insert("congestion_control".into(), name.into());
    }
    serde_json::from_value(Value::Object(keys)).context("the configuration of QUIC")
}

fn address(station: u8) -> SocketAddr {
    SocketAddr::new([10, 77, 0, station].into(), UDP_PORT)
}

fn side(
    link: &SimulatedLink,
    station: u8,
    mtu: u16,
    config: &NodeConfig,
    routes: QueueRoutes,
    application: Box<dyn Application>,
) -> anyhow::Result<Side> {
    let mac = [2, 0, 0, 0, 0, station];
    let nic = link.add_station(mac, 1).remove(0);
    let interface = InterfaceConfig {
        addresses: vec![format!("{}/24", address(station).ip()).parse()?],
        next_hop_v4: None,
        next_hop_v6: None,
        vlan: None,
        udp_port: UDP_PORT,
        // The link inverts no bit, and QUIC's own tag is checked.
        udp_checksum: false,
    };
    let network = UserSpace::new(nic, &interface, NetworkKind::Simulated)?;
    let shared = NodeShared::new(1, routes);
    // As a node does that starts.
    shared.window_budget.set_total(config.quic.window_budget_bytes());
    let mut worker = Worker::new(0, network, shared, config.quic(mtu), Idle::Spin);
    worker.add_inline(application);
    Ok(Side { worker, mac, due: None })
}
