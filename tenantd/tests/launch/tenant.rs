//! A launched tenant for a test; it is ended when it goes out of scope.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use stackmap::{GidRange, StackIndex};
use tenant_init::client::Client;
use tenant_init::house::{Image, Layer};
use tenant_init::protocol::ServiceSpec;
use tenantd::launch::{self, LaunchSpec, Launched};

/// For requests that are answered at once.
pub(crate) const SOON: Duration = Duration::from_secs(10);

pub(crate) struct Tenant {
    pub(crate) spec: LaunchSpec,
    pub(crate) launched: Launched,
    pub(crate) client: Client,
    _root: tempfile::TempDir,
}

/// The program `tenant-init`, built like this test.
pub(crate) fn init_path() -> PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        if let Some(path) = std::env::var_os("TENANT_INIT") {
            return path.into();
        }
        // target/TRIPLE/PROFILE/deps/launch-HASH
        let exe = std::env::current_exe().unwrap();
        let profile = exe.parent().unwrap().parent().unwrap();
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--package", "tenant-init"]).current_dir(env!("CARGO_MANIFEST_DIR"));
        if profile.file_name().unwrap() == "release" {
            cargo.arg("--release");
        }
        assert!(cargo.status().unwrap().success());
        profile.join("tenant-init")
    };
    PATH.get_or_init(build).clone()
}

/// What to launch below `root`; no two tests share ids.
pub(crate) fn spec(root: &Path, name: &str) -> LaunchSpec {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let index = NEXT.fetch_add(1, Ordering::Relaxed);
    LaunchSpec {
        init_path: init_path(),
        name: name.parse().unwrap(),
        stack: StackIndex(index),
        gids: GidRange::new(524_288 + 65_536 * (1000 + index)).unwrap(),
        control_socket: root.join("run").join(format!("{name}.sock")),
        state_dir: root.join("tenants").join(name),
        dns: vec!["192.168.1.53".parse().unwrap()],
        addresses: vec!["192.168.1.1/24".parse().unwrap()],
        image: image(root),
        layer: Layer::Directory,
        network: false,
        api: None,
        program: None,
        shares: Vec::new(),
        scratch: 64 << 20,
    }
}

impl Tenant {
    pub(crate) fn launch() -> Tenant {
        let root = tempfile::tempdir().unwrap();
        // As /var/lib/tenantd: the tenant's user may pass through.
        std::fs::set_permissions(root.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
        let spec = spec(root.path(), "acme");
        Self::from_spec(root, spec)
    }

    pub(crate) fn from_spec(root: tempfile::TempDir, spec: LaunchSpec) -> Tenant {
        let launched = launch::launch(&spec).unwrap();
        let mut client = Client::connect(&spec.control_socket).unwrap();
        let hello = client.hello(SOON).unwrap();
        assert!(hello.ready, "{hello:?}");
        Tenant { spec, launched, client, _root: root }
    }

    /// First user and group id.
    pub(crate) fn ids(&self) -> u32 {
        self.spec.gids.get()
    }

    /// Starts a shell script as service `name`.
    pub(crate) fn sh(&mut self, name: &str, script: &str) -> i32 {
        self.client.start(command(name, &["/bin/sh", "-c", script]), SOON).unwrap()
    }

    /// What a script prints; the script runs as a service.
    pub(crate) fn output_of(&mut self, script: &str) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("out{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.sh(&name, &format!("{script}; echo; echo =end=; exec sleep 1000"));
        let text = eventually("the script's end", || Some(self.log(&name)).filter(|log| log.ends_with("=end=\n")));
        self.client.remove(&name, SOON).unwrap();
        text.trim_end_matches("=end=\n").trim_end().to_owned()
    }

    /// The log of a service.
    pub(crate) fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.spec.state_dir.join("logs").join(format!("{name}.log"))).unwrap()
    }

    /// Host process ids of init's children.
    pub(crate) fn children(&self) -> Vec<i32> {
        children(self.launched.pid)
    }

    /// Runs a program of the host in the tenant's stack.
    #[allow(dead_code, reason = "not every test that uses this file needs it")]
    pub(crate) fn in_stack(&self, program: &str, arguments: &[&str]) -> Output {
        let netns: OwnedFd = self.launched.netns.try_clone().unwrap();
        let mut command = Command::new(program);
        command.args(arguments);
        // SAFETY: setns is a system call, and the descriptor lives until after the fork.
        unsafe {
            command.pre_exec(move || match libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        command.output().unwrap()
    }
}

impl Drop for Tenant {
    fn drop(&mut self) {
        launch::end(&self.launched.pidfd, SOON).unwrap();
        launch::forget(&self.spec.control_socket, &self.spec.state_dir).unwrap();
    }
}

pub(crate) fn children(pid: i32) -> Vec<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

pub(crate) fn command(name: &str, words: &[&str]) -> ServiceSpec {
    let argv = words.iter().map(|word| (*word).to_owned()).collect();
    ServiceSpec { name: name.to_owned(), argv, ..ServiceSpec::default() }
}

/// A line of /proc/PID/status.
pub(crate) fn status(pid: i32, field: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// True while the process exists and has not ended.
pub(crate) fn alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Waits until `what` happens; a minute at most.
pub(crate) fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A small image as tests need it: the host's programs over its accounts and no configuration.
fn image(root: &Path) -> Image {
    let image = root.join("image");
    for directory in ["etc", "home", "proc", "root", "run", "sys", "dev", "tmp", "usr", "var/lib", "var/log", "var/tmp"]
    {
        std::fs::create_dir_all(image.join(directory)).unwrap();
    }
    for link in ["bin", "sbin", "lib", "lib64"] {
        let _ = std::os::unix::fs::symlink(format!("usr/{link}"), image.join(link));
    }
    for file in ["passwd", "group", "nsswitch.conf"] {
        std::fs::copy(Path::new("/etc").join(file), image.join("etc").join(file)).unwrap();
    }
    Image::Host { root: image, set_id: Vec::new() }
}
