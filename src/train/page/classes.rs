//! The metrics of each class, as `trainer evaluate --report` computes them, and the confusion matrix.

use crate::metrics::{ClassReport, Scores};
use crate::observe::page::{Cell, Page};

/// Up to this many classes, the confusion matrix is shown in full.
const MATRIX: usize = 30;
/// Number of confusions that are listed instead.
const CONFUSIONS: usize = 30;
/// Number of classes whose metrics are shown: those with the most examples.
const CLASSES: usize = 200;

/// Adds the tables of a report to a page.
pub fn add(page: &mut Page, report: &ClassReport) {
    let row = |name: &str, scores: Scores, support: Cell| -> Vec<Cell> {
        let numbers = scores.map(|score| Cell::number(format_args!("{score:.4}")));
        [Cell::text(name)].into_iter().chain(numbers).chain([support]).collect()
    };
    let mut classes: Vec<_> = report.scores().collect();
    let all = classes.len();
    if all > CLASSES {
        classes.sort_by_key(|(.., support)| std::cmp::Reverse(*support));
        classes.truncate(CLASSES);
        page.paragraph(&format!("The {CLASSES} classes with the most {} of {all}:", report.unit));
    }
    let mut rows: Vec<Vec<Cell>> =
        classes.into_iter().map(|(name, scores, support)| row(name, scores, Cell::number(support))).collect();
    rows.push(row("micro avg", report.micro(), Cell::text("")));
    rows.push(row("macro avg", report.macro_average(), Cell::text("")));
    rows.push(row("weighted avg", report.weighted_average(), Cell::text("")));
    let class = if report.unit == "entities" { "entity type" } else { "class" };
    page.table(&[class, "precision", "recall", "f1", report.unit], &rows);
    let Some((names, confusion)) = &report.confusion else { return };
    page.heading("Confusion matrix");
    if names.len() > MATRIX {
        let confusions = report.errors(CONFUSIONS).into_iter();
        let rows: Vec<Vec<Cell>> =
            confusions.map(|(label, found, n)| vec![Cell::text(label), Cell::text(found), Cell::number(n)]).collect();
        page.table(&["true class", "predicted", "most frequent confusions"], &rows);
        return;
    }
    let head: Vec<&str> = ["true \\ predicted"].into_iter().chain(names.iter().map(String::as_str)).collect();
    let cells = names.iter().zip(confusion.counts().chunks_exact(names.len().max(1)));
    let rows: Vec<Vec<Cell>> = cells
        .map(|(name, counts)| {
            let all = counts.iter().sum::<u64>().max(1) as f64;
            let cell = |count: &u64| Cell::Shaded(count.to_string(), *count as f64 / all);
            [Cell::text(name)].into_iter().chain(counts.iter().map(cell)).collect()
        })
        .collect();
    page.table(&head, &rows);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Confusion;

    fn html(classes: usize, pairs: &[(usize, usize)]) -> String {
        let names = (0..classes).map(|c| format!("c{c}")).collect();
        let confusion = Confusion::from_pairs(classes, pairs.iter().copied());
        let mut page = Page::new("test");
        add(&mut page, &ClassReport::of_confusion("examples", names, confusion));
        page.html()
    }

    #[test]
    fn classes_and_their_matrix_are_tables() {
        let html = html(2, &[(0, 0), (0, 1), (1, 1)]);
        let numbers = "<td class=\"n\">1.0000</td><td class=\"n\">0.5000</td><td class=\"n\">0.6667</td>";
        assert!(html.contains(&format!("<td>c0</td>{numbers}<td class=\"n\">2</td>")), "{html}");
        assert!(html.contains("<th>true \\ predicted</th><th>c0</th><th>c1</th>"), "{html}");
        let half = "<td class=\"n s\" style=\"--share:0.500\">1</td>";
        assert!(html.contains(&format!("<td>c0</td>{half}{half}")), "{html}");
    }

    #[test]
    fn of_many_classes_the_confusions_are_listed() {
        let html = html(250, &[(3, 7), (3, 7), (7, 3), (1, 1)]);
        assert!(html.contains("<td>c3</td><td>c7</td><td class=\"n\">2</td>"), "{html}");
        assert!(html.contains("The 200 classes with the most examples of 250:") && !html.contains("<td>c249</td>"));
    }
}
