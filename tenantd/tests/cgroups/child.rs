//! What a test lets run inside a cgroup: this program again, with a role as its first argument.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Plays the role named on the command line, if there is one.
pub(crate) fn role() -> Option<ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let role = words.first()?.strip_prefix("--role=")?;
    let number = |i: usize| words.get(i).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
    // Whatever happens: no role outlives its test by much.
    // SAFETY: plain system call.
    unsafe { libc::alarm(60) };
    match role {
        "sleep" => std::thread::sleep(Duration::from_secs(60)),
        "hog" => hog(number(1)),
        "hold" => {
            hog(number(1));
            say("held");
            std::thread::sleep(Duration::from_secs(60));
        }
        "fork" => fork(number(1)),
        "respawn" => respawn(number(1)),
        "spin" => spin(),
        "write" => direct(&words[1], number(2), true),
        "read" => direct(&words[1], number(2), false),
        _ => return Some(ExitCode::from(2)),
    }
    Some(ExitCode::SUCCESS)
}

fn say(words: impl std::fmt::Display) {
    println!("{words}");
    let _ = std::io::stdout().flush();
}

/// Touches so many bytes.
fn hog(bytes: u64) {
    let mut memory = vec![0_u8; usize::try_from(bytes).unwrap()];
    for page in memory.chunks_mut(4096) {
        page[0] = 1;
    }
    std::mem::forget(std::hint::black_box(memory));
}

/// Tries to make so many sleeping children at once and says how many it got.
fn fork(most: u64) {
    let mut made = 0;
    for _ in 0..most {
        // SAFETY: one thread; the child only sleeps.
        match unsafe { libc::fork() } {
            // SAFETY: system calls in the child.
            0 => unsafe {
                libc::alarm(60);
                libc::sleep(60);
                libc::_exit(0);
            },
            -1 => {}
            _ => made += 1,
        }
    }
    say(made);
    std::thread::sleep(Duration::from_secs(60));
}

/// Two processes that replace each other again and again, so often at most.
fn respawn(most: u64) {
    say("going");
    for _ in 0..most {
        // SAFETY: one thread.
        match unsafe { libc::fork() } {
            // Not as fast as it can: the machine's init has to reap them all.
            0 => std::thread::sleep(Duration::from_micros(500)),
            -1 => std::thread::sleep(Duration::from_millis(1)),
            // The parent goes, the child goes on.
            // SAFETY: nothing to tidy up.
            _ => unsafe { libc::_exit(0) },
        }
    }
}

fn spin() {
    let until = Instant::now() + Duration::from_secs(120);
    while Instant::now() < until {
        std::hint::spin_loop();
    }
}

/// Moves so many blocks of 64 KiB past the page cache and says how many milliseconds it took.
fn direct(path: &str, blocks: u64, write: bool) {
    let mut options = OpenOptions::new();
    options.custom_flags(libc::O_DIRECT);
    let mut file = if write { options.write(true).open(path).unwrap() } else { options.read(true).open(path).unwrap() };
    let mut memory = vec![0x5A_u8; 128 << 10];
    let start = memory.as_ptr().align_offset(4096);
    let block = &mut memory[start..start + (64 << 10)];
    let began = Instant::now();
    for _ in 0..blocks {
        if write {
            file.write_all(block).unwrap();
        } else {
            file.read_exact(block).unwrap();
        }
    }
    say(began.elapsed().as_millis());
}
