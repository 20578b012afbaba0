#![allow(clippy::unwrap_used, clippy::expect_used)]
use super::*;

fn context() -> Context {
    Context {
        dir: "/var/lib/tenantd/main/tenants/acme/services/web".into(),
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

fn content<'a>(rendered: &'a Rendered, path: &str) -> &'a str {
    &rendered.files.iter().find(|file| file.path == Path::new(path)).unwrap().content
}

#[test]
fn our_templates_render_with_their_defaults() {
    for name in known(Path::new("/nonexistent")) {
        let template = ours(&name);
        let rendered = render(&template, &set(&[]), &context()).unwrap();
        assert_eq!(rendered.argv[0], template.needs.to_str().unwrap(), "{name}");
        for file in &rendered.files {
            let left = template.settings.keys().find(|word| file.content.contains(&format!("{{{word}}}")));
            assert_eq!(left, None, "{name} {:?}", file.path);
        }
        assert_eq!(render(&template, &set(&[]), &context()).unwrap(), rendered, "pure");
    }
}

#[test]
fn nginx_gets_its_settings() {
    let rendered =
        render(&ours("nginx"), &set(&[("port", "8080"), ("body", "hello {port} {dir}")]), &context()).unwrap();
    assert!(content(&rendered, "nginx.conf").contains("listen [::]:8080 default_server;"));
    // What a value brings in is not filled in again.
    assert_eq!(content(&rendered, "www/index.html"), "hello {port} {dir}\n");
    let rendered = render(&ours("nginx"), &set(&[]), &context()).unwrap();
    assert_eq!(content(&rendered, "www/index.html"), "server of acme\n");
    assert!(content(&rendered, "nginx.conf").contains("events { worker_connections 1024; }"));
}

#[test]
fn dnsmasq_records_become_lines() {
    let records = "www.acme.lan=192.168.1.1; printer=fd00::5;";
    let rendered = render(&ours("dnsmasq"), &set(&[("records", records)]), &context()).unwrap();
    let conf = content(&rendered, "dnsmasq.conf");
    assert!(conf.contains("\nhost-record=www.acme.lan,192.168.1.1\nhost-record=printer,fd00::5\n"), "{conf}");
    let rendered = render(&ours("dnsmasq"), &set(&[]), &context()).unwrap();
    assert!(content(&rendered, "dnsmasq.conf").contains("\nhost-record=acme,192.168.1.1\n"));
}

#[test]
fn unknown_names_are_answered_with_the_known_ones() {
    let error = find(Path::new("/nonexistent"), "apache").unwrap_err();
    assert_eq!(error.to_string(), "template \"apache\" is unknown; known are dnsmasq, nginx, vsftpd");
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
        ("dnsmasq", "records", "a=1.2.3.4;b"),
        ("dnsmasq", "records", "a_b=1.2.3.4"),
        ("dnsmasq", "records", "a=1.2.3"),
        ("dnsmasq", "records", "-a=1.2.3.4"),
    ] {
        let error = render(&ours(template), &set(&[(name, value)]), &context()).unwrap_err();
        assert!(matches!(&error, TemplateError::Value { setting, .. } if setting == name), "{name}={value:?}: {error}");
        assert_eq!(error.invalid().field, format!("set.{name}"));
    }
    let long = "x".repeat(5000);
    assert!(render(&ours("nginx"), &set(&[("body", &long)]), &context()).is_err());
}

#[test]
fn a_user_template_wins_and_a_broken_one_harms_only_itself() {
    let dir = tempfile::tempdir().unwrap();
    let mine = "description = \"mine\"\nneeds = \"/bin/true\"\ncommand = [\"/bin/true\", \"{tenant}\"]\n";
    fs::write(dir.path().join("nginx.toml"), mine).unwrap();
    fs::write(dir.path().join("broken.toml"), "description = 1").unwrap();
    fs::write(dir.path().join("notes.txt"), "").unwrap();
    assert_eq!(known(dir.path()), ["broken", "dnsmasq", "nginx", "vsftpd"]);
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
        ("[[files]]\npath = \"../up\"\ncontent = \"\"\n", "path"),
        ("[[files]]\npath = \"/etc/passwd\"\ncontent = \"\"\n", "path"),
        ("[[files]]\npath = \"a/../../b\"\ncontent = \"\"\n", "path"),
        ("[[files]]\npath = \"\"\ncontent = \"\"\n", "path"),
        ("[[files]]\npath = \"a\"\nmode = \"4755\"\ncontent = \"\"\n", "mode"),
        ("directories = [\"a:99\"]\n", "mode"),
        ("[[files]]\npath = \"a\"\ncontent = \"{nothing}\"\n", "placeholder"),
        ("[settings.dir]\nkind = \"text\"\ndoc = \"\"\n", "settings"),
        ("[settings.a]\nkind = \"text\"\ndoc = \"\"\neach = \"x\"\n", "settings"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("t{n}");
        fs::write(dir.path().join(format!("{name}.toml")), format!("{base}{more}")).unwrap();
        let error = find(dir.path(), &name).and_then(|template| render(&template, &set(&[]), &context())).unwrap_err();
        assert!(matches!(&error, TemplateError::Template { what: found, .. } if *found == what), "{more}: {error}");
    }
    fs::write(dir.path().join("u.toml"), format!("{base}user = \"root\"\n")).unwrap();
    assert!(matches!(find(dir.path(), "u"), Err(TemplateError::Parse { .. })));
}

#[test]
fn a_setting_without_default_has_to_be_set() {
    let text = "description = \"x\"\nneeds = \"/bin/true\"\ncommand = [\"/bin/true\", \"{who}\"]\n[settings.who]\nkind = \"name\"\ndoc = \"a host\"\n";
    let template: Template = toml::from_str(text).unwrap();
    assert!(matches!(render(&template, &set(&[]), &context()), Err(TemplateError::Missing { .. })));
    assert_eq!(render(&template, &set(&[("who", "a.b")]), &context()).unwrap().argv[1], "a.b");
}

#[test]
fn files_are_written_and_no_link_of_the_tenant_is_followed() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("web");
    // Giving files away needs root; everybody may give them to himself.
    let us = nix::unistd::geteuid().as_raw();
    let rendered = render(&ours("nginx"), &set(&[]), &context()).unwrap();
    write_files(&rendered, &dir, us).unwrap();
    write_files(&rendered, &dir, us).unwrap();
    assert_eq!(fs::read_to_string(dir.join("www/index.html")).unwrap(), "server of acme\n");
    let names: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 3, "nothing but www, tmp and nginx.conf: {names:?}");

    // The tenant replaces the file by a link to somebody else's: the link goes, the other file stays.
    let secret = root.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    fs::remove_file(dir.join("www/index.html")).unwrap();
    std::os::unix::fs::symlink(&secret, dir.join("www/index.html")).unwrap();
    std::os::unix::fs::symlink(&secret, dir.join("www/.index.html.new")).unwrap();
    write_files(&rendered, &dir, us).unwrap();
    assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
    assert_eq!(fs::read_to_string(dir.join("www/index.html")).unwrap(), "server of acme\n");

    // And a directory: refused.
    let elsewhere = root.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::remove_dir_all(dir.join("www")).unwrap();
    std::os::unix::fs::symlink(&elsewhere, dir.join("www")).unwrap();
    let error = write_files(&rendered, &dir, us).unwrap_err();
    assert_eq!(error.path, Path::new("www"));
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
}
