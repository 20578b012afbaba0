//! What tenants need of the kernel, tried out at start and not guessed from version numbers. What fails is named with
//! what it is for, so that nobody finds out by a tenant that does not start; nothing is ever silently weaker.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;
use tenant_init::{mounts, seed};

/// A feature that is missing. None of them has a degraded mode: without any of them a tenant's root would be the host's,
/// or would see its files.
#[derive(Debug, thiserror::Error)]
pub enum FeatureError {
    /// User namespaces (`CONFIG_USER_NS`), or there may be no more of them.
    #[error(
        "no user namespace can be made (kernel option USER_NS; /proc/sys/user/max_user_namespaces is {limit}): root of a \
         tenant would be the host's root, so no tenant can be started"
    )]
    UserNamespaces {
        /// What the sysctl says.
        limit: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// Idmapped mounts (Linux 5.12; of the file system that holds the images).
    #[error(
        "the file system of {path} has no idmapped mounts (ext4, xfs, btrfs and f2fs have): images could not be given to a \
         tenant's ids; put --state-dir on one of them"
    )]
    IdmappedMounts {
        /// The state directory.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// overlayfs, with the state directory as upper layer.
    #[error(
        "no overlay can be mounted with its upper layer in {path} (kernel option OVERLAY_FS; a file system with extended \
         attributes that is no overlay itself): a tenant's private layer could not be kept"
    )]
    Overlay {
        /// The state directory.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// System call filters.
    #[error("the kernel has no system call filters (kernel option SECCOMP_FILTER): tenants would reach all of it")]
    SystemCallFilter(#[source] io::Error),
    /// The state directory cannot be written.
    #[error("cannot make and remove directories in the state directory {path}")]
    StateDir {
        /// Its path.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The trial itself failed.
    #[error("cannot try out the kernel's features ({step})")]
    Trial {
        /// What was tried.
        step: &'static str,
        /// Cause.
        #[source]
        source: io::Error,
    },
}

/// Tries out everything; takes some milliseconds and leaves nothing behind. Blocks.
///
/// # Errors
/// The first feature that is missing.
pub fn check(state_dir: &Path) -> Result<(), FeatureError> {
    let trial = |step| move |source| FeatureError::Trial { step, source };
    let proc = fs::File::open("/proc").map_err(trial("open /proc"))?.into();
    let users = user_namespace(&proc)?;
    let idmapped = |source| FeatureError::IdmappedMounts { path: state_dir.to_owned(), source };
    let mount = mounts::copy(state_dir).map_err(trial("copy a mount"))?;
    mounts::attributes(&mount, 0, Some(&users)).map_err(idmapped)?;
    drop(mount);
    overlay(state_dir)?;
    filter()
}

fn user_namespace(proc: &OwnedFd) -> Result<OwnedFd, FeatureError> {
    let owned = [CloneFlags::CLONE_NEWIPC, CloneFlags::CLONE_NEWUTS];
    let made = seed::make(proc, 0, stackmap::GidRange::FIRST.get(), &owned);
    made.map(|seed| seed.user).map_err(|source| {
        let limit = fs::read_to_string("/proc/sys/user/max_user_namespaces");
        FeatureError::UserNamespaces { limit: limit.map_or("not there".into(), |text| text.trim().to_owned()), source }
    })
}

fn overlay(state_dir: &Path) -> Result<(), FeatureError> {
    let trial = |source| FeatureError::StateDir { path: state_dir.to_owned(), source };
    let base = state_dir.join(".trial");
    gone(fs::remove_dir_all(&base)).map_err(trial)?;
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| base.join(name));
    for directory in [&lower, &upper, &work] {
        fs::create_dir_all(directory).map_err(trial)?;
    }
    let text = |path: &Path| path.display().to_string();
    let options = [(c"lowerdir", text(&lower)), (c"upperdir", text(&upper)), (c"workdir", text(&work))];
    let options = options.each_ref().map(|(key, value)| (*key, value.as_str()));
    let mounted = mounts::new(c"overlay", &options, 0).map(drop);
    gone(fs::remove_dir_all(&base)).map_err(trial)?;
    mounted.map_err(|source| FeatureError::Overlay { path: state_dir.to_owned(), source })
}

fn filter() -> Result<(), FeatureError> {
    let action: u32 = libc::SECCOMP_RET_ERRNO;
    // SAFETY: system call on a number that lives here.
    let known = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) };
    if known == 0 { Ok(()) } else { Err(FeatureError::SystemCallFilter(io::Error::last_os_error())) }
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_missing_feature_is_named_with_what_it_is_for() {
        let source = || io::Error::from_raw_os_error(libc::EINVAL);
        let path = || PathBuf::from("/srv/state");
        let cases = [
            (
                FeatureError::UserNamespaces { limit: "0".into(), source: source() },
                ["USER_NS", "max_user_namespaces is 0"],
            ),
            (FeatureError::IdmappedMounts { path: path(), source: source() }, ["idmapped", "/srv/state"]),
            (FeatureError::Overlay { path: path(), source: source() }, ["OVERLAY_FS", "/srv/state"]),
            (FeatureError::SystemCallFilter(source()), ["SECCOMP_FILTER", "filters"]),
        ];
        for (error, words) in cases {
            let text = error.to_string();
            assert!(words.iter().all(|word| text.contains(word)), "{text}");
        }
    }

    #[test]
    fn a_trial_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        // As an ordinary user it fails at its first step; as root it does what the kernel can.
        let _ = check(dir.path());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
