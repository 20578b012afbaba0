//! `tenantd add-service`: a process that is kept running inside a tenant.

use std::collections::BTreeMap;

use clap::Args;
use hyper::Method;
use stackmap::{Invalid, TenantName};

use super::{Context, Failure, body, status};
use crate::model::{ServiceRequest, ServiceStatus};

/// Arguments of `add-service`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
    tenantd add-service acme web --template nginx --set 'body=hello from acme'\n  \
    tenantd add-service acme echo -- /usr/bin/socat TCP-LISTEN:7,fork EXEC:cat")]
pub struct AddService {
    /// Tenant
    #[arg(value_name = "NAME")]
    name: TenantName,
    /// Name of the service: a DNS label of at most 48 characters
    #[arg(value_name = "SERVICE", value_parser = service_name)]
    service: TenantName,
    /// A known server: nginx, vsftpd or dnsmasq
    #[arg(long, value_name = "TEMPLATE", required_unless_present = "command", conflicts_with = "command")]
    template: Option<String>,
    /// A setting of the template; may be given several times
    #[arg(long, value_name = "KEY=VALUE", requires = "template", value_parser = setting)]
    set: Vec<(String, String)>,
    /// Program and arguments
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

/// A service's name is refused as `service`, not as `name`.
pub(super) fn service_name(s: &str) -> Result<TenantName, Invalid> {
    s.parse().map_err(|e: Invalid| e.for_field("service"))
}

fn setting(s: &str) -> Result<(String, String), Invalid> {
    match s.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(Invalid::new("set", s, "must be KEY=VALUE")),
    }
}

/// Adds and starts the service.
///
/// # Errors
/// [`Failure`].
pub fn run(args: AddService, cx: &Context) -> Result<(), Failure> {
    let mut set = BTreeMap::new();
    for (key, value) in args.set {
        if set.contains_key(&key) {
            return Err(Invalid::new("set", key, "is given twice").into());
        }
        set.insert(key, value);
    }
    let request = ServiceRequest { name: args.service, template: args.template, set, command: args.command };
    request.check()?;
    let path = format!("/v1/tenants/{}/services", args.name);
    let answer = cx.client.call(Method::POST, &path, body(&request))?;
    cx.say(&answer, |service: ServiceStatus| format!("service {}\n", status::service_words(&service)))
}
