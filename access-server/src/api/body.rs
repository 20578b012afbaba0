//! Request bodies: read as loose text and numbers, then made into checked values, so that a refusal can name the
//! field, the value and the rule whatever is wrong.

use std::net::IpAddr;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::{Path, Segment};
use stackmap::{Generation, Invalid, Origin, Owner, TunnelSpec, Vlan, parse_prefix};

use crate::gateway::RowRequest;
use crate::problem::{Problem, ProblemKind};

/// A row as sent.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RowBody {
    vlan: Option<u64>,
    owner: Option<String>,
    generation: u64,
    #[serde(default)]
    origin: Option<String>,
    #[serde(default)]
    lifetime_s: Option<u64>,
    #[serde(default)]
    server_mac: Option<String>,
    #[serde(default)]
    gateway_mac: Option<String>,
    tunnels: Vec<TunnelBody>,
}

/// A tunnel as sent.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TunnelBody {
    kind: String,
    remote: String,
    #[serde(default)]
    local: Option<String>,
    #[serde(default)]
    key: Option<u64>,
    #[serde(default)]
    prefixes: Vec<String>,
}

/// All rows of an owner as sent.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RowsBody {
    rows: Vec<RowBody>,
}

impl RowsBody {
    /// The rows as requests of `owner`.
    pub(super) fn requests(self, owner: &Owner) -> Result<Vec<RowRequest>, Invalid> {
        let rows = self.rows.into_iter().enumerate();
        rows.map(|(index, row)| row.request_of(owner).map_err(|invalid| under(format!("rows[{index}]"), invalid)))
            .collect()
    }
}

impl RowBody {
    /// The row as a request for `vlan`, which the path named.
    pub(super) fn request_for(self, vlan: Vlan) -> Result<RowRequest, Invalid> {
        if let Some(other) = self.vlan.filter(|&id| id != u64::from(vlan.get())) {
            return Err(Invalid::new("vlan", other, format!("must be {vlan} as in the path, or left out")));
        }
        let owner = self.owner.as_deref().ok_or_else(|| Invalid::new("owner", "", "must be given"))?.parse()?;
        self.request(vlan, owner)
    }

    /// The row as a request of `owner`, whom the path named.
    fn request_of(self, owner: &Owner) -> Result<RowRequest, Invalid> {
        if let Some(other) = self.owner.as_deref().filter(|&name| name != owner.as_str()) {
            return Err(Invalid::new("owner", other, format!("must be {owner} as in the path, or left out")));
        }
        let vlan = self.vlan.ok_or_else(|| Invalid::new("vlan", "", "must be given"))?.to_string().parse()?;
        self.request(vlan, owner.clone())
    }

    fn request(self, vlan: Vlan, owner: Owner) -> Result<RowRequest, Invalid> {
        let tunnels = self.tunnels.into_iter().enumerate();
        Ok(RowRequest {
            vlan,
            owner,
            generation: Generation(self.generation),
            origin: optional::<Origin>("origin", self.origin)?.unwrap_or_default(),
            lifetime_s: self.lifetime_s,
            server_mac: optional("server_mac", self.server_mac)?,
            gateway_mac: optional("gateway_mac", self.gateway_mac)?,
            tunnels: tunnels
                .map(|(index, tunnel)| tunnel.spec().map_err(|invalid| under(format!("tunnels[{index}]"), invalid)))
                .collect::<Result<_, _>>()?,
        })
    }
}

impl TunnelBody {
    fn spec(self) -> Result<TunnelSpec, Invalid> {
        let kind = self.kind.parse()?;
        let remote = address("remote", &self.remote)?;
        let local = self.local.as_deref().map(|local| address("local", local)).transpose()?;
        let key = self
            .key
            .map(|key| u32::try_from(key).map_err(|_| Invalid::new("key", key, "must be 0..=4294967295 (32 bits)")));
        let prefixes = self.prefixes.iter().map(|prefix| parse_prefix(prefix)).collect::<Result<_, _>>();
        TunnelSpec::new(kind, remote, local, key.transpose()?, prefixes?)
    }
}

fn address(field: &'static str, text: &str) -> Result<IpAddr, Invalid> {
    text.parse().map_err(|_| Invalid::new(field, text, "must be an IPv4 or IPv6 address"))
}

fn optional<T: FromStr<Err = Invalid>>(field: &'static str, text: Option<String>) -> Result<Option<T>, Invalid> {
    text.map(|text| text.parse::<T>().map_err(|invalid| invalid.for_field(field))).transpose()
}

fn under(parent: String, invalid: Invalid) -> Invalid {
    let field = format!("{parent}.{}", invalid.field);
    invalid.for_field(field)
}

/// Reads a JSON body.
pub(super) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let body = serde_path_to_error::deserialize(&mut reader).map_err(|error| refuse(bytes, &error))?;
    reader.end().map_err(|error| malformed(bytes, &error))?;
    Ok(body)
}

fn malformed(bytes: &[u8], error: &serde_json::Error) -> Problem {
    // Enough to recognise it by.
    let start = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]);
    Problem::new(ProblemKind::Malformed, format!("the body is not JSON: {error}")).at(
        "body",
        start.as_ref(),
        format!("must be JSON: {error}"),
    )
}

fn refuse(bytes: &[u8], error: &serde_path_to_error::Error<serde_json::Error>) -> Problem {
    if !error.inner().is_data() {
        return malformed(bytes, error.inner());
    }
    let (path, told) = (error.path().to_string(), error.inner().to_string());
    if let Some(name) = told.strip_prefix("missing field `").and_then(|rest| rest.split('`').next()) {
        let field = if path == "." { name.to_owned() } else { format!("{path}.{name}") };
        return Invalid::new(field, "", "must be given").into();
    }
    let value = serde_json::from_slice::<Value>(bytes).ok().and_then(|body| at(&body, error.path()));
    // serde_json ends its messages with the place, which a person finds by the field's name.
    let rule = told.split(" at line ").next().unwrap_or_default().to_owned();
    Invalid::new(path, value.unwrap_or_default(), rule).into()
}

/// The value at `path` as JSON text.
fn at(body: &Value, path: &Path) -> Option<String> {
    let mut value = body;
    for segment in path {
        value = match segment {
            Segment::Seq { index } => value.get(*index)?,
            Segment::Map { key } => value.get(key)?,
            Segment::Enum { .. } | Segment::Unknown => return None,
        };
    }
    Some(value.to_string())
}
