//! `stoq get` from several gateways at once.

use crate::get::{show, show_check};
use crate::route::Named;
use crate::session::{Dialer, Online};
use anyhow::anyhow;
use indicatif::ProgressBar;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use stoq::client::{GatherOptions, HolderOptions, HolderReport, HolderState, Peer, Route, Want};
use stoq::gathered_file::{GatherSummary, GatheredFile};
use stoq::token::AnyToken;

/// The result of a gathering.
pub(crate) struct GatherOutcome {
    pub(crate) summary: GatherSummary,
    /// The time of the transfer.
    pub(crate) elapsed: Duration,
    /// The time of reading back.
    pub(crate) checking: Duration,
    pub(crate) given: Vec<HolderReport>,
    /// Gateways that could not be reached, and why.
    pub(crate) unreached: Vec<(String, String)>,
}

/// The gateways of a gathering.
pub(crate) struct Sources<'a> {
    /// Their names; none: the connected gateway.
    pub(crate) gateways: &'a [String],
    /// Connections to each.
    pub(crate) connections: usize,
    /// The route to the connected gateway's payload.
    pub(crate) route: Option<Route>,
}

/// Gets `token`. Each connection is used as soon as it is up, so an unreachable gateway delays no other.
pub(crate) async fn run(
    online: &Online,
    token: AnyToken,
    from: Sources<'_>,
    mut file: GatheredFile,
    bar: &ProgressBar,
) -> anyhow::Result<GatherOutcome> {
    let Sources { gateways, connections, route } = from;
    let named = gateways.iter().map(|text| online.gateways.find(text)).collect::<Result<Vec<_>, _>>()?;
    let want = match token {
        AnyToken::Content(_) => Want::Payload,
        AnyToken::Set(_) => Want::AnyLanes,
    };
    let (mut gathering, holders) = online.client.gather(token, GatherOptions { want })?;
    let unreached = Arc::new(Mutex::new(Vec::new()));
    let mut asked: Vec<_> =
        named.into_iter().zip(gateways).map(|(named, text)| (Some(named), text.clone())).collect();
    if asked.is_empty() {
        holders.add_with(&online.connect_gateway().await?, at(route.clone()))?;
        asked = vec![(None, "the gateway, once more,".into()); connections - 1];
    } else {
        asked = asked.into_iter().flat_map(|asked| std::iter::repeat_n(asked, connections)).collect();
    }
    for (named, text) in asked {
        let (dialer, holders) = (online.dialer(), holders.clone());
        let (unreached, route) = (unreached.clone(), route.clone());
        tokio::spawn(async move {
            let reached = match named {
                Some(named) => reach(&dialer, named).await,
                None => dialer.connect_gateway().await.map(|peer| (peer, route)),
            };
            let added = reached.and_then(|(peer, route)| Ok(holders.add_with(&peer, at(route))?));
            if let Err(error) = added {
                unreached.lock().unwrap_or_else(PoisonError::into_inner).push((text, format!("{error:#}")));
            }
        });
    }
    drop(holders);
    let started = Instant::now();
    let came = file.run(&mut gathering, |have, length| show(bar, have, length)).await;
    let elapsed = started.elapsed();
    let unreached = unreached.lock().unwrap_or_else(PoisonError::into_inner).clone();
    came.map_err(|error| {
        let unasked = unreached.iter().map(|(text, why)| format!("; {}", unasked(text, why)));
        anyhow!("not every byte was fetched: {error}{}", unasked.collect::<String>())
    })?;
    show_check(bar);
    let summary = file.finish(&gathering, |read| bar.set_position(read)).await?;
    let checking = started.elapsed().saturating_sub(elapsed);
    Ok(GatherOutcome { summary, elapsed, checking, given: gathering.report(), unreached })
}

fn at(route: Option<Route>) -> HolderOptions {
    HolderOptions { route, ..HolderOptions::default() }
}

async fn reach(dialer: &Dialer, named: Named) -> anyhow::Result<(Peer, Option<Route>)> {
    let (addresses, node) = match named {
        Named::At(addresses, node) => (addresses, node),
        Named::Through(node) => {
            let peer = dialer.connect_gateway().await?;
            let here = peer.node() == Some(node);
            return Ok((peer, if here { None } else { Some(Route::new([node])?) }));
        }
    };
    Ok((dialer.connect_any(&addresses, node).await?, None))
}

/// Why a gateway could not be asked, with its name on the command line if the reason does not contain that.
pub(crate) fn unasked(text: &str, why: &str) -> String {
    let is_named = why.split_whitespace().any(|word| word.trim_end_matches(':') == text);
    if is_named { why.into() } else { format!("{text} cannot be asked: {why}") }
}

/// A holder's share of a gathering, as JSON.
pub(crate) fn json(given: &HolderReport) -> serde_json::Value {
    let state = match &given.state {
        HolderState::Asked => "asked",
        HolderState::Refused(_) => "refused",
        HolderState::Wrong(_) => "wrong",
        HolderState::Stalled => "stalled",
        HolderState::Gone(_) => "gone",
    };
    serde_json::json!({
        "node": given.node, "remote": given.remote, "bytes": given.bytes, "requests": given.requests, "strikes": given.strikes, "state": state,
    })
}
