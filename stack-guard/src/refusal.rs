//! Refusals and hooks. The lists themselves are `src/bpf/refusals.h` and `src/bpf/hooks.h`.

include!(concat!(env!("OUT_DIR"), "/refusal.rs"));
include!(concat!(env!("OUT_DIR"), "/hook.rs"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_go_both_ways() {
        for &refusal in Refusal::ALL {
            assert_eq!(Refusal::from_number(refusal as u32), Some(refusal));
            assert_eq!(Refusal::from_name(refusal.name()), Some(refusal));
        }
        for &hook in Hook::ALL {
            assert_eq!(Hook::from_number(hook as u32), Some(hook));
            assert_eq!(Hook::from_name(hook.name()), Some(hook));
        }
        assert_eq!(Refusal::from_number(0), None);
        assert_eq!(Hook::from_number(0), None);
    }

    #[test]
    fn the_readme_lists_them_all() {
        let readme = include_str!("../README.md");
        let refusals = Refusal::ALL.iter().map(|one| (one.name(), one.doc()));
        for (name, doc) in refusals.chain(Hook::ALL.iter().map(|one| (one.name(), one.doc()))) {
            let row = format!("| `{name}` | {doc} |");
            assert!(readme.contains(&row), "README.md lacks the row {row}");
        }
    }
}
