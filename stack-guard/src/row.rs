//! One row of the table: a stack and the group it belongs to.

use std::collections::BTreeSet;

use crate::cgroup::{Cgroup, MAX_LEVEL};

/// Length of a group's range of group ids, and what its start is a multiple of.
pub const GIDS: u32 = 65_536;

/// A stack and its group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Cookie of the stack's network namespace (`SO_NETNS_COOKIE`, Linux 5.14); never re-used while the machine runs.
    pub cookie: u64,
    /// cgroup2 directories: the group is every process in them and below.
    pub cgroups: BTreeSet<Cgroup>,
    /// First group id of the range, as the host sees it: the group is every process that has one of the [`GIDS`] ids
    /// from here. A multiple of [`GIDS`], and not 0.
    pub gids_start: u32,
    /// TCP connections the stack may have; None: any number. 0 refuses all.
    pub max_connections: Option<u32>,
}

/// A row that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// No namespace has the cookie 0.
    #[error("cookie 0 is no network namespace's")]
    NoCookie,
    /// Lookups go by the upper 16 bits of a group id, and those of the host's own groups are 0.
    #[error("gids_start {0} must be a multiple of 65536 from 65536 on")]
    Gids(u32),
    /// No cgroup has the id 0, and none the programs can see is so deep.
    #[error("cgroup {id} at level {level}: the id must not be 0, the level at most {MAX_LEVEL}")]
    Cgroup {
        /// The id.
        id: u64,
        /// The level.
        level: u32,
    },
    /// The number that means "no limit" in the kernel's table.
    #[error("max_connections must be below {}", u32::MAX)]
    MaxConnections,
}

impl Row {
    /// Whether it can be.
    pub(crate) fn check(&self) -> Result<(), RowError> {
        if self.cookie == 0 {
            return Err(RowError::NoCookie);
        }
        if self.gids_start == 0 || !self.gids_start.is_multiple_of(GIDS) {
            return Err(RowError::Gids(self.gids_start));
        }
        if let Some(&Cgroup { id, level }) = self.cgroups.iter().find(|c| c.id == 0 || c.level > MAX_LEVEL) {
            return Err(RowError::Cgroup { id, level });
        }
        if self.max_connections == Some(u32::MAX) {
            return Err(RowError::MaxConnections);
        }
        Ok(())
    }

    /// Key of the table of gid ranges.
    pub(crate) fn gids(&self) -> u32 {
        self.gids_start / GIDS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_cannot_be() {
        let nine = Cgroup { id: 9, level: MAX_LEVEL };
        let row = Row { cookie: 7, cgroups: [nine].into(), gids_start: 524_288, max_connections: Some(3) };
        assert_eq!(row.check(), Ok(()));
        assert_eq!(row.gids(), 8);
        assert_eq!(Row { gids_start: u32::MAX - 65_535, ..row.clone() }.check(), Ok(()));
        for (wrong, error) in [
            (Row { cookie: 0, ..row.clone() }, RowError::NoCookie),
            (Row { gids_start: 0, ..row.clone() }, RowError::Gids(0)),
            (Row { gids_start: 65_535, ..row.clone() }, RowError::Gids(65_535)),
            (Row { gids_start: 524_289, ..row.clone() }, RowError::Gids(524_289)),
            (
                Row { cgroups: [Cgroup { id: 0, level: 1 }, nine].into(), ..row.clone() },
                RowError::Cgroup { id: 0, level: 1 },
            ),
            (
                Row { cgroups: [Cgroup { id: 9, level: 17 }].into(), ..row.clone() },
                RowError::Cgroup { id: 9, level: 17 },
            ),
            (Row { max_connections: Some(u32::MAX), ..row }, RowError::MaxConnections),
        ] {
            assert_eq!(wrong.check(), Err(error));
        }
    }
}
