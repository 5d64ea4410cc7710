//! The asking side: one GET at a time over HTTP or HTTPS, for `top`, `health` and tests.

use super::listener::chain;
use anyhow::{Context, bail, ensure};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest answer, bytes: that of a gateway with the most workers is far below.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// A gateway's admin endpoint.
#[derive(Clone, Debug)]
pub struct Remote {
    host: String,
    port: u16,
    tls: Option<Arc<ClientConfig>>,
    token: Option<String>,
}

impl Remote {
    /// The endpoint at `url`, such as `http://127.0.0.1:9464`. HTTPS needs the certificates in `ca`; `token_file` holds the
    /// bearer token, where one is asked for.
    ///
    /// # Errors
    /// A URL of another kind, or a file that cannot be read.
    pub fn new(url: &str, ca: Option<&Path>, token_file: Option<&Path>) -> anyhow::Result<Self> {
        let (scheme, rest) = url.split_once("://").with_context(|| format!("{url} is no URL"))?;
        let authority = rest.trim_end_matches('/');
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().with_context(|| format!("{url}: {port} is no port"))?)
            }
            _ => (authority, 9464),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let tls = match (scheme, ca) {
            ("http", _) => None,
            ("https", Some(ca)) => Some(trusting(ca)?),
            ("https", None) => bail!("{url}: give the authority's certificates with --ca"),
            _ => bail!("{url}: only http and https"),
        };
        Ok(Self { host, port, tls, token: token_file.map(super::token).transpose()? })
    }

    /// Asks for `path`; gives the status code and the body.
    ///
    /// # Errors
    /// Whoever is there does not answer, or not in HTTP.
    pub fn get(&self, path: &str) -> anyhow::Result<(u16, String)> {
        let asked = || format!("{}:{}", self.host, self.port);
        let stream = self.connect().with_context(asked)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let answer = match &self.tls {
            None => self.exchange(stream, path),
            Some(tls) => {
                let name = ServerName::try_from(self.host.clone())?;
                let client = ClientConnection::new(tls.clone(), name)?;
                self.exchange(StreamOwned::new(client, stream), path)
            }
        };
        let answer = answer.with_context(asked)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
        let status = head.strip_prefix("HTTP/1.").and_then(|status| status.split(' ').nth(1));
        let code = status.and_then(|code| code.parse().ok()).context("no HTTP answer")?;
        Ok((code, body.to_owned()))
    }

    /// To the first of the host's addresses that answers.
    fn connect(&self) -> io::Result<TcpStream> {
        let mut failed = io::Error::new(io::ErrorKind::NotFound, "no such host");
        for address in (self.host.as_str(), self.port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, PATIENCE) {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    fn exchange(&self, mut stream: impl Read + Write, path: &str) -> anyhow::Result<String> {
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        ensure!(plain(path), "the path is not in visible ASCII");
        // 1.0: the answer ends with the connection, and is not in chunks.
        let mut request = format!("GET {path} HTTP/1.0\r\nHost: {}\r\n", self.host);
        if let Some(token) = &self.token {
            ensure!(plain(token), "the token is not in visible ASCII");
            request += &format!("Authorization: Bearer {token}\r\n");
        }
        stream.write_all((request + "\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
        Ok(answer)
    }
}

fn trusting(ca: &Path) -> anyhow::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for certificate in chain(ca)? {
        roots.add(certificate).with_context(|| format!("{} is no authority", ca.display()))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}
