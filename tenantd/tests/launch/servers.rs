//! Standard servers of the distribution, from our templates, really running and really asked.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use tenant_init::protocol::ServiceSpec;
use tenantd::templates::{self, Context};

use crate::tenant::{SOON, Tenant, eventually, status};

/// Renders, writes and starts; returns the service's directory.
fn serve(tenant: &mut Tenant, template: &str, set: &[(&str, &str)]) -> PathBuf {
    let dir = tenant.spec.state_dir.join("services").join(template);
    let found = templates::find("/nonexistent".as_ref(), template).unwrap();
    let set: BTreeMap<String, String> = set.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let address = tenant.spec.addresses[0].addr();
    let context = Context { dir: dir.clone(), tenant: tenant.spec.name.clone(), address };
    let rendered = templates::render(&found, &set, &context).unwrap();
    templates::write_files(&rendered, &dir, tenant.ids()).unwrap();
    let service = ServiceSpec { name: template.into(), argv: rendered.argv, ..ServiceSpec::default() };
    tenant.client.start(service, SOON).unwrap();
    dir
}

/// What curl gets inside the stack, once the server answers.
fn fetch(tenant: &Tenant, url: &str) -> Vec<u8> {
    let service = url.split(':').next().unwrap();
    eventually(&format!("an answer of {url} ({service})"), || {
        let output = tenant.in_stack("curl", &["-sS", "-g", "--max-time", "5", url]);
        Some(output.stdout).filter(|_| output.status.success())
    })
}

fn big() -> Vec<u8> {
    (0..5_000_000_u32).flat_map(|n| [(n % 251) as u8]).collect()
}

pub(crate) fn nginx() {
    let mut tenant = Tenant::launch();
    let dir = serve(&mut tenant, "nginx", &[]);
    assert_eq!(fetch(&tenant, "http://127.0.0.1/"), b"server of acme\n");
    assert_eq!(fetch(&tenant, "http://[::1]/"), b"server of acme\n");
    std::fs::write(dir.join("www/big"), big()).unwrap();
    assert!(fetch(&tenant, "http://127.0.0.1/big") == big());
    // Master and worker are the tenant's.
    let master = tenant.children()[0];
    let worker = eventually("a worker", || crate::tenant::children(master).first().copied());
    for pid in [master, worker] {
        assert!(status(pid, "Uid").starts_with(&tenant.ids().to_string()));
        assert_eq!(status(pid, "CapEff"), "0000000000000000");
    }
    assert_eq!(tenant.log("nginx"), "", "nothing to complain about");
    // Killed, it comes back; stopped, nothing of it is left.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(master), nix::sys::signal::Signal::SIGKILL).unwrap();
    eventually("another master", || tenant.children().first().copied().filter(|pid| *pid != master));
    assert_eq!(fetch(&tenant, "http://127.0.0.1/"), b"server of acme\n");
    tenant.client.stop("nginx", Duration::from_secs(5)).unwrap();
    eventually("no process", || Some(()).filter(|()| tenant.client.processes(SOON).unwrap() == 0));
}

pub(crate) fn nginx_trouble() {
    let mut tenant = Tenant::launch();
    serve(&mut tenant, "nginx", &[("port", "8080"), ("body", "second {tenant}")]);
    assert_eq!(fetch(&tenant, "http://127.0.0.1:8080/"), b"second {tenant}\n");
    // A second one on the same port says why in its log and disturbs nobody.
    let dir = tenant.spec.state_dir.join("services/nginx");
    let conf = dir.join("nginx.conf").to_string_lossy().into_owned();
    let words = ["/usr/sbin/nginx", "-e", "stderr", "-p", "/tmp", "-c", &conf];
    tenant.client.start(crate::tenant::command("again", &words), SOON).unwrap();
    eventually("the reason", || Some(()).filter(|()| tenant.log("again").contains("Address already in use")));
    assert_eq!(fetch(&tenant, "http://127.0.0.1:8080/"), b"second {tenant}\n");
}

pub(crate) fn vsftpd() {
    let mut tenant = Tenant::launch();
    let dir = serve(&mut tenant, "vsftpd", &[]);
    std::fs::write(dir.join("pub/big"), big()).unwrap();
    assert!(fetch(&tenant, "ftp://127.0.0.1/big") == big());
    assert!(fetch(&tenant, "ftp://[::1]/big") == big());
    let listing = String::from_utf8(fetch(&tenant, "ftp://127.0.0.1/")).unwrap();
    assert!(listing.contains("big") && listing.contains("upload"), "{listing}");
    let put = tenant.in_stack("curl", &["-sS", "-T", "/etc/hostname", "ftp://127.0.0.1/upload/x"]);
    assert!(!put.status.success(), "not asked to take files");
    assert_eq!(status(tenant.children()[0], "CapEff"), "0000000000000000");
}

pub(crate) fn vsftpd_upload() {
    let mut tenant = Tenant::launch();
    let dir = serve(&mut tenant, "vsftpd", &[("upload", "yes"), ("port", "2121")]);
    std::fs::write(dir.join("pub/there"), "there").unwrap();
    assert_eq!(fetch(&tenant, "ftp://127.0.0.1:2121/there"), b"there");
    let put = tenant.in_stack("curl", &["-sS", "-T", "/etc/passwd", "ftp://127.0.0.1:2121/upload/x"]);
    assert!(put.status.success(), "{}", String::from_utf8_lossy(&put.stderr));
    assert_eq!(std::fs::read(dir.join("pub/upload/x")).unwrap(), std::fs::read("/etc/passwd").unwrap());
    let put = tenant.in_stack("curl", &["-sS", "-T", "/etc/passwd", "ftp://127.0.0.1:2121/x"]);
    assert!(!put.status.success(), "only upload takes files");
}

pub(crate) fn dnsmasq() {
    let mut tenant = Tenant::launch();
    serve(&mut tenant, "dnsmasq", &[("records", "www.acme.lan=192.168.1.7;six.acme.lan=fd00::7")]);
    // Asked with our own packet: a resolver tool need not be installed.
    let ask = |tenant: &Tenant, name: &str, kind: u16| -> Vec<u8> {
        let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            query.push(u8::try_from(label.len()).unwrap());
            query.extend(label.as_bytes());
        }
        query.push(0);
        query.extend(kind.to_be_bytes());
        query.extend(1_u16.to_be_bytes());
        let netns = tenant.launched.netns.try_clone().unwrap();
        let thread = std::thread::spawn(move || {
            nix::sched::setns(&netns, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let socket = std::net::UdpSocket::bind("[::]:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            eventually("an answer", || {
                let mut answer = vec![0; 512];
                socket.send_to(&query, "[::1]:53").unwrap();
                let length = socket.recv(&mut answer).ok()?;
                answer.truncate(length);
                Some(answer)
            })
        });
        thread.join().unwrap()
    };
    assert!(ask(&tenant, "www.acme.lan", 1).ends_with(&[0, 4, 192, 168, 1, 7]));
    assert!(ask(&tenant, "six.acme.lan", 28).ends_with(&[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]));
    let unknown = ask(&tenant, "www.example.com", 1);
    assert_ne!(unknown[3] & 0x0f, 0, "no answer made up: {unknown:?}");
    assert_eq!(status(tenant.children()[0], "CapEff"), "0000000000000000");
}
