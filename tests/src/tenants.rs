//! The tenants a lab has unless it is bare: one a site, all at 192.168.1.1, each with an nginx whose page
//! names it.

use anyhow::{Context as _, Result};
use serde_json::Value;

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

/// The user of a tenant's FTP server: of that name in every tenant, another one in each.
pub const FTP_USER: &str = "ada";

/// That user's first password.
#[must_use]
pub fn ftp_password(site: &Site) -> String {
    format!("word-of-{}", site.tenant())
}

/// Command line that gives a tenant its FTP server with a user.
#[must_use]
pub fn add_ftp(site: &Site) -> Vec<String> {
    let (user, password) = (format!("user={FTP_USER}"), format!("password={}", ftp_password(site)));
    let argv =
        ["tenantd", "add-service", &site.tenant(), "ftp", "--template", "vsftpd", "--set", &user, "--set", &password];
    argv.map(String::from).to_vec()
}

/// Command line that puts a file into that user's home.
#[must_use]
pub fn put_file(site: &Site) -> Vec<String> {
    let script = format!("echo '{}' >/home/{FTP_USER}/hello.txt", hello(site));
    ["tenantd", "exec", &site.tenant(), "--", "sh", "-c", &script].map(String::from).to_vec()
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
    add_services(world, site)?;
    Ok(said.trim_end().to_owned())
}

/// Gives a tenant that is there the services a lab's tenant has.
///
/// # Errors
/// `tenantd` refused, or they do not start.
pub fn add_services(world: &World, site: &Site) -> Result<()> {
    let argv = add_web(site);
    let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
    world.ok("server", &argv).with_context(|| format!("cannot start the web server of {}", site.tenant())).map(drop)
}

/// Runs a shell script as the tenant's root; it must succeed, every command of it.
///
/// # Errors
/// It failed: with all it said.
pub fn sh(world: &World, tenant: &str, script: &str) -> Result<String> {
    world.ok("server", &["tenantd", "exec", tenant, "--", "sh", "-ec", script])
}

/// Pid, as the world sees it, of a tenant's init.
///
/// # Errors
/// There is no such tenant, or its init does not run.
pub fn init_pid(world: &World, tenant: &str) -> Result<i64> {
    let status: Value = serde_json::from_str(&world.ok("server", &["tenantd", "status", tenant, "--json"])?)?;
    status["init_pid"].as_i64().with_context(|| format!("no init_pid in {status}"))
}
