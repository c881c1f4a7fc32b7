//! Line charts as SVG.

use super::escape;
use std::fmt::Write;

/// Most points of a series that are drawn.
const MOST_POINTS: usize = 600;
/// Points that the series of a page divide among them: each is about 50 bytes, and a page is to stay below 2 MB.
const ALL_POINTS: usize = 18_000;
/// Points that a series has at least, even if the page becomes larger: a comparison of many runs.
const LEAST_POINTS: usize = 40;
/// Up to so many points of a series, each is marked, unless the page has many series.
const MARKED: usize = 60;
/// Marks that the series of a page divide among them.
const ALL_MARKED: usize = 3_600;
/// About the width of a digit of a label.
const DIGIT: f64 = 7.0;
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

/// How much of each series a page shows.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Share {
    points: usize,
    /// Up to so many points, each is marked.
    marked: usize,
}

impl Share {
    /// Divides a page's points equally over the series that have more than their share.
    fn of(charts: &[Chart]) -> Self {
        let series = charts.iter().flat_map(|chart| &chart.series);
        let mut lengths: Vec<usize> = series.map(|series| series.points.len().min(MOST_POINTS)).collect();
        lengths.sort_unstable();
        let (count, mut left, mut points) = (lengths.len(), ALL_POINTS, MOST_POINTS);
        for (index, length) in lengths.into_iter().enumerate() {
            let equal = left / (count - index);
            if length > equal {
                points = equal.max(LEAST_POINTS);
                break;
            }
            left -= length;
        }
        Share { points, marked: MARKED.min(ALL_MARKED / count.max(1)) }
    }
}

impl Chart {
    /// Returns the charts of a page, those that have points.
    pub(super) fn all(charts: &[Chart]) -> Vec<String> {
        let share = Share::of(charts);
        charts.iter().filter_map(|chart| chart.html(share)).collect()
    }

    /// Returns the chart; `None` without points. The element of each series has the points that are drawn in
    /// `data-points`, as JSON, with all digits.
    fn html(&self, share: Share) -> Option<String> {
        let shown: Vec<(&str, Vec<(f64, f64)>)> =
            self.series.iter().map(|series| (series.name.as_str(), thinned(&series.points, share.points))).collect();
        let points = || shown.iter().flat_map(|(_, points)| points.iter().copied());
        points().next()?;
        let (x, y) = (Axis::of_steps(points().map(|point| point.0)), Axis::of_values(points().map(|point| point.1)));
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
            // A centered label at the right edge would be clipped.
            let is_clipped = at + label.len() as f64 * DIGIT / 2.0 > WIDTH;
            let (class, at) = if is_clipped { ("x last", WIDTH) } else { ("x", at) };
            _ = writeln!(svg, "<text class=\"{class}\" x=\"{at:.1}\" y=\"{}\">{label}</text>", BOTTOM + 17.0);
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
            if points.len() <= share.marked {
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

/// Returns the points, or if there are more than `most` the least and the greatest of each interval, so that no peak is
/// lost; and the last.
fn thinned(points: &[(f64, f64)], most: usize) -> Vec<(f64, f64)> {
    if points.len() <= most {
        return points.to_vec();
    }
    let intervals = (most.saturating_sub(1) / 2).max(1);
    let mut kept = Vec::with_capacity(2 * intervals + 1);
    for interval in 0..intervals {
        let bounds = [interval, interval + 1].map(|i| i * points.len() / intervals);
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
    /// Covers the steps, with integers as ticks.
    fn of_steps(steps: impl Iterator<Item = f64> + Clone) -> Self {
        let (low, high) = ends(steps);
        // Around a single step, which is then the only tick.
        let room = if high > low { 0.0 } else { 0.5 };
        let (low, high) = (low - room, high + room);
        Axis { low, high, step: distance(low, high).max(1.0) }
    }

    /// Covers the values, on to the next ticks.
    fn of_values(values: impl Iterator<Item = f64> + Clone) -> Self {
        let (low, high) = ends(values);
        let size = low.abs().max(high.abs());
        // Around a single value, or values that differ by rounding only. Labels could not tell them apart.
        let room = match high - low > size * 1e-9 {
            true => 0.0,
            false if size < 1e-300 => 1.0,
            false => size * 0.1,
        };
        let (low, high) = (low - room, high + room);
        let step = distance(low, high);
        // Ends that are ticks but for rounding stay.
        Axis { low: (low / step + 1e-6).floor() * step, high: (high / step - 1e-6).ceil() * step, step }
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

/// Returns the least and the greatest value.
fn ends(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    (values.clone().fold(f64::INFINITY, f64::min), values.fold(f64::NEG_INFINITY, f64::max))
}

/// Returns a round distance of about five ticks.
fn distance(low: f64, high: f64) -> f64 {
    let rough = (high - low) / 5.0;
    let power = 10_f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|digit| digit * power).into_iter().find(|step| *step >= rough).unwrap_or(rough)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(title: &str, points: Vec<(f64, f64)>) -> Chart {
        Chart { title: title.into(), series: vec![Series { name: title.into(), points }] }
    }

    fn html(chart: &Chart) -> Option<String> {
        chart.html(Share::of(std::slice::from_ref(chart)))
    }

    #[test]
    fn few_points_are_drawn_as_they_are() {
        let drawn = html(&chart("loss", vec![(2.0, 1.5), (4.0, 0.1 + 0.2)])).unwrap();
        assert!(drawn.contains("data-points=\"[[2,1.5],[4,0.30000000000000004]]\""), "{drawn}");
        assert_eq!(drawn.matches("<circle").count(), 2);
        assert_eq!(html(&Chart { title: String::new(), series: Vec::new() }), None);
    }

    #[test]
    fn of_many_points_the_peaks_remain() {
        let mut points: Vec<(f64, f64)> = (0..100_000).map(|i| (f64::from(i), f64::from(i % 7))).collect();
        points[54_321].1 = 1000.0;
        points[12_345].1 = -1000.0;
        let thin = thinned(&points, MOST_POINTS);
        assert!((MOST_POINTS - 10..=MOST_POINTS).contains(&thin.len()), "{}", thin.len());
        assert!(thin.contains(&(54_321.0, 1000.0)) && thin.contains(&(12_345.0, -1000.0)));
        assert!(thin.is_sorted_by(|a, b| a.0 < b.0));
        assert_eq!((thin[0].0, thin.last()), (0.0, points.last()));
    }

    #[test]
    fn the_points_of_a_page_are_divided_over_the_series() {
        let of = |count: usize, length: u32| {
            let points: Vec<(f64, f64)> = (0..length).map(|i| (f64::from(i), 0.0)).collect();
            vec![chart("a", points); count]
        };
        assert_eq!(Share::of(&[]), Share { points: MOST_POINTS, marked: MARKED });
        assert_eq!(Share::of(&of(30, 5000)), Share { points: 600, marked: 60 });
        assert_eq!(Share::of(&of(100, 5000)), Share { points: 180, marked: 36 });
        // What short series leave is for the long ones.
        assert_eq!(Share::of(&[of(60, 100), of(40, 5000)].concat()).points, 300);
        assert_eq!(Share::of(&of(10_000, 100)), Share { points: LEAST_POINTS, marked: 0 });
    }

    #[test]
    fn the_last_label_of_the_steps_is_not_clipped() {
        let drawn = html(&chart("loss", vec![(0.0, 1.0), (100_000.0, 2.0)])).unwrap();
        assert!(drawn.contains("<text class=\"x last\" x=\"540.0\" y=\"241\">100000</text>"), "{drawn}");
        assert!(drawn.contains("\">80000</text>") && drawn.matches("x last").count() == 1, "{drawn}");
        let drawn = html(&chart("loss", vec![(0.0, 1.0), (10.0, 2.0)])).unwrap();
        assert!(drawn.contains("<text class=\"x\" x=\"526.0\" y=\"241\">10</text>"), "{drawn}");
    }

    #[test]
    fn axes_have_round_numbers() {
        let labels = |axis: Axis| axis.ticks().map(|tick| axis.label(tick)).collect::<Vec<_>>();
        let values = |values: &[f64]| labels(Axis::of_values(values.iter().copied()));
        let steps = |steps: &[f64]| labels(Axis::of_steps(steps.iter().copied()));
        assert_eq!(values(&[0.13, 1.04]), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0", "1.2"]);
        assert_eq!(values(&[0.0, 5e-5]), ["0", "1e-5", "2e-5", "3e-5", "4e-5", "5e-5"]);
        assert_eq!(values(&[0.0, 100_000.0]), ["0", "20000", "40000", "60000", "80000", "100000"]);
        assert_eq!(values(&[0.0, 0.0]), ["-1.0", "-0.5", "0.0", "0.5", "1.0"]);
        assert_eq!(values(&[1.0, 1.0 + f64::EPSILON]), ["0.90", "0.95", "1.00", "1.05", "1.10"]);
        assert_eq!(steps(&[1.0, 24.0]), ["5", "10", "15", "20"]);
        assert_eq!(steps(&[1.0, 3.0]), ["1", "2", "3"]);
        assert_eq!(steps(&[7.0]), ["7"]);
        for constant in [0.0, 1.0, -3.0, 2e9, 1e-310] {
            let axis = Axis::of_values([constant].into_iter());
            assert!(axis.low < axis.high && axis.place(constant, 0.0, 1.0).is_finite(), "{axis:?}");
        }
    }
}
