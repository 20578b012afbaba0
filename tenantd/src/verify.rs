//! Proof of the mapping: what the three tables say beside what the kernel says, for every process, socket, port, tag,
//! tunnel and guard row. Nothing here is remembered; the kernel's side is read anew each time.
//!
//! In: [`Expected`] and ways to look ([`Gathered`]), put together by the owner in a moment. Out: a [`Verification`]. The
//! looking is done beside the owner, which goes on with commands: so the tables may be changed, and processes and
//! sockets come and go, while one looks. What disagrees is therefore looked at again, and only what disagrees every
//! time, of the same process or socket, counts ([`steady`]).
//!
//! All processes means all of our pid namespace: run in the machine's first one, as a service is, that is the machine.

mod facts;
mod link;
mod look;
mod members;
mod namespace;
mod process;
mod rows;
mod socket;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use facts::{Expected, Gathered, SeatedInit, Seen};
pub use look::{LookError, look};

use facts::Facts;

/// How often what disagrees is looked at before it is told.
pub const ROUNDS: u32 = 3;
/// Time between two looks: longer than a process takes to start or a verb to end.
pub const PAUSE: Duration = Duration::from_millis(250);

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Verification {
    /// True when tables and kernel say the same.
    pub agree: bool,
    /// When it ended: Unix time in milliseconds.
    pub at_ms: u64,
    /// How long it took, in microseconds.
    pub took_us: u64,
    /// How often it was looked: once, or more often because something disagreed at first.
    pub rounds: u32,
    /// Tenants verified.
    pub tenants: usize,
    /// One a kind of thing.
    pub checks: Vec<Check>,
    /// What was met and is right although it is of no table, such as the daemon's own sockets in the stacks.
    pub notes: Vec<String>,
}

/// One kind of thing compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Check {
    /// `tables`, `stacks`, `processes`, `sockets`, `ports`, `tags`, `tunnels`, `guard`.
    pub name: String,
    /// How many were looked at.
    pub looked_at: usize,
    /// How many of them belong to a tenant, or should.
    pub belong: usize,
    /// Where tables and kernel differ.
    pub disagree: Vec<Disagreement>,
}

/// One thing about which table and kernel differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Disagreement {
    /// Tenants it is about; none for what lies in our patch room or tables and belongs to nobody.
    pub tenants: BTreeSet<String>,
    /// What it is about.
    pub subject: String,
    /// What the tables say.
    pub table: String,
    /// What the kernel (for tunnels: the access server) says.
    pub kernel: String,
}

impl Check {
    fn new(name: &str) -> Self {
        Self { name: name.into(), looked_at: 0, belong: 0, disagree: Vec::new() }
    }

    fn differ<'a>(
        &mut self,
        tenants: impl IntoIterator<Item = &'a Expected>,
        subject: impl Into<String>,
        table: impl Into<String>,
        kernel: impl Into<String>,
    ) {
        let tenants = tenants.into_iter().map(|tenant| tenant.name.to_string()).collect();
        self.disagree.push(Disagreement {
            tenants,
            subject: subject.into(),
            table: table.into(),
            kernel: kernel.into(),
        });
    }
}

/// Compares.
#[must_use]
fn compare(expected: &[Expected], facts: &Facts) -> Verification {
    let (processes, sockets, notes) = members::checks(expected, facts);
    let checks = vec![
        rows::tables(expected),
        rows::stacks(expected, facts),
        processes,
        sockets,
        rows::ports(expected, facts),
        rows::tags(expected, facts),
        rows::tunnels(expected, facts),
        rows::guard(expected, facts),
    ];
    let tenants = expected.len();
    let mut found = Verification { agree: false, at_ms: 0, took_us: 0, rounds: 1, tenants, checks, notes };
    found.agree = found.all_agree();
    found
}

impl Verification {
    fn all_agree(&self) -> bool {
        self.checks.iter().all(|check| check.disagree.is_empty())
    }

    /// Only what is about this tenant; the other tenants were looked at to know what is theirs.
    #[must_use]
    pub fn only(mut self, tenant: &str) -> Self {
        for check in &mut self.checks {
            check.disagree.retain(|one| one.tenants.contains(tenant));
        }
        self.agree = self.all_agree();
        self
    }

    /// Every disagreement in words, with the tenants it is about.
    #[must_use]
    pub fn words(&self) -> BTreeSet<(BTreeSet<String>, String)> {
        let all = self.checks.iter().flat_map(|check| &check.disagree);
        all.map(|one| (one.tenants.clone(), one.to_string())).collect()
    }
}

/// What disagreed before and does so now; counts and words are those of now.
#[must_use]
pub fn steady(before: &Verification, mut now: Verification) -> Verification {
    for check in &mut now.checks {
        let old = before.checks.iter().find(|old| old.name == check.name);
        let subjects: BTreeSet<_> =
            old.iter().flat_map(|old| &old.disagree).map(|one| (&one.tenants, &one.subject)).collect();
        check.disagree.retain(|one| subjects.contains(&(&one.tenants, &one.subject)));
    }
    now.rounds = before.rounds + 1;
    now.agree = now.all_agree();
    now
}

/// `process 812 (sleep): the tables say acme in inet0; the kernel says: in the stack of bcme`
impl std::fmt::Display for Disagreement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: the tables say {}; the kernel says {}", self.subject, self.table, self.kernel)
    }
}
