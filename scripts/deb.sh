#!/bin/sh
# Makes the Debian package of what is built: tenantd_VERSION_ARCH.deb.
#
#   scripts/deb.sh [--version V] [--bin DIR] [--out DIR]
#
# The same programs give the same bytes: times are SOURCE_DATE_EPOCH's (default: the last commit's).
set -eu
umask 022
cd "$(dirname "$0")/.."

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
bin=target/x86_64-unknown-linux-gnu/release
out=target/debian
while [ $# -gt 0 ]; do
    case $1 in
        --version) version=$2 ;;
        --bin) bin=$2 ;;
        --out) out=$2 ;;
        *) sed -n '2,6p' "$0" >&2; exit 2 ;;
    esac
    shift 2
done
for program in tenantd access-server tenant-init; do
    [ -x "$bin/$program" ] || { echo "deb: $bin/$program is not built: cargo build --release --workspace" >&2; exit 1; }
done
if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
    SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || echo 0)
fi
export SOURCE_DATE_EPOCH
arch=$(dpkg --print-architecture)
mkdir -p "$out"
tree=$(mktemp -d)
chmod 755 "$tree"
trap 'rm -rf "$tree"' EXIT

put() { install -D -m "$1" "$2" "$tree/$3"; }
put 755 "$bin/tenantd" usr/lib/tenantd/tenantd
put 755 "$bin/tenant-init" usr/lib/tenantd/tenant-init
put 755 "$bin/access-server" usr/lib/tenantd/access-server
# tenantd looks for tenant-init beside its own file, which a link leads to.
mkdir -p "$tree/usr/sbin"
ln -s ../lib/tenantd/tenantd "$tree/usr/sbin/tenantd"
ln -s ../lib/tenantd/access-server "$tree/usr/sbin/access-server"
for unit in tenantd.service tenantd.socket access-server.service; do
    put 644 "packaging/$unit" "usr/lib/systemd/system/$unit"
done
put 644 packaging/sysusers.conf usr/lib/sysusers.d/tenantd.conf
put 644 packaging/networkd.network usr/lib/systemd/network/10-tenantd.network
put 644 packaging/networkmanager.conf usr/lib/NetworkManager/conf.d/10-tenantd.conf
put 644 packaging/tenantd.toml etc/tenantd/tenantd.toml
put 644 packaging/access-server.default etc/default/access-server

mkdir -p "$tree/usr/share/man/man8"
for program in tenantd access-server; do
    "$bin/$program" man "$tree/usr/share/man/man8"
    mkdir -p "$tree/usr/share/bash-completion/completions" "$tree/usr/share/zsh/vendor-completions" \
        "$tree/usr/share/fish/vendor_completions.d"
    "$bin/$program" completion bash >"$tree/usr/share/bash-completion/completions/$program"
    "$bin/$program" completion zsh >"$tree/usr/share/zsh/vendor-completions/_$program"
    "$bin/$program" completion fish >"$tree/usr/share/fish/vendor_completions.d/$program.fish"
done

doc=usr/share/doc/tenantd
put 644 packaging/debian/copyright "$doc/copyright"
for text in README.md CHANGELOG.md docs/upgrade.md docs/threat.md; do
    put 644 "$text" "$doc/$(basename "$text")"
done
cat >"$tree/$doc/changelog" <<EOT
tenantd ($version) unstable; urgency=medium

  * What changed is told in CHANGELOG.md.

 -- the tenantd maintainers <maintainers@tenantd.invalid>  $(date -uRd "@$SOURCE_DATE_EPOCH")
EOT
gzip -9n "$tree/$doc/changelog" "$tree/$doc/CHANGELOG.md" "$tree"/usr/share/man/man8/*.8

mkdir "$tree/DEBIAN"
install -m 755 packaging/debian/postinst packaging/debian/prerm packaging/debian/postrm "$tree/DEBIAN/"
printf '/etc/tenantd/tenantd.toml\n/etc/default/access-server\n' >"$tree/DEBIAN/conffiles"
size=$(find "$tree" -path "$tree/DEBIAN" -prune -o -type f -printf '%s\n' | awk '{s += int(($1 + 1023) / 1024)} END {print s}')
cat >"$tree/DEBIAN/control" <<EOT
Package: tenantd
Version: $version
Architecture: $arch
Maintainer: the tenantd maintainers <maintainers@tenantd.invalid>
Installed-Size: $size
Depends: passwd
Recommends: systemd | sysvinit-core
Suggests: debootstrap, e2fsprogs
Section: net
Priority: optional
Description: closed networks on one server
 Gives each closed network (tenant) that reaches this machine through an IP
 tunnel a server of its own: a network stack with addresses of its own choice,
 processes, files and users. Address spaces of tenants may overlap.
 .
 Contains the daemon tenantd, the access server that ends the tunnels, and the
 tenants' first process.
EOT
(cd "$tree" && find usr etc -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum >DEBIAN/md5sums)
find "$tree" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
package=$out/tenantd_${version}_$arch.deb
dpkg-deb --root-owner-group -Zxz --build "$tree" "$package" >/dev/null
echo "$package"
