//! A foreign peer: a user-mode-linux kernel as an ordinary process in a node, with the tunnel and 802.1Q devices
//! this machine's kernel may lack.
//!
//! Its root is the machine's file system, read only (hostfs). Each of its devices `vec0`, `vec1`, ... is the far
//! end of a tap in the node, optionally bridged with a device that is there already. Commands are handed over as
//! files in a directory both sides see, because a console echoes and splits lines.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::daemons;
use crate::world::{Running, World, eventually};

/// Boot takes 2 to 8 s; a loaded machine takes longer.
const BOOT: Duration = Duration::from_secs(180);

/// What to boot.
pub struct Spec<'a> {
    /// Name, one to eight characters: its taps are `NAME0`, `NAME1`, ...
    pub name: &'a str,
    /// Node it runs in.
    pub node: &'a str,
    /// For each of its devices: the device of the node it is bridged with, or `None` for a bare tap.
    pub links: &'a [Option<&'a str>],
    /// Kernel modules it loads (`ipip`, `ip_gre`, `sit`, `ip6_tunnel`, `8021q`, ...).
    pub modules: &'a [&'a str],
    /// Shell commands that configure it; each must succeed.
    pub script: &'a str,
}

/// A running kernel. It ends with the value.
pub struct Uml {
    _process: Running,
    /// The shared directory as this machine sees it.
    shared: PathBuf,
    commands: std::cell::Cell<u32>,
}

/// Why a user-mode-linux cannot run here, if so.
#[must_use]
pub fn missing() -> Option<String> {
    let found =
        |program: &str| ["/usr/bin", "/usr/sbin", "/bin", "/sbin"].iter().any(|d| Path::new(d).join(program).exists());
    if !found("linux.uml") {
        return Some("linux.uml is not installed (package user-mode-linux)".into());
    }
    if !found("modprobe") {
        return Some("modprobe is not installed (package kmod)".into());
    }
    if !Path::new("/dev/net/tun").exists() {
        return Some("no /dev/net/tun: this kernel has no tap devices".into());
    }
    None
}

impl Uml {
    /// Boots it and runs its script.
    ///
    /// # Errors
    /// A tap cannot be made, the kernel does not come up, a module or a line of the script fails: with the
    /// end of its console.
    pub fn boot(world: &World, spec: &Spec<'_>) -> Result<Self> {
        let inside = format!("{}/uml/{}", daemons::DIR, spec.name);
        let shared = world.path(&inside);
        fs::create_dir_all(&shared).with_context(|| format!("cannot make {}", shared.display()))?;
        fs::write(shared.join("init"), init(spec, &inside))?;
        fs::set_permissions(shared.join("init"), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        world.ok(spec.node, &["sh", "-ec", &taps(spec)]).context("cannot make taps")?;
        let mut line = format!(
            "exec linux.uml mem=128M root=/dev/root rootfstype=hostfs rootflags=/ ro init={inside}/init quiet \
             con0=fd:0,fd:1 con=null"
        );
        for number in 0..spec.links.len() {
            line += &format!(" vec{number}:transport=tap,ifname={}{number}", spec.name);
        }
        // The kernel keeps its memory in a file in TMPDIR: a tmpfs of the world, which vanishes with it.
        line = format!("export TMPDIR={}; {line} >{inside}/console 2>&1 </dev/null", daemons::DIR);
        let process = world.spawn(spec.node, &["sh", "-c", &line])?;
        let uml = Self { _process: process, shared, commands: std::cell::Cell::new(0) };
        let state = eventually("user-mode-linux up", BOOT, || {
            let state = fs::read_to_string(uml.shared.join("state")).ok()?;
            state.ends_with('\n').then_some(state)
        });
        match state.as_deref().map(str::trim) {
            Ok("up") => Ok(uml),
            Ok(failed) => bail!("user-mode-linux {}: {failed}\n{}", spec.name, uml.console()),
            Err(e) => bail!("{e}\n{}", uml.console()),
        }
    }

    /// Runs a shell command in it; returns what it wrote.
    ///
    /// # Errors
    /// It failed, or did not end within `limit`.
    pub fn run(&self, command: &str, limit: Duration) -> Result<String> {
        let number = self.commands.get();
        self.commands.set(number + 1);
        let file = |what: &str| self.shared.join(format!("{number}.{what}"));
        fs::write(file("new"), command)?;
        fs::rename(file("new"), file("cmd"))?;
        let started = Instant::now();
        let code = eventually(&format!("{command:?} in user-mode-linux"), limit, || {
            fs::read_to_string(file("rc")).ok().filter(|rc| rc.ends_with('\n'))
        })?;
        let output = String::from_utf8_lossy(&fs::read(file("out")).unwrap_or_default()).into_owned();
        if code.trim() != "0" {
            bail!("in user-mode-linux: {command} -> {} after {:?}\n{output}", code.trim(), started.elapsed());
        }
        Ok(output)
    }

    /// What its console showed.
    #[must_use]
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.shared.join("console")).unwrap_or_default()).into_owned()
    }
}

fn taps(spec: &Spec<'_>) -> String {
    let mut script = String::new();
    for (number, link) in spec.links.iter().enumerate() {
        let tap = format!("{}{number}", spec.name);
        script += &format!("ip tuntap add {tap} mode tap\nip link set {tap} up\n");
        if let Some(device) = link {
            // The node hands the device over whole: its addresses are the foreign kernel's now.
            script += &format!(
                "ip link add b-{tap} type bridge mcast_snooping 0\nip link set {tap} master b-{tap}\n\
                 ip address flush dev {device}\nip link set {device} master b-{tap}\nip link set {device} up\nip link set b-{tap} up\n"
            );
        }
    }
    script
}

fn init(spec: &Spec<'_>, shared: &str) -> String {
    let modules = spec.modules.join(" ");
    let script = spec.script;
    format!(
        r#"#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /tmp
mkdir -p /tmp/kernel/lib /tmp/shared
mount -t hostfs none /tmp/shared -o {shared} || exit 1
fail() {{ echo "failed: $1" >/tmp/shared/state; sleep 1000; }}
ln -s /usr/lib/uml/modules /tmp/kernel/lib/modules
for module in {modules}; do
  modprobe -d /tmp/kernel $module || fail "module $module"
done
ip link set lo up
cat >/tmp/script <<'END-OF-SCRIPT'
{script}
END-OF-SCRIPT
sh -ex /tmp/script || fail "script"
echo up >/tmp/shared/state
next=0
while :; do
  if [ -e /tmp/shared/$next.cmd ]; then
    sh /tmp/shared/$next.cmd >/tmp/shared/$next.out 2>&1 </dev/null
    echo $? >/tmp/shared/$next.rc
    next=$((next + 1))
  else
    sleep 0.05
  fi
done
"#
    )
}
