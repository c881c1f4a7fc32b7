//! Line charts as SVG.

use super::escape;
use std::fmt::Write;

/// Most points of a series times half: of each of so many intervals, the least and the greatest value are drawn.
const INTERVALS: usize = 300;
/// Up to so many points, each is marked.
const MARKED: usize = 60;
/// Colors in the style sheet.
const COLORS: usize = 8;

const WIDTH: f64 = 540.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = WIDTH - 14.0;
const TOP: f64 = 28.0;
const BOTTOM: f64 = HEIGHT - 26.0;

/// A named line: finite points by ascending x.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// Series over the same steps.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    pub title: String,
    pub series: Vec<Series>,
}

impl Chart {
    /// Returns the chart; `None` without points. The element of each series has the points that are drawn in
    /// `data-points`, as JSON, with all digits.
    pub(super) fn html(&self) -> Option<String> {
        let shown: Vec<(&str, Vec<(f64, f64)>)> =
            self.series.iter().map(|series| (series.name.as_str(), thinned(&series.points))).collect();
        let points = || shown.iter().flat_map(|(_, points)| points.iter().copied());
        points().next()?;
        let (x, y) = (Axis::of(points().map(|point| point.0), false), Axis::of(points().map(|point| point.1), true));
        let title = escape(&self.title);
        let (from, to) = (x.low, x.high);
        let mut svg = format!(
            "<figure><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\" data-left=\"{LEFT}\" \
             data-right=\"{RIGHT}\" data-from=\"{from}\" data-to=\"{to}\">\n\
             <text class=\"title\" x=\"{LEFT}\" y=\"16\">{title}</text>\n"
        );
        // Writing to a string cannot fail.
        for tick in y.ticks() {
            let at = y.place(tick, BOTTOM, TOP);
            _ = write!(svg, "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>");
            let (x, y, label) = (LEFT - 6.0, at + 4.0, y.label(tick));
            _ = writeln!(svg, "<text class=\"y\" x=\"{x}\" y=\"{y:.1}\">{label}</text>");
        }
        for tick in x.ticks() {
            let (at, label) = (x.place(tick, LEFT, RIGHT), x.label(tick));
            _ = writeln!(svg, "<text class=\"x\" x=\"{at:.1}\" y=\"{}\">{label}</text>", BOTTOM + 17.0);
        }
        _ = writeln!(
            svg,
            "<line class=\"at\" x1=\"0\" x2=\"0\" y1=\"{TOP}\" y2=\"{BOTTOM}\" visibility=\"hidden\" \
             stroke-width=\"0.7\"/>"
        );
        let mut legend = String::new();
        for (index, (name, points)) in shown.iter().enumerate() {
            let (name, color) = (escape(name), index % COLORS);
            let place = |&(a, b): &(f64, f64)| (x.place(a, LEFT, RIGHT), y.place(b, BOTTOM, TOP));
            let line: Vec<String> = points.iter().map(place).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let data: Vec<String> = points.iter().map(|(x, y)| format!("[{x},{y}]")).collect();
            _ = writeln!(
                svg,
                "<polyline class=\"series\" stroke=\"var(--s{color})\" points=\"{}\" data-index=\"{index}\" \
                 data-name=\"{name}\" data-points=\"[{}]\"/>",
                line.join(" "),
                data.join(",")
            );
            if points.len() <= MARKED {
                for (x, y) in points.iter().map(place) {
                    _ = write!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.2\" fill=\"var(--s{color})\"/>");
                }
                svg.push('\n');
            }
            let style = format!("style=\"background:var(--s{color})\"");
            _ = write!(legend, "<span><i {style}></i>{name}<b data-of=\"{index}\"></b></span>");
        }
        _ = writeln!(svg, "</svg><figcaption>{legend}</figcaption></figure>");
        Some(svg)
    }
}

/// Returns the points, or of many the least and the greatest of each interval, so that no peak is lost; and the last.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= 2 * INTERVALS {
        return points.to_vec();
    }
    let mut kept = Vec::with_capacity(2 * INTERVALS + 1);
    for interval in 0..INTERVALS {
        let bounds = [interval, interval + 1].map(|i| i * points.len() / INTERVALS);
        let own = points[bounds[0]..bounds[1]].iter().enumerate();
        let least = own.clone().min_by(|a, b| a.1.1.total_cmp(&b.1.1));
        let greatest = own.max_by(|a, b| a.1.1.total_cmp(&b.1.1));
        let mut two: Vec<(usize, &(f64, f64))> = least.into_iter().chain(greatest).collect();
        two.sort_by_key(|(i, _)| *i);
        two.dedup_by_key(|(i, _)| *i);
        kept.extend(two.into_iter().map(|(_, point)| *point));
    }
    kept.extend(points.last().filter(|last| kept.last() != Some(last)).copied());
    kept
}

/// A range of values, and the distance of its ticks.
#[derive(Debug, PartialEq)]
struct Axis {
    low: f64,
    high: f64,
    step: f64,
}

impl Axis {
    /// Covers the values, and if `rounded` goes on to the next ticks.
    fn of(values: impl Iterator<Item = f64> + Clone, rounded: bool) -> Self {
        let (low, high) = (values.clone().fold(f64::INFINITY, f64::min), values.fold(f64::NEG_INFINITY, f64::max));
        // Around a single value.
        let room = if high > low { 0.0 } else { (low.abs() * 0.1).max(f64::MIN_POSITIVE * 1e10) };
        let (low, high) = (low - room, high + room);
        let rough = (high - low) / 5.0;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|digit| digit * power).into_iter().find(|step| *step >= rough);
        let step = step.unwrap_or(rough);
        match rounded {
            true => Axis { low: (low / step).floor() * step, high: (high / step).ceil() * step, step },
            false => Axis { low, high, step },
        }
    }

    fn place(&self, value: f64, start: f64, end: f64) -> f64 {
        start + (value - self.low) / (self.high - self.low) * (end - start)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let (first, step, high) = ((self.low / self.step - 1e-6).ceil(), self.step, self.high);
        (0..12).map(move |i| (first + f64::from(i)) * step).take_while(move |tick| *tick <= high + step * 1e-6)
    }

    /// Returns a tick with as many digits as distinguish it from the next.
    fn label(&self, tick: f64) -> String {
        let largest = self.low.abs().max(self.high.abs());
        if !(1e-3..1e6).contains(&largest) {
            let digits = (largest.log10().floor() - self.step.log10().floor()).clamp(0.0, 6.0) as usize;
            return if tick == 0.0 { "0".into() } else { format!("{tick:.digits$e}") };
        }
        let digits = (-(self.step * 1.000_001).log10().floor()).clamp(0.0, 8.0) as usize;
        format!("{tick:.digits$}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_points_are_drawn_as_they_are() {
        let points = vec![(2.0, 1.5), (4.0, 0.1 + 0.2)];
        let chart = Chart { title: "Loss".into(), series: vec![Series { name: "loss".into(), points }] };
        let html = chart.html().unwrap();
        assert!(html.contains("data-points=\"[[2,1.5],[4,0.30000000000000004]]\""), "{html}");
        assert_eq!(html.matches("<circle").count(), 2);
        assert_eq!(Chart { title: String::new(), series: Vec::new() }.html(), None);
    }

    #[test]
    fn of_many_points_the_peaks_remain() {
        let mut points: Vec<(f64, f64)> = (0..100_000).map(|i| (f64::from(i), f64::from(i % 7))).collect();
        points[54_321].1 = 1000.0;
        points[12_345].1 = -1000.0;
        let thin = thinned(&points);
        assert!(thin.len() <= 2 * INTERVALS + 1, "{}", thin.len());
        assert!(thin.contains(&(54_321.0, 1000.0)) && thin.contains(&(12_345.0, -1000.0)));
        assert!(thin.is_sorted_by(|a, b| a.0 < b.0));
        assert_eq!((thin[0].0, thin.last()), (0.0, points.last()));
    }

    #[test]
    fn axes_have_round_numbers() {
        let labels = |values: &[f64], rounded| {
            let axis = Axis::of(values.iter().copied(), rounded);
            axis.ticks().map(|tick| axis.label(tick)).collect::<Vec<_>>()
        };
        assert_eq!(labels(&[0.13, 1.04], true), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0", "1.2"]);
        assert_eq!(labels(&[1.0, 24.0], false), ["5", "10", "15", "20"]);
        assert_eq!(labels(&[0.0, 5e-5], true), ["0", "1e-5", "2e-5", "3e-5", "4e-5", "5e-5"]);
        assert_eq!(labels(&[0.0, 100_000.0], true), ["0", "20000", "40000", "60000", "80000", "100000"]);
        for constant in [0.0, 1.0, -3.0, 2e9] {
            let axis = Axis::of([constant].into_iter(), true);
            assert!(axis.low < axis.high && axis.place(constant, 0.0, 1.0).is_finite(), "{axis:?}");
        }
    }
}
