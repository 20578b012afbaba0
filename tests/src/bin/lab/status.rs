//! `lab status`: the labs that stand, with their nodes and addresses.

use anyhow::Result;
use serde_json::json;
use system_tests::plan::{HOST_INNER_V4, HOST_INNER_V6, SERVER_OUTER_V4, SERVER_OUTER_V6};
use system_tests::record::{self, Record};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Machine-readable.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<u8> {
    // A lab that is being made has no complete record yet: it is shown when it has.
    let records: Vec<Record> = record::names()?.iter().filter_map(|name| record::read(name).ok()).collect();
    if args.json {
        println!("{}", json!({ "labs": records }));
        return Ok(0);
    }
    if records.is_empty() {
        println!("no lab stands");
    }
    for record in &records {
        print(record);
    }
    Ok(0)
}

fn print(record: &Record) {
    let options = &record.options;
    let kept = if record.kept { "" } else { " (ends with the program that made it)" };
    println!("lab {:?}: {} sites, holder pid {}{kept}", options.name, options.sites, record.holder);
    println!("  server    wan0 {SERVER_OUTER_V4}, {SERVER_OUTER_V6}");
    for site in options.sites() {
        let inner = match (options.inner.v4(), options.inner.v6()) {
            (true, true) => format!("{HOST_INNER_V4}, {HOST_INNER_V6}"),
            (true, false) => HOST_INNER_V4.to_owned(),
            _ => HOST_INNER_V6.to_owned(),
        };
        println!("  {:<9} eth0 {inner}", site.host());
        println!(
            "  {:<9} wan0 {}, {}  {}",
            site.gw(),
            site.outer_v4(),
            site.outer_v6(),
            site.site_tunnel(options.outer)
        );
    }
}
