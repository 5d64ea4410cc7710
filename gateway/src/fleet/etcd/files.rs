//! From the configuration's `[fleet.etcd]` to what reaches etcd: its files are read here.

use super::EtcdSettings;
use crate::config::{FleetConfig, FleetEtcdConfig};
use anyhow::{Context, ensure};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use stoq::tls::{exposed_mode, read_certificates};

impl EtcdSettings {
    /// Reads the files that the configuration names.
    ///
    /// # Errors
    /// A file that cannot be read or used; with the key and the fix.
    pub fn read(fleet: &FleetConfig, etcd: &FleetEtcdConfig) -> anyhow::Result<Self> {
        let name = fleet.name.as_deref().unwrap_or_default();
        let endpoints: Vec<_> =
            etcd.endpoints.iter().filter_map(|endpoint| FleetEtcdConfig::endpoint(endpoint)).collect();
        let tls = etcd.ca.as_deref().map(|ca| tls(ca, etcd)).transpose()?;
        let password = etcd.password_file.as_deref().map(password).transpose()?;
        let user = etcd.user.clone().zip(password);
        Ok(Self { endpoints, tls, user, prefix: format!("/stoq/1/{name}/") })
    }
}

fn tls(ca: &Path, etcd: &FleetEtcdConfig) -> anyhow::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(ca).context("fleet.etcd.ca")? {
        roots.add(certificate).with_context(|| {
            format!(
                "fleet.etcd.ca: {} has a certificate that is no authority's; give that of etcd's authority",
                ca.display()
            )
        })?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let config = config.with_root_certificates(roots);
    let (Some(certificate), Some(key)) = (&etcd.certificate, &etcd.key) else {
        return Ok(Arc::new(config.with_no_client_auth()));
    };
    let chain = read_certificates(certificate).context("fleet.etcd.certificate")?;
    private("fleet.etcd.key", key)?;
    let shown = key.display();
    let key = PrivateKeyDer::from_pem_file(key).with_context(|| {
        format!("fleet.etcd.key: {shown} has no private key in PEM; give that of fleet.etcd.certificate")
    })?;
    let config = config.with_client_auth_cert(chain, key).with_context(|| {
        format!("fleet.etcd.key: {shown} does not go with fleet.etcd.certificate; give a pair")
    })?;
    Ok(Arc::new(config))
}

fn password(path: &Path) -> anyhow::Result<String> {
    private("fleet.etcd.password_file", path)?;
    let text = std::fs::read_to_string(path)?;
    let password = text.trim_end_matches(['\r', '\n']).to_owned();
    ensure!(
        !password.is_empty(),
        "fleet.etcd.password_file: {} is empty; write the password of fleet.etcd.user into it",
        path.display()
    );
    Ok(password)
}

/// Whether a file can be read, and by its user alone.
fn private(key: &str, path: &Path) -> anyhow::Result<()> {
    let shown = path.display();
    let exposed = File::open(path).and_then(|file| exposed_mode(&file));
    let exposed = exposed.with_context(|| {
        format!("{key}: {shown} cannot be read; give a file that the gateway's user can read")
    })?;
    ensure!(
        exposed.is_none(),
        "{key}: other users can read the secret in {shown} (mode {:04o}); run: chmod 600 {shown}",
        exposed.unwrap_or_default()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_file_that_cannot_be_used_is_named_with_its_key_and_the_fix() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str, mode| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let made = rcgen::generate_simple_self_signed(vec!["etcd".to_owned()]).unwrap();
        let pem = write("etcd.pem", &made.cert.pem(), 0o644);
        let key = write("etcd.key", &made.signing_key.serialize_pem(), 0o600);
        let secret = write("etcd.pw", "secret\r\n", 0o600);
        let (empty, open) = (write("empty.pw", "\n", 0o600), write("open.pw", "secret\n", 0o644));
        let etcd = |certificate: &Path, key: &Path, password: &Path| {
            let etcd = FleetEtcdConfig {
                endpoints: vec!["https://127.0.0.1:2379".into(), "https://[::1]:2379/".into()],
                ca: Some(pem.clone()),
                certificate: Some(certificate.into()),
                key: Some(key.into()),
                user: Some("a1".into()),
                password_file: Some(password.into()),
            };
            let fleet = "key_file = \"k\"\nserver_id = \"000001\"\nname = \"eu\"";
            let fleet: FleetConfig = toml::from_str(fleet).unwrap();
            EtcdSettings::read(&fleet, &etcd)
        };
        let read = etcd(&pem, &key, &secret).unwrap();
        assert_eq!(read.user, Some(("a1".into(), "secret".into())));
        assert_eq!((read.prefix.as_str(), &read.endpoints[1]), ("/stoq/1/eu/", &(true, "::1".into(), 2379)));
        assert!(!format!("{read:?}").contains("secret"), "the password is not shown");
        let missing = directory.path().join("missing");
        for (read, part) in [
            (etcd(&missing, &key, &secret), "fleet.etcd.certificate"),
            (etcd(&pem, &missing, &secret), "give a file that the gateway's user can read"),
            (etcd(&pem, &secret, &secret), "has no private key in PEM; give that of fleet.etcd.certificate"),
            (etcd(&pem, &key, &empty), "is empty; write the password of fleet.etcd.user into it"),
            (etcd(&pem, &key, &open), "other users can read the secret in"),
        ] {
            let error = format!("{:#}", read.unwrap_err());
            assert!(error.contains(part) && error.contains("fleet.etcd."), "{part}: {error}");
        }
    }
}
