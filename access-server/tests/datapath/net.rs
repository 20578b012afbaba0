//! Network namespaces for one test run. The process moves into a mount and a network namespace of its own first, so
//! nothing it makes is seen outside and everything goes when it ends.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

static SCRATCH: OnceLock<PathBuf> = OnceLock::new();

/// Why tests that need the kernel cannot run here.
pub fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root".into());
    }
    for tool in ["ip", "clang", "ethtool"] {
        if Command::new(tool).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            return Some(format!("needs the program {tool}"));
        }
    }
    None
}

/// Leaves the machine's namespaces. Call before the first thread.
pub fn isolate() {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).unwrap();
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    // `ip netns` keeps its names here; a fresh tmpfs hides them from everybody else.
    std::fs::create_dir_all("/run/netns").unwrap();
    mount(Some("t"), "/run/netns", Some("tmpfs"), MsFlags::empty(), none).unwrap();
    let scratch = Path::new("/run/netns/.scratch");
    std::fs::create_dir_all(scratch.join("bpf")).unwrap();
    mount(Some("bpf"), &scratch.join("bpf"), Some("bpf"), MsFlags::empty(), none).unwrap();
    SCRATCH.set(scratch.to_owned()).unwrap();
    ip("link set lo up");
}

/// A directory that goes with the process.
pub fn scratch() -> &'static Path {
    SCRATCH.get().unwrap()
}

/// Runs `ip` with one command a line; a line `ns: rest` runs in that namespace.
pub fn ip(batch: &str) {
    for line in batch.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let mut command = Command::new("ip");
        let rest = match line.split_once(": ") {
            Some((ns, rest)) => {
                command.args(["-n", ns]);
                rest
            }
            None => line,
        };
        let out = command.args(rest.split_whitespace()).output().unwrap();
        assert!(out.status.success(), "ip {line}: {}", String::from_utf8_lossy(&out.stderr));
    }
}

/// Runs a program in a namespace; its standard output.
pub fn exec(ns: &str, line: &str) -> (bool, String) {
    let words: Vec<_> = line.split_whitespace().collect();
    let out = Command::new("ip").args(["netns", "exec", ns]).args(words).output().unwrap();
    (out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr))
}

/// Runs `work` in a thread that is in namespace `ns`.
pub fn inside<T: Send>(ns: &str, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                enter(ns);
                work()
            })
            .join()
            .unwrap()
    })
}

/// Moves the calling thread into `ns`.
pub fn enter(ns: &str) {
    let file = File::open(format!("/run/netns/{ns}")).unwrap();
    setns(file.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
}

/// Index of a device in `ns`.
pub fn ifindex(ns: &str, dev: &str) -> u32 {
    let name = CString::new(dev).unwrap();
    inside(ns, || nix::net::if_::if_nametoindex(name.as_c_str()).unwrap())
}

/// Compiles a BPF program of the tests.
pub fn compile(source: &str) -> PathBuf {
    let object = scratch().join(Path::new(source).file_stem().unwrap()).with_extension("o");
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/datapath");
    let status = Command::new("clang")
        .args(["-g", "-O2", "-target", "bpf", "-I/usr/include/x86_64-linux-gnu", "-c"])
        .arg(dir.join(source))
        .arg("-o")
        .arg(&object)
        .status()
        .unwrap();
    assert!(status.success());
    object
}
