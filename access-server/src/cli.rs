//! The command line, as clap reads it. One verb, one variant here, one file in `commands/`.
// The comments here are the help texts: their brackets mark what may be left out, not links.
#![allow(rustdoc::broken_intra_doc_links)]

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use stackmap::{Owner, TunnelSpec, Vlan};

use crate::config::Places;

/// Puts closed networks, reached through IP tunnels, each on its own VLAN.
#[derive(Debug, Parser)]
#[command(name = "access-server", version, about, long_about = None, propagate_version = true)]
#[command(after_help = "Exit codes: 0 done, 1 refused or failed, 2 wrong usage.\n\n\
    Example, one closed network by hand:\n  \
    access-server run --wan eth0 --local 203.0.113.1 --trunk trunk0 &\n  \
    access-server put-tunnel --vlan 600 ipip:198.51.100.2,prefix=192.168.1.0/24\n  \
    access-server list")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

impl Cli {
    /// Whether everything is to be said in JSON.
    pub fn json(&self) -> bool {
        match &self.verb {
            Verb::Run(args) => args.daemon.json,
            Verb::Site(args) => args.daemon.json,
            Verb::Status(args) | Verb::List(args) | Verb::Counters(args) => args.json,
            Verb::Show(args) => args.client.json,
            Verb::PutTunnel(args) | Verb::DeleteTunnel(args) => args.client.json,
            Verb::Detach(args) => args.client.json,
            Verb::FaultPoints(args) => args.json,
            Verb::Completion(_) | Verb::Man(_) => false,
        }
    }
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run the access server in front of a trunk.
    Run(RunArgs),
    /// Run the access server of a customer's site: its LAN behind one tunnel.
    Site(SiteArgs),
    /// Show the daemon and its devices.
    Status(ClientArgs),
    /// List all rows: tunnel <-> VLAN.
    List(ClientArgs),
    /// Show the row of one VLAN.
    Show(ShowArgs),
    /// Show what each VLAN carried and dropped, and why.
    Counters(ClientArgs),
    /// Bind a tunnel to a VLAN, beside those it has.
    PutTunnel(TunnelArgs),
    /// Unbind a tunnel from a VLAN; with its last tunnel the row goes.
    DeleteTunnel(TunnelArgs),
    /// Remove the data path of an instance from the kernel: programs, maps, pins. No daemon may run.
    Detach(DetachArgs),
    /// List the places at which a test can end the daemon.
    #[command(hide = true)]
    FaultPoints(FaultPointsArgs),
    /// Print the completion script of a shell.
    Completion(CompletionArgs),
    /// Write the manual pages.
    #[command(hide = true)]
    Man(ManArgs),
}

/// Where an instance is.
#[derive(Debug, Args)]
pub struct PlaceArgs {
    /// The instance (several may run side by side).
    #[arg(long, value_name = "NAME", default_value = "main")]
    pub instance: String,
    /// The API socket [default: RUN_DIR/INSTANCE/api.sock].
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// The directory above the run directories of all instances.
    #[arg(long, value_name = "DIR", default_value = "/run/access-server")]
    pub run_dir: PathBuf,
}

impl PlaceArgs {
    /// The names and places they stand for.
    pub fn places(&self) -> Places<'_> {
        Places { instance: &self.instance, run_dir: &self.run_dir, socket: self.socket.as_deref() }
    }
}

/// What every daemon takes.
#[derive(Debug, Args)]
pub struct DaemonArgs {
    /// A device towards the customers' sites. May be given more than once.
    #[arg(long = "wan", value_name = "DEV", required = true, num_args = 1..)]
    pub wans: Vec<String>,
    /// An outer address of this end, configured on this host. May be given more than once; the first of a family is
    /// its default.
    #[arg(long = "local", value_name = "ADDR", required = true, num_args = 1..)]
    pub locals: Vec<IpAddr>,
    /// Where to pin maps and programs; a BPF file system is mounted there if it is none.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf")]
    pub bpffs: PathBuf,
    /// Where the instance is.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Answer /metrics there too, to whoever asks: an address of this host, no wildcard [default: the API socket only].
    #[arg(long, value_name = "ADDR:PORT")]
    pub metrics: Option<SocketAddr>,
    /// Say "ready" on standard output as JSON; a refusal is then a problem document on standard error.
    #[arg(long)]
    pub json: bool,
}

/// `access-server run`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  access-server run --wan eth0 --local 203.0.113.1 --local 2001:db8::1\n\n\
    SIGTERM ends the daemon; the data path stays in the kernel and goes on. See `access-server detach`.")]
pub struct RunArgs {
    /// What every daemon takes.
    #[command(flatten)]
    pub daemon: DaemonArgs,
    /// The trunk [default: trunk-INSTANCE, which tenantd makes].
    #[arg(long, value_name = "DEV")]
    pub trunk: Option<String>,
}

/// `access-server site`.
#[derive(Debug, Args)]
#[command(after_help = "Example, a LAN whose hosts reach their server 192.168.1.1 through the tunnel:\n  \
    access-server site --lan eth1 --wan eth0 --local 198.51.100.2 \\\n      \
    --tunnel ipip:203.0.113.1 --server 192.168.1.1")]
pub struct SiteArgs {
    /// What every daemon takes.
    #[command(flatten)]
    pub daemon: DaemonArgs,
    /// The device of the customer's LAN.
    #[arg(long, value_name = "DEV")]
    pub lan: String,
    /// The tunnel: KIND:REMOTE[,local=ADDR][,key=N][,prefix=CIDR]... with KIND ipip, gre or vxlan.
    #[arg(long, value_name = "KIND:REMOTE[,key=N]")]
    pub tunnel: TunnelSpec,
    /// An address behind the tunnel for which ARP and ND are answered on the LAN. May be given more than once.
    #[arg(long = "server", value_name = "ADDR", required = true, num_args = 1..)]
    pub servers: Vec<IpAddr>,
    /// Remove the data path when the daemon ends, instead of leaving it at work.
    #[arg(long)]
    pub detach_on_exit: bool,
}

/// What every client command takes.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  access-server list --json")]
pub struct ClientArgs {
    /// Where the instance is.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Print the API's JSON; a refusal is then a problem document on standard error.
    #[arg(long)]
    pub json: bool,
}

/// `access-server show`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  access-server show 600")]
pub struct ShowArgs {
    /// The VLAN.
    pub vlan: Vlan,
    /// What every client command takes.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// `access-server put-tunnel` and `delete-tunnel`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  access-server put-tunnel --vlan 600 gre:198.51.100.2,key=7,prefix=192.168.1.0/24\n  \
    access-server delete-tunnel --vlan 600 gre:198.51.100.2,key=7"
)]
pub struct TunnelArgs {
    /// The VLAN.
    #[arg(long, value_name = "N")]
    pub vlan: Vlan,
    /// In whose name; only the owner of a row may change it.
    #[arg(long, value_name = "OWNER", default_value = "operator")]
    pub owner: Owner,
    /// KIND:REMOTE[,local=ADDR][,key=N][,prefix=CIDR]... with KIND ipip, gre or vxlan.
    #[arg(value_name = "KIND:REMOTE[,...]")]
    pub tunnel: TunnelSpec,
    /// What every client command takes.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// What `fault-points` takes.
#[derive(Debug, Args)]
pub struct FaultPointsArgs {
    /// Answer in JSON.
    #[arg(long)]
    pub json: bool,
}

/// `access-server detach`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  access-server detach --instance main")]
pub struct DetachArgs {
    /// The BPF file system the instance pins in.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf")]
    pub bpffs: PathBuf,
    /// What every client command takes.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// `access-server completion`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  access-server completion bash >/etc/bash_completion.d/access-server")]
pub struct CompletionArgs {
    /// For which shell.
    pub shell: clap_complete::Shell,
}

/// `access-server man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// The directory to write into.
    pub dir: PathBuf,
}
