//! Another kernel's `8021q` on the trunk: once in the place of our server, once in the place of our access server.
//! The tags are the interface between the two; each half must work without the other.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use system_tests::plan::{
    Gateway, HOST_INNER_V4, HOST_INNER_V6, HOST_MAC, Kind, Options, Outer, SERVER_INNER_V4, SERVER_INNER_V6, Site,
};
use system_tests::traffic::{Capture, Captured, Pinging, Place, page, reachable, unanswered, url};
use system_tests::uml::{Spec, Uml};
use system_tests::world::{World, eventually};

use crate::daemons::{Daemon, WEB, shell, web};
use crate::floor::{Need, explain, trial, world};

const NEEDS: &[Need] = &[
    Need::Root,
    Need::Daemons,
    Need::Program("ip", "iproute2"),
    Need::Program("ping", "iputils-ping"),
    Need::Program("curl", "curl"),
    Need::Program("python3", "python3"),
    Need::Program("nginx", "nginx-light"),
    Need::Program("tcpdump", "tcpdump"),
    Need::Program("tshark", "tshark"),
    Need::Uml,
];

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("foreign_trunk::in_the_place_of_our_server", NEEDS, || {
            let kinds = vec![Kind::Ipip, Kind::Gre, Kind::Vxlan];
            let world = world("trunk-s", Options { kinds, server: false, ..Options::default() })?;
            instead_of_server(&world)
        }),
        trial("foreign_trunk::in_the_place_of_our_access_server", NEEDS, || {
            let options = Options { sites: 1, server: false, gateway: Gateway::None, ..Options::default() };
            let world = world("trunk-a", options)?;
            instead_of_access_server(&world)
        }),
    ]
}

/// The trunk: the foreign kernel's `vec0` at the other end.
const TRUNK: &str = "uml0";
/// Addresses of the sites that no host has.
const UNSEEN_V4: &str = "192.168.1.77";
const UNSEEN_V6: &str = "fd00:192:168:1::77";
/// How long a command in the foreign kernel may take.
const LIMIT: Duration = Duration::from_secs(120);

/// Boots the kernel with a trunk on which it says nothing yet.
fn boot(world: &World) -> Result<Uml> {
    let script = "mount -t tmpfs run /run
echo 1 >/proc/sys/net/ipv6/conf/vec0/disable_ipv6
ip link set vec0 up";
    Uml::boot(world, &Spec { name: "uml", node: "server", links: &[None], modules: &["ipv6", "8021q"], script })
}

/// Gives the kernel one VLAN device a VLAN, each in a namespace of its own with the same addresses, and in each a web
/// server that names the VLAN.
fn speak(uml: &Uml, vlans: &[u16], v4: &str, v6: &str) -> Result<()> {
    let mut script = format!(
        "set -e
cat >/tmp/web.py <<'END-OF-WEB'
{WEB}
END-OF-WEB
"
    );
    for vlan in vlans {
        script += &format!(
            "ip netns add net{vlan}
ip link add link vec0 name vlan{vlan} type vlan id {vlan}
ip link set vlan{vlan} netns net{vlan}
ip -n net{vlan} link set lo up
ip -n net{vlan} address add {v4}/24 dev vlan{vlan}
ip -n net{vlan} -6 address add {v6}/64 dev vlan{vlan} nodad
ip -n net{vlan} link set vlan{vlan} up
nsenter --net=/run/netns/net{vlan} python3 /tmp/web.py 'foreign {vlan}' &
"
        );
    }
    uml.run(&script, LIMIT)?;
    for vlan in vlans {
        let own = format!("until curl -sS --max-time 3 http://{v4}/; do sleep 0.2; done 2>/dev/null");
        let said = inside(uml, *vlan, &own)?;
        ensure!(said == format!("foreign {vlan}"), "the foreign web server says {said:?}");
    }
    Ok(())
}

/// Runs a command in the foreign kernel's namespace of a VLAN.
fn inside(uml: &Uml, vlan: u16, command: &str) -> Result<String> {
    uml.run(&format!("nsenter --net=/run/netns/net{vlan} sh -c '{command}'"), LIMIT)
}

/// The word after `word`.
fn after<'a>(said: &'a str, word: &str) -> Option<&'a str> {
    said.split_whitespace().skip_while(|w| *w != word).nth(1)
}

fn instead_of_server(world: &World) -> Result<()> {
    let sites: Vec<Site> = world.options().sites().collect();
    let vlans: Vec<u16> = sites.iter().map(Site::vlan).collect();
    let uml = boot(world)?;
    speak(&uml, &vlans, SERVER_INNER_V4, SERVER_INNER_V6)?;
    // The trunk's own kernel has nothing to say there.
    shell(world, "server", &format!("echo 1 >/proc/sys/net/ipv6/conf/{TRUNK}/disable_ipv6"))?;
    let _daemon = Daemon::access_server(TRUNK).start(world)?;
    explain(world, with_our_access_server(world, &uml, &sites))
}

fn with_our_access_server(world: &World, uml: &Uml, sites: &[Site]) -> Result<()> {
    rows(world, uml, sites)?;
    let _webs = sites.iter().map(|site| web(world, &site.host(), &site.host())).collect::<Result<Vec<_>>>()?;
    for site in sites {
        for server in [SERVER_INNER_V4, SERVER_INNER_V6] {
            reachable(world, &site.host(), server, Duration::from_secs(30))?;
        }
    }
    let capture = Capture::start(world, Place::Node("server", TRUNK))?;
    for server in [SERVER_INNER_V4, SERVER_INNER_V6] {
        let pings = sites.iter().map(|site| Pinging::start(world, &site.host(), server, 50));
        for ping in pings.collect::<Result<Vec<_>>>()? {
            ping.all_answered()?;
        }
        for site in sites {
            let got = page(world, &site.host(), &url("http", server), &[])?;
            ensure!(got == format!("foreign {}", site.vlan()), "{} was served {got:?}", site.host());
            let long = page(world, &site.host(), &format!("{}300000", url("http", server)), &[])?;
            ensure!(long.len() == 300_000 && long.starts_with(&got), "{}: {} bytes", site.host(), long.len());
        }
    }
    for site in sites {
        for host in [HOST_INNER_V4, HOST_INNER_V6] {
            let got = inside(uml, site.vlan(), &format!("curl -sS -g --max-time 30 {}", url("http", host)))?;
            ensure!(got == site.host(), "VLAN {} asked {host} and was answered by {got:?}", site.vlan());
        }
    }
    tagged(world, &sites.iter().map(Site::vlan).collect::<Vec<_>>(), &capture.stop(world)?)?;
    answered_for(world, uml, sites)
}

/// The rows of the sites: one that names the server's own Ethernet address, and others where the server takes the one
/// that both sides derive.
fn rows(world: &World, uml: &Uml, sites: &[Site]) -> Result<()> {
    for (number, site) in sites.iter().enumerate() {
        let vlan = site.vlan();
        if number == 0 {
            let said = inside(uml, vlan, &format!("ip -o link show vlan{vlan}"))?;
            let mac = after(&said, "link/ether").with_context(|| said.clone())?;
            let row = serde_json::json!({
                "owner": "operator", "generation": 1, "origin": "operator", "server_mac": mac,
                "tunnels": [{"kind": site.kind.word(), "remote": site.outer(Outer::V4), "key": site.key}],
            });
            let (row, url) = (row.to_string(), format!("http://localhost/v1/vlans/{vlan}"));
            let socket = "/run/access-server/main/api.sock";
            let argv = ["curl", "-sS", "--fail-with-body", "--unix-socket", socket, "-X", "PUT", "--json", &row, &url];
            world.ok("server", &argv)?;
            continue;
        }
        let tunnel = site.server_tunnel(Outer::V4);
        world.ok("server", &["access-server", "put-tunnel", "--vlan", &vlan.to_string(), &tunnel])?;
        let mac = row_field(world, vlan, "server_mac")?;
        inside(uml, vlan, &format!("ip link set vlan{vlan} address {mac}"))?;
    }
    Ok(())
}

fn row_field(world: &World, vlan: u16, field: &str) -> Result<String> {
    let row: Value =
        serde_json::from_str(&world.ok("server", &["access-server", "show", &vlan.to_string(), "--json"])?)?;
    Ok(row[field].as_str().with_context(|| format!("no {field} in {row}"))?.to_owned())
}

/// Every frame has one tag, of a known VLAN, and each VLAN carried something both ways.
fn tagged(world: &World, vlans: &[u16], captured: &Captured) -> Result<()> {
    let frames = captured.packets(world, &["vlan.id", "ip.src", "ipv6.src"])?;
    for frame in &frames {
        let known = vlans.iter().any(|vlan| frame.all("vlan.id") == [vlan.to_string()]);
        ensure!(known, "a frame on the trunk without exactly one tag of ours: {frame:?}");
    }
    for vlan in vlans {
        for (field, address) in [
            ("ip.src", HOST_INNER_V4),
            ("ip.src", SERVER_INNER_V4),
            ("ipv6.src", HOST_INNER_V6),
            ("ipv6.src", SERVER_INNER_V6),
        ] {
            let seen = frames.iter().filter(|f| f.outer("vlan.id") == vlan.to_string() && f.outer(field) == address);
            let count = seen.count();
            ensure!(count >= 50, "VLAN {vlan}: {count} of {} packets from {address}", frames.len());
        }
    }
    Ok(())
}

/// The access server answers ARP and ND on the trunk for the sites behind layer 3 tunnels, also for hosts that nobody
/// has seen, and leaves those behind a layer 2 tunnel to themselves.
fn answered_for(world: &World, uml: &Uml, sites: &[Site]) -> Result<()> {
    for site in sites {
        let vlan = site.vlan();
        let gateway = row_field(world, vlan, "gateway_mac")?;
        let asked = format!("ping -q -c 1 -W 1 {UNSEEN_V4} & ping -q -c 1 -W 1 {UNSEEN_V6} & wait; ip neighbour");
        let look = || -> Result<()> {
            let said = inside(uml, vlan, &asked)?;
            for address in [UNSEEN_V4, UNSEEN_V6, HOST_INNER_V4, HOST_INNER_V6] {
                let entry = said.lines().find(|line| line.starts_with(&format!("{address} "))).unwrap_or_default();
                let expected = match (site.kind, address) {
                    (Kind::Vxlan, UNSEEN_V4 | UNSEEN_V6) => None,
                    (Kind::Vxlan, _) => Some(HOST_MAC),
                    _ => Some(gateway.as_str()),
                };
                ensure!(after(entry, "lladdr") == expected, "VLAN {vlan}: {address} should be at {expected:?}: {said}");
            }
            Ok(())
        };
        // The foreign kernel may be slow: the second it has for a question is not always enough.
        let right = eventually("the right neighbours", Duration::from_secs(30), || look().ok());
        right.or_else(|_| look())?;
    }
    Ok(())
}

fn instead_of_access_server(world: &World) -> Result<()> {
    let vlans = [600, 601];
    // A frame sent while the trunk moves into the patch room fails, and the foreign driver never sends again.
    let uml = boot(world)?;
    let daemon = Daemon::tenantd(TRUNK, "unix:///run/nobody/api.sock");
    let running = daemon.start(world)?;
    speak(&uml, &vlans, HOST_INNER_V4, HOST_INNER_V6)?;
    explain(world, with_our_tenants(world, &uml, &vlans))?;

    // The card stays in the patch room when the daemon dies, and the next one finds it there.
    daemon.kill(world, running)?;
    answers_by_tag(&uml, &vlans)?;
    let _running = daemon.start(world)?;
    explain(world, after_a_restart(world, &uml, &vlans))
}

fn with_our_tenants(world: &World, uml: &Uml, vlans: &[u16]) -> Result<()> {
    ensure!(world.ok("server", &["ip", "link", "show", TRUNK]).is_err(), "the trunk is still outside the patch room");
    for &vlan in vlans {
        let (tenant, number) = (tenant(vlan), vlan.to_string());
        let (v4, v6) = (format!("{SERVER_INNER_V4}/24"), format!("{SERVER_INNER_V6}/64"));
        world
            .ok("server", &["tenantd", "add-tenant", &tenant, "--vlan", &number, "--address", &v4, "--address", &v6])?;
        let body = format!("body={tenant}");
        world.ok("server", &["tenantd", "add-service", &tenant, "web", "--template", "nginx", "--set", &body])?;
        // Both ends derive the gateway's address; what the tenant's stack sends to is what we must be.
        let said = world.ok("server", &["tenantd", "exec", &tenant, "--", "ip", "neighbour", "show", "fe80::1"])?;
        let gateway = after(&said, "lladdr").with_context(|| format!("{tenant} has no neighbour fe80::1: {said:?}"))?;
        inside(uml, vlan, &format!("ip link set vlan{vlan} address {gateway}"))?;
    }
    let refused = world.exec(
        "server",
        &["tenantd", "add-tenant", "other", "--address", "10.0.0.1/8", "--tunnel", "ipip:198.51.100.2"],
    )?;
    let words = String::from_utf8_lossy(&refused.stderr);
    ensure!(refused.status.code() == Some(1) && words.contains("/run/nobody/api.sock"), "{words}");

    let capture = Capture::start(world, Place::Room(TRUNK))?;
    answers_by_tag(uml, vlans)?;
    push(world, vlans)?;
    tagged(world, vlans, &capture.stop(world)?)
}

fn after_a_restart(world: &World, uml: &Uml, vlans: &[u16]) -> Result<()> {
    push(world, vlans)?;
    world.ok("server", &["tenantd", "remove-tenant", &tenant(600), "--force"])?;
    let gone = inside(uml, 600, &format!("ping -q -c 2 -i 0.1 -W 1 {SERVER_INNER_V4} || echo gone"))?;
    ensure!(gone.ends_with("gone\n"), "the removed tenant answers: {gone}");
    answers_by_tag(uml, &[601])
}

fn tenant(vlan: u16) -> String {
    format!("tenant-{vlan}")
}

/// The same address, asked through two tags, is two servers.
fn answers_by_tag(uml: &Uml, vlans: &[u16]) -> Result<()> {
    for vlan in vlans {
        for server in [SERVER_INNER_V4, SERVER_INNER_V6] {
            // With a deadline, or ping waits 10 ms for the last answer; each must have its own.
            let pings = inside(uml, *vlan, &format!("ping -n -c 50 -i 0.01 -w 30 {server}"))?;
            let lost = unanswered(&pings, 50);
            ensure!(lost.is_empty(), "VLAN {vlan}, {server}: {lost:?} are lost: {pings}");
            let got = inside(uml, *vlan, &format!("curl -sS -g --max-time 30 {}", url("http", server)))?;
            ensure!(got.trim() == tenant(*vlan), "VLAN {vlan}: {server} says {got:?}");
        }
    }
    Ok(())
}

/// The tenant opens a connection to the other end of its VLAN.
fn push(world: &World, vlans: &[u16]) -> Result<()> {
    for vlan in vlans {
        for host in [HOST_INNER_V4, HOST_INNER_V6] {
            let (tenant, url) = (tenant(*vlan), url("http", host));
            let argv = ["tenantd", "exec", &tenant, "--", "curl", "-sS", "-g", "--max-time", "15", &url];
            let got = eventually("the connection", Duration::from_secs(30), || world.ok("server", &argv).ok())?;
            ensure!(got == format!("foreign {vlan}"), "{tenant} asked {host} and was answered by {got:?}");
        }
    }
    Ok(())
}
