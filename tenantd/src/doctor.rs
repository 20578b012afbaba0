//! Is this machine fit for what is asked of it? Looks at kernel, limits, disk, network managers and leftovers, and says of
//! each what was found, what is needed and why, and what mends it.
//!
//! In: [`Facts`], read once from the files of a machine (of any directory that looks like one: tests, rescue mounts), and
//! what the daemon says, if one runs. Out: [`Report`], made by pure functions. What is safe to mend is a list of
//! [`Change`]s, planned in `mend` and carried out there and nowhere else.

mod facts;
mod leftovers;
mod limits;
mod machine;
mod managers;
mod mend;
mod network_files;
mod state;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use facts::{Facts, Place};
pub use leftovers::Known;
pub use limits::FILES_A_TENANT;
pub use mend::{Change, Mended, Mender};

/// How bad a finding is. What is worse than a note makes the exit code 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// As needed.
    Ok,
    /// Worth knowing; nothing has to be done.
    Note,
    /// Works, but not well, or not for as many tenants as planned.
    Warning,
    /// Tenants cannot be made or kept.
    Error,
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The check's name, stable.
    pub name: String,
    /// How bad it is.
    pub severity: Severity,
    /// What was found.
    pub found: String,
    /// What is needed.
    pub needed: String,
    /// Why it is needed.
    pub why: String,
    /// The command, or the words, that mend it; none when there is nothing to mend.
    pub mend: Option<String>,
    /// What `--fix` would do about it.
    pub fix: Vec<Change>,
}

/// What `tenantd doctor` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The instance looked at.
    pub instance: String,
    /// Whether its daemon answered; without it some checks cannot be made, and say so.
    pub daemon: bool,
    /// The number of tenants the limits were computed for.
    pub tenants: u64,
    /// One a check.
    pub findings: Vec<Finding>,
    /// What `--fix` did; the findings are those after it.
    pub mended: Vec<Mended>,
}

impl Finding {
    /// A check that found `found`; as needed, until one says otherwise.
    fn new(name: &str, found: impl Into<String>, needed: impl Into<String>, why: &str) -> Self {
        Self {
            name: name.into(),
            severity: Severity::Ok,
            found: found.into(),
            needed: needed.into(),
            why: why.into(),
            mend: None,
            fix: Vec::new(),
        }
    }

    fn is(mut self, severity: Severity) -> Self {
        self.severity = severity;
        self
    }

    fn mend(mut self, how: impl Into<String>) -> Self {
        self.mend = Some(how.into());
        self
    }

    fn fix(mut self, changes: impl IntoIterator<Item = Change>) -> Self {
        self.fix.extend(changes);
        self
    }
}

impl Report {
    /// Looks at everything. `known` is what the daemon says; none when it does not run.
    #[must_use]
    pub fn of(facts: &Facts, known: Option<&Known>, tenants: u64) -> Self {
        let mut findings = machine::check(facts);
        findings.extend(limits::check(facts, tenants));
        findings.extend(state::check(facts, tenants));
        findings.extend(managers::check(facts));
        findings.extend(leftovers::check(facts, known));
        Self { instance: facts.place.instance.clone(), daemon: known.is_some(), tenants, findings, mended: Vec::new() }
    }

    /// The worst there is.
    #[must_use]
    pub fn worst(&self) -> Severity {
        self.findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Ok)
    }

    /// True when nothing is worse than a note and all that was to be mended was.
    #[must_use]
    pub fn is_fit(&self) -> bool {
        self.worst() <= Severity::Note && self.mended.iter().all(|one| one.error.is_none())
    }

    /// Everything that can be mended safely, in order.
    #[must_use]
    pub fn plan(&self) -> Vec<Change> {
        mend::plan(self.findings.iter().flat_map(|finding| finding.fix.clone()).collect())
    }
}
