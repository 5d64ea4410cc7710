//! Hostile peers of a world. All but the half-open ones have a certificate that the gateways trust.

use super::Simulation;
use crate::samples::samples;
use crate::support::identities::{gateway_identity, identities};
use crate::support::raw::{Raw, RawPeer};
use crate::support::{ECHO, SEED, encoding, gateway_address, route};
use quinn_proto::{Dir, StreamId};
use rand::Rng;
use rand::rngs::StdRng;
use std::time::Duration;
use stoq::quic::transport::QuicConfig;
use stoq::record::{Descriptor, Fetch, MessageHeader, Put, Record, Settings};
use stoq::token::{Ranges, Token};

/// The most hostile peers of a world.
const HOSTILE_MAX: usize = 6;
/// Requests or messages of an attack by numbers.
const MANY: usize = 20;

/// What a hostile peer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attack {
    /// Its handshake begins and goes no further.
    HalfOpen,
    /// A PUT whose bytes never arrive.
    IdlePut,
    /// Random bytes as a request, and as a message.
    Noise,
    /// FETCHes whose answers are not read.
    UnreadFetches,
    /// Routes on which this peer has no place.
    StrangeRoutes,
    /// A false length, and bytes of another payload.
    FalseLength,
    /// Half of a payload.
    CutShort,
    /// Empty messages whose echoes are not read.
    EmptyMessages,
    /// A record of which a byte arrives now and then.
    Drip,
}

const ATTACKS: [Attack; 9] = [
    Attack::HalfOpen,
    Attack::IdlePut,
    Attack::Noise,
    Attack::UnreadFetches,
    Attack::StrangeRoutes,
    Attack::FalseLength,
    Attack::CutShort,
    Attack::EmptyMessages,
    Attack::Drip,
];

/// A hostile peer.
pub(super) struct Hostile {
    raw: Raw,
    attack: Attack,
    /// Whether its attack has begun.
    begun: bool,
    /// The stream on which its bytes drip, and those that are left.
    drip: Option<(StreamId, Vec<u8>)>,
}

impl Simulation {
    /// One more hostile peer begins to connect to a gateway.
    pub(super) fn attack(&mut self, gateway: usize) {
        let attack = ATTACKS[self.random.random_range(0..ATTACKS.len())];
        if self.hostile.len() == HOSTILE_MAX {
            return;
        }
        self.draw(format_args!("{attack:?} at gateway {gateway}"));
        // A node that is no gateway of this world.
        let node = if self.setup.gateways < 4 { gateway_identity(3) } else { &identities()[1] };
        let quic = QuicConfig { model_seed: Some(0), ..QuicConfig::default() };
        let raw = self.world.plug_in_raw(gateway_address(gateway), &quic, node);
        if attack == Attack::HalfOpen {
            // Its first flight is sent, nothing after it.
            self.world.pass(Duration::from_micros(20));
            self.world.raw_mut(raw).withdrawn = true;
        }
        self.hostile.push(Hostile { raw, attack, begun: false, drip: None });
    }

    /// Hostile peers that are connected do their worst: once, or drop by drop.
    pub(super) fn assail(&mut self) {
        let Self { hostile, world, random, .. } = self;
        for hostile in hostile {
            let peer = world.raw_mut(hostile.raw);
            if !peer.connected || peer.lost.is_some() {
                continue;
            }
            if !hostile.begun {
                // Nothing is said where the gateway has closed the connection already.
                hostile.begun = send(peer, Dir::Uni, &record(&Settings::default()), false).is_some();
                if hostile.begun {
                    hostile.drip = begin(peer, hostile.attack, random);
                }
            } else if let Some((id, bytes)) = &mut hostile.drip
                && let Some(byte) = bytes.pop()
            {
                peer.send_on(*id, &[byte], false);
            }
        }
    }

    /// Hostile peers go.
    pub(super) fn dismiss_hostile(&mut self) {
        let now = self.world.now;
        for raw in &mut self.world.raw {
            raw.quic.close(now, 0u32.into(), bytes::Bytes::new());
        }
    }
}

/// Opens a stream, if the gateway allows another one, and sends these bytes on it.
fn send(peer: &mut RawPeer, dir: Dir, bytes: &[u8], finish: bool) -> Option<StreamId> {
    let id = peer.quic.streams().open(dir)?;
    peer.send_on(id, bytes, finish);
    Some(id)
}

/// Begins an attack. Returns the stream on which bytes drip, and the bytes, the last one first.
fn begin(peer: &mut RawPeer, attack: Attack, random: &mut StdRng) -> Option<(StreamId, Vec<u8>)> {
    let sample = &samples().payloads[random.random_range(2..samples().payloads.len())];
    let length = sample.bytes.len() as u64;
    let put = |token: Token, length: u64| {
        let descriptor = Descriptor::plain(token, length).unwrap();
        record(&Put { queue: SEED, lease_s: 60, descriptor, lanes: None })
    };
    let fetch = record(&Fetch {
        token: sample.token.into(),
        bytes_max: 0,
        lanes: None,
        ranges: Ranges::all(),
        describe: false,
    });
    let mut noise = vec![0; random.random_range(1..2000)];
    random.fill(&mut noise[..]);
    let encoded = encoding(&sample.bytes, &Ranges::all()).concat();
    match attack {
        Attack::HalfOpen => {}
        Attack::IdlePut => drop(send(peer, Dir::Bi, &put(Token::of(&noise), 9 << 20), false)),
        Attack::Noise => {
            send(peer, Dir::Bi, &noise, true);
            send(peer, Dir::Uni, &noise, true);
        }
        Attack::UnreadFetches => {
            peer.deaf = true;
            for _ in 0..MANY {
                send(peer, Dir::Bi, &fetch, true);
            }
        }
        Attack::StrangeRoutes => {
            for _ in 0..3 {
                let bytes = [record(&route(&[1, 0, 2]).hop()), fetch.clone()].concat();
                send(peer, Dir::Bi, &bytes, true);
            }
        }
        Attack::FalseLength => {
            let bytes = [put(sample.token, length + 1), encoded].concat();
            send(peer, Dir::Bi, &bytes, true);
        }
        Attack::CutShort => {
            let bytes = [put(sample.token, length), encoded[..encoded.len() / 2].to_vec()].concat();
            send(peer, Dir::Bi, &bytes, true);
        }
        Attack::EmptyMessages => {
            peer.deaf = true;
            let mut bytes = Vec::new();
            for _ in 0..MANY * 50 {
                MessageHeader { queue: ECHO, token: None }.emit_record_front(0, &mut bytes);
            }
            send(peer, Dir::Uni, &bytes, false);
        }
        Attack::Drip => {
            let id = send(peer, Dir::Bi, &[], false)?;
            return Some((id, fetch.into_iter().rev().collect()));
        }
    }
    None
}

fn record(record: &impl Record) -> Vec<u8> {
    let mut out = Vec::new();
    record.emit_record(&mut out);
    out
}
