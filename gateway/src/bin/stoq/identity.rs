//! `stoq identity new | renew | show`.

use crate::output::{self, Usage};
use clap::Subcommand;
use std::path::{Path, PathBuf};
use stoq::tls::{
    CertificateSummary, FalconAlgorithm, FalconKeyError, Identity, IssueError, PemText, TlsError,
    write_key_and, write_public,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a Falcon key with a self-signed certificate, or with a request for any authority to sign.
    New(New),
    /// Make another certificate, or a request, for an existing key: the node ID stays, so peers still trust it.
    Renew(RenewIdentity),
    /// Print the contents of a certificate, its node ID first.
    Show(Show),
}

#[derive(clap::Args)]
struct New {
    /// Where to write the certificate (PEM), or the request.
    #[arg(long, value_name = "FILE")]
    cert: PathBuf,
    /// Where to write the key (PEM, PKCS#8), readable only by you.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The subject's common name: for people; it is never checked.
    #[arg(long, default_value = "stoq node")]
    name: String,
    /// IP addresses and DNS names to include: for other programs; STOQ does not check them.
    #[arg(long = "san", value_name = "NAME")]
    alternative_names: Vec<String>,
    /// falconpadded512 or falconpadded1024.
    #[arg(long, default_value = "falconpadded512")]
    algorithm: FalconAlgorithm,
    /// Days until the certificate expires.
    #[arg(long, default_value_t = 365, conflicts_with = "request")]
    days: u32,
    /// Write a certificate request instead of a self-signed certificate.
    #[arg(long)]
    request: bool,
}

#[derive(clap::Args)]
struct RenewIdentity {
    /// The key (PEM, PKCS#8).
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Where to write the certificate (PEM), or the request; it must not exist yet.
    #[arg(long, value_name = "FILE")]
    cert: PathBuf,
    /// The subject's common name: for people; it is never checked.
    #[arg(long, default_value = "stoq node")]
    name: String,
    /// IP addresses and DNS names to include: for other programs; STOQ does not check them.
    #[arg(long = "san", value_name = "NAME")]
    alternative_names: Vec<String>,
    /// Days until the certificate expires.
    #[arg(long, default_value_t = 365, conflicts_with = "request")]
    days: u32,
    /// Write a certificate request instead of a self-signed certificate.
    #[arg(long)]
    request: bool,
}

#[derive(clap::Args)]
struct Show {
    /// The certificate (PEM).
    cert: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Print the node ID alone.
    #[arg(long, conflicts_with = "json")]
    id: bool,
}

pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    match args.command {
        Command::New(new) => make(&new),
        Command::Renew(renew) => make_again(&renew),
        Command::Show(show) => print(&show),
    }
}

fn text<'a>(path: &'a Path, text: &'a str) -> PemText<'a> {
    PemText { path, text: text.as_bytes() }
}

/// A name or an algorithm on the command line that no certificate has is wrong usage.
fn usage(error: TlsError) -> anyhow::Error {
    match &error {
        TlsError::Issue(
            IssueError::CommonName
            | IssueError::AlternativeName(_)
            | IssueError::Lifetime(_)
            | IssueError::Key(FalconKeyError::VerifyOnly(_)),
        ) => Usage(error.to_string()).into(),
        _ => error.into(),
    }
}

fn make(new: &New) -> anyhow::Result<()> {
    let node_id = if new.request {
        let request = Identity::request(new.algorithm, &new.name, &new.alternative_names).map_err(usage)?;
        write_key_and(text(&new.key, &request.key_pem), text(&new.cert, &request.request_pem))?;
        request.node_id
    } else {
        let made =
            Identity::generate(new.algorithm, &new.name, &new.alternative_names, new.days).map_err(usage)?;
        write_key_and(text(&new.key, &made.key_pem), text(&new.cert, &made.certificate_pem))?;
        made.identity.node_id()
    };
    output::result(node_id, "the identity is made")?;
    Ok(())
}

fn make_again(renew: &RenewIdentity) -> anyhow::Result<()> {
    let RenewIdentity { key, name, alternative_names, days, .. } = renew;
    let (pem, node_id) = if renew.request {
        Identity::renewal_request(key, name, alternative_names)
    } else {
        Identity::renew(key, name, alternative_names, *days)
    }
    .map_err(usage)?;
    write_public(&renew.cert, &pem)?;
    output::result(node_id, "the certificate or request is written")?;
    Ok(())
}

fn print(show: &Show) -> anyhow::Result<()> {
    let summary = CertificateSummary::load(&show.cert)?;
    if show.id {
        output::line(summary.node_id)?;
    } else if show.json {
        output::line(serde_json::to_string(&summary)?)?;
    } else {
        output::line(summary)?;
    }
    Ok(())
}
