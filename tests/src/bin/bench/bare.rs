//! Puts the bench's own BPF programs on devices. A filter holds its program, so nothing is kept here.

use std::mem::MaybeUninit;
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result};
use libbpf_rs::skel::{OpenSkel as _, SkelBuilder as _};
use libbpf_rs::{TC_EGRESS, TC_INGRESS, TcAttachPoint, TcHookBuilder};

use crate::netns::Netns;

#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::undocumented_unsafe_blocks
)]
mod skel {
    include!(concat!(env!("OUT_DIR"), "/bare.skel.rs"));
}

/// One of the programs of `bare.bpf.c`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// Egress: into the tunnel.
    EncapOut,
    /// Ingress: out of the tunnel.
    DecapIn,
    /// Ingress: out of the tunnel and on to `target`.
    DecapOn,
    /// Ingress: into the tunnel and on to `target`.
    EncapOn,
    /// Ingress: on to `target`.
    PassOn,
}

/// The constants of a program.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Constants {
    /// Outer addresses.
    pub(crate) local: Ipv4Addr,
    /// Outer addresses.
    pub(crate) remote: Ipv4Addr,
    /// What `EncapOut` puts into IPIP.
    pub(crate) ipip_to: Ipv4Addr,
    /// What `EncapOut` puts into GRE.
    pub(crate) gre_to: Ipv4Addr,
    /// Device the `*On` programs send to, and whether by `redirect_peer`.
    pub(crate) target: Target,
}

/// Where a `*On` program sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Nowhere: a program that does not send.
    None,
    /// `bpf_redirect`.
    Plain(u32),
    /// `bpf_redirect_peer`.
    Peer(u32),
}

impl Default for Constants {
    fn default() -> Self {
        let none = Ipv4Addr::UNSPECIFIED;
        Self { local: none, remote: none, ipip_to: none, gre_to: none, target: Target::None }
    }
}

fn wire(address: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(address.octets())
}

/// Loads `program` and puts it on `device`.
pub(crate) fn attach(netns: &Netns, device: &str, program: Program, constants: &Constants) -> Result<()> {
    let ifindex = netns.ifindex(device)?;
    netns.run(|| put(ifindex, program, constants).with_context(|| format!("cannot put {program:?} on {device}")))
}

fn put(ifindex: u32, program: Program, constants: &Constants) -> Result<()> {
    let mut object = MaybeUninit::uninit();
    let mut open = skel::BareSkelBuilder::default().open(&mut object)?;
    let data = open.maps.rodata_data.as_deref_mut().context("the programs have no constants")?;
    data.outer_local = wire(constants.local);
    data.outer_remote = wire(constants.remote);
    data.ipip_to = wire(constants.ipip_to);
    data.gre_to = wire(constants.gre_to);
    (data.target, data.target_is_peer) = match constants.target {
        Target::None => (0, false),
        Target::Plain(ifindex) => (ifindex, false),
        Target::Peer(ifindex) => (ifindex, true),
    };
    let skel = open.load()?;
    let fd = match program {
        Program::EncapOut => skel.progs.encap_out.as_fd(),
        Program::DecapIn => skel.progs.decap_in.as_fd(),
        Program::DecapOn => skel.progs.decap_on.as_fd(),
        Program::EncapOn => skel.progs.encap_on.as_fd(),
        Program::PassOn => skel.progs.pass_on.as_fd(),
    };
    let point: TcAttachPoint = if program == Program::EncapOut { TC_EGRESS } else { TC_INGRESS };
    let mut hook =
        TcHookBuilder::new(fd).ifindex(i32::try_from(ifindex)?).replace(true).handle(1).priority(1).hook(point);
    // The second program of a device finds clsact there, which libbpf would report on standard error.
    let print = libbpf_rs::set_print(None);
    let created = hook.create().map(drop);
    libbpf_rs::set_print(print);
    created?;
    hook.attach()?;
    Ok(())
}
