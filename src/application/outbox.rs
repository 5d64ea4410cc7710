//! An application's outbox: its commands in order, and its requests by their owners.

use crate::limits::MESSAGE_COST_BYTES;
use crate::queue::{
    AppPort, Ask, Command, ConnectionCommand, ConnectionId, Credit, Delivery, Ending, RequestId,
};
use bytes::Bytes;
use rustc_hash::FxHashMap;
use std::collections::VecDeque;

/// The commands of an application, in order, kept while the ring is full; and the requests that the application has made, each with
/// its owner.
///
/// `T` names the owner of a request: the part of the application that wants the answers, such as one download of several. The outbox
/// numbers the requests. [`Outbox::receive`] finds the owner of each answer, up to the last one.
///
/// An application that makes no requests has an `Outbox<()>`, the default:
///
/// ```
/// use std::time::Instant;
/// use stoq::application::{Application, Outbox, Received};
/// use stoq::queue::{AppPort, Command, Delivery};
/// use stoq::record::{ErrorCode, ErrorRecord};
///
/// /// Refuses every request.
/// #[derive(Default)]
/// struct Closed(Outbox);
///
/// impl Application for Closed {
///     fn poll(&mut self, _now: Instant, port: &mut AppPort) -> bool {
///         let mut worked = false;
///         while let Some(received) = self.0.receive(port) {
///             worked = true;
///             if let Received::Other(Delivery::Asked(request, _)) = received {
///                 let failure = ErrorRecord::new(ErrorCode::NotFound, 0, "nothing is kept here");
///                 self.0.send(port, Command::refuse(request, failure));
///             }
///         }
///         worked
///     }
/// }
/// ```
#[derive(Debug)]
pub struct Outbox<T = ()> {
    waiting: VecDeque<Command>,
    owners: FxHashMap<RequestId, T>,
    /// Requests made so far.
    made: u64,
}

/// A delivery, with its owner if it has one.
#[derive(Debug)]
pub enum Received<T> {
    /// A delivery about a request of this owner.
    Own(T, Delivery),
    /// A delivery about a connection, or about a request of the peer.
    Other(Delivery),
}

impl<T> Default for Outbox<T> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), owners: FxHashMap::default(), made: 0 }
    }
}

impl<T> Outbox<T> {
    /// Sends a command, after those that wait. Nothing bounds their number: an application that sends more than one answer to a delivery
    /// looks at [`Outbox::is_empty`] first.
    pub fn send(&mut self, port: &mut AppPort, command: Command) {
        if !self.waiting.is_empty() {
            self.waiting.push_back(command);
        } else if let Err(command) = port.send(command) {
            self.waiting.push_back(command);
        }
    }

    /// Sends a message. It never waits here: a peer that does not read its messages makes none of them pile up.
    ///
    /// # Errors
    /// The payload, if commands wait, the ring is full or the credit of the connection is spent; try again in a later poll.
    pub fn send_message(
        &mut self,
        port: &mut AppPort,
        connection: ConnectionId,
        credit: &Credit,
        queue: u64,
        payload: Bytes,
    ) -> Result<(), Bytes> {
        if !self.flush(port) {
            return Err(payload);
        }
        port.send_message(connection, credit, queue, payload)
    }

    /// Sends an answer to a message, after the commands that wait. It takes its credit at once, and waits for none: the worker reads no more
    /// messages of a connection whose credit has no room. A peer that does not read its answers stops itself alone.
    pub fn answer_message(
        &mut self,
        port: &mut AppPort,
        connection: ConnectionId,
        credit: &Credit,
        queue: u64,
        payload: Bytes,
    ) {
        credit.take(payload.len() + MESSAGE_COST_BYTES);
        self.send(port, Command::On(connection, ConnectionCommand::Message { queue, payload }));
    }

    /// Sends a request to the peer of a connection. Its answers go to `owner`.
    pub fn ask(
        &mut self,
        port: &mut AppPort,
        connection: ConnectionId,
        ask: impl Into<Box<Ask>>,
        owner: T,
    ) -> RequestId {
        let request = self.register(connection, owner);
        self.send(port, Command::Ask(request, ask.into()));
        request
    }

    /// Opens a stream for a request whose bytes are not parsed here. `credit` is for the bytes sent on it; the answer is read only while
    /// `pace` has room.
    pub fn open(
        &mut self,
        port: &mut AppPort,
        connection: ConnectionId,
        (credit, pace): (Credit, Credit),
        owner: T,
    ) -> RequestId {
        let request = self.register(connection, owner);
        self.send(port, Command::Open { request, credit, pace });
        request
    }

    fn register(&mut self, connection: ConnectionId, owner: T) -> RequestId {
        self.made += 1;
        let request = RequestId::local(connection, self.made);
        self.owners.insert(request, owner);
        request
    }

    /// Cancels a request. Later deliveries of it are dropped. Returns its owner, if it was not over.
    pub fn cancel(&mut self, port: &mut AppPort, request: RequestId) -> Option<T> {
        let owner = self.owners.remove(&request)?;
        self.send(port, Command::End(request, Ending::Cancel));
        Some(owner)
    }

    /// Ends the requests on a connection that has ended, and returns them: they get no more deliveries. An application that makes
    /// requests calls this at [`ConnectionEvent::Closed`](crate::queue::ConnectionEvent::Closed).
    pub fn closed(&mut self, connection: ConnectionId) -> Vec<(RequestId, T)> {
        self.owners.extract_if(|request, _| request.connection == connection).collect()
    }

    /// The outbox for one owner.
    pub fn asker<'a>(&'a mut self, port: &'a mut AppPort, owner: T) -> Asker<'a, T> {
        Asker { outbox: self, port, owner, has_sent: false }
    }

    /// Sends the commands that wait. Returns whether none waits any more.
    pub fn flush(&mut self, port: &mut AppPort) -> bool {
        while let Some(command) = self.waiting.pop_front() {
            if let Err(command) = port.send(command) {
                self.waiting.push_front(command);
                return false;
            }
        }
        true
    }

    /// Whether no command waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The next delivery, once no command waits. An answer to a request that is over or canceled is dropped.
    #[inline]
    pub fn receive(&mut self, port: &mut AppPort) -> Option<Received<T>>
    where
        T: Clone,
    {
        while self.waiting.is_empty() || self.flush(port) {
            let delivery = port.receive()?;
            let Some(request) = delivery.request().filter(|request| request.is_local()) else {
                return Some(Received::Other(delivery));
            };
            let owner = match delivery.is_last() {
                true => self.owners.remove(&request),
                false => self.owners.get(&request).cloned(),
            };
            if let Some(owner) = owner {
                return Some(Received::Own(owner, delivery));
            }
        }
        None
    }
}

/// An outbox for one owner: its requests belong to that owner.
#[derive(Debug)]
pub struct Asker<'a, T> {
    outbox: &'a mut Outbox<T>,
    port: &'a mut AppPort,
    owner: T,
    has_sent: bool,
}

impl<T: Clone> Asker<'_, T> {
    /// Sends a request as [`Outbox::ask`] does.
    pub fn ask(&mut self, connection: ConnectionId, ask: impl Into<Box<Ask>>) -> RequestId {
        self.has_sent = true;
        self.outbox.ask(self.port, connection, ask, self.owner.clone())
    }

    /// Cancels a request as [`Outbox::cancel`] does. For a request that is over it sends nothing.
    pub fn cancel(&mut self, request: RequestId) {
        self.has_sent |= self.outbox.cancel(self.port, request).is_some();
    }

    /// Whether any command was sent.
    pub fn has_sent(&self) -> bool {
        self.has_sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{COMMAND_RING_LEN, OUTSTANDING_BYTES_MAX};
    use crate::queue::{Answer, End, Sleeper, WorkerPort, rings};
    use crate::record::{Done, Holders, Locate, OkRecord};
    use crate::token::Token;

    const HERE: ConnectionId = ConnectionId { worker: 0, slot: 1, generation: 1 };
    const THERE: ConnectionId = ConnectionId { slot: 2, ..HERE };

    struct Bench {
        outbox: Outbox<&'static str>,
        app: AppPort,
        worker: WorkerPort,
    }

    impl Bench {
        fn new() -> Self {
            let (app, worker) = rings(Sleeper::default().waker());
            Self { outbox: Outbox::default(), app, worker }
        }

        fn ask(&mut self, connection: ConnectionId, owner: &'static str) -> RequestId {
            let ask = Ask::new(Locate { token: Token::of(b"").into() });
            self.outbox.ask(&mut self.app, connection, ask, owner)
        }

        fn cancel(&mut self, request: RequestId) -> Option<&'static str> {
            self.outbox.cancel(&mut self.app, request)
        }

        fn ok(&mut self, request: RequestId) {
            let ok = OkRecord { length_bytes: 0, descriptor: None };
            self.worker.deliver(Delivery::Answered(request, Answer::Ok(ok)));
        }

        fn end(&mut self, request: RequestId) {
            self.worker.deliver(Delivery::Ended(request, End::Checked));
        }

        /// The owner of the next delivery; "other" if it has none.
        fn owner(&mut self) -> Option<&'static str> {
            Some(match self.outbox.receive(&mut self.app)? {
                Received::Own(owner, _) => owner,
                Received::Other(_) => "other",
            })
        }

        fn commands(&mut self) -> Vec<Command> {
            std::iter::from_fn(|| self.worker.command()).collect()
        }
    }

    #[test]
    fn each_answer_goes_to_the_owner_of_its_request() {
        let mut bench = Bench::new();
        let (first, second) = (bench.ask(HERE, "first"), bench.ask(HERE, "second"));
        let third = bench.ask(THERE, "first");
        assert!(first != second && first != third, "each has a number of its own");
        for request in [second, first, third] {
            bench.ok(request);
        }
        let owners = [bench.owner(), bench.owner(), bench.owner(), bench.owner()];
        assert_eq!(owners, [Some("second"), Some("first"), Some("first"), None]);
        let asked: Vec<_> = bench.commands().iter().filter_map(Command::opens).collect();
        assert_eq!(asked, [first, second, third]);
    }

    #[test]
    fn deliveries_after_the_last_answer_are_dropped() {
        let token = Token::of(b"").into();
        let lasts = [
            |request, token| Delivery::Answered(request, Answer::Done(Done { bytes: 0, token })),
            |request, _| Delivery::Answered(request, Answer::Holders(Holders { holders: Vec::new() })),
            |request, _| Delivery::Ended(request, End::Checked),
        ];
        for last in lasts {
            let mut bench = Bench::new();
            let request = bench.ask(HERE, "it");
            bench.ok(request);
            bench.worker.deliver(last(request, token));
            bench.worker.deliver(last(request, token));
            bench.ok(request);
            assert_eq!([bench.owner(), bench.owner(), bench.owner()], [Some("it"), Some("it"), None]);
            bench.commands();
            assert_eq!(bench.cancel(request), None, "it is over");
            assert!(bench.commands().is_empty());
        }
    }

    #[test]
    fn deliveries_of_a_canceled_request_are_dropped() {
        let mut bench = Bench::new();
        let (canceled, other) = (bench.ask(HERE, "canceled"), bench.ask(HERE, "other"));
        bench.commands();
        assert_eq!(bench.cancel(canceled), Some("canceled"));
        assert_eq!(bench.cancel(canceled), None);
        let commands = bench.commands();
        assert!(matches!(commands[..], [Command::End(request, Ending::Cancel)] if request == canceled));
        bench.ok(canceled);
        bench.end(canceled);
        bench.ok(other);
        assert_eq!([bench.owner(), bench.owner()], [Some("other"), None]);
    }

    #[test]
    fn an_answer_to_a_request_that_was_never_made_is_dropped_and_the_peers_requests_arrive() {
        let mut bench = Bench::new();
        let made = bench.ask(HERE, "it");
        bench.ok(RequestId::local(HERE, made.number() + 1));
        bench.ok(RequestId::local(THERE, made.number()));
        // A stream of the peer's may have the same number as a request made here.
        bench.end(RequestId::peer(HERE, made.number()));
        assert_eq!([bench.owner(), bench.owner()], [Some("other"), None]);
        bench.ok(made);
        assert_eq!(bench.owner(), Some("it"));
    }

    #[test]
    fn the_end_of_a_connection_ends_its_requests_alone() {
        let mut bench = Bench::new();
        let (gone, open) = (bench.ask(HERE, "gone"), bench.ask(THERE, "open"));
        assert_eq!(bench.outbox.closed(HERE), [(gone, "gone")]);
        assert_eq!(bench.outbox.closed(HERE), []);
        bench.end(gone);
        bench.end(open);
        assert_eq!([bench.owner(), bench.owner()], [Some("open"), None]);
    }

    #[test]
    fn an_asker_asks_for_its_owner_and_cancels_no_request_that_is_over() {
        let mut bench = Bench::new();
        let mut asker = bench.outbox.asker(&mut bench.app, "it");
        assert!(!asker.has_sent());
        let request = asker.ask(HERE, Ask::new(Locate { token: Token::of(b"").into() }));
        assert!(asker.has_sent());
        bench.end(request);
        assert_eq!(bench.owner(), Some("it"));
        let mut asker = bench.outbox.asker(&mut bench.app, "it");
        asker.cancel(request);
        assert!(!asker.has_sent());
        assert_eq!(bench.commands().len(), 1);
    }

    #[test]
    fn a_full_ring_keeps_the_order_and_stops_deliveries() {
        let mut bench = Bench::new();
        let made: Vec<_> = (0..COMMAND_RING_LEN + 2).map(|_| bench.ask(HERE, "it")).collect();
        bench.cancel(made[0]);
        bench.ok(made[1]);
        assert!(!bench.outbox.is_empty());
        assert_eq!(bench.owner(), None, "no delivery is taken while a command waits");
        let mut asked: Vec<_> = bench.commands().iter().filter_map(Command::opens).collect();
        assert_eq!(bench.owner(), Some("it"));
        let rest = bench.commands();
        asked.extend(rest.iter().filter_map(Command::opens));
        assert_eq!(asked, made);
        assert!(matches!(rest.last(), Some(Command::End(request, Ending::Cancel)) if *request == made[0]));
    }

    #[test]
    fn messages_past_the_credit_of_a_peer_that_reads_none_are_given_back() {
        let mut bench = Bench::new();
        let credit = Credit::default();
        let message = Bytes::from_static(b"late");
        let mut sent = 0;
        while bench.outbox.send_message(&mut bench.app, HERE, &credit, 7, message.clone()).is_ok() {
            sent += bench.commands().len();
        }
        assert_eq!(sent, OUTSTANDING_BYTES_MAX.div_ceil(message.len() + MESSAGE_COST_BYTES));
        // The other requests and deliveries go on.
        bench.ask(HERE, "it");
        bench.end(RequestId::peer(HERE, 4));
        assert_eq!(bench.owner(), Some("other"));
        assert_eq!(bench.commands().len(), 1);
        credit.give_back(message.len() + MESSAGE_COST_BYTES);
        bench.outbox.send_message(&mut bench.app, HERE, &credit, 7, message).unwrap();
        // None overtakes a command that waits.
        while bench.outbox.is_empty() {
            bench.ask(HERE, "it");
        }
        let credit = Credit::default();
        assert!(bench.outbox.send_message(&mut bench.app, HERE, &credit, 7, Bytes::new()).is_err());
    }
}
