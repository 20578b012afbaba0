//! The audit's rows in the database. Outcomes and notes wait in memory for the next transaction, so that a change costs
//! one flush and not two; the owner's timer writes what is left.
//!
//! Bounded by accounts, so that nobody fills the disk and nobody pushes the traces of another one out: each tenant has one
//! (what it asked for itself, and what the daemon mended in it), the operators have one, and all tenants together end at
//! a bound of their own.

use std::collections::{BTreeMap, VecDeque};

use rusqlite::{Connection, Row, Transaction, TransactionBehavior, params};
use serde_json::Value;

use super::Revision;
use crate::audit::{AuditResult, AuditRow, Entry, FORGET, Outcome, Query};
use crate::model::EventOrigin;

/// What one tenant's account may hold.
const TENANT: Held = Held { rows: 500, bytes: 256 << 10 };
/// All tenants' accounts together.
const TENANTS: Held = Held { rows: 100_000, bytes: 64 << 20 };
/// That of the operators and the daemon.
const OPERATORS: Held = Held { rows: 100_000, bytes: 64 << 20 };
/// What waits in memory at most; the oldest goes first.
const WAITING: usize = 4096;
/// What a row takes beside its texts, about.
const ROW: usize = 120;

/// The account of the operators.
const OPERATORS_NAME: &str = "";

/// What waits to be written, and how full the accounts are.
#[derive(Debug, Default)]
pub(super) struct Journal {
    waiting: VecDeque<Waiting>,
    /// Rows and bytes; known of those that were written to since the database was opened.
    accounts: BTreeMap<String, Held>,
    /// Of all tenants.
    together: Option<Held>,
}

#[derive(Debug)]
enum Waiting {
    Finish(Revision, Outcome),
    Note(Box<Entry>, Outcome),
}

impl Journal {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn finish(&mut self, revision: Revision, outcome: Outcome) {
        self.wait(Waiting::Finish(revision, outcome));
    }

    pub(super) fn note(&mut self, entry: Entry, outcome: Outcome) {
        self.wait(Waiting::Note(Box::new(entry), outcome));
    }

    fn wait(&mut self, waiting: Waiting) {
        // A store that cannot be written for long must not fill the memory.
        if self.waiting.len() >= WAITING {
            self.waiting.pop_front();
        }
        self.waiting.push_back(waiting);
    }

    /// What waited is in the database.
    pub(super) fn written(&mut self) {
        self.waiting.clear();
    }

    /// The transaction was taken back, and with it what was counted.
    pub(super) fn not_written(&mut self) {
        self.accounts.clear();
        self.together = None;
    }

    pub(super) fn write_waiting(&mut self, tx: &Transaction<'_>) -> rusqlite::Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        let written = waiting.iter().try_for_each(|waiting| match waiting {
            Waiting::Finish(revision, outcome) => {
                let (result, reason) = outcome.words();
                tx.prepare_cached("UPDATE audit SET result = ?2, reason = ?3 WHERE revision = ?1")?
                    .execute(params![revision.0, result.as_str(), reason])
                    .map(drop)
            }
            Waiting::Note(entry, outcome) => self.insert(tx, entry, None, Some(outcome)),
        });
        // Kept until the transaction is through.
        self.waiting = waiting;
        written
    }

    /// The entry of the change that this transaction makes.
    pub(super) fn append(
        &mut self,
        tx: &Transaction<'_>,
        entry: &Entry,
        revision: Option<Revision>,
    ) -> rusqlite::Result<()> {
        self.insert(tx, entry, revision, None)
    }

    fn insert(
        &mut self,
        tx: &Transaction<'_>,
        entry: &Entry,
        revision: Option<Revision>,
        outcome: Option<&Outcome>,
    ) -> rusqlite::Result<()> {
        let text = |value: &Option<Value>| value.as_ref().map(Value::to_string);
        let (before, after) = (text(&entry.before), text(&entry.after));
        let (result, reason) = outcome.map_or((AuditResult::Open, None), Outcome::words);
        let account = account_of(entry);
        let texts = [before.as_deref(), after.as_deref(), reason, Some(&entry.who.comm)];
        let bytes = ROW + texts.into_iter().flatten().map(str::len).sum::<usize>();
        self.make_room(tx, account, bytes as u64)?;
        tx.prepare_cached(
            "INSERT INTO audit (revision, at_ms, origin, uid, gid, pid, command, verb, tenant, before, after, result,
                                reason, account, bytes)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
        )?
        .execute(params![
            revision.map(|revision| revision.0),
            entry.at_ms,
            origin_word(entry.who.origin),
            entry.who.uid,
            entry.who.gid,
            entry.who.pid,
            entry.who.comm,
            entry.verb,
            entry.tenant.as_ref().map(|tenant| tenant.as_str()),
            before,
            after,
            result.as_str(),
            reason,
            account,
            bytes as u64,
        ])
        .map(drop)
    }

    /// Count one more row, and delete the oldest ones of an account that is full.
    fn make_room(&mut self, tx: &Transaction<'_>, account: &str, bytes: u64) -> rusqlite::Result<()> {
        let is_tenant = account != OPERATORS_NAME;
        let mut own = match self.accounts.remove(account) {
            Some(held) => held,
            None => Held::read(tx, "account = ?1", account)?,
        };
        let mut together = match self.together {
            Some(held) => held,
            None => Held::read(tx, "account > ?1", OPERATORS_NAME)?,
        };
        own.add(bytes);
        let dropped = own.keep_within(if is_tenant { TENANT } else { OPERATORS }, tx, "account = ?1", account)?;
        if is_tenant {
            together.add(bytes);
            together.take(dropped);
            let dropped = together.keep_within(TENANTS, tx, "account > ?1", OPERATORS_NAME)?;
            if dropped.rows > 0 {
                // Whose rows these were is not known: every account is counted anew.
                self.accounts.clear();
                self.together = Some(together);
                return Ok(());
            }
        }
        self.together = Some(together);
        self.accounts.insert(account.to_owned(), own);
        Ok(())
    }
}

/// How full an account is.
#[derive(Debug, Clone, Copy, Default)]
struct Held {
    rows: u64,
    bytes: u64,
}

impl Held {
    fn read(db: &Connection, filter: &str, account: &str) -> rusqlite::Result<Self> {
        db.prepare_cached(&format!("SELECT count(*), coalesce(sum(bytes), 0) FROM audit WHERE {filter}"))?
            .query_row(params![account], |row| Ok(Self { rows: row.get(0)?, bytes: row.get(1)? }))
    }

    fn add(&mut self, bytes: u64) {
        self.rows += 1;
        self.bytes += bytes;
    }

    fn take(&mut self, dropped: Self) {
        self.rows = self.rows.saturating_sub(dropped.rows);
        self.bytes = self.bytes.saturating_sub(dropped.bytes);
    }

    /// Deletes the oldest sixteenth as often as it takes; returns what was deleted. The row that is about to be written is
    /// counted already and is not deleted.
    fn keep_within(
        &mut self,
        bound: Self,
        tx: &Transaction<'_>,
        filter: &str,
        account: &str,
    ) -> rusqlite::Result<Self> {
        let mut dropped = Self::default();
        while (self.rows > bound.rows || self.bytes > bound.bytes) && self.rows > 1 {
            let some = (self.rows / 16).max(1);
            let oldest = format!("SELECT id FROM audit WHERE {filter} ORDER BY id LIMIT {some}");
            let mut delete = tx.prepare(&format!("DELETE FROM audit WHERE id IN ({oldest}) RETURNING bytes"))?;
            let mut gone = Self::default();
            for bytes in delete.query_map(params![account], |row| row.get::<_, u64>(0))? {
                gone.add(bytes?);
            }
            if gone.rows == 0 {
                break;
            }
            self.take(gone);
            dropped.rows += gone.rows;
            dropped.bytes += gone.bytes;
        }
        Ok(dropped)
    }
}

/// Whose account a row is on: a tenant's own doing and what the daemon mended in it are the tenant's.
fn account_of(entry: &Entry) -> &str {
    let tenant = match entry.who.origin {
        // No tenant's own, and it has to outlive the rows of others that lie before it: from it on the name is another's.
        _ if entry.verb == FORGET => None,
        EventOrigin::Operator => None,
        EventOrigin::Tenant => entry.who.tenant.as_ref(),
        EventOrigin::Daemon => entry.tenant.as_ref(),
    };
    tenant.map_or(OPERATORS_NAME, |tenant| tenant.as_str())
}

/// What a daemon that was killed left open is not known any more.
pub(super) fn close_open_rows(db: &mut Connection) -> rusqlite::Result<()> {
    let open: bool = db.query_row("SELECT EXISTS (SELECT 1 FROM audit WHERE result = 'open')", [], |row| row.get(0))?;
    if !open {
        return Ok(());
    }
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    tx.execute("UPDATE audit SET result = ?1 WHERE result = 'open'", params![AuditResult::Unfinished.as_str()])?;
    tx.commit()
}

/// Rows that are asked for, oldest first.
pub(super) fn read(db: &Connection, query: &Query) -> rusqlite::Result<Vec<AuditRow>> {
    const COLUMNS: &str =
        "id, revision, at_ms, origin, uid, gid, pid, command, verb, tenant, before, after, result, reason";
    let tenant = query.tenant.as_ref().map(|tenant| tenant.as_str());
    // Without a tenant the rows are taken by their number alone.
    let of_tenant = if tenant.is_some() { "tenant = ?1" } else { "?1 IS NULL" };
    let after = query.since.unwrap_or(0).max(match tenant {
        Some(name) if query.present => forgotten(db, name)?,
        _ => 0,
    });
    let order = if query.since.is_some() { "ASC" } else { "DESC" };
    let sql = format!("SELECT {COLUMNS} FROM audit WHERE {of_tenant} AND id > ?2 ORDER BY id {order} LIMIT ?3");
    let mut rows = db.prepare_cached(&sql)?;
    let rows = rows.query_map(params![tenant, after, query.limit], row)?;
    let mut rows: Vec<AuditRow> = rows.collect::<Result<_, _>>()?;
    if query.since.is_none() {
        rows.reverse();
    }
    Ok(rows)
}

/// The number up to which rows may be about an earlier tenant of this name. Where its end was pushed out, the operators'
/// oldest row came after it, and what is older is not known to be of this one.
fn forgotten(db: &Connection, name: &str) -> rusqlite::Result<u64> {
    let last: Option<u64> = db
        .prepare_cached("SELECT max(id) FROM audit WHERE tenant = ?1 AND verb = ?2")?
        .query_row(params![name, FORGET], |row| row.get(0))?;
    let oldest: Option<u64> = db
        .prepare_cached("SELECT min(id) FROM audit WHERE account = ?1")?
        .query_row(params![OPERATORS_NAME], |row| row.get(0))?;
    Ok(last.unwrap_or(0).max(oldest.unwrap_or(1) - 1))
}

fn row(row: &Row<'_>) -> rusqlite::Result<AuditRow> {
    // What does not parse was damaged: the rest of the row is still worth showing.
    let json = |text: Option<String>| text.map(|text| serde_json::from_str(&text).unwrap_or(Value::String(text)));
    Ok(AuditRow {
        id: row.get(0)?,
        revision: row.get(1)?,
        at_ms: row.get(2)?,
        origin: origin_of(&row.get::<_, String>(3)?),
        uid: row.get(4)?,
        gid: row.get(5)?,
        pid: row.get(6).map(|pid: u32| Some(pid).filter(|pid| *pid != 0))?,
        command: row.get(7).map(|command: String| Some(command).filter(|command| !command.is_empty()))?,
        verb: row.get(8)?,
        tenant: row.get(9)?,
        before: json(row.get(10)?),
        after: json(row.get(11)?),
        result: AuditResult::parse(&row.get::<_, String>(12)?).unwrap_or(AuditResult::Unfinished),
        reason: row.get(13)?,
    })
}

fn origin_word(origin: EventOrigin) -> &'static str {
    match origin {
        EventOrigin::Daemon => "daemon",
        EventOrigin::Operator => "operator",
        EventOrigin::Tenant => "tenant",
    }
}

fn origin_of(word: &str) -> EventOrigin {
    match word {
        "operator" => EventOrigin::Operator,
        "tenant" => EventOrigin::Tenant,
        _ => EventOrigin::Daemon,
    }
}
