//! What the daemon itself uses, under the names that every Prometheus client library gives it.

use std::fs;

/// The daemon's own figures; 0 where /proc does not say.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Own {
    pub(crate) cpu_seconds: f64,
    pub(crate) resident_bytes: u64,
    pub(crate) open_fds: u64,
    pub(crate) threads: u64,
}

impl Own {
    pub(crate) fn read() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // The name in brackets may hold anything (proc_pid_stat(5)); fields are counted behind it, from the third on.
        let fields: Vec<&str> =
            stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
        let field = |number: usize| fields.get(number - 3).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        // SAFETY: system calls without pointers.
        let (ticks, page) = unsafe { (libc::sysconf(libc::_SC_CLK_TCK), libc::sysconf(libc::_SC_PAGESIZE)) };
        Self {
            cpu_seconds: (field(14) + field(15)) as f64 / ticks.max(1) as f64,
            resident_bytes: field(24) * u64::try_from(page).unwrap_or(0),
            open_fds: fs::read_dir("/proc/self/fd").map_or(0, |dir| dir.count() as u64),
            threads: field(20),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_itself_uses_something() {
        let own = Own::read();
        assert!(own.resident_bytes > 1 << 20 && own.open_fds > 2 && own.threads > 0, "{own:?}");
    }
}
