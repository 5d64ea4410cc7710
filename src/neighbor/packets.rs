//! ARP and NDP packets: what they teach, the answers to them, and our own questions.

use super::Neighbors;
use super::claim::{Claim, NeighborOutput};
use crate::counters::{Counter, Counters};
use crate::limits::{NEIGHBOR_REPLIES_BURST, NEIGHBOR_REPLIES_PER_S};
use crate::token_bucket::TokenBucket;
use crate::wire::arp::Arp;
use crate::wire::ethernet::BROADCAST;
use crate::wire::ip::Addresses;
use crate::wire::ndp::{self, Ndp};
use crate::wire::{Mac, is_unicast};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

/// The bounds on answers to ARP and NDP questions. A flood of questions from strange stations leaves those of neighbors in use theirs.
#[derive(Debug)]
pub(super) struct ReplyLimits {
    known: TokenBucket,
    strange: TokenBucket,
}

impl Default for ReplyLimits {
    fn default() -> Self {
        let bucket = TokenBucket::new(NEIGHBOR_REPLIES_PER_S, NEIGHBOR_REPLIES_BURST);
        Self { known: bucket, strange: bucket }
    }
}

impl Neighbors {
    /// Learns from an ARP packet, and answers it when it asks for one of our addresses. Returns the claim to
    /// tell other workers.
    pub fn handle_arp(&mut self, now: Instant, counters: &Counters, arp: &Arp) -> Option<Claim> {
        let to_us = self.is_ours(IpAddr::V4(arp.target));
        let asks = to_us && !arp.reply && is_unicast(arp.source_mac);
        let answered = asks && self.may_reply(now, counters, IpAddr::V4(arp.source), arp.source_mac);
        if answered {
            let arp = Arp {
                reply: true,
                source_mac: self.mac,
                source: arp.target,
                target_mac: arp.source_mac,
                target: arp.source,
            };
            self.outputs.push_back(NeighborOutput::Arp { destination: arp.target_mac, arp });
        }
        let claim = Claim {
            address: IpAddr::V4(arp.source),
            mac: Some(arp.source_mac),
            solicited: arp.reply && to_us,
            overrides: true,
            asks_us: answered,
        };
        self.handle_claim(now, counters, claim).then_some(claim)
    }

    /// Learns from a neighbor discovery message that the station `source_mac` sent from `source`, and answers
    /// it when it asks for one of our addresses. Returns the claim to tell other workers.
    pub fn handle_ndp(
        &mut self,
        now: Instant,
        counters: &Counters,
        source_mac: Mac,
        source: Ipv6Addr,
        message: &Ndp,
    ) -> Option<Claim> {
        let claim = match *message {
            Ndp::Solicit { target, source_mac: stated } => {
                let from_one = source.is_unspecified() || self.routes.is_other_host(IpAddr::V6(source));
                if !self.is_ours(IpAddr::V6(target)) || !from_one {
                    return None;
                }
                let mac = stated.unwrap_or(source_mac);
                if !self.may_reply(now, counters, IpAddr::V6(source), mac) {
                    return None;
                }
                self.advertise(mac, source, target);
                // RFC 4861 §7.2.3: nothing is learned without the option.
                stated?;
                Claim {
                    address: IpAddr::V6(source),
                    mac: stated,
                    solicited: false,
                    overrides: true,
                    asks_us: true,
                }
            }
            Ndp::Advertise { target, target_mac, solicited, overrides, .. } => {
                Claim { address: IpAddr::V6(target), mac: target_mac, solicited, overrides, asks_us: false }
            }
        };
        self.handle_claim(now, counters, claim).then_some(claim)
    }

    /// Whether a question of the station `mac` with `address` may be answered now. Counts it if not.
    fn may_reply(&mut self, now: Instant, counters: &Counters, address: IpAddr, mac: Mac) -> bool {
        let known = self
            .entries
            .get(&address)
            .is_some_and(|entry| entry.used_at.is_some() && entry.mac() == Some(mac));
        let bucket = if known { &mut self.replies.known } else { &mut self.replies.strange };
        let allowed = bucket.take(now);
        if !allowed {
            counters.add(Counter::DropReplyLimited, 1);
        }
        allowed
    }

    /// Asks the station `to`, or all stations, for `address`.
    pub(super) fn solicit(&mut self, address: IpAddr, to: Option<Mac>) {
        match (address, self.routes.source_for(address, address)) {
            (IpAddr::V4(target), source) => {
                // RFC 5227 §2.1: a host without a fitting address asks from 0.0.0.0.
                let source = match source {
                    Some(IpAddr::V4(source)) => source,
                    _ => Ipv4Addr::UNSPECIFIED,
                };
                let arp = Arp { reply: false, source_mac: self.mac, source, target_mac: [0; 6], target };
                self.outputs.push_back(NeighborOutput::Arp { destination: to.unwrap_or(BROADCAST), arp });
            }
            (IpAddr::V6(target), Some(IpAddr::V6(source))) => {
                let group = ndp::solicited_node(target);
                let destination = if to.is_some() { target } else { group };
                self.outputs.push_back(NeighborOutput::Ndp {
                    destination: to.unwrap_or(ndp::multicast_mac(group)),
                    addresses: Addresses::V6 { source, destination },
                    ndp: Ndp::Solicit { target, source_mac: Some(self.mac) },
                });
            }
            // Unreachable: a next hop in IPv6 is on a link, and the link-local address always is.
            (IpAddr::V6(_), _) => {}
        }
    }

    /// Answers a solicitation for `target`. RFC 4861 §7.2.4: a solicitation from the unspecified address is answered to all nodes.
    fn advertise(&mut self, mac: Mac, asker: Ipv6Addr, target: Ipv6Addr) {
        let probe = asker.is_unspecified();
        let to = if probe { ndp::ALL_NODES } else { asker };
        if !probe && !is_unicast(mac) {
            return;
        }
        self.outputs.push_back(NeighborOutput::Ndp {
            destination: if probe { ndp::multicast_mac(to) } else { mac },
            addresses: Addresses::V6 { source: target, destination: to },
            ndp: Ndp::Advertise {
                target,
                target_mac: Some(self.mac),
                router: false,
                solicited: !probe,
                overrides: true,
            },
        });
    }

    pub(super) fn is_ours(&self, address: IpAddr) -> bool {
        self.routes.has(address)
    }
}
