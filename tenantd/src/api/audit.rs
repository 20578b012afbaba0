//! `/v1/audit`: who changed what, and what came of it.

use std::str::FromStr;

use axum::Json;
use axum::extract::{RawQuery, State};
use percent_encoding::percent_decode_str;
use stackmap::{Invalid, TenantName};

use super::openapi::Refused;
use crate::audit::{AuditRow, Query};
use crate::control::Handle;
use crate::model::EventOrigin;
use crate::problem::{Problem, ProblemKind};

/// Who changed what, oldest first; inside a tenant its own rows
#[utoipa::path(get, path = "/v1/audit", tag = "daemon", operation_id = "audit",
    params(
        ("tenant" = Option<String>, Query, description = "Only changes of this tenant, also of one that is gone"),
        ("since" = Option<u64>, Query, description = "Rows after this number; without it the newest ones"),
        ("limit" = Option<usize>, Query, description = "How many at most, 1 to 1000; 100 when left out")
    ),
    responses((status = 200, description = "The rows", body = Vec<AuditRow>), Refused))]
pub(super) async fn read(
    State(handle): State<Handle>,
    RawQuery(query): RawQuery,
) -> Result<Json<Vec<AuditRow>>, Problem> {
    let mut asked = parse(query.as_deref())?;
    if let Some(own) = handle.tenant() {
        if asked.tenant.is_some_and(|named| named != *own) {
            let detail = format!("here only tenant {own} can be asked about or changed");
            return Err(Problem::new(ProblemKind::NotYours, detail));
        }
        asked.tenant = Some(own.clone());
        asked.present = true;
    }
    let mut rows = handle.audit(asked).await?;
    if handle.tenant().is_some() {
        rows.iter_mut().for_each(veil);
    }
    Ok(Json(rows))
}

/// What a tenant may see of a row about itself: of others that they were not itself, and what changed; not who on the host
/// it was, not the words of an answer that was given to somebody else, not the host's paths, not how often others write.
fn veil(row: &mut AuditRow) {
    row.revision = None;
    if row.origin != EventOrigin::Tenant {
        (row.uid, row.gid, row.pid, row.command, row.reason) = (None, None, None, None, None);
    }
    for side in [&mut row.before, &mut row.after] {
        let shares = side.as_mut().and_then(|side| side.get_mut("shares")).and_then(|shares| shares.as_array_mut());
        for share in shares.into_iter().flatten() {
            share["directory"] = share["target"].clone();
        }
    }
}

fn parse(query: Option<&str>) -> Result<Query, Invalid> {
    let mut asked = Query { limit: Query::USUAL, ..Query::default() };
    for part in query.unwrap_or_default().split('&').filter(|part| !part.is_empty()) {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        let value = percent_decode_str(value).decode_utf8_lossy();
        match key {
            "tenant" => asked.tenant = Some(value.parse::<TenantName>().map_err(|e| e.for_field("tenant"))?),
            "since" => asked.since = Some(number("since", &value, 0, u64::try_from(i64::MAX).unwrap_or(u64::MAX))?),
            "limit" => asked.limit = number("limit", &value, 1, Query::MOST)?,
            _ => {
                let rule = "unknown parameter: must be tenant, since or limit";
                return Err(Invalid::new(key.to_owned(), value, rule));
            }
        }
    }
    Ok(asked)
}

fn number<T: FromStr + PartialOrd + std::fmt::Display + Copy>(
    field: &'static str,
    value: &str,
    least: T,
    most: T,
) -> Result<T, Invalid> {
    let number = value.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| Invalid::new(field, value, format!("must be a number from {least} to {most}")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_query_is_read_and_what_is_wrong_with_it_named() {
        let asked = parse(Some("tenant=acme&since=7&limit=1000")).unwrap();
        assert_eq!((asked.tenant.unwrap().as_str(), asked.since, asked.limit), ("acme", Some(7), 1000));
        assert_eq!(parse(None).unwrap().limit, Query::USUAL);
        for (query, field) in
            [("tenant=A", "tenant"), ("limit=0", "limit"), ("limit=1001", "limit"), ("since=-1", "since"), ("x=1", "x")]
        {
            assert_eq!(parse(Some(query)).unwrap_err().field, field, "{query}");
        }
    }
}
