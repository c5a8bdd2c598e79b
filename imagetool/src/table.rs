//! Tables as Docker prints them: columns at least ten wide, three blanks apart, no blanks at the end of a line. Pure.

/// Lays rows out; the first one is the header.
pub fn layout(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells
            .map(|cell| cell.chars().count() + 3)
            .max()
            .unwrap_or(0)
            .max(10)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(
                ' ',
                width.saturating_sub(cell.chars().count()),
            ));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_line_up() {
        let rows =
            [["NAME", "TAG", "X"], ["a-long-name", "1", "é"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(
            super::layout(&rows),
            "NAME          TAG       X\na-long-name   1         é\n"
        );
    }
}
