//! `stoq-gateway health`: asks a running gateway whether it is ready or alive. Containers then need no other program for health checks.

use super::client::{Remote, path_of};
use anyhow::bail;
use std::path::PathBuf;
use stoq::peer_text::PeerText;

/// The options of `stoq-gateway health`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The address of the gateway's `[admin] listen`. A URL that ends in `/livez` asks whether the gateway is
    /// alive; otherwise, and with `/readyz`, whether it is ready for peers.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9464")]
    url: String,
    /// The authority's certificates, for an endpoint with TLS.
    #[arg(long, value_name = "PEM")]
    ca: Option<PathBuf>,
}

impl Args {
    /// Sends the request. Only status 200 is a success.
    ///
    /// # Errors
    ///
    /// A URL with another path, no answer, or a gateway that is not ready or not alive.
    pub fn ask(&self) -> anyhow::Result<()> {
        let path = asked(&self.url)?;
        let (code, body) = Remote::new(&self.url, self.ca.as_deref(), None)?.get(path)?;
        let body = PeerText::from(&*body.lines().collect::<Vec<_>>().join("; "));
        match code {
            200 => Ok(()),
            503 => bail!("the gateway is not {}: {body}", if path == LIVE { "alive" } else { "ready" }),
            _ => bail!(
                "{}: {path} gives status {code}: {body}; is this a gateway's `[admin] listen`?",
                self.url
            ),
        }
    }
}

const READY: &str = "/readyz";
const LIVE: &str = "/livez";

/// The path to request. Others are refused: a gateway answers them whether it is ready or not.
fn asked(url: &str) -> anyhow::Result<&'static str> {
    match path_of(url) {
        "" | READY => Ok(READY),
        LIVE => Ok(LIVE),
        other => {
            bail!("{url}: {other} does not tell whether a gateway is ready; give {READY}, {LIVE} or no path")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_path_asks_whether_the_gateway_is_ready() {
        for url in
            ["http://[::1]:9464", "http://[::1]:9464/", "a:1", "a:1/", "a:1/readyz", "https://a/readyz/"]
        {
            assert_eq!(asked(url).unwrap(), READY, "{url}");
        }
        assert_eq!(asked("a:1/livez").unwrap(), LIVE);
        for url in ["a:1/status", "http://a/metrics", "a/ready"] {
            assert!(asked(url).unwrap_err().to_string().contains("/readyz"), "{url}");
        }
    }
}
