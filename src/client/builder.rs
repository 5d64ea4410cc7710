//! Makes a client: its identity, the gateways that it trusts, its network, its workers.

use super::threads::Threads;
use super::{Client, ClientError, PUT_QUEUE};
use crate::datagram::Network;
use crate::datagram::kernel::{BindError, KernelUdp, KernelUdpConfig};
use crate::limits::{SILENCE_MS_DEFAULT, WORKERS_MAX};
use crate::node::{NodeConfig, ThreadSetup, VerifyThreads};
use crate::quic::congestion::Congestion;
use crate::quic::transport::QuicConfig;
use crate::session::SilenceLimits;
use crate::tls::{
    ClientTls, Identity, NodeId, PemText, TlsError, TlsPolicy, Trust, TrustFiles, client_config,
};
use crate::worker::Idle;
use rustls::KeyLog;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The settings of a [`Client`], made by [`Client::builder`]. Every setting but the trust has a default: a client trusts only the
/// gateways that it was told to trust.
///
/// ```no_run
/// use std::time::Duration;
/// use stoq::client::Client;
/// use stoq::quic::congestion::Congestion;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::builder()
///     .identity_files("client.pem", "client.key")
///     .trust_ca_file("ca.pem")
///     .workers(4)
///     .listen(["192.0.2.7:0".parse()?, "[2001:db8::7]:0".parse()?])
///     .congestion_control(Congestion::Newreno)
///     .idle_timeout(Duration::from_secs(10))
///     .start()?;
/// # Ok(())
/// # }
/// ```
///
/// [`ClientBuilder::start`] reports a wrong setting, such as a file that cannot be read; of several faults, the first. Until then a
/// builder opens no socket.
#[derive(Debug)]
#[must_use = "a builder does nothing until it is started"]
pub struct ClientBuilder {
    tls: Tls,
    /// The first fault of a setting.
    fault: Option<TlsError>,
    listen: Vec<SocketAddr>,
    socket_buffer_bytes: usize,
    workers: usize,
    node: Threads,
    quic: QuicConfig,
    silence: Duration,
    put_queue: u64,
}

#[derive(Debug, Default)]
struct Tls {
    identity: Option<Identity>,
    trust: Option<Trust>,
    server_name: Option<String>,
    policy: TlsPolicy,
    early_data: bool,
    key_log: Option<Arc<dyn KeyLog>>,
}

impl Default for ClientBuilder {
    /// No identity, no trust; one worker; any free port of both families; [`QuicConfig::default`]; no early data.
    fn default() -> Self {
        Self {
            tls: Tls::default(),
            fault: None,
            listen: vec![(Ipv4Addr::UNSPECIFIED, 0).into(), (Ipv6Addr::UNSPECIFIED, 0).into()],
            socket_buffer_bytes: KernelUdpConfig::default().buffer_bytes,
            workers: 1,
            node: Threads::default(),
            quic: QuicConfig::default(),
            silence: Duration::from_millis(SILENCE_MS_DEFAULT),
            put_queue: PUT_QUEUE,
        }
    }
}

/// The identity, for gateways that ask for one. Most do.
impl ClientBuilder {
    /// The identity in a PEM file of certificates, the client's own first, and the PEM file of its key. Both are read now.
    pub fn identity_files(mut self, certificate: impl AsRef<Path>, key: impl AsRef<Path>) -> Self {
        let identity = Identity::load(certificate.as_ref(), key.as_ref());
        self.tls.identity = self.sound(identity);
        self
    }

    /// Sets the identity from PEM texts in memory: the certificates, the client's own first, and the key.
    pub fn identity_pem(mut self, certificate: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Self {
        let certificate = PemText { path: Path::new("(certificate in memory)"), text: certificate.as_ref() };
        let key = PemText { path: Path::new("(key in memory)"), text: key.as_ref() };
        let identity = Identity::from_pem(certificate, key);
        self.tls.identity = self.sound(identity);
        self
    }

    /// Sets an identity that the program has loaded itself.
    pub fn identity(mut self, identity: Identity) -> Self {
        self.tls.identity = Some(identity);
        self
    }
}

/// The gateways that are trusted. Each call adds nodes or authorities to those of earlier calls. If there are both, a gateway must have
/// the key of one of the nodes **and** a certificate of one of the authorities ([`Trust`]).
impl ClientBuilder {
    /// Trusts the gateway whose key has this node ID.
    pub fn trust_node(self, node: NodeId) -> Self {
        self.trust_nodes([node])
    }

    /// Trusts the gateways whose keys have these node IDs.
    pub fn trust_nodes(self, nodes: impl IntoIterator<Item = NodeId>) -> Self {
        let trust = Trust::pinned(nodes);
        self.trust_sound(trust)
    }

    /// Trusts gateways with certificates of the authorities in this PEM file, which is read now.
    pub fn trust_ca_file(self, file: impl AsRef<Path>) -> Self {
        let trust = Trust::load(&TrustFiles { ca: Some(file.as_ref()), ..TrustFiles::default() });
        self.trust_sound(trust)
    }

    /// Trusts gateways with certificates of the authorities in this PEM text.
    pub fn trust_ca_pem(self, authorities: impl AsRef<[u8]>) -> Self {
        let trust = Trust::from_pem(Path::new("(CA certificates in memory)"), authorities.as_ref(), []);
        self.trust_sound(trust)
    }

    /// Adds a [`Trust`] that the program has made itself.
    pub fn trust(mut self, trust: Trust) -> Self {
        self.tls.trust = Some(match self.tls.trust.take() {
            Some(before) => before.and(trust),
            None => trust,
        });
        self
    }

    /// The DNS name or IP address that a gateway's certificate must carry as well. Without this setting no name is checked: the name that
    /// the program connects to proves nothing.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.tls.server_name = Some(name.into());
        self
    }

    /// The cipher suites and key exchanges that handshakes may use. The default allows Falcon and X25519MLKEM768 alone.
    pub fn tls_policy(mut self, policy: TlsPolicy) -> Self {
        self.tls.policy = policy;
        self
    }

    /// Lets [`ConnectOptions::early`](super::ConnectOptions::early) send requests in the first flight of a resumed session, which
    /// an observer may replay. The default is off.
    pub fn early_data(mut self, allowed: bool) -> Self {
        self.tls.early_data = allowed;
        self
    }

    /// Gives `key_log` the TLS secrets of every connection, with which a capture of its packets can be read. The default is none.
    pub fn key_log(mut self, key_log: Arc<dyn KeyLog>) -> Self {
        self.tls.key_log = Some(key_log);
        self
    }

    fn trust_sound(mut self, trust: Result<Trust, TlsError>) -> Self {
        match self.sound(trust) {
            Some(trust) => self.trust(trust),
            None => self,
        }
    }

    /// Keeps the first fault for [`ClientBuilder::start`].
    fn sound<T>(&mut self, result: Result<T, TlsError>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(fault) => {
                self.fault.get_or_insert(fault);
                None
            }
        }
    }
}

/// The network and the threads.
impl ClientBuilder {
    /// Local addresses of the kernel's sockets; port 0 is any free port. The default is any free port of both families. An unspecified
    /// address (`0.0.0.0`, `[::]`) of a family that this host lacks is left out if another address remains.
    pub fn listen(mut self, addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.listen = addresses.into_iter().collect();
        self
    }

    /// Bytes asked for the send buffer and for the receive buffer of each socket of the kernel; the default is 16 MiB. The kernel bounds
    /// them by `net.core.wmem_max` and `net.core.rmem_max`.
    pub fn socket_buffer_bytes(mut self, bytes: usize) -> Self {
        self.socket_buffer_bytes = bytes;
        self
    }

    /// Workers of [`ClientBuilder::start`]: threads, each with sockets of its own, at most [`WORKERS_MAX`]. Connections take the workers
    /// in turn. The default is one, which carries any number of connections.
    pub fn workers(mut self, count: usize) -> Self {
        self.workers = count;
        self
    }

    /// The core of each worker, in the order of the workers. Workers past the end of the list are pinned to no core; the default pins none.
    pub fn cores(mut self, cores: impl IntoIterator<Item = usize>) -> Self {
        self.node.cores = cores.into_iter().collect();
        self
    }

    /// Threads that check what arrives, where cores are to spare: a worker then has its core for packets. The default is none.
    pub fn verify_threads(mut self, threads: VerifyThreads) -> Self {
        self.node.verify = threads;
        self
    }

    /// The conduct of idle workers; the default is [`Idle::Adaptive`].
    pub fn idle(mut self, idle: Idle) -> Self {
        self.node.idle = idle;
        self
    }

    /// A function that each worker's thread runs before its loop. Threads register with DPDK by it.
    pub fn thread_setup(mut self, setup: ThreadSetup) -> Self {
        self.node.setup = Some(setup);
        self
    }

    /// The queue on which gateways take PUTs that name no queue; the default is [`PUT_QUEUE`].
    pub fn put_queue(mut self, queue: u64) -> Self {
        self.put_queue = queue;
        self
    }
}

/// QUIC.
impl ClientBuilder {
    /// Sets all of QUIC at once. The calls below set single values of it; the last call counts.
    pub fn quic(mut self, quic: QuicConfig) -> Self {
        self.quic = quic;
        self
    }

    /// The congestion controller; the default is [`Congestion::Model`].
    pub fn congestion_control(mut self, congestion: Congestion) -> Self {
        self.quic.congestion_control = congestion;
        self
    }

    /// The most that each connection sends, bits a second of Ethernet frames; no bound without it, or with 0. What
    /// [`Congestion::Reserved`] sends at.
    pub fn rate_bits_per_s(mut self, rate: u64) -> Self {
        self.quic.rate_bits_per_s = rate;
        self
    }

    /// A connection that receives nothing for this time is lost; the default is 30 s. The shorter time of both peers counts. Zero sets no
    /// bound from this side.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.quic.idle_timeout_ms = whole_ms(timeout);
        self
    }

    /// How long a gateway may be silent; the default is 60 s, and zero sets no bound. A connection is closed ([`CloseReason::NoSettings`](super::CloseReason::NoSettings))
    /// if the gateway's SETTINGS take longer after the handshake. A request ends ([`ClientError::Silent`]) if it waits for the gateway, and
    /// no byte of any request on its connection moves for this time, or none of its own for an hour. A request does not wait for the
    /// gateway while the program takes no bytes of its answer, or has given no bytes to be put.
    ///
    /// A dead gateway is found by [`ClientBuilder::idle_timeout`]. Messages have no answers: [`Peer::message`](super::Peer::message)
    /// waits without a bound.
    pub fn silence_timeout(mut self, timeout: Duration) -> Self {
        self.silence = timeout;
        self
    }

    /// Sends a PING on a connection that is quiet for this time; the default is 5 s. Zero sends none.
    pub fn keep_alive(mut self, interval: Duration) -> Self {
        self.quic.keep_alive_ms = whole_ms(interval);
        self
    }

    /// The UDP payload, in bytes, that is assumed to pass until the path's MTU is found. The default is 1,200, which passes everywhere.
    /// Zero tries what the local device carries first, and assumes it where discovery is off.
    pub fn initial_udp_payload(mut self, bytes: u16) -> Self {
        self.quic.initial_udp_payload_bytes = bytes;
        self
    }

    /// Whether larger packets are tried, up to the size that the local device carries (RFC 8899); the default is on.
    pub fn mtu_discovery(mut self, on: bool) -> Self {
        self.quic.mtu_discovery = on;
        self
    }
}

/// Milliseconds, rounded up: a time above zero does not become zero, which means "off".
fn whole_ms(time: Duration) -> u32 {
    time.as_nanos().div_ceil(1_000_000).try_into().unwrap_or(u32::MAX)
}

/// The start.
impl ClientBuilder {
    /// Opens the kernel's UDP sockets and starts the workers. Reads no file and waits for no peer.
    ///
    /// # Errors
    /// [`ClientError::Tls`] for the first wrong setting of identity or trust, or if no gateway is trusted; [`ClientError::Bind`]
    /// for an address that cannot be bound; [`ClientError::Quic`] for settings of QUIC that do not go together;
    /// [`ClientError::Start`] if `workers` is out of range, or the system gives no thread.
    pub fn start(self) -> Result<Client, ClientError> {
        let config = KernelUdpConfig {
            reuse_port: self.workers > 1,
            buffer_bytes: self.socket_buffer_bytes,
            ..KernelUdpConfig::default()
        };
        let listen = self.listen.clone();
        let workers = self.workers;
        // A wrong setting is reported before a socket is opened.
        self.start_with(move || {
            if !(1..=WORKERS_MAX).contains(&workers) {
                let text = format!(
                    "a client has 1 to {WORKERS_MAX} workers; give a number in that range, not {workers}"
                );
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text).into());
            }
            let bind = |_| KernelUdp::bind(&listen, config).map_err(not_bound);
            (0..workers).map(bind).collect()
        })
    }

    /// Starts a worker on each of `networks`, which the caller has opened: the queues of a DPDK port, for example. Their number is the
    /// number of workers; [`ClientBuilder::listen`], [`ClientBuilder::socket_buffer_bytes`] and [`ClientBuilder::workers`] have no effect.
    ///
    /// # Errors
    /// As for [`ClientBuilder::start`], except [`ClientError::Bind`].
    pub fn start_on<N: Network + Send + 'static>(self, networks: Vec<N>) -> Result<Client, ClientError> {
        self.start_with(|| Ok(networks))
    }

    fn start_with<N: Network + Send + 'static>(
        self,
        networks: impl FnOnce() -> Result<Vec<N>, ClientError>,
    ) -> Result<Client, ClientError> {
        let put_queue = self.put_queue;
        let config = self.node_config()?;
        Client::on(networks()?, &config, put_queue)
    }

    /// The settings as those of a node, for a program that runs applications of its own beside its connections
    /// ([`Node::start`](crate::node::Node::start)).
    ///
    /// # Errors
    /// [`ClientError::Tls`] and [`ClientError::Quic`] as [`ClientBuilder::start`].
    pub fn node_config(self) -> Result<NodeConfig, ClientError> {
        let Self { tls, fault, node, quic, silence, .. } = self;
        if let Some(fault) = fault {
            return Err(fault.into());
        }
        let trust = tls.trust.ok_or(TlsError::NothingTrusted)?;
        quic.check()?;
        let silence = Some(silence).filter(|silence| !silence.is_zero());
        let restart_secret = tls.identity.as_ref().and_then(Identity::restart_secret).cloned();
        let client = ClientTls {
            server_name: tls.server_name,
            policy: tls.policy,
            early_data: tls.early_data,
            identity: tls.identity,
            key_log: tls.key_log,
            ..ClientTls::new(trust)
        };
        Ok(NodeConfig {
            client: Some(client_config(&client)?),
            restart_secret,
            quic,
            silence: SilenceLimits { settings: silence, requests: silence },
            idle: node.idle,
            cores: node.cores,
            verify: node.verify,
            thread_setup: node.setup,
            ..NodeConfig::default()
        })
    }
}

fn not_bound(error: io::Error) -> ClientError {
    error.downcast::<BindError>().map_or_else(ClientError::Start, ClientError::Bind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_time_becomes_zero() {
        let rows = [(0, 0), (1, 1), (1_000_000, 1), (1_000_001, 2), (u64::MAX, u32::MAX)];
        for (ns, ms) in rows {
            assert_eq!(whole_ms(Duration::from_nanos(ns)), ms, "{ns} ns");
        }
    }

    #[test]
    fn the_first_fault_is_told_before_anything_is_opened() {
        let missing = || Client::builder().identity_files("/none/first.pem", "/none/first.key");
        let nothing = || -> Result<Vec<KernelUdp>, ClientError> { panic!("opened") };
        let faults = [
            (missing().trust_ca_file("/none/second.pem"), "/none/first.pem"),
            (Client::builder().trust_ca_file("/none/second.pem"), "/none/second.pem"),
            (Client::builder().trust_ca_pem("no PEM"), "(CA certificates in memory)"),
            (Client::builder().identity_pem("no PEM", "no PEM"), "(certificate in memory)"),
            (Client::builder().trust_node(NodeId([1; 32])).server_name("no name"), "\"no name\""),
            (Client::builder(), "no peer is trusted"),
        ];
        for (builder, says) in faults {
            let error = builder.start_with(nothing).unwrap_err();
            assert!(matches!(error, ClientError::Tls(_)) && error.to_string().contains(says), "{error}");
        }
    }

    #[test]
    fn trust_adds_up() {
        let nodes = [NodeId([1; 32]), NodeId([2; 32]), NodeId([3; 32])];
        let builder = Client::builder().trust_node(nodes[0]).trust_nodes(nodes[1..].iter().copied());
        assert_eq!(builder.tls.trust.unwrap().pins().collect::<Vec<_>>(), nodes);
    }

    #[test]
    fn settings_reach_the_node() {
        let config = Client::builder()
            .trust_node(NodeId([1; 32]))
            .congestion_control(Congestion::Reserved)
            .rate_bits_per_s(5_000_000)
            .idle_timeout(Duration::from_secs(3))
            .keep_alive(Duration::from_micros(1_500))
            .initial_udp_payload(1_400)
            .mtu_discovery(false)
            .cores([5, 6])
            .verify_threads(VerifyThreads { count: 2, cores: vec![7] })
            .idle(Idle::Spin)
            .node_config()
            .unwrap();
        let quic = QuicConfig {
            congestion_control: Congestion::Reserved,
            rate_bits_per_s: 5_000_000,
            idle_timeout_ms: 3_000,
            keep_alive_ms: 2,
            initial_udp_payload_bytes: 1_400,
            mtu_discovery: false,
            ..QuicConfig::default()
        };
        assert_eq!((config.quic, config.cores), (quic, vec![5, 6]));
        assert_eq!((config.verify.count, config.verify.cores), (2, vec![7]));
        assert!(matches!(config.idle, Idle::Spin) && config.client.is_some() && config.server.is_none());
    }

    #[test]
    fn a_reserved_rate_that_is_not_given_is_asked_for() {
        let builder = Client::builder().trust_node(NodeId([1; 32])).congestion_control(Congestion::Reserved);
        let error = builder.node_config().err().unwrap();
        assert!(
            matches!(error, ClientError::Quic(_)) && error.to_string().contains("rate_bits_per_s"),
            "{error}"
        );
    }

    #[test]
    fn an_address_that_cannot_be_bound_is_told_with_its_fix() {
        let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let at = taken.local_addr().unwrap();
        let builder = || Client::builder().trust_node(NodeId([1; 32])).listen([at]);
        let error = builder().start().unwrap_err();
        assert!(matches!(&error, ClientError::Bind(error) if error.address == at), "{error}");
        for workers in [0, WORKERS_MAX + 1] {
            let error = builder().workers(workers).start().unwrap_err();
            assert!(
                matches!(&error, ClientError::Start(_)) && error.to_string().contains("1 to 1024"),
                "{error}"
            );
        }
    }
}
