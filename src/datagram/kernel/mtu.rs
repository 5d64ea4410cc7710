//! The largest packet of sockets that are not connected, as far as the kernel tells before there is a peer.

use rustix::net::sockopt;
use std::net::{IpAddr, UdpSocket};

/// The MTU assumed if that of the route is unknown, bytes.
const MTU_DEFAULT: u16 = 1500;

/// The smallest MTU of the sockets' routes: on loopback to itself, elsewhere that of the default route, since a socket that is not connected
/// has no other. Ethernet's where there is none.
pub(super) fn of(addresses: impl Iterator<Item = IpAddr>) -> u16 {
    let mtu = addresses.filter_map(of_route).min();
    mtu.map_or(MTU_DEFAULT, |mtu| u16::try_from(mtu).unwrap_or(u16::MAX))
}

/// The MTU of the route from this address. Connecting sends nothing.
fn of_route(local: IpAddr) -> Option<u32> {
    // RFC 5737 and RFC 3849: addresses of documentation, which no route but the default one leads to.
    let to: IpAddr = match local {
        _ if local.is_loopback() => local,
        IpAddr::V4(_) => [198, 51, 100, 1].into(),
        IpAddr::V6(_) => [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into(),
    };
    let socket = UdpSocket::bind((local, 0)).ok()?;
    socket.connect((to, 9)).ok()?;
    match local {
        IpAddr::V4(_) => sockopt::ip_mtu(&socket).ok(),
        IpAddr::V6(_) => sockopt::ipv6_mtu(&socket).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::net::Ipv4Addr;

    fn of_interface(name: &str) -> u32 {
        fs::read_to_string(format!("/sys/class/net/{name}/mtu")).unwrap().trim().parse().unwrap()
    }

    #[test]
    fn loopback_has_its_own_mtu_and_other_addresses_that_of_the_default_route() {
        let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
        // IPv4 has no larger packets.
        assert_eq!(of_route(loopback), Some(of_interface("lo").min(65_535)));
        // proc_pid_net(5): Iface Destination Gateway Flags RefCnt Use Metric Mask MTU
        let table = fs::read_to_string("/proc/net/route").unwrap_or_default();
        let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let default =
            rows.into_iter().filter(|row| row.len() > 8 && row[1] == "00000000" && row[7] == "00000000");
        let default = default.min_by_key(|row| row[6].parse::<u32>().unwrap_or(u32::MAX));
        let expected = default.map(|row| match row[8] {
            "0" => of_interface(row[0]),
            of_route => of_route.parse().unwrap(),
        });
        assert_eq!(of_route(Ipv4Addr::UNSPECIFIED.into()), expected);
        let smallest = expected.map_or(of_interface("lo"), |mtu| mtu.min(of_interface("lo")));
        assert_eq!(u32::from(of([loopback, Ipv4Addr::UNSPECIFIED.into()].into_iter())), smallest.min(65_535));
        assert_eq!(of([IpAddr::from([203, 0, 113, 1])].into_iter()), MTU_DEFAULT, "no address of this host");
    }
}
