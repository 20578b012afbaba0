//! What became of every tenant of an `apply` or `import`.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use stackmap::TenantName;
use utoipa::ToSchema;

use super::order::{Schedule, Verdict};
use crate::model::{FieldChange, Outcome};
use crate::problem::Problem;

/// The end of a tenant's turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// It was made.
    Added,
    /// It was changed in place.
    Changed,
    /// It was ended and made again.
    Replaced,
    /// It was removed.
    Removed,
    /// It was so already.
    Same,
    /// It is not in the file, and was left alone.
    Left,
    /// It was refused or failed; see `problem`.
    Failed,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Added => "added",
            Self::Changed => "changed",
            Self::Replaced => "replaced",
            Self::Removed => "removed",
            Self::Same => "same",
            Self::Left => "left alone",
            Self::Failed => "failed",
        })
    }
}

impl From<Outcome> for End {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Added => Self::Added,
            Outcome::Changed => Self::Changed,
            Outcome::Replaced => Self::Replaced,
            Outcome::Same => Self::Same,
        }
    }
}

/// One tenant of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TenantReport {
    /// Tenant.
    #[schema(value_type = String)]
    pub name: TenantName,
    /// What became of it.
    pub end: End,
    /// Fields that were changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<FieldChange>,
    /// From request to answer, in microseconds; 0 when nothing was asked.
    pub us: u64,
    /// With `failed`: why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

/// What became of all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Report {
    /// The tenants, by name.
    pub tenants: Vec<TenantReport>,
    /// How many ended how.
    pub count: BTreeMap<End, usize>,
    /// True when nothing was done.
    pub dry_run: bool,
}

impl Report {
    /// What was asked of the daemon, and what of the rest was decided without asking it.
    #[must_use]
    pub fn of(schedule: &Schedule, mut asked: BTreeMap<TenantName, TenantReport>, dry_run: bool) -> Self {
        let mut report = Self { dry_run, ..Self::default() };
        for tenant in &schedule.tenants {
            let decided =
                |end, problem| TenantReport { name: tenant.name.clone(), end, changes: Vec::new(), us: 0, problem };
            let one = asked.remove(&tenant.name).unwrap_or_else(|| match tenant.verdict {
                Verdict::Left => decided(End::Left, None),
                Verdict::Same => decided(End::Same, None),
                // In a check, what would be freed before it is still there: its conflict said nothing and was left out.
                Verdict::Add if dry_run => decided(End::Added, None),
                Verdict::Change if dry_run => decided(End::Changed, None),
                Verdict::Replace if dry_run => decided(End::Replaced, None),
                _ => decided(End::Failed, tenant.problem()),
            });
            *report.count.entry(one.end).or_default() += 1;
            report.tenants.push(one);
        }
        report
    }

    /// How many failed.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.count.get(&End::Failed).copied().unwrap_or_default()
    }

    /// `1000 tenants: 998 added, 1 same, 1 failed`.
    #[must_use]
    pub fn summary(&self) -> String {
        let counts: Vec<_> = self.count.iter().map(|(end, count)| format!("{count} {end}")).collect();
        let of = if counts.is_empty() { String::new() } else { format!(": {}", counts.join(", ")) };
        let tenants = if self.tenants.len() == 1 { "tenant" } else { "tenants" };
        format!("{} {tenants}{of}", self.tenants.len())
    }
}
