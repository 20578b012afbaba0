//! The corpus of files, good and bad; files that are written are read again; who waits for whom.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::order::{Permission, Task, Verdict, schedule};
use super::*;
use crate::model::{DeclaredService, DeclaredShare, Export, Exported};

fn corpus(kind: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/declared").join(kind);
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|f| f.unwrap().path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "toml"));
    files.sort();
    assert!(files.len() >= 3, "{kind}: {files:?}");
    files
}

fn text(path: &Path) -> Text {
    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
    Text { name, text: std::fs::read_to_string(path).unwrap() }
}

fn wanted(toml: &str) -> Wanted {
    read(&[Text { name: "t.toml".into(), text: format!("version = 1\n{toml}") }]).unwrap_or_else(|e| panic!("{e}"))
}

fn there(toml: &str) -> Vec<Exported> {
    let mut tenants = wanted(toml).tenants;
    order::number_for_tests(&mut tenants);
    tenants.into_iter().map(|(name, tenant)| Exported { name, removing: false, tenant }).collect()
}

/// What `UPDATE_DOCS=1` writes is read by people before it is committed.
#[test]
fn every_fault_of_a_bad_file_is_told_at_its_place() {
    for path in corpus("bad") {
        let said = format!("{}\n", read(&[text(&path)]).expect_err(&path.display().to_string()));
        let golden = path.with_extension("txt");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&golden, &said).unwrap();
        }
        assert_eq!(said, std::fs::read_to_string(&golden).unwrap_or_default(), "{}", golden.display());
    }
}

#[test]
fn good_files_are_read_part_by_part_and_as_a_whole_to_the_same() {
    for path in corpus("good") {
        let read = read(&[text(&path)]).unwrap_or_else(|e| panic!("{e}"));
        let mut whole: File = toml::from_str(&text(&path).text).unwrap();
        for (directory, shared) in whole.shares {
            for one in shared.tenants {
                let tenant = whole.tenants.get_mut(&one.name).unwrap();
                let (directory, create) = (directory.clone(), shared.create);
                tenant.shares.push(DeclaredShare { directory, read_only: one.read_only, create });
            }
        }
        assert_eq!(read.tenants, whole.tenants, "{}", path.display());
    }
}

#[test]
fn a_tenant_of_two_files_is_told_with_both_places() {
    let one = |name: &str| Text {
        name: name.into(),
        text: "version = 1\n[tenants.a]\naddresses = [\"10.0.0.1/8\"]\n".into(),
    };
    let faults = read(&[one("a.toml"), one("b.toml")]).unwrap_err();
    assert_eq!(
        faults.to_string(),
        "b.toml:2:10: tenants.a: \"a\" refused: a tenant is declared once\na.toml:2:10: note: tenants.a is here"
    );
}

#[test]
fn columns_are_counted_in_characters_and_faults_are_bounded() {
    let text = |text: String| [Text { name: "t".into(), text }];
    let faults = read(&text("version = 1\n# ä\n[tenants.\"ä€\"]\n".into())).unwrap_err();
    assert!(faults.to_string().starts_with("t:3:10: "), "{faults}");
    let many: String = (0..MOST + 50).map(|n| format!("[tenants.t{n}]\n")).collect();
    let said = read(&text(format!("version = 1\n{many}"))).unwrap_err().to_string();
    assert_eq!(said.lines().count(), MOST + 1);
    assert!(said.ends_with("and 50 more"), "{said}");
}

fn verdicts(found: &order::Schedule) -> Vec<(&str, Verdict)> {
    found.tenants.iter().map(|t| (t.name.as_str(), t.verdict)).collect()
}

/// `-name` removed, `name` put, `name!` put with leave to replace, `(name)` gives up what moves.
fn waves(found: &order::Schedule) -> String {
    let task = |task: &Task| match task {
        Task::Remove { name, .. } => format!("-{name}"),
        Task::Put { name, give_up: true, .. } => format!("({name})"),
        Task::Put { name, replace: true, .. } => format!("{name}!"),
        Task::Put { name, .. } => name.to_string(),
    };
    let wave = |wave: &Vec<Task>| wave.iter().map(task).collect::<Vec<_>>().join(" ");
    found.waves.iter().map(wave).collect::<Vec<_>>().join(" | ")
}

const THREE: &str = r#"
    a = { vlan = 1, addresses = ["10.0.0.1/8"], tunnels = ["ipip:198.51.100.1"] }
    b = { vlan = 2, addresses = ["10.0.0.1/8"], tunnels = ["ipip:198.51.100.2"] }
    c = { vlan = 3, addresses = ["10.0.0.1/8"], tunnels = ["ipip:198.51.100.3"] }
"#;

#[test]
fn applied_twice_nothing_differs_and_what_the_file_leaves_open_stays() {
    let before = there(&format!("[tenants]{THREE}"));
    let open = THREE.replace("vlan = 1, ", "");
    let found = schedule(&wanted(&format!("[tenants]{open}")), &before, &Permission::default());
    assert!(!found.differs() && found.waves.is_empty(), "{found:?}");
}

#[test]
fn who_takes_what_another_gives_up_waits_for_it() {
    let before = there(&format!("[tenants]{THREE}"));
    let with = |edit: &dyn Fn(&str) -> String, may: &Permission| {
        schedule(&wanted(&format!("[tenants]{}", edit(THREE))), &before, may)
    };
    let none = Permission::default();
    // c takes the tunnel of b, and b that of a: a first.
    let chain =
        |t: &str| t.replace(".100.1\"", ".100.9\"").replace(".100.2\"", ".100.1\"").replace(".100.3\"", ".100.2\"");
    assert_eq!(waves(&with(&chain, &none)), "a | b | c");
    // a and b exchange theirs.
    let ring = |t: &str| t.replace(".100.1\"", ".100.x\"").replace(".100.2\"", ".100.1\"").replace(".100.x", ".100.2");
    let found = with(&ring, &none);
    assert_eq!(waves(&found), "(a) (b) | a b");
    let Task::Put { tenant, .. } = &found.waves[0][0] else { panic!("{found:?}") };
    assert!(tenant.tunnels.is_empty() && !tenant.addresses.is_empty(), "{tenant:?}");
    // A VLAN is fixed for good.
    let vlans = |t: &str| t.replace("vlan = 1,", "vlan = x,").replace("vlan = 2,", "vlan = 1,").replace("= x,", "= 2,");
    let found = with(&vlans, &none);
    assert_eq!(verdicts(&found), [("a", Verdict::Refused), ("b", Verdict::Refused), ("c", Verdict::Same)]);
    assert!(found.tenants[0].reason.as_deref().unwrap().starts_with("vlan cannot be changed"), "{found:?}");
    assert!(found.waves.is_empty() && found.differs());
    let replace = ["a", "b"].map(|n| n.parse().unwrap()).into();
    let found = with(&vlans, &Permission { replace, prune: false });
    assert_eq!(waves(&found), "-a -b | a! b!");
    // What stays and is not in the file gives nothing: who wants it is not ended for it.
    let alone = "a = { vlan = 2, addresses = [\"10.0.0.1/8\"] }\n";
    let replace = Permission { replace: ["a".parse().unwrap()].into(), prune: false };
    let found = schedule(&wanted(&format!("[tenants]\n{alone}")), &before, &replace);
    assert_eq!(verdicts(&found), [("a", Verdict::Refused), ("b", Verdict::Left), ("c", Verdict::Left)]);
    assert!(found.waves.is_empty(), "{found:?}");
    // One that is removed gives what it has to a new one.
    let renamed = |t: &str| t.replace("    b =", "    new =");
    assert_eq!(waves(&with(&renamed, &none)), "new", "b is left, and the daemon will refuse new");
    assert_eq!(waves(&with(&renamed, &Permission { prune: true, ..none })), "-b | new");
}

#[test]
fn open_numbers_are_the_lowest_that_nobody_has_or_asks_for() {
    let before = there("[tenants.old]\nvlan = 2\ngid = 524288\nstack = \"inet0\"\naddresses = [\"10.0.0.1/8\"]\n");
    let file = r#"
        [tenants]
        a = { addresses = ["10.0.0.1/8"] }
        b = { vlan = 3, addresses = ["10.0.0.1/8"] }
        c = { gid = 589824, stack = "inet1", addresses = ["10.0.0.1/8"] }
        d = { device = "eth1", addresses = ["10.0.0.1/8"] }
    "#;
    let found = schedule(&wanted(file), &before, &Permission::default());
    let numbers: Vec<_> = found.waves[0]
        .iter()
        .map(|task| {
            let Task::Put { tenant, .. } = task else { panic!("{task:?}") };
            (tenant.vlan.map(|v| v.get()), tenant.stack.unwrap().0, tenant.gid.unwrap())
        })
        .collect();
    let expected = [(Some(4), 2, 655_360), (Some(3), 3, 720_896), (Some(5), 1, 589_824), (None, 4, 786_432)];
    assert_eq!(numbers, expected);
}

#[test]
fn passwords_are_not_shown_and_their_change_is() {
    let service = |word: &str| {
        let set = [("user".to_owned(), "ada".to_owned()), ("password".to_owned(), word.to_owned())].into();
        DeclaredService { template: Some("vsftpd".into()), set, ..DeclaredService::default() }
    };
    let tenant = |word: &str| DeclaredTenant {
        services: [("ftp".parse().unwrap(), service(word))].into(),
        ..DeclaredTenant::default()
    };
    let found = changes(&tenant("secret-one"), &tenant("secret-two"));
    assert_eq!(found.len(), 1);
    let text = format!("{found:?}");
    assert!(!text.contains("secret-") && text.contains("another, not shown"), "{text}");
    assert!(changes(&tenant("x"), &tenant("x")).is_empty());
    // Nor what is in the environment, where the audit shows none either.
    let with = |word: &str| {
        let mut service = DeclaredService { command: vec!["/bin/app".into()], ..DeclaredService::default() };
        service.options.env.insert("TOKEN".into(), word.into());
        DeclaredTenant { services: [("app".parse().unwrap(), service)].into(), ..DeclaredTenant::default() }
    };
    for before in [DeclaredTenant::default(), with("secret-one")] {
        let text = format!("{:?}", changes(&before, &with("secret-two")));
        assert!(!text.contains("secret-") && text.contains("TOKEN"), "{text}");
    }
    assert!(format!("{:?}", changes(&with("a"), &with("b"))).contains("another, not shown"));
}

prop_compose! {
    fn some_tenant()(
        n in 0_u16..4000,
        has_vlan in any::<bool>(),
        third in any::<u8>(),
        tunnels in 0_u8..4,
        texts in proptest::collection::btree_map("[a-z_]{1,8}", "[ -~]{0,12}|[\\PC\"'\\\\\n\t]{0,12}", 0..3),
        words in proptest::collection::vec("[ -~]{1,12}|[\\PC\"'\\\\\n]{1,8}", 1..4),
        limits in proptest::sample::subsequence(vec!["memory=512M", "cpu=1.5", "processes=99", "rate_in=100k"], 0..=4),
        filter in proptest::sample::subsequence(vec!["accept,tcp/80", "drop,udp/5-6,from=10.0.0.0/8", "accept,icmp"], 0..=3),
        template in any::<bool>(),
        ephemeral in any::<bool>(),
        after in any::<bool>(),
    ) -> DeclaredTenant {
        let service = match template {
            true => DeclaredService { template: Some("nginx".into()), set: texts.clone(), ..Default::default() },
            false => DeclaredService { command: words, ..Default::default() },
        };
        let mut second = DeclaredService { command: vec!["/bin/x".into()], ..Default::default() };
        second.options.env = texts;
        second.options.ready_timeout = Some(7);
        second.options.ready = Some("tcp:80".parse().unwrap());
        if after {
            second.options.after = vec!["one".parse().unwrap()];
        }
        let kinds = ["ipip:", "gre:", "vxlan:"];
        let tunnel = |i: u8| {
            let key = if i == 2 { format!(",key={n}") } else { String::new() };
            format!("{}10.{}.{third}.{i}{key},prefix=10.{i}.0.0/16", kinds[usize::from(i % 3)], n % 200 + 1)
        };
        let vlan = has_vlan.then(|| stackmap::Vlan::new(n + 1).unwrap());
        DeclaredTenant {
            vlan,
            trunk: (has_vlan && third % 2 == 1).then(|| "west".to_owned()),
            device: (!has_vlan).then(|| format!("eth{n}")),
            stack: Some(stackmap::StackIndex(u32::from(n))),
            gid: Some(524_288 + u32::from(n) * 65_536),
            addresses: vec![format!("192.168.{third}.1/24").parse().unwrap(), "fd00::1/64".parse().unwrap()],
            tunnels: (0..if has_vlan { tunnels } else { 0 }).map(|i| tunnel(i).parse().unwrap()).collect(),
            dns: vec!["192.168.1.53".parse().unwrap()],
            gateway: Some("192.168.1.254".parse().unwrap()),
            routes: vec!["10.9.0.0/16,via=192.168.1.9".parse().unwrap(), "172.16.0.0/12".parse().unwrap()],
            privileges: has_vlan.then_some(crate::model::Privilege::Network).into_iter().collect(),
            image: ephemeral.then(|| "bookworm".to_owned()),
            ephemeral,
            shares: vec![DeclaredShare { directory: "/srv/a \"b\"".into(), read_only: ephemeral, create: false }],
            filter: crate::model::Filter {
                default: if after { crate::model::Verdict::Drop } else { crate::model::Verdict::Accept },
                rules: filter.iter().map(|rule| rule.parse().unwrap()).collect(),
            },
            limits: crate::limits::Limits::from_words(limits).unwrap(),
            services: [("one".parse().unwrap(), service), ("two".parse().unwrap(), second)].into(),
        }
    }
}

proptest! {
    /// What is exported is read to the same, and applied where it came from it changes nothing.
    #[test]
    fn what_is_written_is_read_again(tenant in some_tenant(), other in some_tenant()) {
        prop_assume!(tenant.gid != other.gid);
        let one = |name: &str, tenant: &DeclaredTenant| {
            Exported { name: name.parse().unwrap(), removing: false, tenant: tenant.clone() }
        };
        let mut tenants = vec![one("acme", &tenant), one("beta", &other)];
        // Generated apart, they may take one tunnel.
        tenants[1].tenant.tunnels.retain(|t| !tenant.tunnels.iter().any(|theirs| same_tunnel(t, theirs)));
        prop_assume!(tenants.iter().all(|t| t.tenant.check().is_ok()));
        let file = write(&Export { locals: Vec::new(), first_trunk: String::new(), tenants: tenants.clone() });
        let read = read(&[Text { name: "t".into(), text: file.clone() }]);
        let read = read.map_err(|e| TestCaseError::fail(format!("{e}\n{file}")))?;
        for there in &tenants {
            prop_assert_eq!(read.tenants.get(&there.name), Some(&there.tenant), "{}", file);
        }
        prop_assert!(!schedule(&read, &tenants, &Permission::default()).differs(), "{}", file);
        let new = schedule(&read, &[], &Permission::default());
        let made: Vec<_> = new.waves.iter().flatten().map(|task| match task {
            Task::Put { tenant, .. } => (**tenant).clone(),
            task => panic!("{task:?}"),
        }).collect();
        prop_assert_eq!(made, tenants.into_iter().map(|t| t.tenant).collect::<Vec<_>>());
    }

    /// Whatever the text, it is read or refused with a place in it.
    #[test]
    fn any_text_is_answered(text in "(version = 1\n)?(\\[tenants\\.[a-z]\\]\n)?([a-z]{1,9} = [\\[\\]\"a-z0-9./:{} =,-]{0,20}\n){0,4}\\PC{0,9}") {
        let lines = text.matches('\n').count() + 1;
        if let Err(faults) = read(&[Text { name: "t".into(), text }]) {
            prop_assert!(!faults.0.is_empty());
            for fault in faults.0 {
                prop_assert!(fault.at.line >= 1 && fault.at.line <= lines && fault.at.column >= 1, "{}", fault);
            }
        }
    }
}
