//! From configuration to running programs: load over the pinned maps, then take the place of the former programs.

use std::collections::BTreeSet;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Once;

use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{PrintLevel, set_print};
use tracing::{debug, warn};

use super::attach::{self, Side};
use super::map::{Map, MapError};
use super::maps::{self, Maps};
use super::skel::{GatewaySkelBuilder, OpenGatewaySkel, types};
use super::{DatapathConfig, OpenError, Role, TrunkMode, wire};
use crate::fault;

/// What runs: the maps and the programs.
pub(super) struct Loaded {
    pub(super) maps: Maps,
    /// Ingress of the WAN devices.
    wan: OwnedFd,
    /// Ingress of the inside device.
    inside: OwnedFd,
    /// Egress of the inside device.
    inject: OwnedFd,
    pub(super) names: [&'static str; 3],
}

impl Loaded {
    /// The programs by name, for test runs and statistics.
    pub(super) fn programs(&self) -> [(&'static str, BorrowedFd<'_>); 3] {
        let [wan, inside, inject] = self.names;
        [(wan, self.wan.as_fd()), (inside, self.inside.as_fd()), (inject, self.inject.as_fd())]
    }
}

/// libbpf talks to stderr otherwise.
pub(super) fn quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        set_print(Some((PrintLevel::Info, |level, text| match level {
            // The clsact that is already there, see `attach`: the usual case at every start but the first.
            PrintLevel::Warn if text.contains("Exclusivity flag on") => debug!(target: "libbpf", "{}", text.trim_end()),
            PrintLevel::Warn => warn!(target: "libbpf", "{}", text.trim_end()),
            _ => debug!(target: "libbpf", "{}", text.trim_end()),
        })));
    });
}

pub(super) fn load(cfg: &DatapathConfig) -> Result<Loaded, OpenError> {
    quiet();
    std::fs::create_dir_all(&cfg.pin_dir).map_err(|source| OpenError::PinDir { path: cfg.pin_dir.clone(), source })?;
    let mut object = MaybeUninit::uninit();
    let mut open = GatewaySkelBuilder::default().open(&mut object).map_err(OpenError::Load)?;
    configure(&mut open, cfg)?;
    let older = maps::pin(&mut open.maps, cfg)?;
    let mut skel = open.load().map_err(OpenError::Load)?;
    maps::carry(&mut skel.maps, &older, &cfg.pin_dir)?;

    let maps = Maps::new(&skel.maps).map_err(OpenError::Load)?;
    let own = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map_err(|e| OpenError::Load(e.into()));
    let progs = &skel.progs;
    let (inside, inject, names) = match cfg.role {
        Role::Server { .. } => {
            (&progs.trunk_ingress, &progs.trunk_inject, ["wan_ingress", "trunk_ingress", "trunk_inject"])
        }
        Role::Site { .. } => (&progs.lan_ingress, &progs.lan_inject, ["wan_ingress", "lan_ingress", "lan_inject"]),
    };
    Ok(Loaded {
        maps,
        wan: own(progs.wan_ingress.as_fd())?,
        inside: own(inside.as_fd())?,
        inject: own(inject.as_fd())?,
        names,
    })
}

fn configure(open: &mut OpenGatewaySkel<'_>, cfg: &DatapathConfig) -> Result<(), OpenError> {
    let Some(constants) = open.maps.rodata_data.as_deref_mut() else {
        return Err(OpenError::NoConstants);
    };
    match &cfg.role {
        Role::Server { trunk } => {
            constants.role = 0;
            constants.inside_ifindex = trunk.ifindex;
            constants.inside_is_peer = trunk.mode == TrunkMode::Peer;
            open.progs.lan_ingress.set_autoload(false);
            open.progs.lan_inject.set_autoload(false);
        }
        Role::Site { lan, .. } => {
            constants.role = 1;
            constants.inside_ifindex = lan.ifindex;
            constants.inside_is_peer = lan.mode == TrunkMode::Peer;
            constants.lan_mac = mac_of(lan.ifindex)?;
            open.progs.trunk_ingress.set_autoload(false);
            open.progs.trunk_inject.set_autoload(false);
        }
    }
    Ok(())
}

/// Writes what the programs must know before they see a packet.
pub(super) fn addresses(maps: &Maps, cfg: &DatapathConfig) -> Result<(), MapError> {
    same(&maps.locals, &cfg.locals)?;
    match &cfg.role {
        Role::Server { .. } => same(&maps.servers, &[]),
        Role::Site { server_addrs, .. } => same(&maps.servers, server_addrs),
    }
}

/// Makes a set of addresses equal to `wanted`: first what is new, then what is gone.
fn same(map: &Map<types::address, u8>, wanted: &[IpAddr]) -> Result<(), MapError> {
    for addr in wanted {
        map.put(&wire::address(*addr), &1)?;
    }
    for key in map.keys()? {
        let addr = u8::try_from(key.family).map(|family| wire::addr(family, key.addr));
        if !addr.is_ok_and(|addr| wanted.contains(&addr)) {
            map.remove(&key)?;
        }
    }
    Ok(())
}

/// Attaches the programs to the devices of `cfg` and takes them off all others that had them.
pub(super) fn attach_all(loaded: &Loaded, cfg: &DatapathConfig) -> Result<(), OpenError> {
    let handle = attach::handle(&cfg.instance);
    let inside = cfg.role.inside_ifindex();
    let wans: BTreeSet<u32> = cfg.wans.iter().copied().filter(|w| *w != inside).collect();
    let places = wans
        .iter()
        .map(|wan| (*wan, &loaded.wan, Side::Ingress))
        .chain([(inside, &loaded.inject, Side::Egress), (inside, &loaded.inside, Side::Ingress)]);
    for (ifindex, program, side) in places {
        loaded.maps.devices.put(&ifindex, &1)?;
        attach::attach(program, ifindex, side, handle).map_err(|source| OpenError::Attach { ifindex, source })?;
        fault::point("attach.one");
    }
    for ifindex in loaded.maps.devices.keys()? {
        if ifindex != inside && !wans.contains(&ifindex) {
            detach(loaded, ifindex, handle)?;
        }
    }
    Ok(())
}

fn detach(loaded: &Loaded, ifindex: u32, handle: u32) -> Result<(), OpenError> {
    for side in [Side::Ingress, Side::Egress] {
        attach::detach(&loaded.wan, ifindex, side, handle).map_err(|source| OpenError::Attach { ifindex, source })?;
    }
    Ok(loaded.maps.devices.remove(&ifindex)?)
}

/// Takes the pins away; the maps go when the last program is gone.
pub(super) fn unpin(dir: &Path) -> Result<(), OpenError> {
    for name in maps::PINS {
        let path = dir.join(name);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(OpenError::PinDir { path, source });
            }
            _ => {}
        }
    }
    Ok(())
}

/// The Ethernet address of a device.
fn mac_of(ifindex: u32) -> Result<[u8; 6], OpenError> {
    let failed = |source| OpenError::NoMac { ifindex, source };
    let name = nix::net::if_::if_indextoname(ifindex).map_err(|e| failed(e.into()))?;
    // SAFETY: an all-zero ifreq is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.to_bytes()) {
        *to = *from as libc::c_char;
    }
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").map_err(failed)?;
    // SAFETY: SIOCGIFHWADDR reads the name and writes the address of an ifreq.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFHWADDR, &raw mut request) } != 0 {
        return Err(failed(std::io::Error::last_os_error()));
    }
    // SAFETY: the kernel has just written this member.
    let data = unsafe { request.ifr_ifru.ifru_hwaddr.sa_data };
    Ok(std::array::from_fn(|i| data[i] as u8))
}
