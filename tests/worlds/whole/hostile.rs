//! Hostile peers of a world. All but the half-open ones have a certificate that the gateways trust.

use super::Simulation;
use super::forging::Forging;
use crate::samples::{Sample, samples};
use crate::support::identities::{GATEWAYS_MAX, gateway_identity, identities};
use crate::support::raw::{Raw, RawPeer};
use crate::support::{ECHO, SEED, encoding, gateway_address, route};
use quinn_proto::{Dir, StreamId};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use smoltcp::wire::EthernetProtocol;
use std::time::Duration;
use stoq::limits::{HAVE_BURST, HAVE_RATE_PER_S};
use stoq::nic::{Nic, TxKind};
use stoq::quic::transport::QuicConfig;
use stoq::record::{Coverage, Descriptor, Fetch, Have, MessageHeader, Mirror, Put, Record, Settings};
use stoq::shard::Lanes;
use stoq::tls::NodeId;
use stoq::token::{Ranges, Token};
use stoq::wire::Mac;
use stoq::wire::arp::Arp;
use stoq::wire::ethernet::{BROADCAST, Ethernet};

/// The most hostile peers of a world.
const HOSTILE_MAX: usize = 6;
/// Requests or messages of an attack by numbers.
const MANY: usize = 20;
/// Requests on strange routes: the third error ends the connection.
const STRANGE: usize = 3;
/// The station of forged frames.
pub(super) const FORGER: Mac = [2, 0, 0, 0, 0, 200];

/// What a hostile peer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Attack {
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
    /// Payloads of a few bytes.
    TinyPayloads,
    /// Requests through a gateway that may be dead, or none.
    Routes,
    /// MIRRORs whose source is this peer, which answers nothing.
    SilentSource,
    /// A request without SETTINGS before it or after it.
    NoSettings,
    /// More HAVE records than a peer may send.
    Announcements,
    /// Frames that an observer of the link sends again.
    Replay,
    /// Claims to a client's address, by a station that is not the client's.
    Claims,
    /// Packets whose frames are its own: of any kinds, or of one.
    ForgedFrames,
    /// First flights from addresses of others.
    SpoofedFlights,
    /// First flights with early data that an observer of the link sends again.
    EarlyReplay,
}

pub(super) const ATTACKS: [Attack; 19] = [
    Attack::HalfOpen,
    Attack::IdlePut,
    Attack::Noise,
    Attack::UnreadFetches,
    Attack::StrangeRoutes,
    Attack::FalseLength,
    Attack::CutShort,
    Attack::EmptyMessages,
    Attack::Drip,
    Attack::TinyPayloads,
    Attack::Routes,
    Attack::SilentSource,
    Attack::NoSettings,
    Attack::Announcements,
    Attack::Replay,
    Attack::Claims,
    Attack::ForgedFrames,
    Attack::SpoofedFlights,
    Attack::EarlyReplay,
];

/// A hostile peer.
pub(super) struct Hostile {
    raw: Raw,
    node: NodeId,
    /// The gateway that it attacks.
    gateway: usize,
    attack: Attack,
    /// Whether its attack has begun.
    begun: bool,
    /// The stream on which its bytes drip, and those that are left.
    drip: Option<(StreamId, Vec<u8>)>,
    /// What it forges.
    forging: Option<Forging>,
}

impl Simulation {
    /// One more hostile peer begins to connect to a gateway.
    pub(super) fn attack(&mut self, gateway: usize) {
        let attack = ATTACKS[self.random.random_range(0..ATTACKS.len())];
        if self.hostile.len() == HOSTILE_MAX {
            return;
        }
        self.draw(format_args!("{attack:?} at gateway {gateway}"));
        match attack {
            Attack::Replay => return self.replay(),
            Attack::Claims => return self.claim(),
            Attack::SpoofedFlights => return self.spoof(gateway),
            Attack::EarlyReplay => return self.replay_early(),
            _ => {}
        }
        // A node that is no gateway of this world.
        let node = if self.setup.gateways < 4 { gateway_identity(3) } else { &identities()[1] };
        let quic = QuicConfig { model_seed: Some(0), ..QuicConfig::default() };
        let forging = (attack == Attack::ForgedFrames).then(|| Forging::draw(&mut self.random));
        let raw = match &forging {
            Some(forging) => forging.plug_in(&mut self.world, gateway_address(gateway), &quic, node),
            None => self.world.plug_in_raw(gateway_address(gateway), &quic, node),
        };
        if attack == Attack::HalfOpen {
            // Its first flight is sent, nothing after it.
            self.world.pass(Duration::from_micros(20));
            self.world.raw_mut(raw).withdrawn = true;
        }
        let node = node.node_id();
        self.hostile.push(Hostile { raw, node, gateway, attack, begun: false, drip: None, forging });
    }

    /// Notes an attack that was carried out.
    pub(super) fn carried_out(&mut self, attack: Attack, was: bool) {
        if was {
            self.attacks.insert(attack);
        }
    }

    /// Frames that gateway 0 has got are sent to it again, in another order.
    fn replay(&mut self) {
        let mut frames = self.seen.take_last();
        frames.shuffle(&mut self.random);
        self.carried_out(Attack::Replay, !frames.is_empty());
        self.forge(&frames);
    }

    /// A station says that a client's address is its own.
    fn claim(&mut self) {
        let client = [10, 77, 0, 10 + self.random.random_range(0..self.setup.clients) as u8];
        let arp = Arp {
            reply: true,
            source_mac: FORGER,
            source: client.into(),
            target_mac: BROADCAST,
            target: client.into(),
        };
        let ethernet =
            Ethernet { destination: BROADCAST, source: FORGER, vlan: None, protocol: EthernetProtocol::Arp };
        let mut frame = vec![0; 60];
        ethernet.emit(&mut frame);
        arp.emit(&mut frame[14..]);
        self.carried_out(Attack::Claims, true);
        self.forge(&vec![frame; MANY]);
    }

    /// Puts frames of a station of its own on the link.
    pub(super) fn forge(&mut self, frames: &[Vec<u8>]) {
        let Self { forger, world, .. } = self;
        let nic = forger.get_or_insert_with(|| world.link.add_station(FORGER, 1).remove(0));
        for frame in frames {
            assert!(nic.tx_frame(TxKind::Plain, frame.len(), |out| out.copy_from_slice(frame)));
        }
        nic.tx_flush(world.now);
        self.forged += frames.len() as u64;
    }

    /// Hostile peers that are connected do their worst: once, or drop by drop.
    pub(super) fn assail(&mut self) {
        let Self { hostile, world, random, places, attacks, .. } = self;
        for hostile in hostile {
            let now = world.now;
            let peer = world.raw_mut(hostile.raw);
            if let Some(forging) = &mut hostile.forging {
                if forging.assail(peer, now, random) {
                    attacks.insert(hostile.attack);
                }
                continue;
            }
            if hostile.attack == Attack::HalfOpen {
                attacks.insert(hostile.attack);
            }
            if !peer.connected || peer.lost.is_some() {
                continue;
            }
            if !hostile.begun {
                // Nothing is said where the gateway has closed the connection already.
                let control = match hostile.attack {
                    Attack::NoSettings => Vec::new(),
                    Attack::Announcements => announcements(random),
                    _ => record(&Settings::default()),
                };
                hostile.begun = send(peer, Dir::Uni, &control, false).is_some();
                if hostile.begun {
                    attacks.insert(hostile.attack);
                    *places += match hostile.attack {
                        Attack::Routes => MANY as u64,
                        Attack::StrangeRoutes => 2 * STRANGE as u64,
                        _ => 0,
                    };
                    hostile.drip = begin(peer, hostile, random);
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
fn begin(peer: &mut RawPeer, hostile: &Hostile, random: &mut StdRng) -> Option<(StreamId, Vec<u8>)> {
    peer.deaf = matches!(hostile.attack, Attack::UnreadFetches | Attack::EmptyMessages);
    let sample = &samples().payloads[random.random_range(2..samples().payloads.len())];
    let mut noise = vec![0; random.random_range(1..2000)];
    random.fill(&mut noise[..]);
    match hostile.attack {
        Attack::IdlePut => drop(send(peer, Dir::Bi, &put(Token::of(&noise), 9 << 20), false)),
        Attack::Noise => {
            send(peer, Dir::Bi, &noise, true);
            send(peer, Dir::Uni, &noise, true);
        }
        Attack::EmptyMessages => {
            let mut bytes = Vec::new();
            for _ in 0..MANY * 50 {
                MessageHeader { queue: ECHO, token: None }.emit_record_front(0, &mut bytes);
            }
            send(peer, Dir::Uni, &bytes, false);
        }
        Attack::Drip => {
            let id = send(peer, Dir::Bi, &[], false)?;
            return Some((id, fetch(sample).into_iter().rev().collect()));
        }
        _ => {
            for bytes in requests(hostile, sample, random) {
                send(peer, Dir::Bi, &bytes, true);
            }
        }
    }
    None
}

/// The requests of an attack, each with all of its bytes.
fn requests(hostile: &Hostile, sample: &Sample, random: &mut StdRng) -> Vec<Vec<u8>> {
    let length = sample.bytes.len() as u64;
    let encoded = || encoding(&sample.bytes, &Ranges::all()).concat();
    // Each has a nonce of its own.
    let routed = |gateways: &[usize]| [record(&route(gateways).hop()), fetch(sample)].concat();
    match hostile.attack {
        Attack::UnreadFetches => vec![fetch(sample); MANY],
        Attack::NoSettings => vec![fetch(sample)],
        Attack::StrangeRoutes => (0..STRANGE).map(|_| routed(&[1, 0, 2])).collect(),
        Attack::FalseLength => vec![[put(sample.token, length + 1), encoded()].concat()],
        Attack::CutShort => {
            let encoded = encoded();
            vec![[put(sample.token, length), encoded[..encoded.len() / 2].to_vec()].concat()]
        }
        Attack::TinyPayloads => {
            let tiny = |bytes: [u8; 8]| [put(Token::of(&bytes), 8), bytes.to_vec()].concat();
            (0..MANY).map(|_| tiny(random.random())).collect()
        }
        Attack::Routes => {
            let next = (hostile.gateway + 1) % GATEWAYS_MAX;
            (0..MANY).map(|_| routed(&[hostile.gateway, next])).collect()
        }
        Attack::SilentSource => {
            let mirror = |token: Token| {
                let sources = vec![hostile.node];
                record(&Mirror { token: token.into(), lanes: Lanes::NONE, lease_s: 60, sources })
            };
            (0..MANY).map(|_| mirror(Token::of(&random.random::<[u8; 8]>()))).collect()
        }
        _ => Vec::new(),
    }
}

fn put(token: Token, length: u64) -> Vec<u8> {
    let descriptor = Descriptor::plain(token, length).unwrap();
    record(&Put { queue: SEED, lease_s: 60, descriptor, lanes: None })
}

fn fetch(sample: &Sample) -> Vec<u8> {
    let (token, ranges) = (sample.token.into(), Ranges::all());
    record(&Fetch { token, bytes_max: 0, lanes: None, ranges, describe: false })
}

/// SETTINGS, and HAVE records past their rate.
fn announcements(random: &mut StdRng) -> Vec<u8> {
    let mut bytes = record(&Settings::default());
    for _ in 0..HAVE_BURST + HAVE_RATE_PER_S {
        let token = Token::of(&random.random::<[u8; 8]>()).into();
        bytes.extend(record(&Have { token, coverage: Coverage::All, lease_s: 0 }));
    }
    bytes
}

fn record(record: &impl Record) -> Vec<u8> {
    let mut out = Vec::new();
    record.emit_record(&mut out);
    out
}
