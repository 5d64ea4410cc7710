//! `stoq-gateway health`: asks a running gateway whether it is well. For containers, which need no other program for it then.

use super::client::Remote;
use anyhow::{Context, ensure};
use std::path::PathBuf;

/// The options of `stoq-gateway health`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the gateway's `[admin] listen` answers; `/livez` instead of `/readyz` asks whether it lives.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9464/readyz")]
    url: String,
    /// The authority's certificates, for an endpoint with TLS.
    #[arg(long, value_name = "PEM")]
    ca: Option<PathBuf>,
}

impl Args {
    /// Asks. Good is status 200 and nothing else.
    ///
    /// # Errors
    /// Nobody answers, or what is not well.
    pub fn ask(&self) -> anyhow::Result<()> {
        let (endpoint, path) = split(&self.url);
        let (code, body) = Remote::new(endpoint, self.ca.as_deref(), None)?
            .get(path)
            .context("does the gateway run, and is this its `[admin] listen`?")?;
        ensure!(code == 200, "status {code}: {}", body.lines().collect::<Vec<_>>().join("; "));
        Ok(())
    }
}

/// The endpoint and the path of an address.
fn split(url: &str) -> (&str, &str) {
    let authority = url.find("://").map_or(0, |at| at + 3);
    let path = url[authority..].find('/').map_or(url.len(), |at| authority + at);
    url.split_at(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_an_endpoint_and_a_path() {
        assert_eq!(split("http://[::1]:9464/livez"), ("http://[::1]:9464", "/livez"));
        assert_eq!(split("http://a"), ("http://a", ""));
        assert_eq!(split("a/b"), ("a", "/b"));
    }
}
