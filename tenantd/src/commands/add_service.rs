//! `tenantd add-service`: a process that is kept running inside a tenant.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use clap::Args;
use hyper::Method;
use stackmap::{Invalid, TenantName};

use super::{Context, Failure, body, status};
use crate::model::{ReadyWhen, RestartPolicy, ServiceOptions, ServiceRequest, ServiceStatus, StopSignal};

/// Arguments of `add-service`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
    tenantd add-service acme web --template nginx --set 'body=hello from acme'\n  \
    tenantd add-service acme web --ready tcp:80 -- /usr/sbin/nginx -g 'daemon off;'\n  \
    tenantd add-service acme files --template vsftpd --set user=ada --set-from password=/root/ada.txt\n  \
    tenantd add-service acme echo --user nobody -- /usr/bin/socat TCP-LISTEN:7,fork EXEC:cat\n\n\
    tenantd template list names the templates, tenantd template show NAME their settings.")]
pub struct AddService {
    /// Tenant
    #[arg(value_name = "NAME")]
    name: TenantName,
    /// Name of the service: a DNS label of at most 48 characters
    #[arg(value_name = "SERVICE", value_parser = service_name)]
    service: TenantName,
    /// A known server, such as nginx
    #[arg(long, value_name = "TEMPLATE", required_unless_present = "command", conflicts_with = "command")]
    template: Option<String>,
    /// A setting of the template; may be given several times
    #[arg(long, value_name = "KEY=VALUE", requires = "template", value_parser = setting)]
    set: Vec<(String, String)>,
    /// A setting whose value is the first line of a file, or of standard input for "-": passwords, which every user of
    /// this machine would see in an argument
    #[arg(long, value_name = "KEY=FILE", requires = "template", value_parser = setting)]
    set_from: Vec<(String, String)>,
    #[command(flatten)]
    options: Options,
    /// Program and arguments
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

/// How the service runs. What is said here wins over the template.
#[derive(Debug, Args)]
struct Options {
    /// User of the tenant, by name or number [default: root]
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Group of the tenant [default: the user's]
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// Added to its environment; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// Working directory [default: the user's home]
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// A service that has to be ready before; may be given several times
    #[arg(long, value_name = "SERVICE", value_parser = service_name)]
    after: Vec<TenantName>,
    /// When it counts as ready: tcp:PORT, udp:PORT, exit (it is a piece of work that ends), alive:MILLISECONDS
    #[arg(long, value_name = "WHEN")]
    ready: Option<ReadyWhen>,
    /// How long that may take [default: 30]
    #[arg(long, value_name = "SECONDS")]
    ready_timeout: Option<u32>,
    /// What happens when it ends by itself [default: always]
    #[arg(long, value_name = "WHEN", value_enum)]
    restart: Option<RestartPolicy>,
    /// Signal that asks it to end [default: TERM]
    #[arg(long, value_name = "SIGNAL")]
    stop_signal: Option<StopSignal>,
    /// How long it may take to end before it is killed [default: 10]
    #[arg(long, value_name = "SECONDS")]
    stop_timeout: Option<u32>,
    /// Its programs may gain privileges by set-id programs (su, passwd)
    #[arg(long)]
    new_privileges: bool,
}

impl From<Options> for ServiceOptions {
    fn from(said: Options) -> Self {
        let Options { user, group, env, cwd, after, ready, ready_timeout, .. } = said;
        let Options { restart, stop_signal, stop_timeout, .. } = said;
        let new_privileges = said.new_privileges.then_some(true);
        let env = env.into_iter().collect();
        Self { user, group, env, cwd, after, ready, ready_timeout, restart, stop_signal, stop_timeout, new_privileges }
    }
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

fn variable(s: &str) -> Result<(String, String), Invalid> {
    setting(s).map_err(|e| e.for_field("env"))
}

/// Longest first line that is taken from a file, in bytes.
const LONGEST: u64 = 4096;

/// The first line of a file, or of standard input.
fn first_line(key: &str, file: &str) -> Result<String, Invalid> {
    let read = || {
        let mut text = String::new();
        match file {
            "-" => std::io::stdin().take(LONGEST).read_to_string(&mut text)?,
            file => std::fs::File::open(Path::new(file))?.take(LONGEST).read_to_string(&mut text)?,
        };
        Ok::<_, std::io::Error>(text)
    };
    let text = read().map_err(|e| Invalid::new("set-from", format!("{key}={file}"), format!("cannot be read: {e}")))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// Adds and starts the service.
///
/// # Errors
/// [`Failure`].
pub fn run(args: AddService, cx: &Context) -> Result<(), Failure> {
    let tenant = args.name;
    let mut set = BTreeMap::new();
    let mut all = args.set;
    for (key, file) in args.set_from {
        let value = first_line(&key, &file)?;
        all.push((key, value));
    }
    for (key, value) in all {
        if set.contains_key(&key) {
            return Err(Invalid::new("set", key, "is given twice").into());
        }
        set.insert(key, value);
    }
    let (name, template, command, options) = (args.service, args.template, args.command, args.options);
    let request = ServiceRequest { name, template, set, command, options: options.into() };
    request.check()?;
    let path = format!("/v1/tenants/{tenant}/services");
    let answer = cx.client.call(Method::POST, &path, body(&request))?;
    cx.say(&answer, |service: ServiceStatus| format!("service {}\n", status::service_words(&service)))
}
