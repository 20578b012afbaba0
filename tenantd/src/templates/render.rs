//! From a template to a service: every word filled in, every path and mode checked.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};

use stackmap::TenantName;
use tenant_init::service::{Directory, ServiceFile, ServiceSpec};

use super::{Kind, Setting, Template, TemplateError, WORDS, value};
use crate::model::ReadyWhen;

/// For whom a template is rendered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// Name of the service.
    pub service: TenantName,
    /// The tenant.
    pub tenant: TenantName,
    /// Its first address.
    pub address: IpAddr,
}

/// Words and what they stand for.
type Words<'a> = BTreeMap<&'a str, String>;

/// Fills a template in.
///
/// # Errors
/// An unknown or missing setting, a value against its rule, or a fault of the template itself.
pub fn render(
    template: &Template,
    settings: &BTreeMap<String, String>,
    context: &Context,
) -> Result<ServiceSpec, TemplateError> {
    let words = words(template, settings, context)?;
    let said = |when: &Option<String>| when.as_deref().is_none_or(|when| is_said(when, template, settings));
    let fill = |text: &str| fill(text, &words);
    let optional = |text: &Option<String>| text.as_deref().map(fill).transpose();
    let all = |texts: &[String]| texts.iter().map(|text| fill(text)).collect::<Result<Vec<_>, _>>();

    let mut spec = ServiceSpec {
        name: context.service.to_string(),
        argv: all(&template.command)?,
        cwd: optional(&template.cwd)?.map(PathBuf::from),
        user: optional(&template.user)?,
        group: optional(&template.group)?,
        prepare_timeout_ms: template.prepare_timeout.map(milliseconds),
        ready_timeout_ms: template.ready_timeout.map(milliseconds),
        stop_signal: template.stop_signal.map(Into::into),
        stop_timeout_ms: template.stop_timeout.map(milliseconds),
        restart: template.restart.unwrap_or_default().into(),
        after: template.after.iter().map(ToString::to_string).collect(),
        new_privileges: template.new_privileges,
        capabilities: template.capabilities.clone(),
        ..ServiceSpec::default()
    };
    for (key, value) in &template.env {
        spec.env.insert(key.clone(), fill(value)?);
    }
    if let Some(ready) = optional(&template.ready)? {
        let wrong = |_| wrong("ready", &ready, "tcp:PORT, udp:PORT, exit or alive:MILLISECONDS");
        spec.ready = ready.parse::<ReadyWhen>().map_err(wrong)?.into();
    }
    for directory in template.directories.iter().filter(|one| said(&one.when)) {
        spec.directories.push(Directory {
            path: place(fill(&directory.path)?)?,
            mode: mode(&directory.mode, 0o7777)?,
            user: optional(&directory.user)?,
            group: optional(&directory.group)?,
        });
    }
    for file in template.files.iter().filter(|one| said(&one.when)) {
        spec.files.push(ServiceFile {
            path: place(fill(&file.path)?)?,
            content: fill(&file.content)?,
            // No set-id bits: a template makes configuration, not privileges.
            mode: mode(&file.mode, 0o777)?,
            user: optional(&file.user)?,
            group: optional(&file.group)?,
            keep: file.keep,
        });
    }
    for prepare in template.prepare.iter().filter(|one| said(&one.when)) {
        spec.prepare.push(all(&prepare.command)?);
    }
    Ok(spec)
}

fn words<'a>(
    template: &'a Template,
    settings: &BTreeMap<String, String>,
    context: &Context,
) -> Result<Words<'a>, TemplateError> {
    if let Some(setting) = settings.keys().find(|name| !template.settings.contains_key(*name)) {
        let known = template.settings.keys().cloned().collect();
        return Err(TemplateError::UnknownSetting { setting: setting.clone(), known });
    }
    for name in settings.keys() {
        let needs = template.settings.get(name).and_then(|setting| setting.needs.as_ref());
        if let Some(needs) = needs.filter(|needs| !settings.contains_key(*needs)) {
            return Err(TemplateError::Needs { setting: name.clone(), needs: needs.clone() });
        }
    }
    let own = [context.tenant.to_string(), context.address.to_string()];
    let mut words: Words<'a> = WORDS.into_iter().zip(own).collect();
    let mut values = BTreeMap::new();
    for (name, setting) in &template.settings {
        let value = match (settings.get(name), &setting.default) {
            (Some(value), _) => value.clone(),
            (None, Some(default)) => fill(default, &words)?,
            (None, None) if setting.optional => {
                values.insert(name.as_str(), String::new());
                continue;
            }
            (None, None) => {
                return Err(TemplateError::Missing { setting: name.clone(), doc: setting.doc.clone() });
            }
        };
        let mut value = value::write(name, setting, &value)?;
        if let Some(each) = setting.each.as_ref().filter(|_| !matches!(setting.kind, Kind::Records | Kind::Networks)) {
            value = each.replace("{value}", &value);
        }
        values.insert(name.as_str(), value);
    }
    words.extend(values);
    Ok(words)
}

/// Was the setting set; is it `yes`, if it is a flag?
fn is_said(when: &str, template: &Template, settings: &BTreeMap<String, String>) -> bool {
    let name = when.trim_start_matches('!');
    let said = match template.settings.get(name) {
        Some(Setting { kind: Kind::Flag, default, .. }) => {
            settings.get(name).or(default.as_ref()).is_some_and(|value| value == "yes")
        }
        _ => settings.contains_key(name),
    };
    said != when.starts_with('!')
}

fn milliseconds(seconds: u64) -> u64 {
    seconds.saturating_mul(1000)
}

fn wrong(what: &'static str, value: &str, rule: &'static str) -> TemplateError {
    TemplateError::Template { what, value: value.to_owned(), rule }
}

/// A path of the tenant that says plainly where it leads.
fn place(path: String) -> Result<String, TemplateError> {
    let plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
    if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') || !Path::new(&path).components().all(plain)
    {
        return Err(wrong("path", &path, "an absolute path, without . and .. and without / at its end"));
    }
    Ok(path)
}

fn mode(mode: &Option<String>, most: u32) -> Result<Option<u32>, TemplateError> {
    let Some(text) = mode else { return Ok(None) };
    let value = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= most);
    let rule = "an octal number; a file has no set-id bits";
    value.map(Some).ok_or_else(|| wrong("mode", text, rule))
}

pub(super) const fn is_word(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'
}

/// Puts words in. One pass: what a value brings in is not looked at again.
fn fill(text: &str, words: &Words<'_>) -> Result<String, TemplateError> {
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
        let value = words.get(word).ok_or_else(|| wrong("placeholder", word, "a setting, tenant or address"))?;
        out.push_str(value);
        rest = &after[word.len() + 2..];
    }
    out.push_str(rest);
    Ok(out)
}
