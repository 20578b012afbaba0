//! Failures in the words of the API.

use std::error::Error;

use stackmap::{Invalid, TenantName};

use crate::access::AccessError;
use crate::control::OpError;
use crate::store::StoreError;
use crate::world::StepError;

/// The whole chain of causes in one line, for a status or a problem.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.ends_with(&words) {
            text = format!("{text}: {words}");
        }
        next = cause.source();
    }
    text
}

pub(super) fn half_made(name: &TenantName, step: &'static str, error: &(dyn Error + 'static)) -> OpError {
    OpError::HalfDone { name: name.clone(), step, cause: chain(error) }
}

/// Something failed before anything was changed, or everything was taken back.
pub(super) fn not_done(name: &TenantName, step: &'static str, error: &(dyn Error + 'static)) -> OpError {
    OpError::Failed { name: name.clone(), step, cause: chain(error) }
}

/// As [`not_done`], but what the access server refuses for a field's sake is told as that field.
pub(super) fn step_refused(name: &TenantName, step: &'static str, error: &StepError) -> OpError {
    let StepError::Access(AccessError::Refused { status, detail, field: Some(field), value, rule }) = error else {
        return not_done(name, step, error);
    };
    let (value, rule) = (value.clone().unwrap_or_default(), rule.clone().unwrap_or_else(|| detail.clone()));
    match status {
        409 => OpError::Conflict { field: field.clone().into(), value, rule: format!("access server: {rule}") },
        _ => Invalid::new(field.clone(), value, format!("access server: {rule}")).into(),
    }
}

pub(super) fn store_step(error: StoreError) -> StepError {
    StepError::File { verb: "forget", path: "the store".into(), source: std::io::Error::other(error) }
}

pub(super) fn conflict(conflict: stackmap::Conflict) -> OpError {
    let told = conflict.to_invalid();
    OpError::Conflict { field: told.field, value: told.value, rule: told.rule.into_owned() }
}
