//! The program itself: what it refuses and how it says so, and, with root, what it leaves in the kernel. Each root test
//! has a network and a mount namespace of its own.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Failed, Trial};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_access-server");

/// A user who is nobody.
const NOBODY: u32 = 65_534;

fn main() -> ExitCode {
    let args = Arguments::from_args();
    let root = nix::unistd::geteuid().is_root();
    let plain: [(&str, fn()); 2] =
        [("wrong_usage_ends_with_2", wrong_usage_ends_with_2), ("no_daemon_is_told", no_daemon_is_told)];
    let privileged: [(&str, fn()); 11] = [
        ("not_root_is_told", not_root_is_told),
        ("a_closed_socket_names_the_group", a_closed_socket_names_the_group),
        ("devices_and_addresses_are_checked", devices_and_addresses_are_checked),
        ("the_trunk_of_tenantd_is_waited_for", the_trunk_of_tenantd_is_waited_for),
        ("one_daemon_an_instance", one_daemon_an_instance),
        ("rows_outlive_the_daemon_and_detach_ends_them", rows_outlive_the_daemon_and_detach_ends_them),
        ("programs_follow_a_trunk_made_again", programs_follow_a_trunk_made_again),
        ("rows_follow_the_routing_table", rows_follow_the_routing_table),
        ("a_site_has_its_one_row", a_site_has_its_one_row),
        ("a_layer_2_site_hears_all_frames", a_layer_2_site_hears_all_frames),
        ("two_instances_share_a_device", two_instances_share_a_device),
    ];
    let mut trials: Vec<Trial> = plain.into_iter().map(|(name, test)| Trial::test(name, move || run(test))).collect();
    trials.extend(privileged.into_iter().map(|(name, test)| {
        if root {
            Trial::test(name, move || run(move || in_own_namespaces(test)))
        } else {
            Trial::test(format!("{name} (needs root)"), || Ok(())).with_ignored_flag(true)
        }
    }));
    libtest_mimic::run(&args, trials).exit_code()
}

/// In a thread of its own, which may change its namespaces for good.
fn run(test: impl FnOnce() + Send + 'static) -> Result<(), Failed> {
    std::thread::spawn(test).join().map_err(|_| Failed::from("panicked, see above"))
}

fn in_own_namespaces(test: fn()) {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    test();
}

fn ip(args: &str) {
    let output = Command::new("ip").args(args.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A WAN with addresses and a router, and a trunk to a namespace that lives as long as this.
struct World {
    dir: tempfile::TempDir,
    patch_room: Child,
}

impl World {
    fn new() -> Self {
        ip("link set lo up");
        ip("link add wan0 type veth peer name isp0");
        ip("addr add 203.0.113.1/24 dev wan0");
        ip("addr add 2001:db8::1/64 dev wan0 nodad");
        ip("link set wan0 up");
        ip("link set isp0 up");
        ip("route add default via 203.0.113.254");
        let patch_room = Command::new("unshare").args(["--net", "sleep", "600"]).spawn().unwrap();
        let world = Self { dir: tempfile::tempdir().unwrap(), patch_room };
        let room = || std::fs::read_link(format!("/proc/{}/ns/net", world.patch_room.id())).ok();
        let here = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        wait("the patch room", || room().is_some_and(|room| room != here));
        world.make_trunk("trunk-t");
        world
    }

    fn make_trunk(&self, name: &str) {
        ip(&format!("link add {name} type veth peer name trunk netns {}", self.patch_room.id()));
        ip(&format!("link set {name} up"));
    }

    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// The program with `args`, for instance `t` unless they name another.
    fn command(&self, args: &str) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(args.split_whitespace()).arg("--run-dir").arg(self.path("run"));
        if !args.contains("--instance") {
            command.args(["--instance", "t"]);
        }
        command
    }

    fn daemon(&self, args: &str) -> Command {
        let mut command = self.command(args);
        command.arg("--bpffs").arg(self.path("bpf"));
        // A daemon ends with its test's thread, also when that panics: it would hold the test run's output open.
        // SAFETY: prctl is async-signal-safe and touches nothing of the parent.
        unsafe {
            command.pre_exec(|| nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(Into::into));
        }
        command
    }

    fn run_args() -> &'static str {
        "run --wan wan0 --local 203.0.113.1 --local 2001:db8::1"
    }

    /// Starts a daemon and waits until it is ready.
    fn start(&self, args: &str) -> Child {
        let mut child = self.daemon(args).arg("--json").stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        assert!(ready.contains("\"ready\":true"), "{ready:?}");
        child
    }

    fn json(&self, args: &str) -> Value {
        let output = self.command(args).arg("--json").output().unwrap();
        assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Runs to the end, which must be a failure, and gives its message.
    fn refused(&self, args: &str) -> String {
        fails(&mut self.daemon(args), 1)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.patch_room.kill();
        let _ = self.patch_room.wait();
        let _ = nix::mount::umount(&self.path("bpf"));
    }
}

fn fails(command: &mut Command, code: i32) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{command:?}: {text}");
    text
}

fn end(mut child: Child, signal: Signal) {
    kill(Pid::from_raw(child.id() as i32), signal).unwrap();
    let status = child.wait().unwrap();
    assert!(signal == Signal::SIGKILL || status.success(), "{status}");
}

fn wait(what: &str, mut until: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !until() {
        assert!(Instant::now() < deadline, "waited 30 s for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a program of ours sits on the device.
fn attached(device: &str) -> bool {
    let output = Command::new("tc").args(["filter", "show", "dev", device, "ingress"]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).contains("ingress")
}

/// How the kernel describes the device.
fn link(device: &str) -> String {
    let output = Command::new("ip").args(["-d", "link", "show", "dev", device]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn wrong_usage_ends_with_2() {
    let cases = [
        ("", "Usage"),
        ("frobnicate", "frobnicate"),
        ("run", "--wan"),
        ("run --wan eth0 --local 203.0.113.300", "203.0.113.300"),
        ("show 4095", "must be 1..=4094"),
        ("put-tunnel --vlan 0 ipip:198.51.100.2", "must be 1..=4094"),
        ("put-tunnel --vlan 600 sit:198.51.100.2", "must be ipip, gre or vxlan"),
        ("put-tunnel --vlan 600 ipip:198.51.100.2,key=1", "ipip has no key"),
        ("put-tunnel --vlan 600 vxlan:198.51.100.2,key=16777216", "24 bits"),
        ("put-tunnel --vlan 600 ipip:198.51.100.2,prefix=10.0.0.1/8", "10.0.0.0/8"),
        ("site --lan a --wan b --local 198.51.100.2 --tunnel ipip:203.0.113.1", "--server"),
    ];
    for (args, part) in cases {
        let text = fails(Command::new(PROGRAM).args(args.split_whitespace()), 2);
        assert!(text.contains(part), "{args}: {text}");
    }
    let help = Command::new(PROGRAM).args(["put-tunnel", "--help"]).output().unwrap();
    assert!(help.status.success() && String::from_utf8_lossy(&help.stdout).contains("Example"));
}

fn no_daemon_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let text = fails(Command::new(PROGRAM).args(["list", "--instance", "x", "--run-dir"]).arg(dir.path()), 1);
    assert!(text.contains("no daemon answers") && text.contains("access-server run"), "{text}");
    assert!(text.contains("--instance x"), "{text}");
    let text = fails(Command::new(PROGRAM).args(["list", "--json", "--run-dir"]).arg(dir.path()), 1);
    let problem: Value = serde_json::from_str(&text).unwrap();
    assert!(problem["detail"].as_str().unwrap().contains("no daemon answers"), "{text}");
}

fn not_root_is_told() {
    let mut command = Command::new(PROGRAM);
    command.args(["run", "--wan", "wan0", "--local", "203.0.113.1", "--run-dir", "/nonexistent"]);
    let text = fails(command.uid(NOBODY).gid(NOBODY), 1);
    assert!(text.contains("needs to be root") && text.contains("CAP_NET_ADMIN"), "{text}");
}

fn a_closed_socket_names_the_group() {
    let world = World::new();
    let daemon = world.start(World::run_args());
    // The socket itself must be what refuses, not the temporary directory.
    std::fs::set_permissions(world.dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let text = fails(world.command("list").uid(NOBODY).gid(NOBODY), 1);
    assert!(text.contains("no permission") && text.contains("group "), "{text}");
    end(daemon, Signal::SIGTERM);
}

fn devices_and_addresses_are_checked() {
    let world = World::new();
    let local = "--local 203.0.113.1 --trunk trunk-t";
    let usage = |args: &str, parts: &[&str]| {
        let text = fails(&mut world.daemon(args), 2);
        for part in parts {
            assert!(text.contains(part), "{args}: {text}");
        }
    };
    let check = |args: &str, parts: &[&str]| {
        let text = world.refused(args);
        for part in parts {
            assert!(text.contains(part), "{args}: {text}");
        }
    };
    check(&format!("run --wan wan9 {local}"), &["wan device wan9 does not exist"]);
    usage(&format!("run --wan wan0 --wan wan0 {local}"), &["wan", "given twice"]);
    usage(&format!("run --wan trunk-t {local}"), &["trunk-t", "must not be the trunk"]);
    check("run --wan wan0 --local 203.0.113.9 --trunk trunk-t", &["203.0.113.9 is not an address of this host"]);
    check("run --wan wan0 --local 203.0.113.1 --trunk nic9", &["trunk device nic9 does not exist"]);
    usage("run --wan wan0 --local 224.0.0.1 --trunk trunk-t", &["224.0.0.1", "unicast"]);
    usage(
        "site --lan trunk-t --wan wan0 --local 203.0.113.1 --tunnel ipip:2001:db8::9 --server 192.168.1.1",
        &["2001:db8::9", "no local address of its family"],
    );
    usage("run --wan wan0 --local 203.0.113.1 --instance BAD", &["instance", "BAD", "DNS label"]);
    usage("run --wan wan0 --local 203.0.113.1 --instance tenletters", &["tenletters", "at most 9", "--trunk"]);
    ip("link set wan0 mtu 1290");
    check(&format!("run --wan wan0 {local}"), &["wan0 has MTU 1290, at least 1300 is needed: 10 too small"]);
    ip("link set wan0 mtu 1500");
    ip("link set trunk-t mtu 1000");
    check(&format!("run --wan wan0 {local}"), &["trunk-t has MTU 1000, at least 1280 is needed: 280 too small"]);
    ip("link set trunk-t mtu 1500 down");
    check(&format!("run --wan wan0 {local}"), &["trunk device trunk-t is down"]);
    ip("link set wan0 down");
    check(&format!("run --wan wan0 {local}"), &["wan device wan0 is down"]);
    assert!(!world.path("bpf").exists(), "a refused start leaves nothing");
}

fn the_trunk_of_tenantd_is_waited_for() {
    let world = World::new();
    ip("link del trunk-t");
    let mut daemon = world.daemon(World::run_args()).arg("--json").stdout(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert!(daemon.try_wait().unwrap().is_none(), "it did not wait");
    world.make_trunk("trunk-t");
    let mut ready = String::new();
    BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut ready).unwrap();
    assert!(ready.contains("\"ready\":true"), "{ready:?}");
    end(daemon, Signal::SIGTERM);
    ip("link del trunk-t");
    let text = world.refused(World::run_args());
    assert!(text.contains("trunk-t does not exist: `tenantd run --instance t` makes it"), "{text}");
}

fn one_daemon_an_instance() {
    let world = World::new();
    let daemon = world.start(World::run_args());
    let holder = format!("held by pid {} (access-server run)", daemon.id());
    let text = world.refused(World::run_args());
    assert!(text.contains("instance t") && text.contains(&holder), "{text}");
    let text = world.refused("detach");
    assert!(text.contains(&holder), "{text}");
    end(daemon, Signal::SIGTERM);
}

fn rows_outlive_the_daemon_and_detach_ends_them() {
    let world = World::new();
    let daemon = world.start(World::run_args());
    let gre = "gre:198.51.100.2,key=7,prefix=192.168.1.0/24";
    world.json(&format!("put-tunnel --vlan 600 {gre}"));
    world.json("put-tunnel --vlan 600 vxlan:2001:db8:5::2,key=9,prefix=10.0.0.0/8");
    world.json("put-tunnel --vlan 601 ipip:198.51.100.2");
    let rows = world.json("list");
    assert_eq!(rows.as_array().unwrap().len(), 2);
    assert_eq!(rows[0]["layer"], "mixed");
    assert_eq!(rows[0]["tunnels"].as_array().unwrap().len(), 2);
    assert!(world.path("run/t/api.sock").exists());
    assert!(attached("wan0") && attached("trunk-t"));
    assert!(link("trunk-t").contains("gro_max_size 65000"), "{}", link("trunk-t"));
    assert!(!link("wan0").contains("gro_max_size 65000"), "the WAN is not ours to set");

    // Killed and at once started again, before the kernel has taken the old one apart.
    kill(Pid::from_raw(daemon.id() as i32), Signal::SIGKILL).unwrap();
    assert!(attached("wan0") && attached("trunk-t"), "the data path died with its daemon");
    let mut dead = daemon;
    let daemon = world.start(World::run_args());
    dead.wait().unwrap();
    assert_eq!(world.json("list"), rows);
    let thief = fails(&mut world.command(&format!("put-tunnel --vlan 700 {gre}")), 1);
    assert!(thief.contains("bound to vlan 600 of owner operator"), "{thief}");
    let thief = fails(&mut world.command(&format!("put-tunnel --json --vlan 700 {gre}")), 1);
    let thief: Value = serde_json::from_str(&thief).unwrap();
    assert_eq!((thief["status"].as_u64(), thief["field"].as_str()), (Some(409), Some("tunnel")));
    world.json("delete-tunnel --vlan 601 ipip:198.51.100.2");
    let counted: Vec<u64> =
        world.json("counters").as_array().unwrap().iter().map(|row| row["vlan"].as_u64().unwrap()).collect();
    assert_eq!(counted, [0, 600]);

    end(daemon, Signal::SIGTERM);
    assert!(attached("wan0"));
    // The file stays, so that a caller knows that somebody is to come again; nobody listens.
    let refused = std::os::unix::net::UnixStream::connect(world.path("run/t/api.sock")).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    let daemon = world.start(World::run_args());
    assert_eq!(world.json("list").as_array().unwrap().len(), 1);
    end(daemon, Signal::SIGTERM);

    for _ in 0..2 {
        let output = world.daemon("detach").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(!attached("wan0") && !attached("trunk-t"));
    assert!(!world.path("bpf/access-server/t").exists());
}

fn programs_follow_a_trunk_made_again() {
    let world = World::new();
    let daemon = world.start(World::run_args());
    world.json("put-tunnel --vlan 600 ipip:198.51.100.2");
    let rows = world.json("list");
    ip("link del trunk-t");
    wait("the status to say so", || world.json("status")["trunk"]["up"] == false);
    world.make_trunk("trunk-t");
    wait("the program on the new trunk", || attached("trunk-t"));
    assert_eq!(world.json("list"), rows);
    end(daemon, Signal::SIGTERM);
}

fn rows_follow_the_routing_table() {
    let world = World::new();
    let daemon = world.start(World::run_args());
    world.json("put-tunnel --vlan 600 ipip:198.51.100.2");
    let tunnel = || world.json("show 600")["tunnels"][0].clone();
    assert_eq!(tunnel()["next_hop"]["via"], "203.0.113.254");
    ip("route del default");
    wait("no way out", || tunnel()["next_hop"].is_null());
    ip("route add 198.51.100.0/24 via 203.0.113.250 mtu 1400");
    wait("the new way", || tunnel()["next_hop"]["via"] == "203.0.113.250");
    assert_eq!(tunnel()["mtu"], 1380);
    ip("link set wan0 mtu 1350");
    wait("the smaller device", || tunnel()["mtu"] == 1330);
    // A better route through a device that is not the WAN's is not taken.
    ip("link add lan0 type veth peer name lan1");
    ip("addr add 198.51.100.1/25 dev lan0");
    ip("link set lan0 up");
    ip("link set lan1 up");
    wait("no way through another device", || tunnel()["next_hop"].is_null());
    end(daemon, Signal::SIGTERM);
}

fn a_site_has_its_one_row() {
    let world = World::new();
    let site = "site --lan trunk-t --wan wan0 --local 203.0.113.1 --tunnel gre:198.51.100.2,key=5 --server 192.168.1.1";
    let daemon = world.start(site);
    let rows = world.json("list");
    assert_eq!((rows[0]["vlan"].as_u64(), rows[0]["owner"].as_str()), (Some(1), Some("site")));
    assert_eq!(rows[0]["tunnels"][0]["key"], 5);
    end(daemon, Signal::SIGTERM);
    // Another tunnel takes the place of the first; and this time nothing stays.
    let daemon = world.start(&format!("{} --detach-on-exit", site.replace("key=5", "key=6")));
    assert_eq!(world.json("list")[0]["tunnels"][0]["key"], 6);
    end(daemon, Signal::SIGTERM);
    assert!(!attached("wan0") && !Path::exists(&world.path("bpf/access-server/t")));
}

fn a_layer_2_site_hears_all_frames() {
    let world = World::new();
    let site =
        "site --lan trunk-t --wan wan0 --local 203.0.113.1 --tunnel vxlan:198.51.100.2,key=5 --server 192.168.1.1";
    let daemon = world.start(&format!("{site} --detach-on-exit"));
    assert!(link("trunk-t").contains("promiscuity 1"), "{}", link("trunk-t"));
    end(daemon, Signal::SIGTERM);
    assert!(link("trunk-t").contains("promiscuity 0"), "{}", link("trunk-t"));
}

fn two_instances_share_a_device() {
    let world = World::new();
    ip(&format!("link add trunk-u type veth peer name trunk2 netns {}", world.patch_room.id()));
    ip("link set trunk-u up");
    let first = world.start("run --wan wan0 --local 203.0.113.1");
    // An address of its own: who would get the packets of a shared one is decided by nobody.
    ip("addr add 203.0.113.2/24 dev wan0");
    let refused = world.daemon("run --wan wan0 --local 203.0.113.1 --instance u").output().unwrap();
    assert!(
        !refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("203.0.113.1"),
        "{refused:?}"
    );
    let second = world.start("run --wan wan0 --local 203.0.113.2 --instance u");
    world.json("put-tunnel --vlan 600 ipip:198.51.100.2");
    world.json("put-tunnel --vlan 600 ipip:198.51.100.3 --instance u");
    let remote = |args: &str| world.json(args)[0]["tunnels"][0]["remote"].clone();
    assert_eq!((remote("list"), remote("list --instance u")), ("198.51.100.2".into(), "198.51.100.3".into()));
    end(second, Signal::SIGTERM);
    assert!(world.daemon("detach --instance u").status().unwrap().success());
    assert!(attached("wan0") && attached("trunk-t") && !attached("trunk-u"));
    assert_eq!(remote("list"), "198.51.100.2");
    end(first, Signal::SIGTERM);
}
