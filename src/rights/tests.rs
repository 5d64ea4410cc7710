use super::*;
use crate::tls::{FalconAlgorithm, Identity};

fn peer(name: &str) -> PeerChain {
    let made = Identity::generate(FalconAlgorithm::FalconPadded512, name, &[], 1).unwrap();
    PeerChain::of_client(made.identity.chain().to_vec())
}

fn section(name: &str, peers: NamedPeers) -> RightsSection {
    let grant = Grant { section: Some(name.into()), ..Grant::default() };
    RightsSection { peers, grant: Arc::new(grant) }
}

fn class(class: PeerClass) -> NamedPeers {
    NamedPeers { class: Some(class), ..NamedPeers::default() }
}

fn nodes(peers: &[&PeerChain]) -> NamedPeers {
    let nodes = peers.iter().map(|peer| peer.node_id().unwrap()).collect();
    NamedPeers { nodes, ..NamedPeers::default() }
}

#[test]
fn without_a_section_every_peer_may_do_everything() {
    let rights = Rights::default();
    for peer in [None, Some(&peer("a"))] {
        let grant = rights.of(peer);
        assert!(Right::ALL.into_iter().all(|right| grant.allowed.contains(right)));
        assert!(grant.allows_messages(0) && grant.allows_messages(u64::MAX >> 2));
        assert_eq!((&grant.section, grant.terms), (&None, StoreTerms::default()));
    }
}

#[test]
fn the_most_special_section_counts_whatever_the_order() {
    let (named, other) = (peer("named"), peer("other"));
    let mut sections = vec![
        section("anyone", class(PeerClass::Anyone)),
        section("authenticated", class(PeerClass::Authenticated)),
        section("nodes", nodes(&[&named])),
    ];
    for _ in 0..2 {
        let rights = Rights::new(sections.clone());
        for (peer, name) in [(Some(&named), "nodes"), (Some(&other), "authenticated"), (None, "anyone")] {
            assert_eq!(rights.of(peer).section.as_deref(), Some(name));
        }
        sections.reverse();
    }
    let rights = Rights::new(vec![section("anyone", class(PeerClass::Anyone))]);
    assert_eq!(
        rights.of(Some(&other)).section.as_deref(),
        Some("anyone"),
        "a certificate takes nothing away"
    );
}

#[test]
fn a_peer_that_no_section_names_may_do_nothing() {
    let (named, other) = (peer("named"), peer("other"));
    for rights in [
        Rights::new(vec![section("nodes", nodes(&[&named]))]),
        Rights::new(vec![
            section("nodes", nodes(&[&named])),
            section("rest", class(PeerClass::Authenticated)),
        ]),
    ] {
        let stranger = rights.of(None);
        assert_eq!(*stranger, Grant::default());
        assert!(!Right::ALL.into_iter().any(|right| stranger.allowed.contains(right)));
        assert!(!stranger.allows_messages(0));
    }
    assert_eq!(*Rights::new(vec![section("nodes", nodes(&[&named]))]).of(Some(&other)), Grant::default());
}

#[test]
fn equal_rights_keep_their_number_and_others_get_another() {
    let first = Rights::new(vec![section("nodes", nodes(&[&peer("a")]))]);
    let mut in_force = RightsInForce::new(Arc::new(first.clone()));
    let number = in_force.number();
    in_force.renew(&Arc::new(first));
    assert_eq!(in_force.number(), number);
    in_force.renew(&Arc::default());
    assert_ne!(in_force.number(), number);
    assert!(in_force.table().sections().is_empty());
}

#[test]
fn a_set_of_rights_has_what_was_put_in() {
    let set: RightSet = [Right::Put, Right::Messages].into_iter().collect();
    assert_eq!(set.iter().collect::<Vec<_>>(), [Right::Put, Right::Messages]);
    assert!(!set.contains(Right::Get) && RightSet::default().iter().next().is_none());
    assert_eq!(format!("{set:?}"), "{Put, Messages}");
}
