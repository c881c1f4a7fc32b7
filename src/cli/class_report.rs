//! The metrics of each class, as tables and as JSON: `trainer evaluate --report`.

use crate::metrics::{ClassReport, Scores};
use crate::observe::table::{table, words};
use serde_json::{Map, Value, json};

/// Up to this many classes, the confusion matrix is a table of all classes.
const MATRIX: usize = 12;
/// Number of confusions that are listed instead.
const ERRORS: usize = 20;

/// Returns the tables of a report.
pub fn tables(report: &ClassReport) -> String {
    let row = |name: &str, scores: Scores, support: String| -> Vec<String> {
        let numbers = scores.map(|score| format!("{score:.4}"));
        [name.to_owned()].into_iter().chain(numbers).chain([support]).collect()
    };
    let mut rows: Vec<Vec<String>> =
        report.scores().map(|(name, scores, support)| row(name, scores, support.to_string())).collect();
    for (name, scores) in averages(report) {
        rows.push(row(name, scores, String::new()));
    }
    let mut text = table(&["class", "precision", "recall", "f1", report.unit], &rows);
    if let Some(confusion) = confusion(report) {
        text.push('\n');
        text.push_str(&confusion);
    }
    text
}

/// The averages over all classes, with scikit-learn's names.
fn averages(report: &ClassReport) -> [(&'static str, Scores); 3] {
    [("micro avg", report.micro()), ("macro avg", report.macro_average()), ("weighted avg", report.weighted_average())]
}

fn confusion(report: &ClassReport) -> Option<String> {
    let (names, confusion) = report.confusion.as_ref()?;
    if names.len() > MATRIX {
        let errors = report.errors(ERRORS).into_iter();
        let rows: Vec<Vec<String>> =
            errors.map(|(label, found, n)| vec![label.to_owned(), found.to_owned(), n.to_string()]).collect();
        return Some(words(&["true class", "predicted", "most frequent confusions"], &rows));
    }
    let head: Vec<&str> = ["true \\ predicted"].into_iter().chain(names.iter().map(String::as_str)).collect();
    let cells = confusion.counts().chunks_exact(names.len().max(1));
    let rows: Vec<Vec<String>> = names
        .iter()
        .zip(cells)
        .map(|(name, row)| [name.clone()].into_iter().chain(row.iter().map(u64::to_string)).collect())
        .collect();
    Some(table(&head, &rows))
}

/// Returns the report as JSON: `classes`, the averages, and `confusion_matrix` with its `labels` and `counts`, a row for
/// each true class.
pub fn json(report: &ClassReport) -> Value {
    let object = |[precision, recall, f1]: Scores| json!({"precision": precision, "recall": recall, "f1": f1});
    let class = |(name, scores, support): (&str, Scores, u64)| {
        let mut entry = object(scores);
        entry["support"] = support.into();
        (name.to_owned(), entry)
    };
    let mut all = json!({"classes": report.scores().map(class).collect::<Map<_, _>>()});
    for (name, scores) in averages(report) {
        all[name.replace(' ', "_")] = object(scores);
    }
    if let Some((names, confusion)) = &report.confusion {
        let counts: Vec<&[u64]> = confusion.counts().chunks_exact(names.len().max(1)).collect();
        all["confusion_matrix"] = json!({"labels": names, "counts": counts});
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Confusion;

    fn report(classes: usize, pairs: &[(usize, usize)]) -> ClassReport {
        let names = (0..classes).map(|c| format!("c{c}")).collect();
        ClassReport::of_confusion("examples", names, Confusion::from_pairs(classes, pairs.iter().copied()))
    }

    #[test]
    fn a_small_matrix_is_shown_in_full() {
        let report = report(2, &[(0, 0), (0, 1), (1, 1)]);
        let text = tables(&report);
        let rows: Vec<Vec<&str>> =
            text.lines().map(|line| line.trim_matches('│').split_whitespace().collect()).collect();
        for expected in [
            &["class", "precision", "recall", "f1", "examples"][..],
            &["c0", "1.0000", "0.5000", "0.6667", "2"],
            &["c1", "0.5000", "1.0000", "0.6667", "1"],
            &["micro", "avg", "0.6667", "0.6667", "0.6667"],
            &["weighted", "avg", "0.8333", "0.6667", "0.6667"],
            &["true", "\\", "predicted", "c0", "c1"],
            &["c0", "1", "1"],
            &["c1", "0", "1"],
        ] {
            assert!(rows.iter().any(|row| row == expected), "{expected:?}: {text}");
        }
        let json = json(&report);
        assert_eq!(json["classes"]["c1"]["support"], 1);
        assert_eq!(json["confusion_matrix"], json!({"labels": ["c0", "c1"], "counts": [[1, 1], [0, 1]]}));
        assert_eq!(json["macro_avg"]["precision"], 0.75);
    }

    #[test]
    fn of_many_classes_the_confusions_are_listed() {
        let text = tables(&report(30, &[(3, 7), (3, 7), (7, 3), (1, 1)]));
        let rows: Vec<Vec<&str>> =
            text.lines().map(|line| line.trim_matches('│').split_whitespace().collect()).collect();
        let first = rows.iter().position(|row| *row == ["c3", "c7", "2"]).expect("the most frequent");
        assert_eq!(rows[first + 1], ["c7", "c3", "1"]);
    }
}
