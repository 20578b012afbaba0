//! Directories of the host that several tenants see: which ones may be shared, and how one is made.
//!
//! What tenants write there has ids of a range of its own on the disk ([`SHARE_IDS`]), which no tenant and no user of
//! the host has; in every tenant it is seen as the tenant's own ids. So a directory can be written by tenants only if
//! it belongs to that range, and what belongs to users of the host is seen as nobody's: read if it is world-readable.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Component, Path, PathBuf};

use stackmap::Invalid;
use tenant_init::house::SHARE_IDS;

/// Directories of the host that are never shared, nor anything below or above them.
const NEVER: [&str; 15] = [
    "/proc",
    "/sys",
    "/dev",
    "/etc",
    "/run",
    "/boot",
    "/root",
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/var/lib/dpkg",
];

/// Mode of a directory that is made to be shared: whoever writes is of the group, and so is what they write.
const MODE: u32 = 0o2775;

/// Where tenants see it.
///
/// # Errors
/// [`Invalid`] (field `directory`) for a name that no path can end with.
pub fn target_of(directory: &Path) -> Result<String, Invalid> {
    let name = directory.file_name().and_then(|name| name.to_str()).filter(|name| !name.contains(char::is_control));
    let refuse = || Invalid::new("directory", directory.display(), "its name must be plain text");
    Ok(format!("/shared/{}", name.ok_or_else(refuse)?))
}

/// Checks the path alone. `ours` are the daemon's own directories.
///
/// # Errors
/// [`Invalid`] (field `directory`).
pub fn check_path(directory: &str, ours: &[&Path]) -> Result<PathBuf, Invalid> {
    let refuse = |rule: String| Invalid::new("directory", directory, rule);
    let path = Path::new(directory);
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !path.is_absolute() || !plain {
        return Err(refuse("must be an absolute path without ..".into()));
    }
    if path.parent().is_none() {
        return Err(refuse("the root directory is never shared".into()));
    }
    // The same path in one spelling only.
    let path: PathBuf = path.components().collect();
    target_of(&path)?;
    for never in NEVER.map(Path::new).iter().chain(ours) {
        if path.starts_with(never) || never.starts_with(&path) {
            return Err(refuse(format!("nothing below or above {} is ever shared", never.display())));
        }
    }
    Ok(path)
}

/// Checks the directory itself; `writable` when some tenant shall write there. With `create` makes one that is not
/// there, and takes over one that is empty and root's.
///
/// # Errors
/// [`Invalid`] (field `directory`) with the rule and what to do.
pub fn check_directory(path: &Path, create: bool, writable: bool) -> Result<(), Invalid> {
    let refuse = |rule: String| Invalid::new("directory", path.display(), rule);
    let failed = |error: io::Error| refuse(format!("cannot be looked at or made: {error}"));
    let mut found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && create => {
            fs::create_dir(path).map_err(failed)?;
            give(path).map_err(failed)?;
            fs::symlink_metadata(path)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(refuse("must be there; --create makes it".into()));
        }
        found => found,
    }
    .map_err(failed)?;
    let real = fs::canonicalize(path).map_err(failed)?;
    if real != path {
        return Err(refuse(format!("a symbolic link leads there; say {}", real.display())));
    }
    if !found.is_dir() {
        return Err(refuse("must be a directory".into()));
    }
    if create && found.uid() == 0 && fs::read_dir(path).map_err(failed)?.next().is_none() {
        give(path).map_err(failed)?;
        found = fs::symlink_metadata(path).map_err(failed)?;
    }
    if writable && found.uid() != SHARE_IDS {
        let rule = format!(
            "a directory that tenants write must belong to user {SHARE_IDS}, this one to {}: share it as NAME:ro, let \
             --create make a new one, or give it away with chown -R {SHARE_IDS}:{SHARE_IDS}",
            found.uid()
        );
        return Err(refuse(rule));
    }
    Ok(())
}

fn give(path: &Path) -> io::Result<()> {
    chown(path, Some(SHARE_IDS), Some(SHARE_IDS))?;
    fs::set_permissions(path, Permissions::from_mode(MODE))
}

/// Checks that a directory does not lie in or around another shared one: whoever writes in the outer one could put
/// anything in the place of the inner one.
///
/// # Errors
/// [`Invalid`] (field `directory`).
pub fn check_nesting<'a>(path: &Path, others: impl IntoIterator<Item = &'a Path>) -> Result<(), Invalid> {
    for other in others {
        if path != other && (path.starts_with(other) || other.starts_with(path)) {
            let rule = format!("must not lie in or around the shared directory {}", other.display());
            return Err(Invalid::new("directory", path.display(), rule));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn what_holds_the_host_together_is_never_shared() {
        let ours = [Path::new("/var/lib/tenantd/main"), Path::new("/run/tenantd/main")];
        for bad in [
            "",
            "srv",
            "/",
            "/srv/../etc",
            "/proc",
            "/proc/1",
            "/sys/fs",
            "/etc",
            "/etc/ssl",
            "/usr/share",
            "/dev/shm",
            "/run/user",
            "/var",
            "/var/lib",
            "/var/lib/tenantd",
            "/var/lib/tenantd/main/tenants/acme",
            "/root/x",
        ] {
            assert_eq!(check_path(bad, &ours).unwrap_err().field, "directory", "{bad}");
        }
        for good in ["/srv/common", "/home/ada/files", "/var/lib/postgresql", "/srv//common/", "/var/lib/tenantd2"] {
            check_path(good, &ours).unwrap();
        }
        assert_eq!(check_path("/srv//common/", &ours).unwrap(), Path::new("/srv/common"));
        assert_eq!(target_of(Path::new("/srv/common")).unwrap(), "/shared/common");
    }

    #[test]
    fn shared_directories_lie_beside_each_other() {
        let others = [Path::new("/srv/a")];
        for bad in ["/srv", "/srv/a/b"] {
            check_nesting(Path::new(bad), others).unwrap_err();
        }
        for good in ["/srv/a", "/srv/ab", "/srv/b"] {
            check_nesting(Path::new(good), others).unwrap();
        }
    }

    #[test]
    fn a_directory_must_be_there_be_itself_and_belong_to_those_who_write() {
        let dir = tempfile::tempdir().unwrap();
        let path = fs::canonicalize(dir.path()).unwrap();
        check_directory(&path, false, false).unwrap();
        let refused = check_directory(&path, false, true).unwrap_err();
        assert!(refused.rule.contains("--create") && refused.rule.contains(":ro"), "{refused}");
        assert!(check_directory(&path.join("none"), false, false).unwrap_err().rule.contains("--create"));
        let link = path.join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(check_directory(&link, false, false).unwrap_err().rule.contains("symbolic link"));
        let file = path.join("file");
        fs::write(&file, "").unwrap();
        assert!(check_directory(&file, false, false).unwrap_err().rule.contains("must be a directory"));
    }
}
