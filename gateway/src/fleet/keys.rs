//! The key file of a fleet: made by `stoq-gateway fleet key`, read at the start of a gateway. And the adoption of a cluster.

use super::note::adoption_note;
use crate::config::load_gateway;
use crate::faults::Usage;
use crate::output::{self, OutputError};
use anyhow::{Context, bail, ensure};
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use stoq::quic::fleet_settings::{FLEET_SECRET_LEN, FleetSecret, RotationSalt};
use stoq::tls::exposed_mode;

/// Leaves the note by which the gateway adopts a cluster: within seconds, or when it starts.
///
/// # Errors
/// The gateway follows no directory, or the note cannot be made.
pub(crate) fn adopt(config: &Path) -> anyhow::Result<()> {
    let saved = load_gateway(config)?.fleet.and_then(|fleet| fleet.saved);
    let saved = saved.ok_or_else(|| {
        Usage("this gateway goes by no etcd and no Kubernetes; set fleet.provider to one of them".into())
    })?;
    let note = adoption_note(&saved);
    File::create(&note)
        .with_context(|| format!("{} cannot be made; run this as the gateway's user", note.display()))?;
    output::result("noted: the gateway adopts the directory that answers", "the adoption is noted")?;
    Ok(())
}

/// Makes the key file, and prints the section of a first gateway.
///
/// # Errors
/// The file cannot be made, or standard output is closed or full.
pub(crate) fn make_key(file: &Path) -> anyhow::Result<()> {
    let make = || {
        let mut made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
        FleetSecret::random().write(&mut made)?;
        made.sync_all()
    };
    make().map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => anyhow::anyhow!(
            "{} exists already and is not overwritten: gateways that have it know each other's connections by it; give a new name",
            file.display()
        ),
        _ => anyhow::Error::new(error)
            .context(format!("the fleet key {} cannot be made; check the directory", file.display())),
    })?;
    Ok(section(file)?)
}

/// Prints the section for a first gateway.
fn section(file: &Path) -> Result<(), OutputError> {
    let text = format!(
        "[fleet]\nkey_file = {:?}\nserver_id = \"000001\"  # another number for each gateway\n\n\
         [[fleet.rotation]]  # the same on every gateway\nnumber = 0\nsalt = \"{}\"\nstate = \"issue\"",
        file.display().to_string(),
        RotationSalt::random(),
    );
    output::result(text, "the key file is made")
}

/// Reads the key file.
///
/// # Errors
/// It cannot be read, is open to other users, or is none; with the fix.
pub(crate) fn read_key(path: &Path) -> anyhow::Result<FleetSecret> {
    let shown = path.display();
    let read = || {
        let file = File::open(path)?;
        let exposed = exposed_mode(&file)?;
        Ok::<_, std::io::Error>((exposed, FleetSecret::read(file)?))
    };
    let (exposed, secret) = read().with_context(|| {
        format!("fleet.key_file: {shown} cannot be read; copy it from another gateway, or `stoq-gateway fleet key {shown}` makes the first one")
    })?;
    let Some(secret) = secret else {
        bail!(
            "fleet.key_file: {shown} has not the {FLEET_SECRET_LEN} octets of a fleet key; copy it from another gateway, or `stoq-gateway fleet key` makes a new one"
        );
    };
    ensure!(
        exposed.is_none(),
        "fleet.key_file: {shown} is readable by other users (mode {:04o}); run: chmod 600 {shown}",
        exposed.unwrap_or_default()
    );
    Ok(secret)
}
