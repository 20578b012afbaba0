//! A made-up host with secrets of every kind, and looking at trees.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};

/// What no file of a snapshot may have in it.
pub(crate) const SECRET: &str = "this-must-never-be-seen";

/// Writes a file with a mode, and its directories.
pub(crate) fn write(root: &Path, path: &str, mode: u32, text: &str) -> PathBuf {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    path
}

/// Makes a directory with a mode and an owner.
pub(crate) fn directory(root: &Path, path: &str, mode: u32, owner: u32) {
    let path = root.join(path);
    fs::create_dir_all(&path).unwrap();
    chown(&path, Some(owner), Some(owner)).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
}

/// Gives a file `cap_net_raw=ep`, as ping has it.
pub(crate) fn capability(path: &Path) {
    let name = CString::new(path.as_os_str().as_bytes()).unwrap();
    // struct vfs_cap_data, revision 2 with the effective bit (linux/capability.h).
    let mut value = [0_u8; 20];
    value[..4].copy_from_slice(&0x0200_0001_u32.to_le_bytes());
    value[4..8].copy_from_slice(&(1_u32 << 13).to_le_bytes());
    // SAFETY: both strings and the value live here, the length is the value's.
    let set = unsafe {
        libc::setxattr(name.as_ptr(), c"security.capability".as_ptr(), value.as_ptr().cast(), value.len(), 0)
    };
    assert_eq!(set, 0, "setxattr: {}", std::io::Error::last_os_error());
}

/// Whether a file has capabilities.
pub(crate) fn has_capability(path: &Path) -> bool {
    let name = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: two strings that live here; only the length is asked.
    unsafe { libc::lgetxattr(name.as_ptr(), c"security.capability".as_ptr(), std::ptr::null_mut(), 0) > 0 }
}

/// A host with a merged `/usr`, some packages, people, and everything that must not come through.
pub(crate) fn host(root: &Path) {
    for (link, to) in [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib")] {
        fs::create_dir_all(root.join(to)).unwrap();
        symlink(to, root.join(link)).unwrap();
    }
    let passwd =
        "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/var/www:/bin/sh\nanna:x:1000:1000::/home/anna:/bin/sh\n";
    write(root, "etc/passwd", 0o644, passwd);
    write(root, "etc/group", 0o644, "root:x:0:\nshadow:x:42:\nwww-data:x:33:anna\nanna:x:1000:\n");
    write(root, "etc/shadow", 0o640, &format!("root:{SECRET}:1::::::\n"));
    write(root, "etc/gshadow", 0o640, &format!("root:{SECRET}::\n"));
    write(root, "etc/web/web.conf", 0o644, "listen 80;\n");
    write(root, "etc/web/odd name\n\"quoted\"", 0o644, "odd\n");
    write(root, "etc/web/run-as-root", 0o4755, "#!/bin/sh\n");
    let persons = write(root, "etc/web/persons", 0o664, "hers\n");
    chown(&persons, Some(1000), Some(1000)).unwrap();
    symlink("../web/web.conf", root.join("etc/web/enabled")).unwrap();
    symlink("/nowhere/at/all", root.join("etc/web/dangling")).unwrap();

    // Not world-readable, in every way.
    write(root, "etc/web/key0600", 0o600, SECRET);
    write(root, "etc/web/key0640", 0o640, SECRET);
    write(root, "etc/web/key0604", 0o604, SECRET);
    write(root, "etc/web/key0000", 0o000, SECRET);
    write(root, "etc/closed/open-file", 0o644, SECRET);
    directory(root, "etc/closed", 0o700, 33);
    write(root, "etc/passable/open-file", 0o644, SECRET);
    directory(root, "etc/passable", 0o711, 0);
    write(root, "etc/listable/open-file", 0o644, SECRET);
    directory(root, "etc/listable", 0o744, 0);
    fs::hard_link(root.join("etc/web/key0600"), root.join("etc/web/second-name")).unwrap();
    symlink("key0600", root.join("etc/web/link-to-key")).unwrap();
    symlink("link-to-key", root.join("etc/web/link-to-link")).unwrap();
    symlink("/etc/closed/open-file", root.join("etc/web/link-into-closed")).unwrap();
    symlink("../closed", root.join("etc/web/link-to-closed")).unwrap();
    write(root, "root/secret", 0o600, SECRET);
    directory(root, "root", 0o700, 0);
    symlink("../../root/secret", root.join("etc/web/link-to-home")).unwrap();
    // Leads into the real host when it is not followed inside of the root.
    symlink("/etc/shadow", root.join("etc/web/link-to-shadow")).unwrap();
    // Special files; a device of null's number is as harmless as null.
    let _socket = UnixListener::bind(root.join("etc/web/socket")).unwrap();
    mknod(&root.join("etc/web/pipe"), SFlag::S_IFIFO, Mode::from_bits_truncate(0o666), 0).unwrap();
    mknod(&root.join("etc/web/device"), SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, 3)).unwrap();
    // World-readable, but this machine's.
    for path in ["etc/machine-id", "etc/hostname", "etc/hosts", "etc/resolv.conf", "etc/fstab", "etc/tenantd/x.toml"] {
        write(root, path, 0o644, SECRET);
    }
    write(root, "etc/ssh/ssh_host_ed25519_key.pub", 0o644, SECRET);
    write(root, "etc/ssh/sshd_config", 0o644, "Port 22\n");
    write(root, "etc/network/interfaces", 0o644, SECRET);

    write(root, "var/lib/web/data", 0o644, SECRET);
    directory(root, "var/lib/web", 0o750, 33);
    write(root, "var/lib/closed/inner/data", 0o644, SECRET);
    directory(root, "var/lib/closed", 0o700, 0);
    directory(root, "var/log/web", 0o2755, 33);
    directory(root, "var/tmp", 0o1777, 0);
    write(root, "var/lib/tenantd/main/x", 0o644, SECRET);
    symlink("/run", root.join("var/run")).unwrap();

    write(root, "usr/bin/su", 0o4755, "su\n");
    let shadow = write(root, "usr/sbin/unix_chkpwd", 0o755, "chkpwd\n");
    chown(&shadow, Some(0), Some(42)).unwrap();
    fs::set_permissions(&shadow, Permissions::from_mode(0o2755)).unwrap();
    write(root, "usr/bin/mount", 0o4755, "mount\n");
    write(root, "usr/bin/sudo", 0o4750, SECRET);
    let hers = write(root, "usr/bin/passwd", 0o755, "hers\n");
    chown(&hers, Some(1000), Some(1000)).unwrap();
    fs::set_permissions(&hers, Permissions::from_mode(0o4755)).unwrap();
    write(root, "usr/bin/chsh", 0o755, "without the bit\n");
    capability(&write(root, "usr/bin/ping", 0o755, "ping\n"));
    write(root, "usr/lib/su", 0o4755, "not where programs are\n");
}

/// Every path below `root` (relative) with what it is: the text of a file, `-> target` of a link, `dir`, or `special`.
pub(crate) fn tree(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let kind = fs::symlink_metadata(&path).unwrap().file_type();
            let what = if kind.is_symlink() {
                [b"-> ", fs::read_link(&path).unwrap().as_os_str().as_bytes()].concat()
            } else if kind.is_dir() {
                directories.push(path.clone());
                b"dir".to_vec()
            } else if kind.is_file() {
                fs::read(&path).unwrap()
            } else {
                b"special".to_vec()
            };
            found.insert(path.strip_prefix(root).unwrap().to_owned(), what);
        }
    }
    found
}

/// Whether `text` has `part` in it.
pub(crate) fn contains(text: &[u8], part: &str) -> bool {
    text.windows(part.len()).any(|window| window == part.as_bytes())
}
