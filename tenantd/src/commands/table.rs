//! Aligned columns for people.

/// Lines of cells, each column as wide as its widest cell, two spaces between.
pub(super) fn align(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| lines.iter().filter_map(|l| l.get(column)).map(|c| c.chars().count()).max();
    let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for line in lines {
        let cells: Vec<_> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// `word  value` lines; an empty value is left out.
pub(super) fn facts(facts: &[(&str, String)]) -> String {
    let lines: Vec<_> = facts
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(word, value)| vec![(*word).to_owned(), value.clone()])
        .collect();
    align(&lines)
}

/// Values with commas between.
pub(super) fn commas<T: ToString>(values: impl IntoIterator<Item = T>) -> String {
    let texts: Vec<_> = values.into_iter().map(|v| v.to_string()).collect();
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_have_no_trailing_space() {
        let line = |a: &str, b: &str| vec![a.to_owned(), b.to_owned()];
        assert_eq!(align(&[line("a", "x"), line("long", ""), line("b", "y")]), "a     x\nlong\nb     y\n");
        assert_eq!(facts(&[("vlan", "600".into()), ("mac", String::new())]), "vlan  600\n");
    }
}
