//! Pictures, drawn here as SVG. What they show is said beside them or in their label.

use maud::{Markup, html};

/// Size of a sparkline's drawing; a page scales it.
const WIDTH: usize = 120;
const HEIGHT: usize = 24;
/// Colours that the style sheet has for parts; more parts begin anew with the first.
pub(super) const COLOURS: usize = 7;

/// A bar for each point, as high as its share of the highest; one is more than none.
pub(super) fn bars(points: &[u64], label: &str) -> Markup {
    let most = points.iter().copied().max().unwrap_or(0).max(1);
    let each = WIDTH as f64 / points.len().max(1) as f64;
    let height = |point: u64| match point {
        0 => 1.0,
        point => (point as f64 / most as f64 * HEIGHT as f64).max(3.0),
    };
    html! {
        svg.spark viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label=(label) preserveAspectRatio="none" {
            @for (at, point) in points.iter().enumerate() {
                @let high = height(*point);
                rect x=(decimal(at as f64 * each)) y=(decimal(HEIGHT as f64 - high)) width=(decimal((each - 1.0).max(0.5)))
                    height=(decimal(high)) class=[(*point == 0).then_some("zero")] {}
            }
        }
    }
}

/// A line through the points, against the highest.
pub(super) fn line(points: &[u64], label: &str) -> Markup {
    let most = points.iter().copied().max().unwrap_or(0).max(1) as f64;
    let step = WIDTH as f64 / points.len().saturating_sub(1).max(1) as f64;
    let room = HEIGHT as f64 - 2.0;
    let place = |(at, point): (usize, &u64)| {
        format!("{},{}", decimal(at as f64 * step), decimal(1.0 + room - *point as f64 / most * room))
    };
    let places: Vec<String> = points.iter().enumerate().map(place).collect();
    html! {
        svg.spark viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label=(label) preserveAspectRatio="none" {
            @if places.len() > 1 { polyline points=(places.join(" ")) {} }
        }
    }
}

/// How full something is, of 1. Parts come in the order of their names, each with its share.
pub(super) fn stacked(parts: &[(&str, f64)], label: &str) -> Markup {
    let mut from = 0.0;
    html! {
        svg.stacked viewBox="0 0 100 6" role="img" aria-label=(label) preserveAspectRatio="none" {
            rect.room width="100" height="6" {}
            @for (at, (_, share)) in parts.iter().enumerate() {
                @let width = (share * 100.0).clamp(0.0, 100.0 - from);
                rect class={ "part" (at % COLOURS) } x=(decimal(from)) width=(decimal(width)) height="6" {}
                @let () = from += width;
            }
        }
    }
}

/// How much of a limit was used; red where it is reached.
pub(super) fn meter(used: u64, limit: u64, label: &str) -> Markup {
    let share = used as f64 / limit.max(1) as f64;
    let class = if share >= 1.0 {
        "bad"
    } else if share >= 0.8 {
        "warn"
    } else {
        "good"
    };
    html! {
        svg.meter.(class) viewBox="0 0 100 6" role="img" aria-label=(label) preserveAspectRatio="none" {
            rect.room width="100" height="6" {}
            rect.used width=(decimal((share * 100.0).min(100.0))) height="6" {}
        }
    }
}

fn decimal(number: f64) -> String {
    format!("{number:.1}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_drawn_against_the_highest_and_one_is_more_than_none() {
        let drawn = bars(&[0, 1, 100], "deaths").into_string();
        let heights: Vec<&str> =
            drawn.split("height=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert_eq!(heights, ["1.0", "3.0", "24.0"]);
        assert_eq!(drawn.matches("class=\"zero\"").count(), 1);
    }

    #[test]
    fn a_meter_beyond_its_limit_is_full_and_red() {
        let drawn = meter(30, 20, "wall").into_string();
        assert!(drawn.contains("meter bad") && drawn.contains(r#"width="100.0""#), "{drawn}");
    }
}
