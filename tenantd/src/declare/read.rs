//! From texts to what is wanted. Every part is read by the types that read the API's requests; a part that is refused is
//! told, cut out, and the rest is read on. What is left is checked by the rules of the API, and then against each other.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;
use stackmap::{Invalid, TenantName};

use super::fault::{Fault, Faults, Other, Place};
use super::tree::{Lines, Node, What, below, parse};
use super::{File, SharedBy, Text, VERSION, Wanted};
use crate::explain::explain;
use crate::model::{DeclaredShare, DeclaredTenant};

/// Reads texts that together say what is wanted.
///
/// # Errors
/// [`Faults`]: everything that is wrong with them.
pub fn read(texts: &[Text]) -> Result<Wanted, Faults> {
    let mut reader = Reader::default();
    for text in texts {
        let lines = Lines::new(&text.name, &text.text);
        let before = reader.faults.0.len();
        if let Some(root) = parse(&lines, &mut reader.faults) {
            reader.file(root, &lines);
        }
        // As a reader of the text comes upon them.
        reader.faults.0[before..].sort();
    }
    if reader.faults.0.is_empty() { Ok(reader.wanted) } else { Err(reader.faults) }
}

#[derive(Default)]
struct Reader {
    wanted: Wanted,
    faults: Faults,
    /// Where the tenants stand that were read, right or wrong.
    headers: BTreeMap<TenantName, Place>,
    /// Who has what only one tenant can have, and where it says so.
    holders: BTreeMap<(&'static str, String), (TenantName, Place)>,
}

impl Reader {
    fn file(&mut self, mut root: Node, lines: &Lines<'_>) {
        let mut tenants = table(&mut root, "tenants").unwrap_or_default();
        let mut shares = table(&mut root, "shares").unwrap_or_default();
        if self.version(&root, lines) {
            // What is left of the file; tenants and shares are read one by one.
            let _ = self.part::<File>(&mut root, "", lines);
        }
        let mut here = BTreeMap::new();
        for (key, node) in &mut tenants {
            self.tenant(key, node, lines, &mut here);
        }
        for (directory, node) in &mut shares {
            self.share(directory, node, lines, &mut here);
        }
        for (name, Read { tenant, node, cut }) in here {
            let field = below("tenants", name.as_str());
            for fault in tenant.faults() {
                let root = fault.field.split(['.', '[']).next().unwrap_or_default().to_owned();
                if !cut.contains(&root) {
                    let at = lines.place(place_in(node, &fault.field));
                    let whole = format!("{field}.{}", fault.field);
                    self.faults.push(at, &fault.for_field(whole));
                }
            }
            self.apart(&name, &tenant, node, lines);
            self.wanted.tenants.insert(name, tenant);
        }
    }

    fn version(&mut self, root: &Node, lines: &Lines<'_>) -> bool {
        let What::Table(nodes) = &root.what else { return false };
        let (at, value, rule) = match nodes.get("version") {
            None => (0, String::new(), "is missing; the first line of the file is: version = 1"),
            Some(node) if node.value() == VERSION => return true,
            Some(node) => (node.span.start, node.value().to_string(), "this program reads version 1"),
        };
        self.faults.push(lines.place(at), &Invalid::new("version", value, rule));
        false
    }

    fn tenant<'n>(&mut self, key: &str, node: &'n mut Node, lines: &Lines<'_>, here: &mut Here<'n>) {
        let at = lines.place(node.key.as_ref().unwrap_or(&node.span).start);
        let name: TenantName = match key.parse() {
            Ok(name) => name,
            Err(refused) => {
                let refused: Invalid = refused;
                return self.faults.push(at, &refused.for_field(below("tenants", key)));
            }
        };
        let field = below("tenants", key);
        if let Some(other) = self.headers.insert(name.clone(), at.clone()) {
            let (value, rule) = (name.to_string(), "a tenant is declared once".to_owned());
            let other = Some(Other { at: other, field: field.clone() });
            return self.faults.0.push(Fault { at, field, value, rule, other });
        }
        let (tenant, cut) = self.part::<DeclaredTenant>(node, &field, lines);
        here.insert(name, Read { tenant: tenant.unwrap_or_default(), node, cut });
    }

    fn share(&mut self, directory: &str, node: &mut Node, lines: &Lines<'_>, here: &mut Here<'_>) {
        let field = below("shares", directory);
        let at = lines.place(node.key.as_ref().unwrap_or(&node.span).start);
        let (shared, _) = self.part::<SharedBy>(node, &field, lines);
        let shared = shared.unwrap_or_default();
        if let Err(refused) = crate::shares::check_path(directory, &[]) {
            return self.faults.push(at, &refused.for_field(field));
        }
        for (i, wanted) in shared.tenants.into_iter().enumerate() {
            let field = format!("{field}.tenants[{i}]");
            let at = lines.place(place_in(node, &format!("tenants[{i}]")));
            let Some(read) = here.get_mut(&wanted.name) else {
                let rule = "no tenant of this name is declared in this file";
                self.faults.push(at, &Invalid::new(field, wanted.name, rule));
                continue;
            };
            if read.tenant.shares.iter().any(|s| s.directory == directory) {
                let rule = "this tenant sees the directory already";
                self.faults.push(at, &Invalid::new(field, wanted.name, rule));
                continue;
            }
            let share =
                DeclaredShare { directory: directory.to_owned(), read_only: wanted.read_only, create: shared.create };
            read.tenant.shares.push(share);
        }
    }

    /// Reads a part, and tells everything of it that cannot be read. Besides: the first parts of the paths of what was cut
    /// out for it, about which the rules have nothing more to say.
    fn part<T: DeserializeOwned>(
        &mut self,
        node: &mut Node,
        field: &str,
        lines: &Lines<'_>,
    ) -> (Option<T>, BTreeSet<String>) {
        let mut cut = BTreeSet::new();
        loop {
            let value = node.value();
            let error = match serde_path_to_error::deserialize::<_, T>(&value) {
                Ok(value) => return (Some(value), cut),
                Err(error) => error,
            };
            let (refused, below_path) = explain(&value, error.path(), &error.inner().to_string());
            let Some((path, out)) = node.cut(error.path(), below_path.as_deref()) else {
                let at = lines.place(node.key.as_ref().unwrap_or(&node.span).start);
                let missing = refused.rule == "is missing";
                let name = if missing { format!("{field}.{}", refused.field) } else { field.to_owned() };
                self.faults.push(at, &refused.for_field(name));
                return (None, cut);
            };
            cut.insert(path.split(['.', '[']).next().unwrap_or_default().to_owned());
            let mut whole = if field.is_empty() { path } else { format!("{field}.{path}") };
            if let Some(name) = below_path.filter(|name| !whole.ends_with(&format!(".{name}")) && whole != *name) {
                whole = below(&whole, &name);
            }
            // What is not known is pointed at by its name, what is wrong by its value.
            let unknown = refused.rule.starts_with("unknown field");
            let span = out.key.as_ref().filter(|_| unknown).unwrap_or(&out.span);
            self.faults.push(lines.place(span.start), &refused.for_field(whole));
        }
    }

    /// What only one tenant can have, two must not say.
    fn apart(&mut self, name: &TenantName, tenant: &DeclaredTenant, node: &Node, lines: &Lines<'_>) {
        let mut keys = Vec::new();
        let on = tenant.trunk.as_ref().map(|trunk| format!(" of trunk {trunk}")).unwrap_or_default();
        keys.extend(tenant.vlan.map(|vlan| ("vlan", "vlan".to_owned(), format!("{vlan}{on}"))));
        keys.extend(tenant.stack.map(|stack| ("stack", "stack".to_owned(), stack.to_string())));
        keys.extend(tenant.gid.map(|gid| ("gid", "gid".to_owned(), gid.to_string())));
        keys.extend(tenant.device.clone().map(|device| ("device", "device".to_owned(), device)));
        for (i, tunnel) in tenant.tunnels.iter().enumerate() {
            keys.push(("tunnel", format!("tunnels[{i}]"), super::order::tunnel_key(tunnel)));
        }
        for (kind, path, value) in keys {
            let at = lines.place(place_in(node, &path));
            let field = format!("{}.{path}", below("tenants", name.as_str()));
            match self.holders.get(&(kind, value.clone())) {
                // Its own, given twice, is told by the rules.
                Some((holder, _)) if holder == name => {}
                Some((holder, other)) => {
                    let rule = format!("is taken by tenant {holder} of this file");
                    let other = Other { at: other.clone(), field: format!("{kind} {value} of tenant {holder}") };
                    self.faults.0.push(Fault { at, field, value, rule, other: Some(other) });
                }
                None => {
                    self.holders.insert((kind, value), (name.clone(), at));
                }
            }
        }
    }
}

/// A tenant of the text that is being read.
struct Read<'n> {
    tenant: DeclaredTenant,
    node: &'n Node,
    cut: BTreeSet<String>,
}

type Here<'n> = BTreeMap<TenantName, Read<'n>>;

/// Takes a table out of another one; what is there but no table stays, to be refused.
fn table(root: &mut Node, name: &str) -> Option<BTreeMap<String, Node>> {
    let What::Table(nodes) = &mut root.what else { return None };
    match nodes.get_mut(name)?.what {
        What::Table(ref mut table) => Some(std::mem::take(table)),
        _ => None,
    }
}

/// First byte of what a path of a tenant leads to; of the tenant's name when there is no such thing.
fn place_in(node: &Node, path: &str) -> usize {
    let found = node.deepest(path);
    match (&found.what, &found.key) {
        // Of a table with a header the name is more telling than its first byte.
        (What::Table(_), Some(key)) => key.start,
        _ => found.span.start,
    }
}
