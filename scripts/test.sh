#!/usr/bin/env bash
# Builds once (release), runs every test of the workspace, looks for leftovers, prints the totals.
# Totals are the last line: N passed, N failed, N skipped. Not 0 when something failed.
set -uo pipefail
cd "$(dirname "$0")/.."
PATH=$HOME/.cargo/bin:$PATH:/usr/local/sbin:/usr/sbin:/sbin

# What of ours, or of the network, this machine has: must be the same afterwards.
traces() {
    ip -o link 2>/dev/null | sed 's/^[0-9]*: //; s/ .*//; s/^/link /'
    ip netns list 2>/dev/null | sed 's/^/netns /'
    grep -E 'tenantd|access-server|/bpf |nsfs' /proc/mounts | sed 's/^/mount /'
    find /sys/fs/cgroup -type d \( -name 'tenantd*' -o -name 'tenant-*' \) 2>/dev/null | sed 's/^/cgroup /'
    for dir in /proc/[0-9]*; do
        case $(readlink "$dir/exe" 2>/dev/null) in
            */tenantd|*/access-server|*/tenant-init|*/lab|*/linux.uml) echo "process $(tr '\0' ' ' <"$dir/cmdline" | cut -c1-100)" ;;
        esac
    done
    [ ! -d /run/tenantd-lab ] || find /run/tenantd-lab -name '*.json' | sed 's/^/record /'
}

log=$(mktemp)
before=$(mktemp)
after=$(mktemp)
trap 'rm -f "$log" "$before" "$after"' EXIT
traces | sort >"$before"

status=0
cargo build --release --workspace || exit 1
cargo test --release --workspace --no-fail-fast 2>&1 | tee "$log" || status=1

# A test floor that could not run, with its reason.
if grep -qE '^test .*\.\.\. ignored' "$log"; then
    echo
    echo "Not run here:"
    grep -E '^test .*\.\.\. ignored' "$log" | sed 's/^test /  /'
fi
# Network namespaces are taken down by the kernel a moment after their last process.
for _ in 1 2 3 4 5; do
    traces | sort >"$after"
    cmp -s "$before" "$after" && break
    sleep 1
done
leftovers=0
echo
if cmp -s "$before" "$after"; then
    echo "Leftovers: none"
else
    leftovers=1 status=1
    echo "Leftovers (> appeared, < went):"
    diff "$before" "$after" | grep '^[<>]'
fi
# A test program that dies without a result line must not pass for one.
if [ $status -ne 0 ] && ! grep -qE '^test result: FAILED' "$log" && [ $leftovers -eq 0 ]; then
    crashed=1
else
    crashed=0
fi
awk -v extra=$((leftovers + crashed)) '
    /^test result: / { for (i = 1; i <= NF; i++) {
        if ($i ~ /^passed/) p += $(i-1); if ($i ~ /^failed/) f += $(i-1); if ($i ~ /^ignored/) s += $(i-1) } }
    END { printf "%d passed, %d failed, %d skipped\n", p, f + extra, s }' "$log"
exit $status
