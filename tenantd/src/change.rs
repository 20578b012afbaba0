//! Changes of a tenant, as values: what may be asked for is checked and made here, without the kernel. The owner applies
//! one to what is desired, and its next pass brings the kernel after it.

use std::net::IpAddr;

use ipnet::IpNet;
use stackmap::Invalid;

use crate::control::OpError;
use crate::model::{Filter, Route, Tenant};
use crate::rules;

/// One change of one tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Replace the addresses.
    Addresses(Vec<IpNet>),
    /// One more address; one that is there is no error.
    AddAddress(IpNet),
    /// Take an address away.
    RemoveAddress(IpNet),
    /// Replace the further routes.
    Routes(Vec<Route>),
    /// One more route, or another next hop for a destination that is there.
    AddRoute(Route),
    /// Take the route to a destination away.
    RemoveRoute(IpNet),
    /// Replace the packet filter.
    Filter(Filter),
    /// Replace the name servers.
    Dns(Vec<IpAddr>),
    /// Change limits: `key=value` words, `key=none` for the default.
    Limits(Vec<String>),
}

impl Change {
    /// Makes the change.
    ///
    /// # Errors
    /// The rule it breaks, or what is not there to be removed; the tenant may then be half changed and is thrown away.
    pub fn make(self, tenant: &mut Tenant) -> Result<(), OpError> {
        match self {
            Self::Addresses(addresses) => tenant.addresses = addresses,
            Self::AddAddress(address) => {
                if !tenant.addresses.contains(&address) {
                    tenant.addresses.push(address);
                }
            }
            Self::RemoveAddress(address) => {
                let found = tenant.addresses.iter().position(|there| *there == address);
                let unknown = || OpError::Unknown { what: "address", name: address.to_string() };
                tenant.addresses.remove(found.ok_or_else(unknown)?);
            }
            Self::Routes(routes) => tenant.routes = routes,
            Self::AddRoute(route) => {
                rules::check_routes(std::slice::from_ref(&route))?;
                match tenant.routes.iter_mut().find(|there| there.to == route.to) {
                    Some(there) => *there = route,
                    None => tenant.routes.push(route),
                }
            }
            Self::RemoveRoute(to) => {
                let found = tenant.routes.iter().position(|there| there.to == to);
                let unknown = || OpError::Unknown { what: "route", name: to.to_string() };
                tenant.routes.remove(found.ok_or_else(unknown)?);
            }
            Self::Filter(filter) => tenant.filter = filter,
            Self::Dns(dns) => tenant.dns = dns,
            Self::Limits(words) => tenant.limits = tenant.limits.with_words(words)?,
        }
        rules::check_address_list(&tenant.addresses)?;
        rules::check_routes(&tenant.routes)?;
        tenant.filter.check()?;
        rules::check_dns(&tenant.dns)?;
        Ok(())
    }
}

/// What a tenant's own administrator may have at most: each entry is memory of the host's kernel or a row of its store.
const MOST: [(&str, usize); 5] = [("address", 64), ("route", 512), ("dns", 8), ("service", 64), ("rules", 64)];

/// Checks what a tenant's own administrator has made of the tenant.
///
/// # Errors
/// [`Invalid`] naming what is too many.
pub fn check_bounds(tenant: &Tenant) -> Result<(), Invalid> {
    let rules = tenant.filter.rules.len();
    let counts = [tenant.addresses.len(), tenant.routes.len(), tenant.dns.len(), tenant.services.len(), rules];
    for ((field, most), count) in MOST.into_iter().zip(counts) {
        if count > most {
            return Err(Invalid::new(field, count, format!("a tenant may give itself at most {most}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn tenant() -> Tenant {
        let json = serde_json::json!({
            "name": "acme", "stack": "inet0", "vlan": 600, "gid": 524_288, "device": "dev0", "whole_device": false,
            "mac": null, "addresses": ["192.168.1.1/24"], "tunnels": [], "dns": [], "gateway": null,
            "routes": [{"to": "10.0.0.0/8", "via": "192.168.1.254"}], "services": [], "generation": 1,
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn one_more_and_one_less() {
        let mut t = tenant();
        let second: IpNet = "fd00::1/64".parse().unwrap();
        Change::AddAddress(second).make(&mut t).unwrap();
        Change::AddAddress(second).make(&mut t).unwrap();
        assert_eq!(t.addresses.len(), 2);
        Change::RemoveAddress("192.168.1.1/24".parse().unwrap()).make(&mut t).unwrap();
        assert_eq!(t.addresses, [second]);
        let other: Route = "10.0.0.0/8,via=192.168.1.253".parse().unwrap();
        Change::AddRoute(other.clone()).make(&mut t).unwrap();
        assert_eq!(t.routes, [other]);
        Change::RemoveRoute("10.0.0.0/8".parse().unwrap()).make(&mut t).unwrap();
        assert!(t.routes.is_empty());
        Change::Limits(vec!["memory=512M".into(), "cpu=1.5".into()]).make(&mut t).unwrap();
        Change::Limits(vec!["memory=none".into()]).make(&mut t).unwrap();
        assert_eq!(t.limits.to_string(), "cpu=1.5");
    }

    #[test]
    fn what_breaks_a_rule_or_is_not_there_is_refused_by_field() {
        let refused = |change: Change| match change.make(&mut tenant()).unwrap_err() {
            OpError::Invalid(refused) => refused.field.to_string(),
            OpError::Unknown { what, .. } => what.to_owned(),
            other => panic!("{other}"),
        };
        assert_eq!(refused(Change::RemoveAddress("192.168.1.1/24".parse().unwrap())), "address", "the last one");
        assert_eq!(refused(Change::RemoveAddress("192.168.1.1/25".parse().unwrap())), "address");
        assert_eq!(refused(Change::AddAddress("192.168.1.1/25".parse().unwrap())), "address");
        assert_eq!(refused(Change::RemoveRoute("10.0.0.0/9".parse().unwrap())), "route");
        assert_eq!(refused(Change::Dns(vec!["0.0.0.0".parse().unwrap()])), "dns");
        assert_eq!(refused(Change::Limits(vec!["colour=red".into()])), "limit");
        let rule = |text: &str| crate::model::FilterRule { port: Some("80".parse().unwrap()), ..text.parse().unwrap() };
        let filter = Filter { rules: vec![rule("accept,tcp"), rule("accept,any")], ..Filter::default() };
        assert_eq!(refused(Change::Filter(filter)), "rules[1].port");
    }

    #[test]
    fn a_tenant_cannot_give_itself_without_end() {
        let mut t = tenant();
        t.routes = (0..=255).flat_map(|a| (0..3).map(move |b| format!("10.{a}.{b}.0/24").parse().unwrap())).collect();
        assert_eq!(check_bounds(&t).unwrap_err().field, "route");
        let mut t = tenant();
        t.filter.rules = vec!["drop".parse().unwrap(); 65];
        assert_eq!(check_bounds(&t).unwrap_err().field, "rules");
        assert!(check_bounds(&tenant()).is_ok());
    }
}
