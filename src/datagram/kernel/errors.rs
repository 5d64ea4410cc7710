//! What the kernel says of destinations: of its own, and what it has heard by ICMP.

use crate::datagram::Obstacle;
use rustix::io::Errno;
use std::io;

/// What an error of a socket that is not connected says of the destination; none where that is fine and the packet is not. Such a socket
/// hears nothing of ICMP: all of it is this host's.
pub(super) fn by_send(error: &io::Error) -> Option<Obstacle> {
    Some(match Errno::from_raw_os_error(error.raw_os_error()?) {
        Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::NETDOWN => Obstacle::NoRoute,
        Errno::PERM | Errno::ACCESS => Obstacle::Forbidden,
        Errno::ADDRNOTAVAIL | Errno::INVAL | Errno::AFNOSUPPORT => Obstacle::Local(error.to_string()),
        _ => return None,
    })
}

/// What a connected socket has heard of its peer by ICMP (udp(7); icmp(7) says which messages count): none where it is no such message.
pub(super) fn by_icmp(error: &io::Error) -> Option<Obstacle> {
    Some(match Errno::from_raw_os_error(error.raw_os_error()?) {
        Errno::CONNREFUSED => Obstacle::PortClosed,
        // RFC 1812 §5.2.7.1, codes 9, 10 and 13; RFC 4443 §3.1, codes 1, 5 and 6.
        Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::ACCESS => Obstacle::Prohibited,
        Errno::NOPROTOOPT => Obstacle::NoWay,
        _ => return None,
    })
}
