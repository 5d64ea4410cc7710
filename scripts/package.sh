#!/usr/bin/env bash
# Builds the Debian package from the release build: binaries, unit, configuration, man pages, completions. Prints its path.
#
# STOQ_BUILT names a directory of executables to package instead, such as the one that scripts/optimize.sh prints.
# cargo-deb is installed into the build directory where the machine has none.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
install "${BUILD_PACKAGES[@]}" "${PACKAGE_PACKAGES[@]}"
need_rust

CARGO_TARGET_DIR=$(realpath -m "${CARGO_TARGET_DIR:-target}")
export CARGO_TARGET_DIR
take_built
# cargo-deb takes executables from cargo's own build directory.
stage=$CARGO_TARGET_DIR/package
rm -rf "$stage"
mkdir -p "$stage/release"
cp "$built"/{stoq,stoq-gateway,stoq-pktgen} "$stage/release/"
say "man pages and completions"
for program in stoq stoq-gateway stoq-pktgen; do "$stage/release/$program" generate "$stage/release/generated"; done
# bash looks completions up by the name of the command.
for file in "$stage"/release/generated/completions/*.bash; do mv "$file" "${file%.bash}"; done

cargo_deb
say "the package"
debian=$CARGO_TARGET_DIR/debian
CARGO_TARGET_DIR=$stage "$tool" --package stoq-gateway --no-build --strip --quiet --output "$debian/" >&2
newest=''
for package in "$debian"/stoq_*.deb; do
    if [ -z "$newest" ] || [ "$package" -nt "$newest" ]; then newest=$package; fi
done
echo "$newest"
