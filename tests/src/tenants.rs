//! The tenants a lab has unless it is bare: one a site, all at 192.168.1.1, each with an nginx whose page
//! names it.

use anyhow::{Context as _, Result};

use crate::daemons::STATE_DIR;
use crate::plan::{Options, SERVER_INNER_V4, SERVER_INNER_V6, Site};
use crate::world::World;

/// Command line that adds a site's tenant.
#[must_use]
pub fn add_tenant(options: &Options, site: &Site) -> Vec<String> {
    let mut argv: Vec<String> = ["tenantd", "add-tenant"].map(String::from).to_vec();
    argv.extend([site.tenant(), "--vlan".into(), site.vlan().to_string()]);
    if options.inner.v4() {
        argv.extend(["--address".into(), format!("{SERVER_INNER_V4}/24")]);
    }
    if options.inner.v6() {
        argv.extend(["--address".into(), format!("{SERVER_INNER_V6}/64")]);
    }
    argv.extend(["--tunnel".into(), site.server_tunnel(options.outer)]);
    argv
}

/// Command line that gives a tenant its web server.
#[must_use]
pub fn add_web(site: &Site) -> Vec<String> {
    let body = format!("body={}", page(site));
    ["tenantd", "add-service", &site.tenant(), "web", "--template", "nginx", "--set", &body].map(String::from).to_vec()
}

/// Command line that gives a tenant its FTP server.
#[must_use]
pub fn add_ftp(site: &Site) -> Vec<String> {
    ["tenantd", "add-service", &site.tenant(), "ftp", "--template", "vsftpd"].map(String::from).to_vec()
}

/// Command line that puts a file where that FTP server offers it.
#[must_use]
pub fn put_file(site: &Site) -> Vec<String> {
    let offered = format!("{STATE_DIR}/tenants/{}/services/ftp/pub/hello.txt", site.tenant());
    ["sh", "-c", &format!("echo '{}' > {offered}", hello(site))].map(String::from).to_vec()
}

/// What is in that file.
#[must_use]
pub fn hello(site: &Site) -> String {
    format!("A file of {}.", site.tenant())
}

/// The page that tenant's nginx serves.
#[must_use]
pub fn page(site: &Site) -> String {
    format!("This is the server of {}.", site.tenant())
}

/// Adds the tenant of `site` with its web server; returns what `add-tenant` said.
///
/// # Errors
/// `tenantd` refused.
pub fn add(world: &World, site: &Site) -> Result<String> {
    let run = |argv: &[String]| {
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        world.ok("server", &argv)
    };
    let said = run(&add_tenant(world.options(), site)).with_context(|| format!("cannot add {}", site.tenant()))?;
    run(&add_web(site)).with_context(|| format!("cannot start the web server of {}", site.tenant()))?;
    Ok(said.trim_end().to_owned())
}
