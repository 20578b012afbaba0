//! `access-server detach`: takes the data path of an instance out of the kernel.

use anyhow::{Context, bail};

use crate::cli::DetachArgs;
use crate::client::Client;
use crate::datapath;
use crate::fault;
use crate::lock::InstanceLock;

use super::{daemon_answers, print_json};

pub(super) async fn detach(args: &DetachArgs) -> anyhow::Result<()> {
    fault::arm()?;
    let places = args.client.place.places();
    // The lock says who holds the instance; the socket tells of a daemon with another run directory.
    let _lock = InstanceLock::take(&places.run_dir(), places.instance, "access-server detach")?;
    if daemon_answers(&Client::new(&places)).await {
        bail!("a daemon answers on {}: stop it first", places.socket().display());
    }
    let pin_dir = args.bpffs.join("access-server").join(places.instance);
    datapath::detach(&pin_dir, places.instance).context("cannot take the data path away")?;
    if args.client.json {
        return print_json(&serde_json::json!({ "detached": places.instance }));
    }
    println!("instance {} has no data path in the kernel", places.instance);
    Ok(())
}
