//! A QUIC endpoint of the test's own. It is authenticated and follows no protocol: it sends any bytes.

use super::caller::Peer;
use super::identities::gateway_identity;
use super::{Station, UDP_PORT, World, identities, station, trust};
use bytes::BytesMut;
use quinn_proto::{
    ClientConfig, Connection, ConnectionError, ConnectionHandle, DatagramEvent, Dir, Endpoint,
    EndpointConfig, Event, ServerConfig, StreamEvent, StreamId, Transmit, WriteError, crypto,
};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use stoq::counters::Counters;
use stoq::datagram::{Datagram, Network as _};
use stoq::quic::transport::QuicConfig;
use stoq::record::{ErrorRecord, Record, RecordReader, RecordType, Settings};
use stoq::tls::{ClientAuth, ClientTls, Identity, ServerTls, client_config, connect_name, server_config};
use stoq::wire::IpFamily;

/// One connection of the endpoint.
pub(crate) struct RawPeer {
    network: Station,
    pub(crate) counters: Counters,
    endpoint: Endpoint,
    handle: ConnectionHandle,
    pub(crate) quic: Connection,
    pub(crate) connected: bool,
    pub(crate) lost: Option<ConnectionError>,
    /// Received STOP_SENDING codes, by stream.
    pub(crate) stopped: HashMap<StreamId, u64>,
    /// Received bytes, by stream.
    pub(crate) received: HashMap<StreamId, Vec<u8>>,
    /// The bytes that it sends on this stream of its peer's once that has arrived.
    pub(crate) answer: Option<(StreamId, Vec<u8>)>,
    /// Whether it reads no stream, and so gives no credit.
    pub(crate) deaf: bool,
    /// Streams with bytes that it did not read while it was deaf.
    unheard: Vec<StreamId>,
    /// Whether it takes no packet and sends none but by [`RawPeer::crumb`]: it hears of no loss and repeats nothing.
    pub(crate) withdrawn: bool,
    /// Says when it withdraws of its own accord.
    withdraws: Option<Box<dyn Fn() -> bool>>,
    /// Its last packet from the gateway with a long header.
    pub(crate) long_header: Vec<u8>,
    /// Streams that the gateway has ended.
    pub(crate) finished: Vec<StreamId>,
    unsent: Vec<(StreamId, Vec<u8>, bool)>,
    /// When QUIC wants to be called next.
    next: Option<Instant>,
}

/// The number of a raw peer of a world.
#[derive(Clone, Copy)]
pub(crate) struct Raw(pub usize);

impl World {
    /// Plugs in a raw peer and connects it.
    #[track_caller]
    pub(crate) fn raw(&mut self, remote: SocketAddr) -> Raw {
        self.raw_with(remote, QuicConfig::default())
    }

    /// The same, with this transport.
    #[track_caller]
    pub(crate) fn raw_with(&mut self, remote: SocketAddr, quic: QuicConfig) -> Raw {
        self.raw_of(remote, &quic, &identities()[1])
    }

    /// The same, of another node than the clients.
    #[track_caller]
    pub(crate) fn raw_of(&mut self, remote: SocketAddr, quic: &QuicConfig, node: &Identity) -> Raw {
        let raw = self.plug_in_raw(remote, quic, node);
        self.run(Duration::from_secs(10), "a raw peer connects", |world| world.raw[raw.0].connected);
        raw
    }

    /// Plugs in a raw peer, which begins to connect.
    pub(crate) fn plug_in_raw(&mut self, remote: SocketAddr, quic: &QuicConfig, node: &Identity) -> Raw {
        let tls = ClientTls { identity: Some(node.clone()), ..ClientTls::new(trust()) };
        self.plug_in_client(remote, quic, client_config(&tls).unwrap(), None)
    }

    /// The same, with this TLS. It withdraws once `withdraws` says so.
    pub(crate) fn plug_in_client(
        &mut self,
        remote: SocketAddr,
        quic: &QuicConfig,
        tls: Arc<dyn crypto::ClientConfig>,
        withdraws: Option<Box<dyn Fn() -> bool>>,
    ) -> Raw {
        let index = self.raw.len();
        let network = station(&self.link, 100 + index as u8, 1).remove(0);
        let mut endpoint = EndpointConfig::default();
        endpoint.rng_seed(self.seeds.next());
        let mut peer = RawPeer::new(network, self.now, remote, quic, tls, endpoint);
        peer.withdraws = withdraws;
        self.raw.push(peer);
        Raw(index)
    }

    /// Plugs in a raw peer that a client connects to, and that allows the client this number of requests at once. Returns both ends.
    #[track_caller]
    #[allow(dead_code, reason = "the gateway's tests have no such peer")]
    pub(crate) fn raw_server(&mut self, client: usize, requests: u64) -> (Raw, Peer) {
        let index = self.raw.len();
        let number = 100 + index as u8;
        let tls = ServerTls::new(gateway_identity(0).clone(), ClientAuth::Required(trust()));
        let mut config = ServerConfig::with_crypto(server_config(&tls).unwrap());
        let quic = QuicConfig { receive_window_bytes: 1 << 20, ..QuicConfig::default() };
        config.transport_config(quic.transport(1500, IpFamily::V4, requests));
        let mut endpoint = Endpoint::new(Arc::default(), Some(Arc::new(config)), true, None);
        let mut network = station(&self.link, number, 1).remove(0);
        let remote = SocketAddr::new([10, 77, 0, number].into(), UDP_PORT);
        let tag = self.clients[client].callers[0].connect(remote);
        let (counters, mut accepted, mut response) = (Counters::default(), None, Vec::new());
        self.run(Duration::from_secs(10), "a client asks for a connection", |world| {
            let mut asked = None;
            network.receive(world.now, &counters, |datagram| {
                let data = BytesMut::from(datagram.payload);
                let Datagram { remote, local_ip, ecn, .. } = datagram;
                let event = endpoint.handle(world.now, remote, local_ip, ecn, data, &mut response);
                if let Some(DatagramEvent::NewConnection(incoming)) = event {
                    asked = Some(incoming);
                }
            });
            network.flush(world.now, &counters);
            accepted = asked.and_then(|asked| endpoint.accept(asked, world.now, &mut response, None).ok());
            accepted.is_some()
        });
        let (handle, quic) = accepted.expect("it was accepted");
        self.raw.push(RawPeer::of(network, endpoint, handle, quic));
        self.run(Duration::from_secs(10), "the connection comes up", |world| {
            world.raw[index].connected && world.clients[client].callers[0].peer(tag).is_some()
        });
        let mut peer = self.clients[client].callers[0].peer(tag).cloned().unwrap();
        peer.host = client;
        (Raw(index), peer)
    }

    pub(crate) fn raw_mut(&mut self, raw: Raw) -> &mut RawPeer {
        &mut self.raw[raw.0]
    }

    /// Opens CONTROL and sends SETTINGS, which must be first.
    pub(crate) fn say_settings(&mut self, raw: Raw) -> StreamId {
        let mut settings = Vec::new();
        Settings::default().emit_record(&mut settings);
        self.raw_mut(raw).send(Dir::Uni, &settings, false)
    }

    /// Waits until the gateway has stopped this stream; returns the code.
    #[track_caller]
    pub(crate) fn stop_code(&mut self, raw: Raw, id: StreamId) -> u64 {
        self.run(Duration::from_secs(2), "STOP_SENDING", |world| world.raw[raw.0].stopped.contains_key(&id));
        self.raw[raw.0].stopped[&id]
    }

    /// Waits until the gateway has ended its half of this stream; returns its ERROR record.
    #[track_caller]
    pub(crate) fn error_on(&mut self, raw: Raw, id: StreamId) -> ErrorRecord {
        self.run(Duration::from_secs(2), "an answer", |world| world.raw[raw.0].finished.contains(&id));
        let records = records(&self.raw[raw.0].received[&id]);
        let (kind, body) = records.last().expect("an answer");
        assert_eq!(*kind, RecordType::Error);
        ErrorRecord::parse(body).unwrap()
    }

    /// Waits until the connection is lost; returns the code of the gateway's CONNECTION_CLOSE.
    #[track_caller]
    pub(crate) fn close_code(&mut self, raw: Raw) -> u64 {
        self.run(Duration::from_secs(5), "CONNECTION_CLOSE", |world| world.raw[raw.0].lost.is_some());
        match &self.raw[raw.0].lost {
            Some(ConnectionError::ApplicationClosed(close)) => close.error_code.into_inner(),
            other => panic!("lost by {other:?}"),
        }
    }
}

/// The records in these bytes.
#[track_caller]
pub(crate) fn records(bytes: &[u8]) -> Vec<(RecordType, Vec<u8>)> {
    let mut reader = RecordReader::new();
    reader.push(bytes.to_vec().into());
    let mut read = Vec::new();
    while let Some(header) = reader.next_header().unwrap() {
        let body = reader.take_body().expect("a whole record");
        read.push((header.record_type, body.to_bytes().to_vec()));
    }
    read
}

impl RawPeer {
    fn new(
        network: Station,
        now: Instant,
        remote: SocketAddr,
        quic: &QuicConfig,
        tls: Arc<dyn crypto::ClientConfig>,
        endpoint: EndpointConfig,
    ) -> Self {
        let mut config = ClientConfig::new(tls);
        config.transport_config(quic.transport(1500, IpFamily::V6, 256));
        let mut endpoint = Endpoint::new(Arc::new(endpoint), None, true, None);
        let (handle, quic) = endpoint.connect(now, config, remote, &connect_name(remote)).unwrap();
        Self::of(network, endpoint, handle, quic)
    }

    fn of(network: Station, endpoint: Endpoint, handle: ConnectionHandle, quic: Connection) -> Self {
        Self {
            network,
            counters: Counters::default(),
            endpoint,
            handle,
            quic,
            connected: false,
            lost: None,
            stopped: HashMap::new(),
            received: HashMap::new(),
            answer: None,
            deaf: false,
            unheard: Vec::new(),
            withdrawn: false,
            withdraws: None,
            long_header: Vec::new(),
            finished: Vec::new(),
            unsent: Vec::new(),
            next: None,
        }
    }

    /// Opens a stream and sends these bytes on it.
    pub(crate) fn send(&mut self, dir: Dir, bytes: &[u8], finish: bool) -> StreamId {
        let id = self.quic.streams().open(dir).expect("the gateway allows another stream");
        self.send_on(id, bytes, finish);
        id
    }

    /// Sends more on a stream.
    pub(crate) fn send_on(&mut self, id: StreamId, bytes: &[u8], finish: bool) {
        self.unsent.push((id, bytes.to_vec(), finish));
    }

    /// Sends these bytes on a stream in a packet of their own, or loses that packet on the way. For one that is
    /// [`RawPeer::withdrawn`]: what is lost stays lost.
    pub(crate) fn crumb(&mut self, now: Instant, id: StreamId, bytes: &[u8], lost: bool) {
        assert!(self.withdrawn);
        assert_eq!(self.quic.send_stream(id).write(bytes), Ok(bytes.len()));
        let mut buffer = Vec::new();
        let transmit = self.quic.poll_transmit(now, 1, &mut buffer).expect("QUIC sends it at once");
        if !lost {
            self.network.send(now, &self.counters, &transmit, &buffer[..transmit.size]);
            self.network.flush(now, &self.counters);
        }
    }

    /// Reads its streams from now on, and what has arrived of them.
    #[allow(dead_code, reason = "a test of the other crate uses it")]
    pub(crate) fn hear(&mut self, now: Instant) {
        self.deaf = false;
        for id in std::mem::take(&mut self.unheard) {
            self.read_stream(id);
        }
        self.next = Some(now);
    }

    /// Sends a datagram that QUIC did not make. For one that is [`RawPeer::withdrawn`]: QUIC hears of no answer.
    #[allow(dead_code, reason = "peers of the worlds forge packets")]
    pub(crate) fn forge(&mut self, now: Instant, datagram: &[u8]) {
        assert!(self.withdrawn);
        let (destination, size) = (self.quic.remote_address(), datagram.len());
        let transmit = Transmit { destination, ecn: None, size, segment_size: None, src_ip: None };
        self.network.receive(now, &self.counters, |_| {});
        self.network.send(now, &self.counters, &transmit, datagram);
        self.network.flush(now, &self.counters);
    }

    /// Takes the packets that have arrived, though it is [`RawPeer::withdrawn`].
    pub(crate) fn listen(&mut self, now: Instant) {
        assert!(self.receive(now), "packets have arrived");
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        if self.withdrawn {
            return None;
        }
        self.network.poll_timeout().into_iter().chain(self.next).min()
    }

    pub(crate) fn turn(&mut self, now: Instant) -> bool {
        if self.withdrawn {
            return false;
        }
        let mut worked = self.receive(now);
        if self.withdraws.as_ref().is_some_and(|withdraws| withdraws()) {
            self.withdrawn = true;
            // What it has answered a neighbor is counted as sent.
            self.network.flush(now, &self.counters);
            return true;
        }
        if self.quic.poll_timeout().is_some_and(|at| at <= now) {
            self.quic.handle_timeout(now);
            worked = true;
        }
        worked |= self.read() | self.write();
        let mut buffer = Vec::new();
        while let Some(transmit) = self.quic.poll_transmit(now, 16, &mut buffer) {
            self.network.send(now, &self.counters, &transmit, &buffer[..transmit.size]);
            self.network.flush(now, &self.counters);
            buffer.clear();
            worked = true;
        }
        while let Some(event) = self.quic.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(self.handle, event) {
                self.quic.handle_event(event);
                worked = true;
            }
        }
        if self.network.poll_timeout().is_some_and(|at| at <= now) {
            self.network.handle_timeout(now, &self.counters);
        }
        self.network.flush(now, &self.counters);
        self.next = self.quic.poll_timeout();
        worked
    }

    fn receive(&mut self, now: Instant) -> bool {
        let Self { network, counters, endpoint, quic, handle, long_header, .. } = self;
        let mut response = Vec::new();
        network.receive(now, counters, |datagram| {
            if datagram.payload.first().is_some_and(|first| first & 0x80 != 0) {
                datagram.payload.clone_into(long_header);
            }
            let data = BytesMut::from(datagram.payload);
            let event =
                endpoint.handle(now, datagram.remote, datagram.local_ip, datagram.ecn, data, &mut response);
            if let Some(DatagramEvent::ConnectionEvent(of, event)) = event
                && of == *handle
            {
                quic.handle_event(event);
            }
        }) > 0
    }

    fn read(&mut self) -> bool {
        let mut worked = false;
        while let Some(event) = self.quic.poll() {
            worked = true;
            match event {
                Event::Connected => self.connected = true,
                Event::ConnectionLost { reason } => self.lost = Some(reason),
                Event::Stream(StreamEvent::Opened { dir }) => {
                    while let Some(id) = self.quic.streams().accept(dir) {
                        if let Some((_, bytes)) = self.answer.take_if(|(to, _)| *to == id) {
                            self.send_on(id, &bytes, false);
                        }
                        self.read_stream(id);
                    }
                }
                Event::Stream(StreamEvent::Readable { id }) => self.read_stream(id),
                Event::Stream(StreamEvent::Stopped { id, error_code }) => {
                    self.stopped.insert(id, error_code.into_inner());
                }
                _ => {}
            }
        }
        worked
    }

    fn read_stream(&mut self, id: StreamId) {
        if self.deaf {
            self.unheard.push(id);
            return;
        }
        let received = self.received.entry(id).or_default();
        let mut stream = self.quic.recv_stream(id);
        let Ok(mut chunks) = stream.read(true) else { return };
        loop {
            match chunks.next(usize::MAX) {
                Ok(Some(chunk)) => received.extend_from_slice(&chunk.bytes),
                Ok(None) => {
                    self.finished.push(id);
                    break;
                }
                Err(_) => break,
            }
        }
        let _ = chunks.finalize();
    }

    fn write(&mut self) -> bool {
        let mut worked = false;
        let quic = &mut self.quic;
        self.unsent.retain_mut(|(id, bytes, finish)| {
            let mut stream = quic.send_stream(*id);
            while !bytes.is_empty() {
                match stream.write(bytes) {
                    Ok(written) => {
                        worked = true;
                        bytes.drain(..written);
                    }
                    Err(WriteError::Blocked) => return true,
                    Err(_) => return false,
                }
            }
            if *finish {
                worked |= stream.finish().is_ok();
            }
            false
        });
        worked
    }
}
