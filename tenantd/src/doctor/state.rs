//! The disk of the state directory, and loop devices.

use super::{Facts, Finding, Severity};

/// Free bytes below which a store can no longer be trusted to be written.
const FREE: u64 = 256 * 1024 * 1024;
/// Inodes a tenant's empty layer, logs and names take.
const INODES_A_TENANT: u64 = 32;

pub(super) fn check(facts: &Facts, tenants: u64) -> Vec<Finding> {
    vec![space(facts, tenants), inodes(facts, tenants), kind(facts), loops(facts)]
}

fn space(facts: &Facts, tenants: u64) -> Finding {
    let path = facts.place.state_dir.display();
    // A layer and logs before anything is written into them: 64 KiB a tenant.
    let needed = FREE + tenants * 64 * 1024;
    let mib = |bytes: u64| format!("{} MiB", bytes / 1024 / 1024);
    let why = "store, logs and private layers are written there; a full disk means that nothing can be changed";
    let words = format!("{} free", mib(needed));
    let Some(disk) = &facts.disk else {
        return Finding::new("disk", format!("{path} cannot be looked at"), words, why).is(Severity::Warning);
    };
    let finding = Finding::new("disk", format!("{} free at {path}", mib(disk.free)), words, why);
    if disk.free >= needed {
        return finding;
    }
    finding
        .is(Severity::Warning)
        .mend("make room, limit tenants (set-limits NAME --limit disk=...), or move --state-dir")
}

fn inodes(facts: &Facts, tenants: u64) -> Finding {
    let needed = 4096 + tenants * INODES_A_TENANT;
    let why = "a tenant's layer, logs and names are files";
    let Some(free) = facts.disk.as_ref().and_then(|disk| disk.inodes) else {
        return Finding::new("inodes", "made as needed, or not known", format!("{needed} free"), why);
    };
    let finding = Finding::new("inodes", format!("{free} free"), format!("{needed} free"), why);
    if free >= needed {
        return finding;
    }
    finding
        .is(Severity::Warning)
        .mend("make room, or put --state-dir on a file system made with more inodes (mke2fs -i)")
}

fn kind(facts: &Facts) -> Finding {
    let kind = facts.disk.as_ref().map(|disk| disk.kind.clone()).unwrap_or_default();
    let needed = "ext4, xfs, btrfs or f2fs";
    let why = "upper layers need extended attributes and file types in directories, images idmapped mounts, the store a disk that keeps what was synchronised";
    let finding = Finding::new("file-system", kind.clone(), needed, why);
    match kind.as_str() {
        "ext4" | "xfs" | "btrfs" | "f2fs" => finding,
        "tmpfs" | "ramfs" => {
            finding.is(Severity::Warning).mend("put --state-dir on a disk: here nothing outlives a reboot")
        }
        "overlay" => {
            finding.is(Severity::Error).mend("put --state-dir on the disk below: an overlay cannot be an upper layer")
        }
        _ => finding.is(Severity::Note).mend("see the finding `features`: it was tried out"),
    }
}

fn loops(facts: &Facts) -> Finding {
    let why = "a tenant with a disk limit has its layer in a file, through a loop device, where the file system has no project quotas";
    let found = if facts.loop_control { "there" } else { "not there" };
    let finding = Finding::new("loop-devices", format!("/dev/loop-control is {found}"), "/dev/loop-control", why);
    if facts.loop_control {
        finding
    } else {
        finding.is(Severity::Note).mend("modprobe loop, before disk limits are set")
    }
}
