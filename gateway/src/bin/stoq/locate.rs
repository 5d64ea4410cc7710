//! `stoq locate TOKEN`.

use crate::output;
use crate::route::RouteArgs;
use crate::session::ClientOptions;
use stoq::client::AskOptions;
use stoq::record::{Coverage, Holder};
use stoq::token::AnyToken;
use stoq_gateway::durations;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The payload or set: b3: or set: and 64 hex digits.
    token: AnyToken,
    #[command(flatten)]
    route: RouteArgs,
    #[command(flatten)]
    options: ClientOptions,
}

pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let online = args.options.open()?.start()?;
    let route = args.route.route(&online.gateways)?;
    let (holders, gateway) = online.run(async |peer| {
        let holders = peer.locate_with(args.token, AskOptions { route }).await?;
        Ok((holders, peer.node()))
    })?;
    if args.options.json {
        let holders = holders.iter().map(|holder| {
            let expires_s = (holder.expires_s > 0).then_some(holder.expires_s);
            serde_json::json!({ "node": holder.node, "coverage": coverage(holder), "expires_s": expires_s })
        });
        let result = serde_json::json!({
            "operation": "locate", "token": args.token.to_string(), "holders": holders.collect::<Vec<_>>(),
            "gateway": gateway, "version": env!("CARGO_PKG_VERSION"),
        });
        output::line(result)?;
        return Ok(());
    }
    if holders.is_empty() {
        output::note("this gateway knows no holder of it");
        return Ok(());
    }
    output::line(format_args!("{:52}  {:16}  EXPIRES", "NODE", "COVERAGE"))?;
    for holder in &holders {
        let expires = match holder.expires_s {
            0 => "-".into(),
            seconds => durations::show(seconds),
        };
        output::line(format_args!("{}  {:16}  {expires}", holder.node, coverage(holder)))?;
    }
    Ok(())
}

fn coverage(holder: &Holder) -> String {
    match holder.coverage {
        Coverage::None => "none".into(),
        Coverage::All => "all".into(),
        Coverage::Lanes(lanes) => format!("lanes {lanes}"),
    }
}
