mod looks;

use super::call::{
    AnswerChannel, Batch, Call, ConnectionUp, Dial, DialError, FetchAnswer, FetchEvent, HostedGather,
    PutAnswer,
};
use super::dispatch::Dispatch;
use super::peer::Peer;
use super::{NetworkInfo, Shared};
use crate::application::Application;
use crate::datagram::NetworkKind;
use crate::gather::{Gather, GatherEvent, GatherSource, HolderReport, HolderState, Want};
use crate::limits::{
    CLIENT_MESSAGES_BYTES, CLIENT_MESSAGES_LEN, CLIENT_PIECES_LEN, COMMAND_RING_LEN, MESSAGE_BYTES_MAX,
    MESSAGE_COST_BYTES,
};
use crate::queue::{
    self, AppPort, Ask, Charge, CloseReason, Command, ConnectionCommand, ConnectionEvent, ConnectionId,
    Credit, Delivery, End, Ending, PeerRequest, RequestId, Sleeper, WorkerPort, rings,
};
use crate::record::{ErrorCode, ErrorRecord, Fetch, Locate, OkRecord, Payload, Put};
use crate::rights::StoreTerms;
use crate::shard::Descriptor;
use crate::token::{Ranges, Token, VerifiedPiece};
use bytes::Bytes;
use quinn_proto::Side;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};

const LINK: ConnectionId = ConnectionId { worker: 0, slot: 3, generation: 1 };
const OK: OkRecord = OkRecord { length_bytes: 0, descriptor: None };

/// The worker's side alone. The test plays the worker.
struct Bench {
    dispatch: Dispatch,
    calls: mpsc::UnboundedSender<Call>,
    app: AppPort,
    worker: WorkerPort,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let (calls, receiver) = mpsc::unbounded_channel();
        let (app, worker) = rings(Sleeper::default().waker());
        Self { dispatch: Dispatch::new(receiver), calls, app, worker, now: Instant::now() }
    }

    fn call(&mut self, call: Call) {
        assert!(self.calls.send(call).is_ok());
    }

    fn poll(&mut self) -> bool {
        self.dispatch.poll(self.now, &mut self.app)
    }

    fn command(&mut self) -> Command {
        self.worker.command().expect("a command")
    }

    fn dial(&mut self, early: bool) -> oneshot::Receiver<Result<ConnectionUp, DialError>> {
        let (reply, answer) = oneshot::channel();
        let deadline = self.now + Duration::from_secs(1);
        let remotes = Some([([127, 0, 0, 1], 1).into()].into());
        self.call(Call::Connect(Dial { id: 1, remotes, early, deadline, reply }));
        self.poll();
        answer
    }

    fn come_up(&mut self, tag: u64) {
        self.come_up_as(LINK, tag);
    }

    fn come_up_as(&mut self, id: ConnectionId, tag: u64) -> Credit {
        let credit = Credit::default();
        let event = ConnectionEvent::Connected {
            tag: Some(tag),
            side: Side::Client,
            node: None,
            peer_gateway: false,
            remote: ([127, 0, 0, 1], 1).into(),
            credit: credit.clone(),
        };
        self.worker.deliver(Delivery::Connection(id, event));
        self.poll();
        credit
    }

    fn connect(&mut self, early: bool) -> ConnectionUp {
        let mut answer = self.dial(early);
        let Command::Connect { tag, .. } = self.command() else { panic!("no Connect") };
        self.come_up(tag);
        answer.try_recv().unwrap().unwrap()
    }

    fn fetch(&mut self, n: u64) -> mpsc::UnboundedReceiver<Vec<FetchEvent>> {
        let (events, heard) = mpsc::unbounded_channel();
        let token = Token::of(b"").into();
        let fetch = Fetch { token, bytes_max: 0, lanes: None, ranges: Ranges::all(), describe: false };
        let ask = Box::new(Ask::new(fetch).with_credit(Credit::default()));
        let answer = AnswerChannel::Fetch(FetchAnswer { events, held: Vec::new(), listed: false });
        self.call(Call::Ask { connection: LINK, ticket: n, ask, answer });
        heard
    }

    fn piece(&mut self, request: RequestId, offset: u64) {
        let piece = VerifiedPiece { offset, data: Bytes::from_static(b"x"), proofs: Vec::new() };
        self.worker.deliver(Delivery::Piece { request, shard: None, piece, charge: Charge::default() });
    }
}

fn refusal(code: ErrorCode) -> ErrorRecord {
    ErrorRecord::new(code, 0, "no")
}

#[test]
fn a_dial_past_its_deadline_is_a_timeout_and_is_closed_if_it_comes_up_later() {
    let mut bench = Bench::new();
    let mut answer = bench.dial(false);
    let Command::Connect { tag, .. } = bench.command() else { panic!("no Connect") };
    assert_eq!(bench.dispatch.poll_timeout(), Some(bench.now + Duration::from_secs(1)));
    bench.now += Duration::from_secs(1);
    bench.poll();
    assert!(matches!(answer.try_recv(), Ok(Err(DialError::Timeout))));
    assert_eq!(bench.dispatch.poll_timeout(), None);
    assert!(matches!(bench.command(), Command::Abandon { tag: given_up } if given_up == tag));
    bench.come_up(tag);
    assert!(matches!(bench.command(), Command::On(LINK, ConnectionCommand::Disconnect)));
}

#[test]
fn a_connection_whose_task_has_gone_away_is_closed() {
    let mut bench = Bench::new();
    drop(bench.dial(false));
    let Command::Connect { tag, .. } = bench.command() else { panic!("no Connect") };
    bench.come_up(tag);
    assert!(matches!(bench.command(), Command::On(LINK, ConnectionCommand::Disconnect)));
}

#[test]
fn a_request_refused_as_too_early_is_sent_once_more_under_another_number() {
    let mut bench = Bench::new();
    let _up = bench.connect(true);
    let mut heard = bench.fetch(5);
    bench.poll();
    let Command::Ask(first, _) = bench.command() else { panic!("no Ask") };
    bench.worker.deliver(Delivery::Ended(first, End::Failed(refusal(ErrorCode::TooEarly))));
    bench.poll();
    let Command::Ask(second, _) = bench.command() else { panic!("not asked again") };
    assert_ne!(first, second);
    assert_eq!(heard.try_recv().unwrap_err(), TryRecvError::Empty);
    bench.piece(second, 0);
    bench.worker.deliver(Delivery::Ended(second, End::Failed(refusal(ErrorCode::TooEarly))));
    bench.poll();
    let events = heard.try_recv().unwrap();
    assert!(matches!(&events[..], [FetchEvent::Piece(_), FetchEvent::Failed(_)]), "{events:?}");
    assert!(bench.worker.command().is_none());
}

#[test]
fn canceling_a_request_that_was_sent_again_cancels_the_second_one() {
    let mut bench = Bench::new();
    let _up = bench.connect(true);
    let _heard = bench.fetch(5);
    bench.poll();
    let Command::Ask(first, _) = bench.command() else { panic!("no Ask") };
    bench.worker.deliver(Delivery::Ended(first, End::Failed(refusal(ErrorCode::TooEarly))));
    bench.poll();
    let Command::Ask(second, _) = bench.command() else { panic!("not asked again") };
    bench.call(Call::Cancel { ticket: 5 });
    bench.poll();
    assert!(matches!(bench.command(), Command::End(request, Ending::Cancel) if request == second));
    // Its later deliveries go nowhere.
    bench.piece(second, 0);
    bench.call(Call::Cancel { ticket: 5 });
    bench.poll();
    assert!(bench.worker.command().is_none());
}

#[test]
fn without_early_data_a_refusal_as_too_early_reaches_the_task() {
    let mut bench = Bench::new();
    let _up = bench.connect(false);
    let mut heard = bench.fetch(1);
    bench.poll();
    let Command::Ask(request, _) = bench.command() else { panic!("no Ask") };
    bench.worker.deliver(Delivery::Ended(request, End::Failed(refusal(ErrorCode::TooEarly))));
    bench.poll();
    assert!(matches!(heard.try_recv().unwrap()[..], [FetchEvent::Failed(_)]));
}

#[test]
fn a_full_ring_holds_calls_back_and_loses_none() {
    let mut bench = Bench::new();
    let _up = bench.connect(false);
    let count = COMMAND_RING_LEN as u64 + 50;
    let _heard: Vec<_> = (0..count).map(|n| bench.fetch(n)).collect();
    let mut asked = Vec::new();
    while bench.poll() {
        while let Some(command) = bench.worker.command() {
            let Command::Ask(request, _) = command else { panic!("{command:?}") };
            asked.push(request);
        }
    }
    assert_eq!(asked, (1..=count).map(|n| RequestId::local(LINK, n)).collect::<Vec<_>>());
}

#[test]
fn pieces_are_held_while_more_arrive_and_handed_on_in_a_quiet_turn() {
    let mut bench = Bench::new();
    let _up = bench.connect(false);
    let mut heard = bench.fetch(1);
    bench.poll();
    let request = RequestId::local(LINK, 1);
    for n in 0..CLIENT_PIECES_LEN as u64 + 2 {
        bench.piece(request, n);
        bench.poll();
    }
    assert_eq!(heard.try_recv().unwrap().len(), CLIENT_PIECES_LEN);
    assert_eq!(heard.try_recv().unwrap_err(), TryRecvError::Empty);
    assert!(bench.poll(), "a quiet turn");
    assert_eq!(heard.try_recv().unwrap().len(), 2);
    assert!(!bench.poll());
}

#[test]
fn a_full_inbox_stops_deliveries_and_not_calls() {
    let mut bench = Bench::new();
    let mut up = bench.connect(false);
    for n in 0..CLIENT_MESSAGES_LEN as u64 + 2 {
        let payload = Payload::from(Bytes::from_static(b"message"));
        bench.worker.deliver(Delivery::Connection(LINK, ConnectionEvent::Message { queue: n, payload }));
        bench.poll();
    }
    let mut heard = bench.fetch(1);
    bench.poll();
    assert!(matches!(bench.command(), Command::Ask(..)));
    bench.worker.deliver(Delivery::Ended(RequestId::local(LINK, 1), End::Checked));
    assert!(!bench.poll());
    assert_eq!(heard.try_recv().unwrap_err(), TryRecvError::Empty);
    let mut queues = Vec::new();
    for _ in 0..3 {
        while let Ok((queue, payload)) = up.messages.try_recv() {
            queues.push(queue);
            up.room.give_back(payload.len());
        }
        bench.poll();
    }
    assert_eq!(queues, (0..CLIENT_MESSAGES_LEN as u64 + 2).collect::<Vec<_>>());
    assert!(matches!(heard.try_recv().unwrap()[..], [FetchEvent::Complete]));
}

#[test]
fn messages_wait_for_a_place_by_their_bytes_and_their_cost() {
    for (len, places) in [
        (0, CLIENT_MESSAGES_BYTES / MESSAGE_COST_BYTES),
        (1, CLIENT_MESSAGES_BYTES / (1 + MESSAGE_COST_BYTES)),
        (
            MESSAGE_BYTES_MAX as usize,
            CLIENT_MESSAGES_BYTES / (MESSAGE_BYTES_MAX as usize + MESSAGE_COST_BYTES),
        ),
    ] {
        let mut bench = Bench::new();
        let up = bench.connect(false);
        // Nothing takes the calls.
        let (calls, mut taken) = mpsc::unbounded_channel();
        let shared = Shared {
            node: Mutex::default(),
            network: NetworkInfo {
                kind: NetworkKind::Simulated,
                driver: "none".into(),
                device: "none".into(),
                mtu: 1500,
                local: Vec::new(),
                ports: Vec::new(),
            },
            statuses: Vec::new(),
            workers: vec![(calls, Sleeper::default().waker())],
            connects: AtomicUsize::default(),
            requests: AtomicU64::default(),
            put_queue: 0,
            bad_sets: Mutex::default(),
        };
        let peer = Peer::new(Arc::new(shared), up);
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        let payload = Bytes::from(vec![0; len]);
        let mut send = || pin!(peer.send_message(7, payload.clone())).poll(&mut cx).is_ready();
        let sent = (0..=places).take_while(|_| send()).count();
        assert_eq!(sent, places, "messages of {len} bytes");
        assert!(matches!(taken.try_recv(), Ok(Call::Message { queue: 7, .. })));
        assert!(send(), "its place is free again");
        assert!(!send());
    }
}

#[test]
fn messages_of_a_dropped_inbox_stop_nothing() {
    let mut bench = Bench::new();
    let up = bench.connect(false);
    drop(up.messages);
    for n in 0..2 * CLIENT_MESSAGES_LEN as u64 {
        let payload = Payload::from(Bytes::from_static(b"message"));
        bench.worker.deliver(Delivery::Connection(LINK, ConnectionEvent::Message { queue: n, payload }));
        assert!(bench.poll());
    }
}

struct Putting {
    accepted: oneshot::Receiver<()>,
    data: mpsc::Sender<Batch>,
    credit: Credit,
    request: RequestId,
}

fn put(bench: &mut Bench, n: u64) -> Putting {
    let (accept, accepted) = oneshot::channel();
    let (data, batches) = mpsc::channel(8);
    let credit = Credit::default();
    let done = oneshot::channel().0;
    let descriptor = Descriptor::plain(Token::of(b""), 0).unwrap();
    let put = Put { queue: 0, lease_s: 0, descriptor, lanes: None };
    let ask = Box::new(Ask::new(put).with_credit(credit.clone()));
    let unsent = VecDeque::new();
    let answer = PutAnswer { accepted: Some(accept), done, data: batches, unsent, credit: credit.clone() };
    bench.call(Call::Ask { connection: LINK, ticket: n, ask, answer: AnswerChannel::Put(answer) });
    bench.poll();
    let Command::Ask(request, _) = bench.command() else { panic!("no Ask") };
    Putting { accepted, data, credit, request }
}

#[test]
fn a_put_waits_for_its_credit_alone_and_ends_with_finish() {
    let mut bench = Bench::new();
    let _up = bench.connect(false);
    let (mut slow, fast) = (put(&mut bench, 1), put(&mut bench, 2));
    for putting in [&slow, &fast] {
        bench.worker.deliver(Delivery::Answered(putting.request, queue::Answer::Ok(OK)));
    }
    bench.poll();
    slow.accepted.try_recv().unwrap();
    slow.credit.take(64 << 20);
    let bytes = |text: &'static str| Batch::Bytes(vec![Bytes::from_static(text.as_bytes())]);
    for putting in [&slow, &fast] {
        assert!(putting.data.try_send(bytes("data")).is_ok() && putting.data.try_send(Batch::End).is_ok());
    }
    while bench.poll() {}
    assert!(matches!(bench.command(), Command::Bytes(request, _) if request == fast.request));
    assert!(matches!(bench.command(), Command::End(request, Ending::Finish) if request == fast.request));
    assert!(bench.worker.command().is_none());
    slow.credit.give_back(64 << 20);
    while bench.poll() {}
    assert!(matches!(bench.command(), Command::Bytes(_, bytes) if bytes == "data"));
    assert!(matches!(bench.command(), Command::End(request, Ending::Finish) if request == slow.request));
    assert!(!bench.poll());
}

#[test]
fn a_put_whose_task_gave_up_is_not_finished() {
    let mut bench = Bench::new();
    let _up = bench.connect(false);
    let putting = put(&mut bench, 1);
    bench.worker.deliver(Delivery::Answered(putting.request, queue::Answer::Ok(OK)));
    bench.poll();
    drop(putting.data);
    while bench.poll() {}
    assert!(bench.worker.command().is_none());
    bench.call(Call::Cancel { ticket: 1 });
    bench.poll();
    assert!(matches!(bench.command(), Command::End(_, Ending::Cancel)));
}

#[test]
fn the_end_of_a_connection_ends_every_channel_and_says_why_first() {
    let mut bench = Bench::new();
    let up = bench.connect(false);
    let mut heard = bench.fetch(1);
    bench.poll();
    bench.worker.deliver(Delivery::Connection(LINK, ConnectionEvent::Closed { reason: CloseReason::Reset }));
    bench.poll();
    assert_eq!(*up.closed.borrow(), Some(CloseReason::Reset));
    assert_eq!(heard.try_recv().unwrap_err(), TryRecvError::Disconnected);
    // A request that comes too late ends the same way.
    let mut late = bench.fetch(2);
    bench.poll();
    assert_eq!(late.try_recv().unwrap_err(), TryRecvError::Disconnected);
}

#[test]
fn an_answer_that_comes_after_its_task_gave_up_or_twice_goes_nowhere() {
    let mut bench = Bench::new();
    let _up = bench.connect(false);
    let (mut given_up, mut kept) = (bench.fetch(1), bench.fetch(2));
    bench.poll();
    let (Command::Ask(first, _), Command::Ask(second, _)) = (bench.command(), bench.command()) else {
        panic!("not asked twice")
    };
    bench.call(Call::Cancel { ticket: 1 });
    bench.poll();
    assert!(matches!(bench.command(), Command::End(request, Ending::Cancel) if request == first));
    bench.piece(first, 0);
    bench.worker.deliver(Delivery::Ended(first, End::Checked));
    // A piece of a request that was never made.
    bench.piece(RequestId::local(LINK, 77), 0);
    for _ in 0..2 {
        bench.worker.deliver(Delivery::Ended(second, End::Checked));
    }
    while bench.poll() {}
    assert_eq!(given_up.try_recv().unwrap_err(), TryRecvError::Disconnected);
    assert!(matches!(kept.try_recv().unwrap()[..], [FetchEvent::Complete]));
    assert_eq!(kept.try_recv().unwrap_err(), TryRecvError::Disconnected);
    // A second cancellation, and one after the end.
    bench.call(Call::Cancel { ticket: 1 });
    bench.call(Call::Cancel { ticket: 2 });
    bench.poll();
    assert!(bench.worker.command().is_none());
}

fn gather(bench: &mut Bench, id: u64) -> mpsc::UnboundedReceiver<GatherEvent> {
    gather_with(bench, id, Arc::default())
}

fn gather_with(
    bench: &mut Bench,
    id: u64,
    report: Arc<Mutex<Vec<HolderReport>>>,
) -> mpsc::UnboundedReceiver<GatherEvent> {
    let (events, heard) = mpsc::unbounded_channel();
    let source = GatherSource { connection: LINK, remote: None, node: None, route: None, lanes: None };
    let gather = Gather::new(Token::of(b"").into(), Want::Payload, vec![source]);
    let gather = Arc::new(Mutex::new(gather));
    let hosted = HostedGather { id, worker: 0, gather, events, credit: Credit::default(), report };
    bench.call(Call::Gather(Box::new(hosted)));
    bench.poll();
    heard
}

#[test]
fn each_gathering_gets_the_answers_to_its_own_requests() {
    let mut bench = Bench::new();
    let _up = bench.connect(false);
    let mut heard = [gather(&mut bench, 1), gather(&mut bench, 2)];
    let (Command::Ask(_, _), Command::Ask(second, _)) = (bench.command(), bench.command()) else {
        panic!("not asked twice")
    };
    bench.worker.deliver(Delivery::Ended(second, End::Failed(refusal(ErrorCode::NotFound))));
    while bench.poll() {}
    assert_eq!(heard[0].try_recv().unwrap_err(), TryRecvError::Empty);
    assert!(matches!(heard[1].try_recv(), Ok(GatherEvent::Failed(_))));
}

#[test]
fn a_gathering_that_is_ended_cancels_its_requests_and_hears_no_more() {
    let mut bench = Bench::new();
    let _up = bench.connect(false);
    let mut heard = gather(&mut bench, 1);
    let Command::Ask(request, _) = bench.command() else { panic!("no Ask") };
    heard.close();
    while bench.poll() {}
    assert!(matches!(bench.command(), Command::End(ended, Ending::Cancel) if ended == request));
    bench.worker.deliver(Delivery::Ended(request, End::Failed(refusal(ErrorCode::NotFound))));
    while bench.poll() {}
    assert!(bench.worker.command().is_none());
    assert_eq!(heard.try_recv().unwrap_err(), TryRecvError::Disconnected);
}

#[test]
fn a_gathering_learns_of_the_end_of_its_connection() {
    let (mut bench, report) = (Bench::new(), Arc::default());
    let _up = bench.connect(false);
    let mut heard = gather_with(&mut bench, 1, Arc::clone(&report));
    assert!(matches!(bench.command(), Command::Ask(..)));
    bench.worker.deliver(Delivery::Connection(LINK, ConnectionEvent::Closed { reason: CloseReason::Reset }));
    while bench.poll() {}
    assert!(matches!(heard.try_recv(), Ok(GatherEvent::Failed(_))), "it goes on");
    assert!(matches!(report.lock().unwrap()[0].state, HolderState::Gone(_)));
    assert!(bench.worker.command().is_none(), "nothing is canceled on a connection that is gone");
}

#[test]
fn a_client_refuses_requests() {
    let mut bench = Bench::new();
    let _up = bench.connect(false);
    let request = RequestId::peer(LINK, 1);
    let what = Locate { token: Token::of(b"").into() }.into();
    let (credit, terms) = (Credit::default(), StoreTerms::default());
    let asked = PeerRequest { request: what, node: None, early: false, credit, terms };
    bench.worker.deliver(Delivery::Asked(request, Box::new(asked)));
    bench.poll();
    let Command::End(_, Ending::Refuse(failure)) = bench.command() else { panic!("not refused") };
    assert_eq!(failure.code, ErrorCode::NotAuthorized);
}
