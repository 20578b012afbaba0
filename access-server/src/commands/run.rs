//! `access-server run`.

use crate::cli::{DaemonArgs, RunArgs};
use crate::config::{DaemonConfig, Role, default_trunk};
use crate::service::{self, Extras};

pub(super) async fn run(args: RunArgs) -> anyhow::Result<()> {
    let (trunk, made_by_tenantd) = match args.trunk {
        Some(trunk) => (trunk, false),
        None => (default_trunk(&args.daemon.place.instance)?, true),
    };
    let announce = args.daemon.json;
    let config = config(args.daemon, Role::Server { trunk, made_by_tenantd });
    service::serve(&config, Extras { announce, ..Extras::default() }).await
}

/// The configuration of a daemon in `role`.
pub(super) fn config(args: DaemonArgs, role: Role) -> DaemonConfig {
    let places = args.place.places();
    DaemonConfig {
        socket: places.socket(),
        run_dir: places.run_dir(),
        instance: args.place.instance,
        bpffs: args.bpffs,
        wans: args.wans,
        locals: args.locals,
        metrics: args.metrics,
        role,
    }
}
