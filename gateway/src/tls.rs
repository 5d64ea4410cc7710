//! Makes TLS configurations of the files that a configuration names.

use crate::config::{ClientAuthConfig, ClientConfig, IdentityConfig, TlsConfig, TrustConfig};
use anyhow::Context as _;
use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::{KeyLog, KeyLogFile};
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use stoq::client::{Client, ClientBuilder};
use stoq::tls::{
    Authorities, CipherSuite, ClientAuth, ClientTls, Identity, ServerTls, TlsError, TlsPolicy, Trust,
    TrustFiles, client_config, server_config,
};

/// Receives the secrets of connections.
pub type KeyLogger = Option<Arc<dyn KeyLog>>;

/// The file that the environment variable `SSLKEYLOGFILE` names, for the secrets of a tool's connections. A new one is open to this user
/// alone.
///
/// # Errors
/// A file that cannot be written, with the fix.
pub fn key_log_file() -> anyhow::Result<KeyLogger> {
    let Some(path) = std::env::var_os("SSLKEYLOGFILE").filter(|path| !path.is_empty()).map(PathBuf::from)
    else {
        return Ok(None);
    };
    // The log itself ignores a file that it cannot open.
    OpenOptions::new().append(true).create(true).mode(0o600).open(&path).with_context(|| {
        format!(
            "TLS secrets cannot go to {}: let SSLKEYLOGFILE name a writable one, or unset it",
            path.display()
        )
    })?;
    Ok(Some(Arc::new(KeyLogFile::new())))
}

/// A listener's TLS configuration, and its identity.
///
/// # Errors
/// A file that is missing or wrong, with the fix.
pub fn server(
    tls: &TlsConfig,
    identity: &IdentityConfig,
    trust: &TrustConfig,
    key_log: KeyLogger,
) -> Result<(Arc<QuicServerConfig>, Identity), TlsError> {
    let identity = load(identity)?;
    let client_auth = match trust.client_auth {
        ClientAuthConfig::Required => ClientAuth::Required(trusted(trust)?),
        ClientAuthConfig::Optional => ClientAuth::Optional(trusted(trust)?),
        ClientAuthConfig::Off => ClientAuth::Off,
    };
    let early_data = tls.early_data;
    let config = ServerTls {
        policy: policy(tls),
        early_data,
        key_log,
        ..ServerTls::new(identity.clone(), client_auth)
    };
    Ok((server_config(&config)?, identity))
}

/// A connecting node's TLS configuration; `key_log` receives the secrets of its connections.
///
/// # Errors
/// A file that is missing or wrong, with the fix.
pub fn client(
    tls: &TlsConfig,
    identity: Option<&IdentityConfig>,
    trust: &TrustConfig,
    key_log: KeyLogger,
) -> Result<Arc<QuicClientConfig>, TlsError> {
    client_config(&ClientTls { key_log, ..client_tls(tls, identity, trust)? })
}

/// The settings of which [`client`] makes a configuration.
///
/// # Errors
/// A file that is missing or wrong, with the fix.
pub fn client_tls(
    tls: &TlsConfig,
    identity: Option<&IdentityConfig>,
    trust: &TrustConfig,
) -> Result<ClientTls, TlsError> {
    let identity = identity.map(load).transpose()?;
    let early_data = tls.early_data;
    Ok(ClientTls { identity, policy: policy(tls), early_data, ..ClientTls::new(trusted(trust)?) })
}

/// A client's settings, except for its network; `key_log` receives the secrets of its connections.
///
/// # Errors
/// A file that is missing or wrong, with the fix.
pub fn client_builder(config: &ClientConfig, key_log: KeyLogger) -> Result<ClientBuilder, TlsError> {
    let builder = Client::builder()
        .trust(trusted(&config.trust)?)
        .tls_policy(policy(&config.tls))
        .early_data(config.tls.early_data)
        .quic(config.quic.clone())
        .idle(config.workers.idle)
        .cores(config.workers.cores.iter().copied())
        .verify_threads(config.workers.verify());
    let builder = match &config.identity {
        Some(identity) => builder.identity(load(identity)?),
        None => builder,
    };
    Ok(match key_log {
        Some(key_log) => builder.key_log(key_log),
        None => builder,
    })
}

/// A certificate and its key.
///
/// # Errors
/// A file that is missing or wrong, with the fix.
pub fn load(identity: &IdentityConfig) -> Result<Identity, TlsError> {
    Identity::load(&identity.certificate, &identity.key)
}

/// The authorities whose certificates a file holds.
///
/// # Errors
/// A file that is missing or wrong, with the fix.
pub fn authorities(tls: &TlsConfig, file: &Path) -> Result<Authorities, TlsError> {
    Authorities::load(file, &policy(tls))
}

fn trusted(trust: &TrustConfig) -> Result<Trust, TlsError> {
    Trust::load(&TrustFiles { ca: trust.ca.as_deref(), node_ids: &trust.node_ids })
}

/// The configured AEAD first, the others after it.
fn policy(tls: &TlsConfig) -> TlsPolicy {
    let mut cipher_suites = CipherSuite::ALL.to_vec();
    cipher_suites.retain(|suite| *suite != tls.cipher);
    cipher_suites.insert(0, tls.cipher);
    TlsPolicy {
        require_post_quantum: tls.require_post_quantum,
        allow_classical_peers: tls.allow_classical_peers,
        cipher_suites,
    }
}
