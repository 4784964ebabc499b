//! A table for people: the first column at the left, the others at the right of their widths.

/// Lines of a table, the first of which are its headings.
pub(super) fn lines(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let gap = " ".repeat(width - cell.chars().count());
            line += &if column == 0 { format!("{cell}{gap}") } else { format!("   {gap}{cell}") };
        }
        line.trim_end().to_owned()
    };
    let mut lines: Vec<_> = rows.iter().map(line).collect();
    if !lines.is_empty() {
        let rule = widths.iter().sum::<usize>() + 3 * columns.saturating_sub(1);
        lines.insert(1, "─".repeat(rule));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_stand_below_each_other() {
        let rows = [["event", "one"], ["äh", "12345"], ["longer", "1"]];
        let rows: Vec<_> = rows.iter().map(|row| row.map(str::to_owned).to_vec()).collect();
        assert_eq!(lines(&rows), ["event      one", "──────────────", "äh       12345", "longer       1"]);
        assert!(lines(&[]).is_empty());
    }
}
