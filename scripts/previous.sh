#!/bin/sh
# Builds the version before this one, for the test of upgrades: target/previous-release/bin.
#
# Needs a clone that has its commit; nothing is done when it is built already. About a minute on two processors when this
# version is built: what both depend on is taken from there.
set -eu
cd "$(dirname "$0")/.."
commit=1692da6
out=target/previous-release
[ "$(cat "$out/commit" 2>/dev/null)" != "$commit" ] || exit 0
if ! git cat-file -e "$commit^{commit}" 2>/dev/null; then
    echo "previous: this clone does not have $commit (git fetch --unshallow)" >&2
    exit 1
fi
rm -rf "$out/src"
mkdir -p "$out/src" "$out/bin"
git archive "$commit" | tar -x -C "$out/src"
target=$(cd "$out" && pwd)/target
# Links, not copies: a compiler writes anew and never into what is there.
for part in release x86_64-unknown-linux-gnu/release; do
    [ -d "target/$part/deps" ] || continue
    mkdir -p "$target/$part"
    cp -al "target/$part/deps" "target/$part/build" "target/$part/.fingerprint" "$target/$part/"
done
(cd "$out/src" && cargo build --release --target-dir "$target" -p tenantd -p access-server -p tenant-init)
for program in tenantd access-server tenant-init; do
    cp "$target/x86_64-unknown-linux-gnu/release/$program" "$out/bin/"
done
rm -rf "$out/src" "$target"
echo "$commit" >"$out/commit"
