//! The three layouts as trees of plain files: what is written where, what is read back, what is refused. What a real
//! kernel makes of it is shown in tests/cgroups.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;

const ACME: &str = "tenantd-main/tenant-acme";

/// A tree that looks like cgroup file systems, with the files of one tenant.
struct Fake {
    root: TempDir,
    mounts: String,
    own: String,
}

impl Fake {
    fn new() -> Self {
        Self { root: TempDir::new().unwrap(), mounts: String::new(), own: String::new() }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn file(&self, path: &str, content: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn content(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap().trim().to_owned()
    }

    fn v1(mut self, controllers: &str) -> Self {
        let at = self.path(controllers);
        fs::create_dir_all(&at).unwrap();
        self.mounts += &format!("31 23 0:28 / {} rw - cgroup cgroup rw,{controllers}\n", at.display());
        self.own += &format!("3:{controllers}:/\n");
        let files = controllers.split(',').flat_map(|controller| match controller {
            "cpu" => &[("cpu.cfs_quota_us", "-1\n"), ("cpu.cfs_period_us", "100000\n")][..],
            "memory" => &[
                ("memory.limit_in_bytes", "9223372036854771712\n"),
                ("memory.memsw.limit_in_bytes", "9223372036854771712\n"),
                ("memory.usage_in_bytes", "1000000\n"),
                ("memory.stat", "inactive_file 1\ntotal_inactive_file 4096\n"),
                ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"),
            ],
            "cpuacct" => &[("cpuacct.usage", "5000000\n")],
            "pids" => &[("pids.max", "max\n"), ("pids.current", "7\n"), ("pids.events", "max 2\n")],
            "blkio" => &[
                ("blkio.throttle.read_bps_device", ""),
                ("blkio.throttle.write_bps_device", ""),
                ("blkio.throttle.io_service_bytes_recursive", "8:0 Read 10\n8:0 Write 20\n8:16 Read 1\nTotal 31\n"),
            ],
            _ => &[],
        });
        for (file, content) in files.chain(&[("tasks", ""), ("cgroup.procs", "")]) {
            self.file(&format!("{controllers}/tenantd-main/{file}"), content);
            self.file(&format!("{controllers}/{ACME}/{file}"), content);
        }
        self
    }

    fn v2(mut self, at: &str, controllers: &str) -> Self {
        let mount = self.path(at);
        self.mounts += &format!("30 23 0:26 / {} rw - cgroup2 cgroup2 rw\n", mount.display());
        self.own += "0::/\n";
        for dir in [at.to_owned(), format!("{at}/tenantd-main"), format!("{at}/{ACME}")] {
            self.file(&format!("{dir}/cgroup.controllers"), controllers);
            self.file(&format!("{dir}/cgroup.subtree_control"), "");
            self.file(&format!("{dir}/cgroup.procs"), "0\n12\n13\n");
            self.file(&format!("{dir}/cgroup.kill"), "");
            self.file(&format!("{dir}/cpu.stat"), "usage_usec 9\nuser_usec 1\nthrottled_usec 4\n");
            for controller in controllers.split_whitespace() {
                let files: &[(&str, &str)] = match controller {
                    "cpu" => &[("cpu.max", "max 100000\n")],
                    "memory" => &[
                        ("memory.max", "max\n"),
                        ("memory.swap.max", "max\n"),
                        ("memory.current", "2000000\n"),
                        ("memory.stat", "anon 1\ninactive_file 8192\n"),
                        ("memory.events", "oom 1\noom_kill 1\n"),
                    ],
                    "pids" => &[("pids.max", "max\n"), ("pids.current", "2\n"), ("pids.events", "max 0\n")],
                    "io" => &[("io.max", ""), ("io.stat", "8:0 rbytes=5 wbytes=6 rios=1\n8:16 rbytes=1 wbytes=1\n")],
                    _ => &[],
                };
                for (file, content) in files {
                    self.file(&format!("{dir}/{file}"), content);
                }
            }
        }
        self
    }

    fn open(&self) -> Cgroups {
        let layout = Layout::find(&self.mounts, &self.own).unwrap();
        Cgroups::make_in(&layout, "tenantd-main", Ok(Disk { major: 8, minor: 0 })).unwrap()
    }
}

fn acme() -> TenantName {
    "acme".parse().unwrap()
}

fn all() -> Limits {
    Limits::from_words(["cpu=1.5", "memory=64M", "processes=99", "io_read=2M", "io_write=1M", "disk=1G"]).unwrap()
}

fn refusal(cgroups: &Cgroups, words: &[&str]) -> String {
    let limits = Limits::from_words(words).unwrap();
    let refused = cgroups.set(&acme(), &limits).unwrap_err().to_string();
    assert_eq!(cgroups.check(&limits).unwrap_err().to_string(), refused);
    refused
}

#[test]
fn version_2_alone() {
    let fake = Fake::new().v2("cg", "cpuset cpu io memory pids");
    let cgroups = fake.open();
    assert!(cgroups.support().iter().all(|support| support.held == Held::Yes));
    // Each controller is written alone: one that the kernel refuses does not take the others with it.
    assert_eq!(fake.content("cg/cgroup.subtree_control"), "+io");
    assert_eq!(fake.content("cg/tenantd-main/cgroup.subtree_control"), "+io");
    cgroups.make(&acme()).unwrap();
    assert_eq!(cgroups.limits(&acme()).unwrap(), Some(Limits::default()));
    cgroups.set(&acme(), &all()).unwrap();
    let file = |name: &str| fake.content(&format!("cg/{ACME}/{name}"));
    assert_eq!(file("cpu.max"), "15000 10000");
    assert_eq!((file("memory.max"), file("memory.swap.max")), ("67108864".into(), "0".into()));
    assert_eq!(file("pids.max"), "99");
    assert_eq!(file("io.max"), "8:0 rbps=2097152 wbps=1048576");
    assert_eq!(cgroups.limits(&acme()).unwrap(), Some(Cgroups::held(&all())));
    cgroups.set(&acme(), &Limits::default()).unwrap();
    assert_eq!((file("cpu.max"), file("memory.max")), ("max 100000".into(), "max".into()));
    assert_eq!((file("memory.swap.max"), file("pids.max")), ("max".into(), "max".into()));
    assert_eq!(file("io.max"), "8:0 rbps=max wbps=max");
    assert_eq!(cgroups.limits(&acme()).unwrap(), Some(Limits::default()));
    // The process of another pid namespace, 0, is not one.
    assert_eq!(cgroups.processes(&acme()).unwrap(), BTreeSet::from([12, 13]));
    assert_eq!(cgroups.tenants().unwrap(), BTreeSet::from([acme()]));
    let entry = cgroups.entry(&acme()).unwrap();
    assert!(entry.unified.is_some() && entry.tasks.is_empty());
    assert!(cgroups.id(&acme()).unwrap().is_some());
    let usage = cgroups.usage(&acme());
    let expected = Usage {
        memory: Some(2_000_000),
        memory_cold: Some(8192),
        oom_kills: Some(1),
        cpu_us: Some(9),
        throttled_us: Some(4),
        processes: Some(2),
        processes_refused: Some(0),
        io_read: Some(6),
        io_written: Some(7),
    };
    assert_eq!(usage, expected);
}

#[test]
fn version_1_alone() {
    let fake = Fake::new().v1("cpu,cpuacct").v1("memory").v1("pids").v1("blkio").v1("name=systemd").v1("freezer");
    let cgroups = fake.open();
    cgroups.set(&acme(), &all()).unwrap();
    assert_eq!(fake.content(&format!("cpu,cpuacct/{ACME}/cpu.cfs_quota_us")), "15000");
    assert_eq!(fake.content(&format!("memory/{ACME}/memory.limit_in_bytes")), "67108864");
    assert_eq!(fake.content(&format!("memory/{ACME}/memory.memsw.limit_in_bytes")), "67108864");
    assert_eq!(fake.content(&format!("pids/{ACME}/pids.max")), "99");
    assert_eq!(fake.content(&format!("blkio/{ACME}/blkio.throttle.read_bps_device")), "8:0 2097152");
    assert_eq!(cgroups.limits(&acme()).unwrap(), Some(Cgroups::held(&all())));
    // cpu with cpuacct, memory, pids, blkio, systemd; not the freezer.
    let entry = cgroups.entry(&acme()).unwrap();
    assert!(entry.unified.is_none() && entry.tasks.len() == 5);
    assert_eq!(cgroups.id(&acme()).unwrap(), None);
    let write = cgroups.support().pop().unwrap();
    assert!(matches!(write.held, Held::Partly(gap) if gap.contains("page cache")), "{}", write.limit);
    let usage = cgroups.usage(&acme());
    assert_eq!((usage.memory, usage.memory_cold, usage.oom_kills), (Some(1_000_000), Some(4096), Some(3)));
    assert_eq!((usage.cpu_us, usage.processes, usage.processes_refused), (Some(5000), Some(7), Some(2)));
    assert_eq!((usage.io_read, usage.io_written), (Some(11), Some(20)));
    // Without swap accounting there is one file less.
    fs::remove_file(fake.path(&format!("memory/{ACME}/memory.memsw.limit_in_bytes"))).unwrap();
    cgroups.set(&acme(), &Limits::default()).unwrap();
    assert_eq!(fake.content(&format!("memory/{ACME}/memory.limit_in_bytes")), "-1");
    assert_eq!(fake.content(&format!("blkio/{ACME}/blkio.throttle.read_bps_device")), "8:0 0");
}

#[test]
fn hybrid() {
    let fake = Fake::new().v1("cpu").v1("cpuacct").v1("memory").v1("pids").v1("blkio").v2("unified", "");
    let cgroups = fake.open();
    cgroups.set(&acme(), &all()).unwrap();
    assert_eq!(cgroups.limits(&acme()).unwrap(), Some(Cgroups::held(&all())));
    let entry = cgroups.entry(&acme()).unwrap();
    assert!(entry.unified.is_some() && entry.tasks.len() == 5);
    let inode = fs::metadata(fake.path(&format!("unified/{ACME}"))).unwrap().ino();
    assert_eq!(cgroups.id(&acme()).unwrap(), Some(inode));
    assert_eq!(fake.content("unified/cgroup.subtree_control"), "");
}

#[test]
fn a_missing_controller_is_named_and_nothing_is_weaker() {
    let fake = Fake::new().v1("cpu").v1("pids").v2("unified", "");
    let cgroups = fake.open();
    let words = refusal(&cgroups, &["memory=64M"]);
    assert!(words.starts_with("limit memory refused: this host has no memory controller"), "{words}");
    assert!(words.contains("version 2 at"), "{words}");
    assert!(refusal(&cgroups, &["io_write=1M"]).starts_with("limit io_write refused: this host has no io controller"));
    cgroups.set(&acme(), &Limits::from_words(["cpu=1", "processes=10"]).unwrap()).unwrap();
    // A kernel without quotas has the controller but not the file.
    fs::remove_file(fake.path("cpu/tenantd-main/cpu.cfs_quota_us")).unwrap();
    assert!(refusal(&fake.open(), &["cpu=1"]).starts_with("limit cpu refused"));
    // No hierarchy at all.
    let nothing = Cgroups::make_in(&Layout::default(), "tenantd-main", Err("no disk".into())).unwrap();
    assert!(nothing.support().iter().all(|support| matches!(support.held, Held::No(_))));
    assert!(refusal(&nothing, &["processes=10"]).contains("no cgroup hierarchy is mounted"));
}

#[test]
fn no_disk_no_io_limit() {
    let fake = Fake::new().v2("cg", "cpu io memory pids");
    let layout = Layout::find(&fake.mounts, &fake.own).unwrap();
    let cgroups = Cgroups::make_in(&layout, "tenantd-main", Err("/x lies on no single disk".into())).unwrap();
    assert_eq!(
        refusal(&cgroups, &["io_read=1M"]),
        "limit io_read refused: /x lies on no single disk; without this limit the tenant can be made"
    );
}

#[test]
fn parents() {
    let of = |parent| relative(parent).map(|(own, path)| (own, path.to_str().unwrap().to_owned()));
    assert_eq!(of("tenantd-main").unwrap(), (false, "tenantd-main".into()));
    assert_eq!(of("/a.slice/b").unwrap(), (false, "a.slice/b".into()));
    assert_eq!(of("./x").unwrap(), (true, "x".into()));
    for bad in ["", "/", "./", "..", "a/../b", "../x", "././x"] {
        assert_eq!(of(bad).unwrap_err().field, "cgroup", "{bad}");
    }
}

#[test]
fn a_parent_below_our_own_place() {
    let mut fake = Fake::new().v1("memory");
    fake.own = "3:memory:/session/x\n".into();
    let layout = Layout::find(&fake.mounts, &fake.own).unwrap();
    Cgroups::make_in(&layout, "./tenants", Err(String::new())).unwrap();
    assert!(fake.path("memory/session/x/tenants").is_dir());
}

#[test]
fn the_absent_is_gone_already() {
    let fake = Fake::new().v1("pids").v2("unified", "");
    let cgroups = fake.open();
    let nobody: TenantName = "nobody".parse().unwrap();
    assert_eq!(cgroups.limits(&nobody).unwrap(), None);
    assert_eq!(cgroups.id(&nobody).unwrap(), None);
    assert_eq!(cgroups.usage(&nobody), Usage::default());
    assert!(cgroups.processes(&nobody).unwrap().is_empty());
    cgroups.kill(&nobody).unwrap();
    cgroups.remove(&nobody, Duration::ZERO).unwrap();
    assert!(!Path::new(&fake.path("pids/tenantd-main/tenant-nobody")).exists());
}
