#![allow(clippy::unwrap_used, clippy::expect_used)]

use proptest::prelude::*;

use super::*;

fn refused(word: &str) -> Invalid {
    Limits::from_words([word]).expect_err(word)
}

#[test]
fn words_are_read_and_written() {
    let words = [
        "cpu=1.5",
        "memory=512M",
        "processes=100",
        "io-read=20M",
        "io_write=10485760",
        "disk=2G",
        "rate-in=100M",
        "rate_out=64k",
        "connections=1000",
    ];
    let limits = Limits::from_words(words).unwrap();
    assert_eq!(limits.memory.unwrap().get(), 512 << 20);
    assert_eq!(limits.rate_in.unwrap().get(), 100_000_000);
    let text =
        "cpu=1.5 memory=512M processes=100 io_read=20M io_write=10M disk=2G rate_in=100M rate_out=64k connections=1000";
    assert_eq!(limits.to_string(), text);
    assert_eq!(Limits::from_words(text.split(' ')).unwrap(), limits);
}

#[test]
fn a_change_keeps_the_rest_and_none_takes_away() {
    let limits = Limits::from_words(["memory=512M", "cpu=2"]).unwrap();
    let limits = limits.with_words(["memory=none", "processes=9"]).unwrap();
    assert_eq!(limits.to_string(), "cpu=2 processes=9");
}

#[test]
fn refusals_name_field_value_and_rule() {
    for (word, field, value, rule) in [
        ("memory=lots", "memory", "lots", "must be a whole number of bytes"),
        ("memory=-1", "memory", "-1", "must be a whole number of bytes"),
        ("memory=0", "memory", "0", "more than zero"),
        ("memory=1e9", "memory", "1e9", "must be a whole number of bytes"),
        ("memory=1M", "memory", "1M", "init and one service need"),
        ("memory=9223372036854775807", "memory", "9223372036854775807", "more than the kernel can hold"),
        ("memory=99999999T", "memory", "99999999T", "must be a whole number of bytes"),
        ("memory=0.3K", "memory", "0.3K", "must be a whole number of bytes"),
        ("memory=", "memory", "", "must be a whole number of bytes"),
        ("memory=M", "memory", "M", "must be a whole number of bytes"),
        ("cpu=half", "cpu", "half", "must be a number of cores"),
        ("cpu=0.0001", "cpu", "0.0001", "three digits"),
        ("cpu=0.001", "cpu", "0.001", "at least 0.01"),
        ("cpu=0", "cpu", "0", "more than zero"),
        ("cpu=9000", "cpu", "9000", "at most 8192"),
        ("processes=1", "processes", "1", "init and one service need"),
        ("processes=1.5", "processes", "1.5", "must be a whole number"),
        ("processes=4194305", "processes", "4194305", "kernel's maximum"),
        ("processes=010", "processes", "010", "must be a whole number"),
        ("rate-in=1k", "rate_in", "1k", "at least 8k"),
        ("rate-out=fast", "rate_out", "fast", "bits a second"),
        ("rate-out=11T", "rate_out", "11T", "at most 10T"),
        ("disk=1M", "disk", "1M", "empty file system"),
        ("io-read=1", "io_read", "1", "at least 64K"),
        ("connections=0", "connections", "0", "more than zero"),
        ("connections=4294967296", "connections", "4294967296", "at most 4294967295"),
        ("swap=1G", "limit", "swap", "must be one of cpu, memory"),
        ("memory", "limit", "memory", "NAME=VALUE"),
    ] {
        let invalid = refused(word);
        assert_eq!((&*invalid.field, invalid.value.as_str()), (field, value), "{word}");
        assert!(invalid.rule.contains(rule), "{word}: {}", invalid.rule);
    }
    let twice = Limits::from_words(["memory=1G", "memory=2G"]).unwrap_err();
    assert_eq!(twice.rule, "is given twice");
}

#[test]
fn json_takes_numbers_and_text_and_writes_numbers() {
    let limits: Limits = serde_json::from_str(r#"{"cpu":1.5,"memory":"512M","processes":100,"rate_in":"1G"}"#).unwrap();
    let json = serde_json::to_value(limits).unwrap();
    let expected = serde_json::json!({"cpu": 1.5, "memory": 536_870_912, "processes": 100, "rate_in": 1_000_000_000});
    assert_eq!(json, expected);
    assert_eq!(serde_json::from_value::<Limits>(json).unwrap(), limits);
    for bad in [
        r#"{"memory":0}"#,
        r#"{"memory":-1}"#,
        r#"{"memory":1.5}"#,
        r#"{"memory":true}"#,
        r#"{"swap":1}"#,
        r#"{"cpu":-0.5}"#,
        r#"{"cpu":1e300}"#,
    ] {
        assert!(serde_json::from_str::<Limits>(bad).is_err(), "{bad}");
    }
}

#[test]
fn defaults_fill_only_what_is_missing() {
    assert_eq!(Limits::default().or_defaults().processes, Some(DEFAULT_PROCESSES));
    let asked = Limits::from_words(["processes=5000"]).unwrap();
    assert_eq!(asked.or_defaults(), asked);
}

proptest! {
    #[test]
    fn what_is_shown_is_read_back(milli in 10_u32..8_192_000, memory in (8_u64 << 20)..MOST_BYTES, rate in 8_000..MOST_RATE) {
        let limits = Limits {
            cpu: Cores::from_milli(milli),
            memory: Bytes::new(memory),
            rate_out: BitRate::new(rate),
            ..Limits::default()
        };
        prop_assert_eq!(Limits::from_words(limits.to_string().split(' ')).unwrap(), limits);
        let json = serde_json::to_string(&limits).unwrap();
        prop_assert_eq!(serde_json::from_str::<Limits>(&json).unwrap(), limits);
    }

    #[test]
    fn no_text_panics(text in ".{0,40}") {
        let _ = Limits::from_words([text]);
    }
}
