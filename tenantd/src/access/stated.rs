//! Rows of ours as the access server has them, whole, for comparing with what was stated.

use std::collections::BTreeSet;
use std::net::IpAddr;

use hyper::Method;
use ipnet::IpNet;
use serde::Deserialize;
use stackmap::{MacAddr, TunnelKind, Vlan};

use super::{AccessClient, AccessError, Row};

/// One VLAN's row, as it should be or as it is there.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct StatedRow {
    /// VLAN.
    pub vlan: Vlan,
    /// Who stated it.
    pub owner: String,
    /// Generation last stated.
    pub generation: u64,
    /// The server's Ethernet address on the trunk.
    pub server_mac: MacAddr,
    /// The gateway's.
    pub gateway_mac: MacAddr,
    /// The sites.
    pub tunnels: Vec<StatedTunnel>,
}

/// One tunnel of a row.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct StatedTunnel {
    /// Kind.
    pub kind: TunnelKind,
    /// The customer's gateway.
    pub remote: IpAddr,
    /// The end at the access server; none: whichever it chooses.
    pub local: Option<IpAddr>,
    /// GRE key or VNI.
    pub key: Option<u32>,
    /// What lies behind it.
    pub prefixes: Vec<IpNet>,
}

impl StatedTunnel {
    fn is_as(&self, wanted: &Self) -> bool {
        // Nothing said means everything, and is told so.
        let everything = ["0.0.0.0/0", "::/0"].map(|prefix| prefix.parse::<IpNet>().ok());
        let set = |tunnel: &Self| match tunnel.prefixes.is_empty() {
            true => everything.iter().flatten().copied().collect::<BTreeSet<_>>(),
            false => tunnel.prefixes.iter().copied().collect(),
        };
        (self.kind, self.remote, self.key) == (wanted.kind, wanted.remote, wanted.key)
            && (wanted.local.is_none() || self.local == wanted.local)
            && set(self) == set(wanted)
    }

    fn words(&self) -> String {
        let mut words = format!("{}:{}", self.kind, self.remote);
        words.extend(self.local.map(|local| format!(",local={local}")));
        words.extend(self.key.map(|key| format!(",key={key}")));
        words.extend(self.prefixes.iter().map(|prefix| format!(",prefix={prefix}")));
        words
    }
}

impl StatedRow {
    /// True when the access server's row says what was stated, its own choices left to it.
    #[must_use]
    pub fn is_as(&self, wanted: &Self) -> bool {
        let head = |row: &Self| (row.vlan, row.owner.clone(), row.generation, row.server_mac, row.gateway_mac);
        let each = |tunnel: &StatedTunnel| wanted.tunnels.iter().any(|wanted| tunnel.is_as(wanted));
        head(self) == head(wanted) && self.tunnels.len() == wanted.tunnels.len() && self.tunnels.iter().all(each)
    }

    /// In words; customers' addresses are in them.
    #[must_use]
    pub fn words(&self) -> String {
        let tunnels: Vec<String> = self.tunnels.iter().map(StatedTunnel::words).collect();
        let (owner, generation) = (&self.owner, self.generation);
        let macs = format!("server {}, gateway {}", self.server_mac, self.gateway_mac);
        format!("{} ({owner}, generation {generation}, {macs})", tunnels.join(" "))
    }
}

impl Row {
    /// The row as it should come back.
    #[must_use]
    pub fn stated(&self) -> StatedRow {
        let tunnel = |tunnel: &super::RowTunnel| StatedTunnel {
            kind: tunnel.kind,
            remote: tunnel.remote,
            local: tunnel.local,
            key: tunnel.key,
            prefixes: tunnel.prefixes.clone(),
        };
        StatedRow {
            vlan: self.vlan,
            owner: self.owner.clone(),
            generation: self.generation,
            server_mac: self.server_mac,
            gateway_mac: self.gateway_mac,
            tunnels: self.tunnels.iter().map(tunnel).collect(),
        }
    }
}

impl AccessClient {
    /// Every row of ours as it is there.
    ///
    /// # Errors
    /// [`AccessError`].
    pub async fn stated(&mut self) -> Result<Vec<StatedRow>, AccessError> {
        let mut rows: Vec<StatedRow> = self.call::<(), _>(Method::GET, "/v1/vlans", None).await?;
        rows.retain(|row| row.owner == self.owner);
        Ok(rows)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_as_stated_whatever_the_access_server_chose() {
        let row = |local: Option<&str>, prefixes: &[&str]| -> StatedRow {
            let tunnel = serde_json::json!({"kind": "ipip", "remote": "198.51.100.2", "local": local, "key": null,
                "prefixes": prefixes, "mtu": 1480});
            serde_json::from_value(serde_json::json!({"vlan": 600, "owner": "tenantd/main", "generation": 3,
                "server_mac": "02:00:00:00:00:01", "gateway_mac": "02:00:00:00:00:02", "tunnels": [tunnel]}))
            .unwrap()
        };
        let wanted = row(None, &["10.0.0.0/8", "192.168.1.0/24"]);
        assert!(row(Some("203.0.113.1"), &["192.168.1.0/24", "10.0.0.0/8"]).is_as(&wanted));
        assert!(!row(Some("203.0.113.1"), &["10.0.0.0/8"]).is_as(&wanted));
        let everything = row(Some("203.0.113.1"), &["0.0.0.0/0", "::/0"]);
        assert!(everything.is_as(&row(None, &[])) && !everything.is_as(&wanted));
        assert!(!row(Some("203.0.113.1"), &[]).is_as(&row(Some("203.0.113.2"), &[])));
        let newer = StatedRow { generation: 4, ..wanted.clone() };
        assert!(!newer.is_as(&wanted));
        let none = StatedRow { tunnels: Vec::new(), ..wanted.clone() };
        assert!(!none.is_as(&wanted) && !wanted.is_as(&none));
    }
}
