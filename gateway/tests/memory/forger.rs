//! A QUIC client that sends packets of any frames. A handshake of quinn-proto gives it the keys, and it speaks no further.

use crate::support::{Station, World, gateway_v4, station, trust};
use bytes::{BufMut, BytesMut};
use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::crypto::{
    self, CryptoError, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, Session,
};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{
    ClientConfig, ConnectError, ConnectionId, DatagramEvent, EcnCodepoint, Endpoint, EndpointConfig, Event,
    Side, Transmit, TransportError,
};
use std::any::Any;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use stoq::counters::Counters;
use stoq::datagram::Network as _;
use stoq::quic::transport::QuicConfig;
use stoq::tls::{ClientTls, Identity, client_config, connect_name};
use stoq::wire::IpFamily;

/// RFC 9001 §5.3: the tag that packet protection adds, bytes.
const TAG_BYTES: usize = 16;
/// The first packet number of forged packets: those of quinn-proto are lower.
const NUMBER_MIN: u64 = 1000;

/// The encryption level of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Handshake,
    OneRtt,
}

/// The keys of one level by which the client writes.
#[derive(Clone)]
struct WriteKeys {
    header: Arc<dyn HeaderKey>,
    packet: Arc<dyn PacketKey>,
}

/// Those of each level, in order, as quinn-proto gets them.
type TakenKeys = Arc<Mutex<Vec<WriteKeys>>>;

struct OpenConfig {
    inner: Arc<QuicClientConfig>,
    taken: TakenKeys,
}

impl crypto::ClientConfig for OpenConfig {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        let session = crypto::ClientConfig::start_session(self.inner.clone(), version, server_name, params)?;
        Ok(Box::new(OpenSession { session, taken: self.taken.clone() }))
    }
}

struct OpenSession {
    session: Box<dyn Session>,
    taken: TakenKeys,
}

impl Session for OpenSession {
    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> Keys {
        self.session.initial_keys(dst_cid, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.session.handshake_data()
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.session.peer_identity()
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        self.session.early_crypto()
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.session.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.session.is_handshaking()
    }

    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        self.session.read_handshake(buf)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        self.session.transport_parameters()
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        let Keys { header, packet } = self.session.write_handshake(buf)?;
        let keys = WriteKeys { header: header.local.into(), packet: packet.local.into() };
        self.taken.lock().unwrap().push(keys.clone());
        let header = KeyPair { local: Box::new(SharedHeader(keys.header)) as _, remote: header.remote };
        let packet = KeyPair { local: Box::new(SharedPacket(keys.packet)) as _, remote: packet.remote };
        Some(Keys { header, packet })
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        self.session.next_1rtt_keys()
    }

    fn is_valid_retry(&self, orig_dst_cid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.session.is_valid_retry(orig_dst_cid, header, payload)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.session.export_keying_material(output, label, context)
    }
}

struct SharedHeader(Arc<dyn HeaderKey>);

impl HeaderKey for SharedHeader {
    fn decrypt(&self, pn_offset: usize, packet: &mut [u8]) {
        self.0.decrypt(pn_offset, packet);
    }

    fn encrypt(&self, pn_offset: usize, packet: &mut [u8]) {
        self.0.encrypt(pn_offset, packet);
    }

    fn sample_size(&self) -> usize {
        self.0.sample_size()
    }
}

struct SharedPacket(Arc<dyn PacketKey>);

impl PacketKey for SharedPacket {
    fn encrypt(&self, packet: u64, buf: &mut [u8], header_len: usize) {
        self.0.encrypt(packet, buf, header_len);
    }

    fn decrypt(&self, packet: u64, header: &[u8], payload: &mut BytesMut) -> Result<(), CryptoError> {
        self.0.decrypt(packet, header, payload)
    }

    fn tag_len(&self) -> usize {
        self.0.tag_len()
    }

    fn confidentiality_limit(&self) -> u64 {
        self.0.confidentiality_limit()
    }

    fn integrity_limit(&self) -> u64 {
        self.0.integrity_limit()
    }
}

/// A host of several addresses.
pub(crate) struct Addresses {
    stations: Vec<Station>,
    counters: Counters,
    /// What came to each of them, bytes and datagrams.
    pub(crate) received: Vec<(usize, u64)>,
}

impl Addresses {
    pub(crate) fn new(world: &World, count: u8) -> Self {
        let stations = (0..count).map(|number| station(&world.link, 150 + number, 1).remove(0)).collect();
        Self { stations, counters: Counters::default(), received: vec![(0, 0); count.into()] }
    }

    /// Sends a datagram from one of them.
    pub(crate) fn send(
        &mut self,
        world: &World,
        from: usize,
        ecn: Option<EcnCodepoint>,
        contents: &[u8],
        segment_size: Option<usize>,
    ) {
        let (destination, size) = (gateway_v4(), contents.len());
        let transmit = Transmit { destination, ecn, size, segment_size, src_ip: None };
        self.stations[from].send(world.now, &self.counters, &transmit, contents);
        self.stations[from].flush(world.now, &self.counters);
    }

    /// Lets packets cross the link, and shows those that arrive at the first address.
    pub(crate) fn pass(&mut self, world: &mut World, mut show: impl FnMut(&[u8])) {
        let Self { stations, counters, received } = self;
        for _ in 0..2 {
            world.pass(Duration::from_micros(600));
            for (at, station) in stations.iter_mut().enumerate() {
                station.receive(world.now, counters, |datagram| {
                    received[at].0 += datagram.payload.len();
                    received[at].1 += 1;
                    if at == 0 {
                        show(datagram.payload);
                    }
                });
                if station.poll_timeout().is_some_and(|due| due <= world.now) {
                    station.handle_timeout(world.now, counters);
                }
                station.flush(world.now, counters);
            }
        }
    }
}

/// The connection IDs of the gateway and of the client in a packet of the gateway with a long header (RFC 9000 §17.2).
fn connection_ids(datagram: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let rest = datagram.get(5..).filter(|_| datagram[0] & 0x80 != 0)?;
    let (own_len, rest) = rest.split_first()?;
    let (own, rest) = rest.split_at_checked((*own_len).into())?;
    let (len, rest) = rest.split_first()?;
    Some((rest.get(..usize::from(*len))?.to_vec(), own.to_vec()))
}

/// One connection, whose packets are forged.
pub(crate) struct Forger {
    level: Level,
    keys: WriteKeys,
    /// The connection IDs of the gateway and of the client.
    destination: Vec<u8>,
    source: Vec<u8>,
    pub(crate) number: u64,
}

impl Forger {
    /// Connects, as this node if one is named. A handshake that is wanted alone stops where the client would show its certificate.
    #[track_caller]
    pub(crate) fn connect(
        world: &mut World,
        addresses: &mut Addresses,
        node: Option<&Identity>,
        level: Level,
    ) -> Self {
        let tls = ClientTls { identity: node.cloned(), session_cache_len: 0, ..ClientTls::new(trust()) };
        let taken = TakenKeys::default();
        let inner = client_config(&tls).unwrap();
        let mut config = ClientConfig::new(Arc::new(OpenConfig { inner, taken: taken.clone() }));
        config.transport_config(QuicConfig::default().transport(1500, IpFamily::V4, 256));
        let mut endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), None, true, None);
        let remote = gateway_v4();
        let (handle, mut quic) = endpoint.connect(world.now, config, remote, &connect_name(remote)).unwrap();
        let (mut connected_rounds, mut ids) = (0, (Vec::new(), Vec::new()));
        for round in 0.. {
            assert!(round < 1000, "the handshake is not completed\n{}", world.report());
            if level == Level::Handshake && !taken.lock().unwrap().is_empty() && !ids.0.is_empty() {
                break;
            }
            if quic.poll_timeout().is_some_and(|at| at <= world.now) {
                quic.handle_timeout(world.now);
            }
            let mut buffer = Vec::new();
            while let Some(transmit) = quic.poll_transmit(world.now, 1, &mut buffer) {
                addresses.send(world, 0, transmit.ecn, &buffer[..transmit.size], transmit.segment_size);
                buffer.clear();
            }
            let mut arrived = Vec::new();
            addresses.pass(world, |datagram| arrived.push(datagram.to_vec()));
            for datagram in arrived {
                ids = connection_ids(&datagram).unwrap_or(ids);
                let data = BytesMut::from(&datagram[..]);
                let event = endpoint.handle(world.now, remote, None, None, data, &mut Vec::new());
                if let Some(DatagramEvent::ConnectionEvent(_, event)) = event {
                    quic.handle_event(event);
                }
            }
            while let Some(event) = quic.poll_endpoint_events() {
                if let Some(event) = endpoint.handle_event(handle, event) {
                    quic.handle_event(event);
                }
            }
            while let Some(event) = quic.poll() {
                match event {
                    Event::Connected => connected_rounds = 1,
                    // A client has its keys before the gateway has judged its certificate.
                    Event::ConnectionLost { .. } if taken.lock().unwrap().len() > level as usize => {
                        connected_rounds = 5;
                    }
                    Event::ConnectionLost { reason } => panic!("lost: {reason}"),
                    _ => {}
                }
            }
            // The client's last flight arrives, and what the gateway answers is acknowledged.
            connected_rounds += u32::from(connected_rounds > 0);
            if connected_rounds > 5 {
                break;
            }
        }
        let keys = taken.lock().unwrap()[level as usize].clone();
        let (destination, source) = ids;
        Self { level, keys, destination, source, number: NUMBER_MIN }
    }

    /// A packet with these frames, under the next number.
    pub(crate) fn packet(&mut self, frames: &[u8]) -> Vec<u8> {
        let mut packet = Vec::with_capacity(64 + frames.len());
        match self.level {
            Level::Handshake => {
                packet.put_slice(&[0xe3, 0, 0, 0, 1]);
                for id in [&self.destination, &self.source] {
                    packet.put_u8(id.len() as u8);
                    packet.put_slice(id);
                }
                packet.put_u16(0x4000 | (4 + frames.len() + TAG_BYTES) as u16);
            }
            Level::OneRtt => {
                packet.put_u8(0x43);
                packet.put_slice(&self.destination);
            }
        }
        let number_at = packet.len();
        packet.put_u32(self.number as u32);
        packet.put_slice(frames);
        packet.resize(packet.len() + TAG_BYTES, 0);
        self.keys.packet.encrypt(self.number, &mut packet, number_at + 4);
        self.keys.header.encrypt(number_at, &mut packet);
        self.number += 1;
        packet
    }
}
