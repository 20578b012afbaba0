//! A VLAN port on a kernel without `8021q`: makes one end of a veth the port of a VLAN on a trunk device.
//!
//! ```text
//! vlan_port --trunk eth1 --vid 600 --port p600 --mac 02:00:00:00:06:00 [--mtu 1500] [--pins DIR] [--watch | --delete]
//! ```
//!
//! The frames go on when this program ends; started again it adopts what is there. See README.md.

use std::error::Error;
use std::ffi::CString;
use std::time::Duration;

use vlan_rs::{
    Layer, OpenOptions, PACKET_RATE, PortConfig, PortId, RateLimit, Room, Tag, TrunkConfig, TrunkMode, UnknownTag, Vid,
};

/// What the command line says.
struct Arguments {
    trunk: u32,
    vid: Vid,
    port: u32,
    mac: [u8; 6],
    mtu: u32,
    pins: String,
    watch: bool,
    delete: bool,
}

const USAGE: &str = "usage: vlan_port --trunk DEV --vid 1..4094 --port DEV --mac MAC [--mtu N] [--pins DIR] \
                     [--watch | --delete]";

fn index_of(device: &str) -> Result<u32, Box<dyn Error>> {
    let name = CString::new(device)?;
    // SAFETY: a C string that lives until the call returns.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(format!("{device}: no such device").into()),
        index => Ok(index),
    }
}

fn mac_of(text: &str) -> Result<[u8; 6], Box<dyn Error>> {
    let bytes: Result<Vec<u8>, _> = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect();
    bytes?.try_into().map_err(|_| format!("{text}: not a MAC address").into())
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, Box<dyn Error>> {
    let (mut trunk, mut vid, mut port, mut mac) = (None, None, None, None);
    let (mut mtu, mut pins, mut watch, mut delete) = (1500, "/sys/fs/bpf/vlan_port".to_owned(), false, false);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value\n{USAGE}"));
        match word.as_str() {
            "--trunk" => trunk = Some(index_of(&value()?)?),
            "--vid" => vid = Some(value()?.parse()?),
            "--port" => port = Some(index_of(&value()?)?),
            "--mac" => mac = Some(mac_of(&value()?)?),
            "--mtu" => mtu = value()?.parse()?,
            "--pins" => pins = value()?,
            "--watch" => watch = true,
            "--delete" => delete = true,
            _ => return Err(format!("{word}?\n{USAGE}").into()),
        }
    }
    let (Some(trunk), Some(vid), Some(port), Some(mac)) = (trunk, vid, port, mac) else { return Err(USAGE.into()) };
    Ok(Arguments { trunk, vid, port, mac, mtu, pins, watch, delete })
}

/// The whole program; `words` are its arguments.
pub fn run(words: impl Iterator<Item = String>) -> Result<(), Box<dyn Error>> {
    let arguments = parse(words)?;
    let mut room = Room::open(&OpenOptions::new(&arguments.pins))?;
    let tag = Tag { trunk: arguments.trunk, vid: arguments.vid };
    if arguments.delete {
        room.delete_port(PortId::Tag(tag))?;
        println!("{tag}: removed");
        return Ok(());
    }
    // A NIC that also carries frames of others: what has no port here is the host's.
    let trunk = TrunkConfig { unknown: UnknownTag::Pass, ..TrunkConfig::new(tag.trunk, TrunkMode::Plain) };
    room.attach_trunk(&trunk)?;
    let mut gateway_mac = arguments.mac;
    gateway_mac[5] ^= 0xff;
    let change = room.put_port(&PortConfig {
        ifindex: arguments.port,
        trunk: tag.trunk,
        vid: tag.vid,
        mac: arguments.mac,
        gateway_mac,
        layer: Layer::Two,
        mtu: arguments.mtu,
        answer: Vec::new(),
        neighbour_rate: RateLimit::default(),
        packet_rate: PACKET_RATE,
        class: 0,
    })?;
    println!("{tag}: {change:?}");
    if !arguments.watch {
        return Ok(());
    }
    loop {
        println!("{:?}", room.counters_of(tag)?);
        std::thread::sleep(Duration::from_secs(1));
    }
}

#[allow(dead_code)] // The tests include this file and call run().
fn main() -> Result<(), Box<dyn Error>> {
    run(std::env::args().skip(1))
}
