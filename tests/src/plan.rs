//! Pure: what a world consists of. Names, addresses and keys of every node follow from the options and
//! a site's number, so every part of the lab and every test computes the same ones.

use std::net::{Ipv4Addr, Ipv6Addr};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Largest number of sites: one /30 of 198.51.100.0/24 each.
pub const MAX_SITES: u16 = 50;

/// The address every tenant's server has, in every closed network.
pub const SERVER_INNER_V4: &str = "192.168.1.1";
/// Its IPv6 sister.
pub const SERVER_INNER_V6: &str = "fd00:192:168:1::1";
/// The address every host has, in every closed network.
pub const HOST_INNER_V4: &str = "192.168.1.10";
/// Its IPv6 sister.
pub const HOST_INNER_V6: &str = "fd00:192:168:1::10";
/// The hosts' hardware address: the same at every site too, because customers' machines may well be clones.
pub const HOST_MAC: &str = "02:00:5e:00:53:0a";
/// Outer IPv4 address of the server.
pub const SERVER_OUTER_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// Outer IPv6 address of the server.
pub const SERVER_OUTER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1);

/// A kind of tunnel, as on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// IP in IP (protocols 4 and 41).
    Ipip,
    /// GRE (protocol 47).
    Gre,
    /// VXLAN (UDP 4789), layer 2.
    Vxlan,
}

impl Kind {
    /// The word used in tunnel specifications.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Ipip => "ipip",
            Self::Gre => "gre",
            Self::Vxlan => "vxlan",
        }
    }
}

/// IP versions inside the tunnels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum Inner {
    /// IPv4 only.
    #[value(name = "4")]
    V4,
    /// IPv6 only.
    #[value(name = "6")]
    V6,
    /// Both.
    #[value(name = "both")]
    Both,
}

impl Inner {
    /// Whether IPv4 is spoken inside.
    #[must_use]
    pub fn v4(self) -> bool {
        self != Self::V6
    }

    /// Whether IPv6 is spoken inside.
    #[must_use]
    pub fn v6(self) -> bool {
        self != Self::V4
    }
}

/// IP version outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum Outer {
    /// Tunnels over IPv4.
    #[value(name = "4")]
    V4,
    /// Tunnels over IPv6.
    #[value(name = "6")]
    V6,
}

/// Who ends the tunnel at the customer's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Gateway {
    /// `access-server site` (the kernel's vxlan device for VXLAN).
    Site,
    /// The kernel's ipip or gre device.
    Kernel,
    /// Nobody: the test brings its own gateway.
    None,
}

/// What to build.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Options {
    /// Name of the world; several may stand side by side.
    pub name: String,
    /// Number of sites.
    pub sites: u16,
    /// Kinds of tunnel; site n uses the n-th, round and round.
    pub kinds: Vec<Kind>,
    /// IP versions inside.
    pub inner: Inner,
    /// IP version outside.
    pub outer: Outer,
    /// Kind of gateway.
    pub gateway: Gateway,
    /// GRE tunnels carry a key.
    pub keyed: bool,
    /// Start both daemons on the server.
    pub server: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: "lab".into(),
            sites: 3,
            kinds: vec![Kind::Ipip],
            inner: Inner::Both,
            outer: Outer::V4,
            gateway: Gateway::Site,
            keyed: false,
            server: true,
        }
    }
}

impl Options {
    /// The sites in order.
    pub fn sites(&self) -> impl Iterator<Item = Site> + '_ {
        (0..self.sites).map(|index| self.site(index))
    }

    /// The site with number `index`, counted from 0.
    #[must_use]
    pub fn site(&self, index: u16) -> Site {
        let kind = self.kinds.get(usize::from(index) % self.kinds.len().max(1)).copied().unwrap_or(Kind::Ipip);
        let key = match kind {
            Kind::Vxlan => Some(1000 + u32::from(index)),
            Kind::Gre if self.keyed => Some(1000 + u32::from(index)),
            _ => None,
        };
        Site { index, kind, key }
    }

    /// What is wrong with the options, in words for a user.
    ///
    /// # Errors
    /// The first rule that is broken: field, value, rule.
    pub fn check(&self) -> Result<(), String> {
        let name_ok = !self.name.is_empty()
            && self.name.len() <= 24
            && self.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !name_ok {
            return Err(format!("--name {:?}: 1 to 24 of a-z, 0-9 and '-'", self.name));
        }
        if self.sites == 0 || self.sites > MAX_SITES {
            return Err(format!("--sites {}: 1 to {MAX_SITES}", self.sites));
        }
        if self.kinds.is_empty() {
            return Err("--tunnel: at least one kind".into());
        }
        Ok(())
    }

    /// All nodes, in the order they are made.
    #[must_use]
    pub fn nodes(&self) -> Vec<String> {
        let mut nodes = vec!["internet".to_owned(), "server".to_owned()];
        for site in self.sites() {
            nodes.push(site.host());
            nodes.push(site.gw());
        }
        nodes
    }
}

/// One customer site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// Number, from 0.
    pub index: u16,
    /// Its tunnel.
    pub kind: Kind,
    /// GRE key or VNI.
    pub key: Option<u32>,
}

impl Site {
    /// `a` ... `z`, `aa`, `ab` ...
    #[must_use]
    pub fn letters(&self) -> String {
        let mut rest = self.index;
        let mut letters = Vec::new();
        loop {
            letters.push(b'a' + u8::try_from(rest % 26).unwrap_or(0));
            if rest < 26 {
                break;
            }
            rest = rest / 26 - 1;
        }
        letters.iter().rev().map(|b| char::from(*b)).collect()
    }

    /// Node of the host.
    #[must_use]
    pub fn host(&self) -> String {
        format!("host-{}", self.letters())
    }

    /// Node of the gateway.
    #[must_use]
    pub fn gw(&self) -> String {
        format!("gw-{}", self.letters())
    }

    /// Name of the tenant `lab up` makes for the site.
    #[must_use]
    pub fn tenant(&self) -> String {
        format!("tenant-{}", self.letters())
    }

    /// VLAN of that tenant: 600, 601, ... as in figure 3.
    #[must_use]
    pub fn vlan(&self) -> u16 {
        600 + self.index
    }

    /// Outer IPv4 address of the gateway (/30).
    #[must_use]
    pub fn outer_v4(&self) -> Ipv4Addr {
        Ipv4Addr::new(198, 51, 100, u8::try_from(self.index * 4 + 2).unwrap_or(u8::MAX))
    }

    /// The internet's IPv4 address on that link.
    #[must_use]
    pub fn internet_v4(&self) -> Ipv4Addr {
        Ipv4Addr::new(198, 51, 100, u8::try_from(self.index * 4 + 1).unwrap_or(u8::MAX))
    }

    /// Outer IPv6 address of the gateway (/64).
    #[must_use]
    pub fn outer_v6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, 1, self.index, 0, 0, 0, 2)
    }

    /// The internet's IPv6 address on that link.
    #[must_use]
    pub fn internet_v6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, 1, self.index, 0, 0, 0, 1)
    }

    /// Outer address of the gateway in the version asked for.
    #[must_use]
    pub fn outer(&self, version: Outer) -> String {
        match version {
            Outer::V4 => self.outer_v4().to_string(),
            Outer::V6 => self.outer_v6().to_string(),
        }
    }

    /// The tunnel as the server's side names it: `KIND:GATEWAY[,local=SERVER][,key=N]`.
    #[must_use]
    pub fn server_tunnel(&self, version: Outer) -> String {
        self.spec(&self.outer(version), &format!(",local={}", server_outer(version)))
    }

    /// The tunnel as the gateway names it: `KIND:SERVER[,key=N]`.
    #[must_use]
    pub fn site_tunnel(&self, version: Outer) -> String {
        self.spec(&server_outer(version), "")
    }

    fn spec(&self, remote: &str, local: &str) -> String {
        let key = self.key.map(|key| format!(",key={key}")).unwrap_or_default();
        format!("{}:{remote}{local}{key}", self.kind.word())
    }
}

/// Outer address of the server in the version asked for.
#[must_use]
pub fn server_outer(version: Outer) -> String {
    match version {
        Outer::V4 => SERVER_OUTER_V4.to_string(),
        Outer::V6 => SERVER_OUTER_V6.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_count_like_columns() {
        let letters = |index| Site { index, kind: Kind::Ipip, key: None }.letters();
        assert_eq!(letters(0), "a");
        assert_eq!(letters(25), "z");
        assert_eq!(letters(26), "aa");
        assert_eq!(letters(49), "ax");
    }

    #[test]
    fn every_site_has_outer_addresses_of_its_own() {
        let options = Options { sites: MAX_SITES, ..Options::default() };
        let mut seen = std::collections::BTreeSet::new();
        for site in options.sites() {
            for address in [site.outer_v4(), site.internet_v4()] {
                assert!(seen.insert(address), "{address} twice");
                assert!(u32::from(address) & 3 != 0, "{address} is a network address");
            }
        }
    }

    #[test]
    fn tunnels_are_written_as_both_sides_read_them() {
        let options = Options { kinds: vec![Kind::Ipip, Kind::Vxlan], ..Options::default() };
        assert_eq!(options.site(0).server_tunnel(Outer::V4), "ipip:198.51.100.2,local=203.0.113.1");
        assert_eq!(options.site(1).site_tunnel(Outer::V6), "vxlan:2001:db8:ffff::1,key=1001");
    }

    #[test]
    fn bad_options_are_named() {
        let name = Options { name: "Lab 1".into(), ..Options::default() };
        assert!(name.check().is_err_and(|e| e.contains("--name")));
        let sites = Options { sites: 51, ..Options::default() };
        assert!(sites.check().is_err_and(|e| e.contains("--sites 51")));
    }
}
