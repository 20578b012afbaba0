#![allow(clippy::unwrap_used, clippy::expect_used)]
use super::*;
use tenant_init::service::{Ready, ServiceSpec};

fn context() -> Context {
    Context {
        service: "web".parse().unwrap(),
        tenant: "acme".parse().unwrap(),
        address: "192.168.1.1".parse().unwrap(),
    }
}

fn set(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn ours(name: &str) -> Template {
    find(Path::new("/nonexistent"), name).unwrap()
}

fn rendered(name: &str, pairs: &[(&str, &str)]) -> ServiceSpec {
    render(&ours(name), &set(pairs), &context()).unwrap()
}

fn content<'a>(spec: &'a ServiceSpec, path: &str) -> &'a str {
    &spec.files.iter().find(|file| file.path == path).unwrap().content
}

#[test]
fn our_templates_render_with_their_defaults() {
    for name in known(Path::new("/nonexistent")) {
        let template = ours(&name);
        let spec = rendered(&name, &[]);
        assert!(!template.changes.is_empty() && template.package.is_some(), "{name} says what it changes");
        assert_ne!(spec.ready, Ready::None, "{name}");
        let text = serde_json::to_string(&spec).unwrap();
        let left = template.settings.keys().find(|word| text.contains(&format!("{{{word}}}")));
        assert_eq!(left, None, "{name}");
        assert_eq!(rendered(&name, &[]), spec, "pure");
        assert_eq!(spec.new_privileges, name == "openssh", "{name}");
    }
}

#[test]
fn nginx_changes_nothing_that_it_is_not_told_to() {
    let spec = rendered("nginx", &[]);
    assert_eq!(spec.argv, ["/usr/sbin/nginx", "-g", "daemon off;"]);
    assert_eq!((spec.ready, spec.prepare.len(), spec.files.len()), (Ready::Tcp(80), 0, 1));
    assert_eq!(content(&spec, "/var/www/html/index.html"), "server of acme\n");
    assert!(spec.files[0].keep);
    let spec = rendered("nginx", &[("port", "8080"), ("body", "hello {port} {tenant}")]);
    assert_eq!((spec.ready, spec.prepare.len()), (Ready::Tcp(8080), 1));
    assert!(spec.prepare[0].iter().any(|word| word.contains("8080") && word.contains("listen")), "{:?}", spec.prepare);
    // What a value brings in is not filled in again.
    assert_eq!(content(&spec, "/var/www/html/index.html"), "hello {port} {tenant}\n");
}

#[test]
fn dnsmasq_records_become_lines() {
    let path = "/etc/dnsmasq.d/tenantd.conf";
    let spec = rendered("dnsmasq", &[("records", "www.acme.lan=192.168.1.1; printer=fd00::5;")]);
    let conf = content(&spec, path);
    assert!(conf.contains("\nhost-record=www.acme.lan,192.168.1.1\nhost-record=printer,fd00::5\n"), "{conf}");
    let spec = rendered("dnsmasq", &[]);
    assert!(content(&spec, path).contains("\nlocal=/#/\n"));
    assert!(content(&spec, path).contains("\nhost-record=acme,192.168.1.1\n"));
    let spec = rendered("dnsmasq", &[("upstream", "192.168.1.53")]);
    assert_eq!(spec.files.len(), 1);
    let conf = content(&spec, path);
    assert!(conf.contains("\nserver=192.168.1.53\n") && !conf.contains("local=/#/"), "{conf}");
}

#[test]
fn parts_of_a_setting_that_was_not_set_are_left_out() {
    let spec = rendered("vsftpd", &[]);
    assert_eq!((spec.files.len(), spec.prepare.len()), (0, 0));
    let spec = rendered("vsftpd", &[("user", "ada")]);
    assert_eq!((spec.files.len(), spec.prepare.len()), (0, 1));
    let spec = rendered("vsftpd", &[("user", "ada"), ("password", "tide-Pool_77")]);
    assert_eq!((spec.files.len(), spec.prepare.len()), (1, 1));
    assert_eq!(spec.files[0].content, "ada:tide-Pool_77\n");
    let error = render(&ours("vsftpd"), &set(&[("password", "tide-Pool_77")]), &context()).unwrap_err();
    assert!(matches!(error, TemplateError::Needs { .. }), "{error}");
    let redis = |pairs| content(&rendered("redis", pairs), "/etc/redis/tenantd.conf").to_owned();
    assert!(!redis(&[]).contains("requirepass"));
    assert!(redis(&[("password", "tide-Pool_77")]).ends_with("\nrequirepass tide-Pool_77\n"));
    let allow = |pairs| content(&rendered("postgresql", pairs), "/etc/postgresql-common/tenantd-allow").to_owned();
    assert_eq!(allow(&[("allow", "10.0.0.0/8")]), "host all all 10.0.0.0/8 scram-sha-256\n");
    assert_eq!(allow(&[("allow", "")]), "");
}

#[test]
fn unknown_names_are_answered_with_the_known_ones() {
    let error = find(Path::new("/nonexistent"), "apache").unwrap_err();
    let known = "dnsmasq, nginx, openssh, postgresql, redis, vsftpd";
    assert_eq!(error.to_string(), format!("template \"apache\" is unknown; known are {known}"));
    assert_eq!(error.invalid().field, "template");
    assert!(matches!(find(Path::new("/etc"), "../etc/x"), Err(TemplateError::Unknown { .. })));
    let error = render(&ours("nginx"), &set(&[("prot", "80")]), &context()).unwrap_err();
    assert_eq!(error.to_string(), "setting \"prot\" is unknown; known are body, port, workers");
    assert_eq!(error.invalid().value, "prot");
}

#[test]
fn values_are_checked_by_kind_and_cannot_begin_a_line() {
    for (template, name, value) in [
        ("nginx", "port", "0"),
        ("nginx", "port", "65536"),
        ("nginx", "port", "+80"),
        ("nginx", "port", "80; root /"),
        ("nginx", "port", ""),
        ("nginx", "body", "a\nb"),
        ("nginx", "body", "a\u{0}b"),
        ("nginx", "body", "a\u{85}b"),
        ("nginx", "workers", "auto"),
        ("vsftpd", "upload", "YES"),
        ("vsftpd", "banner", "x\rlocal_enable=YES"),
        ("vsftpd", "user", "-o"),
        ("vsftpd", "user", "Ada"),
        ("vsftpd", "user", "a:b"),
        ("vsftpd", "user", "a;reboot"),
        ("dnsmasq", "records", "a=1.2.3.4;b"),
        ("dnsmasq", "records", "a_b=1.2.3.4"),
        ("dnsmasq", "records", "a=1.2.3"),
        ("dnsmasq", "records", "-a=1.2.3.4"),
        ("postgresql", "allow", "10.0.0.1/8"),
        ("postgresql", "allow", "10.0.0.0/8 trust"),
        ("postgresql", "allow", "all"),
    ] {
        let error = render(&ours(template), &set(&[(name, value)]), &context()).unwrap_err();
        assert!(matches!(&error, TemplateError::Value { setting, .. } if setting == name), "{name}={value:?}: {error}");
        assert_eq!(error.invalid().field, format!("set.{name}"));
    }
    let long = "x".repeat(5000);
    assert!(render(&ours("nginx"), &set(&[("body", &long)]), &context()).is_err());
}

#[test]
fn a_refused_password_is_not_repeated() {
    for word in ["short", "with space", "quote\"-quote", "back\\slash", "line\nbreak-x"] {
        let error = render(&ours("redis"), &set(&[("password", word)]), &context()).unwrap_err();
        let (told, words) = (error.invalid(), format!("{error} {error:?}"));
        assert_eq!(told.field, "set.password");
        assert!(!told.value.contains(word) && !words.contains(word), "{words}");
    }
}

#[test]
fn a_user_template_wins_and_a_broken_one_harms_only_itself() {
    let dir = tempfile::tempdir().unwrap();
    let mine = "description = \"mine\"\nneeds = \"/bin/true\"\ncommand = [\"/bin/true\", \"{tenant}\"]\n";
    fs::write(dir.path().join("nginx.toml"), mine).unwrap();
    fs::write(dir.path().join("broken.toml"), "description = 1").unwrap();
    fs::write(dir.path().join("notes.txt"), "").unwrap();
    assert_eq!(known(dir.path()), ["broken", "dnsmasq", "nginx", "openssh", "postgresql", "redis", "vsftpd"]);
    let template = find(dir.path(), "nginx").unwrap();
    assert_eq!(render(&template, &set(&[]), &context()).unwrap().argv, ["/bin/true", "acme"]);
    assert!(matches!(find(dir.path(), "broken"), Err(TemplateError::Parse { .. })));
    assert!(find(dir.path(), "vsftpd").is_ok());
}

#[test]
fn faults_of_a_template_are_named() {
    let base = "description = \"x\"\nneeds = \"/bin/true\"\ncommand = [\"/bin/true\"]\n";
    let dir = tempfile::tempdir().unwrap();
    for (n, (more, what)) in [
        ("[[files]]\npath = \"etc/x\"\ncontent = \"\"\n", "path"),
        ("[[files]]\npath = \"/a/../../b\"\ncontent = \"\"\n", "path"),
        ("[[files]]\npath = \"/a/\"\ncontent = \"\"\n", "path"),
        ("[[files]]\npath = \"\"\ncontent = \"\"\n", "path"),
        ("[[files]]\npath = \"/a\"\nmode = \"4755\"\ncontent = \"\"\n", "mode"),
        ("[[directories]]\npath = \"/a\"\nmode = \"99\"\n", "mode"),
        ("[[files]]\npath = \"/a\"\ncontent = \"{nothing}\"\n", "placeholder"),
        ("[[files]]\npath = \"/a\"\ncontent = \"\"\nwhen = \"b\"\n", "when"),
        ("[[prepare]]\ncommand = []\n", "command"),
        ("ready = \"tcp\"\n", "ready"),
        ("[settings.tenant]\nkind = \"text\"\ndoc = \"\"\n", "settings"),
        ("[settings.a]\nkind = \"records\"\ndoc = \"\"\ndefault = \"\"\n", "settings"),
        ("[settings.a]\nkind = \"secret\"\ndoc = \"\"\noptional = true\n", "settings"),
        ("[settings.password]\nkind = \"text\"\ndoc = \"\"\noptional = true\n", "settings"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("t{n}");
        fs::write(dir.path().join(format!("{name}.toml")), format!("{base}{more}")).unwrap();
        let error = find(dir.path(), &name).and_then(|template| render(&template, &set(&[]), &context())).unwrap_err();
        assert!(matches!(&error, TemplateError::Template { what: found, .. } if *found == what), "{more}: {error}");
    }
    fs::write(dir.path().join("u.toml"), format!("{base}colour = \"red\"\n")).unwrap();
    assert!(matches!(find(dir.path(), "u"), Err(TemplateError::Parse { .. })));
}

#[test]
fn a_setting_without_default_has_to_be_set() {
    let text = "description = \"x\"\nneeds = \"/bin/true\"\ncommand = [\"/bin/true\", \"{who}\"]\n[settings.who]\nkind = \"name\"\ndoc = \"a host\"\n";
    let template: Template = toml::from_str(text).unwrap();
    assert!(matches!(render(&template, &set(&[]), &context()), Err(TemplateError::Missing { .. })));
    assert_eq!(render(&template, &set(&[("who", "a.b")]), &context()).unwrap().argv[1], "a.b");
}
