//! `tenantd verify`: do tables and kernel agree?

use std::time::Duration;

use clap::Args;
use stackmap::TenantName;

use super::table::align;
use super::{Context, Failure};
use crate::verify::Verification;

/// Exit code of a disagreement; an error is 1.
pub const DISAGREE: u8 = 3;

/// Arguments of `verify`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  tenantd verify\n  tenantd verify acme --watch --interval 10\n\n\
    Every process, socket, port, tag, tunnel and guard row is read from the kernel and compared with the three tables.\n\
    Exit codes: 0 all agree, 3 something disagrees (each is named), 1 it could not be found out.")]
pub struct Verify {
    /// Tenant; all when left out
    #[arg(value_name = "NAME")]
    name: Option<TenantName>,
    /// Go on verifying; print when the answer changes. The daemon's event `drift` tells others
    #[arg(long)]
    watch: bool,
    /// Seconds between two verifications
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=86_400),
        requires = "watch")]
    interval: u64,
}

/// Prints what agrees and what does not; the exit code says which.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &Verify, cx: &Context) -> Result<u8, Failure> {
    let path = match &args.name {
        Some(name) => format!("/v1/tenants/{name}/verify"),
        None => "/v1/verify".to_owned(),
    };
    let mut before = None;
    loop {
        let answer = cx.client.get(&path)?;
        let found: Verification = answer.parse()?;
        if !args.watch {
            cx.say(&answer, |found: Verification| words(&found))?;
            return Ok(if found.agree { 0 } else { DISAGREE });
        }
        let differ = found.words();
        if before.as_ref() != Some(&differ) {
            cx.say(&answer, |found: Verification| words(&found))?;
            before = Some(differ);
        }
        std::thread::sleep(Duration::from_secs(args.interval));
    }
}

fn words(found: &Verification) -> String {
    let line = |check: &crate::verify::Check| {
        let state = match check.disagree.len() {
            0 => "agree".to_owned(),
            n => format!("{n} DISAGREE"),
        };
        let counts = format!("{} of tenants, {} looked at", check.belong, check.looked_at);
        vec![check.name.clone(), state, counts]
    };
    let mut text = align(&found.checks.iter().map(line).collect::<Vec<_>>());
    for check in &found.checks {
        for one in &check.disagree {
            let tenants: Vec<&str> = one.tenants.iter().map(String::as_str).collect();
            let whose = if tenants.is_empty() { "no tenant".to_owned() } else { tenants.join(", ") };
            text += &format!(
                "\n{} ({whose}): {}\n  table:  {}\n  kernel: {}\n",
                check.name, one.subject, one.table, one.kernel
            );
        }
    }
    for note in &found.notes {
        text += &format!("note: {note}\n");
    }
    let took = found.took_us / 1000;
    text + &format!("{} tenants, {} looks, the last took {took} ms\n", found.tenants, found.rounds)
}
