//! Packets of a QUIC client that speaks for itself: a handshake of quinn-proto gives it the keys, and its frames are its own.

pub(crate) mod frames;

use bytes::{BufMut, BytesMut};
use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::crypto::{
    self, CryptoError, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, Session,
};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectError, ConnectionId, Side, TransportError};
use std::any::Any;
use std::sync::{Arc, Mutex, OnceLock};
use stoq::tls::{FalconAlgorithm, Identity};

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
#[derive(Clone, Default)]
pub(crate) struct TakenKeys(Arc<Mutex<Vec<WriteKeys>>>);

impl TakenKeys {
    /// Whether the client writes at this level.
    pub(crate) fn has(&self, level: Level) -> bool {
        self.0.lock().unwrap().len() > level as usize
    }
}

/// The configuration of a client whose keys are taken.
pub(crate) struct OpenConfig {
    pub(crate) inner: Arc<QuicClientConfig>,
    pub(crate) taken: TakenKeys,
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
        self.taken.0.lock().unwrap().push(keys.clone());
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

/// The connection IDs of the gateway and of the client in a packet of the gateway with a long header (RFC 9000 §17.2).
pub(crate) fn connection_ids(datagram: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
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
    /// A forger with the keys of this level, and the connection IDs of the gateway and of the client.
    pub(crate) fn new(level: Level, taken: &TakenKeys, (destination, source): (Vec<u8>, Vec<u8>)) -> Self {
        let keys = taken.0.lock().unwrap()[level as usize].clone();
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

/// A node without the gateway's trust.
pub(crate) fn stranger() -> &'static Identity {
    static MADE: OnceLock<Identity> = OnceLock::new();
    MADE.get_or_init(|| {
        Identity::generate(FalconAlgorithm::FalconPadded512, "stranger", &[], 1).unwrap().identity
    })
}
