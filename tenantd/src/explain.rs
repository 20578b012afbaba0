//! What serde says of a value, told as field, value and rule: one translation for the bodies of requests and for the
//! declarative file. Pure.

use serde_json::Value;
use serde_path_to_error::Path;
use stackmap::Invalid;

/// The refusal of a part of `root`. `path` leads to the part, `rule` is what the reader said of it. Besides comes the
/// name of the field below `path` that is meant, if it is not what `path` leads to.
pub(crate) fn explain(root: &Value, path: &Path, rule: &str) -> (Invalid, Option<String>) {
    let path = match path.to_string() {
        path if path == "." => String::new(),
        path => path,
    };
    let below = |name: &str| (!ends_with_field(&path, name)).then(|| name.to_owned());
    // A field that is not there is named by the rule alone: the path ends at the object around it.
    if let Some(missing) = rule.strip_prefix("missing field `").and_then(|r| r.strip_suffix('`')) {
        return (Invalid::new(join(&path, missing), "", "is missing"), Some(missing.to_owned()));
    }
    if let Some(twice) = rule.strip_prefix("duplicate field `").and_then(|r| r.strip_suffix('`')) {
        let field = if ends_with_field(&path, twice) { path.clone() } else { join(&path, twice) };
        let value = at_path(root, &field).unwrap_or_default();
        return (Invalid::new(field, value, "is given twice"), below(twice));
    }
    if let Some((name, rest)) = rule.strip_prefix("unknown field `").and_then(|r| r.split_once('`')) {
        let field = if ends_with_field(&path, name) { path.clone() } else { join(&path, name) };
        let value = at_path(root, &field).unwrap_or_default();
        return (Invalid::new(field, value, format!("unknown field{rest}")), below(name));
    }
    // Our own types refuse in the words of `Invalid`, which serde can only carry as text.
    if let Some((inner_field, value, rule)) = as_invalid(rule) {
        if !path.is_empty() && (ends_with_field(&path, inner_field) || is_scalar(root, &path)) {
            return (Invalid::new(path, value, rule.to_owned()), None);
        }
        let below = Some(inner_field.to_owned());
        return (Invalid::new(join(&path, inner_field), value, rule.to_owned()), below);
    }
    let value = at_path(root, &path).unwrap_or_default();
    let field = if path.is_empty() { "body".to_owned() } else { path };
    (Invalid::new(field, value, rule.to_owned()), None)
}

fn join(path: &str, field: &str) -> String {
    if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") }
}

fn ends_with_field(path: &str, field: &str) -> bool {
    path.rsplit('.').next() == Some(field)
}

/// Takes `field: "value" refused: rule` apart.
fn as_invalid(text: &str) -> Option<(&str, String, &str)> {
    let (left, rule) = text.split_once("\" refused: ")?;
    let (field, value) = left.split_once(": \"")?;
    Some((field, value.to_owned(), rule))
}

/// Whether the value at `path` has no parts a caller would name: a number, or a text that is the whole field.
fn is_scalar(root: &Value, path: &str) -> bool {
    let last = path.rsplit('.').next().unwrap_or_default();
    // A tunnel as text has parts with names of their own.
    !last.starts_with("tunnels[") && find(root, path).is_some_and(|v| !v.is_object() && !v.is_array())
}

/// The value at `path` as text.
fn at_path(root: &Value, path: &str) -> Option<String> {
    match find(root, path)? {
        Value::String(text) => Some(text.clone()),
        value => Some(value.to_string().chars().take(200).collect()),
    }
}

fn find<'a>(root: &'a Value, path: &str) -> Option<&'a Value> {
    if path.is_empty() {
        return Some(root);
    }
    let mut value = root;
    for part in path.split('.') {
        let (name, indices) = part.split_once('[').map_or((part, None), |(name, rest)| (name, Some(rest)));
        if !name.is_empty() {
            value = value.get(name)?;
        }
        for index in indices.into_iter().flat_map(|rest| rest.trim_end_matches(']').split("][")) {
            value = value.get(index.parse::<usize>().ok()?)?;
        }
    }
    Some(value)
}
