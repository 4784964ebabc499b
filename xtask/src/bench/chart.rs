//! A chart of horizontal bars, in groups, as an SVG file.

use std::fmt::Write as _;

use super::figure::{Figure, number};

/// The colours of the bars of a group, in their order: Okabe and Ito's, which the colour-blind can tell apart.
const COLOURS: [&str; 7] = ["#009e73", "#e69f00", "#56b4e9", "#d55e00", "#cc79a7", "#0072b2", "#999999"];

const WIDTH: u32 = 1000;
const MARGIN: u32 = 24;
/// Where the bars begin.
const LEFT: u32 = 290;
/// What is left free after the longest bar, for its label.
const LABEL: u32 = 150;
const BAR: u32 = 11;
const GAP: u32 = 14;
/// What the title, the subtitle and one line of the legend take.
const HEADER: u32 = 108;
const LEGEND_LINE: u32 = 18;

/// A chart of figures of one unit.
pub(super) struct Chart<'a> {
    pub(super) title: &'a str,
    pub(super) subtitle: &'a str,
    pub(super) unit: &'a str,
    /// What the bars of each group stand for.
    pub(super) series: &'a [String],
    pub(super) groups: &'a [Group],
}

/// Bars that belong together: one for each of the series, where there is a figure.
pub(super) struct Group {
    pub(super) name: String,
    pub(super) bars: Vec<Option<Figure>>,
}

impl Chart<'_> {
    /// The file's text.
    pub(super) fn svg(&self) -> String {
        let bars = |group: &Group| group.bars.iter().flatten().count();
        let group_height = |group: &Group| u32::try_from(bars(group)).unwrap_or(0) * BAR + GAP;
        let (legend, legend_lines) = self.legend();
        let header = HEADER + LEGEND_LINE * (legend_lines - 1);
        let body: u32 = self.groups.iter().map(group_height).sum();
        let height = header + body + 2 * MARGIN;
        let figures = || self.groups.iter().flat_map(|group| &group.bars).flatten();
        let (end, step) = axis(figures().map(|figure| figure.highest).fold(0.0, f64::max));
        let place = |value: f64| f64::from(LEFT) + value.max(0.0) / end * f64::from(WIDTH - LEFT - LABEL);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
             font-size=\"12\" fill=\"#24292f\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
        );
        text(&mut svg, (f64::from(MARGIN), 34.0), "font-size=\"18\" font-weight=\"bold\"", self.title);
        text(&mut svg, (f64::from(MARGIN), 54.0), "fill=\"#57606a\"", self.subtitle);
        svg += &legend;
        let (top, bottom) = (f64::from(header), f64::from(header + body));
        for tick in 0..=10 {
            let value = f64::from(tick) * step;
            if value > end * 1.001 {
                break;
            }
            let x = place(value);
            let _ = writeln!(
                svg,
                "<line x1=\"{x:.1}\" y1=\"{top}\" x2=\"{x:.1}\" y2=\"{bottom}\" stroke=\"#d0d7de\"/>"
            );
            let label = format!("{} {}", number(value), self.unit);
            text(&mut svg, (x, bottom + 16.0), "text-anchor=\"middle\" fill=\"#57606a\"", label.trim_end());
        }
        let mut y = header + GAP / 2;
        for group in self.groups {
            let middle = f64::from(y + (group_height(group) - GAP) / 2) + 4.0;
            text(&mut svg, (f64::from(LEFT - 10), middle), "text-anchor=\"end\"", &group.name);
            for (bar, colour) in group.bars.iter().zip(COLOURS.iter().cycle()) {
                let Some(figure) = bar else { continue };
                let top = f64::from(y);
                // A bar of nothing is a hair, so that one sees that it was measured.
                let width = (place(figure.median) - f64::from(LEFT)).max(1.0);
                rectangle(&mut svg, (f64::from(LEFT), top + 1.0), (width, f64::from(BAR - 2)), colour);
                let (from, to) = (place(figure.lowest), place(figure.highest));
                if to - from >= 1.0 {
                    rectangle(&mut svg, (from, top + 5.0), (to - from, 1.0), "#24292f");
                }
                let label = to.max(f64::from(LEFT) + width) + 5.0;
                text(&mut svg, (label, top + 9.0), "font-size=\"10\"", &figure.shown());
                y += BAR;
            }
            y += GAP;
        }
        svg + "</svg>\n"
    }

    /// What the colours stand for, and how many lines that takes.
    fn legend(&self) -> (String, u32) {
        let mut svg = String::new();
        let (mut x, mut lines) = (f64::from(MARGIN), 1);
        for (name, colour) in self.series.iter().zip(COLOURS.iter().cycle()) {
            let width = 40.0 + 7.0 * name.chars().count() as f64;
            if x + width > f64::from(WIDTH - MARGIN) && x > f64::from(MARGIN) {
                x = f64::from(MARGIN);
                lines += 1;
            }
            let y = f64::from(69 + LEGEND_LINE * (lines - 1));
            rectangle(&mut svg, (x, y), (12.0, 12.0), colour);
            text(&mut svg, (x + 18.0, y + 10.0), "", name);
            x += width;
        }
        (svg, lines)
    }
}

/// Where the axis ends, and the distance of its ticks, so that the longest bar has its place.
fn axis(longest: f64) -> (f64, f64) {
    if longest <= 0.0 {
        return (1.0, 1.0);
    }
    let power = 10f64.powf((longest / 10.0).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|step| step * power)
        .find(|step| longest <= step * 10.0)
        .unwrap_or(10.0 * power);
    ((longest / step).ceil() * step, step)
}

fn rectangle(svg: &mut String, (x, y): (f64, f64), (width, height): (f64, f64), colour: &str) {
    let _ = writeln!(
        svg,
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>"
    );
}

fn text(svg: &mut String, (x, y): (f64, f64), style: &str, text: &str) {
    let text = super::report::escaped(text);
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" {style}>{text}</text>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_figure_and_text_is_escaped() {
        let bars = vec![Some(Figure::exact(0.0)), None, Some(Figure::exact(100.0).with_note("of all"))];
        let groups = [Group { name: "a < b & c".to_owned(), bars }];
        let series = ["one", "two", "three"].map(str::to_owned);
        let svg = Chart { title: "T", subtitle: "S", unit: "ns", series: &series, groups: &groups }.svg();
        assert!(svg.contains("a &lt; b &amp; c"), "{svg}");
        assert!(svg.contains("100 of all") && svg.contains(">100 ns<"), "{svg}");
        // The axis ends at the longest bar, which is as wide as there is room; no bar stands for what was not measured.
        let longest = format!("width=\"{}.0\" height=\"9.0\" fill=\"{}\"", WIDTH - LEFT - LABEL, COLOURS[2]);
        assert!(svg.contains(&longest), "{svg}");
        assert!(svg.contains(&format!("width=\"1.0\" height=\"9.0\" fill=\"{}\"", COLOURS[0])), "{svg}");
        assert!(!svg.contains(&format!("height=\"9.0\" fill=\"{}\"", COLOURS[1])), "{svg}");
        assert!(svg.trim_end().ends_with("</svg>"));
    }

    #[test]
    fn the_axis_ends_at_a_round_number_beyond_the_longest_bar() {
        for (longest, end) in [(0.0, 1.0), (0.034, 0.035), (0.11, 0.12), (922.0, 1000.0), (9400.0, 10_000.0)]
        {
            assert!((axis(longest).0 - end).abs() < 1e-9, "{longest}: {:?}", axis(longest));
        }
    }

    #[test]
    fn a_long_legend_goes_on_in_another_line() {
        let series: Vec<_> = (0..12).map(|number| format!("a long name, number {number}")).collect();
        let chart = Chart { title: "", subtitle: "", unit: "", series: &series, groups: &[] };
        assert!(chart.legend().1 > 1);
    }
}
