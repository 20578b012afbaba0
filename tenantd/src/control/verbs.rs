//! Commands as the audit names them: what changes something, and which tenant it is about.

use stackmap::TenantName;

use super::Command;
use crate::change::Change;
use crate::world::Verb;

impl Command {
    /// The word for a command that changes something; none for a question.
    pub(crate) fn verb(&self) -> Option<&'static str> {
        match self {
            Self::AddTenant { dry_run, .. } => (!dry_run).then_some("add-tenant"),
            Self::Put { how, .. } => (!how.dry_run).then_some("apply"),
            Self::RemoveTenant { .. } => Some("remove-tenant"),
            Self::AddTunnel { .. } => Some("add-tunnel"),
            Self::RemoveTunnel { .. } => Some("remove-tunnel"),
            Self::Change { change, .. } => Some(change.verb()),
            Self::StopTenant { .. } => Some("restart-tenant"),
            Self::Share { .. } => Some("share"),
            Self::Unshare { .. } => Some("unshare"),
            Self::Restore { how, .. } => (!how.dry_run).then_some("restore"),
            Self::AddService { .. } => Some("add-service"),
            Self::RemoveService { .. } => Some("remove-service"),
            Self::ActOnService { verb, .. } => Some(verb.word()),
            // The second half of a restart; the end of a job, which brings its own.
            Self::Settle { .. } | Self::ServiceDone(_) => None,
            Self::List { .. }
            | Self::Show { .. }
            | Self::Images { .. }
            | Self::ListShares { .. }
            | Self::Templates { .. }
            | Self::ShowTemplate { .. }
            | Self::Map { .. }
            | Self::Status { .. }
            | Self::TenantStatus { .. }
            | Self::Plan { .. }
            | Self::LogPath { .. }
            | Self::Audit { .. }
            | Self::Backup { .. }
            | Self::Note { .. }
            | Self::Export { .. }
            | Self::TraceParts { .. }
            | Self::Roster { .. }
            | Self::Prove(_) => None,
        }
    }

    /// The tenant that a changing command is about, when it is one.
    pub(crate) fn about(&self) -> Option<&TenantName> {
        match self {
            Self::AddTenant { request, .. } => Some(&request.name),
            Self::Put { name, .. }
            | Self::RemoveTenant { name, .. }
            | Self::AddTunnel { name, .. }
            | Self::RemoveTunnel { name, .. }
            | Self::Change { name, .. }
            | Self::StopTenant { name, .. }
            | Self::AddService { name, .. }
            | Self::RemoveService { name, .. }
            | Self::ActOnService { name, .. } => Some(name),
            Self::Unshare { tenants, .. } => match &tenants[..] {
                [one] => Some(one),
                _ => None,
            },
            _ => None,
        }
    }
}

impl Change {
    /// As the command line calls it.
    fn verb(&self) -> &'static str {
        match self {
            Self::Addresses(_) => "set-address",
            Self::AddAddress(_) => "add-address",
            Self::RemoveAddress(_) => "remove-address",
            Self::Routes(_) => "set-route",
            Self::AddRoute(_) => "add-route",
            Self::RemoveRoute(_) => "remove-route",
            Self::Filter(_) => "set-filter",
            Self::Dns(_) => "set-dns",
            Self::Limits(_) => "set-limits",
        }
    }
}

impl Verb {
    /// As the command line calls it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Start => "start-service",
            Self::Stop => "stop-service",
            Self::Restart => "restart-service",
            Self::Reload => "reload-service",
            Self::Remove => "remove-service",
        }
    }
}
