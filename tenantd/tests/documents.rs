//! docs/json.md and docs/api.md say what the program does: examples are read and written again, lists are compared.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tenantd::model::*;
use tenantd::problem::{Problem, ProblemKind};

const JSON: &str = include_str!("../../docs/json.md");
const API: &str = include_str!("../../docs/api.md");

/// Blocks that begin with "```json TYPE", by type.
fn examples(text: &str) -> BTreeMap<String, Value> {
    let blocks = text.split("```json ").skip(1);
    blocks
        .map(|block| {
            let (name, rest) = block.split_once('\n').unwrap();
            let json = rest.split("```").next().unwrap();
            (name.to_owned(), serde_json::from_str(json).expect(name))
        })
        .collect()
}

/// Reading and writing again must give the same: a field that is missing in the example, or too much, shows.
fn holds<T: Serialize + DeserializeOwned>(examples: &mut BTreeMap<String, Value>, name: &str) {
    let example = examples.remove(name).expect(name);
    let value: T = serde_json::from_value(example.clone()).expect(name);
    assert_eq!(serde_json::to_value(value).unwrap(), example, "{name}");
}

#[test]
fn every_example_is_what_the_program_writes() {
    let mut all = examples(JSON);
    holds::<Tenant>(&mut all, "Tenant");
    holds::<Added>(&mut all, "Added");
    holds::<Put>(&mut all, "Put");
    holds::<tenantd::declare::order::Found>(&mut all, "Schedule");
    holds::<tenantd::declare::report::Report>(&mut all, "Report");
    holds::<Export>(&mut all, "Export");
    holds::<TenantStatus>(&mut all, "TenantStatus");
    holds::<ServiceStatus>(&mut all, "ServiceStatus");
    holds::<TemplateView>(&mut all, "TemplateView");
    holds::<DaemonStatus>(&mut all, "DaemonStatus");
    holds::<TenantPlan>(&mut all, "TenantPlan");
    holds::<Repair>(&mut all, "Repair");
    holds::<MapView>(&mut all, "MapView");
    holds::<tenantd::verify::Verification>(&mut all, "Verification");
    holds::<tenantd::trace::Trace>(&mut all, "Trace");
    holds::<tenantd::refusals::GuardRefusal>(&mut all, "GuardRefusal");
    holds::<tenantd::audit::AuditRow>(&mut all, "AuditRow");
    holds::<Restored>(&mut all, "Restored");
    holds::<SharedDirectory>(&mut all, "SharedDirectory");
    holds::<ImageView>(&mut all, "ImageView");
    holds::<Here>(&mut all, "Here");
    holds::<Event>(&mut all, "Event");
    holds::<Problem>(&mut all, "Problem");
    holds::<tenantd::doctor::Report>(&mut all, "DoctorReport");
    assert!(all.is_empty(), "no test reads {:?}", all.keys());
    let mut all = examples(API);
    let request = all["TenantRequest"].clone();
    serde_json::from_value::<TenantRequest>(request).unwrap().check().expect("a request that is taken");
    holds::<TenantRequest>(&mut all, "TenantRequest");
    holds::<ServiceRequest>(&mut all, "ServiceRequest");
    serde_json::from_value::<DeclaredTenant>(all["DeclaredTenant"].clone()).unwrap().check().expect("taken");
    holds::<DeclaredTenant>(&mut all, "DeclaredTenant");
    assert!(all.is_empty(), "no test reads {:?}", all.keys());
}

#[test]
fn every_kind_of_problem_is_listed_with_its_status() {
    let listed: BTreeSet<String> =
        API.lines().filter(|l| l.contains("urn:tenantd:problem:")).map(|l| first_two_cells(l).join(" ")).collect();
    let known = ProblemKind::ALL.map(|kind| format!("`{}` {}", kind.urn(), Problem::new(kind, "").status));
    assert_eq!(listed, known.into_iter().collect());
}

#[test]
fn every_route_is_listed_with_its_methods() {
    let document = serde_json::to_value(tenantd::api::openapi()).unwrap();
    for (path, item) in document["paths"].as_object().unwrap() {
        let listed = match path.as_str() {
            "/v1/map/{table}" => "/v1/map/{upper,lower,access}",
            path => path,
        };
        let line = API.lines().find(|l| l.starts_with('|') && l.contains(&format!("`{listed}`"))).expect(path);
        for method in item.as_object().unwrap().keys() {
            assert!(line.contains(&method.to_uppercase()), "{method} {path}: {line}");
        }
    }
}

const CLOSED_NETWORKS: &str = include_str!("../../docs/closed-networks.md");
const SCHEMA: &str = "../docs/closed-networks.schema.json";

/// `UPDATE_DOCS=1` writes it.
#[test]
fn the_schema_that_is_kept_is_the_one_of_the_program() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(SCHEMA);
    let schema = serde_json::to_string_pretty(&tenantd::declare::schema()).unwrap() + "\n";
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &schema).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), schema, "{SCHEMA} is not what the program says");
}

#[test]
fn every_file_of_the_document_is_read() {
    let blocks: Vec<_> = CLOSED_NETWORKS.split("```toml\n").skip(1).collect();
    assert!(blocks.len() >= 2);
    for block in blocks {
        let text = block.split("```").next().unwrap().to_owned();
        let read = tenantd::declare::read(&[tenantd::declare::Text { name: "closed-networks.md".into(), text }]);
        read.unwrap_or_else(|faults| panic!("{faults}"));
    }
}

fn first_two_cells(line: &str) -> Vec<String> {
    line.split('|').skip(1).take(2).map(|cell| cell.trim().to_owned()).collect()
}

#[test]
fn every_metric_is_in_the_document() {
    golden("tenantd", &tenantd::metrics::document());
}

/// The part of docs/metrics.md between its two marks; `UPDATE_DOCS=1` writes it.
fn golden(mark: &str, expected: &str) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let (begin, end) = (format!("<!-- begin {mark} -->\n"), format!("<!-- end {mark} -->"));
    let text = std::fs::read_to_string(path).unwrap();
    let (head, rest) = text.split_once(&begin).expect("its beginning");
    let (found, tail) = rest.split_once(&end).expect("its end");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        return std::fs::write(path, format!("{head}{begin}{expected}{end}{tail}")).unwrap();
    }
    assert_eq!(found, expected, "docs/metrics.md is not what the program tells; UPDATE_DOCS=1 writes it");
}
