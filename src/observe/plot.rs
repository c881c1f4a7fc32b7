//! Line charts in a terminal, of Braille characters: two columns and four rows of dots each (Unicode, U+2800 to U+28FF).

use super::page::{Chart, Series};

/// Columns for the labels of the vertical axis.
const LABELS: usize = 10;
/// The marks of the series after the first, whose points are few: evaluations.
const MARKS: [char; 3] = ['●', '◆', '▲'];
/// The bit of each dot of a character, by column and row.
const DOTS: [[u32; 4]; 2] = [[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]];

/// Returns a chart of `height` lines of at most `width` columns, between a title and the range of steps; `None` without
/// points. The first series is a line, the others are marked points.
pub fn plot(chart: &Chart, width: usize, height: usize) -> Option<String> {
    let columns = width.saturating_sub(LABELS + 2).max(2);
    let all = || chart.series.iter().flat_map(|series| &series.points);
    let range = |of: fn(&(f64, f64)) -> f64| {
        let ends = |f: fn(f64, f64) -> f64| all().map(of).reduce(f);
        Some((ends(f64::min)?, ends(f64::max)?))
    };
    let (x, y) = (range(|point| point.0)?, range(|point| point.1)?);
    let place = |value: f64, (low, high): (f64, f64), most: usize| {
        let part = if high > low { (value - low) / (high - low) } else { 0.5 };
        (part * (most - 1) as f64).round() as usize
    };
    let mut cells = vec![vec![' '; columns]; height];
    for (index, series) in chart.series.iter().enumerate() {
        match index.checked_sub(1) {
            None => line(&mut cells, series, |point| {
                (place(point.0, x, 2 * columns), 4 * height - 1 - place(point.1, y, 4 * height))
            }),
            Some(mark) => {
                for point in &series.points {
                    let row = height - 1 - place(point.1, y, height);
                    cells[row][place(point.0, x, columns)] = MARKS[mark % MARKS.len()];
                }
            }
        }
    }
    let legend = |(index, series): (usize, &Series)| match index.checked_sub(1) {
        None => series.name.clone(),
        Some(mark) => format!("{} {}", MARKS[mark % MARKS.len()], series.name),
    };
    let names: Vec<String> = chart.series.iter().enumerate().map(legend).collect();
    let names = if chart.series.len() > 1 { format!(" ({})", names.join(", ")) } else { String::new() };
    let mut text = format!("{}{names}\n", chart.title);
    for (row, line) in cells.iter().enumerate() {
        let label = match row {
            0 => number(y.1),
            row if row + 1 == height => number(y.0),
            _ => String::new(),
        };
        let line: String = line.iter().collect();
        text += &format!("{label:>LABELS$} ┤{}\n", line.trim_end());
    }
    let (first, last) = (number(x.0), number(x.1));
    let gap = columns.saturating_sub(first.chars().count());
    Some(text + &format!("{:LABELS$}  {first}{last:>gap$}\n", ""))
}

/// Draws a line through the points of a series; `place` returns the dot of a point.
fn line(cells: &mut [Vec<char>], series: &Series, place: impl Fn(&(f64, f64)) -> (usize, usize)) {
    let mut dot = |(x, y): (usize, usize)| {
        let cell = &mut cells[y / 4][x / 2];
        let bits = (*cell as u32).checked_sub(0x2800).filter(|bits| *bits < 0x100).unwrap_or(0);
        *cell = char::from_u32(0x2800 + (bits | DOTS[x % 2][y % 4])).unwrap_or(' ');
    };
    let mut before: Option<(usize, usize)> = None;
    for at in series.points.iter().map(place) {
        let from = before.replace(at).unwrap_or(at);
        let steps = at.0.abs_diff(from.0).max(at.1.abs_diff(from.1)).max(1);
        let between = |a: usize, b: usize, step: usize| {
            (a as f64 + (b as f64 - a as f64) * step as f64 / steps as f64).round() as usize
        };
        (0..=steps).for_each(|step| dot((between(from.0, at.0, step), between(from.1, at.1, step))));
    }
}

/// Formats a number in at most ten characters.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if !(1e-3..1e6).contains(&size) => format!("{value:.2e}"),
        size if size >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &str, points: &[(f64, f64)]) -> Series {
        Series { name: name.into(), points: points.to_vec() }
    }

    #[test]
    fn a_line_and_marks() {
        let falling: Vec<(f64, f64)> = (0..=7).map(|i| (f64::from(i), f64::from(7 - i))).collect();
        let chart =
            Chart { title: "Loss".into(), series: vec![series("loss", &falling), series("eval_loss", &[(7.0, 7.0)])] };
        let text = plot(&chart, LABELS + 2 + 4, 2).unwrap();
        assert_eq!(text, "Loss (loss, ● eval_loss)\n         7 ┤⠑⢄ ●\n         0 ┤  ⠑⢄\n            0  7\n");
    }

    #[test]
    fn one_value_and_none() {
        let chart = |points: &[(f64, f64)]| Chart { title: "t".into(), series: vec![series("a", points)] };
        assert_eq!(plot(&chart(&[]), 40, 4), None);
        let text = plot(&chart(&[(3.0, 0.5)]), 40, 3).unwrap();
        assert!(text.starts_with("t\n    0.5000 ┤\n") && text.lines().count() == 5, "{text}");
        assert_eq!(
            [0.0, 12345678.0, 0.00012, 1234.6, -2.0, 0.5].map(number).join(" "),
            "0 1.23e7 1.20e-4 1235 -2 0.5000"
        );
    }
}
