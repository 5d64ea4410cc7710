//! `stoq mirror TOKEN --on GATEWAY`.

use crate::output::{self, Usage};
use crate::route::Named;
use crate::session::{ClientOptions, Online};
use stoq::client::{AskOptions, Peer, Route};
use stoq::names::GatewayAddress;
use stoq::record::Mirror;
use stoq::shard::Lanes;
use stoq::tls::NodeId;
use stoq::token::AnyToken;
use stoq_gateway::durations::Seconds;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The payload or set to hold: b3: or set: and 64 hex digits.
    token: AnyToken,
    /// The gateway that must hold it: a node ID, the name of a [[gateway]] section in the configuration file,
    /// or an address. The request goes there directly where its address is known, otherwise through the
    /// connected gateway.
    #[arg(long, value_name = "GATEWAY")]
    on: String,
    /// These lanes of a set, such as 0-3,9; without it the whole payload.
    #[arg(long)]
    lanes: Option<Lanes>,
    /// How long to hold it: 90s, 45m, 12h, 30d. Without it, the gateway decides.
    #[arg(long, value_name = "TIME")]
    lease: Option<Seconds>,
    /// Sources, the best first: node IDs or names. Without it, the holders that the gateway knows.
    #[arg(long, value_name = "GATEWAY,…", value_delimiter = ',')]
    from: Vec<String>,
    #[command(flatten)]
    options: ClientOptions,
}

/// The way to the gateway that must hold it.
enum Way {
    /// By one of these addresses; its node ID, if the command line names that.
    Direct(Vec<GatewayAddress>, Option<NodeId>),
    /// Through the connected gateway.
    Routed(GatewayAddress, NodeId),
}

pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let lanes = args.lanes.unwrap_or(Lanes::NONE);
    if !lanes.is_empty() && args.token.content().is_some() {
        return Err(Usage("--lanes: a payload has none; give the token of its set (set:…)".into()).into());
    }
    let session = args.options.open_anywhere()?;
    let sources = args.from.iter().map(|text| session.gateways.node(text)).collect::<Result<Vec<_>, _>>()?;
    let way = match session.gateways.find(&args.on)? {
        Named::At(known, node) => Way::Direct(known, node),
        Named::Through(node) => Way::Routed(session.gateway()?, node),
    };
    let online = session.start()?;
    let mirror = Mirror { token: args.token, lanes, lease_s: args.lease.map_or(0, |lease| lease.0), sources };
    let (done, on) = online.block_on(async {
        let (peer, route) = connect(&online, &way).await?;
        let on = route.as_ref().map_or(peer.node(), |route| route.nodes().last().copied());
        Ok((peer.mirror_with(mirror, AskOptions { route }).await?, on))
    })?;
    if args.options.json {
        let result = serde_json::json!({
            "operation": "mirror", "token": args.token.to_string(), "bytes": done.bytes, "on": on,
            "lanes": (!lanes.is_empty()).then(|| lanes.to_string()), "lease_s": args.lease.map(|lease| lease.0),
            "version": env!("CARGO_PKG_VERSION"),
        });
        output::result(result, "the gateway holds it")?;
    } else {
        let on = on.map_or_else(|| args.on.clone(), |node| node.to_string());
        match done.bytes {
            0 => output::note(format_args!("{on} holds it already; nothing was fetched")),
            bytes => {
                output::note(format_args!("{on} has fetched and checked {bytes} bytes, and holds them now"));
            }
        }
    }
    Ok(())
}

async fn connect(online: &Online, way: &Way) -> anyhow::Result<(Peer, Option<Route>)> {
    match way {
        Way::Routed(gateway, node) => {
            let peer = online.connect(gateway).await?;
            let here = peer.node() == Some(*node);
            let route = if here { None } else { Some(Route::new([*node])?) };
            Ok((peer, route))
        }
        Way::Direct(addresses, node) => Ok((online.dialer().connect_any(addresses, *node).await?, None)),
    }
}
