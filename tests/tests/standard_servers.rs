//! Six stock servers in each of three tenants at one address, used from the sites, through the tunnels, by their real
//! clients: nginx (curl), vsftpd (curl, active and passive, and upload, by a user that only that tenant has), dnsmasq
//! (dig), sshd (ssh), PostgreSQL (psql), Redis (redis-cli). First all write, then all read.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use system_tests::plan::{Kind, Options, SERVER_INNER_V4, SERVER_INNER_V6, Site};
use system_tests::tenants::{self, FTP_USER, sh};
use system_tests::traffic::reachable;
use system_tests::world::{World, eventually};

use crate::floor::{Need, explain, trial, world};

const NEEDS: &[Need] = &[
    Need::Root,
    Need::Daemons,
    Need::Program("ip", "iproute2"),
    Need::Program("ping", "iputils-ping"),
    Need::Program("curl", "curl"),
    Need::Program("nginx", "nginx-light"),
    Need::Program("vsftpd", "vsftpd"),
    Need::Program("dnsmasq", "dnsmasq-base"),
    Need::Program("dig", "bind9-dnsutils"),
    Need::Program("sshd", "openssh-server"),
    Need::Program("ssh", "openssh-client"),
    Need::Program("pg_createcluster", "postgresql"),
    Need::Program("psql", "postgresql-client"),
    Need::Program("redis-server", "redis-server"),
    Need::Program("redis-cli", "redis-tools"),
];

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("standard_servers::six_in_three_tenants_at_one_address", NEEDS, || {
        let kinds = vec![Kind::Ipip, Kind::Gre, Kind::Vxlan];
        let world = world("servers", Options { kinds, ..Options::default() })?;
        explain(&world, check(&world))
    })]
}

/// Of every secret of a tenant.
fn word(site: &Site) -> String {
    tenants::ftp_password(site)
}

fn check(world: &World) -> Result<()> {
    let sites: Vec<Site> = world.options().sites().collect();
    for site in &sites {
        tenants::add(world, site)?;
        reachable(world, &site.host(), SERVER_INNER_V4, Duration::from_secs(30))?;
    }
    // Side by side, as their administrators would.
    std::thread::scope(|scope| {
        let adding: Vec<_> = sites.iter().map(|site| scope.spawn(|| servers(world, site))).collect();
        adding.into_iter().try_for_each(|adding| adding.join().ok().context("a thread panicked")?)
    })?;
    for site in &sites {
        write(world, site).with_context(|| site.tenant())?;
    }
    for site in &sites {
        read(world, site).with_context(|| site.tenant())?;
        foreign(world, site, &sites[(usize::from(site.index) + 1) % sites.len()]).with_context(|| site.tenant())?;
    }
    Ok(())
}

fn servers(world: &World, site: &Site) -> Result<()> {
    let (tenant, word) = (site.tenant(), word(site));
    let records = format!("records=who.lan=192.168.1.{}", 100 + site.index);
    let (user, password) = (format!("user={FTP_USER}"), format!("password={word}"));
    let services: [(&str, Vec<&str>); 5] = [
        ("vsftpd", vec![&user, &password]),
        ("openssh", vec![]),
        ("dnsmasq", vec![&records]),
        ("redis", vec![&password]),
        ("postgresql", vec![]),
    ];
    for (template, set) in &services {
        let mut argv = vec!["tenantd", "add-service", &tenant, template, "--template", template];
        for setting in set {
            argv.extend(["--set", setting]);
        }
        world.ok("server", &argv)?;
    }
    let role = format!("create role {FTP_USER} login password '{word}'; create database {FTP_USER} owner {FTP_USER};");
    // One statement a call: a database is not made within a transaction.
    for statement in role.split_inclusive(';').map(str::trim) {
        let argv = ["tenantd", "exec", &tenant, "--user", "postgres", "--", "psql", "-q", "-c", statement];
        world.ok("server", &argv)?;
    }
    Ok(())
}

/// A client on the site's host, in a shell with the tenant's secret in its environment.
fn client(world: &World, site: &Site, word: &str, script: &str) -> Result<String> {
    let (host, home) = (site.host(), format!("HOME=/run/lab/{}", site.host()));
    let script = format!("mkdir -p $HOME; cd $HOME; {script}");
    let words = [format!("WORD={word}"), format!("PGPASSWORD={word}"), format!("REDISCLI_AUTH={word}")];
    world.ok(&host, &["env", &home, &words[0], &words[1], &words[2], "sh", "-ec", &script])
}

const PSQL: &str = "psql -X -A -t -w \"host=192.168.1.1 user=ada dbname=ada connect_timeout=30 sslmode=disable\"";
/// A password is asked for by a program that says it.
const SSH: &str = "printf '#!/bin/sh\\necho \"$WORD\"\\n' >ask; chmod 755 ask; SSH_ASKPASS=$HOME/ask SSH_ASKPASS_REQUIRE=force DISPLAY=:9 \
    ssh -F none -o UserKnownHostsFile=$HOME/known -o StrictHostKeyChecking=accept-new -o ConnectTimeout=30 \
    -o PreferredAuthentications=password -o PubkeyAuthentication=no -o NumberOfPasswordPrompts=1 ada@192.168.1.1";

fn write(world: &World, site: &Site) -> Result<()> {
    let (word, name) = (word(site), site.tenant());
    let run = |script: &str| client(world, site, &word, script);
    run(&format!("echo 'by ftp of {name}' >up; curl -sS -u ada:$WORD -T up ftp://{SERVER_INNER_V4}/up"))?;
    run(&format!("{SSH} \"echo 'by ssh of {name}' >by-ssh\""))?;
    run(&format!("{PSQL} -q -c \"create table t as select '{name}'::text as name\""))?;
    ensure!(run(&format!("redis-cli -h {SERVER_INNER_V4} set name {name}"))?.trim() == "OK", "redis takes a value");
    Ok(())
}

fn read(world: &World, site: &Site) -> Result<()> {
    let (word, name) = (word(site), site.tenant());
    let run = |script: &str| client(world, site, &word, script).map(|said| said.trim().to_owned());
    let same = |what: &str, got: &str, wanted: &str| {
        ensure!(got == wanted, "{what} of {name} says {got:?}, not {wanted:?}");
        Ok(())
    };
    for server in [SERVER_INNER_V4.to_owned(), format!("[{SERVER_INNER_V6}]")] {
        same("nginx", &run(&format!("curl -sS -g http://{server}/"))?, &tenants::page(site))?;
        for mode in ["--ftp-pasv", "-P -"] {
            let got = run(&format!("curl -sS -g -u ada:$WORD {mode} ftp://{server}/up"))?;
            same(&format!("vsftpd {mode}"), &got, &format!("by ftp of {name}"))?;
        }
        let dig = format!("dig +tries=5 +time=5 +short who.lan @{}", server.trim_matches(['[', ']']));
        let record = format!("192.168.1.{}", 100 + site.index);
        same("dnsmasq", &run(&dig)?, &record)?;
        same("dnsmasq over TCP", &run(&format!("{dig} +tcp"))?, &record)?;
    }
    same("sshd", &run(&format!("{SSH} 'hostname; id -un; cat by-ssh'"))?, &format!("{name}\nada\nby ssh of {name}"))?;
    same("PostgreSQL", &run(&format!("{PSQL} -c 'select name from t'"))?, &name)?;
    same("Redis", &run(&format!("redis-cli -h {SERVER_INNER_V4} get name"))?, &name)?;
    // The same user of the same name; the home is this tenant's.
    same("the home", sh(world, &name, "ls /home/ada")?.trim(), "by-ssh\nup")?;
    // Everything is the package's own: what runs, and the files it reads.
    let seen = sh(world, &name, "ps -eo comm | sort -u")?;
    for program in ["nginx", "vsftpd", "dnsmasq", "sshd", "redis-server", "postgres"] {
        ensure!(seen.lines().any(|line| line == program), "no {program} runs in {name}: {seen}");
    }
    Ok(())
}

/// The secrets of another tenant are worth nothing here.
fn foreign(world: &World, site: &Site, other: &Site) -> Result<()> {
    let other = word(other);
    for script in [
        format!("curl -sS --fail -u ada:$WORD ftp://{SERVER_INNER_V4}/up"),
        format!("{SSH} true"),
        format!("{PSQL} -c 'select 1'"),
        format!("redis-cli -e -h {SERVER_INNER_V4} get name"),
    ] {
        let refused =
            eventually("a client ends", Duration::from_secs(1), || Some(client(world, site, &other, &script)))?;
        ensure!(refused.is_err(), "another tenant's secret works: {script}");
    }
    Ok(())
}
