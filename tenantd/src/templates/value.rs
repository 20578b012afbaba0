//! Values of settings: what each kind takes, and what it becomes in a file.

use std::net::IpAddr;

use ipnet::IpNet;
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
    /// `network,network` in CIDR form; each becomes what the template's `each` says.
    Networks,
    /// The name of a user of the tenant.
    User,
    /// A password; never shown, in no argument of a program and in no log.
    Secret,
}

impl Kind {
    /// What an operator has to write.
    pub fn form(self) -> &'static str {
        match self {
            Self::Text => "one line of text",
            Self::Port => "a port, 1 to 65535",
            Self::Number => "a number, 0 to 1000000000",
            Self::Flag => "yes or no",
            Self::Address => "an IP address",
            Self::Name => "a host name",
            Self::Records => "records, name=address;name=address",
            Self::Networks => "networks, 192.168.1.0/24,fd00::/8",
            Self::User => {
                "a user name: lower case letters, digits, _ and -, at most 32, not beginning with a digit or -"
            }
            Self::Secret => "8 to 128 printable ASCII characters without spaces, quotes and backslashes",
        }
    }
}

/// Longest value in bytes.
const LONGEST: usize = 4096;

/// Checks a value and gives its form for a file.
pub(super) fn write(name: &str, setting: &Setting, value: &str) -> Result<String, TemplateError> {
    let kind = setting.kind;
    let refused = |rule| {
        let value = if kind == Kind::Secret { "(not shown)" } else { value };
        TemplateError::Value { setting: name.to_owned(), value: value.to_owned(), rule }
    };
    if value.chars().any(char::is_control) {
        return Err(refused("no control characters, not even a line break"));
    }
    if value.len() > LONGEST {
        return Err(refused("at most 4096 bytes"));
    }
    let number = |least: u64, most: u64| {
        let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
        value.parse::<u64>().ok().filter(|number| digits && (least..=most).contains(number)).map(|n| n.to_string())
    };
    let written = match kind {
        Kind::Text => Some(value.to_owned()),
        Kind::Port => number(1, 65_535),
        Kind::Number => number(0, 1_000_000_000),
        Kind::Flag => match value {
            "yes" => Some("YES".to_owned()),
            "no" => Some("NO".to_owned()),
            _ => None,
        },
        Kind::Address => value.parse::<IpAddr>().ok().map(|address| address.to_string()),
        Kind::Name => Some(value.to_owned()).filter(|value| is_host(value)),
        Kind::Records => records(value, setting.each.as_deref().unwrap_or_default()),
        Kind::Networks => networks(value, setting.each.as_deref().unwrap_or_default()),
        Kind::User => Some(value.to_owned()).filter(|value| is_user(value)),
        Kind::Secret => Some(value.to_owned()).filter(|value| is_password(value)),
    };
    written.ok_or_else(|| refused(kind.form()))
}

fn records(value: &str, each: &str) -> Option<String> {
    let mut out = String::new();
    for record in value.split(';').map(str::trim).filter(|record| !record.is_empty()) {
        let (host, address) = record.split_once('=')?;
        let address = address.parse::<IpAddr>().ok().filter(|_| is_host(host))?;
        out.push_str(&each.replace("{name}", host).replace("{value}", &address.to_string()));
    }
    Some(out)
}

fn networks(value: &str, each: &str) -> Option<String> {
    let mut out = String::new();
    for network in value.split(',').map(str::trim).filter(|network| !network.is_empty()) {
        let network = network.parse::<IpNet>().ok().filter(|network| network.addr() == network.network())?;
        out.push_str(&each.replace("{value}", &network.to_string()));
    }
    Some(out)
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

/// As useradd(8) of Debian takes it.
fn is_user(name: &str) -> bool {
    let first = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
    (1..=32).contains(&name.len())
        && name.bytes().take(1).all(first)
        && name.bytes().all(|byte| first(byte) || byte.is_ascii_digit() || byte == b'-')
}

/// What every file of the servers that have a password takes as it is, whatever its quoting.
fn is_password(word: &str) -> bool {
    (8..=128).contains(&word.len())
        && word.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\'' | b'\\' | b'`'))
}
