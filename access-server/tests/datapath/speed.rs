//! How fast, against a bare veth pair in the same run. Not a promise (that is `make bench`): a look at one's own work.
//! `cargo test -p access-server --test datapath -- --ignored speed --nocapture`

use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use libbpf_rs::libbpf_sys;
use stackmap::TunnelKind;

use crate::flows::{addr, any};
use crate::net::{exec, inside, ip};
use crate::world::{HOST4, SERVER4, Site, World, everything};

const ROUNDS: usize = 5;
const BATCH: usize = 32;

fn batch(socket: &UdpSocket, buffers: &mut [[u8; 64]; BATCH], send: bool) -> i32 {
    let mut iov: Vec<libc::iovec> =
        buffers.iter_mut().map(|b| libc::iovec { iov_base: b.as_mut_ptr().cast(), iov_len: 18 }).collect();
    let mut messages: Vec<libc::mmsghdr> = iov
        .iter_mut()
        .map(|iov| {
            // SAFETY: an all-zero mmsghdr is valid.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            message.msg_hdr.msg_iov = iov;
            message.msg_hdr.msg_iovlen = 1;
            message
        })
        .collect();
    let (fd, len) = (socket.as_raw_fd(), BATCH as u32);
    // SAFETY: messages, vectors and buffers live through the call.
    unsafe {
        if send {
            libc::sendmmsg(fd, messages.as_mut_ptr(), len, 0)
        } else {
            libc::recvmmsg(fd, messages.as_mut_ptr(), len, libc::MSG_WAITFORONE, std::ptr::null_mut())
        }
    }
}

fn pin_to(cpu: usize) {
    // SAFETY: a cpu_set_t is plain memory; the call reads it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
    }
}

/// Small datagrams received in a second.
fn small_packets(from: &str, to: &str, ip: &str) -> u64 {
    let receiver = inside(to, || UdpSocket::bind(addr(ip, 7004)).unwrap());
    receiver.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let sender = inside(from, || UdpSocket::bind(addr(any(ip), 0)).unwrap());
    sender.connect(addr(ip, 7004)).unwrap();
    sender.send(b"first").unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let stop = Arc::new(AtomicBool::new(false));
    let until = stop.clone();
    let count = std::thread::spawn(move || {
        pin_to(1);
        let mut buffers = [[0; 64]; BATCH];
        let mut count = 0u64;
        while !until.load(Ordering::Relaxed) {
            count += u64::try_from(batch(&receiver, &mut buffers, false)).unwrap_or(0);
        }
        count
    });
    std::thread::spawn(move || {
        pin_to(0);
        let start = Instant::now();
        let mut buffers = [[0; 64]; BATCH];
        while start.elapsed() < Duration::from_secs(1) {
            batch(&sender, &mut buffers, true);
        }
    })
    .join()
    .unwrap();
    stop.store(true, Ordering::Relaxed);
    count.join().unwrap()
}

/// Gbit/s of one TCP stream.
fn tcp(from: &str, to: &str, to_ip: &str) -> f64 {
    let mut server = std::process::Command::new("ip")
        .args(["netns", "exec", to, "iperf3", "-s", "-1", "-B", to_ip])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let (_, json) = exec(from, &format!("iperf3 -c {to_ip} -t 1 -J"));
    server.wait().unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap_or_default();
    json["end"]["sum_received"]["bits_per_second"].as_f64().unwrap_or(0.0) / 1e9
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// (runs, ns) of a program so far.
fn runs(fd: i32) -> (u64, u64) {
    let mut info = libbpf_sys::bpf_prog_info::default();
    let mut len = size_of_val(&info) as u32;
    // SAFETY: `info` is as long as `len` says.
    unsafe { libbpf_sys::bpf_obj_get_info_by_fd(fd, (&raw mut info).cast(), &raw mut len) };
    (info.run_cnt, info.run_time_ns)
}

pub fn speed() {
    let kinds = [
        Site::new(1, 600, TunnelKind::Ipip, false, None),
        Site::new(2, 601, TunnelKind::Gre, true, Some(7)),
        Site::new(3, 602, TunnelKind::Vxlan, false, Some(7)),
    ];
    let mut world = World::new("speed", &kinds);
    world.open();
    let raw = world.name.clone() + "-raw";
    world.space(&raw);
    world.space(&format!("{raw}2"));
    ip(&format!(
        "{raw}: link add v0 type veth peer name v1 netns {raw}2
         {raw}: link set v0 up
         {raw}2: link set v1 up
         {raw}: addr add {HOST4}/24 dev v0
         {raw}2: addr add {SERVER4}/24 dev v1"
    ));
    for site in &kinds {
        let row = world.row(&[(site, everything())]);
        world.dp().put_vlan(&row).unwrap();
        world.add_tenant(&row, site.inner_mtu());
        world.add_our_gateway(site, site.inner_mtu());
    }
    let far = format!("{raw}2");
    let mut ways: Vec<(String, String, String)> = vec![("veth".into(), raw.clone(), far)];
    ways.extend(kinds.iter().map(|s| (s.id().to_string(), world.host(s), world.tenant(s.vlan))));
    let (mut udp, mut down, mut up) = (vec![vec![]; ways.len()], vec![vec![]; ways.len()], vec![vec![]; ways.len()]);
    for _ in 0..ROUNDS {
        for (n, (_, host, server)) in ways.iter().enumerate() {
            udp[n].push(small_packets(host, server, SERVER4) as f64);
            up[n].push(tcp(host, server, SERVER4));
            down[n].push(tcp(server, host, HOST4));
        }
    }
    for (n, (name, ..)) in ways.iter().enumerate() {
        let of = |all: &[Vec<f64>]| (median(all[n].clone()), median(all[n].clone()) / median(all[0].clone()));
        let (u, t, d) = (of(&udp), of(&up), of(&down));
        println!(
            "{name:45} udp {:7.0} ({:.2})  tcp up {:5.1} ({:.2})  down {:5.1} ({:.2})",
            u.0, u.1, t.0, t.1, d.0, d.1
        );
    }
    // SAFETY: a plain system call; the descriptor it returns is closed with the process.
    let stats = unsafe { libbpf_sys::bpf_enable_stats(libbpf_sys::BPF_STATS_RUN_TIME) };
    assert!(stats >= 0);
    for (name, host, server) in &ways[1..] {
        let mut programs: Vec<(String, i32, (u64, u64))> = Vec::new();
        for (program, fd) in world.datapath.as_ref().unwrap().programs() {
            programs.push((program.into(), fd.as_raw_fd(), runs(fd.as_raw_fd())));
        }
        small_packets(host, server, SERVER4);
        small_packets(server, host, HOST4);
        for (program, fd, before) in programs {
            let after = runs(fd);
            let count = after.0 - before.0;
            println!("{name:45} {program}: {count} runs, {} ns", (after.1 - before.1).checked_div(count).unwrap_or(0));
        }
    }
}
