//! What a request must obey beyond the types of its fields. Pure: the command line asks before it connects (wrong
//! usage), the API asks before the owner hears of it; both get the same [`Invalid`].

use std::net::IpAddr;

use stackmap::{GidRange, Invalid, IpNet, NicName, check_addresses, check_prefixes, parse_prefix};

use crate::model::{Route, ServiceRequest, TenantRequest};

impl TenantRequest {
    /// Checks the request against itself; what other tenants hold is the owner's to know.
    ///
    /// # Errors
    /// [`Invalid`] for the first rule broken.
    pub fn check(&self) -> Result<(), Invalid> {
        check_address_list(&self.addresses)?;
        if let Some(gid) = self.gid {
            GidRange::new(gid)?;
        }
        if let Some(device) = &self.device {
            device.parse::<NicName>()?;
            if let Some(vlan) = self.vlan {
                return Err(Invalid::new("vlan", vlan, "a tenant with a device of its own has no VLAN"));
            }
            if let Some(trunk) = &self.trunk {
                return Err(Invalid::new("trunk", trunk, "a tenant with a device of its own is on no trunk"));
            }
            if let Some(tunnel) = self.tunnels.first() {
                return Err(Invalid::new("tunnel", tunnel, "a tenant with a device of its own has no tunnel"));
            }
        }
        check_tunnels_differ(self)?;
        check_prefixes(&self.tunnels)?;
        check_dns(&self.dns)?;
        self.gateway.iter().try_for_each(|gateway| check_gateway(*gateway))?;
        if let Some(image) = &self.image {
            image.parse::<stackmap::TenantName>().map_err(|e| e.for_field("image"))?;
        }
        self.limits.check()?;
        check_routes(&self.routes)
    }
}

fn check_tunnels_differ(request: &TenantRequest) -> Result<(), Invalid> {
    let identity = |t: &stackmap::TunnelSpec| (t.kind(), t.remote(), t.local(), t.key());
    for (i, tunnel) in request.tunnels.iter().enumerate() {
        if request.tunnels[..i].iter().any(|earlier| identity(earlier) == identity(tunnel)) {
            return Err(Invalid::new("tunnel", tunnel, "is given twice to this tenant"));
        }
    }
    Ok(())
}

/// Checks the addresses of a tenant: one at least, each one that a host can have, none twice.
///
/// # Errors
/// [`Invalid`] (field `address`).
pub fn check_address_list(addresses: &[IpNet]) -> Result<(), Invalid> {
    if addresses.is_empty() {
        return Err(Invalid::new("address", "", "at least one is needed"));
    }
    check_addresses(addresses)
}

/// Checks name servers: addresses that a host can have, or the tenant's own loopback.
///
/// # Errors
/// [`Invalid`] (field `dns`).
pub fn check_dns(dns: &[IpAddr]) -> Result<(), Invalid> {
    dns.iter().try_for_each(|server| check_host("dns", *server))
}

/// Checks a default router: an address that a host can have.
///
/// # Errors
/// [`Invalid`] (field `gateway`).
pub fn check_gateway(gateway: IpAddr) -> Result<(), Invalid> {
    check_host("gateway", gateway)
}

/// Checks further routes: real prefixes, next hops of the same family, no destination twice.
///
/// # Errors
/// [`Invalid`] (field `route` or `via`).
pub fn check_routes(routes: &[Route]) -> Result<(), Invalid> {
    for (i, route) in routes.iter().enumerate() {
        parse_prefix(&route.to.to_string()).map_err(|e| e.for_field("route"))?;
        if let Some(via) = route.via {
            check_host("via", via)?;
            if via.is_ipv4() != route.to.addr().is_ipv4() {
                let rule = format!("must be of the same family as its destination {}", route.to);
                return Err(Invalid::new("via", via, rule));
            }
        }
        if routes[..i].iter().any(|earlier| earlier.to == route.to) {
            return Err(Invalid::new("route", route.to, "is given twice to this tenant"));
        }
    }
    Ok(())
}

/// An address that a host of a closed network can have; loopback is allowed for a name server inside the stack.
fn check_host(field: &'static str, addr: IpAddr) -> Result<(), Invalid> {
    let rule = match addr {
        a if a.is_unspecified() => "must not be the unspecified address",
        a if a.is_multicast() => "must not be a multicast address",
        IpAddr::V4(a) if a.is_broadcast() => "must not be the broadcast address",
        a if a.is_loopback() && field != "dns" => "must not be a loopback address",
        _ => return Ok(()),
    };
    Err(Invalid::new(field, addr, rule))
}

impl ServiceRequest {
    /// Checks that it is a template with its settings or a command, not both and not none.
    ///
    /// # Errors
    /// [`Invalid`] for the first rule broken.
    pub fn check(&self) -> Result<(), Invalid> {
        self.options.check()?;
        match (&self.template, self.command.first()) {
            (Some(template), Some(_)) => {
                Err(Invalid::new("template", template, "excludes a command: give one of the two"))
            }
            (None, None) => Err(Invalid::new("command", "", "a template or a command is needed")),
            (None, Some(program)) if program.is_empty() => {
                Err(Invalid::new("command", program, "the program must have a name"))
            }
            (None, Some(_)) => match (self.set.keys().next(), self.command.iter().find(|a| a.contains('\0'))) {
                (Some(key), _) => Err(Invalid::new("set", key, "only a template has settings")),
                (None, Some(arg)) => Err(Invalid::new("command", arg.escape_debug(), "must not contain a NUL byte")),
                (None, None) => Ok(()),
            },
            (Some(_), None) => Ok(()),
        }
    }
}

impl std::str::FromStr for Route {
    type Err = Invalid;

    /// Reads `CIDR[,via=ADDR]`.
    fn from_str(s: &str) -> Result<Self, Invalid> {
        let (to, rest) = s.split_once(',').map_or((s, None), |(to, rest)| (to, Some(rest)));
        let to = parse_prefix(to).map_err(|e| e.for_field("route"))?;
        let via = rest
            .map(|rest| {
                let addr =
                    rest.strip_prefix("via=").ok_or_else(|| Invalid::new("route", s, "must be CIDR[,via=ADDR]"))?;
                addr.parse().map_err(|_| Invalid::new("via", addr, "must be an IPv4 or IPv6 address"))
            })
            .transpose()?;
        let route = Self { to, via };
        check_routes(std::slice::from_ref(&route))?;
        Ok(route)
    }
}

impl std::fmt::Display for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.to)?;
        self.via.iter().try_for_each(|via| write!(f, ",via={via}"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn tenant(change: impl FnOnce(&mut serde_json::Value)) -> Result<(), Invalid> {
        let mut json = serde_json::json!({"name": "acme", "addresses": ["192.168.1.1/24"]});
        change(&mut json);
        serde_json::from_value::<TenantRequest>(json).unwrap().check()
    }

    #[test]
    fn a_plain_request_passes() {
        tenant(|_| ()).unwrap();
        tenant(|j| {
            j["addresses"] = serde_json::json!(["192.168.1.1/24", "fd00::1/64"]);
            j["tunnels"] = serde_json::json!(["ipip:198.51.100.2", "gre:198.51.100.2,key=1,prefix=10.0.0.0/8"]);
            j["gid"] = 589_824.into();
            j["dns"] = serde_json::json!(["127.0.0.1"]);
            j["routes"] = serde_json::json!([{"to": "10.0.0.0/8", "via": "192.168.1.254"}]);
        })
        .unwrap();
    }

    #[test]
    fn each_rule_names_its_field() {
        let cases = [
            ("address", serde_json::json!({"addresses": []})),
            ("address", serde_json::json!({"addresses": ["192.168.1.0/24"]})),
            ("address", serde_json::json!({"addresses": ["224.0.0.1/24"]})),
            ("address", serde_json::json!({"addresses": ["192.168.1.1/24", "192.168.1.1/25"]})),
            ("gid", serde_json::json!({"gid": 1000})),
            ("device", serde_json::json!({"device": "a/b"})),
            ("vlan", serde_json::json!({"device": "eth1", "vlan": 600})),
            ("trunk", serde_json::json!({"device": "eth1", "trunk": "west"})),
            ("tunnel", serde_json::json!({"device": "eth1", "tunnels": ["ipip:198.51.100.2"]})),
            ("tunnel", serde_json::json!({"tunnels": ["ipip:198.51.100.2", "ipip:198.51.100.2,prefix=10.0.0.0/8"]})),
            ("prefix", serde_json::json!({"tunnels": ["ipip:198.51.100.2", "ipip:198.51.100.3"]})),
            ("dns", serde_json::json!({"dns": ["0.0.0.0"]})),
            ("gateway", serde_json::json!({"gateway": "224.0.0.1"})),
            ("gateway", serde_json::json!({"gateway": "127.0.0.1"})),
            ("route", serde_json::json!({"routes": [{"to": "10.0.0.1/8"}]})),
            ("route", serde_json::json!({"routes": [{"to": "10.0.0.0/8"}, {"to": "10.0.0.0/8", "via": "10.0.0.1"}]})),
            ("via", serde_json::json!({"routes": [{"to": "10.0.0.0/8", "via": "fd00::1"}]})),
        ];
        for (field, fields) in cases {
            let refused = tenant(|j| {
                for (key, value) in fields.as_object().unwrap() {
                    j[key] = value.clone();
                }
            })
            .expect_err(&fields.to_string());
            assert_eq!(refused.field, field, "{fields}: {refused}");
        }
    }

    #[test]
    fn a_service_is_a_template_or_a_command() {
        let check = |json: serde_json::Value| serde_json::from_value::<ServiceRequest>(json).unwrap().check();
        check(serde_json::json!({"name": "web", "template": "nginx", "set": {"root": "/srv"}})).unwrap();
        check(serde_json::json!({"name": "web", "command": ["/bin/sleep", "1"]})).unwrap();
        let refused = |json| check(json).unwrap_err().field;
        assert_eq!(refused(serde_json::json!({"name": "web"})), "command");
        assert_eq!(refused(serde_json::json!({"name": "web", "command": [""]})), "command");
        assert_eq!(refused(serde_json::json!({"name": "web", "command": ["x", "a\u{0}b"]})), "command");
        assert_eq!(refused(serde_json::json!({"name": "web", "template": "nginx", "command": ["x"]})), "template");
        assert_eq!(refused(serde_json::json!({"name": "web", "command": ["x"], "set": {"a": "b"}})), "set");
    }

    #[test]
    fn routes_as_text() {
        for s in ["10.0.0.0/8", "10.0.0.0/8,via=192.168.1.254", "fd00::/8,via=fd00::1"] {
            assert_eq!(s.parse::<Route>().unwrap().to_string(), s);
        }
        for (s, field) in [
            ("10.0.0.0", "route"),
            ("10.0.0.1/8", "route"),
            ("10.0.0.0/8,192.168.1.1", "route"),
            ("10.0.0.0/8,via=x", "via"),
            ("10.0.0.0/8,via=fd00::1", "via"),
        ] {
            assert_eq!(s.parse::<Route>().unwrap_err().field, field, "{s}");
        }
    }
}
