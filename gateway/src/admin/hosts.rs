//! The names under which an endpoint without a token answers. A web page whose name suddenly leads to this machine (DNS rebinding) would otherwise
//! read its figures by the browser of an operator.

use axum::http::HeaderMap;
use axum::http::header::HOST;
use std::net::{IpAddr, Ipv6Addr};

/// Whether a request with these headers may read figures: its Host is an address, `localhost`, a name of `named`, or absent. Browsers always send
/// one.
pub(super) fn admits(named: &[String], headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(HOST) else { return true };
    host.to_str().is_ok_and(|host| is_known(named, name(host)))
}

/// A Host without its port.
fn name(host: &str) -> &str {
    match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    }
}

fn is_known(named: &[String], name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let is_address = name.parse::<IpAddr>().is_ok() || name.parse::<Ipv6Addr>().is_ok();
    is_address
        || name == "localhost"
        || name.ends_with(".localhost")
        || named.iter().any(|known| known.trim_end_matches('.').eq_ignore_ascii_case(&name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn addresses_localhost_and_configured_names_are_known() {
        let named = ["gateway.example".to_owned()];
        let admits_host = |host: &'static str| {
            admits(&named, &HeaderMap::from_iter([(HOST, HeaderValue::from_static(host))]))
        };
        for host in [
            "127.0.0.1:9464",
            "192.0.2.1",
            "[::1]:9464",
            "[2001:db8::1]",
            "localhost:9464",
            "LOCALHOST",
            "a.localhost",
            "gateway.example:9464",
            "Gateway.Example.",
        ] {
            assert!(admits_host(host), "{host}");
        }
        for host in [
            "attacker.example:9464",
            "127.0.0.1.attacker.example",
            "localhost.attacker.example",
            "notlocalhost",
            "",
            "gateway.example.attacker",
        ] {
            assert!(!admits_host(host), "{host}");
        }
        assert!(admits(&[], &HeaderMap::new()));
    }
}
