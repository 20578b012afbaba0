//! `tenantd plan`: what a pass would do now, and why.

use clap::Args;
use stackmap::TenantName;

use super::{Context, Failure};
use crate::model::TenantPlan;

/// Arguments of `plan`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  tenantd plan\n  tenantd plan acme --json\n\n\
    The kernel is read and compared with what is desired; nothing is done. The daemon takes the same steps by itself,\n\
    at once when the kernel tells of a change, else on its timer. Exit code 0, whether there are steps or not.")]
pub struct Plan {
    /// Tenant; all when left out
    #[arg(value_name = "NAME")]
    name: Option<TenantName>,
}

/// Prints the steps.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &Plan, cx: &Context) -> Result<(), Failure> {
    match &args.name {
        Some(name) => {
            let answer = cx.client.get(&format!("/v1/tenants/{name}/plan"))?;
            cx.say(&answer, |plan: TenantPlan| words(&[plan]))
        }
        None => {
            let answer = cx.client.get("/v1/plan")?;
            cx.say(&answer, |plans: Vec<TenantPlan>| words(&plans))
        }
    }
}

/// `acme  addresses: address 192.168.1.1/24 is missing`, a line a step; then how many are as desired.
fn words(plans: &[TenantPlan]) -> String {
    let mut lines = Vec::new();
    for plan in plans {
        if let Some(why) = &plan.cannot_read {
            lines.push(format!("{}: cannot be read: {why}", plan.name));
        }
        let step =
            |step: &crate::model::PlannedStep| format!("{}: {}: {}", plan.name, step.step, step.found.join("; "));
        lines.extend(plan.steps.iter().map(step));
    }
    let still = plans.iter().filter(|plan| plan.steps.is_empty() && plan.cannot_read.is_none()).count();
    lines.push(format!("{still} of {} as desired", plans.len()));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_step_says_why_it_is_taken() {
        let plans: Vec<TenantPlan> = serde_json::from_value(serde_json::json!([
            {"name": "acme", "removing": false, "steps": [
                {"step": "addresses", "found": ["address 192.168.1.1/24 is missing", "device dev0 is down"]},
                {"step": "probe", "found": ["its way was changed"]},
            ]},
            {"name": "beta", "removing": false, "steps": []},
            {"name": "gone", "removing": false, "steps": [], "cannot_read": "the patch room"},
        ]))
        .unwrap();
        assert_eq!(
            words(&plans),
            "acme: addresses: address 192.168.1.1/24 is missing; device dev0 is down\n\
             acme: probe: its way was changed\ngone: cannot be read: the patch room\n1 of 3 as desired"
        );
    }
}
