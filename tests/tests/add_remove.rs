//! Row 12: a closed network is added, changed and removed while the others talk, and they lose nothing.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use system_tests::plan::{Kind, Options, SERVER_INNER_V4, SERVER_INNER_V6, Site};
use system_tests::tenants;
use system_tests::traffic::{Pinging, page, reachable, url};
use system_tests::world::World;

use crate::floor::{TENANTS, explain, trial, world};

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("add_remove::others_lose_nothing", TENANTS, others_lose_nothing)]
}

fn others_lose_nothing() -> Result<()> {
    let kinds = vec![Kind::Ipip, Kind::Gre, Kind::Vxlan, Kind::Ipip];
    let world = world("addrm", Options { sites: 4, kinds, ..Options::default() })?;
    explain(&world, check(&world))
}

fn check(world: &World) -> Result<()> {
    let sites: Vec<Site> = world.options().sites().collect();
    let (last, others) = sites.split_last().context("no site")?;
    let mut pings = Vec::new();
    for site in others {
        tenants::add(world, site)?;
        for server in [SERVER_INNER_V4, SERVER_INNER_V6] {
            reachable(world, &site.host(), server, Duration::from_secs(30))?;
            pings.push(Pinging::start(world, &site.host(), server, 800)?);
        }
    }
    for _ in 0..3 {
        tenants::add(world, last)?;
        reachable(world, &last.host(), SERVER_INNER_V4, Duration::from_secs(30))?;
        let got = page(world, &last.host(), &url("http", SERVER_INNER_V4), &["--retry", "5", "--retry-connrefused"])?;
        ensure!(got.trim() == tenants::page(last), "{} was served {got:?}", last.host());
        let (tenant, tunnel) = (last.tenant(), "gre:192.0.2.77,key=7,prefix=10.77.0.0/16");
        world.ok("server", &["tenantd", "add-tunnel", &tenant, tunnel])?;
        world.ok("server", &["tenantd", "remove-tunnel", &tenant, tunnel])?;
        world.ok("server", &["tenantd", "remove-tenant", &tenant, "--force"])?;
        let gone = world.exec(&last.host(), &["ping", "-q", "-c", "1", "-W", "1", SERVER_INNER_V4])?;
        ensure!(!gone.status.success(), "{tenant} answers after its removal");
    }
    for ping in pings {
        ping.all_answered()?;
    }
    Ok(())
}
