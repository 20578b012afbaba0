//! A tunnel's identity: kind, remote, local, key.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Invalid;
use crate::address::not_unicast;
use crate::text::serde_as_text;

/// What a tunnel carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layer {
    /// Ethernet frames; ARP and ND go through.
    Two,
    /// IP packets.
    Three,
}

/// The kinds of tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TunnelKind {
    /// IP in IP, all four family combinations (RFC 2003, RFC 4213, RFC 2473).
    Ipip,
    /// GRE, key optional (RFC 2784, RFC 2890).
    Gre,
    /// VXLAN; the key is the VNI (RFC 7348).
    Vxlan,
}

impl TunnelKind {
    /// Every kind, in the order they are listed to users.
    pub const ALL: [Self; 3] = [Self::Ipip, Self::Gre, Self::Vxlan];

    /// The name as users write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ipip => "ipip",
            Self::Gre => "gre",
            Self::Vxlan => "vxlan",
        }
    }

    /// What the tunnel carries.
    #[must_use]
    pub const fn layer(self) -> Layer {
        match self {
            Self::Ipip | Self::Gre => Layer::Three,
            Self::Vxlan => Layer::Two,
        }
    }

    /// Whether a tunnel of this kind can have a key.
    #[must_use]
    pub const fn has_key(self) -> bool {
        !matches!(self, Self::Ipip)
    }

    /// The word for the key in rows.
    const fn key_word(self) -> &'static str {
        match self {
            Self::Ipip | Self::Gre => "key",
            Self::Vxlan => "vni",
        }
    }
}

impl FromStr for TunnelKind {
    type Err = Invalid;

    fn from_str(s: &str) -> Result<Self, Invalid> {
        let known = Self::ALL.into_iter().find(|k| k.as_str() == s);
        known.ok_or_else(|| Invalid::new("kind", s, "must be ipip, gre or vxlan"))
    }
}

impl fmt::Display for TunnelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

serde_as_text!(TunnelKind);

/// The largest VNI: 24 bits.
const VNI_MAX: u32 = 0x00ff_ffff;

pub(crate) fn check_key(kind: TunnelKind, key: Option<u32>) -> Result<(), Invalid> {
    match (kind, key) {
        (TunnelKind::Ipip, Some(k)) => Err(Invalid::new("key", k, "ipip has no key")),
        (TunnelKind::Vxlan, None) => Err(Invalid::new("key", "", "vxlan needs a key (its VNI)")),
        (TunnelKind::Vxlan, Some(k)) if k > VNI_MAX => {
            Err(Invalid::new("key", k, "a VNI must be 0..=16777215 (24 bits)"))
        }
        _ => Ok(()),
    }
}

/// Checks one end of a tunnel.
pub(crate) fn check_end(field: &'static str, addr: IpAddr) -> Result<(), Invalid> {
    if let Some(rule) = not_unicast(addr) {
        return Err(Invalid::new(field, addr, rule));
    }
    match addr {
        // A link-local address means nothing without its link, which a tunnel does not name.
        IpAddr::V6(a) if a.is_unicast_link_local() => {
            Err(Invalid::new(field, addr, "must not be a link-local address"))
        }
        _ => Ok(()),
    }
}

/// Checks the two ends against each other.
pub(crate) fn check_ends(remote: IpAddr, local: IpAddr) -> Result<(), Invalid> {
    if remote == local {
        return Err(Invalid::new("remote", remote, "must not be the local address"));
    }
    if remote.is_ipv4() != local.is_ipv4() {
        let rule = format!("must be of the same family as the remote {remote}");
        return Err(Invalid::new("local", local, rule));
    }
    Ok(())
}

/// A tunnel's identity: no two tunnels of an access server have the same.
///
/// Written `ipip (198.51.100.2, 203.0.113.1)`: remote, then local; `key 7` or `vni 7` behind them.
/// JSON: `{"kind","remote","local","key"}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "RawTunnelId")]
pub struct TunnelId {
    kind: TunnelKind,
    remote: IpAddr,
    local: IpAddr,
    key: Option<u32>,
}

impl TunnelId {
    /// Checks a tunnel's parts.
    ///
    /// # Errors
    /// [`Invalid`] for an end that is no unicast address, ends that are equal or of different
    /// families, a key where the kind has none, no key where it needs one, a VNI above 24 bits.
    pub fn new(kind: TunnelKind, remote: IpAddr, local: IpAddr, key: Option<u32>) -> Result<Self, Invalid> {
        check_end("remote", remote)?;
        check_end("local", local)?;
        check_ends(remote, local)?;
        check_key(kind, key)?;
        Ok(Self { kind, remote, local, key })
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

    /// The access server's address.
    #[must_use]
    pub const fn local(&self) -> IpAddr {
        self.local
    }

    /// GRE key or VNI.
    #[must_use]
    pub const fn key(&self) -> Option<u32> {
        self.key
    }
}

impl fmt::Display for TunnelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, {}", self.kind, self.remote, self.local)?;
        if let Some(key) = self.key {
            write!(f, ", {} {key}", self.kind.key_word())?;
        }
        f.write_str(")")
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTunnelId {
    kind: TunnelKind,
    remote: IpAddr,
    local: IpAddr,
    #[serde(default)]
    key: Option<u32>,
}

impl TryFrom<RawTunnelId> for TunnelId {
    type Error = Invalid;

    fn try_from(raw: RawTunnelId) -> Result<Self, Invalid> {
        Self::new(raw.kind, raw.remote, raw.local, raw.key)
    }
}
