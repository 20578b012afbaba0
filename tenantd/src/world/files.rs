//! Removing the files of a tenant. A tenant can have written millions; removing them must not hold up the others, so
//! they are put aside by one rename and removed in the background. What a killed daemon left is removed at the next
//! start.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use tenant_init::tree;

use super::{StepError, World, joined};
use crate::fault;
use crate::layer::Layer;
use crate::model::Tenant;

/// Below the state directory: what is on its way out.
const ASIDE: &str = "removed";

impl World {
    /// Takes a tenant's files and its control socket away. What is not there is no error.
    pub(super) async fn remove_files(&self, tenant: &Tenant) -> Result<(), StepError> {
        let (socket, files) = (self.control_socket(&tenant.name), self.files(&tenant.name));
        let (aside, gids) = (self.config.state_dir.join(ASIDE), tenant.gid);
        tokio::task::spawn_blocking(move || {
            let failed = |verb, path: &Path| {
                let path = path.display().to_string();
                move |source| StepError::File { verb, path, source }
            };
            gone(fs::remove_file(&socket)).map_err(failed("remove", &socket))?;
            fault::point("files.socket");
            if files.join("layer").exists() {
                // A quota belongs to the ids, which may be the next tenant's.
                Layer::new(&files, gids).set_limit(None)?;
            }
            put_aside(&files, &aside).map_err(failed("put aside", &files))
        })
        .await
        .map_err(joined)??;
        self.sweep_files();
        Ok(())
    }

    /// Removes what was put aside, in the background; what cannot be removed is logged and tried again later.
    pub(super) fn sweep_files(&self) {
        let aside = self.config.state_dir.join(ASIDE);
        tokio::task::spawn_blocking(move || {
            for entry in fs::read_dir(&aside).into_iter().flatten().flatten() {
                if let Err(error) = gone(tree::remove(&entry.path())) {
                    tracing::warn!(path = %entry.path().display(), %error, "cannot remove a removed tenant's files yet");
                }
            }
        });
    }
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn put_aside(files: &Path, aside: &Path) -> io::Result<()> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    if fs::symlink_metadata(files).is_err() {
        return Ok(());
    }
    fs::create_dir_all(aside)?;
    let unique = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let target = aside.join(unique);
    // Of an earlier daemon with our process id.
    gone(tree::remove(&target))?;
    fs::rename(files, target)
}
