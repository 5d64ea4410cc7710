//! `stoq list`, `stoq stat TOKEN`, `stoq remove TOKEN` and `stoq renew TOKEN`: what a gateway keeps for this client.

use crate::many;
use crate::output;
use crate::session::ClientOptions;
use anyhow::Context;
use serde_json::{Value, json};
use std::path::PathBuf;
use stoq::client::{ClientError, Peer};
use stoq::record::{ErrorCode, LeaseScope};
use stoq::token::AnyToken;
use stoq_gateway::durations::Seconds;
use stoq_gateway::leases::{self, ListFilter, ListPrinter};

#[derive(clap::Args)]
pub(crate) struct ListArgs {
    /// List what is kept for every owner, with the owners. The gateway must give this client the right `list`.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    filter: ListFilter,
    #[command(flatten)]
    options: ClientOptions,
}

#[derive(clap::Args)]
pub(crate) struct StatArgs {
    /// The payload or set: b3: or set: and 64 hex digits.
    token: AnyToken,
    /// Show the leases of every owner. The gateway must give this client the right `list`.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    options: ClientOptions,
}

#[derive(clap::Args)]
pub(crate) struct RemoveArgs {
    /// The payloads and sets: b3: or set: and 64 hex digits.
    #[arg(required_unless_present = "manifest", conflicts_with = "manifest", value_name = "TOKEN")]
    tokens: Vec<AnyToken>,
    /// Give up the payloads of all files of this manifest, as `stoq put --manifest` or `b3sum` wrote it, or of standard input if it is "-". What is
    /// gone already is no error; one that is refused is told, and the others go on.
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    #[command(flatten)]
    options: ClientOptions,
}

#[derive(clap::Args)]
pub(crate) struct RenewArgs {
    /// The payloads and sets: b3: or set: and 64 hex digits.
    #[arg(required = true, value_name = "TOKEN")]
    tokens: Vec<AnyToken>,
    /// How long to keep them from now on: 90s, 45m, 12h, 30d; 0 for the gateway's default. A lease that lasts longer stays.
    #[arg(long, value_name = "TIME")]
    lease: Seconds,
    #[command(flatten)]
    options: ClientOptions,
}

fn scope(all: bool) -> LeaseScope {
    if all { LeaseScope::All } else { LeaseScope::Own }
}

/// The error with its fix, where the gateway's text has none.
pub(crate) fn explained(error: ClientError) -> anyhow::Error {
    let code = match &error {
        ClientError::Refused(failure) => Some(failure.code),
        _ => None,
    };
    let error = anyhow::Error::new(error);
    match code {
        Some(ErrorCode::UnknownRecord) => error.context("this gateway has no lists; upgrade it"),
        _ => error,
    }
}

pub(crate) fn list(args: ListArgs) -> anyhow::Result<()> {
    let online = args.options.open()?.start()?;
    let mut printer = ListPrinter::new(&args.filter, args.options.json);
    let mut list = args.filter.list(scope(args.all));
    let next = online.run(async |peer| {
        loop {
            list.entries_max = printer.entries_max();
            let page = peer.list(list).await.map_err(explained)?;
            let entries: Vec<_> = page.entries.iter().map(leases::entry).collect();
            let goes_on = printer.page(&entries)?;
            if !goes_on || page.next.is_none() {
                return Ok(page.next);
            }
            list.after = page.next;
        }
    })?;
    Ok(printer.end(next.map(|next| next.to_string()).as_deref())?)
}

pub(crate) fn stat(args: StatArgs) -> anyhow::Result<()> {
    let online = args.options.open()?.start()?;
    let found = online.run(async |peer| peer.stat(args.token, scope(args.all)).await.map_err(explained))?;
    let missing = if args.all {
        "the gateway does not keep it"
    } else {
        "the gateway does not keep it for this client"
    };
    let entry = leases::entry(&found.context(missing)?);
    if args.options.json {
        output::line(entry)?;
    } else {
        output::line(leases::lines(&entry))?;
    }
    Ok(())
}

/// Asks for each token, in order, and prints what is said of it.
fn each(
    tokens: &[AnyToken],
    options: &ClientOptions,
    ask: impl AsyncFn(&Peer, AnyToken) -> Result<(Value, String), ClientError>,
) -> anyhow::Result<()> {
    let online = options.open()?.start()?;
    online.run(async |peer| {
        for token in tokens {
            let (json, text) =
                ask(peer, *token).await.map_err(explained).with_context(|| token.to_string())?;
            if options.json {
                output::line(json)?;
            } else {
                output::line(format_args!("{token}  {text}"))?;
            }
        }
        Ok(())
    })
}

pub(crate) fn remove(args: RemoveArgs) -> anyhow::Result<()> {
    if let Some(manifest) = &args.manifest {
        return many::remove::run(&args.options, manifest);
    }
    each(&args.tokens, &args.options, async |peer, token| {
        let kept = peer.remove(token).await?;
        let text = if kept { "given up; others keep it" } else { "removed" };
        Ok((json!({ "operation": "remove", "token": token.to_string(), "kept": kept }), text.to_owned()))
    })
}

pub(crate) fn renew(args: RenewArgs) -> anyhow::Result<()> {
    let lease_s = args.lease.0;
    each(&args.tokens, &args.options, async |peer, token| {
        let renewed = peer.renew(token, lease_s).await?;
        let lease = renewed.as_ref().and_then(|entry| entry.shown.first());
        let expires_s = lease.map(|lease| lease.expires_s).filter(|expires_s| *expires_s > 0);
        let text = expires_s.map_or("kept without end".into(), |expires_s| {
            format!("kept for {}", stoq_gateway::durations::show(expires_s))
        });
        Ok((json!({ "operation": "renew", "token": token.to_string(), "expires_s": expires_s }), text))
    })
}
