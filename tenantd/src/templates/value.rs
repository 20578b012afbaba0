//! Values of settings: what each kind takes, and what it becomes in a file.

use std::net::IpAddr;

use serde::Deserialize;

use super::{Setting, TemplateError};

/// What the values of a setting look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// One line of text.
    Text,
    /// 1 to 65535.
    Port,
    /// 0 to 1,000,000,000.
    Number,
    /// `yes` or `no`; written in capitals, as the servers that need it want it.
    Flag,
    /// An IPv4 or IPv6 address.
    Address,
    /// A host name: labels of letters, digits and `-`, separated by dots.
    Name,
    /// `name=address;name=address`; each becomes what the template's `each` says.
    Records,
}

/// Longest value in bytes.
const LONGEST: usize = 4096;

/// Checks a value and gives its form for a file.
pub(super) fn write(name: &str, setting: &Setting, value: &str) -> Result<String, TemplateError> {
    let refused = |rule| TemplateError::Value { setting: name.to_owned(), value: value.to_owned(), rule };
    if value.chars().any(char::is_control) {
        return Err(refused("no control characters, not even a line break"));
    }
    if value.len() > LONGEST {
        return Err(refused("at most 4096 bytes"));
    }
    let number = |least: u64, most: u64| {
        let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
        value.parse::<u64>().ok().filter(|number| digits && (least..=most).contains(number))
    };
    match setting.kind {
        Kind::Text => Ok(value.to_owned()),
        Kind::Port => number(1, 65_535).map(|port| port.to_string()).ok_or_else(|| refused("a port, 1 to 65535")),
        Kind::Number => number(0, 1_000_000_000)
            .map(|number| number.to_string())
            .ok_or_else(|| refused("a number, 0 to 1000000000")),
        Kind::Flag => match value {
            "yes" => Ok("YES".to_owned()),
            "no" => Ok("NO".to_owned()),
            _ => Err(refused("yes or no")),
        },
        Kind::Address => {
            value.parse::<IpAddr>().map(|address| address.to_string()).map_err(|_| refused("an IP address"))
        }
        Kind::Name if is_host(value) => Ok(value.to_owned()),
        Kind::Name => Err(refused("a host name")),
        Kind::Records => {
            let each = setting.each.as_deref().unwrap_or_default();
            let mut out = String::new();
            for record in value.split(';').map(str::trim).filter(|record| !record.is_empty()) {
                let pair = record.split_once('=').and_then(|(host, address)| {
                    Some((host, address.parse::<IpAddr>().ok()?)).filter(|(host, _)| is_host(host))
                });
                let (host, address) = pair.ok_or_else(|| refused("records are name=address;name=address"))?;
                out.push_str(&each.replace("{name}", host).replace("{value}", &address.to_string()));
            }
            Ok(out)
        }
    }
}

fn is_host(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label)
}
