//! `stoq remove --manifest`.

use super::manifest::read;
use super::{FileWork, connect, is_for_all, plain, print, start};
use crate::leases::explained;
use crate::output::{self, EndedEarly};
use crate::session::ClientOptions;
use anyhow::anyhow;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use stoq::client::{ClientError, Peer};
use stoq::manifest::escaped;
use stoq::record::ErrorCode;
use stoq::token::Token;

/// Removals at once: half of those that a gateway has wait for one node.
const REMOVALS_LEN: usize = 32;

/// A token and the names of its files: it is given up once for all of them.
struct RemovedFiles {
    token: Token,
    names: Vec<Vec<u8>>,
}

/// The work, shared by the threads.
struct RemoveWork {
    files: Vec<RemovedFiles>,
    next: AtomicUsize,
}

struct RemoveReport {
    at: usize,
    /// Whether others keep it.
    outcome: Result<bool, ClientError>,
}

impl FileWork for RemoveWork {
    type Report = RemoveReport;

    async fn next(&self, peer: &Peer) -> Option<Vec<RemoveReport>> {
        let at = self.next.fetch_add(1, Ordering::Relaxed);
        let token = self.files.get(at)?.token;
        Some(vec![RemoveReport { at, outcome: peer.remove(token).await }])
    }
}

/// What has become of all files so far.
#[derive(Default)]
struct RemoveTally {
    removed: usize,
    kept: usize,
    /// The gateway kept nothing of them for this client: an earlier run has given them up, or their leases have ended.
    absent: usize,
    failed: usize,
}

impl RemoveTally {
    fn files(&self) -> usize {
        self.removed + self.kept + self.absent + self.failed
    }

    fn take(
        &mut self,
        files: &RemovedFiles,
        outcome: Result<bool, ClientError>,
        prints: bool,
    ) -> anyhow::Result<()> {
        let (count, text) = match outcome {
            Ok(true) => (&mut self.kept, "given up; others keep it"),
            Ok(false) => (&mut self.removed, "removed"),
            Err(ClientError::Refused(failure)) if failure.code == ErrorCode::NotFound => {
                (&mut self.absent, "was not kept")
            }
            Err(error) if is_for_all(&error) => return Err(explained(error)),
            Err(error) => {
                self.failed += files.names.len();
                for name in &files.names {
                    let name = String::from_utf8_lossy(name);
                    output::note(format_args!("not removed: {}: {error}", plain(&name)));
                }
                return Ok(());
            }
        };
        *count += files.names.len();
        for name in files.names.iter().filter(|_| prints) {
            let mut line = format!("{}  {text}  ", files.token).into_bytes();
            line.extend(escaped(name));
            print(&line, "this file's payload is given up")?;
        }
        Ok(())
    }
}

/// Gives up the payloads of a manifest's files.
pub(crate) fn run(options: &ClientOptions, manifest: &Path) -> anyhow::Result<()> {
    let (mut files, mut places) = (Vec::<RemovedFiles>::new(), HashMap::new());
    for line in read(manifest)? {
        let at = *places.entry(line.token).or_insert(files.len());
        match files.get_mut(at) {
            Some(known) => known.names.push(line.name),
            None => files.push(RemovedFiles { token: line.token, names: vec![line.name] }),
        }
    }
    let all = files.iter().map(|files| files.names.len()).sum::<usize>();
    let online = options.open()?.start()?;
    let work = Arc::new(RemoveWork { files, next: AtomicUsize::new(0) });
    let mut tally = RemoveTally::default();
    let done = online.block_on(async {
        let peers = connect(&online, 1).await?;
        let (_running, mut reports) = start(&work, &peers, REMOVALS_LEN)?;
        while let Some(RemoveReport { at, outcome }) = reports.recv().await {
            tally.take(&work.files[at], outcome, !options.json)?;
        }
        // A thread that panicked reports nothing of its file.
        if tally.files() == all { Ok(()) } else { Err(EndedEarly.into()) }
    });
    if done.is_err() && tally.files() > 0 {
        output::note(format_args!(
            "{} of {all} files are given up so far",
            tally.removed + tally.kept + tally.absent
        ));
    }
    done?;
    let RemoveTally { removed, kept, absent, failed } = tally;
    if options.json {
        output::line(serde_json::json!({
            "operation": "remove", "files": all, "removed": removed, "kept": kept, "absent": absent, "failed": failed,
        }))?;
    }
    match failed {
        0 => Ok(()),
        failed => Err(anyhow!(
            "{failed} of {all} files were not removed, as told above; run the same command again"
        )),
    }
}
