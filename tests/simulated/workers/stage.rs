//! A gateway of some workers, and the queue of each flow, which the test computes for itself.

use crate::support::caller::Peer;
use crate::support::{GATEWAY_MAC, Setup, UDP_PORT, World, gateway_v4, gateway_v6};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use stoq::counters::Counter;
use stoq::nic::rss::{RSS_TABLE_LEN, Rss, RssKey};
use stoq::nic::simulated::LinkConfig;
use stoq::wire::ethernet::Ethernet;
use stoq::wire::ip::{Addresses, Ip};

/// The numbers of workers of each scenario.
const WORKERS: [usize; 4] = [1, 2, 4, 8];

/// Runs a scenario with each number of workers. A thread that fails names the number.
pub(super) fn on_each(setup: fn(usize) -> Setup, scenario: fn(&mut Stage)) {
    thread::scope(|scope| {
        let run = |workers| {
            let name = format!("{workers} workers");
            let run = move || scenario(&mut Stage::new(workers, setup(workers)));
            thread::Builder::new().name(name).spawn_scoped(scope, run).unwrap()
        };
        let runs = WORKERS.map(run);
        let ends = runs.map(|run| run.join());
        assert!(ends.iter().all(Result::is_ok), "the failed threads say with how many workers");
    });
}

/// As many clients as workers, and at least two.
pub(super) fn clients(workers: usize) -> Setup {
    let link = LinkConfig { delay: Duration::from_micros(500), ..LinkConfig::default() };
    Setup { link, clients: workers.max(2), ..Setup::default() }
}

/// What the gateway's device did.
#[derive(Default)]
struct Device {
    /// The address by which a NAT shows a station. The device sees no other.
    shown: HashMap<IpAddr, SocketAddr>,
    /// A station whose datagrams land on all queues in turn.
    scattered: Option<IpAddr>,
    /// Frames of each flow; `None`: those that are no datagrams.
    landed: HashMap<Option<SocketAddr>, u64>,
    /// The frames of the datagrams, where they are kept.
    kept: Option<Vec<Vec<u8>>>,
}

impl Device {
    fn queue(&mut self, rss: &Rss, frame: &[u8], queues: usize) -> usize {
        let flow = flow_of(frame);
        let shown = flow.map(|flow| self.shown.get(&flow.ip()).copied().unwrap_or(flow));
        let landed = self.landed.entry(shown).or_default();
        *landed += 1;
        let Some(shown) = shown else { return 0 };
        if let Some(kept) = &mut self.kept {
            kept.push(frame.to_vec());
        }
        if self.scattered == Some(shown.ip()) {
            return *landed as usize % queues;
        }
        // The hash of the library: that of a simulated device.
        match flow {
            Some(flow) if flow == shown => rss.queue(frame, queues).unwrap(),
            _ => predicted(shown, queues),
        }
    }
}

/// The source of a datagram's frame.
fn flow_of(frame: &[u8]) -> Option<SocketAddr> {
    let (ethernet, rest) = Ethernet::parse(frame).ok()?;
    let by = stoq::wire::ChecksumBy::Software;
    let (ip, rest) = Ip::parse_v4(rest, by).or_else(|_| Ip::parse_v6(rest)).ok()?;
    let source = match ip.addresses {
        Addresses::V4 { source, .. } => IpAddr::V4(source),
        Addresses::V6 { source, .. } => IpAddr::V6(source),
    };
    let is_udp = ethernet.protocol == ip.addresses.ethernet_protocol() && u8::from(ip.protocol) == 17;
    let port = rest.first_chunk::<2>().filter(|_| is_udp)?;
    Some(SocketAddr::new(source, u16::from_be_bytes(*port)))
}

/// Toeplitz's hash, bit by bit as Microsoft's text describes it: without the library's code.
fn toeplitz(input: &[u8]) -> u32 {
    let key = RssKey::known();
    let bit = |bytes: &[u8], at: usize| u32::from(bytes[at / 8] >> (7 - at % 8) & 1);
    let window = |at: usize| (at..at + 32).fold(0, |window, at| window << 1 | bit(key.bytes(), at));
    (0..8 * input.len()).filter(|&at| bit(input, at) == 1).fold(0, |hash, at| hash ^ window(at))
}

/// The queue of a client's flow to the gateway, by its address and port.
pub(super) fn predicted(source: SocketAddr, queues: usize) -> usize {
    let mut input = Vec::new();
    match (source.ip(), gateway_v4().ip(), gateway_v6().ip()) {
        (IpAddr::V4(source), IpAddr::V4(gateway), _) => {
            input.extend([source.octets(), gateway.octets()].concat())
        }
        (IpAddr::V6(source), _, IpAddr::V6(gateway)) => {
            input.extend([source.octets(), gateway.octets()].concat())
        }
        _ => unreachable!("the gateway has an address of each family"),
    }
    input.extend([source.port().to_be_bytes(), UDP_PORT.to_be_bytes()].concat());
    (toeplitz(&input) % u32::from(RSS_TABLE_LEN)) as usize % queues
}

/// A world, its number of workers, and its device.
pub(super) struct Stage {
    pub(super) world: World,
    pub(super) workers: usize,
    device: Arc<Mutex<Device>>,
}

impl Stage {
    fn new(workers: usize, setup: Setup) -> Self {
        let world = World::new(Setup { gateway_workers: workers, ..setup });
        let (device, rss) =
            (Arc::new(Mutex::new(Device::default())), Rss::new(&RssKey::known(), RSS_TABLE_LEN));
        let at = device.clone();
        world.link.steer(GATEWAY_MAC, move |frame, queues| at.lock().unwrap().queue(&rss, frame, queues));
        Self { world, workers, device }
    }

    /// The addresses of a client.
    pub(super) fn own(&self, client: usize) -> [SocketAddr; 2] {
        let number = 10 + client as u8;
        let v6 = [0xfd77, 0, 0, 0, 0, 0, 0, number.into()];
        [SocketAddr::new([10, 77, 0, number].into(), UDP_PORT), SocketAddr::new(v6.into(), UDP_PORT)]
    }

    /// Shows a client's IPv4 address as `ip`, by a port whose flow has this queue. Returns the port.
    pub(super) fn show(&mut self, client: usize, ip: IpAddr, queue: usize) -> SocketAddr {
        let [own, _] = self.own(client);
        let by = |port| SocketAddr::new(ip, port);
        let mut ports = (20_000 + 1000 * client as u16..60_000).map(by);
        let current = self.device.lock().unwrap().shown.get(&own.ip()).copied();
        let shown = ports.find(|at| predicted(*at, self.workers) == queue && Some(*at) != current).unwrap();
        self.device.lock().unwrap().shown.insert(own.ip(), shown);
        self.world.gateway.icmp.show(own.ip(), shown);
        shown
    }

    /// Connects a client to the gateway's IPv4 address, by a flow whose datagrams land on this queue.
    #[track_caller]
    pub(super) fn connect_at(&mut self, client: usize, queue: usize) -> Peer {
        let [own, _] = self.own(client);
        self.show(client, own.ip(), queue);
        self.world.connect(client, gateway_v4())
    }

    /// Lets the datagrams of a station land on all queues in turn.
    pub(super) fn scatter(&mut self, station: IpAddr) {
        self.device.lock().unwrap().scattered = Some(station);
    }

    /// Keeps frames of datagrams from now on; returns those kept so far.
    pub(super) fn kept(&mut self) -> Vec<Vec<u8>> {
        self.device.lock().unwrap().kept.replace(Vec::new()).unwrap_or_default()
    }

    /// The worker that has the connection of this client's address, and its side of it.
    #[track_caller]
    pub(super) fn owner(&self, source: SocketAddr) -> (usize, Peer) {
        let callers = self.world.gateway.callers.iter().enumerate();
        let mut found = callers.filter_map(|(worker, caller)| {
            let peer =
                caller.peers.iter().find(|peer| peer.remote == source && caller.closed(peer).is_none())?;
            Some((worker, peer.clone()))
        });
        found.next().expect("a connection")
    }

    /// Nothing was lost on the way between workers, and each queue took the frames that were predicted for it.
    #[track_caller]
    pub(super) fn assert_whole(&mut self) {
        self.world.pass(Duration::from_millis(50));
        let (gateway, device) = (&self.world.gateway, self.device.lock().unwrap());
        assert_eq!(gateway.count(Counter::HandoversIn), gateway.count(Counter::HandoversOut));
        for counter in [Counter::DropHandoverFull, Counter::DropNoConnection] {
            assert_eq!(gateway.count(counter), 0, "{counter:?}\n{}", self.world.report());
        }
        if device.scattered.is_some() {
            return;
        }
        for worker in 0..self.workers {
            let flows = device
                .landed
                .iter()
                .filter(|(flow, _)| flow.map_or(0, |flow| predicted(flow, self.workers)) == worker);
            let frames: u64 = flows.map(|(_, frames)| frames).sum();
            assert_eq!(gateway.count_of(worker, Counter::RxPackets), frames, "queue {worker}");
        }
    }

    /// The datagrams that each worker hands over where no flow has had more than one connection: those of its queue that are another's.
    #[track_caller]
    pub(super) fn assert_one_handover_at_most(&mut self) {
        let landed = self.device.lock().unwrap().landed.clone();
        for worker in 0..self.workers {
            let is_passed =
                |flow: &SocketAddr| predicted(*flow, self.workers) == worker && self.owner(*flow).0 != worker;
            let passed = landed.iter().filter(|(flow, _)| flow.as_ref().is_some_and(is_passed));
            let expected: u64 = passed.map(|(_, frames)| frames).sum();
            assert_eq!(
                self.world.gateway.count_of(worker, Counter::HandoversOut),
                expected,
                "worker {worker}"
            );
        }
    }
}
