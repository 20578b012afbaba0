//! Files into the tenant and out of it, with a tenant that lays traps.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::itself::shown;
use crate::tenant::{Tenant, eventually};

fn word(text: &str) -> &OsStr {
    OsStr::new(text)
}

/// Paths below a directory with kind, mode and content.
fn listed(root: &Path) -> Vec<(PathBuf, bool, u32, Vec<u8>)> {
    let mut all = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let found = fs::symlink_metadata(&path).unwrap();
            assert!(found.is_dir() || found.is_file(), "{path:?}");
            let content = if found.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
            all.push((path.strip_prefix(root).unwrap().to_owned(), found.is_dir(), found.mode() & 0o7777, content));
            if found.is_dir() {
                open.push(path);
            }
        }
    }
    all.sort();
    all
}

pub(crate) fn odd_names() {
    let tenant = Tenant::launch();
    let here = tempfile::tempdir().unwrap();
    let tree = here.path().join("tree");
    let names: [&[u8]; 9] = [
        b"plain",
        b"-rf",
        b"with space",
        b"new\nline",
        b"\x1b[2J",
        b"\xff\xfe",
        "gr\u{fc}n \u{1f30d}".as_bytes(),
        b"...",
        b"*",
    ];
    fs::create_dir(&tree).unwrap();
    for (number, name) in names.iter().enumerate() {
        let dir = tree.join(OsStr::from_bytes(name));
        fs::create_dir(&dir).unwrap();
        for name in names {
            fs::write(dir.join(OsStr::from_bytes(name)), name.repeat(number * 1000)).unwrap();
        }
    }
    fs::write(tree.join("n".repeat(255)), b"long").unwrap();
    let big: Vec<u8> = (0..30_000_001_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 23) as u8).collect();
    fs::write(tree.join("big"), &big).unwrap();
    fs::set_permissions(tree.join("big"), fs::Permissions::from_mode(0o640)).unwrap();
    let mut deep = tree.clone();
    for _ in 0..150 {
        deep.push("d");
    }
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("bottom"), b"x").unwrap();
    // It cannot be written into, and yet it has something in it.
    fs::create_dir(tree.join("shut")).unwrap();
    fs::write(tree.join("shut/in"), b"in").unwrap();
    fs::set_permissions(tree.join("shut"), fs::Permissions::from_mode(0o555)).unwrap();

    let (code, said) = tenant.copy("--into", &[word("-u"), word("daemon"), word("-r"), tree.as_os_str(), word("/tmp")]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(tenant.said(&["stat", "-c", "%U %a %s", "/tmp/tree/big"]), "daemon 640 30000001");
    let (code, said) = tenant.copy("--out", &[word("-r"), word("/tmp/tree"), here.path().join("back").as_os_str()]);
    assert_eq!(code, 0, "{said}");
    let (sent, back) = (listed(&tree), listed(&here.path().join("back")));
    assert_eq!(sent.len(), back.len());
    for (sent, back) in sent.iter().zip(&back) {
        assert_eq!((&sent.0, sent.1, sent.2), (&back.0, back.1, back.2));
        assert!(sent.3 == back.3, "content of {:?}", sent.0);
    }
    assert_eq!(fs::metadata(here.path().join("back/big")).unwrap().uid(), 0, "the operator's");
}

pub(crate) fn targets() {
    let tenant = Tenant::launch();
    let here = tempfile::tempdir().unwrap();
    let at = |name: &str| here.path().join(name);
    fs::write(at("a"), b"one").unwrap();
    fs::write(at("b"), b"two").unwrap();
    let into = |words: &[&OsStr]| tenant.copy("--into", words);
    assert_eq!(into(&[at("a").as_os_str(), at("b").as_os_str(), word("/tmp")]).0, 0);
    assert_eq!(into(&[at("a").as_os_str(), word("/tmp/c")]).0, 0);
    assert_eq!(into(&[at("b").as_os_str(), word("/tmp/a")]).0, 0, "what is there is written over");
    assert_eq!(tenant.said(&["sh", "-c", "cat /tmp/a /tmp/b /tmp/c; stat -c '%U %a' /tmp/a"]), "twotwooneroot 644");
    for (words, rule) in [
        (&[at("a").as_os_str(), word("/tmp/none/")][..], "/tmp/none/: cannot open the directory"),
        (&[at("a").as_os_str(), at("b").as_os_str(), word("/tmp/none")], "cannot open the directory"),
        (&[at("a").as_os_str(), word("/none/x")], "cannot open the directory around it"),
        (&[at("none").as_os_str(), word("/tmp")], "none: cannot find it"),
        (&[here.path().as_os_str(), word("/tmp")], "say --recursive"),
        (&[word("/dev/null"), word("/tmp")], "must be a regular file or a directory"),
        (&[at("a").as_os_str(), word("/dev/null")], "is there and is no regular file"),
        (&[at("a").as_os_str(), word("/usr/bin/x")], "Read-only file system"),
        (&[word("-u"), word("daemon"), at("a").as_os_str(), word("/etc/x")], "Permission denied"),
    ] {
        let (code, said) = into(words);
        assert_eq!(code, 2, "{words:?}: {said}");
        assert!(said.contains(rule), "{words:?}: {said}");
    }
    let (code, said) = tenant.copy("--out", &[word("/tmp/a"), word("/tmp/c"), at("a").as_os_str()]);
    assert!(code == 2 && said.contains("cannot open the directory"), "{said}");
    assert_eq!(tenant.copy("--out", &[word("/tmp/c"), at("b").as_os_str()]).0, 0);
    assert_eq!(fs::read(at("b")).unwrap(), b"one");
}

pub(crate) fn streams() {
    let tenant = Tenant::launch();
    let mut child = tenant.enter(&["--into", "-", "/root/s"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&[b'x'; 300_000]).unwrap();
    assert!(child.wait().unwrap().success());
    let output = tenant.enter(&["--out", "/root/s", "-"]).output().unwrap();
    assert!(output.stdout == [b'x'; 300_000], "{}", output.stdout.len());
    let (code, said) = tenant.copy("--into", &[word("-"), word("/tmp")]);
    assert!(code == 2 && said.contains("must be the name of a file"), "{said}");
    let (code, said) = tenant.copy("--out", &[word("-r"), word("/root"), word("-")]);
    assert!(code == 2 && said.contains("must be a directory"), "{said}");
}

pub(crate) fn links_out() {
    let tenant = Tenant::launch();
    let here = tempfile::tempdir().unwrap();
    // Only the host has it.
    fs::write(here.path().join("secret"), b"secret").unwrap();
    let secret = here.path().join("secret");
    tenant.said(&["sh", "-c", &format!(
        "mkdir -p /root/t/d; cd /root/t; echo plain >file; ln -s {0} abs; ln -s ../../../../../../../../../..{0} rel; \
        ln -s / d/root; ln -s /proc/1/root{0} proc; ln -s /proc/self/environ env; ln -s /proc/self/fd/0 fd; \
        ln -s file good; mkdir x; ln -s /root/t x/loop", secret.display())]);
    for name in ["abs", "rel", "proc", "env", "fd"] {
        let to = here.path().join(format!("got-{name}"));
        let (code, said) = tenant.copy("--out", &[word(&format!("/root/t/{name}")), to.as_os_str()]);
        assert_eq!(code, 2, "{name}: {said}");
        assert!(!to.exists() || fs::read(&to).unwrap().is_empty(), "{name}");
    }
    // A link that the operator names is followed, in the tenant.
    assert_eq!(tenant.copy("--out", &[word("/root/t/good"), here.path().join("good").as_os_str()]).0, 0);
    assert_eq!(fs::read(here.path().join("good")).unwrap(), b"plain\n");
    let (code, said) = tenant.copy("--out", &[word("-r"), word("/root/t"), here.path().join("tree").as_os_str()]);
    assert_eq!(code, 1, "{said}");
    assert_eq!(said.matches("is a symbolic link").count(), 8, "{said}");
    let names: Vec<_> = listed(&here.path().join("tree")).into_iter().map(|(path, ..)| path).collect();
    assert_eq!(names, ["d", "file", "x"].map(PathBuf::from));
}

pub(crate) fn links_in() {
    let tenant = Tenant::launch();
    let here = tempfile::tempdir().unwrap();
    let outside = here.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("kept"), b"kept").unwrap();
    let tree = here.path().join("tree");
    fs::create_dir_all(tree.join("sub")).unwrap();
    fs::write(tree.join("sub/kept"), b"new").unwrap();
    fs::write(tree.join("kept"), b"new").unwrap();
    // The tenant's link to a place of the host, as target and on the way.
    tenant.said(&[
        "sh",
        "-c",
        &format!(
            "mkdir -p /root/a/tree /root/b/tree; ln -s {0} /root/link; ln -s {0} /root/a/tree/sub; \
        ln -s {0}/kept /root/b/tree/kept; ln -s /etc /root/etc",
            outside.display()
        ),
    ]);
    for to in ["/root/link", "/root/link/", "/root/a", "/root/b"] {
        let (code, said) = tenant.copy("--into", &[word("-r"), tree.as_os_str(), word(to)]);
        assert_eq!(code, 2, "{to}: {said}");
    }
    assert_eq!(fs::read(outside.join("kept")).unwrap(), b"kept");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    // A link within the tenant that the operator names leads into the tenant's own.
    let host = fs::read_dir("/etc").unwrap().count();
    assert_eq!(tenant.copy("--into", &[tree.join("kept").as_os_str(), word("/root/etc")]).0, 0);
    assert_eq!(tenant.said(&["cat", "/etc/kept"]), "new");
    assert_eq!(fs::read_dir("/etc").unwrap().count(), host);

    // On the way out, links of ours below the target are not followed either: their names are the tenant's choice.
    tenant.said(&["sh", "-c", "mkdir -p /root/o/sub; echo bad >/root/o/kept; echo bad >/root/o/sub/kept"]);
    for name in ["kept", "sub"] {
        let to = here.path().join(format!("to-{name}"));
        fs::create_dir_all(to.join("o")).unwrap();
        let target = if name == "kept" { outside.join("kept") } else { outside.clone() };
        symlink(target, to.join("o").join(name)).unwrap();
        let (code, said) = tenant.copy("--out", &[word("-r"), word("/root/o"), to.as_os_str()]);
        assert_eq!(code, 2, "{said}");
    }
    assert_eq!(fs::read(outside.join("kept")).unwrap(), b"kept");
    // Links of ours are not followed on the way in: what lies behind was not named.
    symlink("/etc/shadow", tree.join("shadow")).unwrap();
    let (code, said) = tenant.copy("--into", &[word("-r"), tree.as_os_str(), word("/tmp")]);
    assert!(code == 1 && said.contains("is a symbolic link"), "{said}");
    assert_eq!(tenant.said(&["sh", "-c", "ls /tmp/tree"]), "kept\nsub");
}

pub(crate) fn kinds() {
    let tenant = Tenant::launch();
    let here = tempfile::tempdir().unwrap();
    tenant.said(&[
        "sh",
        "-c",
        "mkdir -p /root/k/d; cd /root/k; mkfifo pipe; echo x >suid; chmod 6755 suid; chmod 3777 d; \
        echo x >exec; chmod 711 exec; echo y >none; chmod 0 none",
    ]);
    let to = here.path().join("k");
    let since = Instant::now();
    let (code, said) = tenant.copy("--out", &[word("-r"), word("/root/k"), to.as_os_str()]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("/root/k/pipe: is no regular file or directory"), "{said}");
    let modes: Vec<_> =
        listed(&to).into_iter().map(|(path, _, mode, _)| format!("{} {mode:o}", path.display())).collect();
    assert_eq!(modes, ["d 755", "exec 711", "none 0", "suid 755"]);
    let (code, said) = tenant.copy("--out", &[word("/root/k/pipe"), to.as_os_str()]);
    assert!(code == 2 && said.contains("must be a regular file"), "{said}");
    // What its user may not read is passed over.
    tenant.said(&["chmod", "755", "/root"]);
    let to = here.path().join("as-daemon");
    let (code, said) = tenant.copy("--out", &[word("-u"), word("daemon"), word("-r"), word("/root/k"), to.as_os_str()]);
    assert!(code == 1 && said.contains("/root/k/none: Permission denied"), "{said}");
    assert!(since.elapsed() < Duration::from_secs(20), "a pipe held it up");
}

pub(crate) fn endless() {
    let mut tenant = Tenant::launch();
    let here = tempfile::tempdir().unwrap();
    tenant.sh("grow", "cd /tmp; for i in $(seq 3000); do head -c 4096 /dev/zero | tr '\\0' x >>grow; done; sleep 1000");
    eventually("growth", || {
        tenant.said(&["sh", "-c", "stat -c %s /tmp/grow || echo 0"]).parse::<u64>().ok().filter(|n| *n > 8192)
    });
    let (code, said) = tenant.copy("--out", &[word("/tmp/grow"), here.path().join("grow").as_os_str()]);
    assert_eq!(code, 0, "{said}");
    assert!(fs::read(here.path().join("grow")).unwrap().iter().all(|byte| *byte == b'x'));
    tenant.said(&["sh", "-c", "truncate -s 300M /root/hole; echo end >>/root/hole"]);
    let to = here.path().join("hole");
    assert_eq!(tenant.copy("--out", &[word("/root/hole"), to.as_os_str()]).0, 0);
    let found = fs::metadata(&to).unwrap();
    assert_eq!(found.len(), (300 << 20) + 4);
    assert!(found.blocks() * 512 < 1 << 20, "{} blocks", found.blocks());
    // Full there: said so, and no half file stays.
    fs::write(here.path().join("large"), vec![1; 80 << 20]).unwrap();
    let (code, said) = tenant.copy("--into", &[here.path().join("large").as_os_str(), word("/tmp/large")]);
    assert!(code == 2 && said.contains("No space left on device"), "{said}");
    assert_eq!(tenant.said(&["sh", "-c", "ls /tmp/large 2>/dev/null || echo gone"]), "gone");
}

/// Asks for everything that could show or steer another process of the same user.
const LOOK: &str = r#"
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def tried(name, action):
    try: action(); print('MANAGED', name)
    except OSError as error: print(name, error.strerror)
def ptrace(request):
    if libc.ptrace(request, pid, 0, 0) < 0: raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
mine = os.getpid()
found = 0
for name in os.listdir('/proc'):
    if not name.isdigit() or int(name) in (1, mine) or open('/proc/%s/comm' % name).read().strip() in ('sh', 'python3', 'sleep'): continue
    pid, found = int(name), found + 1
    for what in 'exe', 'cwd', 'root', 'fd/0', 'fd/3', 'ns/net', 'map_files':
        tried(what, lambda: os.stat('/proc/%d/%s' % (pid, what)) and os.listdir('/proc/%d/fd' % pid))
    for what in 'environ', 'mem', 'maps', 'auxv', 'stack', 'syscall', 'pagemap':
        tried(what, lambda: open('/proc/%d/%s' % (pid, what), 'rb').read(1))
    tried('oom', lambda: open('/proc/%d/oom_score_adj' % pid, 'w').write('1000'))
    tried('attach', lambda: ptrace(16))
    tried('seize', lambda: ptrace(0x4206))
print('found', found)
"#;

pub(crate) fn not_traced() {
    let tenant = Tenant::launch();
    let mut child =
        tenant.enter(&["--into", "-", "/root/held"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let said = eventually("a look at the one who copies", || {
        Some(tenant.said(&["python3", "-c", LOOK])).filter(|said| said.ends_with("found 1"))
    });
    assert!(!said.contains("MANAGED"), "{said}");
    assert!(
        said.matches("Permission denied").count() + said.matches("Operation not permitted").count() >= 10,
        "{said}"
    );
    child.stdin.take().unwrap().write_all(b"whole").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", shown(&output));
    assert_eq!(tenant.said(&["cat", "/root/held"]), "whole");
}
