#!/bin/sh
# All closed networks of a server in one file: compared, applied, changed, exported and made again.
set -eu
file=$(dirname "$0")/closed-networks.toml
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

tenantd diff -f "$file"
tenantd apply -f "$file"
tenantd diff -f "$file" --exit-code        # nothing differs

# Another address, through a pipe; the web server of acme goes on.
sed 's/192\.168\.1\.1/192.168.1.2/' "$file" | tenantd apply -f -
tenantd show acme

# A fault is told with its line, and nothing is changed.
printf 'version = 1\n[tenants.acme]\nvlan = 4095\n' >"$dir/bad.toml"
if tenantd apply -f "$dir/bad.toml" 2>"$dir/faults"; then exit 1; fi
cat "$dir/faults"

tenantd export -o "$dir/exported.toml"
printf 'version = 1\n' | tenantd apply -f - --prune --force --yes
tenantd import "$dir/exported.toml"
tenantd list
