//! The connections that one node may have.

use crate::support::{Setup, World, gateway_v4};
use std::time::Duration;
use stoq::counters::Counter;
use stoq::quic::transport::QuicConfig;

#[test]
fn a_node_has_no_more_connections_than_one_may_and_is_told_so() {
    let gateway_quic = QuicConfig { connections_per_node_max: 3, ..QuicConfig::default() };
    // A node is the same whatever its address and its worker here.
    let mut world = World::new(Setup { gateway_quic, gateway_workers: 2, clients: 2, ..Setup::default() });
    let held: Vec<_> = (0..3).map(|number| world.connect(number % 2, gateway_v4())).collect();
    let refused = world.connect(1, gateway_v4());
    let waiting = refused.clone();
    world.run(Duration::from_secs(1), "the end", |world| world.caller(&waiting).closed(&waiting).is_some());
    let why = world.caller(&refused).closed(&refused).unwrap().to_owned();
    assert!(
        why.contains("quota")
            && why.contains("has 3 connections here")
            && why.contains("connections_per_node_max"),
        "{why}"
    );
    assert_eq!(world.gateway.count(Counter::NodeConnectionsRefused), 1);
    for peer in &held {
        world.echo(peer, b"the others stay");
    }
    world.caller(&held[0]).disconnect(&held[0]);
    // At once: QUIC knows a closed connection for three PTOs more.
    let another = world.connect(0, gateway_v4());
    world.echo(&another, b"a seat was free");
    assert_eq!(world.gateway.count(Counter::NodeConnectionsRefused), 1);
}
