//! Tables for a terminal.

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, Table};

/// Rows of words under a head, all to the left.
pub fn words(head: &[&str], rows: &[Vec<String>]) -> String {
    bordered(head, rows).to_string()
}

/// Rows under a head, the first column to the left and the others to the right.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = bordered(head, rows);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

fn bordered(head: &[&str], rows: &[Vec<String>]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_header(head);
    for row in rows {
        table.add_row(row);
    }
    table
}
