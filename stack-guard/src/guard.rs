//! A guard, and the verbs on it.
//!
//! The truth is in the pinned tables. What is remembered here (`rows`) is a copy of them made when the guard was opened
//! and kept by the verbs, so that a verb costs the same for the first stack and the 4,000th: a guard has one writer.
//!
//! Every verb is a row of steps such that a kill between any two of them leaves no process with more rights than before
//! or after, and that the same verb, repeated, completes. Owners come before their stack and go after it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::BorrowedFd;

use crate::cgroup::Cgroup;
use crate::counters::Counters;
use crate::events::{Events, EventsError};
use crate::limits::{self, LimitError};
use crate::pins::{self, Loaded, OpenError, OpenOptions};
use crate::reader::CounterReader;
use crate::row::{GIDS, Row, RowError};
use crate::skel::guard::types::{guard_row, owner_row, stack_row};
use crate::steps;
use crate::tables::TableError;

/// As in stacks.h: no limit.
const UNLIMITED: u32 = u32::MAX;

/// A row could not be put.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// It cannot be.
    #[error(transparent)]
    Row(#[from] RowError),
    /// The gid range is another stack's.
    #[error("group ids from {gids_start}: taken by stack {cookie}")]
    GidsTaken {
        /// First of the range.
        gids_start: u32,
        /// Stack that has it.
        cookie: u64,
    },
    /// The cgroup is another stack's.
    #[error("cgroup {cgroup}: taken by stack {cookie}")]
    CgroupTaken {
        /// Id of the cgroup.
        cgroup: u64,
        /// Stack that has it.
        cookie: u64,
    },
    /// A limit is enforced on the namespace itself, so it must be given.
    #[error("stack {cookie}: max_connections needs the stack's network namespace")]
    NoNamespace {
        /// The stack.
        cookie: u64,
    },
    /// The guard has no place for another stack, or a table cannot be written.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The limit could not be set or lifted.
    #[error(transparent)]
    Limit(#[from] LimitError),
}

/// What a put did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It was not there.
    Added,
    /// It was there and differed.
    Changed,
    /// It was there and was the same; its rows were made sure of.
    Unchanged,
}

/// What of a process the guard sees on this kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sight {
    /// Its cgroup. Always.
    pub cgroup: bool,
    /// Its real group id. Always.
    pub real_gid: bool,
    /// Its effective, saved and file system group ids and all supplementary ones, its effective user id and user
    /// namespace, and who calls `listen`: where the kernel has BTF.
    pub all_gids: bool,
}

/// What opening found in the pin directory.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Adoption {
    /// Attachments whose program was replaced; the rest of the eight were made.
    pub replaced: usize,
    /// Stacks that were there.
    pub stacks: usize,
    /// Stacks of which a put or remove was interrupted; what was left of them was removed.
    pub half: BTreeSet<u64>,
}

/// How full the guard is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Stacks there are.
    pub stacks: u32,
    /// Stacks there is place for.
    pub max_stacks: u32,
    /// Cgroups there are.
    pub cgroups: u32,
    /// Cgroups there is place for.
    pub max_cgroups: u32,
}

/// See the module.
#[derive(Debug)]
pub struct Guard {
    options: OpenOptions,
    loaded: Loaded,
    rows: BTreeMap<u64, (u64, Row)>,
    by_cgroup: BTreeMap<u64, u64>,
    by_gids: BTreeMap<u32, u64>,
    next_id: u64,
    levels: u32,
    adoption: Adoption,
}

impl Guard {
    /// Loads the programs and puts them on the cgroup, in place of those another process left. From then on they stand,
    /// also without this process, until [`crate::discard`].
    pub fn open(options: &OpenOptions) -> Result<Self, OpenError> {
        let loaded = pins::load(options)?;
        let mut guard = Self {
            options: options.clone(),
            loaded,
            rows: BTreeMap::new(),
            by_cgroup: BTreeMap::new(),
            by_gids: BTreeMap::new(),
            next_id: 1,
            levels: 0,
            adoption: Adoption::default(),
        };
        guard.adoption.replaced = guard.loaded.replaced;
        guard.adopt()?;
        Ok(guard)
    }

    /// Reads the tables back, removes what an interrupted verb left, and gives limits the new program.
    fn adopt(&mut self) -> Result<(), OpenError> {
        for (cookie, row) in self.loaded.stacks.rows()? {
            self.next_id = self.next_id.max(row.id + 1);
            let max_connections = (row.max_connections != UNLIMITED).then_some(row.max_connections);
            let new = Row { cookie, cgroups: BTreeSet::new(), gids_start: row.gids * GIDS, max_connections };
            self.rows.insert(cookie, (row.id, new));
            if max_connections.is_some() {
                limits::replace(&self.options, cookie)?;
            }
        }
        let mut levels = 0;
        for (id, owner_row { stack: cookie, level, .. }) in self.loaded.by_cgroup.rows()? {
            let cgroup = Cgroup { id, level };
            if let Some((_, row)) = self.rows.get_mut(&cookie) {
                row.cgroups.insert(cgroup);
                self.by_cgroup.insert(id, cookie);
                levels |= cgroup.levels();
            } else {
                self.loaded.by_cgroup.remove(&id)?;
                self.adoption.half.insert(cookie);
            }
        }
        self.look_at(levels)?;
        for (gids, cookie) in self.loaded.by_gids.rows()? {
            if self.rows.get(&cookie).is_some_and(|(_, row)| row.gids() == gids) {
                self.by_gids.insert(gids, cookie);
            } else {
                self.loaded.by_gids.remove(&gids)?;
                self.adoption.half.insert(cookie);
            }
        }
        let ids: BTreeSet<u64> = self.rows.values().map(|(id, _)| *id).collect();
        for (id, _) in self.loaded.connections.rows()? {
            self.next_id = self.next_id.max(id + 1);
            if !ids.contains(&id) {
                self.loaded.connections.remove(&id)?;
            }
        }
        for (cookie, _) in self.loaded.refusals.rows()? {
            if !self.rows.contains_key(&cookie) {
                self.loaded.refusals.remove(&cookie)?;
            }
        }
        self.adoption.stacks = self.rows.len();
        Ok(())
    }

    /// The levels of the hierarchy at which the programs look for owners.
    fn look_at(&mut self, levels: u32) -> Result<(), TableError> {
        let row = self.loaded.guard.get(&0)?.unwrap_or_default();
        self.levels = levels;
        self.loaded.guard.put(&0, &guard_row { levels, ..row })
    }

    /// What opening found.
    pub fn adoption(&self) -> &Adoption {
        &self.adoption
    }

    /// What of a process this kernel lets the programs see.
    pub fn sight(&self) -> Sight {
        Sight { cgroup: true, real_gid: true, all_gids: self.loaded.reads_tasks }
    }

    /// Adds a stack, or makes it as given. `netns`: its network namespace, needed where `max_connections` is set.
    /// Sockets that processes of the group already have elsewhere are refused from their next bind, connect or
    /// unconnected datagram on; what is connected stays connected.
    pub fn put(&mut self, row: &Row, netns: Option<BorrowedFd<'_>>) -> Result<Change, PutError> {
        row.check()?;
        let cookie = row.cookie;
        if let Some(&taken) = self.by_gids.get(&row.gids()).filter(|&&taken| taken != cookie) {
            return Err(PutError::GidsTaken { gids_start: row.gids_start, cookie: taken });
        }
        for Cgroup { id, .. } in &row.cgroups {
            if let Some(&taken) = self.by_cgroup.get(id).filter(|&&taken| taken != cookie) {
                return Err(PutError::CgroupTaken { cgroup: *id, cookie: taken });
            }
        }
        if row.max_connections.is_some() && netns.is_none() {
            return Err(PutError::NoNamespace { cookie });
        }
        let before = self.rows.get(&cookie).cloned();
        let id = before.as_ref().map_or(self.next_id, |(id, _)| *id);
        if before.is_none() {
            self.next_id += 1;
            self.loaded.connections.put(&id, &0)?;
        }
        self.loaded.by_gids.put(&row.gids(), &cookie)?;
        self.by_gids.insert(row.gids(), cookie);
        steps::passed("guard.gids");
        for cgroup in &row.cgroups {
            if self.levels | cgroup.levels() != self.levels {
                self.look_at(self.levels | cgroup.levels())?;
            }
            self.loaded.by_cgroup.put(&cgroup.id, &owner_row { stack: cookie, level: cgroup.level, pad: 0 })?;
            self.by_cgroup.insert(cgroup.id, cookie);
        }
        steps::passed("guard.cgroups");
        let max_connections = row.max_connections.unwrap_or(UNLIMITED);
        self.loaded.stacks.put(&cookie, &stack_row { id, gids: row.gids(), max_connections })?;
        self.rows.insert(cookie, (id, row.clone()));
        steps::passed("guard.stack");
        match netns.filter(|_| row.max_connections.is_some()) {
            Some(netns) => limits::set(&self.options, cookie, netns)?,
            None => limits::lift(&self.options.pin_dir, cookie)?,
        }
        let Some((_, before)) = before else {
            return Ok(Change::Added);
        };
        for Cgroup { id, .. } in &before.cgroups {
            if !row.cgroups.iter().any(|cgroup| cgroup.id == *id) {
                self.loaded.by_cgroup.remove(id)?;
                self.by_cgroup.remove(id);
            }
        }
        if before.gids() != row.gids() {
            self.loaded.by_gids.remove(&before.gids())?;
            self.by_gids.remove(&before.gids());
        }
        Ok(if before == *row { Change::Unchanged } else { Change::Changed })
    }

    /// Removes a stack; says whether it was there. Its processes, if any live, are nobody's from then on, so end them
    /// first.
    pub fn remove(&mut self, cookie: u64) -> Result<bool, PutError> {
        limits::lift(&self.options.pin_dir, cookie)?;
        steps::passed("unguard.limit");
        let there = self.loaded.stacks.remove(&cookie)?;
        steps::passed("unguard.stack");
        let stale = |owners: &BTreeMap<u64, u64>| -> Vec<u64> {
            owners.iter().filter(|&(_, &owner)| owner == cookie).map(|(&key, _)| key).collect()
        };
        let (cgroups, gids): (Vec<u64>, Option<u32>) = match self.rows.get(&cookie) {
            Some((_, row)) => (row.cgroups.iter().map(|cgroup| cgroup.id).collect(), Some(row.gids())),
            // A put that failed half-way.
            None => (stale(&self.by_cgroup), self.by_gids.iter().find(|&(_, &owner)| owner == cookie).map(|(&g, _)| g)),
        };
        for cgroup in cgroups {
            self.loaded.by_cgroup.remove(&cgroup)?;
            self.by_cgroup.remove(&cgroup);
        }
        if let Some(gids) = gids {
            self.loaded.by_gids.remove(&gids)?;
            self.by_gids.remove(&gids);
        }
        steps::passed("unguard.owners");
        if let Some((id, _)) = self.rows.get(&cookie) {
            self.loaded.connections.remove(id)?;
        }
        self.loaded.refusals.remove(&cookie)?;
        self.rows.remove(&cookie);
        Ok(there)
    }

    /// Every stack, by rising cookie.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.values().map(|(_, row)| row)
    }

    /// The stack with this cookie.
    pub fn row(&self, cookie: u64) -> Option<&Row> {
        self.rows.get(&cookie).map(|(_, row)| row)
    }

    /// The stack that has the range of group ids beginning here, at the same cost whatever the number of stacks.
    pub fn row_of_gids(&self, gids_start: u32) -> Option<&Row> {
        self.row(*self.by_gids.get(&(gids_start / GIDS))?)
    }

    /// Every stack as the kernel's tables have it now, by rising cookie; unlike [`Guard::rows`], which is what this guard
    /// has put. `gids_start` is 0 where the table of ranges does not lead to the stack.
    ///
    /// # Errors
    /// A table cannot be read.
    pub fn kernel_rows(&self) -> Result<Vec<Row>, TableError> {
        let by_gids: BTreeMap<u32, u64> = self.loaded.by_gids.rows()?.into_iter().collect();
        let mut rows = BTreeMap::new();
        for (cookie, row) in self.loaded.stacks.rows()? {
            let gids_start = if by_gids.get(&row.gids) == Some(&cookie) { row.gids * GIDS } else { 0 };
            let max_connections = (row.max_connections != UNLIMITED).then_some(row.max_connections);
            rows.insert(cookie, Row { cookie, cgroups: BTreeSet::new(), gids_start, max_connections });
        }
        for (id, owner_row { stack, level, .. }) in self.loaded.by_cgroup.rows()? {
            if let Some(row) = rows.get_mut(&stack) {
                row.cgroups.insert(Cgroup { id, level });
            }
        }
        Ok(rows.into_values().collect())
    }

    /// Whether the kernel's tables hold exactly this row, at the same cost whatever the number of stacks.
    ///
    /// # Errors
    /// A table cannot be read.
    pub fn holds(&self, row: &Row) -> Result<bool, TableError> {
        let max_connections = row.max_connections.unwrap_or(UNLIMITED);
        let stack = self.loaded.stacks.get(&row.cookie)?;
        let mut held = self.rows.get(&row.cookie).is_some_and(|(_, known)| known == row);
        held &= stack.is_some_and(|there| (there.gids, there.max_connections) == (row.gids(), max_connections));
        held &= self.loaded.by_gids.get(&row.gids())? == Some(row.cookie);
        // Set after the row: a put that was killed between them left a limit that nothing holds.
        held &= limits::is_set(&self.options.pin_dir, row.cookie) == row.max_connections.is_some();
        for Cgroup { id, level } in &row.cgroups {
            let owner = self.loaded.by_cgroup.get(id)?;
            held &= owner.is_some_and(|owner| (owner.stack, owner.level) == (row.cookie, *level));
        }
        Ok(held)
    }

    /// Of every stack, by cookie.
    pub fn counters(&self) -> Result<BTreeMap<u64, Counters>, TableError> {
        self.rows.keys().map(|&cookie| Ok((cookie, self.counters_of(cookie)?))).collect()
    }

    /// Of one stack; all zero when it is not there.
    pub fn counters_of(&self, cookie: u64) -> Result<Counters, TableError> {
        let connections = match self.rows.get(&cookie) {
            Some((id, _)) => self.loaded.connections.get(id)?.unwrap_or(0),
            None => 0,
        };
        Ok(Counters::new(connections, self.loaded.refusals.get(&cookie)?.as_ref()))
    }

    /// A reader of the counters of all stacks for another thread.
    ///
    /// # Errors
    /// A descriptor of a table cannot be had.
    pub fn counter_reader(&self) -> Result<CounterReader, TableError> {
        CounterReader::new(&self.loaded)
    }

    /// The reader of refusals as they happen.
    pub fn events(&self) -> Result<Events, EventsError> {
        Events::new(&self.loaded.events)
    }

    /// How full it is.
    pub fn usage(&self) -> Usage {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Usage {
            stacks: number(self.rows.len()),
            max_stacks: self.loaded.stacks.capacity(),
            cgroups: number(self.by_cgroup.len()),
            max_cgroups: self.loaded.by_cgroup.capacity(),
        }
    }
}
