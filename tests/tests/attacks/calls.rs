//! System calls, files of the kernel, sockets: each is refused with the errno that says by whom.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use system_tests::world::World;

use super::{NETWORK, PLAIN, inside, outside, undisturbed};

/// What is refused in another way than with EPERM. Several are possible where kernels differ (no such file).
const OTHERWISE: [(&str, &[&str]); 34] = [
    // Not readable: the id that owns it is not mapped.
    ("core_pattern", &["EACCES"]),
    ("file_max", &["EACCES"]),
    ("hostname_setting", &["EACCES"]),
    ("inotify_setting", &["EACCES"]),
    ("kernel_log_file", &["EACCES"]),
    ("make_in_dev", &["EACCES"]),
    ("modprobe_setting", &["EACCES", "ENOENT"]),
    ("overcommit", &["EACCES"]),
    ("panic", &["EACCES"]),
    ("randomize", &["EACCES"]),
    ("sys_online", &["EACCES"]),
    ("sys_uevent", &["EACCES"]),
    ("user_namespaces_setting", &["EACCES"]),
    ("oom_exempt", &["EACCES"]),
    ("sysrq", &["EACCES", "ENOENT"]),
    // Its own ipc namespace, but /proc/sys is read-only.
    ("shmmax", &["EROFS"]),
    // Init is not dumpable.
    ("init_cwd", &["EACCES"]),
    ("init_environment", &["EACCES"]),
    ("init_fds", &["EACCES"]),
    ("init_root", &["EACCES"]),
    ("read_memory_of_init", &["EACCES"]),
    ("setns_init_mnt", &["EACCES"]),
    ("setns_init_user", &["EACCES"]),
    // Not there.
    ("binfmt", &["ENOENT"]),
    ("cgroup_files", &["ENOENT"]),
    ("console", &["ENOENT"]),
    ("kernel_log_device", &["ENOENT"]),
    ("uevent_helper", &["ENOENT"]),
    ("other_processes", &["ESRCH"]),
    // Ids that are not mapped do not exist.
    ("chown_to_another", &["EINVAL"]),
    ("gid_of_another", &["EINVAL"]),
    ("gid_of_the_host", &["EINVAL"]),
    ("uid_of_another", &["EINVAL"]),
    // Python says so before it asks.
    ("more_files", &["ValueError"]),
];

/// Refused by the filter with something else.
const FILTERED: [(&str, &str); 3] =
    [("userns_by_clone3", "ENOSYS"), ("x32_calls", "ENOSYS"), ("i386_calls", "SIGNAL 31")];

/// What an administrator of the own network may do, there only.
const OWN_NETWORK: [&str; 9] = [
    "address_given",
    "link_made",
    "link_up",
    "move_device_to_init",
    "nft_table",
    "packet_socket",
    "packet_socket_cooked",
    "raw_ip",
    "raw_ip6",
];

/// Those that say nothing when the server's root tries them, and why.
const WITHOUT_CONTROL: [(&str, &str); 12] = [
    ("ambient_admin", "nobody has it inheritable"),
    ("binfmt", "not every kernel has it"),
    ("chroot_escape", "leaves the jail everywhere; what it looks for is the host"),
    ("modprobe_setting", "not every kernel has it"),
    ("more_files", "needs CAP_SYS_RESOURCE, which this machine's root may lack"),
    ("new_gid_map", "the map of a user namespace can be written once"),
    ("nsfs_parent", "the first user namespace has no parent"),
    ("oom_exempt", "needs CAP_SYS_RESOURCE"),
    ("other_processes", "a world is in a pid namespace of its own"),
    ("real_time", "with RT_GROUP_SCHED (cgroup version 1) a cgroup without a share of real time has none"),
    ("sysrq", "not every kernel has it"),
    ("user_namespaces_setting", "needs CAP_SYS_RESOURCE"),
];

/// Absent on the server too, or known by another number than on x86-64.
const PERHAPS_ABSENT: [&str; 3] = ["uevent_helper", "x32_calls", "look_into_the_room"];

pub(super) fn check(world: &World) -> Result<()> {
    let host = table(&outside(world, &["calls"])?)?;
    for tenant in [PLAIN, NETWORK] {
        let said = undisturbed(world, "system calls", || inside(world, tenant, &["calls"]))?;
        let said = table(&said)?;
        ensure!(said.len() > 120 && said.keys().eq(host.keys()), "not all were tried: {said:?}");
        let wrong: Vec<String> = said.iter().filter_map(|(name, how)| wrong(tenant, name, how)).collect();
        ensure!(wrong.is_empty(), "in {tenant}:\n{}", wrong.join("\n"));
    }
    // The same attacks, where nothing holds them.
    let refusals = ["EPERM", "EACCES", "SIGNAL 31"];
    let control =
        |name: &str| !WITHOUT_CONTROL.iter().any(|(known, _)| *known == name) && !PERHAPS_ABSENT.contains(&name);
    let broken: Vec<_> = host.iter().filter(|(name, how)| control(name) && refusals.contains(&how.as_str())).collect();
    ensure!(broken.is_empty(), "these fail on the server as well, so they prove nothing: {broken:?}");
    Ok(())
}

fn table(said: &str) -> Result<BTreeMap<String, String>> {
    let line = |line: &str| line.split_once(' ').map(|(name, how)| (name.to_owned(), how.to_owned()));
    said.lines().map(|text| line(text).with_context(|| format!("it said {text:?}"))).collect()
}

fn wrong(tenant: &str, name: &str, how: &str) -> Option<String> {
    let otherwise = OTHERWISE.iter().find(|(known, _)| *known == name).map(|(_, expected)| expected.to_vec());
    let filtered = FILTERED.iter().find(|(known, _)| *known == name).map(|(_, expected)| vec![*expected]);
    let own = (tenant == NETWORK && OWN_NETWORK.contains(&name)).then(|| vec!["OK"]);
    // No EPERM: the room's number is not known in the tenant's namespace.
    let room = (name == "look_into_the_room").then(|| vec!["EACCES", "EPERM", "EINVAL"]);
    let expected = own.or(otherwise).or(filtered).or(room).unwrap_or_else(|| vec!["EPERM"]);
    (!expected.contains(&how)).then(|| format!("{name}: {how}, expected {expected:?}"))
}
