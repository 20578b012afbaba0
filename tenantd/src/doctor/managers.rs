//! Others who manage the host's network, and whether they would touch the devices the daemon makes there: only the near
//! end of a trunk; stacks and ports lie in namespaces where no manager of the host looks.

use super::network_files::{NetworkFiles, matches};
use super::{Facts, Finding, Severity};

const WHY: &str = "a manager that takes the trunk down, gives it an address or asks for one there bounces every tenant";

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let runs = |command: &str| {
        // The kernel cuts names at 15 bytes.
        facts.commands.iter().any(|name| name.as_str() == command.get(..15).unwrap_or(command))
    };
    let files = &facts.network;
    let managers: [(&str, &str, Touches, &str); 5] = [
        (
            "NetworkManager",
            "NetworkManager",
            network_manager,
            "printf '[keyfile]\\nunmanaged-devices=interface-name:trunk-*\\n' >/etc/NetworkManager/conf.d/90-tenantd.conf && nmcli general reload",
        ),
        (
            "systemd-networkd",
            "systemd-networkd",
            networkd,
            "printf '[Match]\\nName=trunk-*\\n[Link]\\nUnmanaged=yes\\n' >/etc/systemd/network/05-tenantd.network && networkctl reload",
        ),
        ("dhcpcd", "dhcpcd", dhcpcd, "echo 'denyinterfaces trunk-*' >>/etc/dhcpcd.conf && dhcpcd --rebind"),
        (
            "connman",
            "connmand",
            connman,
            "NetworkInterfaceBlacklist=trunk- and what it had before, in /etc/connman/main.conf; restart connman",
        ),
        ("ifupdown", "", ifupdown, "take the device out of /etc/network/interfaces"),
    ];
    let mut findings = Vec::new();
    for (name, command, touches, mend) in managers {
        // ifupdown is no process: what it is told is done at boot and by hand.
        let alive = command.is_empty() || runs(command);
        let touched: Vec<&str> =
            facts.place.devices.iter().filter(|device| alive && touches(files, device)).map(String::as_str).collect();
        let check = format!("manager-{}", name.to_lowercase());
        let found = match (alive, touched.is_empty()) {
            (false, _) => "does not run".to_owned(),
            (true, true) => "leaves our devices alone".to_owned(),
            (true, false) => format!("would manage {}", touched.join(", ")),
        };
        let finding = Finding::new(&check, found, "leaves our devices alone", WHY);
        findings.push(if touched.is_empty() { finding } else { finding.is(Severity::Warning).mend(mend) });
    }
    findings.push(firewalls(facts));
    findings
}

/// Would this manager, as it is told, take a veth device of this name?
type Touches = fn(&NetworkFiles, &str) -> bool;

/// Lines of a section, as key and value; comments are left out.
fn section<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let mut inside = false;
    text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])).filter_map(move |line| {
        if let Some(head) = line.strip_prefix('[') {
            inside = head.strip_suffix(']') == Some(name);
        }
        let (key, value) = line.split_once('=')?;
        inside.then(|| (key.trim(), value.trim()))
    })
}

fn network_manager(files: &NetworkFiles, device: &str) -> bool {
    let mut unmanaged = false;
    for text in files.network_manager.values() {
        for (_, value) in
            section(text, "keyfile").filter(|(key, _)| key.trim_end_matches(['+', '-']) == "unmanaged-devices")
        {
            unmanaged |= value.split([';', ',']).map(str::trim).any(|one| match one.split_once(':') {
                Some(("interface-name", pattern)) => matches(pattern.trim_start_matches('='), device),
                Some(("driver" | "type", kind)) => kind == "veth",
                _ => one == "*" || one == device,
            });
        }
    }
    !unmanaged
}

/// The first file, by name, whose `[Match]` fits decides.
fn networkd(files: &NetworkFiles, device: &str) -> bool {
    for text in files.networkd.values().filter(|text| text.contains("[Match]")) {
        let fits = section(text, "Match").all(|(key, value)| {
            let patterns: Vec<&str> = value.split_whitespace().collect();
            let denied = patterns.first().is_some_and(|first| first.starts_with('!'));
            let any = |thing: &str| patterns.iter().any(|one| matches(one.trim_start_matches('!'), thing)) != denied;
            match key {
                "Name" => any(device),
                "Kind" | "Driver" => any("veth"),
                "Type" => any("ether"),
                // Such as a MAC address or a bus path, which a device that was made does not have.
                _ => false,
            }
        });
        if fits {
            return !section(text, "Link")
                .any(|(key, value)| key == "Unmanaged" && matches!(value, "yes" | "true" | "1" | "on"));
        }
    }
    false
}

fn dhcpcd(files: &NetworkFiles, device: &str) -> bool {
    let words = |word: &str| -> Vec<String> {
        let lines = files.dhcpcd.lines().map(str::trim).filter_map(|line| line.strip_prefix(word));
        lines.flat_map(str::split_whitespace).map(str::to_owned).collect()
    };
    let any = |patterns: &[String]| patterns.iter().any(|one| matches(one, device));
    let allowed = words("allowinterfaces ");
    !any(&words("denyinterfaces ")) && (allowed.is_empty() || any(&allowed))
}

fn connman(files: &NetworkFiles, device: &str) -> bool {
    let mut lists = section(&files.connman, "General").filter(|(key, _)| *key == "NetworkInterfaceBlacklist");
    !lists.any(|(_, value)| value.split(',').any(|front| device.starts_with(front.trim())))
}

fn ifupdown(files: &NetworkFiles, device: &str) -> bool {
    let lines = files.ifupdown.values().flat_map(|text| text.lines());
    lines.map(str::split_whitespace).any(|mut words| {
        matches!(words.next(), Some("auto" | "iface")) && words.any(|word| word == device)
            || matches!(words.next(), Some(word) if word == device)
    })
}

fn firewalls(facts: &Facts) -> Finding {
    let known = ["firewalld", "ufw", "dockerd", "fail2ban-server"];
    let running: Vec<&str> = known.into_iter().filter(|name| facts.commands.contains(*name)).collect();
    let found = if running.is_empty() { "none runs".to_owned() } else { format!("{} runs", running.join(", ")) };
    let why = "none of our rules is in the host's rule set, so a reload harms no tenant; packets of tunnels are taken before it, packets to the daemon's own sockets are not";
    let finding = Finding::new("firewalls", found, "any, or none", why);
    if running.is_empty() { finding } else { finding.is(Severity::Note) }
}
