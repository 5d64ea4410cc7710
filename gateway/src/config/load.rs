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

/// The longest key, letters, on a file's first line. A line of a secret in base64 is longer.
const KEY_LEN_MAX: usize = 40;

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
    config.rights.iter_mut().flat_map(|rights| &mut rights.authorities).for_each(|path| resolve(base, path));
    if let Some(fleet) = &mut config.fleet {
        resolve(base, &mut fleet.key_file);
        let of_etcd = fleet.etcd.iter_mut().flat_map(|etcd| etcd.files());
        let of_kubernetes = fleet.kubernetes.iter_mut().flat_map(|kubernetes| kubernetes.files());
        fleet
            .file
            .iter_mut()
            .chain(&mut fleet.saved)
            .chain(of_etcd)
            .chain(of_kubernetes)
            .for_each(|path| resolve(base, path));
        if let Some((key, fix)) = fleet.fault() {
            return Err(ConfigCheck { file }.value(key, fix));
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
    check.rights(&config.rights)?;
    check.capture(&config)?;
    check.anycast(&config)?;
    check.handover(&config)?;
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
    // The errors of TOML and of paths show the text, which must not be a secret's.
    if text.contains("-----BEGIN ") && text.contains("PRIVATE KEY-----") {
        return Err(ConfigError::HoldsKey { file });
    }
    if !begins_as_toml(&text) {
        return Err(ConfigError::NotToml { file });
    }
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

/// Whether the first line with content, if there is one, is a section or `key = …`. Keys and tokens are neither.
fn begins_as_toml(text: &str) -> bool {
    let line = text
        .trim_start_matches('\u{feff}')
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty() && !line.starts_with('#'));
    line.is_none_or(|line| {
        let is_key = |key: &str| {
            let key = key.trim_end();
            key.len() <= KEY_LEN_MAX
                && key.chars().all(|letter| letter.is_ascii_alphanumeric() || "_-.\" ".contains(letter))
        };
        line.starts_with('[') || line.split_once('=').is_some_and(|(key, _)| is_key(key))
    })
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
