#!/usr/bin/env bash
# Builds every fuzz target and runs each for a while. Fails on the first input that breaks a target, and prints how to run
# it again. New inputs are kept in fuzz/corpus, where the next run begins.
#
# Usage: scripts/fuzz.sh [SECONDS] [TARGET...]      60 seconds each, all targets
#        scripts/fuzz.sh --minimize [TARGET...]     keeps in fuzz/corpus only inputs with coverage of their own
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

MEMORY_MB=1024   # for one target; a leak or an allocation by a peer's claim ends the run
TIMEOUT_S=5      # for one input

minimize=
seconds=60
if [ "${1:-}" = --minimize ]; then
    minimize=yes
    shift
elif [[ "${1:-}" =~ ^[1-9][0-9]*$ ]]; then
    seconds=$1
    shift
fi
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
    mapfile -t targets < <(cd fuzz/fuzz_targets && printf '%s\n' *.rs | sed 's/\.rs$//')
fi
for target in "${targets[@]}"; do
    [ -f "fuzz/fuzz_targets/$target.rs" ] || die "no fuzz target is called $target; see fuzz/fuzz_targets"
done

# The longest input, bytes: as much as a target reads.
bytes_max() {
    case $1 in
        descriptors) echo 128 ;;
        hop) echo 512 ;;
        *) echo 8192 ;;
    esac
}

need_rust
install "${FUZZ_PACKAGES[@]}"
cargo_fuzz
PATH="$(dirname "$tool"):$PATH"

# Stable Rust builds without a sanitizer, and this code has no unsafe parts to sanitize. Debug assertions and overflow checks are on. The
# code is the shipped code, not code under cfg(fuzzing).
options=(--sanitizer none --no-cfg-fuzzing --target-dir "${CARGO_TARGET_DIR:-$PWD/target}/fuzz")
say "building the targets"
cargo fuzz build "${options[@]}"

# fuzz TARGET: one target for its time, or minimized.
fuzz() {
    local target=$1 found=fuzz/corpus/$1 log limits
    limits=(-max_len="$(bytes_max "$target")" "-rss_limit_mb=$MEMORY_MB" "-timeout=$TIMEOUT_S")
    mkdir -p "$found"
    if [ -n "$minimize" ]; then
        say "$target: minimizing $(find "$found" -type f | wc -l) inputs"
        cargo fuzz cmin "${options[@]}" "$target" "$found" -- "${limits[@]}"
        return
    fi
    say "$target: $seconds s"
    log=$(mktemp)
    if ! cargo fuzz run "${options[@]}" "$target" "$found" "fuzz/seeds/$target" -- \
        "${limits[@]}" -max_total_time="$seconds" -print_final_stats=1 >"$log" 2>&1; then
        cat "$log" >&2
        rm -f "$log"
        say "the input lies in fuzz/artifacts/$target; to run it again:"
        printf 'cargo fuzz run %s %s FILE\n' "--sanitizer none --no-cfg-fuzzing" "$target" >&2
        return 1
    fi
    { grep -E 'DONE|number_of_executed_units|peak_rss_mb' "$log" || cat "$log"; } | sed "s/^/$target: /" >&2
    rm -f "$log"
}

# One target keeps one core busy, so as many targets run at a time as there are cores.
failed=()
at=0
while [ $at -lt ${#targets[@]} ]; do
    running=("${targets[@]:at:$(nproc)}")
    pids=()
    for target in "${running[@]}"; do
        fuzz "$target" &
        pids+=($!)
    done
    for index in "${!pids[@]}"; do wait "${pids[index]}" || failed+=("${running[index]}"); done
    at=$((at + ${#running[@]}))
done
[ ${#failed[@]} -eq 0 ] || die "${failed[*]} failed"
