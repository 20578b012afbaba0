//! The program: reads the command line, runs one verb, turns its end into an exit code.
//!
//! 0 done, 1 refused or failed, 2 wrong usage, 3 `verify` found a disagreement, 4 `diff --exit-code` found a difference. `exec` and `shell` pass on the code of
//! their command.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use tenantd::client::Client;
use tenantd::commands::{self, Context, Failure, chain};
use tenantd::config::{DEFAULT_INSTANCE, INSIDE_SOCKET, check_instance, default_socket};

/// Where the help of every verb lists what all verbs have.
const GLOBAL: &str = "Options of every verb";

/// Closed networks on one server: each tenant has a stack, a port and a process group of its own
#[derive(Debug, Parser)]
#[command(
    name = "tenantd",
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = "Example:\n  tenantd run &\n  \
        tenantd add-tenant acme --address 192.168.1.1/24 --vlan 600 --tunnel ipip:129.60.2.1\n  \
        tenantd add-service acme web --template nginx\n  tenantd map\n\n\
        Exit codes: 0 done, 1 refused or failed, 2 wrong usage."
)]
struct Cli {
    /// Print what the API says, as JSON (field names in docs/json.md)
    #[arg(long, global = true, help_heading = GLOBAL)]
    json: bool,
    /// The daemon's socket [default: /run/tenantd/INSTANCE/api.sock; inside a tenant its own]
    #[arg(long, global = true, help_heading = GLOBAL, env = "TENANTD_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The daemon's instance name [default: main]
    #[arg(long, global = true, help_heading = GLOBAL, env = "TENANTD_INSTANCE", value_name = "NAME")]
    instance: Option<String>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the daemon in the foreground
    Run(commands::run::Run),
    /// Make a tenant; returns when its stack has answered through its port
    AddTenant(Box<commands::add_tenant::AddTenant>),
    /// End a tenant and everything of it
    RemoveTenant(commands::remove_tenant::RemoveTenant),
    /// List all tenants
    List(commands::list::List),
    /// Show one tenant as it was asked for
    Show(commands::show::Show),
    /// Print the three tables
    Map(commands::map::Map),
    /// Show who changed what, and what came of it
    Audit(commands::audit::Audit),
    /// Write everything the store holds into one file, while everything runs
    Backup(commands::backup::Backup),
    /// Bring the tenants to what a backup says, while everything runs
    Restore(commands::restore::Restore),
    /// Show what is so: the daemon, or one tenant
    Status(commands::status::Status),
    /// Do tables and kernel agree? Every process, socket, port, tag, tunnel and guard row is looked at
    Verify(commands::verify::Verify),
    /// Follow one flow through tunnel, tag, port, stack, filter and socket and back; says where it ends and why
    Trace(commands::trace::TraceArgs),
    /// Is this machine fit for tenants? Kernel, limits, disk, network managers, leftovers
    Doctor(Box<commands::doctor::Doctor>),
    /// What would be done for tenants now, and why; nothing is done
    Plan(commands::plan::Plan),
    /// Add a site to a tenant, or change the prefixes behind one
    AddTunnel(commands::add_tunnel::AddTunnel),
    /// Take a site away from a tenant
    RemoveTunnel(commands::remove_tunnel::RemoveTunnel),
    /// Replace the server's addresses in a tenant
    SetAddress(commands::set_address::SetAddress),
    /// Add an address to the server in a tenant
    AddAddress(commands::add_address::AddAddress),
    /// Take an address of the server in a tenant away
    RemoveAddress(commands::remove_address::RemoveAddress),
    /// Replace a tenant's further routes
    SetRoute(commands::set_route::SetRoute),
    /// Add a further route to a tenant
    AddRoute(commands::add_route::AddRoute),
    /// Take a further route of a tenant away
    RemoveRoute(commands::remove_route::RemoveRoute),
    /// Replace a tenant's name servers
    SetDns(commands::set_dns::SetDns),
    /// Replace what a tenant's stack lets in
    SetFilter(commands::set_filter::SetFilter),
    /// Change what a tenant may use of the machine
    SetLimits(commands::set_limits::SetLimits),
    /// End everything that runs in a tenant and start it again
    RestartTenant(commands::restart_tenant::RestartTenant),
    /// Put one directory of the host into several tenants
    Share(commands::share::Share),
    /// Take a directory of the host out of tenants
    Unshare(commands::unshare::Unshare),
    /// What tenants' root file systems are made from
    Image(commands::image::Image),
    /// List the directories that tenants share
    ListShares(commands::list_shares::ListShares),
    /// Add and start a service in a tenant
    AddService(commands::add_service::AddService),
    /// Stop and forget a service
    RemoveService(commands::remove_service::RemoveService),
    /// Stop and start a service
    RestartService(commands::restart_service::RestartService),
    /// Stop a service until it or its tenant is started again
    StopService(commands::stop_service::StopService),
    /// Start a service that was stopped
    StartService(commands::start_service::StartService),
    /// Tell a service to read its files again (SIGHUP)
    ReloadService(commands::reload_service::ReloadService),
    /// Servers that can be added by name, and their settings
    Template(commands::template::Template),
    /// Print what a service wrote
    Logs(commands::logs::Logs),
    /// Run a command in a tenant
    Exec(commands::exec::Exec),
    /// Log in to a tenant
    Shell(commands::shell::Shell),
    /// Copy files into a tenant or out of it
    Cp(commands::cp::Cp),
    /// Watch what tenants use
    Top(commands::top::Top),
    /// List the places at which a test can end the daemon
    #[command(hide = true)]
    FaultPoints(commands::fault_points::FaultPoints),
    /// Bring all tenants to what a declarative file says
    Apply(commands::apply::Apply),
    /// Say what apply would do
    Diff(commands::diff::Diff),
    /// Print tenants as a declarative file
    Export(commands::export::Export),
    /// Make the tenants of an exported file
    Import(commands::import::Import),
    /// Print the JSON Schema of the declarative file
    Schema(commands::schema::Schema),
    /// Print the completion script of a shell
    Completion(commands::completion::Completion),
    /// Write the manual pages
    #[command(hide = true)]
    Man(commands::man::Man),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.json;
    match dispatch(cli) {
        Ok(code) => code.into(),
        Err(failure) if failure.is_broken_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            if json {
                eprintln!("{}", serde_json::to_string(&failure.problem()).unwrap_or_default());
            } else if let Failure::Faults(faults) = &failure {
                // As compilers do: whatever jumps to their lines can jump to ours.
                eprintln!("{faults}");
            } else {
                eprintln!("tenantd: {}", chain(&failure));
            }
            failure.exit_code().into()
        }
    }
}

fn dispatch(cli: Cli) -> Result<u8, Failure> {
    let verb = match cli.verb {
        Verb::Run(args) => return commands::run::run(args, cli.instance, cli.socket).map(|()| 0),
        Verb::Completion(args) => return commands::completion::run(&args, &mut Cli::command()).map(|()| 0),
        Verb::Man(args) => return commands::man::run(&args, Cli::command()).map(|()| 0),
        verb => verb,
    };
    let cx = context(cli.json, cli.socket, cli.instance.clone())?;
    match verb {
        Verb::Run(_) | Verb::Completion(_) | Verb::Man(_) => Ok(()),
        Verb::AddTenant(args) => commands::add_tenant::run(*args, &cx),
        Verb::RemoveTenant(args) => commands::remove_tenant::run(&args, &cx),
        Verb::List(args) => commands::list::run(&args, &cx),
        Verb::Show(args) => commands::show::run(&args, &cx),
        Verb::Map(args) => commands::map::run(&args, &cx),
        Verb::Backup(args) => commands::backup::run(&args, &cx),
        Verb::Restore(args) => commands::restore::run(&args, &cx),
        Verb::Audit(args) => commands::audit::run(&args, &cx),
        Verb::Status(args) => commands::status::run(&args, &cx),
        Verb::Doctor(args) => return commands::doctor::run(*args, &cx, cli.instance),
        Verb::Plan(args) => commands::plan::run(&args, &cx),
        Verb::AddTunnel(args) => commands::add_tunnel::run(&args, &cx),
        Verb::RemoveTunnel(args) => commands::remove_tunnel::run(&args, &cx),
        Verb::SetAddress(args) => commands::set_address::run(&args, &cx),
        Verb::AddAddress(args) => commands::add_address::run(&args, &cx),
        Verb::RemoveAddress(args) => commands::remove_address::run(&args, &cx),
        Verb::SetRoute(args) => commands::set_route::run(&args, &cx),
        Verb::AddRoute(args) => commands::add_route::run(&args, &cx),
        Verb::RemoveRoute(args) => commands::remove_route::run(&args, &cx),
        Verb::SetDns(args) => commands::set_dns::run(&args, &cx),
        Verb::SetFilter(args) => commands::set_filter::run(&args, &cx),
        Verb::SetLimits(args) => commands::set_limits::run(&args, &cx),
        Verb::RestartTenant(args) => commands::restart_tenant::run(&args, &cx),
        Verb::Share(args) => commands::share::run(args, &cx),
        Verb::Unshare(args) => commands::unshare::run(&args, &cx),
        Verb::Image(args) => commands::image::run(args, &cx),
        Verb::ListShares(args) => commands::list_shares::run(&args, &cx),
        Verb::AddService(args) => commands::add_service::run(args, &cx),
        Verb::RemoveService(args) => commands::remove_service::run(&args, &cx),
        Verb::RestartService(args) => commands::restart_service::run(&args, &cx),
        Verb::StopService(args) => commands::stop_service::run(&args, &cx),
        Verb::StartService(args) => commands::start_service::run(&args, &cx),
        Verb::ReloadService(args) => commands::reload_service::run(&args, &cx),
        Verb::Template(args) => commands::template::run(&args, &cx),
        Verb::Logs(args) => commands::logs::run(&args, &cx),
        Verb::Verify(args) => return commands::verify::run(&args, &cx),
        Verb::Trace(args) => return commands::trace::run(&args, &cx),
        Verb::Exec(args) => return commands::exec::run(args, cx),
        Verb::Shell(args) => return commands::shell::run(args, cx),
        Verb::Cp(args) => return commands::cp::run(args, cx),
        Verb::Top(args) => commands::top::run(&args, &cx),
        Verb::FaultPoints(args) => commands::fault_points::run(&args, &cx),
        Verb::Apply(args) => return commands::apply::run(args, &cx),
        Verb::Diff(args) => return commands::diff::run(&args, &cx),
        Verb::Export(args) => commands::export::run(&args, &cx),
        Verb::Import(args) => return commands::import::run(args, &cx),
        Verb::Schema(args) => commands::schema::run(&args),
    }
    .map(|()| 0)
}

fn context(json: bool, socket: Option<PathBuf>, instance: Option<String>) -> Result<Context, Failure> {
    // Inside a tenant its own API is meant, unless another daemon is named.
    let inside = Path::new(INSIDE_SOCKET);
    let is_inside = socket.is_none() && instance.is_none() && inside.exists();
    let socket = if is_inside { Some(inside.to_owned()) } else { socket };
    let instance = instance.unwrap_or_else(|| DEFAULT_INSTANCE.to_owned());
    check_instance(&instance)?;
    let client = Client::new(socket.unwrap_or_else(|| default_socket(&instance))).map_err(Failure::Start)?;
    Ok(Context { client, json, inside: is_inside })
}
