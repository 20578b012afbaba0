//! The audit: who changed what, when, and what came of it. Every write of the store takes an [`Entry`] and puts it into the
//! same transaction; what was refused, or changed something that is not stored (a service restarted), is noted beside.
//!
//! Pure: entries are made here of what was and what shall be. Secrets are left out: values of settings that are
//! secrets by name and of every environment variable; that one of them changed shows, the value does not. Order is by
//! number (the store gives it); the time is the wall clock's and may jump.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use stackmap::TenantName;
use utoipa::ToSchema;

use crate::control::{OpError, Who};
use crate::model::{EventOrigin, Tenant};
use crate::problem::Problem;
use crate::store::Desired;

/// Longest `before` or `after`, in bytes of JSON; a longer one is left out and its length told.
const LONGEST: usize = 16 * 1024;
/// Longest reason, in characters.
const LONGEST_REASON: usize = 400;
/// What stands for a value that must not be shown.
const HIDDEN: &str = "(not shown)";

/// One change, before it is written.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Unix time in milliseconds.
    pub at_ms: u64,
    /// Who asked.
    pub who: Who,
    /// What was asked for, such as `add-tenant`.
    pub verb: &'static str,
    /// The tenant it is about.
    pub tenant: Option<TenantName>,
    /// The fields that change as they were; none: it was not there, or is not told.
    pub before: Option<Value>,
    /// The fields that change as they shall be; none: it shall not be there, or is not told.
    pub after: Option<Value>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// As asked.
    Done,
    /// Against a rule; nothing was changed.
    Refused(String),
    /// A step failed; nothing was changed, or all was taken back.
    Failed(String),
    /// It is recorded and tried again until it succeeds.
    HalfDone(String),
    /// The daemon ended before it knew.
    Unfinished,
}

impl Outcome {
    /// The outcome of an operation that failed.
    #[must_use]
    pub fn of(error: &OpError) -> Self {
        match error {
            OpError::HalfDone { .. } => Self::HalfDone(short(&error.to_string())),
            OpError::Invalid(refused) => Self::Refused(told_refusal(&refused.field, &error.to_string())),
            OpError::Conflict { field, .. } => Self::Refused(told_refusal(field, &error.to_string())),
            OpError::Unknown { .. } | OpError::Busy { .. } | OpError::BadRow { .. } => {
                Self::Refused(short(&error.to_string()))
            }
            _ => Self::Failed(short(&error.to_string())),
        }
    }

    /// A request that was refused before the owner heard of it; `left_out` others like it are not told.
    #[must_use]
    pub fn refused(problem: &Problem, left_out: u64) -> Self {
        let told = told_refusal(problem.field.as_deref().unwrap_or_default(), &problem.detail);
        match left_out {
            0 => Self::Refused(told),
            left_out => Self::Refused(format!("{told} ({left_out} refusals before this one are not told)")),
        }
    }

    /// Its word, and why.
    #[must_use]
    pub fn words(&self) -> (AuditResult, Option<&str>) {
        match self {
            Self::Done => (AuditResult::Done, None),
            Self::Refused(why) => (AuditResult::Refused, Some(why)),
            Self::Failed(why) => (AuditResult::Failed, Some(why)),
            Self::HalfDone(why) => (AuditResult::HalfDone, Some(why)),
            Self::Unfinished => (AuditResult::Unfinished, None),
        }
    }
}

/// What came of a change, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AuditResult {
    /// It goes on.
    Open,
    /// As asked.
    Done,
    /// Against a rule; nothing was changed.
    Refused,
    /// A step failed; nothing was changed, or all was taken back.
    Failed,
    /// Recorded, and tried again until it succeeds.
    HalfDone,
    /// The daemon ended before it wrote what came of it: the tenant's status tells.
    Unfinished,
}

impl AuditResult {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::HalfDone => "half-done",
            Self::Unfinished => "unfinished",
        }
    }

    /// Reads what [`as_str`](Self::as_str) wrote.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let all = [Self::Open, Self::Done, Self::Refused, Self::Failed, Self::HalfDone, Self::Unfinished];
        all.into_iter().find(|result| result.as_str() == text)
    }
}

/// One row of the audit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AuditRow {
    /// Rising number; the order in which things were done, whatever the clock said.
    pub id: u64,
    /// The store's revision that this change made; none: nothing was stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// Unix time in milliseconds, of the wall clock.
    pub at_ms: u64,
    /// On whose behalf.
    pub origin: EventOrigin,
    /// User id of who asked; none inside a tenant when it was not the tenant itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Group id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Process id as the host sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// What the process called itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// What was asked for.
    pub verb: String,
    /// The tenant it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The fields that changed, as they were; secrets are left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// The fields that changed, as they became.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
    /// What came of it.
    pub result: AuditResult,
    /// Why it was refused or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Which rows are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// Of this tenant only.
    pub tenant: Option<TenantName>,
    /// Only rows about the tenant that has the name now: an earlier one of that name was somebody else.
    pub present: bool,
    /// After this number, oldest first; none: the newest rows.
    pub since: Option<u64>,
    /// How many at most.
    pub limit: usize,
}

/// The last row of a tenant: its name is free from here on.
pub const FORGET: &str = "forget";

impl Query {
    /// Rows when nobody says how many.
    pub const USUAL: usize = 100;
    /// Rows at most.
    pub const MOST: usize = 1000;
}

/// The fields in which two states of a tenant differ, before and after, without secrets.
#[must_use]
pub fn difference(before: Option<&Desired>, after: Option<&Desired>) -> (Option<Value>, Option<Value>) {
    let (Some(old), Some(new)) = (before, after) else {
        return (before.map(whole), after.map(whole));
    };
    let (old_raw, new_raw) = (fields(&old.tenant), fields(&new.tenant));
    let (old_told, new_told) = (fields(&told(&old.tenant)), fields(&told(&new.tenant)));
    let (mut was, mut is) = (Map::new(), Map::new());
    for key in old_raw.keys().chain(new_raw.keys().filter(|key| !old_raw.contains_key(*key))) {
        if old_raw.get(key) == new_raw.get(key) || key == "generation" {
            continue;
        }
        let (old, new) = (old_told.get(key).cloned(), new_told.get(key).cloned());
        let (old, new) = if key == "services" { services(old, new, &old_raw, &new_raw) } else { (old, new) };
        was.extend(old.map(|value| (key.clone(), value)));
        is.extend(new.map(|value| (key.clone(), value)));
    }
    if old.removing != new.removing {
        was.insert("removing".into(), json!(old.removing));
        is.insert("removing".into(), json!(new.removing));
    }
    (Some(bounded(Value::Object(was))), Some(bounded(Value::Object(is))))
}

fn whole(desired: &Desired) -> Value {
    bounded(Value::Object(fields(&told(&desired.tenant))))
}

/// The tenant without its secrets.
fn told(tenant: &Tenant) -> Tenant {
    let mut tenant = tenant.clone().shown();
    let values = tenant.services.iter_mut().flat_map(|service| service.options.env.values_mut());
    values.for_each(|value| HIDDEN.clone_into(value));
    tenant
}

/// Parts of a request whose values may be secrets: settings and environment of services, and a body that is none.
const MAY_BE_SECRET: [&str; 5] = ["set", "env", "options", "command", "body"];

/// The words of a refusal, of a field that may be a secret its name alone: value and rule may say what was sent.
fn told_refusal(field: &str, words: &str) -> String {
    let parts = field.split(['.', '[', ']']);
    match parts.into_iter().find(|part| MAY_BE_SECRET.contains(part)) {
        // What follows may be a key that somebody took for a value.
        Some(part) => format!("{}{part} refused {HIDDEN}", short(field.split(part).next().unwrap_or_default())),
        None => short(words),
    }
}

/// The beginning of what may be long.
fn short(words: &str) -> String {
    match words.char_indices().nth(LONGEST_REASON) {
        Some((end, _)) => format!("{}...", &words[..end]),
        None => words.to_owned(),
    }
}

fn fields(tenant: &Tenant) -> Map<String, Value> {
    match serde_json::to_value(tenant) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

/// Of two lists of services those that differ; a secret that changed makes them differ, though it is not told.
fn services(
    old: Option<Value>,
    new: Option<Value>,
    old_raw: &Map<String, Value>,
    new_raw: &Map<String, Value>,
) -> (Option<Value>, Option<Value>) {
    let list = |all: &Map<String, Value>| all.get("services").and_then(Value::as_array).cloned().unwrap_or_default();
    let (before, after) = (list(old_raw), list(new_raw));
    let differing = |told: Option<Value>, own: &[Value], other: &[Value]| {
        let Some(Value::Array(told)) = told else { return told };
        let kept = told.into_iter().zip(own).filter(|(_, raw)| !other.contains(raw)).map(|(told, _)| told);
        Some(Value::Array(kept.collect()))
    };
    (differing(old, &before, &after), differing(new, &after, &before))
}

fn bounded(value: Value) -> Value {
    let bytes = value.to_string().len();
    if bytes > LONGEST { json!({"left_out_bytes": bytes}) } else { value }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn desired() -> Desired {
        let tenant = json!({
            "name": "acme", "stack": "inet0", "vlan": 600, "gid": 524_288, "device": "dev0", "whole_device": false,
            "mac": null, "addresses": ["192.168.1.1/24"], "tunnels": [], "dns": [], "gateway": null, "routes": [],
            "services": [
                {"name": "web", "template": "nginx"},
                {"name": "db", "template": "postgres", "set": {"password": "sesame", "user": "u"},
                    "options": {"env": {"TOKEN": "hush"}}},
            ], "generation": 1,
        });
        Desired::new(serde_json::from_value(tenant).unwrap())
    }

    #[test]
    fn only_what_differs_is_told() {
        let (old, mut new) = (desired(), desired());
        new.tenant.addresses.push("10.0.0.1/8".parse().unwrap());
        new.tenant.generation = 2;
        let (was, is) = difference(Some(&old), Some(&new));
        assert_eq!(was.unwrap(), json!({"addresses": ["192.168.1.1/24"]}));
        assert_eq!(is.unwrap(), json!({"addresses": ["192.168.1.1/24", "10.0.0.1/8"]}));
        let (was, is) = difference(None, Some(&new));
        assert!(was.is_none() && is.unwrap()["vlan"] == 600);
        new = Desired { removing: true, ..old.clone() };
        assert_eq!(difference(Some(&old), Some(&new)).1.unwrap(), json!({"removing": true}));
    }

    #[test]
    fn a_secret_that_changed_shows_as_changed_and_is_not_told() {
        let (old, mut new) = (desired(), desired());
        new.tenant.services[1].set.insert("password".into(), "mellon".into());
        new.tenant.services[1].options.env.insert("TOKEN".into(), "louder".into());
        let (was, is) = difference(Some(&old), Some(&new));
        let text = format!("{was:?}{is:?}{:?}", difference(None, Some(&new)));
        for secret in ["sesame", "mellon", "hush", "louder"] {
            assert!(!text.contains(secret), "{text}");
        }
        let (was, is) = (was.unwrap(), is.unwrap());
        assert_eq!(was["services"].as_array().unwrap().len(), 1, "the other service did not change: {was}");
        assert_eq!(is["services"][0]["name"], "db");
    }

    #[test]
    fn a_refusal_names_the_field_and_no_secret() {
        let told = |field: &'static str, value: &str| {
            let refused = stackmap::Invalid::new(field, value, format!("must not be {value}"));
            let owners = Outcome::of(&OpError::Invalid(refused.clone()));
            let problem = Problem::at(crate::problem::ProblemKind::Invalid, &refused);
            assert_eq!(owners, Outcome::refused(&problem, 0));
            match owners {
                Outcome::Refused(why) => why,
                other => panic!("{other:?}"),
            }
        };
        for field in ["set.password", "services.db.set.password", "env", "options.env.TOKEN", "body", "command[2]"] {
            let why = told(field, "sesame");
            assert!(!why.contains("sesame") && why.contains("not shown"), "{field}: {why}");
        }
        assert_eq!(told("services.db.set.sesame", "x"), "services.db.set refused (not shown)");
        assert_eq!(told("vlan", "4095"), "vlan: \"4095\" refused: must not be 4095");
        assert!(told("name", &"x".repeat(100_000)).len() < 500);
    }

    #[test]
    fn a_long_field_is_left_out_and_said_to_be() {
        let (old, mut new) = (desired(), desired());
        new.tenant.services[0].command = vec!["x".repeat(LONGEST)];
        let (was, is) = difference(Some(&old), Some(&new));
        assert_eq!(was.unwrap()["services"][0]["name"], "web");
        assert!(is.unwrap()["left_out_bytes"].as_u64().unwrap() > LONGEST as u64);
    }
}
