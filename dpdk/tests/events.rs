//! What happens to a port from outside.

mod common;

use std::{
    ffi::{CStr, c_int, c_void},
    ptr,
};

use common::{eal, in_own_process, memif};
use dpdk::{Multicast, Port, PortConfig, PortFault};

const INTR_RESET: c_int = 3;
const INTR_RMV: c_int = 6;

// By these functions DPDK's drivers tell of their ports.
unsafe extern "C" {
    fn rte_eth_dev_allocated(name: *const std::ffi::c_char) -> *mut c_void;
    fn rte_eth_dev_callback_process(port: *mut c_void, event: c_int, result: *mut c_void) -> c_int;
}

/// Tells an event of the port of a device, as its driver does.
fn tell(device: &CStr, event: c_int) {
    // SAFETY: a C string; the port that is found is open, and no callback here reads the result.
    unsafe {
        let port = rte_eth_dev_allocated(device.as_ptr());
        assert!(!port.is_null());
        rte_eth_dev_callback_process(port, event, ptr::null_mut());
    }
}

#[test]
fn a_reset_or_removed_port_says_so_until_it_is_opened_again() {
    in_own_process("a_reset_or_removed_port_says_so_until_it_is_opened_again", || {
        let (eal, folder) = (eal(), tempfile::tempdir().unwrap());
        let open = || {
            let device = memif(folder.path(), "server", "");
            Port::open(&eal, &PortConfig { device, ..PortConfig::default() }).unwrap()
        };
        for (event, fault) in [(INTR_RESET, PortFault::Reset), (INTR_RMV, PortFault::Removed)] {
            let (port, _pairs) = open();
            assert_eq!(port.fault(), None);
            tell(c"net_memif0", event);
            assert_eq!(port.fault(), Some(fault));
        }
        let (port, _pairs) = open();
        assert_eq!(port.fault(), None);
    });
}

#[test]
fn a_device_without_filters_hears_every_group() {
    in_own_process("a_device_without_filters_hears_every_group", || {
        let (eal, folder) = (eal(), tempfile::tempdir().unwrap());
        let device = memif(folder.path(), "server", "");
        let (port, _pairs) = Port::open(&eal, &PortConfig { device, ..PortConfig::default() }).unwrap();
        assert_eq!(port.hear(&[[0x33, 0x33, 0, 0, 0, 1]]), Multicast::Unfiltered);
    });
}
