//! `tenantd image`: what tenants' root file systems are made from.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use hyper::Method;
use stackmap::{Invalid, TenantName};

use super::table::{align, commas};
use super::{Context, Failure, body};
use crate::client::ClientError;
use crate::model::{DebootstrapRequest, ImageRequest, ImageView};

/// Arguments of `image`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  tenantd image list\n  tenantd image build bookworm --from debootstrap --suite bookworm \
    --include nginx,redis\n  tenantd image import web /root/web.tar.zst\n  tenantd image remove web\n\n\
    A tenant is made on one with add-tenant --image NAME; host, made of this machine's own programs, is always there."
)]
pub struct Image {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the images and who stands on them
    #[command(after_help = "Example:\n  tenantd image list")]
    List {},
    /// Remove an image that no tenant stands on
    #[command(after_help = "Example:\n  tenantd image remove web")]
    Remove {
        /// Image
        #[arg(value_name = "NAME")]
        name: TenantName,
    },
    /// Make an image of a distribution's archive; takes minutes
    #[command(after_help = "Example:\n  tenantd image build bookworm --from debootstrap --include nginx,redis")]
    Build(Build),
    /// Make an image of a tarball of a root file system
    #[command(after_help = "Example:\n  tenantd image import web /root/web.tar.zst")]
    Import {
        /// Name of the new image
        #[arg(value_name = "NAME")]
        name: TenantName,
        /// Plain, or packed by gzip, xz, zstd or bzip2
        #[arg(value_name = "TARBALL")]
        tarball: PathBuf,
    },
}

#[derive(Debug, Args)]
struct Build {
    /// Name of the new image
    #[arg(value_name = "NAME")]
    name: TenantName,
    /// What makes it
    #[arg(long, value_name = "PROGRAM")]
    from: From,
    /// Release
    #[arg(long, default_value = "bookworm")]
    suite: String,
    /// Archive
    #[arg(long, value_name = "URL", default_value = "http://deb.debian.org/debian")]
    mirror: String,
    /// Packages besides the smallest system
    #[arg(long, value_name = "PACKAGE", value_delimiter = ',')]
    include: Vec<String>,
    /// Keys that vouch for the packages [default: the distribution's, as installed here]
    #[arg(long, value_name = "FILE", conflicts_with = "unsigned")]
    keyring: Option<String>,
    /// Take packages that nobody vouches for
    #[arg(long)]
    unsigned: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum From {
    Debootstrap,
}

/// Does what is asked with images.
///
/// # Errors
/// [`Failure`].
pub fn run(args: Image, cx: &Context) -> Result<(), Failure> {
    match args.verb {
        Verb::List {} => list(cx),
        Verb::Remove { name } => {
            cx.client.call(Method::DELETE, &format!("/v1/images/{name}"), None)?;
            cx.done(&format!("image {name} removed"))
        }
        Verb::Import { name, tarball } => {
            let path = std::path::absolute(&tarball)
                .map_err(|e| Invalid::new("tarball", tarball.display(), format!("is no path: {e}")))?;
            let tarball = Some(path.display().to_string());
            make(&ImageRequest { name, tarball, debootstrap: None }, cx)
        }
        Verb::Build(Build { name, from: From::Debootstrap, suite, mirror, include, keyring, unsigned }) => {
            let debootstrap = DebootstrapRequest { suite, mirror, include, minbase: true, keyring, unsigned };
            make(&ImageRequest { name, tarball: None, debootstrap: Some(debootstrap) }, cx)
        }
    }
}

fn list(cx: &Context) -> Result<(), Failure> {
    let answer = cx.client.get("/v1/images")?;
    cx.say(&answer, |images: Vec<ImageView>| {
        let mut lines = vec![["NAME", "KIND", "MB", "USED BY", "SOURCE"].map(str::to_owned).to_vec()];
        lines.extend(images.into_iter().map(|image| {
            let megabytes = if image.bytes == 0 { "-".to_owned() } else { (image.bytes >> 20).to_string() };
            let users = if image.used_by.is_empty() { "-".to_owned() } else { commas(&image.used_by) };
            vec![image.name, image.kind, megabytes, users, image.broken.unwrap_or(image.source)]
        }));
        align(&lines)
    })
}

/// Asks, shows how it goes on standard error, and what came of it on standard output.
fn make(request: &ImageRequest, cx: &Context) -> Result<(), Failure> {
    let (mut text, mut result) = (String::new(), None);
    cx.client.stream_of(Method::POST, "/v1/images", body(request), |piece| {
        text.push_str(&String::from_utf8_lossy(piece));
        while let Some((event, rest)) = text.split_once("\n\n") {
            let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
            let (kind, data) = (field("event:").to_owned(), field("data:").to_owned());
            text = rest.to_owned();
            match kind.as_str() {
                "progress" if !cx.json => show(&data),
                "done" | "failed" => result = Some((kind, data)),
                _ => {}
            }
        }
        Ok(())
    })?;
    match result {
        Some((kind, data)) if kind == "done" => match serde_json::from_str::<ImageView>(&data) {
            Ok(image) if !cx.json => {
                cx.done(&format!("image {} made: {} files, {} MB", image.name, image.entries, image.bytes >> 20))
            }
            _ => super::write(format!("{data}\n").as_bytes()),
        },
        Some((_, data)) => {
            let problem = serde_json::from_str(&data).map_err(|_| ended())?;
            Err(ClientError::Refused(Box::new(problem)).into())
        }
        None => Err(ended()),
    }
}

fn ended() -> Failure {
    Failure::Output(std::io::Error::other("the daemon ended before the image was made; see: tenantd image list"))
}

fn show(data: &str) {
    let said: serde_json::Value = serde_json::from_str(data).unwrap_or_default();
    if let Some(line) = said["line"].as_str() {
        // It comes from a program: nothing in it may steer the terminal.
        eprintln!("{}", line.escape_debug());
    } else if let Some(entries) = said["entries"].as_u64() {
        eprintln!("{entries} entries");
    }
}
