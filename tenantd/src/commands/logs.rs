//! `tenantd logs`: what a service wrote.

use std::io::Write;

use clap::Args;
use stackmap::TenantName;

use super::add_service::service_name;
use super::{Context, Failure};

/// Arguments of `logs`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tenantd logs acme web -f")]
pub struct Logs {
    /// Tenant
    #[arg(value_name = "NAME")]
    name: TenantName,
    /// Service
    #[arg(value_name = "SERVICE", value_parser = service_name)]
    service: TenantName,
    /// Stay and print what is written from now on
    #[arg(short, long)]
    follow: bool,
}

/// Prints the last 64 KiB of the log, and with `-f` what comes. The log is text: `--json` changes nothing.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &Logs, cx: &Context) -> Result<(), Failure> {
    let follow = if args.follow { "?follow=true" } else { "" };
    let path = format!("/v1/tenants/{}/logs/{}{follow}", args.name, args.service);
    let mut out = std::io::stdout().lock();
    cx.client.stream(&path, |piece| out.write_all(piece).and_then(|()| out.flush()))?;
    Ok(())
}
