//! Private layers: a limit holds for the tenant and harms nobody else, and no kill loses what was written.

use std::ffi::CString;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use stackmap::GidRange;
use tenantd::layer::{Effect, Kind, Layer, LayerError, MIN_LIMIT, Prepared, check_limit};

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("layer_without_a_limit_is_a_directory", plain),
    ("layer_image_is_full_at_its_size_and_the_disk_is_not", full),
    ("layer_image_runs_out_of_inodes_alone", inodes),
    ("layer_is_the_upper_directory_of_an_overlay", overlay),
    ("layer_moves_into_an_image_and_back_with_everything", moves),
    ("layer_that_does_not_fit_stays_where_it_is", does_not_fit),
    ("layer_survives_a_kill_between_any_two_steps", killed),
    ("layer_grows_and_does_not_shrink", grows),
    ("layer_is_mounted_once_however_often", once),
    ("layer_with_a_broken_image_is_a_clear_error", broken),
    ("layer_with_a_project_quota", quota),
];

const MIB: u64 = 1 << 20;

fn ids() -> GidRange {
    "524288".parse().unwrap()
}

/// A tenant's directory, and its layer.
fn tenant() -> (tempfile::TempDir, Layer) {
    let dir = tempfile::Builder::new().prefix("layer-").tempdir().unwrap();
    let layer = Layer::new(dir.path(), ids());
    (dir, layer)
}

/// The upper directory as it can be reached while `prepared` lives.
fn upper(prepared: &Prepared) -> PathBuf {
    match &prepared.mount {
        Some(mount) => PathBuf::from(format!("/proc/self/fd/{}/upper", mount.mount.as_raw_fd())),
        None => prepared.upper.clone(),
    }
}

/// The kernel lets go of a device a moment after its last user.
fn wait_detached(dir: &Path) {
    let until = Instant::now() + Duration::from_secs(30);
    while is_attached(dir) {
        assert!(Instant::now() < until, "the loop device is still there");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn is_attached(dir: &Path) -> bool {
    let backing = fs::read_dir("/sys/block")
        .unwrap()
        .filter_map(|entry| fs::read_to_string(entry.unwrap().path().join("loop/backing_file")).ok());
    backing.into_iter().any(|path| Path::new(path.trim_end()).starts_with(dir))
}

/// Whether this machine has loop devices at all.
fn loops() -> Result<(), String> {
    if Path::new("/dev/loop-control").exists() { Ok(()) } else { Err("no loop devices here".to_owned()) }
}

fn plain() -> Result<(), String> {
    let (dir, layer) = tenant();
    let prepared = layer.prepare(None).unwrap();
    assert_eq!((prepared.kind, prepared.mount.is_none()), (Kind::Directory, true));
    assert_eq!(prepared.upper, dir.path().join("layer/upper"));
    let owner = |path: &Path| {
        let metadata = fs::metadata(path).unwrap();
        (metadata.mode() & 0o7777, metadata.uid(), metadata.gid())
    };
    assert_eq!(owner(&prepared.upper), (0o755, 524_288, 524_288));
    assert_eq!(owner(&prepared.work), (0o700, 524_288, 524_288));
    assert_eq!(owner(&dir.path().join("layer")), (0o700, 0, 0));
    fs::create_dir(prepared.upper.join("d")).unwrap();
    fs::write(prepared.upper.join("d/a"), vec![1; 100_000]).unwrap();
    fs::hard_link(prepared.upper.join("d/a"), prepared.upper.join("b")).unwrap();
    symlink("/etc", prepared.upper.join("etc")).unwrap();
    // A tenant may change the mode of its root.
    fs::set_permissions(&prepared.upper, Permissions::from_mode(0o711)).unwrap();
    let figures = layer.figures().unwrap();
    assert_eq!((figures.inodes, figures.bytes_limit, figures.inodes_limit), (3, None, None));
    assert!((100_000..200_000).contains(&figures.bytes), "{figures:?}");
    let again = layer.prepare(None).unwrap();
    assert_eq!(owner(&again.upper).0, 0o711);
    assert_eq!(fs::metadata(again.upper.join("b")).unwrap().len(), 100_000);
    layer.remove().unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    layer.remove().unwrap();
    Ok(())
}

/// Writes until the disk says no.
fn fill(path: &Path) -> (u64, io::Error) {
    let mut file = File::create(path).unwrap();
    let block = vec![0xa5; 1 << 20];
    // More than any limit of these tests.
    for _ in 0..512 {
        if let Err(error) = file.write_all(&block).and_then(|()| file.sync_data()) {
            return (file.metadata().unwrap().len(), error);
        }
    }
    panic!("512 MiB went into {path:?}");
}

fn full() -> Result<(), String> {
    loops()?;
    let (dir, layer) = tenant();
    let started = Instant::now();
    let prepared = layer.prepare(Some(64 * MIB)).unwrap();
    let took = started.elapsed();
    assert_eq!(prepared.kind, Kind::Image);
    let image = dir.path().join("layer.img");
    let of_disk = fs::metadata(&image).unwrap().blocks() * 512;
    println!("an image of 64 MiB: made and mounted in {took:?}, {} KiB of the disk", of_disk / 1024);
    assert!(of_disk < 2 * MIB, "an empty layer takes {of_disk} bytes");
    let (written, error) = fill(&upper(&prepared).join("file"));
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert!((50 * MIB..64 * MIB).contains(&written), "{written}");
    let figures = layer.figures().unwrap();
    assert_eq!(figures.bytes_limit, Some(64 * MIB));
    assert!(figures.bytes > 63 * MIB && figures.bytes <= 64 * MIB, "{figures:?}");
    // The host has room, and the file is no larger than it may be.
    fs::write(dir.path().join("host"), vec![1; 1 << 20]).unwrap();
    assert!(fs::metadata(&image).unwrap().blocks() * 512 <= 64 * MIB + MIB);
    // What the tenant removes the host gets back.
    fs::remove_file(upper(&prepared).join("file")).unwrap();
    let mount = File::open(upper(&prepared)).unwrap();
    // SAFETY: plain system call on a live descriptor.
    assert_eq!(unsafe { libc::syncfs(mount.as_raw_fd()) }, 0);
    drop(mount);
    drop(prepared);
    wait_detached(dir.path());
    let after = fs::metadata(&image).unwrap().blocks() * 512;
    assert!(after < 8 * MIB, "{after} bytes are still taken");
    assert!(layer.figures().unwrap().bytes < 8 * MIB);
    layer.remove().unwrap();
    Ok(())
}

fn inodes() -> Result<(), String> {
    loops()?;
    let (dir, layer) = tenant();
    let prepared = layer.prepare(Some(MIN_LIMIT)).unwrap();
    let limit = layer.figures().unwrap().inodes_limit.unwrap();
    let before = nix::sys::statvfs::statvfs(dir.path()).unwrap().files_free();
    let mut made = 0;
    let error = loop {
        match File::create(upper(&prepared).join(made.to_string())) {
            Ok(_) => made += 1,
            Err(error) => break error,
        }
        assert!(made <= limit, "more files than inodes");
    };
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert!(made > limit - 20, "{made} of {limit}");
    let figures = layer.figures().unwrap();
    assert_eq!(figures.inodes, limit);
    // Others use this disk too, but not by the thousand.
    let taken = before.saturating_sub(nix::sys::statvfs::statvfs(dir.path()).unwrap().files_free());
    assert!(taken < limit / 2, "{taken} inodes of the host");
    Ok(())
}

/// Runs in mounts of its own, with `prepared` where it belongs, and an overlay over it.
fn with_overlay(prepared: Prepared, dir: &Path, work: impl FnOnce(&Path) + Send + 'static) {
    let (lower, merged) = (dir.join("lower"), dir.join("merged"));
    fs::create_dir_all(&lower).unwrap();
    fs::create_dir_all(&merged).unwrap();
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        if let Some(mount) = &prepared.mount {
            let at = CString::new(mount.at.to_str().unwrap()).unwrap();
            // SAFETY: two strings and a descriptor that live here. 4: the descriptor itself, not a path below it.
            let moved = unsafe {
                let from = mount.mount.as_raw_fd();
                libc::syscall(libc::SYS_move_mount, from, c"".as_ptr(), libc::AT_FDCWD, at.as_ptr(), 4)
            };
            assert_eq!(moved, 0, "move_mount: {}", io::Error::last_os_error());
        }
        let show = |path: &Path| path.display().to_string();
        let (lower, upper, work_dir) = (show(&lower), show(&prepared.upper), show(&prepared.work));
        let options = format!("lowerdir={lower},upperdir={upper},workdir={work_dir}");
        mount(Some("overlay"), &merged, Some("overlay"), MsFlags::empty(), Some(options.as_str())).unwrap();
        work(&merged);
    })
    .join()
    .unwrap();
}

fn overlay() -> Result<(), String> {
    loops()?;
    let (dir, layer) = tenant();
    fs::create_dir(dir.path().join("lower")).unwrap();
    fs::write(dir.path().join("lower/remove"), "below").unwrap();
    for limit in [None, Some(32 * MIB), None] {
        let prepared = layer.prepare(limit).unwrap();
        with_overlay(prepared, dir.path(), move |merged| {
            if limit.is_none() && merged.join("remove").exists() {
                fs::remove_file(merged.join("remove")).unwrap();
                fs::write(merged.join("mine"), "first").unwrap();
            }
            // The white-out and the file moved with the layer.
            assert!(!merged.join("remove").exists());
            assert_eq!(fs::read(merged.join("mine")).unwrap(), b"first");
        });
        wait_detached(dir.path());
    }
    assert!(!dir.path().join("layer.img").exists());
    Ok(())
}

/// Everything an upper directory can have in it.
fn furnish(upper: &Path) {
    fs::create_dir_all(upper.join("a/b")).unwrap();
    fs::write(upper.join("a/b/file"), vec![7; 300_000]).unwrap();
    chown(upper.join("a/b/file"), Some(524_321), Some(524_322)).unwrap();
    fs::set_permissions(upper.join("a/b/file"), Permissions::from_mode(0o4751)).unwrap();
    fs::hard_link(upper.join("a/b/file"), upper.join("a/linked")).unwrap();
    symlink("/etc/shadow", upper.join("a/link")).unwrap();
    mknod(&upper.join("white-out"), SFlag::S_IFCHR, Mode::empty(), makedev(0, 0)).unwrap();
    mknod(&upper.join("pipe"), SFlag::S_IFIFO, Mode::from_bits_truncate(0o640), 0).unwrap();
    crate::fake::capability(&upper.join("a/b/file"));
    let name = CString::new(upper.join("a").to_str().unwrap()).unwrap();
    // SAFETY: strings and a value of one byte.
    let set = unsafe { libc::setxattr(name.as_ptr(), c"trusted.overlay.opaque".as_ptr(), c"y".as_ptr().cast(), 1, 0) };
    assert_eq!(set, 0);
}

fn check_furniture(upper: &Path) {
    let file = fs::metadata(upper.join("a/b/file")).unwrap();
    assert_eq!((file.mode() & 0o7777, file.uid(), file.gid(), file.nlink()), (0o4751, 524_321, 524_322, 2));
    assert_eq!(fs::metadata(upper.join("a/linked")).unwrap().ino(), file.ino());
    assert_eq!(fs::read_link(upper.join("a/link")).unwrap(), Path::new("/etc/shadow"));
    let white_out = fs::symlink_metadata(upper.join("white-out")).unwrap();
    assert_eq!((white_out.mode() & libc::S_IFMT, white_out.rdev()), (libc::S_IFCHR, 0));
    assert_eq!(fs::symlink_metadata(upper.join("pipe")).unwrap().mode() & libc::S_IFMT, libc::S_IFIFO);
    assert!(crate::fake::has_capability(&upper.join("a/b/file")));
    let name = CString::new(upper.join("a").to_str().unwrap()).unwrap();
    let mut value = [0_u8; 4];
    // SAFETY: strings and a buffer with its length.
    let length = unsafe {
        libc::getxattr(name.as_ptr(), c"trusted.overlay.opaque".as_ptr(), value.as_mut_ptr().cast(), value.len())
    };
    assert_eq!((length, value[0]), (1, b'y'));
    let own = fs::metadata(upper).unwrap();
    assert_eq!((own.mode() & 0o7777, own.uid()), (0o750, 524_288));
}

fn moves() -> Result<(), String> {
    loops()?;
    let (dir, layer) = tenant();
    let prepared = layer.prepare(None).unwrap();
    furnish(&prepared.upper);
    fs::set_permissions(&prepared.upper, Permissions::from_mode(0o750)).unwrap();
    assert_eq!(layer.set_limit(Some(32 * MIB)).unwrap(), Effect::AtRestart);
    let prepared = layer.prepare(Some(32 * MIB)).unwrap();
    assert_eq!(prepared.kind, Kind::Image);
    check_furniture(&upper(&prepared));
    assert_eq!(fs::read_dir(dir.path().join("layer")).unwrap().count(), 0);
    drop(prepared);
    wait_detached(dir.path());
    assert_eq!(layer.set_limit(None).unwrap(), Effect::AtRestart);
    let prepared = layer.prepare(None).unwrap();
    assert_eq!(prepared.kind, Kind::Directory);
    check_furniture(&prepared.upper);
    wait_detached(dir.path());
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["layer"]);
    Ok(())
}

fn does_not_fit() -> Result<(), String> {
    loops()?;
    let (dir, layer) = tenant();
    let prepared = layer.prepare(None).unwrap();
    furnish(&prepared.upper);
    fs::set_permissions(&prepared.upper, Permissions::from_mode(0o750)).unwrap();
    fs::write(prepared.upper.join("large"), vec![1; 20 << 20]).unwrap();
    let refused = layer.prepare(Some(MIN_LIMIT));
    assert!(matches!(refused, Err(LayerError::Move { .. })), "{refused:?}");
    assert!(format!("{:?}", refused.unwrap_err()).contains("No space left"));
    check_furniture(&prepared.upper);
    wait_detached(dir.path());
    assert!(!dir.path().join("layer.img.new").exists() && !dir.path().join("layer.img").exists());
    assert_eq!(layer.prepare(None).unwrap().kind, Kind::Directory);
    Ok(())
}

fn killed() -> Result<(), String> {
    loops()?;
    // After each step of a move into an image, and back, as a kill would leave it.
    let (dir, layer) = tenant();
    let at = |name: &str| dir.path().join(name);
    let prepared = layer.prepare(None).unwrap();
    fs::write(prepared.upper.join("file"), "kept").unwrap();
    // Half an image.
    fs::write(at("layer.img.new"), vec![0; 4096]).unwrap();
    assert_eq!(fs::read(upper(&layer.prepare(None).unwrap()).join("file")).unwrap(), b"kept");
    assert!(!at("layer.img.new").exists());
    // The image has its name, the directory is not removed yet.
    drop(layer.prepare(Some(32 * MIB)).unwrap());
    wait_detached(dir.path());
    fs::create_dir(at("layer/upper")).unwrap();
    fs::write(at("layer/upper/file"), "old").unwrap();
    let prepared = layer.prepare(Some(32 * MIB)).unwrap();
    assert_eq!(fs::read(upper(&prepared).join("file")).unwrap(), b"kept");
    assert!(!at("layer/upper").exists());
    drop(prepared);
    wait_detached(dir.path());
    // Half a directory; then a whole one with its name, and the image still there.
    fs::create_dir_all(at("layer.new/upper")).unwrap();
    fs::write(at("layer.new/upper/file"), "ha").unwrap();
    fs::create_dir_all(at("layer/upper")).unwrap();
    fs::write(at("layer/upper/file"), "also whole, but the image counts").unwrap();
    let prepared = layer.prepare(None).unwrap();
    assert_eq!(fs::read(prepared.upper.join("file")).unwrap(), b"kept");
    wait_detached(dir.path());
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["layer"]);
    Ok(())
}

fn grows() -> Result<(), String> {
    loops()?;
    let (dir, layer) = tenant();
    let prepared = layer.prepare(Some(32 * MIB)).unwrap();
    fs::write(upper(&prepared).join("file"), "kept").unwrap();
    for result in [layer.set_limit(Some(31 * MIB)).map(|_| ()), layer.prepare(Some(31 * MIB)).map(|_| ())] {
        let Err(LayerError::Limit(invalid)) = result else { panic!("{result:?}") };
        assert_eq!((invalid.field.as_ref(), invalid.value.as_str()), ("disk", "32505856"));
    }
    assert_eq!(layer.set_limit(Some(32 * MIB)).unwrap(), Effect::Now);
    let effect = layer.set_limit(Some(64 * MIB)).unwrap();
    println!("growing while it is mounted: {effect:?}");
    let figures = layer.figures().unwrap();
    match effect {
        Effect::Now => assert_eq!(figures.bytes_limit, Some(64 * MIB)),
        // As the kernel asks for CAP_SYS_RESOURCE, which not every machine has.
        Effect::AtRestart => assert_eq!(figures.bytes_limit, Some(32 * MIB)),
    }
    drop(prepared);
    wait_detached(dir.path());
    let started = Instant::now();
    let prepared = layer.prepare(Some(64 * MIB)).unwrap();
    println!("growing at a start: {:?}", started.elapsed());
    assert_eq!(layer.figures().unwrap().bytes_limit, Some(64 * MIB));
    assert_eq!(fs::read(upper(&prepared).join("file")).unwrap(), b"kept");
    let (written, error) = fill(&upper(&prepared).join("large"));
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert!(written > 50 * MIB, "{written}");
    for bytes in [0, MIN_LIMIT - 1, u64::MAX] {
        assert_eq!(check_limit(bytes).unwrap_err().field, "disk");
        assert!(matches!(layer.prepare(Some(bytes)), Err(LayerError::Limit(_))));
    }
    Ok(())
}

fn once() -> Result<(), String> {
    loops()?;
    let (dir, layer) = tenant();
    // As when the mounts of a tenant that has ended are not quite gone.
    let first = layer.prepare(Some(32 * MIB)).unwrap();
    let second = layer.prepare(Some(32 * MIB)).unwrap();
    fs::write(upper(&first).join("file"), "seen").unwrap();
    assert_eq!(fs::read(upper(&second).join("file")).unwrap(), b"seen");
    drop(first);
    fs::write(upper(&second).join("file"), "still").unwrap();
    drop(second);
    wait_detached(dir.path());
    Ok(())
}

fn broken() -> Result<(), String> {
    loops()?;
    let (dir, layer) = tenant();
    fs::write(dir.path().join("layer.img"), vec![0; 32 << 20]).unwrap();
    let refused = layer.prepare(Some(32 * MIB)).unwrap_err();
    assert!(matches!(refused, LayerError::Path { step: "read", .. }), "{refused:?}");
    assert!(refused.to_string().contains("layer.img"));
    assert!(layer.figures().is_err());
    // A superblock alone is no file system.
    drop(layer.remove());
    drop(layer.prepare(Some(32 * MIB)).unwrap());
    wait_detached(dir.path());
    let image = dir.path().join("layer.img");
    let mut bytes = fs::read(&image).unwrap();
    bytes[4096..8 << 20].fill(0xff);
    fs::write(&image, bytes).unwrap();
    let refused = layer.prepare(Some(32 * MIB)).unwrap_err();
    assert!(matches!(refused, LayerError::Mount { .. }), "{refused:?}");
    wait_detached(dir.path());
    Ok(())
}

/// On a disk of its own, mounted with `prjquota` in a mount namespace of its own.
fn quota() -> Result<(), String> {
    loops()?;
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("disk");
    File::create(&image).unwrap().set_len(128 * MIB).unwrap();
    let made = std::process::Command::new("mkfs.ext4")
        .args(["-q", "-F", "-O", "quota,project", "-E", "quotatype=prjquota"])
        .arg(&image)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .status();
    if !made.is_ok_and(|status| status.success()) {
        return Err("mkfs.ext4 cannot make a disk with project quota".to_owned());
    }
    let at = dir.path().join("mnt");
    fs::create_dir(&at).unwrap();
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        let mounted = std::process::Command::new("mount").args(["-o", "loop,prjquota"]).args([&image, &at]).output();
        let mounted = mounted.map_err(|error| error.to_string())?;
        if !mounted.status.success() {
            return Err("this kernel has no project quota on ext4".to_owned());
        }
        let layer = Layer::new(&at, ids());
        let prepared = layer.prepare(Some(MIN_LIMIT)).unwrap();
        if prepared.kind == Kind::Image {
            return Err("this kernel has no project quota on ext4".to_owned());
        }
        assert_eq!(prepared.kind, Kind::Quota);
        let file = prepared.upper.join("file");
        chown(&prepared.upper, Some(524_288), Some(524_288)).unwrap();
        // Root with CAP_SYS_RESOURCE is above quotas; a tenant is not.
        let written = nobody_writes(&file);
        assert!(written <= MIN_LIMIT && written > MIN_LIMIT / 2, "{written}");
        assert_eq!(layer.set_limit(Some(32 * MIB)).unwrap(), Effect::Now);
        assert_eq!(layer.figures().unwrap().bytes_limit, Some(32 * MIB));
        Ok(())
    })
    .join()
    .unwrap()
}

fn nobody_writes(file: &Path) -> u64 {
    use std::os::unix::process::CommandExt;
    let file_of = format!("of={}", file.display());
    let _ = std::process::Command::new("dd")
        .args(["if=/dev/zero", "bs=1M", "count=64", &file_of])
        .uid(524_288)
        .gid(524_288)
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap();
    fs::metadata(file).unwrap().len()
}
