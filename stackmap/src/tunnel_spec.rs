//! A tunnel as an operator writes it: `KIND:REMOTE[,local=ADDR][,key=N][,prefix=CIDR]...`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::address::check_prefix;
use crate::text::decimal;
use crate::tunnel::{check_end, check_ends, check_key};
use crate::{Invalid, Layer, Site, TunnelId, TunnelKind, parse_prefix};

/// A tunnel as an operator asks for it; its local end may still be open.
///
/// Prefixes are kept sorted, so two specs that mean the same are equal.
/// JSON: `{"kind","remote","local","key","prefixes"}`; the text form is taken too.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct TunnelSpec {
    kind: TunnelKind,
    remote: IpAddr,
    local: Option<IpAddr>,
    key: Option<u32>,
    prefixes: Vec<IpNet>,
}

impl TunnelSpec {
    /// Checks a tunnel's parts.
    ///
    /// # Errors
    /// [`Invalid`] as [`TunnelId::new`], and for a prefix with host bits or given twice.
    pub fn new(
        kind: TunnelKind,
        remote: IpAddr,
        local: Option<IpAddr>,
        key: Option<u32>,
        prefixes: Vec<IpNet>,
    ) -> Result<Self, Invalid> {
        check_end("remote", remote)?;
        if let Some(local) = local {
            check_end("local", local)?;
            check_ends(remote, local)?;
        }
        check_key(kind, key)?;
        let prefixes = checked_prefixes(prefixes)?;
        Ok(Self { kind, remote, local, key, prefixes })
    }

    /// The kind.
    #[must_use]
    pub const fn kind(&self) -> TunnelKind {
        self.kind
    }

    /// The customer's gateway.
    #[must_use]
    pub const fn remote(&self) -> IpAddr {
        self.remote
    }

    /// The access server's address; `None` is "chosen by the access server".
    #[must_use]
    pub const fn local(&self) -> Option<IpAddr> {
        self.local
    }

    /// GRE key or VNI.
    #[must_use]
    pub const fn key(&self) -> Option<u32> {
        self.key
    }

    /// The prefixes as given, sorted; empty stands for everything, see [`Self::effective_prefixes`].
    #[must_use]
    pub fn prefixes(&self) -> &[IpNet] {
        &self.prefixes
    }

    /// The prefixes behind the tunnel: those given, or `0.0.0.0/0` and `::/0` when none is.
    #[must_use]
    pub fn effective_prefixes(&self) -> Vec<IpNet> {
        or_everything(&self.prefixes)
    }

    /// The identity, with `default_local` when the spec names no local end.
    ///
    /// # Errors
    /// [`Invalid`] when the local end is of another family than the remote, equal to it, or no unicast address.
    pub fn resolve(&self, default_local: IpAddr) -> Result<TunnelId, Invalid> {
        let local = self.local.unwrap_or(default_local);
        TunnelId::new(self.kind, self.remote, local, self.key)
    }

    /// The site this spec asks for, with `default_local` when it names no local end.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub fn site(&self, default_local: IpAddr) -> Result<Site, Invalid> {
        Site::new(self.resolve(default_local)?, self.prefixes.clone())
    }

    /// The identity, with the first address of the remote's family out of `locals` when the spec
    /// names no local end.
    ///
    /// # Errors
    /// [`Invalid`] when a named local end is not among `locals`, or none is of the remote's family.
    pub fn resolve_among(&self, locals: &[IpAddr]) -> Result<TunnelId, Invalid> {
        let listed = || {
            let texts: Vec<_> = locals.iter().map(ToString::to_string).collect();
            texts.join(", ")
        };
        match self.local {
            Some(local) if !locals.contains(&local) => {
                let rule = format!("must be a local address of the access server: {}", listed());
                Err(Invalid::new("local", local, rule))
            }
            Some(local) => self.resolve(local),
            None => {
                let same_family = |a: &&IpAddr| a.is_ipv4() == self.remote.is_ipv4();
                let local = locals.iter().find(same_family).ok_or_else(|| {
                    let rule = format!("no local address of its family: {}", listed());
                    Invalid::new("remote", self.remote, rule)
                })?;
                self.resolve(*local)
            }
        }
    }
}

/// Checks each prefix, sorts them and refuses one given twice.
pub(crate) fn checked_prefixes(mut prefixes: Vec<IpNet>) -> Result<Vec<IpNet>, Invalid> {
    prefixes.iter().try_for_each(check_prefix)?;
    prefixes.sort_unstable();
    match prefixes.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(Invalid::new("prefix", pair[0], "is given twice")),
        None => Ok(prefixes),
    }
}

/// The prefixes given, or both default prefixes when none is.
pub(crate) fn or_everything(prefixes: &[IpNet]) -> Vec<IpNet> {
    if prefixes.is_empty() {
        let v4 = Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0);
        let v6 = Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0);
        return vec![v4.into(), v6.into()];
    }
    prefixes.to_vec()
}

/// Checks the layer 3 tunnels of one tenant against each other: one prefix behind two of them
/// leaves open where a packet goes. (Layer 2 tunnels share a link and may overlap.)
///
/// # Errors
/// [`Invalid`] (field `prefix`) naming the prefix and the tunnel that has it already.
pub fn check_prefixes(tunnels: &[TunnelSpec]) -> Result<(), Invalid> {
    let mut holder: BTreeMap<IpNet, &TunnelSpec> = BTreeMap::new();
    for tunnel in tunnels.iter().filter(|t| t.kind.layer() == Layer::Three) {
        for prefix in tunnel.effective_prefixes() {
            if let Some(other) = holder.insert(prefix, tunnel) {
                let rule = format!("lies already behind tunnel {other} of this tenant");
                return Err(Invalid::new("prefix", prefix, rule));
            }
        }
    }
    Ok(())
}

impl FromStr for TunnelSpec {
    type Err = Invalid;

    /// The remote may be IPv6, bare or in brackets; `local`, `key` at most once, in any order.
    fn from_str(s: &str) -> Result<Self, Invalid> {
        let grammar = "must be KIND:REMOTE[,local=ADDR][,key=N][,prefix=CIDR]...";
        let (kind, rest) = s.split_once(':').ok_or_else(|| Invalid::new("tunnel", s, grammar))?;
        let kind = kind.parse()?;
        let mut parts = rest.split(',');
        let remote = parse_end("remote", parts.next().unwrap_or_default())?;
        let (mut local, mut key, mut prefixes) = (None, None, Vec::new());
        for part in parts {
            let (option, value) = part.split_once('=').ok_or_else(|| Invalid::new("tunnel", part, grammar))?;
            let twice = || Err(Invalid::new("tunnel", part, format!("{option} is given twice")));
            match option {
                "local" if local.is_some() => return twice(),
                "local" => local = Some(parse_end("local", value)?),
                "key" if key.is_some() => return twice(),
                "key" => key = Some(parse_key(kind, value)?),
                "prefix" => prefixes.push(parse_prefix(value)?),
                _ => {
                    let rule = "unknown option: must be local, key or prefix";
                    return Err(Invalid::new("tunnel", part, rule));
                }
            }
        }
        Self::new(kind, remote, local, key, prefixes)
    }
}

fn parse_end(field: &'static str, s: &str) -> Result<IpAddr, Invalid> {
    let bad = || Invalid::new(field, s, "must be an IPv4 or IPv6 address");
    match s.strip_prefix('[') {
        Some(rest) => {
            let inner = rest.strip_suffix(']').ok_or_else(bad)?;
            inner.parse().map(IpAddr::V6).map_err(|_| bad())
        }
        None => s.parse().map_err(|_| bad()),
    }
}

fn parse_key(kind: TunnelKind, s: &str) -> Result<u32, Invalid> {
    let rule = match kind {
        TunnelKind::Ipip => "ipip has no key",
        TunnelKind::Gre => "a GRE key must be 0..=4294967295 (32 bits)",
        TunnelKind::Vxlan => "a VNI must be 0..=16777215 (24 bits)",
    };
    decimal(s).and_then(|n| u32::try_from(n).ok()).ok_or_else(|| Invalid::new("key", s, rule))
}

impl fmt::Display for TunnelSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.remote)?;
        if let Some(local) = self.local {
            write!(f, ",local={local}")?;
        }
        if let Some(key) = self.key {
            write!(f, ",key={key}")?;
        }
        for prefix in &self.prefixes {
            write!(f, ",prefix={prefix}")?;
        }
        Ok(())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTunnelSpec {
    kind: TunnelKind,
    remote: IpAddr,
    #[serde(default)]
    local: Option<IpAddr>,
    #[serde(default)]
    key: Option<u32>,
    #[serde(default)]
    prefixes: Vec<IpNet>,
}

/// Takes the object and the text form; an untagged enum would lose the reason of a refusal.
struct ObjectOrText;

impl<'de> Visitor<'de> for ObjectOrText {
    type Value = TunnelSpec;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a tunnel as object {kind, remote, local, key, prefixes} or as text")
    }

    fn visit_str<E: serde::de::Error>(self, s: &str) -> Result<TunnelSpec, E> {
        s.parse().map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<TunnelSpec, A::Error> {
        let raw = RawTunnelSpec::deserialize(MapAccessDeserializer::new(map))?;
        TunnelSpec::new(raw.kind, raw.remote, raw.local, raw.key, raw.prefixes).map_err(serde::de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for TunnelSpec {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(ObjectOrText)
    }
}
