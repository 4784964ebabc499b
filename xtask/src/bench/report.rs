//! How findings are shown: on the terminal, as a page for docs/benchmarks, as charts, and as one report of all suites.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result};

use super::{
    chart::{Chart, Group},
    findings::{Findings, Table},
    table,
};
use crate::progress;

/// Text in HTML or SVG.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Prints what was found.
pub(super) fn print(findings: &Findings) {
    println!("\n{}\n{}", findings.title, findings.machine.shown());
    for table in &findings.tables {
        println!("\n{}:\n", table.title);
        table::lines(&table.text()).iter().for_each(|line| println!("{line}"));
    }
    if !findings.targets.is_empty() {
        println!("\nTargets:\n");
        table::lines(&findings.targets_text()).iter().for_each(|line| println!("{line}"));
    }
    for line in findings.bounds().iter().chain(&findings.remarks) {
        println!("\n{line}");
    }
}

/// The page of a suite, with its charts beside it.
pub(super) fn markdown(findings: &Findings) -> String {
    let mut page = format!("# {}\n\n", findings.title);
    let _ = writeln!(
        page,
        "Printed by\n\n```sh\n{}\n```\n\non {}, in {}.",
        findings.command,
        findings.machine.shown(),
        progress::took(std::time::Duration::from_secs_f64(findings.took_seconds.max(0.0)))
    );
    for paragraph in &findings.method {
        let _ = write!(page, "\n{paragraph}\n");
    }
    for table in &findings.tables {
        let _ = write!(page, "\n## {}\n\n", table.title);
        if table.is_drawn {
            let _ = write!(page, "![{}]({})\n\n", table.title, chart_file(findings, table));
        }
        page += &markdown_table(&table.text());
    }
    if !findings.targets.is_empty() {
        page += "\n## Targets\n\n";
        page += &markdown_table(&findings.targets_text());
    }
    for line in findings.bounds().iter().chain(&findings.remarks) {
        let _ = write!(page, "\n{line}\n");
    }
    page
}

fn markdown_table(rows: &[Vec<String>]) -> String {
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let cells: Vec<_> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
        let _ = writeln!(text, "| {} |", cells.join(" | "));
        if number == 0 {
            let rules = row.iter().enumerate().map(|(column, _)| if column == 0 { "---" } else { "---:" });
            let _ = writeln!(text, "|{}|", rules.collect::<Vec<_>>().join("|"));
        }
    }
    text
}

/// The name of a table's chart.
fn chart_file(findings: &Findings, table: &Table) -> String {
    if table.name == findings.suite {
        format!("{}.svg", findings.suite)
    } else {
        format!("{}-{}.svg", findings.suite, table.name)
    }
}

/// A table's chart: its columns of the first one's unit.
fn chart(findings: &Findings, table: &Table) -> String {
    let unit = table.columns.first().map_or("", |column| &column.unit);
    let drawn: Vec<_> = table
        .columns
        .iter()
        .enumerate()
        .filter(|(_, column)| column.unit == unit)
        .map(|(at, _)| at)
        .collect();
    let series: Vec<_> =
        drawn.iter().filter_map(|at| table.columns.get(*at)).map(|column| column.title.clone()).collect();
    let group = |row: &super::findings::Row| Group {
        name: row.name.clone(),
        bars: drawn.iter().map(|at| row.cells.get(*at).cloned().flatten()).collect(),
    };
    let groups: Vec<_> = table.rows.iter().map(group).collect();
    let subtitle = format!("{}; {}", findings.command, findings.machine.shown());
    Chart { title: &table.title, subtitle: &subtitle, unit, series: &series, groups: &groups }.svg()
}

/// Writes a suite's findings, page and charts into a directory.
pub(super) fn write(findings: &Findings, directory: &Path) -> Result<()> {
    for table in findings.tables.iter().filter(|table| table.is_drawn) {
        save(&directory.join(chart_file(findings, table)), &chart(findings, table))?;
    }
    save(&directory.join(format!("{}.md", findings.suite)), &markdown(findings))?;
    save_json(findings, &directory.join(format!("{}.json", findings.suite)))
}

/// Writes every figure, for programs.
pub(super) fn save_json(findings: &Findings, path: &Path) -> Result<()> {
    save(path, &(serde_json::to_string_pretty(findings)? + "\n"))
}

/// Makes one report of all suites whose findings lie in a directory, in the order given.
pub(super) fn write_index(directory: &Path, suites: &[&str]) -> Result<()> {
    let mut body = String::new();
    for suite in suites {
        let path = directory.join(format!("{suite}.json"));
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let findings: Findings = serde_json::from_str(&text).with_context(|| {
            format!("cannot read {}: run `cargo xtask bench {suite}` again", path.display())
        })?;
        body += &html(&findings);
    }
    let page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>The mesh, measured</title>\n<style>{STYLE}\
         </style>\n<h1>The mesh, measured</h1>\n{body}</html>\n"
    );
    save(&directory.join("index.html"), &page)
}

const STYLE: &str = "body{font:15px/1.5 sans-serif;color:#24292f;max-width:1040px;margin:2em auto;padding:0 1em}\
    table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #d0d7de;padding:.3em .7em;text-align:right}\
    td:first-child,th:first-child{text-align:left}code{background:#f6f8fa;padding:.1em .3em}.met{color:#1a7f37}\
    .missed{color:#cf222e}svg{width:100%;height:auto}";

fn html(findings: &Findings) -> String {
    let mut html = format!(
        "<h2 id=\"{}\">{}</h2>\n<p><code>{}</code> on {}</p>\n",
        escaped(&findings.suite),
        escaped(&findings.title),
        escaped(&findings.command),
        escaped(&findings.machine.shown())
    );
    for paragraph in &findings.method {
        let _ = writeln!(html, "<p>{}</p>", escaped(paragraph));
    }
    for table in &findings.tables {
        let _ = writeln!(html, "<h3>{}</h3>", escaped(&table.title));
        if table.is_drawn {
            html += &chart(findings, table);
        }
        html += &html_table(&table.text());
    }
    if !findings.targets.is_empty() {
        html += "<h3>Targets</h3>\n";
        html += &html_table(&findings.targets_text());
    }
    for line in findings.bounds().iter().chain(&findings.remarks) {
        let _ = writeln!(html, "<p>{}</p>", escaped(line));
    }
    html
}

fn html_table(rows: &[Vec<String>]) -> String {
    let mut html = "<table>\n".to_owned();
    for (number, row) in rows.iter().enumerate() {
        let tag = if number == 0 { "th" } else { "td" };
        let cell = |cell: &String| match cell.as_str() {
            "met" | "missed" => format!("<{tag} class=\"{cell}\">{cell}</{tag}>"),
            _ => format!("<{tag}>{}</{tag}>", escaped(cell)),
        };
        let _ = writeln!(html, "<tr>{}</tr>", row.iter().map(cell).collect::<String>());
    }
    html + "</table>\n"
}

fn save(path: &Path, text: &str) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{
        figure::Figure,
        findings::{Column, Row, Target},
        machine::Machine,
    };

    fn findings() -> Findings {
        Findings {
            suite: "trial".to_owned(),
            title: "A trial".to_owned(),
            method: vec!["One < two.".to_owned()],
            command: "cargo xtask bench trial".to_owned(),
            machine: Machine::this(),
            took_seconds: 1.5,
            tables: vec![Table {
                name: "cost".to_owned(),
                title: "What a packet costs".to_owned(),
                rows_are: "path".to_owned(),
                columns: vec![Column::new("mesh", "ns"), Column::new("lost", "packets")],
                rows: vec![Row {
                    name: "a|b".to_owned(),
                    cells: vec![Figure::of(&[10.0, 12.0, 11.0]), None],
                }],
                is_drawn: true,
            }],
            targets: vec![
                Target::at_most("mesh", 20.0, "ns", Figure::exact(11.0)).bounded_by("nothing"),
                Target::at_least("share", 1.0, "", Figure::exact(0.5)).bounded_by("the copy of each packet"),
            ],
            remarks: vec![],
        }
    }

    #[test]
    fn a_page_tells_the_command_the_figures_and_what_bounds_a_missed_target() {
        let page = markdown(&findings());
        for told in [
            "cargo xtask bench trial",
            "| a\\|b | 11 ±9 % | – |",
            "![What a packet costs](trial-cost.svg)",
            "| mesh | at most 20 ns | 11 ns | met |",
            "| share | at least 1 | 0.50 | missed |",
            "share: the copy of each packet",
        ] {
            assert!(page.contains(told), "{told} in {page}");
        }
        assert!(!page.contains("nothing"), "{page}");
    }

    #[test]
    fn the_report_holds_every_suite_that_was_run() -> Result<()> {
        let directory = std::env::temp_dir().join(format!("mesh-report-{}", std::process::id()));
        write(&findings(), &directory)?;
        write_index(&directory, &["absent", "trial"])?;
        let page = fs::read_to_string(directory.join("index.html"));
        let chart = fs::read_to_string(directory.join("trial-cost.svg"));
        fs::remove_dir_all(&directory)?;
        let page = page?;
        assert!(
            page.contains("One &lt; two.") && page.contains("<td class=\"missed\">missed</td>"),
            "{page}"
        );
        assert!(page.contains("<svg") && chart?.contains("11 ±9 %"));
        Ok(())
    }
}
