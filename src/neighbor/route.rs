//! Routes: the neighbor to which a packet goes, and the address from which it is sent.

use crate::wire::prefix::{Prefix, PrefixError};
use crate::wire::{Mac, ndp};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The way to a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpRoute {
    /// The neighbor: the destination itself if it is on a link of ours, otherwise a router.
    pub next_hop: IpAddr,
    /// The address to send from.
    pub source: IpAddr,
}

/// Why an interface cannot route.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpRouteError {
    /// No address at all.
    #[error("the interface has no address: give at least one, such as 10.77.0.1/24")]
    NoAddress,
    /// A router that no address of the interface shares a network with.
    #[error(
        "the next hop {0} is on no network of the interface: give an address in its network, or another next hop"
    )]
    NextHop(IpAddr),
    /// A neighbor with a station of its own that is no other host on a network of the interface.
    #[error("{0} is no other host on a network of the interface: give a neighbor's address, or leave it out")]
    NoNeighbor(IpAddr),
    /// One address given twice.
    #[error("address {0} is given twice: remove one")]
    Twice(IpAddr),
    /// An address that is its network's own or its broadcast address.
    #[error("{0} is the network's own or its broadcast address: give a host's address")]
    Reserved(Prefix),
}

/// On-link prefixes and default routers of one interface, both families.
#[derive(Clone, Debug)]
pub struct IpRoutes {
    /// The link-local address comes last: it is no source for packets beyond the link.
    prefixes: Vec<Prefix>,
    next_hop_v4: Option<Ipv4Addr>,
    next_hop_v6: Option<Ipv6Addr>,
    /// Addresses of this host at its other ports.
    elsewhere: Vec<IpAddr>,
}

impl IpRoutes {
    /// The routes of the station `mac` with `addresses`, and with routers for other networks. The IPv6
    /// link-local address is added.
    pub fn new(
        mac: Mac,
        addresses: &[Prefix],
        next_hop_v4: Option<Ipv4Addr>,
        next_hop_v6: Option<Ipv6Addr>,
    ) -> Result<Self, IpRouteError> {
        if addresses.is_empty() {
            return Err(IpRouteError::NoAddress);
        }
        for (i, prefix) in addresses.iter().enumerate() {
            if addresses[..i].iter().any(|other| other.address() == prefix.address()) {
                return Err(IpRouteError::Twice(prefix.address()));
            }
            if prefix.is_reserved(prefix.address()) {
                return Err(IpRouteError::Reserved(*prefix));
            }
        }
        let mut prefixes = addresses.to_vec();
        if let Ok(link_local) = link_local_prefix(mac)
            && !prefixes.iter().any(|prefix| prefix.address() == link_local.address())
        {
            prefixes.push(link_local);
        }
        let routes = Self { prefixes, next_hop_v4, next_hop_v6, elsewhere: Vec::new() };
        let routers = [next_hop_v4.map(IpAddr::V4), next_hop_v6.map(IpAddr::V6)];
        match routers.into_iter().flatten().find(|&router| !routes.is_neighbor(router)) {
            Some(router) => Err(IpRouteError::NextHop(router)),
            None => Ok(routes),
        }
    }

    /// Adds addresses that this host has at other ports: packets may be sent from them here, and none of them is another host.
    pub fn add_elsewhere(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        self.elsewhere.extend(addresses);
    }

    /// Every address of the interface: the configured ones in their order, then the IPv6 link-local one.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.prefixes.iter().map(Prefix::address)
    }

    /// The addresses of this host that packets may be sent from here.
    fn sources(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses().chain(self.elsewhere.iter().copied())
    }

    /// Whether packets may be sent from this address.
    pub fn is_source(&self, address: IpAddr) -> bool {
        self.sources().any(|ours| ours == address)
    }

    /// Whether the interface has this address.
    pub fn has(&self, address: IpAddr) -> bool {
        self.addresses().any(|ours| ours == address)
    }

    /// Whether `address` may be another host on a link of ours.
    pub fn is_neighbor(&self, address: IpAddr) -> bool {
        is_host(address)
            && !self.is_source(address)
            && self.prefixes.iter().any(|prefix| prefix.contains(address))
            && !self.prefixes.iter().any(|prefix| prefix.is_reserved(address))
    }

    /// Checks that `address` may be another host on a link of ours.
    ///
    /// # Errors
    /// [`IpRouteError::NoNeighbor`] otherwise.
    pub fn check_neighbor(&self, address: IpAddr) -> Result<(), IpRouteError> {
        if self.is_neighbor(address) { Ok(()) } else { Err(IpRouteError::NoNeighbor(address)) }
    }

    /// Whether `address` is one of the configured next hops.
    pub fn is_router(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.next_hop_v4 == Some(v4),
            IpAddr::V6(v6) => self.next_hop_v6 == Some(v6),
        }
    }

    /// Whether `address` may be one other host, on a link of ours or beyond: neither a group, nor a broadcast address, nor our own.
    pub fn is_other_host(&self, address: IpAddr) -> bool {
        is_host(address)
            && !self.is_source(address)
            && !self.prefixes.iter().any(|prefix| prefix.is_reserved(address))
    }

    /// The way to `destination`, from `source` if that is given. None when no route leads there, when it is
    /// no host's address or our own, and when `source` is not ours or of the other family.
    pub fn route(&self, destination: IpAddr, source: Option<IpAddr>) -> Option<IpRoute> {
        let next_hop = if self.is_neighbor(destination) {
            destination
        } else if self.prefixes.iter().any(|prefix| prefix.contains(destination)) || !is_beyond(destination) {
            return None;
        } else {
            match destination {
                IpAddr::V4(_) => self.next_hop_v4.map(IpAddr::V4)?,
                IpAddr::V6(_) => self.next_hop_v6.map(IpAddr::V6)?,
            }
        };
        let source = match source {
            Some(source) => {
                self.sources().find(|&ours| ours == source && ours.is_ipv4() == destination.is_ipv4())?
            }
            None => self.source_for(destination, next_hop)?,
        };
        Some(IpRoute { next_hop, source })
    }

    /// The address to send from to `destination` by way of `next_hop`: the one on the network of the next hop, else the
    /// first of the family. A link-local address reaches no further than the link (RFC 4291 §2.5.6).
    pub fn source_for(&self, destination: IpAddr, next_hop: IpAddr) -> Option<IpAddr> {
        let usable = |ours: &IpAddr| {
            ours.is_ipv4() == destination.is_ipv4() && (!is_link_local(*ours) || is_link_local(destination))
        };
        self.prefixes
            .iter()
            .filter(|prefix| prefix.contains(next_hop))
            .map(Prefix::address)
            .find(usable)
            .or_else(|| self.addresses().find(usable))
    }
}

fn link_local_prefix(mac: Mac) -> Result<Prefix, PrefixError> {
    Prefix::new(IpAddr::V6(ndp::link_local(mac)), 64)
}

/// Whether an address reaches no further than its link: of IPv6 alone, where each interface has one.
pub(crate) fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn is_host(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !(address.is_multicast() || address.is_unspecified() || address.is_loopback() || broadcast)
}

fn is_beyond(address: IpAddr) -> bool {
    is_host(address) && !is_link_local(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 1];

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn routes() -> IpRoutes {
        let addresses = ["10.77.0.1/24", "192.0.2.1/31", "fd00::1/64"].map(|text| text.parse().unwrap());
        IpRoutes::new(MAC, &addresses, Some([10, 77, 0, 254].into()), Some("fe80::fe".parse().unwrap()))
            .unwrap()
    }

    fn way(destination: &str) -> Option<(String, String)> {
        let route = routes().route(ip(destination), None)?;
        Some((route.next_hop.to_string(), route.source.to_string()))
    }

    #[test]
    fn a_destination_on_the_link_is_its_own_next_hop() {
        assert_eq!(way("10.77.0.9"), Some(("10.77.0.9".into(), "10.77.0.1".into())));
        assert_eq!(way("192.0.2.0"), Some(("192.0.2.0".into(), "192.0.2.1".into())));
        assert_eq!(way("fd00::9"), Some(("fd00::9".into(), "fd00::1".into())));
        assert_eq!(way("fe80::9"), Some(("fe80::9".into(), "fe80::ff:fe00:1".into())));
    }

    #[test]
    fn a_destination_beyond_the_link_goes_to_the_router_from_a_global_address() {
        assert_eq!(way("198.51.100.1"), Some(("10.77.0.254".into(), "10.77.0.1".into())));
        assert_eq!(way("2001:db8::1"), Some(("fe80::fe".into(), "fd00::1".into())));
    }

    #[test]
    fn no_route_leads_to_groups_broadcast_or_own_addresses() {
        for destination in
            ["224.0.0.1", "255.255.255.255", "10.77.0.255", "10.77.0.1", "0.0.0.0", "ff02::1", "::"]
        {
            assert_eq!(way(destination), None, "{destination}");
        }
    }

    #[test]
    fn a_source_is_taken_only_when_it_is_ours_and_of_the_family() {
        let routes = routes();
        let from = |source: &str| routes.route(ip("10.77.0.9"), Some(ip(source))).map(|route| route.source);
        assert_eq!(from("192.0.2.1"), Some(ip("192.0.2.1")));
        assert_eq!(from("10.77.0.2"), None);
        assert_eq!(from("fd00::1"), None);
    }

    #[test]
    fn an_address_at_another_port_is_a_source_and_no_other_host() {
        let mut routes = routes();
        let elsewhere = ip("198.51.100.1");
        let from =
            |routes: &IpRoutes| routes.route(ip("10.77.0.9"), Some(elsewhere)).map(|route| route.source);
        assert_eq!((from(&routes), routes.is_other_host(elsewhere)), (None, true));
        routes.add_elsewhere([elsewhere]);
        assert_eq!((from(&routes), routes.is_other_host(elsewhere)), (Some(elsewhere), false));
        assert_eq!(routes.route(ip("10.77.0.9"), None).map(|route| route.source), Some(ip("10.77.0.1")));
        assert!(!routes.has(elsewhere), "ARP does not answer for it here");
    }

    #[test]
    fn a_router_off_the_link_is_refused() {
        let address = ["10.77.0.1/24".parse().unwrap()];
        let error = IpRoutes::new(MAC, &address, Some([10, 78, 0, 1].into()), None).unwrap_err();
        assert_eq!(error, IpRouteError::NextHop(ip("10.78.0.1")));
        assert_eq!(IpRoutes::new(MAC, &[], None, None).unwrap_err(), IpRouteError::NoAddress);
    }
}
