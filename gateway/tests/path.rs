//! `stoq path` over simulated links: what it says of a path is what the path is.

use std::net::SocketAddr;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use stoq::application::{Application, Discard, Echo};
use stoq::datagram::NetworkKind;
use stoq::datagram::user_space::{InterfaceConfig, UserSpace};
use stoq::nic::simulated::{LinkConfig, SimulatedLink, SimulatedNic};
use stoq::node::NodeConfig;
use stoq::quic::congestion::Congestion;
use stoq::quic::transport::QuicConfig;
use stoq::send_limit::SendLimit;
use stoq::session::QueueRoutes;
use stoq::tls::{
    ClientAuth, ClientTls, FalconAlgorithm, Identity, ServerTls, Trust, client_config, server_config,
};
use stoq::worker::{ConnectionView, Idle, NodeShared, Worker};
use stoq_gateway::probe::path::{AdviceSide, PathPlan, PathProbe, PathReport, PathSurvey};

const UDP_PORT: u16 = 4433;
const ECHO: u64 = 1;
const DISCARD: u64 = 2;
/// The least that the clock jumps, and the time between two looks at the connection.
const STEP: Duration = Duration::from_micros(20);
const LOOK: Duration = Duration::from_millis(100);
/// The longest measurement, in virtual time.
const PATIENCE: Duration = Duration::from_secs(60);
/// The MACs' last numbers.
const GATEWAY: u8 = 1;
const CLIENT: u8 = 2;

fn address(station: u8) -> SocketAddr {
    SocketAddr::new([10, 77, 0, station].into(), UDP_PORT)
}

fn plan() -> PathPlan {
    PathPlan {
        echo_queue: ECHO,
        discard_queue: DISCARD,
        idle: Duration::from_secs(2),
        load: Duration::from_secs(4),
        bytes_max: 1 << 30,
        patience: Duration::from_secs(5),
    }
}

fn worker(
    link: &SimulatedLink,
    station: u8,
    config: &NodeConfig,
    routes: QueueRoutes,
) -> Worker<UserSpace<SimulatedNic>> {
    let nic = link.add_station([2, 0, 0, 0, 0, station], 1).remove(0);
    let interface = InterfaceConfig {
        addresses: vec![format!("{}/24", address(station).ip()).parse().unwrap()],
        next_hop_v4: None,
        next_hop_v6: None,
        vlan: None,
        udp_port: UDP_PORT,
        udp_checksum: false,
    };
    let network = UserSpace::new(nic, &interface, NetworkKind::Simulated).unwrap();
    let shared = NodeShared::new(1, routes);
    shared.window_budget.set_total(config.quic.window_budget_bytes());
    Worker::new(0, network, shared, config.quic(1500), Idle::Spin)
}

/// Measures `link` to a gateway; both sides have these settings.
fn measured(
    link: LinkConfig,
    back: Option<LinkConfig>,
    quic: &QuicConfig,
    plan: PathPlan,
) -> Result<PathReport, String> {
    let identity =
        |name| Identity::generate(FalconAlgorithm::FalconPadded512, name, &[], 1).unwrap().identity;
    let (server, client) = (identity("gateway"), identity("client"));
    let trust = Trust::pinned([server.node_id(), client.node_id()]).unwrap();
    let link = SimulatedLink::new(link);
    let tls = ServerTls::new(server, ClientAuth::Required(trust.clone()));
    let config = NodeConfig {
        server: Some(server_config(&tls).unwrap()),
        quic: quic.clone(),
        ..NodeConfig::default()
    };
    let routes =
        QueueRoutes { queues: [(ECHO, 0), (DISCARD, 1)].into_iter().collect(), ..QueueRoutes::default() };
    let mut gateway = worker(&link, GATEWAY, &config, routes);
    let applications: [Box<dyn Application>; 2] = [Box::new(Echo::default()), Box::new(Discard::default())];
    applications.into_iter().for_each(|application| gateway.add_inline(application));
    let tls = ClientTls { identity: Some(client), ..ClientTls::new(trust) };
    let config = NodeConfig {
        client: Some(client_config(&tls).unwrap()),
        quic: quic.clone(),
        ..NodeConfig::default()
    };
    let mut client = worker(&link, CLIENT, &config, QueueRoutes::default());
    let (events, heard) = channel();
    client.add_inline(Box::new(PathProbe::new(address(GATEWAY), plan, events)));
    if let Some(back) = back {
        link.reconfigure_from([2, 0, 0, 0, 0, GATEWAY], |way| *way = back);
    }

    let status = client.status();
    let (mut survey, mut now) = (PathSurvey::default(), Instant::now());
    let (until, mut looked) = (now + PATIENCE, now);
    let mut asked = None;
    while !survey.is_over() {
        assert!(now < until, "the measurement never ends");
        while gateway.turn(now) | client.turn(now) {}
        heard.try_iter().for_each(|event| survey.event(event));
        if let Some(seen) =
            asked.as_mut().and_then(|answer: &mut tokio::sync::oneshot::Receiver<Vec<ConnectionView>>| {
                answer.try_recv().ok()
            })
        {
            survey.look(now, &seen);
            asked = None;
        } else if now >= looked + LOOK {
            looked = now;
            asked = Some(status.inspection.ask());
        }
        let due = [gateway.poll_timeout(), client.poll_timeout(), link.next_delivery(), Some(looked + LOOK)];
        now = due.into_iter().flatten().min().unwrap_or(now).max(now + STEP);
    }
    survey.report(quic)
}

/// 100 Mbit/s with a round trip of 50 ms, a buffer that holds as much as the path, and this loss both ways.
fn hundred_megabits(loss: f64) -> LinkConfig {
    LinkConfig {
        seed: 7,
        loss,
        delay: Duration::from_millis(25),
        bandwidth_bits_per_s: Some(100_000_000),
        buffer_bytes: Some(625_000),
        ..LinkConfig::default()
    }
}

fn with(congestion_control: Congestion) -> QuicConfig {
    QuicConfig { congestion_control, ..QuicConfig::default() }
}

/// The keys of the advice.
fn keys(report: &PathReport) -> Vec<(AdviceSide, &'static str)> {
    report.advice.iter().map(|advice| (advice.side, advice.key)).collect()
}

#[test]
fn a_lossy_path_has_its_delay_size_rate_and_loss() {
    let quic = QuicConfig { rate_bits_per_s: 95_000_000, ..with(Congestion::Reserved) };
    let report = measured(hundred_megabits(0.001), None, &quic, plan()).unwrap();
    assert!((50_000.0..51_000.0).contains(&report.idle.min_us), "{report:#?}");
    assert!(report.idle.count > 20 && report.idle.p50_us < 55_000.0, "{report:#?}");
    assert_eq!(report.udp_payload_bytes, 1472, "{report:#?}");
    for rate in [report.forth.bits_per_s, report.back.bits_per_s] {
        assert!((75e6..100e6).contains(&rate), "{report:#?}");
    }
    assert!((0.0003..0.004).contains(&report.forth.loss), "{report:#?}");
    assert!(report.back.held_bytes_max > 0 && report.back.is_bounded_by_forth, "{report:#?}");
    assert_eq!(keys(&report), [], "{report:#?}");
}

#[test]
fn a_controller_that_losses_slow_down_is_named() {
    let report = measured(hundred_megabits(0.001), None, &with(Congestion::Cubic), plan()).unwrap();
    assert!(report.forth.bits_per_s < 60e6, "{report:#?}");
    let (limit, share) = report.forth.limited_s.shares()[0];
    assert!(limit == SendLimit::Congestion && share > 0.5, "{report:#?}");
    assert_eq!(keys(&report), [(AdviceSide::Client, "congestion_control")], "{report:#?}");
    assert_eq!(report.advice[0].value, "\"model\"");
}

#[test]
fn small_windows_are_named_with_their_side() {
    let small = QuicConfig {
        send_window_bytes: 128 << 10,
        send_window_max_bytes: 128 << 10,
        ..with(Congestion::Model)
    };
    let report = measured(hundred_megabits(0.0), None, &small, plan()).unwrap();
    assert_eq!(report.forth.limited_s.shares()[0].0, SendLimit::Window, "{report:#?}");
    assert_eq!(keys(&report), [(AdviceSide::Client, "send_window_max_bytes")], "{report:#?}");
}

#[test]
fn a_thin_way_back_is_told_from_the_way_forth() {
    let thin = LinkConfig {
        bandwidth_bits_per_s: Some(1_000_000),
        buffer_bytes: Some(50_000),
        ..hundred_megabits(0.0)
    };
    let quick = PathPlan { load: Duration::from_secs(6), ..plan() };
    let report = measured(hundred_megabits(0.0), Some(thin), &with(Congestion::Model), quick).unwrap();
    assert!(report.forth.bits_per_s > 60e6, "{report:#?}");
    assert!((0.4e6..1e6).contains(&report.back.bits_per_s), "{report:#?}");
    assert!(
        !report.back.is_bounded_by_forth && keys(&report).contains(&(AdviceSide::Client, "packets_per_ack")),
        "{report:#?}"
    );
}

#[test]
fn the_bound_of_bytes_ends_a_load() {
    let few = PathPlan { bytes_max: 1 << 20, ..plan() };
    let report = measured(hundred_megabits(0.0), None, &with(Congestion::Model), few).unwrap();
    assert_eq!((report.forth.bytes, report.back.bytes), (1 << 20, 1 << 20), "{report:#?}");
    assert!(report.forth.seconds < 2.0 && report.forth.bits_per_s > 1e6, "{report:#?}");
}

#[test]
fn an_application_that_is_missing_is_named_with_the_fix() {
    for (wrong, kind, option) in [
        (PathPlan { echo_queue: 9, ..plan() }, "echo", "--echo"),
        (PathPlan { discard_queue: 9, ..plan() }, "discard", "--discard"),
    ] {
        let told = measured(hundred_megabits(0.0), None, &with(Congestion::Model), wrong).unwrap_err();
        let fix = format!("[[application]] kind = \"{kind}\", queues = [9]");
        assert!(
            told.contains("no answer from queue 9 within 5 s")
                && told.contains(option)
                && told.contains(&fix),
            "{told}"
        );
    }
}
