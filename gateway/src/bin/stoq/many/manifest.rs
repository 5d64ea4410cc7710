//! Manifests as files.

use crate::output::{self, Usage};
use anyhow::{Context, anyhow, bail};
use std::collections::HashMap;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use stoq::manifest::ManifestLine;
use stoq::output_tree::components;

/// Bytes of a file that are read to see whether it is a manifest: the longest line that a path of Linux makes.
const PROBE_BYTES: u64 = 16 << 10;

fn unread(path: &Path, error: &io::Error) -> anyhow::Error {
    anyhow!("no manifest can be read from {}: {error}", path.display())
}

/// Reads a manifest; "-" is standard input. Everything that is wrong with it is found here: nothing is fetched by a manifest that names a
/// file outside.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<ManifestLine>> {
    let shown = path.display();
    let mut text: Box<dyn BufRead> = if path.as_os_str() == "-" {
        Box::new(io::stdin().lock())
    } else {
        Box::new(BufReader::new(File::open(path).map_err(|error| unread(path, &error))?))
    };
    let (mut lines, mut tokens, mut line, mut at) = (Vec::new(), HashMap::new(), Vec::new(), 0);
    loop {
        line.clear();
        if text.read_until(b'\n', &mut line).map_err(|error| unread(path, &error))? == 0 {
            return Ok(lines);
        }
        at += 1;
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        if line.is_empty() {
            continue;
        }
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let refused =
            |why: String| Usage(format!("line {at} of {shown}: {why}; correct the line, or leave it out"));
        let line = ManifestLine::parse(line).map_err(|error| refused(error.to_string()))?;
        let parts = components(&line.name);
        let (directories, file) = parts.map_err(|error| refused(format!("its name {error}")))?;
        // The same file, however it is written.
        let mut place: Vec<u8> =
            directories.iter().flat_map(|part| [part.as_bytes(), b"/"].concat()).collect();
        place.extend_from_slice(file.as_bytes());
        match tokens.insert(place, line.token) {
            None => lines.push(line),
            Some(token) if token == line.token => {}
            Some(_) => return Err(refused("an earlier line gives this name another token".into()).into()),
        }
    }
}

/// The place of a manifest that is to be written.
pub(crate) struct ManifestOutput {
    path: PathBuf,
    /// The file that is there and will be replaced.
    pub(crate) there: Option<Metadata>,
}

impl ManifestOutput {
    /// Looks at the place, before any work: an earlier manifest is replaced, and no other file.
    pub(crate) fn check(path: PathBuf) -> anyhow::Result<Self> {
        let there = path.metadata().ok();
        if there.as_ref().is_some_and(|there| there.is_file() || there.is_dir()) {
            let mut start = Vec::new();
            let read = File::open(&path).and_then(|file| file.take(PROBE_BYTES).read_to_end(&mut start));
            read.with_context(|| format!("--manifest {} cannot be read", path.display()))?;
            let line = start.split(|&byte| byte == b'\n').next().unwrap_or_default();
            if !line.is_empty() && ManifestLine::parse(line).is_err() {
                bail!(Usage(format!(
                    "--manifest {}: this file is there and is no manifest, and it is not replaced; give another name",
                    path.display()
                )));
            }
        } else if !matches!(path.parent(), Some(parent) if parent.as_os_str().is_empty() || parent.is_dir()) {
            bail!(Usage(format!(
                "--manifest {}: there is no such directory; make it, or give another name",
                path.display()
            )));
        }
        Ok(Self { path, there })
    }

    /// Writes the manifest: whole, or what was there before stays.
    pub(crate) fn write(&self, lines: &[ManifestLine]) -> anyhow::Result<()> {
        let mut text = Vec::with_capacity(lines.iter().map(ManifestLine::encoded_len).sum());
        lines.iter().for_each(|line| line.emit(&mut text));
        let written = match &self.there {
            // A pipe, or /dev/stdout.
            Some(there) if !there.is_file() => {
                OpenOptions::new().write(true).open(&self.path).and_then(|mut file| file.write_all(&text))
            }
            _ => self.replace(&text),
        };
        written.with_context(|| {
            format!(
                "the files are put, and the manifest {} cannot be written; give another --manifest, and run the same command again",
                self.path.display()
            )
        })
    }

    fn replace(&self, text: &[u8]) -> io::Result<()> {
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let beside = self.path.with_file_name(name);
        let mut file = File::create(&beside)?;
        let written = file.write_all(text).and_then(|()| file.sync_all());
        written.and_then(|()| std::fs::rename(&beside, &self.path)).inspect_err(|_| {
            let _ = std::fs::remove_file(&beside);
        })
    }
}

/// The lines as `b3sum --check` reads most of them: names that are not UTF-8 stand at the end, since it reads nothing after them. Two
/// lines of one name are one, if their tokens are equal; if not, the name is returned.
pub(crate) fn ordered(mut lines: Vec<ManifestLine>) -> (Vec<ManifestLine>, Vec<Vec<u8>>) {
    let (mut tokens, mut twice) = (HashMap::new(), Vec::new());
    lines.retain(|line| match tokens.get(&line.name) {
        None => {
            tokens.insert(line.name.clone(), line.token);
            true
        }
        Some(token) => {
            if *token != line.token {
                twice.push(line.name.clone());
            }
            false
        }
    });
    lines.sort_by_key(|line| str::from_utf8(&line.name).is_err());
    let others = lines.iter().rev().take_while(|line| str::from_utf8(&line.name).is_err()).count();
    if others > 0 {
        output::note(format_args!(
            "{others} name(s) are not UTF-8: `stoq get` reads their lines, the last ones of the manifest, and `b3sum --check` does not"
        ));
    }
    (lines, twice)
}
