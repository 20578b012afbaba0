//! `tenantd top`: what tenants use, one line each, again and again.
//!
//! Everything comes from the API: two looks at a tenant's status make a rate. On a terminal the table is drawn in place
//! and fits the window; elsewhere, or with `--once`, it is plain text.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use serde::Serialize;
use stackmap::{Invalid, TenantName};

use super::table::align;
use super::{Context, Failure, write};
use crate::client::ClientError;
use crate::enter::terminal::{Raw, window};
use crate::model::{Tenant, TenantState, TenantStatus};
use crate::problem::ProblemKind;

/// Arguments of `top`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  tenantd top\n  tenantd top acme --once --json\n\n\
    Columns: processes and threads; memory; percent of one processor; bytes a second to and from the tenant; restarts of \
    its services; processes killed because its memory was used up. `-` where this host does not count. q or Ctrl-C ends. \
    With --json each look is one object in one line. Exit codes: 0 done, 1 refused or failed, 2 wrong usage.")]
pub struct Top {
    /// Tenants; all when left out
    #[arg(value_name = "NAME")]
    names: Vec<TenantName>,
    /// Print once, after one interval, and end
    #[arg(long)]
    once: bool,
    /// Seconds between two looks, 0.2 to 3600
    #[arg(short, long, value_name = "SECONDS", default_value = "2", value_parser = interval)]
    interval: Duration,
}

fn interval(text: &str) -> Result<Duration, Invalid> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.2..=3600.0).contains(seconds));
    let rule = "must be a number of seconds from 0.2 to 3600";
    seconds.map(Duration::from_secs_f64).ok_or_else(|| Invalid::new("interval", text, rule))
}

/// What was seen of a tenant at one moment.
#[derive(Debug, Clone)]
struct Look {
    at: Instant,
    status: TenantStatus,
}

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Row {
    name: TenantName,
    state: TenantState,
    processes: Option<u64>,
    /// Bytes.
    memory: Option<u64>,
    /// Of one processor; none until there are two looks.
    cpu_percent: Option<f64>,
    rx_bytes_per_s: Option<f64>,
    tx_bytes_per_s: Option<f64>,
    restarts: u64,
    oom_kills: Option<u64>,
}

/// One look at all of them.
#[derive(Debug, Serialize)]
struct Table<'a> {
    at_ms: u128,
    tenants: &'a [Row],
}

/// Shows the table.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &Top, cx: &Context) -> Result<(), Failure> {
    let mut before = looks(args, cx)?;
    let live = !args.once && !cx.json && io::stdout().is_terminal() && io::stdin().is_terminal();
    if live {
        return draw(args, cx, before);
    }
    loop {
        std::thread::sleep(args.interval);
        let now = looks(args, cx)?;
        let rows = rows(&before, &now);
        if cx.json {
            let at_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
            let text = serde_json::to_string(&Table { at_ms, tenants: &rows }).unwrap_or_default();
            write(format!("{text}\n").as_bytes())?;
        } else {
            write(text(&rows).as_bytes())?;
        }
        if args.once {
            return Ok(());
        }
        if !cx.json {
            write(b"\n")?;
        }
        before = now;
    }
}

fn looks(args: &Top, cx: &Context) -> Result<BTreeMap<TenantName, Look>, Failure> {
    let asked_for = !args.names.is_empty();
    let names = match asked_for {
        true => args.names.clone(),
        false => {
            let all: Vec<Tenant> = cx.client.get("/v1/tenants")?.parse()?;
            all.into_iter().map(|tenant| tenant.name).collect()
        }
    };
    let mut looks = BTreeMap::new();
    for name in names {
        match cx.client.get(&format!("/v1/tenants/{name}/status")) {
            Ok(answer) => drop(looks.insert(name, Look { at: Instant::now(), status: answer.parse()? })),
            // Removed since the list was made.
            Err(ClientError::Refused(problem)) if !asked_for && problem.is(ProblemKind::Unknown) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(looks)
}

/// The lines, the busiest first.
fn rows(before: &BTreeMap<TenantName, Look>, now: &BTreeMap<TenantName, Look>) -> Vec<Row> {
    let mut rows: Vec<Row> = now.iter().map(|(name, now)| row(before.get(name), now)).collect();
    rows.sort_by(|a, b| {
        let key = |row: &Row| (row.cpu_percent.unwrap_or(0.0), row.memory.unwrap_or(0) as f64);
        let (a_key, b_key) = (key(a), key(b));
        b_key.0.total_cmp(&a_key.0).then(b_key.1.total_cmp(&a_key.1)).then_with(|| a.name.cmp(&b.name))
    });
    rows
}

fn row(before: Option<&Look>, now: &Look) -> Row {
    let seconds = before.map(|before| now.at.duration_since(before.at).as_secs_f64()).filter(|s| *s > 0.0);
    // A counter that went back began anew with the tenant: no rate is better than a wrong one.
    let rate = |value: &dyn Fn(&TenantStatus) -> Option<u64>| {
        let more = value(&now.status)?.checked_sub(value(&before?.status)?)?;
        seconds.map(|seconds| more as f64 / seconds)
    };
    let usage = now.status.usage.unwrap_or_default();
    Row {
        name: now.status.name.clone(),
        state: now.status.state,
        processes: usage.processes,
        memory: usage.memory,
        cpu_percent: rate(&|status| status.usage?.cpu_us).map(|us| us / 10_000.0),
        rx_bytes_per_s: rate(&|status| Some(status.counters.rx_bytes)),
        tx_bytes_per_s: rate(&|status| Some(status.counters.tx_bytes)),
        restarts: now.status.services.iter().map(|service| service.restarts).sum(),
        oom_kills: usage.oom_kills,
    }
}

const HEAD: [&str; 9] = ["TENANT", "STATE", "PROCS", "MEMORY", "CPU%", "IN/s", "OUT/s", "RESTARTS", "OOM"];

fn text(rows: &[Row]) -> String {
    let mut lines = vec![HEAD.map(str::to_owned).to_vec()];
    let number = |value: Option<u64>| value.map_or("-".to_owned(), |n| n.to_string());
    let bytes = |value: Option<f64>| value.map_or("-".to_owned(), human);
    lines.extend(rows.iter().map(|row| {
        let state = match row.state {
            TenantState::Ready => "ready",
            TenantState::HalfDone => "half-done",
            TenantState::Removing => "removing",
        };
        vec![
            row.name.to_string(),
            state.to_owned(),
            number(row.processes),
            bytes(row.memory.map(|n| n as f64)),
            row.cpu_percent.map_or("-".to_owned(), |percent| format!("{percent:.1}")),
            bytes(row.rx_bytes_per_s),
            bytes(row.tx_bytes_per_s),
            row.restarts.to_string(),
            number(row.oom_kills),
        ]
    }));
    align(&lines)
}

/// `512`, `1.5K`, `20.0M`: in steps of 1024.
fn human(bytes: f64) -> String {
    let (mut value, mut unit) = (bytes, "");
    for next in ["K", "M", "G", "T"] {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    if unit.is_empty() { format!("{value:.0}") } else { format!("{value:.1}{unit}") }
}

/// The terminal while the table is in it: raw, with a second screen; dropping it gives back the first.
struct Screen {
    _raw: Raw,
}

impl Screen {
    fn open() -> io::Result<Option<Self>> {
        let Some(raw) = Raw::enter(io::stdin().as_fd())? else { return Ok(None) };
        let mut out = io::stdout().lock();
        out.write_all(b"\x1b[?1049h\x1b[?25l")?;
        out.flush()?;
        Ok(Some(Self { _raw: raw }))
    }

    fn show(&self, interval: Duration, rows: &[Row]) -> io::Result<()> {
        let (height, width) = window(io::stdout().as_fd());
        let head = format!("tenantd top: {} tenants, every {} s, q ends", rows.len(), interval.as_secs_f64());
        let picture = fit(&format!("{head}\n\n{}", text(rows)), height, width);
        let mut out = io::stdout().lock();
        out.write_all(format!("\x1b[H{picture}\x1b[J").as_bytes())?;
        out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let mut out = io::stdout().lock();
        let _ = out.write_all(b"\x1b[?25h\x1b[?1049l").and_then(|()| out.flush());
    }
}

/// As much of a text as the window shows; the last line says what it does not.
fn fit(text: &str, height: usize, width: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let (height, width) = (height.max(1), width.max(1));
    let hidden = lines.len().saturating_sub(height);
    let shown = if hidden > 0 { height - 1 } else { lines.len() };
    let more = (hidden > 0).then(|| format!("... {} more", hidden + 1));
    let lines = lines[..shown].iter().copied().chain(more.as_deref());
    let cut = |line: &str| format!("{}\x1b[K", line.chars().take(width).collect::<String>());
    // Raw: a new line does not go back to the left by itself.
    lines.map(cut).collect::<Vec<_>>().join("\r\n")
}

/// What ends it, beside q.
const KEYS: [u8; 4] = [b'q', b'Q', 0x03, 0x04];

fn draw(args: &Top, cx: &Context, mut before: BTreeMap<TenantName, Look>) -> Result<(), Failure> {
    let watched: SigSet = [Signal::SIGWINCH, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT].into_iter().collect();
    watched.thread_block().map_err(|errno| Failure::Start(errno.into()))?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let signals = SignalFd::with_flags(&watched, flags).map_err(|errno| Failure::Start(errno.into()))?;
    let Some(screen) = Screen::open().map_err(Failure::Output)? else { return Ok(()) };
    let mut table = rows(&BTreeMap::new(), &before);
    loop {
        let until = Instant::now() + args.interval;
        screen.show(args.interval, &table).map_err(Failure::Output)?;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
            let stdin = io::stdin();
            let mut fds =
                [PollFd::new(stdin.as_fd(), PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Ok(0) | Err(Errno::EINTR) => continue,
                Err(errno) => return Err(Failure::Start(errno.into())),
                Ok(_) => {}
            }
            if fds[0].revents().is_some_and(|events| !events.is_empty()) {
                let mut keys = [0; 64];
                match nix::unistd::read(&stdin, &mut keys) {
                    Ok(n) if n > 0 && !keys[..n].iter().any(|key| KEYS.contains(key)) => {}
                    _ => return Ok(()),
                }
            }
            while let Ok(Some(signal)) = signals.read_signal() {
                if signal.ssi_signo != Signal::SIGWINCH as u32 {
                    return Ok(());
                }
                screen.show(args.interval, &table).map_err(Failure::Output)?;
            }
        }
        let now = looks(args, cx)?;
        table = rows(&before, &now);
        before = now;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use crate::cgroups::Usage;
    use crate::model::{Counters, ServiceStatus};

    fn look(name: &str, at: Instant, cpu_us: u64, rx: u64) -> Look {
        let service = ServiceStatus {
            name: "web".parse().unwrap(),
            state: "running".into(),
            pid: Some(3),
            restarts: 2,
            last_exit: None,
        };
        let status = TenantStatus {
            name: name.parse().unwrap(),
            state: TenantState::Ready,
            step: None,
            cause: None,
            since_ms: None,
            tries: None,
            next_try_ms: None,
            init_pid: Some(1),
            netns: Some(1),
            mtu: None,
            services: vec![service.clone(), service],
            guard: None,
            counters: Counters { rx_bytes: rx, ..Counters::default() },
            usage: Some(Usage { cpu_us: Some(cpu_us), memory: Some(3 << 19), processes: Some(7), ..Usage::default() }),
        };
        Look { at, status }
    }

    fn at(looks: Vec<Look>) -> BTreeMap<TenantName, Look> {
        looks.into_iter().map(|look| (look.status.name.clone(), look)).collect()
    }

    #[test]
    fn two_looks_make_a_rate_and_the_busiest_is_first() {
        let start = Instant::now();
        let later = start + Duration::from_secs(2);
        let before = at(vec![look("a", start, 0, 100), look("b", start, 0, 0), look("again", start, 9_000, 900)]);
        let now = at(vec![
            look("a", later, 500_000, 4196),
            look("b", later, 1_000_000, 0),
            look("again", later, 10, 10),
            look("new", later, 10, 10),
        ]);
        let rows = rows(&before, &now);
        assert_eq!(rows.iter().map(|row| row.name.as_str()).collect::<Vec<_>>(), ["b", "a", "again", "new"]);
        assert_eq!((rows[0].cpu_percent, rows[1].rx_bytes_per_s), (Some(50.0), Some(2048.0)));
        assert_eq!((rows[2].cpu_percent, rows[3].cpu_percent), (None, None), "began anew");
        let text = text(&rows);
        let line: Vec<&str> = text.lines().nth(2).unwrap().split_whitespace().collect();
        assert_eq!(line, ["a", "ready", "7", "1.5M", "25.0", "2.0K", "0", "4", "-"]);
    }

    #[test]
    fn the_picture_fits_the_window() {
        let text = "head\n\none\ntwo\nthree\n";
        assert_eq!(fit(text, 5, 3), "hea\x1b[K\r\n\x1b[K\r\none\x1b[K\r\ntwo\x1b[K\r\nthr\x1b[K");
        assert_eq!(fit(text, 3, 80), "head\x1b[K\r\n\x1b[K\r\n... 3 more\x1b[K");
        assert_eq!(fit(text, 0, 0), ".\x1b[K");
    }

    #[test]
    fn intervals() {
        assert_eq!(interval("0.5").unwrap(), Duration::from_millis(500));
        for bad in ["0", "0.1", "-1", "3601", "x", "NaN", "inf"] {
            assert!(interval(bad).unwrap_err().to_string().contains("0.2 to 3600"), "{bad}");
        }
    }
}
