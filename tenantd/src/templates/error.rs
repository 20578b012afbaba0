//! What can be wrong with a template, or with the settings somebody gives it.

use std::io;
use std::path::PathBuf;

use stackmap::Invalid;

/// Why a template cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// No template of this name.
    #[error("template {name:?} is unknown; known are {}", known.join(", "))]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// The template has no such setting.
    #[error("setting {setting:?} is unknown; known are {}", known.join(", "))]
    UnknownSetting {
        /// What was set.
        setting: String,
        /// What the template has.
        known: Vec<String>,
    },
    /// A setting without default was not set.
    #[error("setting {setting:?} has to be set: {doc}")]
    Missing {
        /// The setting.
        setting: String,
        /// What it means.
        doc: String,
    },
    /// A value breaks the rule of its setting.
    #[error("setting {setting}={value:?} refused: {rule}")]
    Value {
        /// The setting.
        setting: String,
        /// Its value; not that of a secret.
        value: String,
        /// The rule.
        rule: &'static str,
    },
    /// A setting says nothing without another.
    #[error("setting {setting:?} needs {needs:?} too")]
    Needs {
        /// What was set.
        setting: String,
        /// What was not.
        needs: String,
    },
    /// The user's file cannot be read.
    #[error("cannot read the template {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is not a template.
    #[error("{path} is not a template: {source}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A template breaks a rule of its own.
    #[error("the template is wrong: {what} {value:?}: {rule}")]
    Template {
        /// Which part.
        what: &'static str,
        /// What it says.
        value: String,
        /// The rule.
        rule: &'static str,
    },
}

impl TemplateError {
    /// The error as a refused value: field, value, rule.
    pub fn invalid(&self) -> Invalid {
        let list = |known: &[String]| match known {
            [] => "this template has no settings".to_owned(),
            known => format!("one of {}", known.join(", ")),
        };
        match self {
            Self::Unknown { name, known } => Invalid::new("template", name, list(known)),
            Self::UnknownSetting { setting, known } => Invalid::new("set", setting, list(known)),
            Self::Missing { setting, doc } => Invalid::new("set", setting, format!("has to be set: {doc}")),
            Self::Value { setting, value, rule } => Invalid::new(format!("set.{setting}"), value, *rule),
            Self::Needs { setting, needs } => Invalid::new("set", setting, format!("{needs} has to be set too")),
            Self::Read { path, source } => Invalid::new("template", path.display(), format!("readable ({source})")),
            Self::Parse { path, source } => {
                Invalid::new("template", path.display(), format!("a template ({})", source.message()))
            }
            Self::Template { what, value, rule } => Invalid::new("template", value, format!("{what}: {rule}")),
        }
    }
}
