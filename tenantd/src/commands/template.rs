//! `tenantd template`: servers that can be added by name, and what may be set of them.

use clap::{Args, Subcommand};

use super::table::{align, facts};
use super::{Context, Failure};
use crate::model::{SettingView, TemplateView};

/// Arguments of `template`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tenantd template list\n  tenantd template show vsftpd\n\n\
    Templates of your own are files NAME.toml in the directory templates of the state directory; they win.")]
pub struct Template {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// All templates
    #[command(after_help = "Example:\n  tenantd template list")]
    List,
    /// One template: what it changes of its package, and its settings
    #[command(after_help = "Example:\n  tenantd template show vsftpd")]
    Show {
        /// Template
        #[arg(value_name = "NAME")]
        name: String,
    },
}

/// Prints templates.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &Template, cx: &Context) -> Result<(), Failure> {
    match &args.what {
        What::List => {
            let answer = cx.client.get("/v1/templates")?;
            cx.say(&answer, |all: Vec<TemplateView>| {
                align(
                    &all.into_iter()
                        .map(|one| vec![one.name, one.broken.unwrap_or(one.description)])
                        .collect::<Vec<_>>(),
                )
            })
        }
        What::Show { name } => {
            let answer = cx.client.get(&format!("/v1/templates/{}", crate::client::segment(name)))?;
            cx.say(&answer, |one: TemplateView| words(&one))
        }
    }
}

fn words(one: &TemplateView) -> String {
    let from = if one.built_in { "tenantd" } else { "the state directory" };
    let mut lines = vec![
        ("name", one.name.clone()),
        ("from", from.to_owned()),
        ("what", one.description.clone()),
        ("broken", one.broken.clone().unwrap_or_default()),
        ("package", one.package.clone().unwrap_or_default()),
    ];
    lines.extend(one.changes.iter().map(|change| ("change", change.clone())));
    let text = facts(&lines);
    let line = |setting: &SettingView| {
        let default = match (&setting.default, setting.required, &setting.needs) {
            (Some(default), ..) => format!("[{default}]"),
            (None, true, _) => "(has to be set)".to_owned(),
            (None, false, Some(needs)) => format!("(with {needs})"),
            (None, false, None) => String::new(),
        };
        vec![format!("--set {}=", setting.name), default, format!("{}: {}", setting.form, setting.doc)]
    };
    text + &align(&one.settings.iter().map(line).collect::<Vec<_>>())
}
