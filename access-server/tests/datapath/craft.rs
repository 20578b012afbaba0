//! Packets by hand, and running a program on them in the kernel.

use std::os::fd::{AsRawFd, BorrowedFd};

use libbpf_rs::libbpf_sys;

pub const UNSPEC: i32 = -1;
pub const SHOT: i32 = 2;
pub const REDIRECT: i32 = 7;

pub const IP4: u16 = 0x0800;
pub const IP6: u16 = 0x86dd;
pub const ARP: u16 = 0x0806;

pub fn sum(data: &[u8]) -> u16 {
    let mut sum: u32 = data.chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(c.get(1).copied().unwrap_or(0))).sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

pub fn eth(kind: u16, payload: &[u8]) -> Vec<u8> {
    // To address zero: the loopback device's, so that the kernel takes the frame for its own.
    [&[0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 9][..], &kind.to_be_bytes(), payload].concat()
}

pub fn tagged(vlan: u16, kind: u16, payload: &[u8]) -> Vec<u8> {
    eth(0x8100, &[&vlan.to_be_bytes()[..], &kind.to_be_bytes(), payload].concat())
}

/// An IP packet with its fields as they should be; tests then break one.
#[derive(Clone)]
pub struct Ip {
    pub src: String,
    pub dst: String,
    pub proto: u8,
    pub ttl: u8,
    pub tos: u8,
    pub df: bool,
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
}

pub fn ip(src: &str, dst: &str, proto: u8, payload: &[u8]) -> Ip {
    Ip {
        src: src.into(),
        dst: dst.into(),
        proto,
        ttl: 64,
        tos: 0,
        df: false,
        options: Vec::new(),
        payload: payload.to_vec(),
    }
}

impl Ip {
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }
    pub fn tos(mut self, tos: u8) -> Self {
        self.tos = tos;
        self
    }
    pub fn df(mut self) -> Self {
        self.df = true;
        self
    }
    pub fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self
    }

    pub fn is6(&self) -> bool {
        self.src.contains(':')
    }

    pub fn kind(&self) -> u16 {
        if self.is6() { IP6 } else { IP4 }
    }

    pub fn bytes(&self) -> Vec<u8> {
        if self.is6() {
            let (src, dst): (std::net::Ipv6Addr, std::net::Ipv6Addr) =
                (self.src.parse().unwrap(), self.dst.parse().unwrap());
            let first = 6u32 << 28 | u32::from(self.tos) << 20;
            let len = (self.payload.len() as u16).to_be_bytes();
            let head = [&first.to_be_bytes()[..], &len, &[self.proto, self.ttl], &src.octets(), &dst.octets()].concat();
            return [head, self.payload.clone()].concat();
        }
        let (src, dst): (std::net::Ipv4Addr, std::net::Ipv4Addr) =
            (self.src.parse().unwrap(), self.dst.parse().unwrap());
        let header = 20 + self.options.len();
        let total = (header + self.payload.len()) as u16;
        let mut head = vec![0x40 | (header / 4) as u8, self.tos];
        head.extend(total.to_be_bytes());
        head.extend([0, 0, if self.df { 0x40 } else { 0 }, 0, self.ttl, self.proto, 0, 0]);
        head.extend(src.octets());
        head.extend(dst.octets());
        head.extend(&self.options);
        fix(&mut head);
        [head, self.payload.clone()].concat()
    }

    pub fn frame(&self) -> Vec<u8> {
        eth(self.kind(), &self.bytes())
    }
}

/// Makes the checksum of an IPv4 header right again.
pub fn fix(header: &mut [u8]) {
    let len = usize::from(header[0] & 15) * 4;
    header[10..12].copy_from_slice(&[0, 0]);
    let right = sum(&header[..len]);
    header[10..12].copy_from_slice(&right.to_be_bytes());
}

/// A datagram without checksum.
pub fn udp(src: u16, dst: u16, payload: &[u8]) -> Vec<u8> {
    let len = (8 + payload.len()) as u16;
    [&src.to_be_bytes()[..], &dst.to_be_bytes(), &len.to_be_bytes(), &[0, 0], payload].concat()
}

pub fn gre(flags: u16, kind: u16, key: Option<u32>, payload: &[u8]) -> Vec<u8> {
    let key = key.map(|k| k.to_be_bytes().to_vec()).unwrap_or_default();
    [&flags.to_be_bytes()[..], &kind.to_be_bytes(), &key, payload].concat()
}

pub fn vxlan(vni: u32, frame: &[u8]) -> Vec<u8> {
    udp(50000, 4789, &[&[8, 0, 0, 0][..], &(vni << 8).to_be_bytes(), frame].concat())
}

/// A SYN with these options and a right checksum.
pub fn syn(from: &Ip, options: &[u8]) -> Vec<u8> {
    let mut tcp = vec![0x1b, 0x58, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, (((20 + options.len()) / 4) << 4) as u8, 2, 255, 255];
    tcp.extend([0, 0, 0, 0]);
    tcp.extend(options);
    let sum = transport_sum(from, 6, &tcp);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    tcp
}

/// Checksum with the pseudo header of `ip`; 0 where the data already has a right one.
pub fn transport_sum(ip: &Ip, proto: u8, data: &[u8]) -> u16 {
    let packet = ip.bytes();
    let ends = if ip.is6() { &packet[8..40] } else { &packet[12..20] };
    sum(&[ends, &[0, proto], &(data.len() as u16).to_be_bytes(), data].concat())
}

pub fn arp(operation: u16, sender: &str, target: &str) -> Vec<u8> {
    let v4 = |a: &str| a.parse::<std::net::Ipv4Addr>().unwrap().octets();
    [&[0, 1, 8, 0, 6, 4][..], &operation.to_be_bytes(), &[2, 0, 0, 0, 0, 9], &v4(sender), &[0; 6], &v4(target)].concat()
}

/// A neighbour solicitation with a right checksum.
pub fn solicitation(src: &str, target: &str) -> Vec<u8> {
    let mut question = ip(src, "ff02::1:ff00:1", 58, &[]).ttl(255);
    let mut nd = vec![135, 0, 0, 0, 0, 0, 0, 0];
    nd.extend(target.parse::<std::net::Ipv6Addr>().unwrap().octets());
    nd.extend([1, 1, 2, 0, 0, 0, 0, 9]);
    let sum = transport_sum(&question, 58, &nd);
    nd[2..4].copy_from_slice(&sum.to_be_bytes());
    question.payload = nd;
    question.bytes()
}

/// What a program made of a frame (of a super-packet where `gso_size` is not 0): its verdict and the frame, in which a
/// pushed tag is not seen.
pub fn run_gso(program: BorrowedFd<'_>, frame: &[u8], gso_size: u32) -> (i32, Vec<u8>) {
    let mut out = vec![0; 10_000];
    // struct __sk_buff: words up to gso_size, the 45th, and three behind it.
    let mut context = [0u32; 48];
    context[44] = gso_size;
    let mut opts = libbpf_sys::bpf_test_run_opts {
        sz: size_of::<libbpf_sys::bpf_test_run_opts>() as u64,
        data_in: frame.as_ptr().cast(),
        data_size_in: frame.len() as u32,
        data_out: out.as_mut_ptr().cast(),
        data_size_out: out.len() as u32,
        ctx_in: (&raw mut context).cast(),
        ctx_size_in: size_of_val(&context) as u32,
        repeat: 1,
        ..Default::default()
    };
    // SAFETY: every buffer lives through the call and is as long as said.
    let failed = unsafe { libbpf_sys::bpf_prog_test_run_opts(program.as_raw_fd(), &raw mut opts) };
    assert_eq!(failed, 0, "test run of {} bytes: {}", frame.len(), std::io::Error::last_os_error());
    out.truncate(opts.data_size_out as usize);
    (opts.retval as i32, out)
}
