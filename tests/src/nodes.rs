//! Makes the nodes: namespaces, links, addresses, routes. Runs inside the holder, which has one thread.
//!
//! The lab may use `ip -batch` (the product itself may not): what a newcomer explores here should look like
//! what they would have typed.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use crate::plan::{
    Gateway, HOST_INNER_V4, HOST_INNER_V6, HOST_MAC, Kind, Options, Outer, SERVER_INNER_V4, SERVER_INNER_V6,
    SERVER_OUTER_V4, SERVER_OUTER_V6, Site, server_outer,
};

/// Where the nodes' namespaces are pinned, in the world's own mount namespace: `ip -n NODE` works there.
pub const NETNS_DIR: &str = "/run/netns";

/// Outer IPv4 address of the internet on the server's link.
const INTERNET_V4: &str = "203.0.113.254";
/// Outer IPv6 address of the internet on the server's link.
const INTERNET_V6: &str = "2001:db8:ffff::fe";

/// Path of a node's namespace inside the world.
#[must_use]
pub fn netns_path(node: &str) -> PathBuf {
    Path::new(NETNS_DIR).join(node)
}

/// Builds all nodes of the plan. Ends in the namespace it started in.
///
/// # Errors
/// The step that failed, with what `ip` or the kernel said.
pub fn build(options: &Options) -> Result<()> {
    let home = fs::File::open("/proc/self/ns/net").context("cannot open the own network namespace")?;
    fs::create_dir_all(NETNS_DIR).with_context(|| format!("cannot make {NETNS_DIR}"))?;
    for node in options.nodes() {
        make_netns(&node, is_router(&node, options)).with_context(|| format!("cannot make node {node}"))?;
    }
    setns(&home, CloneFlags::CLONE_NEWNET).context("cannot return to the own network namespace")?;
    ip(None, &links(options)).context("cannot make the links")?;
    ip(Some("internet"), &internet(options)).context("cannot configure internet")?;
    ip(Some("server"), &server()).context("cannot configure server")?;
    for site in options.sites() {
        ip(Some(&site.host()), &host(options)).with_context(|| format!("cannot configure {}", site.host()))?;
        ip(Some(&site.gw()), &gateway(options, &site)).with_context(|| gateway_hint(options, &site))?;
    }
    Ok(())
}

fn is_router(node: &str, options: &Options) -> bool {
    node == "internet" || (node.starts_with("gw-") && options.gateway == Gateway::Kernel)
}

fn make_netns(node: &str, router: bool) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    let path = netns_path(node);
    fs::File::create(&path)?;
    mount(Some("/proc/self/ns/net"), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    // The files below /proc/sys/net are those of the writer's network namespace: this node's.
    // A new namespace starts with the machine's present IPv4 values: set what the world relies on.
    // Duplicate address detection would hold every fresh IPv6 address back for a second.
    let mut sysctls = vec![
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
        ("ipv6/conf/all/disable_ipv6", "0"),
        ("ipv6/conf/default/disable_ipv6", "0"),
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/all/accept_dad", "0"),
        ("ipv6/conf/default/router_solicitations", "0"),
        ("ipv4/ip_forward", if router { "1" } else { "0" }),
        ("ipv6/conf/all/forwarding", if router { "1" } else { "0" }),
    ];
    if router {
        // The sender learns of a narrow link at once, as often as it asks.
        sysctls.push(("ipv4/icmp_ratelimit", "0"));
    }
    for (key, value) in sysctls {
        let path = Path::new("/proc/sys/net").join(key);
        fs::write(&path, value).with_context(|| format!("cannot set {}", path.display()))?;
    }
    Ok(())
}

fn links(options: &Options) -> String {
    let mut batch = "link add wan0 netns server type veth peer name server netns internet\n".to_owned();
    for site in options.sites() {
        let (host, gw) = (site.host(), site.gw());
        batch += &format!(
            "link add eth0 address {HOST_MAC} netns {host} type veth peer name lan0 netns {gw}\n\
             link add wan0 netns {gw} type veth peer name {gw} netns internet\n"
        );
    }
    batch
}

fn internet(options: &Options) -> String {
    let mut batch = format!(
        "link set lo up\nlink set server up\n\
         address add {INTERNET_V4}/24 dev server\naddress add {INTERNET_V6}/64 dev server nodad\n"
    );
    for site in options.sites() {
        let (gw, v4, v6) = (site.gw(), site.internet_v4(), site.internet_v6());
        batch += &format!("link set {gw} up\naddress add {v4}/30 dev {gw}\naddress add {v6}/64 dev {gw} nodad\n");
    }
    batch
}

fn server() -> String {
    format!(
        "link set lo up\nlink set wan0 up\n\
         address add {SERVER_OUTER_V4}/24 dev wan0\naddress add {SERVER_OUTER_V6}/64 dev wan0 nodad\n\
         route add default via {INTERNET_V4}\nroute add default via {INTERNET_V6}\n"
    )
}

fn host(options: &Options) -> String {
    let mut batch = "link set lo up\nlink set eth0 up\n".to_owned();
    if options.inner.v4() {
        batch += &format!("address add {HOST_INNER_V4}/24 dev eth0\n");
    }
    if options.inner.v6() {
        batch += &format!("address add {HOST_INNER_V6}/64 dev eth0 nodad\n");
    }
    batch
}

fn gateway(options: &Options, site: &Site) -> String {
    let mut batch = format!(
        "link set lo up\nlink set lan0 up\nlink set wan0 up\n\
         address add {}/30 dev wan0\naddress add {}/64 dev wan0 nodad\n\
         route add default via {}\nroute add default via {}\n",
        site.outer_v4(),
        site.outer_v6(),
        site.internet_v4(),
        site.internet_v6()
    );
    match (options.gateway, site.kind) {
        (Gateway::None, _) => {}
        (_, Kind::Vxlan) => batch += &vxlan_gateway(options.outer, site),
        (Gateway::Site, _) => {}
        (Gateway::Kernel, _) => batch += &kernel_gateway(options, site),
    }
    batch
}

/// The kernel's vxlan device and the LAN on one bridge: what a customer would build by hand.
fn vxlan_gateway(outer: Outer, site: &Site) -> String {
    let zero_checksum = if outer == Outer::V6 { " udp6zerocsumtx udp6zerocsumrx" } else { "" };
    format!(
        "link add br0 type bridge forward_delay 0\n\
         link add tun0 type vxlan id {} local {} remote {} dstport 4789{zero_checksum}\n\
         link set lan0 master br0\nlink set tun0 master br0\nlink set tun0 up\nlink set br0 up\n",
        site.key.unwrap_or_default(),
        site.outer(outer),
        server_outer(outer),
    )
}

/// The kernel's tunnel device, with proxy ARP/ND for the server on the LAN.
fn kernel_gateway(options: &Options, site: &Site) -> String {
    let (local, remote) = (site.outer(options.outer), server_outer(options.outer));
    let kind = match (site.kind, options.outer) {
        (Kind::Gre, Outer::V4) => "gre",
        (Kind::Gre, Outer::V6) => "ip6gre",
        // The kernel's ipip device takes IPv4 only; its sit device takes both.
        (_, Outer::V4) if options.inner.v6() => "sit mode any",
        (_, Outer::V4) => "ipip",
        (_, Outer::V6) => "ip6tnl mode any encaplimit none",
    };
    let key = site.key.map(|key| format!(" key {key}")).unwrap_or_default();
    let mut batch = format!("link add tun0 type {kind} local {local} remote {remote}{key} ttl 64\nlink set tun0 up\n");
    if options.inner.v4() {
        batch += &format!(
            "address add 192.168.1.254/24 dev lan0\nroute add {SERVER_INNER_V4}/32 dev tun0\n\
             neighbour add proxy {SERVER_INNER_V4} dev lan0\n"
        );
    }
    if options.inner.v6() {
        batch += &format!(
            "address add fd00:192:168:1::fe/64 dev lan0 nodad\nroute add {SERVER_INNER_V6}/128 dev tun0\n\
             neighbour add proxy {SERVER_INNER_V6} dev lan0\n"
        );
    }
    batch
}

fn gateway_hint(options: &Options, site: &Site) -> String {
    let hint = match options.gateway {
        Gateway::Kernel if site.kind != Kind::Vxlan => {
            "; --gateway kernel needs the kernel's own tunnel device (module ipip, ip_gre or ip6_tunnel): \
             without --gateway the lab uses access-server site"
        }
        _ => "",
    };
    format!("cannot configure {} for {}{hint}", site.gw(), site.kind.word())
}

/// Runs `ip -batch` on `batch`, in `node` or where the holder is.
///
/// # Errors
/// `ip` cannot be run, or refuses a line (its words are in the error).
pub fn ip(node: Option<&str>, batch: &str) -> Result<()> {
    let mut command = Command::new("ip");
    if let Some(node) = node {
        command.args(["-n", node]);
    }
    let mut child = command
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run ip (package iproute2)")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(batch.as_bytes()).context("cannot write to ip")?;
    }
    let output = child.wait_with_output().context("cannot wait for ip")?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let line = said
        .lines()
        .find_map(|l| l.strip_prefix("Command failed -:"))
        .and_then(|n| n.trim().parse::<usize>().ok())
        .and_then(|n| batch.lines().nth(n - 1))
        .unwrap_or_default();
    bail!("ip said {:?} to {line:?}", said.lines().next().unwrap_or_default());
}
