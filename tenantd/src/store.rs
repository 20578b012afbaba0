//! What is desired, kept over restarts. One small trait, so that a fleet's database can stand behind it later; SQLite
//! is the default. Intent is recorded before the kernel is touched: a daemon killed in between finishes what it wrote.

use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};
use stackmap::TenantName;

use crate::fault;
use crate::model::Tenant;

/// Schema of the database file; a file with a higher one is refused.
pub const SCHEMA: i64 = 1;

/// One tenant as it shall be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// The tenant.
    pub tenant: Tenant,
    /// True from the moment its removal was asked for until nothing of it is left.
    pub removing: bool,
}

/// Why the store could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file could not be opened.
    #[error("cannot open the store {path}")]
    Open {
        /// Path of the database.
        path: String,
        /// Cause.
        #[source]
        source: rusqlite::Error,
    },
    /// The file could not be kept from other users.
    #[error("cannot make {path} readable by root only")]
    Mode {
        /// Path of the database.
        path: String,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// The file was written by a newer program.
    #[error("the store {path} has schema {found}, this program knows up to {SCHEMA}")]
    Newer {
        /// Path of the database.
        path: String,
        /// Schema found.
        found: i64,
    },
    /// A statement failed, for example because the disk is full.
    #[error("cannot {verb} tenant {name} in the store")]
    Statement {
        /// `read`, `write` or `delete`.
        verb: &'static str,
        /// Tenant, or `*`.
        name: String,
        /// Cause.
        #[source]
        source: rusqlite::Error,
    },
    /// A row does not parse.
    #[error("the store's row of tenant {name} does not parse")]
    Row {
        /// Tenant.
        name: String,
        /// Cause.
        #[source]
        source: serde_json::Error,
    },
}

/// Where desired state lives.
pub trait Store: Send {
    /// Every tenant, in no particular order.
    fn load(&self) -> Result<Vec<Desired>, StoreError>;
    /// Write one tenant, durable when this returns.
    fn put(&mut self, desired: &Desired) -> Result<(), StoreError>;
    /// Forget one tenant; an unknown one is forgotten already.
    fn remove(&mut self, name: &TenantName) -> Result<(), StoreError>;
}

/// The default store.
pub struct SqliteStore {
    db: Connection,
}

impl SqliteStore {
    /// Open or make the database. WAL with full synchronisation: what was answered survives a power cut.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let open = |source| StoreError::Open { path: path.display().to_string(), source };
        // The directory is passable, because tenants' files lie in it; SQLite gives its side files the mode of this one.
        let private = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path);
        private
            .and_then(|file| file.set_permissions(std::fs::Permissions::from_mode(0o600)))
            .map_err(|source| StoreError::Mode { path: path.display().to_string(), source })?;
        let db = Connection::open(path).map_err(open)?;
        db.pragma_update(None, "journal_mode", "WAL").map_err(open)?;
        db.pragma_update(None, "synchronous", "FULL").map_err(open)?;
        let found: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(open)?;
        if found > SCHEMA {
            return Err(StoreError::Newer { path: path.display().to_string(), found });
        }
        if found < SCHEMA {
            db.execute_batch(&format!(
                "BEGIN; CREATE TABLE tenants (name TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;
                 PRAGMA user_version = {SCHEMA}; COMMIT;"
            ))
            .map_err(open)?;
        }
        Ok(Self { db })
    }
}

impl Store for SqliteStore {
    fn load(&self) -> Result<Vec<Desired>, StoreError> {
        let read = |source| StoreError::Statement { verb: "read", name: "*".into(), source };
        let mut statement = self.db.prepare_cached("SELECT name, body FROM tenants").map_err(read)?;
        let rows =
            statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))).map_err(read)?;
        rows.map(|row| {
            let (name, body) = row.map_err(read)?;
            serde_json::from_str(&body).map_err(|source| StoreError::Row { name, source })
        })
        .collect()
    }

    fn put(&mut self, desired: &Desired) -> Result<(), StoreError> {
        let name = desired.tenant.name.to_string();
        let body = serde_json::to_string(desired).map_err(|source| StoreError::Row { name: name.clone(), source })?;
        fault::point("store.put.before");
        self.db
            .prepare_cached(
                "INSERT INTO tenants (name, body) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET body = ?2",
            )
            .and_then(|mut s| s.execute(params![name, body]))
            .map_err(|source| StoreError::Statement { verb: "write", name, source })?;
        fault::point("store.put.after");
        Ok(())
    }

    fn remove(&mut self, name: &TenantName) -> Result<(), StoreError> {
        fault::point("store.remove.before");
        self.db
            .prepare_cached("DELETE FROM tenants WHERE name = ?1")
            .and_then(|mut s| s.execute(params![name.to_string()]))
            .map_err(|source| StoreError::Statement { verb: "delete", name: name.to_string(), source })?;
        fault::point("store.remove.after");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn desired(name: &str) -> Desired {
        let tenant = serde_json::json!({
            "name": name, "stack": "inet0", "vlan": 600, "gid": 524_288, "device": "dev0", "whole_device": false,
            "mac": null, "addresses": ["192.168.1.1/24"], "tunnels": ["gre:198.51.100.2,key=7"], "dns": [],
            "gateway": null, "routes": [], "services": [], "generation": 1,
        });
        Desired { tenant: serde_json::from_value(tenant).unwrap(), removing: false }
    }

    #[test]
    fn what_was_put_is_there_after_opening_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.db");
        let mut acme = desired("acme");
        {
            let mut store = SqliteStore::open(&path).unwrap();
            store.put(&acme).unwrap();
            store.put(&desired("gone")).unwrap();
            store.remove(&"gone".parse().unwrap()).unwrap();
            store.remove(&"never".parse().unwrap()).unwrap();
            acme.removing = true;
            store.put(&acme).unwrap();
        }
        assert_eq!(SqliteStore::open(&path).unwrap().load().unwrap(), [acme]);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_newer_schema_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.db");
        SqliteStore::open(&path).unwrap().put(&desired("acme")).unwrap();
        Connection::open(&path).unwrap().pragma_update(None, "user_version", SCHEMA + 1).unwrap();
        let before = std::fs::read(&path).unwrap();
        let refused = SqliteStore::open(&path).err().unwrap();
        assert!(matches!(refused, StoreError::Newer { found, .. } if found == SCHEMA + 1), "{refused}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn a_file_that_is_no_database_is_a_named_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.db");
        std::fs::write(&path, "x".repeat(4096)).unwrap();
        assert!(matches!(SqliteStore::open(&path), Err(StoreError::Open { .. })));
    }
}
