# The Debian package in a system of its own: install, upgrade, removal, purge. No systemd runs there.
#
#   packaging.sh TREE OLD.deb NEW.deb     (as pid 1 of a pid namespace, in a mount namespace of its own)
#
# Prints what it has shown, a line each; ends at the first thing that is not so.
tree=$1 old=$2 new=$3

fail() { echo "FAILED: $*"; exit 1; }
shown() { echo "shown: $*"; }
# Until a command succeeds, half a minute at most.
soon() {
    for _ in $(seq 300); do "$@" && return; sleep 0.1; done
    return 1
}

# A root by pivot_root, not chroot: user namespaces are refused to processes in a chroot.
mount --make-rprivate /
mount --bind "$tree" "$tree"
mount -t tmpfs -o mode=755 tmpfs "$tree/run"
mount -t proc proc "$tree/proc"
mount --rbind /sys "$tree/sys"
mount --rbind /dev "$tree/dev"
cp "$old" "$tree/run/old.deb"
cp "$new" "$tree/run/new.deb"
cd "$tree"
pivot_root . mnt
umount -l /mnt
export PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive LC_ALL=C
ip() { fail "nobody may call ip here"; }

# --- install
dpkg -i /run/old.deb >/run/said 2>&1 || fail "install: $(cat /run/said)"
[ "$(dpkg-query -W -f '${Status} ${Version}' tenantd)" = "install ok installed 0.1.0" ] || fail "status: $(dpkg -s tenantd)"
[ -z "$(dpkg --audit)" ] && [ -z "$(dpkg -V tenantd)" ] || fail "dpkg finds fault: $(dpkg --audit; dpkg -V tenantd)"
getent group tenantd >/dev/null || fail "no group"
for program in tenantd access-server; do
    $program --version | grep -q "^$program " || fail "$program does not run"
    $program help >/dev/null || fail "$program help"
    gzip -t "/usr/share/man/man8/$program.8.gz" || fail "no page of $program"
done
[ "$(ls /usr/share/man/man8/tenantd-*.8.gz | wc -l)" -ge 30 ] || fail "pages: $(ls /usr/share/man/man8)"
bash -n /usr/share/bash-completion/completions/tenantd || fail "completion"
for unit in tenantd.service tenantd.socket access-server.service; do
    [ -f "/usr/lib/systemd/system/$unit" ] || fail "no $unit"
done
shown installed

# --- a tenant whose process lives through everything
daemon() {
    tenantd run --config /etc/tenantd/tenantd.toml >>/run/log 2>&1 &
    echo $! >/run/daemon
    for _ in $(seq 600); do tenantd status >/dev/null 2>&1 && return; sleep 0.05; done
    fail "the daemon does not answer: $(cat /run/log)"
}
daemon
tenantd add-tenant acme --address 192.168.1.1/24 >/run/said 2>&1 || fail "add-tenant: $(cat /run/said /run/log)"
tenantd add-service acme beat -- /bin/sh -c 'n=0; while :; do n=$((n+1)); echo "beat $n"; sleep 0.01; done' >/run/said 2>&1 ||
    fail "add-service: $(cat /run/said)"
beats() { tenantd logs acme beat | sed -n 's/.*beat //p'; }
process() { pgrep -o -f 'while :; do n=' || true; }
works() { [ -n "$(beats)" ]; }
soon works || fail "the tenant does not work"
before=$(pgrep -o -x tenant-init; tenantd list --json)
shown tenant

# --- upgrade, with what an administrator changed
echo '# changed' >>/etc/tenantd/tenantd.toml
dpkg -i /run/new.deb >/run/said 2>&1 </dev/null || fail "upgrade: $(cat /run/said)"
[ "$(dpkg-query -W -f '${Version}' tenantd)" = 0.1.1 ] || fail "not upgraded"
grep -q '^# changed' /etc/tenantd/tenantd.toml || fail "a setting was lost"
[ -d "/proc/$(cat /run/daemon)" ] || fail "the upgrade stopped the daemon"
# What systemd would do: exchange the daemon.
kill -TERM "$(cat /run/daemon)"
wait "$(cat /run/daemon)" || fail "the daemon ended badly"
daemon
[ "$(pgrep -o -x tenant-init; tenantd list --json)" = "$before" ] || fail "the tenant is another: $before / $(tenantd list)"
beaten() { beats >/run/beats; [ "$(wc -l </run/beats)" -gt 20 ]; }
soon beaten || fail "it stopped"
awk 'NR > 1 && $1 != last + 1 {exit 1} {last = $1}' /run/beats || fail "a line was lost"
shown upgraded

# --- removal with a tenant alive: the tenant lives on, and its files cannot be purged
dpkg -r tenantd >/run/said 2>&1 || fail "remove: $(cat /run/said)"
grep -q 'tenants run on' /run/said || fail "nobody said that tenants live: $(cat /run/said)"
pgrep -x tenant-init >/dev/null || fail "the removal ended a tenant"
[ ! -e /usr/sbin/tenantd ] || fail "still there"
[ -d /var/lib/tenantd/main ] && [ -f /etc/default/access-server ] || fail "state or settings went with the program"
if dpkg -P tenantd >/run/said 2>&1; then fail "purged under a living tenant"; fi
grep -q 'purge refused' /run/said || fail "purge: $(cat /run/said)"
[ -d /var/lib/tenantd/main/tenants/acme ] || fail "the tenant's files went"
shown removed

# --- again, and then to the end
kill -TERM "$(cat /run/daemon)" 2>/dev/null && wait "$(cat /run/daemon)"
dpkg -i /run/new.deb >/run/said 2>&1 </dev/null || fail "install again: $(cat /run/said)"
daemon
[ "$(pgrep -o -x tenant-init)" = "$(echo "$before" | head -n 1)" ] || fail "the tenant did not live through it"
tenantd remove-tenant acme --force >/run/said 2>&1 || fail "remove-tenant: $(cat /run/said)"
kill -TERM "$(cat /run/daemon)"
wait "$(cat /run/daemon)" || fail "the daemon ended badly"
dpkg -P tenantd >/run/said 2>&1 || fail "purge: $(cat /run/said)"
for gone in /var/lib/tenantd /run/tenantd /run/access-server /etc/tenantd /etc/default/access-server /usr/lib/tenantd \
    /sys/fs/bpf/tenantd /usr/share/doc/tenantd /usr/lib/systemd/system/tenantd.service; do
    [ ! -e "$gone" ] || fail "left: $gone $(find "$gone" | head)"
done
[ -z "$(dpkg-query -W tenantd 2>/dev/null)" ] || fail "dpkg still knows it"
! grep -qE 'tenantd|nsfs' /proc/self/mounts || fail "left: $(grep -E 'tenantd|nsfs' /proc/self/mounts)"
# The kernel takes a namespace apart, and with it both ends of the trunk, after the last one has let go of it.
gone() { ! ls /sys/class/net | grep -q trunk-main; }
soon gone || fail "left: the trunk"
shown purged
