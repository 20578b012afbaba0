//! All six in three tenants at one address at once.

use crate::databases::{SECRET, make_role, psql, redis_cli};
use crate::shell::{BY_PASSWORD, Client};
use crate::tenant::{Machine, Tenant};

pub(crate) fn three_tenants() {
    let machine = Machine::new();
    let mut tenants: Vec<Tenant> = ["acme", "umbrella", "wayne"].map(|name| machine.tenant(name)).into();
    for tenant in &mut tenants {
        let name = tenant.name();
        tenant.serve("nginx", &[]);
        tenant.serve("vsftpd", &[("user", "ada"), ("password", SECRET)]);
        tenant.serve("dnsmasq", &[("records", &format!("who.lan=192.168.1.{}", name.len()))]);
        tenant.serve("openssh", &[]);
        tenant.serve("postgresql", &[]);
        tenant.serve("redis", &[("password", SECRET)]);
        make_role(tenant);
    }
    // First all write, then all read: what one has written no other may see.
    let dir = tempfile::tempdir().unwrap();
    let login = format!("ada:{SECRET}");
    for tenant in &tenants {
        let name = tenant.name();
        let file = dir.path().join(&name);
        std::fs::write(&file, &name).unwrap();
        tenant.site.curl(&["-u", &login, "-T", file.to_str().unwrap(), "ftp://192.168.1.1/name"]);
        psql(tenant, SECRET, &format!("create table t as select '{name}'::text as name")).unwrap();
        assert_eq!(redis_cli(tenant, Some(SECRET), &["set", "name", &name]), "OK");
    }
    let read = |tenant: &Tenant| {
        let name = tenant.name();
        assert_eq!(tenant.site.curl(&["http://192.168.1.1/"]), format!("server of {name}\n"));
        assert_eq!(tenant.site.curl(&["-u", &login, "ftp://192.168.1.1/name"]), name);
        let address = tenant.site.ok("dig", &["@192.168.1.1", "+short", "who.lan"], &[]);
        assert_eq!(address, format!("192.168.1.{}\n", name.len()));
        let client = Client::new();
        assert_eq!(client.ssh(tenant, BY_PASSWORD, "ada", &["hostname; cat name"]).unwrap(), format!("{name}\n{name}"));
        assert_eq!(psql(tenant, SECRET, "select name from t").unwrap(), name);
        assert_eq!(redis_cli(tenant, Some(SECRET), &["get", "name"]), name);
    };
    tenants.iter().for_each(read);
    for tenant in &mut tenants {
        for service in ["nginx", "vsftpd", "dnsmasq", "openssh", "postgresql", "redis"] {
            tenant.restart(service);
        }
    }
    tenants.iter().for_each(read);
}
