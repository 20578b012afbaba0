//! Packet in, packet out: each program by itself in the kernel's test run, for every drop reason and every way through.
//!
//! A redirect is seen as the program's return value and, its target, in the recorded verdict. A pushed tag lies beside
//! the frame and is not in the output of a test run; veth.rs sees it on the wire.

use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use libbpf_rs::libbpf_sys;
use vlan_rs::{
    Counters, DropReason, Layer, OpenOptions, Program, RateLimit, Room, Tag, TrunkConfig, TrunkMode, UnknownTag,
    Verdict, Vid,
};

use crate::cases::{At, Case, Device, Expect};
use crate::frames::{GATEWAY, TENANT};
use crate::world::{Netns, pin_dir};

const TC_ACT_UNSPEC: u32 = u32::MAX;
const TC_ACT_SHOT: u32 = 2;
const TC_ACT_REDIRECT: u32 = 7;

/// MTU of all ports.
pub(crate) const MTU: u32 = 1400;

/// `struct __sk_buff` of `<linux/bpf.h>` (a stable interface) in 32-bit words, and where some fields are in it.
const CONTEXT_WORDS: usize = 48;
const MARK: usize = 2;
const PRIORITY: usize = 8;
const IFINDEX: usize = 10;
const GSO_SIZE: usize = 44;

/// What a program made of a frame.
struct Outcome {
    action: u32,
    frame: Vec<u8>,
    mark: u32,
    priority: u32,
}

/// BPF_PROG_TEST_RUN with a mark and a priority that must not survive.
fn test_run(room: &Room, program: Program, ifindex: u32, frame: &[u8], gso_size: u32) -> Outcome {
    let mut context = [0u32; CONTEXT_WORDS];
    (context[IFINDEX], context[GSO_SIZE]) = (ifindex, gso_size);
    (context[MARK], context[PRIORITY]) = (0xbad, 0xbad);
    let mut out = vec![0u8; frame.len() + 256];
    let size = u32::try_from(size_of_val(&context)).unwrap();
    let mut run = libbpf_sys::bpf_test_run_opts {
        sz: size_of::<libbpf_sys::bpf_test_run_opts>().try_into().unwrap(),
        data_in: frame.as_ptr().cast(),
        data_size_in: u32::try_from(frame.len()).unwrap(),
        data_out: out.as_mut_ptr().cast(),
        data_size_out: u32::try_from(out.len()).unwrap(),
        ctx_in: context.as_mut_ptr().cast(),
        ctx_size_in: size,
        ctx_out: context.as_mut_ptr().cast(),
        ctx_size_out: size,
        ..Default::default()
    };
    // SAFETY: the pointers are to buffers of the sizes given, which live until the call returns.
    let rc = unsafe { libbpf_sys::bpf_prog_test_run_opts(room.program(program).as_raw_fd(), &mut run) };
    assert_eq!(rc, 0, "test run: {}", std::io::Error::last_os_error());
    out.truncate(usize::try_from(run.data_size_out).unwrap());
    Outcome { action: run.retval, frame: out, mark: context[MARK], priority: context[PRIORITY] }
}

/// A room with every kind of device. Tenants and the far ends of trunks say nothing by themselves.
pub(crate) struct Bench {
    _others: [Netns; 2],
    room: Room,
    ports: [u32; 3],
    trunks: [u32; 3],
}

impl Bench {
    fn device(&self, device: Device) -> u32 {
        match device {
            Device::Layer3 => self.ports[0],
            Device::Layer2 => self.ports[1],
            Device::PlainPort => self.ports[2],
            Device::PeerTrunk => self.trunks[0],
            Device::PlainTrunk => self.trunks[1],
            Device::SharedTrunk => self.trunks[2],
        }
    }

    fn tag(&self, device: Device) -> Tag {
        let (trunk, vid) = match device {
            Device::Layer3 => (self.trunks[0], 600),
            Device::Layer2 => (self.trunks[0], 601),
            _ => (self.trunks[1], 600),
        };
        Tag { trunk, vid: Vid::try_from(vid).unwrap() }
    }
}

/// In the calling thread's namespace, which is the room's.
fn bench(here: &Netns) -> Bench {
    let (tenants, far) = (Netns::silent(), Netns::silent());
    let ports = [0, 1, 2].map(|n| here.veth(&format!("port{n}"), &tenants, &format!("dev{n}"), MTU));
    let trunks = [0, 1, 2].map(|n| here.veth(&format!("trunk{n}"), &far, &format!("far{n}"), 1500));
    let mut room = Room::open(&OpenOptions { record_verdicts: true, ..OpenOptions::new(pin_dir()) }).unwrap();
    room.attach_trunk(&TrunkConfig::new(trunks[0], TrunkMode::Peer)).unwrap();
    room.attach_trunk(&TrunkConfig::new(trunks[1], TrunkMode::Plain)).unwrap();
    let shared = TrunkConfig { unknown: UnknownTag::Pass, ..TrunkConfig::new(trunks[2], TrunkMode::Plain) };
    room.attach_trunk(&shared).unwrap();
    let bench = Bench { _others: [tenants, far], room, ports, trunks };
    add_ports(bench)
}

fn add_ports(mut bench: Bench) -> Bench {
    for device in [Device::Layer3, Device::Layer2, Device::PlainPort] {
        let tag = bench.tag(device);
        let mut config = crate::veth::port(bench.device(device), tag.trunk, tag.vid.get(), 1);
        config.neighbour_rate = RateLimit { per_second: 1, burst: 2 };
        config.packet_rate = RateLimit { per_second: 1000, burst: 64 };
        if device != Device::Layer2 {
            config.layer = Layer::Three;
            config.answer = ["192.168.1.0/24", "2001:db8:0:1::/64"].map(|p| p.parse().unwrap()).to_vec();
        }
        assert_eq!((config.mac, config.gateway_mac), (TENANT, GATEWAY));
        bench.room.put_port(&config).unwrap();
    }
    bench
}

/// In this time no bucket of the bench has refilled: the packets' comes back after 64 ms, the neighbours' after seconds.
const QUICK: Duration = Duration::from_millis(60);

/// Runs a case and looks at what becomes of it. A case of many frames is one of frames that come quickly: where this
/// thread was held up between the first and the last, they were not, and it is tried again from the start.
pub(crate) fn check(case: &Case) {
    assert!((0..50).any(|_| quickly(case)), "never {} frames within {QUICK:?}", case.times);
}

/// Runs a case in a room of its own and looks at the frame, the verdict and every counter of the room. False: its frames
/// took too long to come, and nothing is known.
fn quickly(case: &Case) -> bool {
    let here = Netns::silent();
    here.run(|| {
        let bench = bench(&here);
        let ifindex = bench.device(case.device);
        let start = Instant::now();
        for _ in 1..case.times {
            test_run(&bench.room, case.program, ifindex, &case.frame, case.gso_size);
        }
        let before = bench.room.counters().unwrap();
        let outcome = test_run(&bench.room, case.program, ifindex, &case.frame, case.gso_size);
        if case.times > 1 && start.elapsed() > QUICK {
            return false;
        }
        let mut wanted = before;
        let verdict = bench.room.last_verdict().unwrap();
        match &case.expect {
            Expect::Drop(reason, at) => {
                assert_eq!((outcome.action, verdict), (TC_ACT_SHOT, Some(Verdict::Dropped(*reason))));
                let drops = match at {
                    At::Port(port) => &mut wanted.ports.get_mut(&bench.tag(*port)).unwrap().drops,
                    At::Trunk(trunk) => wanted.trunks.get_mut(&bench.device(*trunk)).unwrap(),
                    At::Room => &mut wanted.room,
                };
                *drops.entry(*reason).or_default() += 1;
            }
            Expect::Sent { device, peer, frame } => {
                let to = Verdict::Sent { device: bench.device(*device), peer: *peer };
                assert_eq!((outcome.action, verdict), (TC_ACT_REDIRECT, Some(to)));
                assert_eq!(hex(&outcome.frame), hex(frame));
                assert_eq!(outcome.mark, 0, "a mark passed");
                if let Some(port) = case.counted_at() {
                    assert_eq!(outcome.priority, 0, "a priority passed");
                    count(wanted.ports.get_mut(&bench.tag(port)).unwrap(), case.program, frame.len());
                }
            }
            Expect::Next => {
                assert_eq!((outcome.action, verdict), (TC_ACT_UNSPEC, None));
                assert_eq!(hex(&outcome.frame), hex(&case.frame), "not ours, but changed");
            }
        }
        assert_eq!(bench.room.counters().unwrap(), wanted);
        true
    })
}

fn count(counters: &mut Counters, program: Program, bytes: usize) {
    let bytes = u64::try_from(bytes).unwrap();
    match program {
        Program::Trunk => (counters.rx_packets, counters.rx_bytes) = (counters.rx_packets + 1, bytes),
        Program::Port => (counters.tx_packets, counters.tx_bytes) = (counters.tx_packets + 1, bytes),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A reason without a case would be a promise without a test.
pub(crate) fn every_reason_has_a_case(cases: &[Case]) {
    // Only a kernel out of memory does the first. A test run takes no frame as long as the second needs: see veth.rs.
    const NOT_PROVOKED: &[DropReason] = &[DropReason::KernelRefused, DropReason::GsoTooLong];
    for reason in DropReason::ALL {
        let tested = cases.iter().any(|case| matches!(&case.expect, Expect::Drop(r, _) if r == reason));
        assert_eq!(tested, !NOT_PROVOKED.contains(reason), "{reason}");
    }
}
