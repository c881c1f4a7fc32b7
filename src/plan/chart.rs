//! Plots the scaling table.

use crate::error::{Error, Result};
use crate::plan::scaling::Row;
use plotters::prelude::*;
use std::fmt::Display;
use std::path::Path;

/// Plots tokens per second over ranks on logarithmic axes, with the line of linear scaling, to an SVG file.
pub fn draw(path: &Path, title: &str, rows: &[Row]) -> Result<()> {
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Ok(()) };
    let failed = |e: &dyn Display| Error::input(format!("{}: {e}", path.display()));
    let perfect = |row: &Row| (row.ranks as f64, first.per_rank() * row.ranks as f64);
    let lowest = rows.iter().map(|row| row.tokens_per_second).fold(f64::INFINITY, f64::min) / 2.0;
    let highest = perfect(last).1.max(lowest * 4.0) * 2.0;
    let root = SVGBackend::new(path, (800, 560)).into_drawing_area();
    root.fill(&WHITE).map_err(|e| failed(&e))?;
    let ranks = (first.ranks as f64..(last.ranks as f64 * 1.2).max(2.0)).log_scale().base(2.0);
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 18))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(80)
        .build_cartesian_2d(ranks, (lowest..highest).log_scale())
        .map_err(|e| failed(&e))?;
    chart
        .configure_mesh()
        .x_desc("ranks")
        .y_desc("tokens per second")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.0}"))
        .draw()
        .map_err(|e| failed(&e))?;
    let grey = RGBColor(150, 150, 150);
    chart
        .draw_series(LineSeries::new(rows.iter().map(perfect), &grey))
        .map_err(|e| failed(&e))?
        .label("linear scaling")
        .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], grey));
    let planned = |row: &Row| (row.ranks as f64, row.tokens_per_second);
    chart
        .draw_series(LineSeries::new(rows.iter().map(planned), &BLUE).point_size(3))
        .map_err(|e| failed(&e))?
        .label("planned")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 20, y)], BLUE));
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .border_style(grey)
        .draw()
        .map_err(|e| failed(&e))?;
    root.present().map_err(|e| failed(&e))
}
