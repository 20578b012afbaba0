//! The doctor over machines that are directories: what is found, what is planned, what is mended, and that nothing else
//! is touched.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::network_files::matches;
use super::*;
use crate::model::DaemonStatus;
use crate::verify::{Check, Disagreement, Verification};

/// A machine on which everything is as needed for 16 tenants.
struct Machine {
    dir: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let machine = Self { dir: tempfile::tempdir().unwrap() };
        let root = machine.dir.path().display().to_string();
        let unified = format!("{root}/sys/fs/cgroup");
        for (path, text) in [
            ("proc/sys/kernel/osrelease", "6.12.5\n"),
            ("proc/sys/kernel/version", "#1 SMP PREEMPT_DYNAMIC\n"),
            ("proc/cmdline", "quiet\n"),
            ("sys/kernel/debug/sched/preempt", "none (voluntary) full lazy\n"),
            ("proc/self/status", "Name:\tx\nCapEff:\t000001ffffffffff\n"),
            ("proc/self/limits", "Limit  Soft Limit  Hard Limit  Units\nMax open files  1024  524288  files\n"),
            ("proc/meminfo", "MemTotal: 9 kB\nMemAvailable:   16000000 kB\n"),
            ("proc/self/cgroup", "0::/\n"),
            ("sys/fs/cgroup/cgroup.controllers", "cpu io memory pids\n"),
            ("dev/loop-control", ""),
            ("var/lib/tenantd/main/tenantd.db", ""),
        ] {
            machine.file(path, text);
        }
        machine.file(
            "proc/self/mountinfo",
            &format!(
                "20 1 8:1 / / rw - ext4 /dev/sda1 rw\n21 20 0:20 / {unified} rw - cgroup2 none rw\n22 20 0:21 / /sys/fs/bpf rw - bpf bpf rw\n"
            ),
        );
        for key in limits::keys() {
            machine.file(&format!("proc/sys/{key}"), "1000000\n");
        }
        machine.file("proc/sys/net/core/bpf_jit_enable", "1\n");
        machine.file("proc/sys/net/core/bpf_jit_harden", "0\n");
        machine.process(1, "systemd", "net:[1]");
        fs::create_dir_all(machine.dir.path().join("proc/self/ns")).unwrap();
        std::os::unix::fs::symlink("net:[1]", machine.dir.path().join("proc/self/ns/net")).unwrap();
        machine
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.dir.path().join(path)).unwrap()
    }

    fn process(&self, pid: u32, name: &str, netns: &str) {
        self.file(&format!("proc/{pid}/comm"), &format!("{name}\n"));
        let ns = self.dir.path().join(format!("proc/{pid}/ns"));
        fs::create_dir_all(&ns).unwrap();
        std::os::unix::fs::symlink(netns, ns.join("net")).unwrap();
    }

    fn place(&self) -> Place {
        let config = crate::config::Options::default().resolve(Path::new("/bin")).unwrap();
        Place::of(&config, self.dir.path())
    }

    fn facts(&self) -> Facts {
        Facts { features: Some(Ok(())), ..Facts::read(self.place()) }
    }

    fn report(&self, tenants: u64) -> Report {
        Report::of(&self.facts(), Some(&known(&[])), tenants)
    }

    /// What is worse than a note after a change of the machine; names and severities.
    fn bad(&self, tenants: u64) -> Vec<(String, Severity)> {
        // The disk is the real one of the directory: it may be anything.
        let bad = self.report(tenants).findings.into_iter().filter(|one| one.severity > Severity::Note);
        bad.map(|one| (one.name, one.severity))
            .filter(|(name, _)| !matches!(name.as_str(), "disk" | "inodes"))
            .collect()
    }
}

fn known(tenants: &[&str]) -> Known {
    Known {
        tenants: tenants.iter().map(|name| (*name).to_owned()).collect(),
        status: serde_json::from_value::<DaemonStatus>(serde_json::json!({
            "instance": "main", "version": "1", "trunk": "trunk-main", "access": "connected", "tenants": tenants.len(), "half_done": []
        }))
        .unwrap(),
        verified: Verification {
            agree: true,
            at_ms: 0,
            took_us: 0,
            rounds: 1,
            tenants: 0,
            checks: Vec::new(),
            notes: Vec::new(),
        },
    }
}

fn find<'a>(report: &'a Report, name: &str) -> &'a Finding {
    report.findings.iter().find(|finding| finding.name == name).expect(name)
}

#[test]
fn a_machine_as_needed_has_nothing_to_mend() {
    let machine = Machine::new();
    assert_eq!(machine.bad(16), []);
    let report = machine.report(16);
    assert!(report.plan().is_empty(), "{:?}", report.plan());
    let names: BTreeSet<_> = report.findings.iter().map(|one| &one.name).collect();
    assert_eq!(names.len(), report.findings.len(), "a name is used twice");
    assert!(report.findings.iter().all(|one| !one.needed.is_empty() && !one.why.is_empty()));
}

#[test]
fn each_trouble_of_the_machine_is_named() {
    use Severity::{Error, Warning};
    let cases = [
        ("proc/sys/kernel/osrelease", "5.10.0-28-amd64", "kernel", Error),
        ("sys/kernel/debug/sched/preempt", "(none) voluntary full", "preemption", Warning),
        ("proc/self/status", "CapEff:\t0000000000000000", "capabilities", Error),
        ("proc/self/cgroup", "4:memory:/x", "cgroups", Error),
        ("sys/fs/cgroup/cgroup.controllers", "cpu memory", "cgroups", Warning),
        ("proc/sys/net/core/bpf_jit_enable", "0", "bpf-jit", Warning),
        ("proc/self/limits", "Max open files  1024  300  files", "open-files", Warning),
        ("proc/sys/user/max_user_namespaces", "0", "user-namespaces", Error),
        ("proc/sys/user/max_net_namespaces", "70", "net-namespaces", Warning),
        ("proc/sys/net/ipv6/neigh/default/gc_thresh3", "1024", "neighbours-v6", Warning),
        ("proc/sys/kernel/pid_max", "1100", "pid-max", Warning),
        ("proc/meminfo", "MemAvailable: 1024 kB", "memory", Warning),
    ];
    for (path, text, name, severity) in cases {
        let machine = Machine::new();
        machine.file(path, text);
        assert_eq!(machine.bad(16), [(name.to_owned(), severity)], "{path}");
        assert!(find(&machine.report(16), name).mend.as_ref().is_some_and(|mend| !mend.is_empty()), "{name}");
    }
}

#[test]
fn limits_are_computed_for_the_tenants_planned() {
    let machine = Machine::new();
    machine.file("proc/sys/kernel/pid_max", "32768");
    machine.file("proc/sys/net/ipv4/neigh/default/gc_thresh3", "1024");
    machine.file("proc/sys/net/ipv4/neigh/default/gc_thresh2", "512");
    machine.file("proc/sys/net/ipv4/neigh/default/gc_thresh1", "128");
    let few = machine.report(0);
    assert_eq!(find(&few, "pid-max").severity, Severity::Ok);
    assert_eq!(find(&few, "neighbours-v4").severity, Severity::Ok);
    let many = machine.report(4094);
    assert_eq!(find(&many, "pid-max").needed, "33776 for 4094 tenants (1024 and 8 a tenant)");
    assert_eq!(find(&many, "pid-max").severity, Severity::Warning);
    let set = |key: &str, from, to| Change::Sysctl { key: key.into(), from, to };
    let neighbours = find(&many, "neighbours-v4");
    assert_eq!(
        neighbours.fix,
        [
            set("net/ipv4/neigh/default/gc_thresh3", 1024, 9212),
            set("net/ipv4/neigh/default/gc_thresh2", 512, 4606),
            set("net/ipv4/neigh/default/gc_thresh1", 128, 1151),
        ]
    );
    let mend = neighbours.mend.as_ref().unwrap();
    assert!(mend.starts_with("sysctl -w net.ipv4.neigh.default.gc_thresh3=9212;"), "{mend}");
}

#[test]
fn the_preemption_model_is_found_where_the_kernel_says_it() {
    let machine = Machine::new();
    fs::remove_dir_all(machine.dir.path().join("sys/kernel")).unwrap();
    assert_eq!(find(&machine.report(1), "preemption").severity, Severity::Note, "nothing tells");
    machine
        .file("boot/config-6.12.5", "# CONFIG_PREEMPT is not set\nCONFIG_PREEMPT_NONE=y\nCONFIG_PREEMPT_DYNAMIC=y\n");
    let report = machine.report(1);
    let found = find(&report, "preemption");
    assert_eq!((found.found.as_str(), found.severity), ("none", Severity::Warning));
    assert!(found.mend.as_ref().unwrap().contains("preempt=voluntary"));
    machine.file("proc/cmdline", "quiet preempt=full");
    assert_eq!(find(&machine.report(1), "preemption").found, "full");
    // As this kernel gives it, packed.
    fs::remove_file(machine.dir.path().join("boot/config-6.12.5")).unwrap();
    machine.file("proc/cmdline", "quiet");
    let file = fs::File::create(machine.dir.path().join("proc/config.gz")).unwrap();
    let mut packed = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, b"CONFIG_PREEMPT_VOLUNTARY=y\n").unwrap();
    packed.finish().unwrap();
    assert_eq!(find(&machine.report(1), "preemption").found, "voluntary");
}

#[test]
fn network_managers_that_would_take_the_trunk_are_named() {
    let cases: [(&str, &str, &str, &str, bool); 18] = [
        // What the package brings.
        (
            "NetworkManager",
            "usr/lib/NetworkManager/conf.d/10-tenantd.conf",
            include_str!("../../../packaging/networkmanager.conf"),
            "manager-networkmanager",
            false,
        ),
        (
            "systemd-network",
            "usr/lib/systemd/network/10-tenantd.network",
            include_str!("../../../packaging/networkd.network"),
            "manager-systemd-networkd",
            false,
        ),
        ("NetworkManager", "etc/NetworkManager/x", "", "manager-networkmanager", true),
        (
            "NetworkManager",
            "usr/lib/NetworkManager/conf.d/1.conf",
            "[keyfile]\nunmanaged-devices=mac:00:00:00:00:00:00;interface-name:trunk-*",
            "manager-networkmanager",
            false,
        ),
        (
            "NetworkManager",
            "etc/NetworkManager/conf.d/1.conf",
            "[main]\nunmanaged-devices=interface-name:trunk-*",
            "manager-networkmanager",
            true,
        ),
        ("systemd-network", "etc/systemd/network/x", "", "manager-systemd-networkd", false),
        (
            "systemd-network",
            "etc/systemd/network/80-all.network",
            "[Match]\nName=*\n[Network]\nDHCP=yes",
            "manager-systemd-networkd",
            true,
        ),
        (
            "systemd-network",
            "etc/systemd/network/80-e.network",
            "[Match]\nName=en* eth*",
            "manager-systemd-networkd",
            false,
        ),
        (
            "systemd-network",
            "etc/systemd/network/80-t.network",
            "[Match]\nType=ether",
            "manager-systemd-networkd",
            true,
        ),
        (
            "systemd-network",
            "etc/systemd/network/80-k.network",
            "[Match]\nType=ether\nKind=!veth",
            "manager-systemd-networkd",
            false,
        ),
        (
            "systemd-network",
            "etc/systemd/network/80-m.network",
            "[Match]\nMACAddress=02:00:00:00:00:01",
            "manager-systemd-networkd",
            false,
        ),
        (
            "systemd-network",
            "run/systemd/network/05-t.network",
            "[Match]\nName=trunk-*\n[Link]\nUnmanaged=yes",
            "manager-systemd-networkd",
            false,
        ),
        ("dhcpcd", "etc/dhcpcd.conf", "hostname", "manager-dhcpcd", true),
        ("dhcpcd", "etc/dhcpcd.conf", "denyinterfaces veth* trunk-*", "manager-dhcpcd", false),
        ("dhcpcd", "etc/dhcpcd.conf", "allowinterfaces eth0", "manager-dhcpcd", false),
        (
            "connmand",
            "etc/connman/main.conf",
            "[General]\nNetworkInterfaceBlacklist=vmnet,trunk-",
            "manager-connman",
            false,
        ),
        ("connmand", "etc/connman/main.conf", "[General]\n# NetworkInterfaceBlacklist=trunk-", "manager-connman", true),
        (
            "bash",
            "etc/network/interfaces.d/t",
            "auto lo trunk-main\niface trunk-main inet dhcp",
            "manager-ifupdown",
            true,
        ),
    ];
    for (process, path, text, check, touched) in cases {
        let machine = Machine::new();
        machine.file(path, text);
        // In a tenant's stack it is none of our business.
        machine.process(70, process, "net:[2]");
        if check != "manager-ifupdown" {
            assert_eq!(find(&machine.report(1), check).found, "does not run", "{check}");
        }
        machine.process(71, process, "net:[1]");
        let bad = if touched { vec![(check.to_owned(), Severity::Warning)] } else { vec![] };
        assert_eq!(machine.bad(1), bad, "{path}: {text}");
    }
}

#[test]
fn the_first_file_that_fits_decides() {
    let machine = Machine::new();
    machine.process(71, "systemd-network", "net:[1]");
    machine.file("usr/lib/systemd/network/80-all.network", "[Match]\nName=*\n");
    assert_eq!(machine.bad(1).len(), 1);
    machine.file("usr/lib/systemd/network/05-tenantd.network", "[Match]\nName=trunk-*\n[Link]\nUnmanaged=yes\n");
    assert_eq!(machine.bad(1), []);
    machine.file("etc/systemd/network/05-tenantd.network", "");
    assert_eq!(machine.bad(1).len(), 1, "an empty file of the same name masks it");
}

#[test]
fn patterns() {
    for (pattern, name, fits) in [
        ("trunk-*", "trunk-main", true),
        ("*", "x", true),
        ("e?h*0", "eth10", true),
        ("e?h*0", "eth1", false),
        ("trunk", "trunk-main", false),
        ("*-main*", "trunk-main", true),
        ("", "x", false),
    ] {
        assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
    }
}

#[test]
fn leftovers_that_provably_belong_to_nobody_are_mended_and_no_others() {
    let machine = Machine::new();
    let root = machine.dir.path();
    let run = root.join("run/tenantd/main/tenants");
    fs::create_dir_all(&run).unwrap();
    for name in ["dead", "gone"] {
        drop(std::os::unix::net::UnixListener::bind(run.join(format!("{name}.sock"))).unwrap());
    }
    let living = std::os::unix::net::UnixListener::bind(run.join("stray.sock")).unwrap();
    fs::create_dir_all(root.join("sys/fs/cgroup/tenantd-main/tenant-gone/below")).unwrap();
    machine.file("sys/fs/cgroup/tenantd-main/tenant-busy/below/cgroup.procs", "77\n");
    machine.file("var/lib/tenantd/main/tenants/gone/layer/data", "somebody's");
    let report = Report::of(&machine.facts(), Some(&known(&["dead"])), 1);
    let found = find(&report, "leftovers");
    for word in ["gone.sock", "stray.sock", "tenant-gone", "tenant-busy", "tenants/gone of gone"] {
        assert!(found.found.contains(word), "{word}: {}", found.found);
    }
    assert!(!found.found.contains("dead"), "a tenant's own: {}", found.found);
    assert_eq!(
        report.plan(),
        [
            Change::RemoveSocket { path: run.join("gone.sock") },
            Change::RemoveCgroup { path: root.join("sys/fs/cgroup/tenantd-main/tenant-gone") },
        ]
    );
    let mended = Mender::new(machine.place()).carry_out(report.plan());
    assert!(mended.iter().all(|one| one.error.is_none()), "{mended:?}");
    assert!(!run.join("gone.sock").exists() && run.join("dead.sock").exists() && run.join("stray.sock").exists());
    assert!(root.join("var/lib/tenantd/main/tenants/gone/layer/data").exists());
    // What has come alive since it was planned stays.
    let mended = Mender::new(machine.place()).carry_out(vec![
        Change::RemoveSocket { path: run.join("stray.sock") },
        Change::RemoveCgroup { path: root.join("sys/fs/cgroup/tenantd-main/tenant-busy") },
    ]);
    assert!(mended.iter().all(|one| one.error.is_some()), "{mended:?}");
    assert!(run.join("stray.sock").exists());
    drop(living);
}

#[test]
fn rows_of_nobody_and_disagreements_are_told_from_the_proof() {
    let machine = Machine::new();
    let mut known = known(&["acme"]);
    let one = |tenants: &[&str], subject: &str| Disagreement {
        tenants: tenants.iter().map(|name| (*name).to_owned()).collect(),
        subject: subject.into(),
        table: "none".into(),
        kernel: "there".into(),
    };
    let disagree = vec![one(&[], "tag vlan7"), one(&["acme"], "process 5")];
    known.verified.checks = vec![Check { name: "tags".into(), looked_at: 2, belong: 1, disagree }];
    let report = Report::of(&machine.facts(), Some(&known), 1);
    assert!(
        find(&report, "leftovers").found.contains("vlan7") && !find(&report, "leftovers").found.contains("process 5")
    );
    assert!(find(&report, "disagreements").found.contains("process 5"));
    assert!(report.plan().is_empty(), "nothing of that is safe to mend from outside the daemon");
}

#[test]
fn without_a_daemon_it_says_what_it_cannot_know() {
    let machine = Machine::new();
    let report = Report::of(&machine.facts(), None, 16);
    assert!(!report.daemon && find(&report, "leftovers").found.contains("daemon"));
    assert_eq!(find(&report, "daemon").severity, Severity::Note);
    machine.file("run/tenantd/main/lock", "71");
    machine.process(71, "tenantd", "net:[1]");
    machine.file("proc/71/limits", "Max open files  1024  260  files");
    let report = Report::of(&machine.facts(), None, 16);
    assert_eq!(find(&report, "daemon").severity, Severity::Warning, "it runs and does not answer");
    assert!(find(&report, "open-files").found.contains("the daemon's hard limit is 260"));
}

#[test]
fn a_clock_that_is_wrong_is_told() {
    let machine = Machine::new();
    let mut facts = machine.facts();
    facts.now = SystemTime::UNIX_EPOCH + Duration::from_secs(3600);
    assert_eq!(find(&Report::of(&facts, None, 1), "clock").severity, Severity::Warning);
    facts.now = SystemTime::now();
    facts.written = Some(facts.now + Duration::from_secs(3600));
    assert_eq!(find(&Report::of(&facts, None, 1), "clock").severity, Severity::Warning);
}

#[test]
fn the_kernel_that_runs_is_not_set_for_another_machine() {
    let machine = Machine::new();
    // A rescue mount with the running kernel's own /proc in it.
    fs::create_dir_all(machine.place().at("/proc")).unwrap();
    fs::remove_dir_all(machine.place().at("/proc")).unwrap();
    std::os::unix::fs::symlink("/proc", machine.place().at("/proc")).unwrap();
    let found: u64 = fs::read_to_string("/proc/sys/kernel/pid_max").unwrap().trim().parse().unwrap();
    let change = Change::Sysctl { key: "kernel/pid_max".into(), from: found, to: found };
    let mended = Mender::new(machine.place()).carry_out(vec![change]);
    let error = mended[0].error.as_ref().unwrap();
    assert!(error.contains("kernel.pid_max is of the kernel that runs now"), "{error}");
}

#[test]
fn settings_are_set_now_and_kept_and_others_stay() {
    let machine = Machine::new();
    machine.file("proc/sys/kernel/pid_max", "1000\n");
    machine.file("proc/sys/kernel/threads-max", "1000\n");
    machine.file("etc/sysctl.d/90-tenantd.conf", "# by hand\nkernel.pid_max = 5\nvm.swappiness = 1\n");
    let plan = machine.report(100).plan();
    let words: Vec<String> = plan.iter().map(ToString::to_string).collect();
    assert_eq!(
        words,
        [
            "set kernel.pid_max from 1000 to 1824",
            "set kernel.threads-max from 1000 to 1824",
            "keep 2 settings in /etc/sysctl.d/90-tenantd.conf",
        ]
    );
    // Somebody was quicker with one of them.
    machine.file("proc/sys/kernel/threads-max", "9999\n");
    let mended = Mender::new(machine.place()).carry_out(plan);
    let errors: Vec<bool> = mended.iter().map(|one| one.error.is_some()).collect();
    assert_eq!(errors, [false, true, false], "{mended:?}");
    assert_eq!(machine.text("proc/sys/kernel/pid_max"), "1824");
    assert_eq!(machine.text("proc/sys/kernel/threads-max"), "9999\n");
    let kept = machine.text("etc/sysctl.d/90-tenantd.conf");
    assert_eq!(kept, "# by hand\nvm.swappiness = 1\nkernel.pid_max = 1824\n", "what could not be set is not kept");
    assert!(machine.report(100).plan().is_empty(), "a second run finds nothing to do");
}
