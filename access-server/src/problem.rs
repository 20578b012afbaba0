//! Problem documents (RFC 9457): the one form in which the API refuses anything, on the server and on the client.
//!
//! The extension members `field`, `value` and `rule` name what was wrong, so that a person or a program can mend
//! exactly that.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

/// The media type of a problem document (RFC 9457 section 3).
pub const MEDIA_TYPE: &str = "application/problem+json";

/// A refused request. (Boxed text keeps it small enough to be returned as an error everywhere.)
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Which kind of problem, a stable URI; never meant to be fetched.
    #[serde(rename = "type")]
    pub kind: Box<str>,
    /// The kind in words, the same for every occurrence.
    pub title: Box<str>,
    /// The HTTP status code, as a number.
    pub status: u16,
    /// This occurrence in one sentence.
    pub detail: Box<str>,
    /// The input field that was refused, as a path (`tunnels[0].remote`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<Box<str>>,
    /// The value that was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Box<str>>,
    /// The rule the value breaks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<Box<str>>,
}

/// The kinds of problem this API knows; each is one `type` URI, one title and one status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProblemKind {
    /// The request is no JSON, or JSON of another shape.
    Malformed,
    /// A value breaks a rule.
    Invalid,
    /// Another row, owner or generation stands against it.
    Conflict,
    /// There is no such row or no such path.
    NotFound,
    /// The method is not defined for the path.
    MethodNotAllowed,
    /// The data path refused or failed.
    DataPath,
    /// The daemon is on its way out.
    Stopping,
    /// The command failed before or beside the API; only the command line says this.
    Failed,
}

impl ProblemKind {
    fn facts(self) -> (&'static str, &'static str, StatusCode) {
        match self {
            Self::Malformed => ("malformed", "The request cannot be read", StatusCode::BAD_REQUEST),
            Self::Invalid => ("invalid", "A value is not valid", StatusCode::UNPROCESSABLE_ENTITY),
            Self::Conflict => ("conflict", "The request contradicts what is there", StatusCode::CONFLICT),
            Self::NotFound => ("not-found", "There is no such thing", StatusCode::NOT_FOUND),
            Self::MethodNotAllowed => {
                ("method-not-allowed", "This path has no such method", StatusCode::METHOD_NOT_ALLOWED)
            }
            Self::DataPath => ("data-path", "The data path could not be changed", StatusCode::INTERNAL_SERVER_ERROR),
            Self::Failed => ("failed", "The command failed", StatusCode::INTERNAL_SERVER_ERROR),
            Self::Stopping => ("stopping", "The daemon is stopping", StatusCode::SERVICE_UNAVAILABLE),
        }
    }
}

impl Problem {
    /// A problem of `kind`, told in `detail`, naming no field yet.
    pub fn new(kind: ProblemKind, detail: impl Into<Box<str>>) -> Self {
        let (name, title, status) = kind.facts();
        Self {
            kind: format!("urn:access-server:problem:{name}").into(),
            title: title.into(),
            status: status.as_u16(),
            detail: detail.into(),
            field: None,
            value: None,
            rule: None,
        }
    }

    /// The same problem, naming the field, the value it had and the rule it breaks.
    #[must_use]
    pub fn at(mut self, field: impl Into<Box<str>>, value: impl Into<Box<str>>, rule: impl Into<Box<str>>) -> Self {
        self.field = Some(field.into());
        self.value = Some(value.into());
        self.rule = Some(rule.into());
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        response
    }
}
