//! The test's own application: it records its deliveries and sends the test's commands within their credit.

use super::gathering::Gathering;
use super::{SEED, encoding};
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;
use stoq::application::{Outbox, Received};
use stoq::queue::{
    self, Answer, AppPort, Ask, Command, ConnectionCommand, ConnectionEvent, ConnectionId, Credit, Delivery,
    Ending, PeerSilence, RequestId,
};
use stoq::record::{self, Done, ErrorCode, ErrorRecord, Fetch, Holder, Hop, Listed, Locate, Mirror, Put};
use stoq::shard::{Descriptor, Lanes};
use stoq::tls::NodeId;
use stoq::token::{AnyToken, Ranges, Token};

/// A connection, as its application sees it.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// The number of the client; 0 until [`super::World::connect`] sets it.
    pub(crate) host: usize,
    pub(crate) connection: ConnectionId,
    pub(crate) node: Option<NodeId>,
    pub(crate) remote: SocketAddr,
    pub(crate) credit: Credit,
    tag: Option<u64>,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Done {
        bytes: u64,
        token: AnyToken,
    },
    Complete,
    /// The answer to LOCATE.
    Located(Vec<Holder>),
    /// The answer to LIST, STAT, REMOVE and RENEW.
    Listed(Listed),
    Failed(ErrorCode),
    /// The peer was silent.
    Silent(PeerSilence),
}

/// The deliveries of one request.
#[derive(Debug, Default)]
pub(crate) struct Request {
    pub(crate) accepted: Option<u64>,
    pub(crate) pieces: Vec<(u64, Bytes)>,
    pub(crate) end: Option<End>,
    pub(crate) failure: Option<ErrorRecord>,
}

impl Request {
    #[track_caller]
    pub(crate) fn end(&self) -> End {
        self.end.clone().expect("the request is not over")
    }

    /// Payload bytes that have arrived.
    pub(crate) fn bytes(&self) -> usize {
        self.pieces.iter().map(|(_, bytes)| bytes.len()).sum()
    }
}

struct Sending {
    request: RequestId,
    credit: Credit,
    chunks: VecDeque<Bytes>,
    accepted: bool,
}

/// The owner of a request.
#[derive(Clone, Copy, Debug)]
enum Owner {
    Test,
    Gathering,
}

pub(crate) struct Caller {
    port: AppPort,
    /// Whether it takes no deliveries.
    pub(crate) deaf: bool,
    pub(crate) peers: Vec<Peer>,
    pub(crate) connect_failed: Vec<(u64, String)>,
    pub(crate) closed: Vec<(ConnectionId, String)>,
    pub(crate) messages: Vec<(ConnectionId, u64, Bytes)>,
    pub(crate) requests: HashMap<RequestId, Request>,
    sending: Vec<Sending>,
    unsent: VecDeque<(ConnectionId, Credit, u64, Bytes)>,
    outbox: Outbox<Owner>,
    tags: u64,
    /// The gathering that it hosts, if any.
    pub(crate) gathering: Option<Gathering>,
    /// The credit for which its fetches wait; the test that sets it gives it back.
    pub(crate) pace: Option<Credit>,
    /// Whether its pieces are changed, as if no group of theirs had been checked: a fault that the worlds must find.
    pub(crate) unchecked: bool,
}

impl Caller {
    pub(crate) fn new(port: AppPort) -> Self {
        Self {
            port,
            deaf: false,
            peers: Vec::new(),
            connect_failed: Vec::new(),
            closed: Vec::new(),
            messages: Vec::new(),
            requests: HashMap::new(),
            sending: Vec::new(),
            unsent: VecDeque::new(),
            outbox: Outbox::default(),
            tags: 0,
            gathering: None,
            pace: None,
            unchecked: false,
        }
    }

    /// The connection that this tag asked for.
    pub(crate) fn peer(&self, tag: u64) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.tag == Some(tag))
    }

    /// Why the connection was closed, if it was.
    pub(crate) fn closed(&self, peer: &Peer) -> Option<&str> {
        self.closed.iter().find(|(id, _)| *id == peer.connection).map(|(_, reason)| reason.as_str())
    }

    #[track_caller]
    pub(crate) fn request(&self, request: RequestId) -> &Request {
        &self.requests[&request]
    }

    /// Messages that the port or the credit has not taken yet.
    pub(crate) fn unsent(&self) -> usize {
        self.unsent.len()
    }

    /// Bytes of the requests' encodings that the port or the credit has not taken yet.
    pub(crate) fn unsent_bytes(&self) -> usize {
        self.sending.iter().flat_map(|sending| &sending.chunks).map(Bytes::len).sum()
    }

    /// Asks for a connection; returns its tag.
    pub(crate) fn connect(&mut self, remote: SocketAddr) -> u64 {
        self.tags += 1;
        let tag = self.tags;
        self.send(Command::Connect { tag, remote, early: false });
        tag
    }

    /// Asks for a connection that may carry early data; returns its tag.
    pub(crate) fn connect_early(&mut self, remote: SocketAddr) -> u64 {
        self.tags += 1;
        let tag = self.tags;
        self.send(Command::Connect { tag, remote, early: true });
        tag
    }

    /// Sends a message in a QUIC datagram.
    pub(crate) fn datagram(&mut self, peer: &Peer, queue: u64, payload: &[u8]) {
        let payload = Bytes::copy_from_slice(payload);
        self.send(Command::On(peer.connection, ConnectionCommand::Datagram { queue, payload }));
    }

    pub(crate) fn disconnect(&mut self, peer: &Peer) {
        self.send(Command::On(peer.connection, ConnectionCommand::Disconnect));
    }

    pub(crate) fn cancel(&mut self, request: RequestId) {
        self.sending.retain(|sending| sending.request != request);
        self.outbox.cancel(&mut self.port, request);
    }

    /// Stops the reading of an answer with this code.
    pub(crate) fn stop(&mut self, request: RequestId, code: ErrorCode) {
        self.send(Command::Stop(request, code));
    }

    pub(crate) fn message(&mut self, peer: &Peer, queue: u64, payload: &[u8]) {
        let payload = Bytes::copy_from_slice(payload);
        self.unsent.push_back((peer.connection, peer.credit.clone(), queue, payload));
    }

    /// Begins to put a payload under its own token.
    pub(crate) fn put(&mut self, peer: &Peer, queue: u64, payload: &[u8]) -> RequestId {
        let encoded = encoding(payload, &Ranges::all());
        self.put_as(peer, queue, Token::of(payload), payload.len() as u64, encoded)
    }

    /// Begins to put any encoding under any token.
    pub(crate) fn put_as(
        &mut self,
        peer: &Peer,
        queue: u64,
        token: Token,
        length: u64,
        encoded: Vec<Bytes>,
    ) -> RequestId {
        let descriptor = Descriptor::plain(token, length).unwrap();
        self.put_with(peer, None, queue, descriptor, None, 60, encoded)
    }

    /// Begins to put a payload, and gives none of its bytes.
    pub(crate) fn put_without_bytes(&mut self, peer: &Peer, queue: u64, payload: &[u8]) -> RequestId {
        let descriptor = Descriptor::plain(Token::of(payload), payload.len() as u64).unwrap();
        let put = Put { queue, lease_s: 60, descriptor, lanes: None };
        self.ask(peer, Ask::new(put).with_credit(Credit::default()))
    }

    pub(crate) fn fetch(&mut self, peer: &Peer, token: Token, ranges: Ranges) -> RequestId {
        self.fetch_by(peer, None, token.into(), None, ranges)
    }

    /// Fetches ranges of a payload, or stripes of lanes, along a route.
    pub(crate) fn fetch_by(
        &mut self,
        peer: &Peer,
        hop: Option<Hop>,
        token: AnyToken,
        lanes: Option<(Lanes, Descriptor)>,
        ranges: Ranges,
    ) -> RequestId {
        let lanes = lanes.map(|(lanes, _)| lanes);
        let fetch = Fetch { token, bytes_max: 0, lanes, ranges, describe: false };
        let ask = Ask { credit: self.pace.clone(), ..Ask::new(fetch).by(hop.map(Box::new)) };
        self.ask(peer, ask)
    }

    pub(crate) fn locate(&mut self, peer: &Peer, token: AnyToken) -> RequestId {
        self.ask(peer, Ask::new(Locate { token }))
    }

    /// Asks for anything.
    #[allow(dead_code, reason = "not every test has requests of all kinds")]
    pub(crate) fn ask_any(&mut self, peer: &Peer, ask: Ask) -> RequestId {
        self.ask(peer, ask)
    }

    pub(crate) fn mirror(&mut self, peer: &Peer, mirror: Mirror) -> RequestId {
        self.ask(peer, Ask::new(mirror))
    }

    /// Puts a whole payload along a route.
    pub(crate) fn put_by(&mut self, peer: &Peer, hop: Hop, payload: &[u8], lease_s: u64) -> RequestId {
        let descriptor = Descriptor::plain(Token::of(payload), payload.len() as u64).unwrap();
        let encoded = encoding(payload, &Ranges::all());
        self.put_with(peer, Some(hop), SEED, descriptor, None, lease_s, encoded)
    }

    /// Puts any bytes under any descriptor.
    #[expect(clippy::too_many_arguments, reason = "a PUT has as many fields")]
    pub(crate) fn put_with(
        &mut self,
        peer: &Peer,
        hop: Option<Hop>,
        queue: u64,
        descriptor: Descriptor,
        lanes: Option<Lanes>,
        lease_s: u64,
        encoded: Vec<Bytes>,
    ) -> RequestId {
        let credit = Credit::default();
        let put = Put { queue, lease_s, descriptor, lanes };
        let ask = Ask::new(put).by(hop.map(Box::new)).with_credit(credit.clone());
        let request = self.ask(peer, ask);
        self.sending.push(Sending { request, credit, chunks: encoded.into(), accepted: false });
        request
    }

    fn send(&mut self, command: Command) {
        self.outbox.send(&mut self.port, command);
    }

    fn ask(&mut self, peer: &Peer, ask: Ask) -> RequestId {
        let request = self.outbox.ask(&mut self.port, peer.connection, ask, Owner::Test);
        self.requests.insert(request, Request::default());
        request
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.gathering.as_ref().and_then(Gathering::poll_timeout)
    }

    pub(crate) fn poll(&mut self, now: Instant) -> bool {
        let mut worked = false;
        while !self.deaf
            && let Some(received) = self.outbox.receive(&mut self.port)
        {
            worked = true;
            match received {
                Received::Own(Owner::Test, delivery) | Received::Other(delivery) => self.hear(delivery),
                Received::Own(Owner::Gathering, delivery) => {
                    self.gathering.as_mut().expect("it asked").handle(now, delivery);
                }
            }
        }
        if let Some(gathering) = &mut self.gathering {
            worked |= gathering.poll(now, &mut self.outbox.asker(&mut self.port, Owner::Gathering));
        }
        if !self.outbox.flush(&mut self.port) {
            return worked;
        }
        while let Some((connection, credit, queue, payload)) = self.unsent.pop_front() {
            if let Err(payload) = self.port.send_message(connection, &credit, queue, payload) {
                self.unsent.push_front((connection, credit, queue, payload));
                break;
            }
            worked = true;
        }
        worked | self.send_data()
    }

    fn send_data(&mut self) -> bool {
        let mut worked = false;
        let port = &mut self.port;
        self.sending.retain_mut(|sending| {
            while sending.accepted
                && let Some(bytes) = sending.chunks.pop_front()
            {
                if let Err(bytes) = port.send_data(sending.request, &sending.credit, bytes) {
                    sending.chunks.push_front(bytes);
                    return true;
                }
                worked = true;
            }
            // It is not accepted yet, or the ring is full: the end is sent later.
            if !sending.accepted || port.send(Command::End(sending.request, Ending::Finish)).is_err() {
                return true;
            }
            false
        });
        worked
    }

    fn hear(&mut self, delivery: Delivery) {
        match delivery {
            Delivery::Connection(connection, event) => self.event(connection, event),
            Delivery::ConnectFailed { tag, reason } => self.connect_failed.push((tag, reason.to_string())),
            Delivery::Asked(request, asked) => match asked.request {
                // It accepts every PUT, and keeps the payload in memory.
                record::Request::Put(_) => {
                    self.requests.insert(request, Request::default());
                    self.send(Command::accept(request));
                }
                record::Request::Fetch(_) => {
                    let failure = ErrorRecord::new(ErrorCode::NotFound, 0, "nothing is kept here");
                    self.send(Command::refuse(request, failure));
                }
                _ => {}
            },
            Delivery::Answered(request, Answer::Ok(ok)) => {
                self.requests.entry(request).or_default().accepted = Some(ok.length_bytes);
                for sending in self.sending.iter_mut().filter(|sending| sending.request == request) {
                    sending.accepted = true;
                }
            }
            Delivery::Answered(request, Answer::Holders(holders)) => {
                self.end(request, End::Located(holders.holders));
            }
            Delivery::Answered(request, Answer::Listed(listed)) => self.end(request, End::Listed(listed)),
            Delivery::Answered(request, Answer::Done(Done { bytes, token })) => {
                self.end(request, End::Done { bytes, token });
            }
            Delivery::Piece { request, piece, .. } => {
                let is_changed = self.unchecked;
                let data =
                    if is_changed { piece.data.iter().map(|byte| !byte).collect() } else { piece.data };
                self.requests.entry(request).or_default().pieces.push((piece.offset, data));
            }
            Delivery::Ended(request, queue::End::Checked) => self.complete(request),
            Delivery::Ended(request, queue::End::Failed(failure)) => {
                self.end(request, End::Failed(failure.code));
                self.requests.entry(request).or_default().failure = Some(failure);
            }
            Delivery::Ended(request, queue::End::Silent(silence)) => self.end(request, End::Silent(silence)),
            _ => {}
        }
    }

    fn event(&mut self, connection: ConnectionId, event: ConnectionEvent) {
        match event {
            ConnectionEvent::Connected { tag, node, remote, credit, .. } => {
                self.peers.push(Peer { host: 0, connection, node, remote, credit, tag });
            }
            ConnectionEvent::Message { queue, payload } => {
                self.messages.push((connection, queue, payload.to_bytes()));
            }
            ConnectionEvent::Closed { reason } => {
                self.outbox.closed(connection);
                if let Some(gathering) = &mut self.gathering {
                    gathering.closed(connection, &reason);
                }
                self.closed.push((connection, reason.to_string()));
                self.sending.retain(|sending| sending.request.connection != connection);
                self.unsent.retain(|(of, ..)| *of != connection);
            }
            ConnectionEvent::Have { .. } | ConnectionEvent::MessagesStopped { .. } => {}
        }
    }

    fn complete(&mut self, request: RequestId) {
        self.end(request, End::Complete);
        if !request.is_local() {
            let mut hasher = blake3::Hasher::new();
            let pieces = &self.requests[&request].pieces;
            pieces.iter().for_each(|(_, bytes)| {
                hasher.update(bytes);
            });
            let token = Token::from_slice(&[&[1][..], hasher.finalize().as_bytes()].concat()).unwrap();
            let bytes = self.requests[&request].bytes() as u64;
            let done = Done { bytes, token: token.into() };
            self.send(Command::answer(request, Answer::Done(done)));
        }
    }

    fn end(&mut self, request: RequestId, end: End) {
        self.sending.retain(|sending| sending.request != request);
        let heard = self.requests.entry(request).or_default();
        assert!(heard.end.is_none(), "{request:?} ends twice: {:?}, then {end:?}", heard.end);
        heard.end = Some(end);
    }
}
