// Payloads and files, for the tests of both crates: each includes this file.

/// Bytes that differ from group to group and from length to length.
#[allow(dead_code, reason = "no test uses all of this file")]
pub(crate) fn payload(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&(len as u64).to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// The files below a directory; none where there is no directory.
#[allow(dead_code, reason = "no test uses all of this file")]
pub(crate) fn files(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}
