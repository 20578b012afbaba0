//! Foreign peers: another kernel's own `ipip`, `sit` and keyed `gre` devices as the customer's gateway, and its
//! `8021q` on the trunk. What is not our code proves most.

use std::time::Duration;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use system_tests::plan::{Gateway, Inner, Kind, Options, SERVER_INNER_V4, SERVER_INNER_V6, Site, server_outer};
use system_tests::tenants;
use system_tests::traffic::{Pinging, page, reachable, url};
use system_tests::uml::{Spec, Uml};
use system_tests::world::World;

use crate::floor::{Need, explain, trial, with_tenants};

/// What a test with a foreign kernel needs beside tenants; the slice is spelled out because it is static.
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
        trial("foreign_uml::kernel_ipip_gateway", FOREIGN, || gateway(Kind::Ipip, false)),
        trial("foreign_uml::kernel_gre_gateway", FOREIGN, || gateway(Kind::Gre, false)),
        trial("foreign_uml::kernel_gre_keyed_gateway", FOREIGN, || gateway(Kind::Gre, true)),
    ]
}

fn gateway(kind: Kind, keyed: bool) -> Result<()> {
    let options = Options { sites: 1, kinds: vec![kind], keyed, gateway: Gateway::None, ..Options::default() };
    let world = with_tenants("uml", options)?;
    explain(&world, check_gateway(&world))
}

fn check_gateway(world: &World) -> Result<()> {
    let site = world.options().site(0);
    let script = gateway_script(world.options(), &site);
    let modules = ["ipip", "sit", "ip_gre"];
    let spec = Spec {
        name: "uml",
        node: &site.gw(),
        links: &[Some("lan0"), Some("wan0")],
        modules: &modules,
        script: &script,
    };
    let uml = Uml::boot(world, &spec)?;
    let check = || -> Result<()> {
        for server in [SERVER_INNER_V4, SERVER_INNER_V6] {
            reachable(world, &site.host(), server, Duration::from_secs(60))?;
            Pinging::start(world, &site.host(), server, 100)?.all_answered()?;
            let got = page(world, &site.host(), &url("http", server), &["--retry", "5", "--retry-connrefused"])?;
            ensure!(got.trim() == tenants::page(&site), "{server} served {got:?}");
        }
        Ok(())
    };
    check().map_err(|e| {
        let state = uml.run("ip -s link; ip neighbour; ip route; ip -6 route", Duration::from_secs(60));
        e.context(format!("the foreign kernel:\n{}", state.unwrap_or_else(|e| format!("{e:#}"))))
    })
}

/// The customer's gateway as its administrator would type it on a router with kernel tunnels.
fn gateway_script(options: &Options, site: &Site) -> String {
    let (local, remote) = (site.outer(options.outer), server_outer(options.outer));
    let kind = if site.kind == Kind::Gre { "gre" } else { "sit mode any" };
    let key = site.key.map(|key| format!(" key {key}")).unwrap_or_default();
    assert_eq!(options.inner, Inner::Both, "the script sets up both");
    format!(
        "ip address add {local}/30 dev vec1
ip link set vec1 up
ip route add default via {}
ip address add 192.168.1.254/24 dev vec0
ip -6 address add fd00:192:168:1::fe/64 dev vec0 nodad
ip link set vec0 up
ip link add tun0 type {kind} local {local} remote {remote}{key} ttl 64
ip link set tun0 up
ip route add {SERVER_INNER_V4}/32 dev tun0
ip -6 route add {SERVER_INNER_V6}/128 dev tun0
echo 1 >/proc/sys/net/ipv4/ip_forward
echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
echo 1 >/proc/sys/net/ipv6/conf/vec0/proxy_ndp
ip neighbour add proxy {SERVER_INNER_V4} dev vec0
ip -6 neighbour add proxy {SERVER_INNER_V6} dev vec0
",
        site.internet_v4()
    )
}
