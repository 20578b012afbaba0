//! The tenant's own `/etc/resolv.conf` and `/etc/hosts`.
//!
//! Init binds the two files over the host's when it starts, and a mount holds the file, not its name: so they are
//! always written in place, never replaced by renaming.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use ipnet::IpNet;
use stackmap::TenantName;

/// Writes the tenant's resolv.conf; a running tenant sees it at once. Without a name server in it the C library asks
/// 127.0.0.1, which is the tenant itself: right for one with a name service of its own, refused at once otherwise.
///
/// # Errors
/// When the file cannot be written.
pub fn write_resolv_conf(state_dir: &Path, dns: &[IpAddr]) -> io::Result<()> {
    in_place(&state_dir.join("etc/resolv.conf"), &resolv_conf(dns))
}

/// The text of a tenant's resolv.conf.
pub fn resolv_conf(dns: &[IpAddr]) -> String {
    let mut text = String::from("# Written by tenantd from the tenant's --dns.\n");
    for server in dns {
        let _ = writeln!(text, "nameserver {server}");
    }
    text
}

/// Writes the tenant's hosts; a running tenant sees it at once.
///
/// # Errors
/// When the file cannot be written.
pub fn write_hosts(state_dir: &Path, name: &TenantName, addresses: &[IpNet]) -> io::Result<()> {
    let mut text =
        String::from("# Written by tenantd from the tenant's addresses.\n127.0.0.1 localhost\n::1 localhost\n");
    for address in addresses {
        let _ = writeln!(text, "{} {name}", address.addr());
    }
    in_place(&state_dir.join("etc/hosts"), &text)
}

/// The new text first, the old tail off after it: a reader in between sees at worst lines of both.
fn in_place(path: &Path, text: &str) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o644).open(path)?;
    file.write_all_at(text.as_bytes(), 0)?;
    file.set_len(text.len() as u64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn files_are_written_in_place_and_get_shorter() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        let dns = ["192.168.1.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        write_resolv_conf(root.path(), &dns).unwrap();
        let path = root.path().join("etc/resolv.conf");
        let before = std::fs::metadata(&path).unwrap().ino();
        assert!(std::fs::read_to_string(&path).unwrap().ends_with("nameserver 192.168.1.1\nnameserver fd00::1\n"));
        write_resolv_conf(root.path(), &[]).unwrap();
        assert!(!std::fs::read_to_string(&path).unwrap().contains("nameserver"));
        assert_eq!(std::fs::metadata(&path).unwrap().ino(), before);

        let name = "acme".parse().unwrap();
        write_hosts(root.path(), &name, &["192.168.1.1/24".parse().unwrap()]).unwrap();
        let hosts = std::fs::read_to_string(root.path().join("etc/hosts")).unwrap();
        assert!(hosts.contains("\n127.0.0.1 localhost\n") && hosts.ends_with("\n192.168.1.1 acme\n"), "{hosts}");
    }
}
