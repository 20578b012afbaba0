//! `/v1/tenants/{name}/trace`: one flow followed through tables and kernel. A question, so it is a GET.

use axum::Json;
use axum::extract::{RawQuery, State};
use percent_encoding::percent_decode_str;
use stackmap::{Invalid, TenantName};

use super::extract;
use super::openapi::Refused;
use crate::control::Handle;
use crate::problem::Problem;
use crate::trace::{Question, Trace, TraceProtocol};

/// Where does a flow go, and where does it end?
#[utoipa::path(get, path = "/v1/tenants/{name}/trace", tag = "tenants", operation_id = "trace_tenant",
    params(("name" = String, Path, description = "Tenant"),
        ("from" = String, Query, description = "Who begins: an address"),
        ("to" = String, Query, description = "Whom it is for: ADDR, or ADDR:PORT for tcp and udp"),
        ("protocol" = Option<String>, Query, description = "`tcp`, `udp` or `icmp`; tcp with a port, else icmp"),
        ("size" = Option<u32>, Query, description = "Length of the IP packet in bytes")),
    responses((status = 200, description = "Followed; `arrives` says whether it gets there and is answered",
        body = Trace), Refused))]
pub(super) async fn one(
    State(handle): State<Handle>,
    extract::Tenant(name): extract::Tenant,
    RawQuery(query): RawQuery,
) -> Result<Json<Trace>, Problem> {
    let trace = handle.trace(question(name, query.as_deref().unwrap_or_default())?).await?;
    Ok(Json(if handle.tenant().is_some() { trace.seen_from_inside() } else { trace.seen_from_outside() }))
}

fn question(name: TenantName, query: &str) -> Result<Question, Invalid> {
    let (mut from, mut to, mut protocol, mut size) = (None, None, None, 0);
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        let value = percent_decode_str(value).decode_utf8_lossy().into_owned();
        match key {
            "from" => from = Some(value),
            "to" => to = Some(value),
            "protocol" => protocol = Some(protocol_of(&value)?),
            "size" => {
                size = value.parse().map_err(|_| Invalid::new("size", value, "must be a number of bytes"))?;
            }
            _ => {
                let rule = "unknown parameter: must be from, to, protocol or size";
                return Err(Invalid::new(key.to_owned(), value, rule));
            }
        }
    }
    let needed = |field: &'static str| move || Invalid::new(field, "", "must be given");
    Question::new(name, &from.ok_or_else(needed("from"))?, &to.ok_or_else(needed("to"))?, protocol, size)
}

fn protocol_of(text: &str) -> Result<TraceProtocol, Invalid> {
    [TraceProtocol::Tcp, TraceProtocol::Udp, TraceProtocol::Icmp]
        .into_iter()
        .find(|protocol| protocol.to_string() == text)
        .ok_or_else(|| Invalid::new("protocol", text, "must be tcp, udp or icmp"))
}
