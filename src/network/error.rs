//! Why a network cannot be opened.

use super::holder;
use super::machine::{CoresError, MemoryError};
use crate::datagram::kernel::BindError;
#[cfg(feature = "dpdk")]
use crate::datagram::user_space::InterfaceError;
use std::io;

/// Why a network cannot be opened, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// More workers than the machine's cores can run.
    #[error(transparent)]
    Cores(#[from] CoresError),
    /// More memory than the machine has.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Another program has the address.
    #[error("{error}: {holders}")]
    InUse {
        /// The address, and what would mend it.
        error: BindError,
        /// The programs that this user may see.
        holders: String,
    },
    /// What else the kernel says of a socket.
    #[error(transparent)]
    Kernel(io::Error),
    /// A DPDK port is configured, and this build has no DPDK.
    #[error("this build has no DPDK: build with the feature `dpdk`, or use `kind = \"kernel-udp\"`")]
    NoDpdk,
    /// What DPDK refuses.
    #[cfg(feature = "dpdk")]
    #[error(transparent)]
    Dpdk(#[from] dpdk::DpdkError),
    /// The port's addresses and its device do not go together.
    #[cfg(feature = "dpdk")]
    #[error("network: {0}")]
    Addresses(InterfaceError),
    /// The kernel has no interface of this name for the port.
    #[error(
        "network.device: no interface {name} in this network namespace; `ip link` lists those there are: {error}"
    )]
    NoInterface {
        /// The name.
        name: String,
        /// What the kernel says.
        error: io::Error,
    },
    /// The kernel drops without telling what is larger than its interface takes.
    #[error(
        "interface {name} has an MTU of {mtu}, below network.mtu = {wanted}: \
         `ip link set {name} mtu {wanted}`, or set network.mtu = {mtu}"
    )]
    InterfaceMtu {
        /// The interface.
        name: String,
        /// Its largest layer-3 packet, bytes.
        mtu: u32,
        /// The configured one, bytes.
        wanted: u16,
    },
}

impl OpenError {
    /// An error of the kernel's sockets, with the program that has the address, where this user may see it.
    pub(super) fn kernel(error: io::Error) -> Self {
        if error.kind() != io::ErrorKind::AddrInUse {
            return Self::Kernel(error);
        }
        let bind = error.get_ref().and_then(|inner| inner.downcast_ref::<BindError>());
        let holders = bind.map(|bind| holder::of_udp(bind.address)).unwrap_or_default();
        match bind {
            Some(bind) if !holders.is_empty() => {
                let holders: Vec<_> = holders.iter().map(ToString::to_string).collect();
                Self::InUse { error: bind.clone(), holders: holders.join(", ") }
            }
            _ => Self::Kernel(error),
        }
    }
}
