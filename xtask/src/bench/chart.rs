//! A chart of horizontal bars, in groups, as an SVG file.

use std::fmt::Write as _;

/// The colours of the bars of a group, in their order: Okabe and Ito's, which the colour-blind can tell apart.
const COLOURS: [&str; 4] = ["#009e73", "#e69f00", "#56b4e9", "#d55e00"];

const WIDTH: u32 = 1000;
const MARGIN: u32 = 24;
/// Where the bars begin.
const LEFT: u32 = 290;
/// What is left free after the longest bar, for its label.
const LABEL: u32 = 130;
const BAR: u32 = 11;
const GAP: u32 = 14;
const HEADER: u32 = 108;

/// A chart of shares.
pub(super) struct Chart<'a> {
    pub(super) title: &'a str,
    pub(super) subtitle: &'a str,
    /// What the bars of each group stand for: no more than there are colours.
    pub(super) series: &'a [String],
    pub(super) groups: &'a [Group],
}

/// Bars that belong together.
pub(super) struct Group {
    pub(super) name: String,
    pub(super) bars: Vec<Bar>,
}

/// A share, from 0 to 1, and what is written beside it.
pub(super) struct Bar {
    pub(super) share: f64,
    pub(super) label: String,
}

impl Chart<'_> {
    /// The file's text.
    pub(super) fn svg(&self) -> String {
        let group_height = |group: &Group| u32::try_from(group.bars.len()).unwrap_or(0) * BAR + GAP;
        let body: u32 = self.groups.iter().map(group_height).sum();
        let height = HEADER + body + 2 * MARGIN;
        let longest =
            self.groups.iter().flat_map(|group| &group.bars).map(|bar| bar.share).fold(0.0, f64::max);
        let (end, step) = axis(longest);
        let place = |share: f64| f64::from(LEFT) + share / end * f64::from(WIDTH - LEFT - LABEL);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
             font-size=\"12\" fill=\"#24292f\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
        );
        text(&mut svg, (f64::from(MARGIN), 34.0), "font-size=\"18\" font-weight=\"bold\"", self.title);
        text(&mut svg, (f64::from(MARGIN), 54.0), "fill=\"#57606a\"", self.subtitle);
        let mut x = f64::from(MARGIN);
        for (name, colour) in self.series.iter().zip(COLOURS) {
            rectangle(&mut svg, (x, 69.0), (12.0, 12.0), colour);
            text(&mut svg, (x + 18.0, 79.0), "", name);
            x += 40.0 + 7.0 * name.chars().count() as f64;
        }
        let (top, bottom) = (f64::from(HEADER), f64::from(HEADER + body));
        for tick in 0..=10 {
            let share = f64::from(tick) * step;
            if share > end * 1.001 {
                break;
            }
            let x = place(share);
            let _ = writeln!(
                svg,
                "<line x1=\"{x:.1}\" y1=\"{top}\" x2=\"{x:.1}\" y2=\"{bottom}\" stroke=\"#d0d7de\"/>"
            );
            let label = format!("{:.0} %", share * 100.0);
            text(&mut svg, (x, bottom + 16.0), "text-anchor=\"middle\" fill=\"#57606a\"", &label);
        }
        let mut y = HEADER + GAP / 2;
        for group in self.groups {
            let middle = f64::from(y + (group_height(group) - GAP) / 2) + 4.0;
            text(&mut svg, (f64::from(LEFT - 10), middle), "text-anchor=\"end\"", &group.name);
            for (bar, colour) in group.bars.iter().zip(COLOURS) {
                let top = f64::from(y);
                // A bar of nothing is a hair, so that one sees that it was measured.
                let width = (place(bar.share) - f64::from(LEFT)).max(1.0);
                rectangle(&mut svg, (f64::from(LEFT), top + 1.0), (width, f64::from(BAR - 2)), colour);
                text(&mut svg, (f64::from(LEFT) + width + 5.0, top + 9.0), "font-size=\"10\"", &bar.label);
                y += BAR;
            }
            y += GAP;
        }
        svg + "</svg>\n"
    }
}

/// Where the axis ends, and the distance of its ticks, so that the longest bar has its place.
fn axis(longest: f64) -> (f64, f64) {
    let step = [0.01, 0.02, 0.05, 0.1].into_iter().find(|step| longest <= step * 10.0).unwrap_or(0.1);
    let ticks = (longest / step).ceil().clamp(1.0, 10.0);
    (ticks * step, step)
}

fn rectangle(svg: &mut String, (x, y): (f64, f64), (width, height): (f64, f64), colour: &str) {
    let _ = writeln!(
        svg,
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>"
    );
}

fn text(svg: &mut String, (x, y): (f64, f64), style: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" {style}>{text}</text>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_share_and_text_is_escaped() {
        let bar = |share, label: &str| Bar { share, label: label.to_owned() };
        let groups = [Group { name: "a < b & c".to_owned(), bars: vec![bar(0.0, "none"), bar(0.1, "all")] }];
        let series = ["one".to_owned(), "two".to_owned()];
        let svg = Chart { title: "T", subtitle: "S", series: &series, groups: &groups }.svg();
        assert!(svg.contains("a &lt; b &amp; c"), "{svg}");
        // The axis ends at the longest bar, which is as wide as there is room.
        assert!(
            svg.contains(&format!("width=\"{}.0\" height=\"9.0\" fill=\"#e69f00\"", WIDTH - LEFT - LABEL)),
            "{svg}"
        );
        assert!(svg.contains("width=\"1.0\" height=\"9.0\" fill=\"#009e73\""), "{svg}");
        assert!(svg.trim_end().ends_with("</svg>"));
    }

    #[test]
    fn the_axis_ends_at_a_round_number_beyond_the_longest_bar() {
        for (longest, end) in [(0.0, 0.01), (0.034, 0.04), (0.11, 0.12), (0.33, 0.35), (1.0, 1.0)] {
            assert!((axis(longest).0 - end).abs() < 1e-9, "{longest}: {:?}", axis(longest));
        }
    }
}
