//! `stoq get` from several gateways at once.

use crate::output::Usage;
use crate::session::Online;
use anyhow::Context;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};
use stoq::client::{Given, HolderAt, Peer, Route, State, Want};
use stoq::collection::{Collected, Collection};
use stoq::tls::NodeId;
use stoq::token::AnyToken;

/// A holder as it was named on the command line.
enum Named {
    At(Vec<SocketAddr>, Option<NodeId>),
    /// Its address is not known: through the connected gateway.
    Through(NodeId),
}

/// What a gathering did.
pub(crate) struct Outcome {
    pub(crate) collected: Collected,
    pub(crate) elapsed: Duration,
    pub(crate) given: Vec<Given>,
}

/// Gets `token` from the gateways named `from`; from the connected one if there is none.
pub(crate) async fn run(
    online: &Online,
    token: AnyToken,
    from: &[String],
    route: Option<Route>,
    output: &Path,
    shown: impl FnMut(u64, u64),
) -> anyhow::Result<Outcome> {
    let collection = Collection::open(output)?;
    let named = from.iter().map(|text| name(online, text)).collect::<Result<Vec<_>, _>>()?;
    let mut peers: Vec<(Peer, Option<Route>)> = Vec::new();
    if named.is_empty() {
        peers.push((online.connect_gateway().await?, route));
    }
    let mut gateway: Option<Peer> = None;
    for (named, text) in named.iter().zip(from) {
        let reached = match named {
            Named::At(addresses, node) => connect(online, addresses, *node).await.map(|peer| (peer, None)),
            Named::Through(node) => {
                if gateway.is_none() {
                    gateway = Some(online.connect_gateway().await?);
                }
                let peer = gateway.clone().context("the gateway is connected")?;
                let here = peer.node() == Some(*node);
                let route = if here { None } else { Some(Route::new([*node])?) };
                Ok((peer, route))
            }
        };
        match reached {
            Ok(reached) => peers.push(reached),
            // The others may do without it.
            Err(error) => eprintln!("{text} cannot be asked: {error:#}"),
        }
    }
    if peers.is_empty() {
        anyhow::bail!("none of the gateways named by --from can be reached");
    }
    let holder = |(peer, route): &'_ (Peer, Option<Route>)| (peer.clone(), route.clone());
    let reached: Vec<_> = peers.iter().map(holder).collect();
    let holders: Vec<_> =
        reached.iter().map(|(peer, route)| HolderAt { peer, route: route.clone(), lanes: None }).collect();
    let want = match token {
        AnyToken::Content(_) => Want::Payload,
        AnyToken::Set(_) => Want::AnyLanes,
    };
    let started = Instant::now();
    let mut gathering = online.client.gather(token, want, &holders)?;
    let collected = collection.run(&mut gathering, shown).await?;
    Ok(Outcome { collected, elapsed: started.elapsed(), given: gathering.report() })
}

fn name(online: &Online, text: &str) -> Result<Named, Usage> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(Named::At(vec![address], None));
    }
    let node = online.gateways.node(text)?;
    Ok(match online.gateways.addresses(node) {
        [] => Named::Through(node),
        addresses => Named::At(addresses.to_vec(), Some(node)),
    })
}

async fn connect(online: &Online, addresses: &[SocketAddr], node: Option<NodeId>) -> anyhow::Result<Peer> {
    let mut last = anyhow::anyhow!("it has no address");
    for &address in addresses {
        match online.connect(address).await {
            Ok(peer) if node.is_none() || peer.node() == node => return Ok(peer),
            Ok(_) => last = anyhow::anyhow!("another node answers at {address}"),
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}

/// Who gave what, for people.
pub(crate) fn told(given: &Given) -> String {
    let node = given.node.map_or_else(|| "a gateway without a certificate".into(), |node| node.to_string());
    let became = match &given.state {
        State::Asked => String::new(),
        State::Refused(failure) => format!(", then {}: {}", failure.code.name(), failure.reason()),
        State::Wrong(reason) => format!(", then was left: it sent what proves false ({reason})"),
        State::Stalled => ", then was left: it stalled".into(),
        State::Gone(reason) => format!(", then was gone: {reason}"),
    };
    format!("{node} gave {} bytes in {} requests{became}", given.bytes, given.requests)
}

/// Who gave what, for programs.
pub(crate) fn json(given: &Given) -> serde_json::Value {
    let state = match &given.state {
        State::Asked => "asked",
        State::Refused(_) => "refused",
        State::Wrong(_) => "wrong",
        State::Stalled => "stalled",
        State::Gone(_) => "gone",
    };
    serde_json::json!({
        "node": given.node, "bytes": given.bytes, "requests": given.requests, "strikes": given.strikes, "state": state,
    })
}
