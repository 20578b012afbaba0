//! What is compared: each row is a client, a server and a way between them.
//!
//! In every row of the first part the client sits *in the gateway*, which is wired to the server by one veth pair: the
//! limit is that pair alone, and what a row has more is what its tunnel and its way into the tenant cost. A LAN
//! behind the gateway would be one more veth in every row; the second part ("lan-...") has it.

use std::net::Ipv4Addr;
use std::rc::Rc;

use anyhow::{Context as _, Result};
use system_tests::daemons::INSTANCE;
use system_tests::plan::{Gateway, Inner, Kind, Options};
use system_tests::world::{Running, World, eventually, unique_name};

use crate::bare::{self, Constants, Program, Target};
use crate::flows::Way;
use crate::netns::Netns;

/// Outer address of the gateway.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
/// Outer address of the access server.
pub(crate) const ACCESS: Ipv4Addr = system_tests::plan::SERVER_OUTER_V4;
/// Ethernet addresses of the rows that are made of bare redirects: whoever ends the path has one of these two.
const CLIENT_MAC: &str = "02:00:5e:00:53:0a";
const SERVER_MAC: &str = "02:00:5e:00:53:01";
/// Addresses inside.
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 10);
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);

/// What a row is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Compared with limit and by-hand way, all measurements.
    Main,
    /// A rung of the ladder: what one hop costs.
    Ladder,
    /// With a LAN behind the gateway.
    Lan,
}

/// A BPF program on the way of a row.
pub(crate) struct Place {
    /// Where its device is.
    pub(crate) netns: Rc<Netns>,
    /// The device.
    pub(crate) device: String,
    /// `ingress` or `egress`.
    pub(crate) side: &'static str,
    /// What it does there.
    pub(crate) what: &'static str,
}

fn place(netns: &Rc<Netns>, device: &str, side: &'static str, what: &'static str) -> Place {
    Place { netns: Rc::clone(netns), device: device.to_owned(), side, what }
}

/// One row.
pub(crate) struct Row {
    /// Its name in table and JSON.
    pub(crate) name: &'static str,
    /// What it is, in words.
    pub(crate) what: &'static str,
    /// Where it belongs.
    pub(crate) part: Part,
    /// The programs a packet meets, up and then back; of the rows of which the bench tells.
    pub(crate) programs: Vec<Place>,
    client: Rc<Netns>,
    server: Rc<Netns>,
    client_address: Ipv4Addr,
    server_address: Ipv4Addr,
    /// What only has to live on.
    _between: Vec<Rc<Netns>>,
}

impl Row {
    /// Client to server.
    pub(crate) fn up(&self) -> Way<'_> {
        Way { from: &self.client, to: &self.server, address: self.server_address }
    }

    /// Server to client.
    pub(crate) fn down(&self) -> Way<'_> {
        Way { from: &self.server, to: &self.client, address: self.client_address }
    }
}

/// Everything that stands while the bench runs.
pub(crate) struct Scene {
    /// The rows in the order of the table.
    pub(crate) rows: Vec<Row>,
    /// The world of the product's rows.
    pub(crate) world: World,
    /// The world with the LAN, and its `access-server site`, which ends with it.
    _lan: (World, Running),
}

/// Builds all rows.
pub(crate) fn build() -> Result<Scene> {
    let mut rows = vec![raw()?, by_hand()?];
    let world = wired("bench")?;
    let gateway = Rc::new(Netns::node(&world, "gw-a")?);
    rows.extend(ours(&world, &gateway)?);
    rows.push(encap_only()?);
    rows.push(one_hop("plain-hop", "raw + one more veth, plain redirect between the two", Target::Plain)?);
    rows.push(one_hop("peer-hop", "raw + one more veth, redirect_peer towards the server", Target::Peer)?);
    rows.push(bare_path()?);
    rows.push(Row {
        name: "lan-raw",
        part: Part::Lan,
        ..one_hop("", "host, LAN, wire, server: two veth", Target::Plain)?
    });
    rows.push(lan_by_hand()?);
    let (row, lan) = lan_ours()?;
    rows.push(row);
    Ok(Scene { rows, world, _lan: lan })
}

/// The limit: one veth pair, two namespaces.
fn raw() -> Result<Row> {
    let (client, server) = (Netns::fresh()?, Netns::fresh()?);
    client.veth(("eth0", CLIENT_MAC), &server, ("eth0", SERVER_MAC))?;
    ends(&client, "eth0", &server, "eth0")?;
    Ok(row("raw", "one veth pair: the limit", Part::Main, client, server))
}

fn row(name: &'static str, what: &'static str, part: Part, client: Netns, server: Netns) -> Row {
    Row {
        name,
        what,
        part,
        client: Rc::new(client),
        server: Rc::new(server),
        programs: Vec::new(),
        client_address: CLIENT,
        server_address: SERVER,
        _between: Vec::new(),
    }
}

/// Addresses and permanent neighbours of both ends.
fn ends(client: &Netns, client_device: &str, server: &Netns, server_device: &str) -> Result<()> {
    client.ip(&end((CLIENT, client_device), (SERVER, SERVER_MAC)))?;
    server.ip(&end((SERVER, server_device), (CLIENT, CLIENT_MAC)))
}

fn end(own: (Ipv4Addr, &str), other: (Ipv4Addr, &str)) -> String {
    let device = own.1;
    format!(
        "address add {}/24 dev {device}\nneigh replace {} lladdr {} dev {device} nud permanent\n",
        own.0, other.0, other.1
    )
}

/// What an operator builds by hand on this kernel: vxlan at the gateway; vxlan, bridge and veth at the server.
fn by_hand() -> Result<Row> {
    let gateway = Netns::fresh()?;
    let (middle, server) = hand_server(&gateway, "wire")?;
    gateway.ip(&format!("{}address add {CLIENT}/24 dev tun0\nlink set tun0 up\n", hand_vxlan(GATEWAY, ACCESS)))?;
    let row = row("by-hand", "kernel vxlan - vxlan, bridge, veth, by hand", Part::Main, gateway, server);
    Ok(Row { _between: vec![Rc::new(middle)], ..row })
}

fn hand_vxlan(local: Ipv4Addr, remote: Ipv4Addr) -> String {
    format!("link add tun0 type vxlan id 300 local {local} remote {remote} dstport 4789\n")
}

/// The server's side of the by-hand way, wired to `gateway`: (the machine, the tenant).
fn hand_server(gateway: &Netns, wire: &str) -> Result<(Netns, Netns)> {
    let (machine, tenant) = (Netns::fresh()?, Netns::fresh()?);
    gateway.ip(&format!(
        "link add {wire} type veth peer name wan0 netns {}\nlink set {wire} up\naddress add {GATEWAY}/24 dev {wire}\n",
        machine.path()
    ))?;
    machine.ip(&format!(
        "link set wan0 up\naddress add {ACCESS}/24 dev wan0\n{}link add br0 type bridge forward_delay 0\n\
         link add p600 type veth peer name dev0 netns {}\n\
         link set tun0 master br0\nlink set p600 master br0\nlink set tun0 up\nlink set p600 up\nlink set br0 up\n",
        hand_vxlan(ACCESS, GATEWAY),
        tenant.path()
    ))?;
    tenant.ip(&format!("link set dev0 mtu 1450 up\naddress add {SERVER}/24 dev dev0\n"))?;
    Ok((machine, tenant))
}

/// A world whose gateway `gw-a` is wired to the access server by one veth pair (device `wire`): the lab's internet, a
/// router, gives its end of the server's link away.
pub(crate) fn wired(stem: &str) -> Result<World> {
    let options = Options {
        name: unique_name(stem),
        sites: 1,
        kinds: vec![Kind::Ipip],
        inner: Inner::V4,
        gateway: Gateway::None,
        ..Options::default()
    };
    let world = World::up(&options, &mut |_| {})?;
    world.ok("server", &["ip", "-n", "internet", "link", "set", "server", "netns", "gw-a", "name", "wire"])?;
    Netns::node(&world, "gw-a")?.ip(&format!("link set wire up\naddress add {GATEWAY}/24 dev wire\n"))?;
    Ok(world)
}

/// Adds a tenant; returns its stack.
fn tenant(world: &World, vlan: u8, address: Ipv4Addr, tunnel: &str) -> Result<Netns> {
    let (name, vlan, address) = (format!("bench-{vlan}"), vlan.to_string(), format!("{address}/24"));
    let argv = ["tenantd", "add-tenant", &name, "--vlan", &vlan, "--address", &address, "--tunnel", tunnel];
    world.ok("server", &argv).with_context(|| world.report())?;
    Netns::tenant(world, &name)
}

/// The product, with three kinds of tunnel from one gateway. IPIP and GRE, which this kernel may lack, are put on by
/// the bench's own bare program at the gateway's WAN device, VXLAN by the kernel's device as in the by-hand way.
fn ours(world: &World, gateway: &Rc<Netns>) -> Result<Vec<Row>> {
    ours_of(world, gateway, &[("ipip", 1, ""), ("gre", 2, ""), ("vxlan", 3, ",key=300")])
}

/// The product with one tenant behind IPIP.
pub(crate) fn ipip(world: &World) -> Result<Row> {
    let gateway = Rc::new(Netns::node(world, "gw-a")?);
    ours_of(world, &gateway, &[("ipip", 1, "")])?.pop().context("no row")
}

fn ours_of(world: &World, gateway: &Rc<Netns>, kinds: &[(&'static str, u8, &str)]) -> Result<Vec<Row>> {
    let address = |net: u8, host: u8| Ipv4Addr::new(192, 168, net, host);
    gateway.ip(&format!(
        "{}link set tun0 up\naddress add {}/24 dev tun0\n\
         address add {}/32 dev wire\naddress add {}/32 dev wire\n\
         route add {}/32 via {ACCESS} dev wire src {} mtu 1480\nroute add {}/32 via {ACCESS} dev wire src {} mtu 1476\n",
        hand_vxlan(GATEWAY, ACCESS),
        address(3, 10),
        address(1, 10),
        address(2, 10),
        address(1, 1),
        address(1, 10),
        address(2, 1),
        address(2, 10),
    ))?;
    let constants = Constants {
        local: GATEWAY,
        remote: ACCESS,
        ipip_to: address(1, 1),
        gre_to: address(2, 1),
        target: Target::None,
    };
    bare::attach(gateway, "wire", Program::EncapOut, &constants)?;
    bare::attach(gateway, "wire", Program::DecapIn, &constants)?;
    let mut rows = Vec::new();
    for &(kind, net, key) in kinds {
        let tunnel = format!("{kind}:{GATEWAY},local={ACCESS}{key}");
        let server = tenant(world, net, address(net, 1), &tunnel)?;
        rows.push(Row {
            name: kind,
            what: match kind {
                "vxlan" => "ours: kernel vxlan - access server, trunk, port",
                "gre" => "ours: bare GRE gateway - access server, trunk, port",
                _ => "ours: bare IPIP gateway - access server, trunk, port",
            },
            part: Part::Main,
            programs: if kind == "ipip" { programs(world, gateway, net)? } else { Vec::new() },
            client: Rc::clone(gateway),
            server: Rc::new(server),
            client_address: address(net, 10),
            server_address: address(net, 1),
            _between: Vec::new(),
        });
    }
    Ok(rows)
}

/// The product's programs, and the bare ones at the gateway, for the tenant with VLAN `vlan`.
fn programs(world: &World, gateway: &Rc<Netns>, vlan: u8) -> Result<Vec<Place>> {
    let server = Rc::new(Netns::node(world, "server")?);
    let room = Rc::new(Netns::open(&world.path(&format!("/run/tenantd/{INSTANCE}/patchroom")))?);
    let (port, trunk) = (format!("p{vlan}"), format!("trunk-{INSTANCE}"));
    Ok(vec![
        place(gateway, "wire", "egress", "up: into the tunnel (bare gateway)"),
        place(&server, "wan0", "ingress", "up: access server, out of the tunnel, tag"),
        place(&room, "trunk", "ingress", "up: vlan-rs, tag to port"),
        place(&room, &port, "ingress", "down: vlan-rs, port to tag"),
        place(&server, &trunk, "ingress", "down: access server, tag off, into the tunnel"),
        place(gateway, "wire", "ingress", "down: out of the tunnel (bare gateway)"),
    ])
}

fn tunnel_end(local: Ipv4Addr, remote: Ipv4Addr, inner: Ipv4Addr) -> Constants {
    Constants { local, remote, ipip_to: inner, ..Constants::default() }
}

/// The limit with a tunnel on it: bare IPIP at both ends, no further hop.
fn encap_only() -> Result<Row> {
    let (client, server) = (Netns::fresh()?, Netns::fresh()?);
    client.veth(("eth0", CLIENT_MAC), &server, ("eth0", SERVER_MAC))?;
    ends(&client, "eth0", &server, "eth0")?;
    narrow(&client, "eth0", SERVER)?;
    narrow(&server, "eth0", CLIENT)?;
    for (end, constants) in
        [(&client, tunnel_end(GATEWAY, ACCESS, SERVER)), (&server, tunnel_end(ACCESS, GATEWAY, CLIENT))]
    {
        bare::attach(end, "eth0", Program::EncapOut, &constants)?;
        bare::attach(end, "eth0", Program::DecapIn, &constants)?;
    }
    Ok(row("encap", "raw + bare IPIP at both ends", Part::Ladder, client, server))
}

/// Leaves room for the tunnel's header.
fn narrow(netns: &Netns, device: &str, to: Ipv4Addr) -> Result<()> {
    netns.ip(&format!("route add {to}/32 dev {device} mtu 1480\n"))
}

/// Two veth pairs in a row, with a redirect between them; the way back is a plain redirect, as to a WAN device.
fn one_hop(name: &'static str, what: &'static str, towards: fn(u32) -> Target) -> Result<Row> {
    let (client, middle, server) = (Netns::fresh()?, Netns::fresh()?, Netns::fresh()?);
    client.veth(("eth0", CLIENT_MAC), &middle, ("near", "02:00:5e:00:53:70"))?;
    middle.veth(("far", "02:00:5e:00:53:71"), &server, ("eth0", SERVER_MAC))?;
    ends(&client, "eth0", &server, "eth0")?;
    let to = |device: &str, target: fn(u32) -> Target| -> Result<Constants> {
        Ok(Constants { target: target(middle.ifindex(device)?), ..Constants::default() })
    };
    bare::attach(&middle, "near", Program::PassOn, &to("far", towards)?)?;
    bare::attach(&middle, "far", Program::PassOn, &to("near", Target::Plain)?)?;
    Ok(Row { _between: vec![Rc::new(middle)], ..row(name, what, Part::Ladder, client, server) })
}

/// The product's path with bare programs in place of the product's: no tag, no table, no check, no counter.
fn bare_path() -> Result<Row> {
    let (client, machine, room, server) = (Netns::fresh()?, Netns::fresh()?, Netns::fresh()?, Netns::fresh()?);
    client.veth(("eth0", CLIENT_MAC), &machine, ("wan0", SERVER_MAC))?;
    machine.veth(("trunk", "02:00:5e:00:53:70"), &room, ("trunk", "02:00:5e:00:53:71"))?;
    room.veth(("p600", "02:00:5e:00:53:72"), &server, ("dev0", SERVER_MAC))?;
    ends(&client, "eth0", &server, "dev0")?;
    narrow(&client, "eth0", SERVER)?;
    narrow(&server, "dev0", CLIENT)?;
    let gateway = tunnel_end(GATEWAY, ACCESS, SERVER);
    bare::attach(&client, "eth0", Program::EncapOut, &gateway)?;
    bare::attach(&client, "eth0", Program::DecapIn, &gateway)?;
    let access = |target| Constants { target, ..tunnel_end(ACCESS, GATEWAY, CLIENT) };
    bare::attach(&machine, "wan0", Program::DecapOn, &access(Target::Peer(machine.ifindex("trunk")?)))?;
    bare::attach(&machine, "trunk", Program::EncapOn, &access(Target::Plain(machine.ifindex("wan0")?)))?;
    bare::attach(&room, "trunk", Program::PassOn, &access(Target::Plain(room.ifindex("p600")?)))?;
    bare::attach(&room, "p600", Program::PassOn, &access(Target::Peer(room.ifindex("trunk")?)))?;
    let row = row("bare", "the product's path, bare programs", Part::Ladder, client, server);
    let (machine, room) = (Rc::new(machine), Rc::new(room));
    let programs = vec![
        place(&machine, "wan0", "ingress", "up: bare, out of the tunnel"),
        place(&room, "trunk", "ingress", "up: bare, to port"),
        place(&room, "p600", "ingress", "down: bare, to trunk"),
        place(&machine, "trunk", "ingress", "down: bare, into the tunnel"),
    ];
    Ok(Row { programs, ..row })
}

/// A host behind the by-hand gateway: its LAN and the vxlan device on a bridge.
fn lan_by_hand() -> Result<Row> {
    let (host, gateway) = (Netns::fresh()?, Netns::fresh()?);
    let (machine, server) = hand_server(&gateway, "wire")?;
    host.veth(("eth0", CLIENT_MAC), &gateway, ("lan0", "02:00:5e:00:53:70"))?;
    gateway.ip(&format!(
        "{}link add br0 type bridge forward_delay 0\nlink set lan0 master br0\nlink set tun0 master br0\n\
         link set tun0 up\nlink set br0 up\n",
        hand_vxlan(GATEWAY, ACCESS)
    ))?;
    host.ip(&format!("link set eth0 mtu 1450\naddress add {CLIENT}/24 dev eth0\n"))?;
    let row = row("lan-by-hand", "host, bridge with kernel vxlan - vxlan, bridge, veth", Part::Lan, host, server);
    Ok(Row { _between: vec![Rc::new(gateway), Rc::new(machine)], ..row })
}

/// A host behind `access-server site`.
fn lan_ours() -> Result<(Row, (World, Running))> {
    let world = wired("benchlan")?;
    let (gateway, access, server) = (GATEWAY.to_string(), format!("ipip:{ACCESS}"), SERVER.to_string());
    let argv = ["access-server", "site", "--lan", "lan0", "--wan", "wire", "--local", &gateway, "--tunnel", &access];
    let mut argv = argv.to_vec();
    argv.extend(["--server", &server, "--instance", "site"]);
    let site = world.spawn("gw-a", &argv)?;
    let stack = tenant(&world, 1, SERVER, &format!("ipip:{GATEWAY},local={ACCESS}"))?;
    eventually("the server answers the host behind access-server site", std::time::Duration::from_secs(60), || {
        world.ok("host-a", &["ping", "-q", "-c", "1", "-W", "1", &server]).ok()
    })?;
    let host = Netns::node(&world, "host-a")?;
    let what = "ours: host, access-server site (IPIP) - access server, trunk, port";
    let gateway = Rc::new(Netns::node(&world, "gw-a")?);
    let programs = vec![
        place(&gateway, "lan0", "ingress", "up: access-server site, into the tunnel"),
        place(&gateway, "wire", "ingress", "down: access-server site, out of the tunnel"),
    ];
    Ok((Row { programs, ..row("lan-ipip", what, Part::Lan, host, stack) }, (world, site)))
}
