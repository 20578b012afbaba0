//! The kernel's vxlan device and a bridge as gateway: what a customer without our software builds. Layer 2: ARP and
//! ND cross the tunnel, and the server's port answers with its own address and nobody else's.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use system_tests::plan::{Kind, Options, Outer, SERVER_INNER_V4, SERVER_INNER_V6};
use system_tests::tenants;
use system_tests::traffic::{Pinging, page, reachable, url};
use system_tests::world::World;

use crate::floor::{Need, explain, trial, with_tenants};

const NEEDS: &[Need] = &[
    Need::Root,
    Need::Daemons,
    Need::Program("ip", "iproute2"),
    Need::Program("ping", "iputils-ping"),
    Need::Program("curl", "curl"),
    Need::Program("nginx", "nginx-light"),
    Need::Program("arping", "iputils-arping"),
];

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("foreign_vxlan::over_v4", NEEDS, || kernel_gateway(Outer::V4)),
        trial("foreign_vxlan::over_v6", NEEDS, || kernel_gateway(Outer::V6)),
    ]
}

fn kernel_gateway(outer: Outer) -> Result<()> {
    let world = with_tenants("vxlan", Options { sites: 2, kinds: vec![Kind::Vxlan], outer, ..Options::default() })?;
    explain(&world, check(&world))
}

fn check(world: &World) -> Result<()> {
    let mut macs = Vec::new();
    for site in world.options().sites() {
        for server in [SERVER_INNER_V4, SERVER_INNER_V6] {
            reachable(world, &site.host(), server, Duration::from_secs(30))?;
            Pinging::start(world, &site.host(), server, 50)?.all_answered()?;
            let got = page(world, &site.host(), &url("http", server), &["--retry", "5", "--retry-connrefused"])?;
            ensure!(got.trim() == tenants::page(&site), "{server} served {got:?} to {}", site.host());
        }
        // It ends with the third answer; only a machine that stands still needs more than two seconds.
        let said = world.ok(&site.host(), &["arping", "-c", "3", "-w", "30", "-I", "eth0", SERVER_INNER_V4])?;
        ensure!(said.contains("Received 3 response(s)"), "ARP through the tunnel: {said}");
        let mac = said.split(['[', ']']).nth(1).context("no address in the answer")?.to_owned();
        ensure!(said.matches(&mac).count() == 3, "answers from several addresses: {said}");
        let nobody = world.exec(&site.host(), &["arping", "-c", "2", "-w", "2", "-I", "eth0", "192.168.1.77"])?;
        ensure!(!nobody.status.success(), "somebody answered ARP for an address nobody has");
        macs.push(mac);
    }
    // The addresses are derived from the VLAN: two tenants never share one.
    ensure!(macs.first() != macs.last(), "two tenants have the address {macs:?}");
    Ok(())
}
