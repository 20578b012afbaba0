//! `tenantd map`: the three tables, one row a line.

use clap::{Args, ValueEnum};

use super::table::align;
use super::{Context, Failure};
use crate::model::{MapRow, MapView};

/// Arguments of `map`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tenantd map lower\n\nRows: stack <-> process group, (stack, device) <-> VLAN, \
    tunnel (remote, local) <-> VLAN; the tenant stands behind.")]
pub struct Map {
    /// Only this table
    table: Option<Table>,
}

/// A table.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Table {
    /// Stack and process group
    Upper,
    /// Stack's device and VLAN
    Lower,
    /// Tunnel and VLAN
    Access,
}

impl Table {
    const fn word(self) -> &'static str {
        match self {
            Self::Upper => "upper",
            Self::Lower => "lower",
            Self::Access => "access",
        }
    }
}

/// Prints the tables.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &Map, cx: &Context) -> Result<(), Failure> {
    if let Some(table) = args.table {
        let answer = cx.client.get(&format!("/v1/map/{}", table.word()))?;
        return cx.say(&answer, |table: Vec<MapRow>| rows(table, ""));
    }
    let answer = cx.client.get("/v1/map")?;
    cx.say(&answer, |view: MapView| {
        let tables = [
            ("upper (stack <-> process group)", view.upper),
            ("lower (stack, device <-> VLAN)", view.lower),
            ("access (tunnel <-> VLAN)", view.access),
        ];
        let texts = tables.map(|(title, table)| format!("{title}\n{}", rows(table, "  ")));
        texts.join("\n")
    })
}

fn rows(table: Vec<MapRow>, indent: &str) -> String {
    let lines: Vec<_> = table.into_iter().map(|row| vec![format!("{indent}{}", row.row), row.tenant]).collect();
    align(&lines)
}
