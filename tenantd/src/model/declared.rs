//! A tenant as a whole: what `PUT /v1/tenants/{name}` takes, what `[tenants.NAME]` of the declarative file says and what
//! `export` writes. One type, so that file, API and schema cannot disagree.
//!
//! What is left out of it is the default, except the numbers that are chosen once (VLAN, stack, group ids, a tunnel's
//! local end): those stay what they are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use stackmap::{GidRange, Invalid, NicName, StackIndex, TenantName, TunnelSpec, Vlan, check_addresses, check_prefixes};
use utoipa::ToSchema;

use super::short::{text_or_object, text_or_object_schema};
use super::{
    Filter, Privilege, Route, RouteForm, ServiceOptions, ServiceRequest, ShareFor, ShareMount, Tenant, TenantRequest,
};
use crate::api::TunnelSchema;
use crate::limits::Limits;
use crate::rules::{check_address_list, check_dns, check_routes};
use crate::shares::{check_path, target_of};

text_or_object_schema!(
    TunnelSchema,
    TunnelForm,
    "a tunnel: KIND:REMOTE[,local=ADDR][,key=N][,prefix=CIDR]..., or an object"
);

/// A tenant as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DeclaredTenant {
    /// VLAN on the trunk, 1..=4094; when left out the lowest free one, for good.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u16>, minimum = 1, maximum = 4094)]
    pub vlan: Option<Vlan>,
    /// Name of the trunk; when left out the one it is on, for a new tenant the first one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 15)]
    pub trunk: Option<String>,
    /// Stack, such as `inet0`; when left out the lowest free one, for good.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, pattern = "^inet(0|[1-9][0-9]*)$")]
    pub stack: Option<StackIndex>,
    /// First id of its 65,536 group ids; when left out the lowest free range, for good.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(multiple_of = 65536)]
    pub gid: Option<u32>,
    /// A network card given whole instead of a port on the trunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Addresses of the server inside the closed network, in CIDR form; one at least.
    #[schema(value_type = Vec<String>, min_items = 1, example = json!(["192.168.1.1/24"]))]
    pub addresses: Vec<IpNet>,
    /// The sites, one tunnel each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<TunnelForm>)]
    pub tunnels: Vec<TunnelSpec>,
    /// Name servers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub dns: Vec<IpAddr>,
    /// Default router inside a layer-2 closed network.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub gateway: Option<IpAddr>,
    /// Further routes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<RouteForm>)]
    pub routes: Vec<Route>,
    /// What its administrator may change beyond files and processes.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub privileges: BTreeSet<Privilege>,
    /// The image below its root file system; `host` when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Forget what it has written whenever it is started.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ephemeral: bool,
    /// Directories of the host that it sees.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<DeclaredShareForm>)]
    pub shares: Vec<DeclaredShare>,
    /// What its stack lets in; everything when left out.
    #[serde(skip_serializing_if = "Filter::is_open")]
    pub filter: Filter,
    /// What it may use of the machine.
    #[serde(skip_serializing_if = "no_limits")]
    pub limits: Limits,
    /// Its services, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, DeclaredService>)]
    pub services: BTreeMap<TenantName, DeclaredService>,
}

fn no_limits(limits: &Limits) -> bool {
    *limits == Limits::default()
}

/// A service of a declared tenant: a template with its settings, or a command.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DeclaredService {
    /// Name of a template, such as `nginx`; excludes `command`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Values for the template's settings.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, String>,
    /// Program and arguments; excludes `template`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// How it runs; what is said here wins over the template.
    #[serde(skip_serializing_if = "ServiceOptions::is_empty")]
    pub options: ServiceOptions,
}

/// A directory of the host that a declared tenant sees; as text `DIRECTORY` or `DIRECTORY:ro`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
pub struct DeclaredShare {
    /// On the host, absolute.
    pub directory: String,
    /// Nobody in the tenant writes.
    #[serde(default)]
    pub read_only: bool,
    /// Make the directory when it is not there, owned so that tenants may write. Not a part of what is compared.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub create: bool,
}

text_or_object!(DeclaredShare, DeclaredShareForm, "a directory of the host: DIRECTORY[:ro], or an object");

impl FromStr for DeclaredShare {
    type Err = Invalid;

    fn from_str(s: &str) -> Result<Self, Invalid> {
        let (directory, read_only) = s.strip_suffix(":ro").map_or((s, false), |directory| (directory, true));
        Ok(Self { directory: directory.to_owned(), read_only, create: false })
    }
}

impl DeclaredService {
    /// The request for this service under its name.
    #[must_use]
    pub fn request(&self, name: &TenantName) -> ServiceRequest {
        let Self { template, set, command, options } = self.clone();
        ServiceRequest { name: name.clone(), template, set, command, options }
    }
}

impl From<&ServiceRequest> for DeclaredService {
    fn from(service: &ServiceRequest) -> Self {
        let ServiceRequest { template, set, command, options, .. } = service.clone();
        Self { template, set, command, options }
    }
}

impl From<&Tenant> for DeclaredTenant {
    /// With every number that was chosen said.
    fn from(tenant: &Tenant) -> Self {
        let share =
            |s: &ShareMount| DeclaredShare { directory: s.directory.clone(), read_only: s.read_only, create: false };
        Self {
            vlan: tenant.vlan,
            trunk: tenant.trunk.clone(),
            stack: Some(tenant.stack),
            gid: Some(tenant.gid.get()),
            device: tenant.whole_device.then(|| tenant.device.clone()),
            addresses: tenant.addresses.clone(),
            tunnels: tenant.tunnels.clone(),
            dns: tenant.dns.clone(),
            gateway: tenant.gateway,
            routes: tenant.routes.clone(),
            privileges: tenant.privileges.clone(),
            image: Some(tenant.image.clone()).filter(|image| image != crate::images::HOST),
            ephemeral: tenant.ephemeral,
            shares: tenant.shares.iter().map(share).collect(),
            filter: tenant.filter.clone(),
            limits: tenant.limits,
            services: tenant.services.iter().map(|s| (s.name.clone(), s.into())).collect(),
        }
    }
}

impl DeclaredTenant {
    /// The part of it that `add-tenant` can ask for.
    #[must_use]
    pub fn request(&self, name: &TenantName) -> TenantRequest {
        TenantRequest {
            name: name.clone(),
            addresses: self.addresses.clone(),
            vlan: self.vlan,
            trunk: self.trunk.clone(),
            gid: self.gid,
            device: self.device.clone(),
            tunnels: self.tunnels.clone(),
            dns: self.dns.clone(),
            gateway: self.gateway,
            routes: self.routes.clone(),
            privileges: self.privileges.clone(),
            image: self.image.clone(),
            ephemeral: self.ephemeral,
            limits: self.limits,
        }
    }

    /// Leaves out the name of the first trunk where it says nothing new: a tenant that is there on it, or is not there yet.
    pub fn unname_first(&mut self, first: &str, there: Option<&Self>) {
        if self.trunk.as_deref() == Some(first) && there.is_none_or(|there| there.trunk.is_none()) {
            self.trunk = None;
        }
    }

    /// Its services in an order in which each comes after those it waits for; by name where that leaves it open.
    #[must_use]
    pub fn services_in_order(&self) -> Vec<ServiceRequest> {
        let mut left: Vec<_> = self.services.iter().map(|(name, service)| service.request(name)).collect();
        let mut order: Vec<ServiceRequest> = Vec::with_capacity(left.len());
        while !left.is_empty() {
            let waits = |s: &ServiceRequest| s.options.after.iter().any(|name| left.iter().any(|l| l.name == *name));
            // A ring has no order; init refuses it by name.
            let next = left.iter().position(|s| !waits(s)).unwrap_or(0);
            order.push(left.remove(next));
        }
        order
    }

    /// Everything that is wrong with it, as far as it is known without other tenants and without the host. Fields are
    /// paths such as `tunnels[0]`.
    #[must_use]
    pub fn faults(&self) -> Vec<Invalid> {
        let mut faults = Vec::new();
        let mut each = |field: String, result: Result<(), Invalid>| {
            let refused = result.is_err();
            faults.extend(result.err().map(|e| e.for_field(field)));
            refused
        };
        let mut bad = false;
        for (i, address) in self.addresses.iter().enumerate() {
            bad |= each(format!("addresses[{i}]"), check_addresses(std::slice::from_ref(address)));
        }
        if !bad {
            each("addresses".into(), check_address_list(&self.addresses));
        }
        if let Some(gid) = self.gid {
            each("gid".into(), GidRange::new(gid).map(drop));
        }
        if let Some(device) = &self.device {
            each("device".into(), device.parse::<NicName>().map(drop));
            let rule = "a tenant with a device of its own has no VLAN";
            each("vlan".into(), self.vlan.map_or(Ok(()), |vlan| Err(Invalid::new("vlan", vlan, rule))));
            let rule = "a tenant with a device of its own is on no trunk";
            each("trunk".into(), self.trunk.as_ref().map_or(Ok(()), |trunk| Err(Invalid::new("trunk", trunk, rule))));
            let rule = "a tenant with a device of its own has no tunnel";
            each("tunnels[0]".into(), self.tunnels.first().map_or(Ok(()), |t| Err(Invalid::new("tunnel", t, rule))));
        }
        bad = false;
        for (i, tunnel) in self.tunnels.iter().enumerate() {
            let twice = self.tunnels[..i].iter().any(|earlier| identity(earlier) == identity(tunnel));
            let rule = "is given twice to this tenant";
            let twice = if twice { Err(Invalid::new("tunnel", tunnel, rule)) } else { Ok(()) };
            bad |= each(format!("tunnels[{i}]"), twice.and_then(|()| self.prefixes_apart(i)));
        }
        if !bad {
            each("tunnels".into(), check_prefixes(&self.tunnels));
        }
        for (i, server) in self.dns.iter().enumerate() {
            each(format!("dns[{i}]"), check_dns(std::slice::from_ref(server)));
        }
        each("gateway".into(), self.gateway.map_or(Ok(()), crate::rules::check_gateway));
        for i in 0..self.routes.len() {
            let alone = check_routes(&self.routes[i..=i]);
            let twice = self.routes[..i].iter().any(|earlier| earlier.to == self.routes[i].to);
            let rule = "is given twice to this tenant";
            let twice = if twice { Err(Invalid::new("route", self.routes[i].to, rule)) } else { Ok(()) };
            each(format!("routes[{i}]"), alone.and(twice));
        }
        if let Some(image) = &self.image {
            each("image".into(), image.parse::<TenantName>().map(drop));
        }
        let filter = self.filter.check();
        let field = filter.as_ref().err().map(|e| format!("filter.{}", e.field)).unwrap_or_default();
        each(field, filter);
        let limits = self.limits.check();
        let field = limits.as_ref().err().map(|e| format!("limits.{}", e.field)).unwrap_or_default();
        each(field, limits);
        for (name, service) in &self.services {
            let checked = service.request(name).check();
            let field = checked.as_ref().err().map(|e| service_field(name, &e.field)).unwrap_or_default();
            each(field, checked);
        }
        let mut targets = BTreeMap::new();
        for (i, share) in self.shares.iter().enumerate() {
            let target = check_path(&share.directory, &[]).and_then(|path| target_of(&path));
            let other = target.as_ref().ok().and_then(|target| targets.insert(target.clone(), &share.directory));
            let rule = |other: &String| match *other == share.directory {
                true => "is given twice to this tenant".to_owned(),
                false => format!("would be seen under the same name as {other}"),
            };
            let taken = other.map_or(Ok(()), |other| Err(Invalid::new("directory", &share.directory, rule(other))));
            let others = self.shares[..i].iter().map(|s| Path::new(&s.directory));
            let apart = || crate::shares::check_nesting(Path::new(&share.directory), others);
            each(format!("shares[{i}]"), target.map(drop).and(taken).and_then(|()| apart()));
        }
        faults
    }

    /// Whether tunnel `i` and one before it have a prefix in common.
    fn prefixes_apart(&self, i: usize) -> Result<(), Invalid> {
        let pairs = self.tunnels[..i].iter().map(|earlier| [earlier.clone(), self.tunnels[i].clone()]);
        pairs.into_iter().try_for_each(|pair| check_prefixes(&pair))
    }

    /// The first of [`Self::faults`].
    ///
    /// # Errors
    /// [`Invalid`]; its field is a path such as `tunnels[0]`.
    pub fn check(&self) -> Result<(), Invalid> {
        self.faults().into_iter().next().map_or(Ok(()), Err)
    }
}

/// Where a refused part of a service is in its tenant.
#[must_use]
pub(crate) fn service_field(name: &TenantName, field: &str) -> String {
    match field {
        "template" | "command" => format!("services.{name}.{field}"),
        "set" => format!("services.{name}.set"),
        setting if setting.starts_with("set.") => format!("services.{name}.{setting}"),
        option => format!("services.{name}.options.{option}"),
    }
}

fn identity(t: &TunnelSpec) -> (stackmap::TunnelKind, IpAddr, Option<IpAddr>, Option<u32>) {
    (t.kind(), t.remote(), t.local(), t.key())
}

text_or_object!(ShareFor, ShareForForm, "a tenant of a shared directory: NAME[:ro], or an object");

impl FromStr for ShareFor {
    type Err = Invalid;

    /// Reads `NAME` or `NAME:ro`.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let (name, read_only) = match text.split_once(':') {
            None => (text, false),
            Some((name, "ro")) => (name, true),
            Some((_, mode)) => return Err(Invalid::new("tenants", mode, "must be ro, or left out")),
        };
        Ok(Self { name: name.parse()?, read_only })
    }
}

/// A tenant that is there, as it can be declared again. Passwords of its services are said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Exported {
    /// Name.
    #[schema(value_type = String)]
    pub name: TenantName,
    /// Its removal was asked for and goes on.
    #[serde(default)]
    pub removing: bool,
    /// The tenant.
    pub tenant: DeclaredTenant,
}

/// Everything it takes to make the same tenants again. Passwords of their services are said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Export {
    /// Addresses of the first trunk's access server: a tunnel there that ends at the first of its family need not say so.
    #[schema(value_type = Vec<String>)]
    pub locals: Vec<IpAddr>,
    /// Name of the first trunk: a tenant that says none is on it.
    #[serde(default)]
    pub first_trunk: String,
    /// The tenants, by name.
    pub tenants: Vec<Exported>,
}

/// What became of a tenant that was put.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was made.
    Added,
    /// It was changed, in place.
    Changed,
    /// It was ended and made again.
    Replaced,
    /// It was so already.
    Same,
}

/// One field of a tenant that differs. Passwords are not shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldChange {
    /// The field, such as `addresses` or `services.web`.
    pub field: String,
    /// What it is; none when it is not there.
    pub before: Option<String>,
    /// What it shall be; none when it shall go.
    pub after: Option<String>,
    /// False when only ending the tenant and making it again can change it.
    pub in_place: bool,
}

/// Answer to a tenant that was put.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Put {
    /// The tenant as it is now; with `dry_run` as it would be.
    pub tenant: Tenant,
    /// What became of it.
    pub outcome: Outcome,
    /// Which fields changed; empty when it was made.
    pub changes: Vec<FieldChange>,
    /// Steps with their time in microseconds.
    pub steps: Vec<super::Step>,
    /// True when nothing was done.
    #[serde(default)]
    pub dry_run: bool,
}
