//! `tenantd diff`: what `apply` of a declarative file would do.

use clap::Args;

use super::{Context, Failure, tasks, write};
use crate::declare::order::{Found, Permission, Schedule, TenantDiff, Verdict, schedule, unname_first};

/// Arguments of `diff`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  tenantd diff -f closed-networks.toml\n  tenantd diff -f base.toml -f more.toml --prune \
    --exit-code\n\nThe file is described in docs/closed-networks.md; tenantd export writes one."
)]
pub struct Diff {
    #[command(flatten)]
    files: tasks::Files,
    /// Also what --prune of apply would remove
    #[arg(long)]
    prune: bool,
    /// Exit code 4 when something differs
    #[arg(long)]
    exit_code: bool,
}

/// Compares, prints; changes nothing.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &Diff, cx: &Context) -> Result<u8, Failure> {
    let mut wanted = args.files.read()?;
    let there = tasks::export(cx)?;
    unname_first(&mut wanted, &there);
    let may = Permission { prune: args.prune, ..Permission::default() };
    let found = schedule(&wanted, &there.tenants, &may);
    say(&found, cx)?;
    Ok(if args.exit_code && found.differs() { 4 } else { 0 })
}

/// Prints a comparison.
pub(super) fn say(found: &Schedule, cx: &Context) -> Result<(), Failure> {
    if cx.json {
        let json = serde_json::to_string(&Found::from(found)).unwrap_or_default();
        return write(format!("{json}\n").as_bytes());
    }
    let mut text: String = found.tenants.iter().map(words).collect();
    if !found.differs() {
        text += "nothing differs\n";
    }
    write(text.as_bytes())
}

/// Of a tenant that differs one line, and one a field; of others nothing.
fn words(tenant: &TenantDiff) -> String {
    let name = &tenant.name;
    let mut text = match tenant.verdict {
        Verdict::Same | Verdict::Left => return String::new(),
        Verdict::Add => return format!("+ {name}\n"),
        Verdict::Remove => return format!("- {name}\n"),
        Verdict::Change => format!("~ {name}\n"),
        Verdict::Replace => format!("! {name} (ended, with its files, and made again)\n"),
        Verdict::Refused => format!("x {name}: {}\n", tenant.reason.as_deref().unwrap_or_default()),
    };
    for change in &tenant.changes {
        let field = &change.field;
        text += &match (&change.before, &change.after) {
            (None, Some(after)) => format!("    + {field}: {after}\n"),
            (Some(before), None) => format!("    - {field}: {before}\n"),
            (before, after) => {
                let value = |v: &Option<String>| v.clone().unwrap_or_default();
                format!("    ~ {field}: {} -> {}\n", value(before), value(after))
            }
        };
    }
    text
}
