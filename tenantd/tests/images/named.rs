//! Images with names: tarballs from anywhere, a distribution's archive, and what a killed maker leaves.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tar::{Builder, EntryType, Header};
use tenantd::images::{
    BuildError, Debootstrap, GetError, ImageKind, ImageStore, ImportError, Progress, RemoveError, Signatures,
};

use crate::Test;
use crate::fake::{self, SECRET};

pub(crate) const TESTS: &[Test] = &[
    ("import_keeps_owners_modes_links_and_capabilities", keeps),
    ("import_reads_every_compression", compressions),
    ("import_of_hostile_tarballs_stays_inside", hostile),
    ("import_of_what_is_no_root_file_system_leaves_nothing", no_root),
    ("image_names_are_checked_and_used_images_stay", names),
    ("image_that_is_broken_is_a_clear_error", broken),
    ("image_of_a_killed_import_is_swept_and_of_a_living_one_not", killed_import),
    ("image_build_refuses_bad_values", bad_values),
    ("image_build_that_fails_leaves_nothing_and_says_why", failed_build),
    ("image_of_debootstrap_is_whole_and_a_killed_build_leaves_nothing", debootstrap),
];

/// Says to this program, started again, to import `tarball` into the store of `dir` and to build one.
pub(crate) const CHILD: &str = "IMAGES_TEST_CHILD";

/// The other half of the tests with a kill: runs until it is killed.
pub(crate) fn child(what: &str) {
    let (kind, rest) = what.split_once(' ').unwrap();
    let (dir, source) = rest.split_once(' ').unwrap();
    let store = ImageStore::open(Path::new(dir)).unwrap();
    match kind {
        "import" => drop(store.import("large", Path::new(source), &mut |_| ())),
        _ => drop(store.build_debootstrap("killed", &debian(source), &mut |_| ())),
    }
}

fn start_child(what: &str) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap()).env(CHILD, what).stderr(Stdio::null()).spawn().unwrap()
}

fn store() -> (tempfile::TempDir, ImageStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).unwrap();
    (dir, store)
}

fn images(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir.join("images")).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// An entry whose names are not looked at by the library.
fn entry(builder: &mut Builder<Vec<u8>>, kind: EntryType, name: &str, link: &str, text: &str) {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    header.set_size(text.len() as u64);
    if matches!(kind, EntryType::Char | EntryType::Block) {
        header.set_device_major(1).unwrap();
        header.set_device_minor(3).unwrap();
    }
    header.set_cksum();
    builder.append(&header, text.as_bytes()).unwrap();
}

/// A tarball that is an image, with more entries in it.
fn tarball(more: &[(EntryType, &str, &str, &str)]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for name in ["./", "etc/", "usr/", "usr/bin/"] {
        entry(&mut builder, EntryType::Directory, name, "", "");
    }
    for (kind, name, link, text) in more {
        entry(&mut builder, *kind, name, link, text);
    }
    builder.into_inner().unwrap()
}

fn write(dir: &Path, bytes: &[u8]) -> PathBuf {
    let path = dir.join("image.tar");
    fs::write(&path, bytes).unwrap();
    path
}

fn keeps() -> Result<(), String> {
    let (dir, store) = store();
    let root = dir.path().join("root");
    fake::host(&root);
    fs::set_permissions(root.join("etc/closed"), std::os::unix::fs::PermissionsExt::from_mode(0o2710)).unwrap();
    fs::hard_link(root.join("usr/bin/su"), root.join("usr/bin/su2")).unwrap();
    let path = dir.path().join("image.tar");
    let options = ["--xattrs", "--xattrs-include=security.capability", "--numeric-owner", "-C"];
    let packed = Command::new("tar").args(options).arg(&root).arg("-cf").arg(&path).arg(".").output();
    if !packed.is_ok_and(|output| output.status.success()) {
        return Err("no tar program that keeps extended attributes".to_owned());
    }
    let mut left_out = Vec::new();
    let manifest = store.import("debian", &path, &mut |progress| left_out.push(progress)).unwrap();
    assert_eq!((manifest.kind, manifest.name.as_str()), (ImageKind::Tarball, "debian"));
    let image = store.get("debian").unwrap();
    let (mut theirs, ours) = (fake::tree(&root), fake::tree(&image.root));
    theirs.retain(|_, what| what != b"special");
    for (path, what) in &theirs {
        assert_eq!(ours.get(path), Some(what), "{path:?}");
        let facts = |root: &Path| {
            let metadata = fs::symlink_metadata(root.join(path)).unwrap();
            (metadata.mode(), metadata.uid(), metadata.gid(), if metadata.is_file() { metadata.mtime() } else { 0 })
        };
        assert_eq!(facts(&root), facts(&image.root), "{path:?}");
    }
    assert_eq!(ours.values().filter(|what| *what == b"special").count(), 0);
    assert!(
        left_out.contains(&Progress::Line("left out: ./etc/web/pipe (a device or pipe)".to_owned())),
        "{left_out:?}"
    );
    assert!(fake::has_capability(&image.root.join("usr/bin/ping")));
    let inode = |name: &str| fs::metadata(image.root.join("usr/bin").join(name)).unwrap().ino();
    assert_eq!(inode("su"), inode("su2"));
    assert_eq!(image.manifest.entries, ours.len() as u64);
    // Mount points were made.
    assert!(image.root.join("proc").is_dir() && image.root.join("tmp").is_dir());
    Ok(())
}

fn compressions() -> Result<(), String> {
    let (dir, store) = store();
    let plain = write(dir.path(), &tarball(&[(EntryType::Regular, "etc/file", "", "text")]));
    let mut done = vec!["plain"];
    store.import("plain", &plain, &mut |_| ()).unwrap();
    for program in ["gzip", "xz", "zstd", "bzip2"] {
        let packed = Command::new(program).arg("-c").stdin(fs::File::open(&plain).unwrap()).output();
        let Ok(packed) = packed else { continue };
        // The name says nothing; the first bytes do.
        let path = write(dir.path(), &packed.stdout);
        store.import(program, &path, &mut |_| ()).unwrap();
        assert_eq!(fs::read(store.get(program).unwrap().root.join("etc/file")).unwrap(), b"text");
        done.push(program);
        // Half of it.
        let half = write(dir.path(), &packed.stdout[..packed.stdout.len() / 2]);
        let refused = store.import("half", &half, &mut |_| ());
        assert!(refused.is_err(), "{program}: {refused:?}");
        fs::write(&plain, tarball(&[(EntryType::Regular, "etc/file", "", "text")])).unwrap();
    }
    assert!(done.len() >= 2, "{done:?}");
    done.push("host");
    done.sort_unstable();
    assert_eq!(images(dir.path()), done);
    Ok(())
}

fn hostile() -> Result<(), String> {
    use EntryType::{Block, Char, Directory, Fifo, Link, Regular, Symlink};
    let (dir, store) = store();
    let outside = dir.path().join("outside");
    fs::write(&outside, SECRET).unwrap();
    let there = outside.to_str().unwrap();
    let up = format!("../../../../../../../../../..{there}");
    // Either refused, or harmless: never written to, read or linked outside.
    let attacks: &[&[(EntryType, &str, &str, &str)]] = &[
        &[(Regular, "../../outside", "", "evil")],
        &[(Regular, "etc/../../../outside", "", "evil")],
        &[(Regular, there, "", "evil")],
        &[(Symlink, "out", "/", ""), (Regular, &format!("out{there}"), "", "evil")],
        &[(Symlink, "out", &up, ""), (Regular, "out", "", "evil")],
        &[(Symlink, "out", "../..", ""), (Regular, "out/outside", "", "evil")],
        &[(Symlink, "a", ".", ""), (Symlink, "a/b", "../../..", ""), (Regular, "a/b/outside", "", "evil")],
        &[(Link, "stolen", there, "")],
        &[(Link, "stolen", &up, "")],
        &[(Symlink, "out", there, ""), (Link, "stolen", "out", "")],
        &[(Symlink, "out", dir.path().to_str().unwrap(), ""), (Link, "stolen", "out/outside", "")],
        &[(Symlink, "self", "/proc/self/cwd", ""), (Regular, "self/outside", "", "evil")],
        &[(Symlink, "loop", "loop", ""), (Regular, "loop/file", "", "evil")],
        &[(Char, "dev/null", "", ""), (Block, "dev/disk", "", ""), (Fifo, "etc/pipe", "", "")],
        &[(Link, "etc2", "etc", "")],
        &[(Regular, "etc", "", "no directory any more")],
        &[(Symlink, "usr", "/usr", "")],
        &[(Directory, "proc", "", ""), (Symlink, "tmp", "/tmp", "")],
        &[(Symlink, "etc/passwd", there, ""), (Regular, "etc/passwd", "", "root")],
    ];
    for (number, attack) in attacks.iter().enumerate() {
        let path = write(dir.path(), &tarball(attack));
        let name = format!("image{number}");
        let result = store.import(&name, &path, &mut |_| ());
        assert_eq!(fs::read_to_string(&outside).unwrap(), SECRET, "{attack:?}");
        assert_eq!(fs::metadata(&outside).unwrap().nlink(), 1, "{attack:?}");
        if result.is_err() {
            assert!(!images(dir.path()).contains(&name), "{attack:?}");
            continue;
        }
        for (path, what) in fake::tree(&store.get(&name).unwrap().root) {
            assert_ne!(what, b"special", "{attack:?}: {path:?}");
            assert!(!fake::contains(&what, SECRET), "{attack:?}: {path:?}");
        }
    }
    assert!(images(dir.path()).iter().all(|name| !name.starts_with('.')));
    let refused = |more: &[(EntryType, &str, &str, &str)]| {
        store.import("refused", &write(dir.path(), &tarball(more)), &mut |_| ()).unwrap_err()
    };
    assert!(matches!(refused(attacks[0]), ImportError::Refused { rule: "must not have .. in its path", .. }));
    // An owner no tenant has.
    let mut bytes = tarball(&[]);
    bytes.truncate(bytes.len() - 1024);
    let mut builder = Builder::new(bytes);
    let mut header = Header::new_ustar();
    header.set_entry_type(Regular);
    header.set_path("etc/file").unwrap();
    header.set_uid(65_536);
    header.set_gid(0);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_size(0);
    header.set_cksum();
    builder.append(&header, &b""[..]).unwrap();
    let path = write(dir.path(), &builder.into_inner().unwrap());
    let error = store.import("refused", &path, &mut |_| ()).unwrap_err();
    assert!(matches!(error, ImportError::Refused { ref entry, .. } if entry == "etc/file"), "{error}");
    Ok(())
}

fn no_root() -> Result<(), String> {
    let (dir, store) = store();
    for (bytes, expected) in [
        (Vec::new(), "no root file system"),
        (b"this is not a tarball, but long enough to be read as one".repeat(20), "cannot read the tarball"),
    ] {
        let error = store.import("image", &write(dir.path(), &bytes), &mut |_| ()).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
    assert!(matches!(store.import("image", dir.path(), &mut |_| ()), Err(ImportError::Read { .. })));
    assert!(matches!(store.import("image", Path::new("/nowhere"), &mut |_| ()), Err(ImportError::Read { .. })));
    assert_eq!(images(dir.path()), ["host"]);
    Ok(())
}

fn names() -> Result<(), String> {
    let (dir, store) = store();
    let path = write(dir.path(), &tarball(&[]));
    for name in ["", "host", "..", "a/b", "Upper", ".building-1", "-x"] {
        let Err(ImportError::Name(invalid)) = store.import(name, &path, &mut |_| ()) else { panic!("{name}") };
        assert_eq!((invalid.field.as_ref(), invalid.value.as_str()), ("image", name));
        assert!(matches!(store.remove(name, &[]), Err(RemoveError::Name(_))));
        assert!(matches!(store.get(name), Err(GetError::Name(_))));
    }
    store.import("one", &path, &mut |_| ()).unwrap();
    let Err(ImportError::Name(taken)) = store.import("one", &path, &mut |_| ()) else { panic!("twice") };
    assert!(taken.to_string().contains("there already"), "{taken}");
    let Err(GetError::Name(unknown)) = store.get("two") else { panic!("unknown") };
    assert_eq!(unknown.to_string(), "image: \"two\" refused: must be one of host, one");
    let used = store.remove("one", &["acme".to_owned(), "beta".to_owned()]).unwrap_err();
    assert_eq!(used.to_string(), "image one is used by acme, beta");
    assert_eq!(store.list().unwrap().len(), 1);
    store.remove("one", &[]).unwrap();
    assert_eq!(images(dir.path()), ["host"]);
    Ok(())
}

fn broken() -> Result<(), String> {
    let (dir, store) = store();
    let path = write(dir.path(), &tarball(&[]));
    for name in ["one", "two"] {
        store.import(name, &path, &mut |_| ()).unwrap();
    }
    fs::write(dir.path().join("images/one/manifest.json"), "{").unwrap();
    let error = store.get("one").unwrap_err();
    assert_eq!(error.to_string(), "image one cannot be used");
    assert!(matches!(error, GetError::Broken { .. }));
    fs::remove_dir_all(dir.path().join("images/two/tree/usr")).unwrap();
    assert!(matches!(store.get("two"), Err(GetError::Broken { .. })));
    let listed: Vec<_> = store.list().unwrap().into_iter().map(|l| (l.name, l.manifest.is_ok())).collect();
    assert_eq!(listed, [("one".to_owned(), false), ("two".to_owned(), true)]);
    store.remove("one", &[]).unwrap();
    Ok(())
}

fn wait_for(what: &str, seconds: u64, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(seconds);
    while !done() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn killed_import() -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    // Zeros take no space when packed, and a while to write.
    let packed = dir.path().join("large.tar.gz");
    let mut gzip = Command::new("gzip");
    gzip.arg("-1").stdin(Stdio::piped()).stdout(fs::File::create(&packed).unwrap());
    let gzip = gzip.spawn();
    let Ok(mut gzip) = gzip else { return Err("no gzip".to_owned()) };
    let mut builder = Builder::new(gzip.stdin.take().unwrap());
    let mut header = Header::new_ustar();
    header.set_path("etc/large").unwrap();
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_mode(0o644);
    header.set_size(400 << 20);
    header.set_cksum();
    builder.append(&header, std::io::repeat(0).take(400 << 20)).unwrap();
    builder.into_inner().unwrap().flush().unwrap();
    gzip.wait().unwrap();

    let what = format!("import {} {}", dir.path().display(), packed.display());
    let mut maker = start_child(&what);
    let at_work = || images_of(dir.path()).iter().any(|name| name.starts_with(".building-"));
    wait_for("the import does not begin", 20, at_work);
    // It lives, and stays at it however long this thread is held up.
    let pid = nix::unistd::Pid::from_raw(maker.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    // An open beside it leaves it alone.
    ImageStore::open(dir.path()).unwrap();
    assert!(at_work(), "the work of a living maker was swept");
    maker.kill().unwrap();
    maker.wait().unwrap();
    assert!(at_work(), "it ended before it was killed");
    let store = ImageStore::open(dir.path()).unwrap();
    assert_eq!(images(dir.path()), ["host"]);
    assert!(matches!(store.get("large"), Err(GetError::Name(_))));
    Ok(())
}

fn images_of(dir: &Path) -> Vec<String> {
    if dir.join("images").exists() { images(dir) } else { Vec::new() }
}

/// The smallest Debian.
fn debian(mirror: &str) -> Debootstrap {
    Debootstrap {
        suite: "bookworm".to_owned(),
        mirror: mirror.to_owned(),
        minbase: true,
        include: Vec::new(),
        signatures: Signatures::Distribution,
        deadline: Duration::from_secs(400),
    }
}

fn bad_values() -> Result<(), String> {
    let (dir, store) = store();
    let good = debian("http://192.0.2.1/debian");
    let cases = [
        ("suite", Debootstrap { suite: "--help".to_owned(), ..good.clone() }),
        ("suite", Debootstrap { suite: "../x".to_owned(), ..good.clone() }),
        ("mirror", Debootstrap { mirror: "/etc".to_owned(), ..good.clone() }),
        ("mirror", Debootstrap { mirror: "http://a b".to_owned(), ..good.clone() }),
        ("include", Debootstrap { include: vec!["nginx".to_owned(), "--x".to_owned()], ..good.clone() }),
        ("include", Debootstrap { include: vec!["a,b".to_owned()], ..good.clone() }),
        ("keyring", Debootstrap { signatures: Signatures::Keyring("/nowhere".into()), ..good }),
    ];
    for (field, what) in cases {
        let Err(BuildError::Invalid(invalid)) = store.build_debootstrap("x", &what, &mut |_| ()) else {
            panic!("{field}")
        };
        assert_eq!(invalid.field, field);
    }
    assert_eq!(images(dir.path()), ["host"]);
    Ok(())
}

fn has_debootstrap() -> Result<(), String> {
    if Path::new("/usr/sbin/debootstrap").exists() { Ok(()) } else { Err("debootstrap is not installed".to_owned()) }
}

fn failed_build() -> Result<(), String> {
    has_debootstrap()?;
    let (dir, store) = store();
    let empty = dir.path().join("archive");
    fs::create_dir(&empty).unwrap();
    let what = Debootstrap { signatures: Signatures::Unchecked, ..debian(&format!("file://{}", empty.display())) };
    let error = store.build_debootstrap("debian", &what, &mut |_| ()).unwrap_err();
    let BuildError::Failed { lines, .. } = &error else { panic!("{error:?}") };
    assert!(lines.iter().any(|line| line.contains("E: ")), "{lines:?}");
    assert_eq!(images(dir.path()), ["host"]);
    Ok(())
}

/// The mirror of this machine, when it answers.
fn mirror() -> Result<String, String> {
    let mut text = fs::read_to_string("/etc/apt/sources.list").unwrap_or_default();
    for entry in fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten() {
        text += &fs::read_to_string(entry.path()).unwrap_or_default();
    }
    let words = text.split_whitespace().filter(|word| word.starts_with("http://") && word.ends_with("/debian"));
    for mirror in words {
        let host = mirror.trim_start_matches("http://").split('/').next().unwrap_or_default();
        let host = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
        let Some(address) = host.to_socket_addrs().ok().and_then(|mut found| found.next()) else { continue };
        if TcpStream::connect_timeout(&address, Duration::from_secs(5)).is_ok() {
            return Ok(mirror.to_owned());
        }
    }
    Err("no Debian mirror of this machine's apt answers over http".to_owned())
}

/// Processes that have `text` in their command line.
fn processes_with(text: &str) -> usize {
    let found = fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
        let ours = entry.file_name() == *std::process::id().to_string();
        !ours && fs::read(entry.path().join("cmdline")).is_ok_and(|line| fake::contains(&line, text))
    });
    found.count()
}

fn debootstrap() -> Result<(), String> {
    has_debootstrap()?;
    let mirror = mirror()?;
    let (dir, _) = store();
    let path = dir.path().to_str().unwrap().to_owned();
    let mut maker = start_child(&format!("build {path} {mirror}"));
    let building = || {
        let name = images(dir.path()).into_iter().find(|name| name.starts_with(".building-"))?;
        Some(dir.path().join("images").join(name).join("tree/debootstrap"))
    };
    wait_for("debootstrap does not begin", 60, || building().is_some_and(|path| path.exists()));
    maker.kill().unwrap();
    maker.wait().unwrap();
    wait_for("a process of the killed build lives on", 10, || processes_with(&format!("{path}/images")) == 0);
    let store = ImageStore::open(dir.path()).unwrap();
    assert_eq!(images(dir.path()), ["host"]);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&path), "{mounts}");

    let started = Instant::now();
    let mut lines = 0;
    let built = store.build_debootstrap("debian", &debian(&mirror), &mut |_| lines += 1);
    let manifest = match built {
        // Somebody else's network is no fault of ours.
        Err(BuildError::Deadline(time)) => return Err(format!("the mirror did not give everything within {time:?}")),
        other => other.unwrap(),
    };
    println!("debootstrap: {} entries, {} MB in {:?}", manifest.entries, manifest.bytes / 1_000_000, started.elapsed());
    assert!(lines > 100 && manifest.entries > 3_000);
    let image = store.get("debian").unwrap();
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), mounts);
    for absent in ["etc/hostname", "etc/resolv.conf", "etc/machine-id", "debootstrap"] {
        assert!(!image.root.join(absent).exists(), "{absent}");
    }
    for (path, what) in fake::tree(&image.root) {
        assert_ne!(what, b"special", "{path:?}");
    }
    assert!(fs::read_dir(image.root.join("proc")).unwrap().next().is_none());
    assert!(image.root.join("usr/bin/apt-get").exists() && image.root.join("etc/apt/sources.list").exists());
    store.remove("debian", &[]).unwrap();
    assert_eq!(images(dir.path()), ["host"]);
    Ok(())
}
