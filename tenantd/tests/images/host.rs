//! The image `host`: nothing of a host that is not world-readable may be in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tenantd::images::{HostError, HostImage, ImageStore, Reason, SurveyError};

use crate::Test;
use crate::fake::{self, SECRET};

pub(crate) const TESTS: &[Test] = &[
    ("host_snapshot_has_what_packages_need", has_what_packages_need),
    ("host_snapshot_shows_no_secret_of_a_made_up_host", no_secret),
    ("host_snapshot_says_what_it_leaves_out", says_what_it_leaves_out),
    ("host_snapshot_has_the_programs_that_change_identity", programs),
    ("host_snapshot_does_not_look_into_mounts", mounts),
    ("host_snapshot_changes_with_the_host_and_only_then", versions),
    ("host_snapshot_that_is_damaged_is_made_anew", damaged),
    ("host_without_merged_usr_is_refused", not_merged),
    ("host_snapshot_of_this_machine_is_world_readable_only", this_machine),
];

fn made_up() -> (tempfile::TempDir, PathBuf, HostImage) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("host");
    fake::host(&root);
    let image = ImageStore::open_with_host(dir.path(), &root).unwrap().host().unwrap();
    (dir, root, image)
}

fn mode(path: &Path) -> (u32, u32, u32) {
    let metadata = fs::symlink_metadata(path).unwrap();
    (metadata.mode() & 0o7777, metadata.uid(), metadata.gid())
}

fn has_what_packages_need() -> Result<(), String> {
    let (dir, _, image) = made_up();
    let tree = fake::tree(&image.root);
    let text = |path: &str| String::from_utf8(tree[Path::new(path)].clone()).unwrap();
    assert_eq!(text("etc/web/web.conf"), "listen 80;\n");
    assert_eq!(text("etc/web/odd name\n\"quoted\""), "odd\n");
    assert_eq!(text("etc/web/enabled"), "-> ../web/web.conf");
    assert_eq!(text("etc/web/dangling"), "-> /nowhere/at/all");
    assert_eq!(text("etc/ssh/sshd_config"), "Port 22\n");
    assert_eq!(text("bin"), "-> usr/bin");
    assert_eq!(text("var/run"), "-> /run");
    assert_eq!(text("etc/mtab"), "-> ../proc/self/mounts");
    assert_eq!(text("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/var/www:/bin/sh\n");
    assert_eq!(text("etc/group"), "root:x:0:\nshadow:x:42:\nwww-data:x:33:\n");
    assert_eq!(text("etc/shadow"), "root:*:20000:0:99999:7:::\nwww-data:*:20000:0:99999:7:::\n");
    for empty in ["proc", "sys", "dev", "run", "tmp", "usr", "root", "home", "srv", "mnt", "media", "opt"] {
        assert_eq!(text(empty), "dir");
        assert_eq!(tree.keys().filter(|path| path.starts_with(empty)).count(), 1, "{empty} is not empty");
    }
    let at = |path: &str| mode(&image.root.join(path));
    assert_eq!(at("etc/shadow"), (0o640, 0, 42));
    assert_eq!(at("etc/gshadow"), (0o640, 0, 42));
    assert_eq!(at("etc/passwd"), (0o644, 0, 0));
    assert_eq!(at("etc/web/run-as-root"), (0o755, 0, 0));
    assert_eq!(at("etc/web/persons"), (0o664, 0, 0));
    assert_eq!(at("etc/closed"), (0o700, 33, 33));
    assert_eq!(at("var/lib/web"), (0o750, 33, 33));
    assert_eq!(at("var/log/web"), (0o2755, 33, 33));
    assert_eq!(at("var/tmp"), (0o1777, 0, 0));
    assert_eq!(at("tmp"), (0o1777, 0, 0));
    assert_eq!(at("root"), (0o700, 0, 0));
    // Set-uid programs lie in there.
    assert_eq!(mode(&dir.path().join("images")).0, 0o700);
    Ok(())
}

/// Every entry of a snapshot that the host has too must be one that everybody can read there.
fn check_against(root: &Path, image: &HostImage) -> BTreeMap<PathBuf, Vec<u8>> {
    // Made, not copied.
    let generated =
        ["passwd", "group", "shadow", "gshadow", "subuid", "subgid", "mtab", "sudoers", "profile.d/tenantd.sh"];
    let generated: BTreeSet<PathBuf> = generated.iter().map(|name| Path::new("etc").join(name)).collect();
    let tree = fake::tree(&image.root);
    for (path, what) in &tree {
        assert_ne!(what, b"special", "{path:?} is a socket, pipe or device");
        if what == b"dir" || generated.contains(path) {
            continue;
        }
        assert!(path.starts_with("etc") || what.starts_with(b"-> "), "{path:?} is a file outside of /etc");
        let there = fs::symlink_metadata(root.join(path)).unwrap();
        assert!(there.is_symlink() || there.mode() & 0o004 != 0, "{path:?} is not world-readable");
        for parent in path.ancestors().skip(1) {
            let mode = fs::metadata(root.join(parent)).unwrap().mode();
            assert!(mode & 0o005 == 0o005, "{path:?} is in {parent:?}, which is closed");
        }
        if what.starts_with(b"-> ") && there.is_symlink() {
            let end = path.parent().unwrap().join(fs::read_link(root.join(path)).unwrap());
            let end = root.join(end.strip_prefix("/").unwrap_or(&end));
            if let Ok(end) = fs::metadata(end) {
                assert!(end.mode() & 0o004 != 0, "{path:?} leads to what is not world-readable");
            }
        }
    }
    tree
}

fn no_secret() -> Result<(), String> {
    let (_dir, root, image) = made_up();
    let tree = check_against(&root, &image);
    for (path, text) in tree {
        assert!(!fake::contains(&text, SECRET), "{path:?} shows a secret");
        assert!(!path.to_string_lossy().contains("key"), "{path:?}");
    }
    for (copy, _) in &image.set_id {
        assert!(!fake::contains(&fs::read(copy).unwrap(), SECRET), "{copy:?} shows a secret");
    }
    // What was left of them all: closed directories, without anything in them.
    for closed in ["etc/closed", "etc/passable", "etc/listable", "etc/network", "var/lib/web", "var/lib/tenantd"] {
        assert_eq!(fs::read_dir(image.root.join(closed)).unwrap().count(), 0, "{closed}");
    }
    Ok(())
}

fn says_what_it_leaves_out() -> Result<(), String> {
    let (_dir, _, image) = made_up();
    let reason = |path: &str| image.left_out.iter().find(|left| left.path == Path::new(path)).map(|left| left.reason);
    for path in ["key0600", "key0640", "key0604", "key0000", "second-name"] {
        assert_eq!(reason(&format!("/etc/web/{path}")), Some(Reason::NotWorldReadable), "{path}");
    }
    for path in ["/etc/closed", "/etc/passable", "/etc/listable", "/usr/bin/sudo"] {
        assert_eq!(reason(path), Some(Reason::NotWorldReadable), "{path}");
    }
    for path in ["to-key", "to-link", "into-closed", "to-closed", "to-home", "to-shadow"] {
        assert_eq!(reason(&format!("/etc/web/link-{path}")), Some(Reason::LinkToUnreadable), "{path}");
    }
    for path in ["socket", "pipe", "device"] {
        assert_eq!(reason(&format!("/etc/web/{path}")), Some(Reason::Special), "{path}");
    }
    for path in ["/etc/machine-id", "/etc/ssh/ssh_host_ed25519_key.pub", "/etc/network", "/var/lib/tenantd"] {
        assert_eq!(reason(path), Some(Reason::HostsOwn), "{path}");
    }
    assert_eq!(reason("/etc/web/web.conf"), None);
    Ok(())
}

fn programs() -> Result<(), String> {
    let (_dir, _, image) = made_up();
    let targets: Vec<_> = image.set_id.iter().map(|(_, target)| target.to_str().unwrap()).collect();
    assert_eq!(targets, ["/usr/bin/ping", "/usr/bin/su", "/usr/sbin/unix_chkpwd"]);
    let copy = |name: &str| image.set_id.iter().find(|(_, target)| target.ends_with(name)).unwrap().0.clone();
    assert_eq!(mode(&copy("su")), (0o4755, 0, 0));
    assert_eq!(fs::read(copy("su")).unwrap(), b"su\n");
    assert_eq!(mode(&copy("unix_chkpwd")), (0o2755, 0, 42));
    assert_eq!(mode(&copy("ping")), (0o755, 0, 0));
    assert!(!fake::has_capability(&copy("ping")));
    Ok(())
}

fn mounts() -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("host");
    fake::host(&root);
    let state = dir.path().to_owned();
    // A thread can have mounts of its own; they go with it.
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        fs::create_dir(root.join("etc/mounted")).unwrap();
        mount(Some("none"), &root.join("etc/mounted"), Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        fake::write(&root, "etc/mounted/file", 0o644, SECRET);
        let over = fake::write(&root, "etc/web/over", 0o644, "below\n");
        let secret = fake::write(&root, "elsewhere", 0o644, SECRET);
        mount(Some(&secret), &over, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        let image = ImageStore::open_with_host(&state, &root).unwrap().host().unwrap();
        assert_eq!(fs::read_dir(image.root.join("etc/mounted")).unwrap().count(), 0);
        assert!(!image.root.join("etc/web/over").exists());
        for path in ["/etc/mounted", "/etc/web/over"] {
            assert!(image.left_out.iter().any(|left| left.path == Path::new(path) && left.reason == Reason::Mount));
        }
    })
    .join()
    .unwrap();
    Ok(())
}

fn versions() -> Result<(), String> {
    let (dir, root, first) = made_up();
    let open = || ImageStore::open_with_host(dir.path(), &root).unwrap();
    let store = open();
    assert_eq!(store.host().unwrap(), first);
    let changes: [(&str, &dyn Fn()); 4] = [
        ("text of the same length", &|| drop(fake::write(&root, "etc/web/web.conf", 0o644, "listen 81;\n"))),
        ("mode", &|| fs::set_permissions(root.join("etc/web/web.conf"), Permissions::from_mode(0o600)).unwrap()),
        ("new name", &|| fs::hard_link(root.join("etc/web/dangling"), root.join("etc/web/again")).unwrap()),
        ("program", &|| drop(fake::write(&root, "usr/bin/su", 0o4755, "SU\n"))),
    ];
    let mut last = first.version;
    for (what, change) in changes {
        change();
        // What was handed out stays until the daemon looks again.
        assert_eq!(store.host().unwrap().version, last, "{what}");
        let next = store.refresh_host().unwrap();
        assert_eq!(next.version, last + 1, "{what}");
        assert_eq!(open().host().unwrap(), next, "{what}");
        last = next.version;
    }
    // What is left out anyway changes nothing.
    fake::write(&root, "etc/machine-id", 0o644, "another\n");
    assert_eq!(store.refresh_host().unwrap().version, last);

    assert_eq!(fs::read(first.root.join("etc/web/web.conf")).unwrap(), b"listen 80;\n");
    store.sweep_host(&BTreeSet::from([first.version])).unwrap();
    assert_eq!(store.host_version(first.version).unwrap(), first);
    assert!(matches!(store.host_version(first.version + 1), Err(HostError::Version { .. })));
    assert!(store.host().unwrap().root.exists());
    store.sweep_host(&BTreeSet::new()).unwrap();
    assert!(!first.root.exists());
    Ok(())
}

fn damaged() -> Result<(), String> {
    let (dir, root, first) = made_up();
    // As a power cut leaves it.
    fs::write(first.root.join("etc/web/web.conf"), "").unwrap();
    let next = ImageStore::open_with_host(dir.path(), &root).unwrap().host().unwrap();
    assert_eq!(next.version, first.version + 1);
    assert_eq!(fs::read(next.root.join("etc/web/web.conf")).unwrap(), b"listen 80;\n");
    Ok(())
}

fn not_merged() -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("host");
    fake::host(&root);
    fs::remove_file(root.join("sbin")).unwrap();
    fs::create_dir(root.join("sbin")).unwrap();
    let refused = ImageStore::open_with_host(dir.path(), &root).unwrap().host();
    assert!(matches!(refused, Err(HostError::Survey(SurveyError::NotMerged("sbin")))), "{refused:?}");
    assert_eq!(fs::read_dir(dir.path().join("images/host")).unwrap().count(), 0);
    Ok(())
}

fn this_machine() -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let image = ImageStore::open(dir.path()).unwrap().host().unwrap();
    let made = started.elapsed();
    let started = Instant::now();
    let again = ImageStore::open(dir.path()).unwrap().host().unwrap();
    let found = started.elapsed();
    assert_eq!(again, image);
    let tree = check_against(Path::new("/"), &image);
    println!("snapshot of this machine: {} entries, made in {made:?}, found again in {found:?}", tree.len());
    assert!(made.as_millis() < 1000, "{made:?}");
    assert!(tree.contains_key(Path::new("etc/passwd")) && tree.contains_key(Path::new("var/lib")));

    // The text of a secret may not be there under another name either, unless the host shows it somewhere itself.
    let (mut secrets, mut public) = (BTreeSet::new(), BTreeSet::new());
    for top in ["/etc", "/root/.ssh"] {
        if !Path::new(top).exists() {
            continue;
        }
        for (path, text) in fake::tree(Path::new(top)) {
            let metadata = fs::symlink_metadata(Path::new(top).join(path)).unwrap();
            if metadata.is_file() && text.len() > 8 {
                if metadata.mode() & 0o004 == 0 {
                    secrets.insert(text)
                } else {
                    public.insert(text)
                };
            }
        }
    }
    assert!(!secrets.is_empty(), "a machine without any secret shows nothing");
    for (path, text) in &tree {
        assert!(!secrets.contains(text) || public.contains(text), "{path:?} is a secret of this machine");
    }
    Ok(())
}
