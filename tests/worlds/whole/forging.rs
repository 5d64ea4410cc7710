//! Hostile peers whose packets carry frames of their own choice.

use crate::forged::frames::{BREACHES, FLOODS, FrameFlood, Used, random_frames};
use crate::forged::{Forger, Level, OpenConfig, TakenKeys, connection_ids, stranger};
use crate::support::raw::{Raw, RawPeer};
use crate::support::{World, trust};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;
use stoq::quic::transport::QuicConfig;
use stoq::tls::{ClientTls, Identity, client_config};

/// Packets that it sends at once.
const BURST: u64 = 24;
/// Packets that it sends in all.
const PACKETS: u64 = 8 * BURST;

/// What it forges.
#[derive(Clone, Copy)]
enum Frames {
    /// One kind alone.
    Flood(FrameFlood),
    /// Any kinds in any order; `wild` of a thousand break rules.
    Random { wild: u32 },
}

/// A peer that forges, and how far it is.
pub(super) struct Forging {
    frames: Frames,
    level: Level,
    /// Whether gateways trust its certificate.
    is_trusted: bool,
    taken: TakenKeys,
    forger: Option<Forger>,
    used: Used,
    sent: u64,
}

impl Forging {
    pub(super) fn draw(random: &mut StdRng) -> Self {
        let frames = match random.random_range(0..3) {
            0 => Frames::Random { wild: *[0, 1, 20].choose(random).unwrap() },
            1 => Frames::Flood(*FLOODS.choose(random).unwrap()),
            _ => Frames::Flood(*BREACHES.choose(random).unwrap()),
        };
        let level = if random.random_ratio(1, 4) { Level::Handshake } else { Level::OneRtt };
        let (taken, is_trusted) = (TakenKeys::default(), random.random_ratio(3, 4));
        Self { frames, level, is_trusted, taken, forger: None, used: Used::default(), sent: 0 }
    }

    /// It begins to connect, as this node or as one without the gateways' trust.
    pub(super) fn plug_in(
        &self,
        world: &mut World,
        remote: SocketAddr,
        quic: &QuicConfig,
        node: &Identity,
    ) -> Raw {
        let node = if self.is_trusted { node } else { stranger() };
        let tls = ClientTls { identity: Some(node.clone()), session_cache_len: 0, ..ClientTls::new(trust()) };
        let inner = client_config(&tls).unwrap();
        let tls = Arc::new(OpenConfig { inner, taken: self.taken.clone() });
        let taken = self.taken.clone();
        // A handshake goes on only without the frames of its own end.
        let is_ready = move || taken.has(Level::Handshake);
        let withdraws = (self.level == Level::Handshake).then(|| Box::new(is_ready) as Box<_>);
        world.plug_in_client(remote, quic, tls, withdraws)
    }

    /// Sends some packets, once it has the keys. Returns whether it did.
    pub(super) fn assail(&mut self, peer: &mut RawPeer, now: Instant, random: &mut StdRng) -> bool {
        let is_ready = peer.withdrawn || peer.connected || peer.lost.is_some();
        if !is_ready || !self.taken.has(self.level) || self.sent >= PACKETS {
            return false;
        }
        peer.withdrawn = true;
        let Some(ids) = connection_ids(&peer.long_header) else { return false };
        let forger = self.forger.get_or_insert_with(|| Forger::new(self.level, &self.taken, ids));
        for _ in 0..BURST {
            let frames = match self.frames {
                Frames::Random { wild } => random_frames(random, &mut self.used, wild),
                Frames::Flood((_, frames)) => {
                    let mut body = Vec::new();
                    frames(self.sent, &mut body);
                    body
                }
            };
            // Gaps in the packet numbers, which the gateway has to acknowledge around.
            forger.number += u64::from(random.random::<bool>());
            peer.forge(now, &forger.packet(&frames));
            self.sent += 1;
        }
        true
    }
}
