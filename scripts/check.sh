#!/usr/bin/env bash
# The checks that every commit passes: formatting, lints, documentation, licenses, house rules. Runs no tests.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
install "${CHECK_PACKAGES[@]}"
need_rust

say "formatting"
cargo fmt --all --check
say "lints"
cargo clippy --workspace --all-targets --locked --quiet -- -D warnings
cargo clippy --no-default-features --all-targets --locked --quiet -- -D warnings
say "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --quiet
say "scripts"
shellcheck -x scripts/*.sh scripts/bench/*.sh .ci/run packaging/postinst packaging/postrm packaging/image-init.sh
ruff_tool
"$tool" check --no-cache --quiet
"$tool" format --no-cache --quiet --check || die "Python is not as its formatter writes it: $tool format"
say "the search of the benchmarks, and what they make of long paths"
(cd scripts/bench && PYTHONPATH=.. PYTHONDONTWRITEBYTECODE=1 python3 -m unittest --quiet test_ndr test_scale test_wan)
say "licenses, sources, duplicates"
if command -v cargo-deny >/dev/null; then
    cargo deny --locked check bans licenses sources
    # The advisory database is on the network. Without it the check continues with a note.
    cargo deny --locked check advisories || {
        [ -n "${STOQ_OFFLINE:-}" ] && say "advisories not checked: the database cannot be reached"
    }
else
    say "cargo-deny is not installed, licenses not checked: cargo install --locked cargo-deny"
fi
