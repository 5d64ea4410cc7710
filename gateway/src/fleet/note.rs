//! What an operator leaves for a gateway beside its table.

use std::path::{Path, PathBuf};

/// The file by which an operator has a gateway adopt the cluster that answers.
pub(super) fn adoption_note(saved: &Path) -> PathBuf {
    saved.with_extension("adopt")
}
