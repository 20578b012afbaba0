//! `add-tenant` from the command to the answered probe, against a shell script that does the same by hand.
//!
//! The loop runs inside the world (`bench __add`, started by `lab exec`): what is timed is one process from its start to
//! its end, the same for both.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use system_tests::world::World;

/// Where the script lies in the world (a private tmpfs).
const SCRIPT: &str = "/run/lab/by-hand.sh";

/// As an operator would who has done it often: no `ip` process a step, the tunnel on a bridge with the tenant's
/// port, as this kernel can, the router's neighbour entry permanent, and an answered probe at the end.
const BY_HAND: &str = r#"set -e
if [ "$1" = remove ]; then
    ip netns delete hand$2
    ip -batch - <<END
link delete vx$2
link delete br$2
END
    exit
fi
ip netns add hand$2
ip -batch - <<END
link add vx$2 type vxlan id $2 local 203.0.113.1 remote 203.0.113.2 dstport 4790
link add br$2 type bridge forward_delay 0
link add p$2 type veth peer name dev0 netns hand$2
link set vx$2 master br$2
link set p$2 master br$2
link set vx$2 up
link set p$2 up
link set br$2 up
END
ip -n hand$2 -batch - <<END
link set lo up
link set dev0 mtu 1450 up
address add 192.168.1.1/24 dev dev0
neigh add 192.168.1.254 lladdr 02:00:5e:00:53:fe dev dev0 nud permanent
route add default via 192.168.1.254
END
# 1: somebody has the address, as duplicate detection puts it.
for try in 1 2 3 4 5; do
    arping -q -D -c 1 -w 1 -I br$2 192.168.1.1 || exit 0
done
exit 1
"#;

/// Times in milliseconds.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Times {
    /// `tenantd add-tenant`.
    pub(crate) ours: Vec<f64>,
    /// The script.
    pub(crate) by_hand: Vec<f64>,
    /// Steps as the last `add-tenant` tells them.
    pub(crate) line: String,
}

/// Runs `count` of each, one after the other, in `world`.
pub(crate) fn measure(world: &World, count: usize) -> Result<Times> {
    fs::write(world.path(SCRIPT), BY_HAND).context("cannot write the script")?;
    let own = std::env::current_exe().context("cannot find the own program")?;
    let said = world.ok("server", &[&own.to_string_lossy(), "__add", &count.to_string()])?;
    serde_json::from_str(said.trim()).with_context(|| format!("bench __add said {said:?}"))
}

/// Inside the world: prints [`Times`] as JSON.
pub(crate) fn inside(count: usize) -> Result<()> {
    let mut times = Times::default();
    for n in 0..count {
        let (name, number) = (format!("timed-{n}"), (1000 + n).to_string());
        let tunnel = format!("ipip:198.51.100.{},local=203.0.113.1", 1 + n % 250);
        let add = ["add-tenant", &name, "--vlan", &number, "--address", "192.168.1.1/24", "--tunnel", &tunnel];
        let (took, said) = timed("tenantd", &add)?;
        times.ours.push(took);
        times.line = said.trim().to_owned();
        timed("tenantd", &["remove-tenant", &name, "--force"])?;
        times.by_hand.push(timed("sh", &[SCRIPT, "add", &number])?.0);
        timed("sh", &[SCRIPT, "remove", &number])?;
    }
    println!("{}", serde_json::to_string(&times)?);
    Ok(())
}

fn timed(program: &str, arguments: &[&str]) -> Result<(f64, String)> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    let started = Instant::now();
    let output = command.output().with_context(|| format!("cannot run {program}"))?;
    let took = started.elapsed().as_secs_f64() * 1e3;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {} -> {}: {errors}", arguments.join(" "), output.status);
    Ok((took, said))
}
