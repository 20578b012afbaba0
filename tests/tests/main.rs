//! The system tests: one property a file. `cargo test -p system-tests isolation` runs one file.
//!
//! A test that cannot run here (not root, a program or a kernel feature missing) is shown as ignored with the
//! reason, never as passed.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod add_remove;
mod architecture;
mod attacks;
mod badinput;
mod bench;
mod between_sites;
mod churn;
mod daemons;
mod declare;
mod device;
mod doctor;
mod documents;
mod examples;
mod faults;
mod floor;
mod foreign_trunk;
mod foreign_uml;
mod foreign_vxlan;
mod hostile;
mod images;
mod inside_api;
mod instances;
mod isolation;
mod kill9;
mod kill_points;
mod large;
mod leftovers;
mod limits;
mod many;
mod metrics;
mod one_gateway;
mod packaging;
mod pmtu;
mod private_server;
mod push;
mod repair;
mod right_tenant;
mod scale;
mod service_manager;
mod sites;
mod standard_servers;
mod store;
mod tags;
mod trace;
mod transfer;
mod trunks;
mod two_boxes;
mod upgrade;
mod verify;
mod worlds;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = libtest_mimic::Arguments::from_args();
    // Worlds beside each other would measure each other's load.
    args.test_threads.get_or_insert(1);
    let trials = [
        architecture::trials(),
        worlds::trials(),
        bench::trials(),
        isolation::trials(),
        tags::trials(),
        push::trials(),
        foreign_vxlan::trials(),
        large::trials(),
        pmtu::trials(),
        right_tenant::trials(),
        foreign_uml::trials(),
        foreign_trunk::trials(),
        two_boxes::trials(),
        sites::trials(),
        between_sites::trials(),
        one_gateway::trials(),
        hostile::trials(),
        attacks::trials(),
        add_remove::trials(),
        kill9::trials(),
        kill_points::trials(),
        declare::trials(),
        faults::trials(),
        repair::trials(),
        store::trials(),
        private_server::trials(),
        standard_servers::trials(),
        inside_api::trials(),
        limits::trials(),
        many::trials(),
        scale::trials(),
        churn::trials(),
        leftovers::trials(),
        images::trials(),
        badinput::trials(),
        instances::trials(),
        device::trials(),
        doctor::trials(),
        documents::trials(),
        examples::trials(),
        verify::trials(),
        metrics::trials(),
        trace::trials(),
        service_manager::trials(),
        packaging::trials(),
        upgrade::trials(),
        trunks::trials(),
    ]
    .into_iter()
    .flatten()
    .collect();
    libtest_mimic::run(&args, trials).exit_code()
}
