//! `access-server detach`: takes the data path of an instance out of the kernel.

use anyhow::{Context, bail};

use crate::cli::DetachArgs;
use crate::client::Client;
use crate::datapath;
use crate::fault;
use crate::lock::InstanceLock;

use super::print_json;

pub(super) async fn detach(args: &DetachArgs) -> anyhow::Result<()> {
    fault::arm()?;
    let places = args.client.place.places();
    // The lock says who holds the instance; the socket tells of a daemon with another run directory.
    let _lock = InstanceLock::take(&places.run_dir(), places.instance, "access-server detach")?;
    if Client::new(&places).is_answered().await {
        bail!("a daemon answers on {}: stop it first", places.socket().display());
    }
    let pin_dir = args.bpffs.join("access-server").join(places.instance);
    datapath::detach(&pin_dir, places.instance).context("cannot take the data path away")?;
    // The last daemon left it for the next one, and there is to be none.
    match std::fs::remove_file(places.socket()) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e).context("cannot remove the socket"),
        _ => {}
    }
    if args.client.json {
        return print_json(&serde_json::json!({ "detached": places.instance }));
    }
    println!("instance {} has no data path in the kernel", places.instance);
    Ok(())
}
