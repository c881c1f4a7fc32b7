//! Examples of the latest evaluation.

use crate::observe::page::{Cell, Page};
use crate::tasks::example_table::{TEXT, beginning};
use crate::tasks::{ExampleRow, ExampleTable};

/// Characters of a label or a prediction that are shown.
const ANSWER: usize = 500;

/// Adds the table of an evaluation's examples to a page, without columns that no row fills.
pub fn add(page: &mut Page, step: u64, table: &ExampleTable) {
    if table.rows.is_empty() {
        return;
    }
    page.heading(&format!("{} at step {step}", table.title));
    let filled = |of: fn(&ExampleRow) -> &str| table.rows.iter().any(|row| !of(row).is_empty());
    let (answers, texts) = (filled(|row| &row.label) || filled(|row| &row.predicted), filled(|row| &row.text));
    let row = |row: &ExampleRow| {
        let ExampleRow { example, label, predicted, numbers, text } = row;
        let mut cells = vec![Cell::number(example + 1)];
        if answers {
            cells.extend([label, predicted].map(|answer| Cell::Text(beginning(answer, ANSWER))));
        }
        cells.extend(numbers.iter().map(|number| match number.fract() {
            0.0 => Cell::number(number),
            _ => Cell::number(format_args!("{number:.4}")),
        }));
        cells.extend(texts.then(|| Cell::Text(beginning(text, TEXT))));
        cells
    };
    let mut head = vec!["example"];
    head.extend(["label", "predicted"].iter().filter(|_| answers));
    head.extend(table.columns);
    head.extend(texts.then_some("text"));
    page.table(&head, &table.rows.iter().map(row).collect::<Vec<_>>());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn html(rows: Vec<ExampleRow>) -> String {
        let mut page = Page::new("test");
        add(&mut page, 7, &ExampleTable { title: "Worst errors", columns: &["words", "loss"], rows });
        page.html()
    }

    #[test]
    fn long_texts_are_shortened_and_escaped() {
        let (label, predicted, text) = ("<".repeat(ANSWER), "b".repeat(ANSWER + 1), "c".repeat(TEXT + 1));
        let html = html(vec![ExampleRow { example: 4, label, predicted, numbers: vec![2.0, 0.25], text }; 30]);
        let heads = ["example", "label", "predicted", "words", "loss", "text"].map(|name| format!("<th>{name}</th>"));
        assert!(html.contains("<h2>Worst errors at step 7</h2>") && html.contains(&heads.concat()), "{html}");
        let cells = format!("<td class=\"n\">5</td><td>{}</td>", "&lt;".repeat(ANSWER));
        let numbers = "<td class=\"n\">2</td><td class=\"n\">0.2500</td>";
        assert!(html.contains(&cells) && html.contains(numbers) && html.contains("cc ...</td>"), "{html}");
        assert!(html.contains("bb ...</td>") && !html.contains(&"c".repeat(TEXT + 1)));
    }

    #[test]
    fn without_texts_there_are_numbers() {
        let html = html(vec![ExampleRow { example: 0, numbers: vec![3.0, 1.5], ..ExampleRow::default() }]);
        let heads = ["example", "words", "loss"].map(|name| format!("<th>{name}</th>")).concat();
        assert!(html.contains(&format!("<tr>{heads}</tr>")), "{html}");
    }
}
