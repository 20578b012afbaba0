//! A site of a closed network: a network namespace with one wire to the tenant's stack, in which real clients run.

use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

use nix::sched::{CloneFlags, unshare};

/// Address of every client, in every closed network.
pub(crate) const CLIENT: &str = "192.168.1.10";

pub(crate) struct Site {
    netns: OwnedFd,
}

impl Site {
    /// A site whose wire ends in the stack of process `pid`, which gets `address` there.
    pub(crate) fn new(pid: i32, address: &str) -> Site {
        // A thread of its own: it takes its namespace along.
        let netns = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            std::fs::File::open("/proc/thread-self/ns/net").unwrap().into()
        });
        let site = Site { netns: netns.join().unwrap() };
        let pid = pid.to_string();
        for words in [
            "link set lo up".to_owned(),
            format!("link add site0 type veth peer name dev0 netns {pid}"),
            format!("address add {CLIENT}/24 dev site0"),
            "address add fd00::10/64 dev site0 nodad".to_owned(),
            "link set site0 up".to_owned(),
        ] {
            site.ok("ip", &words.split(' ').collect::<Vec<_>>(), &[]);
        }
        for words in [
            format!("address add {address}/24 dev dev0"),
            "address add fd00::1/64 dev dev0 nodad".to_owned(),
            "link set dev0 up".to_owned(),
        ] {
            let output =
                Command::new("nsenter").args(["-t", &pid, "-n", "ip"]).args(words.split(' ')).output().unwrap();
            assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
        }
        site
    }

    /// A program of the host that will run in the site.
    pub(crate) fn command(&self, program: &str, arguments: &[&str], env: &[(&str, &str)]) -> Command {
        let netns = self.netns.as_fd().try_clone_to_owned().unwrap();
        let mut command = Command::new(program);
        command.args(arguments).envs(env.iter().copied()).stdin(Stdio::null());
        // SAFETY: setns is a system call, and the descriptor lives as long as the command.
        unsafe {
            command.pre_exec(move || match libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        command
    }

    /// Runs a program in the site.
    pub(crate) fn run(&self, program: &str, arguments: &[&str], env: &[(&str, &str)]) -> Output {
        self.command(program, arguments, env).output().unwrap()
    }

    /// What a program prints that has to succeed.
    pub(crate) fn ok(&self, program: &str, arguments: &[&str], env: &[(&str, &str)]) -> String {
        let output = self.run(program, arguments, env);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{program} {arguments:?}: {}\n{out}\n{err}", output.status);
        out
    }

    /// What a program complains about that has to fail.
    pub(crate) fn fails(&self, program: &str, arguments: &[&str], env: &[(&str, &str)]) -> String {
        let output = self.run(program, arguments, env);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(!output.status.success(), "{program} {arguments:?} should have failed:\n{out}\n{err}");
        format!("{out}{err}")
    }

    /// As [`Site::ok`], with something to read.
    pub(crate) fn fed(&self, program: &str, arguments: &[&str], input: &str) -> String {
        let mut command = self.command(program, arguments, &[]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{program} {arguments:?}: {}\n{out}\n{err}", output.status);
        out
    }

    /// What a web or file server answers.
    pub(crate) fn curl(&self, arguments: &[&str]) -> String {
        self.ok("curl", &[&["-sS", "-g", "--max-time", "10"], arguments].concat(), &[])
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
