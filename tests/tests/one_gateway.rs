//! Several customers behind one public address: the key of a GRE tunnel and the VNI of a VXLAN tunnel tell them apart,
//! although everything else, outside and inside, is the same.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use system_tests::plan::{
    Gateway, HOST_INNER_V4, HOST_INNER_V6, Kind, Options, Outer, SERVER_INNER_V4, SERVER_INNER_V6, Site, server_outer,
};
use system_tests::traffic::{page, reachable, url};
use system_tests::uml::{Spec, Uml};
use system_tests::world::World;

use crate::daemons::{shell, vxlan_gateway};
use crate::floor::{Need, TENANTS, explain, trial, world};

/// What the test with a foreign kernel needs; the slice is spelled out because it is static.
const FOREIGN: &[Need] = &[
    Need::Root,
    Need::Daemons,
    Need::Program("ip", "iproute2"),
    Need::Program("ping", "iputils-ping"),
    Need::Program("curl", "curl"),
    Need::Program("nginx", "nginx-light"),
    Need::Uml,
];

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("one_gateway::vni_tells_customers_apart", TENANTS, by_vni),
        trial("one_gateway::gre_key_tells_customers_apart", FOREIGN, by_gre_key),
    ]
}

/// The customers: tenant, GRE key or VNI, host.
const CUSTOMERS: [(&str, u32, &str); 2] = [("red", 7, "host-a"), ("blue", 8, "host-b")];

/// A world where both hosts are behind `gw-a`: host-a at its `lan0`, host-b at its `lan1`.
fn two_behind_one(stem: &str, kind: Kind) -> Result<(World, Site)> {
    let options = Options { sites: 2, kinds: vec![kind], gateway: Gateway::None, ..Options::default() };
    let world = world(stem, options)?;
    let gateway = world.options().site(0);
    shell(
        &world,
        "server",
        &format!(
            "ip -n host-b link del eth0
ip link add lan1 netns gw-a type veth peer name eth0 netns host-b
ip -n gw-a link set lan1 up
ip -n host-b link set eth0 up
ip -n host-b address add {HOST_INNER_V4}/24 dev eth0
ip -n host-b -6 address add {HOST_INNER_V6}/64 dev eth0 nodad"
        ),
    )?;
    Ok((world, gateway))
}

fn by_vni() -> Result<()> {
    let (world, site) = two_behind_one("vni", Kind::Vxlan)?;
    let [(_, first, _), (_, second, _)] = CUSTOMERS;
    vxlan_gateway(&world, &site.gw(), &[("lan0", first), ("lan1", second)], &site.outer(Outer::V4))?;
    explain(&world, served(&world, &site))
}

fn by_gre_key() -> Result<()> {
    let (world, site) = two_behind_one("grekey", Kind::Gre)?;
    let (local, remote) = (site.outer(Outer::V4), server_outer(Outer::V4));
    let mut script = format!(
        "mount -t tmpfs run /run
ip address add {local}/30 dev vec2
ip link set vec2 up
ip route add default via {}
",
        site.internet_v4()
    );
    // Each customer has a room of its own in the gateway; the tunnels' outer packets meet in the first one.
    for (number, (name, key, _)) in CUSTOMERS.iter().enumerate() {
        script += &format!(
            "ip netns add {name}
ip link add tun{key} type gre local {local} remote {remote} key {key} ttl 64
ip link set tun{key} netns {name}
ip link set vec{number} netns {name}
cat >/tmp/{name} <<'END-OF-ROOM'
ip link set lo up
ip address add 192.168.1.254/24 dev vec{number}
ip -6 address add fd00:192:168:1::fe/64 dev vec{number} nodad
ip link set vec{number} up
ip link set tun{key} up
ip route add {SERVER_INNER_V4}/32 dev tun{key}
ip -6 route add {SERVER_INNER_V6}/128 dev tun{key}
echo 1 >/proc/sys/net/ipv4/ip_forward
echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
echo 1 >/proc/sys/net/ipv6/conf/vec{number}/proxy_ndp
ip neighbour add proxy {SERVER_INNER_V4} dev vec{number}
ip -6 neighbour add proxy {SERVER_INNER_V6} dev vec{number}
END-OF-ROOM
nsenter --net=/run/netns/{name} sh -ex /tmp/{name}
"
        );
    }
    let links = [Some("lan0"), Some("lan1"), Some("wan0")];
    let spec = Spec { name: "uml", node: &site.gw(), links: &links, modules: &["ipv6", "ip_gre"], script: &script };
    let _uml = Uml::boot(&world, &spec)?;
    explain(&world, served(&world, &site))
}

/// Each host reaches its own server, and a key that nobody has reaches none.
fn served(world: &World, site: &Site) -> Result<()> {
    let tunnel = |key: u32| format!("{}:{},key={key}", site.kind.word(), site.outer(Outer::V4));
    for (name, key, _) in CUSTOMERS {
        let (v4, v6) = (format!("{SERVER_INNER_V4}/24"), format!("{SERVER_INNER_V6}/64"));
        let argv = ["tenantd", "add-tenant", name, "--address", &v4, "--address", &v6, "--tunnel", &tunnel(key)];
        world.ok("server", &argv)?;
        let body = format!("body={name}");
        world.ok("server", &["tenantd", "add-service", name, "web", "--template", "nginx", "--set", &body])?;
    }
    both_reach_their_own(world)?;
    // The same address with a key that is bound: told whose it is.
    let (owner, key, _) = CUSTOMERS[0];
    let argv = ["tenantd", "add-tenant", "green", "--address", "192.168.1.1/24", "--tunnel", &tunnel(key)];
    let refused = world.exec("server", &argv)?;
    let words = String::from_utf8_lossy(&refused.stderr);
    ensure!(refused.status.code() == Some(1) && words.contains(owner), "{words}");
    // The other customer's tunnel goes: its packets are dropped by name, and the first one's go on.
    let (gone, key, host) = CUSTOMERS[1];
    world.ok("server", &["tenantd", "remove-tunnel", gone, &tunnel(key)])?;
    let lost = world.exec(host, &["ping", "-q", "-c", "3", "-i", "0.1", "-W", "1", SERVER_INNER_V4])?;
    ensure!(!lost.status.success(), "{host} is answered without a tunnel");
    let rows: Value = serde_json::from_str(&world.ok("server", &["access-server", "counters", "--json"])?)?;
    let nobody = rows.as_array().into_iter().flatten().find(|row| row["vlan"] == 0).context("no VLAN 0")?;
    ensure!(nobody["drops"]["unknown_key"].as_u64() >= Some(1), "no unknown_key in {nobody}");
    world.ok("server", &["tenantd", "add-tunnel", gone, &tunnel(key)])?;
    both_reach_their_own(world)
}

fn both_reach_their_own(world: &World) -> Result<()> {
    for server in [SERVER_INNER_V4, SERVER_INNER_V6] {
        for (_, _, host) in CUSTOMERS {
            reachable(world, host, server, Duration::from_secs(30))?;
        }
        // Asked in turns, each with the other's question just before.
        for _ in 0..5 {
            for (name, _, host) in CUSTOMERS {
                let got = page(world, host, &url("http", server), &["--retry", "5", "--retry-connrefused"])?;
                ensure!(got.trim() == name, "{host} asked {server}, {got:?} answered");
            }
        }
    }
    Ok(())
}
