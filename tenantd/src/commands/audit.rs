//! `tenantd audit`: who changed what, and what came of it.

use clap::Args;
use serde_json::Value;
use stackmap::TenantName;

use super::table::{align, commas};
use super::{Context, Failure};
use crate::audit::{AuditRow, Query};
use crate::model::EventOrigin;

/// Arguments of `audit`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  tenantd audit\n  tenantd audit acme --limit 20\n  tenantd audit --since 4711 --json"
)]
pub struct Audit {
    /// Tenant, also one that is gone; all when left out, inside a tenant that one
    #[arg(value_name = "NAME")]
    name: Option<TenantName>,
    /// Rows after this number, oldest first [default: the newest rows]
    #[arg(long, value_name = "ID")]
    since: Option<u64>,
    /// How many rows at most, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = Query::USUAL)]
    limit: usize,
}

/// Prints the rows.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &Audit, cx: &Context) -> Result<(), Failure> {
    let mut path = format!("/v1/audit?limit={}", args.limit);
    if let Some(name) = &args.name {
        path.push_str(&format!("&tenant={name}"));
    }
    if let Some(since) = args.since {
        path.push_str(&format!("&since={since}"));
    }
    let answer = cx.client.get(&path)?;
    cx.say(&answer, |rows: Vec<AuditRow>| words(&rows))
}

fn words(rows: &[AuditRow]) -> String {
    let head = ["ID", "TIME (UTC)", "WHO", "WHAT", "TENANT", "FIELDS", "RESULT"].map(str::to_owned).to_vec();
    let lines = rows.iter().map(|row| {
        let result = match &row.reason {
            Some(reason) => format!("{}: {}", row.result.as_str(), printable(reason)),
            None => row.result.as_str().to_owned(),
        };
        let tenant = row.tenant.clone().unwrap_or_default();
        vec![row.id.to_string(), time(row.at_ms), who(row), row.verb.clone(), tenant, fields(row), result]
    });
    align(&std::iter::once(head).chain(lines).collect::<Vec<_>>())
}

/// The fields that changed; of a tenant that was made, or is gone, that would be all of them.
fn fields(row: &AuditRow) -> String {
    let (Some(Value::Object(_)), Some(Value::Object(after))) = (&row.before, &row.after) else { return String::new() };
    commas(after.keys())
}

/// What was refused may hold anything, also what would change the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn who(row: &AuditRow) -> String {
    let of = match (row.uid, &row.command) {
        (Some(uid), Some(command)) => format!(" {command} (uid {uid})"),
        (Some(uid), None) => format!(" uid {uid}"),
        _ => String::new(),
    };
    match row.origin {
        EventOrigin::Daemon => "daemon".to_owned(),
        EventOrigin::Operator => format!("operator{of}"),
        EventOrigin::Tenant => format!("tenant{of}"),
    }
}

/// `2026-11-20 21:04:05`; days to a date of the Gregorian calendar, counted in years that begin in March.
fn time(at_ms: u64) -> String {
    let (days, second) = (at_ms / 86_400_000, at_ms / 1000 % 86_400);
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_a_line_whatever_is_in_it() {
        let row = serde_json::json!({
            "id": 7, "at_ms": 0, "origin": "operator", "uid": 0, "command": "tenantd", "verb": "set-address", "tenant": "acme",
            "before": {"addresses": []}, "after": {"addresses": ["10.0.0.1/8"]}, "result": "refused", "reason": "a\u{1b}[2J\nb",
        });
        let text = serde_json::from_value(row).map(|row| words(&[row])).unwrap_or_default();
        let line = text.lines().nth(1).unwrap_or_default();
        let expected =
            "7   1970-01-01 00:00:00  operator tenantd (uid 0)  set-address  acme    addresses  refused: a?[2J?b";
        assert_eq!(line, expected);
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        // `date -u -d @N`.
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_400, "2000-02-29 00:00:00"),
            (1_709_251_199, "2024-02-29 23:59:59"),
            (4_107_542_400, "2100-03-01 00:00:00"),
        ] {
            assert_eq!(time(seconds * 1000), text);
        }
    }
}
