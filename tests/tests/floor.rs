//! What a test needs before it can say anything, and how it is reported when that is not here.

use std::path::Path;

use anyhow::Result;
use libtest_mimic::{Completion, Failed, Trial};
use system_tests::plan::Options;
use system_tests::tenants;
use system_tests::uml;
use system_tests::world::{World, bin_dir, unique_name};

/// One need of a test.
#[derive(Clone, Copy)]
pub(crate) enum Need {
    /// Root: network namespaces, BPF.
    Root,
    /// Both daemons, built beside this test.
    Daemons,
    /// A program of the machine, with its package.
    Program(&'static str, &'static str),
    /// A module of Python, with its package.
    Module(&'static str, &'static str),
    /// user-mode-linux and all it needs.
    Uml,
}

impl Need {
    /// Why it is not met, if so.
    pub(crate) fn missing(self) -> Option<String> {
        match self {
            Self::Root => (!nix::unistd::geteuid().is_root()).then(|| "needs root".into()),
            Self::Daemons => ["tenantd", "access-server", "tenant-init"]
                .into_iter()
                .find(|name| !bin_dir().is_ok_and(|dir| dir.join(name).exists()))
                .map(|name| format!("{name} is not built (cargo build --release --workspace)")),
            Self::Program(program, package) => {
                (!on_path(program)).then(|| format!("{program} is not installed (package {package})"))
            }
            Self::Module(module, package) => {
                let import = format!("import {module}");
                let found = std::process::Command::new("python3").args(["-c", &import]).output();
                let found = found.is_ok_and(|output| output.status.success());
                (!found).then(|| format!("python3 has no module {module} (package {package})"))
            }
            Self::Uml => uml::missing(),
        }
    }
}

fn on_path(program: &str) -> bool {
    let path = system_tests::enter::path_with_binaries();
    path.split(':').any(|dir| Path::new(dir).join(program).exists())
}

/// A test that runs when its needs are met and is reported as ignored, with the reason, when not.
pub(crate) fn trial(name: &str, needs: &'static [Need], test: impl FnOnce() -> Result<()> + Send + 'static) -> Trial {
    Trial::ignorable_test(name, move || {
        if let Some(reason) = needs.iter().find_map(|need| need.missing()) {
            return Ok(Completion::ignored_with(reason));
        }
        test().map(|()| Completion::Completed).map_err(|e| Failed::from(format!("{e:#}")))
    })
}

/// What every test in a world needs.
pub(crate) const WORLD: &[Need] = &[Need::Root, Need::Program("ip", "iproute2"), Need::Program("ping", "iputils-ping")];

/// Makes a world of a name nobody else has.
pub(crate) fn world(stem: &str, options: Options) -> Result<World> {
    World::up(&Options { name: unique_name(stem), ..options }, &mut |_| {})
}

/// What every test with tenants needs.
pub(crate) const TENANTS: &[Need] = &[
    Need::Root,
    Need::Daemons,
    Need::Program("ip", "iproute2"),
    Need::Program("ping", "iputils-ping"),
    Need::Program("curl", "curl"),
    Need::Program("nginx", "nginx-light"),
    Need::Program("python3", "python3"),
    Need::Program("tcpdump", "tcpdump"),
    Need::Program("tshark", "tshark"),
];

/// Makes a world with a tenant a site.
pub(crate) fn with_tenants(stem: &str, options: Options) -> Result<World> {
    let world = world(stem, options)?;
    for site in world.options().clone().sites() {
        tenants::add(&world, &site)?;
    }
    Ok(world)
}

/// Adds what happened on the server to the report of a test that failed.
pub(crate) fn explain(world: &World, result: Result<()>) -> Result<()> {
    result.map_err(|e| e.context(format!("{}--- the failure", world.report())))
}
