//! vsftpd.

use crate::tenant::Machine;

const SECRET: &str = "tide-Pool_77";

pub(crate) fn own_user() {
    let machine = Machine::new();
    let (mut tenant, mut other) = (machine.tenant("acme"), machine.tenant("umbrella"));
    tenant.serve("vsftpd", &[("user", "ada"), ("password", SECRET), ("banner", "welcome to acme")]);
    other.serve("vsftpd", &[]);
    tenant.assert_stock("/etc/vsftpd.conf");
    assert!(!std::fs::read_to_string("/etc/passwd").unwrap().contains("\nada:"), "nobody on this machine");

    let login = format!("ada:{SECRET}");
    let dir = tempfile::tempdir().unwrap();
    let big: Vec<u8> = (0..5_000_000_u32).flat_map(|n| [(n % 251) as u8]).collect();
    let file = dir.path().join("big");
    std::fs::write(&file, &big).unwrap();
    let file = file.to_str().unwrap();
    // curl in passive mode (EPSV, then PASV), in active mode, and over IPv6.
    tenant.site.curl(&["-u", &login, "-T", file, "ftp://192.168.1.1/big"]);
    let back = dir.path().join("back");
    for how in [&["ftp://192.168.1.1/big"][..], &["--disable-epsv", "ftp://192.168.1.1/big"], &["ftp://[fd00::1]/big"]]
    {
        tenant.site.curl(&[&["-u", &login, "-o", back.to_str().unwrap()], how].concat());
        assert!(std::fs::read(&back).unwrap() == big, "{how:?}");
    }
    tenant.site.curl(&["-u", &login, "-P", "-", "-o", back.to_str().unwrap(), "ftp://192.168.1.1/big"]);
    assert!(std::fs::read(&back).unwrap() == big, "active mode");
    assert_eq!(tenant.sh("stat -c '%U %s' /home/ada/big"), "ada 5000000");
    // lftp makes a directory, mirrors and looks around: it sees the home only.
    let script =
        format!("open -u ada,{SECRET} ftp://192.168.1.1; set xfer:log no; mkdir sub; cd sub; put {file}; cls /");
    assert_eq!(tenant.site.ok("lftp", &["-c", &script], &[("HOME", dir.path().to_str().unwrap())]), "/big\n/sub/\n");
    assert_eq!(tenant.sh("cmp /home/ada/big /home/ada/sub/big && echo same"), "same");

    let refused = |site: &crate::site::Site, login: &str| {
        let words = site.fails("curl", &["-sS", "--max-time", "10", "-u", login, "ftp://192.168.1.1/"], &[]);
        assert!(words.contains("530") || words.contains("Access denied"), "{words}");
    };
    refused(&tenant.site, "ada:wrong-password");
    refused(&tenant.site, "root:anything8");
    refused(&other.site, &login);
    let anybody = tenant.site.fails("curl", &["-sS", "--max-time", "10", "ftp://192.168.1.1/"], &[]);
    assert!(anybody.contains("530") || anybody.contains("denied"), "the stock configuration has no anonymous users");
    // A password that was changed inside stays changed when the service starts again.
    tenant.sh("echo ada:another-Word9 | chpasswd");
    tenant.restart("vsftpd");
    assert!(tenant.site.curl(&["-u", "ada:another-Word9", "ftp://192.168.1.1/"]).contains("big"));
    refused(&tenant.site, &login);
    assert_eq!(tenant.sh("ls -A /run/vsftpd"), "empty", "the first password is not left lying about");
}

pub(crate) fn settings() {
    let machine = Machine::new();
    let mut tenant = machine.tenant("acme");
    let set = [("upload", "no"), ("chroot", "no"), ("port", "2121"), ("pasv_min", "50000"), ("pasv_max", "50009")];
    tenant.serve("vsftpd", &[&set[..], &[("user", "ada"), ("password", SECRET)]].concat());
    tenant.sh("echo there >/home/ada/there; chown ada: /home/ada/there");
    let login = format!("ada:{SECRET}");
    let said =
        tenant.site.run("curl", &["-v", "-sS", "-u", &login, "--disable-epsv", "ftp://192.168.1.1:2121/there"], &[]);
    assert_eq!(said.stdout, b"there\n");
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("192,168,1,1,195,"), "a port of 50000 to 50009: {said}");
    assert!(tenant.site.curl(&["-u", &login, "ftp://192.168.1.1:2121//etc/hostname"]).contains("acme"));
    let put = tenant.site.fails("curl", &["-sS", "-T", "/etc/shells", "-u", &login, "ftp://192.168.1.1:2121/x"], &[]);
    assert!(put.contains("550"), "{put}");
}
