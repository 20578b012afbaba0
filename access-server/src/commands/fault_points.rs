//! `access-server fault-points`: the places at which a test can end the daemon. Not shown in the help: it is for tests.

use crate::cli::FaultPointsArgs;
use crate::fault::POINTS;

use super::print_json;

pub(super) fn fault_points(args: &FaultPointsArgs) -> anyhow::Result<()> {
    if args.json {
        return print_json(&POINTS);
    }
    for point in POINTS {
        println!("{}\t{}", point.name, point.means);
    }
    Ok(())
}
