//! What of the host goes into the image `host`, and what does not: the lists and the rule behind them. Pure.
//!
//! The rule for `/etc`: a package's configuration goes in when everybody may read it; what tells *this machine* from
//! another does not. That is
//! - who it is (names, ids, host keys, known hosts) and who its people are (accounts above the system's own),
//! - how it is attached (addresses, resolvers, disks, exports, proxies),
//! - what it starts, when, and with which kernel settings,
//! - where it gets its software from, and what it may have written down to do so,
//! - and we ourselves.
//!
//! A file that is not world-readable never goes in, listed here or not; nor do sockets, pipes and devices.
//! Directories of which the content is left out stay as empty directories: packages expect them.

use std::path::Path;

/// What happens to a path of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// Copied, and looked into.
    Keep,
    /// A directory stays, empty. A file or link is left out.
    Empty,
    /// Not copied.
    LeaveOut,
}

/// Paths below `/etc` that are this machine's own. Directories stay, empty.
const IDENTITY: &[&str] = &[
    // Who it is.
    "adjtime",
    "hostid",
    "hostname",
    "hosts",
    "hosts.equiv",
    "image-id",
    "machine-id",
    "machine-info",
    "mailname",
    "ssh/shosts.equiv",
    "ssh/ssh_known_hosts",
    "ssh/ssh_known_hosts2",
    // Who its people are; passwd, group, shadow and gshadow are made anew.
    "group",
    "group-",
    "gshadow",
    "gshadow-",
    "passwd",
    "passwd-",
    "shadow",
    "shadow-",
    "subgid",
    "subgid-",
    "subuid",
    "subuid-",
    "sudoers",
    "sudoers.d",
    "krb5.conf.d",
    "krb5.keytab",
    "pam_ldap.conf",
    "sssd",
    // How it is attached. mtab is made anew.
    "NetworkManager",
    "connman",
    "crypttab",
    "dhcp",
    "environment",
    "environment.d",
    "exports",
    "exports.d",
    "fstab",
    "hosts.allow",
    "hosts.deny",
    "iscsi",
    "lvm",
    "mdadm",
    "mtab",
    "multipath",
    "multipath.conf",
    "netplan",
    "network",
    "networks",
    "nftables.conf",
    "nvme",
    "resolv.conf",
    "resolvconf",
    "ufw",
    "wireguard",
    "zfs",
    "iptables",
    "iptables.rules",
    "firewalld",
    "ppp",
    "openvpn",
    "ipsec.conf",
    "ipsec.d",
    "swanctl",
    "tinc",
    // What it starts and the kernel it starts on. A directory of postgresql is a cluster of this machine: its own
    // data belong to it, and half of its files are closed anyway.
    "binfmt.d",
    "default/grub",
    "default/grub.d",
    "cron.d",
    "crontab",
    "grub.d",
    "inittab",
    "initramfs-tools",
    "kernel",
    "modprobe.d",
    "modules",
    "modules-load.d",
    "postgresql",
    "rc.local",
    "runit",
    "sv",
    "sysctl.conf",
    "sysctl.d",
    "systemd/network",
    "systemd/system",
    "systemd/user",
    "udev",
    "dracut.conf.d",
    "apparmor.d",
    "selinux",
    // Where its software comes from, and machines that run others.
    "apt",
    "containerd",
    "containers",
    "docker",
    "dnf",
    "pacman.d",
    "yum.repos.d",
    "zypp",
    "cloud",
    "kubernetes",
    "libvirt",
    "lxc",
    "lxd",
    "incus",
    "cni",
    "gitconfig",
    "npmrc",
    "pip.conf",
    "wgetrc",
    "netrc",
    "letsencrypt",
    // Ourselves.
    "access-server",
    "tenantd",
];

/// Directories below `/var` of which the content is never looked into: they hold other machines, are written by
/// programs that do not run in a tenant, or are ours.
const FOREIGN_VAR: &[&str] = &[
    "backups",
    "crash",
    "lib/access-server",
    "lib/containerd",
    "lib/containers",
    "lib/docker",
    "lib/dpkg",
    "lib/flatpak",
    "lib/incus",
    "lib/kubelet",
    "lib/libvirt",
    "lib/lxc",
    "lib/lxcfs",
    "lib/lxd",
    "lib/machines",
    "lib/portables",
    "lib/snapd",
    "lib/systemd",
    "lib/tenantd",
    "local",
    "mail",
    "snap",
    "tmp",
    "log/journal",
    "cache/man",
];

/// How deep `/var` is copied: `lib/postgresql/15/main` is what packages make; below that is data.
const VAR_DEPTH: usize = 4;

/// The most directories taken of `/var`; a server with more keeps data in them, not packages.
pub(super) const VAR_MOST: usize = 4_000;

/// What happens to `path`, relative to `/etc`.
pub(super) fn of_etc(path: &Path) -> Rule {
    // Host keys have as many names as there are kinds of key, and their public halves are world-readable.
    let host_key = path.parent().is_some_and(|p| p == Path::new("ssh"))
        && path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"ssh_host_"));
    if host_key {
        return Rule::LeaveOut;
    }
    // Links of rc?.d say what the host starts.
    let run_level = path.components().count() == 1 && is_run_level(path);
    if run_level || IDENTITY.iter().any(|known| Path::new(known) == path) { Rule::Empty } else { Rule::Keep }
}

fn is_run_level(path: &Path) -> bool {
    matches!(path.as_os_str().as_encoded_bytes(), [b'r', b'c', b'0'..=b'6' | b'S', b'.', b'd'])
}

/// What happens to the directory `path`, relative to `/var`.
pub(super) fn of_var(path: &Path) -> Rule {
    if FOREIGN_VAR.iter().any(|known| Path::new(known) == path) || path.components().count() >= VAR_DEPTH {
        return Rule::Empty;
    }
    Rule::Keep
}

/// Programs with a set-uid or set-gid bit that the administrator of a server needs, or that a mail or cron service
/// is made of. Everything else with such a bit stays as it is in the read-only `/usr`, where the bit has no effect for
/// a tenant (its owner is not mapped): programs that mount, dial, or speak for the host's desktop.
pub(super) const SET_ID: &[&str] = &[
    "at",
    "chage",
    "chfn",
    "chsh",
    "crontab",
    "doas",
    "exim4",
    "expiry",
    "gpasswd",
    "newgidmap",
    "newgrp",
    "newuidmap",
    "pam_extrausers_chkpwd",
    "passwd",
    "postdrop",
    "postqueue",
    "sg",
    "su",
    "sudo",
    "unix2_chkpwd",
    "unix_chkpwd",
];

/// Where they are, and where programs with file capabilities are looked for.
pub(super) const PROGRAM_DIRS: &[&str] = &["usr/bin", "usr/sbin"];

/// Directories the tree has empty: path, mode. The first ones are mount points.
pub(super) const EMPTY: &[(&str, u32)] = &[
    ("dev", 0o755),
    ("proc", 0o555),
    ("run", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("home", 0o755),
    ("media", 0o755),
    ("mnt", 0o755),
    ("opt", 0o755),
    ("root", 0o700),
    ("srv", 0o755),
];

/// Links of a merged `/usr`; each has to be a link into it.
pub(super) const MERGED: &[&str] = &["bin", "lib", "lib32", "lib64", "libo32", "libx32", "sbin"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_know_the_machine_from_its_packages() {
        let etc = |path: &str| of_etc(Path::new(path));
        assert_eq!(etc("nginx/nginx.conf"), Rule::Keep);
        assert_eq!(etc("ssh/sshd_config"), Rule::Keep);
        assert_eq!(etc("ssh/ssh_host_rsa_key.pub"), Rule::LeaveOut);
        assert_eq!(etc("other/ssh_host_rsa_key.pub"), Rule::Keep);
        assert_eq!(etc("machine-id"), Rule::Empty);
        assert_eq!(etc("nginx/hosts"), Rule::Keep);
        assert_eq!(etc("postgresql"), Rule::Empty);
        assert_eq!(etc("postgresql-common"), Rule::Keep);
        assert_eq!(etc("rc2.d"), Rule::Empty);
        assert_eq!(etc("rc9.d"), Rule::Keep);
        assert_eq!(of_var(Path::new("lib/nginx/body")), Rule::Keep);
        assert_eq!(of_var(Path::new("lib/postgresql/15/main")), Rule::Empty);
        assert_eq!(of_var(Path::new("lib/tenantd")), Rule::Empty);
    }
}
