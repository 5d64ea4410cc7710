//! A route at a gateway. Input: place of the gateway in the route, for whom it forwards, which first bytes of node IDs are
//! peer gateways, its budget (a byte each), then the body of HOP.
//!
//! Held: what is forwarded reads the same again, has less of everything, and is judged in order by the next gateway.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stoq::hop::{Decision, HopRefusal, Policy, RouteNonce, Transit, decide};
use stoq::record::{Hop, Record};
use stoq::tls::NodeId;

fuzz_target!(|input: &[u8]| {
    let Some((&[place, forwards, peer_gateway_mask, budget], body)) = input.split_first_chunk() else {
        return;
    };
    let Ok(hop) = Hop::parse(body) else { return };
    let own = *hop.route.get(usize::from(place)).unwrap_or(&NodeId([place; 32]));
    let previous = (forwards & 4 == 0).then_some(NodeId([forwards; 32]));
    let transit = match forwards & 3 {
        0 => Transit::Nobody,
        1 => Transit::Gateways,
        2 => Transit::Anyone,
        _ => Transit::Listed([NodeId([forwards & 0x0f; 32])].into()),
    };
    let policy = Policy { own, transit, budget_bytes_max: u64::from(budget).max(1) };
    let peer_gateways = |node: &NodeId| node.0[0] & peer_gateway_mask == 0;
    let nonce = if forwards & 8 == 0 { RouteNonce::New } else { RouteNonce::Seen };
    let decided = decide(&hop, previous, &policy, peer_gateways, nonce);
    if let Ok(Decision::Forward { next, hop: forwarded }) = decided {
        assert!(peer_gateways(&next) && next != own);
        assert_eq!(forwarded.cursor, hop.cursor + 1);
        assert_eq!(forwarded.hop_limit, hop.hop_limit - 1);
        assert!(
            forwarded.budget_bytes <= hop.budget_bytes && forwarded.budget_bytes <= policy.budget_bytes_max
        );
        let mut written = Vec::new();
        forwarded.emit(&mut written);
        assert_eq!(Hop::parse(&written).as_ref(), Ok(&*forwarded));
        let there = Policy { own: next, transit: Transit::Anyone, budget_bytes_max: u64::MAX };
        match decide(&forwarded, Some(own), &there, |_| true, RouteNonce::New) {
            Ok(_) => {}
            Err(refusal) => assert_eq!(refusal, HopRefusal::HopLimit),
        }
    }
});
