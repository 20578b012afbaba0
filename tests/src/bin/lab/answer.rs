//! A web server of one sentence: what a host of a closed network runs while the demo shows the server's push.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;

use anyhow::{Context as _, Result};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Address and port to listen on.
    listen: String,
    /// What is answered.
    text: String,
}

pub(crate) fn run(args: &Args) -> Result<u8> {
    let listener = TcpListener::bind(&args.listen).with_context(|| format!("cannot listen on {}", args.listen))?;
    println!("listening");
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        let mut line = String::new();
        let mut request = BufReader::new(&stream);
        // The request ends with an empty line.
        while request.read_line(&mut line).is_ok_and(|n| n > 2) {
            line.clear();
        }
        let text = &args.text;
        let _ = write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
    }
    Ok(0)
}
