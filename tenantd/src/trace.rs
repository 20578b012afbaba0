//! One flow followed through everything it meets: tunnel, tag, trunk, port, stack, filter, socket, and the answer's way
//! back. Says hop by hop whether the packet goes on, and where it ends, why, and which counter grows there.
//!
//! In: a [`Question`] and [`Parts`] from the owner (names and ways to read, in a moment). `read` then reads the tables of the
//! data path, the kernel's own answers (route, neighbour, socket: it is asked what it would do) and the counters, of this
//! tenant only, so that the cost does not depend on how many there are; `follow` is pure. What is desired is used only to
//! say where the real thing differs from it.
//!
//! Not seen: bits that are lost on the way, queues that are full at the moment, rates (flood limits, shares): the counters
//! shown at their hop are what tells.

mod facts;
mod follow;
mod read;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use stackmap::{Invalid, TenantName};
use utoipa::ToSchema;

pub use facts::Parts;
pub(crate) use read::trace;

/// The longest packet that can be asked about, in bytes.
const SIZE_MAX: u32 = 65_535;

/// A protocol that can be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum TraceProtocol {
    /// TCP: a connection is opened.
    Tcp,
    /// UDP: a datagram is sent.
    Udp,
    /// ICMP or ICMPv6: an echo request is sent.
    Icmp,
}

/// Which flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Tenant.
    pub name: TenantName,
    /// Who begins.
    pub from: IpAddr,
    /// Whom it is for.
    pub to: IpAddr,
    /// Destination port; none with ICMP only.
    pub port: Option<u16>,
    /// Protocol.
    pub protocol: TraceProtocol,
    /// Length of the IP packet in bytes; 0: short enough for every hop.
    pub size: u32,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Trace {
    /// Tenant.
    pub tenant: String,
    /// The flow in words: `tcp 192.168.1.10 -> 192.168.1.1:80`.
    pub flow: String,
    /// `in`: from a site to the tenant's stack; `out`: from the stack to a site.
    pub direction: Direction,
    /// The packet arrives and its answer comes back.
    pub arrives: bool,
    /// Place of the hop where it ends; null: nowhere, or it cannot be known.
    pub ends: Option<String>,
    /// Every hop in order, up to where it ends.
    pub hops: Vec<Hop>,
    /// Counters of the places on the way, as they are now; names as in docs/drops.md, `port_in_packets` and its like.
    pub counters: BTreeMap<String, u64>,
    /// Of them what belongs to no tenant, until it is said who sees the answer.
    #[serde(skip)]
    shared: BTreeMap<String, u64>,
    /// How long it took to find out, in microseconds.
    pub took_us: u64,
}

/// From where to where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From a site to the stack.
    In,
    /// From the stack to a site.
    Out,
}

/// One place on the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Hop {
    /// On the packet's way `there`, or its answer's way `back`.
    pub way: Way,
    /// `tunnel`, `wan`, `trunk`, `port`, `tag`, `device`, `address`, `filter`, `socket`, `route`, `neighbour`.
    pub place: String,
    /// What happens there.
    pub state: HopState,
    /// In words: what was found.
    pub found: String,
    /// Counter that grows with each packet that ends here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counter: Option<HopCounter>,
    /// Where what is found is not what was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub differs: Option<String>,
}

/// The packet or its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// The packet's.
    There,
    /// Its answer's.
    Back,
}

/// What happens at a hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum HopState {
    /// It goes on.
    Ok,
    /// It ends here.
    Ends,
    /// It cannot be known.
    Unknown,
}

/// A counter with its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HopCounter {
    /// Its name, as in docs/drops.md.
    pub name: String,
    /// Its value now.
    pub packets: u64,
    /// It counts packets of every tenant's.
    #[serde(skip)]
    shared: bool,
}

impl Question {
    /// Reads the parts of a question: addresses as text, `to` with a port for TCP and UDP; no protocol means TCP with a
    /// port and ICMP without.
    ///
    /// # Errors
    /// [`Invalid`] for the part that cannot be.
    pub fn new(
        name: TenantName,
        from: &str,
        to: &str,
        protocol: Option<TraceProtocol>,
        size: u32,
    ) -> Result<Self, Invalid> {
        let rule = "must be an IPv4 or IPv6 address";
        let from_address: IpAddr = from.parse().map_err(|_| Invalid::new("from", from, rule))?;
        let (address, port) = match (to.parse::<IpAddr>(), to.parse::<SocketAddr>()) {
            (Ok(address), _) => (address, None),
            (_, Ok(both)) => (both.ip(), Some(both.port())),
            _ => {
                return Err(Invalid::new(
                    "to",
                    to,
                    "must be ADDR or ADDR:PORT, an IPv6 address with a port as [ADDR]:PORT",
                ));
            }
        };
        let protocol = protocol.unwrap_or(if port.is_some() { TraceProtocol::Tcp } else { TraceProtocol::Icmp });
        match (protocol, port) {
            (TraceProtocol::Icmp, Some(_)) => {
                return Err(Invalid::new("to", to, "must have no port: the protocol is icmp"));
            }
            (TraceProtocol::Tcp | TraceProtocol::Udp, None | Some(0)) => {
                return Err(Invalid::new("to", to, "must have a port 1..=65535: the protocol is tcp or udp"));
            }
            _ => {}
        }
        for (field, text, one) in [("from", from, from_address), ("to", to, address)] {
            if one.is_unspecified() || one.is_multicast() || one.is_loopback() {
                return Err(Invalid::new(field, text, "must be a unicast address that can be sent to"));
            }
        }
        if from_address.is_ipv4() != address.is_ipv4() {
            return Err(Invalid::new("to", to, "must be of the same family as from"));
        }
        if size > SIZE_MAX {
            return Err(Invalid::new("size", size, format!("must be at most {SIZE_MAX} bytes")));
        }
        Ok(Self { name, from: from_address, to: address, port, protocol, size })
    }

    /// The flow in words.
    #[must_use]
    pub fn words(&self) -> String {
        let to = self.port.map_or_else(|| self.to.to_string(), |port| SocketAddr::new(self.to, port).to_string());
        let size = if self.size > 0 { format!(", {} bytes", self.size) } else { String::new() };
        format!("{} {} -> {to}{size}", self.protocol, self.from)
    }
}

impl std::fmt::Display for TraceProtocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        })
    }
}

/// Places that are the operator's: a tenant is told that its packet goes on or ends there, and the counter, no more.
const OPERATORS: [&str; 5] = ["tunnel", "wan", "tag", "trunk", "port"];

impl Trace {
    /// As the operator sees it: with what trunk and access server count for all tenants together.
    #[must_use]
    pub fn seen_from_outside(mut self) -> Self {
        for (name, packets) in std::mem::take(&mut self.shared) {
            *self.counters.entry(name).or_default() += packets;
        }
        self
    }

    /// As a tenant's own administrator may see it: without devices, addresses and programs of the host, and without what
    /// is counted for all tenants together, which would tell of the others' traffic.
    #[must_use]
    pub fn seen_from_inside(mut self) -> Self {
        self.shared.clear();
        for hop in &mut self.hops {
            hop.counter = hop.counter.take().filter(|counter| !counter.shared);
        }
        for hop in self.hops.iter_mut().filter(|hop| OPERATORS.contains(&hop.place.as_str())) {
            hop.found = match hop.state {
                HopState::Ok => "goes on".into(),
                HopState::Ends => "ends here; the operator of the host can see why".into(),
                HopState::Unknown => "cannot be known now".into(),
            };
            hop.differs = None;
        }
        self
    }
}
