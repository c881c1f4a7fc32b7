//! What `report.html` shows.

use std::fs;
use std::path::Path;

/// A table of a page: the texts of its cells.
#[derive(Debug)]
pub struct Table {
    pub head: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

/// The table below a heading of a run's report, if there is this heading.
pub fn table(run: &Path, heading: &str) -> Option<Table> {
    let page = fs::read_to_string(run.join("report.html")).unwrap();
    let (_, after) = page.split_once(&format!("<h2>{heading}</h2>"))?;
    let (head, body) = after.split_once("</thead>").unwrap();
    let body = body.split_once("</tbody>").unwrap().0;
    let rows = body.split("<tr>").skip(1).map(|row| cells(row, "td")).collect();
    Some(Table { head: cells(head, "th"), rows })
}

fn cells(row: &str, tag: &str) -> Vec<String> {
    let (start, end) = (format!("<{tag}"), format!("</{tag}>"));
    let cell = |cell: &str| cell.split_once('>').unwrap().1.split_once(&end).unwrap().0.to_owned();
    row.split(&start).skip(1).filter(|cell| cell.contains(&end)).map(cell).collect()
}
