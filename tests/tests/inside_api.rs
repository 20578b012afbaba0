//! A tenant's administrator gives it addresses, routes and services from inside, with the same program; what is the
//! operator's, or another tenant's, is refused.

use std::time::Duration;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use system_tests::plan::{Kind, Options, SERVER_INNER_V4, Site};
use system_tests::tenants::{self, sh};
use system_tests::traffic::{page, reachable};
use system_tests::world::{World, eventually};

use crate::floor::{TENANTS, explain, trial, with_tenants};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("inside_api::an_administrator_serves_itself", TENANTS, || inside("inside", itself)),
        trial("inside_api::what_is_not_its_own_is_refused", TENANTS, || inside("refused", others)),
    ]
}

fn inside(stem: &str, check: fn(&World, &[Site]) -> Result<()>) -> Result<()> {
    let options = Options { sites: 2, kinds: vec![Kind::Vxlan, Kind::Gre], ..Options::default() };
    let world = with_tenants(stem, options)?;
    let sites: Vec<Site> = world.options().sites().collect();
    explain(&world, check(&world, &sites))
}

fn itself(world: &World, sites: &[Site]) -> Result<()> {
    let (a, b) = (sites[0].tenant(), sites[1].tenant());
    world.ok(&sites[0].host(), &["ip", "address", "add", "10.7.0.10/16", "dev", "eth0"])?;
    let before = (sh(world, &b, "ip -o address; ip route")?, world.ok("server", &["tenantd", "show", &b])?);
    sh(world, &a, &format!("tenantd add-address {a} 10.7.0.1/16; tenantd add-route {a} 10.8.0.0/16,via=10.7.0.10"))?;
    reachable(world, &sites[0].host(), "10.7.0.1", Duration::from_secs(30))?;
    let seen = sh(world, &a, "ip -o -4 address show dev dev0; ip route")?;
    ensure!(seen.contains("10.7.0.1/16") && seen.contains("10.8.0.0/16"), "{seen}");
    // A second server on another port, by template and by hand.
    sh(
        world,
        &a,
        &format!(
            "tenantd add-service {a} by-hand --ready tcp:8001 -- /usr/bin/python3 -m http.server 8001 --directory /var/www/html"
        ),
    )?;
    for address in ["10.7.0.1", SERVER_INNER_V4] {
        let web = format!("http://{address}:8001/index.html");
        let got =
            eventually("the new service", Duration::from_secs(30), || page(world, &sites[0].host(), &web, &[]).ok())?;
        ensure!(got.trim() == tenants::page(&sites[0]), "{web} says {got:?}");
    }
    sh(
        world,
        &a,
        &format!("tenantd restart-service {a} by-hand; tenantd status {a}; tenantd list; tenantd logs {a} by-hand"),
    )?;
    // The operator sees all of it, and it is kept.
    let show = world.ok("server", &["tenantd", "show", &a, "--json"])?;
    ensure!(show.contains("10.7.0.1/16") && show.contains("10.8.0.0/16") && show.contains("by-hand"), "{show}");
    world.ok("server", &["tenantd", "restart-tenant", &a])?;
    reachable(world, &sites[0].host(), "10.7.0.1", Duration::from_secs(30))?;
    sh(
        world,
        &a,
        &format!(
            "tenantd remove-service {a} by-hand; tenantd remove-address {a} 10.7.0.1/16; tenantd remove-route {a} 10.8.0.0/16"
        ),
    )?;
    let gone = world.exec(&sites[0].host(), &["ping", "-q", "-c", "1", "-W", "1", "10.7.0.1"])?;
    ensure!(!gone.status.success(), "an address that was taken away answers");
    let after = (sh(world, &b, "ip -o address; ip route")?, world.ok("server", &["tenantd", "show", &b])?);
    ensure!(before == after, "the other tenant changed: {before:?}, {after:?}");
    Ok(())
}

fn others(world: &World, sites: &[Site]) -> Result<()> {
    let (a, b) = (sites[0].tenant(), sites[1].tenant());
    let rows = world.ok("server", &["tenantd", "list", "--json"])?;
    let map = sh(world, &a, &format!("tenantd list; tenantd show {a}; tenantd status {a}"))?;
    ensure!(map.contains(&a) && !map.contains(&b), "a sees {map}");
    for line in [
        "map".to_owned(),
        "add-tenant new --address 192.168.1.1/24".to_owned(),
        format!("remove-tenant {a} --force"),
        format!("remove-tenant {b} --force"),
        format!("show {b}"),
        format!("status {b}"),
        format!("add-address {b} 10.7.0.1/16"),
        format!("add-service {b} mine -- /bin/sleep 9"),
        format!("restart-tenant {b}"),
        format!("logs {b} web"),
        format!("set-limits {a} memory=none"),
        format!("set-limits {a} processes=100000"),
        format!("add-tunnel {a} ipip:198.51.100.6"),
        format!("add-tunnel {a} gre:198.51.100.77,key=9"),
        format!("share /root {a}"),
        format!("exec {b} -- id"),
    ] {
        let argv: Vec<&str> = ["tenantd", "exec", &a, "--", "tenantd"].into_iter().chain(line.split(' ')).collect();
        let done = world.exec("server", &argv)?;
        let words = String::from_utf8_lossy(&done.stderr);
        ensure!(!done.status.success() && !words.trim().is_empty(), "{line}: {} {words}", done.status);
    }
    ensure!(world.ok("server", &["tenantd", "list", "--json"])? == rows, "something was changed");
    // Only root inside may ask, and nothing but the tenant's own socket is there.
    let user = ["tenantd", "exec", &a, "--user", "nobody", "--", "tenantd", "status"];
    ensure!(!world.exec("server", &user)?.status.success(), "nobody of the tenant may speak to its API");
    Ok(())
}
