//! The kernel's errors about destinations: its own, and those reported by ICMP.

use crate::datagram::Obstacle;
use rustix::io::Errno;
use std::io;

/// The obstacle that an unconnected socket's error shows; `None` if the error is about the packet. Such a
/// socket receives no ICMP errors: its errors are this host's own.
pub(super) fn by_send(error: &io::Error) -> Option<Obstacle> {
    Some(match Errno::from_raw_os_error(error.raw_os_error()?) {
        Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::NETDOWN => Obstacle::NoRoute,
        Errno::PERM | Errno::ACCESS => Obstacle::Forbidden,
        Errno::ADDRNOTAVAIL | Errno::INVAL | Errno::AFNOSUPPORT => Obstacle::Local(error.to_string()),
        _ => return None,
    })
}

/// The obstacle that a connected socket's ICMP error shows (udp(7); icmp(7) lists the messages); `None` for other errors.
pub(super) fn by_icmp(error: &io::Error) -> Option<Obstacle> {
    Some(match Errno::from_raw_os_error(error.raw_os_error()?) {
        Errno::CONNREFUSED => Obstacle::PortClosed,
        // RFC 1812 §5.2.7.1, codes 9, 10 and 13; RFC 4443 §3.1, codes 1, 5 and 6.
        Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::ACCESS => Obstacle::Prohibited,
        Errno::NOPROTOOPT => Obstacle::NoWay,
        _ => return None,
    })
}
