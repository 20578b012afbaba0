//! Standard servers of the distribution with their packages' own configuration, from our templates and as plain
//! commands, really running in tenants on the image `host`, and asked by their real clients from a site of the closed
//! network. Needs root; every namespace is one that a test makes, and each test ends what it has started.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod all;
mod databases;
mod files;
mod names;
mod shell;
mod site;
mod tenant;
mod trouble;
mod web;

use std::path::Path;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Trial};
use nix::unistd::Uid;

/// A test: its name, the programs it needs beside root, itself.
type Test = (&'static str, &'static [&'static str], fn());

const NGINX: &str = "/usr/sbin/nginx";
const VSFTPD: &str = "/usr/sbin/vsftpd";
const DNSMASQ: &str = "/etc/dnsmasq.conf";
const SSHD: &str = "/usr/sbin/sshd";
const POSTGRESQL: &str = "/usr/bin/pg_createcluster";
const REDIS: &str = "/usr/bin/redis-server";
const CURL: &str = "/usr/bin/curl";
const LFTP: &str = "/usr/bin/lftp";
const DIG: &str = "/usr/bin/dig";
const SSH: &str = "/usr/bin/ssh";
const PSQL: &str = "/usr/bin/psql";
const REDIS_CLI: &str = "/usr/bin/redis-cli";

const TESTS: &[Test] = &[
    ("nginx_with_the_packages_own_configuration", &[NGINX, CURL], web::stock),
    ("nginx_as_a_plain_command", &[NGINX, CURL], web::plain_command),
    ("nginx_with_settings_changes_two_lines", &[NGINX, CURL], web::settings),
    ("vsftpd_serves_a_user_that_only_this_tenant_has", &[VSFTPD, CURL, LFTP], files::own_user),
    ("vsftpd_without_upload_and_chroot", &[VSFTPD, CURL], files::settings),
    ("dnsmasq_answers_its_records_and_nothing_else", &[DNSMASQ, DIG], names::records),
    ("dnsmasq_asks_upstream_when_told_to", &[DNSMASQ, DIG], names::upstream),
    ("sshd_logs_in_by_key_and_by_password", &[SSHD, SSH], shell::logins),
    ("sshd_host_keys_are_the_tenants_own_and_stay", &[SSHD, SSH], shell::host_keys),
    ("postgresql_serves_the_closed_network_and_keeps_its_data", &[POSTGRESQL, PSQL], databases::postgresql),
    ("redis_serves_the_closed_network_and_keeps_its_data", &[REDIS, REDIS_CLI], databases::redis),
    (
        "all_six_in_three_tenants_at_one_address",
        &[NGINX, VSFTPD, DNSMASQ, SSHD, POSTGRESQL, REDIS, CURL, DIG, SSH, PSQL, REDIS_CLI],
        all::three_tenants,
    ),
    ("a_server_that_exits_at_once_tells_its_last_lines", &[NGINX, CURL], trouble::exits_at_once),
    ("a_port_that_is_taken_is_told", &[NGINX], trouble::port_taken),
    ("a_password_is_in_no_argument_and_no_log", &[VSFTPD, REDIS], trouble::passwords),
];

fn main() -> ExitCode {
    let trials = TESTS.iter().map(|(name, programs, test)| {
        Trial::ignorable_test(*name, move || {
            if !Uid::effective().is_root() {
                return Ok(Completion::ignored_with("needs root"));
            }
            if let Some(missing) = programs.iter().find(|program| !Path::new(program).exists()) {
                return Ok(Completion::ignored_with(format!("{missing} is not installed")));
            }
            test();
            Ok(Completion::Completed)
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}
