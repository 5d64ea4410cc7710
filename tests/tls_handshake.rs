//! Handshakes between real quinn-proto endpoints in memory: the peers that are admitted, those that are refused, and the errors of both.

mod tls_support;

use rustls::sign::SigningKey;
use rustls::{KeyLog, SignatureScheme};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use stoq::tls::{
    ALPN, CipherSuite, ClientAuth, ClientTls, FalconAlgorithm, FalconKey, Identity, PemText, ServerTls,
    Trust, client_config, server_config,
};
use tls_support::authority::{Authority, Lifetime, flip_signature, self_signed};
use tls_support::strangers::{KX_CLASSICAL, KX_HYBRID, Liar, classical_key, custom_client, custom_server};
use tls_support::wire::{Outcome, Pair};

const FALCON: FalconAlgorithm = FalconAlgorithm::FalconPadded512;

fn trusting(ca: &Authority) -> Trust {
    Trust::new(std::slice::from_ref(&ca.certificate), []).unwrap()
}

fn pair(client: &ClientTls, server: &ServerTls) -> Pair {
    Pair::new(client_config(client).unwrap(), server_config(server).unwrap())
}

fn connect(client: &ClientTls, server: &ServerTls) -> Outcome {
    pair(client, server).connect()
}

/// A client and a server that know each other by one authority, under mutual authentication.
fn acquainted() -> (Authority, ClientTls, ServerTls) {
    let ca = Authority::new("root", FALCON);
    let client = ClientTls { identity: Some(ca.issue("client")), ..ClientTls::new(trusting(&ca)) };
    let server = ServerTls::new(ca.issue("server"), ClientAuth::Required(trusting(&ca)));
    (ca, client, server)
}

fn assert_open(outcome: &Outcome) {
    assert!(outcome.client.lost.is_none(), "client lost it: {:?}", outcome.client.lost);
    assert!(outcome.server.lost.is_none(), "server lost it: {:?}", outcome.server.lost);
    assert!(outcome.client.connected_rtts.is_some() && outcome.server.connected_rtts.is_some());
}

#[track_caller]
fn assert_says(refusal: &str, part: &str) {
    assert!(refusal.contains(part), "{refusal:?} does not say {part:?}");
}

#[test]
fn mutual_authentication_shows_both_sides_the_others_identity() {
    let (_, client, server) = acquainted();
    let outcome = connect(&client, &server);
    assert_open(&outcome);
    assert_eq!(outcome.client.peer, Some(server.identity.node_id()));
    assert_eq!(outcome.server.peer, Some(client.identity.unwrap().node_id()));
}

#[test]
fn self_signed_identities_know_each_other_by_pins() {
    let [one, two] = ["one", "two"].map(|name| Identity::generate(FALCON, name, &[], 30).unwrap().identity);
    let pin = |identity: &Identity| Trust::pinned([identity.node_id()]).unwrap();
    let client = ClientTls { identity: Some(one.clone()), ..ClientTls::new(pin(&two)) };
    let server = ServerTls::new(two.clone(), ClientAuth::Required(pin(&one)));
    let outcome = connect(&client, &server);
    assert_open(&outcome);
    assert_eq!((outcome.client.peer, outcome.server.peer), (Some(two.node_id()), Some(one.node_id())));
}

#[test]
fn a_self_signed_identity_serves_as_its_own_authority() {
    let identity = Identity::generate(FALCON, "alone", &[], 30).unwrap().identity;
    let client = ClientTls::new(Trust::new(identity.chain(), []).unwrap());
    assert_open(&connect(&client, &ServerTls::new(identity, ClientAuth::Off)));
}

#[test]
fn the_listeners_setting_decides_whether_a_client_needs_a_certificate() {
    let (ca, mut client, mut server) = acquainted();
    server.client_auth = ClientAuth::Optional(trusting(&ca));
    let named = connect(&client, &server);
    assert_open(&named);
    assert_eq!(named.server.peer, client.identity.as_ref().map(Identity::node_id));
    client.identity = None;
    let anonymous = connect(&client, &server);
    assert_open(&anonymous);
    assert_eq!(anonymous.server.peer, None);
    client.identity = Some(Authority::new("another", FALCON).issue("client"));
    assert_says(&connect(&client, &server).server.refusal(), "not issued by a trusted authority");
    server.client_auth = ClientAuth::Off;
    let unasked = connect(&client, &server);
    assert_open(&unasked);
    assert_eq!(unasked.server.peer, None);
}

#[test]
fn degree_1024_and_every_cipher_suite_connect() {
    let ca = Authority::new("root", FalconAlgorithm::FalconPadded1024);
    for suite in CipherSuite::ALL {
        let mut client = ClientTls::new(trusting(&ca));
        client.policy.cipher_suites = vec![suite];
        assert_open(&connect(&client, &ServerTls::new(ca.issue("server"), ClientAuth::Off)));
    }
}

#[test]
fn a_server_takes_the_first_key_exchange_of_the_clients_list() {
    let (_, _, mut server) = acquainted();
    server.client_auth = ClientAuth::Off;
    let rtts = |server: &ServerTls| {
        let client = custom_client(&[FALCON.scheme()], &[KX_CLASSICAL, KX_HYBRID], ALPN);
        let outcome = Pair::new(client, server_config(server).unwrap()).connect();
        assert_open(&outcome);
        outcome.client.connected_rtts
    };
    // The client sends a share of its first one alone. For the other the server asks, which takes a round trip.
    assert_eq!(rtts(&server), Some(2.0));
    server.policy.require_post_quantum = false;
    assert_eq!(rtts(&server), Some(1.0));
}

#[test]
fn a_client_that_allows_two_key_exchanges_sends_shares_of_both() {
    let key = FalconKey::generate(FALCON).unwrap();
    let chain = vec![self_signed("server", &key)];
    let mut client = ClientTls::new(Trust::new(&chain, []).unwrap());
    client.policy.require_post_quantum = false;
    let key: Arc<dyn SigningKey> = Arc::new(key);
    for kx in [KX_HYBRID, KX_CLASSICAL] {
        let server = custom_server(chain.clone(), key.clone(), kx, ALPN);
        let outcome = Pair::new(client_config(&client).unwrap(), server).connect();
        assert_open(&outcome);
        assert_eq!(outcome.client.connected_rtts, Some(1.0));
    }
}

/// The length of a connection's secrets, bytes: that of the cipher suite's hash.
#[derive(Debug, Default)]
struct SecretBytes(AtomicUsize);

impl KeyLog for SecretBytes {
    fn log(&self, _label: &str, _client_random: &[u8], secret: &[u8]) {
        self.0.store(secret.len(), Relaxed);
    }
}

#[test]
fn a_server_takes_the_first_cipher_suite_of_the_clients_list() {
    let (_, mut client, mut server) = acquainted();
    let [sha_256, sha_384] = [CipherSuite::Aes128Gcm, CipherSuite::Aes256Gcm];
    for (first, second, bytes) in [(sha_256, sha_384, 32), (sha_384, sha_256, 48)] {
        let secret = Arc::new(SecretBytes::default());
        client.key_log = Some(secret.clone());
        client.policy.cipher_suites = vec![first, second];
        server.policy.cipher_suites = vec![second, first];
        assert_open(&connect(&client, &server));
        assert_eq!(secret.0.load(Relaxed), bytes);
    }
}

#[test]
fn a_server_of_another_authority_is_refused() {
    let (_, mut client, server) = acquainted();
    client.trust = trusting(&Authority::new("another", FALCON));
    let outcome = connect(&client, &server);
    assert_says(&outcome.client.refusal(), "the peer's certificate was not issued by a trusted authority");
    assert_says(
        &outcome.server.refusal(),
        "the peer does not trust the authority of this node's certificate",
    );
    assert_eq!(outcome.alert(), 48);
}

#[test]
fn a_client_of_another_authority_is_refused() {
    let (_, mut client, server) = acquainted();
    client.identity = Some(Authority::new("another", FALCON).issue("client"));
    let outcome = connect(&client, &server);
    assert_says(&outcome.server.refusal(), "the peer's certificate was not issued by a trusted authority");
    assert_says(
        &outcome.client.refusal(),
        "the peer does not trust the authority of this node's certificate",
    );
    assert_eq!(outcome.alert(), 48);
}

#[test]
fn an_unpinned_peer_is_refused_by_its_node_id() {
    let (ca, mut client, server) = acquainted();
    let other = ca.issue("other").node_id();
    for trust in [Trust::pinned([other]), Trust::new(std::slice::from_ref(&ca.certificate), [other])] {
        client.trust = trust.unwrap();
        let outcome = connect(&client, &server);
        let id = server.identity.node_id();
        assert_says(&outcome.client.refusal(), &format!("the peer's node ID {id} is not among the pinned"));
        assert_says(&outcome.server.refusal(), &format!("the peer has not pinned this node's ID {id}"));
        assert_eq!(outcome.alert(), 46);
    }
}

#[test]
fn a_pinned_peer_of_another_authority_is_refused_when_both_must_hold() {
    let (_, mut client, server) = acquainted();
    let another = Authority::new("another", FALCON);
    client.trust = Trust::new(&[another.certificate], [server.identity.node_id()]).unwrap();
    assert_says(&connect(&client, &server).client.refusal(), "not issued by a trusted authority");
}

#[test]
fn certificates_out_of_their_dates_are_refused() {
    let (ca, mut client, mut server) = acquainted();
    for (lifetime, ours, theirs) in [
        (Lifetime::Expired, "the peer's certificate has expired", "finds this node's certificate expired"),
        (
            Lifetime::Future,
            "the peer's certificate is not valid yet",
            "finds this node's certificate not valid yet",
        ),
    ] {
        server.identity = ca.issue_with("server", lifetime, |der| der);
        for trust in [trusting(&ca), Trust::pinned([server.identity.node_id()]).unwrap()] {
            client.trust = trust;
            let outcome = connect(&client, &server);
            assert_says(&outcome.client.refusal(), ours);
            assert_says(&outcome.server.refusal(), theirs);
            assert_eq!(outcome.alert(), 45);
        }
    }
}

#[test]
fn a_certificate_whose_signature_was_altered_is_refused() {
    let (ca, client, mut server) = acquainted();
    server.identity = ca.issue_with("server", Lifetime::Current, flip_signature);
    let outcome = connect(&client, &server);
    assert_says(&outcome.client.refusal(), "carries a signature that is not its issuer's");
    assert_says(&outcome.server.refusal(), "finds a signature in this node's certificate chain");
    assert_eq!(outcome.alert(), 46);
}

#[test]
fn a_handshake_signature_that_was_altered_is_refused() {
    let key = FalconKey::generate(FALCON).unwrap();
    let chain = vec![self_signed("server", &key)];
    let client = ClientTls::new(Trust::new(&chain, []).unwrap());
    let server = custom_server(chain, Arc::new(Liar { key: Arc::new(key), alter: true }), KX_HYBRID, ALPN);
    let outcome = Pair::new(client_config(&client).unwrap(), server).connect();
    assert_says(&outcome.client.refusal(), "handshake signature does not match its certificate");
    assert_says(&outcome.server.refusal(), "could not verify this node's handshake signature");
    assert_eq!(outcome.alert(), 51);
}

#[test]
fn a_client_without_post_quantum_key_exchange_is_refused() {
    let (_, _, mut server) = acquainted();
    server.client_auth = ClientAuth::Off;
    let outcome =
        Pair::new(custom_client(&[FALCON.scheme()], &[KX_CLASSICAL], ALPN), server_config(&server).unwrap())
            .connect();
    assert_says(&outcome.server.refusal(), "the peer offers no X25519MLKEM768");
    assert_says(&outcome.client.refusal(), "accepts none of this node's key exchanges");
    assert_eq!(outcome.alert(), 40);
    server.policy.require_post_quantum = false;
    assert_open(
        &Pair::new(custom_client(&[FALCON.scheme()], &[KX_CLASSICAL], ALPN), server_config(&server).unwrap())
            .connect(),
    );
}

#[test]
fn a_server_without_post_quantum_key_exchange_is_refused() {
    let (_, mut client, server) = acquainted();
    let chain = server.identity.chain().to_vec();
    let key: Arc<dyn SigningKey> = Arc::new(FalconKey::generate(FALCON).unwrap());
    let classical = custom_server(chain, key, KX_CLASSICAL, ALPN);
    let outcome = Pair::new(client_config(&client).unwrap(), classical.clone()).connect();
    assert_says(&outcome.client.refusal(), "one side requires X25519MLKEM768 and the other lacks it");
    // If it is permitted, the key exchange succeeds, and the handshake fails at the server's wrong key.
    client.policy.require_post_quantum = false;
    let outcome = Pair::new(client_config(&client).unwrap(), classical).connect();
    assert_says(&outcome.client.refusal(), "handshake signature does not match");
}

#[test]
fn a_client_without_a_certificate_is_refused_where_one_is_required() {
    let (_, mut client, server) = acquainted();
    client.identity = None;
    let outcome = connect(&client, &server);
    assert_says(&outcome.server.refusal(), "the peer presented no certificate");
    assert_says(&outcome.client.refusal(), "the peer requires a client certificate");
    assert_eq!(outcome.alert(), 116);
    // The client's handshake was complete before the server judged its certificate.
    assert!(outcome.client.connected_rtts.is_some());
}

#[test]
fn a_peer_of_another_protocol_is_refused() {
    let (_, _, mut server) = acquainted();
    server.client_auth = ClientAuth::Off;
    let outcome =
        Pair::new(custom_client(&[FALCON.scheme()], &[KX_HYBRID], b"h3"), server_config(&server).unwrap())
            .connect();
    assert_says(&outcome.server.refusal(), "the peer does not speak stoq/1");
    assert_says(&outcome.client.refusal(), "the peer does not speak stoq/1");
    assert_eq!(outcome.alert(), 120);
}

#[test]
fn a_server_name_is_checked_only_when_asked_for() {
    let (_, mut client, server) = acquainted();
    client.server_name = Some("server.example".into());
    assert_open(&connect(&client, &server));
    client.server_name = Some("elsewhere.example".into());
    let outcome = connect(&client, &server);
    assert_says(&outcome.client.refusal(), "does not carry the server name asked for");
    assert_eq!(outcome.alert(), 42);
}

#[test]
fn a_classical_certificate_is_refused() {
    let (chain, key) = classical_key();
    let client = ClientTls::new(Trust::new(&chain, []).unwrap());
    // The server sends it even though the client has offered no such signature.
    let server = custom_server(chain, Arc::new(Liar { key, alter: false }), KX_HYBRID, ALPN);
    let outcome = Pair::new(client_config(&client).unwrap(), server).connect();
    assert_says(&outcome.client.refusal(), "is not Falcon");
    assert_says(&outcome.server.refusal(), "the peer accepts Falcon only");
    assert_eq!(outcome.alert(), 46);
}

#[test]
fn a_second_certificate_serves_classical_peers_if_the_policy_admits_them() {
    let (ca, falcon_client, mut server) = acquainted();
    server.client_auth = ClientAuth::Off;
    let issued = rcgen::generate_simple_self_signed(["server.example".to_owned()]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    stoq::tls::write_key_and(
        PemText { path: &path("key.pem"), text: issued.signing_key.serialize_pem().as_bytes() },
        PemText { path: &path("certificate.pem"), text: issued.cert.pem().as_bytes() },
    )
    .unwrap();
    let classical = Identity::load_classical(&path("certificate.pem"), &path("key.pem")).unwrap();
    let classical_client = || custom_client(&[SignatureScheme::ECDSA_NISTP256_SHA256], &[KX_HYBRID], ALPN);
    let refused = Pair::new(classical_client(), server_config(&server).unwrap()).connect();
    assert_says(&refused.server.refusal(), "the peer verifies no signature that this node can make");
    server.classical_identity = Some(classical.clone());
    assert!(server_config(&server).is_err(), "a classical identity is of no use yet");
    server.policy.allow_classical_peers = true;
    let open = Pair::new(classical_client(), server_config(&server).unwrap()).connect();
    assert_open(&open);
    assert_eq!(open.client.peer, Some(classical.node_id()));
    let falcon = connect(&ClientTls { trust: trusting(&ca), ..falcon_client }, &server);
    assert_eq!(falcon.client.peer, Some(server.identity.node_id()));
}

#[test]
fn a_resumed_session_keeps_the_peers_identity() {
    let (_, client, server) = acquainted();
    let pair = pair(&client, &server);
    let first = pair.connect();
    for _ in 0..3 {
        let resumed = pair.connect();
        assert_open(&resumed);
        assert!(resumed.server.sent_bytes < first.server.sent_bytes - 1500, "the chain was sent again");
        assert_eq!(resumed.server.peer, client.identity.as_ref().map(Identity::node_id));
        assert_eq!(resumed.client.peer, Some(server.identity.node_id()));
        assert!(!resumed.client.early_data);
    }
}

#[test]
fn resumption_can_be_turned_off_and_early_data_on() {
    let (_, mut client, mut server) = acquainted();
    (client.early_data, server.early_data) = (true, true);
    let early = pair(&client, &server);
    assert_eq!([early.connect(), early.connect()].map(|outcome| outcome.client.early_data), [false, true]);
    server.session_cache_len = 0;
    let off = pair(&client, &server);
    assert_eq!([off.connect(), off.connect()].map(|outcome| outcome.client.early_data), [false, false]);
}

#[test]
fn a_new_configuration_resumes_no_old_session() {
    let (ca, client, mut server) = acquainted();
    let client = client_config(&client).unwrap();
    assert_open(&Pair::new(client.clone(), server_config(&server).unwrap()).connect());
    server.client_auth = ClientAuth::Required(Trust::pinned([ca.issue("only").node_id()]).unwrap());
    let outcome = Pair::new(client, server_config(&server).unwrap()).connect();
    assert_says(&outcome.server.refusal(), "is not among the pinned");
}

/// A hybrid ClientHello fills two Initials of 1200 bytes, so the server may send 7200 bytes before the client's address
/// is validated (RFC 9000 §8.1).
#[test]
fn falcon_512_chains_fit_the_first_flight_and_a_falcon_1024_intermediate_does_not() {
    let rtts = |algorithm, with_intermediate| {
        let root = Authority::new("root", algorithm);
        let intermediate = root.intermediate("intermediate");
        let issuer = if with_intermediate { &intermediate } else { &root };
        let server = ServerTls::new(issuer.issue("server"), ClientAuth::Off);
        let outcome = connect(&ClientTls::new(trusting(&root)), &server);
        assert_open(&outcome);
        outcome.client.connected_rtts.unwrap()
    };
    assert_eq!(rtts(FalconAlgorithm::FalconPadded512, false), 1.0);
    assert_eq!(rtts(FalconAlgorithm::FalconPadded512, true), 1.0);
    assert_eq!(rtts(FalconAlgorithm::FalconPadded1024, false), 1.0);
    assert!(rtts(FalconAlgorithm::FalconPadded1024, true) > 1.0);
}
