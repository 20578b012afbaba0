//! The program as a user sees it: what it asks of the daemon, what it prints, its exit codes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod stand_in;

use std::path::Path;

use serde_json::{Value, json};

use stand_in::{acme, code, daemon, err, out, status, tenantd};

const SERVICE: &str = r#"{"name":"web","state":"running","pid":12,"restarts":0,"last_exit":null}"#;

#[test]
fn add_tenant_prints_one_line() {
    let steps = json!([{"name": "store", "us": 200}, {"name": "stack", "us": 1100}, {"name": "probe", "us": 940}]);
    let daemon = daemon(&[("POST /v1/tenants", 201, json!({"tenant": acme(), "steps": steps, "dry_run": false}))]);
    let args = [
        "add-tenant",
        "acme",
        "--address",
        "192.168.1.1/24",
        "--address",
        "fd00::1/64",
        "--vlan",
        "600",
        "--gid",
        "524288",
        "--tunnel",
        "gre:198.51.100.2,key=7,prefix=10.0.0.0/8",
        "--dns",
        "192.168.1.53",
        "--gateway",
        "192.168.1.254",
        "--route",
        "10.0.0.0/8,via=192.168.1.254",
        "--route",
        "172.16.0.0/12",
    ];
    let line = daemon.done(&args);
    let (head, tail) = line.split_once(" in ").unwrap();
    assert_eq!(head, "tenant acme ready: inet0 dev0 vlan600 gid 524288");
    let (total, steps) = tail.split_once(" ms ").unwrap();
    assert!(total.parse::<f64>().unwrap() > 0.0);
    assert_eq!(steps, "(store 0.2, stack 1.1, probe 0.9)\n");
    let expected = json!({
        "name": "acme", "addresses": ["192.168.1.1/24", "fd00::1/64"], "vlan": 600, "gid": 524_288, "device": null,
        "tunnels": [{"kind": "gre", "remote": "198.51.100.2", "local": null, "key": 7, "prefixes": ["10.0.0.0/8"]}],
        "dns": ["192.168.1.53"], "gateway": "192.168.1.254",
        "routes": [{"to": "10.0.0.0/8", "via": "192.168.1.254"}, {"to": "172.16.0.0/12", "via": null}],
        "privileges": [], "image": null, "ephemeral": false, "limits": {}
    });
    assert_eq!(daemon.asked(), [("POST /v1/tenants".to_owned(), expected)]);
}

#[test]
fn a_dry_run_prints_the_plan() {
    let steps = json!([{"name": "make stack inet0", "us": 0}, {"name": "make port p600", "us": 0}]);
    let answer = json!({"tenant": acme(), "steps": steps, "dry_run": true});
    let daemon = daemon(&[("POST /v1/tenants?dry_run=true", 200, answer)]);
    assert_eq!(
        daemon.done(&["add-tenant", "acme", "--address", "192.168.1.1/24", "--dry-run"]),
        "tenant acme would be: inet0 dev0 vlan600 gid 524288\n  1. make stack inet0\n  2. make port p600\n\
         nothing was changed (--dry-run)\n"
    );
    daemon.asked();
}

#[test]
fn verbs_that_ask_print_words_or_the_answer_itself() {
    let map = json!({
        "upper": [{"tenant": "acme", "row": "inet0 <-> gid 524288"}],
        "lower": [{"tenant": "acme", "row": "(inet0, dev0) <-> vlan600"}],
        "access": [
            {"tenant": "acme", "row": "ipip (198.51.100.2, 203.0.113.1) <-> vlan600"},
            {"tenant": "beta", "row": "gre (198.51.100.30, 203.0.113.1, key 7) <-> vlan601"}
        ]
    });
    let state = json!({
        "instance": "main", "version": "0.1.0", "trunk": "trunk-main", "access": "connected", "tenants": 1,
        "half_done": []
    });
    let daemon = daemon(&[
        ("GET /v1/tenants", 200, json!([acme()])),
        ("GET /v1/tenants/acme", 200, acme()),
        ("GET /v1/map", 200, map.clone()),
        ("GET /v1/map/access", 200, map["access"].clone()),
        ("GET /v1/status", 200, state),
        ("GET /v1/tenants/acme/status", 200, status(4711, 4_026_532_000)),
    ]);
    assert_eq!(
        daemon.done(&["list"]),
        "NAME  STACK  DEVICE  VLAN  GID     ADDRESSES       TUNNELS  SERVICES\n\
         acme  inet0  dev0    600   524288  192.168.1.1/24  1        1\n"
    );
    assert_eq!(
        daemon.done(&["show", "acme"]),
        "name        acme\nstack       inet0\ndevice      dev0\nvlan        600\ngid         524288..=589823\n\
         mac         02:00:00:00:12:58\naddresses   192.168.1.1/24\ntunnel      ipip:198.51.100.2\n\
         route       10.0.0.0/8,via=192.168.1.254\nservice     web (template nginx root=/srv)\nimage       host\ngeneration  3\n"
    );
    assert_eq!(
        daemon.done(&["map"]),
        "upper (stack <-> process group)\n  inet0 <-> gid 524288  acme\n\n\
         lower (stack, device <-> VLAN)\n  (inet0, dev0) <-> vlan600  acme\n\n\
         access (tunnel <-> VLAN)\n  ipip (198.51.100.2, 203.0.113.1) <-> vlan600         acme\n  \
         gre (198.51.100.30, 203.0.113.1, key 7) <-> vlan601  beta\n"
    );
    assert!(daemon.done(&["map", "access"]).starts_with("ipip (198.51.100.2, 203.0.113.1) <-> vlan600 "));
    assert_eq!(
        daemon.done(&["status"]),
        "instance  main\nversion   0.1.0\ntrunk     trunk-main\naccess    connected\ntenants   1\nstore     ok, revision 0\n"
    );
    assert_eq!(
        daemon.done(&["status", "acme"]),
        "name      acme\nstate     ready\ninit pid  4711\nnetns     4026532000\nmtu       1480\n\
         received  5 packets, 500 bytes\nsent      4 packets, 400 bytes\ndropped   2 spoof\n\
         service   web running, pid 12, 1 restarts, last signal 9\n"
    );
    let said = |args: &[&str]| serde_json::from_str::<Value>(&daemon.done(args)).unwrap();
    assert_eq!(said(&["list", "--json"]), json!([acme()]));
    assert_eq!(said(&["--json", "show", "acme"]), acme());
    assert_eq!(said(&["map", "--json"]), map);
    assert_eq!(said(&["map", "access", "--json"]), map["access"]);
    assert_eq!(said(&["status", "acme", "--json"]), status(4711, 4_026_532_000));
    assert_eq!(daemon.asked().len(), 11);
}

#[test]
fn verbs_that_change_ask_for_the_right_thing() {
    let service = serde_json::from_str::<Value>(SERVICE).unwrap();
    let daemon = daemon(&[
        ("DELETE /v1/tenants/acme", 204, Value::Null),
        ("DELETE /v1/tenants/acme?force=true", 204, Value::Null),
        ("POST /v1/tenants/acme/tunnels", 200, acme()),
        ("DELETE /v1/tenants/acme/tunnels/gre%3A198.51.100.3%2Ckey%3D7", 200, acme()),
        ("PUT /v1/tenants/acme/addresses", 200, acme()),
        ("PUT /v1/tenants/acme/routes", 200, acme()),
        ("PUT /v1/tenants/acme/filter", 200, acme()),
        ("POST /v1/tenants/acme/addresses", 200, acme()),
        ("DELETE /v1/tenants/acme/addresses/192.168.1.7%2F24", 200, acme()),
        ("POST /v1/tenants/acme/routes", 200, acme()),
        ("DELETE /v1/tenants/acme/routes/10.0.0.0%2F8", 200, acme()),
        ("PUT /v1/tenants/acme/dns", 200, acme()),
        ("PATCH /v1/tenants/acme/limits", 200, acme()),
        ("POST /v1/tenants/acme/restart", 200, acme()),
        ("POST /v1/shares", 200, shared()),
        ("GET /v1/shares", 200, json!([shared()])),
        ("DELETE /v1/images/web", 204, Value::Null),
        ("DELETE /v1/tenants/beta/shares/%2Fsrv%2Fa%20b", 204, Value::Null),
        ("POST /v1/tenants/acme/services", 201, service.clone()),
        ("DELETE /v1/tenants/acme/services/web", 204, Value::Null),
        ("POST /v1/tenants/acme/services/web/restart", 200, service),
    ]);
    let asked = |args: &[&str]| {
        let printed = daemon.done(args);
        let mut asked = daemon.asked();
        assert_eq!(asked.len(), 1, "{args:?}");
        (printed, asked.remove(0).1)
    };
    assert_eq!(asked(&["remove-tenant", "acme"]).0, "tenant acme removed\n");
    assert_eq!(asked(&["remove-tenant", "acme", "--force", "--json"]).0, "");
    let (printed, body) = asked(&["add-tunnel", "acme", "gre:198.51.100.3,key=7"]);
    assert!(printed.starts_with("name  "), "{printed}");
    assert_eq!(body["key"], json!(7));
    asked(&["remove-tunnel", "acme", "gre:198.51.100.3,key=7"]);
    assert_eq!(
        asked(&["set-address", "acme", "192.168.1.1/24", "fd00::1/64"]).1,
        json!(["192.168.1.1/24", "fd00::1/64"])
    );
    assert_eq!(asked(&["set-route", "acme", "10.0.0.0/8"]).1, json!([{"to": "10.0.0.0/8", "via": null}]));
    assert_eq!(asked(&["set-route", "acme"]).1, json!([]));
    let rule = json!({"action": "accept", "proto": "tcp", "port": "22", "from": "192.168.1.0/24"});
    let said = ["set-filter", "acme", "--default", "drop", "--rule", "accept,tcp/22,from=192.168.1.0/24"];
    assert_eq!(asked(&said).1, json!({"default": "drop", "rules": [rule]}));
    assert_eq!(asked(&["set-filter", "acme"]).1, json!({"default": "accept", "rules": []}));
    assert_eq!(asked(&["add-address", "acme", "192.168.1.7/24"]).1, json!("192.168.1.7/24"));
    assert!(asked(&["remove-address", "acme", "192.168.1.7/24"]).0.starts_with("name  "));
    assert_eq!(asked(&["add-route", "acme", "10.0.0.0/8,via=192.168.1.2"]).1["via"], json!("192.168.1.2"));
    asked(&["remove-route", "acme", "10.0.0.0/8"]);
    assert_eq!(asked(&["set-dns", "acme", "192.168.1.53"]).1, json!(["192.168.1.53"]));
    let (_, body) = asked(&["set-limits", "acme", "memory=512M", "cpu=none"]);
    assert_eq!(body, json!({"memory": "512M", "cpu": null}));
    asked(&["restart-tenant", "acme"]);
    let (printed, body) = asked(&["share", "/srv/a b", "acme", "beta:ro", "--create"]);
    assert_eq!(printed, "/srv/a b  /shared/a b  acme beta:ro\n");
    let tenants = json!([{"name": "acme", "read_only": false}, {"name": "beta", "read_only": true}]);
    assert_eq!(body, json!({"directory": "/srv/a b", "tenants": tenants, "create": true}));
    assert!(asked(&["list-shares"]).0.ends_with("/srv/a b   /shared/a b  acme beta:ro\n"));
    assert_eq!(asked(&["image", "remove", "web"]).0, "image web removed\n");
    assert_eq!(asked(&["unshare", "/srv/a b", "beta"]).0, "tenant beta sees /srv/a b no longer\n");
    let (printed, body) = asked(&["add-service", "acme", "web", "--template", "nginx", "--set", "root=/srv=x"]);
    assert_eq!(printed, "service web running, pid 12, 0 restarts\n");
    assert_eq!(body, json!({"name": "web", "template": "nginx", "set": {"root": "/srv=x"}, "command": []}));
    let (_, body) = asked(&["add-service", "acme", "web", "--", "/bin/echo", "--json", "-f"]);
    assert_eq!(body["command"], json!(["/bin/echo", "--json", "-f"]));
    assert_eq!(asked(&["restart-service", "acme", "web"]).0, "service web running, pid 12, 0 restarts\n");
    assert_eq!(asked(&["remove-service", "acme", "web"]).0, "service web of acme removed\n");
}

fn shared() -> Value {
    let tenants = json!([{"name": "acme", "read_only": false}, {"name": "beta", "read_only": true}]);
    json!({"directory": "/srv/a b", "target": "/shared/a b", "tenants": tenants})
}

#[test]
fn an_image_is_asked_for_and_how_it_goes_is_told() {
    let done = json!({
        "name": "web", "kind": "tarball", "source": "/x.tar", "made": 1, "entries": 3, "bytes": 2_097_152, "used_by": [],
        "broken": null
    });
    let failed = json!({"type": "urn:tenantd:problem:failed", "title": "x", "status": 503, "detail": "no tarball"});
    let events = |kind: &str, data: &Value| {
        json!(format!("event: progress\ndata: {{\"entries\":3}}\n\n: keep\n\nevent: {kind}\ndata: {data}\n\n"))
    };
    let daemon = |events| daemon(&[("POST /v1/images", 200, events), ("GET /v1/images", 200, json!([done]))]);
    let made = daemon(events("done", &done));
    let output = made.run(&["image", "import", "web", "/x.tar"]);
    assert_eq!(out(&output), "image web made: 3 files, 2 MB\n");
    assert_eq!(err(&output), "3 entries\n", "how it goes");
    assert_eq!(made.asked()[0].1, json!({"name": "web", "tarball": "/x.tar", "debootstrap": null}));
    let build = ["image", "build", "web", "--from", "debootstrap", "--include", "nginx,redis", "--json"];
    assert_eq!(serde_json::from_str::<Value>(&made.done(&build)).unwrap(), done);
    let asked = made.asked().remove(0).1;
    assert_eq!((&asked["debootstrap"]["suite"], &asked["tarball"]), (&json!("bookworm"), &Value::Null));
    assert_eq!(asked["debootstrap"]["include"], json!(["nginx", "redis"]));
    assert!(made.done(&["image", "list"]).contains("web   tarball  2   -        /x.tar"));
    made.asked();
    let output = daemon(events("failed", &failed)).run(&["image", "import", "web", "/x.tar"]);
    assert_eq!((code(&output), err(&output).contains("no tarball")), (1, true));
    let output = daemon(json!("event: progress\ndata: {}\n\n")).run(&["image", "import", "web", "/x.tar"]);
    assert_eq!((code(&output), err(&output).contains("daemon ended")), (1, true));
}

#[test]
fn logs_are_printed_as_they_are() {
    let daemon = daemon(&[
        ("GET /v1/tenants/acme/logs/web", 200, json!("one\ntwo\n")),
        ("GET /v1/tenants/acme/logs/web?follow=true", 200, json!("three\n")),
    ]);
    assert_eq!(daemon.done(&["logs", "acme", "web"]), "one\ntwo\n");
    assert_eq!(daemon.done(&["logs", "acme", "web", "-f"]), "three\n");
    daemon.asked();
}

#[test]
fn a_refusal_is_exit_code_1_in_the_daemons_words() {
    let problem = json!({
        "type": "urn:tenantd:problem:conflict", "title": "Another tenant holds this", "status": 409,
        "detail": "vlan: \"600\" refused: is taken by tenant acme",
        "field": "vlan", "value": "600", "rule": "is taken by tenant acme"
    });
    let daemon = daemon(&[("POST /v1/tenants", 409, problem.clone()), ("GET /v1/status", 200, json!({"strange": 1}))]);
    let args = ["add-tenant", "beta", "--address", "192.168.1.1/24", "--vlan", "600"];
    let output = daemon.run(&args);
    assert_eq!(code(&output), 1);
    assert_eq!(err(&output), "tenantd: vlan: \"600\" refused: is taken by tenant acme\n");
    assert_eq!(out(&output), "");
    let output = daemon.run(&[&args[..], &["--json"]].concat());
    assert_eq!(code(&output), 1);
    assert_eq!(serde_json::from_str::<Value>(&err(&output)).unwrap(), problem);
    // Answers we do not understand are failures, not panics.
    for args in [&["status"][..], &["list"]] {
        let output = daemon.run(args);
        assert_eq!(code(&output), 1);
        assert!(err(&output).contains("does not understand"), "{}", err(&output));
    }
}

#[test]
fn wrong_usage_is_exit_code_2_and_nothing_is_asked() {
    let daemon = daemon(&[]);
    let add = |more: &[&'static str]| [&["add-tenant", "acme", "--address", "192.168.1.1/24"][..], more].concat();
    let cases: [(Vec<&str>, &str, &str); 34] = [
        (vec!["add-tenant", "Acme", "--address", "192.168.1.1/24"], "Acme", "DNS label"),
        (vec!["add-tenant", "acme"], "--address", "required"),
        (vec!["add-tenant", "acme", "--address", "192.168.1.1"], "192.168.1.1", "CIDR"),
        (vec!["add-tenant", "acme", "--address", "192.168.1.0/24"], "192.168.1.0/24", "network address"),
        (vec!["add-tenant", "acme", "--address", "224.0.0.1/24"], "224.0.0.1/24", "multicast"),
        (add(&["--address", "192.168.1.1/25"]), "192.168.1.1/25", "given twice"),
        (add(&["--vlan", "0"]), "vlan", "1..=4094"),
        (add(&["--vlan", "4095"]), "4095", "1..=4094"),
        (add(&["--vlan", "six"]), "six", "1..=4094"),
        (add(&["--gid", "1000"]), "1000", "65536"),
        (add(&["--device", "a b"]), "device", "device name"),
        (add(&["--device", "eth1", "--vlan", "600"]), "vlan", "has no VLAN"),
        (add(&["--tunnel", "sit:198.51.100.2"]), "sit", "ipip, gre or vxlan"),
        (add(&["--tunnel", "ipip:198.51.100.2,key=1"]), "key", "ipip has no key"),
        (add(&["--tunnel", "vxlan:198.51.100.2,key=16777216"]), "16777216", "24 bits"),
        (add(&["--tunnel", "ipip:198.51.100.2,local=198.51.100.2"]), "remote", "must not be the local"),
        (add(&["--tunnel", "ipip:198.51.100.2", "--tunnel", "ipip:198.51.100.2"]), "tunnel", "given twice"),
        (add(&["--route", "10.0.0.1/8"]), "10.0.0.1/8", "host bits"),
        (add(&["--dns", "x"]), "--dns", "x"),
        (add(&["--colour", "red"]), "--colour", "unexpected"),
        (vec!["set-address", "acme", "10.0.0.1/8", "10.0.0.1/8"], "10.0.0.1/8", "given twice"),
        (vec!["add-tunnel", "acme", "ipip"], "ipip", "KIND:REMOTE"),
        (vec!["add-service", "acme", "web"], "--template", "required"),
        (vec!["add-service", "acme", "Web", "--template", "nginx"], "service", "DNS label"),
        (vec!["add-service", "acme", "web", "--template", "nginx", "--", "x"], "--template", "cannot be used with"),
        (vec!["add-service", "acme", "web", "--template", "nginx", "--set", "root"], "root", "KEY=VALUE"),
        (vec!["set-limits", "acme", "memory"], "memory", "NAME=VALUE"),
        (vec!["set-limits", "acme", "colour=red"], "colour", "must be one of"),
        (vec!["share", "/srv/a", "acme:rw"], "rw", "must be ro"),
        (vec!["share", "/srv/a"], "NAME", "required"),
        (vec!["show"], "name", "needed on the host"),
        (vec!["map", "middle"], "middle", "upper, lower, access"),
        (vec!["--instance", "A", "list"], "instance", "DNS label"),
        (vec!["frobnicate"], "frobnicate", "unrecognized"),
    ];
    for (args, value, rule) in cases {
        let output = daemon.run(&args);
        let text = err(&output);
        assert_eq!(code(&output), 2, "{args:?}: {text}");
        assert!(text.contains(value) && text.contains(rule), "{args:?}: {text}");
    }
    assert!(daemon.asked().is_empty());
}

#[test]
fn no_daemon_says_how_to_start_one() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("api.sock");
    let path = socket.display();
    let expected =
        format!("tenantd: the daemon is not running at {path}; start it with: tenantd run --socket {path}\n");
    let output = tenantd(&socket, &["list"]);
    assert_eq!((code(&output), err(&output)), (1, expected.clone()));
    // A socket whose daemon died says the same.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let output = tenantd(&socket, &["list"]);
    assert_eq!((code(&output), err(&output)), (1, expected));
    let output = tenantd(&socket, &["list", "--json"]);
    let problem: Value = serde_json::from_str(&err(&output)).unwrap();
    assert_eq!(problem["type"], json!("urn:tenantd:problem:not-running"));
}

#[test]
fn every_verb_has_help_with_an_example() {
    let help = |args: &[&str]| {
        let output = tenantd(Path::new("/nonexistent"), &[args, &["--help"]].concat());
        assert_eq!(code(&output), 0, "{args:?}");
        out(&output)
    };
    let text = help(&[]);
    let verbs: Vec<&str> = text
        .lines()
        .skip_while(|l| *l != "Commands:")
        .skip(1)
        .take_while(|l| !l.is_empty())
        .map(|l| l.split_whitespace().next().unwrap())
        .filter(|verb| *verb != "help")
        .collect();
    assert!(verbs.len() >= 26, "{verbs:?}");
    for verb in verbs {
        let text = help(&[verb]);
        let example = ["Example", "Examples"].map(|word| format!("{word}:\n  tenantd {verb}"));
        assert!(example.iter().any(|example| text.contains(example)), "{text}");
        assert!(text.contains("--json") && text.contains("--socket"), "{text}");
    }
}

#[test]
fn the_daemons_settings_are_checked_before_anything_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tenantd.toml");
    let run = |text: &str, more: &[&str]| {
        std::fs::write(&file, text).unwrap();
        let output = tenantd(&dir.path().join("s"), &[&["run", "--config", file.to_str().unwrap()], more].concat());
        (code(&output), err(&output))
    };
    for (text, more, value, rule) in [
        ("instnce = \"x\"\n", &[][..], "instnce", "unknown field"),
        ("instance = 5\n", &[], "instance", "invalid type"),
        ("instance = \"A\"\n", &[], "instance: \"A\"", "DNS label"),
        ("", &["--instance", "tenletters"], "tenletters", "at most 9"),
        ("", &["--access", "tcp://x"], "tcp://x", "unix:///PATH"),
        ("", &["--trunk", "a/b"], "a/b", "device name"),
        ("[", &[], "tenantd.toml", "line 1"),
    ] {
        let (code, text) = run(text, more);
        assert_eq!(code, 2, "{text}");
        assert!(text.contains(value) && text.contains(rule), "{text}");
    }
    let output = tenantd(&dir.path().join("s"), &["run", "--config", "/nonexistent.toml"]);
    assert_eq!(code(&output), 2);
    assert!(err(&output).contains("/nonexistent.toml"), "{}", err(&output));
}
