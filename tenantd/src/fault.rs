//! The daemon's fault points: every place at which a test ends it, or makes a step fail, to see that what was asked for
//! is done, or nothing of it, and that nothing is left over. Armed by `TENANTD_FAULT` (see [`fault_point`]); unarmed, a
//! point is one load of a flag.

use fault_point::{ArmError, Point};
pub use fault_point::{Injected, Moment, asked, point, step};

/// The environment variable that arms a point.
pub const VARIABLE: &str = "TENANTD_FAULT";

/// Places that are not before or after a step of the plan, in the order in which a start, a command and an end pass them.
pub const POINTS: &[Point] = &[
    Point::new("start.locked", "both locks are held; nothing is made or opened"),
    Point::new("start.store", "the store is open; the kernel is not looked at"),
    Point::new("room.pinned", "the patch room is made and pinned; there is no trunk in it"),
    Point::new("room.trunk", "the trunk's two ends are made; they may be down"),
    Point::new("start.room", "patch room and data path are open"),
    Point::new("start.world", "cgroups, guard and images are open"),
    Point::new("start.swept", "what nobody desires is gone; the access server was not asked"),
    Point::new("start.access", "every row is stated at the access server; the API does not listen"),
    Point::new("start.listening", "the API listens; no tenant was looked at"),
    Point::new("start.one", "one more tenant was compared with the kernel; the N-th of a start or of a full pass"),
    Point::new("request.received", "a request that changes something has arrived; the owner does not know it"),
    Point::new("store.put.before", "a command is checked; it is not recorded"),
    Point::new("store.put.after", "a command is recorded; the kernel is not touched"),
    Point::new("limits.some", "one of a tenant's cgroups is made; the others are not"),
    Point::new("door.bound", "the socket of a tenant's own API is made; nobody answers"),
    Point::new("launch.layer", "a tenant's layer is ready and, as an image, mounted"),
    Point::new("launch.socket", "init's control socket is made; there is no init"),
    Point::new("launch.cloned", "init runs; it has not made its house, and nobody holds it"),
    Point::new("launch.held", "init runs and is held by descriptors; it is not watched"),
    Point::new("bind.rates", "a port's bandwidth is held; its row is not written"),
    Point::new("bind.row", "a port is in the data path; a class it no longer uses is not freed"),
    Point::new("stack.hosts", "a tenant's hosts file is written; its stack is as it was"),
    Point::new("stack.cleared", "addresses and routes that shall not be are gone; new ones are not there"),
    Point::new("stack.addressed", "the addresses are there; the device may be down"),
    Point::new("stack.neighbour", "device and neighbour are there; routes are not"),
    Point::new("service.done", "init has done what was asked for a service; it is not recorded"),
    Point::new("restart.told", "init was told to end; nobody waits for it"),
    Point::new("unbind.class", "a port is out of the data path; its class is there"),
    Point::new("files.socket", "a removed tenant's control socket is gone; its files are there"),
    Point::new("cgroups.some", "one of a removed tenant's cgroups is gone; others are there"),
    Point::new("store.remove.before", "nothing of a removed tenant is left but its row of the store"),
    Point::new("store.remove.after", "a removed tenant is struck out; nobody was told"),
    Point::new("request.answered", "a request is done; its answer is not sent"),
    Point::new("stop.begun", "the daemon was told to end; its socket is there"),
    Point::new("stop.silent", "the daemon's socket is gone; it holds its locks"),
];

macro_rules! around {
    ($($step:literal),* $(,)?) => {
        &[$(
            Point::failing(concat!($step, ".before"), "this step of the plan is next; the ones before it are done"),
            Point::failing(concat!($step, ".after"), "this step of the plan is done; the ones after it are not"),
        )*]
    };
}

/// Before and after every step of the plan, by [`crate::plan::Action::name`].
pub const STEPS: &[Point] = around![
    "stop-service",
    "withdraw",
    "unbind",
    "delete-port",
    "return-device",
    "end",
    "unguard",
    "remove-cgroups",
    "remove-files",
    "forget",
    "limits",
    "api",
    "stack",
    "guard",
    "filter",
    "access",
    "port",
    "device",
    "bind",
    "addresses",
    "probe",
    "resolv",
    "unmount-share",
    "share",
    "service",
];

/// Tables whose rows the programs only read or change in place: those that a later version may make longer.
const LENGTHENABLE: &[&str] = &[
    "room",
    "ports_by_tag",
    "ports_by_ifindex",
    "trunks",
    "answers",
    "traffic_by_slot",
    "rates_by_slot",
    "limits_by_slot",
    "guard",
    "stacks",
    "owners_by_cgroup",
    "owners_by_gids",
    "connections",
];

/// The tables that have longer rows than this version's: none, unless the process was asked to take itself for a later one.
#[must_use]
pub fn longer_rows() -> &'static [&'static str] {
    if fault_point::longer() { LENGTHENABLE } else { &[] }
}

/// All of them: the daemon's own, those around its steps, and those inside the verbs of its data path and guard.
#[must_use]
pub fn points() -> Vec<Point> {
    let inner = vlan_rs::STEPS.iter().chain(&stack_guard::STEPS).map(|(name, means)| Point::new(name, means));
    POINTS.iter().chain(STEPS).copied().chain(inner).collect()
}

/// Arms what the environment asks for.
///
/// # Errors
/// [`ArmError`] with the list: the daemon does not start.
pub fn arm() -> Result<(), ArmError> {
    vlan_rs::watch_steps(point);
    stack_guard::watch_steps(point);
    fault_point::arm(VARIABLE, &points())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::ShareMount;
    use crate::plan::{Action, MountedShare};

    /// One of each kind. The match has no wildcard: a new action does not compile until it has a number, and its number
    /// is missed until it stands in the list.
    fn number(action: &Action) -> usize {
        match action {
            Action::StopService(_) => 0,
            Action::WithdrawAccess => 1,
            Action::Unbind => 2,
            Action::DeletePort => 3,
            Action::ReturnDevice => 4,
            Action::EndInit => 5,
            Action::Unguard => 6,
            Action::RemoveCgroups => 7,
            Action::RemoveFiles => 8,
            Action::Forget => 9,
            Action::Limit => 10,
            Action::OpenDoor => 11,
            Action::Launch => 12,
            Action::Guard => 13,
            Action::Filter => 14,
            Action::StateAccess => 15,
            Action::AddPort => 16,
            Action::GiveDevice => 17,
            Action::Bind => 18,
            Action::Configure => 19,
            Action::Probe => 20,
            Action::WriteNames => 21,
            Action::UnmountShare(_) => 22,
            Action::MountShare(_) => 23,
            Action::StartService(_) => 24,
        }
    }

    #[test]
    fn every_action_has_a_point_before_and_after_it() {
        let name = || "web".parse().unwrap();
        let mounted = MountedShare { id: 1, at: "/a".into(), target: "/a".into(), read_only: false };
        let mount = ShareMount { directory: "/a".into(), target: "/a".into(), read_only: false };
        let all = [
            Action::StopService(name()),
            Action::WithdrawAccess,
            Action::Unbind,
            Action::DeletePort,
            Action::ReturnDevice,
            Action::EndInit,
            Action::Unguard,
            Action::RemoveCgroups,
            Action::RemoveFiles,
            Action::Forget,
            Action::Limit,
            Action::OpenDoor,
            Action::Launch,
            Action::Guard,
            Action::Filter,
            Action::StateAccess,
            Action::AddPort,
            Action::GiveDevice,
            Action::Bind,
            Action::Configure,
            Action::Probe,
            Action::WriteNames,
            Action::UnmountShare(mounted),
            Action::MountShare(mount),
            Action::StartService(name()),
        ];
        let numbers: Vec<usize> = all.iter().map(number).collect();
        assert_eq!(numbers, (0..all.len()).collect::<Vec<_>>());
        let names: BTreeSet<&str> = STEPS.iter().map(|point| point.name).collect();
        for action in &all {
            for moment in [Moment::Before, Moment::After] {
                let wanted = format!("{}.{moment}", action.name());
                assert!(names.contains(wanted.as_str()), "{wanted} is not in the list");
            }
        }
        assert_eq!(STEPS.len(), all.len() * 2, "a step of the list is no action");
    }

    #[test]
    fn no_name_stands_for_two_places() {
        let points = points();
        let names: BTreeSet<&str> = points.iter().map(|point| point.name).collect();
        assert_eq!(names.len(), points.len());
        assert!(!names.contains("record"), "a word of its own");
    }
}
