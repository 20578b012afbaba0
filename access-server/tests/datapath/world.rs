//! A server with a trunk and tenants behind it, an outer network, and customer gateways.
//!
//! ```text
//! hostX -- lan|gwX|wan -- wanX|srv|near -- trunk|room|pN -- dev0|tenN
//! ```

use std::net::IpAddr;
use std::path::PathBuf;

use access_server::datapath::{Datapath, DatapathConfig, Role, SITE_VLAN, TrunkDev, TrunkMode};
use access_server::row::{NextHop, TunnelRow, VlanRow};
use ipnet::IpNet;
use libbpf_rs::{MapCore, MapFlags, ObjectBuilder, TC_INGRESS, TcHook};
use stackmap::{Generation, Origin, TunnelId, TunnelKind, Vlan};

use crate::net::{compile, enter, ifindex, ip, scratch};

/// Server address inside every closed network.
pub const SERVER4: &str = "192.168.1.1";
/// The same, IPv6.
pub const SERVER6: &str = "fd00:1::1";
/// Host address inside every closed network.
pub const HOST4: &str = "192.168.1.10";
/// The same, IPv6.
pub const HOST6: &str = "fd00:1::10";

pub struct World {
    pub name: String,
    pub srv: String,
    pub room: String,
    pub datapath: Option<Datapath>,
    pub config: DatapathConfig,
    far: Option<libbpf_rs::Object>,
    sites: Vec<(Datapath, DatapathConfig)>,
    spaces: Vec<String>,
}

/// One closed network: site number, VLAN, tunnel.
#[derive(Clone, Copy)]
pub struct Site {
    pub number: u8,
    pub vlan: u16,
    pub kind: TunnelKind,
    pub outer6: bool,
    pub key: Option<u32>,
    pub mtu: u32,
}

impl Site {
    /// A site on a link of 1,500 bytes.
    pub fn new(number: u8, vlan: u16, kind: TunnelKind, outer6: bool, key: Option<u32>) -> Self {
        Self { number, vlan, kind, outer6, key, mtu: 1500 }
    }
    /// Router of `World::routed_link`.
    pub fn router(&self) -> IpAddr {
        self.outer(3)
    }
    /// The same from the gateway's side.
    pub fn far_router(&self) -> IpAddr {
        self.outer(4)
    }
    fn outer(&self, host: u8) -> IpAddr {
        let n = self.number;
        if self.outer6 { format!("2001:db8:{n}::{host}") } else { format!("198.51.{n}.{host}") }.parse().unwrap()
    }
    pub fn remote(&self) -> IpAddr {
        self.outer(2)
    }
    pub fn local(&self) -> IpAddr {
        self.outer(1)
    }
    pub fn id(&self) -> TunnelId {
        TunnelId::new(self.kind, self.remote(), self.local(), self.key).unwrap()
    }
    pub fn inner_mtu(&self) -> u32 {
        access_server::mtu::inner(&self.id(), self.mtu)
    }
    pub fn wan(&self) -> String {
        format!("wan{}", self.number)
    }
}

pub fn everything() -> Vec<IpNet> {
    vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()]
}

impl World {
    /// Server, trunk and `sites` outer links; nothing attached yet.
    pub fn new(name: &str, sites: &[Site]) -> Self {
        let (srv, room) = (format!("{name}-srv"), format!("{name}-room"));
        let mut world = Self {
            name: name.to_owned(),
            srv: srv.clone(),
            room: room.clone(),
            datapath: None,
            config: DatapathConfig {
                pin_dir: scratch().join("bpf").join(name),
                instance: name.to_owned(),
                role: Role::Server { trunk: TrunkDev { ifindex: 0, mode: TrunkMode::Peer } },
                wans: Vec::new(),
                locals: Vec::new(),
                longer_rows: &[],
            },
            far: None,
            sites: Vec::new(),
            spaces: Vec::new(),
        };
        world.space(&srv);
        world.space(&room);
        // As the patch room: nobody in it says anything of its own.
        crate::net::inside(&room, || {
            for scope in ["all", "default"] {
                std::fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6"), "1").unwrap();
            }
        });
        ip(&format!(
            "{srv}: link add near mtu 9000 type veth peer name trunk netns {room} mtu 9000
             {srv}: link set near up
             {room}: link set trunk up"
        ));
        for site in sites {
            world.outer_link(site);
        }
        world.config.role = Role::Server { trunk: TrunkDev { ifindex: ifindex(&srv, "near"), mode: TrunkMode::Peer } };
        world
    }

    pub fn space(&mut self, ns: &str) {
        ip(&format!("netns add {ns}"));
        // No duplicate address detection: it costs seconds and these networks have no duplicates.
        crate::net::inside(ns, || {
            for (key, value) in [("accept_dad", "0"), ("router_solicitations", "0")] {
                for scope in ["all", "default"] {
                    std::fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/{key}"), value).unwrap();
                }
            }
        });
        self.spaces.push(ns.to_owned());
    }

    fn outer_link(&mut self, site: &Site) {
        let (n, srv, mtu) = (site.number, self.srv.clone(), site.mtu);
        let gw = self.gateway(site);
        self.space(&gw);
        ip(&format!(
            "{srv}: link add wan{n} mtu {mtu} type veth peer name wan netns {gw} mtu {mtu}
             {srv}: link set wan{n} up
             {gw}: link set wan up
             {gw}: link set lo up
             {srv}: addr add 198.51.{n}.1/24 dev wan{n}
             {gw}: addr add 198.51.{n}.2/24 dev wan
             {srv}: addr add 2001:db8:{n}::1/64 dev wan{n} nodad
             {gw}: addr add 2001:db8:{n}::2/64 dev wan nodad"
        ));
        self.links(site);
    }

    /// A router between server and gateway; its link to the gateway takes `mtu` bytes.
    pub fn routed_link(&mut self, site: &Site, mtu: u32) {
        let n = site.number;
        let (srv, gw, router) = (self.srv.clone(), self.gateway(site), format!("{}-rt", self.name));
        self.space(&gw);
        self.space(&router);
        ip(&format!(
            "{srv}: link add wan{n} type veth peer name left netns {router}
             {gw}: link add wan mtu {mtu} type veth peer name right mtu {mtu} netns {router}
             {srv}: link set wan{n} up
             {router}: link set left up
             {router}: link set right up
             {gw}: link set wan up
             {srv}: addr add 198.51.{n}.1/32 dev wan{n}
             {srv}: addr add 2001:db8:{n}::1/128 dev wan{n} nodad
             {srv}: route add 198.51.{n}.3 dev wan{n}
             {srv}: route add 2001:db8:{n}::3 dev wan{n}
             {srv}: route add 198.51.{n}.2 via 198.51.{n}.3
             {srv}: route add 2001:db8:{n}::2 via 2001:db8:{n}::3
             {router}: addr add 198.51.{n}.3/32 dev left
             {router}: addr add 2001:db8:{n}::3/128 dev left nodad
             {router}: addr add 198.51.{n}.4/32 dev right
             {router}: addr add 2001:db8:{n}::4/128 dev right nodad
             {router}: route add 198.51.{n}.1 dev left
             {router}: route add 2001:db8:{n}::1 dev left
             {router}: route add 198.51.{n}.2 dev right
             {router}: route add 2001:db8:{n}::2 dev right
             {gw}: addr add 198.51.{n}.2/32 dev wan
             {gw}: addr add 2001:db8:{n}::2/128 dev wan nodad
             {gw}: route add 198.51.{n}.4 dev wan
             {gw}: route add 2001:db8:{n}::4 dev wan
             {gw}: route add 198.51.{n}.1 via 198.51.{n}.4
             {gw}: route add 2001:db8:{n}::1 via 2001:db8:{n}::4"
        ));
        crate::net::inside(&router, || {
            for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                std::fs::write(format!("/proc/sys/net/{key}"), "1").unwrap();
            }
        });
        self.links(site);
    }

    fn links(&mut self, site: &Site) {
        let n = site.number;
        self.config.wans.push(ifindex(&self.srv, &format!("wan{n}")));
        for local in [format!("198.51.{n}.1"), format!("2001:db8:{n}::1")] {
            self.config.locals.push(local.parse().unwrap());
        }
    }

    pub fn gateway(&self, site: &Site) -> String {
        format!("{}-gw{}", self.name, site.number)
    }
    pub fn host(&self, site: &Site) -> String {
        format!("{}-host{}", self.name, site.number)
    }
    pub fn tenant(&self, vlan: u16) -> String {
        format!("{}-ten{vlan}", self.name)
    }

    /// Starts the data path of the server, or takes its place.
    pub fn open(&mut self) {
        let (srv, config) = (self.srv.clone(), self.config.clone());
        self.datapath = Some(crate::net::inside(&srv, || Datapath::open(&config)).unwrap());
    }

    pub fn dp(&mut self) -> &mut Datapath {
        self.datapath.as_mut().unwrap()
    }

    /// The server's row for `sites`, all on one VLAN.
    pub fn row(&self, sites: &[(&Site, Vec<IpNet>)]) -> VlanRow {
        let vlan = sites[0].0.vlan;
        VlanRow {
            vlan: Vlan::new(vlan).unwrap(),
            owner: "test".parse().unwrap(),
            generation: Generation(1),
            origin: Origin::Operator,
            expires_at: None,
            server_mac: format!("02:00:00:01:{:02x}:{:02x}", vlan >> 8, vlan & 255).parse().unwrap(),
            gateway_mac: format!("02:00:00:02:{:02x}:{:02x}", vlan >> 8, vlan & 255).parse().unwrap(),
            tunnels: sites
                .iter()
                .map(|(site, prefixes)| TunnelRow {
                    id: site.id(),
                    prefixes: prefixes.clone(),
                    mtu: site.inner_mtu(),
                    next_hop: Some(NextHop { ifindex: ifindex(&self.srv, &site.wan()), via: site.remote() }),
                })
                .collect(),
        }
    }

    /// A tenant with the server address behind `vlan`.
    pub fn add_tenant(&mut self, row: &VlanRow, mtu: u32) {
        let (vlan, room) = (row.vlan.get(), self.room.clone());
        let ten = self.tenant(vlan);
        self.space(&ten);
        let (smac, gmac) = (row.server_mac, row.gateway_mac);
        ip(&format!(
            "{room}: link add p{vlan} mtu {mtu} type veth peer name dev0 netns {ten} mtu {mtu} address {smac}
             {room}: link set p{vlan} up
             {ten}: link set lo up
             {ten}: link set dev0 up"
        ));
        let layer2 = row.tunnels.iter().all(|t| t.id.kind() == TunnelKind::Vxlan);
        if layer2 {
            ip(&format!(
                "{ten}: addr add {SERVER4}/24 dev dev0
                 {ten}: addr add {SERVER6}/64 dev dev0 nodad"
            ));
        } else {
            ip(&format!(
                "{ten}: addr add {SERVER4}/24 dev dev0 noprefixroute
                 {ten}: addr add {SERVER6}/64 dev dev0 noprefixroute nodad
                 {ten}: neigh add fe80::1 lladdr {gmac} dev dev0 nud permanent
                 {ten}: -4 route add 0.0.0.0/0 via inet6 fe80::1 dev dev0 onlink
                 {ten}: -6 route add default via fe80::1 dev dev0 onlink"
            ));
        }
        self.far_end();
        let port = ifindex(&room, &format!("p{vlan}"));
        let far = self.far.as_ref().unwrap();
        for map in far.maps() {
            let (key, value) = match map.name().to_str().unwrap() {
                "ports" => (u32::from(vlan), port),
                _ => (port, u32::from(vlan)),
            };
            map.update(&key.to_ne_bytes(), &value.to_ne_bytes(), MapFlags::ANY).unwrap();
        }
        self.attach_far("far_port", port);
    }

    fn far_end(&mut self) {
        if self.far.is_some() {
            return;
        }
        let object = compile_once();
        self.far = Some(ObjectBuilder::default().open_file(object).unwrap().load().unwrap());
        let trunk = ifindex(&self.room, "trunk");
        for map in self.far.as_ref().unwrap().maps() {
            if map.name() == "vlans" {
                map.update(&0u32.to_ne_bytes(), &trunk.to_ne_bytes(), MapFlags::ANY).unwrap();
            }
        }
        self.attach_far("far_trunk", trunk);
    }

    fn attach_far(&self, name: &str, ifindex: u32) {
        use std::os::fd::AsFd;
        let far = self.far.as_ref().unwrap();
        let program = far.progs().find(|p| p.name() == name).unwrap();
        let fd = program.as_fd();
        crate::net::inside(&self.room, || {
            let mut hook = TcHook::new(fd);
            hook.ifindex(ifindex as i32).attach_point(TC_INGRESS).handle(1).priority(1).replace(true);
            hook.create().unwrap();
            hook.attach().unwrap();
        });
    }

    /// A host behind the gateway of `site`, which is ours.
    pub fn add_our_gateway(&mut self, site: &Site, lan_mtu: u32) {
        let (gw, host) = (self.gateway(site), self.host(site));
        self.space(&host);
        ip(&format!(
            "{gw}: link add lan mtu {lan_mtu} type veth peer name eth0 netns {host} mtu {lan_mtu}
             {gw}: link set lan up promisc on
             {host}: link set lo up
             {host}: link set eth0 up
             {host}: addr add {HOST4}/24 dev eth0
             {host}: addr add {HOST6}/64 dev eth0 nodad"
        ));
        let servers: Vec<IpAddr> = [SERVER4, SERVER6].iter().map(|a| a.parse().unwrap()).collect();
        let config = DatapathConfig {
            pin_dir: scratch().join("bpf").join(&gw),
            instance: gw.clone(),
            role: Role::Site {
                lan: TrunkDev { ifindex: ifindex(&gw, "lan"), mode: TrunkMode::Peer },
                server_addrs: servers.clone(),
            },
            wans: vec![ifindex(&gw, "wan")],
            locals: vec![site.remote()],
            longer_rows: &[],
        };
        let mut row = self.row(&[(site, servers.iter().map(|a| IpNet::from(*a)).collect())]);
        row.vlan = Vlan::new(SITE_VLAN).unwrap();
        row.tunnels[0].id = TunnelId::new(site.kind, site.local(), site.remote(), site.key).unwrap();
        let routed = self.spaces.contains(&format!("{}-rt", self.name));
        let via = if routed { site.far_router() } else { site.local() };
        row.tunnels[0].next_hop = Some(NextHop { ifindex: config.wans[0], via });
        let datapath = crate::net::inside(&gw, || {
            let mut datapath = Datapath::open(&config).unwrap();
            datapath.put_vlan(&row).unwrap();
            datapath
        });
        self.sites.push((datapath, config));
    }

    /// Makes the n-th of our gateways take packets for `address` too, as for a server.
    pub fn widen_site(&mut self, n: usize, address: &str) {
        let address: IpAddr = address.parse().unwrap();
        let (datapath, config) = &mut self.sites[n];
        let Role::Site { server_addrs, .. } = &mut config.role else { panic!() };
        server_addrs.push(address);
        let mut row = datapath.dump().unwrap().remove(0);
        row.tunnels[0].prefixes.push(address.into());
        *datapath = crate::net::inside(&config.instance, || {
            let mut datapath = Datapath::open(config).unwrap();
            datapath.put_vlan(&row).unwrap();
            datapath
        });
    }

    /// The data path of the n-th of our gateways.
    pub fn site_dp(&mut self, n: usize) -> &mut Datapath {
        &mut self.sites[n].0
    }

    /// A host behind a gateway with the kernel's vxlan device and a bridge.
    pub fn add_kernel_gateway(&mut self, site: &Site, lan_mtu: u32) {
        let (gw, host) = (self.gateway(site), self.host(site));
        let (remote, local) = (site.local(), site.remote());
        let (key, mtu) = (site.key.unwrap(), site.inner_mtu());
        let zero = if site.outer6 { "udp6zerocsumtx udp6zerocsumrx" } else { "" };
        self.space(&host);
        ip(&format!(
            "{gw}: link add lan mtu {lan_mtu} type veth peer name eth0 netns {host} mtu {lan_mtu}
             {gw}: link add name vx mtu {mtu} type vxlan id {key} remote {remote} local {local} dstport 4789 dev wan {zero}
             {gw}: link add name bridge0 type bridge
             {gw}: link set vx master bridge0
             {gw}: link set lan master bridge0
             {gw}: link set vx up
             {gw}: link set lan up
             {gw}: link set bridge0 up
             {host}: link set lo up
             {host}: link set eth0 up
             {host}: addr add {HOST4}/24 dev eth0
             {host}: addr add {HOST6}/64 dev eth0 nodad"
        ));
    }
}

fn compile_once() -> PathBuf {
    static OBJECT: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    OBJECT.get_or_init(|| compile("far_end.c")).clone()
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for datapath in self.datapath.iter().chain(self.sites.iter().map(|(d, _)| d)) {
                for counters in datapath.counters().unwrap_or_default() {
                    eprintln!("{}: {counters:?}", self.name);
                }
            }
            // To look around: DATAPATH_HOLD=seconds, then nsenter into the mount namespace of this process.
            if let Some(seconds) = std::env::var("DATAPATH_HOLD").ok().and_then(|s| s.parse().ok()) {
                std::thread::sleep(std::time::Duration::from_secs(seconds));
            }
        }
        // Every namespace and pin goes with the process; this keeps the run small.
        for (datapath, config) in self.sites.drain(..) {
            let gw = config.instance.clone();
            let _ = std::thread::spawn(move || {
                enter(&gw);
                datapath.remove(&config)
            })
            .join();
        }
        if let Some(datapath) = self.datapath.take() {
            let (srv, config) = (self.srv.clone(), self.config.clone());
            let _ = std::thread::spawn(move || {
                enter(&srv);
                datapath.remove(&config)
            })
            .join();
        }
        for ns in &self.spaces {
            let _ = std::process::Command::new("ip").args(["netns", "del", ns]).status();
        }
    }
}
