//! The TLS configurations for quinn-proto.

use std::num::NonZeroUsize;
use std::sync::Arc;

use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::pki_types::ServerName;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, KeyLog, ServerConfig};

use super::provider::{crypto_provider, verification_algorithms};
use super::sessions::SessionCache;
use super::trust::PeerVerifier;
use super::{Identity, TlsError, TlsPolicy, Trust};

/// The application protocol, version 1 of STOQ's records.
pub const ALPN: &[u8] = b"stoq/1";

/// The default number of sessions that a node remembers.
const SESSION_CACHE_LEN: usize = 4096;
/// Tickets sent after a full handshake: a client that opens two connections at once resumes both.
const TICKETS_LEN: usize = 2;

/// A listener's demand on its clients' certificates.
#[derive(Clone, Debug)]
pub enum ClientAuth {
    /// Every client presents a certificate that this trust accepts.
    Required(Trust),
    /// A client may present no certificate; one that it presents must be accepted by this trust.
    Optional(Trust),
    /// Clients are not asked.
    Off,
}

/// The TLS side of a listener.
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// This node's identity.
    pub identity: Identity,
    /// A second, ECDSA or Ed25519 identity for clients that do not verify Falcon. Needs
    /// [`TlsPolicy::allow_classical_peers`].
    pub classical_identity: Option<Identity>,
    /// The demand on clients.
    pub client_auth: ClientAuth,
    /// The policy for handshakes.
    pub policy: TlsPolicy,
    /// Sessions remembered for resumption, among all workers that share the configuration; 0 turns resumption off.
    pub session_cache_len: usize,
    /// Accept data in a resumed client's first flight, which an attacker can replay. Default false.
    pub early_data: bool,
    /// Receives the secrets of every connection, for captures. Default none.
    pub key_log: Option<Arc<dyn KeyLog>>,
}

impl ServerTls {
    /// The defaults: Falcon and X25519MLKEM768 only, resumption on, no early data.
    pub fn new(identity: Identity, client_auth: ClientAuth) -> Self {
        Self {
            identity,
            classical_identity: None,
            client_auth,
            policy: TlsPolicy::default(),
            session_cache_len: SESSION_CACHE_LEN,
            early_data: false,
            key_log: None,
        }
    }
}

/// The TLS side of a node that connects.
#[derive(Clone, Debug)]
pub struct ClientTls {
    /// This node's identity, for servers that require one.
    pub identity: Option<Identity>,
    /// The trust in servers.
    pub trust: Trust,
    /// A DNS name or IP address that the server's certificate must carry. Default none: STOQ uses no names,
    /// and any certificate that [`ClientTls::trust`] accepts is enough.
    pub server_name: Option<String>,
    /// The policy for handshakes.
    pub policy: TlsPolicy,
    /// Servers whose sessions are remembered for resumption; 0 turns resumption off.
    pub session_cache_len: usize,
    /// Send data in the first flight when resuming, which an attacker can replay. Default false.
    pub early_data: bool,
    /// Receives the secrets of every connection, for captures. Default none.
    pub key_log: Option<Arc<dyn KeyLog>>,
}

impl ClientTls {
    /// The defaults: no identity, Falcon and X25519MLKEM768 only, no name check, resumption on, no early data.
    pub fn new(trust: Trust) -> Self {
        Self {
            identity: None,
            trust,
            server_name: None,
            policy: TlsPolicy::default(),
            session_cache_len: SESSION_CACHE_LEN,
            early_data: false,
            key_log: None,
        }
    }
}

/// Builds a listener's argument for [`quinn_proto::ServerConfig::with_crypto`]. All workers share it.
///
/// A resumed session keeps the peer that its first handshake proved, and is not judged again. Each call therefore
/// starts with an empty cache of sessions: a reload that withdraws trust ends every resumable session.
pub fn server_config(tls: &ServerTls) -> Result<Arc<QuicServerConfig>, TlsError> {
    check_policy(&tls.policy)?;
    if tls.classical_identity.is_some() && !tls.policy.allow_classical_peers {
        return Err(TlsError::UselessClassicalIdentity);
    }
    let builder = ServerConfig::builder_with_provider(Arc::new(crypto_provider(&tls.policy)))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(refused)?;
    let builder = match &tls.client_auth {
        ClientAuth::Required(trust) => builder.with_client_cert_verifier(client_verifier(tls, trust, true)),
        ClientAuth::Optional(trust) => builder.with_client_cert_verifier(client_verifier(tls, trust, false)),
        ClientAuth::Off => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(IdentityResolver {
        falcon: tls.identity.clone(),
        classical: tls.classical_identity.clone(),
    }));
    config.alpn_protocols = vec![ALPN.to_vec()];
    // Stateful: rustls' stateless tickets carry the client's chain and never offer early data.
    match NonZeroUsize::new(tls.session_cache_len) {
        None => {
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Some(len_max) => {
            config.session_storage = Arc::new(SessionCache::new(len_max));
            config.send_tls13_tickets = TICKETS_LEN;
        }
    }
    // RFC 9001 §4.6.1: the size in a ticket is 0xffffffff, or early data is not offered.
    config.max_early_data_size = if tls.early_data { u32::MAX } else { 0 };
    if let Some(key_log) = &tls.key_log {
        config.key_log = key_log.clone();
    }
    let initial = initial_suite()?;
    Ok(Arc::new(QuicServerConfig::with_initial(Arc::new(config), initial).map_err(refused)?))
}

/// Builds a connecting node's argument for [`quinn_proto::ClientConfig::new`]. All workers share it.
///
/// Connections by address use [`super::connect_name`] as their server name.
pub fn client_config(tls: &ClientTls) -> Result<Arc<QuicClientConfig>, TlsError> {
    check_policy(&tls.policy)?;
    let server_name = match &tls.server_name {
        Some(name) => {
            let parsed = ServerName::try_from(name.clone());
            Some(parsed.map_err(|_| TlsError::ServerName(name.clone()))?)
        }
        None => None,
    };
    let verifier = PeerVerifier { server_name, ..verifier(&tls.policy, &tls.trust) };
    let builder = ClientConfig::builder_with_provider(Arc::new(crypto_provider(&tls.policy)))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(refused)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match &tls.identity {
        Some(identity) => {
            let identity = SingleCertAndKey::from(identity.certified().clone());
            builder.with_client_cert_resolver(Arc::new(identity))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = match tls.session_cache_len {
        0 => Resumption::disabled(),
        len => Resumption::in_memory_sessions(len),
    };
    config.enable_early_data = tls.early_data;
    if let Some(key_log) = &tls.key_log {
        config.key_log = key_log.clone();
    }
    config.enable_sni = tls.server_name.is_some();
    let initial = initial_suite()?;
    Ok(Arc::new(QuicClientConfig::with_initial(Arc::new(config), initial).map_err(refused)?))
}

fn check_policy(policy: &TlsPolicy) -> Result<(), TlsError> {
    if policy.cipher_suites.is_empty() { Err(TlsError::NoCipherSuite) } else { Ok(()) }
}

/// RFC 9001 §5.2: Initial packets are protected by AES-128-GCM, whatever the handshake negotiates.
fn initial_suite() -> Result<rustls::quic::Suite, TlsError> {
    let suite = TLS13_AES_128_GCM_SHA256.tls13().and_then(|suite| suite.quic_suite());
    suite.ok_or_else(|| TlsError::Refused("no cipher suite for Initial packets".into()))
}

fn verifier(policy: &TlsPolicy, trust: &Trust) -> PeerVerifier {
    PeerVerifier {
        trust: trust.clone(),
        algorithms: verification_algorithms(policy),
        allow_classical: policy.allow_classical_peers,
        server_name: None,
        client_required: false,
    }
}

fn client_verifier(tls: &ServerTls, trust: &Trust, client_required: bool) -> Arc<dyn ClientCertVerifier> {
    Arc::new(PeerVerifier { client_required, ..verifier(&tls.policy, trust) })
}

fn refused(error: impl std::fmt::Display) -> TlsError {
    TlsError::Refused(error.to_string())
}

/// Chooses between a server's two identities by the signatures that the client verifies.
#[derive(Debug)]
struct IdentityResolver {
    falcon: Identity,
    classical: Option<Identity>,
}

impl ResolvesServerCert for IdentityResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let usable = |identity: &&Identity| identity.key().choose_scheme(hello.signature_schemes()).is_some();
        let chosen = Some(&self.falcon).filter(usable).or(self.classical.as_ref().filter(usable));
        // If the client can verify neither, the Falcon chain makes rustls report that there is no common
        // signature scheme.
        Some(chosen.unwrap_or(&self.falcon).certified().clone())
    }
}
