//! Shared directories: put into tenants, taken out, listed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use stackmap::{Invalid, TenantName};

use super::Owner;
use crate::control::OpError;
use crate::kernel::Kernel;
use crate::model::*;
use crate::shares::{check_nesting, target_of};

impl<K: Kernel> Owner<K> {
    /// Check everything for every tenant, then change one after another. One that fails in the kernel is tried again on
    /// the timer and does not keep the others from it.
    pub(super) async fn share(&mut self, request: ShareRequest) -> Result<SharedDirectory, OpError> {
        let names: BTreeSet<_> = request.tenants.iter().map(|t| &t.name).collect();
        if names.is_empty() || names.len() != request.tenants.len() {
            return Err(Invalid::new("tenants", request.tenants.len(), "must name tenants, each once").into());
        }
        for name in names {
            self.changeable(name)?;
        }
        let path = self.kernel.check_share(&request).await?;
        let directory = path.display().to_string();
        let target = target_of(&path)?;
        let shared = self.desired.values().flat_map(|d| &d.tenant.shares).map(|s| Path::new(&s.directory));
        check_nesting(&path, shared)?;
        for wanted in &request.tenants {
            let taken = self.changeable(&wanted.name)?.shares.iter().find(|s| s.target == target);
            if let Some(other) = taken.filter(|s| s.directory != directory) {
                let rule = format!("tenant {} sees {} as {target} already", wanted.name, other.directory);
                return Err(Invalid::new("directory", directory, rule).into());
            }
        }
        let mut failed = None;
        for wanted in request.tenants {
            let mount =
                ShareMount { directory: directory.clone(), target: target.clone(), read_only: wanted.read_only };
            let change = |tenant: &mut Tenant| {
                tenant.shares.retain(|s| s.directory != mount.directory);
                tenant.shares.push(mount);
                tenant.shares.sort();
                Ok(())
            };
            if let Err(error) = self.change(&wanted.name, change).await {
                failed.get_or_insert(error);
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        let found = self.shares().into_iter().find(|s| s.directory == directory);
        found.ok_or(OpError::Unknown { what: "share", name: directory })
    }

    pub(super) async fn unshare(&mut self, directory: &str, tenants: &[TenantName]) -> Result<(), OpError> {
        for name in tenants {
            if !self.changeable(name)?.shares.iter().any(|s| s.directory == directory) {
                return Err(OpError::Unknown { what: "share", name: directory.to_owned() });
            }
        }
        for name in tenants {
            self.change(name, |tenant| {
                tenant.shares.retain(|s| s.directory != directory);
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    pub(super) fn shares(&self) -> Vec<SharedDirectory> {
        let tenants = self.desired.values().map(|desired| &desired.tenant);
        shared_directories(tenants)
    }
}

/// All shared directories of these tenants, sorted.
pub(crate) fn shared_directories<'a>(tenants: impl IntoIterator<Item = &'a Tenant>) -> Vec<SharedDirectory> {
    let mut all = BTreeMap::<(&str, &str), Vec<ShareFor>>::new();
    for tenant in tenants {
        for share in &tenant.shares {
            let one = ShareFor { name: tenant.name.clone(), read_only: share.read_only };
            all.entry((&share.directory, &share.target)).or_default().push(one);
        }
    }
    let whole = |((directory, target), mut tenants): ((&str, &str), Vec<ShareFor>)| {
        tenants.sort();
        SharedDirectory { directory: directory.to_owned(), target: target.to_owned(), tenants }
    };
    all.into_iter().map(whole).collect()
}
