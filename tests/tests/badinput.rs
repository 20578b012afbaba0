//! Bad input gets a clear error that names field, value and rule, with the right exit code; nothing is changed and no
//! packet of a tenant is lost.
//!
//! Through the real programs. What cannot be brought about here (an old kernel) is tested where it is checked.

use std::os::unix::net::UnixStream;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use system_tests::plan::{Gateway, Options, SERVER_INNER_V4};
use system_tests::traffic::{Pinging, reachable};
use system_tests::world::{World, eventually};

use crate::floor::{TENANTS, WORLD, explain, trial, with_tenants, world};

/// A command line, its exit code, and words its complaint must have.
type Case = (&'static str, i32, &'static [&'static str]);

/// Stands for an address that is fine, so that the case is about something else.
const ADDRESS: &str = "--address 192.168.1.1/24";
/// Root's commands as a user who is nobody and in no group.
const AS_NOBODY: &str = "setpriv --reuid 65534 --regid 65534 --clear-groups";

/// What a tenant may be called, have and want. `{49}` is a name one too long, `{A}` an address that is fine.
const VALUES: &[Case] = &[
    ("tenantd add-tenant Bad_Name {A}", 2, &["name", "\"Bad_Name\"", "DNS label"]),
    ("tenantd add-tenant -x {A}", 2, &["-x"]),
    ("tenantd add-tenant x- {A}", 2, &["name", "\"x-\"", "DNS label"]),
    ("tenantd add-tenant {49} {A}", 2, &["name", "{49}", "at most 48"]),
    ("tenantd add-tenant n {A} --vlan 0", 2, &["vlan", "\"0\"", "1..=4094"]),
    ("tenantd add-tenant n {A} --vlan 4095", 2, &["vlan", "\"4095\"", "1..=4094"]),
    ("tenantd add-tenant n {A} --vlan six", 2, &["vlan", "\"six\"", "1..=4094"]),
    ("tenantd add-tenant n {A} --vlan=-1", 2, &["vlan", "\"-1\"", "1..=4094"]),
    ("tenantd add-tenant n", 2, &["--address"]),
    ("tenantd add-tenant n --address 192.168.1.1", 2, &["address", "\"192.168.1.1\"", "CIDR"]),
    ("tenantd add-tenant n --address 192.168.1.1/33", 2, &["address", "192.168.1.1/33", "CIDR"]),
    ("tenantd add-tenant n --address 192.168.1.0/24", 2, &["address", "192.168.1.0/24", "network address"]),
    ("tenantd add-tenant n --address 192.168.1.255/24", 2, &["address", "192.168.1.255/24", "broadcast"]),
    ("tenantd add-tenant n --address 224.0.0.1/24", 2, &["address", "224.0.0.1/24", "multicast"]),
    ("tenantd add-tenant n --address ff02::5/64", 2, &["address", "ff02::5/64", "multicast"]),
    ("tenantd add-tenant n --address fd00::/64", 2, &["address", "fd00::/64", "network address"]),
    ("tenantd add-tenant n --address 127.0.0.1/8", 2, &["address", "127.0.0.1/8", "loopback"]),
    ("tenantd add-tenant n {A} {A}", 2, &["address", "192.168.1.1/24", "twice"]),
    ("tenantd add-tenant n {A} --gid 5", 2, &["gid", "\"5\"", "multiple of 65536"]),
    ("tenantd add-tenant n {A} --device a/b", 2, &["device", "a/b", "device name"]),
    ("tenantd add-tenant n {A} --device nosuch", 1, &["device", "nosuch", "no such network card"]),
    ("tenantd add-tenant n {A} --tunnel ipip", 2, &["tunnel", "\"ipip\"", "KIND:REMOTE"]),
    ("tenantd add-tenant n {A} --tunnel foo:198.51.100.9", 2, &["kind", "\"foo\"", "ipip, gre or vxlan"]),
    ("tenantd add-tenant n {A} --tunnel ipip:there", 2, &["remote", "\"there\"", "address"]),
    ("tenantd add-tenant n {A} --tunnel ipip:0.0.0.0", 2, &["remote", "0.0.0.0", "unspecified"]),
    ("tenantd add-tenant n {A} --tunnel ipip:198.51.100.9,key=5", 2, &["key", "\"5\"", "ipip has no key"]),
    ("tenantd add-tenant n {A} --tunnel vxlan:198.51.100.9", 2, &["key", "VNI"]),
    ("tenantd add-tenant n {A} --tunnel vxlan:198.51.100.9,key=16777216", 2, &["key", "16777216", "24 bits"]),
    ("tenantd add-tenant n {A} --tunnel gre:198.51.100.9,key=4294967296", 2, &["key", "4294967296", "32 bits"]),
    ("tenantd add-tenant n {A} --tunnel ipip:203.0.113.1,local=203.0.113.1", 2, &["remote", "203.0.113.1", "local"]),
    ("tenantd add-tenant n {A} --tunnel ipip:203.0.113.1", 1, &["remote", "203.0.113.1", "must not be the local"]),
    (
        "tenantd add-tenant n {A} --tunnel ipip:198.51.100.9,local=203.0.113.9",
        1,
        &["local", "203.0.113.9", "must be a local address", "203.0.113.1"],
    ),
    (
        "tenantd add-tenant n {A} --tunnel ipip:198.51.100.9,prefix=10.0.0.1/8",
        2,
        &["prefix", "10.0.0.1/8", "host bits"],
    ),
    ("tenantd add-tenant n {A} --tunnel ipip:198.51.100.9,mtu=9", 2, &["mtu=9", "local, key or prefix"]),
    ("tenantd add-tenant n {A} --route 10.0.0.1/8", 2, &["route", "10.0.0.1/8", "host bits"]),
    ("tenantd add-tenant n {A} --route 10.0.0.0/8,via=fd00::9", 2, &["via", "fd00::9", "same family"]),
    ("tenantd add-tenant n {A} --gateway 224.0.0.1", 2, &["gateway", "224.0.0.1", "multicast"]),
    ("tenantd add-tenant n {A} --dns there", 2, &["--dns", "there"]),
    ("tenantd frobnicate", 2, &["frobnicate"]),
    ("tenantd map sideways", 2, &["sideways", "upper, lower, access"]),
    ("access-server put-tunnel --vlan 4095 ipip:198.51.100.9", 2, &["vlan", "\"4095\"", "1..=4094"]),
    ("access-server put-tunnel --vlan 700 ipip:198.51.100.9,key=1", 2, &["key", "\"1\"", "ipip has no key"]),
    ("access-server put-tunnel --vlan 700 ipip:203.0.113.1", 1, &["remote", "203.0.113.1", "must not be the local"]),
    ("access-server show 0", 2, &["vlan", "\"0\"", "1..=4094"]),
];

/// What somebody else has, what nobody has, and what is not at that moment to be had.
const TAKEN: &[Case] = &[
    ("tenantd add-tenant tenant-a {A}", 1, &["name", "tenant-a", "taken"]),
    ("tenantd add-tenant n {A} --vlan 601", 1, &["vlan", "\"601\"", "taken by tenant tenant-b"]),
    ("tenantd add-tenant n {A} --gid 524288", 1, &["gid", "524288", "taken by tenant tenant-a"]),
    (
        "tenantd add-tenant n {A} --tunnel ipip:198.51.100.6",
        1,
        &["tunnel", "198.51.100.6", "203.0.113.1", "taken by tenant tenant-b"],
    ),
    (
        "tenantd add-tunnel tenant-a ipip:198.51.100.6,prefix=10.0.0.0/8",
        1,
        &["tunnel", "198.51.100.6", "taken by tenant tenant-b"],
    ),
    ("tenantd add-tunnel tenant-a ipip:198.51.100.9", 1, &["prefix", "0.0.0.0/0", "198.51.100.2"]),
    ("access-server put-tunnel --vlan 700 ipip:198.51.100.2", 1, &["198.51.100.2", "vlan 600", "tenantd/main"]),
    ("access-server put-tunnel --vlan 600 ipip:198.51.100.9", 1, &["vlan 600", "tenantd/main", "operator"]),
    ("access-server delete-tunnel --vlan 600 ipip:198.51.100.2", 1, &["vlan 600", "tenantd/main", "operator"]),
    ("access-server show 700", 1, &["vlan 700"]),
    ("tenantd show nobody", 1, &["tenant", "nobody", "unknown"]),
    ("tenantd status nobody", 1, &["tenant", "nobody", "unknown"]),
    ("tenantd remove-tenant nobody", 1, &["tenant", "nobody", "unknown"]),
    ("tenantd add-tunnel nobody ipip:198.51.100.9", 1, &["tenant", "nobody", "unknown"]),
    ("tenantd remove-tunnel tenant-a ipip:198.51.100.9", 1, &["tunnel", "198.51.100.9", "unknown"]),
    ("tenantd add-service nobody web --template nginx", 1, &["tenant", "nobody", "unknown"]),
    ("tenantd exec nobody -- true", 1, &["tenant", "nobody", "unknown"]),
    ("tenantd logs tenant-a nothing", 1, &["service", "nothing", "unknown"]),
    ("tenantd restart-service tenant-a nothing", 1, &["service", "nothing", "unknown"]),
    ("tenantd remove-service tenant-a nothing", 1, &["service", "nothing", "unknown"]),
    ("tenantd add-service tenant-a web -- /bin/sleep 9", 1, &["name", "web", "tenant-a"]),
    ("tenantd add-service tenant-a x --template gopher", 1, &["template", "gopher", "nginx"]),
    ("tenantd add-service tenant-a x -- /no/such/program", 1, &["command", "/no/such/program", "not found"]),
    ("tenantd add-service tenant-a x -- nosuchprogram", 1, &["command", "nosuchprogram", "not found"]),
    ("tenantd add-service tenant-a x -- /etc/passwd", 1, &["command", "/etc/passwd", "not executable"]),
    ("tenantd exec tenant-a -- nosuchprogram", 127, &["nosuchprogram", "not found"]),
    ("tenantd exec tenant-a -- /etc/passwd", 126, &["/etc/passwd", "cannot be executed"]),
    ("tenantd remove-tenant tenant-a", 1, &["tenant-a", "running processes", "--force"]),
    (
        "tenantd --instance other list",
        1,
        &["not running", "/run/tenantd/other/api.sock", "tenantd run --instance other"],
    ),
    ("tenantd --socket /run/none.sock list", 1, &["not running", "/run/none.sock", "tenantd run"]),
    ("access-server list --instance other", 1, &["/run/access-server/other/api.sock", "access-server run"]),
    ("tenantd run --state-dir /run/lab/state", 1, &["another tenantd", "/run/tenantd/main/lock"]),
    ("access-server run --wan wan0 --local 203.0.113.1", 1, &["instance main", "held by pid"]),
];

/// A daemon that does not start, and what it is to be given.
const DEVICES: &[Case] = &[
    ("access-server run --instance x --trunk up0 --wan nosuch --local 203.0.113.1", 1, &["wan", "nosuch", "not exist"]),
    ("access-server run --instance x --trunk up0 --wan down0 --local 203.0.113.1", 1, &["wan", "down0", "is down"]),
    (
        "access-server run --instance x --trunk up0 --wan thin0 --local 203.0.113.1",
        1,
        &["wan", "thin0", "MTU 1000", "300 too small"],
    ),
    (
        "access-server run --instance x --trunk nosuch --wan wan0 --local 203.0.113.1",
        1,
        &["trunk", "nosuch", "not exist"],
    ),
    ("access-server run --instance x --trunk down0 --wan wan0 --local 203.0.113.1", 1, &["trunk", "down0", "is down"]),
    (
        "access-server run --instance x --trunk thin0 --wan wan0 --local 203.0.113.1",
        1,
        &["trunk", "thin0", "MTU 1000", "280 too small"],
    ),
    ("access-server run --instance x --trunk wan0 --wan wan0 --local 203.0.113.1", 2, &["wan", "wan0", "trunk"]),
    (
        "access-server run --instance x --trunk up0 --wan wan0 --local 203.0.113.9",
        1,
        &["local", "203.0.113.9", "not an address"],
    ),
    ("access-server run --instance x --trunk up0 --wan wan0 --local 224.0.0.9", 2, &["local", "224.0.0.9", "unicast"]),
    ("access-server run --instance x --trunk up0 --wan wan0 --local here", 2, &["--local", "here"]),
    ("access-server run --instance x --trunk up0 --wan wan0", 2, &["--local"]),
    ("access-server run --instance BAD --wan wan0 --local 203.0.113.1", 2, &["instance", "BAD", "DNS label"]),
    (
        "access-server run --instance tenletters --wan wan0 --local 203.0.113.1",
        2,
        &["instance", "tenletters", "--trunk"],
    ),
    (
        "access-server site --instance x --lan nosuch --wan wan0 --local 203.0.113.1 --tunnel ipip:198.51.100.9 --server 192.168.1.1",
        1,
        &["lan", "nosuch", "not exist"],
    ),
    (
        "access-server site --instance x --lan thin0 --wan wan0 --local 203.0.113.1 --tunnel ipip:198.51.100.9 --server 192.168.1.1",
        1,
        &["lan", "thin0", "MTU 1000", "280 too small"],
    ),
    (
        "access-server site --instance x --lan up0 --wan wan0 --local 203.0.113.1 --tunnel ipip:203.0.113.1 --server 192.168.1.1",
        2,
        &["remote", "203.0.113.1", "local"],
    ),
    ("tenantd run --instance x --trunk nosuch --state-dir /run/lab/x", 1, &["trunk", "nosuch", "no such device"]),
    ("tenantd run --instance x --trunk down0 --state-dir /run/lab/x", 1, &["trunk", "down0", "down"]),
    (
        "tenantd run --instance x --trunk thin0 --state-dir /run/lab/x",
        1,
        &["trunk", "thin0", "MTU 1000", "280 too small"],
    ),
    ("tenantd run --instance BAD --state-dir /run/lab/x", 2, &["instance", "BAD", "DNS label"]),
    ("tenantd run --instance tenletters --state-dir /run/lab/x", 2, &["instance", "tenletters", "at most 9"]),
    ("tenantd run --instance x --access http://there", 2, &["access", "http://there", "unix://"]),
    ("tenantd run --config /nosuch.toml", 2, &["config", "/nosuch.toml"]),
];

/// A user who may not. `{BIN}` is where nobody can read the programs.
const NOBODY: &[Case] = &[
    ("{BIN}/tenantd list", 1, &["permission", "/run/tenantd/main/api.sock", "root", "group tenantd"]),
    ("{BIN}/tenantd add-tenant n {A}", 1, &["permission", "/run/tenantd/main/api.sock"]),
    ("{BIN}/tenantd exec tenant-a -- id", 1, &["permission", "/run/tenantd/main/api.sock"]),
    ("{BIN}/tenantd run --instance x", 1, &["root", "65534"]),
    ("{BIN}/access-server list", 1, &["permission", "/run/access-server/main/api.sock", "root"]),
    ("{BIN}/access-server run --instance x --wan wan0 --local 203.0.113.1", 1, &["root", "CAP_NET_ADMIN"]),
    ("{BIN}/lab up --name nobody", 1, &["root"]),
];

/// JSON that is refused: method, path, body, status, field, words of the rule.
type Request = (&'static str, &'static str, &'static str, &'static str, &'static str, &'static str);

const TENANTD_JSON: &[Request] = &[
    (
        "POST",
        "/v1/tenants",
        r#"{"name":"n","addresses":["192.168.1.1/24"],"colour":1}"#,
        "422",
        "colour",
        "unknown field",
    ),
    (
        "POST",
        "/v1/tenants",
        r#"{"name":"n","addresses":["192.168.1.1/24"],"routes":[{"to":"10.0.0.0/8","metric":1}]}"#,
        "422",
        "routes[0].metric",
        "unknown field",
    ),
    ("POST", "/v1/tenants", r#"{"name":"n","addresses":["192.168.1.0/24"]}"#, "422", "address", "network address"),
    ("POST", "/v1/tenants", r#"{"name":"n","addresses":["192.168.1.1/24"],"vlan":4095}"#, "422", "vlan", "1..=4094"),
    ("POST", "/v1/tenants", r#"{"name":"n","addresses":["192.168.1.1/24"],"vlan":600}"#, "409", "vlan", "tenant-a"),
    ("POST", "/v1/tenants", r#"{"name":"N","addresses":["192.168.1.1/24"]}"#, "422", "name", "DNS label"),
    ("POST", "/v1/tenants", r#"{"name":"#, "400", "body", "JSON"),
    ("POST", "/v1/tenants/tenant-a/tunnels", r#"{"tunnel":"ipip:198.51.100.9","foo":1}"#, "422", "", ""),
    ("GET", "/v1/tenants/nobody", "", "404", "tenant", ""),
];

const ACCESS_JSON: &[Request] = &[
    (
        "PUT",
        "/v1/vlans/700",
        r#"{"owner":"me","generation":1,"origin":"operator","tunnels":[],"foo":1}"#,
        "422",
        "foo",
        "unknown field",
    ),
    (
        "PUT",
        "/v1/vlans/700",
        r#"{"owner":"me","generation":1,"origin":"operator","tunnels":[{"kind":"ipip","remote":"198.51.100.9","bar":1}]}"#,
        "422",
        "tunnels[0].bar",
        "unknown field",
    ),
    (
        "PUT",
        "/v1/vlans/700",
        r#"{"owner":"me","generation":1,"origin":"operator","tunnels":[{"kind":"ipip","remote":"198.51.100.2"}]}"#,
        "409",
        "tunnels[0]",
        "vlan 600",
    ),
    (
        "PUT",
        "/v1/vlans/4095",
        r#"{"owner":"me","generation":1,"origin":"operator","tunnels":[]}"#,
        "422",
        "vlan",
        "1..=4094",
    ),
    (
        "PUT",
        "/v1/vlans/600",
        r#"{"owner":"me","generation":1,"origin":"operator","tunnels":[]}"#,
        "409",
        "owner",
        "tenantd/main",
    ),
    ("PUT", "/v1/vlans/700", r#"{"owner""#, "400", "body", ""),
];

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("badinput::values_and_users", TENANTS, || in_a_world(values_and_users)),
        trial("badinput::devices", TENANTS, || in_a_world(devices)),
        trial("badinput::half_removed", TENANTS, half_removed),
        trial("badinput::daemon_not_running", WORLD, daemon_not_running),
    ]
}

/// Runs `check` in a world with two tenants while a ping goes through the first one; demands that the tables are as
/// before and no ping was lost.
fn in_a_world(check: impl FnOnce(&World) -> Result<()>) -> Result<()> {
    let world = with_tenants("bad", Options { sites: 2, ..Options::default() })?;
    let run = || -> Result<()> {
        reachable(&world, "host-a", SERVER_INNER_V4, Duration::from_secs(30))?;
        let before = settled(&world)?;
        ensure!(before.contains("tenant-a"), "no state is read: {before}");
        let ping = Pinging::start(&world, "host-a", SERVER_INNER_V4, 300)?;
        check(&world)?;
        ping.all_answered()?;
        same(&world, &before)
    };
    explain(&world, run())
}

fn values_and_users(world: &World) -> Result<()> {
    refused(world, VALUES)?;
    refused(world, TAKEN)?;
    json(world)?;
    problem_documents(world)?;
    not_root(world)
}

/// Everything a refused command must leave alone: all tables, the stacks' sockets and files, the devices.
fn state(world: &World) -> Result<String> {
    const STATE: &str = "set -e
        tenantd map --json; tenantd list --json; access-server list --json
        ls /run/tenantd/main/tenants /run/lab/state/tenants
        nsenter --net=/run/tenantd/main/patchroom ip -o link | cut -d: -f2
        ip -o link | cut -d: -f1,2; ls /sys/fs/bpf/tenantd /sys/fs/bpf/access-server";
    world.ok("server", &["sh", "-c", STATE])
}

/// The state once nothing is on its way any more of what was done before.
fn settled(world: &World) -> Result<String> {
    let mut last = state(world)?;
    eventually("nothing moves", Duration::from_secs(30), || {
        std::thread::sleep(Duration::from_millis(200));
        let next = state(world).ok()?;
        let same = next == last;
        last.clone_from(&next);
        same.then_some(next)
    })
}

/// Nothing was changed. What a refused command had begun may be taken back while it is told.
fn same(world: &World, before: &str) -> Result<()> {
    let found = eventually("all is as before", Duration::from_secs(10), || {
        state(world).ok().filter(|after| after == before).map(drop)
    });
    if found.is_err() {
        bail!("something was changed\nbefore:\n{before}\nafter:\n{}", state(world)?);
    }
    Ok(())
}

fn line(case: &str) -> Vec<String> {
    let bin = format!("{AS_NOBODY} {BIN}");
    let line = case.replace("{BIN}", &bin).replace("{A}", ADDRESS).replace("{49}", &long_name());
    line.split_whitespace().map(str::to_owned).collect()
}

fn long_name() -> String {
    "n".repeat(49)
}

/// Runs all cases and tells of all that are not refused as they should.
fn refused(world: &World, cases: &[Case]) -> Result<()> {
    let mut wrong = Vec::new();
    let tables = settled(world)?;
    for (case, code, words) in cases {
        let argv = line(case);
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        // A daemon that is not refused would run for ever.
        let output = world.spawn("server", &argv)?.wait(Duration::from_secs(60));
        let complaint = match output {
            Ok(output) => complaint(&output, *code, words),
            Err(e) => Some(format!("{e:#}")),
        };
        wrong.extend(complaint.map(|c| format!("{case}\n  {c}")));
    }
    ensure!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    same(world, &tables)
}

/// What is wrong with how a command was refused.
fn complaint(output: &Output, code: i32, words: &[&str]) -> Option<String> {
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.code() != Some(code) {
        return Some(format!("ended with {:?}, not {code}: {}", output.status.code(), said.trim_end()));
    }
    if said.contains("panicked") {
        return Some(format!("panicked: {said}"));
    }
    let missing: Vec<String> =
        words.iter().map(|w| w.replace("{49}", &long_name())).filter(|w| !said.contains(w.as_str())).collect();
    (!missing.is_empty()).then(|| format!("does not say {missing:?}: {}", said.trim_end()))
}

/// JSON of the wrong shape or with values that are refused, over the sockets themselves.
fn json(world: &World) -> Result<()> {
    let sockets = [("/run/tenantd/main/api.sock", TENANTD_JSON), ("/run/access-server/main/api.sock", ACCESS_JSON)];
    let mut wrong = Vec::new();
    for (socket, requests) in sockets {
        for request in requests {
            if let Err(e) = request_refused(world, socket, request) {
                wrong.push(format!("{} {} {}\n  {e:#}", request.0, request.1, request.2));
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

fn request_refused(world: &World, socket: &str, request: &Request) -> Result<()> {
    let (method, path, body, status, field, rule) = request;
    let url = format!("http://daemon{path}");
    let mut argv = vec!["curl", "-sS", "-g", "--max-time", "30", "--unix-socket", socket, "-X", method];
    argv.extend(["-w", "\n%{http_code} %{content_type}", "-H", "content-type: application/json"]);
    if !body.is_empty() {
        argv.extend(["-d", body]);
    }
    argv.push(&url);
    let said = world.ok("server", &argv)?;
    let (answer, end) = said.rsplit_once('\n').context("no status")?;
    ensure!(end == format!("{status} application/problem+json"), "{said}");
    let problem: Value = serde_json::from_str(answer)?;
    for member in ["type", "title", "status", "detail"] {
        ensure!(!problem[member].is_null(), "no member {member} (RFC 9457): {said}");
    }
    if !field.is_empty() {
        ensure!(problem["field"] == **field, "names the field {}, not {field}: {said}", problem["field"]);
        ensure!(problem["value"].is_string(), "names no value: {said}");
        let told = problem["rule"].as_str().unwrap_or_default();
        ensure!(told.contains(rule) && !told.is_empty(), "does not say {rule:?}: {said}");
    }
    Ok(())
}

/// With `--json` a refusal is a problem document on standard error.
fn problem_documents(world: &World) -> Result<()> {
    let cases = [
        ("tenantd --json add-tenant n {A} --vlan 601", "vlan", "601"),
        ("tenantd --json add-tenant n {A} {A}", "address", "192.168.1.1/24"),
        ("tenantd --json show nobody", "tenant", "nobody"),
        ("tenantd --json add-service tenant-a x --template gopher", "template", "gopher"),
        ("tenantd --json remove-tenant tenant-a", "force", "false"),
    ];
    for (case, field, value) in cases {
        let argv = line(case);
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        let output = world.exec("server", &argv)?;
        ensure!(!output.status.success(), "{case} was done");
        let said = String::from_utf8_lossy(&output.stderr);
        let problem: Value = serde_json::from_str(&said).with_context(|| format!("{case} said {said}"))?;
        ensure!(problem["field"] == field && problem["value"] == value, "{case} said {said}");
    }
    Ok(())
}

/// Where the programs are copied to: the directories of a checkout may not be open to everybody.
const BIN: &str = "/run/lab/bin";

fn not_root(world: &World) -> Result<()> {
    let copy = format!("mkdir -p {BIN} && for p in tenantd access-server lab; do cp $(command -v $p) {BIN}/; done");
    world.ok("server", &["sh", "-c", &copy])?;
    let curl = format!("{AS_NOBODY} curl -sS --unix-socket /run/tenantd/main/api.sock http://daemon/v1/tenants");
    let curl: Vec<&str> = curl.split(' ').collect();
    let output = world.exec("server", &curl)?;
    ensure!(!output.status.success(), "nobody was told {}", String::from_utf8_lossy(&output.stdout));
    refused(world, NOBODY)
}

/// Devices that are not there, down or thin; afterwards no device has moved and nothing is pinned.
fn devices(world: &World) -> Result<()> {
    world.ok("server", &["ip", "link", "add", "up0", "type", "veth", "peer", "name", "down0"])?;
    world.ok("server", &["ip", "link", "add", "thin0", "mtu", "1000", "type", "veth", "peer", "name", "far0"])?;
    for device in ["up0", "thin0", "far0"] {
        world.ok("server", &["ip", "link", "set", device, "up"])?;
    }
    refused(world, DEVICES)?;
    let left = world.ok(
        "server",
        &["sh", "-c", "find /run/tenantd/x /run/access-server/x -type s; grep ' /run/tenantd/x' /proc/mounts; true"],
    )?;
    ensure!(left.is_empty(), "daemons that were refused left {left}");
    world.ok("server", &["sh", "-c", "ip link del up0 && ip link del thin0"])?;
    Ok(())
}

/// A tenant whose removal could not be finished: the access server is away. It is said where it stands, nothing can be
/// built on it, its neighbour goes on, and it ends by itself when the access server is back.
fn half_removed() -> Result<()> {
    let world = with_tenants("half", Options { sites: 2, ..Options::default() })?;
    let run = || -> Result<()> {
        reachable(&world, "host-a", SERVER_INNER_V4, Duration::from_secs(30))?;
        hold(&world, "access-server")?;
        let ping = Pinging::start(&world, "host-a", SERVER_INNER_V4, 300)?;
        let away = &["tenant-b", "half done", "access server", "start it with: access-server run"];
        let output = world.exec("server", &["tenantd", "remove-tenant", "tenant-b", "--force"])?;
        if let Some(wrong) = complaint(&output, 1, away) {
            bail!("remove-tenant: {wrong}");
        }
        for case in [
            "tenantd add-tenant tenant-b {A} --vlan 601 --tunnel ipip:198.51.100.6",
            "tenantd add-tunnel tenant-b ipip:198.51.100.9,prefix=10.0.0.0/8",
            "tenantd add-service tenant-b x -- /bin/sleep 9",
        ] {
            let argv = line(case);
            let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
            if let Some(wrong) = complaint(&world.exec("server", &argv)?, 1, away) {
                bail!("{case}: {wrong}");
            }
        }
        let status: Value = serde_json::from_str(&world.ok("server", &["tenantd", "status", "tenant-b", "--json"])?)?;
        ensure!(status["state"] == "removing" && status["step"].is_string(), "{status}");
        let taken =
            world.exec("server", &["tenantd", "add-tenant", "n", "--address", "192.168.1.1/24", "--vlan", "601"])?;
        ensure!(!taken.status.success(), "the VLAN of a tenant that is not gone yet was given away");
        ping.all_answered()?;
        std::fs::remove_file(world.path("/run/lab/hold/access-server"))?;
        eventually("the removal is finished", Duration::from_secs(60), || {
            let list = world.ok("server", &["tenantd", "list", "--json"]).ok()?;
            let rows = world.ok("server", &["access-server", "list", "--json"]).ok()?;
            (!list.contains("tenant-b") && !rows.contains("601")).then_some(())
        })?;
        // What was refused before is done now.
        let argv = line("tenantd add-tenant tenant-b {A} --vlan 601 --tunnel ipip:198.51.100.6");
        world.ok("server", &argv.iter().map(String::as_str).collect::<Vec<_>>())?;
        reachable(&world, "host-b", SERVER_INNER_V4, Duration::from_secs(30))
    };
    explain(&world, run())
}

/// Kills a daemon of the server and keeps it down.
fn hold(world: &World, daemon: &str) -> Result<()> {
    std::fs::write(world.path(&format!("/run/lab/hold/{daemon}")), "")?;
    let kill = format!(
        "for d in /proc/[0-9]*; do tr '\\0' ' ' <$d/cmdline 2>/dev/null | grep -q '^{daemon} run ' && kill -9 ${{d#/proc/}}; done; true"
    );
    world.ok("server", &["sh", "-c", &kill])?;
    // What was killed ends a moment later, and answers until then.
    let socket = world.path(&format!("/run/{daemon}/main/api.sock"));
    eventually("it is gone", Duration::from_secs(30), || UnixStream::connect(&socket).is_err().then_some(()))
}

/// Without any daemon every verb says how to start it.
fn daemon_not_running() -> Result<()> {
    let options = Options { sites: 1, server: false, gateway: Gateway::None, ..Options::default() };
    let world = world("nodaemon", options)?;
    let cases: &[Case] = &[
        ("tenantd list", 1, &["not running", "/run/tenantd/main/api.sock", "tenantd run"]),
        ("tenantd show a", 1, &["not running", "tenantd run"]),
        ("tenantd map", 1, &["not running", "tenantd run"]),
        ("tenantd status", 1, &["not running", "tenantd run"]),
        ("tenantd add-tenant a {A}", 1, &["not running", "tenantd run"]),
        ("tenantd remove-tenant a", 1, &["not running", "tenantd run"]),
        ("tenantd add-tunnel a ipip:198.51.100.9", 1, &["not running", "tenantd run"]),
        ("tenantd remove-tunnel a ipip:198.51.100.9", 1, &["not running", "tenantd run"]),
        ("tenantd add-service a x -- /bin/true", 1, &["not running", "tenantd run"]),
        ("tenantd logs a x", 1, &["not running", "tenantd run"]),
        ("tenantd exec a -- true", 1, &["not running", "tenantd run"]),
        ("access-server list", 1, &["/run/access-server/main/api.sock", "access-server run --wan"]),
        ("access-server show 600", 1, &["access-server run --wan"]),
        ("access-server counters", 1, &["access-server run --wan"]),
        ("access-server status", 1, &["access-server run --wan"]),
        ("access-server put-tunnel --vlan 600 ipip:198.51.100.9", 1, &["access-server run --wan"]),
        ("access-server delete-tunnel --vlan 600 ipip:198.51.100.9", 1, &["access-server run --wan"]),
    ];
    let mut wrong = Vec::new();
    for (case, code, words) in cases {
        let argv = line(case);
        let output = world.exec("server", &argv.iter().map(String::as_str).collect::<Vec<_>>())?;
        wrong.extend(complaint(&output, *code, words).map(|c| format!("{case}\n  {c}")));
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
