//! Reads the files and checks them.

use super::check::ConfigCheck;
use super::renamed::{KeyOwner, check_names};
use super::{
    ApplicationConfig, ClientAuthConfig, ClientConfig, ConfigError, GatewayConfig, IdentityConfig,
    TrustConfig,
};
use crate::ranges;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use stoq::network::NetworkConfig;

/// Reads and checks the gateway's file. Relative paths in it start from its directory.
///
/// # Errors
/// [`ConfigError`], naming the file, the key and the fix.
pub fn load_gateway(file: &Path) -> Result<GatewayConfig, ConfigError> {
    let (mut config, text): (GatewayConfig, _) = read(file, KeyOwner::Gateway)?;
    config.fingerprint = blake3::hash(text.as_bytes()).to_hex().to_string();
    let base = file.parent().unwrap_or(Path::new(""));
    config.identity.resolve(base);
    config.trust.resolve(base);
    for path in [&mut config.capture.socket, &mut config.qlog.directory].into_iter().flatten() {
        resolve(base, path);
    }
    for application in &mut config.application {
        if let ApplicationConfig::Seed(seed) = application {
            resolve(base, &mut seed.directory);
        }
    }
    if let Some(admin) = &mut config.admin {
        let files = [&mut admin.certificate, &mut admin.key, &mut admin.token_file];
        files.into_iter().flatten().for_each(|path| resolve(base, path));
    }
    let check = ConfigCheck { file };
    check.admin(config.admin.as_ref())?;
    check.workers(&config.workers)?;
    check.network(&config.network)?;
    check.quic(&config.quic, &config.network)?;
    check.applications(&config.application)?;
    check.peer_gateways(&config.gateway, true)?;
    check.controls(&config.gateway, &config.quic, KeyOwner::Gateway)?;
    // Peer gateways are connected to, so they must be trusted.
    check.trust(
        &config.trust,
        config.gateway.is_empty() && config.trust.client_auth == ClientAuthConfig::Off,
    )?;
    check.hops(&config)?;
    check.capture(&config)?;
    if let NetworkConfig::KernelUdp(kernel) = &config.network
        && kernel.listen.iter().any(|address| address.port() == 0)
    {
        return Err(check.value("network.listen", "a gateway needs a fixed port, such as 4433"));
    }
    Ok(config)
}

/// Reads and checks the client's file. Relative paths in it start from its directory.
///
/// # Errors
/// [`ConfigError`], naming the file, the key and the fix.
pub fn load_client(file: &Path) -> Result<ClientConfig, ConfigError> {
    let (mut config, _): (ClientConfig, _) = read(file, KeyOwner::Client)?;
    let base = file.parent().unwrap_or(Path::new(""));
    if let Some(identity) = &mut config.identity {
        identity.resolve(base);
    }
    config.trust.resolve(base);
    let check = ConfigCheck { file };
    check.workers(&config.workers)?;
    check.network(&config.network)?;
    check.quic(&config.quic, &config.network)?;
    check.trust(&config.trust, false)?;
    check.peer_gateways(&config.gateway, false)?;
    check.controls(&config.gateway, &config.quic, KeyOwner::Client)?;
    Ok(config)
}

/// Reads a file. Returns its types and its text.
fn read<T: DeserializeOwned>(path: &Path, owner: KeyOwner) -> Result<(T, String), ConfigError> {
    let file = path.display().to_string();
    let text =
        std::fs::read_to_string(path).map_err(|source| ConfigError::Read { file: file.clone(), source })?;
    // Names and ranges first: the errors of the types call an old name unknown, and do not say the range of a number.
    let check = |table| check_names(&table, owner).and_then(|()| ranges::check_keys(&table));
    if let Err((key, fix)) = text.parse().map_or(Ok(()), check) {
        return Err(ConfigError::Value { file, key, fix });
    }
    match toml::from_str(&text) {
        Ok(parsed) => Ok((parsed, text)),
        Err(source) => Err(ConfigError::Parse { file, source: Box::new(source) }),
    }
}

fn resolve(base: &Path, path: &mut PathBuf) {
    *path = base.join(&*path);
}

impl IdentityConfig {
    fn resolve(&mut self, base: &Path) {
        resolve(base, &mut self.certificate);
        resolve(base, &mut self.key);
    }
}

impl TrustConfig {
    fn resolve(&mut self, base: &Path) {
        if let Some(ca) = &mut self.ca {
            resolve(base, ca);
        }
    }
}
