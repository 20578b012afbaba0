//! What an init costs: memory and time. Memory is a promise (below 400 KiB); time depends on who else uses the
//! machine, so it is printed and only held to what is out of the question.

use std::time::{Duration, Instant};

use tenant_init::client::Client;
use tenantd::launch;

use crate::tenant::{SOON, spec};

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
    let mut total = 0;
    for (_, launched) in &all {
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", launched.pid)).unwrap();
        let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
        total += pss.trim().trim_end_matches(" kB").parse::<usize>().unwrap();
    }
    let since = Instant::now();
    for (spec, launched) in &all {
        launch::end(&launched.pidfd, SOON).unwrap();
        launch::forget(&spec.control_socket, &spec.state_dir).unwrap();
    }
    let ending = since.elapsed() / u32::try_from(TENANTS).unwrap();
    launches.sort();
    ready.sort();
    let (p50, p99) = (launches[TENANTS / 2], launches[TENANTS * 99 / 100]);
    let pss = total / TENANTS;
    println!(
        "{TENANTS} inits: {pss} KiB PSS each; launch min {:?} p50 {p50:?} p99 {p99:?}; ready p50 {:?}; end {ending:?}",
        launches[0],
        ready[TENANTS / 2]
    );
    assert!(pss < 400, "{pss} KiB");
    assert!(p50 < Duration::from_millis(50), "{p50:?}");
}
