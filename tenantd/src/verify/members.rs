//! Upper table against processes and sockets: who is a tenant's by one sign must be by all of them, and where it should
//! be. Pure.

use std::collections::BTreeSet;

use super::Check;
use super::facts::{Expected, Facts, Member, Place};

/// Of which tenant a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Belongs {
    /// One of its own.
    To(usize),
    /// Root of the host that was put into its cgroups or pid namespace: init while it makes the house, `tenantd exec`
    /// on its way in.
    RootIn(usize),
    /// Nobody's.
    Nobody,
    /// It has signs of several.
    Torn,
}

/// Processes and sockets, and what is worth knowing.
pub(super) fn checks(expected: &[Expected], facts: &Facts) -> (Check, Check, Vec<String>) {
    let mut view = View {
        expected,
        me: facts.me,
        processes: Check::new("processes"),
        sockets: Check::new("sockets"),
        told: BTreeSet::new(),
        own: 0,
        unix: 0,
        roots: 0,
    };
    view.processes.looked_at = facts.census.processes;
    view.sockets.looked_at = facts.census.sockets;
    for member in &facts.census.members {
        let belongs = view.process(member);
        view.sockets_of(member, belongs);
    }
    for (what, why) in &facts.census.unseen {
        view.processes.differ([], what.clone(), "every process can be looked at", why.clone());
    }
    let mut notes = Vec::new();
    if view.own > 0 {
        notes.push(format!("{} sockets in stacks are the daemon's own (process {})", view.own, view.me));
    }
    if view.roots > 0 {
        notes.push(format!("{} processes are root of the host inside a tenant, on their way in", view.roots));
    }
    if view.unix > 0 {
        let why = "they reach no network, and their ends lie where their makers were";
        notes.push(format!("{} Unix sockets are in another stack than their holder: {why}", view.unix));
    }
    (view.processes, view.sockets, notes)
}

struct View<'a> {
    expected: &'a [Expected],
    me: i32,
    processes: Check,
    sockets: Check,
    /// Sockets told of: several processes may hold one.
    told: BTreeSet<u64>,
    own: usize,
    unix: usize,
    roots: usize,
}

impl<'a> View<'a> {
    fn tenants(&self, numbers: impl IntoIterator<Item = usize>) -> Vec<&'a Expected> {
        numbers.into_iter().filter_map(|number| self.expected.get(number)).collect()
    }

    fn process(&mut self, member: &Member) -> Belongs {
        let stacks = member.places.iter().filter_map(|place| match place {
            Place::Stack(n) | Place::Private(n) => Some(*n),
            _ => None,
        });
        let inside = stacks.collect::<BTreeSet<usize>>();
        let mut all: BTreeSet<usize> = member.cgroups.keys().chain(&member.ids).copied().collect();
        all.extend(member.pid_ns);
        if member.pid == self.me {
            // Our threads enter stacks to do their work, and we are of none of them.
            return Belongs::Nobody;
        }
        if all.is_empty() && inside.is_empty() {
            return Belongs::Nobody;
        }
        self.processes.belong += 1;
        let together: BTreeSet<usize> = all.union(&inside).copied().collect();
        if together.len() > 1 {
            let who = self.tenants(together.iter().copied());
            let table = format!("each process has one of {}", list(who.iter().map(|t| row(t))));
            self.processes.differ(who, member.name(), table, self.signs(member));
            return Belongs::Torn;
        }
        let Some((number, tenant)) = together.first().and_then(|n| Some((*n, self.expected.get(*n)?))) else {
            return Belongs::Nobody;
        };
        if all.is_empty() {
            let table = format!("{}: only its processes are there", row(tenant));
            self.processes.differ([tenant], member.name(), table, self.signs(member));
            return Belongs::Nobody;
        }
        let whole = member.cgroups.get(&number).copied().unwrap_or(0) == tenant.cgroups.len();
        if member.root && member.ids.is_empty() && (whole || member.pid_ns.is_some()) {
            self.roots += 1;
            return Belongs::RootIn(number);
        }
        let there = member.places.iter().all(|p| matches!(p, Place::Stack(n) | Place::Private(n) if *n == number));
        let ids = !member.ids.is_empty() && member.other_ids.is_empty();
        if !(whole && there && ids && member.pid_ns.is_some()) {
            self.processes.differ([tenant], member.name(), row(tenant), self.signs(member));
        }
        Belongs::To(number)
    }

    /// Every sign by which it is somebody's.
    fn signs(&self, member: &Member) -> String {
        let name = |n: &usize| self.expected.get(*n).map_or_else(String::new, |t| t.name.to_string());
        let mut words: Vec<String> = member.places.iter().map(|place| place.words(self.expected)).collect();
        let whole = |n: &usize| self.expected.get(*n).map_or(0, |t| t.cgroups.len());
        words.extend(member.cgroups.iter().map(|(n, k)| match whole(n) {
            all if all == *k => format!("in the cgroups of {}", name(n)),
            all => format!("in {k} of the {all} cgroups of {}", name(n)),
        }));
        if member.cgroups.is_empty() {
            words.push("in no tenant's cgroups".into());
        }
        words.extend(member.ids.iter().map(|n| format!("with ids of {}", name(n))));
        if !member.other_ids.is_empty() {
            let ids = member.other_ids.iter().take(8).map(ToString::to_string);
            words.push(format!("with ids of no tenant ({})", ids.collect::<Vec<_>>().join(" ")));
        }
        words.push(match &member.pid_ns {
            Some(n) => format!("in the pid namespace of {}", name(n)),
            None => "in no tenant's pid namespace".into(),
        });
        words.join(", ")
    }

    fn sockets_of(&mut self, member: &Member, belongs: Belongs) {
        for socket in &member.sockets {
            let of = match socket.place {
                Place::Stack(n) | Place::Private(n) => Some(n),
                _ => None,
            };
            let right = match (belongs, of) {
                (Belongs::To(tenant), of) => of == Some(tenant),
                (Belongs::RootIn(tenant), of) => of.is_none() || of == Some(tenant),
                (_, None) => true,
                (_, Some(_)) if member.pid == self.me => {
                    self.own += 1;
                    true
                }
                _ => false,
            };
            if matches!(belongs, Belongs::To(_)) || of.is_some() {
                self.sockets.belong += 1;
            }
            if right {
                continue;
            }
            if socket.family == libc::AF_UNIX {
                self.unix += 1;
                continue;
            }
            if !self.told.insert(socket.inode) {
                continue;
            }
            let (who, table) = match belongs {
                Belongs::To(tenant) => {
                    let holder = self.tenants([tenant]);
                    let table = list(holder.iter().map(|t| row(t)));
                    (self.tenants([tenant].into_iter().chain(of)), table)
                }
                Belongs::Torn => (self.tenants(of), "sockets of one tenant's processes in its stack".into()),
                _ => {
                    let owner = self.tenants(of);
                    let table = format!("{}: only sockets of its processes", list(owner.iter().map(|t| row(t))));
                    (owner, table)
                }
            };
            let subject = format!("socket {} of {}", socket.inode, member.name());
            let kernel = format!("{} socket {}", family(socket.family), socket.place.words(self.expected));
            self.sockets.differ(who, subject, table, kernel);
        }
    }
}

/// The upper table's row.
fn row(tenant: &Expected) -> String {
    format!("{} of {} <-> ids from {}", tenant.stack, tenant.name, tenant.ids.get())
}

fn list(words: impl Iterator<Item = String>) -> String {
    words.collect::<Vec<_>>().join(", ")
}

fn family(number: i32) -> String {
    match number {
        libc::AF_INET => "AF_INET".into(),
        libc::AF_INET6 => "AF_INET6".into(),
        libc::AF_PACKET => "AF_PACKET".into(),
        libc::AF_NETLINK => "AF_NETLINK".into(),
        other => format!("family {other}"),
    }
}
