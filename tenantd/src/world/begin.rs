//! How a tenant begins: its limits, its image, its layer, its init; and how its init is ended.

use std::path::PathBuf;

use stackmap::{Invalid, TenantName};
use tenant_init::house::{self, Image, Share};

use super::{END_DEADLINE, StepError, World, joined, rates};
use crate::api::Doors;
use crate::cgroups::CgroupError;
use crate::fault;
use crate::images::{self, GetError};
use crate::launch::{self, LaunchSpec, Launched, Surroundings};
use crate::layer::{self, Layer};
use crate::limits::{Bytes, Limits};
use crate::model::{ShareMount, Tenant, TenantRequest};

/// Size of a tenant's /run, and of its /tmp and /dev/shm together, bytes; a limit of memory counts what is in them.
const SCRATCH: u64 = 256 << 20;
/// Size of an ephemeral tenant's layer, bytes.
const EPHEMERAL: u64 = 1 << 30;

impl World {
    pub(super) async fn launch(&mut self, tenant: &Tenant) -> Result<(), StepError> {
        let spec = LaunchSpec {
            init_path: self.config.init.clone(),
            name: tenant.name.clone(),
            stack: tenant.stack,
            gids: tenant.gid,
            control_socket: self.control_socket(&tenant.name),
            state_dir: self.files(&tenant.name),
            dns: tenant.dns.clone(),
            addresses: tenant.addresses.clone(),
            image: self.image(tenant).await?,
            layer: house::Layer::Directory,
            network: tenant.owns_network(),
            api: Some(Doors::dir_of(&self.doors_dir(), &tenant.name)),
            // While it is being replaced by a newer one there may be none; the tenant lives without.
            program: Some(self.config.program.clone()).filter(|program| program.is_file()),
            shares: tenant.shares.iter().map(share).collect(),
            scratch: SCRATCH,
        };
        let cgroups = Some(self.cgroups.entry(&tenant.name)?);
        let surroundings = Surroundings { cgroups, layer: None };
        let (ephemeral, disk) = (tenant.ephemeral, tenant.limits.disk.map(Bytes::get));
        let launched = tokio::task::spawn_blocking(move || start(spec, surroundings, ephemeral, disk)).await;
        let launched = launched.map_err(joined)??;
        fault::point("launch.held");
        self.sit(&tenant.name, launched).await
    }

    /// What below the state of the world a request asks for can be had here: limits and image.
    ///
    /// # Errors
    /// [`Invalid`] naming the limit that this host cannot hold.
    pub async fn check_house(&self, request: &TenantRequest) -> Result<(), Invalid> {
        if let Some(name) = request.image.clone().filter(|name| name != images::HOST) {
            self.images.get(&name).map_err(|error| match error {
                GetError::Name(refused) => refused,
                broken => Invalid::new("image", name, crate::owner::chain(&broken)),
            })?;
        }
        self.check_limits(&request.limits)
    }

    /// Whether this host can hold such limits.
    pub fn check_limits(&self, limits: &Limits) -> Result<(), Invalid> {
        self.cgroups.check(limits).map_err(|error| match error {
            CgroupError::NotHere { limit, why } => {
                let value = limits.pairs().into_iter().find(|(name, _)| *name == limit);
                Invalid::new(format!("limits.{limit}"), value.map_or_else(String::new, |(_, value)| value), why)
            }
            other => Invalid::new("limits", "", other.to_string()),
        })?;
        if let Some(disk) = limits.disk {
            layer::check_limit(disk.get()).map_err(|error| error.for_field("limits.disk"))?;
        }
        rates::check(limits)
    }

    pub(super) fn limit(&self, tenant: &Tenant) -> Result<(), StepError> {
        self.cgroups.make(&tenant.name)?;
        // Its directories were removed while it lives: without this its limits would hold nobody.
        if let Some(seat) = self.seats.get(&tenant.name)
            && self.cgroups.is_deserted(&tenant.name)
        {
            self.cgroups.bring_back(&tenant.name, seat.pid)?;
        }
        Ok(self.cgroups.set(&tenant.name, &self.cgroups.with_defaults(&tenant.limits))?)
    }

    pub(super) async fn image(&self, tenant: &Tenant) -> Result<Image, StepError> {
        let images = self.images.clone();
        if tenant.image != images::HOST {
            let name = tenant.image.clone();
            let found = tokio::task::spawn_blocking(move || images.get(&name)).await.map_err(joined)??;
            return Ok(Image::Tree { root: found.root });
        }
        let host = tokio::task::spawn_blocking(move || images.host()).await.map_err(joined)??;
        Ok(Image::Host { root: host.root, set_id: host.set_id })
    }

    pub(super) async fn end_init(&mut self, name: &TenantName) -> Result<(), StepError> {
        if let Some(seat) = self.seats.remove(name) {
            tokio::task::spawn_blocking(move || launch::end(&seat.process, END_DEADLINE)).await.map_err(joined)??;
        }
        Ok(())
    }
}

/// Prepares the layer of a tenant that does not run, and starts its init.
fn start(
    mut spec: LaunchSpec,
    mut surroundings: Surroundings,
    ephemeral: bool,
    disk: Option<u64>,
) -> Result<Launched, StepError> {
    if ephemeral {
        spec.layer = house::Layer::Memory { size: disk.unwrap_or(EPHEMERAL) };
    } else {
        launch::make_state_dir(&spec)?;
        let prepared = Layer::new(&spec.state_dir, spec.gids).prepare(disk)?;
        if let Some(mounted) = prepared.mount {
            spec.layer = house::Layer::Mounted;
            surroundings.layer = Some(mounted.mount);
        }
    }
    fault::point("launch.layer");
    Ok(launch::launch_into(&spec, &surroundings)?)
}

fn share(mount: &ShareMount) -> Share {
    Share { source: PathBuf::from(&mount.directory), target: PathBuf::from(&mount.target), read_only: mount.read_only }
}
