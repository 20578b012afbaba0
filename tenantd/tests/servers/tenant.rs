//! A tenant on the image `host` with a site at its wire; it is ended when it goes out of scope.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use stackmap::{GidRange, StackIndex};
use tenant_init::client::{Client, ClientError};
use tenant_init::house::{Image, Layer};
use tenant_init::protocol::{Ready, Refusal, Restart, ServiceSpec};
use tenantd::images::{HostImage, ImageStore};
use tenantd::launch::{self, LaunchSpec, Launched};
use tenantd::templates::{self, Context};

use crate::site::Site;

/// For requests that are answered at once.
pub(crate) const SOON: Duration = Duration::from_secs(10);
/// Address of every server, in every closed network.
pub(crate) const SERVER: &str = "192.168.1.1";

/// State directory and image of one test.
pub(crate) struct Machine {
    root: tempfile::TempDir,
    image: HostImage,
}

pub(crate) struct Tenant {
    pub(crate) spec: LaunchSpec,
    pub(crate) launched: Launched,
    pub(crate) client: Client,
    pub(crate) site: Site,
}

impl Machine {
    pub(crate) fn new() -> Machine {
        let root = tempfile::tempdir().unwrap();
        // As /var/lib/tenantd: the tenant's user may pass through.
        std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
        let image = ImageStore::open(root.path()).unwrap().host().unwrap();
        Machine { root, image }
    }

    /// A tenant with a site; all of them have one address.
    pub(crate) fn tenant(&self, name: &str) -> Tenant {
        let spec = self.spec(name);
        let launched = launch::launch(&spec).unwrap();
        let mut client = Client::connect(&spec.control_socket).unwrap();
        let hello = client.hello(SOON).unwrap();
        assert!(hello.ready, "{hello:?}");
        let site = Site::new(launched.pid, SERVER);
        Tenant { spec, launched, client, site }
    }

    fn spec(&self, name: &str) -> LaunchSpec {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let index = NEXT.fetch_add(1, Ordering::Relaxed);
        LaunchSpec {
            init_path: init_path(),
            name: name.parse().unwrap(),
            stack: StackIndex(index),
            gids: GidRange::new(524_288 + 65_536 * (2000 + index)).unwrap(),
            control_socket: self.root.path().join("run").join(format!("{name}.sock")),
            state_dir: self.root.path().join("tenants").join(name),
            dns: vec![SERVER.parse().unwrap()],
            addresses: vec![format!("{SERVER}/24").parse().unwrap()],
            image: Image::Host { root: self.image.root.clone(), set_id: self.image.set_id.clone() },
            layer: Layer::Directory,
            network: false,
            api: None,
            program: None,
            shares: Vec::new(),
            scratch: 64 << 20,
        }
    }
}

/// The program `tenant-init`, built like this test.
fn init_path() -> PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        if let Some(path) = std::env::var_os("TENANT_INIT") {
            return path.into();
        }
        // target/TRIPLE/PROFILE/deps/servers-HASH
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

/// A service from one of our templates.
pub(crate) fn rendered(tenant: &str, name: &str, template: &str, set: &[(&str, &str)]) -> ServiceSpec {
    let found = templates::find(Path::new("/nonexistent"), template).unwrap();
    let set: BTreeMap<String, String> = set.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let (service, tenant) = (name.parse().unwrap(), tenant.parse().unwrap());
    templates::render(&found, &set, &Context { service, tenant, address: SERVER.parse().unwrap() }).unwrap()
}

pub(crate) fn command(name: &str, words: &[&str]) -> ServiceSpec {
    let argv = words.iter().map(|word| (*word).to_owned()).collect();
    ServiceSpec { name: name.to_owned(), argv, ..ServiceSpec::default() }
}

impl Tenant {
    pub(crate) fn name(&self) -> String {
        self.spec.name.to_string()
    }

    /// Starts a server from its template; it is ready when this returns.
    pub(crate) fn serve(&mut self, template: &str, set: &[(&str, &str)]) {
        let spec = rendered(&self.name(), template, template, set);
        self.start(spec);
    }

    pub(crate) fn start(&mut self, spec: ServiceSpec) {
        let (name, deadline) = (spec.name.clone(), spec.longest_start());
        if let Err(error) = self.client.start(spec, deadline) {
            panic!("{name}: {error}\n{}", self.log(&name));
        }
    }

    /// Why a service cannot be started.
    pub(crate) fn refused(&mut self, spec: ServiceSpec) -> Refusal {
        let deadline = spec.longest_start();
        match self.client.start(spec, deadline) {
            Err(ClientError::Refused(refusal)) => refusal,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn restart(&mut self, name: &str) {
        let grace = Duration::from_secs(30);
        if let Err(error) = self.client.restart_within(name, grace, Duration::from_secs(60)) {
            panic!("{name}: {error}\n{}", self.log(name));
        }
    }

    /// What a script prints that the tenant's administrator (or `user`) runs, as `tenantd exec` does.
    pub(crate) fn run_as(&mut self, user: &str, script: &str) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("run{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let spec = ServiceSpec {
            user: Some(user.to_owned()),
            ready: Ready::Exit,
            restart: Restart::Never,
            new_privileges: true,
            ..command(&name, &["/bin/sh", "-c", script])
        };
        self.start(spec);
        let text = self.log(&name);
        self.client.remove(&name, SOON).unwrap();
        text.trim_end().to_owned()
    }

    pub(crate) fn sh(&mut self, script: &str) -> String {
        self.run_as("root", script)
    }

    /// The log of a service.
    pub(crate) fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.spec.state_dir.join("logs").join(format!("{name}.log"))).unwrap_or_default()
    }

    /// True when the tenant's file is, byte for byte, the one of the package.
    pub(crate) fn assert_stock(&self, path: &str) {
        let inside = format!("/proc/{}/root{path}", self.launched.pid);
        assert!(std::fs::read(inside).unwrap() == std::fs::read(path).unwrap(), "{path} is not the package's");
    }
}

impl Drop for Tenant {
    fn drop(&mut self) {
        launch::end(&self.launched.pidfd, SOON).unwrap();
        launch::forget(&self.spec.control_socket, &self.spec.state_dir).unwrap();
    }
}

/// Waits until `what` happens; a minute at most.
pub(crate) fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + 6 * SOON;
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}
