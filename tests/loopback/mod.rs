// A gateway in this process, on the kernel's sockets of the loopback interface. The client's tests and the examples of its
// documentation include this file: it names everything in full.

/// A gateway with a store on queue 0, an echo on 1 and a discard on 2, and one client that it trusts.
#[allow(dead_code, reason = "no test uses all of it")]
pub(crate) struct Gateway {
    pub(crate) node: stoq::node::Node,
    client: stoq::tls::NewIdentity,
    pub(crate) id: stoq::tls::NodeId,
    pub(crate) store: tempfile::TempDir,
}

#[allow(dead_code, reason = "no test uses all of it")]
impl Gateway {
    pub(crate) fn start() -> Self {
        Self::start_with(1, Vec::new())
    }

    /// Starts it on this number of workers, with more applications.
    pub(crate) fn start_with(workers: usize, more: Vec<stoq::node::Hosted>) -> Self {
        use stoq::application::{Application, Discard, Echo, Placement};
        use stoq::node::{ApplicationHost, Hosted};
        use stoq::seed::{MemoryPages, MemoryTier, Seed, SeedParts, Store, StoreConfig};
        use stoq::tls::{ClientAuth, ServerTls, Trust, server_config};

        let (identity, client) = (new_identity("gateway").identity, new_identity("client"));
        let id = identity.node_id();
        let trust = ClientAuth::Required(Trust::pinned([client.identity.node_id()]).unwrap());
        let directory = tempfile::TempDir::new().unwrap();
        std::fs::write(directory.path().join("client.pem"), &client.certificate_pem).unwrap();
        write_private(&directory.path().join("client.key"), &client.key_pem);
        let store = std::sync::Arc::new(Store::open(directory.path(), StoreConfig::default()).unwrap());
        let memory = MemoryTier::new(4 << 20, MemoryPages::Ordinary);
        let hosted =
            |name: &str, queue, store, host| Hosted { store, ..Hosted::new(name, vec![queue], host) };
        fn made<A: Application + 'static>(
            make: impl Fn() -> A + Send + 'static,
            placement: Placement,
        ) -> ApplicationHost {
            ApplicationHost::Node(placement, Box::new(move |_| Box::new(make())))
        }
        let parts = SeedParts::alone(store, memory);
        let seed = ApplicationHost::Node(
            Placement::Thread,
            Box::new(move |worker| Box::new(Seed::new(parts.clone(), worker))),
        );
        let mut applications = vec![
            hosted("seed", 0, true, seed),
            hosted("echo", 1, false, made(Echo::default, Placement::Worker)),
            hosted("discard", 2, false, made(Discard::default, Placement::Worker)),
        ];
        // The first store answers FETCH, LOCATE and MIRROR: these applications go before the seed.
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

    /// The node ID of the client.
    pub(crate) fn client_id(&self) -> stoq::tls::NodeId {
        self.client.identity.node_id()
    }

    /// The files of the client's certificate and key. They lie beside the store's own.
    pub(crate) fn client_files(&self) -> (std::path::PathBuf, std::path::PathBuf) {
        (self.store.path().join("client.pem"), self.store.path().join("client.key"))
    }

    /// The texts of the client's certificate and key.
    pub(crate) fn client_pem(&self) -> (&str, &str) {
        (&self.client.certificate_pem, &self.client.key_pem)
    }

    /// A client that this gateway trusts and that trusts it, on the loopback interface.
    pub(crate) fn client_builder(&self) -> stoq::client::ClientBuilder {
        stoq::Client::builder()
            .identity(self.client.identity.clone())
            .trust_node(self.id)
            .early_data(true)
            .listen(["127.0.0.1:0".parse().unwrap()])
            .quic(quic())
    }
}

fn write_private(path: &std::path::Path, text: &str) {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

fn new_identity(name: &str) -> stoq::tls::NewIdentity {
    let algorithm = stoq::tls::FalconAlgorithm::default();
    stoq::tls::Identity::generate(algorithm, name, &[], 1).unwrap()
}

fn network() -> stoq::datagram::kernel::KernelUdp {
    let config = stoq::datagram::kernel::KernelUdpConfig {
        reuse_port: false,
        buffer_bytes: 1 << 20,
        hear_errors: true,
    };
    stoq::datagram::kernel::KernelUdp::bind(&["127.0.0.1:0".parse().unwrap()], config).unwrap()
}

/// QUIC settings with which the loss of a connection is noticed soon.
fn quic() -> stoq::quic::transport::QuicConfig {
    stoq::quic::transport::QuicConfig { idle_timeout_ms: 2_000, keep_alive_ms: 500, ..Default::default() }
}
