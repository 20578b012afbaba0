//! `tenantd cp`: files into a tenant and out of it; see [`crate::enter::copy`].

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use stackmap::{Invalid, TenantName};

use super::exec::{hold, user};
use super::{Context, Failure};
use crate::enter::copy::{Copied, Copy, Local, Progress, shown};

/// Arguments of `cp`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  tenantd cp index.html acme:/var/www/html/\n  \
    tenantd cp -r acme:/etc/nginx .\n  pg_dump shop | tenantd cp - acme:/root/shop.sql\n\n\
    Regular files and directories with their permission bits; everything else is named and passed over. A path of a \
    tenant is NAME:/PATH; a file of the host with a colon in its name is written ./a:b.\n\n\
    Exit codes: 0 all copied; 1 refused, failed, or something was passed over; 2 wrong usage.")]
pub struct Cp {
    /// Directories too, with all that is in them
    #[arg(short, long)]
    recursive: bool,
    /// User of the tenant who reads or writes, by name or number [default: the tenant's root]
    #[arg(short, long, value_name = "USER", value_parser = user)]
    user: Option<String>,
    /// Files, then where to: NAME:/PATH on one of both sides, `-` for standard input or output
    #[arg(required = true, num_args = 2.., value_name = "FROM... TO")]
    paths: Vec<OsString>,
}

/// One side of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Side {
    Here(Local),
    There(TenantName, PathBuf),
}

fn side(word: &OsString) -> Result<Side, Invalid> {
    let bytes = word.as_bytes();
    let name = bytes.split(|byte| *byte == b':').next().unwrap_or_default();
    if name.len() == bytes.len() || name.contains(&b'/') {
        return match bytes {
            b"" => Err(Invalid::new("path", "", "must not be empty")),
            b"-" => Ok(Side::Here(Local::Stream)),
            _ => Ok(Side::Here(Local::Path(word.into()))),
        };
    }
    let path = PathBuf::from(OsString::from_vec(bytes[name.len() + 1..].to_vec()));
    let text = shown(word);
    let tenant = std::str::from_utf8(name).ok().and_then(|name| name.parse().ok());
    let Some(tenant) = tenant else {
        return Err(Invalid::new("path", text, "must be NAME:/PATH with a tenant's name, or ./PATH on the host"));
    };
    if !path.is_absolute() {
        return Err(Invalid::new("path", text, "must be NAME:/PATH: the path in a tenant is absolute"));
    }
    Ok(Side::There(tenant, path))
}

/// What is copied from where to where.
#[derive(Debug, PartialEq, Eq)]
enum Way {
    Into(Vec<Local>, TenantName, PathBuf),
    Out(TenantName, Vec<PathBuf>, Local),
}

fn way(words: &[OsString]) -> Result<Way, Invalid> {
    let (last, from) = words.split_last().ok_or_else(|| Invalid::new("path", "", "is missing"))?;
    let refused = |word: &OsString, rule: &'static str| Invalid::new("path", shown(word), rule);
    const ONE_SIDE: &str = "exactly one side must be of a tenant (NAME:/PATH)";
    match side(last)? {
        Side::There(tenant, to) => {
            let mut files = Vec::new();
            for word in from {
                match side(word)? {
                    Side::Here(local) => files.push(local),
                    Side::There(..) => return Err(refused(word, ONE_SIDE)),
                }
            }
            if files.iter().filter(|local| **local == Local::Stream).count() > usize::from(files.len() == 1) {
                return Err(Invalid::new("path", "-", "standard input must be the only file"));
            }
            Ok(Way::Into(files, tenant, to))
        }
        Side::Here(to) => {
            let (mut tenant, mut files) = (None, Vec::new());
            for word in from {
                match side(word)? {
                    Side::There(name, path) if *tenant.get_or_insert_with(|| name.clone()) == name => files.push(path),
                    Side::There(..) => return Err(refused(word, "all files must be of one tenant")),
                    Side::Here(_) => return Err(refused(word, ONE_SIDE)),
                }
            }
            let tenant = tenant.ok_or_else(|| refused(last, ONE_SIDE))?;
            Ok(Way::Out(tenant, files, to))
        }
    }
}

/// Copies, and returns the exit code.
///
/// # Errors
/// [`Failure`]; what was passed over is told and is exit code 1.
pub fn run(args: Cp, cx: Context) -> Result<u8, Failure> {
    let way = way(&args.paths)?;
    let json = cx.json;
    let (Way::Into(_, name, _) | Way::Out(name, ..)) = &way;
    let hold = hold(name, cx)?;
    let copy = Copy { hold: &hold, user: args.user.as_deref(), recursive: args.recursive };
    let mut line = Line::default();
    let mut watch = |progress: Progress<'_>| line.show(progress);
    let copied = match &way {
        Way::Into(from, _, to) => copy.copy_in(from, to, &mut watch),
        Way::Out(_, from, to) => copy.copy_out(from, to, &mut watch),
    };
    line.clear();
    let copied = copied?;
    tell(&copied, json, matches!(&way, Way::Out(_, _, Local::Stream)))?;
    Ok(u8::from(!copied.skipped.is_empty()))
}

fn tell(copied: &Copied, json: bool, stdout_is_taken: bool) -> Result<(), Failure> {
    if json && !stdout_is_taken {
        let text = serde_json::to_string(copied).unwrap_or_default();
        return super::write(format!("{text}\n").as_bytes());
    }
    for skipped in &copied.skipped {
        eprintln!("tenantd: not copied: {skipped}");
    }
    Ok(())
}

/// How often the line of progress is written anew.
const PAUSE: Duration = Duration::from_millis(200);

/// The line of progress, on a terminal only.
#[derive(Default)]
struct Line {
    last: Option<Instant>,
    shown: bool,
}

impl Line {
    fn show(&mut self, progress: Progress<'_>) {
        let now = Instant::now();
        // What is quick is not shown at all.
        let last = *self.last.get_or_insert(now);
        let mut to = std::io::stderr().lock();
        if now.duration_since(last) < PAUSE || !to.is_terminal() {
            return;
        }
        (self.last, self.shown) = (Some(now), true);
        let _ = write!(to, "\r\x1b[K{}", words(progress));
        let _ = to.flush();
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            eprint!("\r\x1b[K");
        }
    }
}

/// `photo.tar  1.2 of 30.0 MiB  4 %`
fn words(progress: Progress<'_>) -> String {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let name: String = shown(progress.name).chars().take(40).collect();
    match progress.size {
        Some(size) => {
            let percent = (progress.done as f64 * 100.0 / (size.max(1)) as f64).min(100.0);
            format!("{name}  {:.1} of {:.1} MiB  {percent:.0} %", mib(progress.done), mib(size))
        }
        None => format!("{name}  {:.1} MiB", mib(progress.done)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn local(path: &str) -> Local {
        Local::Path(PathBuf::from(path))
    }

    fn parsed(words: &[&str]) -> Result<Way, (String, String)> {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        way(&words).map_err(|e| (e.value.to_string(), e.rule.to_string()))
    }

    #[test]
    fn one_side_is_a_tenants() {
        let acme: TenantName = "acme".parse().unwrap();
        let there = PathBuf::from("/x:y");
        assert_eq!(
            parsed(&["a", "./b:c", "acme:/x:y"]),
            Ok(Way::Into(vec![local("a"), local("./b:c")], acme.clone(), there.clone()))
        );
        assert_eq!(parsed(&["-", "acme:/x:y"]), Ok(Way::Into(vec![Local::Stream], acme.clone(), there.clone())));
        assert_eq!(parsed(&["acme:/x:y", "-"]), Ok(Way::Out(acme, vec![there], Local::Stream)));
        for (words, value, rule) in [
            (&["a", "b"][..], "a", "exactly one side"),
            (&["acme:/a", "acme:/b"], "acme:/a", "exactly one side"),
            (&["acme:/a", "b", "c"], "b", "exactly one side"),
            (&["acme:/a", "other:/b", "c"], "other:/b", "one tenant"),
            (&["acme:a", "c"], "acme:a", "absolute"),
            (&["Acme!:/a", "c"], "Acme!:/a", "tenant's name"),
            (&["", "acme:/a"], "", "empty"),
            (&["-", "a", "acme:/a"], "-", "only file"),
        ] {
            let (found, why) = parsed(words).unwrap_err();
            assert_eq!(found, value, "{words:?}");
            assert!(why.contains(rule), "{words:?}: {why}");
        }
    }

    #[test]
    fn progress_never_writes_what_a_terminal_obeys() {
        let name = std::ffi::OsStr::from_bytes(b"a\x1b[2J\n\xff");
        let text = words(Progress { name, done: 1 << 20, size: Some(2 << 20) });
        assert_eq!(text, "a\\u{1b}[2J\\n\u{fffd}  1.0 of 2.0 MiB  50 %");
    }
}
