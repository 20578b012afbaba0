//! An image of a whole distribution: its package manager works in a tenant, from a repository at a site of that tenant,
//! and changes that tenant only.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::{Completion, Failed, Trial};
use system_tests::plan::{Kind, Options, SERVER_INNER_V4};
use system_tests::traffic::reachable;
use system_tests::world::{World, eventually};

use crate::floor::{Need, explain, world};

const NEEDS: &[Need] = &[
    Need::Root,
    Need::Daemons,
    Need::Program("ip", "iproute2"),
    Need::Program("ping", "iputils-ping"),
    Need::Program("debootstrap", "debootstrap"),
    Need::Program("python3", "python3"),
    Need::Program("dpkg-deb", "dpkg"),
];

/// Where the smallest system is taken from.
pub(crate) const MIRROR: &str = "http://deb.debian.org/debian";

pub(crate) fn trials() -> Vec<Trial> {
    vec![Trial::ignorable_test("images::apt_get_installs_from_a_site_into_one_tenant", || {
        if let Some(reason) = NEEDS.iter().find_map(|need| need.missing()) {
            return Ok(Completion::ignored_with(reason));
        }
        if !mirror_answers() {
            return Ok(Completion::ignored_with(format!("{MIRROR} does not answer")));
        }
        apt().map(|()| Completion::Completed).map_err(|e| Failed::from(format!("{e:#}")))
    })]
}

pub(crate) fn mirror_answers() -> bool {
    let release = format!("{MIRROR}/dists/bookworm/InRelease");
    let asked = Command::new("curl").args(["-sfo", "/dev/null", "-m", "20", &release]).status();
    asked.is_ok_and(|status| status.success())
}

fn apt() -> Result<()> {
    let work = tempfile::tempdir()?;
    let tarball = distribution(work.path())?;
    let repository = work.path().join("repository");
    package(&repository)?;
    let world = world("apt", Options { sites: 2, kinds: vec![Kind::Ipip], ..Options::default() })?;
    explain(&world, check(&world, &tarball, &repository))
}

/// The smallest system, made here: the server of a world has no way to the internet.
fn distribution(work: &Path) -> Result<String> {
    let (tree, tarball) = (work.join("tree"), work.join("bookworm.tar"));
    run(Command::new("debootstrap").args(["--variant=minbase", "bookworm"]).arg(&tree).arg(MIRROR))?;
    run(Command::new("tar").arg("-C").arg(&tree).args(["--numeric-owner", "--xattrs", "-cf"]).arg(&tarball).arg("."))?;
    std::fs::remove_dir_all(&tree)?;
    Ok(tarball.display().to_string())
}

/// Runs a command that must succeed.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let done = command.output().with_context(|| format!("{command:?}"))?;
    let tail: Vec<_> = String::from_utf8_lossy(&done.stdout).lines().rev().take(5).map(str::to_owned).collect();
    ensure!(done.status.success(), "{command:?}: {tail:?} {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

/// A repository with one package, whose set-up writes as root.
fn package(repository: &Path) -> Result<()> {
    let tree = repository.join("tree");
    std::fs::create_dir_all(tree.join("DEBIAN"))?;
    std::fs::create_dir_all(tree.join("usr/bin"))?;
    let control = "Package: site-tool\nVersion: 1.0\nArchitecture: all\nMaintainer: A Customer <root@localhost>\n\
                   Description: comes from the customer's own repository\n";
    std::fs::write(tree.join("DEBIAN/control"), control)?;
    std::fs::write(
        tree.join("DEBIAN/postinst"),
        "#!/bin/sh\nset -e\nuseradd --system site-tool\nid site-tool >/etc/site-tool\n",
    )?;
    std::fs::write(tree.join("usr/bin/site-tool"), "#!/bin/sh\necho the tool of the site\n")?;
    for file in ["DEBIAN/postinst", "usr/bin/site-tool"] {
        std::fs::set_permissions(tree.join(file), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    }
    let archive = repository.join("site-tool.deb");
    run(Command::new("dpkg-deb").args(["--root-owner-group", "-b"]).arg(&tree).arg(&archive))?;
    let sum = Command::new("sha256sum").arg(&archive).output()?;
    let sum = String::from_utf8_lossy(&sum.stdout).split(' ').next().unwrap_or_default().to_owned();
    let size = std::fs::metadata(&archive)?.len();
    let index = format!("{control}Filename: ./site-tool.deb\nSize: {size}\nSHA256: {sum}\n\n");
    Ok(std::fs::write(repository.join("Packages"), index)?)
}

fn check(world: &World, tarball: &str, repository: &Path) -> Result<()> {
    let (a, b) = (world.options().site(0), world.options().site(1));
    let (one, other) = (a.tenant(), b.tenant());
    world.ok("server", &["tenantd", "image", "import", "bookworm", tarball])?;
    for site in [&a, &b] {
        let mut add = system_tests::tenants::add_tenant(world.options(), site);
        add.extend(["--image", "bookworm"].map(str::to_owned));
        world.ok("server", &add.iter().map(String::as_str).collect::<Vec<_>>())?;
        reachable(world, &site.host(), SERVER_INNER_V4, Duration::from_secs(30))?;
    }
    let directory = repository.display().to_string();
    let host = a.host();
    let _repository = world.spawn(&host, &["python3", "-m", "http.server", "8000", "--directory", &directory])?;
    let address = "192.168.1.10";
    let inside =
        |tenant: &str, script: &str| world.ok("server", &["tenantd", "exec", tenant, "--", "sh", "-ec", script]);
    let sources = format!("echo 'deb [trusted=yes] http://{address}:8000 ./' >/etc/apt/sources.list");
    inside(&one, &sources)?;
    // The repository may not listen yet, which apt-get does not call a failure.
    eventually("apt-get update", Duration::from_secs(120), || {
        inside(&one, "apt-get -o Acquire::Retries=0 -qq update; apt-cache show site-tool").ok()
    })?;
    inside(&one, "DEBIAN_FRONTEND=noninteractive apt-get -qq install -y site-tool")?;
    let said = inside(&one, "site-tool; cat /etc/site-tool; dpkg -l site-tool | tail -n 1")?;
    ensure!(said.contains("the tool of the site") && said.contains("(site-tool)") && said.contains("ii "), "{said}");
    // The other tenant on the same image knows nothing of it, nor does the image.
    let absent =
        "! command -v site-tool; test ! -e /etc/site-tool; ! grep -q site-tool /etc/passwd; ! dpkg -s site-tool";
    inside(&other, absent)?;
    // It is there after a restart, and the image cannot go while tenants stand on it.
    world.ok("server", &["tenantd", "restart-tenant", &one])?;
    ensure!(inside(&one, "site-tool")?.contains("the tool of the site"), "forgotten by the restart");
    let refused = world.exec("server", &["tenantd", "image", "remove", "bookworm"])?;
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    if refused.status.success() || !words.contains(&one) {
        bail!("an image that is used was removed, or nobody is named: {words}");
    }
    for tenant in [&one, &other] {
        world.ok("server", &["tenantd", "remove-tenant", tenant, "--force"])?;
    }
    world.ok("server", &["tenantd", "image", "remove", "bookworm"]).map(drop)
}
