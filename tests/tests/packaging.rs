//! The Debian package: made twice with the same bytes, installed, upgraded, removed and purged in a small system of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::{Completion, Failed, Trial};
use system_tests::plan::{Gateway, Options};
use system_tests::world::bin_dir;

use crate::floor::{Need, explain, trial, world};
use crate::images::{MIRROR, mirror_answers, run};

const SCRIPT: &str = include_str!("../peers/packaging.sh");

const MAKE: &[Need] =
    &[Need::Daemons, Need::Program("dpkg-deb", "dpkg"), Need::Program("man", "man-db"), Need::Program("bash", "bash")];

const NEEDS: &[Need] = &[
    Need::Root,
    Need::Daemons,
    Need::Program("ip", "iproute2"),
    Need::Program("debootstrap", "debootstrap"),
    Need::Program("dpkg-deb", "dpkg"),
    Need::Program("unshare", "util-linux"),
];

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("packaging::is_the_same_twice_and_whole", MAKE, same_twice),
        Trial::ignorable_test("packaging::installs_upgrades_and_goes", || {
            if let Some(reason) = NEEDS.iter().find_map(|need| need.missing()) {
                return Ok(Completion::ignored_with(reason));
            }
            if !mirror_answers() {
                return Ok(Completion::ignored_with(format!("{MIRROR} does not answer")));
            }
            lifecycle().map(|()| Completion::Completed).map_err(|e| Failed::from(format!("{e:#}")))
        }),
    ]
}

/// The package of what was built, under a version of the caller's choice.
fn package(out: &Path, version: &str) -> Result<PathBuf> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/deb.sh");
    let mut make = Command::new(script);
    make.args(["--version", version, "--bin"]).arg(bin_dir()?).arg("--out").arg(out);
    make.env("SOURCE_DATE_EPOCH", "1700000000");
    let output = make.output().context("cannot run deb.sh")?;
    ensure!(output.status.success(), "deb.sh: {}", String::from_utf8_lossy(&output.stderr));
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
}

fn same_twice() -> Result<()> {
    let work = tempfile::tempdir()?;
    let first = package(&work.path().join("one"), "0.1.0")?;
    let second = package(&work.path().join("two"), "0.1.0")?;
    ensure!(std::fs::read(&first)? == std::fs::read(&second)?, "two packages of the same programs differ");
    let tree = work.path().join("tree");
    run(Command::new("dpkg-deb").arg("-R").arg(&first).arg(&tree))?;
    // Every verb that is shown has a page, and man can read all of them.
    for program in ["tenantd", "access-server"] {
        let help = Command::new(bin_dir()?.join(program)).arg("--help").output()?;
        let help = String::from_utf8(help.stdout)?;
        let (_, rest) = help.split_once("Commands:\n").context("no list of verbs")?;
        let verbs = rest
            .lines()
            .take_while(|line| line.starts_with("  "))
            .filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next().filter(|_| !line.starts_with("   ")));
        let mut pages = 0;
        for verb in verbs.filter(|verb| *verb != "help") {
            let page = tree.join(format!("usr/share/man/man8/{program}-{verb}.8.gz"));
            let shown = Command::new("man").args(["--warnings", "-l"]).arg(&page).env("MANPAGER", "cat").output()?;
            let complaints = String::from_utf8_lossy(&shown.stderr).into_owned();
            ensure!(shown.status.success() && complaints.is_empty(), "{}: {complaints}", page.display());
            ensure!(String::from_utf8_lossy(&shown.stdout).contains("SYNOPSIS"), "{}", page.display());
            pages += 1;
        }
        ensure!(pages >= 9, "{program}: {pages} pages");
        let completion = tree.join(format!("usr/share/bash-completion/completions/{program}"));
        run(Command::new("bash").arg("-n").arg(&completion))?;
        // As bash would ask: the second word of `PROGRAM sta<TAB>`.
        let asked = format!(
            "source {}; COMP_WORDS=({program} sta); COMP_CWORD=1; _{} {program} sta {program}; echo \"${{COMPREPLY[@]}}\"",
            completion.display(),
            program.replace('-', "__")
        );
        let answer = Command::new("bash").args(["-c", &asked]).output()?;
        let answer = String::from_utf8_lossy(&answer.stdout).into_owned();
        ensure!(answer.contains("status"), "completion of {program}: {answer:?}");
    }
    Ok(())
}

fn lifecycle() -> Result<()> {
    let work = tempfile::tempdir()?;
    let tree = work.path().join("tree");
    let system = || {
        // What a broken download left; absent is as good as removed.
        let _ = std::fs::remove_dir_all(&tree);
        run(Command::new("debootstrap")
            .args(["--variant=minbase", "--include=procps,init-system-helpers", "bookworm"])
            .arg(&tree)
            .arg(MIRROR))
    };
    // The way to the mirror is not what is tested.
    system().or_else(|_| system()).or_else(|_| system())?;
    let (old, new) = (package(work.path(), "0.1.0")?, package(work.path(), "0.1.1")?);
    let options = Options { sites: 1, server: false, gateway: Gateway::None, ..Options::default() };
    let world = world("package", options)?;
    let argv = ["unshare", "--mount", "--pid", "--fork", "sh", "-c", SCRIPT, "packaging"];
    let places = [&tree, &old, &new].map(|path| path.display().to_string());
    let argv: Vec<&str> = argv.into_iter().chain(places.iter().map(String::as_str)).collect();
    let said = world.ok("server", &argv);
    explain(
        &world,
        said.and_then(|said| {
            for stage in ["installed", "tenant", "upgraded", "removed", "purged"] {
                ensure!(said.contains(&format!("shown: {stage}\n")), "{stage} was not shown: {said}");
            }
            Ok(())
        }),
    )
}
