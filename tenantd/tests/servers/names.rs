//! dnsmasq.

use crate::site::CLIENT;
use crate::tenant::{Machine, eventually};

fn dig(tenant: &crate::tenant::Tenant, words: &str) -> String {
    let words: Vec<_> = "+tries=2 +time=2".split(' ').chain(words.split(' ')).collect();
    tenant.site.ok("dig", &words, &[]).trim().to_owned()
}

pub(crate) fn records() {
    let machine = Machine::new();
    let mut tenant = machine.tenant("acme");
    tenant.serve("dnsmasq", &[("records", "www.acme.lan=192.168.1.7;six.acme.lan=fd00::7;www.acme.lan=192.168.1.8")]);
    tenant.assert_stock("/etc/dnsmasq.conf");
    assert_eq!(dig(&tenant, "@192.168.1.1 +short www.acme.lan A").lines().count(), 2);
    assert_eq!(dig(&tenant, "@192.168.1.1 +short +tcp six.acme.lan AAAA"), "fd00::7");
    assert_eq!(dig(&tenant, "@fd00::1 +short -x 192.168.1.7"), "www.acme.lan.");
    assert!(dig(&tenant, "@192.168.1.1 www.example.com").contains("NXDOMAIN"), "no answer made up, nobody asked");
    // The tenant's own resolver asks it.
    assert_eq!(tenant.sh("getent hosts six.acme.lan | tr -s ' '"), "fd00::7 six.acme.lan");
    assert_eq!(tenant.sh("stat -c %U /proc/$(pgrep -o dnsmasq)"), "dnsmasq");
    // The administrator's own drop-in, as on any Debian server.
    tenant.sh("echo host-record=more.acme.lan,192.168.1.9 >/etc/dnsmasq.d/mine.conf");
    tenant.restart("dnsmasq");
    assert_eq!(dig(&tenant, "@192.168.1.1 +short more.acme.lan"), "192.168.1.9");
}

pub(crate) fn upstream() {
    let machine = Machine::new();
    let mut tenant = machine.tenant("acme");
    tenant.serve("dnsmasq", &[("upstream", CLIENT), ("records", "here.acme.lan=192.168.1.5")]);
    let words = "-k --log-facility=- -C /dev/null --user=root --pid-file= --no-resolv --address=/there.lan/192.168.9.9";
    let mut other = tenant
        .site
        .command("/usr/sbin/dnsmasq", &words.split(' ').collect::<Vec<_>>(), &[])
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    eventually("the site's own name service", || {
        Some(()).filter(|()| {
            tenant.site.run("dig", &["@127.0.0.1", "+tries=1", "+time=1", "there.lan"], &[]).status.success()
        })
    });
    assert_eq!(dig(&tenant, "@192.168.1.1 +short here.acme.lan"), "192.168.1.5");
    assert_eq!(dig(&tenant, "@192.168.1.1 +short there.lan"), "192.168.9.9");
    other.kill().unwrap();
    other.wait().unwrap();
}
