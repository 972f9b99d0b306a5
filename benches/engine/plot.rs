//! Draws cost against size as SVG, both axes logarithmic.

use std::fmt::Write;

/// A line of the plot: bytes of a version, and milliseconds of CPU.
pub(crate) struct Series {
    pub(crate) name: &'static str,
    pub(crate) colour: &'static str,
    pub(crate) points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 400.0;
/// Room for the labels at the left and at the bottom; half of it is left free at the other sides.
const MARGIN: f64 = 60.0;
/// Powers of ten at the ends of the axes: bytes, and milliseconds.
const X: (i32, i32) = (4, 7);
const Y: (i32, i32) = (-1, 5);

/// The plot.
pub(crate) fn svg(series: &[Series]) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    let (left, right, top, bottom) = (x(X.0), x(X.1), y(Y.1), y(Y.0));
    for power in X.0..=X.1 {
        let (at, label) = (x(power), ["10 kB", "100 kB", "1 MB", "10 MB"][(power - X.0) as usize]);
        line(&mut svg, (at, top), (at, bottom));
        text(&mut svg, at, bottom + 18.0, "middle", label);
    }
    for power in Y.0..=Y.1 {
        let label = match power {
            ..0 => format!("{:.1} ms", 10_f64.powi(power)),
            0..3 => format!("{} ms", 10_i32.pow(power as u32)),
            3.. => format!("{} s", 10_i32.pow(power as u32 - 3)),
        };
        line(&mut svg, (left, y(power)), (right, y(power)));
        text(&mut svg, left - 6.0, y(power) + 4.0, "end", &label);
    }
    for (nth, Series { name, colour, points }) in series.iter().enumerate() {
        let path: Vec<String> = points
            .iter()
            .map(|(bytes, ms)| format!("{:.1},{:.1}", at_x(bytes.log10()), at_y(ms.log10())))
            .collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            path.join(" ")
        );
        for point in &path {
            let (at, height) = point.split_once(',').unwrap_or_default();
            let _ = writeln!(svg, "<circle cx=\"{at}\" cy=\"{height}\" r=\"3\" fill=\"{colour}\"/>");
        }
        let height = top + 18.0 + 18.0 * nth as f64;
        let _ = writeln!(
            svg,
            "<rect x=\"{}\" y=\"{}\" width=\"12\" height=\"4\" fill=\"{colour}\"/>",
            left + 8.0,
            height - 6.0
        );
        text(&mut svg, left + 26.0, height, "start", name);
    }
    text(&mut svg, (left + right) / 2.0, HEIGHT - 12.0, "middle", "size of a version");
    svg + "</svg>\n"
}

fn line(svg: &mut String, from: (f64, f64), to: (f64, f64)) {
    let ((x1, y1), (x2, y2)) = (from, to);
    let _ =
        writeln!(svg, "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"#ddd\"/>");
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let _ =
        writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"#333\">{text}</text>");
}

fn x(power: i32) -> f64 {
    at_x(f64::from(power))
}

fn y(power: i32) -> f64 {
    at_y(f64::from(power))
}

/// Where a logarithm is on the axis, cut to its ends.
fn at_x(log: f64) -> f64 {
    MARGIN + (WIDTH - 1.5 * MARGIN) * share(log, X)
}

fn at_y(log: f64) -> f64 {
    HEIGHT - MARGIN - (HEIGHT - 1.5 * MARGIN) * share(log, Y)
}

fn share(log: f64, (least, most): (i32, i32)) -> f64 {
    ((log - f64::from(least)) / f64::from(most - least)).clamp(0.0, 1.0)
}
