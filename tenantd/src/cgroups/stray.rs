//! Processes of a tenant that are not where they belong, because somebody removed its directories while it lived.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;

/// Whether a directory is there and nobody is in it.
pub(super) fn is_deserted(dir: &Path) -> bool {
    let mut byte = [0];
    File::open(dir.join("cgroup.procs")).and_then(|mut file| file.read(&mut byte)).is_ok_and(|length| length == 0)
}

/// An init, all that descend from it, and all that are in its pid namespace: who was brought there from outside descends
/// from somebody else, and who has a pid namespace of its own is in another one.
pub(super) fn with_init(init: i32) -> BTreeSet<i32> {
    let mut all = BTreeSet::new();
    let mut next = vec![init];
    while let Some(pid) = next.pop() {
        if all.insert(pid) {
            next.extend(children(pid));
        }
    }
    let Some(home) = pid_namespace(init) else { return all };
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    all.extend(numbers.filter(|pid| pid_namespace(*pid).is_some_and(|found| found == home)));
    all
}

fn pid_namespace(pid: i32) -> Option<std::path::PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/pid")).ok()
}

/// Of all its threads.
fn children(pid: i32) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_found_with_its_parent() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let found = with_init(i32::try_from(std::process::id()).unwrap());
        child.kill().unwrap();
        assert!(found.contains(&i32::try_from(child.id()).unwrap()), "{found:?}");
        child.wait().unwrap();
    }
}
