//! openssh-server.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::tenant::{Machine, Tenant};

pub(crate) const SECRET: &str = "tide-Pool_77";

/// A client with its own files; nothing of the host's user is used.
pub(crate) struct Client {
    dir: tempfile::TempDir,
}

impl Client {
    pub(crate) fn new() -> Client {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status().unwrap();
        assert!(made.success());
        let ask = dir.path().join("ask");
        std::fs::write(&ask, "#!/bin/sh\necho \"$WORD\"\n").unwrap();
        std::fs::set_permissions(&ask, std::fs::Permissions::from_mode(0o755)).unwrap();
        Client { dir }
    }

    pub(crate) fn key(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("key.pub")).unwrap().trim().to_owned()
    }

    fn options(&self, how: &str) -> Vec<String> {
        let known = self.path("known_hosts");
        let mut options = vec!["-F".into(), "none".into(), "-o".into(), format!("UserKnownHostsFile={known}")];
        options.extend([
            "-o".into(),
            "StrictHostKeyChecking=accept-new".into(),
            "-o".into(),
            "ConnectTimeout=10".into(),
        ]);
        options.extend(["-o".into(), format!("PreferredAuthentications={how}"), "-i".into(), self.path("key")]);
        options.extend(["-o".into(), "IdentitiesOnly=yes".into(), "-o".into(), "NumberOfPasswordPrompts=1".into()]);
        options
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// Runs a command there, by `publickey` or `password`; what it prints or why it cannot.
    pub(crate) fn ssh(&self, tenant: &Tenant, how: (&str, &str), user: &str, words: &[&str]) -> Result<String, String> {
        let (how, word) = how;
        let options = self.options(how);
        let to = format!("{user}@192.168.1.1");
        let all: Vec<&str> =
            options.iter().map(String::as_str).chain([to.as_str()]).chain(words.iter().copied()).collect();
        let ask = self.path("ask");
        let env = [("SSH_ASKPASS", ask.as_str()), ("SSH_ASKPASS_REQUIRE", "force"), ("WORD", word), ("DISPLAY", ":9")];
        let output = tenant.site.run("ssh", &all, &env);
        let (out, err) =
            (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr));
        if output.status.success() {
            Ok(out.replace('\r', "").trim_end().to_owned())
        } else {
            Err(format!("{out}{err}"))
        }
    }

    pub(crate) fn host_key(&self) -> String {
        let text = std::fs::read_to_string(self.dir.path().join("known_hosts")).unwrap();
        text.lines().next().unwrap().split_once(' ').unwrap().1.to_owned()
    }

    fn dir(&self) -> &Path {
        self.dir.path()
    }
}

pub(crate) const BY_KEY: (&str, &str) = ("publickey", "");
pub(crate) const BY_PASSWORD: (&str, &str) = ("password", SECRET);

pub(crate) fn logins() {
    let machine = Machine::new();
    let mut tenant = machine.tenant("acme");
    let client = Client::new();
    tenant.serve("openssh", &[("user", "ada"), ("password", SECRET), ("key", &client.key())]);
    tenant.assert_stock("/etc/ssh/sshd_config");
    for how in [BY_KEY, BY_PASSWORD] {
        assert_eq!(client.ssh(&tenant, how, "ada", &["id -un; hostname; pwd"]).unwrap(), "ada\nacme\n/home/ada");
    }
    assert!(client.ssh(&tenant, ("password", "wrong-Word1"), "ada", &["true"]).unwrap_err().contains("denied"));
    assert!(client.ssh(&tenant, BY_PASSWORD, "root", &["true"]).unwrap_err().contains("denied"));
    // A terminal, and set-id programs in it: the service may gain privileges.
    assert!(client.ssh(&tenant, BY_KEY, "ada", &["-tt", "tty"]).unwrap().starts_with("/dev/pts/"));
    tenant.sh("echo root:rootword-99 | chpasswd");
    let su = format!("{:?}", "echo rootword-99 | su -c 'id -u'");
    assert!(client.ssh(&tenant, BY_KEY, "ada", &["sh", "-c", &su]).unwrap().ends_with('0'));
    // Files by sftp, which is the package's own subsystem.
    let file = client.dir().join("file");
    std::fs::write(&file, "by sftp\n").unwrap();
    let mut words = client.options("publickey");
    words.extend(["-b".into(), "-".into(), "ada@192.168.1.1".into()]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    tenant.site.fed("sftp", &words, &format!("put {}\nrename file moved\n", file.to_str().unwrap()));
    assert_eq!(tenant.sh("cat /home/ada/moved"), "by sftp");
    // Root by key, as the stock configuration has it.
    let line = client.key();
    tenant.sh(&format!("mkdir -m 700 -p /root/.ssh; echo '{line}' >/root/.ssh/authorized_keys"));
    assert_eq!(client.ssh(&tenant, BY_KEY, "root", &["id -u"]).unwrap(), "0");
    // Password logins can be forbidden.
    let mut strict = machine.tenant("strict");
    strict.serve("openssh", &[("user", "ada"), ("password", SECRET), ("key", &line), ("passwords", "no")]);
    let client = Client { dir: client.dir };
    std::fs::remove_file(client.dir().join("known_hosts")).unwrap();
    assert!(client.ssh(&strict, BY_PASSWORD, "ada", &["true"]).unwrap_err().contains("denied (publickey)"));
    assert_eq!(client.ssh(&strict, BY_KEY, "ada", &["hostname"]).unwrap(), "strict");
}

pub(crate) fn host_keys() {
    let machine = Machine::new();
    let mut keys = Vec::new();
    for name in ["acme", "umbrella"] {
        let mut tenant = machine.tenant(name);
        let client = Client::new();
        tenant.serve("openssh", &[("user", "ada"), ("key", &client.key())]);
        assert_eq!(client.ssh(&tenant, BY_KEY, "ada", &["hostname"]).unwrap(), name);
        tenant.restart("openssh");
        assert_eq!(client.ssh(&tenant, BY_KEY, "ada", &["hostname"]).unwrap(), name, "the same key as before");
        keys.push(client.host_key());
        for kind in ["rsa", "ecdsa", "ed25519"] {
            let path = format!("/etc/ssh/ssh_host_{kind}_key");
            let inside = std::fs::read(format!("/proc/{}/root{path}", tenant.launched.pid)).unwrap();
            assert!(std::fs::read(&path).is_ok_and(|ours| ours != inside), "{path} is not this machine's");
        }
    }
    assert_ne!(keys[0], keys[1]);
}
