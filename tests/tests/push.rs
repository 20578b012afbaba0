//! Row 13: the server opens connections to hosts of a closed network with no earlier connection from them.

use std::time::Duration;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use system_tests::plan::{HOST_INNER_V4, HOST_INNER_V6, Kind, Options};
use system_tests::traffic::url;
use system_tests::world::eventually;

use crate::floor::{TENANTS, explain, trial, with_tenants};

/// A host's own web server: answers every request with its name.
const HOST_WEB: &str = r#"
import http.server, socket, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = sys.argv[1].encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
class Dual(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
Dual(("::", 80), Answer).serve_forever()
"#;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("push::ipip", TENANTS, || push(Kind::Ipip)),
        trial("push::gre", TENANTS, || push(Kind::Gre)),
        trial("push::vxlan", TENANTS, || push(Kind::Vxlan)),
    ]
}

fn push(kind: Kind) -> Result<()> {
    let world = with_tenants("push", Options { kinds: vec![kind], ..Options::default() })?;
    let check = || -> Result<()> {
        let sites: Vec<_> = world.options().sites().collect();
        let _webs = sites
            .iter()
            .map(|site| world.spawn(&site.host(), &["python3", "-c", HOST_WEB, &site.host()]))
            .collect::<Result<Vec<_>>>()?;
        for site in &sites {
            eventually("the host listens", Duration::from_secs(30), || {
                world.ok(&site.host(), &["curl", "-sS", "-g", "--max-time", "1", "http://[::1]/"]).ok()
            })?;
            for host in [HOST_INNER_V4, HOST_INNER_V6] {
                let url = url("http", host);
                let tenant = site.tenant();
                let argv = ["tenantd", "exec", &tenant, "--", "curl", "-sS", "-g", "--max-time", "20", &url];
                let got = world.ok("server", &argv)?;
                ensure!(got == site.host(), "{tenant} asked {host} and was answered by {got:?}");
            }
        }
        Ok(())
    };
    explain(&world, check())
}
