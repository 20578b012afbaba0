//! What the guard costs: nanoseconds of `socket` + `close` and of a datagram, with and without it, and the time of the
//! verbs.
//!
//! `cargo bench -p stack-guard`, as root. Everything happens in namespaces and cgroups of its own. Rounds with and without
//! a guard take turns; told is processor time of the best round of each, because the rest is what else the machine does.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code)]
#[path = "../tests/kernel/world.rs"]
mod world;

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, setns};
use nix::unistd::{Gid, Pid, Uid};
use socket2::{Domain, Socket, Type};
use stack_guard::{Cgroup, Guard, OpenOptions, Row};
use world::{GIDS_A, Netns, cgroup_dir, pin_dir};

const ROUNDS: usize = 20;
const CALLS: u32 = 40_000;
const STACKS: u32 = 1000;

/// Set where this program shall be measured: what it does.
const ASKED: &str = "STACK_GUARD_BENCH";

const JOBS: [&str; 4] = ["TCP socket + close", "UDP socket + close", "UDP sendto, unconnected", "UDP send, connected"];

/// Nanoseconds a call.
fn measure(job: &str) -> f64 {
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let sink = UdpSocket::bind(local).unwrap();
    let to = sink.local_addr().unwrap();
    let from = UdpSocket::bind(local).unwrap();
    if job == JOBS[3] {
        from.connect(to).unwrap();
    }
    let mut bytes = [0; 32];
    let call: &mut dyn FnMut() = match job {
        _ if job == JOBS[0] => &mut || drop(Socket::new(Domain::IPV4, Type::STREAM, None).unwrap()),
        _ if job == JOBS[1] => &mut || drop(Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap()),
        _ if job == JOBS[2] => &mut || {
            from.send_to(&[0; 18], to).unwrap();
            sink.recv(&mut bytes).unwrap();
        },
        _ => &mut || {
            from.send(&[0; 18]).unwrap();
            sink.recv(&mut bytes).unwrap();
        },
    };
    for _ in 0..CALLS / 10 {
        call();
    }
    let start = processor_time();
    for _ in 0..CALLS {
        call();
    }
    (processor_time() - start) / f64::from(CALLS)
}

/// Nanoseconds this thread ran.
fn processor_time() -> f64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a buffer of the right type.
    let rc = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut now) };
    assert_eq!(rc, 0);
    now.tv_sec as f64 * 1e9 + now.tv_nsec as f64
}

/// Who is measured.
struct Who<'a> {
    name: &'static str,
    cgroup: &'a Path,
    netns: &'a Netns,
    gids: &'a [u32],
}

impl Who<'_> {
    /// In a process of its own, not root.
    fn measure(&self, job: &str) -> f64 {
        let procs = std::fs::OpenOptions::new().write(true).open(self.cgroup.join("cgroup.procs")).unwrap();
        let netns: File = self.netns.file.try_clone().unwrap();
        let gids: Vec<Gid> = self.gids.iter().map(|&gid| Gid::from_raw(gid)).collect();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(ASKED, job);
        // SAFETY: system calls alone, on what lives as long as the closure.
        unsafe {
            command.pre_exec(move || {
                nix::unistd::write(&procs, b"0")?;
                setns(&netns, CloneFlags::CLONE_NEWNET)?;
                nix::unistd::setgroups(&gids)?;
                nix::unistd::setresuid(Uid::from_raw(1000), Uid::from_raw(1000), Uid::from_raw(1000))?;
                let mut cpus = CpuSet::new();
                cpus.set(0)?;
                Ok(sched_setaffinity(Pid::from_raw(0), &cpus)?)
            });
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{job}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().parse().unwrap()
    }
}

fn nanoseconds() {
    let dir = cgroup_dir();
    let (own, deep) = (dir.join("a"), dir.join("outside/two/three"));
    std::fs::create_dir(&own).unwrap();
    std::fs::create_dir_all(&deep).unwrap();
    let (host, a) = (Netns::new(), Netns::new());
    let row = Row {
        cookie: a.cookie,
        cgroups: [Cgroup::at(&own).unwrap()].into(),
        gids_start: GIDS_A,
        max_connections: None,
    };
    let host_gids: Vec<u32> = (20..50).collect();
    let everybody = [
        Who { name: "nobody's process", cgroup: &deep, netns: &host, gids: &[] },
        Who { name: "nobody's, 30 host groups", cgroup: &deep, netns: &host, gids: &host_gids },
        Who { name: "a stack's, by cgroup", cgroup: &own, netns: &a, gids: &[] },
        Who { name: "a stack's, by gid", cgroup: &deep, netns: &a, gids: &[4, GIDS_A] },
    ];
    // `cargo bench -p stack-guard -- sendto` measures what has the word in its name.
    let word = std::env::args().skip(1).find(|word| !word.starts_with("--")).unwrap_or_default();
    for who in &everybody {
        for job in JOBS.into_iter().filter(|job| job.contains(&word)) {
            let (mut without, mut with) = (f64::MAX, f64::MAX);
            for _ in 0..ROUNDS {
                without = without.min(who.measure(job));
                let options = OpenOptions::new(&dir, pin_dir());
                let mut guard = Guard::open(&options).unwrap();
                guard.put(&row, None).unwrap();
                with = with.min(who.measure(job));
                drop(guard);
                stack_guard::discard(&options.pin_dir).unwrap();
            }
            let more = with - without;
            let percent = more / without * 100.0;
            println!(
                "{:28} {job:26} without {without:7.0} ns   with {with:7.0} ns   more {more:+6.0} ns ({percent:+5.1} %)",
                who.name
            );
        }
    }
}

fn line(name: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_nanos() as f64 / 1000.0;
    println!("{name:55} p50 {:8.1} us   p99 {:8.1} us   n {}", at(50), at(99), times.len());
}

fn timed<T>(times: &mut Vec<Duration>, job: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = job();
    times.push(start.elapsed());
    result
}

fn verbs() {
    let options = OpenOptions::new(cgroup_dir(), pin_dir());
    let (mut open, mut adopt, mut put, mut limit, mut counters, mut remove) =
        (vec![], vec![], vec![], vec![], vec![], vec![]);
    let mut guard = timed(&mut open, || Guard::open(&options).unwrap());
    let a = Netns::new();
    let row = |n: u32| Row {
        // Far from the cookies of namespaces that exist.
        cookie: (1 << 40) + u64::from(n),
        cgroups: [Cgroup { id: (1 << 40) + u64::from(n), level: 3 }].into(),
        gids_start: (n + 8) * 65_536,
        max_connections: None,
    };
    for n in 0..STACKS {
        timed(&mut put, || guard.put(&row(n), None).unwrap());
    }
    let limited = Row { cookie: a.cookie, max_connections: Some(100), ..row(STACKS) };
    timed(&mut limit, || guard.put(&limited, Some(std::os::fd::AsFd::as_fd(&a))).unwrap());
    drop(guard);
    let mut guard = timed(&mut adopt, || Guard::open(&options).unwrap());
    timed(&mut counters, || guard.counters().unwrap());
    for n in 0..STACKS {
        timed(&mut remove, || guard.remove(row(n).cookie).unwrap());
    }
    stack_guard::discard(&options.pin_dir).unwrap();
    line("Guard::open, new", open);
    line("Guard::open, adopting 1,000 stacks", adopt);
    line("put", put);
    line("put with max_connections", limit);
    line("counters of 1,000 stacks", counters);
    line("remove", remove);
}

fn main() {
    if let Ok(job) = std::env::var(ASKED) {
        println!("{}", measure(&job));
        return;
    }
    if let Some(why) = world::unable() {
        println!("not run: {why}");
        return;
    }
    world::leave_the_host();
    nanoseconds();
    verbs();
    world::clean_up();
}
