//! `/metrics` of both daemons, read by parsers that are not ours (python3-prometheus-client), and compared with what the
//! kernel's own tools count.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use system_tests::plan::{Gateway, Kind, Options, SERVER_INNER_V4, Site};
use system_tests::tenants::init_pid;
use system_tests::traffic::reachable;
use system_tests::world::{World, eventually};

use crate::daemons::Daemon;
use crate::floor::{Need, TENANTS, explain, trial, with_tenants, world};

/// The parser of the distribution's package.
const PARSER: &str = "/usr/lib/python3/dist-packages/prometheus_client/openmetrics/parser.py";

const PARSED: &[Need] = &[
    Need::Root,
    Need::Daemons,
    Need::Program("ip", "iproute2"),
    Need::Program("ping", "iputils-ping"),
    Need::Program("curl", "curl"),
    Need::Program("nginx", "nginx-light"),
    Need::Program(PARSER, "python3-prometheus-client"),
];

/// Reads metrics from standard input strictly, prints samples as JSON: name{label=value,...}.
const READ: &str = "
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as classic
text = sys.stdin.read()
found = {}
for family in text_string_to_metric_families(text):
    assert family.documentation and family.type in ('gauge', 'counter', 'histogram'), family
    for s in family.samples:
        found[s.name + '{' + ','.join(f'{k}={v}' for k, v in sorted(s.labels.items())) + '}'] = s.value
# Those who know the older format only read the same samples.
older = sum(len(family.samples) for family in classic(text))
assert older == len(found), (older, len(found))
print(json.dumps(found))
";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("metrics::foreign_parsers_read_what_the_kernel_counts", PARSED, read),
        trial("metrics::on_tcp_this_path_and_nothing_else", TENANTS, on_tcp),
    ]
}

fn scrape(world: &World, daemon: &str) -> Result<BTreeMap<String, f64>> {
    let script = format!(
        "curl -sS --fail --unix-socket /run/{daemon}/main/api.sock http://t/metrics | /usr/bin/python3 -c \"$0\""
    );
    Ok(serde_json::from_str(&world.ok("server", &["sh", "-c", &script, READ])?)?)
}

fn read() -> Result<()> {
    let kinds = vec![Kind::Ipip, Kind::Gre, Kind::Vxlan];
    let world = with_tenants("metrics", Options { kinds, ..Options::default() })?;
    explain(&world, agrees(&world))
}

fn agrees(world: &World) -> Result<()> {
    let sites: Vec<Site> = world.options().sites().collect();
    for site in &sites {
        reachable(world, &site.host(), SERVER_INNER_V4, Duration::from_secs(30))?;
    }
    // The first scrape begins the look for ports.
    scrape(world, "tenantd")?;
    eventually("listening ports are known", Duration::from_secs(60), || {
        scrape(world, "tenantd").ok()?.contains_key("tenantd_ports_age_seconds{}").then_some(())
    })?;
    let (before, access_before) = (scrape(world, "tenantd")?, scrape(world, "access-server")?);
    let first = sites.first().context("a site")?;
    let (tenant, vlan) = (first.tenant(), first.vlan());
    world.ok(&first.host(), &["ping", "-q", "-c", "50", "-i", "0.01", SERVER_INNER_V4])?;
    let (now, access) = (scrape(world, "tenantd")?, scrape(world, "access-server")?);
    let grown = |name: &str| {
        let value = |all: &BTreeMap<String, f64>| all.get(name).copied().with_context(|| format!("no {name}"));
        Ok::<_, anyhow::Error>(value(&now)? - value(&before)?)
    };
    for direction in ["in", "out"] {
        let packets = grown(&format!("tenantd_tenant_packets_total{{direction={direction},tenant={tenant}}}"))?;
        let bytes = grown(&format!("tenantd_tenant_bytes_total{{direction={direction},tenant={tenant}}}"))?;
        ensure!((50.0..60.0).contains(&packets), "{direction}: {packets} packets of 50 pings");
        ensure!(bytes >= 50.0 * 98.0, "{direction}: {bytes} bytes of 50 pings");
        let name = format!("access_server_vlan_packets_total{{direction={direction},vlan={vlan}}}");
        let there = access[&name] - access_before[&name];
        ensure!((50.0..60.0).contains(&there), "{name}: {there}");
    }
    for site in &sites {
        let of = |metric: &str| now.get(&format!("tenantd_tenant_{metric}{{tenant={}}}", site.tenant())).copied();
        ensure!(of("up") == Some(1.0) && of("half_done") == Some(0.0), "{}: {now:#?}", site.tenant());
        // nginx alone listens, on port 80 for both families.
        let ports = format!("tenantd_tenant_listening_ports{{protocol=tcp,tenant={}}}", site.tenant());
        let listed = listening(world, site)?;
        ensure!(
            now.get(&ports) == Some(&(listed as f64)) && listed > 0,
            "{ports}: {:?}, ss says {listed}",
            now.get(&ports)
        );
        ensure!(of("processes").is_none_or(|n| n >= 3.0), "init and nginx: {:?}", of("processes"));
        ensure!(of("cpu_seconds_total").is_some_and(|seconds| seconds > 0.0), "no processor time");
        let info = format!("tenant={},trunk=,vlan={}}}", site.tenant(), site.vlan());
        ensure!(now.keys().any(|key| key.starts_with("tenantd_tenant_info{") && key.ends_with(&info)), "no {info}");
    }
    ensure!(now["tenantd_tenants{state=ready}"] == 3.0 && now["tenantd_access_connected{}"] == 1.0, "{now:#?}");
    ensure!(now["tenantd_table_rows{table=ports}"] == 3.0, "{now:#?}");
    ensure!(now["tenantd_pass_seconds_count{result=ok}"] >= 3.0, "{now:#?}");
    // What the kernel's own counters say of the device, from the tenant's side.
    let links = world
        .ok("server", &["nsenter", "-t", &init_pid(world, &tenant)?.to_string(), "-n", "ip", "-j", "-s", "link"])?;
    let links: Value = serde_json::from_str(&links)?;
    let device = links.as_array().into_iter().flatten().find(|link| link["ifname"] != "lo").context("a device")?;
    let kernel = device["stats64"]["rx"]["packets"].as_f64().context("rx packets")?;
    let ours = scrape(world, "tenantd")?[&format!("tenantd_tenant_packets_total{{direction=in,tenant={tenant}}}")];
    ensure!((kernel - ours).abs() <= 10.0, "the device counts {kernel} packets, the metric {ours}");
    // A drop by its reason: a source that is forged in the Ethernet header.
    let attached = |all: &BTreeMap<String, f64>| {
        let programs = all.iter().filter(|(key, _)| key.starts_with("access_server_program_attached"));
        programs.map(|(key, value)| (key.clone(), *value)).collect::<Vec<_>>()
    };
    ensure!(
        attached(&access).len() == 3 && attached(&access).iter().all(|(_, on)| *on == 1.0),
        "{:?}",
        attached(&access)
    );
    world.ok("server", &["tc", "filter", "del", "dev", "wan0", "ingress"])?;
    let off = attached(&scrape(world, "access-server")?);
    ensure!(off.iter().any(|(key, on)| key.contains("wan_ingress") && *on == 0.0), "{off:?}");
    ensure!(access[&format!("access_server_vlan_tunnels{{vlan={vlan}}}")] == 1.0, "{access:#?}");
    ensure!(access["access_server_table_rows{table=tunnels}"] == 3.0, "{access:#?}");
    Ok(())
}

/// Ports on which TCP listens in a tenant's stack, as `ss` says.
fn listening(world: &World, site: &Site) -> Result<usize> {
    let init = init_pid(world, &site.tenant())?.to_string();
    let text = world.ok("server", &["nsenter", "-t", &init, "-n", "ss", "-Hltn"])?;
    let port = |line: &str| line.split_whitespace().nth(3)?.rsplit(':').next().map(str::to_owned);
    Ok(text.lines().filter_map(port).collect::<std::collections::BTreeSet<_>>().len())
}

fn on_tcp() -> Result<()> {
    let world = world("metricstcp", Options { sites: 1, gateway: Gateway::None, ..Options::default() })?;
    explain(&world, tcp(&world))
}

fn tcp(world: &World) -> Result<()> {
    let site = world.options().site(0);
    let status = |node: &str, more: &[&str], url: &str| {
        let mut argv = vec!["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "20"];
        argv.extend(more);
        argv.push(url);
        world.exec(node, &argv).map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let _gateway = Daemon::site(&site, &[SERVER_INNER_V4]).with("--metrics 127.0.0.1:9601").start(world)?;
    world.ok(&site.gw(), &["ip", "link", "set", "lo", "up"])?;
    world.ok("server", &["ip", "link", "set", "lo", "up"])?;
    let second = "exec tenantd run --instance second --state-dir /run/lab/second --metrics 203.0.113.1:9600 \
                  --access unix:///run/access-server/main/api.sock >/run/lab/log/second 2>&1";
    let _second = world.spawn("server", &["sh", "-c", second])?;
    eventually("the second tenantd answers on TCP", Duration::from_secs(60), || {
        (status("gw-a", &[], "http://203.0.113.1:9600/metrics").ok()? == "200").then_some(())
    })?;
    for (node, base) in [("gw-a", "http://203.0.113.1:9600"), (site.gw().as_str(), "http://127.0.0.1:9601")] {
        ensure!(status(node, &[], &format!("{base}/metrics"))? == "200", "{base}");
        for other in ["/", "/v1/status", "/v1/tenants", "/openapi.json", "/metrics/x"] {
            ensure!(status(node, &[], &format!("{base}{other}"))? == "404", "{base}{other} is answered");
        }
        for method in ["POST", "PUT", "DELETE"] {
            ensure!(status(node, &["-X", method], &format!("{base}/metrics"))? == "405", "{method} {base}/metrics");
        }
    }
    // Those who say nothing hold up nobody.
    let silent = "for n in 1 2 3 4 5 6 7 8; do (sleep 3 | nc 203.0.113.1 9600 >/dev/null) & done; sleep 1";
    let _silent = world.spawn("gw-a", &["sh", "-c", silent])?;
    std::thread::sleep(Duration::from_millis(500));
    ensure!(status("gw-a", &[], "http://203.0.113.1:9600/metrics")? == "200", "silent clients hold the answer up");
    for wildcard in ["0.0.0.0:9600", "[::]:9600", "9600"] {
        let argv = ["tenantd", "run", "--instance", "third", "--state-dir", "/run/lab/third", "--metrics", wildcard];
        let output = world.exec("server", &argv)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(2) && said.contains("metrics: "), "{wildcard}: {said}");
    }
    Ok(())
}
