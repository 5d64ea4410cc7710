//! First flights of QUIC clients that never continue the handshake.

use bytes::BufMut;
use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::crypto::{ClientConfig as _, Session};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectionId, Side};
use rand::{Rng, RngCore};
use std::sync::Arc;
use stoq::quic::cid::CID_LEN;

/// UDP payload of every datagram of a flight, bytes: the minimum that RFC 9000 §14.1 requires of Initial packets.
pub const INITIAL_DATAGRAM_BYTES: usize = 1200;

/// RFC 9000 §17.2: long header, fixed bit, type Initial, a packet number of four bytes.
const FIRST_BYTE: u8 = 0xc3;
const PACKET_NUMBER_BYTES: usize = 4;
const VERSION_1: u32 = 1;
/// RFC 9001 §5.3: the tag that packet protection adds.
const TAG_BYTES: usize = 16;
/// First byte, version, two connection IDs with their lengths, no token, length.
const HEADER_BYTES: usize = 1 + 4 + 2 * (1 + CID_LEN) + 1 + 2;
/// Frames in one datagram, bytes.
const FRAMES_BYTES: usize = INITIAL_DATAGRAM_BYTES - HEADER_BYTES - PACKET_NUMBER_BYTES - TAG_BYTES;
/// A CRYPTO frame's type, and its offset and length as varints of four and two bytes (RFC 9000 §19.6).
const CRYPTO_FRAME: u8 = 0x06;
const CRYPTO_HEADER_BYTES: usize = 1 + 4 + 2;
/// RFC 9000 §16: the two most significant bits of a varint of two bytes, and its bound.
const VARINT_2: u16 = 0x4000;
const VARINT_4: u32 = 0x8000_0000;
const VARINT_2_MAX: usize = 0x3fff;
/// RFC 9000 §18.2: initial_source_connection_id.
const INITIAL_SOURCE_CID: u8 = 0x0f;

/// Why no Initial packets can be made.
#[derive(Debug, thiserror::Error)]
pub enum InitialError {
    /// The TLS configuration makes no ClientHello.
    #[error("no ClientHello can be made of this TLS configuration: {0}")]
    Hello(String),
    /// The ClientHello is too long for CRYPTO frames with offsets of two bytes.
    #[error("the ClientHello has {0} bytes, more than a flight of Initial packets carries")]
    TooLong(usize),
}

/// Makes first flights of one ClientHello. Each has a destination connection ID of its own, so each begins a connection. The hello's
/// key share is real, so a gateway that accepts a flight does all the work of a handshake for an absent client.
pub struct Initials {
    session: Box<dyn Session>,
    source: [u8; CID_LEN],
    hello: Vec<u8>,
}

impl std::fmt::Debug for Initials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Initials").field("hello_bytes", &self.hello.len()).finish_non_exhaustive()
    }
}

impl Initials {
    /// Makes the flights of a client with this TLS configuration that connects to `server_name`.
    ///
    /// # Errors
    /// See [`InitialError`].
    pub fn new(tls: Arc<QuicClientConfig>, server_name: &str) -> Result<Self, InitialError> {
        let source: [u8; CID_LEN] = rand::rng().random();
        // RFC 9000 §7.3: the hello names its client's connection ID, so all flights have the same source connection ID.
        let parameters = [&[INITIAL_SOURCE_CID, CID_LEN as u8], &source[..]].concat();
        let parameters = TransportParameters::read(Side::Server, &mut &parameters[..])
            .map_err(|error| InitialError::Hello(error.to_string()))?;
        let mut session = tls
            .start_session(VERSION_1, server_name, &parameters)
            .map_err(|error| InitialError::Hello(error.to_string()))?;
        let mut hello = Vec::new();
        session.write_handshake(&mut hello);
        if hello.is_empty() || hello.len() > VARINT_2_MAX {
            return Err(InitialError::TooLong(hello.len()));
        }
        Ok(Self { session, source, hello })
    }

    /// Datagrams of one flight.
    pub fn flight_len(&self) -> usize {
        self.hello.len().div_ceil(FRAMES_BYTES - CRYPTO_HEADER_BYTES)
    }

    /// Appends a flight to a new connection: [`Initials::flight_len`] datagrams of [`INITIAL_DATAGRAM_BYTES`].
    pub fn emit_flight(&self, out: &mut Vec<u8>) {
        let mut destination = [0; CID_LEN];
        rand::rng().fill_bytes(&mut destination);
        for (number, part) in self.hello.chunks(FRAMES_BYTES - CRYPTO_HEADER_BYTES).enumerate() {
            let offset = number * (FRAMES_BYTES - CRYPTO_HEADER_BYTES);
            self.emit(&destination, number as u32, (offset as u32, part), out);
        }
    }

    /// Appends the first datagram of a flight to a new connection. The hello never becomes whole.
    pub fn emit_half(&self, out: &mut Vec<u8>) {
        let len = self.hello.len().min(FRAMES_BYTES - CRYPTO_HEADER_BYTES) / 2;
        self.emit(&rand::rng().random(), 0, (0, &self.hello[..len]), out);
    }

    /// Appends datagram `number` of this connection, with one byte of CRYPTO behind a gap.
    pub fn emit_gap(&self, destination: &[u8; CID_LEN], number: u32, out: &mut Vec<u8>) {
        self.emit(destination, number, (1 + 2 * number, &[0]), out);
    }

    /// Appends one datagram to a new connection, with a CRYPTO frame of these bytes at any offset below 2^30.
    ///
    /// # Panics
    /// When the frame does not fit.
    pub fn emit_crypto(&self, offset: u32, bytes: &[u8], out: &mut Vec<u8>) {
        assert!(bytes.len() <= FRAMES_BYTES - CRYPTO_HEADER_BYTES && offset < 1 << 30);
        self.emit(&rand::rng().random(), 0, (offset, bytes), out);
    }

    /// Appends a datagram: an Initial packet with a CRYPTO frame.
    fn emit(
        &self,
        destination: &[u8; CID_LEN],
        number: u32,
        (offset, part): (u32, &[u8]),
        out: &mut Vec<u8>,
    ) {
        let keys = self.session.initial_keys(&ConnectionId::new(destination), Side::Client);
        let start = out.len();
        out.put_u8(FIRST_BYTE);
        out.put_u32(VERSION_1);
        for cid in [destination, &self.source] {
            out.put_u8(CID_LEN as u8);
            out.put_slice(cid);
        }
        out.put_u8(0);
        out.put_u16(VARINT_2 | (PACKET_NUMBER_BYTES + FRAMES_BYTES + TAG_BYTES) as u16);
        let number_at = out.len() - start;
        out.put_u32(number);
        out.put_u8(CRYPTO_FRAME);
        out.put_u32(VARINT_4 | offset);
        out.put_u16(VARINT_2 | part.len() as u16);
        out.put_slice(part);
        // RFC 9000 §14.1: PADDING frames, which are zeros; then room for the tag.
        out.resize(start + INITIAL_DATAGRAM_BYTES, 0);
        let packet = &mut out[start..];
        keys.packet.local.encrypt(u64::from(number), packet, number_at + PACKET_NUMBER_BYTES);
        keys.header.local.encrypt(number_at, packet);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use quinn_proto::{Connection, ConnectionHandle, DatagramEvent, Endpoint, EndpointConfig, ServerConfig};
    use std::net::SocketAddr;
    use std::time::Instant;
    use stoq::quic::admission::may_be_quic;
    use stoq::quic::transport::QuicConfig;
    use stoq::tls::{
        ClientAuth, ClientTls, FalconAlgorithm, Identity, ServerTls, Trust, client_config, server_config,
    };
    use stoq::wire::IpFamily;

    struct Server {
        endpoint: Endpoint,
        now: Instant,
        connections: Vec<(ConnectionHandle, Connection)>,
        buffer: Vec<u8>,
    }

    impl Server {
        fn new(identity: Identity) -> Self {
            let tls = server_config(&ServerTls::new(identity, ClientAuth::Off)).unwrap();
            let mut config = ServerConfig::with_crypto(tls);
            config.transport_config(QuicConfig::default().transport(1500, IpFamily::V4, 256));
            let endpoint =
                Endpoint::new(Arc::new(EndpointConfig::default()), Some(Arc::new(config)), true, None);
            Self { endpoint, now: Instant::now(), connections: Vec::new(), buffer: Vec::new() }
        }

        fn take(&mut self, datagram: &[u8]) {
            assert!(may_be_quic(datagram));
            let remote = SocketAddr::from(([192, 0, 2, 1], 4433));
            let Self { endpoint, now, buffer, .. } = self;
            match endpoint.handle(*now, remote, None, None, BytesMut::from(datagram), buffer) {
                Some(DatagramEvent::NewConnection(incoming)) => {
                    self.connections.push(endpoint.accept(incoming, *now, buffer, None).unwrap());
                }
                Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                    let found = self.connections.iter_mut().find(|(of, _)| *of == handle).unwrap();
                    found.1.handle_event(event);
                }
                _ => panic!("neither a connection's beginning nor its continuation"),
            }
        }
    }

    #[test]
    fn every_flight_begins_a_connection_that_the_server_answers() {
        let identity =
            Identity::generate(FalconAlgorithm::FalconPadded512, "gateway", &[], 1).unwrap().identity;
        let trust = Trust::pinned([identity.node_id()]).unwrap();
        let client = client_config(&ClientTls::new(trust)).unwrap();
        let initials = Initials::new(client, "192.0.2.2").unwrap();
        assert_eq!(initials.flight_len(), 2, "X25519MLKEM768's share does not fit one datagram");
        let mut server = Server::new(identity);
        for flight in 1..=3 {
            let mut out = Vec::new();
            initials.emit_flight(&mut out);
            assert_eq!(out.len(), 2 * INITIAL_DATAGRAM_BYTES);
            out.chunks(INITIAL_DATAGRAM_BYTES).for_each(|datagram| server.take(datagram));
            assert_eq!(server.connections.len(), flight, "a connection of its own");
            let (_, connection) = server.connections.last_mut().unwrap();
            assert!(connection.is_handshaking());
            server.buffer.clear();
            let answer = connection.poll_transmit(server.now, 8, &mut server.buffer).expect("an answer");
            // A shorter answer would be an acknowledgment alone (RFC 9000 §8.1 allows three times what was received).
            assert!(answer.size > INITIAL_DATAGRAM_BYTES, "{} bytes", answer.size);
        }
        // A repeated flight continues its connection.
        let mut out = Vec::new();
        initials.emit_flight(&mut out);
        for _ in 0..5 {
            out.chunks(INITIAL_DATAGRAM_BYTES).for_each(|datagram| server.take(datagram));
        }
        assert_eq!(server.connections.len(), 4);
    }
}
