//! A room: trunks and ports of one network namespace, and the verbs on them.
//!
//! The truth is in the pinned tables. What is remembered here (`ports`) is a copy of them made when the room was
//! opened and kept by the verbs, so that a verb costs the same for the first port and the 4,000th: a room has one
//! writer.
//!
//! Every verb is a row of steps such that a kill between any two of them leaves a port that [`Room::ports`] still
//! lists and that the same verb, repeated, completes; no order of them lets a frame of one tag into another's port.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use crate::config::{ConfigError, MAX_TRUNKS, OpenOptions, PortConfig, TrunkConfig, TrunkMode, normalise};
use crate::drop_reason::DropReason;
use crate::filter::{self, FilterError};
use crate::pins::{self, Loaded, OpenError};
use crate::skel::types::port_row;
use crate::steps;
use crate::tables::counters::{Counters, Drops};
use crate::tables::{TableError, answers, bytes_of, counters, limits, ports, rates, trunks};
use crate::vid::Tag;

/// Frames that reached the room's programs on a device without any row are counted here.
pub(crate) const ROOM_SLOT: u32 = 0;

/// A verb on a port failed. Nothing that passed before is harmed; repeat the verb when the cause is gone.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// A value cannot be.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The trunk was not attached.
    #[error("trunk {trunk}: must be attached before its ports")]
    NoTrunk {
        /// Interface index.
        trunk: u32,
    },
    /// Another port has the tag.
    #[error("{tag}: taken by port {port}")]
    TagTaken {
        /// The tag.
        tag: Tag,
        /// Interface index of the port that has it.
        port: u32,
    },
    /// The room has no place for another port.
    #[error("the room is full: it has place for {capacity} ports")]
    Full {
        /// Ports it has place for.
        capacity: u32,
    },
    /// The filter could not be put on the device or taken off.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// A table could not be read or written.
    #[error(transparent)]
    Table(#[from] TableError),
}

/// A verb on a trunk failed.
#[derive(Debug, thiserror::Error)]
pub enum TrunkError {
    /// It still has ports.
    #[error("trunk {trunk}: has {ports} ports, remove them first")]
    HasPorts {
        /// Interface index.
        trunk: u32,
        /// Their number.
        ports: usize,
    },
    /// The room has no place for another trunk.
    #[error("the room is full: it has place for {capacity} trunks")]
    Full {
        /// Trunks it has place for.
        capacity: u32,
    },
    /// The filter could not be put on the device or taken off.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// A table could not be read or written.
    #[error(transparent)]
    Table(#[from] TableError),
}

/// What a put did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It was not there.
    Added,
    /// It was there and differed.
    Changed,
    /// It was there and was the same; its rows and filter were made sure of.
    Unchanged,
}

/// How a port is named when it is removed or asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortId {
    /// By interface index.
    Ifindex(u32),
    /// By (trunk, VLAN).
    Tag(Tag),
}

/// What opening found in the pinned tables.
#[derive(Debug, Default)]
pub struct Adoption {
    /// Devices whose program was replaced.
    pub replaced: Vec<u32>,
    /// Trunks and ports whose device is gone; their rows were removed.
    pub gone: Vec<u32>,
    /// Devices whose program could not be replaced: the old one goes on.
    pub failed: Vec<FilterError>,
}

/// How full the room is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Ports there are.
    pub ports: u32,
    /// Ports there is place for.
    pub max_ports: u32,
    /// Answered prefixes there are.
    pub answers: u32,
    /// Answered prefixes there is place for.
    pub max_answers: u32,
    /// Trunks there are.
    pub trunks: u32,
    /// Trunks there is place for.
    pub max_trunks: u32,
}

/// All counters of a room.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RoomCounters {
    /// By port.
    pub ports: BTreeMap<Tag, Counters>,
    /// By trunk: frames that belong to no port (`untagged`, `unknown_vlan` and the like).
    pub trunks: BTreeMap<u32, Drops>,
    /// Frames on devices without rows.
    pub room: Drops,
}

/// What became of the last frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Dropped.
    Dropped(DropReason),
    /// Sent on.
    Sent {
        /// Interface index of the device named in the redirect.
        device: u32,
        /// By `bpf_redirect_peer`: it arrived at that device's peer.
        peer: bool,
    },
}

/// Which program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// On trunks.
    Trunk,
    /// On ports.
    Port,
}

#[derive(Debug, Clone)]
struct Port {
    row: port_row,
    config: PortConfig,
}

/// See the module. All methods work in the network namespace of the calling thread, which must be the room's.
#[derive(Debug)]
pub struct Room {
    pin_dir: PathBuf,
    filter_handle: u32,
    loaded: Loaded,
    ports: BTreeMap<u32, Port>,
    trunks: BTreeMap<u32, (u32, TrunkConfig)>,
    /// Ports to which no tag leads: a put or delete of another process was killed. By the tag they should have.
    half: BTreeMap<Tag, u32>,
    free_slots: BTreeSet<u32>,
    answer_count: u32,
    adoption: Adoption,
}

impl Room {
    /// Loads the programs and opens the tables in `options.pin_dir`: new ones, or those another process left. Devices
    /// of adopted rows get the new programs at once, without loss; see [`Room::adoption`].
    pub fn open(options: &OpenOptions) -> Result<Self, OpenError> {
        let loaded = pins::load(options)?;
        let slots = loaded.rates.capacity();
        let mut room = Self {
            pin_dir: options.pin_dir.clone(),
            filter_handle: options.filter_handle,
            loaded,
            ports: BTreeMap::new(),
            trunks: BTreeMap::new(),
            half: BTreeMap::new(),
            free_slots: (ROOM_SLOT + 1..slots).collect(),
            answer_count: 0,
            adoption: Adoption::default(),
        };
        room.read_tables()?;
        room.refresh()?;
        Ok(room)
    }

    pub(crate) fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// Where the tables are pinned.
    pub fn pin_dir(&self) -> &Path {
        &self.pin_dir
    }

    /// The port of one tag as the data path has it, at the same cost whatever the number of ports: rows are read from
    /// the kernel, the answered prefixes (a trie has no cheap way to list those of one port) are those last written.
    ///
    /// # Errors
    /// The table that could not be read.
    pub fn port(&self, tag: Tag) -> Result<Option<PortConfig>, TableError> {
        // One to which no tag leads is not there yet, or not any more.
        let Some(tagged) = self.loaded.by_tag.get(&ports::key_of(tag))? else { return Ok(None) };
        let ifindex = tagged.port;
        let Some(row) = self.loaded.by_ifindex.get(&ifindex)? else { return Ok(None) };
        let mut found = ports::config_of(ifindex, &row);
        if let Some(port) = &mut found {
            limits::read(&self.loaded.limits, row.slot, port)?;
        }
        if let (Some(port), Some(known)) = (&mut found, self.ports.get(&ifindex)) {
            port.answer.clone_from(&known.config.answer);
        }
        Ok(found)
    }

    /// What [`Room::open`] found.
    pub fn adoption(&self) -> &Adoption {
        &self.adoption
    }

    fn read_tables(&mut self) -> Result<(), TableError> {
        for (ifindex, row) in self.loaded.trunks.rows()? {
            self.free_slots.remove(&row.slot);
            self.trunks.insert(ifindex, (row.slot, trunks::config_of(ifindex, &row)));
        }
        for (ifindex, row) in self.loaded.by_ifindex.rows()? {
            self.free_slots.remove(&row.slot);
            match ports::config_of(ifindex, &row) {
                Some(mut config) => {
                    limits::read(&self.loaded.limits, row.slot, &mut config)?;
                    self.ports.insert(ifindex, Port { row, config });
                }
                None => drop(self.loaded.by_ifindex.remove(&ifindex)?),
            }
        }
        for (ifindex, prefix) in answers::dump(&self.loaded.answers)? {
            match self.ports.get_mut(&ifindex) {
                Some(port) => port.config.answer.push(prefix),
                None => answers::replace(&self.loaded.answers, ifindex, &[prefix], &[])?,
            }
        }
        for port in self.ports.values_mut() {
            port.config.answer.sort();
            self.answer_count += count(&port.config.answer);
        }
        self.half = self.ports.iter().map(|(&ifindex, port)| (port.config.tag(), ifindex)).collect();
        // A put that was killed between its rows.
        for (key, row) in self.loaded.by_tag.rows()? {
            let owner = self.ports.get(&row.port);
            let wanted = owner.map(|port| ports::key_of(port.config.tag()));
            if wanted.is_none_or(|wanted| bytes_of(&wanted) != bytes_of(&key)) {
                self.loaded.by_tag.remove(&key)?;
            } else if let Some(port) = owner {
                self.half.remove(&port.config.tag());
            }
        }
        Ok(())
    }

    /// Puts this version's programs on every device of the tables.
    fn refresh(&mut self) -> Result<(), TableError> {
        let trunk_devices = self.trunks.keys().map(|&ifindex| (ifindex, Program::Trunk));
        let port_devices = self.ports.keys().map(|&ifindex| (ifindex, Program::Port));
        let mut adoption = Adoption::default();
        for (ifindex, program) in trunk_devices.chain(port_devices).collect::<Vec<_>>() {
            if !filter::device_exists(ifindex) {
                match program {
                    Program::Trunk => self.forget_trunk(ifindex)?,
                    Program::Port => self.forget_port(ifindex)?,
                }
                adoption.gone.push(ifindex);
                continue;
            }
            match filter::attach(self.program(program), ifindex, self.filter_handle, false) {
                Ok(()) => {
                    adoption.replaced.push(ifindex);
                    steps::passed("room.replaced");
                }
                Err(e) => adoption.failed.push(e),
            }
        }
        self.adoption = adoption;
        Ok(())
    }

    /// The loaded program, for diagnosis (`BPF_PROG_TEST_RUN`, run-time statistics).
    pub fn program(&self, program: Program) -> BorrowedFd<'_> {
        match program {
            Program::Trunk => self.loaded.trunk_program.as_fd(),
            Program::Port => self.loaded.port_program.as_fd(),
        }
    }

    /// Whether this room's own program is on a device, in its place.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn is_attached(&self, program: Program, ifindex: u32) -> Result<bool, FilterError> {
        filter::is_attached(self.program(program), ifindex, self.filter_handle)
    }

    fn take_slot(&mut self) -> Result<Option<u32>, TableError> {
        let Some(&slot) = self.free_slots.first() else {
            return Ok(None);
        };
        counters::clear(&self.loaded.traffic, &self.loaded.drops, slot)?;
        rates::clear(&self.loaded.rates, slot)?;
        self.free_slots.remove(&slot);
        Ok(Some(slot))
    }

    /// Makes a device a trunk, or changes how it is one.
    pub fn attach_trunk(&mut self, config: &TrunkConfig) -> Result<Change, TrunkError> {
        let present = self.trunks.get(&config.ifindex).cloned();
        let slot = match &present {
            Some((slot, _)) => *slot,
            None => match self.take_slot()? {
                Some(slot) if count(&self.trunks) < MAX_TRUNKS => slot,
                taken => {
                    self.free_slots.extend(taken);
                    return Err(TrunkError::Full { capacity: MAX_TRUNKS });
                }
            },
        };
        self.loaded.trunks.put(&config.ifindex, &trunks::row_of(config, slot))?;
        self.trunks.insert(config.ifindex, (slot, config.clone()));
        if present.as_ref().is_none_or(|(_, old)| old.mode != config.mode) {
            self.rewrite_ports_of(config)?;
        }
        let program = self.program(Program::Trunk);
        if let Err(e) = filter::attach(program, config.ifindex, self.filter_handle, present.is_none()) {
            if present.is_none() {
                self.forget_trunk(config.ifindex)?;
            }
            return Err(e.into());
        }
        Ok(match present {
            None => Change::Added,
            Some((_, old)) if old != *config => Change::Changed,
            Some(_) => Change::Unchanged,
        })
    }

    /// The way onto the trunk is in the rows of its ports, to spare each frame a lookup.
    fn rewrite_ports_of(&mut self, trunk: &TrunkConfig) -> Result<(), TableError> {
        for port in self.ports.values_mut().filter(|port| port.config.trunk == trunk.ifindex) {
            let (tag_row, row) = ports::rows_of(&port.config, trunk.mode, port.row.slot);
            self.loaded.by_ifindex.put(&port.config.ifindex, &row)?;
            self.loaded.by_tag.put(&ports::key_of(port.config.tag()), &tag_row)?;
            port.row = row;
        }
        Ok(())
    }

    /// Ends a trunk without ports. Detaching what is not attached succeeds.
    pub fn detach_trunk(&mut self, ifindex: u32) -> Result<(), TrunkError> {
        let ports = self.ports.values().filter(|port| port.config.trunk == ifindex).count();
        if ports > 0 {
            return Err(TrunkError::HasPorts { trunk: ifindex, ports });
        }
        // The row is written before the filter is attached and goes after it: no row, no filter.
        if self.trunks.contains_key(&ifindex) {
            filter::detach(self.program(Program::Trunk), ifindex, self.filter_handle)?;
        }
        Ok(self.forget_trunk(ifindex)?)
    }

    fn forget_trunk(&mut self, ifindex: u32) -> Result<(), TableError> {
        self.loaded.trunks.remove(&ifindex)?;
        if let Some((slot, _)) = self.trunks.remove(&ifindex) {
            self.free_slots.insert(slot);
        }
        Ok(())
    }

    /// The attached trunks.
    pub fn trunks(&self) -> Result<Vec<TrunkConfig>, TableError> {
        let mut trunks: Vec<_> =
            self.loaded.trunks.rows()?.iter().map(|(ifindex, row)| trunks::config_of(*ifindex, row)).collect();
        trunks.sort_by_key(|trunk| trunk.ifindex);
        Ok(trunks)
    }

    fn trunk_mode(&self, trunk: u32) -> Result<TrunkMode, PortError> {
        self.trunks.get(&trunk).map(|(_, config)| config.mode).ok_or(PortError::NoTrunk { trunk })
    }

    /// Makes a device the port of a tag, or changes what it is. Frames pass all the time while it changes, unless the
    /// tag itself changes.
    pub fn put_port(&mut self, config: &PortConfig) -> Result<Change, PortError> {
        let config = normalise(config)?;
        let mode = self.trunk_mode(config.trunk)?;
        let present = self.ports.get(&config.ifindex).cloned();
        let taken = self.loaded.by_tag.get(&ports::key_of(config.tag()))?;
        if let Some(other) = taken.filter(|row| row.port != config.ifindex) {
            return Err(PortError::TagTaken { tag: config.tag(), port: other.port });
        }
        // One whose putting or deleting was killed: no frame reaches it, and its device may be gone since.
        if let Some(other) = self.half.get(&config.tag()).copied().filter(|&other| other != config.ifindex) {
            self.delete_port(PortId::Ifindex(other))?;
        }
        self.answers_fit(present.as_ref(), &config)?;
        let slot = match &present {
            Some(port) => port.row.slot,
            None if count(&self.ports) >= self.loaded.by_ifindex.capacity() => {
                return Err(PortError::Full { capacity: self.loaded.by_ifindex.capacity() });
            }
            None => self.take_slot()?.ok_or(PortError::Full { capacity: self.loaded.by_ifindex.capacity() })?,
        };
        match self.write_port(present.as_ref(), &config, mode, slot) {
            Ok(change) => Ok(change),
            Err(e) => {
                // A new port that could not be made leaves nothing; an old one stays as far as it got.
                if present.is_none() {
                    self.forget_port(config.ifindex)?;
                }
                Err(e)
            }
        }
    }

    fn answers_fit(&self, present: Option<&Port>, config: &PortConfig) -> Result<(), TableError> {
        let capacity = self.loaded.answers.capacity();
        let others = self.answer_count - present.map_or(0, |port| count(&port.config.answer));
        if others + count(&config.answer) > capacity {
            return Err(TableError::Full { table: "answers".into(), capacity });
        }
        Ok(())
    }

    fn write_port(
        &mut self,
        present: Option<&Port>,
        config: &PortConfig,
        mode: TrunkMode,
        slot: u32,
    ) -> Result<Change, PortError> {
        let (tag_row, row) = ports::rows_of(config, mode, slot);
        // 0. Its limits, before the row that says it has some.
        limits::put(&self.loaded.limits, slot, config)?;
        steps::passed("port.limits");
        let old_answer: &[IpNet] = present.map_or(&[], |port| &port.config.answer);
        // 1. Nothing may reach the port under a tag that it is about to lose.
        if let Some(old) = present.filter(|port| port.config.tag() != config.tag()) {
            ports::remove_tag(&self.loaded.by_tag, old.config.tag(), config.ifindex)?;
        }
        // 2. The row by which the port is known, read back and removed.
        self.loaded.by_ifindex.put(&config.ifindex, &row)?;
        self.answer_count = self.answer_count + count(&config.answer) - count(old_answer);
        self.ports.insert(config.ifindex, Port { row, config: config.clone() });
        steps::passed("port.row");
        // 3. Its answers.
        answers::replace(&self.loaded.answers, config.ifindex, old_answer, &config.answer)?;
        steps::passed("port.answers");
        // 4. Its way out.
        filter::attach(self.program(Program::Port), config.ifindex, self.filter_handle, present.is_none())?;
        steps::passed("port.filter");
        // 5. Its way in.
        self.loaded.by_tag.put(&ports::key_of(config.tag()), &tag_row)?;
        self.half.retain(|_, port| *port != config.ifindex);
        Ok(match present {
            None => Change::Added,
            Some(old) if ports::same_row(&old.row, &row) && old.config == *config => Change::Unchanged,
            Some(_) => Change::Changed,
        })
    }

    /// Ends a port; its counters go with it. Removing what is not there, or whose device is gone, succeeds.
    pub fn delete_port(&mut self, id: PortId) -> Result<(), PortError> {
        let Some(ifindex) = self.ifindex_of(id)? else {
            return Ok(());
        };
        // First the way in, then the way out: meanwhile the tenant's frames still have their checks.
        if let Some(port) = self.ports.get(&ifindex) {
            ports::remove_tag(&self.loaded.by_tag, port.config.tag(), ifindex)?;
        }
        steps::passed("unport.tag");
        filter::detach(self.program(Program::Port), ifindex, self.filter_handle)?;
        steps::passed("unport.filter");
        Ok(self.forget_port(ifindex)?)
    }

    fn ifindex_of(&self, id: PortId) -> Result<Option<u32>, TableError> {
        Ok(match id {
            PortId::Ifindex(ifindex) => self.ports.contains_key(&ifindex).then_some(ifindex),
            PortId::Tag(tag) => {
                let row = self.loaded.by_tag.get(&ports::key_of(tag))?;
                row.map(|row| row.port).or_else(|| self.half.get(&tag).copied())
            }
        })
    }

    /// Removes all rows of a port, the one by which it is known last.
    fn forget_port(&mut self, ifindex: u32) -> Result<(), TableError> {
        let Some(port) = self.ports.get(&ifindex) else {
            return Ok(());
        };
        ports::remove_tag(&self.loaded.by_tag, port.config.tag(), ifindex)?;
        answers::replace(&self.loaded.answers, ifindex, &port.config.answer, &[])?;
        self.loaded.drops.remove(&port.row.slot)?;
        self.loaded.by_ifindex.remove(&ifindex)?;
        self.free_slots.insert(port.row.slot);
        self.answer_count -= count(&port.config.answer);
        self.half.retain(|_, port| *port != ifindex);
        self.ports.remove(&ifindex);
        Ok(())
    }

    /// All ports, read back from the tables.
    pub fn ports(&self) -> Result<Vec<PortConfig>, TableError> {
        let mut ports: BTreeMap<u32, PortConfig> = BTreeMap::new();
        for (ifindex, row) in self.loaded.by_ifindex.rows()? {
            if let Some(mut config) = ports::config_of(ifindex, &row) {
                limits::read(&self.loaded.limits, row.slot, &mut config)?;
                ports.insert(ifindex, config);
            }
        }
        for (ifindex, prefix) in answers::dump(&self.loaded.answers)? {
            if let Some(port) = ports.get_mut(&ifindex) {
                port.answer.push(prefix);
            }
        }
        Ok(ports
            .into_values()
            .map(|mut port| {
                port.answer.sort();
                port
            })
            .collect())
    }

    /// How full the room is.
    pub fn usage(&self) -> Usage {
        Usage {
            ports: count(&self.ports),
            max_ports: self.loaded.by_ifindex.capacity(),
            answers: self.answer_count,
            max_answers: self.loaded.answers.capacity(),
            trunks: count(&self.trunks),
            max_trunks: MAX_TRUNKS,
        }
    }

    /// Counters of everything.
    pub fn counters(&self) -> Result<RoomCounters, TableError> {
        self.counter_reader()?.counters()
    }

    /// Counters of one port; None when there is no such port.
    pub fn counters_of(&self, tag: Tag) -> Result<Option<Counters>, TableError> {
        let Some(row) = self.loaded.by_tag.get(&ports::key_of(tag))? else {
            return Ok(None);
        };
        Ok(Some(counters::of_slot(&self.loaded.traffic, &self.loaded.drops, row.slot)?))
    }

    /// What became of the last frame any program of this room saw, when [`OpenOptions::record_verdicts`] is set.
    pub fn last_verdict(&self) -> Result<Option<Verdict>, TableError> {
        let Some(row) = self.loaded.verdict.get(&0)? else {
            return Ok(None);
        };
        Ok(match (DropReason::from_number(row.reason), row.device) {
            (Some(reason), _) => Some(Verdict::Dropped(reason)),
            (None, 0) => None,
            (None, device) => Some(Verdict::Sent { device, peer: row.peer != 0 }),
        })
    }
}

/// Lengths here are bounded by 32-bit capacities.
fn count<'a, C: ?Sized>(rows: &'a C) -> u32
where
    &'a C: IntoIterator<IntoIter: ExactSizeIterator>,
{
    u32::try_from(rows.into_iter().len()).unwrap_or(u32::MAX)
}
