//! What a tenant's stack lets in: a default and rules, read from text and checked. Pure.

use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use stackmap::{Invalid, parse_prefix};
use utoipa::ToSchema;

/// Rules of one filter, at most: the kernel takes all of them in one message.
pub const MOST_RULES: usize = 256;

/// Incoming packets of a tenant's stack. The first rule that fits decides, else the default. Loopback and neighbour
/// discovery (ARP, ND) always pass; with the default `drop` also replies to what the tenant itself opened, and ICMP errors
/// about its connections.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// What no rule fits: `accept` or `drop`.
    #[serde(default)]
    pub default: Verdict,
    /// In order.
    #[serde(default)]
    #[schema(value_type = Vec<FilterRuleForm>)]
    pub rules: Vec<FilterRule>,
}

/// What is done with a packet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It passes.
    #[default]
    Accept,
    /// It is dropped, and counted.
    Drop,
}

/// What a rule fits by protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// Everything.
    #[default]
    Any,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP and ICMPv6.
    Icmp,
}

/// One rule; as text `ACTION[,PROTO[/PORT[-PORT]]][,from=CIDR]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
pub struct FilterRule {
    /// `accept` or `drop`.
    pub action: Verdict,
    /// `tcp`, `udp`, `icmp` or `any`.
    #[serde(default)]
    pub proto: Protocol,
    /// Destination port or range, such as `80` or `5000-6000`; only for `tcp` and `udp`, every port when left out.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "80")]
    pub port: Option<Ports>,
    /// Where it comes from; anywhere when left out.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "192.168.1.0/24")]
    pub from: Option<IpNet>,
}

super::short::text_or_object!(
    FilterRule,
    FilterRuleForm,
    "a rule: ACTION[,PROTO[/PORT[-PORT]]][,from=CIDR], or an object"
);

/// Ports from the first to the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    first: u16,
    last: u16,
}

impl Ports {
    /// The first.
    #[must_use]
    pub fn first(self) -> u16 {
        self.first
    }

    /// The last; the first when there is one.
    #[must_use]
    pub fn last(self) -> u16 {
        self.last
    }
}

impl Filter {
    /// True when everything passes: then nothing is put into the kernel.
    #[must_use]
    pub fn is_open(&self) -> bool {
        *self == Self::default()
    }

    /// Checks what the types of the fields do not say.
    ///
    /// # Errors
    /// [`Invalid`] for the first rule broken; its field is `rules[N].FIELD`, N from 0.
    pub fn check(&self) -> Result<(), Invalid> {
        if self.rules.len() > MOST_RULES {
            return Err(Invalid::new("rules", self.rules.len(), format!("a filter has at most {MOST_RULES} rules")));
        }
        for (n, rule) in self.rules.iter().enumerate() {
            rule.check().map_err(|e| {
                let field = format!("rules[{n}].{}", e.field);
                e.for_field(field)
            })?;
        }
        Ok(())
    }
}

impl FilterRule {
    fn check(&self) -> Result<(), Invalid> {
        if let (Some(port), Protocol::Any | Protocol::Icmp) = (self.port, self.proto) {
            return Err(Invalid::new("port", port, "only tcp and udp have ports"));
        }
        self.from.iter().try_for_each(|from| parse_prefix(&from.to_string()).map(drop).map_err(|e| e.for_field("from")))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Accept => "accept",
            Self::Drop => "drop",
        })
    }
}

impl FromStr for Verdict {
    type Err = Invalid;

    fn from_str(s: &str) -> Result<Self, Invalid> {
        match s {
            "accept" => Ok(Self::Accept),
            "drop" => Ok(Self::Drop),
            _ => Err(Invalid::new("action", s, "must be accept or drop")),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "any",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        })
    }
}

impl FromStr for Protocol {
    type Err = Invalid;

    fn from_str(s: &str) -> Result<Self, Invalid> {
        match s {
            "any" => Ok(Self::Any),
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "icmp" => Ok(Self::Icmp),
            _ => Err(Invalid::new("proto", s, "must be tcp, udp, icmp or any")),
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.first)?;
        if self.last > self.first { write!(f, "-{}", self.last) } else { Ok(()) }
    }
}

impl FromStr for Ports {
    type Err = Invalid;

    fn from_str(s: &str) -> Result<Self, Invalid> {
        let (first, last) = s.split_once('-').unwrap_or((s, s));
        let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        match (number(first), number(last)) {
            (Some(first), Some(last)) if 0 < first && first <= last => Ok(Self { first, last }),
            _ => Err(Invalid::new("port", s, "must be a port 1..=65535 or a range such as 5000-6000")),
        }
    }
}

impl Serialize for Ports {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Ports {
    /// Reads text, or a number for one port.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "must be a port 1..=65535 or a range such as \"5000-6000\"")]
        enum Said {
            Number(u64),
            Text(String),
        }
        let text = match Said::deserialize(deserializer)? {
            Said::Number(number) => number.to_string(),
            Said::Text(text) => text,
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for FilterRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.action, self.proto)?;
        self.port.iter().try_for_each(|port| write!(f, "/{port}"))?;
        self.from.iter().try_for_each(|from| write!(f, ",from={from}"))
    }
}

impl FromStr for FilterRule {
    type Err = Invalid;

    fn from_str(s: &str) -> Result<Self, Invalid> {
        let mut words = s.split(',');
        let action = words.next().unwrap_or_default().parse()?;
        let mut rule = Self { action, proto: Protocol::Any, port: None, from: None };
        let mut may_be_proto = true;
        for word in words {
            if let Some(from) = word.strip_prefix("from=") {
                if rule.from.is_some() {
                    return Err(Invalid::new("from", from, "is given twice"));
                }
                rule.from = Some(parse_prefix(from).map_err(|e| e.for_field("from"))?);
            } else if may_be_proto {
                let (proto, port) = word.split_once('/').map_or((word, None), |(proto, port)| (proto, Some(port)));
                rule.proto = proto.parse()?;
                rule.port = port.map(str::parse).transpose()?;
            } else {
                return Err(Invalid::new("rule", s, "must be ACTION[,PROTO[/PORT[-PORT]]][,from=CIDR]"));
            }
            may_be_proto = false;
        }
        rule.check()?;
        Ok(rule)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn rules_as_text() {
        for (said, written) in [
            ("accept,tcp/80", "accept,tcp/80"),
            ("accept,tcp/22,from=192.168.1.0/24", "accept,tcp/22,from=192.168.1.0/24"),
            ("drop,udp/5000-6000,from=fd00::/8", "drop,udp/5000-6000,from=fd00::/8"),
            ("accept,udp/1-65535", "accept,udp/1-65535"),
            ("drop,tcp/7-7", "drop,tcp/7"),
            ("drop,icmp", "drop,icmp"),
            ("drop", "drop,any"),
            ("accept,from=0.0.0.0/0", "accept,any,from=0.0.0.0/0"),
        ] {
            let rule: FilterRule = said.parse().unwrap();
            assert_eq!(rule.to_string(), written);
            assert_eq!(written.parse::<FilterRule>().unwrap(), rule);
            let json = serde_json::to_value(&rule).unwrap();
            assert_eq!(serde_json::from_value::<FilterRule>(json).unwrap(), rule);
        }
    }

    #[test]
    fn what_is_no_rule_is_refused_by_field_and_value() {
        for (text, field, value) in [
            ("", "action", ""),
            ("reject,tcp/80", "action", "reject"),
            ("accept,sctp", "proto", "sctp"),
            ("accept,", "proto", ""),
            ("accept,any/80", "port", "80"),
            ("accept,icmp/8", "port", "8"),
            ("accept,tcp/0", "port", "0"),
            ("accept,tcp/", "port", ""),
            ("accept,tcp/+80", "port", "+80"),
            ("accept,tcp/65536", "port", "65536"),
            ("accept,tcp/90-80", "port", "90-80"),
            ("accept,tcp/1-2-3", "port", "1-2-3"),
            ("accept,from=10.0.0.1/8", "from", "10.0.0.1/8"),
            ("accept,from=here", "from", "here"),
            ("accept,from=10.0.0.0/8,from=10.0.0.0/8", "from", "10.0.0.0/8"),
            ("accept,tcp,udp", "rule", "accept,tcp,udp"),
            ("accept,from=10.0.0.0/8,tcp", "rule", "accept,from=10.0.0.0/8,tcp"),
        ] {
            let refused = text.parse::<FilterRule>().expect_err(text);
            assert_eq!((&*refused.field, &*refused.value), (field, value), "{text}: {refused}");
        }
    }

    #[test]
    fn json_takes_a_port_as_number_or_text_and_checks_the_whole() {
        let read = |json| serde_json::from_value::<Filter>(json);
        let rule = |more| serde_json::json!({"default": "drop", "rules": [more]});
        for port in [serde_json::json!(80), serde_json::json!("80")] {
            let filter = read(rule(serde_json::json!({"action": "accept", "proto": "tcp", "port": port}))).unwrap();
            filter.check().unwrap();
            assert_eq!(filter.rules, ["accept,tcp/80".parse().unwrap()]);
        }
        let refused = read(rule(serde_json::json!({"action": "accept", "proto": "tcp", "port": 70_000}))).unwrap_err();
        assert!(refused.to_string().contains("port: \"70000\" refused: must be a port"), "{refused}");
        let refused = read(rule(serde_json::json!({"action": "accept", "proto": "tcp", "port": [80]}))).unwrap_err();
        assert!(refused.to_string().contains("must be a port"), "{refused}");
        for (json, field) in [
            (serde_json::json!({"action": "accept", "port": 80}), "rules[0].port"),
            (serde_json::json!({"action": "accept", "from": "10.0.0.1/8"}), "rules[0].from"),
        ] {
            assert_eq!(read(rule(json)).unwrap().check().unwrap_err().field, field);
        }
        let most = Filter { rules: vec!["drop".parse().unwrap(); MOST_RULES + 1], ..Filter::default() };
        assert_eq!(most.check().unwrap_err().field, "rules");
        assert!(read(serde_json::json!({})).unwrap().is_open());
        assert!(!read(serde_json::json!({"default": "drop"})).unwrap().is_open());
    }
}
