//! One tenant as it is against the same tenant as it shall be.

use std::collections::{BTreeMap, BTreeSet};

use stackmap::TunnelSpec;

use crate::images::HOST;
use crate::model::{DeclaredService, DeclaredTenant, FieldChange};
use crate::templates::is_secret;

/// In the place of a password.
const HIDDEN: &str = "(not shown)";
/// In the place of another one.
const OTHER: &str = "(another, not shown)";

/// What shall be, with the numbers that it leaves open taken from what is: VLAN, trunk, stack, group ids, local ends of tunnels.
/// Services and the rest are taken as they are said.
#[must_use]
pub fn settle(before: &DeclaredTenant, after: &DeclaredTenant) -> DeclaredTenant {
    let mut settled = after.clone();
    // A tenant that shall have a card has no VLAN to keep.
    settled.vlan = after.vlan.or(before.vlan.filter(|_| after.device.is_none()));
    settled.trunk = after.trunk.clone().or_else(|| before.trunk.clone().filter(|_| after.device.is_none()));
    settled.stack = after.stack.or(before.stack);
    settled.gid = after.gid.or(before.gid);
    settled.image = after.image.clone().filter(|image| image != HOST);
    for tunnel in settled.tunnels.iter_mut().filter(|t| t.local().is_none()) {
        let there = before.tunnels.iter().find(|t| same_tunnel(t, tunnel));
        let local = there.and_then(TunnelSpec::local);
        if let Ok(said) =
            TunnelSpec::new(tunnel.kind(), tunnel.remote(), local, tunnel.key(), tunnel.prefixes().to_vec())
        {
            *tunnel = said;
        }
    }
    settled
}

/// True when both mean one tunnel; a local end that is left open is any.
#[must_use]
pub(crate) fn same_tunnel(a: &TunnelSpec, b: &TunnelSpec) -> bool {
    let local = a.local().is_none() || b.local().is_none() || a.local() == b.local();
    a.kind() == b.kind() && a.remote() == b.remote() && a.key() == b.key() && local
}

/// The fields in which `after` differs from `before`; open numbers of `after` differ from nothing. Empty when they mean
/// the same. Lists in which the order means something (addresses, name servers, rules of the filter) are one field;
/// tunnels, routes, shares, limits and services are told one by one.
#[must_use]
pub fn changes(before: &DeclaredTenant, after: &DeclaredTenant) -> Vec<FieldChange> {
    let settled = settle(before, after);
    let mut out = Changes(Vec::new());
    let text = |value: Option<String>| value;
    out.fixed("vlan", before.vlan.map(|v| v.to_string()), settled.vlan.map(|v| v.to_string()));
    out.fixed("trunk", before.trunk.clone(), settled.trunk.clone());
    out.fixed("stack", before.stack.map(|v| v.to_string()), settled.stack.map(|v| v.to_string()));
    out.fixed("gid", before.gid.map(|v| v.to_string()), settled.gid.map(|v| v.to_string()));
    out.fixed("device", text(before.device.clone()), text(settled.device.clone()));
    let image = |t: &DeclaredTenant| Some(t.image.clone().unwrap_or_else(|| HOST.to_owned()));
    out.fixed("image", image(before), image(&settled));
    out.fixed("ephemeral", Some(before.ephemeral.to_string()), Some(settled.ephemeral.to_string()));
    let privileges = |t: &DeclaredTenant| list(t.privileges.iter().map(|p| format!("{p:?}").to_lowercase()));
    out.fixed("privileges", privileges(before), privileges(&settled));
    out.field("addresses", list(&before.addresses), list(&settled.addresses));
    out.items("tunnel", before.tunnels.iter().map(item), settled.tunnels.iter().map(item));
    out.field("dns", list(&before.dns), list(&settled.dns));
    out.field("gateway", before.gateway.map(|g| g.to_string()), settled.gateway.map(|g| g.to_string()));
    out.items("route", before.routes.iter().map(item), settled.routes.iter().map(item));
    let filter = |t: &DeclaredTenant| {
        let rules = t.filter.rules.iter().map(ToString::to_string);
        (!t.filter.is_open())
            .then(|| [format!("default {}", t.filter.default)].into_iter().chain(rules).collect::<Vec<_>>())
    };
    out.field("filter", filter(before).map(|words| words.join(" ")), filter(&settled).map(|words| words.join(" ")));
    out.keyed("limits", &before.limits.pairs().into_iter().collect(), &settled.limits.pairs().into_iter().collect());
    let share = |t: &DeclaredTenant| {
        let mode = |read_only| if read_only { ":ro" } else { "" };
        t.shares.iter().map(|s| format!("{}{}", s.directory, mode(s.read_only))).collect::<Vec<_>>()
    };
    out.items("share", share(before), share(&settled));
    let names: BTreeSet<_> = before.services.keys().chain(settled.services.keys()).collect();
    for name in names {
        let (was, is) = (before.services.get(name), settled.services.get(name));
        if was != is {
            let (was, is) = (was.map(|s| words(s, None)), is.map(|s| words(s, was)));
            out.field(&format!("services.{name}"), was, is);
        }
    }
    out.0
}

struct Changes(Vec<FieldChange>);

impl Changes {
    fn put(&mut self, field: &str, before: Option<String>, after: Option<String>, in_place: bool) {
        if before != after {
            self.0.push(FieldChange { field: field.to_owned(), before, after, in_place });
        }
    }

    fn field(&mut self, field: &str, before: Option<String>, after: Option<String>) {
        self.put(field, before, after, true);
    }

    fn fixed(&mut self, field: &str, before: Option<String>, after: Option<String>) {
        self.put(field, before, after, false);
    }

    fn items(
        &mut self,
        field: &str,
        before: impl IntoIterator<Item = String>,
        after: impl IntoIterator<Item = String>,
    ) {
        let (before, after): (BTreeSet<_>, BTreeSet<_>) = (before.into_iter().collect(), after.into_iter().collect());
        before.difference(&after).for_each(|gone| self.field(field, Some(gone.clone()), None));
        after.difference(&before).for_each(|new| self.field(field, None, Some(new.clone())));
    }

    fn keyed(&mut self, field: &str, before: &BTreeMap<&str, String>, after: &BTreeMap<&str, String>) {
        let names: BTreeSet<_> = before.keys().chain(after.keys()).collect();
        for name in names {
            self.field(&format!("{field}.{name}"), before.get(name).cloned(), after.get(name).cloned());
        }
    }
}

fn item(value: &impl ToString) -> String {
    value.to_string()
}

fn list<T: ToString>(values: impl IntoIterator<Item = T>) -> Option<String> {
    let words: Vec<_> = values.into_iter().map(|v| v.to_string()).collect();
    (!words.is_empty()).then(|| words.join(" "))
}

/// A service in one line. A password that is not that of `other` is told to be another. Any variable of the environment may
/// be one, as the audit has it.
fn words(service: &DeclaredService, other: Option<&DeclaredService>) -> String {
    let mut shown = service.clone();
    let hide = |value: &mut String, theirs: Option<&String>| {
        *value = if theirs.is_none_or(|theirs| theirs == value) { HIDDEN } else { OTHER }.to_owned();
    };
    for (name, value) in shown.set.iter_mut().filter(|(name, _)| is_secret(name)) {
        hide(value, other.and_then(|other| other.set.get(name)));
    }
    for (name, value) in &mut shown.options.env {
        hide(value, other.and_then(|other| other.options.env.get(name)));
    }
    serde_json::to_string(&shown).unwrap_or_default()
}
