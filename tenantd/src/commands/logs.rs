//! `tenantd logs`: what a service wrote, or all services of a tenant.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use clap::Args;
use stackmap::{Invalid, TenantName};

use super::add_service::service_name;
use super::{Context, Failure};
use crate::client::{Client, ClientError};
use crate::model::ServiceStatus;

/// Arguments of `logs`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  tenantd logs acme web -f\n  tenantd logs acme -n 20\n\n\
    Of all services each line begins with the service's name. With --json each line is an object with service and line. \
    Exit codes: 0 done, 1 refused or failed, 2 wrong usage.")]
pub struct Logs {
    /// Tenant
    #[arg(value_name = "NAME")]
    name: TenantName,
    /// Service; all of the tenant when left out
    #[arg(value_name = "SERVICE", value_parser = service_name)]
    service: Option<TenantName>,
    /// Stay and print what is written from now on, also after a log was put aside
    #[arg(short, long)]
    follow: bool,
    /// Begin with this many lines, at most 100000 [default: the last 64 KiB]
    #[arg(short = 'n', long, value_name = "LINES", value_parser = lines)]
    lines: Option<u32>,
}

fn lines(text: &str) -> Result<u32, Invalid> {
    let lines = text.parse().ok().filter(|lines| *lines <= 100_000);
    lines.ok_or_else(|| Invalid::new("lines", text, "must be a number from 0 to 100000"))
}

/// How often a follower looks for services that are new.
const PAUSE: Duration = Duration::from_secs(2);
/// Pieces that wait to be printed.
const WAITING: usize = 64;

/// Prints the end of the log, and with `-f` what comes.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &Logs, cx: &Context) -> Result<(), Failure> {
    let Some(service) = &args.service else { return all(args, cx) };
    let mut printer = Printer { json: cx.json, prefix: None };
    let mut lines = Lines::default();
    let mut out = std::io::stdout().lock();
    cx.client.stream(&path(args, service), |piece| {
        let text = if cx.json { printer.lines(service, &lines.add(piece)) } else { piece.to_vec() };
        out.write_all(&text).and_then(|()| out.flush())
    })?;
    printer.prefix = None;
    let rest = if cx.json { printer.lines(service, &lines.rest()) } else { Vec::new() };
    out.write_all(&rest).and_then(|()| out.flush()).map_err(Failure::Output)
}

fn path(args: &Logs, service: &TenantName) -> String {
    let lines = args.lines.map(|lines| format!("lines={lines}"));
    let follow = args.follow.then(|| "follow=true".to_owned());
    let query: Vec<String> = lines.into_iter().chain(follow).collect();
    let mark = if query.is_empty() { "" } else { "?" };
    format!("/v1/tenants/{}/logs/{service}{mark}{}", args.name, query.join("&"))
}

/// What a reader says to the printer: lines of a service, or its end.
type Said = (TenantName, Result<Vec<u8>, Option<ClientError>>);

/// One reader a service, all printed here line by line.
fn all(args: &Logs, cx: &Context) -> Result<(), Failure> {
    let services = || -> Result<Vec<TenantName>, Failure> {
        let all: Vec<ServiceStatus> = cx.client.get(&format!("/v1/tenants/{}/services", args.name))?.parse()?;
        Ok(all.into_iter().map(|service| service.name).collect())
    };
    let (say, said) = sync_channel::<Said>(WAITING);
    let mut read = BTreeSet::new();
    let start = |service: TenantName, read: &mut BTreeSet<TenantName>| {
        if read.insert(service.clone()) {
            let (socket, path, say) = (cx.client.socket().to_owned(), path(args, &service), say.clone());
            thread::spawn(move || reader(&socket, &path, &service, &say));
        }
    };
    let mut printer = Printer { json: cx.json, prefix: Some(0) };
    if !args.follow {
        // One after another: the logs have no times by which they could be mixed.
        let services = services()?;
        printer.widen(&services);
        for service in services {
            start(service.clone(), &mut read);
            printer.print(&said, None)?;
        }
        return Ok(());
    }
    loop {
        let now = services()?;
        printer.widen(&now);
        // Ended because the service was removed; it may come again.
        read.retain(|service| now.contains(service));
        now.into_iter().for_each(|service| start(service, &mut read));
        printer.print(&said, Some(PAUSE))?;
    }
}

fn reader(socket: &Path, path: &str, service: &TenantName, say: &SyncSender<Said>) {
    let mut lines = Lines::default();
    let gone = || std::io::ErrorKind::BrokenPipe.into();
    let ended = Client::new(socket).map_err(ClientError::Sink).and_then(|client| {
        client.stream(path, |piece| {
            let whole = lines.add(piece);
            if whole.is_empty() { Ok(()) } else { say.send((service.clone(), Ok(whole))).map_err(|_| gone()) }
        })
    });
    // Nobody listens when the program is about to end.
    let _ = say.send((service.clone(), Ok(lines.rest())));
    let _ = say.send((service.clone(), Err(ended.err())));
}

/// Pieces made into whole lines.
#[derive(Debug, Default)]
struct Lines {
    begun: Vec<u8>,
}

/// A line is printed in parts when it is longer, bytes.
const LONGEST: usize = 1 << 20;

impl Lines {
    /// The lines that are finished with this piece.
    fn add(&mut self, piece: &[u8]) -> Vec<u8> {
        self.begun.extend_from_slice(piece);
        match self.begun.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => {
                let rest = self.begun.split_off(end + 1);
                std::mem::replace(&mut self.begun, rest)
            }
            None if self.begun.len() > LONGEST => self.rest(),
            None => Vec::new(),
        }
    }

    /// A last line without an end.
    fn rest(&mut self) -> Vec<u8> {
        if !self.begun.is_empty() {
            self.begun.push(b'\n');
        }
        std::mem::take(&mut self.begun)
    }
}

#[derive(Debug)]
struct Printer {
    json: bool,
    /// Width of the name before each line; none for no name.
    prefix: Option<usize>,
}

impl Printer {
    fn widen(&mut self, services: &[TenantName]) {
        let widest = services.iter().map(|service| service.as_str().len()).max();
        self.prefix = self.prefix.max(widest);
    }

    fn lines(&self, service: &TenantName, lines: &[u8]) -> Vec<u8> {
        let mut text = Vec::new();
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            if self.json {
                let line = String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(line));
                let object = serde_json::json!({ "service": service.as_str(), "line": line });
                text.extend_from_slice(format!("{object}\n").as_bytes());
                continue;
            }
            if let Some(width) = self.prefix {
                text.extend_from_slice(format!("{:width$} | ", service.as_str()).as_bytes());
            }
            text.extend_from_slice(line);
        }
        text
    }

    /// Prints what is said: until a reader has ended, or for a while.
    fn print(&self, said: &Receiver<Said>, a_while: Option<Duration>) -> Result<(), Failure> {
        let until = a_while.map(|a_while| std::time::Instant::now() + a_while);
        loop {
            let left = until.map_or(Duration::MAX, |until| until.saturating_duration_since(std::time::Instant::now()));
            let (service, what) = match said.recv_timeout(left) {
                Ok(said) => said,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return Ok(()),
            };
            match what {
                Ok(lines) => super::write(&self.lines(&service, &lines))?,
                // One service less; the others go on.
                Err(Some(error)) if until.is_some() => eprintln!("tenantd: {service}: {}", super::chain(&error)),
                Err(Some(error)) => return Err(error.into()),
                Err(None) if until.is_none() => return Ok(()),
                Err(None) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn pieces_become_lines() {
        let mut lines = Lines::default();
        assert_eq!(lines.add(b"on"), b"");
        assert_eq!(lines.add(b"e\ntwo\nth"), b"one\ntwo\n");
        assert_eq!(lines.rest(), b"th\n");
        assert_eq!(lines.rest(), b"");
        assert_eq!(lines.add(&[b'x'; LONGEST + 1]).len(), LONGEST + 2);
    }

    #[test]
    fn each_line_says_whose_it_is() {
        let (web, db): (TenantName, TenantName) = ("web".parse().unwrap(), "database".parse().unwrap());
        let mut printer = Printer { json: false, prefix: Some(0) };
        printer.widen(&[web.clone(), db.clone()]);
        assert_eq!(printer.lines(&web, b"a\n\nb\n"), b"web      | a\nweb      | \nweb      | b\n");
        assert_eq!(printer.lines(&db, b"\xff\n"), b"database | \xff\n");
        let printer = Printer { json: true, prefix: None };
        assert_eq!(printer.lines(&web, b"\"a\n"), b"{\"line\":\"\\\"a\",\"service\":\"web\"}\n");
    }
}
