//! From the configuration's `[fleet.kubernetes]`, or what a pod has, to what reaches the API.

use super::super::http::HttpEndpoint;
use super::exchange::{KubeCall, KubeMethod};
use super::object::KubeNames;
use crate::config::{FleetConfig, FleetKubernetesConfig};
use anyhow::{Context, bail};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use hyper::{Method, Request};
use rustls::{ClientConfig, RootCertStore};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use stoq::tls::read_certificates;

/// Where a pod finds the files of its service account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// How to reach the API of Kubernetes.
#[derive(Clone, Debug)]
pub struct KubeSettings {
    /// Whether it has TLS, its host and its port.
    server: (bool, String, u16),
    /// The certificates of the authority of the cluster.
    ca: Option<PathBuf>,
    /// The file with the token.
    token_file: Option<PathBuf>,
    /// Whose objects.
    pub(super) names: KubeNames,
}

impl KubeSettings {
    /// Reads what the configuration names, and what the pod has where it names nothing.
    ///
    /// # Errors
    /// A file cannot be read or used, or there is no pod; with the key and the fix.
    pub fn read(fleet: &FleetConfig) -> anyhow::Result<Self> {
        Self::of(fleet, Path::new(ACCOUNT), |name| std::env::var(name).ok())
    }

    fn of(
        fleet: &FleetConfig,
        account: &Path,
        variable: impl Fn(&str) -> Option<String>,
    ) -> anyhow::Result<Self> {
        let config = fleet.kubernetes.clone().unwrap_or_default();
        let server = match &config.server {
            Some(url) => FleetKubernetesConfig::endpoint(url).context("fleet.kubernetes.server is no URL")?,
            None => {
                let address = variable("KUBERNETES_SERVICE_HOST").zip(variable("KUBERNETES_SERVICE_PORT"));
                let address = address.and_then(|(host, port)| Some((true, host, port.parse().ok()?)));
                address.context("this is no pod of Kubernetes: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set; give fleet.kubernetes.server, with ca and token_file")?
            }
        };
        let has_tls = server.0;
        let ca = config.ca.or_else(|| has_tls.then(|| account.join("ca.crt")));
        let token_file = config.token_file.or_else(|| has_tls.then(|| account.join("token")));
        let namespace = match config.namespace {
            Some(namespace) => namespace,
            None => {
                let file = account.join("namespace");
                let read = std::fs::read_to_string(&file);
                let read = read.with_context(|| {
                    format!("{} cannot be read; give fleet.kubernetes.namespace", file.display())
                })?;
                read.trim().to_owned()
            }
        };
        let names = KubeNames { fleet: fleet.name.clone().unwrap_or_default(), namespace };
        let settings = Self { server, ca, token_file, names };
        // The files are read again whenever they are needed; a fault of now is told at the start.
        settings.tls()?;
        settings.token()?;
        Ok(settings)
    }

    /// Whose objects.
    pub fn names(&self) -> &KubeNames {
        &self.names
    }

    /// The same as another account.
    ///
    /// # Errors
    /// The file has no token.
    pub fn with_token(self, token_file: &Path) -> anyhow::Result<Self> {
        let settings = Self { token_file: Some(token_file.to_owned()), ..self };
        settings.token()?;
        Ok(settings)
    }

    fn tls(&self) -> anyhow::Result<Option<Arc<ClientConfig>>> {
        let Some(ca) = self.ca.as_deref().filter(|_| self.server.0) else { return Ok(None) };
        let mut roots = RootCertStore::empty();
        for certificate in read_certificates(ca).context("fleet.kubernetes.ca")? {
            // An authority of another kind beside that of the cluster takes nothing from it.
            let _ = roots.add(certificate);
        }
        if roots.is_empty() {
            bail!(
                "fleet.kubernetes.ca: {} has no certificate of an authority; give that of the cluster",
                ca.display()
            );
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        Ok(Some(Arc::new(config.with_root_certificates(roots).with_no_client_auth())))
    }

    fn token(&self) -> anyhow::Result<Option<HeaderValue>> {
        let Some(file) = &self.token_file else { return Ok(None) };
        let text = std::fs::read_to_string(file).with_context(|| {
            format!("fleet.kubernetes.token_file: {} cannot be read; in a pod, set automountServiceAccountToken: true", file.display())
        })?;
        let mut value = HeaderValue::from_str(&format!("Bearer {}", text.trim())).with_context(|| {
            format!("fleet.kubernetes.token_file: {} has no token; write one into it", file.display())
        })?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    /// The API, by the certificates that are there now.
    pub(super) fn endpoint(&self) -> Result<HttpEndpoint, String> {
        let (_, host, port) = self.server.clone();
        let authority =
            if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let tls = self.tls().map_err(|error| format!("{error:#}"))?;
        Ok(HttpEndpoint { authority, host, tls })
    }

    /// A call, with the token that is there now.
    pub(super) fn request(&self, call: &KubeCall) -> Result<Request<String>, String> {
        let method = match call.method {
            KubeMethod::Get => Method::GET,
            KubeMethod::Post => Method::POST,
            KubeMethod::Put => Method::PUT,
            KubeMethod::Delete => Method::DELETE,
        };
        let body = call.body.as_ref().map(ToString::to_string).unwrap_or_default();
        let mut request = Request::builder()
            .method(method)
            .uri(&call.path)
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, concat!("stoq-gateway/", env!("CARGO_PKG_VERSION")))
            .body(body)
            .map_err(|error| error.to_string())?;
        if call.body.is_some() {
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if let Some(token) = self.token().map_err(|error| format!("{error:#}"))? {
            request.headers_mut().insert(AUTHORIZATION, token);
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet(kubernetes: Option<FleetKubernetesConfig>) -> FleetConfig {
        let config = "key_file = \"k\"\nserver_id = \"000001\"\nname = \"eu\"";
        FleetConfig { kubernetes, ..toml::from_str(config).unwrap() }
    }

    #[test]
    fn a_pod_needs_no_keys_and_its_token_is_read_for_each_call() {
        let account = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(account.path().join(name), text).unwrap();
        let pod = |name: &str| Some(if name.ends_with("HOST") { "fd00::1" } else { "443" }.to_owned());
        let read = || KubeSettings::of(&fleet(None), account.path(), pod);
        let fault = || format!("{:#}", read().unwrap_err());
        assert!(fault().contains("cannot be read; give fleet.kubernetes.namespace"), "{}", fault());
        write("namespace", "stoq\n");
        assert!(fault().contains("fleet.kubernetes.ca"), "{}", fault());
        let made = rcgen::generate_simple_self_signed(vec!["kubernetes".to_owned()]).unwrap();
        write("ca.crt", &made.cert.pem());
        assert!(fault().contains("set automountServiceAccountToken: true"), "{}", fault());
        write("token", "a\nb");
        assert!(fault().contains("has no token; write one into it"), "{}", fault());
        write("token", "first\n");
        let settings = read().unwrap();
        assert_eq!(settings.names.namespace, "stoq");
        assert_eq!(settings.endpoint().unwrap().authority, "[fd00::1]:443");
        let shown = || {
            let request = settings.request(&KubeCall::get("/apis".into())).unwrap();
            request.headers()[AUTHORIZATION].to_str().unwrap().to_owned()
        };
        assert_eq!(shown(), "Bearer first");
        write("token", "second\n");
        assert_eq!(shown(), "Bearer second", "it was replaced");
        let error = KubeSettings::of(&fleet(None), account.path(), |_| None).unwrap_err().to_string();
        assert!(
            error.contains("this is no pod of Kubernetes") && error.contains("give fleet.kubernetes.server")
        );
    }

    #[test]
    fn a_server_without_tls_is_shown_no_token() {
        let kubernetes = FleetKubernetesConfig {
            server: Some("http://127.0.0.1:8001".into()),
            namespace: Some("stoq".into()),
            ..FleetKubernetesConfig::default()
        };
        let settings = KubeSettings::of(&fleet(Some(kubernetes)), Path::new("/missing"), |_| None).unwrap();
        let request = settings.request(&KubeCall::get("/apis".into())).unwrap();
        assert!(!request.headers().contains_key(AUTHORIZATION) && settings.endpoint().unwrap().tls.is_none());
    }
}
