//! From bytes to checked values: path parameters, flags of the query, JSON bodies. Whatever is refused leaves as a
//! problem that names field, value and rule.
#![allow(clippy::result_large_err, reason = "a refusal is made once a request and leaves at once")]

use std::str::FromStr;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, RawPathParams, Request};
use axum::http::header;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use stackmap::{Invalid, TenantName, TunnelSpec};

use super::BODY_MAX;
use super::inside::BodyMax;
use crate::explain::explain;
use crate::problem::{Problem, ProblemKind};

/// `{name}` of the path.
pub(super) struct Tenant(pub(super) TenantName);

/// `{name}` and `{service}` of the path.
pub(super) struct Service(pub(super) TenantName, pub(super) TenantName);

/// `{name}` and `{spec}` of the path.
pub(super) struct Tunnel(pub(super) TenantName, pub(super) TunnelSpec);

/// Another part of a path.
pub(super) trait Part: Sized {
    /// Its name there.
    const NAME: &'static str;
    /// Reads it.
    fn parse(text: &str) -> Result<Self, Invalid>;
}

/// `{name}` of the path and another part of it.
pub(super) struct Of<T>(pub(super) TenantName, pub(super) T);

impl<T: Part, S: Sync> FromRequestParts<S> for Of<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let text = text(parts, T::NAME).await?;
        Ok(Self(parameter(parts, "name").await?, T::parse(&text)?))
    }
}

/// One part of a path that is about no tenant.
pub(super) struct Only<T>(pub(super) T);

impl<T: Part, S: Sync> FromRequestParts<S> for Only<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(Self(T::parse(&text(parts, T::NAME).await?)?))
    }
}

async fn text(parts: &mut Parts, name: &'static str) -> Result<String, Problem> {
    let params = RawPathParams::from_request_parts(parts, &())
        .await
        .map_err(|e| Problem::new(ProblemKind::Malformed, e.body_text()))?;
    Ok(params.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned()).unwrap_or_default())
}

async fn parameter<T: FromStr<Err = Invalid>>(parts: &mut Parts, name: &'static str) -> Result<T, Problem> {
    let text = text(parts, name).await?;
    text.parse::<T>().map_err(|e| if e.field == "name" { e.for_field(name).into() } else { e.into() })
}

impl<S: Sync> FromRequestParts<S> for Tenant {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(Self(parameter(parts, "name").await?))
    }
}

impl<S: Sync> FromRequestParts<S> for Service {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(Self(parameter(parts, "name").await?, parameter(parts, "service").await?))
    }
}

impl<S: Sync> FromRequestParts<S> for Tunnel {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(Self(parameter(parts, "name").await?, parameter(parts, "spec").await?))
    }
}

/// Reads the one flag a path may have in its query: `?name`, `?name=true`, `?name=false`; false when left out.
pub(super) fn flag(query: Option<&str>, name: &'static str) -> Result<bool, Problem> {
    flags(query, [name]).map(|[flag]| flag)
}

/// As [`flag`], of several.
pub(super) fn flags<const N: usize>(query: Option<&str>, names: [&'static str; N]) -> Result<[bool; N], Problem> {
    let mut flags = [false; N];
    for part in query.unwrap_or_default().split('&').filter(|part| !part.is_empty()) {
        let (key, value) = part.split_once('=').unwrap_or((part, "true"));
        let Some(at) = names.iter().position(|name| *name == key) else {
            let rule = format!("unknown parameter: must be {}", names.join(" or "));
            return Err(Invalid::new(key.to_owned(), value, rule).into());
        };
        flags[at] = match value {
            "true" => true,
            "false" => false,
            _ => return Err(Invalid::new(names[at], value, "must be true or false").into()),
        };
    }
    Ok(flags)
}

/// A JSON body.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Sync + Send> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(mut request: Request, state: &S) -> Result<Self, Problem> {
        check_media_type(&request)?;
        let max = request.extensions().get::<BodyMax>().map_or(BODY_MAX, |max| max.0);
        DefaultBodyLimit::max(max).apply(&mut request);
        let bytes = Bytes::from_request(request, state).await.map_err(|e| match e.status().as_u16() {
            413 => {
                let rule = format!("must be at most {max} bytes");
                Problem::at(ProblemKind::TooLarge, &Invalid::new("body", "", rule))
            }
            _ => Problem::new(ProblemKind::Malformed, e.body_text()),
        })?;
        parse(&bytes).map(Self)
    }
}

/// None said is taken for JSON.
fn check_media_type(request: &Request) -> Result<(), Problem> {
    let Some(value) = request.headers().get(header::CONTENT_TYPE) else { return Ok(()) };
    let text = value.to_str().unwrap_or_default();
    let essence = text.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let refused = Invalid::new("content-type", text, "must be application/json");
    Err(Problem::at(ProblemKind::MediaType, &refused))
}

/// Reads JSON; a refusal names the field by its path, such as `routes[0].via`.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|e| refusal(bytes, &e))?;
    json.end().map_err(|e| malformed(&e))?;
    Ok(value)
}

fn malformed(error: &serde_json::Error) -> Problem {
    let refused = Invalid::new("body", "", format!("must be JSON: {error}"));
    Problem::at(ProblemKind::Malformed, &refused)
}

fn refusal(bytes: &[u8], error: &serde_path_to_error::Error<serde_json::Error>) -> Problem {
    let inner = error.inner();
    if inner.classify() != Category::Data {
        return malformed(inner);
    }
    let text = inner.to_string();
    let place = format!(" at line {} column {}", inner.line(), inner.column());
    let rule = text.strip_suffix(&place).unwrap_or(&text);
    // What comes behind the refused value may be no JSON at all.
    let root = serde_json::from_slice(bytes).unwrap_or_default();
    explain(&root, error.path(), rule).0.into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use crate::model::{Route, TenantRequest};

    fn refused(json: &str) -> (String, String, String) {
        let p = parse::<TenantRequest>(json.as_bytes()).unwrap_err();
        assert!(p.is(ProblemKind::Invalid), "{p:?}");
        (p.field.unwrap(), p.value.unwrap(), p.rule.unwrap())
    }

    #[test]
    fn refusals_name_field_value_and_rule() {
        let with = |more: &str| refused(&format!(r#"{{"name":"acme","addresses":["192.168.1.1/24"],{more}}}"#));
        let cases = [
            (with(r#""vlan":4095"#), "vlan", "4095", "1..=4094"),
            (with(r#""vlan":0"#), "vlan", "0", "1..=4094"),
            (with(r#""vlan":"six""#), "vlan", "six", "1..=4094"),
            (with(r#""vlan":true"#), "vlan", "true", "VLAN number"),
            (with(r#""colour":"red""#), "colour", "red", "unknown field"),
            (with(r#""routes":[{"to":"10.0.0.0/8","by":"x"}]"#), "routes[0].by", "x", "unknown field"),
            (with(r#""routes":[{"to":"10.0.0.0"}]"#), "routes[0].to", "10.0.0.0", "invalid"),
            (with(r#""tunnels":["ipip:198.51.100.2,key=7"]"#), "tunnels[0].key", "7", "no key"),
            (with(r#""tunnels":["sit:198.51.100.2"]"#), "tunnels[0].kind", "sit", "ipip, gre or vxlan"),
            (
                with(r#""tunnels":[{"kind":"vxlan","remote":"198.51.100.2","key":16777216}]"#),
                "tunnels[0].key",
                "16777216",
                "24 bits",
            ),
            (
                with(r#""tunnels":[{"kind":"ipip","remote":"198.51.100.2","local":"198.51.100.2"}]"#),
                "tunnels[0].remote",
                "198.51.100.2",
                "must not be the local",
            ),
            (
                with(r#""tunnels":[{"kind":"ipip","remote":"198.51.100.2","ttl":3}]"#),
                "tunnels[0].ttl",
                "3",
                "unknown field",
            ),
            (with(r#""vlan":1,"vlan":2"#), "vlan", "2", "given twice"),
            (refused(r#"{"name":"Acme","addresses":[]}"#), "name", "Acme", "DNS label"),
            (refused(r#"{"name":"acme"}"#), "addresses", "", "missing"),
            (refused(r#"{"name":"acme","addresses":"x"}"#), "addresses", "x", "invalid type"),
            (refused(r#"[]"#), "body", "[]", "invalid"),
            (refused(r#"{"name":"acme","addresses":["192.168.1.1/33"]}"#), "addresses[0]", "192.168.1.1/33", "invalid"),
        ];
        for ((field, value, rule), want_field, want_value, want_rule) in cases {
            assert_eq!(field, want_field, "{value} {rule}");
            assert_eq!(value, want_value, "{field} {rule}");
            assert!(rule.contains(want_rule), "{field}: {rule}");
        }
    }

    #[test]
    fn what_is_no_json_is_malformed() {
        for text in ["", "{", "{} x", "nul", "\"\u{7}\"", &"[".repeat(5000)] {
            let p = parse::<Vec<Route>>(text.as_bytes()).unwrap_err();
            assert!(p.is(ProblemKind::Malformed) || p.is(ProblemKind::Invalid), "{text}: {p:?}");
            assert_eq!(p.field.as_deref().map(|f| f.starts_with("body") || f.starts_with('[')), Some(true), "{p:?}");
        }
        assert!(parse::<Vec<Route>>(b"[]").unwrap().is_empty());
    }

    proptest::proptest! {
        /// Whatever comes, it is taken or refused by field; nothing of it may stop the daemon.
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            if let Err(problem) = parse::<TenantRequest>(&bytes) {
                proptest::prop_assert!(problem.field.is_some());
            }
        }

        /// A good request with one thing in it replaced.
        #[test]
        fn any_value_in_any_place_is_answered(place in 0_usize..9, value in 0_usize..11) {
            let places = [
                "/name", "/vlan", "/gid", "/addresses", "/addresses/0", "/tunnels/0", "/tunnels/0/kind",
                "/tunnels/0/prefixes", "/routes/0/to",
            ];
            let values = [
                "null", "true", "-1", "1e99", "18446744073709551616", "\"\"", "\" refused: \"", "[]", "[[[]]]", "{}",
                "{\"\":{\"a.b[0]\":1}}",
            ];
            let mut request = serde_json::json!({
                "name": "acme", "vlan": 1, "gid": 524_288, "addresses": ["10.0.0.1/8"],
                "tunnels": [{"kind": "ipip", "remote": "198.51.100.2", "prefixes": []}], "routes": [{"to": "10.0.0.0/8"}]
            });
            *request.pointer_mut(places[place]).unwrap() = serde_json::from_str(values[value]).unwrap_or_default();
            if let Err(problem) = parse::<TenantRequest>(request.to_string().as_bytes()) {
                let field = problem.field.unwrap_or_default();
                let root = places[place].split('/').nth(1).unwrap();
                proptest::prop_assert!(field.starts_with(root), "{} for {}", field, places[place]);
            }
        }
    }

    #[test]
    fn flags() {
        assert!(!flag(None, "force").unwrap());
        assert!(flag(Some("force"), "force").unwrap());
        assert!(flag(Some("force=true"), "force").unwrap());
        assert!(!flag(Some("force=false"), "force").unwrap());
        assert_eq!(flag(Some("force=1"), "force").unwrap_err().field.as_deref(), Some("force"));
        assert_eq!(flag(Some("forec=true"), "force").unwrap_err().field.as_deref(), Some("forec"));
    }
}
