//! A command with a terminal, driven by a python program that holds the operator's terminal: the far side of what we
//! write is not ours.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::itself::shown;
use crate::tenant::Tenant;

/// Helpers of every driver: `talk` starts us in a new terminal; `expect` waits for a text; `end` gives the exit code.
const DRIVER: &str = r#"
import fcntl, os, pty, re, select, signal, struct, sys, termios, time
def size(fd, rows, cols): fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack('HHHH', rows, cols, 0, 0))
class Talk:
    def __init__(self, *words):
        self.near, self.far = pty.openpty()
        size(self.near, 31, 97)
        self.before = termios.tcgetattr(self.far)
        self.seen = ''
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            fcntl.ioctl(self.far, termios.TIOCSCTTY, 0)
            for fd in 0, 1, 2: os.dup2(self.far, fd)
            os.closerange(3, 100)
            os.execv(os.environ['ENTER_TEST'], ['enter', *words])
    def expect(self, pattern):
        until = time.time() + 60
        while time.time() < until:
            found = re.search(pattern, self.seen)
            if found:
                self.seen = self.seen[found.end():]
                return found
            if select.select([self.near], [], [], 0.1)[0]:
                try: self.seen += os.read(self.near, 65536).decode(errors='replace')
                except OSError: break
        sys.exit('%r did not come: %r' % (pattern, self.seen))
    def type(self, text): os.write(self.near, text.encode())
    def ended(self):
        until = time.time() + 60
        while time.time() < until:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid: return os.waitstatus_to_exitcode(status)
            # Whoever does not read holds it up.
            if select.select([self.near], [], [], 0.01)[0]:
                try: self.seen += os.read(self.near, 65536).decode(errors='replace')
                except OSError: time.sleep(0.01)
        sys.exit('it did not end: %r' % self.seen)
    def restored(self):
        now = termios.tcgetattr(self.far)
        assert now == self.before, (now, self.before)
    def raw(self):
        until = time.time() + 60
        while termios.tcgetattr(self.far)[3] & (termios.ICANON | termios.ECHO | termios.ISIG):
            assert time.time() < until, 'not raw'
            time.sleep(0.01)
# A command has the terminal, and runs.
def foreground(*words):
    until = time.time() + 60
    while time.time() < until:
        for pid in filter(str.isdigit, os.listdir('/proc')):
            try:
                if tuple(open(f'/proc/{pid}/cmdline').read().split('\0')[:-1]) != words: continue
                state, _, group, _, _, front = open(f'/proc/{pid}/stat').read().rsplit(')', 1)[1].split()[:6]
            except OSError: continue
            if state == 'S' and group == front: return
        time.sleep(0.01)
    sys.exit('%r does not run' % (words,))
"#;

fn drive(tenant: &Tenant, script: &str) {
    let whom = format!("{} {}", tenant.launched.pid, tenant.launched.netns_inode);
    let output = Command::new("python3")
        .args(["-c", &format!("{DRIVER}{script}")])
        .env("ENTER_TEST_WHOM", whom)
        .env("ENTER_TEST", std::env::current_exe().unwrap())
        .env("TERM", "xterm")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", shown(&output));
}

pub(crate) fn controlling() {
    let tenant = Tenant::launch();
    drive(
        &tenant,
        r#"
t = Talk('-t', 'sh', '-c', 'tty; stat -c "%U %G" $(tty); ps -o tty=,sess=,pid= -p $$; echo x >/dev/tty; ls -l /proc/self/fd; ls /dev/pts; cat /proc/self/stat')
t.expect('/dev/pts/0\r\nroot tty\r\n')
t.expect(r'pts/0 +(\d+) +\1\r\nx\r\n')
for n in '0', '1', '2': t.expect(n + ' -> /dev/pts/0\r\n')
t.expect(r'0 +ptmx\r\n')
t.expect(r'\d+ \(cat\) ')
assert t.ended() == 0
t = Talk('-u', 'daemon', '-t', 'sh', '-c', 'stat -c %U $(tty); test -w $(tty) && echo mine')
t.expect('daemon\r\nmine\r\n')
assert t.ended() == 0
"#,
    );
}

pub(crate) fn no_typing() {
    let tenant = Tenant::launch();
    drive(
        &tenant,
        r#"
prog = '''import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
for call, argument in (0x5412, b'x'), (0x541c, bytes([11])), (0x541c, bytes([2])):
    print('call', libc.ioctl(0, ctypes.c_ulong(call), argument), ctypes.get_errno())
    print('high', libc.ioctl(0, ctypes.c_ulong(call | 1 << 32), argument), ctypes.get_errno())
'''
t = Talk('-t', 'python3', '-c', prog)
for _ in range(6): t.expect('(call|high) -1 1\r\n')
assert t.ended() == 0
"#,
    );
}

pub(crate) fn size() {
    let tenant = Tenant::launch();
    drive(
        &tenant,
        r#"
t = Talk('-t', 'sh', '-c', 'stty size; trap "stty size; exit 4" WINCH; echo ready; while :; do sleep 0.05; done')
t.expect('31 97\r\nready\r\n')
size(t.near, 44, 121)
t.expect('44 121\r\n')
assert t.ended() == 4
"#,
    );
}

pub(crate) fn codes() {
    let tenant = Tenant::launch();
    drive(
        &tenant,
        r#"
for script, code in ('exit 7', 7), ('kill -9 $$', 137), ('kill -TERM $$', 143), ('echo last; exit 0', 0):
    t = Talk('-t', 'sh', '-c', script)
    assert t.ended() == code, (script, code)
    t.restored()
t.expect('last\r\n')
t = Talk('-t', 'frobnicate')
assert t.ended() == 127
t.expect('command not found in the tenant')
t.restored()
"#,
    );
}

pub(crate) fn jobs() {
    let tenant = Tenant::launch();
    drive(
        &tenant,
        r#"
t = Talk('-t', 'bash', '--norc', '-i')
t.type('PS1="<\\$?>"\r'); t.expect('<0>')
t.type('sleep 1002; echo after=$?\r'); t.expect('after=.*\r\n'); foreground('sleep', '1002')
t.type('\x03'); t.expect(r'\^C'); t.expect('<130>')
t.type('sleep 1001\r'); t.expect('sleep 1001\r\n'); foreground('sleep', '1001')
t.type('\x1a'); t.expect(r'\^Z'); t.expect('Stopped +sleep 1001'); t.expect('<148>')
t.type('jobs\r'); t.expect(r'\[1\]\+ +Stopped'); t.expect('<0>')
t.type('fg\r'); t.expect('sleep 1001\r\n'); foreground('sleep', '1001')
t.type('\x03'); t.expect('<130>')
t.type('cat\r'); t.expect('cat\r\n'); t.type('echoed\r'); t.expect('echoed\r\nechoed\r\n'); t.type('\x04'); t.expect('<0>')
t.type('exit 3\r')
assert t.ended() == 3
t.restored()
"#,
    );
}

pub(crate) fn restored() {
    let tenant = Tenant::launch();
    drive(
        &tenant,
        r#"
# By a signal to us, with a program that ignores its own.
for signal_, code in (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130):
    t = Talk('-t', 'sh', '-c', 'trap "" HUP TERM INT; echo ready; while :; do sleep 0.1; done')
    t.expect('ready'); t.raw()
    os.kill(t.pid, signal_)
    assert t.ended() == code
    t.restored()
# By the operator, with a program that listens to nothing.
t = Talk('-t', 'sh', '-c', 'trap "" HUP; stty raw; echo ready; sleep 1000')
t.expect('ready'); t.raw()
t.type('\x1d\x1d\x1d')
assert t.ended() == 129
t.restored()
# Stopped from outside, the terminal is the operator's until it goes on.
t = Talk('-t', 'sh', '-c', 'echo ready; read line; echo got $line')
t.expect('ready'); t.raw()
os.kill(t.pid, signal.SIGTSTP)
os.waitpid(t.pid, os.WUNTRACED)
t.restored()
os.kill(t.pid, signal.SIGCONT)
t.raw()
t.type('word\r'); t.expect('got word')
assert t.ended() == 0
t.restored()
"#,
    );
}

pub(crate) fn login() {
    let tenant = Tenant::launch();
    tenant.said(&["sh", "-c", "echo 'echo profile of $USER' >/root/.bash_profile; mkdir /home/ann; \
        echo 'ann:x:4000:4000::/home/ann:/bin/sh' >>/etc/passwd; echo 'eve:x:1001:1001::/nowhere:/usr/sbin/nologin' >>/etc/passwd"]);
    drive(
        &tenant,
        r#"
t = Talk('-t')
t.expect('profile of root\r\n'); t.expect('[$#] ')
t.type('echo "[$0|$HOME|$PWD|$USER|$LOGNAME|$SHELL|$TERM|$(hostname)|$PATH]"; shopt login_shell\r')
t.expect(r'\[-bash\|/root\|/root\|root\|root\|/bin/bash\|xterm\|acme\|')
t.expect(r'login_shell\s+on')
t.type('exit 5\r')
assert t.ended() == 5
t = Talk('-u', 'ann', '-t')
t.type('echo "[$0|$HOME|$PWD|$USER|$SHELL]"; id -u\r')
t.expect(r'\[-sh\|/home/ann\|/home/ann\|ann\|/bin/sh\]\r\n4000\r\n')
t.type('\x04')
assert t.ended() == 0
t = Talk('-u', 'eve', '-t')
t.expect('not available')
assert t.ended() == 1
"#,
    );
}

pub(crate) fn script() {
    let tenant = Tenant::launch();
    let mut child = tenant.enter(&["-t", "sh"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"echo $((6*7))\nexit 3").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", shown(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("42\r\n"), "{}", shown(&output));
}
