//! The example of the README, run as the README says, as a process of its own.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, ExitCode, Stdio};

use crate::veth::{Capture, Owned, Pings, Side};
use crate::world::Netns;

#[allow(unreachable_pub)]
#[path = "../../examples/vlan_port.rs"]
mod vlan_port;

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("the_readme_makes_a_vlan_port", the_readme_makes_a_vlan_port),
    ("a_killed_process_loses_nothing", a_killed_process_loses_nothing),
    ("wrong_words_are_refused", wrong_words_are_refused),
];

/// Set where this program shall be the example.
const ASKED: &str = "VLAN_PORT_EXAMPLE";

/// Runs the example instead of the tests when this process was started for it.
pub(crate) fn when_asked() -> Option<ExitCode> {
    std::env::var_os(ASKED)?;
    Some(match vlan_port::run(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    })
}

/// The commands of the README: its one block of shell lines.
fn readme() -> &'static str {
    let text = include_str!("../../README.md");
    let (_, rest) = text.split_once("```sh\n").unwrap();
    rest.split_once("```").unwrap().0
}

/// Runs shell lines in a namespace, with `vlan_port` being this program and pins of its own.
fn shell(netns: &Netns, lines: &str) -> Command {
    let me = std::env::current_exe().unwrap();
    let pins = crate::world::pin_dir();
    let mut command = netns.command("sh");
    let define = format!("vlan_port() {{ {ASKED}=1 \"$ME\" --pins \"$PINS\" \"$@\"; }}\n{lines}");
    command.args(["-e", "-c", &define]).env("ME", me).env("PINS", pins);
    command
}

/// A host on VLAN 600 behind a trunk whose other end is `eth1` of a namespace without a room.
fn far_host(server: &Netns) -> (Side, Netns) {
    let site = Netns::silent();
    server.veth("eth1", &site, "trunk", 1500);
    let mut site = Side::new(site, "trunk", vlan_rs::TrunkMode::Plain);
    let host = site.tenant(600, 10);
    host.ip("address add 192.0.2.10/24 dev dev0");
    (site, host)
}

fn the_readme_makes_a_vlan_port() {
    let server = Netns::silent();
    let (site, _host) = far_host(&server);
    let capture = Capture::start(&site.netns, "trunk");
    let lines = format!("{}\nping -c 2 -i 0.1 -W 10 192.0.2.10\n{}", readme(), readme().lines().last().unwrap());
    let output = shell(&server, &lines).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
    assert!(text.contains(": Added") && text.contains(": Unchanged"), "{text}");
    let seen = capture.lines(&[&["vlan 600,", "ICMP echo request"]]);
    assert!(seen.iter().any(|line| line.contains("vlan 600,") && line.contains("ICMP echo request")), "{seen:#?}");
    assert!(seen.iter().all(|line| line.contains("vlan 600,")), "{seen:#?}");
}

fn a_killed_process_loses_nothing() {
    let server = Netns::silent();
    let (_site, host) = far_host(&server);
    let lines = readme().replace("vlan_port ", &format!("export {ASKED}=1; exec \"$ME\" --pins \"$PINS\" --watch "));
    let mut child = shell(&server, &lines).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut child = Owned(child);
    assert!(said.next().unwrap().unwrap().ends_with(": Added"));
    let pings = Pings::start(&host, "192.0.2.1");
    child.0.kill().unwrap();
    child.0.wait().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(500));
    pings.none_lost(50);
}

fn wrong_words_are_refused() {
    let server = Netns::silent();
    for (words, message) in [
        ("--trunk lo --vid 4095 --port lo --mac 02:00:00:00:00:01", "vid \"4095\": must be a number in 1..=4094"),
        ("--trunk nowhere", "nowhere: no such device"),
        ("--trunk lo --vid 1 --port lo --mac 02:00", "02:00: not a MAC address"),
        ("--vid", "--vid needs a value"),
        ("--colour blue", "--colour?"),
    ] {
        let output = shell(&server, &format!("vlan_port {words}")).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(message), "{words}: {text}");
    }
}
