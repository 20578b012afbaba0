//! What a service may look like. The daemon has checked it too; init does not rely on that, because names become file
//! names and words become arguments of system calls.

use std::io;
use std::path::{Component, Path};

use tenant_init::protocol::{MAX_SERVICE, Ready, Refusal, RefusalKind, ServiceSpec};

/// Most entries of each list of a service.
const MOST: usize = 64;
/// Longest path (bytes) of a file or directory; the kernel takes 4096 with its end.
const LONGEST: usize = 1024;

/// Checks everything that can be said without looking at the system or at other services.
pub(crate) fn check(spec: &ServiceSpec) -> Result<(), Refusal> {
    let label = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let name = spec.name.as_str();
    if name.is_empty() || name.len() > 48 || !name.bytes().all(label) || name.starts_with('-') || name.ends_with('-') {
        return Err(invalid("service", name, "a DNS label of at most 48 characters"));
    }
    command("command", &spec.argv)?;
    for words in &spec.prepare {
        command("prepare", words)?;
    }
    let variables = spec.env.keys().chain(spec.env.values());
    if let Some(bad) = variables.into_iter().find(|word| word.contains('\0')) {
        return Err(invalid("env", bad, "no NUL character"));
    }
    if let Some(bad) = spec.env.keys().find(|key| key.is_empty() || key.contains('=')) {
        return Err(invalid("env", bad, "a variable's name is not empty and has no '='"));
    }
    let lists = [
        ("files", spec.files.len()),
        ("directories", spec.directories.len()),
        ("prepare", spec.prepare.len()),
        ("after", spec.after.len()),
    ];
    if let Some((field, length)) = lists.into_iter().find(|(_, length)| *length > MOST) {
        return Err(invalid(field, &length.to_string(), &format!("at most {MOST}")));
    }
    let files = spec.files.iter().map(|file| ("files", file.path.as_str(), file.mode));
    let directories = spec.directories.iter().map(|one| ("directories", one.path.as_str(), one.mode));
    for (field, path, mode) in files.chain(directories) {
        place(field, path)?;
        if mode.is_some_and(|mode| mode > 0o7777) {
            return Err(invalid(field, path, "permissions are at most 07777"));
        }
    }
    if let Some(cwd) = &spec.cwd {
        let text = cwd.to_string_lossy();
        if text.contains('\0') || !cwd.is_absolute() {
            return Err(invalid("cwd", &text, "an absolute path"));
        }
    }
    if matches!(spec.ready, Ready::Tcp(0) | Ready::Udp(0)) {
        return Err(invalid("ready", "0", "a port is 1 to 65535"));
    }
    if let Some(bad) = spec.stop_signal.filter(|number| !(1..=64).contains(number)) {
        return Err(invalid("stop_signal", &bad.to_string(), "the number of a signal, 1 to 64"));
    }
    for capability in spec.capabilities.iter().flatten() {
        let known = format!("CAP_{}", capability.to_ascii_uppercase()).parse::<caps::Capability>();
        if known.is_err() || capability.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(invalid("capabilities", capability, "a capability such as net_bind_service"));
        }
    }
    let mut length = Length(0);
    match serde_json::to_writer(&mut length, spec) {
        Ok(()) if length.0 <= MAX_SERVICE => Ok(()),
        _ => Err(invalid("service", name, &format!("at most {MAX_SERVICE} bytes with all its files"))),
    }
}

fn command(field: &str, words: &[String]) -> Result<(), Refusal> {
    if words.first().is_none_or(String::is_empty) {
        return Err(invalid(field, "", "a program is needed"));
    }
    match words.iter().find(|word| word.contains('\0')) {
        Some(bad) => Err(invalid(field, bad, "no NUL character")),
        None => Ok(()),
    }
}

/// A path below the root that says plainly where it leads.
fn place(field: &str, path: &str) -> Result<(), Refusal> {
    let plain = Path::new(path).components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !path.starts_with('/') || path.ends_with('/') || !plain || path.contains('\0') || path.len() > LONGEST {
        let rule = format!("an absolute path without .. and / at its end, at most {LONGEST} bytes");
        return Err(invalid(field, path, &rule));
    }
    Ok(())
}

pub(crate) fn invalid(field: &str, value: &str, rule: &str) -> Refusal {
    Refusal::new(RefusalKind::Invalid, field, value, rule)
}

/// Counts what is written.
struct Length(usize);

impl io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn refused(change: impl FnOnce(&mut ServiceSpec)) -> String {
        let mut spec = ServiceSpec { name: "web".into(), argv: vec!["/bin/x".into()], ..ServiceSpec::default() };
        assert_eq!(check(&spec), Ok(()));
        change(&mut spec);
        check(&spec).unwrap_err().field
    }

    #[test]
    fn every_part_of_a_service_is_checked() {
        let file = |path: &str, length: usize| tenant_init::protocol::ServiceFile {
            path: path.into(),
            content: "x".repeat(length),
            mode: None,
            user: None,
            group: None,
            keep: false,
        };
        for path in ["etc/x", "/etc/../x", "/", "", "/etc/", "/a\0b", &format!("/{}", "x".repeat(1024))] {
            assert_eq!(refused(|spec| spec.files.push(file(path, 0))), "files", "{path:?}");
        }
        assert_eq!(refused(|spec| spec.files.push(file("/x", MAX_SERVICE))), "service");
        assert_eq!(refused(|spec| spec.files = vec![file("/x", 0); 65]), "files");
        assert_eq!(refused(|spec| spec.prepare.push(vec![])), "prepare");
        assert_eq!(refused(|spec| spec.cwd = Some("x".into())), "cwd");
        assert_eq!(refused(|spec| spec.ready = Ready::Udp(0)), "ready");
        assert_eq!(refused(|spec| spec.stop_signal = Some(65)), "stop_signal");
        assert_eq!(refused(|spec| spec.capabilities = Some(vec!["fly".into()])), "capabilities");
        assert_eq!(refused(|spec| spec.capabilities = Some(vec!["CHOWN".into()])), "capabilities");
    }
}
