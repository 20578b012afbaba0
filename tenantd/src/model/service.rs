//! How a service runs, beyond its program: the words for it in requests, on the command line and in templates.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use stackmap::{Invalid, TenantName};
use tenant_init::service::{Ready, Restart, ServiceSpec};
use utoipa::ToSchema;

/// Longest wait for a service, in seconds.
const LONGEST: u32 = 600;

/// How a service runs; everything has a default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServiceOptions {
    /// User of the tenant, by name or number; root when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Group of the tenant; the user's own when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Added to its environment.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Working directory, absolute; the user's home when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Services of the tenant that have to be ready before it is started.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub after: Vec<TenantName>,
    /// When it counts as ready: `tcp:PORT`, `udp:PORT`, `exit` (it is a piece of work that ends), `alive:MILLISECONDS`,
    /// `none`; without it a command is ready as soon as it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "tcp:80")]
    pub ready: Option<ReadyWhen>,
    /// Seconds that may take; 30 when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_timeout: Option<u32>,
    /// What happens when it ends by itself; `always` when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart: Option<RestartPolicy>,
    /// Signal that asks it to end, by name or number; TERM when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "INT")]
    pub stop_signal: Option<StopSignal>,
    /// Seconds until it is killed; 10 when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<u32>,
    /// May its programs gain privileges by set-id programs (su, passwd)?
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_privileges: Option<bool>,
}

impl ServiceOptions {
    /// True when nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Checks what the types of the fields do not.
    ///
    /// # Errors
    /// [`Invalid`] for the first rule broken.
    pub fn check(&self) -> Result<(), Invalid> {
        for (field, who) in [("user", &self.user), ("group", &self.group)] {
            if let Some(who) = who.as_ref().filter(|who| who.is_empty() || who.contains([':', ',', '\n', '\0'])) {
                return Err(Invalid::new(field, who.escape_debug(), "a name or a number"));
            }
        }
        for (key, value) in &self.env {
            if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
                return Err(Invalid::new("env", key.escape_debug(), "KEY=VALUE without a NUL byte"));
            }
        }
        for (field, seconds) in [("ready_timeout", self.ready_timeout), ("stop_timeout", self.stop_timeout)] {
            if let Some(seconds) = seconds.filter(|seconds| !(1..=LONGEST).contains(seconds)) {
                return Err(Invalid::new(field, seconds, "1 to 600 seconds"));
            }
        }
        match &self.cwd {
            Some(cwd) if !cwd.starts_with('/') || cwd.contains('\0') => {
                Err(Invalid::new("cwd", cwd.escape_debug(), "an absolute path"))
            }
            _ => Ok(()),
        }
    }

    /// Puts what is said over a service.
    pub fn apply(&self, spec: &mut ServiceSpec) {
        let milliseconds = |seconds: u32| u64::from(seconds) * 1000;
        spec.user = self.user.clone().or(spec.user.take());
        spec.group = self.group.clone().or(spec.group.take());
        spec.env.extend(self.env.clone());
        spec.cwd = self.cwd.clone().map(Into::into).or(spec.cwd.take());
        spec.after.extend(self.after.iter().map(ToString::to_string));
        spec.ready = self.ready.map_or(spec.ready, |ready| ready.0);
        spec.ready_timeout_ms = self.ready_timeout.map(milliseconds).or(spec.ready_timeout_ms);
        spec.restart = self.restart.map_or(spec.restart, Into::into);
        spec.stop_signal = self.stop_signal.map(|signal| signal.0).or(spec.stop_signal);
        spec.stop_timeout_ms = self.stop_timeout.map(milliseconds).or(spec.stop_timeout_ms);
        spec.new_privileges = self.new_privileges.unwrap_or(spec.new_privileges);
    }
}

/// A server that can be added by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TemplateView {
    /// Name.
    pub name: String,
    /// True when it came with the program; false when it is a file of the state directory.
    pub built_in: bool,
    /// One line.
    pub description: String,
    /// Debian package that has the program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub package: Option<String>,
    /// What differs from the package's own configuration and why.
    pub changes: Vec<String>,
    /// What may be set.
    pub settings: Vec<SettingView>,
    /// Why it cannot be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broken: Option<String>,
}

/// Something that may be set of a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SettingView {
    /// Name.
    pub name: String,
    /// What its values look like.
    pub form: String,
    /// Value when it is not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// It has to be set.
    pub required: bool,
    /// Another setting without which it says nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub needs: Option<String>,
    /// What it means.
    pub doc: String,
}

impl super::Tenant {
    /// As it is shown: without the passwords of its services.
    #[must_use]
    pub fn shown(mut self) -> Self {
        let settings = self.services.iter_mut().flat_map(|service| service.set.iter_mut());
        for (_, value) in settings.filter(|(name, _)| crate::templates::is_secret(name)) {
            *value = "(not shown)".to_owned();
        }
        self
    }
}

/// When a service counts as ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ReadyWhen(pub Ready);

impl From<ReadyWhen> for Ready {
    fn from(when: ReadyWhen) -> Self {
        when.0
    }
}

impl FromStr for ReadyWhen {
    type Err = Invalid;

    fn from_str(s: &str) -> Result<Self, Invalid> {
        let port = |number: &str| number.parse::<u16>().ok().filter(|port| *port > 0);
        let ready = match s.split_once(':') {
            None if s == "none" => Some(Ready::None),
            None if s == "exit" => Some(Ready::Exit),
            Some(("tcp", number)) => port(number).map(Ready::Tcp),
            Some(("udp", number)) => port(number).map(Ready::Udp),
            Some(("alive", number)) => number.parse().ok().map(Ready::Alive),
            _ => None,
        };
        let rule = "tcp:PORT, udp:PORT, exit, alive:MILLISECONDS or none";
        ready.map(Self).ok_or_else(|| Invalid::new("ready", s, rule))
    }
}

impl fmt::Display for ReadyWhen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Ready::None => f.write_str("none"),
            Ready::Exit => f.write_str("exit"),
            Ready::Alive(milliseconds) => write!(f, "alive:{milliseconds}"),
            Ready::Tcp(port) => write!(f, "tcp:{port}"),
            Ready::Udp(port) => write!(f, "udp:{port}"),
        }
    }
}

/// What happens when a service ends by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// It is started again after a pause.
    #[default]
    Always,
    /// It is started again unless it ended with exit 0.
    OnFailure,
    /// It stays ended.
    Never,
}

impl From<RestartPolicy> for Restart {
    fn from(policy: RestartPolicy) -> Self {
        match policy {
            RestartPolicy::Always => Self::Always,
            RestartPolicy::OnFailure => Self::OnFailure,
            RestartPolicy::Never => Self::Never,
        }
    }
}

/// A signal, by name or number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StopSignal(i32);

impl From<StopSignal> for i32 {
    fn from(signal: StopSignal) -> Self {
        signal.0
    }
}

impl FromStr for StopSignal {
    type Err = Invalid;

    fn from_str(s: &str) -> Result<Self, Invalid> {
        let name = s.strip_prefix("SIG").unwrap_or(s);
        let named = || format!("SIG{name}").parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32);
        let number = s.parse::<i32>().ok().filter(|number| (1..=64).contains(number));
        let signal = number.or_else(named);
        signal.map(Self).ok_or_else(|| Invalid::new("stop_signal", s, "a signal such as TERM or INT, or its number"))
    }
}

impl fmt::Display for StopSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match nix::sys::signal::Signal::try_from(self.0) {
            Ok(signal) => f.write_str(signal.as_str().trim_start_matches("SIG")),
            Err(_) => write!(f, "{}", self.0),
        }
    }
}

macro_rules! as_text {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = Invalid;

            fn try_from(text: String) -> Result<Self, Invalid> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }
    };
}

as_text!(ReadyWhen);
as_text!(StopSignal);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use crate::model::ServiceRequest;

    #[test]
    fn readiness_and_signals_as_text() {
        for text in ["tcp:80", "udp:53", "exit", "alive:250", "none"] {
            assert_eq!(text.parse::<ReadyWhen>().unwrap().to_string(), text);
        }
        for text in ["", "tcp", "tcp:", "tcp:0", "tcp:65536", "udp:-1", "sctp:5", "exit:1", "alive:x"] {
            assert_eq!(text.parse::<ReadyWhen>().unwrap_err().field, "ready", "{text:?}");
        }
        for (text, number) in [("INT", 2), ("SIGQUIT", 3), ("15", 15), ("40", 40)] {
            assert_eq!(i32::from(text.parse::<StopSignal>().unwrap()), number);
        }
        assert_eq!("SIGQUIT".parse::<StopSignal>().unwrap().to_string(), "QUIT");
        for text in ["", "SIG", "0", "65", "-1", "int", "NONE"] {
            assert_eq!(text.parse::<StopSignal>().unwrap_err().field, "stop_signal", "{text:?}");
        }
    }

    #[test]
    fn a_row_of_an_older_daemon_still_parses() {
        let old = r#"{"name":"web","template":"nginx","set":{"body":"x"},"command":[]}"#;
        let request: ServiceRequest = serde_json::from_str(old).unwrap();
        assert!(request.options.is_empty());
        assert_eq!(serde_json::to_string(&request).unwrap(), old, "and is written as before");
    }

    #[test]
    fn every_option_reaches_the_service_and_the_rest_of_it_stays() {
        let options: ServiceOptions = serde_json::from_str(
            r#"{"user":"www-data","group":"adm","env":{"A":"b"},"cwd":"/srv","after":["db"],"ready":"tcp:80",
                "ready_timeout":5,"restart":"never","stop_signal":"INT","stop_timeout":3,"new_privileges":true}"#,
        )
        .unwrap();
        options.check().unwrap();
        let plain = ServiceSpec { name: "web".into(), after: vec!["dns".into()], ..ServiceSpec::default() };
        let mut spec = plain.clone();
        ServiceOptions::default().apply(&mut spec);
        assert_eq!(spec, plain);
        options.apply(&mut spec);
        let wanted = ServiceSpec {
            user: Some("www-data".into()),
            group: Some("adm".into()),
            env: [("A".to_owned(), "b".to_owned())].into(),
            cwd: Some("/srv".into()),
            after: vec!["dns".into(), "db".into()],
            ready: Ready::Tcp(80),
            ready_timeout_ms: Some(5000),
            restart: Restart::Never,
            stop_signal: Some(2),
            stop_timeout_ms: Some(3000),
            new_privileges: true,
            ..plain
        };
        assert_eq!(spec, wanted);
    }

    #[test]
    fn nonsense_is_refused_with_its_field() {
        let check = |json: serde_json::Value| serde_json::from_value::<ServiceOptions>(json).unwrap().check();
        for (json, field) in [
            (serde_json::json!({"user": ""}), "user"),
            (serde_json::json!({"group": "a:b"}), "group"),
            (serde_json::json!({"env": {"": "x"}}), "env"),
            (serde_json::json!({"env": {"a=b": "x"}}), "env"),
            (serde_json::json!({"cwd": "srv"}), "cwd"),
            (serde_json::json!({"ready_timeout": 0}), "ready_timeout"),
            (serde_json::json!({"stop_timeout": 601}), "stop_timeout"),
        ] {
            assert_eq!(check(json).unwrap_err().field, field);
        }
        assert!(serde_json::from_value::<ServiceOptions>(serde_json::json!({"usr": "x"})).is_err());
    }
}
