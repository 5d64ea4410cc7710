//! Two quinn-proto endpoints joined in memory, under virtual time.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn_proto::{
    ClientConfig, Connection, ConnectionError, ConnectionHandle, DatagramEvent, Endpoint, Event,
    ServerConfig, TransportConfig, ValidationTokenConfig,
};
use stoq::tls::{NodeId, PeerChain, connect_name, explain, peer_node_id};

/// The way from one end to the other.
const ONE_WAY: Duration = Duration::from_millis(25);
/// UDP payload of every packet: the smallest that QUIC allows (RFC 9000 §14).
const MTU: u16 = 1200;

/// The outcome of a connection between the two.
#[derive(Default)]
pub struct Outcome {
    pub client: Side,
    pub server: Side,
}

/// The outcome for one end.
#[derive(Default)]
pub struct Side {
    /// Virtual time from the first packet until the handshake was complete at this end, round trips.
    pub connected_rtts: Option<f64>,
    pub lost: Option<ConnectionError>,
    pub peer: Option<NodeId>,
    /// The certificates that the peer showed.
    pub chain: Option<PeerChain>,
    /// The UDP payload bytes that this end sent.
    pub sent_bytes: usize,
    /// Whether this end's session allowed it to send early data.
    pub early_data: bool,
}

impl Outcome {
    /// The TLS alert by which one end refused the other, as both know it.
    #[track_caller]
    pub fn alert(&self) -> u64 {
        let [client, server] = [&self.client, &self.server].map(|side| match &side.lost {
            Some(ConnectionError::TransportError(error)) => u64::from(error.code),
            Some(ConnectionError::ConnectionClosed(close)) => u64::from(close.error_code),
            other => panic!("no refusal: {other:?}"),
        });
        assert_eq!(client, server, "both ends know the same alert");
        // RFC 9001 §4.8: 0x0100 and the alert.
        client - 0x100
    }
}

impl Side {
    /// The reason of TLS's refusal, in this end's text.
    pub fn refusal(&self) -> String {
        let lost = self.lost.as_ref().expect("this end keeps the connection");
        explain(lost).unwrap_or_else(|| panic!("no TLS refusal: {lost}")).to_string()
    }
}

struct End {
    endpoint: Endpoint,
    connection: Option<(ConnectionHandle, Connection)>,
    address: SocketAddr,
    side: Side,
}

impl End {
    fn new(server: Option<ServerConfig>, address: &str) -> Self {
        let endpoint = Endpoint::new(Arc::default(), server.map(Arc::new), false, None);
        Self { endpoint, connection: None, address: address.parse().unwrap(), side: Side::default() }
    }

    fn receive(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) -> Vec<Vec<u8>> {
        let mut reply = Vec::new();
        match self.endpoint.handle(now, from, None, None, BytesMut::from(datagram), &mut reply) {
            Some(DatagramEvent::NewConnection(incoming)) => {
                match self.endpoint.accept(incoming, now, &mut reply, None) {
                    Ok(accepted) => self.connection = Some(accepted),
                    Err(refused) => {
                        self.side.lost = Some(refused.cause);
                        if let Some(transmit) = refused.response {
                            return vec![reply[..transmit.size].to_vec()];
                        }
                    }
                }
            }
            Some(DatagramEvent::ConnectionEvent(_, event)) => {
                if let Some((_, connection)) = &mut self.connection {
                    connection.handle_event(event);
                }
            }
            Some(DatagramEvent::Response(transmit)) => return vec![reply[..transmit.size].to_vec()],
            None => {}
        }
        vec![]
    }

    /// Lets the connection work until it has no more work at `now`; returns the datagrams that it sends.
    fn work(&mut self, now: Instant, rtts: f64) -> Vec<Vec<u8>> {
        let Some((handle, connection)) = &mut self.connection else { return vec![] };
        if connection.poll_timeout().is_some_and(|at| at <= now) {
            connection.handle_timeout(now);
        }
        while let Some(event) = connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(*handle, event) {
                connection.handle_event(event);
            }
        }
        while let Some(event) = connection.poll() {
            match event {
                Event::Connected => self.side.connected_rtts = Some(rtts),
                Event::ConnectionLost { reason } => self.side.lost = Some(reason),
                _ => {}
            }
        }
        self.side.peer = peer_node_id(connection);
        self.side.chain = PeerChain::of(connection);
        let mut sent = Vec::new();
        let mut buffer = Vec::new();
        while let Some(transmit) = connection.poll_transmit(now, 1, &mut buffer) {
            self.side.sent_bytes += transmit.size;
            sent.push(buffer[..transmit.size].to_vec());
            buffer.clear();
        }
        sent
    }
}

/// Two ends that keep their configurations, and so their sessions, from one connection to the next.
pub struct Pair {
    client: ClientConfig,
    server: ServerConfig,
}

impl Pair {
    pub fn new(client: Arc<QuicClientConfig>, server: Arc<QuicServerConfig>) -> Self {
        let mut transport = TransportConfig::default();
        transport.mtu_discovery_config(None).initial_mtu(MTU);
        let transport = Arc::new(transport);
        let mut client = ClientConfig::new(client);
        client.transport_config(transport.clone());
        let mut server = ServerConfig::with_crypto(server);
        server.transport_config(transport);
        // No NEW_TOKEN: every connection meets the limit on bytes sent before validation.
        let mut tokens = ValidationTokenConfig::default();
        tokens.sent(0);
        server.validation_token_config(tokens);
        Self { client, server }
    }

    /// Connects and runs both ends for a virtual second, or until both have lost the connection.
    pub fn connect(&self) -> Outcome {
        let start = Instant::now();
        let mut client = End::new(None, "192.0.2.1:4000");
        let mut server = End::new(Some(self.server.clone()), "192.0.2.2:4433");
        let name = connect_name(server.address);
        let dialed = client.endpoint.connect(start, self.client.clone(), server.address, &name).unwrap();
        client.side.early_data = dialed.1.has_0rtt();
        client.connection = Some(dialed);
        let mut wire: VecDeque<(Instant, bool, Vec<u8>)> = VecDeque::new();
        let mut now = start;
        while now < start + Duration::from_secs(1)
            && !(client.side.lost.is_some() && server.side.lost.is_some())
        {
            let rtts = (now - start).as_secs_f64() / (2.0 * ONE_WAY.as_secs_f64());
            wire.extend(client.work(now, rtts).into_iter().map(|datagram| (now + ONE_WAY, true, datagram)));
            wire.extend(server.work(now, rtts).into_iter().map(|datagram| (now + ONE_WAY, false, datagram)));
            let timers = [&mut client, &mut server].into_iter().filter_map(|end| {
                end.connection.as_mut().and_then(|(_, connection)| connection.poll_timeout())
            });
            let Some(next) = timers.chain(wire.front().map(|(at, ..)| *at)).min() else { break };
            now = now.max(next);
            while let Some((_, to_server, datagram)) = wire.pop_front_if(|(at, ..)| *at <= now) {
                let (to, from) =
                    if to_server { (&mut server, client.address) } else { (&mut client, server.address) };
                let replies = to.receive(now, from, &datagram);
                wire.extend(replies.into_iter().map(|reply| (now + ONE_WAY, !to_server, reply)));
            }
        }
        Outcome { client: client.side, server: server.side }
    }
}
