//! Tunnels of a tenant: add (or change the prefixes of one), remove.

use stackmap::{Site, TenantName, TunnelSpec};

use super::Owner;
use super::errors::conflict;
use crate::control::OpError;
use crate::declare::same_tunnel;
use crate::kernel::Kernel;
use crate::model::*;

impl<K: Kernel> Owner<K> {
    pub(super) async fn add_tunnel(&mut self, name: &TenantName, tunnel: TunnelSpec) -> Result<Tenant, OpError> {
        let trunk = self.changeable(name)?.trunk_number;
        if !self.trunks.is_connected(trunk) {
            self.reach_access(trunk).await;
        }
        if self.trunks.locals(trunk).is_empty() {
            // Never reached: which address the tunnel ends at nobody can say.
            return Err(OpError::Failed {
                name: name.clone(),
                step: "access",
                cause: self.trunks.access(trunk).to_owned(),
            });
        }
        let generation = self.changeable(name)?.generation + 1;
        let tunnel = self.with_local(trunk, &tunnel)?;
        let site = Site::new(self.tunnel_id(trunk, &tunnel)?, tunnel.prefixes().to_vec())?;
        let id = *site.tunnel();
        let mut tunnels = self.changeable(name)?.tunnels.clone();
        tunnels.retain(|t| !same_tunnel(t, &tunnel));
        tunnels.push(tunnel);
        stackmap::check_prefixes(&tunnels)?;
        let before = self.maps.access().get(&id).cloned();
        self.maps.put_tunnel(name, site, self.meta(generation)?).map_err(conflict)?;
        let result = self.change(name, move |tenant| {
            tenant.tunnels = tunnels;
            Ok(())
        });
        match result.await {
            // Refused before anything was recorded: the table goes back.
            Err(error @ OpError::Failed { step: "store", .. }) => {
                self.maps.remove_tunnel(name, &id);
                if let Some(row) = before {
                    self.maps.put_tunnel(name, row.site, row.meta).map_err(conflict)?;
                }
                Err(error)
            }
            other => other,
        }
    }

    pub(super) async fn remove_tunnel(&mut self, name: &TenantName, tunnel: &TunnelSpec) -> Result<Tenant, OpError> {
        let unknown = || OpError::Unknown { what: "tunnel", name: tunnel.to_string() };
        let trunk = self.changeable(name)?.trunk_number;
        let found = self.changeable(name)?.tunnels.iter().find(|t| same_tunnel(t, tunnel)).cloned();
        let found = found.ok_or_else(unknown)?;
        let id = self.tunnel_id(trunk, &found)?;
        let result = self
            .change(name, move |tenant| {
                tenant.tunnels.retain(|t| t != &found);
                Ok(())
            })
            .await;
        // The table follows what is recorded, also when the kernel has to be asked again for it.
        if !matches!(result, Err(OpError::Failed { step: "store", .. })) {
            self.maps.remove_tunnel(name, &id);
        }
        result
    }
}
