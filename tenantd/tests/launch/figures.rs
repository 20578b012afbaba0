//! What an init costs: memory and time. Memory is a promise (below 400 KiB); time depends on who else uses the
//! machine, so it is printed and only held to what is out of the question.

use std::time::{Duration, Instant};

use tenant_init::client::Client;
use tenant_init::protocol::{Ready, ServiceFile, ServiceSpec};
use tenantd::launch::{self, LaunchSpec, Launched};

use crate::tenant::{SOON, command, spec};

const TENANTS: usize = 50;

pub(crate) fn measure() {
    let root = tempfile::tempdir().unwrap();
    let (mut launches, mut ready, mut all) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..TENANTS {
        let spec = spec(root.path(), &format!("t{n}"));
        let since = Instant::now();
        let launched = launch::launch(&spec).unwrap();
        launches.push(since.elapsed());
        let hello = Client::connect(&spec.control_socket).unwrap().hello(SOON).unwrap();
        assert!(hello.ready, "{hello:?}");
        ready.push(since.elapsed());
        all.push((spec, launched));
    }
    let pss = pss(&all);
    // With a service that has files, prepares itself, writes a log and is watched until it is ready.
    let mut starts = Vec::new();
    for (spec, _) in &all {
        let mut client = Client::connect(&spec.control_socket).unwrap();
        let content = "a line of a configuration file\n".repeat(1600);
        let file = ServiceFile { path: "/srv/x".into(), content, mode: None, user: None, group: None, keep: false };
        let service = ServiceSpec {
            files: vec![file],
            prepare: vec![vec!["/bin/true".into()]],
            ready: Ready::Alive(20),
            ..command("a", &["/bin/sh", "-c", "seq 1000; exec sleep 1000"])
        };
        client.start(service, SOON).unwrap();
        let since = Instant::now();
        client.start(command("b", &["/bin/sleep", "1000"]), SOON).unwrap();
        starts.push(since.elapsed());
        assert_eq!(client.list(SOON).unwrap().len(), 2);
    }
    let busy = self::pss(&all);
    starts.sort();
    let since = Instant::now();
    for (spec, launched) in &all {
        launch::end(&launched.pidfd, SOON).unwrap();
        launch::forget(&spec.control_socket, &spec.state_dir).unwrap();
    }
    let ending = since.elapsed() / u32::try_from(TENANTS).unwrap();
    launches.sort();
    ready.sort();
    let (p50, p99) = (launches[TENANTS / 2], launches[TENANTS * 99 / 100]);
    println!("with two services each: {busy} KiB PSS; start of a process p50 {:?}", starts[TENANTS / 2]);
    println!(
        "{TENANTS} inits: {pss} KiB PSS each; launch min {:?} p50 {p50:?} p99 {p99:?}; ready p50 {:?}; end {ending:?}",
        launches[0],
        ready[TENANTS / 2]
    );
    assert!(pss < 400 && busy < 400, "{pss} KiB, {busy} KiB");
    // Ten times what a loaded machine needs: see above.
    assert!(p50 < Duration::from_millis(500), "{p50:?}");
}

/// Mean private and shared memory of an init, KiB.
fn pss(all: &[(LaunchSpec, Launched)]) -> usize {
    let one = |launched: &Launched| {
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", launched.pid)).unwrap();
        let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
        pss.trim().trim_end_matches(" kB").parse::<usize>().unwrap()
    };
    all.iter().map(|(_, launched)| one(launched)).sum::<usize>() / all.len()
}
