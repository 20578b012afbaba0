//! `diff`, `apply`, `export`, `import` and `schema` as a user sees them: what is asked of the daemon, what is printed, exit
//! codes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod stand_in;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;

use stand_in::{acme, code, daemon, err, out};

const FILE: &str = r#"version = 1

[tenants.acme]
vlan = 600
addresses = ["192.168.1.2/24"]
tunnels = ["ipip:198.51.100.2"]
services.web = { template = "nginx", set = { root = "/srv" } }
routes = ["10.0.0.0/8,via=192.168.1.254"]

[tenants.beta]
addresses = ["192.168.1.1/24"]
"#;

fn file(text: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("networks.toml");
    std::fs::write(&path, text).unwrap();
    (dir, path)
}

/// What the daemon has: acme at another address, with a password, and old.
fn export() -> Value {
    let acme = json!({
        "vlan": 600, "stack": "inet0", "gid": 524_288, "addresses": ["192.168.1.1/24"],
        "tunnels": [{"kind": "ipip", "remote": "198.51.100.2", "local": "203.0.113.1", "key": null, "prefixes": []}],
        "routes": ["10.0.0.0/8,via=192.168.1.254"],
        "services": {
            "web": {"template": "nginx", "set": {"root": "/srv"}},
            "ftp": {"template": "vsftpd", "set": {"user": "ada", "password": "se'cret"}}
        }
    });
    let old = json!({"vlan": 2, "stack": "inet1", "gid": 589_824, "addresses": ["10.0.0.1/8"]});
    json!({"locals": ["203.0.113.1"], "tenants": [
        {"name": "acme", "removing": false, "tenant": acme}, {"name": "old", "removing": false, "tenant": old}
    ]})
}

fn put(outcome: &str) -> Value {
    json!({"tenant": acme(), "outcome": outcome, "changes": [], "steps": [], "dry_run": false})
}

const ACME: &str = "PUT /v1/tenants/acme?dry_run=false&replace=false";
const BETA: &str = "PUT /v1/tenants/beta?dry_run=false&replace=false";
const CHECK_ACME: &str = "PUT /v1/tenants/acme?dry_run=true&replace=false";
const CHECK_BETA: &str = "PUT /v1/tenants/beta?dry_run=true&replace=false";

#[test]
fn a_bad_file_is_told_line_by_line_and_nobody_is_asked() {
    let daemon = daemon(&[]);
    let (_dir, path) = file("version = 1\n[tenants.acme]\nvlan = 4095\naddresses = [\"192.168.1.0/24\"]\n");
    let path = path.to_str().unwrap();
    for verb in [&["diff", "-f"] as &[&str], &["apply", "-f"], &["import"]] {
        let output = daemon.run(&[verb, &[path]].concat());
        assert_eq!(code(&output), 2);
        assert_eq!(out(&output), "");
        assert_eq!(
            err(&output),
            format!(
                "{path}:3:8: tenants.acme.vlan: \"4095\" refused: must be 1..=4094\n\
                 {path}:4:14: tenants.acme.addresses[0]: \"192.168.1.0/24\" refused: must not be the network address\n"
            )
        );
    }
    let output = daemon.run(&["--json", "apply", "-f", path]);
    let problem: Value = serde_json::from_str(&err(&output)).unwrap();
    assert_eq!(problem["type"], "urn:tenantd:problem:invalid");
    assert_eq!(problem["faults"].as_array().unwrap().len(), 2);
    assert_eq!(problem["faults"][1]["line"], 4);
    let output = daemon.run(&["apply", "-f", "/nonexistent/x.toml"]);
    assert_eq!((code(&output), out(&output).as_str()), (1, ""));
    assert!(err(&output).starts_with("tenantd: cannot read /nonexistent/x.toml: "), "{}", err(&output));
    assert!(daemon.asked().is_empty());
}

#[test]
fn diff_tells_field_by_field_without_passwords() {
    let daemon = daemon(&[("GET /v1/export", 200, export())]);
    let (_dir, path) = file(FILE);
    let path = path.to_str().unwrap();
    let output = daemon.run(&["diff", "-f", path, "--exit-code"]);
    assert_eq!((code(&output), err(&output).as_str()), (4, ""));
    assert_eq!(
        out(&output),
        "~ acme\n    ~ addresses: 192.168.1.1/24 -> 192.168.1.2/24\n    - services.ftp: \
         {\"template\":\"vsftpd\",\"set\":{\"password\":\"(not shown)\",\"user\":\"ada\"}}\n+ beta\n"
    );
    assert!(daemon.done(&["diff", "-f", path, "--prune"]).ends_with("+ beta\n- old\n"));
    let json: Value = serde_json::from_str(&daemon.done(&["diff", "-f", path, "--json"])).unwrap();
    assert_eq!(json["differs"], true);
    let verdicts: Vec<_> = json["tenants"].as_array().unwrap().iter().map(|t| t["verdict"].as_str().unwrap()).collect();
    assert_eq!(verdicts, ["change", "add", "left"]);
    assert!(!json.to_string().contains("cret"));
    daemon.asked();
}

#[test]
fn apply_asks_for_what_differs_and_tells_each() {
    let failed = json!({
        "type": "urn:tenantd:problem:failed", "title": "A step failed, nothing was changed", "status": 503,
        "detail": "tenant beta: step probe failed"
    });
    let daemon = daemon(&[("GET /v1/export", 200, export()), (ACME, 200, put("changed")), (BETA, 503, failed)]);
    let (_dir, path) = file(FILE);
    let output = daemon.run(&["apply", "-f", path.to_str().unwrap()]);
    assert_eq!((code(&output), err(&output).as_str()), (1, ""));
    let said = out(&output);
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with("acme: changed in "), "{said}");
    assert_eq!(
        &lines[1..],
        ["beta: failed: tenant beta: step probe failed", "3 tenants: 1 changed, 1 left alone, 1 failed"]
    );
    let asked = daemon.asked();
    let questions: Vec<&str> = asked.iter().map(|(question, _)| question.as_str()).collect();
    assert_eq!(questions, ["GET /v1/export", ACME, BETA]);
    // What the file leaves open is what it is; numbers of a new one are chosen, around those that are there.
    assert_eq!(asked[1].1["stack"], "inet0");
    assert_eq!(asked[1].1["tunnels"][0]["local"], "203.0.113.1");
    assert_eq!(
        (&asked[2].1["vlan"], &asked[2].1["gid"], &asked[2].1["stack"]),
        (&json!(3), &json!(655_360), &json!("inet2"))
    );
}

#[test]
fn prune_removes_first_and_force_is_another_word() {
    let daemon = daemon(&[
        ("GET /v1/export", 200, export()),
        ("DELETE /v1/tenants/old?force=false", 204, Value::Null),
        ("DELETE /v1/tenants/old?force=true", 204, Value::Null),
        (ACME, 200, put("changed")),
        (BETA, 201, put("added")),
        (CHECK_ACME, 200, put("changed")),
        (CHECK_BETA, 200, put("added")),
    ]);
    let (_dir, path) = file(FILE);
    let path = path.to_str().unwrap();
    let json: Value = serde_json::from_str(&daemon.done(&["--json", "apply", "-f", path, "--prune"])).unwrap();
    assert_eq!(json["count"], json!({"added": 1, "changed": 1, "removed": 1}));
    assert_eq!(daemon.asked()[3].0, "DELETE /v1/tenants/old?force=false");
    daemon.done(&["apply", "-f", path, "--prune", "--force", "--jobs", "1"]);
    assert_eq!(daemon.asked()[3].0, "DELETE /v1/tenants/old?force=true");
    let output = daemon.run(&["apply", "-f", path, "--force"]);
    assert_eq!(code(&output), 2);
}

#[test]
fn nothing_is_ended_when_a_check_fails_or_no_tenant_is_named() {
    let refused = json!({
        "type": "urn:tenantd:problem:invalid", "title": "A value is not valid", "status": 422, "field": "image",
        "value": "none", "rule": "unknown", "detail": "image: \"none\" refused: unknown"
    });
    let daemon = daemon(&[
        ("GET /v1/export", 200, export()),
        (CHECK_ACME, 200, put("changed")),
        (CHECK_BETA, 422, refused),
        ("DELETE /v1/tenants/old?force=false", 204, Value::Null),
    ]);
    let (_dir, path) = file(FILE);
    let output = daemon.run(&["apply", "-f", path.to_str().unwrap(), "--prune"]);
    assert_eq!(code(&output), 1);
    assert!(out(&output).contains("beta: failed: image") && out(&output).ends_with("; nothing was done\n"));
    assert!(
        daemon.asked().iter().all(|(question, _)| question.starts_with("GET") || question.contains("dry_run=true"))
    );
    let (_dir, path) = file("version = 1\n");
    let path = path.to_str().unwrap();
    let output = daemon.run(&["apply", "-f", path, "--prune"]);
    assert_eq!(code(&output), 2);
    assert!(err(&output).contains("--yes"), "{}", err(&output));
    let asked: Vec<_> = daemon.asked().into_iter().map(|(question, _)| question).collect();
    assert_eq!(asked, ["GET /v1/export"]);
}

#[test]
fn a_dry_run_has_the_daemon_check_and_changes_nothing() {
    let checked = json!({"tenant": acme(), "outcome": "added", "changes": [], "steps": [], "dry_run": true});
    let refused = json!({
        "type": "urn:tenantd:problem:invalid", "title": "A value is not valid", "status": 422, "field": "image",
        "value": "none", "rule": "unknown", "detail": "image: \"none\" refused: unknown"
    });
    let daemon = daemon(&[
        ("GET /v1/export", 200, export()),
        ("PUT /v1/tenants/acme?dry_run=true&replace=false", 200, checked),
        ("PUT /v1/tenants/beta?dry_run=true&replace=false", 422, refused),
    ]);
    let (_dir, path) = file(FILE);
    let output = daemon.run(&["apply", "-f", path.to_str().unwrap(), "--dry-run"]);
    assert_eq!((code(&output), err(&output).as_str()), (1, ""));
    let said = out(&output);
    assert!(said.starts_with("~ acme\n"), "{said}");
    assert!(said.contains("beta: failed: image: \"none\" refused: unknown\n"), "{said}");
    assert!(said.ends_with("; nothing was done\n"), "{said}");
    assert!(
        daemon.asked().iter().all(|(question, _)| question.starts_with("GET") || question.contains("dry_run=true"))
    );
}

#[test]
fn what_is_exported_is_applied_without_a_change() {
    let daemon = daemon(&[("GET /v1/export", 200, export())]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.toml");
    std::fs::write(&path, "what was there").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(daemon.done(&["export", "-o", path.to_str().unwrap()]), "");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(
        text,
        "version = 1\n\n[tenants.acme]\nvlan = 600\nstack = \"inet0\"\ngid = 524288\naddresses = [\"192.168.1.1/24\"]\n\
         tunnels = [\"ipip:198.51.100.2\"]\nroutes = [\"10.0.0.0/8,via=192.168.1.254\"]\n\
         [tenants.acme.services.ftp]\ntemplate = \"vsftpd\"\nset = { password = \"se'cret\", user = \"ada\" }\n\
         [tenants.acme.services.web]\ntemplate = \"nginx\"\nset = { root = \"/srv\" }\n\n\
         [tenants.old]\nvlan = 2\nstack = \"inet1\"\ngid = 589824\naddresses = [\"10.0.0.1/8\"]\n"
    );
    assert_eq!(daemon.done(&["diff", "-f", path.to_str().unwrap(), "--exit-code"]), "nothing differs\n");
    assert_eq!(daemon.done(&["apply", "-f", path.to_str().unwrap()]), "2 tenants: 2 same\n");
    assert_eq!(daemon.done(&["import", path.to_str().unwrap()]), "2 tenants: 2 same\n");
    let one = daemon.done(&["export", "old"]);
    assert!(one.contains("[tenants.old]") && !one.contains("acme"), "{one}");
    assert_eq!(code(&daemon.run(&["export", "nobody"])), 2);
    assert!(daemon.asked().iter().all(|(question, _)| question == "GET /v1/export"));
}

#[test]
fn import_changes_nothing_that_is_there_and_checks_everything_before() {
    let conflict = json!({
        "type": "urn:tenantd:problem:conflict", "title": "Another tenant holds this", "status": 409, "field": "gid",
        "value": "655360", "rule": "is taken", "detail": "gid: \"655360\" refused: is taken"
    });
    let daemon = daemon(&[
        ("GET /v1/export", 200, export()),
        ("PUT /v1/tenants/beta?dry_run=true&replace=false", 409, conflict),
    ]);
    let (_dir, path) = file(FILE);
    let output = daemon.run(&["import", path.to_str().unwrap()]);
    assert_eq!((code(&output), err(&output).as_str()), (1, ""));
    assert!(
        out(&output).contains("acme: is there and differs; import changes nothing that is there"),
        "{}",
        out(&output)
    );
    assert_eq!(daemon.asked().len(), 1);
    let (_dir, path) = file("version = 1\n[tenants.beta]\naddresses = [\"192.168.1.1/24\"]\n");
    let output = daemon.run(&["import", path.to_str().unwrap()]);
    assert_eq!(code(&output), 1);
    assert_eq!(
        out(&output),
        "beta: failed: gid: \"655360\" refused: is taken\n3 tenants: 2 left alone, 1 failed; nothing was done\n"
    );
    assert_eq!(daemon.asked().len(), 2);
}

#[test]
fn several_files_are_read_as_one_and_a_schema_needs_no_daemon() {
    let daemon = daemon(&[("GET /v1/export", 200, export())]);
    let (_one, first) = file("version = 1\n[tenants.a]\naddresses = [\"10.0.0.1/8\"]\n");
    let (_two, second) = file("version = 1\n[tenants.b]\naddresses = [\"10.0.0.1/8\"]\n");
    let said = daemon.done(&["diff", "-f", first.to_str().unwrap(), "-f", second.to_str().unwrap()]);
    assert_eq!(said, "+ a\n+ b\n");
    let schema: Value = serde_json::from_str(&daemon.done(&["schema"])).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    daemon.asked();
}
