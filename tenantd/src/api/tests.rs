//! The API over a real Unix socket, with an owner made of memory behind it.
//!
//! One long file, because it is a list of questions and answers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};

use super::fake::{self, Served};
use crate::client::{ClientError, segment};
use crate::problem::{Problem, ProblemKind};

impl Served {
    fn ok(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let answer = self.client.call(method, path, body.map(|b| b.to_string().into_bytes())).unwrap();
        if answer.bytes().is_empty() { Value::Null } else { answer.parse().unwrap() }
    }

    fn get(&self, path: &str) -> Value {
        self.ok(Method::GET, path, None)
    }

    fn refused(&self, method: Method, path: &str, body: Option<Value>) -> Problem {
        match self.client.call(method, path, body.map(|b| b.to_string().into_bytes())) {
            Err(ClientError::Refused(problem)) => *problem,
            other => panic!("{path}: {other:?}"),
        }
    }

    /// Sends bytes as they are; returns status, head and body. The connection must be closed by the answer.
    fn raw(&self, request: &[u8]) -> (u16, String, String) {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let _ = stream.write_all(request);
        let mut text = Vec::new();
        let _ = stream.read_to_end(&mut text);
        let text = String::from_utf8(text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").expect(&text);
        (head[9..12].parse().unwrap(), head.to_lowercase(), body.to_owned())
    }

    fn raw_post(&self, path: &str, headers: &str, body: &str) -> (u16, String, String) {
        let head = format!("POST {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n{headers}");
        self.raw(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes())
    }

    /// Follows the events; the answer reads until a text has come.
    fn follow(&self) -> impl FnMut(&str) -> String + use<> {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(b"GET /v1/events HTTP/1.1\r\nHost: t\r\n\r\n").unwrap();
        let mut text = String::new();
        move |end: &str| {
            let mut piece = [0; 4096];
            while !text.contains(end) {
                let n = stream.read(&mut piece).unwrap();
                assert!(n > 0, "{text}");
                text += std::str::from_utf8(&piece[..n]).unwrap();
            }
            text.clone()
        }
    }

    fn acme(self) -> Self {
        self.ok(Method::POST, "/v1/tenants", Some(acme()));
        self
    }
}

/// The tenant's own API of a fake.
struct Inside(Served);

impl Inside {
    fn of(mut served: Served, name: &str) -> Self {
        served.socket = served.dir.path().join(format!("{name}.api/api.sock"));
        served.client = crate::client::Client::new(&served.socket).unwrap();
        Self(served)
    }
}

fn acme() -> Value {
    json!({"name": "acme", "addresses": ["192.168.1.1/24"], "vlan": 600, "tunnels": ["ipip:198.51.100.2"]})
}

fn fields(problem: &Problem) -> (&str, &str, &str) {
    (
        problem.field.as_deref().unwrap_or_default(),
        problem.value.as_deref().unwrap_or_default(),
        problem.rule.as_deref().unwrap_or_default(),
    )
}

#[test]
fn a_tenant_is_made_shown_listed_and_removed() {
    let s = fake::serve();
    assert_eq!(s.get("/v1/tenants"), json!([]));
    let (status, head, body) = s.raw_post("/v1/tenants", "", &acme().to_string());
    assert_eq!(status, 201, "{body}");
    assert!(head.contains("location: /v1/tenants/acme"), "{head}");
    let added: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(added["steps"], json!([{"name": "stack", "us": 1100}]));
    let tenant = s.get("/v1/tenants/acme");
    assert_eq!(added["tenant"], tenant);
    assert_eq!((&tenant["vlan"], &tenant["gid"], &tenant["stack"]), (&json!(600), &json!(524_288), &json!("inet0")));
    assert_eq!(s.get("/v1/tenants"), json!([tenant]));
    assert_eq!(s.ok(Method::DELETE, "/v1/tenants/acme", None), Value::Null);
    assert!(s.refused(Method::GET, "/v1/tenants/acme", None).is(ProblemKind::Unknown));
}

#[test]
fn a_dry_run_changes_nothing() {
    let s = fake::serve();
    let (status, _, body) = s.raw_post("/v1/tenants?dry_run=true", "", &acme().to_string());
    assert_eq!(status, 200);
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["dry_run"], json!(true));
    assert_eq!(s.get("/v1/tenants"), json!([]));
}

#[test]
fn tunnels_addresses_and_routes() {
    let s = fake::serve().acme();
    let spec = "gre:198.51.100.3,key=7,prefix=10.0.0.0/8";
    let tenant = s.ok(Method::POST, "/v1/tenants/acme/tunnels", Some(json!(spec)));
    assert_eq!(tenant["generation"], json!(2));
    let object = json!({"kind": "gre", "remote": "198.51.100.3", "local": null, "key": 7, "prefixes": ["10.0.0.0/8"]});
    assert_eq!(s.get("/v1/tenants/acme/tunnels")[1], object);
    s.ok(Method::POST, "/v1/tenants/acme/tunnels", Some(object));
    assert_eq!(s.get("/v1/tenants/acme/tunnels").as_array().unwrap().len(), 2);
    let path = format!("/v1/tenants/acme/tunnels/{}", segment(spec));
    assert_eq!(s.ok(Method::DELETE, &path, None)["tunnels"].as_array().unwrap().len(), 1);
    assert_eq!(fields(&s.refused(Method::DELETE, &path, None)).0, "tunnel");

    let addresses = json!(["192.168.1.1/24", "fd00::1/64"]);
    let tenant = s.ok(Method::PUT, "/v1/tenants/acme/addresses", Some(addresses.clone()));
    assert_eq!(tenant["addresses"], addresses);
    assert_eq!(s.get("/v1/tenants/acme/addresses"), addresses);

    let routes = json!([{"to": "10.0.0.0/8", "via": "192.168.1.254"}, {"to": "172.16.0.0/12", "via": null}]);
    s.ok(Method::PUT, "/v1/tenants/acme/routes", Some(routes.clone()));
    assert_eq!(s.get("/v1/tenants/acme/routes"), routes);

    assert_eq!(s.get("/v1/tenants/acme/filter"), json!({"default": "accept", "rules": []}));
    let rule = json!({"action": "accept", "proto": "tcp", "port": "22", "from": "192.168.1.0/24"});
    let filter = json!({"default": "drop", "rules": [rule]});
    assert_eq!(s.ok(Method::PUT, "/v1/tenants/acme/filter", Some(filter.clone()))["filter"], filter);
    assert_eq!(s.get("/v1/tenants/acme/filter"), filter);
}

#[test]
fn services() {
    let s = fake::serve().acme();
    let web = json!({"name": "web", "template": "nginx", "set": {"root": "/srv"}});
    let (status, head, _) = s.raw_post("/v1/tenants/acme/services", "", &web.to_string());
    assert_eq!(status, 201);
    assert!(head.contains("location: /v1/tenants/acme/services/web"), "{head}");
    assert_eq!(s.get("/v1/tenants/acme/services/web")["state"], json!("running"));
    assert_eq!(s.get("/v1/tenants/acme/services").as_array().unwrap().len(), 1);
    assert_eq!(s.ok(Method::POST, "/v1/tenants/acme/services/web/restart", None)["restarts"], json!(1));
    let busy = s.refused(Method::DELETE, "/v1/tenants/acme", None);
    assert!(busy.is(ProblemKind::Busy), "{busy:?}");
    assert!(busy.detail.contains("--force"), "{}", busy.detail);
    s.ok(Method::DELETE, "/v1/tenants/acme/services/web", None);
    for (method, path) in [(Method::GET, ""), (Method::DELETE, ""), (Method::POST, "/restart")] {
        let unknown = s.refused(method, &format!("/v1/tenants/acme/services/web{path}"), None);
        assert_eq!(fields(&unknown), ("service", "web", "must be there"));
    }
    s.ok(Method::POST, "/v1/tenants/acme/services", Some(web));
    s.ok(Method::DELETE, "/v1/tenants/acme?force=true", None);
}

#[test]
fn status_and_map() {
    let s = fake::serve().acme();
    assert_eq!(s.get("/v1/status")["tenants"], json!(1));
    let status = s.get("/v1/tenants/acme/status");
    assert_eq!((&status["state"], &status["netns"]), (&json!("ready"), &json!(fake::INIT.1)));
    let map = s.get("/v1/map");
    assert_eq!(map["upper"], json!([{"tenant": "acme", "row": "inet0 <-> gid 524288"}]));
    for table in ["upper", "lower", "access"] {
        assert_eq!(s.get(&format!("/v1/map/{table}")), map[table]);
    }
    assert_eq!(fields(&s.refused(Method::GET, "/v1/map/middle", None)).0, "table");
}

#[test]
fn logs_are_sent_and_followed() {
    let s = fake::serve().acme();
    s.ok(Method::POST, "/v1/tenants/acme/services", Some(json!({"name": "web", "command": ["/bin/true"]})));
    let log = s.dir.path().join("web.log");
    let read = |path: &str, until: &str| {
        let mut text = String::new();
        let end = s.client.stream(path, |piece| {
            text += std::str::from_utf8(piece).unwrap();
            if !until.is_empty() && text.contains(until) { Err(std::io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
        });
        assert!(matches!(end, Ok(()) | Err(ClientError::Sink(_))), "{end:?}");
        text
    };
    assert_eq!(read("/v1/tenants/acme/logs/web", ""), "", "no log yet");
    std::fs::write(&log, "one\n").unwrap();
    assert_eq!(read("/v1/tenants/acme/logs/web", ""), "one\n");
    let (path, late) = (log.clone(), Duration::from_millis(50));
    let writer = std::thread::spawn(move || {
        std::thread::sleep(late);
        std::fs::OpenOptions::new().append(true).open(path).unwrap().write_all(b"two\n").unwrap();
    });
    assert_eq!(read("/v1/tenants/acme/logs/web?follow=true", "two\n"), "one\ntwo\n");
    writer.join().unwrap();
    assert!(s.refused(Method::GET, "/v1/tenants/acme/logs/ftp", None).is(ProblemKind::Unknown));
    std::fs::remove_file(&log).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", &log).unwrap();
    assert!(s.refused(Method::GET, "/v1/tenants/acme/logs/web", None).is(ProblemKind::Io));
}

#[test]
fn events_are_sent_as_they_happen() {
    let s = fake::serve();
    let mut read_until = s.follow();
    // With its head comes the word that the follower is heard: events are from now on.
    assert!(read_until("\r\n\r\n").contains("content-type: text/event-stream"));
    s.ok(Method::POST, "/v1/tenants", Some(acme()));
    s.ok(Method::DELETE, "/v1/tenants/acme", None);
    let text = read_until("tenant-removed\n");
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    assert!(lines.contains(&"id: 1") && lines.contains(&"event: tenant-added"), "{text}");
    let data = lines.iter().find_map(|l| l.strip_prefix("data: ")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(data).unwrap()["tenant"], json!("acme"));
}

#[test]
fn bad_values_are_refused_by_field_and_nothing_is_changed() {
    let s = fake::serve().acme();
    let with = |key: &str, value: Value| {
        let mut json = json!({"name": "beta", "addresses": ["192.168.1.1/24"]});
        json[key] = value;
        json
    };
    let cases = [
        (with("name", json!("-x")), "name", "-x"),
        (with("name", json!("x".repeat(49))), "name", &*"x".repeat(49)),
        (with("vlan", json!(0)), "vlan", "0"),
        (with("vlan", json!(4095)), "vlan", "4095"),
        (with("vlan", json!("x")), "vlan", "x"),
        (with("gid", json!(1000)), "gid", "1000"),
        (with("addresses", json!(["192.168.1.1"])), "addresses[0]", "192.168.1.1"),
        (with("addresses", json!(["192.168.1.0/24"])), "address", "192.168.1.0/24"),
        (with("addresses", json!(["224.0.0.5/24"])), "address", "224.0.0.5/24"),
        (with("addresses", json!(["10.0.0.1/8", "10.0.0.1/8"])), "address", "10.0.0.1/8"),
        (with("tunnels", json!(["ipip:198.51.100.2,local=198.51.100.2"])), "tunnels[0].remote", "198.51.100.2"),
        (with("tunnels", json!(["l2tp:198.51.100.2"])), "tunnels[0].kind", "l2tp"),
        (with("tunnels", json!(["ipip:198.51.100.2,key=1"])), "tunnels[0].key", "1"),
        (with("tunnels", json!(["vxlan:198.51.100.2,key=16777216"])), "tunnels[0].key", "16777216"),
        (with("colour", json!("red")), "colour", "red"),
        (with("routes", json!([{"to": "10.0.0.0/8", "metric": 5}])), "routes[0].metric", "5"),
        (with("routes", json!([{"to": "10.0.0.1/8"}])), "route", "10.0.0.1/8"),
    ];
    for (body, field, value) in cases {
        let problem = s.refused(Method::POST, "/v1/tenants", Some(body));
        assert!(problem.is(ProblemKind::Invalid), "{problem:?}");
        assert_eq!(problem.status, 422);
        let (got_field, got_value, rule) = fields(&problem);
        assert_eq!((got_field, got_value), (field, value), "{problem:?}");
        assert!(!rule.is_empty(), "{problem:?}");
        assert_eq!(problem.detail, format!("{field}: {value:?} refused: {rule}"));
    }
    assert_eq!(s.get("/v1/tenants").as_array().unwrap().len(), 1);

    let taken = s.refused(Method::POST, "/v1/tenants", Some(with("vlan", json!(600))));
    assert!(taken.is(ProblemKind::Conflict));
    assert_eq!(fields(&taken), ("vlan", "600", "is taken by tenant acme"));
    let half = s.refused(Method::POST, "/v1/tenants", Some(json!({"name": "half", "addresses": ["10.0.0.1/8"]})));
    assert!(half.is(ProblemKind::HalfDone), "{half:?}");
}

#[test]
fn bad_values_elsewhere_are_refused_too() {
    let s = fake::serve().acme();
    let cases = [
        (Method::POST, "/v1/tenants/acme/tunnels", Some(json!("ipip:198.51.100.2,key=1")), "key"),
        (Method::POST, "/v1/tenants/acme/tunnels", Some(json!({"kind": "ipip"})), "remote"),
        (Method::DELETE, "/v1/tenants/acme/tunnels/x", None, "tunnel"),
        (Method::PUT, "/v1/tenants/acme/addresses", Some(json!([])), "address"),
        (Method::PUT, "/v1/tenants/acme/addresses", Some(json!(["x"])), "[0]"),
        (Method::PUT, "/v1/tenants/acme/addresses", Some(json!({"a": 1})), "body"),
        (Method::PUT, "/v1/tenants/acme/routes", Some(json!([{"to": "10.0.0.0/8", "via": "::1"}])), "via"),
        (Method::PUT, "/v1/tenants/acme/filter", Some(json!({"default": "reject"})), "default"),
        (
            Method::PUT,
            "/v1/tenants/acme/filter",
            Some(json!({"rules": [{"action": "drop", "port": 80}]})),
            "rules[0].port",
        ),
        (
            Method::PUT,
            "/v1/tenants/acme/filter",
            Some(json!({"rules": [{"action": "drop", "proto": "tcp", "port": "80-"}]})),
            "rules[0].port",
        ),
        (
            Method::PUT,
            "/v1/tenants/acme/filter",
            Some(json!({"rules": [{"action": "drop", "from": "10.0.0.1/8"}]})),
            "rules[0].from",
        ),
        (Method::POST, "/v1/tenants/acme/services", Some(json!({"name": "web"})), "command"),
        (Method::POST, "/v1/tenants/acme/services", Some(json!({"name": "a b", "command": ["x"]})), "name"),
        (Method::GET, "/v1/tenants/Acme", None, "name"),
        (Method::GET, "/v1/tenants/acme/services/Web", None, "service"),
        (Method::GET, "/v1/tenants/acme/logs/web?fllow=true", None, "fllow"),
        (Method::DELETE, "/v1/tenants/acme?force=yes", None, "force"),
        (Method::POST, "/v1/tenants?dryrun=true", Some(acme()), "dryrun"),
    ];
    for (method, path, body, field) in cases {
        let problem = s.refused(method, path, body);
        assert!(problem.is(ProblemKind::Invalid), "{path}: {problem:?}");
        assert_eq!(fields(&problem).0, field, "{path}: {problem:?}");
    }
    for path in ["/v1/tenants/beta", "/v1/tenants/beta/status", "/v1/tenants/beta/tunnels", "/v1/tenants/beta/routes"] {
        assert_eq!(fields(&s.refused(Method::GET, path, None)), ("tenant", "beta", "must be there"));
    }
}

#[test]
fn what_is_no_request_of_ours_is_a_problem_too() {
    let s = fake::serve().acme();
    let check = |(status, head, body): (u16, String, String), kind: ProblemKind| {
        assert!(head.contains("content-type: application/problem+json"), "{head}");
        let problem: Problem = serde_json::from_str(&body).unwrap();
        assert!(problem.is(kind), "{problem:?}");
        assert_eq!(problem.status, status);
        problem
    };
    check(s.raw_post("/v1/tenants", "", "{"), ProblemKind::Malformed);
    check(s.raw_post("/v1/tenants", "", ""), ProblemKind::Malformed);
    check(s.raw_post("/v1/tenants", "", &"[".repeat(100_000)), ProblemKind::Invalid);
    let nested = format!("{{\"name\":{}", "{\"a\":".repeat(10_000));
    check(s.raw_post("/v1/tenants", "", &nested), ProblemKind::Invalid);
    check(s.raw_post("/v1/tenants", "Content-Type: text/plain\r\n", "{}"), ProblemKind::MediaType);
    let long = format!("\"{}\"", "x".repeat(super::BODY_MAX));
    let problem = check(s.raw_post("/v1/tenants", "", &long), ProblemKind::TooLarge);
    assert_eq!(fields(&problem).0, "body");
    check(s.raw(b"GET /v2 HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"), ProblemKind::Unknown);
    check(s.raw(b"PATCH /v1/tenants HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"), ProblemKind::Method);
    check(s.raw(b"GET /v1/tenants/%ff HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"), ProblemKind::Malformed);
    assert_eq!(s.get("/v1/tenants").as_array().unwrap().len(), 1, "still there, still answering");
}

#[test]
fn the_openapi_document_holds_every_route() {
    let s = fake::serve();
    let document = s.get("/openapi.json");
    assert_eq!(document["openapi"], json!("3.1.0"));
    assert!(document["info"]["title"].is_string() && document["info"]["version"].is_string());
    let routes: BTreeSet<String> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| item.as_object().unwrap().keys().map(move |m| format!("{} {path}", m.to_uppercase())))
        .collect();
    let expected: BTreeSet<String> = include_str!("routes.txt").lines().map(str::to_owned).collect();
    assert_eq!(routes, expected);
    // Each is there: none of them is answered as an unknown path or method.
    for route in &routes {
        let (method, path) = route.split_once(' ').unwrap();
        if path == "/v1/events" {
            continue;
        }
        let path = path.replace("{name}", "a").replace("{service}", "b").replace("{table}", "upper");
        let path = path.replace("{spec}", "ipip:198.51.100.2");
        let (_, _, body) =
            s.raw(format!("{method} {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").as_bytes());
        assert!(!body.contains("GET /openapi.json lists"), "{route}: {body}");
    }
}

/// The structural rules of OpenAPI 3.1 that a generator could break: every reference leads somewhere, every operation
/// has responses and a unique id, every path parameter is declared and required.
#[test]
fn the_openapi_document_is_sound() {
    let (_, document) = super::described();
    let document = serde_json::to_value(document).unwrap();
    let mut references = Vec::new();
    collect_references(&document, &mut references);
    assert!(!references.is_empty());
    for reference in references {
        let pointer = reference.strip_prefix('#').expect(&reference);
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id.to_owned()), "{id} twice");
            assert!(operation["summary"].is_string(), "{method} {path}");
            let responses = operation["responses"].as_object().unwrap();
            assert!(responses.keys().any(|status| status.starts_with('2')), "{method} {path}");
            let refusal = &responses["default"]["content"]["application/problem+json"]["schema"]["$ref"];
            assert_eq!(*refusal, json!("#/components/schemas/Problem"), "{method} {path}");
            let declared: BTreeSet<_> = operation["parameters"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|p| p["in"] == "path" && p["required"] == true)
                .map(|p| p["name"].as_str().unwrap().to_owned())
                .collect();
            let in_path: BTreeSet<_> = path
                .split('/')
                .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}').map(str::to_owned))
                .collect();
            assert_eq!(declared, in_path, "{method} {path}");
        }
    }
}

fn collect_references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
            map.values().for_each(|v| collect_references(v, found));
        }
        Value::Array(items) => items.iter().for_each(|v| collect_references(v, found)),
        _ => {}
    }
}

#[test]
fn a_tenant_speaks_for_itself_only_and_other_names_are_refused_alike() {
    let outside = fake::serve().acme();
    outside.ok(
        Method::POST,
        "/v1/tenants",
        Some(json!({"name": "beta", "addresses": ["192.168.1.1/24"], "vlan": 601})),
    );
    let Inside(s) = Inside::of(outside, "acme");
    assert_eq!(s.get("/v1/here")["tenant"], json!("acme"));
    let all = s.get("/v1/tenants");
    assert_eq!((all.as_array().unwrap().len(), &all[0]["name"]), (1, &json!("acme")));
    assert_eq!(s.get("/v1/tenants/acme")["name"], json!("acme"));
    let status = s.get("/v1/tenants/acme/status");
    assert_eq!((&status["init_pid"], &status["netns"]), (&Value::Null, &Value::Null), "the host's numbers");
    let there = s.refused(Method::GET, "/v1/tenants/beta", None);
    assert!(there.is(ProblemKind::NotYours) && there.status == 403, "{there:?}");
    for (method, path) in [
        (Method::GET, "/v1/tenants/nobody"),
        (Method::GET, "/v1/tenants/Acme"),
        (Method::GET, "/v1/tenants/beta/status"),
        (Method::GET, "/v1/tenants/beta/logs/web"),
        (Method::DELETE, "/v1/tenants/beta"),
        (Method::PUT, "/v1/tenants/beta/addresses"),
    ] {
        assert_eq!(s.refused(method, path, None), there, "{path}");
    }
}

#[test]
fn what_a_tenant_may_ask_for_is_on_the_list_and_nothing_else_is() {
    let Inside(s) = Inside::of(fake::serve().acme(), "acme");
    let routes: BTreeSet<&str> = include_str!("routes.txt").lines().collect();
    let mut refused = BTreeSet::new();
    for route in &routes {
        let (method, path) = route.split_once(' ').unwrap();
        let listed = super::inside::allows(&method.parse().unwrap(), path);
        if matches!(*route, "GET /v1/events") {
            continue;
        }
        let path = path.replace("{name}", "acme").replace("{service}", "none").replace("{table}", "upper");
        let (status, _, body) =
            s.raw(format!("{method} {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").as_bytes());
        assert_eq!(body.contains("urn:tenantd:problem:operator-only"), !listed, "{route}: {status} {body}");
        if !listed {
            assert_eq!(status, 403, "{route}");
            refused.insert(*route);
        }
    }
    let operators: BTreeSet<&str> = include_str!("operators.txt").lines().collect();
    assert_eq!(refused, operators, "a new route is the operator's until somebody decides otherwise");
}

#[test]
fn what_a_tenant_changes_is_kept_and_told_as_its_own_doing() {
    let outside = fake::serve().acme();
    let mut operators = outside.follow();
    operators("\r\n\r\n");
    let beta = json!({"name": "beta", "addresses": ["192.168.1.1/24"], "vlan": 601});
    let inside = Inside::of(outside, "acme").0;
    let mut own = inside.follow();
    own("\r\n\r\n");
    let addresses = json!(["192.168.1.7/24"]);
    inside.ok(Method::PUT, "/v1/tenants/acme/addresses", Some(addresses.clone()));
    assert_eq!(inside.get("/v1/tenants/acme/addresses"), addresses);
    assert!(operators("\n\n").contains(r#""origin":"tenant""#));
    let outside = crate::client::Client::new(inside.dir.path().join("api.sock")).unwrap();
    outside.call(Method::POST, "/v1/tenants", Some(beta.to_string().into_bytes())).unwrap();
    outside.call(Method::PUT, "/v1/tenants/acme/addresses", Some(b"[\"10.0.0.9/8\"]".to_vec())).unwrap();
    assert!(operators(r#""origin":"operator""#).contains("beta"));
    let told = own(r#""origin":"operator""#);
    assert!(told.contains(r#""origin":"tenant""#) && !told.contains("beta"), "{told}");
}

#[test]
fn from_inside_bodies_are_short_and_requests_are_counted() {
    let Inside(s) = Inside::of(fake::serve().acme(), "acme");
    let long = format!("[{}\"10.0.0.1/8\"]", " ".repeat(70_000));
    let (status, _, body) = s.raw_post("/v1/tenants/acme/services", "", &long);
    assert_eq!(status, 413, "{body}");
    let change = || s.raw_post("/v1/tenants/acme/services", "", "{").0;
    let answers: Vec<u16> = (0..100).map(|_| change()).collect();
    assert_eq!(answers[0], 400);
    assert!(answers.contains(&429), "{answers:?}");
    let (status, head, _) = s.raw_post("/v1/tenants/acme/services", "", "{");
    assert!(status == 400 || (status == 429 && head.contains("retry-after: 1")), "{head}");
}

#[test]
fn shares_are_made_listed_and_taken_back() {
    let s = fake::serve().acme();
    let request = json!({"directory": "/srv/common", "tenants": [{"name": "acme", "read_only": true}]});
    let shared = s.ok(Method::POST, "/v1/shares", Some(request));
    assert_eq!(shared["target"], json!("/shared/common"));
    assert_eq!(s.get("/v1/shares"), json!([shared]));
    assert_eq!(s.get("/v1/tenants/acme/shares")[0]["directory"], json!("/srv/common"));
    let Inside(inside) = Inside::of(fake::serve(), "acme");
    assert!(inside.refused(Method::GET, "/v1/shares", None).is(ProblemKind::OperatorOnly));
    let path = format!("/v1/tenants/acme/shares/{}", segment("/srv/common"));
    s.ok(Method::DELETE, &path, None);
    assert_eq!(s.get("/v1/shares"), json!([]));
    assert!(s.refused(Method::DELETE, &path, None).is(ProblemKind::Unknown));
    let bad = json!({"directory": "/etc", "tenants": [{"name": "acme"}]});
    assert_eq!(fields(&s.refused(Method::POST, "/v1/shares", Some(bad))).0, "directory");
}

#[test]
fn the_hosts_paths_are_not_told_inside() {
    let outside = fake::serve().acme();
    let request = json!({"directory": "/srv/secret-customer", "tenants": [{"name": "acme"}]});
    outside.ok(Method::POST, "/v1/shares", Some(request));
    let Inside(inside) = Inside::of(outside, "acme");
    for path in ["/v1/tenants", "/v1/tenants/acme", "/v1/tenants/acme/shares"] {
        let said = inside.get(path).to_string();
        assert!(said.contains("/shared/secret-customer") && !said.contains("/srv/"), "{path}: {said}");
    }
}

#[test]
fn limits_names_and_single_addresses_and_routes_are_changed() {
    let s = fake::serve().acme();
    let tenant = s.ok(Method::PATCH, "/v1/tenants/acme/limits", Some(json!({"memory": "512M", "cpu": 1.5})));
    assert_eq!(tenant["limits"]["memory"], json!(536_870_912));
    s.ok(Method::PATCH, "/v1/tenants/acme/limits", Some(json!({"memory": null})));
    assert_eq!(s.get("/v1/tenants/acme/limits"), json!({"cpu": 1.5}));
    let refused = s.refused(Method::PATCH, "/v1/tenants/acme/limits", Some(json!({"colour": 1})));
    assert_eq!(fields(&refused).0, "limit");
    let refused = s.refused(Method::PATCH, "/v1/tenants/acme/limits", Some(json!({"memory": [1]})));
    assert_eq!(fields(&refused).0, "memory");
    s.ok(Method::PUT, "/v1/tenants/acme/dns", Some(json!(["192.168.1.53"])));
    assert_eq!(s.get("/v1/tenants/acme/dns"), json!(["192.168.1.53"]));
    s.ok(Method::POST, "/v1/tenants/acme/addresses", Some(json!("fd00::1/64")));
    let path = format!("/v1/tenants/acme/addresses/{}", segment("192.168.1.1/24"));
    assert_eq!(s.ok(Method::DELETE, &path, None)["addresses"], json!(["fd00::1/64"]));
    assert_eq!(fields(&s.refused(Method::DELETE, &path, None)).0, "address");
    s.ok(Method::POST, "/v1/tenants/acme/routes", Some(json!({"to": "fd01::/64", "via": "fd00::2"})));
    let path = format!("/v1/tenants/acme/routes/{}", segment("fd01::/64"));
    assert_eq!(s.ok(Method::DELETE, &path, None)["routes"], json!([]));
    assert_eq!(s.ok(Method::POST, "/v1/tenants/acme/restart", None)["name"], json!("acme"));
}

#[test]
fn images_are_listed_and_a_bad_tarball_is_told_in_the_stream() {
    let s = fake::serve().acme();
    let images = s.get("/v1/images");
    assert_eq!((&images[0]["name"], &images[0]["used_by"]), (&json!("host"), &json!(["acme"])));
    let bad = json!({"name": "web", "tarball": "x.tar"});
    assert_eq!(fields(&s.refused(Method::POST, "/v1/images", Some(bad))).0, "tarball");
    let missing = json!({"name": "web", "tarball": "/nonexistent/x.tar"});
    let (status, head, body) = s.raw_post("/v1/images", "", &missing.to_string());
    assert!(status == 200 && head.contains("text/event-stream"), "{head}");
    assert!(body.contains("event: failed") && body.contains("/nonexistent/x.tar"), "{body}");
    assert!(s.refused(Method::DELETE, "/v1/images/web", None).is(ProblemKind::Invalid));
}

#[test]
fn metrics_are_told_as_text() {
    let s = fake::serve().acme();
    let (status, head, body) = s.raw(b"GET /metrics HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n");
    assert_eq!(status, 200, "{body}");
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"), "{head}");
    assert!(
        body.contains(
            "tenantd_tenant_info{tenant=\"acme\",vlan=\"600\",stack=\"inet0\",gid=\"524288\",trunk=\"\"} 1\n"
        ),
        "{body}"
    );
    assert!(body.contains("tenantd_tenants{state=\"ready\"} 1\n") && body.contains("# EOF\n"), "{body}");
}

#[test]
fn refusals_before_the_owner_are_in_the_audit_without_secrets_and_bounded() {
    let s = fake::serve().acme();
    s.refused(Method::POST, "/v1/tenants", Some(json!({"name": "x", "vlan": 4095, "addresses": []})));
    s.refused(Method::POST, "/v1/tenants?dry_run=true", Some(json!({"name": "x", "vlan": 4095, "addresses": []})));
    s.refused(Method::GET, "/v1/audit?limit=0", None);
    let db = json!({"name": "db", "template": "postgres", "set": {"password": ["sesame"]}});
    s.refused(Method::POST, "/v1/tenants/acme/services", Some(db));
    // What the owner refuses it tells itself.
    s.refused(Method::DELETE, "/v1/tenants/none", None);
    let rows = s.get("/v1/audit");
    let verbs: Vec<_> = rows.as_array().unwrap().iter().map(|row| row["verb"].as_str().unwrap()).collect();
    assert_eq!(verbs, ["add-tenant", "add-service"], "{rows}");
    assert!(rows[0]["reason"].as_str().unwrap().contains("vlan") && rows[0]["result"] == "refused", "{rows}");
    assert_eq!((&rows[1]["tenant"], &rows[1]["origin"]), (&json!("acme"), &json!("operator")));
    assert!(rows[0]["pid"] == std::process::id() && rows[0]["uid"] == nix::unistd::geteuid().as_raw(), "{rows}");
    assert!(!rows.to_string().contains("sesame"), "{rows}");

    let Inside(inside) = Inside::of(s, "acme");
    for _ in 0..40 {
        inside.refused(Method::DELETE, "/v1/tenants/beta", None);
    }
    assert!(inside.refused(Method::GET, "/v1/audit?tenant=beta", None).is(ProblemKind::NotYours));
    let own = inside.get("/v1/audit");
    let own = own.as_array().unwrap();
    // The operator's row about it is among them, without the words and the process.
    let told: Vec<_> = own.iter().filter(|row| row["origin"] == "tenant").collect();
    assert!((20..25).contains(&told.len()), "{told:?}");
    assert!(told.iter().all(|row| row["tenant"] == "acme" && row["verb"] == "remove-tenant"), "{told:?}");
    let operators: Vec<_> = own.iter().filter(|row| row["origin"] == "operator").collect();
    assert_eq!(operators.len(), 1);
    assert!(operators[0]["reason"].is_null() && operators[0]["pid"].is_null(), "{operators:?}");
}

#[test]
fn who_takes_passwords_is_in_the_audit() {
    let s = fake::serve().acme();
    s.get("/v1/export");
    let rows = s.get("/v1/audit");
    let row = &rows.as_array().unwrap()[0];
    assert!(row["verb"] == "export" && row["result"] == "done" && row["origin"] == "operator", "{rows}");
    assert_eq!(row["pid"], std::process::id());
}

#[test]
fn a_trace_costs_a_tenant_as_much_as_a_change() {
    let Inside(inside) = Inside::of(fake::serve().acme(), "acme");
    let path = "/v1/tenants/acme/trace?from=x&to=y";
    let too_many = (0..80).filter(|_| inside.refused(Method::GET, path, None).is(ProblemKind::TooMany)).count();
    assert!((10..=20).contains(&too_many), "{too_many}");
}
