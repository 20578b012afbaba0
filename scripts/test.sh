#!/usr/bin/env bash
# Builds once (release), runs every test of the workspace, looks for leftovers, prints the totals.
# Totals are the last line: N passed, N failed, N skipped. Not 0 when something failed.
set -uo pipefail
cd "$(dirname "$0")/.."
PATH=$HOME/.cargo/bin:$PATH:/usr/local/sbin:/usr/sbin:/sbin

# What of ours, or of the network, this machine has; nothing may have come when the tests are through.
traces() {
    ip -o link 2>/dev/null | sed 's/^[0-9]*: //; s/ .*//; s/^/link /'
    ip netns list 2>/dev/null | sed 's/^/netns /'
    grep -E 'tenantd|access-server|/bpf |nsfs' /proc/mounts | sed 's/^/mount /'
    find /sys/fs/cgroup -type d \( -name 'tenantd*' -o -name 'tenant-*' \) 2>/dev/null | sed 's/^/cgroup /'
    # Private layers of a limited size, and what the guard has in the kernel.
    losetup -l -n -O NAME,BACK-FILE 2>/dev/null | grep -E 'tenant|deleted' | sed 's/^/loop device /'
    ! command -v bpftool >/dev/null || bpftool cgroup tree 2>/dev/null | grep -E 'tenantd|tenant-' | sed 's/^/guarded /'
    local own dir
    own=$(readlink /proc/self/ns/pid)
    for dir in /proc/[0-9]*; do
        # Those in other pid namespaces end with their world or tenant, which is looked at here.
        [ "$(readlink "$dir/ns/pid" 2>/dev/null)" = "$own" ] || continue
        case $(readlink "$dir/exe" 2>/dev/null) in
            */tenantd|*/access-server|*/tenant-init|*/lab|*/linux.uml) echo "process $(tr '\0\n' '  ' <"$dir/cmdline" | cut -c1-100)" ;;
        esac
    done
    [ ! -d /run/tenantd-lab ] || find /run/tenantd-lab -name '*.json' | sed 's/^/record /'
}

# Leaves out the labs that stand in their own right: a user's, or those of other tests that run now. A test's world is
# named STEM-PID-N after the process that made it.
without_others() {
    local record name pid others=
    for record in /run/tenantd-lab/*.json; do
        [ -e "$record" ] || continue
        name=$(basename "$record" .json)
        pid=${name%-*}
        pid=${pid##*-}
        if grep -q '"kept": true' "$record" || [ -e "/proc/$pid/stat" ]; then
            others="$others|tenantd-lab-$name(/|\$)|/$name\.json\$|\"name\":\"$name\"|--name $name "
        fi
    done
    grep -vE "${others#|}${others:+|}^\$"
}

log=$(mktemp)
before=$(mktemp)
after=$(mktemp)
trap 'rm -f "$log" "$before" "$after"' EXIT
traces | without_others | sort >"$before"

status=0
cargo build --release --workspace || exit 1
# For the test of going back; it is shown as ignored where the version before cannot be built.
scripts/previous.sh || true
cargo test --release --workspace --no-fail-fast 2>&1 | tee "$log" || status=1

# A test floor that could not run, with its reason.
if grep -aqE '^test .*\.\.\. ignored' "$log"; then
    echo
    echo "Not run here:"
    grep -aE '^test .*\.\.\. ignored' "$log" | sed 's/^test /  /'
fi
# Network namespaces are taken down by the kernel a moment after their last process.
for _ in 1 2 3 4 5; do
    traces | without_others | sort >"$after"
    appeared=$(comm -13 "$before" "$after")
    [ -z "$appeared" ] && break
    sleep 1
done
leftovers=0
echo
if [ -z "$appeared" ]; then
    echo "Leftovers: none"
else
    leftovers=1 status=1
    echo "Leftovers:"
    echo "$appeared"
fi
# A test program that dies without a result line must not pass for one.
if [ $status -ne 0 ] && ! grep -aqE '^test result: FAILED' "$log" && [ $leftovers -eq 0 ]; then
    crashed=1
else
    crashed=0
fi
awk -v extra=$((leftovers + crashed)) '
    /^test result: / { for (i = 1; i <= NF; i++) {
        if ($i ~ /^passed/) p += $(i-1); if ($i ~ /^failed/) f += $(i-1); if ($i ~ /^ignored/) s += $(i-1) } }
    END { printf "%d passed, %d failed, %d skipped\n", p, f + extra, s }' "$log"
exit $status
