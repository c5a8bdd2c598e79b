//! Tables as Docker prints them: columns at least ten wide, three blanks apart. Pure.

/// The narrowest column, its distance from the next one included.
const WIDTH_MIN: usize = 10;
/// Blanks between a cell and the next column.
const GAP: usize = 3;

/// Lays rows out; the first one is the header. Tabs and line breaks in a cell become blanks.
pub fn layout(rows: &[Vec<String>]) -> String {
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().map(|cell| cell.replace(['\t', '\n'], " ")).collect();
        text += &cells.join("\t");
        text.push('\n');
    }
    align(&text)
}

/// Lays text out whose cells end with tabs. A column is what stands in the same place in lines below each other; what
/// follows the last tab of a line belongs to none.
pub fn align(text: &str) -> String {
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    let mut widths: Vec<Vec<usize>> = lines.iter().map(|cells| vec![0; cells.len()]).collect();
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let has = |line: usize, column: usize| lines.get(line).is_some_and(|cells| cells.len() > column + 1);
    for column in 0..columns {
        let mut from = 0;
        while from < lines.len() {
            let mut to = from;
            let mut width = WIDTH_MIN;
            while has(to, column) {
                width = width.max(lines[to][column].chars().count() + GAP);
                to += 1;
            }
            for line in &mut widths[from..to] {
                line[column] = width;
            }
            from = to.max(from + 1);
        }
    }
    let mut out = String::new();
    for (cells, widths) in lines.iter().zip(&widths) {
        for (cell, width) in cells.iter().zip(widths) {
            out.push_str(cell);
            let blanks = width.saturating_sub(cell.chars().count());
            out.extend(std::iter::repeat_n(' ', blanks));
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows =
            [["NAME", "TAG", "X"], ["a-long-name", "1", "é"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(
            layout(&rows),
            "NAME          TAG       X\na-long-name   1         é\n"
        );
    }

    #[test]
    fn a_column_ends_where_a_line_has_none() {
        assert_eq!(
            align("a\tb\nlonger than ten\tx\n\nc\td\n"),
            "a                 b\nlonger than ten   x\n\nc         d\n"
        );
        assert_eq!(align("a\t\nb\n"), "a         \nb\n");
        assert_eq!(align(""), "");
    }
}
