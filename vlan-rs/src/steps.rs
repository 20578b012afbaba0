//! Tells who wants to know between which two steps of a verb the process is: a test ends it there, and shows that the
//! verb, repeated, completes.

use std::sync::OnceLock;

static WATCHER: OnceLock<fn(&'static str)> = OnceLock::new();

/// The places, in the order in which a verb passes them: name, and what is done there.
pub const STEPS: [(&str, &str); 10] = [
    ("room.copied", "the rows of one more table of an older version are copied; its pin is the old one"),
    ("room.beside", "one more new table is pinned beside the old one"),
    ("room.carried", "one more new table has the old one's pin; the programs that run have the old ones"),
    ("room.replaced", "one more device has this version's program; others have the old one's"),
    ("port.limits", "a port's limits are written, nothing else of it"),
    ("port.row", "the row by which a port is known is written"),
    ("port.answers", "what a port answers is written, it has no program yet"),
    ("port.filter", "a port has its program, its tag leads nowhere yet"),
    ("unport.tag", "a port's tag leads nowhere any more, its program is on the device"),
    ("unport.filter", "a port's program is off the device, its row is there"),
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
