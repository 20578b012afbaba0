//! From tenants that are there to a declarative file: every number that was chosen is said, what is the default is not.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use stackmap::TunnelSpec;
use toml::{Table, Value};

use super::VERSION;
use crate::model::{DeclaredService, DeclaredTenant, Export, Exported};

/// Writes the file. Tenants on their way out are left out: they shall not be there. So is the local end of a tunnel that
/// the access server would choose: on another server it is another one.
#[must_use]
pub fn write(export: &Export) -> String {
    let mut text = format!("version = {VERSION}\n");
    let mut shares = BTreeMap::<&str, Vec<String>>::new();
    for Exported { name, tenant, .. } in export.tenants.iter().filter(|t| !t.removing) {
        for share in &tenant.shares {
            let mode = if share.read_only { ":ro" } else { "" };
            shares.entry(&share.directory).or_default().push(format!("{name}{mode}"));
        }
        let _ = write!(text, "\n[tenants.{name}]\n{}", fields(tenant, &export.locals));
        for (service, what) in &tenant.services {
            let _ = write!(text, "[tenants.{name}.services.{service}]\n{}", service_fields(what));
        }
    }
    for (directory, tenants) in shares {
        let tenants = texts(tenants);
        let _ = write!(text, "\n[shares.{}]\ntenants = {tenants}\n", Value::from(directory));
    }
    text
}

fn fields(t: &DeclaredTenant, locals: &[IpAddr]) -> String {
    let mut out = Fields(String::new());
    out.some("vlan", t.vlan.map(|vlan| i64::from(vlan.get())));
    out.some("trunk", t.trunk.clone());
    out.some("stack", t.stack.map(|stack| stack.to_string()));
    out.some("gid", t.gid.map(i64::from));
    out.some("device", t.device.clone());
    out.put("addresses", texts(&t.addresses));
    // On another trunk the access server is another one.
    let locals = if t.trunk.is_none() { locals } else { &[] };
    let tunnels: Vec<_> = t.tunnels.iter().map(|tunnel| without_chosen_end(tunnel, locals)).collect();
    out.list("tunnels", &tunnels);
    out.list("dns", &t.dns);
    out.some("gateway", t.gateway.map(|gateway| gateway.to_string()));
    out.list("routes", &t.routes);
    let privileges: Vec<_> = t.privileges.iter().map(|p| format!("{p:?}").to_lowercase()).collect();
    out.list("privileges", &privileges);
    out.some("image", t.image.clone());
    out.some("ephemeral", t.ephemeral.then_some(true));
    if !t.filter.is_open() {
        out.put("filter.default", Value::from(t.filter.default.to_string()));
        out.list("filter.rules", &t.filter.rules);
    }
    // As text: `512M` is easier to read than 536870912.
    for (name, value) in t.limits.pairs() {
        out.put(&format!("limits.{name}"), Value::from(value));
    }
    out.0
}

fn without_chosen_end(tunnel: &TunnelSpec, locals: &[IpAddr]) -> TunnelSpec {
    let open = TunnelSpec::new(tunnel.kind(), tunnel.remote(), None, tunnel.key(), tunnel.prefixes().to_vec());
    let chosen = open.as_ref().ok().and_then(|open| open.resolve_among(locals).ok()).map(|id| id.local());
    match open {
        Ok(open) if chosen.is_some() && chosen == tunnel.local() => open,
        _ => tunnel.clone(),
    }
}

fn service_fields(service: &DeclaredService) -> String {
    let mut out = Fields(String::new());
    out.some("template", service.template.clone());
    if !service.set.is_empty() {
        let set: Table = service.set.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect();
        out.put("set", Value::Table(set));
    }
    out.list("command", &service.command);
    // Their fields are all text, numbers and lists: TOML has everything they are made of.
    if let Ok(Value::Table(options)) = Value::try_from(&service.options) {
        for (name, value) in options {
            out.put(&format!("options.{name}"), value);
        }
    }
    out.0
}

fn texts<T: ToString>(values: impl IntoIterator<Item = T>) -> Value {
    Value::Array(values.into_iter().map(|value| Value::from(value.to_string())).collect())
}

struct Fields(String);

impl Fields {
    fn put(&mut self, name: &str, value: Value) {
        let _ = writeln!(self.0, "{name} = {value}");
    }

    fn some(&mut self, name: &str, value: Option<impl Into<Value>>) {
        value.into_iter().for_each(|value| self.put(name, value.into()));
    }

    fn list<T: ToString>(&mut self, name: &str, values: &[T]) {
        if !values.is_empty() {
            self.put(name, texts(values.iter().map(ToString::to_string)));
        }
    }
}
