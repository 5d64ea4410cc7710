//! Why a network cannot be opened.

use super::machine::{CoresError, MemoryError};
use super::process;
use crate::datagram::kernel::BindError;
#[cfg(feature = "dpdk")]
use crate::datagram::user_space::InterfaceError;
use std::io;

/// A DPDK port that carries nothing any more, by its device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LostPort {
    /// Its device was reset, as a virtual function is together with its physical function.
    #[error(
        "port {0} was reset from outside and carries nothing until it is opened again: start the gateway again"
    )]
    Reset(String),
    /// Its device is gone.
    #[error("port {0} was removed from this machine: put its device back, then start the gateway again")]
    Removed(String),
}

/// Why a network cannot be opened; the text names the fix.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// More workers than the machine's cores can run.
    #[error(transparent)]
    Cores(#[from] CoresError),
    /// More memory than the machine has.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Another program uses the address.
    #[error("{error}: {holders}")]
    InUse {
        /// The address and the fix.
        error: BindError,
        /// The programs that this user may see.
        holders: String,
    },
    /// Another error of the kernel's sockets.
    #[error(transparent)]
    Kernel(io::Error),
    /// A DPDK port is configured, and this build has no DPDK.
    #[error("this build has no DPDK: build with the feature `dpdk`, or use `kind = \"kernel-udp\"`")]
    NoDpdk,
    /// DPDK's error.
    #[cfg(feature = "dpdk")]
    #[error(transparent)]
    Dpdk(#[from] dpdk::DpdkError),
    /// The port's addresses and its device contradict each other.
    #[cfg(feature = "dpdk")]
    #[error("network: {0}")]
    Addresses(InterfaceError),
    /// The kernel has no interface of this name for the port.
    #[error(
        "network.device: no interface {name} in this network namespace; `ip link` lists the interfaces: {error}"
    )]
    NoInterface {
        /// The name.
        name: String,
        /// The kernel's error.
        error: io::Error,
    },
    /// The MTU of the interface is too small: the kernel silently drops larger packets.
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
    /// An error of the kernel's sockets, with the program that uses the address, if this user may see it.
    pub(super) fn kernel(error: io::Error) -> Self {
        if error.kind() != io::ErrorKind::AddrInUse {
            return Self::Kernel(error);
        }
        let bind = error.get_ref().and_then(|inner| inner.downcast_ref::<BindError>());
        let holders = bind.map(|bind| process::of_udp(bind.address)).unwrap_or_default();
        match bind {
            Some(bind) if !holders.is_empty() => {
                let holders: Vec<_> = holders.iter().map(ToString::to_string).collect();
                Self::InUse { error: bind.clone(), holders: holders.join(", ") }
            }
            _ => Self::Kernel(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_port_is_named_with_the_fix() {
        let told = |lost: LostPort| lost.to_string();
        let reset = told(LostPort::Reset("0000:01:10.0".into()));
        assert!(
            reset.starts_with("port 0000:01:10.0 was reset from outside and carries nothing until"),
            "{reset}"
        );
        let removed = told(LostPort::Removed("0000:01:00.0".into()));
        assert!(removed.starts_with("port 0000:01:00.0 was removed from this machine: put"), "{removed}");
        assert!([reset, removed].iter().all(|text| text.ends_with("start the gateway again")));
    }
}
