//! PostgreSQL and Redis.

use crate::tenant::{Machine, Tenant};

pub(crate) const SECRET: &str = "tide-Pool_77";

pub(crate) fn psql(tenant: &Tenant, word: &str, sql: &str) -> Result<String, String> {
    let to = "host=192.168.1.1 user=ada dbname=ada connect_timeout=10 sslmode=disable";
    let output = tenant.site.run("psql", &["-X", "-A", "-t", "-w", "-c", sql, to], &[("PGPASSWORD", word)]);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// As its administrator does it on any Debian server: by `su postgres`.
pub(crate) fn make_role(tenant: &mut Tenant) {
    let script =
        format!("psql -q <<'E'\ncreate role ada login password '{SECRET}';\ncreate database ada owner ada;\nE");
    tenant.run_as("postgres", &script);
}

pub(crate) fn postgresql() {
    let machine = Machine::new();
    let mut tenant = machine.tenant("acme");
    tenant.serve("postgresql", &[]);
    assert!(psql(&tenant, SECRET, "select 1").unwrap_err().contains("password authentication failed"));
    make_role(&mut tenant);
    psql(&tenant, SECRET, "create table t as select n, md5(n::text) from generate_series(1, 20000) n").unwrap();
    assert_eq!(psql(&tenant, SECRET, "select count(*), max(md5) from t").unwrap().split('|').next(), Some("20000"));
    assert!(psql(&tenant, "wrong", "select 1").unwrap_err().contains("password authentication failed"));
    // A parallel query needs shared memory and semaphores.
    let sql = "set min_parallel_table_scan_size=0; set parallel_setup_cost=0; set parallel_tuple_cost=0; \
        select count(*) from t where md5 like '%a%'";
    assert!(psql(&tenant, SECRET, sql).unwrap().ends_with(|c: char| c.is_ascii_digit()));
    let before = psql(&tenant, SECRET, "select md5(string_agg(md5, '' order by n)) from t").unwrap();
    tenant.restart("postgresql");
    assert_eq!(psql(&tenant, SECRET, "select md5(string_agg(md5, '' order by n)) from t").unwrap(), before);
    // The configuration is what the package makes; what differs was said on the command line.
    let settings =
        tenant.sh("awk '/^(listen_addresses|port)/ {print $1 $2 $3}' /etc/postgresql/*/main/postgresql.conf");
    assert_eq!(settings, "port=5432");
    let rows = tenant.sh("grep -hE '^(host|local)' /etc/postgresql/*/main/pg_hba.conf | tail -n 2 | tr -s ' '");
    assert_eq!(rows, "host all all 0.0.0.0/0 scram-sha-256\nhost all all ::/0 scram-sha-256");

    let mut closed = machine.tenant("closed");
    closed.serve("postgresql", &[("allow", "10.0.0.0/8"), ("port", "5433")]);
    let to = "host=192.168.1.1 port=5433 user=ada connect_timeout=10";
    let words = closed.site.fails("psql", &["-X", "-w", "-c", "select 1", to], &[("PGPASSWORD", SECRET)]);
    assert!(words.contains("no pg_hba.conf entry"), "{words}");
    // A cluster that stopped badly comes back: the postmaster is killed.
    tenant.sh("kill -9 $(head -n 1 /var/lib/postgresql/*/main/postmaster.pid)");
    let again = crate::tenant::eventually("another postmaster", || {
        psql(&tenant, SECRET, "select md5(string_agg(md5, '' order by n)) from t").ok()
    });
    assert_eq!(again, before);
}

pub(crate) fn redis_cli(tenant: &Tenant, word: Option<&str>, words: &[&str]) -> String {
    let env = word.map(|word| ("REDISCLI_AUTH", word));
    let all = [&["-h", "192.168.1.1"], words].concat();
    let output = tenant.site.run("redis-cli", &all, env.as_slice());
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

pub(crate) fn redis() {
    let machine = Machine::new();
    let mut tenant = machine.tenant("acme");
    tenant.serve("redis", &[("password", SECRET)]);
    assert!(redis_cli(&tenant, None, &["ping"]).starts_with("NOAUTH"));
    assert_eq!(redis_cli(&tenant, Some(SECRET), &["ping"]), "PONG");
    assert_eq!(redis_cli(&tenant, Some(SECRET), &["set", "k", "of acme"]), "OK");
    // A snapshot is written by a child, and the append-only file is the other way to keep data.
    assert_eq!(redis_cli(&tenant, Some(SECRET), &["save"]), "OK");
    assert_eq!(redis_cli(&tenant, Some(SECRET), &["config", "set", "appendonly", "yes"]), "OK");
    assert_eq!(redis_cli(&tenant, Some(SECRET), &["config", "set", "appendonly", "no"]), "OK");
    tenant.restart("redis");
    assert_eq!(redis_cli(&tenant, Some(SECRET), &["get", "k"]), "of acme");
    assert_eq!(tenant.sh("stat -c %U /proc/$(pgrep -o redis-server)"), "redis");

    let (mut shut, mut open) = (machine.tenant("shut"), machine.tenant("open"));
    shut.serve("redis", &[]);
    assert!(redis_cli(&shut, None, &["ping"]).contains("protected mode"), "as the package has it");
    assert_eq!(shut.sh("redis-cli ping"), "PONG");
    open.serve("redis", &[("protected", "no"), ("port", "6380")]);
    assert_eq!(redis_cli(&open, None, &["-p", "6380", "ping"]), "PONG");
    // An administrator's own file stays.
    let mut own = machine.tenant("own");
    own.sh("mkdir -p /etc/redis; echo 'databases 3\ndir /var/lib/redis' >/etc/redis/redis.conf; chown redis: /etc/redis/redis.conf");
    own.serve("redis", &[("protected", "no")]);
    assert!(redis_cli(&own, None, &["config", "get", "databases"]).ends_with('3'));
}
