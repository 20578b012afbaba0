//! docs/metrics.md says what the program tells.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[test]
fn every_metric_is_in_the_document() {
    let expected = access_server::metrics::document();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let (begin, end) = ("<!-- begin access-server -->\n", "<!-- end access-server -->");
    let text = std::fs::read_to_string(path).unwrap();
    let (head, rest) = text.split_once(begin).expect("its beginning");
    let (found, tail) = rest.split_once(end).expect("its end");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        return std::fs::write(path, format!("{head}{begin}{expected}{end}{tail}")).unwrap();
    }
    assert_eq!(found, expected, "docs/metrics.md is not what the program tells; UPDATE_DOCS=1 writes it");
}
