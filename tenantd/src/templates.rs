//! Service templates: standard servers with the least change that makes them a tenant's own.
//!
//! In: a template (TOML; ours are embedded, the user's lie in a directory and win), settings as an operator gives
//! them, the tenant they are for. Out: [`Rendered`], the program with its arguments and the files it needs, as a
//! value; [`write_files`] puts them below the service's directory. Rendering does no I/O and is a pure function, so the
//! same request always gives the same command.
//!
//! In a template `{word}` (lower case letters, digits, `_`) stands for a setting or for `{dir}` (the service's
//! directory), `{tenant}` or `{address}` (the tenant's first). Braces around anything else are left as they are.
//! Values are checked by the kind of their setting, and none may hold a control character: a value can fill in a
//! line of a configuration file, it can never begin another.

mod value;
mod write;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use stackmap::{Invalid, TenantName};

pub use value::Kind;
pub use write::{WriteError, write_files};

/// Templates that come with the program.
const BUILT_IN: [(&str, &str); 3] = [
    ("dnsmasq", include_str!("../templates/dnsmasq.toml")),
    ("nginx", include_str!("../templates/nginx.toml")),
    ("vsftpd", include_str!("../templates/vsftpd.toml")),
];

/// A service as its file describes it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Template {
    /// One line for lists.
    pub description: String,
    /// Absolute path of the program that has to be installed.
    pub needs: PathBuf,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Directories below the service's own, `path` or `path:mode`.
    #[serde(default)]
    pub directories: Vec<String>,
    /// What an operator may set.
    #[serde(default)]
    pub settings: BTreeMap<String, Setting>,
    /// Files below the service's directory.
    #[serde(default)]
    pub files: Vec<TemplateFile>,
}

/// Something an operator may set.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// What its values look like.
    pub kind: Kind,
    /// Value when it is not set; without a default it has to be set. May use `{tenant}` and `{address}`.
    pub default: Option<String>,
    /// What it means.
    pub doc: String,
    /// For [`Kind::Records`]: what each record becomes, with `{name}` and `{value}`.
    pub each: Option<String>,
}

/// A file of a service.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateFile {
    /// Path below the service's directory.
    pub path: String,
    /// Permissions, octal; `0644` when left out.
    pub mode: Option<String>,
    /// Its text.
    pub content: String,
}

/// For whom a template is rendered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// The service's directory, as the tenant sees it.
    pub dir: PathBuf,
    /// The tenant.
    pub tenant: TenantName,
    /// Its first address.
    pub address: IpAddr,
}

/// A service ready to be written and started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Directories below the service's own with their permissions, parents first.
    pub dirs: Vec<(PathBuf, u32)>,
    /// Files below the service's directory.
    pub files: Vec<RenderedFile>,
}

/// A file ready to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenderedFile {
    /// Path below the service's directory.
    pub path: PathBuf,
    /// Permissions.
    pub mode: u32,
    /// Its text.
    pub content: String,
}

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
        /// Its value.
        value: String,
        /// The rule.
        rule: &'static str,
    },
    /// The program of the template is not installed.
    #[error("template {template:?} needs {program}, which is not installed")]
    NotInstalled {
        /// The template.
        template: String,
        /// The program.
        program: PathBuf,
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
        let list = |known: &[String]| format!("one of {}", known.join(", "));
        match self {
            Self::Unknown { name, known } => Invalid::new("template", name, list(known)),
            Self::UnknownSetting { setting, known } => Invalid::new("set", setting, list(known)),
            Self::Missing { setting, doc } => Invalid::new("set", setting, format!("has to be set: {doc}")),
            Self::Value { setting, value, rule } => Invalid::new(format!("set.{setting}"), value, *rule),
            Self::NotInstalled { program, .. } => {
                Invalid::new("template", program.display(), "the program has to be installed on this machine")
            }
            Self::Read { path, source } => Invalid::new("template", path.display(), format!("readable ({source})")),
            Self::Parse { path, source } => {
                Invalid::new("template", path.display(), format!("a template ({})", source.message()))
            }
            Self::Template { what, value, rule } => Invalid::new("template", value, format!("{what}: {rule}")),
        }
    }
}

/// Names of all templates: ours and `*.toml` of the user's directory.
pub fn known(user_dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = BUILT_IN.iter().map(|(name, _)| (*name).to_owned()).collect();
    // A directory that is not there is the ordinary case; one that cannot be read is reported by `find`.
    for entry in fs::read_dir(user_dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|end| end == "toml")
            && let Some(name) = path.file_stem().and_then(|name| name.to_str())
            && is_name(name)
        {
            names.push(name.to_owned());
        }
    }
    names.sort();
    names.dedup();
    names
}

/// The template of a name: the user's (`<user_dir>/<name>.toml`) or ours.
///
/// # Errors
/// [`TemplateError::Unknown`], or what is wrong with the user's file. Another broken file does no harm.
pub fn find(user_dir: &Path, name: &str) -> Result<Template, TemplateError> {
    let unknown = || TemplateError::Unknown { name: name.to_owned(), known: known(user_dir) };
    // The name becomes a file name.
    if !is_name(name) {
        return Err(unknown());
    }
    let path = user_dir.join(format!("{name}.toml"));
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            let ours = BUILT_IN.iter().find(|(ours, _)| *ours == name);
            ours.map(|(_, text)| (*text).to_owned()).ok_or_else(unknown)?
        }
        Err(source) => return Err(TemplateError::Read { path, source }),
    };
    let template = toml::from_str::<Template>(&text);
    let template = template.map_err(|source| TemplateError::Parse { path, source: Box::new(source) })?;
    template.check()?;
    Ok(template)
}

fn is_name(name: &str) -> bool {
    name.parse::<TenantName>().is_ok()
}

impl Template {
    /// What can be wrong with a template without any setting, so that its author learns it first.
    fn check(&self) -> Result<(), TemplateError> {
        let wrong = |what, value: &str, rule| TemplateError::Template { what, value: value.to_owned(), rule };
        if !self.needs.is_absolute() {
            return Err(wrong("needs", &self.needs.to_string_lossy(), "an absolute path"));
        }
        if self.command.first().is_none_or(String::is_empty) {
            return Err(wrong("command", "", "a program and its arguments"));
        }
        for (name, setting) in &self.settings {
            if !name.bytes().all(is_word) || name.is_empty() {
                return Err(wrong("settings", name, "lower case letters, digits and _"));
            }
            if ["dir", "tenant", "address"].contains(&name.as_str()) {
                return Err(wrong("settings", name, "not dir, tenant or address, which have a meaning"));
            }
            if setting.each.is_some() != (setting.kind == Kind::Records) {
                return Err(wrong("settings", name, "`each` belongs to kind \"records\", and only there"));
            }
        }
        Ok(())
    }

    /// Refuses a template whose program is not on this machine.
    ///
    /// # Errors
    /// [`TemplateError::NotInstalled`].
    pub fn check_installed(&self, name: &str) -> Result<(), TemplateError> {
        if self.needs.is_file() {
            return Ok(());
        }
        Err(TemplateError::NotInstalled { template: name.to_owned(), program: self.needs.clone() })
    }
}

/// Fills a template in.
///
/// # Errors
/// An unknown or missing setting, a value against its rule, or a fault of the template itself.
pub fn render(
    template: &Template,
    settings: &BTreeMap<String, String>,
    context: &Context,
) -> Result<Rendered, TemplateError> {
    if let Some(setting) = settings.keys().find(|name| !template.settings.contains_key(*name)) {
        let known = template.settings.keys().cloned().collect();
        return Err(TemplateError::UnknownSetting { setting: setting.clone(), known });
    }
    let mut words = BTreeMap::from([("tenant", context.tenant.to_string()), ("address", context.address.to_string())]);
    let mut values = BTreeMap::new();
    for (name, setting) in &template.settings {
        let value = match (settings.get(name), &setting.default) {
            (Some(value), _) => value.clone(),
            (None, Some(default)) => fill(default, &words)?,
            (None, None) => {
                return Err(TemplateError::Missing { setting: name.clone(), doc: setting.doc.clone() });
            }
        };
        values.insert(name.as_str(), value::write(name, setting, &value)?);
    }
    words.insert("dir", utf8(&context.dir)?);
    words.extend(values);

    let mut dirs = Vec::new();
    for directory in &template.directories {
        let (path, mode) = directory.split_once(':').unwrap_or((directory, "0755"));
        dirs.push((below(path)?, octal(mode)?));
    }
    let mut files = Vec::new();
    for file in &template.files {
        let path = below(&file.path)?;
        let mode = octal(file.mode.as_deref().unwrap_or("0644"))?;
        files.push(RenderedFile { path, mode, content: fill(&file.content, &words)? });
    }
    let argv = template.command.iter().map(|word| fill(word, &words)).collect::<Result<_, _>>()?;
    Ok(Rendered { argv, dirs, files })
}

fn utf8(path: &Path) -> Result<String, TemplateError> {
    let rule = "a path of ordinary characters without spaces, quotes or braces";
    let text = path.to_str().filter(|text| !text.contains(|c: char| c.is_control() || " \"';{}#$\\".contains(c)));
    text.map(str::to_owned).ok_or_else(|| TemplateError::Template {
        what: "service directory",
        value: path.to_string_lossy().into_owned(),
        rule,
    })
}

/// A path that stays below where it is used.
fn below(path: &str) -> Result<PathBuf, TemplateError> {
    let inside = Path::new(path);
    let ordinary = |part| matches!(part, Component::Normal(_));
    if path.is_empty() || path.contains('\0') || !inside.components().all(ordinary) {
        let rule = "below the service's directory, without . and ..";
        return Err(TemplateError::Template { what: "path", value: path.to_owned(), rule });
    }
    Ok(inside.to_owned())
}

fn octal(mode: &str) -> Result<u32, TemplateError> {
    // No set-user-id bits: a template makes configuration, not privileges.
    let rule = "an octal number up to 0777";
    let value = u32::from_str_radix(mode, 8).ok().filter(|mode| *mode <= 0o777);
    value.ok_or_else(|| TemplateError::Template { what: "mode", value: mode.to_owned(), rule })
}

const fn is_word(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'
}

/// Puts words in. One pass: what a value brings in is not looked at again.
fn fill(text: &str, words: &BTreeMap<&str, String>) -> Result<String, TemplateError> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        let (before, after) = rest.split_at(open);
        out.push_str(before);
        let word = &after[1..1 + after[1..].bytes().take_while(|byte| is_word(*byte)).count()];
        if word.is_empty() || !after[1 + word.len()..].starts_with('}') {
            out.push('{');
            rest = &after[1..];
            continue;
        }
        let value = words.get(word).ok_or_else(|| TemplateError::Template {
            what: "placeholder",
            value: word.to_owned(),
            rule: "a setting, dir, tenant or address",
        })?;
        out.push_str(value);
        rest = &after[word.len() + 2..];
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests;
