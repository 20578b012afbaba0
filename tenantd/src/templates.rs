//! Service templates: standard servers with their package's own configuration and the least change to it.
//!
//! In: a template (TOML; ours are embedded, the user's lie in a directory and win), settings as an operator gives
//! them, the tenant they are for. Out: the service as init runs it, a value: programs, files below the tenant's root,
//! when it is ready. Rendering does no I/O and is a pure function, so the same request always gives the same service.
//!
//! In a template `{word}` (lower case letters, digits, `_`) stands for a setting, for `{tenant}` or for `{address}`
//! (the tenant's first). Braces around anything else are left as they are. Values are checked by the kind of their
//! setting, and none may hold a control character: a value can fill in a line of a configuration file, it can never
//! begin another. A template hands values to a shell as its arguments, never inside the script.
//!
//! Rooms: `value` what each kind of setting takes; `render` from a template to a service; `error` what can be wrong.

mod error;
mod render;
mod value;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use stackmap::TenantName;

pub use error::TemplateError;
pub use render::{Context, render};
pub use value::Kind;

use crate::model::{RestartPolicy, SettingView, StopSignal, TemplateView};

/// Templates that come with the program.
const BUILT_IN: [(&str, &str); 6] = [
    ("dnsmasq", include_str!("../templates/dnsmasq.toml")),
    ("nginx", include_str!("../templates/nginx.toml")),
    ("openssh", include_str!("../templates/openssh.toml")),
    ("postgresql", include_str!("../templates/postgresql.toml")),
    ("redis", include_str!("../templates/redis.toml")),
    ("vsftpd", include_str!("../templates/vsftpd.toml")),
];

/// Words of every template beside its settings.
const WORDS: [&str; 2] = ["tenant", "address"];

/// A service as its file describes it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Template {
    /// One line for lists.
    pub description: String,
    /// Absolute path of the program that has to be installed in the tenant.
    pub needs: PathBuf,
    /// Debian package that installs it, for the message when it is missing.
    pub package: Option<String>,
    /// What differs from the package's own configuration and why, one sentence each.
    #[serde(default)]
    pub changes: Vec<String>,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Added to the environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Working directory.
    pub cwd: Option<String>,
    /// User of the tenant; root when left out.
    pub user: Option<String>,
    /// Group of the tenant; the user's own when left out.
    pub group: Option<String>,
    /// Directories that are made before every start.
    #[serde(default)]
    pub directories: Vec<TemplateDirectory>,
    /// Files that are written before every start, or only when there is none.
    #[serde(default)]
    pub files: Vec<TemplateFile>,
    /// Programs that run before every start, as the service's user.
    #[serde(default)]
    pub prepare: Vec<Prepare>,
    /// How long each of them may take, in seconds.
    pub prepare_timeout: Option<u64>,
    /// When the service counts as ready: `tcp:PORT`, `udp:PORT`, `exit`, `alive:MILLISECONDS`.
    pub ready: Option<String>,
    /// How long that may take, in seconds.
    pub ready_timeout: Option<u64>,
    /// Signal that asks it to end.
    pub stop_signal: Option<StopSignal>,
    /// Seconds until it is killed.
    pub stop_timeout: Option<u64>,
    /// What happens when it ends by itself.
    pub restart: Option<RestartPolicy>,
    /// Services that have to be ready before.
    #[serde(default)]
    pub after: Vec<TenantName>,
    /// May its programs gain privileges by set-id programs (su, passwd)?
    #[serde(default)]
    pub new_privileges: bool,
    /// The capabilities it keeps of those the tenant has; all that its user has when left out.
    pub capabilities: Option<Vec<String>>,
    /// What an operator may set.
    #[serde(default)]
    pub settings: BTreeMap<String, Setting>,
}

/// Something an operator may set.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// What its values look like.
    pub kind: Kind,
    /// Value when it is not set. May use `{tenant}` and `{address}`.
    pub default: Option<String>,
    /// Need not be set although it has no default: its word is then empty, and parts that ask for it are left out.
    #[serde(default)]
    pub optional: bool,
    /// Another setting without which it says nothing.
    pub needs: Option<String>,
    /// What it means.
    pub doc: String,
    /// What a value becomes, with `{value}`; for a list what each part becomes, for [`Kind::Records`] with `{name}` too.
    pub each: Option<String>,
}

/// A directory of a service.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateDirectory {
    /// Absolute path in the tenant.
    pub path: String,
    /// Permissions, octal; `0755` when left out.
    pub mode: Option<String>,
    /// Owner; root when left out.
    pub user: Option<String>,
    /// Group; the owner's own when left out.
    pub group: Option<String>,
    /// Only when this setting was set, or is `yes` if it is a flag; with `!` before it only when not.
    pub when: Option<String>,
}

/// A file of a service.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateFile {
    /// Absolute path in the tenant.
    pub path: String,
    /// Permissions, octal; `0644` when left out.
    pub mode: Option<String>,
    /// Owner; root when left out.
    pub user: Option<String>,
    /// Group; the owner's own when left out.
    pub group: Option<String>,
    /// Write it only when nothing is there: from then on it is the tenant's.
    #[serde(default)]
    pub keep: bool,
    /// As [`TemplateDirectory::when`].
    pub when: Option<String>,
    /// Its text.
    pub content: String,
}

/// A program that runs before the service.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prepare {
    /// Program and arguments.
    pub command: Vec<String>,
    /// As [`TemplateDirectory::when`].
    pub when: Option<String>,
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
    let (text, path) = text(user_dir, name)?;
    let template = toml::from_str::<Template>(&text);
    let template = template.map_err(|source| TemplateError::Parse { path, source: Box::new(source) })?;
    template.check()?;
    Ok(template)
}

/// All templates as they are shown; a broken one says why.
pub fn views(user_dir: &Path) -> Vec<TemplateView> {
    known(user_dir).into_iter().filter_map(|name| view(user_dir, &name).ok()).collect()
}

/// One template as it is shown.
///
/// # Errors
/// [`TemplateError::Unknown`]; one that is broken is shown with the reason.
pub fn view(user_dir: &Path, name: &str) -> Result<TemplateView, TemplateError> {
    let built_in = !user_dir.join(format!("{name}.toml")).exists();
    let nothing = TemplateView {
        name: name.to_owned(),
        built_in,
        description: String::new(),
        package: None,
        changes: Vec::new(),
        settings: Vec::new(),
        broken: None,
    };
    match find(user_dir, name) {
        Ok(template) => Ok(TemplateView {
            description: template.description,
            package: template.package,
            changes: template.changes,
            settings: template.settings.into_iter().map(|(name, setting)| setting.view(name)).collect(),
            ..nothing
        }),
        Err(error @ TemplateError::Unknown { .. }) => Err(error),
        // Without its path: tenants read this too.
        Err(error) => Ok(TemplateView { broken: Some(error.invalid().rule.into_owned()), ..nothing }),
    }
}

impl Setting {
    fn view(self, name: String) -> SettingView {
        let required = self.default.is_none() && !self.optional;
        let (form, default, needs, doc) = (self.kind.form().to_owned(), self.default, self.needs, self.doc);
        SettingView { name, form, default, required, needs, doc }
    }
}

/// A template's own text and where it is, or would be if it were the user's.
fn text(user_dir: &Path, name: &str) -> Result<(String, PathBuf), TemplateError> {
    let unknown = || TemplateError::Unknown { name: name.to_owned(), known: known(user_dir) };
    // The name becomes a file name.
    if !is_name(name) {
        return Err(unknown());
    }
    let path = user_dir.join(format!("{name}.toml"));
    match fs::read_to_string(&path) {
        Ok(text) => Ok((text, path)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            let ours = BUILT_IN.iter().find(|(ours, _)| *ours == name);
            ours.map(|(_, text)| ((*text).to_owned(), path)).ok_or_else(unknown)
        }
        Err(source) => Err(TemplateError::Read { path, source }),
    }
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
        let commands = self.prepare.iter().map(|prepare| &prepare.command);
        if commands.chain([&self.command]).any(|command| command.first().is_none_or(String::is_empty)) {
            return Err(wrong("command", "", "a program and its arguments"));
        }
        for (name, setting) in &self.settings {
            let wrong = |rule| wrong("settings", name, rule);
            if !name.bytes().all(render::is_word) || name.is_empty() {
                return Err(wrong("lower case letters, digits and _"));
            }
            if WORDS.contains(&name.as_str()) {
                return Err(wrong("not tenant or address, which have a meaning"));
            }
            if matches!(setting.kind, Kind::Records | Kind::Networks) && setting.each.is_none() {
                return Err(wrong("a list needs `each`"));
            }
            if setting.optional && setting.default.is_some() {
                return Err(wrong("`optional` or a default, not both"));
            }
            // Whoever shows settings knows from their names which values he must not show.
            if (setting.kind == Kind::Secret) != is_secret(name) {
                return Err(wrong("what is named password or ends with _password is of kind \"secret\", nothing else"));
            }
        }
        let directories = self.directories.iter().map(|directory| &directory.when);
        let files = self.files.iter().map(|file| &file.when);
        let parts = directories.chain(files).chain(self.prepare.iter().map(|prepare| &prepare.when));
        for when in parts.flatten() {
            if !self.settings.contains_key(when.trim_start_matches('!')) {
                return Err(wrong("when", when, "a setting of the template"));
            }
        }
        Ok(())
    }
}

/// True when the value of a setting of this name is never shown.
pub fn is_secret(setting: &str) -> bool {
    setting == "password" || setting.ends_with("_password")
}

#[cfg(test)]
mod tests;
