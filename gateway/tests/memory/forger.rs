//! A QUIC client that sends packets of any frames. A handshake of quinn-proto gives it the keys, and it speaks no further.

use crate::forged::{Forger, Level, OpenConfig, TakenKeys, connection_ids};
use crate::support::{Station, World, gateway_v4, station, trust};
use bytes::BytesMut;
use quinn_proto::{ClientConfig, DatagramEvent, EcnCodepoint, Endpoint, EndpointConfig, Event, Transmit};
use std::sync::Arc;
use std::time::Duration;
use stoq::counters::Counters;
use stoq::datagram::Network as _;
use stoq::quic::transport::QuicConfig;
use stoq::tls::{ClientTls, Identity, client_config, connect_name};
use stoq::wire::IpFamily;

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
            if level == Level::Handshake && taken.has(level) && !ids.0.is_empty() {
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
                    Event::ConnectionLost { .. } if taken.has(level) => {
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
        Self::new(level, &taken, ids)
    }
}
