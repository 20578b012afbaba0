//! Problem documents (RFC 9457): the one form in which the API refuses anything, for the server and for the client.
//!
//! `type` is a stable URN to branch on; `field`, `value` and `rule` name what to mend. In goes an [`OpError`] or an
//! [`Invalid`], out goes a document and its HTTP status.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use stackmap::Invalid;
use utoipa::ToSchema;

use crate::control::OpError;
use crate::declare::{Fault, Faults};

/// The media type of a problem document (RFC 9457 section 3).
pub const MEDIA_TYPE: &str = "application/problem+json";

/// A refused or failed request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Kind of problem: a stable URN, never meant to be fetched.
    #[serde(rename = "type")]
    #[schema(example = "urn:tenantd:problem:conflict")]
    pub kind: String,
    /// The kind in words, the same for every occurrence.
    pub title: String,
    /// HTTP status code.
    pub status: u16,
    /// This occurrence in one sentence.
    pub detail: String,
    /// The field that was refused, as a path such as `routes[0].via`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The value it had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The rule it breaks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Of a declarative file: everything that is wrong with it. Only the command line says this.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<Fault>,
    /// The owner's answer, who has told the audit of it. Not part of the document.
    #[serde(skip)]
    #[schema(ignore)]
    pub(crate) is_owners: bool,
}

/// The kinds of problem this API knows: each is one `type`, one title and one status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProblemKind {
    /// The request cannot be read as JSON.
    Malformed,
    /// A value breaks a rule.
    Invalid,
    /// Another tenant holds what was asked for.
    Conflict,
    /// No such tenant, service, tunnel or path.
    Unknown,
    /// The path has no such method.
    Method,
    /// Processes run and `force` was not given.
    Busy,
    /// The tenant is half made or half removed.
    HalfDone,
    /// The store's row of the tenant is damaged, or contradicts another one.
    BadRow,
    /// A step failed and nothing was changed.
    Failed,
    /// The body is longer than this API takes.
    TooLarge,
    /// The body is said to be something else than JSON.
    MediaType,
    /// The caller is neither root nor a member of the group.
    Forbidden,
    /// A tenant asked about, or for a change of, something that is not the tenant itself.
    NotYours,
    /// A tenant asked for what only the operator may do.
    OperatorOnly,
    /// A tenant asks too often.
    TooMany,
    /// A file, a socket or a process could not be had.
    Io,
    /// The daemon is on its way out.
    Closing,
    /// The daemon does not run; only the command line says this.
    NotRunning,
}

impl ProblemKind {
    /// Every kind, for documentation and tests.
    pub const ALL: [Self; 18] = [
        Self::Malformed,
        Self::Invalid,
        Self::Conflict,
        Self::Unknown,
        Self::Method,
        Self::Busy,
        Self::HalfDone,
        Self::BadRow,
        Self::Failed,
        Self::TooLarge,
        Self::MediaType,
        Self::Forbidden,
        Self::NotYours,
        Self::OperatorOnly,
        Self::TooMany,
        Self::Io,
        Self::Closing,
        Self::NotRunning,
    ];

    /// Last part of the URN, title, status.
    fn facts(self) -> (&'static str, &'static str, StatusCode) {
        match self {
            Self::Malformed => ("malformed", "The request cannot be read", StatusCode::BAD_REQUEST),
            Self::Invalid => ("invalid", "A value is not valid", StatusCode::UNPROCESSABLE_ENTITY),
            Self::Conflict => ("conflict", "Another tenant holds this", StatusCode::CONFLICT),
            Self::Unknown => ("unknown", "There is no such thing", StatusCode::NOT_FOUND),
            Self::Method => ("method", "This path has no such method", StatusCode::METHOD_NOT_ALLOWED),
            Self::Busy => ("busy", "Processes of the tenant run", StatusCode::CONFLICT),
            Self::HalfDone => ("half-done", "The tenant is half done", StatusCode::SERVICE_UNAVAILABLE),
            Self::BadRow => ("bad-row", "The tenant's row in the store is not followed", StatusCode::CONFLICT),
            Self::Failed => ("failed", "A step failed, nothing was changed", StatusCode::SERVICE_UNAVAILABLE),
            Self::TooLarge => ("too-large", "The request is too long", StatusCode::PAYLOAD_TOO_LARGE),
            Self::MediaType => ("media-type", "The request is no JSON", StatusCode::UNSUPPORTED_MEDIA_TYPE),
            Self::Forbidden => ("forbidden", "The caller may not speak here", StatusCode::FORBIDDEN),
            Self::NotYours => ("not-yours", "A tenant may speak of itself only", StatusCode::FORBIDDEN),
            Self::OperatorOnly => ("operator-only", "Only the operator may do this", StatusCode::FORBIDDEN),
            Self::TooMany => ("too-many", "The tenant asks too often", StatusCode::TOO_MANY_REQUESTS),
            Self::Io => ("io", "Reading or writing failed", StatusCode::INTERNAL_SERVER_ERROR),
            Self::Closing => ("closing", "The daemon is shutting down", StatusCode::SERVICE_UNAVAILABLE),
            Self::NotRunning => ("not-running", "The daemon is not running", StatusCode::SERVICE_UNAVAILABLE),
        }
    }

    /// The stable URN.
    #[must_use]
    pub fn urn(self) -> String {
        format!("urn:tenantd:problem:{}", self.facts().0)
    }
}

impl Problem {
    /// A problem told in `detail` that names no field.
    #[must_use]
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        let (_, title, status) = kind.facts();
        Self {
            kind: kind.urn(),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            field: None,
            value: None,
            rule: None,
            faults: Vec::new(),
            is_owners: false,
        }
    }

    /// A problem that names field, value and rule; the detail is made of them, in [`Invalid`]'s words.
    #[must_use]
    pub fn at(kind: ProblemKind, refused: &Invalid) -> Self {
        Self {
            field: Some(refused.field.to_string()),
            value: Some(refused.value.clone()),
            rule: Some(refused.rule.to_string()),
            ..Self::new(kind, refused.to_string())
        }
    }

    /// Whether this is of `kind`.
    #[must_use]
    pub fn is(&self, kind: ProblemKind) -> bool {
        self.kind == kind.urn()
    }
}

impl From<Invalid> for Problem {
    fn from(refused: Invalid) -> Self {
        Self::at(ProblemKind::Invalid, &refused)
    }
}

impl From<Faults> for Problem {
    /// Named after the first.
    fn from(faults: Faults) -> Self {
        let detail = faults.to_string();
        let first = faults.0.first().map(|f| Invalid::new(f.field.clone(), &f.value, f.rule.clone()));
        let problem = first.map_or_else(|| Self::new(ProblemKind::Invalid, ""), Self::from);
        Self { detail, faults: faults.0, ..problem }
    }
}

impl From<OpError> for Problem {
    fn from(error: OpError) -> Self {
        let detail = error.to_string();
        let problem = match error {
            OpError::Invalid(refused) => refused.into(),
            OpError::Conflict { field, value, rule } => {
                Self::at(ProblemKind::Conflict, &Invalid::new(field, value, rule))
            }
            OpError::Unknown { what, name } => {
                Self { detail, ..Self::at(ProblemKind::Unknown, &Invalid::new(what, name, "must be there")) }
            }
            OpError::Busy { .. } => Self {
                detail,
                ..Self::at(ProblemKind::Busy, &Invalid::new("force", false, "must be true while processes run"))
            },
            OpError::HalfDone { .. } => Self::new(ProblemKind::HalfDone, detail),
            OpError::CannotVerify { .. } | OpError::CannotMeasure { .. } => Self::new(ProblemKind::Failed, detail),
            OpError::Failed { .. } => Self::new(ProblemKind::Failed, detail),
            OpError::BadRow { .. } => Self::new(ProblemKind::BadRow, detail),
            OpError::CannotRead { .. } | OpError::CannotRestore { .. } => Self::new(ProblemKind::Failed, detail),
            OpError::Closed => Self::new(ProblemKind::Closing, detail),
        };
        Self { is_owners: true, ..problem }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, axum::Json(&self)).into_response();
        // For who tells the audit.
        response.extensions_mut().insert(self);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        response
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn kinds_have_different_urns() {
        let urns: std::collections::BTreeSet<_> = ProblemKind::ALL.iter().map(|k| k.urn()).collect();
        assert_eq!(urns.len(), ProblemKind::ALL.len());
    }

    #[test]
    fn a_conflict_names_field_value_and_holder() {
        let error =
            OpError::Conflict { field: "vlan".into(), value: "600".into(), rule: "is taken by tenant acme".into() };
        let json = serde_json::to_value(Problem::from(error)).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "type": "urn:tenantd:problem:conflict", "title": "Another tenant holds this", "status": 409,
                "detail": "vlan: \"600\" refused: is taken by tenant acme",
                "field": "vlan", "value": "600", "rule": "is taken by tenant acme",
            })
        );
    }

    #[test]
    fn every_operation_error_has_its_kind() {
        let name: stackmap::TenantName = "acme".parse().unwrap();
        let cases = [
            (OpError::Invalid(Invalid::new("vlan", 0, "must be 1..=4094")), ProblemKind::Invalid, 422),
            (OpError::Unknown { what: "tenant", name: "acme".into() }, ProblemKind::Unknown, 404),
            (OpError::Busy { name: name.clone(), processes: 3 }, ProblemKind::Busy, 409),
            (OpError::HalfDone { name: name.clone(), step: "port", cause: "no".into() }, ProblemKind::HalfDone, 503),
            (OpError::Failed { name: name.clone(), step: "probe", cause: "no".into() }, ProblemKind::Failed, 503),
            (OpError::BadRow { name: name.clone(), cause: "no".into() }, ProblemKind::BadRow, 409),
            (OpError::Closed, ProblemKind::Closing, 503),
        ];
        for (error, kind, status) in cases {
            let text = error.to_string();
            let problem = Problem::from(error);
            assert!(problem.is(kind), "{problem:?}");
            assert_eq!(problem.status, status);
            assert_eq!(problem.detail, text);
        }
    }
}
