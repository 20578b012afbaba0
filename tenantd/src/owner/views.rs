//! What callers are shown: the tables, the daemon, a tenant and its services.

use stackmap::TenantName;
use tokio::time::Instant;

use super::{Owner, now_ms};
use crate::control::OpError;
use crate::kernel::Kernel;
use crate::model::*;
use crate::plan::service_of;
use crate::store::Health;

fn store_status(health: &Health) -> StoreStatus {
    let us = |time: std::time::Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    StoreStatus {
        revision: health.revision.0,
        trouble: health.trouble.clone(),
        warning: health.warning.clone(),
        writes: health.writes.count,
        write_us: us(health.writes.sum),
        write_us_max: us(health.writes.max),
        failures: health.failures,
    }
}

impl<K: Kernel> Owner<K> {
    pub(super) async fn services(&mut self, tenant: &Tenant) -> Vec<ServiceStatus> {
        let states = self.kernel.services(&tenant.name).await.unwrap_or_default();
        let status = |service: &ServiceRequest| {
            let found = states.iter().find(|s| s.spec.name == service.name.as_str());
            ServiceStatus {
                name: service.name.clone(),
                state: found.map_or("unknown", |s| s.state.as_str()).into(),
                pid: found.and_then(|s| s.pid),
                restarts: found.map_or(0, |s| s.restarts),
                last_exit: found.and_then(|s| s.last_exit.clone()),
            }
        };
        tenant.services.iter().map(status).collect()
    }

    pub(super) async fn service_status(
        &mut self,
        name: &TenantName,
        service: &TenantName,
    ) -> Result<ServiceStatus, OpError> {
        let tenant = self.known(name)?.tenant.clone();
        let all = self.services(&tenant).await;
        all.into_iter()
            .find(|s| s.name == *service)
            .ok_or_else(|| OpError::Unknown { what: "service", name: service.to_string() })
    }

    pub(super) fn log_path(&self, name: &TenantName, service: &TenantName) -> Result<std::path::PathBuf, OpError> {
        match service_of(&self.known(name)?.tenant, service) {
            Some(_) => Ok(self.kernel.files(name).join("logs").join(format!("{service}.log"))),
            None => Err(OpError::Unknown { what: "service", name: service.to_string() }),
        }
    }

    pub(super) fn map(&self) -> MapView {
        let mut view = MapView { upper: Vec::new(), lower: Vec::new(), access: Vec::new() };
        for flow in self.maps.flows() {
            let row = |text: String| MapRow { tenant: flow.tenant().to_string(), row: text };
            view.upper.push(row(flow.upper.to_string()));
            view.lower.push(row(flow.lower.to_string()));
            view.access.extend(flow.access.iter().map(|a| row(a.to_string())));
        }
        view
    }

    pub(super) fn status(&self) -> DaemonStatus {
        let trunks = self.trunk_status();
        let first = trunks.first().cloned().unwrap_or_default();
        DaemonStatus {
            instance: self.instance.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            trunk: first.device,
            access: first.access,
            tenants: self.desired.len(),
            trunk_cause: first.cause,
            trunks,
            half_done: self.failures.keys().map(|n| n.to_string()).collect(),
            store: store_status(&self.store.health()),
            orphans: self.orphans.words(),
            bad_rows: self.bad_rows.words(),
            waiting: self.turns.len(),
        }
    }

    pub(super) async fn tenant_status(&mut self, name: &TenantName) -> Result<TenantStatus, OpError> {
        let desired = self.known(name)?.clone();
        let failure = self.failures.get(name).cloned();
        let state = match (&failure, desired.removing) {
            (_, true) => TenantState::Removing,
            (Some(_), false) => TenantState::HalfDone,
            (None, false) => TenantState::Ready,
        };
        let seat = self.kernel.seat(name);
        let counters = self.kernel.counters(&desired.tenant).await.unwrap_or_default();
        Ok(TenantStatus {
            name: name.clone(),
            state,
            step: failure.as_ref().map(|f| f.step.to_string()),
            since_ms: failure.as_ref().map(|f| f.since_ms),
            tries: failure.as_ref().map(|f| f.times),
            next_try_ms: failure.as_ref().map(|f| {
                let wait = f.again.max(self.next_tick).saturating_duration_since(Instant::now());
                now_ms() + wait.as_millis() as u64
            }),
            cause: failure.map(|f| f.cause),
            init_pid: seat.map(|(pid, _)| pid),
            netns: seat.map(|(_, inode)| inode),
            mtu: self.kernel.mtu(&desired.tenant).await,
            services: self.services(&desired.tenant).await,
            counters,
            guard: self.kernel.refusals(&desired.tenant),
            usage: Some(self.kernel.usage(name)),
        })
    }
}
