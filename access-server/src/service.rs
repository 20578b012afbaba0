//! A daemon from its configuration to its end: the privileged steps in one straight list, then the owner's loop.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow};
use rtnetlink::Handle;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info};

use crate::api::{Api, tcp};
use crate::checks::{self, Found};
use crate::config::{DaemonConfig, Role};
use crate::daemon::{Command, Daemon, Event};
use crate::datapath::{self, DatapathConfig};
use crate::fault;
use crate::gateway::{RowRequest, Settings};
use crate::lock::InstanceLock;
use crate::route::{self, Routes};
use crate::table::Table;
use crate::table::kernel::{KernelTable, trunk_dev};
use crate::{bpffs, link, pulse, socket};

/// Events that may wait for the owner before those who send more have to.
const QUEUE: usize = 1024;

/// How long callers may take to read their answers at the end.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// What a daemon does beside serving.
#[derive(Debug, Default)]
pub struct Extras {
    /// Rows the daemon itself wants, replacing what their owner had.
    pub rows: Vec<RowRequest>,
    /// Say "ready" on standard output.
    pub announce: bool,
    /// Take the data path away at the end.
    pub detach_on_exit: bool,
}

/// Runs the daemon until SIGTERM or SIGINT. The data path stays.
///
/// # Errors
/// The step that failed, with its cause.
pub async fn serve(config: &DaemonConfig, extras: Extras) -> anyhow::Result<()> {
    fault::arm()?;
    config.check()?;
    checks::privileges()?;
    let name = match config.role {
        Role::Server { .. } => "access-server run",
        Role::Site { .. } => "access-server site",
    };
    let _lock = InstanceLock::take(&config.run_dir, &config.instance, name)?;
    fault::point("start.locked");
    let (connection, handle, _) = rtnetlink::new_connection().context("cannot open a netlink socket")?;
    tokio::spawn(connection);
    let found = checks::network(config, &handle).await?;
    prepare_devices(config, &found, &handle).await?;
    bpffs::ensure(&config.bpffs)?;
    let table = open_table(config, &found)?;
    fault::point("start.open");
    let listener = listen(&config.socket)?;

    let (owner, inbox) = mpsc::channel(QUEUE);
    let routes = Routes::new(handle.clone(), &config.wans, config.inside_device());
    let daemon = Daemon::start(settings(config, &found), table, routes, owner.clone()).await?;
    fault::point("start.read");
    let mut devices = config.wans.clone();
    devices.push(config.inside_device().to_owned());
    route::watch(devices, owner.clone()).context("cannot watch the routing table")?;
    stop_on_signal(owner.clone())?;
    let api = Api::new(owner.clone());
    if let Some(address) = config.metrics {
        tokio::spawn(tcp::serve(address, api.clone()));
    }
    let (api_end, api_ends) = oneshot::channel::<()>();
    // An error as well as a word ends the wait: both mean that we end.
    let until = async move { drop(api_ends.await) };
    let api = tokio::spawn(axum::serve(listener, api.router()).with_graceful_shutdown(until).into_future());
    let detach_on_exit = extras.detach_on_exit;
    tokio::spawn(own_rows(owner, extras, config.clone()));
    daemon.run(inbox).await;
    fault::point("stop.begun");
    // Requests that were answered are answered to the last byte; the socket's file stays, so that clients know that
    // another daemon is to come and wait for it a moment.
    drop(api_end);
    let _ = tokio::time::timeout(LAST_ANSWERS, api).await;
    if !detach_on_exit {
        info!("stopped; the data path stays in the kernel and goes on");
        return Ok(());
    }
    std::fs::remove_file(&config.socket).context("cannot remove the socket")?;
    datapath::detach(&config.pin_dir(), &config.instance).context("cannot take the data path away")?;
    if config.is_layer_2_site() {
        link::set_promiscuous(&handle, &found.inside, false).await?;
    }
    info!("stopped; nothing stays in the kernel");
    Ok(())
}

fn settings(config: &DaemonConfig, found: &Found) -> Settings {
    Settings {
        instance: config.instance.clone(),
        locals: config.locals.clone(),
        wan_mtu: found.wans.iter().map(|wan| wan.mtu).min().unwrap_or_default(),
        trunk_mtu: found.inside.mtu,
    }
}

/// Sets what may be set on devices that are ours; the WAN and a NIC are not.
async fn prepare_devices(config: &DaemonConfig, found: &Found, handle: &Handle) -> anyhow::Result<()> {
    if matches!(config.role, Role::Server { .. }) && found.inside.veth {
        link::bound_gro(handle, &found.inside).await?;
    }
    // It takes frames to hosts beyond the tunnel, whose addresses are not the LAN device's.
    if config.is_layer_2_site() {
        link::set_promiscuous(handle, &found.inside, true).await?;
    }
    Ok(())
}

fn open_table(config: &DaemonConfig, found: &Found) -> anyhow::Result<impl Table> {
    let inside = trunk_dev(found.inside.ifindex, found.inside.veth_across);
    let role = match &config.role {
        Role::Server { .. } => datapath::Role::Server { trunk: inside },
        Role::Site { servers, .. } => datapath::Role::Site { lan: inside, server_addrs: servers.clone() },
    };
    let config = DatapathConfig {
        pin_dir: config.pin_dir(),
        instance: config.instance.clone(),
        role,
        wans: found.wans.iter().map(|wan| wan.ifindex).collect(),
        locals: config.locals.clone(),
        longer_rows: fault::longer_rows(),
    };
    datapath::check_beside(&config).context("cannot stand beside another instance")?;
    KernelTable::open(config).context("cannot start the data path")
}

fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    let listener = socket::listen(path)?;
    UnixListener::from_std(listener).context("cannot listen on the socket")
}

fn stop_on_signal(owner: mpsc::Sender<Event>) -> anyhow::Result<()> {
    let mut term = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
    let mut int = signal(SignalKind::interrupt()).context("cannot catch SIGINT")?;
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        pulse::stopping();
        let _ = owner.send(Event::Stop).await;
    });
    Ok(())
}

/// Puts the rows the daemon itself wants and says that it is ready.
async fn own_rows(owner: mpsc::Sender<Event>, extras: Extras, config: DaemonConfig) {
    if let Some(first) = extras.rows.first() {
        let replace = Command::ReplaceAll(first.owner.clone(), extras.rows.clone());
        if let Err(failure) = ask(&owner, replace).await {
            error!(failure = %format!("{failure:#}"), "the daemon's own rows cannot be set; stopping");
            let _ = owner.send(Event::Stop).await;
            return;
        }
    }
    info!(instance = config.instance, socket = %config.socket.display(), "ready");
    pulse::ready("serving; rows are read back from the data path").await;
    if extras.announce {
        println!("{}", serde_json::json!({ "ready": true, "instance": config.instance, "socket": config.socket }));
    }
}

async fn ask(owner: &mpsc::Sender<Event>, command: Command) -> anyhow::Result<()> {
    let (reply, answer) = oneshot::channel();
    owner.send(Event::Request(command, reply)).await.map_err(|_| anyhow!("the owner has left"))?;
    answer.await.context("the owner has left")??;
    Ok(())
}
