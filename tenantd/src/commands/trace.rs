//! `tenantd trace`: where does a flow go, and where does it end?

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use stackmap::TenantName;

use super::table::align;
use super::{Context, Failure};
use crate::trace::{Hop, HopState, Question, Trace, TraceProtocol, Way};

/// Arguments of `trace`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  tenantd trace acme --from 192.168.1.10 --to 192.168.1.1:80\n  \
    tenantd trace acme --from fd00::10 --to '[fd00::1]:53' --protocol udp\n  \
    tenantd trace acme --from 192.168.1.1 --to 192.168.1.10 --size 1400\n  \
    tenantd trace acme --from 192.168.1.10 --to 192.168.1.1 --watch 5\n\n\
    Each hop is read from the tables that packets meet, and from the kernel, which is asked what it would do.\n\
    Exit codes: 0 it arrives and is answered, 1 it ends on the way (the last line says where), or it cannot be known.")]
pub struct TraceArgs {
    /// Tenant; inside a tenant that one
    #[arg(value_name = "NAME")]
    name: Option<TenantName>,
    /// Who begins: an address behind a site, or one of the tenant's own
    #[arg(long, value_name = "ADDR")]
    from: String,
    /// Whom it is for; with a port for TCP and UDP, an IPv6 address then as [ADDR]:PORT
    #[arg(long, value_name = "ADDR[:PORT]")]
    to: String,
    /// Protocol [default: tcp with a port, else icmp]
    #[arg(long, value_name = "PROTOCOL")]
    protocol: Option<TraceProtocol>,
    /// Length of the IP packet in bytes, to be compared with every MTU on the way
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    size: u32,
    /// Look again after so many seconds and say which counters of the way have grown
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    watch: Option<u64>,
}

/// Prints the hops; the exit code says whether the flow arrives.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &TraceArgs, cx: &Context) -> Result<u8, Failure> {
    let name = cx.tenant(args.name.as_ref())?;
    // Refused here as the daemon would, so that wrong usage is told as such.
    Question::new(name.clone(), &args.from, &args.to, args.protocol, args.size)?;
    let text = |value: &str| utf8_percent_encode(value, NON_ALPHANUMERIC).to_string();
    let mut path = format!("/v1/tenants/{name}/trace?from={}&to={}", text(&args.from), text(&args.to));
    if let Some(protocol) = args.protocol {
        path += &format!("&protocol={protocol}");
    }
    if args.size > 0 {
        path += &format!("&size={}", args.size);
    }
    let answer = cx.client.get(&path)?;
    let before: Trace = answer.parse()?;
    cx.say(&answer, |trace: Trace| words(&trace))?;
    let Some(seconds) = args.watch else { return Ok(u8::from(!before.arrives)) };
    std::thread::sleep(Duration::from_secs(seconds));
    let answer = cx.client.get(&path)?;
    let after: Trace = answer.parse()?;
    cx.say(&answer, |trace: Trace| grown(&before.counters, &trace, seconds))?;
    Ok(u8::from(!after.arrives))
}

fn words(trace: &Trace) -> String {
    let mut text = format!("{}: {}\n", trace.tenant, trace.flow);
    text += &align(&trace.hops.iter().map(line).collect::<Vec<_>>());
    for hop in trace.hops.iter().filter(|hop| hop.differs.is_some()) {
        text += &format!("differs at {}: {}\n", hop.place, hop.differs.as_deref().unwrap_or_default());
    }
    text + &conclusion(trace)
}

fn line(hop: &Hop) -> Vec<String> {
    let way = match hop.way {
        Way::There => "->",
        Way::Back => "<-",
    };
    let state = match hop.state {
        HopState::Ok => "ok",
        HopState::Ends => "ENDS",
        HopState::Unknown => "unknown",
    };
    let counter = hop.counter.as_ref().map(|counter| format!(" [{} {}]", counter.name, counter.packets));
    vec![way.into(), hop.place.clone(), state.into(), hop.found.clone() + &counter.unwrap_or_default()]
}

fn conclusion(trace: &Trace) -> String {
    let last = trace.hops.iter().find(|hop| hop.state == HopState::Ends);
    let took = trace.took_us / 1000;
    match (last, trace.arrives) {
        (Some(hop), _) if hop.way == Way::Back => {
            format!("arrives, but the answer ends at {} ({took} ms)\n", hop.place)
        }
        (Some(hop), _) => format!("ends at {} ({took} ms)\n", hop.place),
        (None, true) => format!("arrives and is answered ({took} ms)\n"),
        (None, false) => format!("as far as can be known it goes on ({took} ms)\n"),
    }
}

/// Counters that are higher than they were.
fn grown(before: &BTreeMap<String, u64>, now: &Trace, seconds: u64) -> String {
    let more = |(name, value): (&String, &u64)| {
        let more = value.saturating_sub(before.get(name).copied().unwrap_or(0));
        (more > 0).then(|| vec![name.clone(), format!("+{more}"), value.to_string()])
    };
    let lines: Vec<_> = now.counters.iter().filter_map(more).collect();
    if lines.is_empty() {
        return format!("in {seconds} s no counter of the way has grown\n");
    }
    format!("in {seconds} s\n{}{}", align(&lines), conclusion(now))
}
