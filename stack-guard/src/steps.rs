//! Tells who wants to know between which two steps of a verb the process is: a test ends it there, and shows that the
//! verb, repeated, completes.

use std::sync::OnceLock;

static WATCHER: OnceLock<fn(&'static str)> = OnceLock::new();

/// The places, in the order in which a verb passes them: name, and what is done there.
pub const STEPS: [(&str, &str); 10] = [
    ("guards.copied", "the rows of one more table of an older version are copied; its pin is the old one"),
    ("guards.beside", "one more new table is pinned beside the old one"),
    ("guards.carried", "one more new table has the old one's pin; the programs that run have the old ones"),
    ("guards.replaced", "one more attachment has this version's program; others have the old one's"),
    ("guard.gids", "a stack's group ids are its own, nothing else of it is written"),
    ("guard.cgroups", "a stack's cgroups are its own, its row is not written"),
    ("guard.stack", "a stack's row is written, its limit is not"),
    ("unguard.limit", "a stack's limit is lifted, its row is there"),
    ("unguard.stack", "a stack's row is gone, its owners are there"),
    ("unguard.owners", "a stack's owners are gone, its counters are there"),
];

/// Has `watcher` called at each of [`STEPS`] from now on, by the thread that is there. Only the first call counts.
pub fn watch_steps(watcher: fn(&'static str)) {
    let _ = WATCHER.set(watcher);
}

pub(crate) fn passed(step: &'static str) {
    if let Some(watcher) = WATCHER.get() {
        watcher(step);
    }
}
