//! The other gateways of a fleet: where their datagrams are handed over to. Immutable, and replaced whole.

use super::routable::ServerId;
use std::collections::HashMap;
use std::net::IpAddr;

/// Another gateway of the fleet, as the fleet's directory has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherGateway {
    /// Its number.
    pub server_id: ServerId,
    /// Its own addresses: it sends from them and takes packets of GUE there.
    pub addresses: Vec<IpAddr>,
    /// Whether the directory knows that it has stopped saying that it is alive.
    pub is_gone: bool,
}

/// The way to another gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberWay {
    /// Its address.
    pub destination: IpAddr,
    /// This gateway's address of the same family.
    pub source: IpAddr,
    /// See [`OtherGateway::is_gone`].
    pub is_gone: bool,
}

/// The other gateways of a fleet, as of one revision of its directory.
#[derive(Clone, Debug, Default)]
pub struct FleetMembers {
    ways: HashMap<ServerId, MemberWay>,
    addresses: HashMap<IpAddr, ServerId>,
    handover_pps_max: u32,
}

impl FleetMembers {
    /// These gateways, seen from one with these addresses, each of whose workers hands over this number of datagrams a second at most.
    /// Without an address of one family at both, nothing is handed over to a gateway.
    pub fn new(own: &[IpAddr], members: &[OtherGateway], handover_pps_max: u32) -> Self {
        let way = |member: &OtherGateway| {
            member.addresses.iter().find_map(|&destination| {
                let source = *own.iter().find(|own| own.is_ipv4() == destination.is_ipv4())?;
                Some(MemberWay { destination, source, is_gone: member.is_gone })
            })
        };
        let of_member = |member: &OtherGateway| {
            member.addresses.clone().into_iter().zip(std::iter::repeat(member.server_id))
        };
        Self {
            ways: members.iter().filter_map(|member| Some((member.server_id, way(member)?))).collect(),
            addresses: members.iter().flat_map(of_member).collect(),
            handover_pps_max,
        }
    }

    /// The way to the gateway of this number.
    pub fn way(&self, server_id: ServerId) -> Option<MemberWay> {
        self.ways.get(&server_id).copied()
    }

    /// The ways to all gateways.
    pub fn ways(&self) -> impl Iterator<Item = (ServerId, MemberWay)> {
        self.ways.iter().map(|(server_id, way)| (*server_id, *way))
    }

    /// The gateway that has this address.
    pub fn at(&self, address: IpAddr) -> Option<ServerId> {
        self.addresses.get(&address).copied()
    }

    /// The datagrams that a worker may hand over in a second.
    pub fn handover_pps_max(&self) -> u32 {
        self.handover_pps_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_a_gateway_is_of_a_family_that_both_have() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let member = |number, addresses: &[&str]| OtherGateway {
            server_id: ServerId([0, 0, number]),
            addresses: addresses.iter().map(|text| ip(text)).collect(),
            is_gone: number == 3,
        };
        let all = [
            member(1, &["2001:db8::1", "192.0.2.1"]),
            member(2, &["2001:db8::2"]),
            member(3, &["192.0.2.3"]),
        ];
        let members = FleetMembers::new(&[ip("192.0.2.9")], &all, 5);
        let way = members.way(ServerId([0, 0, 1])).unwrap();
        assert_eq!((way.destination, way.source, way.is_gone), (ip("192.0.2.1"), ip("192.0.2.9"), false));
        assert_eq!(members.way(ServerId([0, 0, 2])), None);
        let gone = members.ways().filter(|(_, way)| way.is_gone).map(|(id, _)| id);
        assert_eq!(gone.collect::<Vec<_>>(), [ServerId([0, 0, 3])]);
        assert_eq!(members.at(ip("2001:db8::2")), Some(ServerId([0, 0, 2])));
        assert_eq!(members.at(ip("192.0.2.9")), None);
    }
}
