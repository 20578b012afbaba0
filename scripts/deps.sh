#!/bin/sh
# Installs the Debian packages that are missing, for `make build`, `make demo` or `make test`.
#
#   scripts/deps.sh [build|demo|test] [--dry-run]
#
# Nothing is done, and no network is needed, when everything is there. No daemon of a package starts on this
# machine: while apt works, /usr/sbin/policy-rc.d forbids it, and is put back as it was also when apt fails.
set -eu

build='clang:clang
/usr/include/libelf.h:libelf-dev
/usr/include/zlib.h:zlib1g-dev
pkg-config:pkg-config
cc:gcc
/usr/include/stdio.h:libc6-dev
make:make'
demo='ip:iproute2
curl:curl
ping:iputils-ping
tcpdump:tcpdump
nginx:nginx-light
vsftpd:vsftpd'
test='linux.uml:user-mode-linux
modprobe:kmod
tshark:tshark
/etc/dnsmasq.conf:dnsmasq
iperf3:iperf3
ethtool:ethtool
bpftool:bpftool
arping:iputils-arping
/usr/sbin/sshd:openssh-server
redis-server:redis-server
redis-cli:redis-tools
ssh:openssh-client
psql:postgresql-client
lftp:lftp
dig:bind9-dnsutils
/usr/bin/pg_createcluster:postgresql
debootstrap:debootstrap
mkfs.ext4:e2fsprogs
xz:xz-utils
zstd:zstd
systemd-nspawn:systemd-container
systemd-socket-activate:systemd
man:man-db
nc:netcat-openbsd
nft:nftables
sqlite3:sqlite3
/usr/lib/python3/dist-packages/scapy/__init__.py:python3-scapy
/usr/lib/python3/dist-packages/prometheus_client/openmetrics/parser.py:python3-prometheus-client
/usr/lib/python3/dist-packages/jsonschema/__init__.py:python3-jsonschema
python3:python3'

what=demo
dry=
for argument; do
    case $argument in
        build|demo|test) what=$argument ;;
        --dry-run) dry=1 ;;
        *) sed -n '2,4p' "$0" >&2; exit 2 ;;
    esac
done
case $what in
    build) wanted=$build ;;
    demo) wanted="$build
$demo" ;;
    test) wanted="$build
$demo
$test" ;;
esac

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
missing=
for pair in $wanted; do
    thing=${pair%:*} package=${pair##*:}
    case $thing in
        /*) [ -e "$thing" ] || missing="$missing $package" ;;
        *) command -v "$thing" >/dev/null 2>&1 || missing="$missing $package" ;;
    esac
done
# rustup puts cargo where a root shell does not look.
[ -d "$HOME/.cargo/bin" ] && PATH=$HOME/.cargo/bin:$PATH
if ! command -v cargo >/dev/null 2>&1; then
    echo "deps: cargo is missing. Install Rust 1.95 or newer from https://rustup.rs, then run this again." >&2
    exit 1
fi
if [ -z "$missing" ]; then
    echo "deps: everything $what needs is installed"
    exit 0
fi
echo "deps: $what needs these Debian packages, which are missing:$missing"
[ -n "$dry" ] && exit 0
if ! command -v apt-get >/dev/null 2>&1; then
    echo "deps: no apt-get here; install the equivalents of:$missing" >&2
    exit 1
fi
if [ "$(id -u)" != 0 ]; then
    echo "deps: not root; run: sudo apt-get install --no-install-recommends$missing" >&2
    exit 1
fi

policy=/usr/sbin/policy-rc.d
saved=
mark='# of tenantd scripts/deps.sh, for the time apt-get runs'
restore() {
    if [ -n "$saved" ]; then mv -f "$saved" "$policy"; else rm -f "$policy"; fi
}
# One of ours is there only when an earlier run was killed outright: then it goes, and what it hid comes back.
if grep -qs "$mark" "$policy"; then
    rm -f "$policy"
    [ ! -e "$policy.before-tenantd" ] || mv -f "$policy.before-tenantd" "$policy"
fi
if [ -e "$policy" ] || [ -L "$policy" ]; then
    saved=$policy.before-tenantd
    mv -f "$policy" "$saved"
fi
trap restore EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
# 101: "action forbidden by policy" (invoke-rc.d(8)).
printf '#!/bin/sh\n%s\nexit 101\n' "$mark" > "$policy"
chmod 755 "$policy"

export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086 # a list of words
if ! apt-get install -y -qq --no-install-recommends $missing >/tmp/tenantd-deps.$$ 2>&1; then
    # The lists may be absent (a fresh image) or old.
    apt-get update -qq || echo "deps: apt-get update failed; trying with the lists that are there" >&2
    if ! apt-get install -y -qq --no-install-recommends $missing >/tmp/tenantd-deps.$$ 2>&1; then
        cat /tmp/tenantd-deps.$$ >&2
        rm -f /tmp/tenantd-deps.$$
        echo "deps: apt-get could not install:$missing" >&2
        exit 1
    fi
fi
rm -f /tmp/tenantd-deps.$$
echo "deps: installed; no service was started"
