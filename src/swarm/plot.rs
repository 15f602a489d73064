//! A report as a drawing (SVG 1.1): seconds per node over the number of nodes, and how the boots of the last storm
//! came to their end. Pure.

use std::fmt::Write as _;

use super::report::{Report, seconds};

/// One diagram, in units of the drawing.
struct Panel {
    left: f64,
    title: &'static str,
    x_label: &'static str,
    y_label: &'static str,
    points: Vec<(f64, f64)>,
    dots: bool,
}

const TOP: f64 = 50.0;
const WIDTH: f64 = 380.0;
const HEIGHT: f64 = 260.0;

/// A number between marks of an axis that is easy to read: 1, 2 or 5 times a power of ten.
fn nice(span: f64) -> f64 {
    if !(span.is_finite() && span > 0.0) {
        return 1.0;
    }
    let rough = span / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let lead = rough / power;
    let factor = match () {
        () if lead <= 1.0 => 1.0,
        () if lead <= 2.0 => 2.0,
        () if lead <= 5.0 => 5.0,
        () => 10.0,
    };
    factor * power
}

/// Text that XML takes: control characters, which it cannot hold, become question marks.
fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\u{fffe}' | '\u{ffff}' => out.push('?'),
            c if c.is_control() => out.push('?'),
            c => out.push(c),
        }
    }
    out
}

impl Panel {
    fn draw(&self, out: &mut String) {
        let most = |of: fn(&(f64, f64)) -> f64| self.points.iter().map(of).fold(0.0, f64::max);
        let (x_step, y_step) = (nice(most(|p| p.0)), nice(most(|p| p.1)));
        let round_up = |value: f64, step: f64| (value / step).ceil().max(1.0) * step;
        let (x_max, y_max) = (
            round_up(most(|p| p.0), x_step),
            round_up(most(|p| p.1), y_step),
        );
        let x = |value: f64| self.left + value / x_max * WIDTH;
        let y = |value: f64| TOP + HEIGHT - value / y_max * HEIGHT;
        let bottom = TOP + HEIGHT;
        text(out, (self.left, TOP - 18.0), "start", 15, self.title);
        for mark in marks(x_max, x_step) {
            line(out, (x(mark), TOP), (x(mark), bottom), "#ddd");
            text(out, (x(mark), bottom + 16.0), "middle", 11, &label(mark));
        }
        for mark in marks(y_max, y_step) {
            line(
                out,
                (self.left, y(mark)),
                (self.left + WIDTH, y(mark)),
                "#ddd",
            );
            text(
                out,
                (self.left - 6.0, y(mark) + 4.0),
                "end",
                11,
                &label(mark),
            );
        }
        line(
            out,
            (self.left, bottom),
            (self.left + WIDTH, bottom),
            "#333",
        );
        line(out, (self.left, TOP), (self.left, bottom), "#333");
        let middle = self.left + WIDTH / 2.0;
        text(out, (middle, bottom + 34.0), "middle", 12, self.x_label);
        text(out, (self.left, TOP - 4.0), "start", 11, self.y_label);
        let path: Vec<String> = self
            .points
            .iter()
            .map(|p| format!("{:.1},{:.1}", x(p.0), y(p.1)))
            .collect();
        let _ = writeln!(
            out,
            r##"<polyline fill="none" stroke="#1f5fa8" stroke-width="2" points="{}"/>"##,
            path.join(" ")
        );
        if self.dots {
            for p in &self.points {
                let (x, y) = (x(p.0), y(p.1));
                let _ = writeln!(
                    out,
                    r##"<circle cx="{x:.1}" cy="{y:.1}" r="3.5" fill="#1f5fa8"/>"##
                );
            }
        }
    }
}

fn marks(max: f64, step: f64) -> impl Iterator<Item = f64> {
    let mut at = 0.0;
    std::iter::from_fn(move || {
        let now = at;
        at += step;
        (now <= max + step / 2.0).then_some(now)
    })
}

/// Up to four digits behind the point, without needless zeros.
fn label(value: f64) -> String {
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn line(out: &mut String, from: (f64, f64), to: (f64, f64), colour: &str) {
    let _ = writeln!(
        out,
        r#"<line x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}" stroke="{colour}"/>"#,
        from.0, from.1, to.0, to.1
    );
}

fn text(out: &mut String, at: (f64, f64), anchor: &str, size: u32, words: &str) {
    let _ = writeln!(
        out,
        r#"<text x="{:.1}" y="{:.1}" font-size="{size}" text-anchor="{anchor}">{}</text>"#,
        at.0,
        at.1,
        escape(words)
    );
}

/// The drawing.
#[must_use]
pub fn storm_svg(report: &Report) -> String {
    #[expect(clippy::cast_precision_loss, reason = "numbers of nodes")]
    let float = |n: usize| n as f64;
    let per_node = report
        .steps
        .iter()
        .map(|step| (float(step.nodes), step.seconds_per_node));
    let ended = report
        .steps
        .last()
        .map(|step| step.boots_ended_us.as_slice());
    let ended = ended.unwrap_or_default();
    let boots = (1..).zip(ended).map(|(n, at)| (seconds(*at), float(n)));
    let panels = [
        Panel {
            left: 70.0,
            title: "Seconds per node",
            x_label: "nodes at once",
            y_label: "s",
            points: per_node.collect(),
            dots: true,
        },
        Panel {
            left: 540.0,
            title: "Boots that have ended, last storm",
            x_label: "seconds since the start",
            y_label: "nodes",
            points: std::iter::once((0.0, 0.0)).chain(boots).collect(),
            dots: false,
        },
    ];
    let mut out = String::from(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\" \
         viewBox=\"0 0 960 390\" font-family=\"sans-serif\">\n<rect width=\"960\" height=\"390\" fill=\"#fff\"/>\n",
    );
    for panel in panels {
        panel.draw(&mut out);
    }
    let slope = report.slope_percent.map(|s| format!(", slope {s:.1} %"));
    let think = if report.think { "with" } else { "without" };
    let foot = format!(
        "{}, {think} think time, against {}{}",
        report.trace,
        report.target,
        slope.unwrap_or_default()
    );
    text(&mut out, (70.0, 376.0), "start", 11, &foot);
    out.push_str("</svg>\n");
    out
}

#[cfg(test)]
mod test {
    use super::super::report::{NodeReport, Step};
    use super::super::tally::Tally;
    use super::*;

    /// Elements open and close in their order, attributes are quoted, text is escaped. What XML 1.0 asks of a
    /// document without DTD, as far as this writer could break it.
    fn check(text: &str) {
        let mut rest = text
            .strip_prefix("<?xml version=\"1.0\" encoding=\"UTF-8\"?>")
            .unwrap();
        let (mut open, mut roots) = (Vec::new(), 0);
        while let Some(at) = rest.find('<') {
            assert!(
                !rest[..at].contains('>') && entities(&rest[..at]),
                "{}",
                &rest[..at]
            );
            let end = at + rest[at..].find('>').unwrap();
            let tag = &rest[at + 1..end];
            rest = &rest[end + 1..];
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name.to_owned()));
                continue;
            }
            let closed = tag.strip_suffix('/');
            let name = attributes(closed.unwrap_or(tag));
            roots += u32::from(open.is_empty());
            if closed.is_none() {
                open.push(name);
            }
        }
        assert!(open.is_empty() && roots == 1 && rest.trim().is_empty());
    }

    fn entities(text: &str) -> bool {
        let known = ["amp;", "lt;", "gt;", "quot;"];
        let mut all = text.split('&').skip(1);
        all.all(|part| known.iter().any(|k| part.starts_with(k)))
    }

    fn attributes(tag: &str) -> String {
        let (name, mut rest) = tag.split_once(' ').unwrap_or((tag, ""));
        let mut seen = Vec::new();
        while !rest.trim().is_empty() {
            let (key, after) = rest.trim_start().split_once("=\"").unwrap();
            let (value, after) = after.split_once('"').unwrap();
            assert!(!value.contains('<') && entities(value) && !seen.contains(&key));
            assert!(
                !value.contains("NaN") && !value.contains("inf"),
                "{key}={value}"
            );
            seen.push(key);
            rest = after;
        }
        name.to_owned()
    }

    fn step(nodes: usize, each_us: u64) -> Step {
        let node = |n: usize| NodeReport {
            done: true,
            ended_us: Some(each_us * (n as u64 + 1)),
            boot_us: Some(each_us),
            ..NodeReport::default()
        };
        let end = each_us * nodes as u64;
        let nodes: Vec<NodeReport> = (0..nodes).map(node).collect();
        Step::new(Tally::default(), &nodes, end, false)
    }

    #[test]
    fn the_drawing_is_well_formed_whatever_was_measured() {
        let report = |steps: Vec<Step>| {
            Report::new("a & b <\"trace\"> \u{1}".into(), "tgt".into(), false, steps)
        };
        let cases = [
            vec![],
            vec![step(0, 0)],
            vec![step(1, 0)],
            vec![step(10, 100_000), step(100, 110_000), step(1000, 120_000)],
        ];
        for steps in cases {
            check(&storm_svg(&report(steps)));
        }
    }

    #[test]
    #[should_panic(expected = "assertion")]
    fn a_broken_drawing_would_be_noticed() {
        let report = Report::new(String::new(), String::new(), true, vec![step(3, 5)]);
        check(&storm_svg(&report).replace("</text>", ""));
    }

    #[test]
    fn marks_are_easy_to_read() {
        for (span, step) in [
            (1000.0, 200.0),
            (0.7, 0.2),
            (3.0, 1.0),
            (0.0, 1.0),
            (26.0, 10.0),
        ] {
            assert!((nice(span) - step).abs() < 1e-9, "{span}: {}", nice(span));
        }
        assert_eq!(
            (label(0.25), label(100.0), label(0.0)),
            ("0.25".into(), "100".into(), "0".into())
        );
    }
}
