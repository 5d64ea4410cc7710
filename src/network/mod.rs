//! Opens the network of a configuration, of either kind, and starts a node or a client on it.

mod config;
mod error;
pub mod machine;
#[cfg(feature = "dpdk")]
mod port;
pub mod process;

pub use config::{DpdkConfig, HugePagesConfig, KernelConfig, NetworkConfig};
pub use error::{LostPort, OpenError};

use crate::client::{Client, ClientBuilder, ClientError};
use crate::datagram::Network;
use crate::datagram::kernel::{KernelUdp, KernelUdpConfig};
use crate::nic::Offloads;
use crate::nic::interface::Interface;
use crate::nic::tap::Tap;
#[cfg(feature = "dpdk")]
use crate::nic::{Nic, spread, tap::Tapped};
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

enum Queues {
    #[cfg(feature = "dpdk")]
    Dpdk(Vec<port::DpdkNetwork>),
    /// With a tap on each queue. This is a type of its own: networks without a tap pay nothing for one.
    #[cfg(feature = "dpdk")]
    Tapped(Vec<port::TappedNetwork>),
    /// Of workers that share the device.
    #[cfg(feature = "dpdk")]
    Spread(Vec<port::SpreadNetwork>),
    Kernel(Vec<KernelUdp>),
}

/// The parts that must outlive the queues.
enum Device {
    #[cfg(feature = "dpdk")]
    Dpdk(port::OpenPort),
    Kernel,
}

impl Device {
    fn offloads(&self) -> Option<Offloads> {
        match self {
            #[cfg(feature = "dpdk")]
            Self::Dpdk(port) => Some(port.offloads()),
            Self::Kernel => None,
        }
    }
}

/// A node or a client on a network; the device is closed after it has ended.
pub struct Running<T> {
    inner: T,
    device: Arc<Device>,
}

/// A handle to read the device's state beside its workers. The device is closed after the last handle is dropped.
#[derive(Clone)]
pub struct DeviceView(Arc<Device>);

impl DeviceView {
    /// The device's own statistics, by name; empty if the kernel keeps them.
    pub fn stats(&self) -> Vec<(&'static str, u64)> {
        match &*self.0 {
            #[cfg(feature = "dpdk")]
            Device::Dpdk(port) => port.stats(),
            Device::Kernel => Vec::new(),
        }
    }

    /// The kernel's interface under a DPDK port, if there is one.
    pub fn interface(&self) -> Option<&Interface> {
        match &*self.0 {
            #[cfg(feature = "dpdk")]
            Device::Dpdk(port) => port.interface().map(|interface| &**interface),
            Device::Kernel => None,
        }
    }

    /// What happened to a DPDK port from outside, if it carries nothing until it is opened again.
    pub fn lost(&self) -> Option<LostPort> {
        match &*self.0 {
            #[cfg(feature = "dpdk")]
            Device::Dpdk(port) => port.lost(),
            Device::Kernel => None,
        }
    }

    /// The device's granted offloads; `None` if the kernel has the device.
    pub fn offloads(&self) -> Option<Offloads> {
        self.0.offloads()
    }

    /// Whether the device's packet buffers lie in huge pages; `None` if the kernel has the device.
    pub fn huge_pages(&self) -> Option<bool> {
        match &*self.0 {
            #[cfg(feature = "dpdk")]
            Device::Dpdk(port) => Some(port.huge_pages()),
            Device::Kernel => None,
        }
    }
}

impl<T> Deref for Running<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> Running<T> {
    /// The device's own statistics, by name; empty if the kernel keeps them.
    pub fn device_stats(&self) -> Vec<(&'static str, u64)> {
        self.device().stats()
    }

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
                Ok(Self { queues: Queues::Kernel(queues), device: Device::Kernel })
            }
            #[cfg(feature = "dpdk")]
            NetworkConfig::Dpdk(dpdk) => Self::open_dpdk(dpdk, workers, None),
            #[cfg(not(feature = "dpdk"))]
            NetworkConfig::Dpdk(_) => Err(OpenError::NoDpdk),
        }
    }

    #[cfg(feature = "dpdk")]
    fn open_dpdk(config: &DpdkConfig, workers: usize, tap: Option<&Arc<Tap>>) -> Result<Self, OpenError> {
        let port::OpenedPort { port, queues, spread } = port::open(config, workers)?;
        let queues = match (spread, tap) {
            (None, None) => Queues::Dpdk(port::networks(config, queues.into_iter())?),
            (None, Some(tap)) => Queues::Tapped(port::networks(config, tapped(queues, tap))?),
            (Some(rss), tap) => {
                let shares = spread::spread(queues, workers, rss);
                let tap = tap.cloned().unwrap_or_default();
                Queues::Spread(port::networks(config, tapped(shares, &tap))?)
            }
        };
        Ok(Self { queues, device: Device::Dpdk(port) })
    }

    /// Opens a gateway's network with a tap on every queue of a DPDK port. Kernel sockets have none.
    ///
    /// # Errors
    /// Those of [`OpenNetwork::open`].
    #[cfg_attr(not(feature = "dpdk"), expect(unused_variables, reason = "kernel sockets have no tap"))]
    pub fn open_tapped(config: &NetworkConfig, workers: usize, tap: &Arc<Tap>) -> Result<Self, OpenError> {
        ensure_machine(config, workers)?;
        match config {
            #[cfg(feature = "dpdk")]
            NetworkConfig::Dpdk(dpdk) => Self::open_dpdk(dpdk, workers, Some(tap)),
            _ => Self::open(config, workers),
        }
    }

    /// Whether the network is the kernel's.
    pub fn is_kernel(&self) -> bool {
        matches!(self.queues, Queues::Kernel(_))
    }

    /// The granted offloads of a DPDK port; `None` if the kernel has the device.
    pub fn offloads(&self) -> Option<Offloads> {
        self.device.offloads()
    }

    /// The function that each worker's thread on this network must run first.
    pub fn thread_setup(&self) -> Option<ThreadSetup> {
        match &self.device {
            #[cfg(feature = "dpdk")]
            Device::Dpdk(port) => Some(port.thread_setup()),
            Device::Kernel => None,
        }
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
            Queues::Kernel(queues) => Node::start(queues, config, hosted)?,
        };
        Ok(Running { inner, device: Arc::new(self.device) })
    }

    /// Gives the first queue to `driver`, on this thread, and closes the network when the driver has ended. `None` if there is no
    /// queue.
    pub fn drive<D: Drive>(self, driver: D) -> Option<D::Output> {
        let Self { queues, device } = self;
        let _guard: Option<Box<dyn Any>> = match &device {
            #[cfg(feature = "dpdk")]
            Device::Dpdk(port) => Some((port.thread_setup())()),
            Device::Kernel => None,
        };
        match queues {
            #[cfg(feature = "dpdk")]
            Queues::Dpdk(queues) => queues.into_iter().next().map(|queue| driver.drive(queue)),
            #[cfg(feature = "dpdk")]
            Queues::Tapped(queues) => queues.into_iter().next().map(|queue| driver.drive(queue)),
            #[cfg(feature = "dpdk")]
            Queues::Spread(queues) => queues.into_iter().next().map(|queue| driver.drive(queue)),
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
fn tapped<N: Nic>(nics: Vec<N>, tap: &Arc<Tap>) -> impl ExactSizeIterator<Item = Tapped<N>> {
    let now = Instant::now();
    nics.into_iter().enumerate().map(move |(index, nic)| Tapped::new(nic, tap.clone(), index as u16, now))
}

/// Logs once that a family is missing. A client reports it only when it dials such an address.
fn tell_missing(opened: &KernelUdp, worker: usize, is_client: bool) {
    for missing in opened.missing().iter().filter(|_| worker == 0 && !is_client) {
        let family = if missing.is_ipv4() { "IPv4" } else { "IPv6" };
        tracing::warn!(address = %missing, family, "this host does not have the family of this address: serving without it");
    }
}
