// A gateway in this process, on the kernel's sockets of the loopback interface. The client's tests and the examples of its
// documentation share it, so it names everything in full.

/// A gateway with a store on queue 0, an echo on 1 and a discard on 2, and one client that it trusts.
#[allow(dead_code, reason = "no test uses all of it")]
pub(crate) struct Gateway {
    pub(crate) node: stoq::node::Node,
    client: stoq::tls::Identity,
    pub(crate) id: stoq::tls::NodeId,
    pub(crate) store: tempfile::TempDir,
}

#[allow(dead_code, reason = "no test uses all of it")]
impl Gateway {
    pub(crate) fn start() -> Self {
        Self::start_with(1, Vec::new())
    }

    /// On this number of workers, with more applications.
    pub(crate) fn start_with(workers: usize, more: Vec<stoq::node::Hosted>) -> Self {
        use stoq::application::{Application, Discard, Echo, Placement};
        use stoq::node::{Host, Hosted};
        use stoq::seed::{MemoryTier, Seed, SeedParts, Store, StoreConfig};
        use stoq::tls::{ClientAuth, ServerTls, Trust, server_config};

        let (identity, client) = (new_identity("gateway"), new_identity("client"));
        let id = identity.node_id();
        let trust = ClientAuth::Required(Trust::pinned([client.node_id()]).unwrap());
        let directory = tempfile::TempDir::new().unwrap();
        let store = std::sync::Arc::new(Store::open(directory.path(), StoreConfig::default()).unwrap());
        let memory = std::sync::Arc::new(std::sync::Mutex::new(MemoryTier::new(4 << 20, false)));
        let hosted =
            |name: &str, queue, store, host| Hosted { store, ..Hosted::new(name, vec![queue], host) };
        fn made<A: Application + 'static>(
            make: impl Fn() -> A + Send + 'static,
            placement: Placement,
        ) -> Host {
            Host::Node(placement, Box::new(move |_| Box::new(make())))
        }
        let parts = SeedParts::alone(store, memory);
        let seed =
            Host::Node(Placement::Thread, Box::new(move |worker| Box::new(Seed::new(parts.clone(), worker))));
        let mut applications = vec![
            hosted("seed", 0, true, seed),
            hosted("echo", 1, false, made(Echo::default, Placement::Worker)),
            hosted("discard", 2, false, made(Discard::default, Placement::Worker)),
        ];
        // The first store is the one that is asked.
        for more in more {
            applications.insert(0, more);
        }
        let config = stoq::node::NodeConfig {
            server: Some(
                server_config(&ServerTls { early_data: true, ..ServerTls::new(identity, trust) }).unwrap(),
            ),
            quic: quic(),
            ..Default::default()
        };
        let networks = (0..workers).map(|_| network()).collect();
        let node = stoq::node::Node::start(networks, &config, applications).unwrap();
        Self { node, client, id, store: directory }
    }

    pub(crate) fn address(&self) -> std::net::SocketAddr {
        self.node.networks()[0].local[0]
    }

    pub(crate) fn client_networks(&self) -> Vec<stoq::datagram::kernel::KernelUdp> {
        vec![network()]
    }

    pub(crate) fn client_config(&self) -> stoq::node::NodeConfig {
        use stoq::tls::{ClientTls, Trust, client_config};
        let trust = Trust::pinned([self.id]).unwrap();
        let tls = ClientTls { early_data: true, ..ClientTls::new(Some(self.client.clone()), trust) };
        stoq::node::NodeConfig {
            client: Some(client_config(&tls).unwrap()),
            quic: quic(),
            ..Default::default()
        }
    }
}

fn new_identity(name: &str) -> stoq::tls::Identity {
    let algorithm = stoq::tls::FalconAlgorithm::default();
    stoq::tls::Identity::generate(algorithm, name, &[], 1).unwrap().identity
}

fn network() -> stoq::datagram::kernel::KernelUdp {
    let config = stoq::datagram::kernel::KernelUdpConfig {
        reuse_port: false,
        buffer_bytes: 1 << 20,
        hear_errors: true,
    };
    stoq::datagram::kernel::KernelUdp::bind(&["127.0.0.1:0".parse().unwrap()], config).unwrap()
}

/// The loss of a connection is noticed soon.
fn quic() -> stoq::quic::transport::QuicConfig {
    stoq::quic::transport::QuicConfig { idle_timeout_ms: 2_000, keep_alive_ms: 500, ..Default::default() }
}
