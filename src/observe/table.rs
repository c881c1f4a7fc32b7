//! Tables for a terminal.

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, Table};

/// Formats rows under a header, all columns left-aligned.
pub fn words(head: &[&str], rows: &[Vec<String>]) -> String {
    bordered(head, rows).to_string()
}

/// Formats rows under a header, the first column left-aligned and the others right-aligned.
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
