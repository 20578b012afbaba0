//! What the maps hold outlives the process, and changes under traffic lose nothing.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use access_server::datapath::{Datapath, DropReason, MapError, OpenError, PutError, Role, TrunkDev, TrunkMode};
use access_server::row::{TunnelRow, VlanRow};
use ipnet::IpNet;
use libbpf_rs::{MapCore, MapFlags, MapHandle, MapType};
use stackmap::{Generation, TunnelId, TunnelKind, Vlan};

use crate::flows::{PATIENCE, addr, reaches, transfer, unexpected};
use crate::net::{exec, ifindex, inside, ip};
use crate::world::{HOST4, HOST6, SERVER4, SERVER6, Site, World, everything};

fn nets(list: &[&str]) -> Vec<IpNet> {
    list.iter().map(|n| n.parse().unwrap()).collect()
}

/// Questions and answers between a host and its server, 500 a second, until told to stop: (asked, answered).
fn chatter(world: &World, site: &Site, stop: &Arc<AtomicBool>) -> std::thread::JoinHandle<(u32, u32)> {
    let server = inside(&world.tenant(site.vlan), || UdpSocket::bind(addr(SERVER4, 7005)).unwrap());
    let host = inside(&world.host(site), || UdpSocket::bind(addr("0.0.0.0", 0)).unwrap());
    for socket in [&server, &host] {
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    }
    let ask = move |host: &UdpSocket, server: &UdpSocket| {
        let mut buffer = [0; 8];
        host.send_to(b"?", addr(SERVER4, 7005)).unwrap();
        let Ok((_, peer)) = server.recv_from(&mut buffer) else { return false };
        server.send_to(b"!", peer).unwrap();
        host.recv_from(&mut buffer).is_ok()
    };
    // Finds the neighbours: what comes before that may be lost.
    assert!((0..5).any(|_| ask(&host, &server)));
    let stop = stop.clone();
    std::thread::spawn(move || {
        let (mut asked, mut answered) = (0, 0);
        // As often as makes it traffic, also where this thread comes to nothing while the others work.
        while asked == answered && (!stop.load(Ordering::Relaxed) || asked <= 50) {
            asked += 1;
            answered += u32::from(ask(&host, &server));
            std::thread::sleep(Duration::from_millis(2));
        }
        (asked, answered)
    })
}

/// A world with one site of ours, served.
fn one_site(name: &str, extra: &[Site]) -> (World, Site, VlanRow) {
    let site = Site::new(1, 600, TunnelKind::Ipip, false, None);
    let mut sites = vec![site];
    sites.extend_from_slice(extra);
    let mut world = World::new(name, &sites);
    world.open();
    let row = world.row(&[(&site, everything())]);
    world.dp().put_vlan(&row).unwrap();
    world.add_tenant(&row, site.inner_mtu());
    world.add_our_gateway(&site, site.inner_mtu());
    (world, site, row)
}

pub fn no_packet_is_lost_while_others_change() {
    let other = Site::new(2, 601, TunnelKind::Vxlan, true, Some(9));
    let second = Site { kind: TunnelKind::Gre, key: Some(4), ..other };
    let (mut world, site, row) = one_site("change", &[other]);
    let stop = Arc::new(AtomicBool::new(false));
    let chat = chatter(&world, &site, &stop);
    let other_row = world.row(&[(&other, everything())]);
    // The same VLAN, with a second site beside the one that talks, and its prefix moving back and forth.
    let mut wider = world.row(&[(&site, everything()), (&second, nets(&["10.9.0.0/16"]))]);
    wider.generation = Generation(2);
    for round in 0..50u32 {
        world.dp().put_vlan(&other_row).unwrap();
        wider.tunnels[1].prefixes =
            nets(if round % 2 == 0 { &["10.9.0.0/16"] } else { &["10.8.0.0/16", "fd00:8::/32"] });
        wider.tunnels[1].mtu = 1300 + round;
        world.dp().put_vlan(&wider).unwrap();
        world.dp().delete_vlan(other_row.vlan).unwrap();
        world.dp().put_vlan(&row).unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    stop.store(true, Ordering::Relaxed);
    let (asked, answered) = chat.join().unwrap();
    assert_eq!(asked, answered);
    assert!(asked > 50, "{asked}");
    assert_eq!(world.dp().dump().unwrap(), [row]);
}

pub fn no_packet_is_lost_by_a_restart() {
    let (mut world, site, row) = one_site("restart", &[]);
    let stop = Arc::new(AtomicBool::new(false));
    let chat = chatter(&world, &site, &stop);
    for _ in 0..20 {
        world.datapath = None; // as by kill -9: nothing is undone
        std::thread::sleep(Duration::from_millis(10));
        world.open();
        assert!(world.dp().lost_at_open().is_empty());
        assert_eq!(world.dp().dump().unwrap(), std::slice::from_ref(&row));
    }
    stop.store(true, Ordering::Relaxed);
    let (asked, answered) = chat.join().unwrap();
    assert_eq!(asked, answered);
    assert!(asked > 50, "{asked}");
    // Counters went on, and exactly one program of ours sits on each side of each device.
    let counters = world.dp().counters().unwrap();
    assert!(counters.iter().any(|c| c.vlan == 600 && c.rx_packets >= u64::from(asked)));
    let filters = exec(&world.srv, "tc filter show dev near ingress").1;
    assert_eq!(filters.matches("name trunk_ingress").count(), 1, "{filters}");
}

/// Those whose rows the programs only read or change in place: a later version may make them longer.
const MAPS: &[&str] = &[
    "tunnels",
    "tunnels_out",
    "vlans",
    "vlan_metas",
    "prefixes",
    "paths",
    "path_states",
    "locals",
    "traffic",
    "buckets",
];

/// The next version has longer rows. It comes, once after having been killed half-way, takes everything over, and the
/// version before refuses what it does not know; all under traffic.
pub fn another_layout_is_carried_over_and_loses_nothing() {
    let (mut world, site, row) = one_site("carried", &[]);
    let stop = Arc::new(AtomicBool::new(false));
    let chat = chatter(&world, &site, &stop);
    std::thread::sleep(Duration::from_millis(100));
    let carried = |world: &mut World| {
        let counters = world.dp().counters().unwrap();
        counters.iter().find(|c| c.vlan == 600).map_or(0, |c| c.rx_packets)
    };
    let mut before = carried(&mut world);
    assert!(before > 0);
    let old = world.config.clone();
    // Half of the maps: what a version that was killed between two of them leaves.
    for maps in [&MAPS[..4], MAPS, MAPS] {
        world.datapath = None; // as by kill -9: nothing is undone
        world.config.longer_rows = maps;
        world.open();
        assert!(world.dp().lost_at_open().is_empty());
        assert_eq!(world.dp().dump().unwrap(), std::slice::from_ref(&row));
        std::thread::sleep(Duration::from_millis(50));
        let now = carried(&mut world);
        assert!(now >= before, "{now} {before}");
        before = now;
    }
    let length = |name: &str| MapHandle::from_pinned_path(old.pin_dir.join(name)).unwrap().value_size();
    assert_eq!((length("prefixes"), length("locals")), (12, 9));
    let left: Vec<_> = std::fs::read_dir(&old.pin_dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().ends_with("_new")), "{left:?}");
    // Back: refused in words, and the newer data path goes on.
    let refused = inside(&world.srv, || Datapath::open(&old).err().unwrap());
    assert!(matches!(&refused, OpenError::Layout { .. }) && refused.to_string().contains("newer"), "{refused}");
    std::thread::sleep(Duration::from_millis(50));
    // It can still be changed.
    let mut changed = row.clone();
    changed.generation = Generation(2);
    changed.tunnels[0].mtu -= 8;
    world.dp().put_vlan(&changed).unwrap();
    assert_eq!(world.dp().dump().unwrap(), [changed]);
    stop.store(true, Ordering::Relaxed);
    let (asked, answered) = chat.join().unwrap();
    assert_eq!(asked, answered);
    assert!(asked > 50, "{asked}");
}

/// A daemon that died in the middle of a change leaves nothing that belongs to nobody.
pub fn a_half_done_change_is_cleared() {
    let (mut world, site, row) = one_site("half", &[]);
    let b = Site { kind: TunnelKind::Gre, vlan: 601, key: Some(1), ..site };
    let row_b = world.row(&[(&b, nets(&["10.0.0.0/8"]))]);
    world.dp().put_vlan(&row_b).unwrap();
    let pin = |world: &World, name: &str| MapHandle::from_pinned_path(world.config.pin_dir.join(name)).unwrap();
    let keys = |world: &World, name: &str| pin(world, name).keys().count();
    let whole: Vec<usize> = ["tunnels", "prefixes", "paths"].map(|m| keys(&world, m)).to_vec();

    // Killed after the outer headers and a prefix were written, before anything refers to them.
    world.datapath = None;
    let (outs, prefixes) = (pin(&world, "tunnels_out"), pin(&world, "prefixes"));
    let used = (0..64u32)
        .map(|n| (n, outs.lookup(&n.to_ne_bytes(), MapFlags::ANY).unwrap().unwrap()))
        .find(|(_, out)| out.iter().any(|b| *b != 0))
        .unwrap();
    outs.update(&40u32.to_ne_bytes(), &used.1, MapFlags::ANY).unwrap();
    let mut stray = prefixes.keys().find(|key| key[..4] == 40u32.to_ne_bytes()).unwrap(); // 10.0.0.0/8
    stray[8] ^= 0x55;
    prefixes.update(&stray, &40u32.to_ne_bytes(), MapFlags::ANY).unwrap();
    world.open();
    assert!(world.dp().lost_at_open().is_empty());
    assert_eq!(world.dp().dump().unwrap(), [row.clone(), row_b.clone()]);
    assert_eq!(["tunnels", "prefixes", "paths"].map(|m| keys(&world, m)).to_vec(), whole);
    assert!(outs.lookup(&40u32.to_ne_bytes(), MapFlags::ANY).unwrap().unwrap().iter().all(|b| *b == 0));

    // Killed while a tunnel was getting a new number: one of its prefixes leads there already.
    world.datapath = None;
    outs.update(&41u32.to_ne_bytes(), &used.1, MapFlags::ANY).unwrap();
    let everywhere = prefixes.keys().find(|key| key[..7] == [32, 0, 0, 0, 0x58, 2, 4]).unwrap(); // 600, 0.0.0.0/0
    prefixes.update(&everywhere, &41u32.to_ne_bytes(), MapFlags::ANY).unwrap();
    world.open();
    assert_eq!(world.dp().dump().unwrap(), [row.clone(), row_b.clone()]);
    assert_eq!(prefixes.lookup(&everywhere, MapFlags::ANY).unwrap().unwrap(), used.0.to_ne_bytes());

    // Killed while the row of 601 was being removed: its tunnel is gone, its VLAN still there.
    world.datapath = None;
    let tunnels = pin(&world, "tunnels");
    let of_b = tunnels.keys().find(|key| key[36] == 2).unwrap(); // kind GRE
    tunnels.delete(&of_b).unwrap();
    prefixes.keys().filter(|key| key[4..6] == 601u16.to_ne_bytes()).for_each(|key| prefixes.delete(&key).unwrap());
    world.open();
    let rows = world.dp().dump().unwrap();
    assert_eq!(rows[0], row);
    assert!(rows.len() == 1 || rows[1].tunnels.is_empty(), "{rows:?}");
    // The owner puts it again, and it is whole.
    world.dp().put_vlan(&row_b).unwrap();
    assert_eq!(world.dp().dump().unwrap(), [row, row_b]);
}

pub fn what_cannot_be_is_refused() {
    let (mut world, site, row) = one_site("refuse", &[]);
    let elsewhere = VlanRow { vlan: Vlan::new(601).unwrap(), ..row.clone() };
    let taken = world.dp().put_vlan(&elsewhere);
    assert!(matches!(&taken, Err(PutError::TunnelTaken { vlan, .. }) if vlan.get() == 600), "{taken:?}");
    let twice = VlanRow { tunnels: vec![row.tunnels[0].clone(), row.tunnels[0].clone()], ..row.clone() };
    assert!(matches!(world.dp().put_vlan(&twice), Err(PutError::TunnelTwice { .. })));
    let gre = Site { kind: TunnelKind::Gre, ..site };
    let same = world.row(&[(&site, nets(&["10.0.0.0/8"])), (&gre, nets(&["10.0.0.0/8"]))]);
    assert!(matches!(world.dp().put_vlan(&same), Err(PutError::PrefixTwice { .. })));
    // More than there is room for: said with the number, and nothing has changed.
    let many = |key: u32| TunnelRow {
        id: TunnelId::new(TunnelKind::Gre, site.remote(), site.local(), Some(key)).unwrap(),
        prefixes: vec![IpNet::new(std::net::Ipv4Addr::from(0x0a00_0000 + key).into(), 32).unwrap()],
        mtu: 1400,
        next_hop: None,
    };
    let full = VlanRow { tunnels: (0..16_384).map(many).collect(), ..row.clone() };
    let refused = world.dp().put_vlan(&full).unwrap_err();
    assert_eq!(refused.to_string(), "table tunnels_out is full: 16384 entries");
    assert_eq!(world.dp().dump().unwrap(), [row]);
    assert!(matches!(refused, PutError::Map(MapError::Full { capacity: 16_384, .. })));
}

/// As many VLANs as a trunk has: written, read back, taken over by the next process, removed.
pub fn a_full_trunk() {
    let (mut world, site, row) = one_site("full", &[]);
    let rows: Vec<VlanRow> = (1..=Vlan::MAX)
        .filter(|vlan| *vlan != 600)
        .map(|vlan| {
            let mut row = VlanRow { vlan: Vlan::new(vlan).unwrap(), ..row.clone() };
            row.tunnels[0].id =
                TunnelId::new(TunnelKind::Gre, site.remote(), site.local(), Some(u32::from(vlan))).unwrap();
            row
        })
        .collect();
    // Another load on the machine makes it slower and never faster: the best of a few tries counts.
    let (mut put, mut open) = (Duration::MAX, Duration::MAX);
    for _ in 0..5 {
        for row in &rows {
            world.dp().delete_vlan(row.vlan).unwrap();
        }
        let start = std::time::Instant::now();
        for row in &rows {
            world.dp().put_vlan(row).unwrap();
        }
        put = put.min(start.elapsed());
        world.datapath = None;
        let start = std::time::Instant::now();
        world.open();
        open = open.min(start.elapsed());
        if put.max(open) < Duration::from_secs(4) {
            break;
        }
    }
    assert!(world.dp().lost_at_open().is_empty());
    let mut expected = rows.clone();
    expected.insert(599, row);
    assert_eq!(world.dp().dump().unwrap(), expected);
    println!("4,093 rows put in {put:?}, taken over in {open:?}");
    // Generous: a loaded debug build. What is held is that it does not grow with the square.
    assert!(put < Duration::from_secs(4) && open < Duration::from_secs(4), "{put:?} {open:?}");
    reaches(&world.host(&site), &world.tenant(600), SERVER4);
    for row in &rows {
        world.dp().delete_vlan(row.vlan).unwrap();
    }
    assert_eq!(world.dp().dump().unwrap().len(), 1);
}

/// A map of another version is not touched, and said to be one.
pub fn another_layout_is_refused() {
    let (mut world, ..) = one_site("layout", &[]);
    world.datapath = None;
    let path = world.config.pin_dir.join("vlans");
    std::fs::remove_file(&path).unwrap();
    let opts = libbpf_rs::libbpf_sys::bpf_map_create_opts {
        sz: size_of::<libbpf_rs::libbpf_sys::bpf_map_create_opts>() as u64,
        ..Default::default()
    };
    let mut other = MapHandle::create(MapType::Array, Some("vlans"), 4, 28, 4096, &opts).unwrap();
    other.pin(&path).unwrap();
    let config = world.config.clone();
    let refused = inside(&world.srv, || Datapath::open(&config).map(drop)).unwrap_err();
    assert!(matches!(refused, OpenError::Layout { table: "vlans", .. }), "{refused}");
    assert!(refused.to_string().contains("the size of a row is 28, this version has 24"), "{refused}");
    // Those before still run.
    let filters = exec(&world.srv, "tc filter show dev near ingress").1;
    assert!(filters.contains("trunk_ingress"), "{filters}");
}

/// Two instances on one WAN device: each takes its own tunnels' packets and leaves the other's alone.
pub fn instances_share_a_device() {
    let (mut world, site, _) = one_site("share", &[]);
    let srv = world.srv.clone();
    ip(&format!(
        "{srv}: link add near2 type veth peer name far2
         {srv}: link set near2 up
         {srv}: addr add 198.51.1.9/32 dev wan1"
    ));
    let mut config = world.config.clone();
    config.instance = "second".into();
    config.pin_dir.set_file_name("share-second");
    config.role = Role::Server { trunk: TrunkDev { ifindex: ifindex(&srv, "near2"), mode: TrunkMode::Plain } };
    config.locals = vec!["198.51.1.9".parse().unwrap()];
    let mut second = inside(&srv, || Datapath::open(&config)).unwrap();
    let mut other = world.row(&[(&site, everything())]);
    other.tunnels[0].id = TunnelId::new(TunnelKind::Ipip, site.remote(), "198.51.1.9".parse().unwrap(), None).unwrap();
    second.put_vlan(&other).unwrap();
    let filters = exec(&srv, "tc filter show dev wan1 ingress").1;
    assert_eq!(filters.matches("name wan_ingress").count(), 2, "{filters}");
    let (ten, host) = (world.tenant(600), world.host(&site));
    reaches(&host, &ten, SERVER4);
    assert_eq!(second.counters().unwrap().iter().map(|c| c.rx_packets).sum::<u64>(), 0);
    // Gone without a trace, and the first one works on.
    inside(&srv, || second.remove(&config)).unwrap();
    assert!(!config.pin_dir.join("vlans").exists());
    let filters = exec(&srv, "tc filter show dev wan1 ingress").1;
    assert_eq!(filters.matches("name wan_ingress").count(), 1, "{filters}");
    reaches(&host, &ten, SERVER4);
    assert_eq!(unexpected(&world, 600, &[DropReason::LinkScope, DropReason::ArpConsumed]), []);
    world.dp();
}

/// A device that is no longer a WAN device loses its program.
pub fn a_removed_wan_is_let_go() {
    let other = Site::new(2, 601, TunnelKind::Ipip, false, None);
    let (mut world, ..) = one_site("letgo", &[other]);
    let filters =
        |world: &World| exec(&world.srv, "tc filter show dev wan2 ingress").1.matches("name wan_ingress").count();
    assert_eq!(filters(&world), 1);
    world.config.wans.pop();
    world.datapath = None;
    world.open();
    assert_eq!(filters(&world), 0);
}

/// A trunk that is no veth into another namespace: frames leave by the device itself.
pub fn a_plain_trunk() {
    let (mut world, site, _) = one_site("plain", &[]);
    let Role::Server { trunk } = &mut world.config.role else { panic!() };
    trunk.mode = TrunkMode::Plain;
    world.open();
    let (ten, host) = (world.tenant(600), world.host(&site));
    for (server, client) in [(SERVER4, HOST4), (SERVER6, HOST6)] {
        transfer(&host, &ten, server, 2_000_000);
        transfer(&ten, &host, client, 2_000_000);
    }
}

/// Several sites of one closed network: the longest prefix decides, and frames to a group reach all of layer 2.
pub fn several_sites() {
    let a = Site::new(1, 600, TunnelKind::Vxlan, false, Some(1));
    let b = Site::new(2, 600, TunnelKind::Vxlan, true, Some(2));
    let mut world = World::new("several", &[a, b]);
    world.open();
    let row = world.row(&[(&a, nets(&["192.168.1.0/25", "fd00:1::/64"])), (&b, nets(&["192.168.1.128/25"]))]);
    world.dp().put_vlan(&row).unwrap();
    world.add_tenant(&row, 1430);
    world.add_kernel_gateway(&a, 1430);
    world.add_kernel_gateway(&b, 1430);
    let (ten, host_a, host_b) = (world.tenant(600), world.host(&a), world.host(&b));
    ip(&format!(
        "{host_b}: addr del {HOST4}/24 dev eth0
         {host_b}: addr add 192.168.1.200/24 dev eth0"
    ));
    for (host, address) in [(&host_a, HOST4), (&host_b, "192.168.1.200")] {
        reaches(host, &ten, SERVER4);
        reaches(&ten, host, address);
        transfer(&ten, host, address, 2_000_000);
    }
    // One broadcast of the server, heard at both.
    let heard: Vec<_> = [&host_a, &host_b]
        .map(|ns| {
            let socket = inside(ns, || UdpSocket::bind(addr("0.0.0.0", 7006)).unwrap());
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket
        })
        .into();
    inside(&ten, || {
        let socket = UdpSocket::bind(addr(SERVER4, 0)).unwrap();
        socket.set_broadcast(true).unwrap();
        socket.send_to(b"all", addr("192.168.1.255", 7006)).unwrap();
    });
    for socket in heard {
        let mut buffer = [0; 8];
        assert_eq!(socket.recv_from(&mut buffer).unwrap().0, 3);
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        assert!(socket.recv_from(&mut buffer).is_err(), "heard twice");
    }
}

/// A tenant that routes between its own sites: what came out of a tunnel goes into another one.
pub fn a_tenant_routes_between_its_sites() {
    for (kind_a, kind_b, outer6) in
        [(TunnelKind::Ipip, TunnelKind::Ipip, false), (TunnelKind::Ipip, TunnelKind::Gre, true)]
    {
        let a = Site::new(1, 600, kind_a, false, None);
        let b = Site::new(2, 600, kind_b, outer6, None);
        let mut world = World::new(if outer6 { "route6" } else { "route4" }, &[a, b]);
        world.open();
        let row = world.row(&[(&a, nets(&["192.168.1.0/25"])), (&b, nets(&["192.168.1.128/25"]))]);
        world.dp().put_vlan(&row).unwrap();
        world.add_tenant(&row, 1456);
        world.add_our_gateway(&a, 1456);
        world.add_our_gateway(&b, 1456);
        let (ten, host_a, host_b) = (world.tenant(600), world.host(&a), world.host(&b));
        inside(&ten, || {
            for (key, value) in
                [("ip_forward", "1"), ("conf/all/send_redirects", "0"), ("conf/dev0/send_redirects", "0")]
            {
                std::fs::write(format!("/proc/sys/net/ipv4/{key}"), value).unwrap();
            }
        });
        ip(&format!(
            "{host_b}: addr del {HOST4}/24 dev eth0
             {host_b}: addr add 192.168.1.200/24 dev eth0
             {host_a}: route add 192.168.1.200 via {SERVER4}
             {host_b}: route add {HOST4} via {SERVER4}"
        ));
        // Our gateways take packets for the server only: widen what they take to the other site.
        world.widen_site(0, "192.168.1.200");
        world.widen_site(1, HOST4);
        reaches(&host_a, &host_b, "192.168.1.200");
        // A super-packet still says what tunnel it came by, and would be cut for that one: the port of a tenant that
        // routes has these offloads off, so that its stack cuts it. What the tenant sends itself is not concerned.
        let off = ["tx-ipxip4", "tx-ipxip6", "tx-gre", "tx-gre-csum", "tx-udp_tnl", "tx-udp_tnl-csum"]
            .map(|kind| format!("{kind}-segmentation off"));
        let (done, said) = exec(&ten, &format!("ethtool -K dev0 {}", off.join(" ")));
        assert!(done, "{said}");
        transfer(&host_a, &host_b, "192.168.1.200", 2_000_000);
        transfer(&host_b, &host_a, HOST4, 2_000_000);
        // Nothing was said of IPv6, so its own questions lead nowhere.
        assert_eq!(unexpected(&world, 600, &[DropReason::NoSite]), []);
    }
}
