//! Announces addresses while the gateway is ready, for a routing daemon beside it.
//!
//! The gateway owns a TUN interface that has the addresses exactly while the gateway is ready and does not stop. BIRD or FRR announces what is on the interface
//! (docs/fleet.md). The interface is not persistent: the kernel removes it with the process, so a killed gateway is withdrawn without a script's help.
//! With the exception path, the interface also carries what a DPDK port receives for this host and STOQ does not use: the routing daemon speaks through
//! the port itself, and its BFD is silent as soon as the worker is.

mod exceptions;
mod netlink;

use crate::config::AnycastConfig;
use crate::faults::started;
use crate::periodic::Periodic;
use exceptions::ExceptionThread;
use netlink::{AddressChange, InterfaceAddresses, is_interface};
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use stoq::datagram::NetworkInfo;
use stoq::datagram::exception_path::ExceptionPath;
use stoq::limits::READY_INTERVAL_MS;
use stoq::network::NetworkConfig;
use stoq::wire::prefix::Prefix;
use tun_rs::{DeviceBuilder, SyncDevice};

/// The interface cannot be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum AnycastError {
    /// The process may not make interfaces.
    #[error(
        "anycast.interface: {0} cannot be made ({1}); the gateway needs CAP_NET_ADMIN and may open /dev/net/tun (docs/fleet.md)"
    )]
    Denied(String, io::Error),
    /// The kernel has no TUN.
    #[error("anycast.interface: {0} cannot be made ({1}); run `modprobe tun` as root")]
    NoTun(String, io::Error),
    /// The interface is there already: another process has it, or it is persistent, and its addresses would outlive this process.
    #[error("anycast.interface: {0} is there already; give another name, or remove it: `ip link delete {0}`")]
    Exists(String),
    /// Another fault.
    #[error("anycast.interface: {0} cannot be made ({1})")]
    Other(String, io::Error),
}

impl AnycastError {
    fn new(name: &str, error: io::Error) -> Self {
        let make = match error.kind() {
            ErrorKind::PermissionDenied => Self::Denied,
            ErrorKind::NotFound => Self::NoTun,
            _ => Self::Other,
        };
        make(name.to_owned(), error)
    }
}

/// The interface, and whether its addresses are on it.
struct TunInterface {
    // The interface exists as long as this is open.
    device: Arc<SyncDevice>,
    name: String,
    addresses: InterfaceAddresses,
    ended: bool,
}

/// What metrics show of it.
#[derive(Debug, Default)]
pub struct AnycastView {
    /// Whether the addresses are on the interface.
    pub announced: AtomicBool,
    /// The exception path, if the interface carries one.
    pub exceptions: Option<Arc<ExceptionPath>>,
}

/// A running announcement. Dropping it removes the interface.
pub struct Anycast {
    interface: Arc<Mutex<TunInterface>>,
    view: Arc<AnycastView>,
    addresses: Vec<IpAddr>,
    settle: Duration,
    thread: Option<Periodic>,
    exceptions: Option<ExceptionThread>,
}

impl Anycast {
    /// Makes the interface, without addresses. [`Anycast::carry`] puts the port's own on it, and [`Anycast::follow`] announces.
    ///
    /// # Errors
    /// The interface cannot be made: no right, no TUN in the kernel, or its name is taken.
    pub fn open(config: &AnycastConfig) -> Result<Self, AnycastError> {
        if is_interface(&config.interface) {
            return Err(AnycastError::Exists(config.interface.clone()));
        }
        let failed = |error| AnycastError::new(&config.interface, error);
        let device =
            DeviceBuilder::new().name(&config.interface).enable(false).build_sync().map_err(failed)?;
        let hosts = config.addresses.iter().filter_map(|&address| host(address)).collect();
        let mut addresses = InterfaceAddresses::new(&config.interface, hosts).map_err(failed)?;
        // Whatever is on the interface may be announced, and the port has no address of the kernel's making.
        addresses.generate_none().map_err(failed)?;
        device.enabled(true).map_err(failed)?;
        let exceptions =
            config.exception_path.then(|| ExceptionPath::new().map(Arc::new)).transpose().map_err(failed)?;
        let (device, name) = (Arc::new(device), config.interface.clone());
        Ok(Self {
            interface: Arc::new(Mutex::new(TunInterface { device, name, addresses, ended: false })),
            view: Arc::new(AnycastView { announced: AtomicBool::new(false), exceptions }),
            addresses: config.addresses.clone(),
            settle: Duration::from_millis(config.settle_ms),
            thread: None,
            exceptions: None,
        })
    }

    /// What metrics show of it.
    pub fn view(&self) -> Arc<AnycastView> {
        self.view.clone()
    }

    /// With an exception path: puts the port's own addresses on the interface, and moves packets from now on.
    ///
    /// # Errors
    /// The kernel refuses an address or the MTU, or the thread cannot be started.
    pub fn carry(&mut self, config: &NetworkConfig, network: &NetworkInfo) -> anyhow::Result<()> {
        let (NetworkConfig::Dpdk(ports), Some(path)) = (config, &self.view.exceptions) else { return Ok(()) };
        let interface = self.interface.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = |error| AnycastError::new(&interface.name, error);
        let own = ports.ports().flat_map(|port| port.addresses.iter().copied());
        let own = own.filter(|prefix| !self.addresses.contains(&prefix.address()));
        // Of several ports, the first one's: what leaves for the whole link leaves by that.
        let local = network.local.iter().map(|local| local.ip()).find(is_link_local);
        let own = own.chain(local.and_then(|local| Prefix::new(local, LINK_LOCAL_PREFIX_LEN).ok())).collect();
        interface.device.set_mtu(network.mtu).map_err(failed)?;
        let mut own = InterfaceAddresses::new(&interface.name, own).map_err(failed)?;
        own.change(AddressChange::Add).map_err(failed)?;
        tracing::info!(
            interface = interface.name,
            addresses = %own,
            mtu = network.mtu,
            "the kernel is given what the port receives for this host and STOQ does not use"
        );
        let thread = ExceptionThread::start(interface.device.clone(), path.clone());
        drop(interface);
        self.exceptions = Some(started("has the kernel's packets", thread)?);
        Ok(())
    }

    /// [`Anycast::follow`], if there is something to announce and something to follow.
    ///
    /// # Errors
    /// Those of [`Anycast::follow`].
    pub fn follow_from(
        anycast: Option<&mut Self>,
        not_ready: Option<impl Fn() -> Vec<String> + Send + 'static>,
    ) -> anyhow::Result<()> {
        anycast.zip(not_ready).map_or(Ok(()), |(anycast, not_ready)| anycast.follow(not_ready))
    }

    /// [`Anycast::carry`], if there is something to announce.
    ///
    /// # Errors
    /// Those of [`Anycast::carry`].
    pub fn carry_on(
        anycast: Option<&mut Self>,
        config: &NetworkConfig,
        network: Option<&NetworkInfo>,
    ) -> anyhow::Result<()> {
        anycast.zip(network).map_or(Ok(()), |(anycast, network)| anycast.carry(config, network))
    }

    /// Puts the addresses on the interface while `not_ready` gives no reason, and takes them off while it gives one.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn follow(&mut self, not_ready: impl Fn() -> Vec<String> + Send + 'static) -> anyhow::Result<()> {
        let (interface, view) = (self.interface.clone(), self.view.clone());
        let mut failed = false;
        let mut look = move || {
            let reasons = not_ready();
            let mut interface = interface.lock().unwrap_or_else(PoisonError::into_inner);
            if interface.ended || view.announced.load(Relaxed) == reasons.is_empty() {
                return;
            }
            let result = interface.set(&view.announced, &reasons);
            if let Err(error) = &result
                && !failed
            {
                tracing::error!(interface = interface.name, %error, "the interface's addresses cannot be changed; trying again");
            }
            failed = result.is_err();
        };
        look();
        let thread = Periodic::start("stoq-anycast", Duration::from_millis(READY_INTERVAL_MS), look);
        self.thread = Some(started("announces addresses", thread)?);
        Ok(())
    }

    /// Takes the addresses off for good, and gives routers the time to send packets elsewhere; the gateway serves on until this returns.
    pub fn withdraw(&self) {
        let mut interface = self.interface.lock().unwrap_or_else(PoisonError::into_inner);
        interface.ended = true;
        if !self.view.announced.load(Relaxed) {
            return;
        }
        let result = interface.set(&self.view.announced, &["stopping".to_owned()]);
        drop(interface);
        match result {
            Ok(()) => std::thread::sleep(self.settle),
            Err(error) => tracing::error!(%error, "the interface's addresses cannot be taken off"),
        }
    }
}

/// The prefix length of link-local addresses (RFC 4291 §2.5.6).
const LINK_LOCAL_PREFIX_LEN: u8 = 64;

fn is_link_local(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// An address alone, without its network.
fn host(address: IpAddr) -> Option<Prefix> {
    Prefix::new(address, if address.is_ipv4() { 32 } else { 128 }).ok()
}

impl TunInterface {
    /// Announces without a reason against it, and withdraws with one.
    fn set(&mut self, is_announced: &AtomicBool, reasons: &[String]) -> io::Result<()> {
        let announces = reasons.is_empty();
        self.addresses.change(if announces { AddressChange::Add } else { AddressChange::Remove })?;
        is_announced.store(announces, Relaxed);
        if announces {
            tracing::info!(interface = self.name, addresses = %self.addresses, "announcing");
        } else {
            tracing::warn!(
                interface = self.name,
                reasons = reasons.join("; "),
                "withdrawn: the addresses are off the interface"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_interface_is_named_with_the_fix() {
        for (kind, part) in [
            (ErrorKind::PermissionDenied, "needs CAP_NET_ADMIN and may open /dev/net/tun"),
            (ErrorKind::NotFound, "run `modprobe tun` as root"),
            (ErrorKind::Other, "stoq0 cannot be made"),
        ] {
            let error = AnycastError::new("stoq0", kind.into()).to_string();
            assert!(error.starts_with("anycast.interface: stoq0") && error.contains(part), "{error}");
        }
    }

    #[test]
    fn an_interface_that_is_there_is_refused_since_it_may_outlive_the_gateway() {
        let (interface, addresses) = ("lo".to_owned(), vec!["203.0.113.1".parse().unwrap()]);
        let config = AnycastConfig { interface, addresses, settle_ms: 0, exception_path: false };
        let error = Anycast::open(&config).err().unwrap().to_string();
        assert!(error.contains("is there already; give another name"), "{error}");
    }
}
