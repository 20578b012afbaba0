//! nginx.

use tenant_init::protocol::Ready;

use crate::tenant::{Machine, command};

const STOCK: [&str; 3] = ["/etc/nginx/nginx.conf", "/etc/nginx/sites-available/default", "/etc/nginx/mime.types"];

pub(crate) fn stock() {
    let machine = Machine::new();
    let mut tenant = machine.tenant("acme");
    tenant.serve("nginx", &[("body", "hello from acme")]);
    assert_eq!(tenant.site.curl(&["http://192.168.1.1/"]), "hello from acme\n");
    assert_eq!(tenant.site.curl(&["http://[fd00::1]/"]), "hello from acme\n");
    for path in STOCK {
        tenant.assert_stock(path);
    }
    // The administrator's own files, as on any Debian server.
    tenant.sh("echo mine >/var/www/html/index.html; seq 1 700000 >/var/www/html/big");
    tenant.sh("printf 'server { listen 8080; location / { return 200 second; } }' >/etc/nginx/conf.d/second.conf");
    tenant.restart("nginx");
    assert_eq!(tenant.site.curl(&["http://192.168.1.1/"]), "mine\n");
    assert_eq!(tenant.site.curl(&["http://192.168.1.1:8080/"]), "second");
    assert!(tenant.site.curl(&["http://192.168.1.1/big"]).ends_with("\n699999\n700000\n"));
    assert!(tenant.sh("cat /var/log/nginx/access.log").contains("192.168.1.10"), "the package's own log");
    assert_eq!(tenant.sh("stat -c %U /proc/$(pgrep -o -u www-data nginx)"), "www-data");
}

pub(crate) fn plain_command() {
    let machine = Machine::new();
    let mut tenant = machine.tenant("acme");
    let mut spec = command("web", &["/usr/sbin/nginx", "-g", "daemon off;"]);
    spec.ready = Ready::Tcp(80);
    tenant.sh("echo plain >/var/www/html/index.html");
    tenant.start(spec);
    assert_eq!(tenant.site.curl(&["http://192.168.1.1/"]), "plain\n");
    for path in STOCK {
        tenant.assert_stock(path);
    }
}

pub(crate) fn settings() {
    let machine = Machine::new();
    let mut tenant = machine.tenant("acme");
    tenant.serve("nginx", &[("port", "8081"), ("workers", "3")]);
    assert_eq!(tenant.site.curl(&["http://192.168.1.1:8081/"]), "server of acme\n");
    assert_eq!(tenant.site.curl(&["http://[fd00::1]:8081/"]), "server of acme\n");
    assert_eq!(tenant.sh("pgrep -c -u www-data nginx"), "3");
    let changed =
        tenant.sh("grep -hE '8081|^worker_processes' /etc/nginx/nginx.conf /etc/nginx/sites-available/default");
    assert_eq!(changed, "worker_processes 3;\n\tlisten 8081 default_server;\n\tlisten [::]:8081 default_server;");
    tenant.restart("nginx");
    assert_eq!(tenant.site.curl(&["http://192.168.1.1:8081/"]), "server of acme\n");
}
