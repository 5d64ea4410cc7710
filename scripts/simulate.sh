#!/usr/bin/env bash
# Runs of tests/worlds by seeds. A failing seed is printed with the command that repeats it.
#
#   scripts/simulate.sh [store|each_change|worlds] --seeds A..B [--mutant NAME]   these seeds, of one kind of run or of all; B is not among them
#   scripts/simulate.sh --new N                                                  N seeds that are drawn now, and printed
#
# `store` and `each_change` run a store alone, `worlds` whole worlds: gateways, clients, hostile peers and a link. STOQ_TRACE=1 shows what
# happens in a world. With a mutant, a fault that is put into each run, the seeds must fail: dropped-sync, dropped-directory-sync,
# forgotten-charge, unchecked-group; in worlds lost-wake-up and kept-datagrams too.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

kinds=(keeps_its_word whole_worlds_keep_their_word) seeds='' mutant=''
while [ $# -gt 0 ]; do
    case $1 in
        store) kinds=(keeps_its_word_through_crashes) ;;
        worlds) kinds=(whole_worlds_keep_their_word) ;;
        each_change) kinds=(keeps_its_word_through_a_crash_at_each_change) ;;
        --seeds) seeds=${2:?--seeds needs a range: A..B} && shift ;;
        --new) n=${2:?--new needs a number} from=$((EPOCHSECONDS * 1000)) seeds=$from..$((from + n)) && shift ;;
        --mutant) mutant=${2:?--mutant needs a name} && shift ;;
        *) die "no option is called $1: give store, each_change, worlds, --seeds, --new or --mutant" ;;
    esac
    shift
done
[ -n "$seeds" ] || die "name the seeds: --seeds 1..101, or --new 20"
say "worlds of the seeds $seeds"
export STOQ_SEEDS=$seeds
[ -z "$mutant" ] || export STOQ_MUTANT=$mutant
cargo test --no-default-features --locked --quiet --test worlds -- "${kinds[@]}"
