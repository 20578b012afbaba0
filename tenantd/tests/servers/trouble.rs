//! Servers that do not start, and what they tell; and what they must not tell.

use tenant_init::protocol::RefusalKind;

use crate::tenant::{Machine, rendered};

pub(crate) fn exits_at_once() {
    let machine = Machine::new();
    let mut tenant = machine.tenant("acme");
    tenant.serve("dnsmasq", &[]);
    tenant.sh("echo 'nonsense on;' >/etc/nginx/conf.d/bad.conf");
    let refusal = tenant.refused(rendered("acme", "nginx", "nginx", &[]));
    assert_eq!(refusal.kind, RefusalKind::Ended);
    assert!(refusal.log.iter().any(|line| line.contains("unknown directive \"nonsense\"")), "{refusal:?}");
    assert!(refusal.explained().contains("/etc/nginx/conf.d/bad.conf:1"), "{}", refusal.explained());
    // Nobody else noticed, and it starts when the error is mended.
    assert_eq!(tenant.client.list(crate::tenant::SOON).unwrap().len(), 1);
    assert_eq!(tenant.client.list(crate::tenant::SOON).unwrap()[0].restarts, 0);
    tenant.sh("rm /etc/nginx/conf.d/bad.conf");
    tenant.serve("nginx", &[]);
    assert_eq!(tenant.site.curl(&["http://192.168.1.1/"]), "server of acme\n");
}

pub(crate) fn port_taken() {
    let machine = Machine::new();
    let mut tenant = machine.tenant("acme");
    tenant.serve("nginx", &[]);
    let refusal = tenant.refused(rendered("acme", "again", "nginx", &[]));
    assert_eq!((refusal.kind, refusal.value.as_str()), (RefusalKind::Port, "80"), "{refusal:?}");
    let holder = tenantd::services::holder(tenant.launched.pid, false, 80).unwrap();
    assert!(holder.starts_with("nginx, process "), "{holder}");
    assert_eq!(tenantd::services::holder(tenant.launched.pid, false, 81), None);
    assert_eq!(tenant.site.curl(&["http://192.168.1.1/"]), "server of acme\n");
}

pub(crate) fn passwords() {
    let word = "never-To-be-seen-5";
    let machine = Machine::new();
    let mut tenant = machine.tenant("acme");
    for template in ["vsftpd", "redis", "openssh"] {
        let set =
            if template == "redis" { vec![("password", word)] } else { vec![("user", "ada"), ("password", word)] };
        let spec = rendered("acme", template, template, &set);
        let prepare = spec.prepare.iter().flatten();
        assert!(
            spec.argv.iter().chain(prepare).chain(spec.env.values()).all(|text| !text.contains(word)),
            "{template}"
        );
        assert!(!serde_json::to_string(&spec.outline()).unwrap().contains(word), "{template}");
        assert!(spec.files.iter().any(|file| file.content.contains(word) && file.mode.unwrap() & 0o007 == 0));
    }
    tenant.serve("vsftpd", &[("user", "ada"), ("password", word)]);
    tenant.serve("redis", &[("password", word)]);
    let login = format!("ada:{word}");
    tenant.site.curl(&["-u", &login, "ftp://192.168.1.1/"]);
    // Not for other users of the tenant either.
    let seen = tenant.run_as("nobody", &format!("grep -rsl {word} /etc /run /tmp /var /home; cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -c 'passwor[d]=' ; true"));
    assert_eq!(seen, "0");
    for service in ["vsftpd", "redis"] {
        assert!(!tenant.log(service).contains(word));
    }
    assert!(!tenant.sh("cat /var/log/vsftpd.log").contains(word));
}
