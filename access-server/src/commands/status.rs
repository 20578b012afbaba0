//! `access-server status`.

use crate::api::view::{DeviceView, StatusView};
use crate::cli::ClientArgs;
use crate::client::Client;

use super::print_json;

pub(super) async fn status(args: &ClientArgs) -> anyhow::Result<()> {
    let status: StatusView = Client::new(&args.place.places()).get("/v1/status").await?;
    if args.json {
        return print_json(&status);
    }
    println!("instance {}, version {}, {} vlans", status.instance, status.version, status.vlans);
    for wan in &status.wan {
        println!("wan      {}", device(wan));
    }
    let locals: Vec<String> = status.local.iter().map(ToString::to_string).collect();
    println!("local    {}", locals.join(", "));
    if let Some(trunk) = &status.trunk {
        println!("trunk    {}", device(trunk));
    }
    Ok(())
}

fn device(device: &DeviceView) -> String {
    format!("{} mtu {} {}", device.device, device.mtu, if device.up { "up" } else { "DOWN" })
}
