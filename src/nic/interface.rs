//! The kernel's interface under a DPDK port, if there is one. net_af_packet and net_af_xdp always report
//! their link as up; only the kernel knows its state. None of this is on the packet's way: a thread reads the
//! interface, and workers read one atomic.

use rustix::net::netdevice::{index_to_name, name_to_index};
use rustix::net::{AddressFamily, SocketType, socket};
use serde::Serialize;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// netdevice(7): the interface is switched on.
const IFF_UP: u32 = 1;

/// Whether an interface can carry its port's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum InterfaceState {
    /// It is up and has a carrier, or the kernel does not tell.
    Up,
    /// It is up, and its cable has no peer.
    NoCarrier,
    /// It is switched off.
    Down,
    /// It was deleted, or moved to another network namespace. A new one of its name does not take its place.
    Gone,
}

/// An interface when it was last read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InterfaceView {
    /// Its name now; the last one of an interface that is gone.
    pub name: String,
    /// Its state.
    pub state: InterfaceState,
    /// Its largest layer-3 packet, bytes; `None` if the kernel does not tell.
    pub mtu: Option<u32>,
}

impl InterfaceView {
    /// The fault and its fix; `None` while the interface is up.
    pub fn fault(&self) -> Option<String> {
        let name = &self.name;
        match self.state {
            InterfaceState::Up => None,
            InterfaceState::NoCarrier => {
                Some(format!("interface {name} has no carrier: look at its cable, or at its peer"))
            }
            InterfaceState::Down => Some(format!("interface {name} is down: `ip link set {name} up`")),
            InterfaceState::Gone => Some(format!(
                "interface {name} was deleted or moved to another network namespace: bring one back, then restart"
            )),
        }
    }
}

/// One interface, by its index at the time its port was opened.
pub struct Interface {
    socket: OwnedFd,
    index: u32,
    up: AtomicBool,
    seen: Mutex<InterfaceView>,
}

impl fmt::Debug for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interface")
            .field("index", &self.index)
            .field("seen", &self.view())
            .finish_non_exhaustive()
    }
}

/// The interface that a device string names, such as `eth1` of `net_af_packet0,iface=eth1`.
pub fn interface_of(device: &str) -> Option<&str> {
    let mut parts = device.split(',');
    parts.next().filter(|driver| driver.starts_with("net_"))?;
    parts.find_map(|part| part.strip_prefix("iface="))
}

impl Interface {
    /// Finds an interface of this process' network namespace and reads it.
    ///
    /// # Errors
    /// The kernel's error if there is no interface of this name.
    pub fn find(name: &str) -> io::Result<Self> {
        let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
        let index = name_to_index(&socket, name)?;
        let view = InterfaceView { name: name.into(), state: InterfaceState::Up, mtu: None };
        let found = Self { socket, index, up: AtomicBool::new(true), seen: Mutex::new(view) };
        found.look();
        Ok(found)
    }

    /// Whether it was up when it was last read.
    #[inline]
    pub fn is_up(&self) -> bool {
        self.up.load(Relaxed)
    }

    /// The interface when it was last read.
    pub fn view(&self) -> InterfaceView {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads it again. Returns the old and the new view if they differ.
    pub fn look(&self) -> Option<(InterfaceView, InterfaceView)> {
        let before = self.view();
        let now = match index_to_name(&self.socket, self.index) {
            Ok(name) => read(Path::new("/sys/class/net"), &name, self.index),
            Err(_) => InterfaceView { state: InterfaceState::Gone, ..before.clone() },
        };
        self.up.store(now.state == InterfaceState::Up, Relaxed);
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = now.clone();
        (before != now).then_some((before, now))
    }
}

/// Reads an interface from sysfs. A sysfs of another network namespace has no entry: then the interface
/// counts as up.
fn read(sysfs: &Path, name: &str, index: u32) -> InterfaceView {
    let file = |key: &str| {
        let text = fs::read_to_string(sysfs.join(name).join(key)).ok()?;
        Some(text.trim().to_owned())
    };
    let number = |key: &str| file(key)?.parse::<u32>().ok();
    if number("ifindex") != Some(index) {
        return InterfaceView { name: name.into(), state: InterfaceState::Up, mtu: None };
    }
    let flags = file("flags").and_then(|flags| u32::from_str_radix(flags.trim_start_matches("0x"), 16).ok());
    let state = if flags.is_some_and(|flags| flags & IFF_UP == 0) {
        InterfaceState::Down
    } else if number("carrier") == Some(0) {
        InterfaceState::NoCarrier
    } else {
        InterfaceState::Up
    };
    InterfaceView { name: name.into(), state, mtu: number("mtu") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_virtual_devices_name_an_interface() {
        assert_eq!(interface_of("net_af_packet0,blocksz=4096,iface=eth1"), Some("eth1"));
        assert_eq!(interface_of("net_af_xdp0,iface=eth1,queue_count=2"), Some("eth1"));
        assert_eq!(interface_of("net_memif0,role=client"), None);
        assert_eq!(interface_of("0000:3b:00.0,iface=eth1"), None);
    }

    #[test]
    fn the_loopback_interface_is_there_and_another_is_not() {
        let lo = Interface::find("lo").unwrap();
        assert_eq!(lo.view().name, "lo");
        assert_eq!(lo.look(), None, "nothing has changed");
        assert!(Interface::find("no-such-thing").is_err());
    }

    #[test]
    fn flags_and_carrier_decide_the_state() {
        let sysfs = tempfile::tempdir().unwrap();
        let at = sysfs.path().join("eth1");
        fs::create_dir(&at).unwrap();
        let state = |flags: &str, carrier: &str| {
            for (key, value) in [("ifindex", "7"), ("flags", flags), ("carrier", carrier), ("mtu", "1400")] {
                fs::write(at.join(key), format!("{value}\n")).unwrap();
            }
            let view = read(sysfs.path(), "eth1", 7);
            assert_eq!(view.mtu, Some(1400));
            view.state
        };
        assert_eq!(state("0x1003", "1"), InterfaceState::Up);
        assert_eq!(state("0x1003", "0"), InterfaceState::NoCarrier);
        assert_eq!(state("0x1002", "0"), InterfaceState::Down);
        // The kernel refuses to tell the carrier of an interface that is down.
        fs::remove_file(at.join("carrier")).unwrap();
        assert_eq!(read(sysfs.path(), "eth1", 7).state, InterfaceState::Down);
        assert_eq!(read(sysfs.path(), "eth1", 8).mtu, None, "the index is another interface's");
    }

    #[test]
    fn each_fault_is_named_and_an_interface_that_is_up_has_none() {
        let fault = |state| InterfaceView { name: "eth1".into(), state, mtu: None }.fault();
        assert_eq!(fault(InterfaceState::Up), None);
        for state in [InterfaceState::NoCarrier, InterfaceState::Down, InterfaceState::Gone] {
            assert!(fault(state).unwrap().starts_with("interface eth1 "));
        }
    }
}
