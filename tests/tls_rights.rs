//! Rights by authority: whose certificates count, over real handshakes.

mod tls_support;

use std::sync::Arc;
use stoq::rights::{Grant, NamedPeers, PeerClass, Rights, RightsSection};
use stoq::tls::{
    Authorities, ClientAuth, ClientTls, FalconAlgorithm, Identity, ServerTls, TlsPolicy, Trust,
    client_config, server_config,
};
use tls_support::authority::{Authority, self_signed};
use tls_support::wire::Pair;

const KIND: FalconAlgorithm = FalconAlgorithm::FalconPadded512;

fn authorities(of: &[&Authority]) -> Authorities {
    let certificates = of.iter().map(|authority| authority.certificate.clone()).collect();
    Authorities::new(certificates, &TlsPolicy::default()).unwrap()
}

fn section(name: &str, peers: NamedPeers) -> RightsSection {
    RightsSection { peers, grant: Arc::new(Grant { section: Some(name.into()), ..Grant::default() }) }
}

fn by_authority(name: &str, of: &[&Authority]) -> RightsSection {
    section(name, NamedPeers { authorities: vec![authorities(of)], ..NamedPeers::default() })
}

/// The sections of a client with this identity, of two connections, the second of which resumes the session of the first.
fn sections(client: &Identity, trust: Trust, rights: &Rights) -> [Option<String>; 2] {
    let server = Identity::generate(KIND, "server", &[], 1).unwrap().identity;
    let pin = Trust::pinned([server.node_id()]).unwrap();
    let client = ClientTls { identity: Some(client.clone()), ..ClientTls::new(pin) };
    let server = ServerTls::new(server, ClientAuth::Required(trust));
    let pair = Pair::new(client_config(&client).unwrap(), server_config(&server).unwrap());
    [(), ()].map(|()| {
        let outcome = pair.connect();
        assert!(outcome.server.connected_rtts.is_some(), "{:?}", outcome.server.lost);
        rights.of(outcome.server.chain.as_ref()).section.clone()
    })
}

#[test]
fn an_authority_gives_rights_to_its_peers_and_to_no_others() {
    let (north, south) = (Authority::new("north", KIND), Authority::new("south", KIND));
    let below = north.intermediate("below north");
    let trust = || {
        let roots = [&north, &south].map(|authority| authority.certificate.clone());
        Trust::new(&roots, []).unwrap()
    };
    let rest = section("rest", NamedPeers { class: Some(PeerClass::Authenticated), ..NamedPeers::default() });
    let rights =
        Rights::new(vec![rest.clone(), by_authority("below", &[&below]), by_authority("north", &[&north])]);
    for (client, name) in [
        (north.issue("a"), "north"),
        // An intermediate authority is one as well; of two that vouch for a peer, the first section counts.
        (below.issue("b"), "below"),
        (south.issue("c"), "rest"),
    ] {
        assert_eq!(sections(&client, trust(), &rights), [(); 2].map(|()| Some(name.to_owned())));
    }
    let named = north.issue("named");
    let nodes = NamedPeers { nodes: [named.node_id()].into_iter().collect(), ..NamedPeers::default() };
    let rights = Rights::new(vec![by_authority("north", &[&north]), section("node", nodes)]);
    assert_eq!(sections(&named, trust(), &rights), [(); 2].map(|()| Some("node".to_owned())));
}

#[test]
fn an_authority_vouches_by_signatures_and_not_by_names() {
    let (real, other) = (Authority::new("north", KIND), Authority::new("north", KIND));
    let rights = Rights::new(vec![by_authority("north", &[&real])]);
    let issued = real.issue("a");
    let impostor = other.issue("b");
    let alone = stoq::tls::FalconKey::generate(KIND).unwrap();
    let alone = Identity::new(vec![self_signed("north", &alone)], alone).unwrap();
    // Their keys are pinned: the handshake does not look at issuers.
    for (client, name) in [(&issued, Some("north".to_owned())), (&impostor, None), (&alone, None)] {
        let pins = Trust::pinned([client.node_id()]).unwrap();
        assert_eq!(sections(client, pins, &rights), [name.clone(), name]);
    }
}
