//! Claims 1 and 4 in their physical form: a network card given whole to a tenant instead of a port on the trunk.

use std::time::Duration;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use system_tests::plan::Options;
use system_tests::traffic::reachable;

use crate::floor::{TENANTS, explain, trial, world};

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("device::a_card_given_whole", TENANTS, a_card_given_whole)]
}

fn a_card_given_whole() -> Result<()> {
    let world = world("device", Options { sites: 1, ..Options::default() })?;
    let check = || -> Result<()> {
        let server = |command: &str| world.ok("server", &command.split(' ').collect::<Vec<_>>());
        // A cable between host-a and a second card of the server.
        server("ip link add nic0 type veth peer name cable netns host-a")?;
        server("ip link set nic0 up")?;
        for command in
            ["ip addr add 192.168.1.10/24 dev cable", "ip link set cable up", "ip addr del 192.168.1.10/24 dev eth0"]
        {
            world.ok("host-a", &command.split(' ').collect::<Vec<_>>())?;
        }
        let said = server("tenantd add-tenant card --address 192.168.1.1/24 --device nic0")?;
        ensure!(said.contains("nic0"), "{said}");
        reachable(&world, "host-a", "192.168.1.1", Duration::from_secs(30))?;
        let map = server("tenantd map lower")?;
        ensure!(map.contains("(inet0, nic0) <-> nic0"), "{map}");
        ensure!(world.ok("server", &["ip", "link", "show", "nic0"]).is_err(), "the card is still the host's");

        let twice = world
            .exec("server", &["tenantd", "add-tenant", "second", "--address", "10.0.0.1/8", "--device", "nic0"])?;
        let words = String::from_utf8_lossy(&twice.stderr).into_owned();
        ensure!(twice.status.code() == Some(1) && words.contains("nic0") && words.contains("card"), "{words}");
        let unknown = world
            .exec("server", &["tenantd", "add-tenant", "second", "--address", "10.0.0.1/8", "--device", "nic9"])?;
        let words = String::from_utf8_lossy(&unknown.stderr).into_owned();
        ensure!(unknown.status.code() == Some(1) && words.contains("nic9"), "{words}");

        // A daemon that starts anew finds it; the card comes back when the tenant goes.
        server("tenantd add-service card sleeper -- sleep 1000")?;
        let refused = world.exec("server", &["tenantd", "remove-tenant", "card"])?;
        ensure!(refused.status.code() == Some(1), "removed although a process runs");
        server("tenantd remove-tenant card --force")?;
        server("ip link show nic0")?;
        Ok(())
    };
    explain(&world, check())
}
