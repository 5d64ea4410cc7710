//! Opens the network of a configuration, of either kind, and starts a node or a client on it.

mod config;
mod error;
pub mod machine;
#[cfg(not(feature = "dpdk"))]
mod no_port;
#[cfg(feature = "dpdk")]
mod port;
pub mod process;

pub use config::{DpdkConfig, HugePagesConfig, KernelConfig, NetworkConfig};
pub use error::{LostPort, OpenError};
#[cfg(not(feature = "dpdk"))]
pub use no_port::NoPort as OpenPort;
#[cfg(feature = "dpdk")]
pub use port::OpenPort;

use crate::client::{Client, ClientBuilder, ClientError};
use crate::datagram::Network;
use crate::datagram::exception_path::ExceptionPath;
use crate::datagram::kernel::{KernelUdp, KernelUdpConfig};
#[cfg(feature = "dpdk")]
use crate::datagram::port_set::PortSet;
#[cfg(feature = "dpdk")]
use crate::datagram::user_space::KernelPackets;
use crate::nic::tap::Tap;
#[cfg(feature = "dpdk")]
use crate::nic::{Nic, rss::RssKey, share::ShareNic, spread, tap::Tapped};
use crate::node::{Hosted, Node, NodeConfig, ThreadSetup};
use std::any::Any;
use std::io;
use std::ops::Deref;
use std::sync::Arc;
#[cfg(feature = "dpdk")]
use std::time::Instant;

/// An open network, with one queue for each worker.
pub struct OpenNetwork {
    queues: Queues,
    device: Device,
}

/// What a gateway has beside a DPDK port's queues. Kernel sockets have neither.
#[derive(Clone, Debug, Default)]
pub struct Besides {
    /// A tap on every queue.
    pub tap: Option<Arc<Tap>>,
    /// The way of packets that STOQ does not use, to and from the kernel.
    pub exceptions: Option<Arc<ExceptionPath>>,
}

enum Queues {
    #[cfg(feature = "dpdk")]
    Dpdk(Vec<port::DpdkNetwork>),
    /// With a tap on each queue. This is a type of its own: networks without a tap pay nothing for one.
    #[cfg(feature = "dpdk")]
    Tapped(Vec<port::TappedNetwork>),
    /// Of workers that share the device.
    #[cfg(feature = "dpdk")]
    Spread(Vec<port::SpreadNetwork>),
    /// Of workers at several ports.
    #[cfg(feature = "dpdk")]
    Several(Vec<port::SeveralNetwork>),
    Kernel(Vec<KernelUdp>),
}

/// The DPDK ports, which must outlive the queues; none if the kernel has the device.
type Device = Vec<OpenPort>;

/// A node or a client on a network; the device is closed after it has ended.
pub struct Running<T> {
    inner: T,
    device: Arc<Device>,
}

/// How a memif and its other side differ in their queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemifMismatch {
    /// The other side has fewer. The queues that it lacks receive nothing, and send by the first one.
    Fewer {
        /// Queues that both sides have.
        shared: u16,
        /// Queues of this side.
        own: u16,
    },
    /// The server ends each connection before the link is up, as one does that has fewer queues than this client.
    Refused {
        /// Queues of this side.
        own: u16,
    },
}

/// A handle to read the ports' state beside the workers, by the order of the configuration. The device is closed after the last handle is
/// dropped.
#[derive(Clone)]
pub struct DeviceView(Arc<Device>);

impl DeviceView {
    /// The DPDK ports; none if the kernel has the device.
    pub fn ports(&self) -> &[OpenPort] {
        &self.0
    }

    /// The first port that something happened to from outside, if it carries nothing until it is opened again.
    pub fn lost(&self) -> Option<LostPort> {
        self.0.iter().find_map(OpenPort::lost)
    }

    /// Whether packet buffers lie in huge pages; `None` if the kernel has the device.
    pub fn huge_pages(&self) -> Option<bool> {
        self.0.first().map(OpenPort::huge_pages)
    }
}

impl<T> Deref for Running<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> Running<T> {
    /// The device itself.
    pub fn device(&self) -> DeviceView {
        DeviceView(self.device.clone())
    }
}

/// Code that drives a network queue itself, without a worker, on either kind of network.
pub trait Drive {
    /// The result.
    type Output;

    /// Does its work.
    fn drive<N: Network>(self, network: N) -> Self::Output;
}

/// A client that runs on a network. Dropping it stops every clone of the client, then closes the device.
pub struct RunningClient {
    client: Client,
    _device: Device,
}

impl Deref for RunningClient {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Drop for RunningClient {
    fn drop(&mut self) {
        self.client.stop();
    }
}

impl OpenNetwork {
    /// Opens a gateway's network with one queue for each of `workers`.
    ///
    /// # Errors
    /// [`OpenError`], with the fix.
    pub fn open(config: &NetworkConfig, workers: usize) -> Result<Self, OpenError> {
        Self::open_as(config, workers, false)
    }

    /// Opens a client's network, which learns what the kernel and ICMP report about the gateways that it dials.
    ///
    /// # Errors
    /// Those of [`OpenNetwork::open`].
    pub fn open_client(config: &NetworkConfig, workers: usize) -> Result<Self, OpenError> {
        Self::open_as(config, workers, true)
    }

    fn open_as(config: &NetworkConfig, workers: usize, is_client: bool) -> Result<Self, OpenError> {
        ensure_machine(config, workers)?;
        match config {
            NetworkConfig::KernelUdp(kernel) => {
                let queues = (0..workers)
                    .map(|worker| {
                        let config = KernelUdpConfig {
                            reuse_port: workers > 1,
                            buffer_bytes: kernel.buffer_bytes,
                            hear_errors: is_client,
                        };
                        KernelUdp::bind(&kernel.listen, config)
                            .inspect(|opened| tell_missing(opened, worker, is_client))
                    })
                    .collect::<io::Result<_>>()
                    .map_err(OpenError::kernel)?;
                Ok(Self { queues: Queues::Kernel(queues), device: Vec::new() })
            }
            #[cfg(feature = "dpdk")]
            NetworkConfig::Dpdk(dpdk) => Self::open_dpdk(dpdk, workers, &Besides::default()),
            #[cfg(not(feature = "dpdk"))]
            NetworkConfig::Dpdk(_) => Err(OpenError::NoDpdk),
        }
    }

    #[cfg(feature = "dpdk")]
    fn open_dpdk(config: &DpdkConfig, workers: usize, besides: &Besides) -> Result<Self, OpenError> {
        let eal = port::start_dpdk(config)?;
        if !config.port.is_empty() {
            return Self::open_several(&eal, config, workers, besides);
        }
        let key = RssKey::random();
        let port::OpenedPort { port, queues, spread } = port::open(&eal, config, workers, &key)?;
        let exceptions = besides.exceptions.as_ref().map(|path| (path, KernelPackets::LeaveHere));
        let queues = match (spread, &besides.tap) {
            (None, None) => Queues::Dpdk(port::networks(config, queues.into_iter(), exceptions)?),
            (None, Some(tap)) => Queues::Tapped(port::networks(config, tapped(queues, tap, 0), exceptions)?),
            (Some(rss), tap) => {
                let shares = spread::spread(queues, workers, rss);
                let tap = tap.clone().unwrap_or_default();
                Queues::Spread(port::networks(config, tapped(shares, &tap, 0), exceptions)?)
            }
        };
        Ok(Self { queues, device: vec![port] })
    }

    #[cfg(feature = "dpdk")]
    fn open_several(
        eal: &Arc<dpdk::Eal>,
        config: &DpdkConfig,
        workers: usize,
        besides: &Besides,
    ) -> Result<Self, OpenError> {
        let tap = besides.tap.clone().unwrap_or_default();
        // By one key, a flow meets the same worker at each port.
        let key = RssKey::random();
        let (mut device, mut of_workers) = (Vec::new(), Vec::new());
        of_workers.resize_with(workers, Vec::new);
        for (at, config) in config.ports().enumerate() {
            let port::OpenedPort { port, queues, spread } = port::open(eal, config, workers, &key)?;
            device.push(port);
            let shares = ShareNic::all(queues, workers, spread);
            let exceptions = besides.exceptions.as_ref().map(|path| (path, KernelPackets::LeaveElsewhere));
            let networks = port::networks(config, tapped(shares, &tap, at), exceptions)?;
            of_workers.iter_mut().zip(networks).for_each(|(ports, network)| ports.push(network));
        }
        // The kernel's packets leave by the first worker.
        let mut sender = besides.exceptions.clone();
        let queues = of_workers.into_iter().map(|ports| {
            let set = PortSet::new(ports);
            match sender.take() {
                Some(path) => set.with_exceptions(path),
                None => set,
            }
        });
        let queues = queues.collect();
        Ok(Self { queues: Queues::Several(queues), device })
    }

    /// Opens a gateway's network, with more at a DPDK port than its queues.
    ///
    /// # Errors
    /// Those of [`OpenNetwork::open`].
    #[cfg_attr(
        not(feature = "dpdk"),
        expect(unused_variables, reason = "kernel sockets have nothing beside them")
    )]
    pub fn open_with(config: &NetworkConfig, workers: usize, besides: &Besides) -> Result<Self, OpenError> {
        ensure_machine(config, workers)?;
        match config {
            #[cfg(feature = "dpdk")]
            NetworkConfig::Dpdk(dpdk) => Self::open_dpdk(dpdk, workers, besides),
            _ => Self::open(config, workers),
        }
    }

    /// Whether the network is the kernel's.
    pub fn is_kernel(&self) -> bool {
        matches!(self.queues, Queues::Kernel(_))
    }

    /// The DPDK ports; none if the kernel has the device.
    pub fn ports(&self) -> &[OpenPort] {
        &self.device
    }

    /// The function that each worker's thread on this network must run first.
    pub fn thread_setup(&self) -> Option<ThreadSetup> {
        self.device.first().map(OpenPort::thread_setup)
    }

    /// Starts a node on the network.
    ///
    /// # Errors
    /// The system's error if a thread cannot be started.
    pub fn start_node(self, config: &NodeConfig, hosted: Vec<Hosted>) -> io::Result<Running<Node>> {
        let inner = match self.queues {
            #[cfg(feature = "dpdk")]
            Queues::Dpdk(queues) => Node::start(queues, config, hosted)?,
            #[cfg(feature = "dpdk")]
            Queues::Tapped(queues) => Node::start(queues, config, hosted)?,
            #[cfg(feature = "dpdk")]
            Queues::Spread(queues) => Node::start(queues, config, hosted)?,
            #[cfg(feature = "dpdk")]
            Queues::Several(queues) => Node::start(queues, config, hosted)?,
            Queues::Kernel(queues) => Node::start(queues, config, hosted)?,
        };
        Ok(Running { inner, device: Arc::new(self.device) })
    }

    /// Gives the first queue to `driver`, on this thread, and closes the network when the driver has ended. `None` if there is no
    /// queue.
    pub fn drive<D: Drive>(self, driver: D) -> Option<D::Output> {
        let Self { queues, device } = self;
        let _guard: Option<Box<dyn Any>> = device.first().map(|port| (port.thread_setup())());
        match queues {
            #[cfg(feature = "dpdk")]
            Queues::Dpdk(queues) => queues.into_iter().next().map(|queue| driver.drive(queue)),
            #[cfg(feature = "dpdk")]
            Queues::Tapped(queues) => queues.into_iter().next().map(|queue| driver.drive(queue)),
            #[cfg(feature = "dpdk")]
            Queues::Spread(queues) => queues.into_iter().next().map(|queue| driver.drive(queue)),
            #[cfg(feature = "dpdk")]
            Queues::Several(queues) => queues.into_iter().next().map(|queue| driver.drive(queue)),
            Queues::Kernel(queues) => queues.into_iter().next().map(|queue| driver.drive(queue)),
        }
    }

    /// Starts a client on the network, with one worker for each of its queues.
    ///
    /// # Errors
    /// Those of [`ClientBuilder::start_on`].
    pub fn start_client(self, settings: ClientBuilder) -> Result<RunningClient, ClientError> {
        let settings = match self.thread_setup() {
            Some(setup) => settings.thread_setup(setup),
            None => settings,
        };
        let client = match self.queues {
            #[cfg(feature = "dpdk")]
            Queues::Dpdk(queues) => settings.start_on(queues)?,
            #[cfg(feature = "dpdk")]
            Queues::Tapped(queues) => settings.start_on(queues)?,
            #[cfg(feature = "dpdk")]
            Queues::Spread(queues) => settings.start_on(queues)?,
            #[cfg(feature = "dpdk")]
            Queues::Several(queues) => settings.start_on(queues)?,
            Queues::Kernel(queues) => settings.start_on(queues)?,
        };
        Ok(RunningClient { client, _device: self.device })
    }
}

/// Compares a network and its workers with the machine: its cores, and the memory of DPDK.
fn ensure_machine(config: &NetworkConfig, workers: usize) -> Result<(), OpenError> {
    machine::ensure_cores(workers)?;
    machine::ensure_memory(config, 0)?;
    Ok(())
}

/// Puts a tap on each worker's share of a port.
#[cfg(feature = "dpdk")]
fn tapped<N: Nic>(nics: Vec<N>, tap: &Arc<Tap>, port: usize) -> impl ExactSizeIterator<Item = Tapped<N>> {
    let now = Instant::now();
    nics.into_iter().map(move |nic| Tapped::new(nic, tap.clone(), port as u16, now))
}

/// Logs once that a family is missing. A client reports it only when it dials such an address.
fn tell_missing(opened: &KernelUdp, worker: usize, is_client: bool) {
    for missing in opened.missing().iter().filter(|_| worker == 0 && !is_client) {
        let family = if missing.is_ipv4() { "IPv4" } else { "IPv6" };
        tracing::warn!(address = %missing, family, "this host does not have the family of this address: serving without it");
    }
}
