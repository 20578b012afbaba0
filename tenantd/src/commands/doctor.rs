//! `tenantd doctor`: is this machine fit for tenants, and what mends it?

use std::path::{Path, PathBuf};

use clap::Args;
use serde::de::DeserializeOwned;

use super::{Context, Failure, run, write};
use crate::client::ClientError;
use crate::config::Options;
use crate::doctor::{Facts, Finding, Known, Mender, Place, Report, Severity};
use crate::model::{DaemonStatus, Tenant};

/// Exit code when something is worse than a note.
pub const UNFIT: u8 = 1;

/// Arguments of `doctor`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  tenantd doctor\n  tenantd doctor --tenants 4094\n  tenantd doctor --fix\n\n\
    Kernel, capabilities, cgroups, limits, disk, network managers and leftovers are looked at; with a running daemon also\n\
    what only it knows. Each finding says what was found, what is needed and why, and what mends it.\n\
    Exit codes: 0 nothing is worse than a note, 1 something is.")]
pub struct Doctor {
    /// For how many tenants the limits shall do [default: those there are, at least 16]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    tenants: Option<u64>,
    /// Mend what is safe: kernel limits, now and in /etc/sysctl.d, and empty leftovers
    #[arg(long)]
    fix: bool,
    /// Show also what is as it should be
    #[arg(long, short)]
    all: bool,
    /// Look at the machine whose root file system is there, such as a rescue mount; no daemon is asked
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// The daemon's settings file (TOML)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
}

/// What limits are computed for where nobody says: a machine that has room for a few.
const LEAST: u64 = 16;

/// Looks, mends if asked to, and prints.
///
/// # Errors
/// [`Failure`].
pub fn run(args: Doctor, cx: &Context, instance: Option<String>) -> Result<u8, Failure> {
    let config = run::resolve(args.config.as_deref(), Options { instance, ..args.options })?;
    let place = Place::of(&config, &std::path::absolute(&args.root).map_err(Failure::Start)?);
    let look = || look(&place, cx, args.tenants);
    let mut report = look()?;
    if args.fix {
        let mended = Mender::new(place.clone()).carry_out(report.plan());
        report = Report { mended, ..look()? };
    }
    if cx.json {
        write(format!("{}\n", serde_json::to_string(&report).unwrap_or_default()).as_bytes())?;
    } else {
        write(words(&report, args.all).as_bytes())?;
    }
    Ok(if report.is_fit() { 0 } else { UNFIT })
}

fn look(place: &Place, cx: &Context, tenants: Option<u64>) -> Result<Report, Failure> {
    let mut facts = Facts::read(place.clone());
    facts.try_features();
    // After the facts: a tenant made in between has its traces and its name.
    let known = if place.root == Path::new("/") { known(cx)? } else { None };
    let there = known.as_ref().map_or(0, |known| known.tenants.len() as u64);
    Ok(Report::of(&facts, known.as_ref(), tenants.unwrap_or(there.max(LEAST))))
}

/// What the daemon says; none when nobody listens. One that refuses us is told as any verb would.
fn known(cx: &Context) -> Result<Option<Known>, Failure> {
    match cx.client.get("/v1/status") {
        Ok(status) => {
            let tenants: Vec<Tenant> = ask(cx, "/v1/tenants")?;
            let tenants = tenants.into_iter().map(|tenant| tenant.name.to_string()).collect();
            let status: DaemonStatus = status.parse()?;
            Ok(Some(Known { tenants, status, verified: ask(cx, "/v1/verify")? }))
        }
        Err(ClientError::NotRunning(_) | ClientError::Connect { .. }) => Ok(None),
        Err(other) => Err(other.into()),
    }
}

fn ask<T: DeserializeOwned>(cx: &Context, path: &str) -> Result<T, ClientError> {
    cx.client.get(path)?.parse()
}

fn words(report: &Report, all: bool) -> String {
    let mut text = String::new();
    for finding in report.findings.iter().filter(|finding| all || finding.severity > Severity::Ok) {
        text += &paragraph(finding);
    }
    for mended in &report.mended {
        text += &match &mended.error {
            None => format!("mended: {}\n", mended.change),
            Some(error) => format!("NOT mended: {}: {error}\n", mended.change),
        };
    }
    let count = |severity| report.findings.iter().filter(|finding| finding.severity == severity).count();
    let daemon = if report.daemon { "" } else { " (the daemon does not answer)" };
    text + &format!(
        "instance {}{daemon}, for {} tenants: {} checks, {} errors, {} warnings, {} notes\n",
        report.instance,
        report.tenants,
        report.findings.len(),
        count(Severity::Error),
        count(Severity::Warning),
        count(Severity::Note),
    )
}

fn paragraph(finding: &Finding) -> String {
    let severity = match finding.severity {
        Severity::Ok => "ok",
        Severity::Note => "note",
        Severity::Warning => "WARNING",
        Severity::Error => "ERROR",
    };
    let mut text = format!("{severity}: {}: {}\n", finding.name, finding.found);
    if finding.severity > Severity::Ok {
        text += &format!("  needed: {}\n  why:    {}\n", finding.needed, finding.why);
    }
    if let Some(mend) = &finding.mend {
        text += &format!("  mend:   {mend}\n");
    }
    text
}
