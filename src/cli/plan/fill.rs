//! Text in lines of 80 columns, and numbers with units.

use crate::observe::memory::human;

/// Maximum number of columns.
const WIDTH: usize = 80;
/// Width of a label.
const INDENT: usize = 10;

/// Returns a label followed by text.
pub fn labelled(label: &str, text: &str) -> String {
    fill(&format!("{label:INDENT$}"), text)
}

/// Returns text indented by the width of a label.
pub fn below(text: &str) -> String {
    labelled("", text)
}

/// Wraps a text into lines of at most 80 columns, behind `beginning`; a longer word, such as a path, is not broken.
pub fn fill(beginning: &str, text: &str) -> String {
    let indent = beginning.chars().count();
    let (mut lines, mut line, mut width) = (String::new(), beginning.to_owned(), indent);
    for word in words(text) {
        let length = word.chars().count();
        if width > indent && width + 1 + length > WIDTH {
            lines += line.trim_end();
            lines.push('\n');
            (line, width) = (" ".repeat(indent), indent);
        }
        if width > indent {
            line.push(' ');
            width += 1;
        }
        line += &word;
        width += length;
    }
    lines + line.trim_end() + "\n"
}

/// Splits a text into words; a number and its unit stay together.
fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        let is_unit = ["B", "kB", "MB", "GB", "TB"].contains(&word.trim_end_matches(['.', ',', ';', ':']));
        match words.last_mut().filter(|_| is_unit) {
            Some(number) => *number += &format!(" {word}"),
            None => words.push(word.to_owned()),
        }
    }
    words
}

/// Formats a number of bytes: `61.0 GB`.
pub fn size(bytes: f64) -> String {
    human(bytes.round() as u64)
}

/// Formats bytes and their limit: `61.0 of 77.0 GB`.
pub fn of_limit(bytes: f64, limit: f64) -> String {
    let (bytes, limit) = (size(bytes), size(limit));
    match (bytes.split_once(' '), limit.split_once(' ')) {
        (Some((number, unit)), Some((_, same))) if unit == same => format!("{number} of {limit}"),
        _ => format!("{bytes} of {limit}"),
    }
}

/// Formats an integer with commas.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Formats a short time: `12.3 ms`.
pub fn seconds(s: f64) -> String {
    match s {
        s if s < 1e-3 => format!("{:.0} us", s * 1e6),
        s if s < 1.0 => format!("{:.1} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}

/// Formats a long time: `2 h 5 min`.
pub fn duration(s: f64) -> String {
    let whole = s.max(0.0).round() as u64;
    match whole {
        0 => "less than a second".into(),
        1..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", count(whole / 3600), whole / 60 % 60),
    }
}

/// Formats a number of ranks: `one rank`, `4 ranks`.
pub fn ranks(n: usize) -> String {
    if n == 1 { "one rank".into() } else { format!("{n} ranks") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_between_words() {
        let long = "/a".repeat(50);
        let text = fill("disk      ", &format!("{} {long} end", "word ".repeat(20)));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!((lines[0], lines[0].chars().count()), (format!("disk     {}", " word".repeat(14)).as_str(), 79));
        assert_eq!(lines[1], format!("         {}", " word".repeat(6)));
        assert_eq!(lines[2..], [format!("          {long}"), "          end".into()]);
        assert_eq!(below(""), "\n");
        let number = fill("", &format!("{} 12.3 GB.", "x".repeat(74)));
        assert_eq!(number.lines().last(), Some("12.3 GB."));
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(of_limit(61.04e9, 80e9), "61.0 of 80.0 GB");
        assert_eq!(of_limit(999e6, 2e9), "999.0 MB of 2.0 GB");
        assert_eq!((count(1_234_567), count(12)), ("1,234,567".into(), "12".into()));
        let times = [0.2, 54.6, 61.0, 7_320.0].map(duration);
        assert_eq!(times, ["less than a second", "55 s", "1 min 1 s", "2 h 2 min"]);
    }
}
